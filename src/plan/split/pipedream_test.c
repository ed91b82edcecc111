// PipeDream's partitioner against the recorded optima (../shared/goldens or BRIGADE_SHARED; skips without), against
// exhaustive search on random graphs, and the reader of its profiles. States, prices and the search stand here a second
// time, as the paper's program has them and as slow as they like; nothing of the room is used for them.
#include "plan/split/pipedream.h"

#include "base/mem.h"
#include "base/philox.h"
#include "base/str.h"

#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <cmocka.h>

#define NODES  128
#define STATES 256

// ---- A second opinion: states ----
typedef unsigned __int128 set;
#define ONE(i) ((set)1 << (i))

struct judge {
    const struct plan_graph *g;
    const struct plan_pipedream_options *o;
    set needs[NODES];
    bool known[NODES];
    struct {
        set chain, all, done;
        uint32_t list[NODES], size, next[512], nexts;
        bool placed;
    } found[STATES];
    uint32_t count, order[STATES], left;
    set after[STATES][2]; // by place: the places that come before it
    double c[STATES], p[STATES], a[STATES], cut[STATES];
};

static set needs_of(struct judge *t, uint32_t v)
{
    for (uint32_t e = 0; e < t->g->edge_count && !t->known[v]; e++)
        if (t->g->edges[e].to == v)
            t->needs[v] |= ONE(t->g->edges[e].from) | needs_of(t, t->g->edges[e].from);
    t->known[v] = true;
    return t->needs[v];
}

static uint32_t discover(struct judge *t, const uint32_t *list, uint32_t size)
{
    set chain = 0, extra = 0;
    for (uint32_t i = 0; i < size; i++)
        chain |= ONE(list[i]);
    for (uint32_t s = 0; s < t->count; s++)
        if (t->found[s].chain == chain)
            return s;
    assert_true(t->count < STATES);
    const uint32_t s = t->count++;
    for (uint32_t i = 0; i < size; i++)
        for (uint32_t e = 0; e < t->g->edge_count; e++)
            if (t->needs[list[i]] & ONE(t->g->edges[e].from) && !(t->needs[list[i]] & ONE(t->g->edges[e].to)) &&
                t->g->edges[e].to != list[i])
                extra |= ONE(t->g->edges[e].from);
    t->found[s].chain = chain;
    t->found[s].all = t->found[s].done = chain | extra;
    for (uint32_t v = 0; v < NODES; v++) {
        if (extra & ONE(v))
            t->found[s].list[t->found[s].size++] = v;
        if (t->found[s].all & ONE(v))
            t->found[s].done |= t->needs[v];
    }
    for (uint32_t i = 0; i < size; i++)
        t->found[s].list[t->found[s].size++] = list[i];
    return s;
}

static void follow(struct judge *t, uint32_t s)
{
    for (uint32_t x = 0; x < t->found[s].size; x++)
        for (uint32_t e = 0; e < t->g->edge_count; e++) {
            const uint32_t y = t->g->edges[e].to;
            set needed = 0;
            for (uint32_t i = 0; i < t->found[s].size; i++)
                needed |= t->needs[t->found[s].list[i]];
            if (t->g->edges[e].from != t->found[s].list[x] || t->found[s].chain & ONE(y) || needed & ONE(y))
                continue;
            uint32_t list[NODES], size = 0;
            for (uint32_t i = 0; i < t->found[s].size; i++) {
                const uint32_t v = i == x ? y : t->found[s].list[i];
                if (!((needed | t->needs[y]) & ONE(v)))
                    list[size++] = v;
            }
            t->found[s].next[t->found[s].nexts++] = discover(t, list, size);
        }
}

static void place(struct judge *t, uint32_t s)
{
    if (t->found[s].placed)
        return;
    t->found[s].placed = true;
    for (uint32_t n = 0; n < t->found[s].nexts; n++)
        place(t, t->found[s].next[n]);
    t->order[--t->left] = s;
}

