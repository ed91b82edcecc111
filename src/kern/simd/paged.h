// ref/paged.c over vectors of keys, then of values' columns: a page holds 16 keys d-major, so one load is the d-th
// element of 16 keys and no score is reduced across lanes. The query heads that share keys, and up to 16 queries, are
// the rows of an item.
#ifndef KERN_SIMD_PAGED_H
#define KERN_SIMD_PAGED_H

#include "kern/packed_int.h"
#include "kern/rows_int.h"
#include "kern/simd/vmath.h"

enum { PAGED_ROWS = 4, PAGED_FEW = 4, PAGED_MANY = SIMD_PAGED_PAGES };

struct paged_rows { // of one item: row r is query r / group, head kv * group + r % group
    const struct kern_paged *a;
    size_t kv, group, query, count;
    size_t ld; // of scores
};

static const float *paged_query(const struct paged_rows *p, size_t r)
{
    return p->a->q + (p->query + r / p->group) * p->a->q_stride + (p->kv * p->group + r % p->group) * p->a->head_dim;
}

static float *paged_out(const struct paged_rows *p, size_t r)
{
    return p->a->out + (p->query + r / p->group) * p->a->o_stride + (p->kv * p->group + r % p->group) * p->a->head_dim;
}

static size_t paged_keys(const struct paged_rows *p, size_t r) // that row r sees
{
    return p->a->position + p->query + r / p->group + 1;
}

// n of 16 keys or values, from number `at` on.
INLINE vf paged_numbers(const void *numbers, bool half, size_t at, size_t n)
{
    uint16_t few[KERN_LANES] = {0};
    if (!half)
        return v_load_n((const float *)numbers + at, n);
    if (n == KERN_LANES)
        return v_from_f16((const uint16_t *)numbers + at);
    memcpy(few, (const uint16_t *)numbers + at, n * sizeof *few);
    return v_from_f16(few);
}

// Dot products of `rows` queries with the keys of `pages` pages.
INLINE void paged_scores(float *scores, const struct paged_rows *p, bool half, size_t row, size_t page, size_t rows,
                         size_t pages)
{
    const struct kern_paged *a = p->a;
    const float *q[PAGED_ROWS];
    size_t k[PAGED_FEW];
    vf sum[PAGED_ROWS][PAGED_FEW];
    UNROLL
    for (size_t r = 0; r < rows; r++)
        q[r] = paged_query(p, row + r);
    UNROLL
    for (size_t x = 0; x < pages; x++)
        k[x] = a->pages[page + x] * a->page_stride + p->kv * a->head_dim * KERN_PAGE;
    UNROLL
    for (size_t x = 0; x < rows * pages; x++)
        sum[x / pages][x % pages] = v_zero();
    for (size_t d = 0; d < a->head_dim; d++) {
        vf right[PAGED_FEW];
        UNROLL
        for (size_t x = 0; x < pages; x++)
            right[x] = paged_numbers(a->keys, half, k[x] + d * KERN_PAGE, KERN_LANES);
        UNROLL
        for (size_t r = 0; r < rows; r++) {
            vf left = v_set(q[r][d]);
            UNROLL
            for (size_t x = 0; x < pages; x++)
                sum[r][x] = v_fma(left, right[x], sum[r][x]);
        }
    }
    UNROLL
    for (size_t x = 0; x < rows * pages; x++)
        v_store(scores + (row + x / pages) * p->ld + (page + x % pages) * KERN_PAGE, sum[x / pages][x % pages]);
}

INLINE void paged_all_scores(float *scores, const struct paged_rows *p, bool half)
{
    const size_t pages = (paged_keys(p, p->count - 1) + KERN_PAGE - 1) / KERN_PAGE;
    size_t row = 0;
    for (; row + PAGED_ROWS <= p->count; row += PAGED_ROWS) {
        size_t page = 0;
        for (; page + PAGED_MANY <= pages; page += PAGED_MANY)
            paged_scores(scores, p, half, row, page, PAGED_ROWS, PAGED_MANY);
        for (; page < pages; page++)
            paged_scores(scores, p, half, row, page, PAGED_ROWS, 1);
    }
    for (; row < p->count; row++) {
        size_t page = 0;
        for (; page + PAGED_FEW <= pages; page += PAGED_FEW)
            paged_scores(scores, p, half, row, page, 1, PAGED_FEW);
        for (; page < pages; page++)
            paged_scores(scores, p, half, row, page, 1, 1);
    }
}

static void paged_softmax(float *s, size_t keys, float scale)
{
    vf factor = v_set(scale), most = v_set(-INFINITY), lanes = v_zero();
    V_EACH(j, n, keys)
    {
        vf x = v_mul(v_load(s + j), factor);
        most = v_max(n == KERN_LANES ? x : v_select(v_first(n), x, most), most);
        v_store(s + j, x);
    }
    vf max = v_set(v_fold_max(most) + 0.0f);
    V_EACH(j, n, keys)
    {
        vf e = v_keep_n(v_exp(v_sub(v_load(s + j), max)), n);
        lanes = v_add(lanes, e);
        v_store(s + j, e);
    }
    vf sum = v_set(v_fold(lanes)), inverse = v_div(v_set(1.0f), sum);
    for (size_t j = 0; j < keys; j += KERN_LANES) {
        v_store(s + j, v_quotient(v_load(s + j), sum, inverse));
    }
}

