// `brigade plan --profile`: what this machine needs for a job's units, messages and commits (train/measure.h); with
// --plan, what a step of that plan takes by such a profile (plan/cost/timeline.h).
#include "cli/plan.h"

#include "base/mem.h"
#include "cli/train.h"
#include "os/host.h"
#include "os/live.h"
#include "plan/cost/timeline.h"
#include "store/sqlite/sqlite.h"

#include <stdlib.h>
#include <string.h>

struct request {
    bool profile;
    const char *plan, *out;
    uint32_t workers, threads, group;
    float seconds;
};

// ---- Measuring ----

static bg_status log_directory(struct bg_env *env, struct bg_error *err, char **path)
{
    const char *temporary = getenv("TMPDIR");
    uint64_t name;
    bg_status status = env->ops->entropy(env, &name, sizeof name, err);
    if (status)
        return status;
    *path = bg_format("%s/brigade-measure-%016llx", temporary && temporary[0] ? temporary : "/tmp",
                      (unsigned long long)name);
    return env->ops->make_directories(env, *path, err);
}

static bg_status measure_in(struct bg_env *env, const struct job *job, double seconds, struct bg_error *err,
                            struct measure *measure)
{
    struct model_config config;
    struct measure_options options;
    char *directory = NULL;
    bg_status status = measure_job_options(env, job, err, &config, &options);
    if (!status)
        status = log_directory(env, err, &directory);
    if (!status) {
        char *file = bg_format("%s/log.sqlite", directory);
        status = store_sqlite_open(file, err, &options.log);
        bg_free(file);
    }
    options.scratch = job->run.scratch ? job->run.scratch : directory;
    options.cpus = os_cpu_count();
    options.seconds = seconds;
    if (!status)
        status = measure_machine(env, &options, err, measure);
    if (options.log)
        options.log->ops->close(options.log);
    struct bg_error second;
    if (directory) {
        bg_status removed = env->ops->path_remove(env, directory, status ? &second : err);
        status = status ? status : removed;
    }
    bg_free(directory);
    return status;
}

// In an environment of its own, whose threads are not pinned: others run beside them.
bg_status cli_plan_measure(struct cli *cli, const struct job *job, double seconds, struct bg_error *err,
                           struct measure *measure)
{
    const struct os_options options = {.threads = cli->env->threads, .keep_caller = true};
    struct bg_env *env = NULL;
    bg_status status = os_env_create(&options, err, &env);
    if (status)
        return status;
    status = measure_in(env, job, seconds, err, measure);
    os_env_destroy(env);
    return status;
}

static json_t *units_json(const struct plan_profile *p)
{
    static const char *const kinds[] = {"embed", "block", "head", "other"};
    json_t *units = json_array();
    for (uint32_t u = 0; u < p->unit_count; u++) {
        const struct plan_unit *unit = &p->units[u];
        json_array_append_new(units, json_pack("{s:s, s:f, s:f, s:f, s:f, s:f, s:f}", "kind", kinds[unit->kind],
                                               "forward_s", unit->forward_s, "input_s", unit->input_s, "weight_s",
                                               unit->weight_s, "parameter_bytes", unit->parameter_bytes, "stash_bytes",
                                               unit->stash_bytes, "cut_bytes", unit->cut_bytes));
    }
    return units;
}

static void print_profile(const struct cli *cli, const struct plan_profile *p, const char *text, double seconds)
{
    if (!cli->json) {
        fputs(text, stdout);
        return;
    }
    cli_print_json(json_pack("{s:s, s:f, s:o, s:f, s:f, s:f, s:f, s:f, s:f, s:f, s:i}", "profile", text, "seconds",
                             seconds, "units", units_json(p), "op_s", p->op_s, "message_s", p->message_s,
                             "message_byte_s", p->message_byte_s, "latency_s", p->inner.latency_s, "commit_s",
                             p->commit_s, "step_byte_s", p->step_byte_s, "reduce_byte_s", p->reduce_byte_s, "machines",
                             (int)p->machine_count));
}

static bg_status profile_job(struct cli *cli, const struct request *r, const struct job *job, uint32_t workers,
                             struct bg_error *err)
{
    struct measure *m = bg_alloc(sizeof *m);
    struct plan_profile p = {0};
    const uint64_t start = env_now_ns(cli->env);
    const uint32_t group = r->group ? r->group : job->run.group ? job->run.group : 1;
    bg_status status = cli_plan_measure(cli, job, (double)r->seconds, err, m);
    if (!status)
        status = measure_profile(m, group, workers, os_cpu_count(), err, &p);
    if (!status) {
        char *text = plan_profile_format(&p);
        if (r->out)
            status = env_write_file(cli->env, r->out, text, strlen(text), err);
        if (!status && (cli->json || !r->out))
            print_profile(cli, &p, text, 1e-9 * (double)(env_now_ns(cli->env) - start));
        bg_free(text);
    }
    plan_profile_fini(&p);
    bg_free(m);
    return status;
}

// A job of which only the sizes count: it may name no text to train on.
static int load_job(struct cli *cli, struct bg_strlist *words, struct job *job)
{
    bool source = false;
    for (size_t i = 0; i < words->count; i++)
        source |= !strchr(words->items[i], '=') || strncmp(words->items[i], "data.train=", 11) == 0;
    if (!source)
        bg_strlist_add(words, "data.train=none");
    return train_load_job(cli, words, false, "plan", job);
}

