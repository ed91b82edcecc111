// The blocked GEMM, written once for AVX2 and AVX-512. Included by <isa>/gemm.c, which defines the vector type `vec`
// of LANES floats, its operations (v_*), MR and the list GEMM_ROWS(X) of 1..MR, and GEMM_NAME.
//
// A block of C is computed in passes of at most KC along k. A pass takes tiles of MR rows of A over all panels of NR
// columns of B; its slice of B stays in L2, a tile's slice of A in L1. An operand is read where it lies if its floats
// stand in the order of use or a row apart; B (n,k) is packed (transposed), A (k,m) too (its rows are met MR floats at
// a time), and so is a last panel that is not whole. The sums of a tile between passes wait in `partial`, those of
// finished leaves in `slots`; C is written once. Every element stays one chain, k ascending from +0 (NUMERICS 4):
// vectors span columns, passes store and reload the same sum.
#include "kern/gemm_int.h"

enum {
    NR = 2 * LANES,
    NC = 384,
    KC = 384,
    KC_CROWDED = 256, // where rows of B lie a multiple of CROWDED floats apart, and so in few sets of L2
    CROWDED = 1024,
    GROUP = 8, // tiles of A packed at once where A is (k,m)
    TILE = MR * NR,
    LINE = 16,    // floats in a cache line
    FETCHES = 16, // shares in which a tile prefetches for those after it; at least MR
};

static struct kern_gemm_cut cut_of(const struct kern_gemm *g)
{
    bool crowded = g->op != KERN_NT && g->ldb % CROWDED == 0;
    return kern_gemm_cut(g, &(struct kern_gemm_sizes){.mr = MR, .nr = NR, .kc = crowded ? KC_CROWDED : KC, .nc = NC});
}

#define ALWAYS_INLINE static inline __attribute__((always_inline))
#ifdef __clang__
#define UNROLL _Pragma("clang loop unroll(full)")
#else
#define UNROLL _Pragma("GCC unroll 16")
#endif

// Memory that a later step will want: `width` floats of each of FETCHES rows. Only ever prefetched, so it may lie
// anywhere.
struct fetch {
    const float *p;
    size_t ld, width;
};

// One pass over one tile.
struct tile {
    size_t k;
    const float *a; // rows lda apart, or k-major, LANES apart
    size_t lda;
    const float *b; // k-major, ldb apart
    size_t ldb;
    const float *in; // sums so far, MR x NR, or NULL: +0
    float *out;
    size_t ldout;
    struct fetch next_a, next_c;
    const float *next_in;
};

// One pointer for three rows of A: each row is then base + {0, 1, 2} * lda, an address the CPU forms itself, and all
// fits in registers. Compilers would compute 14 pointers and spill them; hiding the values keeps them from it.
enum { BASES = (MR + 2) / 3 };
#define HIDE(x) __asm__("" : "+r"(x))

// next_b: B lies in place and is met for the first time, so the panel to the right is fetched on the way.
ALWAYS_INLINE void tile_run(const struct tile *t, const size_t rows, const size_t a_row, const size_t a_k,
                            const bool next_b)
{
    const float *a[BASES], *b = t->b, *next_a = t->next_a.p, *next_c = t->next_c.p, *next_in = t->next_in;
    const size_t ldb = t->ldb, share = t->k / FETCHES;
    vec sum[MR][2];

    UNROLL
    for (size_t i = 0; i < BASES; i++)
        a[i] = t->a + 3 * i * a_row;
    UNROLL
    for (size_t r = 0; r < rows; r++) {
        sum[r][0] = t->in ? v_load(t->in + r * NR) : v_zero();
        sum[r][1] = t->in ? v_load(t->in + r * NR + LANES) : v_zero();
    }
    for (size_t left = t->k, part = 0; part < FETCHES; part++) {
        for (size_t j = 0; j < t->next_a.width; j += LINE)
            __builtin_prefetch(next_a + j, 0, 2);
        __builtin_prefetch(next_c, 1);
        __builtin_prefetch(next_c + LANES, 1);
        __builtin_prefetch(next_in, 1);
        __builtin_prefetch(next_in + LANES, 1);
        next_a += t->next_a.ld;
        next_c += t->next_c.ld;
        next_in += NR;
        size_t count = part + 1 < FETCHES ? share : left;
        left -= count;
        for (; count > 0; count--) {
            vec b0 = v_load(b), b1 = v_load(b + LANES);
            if (next_b) {
                __builtin_prefetch(b + NR, 0, 2);
                __builtin_prefetch(b + NR + LANES, 0, 2);
            }
            UNROLL
            for (size_t i = 0; i < (rows + 2) / 3; i++)
                HIDE(a[i]);
            UNROLL
            for (size_t r = 0; r < rows; r++) {
                vec x = v_set(a[r / 3][r % 3 * a_row]);
                sum[r][0] = v_fma(x, b0, sum[r][0]);
                sum[r][1] = v_fma(x, b1, sum[r][1]);
            }
            UNROLL
            for (size_t i = 0; i < (rows + 2) / 3; i++)
                a[i] += a_k;
            b += ldb;
        }
    }
    float *out = t->out;
    const size_t ldout = t->ldout;
    UNROLL
    for (size_t r = 0; r < rows; r++, out += ldout) {
        v_store(out, sum[r][0]);
        v_store(out + LANES, sum[r][1]);
    }
}

