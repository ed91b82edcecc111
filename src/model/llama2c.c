// llama2.c's version 0 file: seven int32 (dim, ffn, layers, heads, kv_heads, vocab, context; a negative vocab means an
// output head of its own), then fp32 tensors, each kind for all layers, with q and k rows in the order of interleaved
// rotation and two tables of frequencies that nobody reads. One walk over the layout serves reading, writing and
// sizing. What the format does not say is fixed: norm_eps 1e-5, rope_theta 10000, no biases. Beside it stands
// tokenizer.bin: the longest token's bytes, then score, length and bytes of every token.
#include "model/llama2c_int.h"

#include "base/assert.h"
#include "base/mem.h"
#include "model/tokenizer_int.h"
#include "tensor/output.h"

#include <inttypes.h>
#include <stdlib.h>
#include <string.h>

enum { HEADER_BYTES = 28 };

// The file's order after the token embedding. Roles of blocks come once for each layer.
static const enum model_role order[] = {
    MODEL_ROLE_NORM1, MODEL_ROLE_Q,    MODEL_ROLE_K,    MODEL_ROLE_V,  MODEL_ROLE_O,
    MODEL_ROLE_NORM2, MODEL_ROLE_GATE, MODEL_ROLE_DOWN, MODEL_ROLE_UP,
};

typedef bg_status (*visit_fn)(void *arg, const struct model *model, const struct model_param *param);

static const struct model_param *param_of(const struct model *model, uint32_t unit, enum model_role role)
{
    int32_t index = model->units[unit].param[role];
    BG_ASSERT(index >= 0);
    return &model->params[index];
}

static uint64_t table_floats(const struct model_config *c)
{
    return (uint64_t)c->context * (c->head_dim / 2) * 2; // cosines, then sines
}

// Calls visit for every tensor in the file's order; NULL stands for the frequency tables.
static bg_status walk(const struct model *model, visit_fn visit, void *arg)
{
    uint32_t head = model->unit_count - 1;
    bg_status status = visit(arg, model, param_of(model, 0, MODEL_ROLE_EMBED));
    for (size_t i = 0; i < sizeof order / sizeof *order; i++) {
        for (uint32_t unit = 1; unit < head && !status; unit++)
            status = visit(arg, model, param_of(model, unit, order[i]));
    }
    if (!status)
        status = visit(arg, model, param_of(model, head, MODEL_ROLE_NORM));
    if (!status)
        status = visit(arg, model, NULL);
    if (!status && !model->config.tie)
        status = visit(arg, model, param_of(model, head, MODEL_ROLE_HEAD));
    return status;
}

static uint32_t rotary_heads(const struct model *model, const struct model_param *param)
{
    return param->role == MODEL_ROLE_Q ? model->config.heads : param->role == MODEL_ROLE_K ? model->config.kv_heads : 0;
}

struct cursor {
    const uint8_t *at;
    float *weights, *buffer;
};

static bg_status read_param(void *arg, const struct model *model, const struct model_param *param)
{
    struct cursor *cursor = arg;
    if (!param) {
        cursor->at += table_floats(&model->config) * sizeof(float);
        return BG_OK;
    }
    uint32_t heads = rotary_heads(model, param);
    float *out = cursor->weights + param->offset;
    memcpy(heads ? cursor->buffer : out, cursor->at, param->count * sizeof(float));
    if (heads)
        io_from_file(IO_ROTARY, heads, param->shape[0], param->shape[1], cursor->buffer, out);
    cursor->at += param->count * sizeof(float);
    return BG_OK;
}

void llama2c_model_read(const uint8_t *bytes, const struct model *model, float *weights)
{
    const struct model_config *c = &model->config;
    float *buffer = bg_alloc_array((size_t)c->dim * c->dim, sizeof *buffer); // the largest of q and k
    struct cursor cursor = {bytes + HEADER_BYTES, weights, buffer};
    bg_status status = walk(model, read_param, &cursor);
    BG_ASSERT(!status);
    bg_free(buffer);
}

