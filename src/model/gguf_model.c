// Models in GGUF, as llama.cpp lays them out: architectures llama, qwen2 and gpt2. llama keeps the rows of q and k in
// the order of interleaved rotation; gpt2 keeps its matrices as (out, in). The vocabulary's keys are written by
// gguf_vocab.c and read by the tokenizer. Numbers that the file holds as fp32 are taken as the shortest decimal that
// rounds to them, so that 1e-5 stays 1e-5.
#include "model/gguf_model_int.h"

#include "base/mem.h"

#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static const char *const role_names[MODEL_ROLES] = {
    [MODEL_ROLE_EMBED] = "token_embd.weight", [MODEL_ROLE_POSITION] = "position_embd.weight",
    [MODEL_ROLE_NORM1] = "attn_norm.weight",  [MODEL_ROLE_NORM1_BIAS] = "attn_norm.bias",
    [MODEL_ROLE_Q] = "attn_q.weight",         [MODEL_ROLE_Q_BIAS] = "attn_q.bias",
    [MODEL_ROLE_K] = "attn_k.weight",         [MODEL_ROLE_K_BIAS] = "attn_k.bias",
    [MODEL_ROLE_V] = "attn_v.weight",         [MODEL_ROLE_V_BIAS] = "attn_v.bias",
    [MODEL_ROLE_QKV] = "attn_qkv.weight",     [MODEL_ROLE_QKV_BIAS] = "attn_qkv.bias",
    [MODEL_ROLE_O] = "attn_output.weight",    [MODEL_ROLE_O_BIAS] = "attn_output.bias",
    [MODEL_ROLE_NORM2] = "ffn_norm.weight",   [MODEL_ROLE_NORM2_BIAS] = "ffn_norm.bias",
    [MODEL_ROLE_GATE] = "ffn_gate.weight",    [MODEL_ROLE_GATE_BIAS] = "ffn_gate.bias",
    [MODEL_ROLE_UP] = "ffn_up.weight",        [MODEL_ROLE_UP_BIAS] = "ffn_up.bias",
    [MODEL_ROLE_DOWN] = "ffn_down.weight",    [MODEL_ROLE_DOWN_BIAS] = "ffn_down.bias",
    [MODEL_ROLE_NORM] = "output_norm.weight", [MODEL_ROLE_NORM_BIAS] = "output_norm.bias",
    [MODEL_ROLE_HEAD] = "output.weight",
};

static const char *architecture_of(const struct model_config *config)
{
    if (config->family == MODEL_GPT2)
        return "gpt2";
    return config->qkv_bias && !config->out_bias ? "qwen2" : "llama";
}

// `arg`: the architecture's name.
static void locate(const struct model *model, const struct model_param *param, const void *arg, struct io_place *place)
{
    const char *architecture = arg;
    const struct model_unit *unit = &model->units[param->unit];
    bool in_block = unit->kind == MODEL_UNIT_BLOCK;
    if (in_block)
        snprintf(place->name, sizeof place->name, "blk.%u.%s", unit->layer, role_names[param->role]);
    else
        snprintf(place->name, sizeof place->name, "%s", role_names[param->role]);
    place->layout = IO_PLAIN;
    bool is_q = param->role == MODEL_ROLE_Q || param->role == MODEL_ROLE_Q_BIAS;
    bool is_k = param->role == MODEL_ROLE_K || param->role == MODEL_ROLE_K_BIAS;
    if (!strcmp(architecture, "llama") && (is_q || is_k)) {
        place->layout = IO_ROTARY;
        place->heads = is_q ? model->config.heads : model->config.kv_heads;
    } else if (!strcmp(architecture, "gpt2") && in_block && param->rank == 2) {
        place->layout = IO_TRANSPOSED;
    }
}

// Reads keys "<architecture>.<name>"; the first failure sticks.
struct keys {
    const struct gguf *file;
    const char *architecture;
    struct bg_error *err;
    bg_status status;
};

static const struct gguf_value *look(const struct keys *keys, const char *name, char full[128])
{
    snprintf(full, 128, "%s.%s", keys->architecture, name);
    return gguf_find(keys->file, full);
}

