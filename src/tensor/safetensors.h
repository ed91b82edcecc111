// safetensors files (one file, or `model.safetensors.index.json` with its shards) read through a map, and the writer.
#ifndef TENSOR_SAFETENSORS_H
#define TENSOR_SAFETENSORS_H

#include "base/env.h"
#include "tensor/dtype.h"

struct safetensors; // open file(s)

// `path`: a .safetensors file, an index.json, or a directory that holds either.
BG_MUST_USE bg_status safetensors_open(struct bg_env *env, const char *path, struct bg_error *err,
                                       struct safetensors **file);
void safetensors_close(struct safetensors *file);
size_t safetensors_count(const struct safetensors *file); // tensors, in name order
const struct tensor_view *safetensors_at(const struct safetensors *file, size_t index);
const struct tensor_view *safetensors_find(const struct safetensors *file, const char *name); // NULL: absent
const char *safetensors_metadata(const struct safetensors *file, const char *key);            // NULL: absent

// Parses bytes already in memory (also the fuzz target); views point into `bytes`.
BG_MUST_USE bg_status safetensors_parse(const uint8_t *bytes, size_t size, const char *name, struct bg_error *err,
                                        struct safetensors **file);

struct safetensors_item {
    const char *name;
    enum tensor_dtype dtype; // TENSOR_F32, TENSOR_I64, TENSOR_U8, ...
    unsigned rank;
    uint64_t shape[TENSOR_RANK_MAX];
    const void *data;
};
struct safetensors_pair {
    const char *key, *value;
};

// Writes a file with the tensors in name order and `__metadata__` from pairs (format=pt is always there). Crash-safe:
// temporary file, sync, rename.
BG_MUST_USE bg_status safetensors_write(struct bg_env *env, const char *path, const struct safetensors_item *items,
                                        size_t count, const struct safetensors_pair *metadata, size_t pairs,
                                        struct bg_error *err);
#endif
