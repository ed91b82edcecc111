// Hugging Face's config.json, both ways. A model type is a table row: which keys mean what and what Hugging Face
// assumes where a key is absent. Anything that would change the mathematics and is not implemented (scaled rotary
// positions, sliding windows, other activations) is refused by name; keys that do not touch it are ignored.
#include "model/config.h"

#include "base/json.h"
#include "base/str.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static const struct model_type {
    const char *name, *architecture;
    enum model_family family;
    bool qkv_bias;    // always, whatever the file says
    bool bias_keys;   // attention_bias and mlp_bias are read
    bool window_key;  // use_sliding_window must be true for sliding_window to count
    int32_t bos, eos; // where the keys are absent
} types[] = {
    {"llama", "LlamaForCausalLM", MODEL_LLAMA, false, true, false, 1, 2},
    {"mistral", "MistralForCausalLM", MODEL_LLAMA, false, false, false, 1, 2},
    {"qwen2", "Qwen2ForCausalLM", MODEL_LLAMA, true, false, true, -1, -1},
    {"gpt2", "GPT2LMHeadModel", MODEL_GPT2, false, false, false, 50256, 50256},
};

// A config.json being read.
struct source {
    const char *name;
    json_t *root;
    struct bg_error *err;
};

static bg_status read_llama(const struct source *source, const struct model_type *type, struct model_config *c);
static bg_status read_gpt2(const struct source *source, struct model_config *c);
static bg_status read_common(const struct source *source, const struct model_type *type, struct model_config *c);
static bg_status find_type(const struct source *source, const struct model_type **type);

bg_status model_config_parse(const void *text, size_t size, const char *name, struct bg_error *err,
                             struct model_config *config)
{
    json_t *root = NULL;
    bg_status status = bg_json_parse(name, text, size, err, &root);
    if (status)
        return status;
    const struct source source = {name, root, err};
    const struct model_type *type = NULL;
    struct model_config parsed = {0};
    status = find_type(&source, &type);
    if (!status) {
        parsed.family = type->family;
        status = type->family == MODEL_GPT2 ? read_gpt2(&source, &parsed) : read_llama(&source, type, &parsed);
    }
    if (!status)
        status = read_common(&source, type, &parsed);
    json_decref(root);
    if (status)
        return status;
    status = model_config_check(&parsed, err);
    if (status) {
        bg_fail_prefix(err, "%s", name);
        return status;
    }
    *config = parsed;
    return BG_OK;
}

bg_status model_config_load(struct bg_env *env, const char *path, struct bg_error *err, struct model_config *config)
{
    struct bg_map map;
    bg_status status = env->ops->map_open(env, path, err, &map);
    if (status)
        return status;
    status = model_config_parse(map.data, map.size, path, err, config);
    env->ops->map_close(env, &map);
    return status;
}

const char *model_family_name(enum model_family family)
{
    return family == MODEL_GPT2 ? "gpt2" : "llama";
}

static bg_status check_range(const char *key, uint64_t value, uint64_t max, struct bg_error *err)
{
    if (value >= 1 && value <= max)
        return BG_OK;
    return bg_fail(err, BG_INVALID, "model.%s is %llu, expected 1 to %llu", key, (unsigned long long)value,
                   (unsigned long long)max);
}

static bg_status check_family(const struct model_config *c, struct bg_error *err)
{
    if (c->family == MODEL_GPT2) {
        if (c->kv_heads != c->heads)
            return bg_fail(err, BG_INVALID, "model.kv_heads is %u, the gpt2 family needs it equal to heads (%u)",
                           c->kv_heads, c->heads);
        if ((uint64_t)c->head_dim * c->heads != c->dim)
            return bg_fail(err, BG_INVALID, "model.head_dim is %u, the gpt2 family needs dim / heads = %u / %u",
                           c->head_dim, c->dim, c->heads);
        if (c->qkv_bias || c->out_bias || c->mlp_bias)
            return bg_fail(err, BG_INVALID, "model.qkv_bias, out_bias and mlp_bias belong to the llama family");
        return BG_OK;
    }
    if (c->head_dim % 2)
        return bg_fail(err, BG_INVALID, "model.head_dim is %u, rotary positions need it even", c->head_dim);
    if (!(c->rope_theta >= 1 && c->rope_theta <= 1e15))
        return bg_fail(err, BG_INVALID, "model.rope_theta is %g, expected 1 to 1e15", c->rope_theta);
    // What config.json could not say must not be trained: it could not be saved.
    if (c->qkv_bias != c->out_bias && (c->out_bias || c->mlp_bias))
        return bg_fail(
            err, BG_INVALID,
            "model.qkv_bias, out_bias, mlp_bias: Hugging Face models have biases on q, k, v alone (qwen2) or "
            "on q, k, v and o together, with or without the MLP (llama)");
    return BG_OK;
}

