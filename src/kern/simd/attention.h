// ref/attention.c over vectors of queries. A block of up to 64 query rows of one head is transposed (d-major), so that
// scores come out key-major: S^T[j][r], vectors span query rows, K and V are read as they lie and no row is reduced
// across lanes. Every product is then one register tile (below) over strides:
//   S^T  = K Q^T    dP^T = V dO^T    chain over d
//   O    = P V      dQ   = dS K      chain over keys, 64 at a time, sums stored and reloaded
//   dV  += P^T dO   dK  += dS^T Q    chain over query rows, blocks descending
// The triangle is exact: where a tile crosses the diagonal, its rows join or leave one by one.
// Forward needs S^T for all keys (the maximum comes first); backward has the maximum and works 64 keys at a time.
#ifndef KERN_SIMD_ATTENTION_H
#define KERN_SIMD_ATTENTION_H

#include "kern/rows_int.h"
#include "kern/simd/vmath.h"

enum {
    ROWS = SIMD_TILE_ROWS,
    VECS = SIMD_TILE_VECS,
    BLOCK = KERN_QUERY_BLOCK,
    CHUNK = 64, // keys
    BLOCK_VECS = BLOCK / KERN_LANES,
};

// C[i][x] (+)= chain over k of fmaf(A(i, k), B[k][x]), for one tile. Row i takes part for start + i <= k < end + i
// within [0, count); at most one of the two edges crosses a tile.
struct tile {
    float *c;
    size_t ldc;
    const float *a;
    size_t a_row, a_k;
    const float *b;
    size_t ldb, count;
    long start, end;
    size_t columns; // of C that exist; B is padded to whole vectors
    bool load;      // continue the chains in C, else start at +0
};

// One k, for rows from .. to - 1.
INLINE void tile_step(vf sum[ROWS][VECS], const struct tile *t, long k, size_t from, size_t to, size_t vecs)
{
    const float *a = t->a + (size_t)k * t->a_k, *b = t->b + (size_t)k * t->ldb;
    vf right[VECS];
    UNROLL
    for (size_t v = 0; v < vecs; v++) {
        right[v] = v_load(b + v * KERN_LANES);
    }
    UNROLL
    for (size_t i = from; i < to; i++) {
        vf left = v_set(a[i * t->a_row]);
        UNROLL
        for (size_t v = 0; v < vecs; v++) {
            sum[i][v] = v_fma(left, right[v], sum[i][v]);
        }
    }
}

static inline long clamp(long x, long max)
{
    return x < 0 ? 0 : x > max ? max : x;
}

// rows and vecs are constants where this is expanded, so the sums live in registers and the edges are straight code.
INLINE void tile_run(const struct tile tile, size_t rows, size_t vecs)
{
    const struct tile *t = &tile;
    vf sum[ROWS][VECS];
    long count = (long)t->count, last = (long)rows - 1;
    UNROLL
    for (size_t x = 0; x < rows * vecs; x++) {
        sum[x / vecs][x % vecs] = v_zero();
    }
    if (t->load) {
        UNROLL
        for (size_t x = 0; x < rows * vecs; x++) {
            size_t i = x / vecs, v = x % vecs;
            sum[i][v] = v_load_n(t->c + i * t->ldc + v * KERN_LANES, v_lanes(t->columns - v * KERN_LANES));
        }
    }
    UNROLL
    for (size_t i = 0; i + 1 < rows; i++) { // rows 0..i have joined
        long k = t->start + (long)i;
        if (k >= 0 && k < count) {
            tile_step(sum, t, k, 0, i + 1, vecs);
        }
    }
    for (long k = clamp(t->start + last, count), end = clamp(t->end, count); k < end; k++) {
        tile_step(sum, t, k, 0, rows, vecs);
    }
    UNROLL
    for (size_t i = 0; i + 1 < rows; i++) { // rows 0..i have left
        long k = t->end + (long)i;
        if (k >= 0 && k < count) {
            tile_step(sum, t, k, i + 1, rows, vecs);
        }
    }
    UNROLL
    for (size_t x = 0; x < rows * vecs; x++) {
        size_t i = x / vecs, v = x % vecs;
        v_store_n(t->c + i * t->ldc + v * KERN_LANES, sum[i][v], v_lanes(t->columns - v * KERN_LANES));
    }
}

#define TILE_FUNCTION(rows, vecs)                                                                                      \
    static __attribute__((noinline)) void tile_##rows##x##vecs(const struct tile *t)                                   \
    {                                                                                                                  \
        tile_run(*t, rows, vecs);                                                                                      \
    }
