// Reading requests: every field has a type and a range, and a refusal names it.
#include "serve/openai.h"

#include "base/mem.h"

#include <math.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static const char invalid[] = "invalid_request_error";

bool openai_refuse(struct openai_error *error, int http, const char *type, const char *param, const char *format, ...)
{
    va_list args;
    *error = (struct openai_error){.http = http, .type = type};
    snprintf(error->param, sizeof error->param, "%s", param);
    error->err.status = BG_INVALID;
    va_start(args, format);
    vsnprintf(error->err.text, sizeof error->err.text, format, args);
    va_end(args);
    return false;
}

// OpenAI's codes, where it has one.
static const char *code_of(const struct openai_error *error)
{
    static const char context[] = "exceed_context_size_error";
    return error->http == 401                                         ? "invalid_api_key"
           : error->http == 404 && strcmp(error->param, "model") == 0 ? "model_not_found"
           : error->http == 429                                       ? "rate_limit_exceeded"
           : error->http == 400 && strcmp(error->type, context) == 0  ? "context_length_exceeded"
                                                                      : NULL;
}

json_t *openai_error_json(struct openai_error *error)
{
    json_t *message = openai_text(error->err.text, strlen(error->err.text)), *o = json_object();
    json_object_set_new(o, "message", message);
    json_object_set_new(o, "type", json_string(error->type));
    const char *code = code_of(error);
    json_object_set_new(o, "code", code ? json_string(code) : json_null());
    json_object_set_new(o, "param", *error->param ? json_string(error->param) : json_null());
    if (error->more) {
        json_object_update(o, error->more);
        json_decref(error->more);
        error->more = NULL;
    }
    return json_pack("{s:o}", "error", o);
}

// ---- Fields ----
static json_t *field(const json_t *body, const char *name)
{
    json_t *value = json_object_get(body, name);
    return json_is_null(value) ? NULL : value;
}

static bool number(const json_t *body, const char *name, double low, double high, double *value,
                   struct openai_error *error)
{
    const json_t *v = field(body, name);
    if (!v)
        return true;
    if (!json_is_number(v) || !(json_number_value(v) >= low && json_number_value(v) <= high))
        return openai_refuse(error, 400, invalid, name, "%s: expected a number from %g to %g", name, low, high);
    *value = json_number_value(v);
    return true;
}

static bool whole(const json_t *body, const char *name, json_int_t low, json_int_t high, json_int_t *value,
                  struct openai_error *error)
{
    const json_t *v = field(body, name);
    if (!v)
        return true;
    if (!json_is_integer(v) || json_integer_value(v) < low || json_integer_value(v) > high)
        return openai_refuse(error, 400, invalid, name, "%s: expected a whole number from %lld to %lld", name,
                             (long long)low, (long long)high);
    *value = json_integer_value(v);
    return true;
}

bool openai_flag(const json_t *body, const char *name, bool *value, struct openai_error *error)
{
    const json_t *v = field(body, name);
    if (!v)
        return true;
    if (!json_is_boolean(v))
        return openai_refuse(error, 400, invalid, name, "%s: expected true or false", name);
    *value = json_is_true(v);
    return true;
}

static bool read_stops(struct openai_ask *ask, struct openai_error *error)
{
    json_t *stop = field(ask->body, "stop");
    const size_t count = json_is_array(stop) ? json_array_size(stop) : stop ? 1 : 0;
    if (count > OPENAI_STOPS_MAX)
        return openai_refuse(error, 400, invalid, "stop", "stop: %zu strings, at most %d", count, OPENAI_STOPS_MAX);
    const char **stops = bg_alloc_array(count + 1, sizeof *stops);
    ask->request.stops = stops;
    for (size_t i = 0; i < count; i++) {
        const json_t *each = json_is_array(stop) ? json_array_get(stop, i) : stop;
        const size_t size = json_string_length(each);
        if (!json_is_string(each) || size == 0 || size > OPENAI_STOP_BYTES_MAX ||
            strlen(json_string_value(each)) != size)
            return openai_refuse(error, 400, invalid, "stop",
                                 "stop: expected a string of 1 to %d bytes without NUL, or a list of such",
                                 OPENAI_STOP_BYTES_MAX);
        stops[ask->request.stop_count++] = bg_strdup(json_string_value(each));
    }
    return true;
}

static int by_id(const void *a, const void *b)
{
    const struct serve_bias *x = a, *y = b;
    return (x->id > y->id) - (x->id < y->id);
}

