// The records of the replicas' streams, made into those of one server: one id, nothing twice, only what was asked for.
// A record's text is given to the client and its tokens are committed in one go, so that a chain that goes on after the
// committed tokens repeats nothing. The one text that could come again is what the end of a stream sets free (it
// has no token of its own): it waits until the finish is there.
#include "serve/route/route_int.h"

#include "base/mem.h"

#include <string.h>

enum { TEXT_FLAGS = JSON_COMPACT | JSON_REAL_PRECISION(9) }; // as the replicas write
#define COUNT_MAX ((json_int_t)1 << 40)

static void put(struct visit *v, const json_t *o)
{
    char *text = json_dumps(o, TEXT_FLAGS);
    bg_str_add(&v->out, "data: ");
    bg_str_add(&v->out, text ? text : "{}");
    bg_str_add(&v->out, "\n\n");
    bg_free(text);
}

static json_int_t characters(const char *text)
{
    json_int_t count = 0;
    for (; text && *text; text++)
        count += ((unsigned char)*text & 0xc0) != 0x80;
    return count;
}

// What a replica counts; 0 where it cannot be true.
static json_int_t count_of(const json_t *value)
{
    const json_int_t count = json_integer_value(value);
    return count < 0 || count > COUNT_MAX ? 0 : count;
}

// A replica that goes on counts characters from its own beginning.
static void shift_offsets(struct branch *b, json_t *logprobs)
{
    json_t *offsets = json_object_get(logprobs, "text_offset"), *tokens = json_object_get(logprobs, "tokens");
    for (size_t i = 0; i < json_array_size(offsets); i++) {
        json_array_set_new(offsets, i, json_integer(b->offset_base + count_of(json_array_get(offsets, i))));
        b->offset += characters(json_string_value(json_array_get(tokens, i)));
    }
}

// Ids, and not more than were asked for.
static bool tokens_good(const struct branch *b, const json_t *ids, const char **why)
{
    const size_t asked = b->answer->max_tokens, most = asked && asked < TOKENS_MAX ? asked : TOKENS_MAX;
    *why = "it draws more tokens than were asked for";
    if (b->count - b->given + json_array_size(ids) > most)
        return false;
    *why = "its stream holds tokens that are no ids";
    for (size_t i = 0; i < json_array_size(ids); i++) {
        const json_t *id = json_array_get(ids, i);
        if (!json_is_integer(id) || json_integer_value(id) < 0 || json_integer_value(id) > INT32_MAX)
            return false;
    }
    return !ids || json_is_array(ids);
}

static void commit(struct branch *b, const json_t *ids)
{
    const size_t count = json_array_size(ids);
    if (b->count + count > b->capacity) {
        b->capacity = (uint32_t)(2 * b->capacity + count + 64);
        b->tokens = bg_realloc_array(b->tokens, b->capacity, sizeof *b->tokens);
    }
    for (size_t i = 0; i < count; i++)
        b->tokens[b->count++] = (int32_t)json_integer_value(json_array_get(ids, i));
}

static void extend(json_t *list, const json_t *more)
{
    for (size_t i = 0; i < json_array_size(more); i++)
        json_array_append(list, json_array_get(more, i));
}

static void gather(struct branch *b, json_t *choice, const json_t *finish)
{
    json_t *delta = json_object_get(choice, "delta"), *probs = json_object_get(choice, "logprobs"), *part;
    const json_t *text = delta ? json_object_get(delta, "content") : json_object_get(choice, "text");
    const char *key;
    bg_str_add_bytes(&b->text, json_string_value(text) ? json_string_value(text) : "", json_string_length(text));
    if (!b->ids)
        b->ids = json_array();
    extend(b->ids, json_object_get(choice, "tokens"));
    if (json_is_string(finish) && !b->finish)
        b->finish = json_deep_copy(finish);
    if (!json_is_object(probs))
        return;
    if (!b->logprobs) {
        b->logprobs = json_incref(probs);
        return;
    }
    json_object_foreach(b->logprobs, key, part) extend(part, json_object_get(probs, key));
}

