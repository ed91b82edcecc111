// Zero-bubble pipelines (Qi et al., "Zero Bubble Pipeline Parallelism", ICLR'24): B feeds the stage before as soon as
// it can, and W fills the gaps. The order is that of the paper's heuristic: a run in which every stage takes one F and
// one B a round, with W where memory asks for it or where a gap has room; tried in eight ways, of which the one with
// the shortest longest stage is kept. A limit of P items is ZB-H1, of 2P ZB-2p.
#include "plan/schedule/schedule_int.h"

#include "base/mem.h"

#include <string.h>

struct way {
    bool early;   // no F may delay the first B
    bool hurry_b; // an F that the next stage does not wait for gives way to B
    bool fill;    // a W goes into a gap that it does not fit, though the stage is not the one with the most gaps
};
struct stage {
    uint32_t f, b, w;   // so many are done
    double end, bubble; // of its last op; time it waited behind its first F
};
struct run {
    const struct plan_pipe *pipe;
    struct way way;
    double limit;
    struct stage *stages;
    double worst;          // bubble of any stage
    double *f_end, *b_end; // (stages, items)
    struct plan_list *lists;
    bool fits;
};

static double cost(const struct run *run, enum plan_op_kind kind, uint32_t s)
{
    return plan_pipe_cost(run->pipe, kind, s);
}

// When what the next F or B of a stage needs from its neighbour is there; of F at the first stage and B at the last 0.
static double f_arrival(const struct run *run, uint32_t s)
{
    return s ? run->f_end[(size_t)(s - 1) * run->pipe->items + run->stages[s].f] + run->pipe->comm : 0;
}

static double b_arrival(const struct run *run, uint32_t s)
{
    const uint32_t last = run->pipe->stages - 1;
    return s < last ? run->b_end[(size_t)(s + 1) * run->pipe->items + run->stages[s].b] + run->pipe->comm : 0;
}

static void put(struct run *run, uint32_t s, enum plan_op_kind kind)
{
    struct stage *stage = &run->stages[s];
    uint32_t *next = kind == PLAN_F ? &stage->f : kind == PLAN_B ? &stage->b : &stage->w;
    const double time = cost(run, kind, s), at_once = stage->end + time;
    const double arrival = kind == PLAN_F ? f_arrival(run, s) : kind == PLAN_B ? b_arrival(run, s) : 0;
    const double end = at_once > arrival + time ? at_once : arrival + time;
    if (stage->f > 0)
        stage->bubble += end - at_once;
    run->worst = stage->bubble > run->worst ? stage->bubble : run->worst;
    stage->end = end;
    if (kind != PLAN_W)
        (kind == PLAN_F ? run->f_end : run->b_end)[(size_t)s * run->pipe->items + *next] = end;
    plan_put(&run->lists[s], kind, s, *next);
    ++*next;
}

// How much longer the stage may still wait without being the one that waits longest.
static double slack(const struct run *run, uint32_t s)
{
    return run->worst - run->stages[s].bubble;
}

// W while one more F would not fit into memory.
static void make_room(struct run *run, uint32_t s)
{
    const struct stage *stage = &run->stages[s];
    while (run->fits && stage->f - stage->w + 1 > run->limit) {
        run->fits = stage->w < stage->b;
        if (run->fits)
            put(run, s, PLAN_W);
    }
}

// W into the gap until `arrival`.
static void fill(struct run *run, uint32_t s, double arrival)
{
    const struct stage *stage = &run->stages[s];
    while (stage->w < stage->b && stage->end + cost(run, PLAN_W, s) <= arrival)
        put(run, s, PLAN_W);
    if (stage->w < stage->b && stage->end < arrival && (run->way.fill || arrival - stage->end > slack(run, s)))
        put(run, s, PLAN_W);
}

// The forwards before the first backward: as many as memory and the time until that backward allow, fewer at each
// later stage.
static void warm_up(struct run *run)
{
    const struct plan_pipe *pipe = run->pipe;
    const uint32_t stages = pipe->stages;
    uint32_t *more = bg_alloc_array(stages, sizeof *more);
    for (uint32_t s = 0; s < stages; s++)
        put(run, s, PLAN_F);
    double b_end = run->stages[stages - 1].end + cost(run, PLAN_B, stages - 1);
    for (uint32_t s = stages - 1; s-- > 0;) {
        const double f = cost(run, PLAN_F, s), arrival = b_end + pipe->comm;
        double end = run->stages[s].end;
        while (1 + more[s] < pipe->items && more[s] + 2 <= run->limit &&
               !(run->way.early ? end + f > arrival : end >= arrival)) {
            end += f;
            more[s]++;
        }
        b_end = (end > arrival ? end : arrival) + cost(run, PLAN_B, s);
    }
    for (uint32_t s = 1; s < stages; s++) {
        more[s] = more[s] < more[s - 1] ? more[s] : more[s - 1];
        while (more[s] > 0 && more[s] == more[s - 1] && 1 + more[s] < pipe->items)
            more[s]--;
    }
    for (uint32_t s = 0; s < stages; s++)
        for (uint32_t k = 0; k < more[s]; k++)
            put(run, s, PLAN_F);
    for (uint32_t s = stages; s-- > 0;)
        put(run, s, PLAN_B);
    bg_free(more);
}

