// The registry of deadline policies, and what several of them share.
#ifndef PLAN_POLICY_INT_H
#define PLAN_POLICY_INT_H

#include "plan/spot/policy.h"

// One line a policy; its file deadline_x.c defines plan_deadline_x.
#define PLAN_POLICIES(X)                                                                                               \
    X(on_demand)                                                                                                       \
    X(spot)                                                                                                            \
    X(greedy)                                                                                                          \
    X(uniform_progress)                                                                                                \
    X(uniform_progress_plain)                                                                                          \
    X(time_sliced)                                                                                                     \
    X(patient)                                                                                                         \
    X(relaxed)                                                                                                         \
    X(next_spot)

#define DECLARE(name) extern const struct plan_policy plan_deadline_##name;
PLAN_POLICIES(DECLARE)
#undef DECLARE

static inline bool has_spot(const struct plan_snapshot *now)
{
    return now->spot[now->tick] >= now->job.instances;
}

static inline enum plan_rent spot_if_there(const struct plan_snapshot *now)
{
    return has_spot(now) ? PLAN_RENT_SPOT : PLAN_RENT_NONE;
}

// Work that should be done by `at_s` on the straight line from nothing at the start to all of it at the deadline.
static inline double uniform_line(const struct plan_deadline *job, double at_s)
{
    return at_s * job->work_s / job->deadline_s;
}

// The safety net: `wish`, or on-demand where the deadline could be missed otherwise. With `deadline_s` and `work_s` of
// its own, so that it also serves part of a job.
enum plan_rent policy_safety_net(const struct plan_snapshot *now, double work_s, double deadline_s,
                                 enum plan_rent wish);

#endif
