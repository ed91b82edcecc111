// The books of a run. A fresh run wants an empty one and takes its own files away again if it fails before its first
// step; a resumed one takes the newest checkpoint that verifies, sets aside damaged newer ones, and changes nothing
// before it knows that the job is the same.
#include "train/run.h"

#include "base/json.h"
#include "base/mem.h"
#include "base/str.h"
#include "train/layout.h"
#include "train/signature.h"

#include <stdarg.h>
#include <stdio.h>
#include <string.h>

// A start that was killed in its very first write leaves job.yaml.tmp: that is no run.
static bg_status count_entry(void *arg, const char *name, struct bg_error *err)
{
    (void)err;
    *(size_t *)arg += strcmp(name, "job.yaml.tmp") != 0;
    return BG_OK;
}

static bg_status write_job(const struct run *run, struct bg_error *err)
{
    char *path = bg_format("%s/job.yaml", run->job->run.dir);
    char *text = job_to_yaml(run->job);
    bg_status status = env_write_file(run->env, path, text, strlen(text), err);
    bg_free(text);
    bg_free(path);
    return status;
}

static bg_status make_fresh(struct run *run, const struct bg_file_info *info, struct bg_error *err)
{
    const char *directory = run->job->run.dir;
    size_t entries = 0;
    if (info->exists && !info->is_directory)
        return bg_fail(err, BG_EXISTS, "run.dir: %s is a file; name a new directory", directory);
    bg_status status = run->env->ops->make_directories(run->env, directory, err);
    if (status)
        return status;
    run->directory_made = !info->exists;
    status = run->env->ops->directory_lock(run->env, directory, err, &run->lock);
    if (!status)
        status = run->env->ops->list_directory(run->env, directory, count_entry, &entries, err);
    if (status)
        return status;
    if (entries)
        return bg_fail(err, BG_EXISTS,
                       "run.dir: %s is not empty; --resume continues the run in it, another run.dir starts a new one",
                       directory);
    run->files_made = true;
    return write_job(run, err);
}

// There must be something to go on from: a checkpoint, or a run that was killed before its first one.
static bg_status find_run(struct run *run, const struct bg_file_info *info, struct bg_error *err)
{
    const char *directory = run->job->run.dir;
    if (!info->exists)
        return bg_fail(err, BG_NOT_FOUND, "--resume: there is no run in %s; leave --resume out to start one",
                       directory);
    bg_status status = run->env->ops->directory_lock(run->env, directory, err, &run->lock);
    if (status)
        return status;
    uint64_t *steps = NULL;
    size_t count = 0;
    status = checkpoint_list(run->env, directory, err, &steps, &count);
    bg_free(steps);
    if (status || count)
        return status;
    struct bg_file_info job_info;
    char *path = bg_format("%s/job.yaml", directory);
    status = run->env->ops->path_info(run->env, path, err, &job_info);
    bg_free(path);
    if (status || job_info.exists)
        return status;
    return bg_fail(err, BG_NOT_FOUND, "--resume: %s holds no checkpoint and no job.yaml, so nothing to resume",
                   directory);
}

static bg_status check_directory(struct run *run, struct bg_error *err)
{
    struct bg_file_info info;
    bg_status status = run->env->ops->path_info(run->env, run->job->run.dir, err, &info);
    if (status)
        return status;
    return run->options->resume ? find_run(run, &info, err) : make_fresh(run, &info, err);
}

static void undo_directory(struct run *run)
{
    static const char *const made[] = {"job.yaml", "plan.txt", "steps.jsonl", "events.jsonl", "cache"};
    struct bg_error ignored; // the failure that led here is the one to tell
    if (run->directory_made)
        (void)run->env->ops->path_remove(run->env, run->job->run.dir, &ignored);
    for (size_t i = 0; i < sizeof made / sizeof *made && run->files_made && !run->directory_made; i++) {
        char *path = bg_format("%s/%s", run->job->run.dir, made[i]);
        (void)run->env->ops->path_remove(run->env, path, &ignored);
        bg_free(path);
    }
}

static bg_status check_same_job(const struct run *run, const struct manifest *m, struct bg_error *err)
{
    char *difference = signature_difference(m->signature, run->material.signature);
    if (!difference && strcmp(m->signature_sha256, run->material.signature_sha256) == 0) {
        if (m->step <= run->job->train.steps)
            return BG_OK;
        return bg_fail(err, BG_MISMATCH, "--resume: %s has done %llu steps, train.steps asks for %llu",
                       run->job->run.dir, (unsigned long long)m->step, (unsigned long long)run->job->train.steps);
    }
    bg_fail(err, BG_MISMATCH,
            "--resume: the job is not the one that %s was started with (%s); put that back, or start a new run.dir",
            run->job->run.dir, difference ? difference : "its signature differs");
    bg_free(difference);
    return BG_MISMATCH;
}

