// ZB-V (Qi et al., "Zero Bubble Pipeline Parallelism", ICLR'24, section 6): two chunks a worker, worker r of P with
// stages r and 2P-1-r, so that the last stage's gradient starts where the first stage is, and all workers hold equally
// much. A greedy run, as the paper's: forwards until memory (2P chunks) is full, then one B and one F a turn of every
// worker, W into gaps; run again with the gaps of the last run granted, while that shortens the longest.
//
// A leg is half the way: F goes along leg 0 (stages 0..P-1, workers up) and leg 1 (stages P..2P-1, workers down), B the
// same way back: its leg 0 are stages 2P-1..P (workers up), its leg 1 stages P-1..0.
#include "plan/schedule/schedule_int.h"

#include "base/mem.h"

#include <math.h>
#include <string.h>

struct worker {
    uint32_t f[2], b[2], w; // so many are done, by leg
    uint32_t held;          // chunks in flight
    double now, bubble;     // time it waited behind its first F
};
struct greedy {
    const struct plan_pipe *pipe;
    double limit;
    bool fill_f, fill_b; // a W goes before an F, a B of leg 0 that it delays, where the gap exceeds the slack
    struct worker *workers;
    double *end;           // (kind F or B, leg, workers, items): when it is done; -1: it is not
    double worst;          // bubble of any worker
    const double *granted; // (workers): the bubbles of the last run, or NULL
    double granted_most;
    struct plan_list *lists;
    uint32_t *pending; // (workers, 2 items): stage and item of W to come, in the order of their B
    bool fits;
};

static double *end_of(const struct greedy *g, bool backward, uint32_t leg, uint32_t w, uint32_t item)
{
    const size_t row = (size_t)(backward * 2 + leg) * g->pipe->workers + w;
    return &g->end[row * g->pipe->items + item];
}

static uint32_t stage_of(const struct greedy *g, bool backward, uint32_t leg, uint32_t w)
{
    return leg == backward ? w : g->pipe->stages - 1 - w;
}

static uint32_t waiting(const struct greedy *g, uint32_t w)
{
    return g->workers[w].b[0] + g->workers[w].b[1] - g->workers[w].w;
}

// The worker before this one on the leg; the worker itself where the leg begins.
static uint32_t before(const struct greedy *g, uint32_t leg, uint32_t w)
{
    if (leg == 0)
        return w ? w - 1 : w;
    return w + 1 < g->pipe->workers ? w + 1 : w;
}

// When the input of the worker's next F or B of this leg is there; -1: from this worker, or not yet.
static double arrival(const struct greedy *g, bool backward, uint32_t leg, uint32_t w)
{
    const uint32_t from = before(g, leg, w), item = (backward ? g->workers[w].b : g->workers[w].f)[leg];
    if (from == w || item >= g->pipe->items)
        return -1;
    const double end = *end_of(g, backward, leg, from, item);
    return end < 0 ? -1 : end + g->pipe->comm;
}

static double w_cost(const struct greedy *g, uint32_t w)
{
    return g->pipe->weight[g->pending[(size_t)w * g->pipe->items * 2 + g->workers[w].w] / g->pipe->items];
}

static void put_w(struct greedy *g, uint32_t w)
{
    struct worker *worker = &g->workers[w];
    if (waiting(g, w) == 0) {
        g->fits = false;
        return;
    }
    const uint32_t cell = g->pending[(size_t)w * g->pipe->items * 2 + worker->w];
    worker->now += w_cost(g, w);
    worker->w++;
    worker->held--;
    plan_put(&g->lists[w], PLAN_W, cell / g->pipe->items, cell % g->pipe->items);
}

static void put(struct greedy *g, bool backward, uint32_t leg, uint32_t w)
{
    struct worker *worker = &g->workers[w];
    uint32_t *next = backward ? &worker->b[leg] : &worker->f[leg];
    const uint32_t from = before(g, leg, w), item = *next, stage = stage_of(g, backward, leg, w);
    const bool own = leg == 0 ? !backward || worker->f[1] > item : (backward ? worker->b[0] : worker->f[0]) > item;
    if (item >= g->pipe->items || !own || (from != w && *end_of(g, backward, leg, from, item) < 0) ||
        (!backward && worker->held + 1 > g->limit)) {
        g->fits = false;
        return;
    }
    const double time = plan_pipe_cost(g->pipe, backward ? PLAN_B : PLAN_F, stage), at_once = worker->now + time;
    const double there = arrival(g, backward, leg, w) + time, end = there > at_once ? there : at_once;
    if (worker->f[0] > 0)
        worker->bubble += end - at_once;
    g->worst = worker->bubble > g->worst ? worker->bubble : g->worst;
    worker->now = *end_of(g, backward, leg, w, item) = end;
    worker->held += !backward;
    if (backward)
        g->pending[(size_t)w * g->pipe->items * 2 + worker->b[0] + worker->b[1]] = stage * g->pipe->items + item;
    plan_put(&g->lists[w], backward ? PLAN_B : PLAN_F, stage, item);
    ++*next;
}

