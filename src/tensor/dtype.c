// Element types of files and how each becomes fp32. Widening F16 and BF16 is exact; F64 is rounded once, to
// nearest, and refused where a finite value would become infinite. The GGUF block formats follow one formula
// each, products before sums, nothing fused, so a dequantised model is the same everywhere (NUMERICS 3). Bytes
// are read through memcpy: tensors in files need not be aligned. Little-endian machines only.
#include "tensor/dtype.h"

#include "base/assert.h"

#include <inttypes.h>
#include <math.h>
#include <stdio.h>
#include <string.h>

_Static_assert(__BYTE_ORDER__ == __ORDER_LITTLE_ENDIAN__, "the file formats are little-endian and read in place");

typedef void (*decode_fn)(const uint8_t *bytes, float *out); // one block

static void decode_q4_0(const uint8_t *bytes, float *out);
static void decode_q4_1(const uint8_t *bytes, float *out);
static void decode_q5_0(const uint8_t *bytes, float *out);
static void decode_q5_1(const uint8_t *bytes, float *out);
static void decode_q8_0(const uint8_t *bytes, float *out);
static void decode_q4_k(const uint8_t *bytes, float *out);
static void decode_q5_k(const uint8_t *bytes, float *out);
static void decode_q6_k(const uint8_t *bytes, float *out);

static const struct dtype_info {
    const char *name;
    uint32_t block, bytes; // elements and bytes of one block
    decode_fn decode;      // block formats only
} infos[] = {
    [TENSOR_F32] = {"F32", 1, 4, NULL},
    [TENSOR_F16] = {"F16", 1, 2, NULL},
    [TENSOR_BF16] = {"BF16", 1, 2, NULL},
    [TENSOR_F64] = {"F64", 1, 8, NULL},
    [TENSOR_I64] = {"I64", 1, 8, NULL},
    [TENSOR_I32] = {"I32", 1, 4, NULL},
    [TENSOR_I16] = {"I16", 1, 2, NULL},
    [TENSOR_I8] = {"I8", 1, 1, NULL},
    [TENSOR_U8] = {"U8", 1, 1, NULL},
    [TENSOR_BOOL] = {"BOOL", 1, 1, NULL},
    [TENSOR_Q4_0] = {"Q4_0", 32, 18, decode_q4_0},
    [TENSOR_Q4_1] = {"Q4_1", 32, 20, decode_q4_1},
    [TENSOR_Q5_0] = {"Q5_0", 32, 22, decode_q5_0},
    [TENSOR_Q5_1] = {"Q5_1", 32, 24, decode_q5_1},
    [TENSOR_Q8_0] = {"Q8_0", 32, 34, decode_q8_0},
    [TENSOR_Q4_K] = {"Q4_K", 256, 144, decode_q4_k},
    [TENSOR_Q5_K] = {"Q5_K", 256, 176, decode_q5_k},
    [TENSOR_Q6_K] = {"Q6_K", 256, 210, decode_q6_k},
};

static float f16_to_f32(uint16_t half)
{
    uint32_t sign = (uint32_t)(half & 0x8000) << 16, exponent = (half >> 10) & 31, mantissa = half & 1023;
    uint32_t bits;
    if (exponent == 31) {
        bits = sign | 0x7f800000 | mantissa << 13;
    } else if (exponent) {
        bits = sign | (exponent + 112) << 23 | mantissa << 13;
    } else { // zero or subnormal: mantissa * 2^-24, exact in fp32
        float value = (float)mantissa * 0x1p-24f;
        memcpy(&bits, &value, 4);
        bits |= sign;
    }
    float value;
    memcpy(&value, &bits, 4);
    return value;
}

static float read_f16(const uint8_t *bytes)
{
    uint16_t half;
    memcpy(&half, bytes, 2);
    return f16_to_f32(half);
}

static bg_status narrow_f64(const struct tensor_view *view, struct bg_error *err, float *out)
{
    uint64_t count = tensor_view_count(view);
    for (uint64_t i = 0; i < count; i++) {
        double value;
        memcpy(&value, view->data + 8 * i, 8);
        out[i] = (float)value;
        if (isinf(out[i]) && !isinf(value))
            return bg_fail(err, BG_UNSUPPORTED, "tensor %s: element %" PRIu64 " is %g, beyond the range of fp32",
                           view->name, i, value);
    }
    return BG_OK;
}

