// Units: their weights as linear layers and norms, how much memory they take, and the way from the public forward and
// backward to each kind's own.
#include "model/model_int.h"

#include "base/assert.h"

static size_t larger(size_t a, size_t b)
{
    return a > b ? a : b;
}

static size_t qkv_width(const struct model_config *c)
{
    return ((size_t)c->heads + 2 * (size_t)c->kv_heads) * c->head_dim;
}

static struct linear linear_of(const struct model *model, uint32_t unit, enum model_role weight, size_t in, size_t out)
{
    bool conv = model->config.family == MODEL_GPT2;
    return (struct linear){
        .weight = model_offset(model, unit, weight),
        .bias = model_offset(model, unit, (enum model_role)(weight + 1)), // roles list a bias after its weight
        .in = in,
        .out = out,
        .ld = conv ? out : in,
        .conv = conv,
    };
}

static struct norm norm_of(const struct model *model, uint32_t unit, enum model_role gamma)
{
    return (struct norm){
        .gamma = model_offset(model, unit, gamma),
        .beta = model_offset(model, unit, (enum model_role)(gamma + 1)),
        .dim = model->config.dim,
        .eps = (float)model->config.norm_eps,
    };
}

// c_attn as three layers over columns of one weight: the bits of each column are the same.
static void slice_qkv(struct block *b)
{
    const struct model_config *c = b->config;
    struct linear whole = b->qkv[0];
    size_t widths[3] = {(size_t)c->heads * c->head_dim, (size_t)c->kv_heads * c->head_dim,
                        (size_t)c->kv_heads * c->head_dim};
    size_t column = 0;
    for (size_t i = 0; i < 3; i++) {
        b->qkv[i] = whole;
        b->qkv[i].weight += column;
        b->qkv[i].bias += column;
        b->qkv[i].out = widths[i];
        column += widths[i];
    }
    b->qkv_count = 3;
}

struct block block_of(const struct model *model, uint32_t unit, bool sliced)
{
    const struct model_config *c = &model->config;
    size_t q = (size_t)c->heads * c->head_dim, kv = (size_t)c->kv_heads * c->head_dim;
    struct block b = {
        .config = c,
        .layer = model->units[unit].layer,
        .norm1 = norm_of(model, unit, MODEL_ROLE_NORM1),
        .norm2 = norm_of(model, unit, MODEL_ROLE_NORM2),
        .o = linear_of(model, unit, MODEL_ROLE_O, q, c->dim),
        .up = linear_of(model, unit, MODEL_ROLE_UP, c->dim, c->ffn),
        .down = linear_of(model, unit, MODEL_ROLE_DOWN, c->ffn, c->dim),
        .gated = c->family == MODEL_LLAMA,
        .rotary = c->family == MODEL_LLAMA,
    };
    if (c->family == MODEL_GPT2) {
        b.qkv[0] = linear_of(model, unit, MODEL_ROLE_QKV, c->dim, q + 2 * kv);
        b.qkv_count = 1;
        if (sliced)
            slice_qkv(&b);
        return b;
    }
    b.gate = linear_of(model, unit, MODEL_ROLE_GATE, c->dim, c->ffn);
    b.qkv[0] = linear_of(model, unit, MODEL_ROLE_Q, c->dim, q);
    b.qkv[1] = linear_of(model, unit, MODEL_ROLE_K, c->dim, kv);
    b.qkv[2] = linear_of(model, unit, MODEL_ROLE_V, c->dim, kv);
    b.qkv_count = 3;
    return b;
}

struct head head_of(const struct model *model)
{
    uint32_t unit = model->unit_count - 1;
    size_t weight = model_offset(model, unit, MODEL_ROLE_HEAD);
    if (weight == MODEL_NONE)
        weight = model_offset(model, 0, MODEL_ROLE_EMBED);
    return (struct head){
        .norm = norm_of(model, unit, MODEL_ROLE_NORM),
        .linear = {.weight = weight,
                   .bias = MODEL_NONE,
                   .in = model->config.dim,
                   .out = model->config.vocab,
                   .ld = model->config.dim},
    };
}

