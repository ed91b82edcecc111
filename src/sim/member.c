// A worker process of a simulation: src/train/worker as it is, over the simulated network, with the job's files on the
// simulated disk.
#include "sim/world.h"

#include "base/mem.h"

#include <stdio.h>
#include <string.h>

#define PATIENCE_NS 400000000u
#define ORPHAN_NS   4000000000u
#define TICK_NS     10000000u

static double member_lr(void *arg, uint64_t step)
{
    (void)arg;
    return sim_job_lr(step);
}

static void copy_params(const struct model *model, const uint8_t *units, const struct optim_state *to,
                        const struct optim_state *from)
{
    for (uint32_t p = 0; p < model->param_count; p++) {
        const struct model_param *param = &model->params[p];
        bool tied_head =
            model->config.tie && p == (uint32_t)model->units[0].param[MODEL_ROLE_EMBED] && units[model->unit_count - 1];
        if (!units[param->unit] && !tied_head)
            continue;
        memcpy(to->weights + param->offset, from->weights + param->offset, param->count * 4);
        memcpy(to->m + param->offset, from->m + param->offset, param->count * 4);
        memcpy(to->v + param->offset, from->v + param->offset, param->count * 4);
    }
}

static bg_status member_load(void *arg, enum message_source source, uint64_t checkpoint, const uint8_t *units,
                             const struct optim_state *state, struct bg_error *err)
{
    struct sim_process *p = arg;
    struct sim_world *w = p->world;
    const struct model *model = w->job->model;
    if (source == MESSAGE_SOURCE_CHECKPOINT) {
        const struct sim_checkpoint *file = checkpoint <= SIM_STEPS_MAX ? w->disk[checkpoint] : NULL;
        if (!file)
            return bg_fail(err, BG_NOT_FOUND, "checkpoint step-%llu is not there", (unsigned long long)checkpoint);
        copy_params(model, units, state, &file->state);
        return BG_OK;
    }
    size_t floats = (size_t)model->floats;
    struct optim_state first = {bg_alloc_array(floats, 4), bg_alloc_array(floats, 4), bg_alloc_array(floats, 4)};
    model_init_weights(model, &p->env.env, w->job->seed, first.weights);
    copy_params(model, units, state, &first);
    bg_free(first.weights);
    bg_free(first.m);
    bg_free(first.v);
    return BG_OK;
}

static float *copy_set(const float *from, size_t floats)
{
    float *to = bg_alloc_array(floats, sizeof *to);
    memcpy(to, from, floats * sizeof *to);
    return to;
}

static void write_checkpoint(struct sim_process *p, const struct message_task *task, uint64_t step,
                             const struct optim_state *state)
{
    struct sim_world *w = p->world;
    env_point(&p->env.env, "before-checkpoint");
    if (p->dying) // what a dying process writes aside is never renamed
        return;
    if (!w->disk[step]) {
        size_t floats = (size_t)w->job->model->floats;
        struct sim_checkpoint *file = bg_alloc(sizeof *file);
        *file = (struct sim_checkpoint){
            .step = step,
            .state = {copy_set(state->weights, floats), copy_set(state->m, floats), copy_set(state->v, floats)}};
        memcpy(file->losses, task->losses, (size_t)task->loss_count * sizeof *file->losses);
        file->evaluation_count = task->evaluation_count;
        memcpy(file->evaluations, task->evaluations, task->evaluation_count * sizeof *file->evaluations);
        w->disk[step] = file;
    }
    env_point(&p->env.env, "after-checkpoint");
}

