// `brigade train`: reads the job, runs the trainer, shows progress. On a terminal one line is rewritten; elsewhere
// plain lines come at most every few seconds. Exit 75: stopped by a signal, resume me.
#include "cli/cli.h"

#include "base/mem.h"
#include "cli/fleet.h"
#include "cli/train.h"
#include "kern/kern.h"
#include "os/fault.h"
#include "os/host.h"
#include "train/peak.h"
#include "train/trainer.h"

#include <string.h>
#include <sysexits.h>

struct progress {
    struct cli *cli;
    bool terminal, quiet;
    bool line_open;    // an unfinished terminal line is on the screen
    uint64_t last_ns;  // when a progress line was last printed
    double peak_flops; // of this machine, all lanes
};

static void end_line(struct progress *p)
{
    if (p->line_open)
        fprintf(stderr, "\n");
    p->line_open = false;
}

static void on_tokenizing(void *arg, uint64_t done, uint64_t total)
{
    struct progress *p = arg;
    if (p->quiet || !p->terminal || !total)
        return;
    fprintf(stderr, "\r\033[Ktokenizing %.0f %%", 100.0 * (double)done / (double)total);
    p->line_open = true;
}

static void on_started(void *arg, const struct trainer_info *info)
{
    struct progress *p = arg;
    if (p->quiet)
        return;
    end_line(p);
    char parameters[32], memory[32], disk[32], left[32], tokens[32], eta[32];
    cli_count(parameters, sizeof parameters, (double)info->parameters);
    cli_count(tokens, sizeof tokens, (double)info->train_tokens);
    cli_bytes(memory, sizeof memory, info->memory_bytes);
    cli_bytes(disk, sizeof disk, info->disk_bytes);
    cli_bytes(left, sizeof left, info->disk_free);
    cli_duration(eta, sizeof eta, info->expected_seconds);
    fprintf(stderr, "model      %s, %u layers, %u wide, context %u: %s parameters\n",
            model_family_name(info->config->family), info->config->layers, info->config->dim, info->config->context,
            parameters);
    fprintf(stderr, "data       %s training tokens, %llu samples an epoch, %llu tokens a step\n", tokens,
            (unsigned long long)info->samples, (unsigned long long)info->tokens_per_step);
    char workers[64] = "";
    if (info->workers)
        snprintf(workers, sizeof workers, "%u worker%s%s, each ", info->workers, info->workers == 1 ? "" : "s",
                 info->shadow ? " and a shadow" : "");
    fprintf(stderr, "machine    %s%u thread%s, %s; %s memory; up to %s disk (%s free)\n", workers, info->threads,
            info->threads == 1 ? "" : "s", info->isa, memory, disk, left);
    fprintf(stderr, "expected   %s for %llu steps%s\n", eta, (unsigned long long)(info->steps - info->first_step),
            info->first_step ? " (resumed)" : "");
    fprintf(stderr, "signature  %.16s\n", info->signature_sha256);
}

static void on_step(void *arg, const struct trainer_step *s)
{
    struct progress *p = arg;
    uint64_t now = env_now_ns(p->cli->env);
    uint64_t gap_ns = p->terminal ? 100000000u : 5000000000u;
    bool edge = s->step == 0 || s->step + 1 == s->steps;
    if (p->quiet || (!edge && p->last_ns && now - p->last_ns < gap_ns))
        return;
    p->last_ns = now;
    char rate[32], eta[32], use[32] = "";
    cli_count(rate, sizeof rate, s->tokens_per_second);
    cli_duration(eta, sizeof eta, s->eta_seconds);
    if (p->peak_flops > 0)
        snprintf(use, sizeof use, "  %2.0f %% MFU", 100 * s->flops_per_second / p->peak_flops);
    fprintf(stderr, "%sstep %llu/%llu  loss %.4f  %s tok/s%s  ETA %s%s", p->terminal ? "\r\033[K" : "",
            (unsigned long long)(s->step + 1), (unsigned long long)s->steps, s->loss, rate, use, eta,
            p->terminal ? "" : "\n");
    p->line_open = p->terminal;
}

static void on_evaluated(void *arg, uint64_t step, const struct evaluate_result *r)
{
    struct progress *p = arg;
    if (p->quiet)
        return;
    end_line(p);
    fprintf(stderr, "eval %llu  loss %.4f  perplexity %.2f", (unsigned long long)step, r->loss, r->perplexity);
    if (r->bits_per_byte > 0)
        fprintf(stderr, "  %.4f bits/byte", r->bits_per_byte);
    fprintf(stderr, "\n");
}