static uint32_t read_count(struct keys *keys, const char *name)
{
    char full[128];
    uint64_t value = 0;
    (void)look(keys, name, full);
    if (!keys->status)
        keys->status = gguf_u64(keys->file, full, keys->err, &value);
    if (!keys->status && value > UINT32_MAX)
        keys->status = bg_fail(keys->err, BG_FORMAT, "%s: key %s is %" PRIu64, gguf_name(keys->file), full, value);
    return (uint32_t)value;
}

static uint32_t read_count_or(struct keys *keys, const char *name, uint32_t fallback)
{
    char full[128];
    return look(keys, name, full) ? read_count(keys, name) : fallback;
}

static double shortest(double value)
{
    char text[32];
    for (int digits = 1; digits <= 9; digits++) {
        snprintf(text, sizeof text, "%.*g", digits, value);
        if (strtof(text, NULL) == (float)value)
            return strtod(text, NULL);
    }
    return value;
}

static double read_number_or(struct keys *keys, const char *name, double fallback)
{
    char full[128];
    double value = fallback;
    const struct gguf_value *found = look(keys, name, full);
    if (found && !keys->status)
        keys->status = gguf_f64(keys->file, full, keys->err, &value);
    return found && found->type == GGUF_F32 ? shortest(value) : value;
}

// Keys that change the mathematics and must say what is implemented, where they are there.
static void require_count(struct keys *keys, const char *name, uint32_t expected)
{
    char full[128];
    uint32_t found = read_count_or(keys, name, expected);
    (void)look(keys, name, full);
    if (!keys->status && found != expected)
        keys->status = bg_fail(keys->err, BG_UNSUPPORTED, "%s: key %s is %u; only %u is supported",
                               gguf_name(keys->file), full, found, expected);
}

static void refuse_scaling(struct keys *keys)
{
    char full[128];
    const struct gguf_value *kind = look(keys, "rope.scaling.type", full);
    bool none = !kind || (kind->type == GGUF_STRING && kind->s.size == 4 && !memcmp(kind->s.data, "none", 4));
    if (!keys->status && (!none || gguf_tensor_find(keys->file, "rope_freqs.weight")))
        keys->status = bg_fail(keys->err, BG_UNSUPPORTED, "%s: scaled rotary positions (%s) are not supported",
                               gguf_name(keys->file), none ? "tensor rope_freqs.weight" : full);
}

static void read_llama(struct keys *keys, struct model_config *c)
{
    c->kv_heads = read_count_or(keys, "attention.head_count_kv", c->heads);
    c->head_dim = read_count_or(keys, "attention.key_length", c->heads ? c->dim / c->heads : 0);
    c->norm_eps = read_number_or(keys, "attention.layer_norm_rms_epsilon", 1e-5);
    c->rope_theta = read_number_or(keys, "rope.freq_base", 10000);
    require_count(keys, "attention.value_length", c->head_dim);
    require_count(keys, "rope.dimension_count", c->head_dim);
    require_count(keys, "expert_count", 0);
    refuse_scaling(keys);
    uint32_t window = read_count_or(keys, "attention.sliding_window", 0);
    if (!keys->status && window && window < c->context)
        keys->status = bg_fail(keys->err, BG_UNSUPPORTED, "%s: a sliding window (%u of %u) is not supported",
                               gguf_name(keys->file), window, c->context);
    c->qkv_bias = gguf_tensor_find(keys->file, "blk.0.attn_q.bias") != NULL;
    c->out_bias = gguf_tensor_find(keys->file, "blk.0.attn_output.bias") != NULL;
    c->mlp_bias = gguf_tensor_find(keys->file, "blk.0.ffn_up.bias") != NULL;
}

static void read_gpt2(struct keys *keys, struct model_config *c)
{
    c->family = MODEL_GPT2;
    c->kv_heads = c->heads;
    c->head_dim = c->heads ? c->dim / c->heads : 0;
    c->norm_eps = read_number_or(keys, "attention.layer_norm_epsilon", 1e-5);
}

static int32_t read_id(const struct gguf *file, const char *key, uint32_t vocab)
{
    uint64_t id = 0;
    return gguf_u64(file, key, NULL, &id) == BG_OK && id < vocab ? (int32_t)id : -1;
}

