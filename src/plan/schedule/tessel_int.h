// The search below Tessel's: blocks that must be put in order on their devices, under lower bounds between their starts
// and limits of memory. Bounds are kept closed (every implied bound is there), so that one look tells whether a block
// can still come before another; what can only go one way is decided at once, the rest is tried both ways.
#ifndef PLAN_TESSEL_INT_H
#define PLAN_TESSEL_INT_H

#include "plan/schedule/tessel.h"

#define TESSEL_NO_LIMIT INT64_MAX

struct tessel_task {
    int64_t span, memory; // memory changes when it starts
    uint64_t devices;
};

struct tessel_change {
    uint32_t at;
    int64_t before;
};

// Tasks 0..count-1, then two more nodes: the beginning (before all) and the end (behind all).
struct tessel_orders {
    const struct tessel_task *tasks;
    uint32_t count, nodes;
    const int64_t *room; // (64) of each device for these tasks
    int64_t *bound;      // (nodes, nodes): the column starts at least so much after the row
    uint32_t *pairs;     // two tasks each that share a device
    uint32_t pair_count;
    struct tessel_change *trail;
    uint32_t trail_count, trail_capacity;
    uint64_t *budget; // steps of work left; the search ends at 0
};

enum tessel_answer { TESSEL_NO, TESSEL_YES, TESSEL_SPENT };

void tessel_orders_init(struct tessel_orders *orders, const struct tessel_task *tasks, uint32_t count,
                        const int64_t *room, uint64_t *budget);
void tessel_orders_fini(struct tessel_orders *orders);
// start[to] >= start[from] + least. False: impossible, take it back.
bool tessel_orders_bound(struct tessel_orders *orders, uint32_t from, uint32_t to, int64_t least);
bool tessel_orders_end_by(struct tessel_orders *orders, int64_t time); // all tasks have ended
void tessel_orders_undo(struct tessel_orders *orders, uint32_t trail_count);
// Decides all that can go only one way. False: there is no order.
bool tessel_orders_settle(struct tessel_orders *orders);
// An order of the tasks of each device; the earliest starts of one are in `start` where there is one.
enum tessel_answer tessel_orders_find(struct tessel_orders *orders, int64_t *start);

// The blocks in the order in which they start where nothing waits, then by first device.
void tessel_chain(const struct plan_placement *placement, uint32_t order[PLAN_BLOCKS_MAX]);
// Starts the ops of a run, which are in order, as early as can be, and measures it.
void tessel_run_early(const struct plan_placement *placement, uint32_t micro_batches, uint32_t comm,
                      struct plan_tessel_run *run);

// The same run, with what no block needs moved to where its device would stand idle. False: the memory does not let it.
// One device a block.
bool tessel_run_fill(const struct plan_placement *placement, uint32_t micro_batches, int64_t memory, uint32_t comm,
                     const struct plan_tessel_run *run, struct plan_tessel_run *filled);

#endif
