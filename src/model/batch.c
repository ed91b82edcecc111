// Decoding many sequences at once: all rows of a call go through each linear layer together, each sequence through its
// own attention. The same passes as block.c over packed weights; every row is a chain of its own in all of them.
#include "model/batch.h"

#include "base/assert.h"
#include "base/mem.h"
#include "model/model_int.h"

#include <string.h>

struct batch {
    struct bg_env *env;
    const struct packed_model *packed;
    const struct kern *kern;
    struct batch_options o;
    size_t q_width, kv_width,
        page_numbers; // page_numbers: of one page, all layers: keys, values of layer 0, of layer 1, ..
    float *x, *norm, *q, *k, *v, *att, *branch, *mid, *gate, *up; // (rows_max, ..)
    float *logits;                                                // (logits_max, max(vocab, dim))
    char *pool;                                                   // (pages, page_numbers), of number_bytes each
    size_t number_bytes;                                          // of a key or value: fp32, or F16 in class int8/1
    uint32_t *position, *page;                                    // (rows_max): of each row; the page that it writes
    struct kern_quantised *narrow; // INT8: of norm or att (rows_max, max(dim, q_width) / 32)
    struct kern_quantised *wide;   // INT8: of up (rows_max, ffn / 32)
    struct kern_paged *attention;  // (rows_max): of each run
    size_t together;               // heads of an item of it
    size_t *items;                 // (rows_max + 1): attention items before each run
    uint32_t *first, *long_runs;   // (rows_max): first row of each run; runs with several items a head
    void **lane_scratch;
    void *memory;
    size_t memory_bytes, rows, runs, long_count;
    struct block block; // the one at work
    uint32_t layer;
};

// ---- Memory ----
static size_t page_numbers(const struct model_config *c)
{
    return (size_t)c->layers * 2 * BATCH_PAGE * c->kv_heads * c->head_dim;
}

static size_t number_bytes(const struct packed_model *packed)
{
    return packed->type == KERN_INT8 ? sizeof(uint16_t) : sizeof(float);
}

size_t packed_page_bytes(const struct packed_model *packed)
{
    return page_numbers(&packed->model->config) * number_bytes(packed);
}

static size_t larger(size_t a, size_t b)
{
    return a > b ? a : b;
}

static size_t scratch_floats(const struct batch *b)
{
    const struct model_config *c = &b->packed->model->config;
    const struct kern_packed w = {b->packed->type, c->vocab, c->ffn, NULL}, plain = {KERN_F32, c->vocab, c->ffn, NULL};
    const struct kern_packed_gemm g = {.m = b->o.rows_max, .w = &w}, plain_g = {.m = b->o.rows_max, .w = &plain};
    size_t bytes = larger(b->kern->packed_scratch(&g), b->kern->packed_scratch(&plain_g));
    for (uint32_t queries = 1; queries <= b->o.rows_max && queries <= c->context; queries++) {
        const struct kern_paged a = {.queries = queries,
                                     .position = c->context - queries,
                                     .heads = c->heads,
                                     .kv_heads = c->kv_heads,
                                     .head_dim = c->head_dim,
                                     .together = c->kv_heads};
        bytes = larger(bytes, b->kern->paged_scratch(&a));
    }
    return (bytes + sizeof(float) - 1) / sizeof(float);
}

// Of rows of `width` inputs; none where no product takes them.
static struct kern_quantised *lay_quantised(struct batch *b, struct lay *lay, size_t rows, size_t width)
{
    if (b->packed->type != KERN_INT8)
        return NULL;
    return (struct kern_quantised *)(void *)lay_take(lay, rows * (width / KERN_QUANT) * sizeof(struct kern_quantised) /
                                                              sizeof(float));
}