static bg_status architecture_in(const struct gguf *file, struct bg_error *err, const char **architecture)
{
    static const char *const known[] = {"llama", "qwen2", "gpt2"};
    const struct gguf_value *value = gguf_find(file, "general.architecture");
    if (!value || value->type != GGUF_STRING)
        return bg_fail(err, BG_FORMAT, "%s: key general.architecture is missing or no string", gguf_name(file));
    for (size_t i = 0; i < sizeof known / sizeof *known; i++) {
        if (value->s.size == strlen(known[i]) && !memcmp(value->s.data, known[i], value->s.size)) {
            *architecture = known[i];
            return BG_OK;
        }
    }
    return bg_fail(err, BG_UNSUPPORTED, "%s: architecture \"%.*s\" is not supported; llama, qwen2 and gpt2 are",
                   gguf_name(file), (int)(value->s.size < 64 ? value->s.size : 64), value->s.data);
}

bg_status gguf_model_config(const struct gguf *file, struct bg_error *err, struct model_config *config)
{
    struct keys keys = {.file = file, .err = err};
    bg_status status = architecture_in(file, err, &keys.architecture);
    if (status)
        return status;
    const struct tensor_view *embedding = gguf_tensor_find(file, "token_embd.weight");
    const struct tensor_view *head = gguf_tensor_find(file, "output.weight");
    if (!embedding || embedding->rank != 2)
        return bg_fail(err, BG_FORMAT, "%s: no matrix token_embd.weight: %s", gguf_name(file),
                       gguf_tensor_count(file) ? "not a language model" : "the file holds only a vocabulary");
    struct model_config c = {.family = MODEL_LLAMA};
    c.dim = read_count(&keys, "embedding_length");
    c.layers = read_count(&keys, "block_count");
    c.heads = read_count(&keys, "attention.head_count");
    c.ffn = read_count(&keys, "feed_forward_length");
    c.context = read_count(&keys, "context_length");
    if (!strcmp(keys.architecture, "gpt2"))
        read_gpt2(&keys, &c);
    else
        read_llama(&keys, &c);
    c.vocab = embedding->shape[0] > UINT32_MAX ? UINT32_MAX : (uint32_t)embedding->shape[0];
    require_count(&keys, "vocab_size", c.vocab);
    c.tie = !head || io_view_equal(head, embedding);
    c.bos = read_id(file, "tokenizer.ggml.bos_token_id", c.vocab);
    c.eos = read_id(file, "tokenizer.ggml.eos_token_id", c.vocab);
    status = keys.status;
    if (!status) {
        status = model_config_check(&c, err);
        if (status)
            bg_fail_prefix(err, "%s", gguf_name(file));
    }
    if (!status)
        *config = c;
    return status;
}

static bg_status load(const struct gguf *file, struct bg_error *err, struct model_files *files)
{
    struct model_config config;
    const char *architecture = NULL;
    bg_status status = architecture_in(file, err, &architecture);
    if (!status)
        status = gguf_model_config(file, err, &config);
    if (status)
        return status;
    struct io_table table;
    io_table_init(&table, gguf_name(file), gguf_tensor_count(file));
    for (size_t i = 0; i < gguf_tensor_count(file); i++) {
        const struct tensor_view *view = gguf_tensor_at(file, i);
        if (!config.tie || strcmp(view->name, "output.weight"))
            io_table_add(&table, view->name, view);
    }
    status = io_table_sort(&table, err);
    if (!status)
        status = io_table_check(&table, &config, locate, architecture, err);
    if (!status)
        status = model_create(&config, err, &files->model);
    if (!status)
        status = io_table_load(&table, locate, architecture, err, files);
    io_table_fini(&table);
    return status;
}

bg_status gguf_model_load(const char *path, struct bg_error *err, struct model_files *files)
{
    struct gguf *file = NULL;
    bg_status status = gguf_open(files->env, path, err, &file);
    if (!status)
        status = load(file, err, files);
    bool has_vocabulary = !status && gguf_find(file, "tokenizer.ggml.tokens");
    gguf_close(file);
    if (has_vocabulary)
        status = tokenizer_open(files->env, path, err, &files->tokenizer);
    if (!status)
        status = io_check_tokenizer(files->model, files->tokenizer, false, path, err);
    return status;
}

static void put_count(struct gguf_writer *w, const char *architecture, const char *name, uint32_t value)
{
    char key[128];
    snprintf(key, sizeof key, "%s.%s", architecture, name);
    gguf_put_u32(w, key, value);
}

