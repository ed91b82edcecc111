// Node values of gradients: joining two held nodes, and finishing the root. The token embedding's rows stay apart from
// the dense part until then (NUMERICS 10: two trees when tied; root = head + embedding, added once).
#include "model/model_int.h"

#include "base/assert.h"

#include <string.h>

enum { GRAIN_FLOATS = 1 << 15 };

struct fold {
    const struct kern *kern;
    float *to;
    const float *from;
    size_t count;
};

static void fold_item(void *arg, size_t index, unsigned lane)
{
    const struct fold *f = arg;
    size_t first = index * GRAIN_FLOATS, n = f->count - first < GRAIN_FLOATS ? f->count - first : GRAIN_FLOATS;
    (void)lane;
    f->kern->add(f->to + first, f->to + first, f->from + first, n);
}

void model_bucket_fold(const struct model *model, const struct kern *kern, struct bg_env *env, uint32_t bucket,
                       float *to, const float *from)
{
    const struct model_bucket *b = &model->buckets[bucket];
    struct fold fold = {kern, to + b->first, from + b->first, (size_t)b->floats};
    env_parallel_for(env, (fold.count + GRAIN_FLOATS - 1) / GRAIN_FLOATS, fold_item, &fold);
}

bool model_bucket_dense(const struct model *model, uint32_t bucket)
{
    return bucket > 0 || model->config.tie;
}

void model_sparse_fold(const struct kern *kern, struct model_sparse *to, const struct model_sparse *from, size_t dim)
{
    size_t common = 0;
    for (size_t i = 0, j = 0; i < to->count && j < from->count;) {
        int32_t a = to->ids[i], b = from->ids[j];
        common += a == b;
        i += a <= b;
        j += b <= a;
    }
    size_t count = (size_t)to->count + from->count - common;
    BG_ASSERT(count <= to->capacity);

    // From the back, so that rows of `to` move up into room that is free already.
    size_t i = to->count, j = from->count, place = count;
    while (j > 0) {
        place--;
        float *row = to->rows + place * dim;
        bool left = i > 0 && to->ids[i - 1] >= from->ids[j - 1], right = i == 0 || to->ids[i - 1] <= from->ids[j - 1];
        const float *a = left ? to->rows + (i - 1) * dim : NULL, *b = right ? from->rows + (j - 1) * dim : NULL;
        int32_t id = left ? to->ids[i - 1] : from->ids[j - 1];
        if (left && right)
            kern->add(row, a, b, dim);
        else if (row != a)
            memcpy(row, left ? a : b, dim * sizeof *row);
        to->ids[place] = id;
        i -= left;
        j -= right;
    }
    to->count = (uint32_t)count;
}

void model_grad_fold(const struct model *model, const struct kern *kern, struct bg_env *env, struct model_grad *to,
                     const struct model_grad *from)
{
    for (uint32_t b = 0; b < model->bucket_count; b++) {
        if (model_bucket_dense(model, b))
            model_bucket_fold(model, kern, env, b, to->dense, from->dense);
    }
    model_sparse_fold(kern, &to->embed, &from->embed, model->config.dim);
}

void model_table_join(const struct model *model, float *table, const struct model_sparse *rows)
{
    size_t dim = model->config.dim;
    for (size_t i = 0; i < rows->count; i++) {
        float *row = table + (size_t)rows->ids[i] * dim;
        const float *sum = rows->rows + i * dim;
        for (size_t d = 0; model->config.tie && d < dim; d++)
            row[d] = row[d] + sum[d];
        if (!model->config.tie)
            memcpy(row, sum, dim * sizeof *row);
    }
}

void model_grad_finish(const struct model *model, struct model_grad *root)
{
    float *table = root->dense + model->buckets[0].first;
    if (!model->config.tie)
        memset(table, 0, (size_t)model->buckets[0].floats * sizeof *table);
    model_table_join(model, table, &root->embed);
}
