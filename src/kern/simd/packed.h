// ref/packed.c over vectors of outputs: a panel's inputs are taken KERN_PACK_K at a time, so that they stay in the
// first cache while all rows pass; the chains wait in scratch meanwhile, side by side (in C, whose rows are often a
// multiple of 4 KiB apart, each load would wait for a store of the tile before). Rows are dealt out evenly to tiles.
// The first tile widens quantised weights in its registers, and leaves them in scratch where others follow. One row
// reads every weight once, in order: memory's speed is the limit then.
#ifndef KERN_SIMD_PACKED_H
#define KERN_SIMD_PACKED_H

#include "kern/packed_int.h"
#include "kern/rows_int.h"
#include "kern/simd/vmath.h"

enum { PANEL_VECS = KERN_PANEL / KERN_LANES, PACKED_ROWS = SIMD_PACKED_ROWS, LINE_BYTES = 64 };

struct packed_tile {
    float *c;
    size_t ldc, columns; // of C that exist, from here
    const float *in;     // chains so far, KERN_PANEL apart; NULL: +0
    float *out;          // chains to go on with, KERN_PANEL apart; NULL: they end, in C
    const float *a;
    size_t lda;
    const void *b; // fp32 (count, KERN_PANEL), or blocks
    size_t count;
    const float *bias; // NULL: none
    float *wide;       // (count, KERN_PANEL): for widened weights, NULL: not kept
    const char *ahead; // a line of it is fetched with every input
};

typedef vf packed_sums[PACKED_ROWS][PANEL_VECS];

INLINE void packed_begin(const struct packed_tile *t, packed_sums sum, size_t rows, size_t vecs)
{
    UNROLL
    for (size_t i = 0; i < rows; i++) {
        UNROLL
        for (size_t v = 0; v < vecs; v++)
            sum[i][v] = t->in ? v_load(t->in + i * KERN_PANEL + v * KERN_LANES) : v_zero();
    }
}

INLINE void packed_end(const struct packed_tile *t, packed_sums sum, size_t rows, size_t vecs)
{
    UNROLL
    for (size_t i = 0; i < rows; i++) {
        UNROLL
        for (size_t v = 0; v < vecs; v++) {
            const size_t at = v * KERN_LANES;
            if (t->out) {
                v_store(t->out + i * KERN_PANEL + at, sum[i][v]);
            } else if (at < t->columns) {
                const size_t n = v_lanes(t->columns - at);
                const vf value = t->bias ? v_add(sum[i][v], v_load_n(t->bias + at, n)) : sum[i][v];
                v_store_n(t->c + i * t->ldc + at, value, n);
            }
        }
    }
}

INLINE void packed_step(const struct packed_tile *t, packed_sums sum, const vf right[PANEL_VECS], size_t k, size_t rows,
                        size_t vecs)
{
    UNROLL
    for (size_t i = 0; i < rows; i++) {
        vf left = v_set(t->a[i * t->lda + k]);
        UNROLL
        for (size_t v = 0; v < vecs; v++)
            sum[i][v] = v_fma(left, right[v], sum[i][v]);
    }
}

INLINE void packed_numbers(const struct packed_tile *t, packed_sums sum, size_t column, size_t rows, size_t vecs)
{
    const float *b = (const float *)t->b + column;
    for (size_t k = 0; k < t->count; k++) {
        vf right[PANEL_VECS];
        _mm_prefetch(t->ahead + k * LINE_BYTES, _MM_HINT_T1);
        UNROLL
        for (size_t v = 0; v < vecs; v++)
            right[v] = v_load(b + k * KERN_PANEL + v * KERN_LANES);
        packed_step(t, sum, right, k, rows, vecs);
    }
}

enum packed_part { WHOLE_BYTES, LOW_HALVES, HIGH_HALVES };

INLINE vf v_from_part(const uint8_t *p, enum packed_part part)
{
    const __m128i x = _mm_loadu_si128((const __m128i *)(const void *)p);
    return part == WHOLE_BYTES ? v_widen_bytes(x) : v_widen_halves(x, part == LOW_HALVES ? 0 : 4);
}

// Inputs [k, k + count), whose bytes begin at q.
INLINE void packed_bytes(const struct packed_tile *t, packed_sums sum, const uint8_t *q, const vf d[PANEL_VECS],
                         size_t column, size_t k, size_t count, enum packed_part part, size_t rows, size_t vecs)
{
    for (size_t i = 0; i < count; i++, k++, q += KERN_PANEL) {
        vf right[PANEL_VECS];
        _mm_prefetch(t->ahead + k * LINE_BYTES, _MM_HINT_T1);
        UNROLL
        for (size_t v = 0; v < vecs; v++)
            right[v] = v_mul(v_from_part(q + v * KERN_LANES, part), d[v]);
        if (t->wide) {
            UNROLL
            for (size_t v = 0; v < vecs; v++)
                v_store(t->wide + k * KERN_PANEL + column + v * KERN_LANES, right[v]);
        }
        packed_step(t, sum, right, k, rows, vecs);
    }
}

