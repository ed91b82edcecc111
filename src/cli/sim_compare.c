// `brigade sim compare`: policies x traces x slacks on all cores. Every window stands for itself and sums are made in
// their order, so the result is the same for any number of threads.
#include "cli/sim.h"

#include "base/mem.h"
#include "cli/sim_windows.h"
#include "os/host.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>
#include <sysexits.h>

static const char verb[] = "sim compare";
enum { SLACKS_MAX = 64, POLICIES_MAX = 32, AT_ONCE = 256 };

struct command { // as given
    struct sim_input input;
    const char *policies, *slacks, *deadline, *svg;
};

struct outcome { // of a policy at a slack
    double mean_cost, held_h[PLAN_RENTS], switches;
    size_t missed;
    double *trace_costs; // (traces): mean of each
};

struct comparison {
    struct sim_windows windows;
    struct bg_strlist names;
    const struct plan_policy *policies[POLICIES_MAX]; // NULL: the optimum
    double slacks[SLACKS_MAX], deadlines_s[SLACKS_MAX];
    size_t slack_count;
    struct plan_bill *bills;  // (traces, windows), of the policy at work
    struct outcome *outcomes; // (policies, slacks)
    const struct plan_policy *policy;
    size_t first; // window of the batch at work
    bool terminal;
};

// ---- Running ----

static void run_window(void *arg, size_t index, unsigned lane)
{
    (void)lane;
    struct comparison *s = arg;
    sim_windows_run(&s->windows, s->policy, s->first + index, NULL, &s->bills[s->first + index], NULL);
}

static void take_outcome(struct comparison *s, struct outcome *outcome)
{
    const struct sim_windows *w = &s->windows;
    const double all = (double)(w->trace_count * w->window_count);
    outcome->trace_costs = bg_alloc_array(w->trace_count, sizeof *outcome->trace_costs);
    for (size_t t = 0; t < w->trace_count; t++) {
        const double tick_h = w->traces[t].gap_s / 3600;
        for (size_t n = 0; n < w->window_count; n++) {
            const struct plan_bill *bill = &s->bills[t * w->window_count + n];
            outcome->trace_costs[t] += bill->cost / (double)w->window_count;
            outcome->mean_cost += bill->cost / all;
            outcome->missed += !bill->met;
            for (int r = 0; r < PLAN_RENTS; r++)
                outcome->held_h[r] += bill->ticks[r] * tick_h / all;
            outcome->switches += (bill->switches[PLAN_RENT_SPOT] + bill->switches[PLAN_RENT_ON_DEMAND]) / all;
        }
    }
}

static void show_progress(const struct comparison *s, size_t done, size_t total)
{
    enum { CELLS = 40 };
    char bar[CELLS + 1];
    const size_t full = total ? done * CELLS / total : CELLS;
    if (!s->terminal)
        return;
    memset(bar, '.', CELLS);
    memset(bar, '#', full);
    bar[CELLS] = '\0';
    fprintf(stderr, "\r[%s] %zu/%zu windows", bar, done, total);
    if (done == total)
        fprintf(stderr, "\r\033[K");
}

// 0, or the exit code where a signal asked for a stop.
static int run_all(struct cli *cli, struct comparison *s)
{
    struct sim_windows *w = &s->windows;
    const size_t all = w->trace_count * w->window_count, total = all * s->names.count * s->slack_count;
    size_t done = 0;
    for (size_t p = 0; p < s->names.count; p++) {
        s->policy = s->policies[p];
        for (size_t i = 0; i < s->slack_count; i++) {
            w->job.deadline_s = s->deadlines_s[i];
            for (s->first = 0; s->first < all; s->first += AT_ONCE) {
                const size_t count = all - s->first < AT_ONCE ? all - s->first : AT_ONCE;
                if (cli->env->ops->stop_signal(cli->env)) {
                    fprintf(stderr, "%sbrigade: stopped\n", s->terminal ? "\n" : "");
                    return EX_TEMPFAIL;
                }
                env_parallel_for(cli->env, count, run_window, s);
                show_progress(s, done += count, total);
            }
            take_outcome(s, &s->outcomes[p * s->slack_count + i]);
        }
    }
    return 0;
}

// ---- Saying ----