static void lay_memory(struct batch *b, struct lay *lay)
{
    const struct model_config *c = &b->packed->model->config;
    const size_t rows = b->o.rows_max, scratch = scratch_floats(b);
    b->x = lay_take(lay, rows * c->dim);
    b->norm = lay_take(lay, larger(rows, b->o.logits_max) * c->dim);
    b->narrow = lay_quantised(b, lay, larger(rows, b->o.logits_max), larger(c->dim, b->q_width));
    b->wide = lay_quantised(b, lay, rows, c->ffn);
    b->q = lay_take(lay, rows * b->q_width);
    b->k = lay_take(lay, rows * b->kv_width);
    b->v = lay_take(lay, rows * b->kv_width);
    b->att = lay_take(lay, rows * b->q_width);
    b->branch = lay_take(lay, rows * c->dim);
    b->mid = lay_take(lay, rows * c->dim);
    b->gate = lay_take(lay, b->block.gated ? rows * c->ffn : 0);
    b->up = lay_take(lay, rows * c->ffn);
    b->logits = lay_take(lay, b->o.logits_max * larger(c->vocab, c->dim));
    b->pool = (char *)lay_take(lay, b->o.pages * b->page_numbers / (sizeof(float) / b->number_bytes));
    for (unsigned i = 0; i < b->env->threads; i++)
        b->lane_scratch[i] = lay_take(lay, scratch);
}

bg_status batch_create(struct bg_env *env, const struct packed_model *packed, const struct kern *kern,
                       const struct batch_options *options, struct bg_error *err, struct batch **batch)
{
    const struct model_config *c = &packed->model->config;
    if (options->pages < 1 || options->rows_max < 1 || options->logits_max < 1)
        return bg_fail(err, BG_INVALID, "a batch of %u rows, %u logits, %u pages: expected at least one of each",
                       options->rows_max, options->logits_max, options->pages);
    struct batch *b = bg_alloc(sizeof *b);
    *b = (struct batch){.env = env, .packed = packed, .kern = kern, .o = *options};
    b->q_width = (size_t)c->heads * c->head_dim;
    b->kv_width = (size_t)c->kv_heads * c->head_dim;
    b->page_numbers = page_numbers(c);
    b->number_bytes = number_bytes(packed);
    b->block = block_of(packed->model, 1, true);
    b->position = bg_alloc_array(options->rows_max, sizeof *b->position);
    b->page = bg_alloc_array(options->rows_max, sizeof *b->page);
    b->attention = bg_alloc_array(options->rows_max, sizeof *b->attention);
    b->items = bg_alloc_array(options->rows_max + 1u, sizeof *b->items);
    b->first = bg_alloc_array(options->rows_max, sizeof *b->first);
    b->long_runs = bg_alloc_array(options->rows_max, sizeof *b->long_runs);
    b->lane_scratch = bg_alloc_array(env->threads, sizeof *b->lane_scratch);
    struct lay lay = {0};
    lay_memory(b, &lay);
    bg_status status = env->ops->reserve(env, lay.used * sizeof(float), err, &b->memory);
    if (status) {
        batch_destroy(b);
        return status;
    }
    b->memory_bytes = lay.used * sizeof(float);
    lay = (struct lay){.base = b->memory};
    lay_memory(b, &lay);
    *batch = b;
    return BG_OK;
}

void batch_destroy(struct batch *batch)
{
    if (!batch)
        return;
    if (batch->memory_bytes)
        batch->env->ops->release(batch->env, batch->memory, batch->memory_bytes);
    bg_free(batch->position);
    bg_free(batch->page);
    bg_free(batch->attention);
    bg_free(batch->items);
    bg_free(batch->first);
    bg_free(batch->long_runs);
    bg_free(batch->lane_scratch);
    bg_free(batch);
}

size_t batch_page_bytes(const struct batch *batch)
{
    return packed_page_bytes(batch->packed);
}

void *batch_page(struct batch *batch, uint32_t page)
{
    BG_ASSERT(page < batch->o.pages);
    return batch->pool + page * batch_page_bytes(batch);
}

// ---- Linear layers: panels of several layers in one meeting of the lanes ----
struct products {
    struct batch *b;
    struct kern_packed_gemm g[3];
    size_t count;
};

