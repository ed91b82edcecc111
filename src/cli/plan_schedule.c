// `brigade plan --schedule`: the order in which the workers of one pipeline compute, timed, without a model
// (plan/schedule/schedule.h).
#include "cli/plan.h"

#include "base/mem.h"
#include "cli/plan_schedule_svg.h"
#include "plan/schedule/schedule.h"

#include <string.h>

#define TIME_MAX 1e15

enum { GRID_WIDTH_MAX = 200, LIST_OPS_MAX = 40 };

struct request {
    const char *schedule, *f, *b, *w, *comm, *memory, *svg;
    uint32_t workers, items, slices;
    bool split;
};
struct answer {
    enum plan_schedule schedule;
    struct plan_pipe pipe;
    double *times; // (3, stages)
    uint32_t *at;
    struct plan_list *lists; // (workers)
    struct plan_schedule_time time;
};

// One number for all stages, or one for each.
static int read_times(const char *name, const char *text, uint32_t stages, double *times)
{
    struct bg_strlist list = {0};
    int code = 0;
    bg_strlist_split(&list, text ? text : "1", ',');
    if (list.count != 1 && list.count != stages)
        code = cli_misuse("plan", "--%s %s: %zu numbers, expected one, or one for each of %u stages", name, text,
                          list.count, stages);
    for (uint32_t s = 0; s < stages && !code; s++)
        code = cli_plan_number(name, list.items[list.count == 1 ? 0 : s], TIME_MAX, &times[s]);
    bg_strlist_fini(&list);
    return code;
}

static int read_request(const struct request *r, struct answer *a)
{
    uint32_t chunks = 1, slices = 1, range = 0;
    struct bg_error err = {0};
    if (plan_schedule_parse(r->schedule, &err, &a->schedule, &chunks, &slices, &range))
        return cli_fail(&err);
    if (r->workers == 0 || r->items == 0)
        return cli_misuse("plan", "--stages P and --micro-batches M are needed, at least 1 each");
    if ((uint64_t)r->workers * chunks > PLAN_STAGES_MAX)
        return cli_misuse("plan", "--stages %u of %u chunks: at most %d stages; take --stages %u", r->workers, chunks,
                          PLAN_STAGES_MAX, PLAN_STAGES_MAX / chunks);
    const uint32_t stages = r->workers * chunks;
    a->times = bg_alloc_array((size_t)3 * stages, sizeof *a->times);
    a->pipe = (struct plan_pipe){.workers = r->workers,
                                 .stages = stages,
                                 .items = r->items,
                                 .slices = r->slices ? r->slices : slices,
                                 .range = range,
                                 .forward = a->times,
                                 .input = a->times + stages,
                                 .weight = a->times + (size_t)2 * stages};
    a->pipe.split = r->split || plan_schedule_splits(a->schedule, a->pipe.slices);
    int code = read_times("f", r->f, stages, a->times);
    if (!code)
        code = read_times("b", r->b, stages, a->times + stages);
    if (!code)
        code = read_times("w", r->w, stages, a->times + (size_t)2 * stages);
    if (!code && r->comm)
        code = cli_plan_number("comm", r->comm, TIME_MAX, &a->pipe.comm);
    if (!code && r->memory)
        code = cli_plan_number("memory-limit", r->memory, TIME_MAX, &a->pipe.memory);
    if (!code && r->memory && a->pipe.memory <= 0)
        code = cli_misuse("plan", "--memory-limit %s: expected more than 0 micro-batches; the least is 1", r->memory);
    return code;
}

static bg_status solve(struct answer *a, struct bg_error *err)
{
    struct plan_pipe *pipe = &a->pipe;
    if ((uint64_t)pipe->stages * pipe->items <= PLAN_CELLS_MAX) { // else plan_schedule_make refuses, before it reads
        a->at = bg_alloc_array((size_t)pipe->stages * pipe->items, sizeof *a->at);
        for (uint32_t s = 0; s < pipe->stages; s++)
            for (uint32_t i = 0; i < pipe->items; i++)
                a->at[(size_t)s * pipe->items + i] = plan_schedule_rank(a->schedule, pipe->workers, s);
    }
    pipe->at = a->at;
    a->lists = bg_alloc_array(pipe->workers, sizeof *a->lists);
    bg_status status = plan_schedule_make(a->schedule, pipe, err, a->lists);
    return status ? status : plan_schedule_replay(pipe, a->lists, err, &a->time);
}

