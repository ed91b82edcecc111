// /kv: the keys and values of one request as bytes, from one server to another. What is asked for is the request as it
// would be resumed: its prompt and the tokens drawn so far.
#include "serve/http/http_int.h"

#include "base/mem.h"

#include <string.h>

struct ship_work {
    int32_t *tokens;
    void *bytes;
    size_t size;
    uint32_t count;            // of tokens; then of those that were restored
    struct openai_error error; // http 0: none
};
static const char invalid[] = "invalid_request_error";

static bool read_tokens(struct exchange *x, struct ship_work *w)
{
    const struct http_model *m = &x->http->model;
    struct token_list prompt = {0};
    json_t *body = route_body(x, &w->error);
    if (!body)
        return false;
    const enum openai_kind asked = json_object_get(body, "messages") ? OPENAI_CHAT : OPENAI_COMPLETION;
    json_decref(body);
    if (!openai_parse(asked, bg_str_text(&x->body), x->body.size, m->config->vocab, m->context, &w->error, &x->ask))
        return false;
    x->asking = true;
    if ((x->ask.ids ? json_array_size(x->ask.ids) : x->ask.texts.count) > 1)
        return openai_refuse(&w->error, 400, invalid, "prompt", "prompt: one at a time");
    const bool good = ask_prompt(x, 0, &prompt, &w->error);
    const uint32_t drawn = x->ask.request.drawn_count;
    w->count = (uint32_t)prompt.count + drawn;
    w->tokens = bg_alloc_array(w->count + 1u, sizeof *w->tokens);
    if (prompt.count)
        memcpy(w->tokens, prompt.ids, prompt.count * sizeof *w->tokens);
    if (drawn)
        memcpy(w->tokens + prompt.count, x->ask.drawn, drawn * sizeof *w->tokens);
    token_list_fini(&prompt);
    return good;
}

static void refuse(struct ship_work *w, bg_status status, const struct bg_error *err)
{
    const bool stopped = status == BG_STOPPED;
    openai_refuse(&w->error, stopped ? 503 : 400, stopped ? "unavailable_error" : invalid, "", "%.900s", err->text);
}

static void save(struct exchange *x)
{
    struct ship_work *w = x->work_of;
    struct bg_error err;
    uint32_t saved;
    const bool good = read_tokens(x, w);
    if (x->asking)
        openai_ask_release(&x->ask);
    bg_status status =
        good ? engine_save(x->http->engine, w->tokens, w->count, &err, &w->bytes, &w->size, &saved) : BG_OK;
    if (status)
        refuse(w, status, &err);
}

static void restore(struct exchange *x)
{
    struct ship_work *w = x->work_of;
    struct bg_error err;
    bg_status status = engine_restore(x->http->engine, bg_str_text(&x->body), x->body.size, &err, &w->count);
    if (status)
        refuse(w, status, &err);
}

static enum MHD_Result answer(struct exchange *x)
{
    struct ship_work *w = x->work_of;
    if (w->error.http)
        return exchange_refuse(x, &w->error);
    if (w->bytes) {
        void *bytes = w->bytes;
        w->bytes = NULL;
        return exchange_give(x, "application/octet-stream", bytes, w->size);
    }
    return exchange_send_json(x, 200, json_pack("{s:I}", "n_restored", (json_int_t)w->count));
}

static void forget(struct exchange *x)
{
    struct ship_work *w = x->work_of;
    bg_free(w->tokens);
    bg_free(w->bytes);
    json_decref(w->error.more);
    bg_free(w);
}

static enum MHD_Result begin(struct exchange *x, void (*chore)(struct exchange *x))
{
    static const struct exchange_work kind = {worker_chore_ended, answer, worker_finish, forget};
    struct ship_work *w = bg_alloc(sizeof *w);
    *w = (struct ship_work){0};
    return exchange_begin(x, WORKER_WAITS, chore, &kind, w);
}

enum MHD_Result ship_save(struct exchange *x, struct engine *engine)
{
    (void)engine;
    return begin(x, save);
}

enum MHD_Result ship_restore(struct exchange *x, struct engine *engine)
{
    (void)engine;
    return begin(x, restore);
}