static bool read_biases(struct openai_ask *ask, uint32_t vocab, struct openai_error *error)
{
    json_t *map = field(ask->body, "logit_bias"), *value;
    const char *key;
    if (!map)
        return true;
    if (!json_is_object(map) || json_object_size(map) > OPENAI_BIASES_MAX)
        return openai_refuse(error, 400, invalid, "logit_bias",
                             "logit_bias: expected an object of at most %d token ids with numbers", OPENAI_BIASES_MAX);
    struct serve_bias *biases = bg_alloc_array(json_object_size(map) + 1, sizeof *biases);
    ask->request.sampling.biases = biases;
    json_object_foreach(map, key, value)
    {
        char *end;
        const unsigned long id = strtoul(key, &end, 10);
        if (*key < '0' || *key > '9' || *end || id >= vocab || !json_is_number(value) ||
            fabs(json_number_value(value)) > 100)
            return openai_refuse(error, 400, invalid, "logit_bias",
                                 "logit_bias: \"%.20s\": expected a token id below %u with a number from -100 to 100",
                                 key, vocab);
        biases[ask->request.sampling.bias_count++] = (struct serve_bias){(int32_t)id, (float)json_number_value(value)};
    }
    qsort(biases, ask->request.sampling.bias_count, sizeof *biases, by_id);
    for (uint32_t i = 1; i < ask->request.sampling.bias_count; i++)
        if (biases[i].id == biases[i - 1].id)
            return openai_refuse(error, 400, invalid, "logit_bias", "logit_bias: token id %d stands there twice",
                                 biases[i].id);
    return true;
}

static bool read_sampling(struct openai_ask *ask, uint32_t vocab, struct openai_error *error)
{
    const json_t *b = ask->body;
    double temperature = 1, top_p = 1, min_p = 0, repeat = 1, presence = 0, frequency = 0;
    json_int_t top_k = 0, last = 64, seed = 0;
    if (!number(b, "temperature", 0, 100, &temperature, error) || !number(b, "top_p", 0, 1, &top_p, error) ||
        !number(b, "min_p", 0, 1, &min_p, error) || !number(b, "repeat_penalty", 0.01, 100, &repeat, error) ||
        !number(b, "presence_penalty", -2, 2, &presence, error) ||
        !number(b, "frequency_penalty", -2, 2, &frequency, error) ||
        !whole(b, "top_k", -1, UINT32_MAX, &top_k, error) || !whole(b, "repeat_last_n", 0, 1 << 20, &last, error) ||
        !whole(b, "seed", INT64_MIN, INT64_MAX, &seed, error))
        return false;
    ask->seed_given = field(b, "seed") != NULL;
    ask->request.sampling = (struct serve_sampling){.temperature = (float)temperature,
                                                    .top_k = top_k < 0 ? 0 : (uint32_t)top_k,
                                                    .top_p = (float)top_p,
                                                    .min_p = (float)min_p,
                                                    .repeat_penalty = (float)repeat,
                                                    .repeat_last = (uint32_t)last,
                                                    .presence_penalty = (float)presence,
                                                    .frequency_penalty = (float)frequency,
                                                    .seed = (uint64_t)seed};
    return read_biases(ask, vocab, error);
}

// Ids as an array of integers; *ids: NULL, or where to put them.
static bool check_ids(const json_t *list, const char *name, uint32_t vocab, struct openai_error *error, int32_t *ids)
{
    for (size_t i = 0; i < json_array_size(list); i++) {
        const json_t *id = json_array_get(list, i);
        if (!json_is_integer(id) || json_integer_value(id) < 0 || json_integer_value(id) >= vocab)
            return openai_refuse(error, 400, invalid, name, "%s[%zu]: expected a token id below %u", name, i, vocab);
        if (ids)
            ids[i] = (int32_t)json_integer_value(id);
    }
    return true;
}

