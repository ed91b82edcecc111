// What each path does, but for those that have a file of their own: answered at once, or by a worker alone.
#include "serve/http/http_int.h"

#include "base/mem.h"
#include "model/generate.h"

#include <stdio.h>
#include <string.h>

static const char invalid[] = "invalid_request_error";

// Who is let in before draining counts as open from then on: its answer is waited for.
static struct engine *let_in(struct exchange *x, bool *draining)
{
    struct http *http = x->http;
    http->env->ops->gate_enter(http->env, http->gate);
    struct engine *engine = http->engine;
    *draining = http->draining;
    x->counted = !http->draining;
    http->open += x->counted;
    http->env->ops->gate_leave(http->env, http->gate);
    return engine;
}

// ---- Around text ----
static json_t *model_json(const struct http_model *m)
{
    return json_pack("{s:s, s:s, s:I, s:s, s:{s:I, s:I, s:s, s:s, s:s}}", "id", m->name, "object", "model", "created",
                     (json_int_t)m->created, "owned_by", "brigade", "meta", "n_vocab", (json_int_t)m->config->vocab,
                     "n_ctx", (json_int_t)m->context, "family", model_family_name(m->config->family), "digest",
                     m->digest, "class", m->numerics);
}

static enum MHD_Result models(struct exchange *x, struct engine *engine)
{
    (void)engine;
    return exchange_send_json(x, 200, json_pack("{s:s, s:[o]}", "object", "list", "data", model_json(&x->http->model)));
}

