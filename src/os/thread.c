// A thread beside the loop, with an environment of its own: for work on a copy that must not hold anybody up.
#include "os/live_int.h"

#include "base/mem.h"

#include <stdatomic.h>
#include <uv.h>

struct bg_thread {
    uv_thread_t id;
    void (*fn)(void *arg, struct bg_env *own);
    void *arg;
    struct bg_env *own;
    atomic_bool ended;
};

static void run(void *arg)
{
    struct bg_thread *thread = arg;
    thread->fn(thread->arg, thread->own);
    atomic_store_explicit(&thread->ended, true, memory_order_release);
}

bg_status os_thread_start(struct bg_env *env, void (*fn)(void *arg, struct bg_env *own), void *arg,
                          struct bg_error *err, struct bg_thread **out)
{
    (void)env;
    static const struct os_options one_lane = {.threads = 1, .keep_caller = true};
    struct bg_thread *thread = bg_alloc(sizeof *thread);
    thread->fn = fn;
    thread->arg = arg;
    bg_status status = os_env_create(&one_lane, err, &thread->own);
    if (status) {
        bg_free(thread);
        return status;
    }
    int code = uv_thread_create(&thread->id, run, thread);
    if (code) {
        os_env_destroy(thread->own);
        bg_free(thread);
        return os_fail(err, code, "starting a thread in", "this process");
    }
    *out = thread;
    return BG_OK;
}

bool os_thread_ended(struct bg_env *env, const struct bg_thread *thread)
{
    (void)env;
    return atomic_load_explicit(&thread->ended, memory_order_acquire);
}

void os_thread_join(struct bg_env *env, struct bg_thread *thread)
{
    (void)env;
    uv_thread_join(&thread->id);
    os_env_destroy(thread->own);
    bg_free(thread);
}
