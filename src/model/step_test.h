// For the tests of this room: one whole step (forward and backward of all micro-batches, gradients at the root) in any
// grouping, split or fused, without the trainer.
#ifndef MODEL_STEP_TEST_H
#define MODEL_STEP_TEST_H

#include "base/assert.h"
#include "base/mem.h"
#include "model/model_int.h"
#include "os/live.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

struct step {
    const struct model *model;
    const struct kern *kern;
    struct bg_env *env;
    const float *weights;
    uint32_t batch, length, micro_batches, group; // group: micro-batches computed at once, a power of two
    bool split;                                   // backward in two halves
    uint32_t slices;                              // split, and position by position: blocks of 64 dealt out; 0: not
    bool ascending;                               // slices of the backward in the wrong order
    bool joined;                                  // siblings join by accumulating instead of by a fold
    float dropout;
    const int32_t *tokens, *targets; // (micro_batches * batch, length)
};

struct step_result {
    struct model_grad grad;
    double *losses; // (rows)
};

static inline void *test_memory(size_t bytes)
{
    void *memory = aligned_alloc(64, (bytes + 127) / 64 * 64);
    BG_ASSERT(memory);
    memset(memory, 0xff, (bytes + 127) / 64 * 64); // NaN: what is read must have been written
    return memory;
}

static inline float *test_floats(size_t count)
{
    return test_memory(count * sizeof(float));
}

static inline struct model_grad test_grad(const struct model *model, uint32_t capacity)
{
    struct model_grad g = {.dense = test_floats(model->floats), .embed = {.capacity = capacity}};
    g.embed.ids = test_memory(capacity * sizeof(int32_t));
    g.embed.rows = test_floats((size_t)capacity * model->config.dim);
    return g;
}

static inline void test_grad_free(struct model_grad *g)
{
    free(g->dense);
    free(g->embed.ids);
    free(g->embed.rows);
}

static inline struct bg_env *test_env(unsigned threads)
{
    struct os_options options = {.threads = threads};
    struct bg_error err;
    struct bg_env *env = NULL;
    if (os_env_create(&options, &err, &env) != BG_OK) {
        fprintf(stderr, "%s\n", err.text);
        abort();
    }
    return env;
}

// Forward and INPUT slice by slice: all units of one slice before the next slice begins.
static inline void step_slices(const struct step *s, struct model_run *run, float **x, float **stash, float *dx,
                               float *work, double *losses)
{
    const uint32_t units = s->model->unit_count, blocks = (s->length + 63) / 64, slices = s->slices;
    for (uint32_t n = 0; n < 2 * slices; n++) {
        bool forward = n < slices;
        uint32_t k = forward ? n : s->ascending ? n - slices : 2 * slices - 1 - n;
        uint32_t end = k + 1 < slices ? blocks * (k + 1) / slices * 64 : s->length;
        run->position = blocks * k / slices * 64;
        run->positions = end - run->position;
        for (uint32_t u = 0; forward && u < units; u++)
            model_forward(run, u, x[u], u ? x[u - 1] : NULL, stash[u], work, losses);
        for (uint32_t u = units; !forward && u-- > 0;)
            model_backward(run, u, MODEL_BACKWARD_INPUT, dx, u ? x[u - 1] : NULL, stash[u], work, NULL, false);
    }
    run->position = run->positions = 0;
}

