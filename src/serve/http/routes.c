// What each path does. Text requests become requests of the engine; everything else is answered at once.
#include "serve/http/http_int.h"

#include "base/mem.h"
#include "model/generate.h"
#include "serve/grammar.h"

#include <stdio.h>
#include <string.h>

static const char invalid[] = "invalid_request_error";

static struct engine *engine_of(struct http *http, bool *draining)
{
    http->env->ops->gate_enter(http->env, http->gate);
    struct engine *engine = http->engine;
    *draining = http->draining;
    http->env->ops->gate_leave(http->env, http->gate);
    return engine;
}

// ---- Prompts ----

// The text of a chat, as its template has it.
static bool render(struct exchange *x, json_t *messages, json_t *extra, char **text, size_t *size,
                   struct openai_error *error)
{
    const struct http_model *m = &x->http->model;
    struct bg_error err;
    const char *bytes;
    size_t length;
    float score;
    enum token_kind kind;
    if (!m->chat)
        return openai_refuse(error, 400, invalid, "messages", "this model has no chat template: use /v1/completions");
    json_t *values = json_pack("{s:O, s:b}", "messages", messages, "add_generation_prompt", 1);
    const int32_t ids[2] = {tokenizer_bos(m->tokenizer), tokenizer_eos(m->tokenizer)};
    static const char *const names[2] = {"bos_token", "eos_token"};
    for (size_t i = 0; i < 2; i++) {
        bytes = "";
        length = 0;
        if (ids[i] >= 0)
            tokenizer_piece(m->tokenizer, ids[i], &bytes, &length, &score, &kind);
        json_object_set_new(values, names[i], openai_text(bytes, length));
    }
    if (json_is_object(extra))
        json_object_update_missing(values, extra);
    bg_status status = chat_template_render(m->chat, values, &err, text, size);
    json_decref(values);
    return !status ||
           openai_refuse(error, 400, invalid, "messages", "the chat template refuses this: %.900s", err.text);
}

// Ids of a chat's text: its template writes the beginning token itself, or the tokenizer adds it: never both.
static bool encode_chat(struct exchange *x, const char *text, size_t size, struct token_list *tokens,
                        struct openai_error *error)
{
    const struct tokenizer *t = x->http->model.tokenizer;
    struct bg_error err;
    struct token_list body = {0};
    const int32_t bos = tokenizer_bos(t);
    if (tokenizer_encode(t, text, size, true, &err, &body)) {
        token_list_fini(&body);
        return openai_refuse(error, 400, invalid, "messages", "%.900s", err.text);
    }
    const bool add = tokenizer_adds_bos(t) && bos >= 0 && !(body.count > 0 && body.ids[0] == bos);
    tokens->count = body.count + add;
    tokens->capacity = tokens->count + 1;
    tokens->ids = bg_alloc_array(tokens->capacity, sizeof *tokens->ids);
    if (add)
        tokens->ids[0] = bos;
    if (body.count)
        memcpy(tokens->ids + add, body.ids, body.count * sizeof *body.ids);
    token_list_fini(&body);
    return true;
}

// The p-th prompt of what was asked.
static bool prompt_of(struct exchange *x, size_t p, struct token_list *tokens, struct openai_error *error)
{
    struct bg_error err;
    if (x->ask.kind == OPENAI_CHAT) {
        char *text;
        size_t size;
        if (!render(x, x->ask.messages, json_object_get(x->ask.body, "chat_template_kwargs"), &text, &size, error))
            return false;
        bool good = encode_chat(x, text, size, tokens, error);
        bg_free(text);
        return good;
    }
    if (x->ask.ids) {
        const json_t *list = json_array_get(x->ask.ids, p);
        tokens->count = json_array_size(list);
        tokens->capacity = tokens->count + 1;
        tokens->ids = bg_alloc_array(tokens->capacity, sizeof *tokens->ids);
        for (size_t i = 0; i < tokens->count; i++)
            tokens->ids[i] = (int32_t)json_integer_value(json_array_get(list, i));
        return true;
    }
    const char *text = x->ask.texts.items[p];
    if (generate_prompt(x->http->model.tokenizer, text, strlen(text), true, &err, tokens))
        return openai_refuse(error, 400, invalid, "prompt", "%.900s", err.text);
    return true;
}