TILE_FUNCTION(1, 1)
TILE_FUNCTION(2, 1)
TILE_FUNCTION(4, 1)
#if SIMD_TILE_ROWS == 8
TILE_FUNCTION(8, 1)
TILE_FUNCTION(1, 2)
TILE_FUNCTION(2, 2)
TILE_FUNCTION(4, 2)
TILE_FUNCTION(8, 2)
#endif

// Rows of the next tile where `left` remain.
static inline size_t tile_rows(size_t left)
{
    return left >= 8 && ROWS == 8 ? 8 : left >= 4 ? 4 : left >= 2 ? 2 : 1;
}

static void tile_call(const struct tile *t, size_t rows, size_t vecs)
{
#if SIMD_TILE_ROWS == 8
    static void (*const functions[2][4])(const struct tile *) = {{tile_1x1, tile_2x1, tile_4x1, tile_8x1},
                                                                 {tile_1x2, tile_2x2, tile_4x2, tile_8x2}};
#else
    static void (*const functions[1][3])(const struct tile *) = {{tile_1x1, tile_2x1, tile_4x1}};
#endif
    functions[vecs - 1][rows >= 8 ? 3 : rows >= 4 ? 2 : rows - 1](t);
}

// Query rows of one head.
struct block {
    const struct kern_attention *a;
    size_t sequence, head, query; // of the first row
    size_t rows, position;        // the first row sees keys 0 .. position
    size_t vecs, ld;              // vectors of rows; ld = 16 vecs
    const float *k, *v;           // of the head's group, key 0
};

static struct block block_at(const struct kern_attention *a, size_t sequence, size_t head, size_t query, size_t rows)
{
    size_t base = sequence * a->kv_sequence_stride + head / (a->heads / a->kv_heads) * a->head_dim;
    size_t vecs = (rows + KERN_LANES - 1) / KERN_LANES;
    return (struct block){a,    sequence,          head,        query,      rows, a->keys - a->queries + query,
                          vecs, vecs * KERN_LANES, a->k + base, a->v + base};
}

static size_t padded(size_t head_dim)
{
    return (head_dim + KERN_LANES - 1) / KERN_LANES * KERN_LANES;
}

// to (head_dim, ld) = transpose of from (rows, head_dim); columns beyond rows are zero.
static void pack_transposed(float *to, size_t ld, const float *from, size_t stride, size_t rows, size_t head_dim)
{
    size_t r = 0, whole = head_dim - head_dim % 8;
    for (; r + 8 <= rows; r += 8) {
        const float *row[8];
        for (size_t i = 0; i < 8; i++) {
            row[i] = from + (r + i) * stride;
        }
        for (size_t d = 0; d < whole; d += 8) {
            __m256 column[8];
            transpose8(column, row, d);
            UNROLL
            for (size_t i = 0; i < 8; i++) {
                _mm256_storeu_ps(to + (d + i) * ld + r, column[i]);
            }
        }
        for (size_t d = whole; d < head_dim; d++) {
            for (size_t i = 0; i < 8; i++) {
                to[d * ld + r + i] = row[i][d];
            }
        }
    }
    for (; r < ld; r++) {
        for (size_t d = 0; d < head_dim; d++) {
            to[d * ld + r] = r < rows ? from[r * stride + d] : 0.0f;
        }
    }
}

// to (rows, padded head_dim) = from (rows, head_dim), the padding zero.
static void pack_rows(float *to, const float *from, size_t stride, size_t rows, size_t head_dim)
{
    for (size_t r = 0; r < rows; r++, to += padded(head_dim), from += stride) {
        V_EACH(d, n, head_dim)
        {
            v_store(to + d, v_load_n(from + d, n));
        }
    }
}

// First vector of query rows that sees key j.
static size_t first_vec(const struct block *b, size_t j)
{
    return j > b->position ? (j - b->position) / KERN_LANES : 0;
}

// scores (keys, ld) = left (keys, head_dim; `stride` apart) times the packed rows, for keys first .. first + keys;
// vectors of rows that see none of a tile's keys are left alone.
static void products(float *scores, const struct block *b, const float *left, size_t stride, const float *packed,
                     size_t first, size_t keys)
{
    struct tile t = {.ldc = b->ld,
                     .a_row = stride,
                     .a_k = 1,
                     .ldb = b->ld,
                     .count = b->a->head_dim,
                     .start = -(long)ROWS,
                     .end = (long)b->a->head_dim};
    for (size_t j = 0, rows; j < keys; j += rows) {
        rows = tile_rows(keys - j);
        t.a = left + j * stride;
        for (size_t v = first_vec(b, first + j), vecs; v < b->vecs; v += vecs) {
            vecs = b->vecs - v < VECS ? 1 : VECS;
            t.c = scores + j * b->ld + v * KERN_LANES;
            t.b = packed + v * KERN_LANES;
            t.columns = vecs * KERN_LANES;
            tile_call(&t, rows, vecs);
        }
    }
}

