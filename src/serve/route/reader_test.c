// Large bodies that are being read hold up nobody else at the router; and what replicas get of them.
// labels: threads
#include "model/step_test.h"
#include "serve/http/client_test.h"
#include "serve/route/route_int.h"

#include <stdatomic.h>

enum { LARGE = 100000 }; // bytes: read by the other thread

static struct place {
    struct bg_env *env;
    struct route *route;
    struct bg_thread *thread;
} place;
static atomic_bool stops;

static int stop_signal(struct bg_env *env)
{
    (void)env;
    return atomic_load(&stops);
}

static void run(void *arg, struct bg_env *own)
{
    (void)own;
    route_run(arg);
}

// Its one replica is never there: text requests are refused when they have waited.
static void open_place(size_t body_max)
{
    static const char *const replicas[] = {"http://127.0.0.1:1"};
    const struct route_options options = {
        .replicas = replicas, .replica_count = 1, .wait_ms = 10, .body_max = body_max, .grace_ms = 1};
    struct bg_error err;
    place.env = test_env(1);
    still_open(place.env, "route-read");
    atomic_store(&stops, false);
    still.ops.stop_signal = stop_signal;
    if (route_create(place.env, &options, &err, &place.route))
        fail_msg("%s", err.text);
    assert_int_equal(place.env->ops->thread_start(place.env, run, place.route, &err, &place.thread), BG_OK);
}

static void close_place(void)
{
    atomic_store(&stops, true);
    place.env->ops->thread_join(place.env, place.thread);
    route_destroy(place.route);
    still_close();
    os_env_destroy(place.env);
}

static int ask_it(const char *path, const char *body)
{
    return ask(route_port(place.route), path, body);
}

static void others_go_on_while_a_body_is_read(void **state)
{
    (void)state;
    open_place(0);
    char *body = large("prompt", LARGE);
    hold_next();
    const int first = ask_it("/v1/completions", body);
    wait_for_held();
    expect(ask_it("/health", ""), 503);
    expect(ask_it("/metrics", ""), 200);
    expect(ask_it("/v1/completions", "{\"prompt\": \"x\"}"), 503);
    for (int i = 0; i < 5; i++)
        close(ask_it("/v1/chat/completions", body));
    const int last = ask_it("/v1/completions", body), other = ask_it("/v1/chat/completions", body);
    let_go();
    expect(first, 503);
    expect(last, 503);
    expect(other, 503); // for a replica to judge
    bg_free(body);
    close_place();
}

static void too_many_are_told_to_come_back(void **state)
{
    enum { SIZE = 80000, WAIT = 64, MORE = 6 };
    int fds[WAIT + MORE];
    (void)state;
    open_place(SIZE);
    char *body = large("prompt", SIZE - strlen("{\"prompt\": \"\"}"));
    hold_next();
    fds[0] = ask_it("/v1/completions", body);
    wait_for_held();
    for (size_t i = 1; i < WAIT; i++)
        fds[i] = ask_it("/v1/completions", body);
    for (size_t i = WAIT; i < WAIT + MORE; i++)
        fds[i] = ask_it("/v1/completions", body);
    expect_some(fds, WAIT + MORE, MORE, 429);
    const uint16_t port = route_port(place.route);
    assert_true(metric(port, "brigade_route_bodies_waiting") == WAIT - 1);
    assert_true(metric(port, "brigade_route_bodies_held_bytes") == WAIT * SIZE);
    assert_true(metric(port, "brigade_route_bodies_held_limit_bytes") == WAIT * SIZE);
    let_go();
    for (size_t i = 0; i < WAIT + MORE; i++)
        if (fds[i] >= 0)
            expect(fds[i], 503);
    assert_true(metric(port, "brigade_route_bodies_waiting") == 0);
    assert_true(metric(port, "brigade_route_bodies_held_bytes") == 0);
    bg_free(body);
    close_place();
}

static void it_stops_with_bodies_on_their_way(void **state)
{
    enum { COUNT = 12 };
    int fds[COUNT], status;
    char *body = large("prompt", LARGE);
    (void)state;
    for (int round = 0; round < 3; round++) {
        open_place(0);
        hold_next();
        for (size_t i = 0; i < COUNT; i++)
            fds[i] = ask_it("/v1/completions", body);
        wait_for_held();
        let_go();
        close_place();
        for (size_t i = 0; i < COUNT; i++)
            bg_free(answer(fds[i], &status));
    }
    bg_free(body);
}

