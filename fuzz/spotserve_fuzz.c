// The times of a model for SpotServe, which a user writes. Any bytes are read or refused; what is accepted is solved.
#include "base/assert.h"
#include "plan/service/spotserve.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    struct bg_error err = {0};
    struct plan_spotserve_profile profile;
    struct plan_spotserve_config config;
    if (plan_spotserve_read("profile", data, size, &err, &profile)) {
        BG_ASSERT(err.text[0]);
        return 0;
    }
    const uint32_t batch = plan_spotserve_batch_max(&profile);
    BG_ASSERT(plan_spotserve_solve(&profile, 9, batch, 1, 16, &err, &config) == BG_OK);
    BG_ASSERT(config.replicas * config.stages * config.width <= 9 && config.batch <= batch);
    return 0;
}