static bg_status adopt(struct run *run, const char *path, struct manifest *m, const struct optim_state *state,
                       struct bg_error *err)
{
    double *losses = NULL;
    bg_status status = check_same_job(run, m, err);
    if (!status && state)
        status = checkpoint_load(run->env, path, run->material.model, NULL, state, err);
    if (!status)
        status = checkpoint_losses(run->env, path, m, err, &losses);
    if (status)
        return status;
    memcpy(run->losses, losses, (size_t)m->step * sizeof *losses);
    bg_free(losses);
    run->resumed = true;
    run->written = true;
    run->written_step = m->step;
    run->written_path = bg_strdup(path);
    run->seconds_before = m->seconds;
    run->evaluations = m->evaluations;
    run->evaluation_count = m->evaluation_count;
    m->evaluations = NULL;
    return BG_OK;
}

// Newest first. What does not verify is told and passed over; a changed job is refused whatever is older.
static bg_status take_newest(struct run *run, const uint64_t *steps, size_t count, const struct optim_state *state,
                             struct bg_error *err)
{
    size_t taken = count;
    while (taken > 0 && !run->resumed) {
        char *path = checkpoint_path(run->job->run.dir, steps[--taken]);
        struct manifest m;
        struct bg_error why = {0};
        bg_status status = checkpoint_verify(run->env, path, &why, &m);
        if (status) {
            run_warn(run, "checkpoint passed over: %s", why.text);
        } else {
            status = adopt(run, path, &m, state, err);
            manifest_fini(&m);
            if (status) {
                bg_free(path);
                return status;
            }
        }
        bg_free(path);
    }
    if (!run->resumed)
        return bg_fail(
            err, BG_CORRUPT,
            "--resume: none of the %zu checkpoints in %s/checkpoints verifies (the last one looked at: step %llu)",
            count, run->job->run.dir, (unsigned long long)steps[0]);
    for (size_t i = taken + 1; i < count; i++) {
        bg_status status = checkpoint_set_aside(run->env, run->job->run.dir, steps[i], err);
        if (status)
            return status;
    }
    return BG_OK;
}

// plan.txt starts with the signature: a run without a checkpoint is started over only by the same job.
static bg_status check_plan(const struct run *run, struct bg_error *err)
{
    char *path = bg_format("%s/plan.txt", run->job->run.dir);
    struct bg_file_info info;
    bg_status status = run->env->ops->path_info(run->env, path, err, &info);
    struct bg_map map;
    if (!status && info.exists)
        status = run->env->ops->map_open(run->env, path, err, &map);
    if (!status && info.exists) {
        char *text = bg_strndup((const char *)map.data, map.size);
        run->env->ops->map_close(run->env, &map);
        if (!strstr(text, run->material.signature_sha256))
            status =
                bg_fail(err, BG_MISMATCH, "--resume: %s was started with another job; start this one in a new run.dir",
                        run->job->run.dir);
        bg_free(text);
    }
    bg_free(path);
    return status;
}

bg_status run_restore(struct run *run, const struct optim_state *state, struct bg_error *err)
{
    uint64_t *steps = NULL;
    size_t count = 0;
    bg_status status = checkpoint_clean(run->env, run->job->run.dir, err);
    if (!status)
        status = checkpoint_list(run->env, run->job->run.dir, err, &steps, &count);
    if (!status && count)
        status = take_newest(run, steps, count, state, err);
    else if (!status)
        status = check_plan(run, err);
    bg_free(steps);
    if (!status && !count && state) // the log of a controller may know more
        run_warn(run, "%s holds no checkpoint yet: starting again from the first step", run->job->run.dir);
    return status;
}

bg_status run_is_finished(struct run *run, uint64_t steps, struct bg_error *err, bool *finished)
{
    char *path = bg_format("%s/result.json", run->job->run.dir);
    struct bg_file_info info = {0};
    bg_status status = run->env->ops->path_info(run->env, path, err, &info);
    bg_free(path);
    *finished = info.exists && run->resumed && steps == run->job->train.steps;
    return status;
}

