// Relaxed: for a job whose work and overheads are estimates, as most are; "Can't Be Late" relaxes the same two
// assumptions. It is patient with both numbers at their most, so the deadline holds whatever they turn out to be up to
// that. To draw the straight line by the estimate instead leaves the rest to the safety net, which pays more.
#include "plan/spot/policy_int.h"

#include <math.h>

static enum plan_rent decide(const struct plan_snapshot *now)
{
    struct plan_snapshot most = *now;
    most.job.work_s = fmax(now->job.work_s, now->job.work_most_s);
    most.job.overhead_s = fmax(now->job.overhead_s, now->job.overhead_most_s);
    return plan_deadline_patient.decide(&most);
}

const struct plan_policy plan_deadline_relaxed = {.name = "relaxed",
                                                  .about = "patient for work and overheads that are estimates",
                                                  .decide = decide,
                                                  .meets_deadline = true,
                                                  .takes_most = true};
