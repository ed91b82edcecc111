// `brigade sim service`: what a service would have cost and how fast it would have answered, over requests as they came
// and spot zones as they were, under one policy or all.
#include "cli/sim.h"

#include "base/mem.h"
#include "cli/calibrate.h"
#include "cli/trace.h"
#include "plan/service/service.h"

#include <stdlib.h>
#include <string.h>

struct command { // as given
    const char *requests, *policy, *model, *svg, *log;
    struct bg_strlist zones, prices;
    uint32_t zone_size, base, extra, least, most, slots;
    float on_demand_price, rate, interval_s, window_s, up_s, down_s, start_s, timeout_s;
    float prompt_rate, step_ms, extra_ms, speed, hours, from_h;
};

struct service_sim {
    struct plan_trace requests, zones[PLAN_SERVICE_ZONES_MAX];
    struct plan_service_job job;
    const struct plan_service_policy *policies[64];
    struct plan_service_result results[64];
    size_t count;
    bool logs;
    struct bg_str lines[64];
};

enum { LOG_DECISIONS_MAX = 100000 };

static bg_status read_trace(struct bg_env *env, const char *path, enum plan_trace_kind kind, struct bg_error *err,
                            struct plan_trace *trace)
{
    const bg_status status = trace_load(env, path, err, trace);
    if (status || trace->kind == kind)
        return status;
    const char *found = plan_trace_kind_name(trace->kind);
    plan_trace_fini(trace);
    return bg_fail(err, BG_FORMAT, "%s: a trace of %s: expected one of %s", path, found, plan_trace_kind_name(kind));
}

static void make_job(const struct command *c, struct service_sim *s)
{
    const double hour = 3600;
    s->job = (struct plan_service_job){
        .model = {c->slots, (double)c->prompt_rate, (double)c->step_ms / 1e3, (double)c->extra_ms / 1e3,
                  (double)c->start_s},
        .scale = {(double)c->rate, (double)c->window_s, (double)c->interval_s, (double)c->up_s, (double)c->down_s,
                  c->least, c->most},
        .base = c->base,
        .extra = c->extra,
        .on_demand_price = (double)c->on_demand_price,
        .timeout_s = (double)c->timeout_s,
        .requests = &s->requests,
        .speed = (double)c->speed,
        .zones = s->zones,
        .zone_count = (uint32_t)c->zones.count,
        .zone_size = c->zone_size,
        .zones_from_s = (double)c->from_h * hour,
        .seconds = (double)c->hours * hour,
    };
}

// A price for all zones, or one for each.
static int parse_prices(const struct command *c, struct plan_service_job *job)
{
    if (c->prices.count > 1 && c->prices.count != c->zones.count)
        return cli_misuse("sim service", "--spot-price: %zu prices for %zu zones: expected one for all or one for each",
                          c->prices.count, c->zones.count);
    for (size_t z = 0; z < c->zones.count; z++) {
        const char *text = !c->prices.count ? "0.9731" : c->prices.items[c->prices.count > 1 ? z : 0];
        char *end;
        job->price[z] = strtod(text, &end);
        if (end == text || *end || !(job->price[z] >= 0 && job->price[z] <= 1e9))
            return cli_misuse("sim service", "--spot-price: expected $ an hour, found '%s'", text);
    }
    return -1;
}

static bg_status read_input(struct bg_env *env, const struct command *c, struct service_sim *s, struct bg_error *err)
{
    bg_status status = read_trace(env, c->requests, PLAN_TRACE_REQUESTS, err, &s->requests);
    for (size_t z = 0; z < c->zones.count && !status; z++)
        status = read_trace(env, c->zones.items[z], PLAN_TRACE_COUNTS, err, &s->zones[z]);
    if (!status && !(s->job.seconds > 0))
        s->job.seconds = plan_trace_seconds(&s->requests) / s->job.speed;
    if (!status)
        status = plan_service_check(&s->job, err);
    if (!status && c->log && s->job.seconds / s->job.scale.interval_s > LOG_DECISIONS_MAX)
        status = bg_fail(err, BG_INVALID, "--log: %g s are more than %d decisions, one every %g s: take fewer --hours",
                         s->job.seconds, LOG_DECISIONS_MAX, s->job.scale.interval_s);
    return status;
}