// Bytes of a whole file; the configuration's bounds keep it below 2^64.
static uint64_t file_bytes(const struct model_config *c)
{
    uint64_t dim = c->dim, kv = (uint64_t)c->kv_heads * c->head_dim;
    uint64_t layer = 2 * dim + 2 * dim * dim + 2 * dim * kv + 3 * dim * c->ffn;
    uint64_t floats = c->vocab * dim * (c->tie ? 1 : 2) + c->layers * layer + dim + table_floats(c);
    return HEADER_BYTES + floats * sizeof(float);
}

bg_status llama2c_model_config(const uint8_t *bytes, size_t size, const char *name, struct bg_error *err,
                               struct model_config *config)
{
    int32_t header[7];
    if (size < HEADER_BYTES)
        return bg_fail(err, BG_FORMAT, "%s: %zu bytes are too few for a llama2.c model", name, size);
    memcpy(header, bytes, sizeof header);
    static const char *const fields[] = {"dim",        "hidden_dim", "n_layers", "n_heads",
                                         "n_kv_heads", "vocab_size", "seq_len"};
    for (size_t i = 0; i < 7; i++) {
        if (header[i] <= 0 && !(i == 5 && header[i] < 0 && header[i] > INT32_MIN))
            return bg_fail(err, BG_FORMAT, "%s: header field %s is %d: not a llama2.c version 0 model", name, fields[i],
                           header[i]);
    }
    struct model_config c = {.family = MODEL_LLAMA,
                             .dim = (uint32_t)header[0],
                             .ffn = (uint32_t)header[1],
                             .layers = (uint32_t)header[2],
                             .heads = (uint32_t)header[3],
                             .kv_heads = (uint32_t)header[4],
                             .vocab = (uint32_t)abs(header[5]),
                             .context = (uint32_t)header[6],
                             .tie = header[5] > 0,
                             .rope_theta = 10000,
                             .norm_eps = 1e-5,
                             .bos = 1,
                             .eos = 2};
    c.head_dim = c.dim / c.heads;
    if (c.dim % c.heads)
        return bg_fail(err, BG_FORMAT, "%s: n_heads %u does not divide dim %u: not a llama2.c version 0 model", name,
                       c.heads, c.dim);
    bg_status status = model_config_check(&c, err);
    if (status) {
        bg_fail_prefix(err, "%s", name);
        return status;
    }
    if (c.vocab < 3)
        c.bos = c.eos = -1;
    if (size != file_bytes(&c))
        return bg_fail(err, BG_FORMAT, "%s: its header describes %" PRIu64 " bytes, the file has %zu", name,
                       file_bytes(&c), size);
    *config = c;
    return BG_OK;
}

bg_status llama2c_model_load(const char *path, struct bg_error *err, struct model_files *files)
{
    struct bg_env *env = files->env;
    struct bg_map map;
    struct model_config config;
    bg_status status = env->ops->map_open(env, path, err, &map);
    if (status)
        return status;
    status = llama2c_model_config(map.data, map.size, path, err, &config);
    if (!status)
        status = model_create(&config, err, &files->model);
    if (!status)
        status = io_reserve_weights(files, err);
    if (!status)
        llama2c_model_read(map.data, files->model, files->weights);
    env->ops->map_close(env, &map);
    return status;
}

struct writing {
    struct output *output;
    const float *weights;
    float *buffer;
    struct bg_error *err;
};

static bg_status write_param(void *arg, const struct model *model, const struct model_param *param)
{
    struct writing *writing = arg;
    if (!param) {
        size_t bytes = table_floats(&model->config) / 2 * sizeof(float);
        bg_status status = output_write(writing->output, model->rope_cos, bytes, writing->err);
        return status ? status : output_write(writing->output, model->rope_sin, bytes, writing->err);
    }
    const float *data = writing->weights + param->offset;
    uint32_t heads = rotary_heads(model, param);
    if (heads) {
        io_to_file(IO_ROTARY, heads, param->shape[0], param->shape[1], data, writing->buffer);
        data = writing->buffer;
    }
    return output_write(writing->output, data, param->count * sizeof(float), writing->err);
}

