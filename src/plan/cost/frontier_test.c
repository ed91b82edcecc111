// The frontier against all choices of times on small graphs, against paths alone on larger ones, and the makespans of
// pipelines.
#include "plan/cost/frontier.h"

#include "base/mem.h"
#include "base/philox.h"

#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>
#include <time.h>
#include <cmocka.h>

static uint32_t draw(uint32_t *state, uint32_t below)
{
    const struct bg_philox_counter counter = {{(*state)++, 79, 0, 0}};
    return bg_philox(counter, bg_philox_key(7, BG_STREAM_DATA)).c[0] % below;
}

enum { SPAN = 12 };
struct graph {
    uint32_t ops, edges;
    struct plan_frontier_op op[4096];
    struct plan_frontier_edge edge[16384];
    double cost[4096][SPAN + 1];
};

// A convex cost that falls less and less.
static void draw_op(struct graph *g, uint32_t at, uint32_t fastest, uint32_t slowest, uint32_t *seed)
{
    double cost = draw(seed, 20), fall = draw(seed, 3);
    for (uint32_t t = slowest - fastest + 1; t-- > 0;) {
        g->cost[at][t] = cost;
        cost += fall;
        fall += draw(seed, 8);
    }
    g->op[at] = (struct plan_frontier_op){fastest, slowest, g->cost[at]};
}

static uint64_t makespan_of(const struct graph *g, const uint32_t *times)
{
    uint64_t ends[4096], last = 0;
    for (uint32_t i = 0; i < g->ops; i++) // edges go from lower to higher numbers
        ends[i] = times[i];
    for (uint32_t i = 0; i < g->ops; i++)
        for (uint32_t e = 0; e < g->edges; e++)
            if (g->edge[e].to == i && ends[g->edge[e].from] + times[i] > ends[i])
                ends[i] = ends[g->edge[e].from] + times[i];
    for (uint32_t i = 0; i < g->ops; i++)
        last = ends[i] > last ? ends[i] : last;
    return last;
}

static double cost_of(const struct graph *g, const uint32_t *times)
{
    double cost = 0;
    for (uint32_t i = 0; i < g->ops; i++)
        cost += g->cost[i][times[i] - g->op[i].fastest];
    return cost;
}

static void small_graphs_match_all_choices(void **state)
{
    (void)state;
    uint32_t seed = 0;
    struct graph *g = bg_alloc(sizeof *g);
    for (int round = 0; round < 500; round++) {
        double best[64];
        uint32_t times[6];
        uint64_t ways = 1;
        g->edges = 0;
        g->ops = 1 + draw(&seed, 6);
        for (uint32_t i = 0; i < g->ops; i++) {
            const uint32_t fastest = draw(&seed, 4);
            draw_op(g, i, fastest, fastest + draw(&seed, 4), &seed);
            ways *= g->op[i].slowest - g->op[i].fastest + 1;
            for (uint32_t k = 0; k < i; k++)
                if (draw(&seed, 5) < 2)
                    g->edge[g->edges++] = (struct plan_frontier_edge){k, i};
        }
        for (uint32_t t = 0; t < 64; t++)
            best[t] = INFINITY;
        for (uint64_t way = 0; way < ways; way++) {
            uint64_t rest = way;
            for (uint32_t i = 0; i < g->ops; i++) {
                const uint32_t choices = g->op[i].slowest - g->op[i].fastest + 1;
                times[i] = g->op[i].fastest + (uint32_t)(rest % choices);
                rest /= choices;
            }
            const double cost = cost_of(g, times);
            for (uint64_t t = makespan_of(g, times); t < 64; t++)
                best[t] = cost < best[t] ? cost : best[t];
        }
        for (uint32_t t = 0; t < g->ops; t++)
            times[t] = g->op[t].slowest;
        const uint64_t slowest = makespan_of(g, times);
        for (uint64_t by = 0; by <= slowest; by++) {
            struct bg_error err = {0};
            struct plan_frontier f;
            const struct plan_frontier_options options = {.by = by};
            assert_int_equal(plan_frontier_solve(g->op, g->ops, g->edge, g->edges, &options, &err, &f), BG_OK);
            assert_int_equal(f.points[0].time, slowest);
            for (uint32_t p = 0; p < f.point_count; p++)
                assert_true(fabs(f.points[p].cost - best[f.points[p].time]) < 1e-9);
            const uint64_t fastest = f.points[f.point_count - 1].time;
            assert_true(fastest == 0 || best[fastest - 1] == INFINITY); // nothing is faster
            assert_true(f.points[f.point_count - 1].rate == INFINITY);
            // The times that were asked for are in time, and cost what the point says.
            const uint64_t within = by < fastest ? fastest : by;
            assert_true(makespan_of(g, f.times) <= within);
            assert_true(fabs(cost_of(g, f.times) - best[within]) < 1e-9);
            plan_frontier_fini(&f);
        }
    }
    bg_free(g);
}