static int choose_policies(const char *name, struct service_sim *s)
{
    const char *names[64];
    struct bg_str known = {0};
    size_t count = 0;
    for (; plan_service_policies[count]; count++) {
        names[count] = plan_service_policies[count]->name;
        bg_str_addf(&known, "%s, ", names[count]);
        if (!strcmp(name, "all") || !strcmp(name, names[count]))
            s->policies[s->count++] = plan_service_policies[count];
    }
    int code = -1;
    if (!s->count) {
        const char *nearest = bg_nearest(name, names, count);
        code = nearest
                   ? cli_misuse("sim service", "--policy: no policy '%s'; did you mean '%s'?", name, nearest)
                   : cli_misuse("sim service", "--policy: no policy '%s'; there are %sall", name, bg_str_text(&known));
    }
    bg_str_fini(&known);
    return code;
}

static void run_policy(void *arg, size_t index, unsigned lane)
{
    (void)lane;
    struct service_sim *s = arg;
    plan_service_run(&s->job, s->policies[index], s->logs ? &s->lines[index] : NULL, &s->results[index]);
}

static json_t *percentiles(const double values[3])
{
    return json_pack("{s:f, s:f, s:f}", "p50", values[0], "p90", values[1], "p99", values[2]);
}

static void print_json(const struct command *c, const struct service_sim *s)
{
    json_t *policies = json_array();
    for (size_t i = 0; i < s->count; i++) {
        const struct plan_service_result *r = &s->results[i];
        json_t *one =
            json_pack("{s:s, s:f, s:f, s:f, s:f, s:f, s:I, s:I, s:I, s:o, s:o}", "policy", s->policies[i]->name, "cost",
                      r->spot_cost + r->on_demand_cost, "spot_cost", r->spot_cost, "on_demand_cost", r->on_demand_cost,
                      "availability", r->availability, "any_ready", r->some, "served", (json_int_t)r->served, "failed",
                      (json_int_t)r->failed, "restarted", (json_int_t)r->restarted, "latency_s",
                      percentiles(r->latency_s), "first_token_s", percentiles(r->first_token_s));
        json_t *more =
            json_pack("{s:I, s:I, s:I, s:I, s:f, s:f, s:f}", "preemptions", (json_int_t)r->preemptions,
                      "failed_launches", (json_int_t)r->failed_launches, "spot_launches", (json_int_t)r->spot_launches,
                      "on_demand_launches", (json_int_t)r->on_demand_launches, "target_mean", r->target_mean,
                      "spot_mean", r->spot_mean, "on_demand_mean", r->on_demand_mean);
        json_object_update(one, more);
        json_decref(more);
        json_array_append_new(policies, one);
    }
    cli_print_json(json_pack("{s:s, s:{s:f, s:f, s:f}, s:I, s:f, s:I, s:o}", "requests", c->requests, "replica",
                             "prompt_rate", s->job.model.prompt_rate, "step_s", s->job.model.step_s, "extra_s",
                             s->job.model.extra_s, "zones", (json_int_t)c->zones.count, "seconds", s->job.seconds,
                             "count", (json_int_t)s->results[0].requests, "policies", policies));
}

static void print_text(const struct service_sim *s)
{
    printf("%-12s %9s %9s %8s %8s %8s %8s %8s %8s\n", "policy", "cost $", "available", "p50 s", "p90 s", "p99 s",
           "failed", "taken", "target");
    for (size_t i = 0; i < s->count; i++) {
        const struct plan_service_result *r = &s->results[i];
        printf("%-12s %9.2f %8.1f%% %8.2f %8.2f %8.2f %7.2f%% %8u %8.2f\n", s->policies[i]->name,
               r->spot_cost + r->on_demand_cost, 100 * r->availability, r->latency_s[0], r->latency_s[1],
               r->latency_s[2], r->requests ? 100.0 * (double)r->failed / (double)r->requests : 0, r->preemptions,
               r->target_mean);
    }
}

