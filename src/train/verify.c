// Verification. A run claims hashes in result.json and in every checkpoint's manifest; each is recomputed here from
// what it covers: the curve from steps.jsonl, the weights from the tensors, the signature from job.yaml and the data.
// Replay is training itself with nothing written, compared step by step.
#include "train/verify.h"

#include "base/hash.h"
#include "base/json.h"
#include "base/mem.h"
#include "train/signature.h"
#include "train/steplog.h"
#include "train/material.h"

#include <string.h>

struct verifier {
    struct bg_env *env;
    const char *path;
    const struct verify_options *options;
    struct steplog log;
    char *signature; // text, of the newest checkpoint
    uint64_t *steps; // of the checkpoints, ascending
    char (*weights)[65];
    size_t count;
    struct verify_result result;
};

static bg_status file_exists(struct bg_env *env, const char *directory, const char *name, struct bg_error *err,
                             bool *exists)
{
    char *path = bg_format("%s/%s", directory, name);
    struct bg_file_info info = {0};
    bg_status status = env->ops->path_info(env, path, err, &info);
    *exists = info.exists;
    bg_free(path);
    return status;
}

// The weights' hash from the tensors themselves, not from the file's bytes.
static bg_status hash_weights(struct bg_env *env, const char *directory, struct bg_error *err, char hex[65])
{
    struct model_files files;
    bg_status status = model_open(env, directory, err, &files);
    if (status)
        return status;
    model_weights_sha256(files.model, files.weights, hex);
    model_close(&files);
    return BG_OK;
}

static bg_status verify_checkpoint(struct bg_env *env, const char *directory, struct bg_error *err, struct manifest *m)
{
    char hex[65];
    bg_status status = checkpoint_verify(env, directory, err, m);
    if (status)
        return status;
    double *losses = NULL;
    status = checkpoint_losses(env, directory, m, err, &losses);
    bg_free(losses);
    if (!status)
        status = hash_weights(env, directory, err, hex);
    if (!status && strcmp(hex, m->weights_sha256) != 0)
        status = bg_fail(err, BG_MISMATCH, "%s: its weights hash to %s, the manifest says %s", directory, hex,
                         m->weights_sha256);
    if (!status) {
        bg_sha256_hex(m->signature, strlen(m->signature), hex);
        if (strcmp(hex, m->signature_sha256) != 0)
            status = bg_fail(err, BG_MISMATCH, "%s: its signature hashes to %s, the manifest says %s", directory, hex,
                             m->signature_sha256);
    }
    if (status)
        manifest_fini(m);
    return status;
}

// A checkpoint's curve is the beginning of the run's.
static bg_status compare_curve(struct verifier *v, const char *directory, const struct manifest *m,
                               struct bg_error *err)
{
    double *losses = NULL;
    bg_status status = checkpoint_losses(v->env, directory, m, err, &losses);
    if (status)
        return status;
    if (m->step > v->log.steps)
        status = bg_fail(err, BG_MISMATCH, "%s/steps.jsonl ends before step %llu, %s has %llu steps", v->path,
                         (unsigned long long)v->log.steps, directory, (unsigned long long)m->step);
    for (uint64_t s = 0; s < m->step && !status; s++) {
        if (memcmp(&losses[s], &v->log.losses[s], 8) != 0)
            status = bg_fail(err, BG_MISMATCH, "step %llu: steps.jsonl has the loss %.17g, %s has %.17g",
                             (unsigned long long)s, v->log.losses[s], directory, losses[s]);
    }
    bg_free(losses);
    return status;
}

static bg_status verify_one(struct verifier *v, size_t index, struct bg_error *err)
{
    char *path = checkpoint_path(v->path, v->steps[index]);
    struct manifest m;
    bg_status status = verify_checkpoint(v->env, path, err, &m);
    if (!status) {
        status = m.step == v->steps[index]
                     ? compare_curve(v, path, &m, err)
                     : bg_fail(err, BG_MISMATCH, "%s: holds step %llu", path, (unsigned long long)m.step);
        memcpy(v->weights[index], m.weights_sha256, 65);
        memcpy(v->result.signature_sha256, m.signature_sha256, 65);
        memcpy(v->result.weights_sha256, m.weights_sha256, 65);
        bg_free(v->signature);
        v->signature = m.signature;
        m.signature = NULL;
        manifest_fini(&m);
    }
    bg_free(path);
    return status;
}

