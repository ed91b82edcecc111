// Backward of one block. INPUT turns dx from the gradient of x' into that of x and leaves in the stash what WEIGHT
// needs; BOTH interleaves the two halves over shared work memory. Either way each value is computed by the same calls
// on the same operands, so the bits are the same.
//
// Norm outputs and activation outputs are computed again instead of being kept. The gradient of the activation is
// replaced in place by the activation itself as soon as it is used up, and gate and up by their gradients.
#include "model/model_int.h"

#include <string.h>

struct back {
    struct block_call c;
    bool input, weight;
    float *dx;          // (rows, dim): of x', then of mid, then of x
    float *dmlp, *datt; // (rows, dim): dx as it leaves a branch's dropout; dx itself where nothing is dropped
    float *dnorm1, *dnorm2;
    float *dact, *dqkv, *dheads; // dheads (rows, heads * head_dim): of attention's output
    float *h;                    // norm outputs, again
    float *dense;
    struct leaves leaves;
};

static struct back back_begin(const struct model_run *run, uint32_t unit, enum model_backward_part part, float *dx,
                              const float *x_in, float *stash, float *work)
{
    struct lay stash_lay = {.base = stash}, work_lay = {.base = work};
    struct shape shape = run_shape(run);
    bool split = part != MODEL_BACKWARD_BOTH;
    struct block_stash s = // where the halves are, there is room for slices if they are used
        block_stash_lay(run->model, shape, split ? MODEL_STASH_SLICES : MODEL_STASH_WHOLE, &stash_lay);
    struct block_work w = block_work_lay(run->model, shape, true, &work_lay);
    struct back b = {
        .c = block_call_training(run, unit, &s, &w, x_in),
        .input = part & MODEL_BACKWARD_INPUT,
        .weight = part & MODEL_BACKWARD_WEIGHT,
        .dx = dx,
        .dmlp = split            ? s.dmlp
                : run_drops(run) ? w.d1
                                 : dx,
        .datt = split            ? s.datt
                : run_drops(run) ? w.d1
                                 : dx,
        .dnorm1 = split ? s.dnorm1 : w.d2,
        .dnorm2 = split ? s.dnorm2 : w.d2,
        .dact = split ? s.dact : w.wide,
        .dqkv = split ? s.dqkv : w.wide,
        .dheads = run_sliced(run) ? s.dheads : w.d2, // rows of the slices behind are needed
        .h = w.d3,
        .leaves = {(size_t)run->batch * run->length, run->count, false},
    };
    return b;
}

static void branch_rows(struct back *b, float *out, uint32_t op, struct span at)
{
    size_t dim = b->c.block.config->dim;
    if (out == b->dx)
        return;
    memcpy(out + at.first * dim, b->dx + at.first * dim, at.count * dim * sizeof(float));
    run_dropout(b->c.run, b->c.block.layer * DROPOUT_OPS + op, out, at, dim);
}

static void mlp_branch_item(void *arg, size_t index, unsigned lane)
{
    struct back *b = arg;
    (void)lane;
    branch_rows(b, b->dmlp, DROPOUT_MLP, stripe_at(&b->c.stripe, index, MODEL_GRAIN_ROWS));
}

// act takes the place of its gradient; gate and up become theirs.
static void activation_item(void *arg, size_t index, unsigned lane)
{
    struct back *b = arg;
    const struct kern *kern = b->c.run->kern;
    struct span at = stripe_at(&b->c.stripe, index, MODEL_GRAIN_ROWS);
    size_t ffn = b->c.block.config->ffn, first = at.first * ffn, n = at.count * ffn;
    float *dact = b->dact + first, *gate = b->c.s.gate + first, *up = b->c.s.up + first;
    (void)lane;
    if (b->c.block.gated)
        kern->swiglu_grad(gate, up, dact, dact, gate, up, n);
    else
        kern->gelu_grad(up, dact, dact, up, n);
}