static void product_item(void *arg, size_t index, unsigned lane)
{
    const struct products *p = arg;
    size_t i = 0;
    for (; index >= kern_packed_panels(p->g[i].w->n); i++)
        index -= kern_packed_panels(p->g[i].w->n);
    p->b->kern->packed_gemm(&p->g[i], index, p->b->lane_scratch[lane]);
}

static void products_add(struct products *p, const struct packed_linear *l, float *out, const float *in,
                         const struct kern_quantised *quantised, size_t rows)
{
    p->g[p->count++] = (struct kern_packed_gemm){out,  l->w.n, in,      l->w.k,
                                                 rows, &l->w,  l->bias, l->w.type == KERN_INT8 ? quantised : NULL};
}

// Rows [first, first + count) of `in` (.., width), for products with INT8 weights: once, not once a panel.
static void quantise_rows(struct batch *b, const float *in, size_t width, size_t first, size_t count)
{
    if (b->packed->type == KERN_INT8 && width % KERN_QUANT == 0)
        b->kern->quantise(b->narrow + first * (width / KERN_QUANT), in + first * width, count * width);
}

static void products_run(struct products *p)
{
    size_t panels = 0;
    for (size_t i = 0; i < p->count; i++)
        panels += kern_packed_panels(p->g[i].w->n);
    env_parallel_for(p->b->env, panels, product_item, p);
}

// ---- Passes over a few rows ----
enum { GRAIN = 4 }; // fewer than training's: sixteen streams are sixteen rows

static struct span rows_at(size_t item, size_t rows)
{
    const size_t first = item * GRAIN;
    return (struct span){first, rows - first < GRAIN ? rows - first : GRAIN};
}

static void rows_run(struct batch *b, bg_task_fn fn)
{
    env_parallel_for(b->env, (b->rows + GRAIN - 1) / GRAIN, fn, b);
}

static void norm_rows(struct batch *b, const struct norm *n, float *out, const float *x, size_t rows)
{
    float mean[MODEL_GRAIN_ROWS], rstd[MODEL_GRAIN_ROWS];
    norm_forward(n, b->kern, b->packed->weights, out, mean, rstd, x, rows);
}

static void norm1_item(void *arg, size_t index, unsigned lane)
{
    struct batch *b = arg;
    const struct span at = rows_at(index, b->rows);
    const size_t first = at.first * b->block.config->dim;
    (void)lane;
    norm_rows(b, &b->block.norm1, b->norm + first, b->x + first, at.count);
    quantise_rows(b, b->norm, b->block.config->dim, at.first, at.count);
}

static char *layer_keys(const struct batch *b, uint32_t page)
{
    return b->pool + (page * b->page_numbers + (size_t)b->layer * 2 * BATCH_PAGE * b->kv_width) * b->number_bytes;
}

// To slot `slot` of one head's keys and values.
static void store_numbers(const struct batch *b, float *keys, size_t slot, const float *k, const float *v)
{
    const size_t head_dim = b->packed->model->config.head_dim;
    for (size_t d = 0; d < head_dim; d++)
        keys[d * BATCH_PAGE + slot] = k[d];
    memcpy(keys + BATCH_PAGE * b->kv_width + slot * head_dim, v, head_dim * sizeof *keys);
}

static void store_halves(const struct batch *b, uint16_t *keys, size_t slot, const float *k, const float *v)
{
    enum { AT_ONCE = 64 };
    const size_t head_dim = b->packed->model->config.head_dim;
    uint16_t half[AT_ONCE];
    for (size_t first = 0, n; first < head_dim; first += n) {
        n = head_dim - first < AT_ONCE ? head_dim - first : AT_ONCE;
        b->kern->to_f16(half, k + first, n);
        for (size_t d = 0; d < n; d++)
            keys[(first + d) * BATCH_PAGE + slot] = half[d];
    }
    b->kern->to_f16(keys + BATCH_PAGE * b->kv_width + slot * head_dim, v, head_dim);
}

