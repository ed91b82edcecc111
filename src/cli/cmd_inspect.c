// `brigade inspect`: what a file or directory holds: a model (configuration, tensors, tokenizer), a checkpoint's
// manifest, a safetensors file, a GGUF (metadata and tensors) or a tokenizer. Reads headers; loads no weights.
#include "cli/cli.h"

#include "base/json.h"
#include "base/mem.h"
#include "model/io.h"
#include "tensor/gguf.h"
#include "tensor/safetensors.h"

#include <math.h>
#include <string.h>

static bool ends_with(const char *text, const char *end)
{
    size_t a = strlen(text), b = strlen(end);
    return a >= b && !strcmp(text + a - b, end);
}

static json_t *tensor_json(const struct tensor_view *t)
{
    json_t *shape = json_array();
    for (unsigned i = 0; i < t->rank; i++)
        json_array_append_new(shape, json_integer((json_int_t)t->shape[i]));
    return json_pack("{s:s, s:s, s:o, s:I}", "name", t->name, "dtype", tensor_dtype_name(t->dtype), "shape", shape,
                     "bytes", (json_int_t)t->bytes);
}

static json_t *config_json(const struct model_config *c)
{
    return json_pack("{s:s, s:i, s:i, s:i, s:i, s:i, s:i, s:i, s:i, s:b, s:f, s:f}", "family",
                     model_family_name(c->family), "layers", (int)c->layers, "dim", (int)c->dim, "heads", (int)c->heads,
                     "kv_heads", (int)c->kv_heads, "head_dim", (int)c->head_dim, "ffn", (int)c->ffn, "context",
                     (int)c->context, "vocab", (int)c->vocab, "tie", c->tie, "rope_theta", c->rope_theta, "norm_eps",
                     c->norm_eps);
}

static json_t *tokenizer_json(const struct tokenizer *t)
{
    char hex[65];
    tokenizer_sha256(t, hex);
    return json_pack("{s:s, s:i, s:i, s:i, s:i, s:s}", "kind", tokenizer_kind(t), "size", (int)tokenizer_size(t), "bos",
                     (int)tokenizer_bos(t), "eos", (int)tokenizer_eos(t), "merges", (int)tokenizer_merge_count(t),
                     "sha256", hex);
}

static json_t *gguf_value_json(const struct gguf_value *v)
{
    switch (v->type) {
    case GGUF_STRING: {
        json_t *text = json_stringn(v->s.data, v->s.size < 4096 ? v->s.size : 4096);
        return text ? text : json_string("(not UTF-8)");
    }
    case GGUF_ARRAY: {
        char *text = bg_format("array of %llu", (unsigned long long)v->count);
        json_t *o = json_string(text);
        bg_free(text);
        return o;
    }
    case GGUF_BOOL:
        return json_boolean(v->b);
    case GGUF_F32:
    case GGUF_F64:
        return isfinite(v->f) ? json_real(v->f) : json_string("not finite");
    case GGUF_I8:
    case GGUF_I16:
    case GGUF_I32:
    case GGUF_I64:
        return json_integer((json_int_t)v->i);
    default:
        return json_integer((json_int_t)v->u);
    }
}

static bg_status inspect_gguf(struct cli *cli, const char *path, struct bg_error *err, json_t *out)
{
    struct gguf *file;
    bg_status status = gguf_open(cli->env, path, err, &file);
    if (status)
        return status;
    json_t *metadata = json_object(), *tensors = json_array();
    for (size_t i = 0; i < gguf_key_count(file); i++)
        json_object_set_new(metadata, gguf_key_at(file, i), gguf_value_json(gguf_value_at(file, i)));
    for (size_t i = 0; i < gguf_tensor_count(file); i++)
        json_array_append_new(tensors, tensor_json(gguf_tensor_at(file, i)));
    json_object_set_new(out, "format", json_string("gguf"));
    json_object_set_new(out, "metadata", metadata);
    json_object_set_new(out, "tensors", tensors);
    gguf_close(file);
    return BG_OK;
}

static bg_status inspect_safetensors(struct cli *cli, const char *path, struct bg_error *err, json_t *out)
{
    struct safetensors *file;
    bg_status status = safetensors_open(cli->env, path, err, &file);
    if (status)
        return status;
    json_t *tensors = json_array();
    for (size_t i = 0; i < safetensors_count(file); i++)
        json_array_append_new(tensors, tensor_json(safetensors_at(file, i)));
    json_object_set_new(out, "format", json_string("safetensors"));
    json_object_set_new(out, "tensors", tensors);
    safetensors_close(file);
    return BG_OK;
}

static bg_status inspect_tokenizer(struct cli *cli, const char *path, struct bg_error *err, json_t *out)
{
    struct tokenizer *tokenizer;
    bg_status status = tokenizer_open(cli->env, path, err, &tokenizer);
    if (status)
        return status;
    json_object_set_new(out, "tokenizer", tokenizer_json(tokenizer));
    tokenizer_destroy(tokenizer);
    return BG_OK;
}

static bool exists(struct cli *cli, const char *directory, const char *name)
{
    char *path = bg_format("%s/%s", directory, name);
    struct bg_file_info info = {0};
    struct bg_error err;
    bool yes = !cli->env->ops->path_info(cli->env, path, &err, &info) && info.exists;
    bg_free(path);
    return yes;
}

