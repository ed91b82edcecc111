// Schedules for any placement, found by search (Tessel, HPCA 2024): a group of blocks, each of its own micro-batch, is
// ordered so that it can be repeated with the fewest bubbles (the repetend); what must run before the first and after
// the last one is ordered in as few steps as can be (warm-up, cool-down).
//
// With n micro-batches in flight the repetend holds every block once, of micro-batch n-1 down to 0: the blocks of a
// micro-batch, by the step at which they start where nothing waits (then by first device), are cut into n runs. This is
// what the authors' program searches, cut by cut in lexicographic order; of equally good cuts the first counts. The
// period is the time from one repetend to the next, bubbles what it leaves idle on the least busy device:
// period - min over devices of its work. Of the schedules of a repetend with this period the one in the fewest steps.
// Exact, unless the search was cut short (`proved`, `shortest` tell). Memory holds at every instant.
#ifndef PLAN_TESSEL_H
#define PLAN_TESSEL_H

#include "plan/schedule/placement.h"

#include <stdbool.h>

#define PLAN_TESSEL_OPS_MAX (1 << 22) // of an unrolled schedule

struct plan_tessel_options {
    uint32_t in_flight;     // exactly so many micro-batches; 0: the fewest that leave no bubble, or fewest bubbles
    uint32_t in_flight_max; // of 0: at most so many
    int64_t memory;         // of each device; at most 0: no limit
    uint32_t comm;          // steps from a block to one that needs it and shares no device with it
    uint64_t effort;        // units of work before the search is cut short; 0: PLAN_TESSEL_EFFORT
};
#define PLAN_TESSEL_EFFORT 3000000000u // some seconds

struct plan_tessel_op {
    uint32_t block, micro;
    uint64_t start, end;
};
struct plan_tessel_part { // ops by (start, block), steps from 0 to `steps`
    struct plan_tessel_op *ops;
    uint32_t count;
    uint64_t steps;
};
struct plan_tessel {
    uint32_t in_flight;
    uint64_t period, bubbles;
    struct plan_tessel_part warmup, repetend, cooldown; // of in_flight micro-batches, one repetend
    bool proved, shortest; // that no period is shorter; that no part of this cut has fewer steps
};

// BG_INVALID where no schedule keeps within the memory, or none with so many in flight. The placement must be one that
// plan_placement_check takes.
BG_MUST_USE bg_status plan_tessel_solve(const struct plan_placement *placement,
                                        const struct plan_tessel_options *options, struct bg_error *err,
                                        struct plan_tessel *tessel);
void plan_tessel_fini(struct plan_tessel *tessel);

// A whole step of `micro_batches`: warm-up, repetends, cool-down, each block as soon as its device is done with the one
// before and its inputs are there.
struct plan_tessel_run {
    struct plan_tessel_op *ops; // in the order in which the devices take them
    uint32_t count;
    uint64_t makespan, max_device_span; // all; the longest device from its first start to its last end
    uint64_t bubble;                    // that device's span minus its work
    int64_t peak_memory[PLAN_DEVICES_MAX];
};
BG_MUST_USE bg_status plan_tessel_unroll(const struct plan_placement *placement, const struct plan_tessel *tessel,
                                         uint32_t micro_batches, uint32_t comm, struct bg_error *err,
                                         struct plan_tessel_run *run);
// A schedule without search, for placements too large for it: every block has one time, micro-batch by micro-batch one
// period later, the shortest period (at least the most work of a device) at which blocks find room one after the other,
// as early as they can. last: places what no other block needs after all others. BG_INVALID: the memory is too small.
BG_MUST_USE bg_status plan_tessel_periodic(const struct plan_placement *placement, uint32_t micro_batches,
                                           int64_t memory, uint32_t comm, bool last, struct bg_error *err,
                                           struct plan_tessel_run *run);
void plan_tessel_run_fini(struct plan_tessel_run *run);

#endif