// Rotates q and k of the heads that share keys `kv`, and puts k and v where the row's page has them.
static void store_head(struct batch *b, size_t row, size_t kv)
{
    const struct model *model = b->packed->model;
    const struct model_config *c = &model->config;
    const size_t group = c->heads / c->kv_heads, slot = b->position[row] % BATCH_PAGE;
    float *q = b->q + row * b->q_width + kv * group * c->head_dim;
    float *k = b->k + row * b->kv_width + kv * c->head_dim;
    const float *v = b->v + row * b->kv_width + kv * c->head_dim;
    void *keys = layer_keys(b, b->page[row]) + kv * c->head_dim * BATCH_PAGE * b->number_bytes;
    if (b->block.rotary) {
        b->kern->rope(q, model->rope_cos, model->rope_sin, 1, b->q_width, group, c->head_dim, b->position[row], 1,
                      false);
        b->kern->rope(k, model->rope_cos, model->rope_sin, 1, b->kv_width, 1, c->head_dim, b->position[row], 1, false);
    }
    if (b->number_bytes == sizeof(float))
        store_numbers(b, keys, slot, k, v);
    else
        store_halves(b, keys, slot, k, v);
}

// A run whose heads are in one item each stores in that item; one with more, before any of them.
static bool stores_alone(const struct batch *b, size_t run)
{
    return b->items[run + 1] - b->items[run] == (b->packed->model->config.kv_heads - 1) / b->together + 1;
}

static void store_item(void *arg, size_t index, unsigned lane)
{
    struct batch *b = arg;
    const uint32_t kv_heads = b->packed->model->config.kv_heads;
    const size_t run = b->long_runs[index / kv_heads];
    (void)lane;
    for (size_t r = 0; r < b->attention[run].queries; r++)
        store_head(b, b->first[run] + r, index % kv_heads);
}

static void attention_item(void *arg, size_t index, unsigned lane)
{
    struct batch *b = arg;
    size_t low = 0, high = b->runs; // the run whose items hold index
    while (high - low > 1) {
        size_t middle = (low + high) / 2;
        if (b->items[middle] <= index)
            low = middle;
        else
            high = middle;
    }
    const size_t head = (index - b->items[low]) * b->together, heads = b->packed->model->config.kv_heads;
    for (size_t r = 0; stores_alone(b, low) && r < b->attention[low].queries; r++)
        for (size_t h = head; h < heads && h < head + b->together; h++)
            store_head(b, b->first[low] + r, h);
    b->kern->paged(&b->attention[low], index - b->items[low], b->lane_scratch[lane]);
}

static void attended_item(void *arg, size_t index, unsigned lane)
{
    struct batch *b = arg;
    const struct span at = rows_at(index, b->rows);
    (void)lane;
    quantise_rows(b, b->att, b->q_width, at.first, at.count);
}

static void middle_item(void *arg, size_t index, unsigned lane)
{
    struct batch *b = arg;
    const struct span at = rows_at(index, b->rows);
    const size_t dim = b->block.config->dim, first = at.first * dim;
    (void)lane;
    b->kern->add(b->mid + first, b->x + first, b->branch + first, at.count * dim);
    norm_rows(b, &b->block.norm2, b->norm + first, b->mid + first, at.count);
    quantise_rows(b, b->norm, dim, at.first, at.count);
}

// A panel of gate and of up, and the activation of its columns, quantised where `down` takes them so.
static void wide_item(void *arg, size_t panel, unsigned lane)
{
    const struct products *p = arg;
    struct batch *b = p->b;
    const size_t ffn = b->block.config->ffn, first = panel * KERN_PANEL;
    const size_t columns = ffn - first < KERN_PANEL ? ffn - first : KERN_PANEL;
    for (size_t i = 0; i < p->count; i++)
        b->kern->packed_gemm(&p->g[i], panel, b->lane_scratch[lane]);
    const bool quantised = b->packed->blocks[b->layer].down.w.type == KERN_INT8;
    for (size_t at = first; at < b->rows * ffn; at += ffn) {
        if (b->block.gated)
            b->kern->swiglu(b->up + at, b->gate + at, b->up + at, columns);
        else
            b->kern->gelu(b->up + at, b->up + at, columns);
        if (quantised)
            b->kern->quantise(b->wide + at / KERN_QUANT, b->up + at, columns);
    }
}