// The first replica that speaks gives the answer its name.
static void name_answer(struct answer *a, json_t *o)
{
    static const char *const names[] = {"id", "object", "created", "model", "system_fingerprint"};
    if (!a->frame) {
        a->frame = json_object();
        for (size_t i = 0; i < sizeof names / sizeof *names; i++)
            json_object_set(a->frame, names[i], json_object_get(o, names[i]));
        return;
    }
    json_object_set(o, "id", json_object_get(a->frame, "id"));
    json_object_set(o, "created", json_object_get(a->frame, "created"));
    json_object_set(o, "model", json_object_get(a->frame, "model"));
}

static void give(struct branch *b, json_t *o, json_t *choice, const json_t *finish)
{
    struct answer *a = b->answer;
    name_answer(a, o);
    commit(b, json_object_get(choice, "tokens"));
    shift_offsets(b, json_object_get(choice, "logprobs"));
    json_object_set_new(choice, "index", json_integer(b->index));
    if (!a->stream) {
        gather(b, choice, finish);
    } else {
        if (!a->return_tokens)
            json_object_del(choice, "tokens");
        if (!a->include_usage)
            json_object_del(o, "usage");
        if (b->begun) // the seed stands in a choice's first chunk only
            json_object_del(o, "seed");
        put(a->visit, o);
    }
    b->begun = true;
    b->told_finish |= json_is_string(finish);
}

static void note_usage(struct branch *b, const json_t *usage)
{
    if (!json_is_object(usage))
        return;
    b->prompt_tokens = count_of(json_object_get(usage, "prompt_tokens"));
    b->drawn_tokens = count_of(json_object_get(usage, "completion_tokens"));
    b->cached_tokens = count_of(json_object_get(json_object_get(usage, "prompt_tokens_details"), "cached_tokens"));
}

void record_drop_held(struct branch *b)
{
    json_decref(b->held);
    b->held = NULL;
}

static void give_held(struct branch *b)
{
    json_t *o = b->held, *choice = json_array_get(json_object_get(o, "choices"), 0);
    b->held = NULL;
    if (o)
        give(b, o, choice, json_object_get(choice, "finish_reason"));
    json_decref(o);
}

// The replica ended the request, not the request itself: somebody else goes on. "failed" is none of these: what the
// model computes is the same everywhere.
static const char *broken_off(const json_t *finish)
{
    static const char *const names[] = {"handed-over", "cancelled"};
    for (size_t i = 0; json_is_string(finish) && i < sizeof names / sizeof *names; i++)
        if (strcmp(json_string_value(finish), names[i]) == 0)
            return names[i];
    return NULL;
}

static bool take_choice(struct branch *b, json_t *o, json_t *choice, const char **why)
{
    const json_t *finish = json_object_get(choice, "finish_reason"), *tokens = json_object_get(choice, "tokens"),
                 *delta = json_object_get(choice, "delta");
    const json_t *text = delta ? json_object_get(delta, "content") : json_object_get(choice, "text");
    if (broken_off(finish)) {
        *why = broken_off(finish);
        b->answer->visit->route->handed_over += strcmp(*why, "handed-over") == 0;
        return false;
    }
    if (b->told_finish)
        return true;
    if (!tokens_good(b, tokens, why))
        return false;
    if (!tokens && !json_is_string(finish)) { // the role, or the prompt's echo: no token's text
        const bool again = json_object_get(delta, "role") ? b->begun : b->echoed;
        if (!json_object_get(delta, "role"))
            b->echoed = true;
        if (!again)
            give(b, o, choice, finish);
    } else if (!json_is_string(finish) && json_array_size(tokens) == 0 && json_string_length(text) > 0) {
        give_held(b);
        b->held = json_incref(o);
    } else {
        give_held(b);
        give(b, o, choice, finish);
    }
    return true;
}