struct block_stash block_stash_lay(const struct model *model, struct shape shape, enum model_stash kind,
                                   struct lay *lay)
{
    const struct model_config *c = &model->config;
    size_t rows = shape.rows, statistics = shape.sequences * c->heads * shape.length;
    bool layer_norm = c->family == MODEL_GPT2;
    struct block_stash s = {0};
    s.mean1 = lay_take(lay, layer_norm ? rows : 0);
    s.rstd1 = lay_take(lay, rows);
    s.mean2 = lay_take(lay, layer_norm ? rows : 0);
    s.rstd2 = lay_take(lay, rows);
    s.row_max = lay_take(lay, statistics);
    s.row_sum = lay_take(lay, statistics);
    s.qkv = lay_take(lay, rows * qkv_width(c));
    s.att = lay_take(lay, rows * c->heads * c->head_dim);
    s.mid = lay_take(lay, rows * c->dim);
    s.gate = lay_take(lay, c->family == MODEL_LLAMA ? rows * c->ffn : 0);
    s.up = lay_take(lay, rows * c->ffn);
    if (kind >= MODEL_STASH_SPLIT) {
        s.dmlp = lay_take(lay, rows * c->dim);
        s.datt = lay_take(lay, rows * c->dim);
        s.dnorm1 = lay_take(lay, rows * c->dim);
        s.dnorm2 = lay_take(lay, rows * c->dim);
        s.dact = lay_take(lay, rows * c->ffn);
        s.dqkv = lay_take(lay, rows * qkv_width(c));
    }
    if (kind == MODEL_STASH_SLICES)
        s.dheads = lay_take(lay, rows * c->heads * c->head_dim);
    return s;
}

struct head_stash head_stash_lay(const struct model *model, struct shape shape, bool split, struct lay *lay)
{
    struct head_stash s = {0};
    s.mean = lay_take(lay, shape.rows);
    s.rstd = lay_take(lay, shape.rows);
    s.logits = lay_take(lay, shape.rows * model->config.vocab);
    if (split)
        s.dnorm = lay_take(lay, shape.rows * model->config.dim);
    return s;
}

struct embed_stash embed_stash_lay(const struct model *model, struct shape shape, bool split, struct lay *lay)
{
    struct embed_stash s = {0};
    if (split)
        s.dx = lay_take(lay, shape.rows * model->config.dim);
    return s;
}

struct block_work block_work_lay(const struct model *model, struct shape shape, bool backward, struct lay *lay)
{
    const struct model_config *c = &model->config;
    size_t narrow = larger(c->dim, (size_t)c->heads * c->head_dim) * shape.rows;
    struct block_work w = {0};
    w.wide = lay_take(lay, larger(c->ffn, qkv_width(c)) * shape.rows);
    w.d1 = lay_take(lay, narrow);
    w.d2 = lay_take(lay, narrow);
    w.d3 = lay_take(lay, backward ? narrow : 0);
    return w;
}

static struct shape shape_of(uint32_t batch, uint32_t length, uint32_t count)
{
    size_t sequences = (size_t)batch * count;
    return (struct shape){sequences, length, sequences * length};
}

size_t model_stash_floats(const struct model *model, uint32_t unit, uint32_t batch, uint32_t length, uint32_t count,
                          enum model_stash kind, bool training)
{
    const bool split = kind >= MODEL_STASH_SPLIT;
    struct shape shape = shape_of(batch, length, count);
    struct lay lay = {0};
    if (!training)
        return 0;
    switch (model->units[unit].kind) {
    case MODEL_UNIT_EMBED:
        embed_stash_lay(model, shape, split, &lay);
        break;
    case MODEL_UNIT_BLOCK:
        block_stash_lay(model, shape, kind, &lay);
        break;
    case MODEL_UNIT_HEAD:
        head_stash_lay(model, shape, split, &lay);
        break;
    }
    return lay.used;
}

size_t model_work_floats(const struct model *model, uint32_t batch, uint32_t length, uint32_t count, bool training)
{
    struct shape shape = shape_of(batch, length, count);
    struct lay lay = {0};
    if (!training)
        block_stash_lay(model, shape, MODEL_STASH_WHOLE, &lay);
    block_work_lay(model, shape, training, &lay);
    return larger(lay.used, larger(head_work_floats(model, shape, training), embed_work_floats(model, shape)));
}