static int measure(struct cli *cli, const struct request *r, struct bg_strlist *words)
{
    struct job job = {0};
    struct bg_error err = {0};
    int code = load_job(cli, words, &job);
    if (code < 0) {
        const unsigned cpus = os_cpu_count();
        const uint32_t workers = r->workers ? r->workers : job.run.workers ? job.run.workers : cpus;
        const uint32_t share = cpus / workers ? cpus / workers : 1;
        code = cli_env(cli, r->threads ? r->threads : job.run.threads ? job.run.threads : share);
        if (!code && profile_job(cli, r, &job, workers, &err))
            code = cli_fail(&err);
    }
    job_fini(&job);
    return code;
}

// ---- Walking ----

static bg_status read_file(struct bg_env *env, const char *path, struct bg_error *err, struct bg_map *map)
{
    return env->ops->map_open(env, path, err, map);
}

static void print_timeline(const struct cli *cli, const struct plan_timeline *t)
{
    json_t *workers = json_array();
    for (uint32_t w = 0; w < t->worker_count; w++) {
        const struct plan_worker_time *time = &t->workers[w];
        json_array_append_new(workers,
                              json_pack("{s:f, s:f, s:f, s:f, s:f, s:f, s:f, s:f}", "busy_s", time->busy_s, "first_s",
                                        time->first_s, "last_s", time->last_s, "peak_bytes", time->peak_bytes,
                                        "sent_bytes", time->sent_bytes, "received_bytes", time->received_bytes,
                                        "joules", time->joules, "dollars", time->dollars));
        if (!cli->json)
            printf("worker %-4u busy %10.6f s, %5.1f %% idle, peak %.0f bytes, sends %.0f bytes\n", w, time->busy_s,
                   100 * (1 - time->busy_s / t->step_s), time->peak_bytes, time->sent_bytes);
    }
    json_t *result = json_pack("{s:f, s:f, s:f, s:f, s:f, s:o}", "step_s", t->step_s, "compute_s", t->compute_s,
                               "bubble_s", t->bubble_s, "joules", t->joules, "dollars", t->dollars, "workers", workers);
    if (cli->json) {
        cli_print_json(result);
        return;
    }
    json_decref(result);
    printf("step       %.6f s, of it computing %.6f s\n", t->step_s, t->compute_s);
}

static bg_status walk(struct cli *cli, const char *profile_path, const char *plan_path, struct bg_error *err)
{
    struct bg_env *env = cli->env;
    struct bg_map map;
    struct plan_profile profile = {0};
    struct plan plan = {0};
    struct plan_timeline t = {0};
    bg_status status = read_file(env, profile_path, err, &map);
    if (status)
        return status;
    status = plan_profile_parse((const char *)map.data, map.size, err, &profile);
    env->ops->map_close(env, &map);
    if (status)
        return bg_fail_prefix(err, "%s", profile_path);
    status = read_file(env, plan_path, err, &map);
    if (!status) {
        status = plan_parse((const char *)map.data, map.size, err, &plan);
        env->ops->map_close(env, &map);
        if (!status)
            status = plan_timeline(&plan, &profile, err, &t);
        if (status)
            bg_fail_prefix(err, "%s", plan_path);
    }
    if (!status)
        print_timeline(cli, &t);
    plan_timeline_fini(&t);
    plan_fini(&plan);
    plan_profile_fini(&profile);
    return status;
}

int cli_plan_profile(struct cli *cli, int argc, char **argv)
{
    struct request r = {0};
    const struct cli_option options[] = {
        {"profile", CLI_FLAG, &r.profile, NULL, "measure; with --plan: the word is the file of a profile"},
        {"plan", CLI_TEXT, &r.plan, "FILE", "what a step of this plan takes, by the profile"},
        {"out", CLI_TEXT, &r.out, "FILE", "write the profile there"},
        {"workers", CLI_U32, &r.workers, "N", "machines in the profile; else run.workers, else one a core"},
        {"threads", CLI_U32, &r.threads, "N", "of a worker; else run.threads, else the cores' share"},
        {"group", CLI_U32, &r.group, "N", "micro-batches an item; else run.group, else 1"},
        {"seconds", CLI_FLOAT, &r.seconds, "S", "about how long to measure (default 6)"},
    };
    const struct cli_usage usage = {"plan --profile [JOB.yaml|CORPUS] [key.key=value ...] [options]",
                                    "Measures what this machine needs for a job's units, messages and commits, and\n"
                                    "prints it as a profile: a line for each unit, link and machine. With --plan, the\n"
                                    "word is such a profile, and the step of the plan is walked with it:\n"
                                    "  brigade plan --profile here.txt --plan plan.txt",
                                    options,
                                    sizeof options / sizeof *options,
                                    0,
                                    256,
                                    true};
    struct bg_strlist words = {0};
    struct bg_error err = {0};
    int code = cli_parse(cli, &usage, argc, argv, &words);
    if (code < 0 && r.plan) {
        code = words.count == 1 ? cli_env(cli, 1) : cli_misuse("plan", "--profile FILE --plan FILE: one profile");
        if (!code && walk(cli, words.items[0], r.plan, &err))
            code = cli_fail(&err);
    } else if (code < 0) {
        code = measure(cli, &r, &words);
    }
    bg_strlist_fini(&words);
    return code;
}
