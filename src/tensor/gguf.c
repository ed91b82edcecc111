// Reading GGUF (versions 2 and 3): counts, keys with typed values, tensor descriptions, aligned data. Every count
// and length is checked against the bytes that are left before anything is allocated or read, so what a lying file
// can make us allocate is a small multiple of its size. Names are copied (the file does not end them with NUL);
// values and tensors point into the map. The format lists dimensions innermost first; views turn that round.
#include "tensor/gguf.h"

#include "base/mem.h"

#include <inttypes.h>
#include <stdlib.h>
#include <string.h>

enum { NAME_MAX_BYTES = 4096, DIMENSIONS_MAX = 4, ALIGNMENT_DEFAULT = 32, ALIGNMENT_MAX = 1 << 20 };

struct pair {
    char *key;
    struct gguf_value value;
    struct gguf_string *strings; // of an array of strings
};

struct gguf {
    struct bg_env *env; // NULL: the bytes are the caller's
    struct bg_map map;
    char *name;
    struct pair *pairs; // in the file's order
    size_t pair_count;
    const struct pair **by_key;
    struct tensor_view *views; // in name order; names are ours
    size_t view_count;
};

// Where reading stands. The first failure is kept in err by whoever detects it.
struct reader {
    const struct gguf *file;
    size_t at;
    struct bg_error *err;
};

static const struct {
    uint32_t code;
    enum tensor_dtype dtype;
} tensor_types[] = {
    {0, TENSOR_F32},  {1, TENSOR_F16},   {2, TENSOR_Q4_0},  {3, TENSOR_Q4_1},  {6, TENSOR_Q5_0}, {7, TENSOR_Q5_1},
    {8, TENSOR_Q8_0}, {12, TENSOR_Q4_K}, {13, TENSOR_Q5_K}, {14, TENSOR_Q6_K}, {24, TENSOR_I8},  {25, TENSOR_I16},
    {26, TENSOR_I32}, {27, TENSOR_I64},  {28, TENSOR_F64},  {30, TENSOR_BF16},
};

static const uint8_t scalar_bytes[] = {
    [GGUF_U8] = 1,  [GGUF_I8] = 1,   [GGUF_U16] = 2, [GGUF_I16] = 2, [GGUF_U32] = 4, [GGUF_I32] = 4,
    [GGUF_F32] = 4, [GGUF_BOOL] = 1, [GGUF_U64] = 8, [GGUF_I64] = 8, [GGUF_F64] = 8,
};

static bg_status parse(struct gguf *file, struct bg_error *err);

bg_status gguf_parse(const uint8_t *bytes, size_t size, const char *name, struct bg_error *err, struct gguf **file)
{
    struct gguf *parsed = bg_alloc(sizeof *parsed);
    parsed->map = (struct bg_map){.data = bytes, .size = size};
    parsed->name = bg_strdup(name);
    bg_status status = parse(parsed, err);
    if (status)
        gguf_close(parsed);
    else
        *file = parsed;
    return status;
}

bg_status gguf_open(struct bg_env *env, const char *path, struct bg_error *err, struct gguf **file)
{
    struct bg_map map;
    struct gguf *parsed = NULL;
    bg_status status = env->ops->map_open(env, path, err, &map);
    if (status)
        return status;
    status = gguf_parse(map.data, map.size, path, err, &parsed);
    if (status) {
        env->ops->map_close(env, &map);
        return status;
    }
    parsed->env = env;
    parsed->map = map;
    *file = parsed;
    return BG_OK;
}

void gguf_close(struct gguf *file)
{
    if (!file)
        return;
    for (size_t i = 0; i < file->pair_count; i++) {
        bg_free(file->pairs[i].key);
        bg_free(file->pairs[i].strings);
    }
    for (size_t i = 0; i < file->view_count; i++)
        bg_free((char *)file->views[i].name);
    bg_free(file->pairs);
    bg_free(file->by_key);
    bg_free(file->views);
    bg_free(file->name);
    if (file->env)
        file->env->ops->map_close(file->env, &file->map);
    bg_free(file);
}

static bg_status truncated(const struct reader *reader, const char *what)
{
    return bg_fail(reader->err, BG_FORMAT, "%s: byte %zu: the file ends inside %s", reader->file->name, reader->at,
                   what);
}

