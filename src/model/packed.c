// Packing a model's linear layers: where the panels of each lie in one range of memory, and filling it on all lanes.
#include "model/packed.h"

#include "base/mem.h"
#include "model/model_int.h"

enum { LAYER_LINEARS = 7 };

struct pack_job {
    const struct packed_model *packed;
    const struct packed_source *source; // NULL: fp32 weights
    const struct linear *linear;
    struct kern_packed *w;
};

static size_t up64(size_t bytes)
{
    return (bytes + 63) / 64 * 64;
}

// Gives `to` its place; without memory only counts.
static void lay_linear(struct packed_model *p, size_t *used, const struct linear *l, struct packed_linear *to)
{
    const enum kern_weight type = l->in % KERN_QUANT ? KERN_F32 : p->type;
    to->w = (struct kern_packed){type, l->out, l->in, p->memory ? (char *)p->memory + *used : NULL};
    to->bias = model_at(p->weights, l->bias);
    *used += up64(kern_packed_bytes(type, l->out, l->in));
}

// The linear layers of a block and their places in it; returns how many.
static size_t linears_of(const struct block *b, struct packed_block *to, const struct linear *linear[LAYER_LINEARS],
                         struct packed_linear *place[LAYER_LINEARS])
{
    size_t count = 0;
    const struct linear *all[LAYER_LINEARS] = {&b->qkv[0], &b->qkv[1], &b->qkv[2], &b->o, &b->up, &b->down, &b->gate};
    struct packed_linear *places[LAYER_LINEARS] = {&to->q, &to->k, &to->v, &to->o, &to->up, &to->down, &to->gate};
    for (; count < (b->gated ? LAYER_LINEARS : LAYER_LINEARS - 1); count++) {
        linear[count] = all[count];
        place[count] = places[count];
    }
    return count;
}

static size_t lay(struct packed_model *p)
{
    size_t used = 0;
    for (uint32_t layer = 0; layer < p->model->config.layers; layer++) {
        const struct block b = block_of(p->model, layer + 1, true);
        const struct linear *linear[LAYER_LINEARS];
        struct packed_linear *place[LAYER_LINEARS];
        size_t count = linears_of(&b, &p->blocks[layer], linear, place);
        for (size_t i = 0; i < count; i++)
            lay_linear(p, &used, linear[i], place[i]);
    }
    const struct head head = head_of(p->model);
    lay_linear(p, &used, &head.linear, &p->head);
    return used;
}

static struct packed_model *packed_new(struct bg_env *env, const struct model *model, const float *weights,
                                       enum kern_weight type)
{
    struct packed_model *p = bg_alloc(sizeof *p);
    *p = (struct packed_model){.model = model, .weights = weights, .type = type, .env = env};
    p->blocks = bg_alloc_array(model->config.layers, sizeof *p->blocks);
    return p;
}

const char *packed_class(enum kern_weight type)
{
    return type == KERN_INT8 ? "int8/1" : "fp32/1";
}

size_t packed_bytes(const struct model *model, enum kern_weight type)
{
    struct packed_model *p = packed_new(NULL, model, NULL, type);
    size_t bytes = lay(p);
    packed_destroy(p);
    return bytes;
}

struct packed_model *packed_adopt(struct bg_env *env, const struct model *model, const float *weights,
                                  enum kern_weight type, const void *memory)
{
    struct packed_model *p = packed_new(env, model, weights, type);
    p->memory = (void *)(uintptr_t)memory; // read only from here on
    lay(p);
    return p;
}

void packed_destroy(struct packed_model *packed)
{
    if (!packed)
        return;
    if (packed->memory_bytes)
        packed->env->ops->release(packed->env, packed->memory, packed->memory_bytes);
    bg_free(packed->blocks);
    bg_free(packed);
}

// ---- Filling ----
static void pack_item(void *arg, size_t panel, unsigned lane)
{
    const struct pack_job *job = arg;
    const struct kern_packed *w = job->w;
    const struct linear *l = job->linear;
    void *data = (void *)(uintptr_t)w->data;
    (void)lane;
    if (!job->source || job->source->type == KERN_F32) {
        const float *from = job->source ? job->source->data : job->packed->weights + l->weight;
        kern_pack(data, w->type, w->n, w->k, from, l->ld, l->conv, panel, panel + 1);
    } else if (job->source->type == w->type || (job->source->type == KERN_Q8_0 && w->type == KERN_INT8)) {
        kern_pack_blocks(data, w->type, w->n, w->k, job->source->data, panel, panel + 1);
    } else {
        const size_t row = w->k / KERN_QUANT * kern_block_bytes(job->source->type), first = panel * KERN_PANEL;
        const size_t rows = w->n - first < KERN_PANEL ? w->n - first : KERN_PANEL;
        float *wide = bg_alloc_array(rows * w->k, sizeof *wide);
        kern_widen_blocks(wide, job->source->type, (const char *)job->source->data + first * row,
                          rows * (w->k / KERN_QUANT));
        char *to = (char *)data + kern_packed_bytes(w->type, first, w->k);
        kern_pack(to, w->type, rows, w->k, wide, w->k, false, 0, 1);
        bg_free(wide);
    }
}

static int32_t param_at(const struct model *model, size_t offset)
{
    for (uint32_t i = 0; i < model->param_count; i++)
        if (model->params[i].offset == offset)
            return (int32_t)i;
    return -1;
}

static void fill(struct packed_model *p, const struct packed_source *sources, const struct linear *linear,
                 struct packed_linear *to)
{
    const int32_t param = param_at(p->model, linear->weight);
    const struct packed_source *source = sources && param >= 0 && sources[param].data ? &sources[param] : NULL;
    struct pack_job job = {p, source, linear, &to->w};
    env_parallel_for(p->env, kern_packed_panels(linear->out), pack_item, &job);
}

bg_status packed_create(struct bg_env *env, const struct model *model, const float *weights,
                        const struct packed_source *sources, enum kern_weight type, struct bg_error *err,
                        struct packed_model **packed)
{
    struct packed_model *p = packed_new(env, model, weights, type);
    const size_t bytes = lay(p);
    bg_status status = env->ops->reserve(env, bytes, err, &p->memory);
    if (status) {
        packed_destroy(p);
        return status;
    }
    p->memory_bytes = bytes;
    lay(p);
    for (uint32_t layer = 0; layer < model->config.layers; layer++) {
        const struct block b = block_of(model, layer + 1, true);
        const struct linear *linear[LAYER_LINEARS];
        struct packed_linear *place[LAYER_LINEARS];
        size_t count = linears_of(&b, &p->blocks[layer], linear, place);
        for (size_t i = 0; i < count; i++)
            fill(p, sources, linear[i], place[i]);
    }
    const struct head head = head_of(model);
    fill(p, sources, &head.linear, &p->head);
    *packed = p;
    return BG_OK;
}
