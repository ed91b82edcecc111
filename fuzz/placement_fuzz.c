// A placement from a file of the user. Any bytes are read or refused; what is accepted is a placement, equals its own
// text, and a short search for a schedule ends with one or says why not.
#include "base/assert.h"
#include "base/mem.h"
#include "plan/schedule/tessel.h"

#include <string.h>

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static void schedule_it(const struct plan_placement *placement)
{
    const struct plan_tessel_options options = {.in_flight = 2, .memory = 4, .comm = 1, .effort = 100000};
    struct bg_error err = {0};
    struct plan_tessel tessel;
    struct plan_tessel_run run;
    if (plan_tessel_solve(placement, &options, &err, &tessel)) {
        BG_ASSERT(err.text[0]);
        return;
    }
    BG_ASSERT(plan_tessel_unroll(placement, &tessel, 3, 1, &err, &run) == BG_OK);
    for (uint32_t d = 0; d < placement->devices; d++)
        BG_ASSERT(run.peak_memory[d] <= 4);
    plan_tessel_run_fini(&run);
    plan_tessel_fini(&tessel);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    struct bg_error err = {0};
    struct plan_placement placement, again;
    if (plan_placement_parse((const char *)data, size, &err, &placement)) {
        BG_ASSERT(err.text[0]);
        return 0;
    }
    BG_ASSERT(plan_placement_check(&placement, &err) == BG_OK);
    char *text = plan_placement_format(&placement);
    BG_ASSERT(plan_placement_parse(text, strlen(text), &err, &again) == BG_OK);
    char *twice = plan_placement_format(&again);
    BG_ASSERT(strcmp(text, twice) == 0);
    bg_free(text);
    bg_free(twice);
    plan_placement_fini(&again);
    if (placement.block_count <= 12)
        schedule_it(&placement);
    plan_placement_fini(&placement);
    return 0;
}
