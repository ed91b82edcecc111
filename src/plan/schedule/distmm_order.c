// List scheduling in time: whenever a device is free it takes, of what is ready on it, the op of the earliest range
// that has most still behind it; for an op on several devices, those that are free wait for the others. A device works
// at most `ahead` ranges at once, so that the memory is that of so many. Several such numbers are tried.
//
// Ops are numbered by (range, block, micro-batch), those of a sync once a range: an op stands behind those it needs,
// and all neighbours are found by arithmetic.
#include "plan/schedule/distmm_int.h"

#include "base/assert.h"
#include "base/mem.h"

#include <string.h>

enum { AHEAD_MAX = 3, TRIED_MAX = 1 << 18 }; // ops up to which more than two orders are tried

struct heap { // the least first
    uint32_t *ops;
    uint32_t count, capacity;
};

struct order {
    const struct distmm_blocks *b;
    uint32_t ahead;
    bool by_tail; // of all ranges that are begun, what has most behind it; else the earliest range first
    uint32_t *users, *user_first; // (block_count + 1): blocks that need a block
    uint32_t *syncs;              // (block_count + 1): sync blocks before a block
    uint32_t ranges, count;
    struct distmm_op *ops;  // (count) by number
    uint64_t *ready, *tail; // (count): start where it has to wait for needs only; from its start to the end of all
    uint32_t *missing;      // (count): needs that have not ended, and devices that are not so far
    uint64_t *event;        // (count): when it is ready, or ends
    bool *begun;            // (count)
    struct heap events;
    struct heap *queues;              // (devices): ready and not begun
    uint64_t *free_at;                // (devices)
    uint32_t *member_first, *members; // (devices, ranges): the ops of it
    uint32_t *left;                   // (devices, ranges): those not ended
    uint32_t *through;                // (devices): the first range that is not over
    uint32_t *sequence;               // ops in the order in which they begin
    uint32_t begun_count;
    int64_t *held, *peak; // (devices)
    uint64_t now, makespan;
};

// ---- Numbers of ops ----

static uint32_t range_size(const struct order *o, uint32_t range)
{
    const uint32_t left = o->b->micro_batches - range * o->b->range;
    return left < o->b->range ? left : o->b->range;
}

// Ops of the blocks before `block` in a range of `size`.
static uint32_t before(const struct order *o, uint32_t block, uint32_t size)
{
    return o->syncs[block] + (block - o->syncs[block]) * size;
}

static uint32_t first_op(const struct order *o, uint32_t range)
{
    return range * before(o, o->b->block_count, o->b->range);
}

// The ops of `other` that an op meets as its needs or users: [*first, *end).
static void neighbours(const struct order *o, const struct distmm_op *op, uint32_t other, uint32_t *first,
                       uint32_t *end)
{
    const uint32_t range = op->first / o->b->range, size = range_size(o, range);
    *first = first_op(o, range) + before(o, other, size);
    if (o->b->blocks[other].sync) {
        *end = *first + 1;
    } else if (o->b->blocks[op->block].sync) {
        *end = *first + size;
    } else {
        *first += op->first - range * o->b->range;
        *end = *first + 1;
    }
}

// ---- Devices of an op ----

// The next one from `device` on; b->devices: none.
static uint32_t next_device(const struct order *o, const struct distmm_op *op, uint32_t device)
{
    const struct distmm_block *block = &o->b->blocks[op->block];
    if (block->at)
        return device <= block->at[op->first] ? block->at[op->first] : o->b->devices;
    const uint64_t rest = device < 64 ? block->devices >> device << device : 0;
    return rest ? (uint32_t)__builtin_ctzll(rest) : o->b->devices;
}

static uint64_t delay(const struct order *o, const struct distmm_op *from, const struct distmm_op *to)
{
    const uint32_t none = o->b->devices, first = next_device(o, from, 0);
    if (o->b->comm == 0 || first == none || next_device(o, to, 0) == none)
        return 0;
    for (uint32_t d = first; d < none; d = next_device(o, from, d + 1))
        if (next_device(o, to, d) == d)
            return 0;
    return o->b->comm;
}

// ---- Heaps ----

