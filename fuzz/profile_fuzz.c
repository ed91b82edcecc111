// A profile's text, which a user writes or gets from another machine. Any bytes are read or refused; what is accepted
// says the same again, and a plan walked with it ends.
#include "base/assert.h"
#include "base/mem.h"
#include "plan/cost/timeline.h"

#include <string.h>

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static void walk(const struct plan_profile *profile)
{
    const uint32_t replicas[3] = {1, 2, 1}, stages = profile->unit_count < 3 ? 1 : 3;
    double costs[16];
    for (uint32_t u = 0; u < profile->unit_count; u++)
        costs[u] = 1;
    const struct plan_options options = {.costs = costs,
                                         .units = profile->unit_count,
                                         .micro_batches = 5,
                                         .group = 1,
                                         .replicas = replicas,
                                         .stages = stages,
                                         .schedule = PLAN_1F1B,
                                         .chunks = 1,
                                         .split = stages > 1};
    struct bg_error err = {0};
    struct plan plan;
    struct plan_timeline t;
    if (plan_build(&options, &err, &plan))
        return;
    if (plan_timeline(&plan, profile, &err, &t) == BG_OK)
        plan_timeline_fini(&t);
    else
        BG_ASSERT(err.text[0]);
    plan_fini(&plan);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    struct bg_error err = {0};
    struct plan_profile profile, again;
    if (plan_profile_parse((const char *)data, size, &err, &profile)) {
        BG_ASSERT(err.text[0]);
        return 0;
    }
    char *text = plan_profile_format(&profile);
    BG_ASSERT(plan_profile_parse(text, strlen(text), &err, &again) == BG_OK);
    char *twice = plan_profile_format(&again);
    BG_ASSERT(strcmp(text, twice) == 0);
    if (profile.unit_count > 0 && profile.unit_count <= 16)
        walk(&profile);
    plan_profile_fini(&profile);
    plan_profile_fini(&again);
    bg_free(text);
    bg_free(twice);
    return 0;
}
