// Tiny jobs and their reference trajectories.
#include "sim/job.h"

#include "base/hash.h"
#include "base/mem.h"
#include "sim/env.h"

#include <string.h>

static const struct {
    enum model_family family;
    uint32_t layers, dim, heads, kv_heads, ffn, length, vocab, batch;
    bool tie;
    double dropout;
} models[SIM_MODELS] = {
    {MODEL_LLAMA, 2, 8, 2, 1, 12, 4, 17, 1, true, 0},    {MODEL_LLAMA, 4, 8, 2, 2, 10, 5, 20, 1, false, 0},
    {MODEL_GPT2, 2, 8, 2, 2, 32, 4, 19, 1, true, 0.1},   {MODEL_GPT2, 3, 12, 2, 2, 48, 6, 24, 1, false, 0},
    {MODEL_LLAMA, 3, 16, 2, 1, 20, 8, 31, 2, true, 0.2}, {MODEL_LLAMA, 6, 8, 1, 1, 9, 4, 13, 1, true, 0},
    {MODEL_LLAMA, 3, 8, 2, 1, 8, 130, 17, 2, true, 0.1}, // three slices
    {MODEL_LLAMA, 2, 8, 2, 1, 12, 4, 8300, 1, true, 0},  // a token table of two pieces
};

double sim_job_lr(uint64_t step)
{
    return 0.02 / (double)(1 + step);
}

uint64_t sim_job_param_hash(const struct sim_job *job, uint32_t param, const struct optim_state *state)
{
    const struct model_param *p = &job->model->params[param];
    uint64_t parts[3] = {bg_xxh64(state->weights + p->offset, p->count * 4),
                         bg_xxh64(state->m + p->offset, p->count * 4), bg_xxh64(state->v + p->offset, p->count * 4)};
    return bg_xxh64(parts, sizeof parts);
}

uint64_t sim_job_weights_hash(const struct sim_job *job, const float *weights)
{
    uint64_t hash = 0;
    for (uint32_t p = 0; p < job->model->param_count; p++) {
        uint64_t parts[2] = {hash, bg_xxh64(weights + job->model->params[p].offset, job->model->params[p].count * 4)};
        hash = bg_xxh64(parts, sizeof parts);
    }
    return hash;
}

double sim_job_evaluate(uint64_t weights_hash)
{
    return 1.0 + (double)(weights_hash >> 16) * 0x1p-48;
}

static void record_version(struct sim_job *job, uint64_t version, const struct optim_state *state)
{
    for (uint32_t p = 0; p < job->model->param_count; p++)
        job->hashes[version * job->model->param_count + p] = sim_job_param_hash(job, p, state);
    job->weights[version] = sim_job_weights_hash(job, state->weights);
}

static bg_status run_reference(struct sim_job *job, struct bg_env *env, struct bg_error *err)
{
    struct layout layout;
    struct layout_options options = {.unit_end = job->model->unit_count,
                                     .batch = job->batch,
                                     .length = job->length,
                                     .micro_batches = job->micro_batches,
                                     .group = 1};
    bg_status status = layout_create(job->model, job->kern, env->threads, &options, err, &layout);
    if (status)
        return status;
    size_t floats = (size_t)job->model->floats;
    struct optim_state state = {bg_alloc_array(floats, 4), bg_alloc_array(floats, 4), bg_alloc_array(floats, 4)};
    model_init_weights(job->model, env, job->seed, state.weights);
    job->hashes = bg_alloc_array((SIM_STEPS_MAX + 1) * (size_t)job->model->param_count, sizeof *job->hashes);
    record_version(job, 0, &state);
    struct step_options step = {.model = job->model,
                                .kern = job->kern,
                                .layout = &layout,
                                .view = &job->view,
                                .seed = job->seed,
                                .dropout = job->dropout,
                                .optim = job->optim};
    struct step_executor *ex = NULL;
    status = step_create(env, &step, &state, err, &ex);
    double losses[SIM_STEPS_MAX];
    struct step_local local;
    step_local_init(&local, losses, 0, SIM_STEPS_MAX);
    for (uint64_t s = 0; s < SIM_STEPS_MAX && !status; s++) {
        status = step_run(ex, &local.base, s, sim_job_lr(s), err, &job->records[s]);
        if (!status)
            record_version(job, s + 1, &state);
    }
    step_destroy(ex);
    bg_free(state.weights);
    bg_free(state.m);
    bg_free(state.v);
    layout_fini(&layout);
    return status;
}

bg_status sim_job_create(unsigned isa, uint32_t index, struct bg_error *err, struct sim_job **out)
{
    uint32_t m = index % SIM_MODELS;
    struct model_config config = {
        .family = models[m].family,
        .layers = models[m].layers,
        .dim = models[m].dim,
        .heads = models[m].heads,
        .kv_heads = models[m].kv_heads,
        .head_dim = models[m].dim / models[m].heads,
        .ffn = models[m].ffn,
        .context = models[m].length,
        .vocab = models[m].vocab,
        .tie = models[m].tie,
        .rope_theta = 10000,
        .norm_eps = 1e-5,
        .bos = -1,
        .eos = -1,
    };
    struct sim_job *job = bg_alloc(sizeof *job);
    job->kern = kern_select(isa);
    job->batch = models[m].batch;
    job->length = models[m].length;
    job->micro_batches = 3 + index / SIM_MODELS;
    job->seed = 100 + index;
    job->dropout = models[m].dropout;
    job->optim = (struct optim_options){.beta1 = 0.9, .beta2 = 0.95, .eps = 1e-8, .weight_decay = 0.1, .clip = 1.0};
    memset(job->signature, (int)(index + 1), sizeof job->signature);
    memcpy(&job->id, job->signature, sizeof job->id);
    struct sim_random random = sim_random_make(index, 9);
    for (size_t i = 0; i < SIM_TOKENS; i++)
        job->tokens[i] = (uint16_t)sim_random_below(&random, config.vocab);
    job->view = (struct token_view){job->tokens, SIM_TOKENS, 2};
    uint64_t now_ns = 0;
    struct sim_env env;
    sim_env_init(&env, isa, &now_ns, random);
    bg_status status = model_create(&config, err, &job->model);
    if (!status)
        status = run_reference(job, &env.env, err);
    sim_env_fini(&env);
    if (status) {
        sim_job_destroy(job);
        return status;
    }
    *out = job;
    return BG_OK;
}

void sim_job_destroy(struct sim_job *job)
{
    if (!job)
        return;
    model_destroy(job->model);
    bg_free(job->hashes);
    bg_free(job);
}
