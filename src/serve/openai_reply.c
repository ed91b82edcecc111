// Writing answers, whole or in chunks.
#include "base/mem.h"
#include "serve/openai.h"

#include <string.h>

const char *openai_finish(enum serve_finish finish)
{
    switch (finish) {
    case SERVE_RUNNING:
        return NULL;
    case SERVE_STOP:
        return "stop";
    case SERVE_LENGTH:
    case SERVE_CONTEXT:
        return "length";
    default:
        return serve_finish_name(finish);
    }
}

// Length of the UTF-8 character at `at`, 0 where there is none.
static size_t character(const unsigned char *at, size_t left)
{
    if (at[0] < 0x80)
        return 1;
    const size_t length = at[0] >= 0xf5 ? 0 : at[0] >= 0xf0 ? 4 : at[0] >= 0xe0 ? 3 : at[0] >= 0xc2 ? 2 : 0;
    if (length == 0 || length > left)
        return 0;
    for (size_t i = 1; i < length; i++)
        if ((at[i] & 0xc0) != 0x80)
            return 0;
    const bool good = !(at[0] == 0xe0 && at[1] < 0xa0) && !(at[0] == 0xed && at[1] > 0x9f) &&
                      !(at[0] == 0xf0 && at[1] < 0x90) && !(at[0] == 0xf4 && at[1] > 0x8f);
    return good ? length : 0;
}

json_t *openai_text(const char *bytes, size_t size)
{
    struct bg_str text = {0};
    for (size_t i = 0; i < size;) {
        const size_t length = character((const unsigned char *)bytes + i, size - i);
        bg_str_add_bytes(&text, length ? bytes + i : "\xef\xbf\xbd", length ? length : 3);
        i += length ? length : 1;
    }
    json_t *json = json_stringn_nocheck(bg_str_text(&text), text.size);
    bg_str_fini(&text);
    return json;
}

// ---- Log probabilities ----
static json_t *token_text(const struct openai_reply *reply, int32_t id, const char **bytes, size_t *size)
{
    tokenizer_token_bytes(reply->tokenizer, 0, id, bytes, size);
    return openai_text(*bytes, *size);
}

static json_t *chat_logprob(const struct openai_reply *reply, const struct serve_logprob *p)
{
    const char *bytes;
    size_t size;
    json_t *text = token_text(reply, p->id, &bytes, &size), *list = json_array();
    for (size_t i = 0; i < size; i++)
        json_array_append_new(list, json_integer((unsigned char)bytes[i]));
    return json_pack("{s:o, s:f, s:o}", "token", text, "logprob", (double)p->logprob, "bytes", list);
}

// One entry a token, as the chat API has it; the older form is made of these at the end.
static void add_logprobs(const struct openai_reply *reply, json_t *list, const struct serve_event *event)
{
    const uint32_t stride = 1 + reply->ask->request.top_logprobs;
    for (uint32_t t = 0; event->logprobs && t < event->token_count; t++) {
        json_t *entry = chat_logprob(reply, event->logprobs + (size_t)t * stride), *top = json_array();
        for (uint32_t k = 1; k < stride; k++) {
            const struct serve_logprob *other = event->logprobs + (size_t)t * stride + k;
            if (other->id >= 0) // a vocabulary may hold fewer than were asked for
                json_array_append_new(top, chat_logprob(reply, other));
        }
        json_object_set_new(entry, "top_logprobs", top);
        json_array_append_new(list, entry);
    }
}

static json_int_t characters(const char *text)
{
    json_int_t count = 0;
    for (; *text; text++)
        count += ((unsigned char)*text & 0xc0) != 0x80;
    return count;
}