static bg_status add_manifest(struct cli *cli, const char *directory, struct bg_error *err, json_t *out)
{
    json_t *manifest;
    char *path = bg_format("%s/manifest.json", directory);
    bg_status status = bg_json_load(cli->env, path, err, &manifest);
    if (!status) {
        json_object_del(manifest, "signature"); // long; `brigade verify` checks it
        json_object_set_new(out, "checkpoint", manifest);
    }
    bg_free(path);
    return status;
}

static bg_status inspect_directory(struct cli *cli, const char *path, struct bg_error *err, json_t *out)
{
    char *directory;
    struct model_config config;
    bg_status status = model_resolve(cli->env, path, err, &directory);
    if (status)
        return status;
    char *file = bg_format("%s/config.json", directory);
    json_object_set_new(out, "directory", json_string(directory));
    status = model_config_load(cli->env, file, err, &config);
    if (!status)
        json_object_set_new(out, "config", config_json(&config));
    if (!status && exists(cli, directory, "manifest.json"))
        status = add_manifest(cli, directory, err, out);
    if (!status && exists(cli, directory, "tokenizer.json"))
        status = inspect_tokenizer(cli, directory, err, out);
    if (!status)
        status = inspect_safetensors(cli, directory, err, out);
    bg_free(file);
    bg_free(directory);
    return status;
}

static bg_status inspect_path(struct cli *cli, const char *path, struct bg_error *err, json_t *out)
{
    struct bg_file_info info = {0};
    bg_status status = cli->env->ops->path_info(cli->env, path, err, &info);
    if (status)
        return status;
    if (!info.exists)
        return bg_fail(err, BG_NOT_FOUND, "%s: no such file or directory", path);
    if (info.is_directory)
        return inspect_directory(cli, path, err, out);
    if (ends_with(path, ".gguf"))
        return inspect_gguf(cli, path, err, out);
    if (ends_with(path, ".safetensors") || ends_with(path, ".index.json"))
        return inspect_safetensors(cli, path, err, out);
    return inspect_tokenizer(cli, path, err, out);
}

static void print_object(const char *title, const json_t *object)
{
    const char *key;
    json_t *value;
    if (!object)
        return;
    printf("%s\n", title);
    json_object_foreach((json_t *)object, key, value)
    {
        char *text = bg_json_text(value, JSON_COMPACT | JSON_ENCODE_ANY | JSON_REAL_PRECISION(9));
        printf("  %-34s %.200s\n", key, json_is_string(value) ? json_string_value(value) : text);
        bg_free(text);
    }
}

static void print_tensors(const json_t *tensors)
{
    size_t index;
    json_t *tensor;
    uint64_t elements = 0, bytes = 0;
    printf("tensors\n");
    json_array_foreach((json_t *)tensors, index, tensor)
    {
        char *shape = bg_json_text(json_object_get(tensor, "shape"), JSON_COMPACT);
        printf("  %-56s %-5s %s\n", json_string_value(json_object_get(tensor, "name")),
               json_string_value(json_object_get(tensor, "dtype")), shape);
        uint64_t count = 1;
        size_t axis;
        json_t *size;
        json_array_foreach(json_object_get(tensor, "shape"), axis, size) count *= (uint64_t)json_integer_value(size);
        elements += count;
        bytes += (uint64_t)json_integer_value(json_object_get(tensor, "bytes"));
        bg_free(shape);
    }
    printf("  %zu tensors, %llu elements, %llu bytes\n", json_array_size(tensors), (unsigned long long)elements,
           (unsigned long long)bytes);
}

static void print_report(const struct cli *cli, const json_t *out)
{
    if (cli->json) {
        json_dumpf(out, stdout, JSON_COMPACT);
        printf("\n");
        return;
    }
    const json_t *directory = json_object_get(out, "directory");
    if (directory)
        printf("directory  %s\n", json_string_value(directory));
    print_object("config", json_object_get(out, "config"));
    print_object("checkpoint", json_object_get(out, "checkpoint"));
    print_object("tokenizer", json_object_get(out, "tokenizer"));
    print_object("metadata", json_object_get(out, "metadata"));
    if (json_object_get(out, "tensors"))
        print_tensors(json_object_get(out, "tensors"));
}

int cmd_inspect(struct cli *cli, int argc, char **argv)
{
    const struct cli_usage usage = {
        "inspect PATH",
        "What PATH holds: a run, checkpoint or model directory, .safetensors, .gguf, or a tokenizer.",
        NULL,
        0,
        1,
        1,
        true};
    struct bg_strlist words = {0};
    int code = cli_parse(cli, &usage, argc, argv, &words);
    if (code < 0)
        code = cli_env(cli, 1);
    else
        goto undo_words;
    if (!code) {
        struct bg_error err = {0};
        json_t *out = json_object();
        if (inspect_path(cli, words.items[0], &err, out))
            code = cli_fail(&err);
        else
            print_report(cli, out);
        json_decref(out);
    }
undo_words:
    bg_strlist_fini(&words);
    return code;
}
