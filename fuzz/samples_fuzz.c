// Lengths of samples from a file of the user. Any bytes are read or refused; of what is accepted the runs hold every
// sample once, in order, and none is shorter than its samples.
#include "base/assert.h"
#include "base/mem.h"
#include "plan/schedule/dynapipe.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    const struct plan_dynapipe_options options = {
        .fixed = 1, .token = 1, .pair = 0.001, .round = 8, .stages = 4, .chunks = 1, .replicas = 3};
    struct bg_error err = {0};
    struct plan_sample *samples;
    struct plan_dynapipe plan;
    uint32_t count, at = 0;
    if (plan_samples_parse((const char *)data, size, &err, &samples, &count)) {
        BG_ASSERT(err.text[0]);
        return 0;
    }
    if (count <= 64) {
        BG_ASSERT(plan_dynapipe_solve(samples, count, &options, &err, &plan) == BG_OK);
        for (uint32_t r = 0; r < plan.run_count; r++) {
            BG_ASSERT(plan.runs[r].first == at && plan.runs[r].end > at && plan.runs[r].replica < 3);
            for (; at < plan.runs[r].end; at++)
                BG_ASSERT(samples[plan.order[at]].encoder <= plan.runs[r].encoder &&
                          samples[plan.order[at]].decoder <= plan.runs[r].decoder);
        }
        BG_ASSERT(at == count);
        plan_dynapipe_fini(&plan);
    }
    bg_free(samples);
    return 0;
}