static void on_checkpointed(void *arg, uint64_t step, const char *directory, double seconds)
{
    struct progress *p = arg;
    (void)step;
    if (p->quiet)
        return;
    end_line(p);
    fprintf(stderr, "saved %s (%.1f s)\n", directory, seconds);
}

static void on_processes(void *arg, const char *text)
{
    struct progress *p = arg;
    if (p->quiet)
        return;
    end_line(p);
    fprintf(stderr, "%s\n", text);
}

static void on_warning(void *arg, const char *text)
{
    struct progress *p = arg;
    end_line(p);
    fprintf(stderr, "brigade: warning: %s\n", text);
}

static void print_json(const struct job *job, const struct trainer_result *r, const struct fleet_result *fleet)
{
    json_t *o = json_pack("{s:s, s:I, s:b, s:f, s:I, s:f, s:I, s:s, s:s, s:s, s:s}", "run", job->run.dir, "steps",
                          (json_int_t)r->steps, "finished", r->finished, "loss", r->loss, "tokens",
                          (json_int_t)r->tokens, "seconds", r->seconds, "memory_bytes", (json_int_t)r->memory_bytes,
                          "curve_sha256", r->curve_sha256, "weights_sha256", r->weights_sha256, "signature_sha256",
                          r->signature_sha256, "checkpoint", r->checkpoint);
    if (r->valid_loss >= 0)
        json_object_set_new(o, "valid_loss", json_real(r->valid_loss));
    if (fleet) {
        json_t *more = fleet_json(fleet);
        json_object_update(o, more);
        json_decref(more);
    }
    cli_print_json(o);
}

static void print_result(const struct cli *cli, const struct job *job, const struct trainer_result *r,
                         const struct fleet_result *fleet)
{
    if (cli->json) {
        print_json(job, r, fleet);
        return;
    }
    if (r->nothing_to_do)
        printf("%s is finished already: nothing to do\n", job->run.dir);
    printf("steps          %llu%s\n", (unsigned long long)r->steps, r->finished ? "" : " (stopped; --resume goes on)");
    printf("loss           %.6f\n", r->loss);
    if (r->valid_loss >= 0)
        printf("valid loss     %.6f\n", r->valid_loss);
    printf("curve_sha256   %s\nweights_sha256 %s\n", r->curve_sha256, r->weights_sha256);
    if (r->checkpoint[0])
        printf("checkpoint     %s\n", r->checkpoint);
    if (fleet && fleet->deaths)
        printf("survived       %llu deaths in %llu generations; recovery p50 %.0f ms, max %.0f ms\n",
               (unsigned long long)fleet->deaths, (unsigned long long)fleet->generations, fleet->recovery_p50_ms,
               fleet->recovery_max_ms);
    if (fleet && fleet->budget)
        printf("cost           $%.4f, %s\n", json_number_value(json_object_get(fleet->budget, "cost")),
               !r->finished                                          ? "so far"
               : json_is_true(json_object_get(fleet->budget, "met")) ? "in time"
                                                                     : "late");
}

// `key.key=value` is an override, anything else the source.
static bool is_override(const char *word)
{
    const char *equals = strchr(word, '=');
    const char *dot = strchr(word, '.');
    if (!equals || !dot || dot > equals)
        return false;
    return strspn(word, "abcdefghijklmnopqrstuvwxyz0123456789_.") == (size_t)(equals - word);
}

// What --resume alone can mean: the job file that the run directory keeps. The directory may have been moved since: it
// is then where we found it. NULL: `source` is no run directory.
static char *kept_job(struct bg_env *env, const char *source, struct bg_strlist *overrides)
{
    bool given = false;
    const char *dir = source;
    for (size_t i = 0; i < overrides->count; i++) {
        if (!strncmp(overrides->items[i], "run.dir=", 8)) {
            dir = source ? source : overrides->items[i] + 8;
            given = true;
        }
    }
    if (!dir)
        return NULL;
    char *path = bg_format("%s/job.yaml", dir);
    struct bg_file_info info = {0};
    struct bg_error err;
    if (env->ops->path_info(env, path, &err, &info) || !info.exists) {
        bg_free(path);
        return NULL;
    }
    if (!given) {
        char *moved = bg_format("run.dir=%s", dir);
        bg_strlist_add(overrides, moved);
        bg_free(moved);
    }
    return path;
}

