// Element types of files. In memory a training tensor is always fp32 (NUMERICS 3).
#ifndef TENSOR_DTYPE_H
#define TENSOR_DTYPE_H

#include "base/status.h"

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

enum tensor_dtype {
    TENSOR_F32,
    TENSOR_F16,
    TENSOR_BF16,
    TENSOR_F64,
    TENSOR_I64,
    TENSOR_I32,
    TENSOR_I16,
    TENSOR_I8,
    TENSOR_U8,
    TENSOR_BOOL,
    // GGUF block formats, dequantised to fp32 by fixed formulas.
    TENSOR_Q4_0,
    TENSOR_Q4_1,
    TENSOR_Q5_0,
    TENSOR_Q5_1,
    TENSOR_Q8_0,
    TENSOR_Q4_K,
    TENSOR_Q5_K,
    TENSOR_Q6_K,
};

#define TENSOR_RANK_MAX 8

// One tensor of a file: a view into the mapped bytes, already checked against the file's bounds.
struct tensor_view {
    const char *name;
    enum tensor_dtype dtype;
    unsigned rank;
    uint64_t shape[TENSOR_RANK_MAX]; // outermost first, whatever the file's order
    const uint8_t *data;
    uint64_t bytes;
};

const char *tensor_dtype_name(enum tensor_dtype dtype);
uint64_t tensor_view_count(const struct tensor_view *view); // number of elements

// Bytes of a tensor. False: the shape overflows, or its rows are not whole blocks of a block format.
bool tensor_dtype_bytes(enum tensor_dtype dtype, unsigned rank, const uint64_t *shape, uint64_t *bytes);
// "(2, 3)", for errors.
#define TENSOR_SHAPE_TEXT (TENSOR_RANK_MAX * 24)
void tensor_shape_text(unsigned rank, const uint64_t *shape, char text[TENSOR_SHAPE_TEXT]);

// Widens or dequantises `view` to fp32; F64 is rounded once. Integers are refused.
BG_MUST_USE bg_status tensor_view_to_f32(const struct tensor_view *view, struct bg_error *err, float *out);

#endif
