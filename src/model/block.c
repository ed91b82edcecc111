// Forward of one block, both families, training and decoding:
//   h = norm1(x); q, k, v = linear(h); rotate q, k (Llama); att = attention(q, k, v); mid = x + dropout(linear(att));
//   h = norm2(mid); act = swiglu(gate(h), up(h)) or gelu(up(h)); x' = mid + dropout(linear(act)).
// Elementwise passes go over a few rows at a time and do all that can be done to them while they are in the cache.
#include "model/model_int.h"

static void norm1_item(void *arg, size_t index, unsigned lane)
{
    struct block_call *c = arg;
    struct span at = stripe_at(&c->stripe, index, MODEL_GRAIN_ROWS);
    size_t dim = c->block.config->dim, first = at.first;
    (void)lane;
    norm_forward(&c->block.norm1, c->run->kern, c->run->weights, c->w.d1 + first * dim, c->s.mean1 + first,
                 c->s.rstd1 + first, c->x_in + first * dim, at.count);
}

static void rope_item(void *arg, size_t index, unsigned lane)
{
    struct block_call *c = arg;
    const struct model *model = c->run->model;
    const struct model_config *config = c->block.config;
    struct span at = stripe_at(&c->stripe, index, MODEL_GRAIN_ROWS);
    (void)lane;
    for (size_t r = at.first; r < at.first + at.count; r++) {
        size_t position = c->position0 + r % c->period;
        c->run->kern->rope(c->q + r * c->q_stride, model->rope_cos, model->rope_sin, 1, c->q_stride, config->heads,
                           config->head_dim, position, 1, false);
        c->run->kern->rope(c->k + r * c->kv_stride, model->rope_cos, model->rope_sin, 1, c->kv_stride, config->kv_heads,
                           config->head_dim, position, 1, false);
    }
}

// The kernel's items are blocks of 64 queries of a head: a slice is a run of them.
static struct span attention_blocks(const struct block_call *c)
{
    const struct model_run *run = c->run;
    size_t first = run_sliced(run) ? run->position / MODEL_QUERY_BLOCK : 0, queries = c->attention.queries;
    size_t end = run_sliced(run) ? run->position + run->positions : queries;
    return (struct span){first, (end + MODEL_QUERY_BLOCK - 1) / MODEL_QUERY_BLOCK - first};
}

static size_t attention_items(const struct block_call *c)
{
    return c->attention.sequences * c->attention.heads * attention_blocks(c).count;
}

static void attention_item(void *arg, size_t index, unsigned lane)
{
    struct block_call *c = arg;
    struct span blocks = attention_blocks(c);
    size_t of_head = (c->attention.queries + MODEL_QUERY_BLOCK - 1) / MODEL_QUERY_BLOCK;
    size_t item = index / blocks.count * of_head + blocks.first + index % blocks.count;
    c->run->kern->attention(&c->attention, item, c->run->lane_scratch[lane]);
}

// mid = x + dropout(attention's output); h = norm2(mid)
static void middle_item(void *arg, size_t index, unsigned lane)
{
    struct block_call *c = arg;
    const struct kern *kern = c->run->kern;
    struct span at = stripe_at(&c->stripe, index, MODEL_GRAIN_ROWS);
    size_t dim = c->block.config->dim, first = at.first;
    float *mid = c->s.mid + first * dim;
    (void)lane;
    run_dropout(c->run, c->block.layer * DROPOUT_OPS + DROPOUT_ATTENTION, c->w.d2, at, dim);
    kern->add(mid, c->x_in + first * dim, c->w.d2 + first * dim, at.count * dim);
    norm_forward(&c->block.norm2, kern, c->run->weights, c->w.d1 + first * dim, c->s.mean2 + first, c->s.rstd2 + first,
                 mid, at.count);
}

static void activation_item(void *arg, size_t index, unsigned lane)
{
    struct block_call *c = arg;
    struct span at = stripe_at(&c->stripe, index, MODEL_GRAIN_ROWS);
    size_t ffn = c->block.config->ffn, first = at.first * ffn;
    (void)lane;
    if (c->block.gated)
        c->run->kern->swiglu(c->w.wide + first, c->s.gate + first, c->s.up + first, at.count * ffn);
    else
        c->run->kern->gelu(c->w.wide + first, c->s.up + first, at.count * ffn);
}

static void out_item(void *arg, size_t index, unsigned lane)
{
    struct block_call *c = arg;
    struct span at = stripe_at(&c->stripe, index, MODEL_GRAIN_ROWS);
    size_t dim = c->block.config->dim, first = at.first * dim;
    (void)lane;
    run_dropout(c->run, c->block.layer * DROPOUT_OPS + DROPOUT_MLP, c->w.d2, at, dim);
    c->run->kern->add(c->x_out + first, c->s.mid + first, c->w.d2 + first, at.count * dim);
}