bool record_take(struct branch *b, const char *data, size_t size, const char **why)
{
    if (size == 6 && memcmp(data, "[DONE]", 6) == 0) {
        b->done = b->told_finish;
        *why = "its stream ended without a finish";
        return b->done;
    }
    b->came += size;
    if (!b->answer->stream && b->came > BODY_MAX) { // a stream is bounded by who reads it
        *why = "its answer does not end";
        return false;
    }
    json_t *o = json_loadb(data, size, JSON_ALLOW_NUL, NULL), *choices = json_object_get(o, "choices"),
           *choice = json_array_get(choices, 0);
    bool good = json_is_object(o) && json_is_array(choices) && json_array_size(choices) <= 1 &&
                (!choice || json_is_object(choice));
    *why = "its stream holds what is no chunk";
    if (good && b->answer->frame &&
        !json_equal(json_object_get(o, "model"), json_object_get(b->answer->frame, "model"))) {
        *why = "it serves a model of another name"; // whose tokens would be others
        good = false;
    }
    note_usage(b, json_object_get(o, "usage"));
    if (good && choice)
        good = take_choice(b, o, choice, why);
    json_decref(o);
    return good;
}

// ---- The whole ----
static json_t *usage_json(const struct answer *a)
{
    json_int_t prompt = 0, cached = 0, drawn = 0;
    for (uint32_t i = 0; i < a->count; i++) {
        if (i % a->n == 0) { // choices of one prompt share it
            prompt += a->branches[i].prompt_tokens;
            cached += a->branches[i].cached_tokens;
        }
        drawn += a->branches[i].drawn_tokens;
    }
    return json_pack("{s:I, s:I, s:I, s:{s:I}}", "prompt_tokens", prompt, "completion_tokens", drawn, "total_tokens",
                     prompt + drawn, "prompt_tokens_details", "cached_tokens", cached);
}

void record_usage(const struct answer *a, struct bg_str *out)
{
    json_t *o = json_copy(a->frame);
    json_object_set_new(o, "choices", json_array());
    json_object_set_new(o, "usage", usage_json(a));
    char *text = json_dumps(o, TEXT_FLAGS);
    bg_str_addf(out, "data: %s\n\n", text ? text : "{}");
    bg_free(text);
    json_decref(o);
}

static json_t *choice_json(const struct answer *a, struct branch *b)
{
    json_t *text = json_stringn(bg_str_text(&b->text), b->text.size), *none = NULL;
    if (!a->logprobs)
        none = json_null();
    else if (a->chat)
        none = json_pack("{s:[], s:n}", "content", "refusal");
    else
        none = json_pack("{s:[], s:[], s:[], s:[]}", "tokens", "token_logprobs", "top_logprobs", "text_offset");
    json_t *probs = b->logprobs ? json_incref(b->logprobs) : json_incref(none);
    json_decref(none);
    json_t *o =
        json_pack("{s:I, s:o, s:o, s:O}", "index", (json_int_t)b->index, a->chat ? "message" : "text",
                  a->chat ? json_pack("{s:s, s:o, s:n}", "role", "assistant", "content", text, "refusal") : text,
                  "logprobs", probs, "finish_reason", b->finish);
    if (a->return_tokens && b->ids)
        json_object_set(o, "tokens", b->ids);
    return o;
}

json_t *record_answer(const struct answer *a)
{
    json_t *list = json_array(), *o = json_copy(a->frame);
    for (uint32_t i = 0; i < a->count; i++)
        json_array_append_new(list, choice_json(a, &a->branches[i]));
    json_object_set_new(o, "object", json_string(a->chat ? "chat.completion" : "text_completion"));
    json_object_set_new(o, "choices", list);
    json_object_set_new(o, "usage", usage_json(a));
    json_object_set_new(o, "seed", json_integer(a->seed));
    return o;
}