static bg_status take(struct reader *reader, void *out, size_t size, const char *what)
{
    if (size > reader->file->map.size - reader->at)
        return truncated(reader, what);
    memcpy(out, reader->file->map.data + reader->at, size);
    reader->at += size;
    return BG_OK;
}

static bg_status take_string(struct reader *reader, struct gguf_string *out, const char *what)
{
    uint64_t size = 0;
    bg_status status = take(reader, &size, 8, what);
    if (status)
        return status;
    if (size > reader->file->map.size - reader->at)
        return truncated(reader, what);
    *out = (struct gguf_string){(const char *)reader->file->map.data + reader->at, size};
    reader->at += size;
    return BG_OK;
}

// A key or a tensor's name, as a string of ours.
static bg_status take_name(struct reader *reader, const char *what, char **out)
{
    struct gguf_string text;
    size_t start = reader->at;
    bg_status status = take_string(reader, &text, what);
    if (status)
        return status;
    if (text.size > NAME_MAX_BYTES || memchr(text.data, 0, text.size))
        return bg_fail(reader->err, BG_FORMAT, "%s: byte %zu: %s is longer than %d bytes or holds a NUL",
                       reader->file->name, start, what, NAME_MAX_BYTES);
    *out = bg_strndup(text.data, text.size);
    return BG_OK;
}

static bg_status take_scalar(struct reader *reader, enum gguf_type type, const char *key, struct gguf_value *value)
{
    uint8_t bytes[8] = {0};
    bg_status status = take(reader, bytes, scalar_bytes[type], key);
    if (status)
        return status;
    value->type = type;
    float single;
    switch (type) {
    case GGUF_BOOL:
        if (bytes[0] > 1)
            return bg_fail(reader->err, BG_FORMAT, "%s: key %s: a boolean is %u, expected 0 or 1", reader->file->name,
                           key, bytes[0]);
        value->b = bytes[0];
        return BG_OK;
    case GGUF_I8:
        value->i = (int8_t)bytes[0];
        return BG_OK;
    case GGUF_I16:
        value->i = (int16_t)(bytes[0] | bytes[1] << 8);
        return BG_OK;
    case GGUF_I32:
        value->i = (int32_t)((uint32_t)bytes[0] | (uint32_t)bytes[1] << 8 | (uint32_t)bytes[2] << 16 |
                             (uint32_t)bytes[3] << 24);
        return BG_OK;
    case GGUF_F32:
        memcpy(&single, bytes, 4);
        value->f = single;
        return BG_OK;
    default: // unsigned of any width, I64, F64: the bits
        memcpy(&value->u, bytes, 8);
        return BG_OK;
    }
}

static bg_status take_array(struct reader *reader, const char *key, struct pair *pair)
{
    uint32_t element;
    struct gguf_value *value = &pair->value;
    bg_status status = take(reader, &element, 4, key);
    if (!status)
        status = take(reader, &value->count, 8, key);
    if (status)
        return status;
    value->type = GGUF_ARRAY;
    if (element > GGUF_F64 || element == GGUF_ARRAY)
        return bg_fail(reader->err, BG_UNSUPPORTED, "%s: key %s: an array of type %u", reader->file->name, key,
                       element);
    value->element = element;
    size_t left = reader->file->map.size - reader->at, least = element == GGUF_STRING ? 8 : scalar_bytes[element];
    if (value->count > left / least)
        return bg_fail(reader->err, BG_FORMAT, "%s: key %s: %" PRIu64 " elements do not fit into the %zu bytes left",
                       reader->file->name, key, value->count, left);
    if (element != GGUF_STRING) {
        value->s = (struct gguf_string){(const char *)reader->file->map.data + reader->at, value->count * least};
        reader->at += value->s.size;
        return BG_OK;
    }
    pair->strings = bg_alloc_array(value->count, sizeof *pair->strings);
    value->s = (struct gguf_string){(const char *)pair->strings, value->count * sizeof *pair->strings};
    for (uint64_t i = 0; i < value->count && !status; i++)
        status = take_string(reader, &pair->strings[i], key);
    return status;
}

