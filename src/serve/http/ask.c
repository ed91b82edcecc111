// Text requests: prompts from texts, ids and chats; submitting them; what the engine tells; the answer.
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
    if (x->ask.texts.count > 0) {
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

// ---- On its way: read by a worker, drawn by the engine, written by a worker where it is large ----
struct text_work {
    enum openai_kind kind;
    enum { READING, DRAWING, WRITING } stage;
    struct openai_error error; // http 0: none
    struct grammar *grammar;   // NULL: free
    struct token_list *prompts;
    size_t prompt_count;
    char *answer; // JSON
};

static bool read_ask(struct exchange *x, struct text_work *w)
{
    struct http *http = x->http;
    struct bg_error err;
    if (!openai_parse(w->kind, bg_str_text(&x->body), x->body.size, http->model.config->vocab, http->model.context,
                      &w->error, &x->ask))
        return false;
    x->asking = true;
    if (x->ask.model && strcmp(x->ask.model, http->model.name) != 0 && strcmp(x->ask.model, "default") != 0)
        return openai_refuse(&w->error, 404, "not_found_error", "model",
                             "there is no model \"%.100s\" here: it is \"%s\"", x->ask.model, http->model.name);
    if (!x->ask.seed_given && http->env->ops->entropy(http->env, &x->ask.request.sampling.seed, sizeof(uint64_t), &err))
        return openai_refuse(&w->error, 500, "server_error", "", "%s", err.text);
    if (!x->ask.seed_given) // a number that every reader of JSON can hold
        x->ask.request.sampling.seed &= ((uint64_t)1 << 53) - 1;
    if (!compile_grammar(x, &w->grammar, &w->error))
        return false;
    w->prompt_count = w->kind == OPENAI_CHAT ? 1 : x->ask.ids ? json_array_size(x->ask.ids) : x->ask.texts.count;
    w->prompts = bg_alloc_array(w->prompt_count + 1, sizeof *w->prompts);
    for (size_t p = 0; p < w->prompt_count; p++)
        if (!ask_prompt(x, p, &w->prompts[p], &w->error))
            return false;
    return true;
}

// Everything that takes longer the more is asked.
static void read_all(struct exchange *x)
{
    read_ask(x, x->work_of);
    if (x->asking)
        openai_ask_release(&x->ask);
}

static void let_go(struct text_work *w)
{
    for (size_t p = 0; p < w->prompt_count; p++)
        token_list_fini(&w->prompts[p]);
    bg_free(w->prompts);
    w->prompts = NULL;
    w->prompt_count = 0;
    if (w->grammar)
        grammar_release(w->grammar);
    w->grammar = NULL;
}

static bool submit_all(struct exchange *x, struct text_work *w)
{
    struct http *http = x->http;
    bool good = true;
    x->choice_count = (uint32_t)w->prompt_count * x->ask.n;
    x->choices = bg_alloc_array(x->choice_count + 1u, sizeof *x->choices);
    x->requests = bg_alloc_array(x->choice_count + 1u, sizeof *x->requests);
    for (uint32_t index = 0; index < x->choice_count && good; index++) {
        const uint32_t p = index / x->ask.n;
        struct serve_request request = x->ask.request;
        struct bg_error err;
        double retry = 1;
        request.prompt = w->prompts[p].ids;
        request.prompt_count = (uint32_t)w->prompts[p].count;
        request.sampling.choice += index;
        request.grammar = w->grammar;
        request.user = x;
        x->choices[index].index = index;
        bg_status status = engine_submit(http->engine, &request, &err, &x->requests[index], &retry);
        good = !status || refuse_submit(status, &err, request.prompt_count, http->model.context, retry, &w->error);
        x->running += !status;
        if (x->ask.echo && good)
            echo(x, p, &w->prompts[p], index);
    }
    if (!good)
        cancel_all(x);
    return good;
}

static void begin_drawing(struct exchange *x, struct text_work *w)
{
    struct http *http = x->http;
    w->stage = DRAWING;
    x->reply = (struct openai_reply){&x->ask, http->model.tokenizer, x->id, http->model.name,
                                     http->env->ops->wall_ms(http->env) / 1000};
    const bool good = !w->error.http && submit_all(x, w);
    x->ready = !good || x->ask.stream;
    let_go(w);
}

static void write_answer(struct exchange *x)
{
    struct text_work *w = x->work_of;
    json_t *answer = openai_answer(&x->reply, x->choices, x->choice_count);
    w->answer = exchange_json(answer);
    json_decref(answer);
}

static void begin_writing(struct exchange *x, struct text_work *w)
{
    enum { LOGPROB_BYTES = 64 }; // about
    size_t bytes = 0;
    for (uint32_t i = 0; i < x->choice_count; i++)
        bytes += x->choices[i].text.size +
                 (x->ask.request.logprobs ? x->choices[i].drawn_tokens * (1 + x->ask.request.top_logprobs) : 0) *
                     (size_t)LOGPROB_BYTES;
    w->stage = WRITING;
    if (worker_for(bytes) == WORKER_LARGE) {
        exchange_chore(x, WORKER_LARGE, true, write_answer); // what was drawn goes before what is to be read
        return;
    }
    write_answer(x);
    x->ready = true;
}

static void drawn(struct exchange *x, struct text_work *w, const struct serve_event *event)
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
    if (x->ask.stream) {
        if (x->ask.include_usage)
            openai_usage_chunk(&x->reply, x->choices, x->choice_count, &x->out);
        bg_str_add(&x->out, "data: [DONE]\n\n");
        x->complete = true;
    } else if (!w->error.http && !x->gone && x->wait.connection) {
        begin_writing(x, w);
    }
}

