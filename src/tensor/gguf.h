// GGUF v2/v3 files: key/value metadata and tensors, read through a map, and the writer (v3).
#ifndef TENSOR_GGUF_H
#define TENSOR_GGUF_H

#include "base/env.h"
#include "tensor/dtype.h"

struct gguf;

enum gguf_type {
    GGUF_U8,
    GGUF_I8,
    GGUF_U16,
    GGUF_I16,
    GGUF_U32,
    GGUF_I32,
    GGUF_F32,
    GGUF_BOOL,
    GGUF_STRING,
    GGUF_ARRAY,
    GGUF_U64,
    GGUF_I64,
    GGUF_F64,
};

struct gguf_string { // not NUL-terminated
    const char *data;
    uint64_t size;
};

struct gguf_value {
    enum gguf_type type;
    union {
        uint64_t u;
        int64_t i;
        double f;
        bool b;
        struct gguf_string s;
    };
    enum gguf_type element; // of an array
    uint64_t count;         // of an array
};

BG_MUST_USE bg_status gguf_open(struct bg_env *env, const char *path, struct bg_error *err, struct gguf **file);
BG_MUST_USE bg_status gguf_parse(const uint8_t *bytes, size_t size, const char *name, struct bg_error *err,
                                 struct gguf **file);
void gguf_close(struct gguf *file);
const char *gguf_name(const struct gguf *file); // path, for errors

size_t gguf_tensor_count(const struct gguf *file);
const struct tensor_view *gguf_tensor_at(const struct gguf *file, size_t index); // shape outermost first
const struct tensor_view *gguf_tensor_find(const struct gguf *file, const char *name);

size_t gguf_key_count(const struct gguf *file);
const char *gguf_key_at(const struct gguf *file, size_t index);
const struct gguf_value *gguf_value_at(const struct gguf *file, size_t index);
const struct gguf_value *gguf_find(const struct gguf *file, const char *key); // NULL: absent
// Typed fetch with a range/type error that names file and key; integers of any width are accepted for u64.
BG_MUST_USE bg_status gguf_u64(const struct gguf *file, const char *key, struct bg_error *err, uint64_t *value);
BG_MUST_USE bg_status gguf_f64(const struct gguf *file, const char *key, struct bg_error *err, double *value);
// Elements of an array value.
struct gguf_string gguf_array_string(const struct gguf_value *array, uint64_t index);
double gguf_array_number(const struct gguf_value *array, uint64_t index);

struct gguf_writer; // collects, then writes crash-safely
struct gguf_writer *gguf_writer_create(void);
void gguf_writer_destroy(struct gguf_writer *w);
void gguf_put_u32(struct gguf_writer *w, const char *key, uint32_t value);
void gguf_put_f32(struct gguf_writer *w, const char *key, float value);
void gguf_put_bool(struct gguf_writer *w, const char *key, bool value);
void gguf_put_string(struct gguf_writer *w, const char *key, const char *value);
void gguf_put_strings(struct gguf_writer *w, const char *key, const struct gguf_string *values, size_t count);
void gguf_put_i32s(struct gguf_writer *w, const char *key, const int32_t *values, size_t count);
void gguf_put_f32s(struct gguf_writer *w, const char *key, const float *values, size_t count);
void gguf_put_tensor(struct gguf_writer *w, const char *name, unsigned rank, const uint64_t *shape,
                     const float *data); // fp32; shape outermost first; data stays the caller's until gguf_write
// The same of rows of whole blocks, as the file has them: TENSOR_Q8_0 or TENSOR_Q4_0.
void gguf_put_blocks(struct gguf_writer *w, const char *name, unsigned rank, const uint64_t *shape,
                     enum tensor_dtype type, const void *blocks);
BG_MUST_USE bg_status gguf_write(struct bg_env *env, const char *path, struct gguf_writer *w, struct bg_error *err);

#endif
