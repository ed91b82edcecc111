// Bodies that are being read hold up nobody else: readers that stand still where the test says so, clients that leave
// the line, too many, draining, stopping; and all kinds of requests at once against the same one by one.
// labels: threads
#include "serve/http/http.h"

#include "model/step_test.h"
#include "serve/http/client_test.h"

#include <jansson.h>
#include <stdatomic.h>

enum { CONTEXT = 96, LARGE = 100000 }; // bytes: read apart from small bodies

static const struct model_config config = {.family = MODEL_LLAMA,
                                           .layers = 1,
                                           .dim = 16,
                                           .heads = 2,
                                           .kv_heads = 1,
                                           .head_dim = 8,
                                           .ffn = 16,
                                           .context = CONTEXT,
                                           .vocab = 257,
                                           .rope_theta = 10000.0,
                                           .norm_eps = 1e-5,
                                           .bos = -1,
                                           .eos = -1};

static struct place {
    struct bg_env *env;
    struct model *model;
    float *weights;
    struct packed_model *packed;
    struct tokenizer *tokenizer;
    struct chat_template *chat;
    struct engine *engine;
    struct bg_thread *thread; // NULL: the engine was stopped
    struct http *http;
} place;
static atomic_uint ends; // of requests to the engine, told to the server

// ---- A server ----
static void on_event(void *arg, const struct serve_event *event)
{
    (void)arg;
    http_event(place.http, event);
    atomic_fetch_add(&ends, event->finish != SERVE_RUNNING);
}

static void run_engine(void *arg, struct bg_env *own)
{
    (void)own;
    engine_run(arg);
}

static void open_place(size_t body_max)
{
    struct bg_error err;
    place = (struct place){.env = test_env(1)};
    atomic_store(&ends, 0);
    struct bg_env *env = place.env;
    still_open(env, "serve-read");
    const struct kern *kern = kern_select(env->isa);
    const struct engine_options options = {.slots = 4, .event = on_event};
    const struct http_options door = {.body_max = body_max};
    place.model = test_model(config);
    place.weights = test_weights(place.model, env, 0.1f);
    assert_int_equal(packed_create(env, place.model, place.weights, NULL, KERN_F32, &err, &place.packed), BG_OK);
    assert_int_equal(tokenizer_open(env, "bytes", &err, &place.tokenizer), BG_OK);
    assert_int_equal(chat_template_compile(chat_template_default, strlen(chat_template_default), &err, &place.chat),
                     BG_OK);
    assert_int_equal(engine_create(env, place.packed, kern, place.tokenizer, &options, &err, &place.engine), BG_OK);
    assert_int_equal(http_start(env, &door, &err, &place.http), BG_OK);
    const struct http_model model = {.name = "small",
                                     .tokenizer = place.tokenizer,
                                     .config = &config,
                                     .context = CONTEXT,
                                     .chat = place.chat,
                                     .digest = "0",
                                     .numerics = "fp32/1"};
    http_ready(place.http, place.engine, &model);
    assert_int_equal(env->ops->thread_start(env, run_engine, place.engine, &err, &place.thread), BG_OK);
}

static void stop_engine(void)
{
    engine_stop(place.engine);
    place.env->ops->thread_join(place.env, place.thread);
    place.thread = NULL;
}

static void close_place(void)
{
    if (place.thread)
        stop_engine();
    http_stop(place.http);
    engine_destroy(place.engine);
    chat_template_destroy(place.chat);
    tokenizer_destroy(place.tokenizer);
    packed_destroy(place.packed);
    free(place.weights);
    model_destroy(place.model);
    still_close();
    os_env_destroy(place.env);
}

// Until as many requests are open.
static void wait_for_open(uint32_t count)
{
    while (http_open_requests(place.http) != count)
        usleep(1000);
}

static int ask_it(const char *path, const char *body)
{
    return ask(http_port(place.http), path, body);
}

