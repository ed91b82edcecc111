// `brigade sim deadline`: what a job with a deadline would have cost under a policy, over windows of spot traces.
#include "cli/sim.h"

#include "base/mem.h"
#include "cli/sim_windows.h"

#include <stdlib.h>
#include <string.h>

static const char verb[] = "sim deadline";

struct command { // as given
    struct sim_input input;
    const char *policy, *deadline, *window, *svg, *log;
};

struct simulation {
    const struct plan_policy *policy; // NULL: the optimum
    struct sim_windows windows;
    struct plan_bill *bills;         // (traces, windows)
    struct plan_zone_bill *of_zones; // (windows, zones)
};

static void run_window(void *arg, size_t index, unsigned lane)
{
    (void)lane;
    struct simulation *s = arg;
    sim_windows_run(&s->windows, s->policy, index, NULL, &s->bills[index],
                    s->of_zones + index * s->windows.zones.count);
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

// By name: what was paid there, and for how long.
static json_t *zones_json(const struct zones *zones, const struct plan_zone_bill *of_zones)
{
    json_t *o = json_object();
    for (uint32_t z = 0; z < zones->count; z++)
        json_object_set_new(o, zones->specs[z].name,
                            json_pack("{s:f, s:I, s:I}", "cost", of_zones[z].cost, "spot_ticks",
                                      (json_int_t)of_zones[z].ticks[PLAN_RENT_SPOT], "ondemand_ticks",
                                      (json_int_t)of_zones[z].ticks[PLAN_RENT_ON_DEMAND]));
    return o;
}

static void print_json(const struct command *c, const struct simulation *s)
{
    const struct sim_windows *w = &s->windows;
    const size_t all = w->trace_count * w->window_count;
    json_t *traces = json_array();
    for (size_t t = 0; t < w->trace_count; t++) {
        const struct plan_bill *bills = s->bills + t * w->window_count;
        json_t *windows = json_array();
        for (size_t n = 0; n < w->window_count; n++) {
            json_t *window = window_json(w->starts[t * w->window_count + n], &bills[n]);
            if (w->zones.count) {
                json_object_set_new(window, "moves", json_integer(bills[n].moves));
                json_object_set_new(window, "zones", zones_json(&w->zones, s->of_zones + n * w->zones.count));
            }
            json_array_append_new(windows, window);
        }
        json_array_append_new(traces, json_pack("{s:s, s:f, s:I, s:f, s:I, s:o}", "trace", c->input.traces.items[t],
                                                "gap_s", w->traces[t].gap_s, "ticks", (json_int_t)w->traces[t].count,
                                                "mean_cost", mean_cost(bills, w->window_count), "missed",
                                                (json_int_t)missed(bills, w->window_count), "windows", windows));
    }
    const struct plan_deadline *job = &w->job;
    json_t *o = json_pack("{s:s, s:f, s:f, s:f, s:I}", "policy", c->policy, "work_s", job->work_s, "deadline_s",
                          job->deadline_s, "overhead_s", job->overhead_s, "instances", (json_int_t)job->instances);
    if (!w->zones.count) { // else each has its own
        json_object_set_new(o, "spot_price", json_real(job->price[PLAN_RENT_SPOT]));
        json_object_set_new(o, "on_demand_price", json_real(job->price[PLAN_RENT_ON_DEMAND]));
    }
    json_object_set_new(o, "windows", json_integer((json_int_t)all));
    json_object_set_new(o, "mean_cost", json_real(mean_cost(s->bills, all)));
    json_object_set_new(o, "missed", json_integer((json_int_t)missed(s->bills, all)));
    json_object_set_new(o, "traces", traces);
    cli_print_json(o);
}

static void print_text(const struct command *c, const struct simulation *s)
{
    const struct sim_windows *w = &s->windows;
    const size_t all = w->trace_count * w->window_count;
    printf("%-12s %-8s %s\n", "mean cost $", "missed", "trace");
    for (size_t t = 0; t < w->trace_count; t++) {
        const struct plan_bill *bills = s->bills + t * w->window_count;
        printf("%-12.6f %-8zu %s\n", mean_cost(bills, w->window_count), missed(bills, w->window_count),
               c->input.traces.items[t]);
    }
    printf("%-12.6f %-8zu all, %s, %zu windows\n", mean_cost(s->bills, all), missed(s->bills, all), c->policy, all);
    for (uint32_t z = 0; z < w->zones.count; z++) {
        double cost = 0, ticks[PLAN_RENTS] = {0};
        for (size_t n = 0; n < all; n++) {
            const struct plan_zone_bill *bill = &s->of_zones[n * w->zones.count + z];
            cost += bill->cost / (double)all;
            for (int k = 0; k < PLAN_RENTS; k++)
                ticks[k] += bill->ticks[k] / (double)all;
        }
        printf("%-12.6f %-8s zone %s: %.1f ticks of spot, %.1f on demand in the mean\n", cost, "",
               w->zones.specs[z].name, ticks[PLAN_RENT_SPOT], ticks[PLAN_RENT_ON_DEMAND]);
    }
}

// Leaves only the window that --window names.
static int take_window(const struct command *c, struct simulation *s)
{
    struct sim_windows *w = &s->windows;
    const size_t index = (size_t)strtoull(c->window, NULL, 10);
    if (w->trace_count != 1)
        return cli_misuse(verb, "--window is of one trace, found %zu", w->trace_count);
    if (c->window[strspn(c->window, "0123456789")] || !*c->window || index >= w->window_count)
        return cli_misuse(verb, "--window: expected a number of 0 to %zu, found '%s'", w->window_count - 1, c->window);
    w->starts[0] = w->starts[index];
    w->first = index;
    w->window_count = 1;
    return -1;
}

static int draw_window(struct cli *cli, const struct command *c, const struct simulation *s,
                       const struct plan_deadline *job, const struct plan_moment *moments)
{
    const char *path = c->input.traces.items[0], *slash = strrchr(path, '/');
    char *title = bg_format("%s: $%.2f, %s, from tick %u of %s", c->policy, s->bills[0].cost,
                            s->bills[0].met ? "in time" : "late", s->windows.starts[0], slash ? slash + 1 : path);
    struct zones_window window;
    const uint32_t start = s->windows.starts[0];
    zones_window_init(&s->windows.zones, start, plan_deadline_ticks(job), &window);
    char *svg = sim_picture_window(job, s->windows.traces[0].counts + start,
                                   s->windows.zones.count ? &window.zones : NULL, moments, title);
    zones_window_fini(&window);
    const int code = cli_write(cli, c->svg, svg);
    bg_free(svg);
    bg_free(title);
    return code;
}

static int log_window(struct cli *cli, const struct command *c, const struct simulation *s, uint32_t ticks,
                      const struct plan_moment *moments)
{
    struct bg_str text = {0};
    for (uint32_t t = 0; t < ticks && moments[t].decides; t++) {
        struct plan_zone zones[PLAN_ZONES_MAX];
        struct plan_snapshot now = moments[t].now;
        for (uint32_t z = 0; z < now.zone_count; z++)
            zones[z] = zones_at(&s->windows.zones, z, s->windows.starts[0] + (size_t)t);
        now.zones = zones;
        now.spot = s->windows.traces[0].counts + s->windows.starts[0];
        char *line = plan_decision_format(s->policy, &now, moments[t].decided);
        bg_str_addf(&text, "%s\n", line);
        bg_free(line);
    }
    const int code = cli_write(cli, c->log, bg_str_text(&text));
    bg_str_fini(&text);
    return code;
}

// Every line holds the trace so far: a log grows with the square of its ticks.
enum { LOG_TICKS_MAX = 10000 };

// The one window again, looked at tick by tick.
static int show_window(struct cli *cli, const struct command *c, const struct simulation *s)
{
    const struct plan_deadline job = sim_windows_job(&s->windows, 0);
    const uint32_t ticks = plan_deadline_ticks(&job);
    struct plan_moment *moments = bg_alloc_array(ticks, sizeof *moments);
    struct plan_bill bill;
    int code = 0;
    if (c->log && ticks > LOG_TICKS_MAX) {
        bg_free(moments);
        return cli_misuse(verb, "--log: at most %d ticks, and the window has %u: take an earlier deadline",
                          LOG_TICKS_MAX, ticks);
    }
    sim_windows_run(&s->windows, s->policy, 0, moments, &bill, NULL);
    if (c->svg)
        code = draw_window(cli, c, s, &job, moments);
    if (!code && c->log)
        code = log_window(cli, c, s, ticks, moments);
    bg_free(moments);
    return code;
}

static int simulate(struct cli *cli, const struct command *c, struct simulation *s)
{
    const size_t all = s->windows.trace_count * s->windows.window_count;
    s->bills = bg_alloc_array(all, sizeof *s->bills);
    s->of_zones = bg_alloc_array(all * s->windows.zones.count + 1, sizeof *s->of_zones);
    env_parallel_for(cli->env, all, run_window, s);
    int code = c->svg || c->log ? show_window(cli, c, s) : 0;
    if (code)
        return code;
    if (cli->json)
        print_json(c, s);
    else
        print_text(c, s);
    return cli_finish_output();
}

static int run_command(struct cli *cli, struct command *c, const struct bg_strlist *words)
{
    struct simulation s = {0};
    struct plan_deadline job;
    struct bg_error err = {0};
    int code = sim_policy_parse(verb, c->policy, &s.policy);
    if (code < 0)
        code = sim_input_job(verb, &c->input, words, &job);
    if (code < 0 && !c->deadline)
        code = cli_misuse(verb, "--deadline is missing");
    if (code < 0 && !cli_parse_seconds(c->deadline, &job.deadline_s))
        code = cli_misuse(verb, "--deadline: expected a time like 60h, found '%s'", c->deadline);
    if (code < 0 && !s.policy && (c->input.work_most || c->input.overhead_most || c->svg || c->log))
        code = cli_misuse(verb, "the optimum is of numbers that are exact, and decides nothing to be drawn or logged");
    if (code < 0 && !s.policy && c->input.zones.count)
        code = cli_misuse(verb, "the optimum is of one trace: with --zone take a policy");
    if (code < 0 && (c->svg || c->log) && !c->window)
        code = cli_misuse(verb, "--svg and --log are of the one window that --window names");
    if (code < 0)
        code = cli_env_unpinned(cli);
    if (code)
        return code;
    if (sim_windows_read(cli->env, &c->input, &job, job.deadline_s, false, &err, &s.windows))
        return cli_fail(&err);
    code = c->window ? take_window(c, &s) : -1;
    if (code < 0)
        code = simulate(cli, c, &s);
    sim_windows_fini(&s.windows);
    bg_free(s.bills);
    bg_free(s.of_zones);
    return code;
}

int sim_deadline(struct cli *cli, int argc, char **argv)
{
    struct command c = {.policy = "patient", .input = SIM_INPUT_DEFAULTS};
    struct cli_option options[SIM_INPUT_OPTIONS + 6] = {
        {"policy", CLI_TEXT, &c.policy, "NAME", "one of those above (patient)"},
        {"deadline", CLI_TEXT, &c.deadline, "TIME", "from the start of each window, e.g. 60h"},
        {"zone", CLI_LIST, &c.input.zones, "NAME=TRACE[,$[,$]]",
         "instead of --trace, for each zone: spot price, or the file of one over time, and on-demand price"},
        {"window", CLI_TEXT, &c.window, "I", "only that one, from 0"},
        {"svg", CLI_TEXT, &c.svg, "FILE", "draw it: what was there, what was held, progress"},
        {"log", CLI_TEXT, &c.log, "FILE", "write what was decided on which snapshot, for sim replay"},
    };
    sim_input_options(&c.input, options + 6);
    char *about = sim_about_policies(
        "What a job with a deadline would have cost on spot machines as they came and went, tick by tick, under a\n"
        "policy that decides what to rent:\n");
    const struct cli_usage usage = {
        "sim deadline --trace FILE ... | --zone NAME=TRACE ... --work TIME --deadline TIME --spot-price $ "
        "--on-demand-price $ [options]",
        about,
        options,
        sizeof options / sizeof *options,
        0,
        100000,
        true};
    struct bg_strlist words = {0};
    int code = cli_parse(cli, &usage, argc, argv, &words);
    if (code < 0)
        code = run_command(cli, &c, &words);
    bg_strlist_fini(&words);
    bg_strlist_fini(&c.input.traces);
    bg_strlist_fini(&c.input.zones);
    bg_free(about);
    return code;
}
