// Opening and saving models: which format a path is, which checkpoint of a run, whether a checkpoint is still what
// its manifest says, whether tokenizer and weights belong together. The formats themselves are in hf.c,
// gguf_model.c and llama2c.c; matching tensors to parameters in io_table.c.
#include "model/io.h"

#include "base/hash.h"
#include "base/json.h"
#include "base/mem.h"
#include "model/io_int.h"

#include <stdlib.h>
#include <string.h>

static bool ends_with(const char *text, const char *ending)
{
    size_t size = strlen(text), tail = strlen(ending);
    return size >= tail && !strcmp(text + size - tail, ending);
}

static bg_status exists(struct bg_env *env, const char *directory, const char *name, struct bg_error *err, bool *found)
{
    char *path = bg_format("%s/%s", directory, name);
    struct bg_file_info info;
    bg_status status = env->ops->path_info(env, path, err, &info);
    bg_free(path);
    if (!status)
        *found = info.exists;
    return status;
}

static bg_status open_any(struct bg_env *env, const char *path, bool keep_blocks, struct bg_error *err,
                          struct model_files *files)
{
    struct model_files opened = {.env = env, .keep_blocks = keep_blocks};
    bg_status status = model_resolve(env, path, err, &opened.path);
    struct bg_file_info info;
    if (!status)
        status = env->ops->path_info(env, opened.path, err, &info);
    if (!status)
        status =
            info.is_directory ? hf_model_load(opened.path, err, &opened) : gguf_model_load(opened.path, err, &opened);
    if (!status && opened.tokenizer)
        status = model_read_ends(env, opened.path, err, opened.tokenizer);
    if (status)
        model_close(&opened);
    else
        *files = opened;
    return status;
}

bg_status model_open(struct bg_env *env, const char *path, struct bg_error *err, struct model_files *files)
{
    return open_any(env, path, false, err, files);
}

bg_status model_open_blocks(struct bg_env *env, const char *path, struct bg_error *err, struct model_files *files,
                            enum kern_weight *type)
{
    uint64_t elements[3] = {0}; // by type
    bg_status status = open_any(env, path, true, err, files);
    if (status)
        return status;
    for (uint32_t i = 0; i < files->model->param_count; i++)
        if (files->model->params[i].rank == 2)
            elements[files->sources && files->sources[i].data ? files->sources[i].type : KERN_F32] +=
                files->model->params[i].count;
    *type = elements[KERN_Q8_0] > elements[KERN_F32] && elements[KERN_Q8_0] >= elements[KERN_Q4_0] ? KERN_Q8_0
            : elements[KERN_Q4_0] > elements[KERN_F32]                                             ? KERN_Q4_0
                                                                                                   : KERN_F32;
    return BG_OK;
}

bg_status model_open_llama2c(struct bg_env *env, const char *model_path, const char *tokenizer_path,
                             struct bg_error *err, struct model_files *files)
{
    struct model_files opened = {.env = env, .path = bg_strdup(model_path)};
    bg_status status = llama2c_model_load(model_path, err, &opened);
    if (!status && tokenizer_path)
        status = tokenizer_open(env, tokenizer_path, err, &opened.tokenizer);
    if (!status)
        status = io_check_tokenizer(opened.model, opened.tokenizer, false, model_path, err);
    if (status)
        model_close(&opened);
    else
        *files = opened;
    return status;
}

void model_close(struct model_files *files)
{
    if (files->weights)
        files->env->ops->release(files->env, files->weights, files->model->floats * sizeof(float));
    for (uint32_t i = 0; files->sources && i < files->model->param_count; i++)
        bg_free((void *)(uintptr_t)files->sources[i].data);
    bg_free(files->sources);
    tokenizer_destroy(files->tokenizer);
    model_destroy(files->model);
    bg_free(files->path);
    *files = (struct model_files){0};
}

bg_status model_save(struct bg_env *env, const struct model *model, const float *weights,
                     const struct tokenizer *tokenizer, enum model_format format, const char *path,
                     struct bg_error *err)
{
    bg_status status = io_check_tokenizer(model, tokenizer, true, path, err);
    if (status)
        return status;
    switch (format) {
    case MODEL_SAFETENSORS:
        return hf_model_save(env, model, weights, tokenizer, path, err);
    case MODEL_GGUF:
        return gguf_model_save(env, model, weights, tokenizer, KERN_F32, path, err);
    case MODEL_LLAMA2C:
        return llama2c_model_save(env, model, weights, tokenizer, path, err);
    }
    return bg_fail(err, BG_INVALID, "%s: unknown format", path);
}

