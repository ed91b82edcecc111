// The tokens that end a text, as a model's files name them: a directory's config.json and generation_config.json (an
// id, or a list of them, as models with several turns have), or the eos, eot and eom ids of a GGUF file.
#include "model/io_int.h"

#include "base/json.h"
#include "base/mem.h"
#include "tensor/gguf.h"

enum { ENDS_MAX = 64 }; // in one file

// Ids beyond the vocabulary are what files carry over from other vocabularies: none.
static void add(struct tokenizer *tokenizer, uint64_t id)
{
    if (id < tokenizer_size(tokenizer))
        tokenizer_add_end(tokenizer, (int32_t)id);
}

static bg_status from_json(struct bg_env *env, const char *path, struct bg_error *err, struct tokenizer *tokenizer)
{
    struct bg_file_info info = {0};
    json_t *root = NULL;
    bg_status status = env->ops->path_info(env, path, err, &info);
    if (status || !info.exists)
        return status;
    status = bg_json_load(env, path, err, &root);
    if (status)
        return status;
    json_t *value = json_object_get(root, "eos_token_id");
    const size_t count = json_is_array(value) ? json_array_size(value) : json_is_integer(value);
    bool good = !value || json_is_null(value) || json_is_integer(value) || (json_is_array(value) && count <= ENDS_MAX);
    for (size_t i = 0; i < count && good; i++) {
        const json_t *id = json_is_array(value) ? json_array_get(value, i) : value;
        good = json_is_integer(id);
        if (json_integer_value(id) >= 0 && good)
            add(tokenizer, (uint64_t)json_integer_value(id));
    }
    json_decref(root);
    return good
               ? BG_OK
               : bg_fail(err, BG_FORMAT, "%s: key \"eos_token_id\": expected a token id, a list of at most %d, or null",
                         path, ENDS_MAX);
}

static bg_status from_gguf(struct bg_env *env, const char *path, struct bg_error *err, struct tokenizer *tokenizer)
{
    static const char *const keys[] = {"tokenizer.ggml.eos_token_id", "tokenizer.ggml.eot_token_id",
                                       "tokenizer.ggml.eom_token_id"};
    struct gguf *file = NULL;
    bg_status status = gguf_open(env, path, err, &file);
    for (size_t i = 0; i < sizeof keys / sizeof *keys && !status; i++) {
        uint64_t id;
        if (gguf_find(file, keys[i]) && gguf_u64(file, keys[i], NULL, &id) == BG_OK)
            add(tokenizer, id);
    }
    if (!status)
        gguf_close(file);
    return status;
}

bg_status model_read_ends(struct bg_env *env, const char *path, struct bg_error *err, struct tokenizer *tokenizer)
{
    struct bg_file_info info = {0};
    bg_status status = env->ops->path_info(env, path, err, &info);
    if (status)
        return status;
    if (!info.is_directory)
        return from_gguf(env, path, err, tokenizer);
    static const char *const names[] = {"config.json", "generation_config.json"};
    for (size_t i = 0; i < 2 && !status; i++) {
        char *name = bg_format("%s/%s", path, names[i]);
        status = from_json(env, name, err, tokenizer);
        bg_free(name);
    }
    return status;
}
