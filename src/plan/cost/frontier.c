// The frontier by a flow that grows while the makespan shrinks. Nodes are the beginnings and ends of ops with a time
// each; an op is an arc whose flow lies between what it would save by one unit more and what it costs by one unit less
// at its present length, an edge is one without a bound while it is tight. A flow that cannot grow leaves a cut: all
// behind it moves one unit earlier, which shortens the arcs that cross it (their flow was at the upper bound, the new
// lower one) and lengthens those that cross it backwards (at the lower, the new upper one). The flow stays what it is:
// each makespan takes up where the last one ended. Its size is the slope of the frontier.
#include "plan/cost/frontier.h"

#include "base/assert.h"
#include "base/mem.h"

#include <math.h>

struct arc {
    uint32_t from, to, op; // op: UINT32_MAX for an edge
    double flow;
};

struct network {
    const struct plan_frontier_op *ops;
    uint32_t op_count, nodes, arc_count, source, sink;
    struct arc *arcs;
    int64_t *time;          // (nodes)
    uint32_t *first, *ways; // (nodes + 1), (2 * arcs): arcs of each node, << 1 | backwards
    uint32_t *level, *next, *queue;
    double small, total; // what counts as nothing; flow so far
};

enum { EDGE = UINT32_MAX };

// ---- Arcs ----

static int64_t gap_of(const struct network *n, const struct arc *arc)
{
    return n->time[arc->to] - n->time[arc->from];
}

static double upper(const struct network *n, const struct arc *arc)
{
    const int64_t gap = gap_of(n, arc);
    if (arc->op == EDGE)
        return gap == 0 ? INFINITY : 0;
    const struct plan_frontier_op *op = &n->ops[arc->op];
    if (gap > op->slowest)
        return 0;
    const int64_t at = gap - op->fastest;
    return at == 0 ? INFINITY : op->cost[at - 1] - op->cost[at];
}

static double lower(const struct network *n, const struct arc *arc)
{
    if (arc->op == EDGE)
        return 0;
    const struct plan_frontier_op *op = &n->ops[arc->op];
    const int64_t gap = gap_of(n, arc), at = gap - op->fastest;
    return gap >= op->slowest ? 0 : op->cost[at] - op->cost[at + 1];
}

static double left_on(const struct network *n, uint32_t way)
{
    const struct arc *arc = &n->arcs[way >> 1];
    const double left = way & 1 ? arc->flow - lower(n, arc) : upper(n, arc) - arc->flow;
    return left > n->small ? left : 0;
}

static uint32_t end_of(const struct network *n, uint32_t way)
{
    return way & 1 ? n->arcs[way >> 1].from : n->arcs[way >> 1].to;
}

// ---- Flow (Dinic) ----

static bool find_levels(struct network *n)
{
    uint32_t head = 0, tail = 0;
    for (uint32_t v = 0; v < n->nodes; v++)
        n->level[v] = UINT32_MAX;
    n->level[n->source] = 0;
    n->queue[tail++] = n->source;
    while (head < tail) {
        const uint32_t v = n->queue[head++];
        for (uint32_t w = n->first[v]; w < n->first[v + 1]; w++) {
            const uint32_t to = end_of(n, n->ways[w]);
            if (n->level[to] == UINT32_MAX && left_on(n, n->ways[w]) > 0) {
                n->level[to] = n->level[v] + 1;
                n->queue[tail++] = to;
            }
        }
    }
    return n->level[n->sink] != UINT32_MAX;
}

// One path down the levels; `path` holds the ways. 0: there is none left.
static double push_path(struct network *n, uint32_t *path)
{
    uint32_t v = n->source, length = 0;
    while (v != n->sink) {
        if (n->next[v] == n->first[v + 1]) {
            if (v == n->source)
                return 0;
            v = end_of(n, path[--length] ^ 1);
            n->next[v]++;
            continue;
        }
        const uint32_t way = n->ways[n->next[v]], to = end_of(n, way);
        if (n->level[to] == n->level[v] + 1 && left_on(n, way) > 0) {
            path[length++] = way;
            v = to;
        } else {
            n->next[v]++;
        }
    }
    double most = INFINITY;
    for (uint32_t i = 0; i < length; i++)
        most = left_on(n, path[i]) < most ? left_on(n, path[i]) : most;
    for (uint32_t i = 0; i < length && most < INFINITY; i++) {
        struct arc *arc = &n->arcs[path[i] >> 1];
        const bool full = left_on(n, path[i]) == most;
        if (path[i] & 1)
            arc->flow = full ? lower(n, arc) : arc->flow - most;
        else
            arc->flow = full ? upper(n, arc) : arc->flow + most;
    }
    return most;
}