// out (rows, columns d ..) (+)= chain over keys [first, end) of fmaf(P[j], V[j][d]).
INLINE void paged_values(const float *scores, const struct paged_rows *p, bool half, size_t row, size_t d, size_t first,
                         size_t end, size_t rows, size_t vecs)
{
    const struct kern_paged *a = p->a;
    vf sum[PAGED_ROWS][4];
    const size_t n = v_lanes(a->head_dim - d); // of the only vector that may be short
    UNROLL
    for (size_t x = 0; x < rows * vecs; x++) {
        size_t r = x / vecs, v = x % vecs;
        sum[r][v] = first ? v_load_n(paged_out(p, row + r) + d + v * KERN_LANES, vecs > 1 ? KERN_LANES : n) : v_zero();
    }
    for (size_t j = first; j < end; j++) {
        const size_t value =
            a->pages[j / KERN_PAGE] * a->page_stride + (p->kv * KERN_PAGE + j % KERN_PAGE) * a->head_dim + d;
        vf right[4];
        UNROLL
        for (size_t v = 0; v < vecs; v++)
            right[v] = paged_numbers(a->values, half, value + v * KERN_LANES, vecs > 1 ? KERN_LANES : n);
        UNROLL
        for (size_t r = 0; r < rows; r++) {
            vf left = v_set(scores[(row + r) * p->ld + j]);
            UNROLL
            for (size_t v = 0; v < vecs; v++)
                sum[r][v] = v_fma(left, right[v], sum[r][v]);
        }
    }
    UNROLL
    for (size_t x = 0; x < rows * vecs; x++) {
        size_t r = x / vecs, v = x % vecs;
        v_store_n(paged_out(p, row + r) + d + v * KERN_LANES, sum[r][v], vecs > 1 ? KERN_LANES : n);
    }
}

// Rows that see equally many keys or nearly: what all of them see together, the rest one by one.
INLINE void paged_all_values(const float *scores, const struct paged_rows *p, bool half)
{
    size_t rows;
    for (size_t row = 0; row < p->count; row += rows) {
        rows = p->count - row < SIMD_PAGED_ROWS ? 1 : SIMD_PAGED_ROWS;
        const size_t common = paged_keys(p, row);
        size_t vecs;
        for (size_t d = 0; d < p->a->head_dim; d += vecs * KERN_LANES) {
            vecs = p->a->head_dim - d < 4 * KERN_LANES ? 1 : 4;
            if (rows == 1 && vecs == 1)
                paged_values(scores, p, half, row, d, 0, common, 1, 1);
            else if (rows == 1)
                paged_values(scores, p, half, row, d, 0, common, 1, 4);
            else if (vecs == 1)
                paged_values(scores, p, half, row, d, 0, common, SIMD_PAGED_ROWS, 1);
            else
                paged_values(scores, p, half, row, d, 0, common, SIMD_PAGED_ROWS, 4);
            for (size_t r = 1; r < rows; r++)
                if (paged_keys(p, row + r) > common) {
                    if (vecs == 1)
                        paged_values(scores, p, half, row + r, d, common, paged_keys(p, row + r), 1, 1);
                    else
                        paged_values(scores, p, half, row + r, d, common, paged_keys(p, row + r), 1, 4);
                }
        }
    }
}

size_t SIMD(paged_items)(const struct kern_paged *a)
{
    return kern_ref_paged_items(a);
}

static size_t paged_ld(const struct kern_paged *a)
{
    return (a->position + a->queries + KERN_PAGE - 1) / KERN_PAGE * KERN_PAGE;
}

size_t SIMD(paged_scratch)(const struct kern_paged *a)
{
    const size_t queries = a->queries < KERN_PAGED_QUERIES ? a->queries : KERN_PAGED_QUERIES;
    return paged_ld(a) * queries * (a->heads / a->kv_heads) * sizeof(float);
}

INLINE void paged_item(const struct kern_paged *a, bool half, size_t item, float *scores)
{
    const size_t query = item / a->kv_heads * KERN_PAGED_QUERIES, group = a->heads / a->kv_heads;
    const size_t queries = a->queries - query < KERN_PAGED_QUERIES ? a->queries - query : KERN_PAGED_QUERIES;
    struct paged_rows p = {a, item % a->kv_heads, group, query, queries * group, paged_ld(a)};
    paged_all_scores(scores, &p, half);
    for (size_t r = 0; r < p.count; r++)
        paged_softmax(scores + r * p.ld, paged_keys(&p, r), a->scale);
    paged_all_values(scores, &p, half);
}

static __attribute__((noinline)) void paged_halves(const struct kern_paged *a, size_t item, float *scores)
{
    paged_item(a, true, item, scores);
}

void SIMD(paged)(const struct kern_paged *a, size_t item, void *scratch)
{
    if (a->half)
        paged_halves(a, item, scratch);
    else
        paged_item(a, false, item, scratch);
}

#endif