static void out_item(void *arg, size_t index, unsigned lane)
{
    struct batch *b = arg;
    const struct span at = rows_at(index, b->rows);
    const size_t dim = b->block.config->dim, first = at.first * dim;
    (void)lane;
    b->kern->add(b->x + first, b->mid + first, b->branch + first, at.count * dim);
}

// ---- A call ----
static void run_block(struct batch *b)
{
    const struct packed_block *w = &b->packed->blocks[b->layer];
    struct products qkv = {.b = b}, o = {.b = b}, wide = {.b = b}, down = {.b = b};
    b->block = block_of(b->packed->model, b->layer + 1, true);
    rows_run(b, norm1_item);
    products_add(&qkv, &w->q, b->q, b->norm, b->narrow, b->rows);
    products_add(&qkv, &w->k, b->k, b->norm, b->narrow, b->rows);
    products_add(&qkv, &w->v, b->v, b->norm, b->narrow, b->rows);
    products_run(&qkv);
    env_parallel_for(b->env, b->long_count * b->packed->model->config.kv_heads, store_item, b);
    for (size_t i = 0; i < b->runs; i++) {
        b->attention[i].keys = layer_keys(b, 0);
        b->attention[i].values = layer_keys(b, 0) + BATCH_PAGE * b->kv_width * b->number_bytes;
    }
    env_parallel_for(b->env, b->items[b->runs], attention_item, b);
    if (w->o.w.type == KERN_INT8)
        rows_run(b, attended_item);
    products_add(&o, &w->o, b->branch, b->att, b->narrow, b->rows);
    products_run(&o);
    rows_run(b, middle_item);
    if (b->block.gated)
        products_add(&wide, &w->gate, b->gate, b->norm, b->narrow, b->rows);
    products_add(&wide, &w->up, b->up, b->norm, b->narrow, b->rows);
    env_parallel_for(b->env, kern_packed_panels(w->up.w.n), wide_item, &wide);
    products_add(&down, &w->down, b->branch, b->up, b->wide, b->rows);
    products_run(&down);
    rows_run(b, out_item);
}

static bg_status check(const struct batch *b, const struct batch_run *runs, size_t count, size_t wanted,
                       struct bg_error *err)
{
    const struct model_config *c = &b->packed->model->config;
    size_t rows = 0;
    for (size_t i = 0; i < count; i++) {
        const struct batch_run *r = &runs[i];
        rows += r->count;
        if (r->count < 1 || r->logits > r->count || r->position > c->context || r->count > c->context - r->position)
            return bg_fail(err, BG_INVALID,
                           "run %zu of a batch: %u tokens at %u with %u logits; expected 1 to %u tokens, and logits of "
                           "those",
                           i, r->count, r->position, r->logits, c->context - r->position);
        for (uint32_t j = 0; j < r->count; j++)
            if (r->tokens[j] < 0 || (uint32_t)r->tokens[j] >= c->vocab)
                return bg_fail(err, BG_INVALID, "token id %d is outside the model's vocabulary of %u", r->tokens[j],
                               c->vocab);
        for (uint32_t j = 0; j < (r->position + r->count + BATCH_PAGE - 1) / BATCH_PAGE; j++)
            if (r->pages[j] >= b->o.pages)
                return bg_fail(err, BG_INVALID, "run %zu of a batch: page %u of a pool of %u", i, r->pages[j],
                               b->o.pages);
    }
    if (rows > b->o.rows_max || wanted > b->o.logits_max || rows == 0)
        return bg_fail(err, BG_INVALID, "a batch of %zu rows and %zu logits: expected 1 to %u rows, at most %u logits",
                       rows, wanted, b->o.rows_max, b->o.logits_max);
    return BG_OK;
}

