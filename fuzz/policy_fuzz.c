// A logged snapshot of a deadline policy, and a logged decision. Any text is read or refused; what is accepted says the
// same again, and every policy decides on it, the same both times.
#include "base/assert.h"
#include "base/mem.h"
#include "plan/spot/policy.h"

#include <stdint.h>
#include <string.h>

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    struct bg_error err = {0};
    struct plan_snapshot now, again;
    void *spot = NULL, *spot_again = NULL;
    char *given = bg_strndup((const char *)data, size);
    if (plan_decision_replay(given, &err))
        BG_ASSERT(err.text[0]);
    if (plan_snapshot_parse(given, &err, &now, &spot)) {
        BG_ASSERT(err.text[0]);
        bg_free(given);
        return 0;
    }
    char *text = plan_snapshot_format(&now);
    BG_ASSERT(plan_snapshot_parse(text, &err, &again, &spot_again) == BG_OK);
    char *twice = plan_snapshot_format(&again);
    BG_ASSERT(strcmp(text, twice) == 0);
    for (size_t i = 0; plan_policies[i]; i++) {
        const struct plan_choice a = plan_decide(plan_policies[i], &now), b = plan_decide(plan_policies[i], &again);
        BG_ASSERT(a.rent < PLAN_RENTS && a.rent == b.rent && a.zone == b.zone);
        BG_ASSERT(a.zone < now.zone_count || a.rent == PLAN_RENT_NONE || !now.zone_count);
    }
    bg_free(given);
    bg_free(spot);
    bg_free(spot_again);
    bg_free(text);
    bg_free(twice);
    return 0;
}
