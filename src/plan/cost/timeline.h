// The simulator of one step: a lowered plan walked with a profile, op by op, as the executor walks it. Worker w runs on
// machine w. Workers of one host
// share its cores: those of one thread each have them in turn, as a kernel gives them (timeline_cores.c); else, while
// more threads compute than there are cores, each goes slower by that ratio. Either way a core loses by several having
// it. A machine with a quota runs at full speed until it is spent, then not at all until the next period (CFS bandwidth
// control, as containers have it). Sends do not hold up their worker beyond message_s; a link carries one message after
// the other.
#ifndef PLAN_TIMELINE_H
#define PLAN_TIMELINE_H

#include "plan/plan.h"
#include "plan/cost/profile.h"

struct plan_span { // of an op of a list that takes time
    uint32_t worker, op;
    double start_s, end_s; // of a SEND: until the bytes are there
};
struct plan_worker_time {
    double busy_s;          // computing
    double first_s, last_s; // start of its first compute op, end of its last
    double peak_bytes;      // weights, gradient, moments, stashes in memory, boundaries, work memory
    double sent_bytes, received_bytes;
    double joules, dollars; // over the whole step
};
struct plan_timeline {
    struct plan_span *spans; // by (worker, start)
    size_t span_count;
    struct plan_worker_time *workers; // (workers)
    uint32_t worker_count;
    double *link_bytes; // (workers, workers): from, to
    double step_s;      // until everybody has applied the step
    double compute_s;   // first compute op to last
    double bubble_s;    // longest worker's span of compute ops minus its work
    double joules, dollars;
};
void plan_timeline_fini(struct plan_timeline *timeline);
// BG_INVALID where the profile has another number of units, or fewer machines than the plan has workers.
BG_MUST_USE bg_status plan_timeline(const struct plan *plan, const struct plan_profile *profile, struct bg_error *err,
                                    struct plan_timeline *timeline);

#endif
