// The run directory. A fresh run wants an empty one and takes its own files away again if it fails before its first
// step; a resumed one takes the newest checkpoint that verifies, sets aside damaged newer ones, and changes nothing
// before it knows that the job is the same.
#include "train/trainer_int.h"

#include "base/mem.h"
#include "base/str.h"
#include "train/signature.h"

#include <string.h>

// A start that was killed in its very first write leaves job.yaml.tmp: that is no run.
static bg_status count_entry(void *arg, const char *name, struct bg_error *err)
{
    (void)err;
    *(size_t *)arg += strcmp(name, "job.yaml.tmp") != 0;
    return BG_OK;
}

static bg_status write_job(const struct trainer *t, struct bg_error *err)
{
    char *path = bg_format("%s/job.yaml", t->job->run.dir);
    char *text = job_to_yaml(t->job);
    bg_status status = env_write_file(t->env, path, text, strlen(text), err);
    bg_free(text);
    bg_free(path);
    return status;
}

static bg_status make_fresh(struct trainer *t, const struct bg_file_info *info, struct bg_error *err)
{
    const char *directory = t->job->run.dir;
    size_t entries = 0;
    if (info->exists && !info->is_directory)
        return bg_fail(err, BG_EXISTS, "run.dir: %s is a file; name a new directory", directory);
    bg_status status = t->env->ops->make_directories(t->env, directory, err);
    if (status)
        return status;
    t->directory_made = !info->exists;
    status = t->env->ops->directory_lock(t->env, directory, err, &t->lock);
    if (!status)
        status = t->env->ops->list_directory(t->env, directory, count_entry, &entries, err);
    if (status)
        return status;
    if (entries)
        return bg_fail(err, BG_EXISTS,
                       "run.dir: %s is not empty; --resume continues the run in it, another run.dir starts a new one",
                       directory);
    t->files_made = true;
    return write_job(t, err);
}

// There must be something to go on from: a checkpoint, or a run that was killed before its first one.
static bg_status find_run(struct trainer *t, const struct bg_file_info *info, struct bg_error *err)
{
    const char *directory = t->job->run.dir;
    if (!info->exists)
        return bg_fail(err, BG_NOT_FOUND, "--resume: there is no run in %s; leave --resume out to start one",
                       directory);
    bg_status status = t->env->ops->directory_lock(t->env, directory, err, &t->lock);
    if (status)
        return status;
    uint64_t *steps = NULL;
    size_t count = 0;
    status = checkpoint_list(t->env, directory, err, &steps, &count);
    bg_free(steps);
    if (status || count)
        return status;
    struct bg_file_info job_info;
    char *path = bg_format("%s/job.yaml", directory);
    status = t->env->ops->path_info(t->env, path, err, &job_info);
    bg_free(path);
    if (status || job_info.exists)
        return status;
    return bg_fail(err, BG_NOT_FOUND, "--resume: %s holds no checkpoint and no job.yaml, so nothing to resume",
                   directory);
}

bg_status trainer_check_directory(struct trainer *t, struct bg_error *err)
{
    struct bg_file_info info;
    bg_status status = t->env->ops->path_info(t->env, t->job->run.dir, err, &info);
    if (status)
        return status;
    return t->options->resume ? find_run(t, &info, err) : make_fresh(t, &info, err);
}

void trainer_undo_directory(struct trainer *t)
{
    static const char *const made[] = {"job.yaml", "plan.txt", "steps.jsonl", "events.jsonl", "cache"};
    struct bg_error ignored; // the failure that led here is the one to tell
    if (t->directory_made)
        (void)t->env->ops->path_remove(t->env, t->job->run.dir, &ignored);
    for (size_t i = 0; i < sizeof made / sizeof *made && t->files_made && !t->directory_made; i++) {
        char *path = bg_format("%s/%s", t->job->run.dir, made[i]);
        (void)t->env->ops->path_remove(t->env, path, &ignored);
        bg_free(path);
    }
}

static bg_status check_same_job(const struct trainer *t, const struct manifest *m, struct bg_error *err)
{
    char *difference = signature_difference(m->signature, t->signature);
    if (!difference && strcmp(m->signature_sha256, t->signature_sha256) == 0) {
        if (m->step <= t->job->train.steps)
            return BG_OK;
        return bg_fail(err, BG_MISMATCH, "--resume: %s has done %llu steps, train.steps asks for %llu", t->job->run.dir,
                       (unsigned long long)m->step, (unsigned long long)t->job->train.steps);
    }
    bg_fail(err, BG_MISMATCH,
            "--resume: the job is not the one that %s was started with (%s); put that back, or start a new run.dir",
            t->job->run.dir, difference ? difference : "its signature differs");
    bg_free(difference);
    return BG_MISMATCH;
}

static bg_status adopt(struct trainer *t, const char *path, struct manifest *m, struct bg_error *err)
{
    bg_status status = check_same_job(t, m, err);
    if (!status)
        status = checkpoint_load(t->env, path, m, t->model, &t->state, t->losses, err);
    if (status)
        return status;
    step_local_init(&t->commit, t->losses, m->step, t->job->train.steps);
    t->resumed = true;
    t->written = true;
    t->written_step = m->step;
    t->written_path = bg_strdup(path);
    t->seconds_before = m->seconds;
    t->evaluations = m->evaluations;
    t->evaluation_count = m->evaluation_count;
    m->evaluations = NULL;
    return BG_OK;
}

