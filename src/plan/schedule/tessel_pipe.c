// Pipelines ordered by Tessel's search. Items that take the same workers are a class, and a chain of blocks: F of each
// stage, then B (and W behind it) back. Classes that meet at a worker are searched together (two opposite pipelines are
// Tessel's xshape), the others on their own. Times become small whole numbers; the order is all that is kept of them.
#include "plan/schedule/tessel.h"

#include "base/mem.h"
#include "plan/schedule/schedule_int.h"
#include "plan/schedule/tessel_int.h"

#include <math.h>
#include <string.h>

#define EFFORT 1000000u // of one search: milliseconds
enum {
    STEPS = 12,    // of the longest op
    SEARCHED = 16, // blocks, of which a repetend is searched
};

struct classes {
    const struct plan_pipe *pipe;
    uint32_t *of;           // (items): its class
    uint32_t *first, *size; // (classes): an item of it, and how many
    uint32_t *group;        // (classes): the lowest class that it meets, over others as well
    uint32_t count;
};

struct cell { // what a block stands for
    uint32_t kind, class, stage;
};

static uint32_t worker_of(const struct plan_pipe *pipe, uint32_t stage, uint32_t item)
{
    return pipe->at[(size_t)stage * pipe->items + item];
}

static bool same_way(const struct plan_pipe *pipe, uint32_t a, uint32_t b)
{
    for (uint32_t s = 0; s < pipe->stages; s++)
        if (worker_of(pipe, s, a) != worker_of(pipe, s, b))
            return false;
    return true;
}

static bool meet(const struct plan_pipe *pipe, uint32_t a, uint32_t b)
{
    for (uint32_t s = 0; s < pipe->stages; s++)
        for (uint32_t t = 0; t < pipe->stages; t++)
            if (worker_of(pipe, s, a) == worker_of(pipe, t, b))
                return true;
    return false;
}

static void merge_groups(struct classes *c, uint32_t a, uint32_t b)
{
    const uint32_t low = c->group[a] < c->group[b] ? c->group[a] : c->group[b];
    const uint32_t high = c->group[a] < c->group[b] ? c->group[b] : c->group[a];
    for (uint32_t k = 0; k < c->count; k++)
        if (c->group[k] == high)
            c->group[k] = low;
}

static struct classes classes_of(const struct plan_pipe *pipe)
{
    struct classes c = {.pipe = pipe};
    c.of = bg_alloc_array(pipe->items, sizeof *c.of);
    c.first = bg_alloc_array(pipe->items, sizeof *c.first);
    c.size = bg_alloc_array(pipe->items, sizeof *c.size);
    c.group = bg_alloc_array(pipe->items, sizeof *c.group);
    for (uint32_t i = 0; i < pipe->items; i++) {
        uint32_t k = 0;
        while (k < c.count && !same_way(pipe, c.first[k], i))
            k++;
        if (k == c.count) {
            c.first[k] = i;
            c.group[k] = k;
            c.count++;
            for (uint32_t other = 0; other < k; other++)
                if (c.group[other] != c.group[k] && meet(pipe, c.first[other], i))
                    merge_groups(&c, other, k);
        }
        c.of[i] = k;
        c.size[k]++;
    }
    return c;
}

static void fini_classes(struct classes *c)
{
    bg_free(c->of);
    bg_free(c->first);
    bg_free(c->size);
    bg_free(c->group);
}

// ---- Blocks ----

struct blocks {
    struct plan_placement placement;
    struct cell cells[PLAN_BLOCKS_MAX];
    uint32_t workers[PLAN_DEVICES_MAX]; // of the devices
    double step;                        // time of one
};

static double time_of(const struct plan_pipe *pipe, uint32_t kind, uint32_t stage)
{
    const double time = plan_pipe_cost(pipe, (enum plan_op_kind)kind, stage);
    return kind == PLAN_B && !pipe->split ? time + pipe->weight[stage] : time;
}

static double step_of(const struct plan_pipe *pipe)
{
    double most = 0;
    for (uint32_t s = 0; s < pipe->stages; s++)
        for (uint32_t kind = PLAN_F; kind <= (pipe->split ? PLAN_W : PLAN_B); kind++)
            most = fmax(most, time_of(pipe, kind, s));
    return most > 0 ? most / STEPS : 1;
}

static uint32_t device_of(struct blocks *b, uint32_t worker)
{
    uint32_t d = 0;
    while (d < b->placement.devices && b->workers[d] != worker)
        d++;
    if (d == b->placement.devices)
        b->workers[b->placement.devices++] = worker;
    return d;
}

