// Bodies of requests: any bytes become a request within its bounds, or are refused by name; what was asked is answered
// in JSON that reads back.
#include "serve/openai.h"

#include "base/assert.h"
#include "base/mem.h"
#include "os/live.h"

#include <string.h>

enum { VOCAB = 257 };
int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static struct tokenizer *the_bytes(void)
{
    static struct tokenizer *bytes;
    static struct bg_env *env;
    const struct os_options options = {.threads = 1};
    struct bg_error err;
    if (!bytes && (os_env_create(&options, &err, &env) || tokenizer_open(env, "bytes", &err, &bytes)))
        __builtin_trap();
    return bytes;
}

static void check_refusal(struct openai_error *error)
{
    json_t *json = openai_error_json(error);
    BG_ASSERT(error->http >= 400 && error->http < 500 && error->err.text[0]);
    BG_ASSERT(json_string_length(json_object_get(json_object_get(json, "error"), "message")) > 0);
    json_decref(json);
}

static void answer(const struct openai_ask *ask, const uint8_t *data, size_t size)
{
    const struct openai_reply reply = {ask, the_bytes(), "id", "model", 1};
    struct openai_choice choice = {0};
    struct bg_str out = {0};
    const int32_t token = size ? data[0] : 0;
    struct serve_logprob logprobs[21] = {{token, -1}};
    const struct serve_event event = {.tokens = &token,
                                      .token_count = 1,
                                      .text = (const char *)data,
                                      .text_bytes = size < 100 ? size : 100,
                                      .logprobs = ask->request.logprobs ? logprobs : NULL,
                                      .finish = SERVE_STOP};
    openai_chunk(&reply, &choice, &event, &out);
    for (char *at = out.data, *end; at && *at; at = end + 2) {
        end = strstr(at, "\n\n");
        BG_ASSERT(end && memcmp(at, "data: ", 6) == 0);
        json_t *chunk = json_loadb(at + 6, (size_t)(end - at) - 6, JSON_ALLOW_NUL, NULL);
        BG_ASSERT(json_is_object(chunk));
        json_decref(chunk);
    }
    openai_gather(&reply, &choice, &event);
    json_t *whole = openai_answer(&reply, &choice, 1);
    BG_ASSERT(json_is_object(whole));
    json_decref(whole);
    openai_choice_fini(&choice);
    bg_str_fini(&out);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    struct openai_error error;
    for (enum openai_kind kind = OPENAI_COMPLETION; kind <= OPENAI_CHAT; kind++) {
        struct openai_ask ask;
        if (!openai_parse(kind, (const char *)data, size, VOCAB, 100, &error, &ask)) {
            check_refusal(&error);
            continue;
        }
        const struct serve_request *r = &ask.request;
        BG_ASSERT(ask.n >= 1 && ask.n <= OPENAI_CHOICES_MAX && r->stop_count <= OPENAI_STOPS_MAX &&
                  r->top_logprobs <= 20);
        BG_ASSERT(r->tokens_max >= 1 && r->sampling.bias_count <= OPENAI_BIASES_MAX && r->sampling.temperature >= 0);
        for (uint32_t i = 0; i < r->sampling.bias_count; i++)
            BG_ASSERT(r->sampling.biases[i].id >= 0 && r->sampling.biases[i].id < VOCAB);
        for (uint32_t i = 0; i < r->stop_count; i++)
            BG_ASSERT(r->stops[i][0]);
        answer(&ask, data, size);
        openai_ask_fini(&ask);
    }
    struct openai_embed embed;
    if (openai_parse_embed((const char *)data, size, VOCAB, &error, &embed))
        openai_embed_fini(&embed);
    else
        check_refusal(&error);
    return 0;
}
