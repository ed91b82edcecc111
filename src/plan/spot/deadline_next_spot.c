// The next-spot oracle, after the one that "Can't Be Late" compares with: Uniform Progress that is told when spot next
// comes or goes, and nothing of what follows. No real machine tells that; it shows what a forecast would be worth.
#include "plan/spot/policy_int.h"

// Whether to give up what is held (or nothing) for a spell of spot: it must pay its overhead, and coming from
// on-demand also the one back.
static bool worth_it(const struct plan_snapshot *now)
{
    const struct plan_deadline *job = &now->job;
    const double spell_s = now->turn * job->gap_s, spot = job->price[PLAN_RENT_SPOT],
                 on_demand = job->price[PLAN_RENT_ON_DEMAND];
    if (now->rent == PLAN_RENT_ON_DEMAND)
        return (on_demand - spot) * spell_s > 2 * on_demand * job->overhead_s;
    return spell_s > job->overhead_s;
}

static enum plan_rent decide(const struct plan_snapshot *now)
{
    const struct plan_deadline *job = &now->job;
    const bool behind = now->done_s < uniform_line(job, now->tick * job->gap_s);
    enum plan_rent wish = PLAN_RENT_NONE;
    if (has_spot(now) && (now->rent == PLAN_RENT_SPOT || worth_it(now)))
        wish = PLAN_RENT_SPOT;
    else if (now->rent == PLAN_RENT_ON_DEMAND)
        wish = PLAN_RENT_ON_DEMAND;
    else if (behind && now->turn * job->gap_s > 2 * job->overhead_s) // else spot is as good as back
        wish = PLAN_RENT_ON_DEMAND;
    return policy_safety_net(now, job->work_s, job->deadline_s, wish);
}

const struct plan_policy plan_deadline_next_spot = {.name = "next-spot",
                                                    .about = "an oracle tells when spot next comes or goes",
                                                    .decide = decide,
                                                    .meets_deadline = true,
                                                    .oracle = true};
