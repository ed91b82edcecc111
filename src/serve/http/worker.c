// Threads for what the HTTP thread must not wait for. Each does one chore after the other; an exchange whose client
// goes away stays until its chore has ended, or leaves the line where it need not begin any more.
#include "serve/http/http_int.h"

#include "base/mem.h"

enum {
    SMALL_MAX = 64 << 10, // bytes: read, or written, in a few milliseconds
    HELD_MAX = 64,        // bodies of the largest size
};

enum worker_kind worker_for(size_t bytes)
{
    return bytes > SMALL_MAX ? WORKER_LARGE : WORKER_SMALL;
}

void worker_chore_ended(struct exchange *x, const struct serve_event *event)
{
    (void)event;
    x->running = 0;
    x->ready = true;
}

void worker_finish(struct exchange *x)
{
    (void)x;
}

static void let_go_of_body(struct exchange *x) // in the gate
{
    x->http->held -= x->held;
    x->held = 0;
}

void worker_drop(struct exchange *x)
{
    struct bg_env *env = x->http->env;
    env->ops->gate_enter(env, x->http->gate);
    struct worker *w = x->waits_for;
    if (w) {
        struct exchange **at = &w->chores;
        while (*at != x)
            at = &(*at)->next_chore;
        *at = x->next_chore;
        if (w->chores_end == &x->next_chore)
            w->chores_end = at;
        x->waits_for = NULL;
        x->next_chore = NULL;
        x->running = 0;
        let_go_of_body(x);
    }
    env->ops->gate_leave(env, x->http->gate);
}

void exchange_chore(struct exchange *x, enum worker_kind kind, void (*chore)(struct exchange *x))
{
    struct bg_env *env = x->http->env;
    struct worker *w = &x->http->workers[kind];
    x->chore = chore;
    x->running = 1;
    env->ops->gate_enter(env, x->http->gate);
    x->waits_for = w;
    *w->chores_end = x;
    w->chores_end = &x->next_chore;
    env->ops->gate_ring(env, x->http->gate);
    env->ops->gate_leave(env, x->http->gate);
}

enum MHD_Result exchange_begin(struct exchange *x, enum worker_kind kind, void (*chore)(struct exchange *x),
                               const struct exchange_work *work, void *work_of)
{
    struct http *http = x->http;
    struct openai_error error;
    x->work = work;
    x->work_of = work_of;
    http->env->ops->gate_enter(http->env, http->gate);
    const bool room = http->held / HELD_MAX < http->o.body_max;
    x->held = room ? x->body.size : 0;
    http->held += x->held;
    http->env->ops->gate_leave(http->env, http->gate);
    if (!room) {
        openai_refuse(&error, 429, "rate_limit_error", "", "too many large requests wait to be read: ask again later");
        return exchange_refuse(x, &error);
    }
    exchange_chore(x, kind, chore);
    return exchange_wait(x);
}

// NULL: the end.
static struct exchange *next_chore(struct worker *w)
{
    struct http *http = w->http;
    struct bg_env *env = http->env;
    env->ops->gate_enter(env, http->gate);
    while (!w->chores && !http->stopping)
        env->ops->gate_wait(env, http->gate, 1000000000);
    struct exchange *x = http->stopping ? NULL : w->chores;
    if (x) {
        w->chores = x->next_chore;
        if (!w->chores)
            w->chores_end = &w->chores;
        x->waits_for = NULL;
        x->next_chore = NULL;
    }
    env->ops->gate_leave(env, http->gate);
    return x;
}

void worker_loop(void *arg, struct bg_env *own)
{
    struct worker *w = arg;
    struct http *http = w->http;
    (void)own;
    for (struct exchange *x; (x = next_chore(w));) {
        struct told *told = bg_alloc(sizeof *told);
        if (w->kind != WORKER_WAITS)
            env_point(http->env, "serve-read");
        x->chore(x);
        bg_str_fini(&x->body);
        http->env->ops->gate_enter(http->env, http->gate);
        let_go_of_body(x);
        http->env->ops->gate_leave(http->env, http->gate);
        told->event = (struct serve_event){.user = x, .finish = SERVE_STOP};
        http_tell(http, told);
    }
}
