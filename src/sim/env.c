// The operations of a simulated process's environment.
#include "sim/env.h"

#include "base/assert.h"
#include "base/mem.h"

#include <string.h>

struct sim_reservation {
    struct sim_reservation *next;
    void *memory;
    size_t bytes;
};

static struct sim_env *self(struct bg_env *env)
{
    return (struct sim_env *)env;
}

static uint64_t sim_now_ns(struct bg_env *env)
{
    return *self(env)->now_ns;
}

static int64_t sim_wall_ms(struct bg_env *env)
{
    return 1700000000000 + (int64_t)(*self(env)->now_ns / 1000000);
}

static bg_status sim_entropy(struct bg_env *env, void *bytes, size_t size, struct bg_error *err)
{
    (void)err;
    for (size_t i = 0; i < size; i++)
        ((uint8_t *)bytes)[i] = (uint8_t)sim_random_word(&self(env)->entropy);
    return BG_OK;
}

static bg_status no_disk(const char *path, struct bg_error *err)
{
    return bg_fail(err, BG_UNSUPPORTED, "%s: a simulated process has no disk of its own", path);
}

static bg_status sim_map_open(struct bg_env *env, const char *path, struct bg_error *err, struct bg_map *map)
{
    (void)env;
    (void)map;
    return no_disk(path, err);
}

static void sim_map_close(struct bg_env *env, struct bg_map *map)
{
    (void)env;
    (void)map;
}

static bg_status sim_file_open(struct bg_env *env, const char *path, enum bg_file_mode mode, struct bg_error *err,
                               struct bg_file **file)
{
    (void)env;
    (void)mode;
    (void)file;
    return no_disk(path, err);
}

static bg_status sim_file_write(struct bg_env *env, struct bg_file *file, const void *bytes, size_t size,
                                struct bg_error *err)
{
    (void)env;
    (void)file;
    (void)bytes;
    (void)size;
    return no_disk("a file", err);
}

static bg_status sim_file_end(struct bg_env *env, struct bg_file *file, struct bg_error *err)
{
    (void)env;
    (void)file;
    return no_disk("a file", err);
}

static bg_status sim_path_info(struct bg_env *env, const char *path, struct bg_error *err, struct bg_file_info *info)
{
    (void)env;
    (void)info;
    return no_disk(path, err);
}

static bg_status sim_path_rename(struct bg_env *env, const char *from, const char *to, struct bg_error *err)
{
    (void)env;
    (void)to;
    return no_disk(from, err);
}

static bg_status sim_path(struct bg_env *env, const char *path, struct bg_error *err)
{
    (void)env;
    return no_disk(path, err);
}

static bg_status sim_path_truncate(struct bg_env *env, const char *path, uint64_t size, struct bg_error *err)
{
    (void)env;
    (void)size;
    return no_disk(path, err);
}

static bg_status sim_list_directory(struct bg_env *env, const char *path, bg_list_fn fn, void *arg,
                                    struct bg_error *err)
{
    (void)env;
    (void)fn;
    (void)arg;
    return no_disk(path, err);
}

static bg_status sim_directory_lock(struct bg_env *env, const char *path, struct bg_error *err, struct bg_file **lock)
{
    (void)env;
    (void)lock;
    return no_disk(path, err);
}

static bg_status sim_disk_free(struct bg_env *env, const char *path, struct bg_error *err, uint64_t *bytes)
{
    (void)env;
    (void)bytes;
    return no_disk(path, err);
}

static bg_status sim_reserve(struct bg_env *env, size_t bytes, struct bg_error *err, void **memory)
{
    (void)err;
    struct sim_reservation *r = bg_alloc(sizeof *r + bytes + 64);
    r->memory = (void *)(((uintptr_t)(r + 1) + 63) / 64 * 64);
    r->bytes = bytes;
    r->next = self(env)->ledger;
    self(env)->ledger = r;
    *memory = r->memory;
    return BG_OK;
}

static void sim_release(struct bg_env *env, void *memory, size_t bytes)
{
    struct sim_reservation **at = &self(env)->ledger;
    while (memory && *at && (*at)->memory != memory)
        at = &(*at)->next;
    if (!memory)
        return;
    struct sim_reservation *r = *at;
    BG_ASSERT(r && r->bytes == bytes); // what was reserved, whole
    *at = r->next;
    bg_free(r);
}

static bg_status sim_reserve_on_disk(struct bg_env *env, const char *directory, size_t bytes, struct bg_error *err,
                                     void **memory)
{
    (void)directory;
    return sim_reserve(env, bytes, err, memory);
}

static void sim_set_aside(struct bg_env *env, void *memory, size_t bytes)
{
    (void)env;
    (void)memory;
    (void)bytes;
}

static uint64_t sim_memory_total(struct bg_env *env)
{
    (void)env;
    return (uint64_t)1 << 30;
}

static void sim_parallel_for(struct bg_env *env, size_t count, bg_task_fn fn, void *arg)
{
    (void)env;
    for (size_t i = 0; i < count; i++)
        fn(arg, i, 0);
}

static int sim_stop_signal(struct bg_env *env)
{
    (void)env;
    return 0;
}

static void sim_point(struct bg_env *env, const char *name)
{
    struct sim_env *s = self(env);
    if (s->point)
        s->point(s->arg, name);
}

static const struct bg_env_ops sim_ops = {
    .now_ns = sim_now_ns,
    .wall_ms = sim_wall_ms,
    .entropy = sim_entropy,
    .map_open = sim_map_open,
    .map_close = sim_map_close,
    .file_open = sim_file_open,
    .file_write = sim_file_write,
    .file_sync = sim_file_end,
    .file_close = sim_file_end,
    .path_info = sim_path_info,
    .path_rename = sim_path_rename,
    .path_remove = sim_path,
    .path_truncate = sim_path_truncate,
    .path_sync = sim_path,
    .make_directories = sim_path,
    .list_directory = sim_list_directory,
    .directory_lock = sim_directory_lock,
    .disk_free = sim_disk_free,
    .reserve = sim_reserve,
    .release = sim_release,
    .reserve_on_disk = sim_reserve_on_disk,
    .set_aside = sim_set_aside,
    .memory_total = sim_memory_total,
    .parallel_for = sim_parallel_for,
    .stop_signal = sim_stop_signal,
    .point = sim_point,
};

void sim_env_init(struct sim_env *env, unsigned isa, const uint64_t *now_ns, struct sim_random entropy)
{
    *env = (struct sim_env){.env = {.ops = &sim_ops, .threads = 1, .isa = isa}, .now_ns = now_ns, .entropy = entropy};
}

uint64_t sim_env_reserved(const struct sim_env *env)
{
    uint64_t bytes = 0;
    for (const struct sim_reservation *r = env->ledger; r; r = r->next)
        bytes += r->bytes;
    return bytes;
}

void sim_env_fini(struct sim_env *env)
{
    while (env->ledger) {
        struct sim_reservation *next = env->ledger->next;
        bg_free(env->ledger);
        env->ledger = next;
    }
}