static enum MHD_Result model(struct exchange *x, struct engine *engine)
{
    struct openai_error error;
    (void)engine;
    if (strcmp(x->rest, x->http->model.name) == 0)
        return exchange_send_json(x, 200, model_json(&x->http->model));
    openai_refuse(&error, 404, "not_found_error", "model", "there is no model \"%.100s\" here: it is \"%s\"", x->rest,
                  x->http->model.name);
    return exchange_refuse(x, &error);
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

json_t *route_body(struct exchange *x, struct openai_error *error)
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

// ---- Answers that a worker makes of bodies ----
struct making {
    json_t *(*make)(struct exchange *x, json_t *body, struct openai_error *error); // NULL: refused
    struct openai_error error;
    char *answer;
};

static void make(struct exchange *x)
{
    struct making *m = x->work_of;
    json_t *body = route_body(x, &m->error), *answer = body ? m->make(x, body, &m->error) : NULL;
    m->answer = answer ? exchange_json(answer) : NULL;
    json_decref(answer);
    json_decref(body);
}

static enum MHD_Result send_made(struct exchange *x)
{
    struct making *m = x->work_of;
    if (m->error.http)
        return exchange_refuse(x, &m->error);
    char *answer = m->answer;
    m->answer = NULL;
    return exchange_send_text(x, answer);
}

static void forget_made(struct exchange *x)
{
    struct making *m = x->work_of;
    bg_free(m->answer);
    bg_free(m);
}

static enum MHD_Result begin_making(struct exchange *x,
                                    json_t *(*how)(struct exchange *x, json_t *body, struct openai_error *error))
{
    static const struct exchange_work kind = {worker_chore_ended, send_made, worker_drop, forget_made};
    struct making *m = bg_alloc(sizeof *m);
    *m = (struct making){.make = how};
    return exchange_begin(x, worker_for(x->body.size), make, &kind, m);
}

static json_t *make_tokens(struct exchange *x, json_t *body, struct openai_error *error)
{
    struct bg_error err;
    struct token_list tokens = {0};
    const json_t *content = json_object_get(body, "content");
    content = content ? content : json_object_get(body, "prompt");
    const struct tokenizer *t = x->http->model.tokenizer;
    bool special = false, parse = true;
    if (!openai_flag(body, "add_special", &special, error) || !openai_flag(body, "parse_special", &parse, error))
        return NULL;
    bg_status status = BG_OK;
    if (!json_is_string(content))
        status = bg_fail(&err, BG_INVALID, "content: expected a string");
    else if (special)
        status = generate_prompt(t, json_string_value(content), json_string_length(content), parse, &err, &tokens);
    else
        status = tokenizer_encode(t, json_string_value(content), json_string_length(content), parse, &err, &tokens);
    json_t *list = json_array();
    for (size_t i = 0; i < tokens.count; i++)
        json_array_append_new(list, json_integer(tokens.ids[i]));
    token_list_fini(&tokens);
    if (!status)
        return json_pack("{s:o}", "tokens", list);
    json_decref(list);
    openai_refuse(error, 400, invalid, "content", "%.900s", err.text);
    return NULL;
}

static json_t *make_text(struct exchange *x, json_t *body, struct openai_error *error)
{
    const json_t *ids = json_object_get(body, "tokens");
    const uint32_t vocab = x->http->model.config->vocab;
    struct bg_str text = {0};
    bool good =
        json_is_array(ids) || openai_refuse(error, 400, invalid, "tokens", "tokens: expected a list of token ids");
    int32_t previous = -1;
    for (size_t i = 0; good && i < json_array_size(ids); i++) {
        const json_t *id = json_array_get(ids, i);
        const char *bytes;
        size_t size;
        if (!json_is_integer(id) || json_integer_value(id) < 0 || json_integer_value(id) >= vocab) {
            good = openai_refuse(error, 400, invalid, "tokens", "tokens[%zu]: expected a token id below %u", i, vocab);
            break;
        }
        tokenizer_token_bytes(x->http->model.tokenizer, previous, (int32_t)json_integer_value(id), &bytes, &size);
        bg_str_add_bytes(&text, bytes, size);
        previous = (int32_t)json_integer_value(id);
    }
    json_t *answer = good ? json_pack("{s:o}", "content", openai_text(bg_str_text(&text), text.size)) : NULL;
    bg_str_fini(&text);
    return answer;
}

static json_t *make_chat(struct exchange *x, json_t *body, struct openai_error *error)
{
    json_t *messages = json_object_get(body, "messages");
    char *text = NULL;
    size_t size = 0;
    if (!openai_messages(messages, error) ||
        !ask_render(x, messages, json_object_get(body, "chat_template_kwargs"), &text, &size, error))
        return NULL;
    json_t *answer = json_pack("{s:o}", "prompt", openai_text(text, size));
    bg_free(text);
    return answer;
}

static enum MHD_Result tokenize(struct exchange *x, struct engine *engine)
{
    (void)engine;
    return begin_making(x, make_tokens);
}

static enum MHD_Result detokenize(struct exchange *x, struct engine *engine)
{
    (void)engine;
    return begin_making(x, make_text);
}

static enum MHD_Result apply_template(struct exchange *x, struct engine *engine)
{
    (void)engine;
    return begin_making(x, make_chat);
}

// ---- What this server is ----
// The text of a control token; "" without one.
static json_t *piece(const struct tokenizer *t, int32_t id)
{
    const char *bytes = "";
    size_t size = 0;
    float score;
    enum token_kind kind;
    if (id >= 0)
        tokenizer_piece(t, id, &bytes, &size, &score, &kind);
    return openai_text(bytes, size);
}

static enum MHD_Result props(struct exchange *x, struct engine *engine)
{
    const struct http_model *m = &x->http->model;
    const struct model_config *c = m->config;
    struct engine_stats stats;
    engine_get_stats(engine, &stats, NULL, 0);
    json_t *o =
        json_pack("{s:s, s:s, s:s, s:I, s:I, s:I, s:I, s:I, s:I, s:I, s:I, s:I}", "model", m->name, "family",
                  model_family_name(c->family), "version", BRIGADE_VERSION, "n_ctx", (json_int_t)m->context,
                  "n_ctx_train", (json_int_t)c->context, "n_vocab", (json_int_t)c->vocab, "layers",
                  (json_int_t)c->layers, "dim", (json_int_t)c->dim, "heads", (json_int_t)c->heads, "kv_heads",
                  (json_int_t)c->kv_heads, "pages", (json_int_t)stats.pages, "page_tokens", (json_int_t)BATCH_PAGE);
    json_object_set_new(o, "total_slots", json_integer(stats.slots));
    json_object_set_new(o, "digest", json_string(m->digest));
    json_object_set_new(o, "class", json_string(m->numerics));
    json_object_set_new(o, "tokenizer", json_string(tokenizer_kind(m->tokenizer)));
    json_object_set_new(o, "bos_token", piece(m->tokenizer, tokenizer_bos(m->tokenizer)));
    json_object_set_new(o, "eos_token", piece(m->tokenizer, tokenizer_eos(m->tokenizer)));
    json_object_set_new(o, "adds_bos", json_boolean(tokenizer_adds_bos(m->tokenizer)));
    json_object_set_new(o, "chat", json_boolean(m->chat != NULL));
    json_object_set_new(o, "chat_template_is_default", json_boolean(m->chat_is_default));
    json_object_set_new(o, "chat_template",
                        m->chat_text ? openai_text(m->chat_text, strlen(m->chat_text)) : json_null());
    return exchange_send_json(x, 200, o);
}

static enum MHD_Result send_metrics(struct exchange *x, struct engine *engine)
{
    (void)engine;
    char *text = metrics_text(x->http);
    enum MHD_Result result = exchange_send(x, 200, "text/plain; version=0.0.4; charset=utf-8", text, strlen(text));
    bg_free(text);
    return result;
}

static enum MHD_Result version(struct exchange *x, struct engine *engine)
{
    (void)engine;
    return exchange_send_json(x, 200, json_pack("{s:s}", "version", BRIGADE_VERSION));
}

static enum MHD_Result page(struct exchange *x, struct engine *engine)
{
    (void)engine;
    return exchange_send(x, 200, "text/html; charset=utf-8", page_html, page_html_size);
}

// ---- The table ----
struct route {
    const char *method, *path; // a path that ends with * has more behind it: x->rest
    enum MHD_Result (*handle)(struct exchange *x, struct engine *engine);
    bool draining; // also then
};
static const struct route table[] = {
    {"GET", "/", page, true},
    {"GET", "/v1/models", models, true},
    {"GET", "/v1/models/*", model, true},
    {"GET", "/metrics", send_metrics, true},
    {"GET", "/props", props, true},
    {"GET", "/slots", slots_list, true},
    {"GET", "/version", version, true},
    {"POST", "/v1/completions", ask_completion, false},
    {"POST", "/v1/chat/completions", ask_chat, false},
    {"POST", "/v1/embeddings", embeddings, false},
    {"POST", "/tokenize", tokenize, false},
    {"POST", "/detokenize", detokenize, false},
    {"POST", "/apply-template", apply_template, false},
    {"POST", "/slots/*", slots_act, false},
    {"POST", "/kv/save", ship_save, false},
    {"POST", "/kv/restore", ship_restore, false},
};

static bool path_fits(struct exchange *x, const char *path)
{
    const size_t size = strlen(path);
    if (path[size - 1] != '*')
        return strcmp(x->path, path) == 0;
    x->rest = x->path + size - 1;
    return strncmp(x->path, path, size - 1) == 0 && *x->rest;
}

static enum MHD_Result wrong_method(struct exchange *x, const char *right)
{
    struct openai_error error;
    x->allow = right;
    openai_refuse(&error, 405, invalid, "", "%.200s answers %s only", x->path, right);
    return exchange_refuse(x, &error);
}

static enum MHD_Result dispatch(struct exchange *x, struct engine *engine, bool draining)
{
    struct openai_error error;
    const char *method = strcmp(x->method, "HEAD") == 0 ? "GET" : x->method; // libmicrohttpd leaves the body out
    const struct route *other = NULL;
    for (size_t i = 0; i < sizeof table / sizeof *table; i++) {
        const struct route *r = &table[i];
        if (!path_fits(x, r->path))
            continue;
        other = r;
        if (strcmp(r->method, method) != 0)
            continue;
        if (!draining || r->draining)
            return r->handle(x, engine);
        openai_refuse(&error, 503, "unavailable_error", "", "this server is being drained");
        return exchange_refuse(x, &error);
    }
    if (other)
        return wrong_method(x, other->method);
    openai_refuse(&error, 404, "not_found_error", "", "there is nothing at %.200s", x->path);
    return exchange_refuse(x, &error);
}

enum MHD_Result route_handle(struct exchange *x)
{
    struct openai_error error;
    bool draining;
    if (x->work)                                                   // was suspended until now
        return x->ready && !x->gone ? x->work->answer(x) : MHD_NO; // not ready: the client has gone
    struct engine *engine = let_in(x, &draining);
    x->digest = engine && x->knows_key ? x->http->model.digest : NULL;
    if (strcmp(x->method, "OPTIONS") == 0)
        return exchange_send(x, 204, "text/plain", "", 0);
    if (strcmp(x->path, "/health") == 0)
        return strcmp(x->method, "GET") == 0 || strcmp(x->method, "HEAD") == 0 ? health(x, engine, draining)
                                                                               : wrong_method(x, "GET");
    if (!engine) {
        openai_refuse(&error, 503, "unavailable_error", "", "Loading model");
        return exchange_refuse(x, &error);
    }
    return dispatch(x, engine, draining);
}
