// The embedding unit: token rows (plus learned positions), dropout. Its gradient is sparse (NUMERICS 10): the rows of a
// group are sorted by (token, row), which is (token, micro-batch, sequence, position); each token is then an item of
// its own that sums every micro-batch's chain and joins the chains that exist by the canonical tree. No pass over the
// vocabulary anywhere.
#include "model/model_int.h"

#include "base/assert.h"

#include <string.h>

enum { GRAIN_IDS = 16 };

struct embed_pass {
    const struct model_run *run;
    struct stripe stripe;
    size_t dim;
    float *x; // out of the forward, gradient in the backward
};

static void forward_item(void *arg, size_t index, unsigned lane)
{
    struct embed_pass *p = arg;
    const struct model_run *run = p->run;
    const struct model *model = run->model;
    struct span at = stripe_at(&p->stripe, index, MODEL_GRAIN_ROWS);
    const float *table = run->weights + model_offset(model, 0, MODEL_ROLE_EMBED);
    const float *positions = model_at(run->weights, model_offset(model, 0, MODEL_ROLE_POSITION));
    (void)lane;
    for (size_t r = at.first; r < at.first + at.count; r++)
        run->kern->embed(p->x + r * p->dim, table, positions, run->tokens + r, 1, p->dim, r % run->length, 1);
    run_dropout(run, DROPOUT_EMBED, p->x, at, p->dim);
}

void embed_forward(const struct model_run *run, float *x_out)
{
    struct embed_pass pass = {run, run_stripe(run), run->model->config.dim, x_out};
    env_parallel_for(run->env, stripe_items(&pass.stripe, MODEL_GRAIN_ROWS), forward_item, &pass);
}

// ---- Backward ----

struct sums {
    const struct model_run *run;
    const float *dx;
    size_t dim, leaf_rows;
    const uint64_t *keys;   // (token << 32 | row), ascending
    const uint32_t *starts; // first key of each token; one more at the end
    struct model_sparse *out;
    uint32_t levels;
};

static size_t leaf_of(const struct sums *s, size_t key)
{
    return (size_t)(uint32_t)s->keys[key] / s->leaf_rows;
}

// Value of the node of 2^level leaves from `leaf` on, over the keys [k0, k1), which are not none and lie in it. `held`
// has a row for every level below.
static void node_sum(const struct sums *s, float *out, size_t k0, size_t k1, size_t leaf, uint32_t level, float *held)
{
    const struct kern *kern = s->run->kern;
    if (level == 0) {
        memset(out, 0, s->dim * sizeof *out);
        for (size_t k = k0; k < k1; k++)
            kern->add(out, out, s->dx + (size_t)(uint32_t)s->keys[k] * s->dim, s->dim);
        return;
    }
    size_t middle = leaf + ((size_t)1 << (level - 1)), split = k0;
    while (split < k1 && leaf_of(s, split) < middle)
        split++;
    if (split > k0)
        node_sum(s, out, k0, split, leaf, level - 1, held);
    if (split == k1)
        return;
    float *right = split > k0 ? held + (level - 1) * s->dim : out; // absent + right = right
    node_sum(s, right, split, k1, middle, level - 1, held);
    if (right != out)
        kern->add(out, out, right, s->dim);
}

static void sums_item(void *arg, size_t index, unsigned lane)
{
    const struct sums *s = arg;
    float *held = s->run->lane_scratch[lane];
    size_t end = (index + 1) * GRAIN_IDS < s->out->count ? (index + 1) * GRAIN_IDS : s->out->count;
    for (size_t i = index * GRAIN_IDS; i < end; i++) {
        node_sum(s, s->out->rows + i * s->dim, s->starts[i], s->starts[i + 1], 0, s->levels, held);
    }
}

// Merge sort of `keys`; the result is in `keys` again.
static void sort_keys(uint64_t *keys, uint64_t *other, size_t count)
{
    uint64_t *from = keys, *to = other;
    for (size_t width = 1; width < count; width *= 2) {
        for (size_t low = 0; low < count; low += 2 * width) {
            size_t middle = low + width < count ? low + width : count,
                   high = middle + width < count ? middle + width : count;
            for (size_t i = low, j = middle, k = low; k < high; k++)
                to[k] = i < middle && (j == high || from[i] <= from[j]) ? from[i++] : from[j++];
        }
        uint64_t *swap = from;
        from = to;
        to = swap;
    }
    if (from != keys)
        memcpy(keys, from, count * sizeof *keys);
}

static uint32_t tree_levels(size_t leaves)
{
    uint32_t levels = 0;
    while (((size_t)1 << levels) < leaves)
        levels++;
    return levels;
}

size_t embed_scratch_bytes(const struct model *model, uint32_t count)
{
    return (size_t)(tree_levels(count) + 1) * model->config.dim * sizeof(float);
}