bg_status model_config_check(const struct model_config *config, struct bg_error *err)
{
    const struct model_config *c = config;
    const struct {
        const char *key;
        uint64_t value, max;
    } ranges[] = {
        {"layers", c->layers, 4096},
        {"dim", c->dim, 1 << 17},
        {"heads", c->heads, 1 << 12},
        {"kv_heads", c->kv_heads, 1 << 12},
        {"ffn", c->ffn, 1 << 20},
        {"head_dim", c->head_dim, 1 << 12},
        {"context", c->context, 1 << 22},
        {"vocab", c->vocab, 1 << 24},
        // The rotary tables are (context, head_dim / 2), twice.
        {"context x head_dim", (uint64_t)c->context * c->head_dim, 1 << 27},
    };
    for (size_t i = 0; i < sizeof ranges / sizeof *ranges; i++) {
        bg_status status = check_range(ranges[i].key, ranges[i].value, ranges[i].max, err);
        if (status)
            return status;
    }
    if (c->heads % c->kv_heads)
        return bg_fail(err, BG_INVALID, "model.kv_heads is %u, which does not divide heads (%u)", c->kv_heads,
                       c->heads);
    if (!(c->norm_eps > 0 && c->norm_eps < 1))
        return bg_fail(err, BG_INVALID, "model.norm_eps is %g, expected above 0 and below 1", c->norm_eps);
    return check_family(c, err);
}

// The model_type, or the first architecture where there is none.
static bg_status find_type(const struct source *source, const struct model_type **type)
{
    if (!json_is_object(source->root))
        return bg_fail(source->err, BG_FORMAT, "%s: expected a JSON object", source->name);
    const char *name = json_string_value(json_object_get(source->root, "model_type"));
    const char *architecture = json_string_value(json_array_get(json_object_get(source->root, "architectures"), 0));
    for (size_t i = 0; i < sizeof types / sizeof *types; i++) {
        if (name ? !strcmp(name, types[i].name) : architecture && !strcmp(architecture, types[i].architecture)) {
            *type = &types[i];
            return BG_OK;
        }
    }
    return bg_fail(source->err, BG_UNSUPPORTED,
                   "%s: model_type \"%s\" is not supported; llama, mistral, qwen2 and gpt2 are", source->name,
                   name           ? name
                   : architecture ? architecture
                                  : "");
}

// A required count.
static bg_status read_count(const struct source *source, const char *key, uint32_t *value)
{
    int64_t number;
    bg_status status = bg_json_integer(source->root, source->name, key, 1, INT32_MAX, source->err, &number);
    if (!status)
        *value = (uint32_t)number;
    return status;
}

static bg_status read_count_or(const struct source *source, const char *key, uint32_t fallback, uint32_t *value)
{
    *value = fallback;
    return bg_json_has(source->root, key) ? read_count(source, key, value) : BG_OK;
}

static bg_status read_number_or(const struct source *source, const char *key, double fallback, double *value)
{
    *value = fallback;
    return bg_json_has(source->root, key) ? bg_json_number(source->root, source->name, key, source->err, value) : BG_OK;
}

static bg_status read_flag_or(const struct source *source, const char *key, bool fallback, bool *value)
{
    *value = fallback;
    return bg_json_has(source->root, key) ? bg_json_boolean(source->root, source->name, key, source->err, value)
                                          : BG_OK;
}

// A flag that must have the one value that is implemented (also where absent).
static bg_status require_flag(const struct source *source, const char *key, bool required)
{
    bool value;
    bg_status status = read_flag_or(source, key, required, &value);
    if (!status && value != required)
        return bg_fail(source->err, BG_UNSUPPORTED, "%s: %s: %s is not supported", source->name, key,
                       value ? "true" : "false");
    return status;
}

static bg_status require_activation(const struct source *source, const char *key, const char *first, const char *second)
{
    const char *found = first;
    if (bg_json_has(source->root, key)) {
        bg_status status = bg_json_string(source->root, source->name, key, source->err, &found);
        if (status)
            return status;
    }
    if (strcmp(found, first) && strcmp(found, second))
        return bg_fail(source->err, BG_UNSUPPORTED, "%s: %s \"%s\" is not supported; %s is", source->name, key, found,
                       first);
    return BG_OK;
}

