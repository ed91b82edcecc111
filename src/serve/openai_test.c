// OpenAI's JSON: what fields become, which values are refused and by which name; chunks and answers; bytes that are no
// text; embeddings.
#include "base/mem.h"
#include "model/step_test.h"
#include "serve/openai.h"

#include <stdarg.h>
#include <setjmp.h>
#include <cmocka.h>

enum { VOCAB = 257, MOST = 100 };

static bool parse(enum openai_kind kind, const char *body, struct openai_error *error, struct openai_ask *ask)
{
    return openai_parse(kind, body, strlen(body), VOCAB, MOST, error, ask);
}

static void defaults(void **state)
{
    (void)state;
    struct openai_error error;
    struct openai_ask ask;
    assert_true(parse(OPENAI_COMPLETION, "{\"prompt\": \"hi\"}", &error, &ask));
    const struct serve_sampling *s = &ask.request.sampling;
    assert_true(s->temperature == 1 && s->top_p == 1 && s->min_p == 0 && s->top_k == 0 && s->repeat_penalty == 1);
    assert_int_equal(ask.request.tokens_max, 16); // OpenAI's
    assert_true(ask.n == 1 && !ask.stream && ask.cache_prompt && !ask.seed_given && !ask.echo && !ask.request.logprobs);
    assert_int_equal(ask.texts.count, 1);
    openai_ask_fini(&ask);
    assert_true(parse(OPENAI_CHAT, "{\"messages\": [{\"role\": \"user\", \"content\": \"hi\"}]}", &error, &ask));
    assert_int_equal(ask.request.tokens_max, MOST);
    openai_ask_fini(&ask);
}

static void fields(void **state)
{
    (void)state;
    struct openai_error error;
    struct openai_ask ask;
    assert_true(
        parse(OPENAI_COMPLETION,
              "{\"prompt\": [[1, 2], [3]], \"temperature\": 0.5, \"top_p\": 0.9, \"top_k\": -1, \"min_p\": 0.1,"
              "\"repeat_penalty\": 1.5, \"repeat_last_n\": 7, \"presence_penalty\": 1, \"frequency_penalty\": -2,"
              "\"seed\": -1, \"n\": 2, \"max_tokens\": 9, \"stop\": [\"a\", \"b\"], \"stream\": true,"
              "\"logit_bias\": {\"200\": -100, \"3\": 1.5}, \"logprobs\": 4, \"ignore_eos\": true, \"priority\": -3,"
              "\"timeout_ms\": 50, \"cache_prompt\": false, \"stream_options\": {\"include_usage\": true},"
              "\"return_tokens\": true, \"user\": \"who\", \"suffix\": null, \"best_of\": 2, \"min_tokens\": 0}",
              &error, &ask));
    const struct serve_sampling *s = &ask.request.sampling;
    assert_true(s->temperature == 0.5f && s->top_p == 0.9f && s->top_k == 0 && s->min_p == 0.1f);
    assert_true(s->repeat_penalty == 1.5f && s->repeat_last == 7 && s->presence_penalty == 1 &&
                s->frequency_penalty == -2);
    assert_true(s->seed == UINT64_MAX && ask.seed_given && ask.n == 2 && ask.request.tokens_max == 9);
    assert_int_equal(ask.request.stop_count, 2);
    assert_string_equal(ask.request.stops[1], "b");
    assert_int_equal(s->bias_count, 2);
    assert_true(s->biases[0].id == 3 && s->biases[0].bias == 1.5f && s->biases[1].id == 200); // by id
    assert_true(ask.request.logprobs && ask.request.top_logprobs == 4 && ask.request.ignore_eos);
    assert_true(ask.request.priority == -3 && ask.request.deadline_ms == 50 && !ask.request.cache_prompt);
    assert_true(ask.stream && ask.include_usage && ask.return_tokens);
    assert_int_equal(json_array_size(ask.ids), 2);
    openai_ask_fini(&ask);
    assert_true(parse(OPENAI_COMPLETION, "{\"prompt\": [5], \"resume_tokens\": [7, 8], \"seed\": 1}", &error, &ask));
    assert_true(ask.request.drawn_count == 2 && ask.request.drawn[1] == 8 && json_array_size(ask.ids) == 1);
    openai_ask_fini(&ask);
    assert_true(parse(
        OPENAI_CHAT,
        "{\"messages\": [{\"role\": \"user\", \"content\": [{\"type\": \"text\", \"text\": \"a\"},"
        "{\"type\": \"text\", \"text\": \"b\"}]}], \"max_completion_tokens\": 5, \"logprobs\": true,"
        "\"top_logprobs\": 2, \"response_format\": {\"type\": \"json_object\"}, \"tools\": [],"
        "\"tool_choice\": \"auto\", \"function_call\": null, \"tfs_z\": 1, \"top_n_sigma\": -1, \"bad_words\": []}",
        &error, &ask));
    assert_string_equal(json_string_value(json_object_get(json_array_get(ask.messages, 0), "content")), "ab");
    assert_true(ask.request.tokens_max == 5 && ask.request.top_logprobs == 2 && json_is_null(ask.schema));
    openai_ask_fini(&ask);
}

