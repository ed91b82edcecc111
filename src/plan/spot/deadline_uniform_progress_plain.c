// Uniform Progress without hysteresis: back to spot as soon as it is there.
#include "plan/spot/policy_int.h"

static enum plan_rent decide(const struct plan_snapshot *now)
{
    enum plan_rent wish = spot_if_there(now);
    const bool behind = now->done_s - uniform_line(&now->job, now->tick * now->job.gap_s) < 0;
    if (!has_spot(now) && (behind || now->rent == PLAN_RENT_ON_DEMAND))
        wish = PLAN_RENT_ON_DEMAND;
    return policy_safety_net(now, now->job.work_s, now->job.deadline_s, wish);
}

const struct plan_policy plan_deadline_uniform_progress_plain = {.name = "uniform-progress-plain",
                                                                 .about = "Uniform Progress without hysteresis",
                                                                 .decide = decide,
                                                                 .meets_deadline = true};
