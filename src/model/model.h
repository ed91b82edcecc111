// A transformer as a list of units (embed, block 0.., head): what a pipeline can cut between. Each unit has a
// forward and a backward that can be split into its input-gradient and weight-gradient halves.
//
// The executor works on a *group*: `count` consecutive micro-batches that form one node of the canonical tree (an
// aligned power of two, or its cut at M). Rows of a group are independent in the forward and in input gradients, so the
// group's size never shows in the bits; weight gradients come out as the value of the group's node.
#ifndef MODEL_MODEL_H
#define MODEL_MODEL_H

#include "base/env.h"
#include "base/philox.h"
#include "kern/kern.h"
#include "model/config.h"

enum model_init { MODEL_INIT_NORMAL, MODEL_INIT_RESIDUAL, MODEL_INIT_ZERO, MODEL_INIT_ONE };

struct model_param {
    char name[96];     // Hugging Face name
    uint32_t rank;     // 1 or 2
    uint64_t shape[2]; // Hugging Face layout, also in memory
    uint64_t count;    // elements
    uint64_t offset;   // floats from the base of weights (and of gradients, moments); 16-aligned, by bucket
    uint32_t unit;
    uint32_t role; // enum model_role
    enum model_init init;
    bool decay; // weight decay: rank >= 2
};

// What a parameter is to its unit, whatever its family calls it.
enum model_role {
    MODEL_ROLE_EMBED,    // (vocab, dim)
    MODEL_ROLE_POSITION, // (context, dim), GPT-2
    MODEL_ROLE_NORM1,
    MODEL_ROLE_NORM1_BIAS,
    MODEL_ROLE_Q,
    MODEL_ROLE_Q_BIAS,
    MODEL_ROLE_K,
    MODEL_ROLE_K_BIAS,
    MODEL_ROLE_V,
    MODEL_ROLE_V_BIAS,
    MODEL_ROLE_QKV, // GPT-2's c_attn
    MODEL_ROLE_QKV_BIAS,
    MODEL_ROLE_O,
    MODEL_ROLE_O_BIAS,
    MODEL_ROLE_NORM2,
    MODEL_ROLE_NORM2_BIAS,
    MODEL_ROLE_GATE, // Llama family
    MODEL_ROLE_GATE_BIAS,
    MODEL_ROLE_UP, // GPT-2's c_fc
    MODEL_ROLE_UP_BIAS,
    MODEL_ROLE_DOWN,
    MODEL_ROLE_DOWN_BIAS,
    MODEL_ROLE_NORM, // the head's
    MODEL_ROLE_NORM_BIAS,
    MODEL_ROLE_HEAD, // (vocab, dim); absent when tied
    MODEL_ROLES,
};

enum model_unit_kind { MODEL_UNIT_EMBED, MODEL_UNIT_BLOCK, MODEL_UNIT_HEAD };
// A unit's parameters need not be neighbours (names are in byte order): find them by role, or by params[i].unit.
struct model_unit {
    enum model_unit_kind kind;
    uint32_t layer;
    int32_t param[MODEL_ROLES]; // index into model->params, -1: absent. A tied head does not list the embedding
};

// What gradients and state are handled by: a contiguous range of every set of parameters. Bucket 0 is the token table,
// bucket 1 + u all other parameters of unit u (none: floats == 0).
struct model_bucket {
    uint64_t first, floats; // 16-aligned, gaps included
    uint32_t unit; // whose backward makes the dense gradient. Untied, the token table has none: only sparse rows
};

struct model {
    struct model_config config;
    struct model_param *params; // in name order (byte order): the order of hashes, files and norms, not of offsets
    uint32_t param_count;
    struct model_bucket *buckets;
    uint32_t bucket_count; // 1 + unit_count
    uint64_t floats;       // of one full set of parameters, with alignment gaps (gaps stay +0)
    uint64_t elements;     // parameters proper
    struct model_unit *units;
    uint32_t unit_count;
    float *rope_cos, *rope_sin; // (context, head_dim/2), Llama family
};

BG_MUST_USE bg_status model_create(const struct model_config *config, struct bg_error *err, struct model **model);
void model_destroy(struct model *model);
const struct model_param *model_param_find(const struct model *model, const char *name); // NULL: absent
// NUMERICS 14: every tensor from its own name; on all lanes, the same bits on any number of them.
void model_init_weights(const struct model *model, struct bg_env *env, uint64_t seed, float *weights);
// Of the parameters that these units use; units (unit_count), NULL: all. Other pages stay untouched.
void model_init_units(const struct model *model, struct bg_env *env, uint64_t seed, const uint8_t *units,
                      float *weights);
// One of these units uses it: its own, and of a tied head the token table.
bool model_holds_param(const struct model *model, const uint8_t *units, uint32_t param);

