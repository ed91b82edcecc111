// A plan's text, which a worker gets from the controller and a user may write. Any bytes are read or refused; what is
// accepted says the same again, and the questions that a worker asks of a plan have answers.
#include "base/assert.h"
#include "base/mem.h"
#include "plan/plan.h"

#include <stdint.h>
#include <string.h>

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    struct bg_error err = {0};
    struct plan plan, again;
    if (plan_parse((const char *)data, size, &err, &plan)) {
        BG_ASSERT(err.text[0]);
        return 0;
    }
    char *text = plan_format(&plan);
    BG_ASSERT(plan_parse(text, strlen(text), &err, &again) == BG_OK);
    char *twice = plan_format(&again);
    BG_ASSERT(strcmp(text, twice) == 0);
    uint64_t turns = 0;
    BG_ASSERT(plan_simulate_turns(&plan, &err, &turns) == BG_OK);
    for (uint32_t k = 0; k < plan.seat_count; k++)
        BG_ASSERT(plan_flights(&plan, plan.seats[k].worker, plan.seats[k].stage) <= 2 * plan.item_count);
    plan_fini(&plan);
    plan_fini(&again);
    bg_free(text);
    bg_free(twice);
    return 0;
}