// Rotary positions: rope_theta, rope_scaling {"rope_type" or "type"}, or both inside rope_parameters.
static bg_status read_rope(const struct source *source, struct model_config *c)
{
    bg_status status = read_number_or(source, "rope_theta", 10000.0, &c->rope_theta);
    static const char *const keys[] = {"rope_scaling", "rope_parameters"};
    for (size_t i = 0; i < 2 && !status; i++) {
        if (!bg_json_has(source->root, keys[i]))
            continue;
        json_t *object = NULL;
        status = bg_json_object(source->root, source->name, keys[i], source->err, &object);
        if (status)
            break;
        const char *kind = json_string_value(json_object_get(object, "rope_type"));
        if (!kind)
            kind = json_string_value(json_object_get(object, "type"));
        if (!kind || strcmp(kind, "default"))
            return bg_fail(source->err, BG_UNSUPPORTED,
                           "%s: %s of type \"%s\" is not supported: only unscaled rotary positions (null or default)",
                           source->name, keys[i], kind ? kind : "");
        const struct source inner = {source->name, object, source->err};
        status = read_number_or(&inner, "rope_theta", c->rope_theta, &c->rope_theta);
    }
    double part = 1;
    if (!status)
        status = read_number_or(source, "partial_rotary_factor", 1, &part);
    if (!status && part != 1)
        return bg_fail(source->err, BG_UNSUPPORTED, "%s: partial_rotary_factor %g is not supported", source->name,
                       part);
    return status;
}

static bg_status refuse_window(const struct source *source, const struct model_type *type, uint32_t context)
{
    bool used;
    bg_status status = read_flag_or(source, "use_sliding_window", !type->window_key, &used);
    uint32_t window = 0;
    if (!status && used)
        status = read_count_or(source, "sliding_window", UINT32_MAX, &window);
    if (!status && used && window < context)
        return bg_fail(source->err, BG_UNSUPPORTED,
                       "%s: sliding_window %u is not supported (it is shorter than the context, %u)", source->name,
                       window, context);
    return status;
}

static bg_status read_llama(const struct source *source, const struct model_type *type, struct model_config *c)
{
    bool attention_bias = false;
    bg_status status = read_count(source, "hidden_size", &c->dim);
    if (!status)
        status = read_count(source, "num_hidden_layers", &c->layers);
    if (!status)
        status = read_count(source, "num_attention_heads", &c->heads);
    if (!status)
        status = read_count_or(source, "num_key_value_heads", c->heads, &c->kv_heads);
    if (!status)
        status = read_count_or(source, "head_dim", c->dim / c->heads, &c->head_dim);
    if (!status)
        status = read_count(source, "intermediate_size", &c->ffn);
    if (!status)
        status = read_count(source, "max_position_embeddings", &c->context);
    if (!status)
        status = read_number_or(source, "rms_norm_eps", 1e-6, &c->norm_eps);
    if (!status)
        status = read_flag_or(source, "tie_word_embeddings", false, &c->tie);
    if (!status && type->bias_keys)
        status = read_flag_or(source, "attention_bias", false, &attention_bias);
    if (!status && type->bias_keys)
        status = read_flag_or(source, "mlp_bias", false, &c->mlp_bias);
    if (!status)
        status = require_activation(source, "hidden_act", "silu", "swish");
    if (!status)
        status = read_rope(source, c);
    if (!status)
        status = refuse_window(source, type, c->context);
    c->qkv_bias = type->qkv_bias || attention_bias;
    c->out_bias = attention_bias;
    return status;
}

static bg_status read_gpt2(const struct source *source, struct model_config *c)
{
    bg_status status = read_count(source, "n_embd", &c->dim);
    if (!status)
        status = read_count(source, "n_layer", &c->layers);
    if (!status)
        status = read_count(source, "n_head", &c->heads);
    if (!status)
        status = read_count(source, "n_positions", &c->context);
    if (!status)
        status = read_count_or(source, "n_inner", 4 * c->dim, &c->ffn);
    if (!status)
        status = read_number_or(source, "layer_norm_epsilon", 1e-5, &c->norm_eps);
    if (!status)
        status = read_flag_or(source, "tie_word_embeddings", true, &c->tie);
    if (!status)
        status = require_activation(source, "activation_function", "gelu_new", "gelu_pytorch_tanh");
    if (!status)
        status = require_flag(source, "scale_attn_weights", true);
    if (!status)
        status = require_flag(source, "scale_attn_by_inverse_layer_idx", false);
    if (!status)
        status = require_flag(source, "add_cross_attention", false);
    c->kv_heads = c->heads;
    c->head_dim = c->heads ? c->dim / c->heads : 0;
    return status;
}

// One id, the first of a list of ids, or null. Ids beyond the vocabulary are what files carry over from other
// vocabularies: none.
static bg_status read_id(const struct source *source, const char *key, int32_t fallback, uint32_t vocab, int32_t *id)
{
    json_t *value = json_object_get(source->root, key);
    if (json_is_array(value) && json_array_size(value))
        value = json_array_get(value, 0);
    json_int_t number = fallback;
    if (json_is_integer(value))
        number = json_integer_value(value);
    else if (json_is_null(value))
        number = -1;
    else if (value)
        return bg_fail(source->err, BG_FORMAT, "%s: key \"%s\": expected a token id, a list of them or null",
                       source->name, key);
    *id = number >= 0 && number < vocab ? (int32_t)number : -1;
    return BG_OK;
}

