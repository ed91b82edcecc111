// Packed weights in a file that is mapped: made once, at the first start with a model and a type, and used while the
// model's file is the same. The file is checked whole before it is used.
#include "model/packed_cache.h"

#include "base/hash.h"
#include "base/mem.h"

#include <stdio.h>
#include <string.h>

struct cache_header { // 64 bytes, so that panels stay aligned; little-endian
    char magic[8];
    uint64_t key, bytes, check, unused[4];
};
static const char magic[8] = "BRGPK 1";

struct packed_cache {
    struct bg_map map;
};

// Of what was packed: where it lies, how large and how old it is, what it is.
static bg_status key_of(struct bg_env *env, const struct model_files *files, enum kern_weight type,
                        struct bg_error *err, uint64_t *key)
{
    struct bg_file_info info, weights;
    char *inside = bg_format("%s/model.safetensors", files->path);
    bg_status status = env->ops->path_info(env, files->path, err, &info);
    if (!status && info.is_directory) {
        status = env->ops->path_info(env, inside, err, &weights);
        if (!status && weights.exists)
            info = weights;
    }
    bg_free(inside);
    if (status)
        return status;
    const struct model_config *c = &files->model->config;
    char *text = bg_format("%s %llu %lld %d %u %u %u %u %u %u %u", files->path, (unsigned long long)info.size,
                           (long long)info.mtime_ns, (int)type, c->layers, c->dim, c->heads, c->kv_heads, c->ffn,
                           c->vocab, c->context);
    *key = bg_xxh64(text, strlen(text));
    bg_free(text);
    return BG_OK;
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

static bg_status write_cache(struct bg_env *env, const char *path, uint64_t key, const struct packed_model *packed,
                             struct bg_error *err)
{
    struct cache_header h = {.key = key, .bytes = packed->memory_bytes};
    uint64_t random = 0; // servers that start together write files of their own
    bg_status drawn = env->ops->entropy(env, &random, sizeof random, err);
    char *aside = bg_format("%s.%016llx", path, (unsigned long long)random);
    struct bg_file *file = NULL;
    memcpy(h.magic, magic, sizeof magic);
    h.check = bg_xxh64(packed->memory, packed->memory_bytes);
    bg_status status = drawn ? drawn : env->ops->file_open(env, aside, BG_FILE_TRUNCATE, err, &file);
    if (!status) {
        status = env->ops->file_write(env, file, &h, sizeof h, err);
        if (!status)
            status = env->ops->file_write(env, file, packed->memory, packed->memory_bytes, err);
        bg_status closed = env->ops->file_close(env, file, status ? NULL : err);
        status = status ? status : closed;
    }
    if (!status)
        status = env->ops->path_rename(env, aside, path, err);
    if (status)
        (void)env->ops->path_remove(env, aside, NULL);
    bg_free(aside);
    return status;
}

bg_status packed_open(struct bg_env *env, const struct model_files *files, enum kern_weight type, const char *directory,
                      struct bg_error *err, struct packed_model **packed, struct packed_cache **cache)
{
    const size_t bytes = packed_bytes(files->model, type);
    struct bg_file_info info = {0};
    struct bg_error ignored;
    uint64_t key = 0;
    char *path = NULL;
    *cache = NULL;
    bg_status status = BG_OK;
    if (directory) {
        status = env->ops->make_directories(env, directory, err);
        status = status ? status : key_of(env, files, type, err, &key);
        path = path_of(files, type, directory);
    }
    if (!status && path && !env->ops->path_info(env, path, &ignored, &info) && info.exists) {
        struct packed_cache *c = bg_alloc(sizeof *c);
        if (!env->ops->map_open(env, path, &ignored, &c->map) && fits(&c->map, key, bytes)) {
            *packed = packed_adopt(env, files->model, files->weights, type, c->map.data + sizeof(struct cache_header));
            *cache = c;
            bg_free(path);
            return BG_OK;
        }
        if (c->map.data)
            env->ops->map_close(env, &c->map);
        bg_free(c); // damaged, or another's: made anew
    }
    if (!status)
        status = packed_create(env, files->model, files->weights, files->sources, type, err, packed);
    if (!status && path)
        (void)write_cache(env, path, key, *packed, &ignored); // a cache that cannot be written is no reason to stop
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