// Lets the flow grow as far as it can; false: it grows without bound, the makespan cannot be less.
static bool grow_flow(struct network *n)
{
    uint32_t *path = bg_alloc_array(n->nodes, sizeof *path);
    bool bound = true;
    while (bound && find_levels(n)) {
        double more;
        for (uint32_t v = 0; v < n->nodes; v++)
            n->next[v] = n->first[v];
        while (bound && (more = push_path(n, path)) > 0) {
            bound = more < INFINITY;
            n->total += more;
        }
    }
    bg_free(path);
    return bound;
}

// ---- The network ----

static bg_status check_op(const struct plan_frontier_op *op, uint32_t at, double small, struct bg_error *err)
{
    if (op->fastest > op->slowest || op->slowest > PLAN_FRONTIER_TIME_MAX)
        return bg_fail(err, BG_INVALID, "op %u takes %u to %u units: expected at most %d, the fastest first", at,
                       op->fastest, op->slowest, PLAN_FRONTIER_TIME_MAX);
    for (uint32_t t = 0; t <= op->slowest - op->fastest; t++) {
        const double *c = &op->cost[t];
        if (!isfinite(*c))
            return bg_fail(err, BG_INVALID, "op %u costs %g at %u units", at, *c, op->fastest + t);
        if (t > 0 && c[0] > c[-1] + small)
            return bg_fail(err, BG_INVALID, "op %u costs more at %u units than at %u: let it not be slower than that",
                           at, op->fastest + t, op->fastest + t - 1);
        if (t > 1 && c[-2] - c[-1] < c[-1] - c[0] - small)
            return bg_fail(err, BG_INVALID, "op %u: the cost is not convex at %u units", at, op->fastest + t - 1);
    }
    return BG_OK;
}

static void list_ways(struct network *n)
{
    n->first = bg_alloc_array((size_t)n->nodes + 2, sizeof *n->first);
    n->ways = bg_alloc_array(2 * (size_t)n->arc_count + 1, sizeof *n->ways);
    for (uint32_t a = 0; a < n->arc_count; a++) {
        n->first[n->arcs[a].from + 2]++;
        n->first[n->arcs[a].to + 2]++;
    }
    for (uint32_t v = 0; v < n->nodes; v++)
        n->first[v + 2] += n->first[v + 1];
    for (uint32_t a = 0; a < n->arc_count; a++) {
        n->ways[n->first[n->arcs[a].from + 1]++] = a << 1;
        n->ways[n->first[n->arcs[a].to + 1]++] = a << 1 | 1;
    }
}

// Nodes 2i and 2i + 1 are the beginning and the end of op i.
static void build(struct network *n, const struct plan_frontier_edge *edges, uint32_t edge_count)
{
    n->nodes = 2 * n->op_count + 2;
    n->source = 2 * n->op_count;
    n->sink = n->source + 1;
    n->arcs = bg_alloc_array((size_t)edge_count + 3 * (size_t)n->op_count + 1, sizeof *n->arcs);
    for (uint32_t i = 0; i < n->op_count; i++) {
        n->arcs[n->arc_count++] = (struct arc){2 * i, 2 * i + 1, i, 0};
        n->arcs[n->arc_count++] = (struct arc){n->source, 2 * i, EDGE, 0};
        n->arcs[n->arc_count++] = (struct arc){2 * i + 1, n->sink, EDGE, 0};
    }
    for (uint32_t e = 0; e < edge_count; e++)
        n->arcs[n->arc_count++] = (struct arc){2 * edges[e].from + 1, 2 * edges[e].to, EDGE, 0};
    list_ways(n);
    n->time = bg_alloc_array(n->nodes, sizeof *n->time);
    n->level = bg_alloc_array(n->nodes, sizeof *n->level);
    n->next = bg_alloc_array(n->nodes, sizeof *n->next);
    n->queue = bg_alloc_array(n->nodes, sizeof *n->queue);
}

static void drop(struct network *n)
{
    bg_free(n->arcs);
    bg_free(n->first);
    bg_free(n->ways);
    bg_free(n->time);
    bg_free(n->level);
    bg_free(n->next);
    bg_free(n->queue);
}