// plan.txt: a plan file that also tells, in comments, the job's signature and what the units are.
static char *plan_text(const struct run *run, const char *plan)
{
    static const char *const kinds[] = {
        [MODEL_UNIT_EMBED] = "embed", [MODEL_UNIT_BLOCK] = "block", [MODEL_UNIT_HEAD] = "head"};
    const struct model *model = run->material.model;
    struct bg_str s = {0};
    bg_str_addf(&s, "# class=" TRAIN_CLASS " signature=%s\n", run->material.signature_sha256);
    for (uint32_t u = 0; u < model->unit_count; u++) {
        bg_str_addf(&s, "# unit %u %s", u, kinds[model->units[u].kind]);
        if (model->units[u].kind == MODEL_UNIT_BLOCK)
            bg_str_addf(&s, " layer=%u", model->units[u].layer);
        bg_str_add(&s, "\n");
    }
    bg_str_add(&s, plan);
    return bg_str_take(&s);
}

bg_status run_open_files(struct run *run, uint64_t steps, const char *plan, struct bg_error *err)
{
    const char *directory = run->job->run.dir;
    char *path = bg_format("%s/plan.txt", directory);
    char *text = plan_text(run, plan);
    bg_status status = write_job(run, err);
    if (!status)
        status = env_write_file(run->env, path, text, strlen(text), err);
    bg_free(text);
    bg_free(path);
    char *result = bg_format("%s/result.json", directory);
    if (!status)
        status = run->env->ops->path_remove(run->env, result, err); // a prolonged run is not finished any more
    bg_free(result);
    uint64_t rewritten = 0;
    bool goes_on = run->options->resume; // the events of before stay, whatever step it begins with
    if (!status)
        status = goes_on ? runlog_resume(&run->log, run->env, directory, run->losses, steps, err, &rewritten)
                         : runlog_create(&run->log, run->env, directory, err);
    if (status)
        return status;
    run->logging = true;
    run->files_made = run->directory_made = false; // from here on the directory holds a run
    if (rewritten)
        run_warn(run, "%s/steps.jsonl lacked %llu lines; they were written again", directory,
                 (unsigned long long)rewritten);
    return runlog_event(&run->log, goes_on ? "resumed" : "started",
                        json_pack("{s:I, s:s, s:s, s:i}", "step", (json_int_t)steps, "signature_sha256",
                                  run->material.signature_sha256, "isa", run->material.kern->isa, "threads",
                                  (int)run->env->threads),
                        err);
}

// ---- Opening and closing ----

static void on_tokenizing(void *arg, uint64_t done, uint64_t total)
{
    const struct trainer_observer *observer = arg;
    observer->tokenizing(observer->arg, done, total);
}

bg_status run_open(struct run *run, struct bg_env *env, const struct trainer_options *options, struct bg_error *err)
{
    *run = (struct run){.env = env, .options = options, .job = options->job, .start_ns = env_now_ns(env)};
    const struct trainer_observer *observer = options->observer;
    bool told = observer && observer->tokenizing;
    bg_status status = options->dry ? BG_OK : check_directory(run, err);
    if (!status)
        status =
            material_open(&run->material, env, run->job, told ? on_tokenizing : NULL, (void *)(uintptr_t)observer, err);
    if (status)
        return status;
    run->losses_bytes = (size_t)run->job->train.steps * sizeof(double);
    void *memory = NULL;
    status = env->ops->reserve(env, run->losses_bytes, err, &memory);
    run->losses = memory;
    return status;
}

void run_close(struct run *run)
{
    struct bg_env *env = run->env;
    struct bg_error err;
    if (run->logging && runlog_close(&run->log, &err))
        run_warn(run, "%s", err.text);
    if (run->losses)
        env->ops->release(env, run->losses, run->losses_bytes);
    material_close(&run->material);
    bg_free(run->written_path);
    bg_free(run->evaluations);
    if (run->files_made || run->directory_made)
        undo_directory(run);
    if (run->lock && env->ops->file_close(env, run->lock, &err))
        run_warn(run, "%s", err.text);
}

// ---- What is told before the first step ----

struct trainer_info run_info(const struct run *run, uint64_t first_step)
{
    const struct job *job = run->job;
    const struct material *m = &run->material;
    uint64_t sequences = (uint64_t)job->train.micro_batch * job->train.micro_batches;
    return (struct trainer_info){.config = &m->model->config,
                                 .isa = m->kern->isa,
                                 .threads = run->env->threads,
                                 .parameters = m->model->elements,
                                 .train_tokens = m->corpus->train.count,
                                 .valid_tokens = m->corpus->valid.count,
                                 .samples = data_samples(&m->corpus->train, m->length),
                                 .tokens_per_step = m->tokens_per_step,
                                 .flops_per_step = layout_flops(m->model, sequences, m->length),
                                 .first_step = first_step,
                                 .steps = job->train.steps,
                                 .signature_sha256 = m->signature_sha256};
}

