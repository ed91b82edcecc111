// The blocked GEMM, written once for AVX2 and AVX-512. Included by <isa>/gemm.c, which defines the vector type `vec`
// of LANES floats, its operations (v_*), MR and the list GEMM_ROWS(X) of 1..MR, and GEMM_NAME.
//
// A block of C is computed in passes of at most KC along k. A pass packs its slice of B into panels of NR columns
// (k-major, in L2), then takes tiles of MR rows of A (copied to a fixed stride, in L1) over all panels. The sums of a
// tile between passes wait in `partial`, finished leaves wait in `level`; C is written once. Every element stays one
// chain, k ascending from +0 (NUMERICS 4): vectors span columns, passes store and reload the same sum.
#include "kern/gemm_int.h"

#include <string.h>

enum {
    NR = 2 * LANES,
    KC = 384,
    NC = 384,
    A_STRIDE = KC + 16, // floats between rows of a copied tile; an odd number of cache lines, so rows differ in L1 set
    GROUP = 8,          // tiles of A packed at once where A is (k,m)
    TILE = MR * NR,
};

static const struct kern_gemm_sizes sizes = {.mr = MR, .nr = NR, .kc = KC, .nc = NC};

#define ALWAYS_INLINE static inline __attribute__((always_inline))
#ifdef __clang__
#define UNROLL _Pragma("clang loop unroll(full)")
#else
#define UNROLL _Pragma("GCC unroll 16")
#endif

// One pass over one tile.
struct tile {
    size_t k;
    const float *a;  // rows A_STRIDE apart, or k-major MR apart
    const float *b;  // panel: k-major, NR apart
    const float *in; // sums so far, MR x NR, or NULL: +0
    float *out;
    size_t ldout;
};

ALWAYS_INLINE void tile_run(const struct tile *t, const size_t rows, const size_t a_row, const size_t a_k)
{
    const float *a = t->a, *b = t->b;
    vec sum[MR][2];

    UNROLL
    for (size_t r = 0; r < rows; r++) {
        sum[r][0] = t->in ? v_load(t->in + r * NR) : v_zero();
        sum[r][1] = t->in ? v_load(t->in + r * NR + LANES) : v_zero();
    }
    for (size_t k = t->k; k > 0; k--) {
        vec b0 = v_load(b), b1 = v_load(b + LANES);
        UNROLL
        for (size_t r = 0; r < rows; r++) {
            vec x = v_set(a[r * a_row]);
            sum[r][0] = v_fma(x, b0, sum[r][0]);
            sum[r][1] = v_fma(x, b1, sum[r][1]);
        }
        a += a_k;
        b += NR;
    }
    UNROLL
    for (size_t r = 0; r < rows; r++) {
        v_store(t->out + r * t->ldout, sum[r][0]);
        v_store(t->out + r * t->ldout + LANES, sum[r][1]);
    }
}

#define TILE_FUNCTIONS(rows)                                                                                           \
    static void tile_rows_##rows(const struct tile *t)                                                                 \
    {                                                                                                                  \
        tile_run(t, rows, A_STRIDE, 1);                                                                                \
    }                                                                                                                  \
    static void tile_columns_##rows(const struct tile *t)                                                              \
    {                                                                                                                  \
        tile_run(t, rows, 1, MR);                                                                                      \
    }
GEMM_ROWS(TILE_FUNCTIONS)
#define TILE_ENTRY(rows) {tile_rows_##rows, tile_columns_##rows},
static void (*const tile_functions[MR][2])(const struct tile *) = {GEMM_ROWS(TILE_ENTRY)};

// The work on one block. Tiles and panels are counted from the block's first.
struct block {
    const struct kern_gemm *g;
    size_t row0, rows, column0, columns;
    size_t tiles, panels;
    size_t kc;
    float *b;       // (panels, kc, NR)
    float *a;       // one tile (MR, A_STRIDE), or GROUP tiles (kc, MR), each with room for one vector behind
    float *sums;    // (MR, NR): a tile on its way to `finish`
    float *partial; // (tiles, panels, MR, NR): sums of the running leaf between passes
    float *level;   // the same for each level of the tree
    size_t plane;   // floats in `partial` and in each level

    // The running pass: k in [k0, k0 + k) of a leaf; its first, its last.
    size_t leaf, leaves, k0, k;
    bool first, last;
};

static size_t min_size(size_t a, size_t b)
{
    return a < b ? a : b;
}

// Rows p of B (k,n) are contiguous: a copy, cut into panels.
static void pack_b_rows(const struct block *w)
{
    for (size_t p = 0; p < w->k; p++) {
        const float *from = w->g->b + (w->k0 + p) * w->g->ldb + w->column0;
        float *to = w->b + p * NR;
        size_t j = 0;
        for (; j + NR <= w->columns; j += NR, to += w->kc * NR) {
            v_store(to, v_load(from + j));
            v_store(to + LANES, v_load(from + j + LANES));
        }
        if (j < w->columns) {
            size_t left = w->columns - j;
            v_store(to, v_load_n(from + j, min_size(left, LANES)));
            v_store(to + LANES, left > LANES ? v_load_n(from + j + LANES, left - LANES) : v_zero());
        }
    }
}