static bg_status member_task(void *arg, const struct message_task *task, uint64_t step, const struct optim_state *state,
                             struct executor *ex, struct bg_error *err, struct message_task_done *done)
{
    (void)ex;
    struct sim_process *p = arg;
    struct sim_world *w = p->world;
    if (step > SIM_STEPS_MAX || task->loss_count != step || task->evaluation_count > SIM_STEPS_MAX + 1)
        return bg_fail(err, BG_INVALID, "task of step %llu speaks of %llu losses and %u evaluations",
                       (unsigned long long)step, (unsigned long long)task->loss_count, task->evaluation_count);
    uint64_t hash = sim_job_weights_hash(w->job, state->weights);
    for (uint32_t i = 0; i < w->job->model->param_count && !p->dying; i++)
        if (sim_job_param_hash(w->job, i, state) != w->job->hashes[step * w->job->model->param_count + i])
            sim_fail(w, "task of step %llu: pid %u holds %s with other bits than the reference",
                     (unsigned long long)step, p->pid, w->job->model->params[i].name);
    if (task->evaluate) {
        done->evaluated = true;
        done->evaluation = (struct message_evaluation){step, 100, sim_job_evaluate(hash), sim_job_evaluate(hash) / 2};
        done->perplexity = 2;
    }
    if (task->checkpoint) {
        write_checkpoint(p, task, step, state);
        done->checkpointed = true;
        snprintf(done->directory, sizeof done->directory, "step-%llu", (unsigned long long)step);
    }
    if (task->hash) {
        done->hashed = true;
        for (size_t i = 0; i < sizeof done->weights_sha256; i++)
            done->weights_sha256[i] = (uint8_t)(hash >> i % 8 * 8);
    }
    return BG_OK;
}

void sim_member_create(struct sim_world *w, const struct sim_birth *birth)
{
    struct sim_process *p = sim_process_create(w, NULL);
    const struct sim_job *job = w->job;
    p->parent = birth->parent;
    p->token = birth->token;
    p->role = birth->role;
    p->job = (struct worker_job){
        .arg = p,
        .model = job->model,
        .kern = job->kern,
        .view = &job->view,
        .seed = job->seed,
        .dropout = job->dropout,
        .optim = job->optim,
        .batch = job->batch,
        .length = job->length,
        .micro_batches = job->micro_batches,
        .scratch = "scratch",
        .lr = member_lr,
        .load = member_load,
        .task = member_task,
    };
    memcpy(p->job.signature, job->signature, sizeof p->job.signature);
    struct worker_options options = {
        .prove_every = 2,
        .job = &p->job,
        .comm = p->comm,
        .controller = "controller",
        .token = birth->token,
        .role = birth->role,
        .process = p->pid,
        .process_start = p->pid,
        .patience_ns = PATIENCE_NS,
        .orphan_ns = ORPHAN_NS,
    };
    struct bg_error err;
    if (worker_create(&p->env.env, &options, &err, &p->worker))
        sim_fail(w, "pid %u cannot start: %s", p->pid, err.text);
    void *lost = NULL;
    if (w->o->control == SIM_LEAK && p->comm->ops->reserve(p->comm, 64, &err, &lost))
        sim_fail(w, "%s", err.text);
    sim_note(w, p, "starts as a %s%s", p->role == MESSAGE_SHADOW ? "shadow" : "worker", p->token ? "" : " by hand");
    sim_mix(w, 3, p->pid, birth->token);
}

void sim_member_turn(struct sim_process *p)
{
    struct sim_world *w = p->world;
    struct bg_error err = {0};
    enum worker_state state = worker_turn(p->worker, &err);
    if (p->dying) { // whatever it did after that instant never happened
        uint64_t leaves = worker_view(p->worker).leaves - p->leaves; // but for what it may have made and sent before
        w->leaves += leaves;
        w->leaves_lost += leaves;
        return;
    }
    sim_mix(w, 4, p->pid, state);
    sim_check_turn(p);
    switch (state) {
    case WORKER_BUSY:
        p->wake_ns = w->now_ns;
        return;
    case WORKER_WAITS:
        p->wake_ns = w->now_ns + TICK_NS;
        return;
    case WORKER_LEFT:
        sim_process_end(w, p, "was told to leave");
        return;
    case WORKER_FAILED:
        if (!strstr(err.text, "no controller at") && !sim_left_behind(p))
            sim_fail(w, "pid %u failed: %s", p->pid, err.text);
        sim_process_end(w, p, err.text);
        return;
    }
}

void sim_member_end(struct sim_process *p)
{
    worker_destroy(p->worker);
    p->worker = NULL;
    if (!p->world->failed)
        sim_check_process_end(p);
}