static void refusals(void **state)
{
    (void)state;
    static const struct {
        const char *more, *param;
    } cases[] = {
        {"\"temperature\": -0.1", "temperature"},
        {"\"temperature\": \"1\"", "temperature"},
        {"\"top_p\": 1.01", "top_p"},
        {"\"min_p\": 2", "min_p"},
        {"\"top_k\": 1.5", "top_k"},
        {"\"top_k\": -2", "top_k"},
        {"\"seed\": 1.0", "seed"},
        {"\"n\": 0", "n"},
        {"\"n\": 33", "n"},
        {"\"max_tokens\": 0", "max_tokens"},
        {"\"stop\": \"\"", "stop"},
        {"\"stop\": {}", "stop"},
        {"\"stop\": [1]", "stop"},
        {"\"logit_bias\": {\"257\": 1}", "logit_bias"},
        {"\"logit_bias\": {\"x\": 1}", "logit_bias"},
        {"\"logit_bias\": {\"1\": 100.5}", "logit_bias"},
        {"\"logit_bias\": {\"1\": 1, \"01\": 1}", "logit_bias"},
        {"\"stream\": 1", "stream"},
        {"\"stream_options\": {}", "stream_options"},
        {"\"logprobs\": 21", "logprobs"},
        {"\"model\": 1", "model"},
        {"\"echo\": true, \"logprobs\": 1", "echo"},
        {"\"best_of\": 2", "best_of"},
        {"\"suffix\": \"x\"", "suffix"},
        {"\"grammar\": 1", "grammar"},
        {"\"grammar\": \"x\", \"response_format\": {\"type\": \"json_object\"}", "grammar"},
        {"\"response_format\": {\"type\": \"yaml\"}", "response_format"},
        {"\"response_format\": {\"type\": \"json_schema\"}", "response_format"},
        {"\"response_format\": 7", "response_format"},
        {"\"resume_tokens\": [1]", "resume_tokens"},
        {"\"resume_tokens\": [257], \"seed\": 1", "resume_tokens"},
        {"\"resume_tokens\": [1], \"seed\": 1, \"n\": 2", "resume_tokens"},
        {"\"priority\": 3000000000", "priority"},
        {"\"tools\": [{}]", "tools"},
        {"\"min_tokens\": 2", "min_tokens"},
        {"\"repetition_penalty\": 1.1", "repetition_penalty"},
        {"\"tool_choice\": \"required\"", "tool_choice"},
        {"\"tool_choice\": {\"type\": \"function\"}", "tool_choice"},
        {"\"function_call\": {\"name\": \"f\"}", "function_call"},
        {"\"bad_words\": [\"a\"]", "bad_words"},
        {"\"top_n_sigma\": 1", "top_n_sigma"},
    };
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        struct openai_error error = {0};
        struct openai_ask ask;
        char *body = bg_format("{\"prompt\": \"x\", %s}", cases[i].more);
        if (parse(OPENAI_COMPLETION, body, &error, &ask))
            fail_msg("%s was taken", body);
        assert_int_equal(error.http, 400);
        assert_string_equal(error.param, cases[i].param);
        json_t *json = openai_error_json(&error), *o = json_object_get(json, "error");
        assert_true(json_string_length(json_object_get(o, "message")) > 5);
        assert_string_equal(json_string_value(json_object_get(o, "type")), "invalid_request_error");
        assert_true(json_is_null(json_object_get(o, "code")));
        json_decref(json);
        bg_free(body);
    }
    static const char *const prompts[] = {"null", "7",          "[]",         "{}",           "[[257]]",
                                          "[-1]", "[1, \"a\"]", "[\"a\", 1]", "[[1], \"a\"]", "[1.0]"};
    for (size_t i = 0; i < sizeof prompts / sizeof *prompts; i++) {
        struct openai_error error = {0};
        struct openai_ask ask;
        char *body = bg_format("{\"prompt\": %s}", prompts[i]);
        if (parse(OPENAI_COMPLETION, body, &error, &ask))
            fail_msg("%s was taken", body);
        assert_string_equal(error.param, "prompt");
        bg_free(body);
    }
}

