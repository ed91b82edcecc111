// Causal attention with grouped K/V heads, the definition (NUMERICS 6 and 7): one query row at a time.
//   S[j]  = (chain over d ascending of fmaf(q[d], k[j][d])) * scale, keys j = 0 .. position of the row
//   P[j]  = exp(S[j] - max) / sum, max exact, sum in 16 lanes at absolute j
//   O[d]  = chain over j ascending of fmaf(P[j], v[j][d])
// Backward: D = 16-lane sum of dO*O over d; dP[j] = chain over d of fmaf(dO[d], v[j][d]); dS[j] = (P[j]*(dP[j] -
// D))*scale; dQ[d] = chain over j ascending of fmaf(dS[j], k[j][d]); dV[j][d] and dK[j][d] are chains of fmaf(P[j],
// dO[d]) and fmaf(dS[j], q[d]) over query heads ascending, blocks of 64 positions descending, rows ascending, of the
// rows that see key j. A masked key enters nothing, not even as a zero.
#include "kern/rows_int.h"
#include "kern/math_int.h"

struct row { // one query row of one head
    const float *q, *k, *v;
    size_t keys; // it sees
};

static struct row row_at(const struct kern_attention *a, size_t sequence, size_t head, size_t query)
{
    size_t kv_head = head / (a->heads / a->kv_heads), base = sequence * a->kv_sequence_stride + kv_head * a->head_dim;
    return (struct row){
        .q = a->q + (sequence * a->queries + query) * a->q_stride + head * a->head_dim,
        .k = a->k + base,
        .v = a->v + base,
        .keys = a->keys - a->queries + query + 1,
    };
}

static float chain_dot(const float *a, const float *b, size_t n)
{
    float sum = 0;
    for (size_t i = 0; i < n; i++) {
        sum = fmaf(a[i], b[i], sum);
    }
    return sum;
}

static void scores(float *s, const struct kern_attention *a, const struct row *row)
{
    for (size_t j = 0; j < row->keys; j++) {
        s[j] = chain_dot(row->q, row->k + j * a->k_stride, a->head_dim) * a->scale;
    }
}

size_t kern_ref_attention_items(const struct kern_attention *a)
{
    return a->sequences * a->heads * ((a->queries + KERN_QUERY_BLOCK - 1) / KERN_QUERY_BLOCK);
}

size_t kern_ref_attention_scratch(const struct kern_attention *a)
{
    return a->keys * sizeof(float);
}

static void forward_row(const struct kern_attention *a, size_t sequence, size_t head, size_t query, float *p)
{
    struct row row = row_at(a, sequence, head, query);
    float max = -INFINITY, lane[KERN_LANES] = {0};
    scores(p, a, &row);
    for (size_t j = 0; j < row.keys; j++) {
        max = p[j] > max ? p[j] : max;
    }
    max = max + 0.0f;
    for (size_t j = 0; j < row.keys; j++) {
        p[j] = kern_exp(p[j] - max);
        lane[j % KERN_LANES] += p[j];
    }
    float sum = kern_fold(lane);
    float *out = a->out + (sequence * a->queries + query) * a->o_stride + head * a->head_dim;
    memset(out, 0, a->head_dim * sizeof *out);
    for (size_t j = 0; j < row.keys; j++) {
        float weight = p[j] / sum;
        for (size_t d = 0; d < a->head_dim; d++) {
            out[d] = fmaf(weight, row.v[j * a->v_stride + d], out[d]);
        }
    }
    if (a->row_max) {
        size_t index = (sequence * a->heads + head) * a->queries + query;
        a->row_max[index] = max;
        a->row_sum[index] = sum;
    }
}

void kern_ref_attention(const struct kern_attention *a, size_t item, void *scratch)
{
    size_t blocks = (a->queries + KERN_QUERY_BLOCK - 1) / KERN_QUERY_BLOCK;
    size_t head = item / blocks % a->heads, sequence = item / blocks / a->heads;
    size_t first = item % blocks * KERN_QUERY_BLOCK;
    for (size_t i = first; i < a->queries && i < first + KERN_QUERY_BLOCK; i++) {
        forward_row(a, sequence, head, i, scratch);
    }
}

