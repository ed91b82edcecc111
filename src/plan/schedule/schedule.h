// Schedules: the order in which the workers of one pipeline compute, as lists of F, B and W. A schedule is a pure
// function from a pipeline to such lists; plan_build makes whole steps of them.
#ifndef PLAN_SCHEDULE_H
#define PLAN_SCHEDULE_H

#include "plan/plan.h"

#define PLAN_CELLS_MAX (1 << 24) // stages x items x slices of one pipeline

struct plan_pipe {                           // one pipeline: stages 0..S-1, items 0..M-1
    uint32_t workers, stages, items, slices; // slices 0, 1: not sliced
    const uint32_t *at;                      // (stages, items): worker, 0..workers-1
    const double *forward, *input, *weight;  // (stages): time of F, B, W of one item; any unit
    double comm;                             // of a message between two workers, same unit
    double memory;                           // items (of one stage) that a worker may have in flight; 0: any
    bool split;                              // B and W apart, where the schedule leaves a choice
    uint32_t range;                          // items that meet before a backward of them; 0: all
};
// lists: (pipe->workers), empty; appended to.
typedef bg_status plan_schedule_fn(const struct plan_pipe *pipe, struct bg_error *err, struct plan_list *lists);

struct plan_schedule_kind { // a row of the registry (schedule.c)
    const char *name, *about;
    const char *number;       // what a number behind the name and a colon counts; NULL: none may stand there
    uint32_t number_standard; // where none does
    uint32_t chunks;          // stages of a worker; 0: the number
    bool v_shaped;            // worker r of P has stages r and 2P-1-r; else r, r + P, ...
    bool splits;              // B and W always apart
    bool any_shape;           // takes any `at`: stages may differ in workers
    bool slices;              // orders slices itself; else whole ops are cut into slices
    bool ranges;              // goes by pipe->range: the number
    plan_schedule_fn *order;
};
const struct plan_schedule_kind *plan_schedule_kind(enum plan_schedule schedule);

// The lists of one pipeline, sliced if it is, within its memory. BG_INVALID names what is missing and the smallest
// change that would fit; *lists are then empty.
BG_MUST_USE bg_status plan_schedule_make(enum plan_schedule schedule, const struct plan_pipe *pipe,
                                         struct bg_error *err, struct plan_list *lists);
// Whole ops become ops of slices: F ascending, B descending and without its W, which comes behind.
void plan_slice_list(struct plan_list *list, uint32_t slices);

// ---- When the ops of such lists run (schedule_time.c) ----
struct plan_schedule_time {
    double **starts;               // (workers, ops): of each op
    double *first, *last, *busy;   // (workers): start of its first op, end of its last, sum of their times
    double *peak;                  // (workers): most items (of one stage) in flight: F begun, W not done
    double makespan, span, bubble; // first start to last end; the longest worker's own; that less its work
    uint32_t workers, longest;     // the worker of `span`, the first of equals
};
void plan_schedule_time_fini(struct plan_schedule_time *time);
// Every op starts when its worker is free and what it needs is there: the worker's last op, and `comm` behind the op of
// another worker that makes its input. BG_INVALID: an op is there twice or not at all, or the lists do not drain.
BG_MUST_USE bg_status plan_schedule_replay(const struct plan_pipe *pipe, const struct plan_list *lists,
                                           struct bg_error *err, struct plan_schedule_time *time);
double plan_op_time(const struct plan_pipe *pipe, const struct plan_op *op);
double plan_list_peak(const struct plan_list *list, uint32_t slices); // as `peak`

#endif