static bool read_prompt(struct openai_ask *ask, uint32_t vocab, struct openai_error *error)
{
    json_t *prompt = field(ask->body, "prompt"), *first = json_array_get(prompt, 0);
    if (json_is_string(prompt)) {
        bg_strlist_add_bytes(&ask->texts, json_string_value(prompt), json_string_length(prompt));
        return true;
    }
    if (!json_is_array(prompt) || json_array_size(prompt) == 0)
        return openai_refuse(error, 400, invalid, "prompt",
                             "prompt: expected a string, token ids, or a list of either");
    if (json_is_integer(first)) {
        ask->ids = json_pack("[O]", prompt);
        return check_ids(prompt, "prompt", vocab, error, NULL);
    }
    if (json_array_size(prompt) > OPENAI_CHOICES_MAX)
        return openai_refuse(error, 400, invalid, "prompt", "prompt: %zu prompts, at most %d", json_array_size(prompt),
                             OPENAI_CHOICES_MAX);
    for (size_t i = 0; i < json_array_size(prompt); i++) {
        json_t *each = json_array_get(prompt, i);
        if (json_is_string(first) && json_is_string(each))
            bg_strlist_add_bytes(&ask->texts, json_string_value(each), json_string_length(each));
        else if (!json_is_array(first) || !json_is_array(each) || !check_ids(each, "prompt", vocab, error, NULL))
            return openai_refuse(error, 400, invalid, "prompt",
                                 "prompt: expected strings only, or lists of token ids below %u only", vocab);
    }
    if (json_is_array(first))
        ask->ids = json_incref(prompt);
    return true;
}

bool openai_messages(json_t *messages, struct openai_error *error)
{
    if (!json_is_array(messages) || json_array_size(messages) == 0)
        return openai_refuse(error, 400, invalid, "messages", "messages: expected a list of at least one message");
    for (size_t i = 0; i < json_array_size(messages); i++) {
        json_t *message = json_array_get(messages, i), *content = json_object_get(message, "content");
        if (!json_is_object(message) || !json_is_string(json_object_get(message, "role")))
            return openai_refuse(error, 400, invalid, "messages",
                                 "messages[%zu]: expected an object with a \"role\" and a \"content\"", i);
        if (json_is_array(content)) { // parts of text, joined
            struct bg_str text = {0};
            for (size_t j = 0; j < json_array_size(content); j++) {
                const json_t *part = json_object_get(json_array_get(content, j), "text");
                if (!json_is_string(part)) {
                    bg_str_fini(&text);
                    return openai_refuse(error, 400, invalid, "messages",
                                         "messages[%zu].content[%zu]: only parts of type \"text\" are understood", i,
                                         j);
                }
                bg_str_add_bytes(&text, json_string_value(part), json_string_length(part));
            }
            json_object_set_new(message, "content", json_stringn(bg_str_text(&text), text.size));
            bg_str_fini(&text);
        } else if (!json_is_string(content)) {
            return openai_refuse(error, 400, invalid, "messages",
                                 "messages[%zu].content: expected a string or a list of parts of text", i);
        }
    }
    return true;
}

static bool read_format(struct openai_ask *ask, struct openai_error *error)
{
    json_t *format = field(ask->body, "response_format"), *grammar = field(ask->body, "grammar");
    const char *type = json_string_value(json_object_get(format, "type"));
    if (grammar && !json_is_string(grammar))
        return openai_refuse(error, 400, invalid, "grammar", "grammar: expected GBNF as a string");
    ask->grammar = json_string_value(grammar);
    if (!format || (type && strcmp(type, "text") == 0))
        return true;
    if (ask->grammar)
        return openai_refuse(error, 400, invalid, "grammar", "grammar and response_format: give one of them");
    if (type && strcmp(type, "json_object") == 0) {
        json_t *schema = json_object_get(format, "schema"); // llama.cpp's
        ask->schema = schema ? schema : json_null();
        return true;
    }
    ask->schema = json_object_get(json_object_get(format, "json_schema"), "schema");
    if (!type || strcmp(type, "json_schema") != 0 || !ask->schema)
        return openai_refuse(
            error, 400, invalid, "response_format",
            "response_format: expected {\"type\": \"text\"}, {\"type\": \"json_object\"} or {\"type\": "
            "\"json_schema\", \"json_schema\": {\"name\": .., \"schema\": {..}}}");
    return true;
}

static bool read_logprobs(struct openai_ask *ask, struct openai_error *error)
{
    json_int_t top = 0;
    if (ask->kind == OPENAI_COMPLETION) {
        ask->request.logprobs = field(ask->body, "logprobs") != NULL;
        if (!whole(ask->body, "logprobs", 0, 20, &top, error))
            return false;
    } else if (!openai_flag(ask->body, "logprobs", &ask->request.logprobs, error) ||
               !whole(ask->body, "top_logprobs", 0, 20, &top, error)) {
        return false;
    }
    if (top > 0 && !ask->request.logprobs)
        return openai_refuse(error, 400, invalid, "top_logprobs", "top_logprobs: needs logprobs: true");
    ask->request.top_logprobs = (uint32_t)top;
    return true;
}

