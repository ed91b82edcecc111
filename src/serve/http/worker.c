// A thread for what the HTTP thread must not wait for: the engine between two steps, and files. One chore after the
// other; an exchange whose client goes away meanwhile stays until its chore is done.
#include "serve/http/http_int.h"

#include "base/mem.h"

void worker_chore_ended(struct exchange *x, const struct serve_event *event)
{
    (void)event;
    x->running = 0;
    x->complete = true;
}

void worker_abandon(struct exchange *x)
{
    (void)x; // it is done to its end
}

enum MHD_Result exchange_chore(struct exchange *x, void (*chore)(struct exchange *x), const struct exchange_work *work,
                               void *work_of)
{
    struct http *http = x->http;
    x->work = work;
    x->work_of = work_of;
    x->chore = chore;
    x->running = 1;
    http->env->ops->gate_enter(http->env, http->gate);
    *http->chores_end = x;
    http->chores_end = &x->next_chore;
    http->env->ops->gate_ring(http->env, http->gate);
    http->env->ops->gate_leave(http->env, http->gate);
    return exchange_wait(x);
}

// NULL: the end.
static struct exchange *next_chore(struct http *http)
{
    struct bg_env *env = http->env;
    env->ops->gate_enter(env, http->gate);
    while (!http->chores && !http->stopping)
        env->ops->gate_wait(env, http->gate, 1000000000);
    struct exchange *x = http->stopping ? NULL : http->chores;
    if (x) {
        http->chores = x->next_chore;
        if (!http->chores)
            http->chores_end = &http->chores;
    }
    env->ops->gate_leave(env, http->gate);
    return x;
}

void worker_loop(void *arg, struct bg_env *own)
{
    struct http *http = arg;
    (void)own;
    for (struct exchange *x; (x = next_chore(http));) {
        struct told *told = bg_alloc(sizeof *told);
        x->chore(x);
        told->event = (struct serve_event){.user = x, .finish = SERVE_STOP};
        http_tell(http, told);
    }
}
