// The chat template that a model brings with it: in a directory chat_template.jinja or a member of
// tokenizer_config.json, in a GGUF file a key. Text only; what it means is the server's business.
#include "model/io.h"

#include "base/json.h"
#include "base/mem.h"
#include "tensor/gguf.h"

#include <string.h>

enum { TEMPLATE_MAX = 1 << 20 };

// *text NULL: no such file.
static bg_status read_text(struct bg_env *env, const char *path, struct bg_error *err, char **text)
{
    struct bg_file_info info = {0};
    struct bg_map map;
    *text = NULL;
    bg_status status = env->ops->path_info(env, path, err, &info);
    if (status || !info.exists)
        return status;
    if (info.size > TEMPLATE_MAX)
        return bg_fail(err, BG_INVALID, "%s: %llu bytes; a chat template has at most %d", path,
                       (unsigned long long)info.size, TEMPLATE_MAX);
    status = env->ops->map_open(env, path, err, &map);
    if (status)
        return status;
    *text = bg_strndup((const char *)map.data, map.size);
    env->ops->map_close(env, &map);
    return BG_OK;
}

// A string, or several with names.
static bg_status from_config(struct bg_env *env, const char *path, struct bg_error *err, char **text)
{
    struct bg_file_info info = {0};
    json_t *root = NULL, *entry;
    size_t i;
    bg_status status = env->ops->path_info(env, path, err, &info);
    if (status || !info.exists)
        return status;
    status = bg_json_load(env, path, err, &root);
    if (status)
        return status;
    const json_t *found = json_object_get(root, "chat_template");
    json_array_foreach(found, i, entry)
    {
        const char *name = json_string_value(json_object_get(entry, "name"));
        if (name && !strcmp(name, "default"))
            found = json_object_get(entry, "template");
        if (!json_is_array(found))
            break;
    }
    if (json_is_string(found))
        *text = bg_strndup(json_string_value(found), json_string_length(found));
    else if (found && !json_is_null(found))
        status = bg_fail(err, BG_FORMAT, "%s: chat_template: expected a string, or a list with one called \"default\"",
                         path);
    json_decref(root);
    return status;
}

static bg_status from_gguf(struct bg_env *env, const char *path, struct bg_error *err, char **text)
{
    struct gguf *file = NULL;
    bg_status status = gguf_open(env, path, err, &file);
    if (status)
        return status;
    const struct gguf_value *value = gguf_find(file, "tokenizer.chat_template");
    if (value && value->type == GGUF_STRING && value->s.size <= TEMPLATE_MAX)
        *text = bg_strndup(value->s.data, value->s.size);
    else if (value)
        status = bg_fail(err, BG_FORMAT, "%s: key tokenizer.chat_template: expected a string of at most %d bytes", path,
                         TEMPLATE_MAX);
    gguf_close(file);
    return status;
}

bg_status model_chat_template(struct bg_env *env, const char *path, struct bg_error *err, char **text)
{
    struct bg_file_info info = {0};
    bg_status status = env->ops->path_info(env, path, err, &info);
    *text = NULL;
    if (status)
        return status;
    if (!info.is_directory)
        return from_gguf(env, path, err, text);
    char *jinja = bg_format("%s/chat_template.jinja", path), *config = bg_format("%s/tokenizer_config.json", path);
    status = read_text(env, jinja, err, text);
    if (!status && !*text)
        status = from_config(env, config, err, text);
    bg_free(jinja);
    bg_free(config);
    return status;
}
