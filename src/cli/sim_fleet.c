// `brigade sim fleet`: how far a training job would have come on machines that came and went, under one policy or all.
#include "cli/sim.h"

#include "base/mem.h"
#include "cli/trace.h"
#include "plan/fleet/fleet_ask.h"

#include <string.h>

struct command { // as given
    const char *trace, *policy, *model, *svg, *log;
    uint32_t nodes, micro_batches, stages, tokens;
    float samples, interval_s, bandwidth, teraflops, memory_gb;
    uint64_t seed;
};

struct fleet_sim {
    struct plan_trace trace;
    struct plan_fleet *fleet;
    const struct plan_fleet_policy *policies[64];
    struct plan_fleet_result results[64];
    size_t count;
    struct plan_fleet_question question; // of a log: what stays the same
    bool logs;
    struct bg_str lines[64];
};

// Every line holds the trace so far: a log grows with the square of its intervals.
enum { LOG_INTERVALS_MAX = 10000 };

// Models that papers used, by what is different from the defaults.
static const struct named_model {
    const char *name;
    struct plan_fleet_transformer shape;
    uint32_t stages_min, micro_batches;
    double samples;
} named_models[] = {
    {"bert-large", {24, 1024, 30522, 8 * 512, 0, 0, 0}, 2, 128, 8},
    {"gpt-1.5b", {48, 1600, 50257, 1024, 0, 0, 0}, 6, 128, 1},
    {"gpt-6.7b", {32, 4096, 50257, 1024, 0, 0, 0}, 12, 64, 1},
};

static bg_status read_trace(struct bg_env *env, const char *path, struct bg_error *err, struct plan_trace *trace)
{
    bg_status status = trace_load(env, path, err, trace);
    if (!status && trace->kind == PLAN_TRACE_REQUESTS)
        status = bg_fail(err, BG_FORMAT, "%s: a trace of requests: expected one of machines", path);
    else if (!status && trace->kind == PLAN_TRACE_COUNTS)
        status = plan_trace_to_events(trace, err);
    return status;
}

// A name, LAYERSxDIM, or a profile of a file.
static bg_status read_model(struct cli *cli, const struct command *c, struct fleet_sim *s, struct bg_error *err,
                            struct plan_fleet_options *options, struct plan_profile *profile)
{
    struct plan_fleet_transformer shape = {.vocabulary = 50257, .tokens = c->tokens};
    const struct named_model *named = NULL;
    for (size_t i = 0; i < sizeof named_models / sizeof *named_models; i++)
        if (!strcmp(c->model, named_models[i].name))
            named = &named_models[i];
    char rest;
    if (named) {
        shape = named->shape;
        options->stages_min = named->stages_min;
        options->micro_batches = named->micro_batches;
        options->samples = named->samples;
    } else if (sscanf(c->model, "%ux%u%c", &shape.layers, &shape.dim, &rest) != 2) {
        struct bg_map map;
        bg_status status = cli->env->ops->map_open(cli->env, c->model, err, &map);
        if (status)
            return status;
        status = plan_profile_parse((const char *)map.data, map.size, err, profile);
        cli->env->ops->map_close(cli->env, &map);
        return status ? bg_fail_prefix(err, "%s", c->model) : BG_OK;
    }
    shape.flops = 1e12 * (double)c->teraflops;
    shape.link_bytes_s = 1e9 / 8 * (double)c->bandwidth;
    shape.memory_bytes = 1e9 * (double)c->memory_gb;
    s->question.model = shape;
    return plan_fleet_transformer(&shape, err, profile);
}

