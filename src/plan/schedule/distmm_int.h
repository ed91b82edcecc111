// Batch sync over blocks (distmm_order.c), which both a placement (distmm.c) and a job's stages (distmm_pipe.c) are
// made into: one generator.
#ifndef PLAN_DISTMM_INT_H
#define PLAN_DISTMM_INT_H

#include <stdbool.h>
#include <stdint.h>

enum { DISTMM_OPS_MAX = 1 << 22 };

struct distmm_block {
    uint64_t span;
    int64_t memory;        // changes when it starts, on each of its devices
    const uint32_t *needs; // lower blocks
    uint32_t need_count;
    bool sync;          // once for a range: needs its needs for all of it; spans and memory count for each
    uint64_t devices;   // bits; none: it runs nowhere, as soon as it can
    const uint32_t *at; // (micro_batches): its one device, in place of `devices`; NULL: as they say
};
struct distmm_blocks {
    const struct distmm_block *blocks;
    uint32_t block_count, devices, micro_batches, range; // range: 1..micro_batches; the last may be shorter
    uint64_t comm;
};
struct distmm_op { // of micro-batches [first, end)
    uint32_t block, first, end;
    uint64_t start, stop;
};
struct distmm_order {
    struct distmm_op *ops; // by start: every device takes its own in this order
    uint32_t count;
    uint64_t makespan, bound; // no order ends before `bound`
    int64_t *peak;            // (devices)
};

uint64_t distmm_count(const struct distmm_blocks *blocks); // ops; at most DISTMM_OPS_MAX for what follows
// The shortest of some orders that keep within the memory (0: any) on each device. False: none does, and *order is the
// one that takes least.
bool distmm_order_make(const struct distmm_blocks *blocks, int64_t memory, struct distmm_order *order);
void distmm_order_fini(struct distmm_order *order);

#endif