static json_t *logprobs_json(const struct openai_reply *reply, json_t *list, json_int_t *offset)
{
    if (!reply->ask->request.logprobs) {
        json_decref(list);
        return json_null();
    }
    if (reply->ask->kind == OPENAI_CHAT)
        return json_pack("{s:o, s:n}", "content", list, "refusal");
    json_t *tokens = json_array(), *values = json_array(), *tops = json_array(), *offsets = json_array();
    for (size_t i = 0; i < json_array_size(list); i++) {
        const json_t *entry = json_array_get(list, i), *alternatives = json_object_get(entry, "top_logprobs");
        json_t *top = json_object();
        json_array_append(tokens, json_object_get(entry, "token"));
        json_array_append(values, json_object_get(entry, "logprob"));
        for (size_t k = 0; k < json_array_size(alternatives); k++) {
            const json_t *other = json_array_get(alternatives, k);
            json_object_set(top, json_string_value(json_object_get(other, "token")), json_object_get(other, "logprob"));
        }
        if (json_array_size(alternatives) > 0) // the one that was drawn is always among them
            json_object_set(top, json_string_value(json_object_get(entry, "token")), json_object_get(entry, "logprob"));
        json_array_append_new(tops, top);
        json_array_append_new(offsets, json_integer(*offset));
        *offset += characters(json_string_value(json_object_get(entry, "token")));
    }
    json_decref(list);
    return json_pack("{s:o, s:o, s:o, s:o}", "tokens", tokens, "token_logprobs", values, "top_logprobs", tops,
                     "text_offset", offsets);
}

// ---- Frames ----
static json_t *frame(const struct openai_reply *reply, bool chunk, json_t *choices)
{
    const bool chat = reply->ask->kind == OPENAI_CHAT;
    const char *object = chat ? (chunk ? "chat.completion.chunk" : "chat.completion") : "text_completion";
    return json_pack("{s:s, s:s, s:I, s:s, s:s, s:o}", "id", reply->id, "object", object, "created",
                     (json_int_t)reply->created, "model", reply->model, "system_fingerprint", "brigade", "choices",
                     choices);
}

static json_t *usage(const struct openai_choice *choices, uint32_t count, uint32_t each)
{
    json_int_t prompt = 0, cached = 0, drawn = 0;
    for (uint32_t i = 0; i < count; i++) {
        if (i % each == 0) { // choices of one prompt share it
            prompt += choices[i].prompt_tokens;
            cached += choices[i].cached_tokens;
        }
        drawn += choices[i].drawn_tokens;
    }
    return json_pack("{s:I, s:I, s:I, s:{s:I}}", "prompt_tokens", prompt, "completion_tokens", drawn, "total_tokens",
                     prompt + drawn, "prompt_tokens_details", "cached_tokens", cached);
}

static void add_seed(const struct openai_reply *reply, json_t *o)
{
    json_object_set_new(o, "seed", json_integer((json_int_t)reply->ask->request.sampling.seed));
}

static void put(struct bg_str *out, json_t *o)
{
    char *text = json_dumps(o, JSON_COMPACT | JSON_REAL_PRECISION(9));
    bg_str_add(out, "data: ");
    bg_str_add(out, text ? text : "{}");
    bg_str_add(out, "\n\n");
    bg_free(text);
    json_decref(o);
}

static json_t *ids_json(const int32_t *ids, size_t count)
{
    json_t *list = json_array();
    for (size_t i = 0; i < count; i++)
        json_array_append_new(list, json_integer(ids[i]));
    return list;
}

static void put_choice(const struct openai_reply *reply, struct openai_choice *c, json_t *what,
                       const struct serve_event *event, const char *finish, struct bg_str *out)
{
    json_t *list = json_array();
    if (event)
        add_logprobs(reply, list, event);
    json_t *choice = json_pack("{s:I, s:o, s:o, s:o}", "index", (json_int_t)c->index,
                               reply->ask->kind == OPENAI_CHAT ? "delta" : "text", what, "logprobs",
                               event ? logprobs_json(reply, list, &c->offset) : (json_decref(list), json_null()),
                               "finish_reason", finish ? json_string(finish) : json_null());
    if (event && reply->ask->return_tokens)
        json_object_set_new(choice, "tokens", ids_json(event->tokens, event->token_count));
    json_t *o = frame(reply, true, json_pack("[o]", choice));
    if (!c->begun)
        add_seed(reply, o);
    if (reply->ask->include_usage)
        json_object_set_new(o, "usage", json_null());
    put(out, o);
    c->begun = true;
}

static void note(struct openai_choice *c, const struct serve_event *event)
{
    c->prompt_tokens = event->prompt_tokens;
    c->cached_tokens = event->cached_tokens;
    c->drawn_tokens = event->drawn_tokens;
    c->finish = event->finish;
}

