// Threads for what the HTTP thread must not wait for. Each does one chore after the other; an exchange whose client
// goes away stays until its chore has ended, or leaves the line where it need not begin any more.
#include "serve/http/http_int.h"

#include "base/mem.h"

enum {
    SMALL_MAX = 64 << 10, // bytes: read, or written, in a few milliseconds
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

void worker_drop(struct exchange *x)
{
    struct worker *w = x->worker;
    struct bg_env *env = x->http->env;
    if (!w)
        return;
    env->ops->gate_enter(env, w->gate);
    struct exchange **at = &w->chores;
    while (*at && *at != x)
        at = &(*at)->next_chore;
    const bool waits = *at == x;
    if (waits) {
        *at = x->next_chore;
        if (w->chores_end == &x->next_chore)
            w->chores_end = at;
    }
    env->ops->gate_leave(env, w->gate);
    if (waits)
        worker_let_go(x);
    x->running -= waits;
}

void worker_let_go(struct exchange *x)
{
    x->http->held -= x->held;
    x->held = 0;
    x->worker = NULL;
}

void exchange_chore(struct exchange *x, enum worker_kind kind, bool first, void (*chore)(struct exchange *x))
{
    struct bg_env *env = x->http->env;
    struct worker *w = &x->http->workers[kind];
    x->chore = chore;
    x->worker = w;
    x->running = 1;
    env->ops->gate_enter(env, w->gate);
    struct exchange **at = w->chores_end;
    if (first)
        for (at = &w->chores; *at && (*at)->chore == chore;)
            at = &(*at)->next_chore;
    x->next_chore = *at;
    *at = x;
    if (!x->next_chore)
        w->chores_end = &x->next_chore;
    env->ops->gate_ring(env, w->gate);
    env->ops->gate_leave(env, w->gate);
}

enum MHD_Result exchange_begin(struct exchange *x, enum worker_kind kind, void (*chore)(struct exchange *x),
                               const struct exchange_work *work, void *work_of)
{
    struct http *http = x->http;
    struct openai_error error;
    x->work = work;
    x->work_of = work_of;
    if (kind != WORKER_SMALL && http->held / WORKER_HELD_MAX >= http->o.body_max) {
        openai_refuse(&error, 429, "rate_limit_error", "", "too many large requests wait to be read: ask again later");
        return exchange_refuse(x, &error);
    }
    x->held = x->body.size;
    http->held += x->held;
    exchange_chore(x, kind, false, chore);
    return exchange_wait(x);
}

uint32_t worker_waiting(struct worker *w)
{
    struct bg_env *env = w->http->env;
    uint32_t count = 0;
    env->ops->gate_enter(env, w->gate);
    for (const struct exchange *x = w->chores; x; x = x->next_chore)
        count++;
    env->ops->gate_leave(env, w->gate);
    return count;
}

// NULL: the end.
static struct exchange *next_chore(struct worker *w)
{
    struct bg_env *env = w->http->env;
    env->ops->gate_enter(env, w->gate);
    while (!w->chores && !w->stopping)
        env->ops->gate_wait(env, w->gate, 1000000000);
    struct exchange *x = w->stopping ? NULL : w->chores;
    if (x) {
        w->chores = x->next_chore;
        if (!w->chores)
            w->chores_end = &w->chores;
    }
    env->ops->gate_leave(env, w->gate);
    return x;
}

static void loop(void *arg, struct bg_env *own)
{
    struct worker *w = arg;
    (void)own;
    for (struct exchange *x; (x = next_chore(w));) {
        struct told *told = bg_alloc(sizeof *told);
        if (w->kind != WORKER_WAITS)
            env_point(w->http->env, "serve-read");
        x->chore(x);
        bg_str_fini(&x->body);
        told->event = (struct serve_event){.user = x, .finish = SERVE_STOP};
        http_tell(w->http, told);
    }
}

bg_status worker_start(struct http *http, enum worker_kind kind, struct bg_error *err)
{
    struct worker *w = &http->workers[kind];
    struct bg_env *env = http->env;
    *w = (struct worker){.http = http, .kind = kind};
    w->chores_end = &w->chores;
    bg_status status = env->ops->gate_create(env, err, &w->gate);
    return status ? status : env->ops->thread_start(env, loop, w, err, &w->thread);
}

// What it is at is done; what waits stays where it is.
void worker_stop(struct worker *w)
{
    if (w->thread) {
        struct bg_env *env = w->http->env;
        env->ops->gate_enter(env, w->gate);
        w->stopping = true;
        env->ops->gate_ring(env, w->gate);
        env->ops->gate_leave(env, w->gate);
        env->ops->thread_join(env, w->thread);
    }
    w->thread = NULL;
}

void worker_fini(struct worker *w)
{
    if (w->gate)
        w->http->env->ops->gate_destroy(w->http->env, w->gate);
}