// dx += norm2's gradient, and what attention's branch sees of it; norm2's output again.
static void middle_item(void *arg, size_t index, unsigned lane)
{
    struct back *b = arg;
    struct block_call *c = &b->c;
    const struct model_run *run = c->run;
    struct span at = stripe_at(&c->stripe, index, MODEL_GRAIN_ROWS);
    size_t first = at.first, row = first * c->block.config->dim;
    float *mean = c->s.mean2 + first, *rstd = c->s.rstd2 + first;
    (void)lane;
    if (b->weight)
        norm_forward(&c->block.norm2, run->kern, run->weights, b->h + row, mean, rstd, c->s.mid + row, at.count);
    if (!b->input)
        return;
    norm_input_grad(&c->block.norm2, run->kern, run->weights, b->dx + row, b->dnorm2 + row, c->s.mid + row, mean, rstd,
                    at.count, true);
}

static void attention_branch_item(void *arg, size_t index, unsigned lane)
{
    struct back *b = arg;
    (void)lane;
    branch_rows(b, b->datt, DROPOUT_ATTENTION, stripe_at(&b->c.stripe, index, MODEL_GRAIN_ROWS));
}

static void attention_item(void *arg, size_t index, unsigned lane)
{
    struct back *b = arg;
    const struct kern *kern = b->c.run->kern;
    struct kern_attention_grad g = {
        .fwd = b->c.attention,
        .dq = b->dqkv,
        .dk = b->dqkv + (b->c.k - b->c.q),
        .dv = b->dqkv + (b->c.v - b->c.q),
        .dout = b->dheads,
    };
    if (run_sliced(b->c.run)) {
        g.first = b->c.run->position;
        g.end = g.first + b->c.run->positions;
    }
    kern->attention_grad(&g, index, b->c.run->lane_scratch[lane]);
}

static void rope_item(void *arg, size_t index, unsigned lane)
{
    struct back *b = arg;
    const struct model_config *config = b->c.block.config;
    const struct model *model = b->c.run->model;
    struct span at = stripe_at(&b->c.stripe, index, MODEL_GRAIN_ROWS);
    size_t heads = (size_t)config->heads + config->kv_heads; // q and k are neighbours
    (void)lane;
    for (size_t r = at.first; r < at.first + at.count; r++) {
        b->c.run->kern->rope(b->dqkv + r * b->c.q_stride, model->rope_cos, model->rope_sin, 1, b->c.q_stride, heads,
                             config->head_dim, r % b->c.period, 1, true);
    }
}

static void first_item(void *arg, size_t index, unsigned lane)
{
    struct back *b = arg;
    struct block_call *c = &b->c;
    const struct model_run *run = c->run;
    struct span at = stripe_at(&c->stripe, index, MODEL_GRAIN_ROWS);
    size_t first = at.first, row = first * c->block.config->dim;
    float *mean = c->s.mean1 + first, *rstd = c->s.rstd1 + first;
    (void)lane;
    if (b->weight)
        norm_forward(&c->block.norm1, run->kern, run->weights, b->h + row, mean, rstd, c->x_in + row, at.count);
    if (b->input)
        norm_input_grad(&c->block.norm1, run->kern, run->weights, b->dx + row, b->dnorm1 + row, c->x_in + row, mean,
                        rstd, at.count, true);
}