static bg_status check_disk(struct run *run, struct trainer_info *info, struct bg_error *err)
{
    const struct job *job = run->job;
    info->checkpoint_bytes = checkpoint_bytes(run->material.model, job->train.steps);
    // The oldest goes only when the newest is safe; the log takes some 200 bytes a step.
    info->disk_bytes = info->checkpoint_bytes * (job->train.keep + 1) + job->train.steps * 224;
    if (run->options->dry)
        return BG_OK;
    bg_status status = run->env->ops->disk_free(run->env, job->run.dir, err, &info->disk_free);
    if (status)
        return status;
    if (info->disk_free < info->checkpoint_bytes)
        return bg_fail(
            err, BG_FULL,
            "run.dir: a checkpoint takes %.1f MB, the disk of %s has %.1f MB left; make room or name another disk",
            (double)info->checkpoint_bytes * 1e-6, job->run.dir, (double)info->disk_free * 1e-6);
    if (!run->resumed && info->disk_free < info->disk_bytes)
        run_warn(run, "train.keep: %u checkpoints may take %.1f MB, the disk of %s has %.1f MB left", job->train.keep,
                 (double)info->disk_bytes * 1e-6, job->run.dir, (double)info->disk_free * 1e-6);
    return BG_OK;
}

bg_status run_tell_started(struct run *run, struct trainer_info *info, struct bg_error *err)
{
    bg_status status = check_disk(run, info, err);
    const struct trainer_observer *observer = run->options->observer;
    if (!status && observer && observer->started)
        observer->started(observer->arg, info);
    return status;
}

// ---- What happens ----

void run_warn(const struct run *run, const char *format, ...)
{
    const struct trainer_observer *observer = run->options->observer;
    if (!observer || !observer->warning)
        return;
    char text[1200];
    va_list args;
    va_start(args, format);
    vsnprintf(text, sizeof text, format, args);
    va_end(args);
    observer->warning(observer->arg, text);
}

double run_seconds(const struct run *run)
{
    return 1e-9 * (double)(env_now_ns(run->env) - run->start_ns);
}

bool run_due(const struct run *run, uint64_t step, uint64_t every)
{
    return step > 0 && (step == run->job->train.steps || (every && step % every == 0));
}

bool run_stop_asked(const struct run *run, uint64_t steps)
{
    const struct trainer_options *o = run->options;
    if (run->env->ops->stop_signal(run->env) || (o->stop_after && steps >= o->stop_after))
        return true;
    return o->observer && o->observer->stop && o->observer->stop(o->observer->arg);
}

static void tell_step(const struct run *run, const struct run_step *s)
{
    const struct trainer_observer *observer = run->options->observer;
    if (!observer || !observer->step)
        return;
    const struct job *job = run->job;
    const struct material *m = &run->material;
    uint64_t sequences = (uint64_t)job->train.micro_batch * job->train.micro_batches;
    double rate = run->pace > 0 ? 1 / run->pace : 0;
    struct trainer_step step = {
        .step = s->record->step,
        .steps = job->train.steps,
        .loss = s->record->loss,
        .grad_norm = s->record->norm,
        .lr = s->lr,
        .tokens = m->tokens_per_step,
        .seconds = s->seconds,
        .tokens_per_second = (double)m->tokens_per_step * rate,
        .flops_per_second = layout_flops(m->model, sequences, m->length) * rate,
        .eta_seconds = run->pace * (double)(job->train.steps - s->record->step - 1),
    };
    observer->step(observer->arg, &step);
}

bg_status run_step(struct run *run, const struct run_step *s, struct bg_error *err)
{
    bg_status status = BG_OK;
    run->pace = run->paced++ ? 0.9 * run->pace + 0.1 * s->seconds : s->seconds;
    if (run->logging) {
        double rate = s->seconds > 0 ? (double)run->material.tokens_per_step / s->seconds : 0;
        struct runlog_step line = {.record = s->record,
                                   .lr = s->lr,
                                   .tokens = run->material.tokens_per_step,
                                   .tokens_per_second = rate,
                                   .workers = s->workers,
                                   .generation = s->generation};
        status = runlog_step(&run->log, &line, err);
    }
    if (!status)
        tell_step(run, s);
    return status;
}