static bool earlier(const struct order *o, bool events, uint32_t a, uint32_t b)
{
    const uint32_t range_a = o->ops[a].first / o->b->range, range_b = o->ops[b].first / o->b->range;
    if (events)
        return o->event[a] != o->event[b] ? o->event[a] < o->event[b] : a < b;
    if (!o->by_tail && range_a != range_b)
        return range_a < range_b;
    return o->tail[a] != o->tail[b] ? o->tail[a] > o->tail[b] : a < b;
}

static void push(const struct order *o, struct heap *h, uint32_t op)
{
    const bool events = h == &o->events;
    if (h->count == h->capacity) {
        h->capacity = h->capacity ? 2 * h->capacity : 16;
        h->ops = bg_realloc_array(h->ops, h->capacity, sizeof *h->ops);
    }
    uint32_t at = h->count++;
    for (; at > 0 && earlier(o, events, op, h->ops[(at - 1) / 2]); at = (at - 1) / 2)
        h->ops[at] = h->ops[(at - 1) / 2];
    h->ops[at] = op;
}

static uint32_t pop(const struct order *o, struct heap *h)
{
    const bool events = h == &o->events;
    const uint32_t least = h->ops[0], moved = h->ops[--h->count];
    uint32_t at = 0;
    for (uint32_t child; (child = 2 * at + 1) < h->count; at = child) {
        child += child + 1 < h->count && earlier(o, events, h->ops[child + 1], h->ops[child]);
        if (!earlier(o, events, h->ops[child], moved))
            break;
        h->ops[at] = h->ops[child];
    }
    h->ops[at] = moved;
    return least;
}

// ---- Time ----

static void note(struct order *o, uint32_t op, uint64_t time)
{
    o->event[op] = time;
    push(o, &o->events, op);
}

static void release(struct order *o, uint32_t op, uint64_t time)
{
    o->ready[op] = time > o->ready[op] ? time : o->ready[op];
    if (--o->missing[op] == 0)
        note(o, op, o->ready[op]);
}

// Lets a device begin the ranges up to `ahead` from the first one that is not over.
static void open_ranges(struct order *o, uint32_t device)
{
    const size_t row = (size_t)device * o->ranges;
    while (o->through[device] < o->ranges && o->left[row + o->through[device]] == 0) {
        const uint32_t range = o->through[device]++ + o->ahead;
        for (uint32_t m = range < o->ranges ? o->member_first[row + range] : 0;
             range < o->ranges && m < o->member_first[row + range + 1]; m++)
            release(o, o->members[m], o->now);
    }
}

static void begin(struct order *o, uint32_t n)
{
    struct distmm_op *op = &o->ops[n];
    const struct distmm_block *block = &o->b->blocks[op->block];
    op->start = o->now;
    op->stop = op->start + block->span * (op->end - op->first);
    o->makespan = op->stop > o->makespan ? op->stop : o->makespan;
    o->begun[n] = true;
    o->sequence[o->begun_count++] = n;
    for (uint32_t d = next_device(o, op, 0); d < o->b->devices; d = next_device(o, op, d + 1)) {
        const uint32_t first = pop(o, &o->queues[d]);
        BG_ASSERT(first == n);
        o->free_at[d] = op->stop;
        o->held[d] += block->memory * (op->end - op->first);
        o->peak[d] = o->held[d] > o->peak[d] ? o->held[d] : o->peak[d];
    }
    note(o, n, op->stop);
}

static void finish(struct order *o, uint32_t n)
{
    const struct distmm_op *op = &o->ops[n];
    for (uint32_t u = o->user_first[op->block]; u < o->user_first[op->block + 1]; u++) {
        uint32_t first, end;
        neighbours(o, op, o->users[u], &first, &end);
        for (uint32_t user = first; user < end; user++)
            release(o, user, o->now + delay(o, op, &o->ops[user]));
    }
    for (uint32_t d = next_device(o, op, 0); d < o->b->devices; d = next_device(o, op, d + 1)) {
        o->left[(size_t)d * o->ranges + op->first / o->b->range]--;
        open_ranges(o, d);
    }
}

// The first of the device's queue, if it is the first on all its devices and they are free.
static bool begin_on(struct order *o, uint32_t device)
{
    if (o->queues[device].count == 0)
        return false;
    const uint32_t n = o->queues[device].ops[0];
    const struct distmm_op *op = &o->ops[n];
    for (uint32_t d = next_device(o, op, 0); d < o->b->devices; d = next_device(o, op, d + 1))
        if (o->free_at[d] > o->now || o->queues[d].ops[0] != n)
            return false;
    begin(o, n);
    return true;
}

