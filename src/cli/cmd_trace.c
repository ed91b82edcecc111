// `brigade trace`: reads traces of machines and requests, says what is in them and what was mended, changes them,
// writes them, draws them.
#include "cli/cli.h"

#include "base/mem.h"
#include "cli/trace.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

struct command { // as given
    struct bg_strlist files;
    const char *out, *svg, *thin, *time_scale, *upscale, *gap;
    uint64_t seed;
    uint32_t instances;
};

struct changes { // 0: none
    double thin, time_scale, upscale, gap_s;
    bool as_json, as_csv; // what --out is to hold
};

static int parse_changes(const struct command *c, struct changes *change)
{
    const struct {
        const char *name, *text;
        double *value, least, most;
    } numbers[] = {{"thin", c->thin, &change->thin, 0, 1},
                   {"time-scale", c->time_scale, &change->time_scale, 0, 1e9},
                   {"upscale", c->upscale, &change->upscale, 1, 1e9}};
    for (size_t i = 0; i < sizeof numbers / sizeof *numbers; i++) {
        char *end = NULL;
        if (!numbers[i].text)
            continue;
        *numbers[i].value = strtod(numbers[i].text, &end);
        if (end == numbers[i].text || *end || !(*numbers[i].value > 0) || *numbers[i].value < numbers[i].least ||
            *numbers[i].value > numbers[i].most)
            return cli_misuse("trace", "--%s: expected a number %s %g and at most %g, found '%s'", numbers[i].name,
                              numbers[i].least > 0 ? "of at least" : "above", numbers[i].least, numbers[i].most,
                              numbers[i].text);
    }
    if (!cli_parse_seconds(c->gap, &change->gap_s) || change->gap_s < 1e-3)
        return cli_misuse("trace", "--gap: expected a time like 10m or 30s, found '%s'", c->gap);
    const char *dot = c->out ? strrchr(c->out, '.') : NULL;
    change->as_json = dot && strcmp(dot, ".json") == 0;
    change->as_csv = dot && strcmp(dot, ".csv") == 0;
    if (c->out && !change->as_json && !change->as_csv)
        return cli_misuse("trace",
                          "--out: expected a name that ends in .json (counts) or .csv (events, requests), "
                          "found '%s'",
                          c->out);
    if (c->out && c->files.count != 1)
        return cli_misuse("trace", "--out takes one trace at a time, found %zu", c->files.count);
    return -1;
}

static bg_status apply(const struct command *c, const struct changes *change, struct bg_error *err,
                       struct plan_trace *trace)
{
    bg_status status = BG_OK;
    if (change->thin > 0)
        plan_trace_thin(trace, change->thin, c->seed);
    if (change->upscale > 0)
        status = plan_trace_upscale(trace, change->upscale, err);
    if (!status && change->time_scale > 0)
        status = plan_trace_scale_time(trace, change->time_scale, err);
    if (!status && change->as_json)
        status = plan_trace_to_counts(trace, change->gap_s, err);
    if (!status && change->as_csv && trace->kind != PLAN_TRACE_REQUESTS)
        status = plan_trace_to_events(trace, err);
    if (!status && !trace->count)
        status = bg_fail(err, BG_INVALID, "nothing is left of it: keep more with --thin, or take another --seed");
    return status;
}

// ---- Saying ----

static json_t *spread_json(const struct plan_trace_spread *s)
{
    return json_pack("{s:f, s:I, s:I, s:I, s:I}", "mean", s->mean, "p50", (json_int_t)s->p50, "p90", (json_int_t)s->p90,
                     "p99", (json_int_t)s->p99, "max", (json_int_t)s->max);
}

static json_t *trace_json(const char *name, const struct plan_trace *trace, uint32_t least)
{
    struct plan_trace_stats s;
    plan_trace_tell(trace, least, &s);
    json_t *object =
        json_pack("{s:s, s:s, s:I, s:f, s:I, s:I}", "trace", name, "kind", plan_trace_kind_name(trace->kind), "entries",
                  (json_int_t)trace->count, "seconds", s.seconds, "out_of_order", (json_int_t)trace->moved, "dropped",
                  (json_int_t)trace->dropped);
    json_t *more;
    if (trace->kind == PLAN_TRACE_REQUESTS)
        more = json_pack("{s:f, s:f, s:o, s:o}", "rate", s.rate, "cv", s.cv, "prompt_tokens", spread_json(&s.prompt),
                         "generated_tokens", spread_json(&s.generated));
    else
        more = json_pack("{s:f, s:f, s:f, s:I, s:I, s:I, s:I, s:f, s:I, s:I, s:I}", "availability", s.availability,
                         "up_mean_s", s.up_mean_s, "down_mean_s", s.down_mean_s, "up_runs", (json_int_t)s.up_runs,
                         "down_runs", (json_int_t)s.down_runs, "live_min", (json_int_t)s.live_min, "live_max",
                         (json_int_t)s.live_max, "live_mean", s.live_mean, "nodes", (json_int_t)s.nodes, "adds",
                         (json_int_t)s.adds, "removes", (json_int_t)s.removes);
    if (trace->kind == PLAN_TRACE_COUNTS)
        json_object_set_new(more, "gap_s", json_real(trace->gap_s));
    json_object_update(object, more);
    json_decref(more);
    return object;
}