size_t kern_ref_attention_grad_items(const struct kern_attention *a)
{
    return a->sequences * a->kv_heads;
}

size_t kern_ref_attention_grad_scratch(const struct kern_attention *a)
{
    return a->keys * sizeof(float);
}

struct window { // positions whose gradients are made
    size_t first, end;
};

static struct window window_of(const struct kern_attention_grad *g)
{
    return g->end > 0 ? (struct window){g->first, g->end} : (struct window){0, g->fwd.keys};
}

static void backward_row(const struct kern_attention_grad *g, size_t sequence, size_t head, size_t query, float *s)
{
    const struct kern_attention *a = &g->fwd;
    struct row row = row_at(a, sequence, head, query);
    size_t o_at = (sequence * a->queries + query) * a->o_stride + head * a->head_dim;
    size_t index = (sequence * a->heads + head) * a->queries + query;
    const float *out = a->out + o_at, *dout = g->dout + o_at;
    float *dq = g->dq + (row.q - a->q), *dk = g->dk + (row.k - a->k), *dv = g->dv + (row.v - a->v);
    float lane[KERN_LANES] = {0};
    for (size_t d = 0; d < a->head_dim; d++) {
        lane[d % KERN_LANES] += dout[d] * out[d];
    }
    float dot = kern_fold(lane);
    const struct window window = window_of(g);
    const bool makes_dq = row.keys <= window.end; // else the row is there for keys of the slice only
    if (makes_dq) {
        memset(dq, 0, a->head_dim * sizeof *dq);
    }
    scores(s, a, &row);
    for (size_t j = makes_dq ? 0 : window.first, end = row.keys < window.end ? row.keys : window.end; j < end; j++) {
        float p = kern_exp(s[j] - a->row_max[index]) / a->row_sum[index];
        float dp = chain_dot(dout, row.v + j * a->v_stride, a->head_dim);
        float ds = (p * (dp - dot)) * a->scale;
        for (size_t d = 0; makes_dq && d < a->head_dim; d++) {
            dq[d] = fmaf(ds, row.k[j * a->k_stride + d], dq[d]);
        }
        for (size_t d = 0; j >= window.first && d < a->head_dim; d++) {
            dv[j * a->v_stride + d] = fmaf(p, dout[d], dv[j * a->v_stride + d]);
            dk[j * a->k_stride + d] = fmaf(ds, row.q[d], dk[j * a->k_stride + d]);
        }
    }
}

void kern_ref_attention_grad(const struct kern_attention_grad *g, size_t item, void *scratch)
{
    const struct kern_attention *a = &g->fwd;
    size_t sequence = item / a->kv_heads, kv_head = item % a->kv_heads, group = a->heads / a->kv_heads;
    size_t base = sequence * a->kv_sequence_stride + kv_head * a->head_dim, position0 = a->keys - a->queries;
    const struct window window = window_of(g);
    position0 = position0 > window.first ? position0 : window.first; // rows before see no key of the slice
    for (size_t j = window.first; j < window.end; j++) {
        memset(g->dk + base + j * a->k_stride, 0, a->head_dim * sizeof(float));
        memset(g->dv + base + j * a->v_stride, 0, a->head_dim * sizeof(float));
    }
    for (size_t head = kv_head * group; head < (kv_head + 1) * group; head++) {
        for (size_t block = (a->keys + KERN_QUERY_BLOCK - 1) / KERN_QUERY_BLOCK; block-- > 0;) {
            size_t first = block * KERN_QUERY_BLOCK, end = first + KERN_QUERY_BLOCK;
            for (size_t position = first; position < end && position < a->keys; position++) {
                if (position >= position0) {
                    backward_row(g, sequence, head, position - (a->keys - a->queries), scratch);
                }
            }
        }
    }
}