static void forward_attention(struct block_call *c, struct jobs *jobs)
{
    const struct model_run *run = c->run;
    const struct block *b = &c->block;
    size_t dim = b->config->dim, width = (size_t)b->config->heads * b->config->head_dim;
    env_parallel_for(run->env, stripe_items(&c->stripe, MODEL_GRAIN_ROWS), norm1_item, c);

    float *out[3] = {c->q, c->k, c->v};
    for (size_t i = 0; i < b->qkv_count; i++) {
        jobs_add_rows(
            jobs,
            linear_forward(&b->qkv[i], run->weights, out[i], i == 0 ? c->q_stride : c->kv_stride, c->w.d1, dim, 0),
            &c->stripe);
    }
    jobs_run(jobs);
    if (b->rotary)
        env_parallel_for(run->env, stripe_items(&c->stripe, MODEL_GRAIN_ROWS), rope_item, c);
    env_parallel_for(run->env, attention_items(c), attention_item, c);

    jobs_add_rows(jobs, linear_forward(&b->o, run->weights, c->w.d2, dim, c->s.att, width, 0), &c->stripe);
    jobs_run(jobs);
}

static void forward_mlp(struct block_call *c, struct jobs *jobs)
{
    const struct model_run *run = c->run;
    const struct block *b = &c->block;
    size_t dim = b->config->dim, ffn = b->config->ffn;
    if (b->gated)
        jobs_add_rows(jobs, linear_forward(&b->gate, run->weights, c->s.gate, ffn, c->w.d1, dim, 0), &c->stripe);
    jobs_add_rows(jobs, linear_forward(&b->up, run->weights, c->s.up, ffn, c->w.d1, dim, 0), &c->stripe);
    jobs_run(jobs);
    env_parallel_for(run->env, stripe_items(&c->stripe, MODEL_GRAIN_ROWS), activation_item, c);
    jobs_add_rows(jobs, linear_forward(&b->down, run->weights, c->w.d2, dim, c->w.wide, ffn, 0), &c->stripe);
    jobs_run(jobs);
}

void block_call_forward(struct block_call *c)
{
    struct jobs jobs;
    jobs_init(&jobs, c->run);
    forward_attention(c, &jobs);
    env_parallel_for(c->run->env, stripe_items(&c->stripe, MODEL_GRAIN_ROWS), middle_item, c);
    forward_mlp(c, &jobs);
    env_parallel_for(c->run->env, stripe_items(&c->stripe, MODEL_GRAIN_ROWS), out_item, c);
}

struct block_call block_call_training(const struct model_run *run, uint32_t unit, const struct block_stash *stash,
                                      const struct block_work *work, const float *x_in)
{
    const struct model_config *config = &run->model->config;
    struct shape shape = run_shape(run);
    size_t q = (size_t)config->heads * config->head_dim, kv = (size_t)config->kv_heads * config->head_dim;
    struct block_call c = {
        .run = run,
        .block = block_of(run->model, unit, false),
        .stripe = run_stripe(run),
        .period = shape.length,
        .s = *stash,
        .q = stash->qkv,
        .k = stash->qkv + q,
        .v = stash->qkv + q + kv,
        .q_stride = q + 2 * kv,
        .kv_stride = q + 2 * kv,
        .w = *work,
        .x_in = x_in,
    };
    c.attention = (struct kern_attention){
        .sequences = shape.sequences,
        .queries = shape.length,
        .keys = shape.length,
        .heads = config->heads,
        .kv_heads = config->kv_heads,
        .head_dim = config->head_dim,
        .q_stride = c.q_stride,
        .k_stride = c.kv_stride,
        .v_stride = c.kv_stride,
        .o_stride = q,
        .kv_sequence_stride = shape.length * c.kv_stride,
        .scale = attention_scale(config),
        .out = stash->att,
        .row_max = stash->row_max,
        .row_sum = stash->row_sum,
        .q = c.q,
        .k = c.k,
        .v = c.v,
    };
    return c;
}

void block_forward(const struct model_run *run, uint32_t unit, float *x_out, const float *x_in, float *stash,
                   float *work)
{
    struct shape shape = run_shape(run);
    struct lay stash_lay = {.base = stash}, work_lay = {.base = work};
    struct block_stash s = block_stash_lay(run->model, shape, MODEL_STASH_WHOLE, stash ? &stash_lay : &work_lay);
    struct block_work w = block_work_lay(run->model, shape, false, &work_lay);
    struct block_call c = block_call_training(run, unit, &s, &w, x_in);
    c.x_out = x_out;
    if (!stash)
        c.attention.row_max = c.attention.row_sum = NULL;
    block_call_forward(&c);
}