static void print_machines(const struct command *c, const struct plan_trace *traces)
{
    bool headed = false;
    for (size_t i = 0; i < c->files.count; i++) {
        if (traces[i].kind == PLAN_TRACE_REQUESTS)
            continue;
        if (!headed)
            printf("%-10s %-12s %-9s %-9s %-16s %-6s %-6s %s\n", "time", "available", "mean up", "mean down",
                   "live min/mean/max", "adds", "losses", "trace");
        headed = true;
        struct plan_trace_stats s;
        plan_trace_tell(&traces[i], c->instances, &s);
        char time[32], up[32], down[32], live[64], available[32];
        cli_duration(time, sizeof time, s.seconds);
        cli_duration(up, sizeof up, s.up_mean_s);
        cli_duration(down, sizeof down, s.down_mean_s);
        snprintf(live, sizeof live, "%u/%.2f/%u", s.live_min, s.live_mean, s.live_max);
        snprintf(available, sizeof available, "%.2f %%", 100 * s.availability);
        printf("%-10s %-12s %-9s %-9s %-17s %-6u %-6u %s\n", time, available, up, down, live, s.adds, s.removes,
               c->files.items[i]);
    }
}

static void print_requests(const struct command *c, const struct plan_trace *traces)
{
    bool headed = false;
    for (size_t i = 0; i < c->files.count; i++) {
        if (traces[i].kind != PLAN_TRACE_REQUESTS)
            continue;
        if (!headed)
            printf("%-10s %-9s %-8s %-6s %-22s %-22s %s\n", "time", "requests", "rate /s", "CV", "prompt p50/p90/p99",
                   "generated p50/p90/p99", "trace");
        headed = true;
        struct plan_trace_stats s;
        plan_trace_tell(&traces[i], c->instances, &s);
        char time[32], prompt[64], generated[64];
        cli_duration(time, sizeof time, s.seconds);
        snprintf(prompt, sizeof prompt, "%u/%u/%u", s.prompt.p50, s.prompt.p90, s.prompt.p99);
        snprintf(generated, sizeof generated, "%u/%u/%u", s.generated.p50, s.generated.p90, s.generated.p99);
        printf("%-10s %-9zu %-8.3f %-6.2f %-22s %-22s %s\n", time, traces[i].count, s.rate, s.cv, prompt, generated,
               c->files.items[i]);
    }
}

static void print(struct cli *cli, const struct command *c, const struct plan_trace *traces)
{
    if (!cli->json) {
        print_machines(c, traces);
        print_requests(c, traces);
        return;
    }
    json_t *all = json_array();
    for (size_t i = 0; i < c->files.count; i++)
        json_array_append_new(all, trace_json(c->files.items[i], &traces[i], c->instances));
    cli_print_json(json_pack("{s:o}", "traces", all));
}

static int write_files(struct cli *cli, const struct command *c, const struct plan_trace *traces)
{
    int code = 0;
    if (c->out) {
        char *text = plan_trace_format(&traces[0]);
        code = cli_write(cli, c->out, text);
        bg_free(text);
    }
    if (!code && c->svg) {
        char *text = trace_picture(traces, c->files.items, c->files.count);
        code = cli_write(cli, c->svg, text);
        bg_free(text);
    }
    return code;
}

static int run_command(struct cli *cli, const struct command *c)
{
    struct changes change = {0};
    int code = parse_changes(c, &change);
    if (code < 0)
        code = cli_env(cli, 1);
    if (code)
        return code;
    struct plan_trace *traces = bg_alloc_array(c->files.count, sizeof *traces);
    struct bg_error err = {0};
    for (size_t i = 0; i < c->files.count && !code; i++) {
        if (trace_load(cli->env, c->files.items[i], &err, &traces[i])) {
            code = cli_fail(&err);
        } else if (apply(c, &change, &err, &traces[i])) {
            (void)bg_fail_prefix(&err, "%s", c->files.items[i]);
            code = cli_fail(&err);
        }
    }
    if (!code)
        code = write_files(cli, c, traces);
    if (!code)
        print(cli, c, traces);
    for (size_t i = 0; i < c->files.count; i++)
        plan_trace_fini(&traces[i]);
    bg_free(traces);
    return code;
}

int cmd_trace(struct cli *cli, int argc, char **argv)
{
    struct command c = {.seed = 1, .instances = 1, .gap = "1m"};
    const struct cli_option options[] = {
        {"thin", CLI_TEXT, &c.thin, "F", "keep this share of the requests, or of the machines"},
        {"seed", CLI_U64, &c.seed, "N", "which ones (1)"},
        {"upscale", CLI_TEXT, &c.upscale, "F", "so many times the requests in the same time"},
        {"time-scale", CLI_TEXT, &c.time_scale, "F", "stretch time; 0.1 is ten times as fast"},
        {"out", CLI_TEXT, &c.out, "FILE",
         "write it: .json counts machines at each tick, .csv holds events or requests"},
        {"gap", CLI_TEXT, &c.gap, "TIME", "a tick, where events become counts (1m)"},
        {"instances", CLI_U32, &c.instances, "N", "available means so many at once (1)"},
        {"svg", CLI_TEXT, &c.svg, "FILE", "draw them, a row a trace"},
    };
    const struct cli_usage usage = {
        "trace FILE ... [options]",
        "Traces of machines that came and went, and of requests that came in: what is in them, with entries out of "
        "order\n"
        "put in order and said. Three formats are read, told apart by how a file begins:\n"
        "  counts    {\"metadata\": {\"gap_seconds\": 600}, \"data\": [1, 0, ...]}   spot machines there, or still "
        "there\n"
        "  events    ms,add|remove,node\n"
        "  requests  TIMESTAMP,ContextTokens,GeneratedTokens\n"
        "Changes are made in the order in which they stand below. For PNG: rsvg-convert -o X.png X.svg",
        options,
        sizeof options / sizeof *options,
        1,
        100000,
        true};
    int code = cli_parse(cli, &usage, argc, argv, &c.files);
    if (code < 0 && !c.instances)
        code = cli_misuse("trace", "--instances: expected 1 or more");
    if (code < 0)
        code = run_command(cli, &c);
    bg_strlist_fini(&c.files);
    return code;
}