static bool comes_after(const struct judge *t, uint32_t place, uint32_t earlier)
{
    return (t->after[place][earlier / 128] & ONE(earlier % 128)) != 0;
}

static struct judge *judge_of(const struct plan_graph *g, const struct plan_pipedream_options *o)
{
    struct judge *t = bg_alloc(sizeof *t);
    t->g = g;
    t->o = o;
    assert_true(g->node_count <= NODES);
    uint32_t source = 0;
    for (uint32_t v = g->node_count; v-- > 0;)
        if (!needs_of(t, v))
            source = v;
    discover(t, &source, 1);
    for (uint32_t s = 0; s < t->count; s++)
        follow(t, s);
    t->left = t->count;
    place(t, 0);
    for (uint32_t i = 0; i < t->count; i++) {
        for (uint32_t n = 0; n < t->found[t->order[i]].nexts; n++)
            for (uint32_t k = i + 1; k < t->count; k++)
                if (t->order[k] == t->found[t->order[i]].next[n]) {
                    t->after[k][0] |= t->after[i][0];
                    t->after[k][1] |= t->after[i][1];
                    t->after[k][i / 128] |= ONE(i % 128);
                }
        for (uint32_t v = 0; v < g->node_count; v++) {
            const struct plan_graph_node *node = &g->nodes[v];
            if (t->found[t->order[i]].all & ONE(v))
                t->cut[i] += node->activation_bytes;
            if (!(t->found[t->order[i]].done & ONE(v)))
                continue;
            t->c[i] += node->forward_ms / 1000 + node->backward_ms / 1000;
            t->p[i] += node->parameter_bytes;
            t->a[i] += node->activation_bytes;
        }
    }
    return t;
}

// ---- A second opinion: prices ----
static double between(const double *sums, uint32_t i, uint32_t j)
{
    return sums[j] - (i ? sums[i - 1] : 0);
}

static double price_of_first(const struct judge *t, uint32_t l, uint32_t i, uint32_t j, double alone, double m)
{
    const double inner = l ? t->o->levels[l - 1].machines : 1, all = t->o->levels[l].machines;
    if (t->o->memory_bytes > 0 &&
        ceil((all - m) / m) * (between(t->a, i, j) + between(t->p, i, j)) > t->o->memory_bytes)
        return INFINITY;
    return (alone + 4 * (m - 1) * between(t->p, i, j) / (t->o->levels[l].bandwidth * m) / inner) / m;
}

// Stage i..j behind another, on q machines, the last of `used`.
static double price_of_last(const struct judge *t, uint32_t l, uint32_t i, uint32_t j, double alone, double q,
                            double used)
{
    const double b = t->o->levels[l].bandwidth, all = t->o->levels[l].machines;
    if (t->o->memory_bytes > 0 &&
        ceil((all - used) / q) * (between(t->a, i, j) + between(t->p, i, j)) > t->o->memory_bytes)
        return INFINITY;
    double time = (alone + 4 * (q - 1) * between(t->p, i, j) / (b * q)) / q;
    if (t->o->compression > 0) {
        time = fmax(time, 2 * t->cut[i - 1] / (b * q) / t->o->compression);
        if (j != t->count - 1)
            time = fmax(time, 2 * t->cut[j] / (b * q) / t->o->compression);
    }
    return time;
}

// What a plan costs, stage by stage.
static double price_of_plan(const struct judge *t, const struct plan_pipedream *plan, uint32_t l, uint32_t parent,
                            uint32_t first, uint32_t end)
{
    double slowest = 0;
    uint32_t used = 0, at = first;
    for (uint32_t s = 0; s < plan->stage_count; s++) {
        const struct plan_pipedream_stage *stage = &plan->stages[s];
        if (stage->level != l + 1 || stage->parent != parent)
            continue;
        assert_int_equal(stage->first, at);
        assert_true(stage->end > at && stage->replicas > 0 && (stage->replicas == 1 || !t->o->straight));
        assert_true(stage->first == first || comes_after(t, stage->end - 1, stage->first - 1));
        at = stage->end;
        used += stage->replicas;
        const uint32_t i = stage->first, j = stage->end - 1;
        const double alone = l ? price_of_plan(t, plan, l - 1, s, i, j + 1) : between(t->c, i, j);
        const double time = i == first ? price_of_first(t, l, i, j, alone, stage->replicas)
                                       : price_of_last(t, l, i, j, alone, stage->replicas, used);
        slowest = fmax(slowest, time);
    }
    assert_int_equal(at, end);
    assert_true(used == t->o->levels[l].machines || (t->o->fewer && used < t->o->levels[l].machines));
    return slowest;
}

