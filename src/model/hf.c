// A Hugging Face directory: config.json, model.safetensors (or its shards), tokenizer files. Reading is lenient where
// files in the wild differ and the meaning is clear: prefixes (model., transformer., those of torch.compile and data
// parallel wrappers), buffers that hold no weights, GPT-2 matrices in Linear instead of Conv1D layout, an output
// head beside tied embeddings. Where a checkpoint's manifest.json lies beside the files, they must match its hashes.
#include "model/io_int.h"

#include "base/hash.h"
#include "base/json.h"
#include "base/mem.h"
#include "tensor/safetensors.h"

#include <string.h>

static bg_status check_manifest(struct bg_env *env, const char *directory, struct bg_error *err, bool *guarded);
static bg_status find_tokenizer(struct bg_env *env, const char *directory, struct bg_error *err, bool *found);
static bg_status fill_table(const struct safetensors *file, struct io_table *table, struct bg_error *err);
static bool gpt2_is_linear(const struct io_table *table, const struct model_config *config);
static void locate(const struct model *model, const struct model_param *param, const void *arg, struct io_place *place);

static bg_status load_weights(const struct safetensors *file, struct model_config config, const char *directory,
                              struct bg_error *err, struct model_files *files)
{
    struct io_table table;
    io_table_init(&table, directory, safetensors_count(file));
    bg_status status = fill_table(file, &table, err);
    const struct tensor_view *head = NULL, *embedding = NULL;
    if (!status) {
        head = io_table_find(&table, "lm_head.weight");
        embedding = io_table_find(&table, config.family == MODEL_GPT2 ? "wte.weight" : "embed_tokens.weight");
    }
    if (!status && config.tie && head && embedding) {
        // A head of its own wins over the configuration; a copy of the embedding is no tensor of the model.
        config.tie = io_view_equal(head, embedding);
        size_t kept = 0;
        for (size_t i = 0; i < table.count && config.tie; i++) {
            if (table.entries[i].view != head)
                table.entries[kept++] = table.entries[i];
        }
        table.count = config.tie ? kept : table.count;
    }
    bool linear = !status && gpt2_is_linear(&table, &config);
    if (!status)
        status = io_table_check(&table, &config, locate, &linear, err);
    if (!status)
        status = model_create(&config, err, &files->model);
    if (!status)
        status = io_table_load(&table, locate, &linear, err, files);
    io_table_fini(&table);
    return status;
}

bg_status hf_model_load(const char *directory, struct bg_error *err, struct model_files *files)
{
    struct bg_env *env = files->env;
    struct model_config config;
    struct safetensors *file = NULL;
    bool has_tokenizer = false, is_checkpoint = false;
    bg_status status = check_manifest(env, directory, err, &is_checkpoint);
    char *path = bg_format("%s/config.json", directory);
    if (!status)
        status = model_config_load(env, path, err, &config);
    bg_free(path);
    if (!status)
        status = safetensors_open(env, directory, err, &file);
    if (!status)
        status = load_weights(file, config, directory, err, files);
    safetensors_close(file);
    if (!status)
        status = find_tokenizer(env, directory, err, &has_tokenizer);
    if (!status && has_tokenizer)
        status = tokenizer_open(env, directory, err, &files->tokenizer);
    // A checkpoint's tokenizer is the one it was trained with, however much larger its job made the vocabulary.
    if (!status)
        status = io_check_tokenizer(files->model, files->tokenizer, is_checkpoint, directory, err);
    return status;
}

bg_status hf_model_save(struct bg_env *env, const struct model *model, const float *weights,
                        const struct tokenizer *tokenizer, const char *directory, struct bg_error *err)
{
    bg_status status = env->ops->make_directories(env, directory, err);
    if (status)
        return status;
    struct safetensors_item *items = bg_alloc_array(model->param_count, sizeof *items);
    for (uint32_t i = 0; i < model->param_count; i++) {
        const struct model_param *param = &model->params[i];
        items[i] = (struct safetensors_item){.name = param->name,
                                             .dtype = TENSOR_F32,
                                             .rank = param->rank,
                                             .shape = {param->shape[0], param->shape[1]},
                                             .data = weights + param->offset};
    }
    char *path = bg_format("%s/model.safetensors", directory);
    status = safetensors_write(env, path, items, model->param_count, NULL, 0, err);
    bg_free(path);
    bg_free(items);
    if (!status && tokenizer)
        status = tokenizer_save(env, tokenizer, directory, err);
    // Last: without it the directory is not taken for a model.
    path = bg_format("%s/config.json", directory);
    if (!status)
        status = model_config_save(env, path, &model->config, err);
    bg_free(path);
    return status;
}