// ---- What replicas get ----
static void check_written(const char *body, bool chat, uint32_t index, uint32_t tokens, bool echoed, const char *wanted)
{
    struct visit visit = {0};
    struct answer *a = body_read(body, strlen(body), chat);
    assert_non_null(a);
    a->visit = &visit;
    int32_t ids[3] = {4, 5, 6};
    const struct branch branch = {.answer = a, .index = index, .tokens = ids, .count = tokens, .echoed = echoed};
    char *text = body_write(&branch, 7000000);
    json_t *got = json_loads(text, JSON_REJECT_DUPLICATES, NULL), *want = json_loads(wanted, 0, NULL);
    assert_non_null(want);
    if (!json_equal(got, want))
        fail_msg("%s\n%s", text, wanted);
    json_decref(got);
    json_decref(want);
    bg_free(text);
    body_free(a);
}

#define FIXED "\"stream\": true, \"return_tokens\": true, \"stream_options\": {\"include_usage\": true}"

static void what_a_replica_is_asked(void **state)
{
    (void)state;
    check_written("{\"prompt\": \"a\\u00e9b\", \"seed\": -3}", false, 0, 0, false,
                  "{\"prompt\": \"a\\u00e9b\", \"seed\": -3, \"choice\": 0, " FIXED "}");
    check_written(
        "{\"prompt\": [\"a\", \"b\"], \"n\": 3, \"best_of\": 3, \"echo\": true, \"x\": {\"y\": [1.5]}, \"seed\": 1}",
        false, 4, 0, false,
        "{\"prompt\": \"b\", \"echo\": true, \"x\": {\"y\": [1.5]}, \"seed\": 1, \"choice\": 4, " FIXED "}");
    check_written(
        "{\"prompt\": [[1, 2], [3]], \"echo\": true, \"choice\": 2, \"timeout_ms\": 100, \"seed\": 1}", false, 1, 3,
        true,
        "{\"prompt\": [3], \"seed\": 1, \"choice\": 3, \"timeout_ms\": 93, \"resume_tokens\": [4, 5, 6], " FIXED "}");
    check_written("{\"prompt\": [1, 2], \"timeout_ms\": 5, \"echo\": false, \"seed\": 1}", false, 0, 0, false,
                  "{\"prompt\": [1, 2], \"seed\": 1, \"choice\": 0, \"timeout_ms\": 1, " FIXED "}");
    check_written("{\"messages\": 7, \"prompt\": \"z\", \"timeout_ms\": \"soon\", \"seed\": 1, \"stream\": true, "
                  "\"stream_options\": {}}",
                  true, 0, 1, false,
                  "{\"messages\": 7, \"prompt\": \"z\", \"timeout_ms\": \"soon\", \"seed\": 1, \"choice\": 0, "
                  "\"resume_tokens\": [4], " FIXED "}");
    static const char *const bad[] = {"",
                                      "[]",
                                      "{}",
                                      "{\"prompt\": []}",
                                      "{\"prompt\": \"a\\u0000\"}",
                                      "{\"prompt\": \"a\", \"n\": 33}",
                                      "{\"prompt\": [\"a\", \"b\"], \"n\": 17}",
                                      "{\"prompt\": \"a\", \"n\": 2, \"choice\": 31}",
                                      "{\"prompt\": \"a\", \"n\": 2, \"best_of\": 3}",
                                      "{\"prompt\": \"a\", \"stream\": 1}",
                                      "{\"prompt\": \"a\", \"stream_options\": {}}",
                                      "{\"prompt\": \"a\", \"resume_tokens\": [1]}",
                                      "{\"prompt\": \"a\", \"prompt\": \"b\"}"};
    for (size_t i = 0; i < sizeof bad / sizeof *bad; i++)
        assert_null(body_read(bad[i], strlen(bad[i]), false));
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(others_go_on_while_a_body_is_read), cmocka_unit_test(too_many_are_told_to_come_back),
        cmocka_unit_test(it_stops_with_bodies_on_their_way), cmocka_unit_test(what_a_replica_is_asked)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
