// Packed weights in a file that is mapped: made once, at the first start with a model and a type, and used while the
// model is the same. The file is checked whole before it is used; it is written under another name and renamed, and
// what a process left that died meanwhile goes with the next one that writes.
#include "model/packed_cache.h"

#include "base/hash.h"
#include "base/mem.h"

#include <stdio.h>
#include <string.h>

struct cache_header { // 64 bytes, so that panels stay aligned; little-endian
    char magic[8];
    uint64_t key, bytes, check, unused[4];
};
static const char magic[8] = "BRGPK 2";

struct packed_cache {
    struct bg_map map;
};

struct sums {
    const struct model_files *files;
    uint64_t *sums; // (param_count)
};

static void sum_param(void *arg, size_t index, unsigned lane)
{
    const struct sums *s = arg;
    const struct model_param *p = &s->files->model->params[index];
    const struct packed_source *source = s->files->sources ? &s->files->sources[index] : NULL;
    (void)lane;
    s->sums[index] = source && source->data
                         ? bg_xxh64(source->data, p->count / KERN_QUANT * kern_block_bytes(source->type))
                         : bg_xxh64(s->files->weights + p->offset, p->count * sizeof(float));
}

// Of what is packed, number by number: sizes and times of files do not tell one model from another.
static uint64_t key_of(struct bg_env *env, const struct model_files *files, enum kern_weight type)
{
    const struct model_config *c = &files->model->config;
    const uint32_t count = files->model->param_count;
    struct sums sums = {files, bg_alloc_array(count, sizeof *sums.sums)};
    env_parallel_for(env, count, sum_param, &sums);
    char *text = bg_format("%d %d %u %u %u %u %u %u %u %d %016llx", (int)type, (int)c->family, c->layers, c->dim,
                           c->heads, c->kv_heads, c->head_dim, c->ffn, c->vocab, c->tie,
                           (unsigned long long)bg_xxh64(sums.sums, count * sizeof *sums.sums));
    const uint64_t key = bg_xxh64(text, strlen(text));
    bg_free(text);
    bg_free(sums.sums);
    return key;
}

// One file for a path and a type: what became of an older model is written over.
static char *path_of(const struct model_files *files, enum kern_weight type, const char *directory)
{
    char *text = bg_format("%s %d", files->path, (int)type);
    char *path = bg_format("%s/%016llx.packed", directory, (unsigned long long)bg_xxh64(text, strlen(text)));
    bg_free(text);
    return path;
}

static bool fits(const struct bg_map *map, uint64_t key, size_t bytes)
{
    struct cache_header h;
    if (map->size != sizeof h + bytes)
        return false;
    memcpy(&h, map->data, sizeof h);
    return memcmp(h.magic, magic, sizeof magic) == 0 && h.key == key && h.bytes == bytes &&
           bg_xxh64(map->data + sizeof h, bytes) == h.check;
}

struct sweep {
    struct bg_env *env;
    const char *directory;
};

// "0123456789abcdef.packed.0123456789abcdef"
static bg_status remove_aside(void *arg, const char *name, struct bg_error *err)
{
    static const char hex[] = "0123456789abcdef", middle[] = ".packed.";
    const struct sweep *s = arg;
    (void)err;
    if (strlen(name) != 40 || strspn(name, hex) != 16 || strncmp(name + 16, middle, 8) != 0 ||
        strspn(name + 24, hex) != 16)
        return BG_OK;
    char *path = bg_format("%s/%s", s->directory, name);
    bg_status status = s->env->ops->path_remove(s->env, path, NULL);
    bg_free(path);
    return status;
}

static bg_status write_aside(struct bg_env *env, const char *aside, const struct cache_header *h,
                             const struct packed_model *packed, struct bg_error *err)
{
    struct bg_file *file = NULL;
    bg_status status = env->ops->file_open(env, aside, BG_FILE_TRUNCATE, err, &file);
    if (status)
        return status;
    status = env->ops->file_write(env, file, h, sizeof *h, err);
    env_point(env, "pack-write");
    if (!status)
        status = env->ops->file_write(env, file, packed->memory, packed->memory_bytes, err);
    bg_status closed = env->ops->file_close(env, file, status ? NULL : err);
    return status ? status : closed;
}

static bg_status write_cache(struct bg_env *env, const char *directory, const char *path, uint64_t key,
                             const struct packed_model *packed, struct bg_error *err)
{
    struct cache_header h = {.key = key, .bytes = packed->memory_bytes};
    struct bg_file *lock = NULL;
    uint64_t random = 0; // where nothing can be locked, servers that start together write files of their own
    bg_status status = env->ops->directory_lock(env, directory, err, &lock);
    if (status == BG_EXISTS)
        return bg_fail(err, BG_EXISTS, "%s: another server writes there; the next start may", directory);
    if (lock) // nobody else writes
        (void)env->ops->list_directory(env, directory, remove_aside, &(struct sweep){env, directory}, NULL);
    memcpy(h.magic, magic, sizeof magic);
    h.check = bg_xxh64(packed->memory, packed->memory_bytes);
    status = env->ops->entropy(env, &random, sizeof random, err);
    char *aside = bg_format("%s.%016llx", path, (unsigned long long)random);
    if (!status)
        status = write_aside(env, aside, &h, packed, err);
    if (!status)
        status = env->ops->path_rename(env, aside, path, err);
    if (status)
        (void)env->ops->path_remove(env, aside, NULL);
    bg_free(aside);
    if (lock)
        (void)env->ops->file_close(env, lock, NULL);
    return status;
}

// NULL: there is none that fits.
static struct packed_cache *map_cache(struct bg_env *env, const char *path, uint64_t key, size_t bytes)
{
    struct packed_cache *c = bg_alloc(sizeof *c);
    struct bg_file_info info;
    *c = (struct packed_cache){0};
    if (!env->ops->path_info(env, path, NULL, &info) && info.exists && !env->ops->map_open(env, path, NULL, &c->map) &&
        fits(&c->map, key, bytes))
        return c;
    if (c->map.data)
        env->ops->map_close(env, &c->map);
    bg_free(c);
    return NULL;
}

bg_status packed_open(struct bg_env *env, const struct model_files *files, enum kern_weight type, const char *directory,
                      struct bg_error *err, struct packed_model **packed, struct packed_cache **cache,
                      struct bg_error *unkept)
{
    unkept->status = BG_OK;
    *cache = NULL;
    if (!directory)
        return packed_create(env, files->model, files->weights, files->sources, type, err, packed);
    const uint64_t key = key_of(env, files, type);
    char *path = path_of(files, type, directory);
    *cache = map_cache(env, path, key, packed_bytes(files->model, type));
    bg_status status = BG_OK;
    if (*cache)
        *packed =
            packed_adopt(env, files->model, files->weights, type, (*cache)->map.data + sizeof(struct cache_header));
    else
        status = packed_create(env, files->model, files->weights, files->sources, type, err, packed);
    if (!status && !*cache && !env->ops->make_directories(env, directory, unkept))
        (void)!write_cache(env, directory, path, key, *packed, unkept);
    bg_free(path);
    return status;
}

void packed_cache_close(struct bg_env *env, struct packed_cache *cache)
{
    if (!cache)
        return;
    env->ops->map_close(env, &cache->map);
    bg_free(cache);
}
