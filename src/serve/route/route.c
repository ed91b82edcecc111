// The router's loop and life.
#include "serve/route/route_int.h"

#include "base/mem.h"

#include <stdio.h>
#include <sys/epoll.h>
#include <unistd.h>

enum { TICK_BUSY_MS = 20, TICK_IDLE_MS = 100 };

static int patience_ms(struct route *route, uint64_t now)
{
    MHD_UNSIGNED_LONG_LONG most = route->open > 0 ? TICK_BUSY_MS : TICK_IDLE_MS, asked;
    if (MHD_get_timeout(route->daemon, &asked) == MHD_YES && asked < most)
        most = asked;
    if (route->ready)
        most = 0;
    if (route->curl_due_ns && route->curl_due_ns < now + most * 1000000u)
        most = route->curl_due_ns > now ? (route->curl_due_ns - now + 999999u) / 1000000u : 0;
    return (int)most;
}

static void turn(struct route *route)
{
    struct epoll_event events[64];
    const int count = epoll_wait(route->epoll, events, 64, patience_ms(route, env_now_ns(route->env)));
    for (int i = 0; i < count; i++) {
        if (events[i].data.ptr == route)
            continue; // libmicrohttpd runs below in any case
        if (events[i].data.ptr == &route->bell)
            reader_rung(route);
        else if (events[i].data.u64 & 1)
            upstream_event(route, (int)(events[i].data.u64 >> 1), events[i].events);
        else
            front_peer(events[i].data.ptr, events[i].events);
    }
    const uint64_t now = env_now_ns(route->env);
    reader_take(route);
    upstream_work(route, now);
    replicas_tick(route, now);
    relay_tick(route, now);
    MHD_run(route->daemon);
}

static void say(const struct route *route, char *line) // frees it
{
    if (route->o.say)
        route->o.say(route->o.arg, line);
    bg_free(line);
}

void route_run(struct route *route)
{
    struct bg_env *env = route->env;
    while (!env->ops->stop_signal(env))
        turn(route);
    route->draining = true;
    if (route->o.stopping)
        route->o.stopping();
    say(route, bg_format("draining %u requests for at most %g s", route->open, route->o.grace_ms * 1e-3));
    const uint64_t begin = env_now_ns(env);
    while (route->open > 0 && env_now_ns(env) - begin < (uint64_t)route->o.grace_ms * 1000000u)
        turn(route);
    say(route, bg_format("stopped, %u requests were not finished", route->open));
}

static uint32_t given(uint32_t value, uint32_t otherwise)
{
    return value ? value : otherwise;
}

bg_status route_create(struct bg_env *env, const struct route_options *options, struct bg_error *err,
                       struct route **out)
{
    struct route *route = bg_alloc(sizeof *route);
    *route = (struct route){.env = env, .o = *options, .epoll = -1, .bell = -1};
    struct route_options *o = &route->o;
    route->ready_end = &route->ready;
    route->waiting_end = &route->waiting;
    route->unread_end = &route->unread;
    route->affinity = bg_alloc(sizeof *route->affinity);
    o->host = o->host ? o->host : "127.0.0.1";
    o->queue_max = given(o->queue_max, 256);
    o->wait_ms = given(o->wait_ms, 30000);
    o->stall_ms = given(o->stall_ms, 400);
    o->probe_ms = given(o->probe_ms, 100);
    o->notice_ms = given(o->notice_ms, 30000);
    route->ship_bandwidth = o->bandwidth > 0 ? o->bandwidth : 125e6;
    o->wait_target_s = o->wait_target_s > 0 ? o->wait_target_s : 0.05;
    o->body_max = o->body_max ? o->body_max : (size_t)4 << 20;
    o->connections_max = given(o->connections_max, 4096);
    snprintf(route->digest, sizeof route->digest, "%s", o->digest ? o->digest : "");
    bg_status status = upstream_open(route, err);
    if (!status)
        status = replicas_open(route, err);
    if (!status)
        status = front_listen(route, err);
    if (!status)
        status = reader_open(route, err);
    if (status)
        route_destroy(route);
    else
        *out = route;
    return status;
}

uint16_t route_port(const struct route *route)
{
    return route->port;
}

void route_destroy(struct route *route)
{
    if (!route)
        return;
    front_close(route);
    reader_close(route);
    replicas_close(route);
    upstream_close(route);
    if (route->epoll >= 0)
        close(route->epoll);
    bg_free(route->affinity);
    bg_free(route);
}