// The name without what wrappers put in front of it; a pointer into it.
static const char *bare_name(const char *name)
{
    static const char *const prefixes[] = {"_orig_mod.", "module.", "model.", "transformer."};
    for (size_t i = 0; i < sizeof prefixes / sizeof *prefixes; i++) {
        size_t size = strlen(prefixes[i]);
        if (!strncmp(name, prefixes[i], size)) {
            name += size;
            i = SIZE_MAX; // again from the first
        }
    }
    return name;
}

static bool ends_with(const char *text, const char *ending)
{
    size_t size = strlen(text), tail = strlen(ending);
    return size >= tail && !strcmp(text + size - tail, ending);
}

// Causal masks and frequency tables that older versions saved along.
static bool is_buffer(const char *name)
{
    return ends_with(name, ".attn.bias") || ends_with(name, ".attn.masked_bias") ||
           ends_with(name, "rotary_emb.inv_freq");
}

static bg_status fill_table(const struct safetensors *file, struct io_table *table, struct bg_error *err)
{
    for (size_t i = 0; i < safetensors_count(file); i++) {
        const struct tensor_view *view = safetensors_at(file, i);
        if (!is_buffer(view->name))
            io_table_add(table, bare_name(view->name), view);
    }
    return io_table_sort(table, err);
}

// Told by c_attn, which is (dim, 3 dim) in Conv1D and (3 dim, dim) in Linear; c_proj is square and tells nothing.
static bool gpt2_is_linear(const struct io_table *table, const struct model_config *config)
{
    const struct tensor_view *view =
        config->family == MODEL_GPT2 ? io_table_find(table, "h.0.attn.c_attn.weight") : NULL;
    return view && view->rank == 2 && view->shape[0] == 3 * (uint64_t)config->dim && view->shape[1] == config->dim;
}

static void locate(const struct model *model, const struct model_param *param, const void *arg, struct io_place *place)
{
    bool linear = *(const bool *)arg, in_block = model->units[param->unit].kind == MODEL_UNIT_BLOCK;
    const char *name = bare_name(param->name);
    memcpy(place->name, name, strlen(name) + 1);
    place->shown = param->name;
    place->layout = linear && in_block && param->rank == 2 ? IO_TRANSPOSED : IO_PLAIN;
}

static bg_status look_for_tokenizer(void *arg, const char *name, struct bg_error *err)
{
    (void)err;
    bool *found = arg;
    *found = *found || !strcmp(name, "tokenizer.json") || !strcmp(name, "vocab.json") || ends_with(name, ".tiktoken");
    return BG_OK;
}

static bg_status find_tokenizer(struct bg_env *env, const char *directory, struct bg_error *err, bool *found)
{
    *found = false;
    return env->ops->list_directory(env, directory, look_for_tokenizer, found, err);
}

static bg_status check_file(struct bg_env *env, const char *directory, const char *name, const char *sha256,
                            struct bg_error *err)
{
    char *path = bg_format("%s/%s", directory, name);
    struct bg_map map;
    bg_status status = env->ops->map_open(env, path, err, &map);
    if (!status) {
        char found[65];
        bg_sha256_hex(map.data, map.size, found);
        env->ops->map_close(env, &map);
        if (strcmp(found, sha256))
            status =
                bg_fail(err, BG_CORRUPT,
                        "%s: its SHA-256 is not the one in the checkpoint's manifest.json: the file was damaged or "
                        "changed (take another checkpoint; if the change is yours, remove manifest.json)",
                        path);
    }
    bg_free(path);
    return status;
}

// Only the files that are read here; the optimizer's are the resuming trainer's business.
static bg_status check_manifest(struct bg_env *env, const char *directory, struct bg_error *err, bool *guarded)
{
    static const char *const read_here[] = {"config.json", "model.safetensors", "tokenizer.json"};
    char *path = bg_format("%s/manifest.json", directory);
    struct bg_file_info info;
    json_t *root = NULL, *files = NULL;
    const char *format = NULL;
    bg_status status = env->ops->path_info(env, path, err, &info);
    if (!status && info.exists)
        status = bg_json_load(env, path, err, &root);
    if (root)
        format = json_string_value(json_object_get(root, "format"));
    if (!status && format && !strncmp(format, "brigade-checkpoint/", 19))
        status = bg_json_object(root, path, "files", err, &files);
    for (size_t i = 0; i < sizeof read_here / sizeof *read_here && files && !status; i++) {
        const char *sha256 = NULL;
        json_t *file = json_object_get(files, read_here[i]);
        if (file)
            status = bg_json_string(file, path, "sha256", err, &sha256);
        if (!status && file)
            status = check_file(env, directory, read_here[i], sha256, err);
    }
    *guarded = files != NULL;
    json_decref(root);
    bg_free(path);
    return status;
}