// ---- Text ----
static bool refuse_submit(bg_status status, const struct bg_error *err, uint32_t prompt, uint32_t context, double retry,
                          struct openai_error *error)
{
    if (status == BG_FULL) {
        openai_refuse(error, 429, "rate_limit_error", "", "%s", err->text);
        error->more = json_pack("{s:f}", "retry_after", retry);
        return false;
    }
    if (status == BG_STOPPED)
        return openai_refuse(error, 503, "unavailable_error", "", "%s", err->text);
    if (prompt >= context) {
        openai_refuse(error, 400, "exceed_context_size_error", "prompt", "%s", err->text);
        error->more = json_pack("{s:I, s:I}", "n_prompt_tokens", (json_int_t)prompt, "n_ctx", (json_int_t)context);
        return false;
    }
    return openai_refuse(error, 400, invalid, "", "%s", err->text);
}

static bool compile_grammar(struct exchange *x, struct grammar **grammar, struct openai_error *error)
{
    const struct tokenizer *t = x->http->model.tokenizer;
    struct bg_error err;
    bg_status status = BG_OK;
    if (x->ask.grammar)
        status = grammar_compile_gbnf(x->ask.grammar, strlen(x->ask.grammar), t, &err, grammar);
    else if (x->ask.schema) {
        char *text = json_is_null(x->ask.schema) ? NULL : json_dumps(x->ask.schema, JSON_COMPACT | JSON_ENCODE_ANY);
        status = grammar_compile_schema(text, text ? strlen(text) : 0, t, &err, grammar);
        bg_free(text);
    }
    return !status ||
           openai_refuse(error, 400, invalid, x->ask.grammar ? "grammar" : "response_format", "%.900s", err.text);
}

static void cancel_all(struct exchange *x)
{
    for (uint32_t i = 0; i < x->choice_count && x->http->engine; i++)
        if (x->requests[i])
            engine_cancel(x->http->engine, x->requests[i]);
}

static bool submit_all(struct exchange *x, struct engine *engine, struct openai_error *error)
{
    struct http *http = x->http;
    const size_t prompts = x->ask.kind == OPENAI_CHAT ? 1
                           : x->ask.ids               ? json_array_size(x->ask.ids)
                                                      : x->ask.texts.count;
    struct grammar *grammar = NULL;
    bool good = compile_grammar(x, &grammar, error);
    x->choice_count = (uint32_t)prompts * x->ask.n;
    x->choices = bg_alloc_array(x->choice_count + 1u, sizeof *x->choices);
    x->requests = bg_alloc_array(x->choice_count + 1u, sizeof *x->requests);
    for (size_t p = 0; p < prompts && good; p++) {
        struct token_list tokens = {0};
        good = prompt_of(x, p, &tokens, error);
        for (uint32_t c = 0; c < x->ask.n && good; c++) {
            const uint32_t index = (uint32_t)p * x->ask.n + c;
            struct serve_request request = x->ask.request;
            struct bg_error err;
            double retry = 1;
            request.prompt = tokens.ids;
            request.prompt_count = (uint32_t)tokens.count;
            request.sampling.choice = index;
            request.grammar = grammar;
            request.user = x;
            x->choices[index].index = index;
            bg_status status = engine_submit(engine, &request, &err, &x->requests[index], &retry);
            good = !status || refuse_submit(status, &err, request.prompt_count, http->model.context, retry, error);
            x->running += !status;
        }
        token_list_fini(&tokens);
    }
    if (grammar)
        grammar_release(grammar);
    if (x->running > 0) {
        http->env->ops->gate_enter(http->env, http->gate);
        http->open++;
        http->env->ops->gate_leave(http->env, http->gate);
    }
    if (!good)
        cancel_all(x);
    return good;
}