bg_status tensor_view_to_f32(const struct tensor_view *view, struct bg_error *err, float *out)
{
    uint64_t count = tensor_view_count(view);
    const struct dtype_info *info = &infos[view->dtype];
    BG_ASSERT(view->bytes == count / info->block * info->bytes);
    if (info->decode) {
        for (uint64_t i = 0; i < count / info->block; i++)
            info->decode(view->data + i * info->bytes, out + i * info->block);
        return BG_OK;
    }
    switch (view->dtype) {
    case TENSOR_F32:
        if (count)
            memcpy(out, view->data, view->bytes);
        return BG_OK;
    case TENSOR_F16:
        for (uint64_t i = 0; i < count; i++)
            out[i] = read_f16(view->data + 2 * i);
        return BG_OK;
    case TENSOR_BF16:
        for (uint64_t i = 0; i < count; i++) {
            uint16_t high;
            memcpy(&high, view->data + 2 * i, 2);
            uint32_t bits = (uint32_t)high << 16;
            memcpy(&out[i], &bits, 4);
        }
        return BG_OK;
    case TENSOR_F64:
        return narrow_f64(view, err, out);
    default:
        return bg_fail(err, BG_UNSUPPORTED, "tensor %s: weights are expected as F32, F16, BF16 or F64, found %s",
                       view->name, info->name);
    }
}

const char *tensor_dtype_name(enum tensor_dtype dtype)
{
    return infos[dtype].name;
}

uint64_t tensor_view_count(const struct tensor_view *view)
{
    uint64_t count = 1;
    for (unsigned i = 0; i < view->rank; i++)
        count *= view->shape[i];
    return count;
}

bool tensor_dtype_bytes(enum tensor_dtype dtype, unsigned rank, const uint64_t *shape, uint64_t *bytes)
{
    const struct dtype_info *info = &infos[dtype];
    uint64_t count = 1;
    bool empty = false;
    for (unsigned i = 0; i < rank; i++) {
        empty = empty || shape[i] == 0;
        // A zero elsewhere does not excuse an absurd dimension.
        if (__builtin_mul_overflow(count, shape[i] ? shape[i] : 1, &count))
            return false;
    }
    uint64_t row = rank ? shape[rank - 1] : 1;
    return row % info->block == 0 && !__builtin_mul_overflow(empty ? 0 : count / info->block, info->bytes, bytes);
}

void tensor_shape_text(unsigned rank, const uint64_t *shape, char text[TENSOR_SHAPE_TEXT])
{
    size_t used = 0;
    text[used++] = '(';
    for (unsigned i = 0; i < rank; i++)
        used += (size_t)snprintf(text + used, TENSOR_SHAPE_TEXT - used, "%s%" PRIu64, i ? ", " : "", shape[i]);
    text[used++] = ')';
    text[used] = 0;
}

// Nibbles of 16 bytes: low ones are elements 0..15, high ones 16..31. The fifth bits stand in a word, bit i for
// element i. value = (q - offset) * scale, or q * scale + minimum.
static void decode_q4_0(const uint8_t *bytes, float *out)
{
    float scale = read_f16(bytes);
    for (int i = 0; i < 16; i++) {
        out[i] = (float)((bytes[2 + i] & 15) - 8) * scale;
        out[i + 16] = (float)((bytes[2 + i] >> 4) - 8) * scale;
    }
}

static void decode_q4_1(const uint8_t *bytes, float *out)
{
    float scale = read_f16(bytes), minimum = read_f16(bytes + 2);
    for (int i = 0; i < 16; i++) {
        out[i] = (float)(bytes[4 + i] & 15) * scale + minimum;
        out[i + 16] = (float)(bytes[4 + i] >> 4) * scale + minimum;
    }
}

static int fifth_bit(uint32_t word, int index)
{
    return (int)(word >> index & 1) << 4;
}

