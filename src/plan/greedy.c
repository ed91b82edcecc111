// List scheduling: the order for shapes that the published schedules do not fit (stages with different numbers of
// replicas, items that do not divide) and for the rest of a step after a death. A run in which an op takes a worker the
// longer, the fewer items it has, and in which every free worker takes the first ready of: an input gradient, a forward
// within its bound of items in flight, a weight gradient. Where nothing runs and nothing may start, the bound gives
// way, so it always drains.
#include "base/assert.h"
#include "base/mem.h"
#include "plan/plan_int.h"

#include <string.h>

enum { TURN = 16 }; // of the worker with most items

struct greedy {
    struct plan *plan;
    const struct plan_work *work;
    uint64_t now;
    size_t left_count;            // ops still to be placed
    uint8_t *left;                // (stages, items): PLAN_WORK_F, B, W still to be placed
    uint64_t *f_done, *b_done;    // (stages, items): when; UINT64_MAX: not yet
    uint64_t *busy;               // (workers): until when
    uint32_t *flights;            // (stages, workers)
    uint32_t *bound;              // (stages)
    uint64_t *turn;               // (workers): how long a forward takes it
    size_t *cells, *begin, *head; // (workers): its cells by rank are cells[begin[w]..begin[w + 1]), done before head
};

static bool startable(const struct greedy *g, uint32_t w, size_t cell, uint8_t bit, bool bounded)
{
    const size_t items = g->plan->item_count, stage = cell / items;
    const uint8_t left = g->left[cell], bits = g->work->bits[cell];
    if (!(left & bit))
        return false;
    if (bit == PLAN_WORK_F) {
        bool input = stage == 0 || (bits & PLAN_WORK_HAS_X) || g->f_done[cell - items] <= g->now;
        bool stays = (bits & PLAN_WORK_B) && !(bits & PLAN_WORK_HAS_STASH);
        return input && (!bounded || !stays || g->flights[stage * g->plan->workers + w] < g->bound[stage]);
    }
    if (bit == PLAN_WORK_B)
        return !(left & PLAN_WORK_F) &&
               (stage + 1 == g->plan->stage_count || (bits & PLAN_WORK_HAS_DY) || g->b_done[cell + items] <= g->now);
    return !(left & PLAN_WORK_B);
}

static void start(struct greedy *g, uint32_t w, size_t cell, uint8_t bit)
{
    const uint32_t stage = (uint32_t)(cell / g->plan->item_count), item = (uint32_t)(cell % g->plan->item_count);
    const uint8_t bits = g->work->bits[cell];
    uint32_t *flights = &g->flights[stage * g->plan->workers + w];
    const bool fused = bit == PLAN_WORK_B && (bits & PLAN_WORK_W) && !g->work->split;
    plan_add_op(g->plan, g->work, stage, item, bit);
    const uint8_t done = fused ? PLAN_WORK_B | PLAN_WORK_W : bit;
    g->left[cell] = (uint8_t)(g->left[cell] & ~done);
    g->left_count -= fused ? 2 : 1;
    g->busy[w] = g->now + (fused ? 2 : 1) * g->turn[w];
    if (bit == PLAN_WORK_F) {
        g->f_done[cell] = g->busy[w];
        *flights += (bits & PLAN_WORK_B) && !(bits & PLAN_WORK_HAS_STASH);
        return;
    }
    if (bit == PLAN_WORK_B)
        g->b_done[cell] = g->busy[w];
    if (!(g->left[cell] & PLAN_WORK_W))
        --*flights;
}

// Starts the best op of a free worker; false: there is none.
static bool start_one(struct greedy *g, uint32_t w, bool bounded)
{
    static const uint8_t wishes[] = {PLAN_WORK_B, PLAN_WORK_F, PLAN_WORK_W};
    while (g->head[w] < g->begin[w + 1] && !g->left[g->cells[g->head[w]]])
        g->head[w]++;
    for (size_t wish = 0; wish < sizeof wishes; wish++)
        for (size_t k = g->head[w]; k < g->begin[w + 1]; k++)
            if (startable(g, w, g->cells[k], wishes[wish], bounded)) {
                start(g, w, g->cells[k], wishes[wish]);
                return true;
            }
    return false;
}

// The next time at which a worker is free again.
static uint64_t later(const struct greedy *g)
{
    uint64_t next = UINT64_MAX;
    for (uint32_t w = 0; w < g->plan->workers; w++)
        if (g->busy[w] > g->now && g->busy[w] < next)
            next = g->busy[w];
    return next;
}