static enum MHD_Result ask_text(struct exchange *x, struct engine *engine, enum openai_kind kind)
{
    struct http *http = x->http;
    struct openai_error error;
    struct bg_error err;
    if (!openai_parse(kind, bg_str_text(&x->body), x->body.size, http->model.config->vocab, http->model.context, &error,
                      &x->ask))
        return exchange_refuse(x, &error);
    x->asking = true;
    if (x->ask.model && strcmp(x->ask.model, http->model.name) != 0 && strcmp(x->ask.model, "default") != 0) {
        openai_refuse(&error, 404, "not_found_error", "model", "there is no model \"%.100s\" here: it is \"%s\"",
                      x->ask.model, http->model.name);
        return exchange_refuse(x, &error);
    }
    if (!x->ask.seed_given &&
        http->env->ops->entropy(http->env, &x->ask.request.sampling.seed, sizeof(uint64_t), &err)) {
        openai_refuse(&error, 500, "server_error", "", "%s", err.text);
        return exchange_refuse(x, &error);
    }
    if (!x->ask.seed_given) // as JSON's integers go
        x->ask.request.sampling.seed &= INT64_MAX;
    snprintf(x->id, sizeof x->id, "%s-%llx-%llx", kind == OPENAI_CHAT ? "chatcmpl" : "cmpl",
             (unsigned long long)http->env->ops->wall_ms(http->env), (unsigned long long)++http->next_id);
    x->reply = (struct openai_reply){&x->ask, http->model.tokenizer, x->id, http->model.name,
                                     http->env->ops->wall_ms(http->env) / 1000};
    if (!submit_all(x, engine, &error))
        return exchange_refuse(x, &error);
    if (x->ask.stream)
        return exchange_stream(x);
    exchange_suspend(x);
    return MHD_YES;
}

void route_event(struct exchange *x, const struct serve_event *event)
{
    uint32_t index = 0;
    while (index < x->choice_count && x->requests[index] != event->request)
        index++;
    if (index == x->choice_count)
        return;
    struct openai_choice *choice = &x->choices[index];
    if (x->ask.stream)
        openai_chunk(&x->reply, choice, event, &x->out);
    else
        openai_gather(&x->reply, choice, event);
    if (event->finish == SERVE_RUNNING)
        return;
    x->requests[index] = 0;
    if (--x->running > 0)
        return;
    x->complete = true;
    if (x->ask.stream) {
        if (x->ask.include_usage)
            openai_usage_chunk(&x->reply, x->choices, x->choice_count, &x->out);
        bg_str_add(&x->out, "data: [DONE]\n\n");
    }
}

void route_abandon(struct exchange *x)
{
    cancel_all(x);
}

// ---- Around text ----
static enum MHD_Result models(struct exchange *x)
{
    const struct http_model *m = &x->http->model;
    return exchange_send_json(x, 200,
                              json_pack("{s:s, s:[{s:s, s:s, s:I, s:s, s:{s:I, s:I, s:s}}]}", "object", "list", "data",
                                        "id", m->name, "object", "model", "created", (json_int_t)m->created, "owned_by",
                                        "brigade", "meta", "n_vocab", (json_int_t)m->config->vocab, "n_ctx",
                                        (json_int_t)m->context, "family", model_family_name(m->config->family)));
}

static enum MHD_Result health(struct exchange *x, struct engine *engine, bool draining)
{
    struct engine_stats stats;
    struct openai_error error;
    if (!engine) {
        openai_refuse(&error, 503, "unavailable_error", "", "Loading model");
        return exchange_refuse(x, &error);
    }
    if (draining) {
        openai_refuse(&error, 503, "unavailable_error", "", "this server is being drained");
        return exchange_refuse(x, &error);
    }
    engine_get_stats(engine, &stats, NULL, 0);
    const double idle = (double)(env_now_ns(x->http->env) - stats.last_step_ns) * 1e-9;
    if (stats.last_step_ns == 0 || idle > x->http->o.stalled_s) { // also an idle engine steps, ten times a second
        openai_refuse(&error, 503, "unavailable_error", "", "the engine has not stepped for %.1f s", idle);
        return exchange_refuse(x, &error);
    }
    return exchange_send_json(x, 200, json_pack("{s:s}", "status", "ok"));
}

static json_t *read_object(struct exchange *x, struct openai_error *error)
{
    json_error_t at;
    json_t *body = json_loadb(bg_str_text(&x->body), x->body.size, JSON_REJECT_DUPLICATES, &at);
    if (!json_is_object(body)) {
        json_decref(body);
        openai_refuse(error, 400, invalid, "", "the body is no JSON object%s%s", body ? "" : ": ", body ? "" : at.text);
        return NULL;
    }
    return body;
}