static bg_status verify_checkpoints(struct verifier *v, struct bg_error *err)
{
    bg_status status = checkpoint_list(v->env, v->path, err, &v->steps, &v->count);
    if (status)
        return status;
    v->weights = bg_alloc_array(v->count, sizeof *v->weights);
    for (size_t i = 0; i < v->count && !status; i++)
        status = verify_one(v, i, err);
    v->result.checkpoints = (uint32_t)v->count;
    return status;
}

static bg_status compare_hash(const json_t *root, const char *name, const char *key, const char *found,
                              struct bg_error *err)
{
    const char *claimed = NULL;
    bg_status status = bg_json_string(root, name, key, err, &claimed);
    if (!status && strcmp(claimed, found) != 0)
        status =
            bg_fail(err, BG_MISMATCH, "%s: %s is %.64s, recomputed %s", name, key, claimed, found[0] ? found : "none");
    return status;
}

static bg_status verify_result_file(struct verifier *v, struct bg_error *err)
{
    bg_status status = file_exists(v->env, v->path, "result.json", err, &v->result.finished);
    if (status || !v->result.finished)
        return status;
    char *name = bg_format("%s/result.json", v->path);
    json_t *root = NULL;
    int64_t steps = 0;
    status = bg_json_load(v->env, name, err, &root);
    if (!status)
        status = bg_json_integer(root, name, "steps", 0, INT64_MAX, err, &steps);
    if (!status && ((uint64_t)steps != v->log.steps || v->log.torn))
        status = bg_fail(err, BG_MISMATCH, "%s: %lld steps, steps.jsonl has %llu%s", name, (long long)steps,
                         (unsigned long long)v->log.steps, v->log.torn ? " and a torn line" : "");
    if (!status)
        status = compare_hash(root, name, "curve_sha256", v->result.curve_sha256, err);
    if (!status && (!v->count || v->steps[v->count - 1] != v->log.steps))
        status = bg_fail(err, BG_MISMATCH, "%s: the checkpoint of its last step (%lld) is not there", name,
                         (long long)steps);
    if (!status)
        status = compare_hash(root, name, "weights_sha256", v->result.weights_sha256, err);
    if (!status)
        status = compare_hash(root, name, "signature_sha256", v->result.signature_sha256, err);
    json_decref(root);
    bg_free(name);
    return status;
}

// The job as the run directory holds it, whatever the directory was called when it was made.
static bg_status load_job(struct verifier *v, struct bg_error *err, struct job *job)
{
    char *path = bg_format("%s/job.yaml", v->path);
    bg_status status = job_load(v->env, path, NULL, 0, err, job);
    bg_free(path);
    if (!status) {
        bg_free(job->run.dir);
        job->run.dir = bg_strdup(v->path);
    }
    return status;
}

// Where the data or model.from is no longer at hand, the stored text stands (and was hashed).
static bg_status verify_signature(struct verifier *v, const struct job *job, struct bg_error *err)
{
    struct material m;
    struct bg_error unavailable;
    bg_status status = BG_OK;
    if (material_open(&m, v->env, job, NULL, NULL, &unavailable) == BG_OK) {
        v->result.signature_recomputed = true;
        char *difference = v->signature ? signature_difference(v->signature, m.signature) : NULL;
        if (difference)
            status = bg_fail(err, BG_MISMATCH, "%s: the job and data there are not those of the checkpoints: %s",
                             v->path, difference);
        bg_free(difference);
        memcpy(v->result.signature_sha256, m.signature_sha256, 65);
    }
    material_close(&m);
    return status;
}

// ---- Replay ----

struct replay {
    struct verifier *v;
    bool differs;
    uint64_t step;
    double loss;
};

static void on_step(void *arg, const struct trainer_step *step)
{
    struct replay *r = arg;
    const struct trainer_observer *outer = r->v->options->observer;
    if (!r->differs && memcmp(&step->loss, &r->v->log.losses[step->step], 8) != 0) {
        r->differs = true;
        r->step = step->step;
        r->loss = step->loss;
    }
    if (outer && outer->step)
        outer->step(outer->arg, step);
}

static bool on_stop(void *arg)
{
    const struct replay *r = arg;
    const struct trainer_observer *outer = r->v->options->observer;
    return r->differs || (outer && outer->stop && outer->stop(outer->arg));
}