static bg_status read_input(struct cli *cli, const struct command *c, struct fleet_sim *s, struct bg_error *err)
{
    struct plan_fleet_options options = plan_fleet_defaults;
    struct plan_profile profile = {0};
    bg_status status = read_trace(cli->env, c->trace, err, &s->trace);
    if (!status)
        status = read_model(cli, c, s, err, &options, &profile);
    if (!status) {
        options.nodes_max = c->nodes;
        options.interval_s = (double)c->interval_s;
        options.micro_batches = c->micro_batches ? c->micro_batches : options.micro_batches;
        options.stages_min = c->stages ? c->stages : options.stages_min;
        options.samples = c->samples > 0 ? (double)c->samples : options.samples;
        status = plan_fleet_create(&profile, &options, err, &s->fleet);
    }
    const double seconds = plan_trace_seconds(&s->trace);
    if (!status && seconds / options.interval_s > PLAN_FLEET_INTERVALS_MAX)
        status = bg_fail(err, BG_INVALID, "%s: %g s are more than %d intervals of %g s", c->trace, seconds,
                         PLAN_FLEET_INTERVALS_MAX, options.interval_s);
    plan_profile_fini(&profile);
    s->question.options = options;
    if (!status && c->log && !s->question.model.layers)
        status = bg_fail(err, BG_INVALID, "--log: a line holds the model by its numbers: take a name or LAYERSxDIM");
    if (!status && c->log && plan_fleet_intervals(s->fleet, s->trace.events, s->trace.count) > LOG_INTERVALS_MAX)
        status = bg_fail(err, BG_INVALID, "--log: at most %d intervals: take a longer --interval", LOG_INTERVALS_MAX);
    return status;
}

static int choose_policies(const char *name, struct fleet_sim *s)
{
    const char *names[64];
    struct bg_str known = {0};
    size_t count = 0;
    for (; plan_fleet_policies[count]; count++) {
        names[count] = plan_fleet_policies[count]->name;
        bg_str_addf(&known, "%s, ", names[count]);
        if (!strcmp(name, "all") || !strcmp(name, names[count]))
            s->policies[s->count++] = plan_fleet_policies[count];
    }
    int code = -1;
    if (!s->count) {
        const char *nearest = bg_nearest(name, names, count);
        code = nearest
                   ? cli_misuse("sim fleet", "--policy: no policy '%s'; did you mean '%s'?", name, nearest)
                   : cli_misuse("sim fleet", "--policy: no policy '%s'; there are %sall", name, bg_str_text(&known));
    }
    bg_str_fini(&known);
    return code;
}

struct log {
    struct plan_fleet_question question;
    struct bg_str *lines;
};

static void log_decision(void *arg, const struct plan_fleet_snapshot *now, struct plan_fleet_shape shape)
{
    struct log *log = arg;
    struct plan_fleet_question *q = &log->question;
    q->left = now->left;
    q->counts = now->counts;
    q->count = now->count;
    q->coming = now->coming;
    q->coming_count = now->coming_count;
    char *line = plan_fleet_decision_format(q, shape);
    bg_str_addf(log->lines, "%s\n", line);
    bg_free(line);
}

static void run_policy(void *arg, size_t index, unsigned lane)
{
    (void)lane;
    struct fleet_sim *s = arg;
    struct log log = {s->question, &s->lines[index]};
    log.question.policy = s->policies[index];
    const struct plan_fleet_run_options options = {
        .seed = s->question.seed, .decided = s->logs ? log_decision : NULL, .arg = &log};
    plan_fleet_run(s->fleet, s->policies[index], s->trace.events, s->trace.count, &options, &s->results[index]);
}

// Samples against those of throughput-optimal, which is run for that where it is not asked for.
static double baseline(struct fleet_sim *s)
{
    for (size_t i = 0; i < s->count; i++)
        if (!strcmp(s->policies[i]->name, "throughput-optimal"))
            return s->results[i].samples;
    struct plan_fleet_result result;
    plan_fleet_run(s->fleet, plan_fleet_policy_find("throughput-optimal"), s->trace.events, s->trace.count,
                   &(struct plan_fleet_run_options){.seed = s->question.seed}, &result);
    plan_fleet_result_fini(&result);
    return result.samples;
}

static uint32_t changes_of(const struct plan_fleet_result *result)
{
    uint32_t sum = 0;
    for (int kind = PLAN_FLEET_INTRA; kind <= PLAN_FLEET_START; kind++)
        sum += result->changes[kind];
    return sum;
}

