// Jobs, traces and windows for the verbs of `sim` that have a deadline.
#include "cli/sim_windows.h"

#include "base/mem.h"
#include "base/philox.h"
#include "cli/trace.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

enum { WINDOWS_MAX = 10000000 };

void sim_input_options(struct sim_input *c, struct cli_option options[SIM_INPUT_OPTIONS])
{
    const struct cli_option all[SIM_INPUT_OPTIONS] = {
        {"trace", CLI_LIST, &c->traces, "FILE ...", "machines that came and went: counts or events (brigade trace)"},
        {"work", CLI_TEXT, &c->work, "TIME", "what the job needs on its instances, e.g. 48h"},
        {"work-most", CLI_TEXT, &c->work_most, "TIME", "--work is an estimate: it may come to this much"},
        {"overhead", CLI_TEXT, &c->overhead, "TIME", "before what was just rented works (0)"},
        {"overhead-most", CLI_TEXT, &c->overhead_most, "TIME", "--overhead is an estimate: it may come to this much"},
        {"instances", CLI_U32, &c->instances, "N", "the job works on so many at once or not at all (1)"},
        {"starts", CLI_TEXT, &c->starts, "FILE", "first ticks of the windows, one a line (one window from tick 0)"},
        {"windows", CLI_U32, &c->windows, "N", "draw so many windows of each trace instead"},
        {"seed", CLI_U64, &c->seed, "N", "of those, and of what comes true of estimates (1)"},
        {"ticks", CLI_U32, &c->ticks, "N", "only so many of each trace (all)"},
        {"gap", CLI_TEXT, &c->gap, "TIME", "a tick, for traces of events (10m)"},
        {"spot-price", CLI_TEXT, &c->spot_price, "$", "an hour, an instance"},
        {"on-demand-price", CLI_TEXT, &c->on_demand_price, "$", "an hour, an instance"},
    };
    memcpy(options, all, sizeof all);
}

// "a+b", where the names of traces are said.
static void name_zones(struct sim_input *c)
{
    struct bg_str name = {0};
    for (size_t i = 0; i < c->zones.count; i++)
        bg_str_addf(&name, "%s%.*s", i ? "+" : "", (int)strcspn(c->zones.items[i], "="), c->zones.items[i]);
    bg_strlist_add(&c->traces, bg_str_text(&name));
    bg_str_fini(&name);
}

int sim_input_job(const char *verb, struct sim_input *c, const struct bg_strlist *words, struct plan_deadline *job)
{
    for (size_t i = 0; i < words->count; i++)
        bg_strlist_add(&c->traces, words->items[i]);
    if (c->traces.count && c->zones.count)
        return cli_misuse(verb, "--trace and --zone: take one; a zone brings its trace");
    if (!c->traces.count && !c->zones.count)
        return cli_misuse(verb, "--trace FILE is missing");
    if (!c->work || (!c->zones.count && (!c->spot_price || !c->on_demand_price)))
        return cli_misuse(verb, "--work, --spot-price and --on-demand-price are all needed");
    if (c->zones.count)
        name_zones(c);
    if (c->starts && c->windows)
        return cli_misuse(verb, "--starts says the windows and --windows draws them: take one");
    if ((uint64_t)c->windows * c->traces.count > WINDOWS_MAX)
        return cli_misuse(verb, "--windows: at most %d of all traces together", WINDOWS_MAX);
    *job = (struct plan_deadline){.instances = c->instances};
    const struct {
        const char *name, *text;
        double *value;
        bool money;
    } options[] = {{"work", c->work, &job->work_s, false},
                   {"work-most", c->work_most, &job->work_most_s, false},
                   {"overhead", c->overhead, &job->overhead_s, false},
                   {"overhead-most", c->overhead_most, &job->overhead_most_s, false},
                   {"spot-price", c->spot_price, &job->price[PLAN_RENT_SPOT], true},
                   {"on-demand-price", c->on_demand_price, &job->price[PLAN_RENT_ON_DEMAND], true}};
    for (size_t i = 0; i < sizeof options / sizeof *options; i++) {
        char *end;
        if (!options[i].text)
            continue;
        if (options[i].money) {
            *options[i].value = strtod(options[i].text, &end);
            if (end == options[i].text || *end || !isfinite(*options[i].value))
                return cli_misuse(verb, "--%s: expected $ an hour, found '%s'", options[i].name, options[i].text);
        } else if (!cli_parse_seconds(options[i].text, options[i].value)) {
            return cli_misuse(verb, "--%s: expected a time like 48h, 30m or 90s, found '%s'", options[i].name,
                              options[i].text);
        }
    }
    if ((job->work_most_s > 0 && job->work_most_s < job->work_s) ||
        (job->overhead_most_s > 0 && job->overhead_most_s < job->overhead_s))
        return cli_misuse(verb, "--work-most and --overhead-most cannot be less than --work and --overhead");
    return -1;
}

// ---- Policies ----