// The best of all plans: every cut, every number of machines.
static double search(const struct judge *t, uint32_t l, uint32_t i, uint32_t j, uint32_t m)
{
    if (i > j)
        return INFINITY;
    double best = INFINITY;
    if (m == 1 || !t->o->straight) {
        const double alone = l ? search(t, l - 1, i, j, t->o->levels[l - 1].machines) : between(t->c, i, j);
        best = price_of_first(t, l, i, j, alone, m);
    }
    if (t->o->fewer && m > 1 && j > i)
        best = fmin(best, search(t, l, i, j, m - 1));
    for (uint32_t k = 0; k < j; k++) {
        if (!comes_after(t, j, k) || (i && comes_after(t, i - 1, k)))
            continue;
        for (uint32_t q = 1; q < (t->o->straight && m > 2 ? 2 : m); q++) {
            const double alone = l ? search(t, l - 1, k + 1, j, t->o->levels[l - 1].machines) : between(t->c, k + 1, j);
            const double end = price_of_last(t, l, k + 1, j, alone, q, m);
            if (end < best)
                best = fmin(best, fmax(end, search(t, l, i, k, m - q)));
        }
    }
    return best;
}

static void assert_near(double a, double b, double relative)
{
    if (!(fabs(a - b) <= relative * fabs(b)))
        fail_msg("%.17g is not %.17g", a, b);
}

static uint32_t draw(uint32_t *at)
{
    return bg_philox((struct bg_philox_counter){{(*at)++}}, bg_philox_key(11, BG_STREAM_INIT)).c[0];
}

static void equals_exhaustive_search(void **state)
{
    (void)state;
    uint32_t rng = 0;
    uint32_t tried = 0, branching = 0;
    for (uint32_t round = 0; tried < 500; round++) {
        assert_true(round < 5000);
        struct plan_graph_node nodes[8] = {{0}};
        struct plan_graph_edge edges[32];
        struct plan_graph g = {nodes, edges, 3 + draw(&rng) % 6, 0};
        for (uint32_t v = 0; v < g.node_count; v++) {
            const uint32_t nothing = draw(&rng) % 3;
            nodes[v] = (struct plan_graph_node){.forward_ms = draw(&rng) % 8,
                                                .backward_ms = draw(&rng) % 16,
                                                .activation_bytes = draw(&rng) % 64,
                                                .parameter_bytes = nothing ? draw(&rng) % 64 : 0};
            for (uint32_t u = 0; u < v; u++)
                if ((u == v - 1 && draw(&rng) % 5) || draw(&rng) % 5 == 0)
                    edges[g.edge_count++] = (struct plan_graph_edge){u, v};
        }
        struct plan_pipedream_options o = {.level_count = 1 + draw(&rng) % 2,
                                           .compression = draw(&rng) % 3,
                                           .memory_bytes = draw(&rng) % 4 ? 0 : 300,
                                           .straight = draw(&rng) % 5 == 0,
                                           .fewer = draw(&rng) % 4 == 0};
        for (uint32_t l = 0; l < o.level_count; l++) {
            o.levels[l].machines = 1 + draw(&rng) % (o.level_count == 1 ? 5 : 3);
            o.levels[l].bandwidth = 1000 + draw(&rng) % 20000;
        }
        struct judge *t = judge_of(&g, &o);
        struct plan_states states;
        struct plan_pipedream plan;
        struct bg_error err = {0};
        assert_int_equal(plan_states_create(&g, &err, &states), BG_OK);
        assert_int_equal(states.count, t->count);
        for (uint32_t i = 0; i < t->count; i++) {
            assert_near(states.compute_s[i], t->c[i], 1e-12);
            assert_near(states.cut_bytes[i], t->cut[i], 1e-12);
        }
        if (t->count <= 9) {
            const double best = search(t, o.level_count - 1, 0, t->count - 1, o.levels[o.level_count - 1].machines);
            const bg_status status = plan_pipedream_solve(&states, &o, &err, &plan);
            assert_int_equal(status, isfinite(best) ? BG_OK : BG_INVALID);
            if (!status) {
                assert_near(plan.pipe_s, best, 1e-12);
                assert_near(price_of_plan(t, &plan, o.level_count - 1, 0, 0, t->count), best, 1e-12);
                plan_pipedream_fini(&plan);
            }
            tried++;
            branching += g.edge_count >= g.node_count;
        }
        plan_states_destroy(&states);
        bg_free(t);
    }
    assert_true(branching > 100);
}