// Devices where the op that ended or became ready runs, or all that an op on several of them may have held up.
static void run(struct order *o)
{
    uint32_t *touched = bg_alloc_array(o->b->devices, sizeof *touched), count = 0;
    bool *marked = bg_alloc_array(o->b->devices, sizeof *marked);
    for (uint32_t d = 0; d < o->b->devices; d++)
        open_ranges(o, d);
    while (o->events.count > 0) {
        o->now = o->event[o->events.ops[0]];
        while (o->events.count > 0 && o->event[o->events.ops[0]] == o->now) {
            const uint32_t n = pop(o, &o->events);
            const struct distmm_op *op = &o->ops[n];
            const uint32_t first = next_device(o, op, 0);
            for (uint32_t d = first; d < o->b->devices; d = next_device(o, op, d + 1)) {
                if (!o->begun[n])
                    push(o, &o->queues[d], n);
                if (!marked[d])
                    touched[count++] = d;
                marked[d] = true;
            }
            if (o->begun[n])
                finish(o, n);
            else if (first == o->b->devices)
                begin(o, n);
        }
        for (uint32_t t = 0; t < count; t++) {
            marked[touched[t]] = false;
            begin_on(o, touched[t]);
        }
        count = 0;
    }
    BG_ASSERT(o->begun_count == o->count); // the first op of the earliest open range can always begin
    bg_free(touched);
    bg_free(marked);
}

// ---- What does not depend on the order tried ----

static void list_users(struct order *o)
{
    const struct distmm_blocks *b = o->b;
    o->user_first = bg_alloc_array(b->block_count + 1, sizeof *o->user_first);
    o->syncs = bg_alloc_array(b->block_count + 1, sizeof *o->syncs);
    for (uint32_t k = 0; k < b->block_count; k++) {
        o->syncs[k + 1] = o->syncs[k] + b->blocks[k].sync;
        for (uint32_t n = 0; n < b->blocks[k].need_count; n++)
            o->user_first[b->blocks[k].needs[n] + 1]++;
    }
    for (uint32_t k = 0; k < b->block_count; k++)
        o->user_first[k + 1] += o->user_first[k];
    uint32_t *next = bg_alloc_array(b->block_count + 1, sizeof *next);
    memcpy(next, o->user_first, b->block_count * sizeof *next);
    o->users = bg_alloc_array(o->user_first[b->block_count], sizeof *o->users);
    for (uint32_t k = 0; k < b->block_count; k++)
        for (uint32_t n = 0; n < b->blocks[k].need_count; n++)
            o->users[next[b->blocks[k].needs[n]]++] = k;
    bg_free(next);
}

static void list_ops(struct order *o)
{
    const struct distmm_blocks *b = o->b;
    o->ranges = (b->micro_batches - 1) / b->range + 1;
    o->count = (uint32_t)distmm_count(b);
    o->ops = bg_alloc_array(o->count, sizeof *o->ops);
    for (uint32_t r = 0, n = 0; r < o->ranges; r++) {
        const uint32_t first = r * b->range, end = first + range_size(o, r);
        for (uint32_t k = 0; k < b->block_count; k++)
            for (uint32_t m = first; m < end; m = o->ops[n++].end)
                o->ops[n] = (struct distmm_op){k, m, b->blocks[k].sync ? end : m + 1, 0, 0};
    }
}

// The ops of each range on each device.
static void list_members(struct order *o)
{
    const uint32_t devices = o->b->devices;
    const size_t rows = (size_t)devices * o->ranges;
    uint32_t *first = bg_alloc_array(rows + 1, sizeof *first), *next = bg_alloc_array(rows + 1, sizeof *next);
    for (int fill = 0; fill < 2; fill++) {
        for (uint32_t n = 0; n < o->count; n++)
            for (uint32_t d = next_device(o, &o->ops[n], 0); d < devices; d = next_device(o, &o->ops[n], d + 1)) {
                const size_t row = (size_t)d * o->ranges + o->ops[n].first / o->b->range;
                if (fill)
                    o->members[next[row]++] = n;
                else
                    first[row + 1]++;
            }
        for (size_t row = 0; row < rows && !fill; row++) {
            first[row + 1] += first[row];
            next[row] = first[row];
        }
        if (!fill)
            o->members = bg_alloc_array(first[rows] + 1, sizeof *o->members);
    }
    o->member_first = first;
    bg_free(next);
}