static int write_pictures(struct cli *cli, const struct command *c, const struct service_sim *s)
{
    int code = 0;
    for (size_t i = 0; c->svg && i < s->count && !code; i++) {
        const char *name = s->policies[i]->name;
        char *title = bg_format("Replicas ready, %s", name);
        char *svg = sim_picture_service(&s->results[i], s->job.scale.interval_s, title);
        code = sim_write_each(cli, c->svg, s->count > 1 ? name : NULL, svg);
        bg_free(title);
    }
    return code;
}

static int run_command(struct cli *cli, const struct command *c)
{
    struct service_sim *s = bg_alloc(sizeof *s);
    make_job(c, s);
    s->logs = c->log;
    int code = choose_policies(c->policy, s);
    if (code < 0)
        code = parse_prices(c, &s->job);
    if (code < 0)
        code = cli_env_unpinned(cli);
    struct bg_error err = {0};
    if (!code && c->model && calibrate_service(cli->env, c->model, &err, &s->job.model))
        code = cli_fail(&err);
    if (!code && c->model)
        fprintf(stderr, "measured: --prompt-rate %.4g --step %.4g --step-extra %.4g\n", s->job.model.prompt_rate,
                s->job.model.step_s * 1e3, s->job.model.extra_s * 1e3);
    if (!code && read_input(cli->env, c, s, &err)) {
        code = cli_fail(&err);
    } else if (!code) {
        env_parallel_for(cli->env, s->count, run_policy, s);
        if (cli->json)
            print_json(c, s);
        else
            print_text(s);
        code = cli_finish_output();
        if (!code)
            code = write_pictures(cli, c, s);
        for (size_t i = 0; i < s->count && c->log && !code; i++)
            code = sim_write_each(cli, c->log, s->count > 1 ? s->policies[i]->name : NULL, bg_str_take(&s->lines[i]));
        for (size_t i = 0; i < s->count; i++)
            plan_service_result_fini(&s->results[i]);
        for (size_t i = 0; i < s->count; i++)
            bg_str_fini(&s->lines[i]);
    }
    plan_trace_fini(&s->requests);
    for (size_t z = 0; z < c->zones.count; z++)
        plan_trace_fini(&s->zones[z]);
    bg_free(s);
    return code;
}

static char *about_service(void)
{
    struct bg_str text = {0};
    bg_str_add(
        &text,
        "What a service would have cost and how fast it would have answered, over requests as they came and spot\n"
        "zones as they were, under a policy that decides what to rent:\n");
    for (size_t i = 0; plan_service_policies[i]; i++)
        bg_str_addf(&text, "  %-12s %s\n", plan_service_policies[i]->name, plan_service_policies[i]->about);
    bg_str_add(&text, "  all          each of them");
    return bg_str_take(&text);
}

static int check_command(struct command *c, const struct bg_strlist *words)
{
    for (size_t i = 0; i < words->count; i++) // --zones A B C
        bg_strlist_add(&c->zones, words->items[i]);
    if (!c->requests || !c->zones.count)
        return cli_misuse("sim service", "--requests FILE and --zones FILE ... are both needed");
    if (c->zones.count > PLAN_SERVICE_ZONES_MAX)
        return cli_misuse("sim service", "--zones: %zu zones, at most %d", c->zones.count, PLAN_SERVICE_ZONES_MAX);
    if (c->hours < 0)
        return cli_misuse("sim service", "--hours: expected a number above 0, found %g", (double)c->hours);
    return -1;
}

