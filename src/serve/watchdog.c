// Counts its own short sleeps between which no step ended, not the clock.
#include "serve/watchdog.h"

#include "base/mem.h"

#include <math.h>

struct watchdog {
    struct bg_env *env;
    struct engine *engine;
    struct watchdog_options o;
    struct bg_gate *gate;
    struct bg_thread *thread;
    bool stopping; // gate
};

static void watch(void *arg, struct bg_env *own)
{
    struct watchdog *w = arg;
    const uint64_t tick = (uint64_t)(fmin(1, w->o.limit_s / 8) * 1e9);
    uint64_t seen = engine_pulse(w->engine).turns, before = env_now_ns(own);
    double still_s = 0;
    own->ops->gate_enter(own, w->gate);
    while (!w->stopping) {
        own->ops->gate_wait(own, w->gate, tick);
        const uint64_t now = env_now_ns(own), slept = now - before;
        const struct engine_pulse pulse = engine_pulse(w->engine);
        still_s = pulse.turns == seen ? still_s + fmin((double)slept, 2.0 * (double)tick) * 1e-9 : 0;
        seen = pulse.turns;
        before = now;
        if (w->stopping || still_s < w->o.limit_s)
            continue;
        own->ops->gate_leave(own, w->gate);
        w->o.dead(w->o.arg, pulse.doing, still_s);
        own->ops->gate_enter(own, w->gate);
        break;
    }
    own->ops->gate_leave(own, w->gate);
}

bg_status watchdog_start(struct bg_env *env, struct engine *engine, const struct watchdog_options *options,
                         struct bg_error *err, struct watchdog **watchdog)
{
    struct watchdog *w = bg_alloc(sizeof *w);
    *w = (struct watchdog){.env = env, .engine = engine, .o = *options};
    w->o.limit_s = options->limit_s > 0 ? options->limit_s : 120;
    bg_status status = env->ops->gate_create(env, err, &w->gate);
    if (!status)
        status = env->ops->thread_start(env, watch, w, err, &w->thread);
    if (status)
        watchdog_stop(w);
    else
        *watchdog = w;
    return status;
}

void watchdog_stop(struct watchdog *watchdog)
{
    struct watchdog *w = watchdog;
    if (!w)
        return;
    if (w->thread) {
        w->env->ops->gate_enter(w->env, w->gate);
        w->stopping = true;
        w->env->ops->gate_ring(w->env, w->gate);
        w->env->ops->gate_leave(w->env, w->gate);
        w->env->ops->thread_join(w->env, w->thread);
    }
    if (w->gate)
        w->env->ops->gate_destroy(w->env, w->gate);
    bg_free(w);
}
