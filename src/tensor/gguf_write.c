// Writing GGUF version 3. Keys are encoded as they come; tensors stay the caller's until everything is written out
// in one pass, padded to 32 bytes each, through a temporary file.
#include "tensor/gguf.h"

#include "base/assert.h"
#include "base/mem.h"
#include "base/str.h"
#include "tensor/output.h"

#include <string.h>

enum { ALIGNMENT = 32, TYPE_F32 = 0, TYPE_Q4_0 = 2, TYPE_Q8_0 = 8 };

struct tensor {
    char *name;
    unsigned rank;
    uint64_t shape[TENSOR_RANK_MAX];
    uint64_t bytes;
    uint32_t type;
    const void *data;
};

struct gguf_writer {
    struct bg_str pairs; // encoded
    uint64_t pair_count;
    struct tensor *tensors;
    size_t count, capacity;
};

static void add_string(struct bg_str *out, const char *data, uint64_t size)
{
    bg_str_add_bytes(out, &size, 8);
    bg_str_add_bytes(out, data, size);
}

static void add_u32(struct bg_str *out, uint32_t value)
{
    bg_str_add_bytes(out, &value, 4);
}

static void begin_pair(struct gguf_writer *w, const char *key, enum gguf_type type)
{
    add_string(&w->pairs, key, strlen(key));
    add_u32(&w->pairs, type);
    w->pair_count++;
}

static void begin_array(struct gguf_writer *w, const char *key, enum gguf_type element, uint64_t count)
{
    begin_pair(w, key, GGUF_ARRAY);
    add_u32(&w->pairs, element);
    bg_str_add_bytes(&w->pairs, &count, 8);
}

struct gguf_writer *gguf_writer_create(void)
{
    return bg_alloc(sizeof(struct gguf_writer));
}

void gguf_writer_destroy(struct gguf_writer *w)
{
    if (!w)
        return;
    for (size_t i = 0; i < w->count; i++)
        bg_free(w->tensors[i].name);
    bg_free(w->tensors);
    bg_str_fini(&w->pairs);
    bg_free(w);
}

void gguf_put_u32(struct gguf_writer *w, const char *key, uint32_t value)
{
    begin_pair(w, key, GGUF_U32);
    add_u32(&w->pairs, value);
}

void gguf_put_f32(struct gguf_writer *w, const char *key, float value)
{
    begin_pair(w, key, GGUF_F32);
    bg_str_add_bytes(&w->pairs, &value, 4);
}

void gguf_put_bool(struct gguf_writer *w, const char *key, bool value)
{
    begin_pair(w, key, GGUF_BOOL);
    bg_str_add_bytes(&w->pairs, value ? "\1" : "\0", 1);
}

void gguf_put_string(struct gguf_writer *w, const char *key, const char *value)
{
    begin_pair(w, key, GGUF_STRING);
    add_string(&w->pairs, value, strlen(value));
}

void gguf_put_strings(struct gguf_writer *w, const char *key, const struct gguf_string *values, size_t count)
{
    begin_array(w, key, GGUF_STRING, count);
    for (size_t i = 0; i < count; i++)
        add_string(&w->pairs, values[i].data, values[i].size);
}

void gguf_put_i32s(struct gguf_writer *w, const char *key, const int32_t *values, size_t count)
{
    begin_array(w, key, GGUF_I32, count);
    bg_str_add_bytes(&w->pairs, values, 4 * count);
}

void gguf_put_f32s(struct gguf_writer *w, const char *key, const float *values, size_t count)
{
    begin_array(w, key, GGUF_F32, count);
    bg_str_add_bytes(&w->pairs, values, 4 * count);
}

static struct tensor *add_tensor(struct gguf_writer *w, const char *name, unsigned rank, const uint64_t *shape,
                                 const void *data)
{
    if (w->count == w->capacity) {
        w->capacity = w->capacity ? 2 * w->capacity : 64;
        w->tensors = bg_realloc_array(w->tensors, w->capacity, sizeof *w->tensors);
    }
    struct tensor *tensor = &w->tensors[w->count++];
    *tensor = (struct tensor){.name = bg_strdup(name), .rank = rank, .data = data};
    memcpy(tensor->shape, shape, rank * sizeof *shape);
    return tensor;
}

void gguf_put_tensor(struct gguf_writer *w, const char *name, unsigned rank, const uint64_t *shape, const float *data)
{
    struct tensor *tensor = add_tensor(w, name, rank, shape, data);
    tensor->type = TYPE_F32;
    tensor->bytes = sizeof *data;
    for (unsigned i = 0; i < rank; i++)
        tensor->bytes *= shape[i];
}

void gguf_put_blocks(struct gguf_writer *w, const char *name, unsigned rank, const uint64_t *shape,
                     enum tensor_dtype type, const void *blocks)
{
    struct tensor *tensor = add_tensor(w, name, rank, shape, blocks);
    tensor->type = type == TENSOR_Q8_0 ? TYPE_Q8_0 : TYPE_Q4_0;
    BG_ASSERT((type == TENSOR_Q8_0 || type == TENSOR_Q4_0) && tensor_dtype_bytes(type, rank, shape, &tensor->bytes));
}

static void pad(struct bg_str *out)
{
    static const char zeros[ALIGNMENT];
    bg_str_add_bytes(out, zeros, (ALIGNMENT - out->size % ALIGNMENT) % ALIGNMENT);
}

static void build_head(const struct gguf_writer *w, struct bg_str *head)
{
    uint64_t count = w->count, offset = 0;
    bg_str_add_bytes(head, "GGUF", 4);
    add_u32(head, 3);
    bg_str_add_bytes(head, &count, 8);
    bg_str_add_bytes(head, &w->pair_count, 8);
    bg_str_add_bytes(head, w->pairs.data, w->pairs.size);
    for (size_t i = 0; i < w->count; i++) {
        const struct tensor *tensor = &w->tensors[i];
        add_string(head, tensor->name, strlen(tensor->name));
        add_u32(head, tensor->rank);
        for (unsigned k = tensor->rank; k-- > 0;)
            bg_str_add_bytes(head, &tensor->shape[k], 8);
        add_u32(head, tensor->type);
        bg_str_add_bytes(head, &offset, 8);
        offset += (tensor->bytes + ALIGNMENT - 1) / ALIGNMENT * ALIGNMENT;
    }
    pad(head);
}

bg_status gguf_write(struct bg_env *env, const char *path, struct gguf_writer *w, struct bg_error *err)
{
    static const char zeros[ALIGNMENT];
    struct output output;
    bg_status status = output_open(env, path, err, &output);
    if (status)
        return status;
    struct bg_str head = {0};
    build_head(w, &head);
    status = output_write(&output, head.data, head.size, err);
    for (size_t i = 0; i < w->count && !status; i++) {
        status = output_write(&output, w->tensors[i].data, w->tensors[i].bytes, err);
        if (!status)
            status = output_write(&output, zeros, (ALIGNMENT - w->tensors[i].bytes % ALIGNMENT) % ALIGNMENT, err);
    }
    bg_str_fini(&head);
    return output_commit(&output, err);
}