static void on_started(void *arg, const struct trainer_info *info)
{
    const struct trainer_observer *outer = ((struct replay *)arg)->v->options->observer;
    if (outer && outer->started)
        outer->started(outer->arg, info);
}

static bg_status compare_replay(struct replay *r, const struct trainer_result *t, uint64_t wanted, struct bg_error *err)
{
    struct verifier *v = r->v;
    if (r->differs)
        return bg_fail(err, BG_MISMATCH, "step %llu: the replay gives the loss %.17g, steps.jsonl has %.17g",
                       (unsigned long long)r->step, r->loss, v->log.losses[r->step]);
    if (t->steps < wanted)
        return bg_fail(err, BG_STOPPED, "the replay was stopped after %llu of %llu steps, all equal",
                       (unsigned long long)t->steps, (unsigned long long)wanted);
    v->result.replayed = t->steps;
    for (size_t i = 0; i < v->count; i++) {
        if (v->steps[i] != t->steps)
            continue;
        if (strcmp(v->weights[i], t->weights_sha256) != 0)
            return bg_fail(err, BG_MISMATCH, "after step %llu: the replay's weights hash to %s, the checkpoint's to %s",
                           (unsigned long long)t->steps, t->weights_sha256, v->weights[i]);
        v->result.weights_replayed = true;
    }
    return BG_OK;
}

static bg_status replay(struct verifier *v, const struct job *job, struct bg_error *err)
{
    uint64_t wanted = v->options->replay < v->log.steps ? v->options->replay : v->log.steps;
    if (wanted == 0)
        return BG_OK;
    struct replay r = {.v = v};
    struct trainer_observer observer = {.arg = &r, .step = on_step, .stop = on_stop, .started = on_started};
    struct trainer_options options = {.job = job, .dry = true, .stop_after = wanted, .observer = &observer};
    struct trainer_result result;
    bg_status status = trainer_run(v->env, &options, err, &result);
    if (status && status != BG_STOPPED) {
        bg_fail_prefix(err, "replay");
        return status;
    }
    return compare_replay(&r, &result, wanted, err);
}

static bg_status verify_directory(struct verifier *v, struct bg_error *err)
{
    bg_status status = steplog_read(v->env, v->path, false, err, &v->log);
    if (status)
        return status;
    v->result.steps = v->log.steps;
    curve_sha256(v->log.losses, v->log.steps, v->result.curve_sha256);
    status = verify_checkpoints(v, err);
    if (!status)
        status = verify_result_file(v, err);
    struct job job;
    if (!status)
        status = load_job(v, err, &job);
    if (status)
        return status;
    status = verify_signature(v, &job, err);
    if (!status)
        status = replay(v, &job, err);
    job_fini(&job);
    return status;
}

static bg_status verify_single(struct verifier *v, struct bg_error *err)
{
    struct manifest m;
    bg_status status = verify_checkpoint(v->env, v->path, err, &m);
    if (status)
        return status;
    if (v->options->replay)
        status = bg_fail(err, BG_INVALID, "%s: a checkpoint alone cannot be replayed; name its run directory", v->path);
    v->result.steps = m.step;
    v->result.checkpoints = 1;
    memcpy(v->result.curve_sha256, m.curve_sha256, 65);
    memcpy(v->result.weights_sha256, m.weights_sha256, 65);
    memcpy(v->result.signature_sha256, m.signature_sha256, 65);
    manifest_fini(&m);
    return status;
}

bg_status verify_run(struct bg_env *env, const char *path, const struct verify_options *options, struct bg_error *err,
                     struct verify_result *result)
{
    bool checkpoint = false, run = false;
    bg_status status = file_exists(env, path, "manifest.json", err, &checkpoint);
    if (!status)
        status = file_exists(env, path, "job.yaml", err, &run);
    if (status)
        return status;
    if (!checkpoint && !run)
        return bg_fail(err, BG_NOT_FOUND, "%s: neither a run directory (job.yaml) nor a checkpoint (manifest.json)",
                       path);
    struct verifier v = {.env = env, .path = path, .options = options};
    status = checkpoint ? verify_single(&v, err) : verify_directory(&v, err);
    steplog_fini(&v.log);
    bg_free(v.signature);
    bg_free(v.steps);
    bg_free(v.weights);
    if (!status)
        *result = v.result;
    return status;
}
