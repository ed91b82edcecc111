// Uniform Progress ("Can't Be Late", section 4.3): below the straight line to the deadline, on-demand fills in where
// there is no spot; with hysteresis it is kept, even when spot comes back, until the job is two overheads ahead.
#include "plan/spot/policy_int.h"

static enum plan_rent decide(const struct plan_snapshot *now)
{
    const struct plan_deadline *job = &now->job;
    const double elapsed_s = now->tick * job->gap_s;
    enum plan_rent wish = spot_if_there(now);
    if (now->done_s - uniform_line(job, elapsed_s) < 0 && !has_spot(now))
        wish = PLAN_RENT_ON_DEMAND;
    if (now->rent == PLAN_RENT_ON_DEMAND &&
        (!has_spot(now) || uniform_line(job, elapsed_s + 2 * job->overhead_s) - now->done_s >= 0))
        wish = PLAN_RENT_ON_DEMAND;
    return policy_safety_net(now, job->work_s, job->deadline_s, wish);
}

const struct plan_policy plan_deadline_uniform_progress = {
    .name = "uniform-progress",
    .about = "on-demand fills in below the straight line, with hysteresis",
    .decide = decide,
    .meets_deadline = true};
