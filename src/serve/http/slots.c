// /slots: what runs where; a slot's last keys and values kept in a file, brought back, or dropped.
#include "serve/http/http_int.h"

#include "base/mem.h"

#include <stdlib.h>
#include <string.h>

enum { LISTED_MAX = 1024 };
static const char invalid[] = "invalid_request_error";

enum MHD_Result slots_list(struct exchange *x, struct engine *engine)
{
    struct engine_stats stats;
    struct engine_slot *list = bg_alloc_array(LISTED_MAX, sizeof *list);
    json_t *all = json_array();
    engine_get_stats(engine, &stats, list, LISTED_MAX);
    for (size_t i = 0; i < LISTED_MAX && i < stats.slots; i++)
        json_array_append_new(all,
                              json_pack("{s:I, s:b, s:I, s:I, s:I, s:I}", "id", (json_int_t)i, "is_processing",
                                        list[i].request != 0, "n_ctx", (json_int_t)x->http->model.context,
                                        "prompt_tokens", (json_int_t)list[i].prompt_tokens, "drawn_tokens",
                                        (json_int_t)list[i].drawn_tokens, "position", (json_int_t)list[i].position));
    bg_free(list);
    return exchange_send_json(x, 200, all);
}

// A name in the one directory: no way out of it, and no hidden file.
static bool name_fits(const char *name)
{
    static const char good[] = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789._-";
    return name && *name && *name != '.' && strlen(name) <= 128 && strspn(name, good) == strlen(name);
}

static bg_status write_file(struct bg_env *env, const char *path, const void *bytes, size_t size, struct bg_error *err)
{
    char *draft = bg_format("%s.part", path);
    struct bg_file *file;
    struct bg_error other;
    bg_status status = env->ops->file_open(env, draft, BG_FILE_TRUNCATE, err, &file);
    if (!status) {
        status = env->ops->file_write(env, file, bytes, size, err);
        bg_status closed = env->ops->file_close(env, file, status ? &other : err);
        status = status ? status : closed;
    }
    if (!status)
        status = env->ops->path_rename(env, draft, path, err);
    if (status && env->ops->path_remove(env, draft, &other))
        bg_fail_prefix(err, "%s stays", draft);
    bg_free(draft);
    return status;
}

static bg_status save(struct bg_env *env, struct engine *engine, uint32_t slot, const char *path, struct bg_error *err,
                      uint32_t *count, size_t *size)
{
    int32_t *tokens;
    uint32_t token_count;
    void *bytes = NULL;
    if (!engine_slot_tokens(engine, slot, &tokens, &token_count))
        return bg_fail(err, BG_INVALID, "slot %u has computed nothing yet", slot);
    bg_status status = engine_save(engine, tokens, token_count, err, &bytes, size, count);
    if (!status)
        status = write_file(env, path, bytes, *size, err);
    bg_free(bytes);
    bg_free(tokens);
    return status;
}

static bg_status restore(struct bg_env *env, struct engine *engine, const char *path, struct bg_error *err,
                         uint32_t *count, size_t *size)
{
    struct bg_map map;
    bg_status status = env->ops->map_open(env, path, err, &map);
    if (status)
        return status;
    *size = map.size;
    status = engine_restore(engine, map.data, map.size, err, count);
    env->ops->map_close(env, &map);
    return status;
}

static bg_status forget(struct engine *engine, uint32_t slot, struct bg_error *err, uint32_t *count)
{
    int32_t *tokens;
    uint32_t token_count;
    *count = 0;
    if (!engine_slot_tokens(engine, slot, &tokens, &token_count))
        return BG_OK;
    bg_status status = engine_forget(engine, tokens, token_count, err, count);
    bg_free(tokens);
    return status;
}

struct slot_work {
    uint32_t slot;
    enum { SAVE, RESTORE, ERASE } action;
    char *name; // NULL: none
    uint32_t count;
    size_t size;
    double ms;
    struct openai_error error; // http 0: none
};

static void refuse(struct slot_work *w, bg_status status, const struct bg_error *err)
{
    const bool here = status != BG_IO && status != BG_STOPPED;
    const int http = status == BG_NOT_FOUND ? 404 : here ? 400 : status == BG_STOPPED ? 503 : 500;
    openai_refuse(&w->error, http, here ? invalid : "server_error", "filename", "%.900s", err->text);
}

