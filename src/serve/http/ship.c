// /kv: the keys and values of one request as bytes, from one server to another. What is asked for is the request as it
// would be resumed: its prompt and the tokens drawn so far.
#include "serve/http/http_int.h"

#include "base/mem.h"

#include <string.h>

struct ship_work {
    int32_t *tokens;
    void *bytes;
    size_t size;
    uint32_t count; // of tokens; then of those that were restored
    bg_status status;
    struct bg_error err;
};

static void save(struct exchange *x)
{
    struct ship_work *w = x->work_of;
    uint32_t saved;
    w->status = engine_save(x->http->engine, w->tokens, w->count, &w->err, &w->bytes, &w->size, &saved);
}

static void restore(struct exchange *x)
{
    struct ship_work *w = x->work_of;
    w->status = engine_restore(x->http->engine, bg_str_text(&x->body), x->body.size, &w->err, &w->count);
}

static enum MHD_Result answer(struct exchange *x)
{
    const struct ship_work *w = x->work_of;
    struct openai_error error;
    if (w->status) {
        openai_refuse(&error, w->status == BG_STOPPED ? 503 : 400, "invalid_request_error", "", "%.900s", w->err.text);
        return exchange_refuse(x, &error);
    }
    if (w->bytes)
        return exchange_send(x, 200, "application/octet-stream", w->bytes, w->size);
    return exchange_send_json(x, 200, json_pack("{s:I}", "n_restored", (json_int_t)w->count));
}

static void forget(struct exchange *x)
{
    struct ship_work *w = x->work_of;
    bg_free(w->tokens);
    bg_free(w->bytes);
    bg_free(w);
}

static const struct exchange_work kind = {worker_chore_ended, answer, worker_abandon, forget};

enum MHD_Result ship_save(struct exchange *x, struct engine *engine)
{
    const struct http_model *m = &x->http->model;
    struct openai_error error;
    struct token_list prompt = {0};
    (void)engine;
    json_t *body = route_body(x, &error);
    if (!body)
        return exchange_refuse(x, &error);
    const enum openai_kind asked = json_object_get(body, "messages") ? OPENAI_CHAT : OPENAI_COMPLETION;
    json_decref(body);
    if (!openai_parse(asked, bg_str_text(&x->body), x->body.size, m->config->vocab, m->context, &error, &x->ask))
        return exchange_refuse(x, &error);
    x->asking = true;
    if ((x->ask.ids ? json_array_size(x->ask.ids) : x->ask.texts.count) > 1) {
        openai_refuse(&error, 400, "invalid_request_error", "prompt", "prompt: one at a time");
        return exchange_refuse(x, &error);
    }
    if (!ask_prompt(x, 0, &prompt, &error)) {
        token_list_fini(&prompt);
        return exchange_refuse(x, &error);
    }
    struct ship_work *w = bg_alloc(sizeof *w);
    const uint32_t drawn = x->ask.request.drawn_count;
    *w = (struct ship_work){.count = (uint32_t)prompt.count + drawn};
    w->tokens = bg_alloc_array(w->count + 1u, sizeof *w->tokens);
    if (prompt.count)
        memcpy(w->tokens, prompt.ids, prompt.count * sizeof *w->tokens);
    if (drawn)
        memcpy(w->tokens + prompt.count, x->ask.drawn, drawn * sizeof *w->tokens);
    token_list_fini(&prompt);
    return exchange_chore(x, save, &kind, w);
}

enum MHD_Result ship_restore(struct exchange *x, struct engine *engine)
{
    struct ship_work *w = bg_alloc(sizeof *w);
    (void)engine;
    *w = (struct ship_work){0};
    return exchange_chore(x, restore, &kind, w);
}