static bool read_lengths(struct openai_ask *ask, uint32_t tokens_max, struct openai_error *error)
{
    json_int_t most = ask->kind == OPENAI_COMPLETION ? 16 : tokens_max, n = 1, priority = 0, deadline = 0;
    if (!whole(ask->body, "max_tokens", 1, 1 << 24, &most, error) ||
        !whole(ask->body, "max_completion_tokens", 1, 1 << 24, &most, error) ||
        !whole(ask->body, "n", 1, OPENAI_CHOICES_MAX, &n, error) ||
        !whole(ask->body, "priority", INT32_MIN, INT32_MAX, &priority, error) ||
        !whole(ask->body, "timeout_ms", 1, 1ll << 40, &deadline, error))
        return false;
    ask->request.tokens_max = (uint32_t)most;
    ask->request.priority = (int32_t)priority;
    ask->request.deadline_ms = (uint64_t)deadline;
    ask->n = (uint32_t)n;
    return true;
}

static bool read_resumed(struct openai_ask *ask, uint32_t vocab, struct openai_error *error)
{
    const json_t *drawn = field(ask->body, "resume_tokens");
    json_int_t choice = 0;
    if (!whole(ask->body, "choice", 0, OPENAI_CHOICES_MAX - 1, &choice, error))
        return false;
    ask->request.sampling.choice = (uint32_t)choice;
    if (!drawn)
        return true;
    if (!json_is_array(drawn) || ask->n != 1 || !ask->seed_given)
        return openai_refuse(error, 400, invalid, "resume_tokens",
                             "resume_tokens: expected the token ids drawn so far of one choice, with its seed");
    ask->drawn = bg_alloc_array(json_array_size(drawn) + 1, sizeof *ask->drawn);
    ask->request.drawn = ask->drawn;
    ask->request.drawn_count = (uint32_t)json_array_size(drawn);
    return check_ids(drawn, "resume_tokens", vocab, error, ask->drawn);
}

// What would change the answer and cannot be done is refused, never passed over.
static bool refuse_unsupported(const struct openai_ask *ask, struct openai_error *error)
{
    static const struct {
        const char *name;
        double neutral; // a number that asks for nothing
    } fields[] = {{"tools", 0},          {"functions", 0},         {"suffix", 0},
                  {"audio", 0},          {"prediction", 0},        {"web_search_options", 0},
                  {"min_tokens", 0},     {"stop_token_ids", 0},    {"repetition_penalty", 1},
                  {"length_penalty", 1}, {"typical_p", 1},         {"mirostat", 0},
                  {"n_predict", -1},     {"use_beam_search", 0},   {"guided_json", 0},
                  {"guided_regex", 0},   {"guided_choice", 0},     {"guided_grammar", 0},
                  {"json_schema", 0},    {"chat_template", 0},     {"continue_final_message", 0},
                  {"bad_words", 0},      {"allowed_token_ids", 0}, {"structured_outputs", 0},
                  {"dry_multiplier", 0}, {"xtc_probability", 0},   {"dynatemp_range", 0},
                  {"tfs_z", 1},          {"top_n_sigma", -1},      {"include_stop_str_in_output", 0}};
    for (size_t i = 0; i < sizeof fields / sizeof *fields; i++) {
        const json_t *v = field(ask->body, fields[i].name);
        const double number = json_number_value(v), neutral = fields[i].neutral;
        const bool empty = json_is_array(v)    ? json_array_size(v) == 0
                           : json_is_string(v) ? json_string_length(v) == 0
                           : json_is_number(v) ? number >= neutral && number <= neutral
                                               : json_is_false(v);
        if (v && !empty)
            return openai_refuse(error, 400, invalid, fields[i].name, "%s: not supported", fields[i].name);
    }
    const json_t *kinds = field(ask->body, "modalities"), *extra = field(ask->body, "chat_template_kwargs");
    const char *kind = json_string_value(json_array_get(kinds, 0));
    if (kinds && (json_array_size(kinds) != 1 || !kind || strcmp(kind, "text") != 0))
        return openai_refuse(error, 400, invalid, "modalities", "modalities: expected [\"text\"]");
    if (extra && !json_is_object(extra))
        return openai_refuse(error, 400, invalid, "chat_template_kwargs", "chat_template_kwargs: expected an object");
    static const char *const choices[] = {"tool_choice", "function_call"};
    for (size_t i = 0; i < sizeof choices / sizeof *choices; i++) {
        const json_t *choice = field(ask->body, choices[i]);
        const char *how = json_string_value(choice);
        if (choice && !(how && (strcmp(how, "none") == 0 || strcmp(how, "auto") == 0)))
            return openai_refuse(error, 400, invalid, choices[i], "%s: only \"none\" and \"auto\": there are no tools",
                                 choices[i]);
    }
    json_int_t best = ask->n;
    if (!whole(ask->body, "best_of", 1, OPENAI_CHOICES_MAX, &best, error))
        return false;
    if (best != ask->n)
        return openai_refuse(error, 400, invalid, "best_of", "best_of: only as many as n");
    if (ask->echo && (ask->kind == OPENAI_CHAT || ask->request.logprobs))
        return openai_refuse(error, 400, invalid, "echo", "echo: only in completions, and without logprobs");
    return true;
}

