// Few rows of A against B (n,k), as in decoding: each weight is read once and used at once. Vectors of columns are
// transposed in registers, four k at a time, and never stored. Part of gemm_simd.h.

// c[i] = column k + i of LANES rows of B that begin at `from`: 128-bit pieces of the rows are gathered into vectors,
// then transposed inside their 128-bit parts.
ALWAYS_INLINE void transpose4(vec c[4], const float *from, size_t ld)
{
    vec r0 = v_gather4(from, ld), r1 = v_gather4(from + ld, ld);
    vec r2 = v_gather4(from + 2 * ld, ld), r3 = v_gather4(from + 3 * ld, ld);
    vec lo01 = v_unpack_lo(r0, r1), hi01 = v_unpack_hi(r0, r1);
    vec lo23 = v_unpack_lo(r2, r3), hi23 = v_unpack_hi(r2, r3);
    c[0] = v_pair_lo(lo01, lo23);
    c[1] = v_pair_hi(lo01, lo23);
    c[2] = v_pair_lo(hi01, hi23);
    c[3] = v_pair_hi(hi01, hi23);
}

enum { FEW_AHEAD = 64 }; // floats of a row between what is read and what is prefetched; then the next rows begin

// C[0 .. rows, column .. column + LANES)
ALWAYS_INLINE void few_run(const struct kern_gemm *g, size_t column, const size_t rows)
{
    const float *a = g->a, *b = g->b + column * g->ldb;
    const size_t lda = g->lda, ldb = g->ldb, k = g->k;
    vec sum[FEW];
    size_t p = 0;

    UNROLL
    for (size_t r = 0; r < rows; r++)
        sum[r] = v_zero();
    for (; p + 4 <= k; p += 4) {
        if (p % LINE == 0) {
            const float *ahead = p + FEW_AHEAD < k ? b + p + FEW_AHEAD : b + LANES * ldb + (p + FEW_AHEAD - k);
            for (size_t j = 0; j < LANES; j++, ahead += ldb)
                __builtin_prefetch(ahead);
        }
        vec c[4];
        transpose4(c, b + p, ldb);
        UNROLL
        for (size_t i = 0; i < 4; i++) {
            UNROLL
            for (size_t r = 0; r < rows; r++)
                sum[r] = v_fma(v_set(a[r * lda + p + i]), c[i], sum[r]);
        }
    }
    for (; p < k; p++) {
        float c[LANES];
        for (size_t j = 0; j < LANES; j++)
            c[j] = b[j * ldb + p];
        UNROLL
        for (size_t r = 0; r < rows; r++)
            sum[r] = v_fma(v_set(a[r * lda + p]), v_load(c), sum[r]);
    }
    UNROLL
    for (size_t r = 0; r < rows; r++) {
        float *out = g->c + r * g->ldc + column;
        if (g->bias)
            sum[r] = v_add(sum[r], v_load(g->bias + column));
        if (g->accumulate)
            sum[r] = v_add(sum[r], v_load(out));
        v_store(out, sum[r]);
    }
}

#define FEW_FUNCTION(rows)                                                                                             \
    static void few_##rows(const struct kern_gemm *g, size_t column)                                                   \
    {                                                                                                                  \
        few_run(g, column, rows);                                                                                      \
    }
GEMM_FEW(FEW_FUNCTION)
#define FEW_ENTRY(rows) few_##rows,
static void (*const few_functions[FEW])(const struct kern_gemm *, size_t) = {GEMM_FEW(FEW_ENTRY)};

// The whole vectors of these columns. Returns how many columns that was.
static size_t few_columns(const struct kern_gemm *g, size_t column, size_t columns)
{
    size_t done = 0;
    for (; done + LANES <= columns; done += LANES)
        few_functions[g->m - 1](g, column + done);
    return done;
}