// Newest first. What does not verify is told and passed over; a changed job is refused whatever is older.
static bg_status take_newest(struct trainer *t, const uint64_t *steps, size_t count, struct bg_error *err)
{
    size_t taken = count;
    while (taken > 0 && !t->resumed) {
        char *path = checkpoint_path(t->job->run.dir, steps[--taken]);
        struct manifest m;
        struct bg_error why = {0};
        bg_status status = checkpoint_verify(t->env, path, &why, &m);
        if (status) {
            trainer_warn(t, "checkpoint passed over: %s", why.text);
        } else {
            status = adopt(t, path, &m, err);
            manifest_fini(&m);
            if (status) {
                bg_free(path);
                return status;
            }
        }
        bg_free(path);
    }
    if (!t->resumed)
        return bg_fail(
            err, BG_CORRUPT,
            "--resume: none of the %zu checkpoints in %s/checkpoints verifies (the last one looked at: step %llu)",
            count, t->job->run.dir, (unsigned long long)steps[0]);
    for (size_t i = taken + 1; i < count; i++) {
        bg_status status = checkpoint_set_aside(t->env, t->job->run.dir, steps[i], err);
        if (status)
            return status;
    }
    return BG_OK;
}

// plan.txt starts with the signature: a run without a checkpoint is started over only by the same job.
static bg_status check_plan(const struct trainer *t, struct bg_error *err)
{
    char *path = bg_format("%s/plan.txt", t->job->run.dir);
    struct bg_file_info info;
    bg_status status = t->env->ops->path_info(t->env, path, err, &info);
    struct bg_map map;
    if (!status && info.exists)
        status = t->env->ops->map_open(t->env, path, err, &map);
    if (!status && info.exists) {
        char *text = bg_strndup((const char *)map.data, map.size);
        t->env->ops->map_close(t->env, &map);
        if (!strstr(text, t->signature_sha256))
            status =
                bg_fail(err, BG_MISMATCH, "--resume: %s was started with another job; start this one in a new run.dir",
                        t->job->run.dir);
        bg_free(text);
    }
    bg_free(path);
    return status;
}

bg_status trainer_restore(struct trainer *t, struct bg_error *err)
{
    uint64_t *steps = NULL;
    size_t count = 0;
    bg_status status = checkpoint_clean(t->env, t->job->run.dir, err);
    if (!status)
        status = checkpoint_list(t->env, t->job->run.dir, err, &steps, &count);
    if (!status && count)
        status = take_newest(t, steps, count, err);
    else if (!status)
        status = check_plan(t, err);
    bg_free(steps);
    if (!status && !count)
        trainer_warn(t, "%s holds no checkpoint yet: starting again from the first step", t->job->run.dir);
    return status;
}

// The plan of one process, in the records of every plan: one stage of all units, one seat.
static char *plan_text(const struct trainer *t)
{
    static const char *const kinds[] = {
        [MODEL_UNIT_EMBED] = "embed", [MODEL_UNIT_BLOCK] = "block", [MODEL_UNIT_HEAD] = "head"};
    struct bg_str s = {0};
    bg_str_addf(&s, "plan class=" TRAIN_CLASS " signature=%s\n", t->signature_sha256);
    for (uint32_t u = 0; u < t->model->unit_count; u++) {
        bg_str_addf(&s, "unit %u %s", u, kinds[t->model->units[u].kind]);
        if (t->model->units[u].kind == MODEL_UNIT_BLOCK)
            bg_str_addf(&s, " layer=%u", t->model->units[u].layer);
        bg_str_add(&s, "\n");
    }
    bg_str_addf(&s, "stage 0 units=[0,%u)\nseat worker=0 stage=0 replica=0 share=1\n", t->model->unit_count);
    bg_str_addf(&s, "mbmap stage=0 replica=0 micro_batches=[0,%u) group=%u\n", t->layout.micro_batches,
                t->layout.group);
    return bg_str_take(&s);
}

bg_status trainer_open_files(struct trainer *t, struct bg_error *err)
{
    const char *directory = t->job->run.dir;
    char *plan = bg_format("%s/plan.txt", directory);
    char *text = plan_text(t);
    bg_status status = write_job(t, err);
    if (!status)
        status = env_write_file(t->env, plan, text, strlen(text), err);
    bg_free(text);
    bg_free(plan);
    char *result = bg_format("%s/result.json", directory);
    if (!status)
        status = t->env->ops->path_remove(t->env, result, err); // a prolonged run is not finished any more
    bg_free(result);
    uint64_t rewritten = 0;
    if (!status)
        status = t->resumed ? runlog_resume(&t->log, t->env, directory, t->losses, t->commit.steps, err, &rewritten)
                            : runlog_create(&t->log, t->env, directory, err);
    if (status)
        return status;
    t->logging = true;
    if (rewritten)
        trainer_warn(t, "%s/steps.jsonl lacked %llu lines; they were written again from the checkpoint", directory,
                     (unsigned long long)rewritten);
    return runlog_event(&t->log, t->resumed ? "resumed" : "started",
                        json_pack("{s:I, s:s, s:s, s:i}", "step", (json_int_t)t->commit.steps, "signature_sha256",
                                  t->signature_sha256, "isa", t->kern->isa, "threads", (int)t->env->threads),
                        err);
}
