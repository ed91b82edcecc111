// Schedules of several towers whose loss is of the whole batch (DistMM, "DistMM: Accelerating Distributed Multimodal
// Model Training", NSDI 2024: pipelines with batch-sync). A contrastive loss compares every sample with every other, so
// that no backward can begin before all forwards are done: towers run the forwards of all micro-batches, each as a
// pipeline of its own, meet in blocks that run once for all of them, and run the backwards.
//
// Written over the blocks of a placement (Tessel's kshape is of this form; there the loss is of one micro-batch). Over
// a job's stages, which are one tower, the same generator is the schedule PLAN_DISTMM.
#ifndef PLAN_DISTMM_H
#define PLAN_DISTMM_H

#include "plan/schedule/placement.h"

#include <stdbool.h>

struct plan_batch_op { // a block for micro-batches [first, end)
    uint32_t block, first, end;
    uint64_t start, stop;
};
struct plan_batch_run {
    struct plan_batch_op *ops; // in the order in which the devices take them
    uint32_t count;
    uint64_t makespan, bound; // no order ends before `bound`
    int64_t peak_memory[PLAN_DEVICES_MAX];
};

// sync: (blocks) those that run once for `range` micro-batches (the last range may be shorter): their spans and memory
// count for each micro-batch. A device works at the next ranges while it waits for one, where the memory allows. The
// shortest of some orders; not always the shortest of all (distmm_test.c says how far from it).
// BG_INVALID: no block is a sync, `range` is 0, or a device is without the memory (0: any) that a range needs.
BG_MUST_USE bg_status plan_distmm(const struct plan_placement *placement, const bool *sync, uint32_t micro_batches,
                                  uint32_t range, int64_t memory, uint32_t comm, struct bg_error *err,
                                  struct plan_batch_run *run);
void plan_batch_run_fini(struct plan_batch_run *run);

#endif