static bg_status refuse(const struct model_config *c, const char *path, struct bg_error *err)
{
    const char *why = NULL;
    if (c->family != MODEL_LLAMA)
        why = "only the llama family";
    else if (c->qkv_bias || c->out_bias || c->mlp_bias)
        why = "no biases";
    else if (c->rope_theta != 10000)
        why = "only rope_theta 10000";
    else if ((uint64_t)c->heads * c->head_dim != c->dim)
        why = "only heads x head_dim = dim";
    else if ((float)c->norm_eps != 1e-5f)
        why = "only norm_eps 1e-5";
    if (!why)
        return BG_OK;
    return bg_fail(err, BG_UNSUPPORTED,
                   "%s: the llama2.c format can hold %s, and this model differs: export to safetensors or gguf", path,
                   why);
}

static bg_status save_weights(struct bg_env *env, const struct model *model, const float *weights, const char *path,
                              struct bg_error *err)
{
    const struct model_config *c = &model->config;
    int32_t vocab = (int32_t)c->vocab;
    const int32_t header[7] = {(int32_t)c->dim,      (int32_t)c->ffn,         (int32_t)c->layers, (int32_t)c->heads,
                               (int32_t)c->kv_heads, c->tie ? vocab : -vocab, (int32_t)c->context};
    struct output output;
    bg_status status = output_open(env, path, err, &output);
    if (status)
        return status;
    float *buffer = bg_alloc_array((size_t)c->dim * c->dim, sizeof *buffer);
    struct writing writing = {&output, weights, buffer, err};
    status = output_write(&output, header, sizeof header, err);
    if (!status)
        status = walk(model, write_param, &writing);
    bg_free(buffer);
    return output_commit(&output, err); // a failed write is remembered there
}

// One token as llama2.c's own exporter spells it: a plain blank for the word mark, line ends around <s> and </s>.
static void token_text(const struct tokenizer *t, uint32_t id, struct bg_str *text, float *score)
{
    const char *bytes = "";
    size_t size = 0;
    enum token_kind kind = TOKEN_CONTROL;
    *score = 0;
    if (id < tokenizer_size(t))
        tokenizer_piece(t, (int32_t)id, &bytes, &size, score, &kind);
    bool is_end = (int32_t)id == tokenizer_bos(t) || (int32_t)id == tokenizer_eos(t);
    if (kind == TOKEN_NORMAL)
        bytes = piece_set_get(&t->texts, (int32_t)id, &size);
    bool line = kind == TOKEN_CONTROL && is_end;
    bg_str_reset(text);
    bg_str_add(text, line ? "\n" : "");
    bg_str_add_bytes(text, bytes, size);
    bg_str_add(text, line ? "\n" : "");
}

static bg_status save_tokenizer(struct bg_env *env, const struct tokenizer *t, uint32_t vocab, const char *model_path,
                                struct bg_error *err)
{
    struct bg_str file = {0}, text = {0};
    uint32_t longest = 0;
    bg_str_add_bytes(&file, &longest, 4);
    // What score llama2.c merges by: a byte-level BPE's merges come in order, so earlier is higher.
    for (uint32_t id = 0; id < vocab; id++) {
        float score;
        token_text(t, id, &text, &score);
        if (t->form != FORM_SENTENCEPIECE)
            score = -(float)id;
        uint32_t size = (uint32_t)text.size;
        longest = size > longest ? size : longest;
        bg_str_add_bytes(&file, &score, 4);
        bg_str_add_bytes(&file, &size, 4);
        bg_str_add_bytes(&file, text.data, text.size);
    }
    memcpy(file.data, &longest, 4);
    char *path = bg_format("%s.tokenizer.bin", model_path);
    bg_status status = env_write_file(env, path, file.data, file.size, err);
    bg_free(path);
    bg_str_fini(&text);
    bg_str_fini(&file);
    return status;
}

bg_status llama2c_model_save(struct bg_env *env, const struct model *model, const float *weights,
                             const struct tokenizer *tokenizer, const char *path, struct bg_error *err)
{
    bg_status status = refuse(&model->config, path, err);
    if (!status)
        status = save_weights(env, model, weights, path, err);
    if (!status && tokenizer)
        status = save_tokenizer(env, tokenizer, model->config.vocab, path, err);
    return status;
}
