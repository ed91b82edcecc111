// Opening and closing a training run: directory, model and data, resumed state, memory layout, logs; and what is told
// before the first step.
#include "train/trainer_int.h"

#include "base/mem.h"

#include <string.h>

static bg_status make_executor(struct trainer *t, struct bg_error *err)
{
    const struct job *job = t->job;
    struct layout_options layout = {.unit_first = 0,
                                    .unit_end = t->model->unit_count,
                                    .batch = job->train.micro_batch,
                                    .length = t->length,
                                    .micro_batches = job->train.micro_batches,
                                    .group = job->run.group,
                                    .order = job->run.order};
    bg_status status = layout_create(t->model, t->kern, t->env->threads, &layout, err, &t->layout);
    if (status)
        return status;
    struct step_options step = {.model = t->model,
                                .kern = t->kern,
                                .layout = &t->layout,
                                .view = &t->corpus->train,
                                .seed = job->train.seed,
                                .dropout = job->train.dropout,
                                .optim = {.beta1 = job->train.beta1,
                                          .beta2 = job->train.beta2,
                                          .eps = job->train.eps,
                                          .weight_decay = job->train.weight_decay,
                                          .clip = job->train.clip}};
    t->memory_bytes += t->layout.bytes;
    return step_create(t->env, &step, &t->state, err, &t->executor);
}

// A run that was finished and has nothing to add keeps its files as they are.
static bg_status is_finished(struct trainer *t, struct bg_error *err, bool *finished)
{
    char *path = bg_format("%s/result.json", t->job->run.dir);
    struct bg_file_info info = {0};
    bg_status status = t->env->ops->path_info(t->env, path, err, &info);
    bg_free(path);
    *finished = info.exists && t->resumed && t->commit.steps == t->job->train.steps;
    return status;
}

static bg_status check_disk(struct trainer *t, struct trainer_info *info, struct bg_error *err)
{
    info->checkpoint_bytes = checkpoint_bytes(t->model, t->job->train.steps);
    // The oldest goes only when the newest is safe; the log takes some 200 bytes a step.
    info->disk_bytes = info->checkpoint_bytes * (t->job->train.keep + 1) + t->job->train.steps * 224;
    if (t->options->dry)
        return BG_OK;
    bg_status status = t->env->ops->disk_free(t->env, t->job->run.dir, err, &info->disk_free);
    if (status)
        return status;
    if (info->disk_free < info->checkpoint_bytes)
        return bg_fail(
            err, BG_FULL,
            "run.dir: a checkpoint takes %.1f MB, the disk of %s has %.1f MB left; make room or name another disk",
            (double)info->checkpoint_bytes * 1e-6, t->job->run.dir, (double)info->disk_free * 1e-6);
    if (!t->resumed && info->disk_free < info->disk_bytes)
        trainer_warn(t, "train.keep: %u checkpoints may take %.1f MB, the disk of %s has %.1f MB left",
                     t->job->train.keep, (double)info->disk_bytes * 1e-6, t->job->run.dir,
                     (double)info->disk_free * 1e-6);
    return BG_OK;
}

static bg_status tell_started(struct trainer *t, struct bg_error *err)
{
    const struct job *job = t->job;
    uint64_t sequences = (uint64_t)job->train.micro_batch * job->train.micro_batches;
    struct trainer_info info = {.config = &t->model->config,
                                .isa = t->kern->isa,
                                .threads = t->env->threads,
                                .parameters = t->model->elements,
                                .train_tokens = t->corpus->train.count,
                                .valid_tokens = t->corpus->valid.count,
                                .samples = data_samples(&t->corpus->train, t->length),
                                .tokens_per_step = t->tokens_per_step,
                                .flops_per_step = layout_flops(t->model, sequences, t->length),
                                .memory_bytes = t->memory_bytes,
                                .first_step = t->commit.steps,
                                .steps = job->train.steps,
                                .group = t->layout.group,
                                .signature_sha256 = t->signature_sha256};
    bg_status status = check_disk(t, &info, err);
    if (status)
        return status;
    const struct trainer_observer *observer = t->options->observer;
    if (!observer || !observer->started)
        return BG_OK;
    double rate = step_probe(t->executor);
    info.expected_seconds = rate > 0 ? info.flops_per_step / rate * (double)(info.steps - info.first_step) : 0;
    observer->started(observer->arg, &info);
    return BG_OK;
}

static bg_status open_state(struct trainer *t, struct bg_error *err)
{
    step_local_init(&t->commit, t->losses, 0, t->job->train.steps);
    if (t->options->resume) {
        bg_status status = trainer_restore(t, err);
        if (status)
            return status;
    }
    if (!t->resumed && !t->job->model.from)
        model_init_weights(t->model, t->env, t->job->train.seed, t->state.weights);
    return BG_OK;
}

bg_status trainer_open(struct trainer *t, struct bg_env *env, const struct trainer_options *options,
                       struct bg_error *err)
{
    *t = (struct trainer){.env = env, .options = options, .job = options->job};
    if (t->job->run.workers > 1)
        return bg_fail(err, BG_UNSUPPORTED, "run.workers: %u; this build trains in one process (1)",
                       t->job->run.workers);
    bool finished = false;
    bg_status status = options->dry ? BG_OK : trainer_check_directory(t, err);
    if (!status)
        status = trainer_open_model(t, err);
    if (!status)
        status = open_state(t, err);
    if (!status && !options->dry)
        status = is_finished(t, err, &finished);
    if (status || finished)
        return status;
    status = make_executor(t, err);
    if (!status)
        status = tell_started(t, err);
    if (!status && !options->dry)
        status = trainer_open_files(t, err);
    if (!status)
        t->files_made = t->directory_made = false; // from here on the directory holds a run
    return status;
}

void trainer_close(struct trainer *t)
{
    struct bg_env *env = t->env;
    struct bg_error err;
    if (t->logging && runlog_close(&t->log, &err))
        trainer_warn(t, "%s", err.text);
    step_destroy(t->executor);
    layout_fini(&t->layout);
    float *const sets[] = {t->state.weights, t->state.m, t->state.v};
    for (size_t i = 0; i < 3; i++) {
        if (sets[i])
            env->ops->release(env, sets[i], t->state_bytes);
    }
    if (t->losses)
        env->ops->release(env, t->losses, t->losses_bytes);
    if (t->model)
        model_destroy(t->model);
    if (t->corpus)
        corpus_close(env, t->corpus);
    if (t->tokenizer)
        tokenizer_destroy(t->tokenizer);
    bg_free(t->signature);
    bg_free(t->written_path);
    bg_free(t->evaluations);
    if (t->files_made || t->directory_made)
        trainer_undo_directory(t);
    if (t->lock && env->ops->file_close(env, t->lock, &err))
        trainer_warn(t, "%s", err.text);
}
