// The reference GEMM: it defines the bits (NUMERICS 4, 8, 9) and is meant to be read, not to be fast. Every element
// is one chain of fmaf per leaf, k ascending from +0; leaves are joined by the canonical tree; then bias, then old C.
// The loop over k stands outside a strip of columns only so that rows of B are read in order; no sum is reordered.
#include "kern/gemm_int.h"

#include <math.h>

enum { STRIP = 32, BLOCK_ROWS = 16, BLOCK_COLUMNS = 128, SLOTS_MAX = 8 * sizeof(size_t) };

// C[i, j0 .. j0 + width)
static void strip(const struct kern_gemm *g, size_t i, size_t j0, size_t width)
{
    float waiting[SLOTS_MAX][STRIP]; // left children of the tree
    float sum[STRIP];
    size_t leaves = kern_gemm_leaves(g);
    // Floats from A[i,p] to A[i,p+1], from B[p,j] to B[p,j+1] and to B[p+1,j], as the orientation lays them.
    size_t a_step = g->op == KERN_TN ? g->lda : 1, a_row = g->op == KERN_TN ? 1 : g->lda;
    size_t b_column = g->op == KERN_NT ? g->ldb : 1, b_step = g->op == KERN_NT ? 1 : g->ldb;

    for (size_t leaf = 0; leaf < leaves; leaf++) {
        for (size_t j = 0; j < width; j++)
            sum[j] = 0.0f;
        for (size_t p = kern_gemm_leaf_begin(g, leaf); p < kern_gemm_leaf_begin(g, leaf + 1); p++) {
            const float a = g->a[i * a_row + p * a_step], *b = g->b + p * b_step + j0 * b_column;
            for (size_t j = 0; j < width; j++)
                sum[j] = fmaf(a, b[j * b_column], sum[j]);
        }
        size_t slot = kern_gemm_slot(leaf, leaves);
        for (size_t s = kern_gemm_waiting(leaf); s-- > slot;) {
            for (size_t j = 0; j < width; j++)
                sum[j] = waiting[s][j] + sum[j];
        }
        for (size_t j = 0; j < width; j++)
            waiting[slot][j] = sum[j];
    }

    float *c = g->c + i * g->ldc + j0;
    for (size_t j = 0; j < width; j++) {
        float value = sum[j];
        if (g->bias)
            value = value + g->bias[j0 + j];
        if (g->accumulate)
            value = value + c[j];
        c[j] = value;
    }
}

void kern_ref_gemm_block(const struct kern_gemm *g, size_t block, void *scratch)
{
    (void)scratch;
    size_t across = (g->n + BLOCK_COLUMNS - 1) / BLOCK_COLUMNS;
    size_t i0 = block / across * BLOCK_ROWS, j0 = block % across * BLOCK_COLUMNS;
    size_t i1 = i0 + BLOCK_ROWS < g->m ? i0 + BLOCK_ROWS : g->m;
    size_t j1 = j0 + BLOCK_COLUMNS < g->n ? j0 + BLOCK_COLUMNS : g->n;

    for (size_t i = i0; i < i1; i++) {
        for (size_t j = j0; j < j1; j += STRIP)
            strip(g, i, j, j1 - j < STRIP ? j1 - j : STRIP);
    }
}

size_t kern_ref_gemm_blocks(const struct kern_gemm *g)
{
    return ((g->m + BLOCK_ROWS - 1) / BLOCK_ROWS) * ((g->n + BLOCK_COLUMNS - 1) / BLOCK_COLUMNS);
}

size_t kern_ref_gemm_scratch(const struct kern_gemm *g)
{
    (void)g;
    return 0;
}
