// The decoder: the same units as in training over a few rows, with keys and values kept from call to call. Every row is
// its own chain in every kernel, so chunking never shows in the logits. Memory is reserved once; feeding allocates
// nothing.
#include "model/decode.h"

#include "base/mem.h"
#include "model/model_int.h"

struct decoder {
    struct bg_env *env;
    struct model_run run; // of one sequence; length is set by each call
    uint32_t context_max, chunk_max, position;
    struct block_stash stash; // (chunk_max, ...)
    struct block_work work;
    float *x, *logits;    // (chunk_max, dim), (vocab)
    float *keys, *values; // (layers, context_max, kv_heads * head_dim)
    void **lane_scratch;
    void *memory;
    size_t memory_bytes;
};

static size_t kv_width(const struct model_config *c)
{
    return (size_t)c->kv_heads * c->head_dim;
}

static void lay_memory(struct decoder *d, struct lay *lay, size_t scratch_floats)
{
    const struct model *model = d->run.model;
    const struct model_config *c = &model->config;
    struct shape shape = {1, d->chunk_max, d->chunk_max};
    size_t cache = (size_t)c->layers * d->context_max * kv_width(c);
    d->stash = block_stash_lay(model, shape, false, lay);
    d->work = block_work_lay(model, shape, false, lay);
    d->x = lay_take(lay, (size_t)d->chunk_max * c->dim);
    d->logits = lay_take(lay, c->vocab);
    d->keys = lay_take(lay, cache);
    d->values = lay_take(lay, cache);
    for (unsigned i = 0; i < d->env->threads; i++)
        d->lane_scratch[i] = lay_take(lay, scratch_floats);
}

static size_t scratch_bytes(const struct decoder *d)
{
    size_t most = 0;
    struct kern_attention a = {.sequences = 1, .keys = d->context_max};
    const struct model_config *c = &d->run.model->config;
    a.heads = c->heads;
    a.kv_heads = c->kv_heads;
    a.head_dim = c->head_dim;
    for (uint32_t rows = 1; rows <= d->chunk_max; rows++) { // any number of rows may be fed
        size_t bytes = model_scratch_bytes(d->run.model, d->run.kern, 1, rows, 1, false);
        most = bytes > most ? bytes : most;
        a.queries = rows;
        bytes = d->run.kern->attention_scratch(&a);
        most = bytes > most ? bytes : most;
    }
    return most;
}

bg_status decoder_create(struct bg_env *env, const struct model *model, const struct kern *kern, const float *weights,
                         uint32_t context_max, uint32_t chunk_max, struct bg_error *err, struct decoder **decoder)
{
    if (context_max < 1 || context_max > model->config.context)
        return bg_fail(err, BG_INVALID, "a context of %u tokens was asked for; this model has 1 to %u", context_max,
                       model->config.context);
    if (chunk_max < 1)
        return bg_fail(err, BG_INVALID, "tokens must be fed in chunks of at least 1");

    struct decoder *d = bg_alloc(sizeof *d);
    d->env = env;
    d->run = (struct model_run){.model = model, .kern = kern, .env = env, .weights = weights, .batch = 1, .count = 1};
    d->context_max = context_max;
    d->chunk_max = chunk_max < context_max ? chunk_max : context_max;
    d->lane_scratch = bg_alloc_array(env->threads, sizeof *d->lane_scratch);
    d->run.lane_scratch = d->lane_scratch;

    size_t scratch_floats = (scratch_bytes(d) + sizeof(float) - 1) / sizeof(float);
    struct lay lay = {0};
    lay_memory(d, &lay, scratch_floats);
    d->memory_bytes = lay.used * sizeof(float);
    bg_status status = env->ops->reserve(env, d->memory_bytes, err, &d->memory);
    if (status != BG_OK) {
        d->memory = NULL;
        decoder_destroy(d);
        return status;
    }
    lay = (struct lay){.base = d->memory};
    lay_memory(d, &lay, scratch_floats);
    *decoder = d;
    return BG_OK;
}

void decoder_destroy(struct decoder *decoder)
{
    if (!decoder)
        return;
    if (decoder->memory)
        decoder->env->ops->release(decoder->env, decoder->memory, decoder->memory_bytes);
    bg_free(decoder->lane_scratch);
    bg_free(decoder);
}

void decoder_reset(struct decoder *decoder)
{
    decoder->position = 0;
}

uint32_t decoder_position(const struct decoder *decoder)
{
    return decoder->position;
}

uint32_t decoder_context(const struct decoder *decoder)
{
    return decoder->context_max;
}

