// `brigade plan --frontier`: what a pipeline costs for every time it may take, where its ops may run slower and cheaper
// (plan/cost/frontier.h).
#include "cli/plan.h"

#include "base/mem.h"
#include "plan/cost/frontier.h"
#include "plan/schedule/schedule.h"

#include <stdlib.h>
#include <string.h>

enum { KINDS = 3 }; // F, B, W

struct table { // of one kind and stage: cost[t - fastest]
    uint32_t fastest, count;
    double *cost;
};
struct request {
    const char *schedule, *text[KINDS];
    uint32_t workers, items;
    uint64_t by;
    enum plan_schedule kind;
    uint32_t chunks, slices, range, stages;
    struct table *tables; // (KINDS, stages)
};
struct answer {
    struct plan_list *lists; // (workers)
    struct plan_frontier_op *ops;
    uint32_t op_count;
    struct plan_frontier frontier;
};

static const char *const names[KINDS] = {"f", "b", "w"};

// "2:10,3:7,4:6": times one after the other, with their costs.
static int read_table(const char *name, const char *text, struct table *table)
{
    struct bg_strlist cells = {0};
    bg_strlist_split(&cells, text, ',');
    table->cost = bg_alloc_array(cells.count, sizeof *table->cost);
    bool good = cells.count <= PLAN_FRONTIER_TIME_MAX;
    for (size_t i = 0; i < cells.count && good; i++) {
        char *end, *rest;
        const char *cell = cells.items[i];
        const unsigned long time = strtoul(cell, &end, 10);
        good = cell[0] >= '0' && cell[0] <= '9' && *end == ':' && time <= PLAN_FRONTIER_TIME_MAX;
        table->cost[i] = good ? strtod(end + 1, &rest) : 0;
        table->fastest = good && i == 0 ? (uint32_t)time : table->fastest;
        good = good && rest != end + 1 && *rest == '\0' && time == table->fastest + i;
    }
    table->count = (uint32_t)cells.count;
    bg_strlist_fini(&cells);
    return good ? 0 : cli_misuse("plan", "--%s: \"%s\", expected TIME:COST,.. with times 1 apart", name, text);
}

// A table for all stages, or one for each with slashes between them.
static int read_tables(struct request *r, uint32_t kind)
{
    struct bg_strlist parts = {0};
    int code = 0;
    bg_strlist_split(&parts, r->text[kind], '/');
    if (parts.count != 1 && parts.count != r->stages)
        code = cli_misuse("plan", "--%s: %zu tables, expected one, or one for each of %u stages", names[kind],
                          parts.count, r->stages);
    for (uint32_t s = 0; s < r->stages && !code; s++)
        code = read_table(names[kind], parts.items[parts.count == 1 ? 0 : s], &r->tables[kind * r->stages + s]);
    bg_strlist_fini(&parts);
    return code;
}

static int read_request(struct request *r, struct bg_error *err)
{
    if (plan_schedule_parse(r->schedule, err, &r->kind, &r->chunks, &r->slices, &r->range))
        return cli_fail(err);
    const bool split = plan_schedule_splits(r->kind, r->slices);
    if (r->workers < 1 || r->items < 1 || !r->text[0] || !r->text[1])
        return cli_misuse("plan", "--frontier: --stages, --micro-batches, --f and --b are needed");
    if (split != !!r->text[2])
        return cli_misuse("plan", "--frontier %s: %s", r->schedule,
                          split ? "--w is needed" : "B and W are one, --w has no place");
    r->stages = r->workers * plan_schedule_chunks(r->kind, r->chunks);
    if (r->workers > PLAN_STAGES_MAX || r->stages > PLAN_STAGES_MAX)
        return cli_misuse("plan", "--stages: expected at most %d in all", PLAN_STAGES_MAX);
    if ((uint64_t)r->stages * r->items * r->slices > PLAN_FRONTIER_OPS_MAX / KINDS)
        return cli_misuse("plan", "--micro-batches: expected at most %u ops in all", PLAN_FRONTIER_OPS_MAX);
    r->tables = bg_alloc_array((size_t)KINDS * r->stages, sizeof *r->tables);
    int code = 0;
    for (uint32_t kind = 0; kind < KINDS && !code; kind++)
        code = r->text[kind] ? read_tables(r, kind) : 0;
    return code;
}

// The schedule's lists, for the fastest times.
static bg_status make_lists(const struct request *r, struct bg_error *err, struct plan_list *lists)
{
    const uint32_t stages = r->stages;
    uint32_t *at = bg_alloc_array((size_t)stages * r->items, sizeof *at);
    double *times = bg_alloc_array((size_t)KINDS * stages, sizeof *times);
    for (uint32_t s = 0; s < stages; s++)
        for (uint32_t i = 0; i < r->items; i++)
            at[(size_t)s * r->items + i] = plan_schedule_rank(r->kind, r->workers, s);
    for (uint32_t k = 0; k < KINDS * stages; k++)
        times[k] = r->tables[k].fastest;
    const struct plan_pipe pipe = {r->workers,
                                   stages,
                                   r->items,
                                   r->slices,
                                   at,
                                   times,
                                   times + stages,
                                   times + 2 * stages,
                                   0,
                                   0,
                                   plan_schedule_splits(r->kind, r->slices),
                                   r->range};
    const bg_status status = plan_schedule_make(r->kind, &pipe, err, lists);
    bg_free(at);
    bg_free(times);
    return status;
}

