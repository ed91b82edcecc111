// What a worker loads, evaluates and writes: the same functions that one process uses, on the units it holds.
#include "train/worker_job.h"

#include "base/hash.h"
#include "base/mem.h"
#include "train/material.h"

#include <stdio.h>
#include <string.h>

struct worker_source {
    struct worker_job job; // its arg is this
    struct material material;
};

static double lr(void *arg, uint64_t step)
{
    const struct worker_source *s = arg;
    return job_lr(s->material.job, step);
}

static bg_status load_first(struct worker_source *s, const uint8_t *units, const struct optim_state *state,
                            struct bg_error *err)
{
    const struct model *model = s->material.model;
    for (uint32_t p = 0; p < model->param_count; p++) {
        const struct model_param *param = &model->params[p];
        if (!model_holds_param(model, units, p))
            continue;
        memset(state->m + param->offset, 0, param->count * sizeof *state->m);
        memset(state->v + param->offset, 0, param->count * sizeof *state->v);
    }
    return material_first_weights(&s->material, units, state->weights, err);
}

static bg_status load(void *arg, enum message_source source, uint64_t checkpoint, const uint8_t *units,
                      const struct optim_state *state, struct bg_error *err)
{
    struct worker_source *s = arg;
    if (source == MESSAGE_SOURCE_INIT)
        return load_first(s, units, state, err);
    char *path = checkpoint_path(s->material.job->run.dir, checkpoint);
    struct manifest manifest;
    bg_status status = checkpoint_verify(s->material.env, path, err, &manifest);
    if (!status && strcmp(manifest.signature_sha256, s->material.signature_sha256) != 0)
        status = bg_fail(err, BG_MISMATCH, "%s: is of another job", path);
    else if (!status)
        status = checkpoint_load(s->material.env, path, s->material.model, units, state, err);
    if (!status || status == BG_MISMATCH)
        manifest_fini(&manifest);
    bg_free(path);
    return status;
}

// ---- The scribe ----

static bg_status evaluate(struct worker_source *s, uint64_t step, const struct optim_state *state, struct executor *ex,
                          struct bg_error *err, struct message_task_done *done)
{
    struct evaluate_memory memory = {.lane_scratch = executor_scratch(ex)};
    memory.memory = executor_evaluate_memory(ex, &memory.sequences, err);
    if (!memory.memory)
        return err->status;
    struct evaluate_result r;
    bg_status status = material_evaluate(&s->material, state->weights, &memory, err, &r);
    if (status)
        return status;
    done->evaluated = true;
    done->evaluation = (struct message_evaluation){step, r.tokens, r.loss, r.bits_per_byte};
    done->perplexity = r.perplexity;
    done->evaluate_seconds = r.seconds;
    return BG_OK;
}

// The evaluations that the controller knows, and the one of this task.
static bg_status checkpoint(struct worker_source *s, const struct message_task *task, uint64_t step,
                            const struct optim_state *state, struct bg_error *err, struct message_task_done *done)
{
    uint64_t start = env_now_ns(s->material.env);
    struct evaluation_point *points = bg_alloc_array(task->evaluation_count + 1, sizeof *points);
    size_t count = task->evaluation_count;
    for (size_t i = 0; i < count; i++)
        points[i] = (struct evaluation_point){task->evaluations[i].step, task->evaluations[i].tokens,
                                              task->evaluations[i].loss, task->evaluations[i].bits_per_byte};
    if (done->evaluated)
        points[count++] = (struct evaluation_point){done->evaluation.step, done->evaluation.tokens,
                                                    done->evaluation.loss, done->evaluation.bits_per_byte};
    struct material_progress progress = {.step = step,
                                         .seconds = task->seconds,
                                         .losses = task->losses,
                                         .evaluations = points,
                                         .evaluation_count = count};
    char *path = NULL;
    bg_status status = task->loss_count == step
                           ? material_checkpoint(&s->material, state, &progress, err, &path)
                           : bg_fail(err, BG_MISMATCH, "a checkpoint of step %llu was asked for with %llu losses",
                                     (unsigned long long)step, (unsigned long long)task->loss_count);
    if (!status) {
        done->checkpointed = true;
        done->checkpoint_seconds = 1e-9 * (double)(env_now_ns(s->material.env) - start);
        snprintf(done->directory, sizeof done->directory, "%s", path);
    }
    bg_free(path);
    bg_free(points);
    return status;
}

static bg_status run_task(void *arg, const struct message_task *task, uint64_t step, const struct optim_state *state,
                          struct executor *ex, struct bg_error *err, struct message_task_done *done)
{
    struct worker_source *s = arg;
    bg_status status = BG_OK;
    if (task->evaluate)
        status = evaluate(s, step, state, ex, err, done);
    if (!status && task->checkpoint)
        status = checkpoint(s, task, step, state, err, done);
    if (!status && task->hash) {
        char hex[65];
        model_weights_sha256(s->material.model, state->weights, hex);
        bg_sha256_to_bytes(hex, done->weights_sha256);
        done->hashed = true;
    }
    return status;
}

bg_status worker_source_open(struct bg_env *env, const struct job *job, struct bg_error *err,
                             struct worker_source **out)
{
    struct worker_source *s = bg_alloc(sizeof *s);
    *s = (struct worker_source){0};
    bg_status status = material_open(&s->material, env, job, NULL, NULL, err);
    if (status) {
        worker_source_close(s);
        return status;
    }
    const struct material *m = &s->material;
    material_close_start(&s->material); // read again if the initial weights are wanted
    s->job = (struct worker_job){.arg = s,
                                 .model = m->model,
                                 .kern = m->kern,
                                 .view = &m->corpus->train,
                                 .seed = job->train.seed,
                                 .dropout = job->train.dropout,
                                 .optim = job_optim(job),
                                 .batch = job->train.micro_batch,
                                 .length = m->length,
                                 .micro_batches = job->train.micro_batches,
                                 .lr = lr,
                                 .load = load,
                                 .task = run_task};
    bg_sha256_to_bytes(m->signature_sha256, s->job.signature);
    *out = s;
    return BG_OK;
}

void worker_source_close(struct worker_source *s)
{
    material_close(&s->material);
    bg_free(s);
}

const struct worker_job *worker_source_job(const struct worker_source *s)
{
    return &s->job;
}
