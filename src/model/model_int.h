// Inside the room: a unit's weights as linear layers and norms, where the stash and the work memory of a unit
// keep what, and jobs (kernels cut into items that all lanes share).
//
// Debug layout: tests read activations through block_stash_lay() and head_stash_lay() over the stash they gave to
// model_forward(); norm outputs and activation outputs are not kept anywhere (the backward computes them again).
#ifndef MODEL_MODEL_INT_H
#define MODEL_MODEL_INT_H

#include "model/model.h"

#include <math.h>

#define MODEL_NONE SIZE_MAX

// ---- Work shared by all lanes ----

enum { MODEL_GRAIN_ROWS = 16, MODEL_GRAIN_COLUMNS = 64, MODEL_JOBS_MAX = 12 };
enum { MODEL_QUERY_BLOCK = 64 }; // queries of one of attention's items

// Rows [first, first + count) of item `index` of a pass over `rows` rows.
struct span {
    size_t first, count;
};
static inline size_t span_items(size_t rows)
{
    return (rows + MODEL_GRAIN_ROWS - 1) / MODEL_GRAIN_ROWS;
}
static inline struct span span_at(size_t index, size_t rows)
{
    size_t first = index * MODEL_GRAIN_ROWS;
    return (struct span){first, rows - first < MODEL_GRAIN_ROWS ? rows - first : MODEL_GRAIN_ROWS};
}

// Rows of a pass: `runs` runs of `rows` rows, the first at `first`, `apart` rows from one to the next. A slice is a run
// of every sequence.
struct stripe {
    size_t runs, apart, first, rows;
};
static inline struct stripe stripe_whole(size_t rows)
{
    return (struct stripe){1, rows, 0, rows};
}
static inline size_t stripe_items(const struct stripe *s, size_t grain)
{
    return s->runs * ((s->rows + grain - 1) / grain);
}
static inline struct span stripe_at(const struct stripe *s, size_t index, size_t grain)
{
    size_t each = (s->rows + grain - 1) / grain, at = index % each * grain;
    return (struct span){s->first + index / each * s->apart + at, s->rows - at < grain ? s->rows - at : grain};
}

// A job is `items` independent calls of fn(arg, item, lane); a list of jobs runs in one parallel_for, so that the lanes
// meet once at its end. Jobs of a list must not depend on each other.
struct job_item {
    size_t items;
    bg_task_fn fn;
    void *arg;
};
struct columns { // column sums over (segments * rows, dim)
    const struct kern *kern;
    float *dgamma, *dbeta; // dgamma NULL: plain column sum into dbeta
    const float *dout, *x, *mean, *rstd;
    size_t rows, dim, width, segments; // width: columns summed of the dim that rows are apart
    bool accumulate;
};
struct gemm_call { // of g's rows as they are (`runs` 0), or of a stripe's runs of them
    const struct kern *kern;
    void *const *lane_scratch;
    struct kern_gemm g;
    struct stripe stripe;
    size_t blocks; // of a run
};
struct jobs {
    struct bg_env *env;
    const struct kern *kern;
    void *const *lane_scratch;
    size_t count, gemm_count, columns_count;
    struct job_item list[MODEL_JOBS_MAX];
    struct gemm_call gemms[MODEL_JOBS_MAX];
    struct columns columns[MODEL_JOBS_MAX];
};
void jobs_init(struct jobs *jobs, const struct model_run *run);
void jobs_add(struct jobs *jobs, size_t items, bg_task_fn fn, void *arg);
void jobs_add_gemm(struct jobs *jobs, struct kern_gemm g);
void jobs_add_rows(struct jobs *jobs, struct kern_gemm g, const struct stripe *stripe); // g: of row 0, NT or NN
void jobs_add_columns(struct jobs *jobs, struct columns c);
void jobs_run(struct jobs *jobs); // and empties the list

// Dropout of rows [first, first + count) of a (rows, dim) tensor of the group, in place; nothing without dropout.
enum { DROPOUT_EMBED = 0, DROPOUT_ATTENTION = 1, DROPOUT_MLP = 2, DROPOUT_OPS = 4 }; // op = layer * 4 + one of these
bool run_drops(const struct model_run *run);
void run_dropout(const struct model_run *run, uint32_t op, float *x, struct span rows, size_t dim);

// ---- Weights of a unit ----

// y (rows, out) = x (rows, in) W^T + b. W is (out, in), or (in, out) in GPT-2's Conv1D layout.
struct linear {
    size_t weight, bias; // offsets in floats from the base of weights and of gradients; bias may be MODEL_NONE
    size_t in, out, ld;
    bool conv;
};
struct kern_gemm linear_forward(const struct linear *l, const float *weights, float *y, size_t ldy, const float *x,
                                size_t ldx, size_t rows);
struct kern_gemm linear_input_grad(const struct linear *l, const float *weights, float *dx, size_t ldx, const float *dy,
                                   size_t ldy, size_t rows, bool accumulate);
// Adds the jobs of dW and, where there is a bias, of db. rows: of one segment.
struct leaves {
    size_t rows, segments;
    bool accumulate;
};
void linear_weight_grad(struct jobs *jobs, const struct linear *l, float *dense, const float *dy, size_t ldy,
                        const float *x, size_t ldx, struct leaves leaves);

struct norm {
    size_t gamma, beta; // offsets; beta MODEL_NONE: RMSNorm
    size_t dim;
    float eps;
};
// All of these work on the rows they are given; mean is NULL for RMSNorm.
void norm_forward(const struct norm *n, const struct kern *kern, const float *weights, float *out, float *mean,
                  float *rstd, const float *x, size_t rows);
void norm_input_grad(const struct norm *n, const struct kern *kern, const float *weights, float *dx, const float *dout,
                     const float *x, const float *mean, const float *rstd, size_t rows, bool accumulate);