static size_t gemm_bytes(const struct kern *kern, const struct linear *l, struct shape shape, struct leaves leaves,
                         bool training)
{
    static const float weights[1];
    struct linear at = {.bias = MODEL_NONE, .in = l->in, .out = l->out, .ld = l->ld, .conv = l->conv};
    struct kern_gemm g = linear_forward(&at, weights, NULL, l->out, NULL, l->in, shape.rows);
    size_t bytes = kern->gemm_scratch(&g);
    if (!training)
        return bytes;
    g = linear_input_grad(&at, weights, NULL, l->in, NULL, l->out, shape.rows, false);
    bytes = larger(bytes, kern->gemm_scratch(&g));
    g = (struct kern_gemm){
        .op = KERN_TN,
        .m = l->conv ? l->in : l->out,
        .n = l->conv ? l->out : l->in,
        .k = leaves.rows,
        .ldc = l->ld,
        .lda = l->conv ? l->in : l->out,
        .ldb = l->conv ? l->out : l->in,
        .segments = leaves.segments,
    };
    return larger(bytes, kern->gemm_scratch(&g));
}

size_t model_scratch_bytes(const struct model *model, const struct kern *kern, uint32_t batch, uint32_t length,
                           uint32_t count, bool training)
{
    const struct model_config *c = &model->config;
    struct shape shape = shape_of(batch, length, count);
    struct leaves leaves = {(size_t)batch * length, count, false};
    struct block b = block_of(model, 1, false);
    struct head head = head_of(model);
    const struct linear *linears[] = {&b.qkv[0], &b.qkv[b.qkv_count - 1], &b.o, &b.up, &b.down};
    size_t bytes = embed_scratch_bytes(model, count);
    for (size_t i = 0; i < sizeof linears / sizeof *linears; i++)
        bytes = larger(bytes, gemm_bytes(kern, linears[i], shape, leaves, training));
    struct shape at_once = {1, 0, head_rows_at_once(shape.rows, training)}, last = {1, 0, shape.rows % at_once.rows};
    bytes = larger(bytes, gemm_bytes(kern, &head.linear, at_once, leaves, training));
    bytes = larger(bytes, gemm_bytes(kern, &head.linear, last, leaves, training));

    struct kern_attention a = {
        .sequences = shape.sequences,
        .queries = length,
        .keys = length,
        .heads = c->heads,
        .kv_heads = c->kv_heads,
        .head_dim = c->head_dim,
        .q_stride = qkv_width(c),
        .k_stride = qkv_width(c),
        .v_stride = qkv_width(c),
        .o_stride = (size_t)c->heads * c->head_dim,
        .kv_sequence_stride = length * qkv_width(c),
    };
    bytes = larger(bytes, kern->attention_scratch(&a));
    if (training)
        bytes = larger(bytes, kern->attention_grad_scratch(&a));
    return (bytes + 63) / 64 * 64;
}

// A slice is of whole blocks of attention's queries, else its bits would show.
static bool aligned(const struct model_run *run)
{
    uint32_t end = run->position + run->positions;
    return !run_sliced(run) ||
           (run->position % MODEL_QUERY_BLOCK == 0 && (end % MODEL_QUERY_BLOCK == 0 || end == run->length));
}

void model_forward(const struct model_run *run, uint32_t unit, float *x_out, const float *x_in, float *stash,
                   float *work, double *losses)
{
    BG_ASSERT(unit < run->model->unit_count && aligned(run));
    switch (run->model->units[unit].kind) {
    case MODEL_UNIT_EMBED:
        embed_forward(run, x_out);
        break;
    case MODEL_UNIT_BLOCK:
        block_forward(run, unit, x_out, x_in, stash, work);
        break;
    case MODEL_UNIT_HEAD:
        head_forward(run, x_in, stash, work, losses);
        break;
    }
}

void model_backward(const struct model_run *run, uint32_t unit, enum model_backward_part part, float *dx,
                    const float *x_in, float *stash, float *work, struct model_grad *grad, bool accumulate)
{
    BG_ASSERT(unit < run->model->unit_count && aligned(run) && (part == MODEL_BACKWARD_INPUT || !run_sliced(run)));
    switch (run->model->units[unit].kind) {
    case MODEL_UNIT_EMBED:
        embed_backward(run, part, dx, stash, work, grad, accumulate);
        break;
    case MODEL_UNIT_BLOCK:
        block_backward(run, unit, part, dx, x_in, stash, work, grad, accumulate);
        break;
    case MODEL_UNIT_HEAD:
        head_backward(run, part, dx, x_in, stash, work, grad, accumulate);
        break;
    }
}
