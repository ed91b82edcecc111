// The model as data: which tensors a family has (one table a family), their order, offsets and units, and the rotary
// tables. Parameters are sorted by name in byte order, which is the order of every hash and of every file. In memory
// they lie bucket by bucket (model.h), each bucket's in name order, and start at 64-byte boundaries; the gaps between
// them are zero and stay so.
#include "model/model_int.h"

#include "base/assert.h"
#include "base/dmath.h"
#include "base/mem.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum size_code { SIZE_NONE, SIZE_DIM, SIZE_Q, SIZE_KV, SIZE_QKV, SIZE_FFN, SIZE_VOCAB, SIZE_CONTEXT };
enum when { ALWAYS, IF_QKV_BIAS, IF_OUT_BIAS, IF_MLP_BIAS, IF_UNTIED };

struct entry {
    enum model_unit_kind unit;
    enum model_role role;
    const char *name; // of a block: after the layer's prefix
    enum size_code shape[2];
    enum model_init init;
    enum when when;
};

#define MATRIX(unit, role, name, rows, columns)                                                                        \
    {                                                                                                                  \
        MODEL_UNIT_##unit, MODEL_ROLE_##role, name, {SIZE_##rows, SIZE_##columns}, MODEL_INIT_NORMAL, ALWAYS           \
    }
#define OUTPUT(role, name, rows, columns)                                                                              \
    {                                                                                                                  \
        MODEL_UNIT_BLOCK, MODEL_ROLE_##role, name, {SIZE_##rows, SIZE_##columns}, MODEL_INIT_RESIDUAL, ALWAYS          \
    }
#define BIAS(unit, role, name, size, when)                                                                             \
    {                                                                                                                  \
        MODEL_UNIT_##unit, MODEL_ROLE_##role, name, {SIZE_##size, SIZE_NONE}, MODEL_INIT_ZERO, when                    \
    }
#define GAMMA(unit, role, name)                                                                                        \
    {                                                                                                                  \
        MODEL_UNIT_##unit, MODEL_ROLE_##role, name, {SIZE_DIM, SIZE_NONE}, MODEL_INIT_ONE, ALWAYS                      \
    }
#define LM_HEAD                                                                                                        \
    {                                                                                                                  \
        MODEL_UNIT_HEAD, MODEL_ROLE_HEAD, "lm_head.weight", {SIZE_VOCAB, SIZE_DIM}, MODEL_INIT_NORMAL, IF_UNTIED       \
    }

static const struct entry llama_entries[] = {
    MATRIX(EMBED, EMBED, "model.embed_tokens.weight", VOCAB, DIM),
    GAMMA(BLOCK, NORM1, "input_layernorm.weight"),
    MATRIX(BLOCK, Q, "self_attn.q_proj.weight", Q, DIM),
    BIAS(BLOCK, Q_BIAS, "self_attn.q_proj.bias", Q, IF_QKV_BIAS),
    MATRIX(BLOCK, K, "self_attn.k_proj.weight", KV, DIM),
    BIAS(BLOCK, K_BIAS, "self_attn.k_proj.bias", KV, IF_QKV_BIAS),
    MATRIX(BLOCK, V, "self_attn.v_proj.weight", KV, DIM),
    BIAS(BLOCK, V_BIAS, "self_attn.v_proj.bias", KV, IF_QKV_BIAS),
    OUTPUT(O, "self_attn.o_proj.weight", DIM, Q),
    BIAS(BLOCK, O_BIAS, "self_attn.o_proj.bias", DIM, IF_OUT_BIAS),
    GAMMA(BLOCK, NORM2, "post_attention_layernorm.weight"),
    MATRIX(BLOCK, GATE, "mlp.gate_proj.weight", FFN, DIM),
    BIAS(BLOCK, GATE_BIAS, "mlp.gate_proj.bias", FFN, IF_MLP_BIAS),
    MATRIX(BLOCK, UP, "mlp.up_proj.weight", FFN, DIM),
    BIAS(BLOCK, UP_BIAS, "mlp.up_proj.bias", FFN, IF_MLP_BIAS),
    OUTPUT(DOWN, "mlp.down_proj.weight", DIM, FFN),
    BIAS(BLOCK, DOWN_BIAS, "mlp.down_proj.bias", DIM, IF_MLP_BIAS),
    GAMMA(HEAD, NORM, "model.norm.weight"),
    LM_HEAD,
};

