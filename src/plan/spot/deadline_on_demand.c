// On-demand from the start to the end: what a job costs that does not know of spot.
#include "plan/spot/policy_int.h"

static enum plan_rent decide(const struct plan_snapshot *now)
{
    (void)now;
    return PLAN_RENT_ON_DEMAND;
}

const struct plan_policy plan_deadline_on_demand = {
    .name = "on-demand", .about = "on-demand only", .decide = decide, .meets_deadline = true};
