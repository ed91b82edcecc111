// Opening and closing training in one process: the run's books, state, memory layout; and what is told before the first
// step.
#include "train/trainer_int.h"

#include "base/mem.h"
#include "plan/plan.h"

enum { PLAN_TOLD_MAX = 4096 };

static bg_status make_executor(struct trainer *t, struct bg_error *err)
{
    const struct job *job = t->run.job;
    struct material *m = &t->run.material;
    struct layout_options layout = {.unit_first = 0,
                                    .unit_end = m->model->unit_count,
                                    .batch = job->train.micro_batch,
                                    .length = m->length,
                                    .micro_batches = job->train.micro_batches,
                                    .group = job->run.group,
                                    .order = job->run.order};
    bg_status status = layout_create(m->model, m->kern, t->run.env->threads, &layout, err, &t->layout);
    if (status)
        return status;
    struct step_options step = {.model = m->model,
                                .kern = m->kern,
                                .layout = &t->layout,
                                .view = &m->corpus->train,
                                .seed = job->train.seed,
                                .dropout = job->train.dropout,
                                .optim = job_optim(job)};
    t->memory_bytes += t->layout.bytes;
    return step_create(t->run.env, &step, &t->state, err, &t->executor);
}

static bg_status tell_started(struct trainer *t, struct bg_error *err)
{
    struct trainer_info info = run_info(&t->run, t->commit.steps);
    info.memory_bytes = t->memory_bytes;
    info.group = t->layout.group;
    const struct trainer_observer *observer = t->run.options->observer;
    double rate = observer && observer->started ? step_probe(t->executor) : 0;
    info.expected_seconds = rate > 0 ? info.flops_per_step / rate * (double)(info.steps - info.first_step) : 0;
    return run_tell_started(&t->run, &info, err);
}

static bg_status open_state(struct trainer *t, struct bg_error *err)
{
    struct bg_env *env = t->run.env;
    struct run *run = &t->run;
    t->state_bytes = (size_t)run->material.model->floats * sizeof(float);
    t->memory_bytes = 3 * t->state_bytes + run->losses_bytes;
    float **sets[] = {&t->state.weights, &t->state.m, &t->state.v};
    bg_status status = BG_OK;
    for (size_t i = 0; i < 3 && !status; i++) {
        void *memory = NULL;
        status = env->ops->reserve(env, t->state_bytes, err, &memory);
        *sets[i] = memory;
    }
    if (!status && run->options->resume)
        status = run_restore(run, &t->state, err);
    if (!status && !run->resumed)
        status = material_first_weights(&run->material, NULL, t->state.weights, err);
    material_close_start(&run->material);
    step_local_init(&t->commit, run->losses, run->resumed ? run->written_step : 0, run->job->train.steps);
    return status;
}

// The plan of one process: one stage of all units, one seat. Of very many items only their number is told.
static bg_status open_files(struct trainer *t, struct bg_error *err)
{
    uint32_t units = t->run.material.model->unit_count, group = 1;
    while (group < t->layout.group)
        group *= 2;
    char *text = bg_format("# %zu groups of %u micro-batches\n", t->layout.groups, t->layout.group);
    bg_status status = BG_OK;
    if (t->layout.groups <= PLAN_TOLD_MAX) {
        double *costs = bg_alloc_array(units, sizeof *costs);
        struct plan_options options = {.costs = costs,
                                       .units = units,
                                       .micro_batches = t->layout.micro_batches,
                                       .group = group,
                                       .replicas = (const uint32_t[]){1},
                                       .stages = 1,
                                       .schedule = PLAN_1F1B,
                                       .chunks = 1};
        struct plan plan;
        status = plan_build(&options, err, &plan);
        bg_free(costs);
        bg_free(text);
        text = status ? NULL : plan_format(&plan);
        if (!status)
            plan_fini(&plan);
    }
    if (!status)
        status = run_open_files(&t->run, t->commit.steps, text, err);
    bg_free(text);
    return status;
}

bg_status trainer_open(struct trainer *t, struct bg_env *env, const struct trainer_options *options,
                       struct bg_error *err, bool *finished)
{
    bg_status status = run_open(&t->run, env, options, err);
    if (!status)
        status = open_state(t, err);
    if (!status && !options->dry)
        status = run_is_finished(&t->run, t->commit.steps, err, finished);
    if (status || *finished)
        return status;
    status = make_executor(t, err);
    if (!status)
        status = tell_started(t, err);
    if (!status && !options->dry)
        status = open_files(t, err);
    return status;
}

void trainer_close(struct trainer *t)
{
    struct bg_env *env = t->run.env;
    step_destroy(t->executor);
    layout_fini(&t->layout);
    float *const sets[] = {t->state.weights, t->state.m, t->state.v};
    for (size_t i = 0; i < 3; i++) {
        if (sets[i])
            env->ops->release(env, sets[i], t->state_bytes);
    }
    run_close(&t->run);
}
