// Puts the live environment together: clocks and entropy here, everything else from its own file. Several
// environments can live in one process; only signals belong to the process, so one of them may have those.
#include "os/live_int.h"

#include "base/mem.h"

#include <uv.h>

static uint64_t live_now_ns(struct bg_env *env)
{
    (void)env;
    return uv_hrtime();
}

static int64_t live_wall_ms(struct bg_env *env)
{
    (void)env;
    uv_timeval64_t now = {0};
    uv_gettimeofday(&now);
    return now.tv_sec * 1000 + now.tv_usec / 1000;
}

static bg_status live_entropy(struct bg_env *env, void *bytes, size_t size, struct bg_error *err)
{
    (void)env;
    int code = uv_random(NULL, NULL, bytes, size, 0, NULL);
    return code < 0 ? os_fail(err, code, "reading random bytes from", "the system") : BG_OK;
}

static void live_parallel_for(struct bg_env *env, size_t count, bg_task_fn fn, void *arg)
{
    os_pool_run(((struct os_live *)env)->pool, count, fn, arg);
}

static int live_stop_signal(struct bg_env *env)
{
    return ((struct os_live *)env)->handles_signals ? os_signals_pending() : 0;
}

static const struct bg_env_ops live_ops = {
    .now_ns = live_now_ns,
    .wall_ms = live_wall_ms,
    .entropy = live_entropy,
    .map_open = os_map_open,
    .map_close = os_map_close,
    .file_open = os_file_open,
    .directory_lock = os_directory_lock,
    .file_write = os_file_write,
    .file_sync = os_file_sync,
    .file_close = os_file_close,
    .path_info = os_path_info,
    .path_rename = os_path_rename,
    .path_remove = os_path_remove,
    .path_truncate = os_path_truncate,
    .path_sync = os_path_sync,
    .make_directories = os_make_directories,
    .list_directory = os_list_directory,
    .disk_free = os_disk_free,
    .reserve = os_reserve,
    .release = os_release,
    .reserve_on_disk = os_reserve_on_disk,
    .set_aside = os_set_aside,
    .memory_total = os_memory_total,
    .parallel_for = live_parallel_for,
    .thread_start = os_thread_start,
    .thread_ended = os_thread_ended,
    .thread_join = os_thread_join,
    .gate_create = os_gate_create,
    .gate_destroy = os_gate_destroy,
    .gate_enter = os_gate_enter,
    .gate_leave = os_gate_leave,
    .gate_wait = os_gate_wait,
    .gate_ring = os_gate_ring,
    .stop_signal = live_stop_signal,
    .point = os_point,
};

bg_status os_env_create(const struct os_options *o, struct bg_error *err, struct bg_env **env)
{
    static const struct os_options defaults = {.pin = true};
    if (!o)
        o = &defaults;
    unsigned isa = 0;
    bg_status status = os_isa_select(err, &isa);
    if (status)
        return status;
    struct os_live *live = bg_alloc(sizeof *live);
    live->env.ops = &live_ops;
    live->env.isa = isa;
    live->handles_signals = o->handle_signals;
    status = os_pool_create(o, err, &live->env.threads, &live->pool);
    if (status)
        goto undo_live;
    if (o->handle_signals) {
        status = os_signals_start(err);
        if (status)
            goto undo_pool;
    }
    *env = &live->env;
    return BG_OK;
undo_pool:
    os_pool_destroy(live->pool);
undo_live:
    bg_free(live);
    return status;
}

void os_env_destroy(struct bg_env *env)
{
    if (!env)
        return;
    struct os_live *live = (struct os_live *)env;
    if (live->handles_signals)
        os_signals_stop();
    os_pool_destroy(live->pool);
    bg_free(live);
}
