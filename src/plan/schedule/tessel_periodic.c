// Periodic schedules without search: modulo scheduling (Rau, "Iterative Modulo Scheduling", MICRO 1994, without its
// iteration). A device's time is a ring of one period; a block takes the first gap of it that fits, from the time on
// at which its inputs are there.
#include "plan/schedule/tessel.h"

#include "base/mem.h"
#include "plan/schedule/tessel_int.h"

#include <stdlib.h>

enum { TAKEN_MAX = 1 << 26 };

struct ring {
    const struct plan_placement *p;
    uint64_t period;
    uint8_t *taken;                  // (devices, period)
    uint64_t start[PLAN_BLOCKS_MAX]; // of micro-batch 0
};

// The next time from `from` on at which the block may start, or `from` itself: 0 steps to wait.
static uint64_t wait_for(const struct ring *r, const struct plan_block *block, uint64_t from)
{
    for (uint64_t t = block->span; t-- > 0;)
        for (uint32_t d = 0; d < r->p->devices; d++)
            if (block->devices >> d & 1 && r->taken[d * r->period + (from + t) % r->period])
                return t + 1;
    return 0;
}

static bool place(struct ring *r, uint32_t at, uint32_t comm)
{
    const struct plan_block *block = &r->p->blocks[at];
    uint64_t from = 0, wait;
    for (uint32_t n = 0; n < block->need_count; n++) {
        const struct plan_block *need = &r->p->blocks[block->needs[n]];
        const uint64_t ready = r->start[block->needs[n]] + need->span + (need->devices & block->devices ? 0 : comm);
        from = ready > from ? ready : from;
    }
    const uint64_t last = from + r->period;
    while (from < last && (wait = wait_for(r, block, from)) > 0)
        from += wait;
    if (block->span > r->period || from >= last)
        return false;
    r->start[at] = from;
    for (uint32_t d = 0; d < r->p->devices; d++)
        for (uint64_t t = 0; t < block->span && block->devices >> d & 1; t++)
            r->taken[d * r->period + (from + t) % r->period] = 1;
    return true;
}

static int by_start(const void *left, const void *right)
{
    const struct plan_tessel_op *a = left, *b = right;
    if (a->start != b->start)
        return a->start < b->start ? -1 : 1;
    if (a->micro != b->micro)
        return a->micro < b->micro ? -1 : 1;
    return a->block < b->block ? -1 : a->block > b->block;
}

// Ops of all micro-batches in order of their times.
static struct plan_tessel_run take_run(const struct ring *r, uint32_t micro_batches, uint32_t comm)
{
    struct plan_tessel_run run = {0};
    run.ops = bg_alloc_array((size_t)micro_batches * r->p->block_count, sizeof *run.ops);
    for (uint32_t m = 0; m < micro_batches; m++)
        for (uint32_t b = 0; b < r->p->block_count; b++)
            run.ops[run.count++] = (struct plan_tessel_op){.block = b, .micro = m, r->start[b] + m * r->period, 0};
    qsort(run.ops, run.count, sizeof *run.ops, by_start);
    tessel_run_early(r->p, micro_batches, comm, &run);
    return run;
}

static bool within(const struct plan_placement *p, const struct plan_tessel_run *run, int64_t memory)
{
    for (uint32_t d = 0; d < p->devices; d++)
        if (memory > 0 && run->peak_memory[d] > memory)
            return false;
    return true;
}

// The blocks in the order in which they look for room.
static void order_blocks(const struct plan_placement *p, bool last, uint32_t order[PLAN_BLOCKS_MAX])
{
    uint32_t chain[PLAN_BLOCKS_MAX], count = 0;
    bool needed[PLAN_BLOCKS_MAX] = {0};
    tessel_chain(p, chain);
    for (uint32_t b = 0; b < p->block_count; b++)
        for (uint32_t n = 0; n < p->blocks[b].need_count; n++)
            needed[p->blocks[b].needs[n]] = true;
    for (int turn = 0; turn < 2; turn++)
        for (uint32_t k = 0; k < p->block_count; k++)
            if ((last && !needed[chain[k]]) == (turn == 1))
                order[count++] = chain[k];
}

bg_status plan_tessel_periodic(const struct plan_placement *placement, uint32_t micro_batches, int64_t memory,
                               uint32_t comm, bool last, struct bg_error *err, struct plan_tessel_run *run)
{
    const struct plan_placement *p = placement;
    struct ring r = {.p = p};
    uint32_t order[PLAN_BLOCKS_MAX];
    uint64_t whole = 0, most = 0;
    int64_t enough = 0;
    if ((uint64_t)micro_batches * p->block_count > PLAN_TESSEL_OPS_MAX)
        return bg_fail(err, BG_INVALID, "%u micro-batches of %u blocks: expected at most %d ops", micro_batches,
                       p->block_count, PLAN_TESSEL_OPS_MAX);
    order_blocks(p, last, order);
    for (uint32_t b = 0; b < p->block_count; b++)
        whole += (uint64_t)p->blocks[b].span + comm;
    for (uint32_t d = 0; d < p->devices; d++) {
        uint64_t work = 0;
        for (uint32_t b = 0; b < p->block_count; b++)
            work += p->blocks[b].devices >> d & 1 ? p->blocks[b].span : 0;
        most = work > most ? work : most;
    }
    if (p->devices * whole > TAKEN_MAX)
        return bg_fail(err, BG_UNSUPPORTED, "%llu steps a micro-batch on %u devices: expected a product of at most %d",
                       (unsigned long long)whole, p->devices, TAKEN_MAX);
    r.taken = bg_alloc_array(p->devices * whole, sizeof *r.taken);
    bool found = false;
    for (uint64_t next = most; next <= whole && !found;) {
        bool fits = true;
        r.period = next;
        next += 1 + next / 64;
        next = r.period < whole && next > whole ? whole : next; // with this one no two micro-batches meet
        for (uint64_t t = 0; t < p->devices * r.period; t++)
            r.taken[t] = 0;
        for (uint32_t k = 0; k < p->block_count && fits; k++)
            fits = place(&r, order[k], comm);
        if (!fits)
            continue;
        struct plan_tessel_run made = take_run(&r, micro_batches, comm);
        found = within(p, &made, memory);
        enough = 0;
        for (uint32_t d = 0; d < p->devices; d++)
            enough = made.peak_memory[d] > enough ? made.peak_memory[d] : enough;
        if (found)
            *run = made;
        else
            plan_tessel_run_fini(&made);
    }
    bg_free(r.taken);
    return found ? BG_OK
                 : bg_fail(err, BG_INVALID, "a micro-batch alone needs more memory than %lld; %lld is enough",
                           (long long)memory, (long long)enough);
}