static const struct entry gpt2_entries[] = {
    MATRIX(EMBED, EMBED, "transformer.wte.weight", VOCAB, DIM),
    MATRIX(EMBED, POSITION, "transformer.wpe.weight", CONTEXT, DIM),
    GAMMA(BLOCK, NORM1, "ln_1.weight"),
    BIAS(BLOCK, NORM1_BIAS, "ln_1.bias", DIM, ALWAYS),
    MATRIX(BLOCK, QKV, "attn.c_attn.weight", DIM, QKV),
    BIAS(BLOCK, QKV_BIAS, "attn.c_attn.bias", QKV, ALWAYS),
    OUTPUT(O, "attn.c_proj.weight", Q, DIM),
    BIAS(BLOCK, O_BIAS, "attn.c_proj.bias", DIM, ALWAYS),
    GAMMA(BLOCK, NORM2, "ln_2.weight"),
    BIAS(BLOCK, NORM2_BIAS, "ln_2.bias", DIM, ALWAYS),
    MATRIX(BLOCK, UP, "mlp.c_fc.weight", DIM, FFN),
    BIAS(BLOCK, UP_BIAS, "mlp.c_fc.bias", FFN, ALWAYS),
    OUTPUT(DOWN, "mlp.c_proj.weight", FFN, DIM),
    BIAS(BLOCK, DOWN_BIAS, "mlp.c_proj.bias", DIM, ALWAYS),
    GAMMA(HEAD, NORM, "transformer.ln_f.weight"),
    BIAS(HEAD, NORM_BIAS, "transformer.ln_f.bias", DIM, ALWAYS),
    LM_HEAD,
};

struct family {
    const struct entry *entries;
    size_t count;
    const char *prefix; // of layer %u
};

static struct family family_of(enum model_family family)
{
    if (family == MODEL_GPT2)
        return (struct family){gpt2_entries, sizeof gpt2_entries / sizeof *gpt2_entries, "transformer.h.%u."};
    return (struct family){llama_entries, sizeof llama_entries / sizeof *llama_entries, "model.layers.%u."};
}

static uint64_t size_of(const struct model_config *c, enum size_code code)
{
    uint64_t q = (uint64_t)c->heads * c->head_dim, kv = (uint64_t)c->kv_heads * c->head_dim;
    switch (code) {
    case SIZE_NONE:
        return 1;
    case SIZE_DIM:
        return c->dim;
    case SIZE_Q:
        return q;
    case SIZE_KV:
        return kv;
    case SIZE_QKV:
        return q + 2 * kv;
    case SIZE_FFN:
        return c->ffn;
    case SIZE_VOCAB:
        return c->vocab;
    case SIZE_CONTEXT:
        return c->context;
    }
    return 1;
}

static bool has(const struct model_config *c, enum when when)
{
    switch (when) {
    case ALWAYS:
        return true;
    case IF_QKV_BIAS:
        return c->qkv_bias;
    case IF_OUT_BIAS:
        return c->out_bias;
    case IF_MLP_BIAS:
        return c->mlp_bias;
    case IF_UNTIED:
        return !c->tie;
    }
    return false;
}

static void add_param(struct model *model, const struct entry *e, uint32_t unit, const char *prefix)
{
    struct model_param *p = &model->params[model->param_count++];
    snprintf(p->name, sizeof p->name, "%s%s", prefix, e->name);
    p->rank = e->shape[1] == SIZE_NONE ? 1 : 2;
    p->shape[0] = size_of(&model->config, e->shape[0]);
    p->shape[1] = size_of(&model->config, e->shape[1]);
    p->count = p->shape[0] * p->shape[1];
    p->unit = unit;
    p->role = e->role;
    p->init = e->init;
    p->decay = p->rank >= 2;
}

static void add_unit(struct model *model, uint32_t unit)
{
    struct family family = family_of(model->config.family);
    struct model_unit *u = &model->units[unit];
    char prefix[32] = "";
    if (u->kind == MODEL_UNIT_BLOCK)
        snprintf(prefix, sizeof prefix, family.prefix, u->layer);
    for (size_t i = 0; i < family.count; i++) {
        if (family.entries[i].unit == u->kind && has(&model->config, family.entries[i].when))
            add_param(model, &family.entries[i], unit, prefix);
    }
}