static void print_json(const struct command *c, const struct fleet_sim *s, double base)
{
    json_t *policies = json_array();
    for (size_t i = 0; i < s->count; i++) {
        const struct plan_fleet_result *r = &s->results[i];
        json_array_append_new(
            policies,
            json_pack("{s:s, s:f, s:f, s:f, s:f, s:f, s:I, s:{s:I, s:I, s:I, s:I}, s:f, s:f, s:f}", "policy",
                      s->policies[i]->name, "samples", r->samples, "against_throughput_optimal",
                      base > 0 ? r->samples / base : 0, "redone_samples", r->redone, "stopped_s", r->stopped_s,
                      "idle_s", r->idle_s, "changes", (json_int_t)changes_of(r), "kinds", "intra_stage",
                      (json_int_t)r->changes[PLAN_FLEET_INTRA], "inter_stage", (json_int_t)r->changes[PLAN_FLEET_INTER],
                      "pipeline", (json_int_t)r->changes[PLAN_FLEET_PIPELINE], "start",
                      (json_int_t)r->changes[PLAN_FLEET_START], "liveput", r->liveput, "node_hours", r->node_hours,
                      "used_node_hours", r->used_node_hours));
    }
    cli_print_json(json_pack("{s:s, s:s, s:f, s:f, s:I, s:I, s:o}", "trace", c->trace, "model", c->model, "seconds",
                             s->results[0].seconds, "interval_s", s->fleet->options.interval_s, "stages_min",
                             (json_int_t)s->fleet->stages_min, "seed", (json_int_t)c->seed, "policies", policies));
}

static void print_text(const struct fleet_sim *s, double base)
{
    printf("%-20s %12s %8s %9s %9s %8s %8s\n", "policy", "samples", "ratio", "redone", "stopped", "changes", "liveput");
    for (size_t i = 0; i < s->count; i++) {
        const struct plan_fleet_result *r = &s->results[i];
        char stopped[32];
        cli_duration(stopped, sizeof stopped, r->stopped_s);
        printf("%-20s %12.0f %8.3f %9.0f %9s %8u %8.2f\n", s->policies[i]->name, r->samples,
               base > 0 ? r->samples / base : 0, r->redone, stopped, changes_of(r), r->liveput);
    }
}

static int write_pictures(struct cli *cli, const char *path, const struct fleet_sim *s)
{
    int code = 0;
    for (size_t i = 0; path && i < s->count && !code; i++) {
        const char *name = s->policies[i]->name;
        code = sim_write_each(cli, path, s->count > 1 ? name : NULL, sim_picture_fleet(&s->results[i], name));
    }
    return code;
}

static int write_logs(struct cli *cli, const char *path, struct fleet_sim *s)
{
    int code = 0;
    for (size_t i = 0; path && i < s->count && !code; i++)
        code = sim_write_each(cli, path, s->count > 1 ? s->policies[i]->name : NULL, bg_str_take(&s->lines[i]));
    return code;
}

static int run_command(struct cli *cli, const struct command *c)
{
    struct fleet_sim s = {.question.seed = c->seed, .logs = c->log};
    int code = choose_policies(c->policy, &s);
    if (code < 0)
        code = cli_env_unpinned(cli);
    if (code)
        return code;
    struct bg_error err = {0};
    if (read_input(cli, c, &s, &err)) {
        code = cli_fail(&err);
    } else {
        env_parallel_for(cli->env, s.count, run_policy, &s);
        const double base = baseline(&s);
        if (cli->json)
            print_json(c, &s, base);
        else
            print_text(&s, base);
        code = cli_finish_output();
        if (!code)
            code = write_pictures(cli, c->svg, &s);
        if (!code)
            code = write_logs(cli, c->log, &s);
        for (size_t i = 0; i < s.count; i++)
            plan_fleet_result_fini(&s.results[i]);
        for (size_t i = 0; i < s.count; i++)
            bg_str_fini(&s.lines[i]);
    }
    plan_fleet_destroy(s.fleet);
    plan_trace_fini(&s.trace);
    return code;
}