// tile_<layout of A>_<rows>, and with `_far` behind where B is met for the first time.
#define TILE_FUNCTION(name, rows, a_row, a_k, next_b)                                                                  \
    static void name(const struct tile *t)                                                                             \
    {                                                                                                                  \
        tile_run(t, rows, a_row, a_k, next_b);                                                                         \
    }
#define TILE_FUNCTIONS(rows)                                                                                           \
    TILE_FUNCTION(tile_rows_##rows, rows, t->lda, 1, false)                                                            \
    TILE_FUNCTION(tile_rows_##rows##_far, rows, t->lda, 1, true)                                                       \
    TILE_FUNCTION(tile_columns_##rows, rows, 1, LANES, false)                                                          \
    TILE_FUNCTION(tile_columns_##rows##_far, rows, 1, LANES, true)
GEMM_ROWS(TILE_FUNCTIONS)
#define TILE_ENTRY(rows) {{tile_rows_##rows, tile_rows_##rows##_far}, {tile_columns_##rows, tile_columns_##rows##_far}},
static void (*const tile_functions[MR][2][2])(const struct tile *) = {GEMM_ROWS(TILE_ENTRY)};

// The work on one block. Tiles and panels are counted from the block's first.
struct block {
    const struct kern_gemm *g;
    size_t row0, rows, column0, columns;
    size_t tiles, panels;
    size_t kc;
    float *b;       // B (n,k): (panels, kc, NR); else (kc, NR): the last panel where it is not whole
    float *a;       // A (k,m): GROUP tiles (kc, LANES)
    float *sums;    // (MR, NR): a tile on its way to `finish`
    float *partial; // (tiles, panels, MR, NR): sums of the running leaf between passes
    float *slots;   // the same for each sum of the tree that waits
    size_t plane;   // floats in `partial` and in each slot

    // The running pass: k in [k0, k0 + k) of a leaf; its first, its last.
    size_t leaf, leaves, k0, k;
    bool first, last;
};

ALWAYS_INLINE size_t min_size(size_t a, size_t b)
{
    return a < b ? a : b;
}

// The columns of B (k,n) that do not fill a panel.
static void pack_b_rest(const struct block *w)
{
    const float *from = w->g->b + w->k0 * w->g->ldb + w->column0 + w->columns / NR * NR;
    const size_t columns = w->columns % NR;
    for (size_t p = 0; p < w->k && columns > 0; p++, from += w->g->ldb) {
        v_store(w->b + p * NR, v_load_n(from, min_size(columns, LANES)));
        v_store(w->b + p * NR + LANES, columns > LANES ? v_load_n(from + LANES, columns - LANES) : v_zero());
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

// Columns of A (k,m): a group of tiles, k-major. Tiles are padded to a whole vector, so that no store splits a line.
static void pack_a_columns(const struct block *w, size_t row, size_t rows)
{
    for (size_t p = 0; p < w->k; p++) {
        const float *from = w->g->a + (w->k0 + p) * w->g->lda + w->row0 + row;
        float *to = w->a + p * LANES;
        size_t r = 0;
        for (; r + MR <= rows; r += MR, to += w->kc * LANES)
            v_store(to, v_load_n(from + r, MR));
        if (r < rows)
            v_store(to, v_load_n(from + r, rows - r));
    }
}

// What the sweep of `tile` fetches for A while it runs over `panel`. Rows: a share of the lines of the next tile.
// Columns: a share of the next group, 16 rows at a time, so that a group is there when its turn to be packed comes.
static struct fetch fetch_a(const struct block *w, size_t tile, size_t panel)
{
    const struct kern_gemm *g = w->g;
    if (g->op != KERN_TN) {
        size_t row = tile + 1 < w->tiles ? w->row0 + (tile + 1) * MR : w->row0;
        size_t k0 = tile + 1 < w->tiles ? w->k0 : w->k0 + w->k;
        size_t width = (w->k + w->panels - 1) / w->panels;
        return (struct fetch){g->a + row * g->lda + k0 + panel * width, g->lda, width};
    }
    size_t group = tile / GROUP * GROUP, steps = min_size(w->tiles - group, GROUP) * w->panels;
    size_t step = (tile - group) * w->panels + panel, strips = (w->k + FETCHES - 1) / FETCHES;
    size_t parts = steps > strips && strips > 0 ? steps / strips : 1; // of a strip's width
    bool more = group + GROUP < w->tiles;
    size_t row = more ? (group + GROUP) * MR : 0, k0 = (more ? w->k0 : w->k0 + w->k) + step / parts * FETCHES;
    size_t width = (min_size(w->rows - row, GROUP * MR) + parts - 1) / parts;
    return (struct fetch){g->a + k0 * g->lda + w->row0 + row + step % parts * width, g->lda, width};
}

// Ends a leaf for one tile whose sums lie in w->sums: joins the sums of the tree that wait for it, the youngest first,
// and waits in the place of the oldest of them; the last leaf adds bias and old C instead.
static void finish(const struct block *w, size_t tile, size_t panel, size_t rows)
{
    const struct kern_gemm *g = w->g;
    const size_t slot = kern_gemm_slot(w->leaf, w->leaves), waiting = kern_gemm_waiting(w->leaf);
    const size_t columns = min_size(w->columns - panel * NR, NR);
    float *here = w->slots + (tile * w->panels + panel) * TILE;
    float *c = g->c + (w->row0 + tile * MR) * g->ldc + w->column0 + panel * NR;

    for (size_t r = 0; r < rows; r++) {
        for (size_t j = 0; j < columns; j += LANES) {
            size_t n = min_size(columns - j, LANES), at = r * NR + j;
            vec x = v_load(w->sums + at);
            for (size_t s = waiting; s-- > slot;)
                x = v_add(v_load(here + s * w->plane + at), x);
            if (w->leaf + 1 < w->leaves) {
                v_store(here + slot * w->plane + at, x);
                continue;
            }
            if (g->bias)
                x = v_add(x, v_load_n(g->bias + w->column0 + panel * NR + j, n));
            if (g->accumulate)
                x = v_add(x, v_load_n(c + r * g->ldc + j, n));
            v_store_n(c + r * g->ldc + j, x, n);
        }
    }
}

// One tile over all panels, in one pass.
static void sweep(const struct block *w, size_t tile, size_t rows)
{
    const struct kern_gemm *g = w->g;
    const bool plain = w->leaves == 1 && !g->bias && !g->accumulate;

    for (size_t panel = 0; panel < w->panels; panel++) {
        bool whole = (panel + 1) * NR <= w->columns, in_place = g->op != KERN_NT && whole;
        bool direct = plain && w->last && whole;
        size_t here = (tile * w->panels + panel) * TILE, last_leaf = w->leaf + 1 == w->leaves;
        float *c = g->c + (w->row0 + tile * MR) * g->ldc + w->column0 + panel * NR;
        float *waiting = w->slots + kern_gemm_slot(w->leaf, w->leaves) * w->plane + here;
        struct tile t = {.k = w->k, .lda = g->lda, .b = w->b, .ldb = NR, .out = w->sums, .ldout = NR};
        t.a = g->op == KERN_TN ? w->a + tile % GROUP * w->kc * LANES : g->a + (w->row0 + tile * MR) * g->lda + w->k0;
        if (in_place) {
            t.b = g->b + w->k0 * g->ldb + w->column0 + panel * NR;
            t.ldb = g->ldb;
        } else if (g->op == KERN_NT) {
            t.b += panel * w->kc * NR;
        }
        if (!w->first)
            t.in = w->partial + here;
        if (!w->last)
            t.out = w->partial + here;
        if (direct) {
            t.out = c;
            t.ldout = g->ldc;
        }
        t.next_a = fetch_a(w, tile, panel);
        t.next_c = last_leaf ? (struct fetch){c + NR, g->ldc, NR} : (struct fetch){waiting + TILE, NR, NR};
        t.next_in = w->first && w->last ? w->sums : w->partial + here + TILE;
        tile_functions[rows - 1][g->op == KERN_TN][in_place && tile == 0](&t);
        if (w->last && !direct)
            finish(w, tile, panel, rows);
    }
}

static void run_pass(const struct block *w)
{
    if (w->g->op == KERN_NT)
        pack_b_columns(w);
    else
        pack_b_rest(w);
    for (size_t tile = 0; tile < w->tiles; tile++) {
        size_t rows_left = w->rows - tile * MR;
        if (w->g->op == KERN_TN && tile % GROUP == 0)
            pack_a_columns(w, tile * MR, min_size(rows_left, GROUP * MR));
        sweep(w, tile, min_size(rows_left, MR));
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
    used += (g->op == KERN_NT ? cut->block_panels : g->n % NR != 0) * w->kc * NR;
    size_t a = used;
    used += g->op == KERN_TN ? min_size(cut->block_tiles, GROUP) * w->kc * LANES : 0;
    size_t sums = used;
    used += TILE;
    size_t partial = used;
    used += longest > w->kc ? w->plane : 0;
    size_t slots = used;
    used += kern_gemm_slots(leaves) * w->plane;
    if (base) {
        w->b = base + b;
        w->a = base + a;
        w->sums = base + sums;
        w->partial = base + partial;
        w->slots = base + slots;
    }
    return used * sizeof(float);
}

void GEMM_NAME(block)(const struct kern_gemm *g, size_t block, void *scratch)
{
    struct kern_gemm_cut cut = cut_of(g);
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
    struct kern_gemm_cut cut = cut_of(g);
    return cut.rows * cut.columns;
}

size_t GEMM_NAME(scratch)(const struct kern_gemm *g)
{
    struct kern_gemm_cut cut = cut_of(g);
    struct block w = {.g = g};
    return cut.rows ? lay_scratch(&w, g, &cut, NULL) : 0;
}
