// `brigade sim deadline`: what a job with a deadline would have cost under a policy, over windows of spot traces.
#include "cli/sim.h"

#include "base/mem.h"
#include "cli/trace.h"
#include "plan/deadline.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

struct command { // as given
    struct bg_strlist traces;
    const char *policy, *starts, *work, *deadline, *overhead, *spot_price, *on_demand_price;
    uint32_t ticks;
};

struct simulation {
    const struct plan_policy *policy; // NULL: the optimum
    const char *policy_name;
    struct trace_spot *traces;
    struct plan_deadline *jobs; // one a trace: the tick is the trace's
    size_t trace_count;
    uint32_t *starts;
    size_t start_count;
    struct plan_bill *bills; // (traces, starts)
};

static const char omniscient[] = "omniscient";

// "48h", "30m", "90s", "2d", or seconds.
static bool parse_seconds(const char *text, double *seconds)
{
    static const struct {
        char unit;
        double seconds;
    } units[] = {{'\0', 1}, {'s', 1}, {'m', 60}, {'h', 3600}, {'d', 86400}};
    char *end;
    const double value = strtod(text, &end);
    if (end == text || !isfinite(value) || (*end && end[1]))
        return false;
    for (size_t i = 0; i < sizeof units / sizeof *units; i++) {
        if (*end == units[i].unit) {
            *seconds = value * units[i].seconds;
            return true;
        }
    }
    return false;
}

static int parse_job(const struct command *c, struct plan_deadline *job)
{
    const struct {
        const char *name, *text;
        double *value;
        bool money;
    } options[] = {{"work", c->work, &job->work_s, false},
                   {"deadline", c->deadline, &job->deadline_s, false},
                   {"overhead", c->overhead, &job->overhead_s, false},
                   {"spot-price", c->spot_price, &job->price[PLAN_RENT_SPOT], true},
                   {"on-demand-price", c->on_demand_price, &job->price[PLAN_RENT_ON_DEMAND], true}};
    for (size_t i = 0; i < sizeof options / sizeof *options; i++) {
        if (options[i].money) {
            char *end;
            *options[i].value = strtod(options[i].text, &end);
            if (end == options[i].text || *end || !isfinite(*options[i].value))
                return cli_misuse("sim deadline", "--%s: expected $ an hour, found '%s'", options[i].name,
                                  options[i].text);
        } else if (!parse_seconds(options[i].text, options[i].value)) {
            return cli_misuse("sim deadline", "--%s: expected a time like 48h, 30m or 90s, found '%s'", options[i].name,
                              options[i].text);
        }
    }
    return -1;
}

static int parse_policy(const char *name, struct simulation *s)
{
    const char *names[64] = {omniscient};
    size_t count = 1;
    struct bg_str known = {0};
    for (; plan_policies[count - 1] && count < 64; count++) {
        names[count] = plan_policies[count - 1]->name;
        bg_str_addf(&known, "%s, ", names[count]);
    }
    s->policy = plan_policy_find(name);
    s->policy_name = name;
    int code = -1;
    if (!s->policy && strcmp(name, omniscient) != 0) {
        const char *nearest = bg_nearest(name, names, count);
        if (nearest)
            code = cli_misuse("sim deadline", "--policy: no policy '%s'; did you mean '%s'?", name, nearest);
        else
            code = cli_misuse("sim deadline", "--policy: no policy '%s'; there are %s%s", name, bg_str_text(&known),
                              omniscient);
    }
    bg_str_fini(&known);
    return code;
}

static bg_status read_trace(struct bg_env *env, const struct command *c, struct simulation *s, size_t i,
                            struct bg_error *err)
{
    const char *path = c->traces.items[i];
    struct trace_spot *trace = &s->traces[i];
    bg_status status = trace_spot_read(env, path, err, trace);
    if (status)
        return status;
    if (c->ticks && c->ticks > trace->count)
        return bg_fail(err, BG_FORMAT, "%s: %zu ticks, and --ticks wants %u of them", path, trace->count, c->ticks);
    if (c->ticks)
        trace->count = c->ticks;
    s->jobs[i].gap_s = trace->gap_s;
    if (plan_deadline_check(&s->jobs[i], err))
        return bg_fail_prefix(err, "%s", path);
    const uint32_t window = plan_deadline_ticks(&s->jobs[i]);
    for (size_t w = 0; w < s->start_count; w++)
        if (s->starts[w] + (uint64_t)window > trace->count)
            return bg_fail(err, BG_FORMAT, "%s%s%zu: the window from tick %u is %u ticks long, and %s has %zu",
                           c->starts ? c->starts : "--starts", c->starts ? ":" : " ", w + 1, s->starts[w], window, path,
                           trace->count);
    return BG_OK;
}