static void print_json(const struct command *c, const struct comparison *s)
{
    const struct sim_windows *w = &s->windows;
    json_t *traces = json_array(), *slacks = json_array();
    for (size_t t = 0; t < w->trace_count; t++)
        json_array_append_new(traces, json_string(c->input.traces.items[t]));
    for (size_t i = 0; i < s->slack_count; i++) {
        json_t *policies = json_array();
        for (size_t p = 0; p < s->names.count; p++) {
            const struct outcome *o = &s->outcomes[p * s->slack_count + i];
            json_t *costs = json_array();
            for (size_t t = 0; t < w->trace_count; t++)
                json_array_append_new(costs, json_real(o->trace_costs[t]));
            json_array_append_new(
                policies, json_pack("{s:s, s:f, s:I, s:f, s:f, s:f, s:f, s:o}", "policy", s->names.items[p],
                                    "mean_cost", o->mean_cost, "missed", (json_int_t)o->missed, "spot_h",
                                    o->held_h[PLAN_RENT_SPOT], "on_demand_h", o->held_h[PLAN_RENT_ON_DEMAND], "idle_h",
                                    o->held_h[PLAN_RENT_NONE], "switches", o->switches, "trace_costs", costs));
        }
        json_array_append_new(slacks, json_pack("{s:f, s:f, s:o}", "slack", s->slacks[i], "deadline_s",
                                                s->deadlines_s[i], "policies", policies));
    }
    cli_print_json(json_pack("{s:f, s:f, s:I, s:I, s:I, s:o, s:o}", "work_s", w->job.work_s, "overhead_s",
                             w->job.overhead_s, "instances", (json_int_t)w->job.instances, "windows",
                             (json_int_t)w->window_count, "seed", (json_int_t)c->input.seed, "traces", traces, "slacks",
                             slacks));
}

static void print_traces(const struct command *c, const struct comparison *s)
{
    printf("\n");
    for (size_t p = 0; p < s->names.count; p++)
        printf("%*s ", (int)fmax(10, (double)strlen(s->names.items[p])), s->names.items[p]);
    printf(" mean cost $ of each trace\n");
    for (size_t t = 0; t < s->windows.trace_count; t++) {
        for (size_t p = 0; p < s->names.count; p++)
            printf("%*.4f ", (int)fmax(10, (double)strlen(s->names.items[p])), s->outcomes[p].trace_costs[t]);
        printf(" %s\n", c->input.traces.items[t]);
    }
}

static void print_text(const struct command *c, const struct comparison *s)
{
    const size_t all = s->windows.trace_count * s->windows.window_count;
    for (size_t i = 0; i < s->slack_count; i++) {
        char deadline[32];
        cli_duration(deadline, sizeof deadline, s->deadlines_s[i]);
        printf("%sdeadline %s, %.4g times the work; %zu windows\n", i ? "\n" : "", deadline, s->slacks[i], all);
        printf("%-22s %11s %8s %8s %11s %8s %9s %7s\n", "policy", "mean cost $", "to first", "spot h", "on-demand h",
               "idle h", "switches", "missed");
        for (size_t p = 0; p < s->names.count; p++) {
            const struct outcome *o = &s->outcomes[p * s->slack_count + i], *first = &s->outcomes[i];
            printf("%-22s %11.4f %+7.2f%% %8.2f %11.2f %8.2f %9.1f %7zu\n", s->names.items[p], o->mean_cost,
                   first->mean_cost > 0 ? 100 * (o->mean_cost / first->mean_cost - 1) : 0, o->held_h[PLAN_RENT_SPOT],
                   o->held_h[PLAN_RENT_ON_DEMAND], o->held_h[PLAN_RENT_NONE], o->switches, o->missed);
        }
    }
    if (s->slack_count == 1 && s->windows.trace_count > 1)
        print_traces(c, s);
}

static int draw(struct cli *cli, const struct command *c, const struct comparison *s)
{
    const size_t count = s->names.count * s->slack_count;
    double *costs = bg_alloc_array(count, sizeof *costs);
    for (size_t i = 0; i < count; i++)
        costs[i] = s->outcomes[i].mean_cost;
    char *svg = sim_picture_slack(s->slacks, s->slack_count, s->names.items, s->names.count, costs);
    const int code = cli_write(cli, c->svg, svg);
    bg_free(svg);
    bg_free(costs);
    return code;
}

// ---- Input ----

static int parse_policies(const struct command *c, struct comparison *s)
{
    if (strcmp(c->policies, "all") == 0) {
        for (size_t i = 0; plan_policies[i]; i++)
            bg_strlist_add(&s->names, plan_policies[i]->name);
        bg_strlist_add(&s->names, SIM_OMNISCIENT);
    } else {
        bg_strlist_split(&s->names, c->policies, ',');
    }
    if (s->names.count > POLICIES_MAX)
        return cli_misuse(verb, "--policy: at most %d at a time, found %zu", POLICIES_MAX, s->names.count);
    int code = -1;
    for (size_t i = 0; i < s->names.count && code < 0; i++) {
        code = sim_policy_parse(verb, s->names.items[i], &s->policies[i]);
        if (code < 0 && !s->policies[i] && (c->input.work_most || c->input.overhead_most))
            code = cli_misuse(verb, "the optimum is of numbers that are exact: take %s or the estimates away",
                              SIM_OMNISCIENT);
    }
    return code;
}

