// /v1/embeddings: the final norm's output after the last token, of length 1. A worker reads the inputs; then every one
// is a request of the engine, in turn with all others; only so many of one body wait or run at once that they fill no
// queue.
#include "serve/http/http_int.h"

#include "base/mem.h"
#include "model/generate.h"

#include <math.h>
#include <string.h>

enum { AT_ONCE_MAX = 8 };

struct embedding_work {
    bool base64;
    struct openai_error error;  // http 0: none so far
    struct token_list *prompts; // (inputs)
    uint64_t *requests;         // (inputs): of the engine; 0: not asked for yet, or answered
    char **found;               // (inputs): JSON
    size_t inputs, asked;
    json_int_t tokens;
};

static void normalise(float *values, size_t dim)
{
    double sum = 0;
    for (size_t i = 0; i < dim; i++)
        sum += (double)values[i] * (double)values[i];
    const double scale = sum > 0 ? 1 / sqrt(sum) : 0;
    for (size_t i = 0; i < dim; i++)
        values[i] = (float)((double)values[i] * scale);
}

static bg_status tokens_of(const struct exchange *x, const json_t *input, struct bg_error *err,
                           struct token_list *tokens)
{
    if (json_is_string(input))
        return generate_prompt(x->http->model.tokenizer, json_string_value(input), json_string_length(input), true, err,
                               tokens);
    tokens->count = json_array_size(input);
    tokens->capacity = tokens->count + 1;
    tokens->ids = bg_alloc_array(tokens->capacity, sizeof *tokens->ids);
    for (size_t i = 0; i < tokens->count; i++)
        tokens->ids[i] = (int32_t)json_integer_value(json_array_get(input, i));
    return BG_OK;
}

static bool read_inputs(struct exchange *x, struct embedding_work *w, const struct openai_embed *ask)
{
    const struct http_model *m = &x->http->model;
    struct bg_error err;
    if (ask->model && strcmp(ask->model, m->name) != 0 && strcmp(ask->model, "default") != 0)
        return openai_refuse(&w->error, 404, "not_found_error", "model",
                             "there is no model \"%.100s\" here: it is \"%s\"", ask->model, m->name);
    w->inputs = json_array_size(ask->inputs);
    w->prompts = bg_alloc_array(w->inputs + 1, sizeof *w->prompts);
    w->requests = bg_alloc_array(w->inputs + 1, sizeof *w->requests);
    w->found = bg_alloc_array(w->inputs + 1, sizeof *w->found);
    w->base64 = ask->base64;
    for (size_t i = 0; i < w->inputs; i++)
        if (tokens_of(x, json_array_get(ask->inputs, i), &err, &w->prompts[i]))
            return openai_refuse(&w->error, 400, "invalid_request_error", "input", "input %zu: %.900s", i, err.text);
    return true;
}

static void read_all(struct exchange *x)
{
    struct embedding_work *w = x->work_of;
    struct openai_embed ask;
    if (!openai_parse_embed(bg_str_text(&x->body), x->body.size, x->http->model.config->vocab, &w->error, &ask))
        return;
    read_inputs(x, w, &ask);
    openai_embed_fini(&ask);
}

static bool refuse(bg_status status, const struct bg_error *err, size_t i, double retry, struct openai_error *error)
{
    if (status == BG_FULL) {
        openai_refuse(error, 429, "rate_limit_error", "", "%s", err->text);
        error->retry_s = retry;
        return false;
    }
    if (status == BG_STOPPED)
        return openai_refuse(error, 503, "unavailable_error", "", "%s", err->text);
    return openai_refuse(error, 400, "invalid_request_error", "input", "input %zu: %.900s", i, err->text);
}

static bool ask_one(struct exchange *x, struct embedding_work *w, size_t i)
{
    struct bg_error err;
    double retry = 1;
    const size_t most = x->http->model.context, got = w->prompts[i].count;
    if (got > most) {
        openai_refuse(&w->error, 400, "exceed_context_size_error", "input",
                      "input %zu exceeds the available context size: it has %zu tokens, the context %zu", i, got, most);
        w->error.more = json_pack("{s:I, s:I}", "n_prompt_tokens", (json_int_t)got, "n_ctx", (json_int_t)most);
        return false;
    }
    const struct serve_request request = {.prompt = w->prompts[i].ids,
                                          .prompt_count = (uint32_t)got,
                                          .embed = true,
                                          .follows = i > 0,
                                          .cache_prompt = true,
                                          .user = x};
    bg_status status = engine_submit(x->http->engine, &request, &err, &w->requests[i], &retry);
    token_list_fini(&w->prompts[i]);
    return !status || refuse(status, &err, i, retry, &w->error);
}