INLINE void packed_blocks(const struct packed_tile *t, packed_sums sum, enum kern_weight type, size_t column,
                          size_t rows, size_t vecs)
{
    const size_t half = KERN_QUANT / 2, bytes = type == KERN_Q8_0 ? KERN_QUANT : half;
    const uint8_t *block = t->b;
    for (size_t k = 0; k < t->count; k += KERN_QUANT, block += KERN_PANEL * (sizeof(uint16_t) + bytes)) {
        const uint8_t *q = block + KERN_PANEL * sizeof(uint16_t) + column;
        vf d[PANEL_VECS];
        UNROLL
        for (size_t v = 0; v < vecs; v++)
            d[v] = v_from_f16((const uint16_t *)(const void *)block + column + v * KERN_LANES);
        if (type == KERN_Q8_0) {
            packed_bytes(t, sum, q, d, column, k, KERN_QUANT, WHOLE_BYTES, rows, vecs);
        } else {
            packed_bytes(t, sum, q, d, column, k, half, LOW_HALVES, rows, vecs);
            packed_bytes(t, sum, q, d, column, k + half, half, HIGH_HALVES, rows, vecs);
        }
    }
}

// All columns of a panel for `rows` rows.
INLINE void packed_run(const struct packed_tile *tile, enum kern_weight type, size_t rows)
{
    const size_t vecs = rows == 1 ? PANEL_VECS : SIMD_PACKED_VECS, step = vecs * KERN_LANES;
    struct packed_tile t = *tile;
    for (size_t column = 0; column < KERN_PANEL; column += step) {
        packed_sums sum;
        packed_begin(&t, sum, rows, vecs);
        if (type == KERN_F32)
            packed_numbers(&t, sum, column, rows, vecs);
        else
            packed_blocks(&t, sum, type, column, rows, vecs);
        packed_end(&t, sum, rows, vecs);
        t.c += step;
        t.in = t.in ? t.in + step : NULL;
        t.out = t.out ? t.out + step : NULL;
        t.bias = t.bias ? t.bias + step : NULL;
        t.columns = t.columns > step ? t.columns - step : 0;
    }
}

#define PACKED_FUNCTION(type, rows)                                                                                    \
    static __attribute__((noinline)) void packed_##type##_##rows(const struct packed_tile *t)                          \
    {                                                                                                                  \
        packed_run(t, KERN_##type, rows);                                                                              \
    }
#define PACKED_ENTRY(type, rows) packed_##type##_##rows,
typedef void packed_fn(const struct packed_tile *t);
SIMD_PACKED_EACH(PACKED_FUNCTION, F32)
SIMD_PACKED_EACH(PACKED_FUNCTION, Q8_0)
SIMD_PACKED_EACH(PACKED_FUNCTION, Q4_0)
static packed_fn *const packed_functions[3][PACKED_ROWS] = {
    [KERN_F32] = {SIMD_PACKED_EACH(PACKED_ENTRY, F32)},
    [KERN_Q8_0] = {SIMD_PACKED_EACH(PACKED_ENTRY, Q8_0)},
    [KERN_Q4_0] = {SIMD_PACKED_EACH(PACKED_ENTRY, Q4_0)},
};

size_t SIMD(packed_scratch)(const struct kern_packed_gemm *g)
{
    return (KERN_PACK_K + g->m) * KERN_PANEL * sizeof(float);
}

// All rows with the inputs that tile->b holds. The weights that follow it are fetched meanwhile: `next` bytes.
static void packed_pass(const struct kern_packed_gemm *g, struct packed_tile tile, size_t next)
{
    const size_t tiles = (g->m + PACKED_ROWS - 1) / PACKED_ROWS;
    enum kern_weight type = g->w->type;
    const char *ahead = (const char *)tile.b + next;
    float *wide = tile.wide;
    for (size_t i = 0, rows; i < tiles; i++) {
        rows = (g->m + i) / tiles;
        tile.wide = tiles > 1 && i == 0 ? wide : NULL;
        tile.ahead = ahead + (i * tile.count * LINE_BYTES < next ? i * tile.count * LINE_BYTES : 0);
        packed_functions[type][rows - 1](&tile);
        if (type != KERN_F32) {
            type = KERN_F32;
            tile.b = wide;
        }
        tile.c += rows * tile.ldc;
        tile.in = tile.in ? tile.in + rows * KERN_PANEL : NULL;
        tile.out = tile.out ? tile.out + rows * KERN_PANEL : NULL;
        tile.a += rows * tile.lda;
    }
}

void SIMD(packed_gemm)(const struct kern_packed_gemm *g, size_t panel, void *scratch)
{
    const struct kern_packed *w = g->w;
    if (w->type == KERN_INT8) {
        SIMD(int8_gemm)(g, panel, scratch);
        return;
    }
    const char *data = (const char *)w->data + panel * kern_panel_bytes(w->type, w->k);
    const size_t output = panel * KERN_PANEL;
    float *part = (float *)scratch + KERN_PACK_K * KERN_PANEL;
    for (size_t first = 0; first < w->k; first += KERN_PACK_K) {
        const size_t count = w->k - first < KERN_PACK_K ? w->k - first : KERN_PACK_K;
        const struct packed_tile t = {.c = g->c + output,
                                      .ldc = g->ldc,
                                      .columns = w->n - output < KERN_PANEL ? w->n - output : KERN_PANEL,
                                      .a = g->a + first,
                                      .lda = g->lda,
                                      .b = data + kern_panel_bytes(w->type, first),
                                      .count = count,
                                      .in = first > 0 ? part : NULL,
                                      .out = first + count < w->k ? part : NULL,
                                      .bias = g->bias ? g->bias + output : NULL,
                                      .wide = scratch};
        packed_pass(g, t, kern_panel_bytes(w->type, count));
    }
    for (size_t r = 0; w->k == 0 && r < g->m; r++)
        for (size_t j = output; j < w->n && j < output + KERN_PANEL; j++)
            g->c[r * g->ldc + j] = g->bias ? g->bias[j] : 0.0f;
}

#endif