// Sparse rows: the gradient of the token embedding (NUMERICS 10): token ids ascending, one row of `dim` each.
struct model_sparse {
    uint32_t count, capacity;
    int32_t *ids;
    float *rows; // (capacity, dim)
};

// One node's gradients. `dense` has the layout of the weights; the token embedding's part of it holds the head's
// gradient when tied and is unused until model_grad_finish() otherwise.
struct model_grad {
    float *dense;
    struct model_sparse embed;
};

enum model_stash {      // what the backward is to find
    MODEL_STASH_WHOLE,  // BOTH
    MODEL_STASH_SPLIT,  // also INPUT and WEIGHT: output gradients are kept as well
    MODEL_STASH_SLICES, // also INPUT slice by slice
};

// What one group works on. Everything here is fixed while the group is in flight.
struct model_run {
    const struct model *model;
    const struct kern *kern;
    struct bg_env *env;
    const float *weights;
    void *const *lane_scratch;       // env->threads pointers, model_scratch_bytes() each
    uint32_t batch, length;          // sequences a micro-batch, tokens a sequence (T)
    uint32_t first, count;           // micro-batches [first, first + count) of the step
    const int32_t *tokens, *targets; // (count*batch, T); targets < 0 are ignored
    float loss_scale;                // (float)(1.0/N)
    uint64_t step;
    float dropout;                           // 0: none
    const struct bg_philox_key *dropout_key; // NULL: none (evaluation)
    // A slice: forward, and backward's INPUT half, of positions [position, position + positions) of every sequence
    // only; 0 positions: all. `position` is a multiple of 64, and so is the end unless it is `length`. Tensors are
    // those of the whole group, of which the slice's rows are read and written; the stash (MODEL_STASH_SLICES) holds
    // what other slices need: those before in the forward, those behind in the backward. Slices never show in the bits.
    uint32_t position, positions;
};

// Sizes in floats for a group of `rows` = count*batch*T tokens.
size_t model_stash_floats(const struct model *model, uint32_t unit, uint32_t batch, uint32_t length, uint32_t count,
                          enum model_stash kind, bool training);
size_t model_work_floats(const struct model *model, uint32_t batch, uint32_t length, uint32_t count,
                         bool training); // shared temporaries, one per group in flight
size_t model_scratch_bytes(const struct model *model, const struct kern *kern, uint32_t batch, uint32_t length,
                           uint32_t count, bool training); // per lane

// Forward of one unit. x_in, x_out: (rows, dim); embed ignores x_in; head ignores x_out and leaves per-token losses in
// losses (rows, double). With stash == NULL nothing is kept for a backward (evaluation).
void model_forward(const struct model_run *run, uint32_t unit, float *x_out, const float *x_in, float *stash,
                   float *work, double *losses);

enum model_backward_part { MODEL_BACKWARD_INPUT = 1, MODEL_BACKWARD_WEIGHT = 2, MODEL_BACKWARD_BOTH = 3 };
// Backward of one unit: dx (rows, dim) in from above and out to below, in place (head: out only; embed: in only).
// grad/accumulate: where the node's value goes and whether it is added to its sibling's (tree_place).
// INPUT first, then (once, any time later) WEIGHT with the same stash; or BOTH. WEIGHT ignores dx. In slices: INPUT of
// each, the last slice first, then WEIGHT of the whole.
// x_in as it was given to the forward.
void model_backward(const struct model_run *run, uint32_t unit, enum model_backward_part part, float *dx,
                    const float *x_in, float *stash, float *work, struct model_grad *grad, bool accumulate);

// to += from: two held nodes of the tree fold. Of one bucket's dense range, of sparse rows (absent + x = x; ids stay
// ascending), of everything.
void model_bucket_fold(const struct model *model, const struct kern *kern, struct bg_env *env, uint32_t bucket,
                       float *to, const float *from);
void model_sparse_fold(const struct kern *kern, struct model_sparse *to, const struct model_sparse *from, size_t dim);
void model_grad_fold(const struct model *model, const struct kern *kern, struct bg_env *env, struct model_grad *to,
                     const struct model_grad *from);
bool model_bucket_dense(const struct model *model, uint32_t bucket); // its gradient has a dense part
// Joins the root's sparse rows into a token table's gradient (vocab, dim): added (tied: root = head + embedding) or
// copied over rows that must be zero before (untied). finish: in place, with that zeroing.
void model_table_join(const struct model *model, float *table, const struct model_sparse *rows);
void model_grad_finish(const struct model *model, struct model_grad *root);

// Linear algebra shared by units, decode and tests: y = x W^T + b on all lanes.
void model_gemm(struct bg_env *env, const struct kern *kern, void *const *lane_scratch, const struct kern_gemm *g);

#endif