// Heads of an item of attention: as many as leave each lane some items to choose from.
static size_t heads_together(const struct model_config *c, size_t runs, unsigned threads)
{
    enum { ITEMS = 4 };
    const size_t heads = c->kv_heads * runs / (ITEMS * threads);
    return heads < 1 ? 1 : heads < c->kv_heads ? heads : c->kv_heads;
}

// Embeds the tokens, and says for every row and run where it stands.
static void begin(struct batch *b, const struct batch_run *runs, size_t count)
{
    const struct model *model = b->packed->model;
    const struct model_config *c = &model->config;
    const float *table = b->packed->weights + model_offset(model, 0, MODEL_ROLE_EMBED);
    const float *positions = model_at(b->packed->weights, model_offset(model, 0, MODEL_ROLE_POSITION));
    b->rows = 0;
    b->runs = count;
    b->long_count = 0;
    b->items[0] = 0;
    b->together = heads_together(c, count, b->env->threads);
    for (size_t i = 0; i < count; i++) {
        const struct batch_run *r = &runs[i];
        b->kern->embed(b->x + b->rows * c->dim, table, positions, r->tokens, r->count, c->dim, r->position, r->count);
        b->attention[i] = (struct kern_paged){.queries = r->count,
                                              .position = r->position,
                                              .heads = c->heads,
                                              .kv_heads = c->kv_heads,
                                              .head_dim = c->head_dim,
                                              .scale = attention_scale(c),
                                              .out = b->att + b->rows * b->q_width,
                                              .o_stride = b->q_width,
                                              .q = b->q + b->rows * b->q_width,
                                              .q_stride = b->q_width,
                                              .pages = r->pages,
                                              .page_stride = b->page_numbers,
                                              .half = b->number_bytes == sizeof(uint16_t),
                                              .together = b->together};
        b->items[i + 1] = b->items[i] + b->kern->paged_items(&b->attention[i]);
        b->first[i] = (uint32_t)b->rows;
        if (!stores_alone(b, i))
            b->long_runs[b->long_count++] = (uint32_t)i;
        for (uint32_t j = 0; j < r->count; j++, b->rows++) {
            b->position[b->rows] = r->position + j;
            b->page[b->rows] = r->pages[(r->position + j) / BATCH_PAGE];
        }
    }
}

// Final norms of the rows whose logits are wanted, in order.
static void head_norms(struct batch *b, const struct batch_run *runs)
{
    const struct head head = head_of(b->packed->model);
    const size_t dim = b->packed->model->config.dim;
    size_t row = 0, out = 0;
    for (size_t i = 0; i < b->runs; row += runs[i].count, i++) {
        const size_t want = runs[i].logits, first = row + runs[i].count - want;
        for (size_t j = 0, n; j < want; j += n, out += n) {
            n = want - j < MODEL_GRAIN_ROWS ? want - j : MODEL_GRAIN_ROWS;
            norm_rows(b, &head.norm, b->norm + out * dim, b->x + (first + j) * dim, n);
            quantise_rows(b, b->norm, dim, out, n);
        }
    }
}

bg_status batch_forward(struct batch *batch, const struct batch_run *runs, size_t count, struct bg_error *err,
                        const float **logits)
{
    struct batch *b = batch;
    size_t wanted = 0;
    for (size_t i = 0; i < count; i++)
        wanted += runs[i].logits;
    bg_status status = check(b, runs, count, wanted, err);
    if (status)
        return status;
    begin(b, runs, count);
    for (b->layer = 0; b->layer < b->packed->model->config.layers; b->layer++)
        run_block(b);
    if (wanted) {
        struct products head = {.b = b};
        head_norms(b, runs);
        products_add(&head, &b->packed->head, b->logits, b->norm, b->narrow, wanted);
        products_run(&head);
    }
    *logits = b->logits;
    return BG_OK;
}

const float *batch_hidden(const struct batch *batch)
{
    return batch->norm;
}
