// /v1/embeddings: the final norm's output after the last token, of length 1. Answered at once, between two steps of the
// engine, one input after the other.
#include "serve/http/http_int.h"

#include "base/mem.h"
#include "model/generate.h"

#include <math.h>
#include <string.h>

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

static bool embed_one(struct exchange *x, struct engine *engine, const struct openai_embed *ask, size_t i, json_t *data,
                      json_int_t *count, struct openai_error *error)
{
    struct token_list tokens = {0};
    struct bg_error err;
    float *values = NULL;
    bg_status status = tokens_of(x, json_array_get(ask->inputs, i), &err, &tokens);
    const size_t most = x->http->model.context, got = tokens.count;
    if (!status && got <= most)
        status = engine_embed(engine, tokens.ids, (uint32_t)got, &err, &values);
    token_list_fini(&tokens);
    if (!status && got > most) {
        openai_refuse(error, 400, "exceed_context_size_error", "input",
                      "input %zu exceeds the available context size: it has %zu tokens, the context %zu", i, got, most);
        error->more = json_pack("{s:I, s:I}", "n_prompt_tokens", (json_int_t)got, "n_ctx", (json_int_t)most);
        return false;
    }
    if (status == BG_FULL)
        return openai_refuse(error, 429, "rate_limit_error", "", "%s", err.text);
    if (status == BG_STOPPED)
        return openai_refuse(error, 503, "unavailable_error", "", "%s", err.text);
    if (status)
        return openai_refuse(error, 400, "invalid_request_error", "input", "input %zu: %.900s", i, err.text);
    const size_t dim = x->http->model.config->dim;
    normalise(values, dim);
    json_array_append_new(data, openai_embedding(ask, i, values, dim));
    bg_free(values);
    *count += (json_int_t)got;
    return true;
}

enum MHD_Result embeddings(struct exchange *x, struct engine *engine)
{
    const struct http_model *m = &x->http->model;
    struct openai_error error;
    struct openai_embed ask;
    json_int_t count = 0;
    if (!openai_parse_embed(bg_str_text(&x->body), x->body.size, m->config->vocab, &error, &ask))
        return exchange_refuse(x, &error);
    json_t *data = json_array();
    bool good = !ask.model || strcmp(ask.model, m->name) == 0 || strcmp(ask.model, "default") == 0 ||
                openai_refuse(&error, 404, "not_found_error", "model",
                              "there is no model \"%.100s\" here: it is \"%s\"", ask.model, m->name);
    for (size_t i = 0; i < json_array_size(ask.inputs) && good; i++)
        good = embed_one(x, engine, &ask, i, data, &count, &error);
    openai_embed_fini(&ask);
    if (!good) {
        json_decref(data);
        return exchange_refuse(x, &error);
    }
    return exchange_send_json(x, 200,
                              json_pack("{s:s, s:o, s:s, s:{s:I, s:I}}", "object", "list", "data", data, "model",
                                        m->name, "usage", "prompt_tokens", count, "total_tokens", count));
}
