// A job with a deadline on a trace of spot machines: what a policy does with it tick by tick, and the least that any
// could have paid who knew the trace.
#ifndef PLAN_DEADLINE_H
#define PLAN_DEADLINE_H

#include "plan/spot/zone.h"

struct plan_bill {
    double cost, finish_s;         // finish_s: when the work was done; the deadline where it was not
    bool met;                      // done by the deadline
    uint32_t ticks[PLAN_RENTS];    // spent with nothing (the first instant counts as one), spot, on-demand
    uint32_t switches[PLAN_RENTS]; // ticks of a kind that follow one of another
    uint32_t moves;                // rented in another zone than before
};
struct plan_zone_bill {
    double cost;
    uint32_t ticks[PLAN_RENTS];
};

// Ticks of a trace that a job may see: from its start to its deadline.
uint32_t plan_deadline_ticks(const struct plan_deadline *job);

// What comes true of a job's estimates. NULL stands for: just what the job says.
struct plan_truth {
    double work_s;
    double overhead_least_s, overhead_most_s; // of every new start, drawn evenly between them
    uint64_t seed;
};

struct plan_moment {     // at the beginning of a tick
    enum plan_rent held; // in the tick before
    double done_s;
    bool decides; // `now` is what the policy is asked, `decided` its answer; not once the job is done
    struct plan_snapshot now;
    struct plan_choice decided;
};

// Runs `policy` from spot[0] on; `spot` holds plan_deadline_ticks() counts. A job not done at its deadline ends there.
// `truth` may be NULL; `moments`: NULL or (plan_deadline_ticks()), for a picture or a log; after its end the job holds
// nothing and its work stays. Their snapshots point into `spot`. No allocation.
void plan_deadline_run(const struct plan_deadline *job, const struct plan_policy *policy, const uint32_t *spot,
                       const struct plan_truth *truth, struct plan_moment *moments, struct plan_bill *bill);
// The same over zones; the prices are theirs. of_zones: NULL or (zones->count). The zones of a moment's snapshot are
// gone after the run: plan_zone_at() has them again.
void plan_deadline_run_zones(const struct plan_deadline *job, const struct plan_policy *policy,
                             const struct plan_zones *zones, const struct plan_truth *truth,
                             struct plan_moment *moments, struct plan_bill *bill, struct plan_zone_bill *of_zones);

// The least cost by which the work can be done by the deadline, with the whole trace known: exact.
void plan_deadline_optimum(const struct plan_deadline *job, const uint32_t *spot, struct plan_bill *bill);

#endif