static bool takes_forward(const struct run *run, uint32_t s)
{
    const struct stage *stage = &run->stages[s], *next = stage + 1;
    if (stage->f >= run->pipe->items)
        return false;
    if (!run->way.hurry_b || s + 1 == run->pipe->stages || stage->f < next->f + 2)
        return true;
    const double next_end = next->end + cost(run, PLAN_F, s + 1) + cost(run, PLAN_B, s + 1) + run->pipe->comm;
    if (stage->end >= next_end)
        return false;
    double weights = 0;
    for (uint32_t k = 0; stage->f - stage->w - k + 1 > run->limit && stage->w + k < stage->b; k++)
        weights += cost(run, PLAN_W, s);
    return stage->end + cost(run, PLAN_F, s) + weights <= next_end || next_end - stage->end > slack(run, s);
}

// One F of every stage that takes one, then one B of every stage.
static void round_of(struct run *run, uint8_t *takes)
{
    const uint32_t stages = run->pipe->stages;
    for (uint32_t s = 0; s < stages; s++)
        takes[s] = takes_forward(run, s);
    for (uint32_t s = stages - 1; s-- > 0;)
        takes[s] &= takes[s + 1];
    for (uint32_t s = 0; s < stages && run->fits; s++) {
        if (!takes[s])
            continue;
        make_room(run, s);
        if (s > 0)
            fill(run, s, f_arrival(run, s));
        put(run, s, PLAN_F);
    }
    for (uint32_t s = stages; s-- > 0 && run->fits;) {
        run->fits = run->stages[s].f > run->stages[s].b; // its F may have given way once too often
        if (s + 1 < stages)
            fill(run, s, b_arrival(run, s));
        while (s == 0 && run->stages[0].f == run->pipe->items && run->stages[0].w < run->stages[0].b)
            put(run, 0, PLAN_W);
        put(run, s, PLAN_B);
    }
}

// The longest time of a stage from its first F to its last W.
static double run_all(struct run *run)
{
    const struct plan_pipe *pipe = run->pipe;
    double longest = 0;
    uint8_t *takes = bg_alloc_array(pipe->stages, sizeof *takes);
    memset(run->stages, 0, pipe->stages * sizeof *run->stages);
    run->fits = run->limit >= 1;
    run->worst = 0;
    warm_up(run);
    for (uint32_t i = 1; i < pipe->items && run->fits; i++)
        round_of(run, takes);
    for (uint32_t s = 0; s < pipe->stages && run->fits; s++) {
        while (run->stages[s].w < pipe->items)
            put(run, s, PLAN_W);
        const double span = run->stages[s].end - run->f_end[(size_t)s * pipe->items] + cost(run, PLAN_F, s);
        longest = span > longest ? span : longest;
    }
    bg_free(takes);
    return longest;
}

static bg_status order(const struct plan_pipe *pipe, double limit, struct bg_error *err, struct plan_list *lists)
{
    if (limit < 1)
        return bg_fail(err, BG_INVALID, "zero bubble: memory for %g items a worker, expected at least 1", limit);
    const size_t cells = (size_t)pipe->stages * pipe->items;
    struct run run = {.pipe = pipe,
                      .limit = limit,
                      .stages = bg_alloc_array(pipe->stages, sizeof *run.stages),
                      .f_end = bg_alloc_array(cells, sizeof *run.f_end),
                      .b_end = bg_alloc_array(cells, sizeof *run.b_end),
                      .lists = bg_alloc_array(pipe->workers, sizeof *run.lists)};
    double best = -1;
    for (uint32_t k = 0; k < 8; k++) {
        run.way = (struct way){!(k & 4), !(k & 2), !(k & 1)};
        for (uint32_t w = 0; w < pipe->workers; w++)
            run.lists[w].count = 0;
        const double longest = run_all(&run);
        if (!run.fits || (best >= 0 && longest >= best))
            continue;
        best = longest;
        for (uint32_t w = 0; w < pipe->workers; w++) { // what was best before becomes the next run's
            const struct plan_list last = lists[w];
            lists[w] = run.lists[w];
            run.lists[w] = last;
        }
    }
    for (uint32_t w = 0; w < pipe->workers; w++)
        bg_free(run.lists[w].ops);
    void *parts[] = {run.stages, run.f_end, run.b_end, run.lists};
    for (size_t i = 0; i < sizeof parts / sizeof *parts; i++)
        bg_free(parts[i]);
    return best >= 0 ? BG_OK
                     : bg_fail(err, BG_INVALID, "zero bubble: memory for %g items a worker is too little", limit);
}

bg_status plan_order_zero_bubble_1p(const struct plan_pipe *pipe, struct bg_error *err, struct plan_list *lists)
{
    return order(pipe, pipe->memory > 0 ? pipe->memory : pipe->workers, err, lists);
}

bg_status plan_order_zero_bubble_2p(const struct plan_pipe *pipe, struct bg_error *err, struct plan_list *lists)
{
    return order(pipe, pipe->memory > 0 ? pipe->memory : 2.0 * pipe->workers, err, lists);
}
