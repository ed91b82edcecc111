// ref/elementwise.c over vectors: the same operations in the same order. Dropout draws 16 Philox counters at a time.
#ifndef KERN_SIMD_ELEMENTWISE_H
#define KERN_SIMD_ELEMENTWISE_H

#include "kern/rows_int.h"
#include "kern/simd/vmath.h"

#define ONE v_set(1.0f)

void SIMD(swiglu)(float *out, const float *gate, const float *up, size_t count)
{
    V_EACH(i, n, count)
    {
        vf g = v_load_n(gate + i, n);
        vf silu = v_div(g, v_add(ONE, v_exp(v_negate(g))));
        v_store_n(out + i, v_mul(silu, v_load_n(up + i, n)), n);
    }
}

void SIMD(swiglu_grad)(float *dgate, float *dup, float *act, const float *dout, const float *gate, const float *up,
                       size_t count)
{
    V_EACH(i, n, count)
    {
        vf g = v_load_n(gate + i, n), d = v_load_n(dout + i, n), u = v_load_n(up + i, n);
        vf e = v_add(ONE, v_exp(v_negate(g))), s = v_div(ONE, e);
        vf slope = v_mul(s, v_add(ONE, v_mul(g, v_sub(ONE, s))));
        v_store_n(act + i, v_mul(v_div(g, e), u), n);
        v_store_n(dup + i, v_mul(d, v_mul(g, s)), n);
        v_store_n(dgate + i, v_mul(v_mul(d, u), slope), n);
    }
}

void SIMD(gelu)(float *out, const float *x, size_t count)
{
    V_EACH(i, n, count)
    {
        vf v = v_load_n(x + i, n);
        vf cube = v_mul(v_set(KERN_GELU_CUBE), v_mul(v_mul(v, v), v));
        vf u2 = v_mul(v_set(KERN_GELU_SCALE), v_add(v, cube));
        v_store_n(out + i, v_div(v, v_add(ONE, v_exp(v_negate(u2)))), n);
    }
}

void SIMD(gelu_grad)(float *dx, float *act, const float *dout, const float *x, size_t count)
{
    V_EACH(i, n, count)
    {
        vf v = v_load_n(x + i, n), d = v_load_n(dout + i, n), square = v_mul(v, v);
        vf cube = v_mul(v_set(KERN_GELU_CUBE), v_mul(square, v));
        vf u2 = v_mul(v_set(KERN_GELU_SCALE), v_add(v, cube));
        vf e = v_add(ONE, v_exp(v_negate(u2))), s = v_div(ONE, e);
        vf inner = v_mul(v_set(KERN_GELU_SCALE), v_add(ONE, v_mul(v_set(KERN_GELU_CUBE3), square)));
        vf slope = v_add(s, v_mul(v_mul(v_mul(v, s), v_sub(ONE, s)), inner));
        v_store_n(act + i, v_div(v, e), n);
        v_store_n(dx + i, v_mul(d, slope), n);
    }
}

void SIMD(add)(float *out, const float *a, const float *b, size_t count)
{
    V_EACH(i, n, count)
    {
        v_store_n(out + i, v_add(v_load_n(a + i, n), v_load_n(b + i, n)), n);
    }
}

// Philox4x32-10 (base/philox.c) on counters {first + 0..15, micro_batch, step, op}: 64 uniforms in element order.
static void uniforms(float out[64], const struct kern_dropout *d, uint32_t first)
{
    vu c[4] = {vu_count(first), vu_set(d->micro_batch), vu_set(d->step), vu_set(d->op)};
    uint32_t key0 = d->key[0], key1 = d->key[1];
    for (int round = 0; round < 10; round++) {
        vu high0, low0, high2, low2;
        vu_multiply(&high0, &low0, c[0], vu_set(0xD2511F53u));
        vu_multiply(&high2, &low2, c[2], vu_set(0xCD9E8D57u));
        c[0] = vu_xor(vu_xor(high2, c[1]), vu_set(key0));
        c[1] = low2;
        c[2] = vu_xor(vu_xor(high0, c[3]), vu_set(key1));
        c[3] = low0;
        key0 += 0x9E3779B9u;
        key1 += 0xBB67AE85u;
    }
    v_store_interleaved(out, vu_uniform(c[0]), vu_uniform(c[1]), vu_uniform(c[2]), vu_uniform(c[3]));
}

