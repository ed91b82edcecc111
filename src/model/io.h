// Models on disk: a Hugging Face directory, GGUF, llama2.c; loading any of them into the family's own layout, and
// saving. GGUF's llama layout and llama2.c store q and k for interleaved rotation: permuted both ways here.
#ifndef MODEL_IO_H
#define MODEL_IO_H

#include "model/packed.h"
#include "model/tokenizer.h"

// A model ready to use. weights: model->floats floats from env's reserve.
struct model_files {
    struct bg_env *env;
    struct model *model;
    float *weights;
    struct tokenizer *tokenizer;   // NULL when the source has none
    char *path;                    // what was opened in the end (a run directory resolves to its newest checkpoint)
    struct packed_source *sources; // of model_open_blocks(): (param_count), what the file holds as Q8_0 or Q4_0 blocks
    bool keep_blocks;
};

// `path`: a run directory (newest checkpoint), a checkpoint or Hugging Face directory, or a GGUF file. Weights and
// tokenizer are checked against the configuration: names, shapes, vocabulary; a checkpoint's files against the hashes
// in its manifest.json (BG_CORRUPT).
BG_MUST_USE bg_status model_open(struct bg_env *env, const char *path, struct bg_error *err, struct model_files *files);
// The same, and keeps quantised matrices as the file has them (NULL data: not quantised). *type: what most weights of
// the file are.
BG_MUST_USE bg_status model_open_blocks(struct bg_env *env, const char *path, struct bg_error *err,
                                        struct model_files *files, enum kern_weight *type);
void model_close(struct model_files *files);

// The directory that model_open() would read: path itself, or the newest complete checkpoints/step-N of a run. bg_free
// it.
BG_MUST_USE bg_status model_resolve(struct bg_env *env, const char *path, struct bg_error *err, char **directory);

// llama2.c: MODEL.bin (version 0 header) with its tokenizer.bin.
BG_MUST_USE bg_status model_open_llama2c(struct bg_env *env, const char *model_path, const char *tokenizer_path,
                                         struct bg_error *err, struct model_files *files);

enum model_format { MODEL_SAFETENSORS, MODEL_GGUF, MODEL_LLAMA2C };
// safetensors: a directory with config.json, model.safetensors, tokenizer.json. gguf: one file. llama2c: `path` (model)
// and `path`.tokenizer.bin.
BG_MUST_USE bg_status model_save(struct bg_env *env, const struct model *model, const float *weights,
                                 const struct tokenizer *tokenizer, enum model_format format, const char *path,
                                 struct bg_error *err);

// GGUF whose matrices are Q8_0 or Q4_0 blocks (GGML's formula, packed.h), but for those whose rows are no multiple of
// 32: they stay fp32, as norms, biases and positions do.
BG_MUST_USE bg_status model_save_blocks(struct bg_env *env, const struct model *model, const float *weights,
                                        const struct tokenizer *tokenizer, enum kern_weight type, const char *path,
                                        struct bg_error *err);

// The chat template that a model brings with it (`path` as model_files.path): chat_template.jinja, chat_template in
// tokenizer_config.json (the one called "default" of several), or tokenizer.chat_template of a GGUF file. *text NULL:
// none; bg_free it.
BG_MUST_USE bg_status model_chat_template(struct bg_env *env, const char *path, struct bg_error *err, char **text);

// Adds the tokens that end a text by those files (`path` as model_files.path): eos_token_id in config.json and
// generation_config.json, one id or a list; the eos, eot and eom ids of a GGUF file. model_open() has done so with its
// own tokenizer.
BG_MUST_USE bg_status model_read_ends(struct bg_env *env, const char *path, struct bg_error *err,
                                      struct tokenizer *tokenizer);

// NUMERICS 19: raw tensor data as in model.safetensors, names in byte order, a tied tensor once.
void model_weights_sha256(const struct model *model, const float *weights, char hex[65]);

#endif
