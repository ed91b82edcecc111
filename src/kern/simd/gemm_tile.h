// The innermost part of the GEMM: a tile of up to MR x NR sums, held in registers over one pass along k. Part of
// gemm_simd.h, which says what LANES, MR, vec and v_* are.
#include <stdbool.h>
#include <stddef.h>

enum {
    NR = 2 * LANES, // columns of a tile
    TILE = MR * NR,
    LINE = 16,       // floats in a cache line
    FETCHES = LANES, // shares in which a tile prefetches for those after it, a row each; at least MR
};

#define ALWAYS_INLINE static inline __attribute__((always_inline))
#ifdef __clang__
#define UNROLL _Pragma("clang loop unroll(full)")
#else
#define UNROLL _Pragma("GCC unroll 16")
#endif

ALWAYS_INLINE size_t min_size(size_t a, size_t b)
{
    return a < b ? a : b;
}

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
    // Added at the end, in this order; NULL or none where not wanted.
    const float *joins; // MR x NR, `plane` apart, the last first
    size_t join_count, plane;
    const float *bias;            // (NR)
    bool accumulate;              // what `out` holds
    struct fetch next_a, fetch_c; // of a later tile; of this one
    const float *next_sums;       // next_count planes of a tile
    size_t next_count;
};

// One pointer for three rows of A: each row is then base + {0, 1, 2} * lda, an address the CPU forms itself, and all
// fits in registers. Compilers would compute 14 pointers and spill them; hiding the values keeps them from it.
enum { BASES = (MR + 2) / 3 };
#define HIDE(x) __asm__("" : "+r"(x))

ALWAYS_INLINE void tile_fetch(const struct tile *t, size_t part)
{
    const float *next_a = t->next_a.p + part * t->next_a.ld, *c = t->fetch_c.p + part * t->fetch_c.ld;
    const float *next_sums = t->next_sums + part * NR;
    for (size_t i = 0; i < t->next_a.width; i += LINE)
        __builtin_prefetch(next_a + i, 0, 2);
    for (size_t i = 0; i < t->fetch_c.width; i += LINE)
        __builtin_prefetch(c + i, 1);
    for (size_t i = 0; i < t->next_count; i++, next_sums += t->plane) {
        for (size_t j = 0; j < NR; j += LINE)
            __builtin_prefetch(next_sums + j, 1);
    }
}

// sum += rows of x, ld apart.
ALWAYS_INLINE void tile_add(vec sum[MR][2], const size_t rows, const float *x, size_t ld)
{
    UNROLL
    for (size_t r = 0; r < rows; r++, x += ld) {
        sum[r][0] = v_add(sum[r][0], v_load(x));
        sum[r][1] = v_add(sum[r][1], v_load(x + LANES));
    }
}

// next_b: B lies in place and is met for the first time, so the panel to the right is fetched on the way.
ALWAYS_INLINE void tile_run(const struct tile *t, const size_t rows, const size_t a_row, const size_t a_k,
                            const bool next_b)
{
    const float *a[BASES], *b = t->b;
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
        tile_fetch(t, part);
        size_t count = part + 1 < FETCHES ? share : left;
        left -= count;
        for (; count > 0; count--) {
            vec b0 = v_load(b), b1 = v_load(b + LANES);
            for (size_t i = 0; next_b && i < NR; i += LINE)
                __builtin_prefetch(b + NR + i, 0, 2);
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
    for (size_t s = t->join_count; s-- > 0;)
        tile_add(sum, rows, t->joins + s * t->plane, NR);
    if (t->bias)
        tile_add(sum, rows, t->bias, 0);
    if (t->accumulate)
        tile_add(sum, rows, t->out, t->ldout);
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