static bg_status take_pair(struct reader *reader, struct pair *pair)
{
    uint32_t type = 0;
    bg_status status = take_name(reader, "a key", &pair->key);
    if (!status)
        status = take(reader, &type, 4, pair->key);
    if (status)
        return status;
    if (type == GGUF_ARRAY)
        return take_array(reader, pair->key, pair);
    if (type == GGUF_STRING) {
        pair->value.type = GGUF_STRING;
        return take_string(reader, &pair->value.s, pair->key);
    }
    if (type > GGUF_F64)
        return bg_fail(reader->err, BG_FORMAT, "%s: key %s: unknown type %u", reader->file->name, pair->key, type);
    return take_scalar(reader, type, pair->key, &pair->value);
}

static int compare_pairs(const void *a, const void *b)
{
    return strcmp((*(const struct pair *const *)a)->key, (*(const struct pair *const *)b)->key);
}

static bg_status index_pairs(struct gguf *file, struct bg_error *err)
{
    file->by_key = bg_alloc_array(file->pair_count, sizeof *file->by_key);
    for (size_t i = 0; i < file->pair_count; i++)
        file->by_key[i] = &file->pairs[i];
    if (file->pair_count > 1)
        qsort(file->by_key, file->pair_count, sizeof *file->by_key, compare_pairs);
    for (size_t i = 1; i < file->pair_count; i++) {
        if (!strcmp(file->by_key[i - 1]->key, file->by_key[i]->key))
            return bg_fail(err, BG_FORMAT, "%s: key %s is there twice", file->name, file->by_key[i]->key);
    }
    return BG_OK;
}

// Description of one tensor; its offset goes into *offset until the data's start is known.
static bg_status take_tensor(struct reader *reader, struct tensor_view *view, uint64_t *offset)
{
    uint32_t rank = 0, code = 0;
    uint64_t inner_first[DIMENSIONS_MAX];
    char *name = NULL;
    bg_status status = take_name(reader, "a tensor's name", &name);
    if (status)
        return status;
    view->name = name;
    status = take(reader, &rank, 4, name);
    if (!status && (rank < 1 || rank > DIMENSIONS_MAX))
        return bg_fail(reader->err, BG_FORMAT, "%s: tensor %s: %u dimensions, expected 1 to %d", reader->file->name,
                       name, rank, DIMENSIONS_MAX);
    if (!status)
        status = take(reader, inner_first, 8 * (size_t)rank, name);
    if (!status)
        status = take(reader, &code, 4, name);
    if (!status)
        status = take(reader, offset, 8, name);
    if (status)
        return status;
    view->rank = rank;
    for (uint32_t i = 0; i < rank; i++)
        view->shape[i] = inner_first[rank - 1 - i];
    size_t known = sizeof tensor_types / sizeof *tensor_types, kind = 0;
    while (kind < known && tensor_types[kind].code != code)
        kind++;
    if (kind == known)
        return bg_fail(reader->err, BG_UNSUPPORTED,
                       "%s: tensor %s: element type %u is not supported (F32, F16, BF16, F64, Q4_0, Q4_1, Q5_0, Q5_1, "
                       "Q8_0, Q4_K, Q5_K and Q6_K are)",
                       reader->file->name, name, code);
    view->dtype = tensor_types[kind].dtype;
    char shape[TENSOR_SHAPE_TEXT];
    tensor_shape_text(view->rank, view->shape, shape);
    if (!tensor_dtype_bytes(view->dtype, view->rank, view->shape, &view->bytes))
        return bg_fail(reader->err, BG_FORMAT, "%s: tensor %s: %s of shape %s is impossible", reader->file->name, name,
                       tensor_dtype_name(view->dtype), shape);
    return BG_OK;
}

static int compare_views(const void *a, const void *b)
{
    return strcmp(((const struct tensor_view *)a)->name, ((const struct tensor_view *)b)->name);
}

static int compare_places(const void *a, const void *b)
{
    const struct tensor_view *x = a, *y = b;
    return x->data < y->data ? -1 : x->data > y->data ? 1 : compare_views(a, b);
}

static bg_status alignment_of(const struct gguf *file, struct bg_error *err, uint64_t *alignment)
{
    *alignment = ALIGNMENT_DEFAULT;
    if (!gguf_find(file, "general.alignment"))
        return BG_OK;
    bg_status status = gguf_u64(file, "general.alignment", err, alignment);
    if (!status && (*alignment < 8 || *alignment > ALIGNMENT_MAX || (*alignment & (*alignment - 1))))
        return bg_fail(err, BG_FORMAT, "%s: general.alignment is %" PRIu64 ", expected a power of two, 8 to %d",
                       file->name, *alignment, ALIGNMENT_MAX);
    return status;
}