static void texts(void **state)
{
    (void)state;
    static const struct {
        const char *bytes, *text;
    } cases[] = {{"a\xc3\xa9\xe2\x82\xac\xf0\x9f\x98\x80", "a\xc3\xa9\xe2\x82\xac\xf0\x9f\x98\x80"},
                 {"a\xff"
                  "b",
                  "a\xef\xbf\xbd"
                  "b"},
                 {"\xe2\x82", "\xef\xbf\xbd\xef\xbf\xbd"},
                 {"\xc0\x80", "\xef\xbf\xbd\xef\xbf\xbd"},
                 {"\xed\xa0\x80", "\xef\xbf\xbd\xef\xbf\xbd\xef\xbf\xbd"},
                 {"\xf4\x90\x80\x80", "\xef\xbf\xbd\xef\xbf\xbd\xef\xbf\xbd\xef\xbf\xbd"}};
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        json_t *text = openai_text(cases[i].bytes, strlen(cases[i].bytes));
        assert_string_equal(json_string_value(text), cases[i].text);
        json_decref(text);
    }
}

static json_t *chunk_of(struct bg_str *out) // takes the first away
{
    assert_memory_equal(bg_str_text(out), "data: ", 6);
    const char *end = strstr(out->data, "\n\n");
    json_t *json = json_loadb(out->data + 6, (size_t)(end - out->data) - 6, 0, NULL);
    assert_non_null(json);
    char *rest = bg_strdup(end + 2);
    bg_str_reset(out);
    bg_str_add(out, rest);
    bg_free(rest);
    return json;
}

static const char *delta(const json_t *chunk, const char *name)
{
    const json_t *choice = json_array_get(json_object_get(chunk, "choices"), 0);
    return json_string_value(json_object_get(json_object_get(choice, "delta"), name));
}

static void streams(void **state)
{
    (void)state;
    struct bg_env *env = test_env(1);
    struct tokenizer *tokenizer;
    struct bg_error err;
    struct openai_error error;
    struct openai_ask ask;
    struct bg_str out = {0};
    assert_int_equal(tokenizer_open(env, "bytes", &err, &tokenizer), BG_OK);
    assert_true(parse(OPENAI_CHAT,
                      "{\"messages\": [{\"role\": \"user\", \"content\": \"x\"}], \"stream\": true, \"seed\": 4,"
                      "\"stream_options\": {\"include_usage\": true}, \"return_tokens\": true, \"logprobs\": true,"
                      "\"top_logprobs\": 2}",
                      &error, &ask));
    const struct openai_reply reply = {&ask, tokenizer, "id-1", "m", 5};
    struct openai_choice choice = {.index = 0};
    const int32_t tokens[] = {104, 105};
    const struct serve_logprob logprobs[] = {{104, -1}, {105, -0.5f}, {104, -1}, {105, 0}, {105, 0}, {-1, -9999}};
    struct serve_event event = {.tokens = tokens,
                                .token_count = 2,
                                .logprobs = logprobs, // the second of a vocabulary of one
                                .text = "hi",
                                .text_bytes = 2,
                                .prompt_tokens = 3,
                                .cached_tokens = 1,
                                .drawn_tokens = 2};
    openai_chunk(&reply, &choice, &event, &out);
    event = (struct serve_event){
        .text = "", .finish = SERVE_LENGTH, .prompt_tokens = 3, .cached_tokens = 1, .drawn_tokens = 2};
    openai_chunk(&reply, &choice, &event, &out);
    openai_usage_chunk(&reply, &choice, 1, &out);
    json_t *first = chunk_of(&out), *second = chunk_of(&out), *third = chunk_of(&out), *last = chunk_of(&out);
    assert_int_equal(out.size, 0);
    assert_string_equal(delta(first, "role"), "assistant");
    assert_int_equal(json_integer_value(json_object_get(first, "seed")), 4);
    assert_string_equal(delta(second, "content"), "hi");
    assert_null(delta(second, "role"));
    const json_t *choice_json = json_array_get(json_object_get(second, "choices"), 0);
    assert_true(json_is_null(json_object_get(choice_json, "finish_reason")));
    assert_int_equal(json_array_size(json_object_get(choice_json, "tokens")), 2);
    const json_t *probs = json_object_get(json_object_get(choice_json, "logprobs"), "content");
    assert_int_equal(json_array_size(probs), 2);
    for (size_t i = 0; i < 2; i++)
        assert_int_equal(json_array_size(json_object_get(json_array_get(probs, i), "top_logprobs")), 2 - i);
    assert_true(json_is_null(json_object_get(second, "usage")));
    assert_string_equal(
        json_string_value(json_object_get(json_array_get(json_object_get(third, "choices"), 0), "finish_reason")),
        "length");
    assert_int_equal(json_array_size(json_object_get(last, "choices")), 0);
    assert_int_equal(json_integer_value(json_object_get(json_object_get(last, "usage"), "total_tokens")), 5);
    json_decref(first);
    json_decref(second);
    json_decref(third);
    json_decref(last);
    bg_str_fini(&out);
    openai_ask_fini(&ask);
    tokenizer_destroy(tokenizer);
    os_env_destroy(env);
}