static bg_status read_input(struct bg_env *env, const struct command *c, struct simulation *s, struct bg_error *err)
{
    bg_status status = BG_OK;
    if (c->starts) {
        status = trace_numbers_read(env, c->starts, UINT32_MAX, err, &s->starts, &s->start_count);
    } else { // one window, from the start
        s->starts = bg_alloc_array(1, sizeof *s->starts);
        s->start_count = 1;
    }
    for (size_t i = 0; i < s->trace_count && !status; i++)
        status = read_trace(env, c, s, i, err);
    return status;
}

static void run_window(void *arg, size_t index, unsigned lane)
{
    (void)lane;
    struct simulation *s = arg;
    const size_t t = index / s->start_count;
    const uint32_t *spot = s->traces[t].counts + s->starts[index % s->start_count];
    if (s->policy)
        plan_deadline_run(&s->jobs[t], s->policy, spot, NULL, NULL, &s->bills[index]);
    else
        plan_deadline_optimum(&s->jobs[t], spot, &s->bills[index]);
}

static double mean_cost(const struct plan_bill *bills, size_t count)
{
    double sum = 0;
    for (size_t i = 0; i < count; i++)
        sum += bills[i].cost;
    return sum / (double)count;
}

static size_t missed(const struct plan_bill *bills, size_t count)
{
    size_t sum = 0;
    for (size_t i = 0; i < count; i++)
        sum += !bills[i].met;
    return sum;
}

static json_t *window_json(uint32_t start, const struct plan_bill *bill)
{
    return json_pack("{s:I, s:f, s:I, s:I, s:I, s:I, s:I, s:f, s:b}", "start", (json_int_t)start, "cost", bill->cost,
                     "idle_ticks", (json_int_t)bill->ticks[PLAN_RENT_NONE], "ondemand_ticks",
                     (json_int_t)bill->ticks[PLAN_RENT_ON_DEMAND], "spot_ticks",
                     (json_int_t)bill->ticks[PLAN_RENT_SPOT], "switch_to_spot",
                     (json_int_t)bill->switches[PLAN_RENT_SPOT], "switch_to_ondemand",
                     (json_int_t)bill->switches[PLAN_RENT_ON_DEMAND], "finish_s", bill->finish_s, "met", bill->met);
}

static void print_json(const struct command *c, const struct simulation *s)
{
    const size_t all = s->trace_count * s->start_count;
    json_t *traces = json_array();
    for (size_t t = 0; t < s->trace_count; t++) {
        const struct plan_bill *bills = s->bills + t * s->start_count;
        json_t *windows = json_array();
        for (size_t w = 0; w < s->start_count; w++)
            json_array_append_new(windows, window_json(s->starts[w], &bills[w]));
        json_array_append_new(traces, json_pack("{s:s, s:f, s:I, s:f, s:I, s:o}", "trace", c->traces.items[t], "gap_s",
                                                s->traces[t].gap_s, "ticks", (json_int_t)s->traces[t].count,
                                                "mean_cost", mean_cost(bills, s->start_count), "missed",
                                                (json_int_t)missed(bills, s->start_count), "windows", windows));
    }
    const struct plan_deadline *job = s->jobs;
    cli_print_json(json_pack("{s:s, s:f, s:f, s:f, s:f, s:f, s:I, s:f, s:I, s:o}", "policy", s->policy_name, "work_s",
                             job->work_s, "deadline_s", job->deadline_s, "overhead_s", job->overhead_s, "spot_price",
                             job->price[PLAN_RENT_SPOT], "on_demand_price", job->price[PLAN_RENT_ON_DEMAND], "windows",
                             (json_int_t)all, "mean_cost", mean_cost(s->bills, all), "missed",
                             (json_int_t)missed(s->bills, all), "traces", traces));
}

static void print_text(const struct command *c, const struct simulation *s)
{
    const size_t all = s->trace_count * s->start_count;
    printf("%-12s %-8s %s\n", "mean cost $", "missed", "trace");
    for (size_t t = 0; t < s->trace_count; t++) {
        const struct plan_bill *bills = s->bills + t * s->start_count;
        printf("%-12.6f %-8zu %s\n", mean_cost(bills, s->start_count), missed(bills, s->start_count),
               c->traces.items[t]);
    }
    printf("%-12.6f %-8zu all, %s, %zu windows\n", mean_cost(s->bills, all), missed(s->bills, all), s->policy_name,
           all);
}