// LANES columns of a panel from rows j of B (n,k), four k at a time: 128-bit pieces of the rows are gathered into
// vectors, then transposed inside their 128-bit parts.
static void transpose(float *to, const float *from, size_t ld, size_t k)
{
    size_t p = 0;
    for (; p + 4 <= k; p += 4) {
        vec r0 = v_gather4(from + p, ld), r1 = v_gather4(from + ld + p, ld);
        vec r2 = v_gather4(from + 2 * ld + p, ld), r3 = v_gather4(from + 3 * ld + p, ld);
        vec lo01 = v_unpack_lo(r0, r1), hi01 = v_unpack_hi(r0, r1);
        vec lo23 = v_unpack_lo(r2, r3), hi23 = v_unpack_hi(r2, r3);
        v_store(to + p * NR, v_pair_lo(lo01, lo23));
        v_store(to + (p + 1) * NR, v_pair_hi(lo01, lo23));
        v_store(to + (p + 2) * NR, v_pair_lo(hi01, hi23));
        v_store(to + (p + 3) * NR, v_pair_hi(hi01, hi23));
    }
    for (; p < k; p++) {
        for (size_t j = 0; j < LANES; j++)
            to[p * NR + j] = from[j * ld + p];
    }
}

static void pack_b_columns(const struct block *w)
{
    for (size_t j = 0; j < w->panels * NR && w->k > 0; j += LANES) {
        float *to = w->b + j / NR * w->kc * NR + j % NR;
        size_t width = j < w->columns ? min_size(w->columns - j, LANES) : 0;
        const float *from = w->g->b + (w->column0 + (width ? j : 0)) * w->g->ldb + w->k0;
        if (width == LANES) {
            transpose(to, from, w->g->ldb, w->k);
            continue;
        }
        for (size_t p = 0; p < w->k; p++) {
            for (size_t i = 0; i < LANES; i++)
                to[p * NR + i] = i < width ? from[i * w->g->ldb + p] : 0.0f;
        }
    }
}

// Rows of A (m,k): one tile, to a fixed stride.
static void copy_a_rows(const struct block *w, size_t row, size_t rows)
{
    for (size_t r = 0; r < rows && w->k > 0; r++) {
        const float *from = w->g->a + (w->row0 + row + r) * w->g->lda + w->k0;
        float *to = w->a + r * A_STRIDE;
        size_t p = 0;
        for (; p + LANES <= w->k; p += LANES)
            v_store(to + p, v_load(from + p));
        if (p < w->k)
            v_store(to + p, v_load_n(from + p, w->k - p));
    }
}

static size_t packed_tile(const struct block *w)
{
    return w->kc * MR + LANES;
}

// Columns of A (k,m): a group of tiles, k-major. A store is a whole vector: what it spills past MR is the place of the
// next k, written later, or the gap between tiles.
static void pack_a_columns(const struct block *w, size_t row, size_t rows)
{
    for (size_t p = 0; p < w->k; p++) {
        const float *from = w->g->a + (w->k0 + p) * w->g->lda + w->row0 + row;
        for (size_t r = 0; r < rows; r += MR)
            v_store(w->a + r / MR * packed_tile(w) + p * MR, v_load_n(from + r, min_size(rows - r, MR)));
    }
}

// Ends a leaf for one tile whose sums lie in w->sums: joins the tree; the last leaf adds bias and old C.
static void finish(const struct block *w, size_t tile, size_t panel, size_t rows)
{
    const struct kern_gemm *g = w->g;
    size_t joins = kern_gemm_joins(w->leaf, w->leaves), here = (tile * w->panels + panel) * TILE;
    size_t columns = min_size(w->columns - panel * NR, NR);
    bool last_leaf = w->leaf + 1 == w->leaves;

    for (size_t r = 0; r < rows; r++) {
        for (size_t j = 0; j < columns; j += LANES) {
            size_t n = min_size(columns - j, LANES), height = 0;
            vec x = v_load(w->sums + r * NR + j);
            for (; joins >> height; height++) {
                if (joins >> height & 1)
                    x = v_add(v_load(w->level + height * w->plane + here + r * NR + j), x);
            }
            if (!last_leaf) {
                v_store(w->level + height * w->plane + here + r * NR + j, x);
                continue;
            }
            float *c = g->c + (w->row0 + tile * MR + r) * g->ldc + w->column0 + panel * NR + j;
            if (g->bias)
                x = v_add(x, v_load_n(g->bias + w->column0 + panel * NR + j, n));
            if (g->accumulate)
                x = v_add(x, v_load_n(c, n));
            v_store_n(c, x, n);
        }
    }
}