// Lists of one pipeline, 1F1B.
static struct plan_list *pipeline(uint32_t stages, uint32_t items)
{
    struct plan_list *lists = bg_alloc_array(stages, sizeof *lists);
    for (uint32_t s = 0; s < stages; s++) {
        const uint32_t ahead = stages - s < items ? stages - s : items;
        uint32_t f = 0, b = 0;
        while (b < items) {
            const bool forward = f < items && f - b < ahead;
            plan_list_add(&lists[s], (struct plan_op){forward ? PLAN_F : PLAN_B, forward ? 0 : PLAN_FUSED, (uint16_t)s,
                                                      forward ? f++ : b++, 0, 0});
            plan_list_add(&lists[s], (struct plan_op){PLAN_EMPTY, 0, 0, 0, 0, 0}); // counts as nothing
        }
    }
    return lists;
}

static void fini_pipeline(struct plan_list *lists, uint32_t stages)
{
    for (uint32_t s = 0; s < stages; s++)
        bg_free(lists[s].ops);
    bg_free(lists);
}

static struct graph *pipeline_graph(uint32_t stages, uint32_t items)
{
    struct bg_error err = {0};
    struct graph *g = bg_alloc(sizeof *g);
    struct plan_list *lists = pipeline(stages, items);
    struct plan_frontier_edge *edges;
    uint32_t seed = 1000 * stages + items, at = 0;
    assert_int_equal(plan_frontier_edges(lists, stages, &err, &edges, &g->edges, &g->ops), BG_OK);
    assert_int_equal(g->ops, 2 * stages * items);
    memcpy(g->edge, edges, g->edges * sizeof *edges);
    bg_free(edges);
    for (uint32_t s = 0; s < stages; s++)
        for (size_t i = 0; i < lists[s].count; i++)
            if (lists[s].ops[i].kind != PLAN_EMPTY) { // forward 2 to 4 units, backward 4 to 8, stages differ
                const bool forward = lists[s].ops[i].kind == PLAN_F;
                draw_op(g, at++, forward ? 2 : 4, (forward ? 3 : 6) + draw(&seed, 3), &seed);
            }
    fini_pipeline(lists, stages);
    return g;
}

// The least cost of a path alone within `time`, the other ops at their slowest: no schedule is cheaper.
static double path_bound(const struct graph *g, const uint32_t *path, uint32_t length, uint64_t time)
{
    double best[2][512], rest = 0;
    bool on[4096] = {0};
    for (uint32_t t = 0; t <= time; t++)
        best[0][t] = 0;
    for (uint32_t i = 0; i < length; i++) {
        const struct plan_frontier_op *op = &g->op[path[i]];
        on[path[i]] = true;
        for (uint32_t t = 0; t <= time; t++) {
            best[(i + 1) % 2][t] = INFINITY;
            for (uint32_t k = op->fastest; k <= op->slowest && k <= t; k++) {
                const double cost = best[i % 2][t - k] + op->cost[k - op->fastest];
                best[(i + 1) % 2][t] = cost < best[(i + 1) % 2][t] ? cost : best[(i + 1) % 2][t];
            }
        }
    }
    for (uint32_t i = 0; i < g->ops; i++)
        if (!on[i])
            rest += g->op[i].cost[g->op[i].slowest - g->op[i].fastest];
    return best[length % 2][time] + rest;
}