// How much longer the worker may still wait.
static double slack(const struct greedy *g, uint32_t w)
{
    const double granted = g->granted ? g->granted_most - g->granted[w] : 0;
    return (granted > g->worst ? granted : g->worst) - g->workers[w].bubble;
}

// W into the gap before an op whose input is there at `there`; one more where the gap exceeds the slack.
static void fill(struct greedy *g, uint32_t w, double there, bool over)
{
    while (g->fits && waiting(g, w) && there >= 0 && there >= g->workers[w].now + w_cost(g, w))
        put_w(g, w);
    if (over && waiting(g, w) && there >= 0 && there - g->workers[w].now > slack(g, w))
        put_w(g, w);
}

// Forwards until the first gradient comes back, from the last worker to the first; then the later workers take as many
// as the one before, both legs in turn.
static void warm_up(struct greedy *g)
{
    const uint32_t workers = g->pipe->workers, items = g->pipe->items;
    for (uint32_t w = 0; w < workers; w++)
        put(g, false, 0, w);
    put(g, false, 1, workers - 1);
    for (uint32_t w = workers - 1; w-- > 0 && g->fits;) {
        const struct worker *worker = &g->workers[w];
        const double there = arrival(g, false, 1, w);
        while (g->fits && worker->held + 2 + w * 2 <= g->limit && worker->now + g->pipe->forward[w] <= there &&
               worker->f[0] < items)
            for (uint32_t k = 0; k <= w; k++)
                put(g, false, 0, k);
        put(g, false, 1, w);
    }
    uint32_t leg = 0;
    for (uint32_t w = 1; w < workers && g->fits; w++) {
        const struct worker *here = &g->workers[w], *last = here - 1;
        while (g->fits && (here->f[0] + here->f[1] < last->f[0] + last->f[1] ||
                           (here->f[1] <= last->f[1] && last->f[1] < items))) {
            for (uint32_t k = workers; k-- > w && g->fits;)
                if (g->workers[k].f[leg] < items)
                    put(g, false, leg, k);
            leg = 1 - leg;
        }
    }
}

static void turn_of_backwards(struct greedy *g, uint8_t *legs)
{
    const uint32_t workers = g->pipe->workers;
    for (uint32_t w = 0; w < workers; w++) {
        const struct worker *worker = &g->workers[w];
        const bool came = w + 1 == workers || arrival(g, true, 1, w) >= 0 || worker->b[0] >= g->pipe->items;
        legs[w] = worker->b[1] < worker->b[0] && came;
    }
    for (uint32_t w = workers; w-- > 0 && g->fits;) {
        if (!legs[w])
            continue;
        fill(g, w, arrival(g, true, 1, w), true);
        put(g, true, 1, w);
    }
    for (uint32_t w = 0; w < workers && g->fits; w++) {
        if (legs[w])
            continue;
        fill(g, w, arrival(g, true, 0, w), g->fill_b);
        put(g, true, 0, w);
    }
}

static void turn_of_forwards(struct greedy *g)
{
    const uint32_t workers = g->pipe->workers, items = g->pipe->items;
    for (uint32_t w = 0; w < workers && g->fits; w++) {
        const struct worker *worker = &g->workers[w];
        if (worker->f[1] >= items)
            continue;
        uint32_t leg = 1;
        if (worker->f[1] >= worker->f[0])
            leg = 0;
        else if (w + 1 < workers && arrival(g, false, 1, w) < 0) {
            if (worker->f[0] >= items || (w > 0 && arrival(g, false, 0, w) < 0))
                continue;
            leg = 0;
        }
        while (g->fits && worker->held + 1 > g->limit)
            put_w(g, w);
        fill(g, w, arrival(g, false, leg, w), g->fill_f);
        put(g, false, leg, w);
    }
}

// bubbles: (workers), of this run. Returns the longest.
static double run(struct greedy *g, double *bubbles)
{
    const uint32_t workers = g->pipe->workers, items = g->pipe->items;
    uint8_t *legs = bg_alloc_array(workers, sizeof *legs);
    memset(g->workers, 0, workers * sizeof *g->workers);
    for (size_t c = 0; c < (size_t)4 * workers * items; c++)
        g->end[c] = -1;
    for (uint32_t w = 0; w < workers; w++)
        g->lists[w].count = 0;
    g->fits = true;
    g->worst = 0;
    warm_up(g);
    for (uint32_t turn = 0; turn < 2 * items && g->fits; turn++) {
        turn_of_backwards(g, legs);
        turn_of_forwards(g);
    }
    for (uint32_t w = 0; w < workers; w++) {
        while (waiting(g, w))
            put_w(g, w);
        bubbles[w] = g->workers[w].bubble;
        g->fits &= g->workers[w].w == 2 * items;
    }
    bg_free(legs);
    return g->worst;
}

