// `brigade chaos`: trains a job under faults, and says whether it came out the same. The reference is the same job in
// one process, or a run that is there already.
#include "cli/chaos.h"
#include "cli/cli.h"

#include "base/mem.h"
#include "cli/tamper.h"
#include "cli/train.h"
#include "os/process.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>
#include <sysexits.h>

struct hashes {
    char curve[65], weights[65];
};

struct command { // as given
    uint64_t seed;
    uint32_t kills, every_ms, machines, patience_s;
    const char *script, *trace, *signals, *targets, *frames, *reference;
    float time_scale;
};

static bg_status read_hashes(struct bg_env *env, const char *run, struct bg_error *err, struct hashes *hashes,
                             json_t **result)
{
    char *path = bg_format("%s/result.json", run);
    const char *curve = NULL, *weights = NULL;
    json_t *root = NULL;
    bg_status status = bg_json_load(env, path, err, &root);
    if (!status)
        status = bg_json_string(root, path, "curve_sha256", err, &curve);
    if (!status)
        status = bg_json_string(root, path, "weights_sha256", err, &weights);
    if (!status) {
        snprintf(hashes->curve, sizeof hashes->curve, "%s", curve);
        snprintf(hashes->weights, sizeof hashes->weights, "%s", weights);
    }
    bg_free(path);
    if (result && !status)
        *result = root;
    else
        json_decref(root);
    return status;
}

// The same job in one process, in RUN-reference. One that is finished there already says so at once.
static bg_status make_reference(struct bg_env *env, const struct chaos_options *o, const char *directory,
                                struct bg_error *err)
{
    struct bg_file_info info;
    bg_status status = env->ops->path_info(env, directory, err, &info);
    if (status)
        return status;
    struct bg_strlist arguments = {0};
    bg_strlist_add(&arguments, o->executable);
    bg_strlist_add(&arguments, "train");
    if (info.exists)
        bg_strlist_add(&arguments, "--resume");
    for (size_t i = 0; i < o->words->count; i++)
        if (strncmp(o->words->items[i], "run.", 4) != 0 || !strncmp(o->words->items[i], "run.threads=", 12))
            bg_strlist_add(&arguments, o->words->items[i]);
    char *run = bg_format("run.dir=%s", directory);
    const char *const more[] = {run, "run.workers=1", "run.plan=auto", "run.shadow=false", "--quiet"};
    for (size_t i = 0; i < sizeof more / sizeof *more; i++)
        bg_strlist_add(&arguments, more[i]);
    const char **argv = bg_alloc_array(arguments.count + 1, sizeof *argv);
    for (size_t i = 0; i < arguments.count; i++)
        argv[i] = arguments.items[i];
    static const char *const environment[] = {"BRIGADE_FAULT", "BRIGADE_TAMPER", NULL};
    struct os_process process;
    status = os_spawn(&(struct os_spawn_options){.argv = argv, .environment = environment, .output = 2}, err, &process);
    if (!status) {
        status = chaos_wait(env, &process, err);
        if (!status && strcmp(process.ending, "exited with status 0") != 0)
            status = bg_fail(err, BG_INVALID, "the reference run in %s %s", directory, process.ending);
        os_process_close(&process);
    }
    bg_free(argv);
    bg_free(run);
    bg_strlist_fini(&arguments);
    return status;
}

static int ascending(const void *a, const void *b)
{
    double x = *(const double *)a, y = *(const double *)b;
    return (x > y) - (x < y);
}

// Of sorted values; nearest rank.
static double percentile(const double *values, uint64_t count, double p)
{
    uint64_t rank = (uint64_t)ceil(p * (double)count);
    return count ? values[rank ? rank - 1 : 0] : 0;
}

static double number_of(const json_t *result, const char *key)
{
    return json_number_value(json_object_get(result, key));
}

