// What a model is: family, sizes, flags; read from and written to Hugging Face `config.json`.
#ifndef MODEL_CONFIG_H
#define MODEL_CONFIG_H

#include "base/env.h"

enum model_family { MODEL_LLAMA, MODEL_GPT2 };

struct model_config {
    enum model_family family;
    uint32_t layers, dim, heads, kv_heads, head_dim, ffn, context, vocab;
    bool tie;      // output head shares the token embedding
    bool qkv_bias; // Llama family: biases on q, k, v (Qwen2)
    bool out_bias; // Llama family: bias on o (attention_bias: true sets both)
    bool mlp_bias; // Llama family
    double rope_theta;
    double norm_eps;
    int32_t bos, eos; // -1: none
};

const char *model_family_name(enum model_family family); // "llama", "gpt2"
// Bounds and divisibility; the error names the key as the job file spells it (dim, heads, ...).
BG_MUST_USE bg_status model_config_check(const struct model_config *config, struct bg_error *err);
BG_MUST_USE bg_status model_config_load(struct bg_env *env, const char *path, struct bg_error *err,
                                        struct model_config *config); // a config.json
// The same from memory; `name` stands in errors.
BG_MUST_USE bg_status model_config_parse(const void *text, size_t size, const char *name, struct bg_error *err,
                                         struct model_config *config);
BG_MUST_USE bg_status model_config_save(struct bg_env *env, const char *path, const struct model_config *config,
                                        struct bg_error *err); // model_type llama, qwen2 (qkv_bias) or gpt2

#endif