bg_status run_evaluated(struct run *run, uint64_t step, const struct evaluate_result *r, struct bg_error *err)
{
    run->evaluations = bg_realloc_array(run->evaluations, run->evaluation_count + 1, sizeof *run->evaluations);
    run->evaluations[run->evaluation_count++] = (struct evaluation_point){step, r->tokens, r->loss, r->bits_per_byte};
    const struct trainer_observer *observer = run->options->observer;
    if (observer && observer->evaluated)
        observer->evaluated(observer->arg, step, r);
    char bits[17];
    curve_bits_format(r->loss, bits);
    return runlog_event(&run->log, "evaluation",
                        json_pack("{s:I, s:f, s:s, s:f, s:f, s:I, s:f}", "step", (json_int_t)step, "loss", r->loss,
                                  "loss_bits", bits, "perplexity", r->perplexity, "bits_per_byte", r->bits_per_byte,
                                  "tokens", (json_int_t)r->tokens, "seconds", r->seconds),
                        err);
}

bg_status run_checkpointed(struct run *run, uint64_t step, const char *directory, double seconds, struct bg_error *err)
{
    char *path = bg_strdup(directory);
    bg_free(run->written_path);
    run->written_path = path;
    run->written = true;
    run->written_step = step;
    const struct trainer_observer *observer = run->options->observer;
    if (observer && observer->checkpointed)
        observer->checkpointed(observer->arg, step, path, seconds);
    return runlog_event(&run->log, "checkpoint", json_pack("{s:I, s:f}", "step", (json_int_t)step, "seconds", seconds),
                        err);
}

// ---- The end ----

static json_t *evaluations_json(const struct run *run)
{
    json_t *list = json_array();
    for (size_t i = 0; i < run->evaluation_count; i++) {
        const struct evaluation_point *e = &run->evaluations[i];
        char bits[17];
        curve_bits_format(e->loss, bits);
        json_array_append_new(list, json_pack("{s:I, s:f, s:s, s:f}", "step", (json_int_t)e->step, "loss", e->loss,
                                              "loss_bits", bits, "bits_per_byte", e->bits_per_byte));
    }
    return list;
}

static bg_status write_result(const struct run *run, const struct trainer_result *r, json_t *more, struct bg_error *err)
{
    json_t *root =
        json_pack("{s:s, s:I, s:{s:f, s:f}, s:o, s:s, s:s, s:s, s:I, s:f, s:I, s:I, s:s}", "class", TRAIN_CLASS,
                  "steps", (json_int_t)r->steps, "losses", "first", run->losses[0], "last", r->loss, "validation",
                  evaluations_json(run), "curve_sha256", r->curve_sha256, "weights_sha256", r->weights_sha256,
                  "signature_sha256", r->signature_sha256, "tokens", (json_int_t)r->tokens, "seconds",
                  run->seconds_before + r->seconds, "memory_bytes", (json_int_t)r->memory_bytes, "parameters",
                  (json_int_t)run->material.model->elements, "checkpoint", r->checkpoint);
    if (root && more)
        json_object_update(root, more);
    return runlog_result(run->env, run->job->run.dir, root, err);
}

void run_fill_result(const struct run *run, uint64_t steps, struct trainer_result *r)
{
    r->steps = steps;
    r->finished = steps == run->job->train.steps;
    r->loss = steps ? run->losses[steps - 1] : 0;
    r->valid_loss = run->evaluation_count ? run->evaluations[run->evaluation_count - 1].loss : -1;
    r->tokens = steps * run->material.tokens_per_step;
    r->seconds = run_seconds(run);
    curve_sha256(run->losses, steps, r->curve_sha256);
    memcpy(r->signature_sha256, run->material.signature_sha256, sizeof r->signature_sha256);
    if (run->written_path)
        snprintf(r->checkpoint, sizeof r->checkpoint, "%s", run->written_path);
}

static bg_status tell_end(struct run *run, bg_status status, const struct trainer_result *r, struct bg_error *err)
{
    const char *event = status ? "stopped" : "finished";
    bg_status second = runlog_event(
        &run->log, event, json_pack("{s:I, s:s}", "step", (json_int_t)r->steps, "curve_sha256", r->curve_sha256), err);
    return second ? second : runlog_sync(&run->log, err);
}

bg_status run_end(struct run *run, bg_status status, const struct trainer_result *r, json_t *more, struct bg_error *err)
{
    struct bg_error ignored; // the disk may be what failed
    bg_status second = BG_OK;
    if (run->logging && status && status != BG_STOPPED) {
        json_t *why = json_pack("{s:I, s:s}", "step", (json_int_t)r->steps, "error", err->text);
        if (runlog_event(&run->log, "failed", why, &ignored))
            run_warn(run, "%s", ignored.text);
    } else if (run->logging) {
        struct bg_error *where = status ? &ignored : err; // the text that says "stopped" stays
        second = status ? BG_OK : write_result(run, r, more, where);
        if (!second)
            second = tell_end(run, status, r, where);
    }
    json_decref(more);
    return status ? status : second;
}
