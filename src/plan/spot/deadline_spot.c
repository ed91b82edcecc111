// Spot whenever it is there and nothing else: cheap, and late where spot is scarce.
#include "plan/spot/policy_int.h"

static enum plan_rent decide(const struct plan_snapshot *now)
{
    return spot_if_there(now);
}

const struct plan_policy plan_deadline_spot = {.name = "spot", .about = "spot only; may be late", .decide = decide};