static json_t *report_json(const struct command *c, const struct chaos_report *r, const json_t *result,
                           const struct hashes *found, const struct hashes *wanted)
{
    json_t *o = json_pack(
        "{s:I, s:{s:I, s:I, s:I}, s:{s:I, s:I, s:I}, s:b, s:s, s:I, s:f, s:f, s:f, s:f, s:f, s:f, s:f}", "seed",
        (json_int_t)c->seed, "faults", "kill", (json_int_t)r->injected[CHAOS_KILL], "stop",
        (json_int_t)r->injected[CHAOS_STOP], "term", (json_int_t)r->injected[CHAOS_TERM], "targets", "workers",
        (json_int_t)r->on_workers, "shadow", (json_int_t)r->on_shadow, "controller", (json_int_t)r->on_controller,
        "survived", r->survived, "why", r->why, "controller_restarts", (json_int_t)r->restarts, "generations",
        number_of(result, "generations"), "deaths", number_of(result, "deaths"), "steps_redone",
        number_of(result, "steps_redone"), "leaves_recomputed", number_of(result, "leaves_recomputed"), "goodput",
        number_of(result, "goodput"), "seconds", r->seconds, "steps", number_of(result, "steps"));
    json_object_set_new(o, "recovery_ms",
                        json_pack("{s:I, s:f, s:f, s:f}", "count", (json_int_t)r->recoveries, "p50",
                                  percentile(r->recovery_ms, r->recoveries, 0.5), "p99",
                                  percentile(r->recovery_ms, r->recoveries, 0.99), "max",
                                  percentile(r->recovery_ms, r->recoveries, 1)));
    if (c->trace)
        json_object_set_new(o, "trace",
                            json_pack("{s:I, s:I, s:I}", "events", (json_int_t)r->trace_events, "kills",
                                      (json_int_t)r->trace_kills, "joins", (json_int_t)r->trace_joins));
    const struct hashes *both[] = {found, wanted};
    static const char *const names[] = {"found", "reference"};
    for (size_t i = 0; i < 2; i++)
        json_object_set_new(
            o, names[i], json_pack("{s:s, s:s}", "curve_sha256", both[i]->curve, "weights_sha256", both[i]->weights));
    json_object_set_new(o, "curve_identical", json_boolean(found->curve[0] && !strcmp(found->curve, wanted->curve)));
    json_object_set_new(o, "weights_identical",
                        json_boolean(found->weights[0] && !strcmp(found->weights, wanted->weights)));
    return o;
}

static void print_text(const struct command *c, const struct chaos_report *r, json_t *o)
{
    printf("seed              %llu\n", (unsigned long long)c->seed);
    printf("faults            %llu kill, %llu stop, %llu term; on workers %llu, shadow %llu, controller %llu\n",
           (unsigned long long)r->injected[CHAOS_KILL], (unsigned long long)r->injected[CHAOS_STOP],
           (unsigned long long)r->injected[CHAOS_TERM], (unsigned long long)r->on_workers,
           (unsigned long long)r->on_shadow, (unsigned long long)r->on_controller);
    if (c->trace)
        printf("trace             %llu events, %llu kills, %llu joins\n", (unsigned long long)r->trace_events,
               (unsigned long long)r->trace_kills, (unsigned long long)r->trace_joins);
    printf("survived          %s%s%s\n", r->survived ? "yes" : "no", r->why[0] ? ": " : "", r->why);
    printf("generations       %.0f\n", number_of(o, "generations"));
    printf("steps redone      %.0f\n", number_of(o, "steps_redone"));
    printf("leaves recomputed %.0f\n", number_of(o, "leaves_recomputed"));
    printf("recovery ms       p50 %.0f, p99 %.0f, max %.0f (of %llu)\n", percentile(r->recovery_ms, r->recoveries, 0.5),
           percentile(r->recovery_ms, r->recoveries, 0.99), percentile(r->recovery_ms, r->recoveries, 1),
           (unsigned long long)r->recoveries);
    printf("goodput           %.3f\n", number_of(o, "goodput"));
    const json_t *found = json_object_get(o, "found"), *wanted = json_object_get(o, "reference");
    printf("curve             %s\nreference         %s\n", json_string_value(json_object_get(found, "curve_sha256")),
           json_string_value(json_object_get(wanted, "curve_sha256")));
    printf("curve identical: %s\n", json_is_true(json_object_get(o, "curve_identical")) ? "yes" : "no");
    printf("weights identical: %s\n", json_is_true(json_object_get(o, "weights_identical")) ? "yes" : "no");
}

