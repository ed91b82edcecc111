// The registry of fleet policies.
#include "plan/fleet/fleet_int.h"

#include <string.h>

#define ENTRY(name) &plan_fleet_##name,
const struct plan_fleet_policy *const plan_fleet_policies[] = {PLAN_FLEET_POLICIES(ENTRY) NULL};
#undef ENTRY

const struct plan_fleet_policy *plan_fleet_policy_find(const char *name)
{
    for (size_t i = 0; plan_fleet_policies[i]; i++)
        if (strcmp(plan_fleet_policies[i]->name, name) == 0)
            return plan_fleet_policies[i];
    return NULL;
}