// Earliest times with all ops at their slowest. False: there is a cycle.
static bool start_slowly(struct network *n)
{
    uint32_t *waits = n->level, head = 0, tail = 0;
    for (uint32_t v = 0; v < n->nodes; v++)
        waits[v] = 0;
    for (uint32_t a = 0; a < n->arc_count; a++)
        waits[n->arcs[a].to]++;
    n->queue[tail++] = n->source;
    while (head < tail) {
        const uint32_t v = n->queue[head++];
        for (uint32_t w = n->first[v]; w < n->first[v + 1]; w++) {
            const struct arc *arc = &n->arcs[n->ways[w] >> 1];
            if (n->ways[w] & 1)
                continue;
            const int64_t reach = n->time[v] + (arc->op == EDGE ? 0 : n->ops[arc->op].slowest);
            n->time[arc->to] = reach > n->time[arc->to] ? reach : n->time[arc->to];
            if (--waits[arc->to] == 0)
                n->queue[tail++] = arc->to;
        }
    }
    return tail == n->nodes;
}

static uint32_t time_of(const struct network *n, uint32_t op)
{
    const int64_t gap = n->time[2 * op + 1] - n->time[2 * op];
    return gap < n->ops[op].slowest ? (uint32_t)gap : n->ops[op].slowest;
}

static void record(const struct network *n, double rate, uint32_t *capacity, struct plan_frontier *f)
{
    double cost = 0;
    for (uint32_t i = 0; i < n->op_count; i++)
        cost += n->ops[i].cost[time_of(n, i) - n->ops[i].fastest];
    if (f->point_count == *capacity) {
        *capacity = *capacity ? 2 * *capacity : 64;
        f->points = bg_realloc_array(f->points, *capacity, sizeof *f->points);
    }
    f->points[f->point_count++] = (struct plan_frontier_point){(uint64_t)n->time[n->sink], cost, rate};
}

static void walk(struct network *n, const struct plan_frontier_options *options, struct plan_frontier *f)
{
    const uint32_t most = options->points_max ? options->points_max : 1u << 20;
    uint32_t capacity = 0;
    bool taken = false, more = true;
    f->times = bg_alloc_array(n->op_count, sizeof *f->times);
    while (more) {
        more = grow_flow(n);
        record(n, more ? n->total : INFINITY, &capacity, f);
        more &= f->point_count < most;
        if (!taken && ((uint64_t)n->time[n->sink] <= options->by || !more)) {
            taken = true;
            for (uint32_t i = 0; i < n->op_count; i++)
                f->times[i] = time_of(n, i);
        }
        for (uint32_t v = 0; v < n->nodes && more;
             v++) // what the last, failed search did not reach lies behind the cut
            n->time[v] -= n->level[v] == UINT32_MAX;
    }
}

bg_status plan_frontier_solve(const struct plan_frontier_op *ops, uint32_t op_count,
                              const struct plan_frontier_edge *edges, uint32_t edge_count,
                              const struct plan_frontier_options *options, struct bg_error *err,
                              struct plan_frontier *frontier)
{
    struct network n = {.ops = ops, .op_count = op_count};
    struct plan_frontier made = {0};
    double most = 0;
    if (op_count < 1 || op_count > PLAN_FRONTIER_OPS_MAX || edge_count > 16u * PLAN_FRONTIER_OPS_MAX)
        return bg_fail(err, BG_INVALID, "%u ops, %u edges: expected 1 to %d ops, at most 16 edges for each", op_count,
                       edge_count, PLAN_FRONTIER_OPS_MAX);
    for (uint32_t e = 0; e < edge_count; e++)
        if (edges[e].from >= op_count || edges[e].to >= op_count)
            return bg_fail(err, BG_INVALID, "edge %u: from %u to %u, but there are %u ops", e, edges[e].from,
                           edges[e].to, op_count);
    for (uint32_t i = 0; i < op_count; i++)
        most = ops[i].fastest <= ops[i].slowest && fabs(ops[i].cost[0]) > most ? fabs(ops[i].cost[0]) : most;
    n.small = most * 1e-12;
    for (uint32_t i = 0; i < op_count; i++) {
        const bg_status status = check_op(&ops[i], i, n.small, err);
        if (status)
            return status;
    }
    build(&n, edges, edge_count);
    const bool starts = start_slowly(&n);
    if (starts)
        walk(&n, options, &made);
    drop(&n);
    if (!starts)
        return bg_fail(err, BG_INVALID, "the ops wait for each other in a circle");
    *frontier = made;
    return BG_OK;
}

void plan_frontier_fini(struct plan_frontier *frontier)
{
    bg_free(frontier->points);
    bg_free(frontier->times);
    *frontier = (struct plan_frontier){0};
}

// ---- The graph of a schedule ----

struct places { // of the compute ops, by (stage, item, slice, kind); PLAN_NOBODY: not there
    uint32_t stages, items, slices, *of;
};