// The longest way from the start of each op to the end of all.
static void measure_tails(struct order *o)
{
    o->tail = bg_alloc_array(o->count, sizeof *o->tail);
    for (uint32_t n = o->count; n-- > 0;) {
        const struct distmm_op *op = &o->ops[n];
        uint64_t rest = 0;
        for (uint32_t u = o->user_first[op->block]; u < o->user_first[op->block + 1]; u++) {
            uint32_t first, end;
            neighbours(o, op, o->users[u], &first, &end);
            for (uint32_t user = first; user < end; user++) {
                const uint64_t way = o->tail[user] + delay(o, op, &o->ops[user]);
                rest = way > rest ? way : rest;
            }
        }
        o->tail[n] = rest + o->b->blocks[op->block].span * (op->end - op->first);
    }
}

// The longest way; and for each device its work, with the least that comes before and behind it.
static uint64_t lower_bound(const struct order *o)
{
    const uint32_t devices = o->b->devices;
    uint64_t *head = bg_alloc_array(o->count, sizeof *head), *work = bg_alloc_array(devices, sizeof *work);
    uint64_t *least = bg_alloc_array((size_t)2 * devices, sizeof *least), bound = 0;
    memset(least, 0xff, 2 * devices * sizeof *least);
    for (uint32_t n = 0; n < o->count; n++) {
        const struct distmm_op *op = &o->ops[n];
        const struct distmm_block *block = &o->b->blocks[op->block];
        const uint64_t span = block->span * (op->end - op->first), rest = o->tail[n] - span;
        for (uint32_t k = 0; k < block->need_count; k++) {
            uint32_t first, end;
            neighbours(o, op, block->needs[k], &first, &end);
            for (uint32_t need = first; need < end; need++) {
                const struct distmm_op *from = &o->ops[need];
                const uint64_t way =
                    head[need] + o->b->blocks[from->block].span * (from->end - from->first) + delay(o, from, op);
                head[n] = way > head[n] ? way : head[n];
            }
        }
        bound = head[n] + o->tail[n] > bound ? head[n] + o->tail[n] : bound;
        for (uint32_t d = next_device(o, op, 0); d < devices; d = next_device(o, op, d + 1)) {
            work[d] += span;
            least[d] = head[n] < least[d] ? head[n] : least[d];
            least[devices + d] = rest < least[devices + d] ? rest : least[devices + d];
        }
    }
    for (uint32_t d = 0; d < devices; d++)
        if (least[d] != UINT64_MAX && least[d] + work[d] + least[devices + d] > bound)
            bound = least[d] + work[d] + least[devices + d];
    bg_free(head);
    bg_free(work);
    bg_free(least);
    return bound;
}

// ---- One order, and the best of some ----

static void count_missing(struct order *o)
{
    memset(o->missing, 0, o->count * sizeof *o->missing);
    for (size_t row = 0; row < (size_t)o->b->devices * o->ranges; row++)
        o->left[row] = o->member_first[row + 1] - o->member_first[row];
    for (uint32_t n = 0; n < o->count; n++) {
        const struct distmm_op *op = &o->ops[n];
        const struct distmm_block *block = &o->b->blocks[op->block];
        const uint32_t range = op->first / o->b->range;
        for (uint32_t k = 0; k < block->need_count; k++) {
            uint32_t first, end;
            neighbours(o, op, block->needs[k], &first, &end);
            o->missing[n] += end - first;
        }
        for (uint32_t d = next_device(o, op, 0); d < o->b->devices; d = next_device(o, op, d + 1))
            o->missing[n] += range >= o->ahead;
        if (o->missing[n] == 0)
            note(o, n, 0);
    }
}

static void try_order(struct order *o, uint32_t ahead, bool by_tail)
{
    const uint32_t devices = o->b->devices;
    o->ahead = ahead;
    o->by_tail = by_tail;
    o->begun_count = 0;
    o->now = o->makespan = 0;
    memset(o->ready, 0, o->count * sizeof *o->ready);
    memset(o->begun, 0, o->count * sizeof *o->begun);
    memset(o->free_at, 0, devices * sizeof *o->free_at);
    memset(o->through, 0, devices * sizeof *o->through);
    memset(o->held, 0, devices * sizeof *o->held);
    memset(o->peak, 0, devices * sizeof *o->peak);
    count_missing(o);
    run(o);
}