static const char small[] = "{\"prompt\": \"the bears\", \"max_tokens\": 20, \"seed\": 7, \"ignore_eos\": true, "
                            "\"cache_prompt\": false, \"stream\": true}";

// ---- Tests ----
static void others_go_on_while_a_body_is_read(void **state)
{
    (void)state;
    open_place(0);
    char *body = large("content", LARGE), *prompt = large("prompt", LARGE);
    int status;
    bg_free(answer(ask_it("/v1/completions", small), &status)); // the engine has stepped
    assert_int_equal(status, 200);
    hold_next();
    const int first = ask_it("/tokenize", body);
    wait_for_held();
    expect(ask_it("/health", ""), 200);
    expect(ask_it("/metrics", ""), 200);
    expect(ask_it("/v1/completions", small), 200);
    expect(ask_it("/tokenize", "{\"content\": \"a\"}"), 200);
    expect(ask_it("/kv/save", small), 200);
    const int second = ask_it("/v1/completions", prompt), third = ask_it("/v1/embeddings", prompt);
    wait_for_open(3);
    close(second); // who leaves, leaves the line
    wait_for_open(2);
    const int fourth = ask_it("/v1/completions", prompt);
    wait_for_open(3);
    close(third);
    wait_for_open(2);
    let_go();
    char *text = answer(first, &status);
    json_t *tokens = json_loads(text, 0, NULL);
    assert_int_equal(status, 200);
    assert_int_equal(json_array_size(json_object_get(tokens, "tokens")), LARGE);
    json_decref(tokens);
    bg_free(text);
    text = answer(fourth, &status);
    assert_int_equal(status, 400);
    assert_non_null(strstr(text, "\"n_prompt_tokens\":100000"));
    bg_free(text);
    bg_free(body);
    bg_free(prompt);
    close_place();
}

static void too_many_are_told_to_come_back(void **state)
{
    enum { SIZE = 80000, WAIT = 64, MORE = 6 };
    int fds[WAIT + MORE];
    (void)state;
    open_place(SIZE);
    char *body = large("content", SIZE - strlen("{\"content\": \"\"}"));
    assert_int_equal(strlen(body), SIZE);
    hold_next();
    fds[0] = ask_it("/tokenize", body);
    wait_for_held();
    for (size_t i = 1; i < WAIT + MORE; i++)
        fds[i] = ask_it("/tokenize", body);
    expect_some(fds, WAIT + MORE, MORE, 429);
    const uint16_t port = http_port(place.http);
    assert_true(metric(port, "brigade_bodies_waiting{thread=\"large\"}") == WAIT - 1);
    assert_true(metric(port, "brigade_bodies_held_bytes") == WAIT * SIZE);
    assert_true(metric(port, "brigade_bodies_held_limit_bytes") == WAIT * SIZE);
    expect(ask_it("/tokenize", "{\"content\": \"a\"}"), 200); // small ones go on
    let_go();
    for (size_t i = 0; i < WAIT + MORE; i++)
        if (fds[i] >= 0)
            expect(fds[i], 200);
    expect(ask_it("/tokenize", body), 200);
    assert_true(metric(port, "brigade_bodies_waiting{thread=\"large\"}") == 0);
    assert_true(metric(port, "brigade_bodies_waiting{thread=\"small\"}") == 0);
    assert_true(metric(port, "brigade_bodies_held_bytes") == 0);
    bg_free(body);
    close_place();
}

static const char many[] =
    "{\"prompt\": [\"the\", \"bears\"], \"max_tokens\": 60, \"n\": 2, \"logprobs\": 20, \"seed\": 1, "
    "\"ignore_eos\": true, \"cache_prompt\": false}"; // an answer that a worker writes