// ---- The recorded optima ----
static char *read_shared(const char *folder, const char *name, const char *suffix)
{
    char path[512];
    const char *root = getenv("BRIGADE_SHARED");
    snprintf(path, sizeof path, "%s/%s%s%s", root && *root ? root : BRIGADE_SOURCE_DIR "/../shared", folder, name,
             suffix);
    FILE *file = fopen(path, "rb");
    if (!file)
        return NULL;
    struct bg_str text = {0};
    char buffer[4096];
    for (size_t size; (size = fread(buffer, 1, sizeof buffer, file)) > 0;)
        bg_str_add_bytes(&text, buffer, size);
    fclose(file);
    return bg_str_take(&text);
}

static struct plan_pipedream_options options_of(const char *machines, const char *bandwidths, const char *words)
{
    struct plan_pipedream_options o = {.straight = strstr(words, "straight_pipeline") != NULL,
                                       .fewer = strstr(words, "use_fewer_machines") != NULL};
    const char *memory = strstr(words, "mem="), *compression = strstr(words, "comm=");
    o.memory_bytes = memory ? strtod(memory + 4, NULL) : 0;
    o.compression = compression ? strtod(compression + 5, NULL) : 0; // "off" reads as 0
    struct bg_strlist n = {0}, b = {0};
    bg_strlist_split(&n, machines, ',');
    bg_strlist_split(&b, bandwidths, ',');
    assert_int_equal(n.count, b.count);
    for (size_t l = 0; l < n.count; l++) {
        o.levels[l].machines = (uint32_t)strtoul(n.items[l], NULL, 10);
        o.levels[l].bandwidth = strtod(b.items[l], NULL);
    }
    o.level_count = (uint32_t)n.count;
    bg_strlist_fini(&n);
    bg_strlist_fini(&b);
    return o;
}

// Equal to 1e-9 relative, or to all digits where fewer were recorded.
static void assert_recorded(double value, const char *text)
{
    const char *point = strchr(text, '.');
    double digit = 0.5;
    for (size_t i = point ? strlen(point + 1) : 0; i > 0; i--)
        digit /= 10;
    const double recorded = strtod(text, NULL);
    assert_near(value, recorded, fmax(1e-9, 1.000001 * digit / recorded));
}

static void compare_row(char *const *cells)
{
    struct bg_error err = {0};
    struct plan_graph g;
    struct plan_states states;
    struct plan_pipedream plan;
    const struct plan_pipedream_options o = options_of(cells[1], cells[2], cells[3]);
    char *text = read_shared("data/profiles/pipedream-", cells[0], ".txt");
    if (!text)
        return; // a row of another profile
    const clock_t start = clock();
    assert_int_equal(plan_graph_parse(text, strlen(text), &err, &g), BG_OK);
    plan_graph_trim(&g);
    assert_int_equal(plan_states_create(&g, &err, &states), BG_OK);
    assert_int_equal(plan_pipedream_solve(&states, &o, &err, &plan), BG_OK);
    assert_true(clock() - start < CLOCKS_PER_SEC);
    assert_int_equal(states.count, strtoul(cells[4], NULL, 10));
    assert_recorded(plan.single_s, cells[5]);
    assert_recorded(plan.pipe_s, cells[6]);
    assert_recorded(plan.data_s, cells[7]);
    struct judge *t = judge_of(&g, &o);
    assert_near(price_of_plan(t, &plan, o.level_count - 1, 0, 0, t->count), plan.pipe_s, 1e-12);
    bg_free(t);
    bg_free(text);
    plan_pipedream_fini(&plan);
    plan_states_destroy(&states);
    plan_graph_fini(&g);
}