static int parse_slacks(const struct command *c, double work_s, struct comparison *s)
{
    if (!c->slacks == !c->deadline)
        return cli_misuse(verb, "--deadline or --slack, one of them, says when the job is to be done");
    if (c->deadline) {
        s->slack_count = 1;
        if (!cli_parse_seconds(c->deadline, &s->deadlines_s[0]))
            return cli_misuse(verb, "--deadline: expected a time like 60h, found '%s'", c->deadline);
        s->slacks[0] = s->deadlines_s[0] / work_s;
        return -1;
    }
    int code = -1;
    struct bg_strlist words = {0};
    bg_strlist_split(&words, c->slacks, ',');
    for (size_t i = 0; i < words.count && code < 0; i++) {
        char *end;
        const double slack = strtod(words.items[i], &end);
        if (i == SLACKS_MAX || end == words.items[i] || *end || !(slack >= 1 && slack <= 1000)) {
            code = cli_misuse(verb, "--slack: expected up to %d numbers like 1.1,1.25,1.5, found '%s'", SLACKS_MAX,
                              c->slacks);
            break;
        }
        s->slacks[s->slack_count] = slack;
        s->deadlines_s[s->slack_count++] = floor(work_s * slack + 0.5);
    }
    bg_strlist_fini(&words);
    return code;
}

static int compare(struct cli *cli, const struct command *c, struct comparison *s)
{
    s->bills = bg_alloc_array(s->windows.trace_count * s->windows.window_count, sizeof *s->bills);
    s->outcomes = bg_alloc_array(s->names.count * s->slack_count, sizeof *s->outcomes);
    int code = run_all(cli, s);
    if (!code && c->svg)
        code = draw(cli, c, s);
    if (code)
        return code;
    if (cli->json)
        print_json(c, s);
    else
        print_text(c, s);
    return cli_finish_output();
}

// Whether every deadline can be met at all; windows are as long as the longest.
static bg_status read_windows(struct cli *cli, const struct command *c, struct plan_deadline *job, struct comparison *s,
                              struct bg_error *err)
{
    double longest_s = 0;
    for (size_t i = 0; i < s->slack_count; i++)
        longest_s = fmax(longest_s, s->deadlines_s[i]);
    bg_status status = sim_windows_read(cli->env, &c->input, job, longest_s, true, err, &s->windows);
    for (size_t i = 0; i < s->slack_count && !status; i++) {
        for (size_t t = 0; t < s->windows.trace_count && !status; t++) {
            s->windows.job.deadline_s = s->deadlines_s[i];
            const struct plan_deadline one = sim_windows_job(&s->windows, t);
            status = plan_deadline_check(&one, err);
        }
    }
    return status;
}

static int run_command(struct cli *cli, struct command *c, const struct bg_strlist *words)
{
    struct comparison s = {.terminal = os_is_terminal(OS_STDERR)};
    struct plan_deadline job;
    struct bg_error err = {0};
    int code = parse_policies(c, &s);
    if (code < 0)
        code = sim_input_job(verb, &c->input, words, &job);
    if (code < 0)
        code = parse_slacks(c, job.work_s, &s);
    if (code < 0 && c->svg && s.slack_count < 2)
        code = cli_misuse(verb, "--svg draws costs against --slack: give two or more");
    if (code < 0)
        code = cli_env_unpinned(cli);
    if (!code && read_windows(cli, c, &job, &s, &err))
        code = cli_fail(&err);
    if (!code)
        code = compare(cli, c, &s);
    for (size_t i = 0; s.outcomes && i < s.names.count * s.slack_count; i++)
        bg_free(s.outcomes[i].trace_costs);
    bg_free(s.outcomes);
    bg_free(s.bills);
    sim_windows_fini(&s.windows);
    bg_strlist_fini(&s.names);
    return code;
}

int sim_compare(struct cli *cli, int argc, char **argv)
{
    struct command c = {.policies = "greedy,uniform-progress,patient", .input = SIM_INPUT_DEFAULTS};
    struct cli_option options[SIM_INPUT_OPTIONS + 4] = {
        {"policy", CLI_TEXT, &c.policies, "A,B,..", "of those above, or all (greedy,uniform-progress,patient)"},
        {"deadline", CLI_TEXT, &c.deadline, "TIME", "from the start of each window, e.g. 60h"},
        {"slack", CLI_TEXT, &c.slacks, "F,F,..", "or deadlines as multiples of the work, e.g. 1.1,1.25,1.5"},
        {"svg", CLI_TEXT, &c.svg, "FILE", "draw cost against slack, a line a policy"},
    };
    sim_input_options(&c.input, options + 4);
    char *about = sim_about_policies("Deadline policies side by side over the same windows of the same traces, on all "
                                     "cores; the result is the same\n"
                                     "for any number of them:\n");
    const struct cli_usage usage = {"sim compare --trace FILE ... --policy A,B,.. --work TIME --slack F,.. "
                                    "--spot-price $ --on-demand-price $ [options]",
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
    bg_free(about);
    return code;
}