void openai_chunk(const struct openai_reply *reply, struct openai_choice *choice, const struct serve_event *event,
                  struct bg_str *out)
{
    const bool chat = reply->ask->kind == OPENAI_CHAT;
    note(choice, event);
    if (chat && !choice->begun)
        put_choice(reply, choice, json_pack("{s:s, s:s}", "role", "assistant", "content", ""), NULL, NULL, out);
    if (choice->echo.size > 0) {
        put_choice(reply, choice, openai_text(bg_str_text(&choice->echo), choice->echo.size), NULL, NULL, out);
        bg_str_reset(&choice->echo);
    }
    if (event->token_count > 0 || event->text_bytes > 0) {
        json_t *text = openai_text(event->text, event->text_bytes);
        put_choice(reply, choice, chat ? json_pack("{s:o}", "content", text) : text, event, NULL, out);
    }
    if (event->finish != SERVE_RUNNING)
        put_choice(reply, choice, chat ? json_object() : json_string(""), NULL, openai_finish(event->finish), out);
}

void openai_usage_chunk(const struct openai_reply *reply, const struct openai_choice *choices, uint32_t count,
                        struct bg_str *out)
{
    json_t *o = frame(reply, true, json_array());
    json_object_set_new(o, "usage", usage(choices, count, reply->ask->n));
    put(out, o);
}

void openai_gather(const struct openai_reply *reply, struct openai_choice *choice, const struct serve_event *event)
{
    note(choice, event);
    if (choice->echo.size > 0) { // a text of its own, as in a stream: no character begins in it and ends in the answer
        json_t *echo = openai_text(bg_str_text(&choice->echo), choice->echo.size);
        bg_str_add_bytes(&choice->text, json_string_value(echo), json_string_length(echo));
        json_decref(echo);
        bg_str_reset(&choice->echo);
    }
    bg_str_add_bytes(&choice->text, event->text, event->text_bytes);
    const size_t count = choice->token_count + event->token_count, stride = 1 + reply->ask->request.top_logprobs;
    if (count > choice->token_capacity) {
        choice->token_capacity = count * 2;
        choice->tokens = bg_realloc_array(choice->tokens, choice->token_capacity, sizeof *choice->tokens);
        if (event->logprobs)
            choice->logprobs =
                bg_realloc_array(choice->logprobs, choice->token_capacity * stride, sizeof *choice->logprobs);
    }
    for (size_t i = 0; i < event->token_count; i++)
        choice->tokens[choice->token_count + i] = event->tokens[i];
    for (size_t i = 0; event->logprobs && i < event->token_count * stride; i++)
        choice->logprobs[choice->token_count * stride + i] = event->logprobs[i];
    choice->token_count = count;
}

void openai_choice_fini(struct openai_choice *choice)
{
    bg_str_fini(&choice->echo);
    bg_str_fini(&choice->text);
    bg_free(choice->tokens);
    bg_free(choice->logprobs);
}

json_t *openai_answer(const struct openai_reply *reply, struct openai_choice *choices, uint32_t count)
{
    json_t *list = json_array();
    for (uint32_t i = 0; i < count; i++) {
        struct openai_choice *c = &choices[i];
        const struct serve_event all = {.token_count = (uint32_t)c->token_count, .logprobs = c->logprobs};
        json_t *text = openai_text(bg_str_text(&c->text), c->text.size), *probs = json_array();
        add_logprobs(reply, probs, &all);
        json_t *what = reply->ask->kind == OPENAI_CHAT
                           ? json_pack("{s:s, s:o, s:n}", "role", "assistant", "content", text, "refusal")
                           : text;
        json_t *o = json_pack("{s:I, s:o, s:o, s:s}", "index", (json_int_t)c->index,
                              reply->ask->kind == OPENAI_CHAT ? "message" : "text", what, "logprobs",
                              logprobs_json(reply, probs, &c->offset), "finish_reason",
                              openai_finish(c->finish) ? openai_finish(c->finish) : "stop");
        if (reply->ask->return_tokens)
            json_object_set_new(o, "tokens", ids_json(c->tokens, c->token_count));
        json_array_append_new(list, o);
    }
    json_t *answer = frame(reply, false, list);
    json_object_set_new(answer, "usage", usage(choices, count, reply->ask->n));
    add_seed(reply, answer);
    return answer;
}