void SIMD(dropout)(float *x, const struct kern_dropout *d, size_t first, size_t count)
{
    float uniform[64];
    vf rate = v_set(d->rate), scale = v_set(d->scale);
    size_t skip = first % 4; // elements of the first counter that lie before x
    for (size_t element = first - skip; count > 0; element += 64, skip = 0) {
        size_t here = count < 64 - skip ? count : 64 - skip;
        uniforms(uniform, d, (uint32_t)(element / 4));
        V_EACH(i, n, here)
        {
            vm keep = v_at_least(v_load_n(uniform + skip + i, n), rate);
            v_store_n(x + i, v_keep_where(keep, v_mul(v_load_n(x + i, n), scale)), n);
        }
        x += here;
        count -= here;
    }
}

void SIMD(embed)(float *out, const float *table, const float *positions, const int32_t *tokens, size_t rows, size_t dim,
                 size_t position0, size_t period)
{
    for (size_t r = 0; r < rows; r++, out += dim) {
        const float *token = table + (size_t)tokens[r] * dim;
        if (positions) {
            SIMD(add)(out, token, positions + (position0 + r % period) * dim, dim);
        } else {
            memcpy(out, token, dim * sizeof *out);
        }
    }
}

void SIMD(rope)(float *x, const float *cos, const float *sin, size_t rows, size_t stride, size_t heads, size_t head_dim,
                size_t position0, size_t period, bool inverse)
{
    size_t half = head_dim / 2;
    for (size_t r = 0; r < rows; r++) {
        size_t angle = (position0 + r % period) * half;
        for (size_t h = 0; h < heads; h++) {
            float *low = x + r * stride + h * head_dim, *high = low + half;
            V_EACH(i, n, half)
            {
                vf c = v_load_n(cos + angle + i, n), s = v_load_n(sin + angle + i, n);
                vf a = v_load_n(low + i, n), b = v_load_n(high + i, n);
                vf ac = v_mul(a, c), as = v_mul(a, s), bc = v_mul(b, c), bs = v_mul(b, s);
                v_store_n(low + i, inverse ? v_add(ac, bs) : v_sub(ac, bs), n);
                v_store_n(high + i, inverse ? v_sub(bc, as) : v_add(bc, as), n);
            }
        }
    }
}

void SIMD(to_f16)(uint16_t *out, const float *in, size_t count)
{
    const vf most = v_set(65504.0f), least = v_set(-65504.0f);
    size_t whole = count - count % KERN_LANES;
    for (size_t i = 0; i < whole; i += KERN_LANES) {
        v_to_f16(out + i, v_max(least, v_min(most, v_load(in + i))));
    }
    kern_ref_to_f16(out + whole, in + whole, count - whole);
}

void SIMD(from_f16)(float *out, const uint16_t *in, size_t count)
{
    size_t whole = count - count % KERN_LANES;
    for (size_t i = 0; i < whole; i += KERN_LANES) {
        v_store(out + i, v_from_f16(in + i));
    }
    kern_ref_from_f16(out + whole, in + whole, count - whole);
}

void SIMD(from_bf16)(float *out, const uint16_t *in, size_t count)
{
    size_t whole = count - count % KERN_LANES;
    for (size_t i = 0; i < whole; i += KERN_LANES) {
        v_store(out + i, v_from_bf16(in + i));
    }
    kern_ref_from_bf16(out + whole, in + whole, count - whole);
}

#endif