static void hear(struct exchange *x, const struct serve_event *event)
{
    struct text_work *w = x->work_of;
    if (event->request) {
        drawn(x, w, event);
        return;
    }
    x->running = 0;
    if (w->stage == WRITING)
        x->ready = true;
    else if (!x->gone && x->wait.connection)
        begin_drawing(x, w);
}

static enum MHD_Result answer(struct exchange *x)
{
    struct text_work *w = x->work_of;
    if (w->error.http)
        return exchange_refuse(x, &w->error);
    if (x->ask.stream)
        return exchange_stream(x);
    char *text = w->answer;
    w->answer = NULL;
    return exchange_send_text(x, text);
}

static void abandon(struct exchange *x)
{
    worker_drop(x);
    cancel_all(x);
}

static void forget(struct exchange *x)
{
    struct text_work *w = x->work_of;
    let_go(w);
    json_decref(w->error.more);
    bg_free(w->answer);
    bg_free(w);
}

void ask_fini(struct exchange *x)
{
    for (uint32_t i = 0; i < x->choice_count; i++)
        openai_choice_fini(&x->choices[i]);
    bg_free(x->choices);
    bg_free(x->requests);
    if (x->asking)
        openai_ask_fini(&x->ask);
}

static enum MHD_Result ask_text(struct exchange *x, enum openai_kind kind)
{
    static const struct exchange_work work = {hear, answer, abandon, forget};
    struct http *http = x->http;
    struct text_work *w = bg_alloc(sizeof *w);
    *w = (struct text_work){.kind = kind};
    snprintf(x->id, sizeof x->id, "%s-%llx-%llx", kind == OPENAI_CHAT ? "chatcmpl" : "cmpl",
             (unsigned long long)http->env->ops->wall_ms(http->env), (unsigned long long)++http->next_id);
    return exchange_begin(x, worker_for(x->body.size), read_all, &work, w);
}

enum MHD_Result ask_completion(struct exchange *x, struct engine *engine)
{
    (void)engine;
    return ask_text(x, OPENAI_COMPLETION);
}

enum MHD_Result ask_chat(struct exchange *x, struct engine *engine)
{
    (void)engine;
    return ask_text(x, OPENAI_CHAT);
}
