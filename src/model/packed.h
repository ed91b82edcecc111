// A model's weights as decoding reads them: each linear layer packed once into panels (kern.h), in fp32, Q8_0, Q4_0 or
// INT8; norms, biases, positions and the token table as they are. Q8_0 and Q4_0 weights stand for the fp32 numbers of
// NUMERICS 3. INT8 has the numbers of Q8_0, but multiplies them with quantised inputs: class int8/1, never chosen
// unasked and never written to a model's file.
#ifndef MODEL_PACKED_H
#define MODEL_PACKED_H

#include "model/model.h"

// Where the weights of one parameter come from: fp32 numbers in Hugging Face layout, or rows of quantised blocks as
// GGUF stores them: (out, in) whatever the parameter's shape, in a multiple of 32.
struct packed_source {
    enum kern_weight type;
    const void *data;
};

struct packed_linear {
    struct kern_packed w;
    const float *bias; // NULL: none
};
struct packed_block {
    struct packed_linear q, k, v, o, gate, up, down; // gate.w.data NULL: GPT-2
};
struct packed_model {
    const struct model *model;
    const float *weights;        // the full set: norms, biases, token table, positions
    enum kern_weight type;       // of the layers that can have it
    struct packed_block *blocks; // (layers)
    struct packed_linear head;
    struct bg_env *env;
    void *memory; // all panels
    size_t memory_bytes;
};

// Packs into `type`. sources: NULL, or (param_count) of what is quantised already (a type other than F32 is taken as it
// is where it is `type`, else widened first). Quantising from fp32 follows GGML's formula: per 32 numbers, d = largest
// magnitude / 127 (Q8_0: q = nearest integer, halves away from zero) or signed largest / -8 (Q4_0), d rounded to F16.
// INT8 has what Q8_0 would have: its blocks as they are, others widened, then quantised. A layer whose inputs are no
// multiple of 32 stays fp32.
BG_MUST_USE bg_status packed_create(struct bg_env *env, const struct model *model, const float *weights,
                                    const struct packed_source *sources, enum kern_weight type, struct bg_error *err,
                                    struct packed_model **packed);
void packed_destroy(struct packed_model *packed);
// The numeric class of what is computed with weights of a type (docs/numerics.md).
const char *packed_class(enum kern_weight type);
// Panels made elsewhere (a cache file that is mapped): `memory` of packed_bytes() bytes, as in packed->memory of a
// packed_create() with the same model and type; it stays the caller's.
size_t packed_bytes(const struct model *model, enum kern_weight type);
struct packed_model *packed_adopt(struct bg_env *env, const struct model *model, const float *weights,
                                  enum kern_weight type, const void *memory);

#endif
