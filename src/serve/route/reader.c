// A thread that reads large bodies, so that streams need not wait for that. What it reads belongs to it; a visit whose
// client goes away takes its name off.
#include "serve/route/route_int.h"

#include "base/mem.h"

#include <sys/epoll.h>
#include <sys/eventfd.h>
#include <unistd.h>

struct reading {
    struct visit *visit; // the router's thread alone looks at it; NULL: gone
    struct bg_str body;
    bool chat;
    struct answer *answer; // NULL: not for us to judge
    struct reading *next;
};

static void loop(void *arg, struct bg_env *own)
{
    struct route *route = arg;
    struct bg_env *env = route->env;
    const uint64_t one = 1;
    (void)own;
    for (;;) {
        env->ops->gate_enter(env, route->gate);
        while (!route->unread && !route->closing)
            env->ops->gate_wait(env, route->gate, 1000000000);
        struct reading *r = route->closing ? NULL : route->unread;
        if (r) {
            route->unread = r->next;
            if (!route->unread)
                route->unread_end = &route->unread;
        }
        env->ops->gate_leave(env, route->gate);
        if (!r)
            return;
        env_point(env, "route-read");
        r->answer = body_read(bg_str_text(&r->body), r->body.size, r->chat);
        env->ops->gate_enter(env, route->gate);
        struct reading **at = &route->read; // in order of arrival
        while (*at)
            at = &(*at)->next;
        r->next = NULL;
        *at = r;
        env->ops->gate_leave(env, route->gate);
        if (write(route->bell, &one, sizeof one) < 0)
            continue; // it rings already
    }
}

static void forget(struct route *route, struct reading *r)
{
    route->held -= r->body.size;
    bg_str_fini(&r->body);
    if (r->answer)
        body_free(r->answer);
    bg_free(r);
}

bool reader_begin(struct visit *v, bool chat)
{
    struct route *route = v->route;
    struct bg_env *env = route->env;
    if (route->held / HELD_MAX >= route->o.body_max)
        return false;
    struct reading *r = bg_alloc(sizeof *r);
    *r = (struct reading){.visit = v, .body = v->body, .chat = chat};
    v->body = (struct bg_str){0};
    v->reading = r;
    route->held += r->body.size;
    env->ops->gate_enter(env, route->gate);
    *route->unread_end = r;
    route->unread_end = &r->next;
    env->ops->gate_ring(env, route->gate);
    env->ops->gate_leave(env, route->gate);
    return true;
}

uint32_t reader_waiting(struct route *route)
{
    struct bg_env *env = route->env;
    uint32_t count = 0;
    env->ops->gate_enter(env, route->gate);
    for (const struct reading *r = route->unread; r; r = r->next)
        count++;
    env->ops->gate_leave(env, route->gate);
    return count;
}

void reader_drop(struct visit *v)
{
    struct route *route = v->route;
    struct bg_env *env = route->env;
    struct reading *r = v->reading;
    if (!r)
        return;
    v->reading = NULL;
    r->visit = NULL;
    env->ops->gate_enter(env, route->gate);
    struct reading **at = &route->unread;
    while (*at && *at != r)
        at = &(*at)->next;
    const bool unread = *at == r;
    if (unread) {
        *at = r->next;
        if (route->unread_end == &r->next)
            route->unread_end = at;
    }
    env->ops->gate_leave(env, route->gate);
    if (unread)
        forget(route, r);
}

void reader_take(struct route *route)
{
    struct bg_env *env = route->env;
    env->ops->gate_enter(env, route->gate);
    struct reading *list = route->read;
    route->read = NULL;
    env->ops->gate_leave(env, route->gate);
    for (struct reading *r = list, *next; r; r = next) {
        struct visit *v = r->visit;
        next = r->next;
        if (v) {
            struct answer *a = r->answer;
            r->answer = NULL;
            v->reading = NULL;
            route->held -= r->body.size;
            v->body = r->body;
            r->body = (struct bg_str){0};
            relay_take(v, a);
        }
        forget(route, r);
    }
}

bg_status reader_open(struct route *route, struct bg_error *err)
{
    struct bg_env *env = route->env;
    struct epoll_event bell = {.events = EPOLLIN, .data.ptr = &route->bell};
    bg_status status = env->ops->gate_create(env, err, &route->gate);
    if (status)
        return status;
    route->bell = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
    if (route->bell < 0 || epoll_ctl(route->epoll, EPOLL_CTL_ADD, route->bell, &bell))
        return bg_fail(err, BG_IO, "cannot make the router's bell");
    return env->ops->thread_start(env, loop, route, err, &route->reader);
}

void reader_rung(struct route *route)
{
    uint64_t rings;
    if (read(route->bell, &rings, sizeof rings) < 0)
        return; // somebody else has heard it
}

void reader_close(struct route *route)
{
    struct bg_env *env = route->env;
    if (route->reader) {
        env->ops->gate_enter(env, route->gate);
        route->closing = true;
        env->ops->gate_ring(env, route->gate);
        env->ops->gate_leave(env, route->gate);
        env->ops->thread_join(env, route->reader);
    }
    struct reading *const lists[] = {route->unread, route->read};
    for (size_t i = 0; i < 2; i++)
        for (struct reading *r = lists[i], *next; r; r = next) {
            next = r->next;
            forget(route, r);
        }
    if (route->bell >= 0)
        close(route->bell);
    if (route->gate)
        env->ops->gate_destroy(env, route->gate);
}