static bool computes(const struct plan_op *op)
{
    return op->kind == PLAN_F || op->kind == PLAN_B || op->kind == PLAN_W;
}

static bg_status solve(const struct request *r, struct bg_error *err, struct answer *a)
{
    struct plan_frontier_edge *edges;
    uint32_t edge_count, at = 0;
    bg_status status = plan_frontier_edges(a->lists, r->workers, err, &edges, &edge_count, &a->op_count);
    if (status)
        return status;
    a->ops = bg_alloc_array(a->op_count, sizeof *a->ops);
    for (uint32_t w = 0; w < r->workers; w++)
        for (size_t i = 0; i < a->lists[w].count; i++) {
            const struct plan_op *op = &a->lists[w].ops[i];
            if (!computes(op))
                continue;
            const struct table *table = &r->tables[(op->kind - PLAN_F) * r->stages + op->stage];
            a->ops[at++] = (struct plan_frontier_op){table->fastest, table->fastest + table->count - 1, table->cost};
        }
    status = plan_frontier_solve(a->ops, a->op_count, edges, edge_count, &(struct plan_frontier_options){.by = r->by},
                                 err, &a->frontier);
    bg_free(edges);
    return status;
}

static void print_json(const struct request *r, const struct answer *a)
{
    json_t *points = json_array(), *lists = json_array();
    for (uint32_t p = 0; p < a->frontier.point_count; p++) {
        const struct plan_frontier_point *point = &a->frontier.points[p];
        json_array_append_new(points, json_pack("{s:I, s:f}", "time", (json_int_t)point->time, "cost", point->cost));
    }
    for (uint32_t w = 0, at = 0; w < r->workers; w++) {
        json_t *list = json_array();
        for (size_t i = 0; i < a->lists[w].count; i++) {
            char text[PLAN_OP_TEXT];
            if (!computes(&a->lists[w].ops[i]))
                continue;
            plan_op_text(&a->lists[w].ops[i], text);
            json_array_append_new(list,
                                  json_pack("{s:s, s:I}", "op", text, "time", (json_int_t)a->frontier.times[at++]));
        }
        json_array_append_new(lists, list);
    }
    cli_print_json(json_pack("{s:s, s:o, s:o}", "schedule", r->schedule, "points", points, "lists", lists));
}

static void print_table(const struct answer *a)
{
    printf("%12s %16s %16s\n", "time", "cost", "one unit less");
    for (uint32_t p = 0; p < a->frontier.point_count; p++) {
        const struct plan_frontier_point *point = &a->frontier.points[p];
        printf("%12llu %16.9g", (unsigned long long)point->time, point->cost);
        if (p + 1 < a->frontier.point_count)
            printf(" %16.9g", point->rate);
        printf("\n");
    }
}

int cli_plan_frontier(struct cli *cli, int argc, char **argv)
{
    struct request r = {0};
    struct answer a = {0};
    const struct cli_option options[] = {
        {"frontier", CLI_TEXT, &r.schedule, "SCHEDULE", "as of --schedule"},
        {"stages", CLI_U32, &r.workers, "P", "workers of the pipeline"},
        {"micro-batches", CLI_U32, &r.items, "M", "of a step"},
        {"f", CLI_TEXT, &r.text[0], "T:C,..", "times that a forward may take, 1 apart, and what each costs; a table"},
        {"b", CLI_TEXT, &r.text[1], "T:C,..", "for all stages or one for each with / between. Of a backward"},
        {"w", CLI_TEXT, &r.text[2], "T:C,..", "of a weight gradient, where it is apart"},
        {"by", CLI_U64, &r.by, "T", "print the ops' times for this makespan (default: the shortest)"},
    };
    const struct cli_usage usage = {
        "plan --frontier SCHEDULE --stages P --micro-batches M --f T:C,.. --b T:C,.. [options]",
        "The least cost (energy, money) of a step for every time it may take, where ops off\n"
        "the critical path run slower and cheaper (Perseus, SOSP 2024). Costs must not rise\n"
        "with the time, and fall less and less.",
        options,
        sizeof options / sizeof *options,
        0,
        0,
        true};
    struct bg_strlist words = {0};
    struct bg_error err = {0};
    int code = cli_parse(cli, &usage, argc, argv, &words);
    if (code < 0) {
        code = read_request(&r, &err);
        a.lists = code ? NULL : bg_alloc_array(r.workers, sizeof *a.lists);
        if (!code && (make_lists(&r, &err, a.lists) || solve(&r, &err, &a)))
            code = cli_fail(&err);
        if (!code && cli->json)
            print_json(&r, &a);
        else if (!code)
            print_table(&a);
    }
    for (uint32_t w = 0; w < r.workers && a.lists; w++)
        bg_free(a.lists[w].ops);
    for (uint32_t t = 0; t < KINDS * r.stages && r.tables; t++)
        bg_free(r.tables[t].cost);
    bg_free(r.tables);
    bg_free(a.lists);
    bg_free(a.ops);
    plan_frontier_fini(&a.frontier);
    bg_strlist_fini(&words);
    return code;
}