// Offsets become pointers once they are known to lie in the file, aligned and apart from each other.
static bg_status place_tensors(struct reader *reader, const uint64_t *offsets)
{
    const struct gguf *file = reader->file;
    uint64_t alignment;
    bg_status status = alignment_of(file, reader->err, &alignment);
    if (status)
        return status;
    uint64_t start = (reader->at + alignment - 1) / alignment * alignment;
    uint64_t room = start < file->map.size ? file->map.size - start : 0;
    for (size_t i = 0; i < file->view_count; i++) {
        struct tensor_view *view = &file->views[i];
        if (offsets[i] % alignment)
            return bg_fail(reader->err, BG_FORMAT, "%s: tensor %s: offset %" PRIu64 " is no multiple of %" PRIu64,
                           file->name, view->name, offsets[i], alignment);
        if (offsets[i] > room || view->bytes > room - offsets[i])
            return bg_fail(reader->err, BG_FORMAT,
                           "%s: tensor %s: %" PRIu64 " bytes at offset %" PRIu64 " lie outside the %" PRIu64
                           " bytes of data: the file is truncated or lies",
                           file->name, view->name, view->bytes, offsets[i], room);
        view->data = file->map.data + (room ? start + offsets[i] : 0);
    }
    if (file->view_count > 1)
        qsort(file->views, file->view_count, sizeof *file->views, compare_places);
    for (size_t i = 1; i < file->view_count; i++) {
        const struct tensor_view *before = &file->views[i - 1], *view = &file->views[i];
        if (before->data + before->bytes > view->data)
            return bg_fail(reader->err, BG_FORMAT, "%s: tensors %s and %s overlap", file->name, before->name,
                           view->name);
    }
    return BG_OK;
}

static bg_status take_tensors(struct reader *reader, struct gguf *file, uint64_t count)
{
    // The least a description takes: length, rank, one dimension, type, offset.
    if (count > (file->map.size - reader->at) / 32)
        return bg_fail(reader->err, BG_FORMAT, "%s: %" PRIu64 " tensors cannot be described in the %zu bytes left",
                       file->name, count, file->map.size - reader->at);
    file->views = bg_alloc_array(count, sizeof *file->views);
    uint64_t *offsets = bg_alloc_array(count, sizeof *offsets);
    bg_status status = BG_OK;
    while (file->view_count < count && !status) {
        struct tensor_view *view = &file->views[file->view_count];
        status = take_tensor(reader, view, &offsets[file->view_count]);
        file->view_count += view->name != NULL; // its name is ours to free also where the rest failed
    }
    if (!status)
        status = place_tensors(reader, offsets);
    bg_free(offsets);
    if (status)
        return status;
    if (file->view_count > 1)
        qsort(file->views, file->view_count, sizeof *file->views, compare_views);
    for (size_t i = 1; i < file->view_count; i++) {
        if (!strcmp(file->views[i - 1].name, file->views[i].name))
            return bg_fail(reader->err, BG_FORMAT, "%s: tensor %s is there twice", file->name, file->views[i].name);
    }
    return BG_OK;
}

static bg_status take_header(struct reader *reader, uint64_t *tensors, uint64_t *pairs)
{
    char magic[4];
    uint32_t version;
    bg_status status = take(reader, magic, 4, "its magic");
    if (!status && memcmp(magic, "GGUF", 4))
        return bg_fail(reader->err, BG_FORMAT, "%s: not a GGUF file (it does not begin with GGUF)", reader->file->name);
    if (!status)
        status = take(reader, &version, 4, "its version");
    if (!status && version != 2 && version != 3)
        return bg_fail(reader->err, BG_UNSUPPORTED, "%s: GGUF version %u is not supported (2 and 3 are)%s",
                       reader->file->name, version, version & 0xffff ? "" : "; this looks like a big-endian file");
    if (!status)
        status = take(reader, tensors, 8, "its counts");
    if (!status)
        status = take(reader, pairs, 8, "its counts");
    return status;
}