static bg_status read_common(const struct source *source, const struct model_type *type, struct model_config *c)
{
    bg_status status = read_count(source, "vocab_size", &c->vocab);
    if (!status)
        status = read_id(source, "bos_token_id", type->bos, c->vocab, &c->bos);
    if (!status)
        status = read_id(source, "eos_token_id", type->eos, c->vocab, &c->eos);
    return status;
}

// Digits that bring every real back: 15 read well (1e-5), 17 always do.
static size_t real_digits(const struct model_config *c)
{
    char eps[32], theta[32];
    snprintf(eps, sizeof eps, "%.15g", c->norm_eps);
    snprintf(theta, sizeof theta, "%.15g", c->rope_theta);
    return strtod(eps, NULL) == c->norm_eps && strtod(theta, NULL) == c->rope_theta ? 15 : 17;
}

static json_t *id_json(int32_t id)
{
    return id < 0 ? json_null() : json_integer(id);
}

static void write_llama(const struct model_config *c, json_t *root)
{
    // Biases on q, k and v alone are what qwen2 has and llama cannot say; the mathematics is the same.
    const struct model_type *type = c->qkv_bias && !c->out_bias ? &types[2] : &types[0];
    json_object_set_new(root, "architectures", json_pack("[s]", type->architecture));
    json_object_set_new(root, "model_type", json_string(type->name));
    json_object_set_new(root, "hidden_size", json_integer(c->dim));
    json_object_set_new(root, "num_hidden_layers", json_integer(c->layers));
    json_object_set_new(root, "num_attention_heads", json_integer(c->heads));
    json_object_set_new(root, "num_key_value_heads", json_integer(c->kv_heads));
    json_object_set_new(root, "head_dim", json_integer(c->head_dim));
    json_object_set_new(root, "intermediate_size", json_integer(c->ffn));
    json_object_set_new(root, "max_position_embeddings", json_integer(c->context));
    json_object_set_new(root, "rms_norm_eps", json_real(c->norm_eps));
    json_object_set_new(root, "rope_theta", json_real(c->rope_theta));
    json_object_set_new(root, "rope_scaling", json_null());
    json_object_set_new(root, "hidden_act", json_string("silu"));
    if (type->bias_keys) {
        json_object_set_new(root, "attention_bias", json_boolean(c->out_bias));
        json_object_set_new(root, "mlp_bias", json_boolean(c->mlp_bias));
    } else {
        json_object_set_new(root, "use_sliding_window", json_false());
    }
}

static void write_gpt2(const struct model_config *c, json_t *root)
{
    json_object_set_new(root, "architectures", json_pack("[s]", "GPT2LMHeadModel"));
    json_object_set_new(root, "model_type", json_string("gpt2"));
    json_object_set_new(root, "n_embd", json_integer(c->dim));
    json_object_set_new(root, "n_layer", json_integer(c->layers));
    json_object_set_new(root, "n_head", json_integer(c->heads));
    json_object_set_new(root, "n_positions", json_integer(c->context));
    json_object_set_new(root, "n_inner", json_integer(c->ffn));
    json_object_set_new(root, "layer_norm_epsilon", json_real(c->norm_eps));
    json_object_set_new(root, "activation_function", json_string("gelu_new"));
}

static int add_text(const char *bytes, size_t size, void *text)
{
    bg_str_add_bytes(text, bytes, size);
    return 0;
}

bg_status model_config_save(struct bg_env *env, const char *path, const struct model_config *config,
                            struct bg_error *err)
{
    bg_status status = model_config_check(config, err);
    if (status)
        return status;
    json_t *root = json_object();
    if (config->family == MODEL_GPT2)
        write_gpt2(config, root);
    else
        write_llama(config, root);
    json_object_set_new(root, "vocab_size", json_integer(config->vocab));
    json_object_set_new(root, "bos_token_id", id_json(config->bos));
    json_object_set_new(root, "eos_token_id", id_json(config->eos));
    json_object_set_new(root, "tie_word_embeddings", json_boolean(config->tie));
    json_object_set_new(root, "torch_dtype", json_string("float32"));
    struct bg_str text = {0};
    (void)json_dump_callback(root, add_text, &text, JSON_INDENT(2) | JSON_REAL_PRECISION(real_digits(config)));
    json_decref(root);
    status = env_write_file(env, path, bg_str_text(&text), text.size, err);
    bg_str_fini(&text);
    return status;
}
