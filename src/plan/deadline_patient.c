// Patient: ours. Like Uniform Progress it follows the straight line to the deadline; what differs is when it changes
// over. To change costs an overhead, so it does not before things have been as they are now for as long as that: from
// on-demand back to spot once spot has stayed for an overhead, ahead of the line or not, and from nothing to on-demand
// once spot has been gone for an overhead, or once the job is an overhead behind the line. A spell that has lasted less
// may well end before the change has paid; and spells of real machines that have lasted tend to last. There are no
// parameters to fit.
#include "plan/policy_int.h"

// For how long spot has been there, or gone, without a break, as far as the past is known.
static double spell_s(const struct plan_snapshot *now)
{
    uint32_t first = now->tick;
    while (first > 0 && (now->spot[first - 1] >= now->job.instances) == has_spot(now))
        first--;
    return (now->tick - first) * now->job.gap_s;
}

static enum plan_rent decide(const struct plan_snapshot *now)
{
    const struct plan_deadline *job = &now->job;
    const bool on_demand = now->rent == PLAN_RENT_ON_DEMAND, new = spell_s(now) < job->overhead_s;
    const double behind_s = uniform_line(job, now->tick * job->gap_s) - now->done_s;
    enum plan_rent wish = spot_if_there(now);
    if (has_spot(now) ? on_demand && new : on_demand || behind_s > (new ? job->overhead_s : 0))
        wish = PLAN_RENT_ON_DEMAND;
    return policy_safety_net(now, job->work_s, job->deadline_s, wish);
}

const struct plan_policy plan_deadline_patient = {
    .name = "patient",
    .about = "changes over when spot has stayed, or been gone, for an overhead",
    .decide = decide,
    .meets_deadline = true};