static void backward_mlp(struct back *b, struct jobs *jobs)
{
    struct block_call *c = &b->c;
    const struct block *block = &c->block;
    const float *weights = c->run->weights;
    struct bg_env *env = c->run->env;
    size_t dim = block->config->dim, ffn = block->config->ffn;
    if (b->input) {
        if (b->dmlp != b->dx)
            env_parallel_for(env, stripe_items(&c->stripe, MODEL_GRAIN_ROWS), mlp_branch_item, b);
        jobs_add_rows(jobs, linear_input_grad(&block->down, weights, b->dact, ffn, b->dmlp, dim, 0, false), &c->stripe);
        jobs_run(jobs);
        env_parallel_for(env, stripe_items(&c->stripe, MODEL_GRAIN_ROWS), activation_item, b);
        jobs_add_rows(jobs, linear_input_grad(&block->up, weights, b->dnorm2, dim, c->s.up, ffn, 0, false), &c->stripe);
    }
    if (b->weight)
        linear_weight_grad(jobs, &block->down, b->dense, b->dmlp, dim, b->dact, ffn, b->leaves);
    jobs_run(jobs);
    if (b->input && block->gated) {
        jobs_add_rows(jobs, linear_input_grad(&block->gate, weights, b->dnorm2, dim, c->s.gate, ffn, 0, true),
                      &c->stripe);
        jobs_run(jobs);
    }
    env_parallel_for(env, stripe_items(&c->stripe, MODEL_GRAIN_ROWS), middle_item, b);
    if (!b->weight)
        return;
    if (block->gated)
        linear_weight_grad(jobs, &block->gate, b->dense, c->s.gate, ffn, b->h, dim, b->leaves);
    linear_weight_grad(jobs, &block->up, b->dense, c->s.up, ffn, b->h, dim, b->leaves);
    norm_weight_grad(jobs, &block->norm2, b->dense, b->dnorm2, c->s.mid, c->s.mean2, c->s.rstd2, b->leaves);
    jobs_run(jobs);
}

static void backward_heads(struct back *b, struct jobs *jobs)
{
    struct block_call *c = &b->c;
    const struct block *block = &c->block;
    struct bg_env *env = c->run->env;
    size_t dim = block->config->dim, width = c->attention.o_stride;
    if (b->input) {
        if (b->datt != b->dx)
            env_parallel_for(env, stripe_items(&c->stripe, MODEL_GRAIN_ROWS), attention_branch_item, b);
        jobs_add_rows(jobs, linear_input_grad(&block->o, c->run->weights, b->dheads, width, b->datt, dim, 0, false),
                      &c->stripe);
        jobs_run(jobs);
        jobs_add(jobs, c->run->kern->attention_grad_items(&c->attention), attention_item, b);
    }
    if (b->weight)
        linear_weight_grad(jobs, &block->o, b->dense, b->datt, dim, c->s.att, width, b->leaves);
    jobs_run(jobs);
    if (b->input && block->rotary)
        env_parallel_for(env, stripe_items(&c->stripe, MODEL_GRAIN_ROWS), rope_item, b);
}

static void backward_qkv(struct back *b, struct jobs *jobs)
{
    struct block_call *c = &b->c;
    const struct block *block = &c->block;
    size_t dim = block->config->dim, width = c->q_stride, column = 0;
    for (size_t i = 0; b->input && i < block->qkv_count; i++) {
        jobs_add_rows(
            jobs, linear_input_grad(&block->qkv[i], c->run->weights, b->dnorm1, dim, b->dqkv + column, width, 0, i > 0),
            &c->stripe);
        jobs_run(jobs);
        column += block->qkv[i].out;
    }
    env_parallel_for(c->run->env, stripe_items(&c->stripe, MODEL_GRAIN_ROWS), first_item, b);
    if (!b->weight)
        return;
    column = 0;
    for (size_t i = 0; i < block->qkv_count; i++) {
        linear_weight_grad(jobs, &block->qkv[i], b->dense, b->dqkv + column, width, b->h, dim, b->leaves);
        column += block->qkv[i].out;
    }
    norm_weight_grad(jobs, &block->norm1, b->dense, b->dnorm1, c->x_in, c->s.mean1, c->s.rstd1, b->leaves);
    jobs_run(jobs);
}

void block_backward(const struct model_run *run, uint32_t unit, enum model_backward_part part, float *dx,
                    const float *x_in, float *stash, float *work, struct model_grad *grad, bool accumulate)
{
    struct back b = back_begin(run, unit, part, dx, x_in, stash, work);
    struct jobs jobs;
    b.dense = grad ? grad->dense : NULL;
    b.leaves.accumulate = accumulate;
    jobs_init(&jobs, run);
    backward_mlp(&b, &jobs);
    backward_heads(&b, &jobs);
    backward_qkv(&b, &jobs);
}
