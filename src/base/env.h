// Every effect the core may have goes through `struct bg_env`: clock, entropy, disk, memory, signals and
// parallel-for. src/os holds the live one; the simulator will hold another. Rooms get an env as a parameter
// and keep no globals, so two environments can live in one process.
#ifndef BASE_ENV_H
#define BASE_ENV_H

#include "base/status.h"

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

struct bg_env;

// Bits of bg_env.isa; the caller passes them to kern_select(). VNNI: products of bytes, beside AVX512 only.
enum bg_isa { BG_ISA_REF = 0, BG_ISA_AVX2 = 1, BG_ISA_AVX512 = 2, BG_ISA_VNNI = 4 };

// Read-only bytes of a whole file. `data` is never NULL (an empty file maps to an empty string).
struct bg_map {
    const uint8_t *data;
    size_t size;
    void *handle;
};

struct bg_file; // an open file being written
struct bg_thread;
struct bg_gate;

enum bg_file_mode {
    BG_FILE_CREATE,   // must not exist
    BG_FILE_TRUNCATE, // made or emptied
    BG_FILE_APPEND,   // made or continued at its end
};

struct bg_file_info {
    bool exists, is_directory;
    uint64_t size;
    int64_t mtime_ns;
};

typedef void (*bg_task_fn)(void *arg, size_t index, unsigned lane);
typedef bg_status (*bg_list_fn)(void *arg, const char *name, struct bg_error *err);

struct bg_env_ops {
    // Clocks: now_ns is monotonic, wall_ms is milliseconds since 1970-01-01 UTC.
    uint64_t (*now_ns)(struct bg_env *env);
    int64_t (*wall_ms)(struct bg_env *env);
    bg_status (*entropy)(struct bg_env *env, void *bytes, size_t size, struct bg_error *err);

    // Disk. Paths are UTF-8. Every failure names the path and the reason. BG_NOT_FOUND: what is read is not there;
    // BG_NOT_CREATED: what is written cannot be put there (no such directory, not allowed, something in its way).
    bg_status (*map_open)(struct bg_env *env, const char *path, struct bg_error *err, struct bg_map *map);
    void (*map_close)(struct bg_env *env, struct bg_map *map);
    bg_status (*file_open)(struct bg_env *env, const char *path, enum bg_file_mode mode, struct bg_error *err,
                           struct bg_file **file);
    bg_status (*file_write)(struct bg_env *env, struct bg_file *file, const void *bytes, size_t size,
                            struct bg_error *err);
    bg_status (*file_sync)(struct bg_env *env, struct bg_file *file, struct bg_error *err);
    // Closes always, also when it fails (a full disk may show only here).
    bg_status (*file_close)(struct bg_env *env, struct bg_file *file, struct bg_error *err);
    bg_status (*path_info)(struct bg_env *env, const char *path, struct bg_error *err, struct bg_file_info *info);
    bg_status (*path_rename)(struct bg_env *env, const char *from, const char *to, struct bg_error *err);
    // A file, a link or a whole tree; absent is ok.
    bg_status (*path_remove)(struct bg_env *env, const char *path, struct bg_error *err);
    bg_status (*path_truncate)(struct bg_env *env, const char *path, uint64_t size, struct bg_error *err);
    // Makes the renames in a directory durable.
    bg_status (*path_sync)(struct bg_env *env, const char *directory, struct bg_error *err);
    bg_status (*make_directories)(struct bg_env *env, const char *path, struct bg_error *err); // like mkdir -p
    bg_status (*list_directory)(struct bg_env *env, const char *path, bg_list_fn fn, void *arg,
                                struct bg_error *err); // names in byte order, without . and ..
    // Held until file_close(*lock) or the death of the process. BG_EXISTS: another process (or lock) holds it.
    bg_status (*directory_lock)(struct bg_env *env, const char *path, struct bg_error *err, struct bg_file **lock);
    bg_status (*disk_free)(struct bg_env *env, const char *path, struct bg_error *err, uint64_t *bytes);

    // Memory: zeroed pages, huge pages advised; sized once at start. Release gives back what reserve gave.
    bg_status (*reserve)(struct bg_env *env, size_t bytes, struct bg_error *err, void **memory);
    void (*release)(struct bg_env *env, void *memory, size_t bytes);
    // As reserve, of a file in `directory` that has no name and goes with the process, all of its blocks taken now: a
    // full disk says so here. set_aside: whole reservations of it leave memory until they are touched again.
    bg_status (*reserve_on_disk)(struct bg_env *env, const char *directory, size_t bytes, struct bg_error *err,
                                 void **memory);
    void (*set_aside)(struct bg_env *env, void *memory, size_t bytes);
    uint64_t (*memory_total)(struct bg_env *env);

    // Runs fn(arg, index, lane) for every index below count, on env->threads lanes; returns when all are
    // done. Which lane takes which index is not determined: results must not depend on it. One caller at a
    // time; from inside a task it runs inline, on the lane of that task. At most 2^32 - 1 indices.
    void (*parallel_for)(struct bg_env *env, size_t count, bg_task_fn fn, void *arg);

    // Runs fn(arg, own) beside everything else; `own` is an environment of one lane for it alone. NULL where there is
    // no such thing (the simulator). thread_join waits for the end and frees.
    bg_status (*thread_start)(struct bg_env *env, void (*fn)(void *arg, struct bg_env *own), void *arg,
                              struct bg_error *err, struct bg_thread **thread);
    bool (*thread_ended)(struct bg_env *env, const struct bg_thread *thread);
    void (*thread_join)(struct bg_env *env, struct bg_thread *thread);

    // A lock with a bell, for the few places where threads share something. gate_wait leaves it, sleeps until
    // gate_ring() or for at most `ns`, and has it again. May wake for no reason. NULL where there are no threads.
    bg_status (*gate_create)(struct bg_env *env, struct bg_error *err, struct bg_gate **gate);
    void (*gate_destroy)(struct bg_env *env, struct bg_gate *gate);
    void (*gate_enter)(struct bg_env *env, struct bg_gate *gate);
    void (*gate_leave)(struct bg_env *env, struct bg_gate *gate);
    void (*gate_wait)(struct bg_env *env, struct bg_gate *gate, uint64_t ns);
    void (*gate_ring)(struct bg_env *env, struct bg_gate *gate);

    // 0, or the signal (SIGINT, SIGTERM) that asked for a stop.
    int (*stop_signal)(struct bg_env *env);

    // A named point of a protocol ("before-send"), where tests and the simulator let processes die or stop.
    void (*point)(struct bg_env *env, const char *name);
};

struct bg_env {
    const struct bg_env_ops *ops;
    unsigned threads; // lanes of parallel_for, >= 1
    unsigned isa;     // enum bg_isa bits the machine has and BRIGADE_ISA allows
};

// Thin callers, so that code reads env_now_ns(env).
static inline uint64_t env_now_ns(struct bg_env *env)
{
    return env->ops->now_ns(env);
}

static inline void env_parallel_for(struct bg_env *env, size_t count, bg_task_fn fn, void *arg)
{
    env->ops->parallel_for(env, count, fn, arg);
}

static inline void env_point(struct bg_env *env, const char *name)
{
    env->ops->point(env, name);
}

// Built from the operations above (env.c).
// Writes a whole file so that a kill at any instant leaves the old content or the new: temporary file beside
// it, sync, rename, sync of the directory.
BG_MUST_USE bg_status env_write_file(struct bg_env *env, const char *path, const void *bytes, size_t size,
                                     struct bg_error *err);

#endif
