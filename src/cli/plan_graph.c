// `brigade plan --graph`: a graph of layers over nested levels of machines, by PipeDream's partitioner
// (plan/split/pipedream.h).
#include "cli/plan.h"

#include "plan/split/pipedream.h"

#include <string.h>

#define LEAST 1e-30 // of what is divided by: no time becomes infinite

struct request {
    const char *graph, *machines, *bandwidth, *compression, *memory;
    struct plan_pipedream_options options;
};

static int read_levels(struct request *r)
{
    struct plan_pipedream_options *o = &r->options;
    struct bg_strlist machines = {0}, bandwidths = {0};
    int code = 0;
    bg_strlist_split(&machines, r->machines, ',');
    bg_strlist_split(&bandwidths, r->bandwidth, ',');
    if (machines.count != bandwidths.count || machines.count > PLAN_PIPEDREAM_LEVELS_MAX)
        code = cli_misuse("plan",
                          "--machines %s, --bandwidth %s: expected one bandwidth for each level, at most %d levels",
                          r->machines, r->bandwidth, PLAN_PIPEDREAM_LEVELS_MAX);
    for (size_t l = 0; l < machines.count && !code; l++) {
        double count = 0;
        code = cli_plan_number("machines", machines.items[l], PLAN_PIPEDREAM_MACHINES_MAX, &count);
        if (!code && (count < 1 || count != (double)(uint32_t)count))
            code = cli_misuse("plan", "--machines: \"%s\", expected a whole number from 1", machines.items[l]);
        o->levels[l].machines = (uint32_t)count;
        if (!code)
            code = cli_plan_number("bandwidth", bandwidths.items[l], 1e30, &o->levels[l].bandwidth);
        if (!code && o->levels[l].bandwidth < LEAST)
            code = cli_misuse("plan", "--bandwidth: \"%s\", expected more than 0 bytes/s", bandwidths.items[l]);
    }
    o->level_count = (uint32_t)machines.count;
    bg_strlist_fini(&machines);
    bg_strlist_fini(&bandwidths);
    return code;
}

static int read_request(struct request *r)
{
    if (!r->graph || !r->machines || !r->bandwidth)
        return cli_misuse("plan", "--graph, --machines and --bandwidth are needed");
    int code = read_levels(r);
    if (!code && r->compression)
        code = cli_plan_number("activation-compression-ratio", r->compression, 1e30, &r->options.compression);
    if (!code && r->compression && r->options.compression < LEAST)
        code = cli_misuse("plan", "--activation-compression-ratio: expected more than 0 (1: nothing is compressed)");
    if (!code && r->memory)
        code = cli_plan_number("memory", r->memory, 1e30, &r->options.memory_bytes);
    if (!code && r->memory && r->options.memory_bytes <= 0)
        code = cli_misuse("plan", "--memory: expected more than 0 bytes");
    return code;
}

// Where the stages of a level begin, and in *end where they end.
static uint32_t level_of(const struct plan_pipedream *plan, uint32_t level, uint32_t *end)
{
    uint32_t begin = 0;
    while (begin < plan->stage_count && plan->stages[begin].level != level)
        begin++;
    for (*end = begin; *end < plan->stage_count && plan->stages[*end].level == level;)
        ++*end;
    return begin;
}

static void print_json(const struct request *r, uint32_t states, const struct plan_pipedream *plan)
{
    json_t *levels = json_array();
    uint32_t above = 0;
    for (uint32_t l = r->options.level_count; l > 0; l--) {
        uint32_t end, begin = level_of(plan, l, &end);
        json_t *stages = json_array();
        for (uint32_t s = begin; s < end; s++) {
            const struct plan_pipedream_stage *stage = &plan->stages[s];
            json_array_append_new(stages,
                                  json_pack("{s:i, s:i, s:i, s:i}", "first", (int)stage->first, "end", (int)stage->end,
                                            "replicas", (int)stage->replicas, "part_of", (int)(stage->parent - above)));
        }
        json_array_append_new(levels, json_pack("{s:i, s:i, s:f, s:o}", "level", (int)l, "machines",
                                                (int)r->options.levels[l - 1].machines, "bandwidth",
                                                r->options.levels[l - 1].bandwidth, "stages", stages));
        above = begin;
    }
    cli_print_json(json_pack("{s:i, s:f, s:f, s:f, s:o}", "states", (int)states, "t_single", plan->single_s, "t_pipe",
                             plan->pipe_s, "t_dp", plan->data_s, "levels", levels));
}