static int64_t most_held(const int64_t *peak, uint32_t devices)
{
    int64_t most = 0;
    for (uint32_t d = 0; d < devices; d++)
        most = peak[d] > most ? peak[d] : most;
    return most;
}

// Whether the order tried last is to be preferred: within the memory, then shorter, then with less memory.
static bool better(const struct order *o, int64_t memory, const struct distmm_order *best)
{
    const int64_t mine = most_held(o->peak, o->b->devices);
    if (!best->ops)
        return true;
    const int64_t its = most_held(best->peak, o->b->devices);
    const bool fits = memory <= 0 || mine <= memory, fitted = memory <= 0 || its <= memory;
    if (fits != fitted)
        return fits;
    if (!fits || o->makespan == best->makespan)
        return mine < its;
    return o->makespan < best->makespan;
}

static void take(const struct order *o, struct distmm_order *best)
{
    if (!best->ops) {
        best->ops = bg_alloc_array(o->count, sizeof *best->ops);
        best->peak = bg_alloc_array(o->b->devices, sizeof *best->peak);
    }
    best->count = o->count;
    best->makespan = o->makespan;
    for (uint32_t i = 0; i < o->count; i++)
        best->ops[i] = o->ops[o->sequence[i]];
    memcpy(best->peak, o->peak, o->b->devices * sizeof *best->peak);
}

static void fini(struct order *o)
{
    for (uint32_t d = 0; d < o->b->devices; d++)
        bg_free(o->queues[d].ops);
    void *parts[] = {o->users, o->user_first, o->syncs,      o->ops,     o->ready,       o->tail, o->missing,
                     o->event, o->begun,      o->events.ops, o->queues,  o->free_at,     o->left, o->held,
                     o->peak,  o->through,    o->sequence,   o->members, o->member_first};
    for (size_t i = 0; i < sizeof parts / sizeof *parts; i++)
        bg_free(parts[i]);
}

uint64_t distmm_count(const struct distmm_blocks *b)
{
    const uint64_t ranges = ((uint64_t)b->micro_batches + b->range - 1) / b->range;
    uint64_t count = 0;
    for (uint32_t k = 0; k < b->block_count; k++)
        count += b->blocks[k].sync ? ranges : b->micro_batches;
    return count;
}

bool distmm_order_make(const struct distmm_blocks *blocks, int64_t memory, struct distmm_order *order)
{
    struct order o = {.b = blocks};
    struct distmm_order best = {0};
    const uint32_t devices = blocks->devices;
    list_users(&o);
    list_ops(&o);
    list_members(&o);
    measure_tails(&o);
    o.ready = bg_alloc_array(o.count, sizeof *o.ready);
    o.missing = bg_alloc_array(o.count, sizeof *o.missing);
    o.event = bg_alloc_array(o.count, sizeof *o.event);
    o.begun = bg_alloc_array(o.count, sizeof *o.begun);
    o.sequence = bg_alloc_array(o.count, sizeof *o.sequence);
    o.queues = bg_alloc_array(devices, sizeof *o.queues);
    o.free_at = bg_alloc_array(devices, sizeof *o.free_at);
    o.left = bg_alloc_array((size_t)devices * o.ranges, sizeof *o.left);
    o.through = bg_alloc_array(devices, sizeof *o.through);
    o.held = bg_alloc_array(devices, sizeof *o.held);
    o.peak = bg_alloc_array(devices, sizeof *o.peak);
    for (uint32_t ahead = 1; ahead <= AHEAD_MAX && ahead <= o.ranges; ahead++)
        for (int by_tail = 0; by_tail < 2; by_tail++) {
            if ((ahead == 1 && by_tail) || (o.count > TRIED_MAX && (ahead > 2 || by_tail)))
                continue;
            try_order(&o, ahead, by_tail);
            if (better(&o, memory, &best))
                take(&o, &best);
        }
    best.bound = lower_bound(&o);
    fini(&o);
    *order = best;
    return memory <= 0 || most_held(best.peak, devices) <= memory;
}

void distmm_order_fini(struct distmm_order *order)
{
    bg_free(order->ops);
    bg_free(order->peak);
    *order = (struct distmm_order){0};
}
