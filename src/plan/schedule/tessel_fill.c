// Gaps filled with what nobody waits for: blocks that no other needs (weight gradients) leave their place in the order
// of a device and run when it would stand idle, or when the memory is needed, oldest first (as in zero-bubble
// schedules; Qi et al., "Zero Bubble Pipeline Parallelism", ICLR 2024). For placements of one device a block.
#include "base/assert.h"
#include "base/mem.h"
#include "plan/schedule/tessel_int.h"

struct queue { // indices of ops in their order
    uint32_t *ops, count, head;
};
struct filler {
    const struct plan_placement *p;
    const struct plan_tessel_run *run; // as it was
    uint32_t comm;
    int64_t memory;
    struct queue main[PLAN_DEVICES_MAX], rest[PLAN_DEVICES_MAX];
    uint64_t free_at[PLAN_DEVICES_MAX];
    int64_t held[PLAN_DEVICES_MAX];
    uint64_t *done; // (micro-batches, blocks): its end; 0: not yet
};

// When the head of a queue can start; UINT64_MAX: not yet known, or never before memory is given back.
static uint64_t start_of(const struct filler *f, const struct queue *q, uint32_t device)
{
    if (q->head == q->count)
        return UINT64_MAX;
    const struct plan_tessel_op *op = &f->run->ops[q->ops[q->head]];
    const struct plan_block *block = &f->p->blocks[op->block];
    uint64_t start = f->free_at[device];
    if (f->memory > 0 && f->held[device] + block->memory > f->memory)
        return UINT64_MAX;
    for (uint32_t n = 0; n < block->need_count; n++) {
        const uint64_t end = f->done[(size_t)op->micro * f->p->block_count + block->needs[n]];
        const uint64_t ready = end + (f->p->blocks[block->needs[n]].devices & block->devices ? 0 : f->comm);
        if (!end)
            return UINT64_MAX;
        start = ready > start ? ready : start;
    }
    return start;
}

static void take(struct filler *f, struct queue *q, uint32_t device, uint64_t start, struct plan_tessel_run *out)
{
    struct plan_tessel_op op = f->run->ops[q->ops[q->head++]];
    const struct plan_block *block = &f->p->blocks[op.block];
    op.start = start;
    op.end = f->free_at[device] = start + block->span;
    f->held[device] += block->memory;
    f->done[(size_t)op.micro * f->p->block_count + op.block] = op.end;
    out->ops[out->count++] = op;
}

static void fill_queues(struct filler *f)
{
    bool needed[PLAN_BLOCKS_MAX] = {0};
    for (uint32_t b = 0; b < f->p->block_count; b++)
        for (uint32_t n = 0; n < f->p->blocks[b].need_count; n++)
            needed[f->p->blocks[b].needs[n]] = true;
    for (uint32_t d = 0; d < f->p->devices; d++) {
        f->main[d].ops = bg_alloc_array(f->run->count, sizeof *f->main[d].ops);
        f->rest[d].ops = bg_alloc_array(f->run->count, sizeof *f->rest[d].ops);
    }
    for (uint32_t i = 0; i < f->run->count; i++) {
        const uint32_t block = f->run->ops[i].block;
        uint32_t d = 0;
        while (!(f->p->blocks[block].devices >> d & 1))
            d++;
        struct queue *q = needed[block] ? &f->main[d] : &f->rest[d];
        q->ops[q->count++] = i;
    }
}

bool tessel_run_fill(const struct plan_placement *placement, uint32_t micro_batches, int64_t memory, uint32_t comm,
                     const struct plan_tessel_run *run, struct plan_tessel_run *filled)
{
    struct filler *f = bg_alloc(sizeof *f);
    struct plan_tessel_run out = {0};
    *f = (struct filler){.p = placement, .run = run, .comm = comm, .memory = memory};
    out.ops = bg_alloc_array(run->count, sizeof *out.ops);
    f->done = bg_alloc_array((size_t)micro_batches * placement->block_count, sizeof *f->done);
    fill_queues(f);
    bool moves = true;
    while (out.count < run->count && moves) {
        uint64_t least = UINT64_MAX;
        struct queue *next = NULL;
        uint32_t device = 0;
        for (uint32_t d = 0; d < placement->devices; d++) { // the soonest; of equals what others may wait for
            const uint64_t main = start_of(f, &f->main[d], d), rest = start_of(f, &f->rest[d], d);
            if (main < least || (main == least && main != UINT64_MAX && next != &f->main[device]))
                least = main, next = &f->main[d], device = d;
            if (rest < least)
                least = rest, next = &f->rest[d], device = d;
        }
        moves = next != NULL;
        if (moves)
            take(f, next, device, least, &out);
    }
    for (uint32_t d = 0; d < placement->devices; d++) {
        bg_free(f->main[d].ops);
        bg_free(f->rest[d].ops);
    }
    bg_free(f->done);
    bg_free(f);
    if (moves) {
        tessel_run_early(placement, micro_batches, comm, &out);
        *filled = out;
    } else { // the memory is held by what waits for it
        plan_tessel_run_fini(&out);
    }
    return moves;
}