static uint32_t add_block(struct blocks *b, const struct plan_pipe *pipe, struct cell cell, uint32_t item,
                          uint32_t need)
{
    const uint32_t device = device_of(b, worker_of(pipe, cell.stage, item));
    const double steps = round(time_of(pipe, cell.kind, cell.stage) / b->step);
    const bool frees = cell.kind == (pipe->split ? PLAN_W : PLAN_B);
    const struct plan_block block = {.span = steps < 1 ? 1 : (uint32_t)steps,
                                     .memory = cell.kind == PLAN_F ? 1
                                               : frees             ? -1
                                                                   : 0,
                                     .devices = (uint64_t)1 << device};
    b->cells[b->placement.block_count] = cell;
    return plan_placement_add(&b->placement, &block, &need, need != PLAN_NOBODY);
}

static uint32_t common_divisor(uint32_t a, uint32_t b)
{
    while (b) {
        const uint32_t rest = a % b;
        a = b;
        b = rest;
    }
    return a;
}

// Spans and the time of a message without a common divisor, so that the search counts few steps. Returns the message's.
static uint32_t reduce(struct blocks *b, const struct plan_pipe *pipe)
{
    const uint32_t comm = (uint32_t)ceil(fmax(0, fmin(pipe->comm / b->step, 100 * STEPS)));
    uint32_t divisor = comm;
    for (uint32_t i = 0; i < b->placement.block_count; i++)
        divisor = common_divisor(b->placement.blocks[i].span, divisor);
    for (uint32_t i = 0; i < b->placement.block_count; i++)
        b->placement.blocks[i].span /= divisor;
    return comm / divisor;
}

static bg_status build_blocks(const struct classes *c, uint32_t group, struct bg_error *err, struct blocks *b)
{
    const struct plan_pipe *pipe = c->pipe;
    uint64_t blocks = 0;
    bool devices_fit = true;
    for (uint32_t k = 0; k < c->count; k++)
        blocks += c->group[k] == group ? (uint64_t)pipe->stages * (pipe->split ? 3 : 2) : 0;
    for (uint32_t k = 0; k < c->count && blocks <= PLAN_BLOCKS_MAX; k++)
        for (uint32_t s = 0; s < pipe->stages && c->group[k] == group && devices_fit; s++) {
            devices_fit = b->placement.devices < PLAN_DEVICES_MAX;
            if (devices_fit)
                device_of(b, worker_of(pipe, s, c->first[k]));
        }
    if (blocks > PLAN_BLOCKS_MAX || !devices_fit)
        return bg_fail(err, BG_UNSUPPORTED,
                       "tessel: %llu blocks on the workers of one pipeline, expected at most %d on fewer than %d; take "
                       "fewer stages or another schedule",
                       (unsigned long long)blocks, PLAN_BLOCKS_MAX, PLAN_DEVICES_MAX);
    b->step = step_of(pipe);
    for (uint32_t k = 0; k < c->count; k++) {
        uint32_t last = PLAN_NOBODY;
        if (c->group[k] != group)
            continue;
        for (uint32_t s = 0; s < pipe->stages; s++)
            last = add_block(b, pipe, (struct cell){PLAN_F, k, s}, c->first[k], last);
        for (uint32_t s = pipe->stages; s-- > 0;) {
            last = add_block(b, pipe, (struct cell){PLAN_B, k, s}, c->first[k], last);
            if (pipe->split)
                add_block(b, pipe, (struct cell){PLAN_W, k, s}, c->first[k], last);
        }
    }
    return BG_OK;
}

// ---- Search ----

static void take_better(struct plan_tessel_run *best, struct plan_tessel_run *run)
{
    if (!best->ops || run->makespan < best->makespan) {
        plan_tessel_run_fini(best);
        *best = *run;
    } else {
        plan_tessel_run_fini(run);
    }
}

struct wanted {
    const struct plan_placement *p;
    uint32_t items, comm;
    int64_t memory;
    bool split;
};

// The run, or with its weight gradients in the gaps, if that is better; without a limit these hold no more than it did.
static void consider(const struct wanted *w, struct plan_tessel_run *best, struct plan_tessel_run *run)
{
    struct plan_tessel_run filled;
    int64_t memory = w->memory;
    for (uint32_t d = 0; d < w->p->devices && w->memory == 0; d++)
        memory = run->peak_memory[d] > memory ? run->peak_memory[d] : memory;
    if (w->split && tessel_run_fill(w->p, w->items, memory, w->comm, run, &filled))
        take_better(best, &filled);
    take_better(best, run);
}