static enum MHD_Result tokenize(struct exchange *x)
{
    struct openai_error error;
    struct bg_error err;
    struct token_list tokens = {0};
    json_t *body = read_object(x, &error), *content = json_object_get(body, "content");
    if (!body)
        return exchange_refuse(x, &error);
    content = content ? content : json_object_get(body, "prompt");
    const struct tokenizer *t = x->http->model.tokenizer;
    const bool special = json_is_true(json_object_get(body, "add_special")),
               parse = !json_is_false(json_object_get(body, "parse_special"));
    bg_status status = BG_OK;
    if (!json_is_string(content))
        status = bg_fail(&err, BG_INVALID, "content: expected a string");
    else if (special)
        status = generate_prompt(t, json_string_value(content), json_string_length(content), parse, &err, &tokens);
    else
        status = tokenizer_encode(t, json_string_value(content), json_string_length(content), parse, &err, &tokens);
    json_decref(body);
    if (status) {
        token_list_fini(&tokens);
        openai_refuse(&error, 400, invalid, "content", "%.900s", err.text);
        return exchange_refuse(x, &error);
    }
    json_t *list = json_array();
    for (size_t i = 0; i < tokens.count; i++)
        json_array_append_new(list, json_integer(tokens.ids[i]));
    token_list_fini(&tokens);
    return exchange_send_json(x, 200, json_pack("{s:o}", "tokens", list));
}

static enum MHD_Result detokenize(struct exchange *x)
{
    struct openai_error error;
    json_t *body = read_object(x, &error), *ids = json_object_get(body, "tokens");
    struct bg_str text = {0};
    bool good = body != NULL;
    if (good && !json_is_array(ids))
        good = openai_refuse(&error, 400, invalid, "tokens", "tokens: expected a list of token ids");
    int32_t previous = -1;
    for (size_t i = 0; good && i < json_array_size(ids); i++) {
        const json_t *id = json_array_get(ids, i);
        const char *bytes;
        size_t size;
        if (!json_is_integer(id) || json_integer_value(id) < 0 ||
            json_integer_value(id) >= x->http->model.config->vocab) {
            good = openai_refuse(&error, 400, invalid, "tokens", "tokens[%zu]: expected a token id below %u", i,
                                 x->http->model.config->vocab);
            break;
        }
        tokenizer_token_bytes(x->http->model.tokenizer, previous, (int32_t)json_integer_value(id), &bytes, &size);
        bg_str_add_bytes(&text, bytes, size);
        previous = (int32_t)json_integer_value(id);
    }
    json_t *answer = json_pack("{s:o}", "content", openai_text(bg_str_text(&text), text.size));
    bg_str_fini(&text);
    json_decref(body);
    if (good)
        return exchange_send_json(x, 200, answer);
    json_decref(answer);
    return exchange_refuse(x, &error);
}

static enum MHD_Result apply_template(struct exchange *x)
{
    struct openai_error error;
    json_t *body = read_object(x, &error), *messages = json_object_get(body, "messages");
    char *text = NULL;
    size_t size = 0;
    bool good = body != NULL;
    if (good && !json_is_array(messages))
        good = openai_refuse(&error, 400, invalid, "messages", "messages: expected a list of messages");
    good = good && render(x, messages, json_object_get(body, "chat_template_kwargs"), &text, &size, &error);
    json_decref(body);
    if (!good)
        return exchange_refuse(x, &error);
    json_t *answer = json_pack("{s:o}", "prompt", openai_text(text, size));
    bg_free(text);
    return exchange_send_json(x, 200, answer);
}

static enum MHD_Result props(struct exchange *x, struct engine *engine)
{
    const struct http_model *m = &x->http->model;
    struct engine_stats stats;
    engine_get_stats(engine, &stats, NULL, 0);
    return exchange_send_json(x, 200,
                              json_pack("{s:s, s:s, s:I, s:I, s:I, s:I, s:I, s:b}", "model", m->name, "family",
                                        model_family_name(m->config->family), "n_ctx", (json_int_t)m->context,
                                        "n_vocab", (json_int_t)m->config->vocab, "layers",
                                        (json_int_t)m->config->layers, "dim", (json_int_t)m->config->dim, "pages",
                                        (json_int_t)stats.pages, "chat", m->chat != NULL));
}

