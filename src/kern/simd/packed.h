// ref/packed.c over vectors of outputs: a panel's inputs are taken KERN_PACK_K at a time, so that they stay in the
// first cache while all rows pass; the chains wait in C meanwhile. Quantised panels are widened into scratch once for
// all rows. One row reads every weight once, in order: memory's speed is the limit then.
#ifndef KERN_SIMD_PACKED_H
#define KERN_SIMD_PACKED_H

#include "kern/packed_int.h"
#include "kern/rows_int.h"
#include "kern/simd/vmath.h"

enum {
    PANEL_VECS = KERN_PANEL / KERN_LANES,
    PACKED_ROWS = SIMD_PACKED_ROWS,
    PACKED_VECS = SIMD_PACKED_VECS,
};

struct packed_tile {
    float *c;
    size_t ldc, columns; // of C that exist, from here
    const float *a;
    size_t lda;
    const float *b; // (count, KERN_PANEL)
    size_t count;
    bool load;         // go on with the chains in C
    const float *bias; // NULL: none, or not yet
};

INLINE void packed_run(const struct packed_tile tile, size_t rows, size_t vecs)
{
    const struct packed_tile *t = &tile;
    vf sum[PACKED_ROWS][PANEL_VECS];
    UNROLL
    for (size_t x = 0; x < rows * vecs; x++) {
        size_t i = x / vecs, v = x % vecs, at = v * KERN_LANES;
        sum[i][v] = v_zero();
        if (t->load && at < t->columns)
            sum[i][v] = v_load_n(t->c + i * t->ldc + at, v_lanes(t->columns - at));
    }
    for (size_t k = 0; k < t->count; k++) {
        vf right[PANEL_VECS];
        UNROLL
        for (size_t v = 0; v < vecs; v++)
            right[v] = v_load(t->b + k * KERN_PANEL + v * KERN_LANES);
        UNROLL
        for (size_t i = 0; i < rows; i++) {
            vf left = v_set(t->a[i * t->lda + k]);
            UNROLL
            for (size_t v = 0; v < vecs; v++)
                sum[i][v] = v_fma(left, right[v], sum[i][v]);
        }
    }
    UNROLL
    for (size_t x = 0; x < rows * vecs; x++) {
        size_t i = x / vecs, v = x % vecs, at = v * KERN_LANES;
        if (at >= t->columns)
            continue;
        size_t n = v_lanes(t->columns - at);
        vf value = t->bias ? v_add(sum[i][v], v_load_n(t->bias + at, n)) : sum[i][v];
        v_store_n(t->c + i * t->ldc + at, value, n);
    }
}

static __attribute__((noinline)) void packed_row(const struct packed_tile *t)
{
    packed_run(*t, 1, PANEL_VECS);
}

static __attribute__((noinline)) void packed_rows(const struct packed_tile *t)
{
    struct packed_tile part = *t;
    for (size_t v = 0; v < PANEL_VECS && v * KERN_LANES < t->columns; v += PACKED_VECS) {
        const size_t at = v * KERN_LANES;
        part.c = t->c + at;
        part.b = t->b + at;
        part.bias = t->bias ? t->bias + at : NULL;
        part.columns = t->columns - at;
        packed_run(part, PACKED_ROWS, PACKED_VECS);
    }
}

// 16 quantised numbers: signed bytes, or the low or high halves of bytes, less 8.
INLINE vf v_from_i8(const uint8_t *p)
{
    return v_widen_bytes(_mm_loadu_si128((const __m128i *)(const void *)p));
}

INLINE vf v_from_4(const uint8_t *p, int shift)
{
    __m128i x = _mm_srli_epi16(_mm_loadu_si128((const __m128i *)(const void *)p), shift);
    return v_widen_bytes(_mm_sub_epi8(_mm_and_si128(x, _mm_set1_epi8(15)), _mm_set1_epi8(8)));
}

// Numbers that `count` inputs from `first` of a quantised panel stand for: (count, KERN_PANEL).
static void widen(float *out, enum kern_weight type, const uint8_t *panel, size_t first, size_t count)
{
    const size_t bytes = type == KERN_Q8_0 ? KERN_QUANT : KERN_QUANT / 2;
    const size_t block = KERN_PANEL * (sizeof(uint16_t) + bytes);
    for (size_t i = first; i < first + count; i += KERN_QUANT, out += KERN_QUANT * KERN_PANEL) {
        const uint8_t *at = panel + i / KERN_QUANT * block, *q = at + KERN_PANEL * sizeof(uint16_t);
        for (size_t v = 0; v < KERN_PANEL; v += KERN_LANES) {
            vf d = v_from_f16((const uint16_t *)(const void *)at + v);
            for (size_t k = 0; k < bytes; k++) {
                const uint8_t *from = q + k * KERN_PANEL + v;
                if (type == KERN_Q8_0) {
                    v_store(out + k * KERN_PANEL + v, v_mul(v_from_i8(from), d));
                } else {
                    v_store(out + k * KERN_PANEL + v, v_mul(v_from_4(from, 0), d));
                    v_store(out + (k + bytes) * KERN_PANEL + v, v_mul(v_from_4(from, 4), d));
                }
            }
        }
    }
}

size_t SIMD(packed_scratch)(const struct kern_packed_gemm *g)
{
    return g->w->type == KERN_F32 ? 0 : KERN_PACK_K * KERN_PANEL * sizeof(float);
}

void SIMD(packed_gemm)(const struct kern_packed_gemm *g, size_t panel, void *scratch)
{
    const struct kern_packed *w = g->w;
    const uint8_t *data = (const uint8_t *)w->data + panel * kern_panel_bytes(w->type, w->k);
    const size_t output = panel * KERN_PANEL;
    for (size_t first = 0; first < w->k; first += KERN_PACK_K) {
        size_t count = w->k - first < KERN_PACK_K ? w->k - first : KERN_PACK_K, rows;
        const float *b = (const float *)(const void *)data + first * KERN_PANEL;
        if (w->type != KERN_F32) {
            widen(scratch, w->type, data, first, count);
            b = scratch;
        }
        for (size_t r = 0; r < g->m; r += rows) {
            rows = g->m - r < PACKED_ROWS ? 1 : PACKED_ROWS;
            struct packed_tile t = {.c = g->c + r * g->ldc + output,
                                    .ldc = g->ldc,
                                    .columns = w->n - output < KERN_PANEL ? w->n - output : KERN_PANEL,
                                    .a = g->a + r * g->lda + first,
                                    .lda = g->lda,
                                    .b = b,
                                    .count = count,
                                    .load = first > 0,
                                    .bias = g->bias && first + count == w->k ? g->bias + output : NULL};
            (rows == 1 ? packed_row : packed_rows)(&t);
        }
    }
    for (size_t r = 0; w->k == 0 && r < g->m; r++)
        for (size_t j = output; j < w->n && j < output + KERN_PANEL; j++)
            g->c[r * g->ldc + j] = g->bias ? g->bias[j] : 0.0f;
}

#endif