static void answers_are_written_before_more_is_read(void **state)
{
    enum { CHOICES = 4 };
    (void)state;
    open_place(0);
    char *body = large("content", LARGE);
    hold_next();
    const int first = ask_it("/tokenize", body);
    wait_for_held();
    const int second = ask_it("/tokenize", body);
    wait_for_open(2);
    const int third = ask_it("/v1/completions", many);
    while (atomic_load(&ends) < CHOICES)
        usleep(1000);
    for (int i = 0; i < 2; i++)
        expect(ask_it("/version", ""), 200); // the HTTP thread has heard of it
    hold_next();
    let_go();
    expect(first, 200);
    wait_for_held();
    hold_next();
    let_go();
    struct pollfd polls[] = {{.fd = third, .events = POLLIN}, {.fd = second, .events = POLLIN}};
    assert_true(poll(polls, 2, -1) > 0);
    assert_true(polls[0].revents && !polls[1].revents);
    wait_for_held();
    let_go();
    expect(third, 200);
    expect(second, 200);
    bg_free(body);
    close_place();
}

static void who_was_let_in_is_drained(void **state)
{
    (void)state;
    open_place(0);
    hold_next();
    const int first = ask_it("/v1/completions", small);
    wait_for_held();
    http_drain(place.http);
    expect(ask_it("/v1/completions", small), 503);
    assert_int_equal(http_open_requests(place.http), 1);
    let_go();
    expect(first, 200);
    wait_for_open(0);
    close_place();
}

// What is not the same each time is taken out.
static char *without(char *text, const char *key)
{
    struct bg_str rest = {0};
    const char *at = text;
    for (const char *found; (found = strstr(at, key)); at = found + strcspn(found, ","))
        bg_str_add_bytes(&rest, at, (size_t)(found - at));
    bg_str_add(&rest, at);
    bg_free(text);
    return bg_str_take(&rest);
}

enum { KINDS = 13, CROWD = 4 * KINDS };
struct kind {
    const char *path;
    char *body;
    int status;
    char *text;
};

static void make_kinds(struct kind kinds[KINDS])
{
    struct bg_str chat = {0}, inputs = {0};
    bg_str_add(&chat, "{\"messages\": [");
    for (size_t i = 0; i < 2500; i++)
        bg_str_addf(&chat, "%s{\"role\": \"%s\", \"content\": \"hello %zu\"}", i ? "," : "",
                    i % 2 ? "assistant" : "user", i);
    bg_str_add(&chat, "]}");
    bg_str_add(&inputs, "{\"input\": [\"one\"");
    for (size_t i = 0; i < 20; i++)
        bg_str_addf(&inputs, ", \"%zu bears\"", i);
    bg_str_add(&inputs, "]}");
    const struct kind all[KINDS] = {
        {.path = "/v1/completions", .body = bg_strdup(small)},
        {.path = "/v1/completions", .body = bg_strdup(many)},
        {.path = "/v1/chat/completions",
         .body = bg_strdup("{\"messages\": [{\"role\": \"user\", \"content\": \"x\"}], \"max_tokens\": 9, \"seed\": 2, "
                           "\"cache_prompt\": false, \"response_format\": {\"type\": \"json_schema\", \"json_schema\": "
                           "{\"name\": \"x\", \"schema\": {\"enum\": [\"red\", 7, null]}}}}")},
        {.path = "/v1/completions",
         .body =
             bg_strdup("{\"prompt\": \"x\", \"max_tokens\": 9, \"seed\": 3, \"cache_prompt\": false, \"echo\": true, "
                       "\"grammar\": \"root ::= [a-c]{3,5}\", \"stop\": [\"zz\"]}")},
        {.path = "/v1/completions", .body = bg_strdup("{\"prompt\": \"x\", \"grammar\": \"root ::= root\"}")},
        {.path = "/v1/completions", .body = bg_strdup("{")},
        {.path = "/v1/completions", .body = large("prompt", LARGE)},
        {.path = "/v1/embeddings", .body = bg_str_take(&inputs)},
        {.path = "/v1/embeddings", .body = large("input", LARGE)},
        {.path = "/tokenize", .body = large("content", LARGE)},
        {.path = "/detokenize", .body = bg_strdup("{\"tokens\": [104, 105, 106]}")},
        {.path = "/apply-template", .body = bg_str_take(&chat)},
        {.path = "/version", .body = bg_strdup("")}};
    memcpy(kinds, all, sizeof all);
}

