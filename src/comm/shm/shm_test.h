// What the tests of the shared-memory transport share: endpoints, waiting for an event, frames with known payloads.
#ifndef COMM_SHM_SHM_TEST_H
#define COMM_SHM_SHM_TEST_H

#include "base/mem.h"
#include "comm/shm/shm_int.h"
#include "os/live.h"

#include <setjmp.h>
#include <signal.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>
#include <cmocka.h>

static inline struct bg_env *test_env(void)
{
    struct bg_env *env = NULL;
    struct bg_error err;
    if (os_env_create(&(struct os_options){.threads = 1, .keep_caller = true}, &err, &env))
        fail_msg("%s", err.text);
    return env;
}

static inline struct comm *test_endpoint(struct bg_env *env, const struct comm_shm_options *options)
{
    struct comm *comm = NULL;
    struct bg_error err;
    if (comm_shm_create(env, options, &err, &comm))
        fail_msg("%s", err.text);
    return comm;
}

// The next event of `comm` but COMM_NOTHING; `other` (or NULL) is kept going meanwhile. Fails after five seconds.
static inline struct comm_event test_event(struct comm *comm, struct comm *other)
{
    struct bg_error err;
    struct comm_event event;
    uint64_t end = env_now_ns(comm->env) + 5000000000;
    do {
        if (other)
            other->ops->wait(other, 0);
        assert_int_equal(comm_next(comm, &err, &event), BG_OK);
        if (event.kind != COMM_NOTHING)
            return event;
        comm->ops->wait(comm, other ? 200000 : 20000000);
    } while (env_now_ns(comm->env) < end);
    fail_msg("nothing happened for five seconds");
    return event;
}

static inline struct comm_event test_expect(struct comm *comm, struct comm *other, enum comm_event_kind kind)
{
    struct comm_event event = test_event(comm, other);
    if (event.kind != kind)
        fail_msg("event %d, expected %d%s%s", event.kind, kind, event.kind == COMM_DOWN ? ": " : "",
                 event.kind == COMM_DOWN ? event.why : "");
    return event;
}

// Payload number `seed`: its bytes tell where they belong.
static inline void test_fill(void *memory, size_t bytes, uint64_t seed)
{
    uint8_t *out = memory;
    for (size_t i = 0; i < bytes; i++)
        out[i] = (uint8_t)((i * 2654435761u + seed * 97) >> 8);
}

static inline void test_send(struct comm *comm, uint32_t link, uint64_t number, const void *payload, size_t bytes)
{
    struct bg_error err;
    struct wire_frame frame = {.kind = WIRE_PART, .step = number};
    if (comm_send(comm, link, &frame, payload, bytes, &err))
        fail_msg("%s", err.text);
}

static inline void test_check(const struct comm_event *event, uint64_t number, size_t bytes)
{
    assert_int_equal(event->frame.step, number);
    assert_int_equal(event->frame.bytes, bytes);
    assert_int_equal(event->frame.check, wire_check(event->payload, bytes));
}

// A (1) connected to B (2): links in both, UPs taken.
struct test_pair {
    struct comm *a, *b;
    uint32_t to_b, to_a;
};
static inline struct test_pair test_pair_with(struct bg_env *env, const struct comm_shm_options *of_a,
                                              const struct comm_shm_options *of_b)
{
    struct test_pair pair = {.a = test_endpoint(env, of_a), .b = test_endpoint(env, of_b)};
    struct bg_error err;
    pair.a->self = 1;
    pair.b->self = 2;
    if (pair.a->ops->connect(pair.a, 2, pair.b->ops->address(pair.b), &err, &pair.to_b))
        fail_msg("%s", err.text);
    struct comm_event up = test_expect(pair.b, pair.a, COMM_UP);
    assert_int_equal(up.peer, COMM_UNKNOWN);
    pair.to_a = up.link;
    up = test_expect(pair.a, pair.b, COMM_UP);
    assert_int_equal(up.link, pair.to_b);
    assert_int_equal(up.peer, 2);
    pair.b->ops->name(pair.b, pair.to_a, 1);
    return pair;
}

static inline void test_pair_end(struct test_pair *pair)
{
    pair->a->ops->destroy(pair->a);
    pair->b->ops->destroy(pair->b);
}

// Open descriptors of this process.
static inline size_t test_fds(void)
{
    size_t count = 0;
    for (int fd = 0; fd < 4096; fd++) {
        char path[64], target[256];
        snprintf(path, sizeof path, "/proc/self/fd/%d", fd);
        count += readlink(path, target, sizeof target) >= 0;
    }
    return count;
}

#endif