// out (rows, head_dim) (+)= weights^T (keys, ld) times right (keys, padded head_dim), keys first .. first + keys: a row
// takes the keys it sees.
static void weighted_rows(float *out, size_t stride, const struct block *b, const float *weights, const float *right,
                          size_t first, size_t keys)
{
    size_t head_dim = b->a->head_dim;
    struct tile t = {.ldc = stride,
                     .a_row = 1,
                     .a_k = b->ld,
                     .ldb = padded(head_dim),
                     .count = keys,
                     .start = -(long)ROWS,
                     .load = first > 0};
    for (size_t r = 0, rows; r < b->rows; r += rows) {
        rows = tile_rows(b->rows - r);
        t.a = weights + r;
        t.end = (long)(b->position + r + 1) - (long)first;
        for (size_t d = 0, vecs; d < head_dim && t.end + (long)rows > 1; d += vecs * KERN_LANES) {
            vecs = head_dim - d <= KERN_LANES ? 1 : VECS;
            t.c = out + r * stride + d;
            t.b = right + d;
            t.columns = head_dim - d;
            tile_call(&t, rows, vecs);
        }
    }
}

// out (keys, head_dim) += weights (keys, ld) times right (rows, padded head_dim): a key takes the rows that see it.
static void weighted_keys(float *out, size_t stride, const struct block *b, const float *weights, const float *right,
                          size_t first, size_t keys)
{
    size_t head_dim = b->a->head_dim;
    struct tile t = {.ldc = stride,
                     .a_row = b->ld,
                     .a_k = 1,
                     .ldb = padded(head_dim),
                     .count = b->rows,
                     .end = (long)b->rows,
                     .load = true};
    for (size_t j = 0, rows; j < keys; j += rows) {
        rows = tile_rows(keys - j);
        t.a = weights + j * b->ld;
        t.start = (long)(first + j) - (long)b->position;
        for (size_t d = 0, vecs; d < head_dim && t.start < (long)b->rows; d += vecs * KERN_LANES) {
            vecs = head_dim - d <= KERN_LANES ? 1 : VECS;
            t.c = out + j * stride + d;
            t.b = right + d;
            t.columns = head_dim - d;
            tile_call(&t, rows, vecs);
        }
    }
}

// Lanes of vector v whose rows see key j.
INLINE vm sees(const struct block *b, size_t v, size_t j)
{
    size_t row = b->position + v * KERN_LANES; // position of lane 0
    vf lane = v_load((const float[]){0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15});
    return v_at_least(lane, v_set(j > row ? (float)(j - row) : 0.0f));
}

// Softmax down the columns of one vector of rows: scores (keys, ld) become probabilities. A lane sums key j in its
// own j mod 16, so the lanes of NUMERICS 5 are 16 vectors here and the fold needs no shuffles.
static void softmax_columns(float *scores, const struct block *b, size_t v, vf *row_max, vf *row_sum)
{
    size_t common = b->position + v * KERN_LANES + 1, keys = b->position + b->rows;
    keys = keys < common + KERN_LANES - 1 ? keys : common + KERN_LANES - 1;
    vf scale = v_set(b->a->scale), max = v_set(-INFINITY), sum[KERN_LANES];
    float *s = scores + v * KERN_LANES;
    for (size_t j = 0; j < keys; j++) {
        vf x = v_mul(v_load(s + j * b->ld), scale);
        max = v_max(j < common ? x : v_select(sees(b, v, j), x, max), max);
        v_store(s + j * b->ld, x);
    }
    max = v_add(max, v_zero());
    for (size_t i = 0; i < KERN_LANES; i++) {
        sum[i] = v_zero();
    }
    for (size_t j = 0; j < keys; j++) {
        vf e = v_exp(v_sub(v_load(s + j * b->ld), max));
        e = j < common ? e : v_keep_where(sees(b, v, j), e);
        sum[j % KERN_LANES] = v_add(sum[j % KERN_LANES], e);
        v_store(s + j * b->ld, e);
    }
    for (size_t step = KERN_LANES / 2; step > 0; step /= 2) {
        for (size_t i = 0; i < step; i++) {
            sum[i] = v_add(sum[i], sum[i + step]);
        }
    }
    vf inverse = v_div(v_set(1.0f), sum[0]);
    for (size_t j = 0; j < keys; j++) {
        v_store(s + j * b->ld, v_quotient(v_load(s + j * b->ld), sum[0], inverse));
    }
    *row_max = max;
    *row_sum = sum[0];
}

