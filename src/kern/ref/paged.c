// Attention over pages, the definition: the forward of ref/attention.c, with keys and values found through a table of
// pages.
#include "kern/math_int.h"
#include "kern/packed_int.h"
#include "kern/rows_int.h"

size_t kern_ref_paged_items(const struct kern_paged *a)
{
    const size_t together = a->together > 1 ? a->together : 1;
    return (a->kv_heads + together - 1) / together * ((a->queries + KERN_PAGED_QUERIES - 1) / KERN_PAGED_QUERIES);
}

struct kern_paged_part kern_paged_part(const struct kern_paged *a, size_t item)
{
    const size_t together = a->together > 1 ? a->together : 1, parts = (a->kv_heads + together - 1) / together;
    struct kern_paged_part part = {.head = item % parts * together, .query = item / parts * KERN_PAGED_QUERIES};
    part.heads = a->kv_heads - part.head < together ? a->kv_heads - part.head : together;
    part.queries = a->queries - part.query < KERN_PAGED_QUERIES ? a->queries - part.query : KERN_PAGED_QUERIES;
    return part;
}

size_t kern_ref_paged_scratch(const struct kern_paged *a)
{
    return (a->position + a->queries) * sizeof(float);
}

static float number_at(const struct kern_paged *a, const void *numbers, size_t at)
{
    return a->half ? kern_half_widen(((const uint16_t *)numbers)[at]) : ((const float *)numbers)[at];
}

static void paged_row(const struct kern_paged *a, size_t head, size_t query, float *p)
{
    const size_t kv = head / (a->heads / a->kv_heads), keys = a->position + query + 1;
    const float *q = a->q + query * a->q_stride + head * a->head_dim;
    float max = -INFINITY, lane[KERN_LANES] = {0};
    for (size_t j = 0; j < keys; j++) {
        const size_t k = a->pages[j / KERN_PAGE] * a->page_stride + kv * a->head_dim * KERN_PAGE;
        float sum = 0;
        for (size_t d = 0; d < a->head_dim; d++)
            sum = fmaf(q[d], number_at(a, a->keys, k + d * KERN_PAGE + j % KERN_PAGE), sum);
        p[j] = sum * a->scale;
        max = p[j] > max ? p[j] : max;
    }
    max = max + 0.0f;
    for (size_t j = 0; j < keys; j++) {
        p[j] = kern_exp(p[j] - max);
        lane[j % KERN_LANES] += p[j];
    }
    float sum = kern_fold(lane), *out = a->out + query * a->o_stride + head * a->head_dim;
    memset(out, 0, a->head_dim * sizeof *out);
    for (size_t j = 0; j < keys; j++) {
        const size_t v = a->pages[j / KERN_PAGE] * a->page_stride + (kv * KERN_PAGE + j % KERN_PAGE) * a->head_dim;
        float weight = p[j] / sum;
        for (size_t d = 0; d < a->head_dim; d++)
            out[d] = fmaf(weight, number_at(a, a->values, v + d), out[d]);
    }
}

void kern_ref_paged(const struct kern_paged *a, size_t item, void *scratch)
{
    const size_t group = a->heads / a->kv_heads;
    const struct kern_paged_part part = kern_paged_part(a, item);
    for (size_t query = part.query; query < part.query + part.queries; query++)
        for (size_t h = part.head * group; h < (part.head + part.heads) * group; h++)
            paged_row(a, h, query, scratch);
}