static void run(struct greedy *g)
{
    const uint32_t workers = g->plan->workers;
    for (; g->left_count > 0; g->now = later(g)) {
        bool active = false;
        for (uint32_t w = 0; w < workers; w++)
            active |= g->busy[w] > g->now || start_one(g, w, true);
        for (uint32_t w = 0; w < workers && !active; w++)
            active = start_one(g, w, false);
        BG_ASSERT(active); // the work is closed: whatever an op needs is in it or is held
    }
}

// Items in flight at a stage: as many as workers sit there and behind, as 1F1B has them where all stages are alike.
static void set_bounds(struct greedy *g)
{
    uint32_t *seats = bg_alloc_array(g->plan->stage_count + 1u, sizeof *seats), behind = 0;
    for (uint32_t k = 0; k < g->plan->seat_count; k++)
        seats[g->plan->seats[k].stage]++;
    for (uint32_t s = g->plan->stage_count; s-- > 0;) {
        behind += seats[s];
        g->bound[s] = seats[s] ? (behind + seats[s] - 1) / seats[s] : 1;
    }
    bg_free(seats);
}

static void set_cells(struct greedy *g)
{
    const struct plan *plan = g->plan;
    uint32_t *items = bg_alloc_array(plan->item_count, sizeof *items);
    for (uint32_t i = 0; i < plan->item_count; i++)
        items[g->work->rank[i]] = i;
    for (size_t c = 0; c < plan_cells(plan); c++) {
        g->left[c] = g->work->bits[c] & (PLAN_WORK_F | PLAN_WORK_B | PLAN_WORK_W);
        g->left_count += (size_t)__builtin_popcount(g->left[c]);
        if (g->left[c])
            g->begin[g->work->at[c] + 1]++;
        if (g->left[c] && (g->work->bits[c] & PLAN_WORK_HAS_STASH))
            g->flights[c / plan->item_count * plan->workers + g->work->at[c]] += (g->left[c] & ~PLAN_WORK_F) != 0;
    }
    for (uint32_t w = 0; w < plan->workers; w++) {
        g->begin[w + 1] += g->begin[w];
        g->head[w] = g->begin[w];
    }
    for (uint32_t k = 0; k < plan->item_count; k++)
        for (uint32_t s = plan->stage_count; s-- > 0;) {
            size_t c = plan_cell(plan, s, items[k]);
            if (g->left[c])
                g->cells[g->head[g->work->at[c]]++] = c;
        }
    memcpy(g->head, g->begin, plan->workers * sizeof *g->head);
    bg_free(items);
}

// Plans give all workers the same time to be busy: who has fewer items takes longer for each.
static void set_turns(struct greedy *g)
{
    size_t most = 0;
    for (uint32_t w = 0; w < g->plan->workers; w++)
        most = g->begin[w + 1] - g->begin[w] > most ? g->begin[w + 1] - g->begin[w] : most;
    for (uint32_t w = 0; w < g->plan->workers; w++) {
        const size_t items = g->begin[w + 1] - g->begin[w];
        g->turn[w] = items ? (TURN * most + items / 2) / items : TURN;
    }
}

void plan_order_greedy(struct plan *plan, const struct plan_work *work)
{
    const size_t cells = plan_cells(plan), workers = plan->workers;
    struct greedy g = {.plan = plan,
                       .work = work,
                       .left = bg_alloc_array(cells, 1),
                       .f_done = bg_alloc_array(cells, sizeof *g.f_done),
                       .b_done = bg_alloc_array(cells, sizeof *g.b_done),
                       .busy = bg_alloc_array(workers, sizeof *g.busy),
                       .flights = bg_alloc_array(workers * plan->stage_count, sizeof *g.flights),
                       .bound = bg_alloc_array(plan->stage_count, sizeof *g.bound),
                       .cells = bg_alloc_array(cells, sizeof *g.cells),
                       .turn = bg_alloc_array(workers, sizeof *g.turn),
                       .begin = bg_alloc_array(workers + 1, sizeof *g.begin),
                       .head = bg_alloc_array(workers, sizeof *g.head)};
    memset(g.f_done, 0xff, cells * sizeof *g.f_done);
    memset(g.b_done, 0xff, cells * sizeof *g.b_done);
    set_bounds(&g);
    set_cells(&g);
    set_turns(&g);
    run(&g);
    void *parts[] = {g.left, g.f_done, g.b_done, g.busy, g.flights, g.bound, g.turn, g.cells, g.begin, g.head};
    for (size_t i = 0; i < sizeof parts / sizeof *parts; i++)
        bg_free(parts[i]);
}