static enum MHD_Result slots(struct exchange *x, struct engine *engine)
{
    struct engine_stats stats;
    struct engine_slot list[256];
    json_t *all = json_array();
    engine_get_stats(engine, &stats, list, 256);
    for (size_t i = 0; i < 256 && (i < stats.slots); i++)
        json_array_append_new(all, json_pack("{s:I, s:b, s:I, s:I, s:I}", "id", (json_int_t)i, "is_processing",
                                             list[i].request != 0, "prompt_tokens", (json_int_t)list[i].prompt_tokens,
                                             "drawn_tokens", (json_int_t)list[i].drawn_tokens, "position",
                                             (json_int_t)list[i].position));
    return exchange_send_json(x, 200, all);
}

static enum MHD_Result send_metrics(struct exchange *x)
{
    char *text = metrics_text(x->http);
    enum MHD_Result result = exchange_send(x, 200, "text/plain; version=0.0.4; charset=utf-8", text, strlen(text));
    bg_free(text);
    return result;
}

// ---- The table ----
static enum MHD_Result get(struct exchange *x, struct engine *engine)
{
    struct openai_error error;
    if (strcmp(x->path, "/") == 0)
        return exchange_send(x, 200, "text/html; charset=utf-8", page_html, strlen(page_html));
    if (strcmp(x->path, "/v1/models") == 0)
        return models(x);
    if (strcmp(x->path, "/metrics") == 0)
        return send_metrics(x);
    if (strcmp(x->path, "/props") == 0)
        return props(x, engine);
    if (strcmp(x->path, "/slots") == 0)
        return slots(x, engine);
    openai_refuse(&error, 404, "not_found_error", "", "there is nothing at GET %.200s", x->path);
    return exchange_refuse(x, &error);
}

static enum MHD_Result post(struct exchange *x, struct engine *engine, bool draining)
{
    struct openai_error error;
    if (draining) {
        openai_refuse(&error, 503, "unavailable_error", "", "this server is being drained");
        return exchange_refuse(x, &error);
    }
    if (strcmp(x->path, "/v1/completions") == 0)
        return ask_text(x, engine, OPENAI_COMPLETION);
    if (strcmp(x->path, "/v1/chat/completions") == 0)
        return ask_text(x, engine, OPENAI_CHAT);
    if (strcmp(x->path, "/tokenize") == 0)
        return tokenize(x);
    if (strcmp(x->path, "/detokenize") == 0)
        return detokenize(x);
    if (strcmp(x->path, "/apply-template") == 0)
        return apply_template(x);
    openai_refuse(&error, 404, "not_found_error", "", "there is nothing at POST %.200s", x->path);
    return exchange_refuse(x, &error);
}

enum MHD_Result route_handle(struct exchange *x)
{
    struct openai_error error;
    bool draining;
    struct engine *engine = engine_of(x->http, &draining);
    if (x->asking && !x->ask.stream) { // was suspended until now
        if (!x->complete) {            // resumed because the client has gone, which shows when it is written to
            openai_refuse(&error, 500, "server_error", "", "the connection was lost");
            return exchange_refuse(x, &error);
        }
        return exchange_send_json(x, 200, openai_answer(&x->reply, x->choices, x->choice_count));
    }
    if (strcmp(x->method, "OPTIONS") == 0)
        return exchange_send(x, 204, "text/plain", "", 0);
    if (strcmp(x->path, "/health") == 0)
        return health(x, engine, draining);
    if (!engine) {
        openai_refuse(&error, 503, "unavailable_error", "", "Loading model");
        return exchange_refuse(x, &error);
    }
    if (strcmp(x->method, "GET") == 0)
        return get(x, engine);
    if (strcmp(x->method, "POST") == 0)
        return post(x, engine, draining);
    openai_refuse(&error, 405, invalid, "", "GET or POST, not this");
    return exchange_refuse(x, &error);
}