// One tile over all panels, in one pass.
static void sweep(const struct block *w, size_t tile, size_t rows, const float *a)
{
    const struct kern_gemm *g = w->g;
    void (*run)(const struct tile *) = tile_functions[rows - 1][g->op == KERN_TN];
    bool plain = w->leaves == 1 && !g->bias && !g->accumulate;

    for (size_t panel = 0; panel < w->panels; panel++) {
        size_t here = (tile * w->panels + panel) * TILE;
        struct tile t = {.k = w->k, .a = a, .b = w->b + panel * w->kc * NR, .out = w->sums, .ldout = NR};
        bool direct = plain && w->last && (panel + 1) * NR <= w->columns;
        if (!w->first)
            t.in = w->partial + here;
        if (!w->last)
            t.out = w->partial + here;
        if (direct) {
            t.out = g->c + (w->row0 + tile * MR) * g->ldc + w->column0 + panel * NR;
            t.ldout = g->ldc;
        }
        run(&t);
        if (w->last && !direct)
            finish(w, tile, panel, rows);
    }
}

static void run_pass(const struct block *w)
{
    if (w->g->op == KERN_NT)
        pack_b_columns(w);
    else
        pack_b_rows(w);

    for (size_t tile = 0; tile < w->tiles; tile++) {
        size_t row = tile * MR;
        const float *a = w->a;
        if (w->g->op != KERN_TN) {
            copy_a_rows(w, row, min_size(w->rows - row, MR));
        } else {
            if (tile % GROUP == 0)
                pack_a_columns(w, row, min_size(w->rows - row, GROUP * MR));
            a += tile % GROUP * packed_tile(w);
        }
        sweep(w, tile, min_size(w->rows - row, MR), a);
    }
}

// Lays the scratch of a block out from `base` (NULL: only measures); returns its bytes.
static size_t lay_scratch(struct block *w, const struct kern_gemm *g, const struct kern_gemm_cut *cut, float *base)
{
    size_t leaves = kern_gemm_leaves(g);
    size_t longest = kern_gemm_leaf_begin(g, leaves) - kern_gemm_leaf_begin(g, leaves - 1);
    size_t used = 0;

    w->kc = cut->kc;
    w->plane = cut->block_tiles * cut->block_panels * TILE;
    size_t b = used;
    used += cut->block_panels * w->kc * NR;
    size_t a = used;
    used += g->op == KERN_TN ? min_size(cut->block_tiles, GROUP) * packed_tile(w) : MR * A_STRIDE;
    used = (used + 15) / 16 * 16;
    size_t sums = used;
    used += TILE;
    size_t partial = used;
    used += longest > w->kc ? w->plane : 0;
    size_t level = used;
    used += kern_gemm_levels(leaves) * w->plane;
    if (base) {
        w->b = base + b;
        w->a = base + a;
        w->sums = base + sums;
        w->partial = base + partial;
        w->level = base + level;
    }
    return used * sizeof(float);
}

void GEMM_NAME(block)(const struct kern_gemm *g, size_t block, void *scratch)
{
    struct kern_gemm_cut cut = kern_gemm_cut(g, &sizes);
    struct block w = {.g = g, .leaves = kern_gemm_leaves(g)};
    size_t down = block / cut.columns, across = block % cut.columns;
    size_t tile0 = kern_gemm_part(cut.tiles, cut.rows, down);
    size_t panel0 = kern_gemm_part(cut.panels, cut.columns, across);

    w.tiles = kern_gemm_part(cut.tiles, cut.rows, down + 1) - tile0;
    w.panels = kern_gemm_part(cut.panels, cut.columns, across + 1) - panel0;
    w.row0 = tile0 * MR;
    w.rows = min_size(w.tiles * MR, g->m - w.row0);
    w.column0 = panel0 * NR;
    w.columns = min_size(w.panels * NR, g->n - w.column0);
    lay_scratch(&w, g, &cut, scratch);

    for (w.leaf = 0; w.leaf < w.leaves; w.leaf++) {
        size_t begin = kern_gemm_leaf_begin(g, w.leaf), end = kern_gemm_leaf_begin(g, w.leaf + 1);
        w.k0 = begin;
        do { // once also for an empty chain: its sum is +0
            w.k = min_size(w.kc, end - w.k0);
            w.first = w.k0 == begin;
            w.last = w.k0 + w.k == end;
            run_pass(&w);
            w.k0 += w.k;
        } while (w.k0 < end);
    }
}

size_t GEMM_NAME(blocks)(const struct kern_gemm *g)
{
    struct kern_gemm_cut cut = kern_gemm_cut(g, &sizes);
    return cut.rows * cut.columns;
}

size_t GEMM_NAME(scratch)(const struct kern_gemm *g)
{
    struct kern_gemm_cut cut = kern_gemm_cut(g, &sizes);
    struct block w = {.g = g};
    return cut.rows ? lay_scratch(&w, g, &cut, NULL) : 0;
}
