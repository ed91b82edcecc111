// Text requests: prompts from texts, ids and chats; submitting them; what the engine tells.
#include "serve/http/http_int.h"

#include "base/mem.h"
#include "model/generate.h"
#include "serve/chat.h"
#include "serve/grammar.h"

#include <stdio.h>
#include <string.h>

static const char invalid[] = "invalid_request_error";
enum { WAITING_BYTES_MAX = 8 << 20 }; // of a stream whose client does not read: more, and it is given up

// ---- Prompts ----

// The text of a chat, as its template has it.
bool ask_render(struct exchange *x, json_t *messages, json_t *extra, char **text, size_t *size,
                struct openai_error *error)
{
    const struct http_model *m = &x->http->model;
    struct bg_error err;
    if (!m->chat)
        return openai_refuse(error, 400, invalid, "messages", "this model has no chat template: use /v1/completions");
    return !chat_render(m->chat, m->tokenizer, messages, true, extra, &err, text, size) ||
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
bool ask_prompt(struct exchange *x, size_t p, struct token_list *tokens, struct openai_error *error)
{
    struct bg_error err;
    if (x->ask.kind == OPENAI_CHAT) {
        char *text;
        size_t size;
        if (!ask_render(x, x->ask.messages, json_object_get(x->ask.body, "chat_template_kwargs"), &text, &size, error))
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
        error->retry_s = retry;
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

// Also: the client is gone.
static void cancel_all(struct exchange *x)
{
    for (uint32_t i = 0; i < x->choice_count && x->http->engine; i++)
        if (x->requests[i])
            engine_cancel(x->http->engine, x->requests[i]);
}

// The prompt before the answer, as it was given.
static void echo(struct exchange *x, size_t p, const struct token_list *tokens, uint32_t index)
{
    struct bg_str *text = &x->choices[index].echo;
    if (!x->ask.ids) {
        bg_str_add(text, x->ask.texts.items[p]);
        return;
    }
    for (size_t i = 0; i < tokens->count; i++) {
        const char *bytes;
        size_t size;
        tokenizer_token_bytes(x->http->model.tokenizer, i ? tokens->ids[i - 1] : -1, tokens->ids[i], &bytes, &size);
        bg_str_add_bytes(text, bytes, size);
    }
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
        good = ask_prompt(x, p, &tokens, error);
        for (uint32_t c = 0; c < x->ask.n && good; c++) {
            const uint32_t index = (uint32_t)p * x->ask.n + c;
            struct serve_request request = x->ask.request;
            struct bg_error err;
            double retry = 1;
            request.prompt = tokens.ids;
            request.prompt_count = (uint32_t)tokens.count;
            request.sampling.choice += index;
            request.grammar = grammar;
            request.user = x;
            x->choices[index].index = index;
            if (x->ask.echo)
                echo(x, p, &tokens, index);
            bg_status status = engine_submit(engine, &request, &err, &x->requests[index], &retry);
            good = !status || refuse_submit(status, &err, request.prompt_count, http->model.context, retry, error);
            x->running += !status;
        }
        token_list_fini(&tokens);
    }
    if (grammar)
        grammar_release(grammar);
    if (!good)
        cancel_all(x);
    return good;
}

static void hear(struct exchange *x, const struct serve_event *event);
static enum MHD_Result answer(struct exchange *x);

static enum MHD_Result ask_text(struct exchange *x, struct engine *engine, enum openai_kind kind)
{
    static const struct exchange_work work = {hear, answer, cancel_all, NULL};
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
    if (!x->ask.seed_given) // a number that every reader of JSON can hold
        x->ask.request.sampling.seed &= ((uint64_t)1 << 53) - 1;
    snprintf(x->id, sizeof x->id, "%s-%llx-%llx", kind == OPENAI_CHAT ? "chatcmpl" : "cmpl",
             (unsigned long long)http->env->ops->wall_ms(http->env), (unsigned long long)++http->next_id);
    x->reply = (struct openai_reply){&x->ask, http->model.tokenizer, x->id, http->model.name,
                                     http->env->ops->wall_ms(http->env) / 1000};
    x->work = &work;
    if (!submit_all(x, engine, &error))
        return exchange_refuse(x, &error);
    return x->ask.stream ? exchange_stream(x) : exchange_wait(x);
}

static void hear(struct exchange *x, const struct serve_event *event)
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
    if (event->finish == SERVE_RUNNING) {
        if (x->out.size - x->sent > WAITING_BYTES_MAX && !x->given_up) {
            x->given_up = true; // what is there still goes out; the rest is not drawn
            cancel_all(x);
        }
        return;
    }
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

static enum MHD_Result answer(struct exchange *x)
{
    return exchange_send_json(x, 200, openai_answer(&x->reply, x->choices, x->choice_count));
}

void ask_fini(struct exchange *x)
{
    for (uint32_t i = 0; i < x->choice_count; i++) {
        bg_str_fini(&x->choices[i].echo);
        bg_str_fini(&x->choices[i].text);
        json_decref(x->choices[i].logprobs);
        json_decref(x->choices[i].tokens);
    }
    bg_free(x->choices);
    bg_free(x->requests);
    if (x->asking)
        openai_ask_fini(&x->ask);
}

enum MHD_Result ask_completion(struct exchange *x, struct engine *engine)
{
    return ask_text(x, engine, OPENAI_COMPLETION);
}

enum MHD_Result ask_chat(struct exchange *x, struct engine *engine)
{
    return ask_text(x, engine, OPENAI_CHAT);
}