static int by_name(const void *a, const void *b)
{
    return strcmp(((const struct model_param *)a)->name, ((const struct model_param *)b)->name);
}

static uint32_t bucket_of(const struct model_param *p)
{
    return p->role == MODEL_ROLE_EMBED ? 0 : 1 + p->unit;
}

static void lay_buckets(struct model *model)
{
    uint32_t last = model->unit_count - 1;
    model->bucket_count = 1 + model->unit_count;
    model->buckets = bg_alloc_array(model->bucket_count, sizeof *model->buckets);
    for (uint32_t b = 0; b < model->bucket_count; b++) {
        struct model_bucket *bucket = &model->buckets[b];
        bucket->first = model->floats;
        bucket->unit = b > 0 ? b - 1 : model->config.tie ? last : 0;
        for (uint32_t i = 0; i < model->param_count; i++) {
            struct model_param *p = &model->params[i];
            if (bucket_of(p) != b)
                continue;
            p->offset = model->floats;
            model->floats += (p->count + 15) / 16 * 16;
        }
        bucket->floats = model->floats - bucket->first;
    }
}

// Sorts, lays offsets, tells every unit where its parameters are.
static void lay_params(struct model *model)
{
    qsort(model->params, model->param_count, sizeof *model->params, by_name);
    for (uint32_t u = 0; u < model->unit_count; u++) {
        for (size_t r = 0; r < MODEL_ROLES; r++)
            model->units[u].param[r] = -1;
    }
    for (uint32_t i = 0; i < model->param_count; i++) {
        struct model_param *p = &model->params[i];
        model->elements += p->count;
        model->units[p->unit].param[p->role] = (int32_t)i;
    }
    lay_buckets(model);
}

static void make_rope(struct model *model)
{
    const struct model_config *c = &model->config;
    size_t half = c->head_dim / 2;
    model->rope_cos = bg_alloc_array((size_t)c->context * half, sizeof(float));
    model->rope_sin = bg_alloc_array((size_t)c->context * half, sizeof(float));
    for (size_t i = 0; i < half; i++) {
        double frequency = bg_dpow(c->rope_theta, -2.0 * (double)i / (double)c->head_dim);
        for (size_t p = 0; p < c->context; p++) {
            model->rope_cos[p * half + i] = (float)bg_dcos((double)p * frequency);
            model->rope_sin[p * half + i] = (float)bg_dsin((double)p * frequency);
        }
    }
}

bg_status model_create(const struct model_config *config, struct bg_error *err, struct model **out)
{
    bg_status status = model_config_check(config, err);
    if (status != BG_OK)
        return status;

    struct model *model = bg_alloc(sizeof *model);
    model->config = *config;
    model->unit_count = config->layers + 2;
    model->units = bg_alloc_array(model->unit_count, sizeof *model->units);
    model->params = bg_alloc_array((size_t)model->unit_count * MODEL_ROLES, sizeof *model->params);
    for (uint32_t u = 0; u < model->unit_count; u++) {
        bool head = u == model->unit_count - 1;
        model->units[u].kind = u == 0 ? MODEL_UNIT_EMBED : head ? MODEL_UNIT_HEAD : MODEL_UNIT_BLOCK;
        model->units[u].layer = u == 0 || head ? 0 : u - 1;
        add_unit(model, u);
    }
    lay_params(model);
    if (config->family == MODEL_LLAMA)
        make_rope(model);
    *out = model;
    return BG_OK;
}

void model_destroy(struct model *model)
{
    if (!model)
        return;
    bg_free(model->params);
    bg_free(model->buckets);
    bg_free(model->units);
    bg_free(model->rope_cos);
    bg_free(model->rope_sin);
    bg_free(model);
}

const struct model_param *model_param_find(const struct model *model, const char *name)
{
    for (uint32_t low = 0, high = model->param_count; low < high;) {
        uint32_t middle = low + (high - low) / 2;
        int order = strcmp(name, model->params[middle].name);
        if (order == 0)
            return &model->params[middle];
        if (order < 0)
            high = middle;
        else
            low = middle + 1;
    }
    return NULL;
}

size_t model_offset(const struct model *model, uint32_t unit, enum model_role role)
{
    int32_t index = model->units[unit].param[role];
    return index < 0 ? MODEL_NONE : (size_t)model->params[index].offset;
}