struct token_work {
    uint64_t *keys, *other; // (rows)
    uint32_t *starts;       // (rows + 1)
    int32_t *ids;           // (rows)
    float *sums;            // (rows, dim)
};

static struct token_work token_work_lay(size_t rows, size_t dim, struct lay *lay)
{
    struct token_work w;
    w.keys = (uint64_t *)(void *)lay_take(lay, 2 * rows);
    w.other = (uint64_t *)(void *)lay_take(lay, 2 * rows);
    w.starts = (uint32_t *)(void *)lay_take(lay, rows + 1);
    w.ids = (int32_t *)(void *)lay_take(lay, rows);
    w.sums = lay_take(lay, rows * dim);
    return w;
}

size_t embed_work_floats(const struct model *model, struct shape shape)
{
    struct lay lay = {0};
    token_work_lay(shape.rows, model->config.dim, &lay);
    return lay.used;
}

static void token_grad(const struct model_run *run, const float *dx, float *work, struct model_grad *grad,
                       bool accumulate)
{
    size_t rows = run_shape(run).rows, dim = run->model->config.dim;
    struct lay lay = {.base = work};
    struct token_work w = token_work_lay(rows, dim, &lay);
    for (size_t r = 0; r < rows; r++)
        w.keys[r] = (uint64_t)(uint32_t)run->tokens[r] << 32 | r;
    sort_keys(w.keys, w.other, rows);

    // A sibling that is held is joined with: this node is then made in work memory first.
    struct model_sparse node = {.capacity = (uint32_t)rows, .ids = w.ids, .rows = w.sums};
    struct model_sparse *out = accumulate ? &node : &grad->embed;
    out->count = 0;
    for (size_t r = 0; r < rows; r++) {
        if (r > 0 && w.keys[r] >> 32 == w.keys[r - 1] >> 32)
            continue;
        BG_ASSERT(out->count < out->capacity);
        w.starts[out->count] = (uint32_t)r;
        out->ids[out->count++] = (int32_t)(w.keys[r] >> 32);
    }
    w.starts[out->count] = (uint32_t)rows;

    struct sums sums = {run, dx, dim, (size_t)run->batch * run->length, w.keys, w.starts, out, tree_levels(run->count)};
    env_parallel_for(run->env, (out->count + GRAIN_IDS - 1) / GRAIN_IDS, sums_item, &sums);
    if (accumulate)
        model_sparse_fold(run->kern, &grad->embed, &node, dim);
}

// Learned positions: row p is a chain over the sequences of a micro-batch, so (sequences, T * dim) summed by columns.
static void position_grad(const struct model_run *run, const float *dx, struct model_grad *grad, bool accumulate)
{
    const struct model_config *config = &run->model->config;
    size_t offset = model_offset(run->model, 0, MODEL_ROLE_POSITION), width = (size_t)run->length * config->dim;
    if (offset == MODEL_NONE)
        return;
    struct jobs jobs;
    jobs_init(&jobs, run);
    jobs_add_columns(&jobs, (struct columns){
                                .dbeta = grad->dense + offset,
                                .dout = dx,
                                .rows = run->batch,
                                .dim = width,
                                .width = width,
                                .segments = run->count,
                                .accumulate = accumulate,
                            });
    jobs_run(&jobs);
    if (!accumulate) // positions that no token has
        memset(grad->dense + offset + width, 0, ((size_t)config->context * config->dim - width) * sizeof(float));
}

static void dropout_item(void *arg, size_t index, unsigned lane)
{
    struct embed_pass *p = arg;
    (void)lane;
    run_dropout(p->run, DROPOUT_EMBED, p->x, stripe_at(&p->stripe, index, MODEL_GRAIN_ROWS), p->dim);
}

void embed_backward(const struct model_run *run, enum model_backward_part part, float *dx, float *stash, float *work,
                    struct model_grad *grad, bool accumulate)
{
    struct shape shape = run_shape(run);
    struct lay lay = {.base = stash};
    struct embed_stash s = embed_stash_lay(run->model, shape, part != MODEL_BACKWARD_BOTH, &lay);
    struct embed_pass pass = {run, run_stripe(run), run->model->config.dim, dx};
    if (part & MODEL_BACKWARD_INPUT && run_drops(run))
        env_parallel_for(run->env, stripe_items(&pass.stripe, MODEL_GRAIN_ROWS), dropout_item, &pass);
    for (size_t r = 0; part == MODEL_BACKWARD_INPUT && r < pass.stripe.runs; r++) {
        size_t first = (pass.stripe.first + r * pass.stripe.apart) * pass.dim;
        memcpy(s.dx + first, dx + first, pass.stripe.rows * pass.dim * sizeof(float));
    }
    if (!(part & MODEL_BACKWARD_WEIGHT))
        return;
    const float *gradient = part == MODEL_BACKWARD_WEIGHT ? s.dx : dx;
    token_grad(run, gradient, work, grad, accumulate);
    position_grad(run, gradient, grad, accumulate);
}