static void put_number(struct gguf_writer *w, const char *architecture, const char *name, double value)
{
    char key[128];
    snprintf(key, sizeof key, "%s.%s", architecture, name);
    gguf_put_f32(w, key, (float)value);
}

static void put_config(struct gguf_writer *w, const struct model_config *c, const char *architecture,
                       enum kern_weight type)
{
    gguf_put_string(w, "general.architecture", architecture);
    gguf_put_string(w, "general.name", architecture);
    gguf_put_u32(w, "general.file_type", type == KERN_F32 ? 0 : type == KERN_Q8_0 ? 7 : 2); // of most matrices
    if (type != KERN_F32)
        gguf_put_u32(w, "general.quantization_version", 2);
    put_count(w, architecture, "context_length", c->context);
    put_count(w, architecture, "embedding_length", c->dim);
    put_count(w, architecture, "block_count", c->layers);
    put_count(w, architecture, "feed_forward_length", c->ffn);
    put_count(w, architecture, "attention.head_count", c->heads);
    put_count(w, architecture, "vocab_size", c->vocab);
    if (c->family == MODEL_GPT2) {
        put_number(w, architecture, "attention.layer_norm_epsilon", c->norm_eps);
        return;
    }
    put_count(w, architecture, "attention.head_count_kv", c->kv_heads);
    put_count(w, architecture, "attention.key_length", c->head_dim);
    put_count(w, architecture, "attention.value_length", c->head_dim);
    put_count(w, architecture, "rope.dimension_count", c->head_dim);
    put_number(w, architecture, "rope.freq_base", c->rope_theta);
    put_number(w, architecture, "attention.layer_norm_rms_epsilon", c->norm_eps);
}

// Rearranged and quantised tensors live in `rearranged` (as large as the weights) until the file is written.
static void put_tensors(struct gguf_writer *w, const struct model *model, const float *weights,
                        const char *architecture, enum kern_weight type, float *rearranged)
{
    for (uint32_t i = 0; i < model->param_count; i++) {
        const struct model_param *param = &model->params[i];
        struct io_place place = {.layout = IO_PLAIN};
        locate(model, param, architecture, &place);
        const float *data = weights + param->offset;
        uint64_t shape[2] = {param->shape[0], param->shape[1]};
        if (place.layout != IO_PLAIN) {
            uint64_t columns = param->rank == 2 ? param->shape[1] : 1;
            io_to_file(place.layout, place.heads, param->shape[0], columns, data, rearranged + param->offset);
            data = rearranged + param->offset;
        }
        if (place.layout == IO_TRANSPOSED) {
            shape[0] = param->shape[1];
            shape[1] = param->shape[0];
        }
        if (type == KERN_F32 || param->rank != 2 || shape[1] % KERN_QUANT || param->role == MODEL_ROLE_POSITION) {
            gguf_put_tensor(w, place.name, param->rank, shape, data);
            continue;
        }
        // in place where data lies there: a block is read before its bytes are written, and those come earlier
        kern_quantise_blocks(rearranged + param->offset, type, data, param->count / KERN_QUANT);
        gguf_put_blocks(w, place.name, param->rank, shape, type == KERN_Q8_0 ? TENSOR_Q8_0 : TENSOR_Q4_0,
                        rearranged + param->offset);
    }
}

bg_status gguf_model_save(struct bg_env *env, const struct model *model, const float *weights,
                          const struct tokenizer *tokenizer, enum kern_weight type, const char *path,
                          struct bg_error *err)
{
    const char *architecture = architecture_of(&model->config);
    void *rearranged = NULL;
    bg_status status = env->ops->reserve(env, model->floats * sizeof(float), err, &rearranged);
    if (status)
        return status;
    struct gguf_writer *w = gguf_writer_create();
    put_config(w, &model->config, architecture, type);
    status = gguf_put_vocabulary(w, &model->config, tokenizer, path, err);
    if (!status) {
        put_tensors(w, model, weights, architecture, type, rearranged);
        status = gguf_write(env, path, w, err);
    }
    gguf_writer_destroy(w);
    env->ops->release(env, rearranged, model->floats * sizeof(float));
    return status;
}