static void keep(struct greedy *g, struct plan_list *lists)
{
    for (uint32_t w = 0; w < g->pipe->workers; w++) {
        const struct plan_list last = lists[w];
        lists[w] = g->lists[w];
        g->lists[w] = last;
    }
}

// Runs with the gaps of the last one granted, while they get less. Less than `best`: into lists.
static double improve(struct greedy *g, double best, struct plan_list *lists)
{
    const uint32_t workers = g->pipe->workers;
    double *bubbles = bg_alloc_array(workers, sizeof *bubbles), *granted = bg_alloc_array(workers, sizeof *granted);
    double last = -1;
    g->granted = NULL;
    for (;;) {
        const double most = run(g, bubbles);
        if (!g->fits || (last >= 0 && most >= last))
            break;
        last = most;
        if (best < 0 || most < best) {
            best = most;
            keep(g, lists);
        }
        memcpy(granted, bubbles, workers * sizeof *granted);
        g->granted = granted;
        g->granted_most = most;
    }
    g->granted = NULL;
    bg_free(bubbles);
    bg_free(granted);
    return best;
}

// All four ways to fill gaps. Returns the longest bubble of the best, -1: none fits.
static double search(const struct plan_pipe *pipe, double limit, struct plan_list *lists)
{
    const size_t cells = (size_t)pipe->workers * pipe->items;
    struct greedy g = {.pipe = pipe,
                       .limit = limit,
                       .workers = bg_alloc_array(pipe->workers, sizeof *g.workers),
                       .end = bg_alloc_array(4 * cells, sizeof *g.end),
                       .lists = bg_alloc_array(pipe->workers, sizeof *g.lists),
                       .pending = bg_alloc_array(2 * cells, sizeof *g.pending)};
    double best = -1;
    for (uint32_t k = 0; k < 4; k++) {
        g.fill_b = !(k & 2);
        g.fill_f = !(k & 1);
        best = improve(&g, best, lists);
    }
    for (uint32_t w = 0; w < pipe->workers; w++)
        bg_free(g.lists[w].ops);
    void *parts[] = {g.workers, g.end, g.lists, g.pending};
    for (size_t i = 0; i < sizeof parts / sizeof *parts; i++)
        bg_free(parts[i]);
    return best;
}

// As if every stage took the mean of all: the warm-up of very unequal stages can run into its own memory.
static double search_alike(const struct plan_pipe *pipe, double limit, struct plan_list *lists)
{
    const double *const times[3] = {pipe->forward, pipe->input, pipe->weight};
    double *means = bg_alloc_array((size_t)3 * pipe->stages, sizeof *means);
    for (uint32_t k = 0; k < 3; k++) {
        double sum = 0;
        for (uint32_t s = 0; s < pipe->stages; s++)
            sum += times[k][s];
        for (uint32_t s = 0; s < pipe->stages; s++)
            means[k * pipe->stages + s] = sum / pipe->stages;
    }
    struct plan_pipe alike = *pipe;
    alike.forward = means;
    alike.input = means + pipe->stages;
    alike.weight = means + (size_t)2 * pipe->stages;
    const double best = search(&alike, limit, lists);
    bg_free(means);
    return best;
}

static bool order(const struct plan_pipe *pipe, double limit, struct plan_list *lists)
{
    return search(pipe, limit, lists) >= 0 || search_alike(pipe, limit, lists) >= 0;
}

bg_status plan_order_zero_bubble_v(const struct plan_pipe *pipe, struct bg_error *err, struct plan_list *lists)
{
    const double all = 2.0 * pipe->workers, limit = pipe->memory > 0 ? pipe->memory : all;
    if (order(pipe, limit, lists))
        return BG_OK;
    double enough = all; // unless there are too few micro-batches to hold as many
    if (limit < all && order(pipe, all, lists)) {
        enough = 0;
        for (uint32_t w = 0; w < pipe->workers; w++)
            enough = fmax(enough, plan_list_peak(&lists[w], 1));
        if (enough <= limit)
            return BG_OK;
    }
    return bg_fail(err, BG_INVALID,
                   "zb-v: memory for %g micro-batches of a stage, %u workers need it for %g; give it that, or take "
                   "zb-v-half or zb-v-min",
                   limit, pipe->workers, enough);
}