static void print_time(const char *name, double seconds, double single_s)
{
    printf("%-9s %.9g s", name, seconds);
    if (seconds > 0)
        printf(", %.2f times as fast", single_s / seconds);
    printf("\n");
}

static void print_table(const struct request *r, uint32_t states, const struct plan_pipedream *plan)
{
    printf("states    %u\n", states);
    printf("t_single  %.9g s\n", plan->single_s);
    print_time("t_pipe", plan->pipe_s, plan->single_s);
    print_time("t_dp", plan->data_s, plan->single_s);
    uint32_t above = 0;
    for (uint32_t l = r->options.level_count; l > 0; l--) {
        uint32_t end, begin = level_of(plan, l, &end);
        printf("\nlevel %u: %u machines, %g bytes/s\n", l, r->options.levels[l - 1].machines,
               r->options.levels[l - 1].bandwidth);
        printf("  %5s %8s %12s %8s\n", "stage", "part of", "states", "replicas");
        for (uint32_t s = begin; s < end; s++) {
            const struct plan_pipedream_stage *stage = &plan->stages[s];
            char range[32], part[16] = "-";
            snprintf(range, sizeof range, "%u..%u", stage->first, stage->end - 1);
            if (l < r->options.level_count)
                snprintf(part, sizeof part, "%u", stage->parent - above);
            printf("  %5u %8s %12s %8u\n", s - begin, part, range, stage->replicas);
        }
        above = begin;
    }
}

static bg_status plan_graph_file(struct cli *cli, const struct request *r, struct bg_error *err)
{
    struct bg_map map;
    struct plan_graph graph;
    struct plan_states states;
    struct plan_pipedream plan;
    bg_status status = cli->env->ops->map_open(cli->env, r->graph, err, &map);
    if (status)
        return status;
    status = plan_graph_parse((const char *)map.data, map.size, err, &graph);
    cli->env->ops->map_close(cli->env, &map);
    if (status)
        return bg_fail_prefix(err, "%s", r->graph);
    plan_graph_trim(&graph);
    status = plan_states_create(&graph, err, &states);
    if (status)
        goto undo_graph;
    status = plan_pipedream_solve(&states, &r->options, err, &plan);
    if (status)
        goto undo_states;
    if (cli->json)
        print_json(r, states.count, &plan);
    else
        print_table(r, states.count, &plan);
    plan_pipedream_fini(&plan);
undo_states:
    plan_states_destroy(&states);
undo_graph:
    plan_graph_fini(&graph);
    return status ? bg_fail_prefix(err, "%s", r->graph) : BG_OK;
}

int cli_plan_graph(struct cli *cli, int argc, char **argv)
{
    struct request r = {0};
    const struct cli_option options[] = {
        {"graph", CLI_TEXT, &r.graph, "FILE", "a profile of layers, PipeDream's graph.txt"},
        {"machines", CLI_TEXT, &r.machines, "N,..", "of each level, the closest first: 4,2 is two boxes of four"},
        {"bandwidth", CLI_TEXT, &r.bandwidth, "B,..", "bytes/s inside each level"},
        {"activation-compression-ratio", CLI_TEXT, &r.compression, "R",
         "price activations on the way; else they are free"},
        {"straight-pipeline", CLI_FLAG, &r.options.straight, NULL, "one machine a stage"},
        {"use-fewer-machines", CLI_FLAG, &r.options.fewer, NULL, "machines may stay unused"},
        {"memory", CLI_TEXT, &r.memory, "BYTES", "of one machine"},
    };
    const struct cli_usage usage = {
        "plan --graph FILE --machines N,.. --bandwidth B,.. [options]",
        "Cuts a profiled graph of layers into stages and gives them machines, so that the\n"
        "slowest stage is as fast as can be (PipeDream, SOSP 2019). States are the places\n"
        "where the graph may be cut, counted from 0. Times are seconds a mini-batch: on one\n"
        "machine, by this plan, by data parallelism alone.",
        options,
        sizeof options / sizeof *options,
        0,
        0,
        true};
    struct bg_strlist words = {0};
    struct bg_error err = {0};
    int code = cli_parse(cli, &usage, argc, argv, &words);
    if (code < 0)
        code = read_request(&r);
    else
        goto undo_words;
    if (!code)
        code = cli_plan_env(cli);
    if (!code && plan_graph_file(cli, &r, &err))
        code = cli_fail(&err);
undo_words:
    bg_strlist_fini(&words);
    return code;
}