int sim_service(struct cli *cli, int argc, char **argv)
{
    struct command c = {.policy = "all",
                        .zone_size = 4,
                        .extra = 2,
                        .least = 1,
                        .most = 32,
                        .slots = 16,
                        .rate = 1.2F,
                        .interval_s = 20,
                        .window_s = 60,
                        .up_s = 300,
                        .down_s = 1200,
                        .start_s = 180,
                        .timeout_s = 100,
                        .prompt_rate = 8000,
                        .step_ms = 25,
                        .extra_ms = 0.5F,
                        .speed = 1,
                        .on_demand_price = 3.06F};
    const struct cli_option options[] = {
        {"requests", CLI_TEXT, &c.requests, "FILE", "\"TIMESTAMP,ContextTokens,GeneratedTokens\", a line each"},
        {"zones", CLI_LIST, &c.zones, "FILE ...", "spot availability of each zone, JSON counts"},
        {"policy", CLI_TEXT, &c.policy, "NAME", "one of those above, or all (all)"},
        {"hours", CLI_FLOAT, &c.hours, "H", "in all; requests begin again when they are through (once through)"},
        {"from", CLI_FLOAT, &c.from_h, "H", "where in the zones' traces to begin (0)"},
        {"speed", CLI_FLOAT, &c.speed, "X", "of the requests: 2 is twice as fast (1)"},
        {"zone-size", CLI_U32, &c.zone_size, "N", "replicas for each machine a zone has (4)"},
        {"spot-price", CLI_LIST, &c.prices, "$", "an hour; once for all zones, or once for each (0.9731)"},
        {"on-demand-price", CLI_FLOAT, &c.on_demand_price, "$", "an hour (3.06)"},
        {"base", CLI_U32, &c.base, "N", "replicas always on demand (0)"},
        {"extra", CLI_U32, &c.extra, "N", "spot replicas beyond the target (2)"},
        {"rate", CLI_FLOAT, &c.rate, "X", "requests a second that one replica is to serve (1.2)"},
        {"least", CLI_U32, &c.least, "N", "replicas (1)"},
        {"most", CLI_U32, &c.most, "N", "replicas (32)"},
        {"interval", CLI_FLOAT, &c.interval_s, "S", "between decisions (20)"},
        {"window", CLI_FLOAT, &c.window_s, "S", "over which requests are counted (60)"},
        {"up", CLI_FLOAT, &c.up_s, "S", "that a wish for more must last (300)"},
        {"down", CLI_FLOAT, &c.down_s, "S", "that a wish for fewer must last (1200)"},
        {"start", CLI_FLOAT, &c.start_s, "S", "from a launch until the replica serves (180)"},
        {"timeout", CLI_FLOAT, &c.timeout_s, "S", "after which a waiting request is given up (100)"},
        {"model", CLI_TEXT, &c.model, "MODEL", "measure a server of it on this machine: the three below"},
        {"slots", CLI_U32, &c.slots, "N", "requests that a replica serves at a time (16)"},
        {"prompt-rate", CLI_FLOAT, &c.prompt_rate, "X", "prompt tokens a second of a replica (8000)"},
        {"step", CLI_FLOAT, &c.step_ms, "MS", "of a token for all requests of a replica (25)"},
        {"step-extra", CLI_FLOAT, &c.extra_ms, "MS", "longer for each of them (0.5)"},
        {"svg", CLI_TEXT, &c.svg, "FILE", "replicas ready against the target, a picture a policy"},
        {"log", CLI_TEXT, &c.log, "FILE", "what was decided on what, for sim replay; a file a policy"},
    };
    char *about = about_service();
    const struct cli_usage usage = {"sim service --requests FILE --zones FILE ... [options]",
                                    about,
                                    options,
                                    sizeof options / sizeof *options,
                                    0,
                                    PLAN_SERVICE_ZONES_MAX,
                                    true};
    struct bg_strlist words = {0};
    int code = cli_parse(cli, &usage, argc, argv, &words);
    if (code < 0)
        code = check_command(&c, &words);
    if (code < 0)
        code = run_command(cli, &c);
    bg_strlist_fini(&words);
    bg_strlist_fini(&c.zones);
    bg_strlist_fini(&c.prices);
    bg_free(about);
    return code;
}