// The best of two periodic schedules and, where there are few blocks, of repetends with a few numbers of items in
// flight around that of devices.
static bg_status search(const struct wanted *w, struct bg_error *err, struct plan_tessel_run *best)
{
    const struct plan_placement *p = w->p;
    const uint32_t most = w->items < p->block_count ? w->items : p->block_count;
    struct plan_tessel_run run;
    struct bg_error why; // what a number in flight lacks; a periodic schedule lacks less
    bg_status status = BG_OK;
    *best = (struct plan_tessel_run){0};
    for (int last = 0; last < 2; last++) {
        status = plan_tessel_periodic(p, w->items, w->memory, w->comm, last, err, &run);
        if (!status)
            consider(w, best, &run);
    }
    for (uint32_t n = p->devices > 1 ? p->devices - 1 : 1; n <= p->devices + 1 && n <= most; n++) {
        const struct plan_tessel_options options = {
            .in_flight = n, .memory = w->memory, .comm = w->comm, .effort = EFFORT};
        struct plan_tessel tessel;
        if (p->block_count > SEARCHED || plan_tessel_solve(p, &options, &why, &tessel))
            continue;
        if (plan_tessel_unroll(p, &tessel, w->items, w->comm, &why, &run) == BG_OK)
            consider(w, best, &run);
        plan_tessel_fini(&tessel);
    }
    return best->ops ? BG_OK : status;
}

static void put_run(const struct classes *c, const struct blocks *b, const struct plan_tessel_run *run,
                    uint32_t *const *items, struct plan_list *lists)
{
    for (uint32_t i = 0; i < run->count; i++) {
        const struct cell *cell = &b->cells[run->ops[i].block];
        if (run->ops[i].micro >= c->size[cell->class])
            continue; // of a class that has fewer items than others of its group
        const uint32_t item = items[cell->class][run->ops[i].micro];
        const uint8_t flags = cell->kind == PLAN_B && !c->pipe->split ? PLAN_FUSED : 0;
        plan_list_add(&lists[worker_of(c->pipe, cell->stage, item)],
                      (struct plan_op){(uint8_t)cell->kind, flags, (uint16_t)cell->stage, item, 0, 0});
    }
}

static bg_status order_group(const struct classes *c, uint32_t group, uint32_t *const *items, struct bg_error *err,
                             struct plan_list *lists)
{
    struct blocks *b = bg_alloc(sizeof *b);
    struct plan_tessel_run run;
    uint32_t most = 0;
    bg_status status = build_blocks(c, group, err, b);
    for (uint32_t k = 0; k < c->count; k++)
        most = c->group[k] == group && c->size[k] > most ? c->size[k] : most;
    if (!status) {
        const double limit = c->pipe->memory;
        const struct wanted wanted = {.p = &b->placement,
                                      .items = most,
                                      .comm = reduce(b, c->pipe),
                                      .memory = limit > 0 ? (int64_t)fmax(1, fmin(limit, 1e9)) : 0,
                                      .split = c->pipe->split};
        status = search(&wanted, err, &run);
    }
    if (!status) {
        put_run(c, b, &run, items, lists);
        plan_tessel_run_fini(&run);
    }
    plan_placement_fini(&b->placement);
    bg_free(b);
    return status;
}

bg_status plan_order_tessel(const struct plan_pipe *pipe, struct bg_error *err, struct plan_list *lists)
{
    struct classes c = classes_of(pipe);
    uint32_t **items = bg_alloc_array(c.count, sizeof *items); // (classes): their items, ascending
    bg_status status = BG_OK;
    for (uint32_t k = 0; k < c.count; k++) {
        uint32_t n = 0;
        items[k] = bg_alloc_array(c.size[k], sizeof **items);
        for (uint32_t i = 0; i < pipe->items; i++)
            if (c.of[i] == k)
                items[k][n++] = i;
    }
    for (uint32_t k = 0; k < c.count && !status; k++)
        if (c.group[k] == k)
            status = order_group(&c, k, items, err, lists);
    for (uint32_t k = 0; k < c.count; k++)
        bg_free(items[k]);
    bg_free(items);
    fini_classes(&c);
    return status ? bg_fail_prefix(err, "schedule tessel") : BG_OK;
}