static void pipelines_are_as_fast_as_can_be(void **state)
{
    (void)state;
    static const uint32_t shapes[][2] = {{2, 3}, {3, 4}, {4, 6}, {1, 5}};
    for (size_t c = 0; c < sizeof shapes / sizeof *shapes; c++) {
        const uint32_t stages = shapes[c][0], items = shapes[c][1];
        struct graph *g = pipeline_graph(stages, items);
        struct bg_error err = {0};
        struct plan_frontier f;
        assert_int_equal(
            plan_frontier_solve(g->op, g->ops, g->edge, g->edges, &(struct plan_frontier_options){0}, &err, &f), BG_OK);
        assert_int_equal(f.points[f.point_count - 1].time, (items + stages - 1) * 6); // all at their fastest
        uint32_t seed = 50, tight = 0;
        for (uint32_t p = 1; p < f.point_count; p++) {
            assert_int_equal(f.points[p].time, f.points[p - 1].time - 1);
            assert_true(fabs(f.points[p].cost - f.points[p - 1].cost - f.points[p - 1].rate) < 1e-6);
            assert_true(f.points[p].rate >= f.points[p - 1].rate - 1e-9); // convex
        }
        for (uint32_t p = 0; p < f.point_count; p++)
            for (int walk = 0; walk < 8; walk++) { // a walk through the graph from some op without inputs
                uint32_t path[4096], length = 0, at = 0;
                for (bool more = true; more;) {
                    path[length++] = at;
                    uint32_t ways = 0, way;
                    for (uint32_t e = 0; e < g->edges; e++)
                        ways += g->edge[e].from == at;
                    more = ways > 0;
                    way = more ? draw(&seed, ways) : 0;
                    for (uint32_t e = 0, seen = 0; e < g->edges && more; e++)
                        if (g->edge[e].from == path[length - 1] && seen++ == way)
                            at = g->edge[e].to;
                }
                const double bound = path_bound(g, path, length, f.points[p].time);
                assert_true(f.points[p].cost >= bound - 1e-6);
                tight += f.points[p].cost < bound + 1e-6;
            }
        assert_true(tight > 0);
        plan_frontier_fini(&f);
        bg_free(g);
    }
}

static void a_large_pipeline_takes_seconds_at_most(void **state)
{
    (void)state;
    struct graph *g = pipeline_graph(16, 64);
    struct bg_error err = {0};
    struct plan_frontier f;
    const clock_t begin = clock();
    assert_int_equal(
        plan_frontier_solve(g->op, g->ops, g->edge, g->edges, &(struct plan_frontier_options){0}, &err, &f), BG_OK);
    assert_true(clock() - begin < 3 * CLOCKS_PER_SEC);
    assert_int_equal(f.points[f.point_count - 1].time, (64 + 16 - 1) * 6);
    plan_frontier_fini(&f);
    assert_int_equal(plan_frontier_solve(g->op, g->ops, g->edge, g->edges,
                                         &(struct plan_frontier_options){.points_max = 3}, &err, &f),
                     BG_OK);
    assert_int_equal(f.point_count, 3);
    plan_frontier_fini(&f);
    bg_free(g);
}

static void what_cannot_be_is_refused(void **state)
{
    (void)state;
    static const double falls[3] = {5, 2, 1}, rises[3] = {5, 6, 1}, concave[3] = {5, 4, 1}, endless[1] = {INFINITY};
    const struct plan_frontier_edge circle[2] = {{0, 1}, {1, 0}}, nowhere[1] = {{0, 2}};
    const struct plan_frontier_op good[2] = {{1, 3, falls}, {1, 3, falls}};
    const struct plan_frontier_op bad[4][1] = {{{1, 3, rises}}, {{1, 3, concave}}, {{1, 1, endless}}, {{3, 1, falls}}};
    const struct plan_frontier_options options = {0};
    struct bg_error err = {0};
    struct plan_frontier f;
    assert_int_equal(plan_frontier_solve(good, 2, circle, 2, &options, &err, &f), BG_INVALID);
    assert_int_equal(plan_frontier_solve(good, 2, nowhere, 1, &options, &err, &f), BG_INVALID);
    assert_int_equal(plan_frontier_solve(good, 0, NULL, 0, &options, &err, &f), BG_INVALID);
    for (int b = 0; b < 4; b++)
        assert_int_equal(plan_frontier_solve(bad[b], 1, NULL, 0, &options, &err, &f), BG_INVALID);
    // Lists that are no schedule.
    struct plan_list *lists = pipeline(2, 2);
    struct plan_frontier_edge *edges;
    uint32_t edge_count, ops;
    lists[1].ops[0].item = 1;
    assert_int_equal(plan_frontier_edges(lists, 2, &err, &edges, &edge_count, &ops), BG_INVALID); // F1 twice
    assert_non_null(strstr(err.text, "twice"));
    lists[1].ops[0].item = 7;
    assert_int_equal(plan_frontier_edges(lists, 2, &err, &edges, &edge_count, &ops), BG_INVALID); // nobody feeds F7
    assert_non_null(strstr(err.text, "input"));
    assert_int_equal(plan_frontier_edges(lists, 0, &err, &edges, &edge_count, &ops), BG_INVALID);
    fini_pipeline(lists, 2);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(small_graphs_match_all_choices),
        cmocka_unit_test(pipelines_are_as_fast_as_can_be),
        cmocka_unit_test(a_large_pipeline_takes_seconds_at_most),
        cmocka_unit_test(what_cannot_be_is_refused),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