static void decode_q5_0(const uint8_t *bytes, float *out)
{
    float scale = read_f16(bytes);
    uint32_t fifth;
    memcpy(&fifth, bytes + 2, 4);
    for (int i = 0; i < 16; i++) {
        out[i] = (float)(((bytes[6 + i] & 15) | fifth_bit(fifth, i)) - 16) * scale;
        out[i + 16] = (float)(((bytes[6 + i] >> 4) | fifth_bit(fifth, i + 16)) - 16) * scale;
    }
}

static void decode_q5_1(const uint8_t *bytes, float *out)
{
    float scale = read_f16(bytes), minimum = read_f16(bytes + 2);
    uint32_t fifth;
    memcpy(&fifth, bytes + 4, 4);
    for (int i = 0; i < 16; i++) {
        out[i] = (float)((bytes[8 + i] & 15) | fifth_bit(fifth, i)) * scale + minimum;
        out[i + 16] = (float)((bytes[8 + i] >> 4) | fifth_bit(fifth, i + 16)) * scale + minimum;
    }
}

static void decode_q8_0(const uint8_t *bytes, float *out)
{
    float scale = read_f16(bytes);
    for (int i = 0; i < 32; i++)
        out[i] = (float)(int8_t)bytes[2 + i] * scale;
}

// The K formats: 256 elements in 8 groups of 32, each with a 6-bit scale and a 6-bit minimum packed in 12 bytes:
// groups 0..3 whole in bytes 0..3 and 4..7; groups 4..7 with low nibbles in bytes 8..11 and the two high bits on
// top of the former.
static void group_scale(const uint8_t *packed, int group, float *scale, float *minimum)
{
    if (group < 4) {
        *scale = (float)(packed[group] & 63);
        *minimum = (float)(packed[group + 4] & 63);
    } else {
        *scale = (float)((packed[group + 4] & 15) | packed[group - 4] >> 6 << 4);
        *minimum = (float)(packed[group + 4] >> 4 | packed[group] >> 6 << 4);
    }
}

// Groups 2p and 2p+1 share 32 bytes: low nibbles, high nibbles. `fifth` (32 bytes or NULL): bit `group` of byte i.
static void decode_k(const uint8_t *bytes, const uint8_t *fifth, const uint8_t *nibbles, float *out)
{
    float block_scale = read_f16(bytes), block_minimum = read_f16(bytes + 2);
    for (int group = 0; group < 8; group++) {
        float scale, minimum;
        group_scale(bytes + 4, group, &scale, &minimum);
        scale = block_scale * scale;
        minimum = block_minimum * minimum;
        const uint8_t *pair = nibbles + 32 * (group / 2);
        for (int i = 0; i < 32; i++) {
            int q = group & 1 ? pair[i] >> 4 : pair[i] & 15;
            if (fifth)
                q |= fifth_bit(fifth[i], group);
            out[32 * group + i] = scale * (float)q - minimum;
        }
    }
}

static void decode_q4_k(const uint8_t *bytes, float *out)
{
    decode_k(bytes, NULL, bytes + 16, out);
}

static void decode_q5_k(const uint8_t *bytes, float *out)
{
    decode_k(bytes, bytes + 16, bytes + 48, out);
}

// Two halves of 128: 64 bytes of low nibbles, 32 bytes of upper bit pairs, 8 signed scales of 16 elements each.
static void decode_q6_k(const uint8_t *bytes, float *out)
{
    float block_scale = read_f16(bytes + 208);
    for (int half = 0; half < 2; half++) {
        const uint8_t *low = bytes + 64 * half, *high = bytes + 128 + 32 * half, *scales = bytes + 192 + 8 * half;
        for (int i = 0; i < 128; i++) {
            int quarter = i / 32, column = i % 32;
            int byte = low[column + 32 * (quarter & 1)];
            int q = (quarter < 2 ? byte & 15 : byte >> 4) | (high[column] >> (2 * quarter) & 3) << 4;
            out[128 * half + i] = block_scale * (float)(int8_t)scales[i / 16] * (float)(q - 32);
        }
    }
}
