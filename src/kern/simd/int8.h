// ref/int8.c over vectors of outputs: products of weights of one byte with quantised inputs. The file that includes
// this says how a vector multiplies bytes (weights, inputs, sums), how many outputs a vector has (LANES) and what its
// register tile is: up to ROWS rows by `tile_vecs(rows)` vectors, a sum and a chain for each. A panel's inputs are
// taken CHUNK blocks at a time, so that they stay in the first cache while all rows pass; the chains wait in scratch
// meanwhile. Rows are dealt out evenly to tiles. One row reads every weight once, in order: memory's speed is the limit
// then.
#ifndef KERN_SIMD_INT8_H
#define KERN_SIMD_INT8_H

#include "kern/packed_int.h"
#include "kern/rows_int.h"
#include "kern/simd/vec.h"

enum {
    ROWS = 6,                         // of a register tile, at most
    CHUNK = KERN_PACK_K / KERN_QUANT, // blocks
    PANEL_VECS = KERN_PANEL / LANES,
    D_BYTES = KERN_PANEL * sizeof(uint16_t),
    BLOCK_BYTES = D_BYTES + KERN_PANEL * KERN_QUANT,
    QUAD_BYTES = KERN_PANEL * 4, // four inputs of a panel
    LINE_BYTES = 64,
};

struct int8_tile {
    float *c;
    size_t ldc, columns;            // of C that exist, from here
    const float *in;                // chains so far, KERN_PANEL apart; NULL: +0
    float *out;                     // chains to go on with, KERN_PANEL apart; NULL: they end, in C
    const struct kern_quantised *a; // rows `stride` apart
    size_t stride, count, ahead;    // blocks; lines to be fetched with each
    const uint8_t *b;
    const char *next;  // to be fetched
    const float *bias; // NULL: none
};

typedef chains int8_chains[ROWS][PANEL_VECS];

INLINE void int8_begin(const struct int8_tile *t, int8_chains acc, size_t column, size_t rows, size_t vecs)
{
    UNROLL
    for (size_t i = 0; i < rows; i++) {
        UNROLL
        for (size_t v = 0; v < vecs; v++)
            acc[i][v] = t->in ? chains_load(t->in + i * KERN_PANEL + column + v * LANES) : chains_zero();
    }
}

INLINE void int8_end(const struct int8_tile *t, int8_chains acc, size_t column, size_t rows, size_t vecs)
{
    UNROLL
    for (size_t i = 0; i < rows; i++) {
        UNROLL
        for (size_t v = 0; v < vecs; v++) {
            const size_t at = column + v * LANES;
            if (t->out)
                chains_store(t->out + i * KERN_PANEL + at, acc[i][v]);
            else if (at < t->columns)
                chains_end(t->c + i * t->ldc + at, acc[i][v], t->bias ? t->bias + at : NULL, t->columns - at);
        }
    }
}

// Inputs 32 b .. of the tile's rows, with `vecs` vectors of outputs from `column` on.
INLINE void int8_block(const struct int8_tile *t, int8_chains acc, size_t b, size_t column, size_t rows, size_t vecs)
{
    const uint8_t *block = t->b + b * BLOCK_BYTES, *q = block + D_BYTES + column * 4;
    const struct kern_quantised *a = t->a + b;
    sums sum[ROWS][PANEL_VECS];
    UNROLL
    for (size_t i = 0; i < rows; i++) {
        UNROLL
        for (size_t v = 0; v < vecs; v++)
            sum[i][v] = sums_start(a[i * t->stride].offset);
    }
    UNROLL
    for (size_t quad = 0; quad < KERN_QUANT / 4; quad++) {
        weights w[PANEL_VECS];
        UNROLL
        for (size_t v = 0; v < vecs; v++)
            w[v] = weights_load(q + quad * QUAD_BYTES + v * LANES * 4);
        UNROLL
        for (size_t i = 0; i < rows; i++) {
            const inputs x = inputs_set(a[i * t->stride].q + quad * 4);
            UNROLL
            for (size_t v = 0; v < vecs; v++)
                sum[i][v] = sums_add(sum[i][v], w[v], x);
        }
    }
    UNROLL
    for (size_t v = 0; v < vecs; v++) {
        const chains d = chains_from_f16(block + (column + v * LANES) * sizeof(uint16_t));
        UNROLL
        for (size_t i = 0; i < rows; i++)
            acc[i][v] = chains_add(acc[i][v], sum[i][v], d, a[i * t->stride].d);
    }
}