static char *about_fleet(void)
{
    struct bg_str text = {0};
    bg_str_add(&text,
               "How far a training job would have come on machines that came and went, as stages x replicas that a\n"
               "policy chooses anew every interval:\n");
    for (size_t i = 0; plan_fleet_policies[i]; i++)
        bg_str_addf(&text, "  %-20s %s\n", plan_fleet_policies[i]->name, plan_fleet_policies[i]->about);
    bg_str_add(&text, "  all                  each of them\nModels: a profile, LAYERSxDIM, or");
    for (size_t i = 0; i < sizeof named_models / sizeof *named_models; i++)
        bg_str_addf(&text, "%s %s", i ? "," : "", named_models[i].name);
    return bg_str_take(&text);
}

int sim_fleet(struct cli *cli, int argc, char **argv)
{
    struct command c = {.policy = "all",
                        .model = "gpt-1.5b",
                        .nodes = 32,
                        .tokens = 1024,
                        .interval_s = 60,
                        .bandwidth = 10,
                        .teraflops = 20.7F,
                        .memory_gb = 16,
                        .seed = 1};
    const struct cli_option options[] = {
        {"trace", CLI_TEXT, &c.trace, "FILE", "machines: events \"ms,add|remove,node\", or counts as JSON"},
        {"policy", CLI_TEXT, &c.policy, "NAME", "one of those above, or all (all)"},
        {"model", CLI_TEXT, &c.model, "MODEL", "a name, LAYERSxDIM, or the file of a profile (gpt-1.5b)"},
        {"nodes", CLI_U32, &c.nodes, "N", "use at most so many machines (32)"},
        {"interval", CLI_FLOAT, &c.interval_s, "S", "between two decisions (60)"},
        {"micro-batches", CLI_U32, &c.micro_batches, "N", "of a step (the model's, or 128)"},
        {"samples", CLI_FLOAT, &c.samples, "N", "of a micro-batch (the model's, or 1)"},
        {"stages", CLI_U32, &c.stages, "N", "at least so many (the model's, or what memory says)"},
        {"tokens", CLI_U32, &c.tokens, "N", "of a micro-batch, for LAYERSxDIM (1024)"},
        {"teraflops", CLI_FLOAT, &c.teraflops, "X", "useful ones of a machine (20.7)"},
        {"bandwidth", CLI_FLOAT, &c.bandwidth, "GBIT", "between machines, a second (10)"},
        {"memory", CLI_FLOAT, &c.memory_gb, "GB", "of a machine (16)"},
        {"seed", CLI_U64, &c.seed, "N", "of the draws (1)"},
        {"svg", CLI_TEXT, &c.svg, "FILE", "machines and samples over time, a picture a policy"},
        {"log", CLI_TEXT, &c.log, "FILE", "what was decided on what, for sim replay; a file a policy"},
    };
    char *about = about_fleet();
    const struct cli_usage usage = {
        "sim fleet --trace FILE [options]", about, options, sizeof options / sizeof *options, 0, 0, true};
    struct bg_strlist words = {0};
    int code = cli_parse(cli, &usage, argc, argv, &words);
    if (code < 0 && !c.trace)
        code = cli_misuse("sim fleet", "--trace FILE is missing");
    if (code < 0 && !(c.interval_s > 0))
        code = cli_misuse("sim fleet", "--interval: expected seconds above 0, found %g", (double)c.interval_s);
    if (code < 0 && !(c.bandwidth > 0)) // in a profile, none would be a link without a limit
        code = cli_misuse("sim fleet", "--bandwidth: expected Gbit/s above 0, found %g", (double)c.bandwidth);
    if (code < 0 && !(c.samples >= 0))
        code = cli_misuse("sim fleet", "--samples: expected a number above 0, found %g", (double)c.samples);
    if (code < 0)
        code = run_command(cli, &c);
    bg_strlist_fini(&words);
    bg_free(about);
    return code;
}
