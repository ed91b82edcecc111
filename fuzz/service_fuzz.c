// A logged decision of a service policy: any text is refused, or decided on again; and every policy decides on what it
// holds within the bounds.
#include "base/assert.h"
#include "base/mem.h"
#include "plan/service/service.h"

#include <stdint.h>
#include <string.h>

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

// The same snapshot under the name of another policy.
static void ask_another(const char *given, const struct plan_service_policy *policy)
{
    struct bg_error err = {0};
    const char *decided = strstr(given, " decided ");
    char *line = bg_format("service %s%s", policy->name, decided ? decided : "");
    const bg_status status = plan_service_decision_replay(line, &err);
    BG_ASSERT(status == BG_OK || ((status == BG_FORMAT || status == BG_MISMATCH) && err.text[0]));
    bg_free(line);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    struct bg_error err = {0};
    char *given = bg_strndup((const char *)data, size);
    if (plan_service_decision_replay(given, &err))
        BG_ASSERT(err.text[0]);
    else
        BG_ASSERT(plan_service_decision_is(given));
    for (size_t i = 0; plan_service_policies[i]; i++)
        ask_another(given, plan_service_policies[i]);
    bg_free(given);
    return 0;
}