static void equals_the_recorded_times(void **state)
{
    (void)state;
    char *text = read_shared("goldens/", "pipedream_times", ".tsv");
    if (!text) {
        print_message("no goldens/pipedream_times.tsv in ../shared or BRIGADE_SHARED\n");
        skip();
    }
    struct bg_strlist rows = {0};
    bg_strlist_split(&rows, text, '\n');
    uint32_t compared = 0;
    for (size_t i = 0; i < rows.count; i++) {
        struct bg_strlist cells = {0};
        bg_strlist_split(&cells, rows.items[i], '\t');
        if (cells.count >= 8 && cells.items[0][0] != '#') {
            compare_row(cells.items);
            compared++;
        }
        bg_strlist_fini(&cells);
    }
    print_message("%u rows\n", compared);
    assert_true(compared > 0);
    bg_strlist_fini(&rows);
    bg_free(text);
}

// ---- Small things, here without data ----
static void ties_go_to_the_first_cut(void **state)
{
    (void)state;
    struct plan_graph_node nodes[4];
    struct plan_graph_edge edges[3] = {{0, 1}, {1, 2}, {2, 3}};
    const struct plan_graph g = {nodes, edges, 4, 3};
    const double ms[4] = {1000, 0, 0, 1000};
    for (int i = 0; i < 4; i++)
        nodes[i] = (struct plan_graph_node){.forward_ms = ms[i], .parameter_bytes = 1};
    const struct plan_pipedream_options o = {.level_count = 1, .levels = {{2, 1e12}}};
    struct bg_error err = {0};
    struct plan_states states;
    struct plan_pipedream plan;
    assert_int_equal(plan_states_create(&g, &err, &states), BG_OK);
    assert_int_equal(plan_pipedream_solve(&states, &o, &err, &plan), BG_OK);
    assert_near(plan.single_s, 2, 1e-12);
    assert_near(plan.pipe_s, 1, 1e-12);
    assert_int_equal(plan.stage_count, 2);
    assert_int_equal(plan.stages[0].end, 1);
    assert_int_equal(plan.stages[1].first, 1);
    plan_pipedream_fini(&plan);
    plan_states_destroy(&states);
}

static void says_what_is_impossible(void **state)
{
    (void)state;
    struct plan_graph_node nodes[2] = {{.forward_ms = 1}, {.forward_ms = 1}};
    struct plan_graph_edge edge = {0, 1};
    const struct plan_graph g = {nodes, &edge, 2, 1}, empty = {0};
    struct bg_error err = {0};
    struct plan_states states;
    struct plan_pipedream plan;
    assert_int_equal(plan_states_create(&empty, &err, &states), BG_INVALID);
    assert_int_equal(plan_states_create(&g, &err, &states), BG_OK);
    const struct plan_pipedream_options bad[] = {
        {.level_count = 0},
        {.level_count = 1, .levels = {{0, 1}}},
        {.level_count = 1, .levels = {{2, 0}}},
        {.level_count = 1, .levels = {{2, 1}}, .compression = -1},
        {.level_count = 1, .levels = {{3, 1}}, .straight = true}, // three machines, two states
    };
    for (size_t i = 0; i < sizeof bad / sizeof *bad; i++) {
        err.text[0] = '\0';
        assert_int_equal(plan_pipedream_solve(&states, &bad[i], &err, &plan), BG_INVALID);
        assert_true(err.text[0]);
    }
    plan_states_destroy(&states);
}