static uint32_t *place(const struct places *p, uint8_t kind, uint32_t stage, uint32_t item, uint32_t slice)
{
    return &p->of[(((size_t)stage * p->items + item) * p->slices + slice) * 3 + (kind - PLAN_F)];
}

static bool computes(const struct plan_op *op)
{
    return op->kind == PLAN_F || op->kind == PLAN_B || op->kind == PLAN_W;
}

static uint32_t measure_places(const struct plan_list *lists, uint32_t workers, struct places *p)
{
    uint32_t count = 0;
    for (uint32_t w = 0; w < workers; w++)
        for (size_t i = 0; i < lists[w].count; i++) {
            const struct plan_op *op = &lists[w].ops[i];
            if (!computes(op))
                continue;
            p->stages = op->stage >= p->stages ? op->stage + 1u : p->stages;
            p->items = op->item >= p->items ? op->item + 1 : p->items;
            p->slices = op->slice >= p->slices ? op->slice + 1u : p->slices;
            count++;
        }
    return count;
}

static void add_edge(struct plan_frontier_edge *edges, uint32_t *count, uint32_t from, uint32_t to)
{
    edges[(*count)++] = (struct plan_frontier_edge){from, to};
}

// Edges to an op from what it needs; false: something is not made.
static bool add_inputs(const struct places *p, const struct plan_op *op, uint32_t to, struct plan_frontier_edge *edges,
                       uint32_t *count)
{
    const bool last = op->stage + 1u == p->stages;
    uint32_t needs[2] = {PLAN_NOBODY, PLAN_NOBODY}, wanted = 1;
    if (op->kind == PLAN_F) {
        wanted = op->stage > 0;
        if (wanted)
            needs[0] = *place(p, PLAN_F, op->stage - 1u, op->item, op->slice);
    } else if (op->kind == PLAN_B) {
        needs[0] = *place(p, PLAN_F, op->stage, op->item, op->slice);
        wanted = last ? 1 : 2;
        if (!last)
            needs[1] = *place(p, PLAN_B, op->stage + 1u, op->item, op->slice);
    } else {
        needs[0] = *place(p, PLAN_B, op->stage, op->item, 0); // slices go backward: 0 is the last of them
    }
    for (uint32_t i = 0; i < wanted; i++) {
        if (needs[i] == PLAN_NOBODY)
            return false;
        add_edge(edges, count, needs[i], to);
    }
    return true;
}

bg_status plan_frontier_edges(const struct plan_list *lists, uint32_t workers, struct bg_error *err,
                              struct plan_frontier_edge **edges, uint32_t *edge_count, uint32_t *op_count)
{
    struct places p = {0};
    bg_status status = BG_OK;
    char text[PLAN_OP_TEXT];
    const uint32_t total = measure_places(lists, workers, &p);
    const uint64_t cells = (uint64_t)p.stages * p.items * p.slices * 3;
    if (!total || cells > 64u * (uint64_t)PLAN_FRONTIER_OPS_MAX)
        return bg_fail(err, BG_INVALID, "lists of %u compute ops: expected some, numbered without large gaps", total);
    p.of = bg_alloc_array(cells, sizeof *p.of);
    for (uint64_t c = 0; c < cells; c++)
        p.of[c] = PLAN_NOBODY;
    struct plan_frontier_edge *made = bg_alloc_array(3 * (size_t)total, sizeof *made);
    uint32_t count = 0, at = 0;
    for (uint32_t w = 0; w < workers && !status; w++)
        for (size_t i = 0, before = 0; i < lists[w].count && !status; i++) {
            const struct plan_op *op = &lists[w].ops[i];
            if (!computes(op))
                continue;
            uint32_t *here = place(&p, op->kind, op->stage, op->item, op->slice);
            plan_op_text(op, text);
            if (*here != PLAN_NOBODY)
                status = bg_fail(err, BG_INVALID, "%s is there twice", text);
            *here = at;
            if (before++)
                add_edge(made, &count, at - 1, at);
            at++;
        }
    for (uint32_t w = 0, to = 0; w < workers && !status; w++)
        for (size_t i = 0; i < lists[w].count && !status; i++) {
            const struct plan_op *op = &lists[w].ops[i];
            plan_op_text(op, text);
            if (computes(op) && !add_inputs(&p, op, to++, made, &count))
                status = bg_fail(err, BG_INVALID, "%s has an input that no op makes", text);
        }
    bg_free(p.of);
    if (status) {
        bg_free(made);
        return status;
    }
    *edges = made;
    *edge_count = count;
    *op_count = total;
    return BG_OK;
}