void norm_weight_grad(struct jobs *jobs, const struct norm *n, float *dense, const float *dout, const float *x,
                      const float *mean, const float *rstd, struct leaves leaves);

struct block {
    const struct model_config *config;
    uint32_t layer;
    struct norm norm1, norm2;
    struct linear qkv[3]; // Llama: q, k, v; GPT-2: one c_attn in training, its three slices in decoding
    size_t qkv_count;
    struct linear o, gate, up, down; // gate: Llama family
    bool gated, rotary;
};
struct block block_of(const struct model *model, uint32_t unit, bool sliced);

struct head {
    struct norm norm;
    struct linear linear; // tied: its weight is the embedding
};
struct head head_of(const struct model *model);

size_t model_offset(const struct model *model, uint32_t unit, enum model_role role); // MODEL_NONE: absent
static inline const float *model_at(const float *base, size_t offset)
{
    return offset == MODEL_NONE ? NULL : base + offset;
}

// ---- Memory of a unit ----

// Hands out consecutive 64-byte aligned pieces; without a base it only counts.
struct lay {
    float *base;
    size_t used;
};
static inline float *lay_take(struct lay *lay, size_t floats)
{
    float *piece = lay->base ? lay->base + lay->used : NULL;
    lay->used += (floats + 15) / 16 * 16;
    return piece;
}

struct shape {                      // of a group
    size_t sequences, length, rows; // rows = sequences * length
};
static inline struct shape run_shape(const struct model_run *run)
{
    size_t sequences = (size_t)run->count * run->batch;
    return (struct shape){sequences, run->length, sequences * run->length};
}
static inline bool run_sliced(const struct model_run *run)
{
    return run->positions > 0 && run->positions < run->length;
}
static inline struct stripe run_stripe(const struct model_run *run)
{
    const struct shape shape = run_shape(run);
    return run_sliced(run) ? (struct stripe){shape.sequences, shape.length, run->position, run->positions}
                           : stripe_whole(shape.rows);
}

struct block_stash {
    float *mean1, *rstd1, *mean2, *rstd2; // (rows)
    float *row_max, *row_sum;             // (sequences, heads, T)
    float *qkv;                           // (rows, (heads + 2 kv_heads) * head_dim): q, k, v of a row, after rotation
    float *att;                           // (rows, heads * head_dim)
    float *mid;                           // (rows, dim): x + attention
    float *gate, *up;                     // (rows, ffn); the backward turns them into their gradients
    // From MODEL_STASH_SPLIT on:
    float *dmlp, *datt;     // (rows, dim): gradients of the two branches' outputs, after dropout
    float *dnorm1, *dnorm2; // (rows, dim)
    float *dact;            // (rows, ffn): gradient of the activation, then the activation itself
    float *dqkv;            // as qkv
    // MODEL_STASH_SLICES:
    float *dheads; // (rows, heads * head_dim): gradient of att
};
struct block_stash block_stash_lay(const struct model *model, struct shape shape, enum model_stash kind,
                                   struct lay *lay);

struct head_stash {
    float *mean, *rstd; // (rows)
    float *logits;      // (rows, vocab); after the forward their gradient
    float *dnorm;       // (rows, dim), split only
};
struct head_stash head_stash_lay(const struct model *model, struct shape shape, bool split, struct lay *lay);

struct embed_stash {
    float *dx; // (rows, dim), split only
};
struct embed_stash embed_stash_lay(const struct model *model, struct shape shape, bool split, struct lay *lay);

struct block_work {
    float *wide;         // (rows, max(ffn, qkv))
    float *d1, *d2, *d3; // (rows, max(dim, heads * head_dim))
};
struct block_work block_work_lay(const struct model *model, struct shape shape, bool backward, struct lay *lay);
size_t embed_work_floats(const struct model *model, struct shape shape);
size_t head_work_floats(const struct model *model, struct shape shape, bool training);
size_t head_rows_at_once(size_t rows, bool training); // logits that exist at once; the last run of rows may be shorter
size_t embed_scratch_bytes(const struct model *model, uint32_t count); // per lane

// ---- Units ----

static inline float attention_scale(const struct model_config *config)
{
    return (float)(1.0 / sqrt((double)config->head_dim));
}

// One block's forward over rows whose keys may lie anywhere (the stash in training, the cache in decoding).
struct block_call {
    const struct model_run *run;
    struct block block;
    struct stripe stripe;
    size_t position0, period; // row r has position position0 + r % period
    struct block_stash s;
    float *q, *k, *v; // rows that this call computes
    size_t q_stride, kv_stride;
    struct kern_attention attention; // keys may begin before k
    struct block_work w;
    float *x_out;
    const float *x_in;
};
void block_call_forward(struct block_call *c);
struct block_call block_call_training(const struct model_run *run, uint32_t unit, const struct block_stash *stash,
                                      const struct block_work *work, const float *x_in);

void embed_forward(const struct model_run *run, float *x_out);
void embed_backward(const struct model_run *run, enum model_backward_part part, float *dx, float *stash, float *work,
                    struct model_grad *grad, bool accumulate);
void block_forward(const struct model_run *run, uint32_t unit, float *x_out, const float *x_in, float *stash,
                   float *work);
void block_backward(const struct model_run *run, uint32_t unit, enum model_backward_part part, float *dx,
                    const float *x_in, float *stash, float *work, struct model_grad *grad, bool accumulate);
void head_forward(const struct model_run *run, const float *x_in, float *stash, float *work, double *losses);
void head_backward(const struct model_run *run, enum model_backward_part part, float *dx, const float *x_in,
                   float *stash, float *work, struct model_grad *grad, bool accumulate);

#endif