// ---- Output ----
static json_t *json_number(double value)
{
    return value == (double)(json_int_t)value ? json_integer((json_int_t)value) : json_real(value);
}

static void print_json(const struct answer *a)
{
    json_t *peaks = json_array(), *lists = json_array();
    for (uint32_t w = 0; w < a->pipe.workers; w++) {
        json_t *list = json_array();
        for (size_t i = 0; i < a->lists[w].count; i++) {
            const struct plan_op *op = &a->lists[w].ops[i];
            const bool first = a->pipe.slices > 1 && op->slice == 0 && op->kind != PLAN_W;
            char text[PLAN_OP_TEXT];
            plan_op_text(op, text); // which leaves the first slice unnamed
            json_array_append_new(list, json_sprintf("%s%s", text, first ? "/0" : ""));
        }
        json_array_append_new(lists, list);
        json_array_append_new(peaks, json_number(a->time.peak[w]));
    }
    cli_print_json(json_pack(
        "{s:s, s:i, s:i, s:i, s:i, s:o, s:o, s:o, s:o, s:o}", "schedule", plan_schedule_kind(a->schedule)->name,
        "workers", (int)a->pipe.workers, "stages", (int)a->pipe.stages, "micro_batches", (int)a->pipe.items, "slices",
        (int)(a->pipe.slices > 1 ? a->pipe.slices : 1), "makespan", json_number(a->time.makespan), "max_stage_span",
        json_number(a->time.span), "bubble", json_number(a->time.bubble), "peak_activations", peaks, "lists", lists));
}

static void cell_text(const struct answer *a, const struct plan_op *op, char text[PLAN_OP_TEXT])
{
    const char *kind = op->kind == PLAN_F ? "F" : op->kind == PLAN_W ? "W" : "B";
    char stage[16] = "", slice[16] = "";
    if (a->pipe.stages > a->pipe.workers)
        snprintf(stage, sizeof stage, "%u", op->stage);
    if (a->pipe.slices > 1 && op->kind != PLAN_W)
        snprintf(slice, sizeof slice, "/%u", op->slice);
    snprintf(text, PLAN_OP_TEXT, "%s%s%u%s", stage, kind, op->item, slice);
}

// Columns a unit of time: slices take a part of one.
static uint32_t grid_scale(const struct answer *a)
{
    return a->pipe.slices > 1 ? a->pipe.slices : 1;
}

// Columns of a grid, and how wide they are; 0: it would not fit, or an op starts within one.
static uint32_t grid_columns(const struct answer *a, int *width)
{
    const double columns = a->time.makespan * grid_scale(a);
    *width = 1;
    for (uint32_t w = 0; w < a->pipe.workers; w++)
        for (size_t i = 0; i < a->lists[w].count; i++) {
            char text[PLAN_OP_TEXT];
            const double start = a->time.starts[w][i] * grid_scale(a);
            cell_text(a, &a->lists[w].ops[i], text);
            *width = (int)strlen(text) > *width ? (int)strlen(text) : *width;
            if (start != (double)(uint32_t)start)
                return 0;
        }
    *width += 1;
    return columns > 0 && columns * *width <= GRID_WIDTH_MAX ? (uint32_t)columns + 1 : 0; // the last may be begun
}

// One row a worker; an op of several columns is drawn out.
static void print_grid(const struct answer *a, uint32_t columns, int width)
{
    const size_t size = (size_t)columns * (size_t)width, column = (size_t)width * grid_scale(a);
    char *row = bg_alloc_array(size + 1, 1);
    for (uint32_t w = 0; w < a->pipe.workers; w++) {
        const struct plan_list *list = &a->lists[w];
        size_t end = 0;
        for (size_t i = 0; i < list->count; i++) {
            char text[PLAN_OP_TEXT];
            cell_text(a, &list->ops[i], text);
            const size_t from = (size_t)(a->time.starts[w][i] * (double)column);
            memset(row + end, ' ', from - end);
            end = (size_t)((a->time.starts[w][i] + plan_op_time(&a->pipe, &list->ops[i])) * (double)column);
            for (size_t at = from; at < end; at++)
                row[at] = at - from < strlen(text) ? text[at - from] : at + 1 < end ? '-' : ' ';
        }
        printf("  %3u  %.*s\n", w, (int)end, row);
    }
    bg_free(row);
}

