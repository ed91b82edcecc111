// For the tests of what listens: clients on plain sockets; a reader that stands still until the test lets it go on.
#ifndef SERVE_HTTP_CLIENT_TEST_H
#define SERVE_HTTP_CLIENT_TEST_H

#include "base/env.h"
#include "base/mem.h"
#include "base/str.h"

#include <arpa/inet.h>
#include <poll.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#include <setjmp.h>
#include <stdarg.h>

#include <cmocka.h>

// ---- Standing still ----
static struct still {
    struct bg_env *env;
    struct bg_env_ops ops;
    const struct bg_env_ops *own_ops;
    const char *point;
    struct bg_gate *gate;
    bool hold, held; // gate: the next that comes to the point shall stand still; one does
} still;

static inline void stay(struct bg_env *env, const char *name)
{
    if (strcmp(name, still.point) != 0)
        return;
    env->ops->gate_enter(env, still.gate);
    if (still.hold) {
        still.hold = false;
        still.held = true;
        env->ops->gate_ring(env, still.gate);
        while (still.held)
            env->ops->gate_wait(env, still.gate, 1000000000);
    }
    env->ops->gate_leave(env, still.gate);
}

static inline void hold_next(void)
{
    still.env->ops->gate_enter(still.env, still.gate);
    still.hold = true;
    still.env->ops->gate_leave(still.env, still.gate);
}

static inline void wait_for_held(void)
{
    still.env->ops->gate_enter(still.env, still.gate);
    while (!still.held)
        still.env->ops->gate_wait(still.env, still.gate, 1000000000);
    still.env->ops->gate_leave(still.env, still.gate);
}

static inline void let_go(void)
{
    still.env->ops->gate_enter(still.env, still.gate);
    still.held = false;
    still.env->ops->gate_ring(still.env, still.gate);
    still.env->ops->gate_leave(still.env, still.gate);
}

static inline void still_open(struct bg_env *env, const char *point)
{
    struct bg_error err;
    still = (struct still){.env = env, .ops = *env->ops, .own_ops = env->ops, .point = point};
    still.ops.point = stay;
    env->ops = &still.ops;
    assert_int_equal(env->ops->gate_create(env, &err, &still.gate), BG_OK);
}

static inline void still_close(void)
{
    still.env->ops->gate_destroy(still.env, still.gate);
    still.env->ops = still.own_ops;
}

// ---- Clients ----
// A request that was sent; its answer ends with the connection.
static inline int ask(uint16_t port, const char *path, const char *body)
{
    const struct sockaddr_in to = {
        .sin_family = AF_INET, .sin_port = htons(port), .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
    const size_t size = strlen(body);
    const int fd = socket(AF_INET, SOCK_STREAM, 0);
    char *whole = bg_format("%s %s HTTP/1.0\r\nHost: x\r\nContent-Length: %zu\r\n\r\n%s", size ? "POST" : "GET", path,
                            size, body);
    assert_true(fd >= 0 && connect(fd, (const struct sockaddr *)&to, sizeof to) == 0);
    for (size_t sent = 0, all = strlen(whole); sent < all;) {
        const ssize_t went = send(fd, whole + sent, all - sent, MSG_NOSIGNAL);
        assert_true(went > 0);
        sent += (size_t)went;
    }
    bg_free(whole);
    return fd;
}

// Status and body; *status 0: closed without an answer.
static inline char *answer(int fd, int *status)
{
    struct bg_str text = {0};
    char part[65536];
    for (ssize_t got; (got = recv(fd, part, sizeof part, 0)) > 0;)
        bg_str_add_bytes(&text, part, (size_t)got);
    close(fd);
    const char *body = strstr(bg_str_text(&text), "\r\n\r\n");
    char *end = NULL;
    *status = body ? (int)strtol(bg_str_text(&text) + strlen("HTTP/1.x "), &end, 10) : 0;
    assert_true(!body || *end == ' ');
    char *rest = bg_strdup(body ? body + 4 : "");
    bg_str_fini(&text);
    return rest;
}

static inline void expect(int fd, int wanted)
{
    int status;
    bg_free(answer(fd, &status));
    assert_int_equal(status, wanted);
}

// A line of /metrics.
static inline double metric(uint16_t port, const char *name)
{
    int status;
    char *text = answer(ask(port, "/metrics", ""), &status), *line = bg_format("\n%s ", name);
    const char *at = strstr(text, line);
    assert_int_equal(status, 200);
    if (!at)
        fail_msg("no %s in /metrics", name);
    const double value = strtod(at + strlen(line), NULL);
    bg_free(text);
    bg_free(line);
    return value;
}

// As many of these have this answer; each of those becomes -1.
static inline void expect_some(int *fds, size_t count, size_t wanted, int status)
{
    struct pollfd *polls = bg_alloc_array(count, sizeof *polls);
    for (size_t found = 0; found < wanted;) {
        for (size_t i = 0; i < count; i++)
            polls[i] = (struct pollfd){.fd = fds[i], .events = POLLIN};
        assert_true(poll(polls, count, -1) > 0);
        for (size_t i = 0; i < count; i++)
            if (polls[i].revents) {
                expect(fds[i], status);
                fds[i] = -1;
                found++;
            }
    }
    bg_free(polls);
}

// {"KEY": "aaa.."}
static inline char *large(const char *key, size_t size)
{
    char *text = bg_alloc(size + 1);
    memset(text, 'a', size);
    char *body = bg_format("{\"%s\": \"%s\"}", key, text);
    bg_free(text);
    return body;
}

#endif