static bool read_name(struct exchange *x, struct slot_work *w)
{
    json_t *body = route_body(x, &w->error);
    if (!body)
        return false;
    const char *name = json_string_value(json_object_get(body, "filename"));
    const bool good =
        name_fits(name) ||
        openai_refuse(
            &w->error, 400, invalid, "filename",
            "filename: expected at most 128 letters, digits, dots, dashes and underscores, without a dot first");
    w->name = good ? bg_strdup(name) : NULL;
    json_decref(body);
    return good;
}

static void act(struct exchange *x)
{
    struct bg_env *env = x->http->env;
    struct engine *engine = x->http->engine;
    struct slot_work *w = x->work_of;
    struct bg_error err;
    if (w->action != ERASE && !read_name(x, w))
        return;
    const uint64_t begin = env_now_ns(env);
    char *path = bg_format("%s/%s", x->http->o.slot_save_path, w->name ? w->name : "");
    bg_status status = w->action == SAVE      ? save(env, engine, w->slot, path, &err, &w->count, &w->size)
                       : w->action == RESTORE ? restore(env, engine, path, &err, &w->count, &w->size)
                                              : forget(engine, w->slot, &err, &w->count);
    if (status)
        refuse(w, status, &err);
    w->ms = (double)(env_now_ns(env) - begin) * 1e-6;
    bg_free(path);
}

static enum MHD_Result answer(struct exchange *x)
{
    static const char *const counts[] = {"n_saved", "n_restored", "n_erased"}, *const sizes[] = {"n_written", "n_read"},
                             *const times[] = {"save_ms", "restore_ms"};
    struct slot_work *w = x->work_of;
    if (w->error.http)
        return exchange_refuse(x, &w->error);
    json_t *o = json_pack("{s:I, s:I}", "id_slot", (json_int_t)w->slot, counts[w->action], (json_int_t)w->count);
    if (w->action != ERASE) {
        json_object_set_new(o, "filename", json_string(w->name));
        json_object_set_new(o, sizes[w->action], json_integer((json_int_t)w->size));
        json_object_set_new(o, "timings", json_pack("{s:f}", times[w->action], w->ms));
    }
    return exchange_send_json(x, 200, o);
}

static void forget_work(struct exchange *x)
{
    struct slot_work *w = x->work_of;
    bg_free(w->name);
    bg_free(w);
}

enum MHD_Result slots_act(struct exchange *x, struct engine *engine)
{
    static const struct exchange_work kind = {worker_chore_ended, answer, worker_finish, forget_work};
    struct openai_error error;
    struct engine_stats stats;
    char *end;
    const unsigned long slot = strtoul(x->rest, &end, 10);
    const char *action = MHD_lookup_connection_value(x->wait.connection, MHD_GET_ARGUMENT_KIND, "action");
    engine_get_stats(engine, &stats, NULL, 0);
    if (!x->http->o.slot_save_path) {
        openai_refuse(&error, 501, "not_supported_error", "", "this server was started without --slot-save-path");
        return exchange_refuse(x, &error);
    }
    if (*x->rest < '0' || *x->rest > '9' || *end || slot >= stats.slots) {
        openai_refuse(&error, 404, "not_found_error", "id", "there is no slot %.20s: there are %u", x->rest,
                      stats.slots);
        return exchange_refuse(x, &error);
    }
    static const char *const actions[] = {[SAVE] = "save", [RESTORE] = "restore", [ERASE] = "erase"};
    for (size_t i = 0; action && i < sizeof actions / sizeof *actions; i++) {
        if (strcmp(action, actions[i]) != 0)
            continue;
        struct slot_work *w = bg_alloc(sizeof *w);
        *w = (struct slot_work){.slot = (uint32_t)slot, .action = i};
        return exchange_begin(x, WORKER_WAITS, act, &kind, w);
    }
    openai_refuse(&error, 400, invalid, "action", "action: expected save, restore or erase");
    return exchange_refuse(x, &error);
}