int sim_policy_parse(const char *verb, const char *name, const struct plan_policy **policy)
{
    const char *names[64] = {SIM_OMNISCIENT};
    size_t count = 1;
    *policy = plan_policy_find(name);
    if (*policy || strcmp(name, SIM_OMNISCIENT) == 0)
        return -1;
    struct bg_str known = {0};
    for (; plan_policies[count - 1] && count < 64; count++) {
        names[count] = plan_policies[count - 1]->name;
        bg_str_addf(&known, "%s, ", names[count]);
    }
    const char *nearest = bg_nearest(name, names, count);
    const int code =
        nearest ? cli_misuse(verb, "--policy: no policy '%s'; did you mean '%s'?", name, nearest)
                : cli_misuse(verb, "--policy: no policy '%s'; there are %s%s", name, bg_str_text(&known), names[0]);
    bg_str_fini(&known);
    return code;
}

char *sim_about_policies(const char *first)
{
    struct bg_str text = {0};
    bg_str_add(&text, first);
    for (size_t i = 0; plan_policies[i]; i++)
        bg_str_addf(&text, "  %-22s %s\n", plan_policies[i]->name, plan_policies[i]->about);
    bg_str_addf(&text, "  %-22s the least that was possible, the trace known", SIM_OMNISCIENT);
    return bg_str_take(&text);
}

// ---- Windows ----

// All zones, and the trace of them together.
static bg_status read_zones(struct bg_env *env, struct sim_windows *w, double gap_s, struct bg_error *err)
{
    const double defaults[PLAN_RENTS] = {0, w->input->spot_price ? w->job.price[PLAN_RENT_SPOT] : -1,
                                         w->input->on_demand_price ? w->job.price[PLAN_RENT_ON_DEMAND] : -1};
    const bg_status status =
        zones_read(env, "--zone", w->input->zones.items, w->input->zones.count, defaults, gap_s, err, &w->zones);
    if (status)
        return status;
    struct zones_window all;
    struct plan_trace *trace = &w->traces[0];
    *trace = (struct plan_trace){.kind = PLAN_TRACE_COUNTS, .gap_s = w->zones.gap_s, .count = w->zones.ticks};
    trace->counts = bg_alloc_array(trace->count, sizeof *trace->counts);
    zones_window_init(&w->zones, 0, (uint32_t)trace->count, &all);
    memcpy(trace->counts, all.zones.spot, trace->count * sizeof *trace->counts);
    zones_window_fini(&all);
    return BG_OK;
}

static bg_status read_trace(struct bg_env *env, struct sim_windows *w, size_t i, double gap_s, struct bg_error *err)
{
    const char *path = w->input->traces.items[i];
    struct plan_trace *trace = &w->traces[i];
    const uint32_t ticks = w->input->ticks;
    bg_status status = w->input->zones.count ? read_zones(env, w, gap_s, err) : trace_load(env, path, err, trace);
    if (status)
        return status;
    if (plan_trace_to_counts(trace, gap_s, err))
        return bg_fail_prefix(err, "%s", path);
    if (ticks && ticks > trace->count)
        return bg_fail(err, BG_FORMAT, "%s: %zu ticks, and --ticks wants %u of them", path, trace->count, ticks);
    if (ticks)
        trace->count = ticks;
    const struct plan_deadline job = sim_windows_job(w, i);
    if (plan_deadline_check(&job, err))
        return bg_fail_prefix(err, "%s", path);
    return BG_OK;
}

static bg_status check_windows(struct sim_windows *w, size_t i, bool earlier, size_t *moved, struct bg_error *err)
{
    const struct plan_deadline job = sim_windows_job(w, i);
    const uint32_t ticks = plan_deadline_ticks(&job);
    const char *starts = w->input->starts, *path = w->input->traces.items[i];
    const size_t count = w->traces[i].count;
    for (size_t n = 0; n < w->window_count; n++) {
        uint32_t *start = &w->starts[i * w->window_count + n];
        if (*start + (uint64_t)ticks <= count)
            continue;
        if (!earlier || ticks > count) {
            bg_fail(err, BG_FORMAT, "the window from tick %u is %u ticks long, and %s has %zu", *start, ticks, path,
                    count);
            return starts ? bg_fail_prefix(err, "%s:%zu", starts, n + 1) : err->status;
        }
        *start = (uint32_t)count - ticks;
        ++*moved;
    }
    return BG_OK;
}

static bg_status draw_windows(struct sim_windows *w, size_t i, struct bg_error *err)
{
    const struct plan_deadline job = sim_windows_job(w, i);
    const uint32_t ticks = plan_deadline_ticks(&job);
    if (ticks > w->traces[i].count)
        return bg_fail(err, BG_FORMAT, "%s has %zu ticks, and a window is %u long", w->input->traces.items[i],
                       w->traces[i].count, ticks);
    const uint64_t seed = w->input->seed, choices = w->traces[i].count - ticks + 1;
    for (uint32_t n = 0; n < w->window_count; n++) {
        const struct bg_philox_counter drawn =
            bg_philox((struct bg_philox_counter){{n, (uint32_t)i, 1}},
                      (struct bg_philox_key){{(uint32_t)seed, (uint32_t)(seed >> 32)}});
        w->starts[i * w->window_count + n] = (uint32_t)((drawn.c[0] * choices) >> 32);
    }
    return BG_OK;
}