static char *told(int fd, int *status)
{
    return without(without(answer(fd, status), "\"id\":"), "\"created\":");
}

static void a_crowd_is_told_what_one_is(void **state)
{
    static const int statuses[KINDS] = {200, 200, 200, 200, 400, 400, 400, 200, 400, 200, 200, 200, 200};
    struct kind kinds[KINDS];
    int fds[CROWD], status;
    (void)state;
    open_place(0);
    make_kinds(kinds);
    for (size_t i = 0; i < KINDS; i++) {
        kinds[i].text = told(ask_it(kinds[i].path, kinds[i].body), &kinds[i].status);
        if (kinds[i].status != statuses[i])
            fail_msg("%zu: %d: %.300s", i, kinds[i].status, kinds[i].text);
    }
    for (size_t i = 0; i < CROWD; i++)
        fds[i] = ask_it(kinds[i % KINDS].path, kinds[i % KINDS].body);
    for (size_t i = 0; i < CROWD; i += 3)
        close(fds[i]);
    for (size_t i = 0; i < CROWD; i++) {
        if (i % 3 == 0)
            continue;
        char *text = told(fds[i], &status);
        assert_int_equal(status, kinds[i % KINDS].status);
        assert_string_equal(text, kinds[i % KINDS].text);
        bg_free(text);
    }
    wait_for_open(0);
    for (size_t i = 0; i < KINDS; i++) {
        bg_free(kinds[i].body);
        bg_free(kinds[i].text);
    }
    close_place();
}

// One template, by both readers at once.
static void chats_are_written_side_by_side(void **state)
{
    enum { TEMPLATE = 11 };
    static const char short_chat[] = "{\"messages\": [{\"role\": \"user\", \"content\": \"x\"}]}";
    struct kind kinds[KINDS];
    (void)state;
    open_place(0);
    make_kinds(kinds);
    assert_string_equal(kinds[TEMPLATE].path, "/apply-template");
    const int fd = ask_it("/apply-template", kinds[TEMPLATE].body);
    struct pollfd answered = {.fd = fd, .events = POLLIN};
    while (poll(&answered, 1, 0) == 0)
        expect(ask_it("/apply-template", short_chat), 200);
    expect(fd, 200);
    for (size_t i = 0; i < KINDS; i++)
        bg_free(kinds[i].body);
    close_place();
}

// With requests in the line, with readers, and with the engine.
static void it_stops_with_all_of_that_on_its_way(void **state)
{
    struct kind kinds[KINDS];
    int fds[CROWD], status;
    (void)state;
    make_kinds(kinds);
    for (int round = 0; round < 3; round++) {
        open_place(0);
        hold_next();
        for (size_t i = 0; i < CROWD; i++)
            fds[i] = ask_it(kinds[i % KINDS].path, kinds[i % KINDS].body);
        wait_for_held();
        if (round == 0)
            stop_engine();
        let_go();
        close_place();
        for (size_t i = 0; i < CROWD; i++)
            bg_free(answer(fds[i], &status));
    }
    for (size_t i = 0; i < KINDS; i++)
        bg_free(kinds[i].body);
}

int main(void)
{
    const struct CMUnitTest tests[] = {cmocka_unit_test(others_go_on_while_a_body_is_read),
                                       cmocka_unit_test(too_many_are_told_to_come_back),
                                       cmocka_unit_test(answers_are_written_before_more_is_read),
                                       cmocka_unit_test(who_was_let_in_is_drained),
                                       cmocka_unit_test(a_crowd_is_told_what_one_is),
                                       cmocka_unit_test(chats_are_written_side_by_side),
                                       cmocka_unit_test(it_stops_with_all_of_that_on_its_way)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
