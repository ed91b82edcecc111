// Inside os/: the parts that live.c puts together into one environment.
#ifndef OS_LIVE_INT_H
#define OS_LIVE_INT_H

#include "base/env.h"
#include "os/live.h"

struct os_pool;

struct os_live {
    struct bg_env env; // first: the ops cast back
    struct os_pool *pool;
    bool handles_signals;
};

// A bg_status and text for libuv's error code (negative): "<action> <path>: reason (advice)".
bg_status os_fail(struct bg_error *err, int code, const char *action, const char *path);
// The same for what is to be written and cannot be put where `path` says: BG_NOT_CREATED, not an input that is absent.
bg_status os_fail_to_create(struct bg_error *err, int code, const char *action, const char *path);

// disk.c, mapping.c: the entries of bg_env_ops of the same names.
bg_status os_map_open(struct bg_env *env, const char *path, struct bg_error *err, struct bg_map *map);
void os_map_close(struct bg_env *env, struct bg_map *map);
bg_status os_directory_lock(struct bg_env *env, const char *path, struct bg_error *err, struct bg_file **lock);
bg_status os_file_open(struct bg_env *env, const char *path, enum bg_file_mode mode, struct bg_error *err,
                       struct bg_file **file);
bg_status os_file_write(struct bg_env *env, struct bg_file *file, const void *bytes, size_t size, struct bg_error *err);
bg_status os_file_sync(struct bg_env *env, struct bg_file *file, struct bg_error *err);
bg_status os_file_close(struct bg_env *env, struct bg_file *file, struct bg_error *err);
bg_status os_path_info(struct bg_env *env, const char *path, struct bg_error *err, struct bg_file_info *info);
bg_status os_path_rename(struct bg_env *env, const char *from, const char *to, struct bg_error *err);
bg_status os_path_remove(struct bg_env *env, const char *path, struct bg_error *err);
bg_status os_path_truncate(struct bg_env *env, const char *path, uint64_t size, struct bg_error *err);
bg_status os_path_sync(struct bg_env *env, const char *directory, struct bg_error *err);
bg_status os_make_directories(struct bg_env *env, const char *path, struct bg_error *err);
bg_status os_list_directory(struct bg_env *env, const char *path, bg_list_fn fn, void *arg, struct bg_error *err);
bg_status os_disk_free(struct bg_env *env, const char *path, struct bg_error *err, uint64_t *bytes);
bg_status os_reserve(struct bg_env *env, size_t bytes, struct bg_error *err, void **memory);
void os_release(struct bg_env *env, void *memory, size_t bytes);
bg_status os_reserve_on_disk(struct bg_env *env, const char *directory, size_t bytes, struct bg_error *err,
                             void **memory);
void os_set_aside(struct bg_env *env, void *memory, size_t bytes);
uint64_t os_memory_total(struct bg_env *env);

// pool.c
bg_status os_pool_create(const struct os_options *o, struct bg_error *err, unsigned *lanes, struct os_pool **pool);
void os_pool_destroy(struct os_pool *pool);
void os_pool_run(struct os_pool *pool, size_t count, bg_task_fn fn, void *arg);

// thread.c
bg_status os_thread_start(struct bg_env *env, void (*fn)(void *arg, struct bg_env *own), void *arg,
                          struct bg_error *err, struct bg_thread **thread);
bool os_thread_ended(struct bg_env *env, const struct bg_thread *thread);
void os_thread_join(struct bg_env *env, struct bg_thread *thread);

bg_status os_gate_create(struct bg_env *env, struct bg_error *err, struct bg_gate **gate);
void os_gate_destroy(struct bg_env *env, struct bg_gate *gate);
void os_gate_enter(struct bg_env *env, struct bg_gate *gate);
void os_gate_leave(struct bg_env *env, struct bg_gate *gate);
void os_gate_wait(struct bg_env *env, struct bg_gate *gate, uint64_t ns);
void os_gate_ring(struct bg_env *env, struct bg_gate *gate);

// fault.c: nothing, unless BRIGADE_FAULT names this process and point.
void os_point(struct bg_env *env, const char *name);

// cpu.c: the ISA bits of this CPU, cut by BRIGADE_ISA.
bg_status os_isa_select(struct bg_error *err, unsigned *isa);

// signal.c
bg_status os_signals_start(struct bg_error *err);
int os_signals_pending(void);

#endif