#define COSTS           "forward_compute_time=1.5, backward_compute_time=2, activation_size=[10; 20.5], parameter_size=7"
#define LAYER(id, text) "node" id " -- " text " -- " COSTS

static void reads_graphs(void **state)
{
    (void)state;
    static const char text[] = "\n  " LAYER("1", "Input0") "\r\n" LAYER(
        "2", "Conv2d(3, k=(1, 1))") " -- stage_id=3\n\n"
                                    "\t" LAYER("4", "__getitem__(0)") "\n" LAYER(
                                        "3", "ReLU") "\n"
                                                     "\tnode1 -- node2\n  node2 -- node3\nnode2 -- node4";
    struct bg_error err = {0};
    struct plan_graph g;
    assert_int_equal(plan_graph_parse(text, sizeof text - 1, &err, &g), BG_OK);
    assert_int_equal(g.node_count, 4);
    assert_int_equal(g.edge_count, 3);
    assert_string_equal(g.nodes[1].text, "Conv2d(3, k=(1, 1))");
    assert_int_equal(g.nodes[1].stage, 3);
    assert_int_equal(g.nodes[0].stage, -1);
    assert_true(g.nodes[3].activation_bytes == 30.5 && g.nodes[3].forward_ms == 1.5);
    assert_true(g.nodes[3].backward_ms == 2 && g.nodes[3].parameter_bytes == 7);
    plan_graph_trim(&g);
    assert_int_equal(g.node_count, 2);
    assert_int_equal(g.edge_count, 1);
    assert_string_equal(g.nodes[g.edges[0].from].id, "node2");
    assert_string_equal(g.nodes[g.edges[0].to].id, "node3");
    plan_graph_fini(&g);
}

static void refuses_what_is_no_graph(void **state)
{
    (void)state;
    static const struct {
        const char *text, *error;
    } bad[] = {
        {"", "no node"},
        {"\nlayer -- x -- " COSTS, "line 2: expected"},
        {"node1 -- x -- forward_compute_time=1", "line 1: expected forward_compute_time"},
        {"node1 -- x -- forward_compute_time=-1, backward_compute_time=2, activation_size=1, parameter_size=7",
         "line 1: forward_compute_time is \"-1\""},
        {"node1 -- x -- forward_compute_time=1, backward_compute_time=nan, activation_size=1, parameter_size=7",
         "line 1: backward_compute_time is \"nan\""},
        {"node1 -- x -- forward_compute_time=1, backward_compute_time=2, activation_size=[1; ], parameter_size=7",
         "line 1: activation_size is \"[1; ]\""},
        {LAYER("1", "x") " -- 3", "line 1: \"3\" behind"},
        {LAYER("1", "x") "\n" LAYER("1", "y"), "line 2: node1 stands in line 1"},
        {LAYER("1", "x") "\n\tnode1 -- node22", "line 2: an edge with node22"},
        {LAYER("1", "x") "\n" LAYER("2", "x") "\nnode1 -- node2\nnode2 -- node1", "line 3: this edge lies on"},
        {LAYER("1", "x") "\n\tnode1 -- node1", "line 2: this edge lies on"},
    };
    for (size_t i = 0; i < sizeof bad / sizeof *bad; i++) {
        struct bg_error err = {0};
        struct plan_graph g;
        assert_true(plan_graph_parse(bad[i].text, strlen(bad[i].text), &err, &g) != BG_OK);
        if (strncmp(err.text, bad[i].error, strlen(bad[i].error)) != 0)
            fail_msg("\"%s\", expected \"%s...\"", err.text, bad[i].error);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(reads_graphs),
        cmocka_unit_test(refuses_what_is_no_graph),
        cmocka_unit_test(ties_go_to_the_first_cut),
        cmocka_unit_test(says_what_is_impossible),
        cmocka_unit_test(equals_exhaustive_search),
        cmocka_unit_test(equals_the_recorded_times),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