static void feed_block(struct decoder *d, uint32_t layer, uint32_t rows)
{
    const struct model_config *c = &d->run.model->config;
    size_t q = (size_t)c->heads * c->head_dim, kv = kv_width(c), cache = (size_t)layer * d->context_max * kv;
    float *keys = d->keys + cache, *values = d->values + cache;
    struct block_call call = {
        .run = &d->run,
        .block = block_of(d->run.model, layer + 1, true),
        .stripe = stripe_whole(rows),
        .position0 = d->position,
        .period = rows,
        .s = d->stash,
        .q = d->stash.qkv,
        .k = keys + d->position * kv,
        .v = values + d->position * kv,
        .q_stride = q,
        .kv_stride = kv,
        .w = d->work,
        .x_out = d->x,
        .x_in = d->x,
    };
    call.attention = (struct kern_attention){
        .sequences = 1,
        .queries = rows,
        .keys = d->position + rows,
        .heads = c->heads,
        .kv_heads = c->kv_heads,
        .head_dim = c->head_dim,
        .q_stride = q,
        .k_stride = kv,
        .v_stride = kv,
        .o_stride = q,
        .scale = attention_scale(c),
        .out = d->stash.att,
        .q = call.q,
        .k = keys,
        .v = values,
    };
    block_call_forward(&call);
}

// Runs `rows` tokens through embedding and blocks: x (rows, dim) holds the last block's output.
static void feed_chunk(struct decoder *d, const int32_t *tokens, uint32_t rows)
{
    const struct model *model = d->run.model;
    const float *positions = model_at(d->run.weights, model_offset(model, 0, MODEL_ROLE_POSITION));
    d->run.length = rows;
    d->run.kern->embed(d->x, d->run.weights + model_offset(model, 0, MODEL_ROLE_EMBED), positions, tokens, rows,
                       model->config.dim, d->position, rows);
    for (uint32_t layer = 0; layer < model->config.layers; layer++)
        feed_block(d, layer, rows);
    d->position += rows;
}

static void head_rows(struct decoder *d, uint32_t first, uint32_t rows, float *logits)
{
    struct head head = head_of(d->run.model);
    size_t dim = d->run.model->config.dim;
    norm_forward(&head.norm, d->run.kern, d->run.weights, d->work.d1, d->stash.mean1, d->stash.rstd1,
                 d->x + first * dim, rows);
    struct kern_gemm g = linear_forward(&head.linear, d->run.weights, logits, head.linear.out, d->work.d1, dim, rows);
    model_gemm(d->env, d->run.kern, d->lane_scratch, &g);
}

static bg_status check_tokens(const struct decoder *d, const int32_t *tokens, uint32_t count, struct bg_error *err)
{
    uint32_t vocab = d->run.model->config.vocab;
    if (count > d->context_max - d->position)
        return bg_fail(err, BG_FULL, "%u tokens after %u do not fit into a context of %u", count, d->position,
                       d->context_max);
    for (uint32_t i = 0; i < count; i++) {
        if (tokens[i] < 0 || (uint32_t)tokens[i] >= vocab)
            return bg_fail(err, BG_INVALID, "token id %d is outside the model's vocabulary of %u", tokens[i], vocab);
    }
    return count > 0 ? BG_OK : bg_fail(err, BG_INVALID, "no token to feed");
}

bg_status decoder_feed(struct decoder *decoder, const int32_t *tokens, uint32_t count, struct bg_error *err,
                       const float **logits)
{
    bg_status status = check_tokens(decoder, tokens, count, err);
    if (status != BG_OK)
        return status;
    uint32_t rows = 0;
    for (uint32_t done = 0; done < count; done += rows) {
        rows = count - done < decoder->chunk_max ? count - done : decoder->chunk_max;
        feed_chunk(decoder, tokens + done, rows);
    }
    head_rows(decoder, rows - 1, 1, decoder->logits);
    *logits = decoder->logits;
    return BG_OK;
}

bg_status decoder_feed_all(struct decoder *decoder, const int32_t *tokens, uint32_t count, float *logits,
                           struct bg_error *err)
{
    bg_status status = check_tokens(decoder, tokens, count, err);
    if (status != BG_OK)
        return status;
    size_t vocab = decoder->run.model->config.vocab;
    uint32_t rows = 0;
    for (uint32_t done = 0; done < count; done += rows) {
        rows = count - done < decoder->chunk_max ? count - done : decoder->chunk_max;
        feed_chunk(decoder, tokens + done, rows);
        head_rows(decoder, 0, rows, logits + done * vocab);
    }
    return BG_OK;
}
