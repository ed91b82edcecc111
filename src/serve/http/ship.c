// /kv: the keys and values of one request as bytes, from one server to another. What is asked for is the request as it
// would be resumed: its prompt and the tokens drawn so far.
#include "serve/http/http_int.h"

#include "base/mem.h"

#include <string.h>

static enum MHD_Result refuse(struct exchange *x, const struct bg_error *err)
{
    struct openai_error error;
    openai_refuse(&error, err->status == BG_STOPPED ? 503 : 400, "invalid_request_error", "", "%.900s", err->text);
    return exchange_refuse(x, &error);
}

enum MHD_Result ship_save(struct exchange *x, struct engine *engine)
{
    const struct http_model *m = &x->http->model;
    struct openai_error error;
    struct token_list prompt = {0};
    json_t *body = route_body(x, &error);
    if (!body)
        return exchange_refuse(x, &error);
    const enum openai_kind kind = json_object_get(body, "messages") ? OPENAI_CHAT : OPENAI_COMPLETION;
    json_decref(body);
    if (!openai_parse(kind, bg_str_text(&x->body), x->body.size, m->config->vocab, m->context, &error, &x->ask))
        return exchange_refuse(x, &error);
    x->asking = true;
    x->complete = true;
    if (!ask_prompt(x, 0, &prompt, &error)) {
        token_list_fini(&prompt);
        return exchange_refuse(x, &error);
    }
    const uint32_t drawn = x->ask.request.drawn_count, count = (uint32_t)prompt.count + drawn;
    int32_t *tokens = bg_alloc_array(count + 1u, sizeof *tokens);
    if (prompt.count)
        memcpy(tokens, prompt.ids, prompt.count * sizeof *tokens);
    if (drawn)
        memcpy(tokens + prompt.count, x->ask.drawn, drawn * sizeof *tokens);
    token_list_fini(&prompt);
    struct bg_error err;
    void *bytes = NULL;
    size_t size;
    uint32_t saved;
    bg_status status = engine_save(engine, tokens, count, &err, &bytes, &size, &saved);
    bg_free(tokens);
    if (status)
        return refuse(x, &err);
    enum MHD_Result result = exchange_send(x, 200, "application/octet-stream", bytes, size);
    bg_free(bytes);
    return result;
}

enum MHD_Result ship_restore(struct exchange *x, struct engine *engine)
{
    struct bg_error err;
    uint32_t count;
    if (engine_restore(engine, bg_str_text(&x->body), x->body.size, &err, &count))
        return refuse(x, &err);
    return exchange_send_json(x, 200, json_pack("{s:I}", "n_restored", (json_int_t)count));
}
