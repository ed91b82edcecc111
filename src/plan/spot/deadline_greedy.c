// Greedy ("Can't Be Late", section 4.1): spot whenever it is there, idle without, until only on-demand is safe.
#include "plan/spot/policy_int.h"

static enum plan_rent decide(const struct plan_snapshot *now)
{
    return policy_safety_net(now, now->job.work_s, now->job.deadline_s, spot_if_there(now));
}

const struct plan_policy plan_deadline_greedy = {.name = "greedy",
                                                 .about = "spot when there, on-demand at the last moment",
                                                 .decide = decide,
                                                 .meets_deadline = true};
