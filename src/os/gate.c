// A lock with a bell, by libuv.
#include "os/live_int.h"

#include "base/mem.h"

#include <uv.h>

struct bg_gate {
    uv_mutex_t mutex;
    uv_cond_t bell;
};

bg_status os_gate_create(struct bg_env *env, struct bg_error *err, struct bg_gate **out)
{
    (void)env;
    struct bg_gate *gate = bg_alloc(sizeof *gate);
    int code = uv_mutex_init(&gate->mutex);
    if (code) {
        bg_free(gate);
        return os_fail(err, code, "making a lock in", "this process");
    }
    code = uv_cond_init(&gate->bell);
    if (code) {
        uv_mutex_destroy(&gate->mutex);
        bg_free(gate);
        return os_fail(err, code, "making a condition in", "this process");
    }
    *out = gate;
    return BG_OK;
}

void os_gate_destroy(struct bg_env *env, struct bg_gate *gate)
{
    (void)env;
    uv_cond_destroy(&gate->bell);
    uv_mutex_destroy(&gate->mutex);
    bg_free(gate);
}

void os_gate_enter(struct bg_env *env, struct bg_gate *gate)
{
    (void)env;
    uv_mutex_lock(&gate->mutex);
}

void os_gate_leave(struct bg_env *env, struct bg_gate *gate)
{
    (void)env;
    uv_mutex_unlock(&gate->mutex);
}

void os_gate_wait(struct bg_env *env, struct bg_gate *gate, uint64_t ns)
{
    (void)env;
    (void)uv_cond_timedwait(&gate->bell, &gate->mutex, ns);
}

void os_gate_ring(struct bg_env *env, struct bg_gate *gate)
{
    (void)env;
    uv_cond_broadcast(&gate->bell);
}
