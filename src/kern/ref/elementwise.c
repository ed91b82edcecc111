// Kernels that take each element alone: activations, residual, dropout, embedding, rotation, widening. The definition:
// every operation is rounded on its own, in the order written.
#include "kern/rows_int.h"
#include "kern/math_int.h"
#include "kern/packed_int.h"
#include "base/philox.h"

void kern_ref_swiglu(float *out, const float *gate, const float *up, size_t n)
{
    for (size_t i = 0; i < n; i++) {
        float g = gate[i];
        out[i] = (g / (1.0f + kern_exp(-g))) * up[i];
    }
}

void kern_ref_swiglu_grad(float *dgate, float *dup, float *act, const float *dout, const float *gate, const float *up,
                          size_t n)
{
    for (size_t i = 0; i < n; i++) {
        float g = gate[i], d = dout[i], u = up[i];
        float e = 1.0f + kern_exp(-g), s = 1.0f / e;
        act[i] = (g / e) * u;
        dup[i] = d * (g * s);
        dgate[i] = (d * u) * (s * (1.0f + g * (1.0f - s)));
    }
}

// 0.5 x (1 + tanh u) = x / (1 + exp(-2u)): nothing cancels where u is negative.
void kern_ref_gelu(float *out, const float *x, size_t n)
{
    for (size_t i = 0; i < n; i++) {
        float v = x[i];
        float u2 = KERN_GELU_SCALE * (v + KERN_GELU_CUBE * ((v * v) * v));
        out[i] = v / (1.0f + kern_exp(-u2));
    }
}

void kern_ref_gelu_grad(float *dx, float *act, const float *dout, const float *x, size_t n)
{
    for (size_t i = 0; i < n; i++) {
        float v = x[i], d = dout[i], square = v * v;
        float u2 = KERN_GELU_SCALE * (v + KERN_GELU_CUBE * (square * v));
        float e = 1.0f + kern_exp(-u2), s = 1.0f / e;
        float inner = KERN_GELU_SCALE * (1.0f + KERN_GELU_CUBE3 * square);
        act[i] = v / e;
        dx[i] = d * (s + ((v * s) * (1.0f - s)) * inner);
    }
}

void kern_ref_add(float *out, const float *a, const float *b, size_t n)
{
    for (size_t i = 0; i < n; i++) {
        out[i] = a[i] + b[i];
    }
}

void kern_ref_dropout(float *x, const struct kern_dropout *d, size_t first, size_t n)
{
    struct bg_philox_key key = {{d->key[0], d->key[1]}};
    struct bg_philox_counter word = {{0}};
    for (size_t i = 0; i < n; i++) {
        size_t element = first + i;
        if (i == 0 || element % 4 == 0) {
            struct bg_philox_counter counter = {{(uint32_t)(element / 4), d->micro_batch, d->step, d->op}};
            word = bg_philox(counter, key);
        }
        x[i] = bg_uniform(word.c[element % 4]) >= d->rate ? x[i] * d->scale : 0.0f;
    }
}

void kern_ref_embed(float *out, const float *table, const float *positions, const int32_t *tokens, size_t rows,
                    size_t dim, size_t position0, size_t period)
{
    for (size_t r = 0; r < rows; r++, out += dim) {
        const float *token = table + (size_t)tokens[r] * dim;
        const float *position = positions ? positions + (position0 + r % period) * dim : NULL;
        for (size_t i = 0; i < dim; i++) {
            out[i] = position ? token[i] + position[i] : token[i];
        }
    }
}

void kern_ref_rope(float *x, const float *cos, const float *sin, size_t rows, size_t stride, size_t heads,
                   size_t head_dim, size_t position0, size_t period, bool inverse)
{
    size_t half = head_dim / 2;
    for (size_t r = 0; r < rows; r++) {
        size_t position = position0 + r % period;
        for (size_t h = 0; h < heads; h++) {
            float *low = x + r * stride + h * head_dim, *high = low + half;
            for (size_t i = 0; i < half; i++) {
                float c = cos[position * half + i], s = sin[position * half + i];
                float a = low[i], b = high[i];
                low[i] = inverse ? a * c + b * s : a * c - b * s;
                high[i] = inverse ? b * c - a * s : b * c + a * s;
            }
        }
    }
}

void kern_ref_to_f16(uint16_t *out, const float *in, size_t n)
{
    for (size_t i = 0; i < n; i++) {
        const float low = 65504.0f < in[i] ? 65504.0f : in[i];
        out[i] = kern_half_round(-65504.0f > low ? -65504.0f : low);
    }
}

void kern_ref_from_f16(float *out, const uint16_t *in, size_t n)
{
    for (size_t i = 0; i < n; i++) {
        uint32_t sign = (uint32_t)(in[i] & 0x8000u) << 16, exponent = (in[i] >> 10) & 31u, mantissa = in[i] & 0x3ffu;
        if (exponent == 0) {
            out[i] = (float)mantissa * 0x1p-24f;
            out[i] = sign ? -out[i] : out[i];
        } else if (exponent == 31) {
            uint32_t quiet = mantissa ? 0x400000u : 0; // as the hardware's conversion does
            out[i] = kern_from_bits(sign | 0x7f800000u | mantissa << 13 | quiet);
        } else {
            out[i] = kern_from_bits(sign | (exponent + 112) << 23 | mantissa << 13);
        }
    }
}

void kern_ref_from_bf16(float *out, const uint16_t *in, size_t n)
{
    for (size_t i = 0; i < n; i++) {
        out[i] = kern_from_bits((uint32_t)in[i] << 16);
    }
}
