// What a worker loads, evaluates and writes: the same functions that one process uses, on the units it holds. The
// scribe's work is done by a thread on a copy of the state, so that it holds up neither steps nor recoveries.
#include "train/worker_job.h"

#include "base/hash.h"
#include "base/mem.h"
#include "train/material.h"

#include <stdio.h>
#include <string.h>

// One task at a time: made by the worker, worked on by the thread, taken back when it has ended.
struct scribe {
    struct material material; // the same, in the thread's environment
    uint64_t step;
    struct optim_state copy; // full sets, reserved with the first task
    size_t set_bytes;
    struct message_task task;
    double *losses; // (task.loss_count)
    struct message_evaluation *evaluations;
    struct message_task_done done;
    struct bg_thread *thread; // NULL: none
};

struct worker_source {
    struct worker_job job; // its arg is this
    struct material material;
    struct scribe scribe;
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

static bg_status evaluate(struct scribe *s, struct bg_error *err)
{
    struct evaluate_result r;
    const struct material *m = &s->material;
    struct evaluate_options options = {
        .tokens_max = m->job->train.eval_tokens, .length = m->length, .bytes = m->corpus->valid_bytes};
    bg_status status = evaluate_run(m->env, m->model, m->kern, s->copy.weights, &m->corpus->valid, &options, err, &r);
    if (status)
        return status;
    s->done.evaluated = true;
    s->done.evaluation = (struct message_evaluation){s->step, r.tokens, r.loss, r.bits_per_byte};
    s->done.perplexity = r.perplexity;
    s->done.evaluate_seconds = r.seconds;
    return BG_OK;
}

// The evaluations that the controller knows, and the one of this task.
static bg_status checkpoint(struct scribe *s, struct bg_error *err)
{
    const struct message_task *task = &s->task;
    struct message_task_done *done = &s->done;
    const uint64_t step = s->step;
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
                           ? material_checkpoint(&s->material, &s->copy, &progress, err, &path)
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

static void write_down(void *arg, struct bg_env *own)
{
    struct scribe *s = arg;
    struct bg_error err = {0};
    uint32_t fp = kern_fp_enter();
    s->material.env = own;
    bg_status status = s->task.evaluate ? evaluate(s, &err) : BG_OK;
    if (!status && s->task.checkpoint)
        status = checkpoint(s, &err);
    if (!status && s->task.hash) {
        char hex[65];
        model_weights_sha256(s->material.model, s->copy.weights, hex);
        bg_sha256_to_bytes(hex, s->done.weights_sha256);
        s->done.hashed = true;
    }
    s->done.status = status;
    if (status)
        snprintf(s->done.text, sizeof s->done.text, "%.*s", (int)sizeof s->done.text - 1, err.text);
    kern_fp_leave(fp);
}

static void end_thread(struct worker_source *s)
{
    struct scribe *scribe = &s->scribe;
    if (scribe->thread)
        s->material.env->ops->thread_join(s->material.env, scribe->thread);
    scribe->thread = NULL;
    bg_free(scribe->losses);
    bg_free(scribe->evaluations);
    scribe->losses = NULL;
    scribe->evaluations = NULL;
}

static bg_status copy_state(struct worker_source *s, const struct message_task *task, const struct optim_state *state,
                            struct bg_error *err)
{
    struct bg_env *env = s->material.env;
    struct scribe *scribe = &s->scribe;
    scribe->set_bytes = s->material.model->floats * sizeof(float);
    float **const to[] = {&scribe->copy.weights, &scribe->copy.m, &scribe->copy.v};
    const float *const from[] = {state->weights, state->m, state->v};
    for (int i = 0; i < (task->checkpoint ? 3 : 1); i++) {
        void *memory = *to[i];
        bg_status status = memory ? BG_OK : env->ops->reserve(env, scribe->set_bytes, err, &memory);
        if (status)
            return bg_fail_prefix(err, "a copy of the state for evaluations and checkpoints");
        *to[i] = memory;
        memcpy(memory, from[i], scribe->set_bytes);
    }
    return BG_OK;
}

static bg_status begin_task(void *arg, const struct message_task *task, uint64_t step, const struct optim_state *state,
                            struct executor *ex, struct bg_error *err, struct message_task_done *done)
{
    struct worker_source *s = arg;
    struct scribe *scribe = &s->scribe;
    (void)ex;
    (void)done;
    end_thread(s); // of a task that nobody asks for any more
    bg_status status = copy_state(s, task, state, err);
    if (status)
        return status;
    scribe->material = s->material;
    scribe->step = step;
    scribe->task = *task;
    scribe->losses = bg_alloc_array(task->loss_count, sizeof *scribe->losses);
    memcpy(scribe->losses, task->losses, task->loss_count * sizeof *scribe->losses);
    scribe->evaluations = bg_alloc_array(task->evaluation_count, sizeof *scribe->evaluations);
    memcpy(scribe->evaluations, task->evaluations, task->evaluation_count * sizeof *scribe->evaluations);
    scribe->task.losses = scribe->losses;
    scribe->task.evaluations = scribe->evaluations;
    scribe->done = (struct message_task_done){0};
    return s->material.env->ops->thread_start(s->material.env, write_down, scribe, err, &scribe->thread);
}

static bool poll_task(void *arg, struct message_task_done *done)
{
    struct worker_source *s = arg;
    if (s->scribe.thread && !s->material.env->ops->thread_ended(s->material.env, s->scribe.thread))
        return false;
    end_thread(s);
    *done = s->scribe.done;
    return true;
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
                                 .scratch = job->run.scratch ? job->run.scratch : job->run.dir,
                                 .lr = lr,
                                 .load = load,
                                 .task = begin_task,
                                 .task_poll = poll_task};
    bg_sha256_to_bytes(m->signature_sha256, s->job.signature);
    *out = s;
    return BG_OK;
}

void worker_source_close(struct worker_source *s)
{
    struct bg_env *env = s->material.env;
    end_thread(s);
    float *const copies[] = {s->scribe.copy.weights, s->scribe.copy.m, s->scribe.copy.v};
    for (size_t i = 0; i < sizeof copies / sizeof *copies; i++)
        if (copies[i])
            env->ops->release(env, copies[i], s->scribe.set_bytes);
    material_close(&s->material);
    bg_free(s);
}

const struct worker_job *worker_source_job(const struct worker_source *s)
{
    return &s->job;
}
