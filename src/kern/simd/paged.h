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

// What the next head in the page has at the same place: it is too short a run for a processor to see that it goes on.
INLINE void paged_fetch(const void *numbers, bool half, size_t at)
{
    _mm_prefetch((const char *)numbers + at * (half ? sizeof(uint16_t) : sizeof(float)), _MM_HINT_T1);
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
        for (size_t x = 0; x < pages; x++)
            paged_fetch(a->keys, half, k[x] + (a->head_dim + d) * KERN_PAGE);
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

// All rows, pages [first, end).
INLINE void paged_some_scores(float *scores, const struct paged_rows *p, bool half, size_t first, size_t end)
{
    size_t row = 0;
    for (; row + PAGED_ROWS <= p->count; row += PAGED_ROWS) {
        size_t page = first;
        for (; page + PAGED_MANY <= end; page += PAGED_MANY)
            paged_scores(scores, p, half, row, page, PAGED_ROWS, PAGED_MANY);
        for (; page < end; page++)
            paged_scores(scores, p, half, row, page, PAGED_ROWS, 1);
    }
    for (; row < p->count; row++) {
        size_t page = first;
        for (; page + PAGED_FEW <= end; page += PAGED_FEW)
            paged_scores(scores, p, half, row, page, 1, PAGED_FEW);
        for (; page < end; page++)
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
            paged_fetch(a->values, half, value + a->head_dim * KERN_PAGE + v * KERN_LANES);
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

// All columns of `rows` rows.
INLINE void paged_wide_values(const float *scores, const struct paged_rows *p, bool half, size_t row, size_t first,
                              size_t end, size_t rows)
{
    const size_t head_dim = p->a->head_dim;
    size_t d = 0;
    for (; d + 4 * KERN_LANES <= head_dim; d += 4 * KERN_LANES)
        paged_values(scores, p, half, row, d, first, end, rows, 4);
    for (; d < head_dim; d += KERN_LANES)
        paged_values(scores, p, half, row, d, first, end, rows, 1);
}

// Rows that see equally many keys or nearly: what all of them see together, the rest one by one. Keys [first, end) of
// those that a row sees.
INLINE void paged_some_values(const float *scores, const struct paged_rows *p, bool half, size_t first, size_t end)
{
    size_t rows;
    for (size_t row = 0; row < p->count; row += rows) {
        rows = p->count - row < SIMD_PAGED_ROWS ? 1 : SIMD_PAGED_ROWS;
        const size_t seen = paged_keys(p, row), common = seen < end ? seen : end;
        if (rows == 1)
            paged_wide_values(scores, p, half, row, first, common, 1);
        else
            paged_wide_values(scores, p, half, row, first, common, SIMD_PAGED_ROWS);
        for (size_t r = 1; r < rows; r++)
            if (paged_keys(p, row + r) > common && common < end)
                paged_wide_values(scores, p, half, row + r, common, paged_keys(p, row + r), 1);
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
    const struct kern_paged_part part = kern_paged_part(a, 0); // the last one may have a single query
    const size_t rows = part.queries > part.heads ? part.queries : part.heads;
    return paged_ld(a) * rows * (a->heads / a->kv_heads) * sizeof(float);
}

static size_t paged_least(size_t a, size_t b)
{
    return a < b ? a : b;
}

// Heads that are taken together see a few pages, all of them, then the next: what lies side by side is read in order.
INLINE void paged_together(const struct kern_paged *a, bool half, const struct kern_paged_part *part, float *scores)
{
    const size_t group = a->heads / a->kv_heads, rows = part->queries * group, ld = paged_ld(a);
    const size_t keys = a->position + part->query + part->queries,
                 step = part->heads > 1 ? PAGED_FEW * KERN_PAGE : keys;
    struct paged_rows p = {.a = a, .group = group, .query = part->query, .count = rows, .ld = ld};
    for (size_t first = 0; first < keys; first += step)
        for (size_t h = 0; h < part->heads; h++) {
            p.kv = part->head + h;
            paged_some_scores(scores + h * rows * ld, &p, half, first / KERN_PAGE,
                              (paged_least(keys, first + step) + KERN_PAGE - 1) / KERN_PAGE);
        }
    for (size_t r = 0; r < part->heads * rows; r++)
        paged_softmax(scores + r * ld, paged_keys(&p, r % rows), a->scale);
    for (size_t first = 0; first < keys; first += step)
        for (size_t h = 0; h < part->heads; h++) {
            p.kv = part->head + h;
            paged_some_values(scores + h * rows * ld, &p, half, first, paged_least(keys, first + step));
        }
}

INLINE void paged_item(const struct kern_paged *a, bool half, size_t item, float *scores)
{
    struct kern_paged_part part = kern_paged_part(a, item);
    if (part.queries == 1) {
        paged_together(a, half, &part, scores);
        return;
    }
    const size_t end = part.head + part.heads;
    for (part.heads = 1; part.head < end; part.head++)
        paged_together(a, half, &part, scores);
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
