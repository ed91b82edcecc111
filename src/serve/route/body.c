// The body of a text request: read once, by any thread, and written anew for each replica that goes on with a choice of
// it. Kept as JSON's text, so that writing it again costs no more than copying.
#include "serve/route/route_int.h"

#include "base/mem.h"

#include <string.h>

enum { CHOICES_MAX = 32 };

static json_t *field(const json_t *body, const char *name)
{
    json_t *value = json_object_get(body, name);
    return json_is_null(value) ? NULL : value;
}

static bool flag(const json_t *body, const char *name, bool *value)
{
    const json_t *v = field(body, name);
    *value = json_is_true(v);
    return !v || json_is_boolean(v);
}

static bool whole(const json_t *body, const char *name, json_int_t low, json_int_t high, json_int_t *value)
{
    const json_t *v = field(body, name);
    if (v)
        *value = json_integer_value(v);
    return !v || (json_is_integer(v) && *value >= low && *value <= high);
}

static json_t *prompt_at(const json_t *body, const struct answer *a, uint32_t p)
{
    json_t *prompt = json_object_get(body, a->chat ? "messages" : "prompt"), *first = json_array_get(prompt, 0);
    return !a->chat && json_is_array(prompt) && !json_is_integer(first) ? json_array_get(prompt, p) : prompt;
}

// How many prompts; 0: what stands there is none, and a replica shall say so.
static size_t prompts_of(const json_t *body, bool chat)
{
    const json_t *prompt = field(body, chat ? "messages" : "prompt"), *first = json_array_get(prompt, 0);
    if (chat || json_is_string(prompt) || json_is_integer(first))
        return prompt != NULL;
    return first ? json_array_size(prompt) : 0;
}

// Only what the router itself needs to know; the rest is for the replicas to judge.
static bool read_fields(const json_t *o, struct answer *a)
{
    json_t *options = field(o, "stream_options"), *drawn = field(o, "resume_tokens"), *probs = field(o, "logprobs");
    const size_t prompts = prompts_of(o, a->chat);
    json_int_t n = 1, best = 0, most = 0;
    if (!json_is_object(o) || prompts == 0 || !flag(o, "stream", &a->stream) || !flag(o, "echo", &a->echo) ||
        !flag(o, "return_tokens", &a->return_tokens) || !flag(options, "include_usage", &a->include_usage) ||
        !whole(o, "n", 1, CHOICES_MAX, &n) || !whole(o, "best_of", n, n, &best) ||
        !whole(o, "choice", 0, CHOICES_MAX - 1, &a->choice) || !whole(o, "seed", INT64_MIN, INT64_MAX, &a->seed) ||
        !whole(o, "max_tokens", 1, 1 << 24, &most) || !whole(o, "max_completion_tokens", 1, 1 << 24, &most) ||
        prompts * (size_t)n > CHOICES_MAX || (options && (!a->stream || !json_is_object(options))) ||
        (drawn && (!json_is_array(drawn) || n != 1 || prompts != 1 || !field(o, "seed"))))
        return false;
    a->seed_given = field(o, "seed") != NULL;
    a->logprobs = a->chat ? json_is_true(probs) : probs != NULL;
    a->max_tokens = (uint32_t)(most ? most : a->chat ? UINT32_MAX : 16);
    a->n = (uint32_t)n;
    a->count = (uint32_t)prompts * a->n;
    if (a->choice + a->count > CHOICES_MAX && a->count > 1) // the keys of draws stay below what a replica takes
        return false;
    if (!whole(o, "timeout_ms", 1, INT64_MAX, &a->timeout_ms))
        a->timeout_ms = 0;
    return true;
}

static bool keep(json_t *o, struct answer *a)
{
    static const char *const ours[] = {
        "n", "best_of", "choice", "seed", "stream", "return_tokens", "stream_options", "echo", "resume_tokens"};
    const json_t *drawn = field(o, "resume_tokens");
    a->drawn_count = (uint32_t)json_array_size(drawn);
    a->drawn = bg_alloc_array(a->drawn_count + 1u, sizeof *a->drawn);
    for (uint32_t i = 0; i < a->drawn_count; i++)
        a->drawn[i] = (int32_t)json_integer_value(json_array_get(drawn, i));
    a->prompt_count = a->count / a->n;
    a->prompts = bg_alloc_array(a->prompt_count + 1u, sizeof *a->prompts);
    bool good = true;
    for (uint32_t p = 0; p < a->prompt_count && good; p++)
        good = (a->prompts[p] = json_dumps(prompt_at(o, a, p), JSON_COMPACT | JSON_ENCODE_ANY)) != NULL;
    for (size_t i = 0; i < sizeof ours / sizeof *ours; i++)
        json_object_del(o, ours[i]);
    json_object_del(o, a->chat ? "messages" : "prompt");
    if (a->timeout_ms > 0)
        json_object_del(o, "timeout_ms");
    a->rest = good ? json_dumps(o, JSON_COMPACT) : NULL;
    if (a->rest)
        a->rest[strlen(a->rest) - 1] = '\0';
    return a->rest != NULL;
}

struct answer *body_read(const char *body, size_t size, bool chat)
{
    struct answer *a = bg_alloc(sizeof *a);
    *a = (struct answer){.chat = chat};
    json_t *o = json_loadb(body, size, JSON_REJECT_DUPLICATES, NULL);
    const bool good = read_fields(o, a) && keep(o, a);
    json_decref(o);
    if (good)
        return a;
    body_free(a);
    return NULL;
}

char *body_write(const struct branch *b, uint64_t now)
{
    const struct answer *a = b->answer;
    struct bg_str s = {0};
    bg_str_add(&s, a->rest);
    bg_str_add(&s, a->rest[1] ? "," : "");
    bg_str_add(&s, a->chat ? "\"messages\":" : "\"prompt\":");
    bg_str_add(&s, a->prompts[b->index / a->n]);
    bg_str_addf(&s,
                ",\"choice\":%lld,\"seed\":%lld,\"stream\":true,\"return_tokens\":true,"
                "\"stream_options\":{\"include_usage\":true}",
                (long long)a->choice + b->index, (long long)a->seed);
    if (a->echo && !b->echoed)
        bg_str_add(&s, ",\"echo\":true");
    if (a->timeout_ms > 0) {
        const json_int_t gone = (json_int_t)((now - a->visit->arrived_ns) / 1000000u);
        bg_str_addf(&s, ",\"timeout_ms\":%lld", (long long)(a->timeout_ms > gone ? a->timeout_ms - gone : 1));
    }
    for (uint32_t i = 0; i < b->count; i++)
        bg_str_addf(&s, "%s%d", i ? "," : ",\"resume_tokens\":[", b->tokens[i]);
    bg_str_add(&s, b->count > 0 ? "]}" : "}");
    return bg_str_take(&s);
}

void body_free(struct answer *a)
{
    for (uint32_t p = 0; p < a->prompt_count; p++)
        bg_free(a->prompts[p]);
    bg_free(a->prompts);
    bg_free(a->rest);
    bg_free(a->drawn);
    bg_free(a);
}
