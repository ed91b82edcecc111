// The blocked GEMM, written once for AVX2 and AVX-512. Included by <isa>/gemm.c, which defines the vector type `vec`
// of LANES floats, its operations (v_*), the rows MR of a tile and FEW of a decode, the lists GEMM_ROWS(X) of 1..MR and
// GEMM_FEW(X) of 1..FEW, and GEMM_NAME.
//
// A block of C is computed in passes of at most KC along k. A pass takes tiles of MR rows of A over all panels of NR
// columns of B; its slice of B stays in L2, a tile's slice of A in L1. A (m,k) and B (k,n) are read where they lie; B
// (n,k) is packed (transposed), A (k,m) too (its rows are met MR floats at a time), and so are panels of B (k,n) that
// are not whole or would crowd the cache. The sums of a tile between passes wait in `partial`, those of finished leaves
// in `slots`; C is written once. Every element stays one chain, k ascending from +0 (NUMERICS 4): vectors span columns,
// passes store and reload the same sum.
#include "kern/gemm_int.h"

#include "kern/simd/gemm_tile.h"

#include "kern/simd/gemm_few.h"

enum {
    MC = 1552 / MR * MR, // half of 3,072 rows, in whole tiles
    NC = 384,
    KC = 384,
    KC_COLUMNS = 192,     // where A is packed, a tile of it and a panel of B stay in L1 both; a chain a little longer
    KC_COLUMNS_MAX = 256, // than that is still better not broken
    NC_COLUMNS = 512,     // and as passes are short, L2 holds more columns, over which packing A is spread
    CROWDED = 1024,       // rows of B a multiple of this many floats apart share few sets of L2
    GROUP = 8,            // tiles whose columns of A (k,m) are prefetched together, in whole cache lines
};

// Whether whole panels of B are read where they lie.
static bool b_in_place(const struct kern_gemm *g)
{
    return g->op != KERN_NT && (g->m <= MR || g->ldb % CROWDED != 0);
}

static struct kern_gemm_cut cut_of(const struct kern_gemm *g)
{
    // What an element costs that is read in place, copied, transposed, in multiply-adds of a vector unit that does 32 a
    // cycle. Measured with bench-gemm.
    enum { IN_PLACE = 4, COPIED = 16, TRANSPOSED = 24 };
    struct kern_gemm_sizes s = {.mr = MR, .nr = NR, .kc = KC, .nc = NC, .mc = MC, .cost_a = IN_PLACE, .cost_b = COPIED};
    if (g->op == KERN_TN) {
        s.kc = g->k <= KC_COLUMNS_MAX ? KC_COLUMNS_MAX : KC_COLUMNS;
        s.nc = NC_COLUMNS;
        s.cost_a = COPIED;
    }
    if (g->op == KERN_NT)
        s.cost_b = TRANSPOSED;
    else if (b_in_place(g))
        s.cost_b = IN_PLACE;
    return kern_gemm_cut(g, &s);
}

// The work on one block. Tiles and panels are counted from the block's first.
struct block {
    const struct kern_gemm *g;
    size_t row0, rows, column0, columns;
    size_t tiles, panels;
    size_t kc;
    bool in_place;  // whole panels of B are read where they lie
    float *b;       // (panels, kc, NR); in_place: (kc, NR), the last panel where it is not whole
    float *a;       // A (k,m): one tile, (kc, LANES)
    float *sums;    // (MR, NR): a tile that ends in a panel that is not whole
    float *slots;   // planes (tiles, panels, MR, NR): a plane for each sum of the tree that may wait
    float *partial; // one plane behind them: sums of the running leaf between passes
    size_t plane;   // floats of a plane

    // The running pass: k in [k0, k0 + k) of a leaf; its first, its last.
    size_t leaf, leaves, k0, k;
    bool first, last;
};