int train_load_job(struct cli *cli, const struct bg_strlist *words, bool resume, const char *verb, struct job *job)
{
    struct bg_strlist overrides = {0};
    const char *source = NULL;
    int code = -1;
    for (size_t i = 0; i < words->count && code < 0; i++) {
        if (is_override(words->items[i]))
            bg_strlist_add(&overrides, words->items[i]);
        else if (source)
            code = cli_misuse(verb, "one job file or corpus, found '%s' and '%s'; several texts: data.train=[a,b]",
                              source, words->items[i]);
        else
            source = words->items[i];
    }
    int environment = code < 0 ? cli_env(cli, 1) : 0;
    if (environment)
        code = environment;
    if (code < 0) {
        char *path = resume ? kept_job(cli->env, source, &overrides) : NULL;
        if (!path && source)
            path = bg_strdup(source);
        struct bg_error err = {0};
        if (job_load(cli->env, path, (const char *const *)overrides.items, overrides.count, &err, job))
            code = cli_fail(&err);
        bg_free(path);
    }
    bg_strlist_fini(&overrides);
    return code;
}

static int finish(struct cli *cli, struct progress *p, const struct job *job, bg_status status,
                  const struct trainer_result *result, const struct fleet_result *fleet, const struct bg_error *err)
{
    end_line(p);
    if (status == BG_OK || status == BG_STOPPED)
        print_result(cli, job, result, fleet);
    if (status == BG_STOPPED)
        fprintf(stderr, "brigade: stopped after step %llu; `brigade train --resume %s` goes on\n",
                (unsigned long long)result->steps, job->run.dir);
    else if (status)
        return cli_fail(err);
    return cli_exit_code(status);
}

// In this process, or with this process as the controller of many.
static int train(struct cli *cli, const struct job *job, bool resume, bool quiet)
{
    struct progress p = {.cli = cli, .terminal = os_is_terminal(OS_STDERR), .quiet = quiet};
    struct trainer_observer observer = {.arg = &p,
                                        .tokenizing = on_tokenizing,
                                        .started = on_started,
                                        .step = on_step,
                                        .evaluated = on_evaluated,
                                        .checkpointed = on_checkpointed,
                                        .processes = on_processes,
                                        .warning = on_warning};
    struct trainer_options options = {.job = job, .resume = resume, .observer = &observer};
    struct trainer_result result = {0};
    struct fleet_result fleet = {0};
    struct job_spread spread;
    struct bg_error err = {0};
    bg_status status = job_spread(cli->env, job, 0, &err, &spread);
    if (status)
        return cli_fail(&err);
    bool many = job_is_spread(&spread);
    bg_free(spread.cut);
    int code = many ? cli_env_unpinned(cli) : cli_env(cli, job->run.threads);
    if (code)
        return code;
    status = os_fault_name("controller", &err);
    p.peak_flops = peak_flops(cli->env, kern_select(cli->env->isa));
    if (!status)
        status = many ? fleet_run(cli->env, &options, &err, &result, &fleet)
                      : trainer_run(cli->env, &options, &err, &result);
    if (!many && resume && (!status || status == BG_STOPPED))
        fleet_end_leftovers(cli->env, job->run.dir);
    code = finish(cli, &p, job, status, &result, many ? &fleet : NULL, &err);
    json_decref(fleet.budget);
    return code;
}

int cmd_train(struct cli *cli, int argc, char **argv)
{
    bool resume = false, quiet = false, keys = false;
    const struct cli_option options[] = {
        {"resume", CLI_FLAG, &resume, NULL, "go on from the newest checkpoint that verifies"},
        {"quiet", CLI_FLAG, &quiet, NULL, "no progress, only the result"},
        {"keys", CLI_FLAG, &keys, NULL, "list the keys of a job file with their defaults"},
    };
    const struct cli_usage usage = {
        "train JOB.yaml|CORPUS|RUN [key.key=value ...] [options]",
        "Trains a model. CORPUS is a text file, a directory of them, or .jsonl, plain or .gz/.zst; a job file says "
        "more,\n"
        "and key.key=value overrides it (train.steps=2000). The run directory keeps everything; `--resume RUN` goes "
        "on.\n"
        "Ctrl-C finishes the step, writes a checkpoint and exits 75; a second Ctrl-C stops at once.",
        options,
        sizeof options / sizeof *options,
        0,
        256,
        true};
    struct bg_strlist words = {0};
    int code = cli_parse(cli, &usage, argc, argv, &words);
    if (code < 0 && keys) {
        char *text = job_help();
        fputs(text, stdout);
        bg_free(text);
        code = 0;
    } else if (code < 0 && !words.count) {
        code = cli_misuse("train", "what to train on is missing");
    } else if (code < 0) {
        struct job job = {0};
        code = train_load_job(cli, &words, resume, "train", &job);
        if (code < 0)
            code = train(cli, &job, resume, quiet);
        job_fini(&job);
    }
    bg_strlist_fini(&words);
    return code;
}
