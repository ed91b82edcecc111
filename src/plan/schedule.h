// Schedules: the order in which the workers of one pipeline compute, as tables of F, B and W. A schedule is a pure
// function from a pipeline to lists of compute ops (and empty cells); plan_build makes whole steps of them.
#ifndef PLAN_SCHEDULE_H
#define PLAN_SCHEDULE_H

#include "plan/plan.h"

struct plan_pipe {                           // one pipeline: stages 0..S-1, items 0..M-1
    uint32_t workers, stages, items, slices; // slices 0, 1: not sliced
    const uint32_t *at;                      // (stages, items): worker, 0..workers-1
    const double *forward, *input, *weight;  // (stages): time of F, B, W of one item; any unit
    double comm;                             // of a message between two workers, same unit
    double memory;                           // items (of one stage) that a worker may have in flight; 0: any
    bool split;                              // B and W apart, where the schedule leaves a choice
};
// lists: (pipe->workers), empty; appended to.
typedef bg_status plan_schedule_fn(const struct plan_pipe *pipe, struct bg_error *err, struct plan_list *lists);

#endif