static bg_status parse(struct gguf *file, struct bg_error *err)
{
    struct reader reader = {.file = file, .err = err};
    uint64_t tensors, pairs;
    bg_status status = take_header(&reader, &tensors, &pairs);
    if (status)
        return status;
    // The least a pair takes: length, type, one byte.
    if (pairs > (file->map.size - reader.at) / 13)
        return bg_fail(err, BG_FORMAT, "%s: %" PRIu64 " keys cannot fit into the %zu bytes left", file->name, pairs,
                       file->map.size - reader.at);
    file->pairs = bg_alloc_array(pairs, sizeof *file->pairs);
    while (file->pair_count < pairs && !status)
        status = take_pair(&reader, &file->pairs[file->pair_count++]);
    if (!status)
        status = index_pairs(file, err);
    if (!status)
        status = take_tensors(&reader, file, tensors);
    return status;
}

const char *gguf_name(const struct gguf *file)
{
    return file->name;
}

size_t gguf_tensor_count(const struct gguf *file)
{
    return file->view_count;
}

const struct tensor_view *gguf_tensor_at(const struct gguf *file, size_t index)
{
    return &file->views[index];
}

const struct tensor_view *gguf_tensor_find(const struct gguf *file, const char *name)
{
    const struct tensor_view wanted = {.name = name};
    return file->view_count ? bsearch(&wanted, file->views, file->view_count, sizeof wanted, compare_views) : NULL;
}

size_t gguf_key_count(const struct gguf *file)
{
    return file->pair_count;
}

const char *gguf_key_at(const struct gguf *file, size_t index)
{
    return file->pairs[index].key;
}

const struct gguf_value *gguf_value_at(const struct gguf *file, size_t index)
{
    return &file->pairs[index].value;
}

const struct gguf_value *gguf_find(const struct gguf *file, const char *key)
{
    const struct pair wanted = {.key = (char *)key}, *wanted_pointer = &wanted;
    const struct pair **found =
        file->pair_count ? bsearch(&wanted_pointer, file->by_key, file->pair_count, sizeof *file->by_key, compare_pairs)
                         : NULL;
    return found ? &(*found)->value : NULL;
}

static bool is_signed(enum gguf_type type)
{
    return type == GGUF_I8 || type == GGUF_I16 || type == GGUF_I32 || type == GGUF_I64;
}

static bool is_unsigned(enum gguf_type type)
{
    return type == GGUF_U8 || type == GGUF_U16 || type == GGUF_U32 || type == GGUF_U64;
}

bg_status gguf_u64(const struct gguf *file, const char *key, struct bg_error *err, uint64_t *value)
{
    const struct gguf_value *found = gguf_find(file, key);
    if (!found)
        return bg_fail(err, BG_NOT_FOUND, "%s: key %s is missing", file->name, key);
    if (!is_unsigned(found->type) && !(is_signed(found->type) && found->i >= 0))
        return bg_fail(err, BG_FORMAT, "%s: key %s: expected a count", file->name, key);
    *value = found->u;
    return BG_OK;
}

bg_status gguf_f64(const struct gguf *file, const char *key, struct bg_error *err, double *value)
{
    const struct gguf_value *found = gguf_find(file, key);
    if (!found)
        return bg_fail(err, BG_NOT_FOUND, "%s: key %s is missing", file->name, key);
    if (found->type == GGUF_F32 || found->type == GGUF_F64)
        *value = found->f;
    else if (is_signed(found->type))
        *value = (double)found->i;
    else if (is_unsigned(found->type))
        *value = (double)found->u;
    else
        return bg_fail(err, BG_FORMAT, "%s: key %s: expected a number", file->name, key);
    return BG_OK;
}

struct gguf_string gguf_array_string(const struct gguf_value *array, uint64_t index)
{
    struct gguf_string string;
    memcpy(&string, array->s.data + index * sizeof string, sizeof string);
    return string;
}

double gguf_array_number(const struct gguf_value *array, uint64_t index)
{
    struct gguf bytes = {.map = {.data = (const uint8_t *)array->s.data, .size = array->s.size}};
    struct reader reader = {.file = &bytes, .at = index * scalar_bytes[array->element]};
    struct gguf_value value = {0};
    if (take_scalar(&reader, array->element, "", &value))
        return 0; // a boolean that is neither 0 nor 1
    if (array->element == GGUF_F32 || array->element == GGUF_F64)
        return value.f;
    if (array->element == GGUF_BOOL)
        return value.b;
    return is_signed(array->element) ? (double)value.i : (double)value.u;
}