// Columns of B (k,n) from `column` of the block on: those that do not fill a panel, or all.
static void pack_b_rows(const struct block *w, size_t column)
{
    const float *from = w->g->b + w->k0 * w->g->ldb + w->column0;
    for (size_t p = 0; p < w->k && column < w->columns; p++, from += w->g->ldb) {
        float *to = w->b + p * NR;
        size_t j = column;
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

// LANES columns of a panel from rows j of B (n,k).
static void transpose(float *to, const float *from, size_t ld, size_t k)
{
    size_t p = 0;
    for (; p + 4 <= k; p += 4) {
        vec c[4];
        transpose4(c, from + p, ld);
        UNROLL
        for (size_t i = 0; i < 4; i++)
            v_store(to + (p + i) * NR, c[i]);
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

// MR columns of A (k,m), k-major. Padded to a whole vector, so that no store splits a line.
static void pack_a_columns(const struct block *w, size_t row, size_t rows)
{
    const float *from = w->g->a + w->k0 * w->g->lda + w->row0 + row;
    for (size_t p = 0; p < w->k; p++, from += w->g->lda)
        v_store(w->a + p * LANES, v_load_n(from, rows));
}

// A walk over memory to prefetch: `parts` steps across, then FETCHES rows down.
struct walk {
    struct fetch at;
    size_t parts, part;
};

static void walk_step(struct walk *walk)
{
    walk->at.p += walk->at.width;
    if (++walk->part == walk->parts) {
        walk->part = 0;
        walk->at.p += FETCHES * walk->at.ld - walk->parts * walk->at.width;
    }
}

// What is fetched of A while `tile` runs over the panels. Rows: those of the next tile. Columns: a share of the next
// GROUP tiles.
static struct walk walk_a(const struct block *w, size_t tile)
{
    const struct kern_gemm *g = w->g;
    size_t next = g->op == KERN_TN ? tile / GROUP * GROUP + GROUP : tile + 1, k0 = w->k0, parts = w->panels;
    if (next >= w->tiles) { // the next pass
        next = 0;
        k0 += w->k;
    }
    if (g->op != KERN_TN) {
        size_t width = (w->k + parts - 1) / parts;
        return (struct walk){{g->a + (w->row0 + next * MR) * g->lda + k0, g->lda, width}, parts, 0};
    }
    size_t strips = (w->k / FETCHES + GROUP - 1) / GROUP; // a tile's share
    parts = parts > strips && strips > 0 ? parts / strips : 1;
    size_t width = (GROUP * MR + parts - 1) / parts;
    k0 += tile % GROUP * strips * FETCHES;
    return (struct walk){{g->a + k0 * g->lda + w->row0 + next * MR, g->lda, width}, parts, 0};
}

// Which sums a tile needs and where its own go.
static void tile_sums(const struct block *w, struct tile *t, size_t here)
{
    const bool last_leaf = w->leaf + 1 == w->leaves;
    const size_t slot = kern_gemm_slot(w->leaf, w->leaves), waiting = kern_gemm_waiting(w->leaf);

    t->plane = w->plane;
    t->next_sums = w->partial + here + TILE;
    t->next_count = !w->first || !w->last;
    t->in = w->first ? NULL : w->partial + here;
    t->out = w->partial + here;
    t->ldout = NR;
    if (w->last) {
        t->joins = w->slots + slot * w->plane + here;
        t->join_count = waiting - slot;
        t->out = last_leaf ? w->sums : w->slots + slot * w->plane + here;
        if (w->leaves > 1) {
            t->next_sums = t->joins + TILE;
            t->next_count += t->join_count + !last_leaf;
        }
    }
}

// The end of a tile whose panel is not whole: bias and old C for the columns there are.
static void finish(const struct block *w, size_t tile, size_t panel, size_t rows)
{
    const struct kern_gemm *g = w->g;
    const size_t column = w->column0 + panel * NR, columns = w->columns - panel * NR;

    for (size_t r = 0; r < rows; r++) {
        float *c = g->c + (w->row0 + tile * MR + r) * g->ldc + column;
        for (size_t j = 0; j < columns; j += LANES) {
            size_t n = min_size(columns - j, LANES);
            vec x = v_load(w->sums + r * NR + j);
            if (g->bias)
                x = v_add(x, v_load_n(g->bias + column + j, n));
            if (g->accumulate)
                x = v_add(x, v_load_n(c + j, n));
            v_store_n(c + j, x, n);
        }
    }
}

// One tile over all panels, in one pass.
static void sweep(const struct block *w, size_t tile, size_t rows)
{
    const struct kern_gemm *g = w->g;
    const bool final = w->last && w->leaf + 1 == w->leaves;
    struct walk walk = walk_a(w, tile);

    for (size_t panel = 0; panel < w->panels; panel++, walk_step(&walk)) {
        const bool whole = (panel + 1) * NR <= w->columns, in_place = w->in_place && whole;
        const size_t column = w->column0 + panel * NR;
        float *c = g->c + (w->row0 + tile * MR) * g->ldc + column;
        struct tile t = {.k = w->k, .a = w->a, .lda = g->lda, .b = w->b, .ldb = NR, .next_a = walk.at};
        if (g->op != KERN_TN)
            t.a = g->a + (w->row0 + tile * MR) * g->lda + w->k0;
        if (in_place) {
            t.b = g->b + w->k0 * g->ldb + column;
            t.ldb = g->ldb;
        } else if (!w->in_place) {
            t.b += panel * w->kc * NR;
        }
        tile_sums(w, &t, (tile * w->panels + panel) * TILE);
        if (final) {
            t.fetch_c = (struct fetch){c, g->ldc, NR};
            if (whole) {
                t.out = c;
                t.ldout = g->ldc;
                t.bias = g->bias ? g->bias + column : NULL;
                t.accumulate = g->accumulate;
            }
        }
        tile_functions[rows - 1][g->op == KERN_TN][in_place && tile == 0](&t);
        if (final && !whole)
            finish(w, tile, panel, rows);
    }
}

static void run_pass(const struct block *w)
{
    if (w->g->op == KERN_NT)
        pack_b_columns(w);
    else
        pack_b_rows(w, w->in_place ? w->columns / NR * NR : 0);
    for (size_t tile = 0; tile < w->tiles; tile++) {
        size_t rows_left = w->rows - tile * MR;
        if (w->g->op == KERN_TN)
            pack_a_columns(w, tile * MR, min_size(rows_left, MR));
        sweep(w, tile, min_size(rows_left, MR));
    }
}

// Lays the scratch of a block out from `base` (NULL: only measures); returns its bytes. They depend on m, n, k,
// segments and grow with each, whatever the cut: scratch for the largest product will do for smaller ones.
static size_t lay_scratch(struct block *w, const struct kern_gemm *g, float *base)
{
    const size_t leaves = kern_gemm_leaves(g), depth_max = g->op == KERN_TN ? KC_COLUMNS_MAX : KC;
    const size_t longest = kern_gemm_leaf_begin(g, leaves) - kern_gemm_leaf_begin(g, leaves - 1);
    const size_t depth = min_size((longest + LINE - 1) / LINE * LINE, depth_max);
    const size_t tiles = min_size((g->m + MR - 1) / MR, MC / MR);
    const size_t panels = min_size((g->n + NR - 1) / NR, (g->op == KERN_TN ? NC_COLUMNS : NC) / NR);
    size_t used = 0;

    w->plane = tiles * panels * TILE;
    size_t b = used;
    used += panels * depth * NR;
    size_t a = used;
    used += g->op == KERN_TN ? depth * LANES : 0;
    size_t sums = used;
    used += TILE;
    size_t slots = used;
    used += kern_gemm_slots(leaves) * w->plane;
    size_t partial = used;
    used += longest > depth_max ? w->plane : 0;
    if (base) {
        w->b = base + b;
        w->a = base + a;
        w->sums = base + sums;
        w->slots = base + slots;
        w->partial = base + partial;
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
    w.kc = cut.kc;
    w.in_place = b_in_place(g);
    lay_scratch(&w, g, scratch);
    if (g->op == KERN_NT && g->m <= FEW && w.leaves == 1) {
        size_t done = few_columns(g, w.column0, w.columns);
        w.column0 += done;
        w.columns -= done;
        w.panels = 1; // for what is less than a vector
        if (w.columns == 0)
            return;
    }

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
    struct block w = {.g = g};
    return g->m > 0 && g->n > 0 ? lay_scratch(&w, g, NULL) : 0;
}