bg_status model_save_blocks(struct bg_env *env, const struct model *model, const float *weights,
                            const struct tokenizer *tokenizer, enum kern_weight type, const char *path,
                            struct bg_error *err)
{
    bg_status status = io_check_tokenizer(model, tokenizer, true, path, err);
    return status ? status : gguf_model_save(env, model, weights, tokenizer, type, path, err);
}

void model_weights_sha256(const struct model *model, const float *weights, char hex[65])
{
    struct bg_sha256 hash;
    bg_sha256_init(&hash);
    for (uint32_t i = 0; i < model->param_count; i++)
        bg_sha256_update(&hash, weights + model->params[i].offset, model->params[i].count * sizeof(float));
    bg_sha256_final(&hash, hex);
}

// Finds the largest N among names step-N; others (half-written, set aside) do not count.
struct newest {
    bool found;
    uint64_t step;
};

static bg_status look_at_checkpoint(void *arg, const char *name, struct bg_error *err)
{
    (void)err;
    struct newest *newest = arg;
    if (strncmp(name, "step-", 5) || !name[5] || strlen(name + 5) > 18 ||
        strspn(name + 5, "0123456789") != strlen(name + 5))
        return BG_OK;
    uint64_t step = strtoull(name + 5, NULL, 10);
    if (!newest->found || step > newest->step)
        *newest = (struct newest){true, step};
    return BG_OK;
}

static bg_status resolve_directory(struct bg_env *env, const char *path, struct bg_error *err, char **directory)
{
    bool is_model = false, is_run = false;
    bg_status status = exists(env, path, "config.json", err, &is_model);
    if (!status && !is_model)
        status = exists(env, path, "checkpoints", err, &is_run);
    if (status)
        return status;
    if (is_model) {
        *directory = bg_strdup(path);
        return BG_OK;
    }
    if (!is_run)
        return bg_fail(
            err, BG_NOT_FOUND,
            "%s: no model here: expected a config.json (Hugging Face), a run's checkpoints/, or a .gguf file", path);
    struct newest newest = {0};
    char *checkpoints = bg_format("%s/checkpoints", path);
    status = env->ops->list_directory(env, checkpoints, look_at_checkpoint, &newest, err);
    if (!status && !newest.found)
        status = bg_fail(err, BG_NOT_FOUND, "%s: the run has no checkpoint yet", checkpoints);
    if (!status)
        *directory = bg_format("%s/step-%llu", checkpoints, (unsigned long long)newest.step);
    bg_free(checkpoints);
    return status;
}

// Files that others call by their hash are told by their first bytes.
static bg_status begins_as_gguf(struct bg_env *env, const char *path, struct bg_error *err, bool *yes)
{
    struct bg_map map;
    bg_status status = env->ops->map_open(env, path, err, &map);
    if (status)
        return status;
    *yes = map.size >= 4 && !memcmp(map.data, "GGUF", 4);
    env->ops->map_close(env, &map);
    return BG_OK;
}

bg_status model_resolve(struct bg_env *env, const char *path, struct bg_error *err, char **directory)
{
    struct bg_file_info info;
    bg_status status = env->ops->path_info(env, path, err, &info);
    if (status)
        return status;
    if (!info.exists)
        return bg_fail(err, BG_NOT_FOUND, "%s: no such file or directory", path);
    if (info.is_directory)
        return resolve_directory(env, path, err, directory);
    bool is_gguf = ends_with(path, ".gguf");
    if (!is_gguf)
        status = begins_as_gguf(env, path, err, &is_gguf);
    if (status)
        return status;
    if (!is_gguf)
        return bg_fail(err, BG_INVALID,
                       "%s: not a model: give a directory (with config.json and model.safetensors) or a .gguf file; a "
                       "llama2.c .bin must be imported first",
                       path);
    *directory = bg_strdup(path);
    return BG_OK;
}

bg_status io_reserve_weights(struct model_files *files, struct bg_error *err)
{
    void *memory = NULL;
    bg_status status = files->env->ops->reserve(files->env, files->model->floats * sizeof(float), err, &memory);
    if (!status)
        files->weights = memory;
    return status;
}

bg_status io_check_tokenizer(const struct model *model, const struct tokenizer *tokenizer, bool any_padding,
                             const char *path, struct bg_error *err)
{
    if (!tokenizer)
        return BG_OK;
    uint32_t vocab = model->config.vocab, size = tokenizer_size(tokenizer);
    // Published models round their vocabulary up (Qwen2 by 271, Phi-2 by 905); a fifth more is another tokenizer's.
    if (size <= vocab && (any_padding || vocab - size <= size / 5 + 64))
        return BG_OK;
    return bg_fail(err, BG_MISMATCH,
                   "%s: the tokenizer has %u ids, the weights are for a vocabulary of %u: they do not belong together",
                   path, size, vocab);
}