// All columns of a panel for `rows` rows.
INLINE void int8_run(const struct int8_tile *t, size_t rows)
{
    const size_t vecs = tile_vecs(rows), strips = PANEL_VECS / vecs, lines = (t->ahead + strips - 1) / strips;
    const char *next = t->next;
    for (size_t column = 0; column < KERN_PANEL; column += vecs * LANES) {
        int8_chains acc;
        int8_begin(t, acc, column, rows, vecs);
        for (size_t b = 0; b < t->count; b++) {
            for (size_t line = 0; line < lines; line++, next += LINE_BYTES)
                _mm_prefetch(next, _MM_HINT_T1);
            int8_block(t, acc, b, column, rows, vecs);
        }
        int8_end(t, acc, column, rows, vecs);
    }
}

#define INT8_FUNCTION(rows)                                                                                            \
    static __attribute__((noinline)) void int8_##rows(const struct int8_tile *t)                                       \
    {                                                                                                                  \
        int8_run(t, rows);                                                                                             \
    }
INT8_FUNCTION(1)
INT8_FUNCTION(2)
INT8_FUNCTION(3)
INT8_FUNCTION(4)
INT8_FUNCTION(5)
INT8_FUNCTION(6)
static void (*const int8_functions[ROWS])(const struct int8_tile *t) = {int8_1, int8_2, int8_3, int8_4, int8_5, int8_6};

// All rows with the inputs that tile->b holds. What follows it is fetched meanwhile.
static void int8_pass(const struct kern_packed_gemm *g, struct int8_tile tile)
{
    const size_t tiles = (g->m + ROWS - 1) / ROWS;
    tile.next = (const char *)tile.b + tile.count * BLOCK_BYTES;
    for (size_t i = 0, rows; i < tiles; i++) {
        rows = (g->m + i) / tiles;
        tile.ahead = (BLOCK_BYTES / LINE_BYTES + tiles - 1) / tiles;
        int8_functions[rows - 1](&tile);
        tile.c += rows * tile.ldc;
        tile.in = tile.in ? tile.in + rows * KERN_PANEL : NULL;
        tile.out = tile.out ? tile.out + rows * KERN_PANEL : NULL;
        tile.a += rows * tile.stride;
        tile.next += tile.count * tile.ahead * LINE_BYTES;
    }
}

void INT8_NAME(gemm)(const struct kern_packed_gemm *g, size_t panel, void *scratch)
{
    const struct kern_packed *w = g->w;
    const size_t output = panel * KERN_PANEL, blocks = w->k / KERN_QUANT;
    struct int8_tile t = {.c = g->c + output,
                          .ldc = g->ldc,
                          .columns = w->n - output < KERN_PANEL ? w->n - output : KERN_PANEL,
                          .stride = blocks,
                          .bias = g->bias ? g->bias + output : NULL};
    size_t first = 0;
    do {
        t.count = blocks - first < CHUNK ? blocks - first : CHUNK;
        t.in = first > 0 ? scratch : NULL;
        t.out = first + t.count < blocks ? scratch : NULL;
        t.a = g->quantised + first;
        t.b = (const uint8_t *)w->data + (panel * blocks + first) * BLOCK_BYTES;
        int8_pass(g, t);
        first += t.count;
    } while (first < blocks);
}

#endif