static inline void step_group(const struct step *s, uint32_t first, uint32_t count, struct model_grad *grad,
                              bool accumulate, double *losses)
{
    const struct model *m = s->model;
    size_t rows = (size_t)count * s->batch * s->length, dim = m->config.dim, at = (size_t)first * s->batch * s->length;
    struct bg_philox_key key = bg_philox_key(7, BG_STREAM_DROPOUT);
    void *lanes[8];
    for (unsigned i = 0; i < s->env->threads; i++)
        lanes[i] = test_memory(model_scratch_bytes(m, s->kern, s->batch, s->length, count, true));
    struct model_run run = {
        .model = m,
        .kern = s->kern,
        .env = s->env,
        .weights = s->weights,
        .lane_scratch = lanes,
        .batch = s->batch,
        .length = s->length,
        .first = first,
        .count = count,
        .tokens = s->tokens + at,
        .targets = s->targets + at,
        .loss_scale = (float)(1.0 / ((double)s->micro_batches * s->batch * s->length)),
        .step = 3,
        .dropout = s->dropout,
        .dropout_key = &key,
    };
    float *work = test_floats(model_work_floats(m, s->batch, s->length, count, true));
    float **x = calloc(m->unit_count, sizeof *x), **stash = calloc(m->unit_count, sizeof *stash);
    for (uint32_t u = 0; u < m->unit_count; u++) {
        x[u] = test_floats(rows * dim);
        enum model_stash kind = s->slices ? MODEL_STASH_SLICES : s->split ? MODEL_STASH_SPLIT : MODEL_STASH_WHOLE;
        stash[u] = test_floats(model_stash_floats(m, u, s->batch, s->length, count, kind, true));
        if (!s->slices)
            model_forward(&run, u, x[u], u ? x[u - 1] : NULL, stash[u], work, losses + at);
    }
    float *dx = test_floats(rows * dim);
    if (s->slices)
        step_slices(s, &run, x, stash, dx, work, losses + at);
    for (uint32_t u = m->unit_count; !s->slices && u-- > 0;) {
        model_backward(&run, u, s->split ? MODEL_BACKWARD_INPUT : MODEL_BACKWARD_BOTH, dx, u ? x[u - 1] : NULL,
                       stash[u], work, s->split ? NULL : grad, accumulate);
    }
    for (uint32_t u = 0; s->split && u < m->unit_count; u++) // any time later, in any order
        model_backward(&run, u, MODEL_BACKWARD_WEIGHT, NULL, u ? x[u - 1] : NULL, stash[u], work, grad, accumulate);
    for (uint32_t u = 0; u < m->unit_count; u++) {
        free(x[u]);
        free(stash[u]);
    }
    for (unsigned i = 0; i < s->env->threads; i++)
        free(lanes[i]);
    free(x);
    free(stash);
    free(work);
    free(dx);
}

static inline uint32_t test_left(uint32_t count) // leaves of the left child: the largest power of two below count
{
    uint32_t left = 1;
    while (left * 2 < count)
        left *= 2;
    return left;
}

static inline void step_node(const struct step *s, uint32_t first, uint32_t count, struct model_grad *grad,
                             bool accumulate, double *losses)
{
    if (count <= s->group) {
        step_group(s, first, count, grad, accumulate, losses);
        return;
    }
    uint32_t left = test_left(count);
    bool joined = s->joined && !accumulate && count - left <= s->group;
    struct model_grad right = test_grad(s->model, s->model->config.vocab),
                      whole = test_grad(s->model, s->model->config.vocab);
    struct model_grad *to = accumulate ? &whole : grad;
    step_node(s, first, left, to, false, losses);
    step_node(s, first + left, count - left, joined ? to : &right, joined, losses);
    if (!joined)
        model_grad_fold(s->model, s->kern, s->env, to, &right);
    if (accumulate)
        model_grad_fold(s->model, s->kern, s->env, grad, to);
    test_grad_free(&right);
    test_grad_free(&whole);
}

static inline struct step_result step_run(const struct step *s)
{
    struct step_result r = {.grad = test_grad(s->model, s->model->config.vocab)};
    r.losses = test_memory((size_t)s->micro_batches * s->batch * s->length * sizeof(double));
    step_node(s, 0, s->micro_batches, &r.grad, false, r.losses);
    model_grad_finish(s->model, &r.grad);
    return r;
}

static inline void step_result_free(struct step_result *r)
{
    test_grad_free(&r->grad);
    free(r->losses);
}

// Weights with every tensor away from its special values (biases not 0, norms not 1), so that no term hides.
static inline float *test_weights(const struct model *model, struct bg_env *env, float spread)
{
    float *w = test_floats(model->floats);
    memset(w, 0, model->floats * sizeof *w);
    model_init_weights(model, env, 5, w);
    uint32_t state = 12345;
    for (uint32_t i = 0; i < model->param_count; i++) {
        const struct model_param *p = &model->params[i];
        for (uint64_t e = 0; e < p->count; e++) {
            state = state * 1664525u + 1013904223u;
            w[p->offset + e] += spread * ((float)(state >> 8) * 0x1p-23f - 1.0f);
        }
    }
    return w;
}

static inline void test_tokens(int32_t *tokens, int32_t *targets, size_t count, uint32_t vocab)
{
    uint32_t state = 99;
    for (size_t i = 0; i < count; i++) {
        state = state * 1664525u + 1013904223u;
        tokens[i] = (int32_t)((state >> 16) % vocab);
        state = state * 1664525u + 1013904223u;
        targets[i] = i % 7 == 5 ? -1 : (int32_t)((state >> 16) % vocab);
    }
}

static inline struct model *test_model(struct model_config config)
{
    struct bg_error err;
    struct model *model = NULL;
    if (model_create(&config, &err, &model) != BG_OK) {
        fprintf(stderr, "%s\n", err.text);
        abort();
    }
    return model;
}

#endif