static int run_command(struct cli *cli, const struct command *c)
{
    struct plan_deadline job = {.instances = 1};
    struct simulation s = {.trace_count = c->traces.count};
    int code = parse_policy(c->policy, &s);
    if (code < 0)
        code = parse_job(c, &job);
    if (code < 0)
        code = cli_env_unpinned(cli);
    if (code)
        return code;
    s.traces = bg_alloc_array(s.trace_count, sizeof *s.traces);
    s.jobs = bg_alloc_array(s.trace_count, sizeof *s.jobs);
    for (size_t i = 0; i < s.trace_count; i++)
        s.jobs[i] = job;
    struct bg_error err = {0};
    if (read_input(cli->env, c, &s, &err)) {
        code = cli_fail(&err);
    } else {
        s.bills = bg_alloc_array(s.trace_count * s.start_count, sizeof *s.bills);
        env_parallel_for(cli->env, s.trace_count * s.start_count, run_window, &s);
        if (cli->json)
            print_json(c, &s);
        else
            print_text(c, &s);
        code = cli_finish_output();
    }
    for (size_t i = 0; i < s.trace_count; i++)
        trace_spot_fini(&s.traces[i]);
    bg_free(s.traces);
    bg_free(s.jobs);
    bg_free(s.starts);
    bg_free(s.bills);
    return code;
}

static char *about_sim(void)
{
    struct bg_str text = {0};
    bg_str_add(
        &text,
        "What a job with a deadline would have cost on spot machines as they came and went, tick by tick, under a\n"
        "policy that decides what to rent:\n");
    for (size_t i = 0; plan_policies[i]; i++)
        bg_str_addf(&text, "  %-22s %s\n", plan_policies[i]->name, plan_policies[i]->about);
    bg_str_addf(&text, "  %-22s the least that was possible, the trace known", omniscient);
    return bg_str_take(&text);
}

int sim_deadline(struct cli *cli, int argc, char **argv)
{
    struct command c = {.policy = "patient", .overhead = "0"};
    const struct cli_option options[] = {
        {"trace", CLI_LIST, &c.traces, "FILE ...",
         "spot availability, JSON: {\"metadata\":{\"gap_seconds\"},\"data\":[]}"},
        {"policy", CLI_TEXT, &c.policy, "NAME", "one of those above (patient)"},
        {"work", CLI_TEXT, &c.work, "TIME", "what the job needs on one instance, e.g. 48h"},
        {"deadline", CLI_TEXT, &c.deadline, "TIME", "from the start of each window, e.g. 60h"},
        {"overhead", CLI_TEXT, &c.overhead, "TIME", "before a new instance works (0)"},
        {"starts", CLI_TEXT, &c.starts, "FILE", "first ticks of the windows, one a line (one window from tick 0)"},
        {"ticks", CLI_U32, &c.ticks, "N", "only so many of each trace (all)"},
        {"spot-price", CLI_TEXT, &c.spot_price, "$", "an hour"},
        {"on-demand-price", CLI_TEXT, &c.on_demand_price, "$", "an hour"},
    };
    char *about = about_sim();
    const struct cli_usage usage = {
        "sim deadline --trace FILE ... --work TIME --deadline TIME --spot-price $ --on-demand-price $ [options]",
        about,
        options,
        sizeof options / sizeof *options,
        0,
        100000,
        true};
    struct bg_strlist words = {0};
    int code = cli_parse(cli, &usage, argc, argv, &words);
    for (size_t i = 0; code < 0 && i < words.count; i++) // --trace A B C
        bg_strlist_add(&c.traces, words.items[i]);
    if (code < 0 && !c.traces.count)
        code = cli_misuse("sim deadline", "--trace FILE is missing");
    if (code < 0 && (!c.work || !c.deadline || !c.spot_price || !c.on_demand_price))
        code = cli_misuse("sim deadline", "--work, --deadline, --spot-price and --on-demand-price are all needed");
    if (code < 0)
        code = run_command(cli, &c);
    bg_strlist_fini(&words);
    bg_strlist_fini(&c.traces);
    bg_free(about);
    return code;
}