// A prompt of ids may end within a character that the answer goes on with: whole and in chunks, it is none.
static void an_echo_is_a_text_of_its_own(void **state)
{
    (void)state;
    static const char wanted[] = "k\xef\xbf\xbd\xef\xbf\xbd\xef\xbf\xbd\xef\xbf\xbd!";
    struct bg_env *env = test_env(1);
    struct tokenizer *tokenizer;
    struct bg_error err;
    struct openai_error error;
    struct openai_ask ask;
    assert_int_equal(tokenizer_open(env, "bytes", &err, &tokenizer), BG_OK);
    assert_true(parse(OPENAI_COMPLETION, "{\"prompt\": [107, 241], \"echo\": true}", &error, &ask));
    const struct openai_reply reply = {&ask, tokenizer, "id-1", "m", 5};
    const int32_t tokens[] = {183, 161, 129, 33};
    const struct serve_event event = {
        .tokens = tokens, .token_count = 4, .text = "\xb7\xa1\x81!", .text_bytes = 4, .finish = SERVE_LENGTH};
    struct openai_choice whole = {0}, chunks = {0};
    struct bg_str out = {0}, said = {0};
    bg_str_add(&whole.echo, "k\xf1");
    bg_str_add(&chunks.echo, "k\xf1");
    openai_gather(&reply, &whole, &event);
    openai_chunk(&reply, &chunks, &event, &out);
    json_t *answer = openai_answer(&reply, &whole, 1);
    assert_string_equal(
        json_string_value(json_object_get(json_array_get(json_object_get(answer, "choices"), 0), "text")), wanted);
    while (out.size > 0) {
        json_t *chunk = chunk_of(&out);
        bg_str_add(&said,
                   json_string_value(json_object_get(json_array_get(json_object_get(chunk, "choices"), 0), "text")));
        json_decref(chunk);
    }
    assert_string_equal(bg_str_text(&said), wanted);
    json_decref(answer);
    openai_choice_fini(&whole);
    openai_choice_fini(&chunks);
    bg_str_fini(&out);
    bg_str_fini(&said);
    openai_ask_fini(&ask);
    tokenizer_destroy(tokenizer);
    os_env_destroy(env);
}

static void embeddings(void **state)
{
    (void)state;
    struct openai_error error;
    struct openai_embed embed;
    static const char *const good[] = {"{\"input\": \"x\"}", "{\"input\": [1, 2]}", "{\"input\": [\"x\", \"y\"]}",
                                       "{\"input\": [[1], [2, 3]], \"encoding_format\": \"base64\"}"};
    static const size_t counts[] = {1, 1, 2, 2};
    for (size_t i = 0; i < 4; i++) {
        assert_true(openai_parse_embed(good[i], strlen(good[i]), VOCAB, &error, &embed));
        assert_int_equal(json_array_size(embed.inputs), counts[i]);
        assert_int_equal(embed.base64, i == 3);
        const float values[] = {1, -2, 0.5f};
        json_t *json = openai_embedding(embed.base64, i, values, 3);
        const json_t *list = json_object_get(json, "embedding");
        if (embed.base64)
            assert_string_equal(json_string_value(list), "AACAPwAAAMAAAAA/");
        else
            assert_true(json_real_value(json_array_get(list, 1)) == -2);
        json_decref(json);
        openai_embed_fini(&embed);
    }
    static const char *const bad[] = {"",
                                      "[]",
                                      "{}",
                                      "{\"input\": []}",
                                      "{\"input\": [1, \"x\"]}",
                                      "{\"input\": [[257]]}",
                                      "{\"input\": [{}]}",
                                      "{\"input\": \"x\", \"encoding_format\": \"hex\"}",
                                      "{\"input\": \"x\", \"dimensions\": 3}",
                                      "{\"input\": \"x\", \"model\": 3}"};
    for (size_t i = 0; i < sizeof bad / sizeof *bad; i++)
        assert_false(openai_parse_embed(bad[i], strlen(bad[i]), VOCAB, &error, &embed));
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(defaults),   cmocka_unit_test(fields),  cmocka_unit_test(refusals),
        cmocka_unit_test(texts),      cmocka_unit_test(streams), cmocka_unit_test(an_echo_is_a_text_of_its_own),
        cmocka_unit_test(embeddings),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