static void print_lists(const struct answer *a)
{
    for (uint32_t w = 0; w < a->pipe.workers; w++) {
        printf("  %3u ", w);
        for (size_t i = 0; i < a->lists[w].count && i < LIST_OPS_MAX; i++) {
            char text[PLAN_OP_TEXT];
            cell_text(a, &a->lists[w].ops[i], text);
            printf(" %s", text);
        }
        printf(a->lists[w].count > LIST_OPS_MAX ? " ... (all: --json)\n" : "\n");
    }
}

static void print_table(const struct answer *a)
{
    const struct plan_schedule_time *t = &a->time;
    int width;
    const uint32_t columns = grid_columns(a, &width);
    printf("schedule  %s: %s\n", plan_schedule_kind(a->schedule)->name, plan_schedule_kind(a->schedule)->about);
    printf("makespan  %g, from the first start to the last end\n", t->makespan);
    printf("longest   %g, worker %u from its first op to its last\n", t->span, t->longest);
    printf("bubble    %g of it, %.1f %%\n\n", t->bubble, t->span > 0 ? 100 * t->bubble / t->span : 0);
    printf("  %6s %8s %10s %10s %10s %10s\n", "worker", "ops", "first", "last", "idle", "in flight");
    for (uint32_t w = 0; w < t->workers; w++)
        printf("  %6u %8zu %10g %10g %10g %10g\n", w, a->lists[w].count, t->first[w], t->last[w],
               t->last[w] - t->first[w] - t->busy[w], t->peak[w]);
    printf("\n");
    if (columns)
        print_grid(a, columns, width);
    else
        print_lists(a);
}

int cli_plan_schedule(struct cli *cli, int argc, char **argv)
{
    struct request r = {0};
    const struct cli_option options[] = {
        {"schedule", CLI_TEXT, &r.schedule, "NAME", "gpipe, 1f1b, interleaved[:CHUNKS], zb-h1, zb-2p, zb-v,"},
        {"stages", CLI_U32, &r.workers, "P",
         "zb-v-half, zb-v-min, seq1f1b[:SLICES], tessel[:CHUNKS], distmm[:RANGE]; workers of the pipeline"},
        {"micro-batches", CLI_U32, &r.items, "M", "of a step"},
        {"f", CLI_TEXT, &r.f, "T[,T..]", "time of a forward, of all stages or each (1)"},
        {"b", CLI_TEXT, &r.b, "T[,T..]", "of an input gradient (1)"},
        {"w", CLI_TEXT, &r.w, "T[,T..]", "of a weight gradient (1)"},
        {"comm", CLI_TEXT, &r.comm, "T", "of a message between two workers (0)"},
        {"memory-limit", CLI_TEXT, &r.memory, "N", "micro-batches of a stage that a worker may hold"},
        {"slices", CLI_U32, &r.slices, "N", "runs of positions that F and B take one by one"},
        {"split", CLI_FLAG, &r.split, NULL, "B and W apart where the schedule leaves it open"},
        {"svg", CLI_TEXT, &r.svg, "FILE", "a picture of it"},
    };
    const struct cli_usage usage = {
        "plan --schedule NAME --stages P --micro-batches M [options]",
        "In which order the workers of one pipeline compute, and how long that takes: the whole\n"
        "of it, the longest worker from its first op to its last, and how much of that it waits.\n"
        "In flight: forwards begun whose weight gradient is not done, of any stage of a worker.",
        options,
        sizeof options / sizeof *options,
        0,
        0,
        true};
    struct bg_strlist words = {0};
    struct answer a = {0};
    struct bg_error err = {0};
    int code = cli_parse(cli, &usage, argc, argv, &words);
    if (code < 0) {
        code = read_request(&r, &a);
        if (!code && solve(&a, &err))
            code = cli_fail(&err);
        if (!code && r.svg)
            code = cli_plan_env(cli);
        if (!code && r.svg && cli_plan_schedule_svg(cli->env, r.svg, r.schedule, &a.pipe, a.lists, &a.time, &err))
            code = cli_fail(&err);
        if (!code && cli->json)
            print_json(&a);
        else if (!code)
            print_table(&a);
    }
    plan_schedule_time_fini(&a.time);
    for (uint32_t w = 0; a.lists && w < a.pipe.workers; w++)
        bg_free(a.lists[w].ops);
    bg_free(a.lists);
    bg_free(a.at);
    bg_free(a.times);
    bg_strlist_fini(&words);
    return code;
}