size_t SIMD(attention_items)(const struct kern_attention *a)
{
    return kern_ref_attention_items(a);
}

size_t SIMD(attention_scratch)(const struct kern_attention *a)
{
    size_t rows = a->queries < BLOCK ? (a->queries + KERN_LANES - 1) / KERN_LANES * KERN_LANES : BLOCK;
    return ((a->keys + a->head_dim) * rows + CHUNK * padded(a->head_dim)) * sizeof(float);
}

void SIMD(attention)(const struct kern_attention *a, size_t item, void *scratch)
{
    size_t blocks = (a->queries + BLOCK - 1) / BLOCK, query = item % blocks * BLOCK;
    struct block b = block_at(a, item / blocks / a->heads, item / blocks % a->heads, query,
                              a->queries - query < BLOCK ? a->queries - query : BLOCK);
    size_t keys = b.position + b.rows, row = b.sequence * a->queries + query, at = b.head * a->head_dim;
    float *scores = scratch, *packed = scores + keys * b.ld, *values = packed + a->head_dim * b.ld;
    pack_transposed(packed, b.ld, a->q + row * a->q_stride + at, a->q_stride, b.rows, a->head_dim);
    products(scores, &b, b.k, a->k_stride, packed, 0, keys);
    for (size_t v = 0; v < b.vecs; v++) {
        vf max, sum;
        softmax_columns(scores, &b, v, &max, &sum);
        if (a->row_max) {
            size_t index = (b.sequence * a->heads + b.head) * a->queries + query + v * KERN_LANES;
            size_t n = v_lanes(b.rows - v * KERN_LANES);
            v_store_n(a->row_max + index, max, n);
            v_store_n(a->row_sum + index, sum, n);
        }
    }
    for (size_t first = 0; first < keys; first += CHUNK) {
        size_t count = keys - first < CHUNK ? keys - first : CHUNK;
        pack_rows(values, b.v + first * a->v_stride, a->v_stride, count, a->head_dim);
        weighted_rows(a->out + row * a->o_stride + at, a->o_stride, &b, scores + first * b.ld, values, first, count);
    }
}

size_t SIMD(attention_grad_items)(const struct kern_attention *a)
{
    return kern_ref_attention_grad_items(a);
}

struct grad_scratch {
    float *scores, *dscores;       // (CHUNK, BLOCK): S then P; dP then dS
    float *q_packed, *dout_packed; // (head_dim, BLOCK)
    float *q, *dout;               // (BLOCK, padded head_dim)
    float *k;                      // (CHUNK, padded head_dim)
    float *max, *sum, *dot;        // (BLOCK)
};

size_t SIMD(attention_grad_scratch)(const struct kern_attention *a)
{
    size_t packed = a->head_dim * BLOCK, rows = BLOCK * padded(a->head_dim), chunk = CHUNK * padded(a->head_dim);
    return (2 * CHUNK * BLOCK + 2 * packed + 2 * rows + chunk + 3 * BLOCK) * sizeof(float);
}

static struct grad_scratch grad_scratch_cut(float *p, size_t head_dim)
{
    size_t packed = head_dim * BLOCK, rows = BLOCK * padded(head_dim);
    struct grad_scratch s = {.scores = p};
    s.dscores = s.scores + CHUNK * BLOCK;
    s.q_packed = s.dscores + CHUNK * BLOCK;
    s.dout_packed = s.q_packed + packed;
    s.q = s.dout_packed + packed;
    s.dout = s.q + rows;
    s.k = s.dout + rows;
    s.max = s.k + CHUNK * padded(head_dim);
    s.sum = s.max + BLOCK;
    s.dot = s.sum + BLOCK;
    return s;
}