bg_status sim_windows_read(struct bg_env *env, const struct sim_input *input, const struct plan_deadline *job,
                           double deadline_s, bool earlier, struct bg_error *err, struct sim_windows *windows)
{
    struct sim_windows w = {.input = input, .job = *job, .trace_count = input->traces.count};
    uint32_t *starts = NULL;
    double gap_s = 0;
    size_t moved = 0;
    bg_status status = BG_OK;
    w.job.deadline_s = deadline_s;
    w.window_count = input->windows ? input->windows : 1; // without anything, one from the start
    w.traces = bg_alloc_array(w.trace_count, sizeof *w.traces);
    if (!cli_parse_seconds(input->gap, &gap_s) || gap_s < 1e-3)
        status = bg_fail(err, BG_INVALID, "--gap: expected a time like 10m or 30s, found '%s'", input->gap);
    if (!status && input->starts)
        status = trace_numbers_read(env, input->starts, UINT32_MAX, err, &starts, &w.window_count);
    if (!status && w.window_count * (uint64_t)w.trace_count > WINDOWS_MAX)
        status = bg_fail(err, BG_FORMAT, "%s: %zu windows of %zu traces: more than %d", input->starts, w.window_count,
                         w.trace_count, WINDOWS_MAX);
    for (size_t i = 0; i < w.trace_count && !status; i++)
        status = read_trace(env, &w, i, gap_s, err);
    if (!status)
        w.starts = bg_alloc_array(w.trace_count * w.window_count, sizeof *w.starts);
    for (size_t i = 0; i < w.trace_count && !status; i++) {
        if (starts)
            memcpy(w.starts + i * w.window_count, starts, w.window_count * sizeof *starts);
        status = input->windows ? draw_windows(&w, i, err) : check_windows(&w, i, earlier, &moved, err);
    }
    bg_free(starts);
    if (!status && moved)
        fprintf(stderr, "brigade: %zu of %zu windows begin earlier than %s says, so that the longest deadline fits\n",
                moved, w.trace_count * w.window_count, input->starts);
    if (status)
        sim_windows_fini(&w);
    else
        *windows = w;
    return status;
}

void sim_windows_fini(struct sim_windows *w)
{
    for (size_t i = 0; w->traces && i < w->trace_count; i++)
        plan_trace_fini(&w->traces[i]);
    bg_free(w->traces);
    bg_free(w->starts);
    zones_fini(&w->zones);
    *w = (struct sim_windows){0};
}

struct plan_deadline sim_windows_job(const struct sim_windows *w, size_t trace)
{
    struct plan_deadline job = w->job;
    job.gap_s = w->traces[trace].gap_s;
    return job;
}

// An estimate is in the middle between its least and its most.
static double least_of(double estimate, double most)
{
    return fmax(2 * estimate - most, 0);
}

void sim_windows_run(const struct sim_windows *w, const struct plan_policy *policy, size_t index,
                     struct plan_moment *moments, struct plan_bill *bill, struct plan_zone_bill *of_zones)
{
    const size_t t = index / w->window_count;
    const struct plan_deadline job = sim_windows_job(w, t);
    const uint32_t *spot = w->traces[t].counts + w->starts[index];
    const uint64_t seed = w->input->seed, drawn_as = index + w->first;
    if (!policy) {
        plan_deadline_optimum(&job, spot, bill);
        return;
    }
    const struct bg_philox_counter drawn =
        bg_philox((struct bg_philox_counter){{(uint32_t)drawn_as, (uint32_t)(drawn_as >> 32), 2}},
                  (struct bg_philox_key){{(uint32_t)seed, (uint32_t)(seed >> 32)}});
    const double work_most_s = fmax(job.work_s, job.work_most_s),
                 overhead_most_s = fmax(job.overhead_s, job.overhead_most_s);
    const double work_least_s = least_of(job.work_s, work_most_s);
    const struct plan_truth truth = {.work_s =
                                         work_least_s + (work_most_s - work_least_s) * (double)bg_uniform(drawn.c[0]),
                                     .overhead_least_s = least_of(job.overhead_s, overhead_most_s),
                                     .overhead_most_s = overhead_most_s,
                                     .seed = (uint64_t)drawn.c[2] << 32 | drawn.c[1]};
    const bool exact = job.work_most_s <= job.work_s && job.overhead_most_s <= job.overhead_s;
    if (!w->zones.count) {
        plan_deadline_run(&job, policy, spot, exact ? NULL : &truth, moments, bill);
        return;
    }
    struct zones_window window;
    zones_window_init(&w->zones, w->starts[index], plan_deadline_ticks(&job), &window);
    plan_deadline_run_zones(&job, policy, &window.zones, exact ? NULL : &truth, moments, bill, of_zones);
    zones_window_fini(&window);
}