static bg_status run_all(struct cli *cli, const struct command *c, const struct chaos_options *o, struct bg_error *err,
                         bool *same)
{
    struct hashes wanted = {0}, found = {0};
    char *reference = c->reference ? bg_strdup(c->reference) : bg_format("%s-reference", o->job->run.dir);
    bg_status status = c->reference ? BG_OK : make_reference(cli->env, o, reference, err);
    if (!status)
        status = read_hashes(cli->env, reference, err, &wanted, NULL);
    bg_free(reference);
    struct chaos_report report = {0};
    if (!status)
        status = chaos_run(cli->env, o, err, &report);
    if (status)
        return status;
    json_t *result = NULL;
    if (report.finished)
        status = read_hashes(cli->env, o->job->run.dir, err, &found, &result);
    if (report.recoveries)
        qsort(report.recovery_ms, report.recoveries, sizeof *report.recovery_ms, ascending);
    json_t *all = report_json(c, &report, result, &found, &wanted);
    *same = report.survived && json_is_true(json_object_get(all, "curve_identical")) &&
            json_is_true(json_object_get(all, "weights_identical"));
    if (cli->json) {
        cli_print_json(json_incref(all));
    } else {
        print_text(c, &report, all);
    }
    json_decref(all);
    json_decref(result);
    bg_free(report.recovery_ms);
    return status;
}

// A list of words, each of which sets one flag.
static int take_words(const char *option, const char *text, const char *const *words, bool *const *flags, size_t count)
{
    struct bg_strlist list = {0};
    bg_strlist_split(&list, text, ',');
    int code = -1;
    for (size_t i = 0; i < list.count && code < 0; i++) {
        size_t w = 0;
        while (w < count && strcmp(list.items[i], words[w]) != 0)
            w++;
        if (w == count)
            code = cli_misuse("chaos", "--%s: no such thing as '%s'", option, list.items[i]);
        else
            *flags[w] = true;
    }
    bg_strlist_fini(&list);
    return code;
}

static bg_status count_machines(struct bg_env *env, const struct job *job, struct bg_error *err, uint32_t *machines)
{
    struct job_spread spread;
    bg_status status = job_spread(env, job, 0, err, &spread);
    if (status)
        return status;
    *machines = spread.seats;
    bg_free(spread.cut);
    return BG_OK;
}

static int run_command(struct cli *cli, const struct command *c, const struct bg_strlist *words)
{
    char executable[1024];
    os_executable(executable, sizeof executable);
    struct job job = {0};
    struct chaos_script script = {0};
    struct chaos_trace trace = {0};
    struct chaos_options o = {.job = &job,
                              .words = words,
                              .seed = c->seed,
                              .faults = c->kills,
                              .every_ms = c->every_ms,
                              .script = c->script ? &script : NULL,
                              .trace = c->trace ? &trace : NULL,
                              .time_scale = (double)c->time_scale,
                              .machines = c->machines,
                              .frames = c->frames,
                              .patience_s = c->patience_s,
                              .executable = executable};
    bool workers = true; // always; named for the sake of the list
    const char *const actions[] = {"KILL", "STOP", "TERM"}, *const targets[] = {"workers", "controller"};
    bool *const action_flags[] = {&o.actions[0], &o.actions[1], &o.actions[2]};
    bool *const target_flags[] = {&workers, &o.controller};
    int code = take_words("signals", c->signals, actions, action_flags, 3);
    if (code < 0)
        code = take_words("targets", c->targets, targets, target_flags, 2);
    if (code < 0)
        code = train_load_job(cli, words, false, "chaos", &job);
    if (code > 0)
        return code;
    struct bg_error err = {0};
    bool same = false;
    bg_status status = c->script ? chaos_script_read(cli->env, c->script, &err, &script) : BG_OK;
    if (!status && c->trace)
        status = chaos_trace_read(cli->env, c->trace, &err, &trace);
    if (script.frames.size)
        o.frames = bg_str_text(&script.frames);
    struct tamper tamper; // of the workers; here only to refuse it early
    if (!status && o.frames)
        status = tamper_parse(o.frames, 0, &err, &tamper);
    if (!status && c->trace && !o.machines)
        status = count_machines(cli->env, &job, &err, &o.machines);
    if (!status)
        status = run_all(cli, c, &o, &err, &same);
    chaos_script_fini(&script);
    chaos_trace_fini(&trace);
    job_fini(&job);
    return status ? cli_fail(&err) : same ? 0 : 1;
}

