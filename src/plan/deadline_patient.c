// Patient: ours. Like Uniform Progress it idles while ahead of the straight line to the deadline and rents on-demand
// where it is behind and spot is gone. What differs is the way back: it leaves on-demand as soon as spot has stayed for
// one overhead, ahead of the line or not. To leave costs an overhead, so a spell that has lasted less may well end
// before it has paid; and spells of real machines that have lasted tend to last. Nothing is fitted: it has no
// parameters.
#include "plan/policy_int.h"

// For how long spot has been there without a break, as far as the past is known.
static double spell_s(const struct plan_snapshot *now)
{
    uint32_t first = now->tick;
    while (first > 0 && now->spot[first - 1])
        first--;
    return (now->tick - first) * now->job.gap_s;
}

static enum plan_rent decide(const struct plan_snapshot *now)
{
    const struct plan_deadline *job = &now->job;
    const bool on_demand = now->rent == PLAN_RENT_ON_DEMAND;
    const bool behind = now->done_s < uniform_line(job, now->tick * job->gap_s);
    enum plan_rent wish = spot_if_there(now);
    if (has_spot(now) ? on_demand && spell_s(now) < job->overhead_s : on_demand || behind)
        wish = PLAN_RENT_ON_DEMAND;
    return policy_safety_net(now, job->work_s, job->deadline_s, wish);
}

const struct plan_policy plan_deadline_patient = {.name = "patient",
                                                  .about = "back to spot once it has stayed for an overhead",
                                                  .decide = decide,
                                                  .meets_deadline = true};