static void grad_prepare(const struct grad_scratch *s, const struct kern_attention_grad *g, const struct block *b)
{
    const struct kern_attention *a = b->a;
    size_t row = b->sequence * a->queries + b->query, at = b->head * a->head_dim, head_dim = a->head_dim;
    size_t index = (b->sequence * a->heads + b->head) * a->queries + b->query;
    const float *q = a->q + row * a->q_stride + at;
    const float *out = a->out + row * a->o_stride + at, *dout = g->dout + row * a->o_stride + at;
    pack_transposed(s->q_packed, b->ld, q, a->q_stride, b->rows, head_dim);
    pack_transposed(s->dout_packed, b->ld, dout, a->o_stride, b->rows, head_dim);
    pack_rows(s->q, q, a->q_stride, b->rows, head_dim);
    pack_rows(s->dout, dout, a->o_stride, b->rows, head_dim);
    for (size_t r = 0; r < b->ld; r++) { // padding rows: any finite values
        s->max[r] = r < b->rows ? a->row_max[index + r] : 0.0f;
        s->sum[r] = r < b->rows ? a->row_sum[index + r] : 1.0f;
        vf lane = v_zero();
        V_EACH(d, n, r < b->rows ? head_dim : 0)
        {
            lane = v_add(lane, v_mul(v_load_n(dout + r * a->o_stride + d, n), v_load_n(out + r * a->o_stride + d, n)));
        }
        s->dot[r] = v_fold(lane);
    }
}

// S and dP of a chunk become P and dS. Lanes above the diagonal hold values that no product takes.
static void grad_scores(const struct grad_scratch *s, const struct block *b, size_t first, size_t keys)
{
    vf scale = v_set(b->a->scale);
    for (size_t v = 0; v < b->vecs; v++) {
        vf max = v_load(s->max + v * KERN_LANES), sum = v_load(s->sum + v * KERN_LANES);
        vf dot = v_load(s->dot + v * KERN_LANES);
        float *p = s->scores + v * KERN_LANES, *d = s->dscores + v * KERN_LANES;
        for (size_t j = 0; j < keys && first_vec(b, first + j) <= v; j++, p += b->ld, d += b->ld) {
            vf weight = v_div(v_exp(v_sub(v_mul(v_load(p), scale), max)), sum);
            v_store(p, weight);
            v_store(d, v_mul(v_mul(weight, v_sub(v_load(d), dot)), scale));
        }
    }
}

static void grad_block(const struct grad_scratch *s, const struct kern_attention_grad *g, const struct block *b)
{
    const struct kern_attention *a = b->a;
    float *dq = g->dq + (b->sequence * a->queries + b->query) * a->q_stride + b->head * a->head_dim;
    float *dk = g->dk + (b->k - a->k), *dv = g->dv + (b->v - a->v);
    const size_t end = g->end > 0 ? g->end : a->keys;
    const bool makes_dq = b->position < end; // else the rows are there for keys of the slice only
    const size_t seen = b->position + b->rows, keys = seen < end ? seen : end;
    grad_prepare(s, g, b);
    for (size_t first = makes_dq ? 0 : g->first; first < keys; first += CHUNK) {
        size_t count = keys - first < CHUNK ? keys - first : CHUNK;
        const float *k = b->k + first * a->k_stride, *v = b->v + first * a->v_stride;
        products(s->scores, b, k, a->k_stride, s->q_packed, first, count);
        products(s->dscores, b, v, a->v_stride, s->dout_packed, first, count);
        grad_scores(s, b, first, count);
        if (makes_dq) {
            pack_rows(s->k, k, a->k_stride, count, a->head_dim);
            weighted_rows(dq, a->q_stride, b, s->dscores, s->k, first, count);
        }
        if (first < g->first) {
            continue;
        }
        weighted_keys(dv + first * a->v_stride, a->v_stride, b, s->scores, s->dout, first, count);
        weighted_keys(dk + first * a->k_stride, a->k_stride, b, s->dscores, s->q, first, count);
    }
}

void SIMD(attention_grad)(const struct kern_attention_grad *g, size_t item, void *scratch)
{
    const struct kern_attention *a = &g->fwd;
    size_t sequence = item / a->kv_heads, kv_head = item % a->kv_heads, group = a->heads / a->kv_heads;
    size_t base = sequence * a->kv_sequence_stride + kv_head * a->head_dim, position0 = a->keys - a->queries;
    const size_t query0 = position0, last = g->end > 0 ? g->end : a->keys;
    struct grad_scratch s = grad_scratch_cut(scratch, a->head_dim);
    position0 = position0 > g->first ? position0 : g->first; // rows before see no key of the slice
    for (size_t j = g->first; j < last; j++) {
        memset(g->dk + base + j * a->k_stride, 0, a->head_dim * sizeof(float));
        memset(g->dv + base + j * a->v_stride, 0, a->head_dim * sizeof(float));
    }
    for (size_t head = kv_head * group; head < (kv_head + 1) * group; head++) {
        for (size_t end = a->keys, first; end > position0; end = first) {
            first = (end - 1) / BLOCK * BLOCK;
            first = first > position0 ? first : position0;
            struct block b = block_at(a, sequence, head, first - query0, end - first);
            grad_block(&s, g, &b);
        }
    }
}

#endif