int cmd_chaos(struct cli *cli, int argc, char **argv)
{
    struct command c = {.seed = 1,
                        .kills = 10,
                        .every_ms = 300,
                        .patience_s = 60,
                        .machines = 0,
                        .signals = "KILL",
                        .targets = "workers",
                        .time_scale = 1000};
    const struct cli_option options[] = {
        {"seed", CLI_U64, &c.seed, "S", "of everything that is drawn (1)"},
        {"kills", CLI_U32, &c.kills, "N", "random faults (10), one to three at once, some during a recovery"},
        {"every", CLI_U32, &c.every_ms, "MS", "time between random faults, on average (300)"},
        {"signals", CLI_TEXT, &c.signals, "LIST", "KILL, STOP (and CONT after twice run.heartbeat_ms), TERM (KILL)"},
        {"targets", CLI_TEXT, &c.targets, "LIST", "workers (with the shadow), controller (workers)"},
        {"frames", CLI_TEXT, &c.frames, "WHAT", "SEED:drop:P,corrupt:P,delay:P:Nms: of the frames between workers"},
        {"faults", CLI_TEXT, &c.script, "FILE",
         "instead: lines \"step N kill worker1\", \"ms N stop shadow 500\", \"point worker0:after-vote:3:KILL\""},
        {"trace", CLI_TEXT, &c.trace, "FILE", "instead: machines that come and go, lines \"ms,add|remove,node\""},
        {"time-scale", CLI_FLOAT, &c.time_scale, "X", "a trace's time is divided by this (1000)"},
        {"machines", CLI_U32, &c.machines, "N", "of a trace: workers alive at once (those of the job)"},
        {"patience", CLI_U32, &c.patience_s, "S", "a job without a step for so long hangs (60)"},
        {"reference", CLI_TEXT, &c.reference, "RUN", "compare with this run; else one process trains RUN-reference"},
    };
    const struct cli_usage usage = {"chaos JOB.yaml|CORPUS [key.key=value ...] [options]",
                                    "Trains a job of many processes while it breaks them, and says what that cost and "
                                    "whether curve and weights are\n"
                                    "those of one undisturbed process. Exits 0 only if they are.",
                                    options,
                                    sizeof options / sizeof *options,
                                    1,
                                    256,
                                    true};
    struct bg_strlist words = {0};
    int code = cli_parse(cli, &usage, argc, argv, &words);
    if (code < 0 && c.trace && c.script)
        code = cli_misuse("chaos", "--trace or --faults, not both");
    if (code < 0 && !(c.time_scale > 0))
        code = cli_misuse("chaos", "--time-scale: expected a number above 0");
    if (code < 0 && c.trace) { // machines come by the trace alone; the shadow is the one that stays
        bg_strlist_add(&words, "run.respawn=false");
        bg_strlist_add(&words, "run.shadow=true");
    }
    if (code < 0)
        code = run_command(cli, &c, &words);
    bg_strlist_fini(&words);
    return code;
}
