// Time-sliced ("Can't Be Late", section 4.2): the time is cut into slices, each with its share of the work, and each is
// greedy towards its own end. The net of the whole job stands behind: a slice that ends with overhead unpaid is no
// harm.
#include "plan/spot/policy_int.h"

#include <math.h>

#define SLICE_S (2.0 * 3600)

static enum plan_rent decide(const struct plan_snapshot *now)
{
    const struct plan_deadline *job = &now->job;
    const double elapsed_s = now->tick * job->gap_s;
    double end_s = (floor(elapsed_s / SLICE_S) + 1) * SLICE_S;
    if (end_s > job->deadline_s)
        end_s = job->deadline_s;
    const double work_s = uniform_line(job, end_s);
    enum plan_rent wish = spot_if_there(now);
    if (now->done_s < work_s)
        wish = policy_safety_net(now, work_s, end_s, wish);
    return policy_safety_net(now, job->work_s, job->deadline_s, wish);
}

const struct plan_policy plan_deadline_time_sliced = {.name = "time-sliced",
                                                      .about = "greedy towards the end of every two hours",
                                                      .decide = decide,
                                                      .meets_deadline = true};