static void abandon(struct exchange *x)
{
    const struct embedding_work *w = x->work_of;
    worker_drop(x);
    for (size_t i = 0; i < w->asked; i++)
        if (w->requests[i])
            engine_cancel(x->http->engine, w->requests[i]);
}

static void ask_more(struct exchange *x)
{
    struct embedding_work *w = x->work_of;
    struct engine_stats stats;
    engine_get_stats(x->http->engine, &stats, NULL, 0);
    const uint32_t half = stats.slots > 1 ? stats.slots / 2 : 1, most = half < AT_ONCE_MAX ? half : AT_ONCE_MAX;
    while (w->asked < w->inputs && x->running < most && !w->error.http && !x->gone && x->wait.connection) {
        if (!ask_one(x, w, w->asked)) {
            abandon(x);
            break;
        }
        w->asked++;
        x->running++;
    }
}

static void hear(struct exchange *x, const struct serve_event *event)
{
    struct embedding_work *w = x->work_of;
    const size_t dim = x->http->model.config->dim;
    size_t i = 0;
    if (event->request == 0) { // they are read
        x->running = 0;
        ask_more(x);
        x->ready = x->running == 0;
        return;
    }
    while (i < w->asked && w->requests[i] != event->request)
        i++;
    if (i == w->asked)
        return;
    if (event->embedding) {
        float *values = bg_alloc_array(dim, sizeof *values);
        memcpy(values, event->embedding, dim * sizeof *values);
        normalise(values, dim);
        json_t *entry = openai_embedding(w->base64, i, values, dim);
        w->found[i] = json_dumps(entry, JSON_COMPACT | JSON_REAL_PRECISION(9));
        w->tokens += event->prompt_tokens;
        json_decref(entry);
        bg_free(values);
    } else if (!w->error.http) {
        if (event->finish == SERVE_FAILED)
            openai_refuse(&w->error, 500, "server_error", "", "input %zu: the model computes what is no number", i);
        else
            openai_refuse(&w->error, 503, "unavailable_error", "", "input %zu was cut off: %s", i,
                          serve_finish_name(event->finish));
        abandon(x);
    }
    w->requests[i] = 0;
    x->running--;
    ask_more(x);
    x->ready = x->running == 0;
}

static enum MHD_Result answer(struct exchange *x)
{
    struct embedding_work *w = x->work_of;
    struct bg_str text = {0};
    if (w->error.http)
        return exchange_refuse(x, &w->error);
    json_t *model = json_string(x->http->model.name);
    char *name = json_dumps(model, JSON_ENCODE_ANY);
    bg_str_add(&text, "{\"object\":\"list\",\"data\":[");
    for (size_t i = 0; i < w->inputs; i++) {
        bg_str_add(&text, i ? "," : "");
        bg_str_add(&text, w->found[i] ? w->found[i] : "{}");
    }
    bg_str_addf(&text, "],\"model\":%s,\"usage\":{\"prompt_tokens\":%lld,\"total_tokens\":%lld}}", name ? name : "\"\"",
                (long long)w->tokens, (long long)w->tokens);
    json_decref(model);
    bg_free(name);
    return exchange_send_text(x, bg_str_take(&text));
}

static void forget(struct exchange *x)
{
    struct embedding_work *w = x->work_of;
    for (size_t i = 0; i < w->inputs; i++) {
        token_list_fini(&w->prompts[i]);
        bg_free(w->found[i]);
    }
    json_decref(w->error.more);
    bg_free(w->prompts);
    bg_free(w->found);
    bg_free(w->requests);
    bg_free(w);
}

enum MHD_Result embeddings(struct exchange *x, struct engine *engine)
{
    static const struct exchange_work kind = {hear, answer, abandon, forget};
    (void)engine;
    struct embedding_work *w = bg_alloc(sizeof *w);
    *w = (struct embedding_work){0};
    return exchange_begin(x, worker_for(x->body.size), read_all, &kind, w);
}