static bool read_all(struct openai_ask *ask, uint32_t vocab, uint32_t tokens_max, struct openai_error *error)
{
    json_t *options = field(ask->body, "stream_options"), *model = field(ask->body, "model");
    ask->cache_prompt = true;
    if (model && !json_is_string(model))
        return openai_refuse(error, 400, invalid, "model", "model: expected a string");
    ask->model = json_string_value(model);
    ask->messages = ask->kind == OPENAI_CHAT ? field(ask->body, "messages") : NULL;
    if (options && !json_is_object(options))
        return openai_refuse(error, 400, invalid, "stream_options", "stream_options: expected an object");
    if (!(ask->kind == OPENAI_CHAT ? openai_messages(ask->messages, error) : read_prompt(ask, vocab, error)) ||
        !openai_flag(ask->body, "stream", &ask->stream, error) || !openai_flag(ask->body, "echo", &ask->echo, error) ||
        !openai_flag(ask->body, "return_tokens", &ask->return_tokens, error) ||
        !openai_flag(ask->body, "cache_prompt", &ask->cache_prompt, error) ||
        !openai_flag(ask->body, "ignore_eos", &ask->request.ignore_eos, error) ||
        !openai_flag(options, "include_usage", &ask->include_usage, error) || !read_sampling(ask, vocab, error) ||
        !read_lengths(ask, tokens_max, error) || !read_stops(ask, error) || !read_logprobs(ask, error) ||
        !read_format(ask, error) || !read_resumed(ask, vocab, error) || !refuse_unsupported(ask, error))
        return false;
    ask->request.cache_prompt = ask->cache_prompt;
    const size_t prompts = ask->ids ? json_array_size(ask->ids) : ask->texts.count;
    if (ask->kind == OPENAI_COMPLETION && prompts * ask->n > OPENAI_CHOICES_MAX)
        return openai_refuse(error, 400, invalid, "n", "n: %zu prompts with %u choices each, at most %d in all",
                             prompts, ask->n, OPENAI_CHOICES_MAX);
    if (options && !ask->stream)
        return openai_refuse(error, 400, invalid, "stream_options", "stream_options: only with stream: true");
    return true;
}

bool openai_parse(enum openai_kind kind, const char *body, size_t size, uint32_t vocab, uint32_t tokens_max,
                  struct openai_error *error, struct openai_ask *ask)
{
    json_error_t at;
    *ask = (struct openai_ask){.kind = kind, .n = 1};
    ask->body = json_loadb(body, size, JSON_REJECT_DUPLICATES, &at);
    if (!ask->body)
        return openai_refuse(error, 400, invalid, "", "the body is no JSON: line %d, column %d: %s", at.line, at.column,
                             at.text);
    bool good = json_is_object(ask->body) || openai_refuse(error, 400, invalid, "", "the body is no JSON object");
    good = good && read_all(ask, vocab, tokens_max, error);
    if (!good)
        openai_ask_fini(ask);
    return good;
}

void openai_ask_release(struct openai_ask *ask)
{
    json_decref(ask->ids);
    json_decref(ask->body);
    ask->body = ask->messages = ask->ids = ask->schema = NULL;
    ask->grammar = ask->model = NULL;
}

void openai_ask_fini(struct openai_ask *ask)
{
    openai_ask_release(ask);
    bg_strlist_fini(&ask->texts);
    for (uint32_t i = 0; i < ask->request.stop_count; i++)
        bg_free((void *)(uintptr_t)ask->request.stops[i]);
    bg_free((void *)(uintptr_t)ask->request.stops);
    bg_free((void *)(uintptr_t)ask->request.sampling.biases);
    bg_free(ask->drawn);
    *ask = (struct openai_ask){0};
}
