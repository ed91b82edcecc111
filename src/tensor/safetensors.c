// safetensors: 8 bytes of header length, a JSON header, the tensors' bytes back to back. The reader is strict, as
// the format demands: no overlap, no hole, nothing behind the last tensor, every size checked against the shape
// and the file before it is used. Views point into the map; nothing is copied. Several shards look like one file.
#include "tensor/safetensors.h"

#include "base/json.h"
#include "base/mem.h"
#include "base/str.h"
#include "tensor/output.h"

#include <inttypes.h>
#include <stdlib.h>
#include <string.h>

enum { HEADER_MAX = 100 * 1000 * 1000, SHARDS_MAX = 4096 };

struct shard {
    struct bg_env *env; // NULL: the bytes are the caller's
    struct bg_map map;
    char *name;     // path, for errors
    json_t *header; // owns the strings that views and metadata point to
};

struct safetensors {
    struct shard *shards;
    size_t shard_count;
    struct tensor_view *views; // in name order
    size_t count;
};

static const struct {
    const char *name;
    enum tensor_dtype dtype;
} dtypes[] = {
    {"F32", TENSOR_F32}, {"F16", TENSOR_F16}, {"BF16", TENSOR_BF16}, {"F64", TENSOR_F64}, {"I64", TENSOR_I64},
    {"I32", TENSOR_I32}, {"I16", TENSOR_I16}, {"I8", TENSOR_I8},     {"U8", TENSOR_U8},   {"BOOL", TENSOR_BOOL},
};

static bg_status open_single(struct bg_env *env, const char *path, struct bg_error *err, struct safetensors **file);
static bg_status open_index(struct bg_env *env, const char *path, struct bg_error *err, struct safetensors **file);
static bg_status parse_shard(struct safetensors *file, struct shard *shard, struct bg_error *err);

bg_status safetensors_open(struct bg_env *env, const char *path, struct bg_error *err, struct safetensors **file)
{
    struct bg_file_info info;
    bg_status status = env->ops->path_info(env, path, err, &info);
    if (status)
        return status;
    if (!info.exists)
        return bg_fail(err, BG_NOT_FOUND, "%s: no such file or directory", path);
    if (!info.is_directory) {
        size_t size = strlen(path);
        bool is_index = size >= 5 && !strcmp(path + size - 5, ".json");
        return is_index ? open_index(env, path, err, file) : open_single(env, path, err, file);
    }
    char *single = bg_format("%s/model.safetensors", path);
    char *index = bg_format("%s/model.safetensors.index.json", path);
    struct bg_file_info index_info;
    status = env->ops->path_info(env, single, err, &info);
    if (!status)
        status = env->ops->path_info(env, index, err, &index_info);
    if (!status && info.exists)
        status = open_single(env, single, err, file);
    else if (!status && index_info.exists)
        status = open_index(env, index, err, file);
    else if (!status)
        status =
            bg_fail(err, BG_NOT_FOUND, "%s: holds neither model.safetensors nor model.safetensors.index.json", path);
    bg_free(single);
    bg_free(index);
    return status;
}

static bg_status add_shard(struct bg_env *env, const char *path, struct safetensors *file, struct bg_error *err)
{
    struct shard *shard = &file->shards[file->shard_count];
    bg_status status = env->ops->map_open(env, path, err, &shard->map);
    if (status)
        return status;
    shard->env = env;
    shard->name = bg_strdup(path);
    file->shard_count++; // from here on safetensors_close() gives it back
    return parse_shard(file, shard, err);
}

static int compare_views(const void *a, const void *b)
{
    return strcmp(((const struct tensor_view *)a)->name, ((const struct tensor_view *)b)->name);
}

static void sort_views(struct safetensors *file)
{
    if (file->count > 1)
        qsort(file->views, file->count, sizeof *file->views, compare_views);
}

static struct safetensors *create(size_t shards)
{
    struct safetensors *file = bg_alloc(sizeof *file);
    file->shards = bg_alloc_array(shards, sizeof *file->shards);
    return file;
}

static bg_status open_single(struct bg_env *env, const char *path, struct bg_error *err, struct safetensors **file)
{
    struct safetensors *opened = create(1);
    bg_status status = add_shard(env, path, opened, err);
    if (status) {
        safetensors_close(opened);
        return status;
    }
    sort_views(opened);
    *file = opened;
    return BG_OK;
}

bg_status safetensors_parse(const uint8_t *bytes, size_t size, const char *name, struct bg_error *err,
                            struct safetensors **file)
{
    struct safetensors *parsed = create(1);
    parsed->shards[0] = (struct shard){.map = {.data = bytes, .size = size}, .name = bg_strdup(name)};
    parsed->shard_count = 1;
    bg_status status = parse_shard(parsed, &parsed->shards[0], err);
    if (status) {
        safetensors_close(parsed);
        return status;
    }
    sort_views(parsed);
    *file = parsed;
    return BG_OK;
}

void safetensors_close(struct safetensors *file)
{
    if (!file)
        return;
    for (size_t i = 0; i < file->shard_count; i++) {
        struct shard *shard = &file->shards[i];
        json_decref(shard->header);
        if (shard->env)
            shard->env->ops->map_close(shard->env, &shard->map);
        bg_free(shard->name);
    }
    bg_free(file->shards);
    bg_free(file->views);
    bg_free(file);
}

size_t safetensors_count(const struct safetensors *file)
{
    return file->count;
}

const struct tensor_view *safetensors_at(const struct safetensors *file, size_t index)
{
    return &file->views[index];
}

const struct tensor_view *safetensors_find(const struct safetensors *file, const char *name)
{
    struct tensor_view wanted = {.name = name};
    return file->count ? bsearch(&wanted, file->views, file->count, sizeof wanted, compare_views) : NULL;
}

const char *safetensors_metadata(const struct safetensors *file, const char *key)
{
    for (size_t i = 0; i < file->shard_count; i++) {
        json_t *value = json_object_get(json_object_get(file->shards[i].header, "__metadata__"), key);
        if (value)
            return json_string_value(value);
    }
    return NULL;
}

// One header entry: {"dtype": "F32", "shape": [..], "data_offsets": [begin, end]}.
static bg_status parse_entry(const struct shard *shard, const char *name, json_t *entry, uint64_t data_start,
                             struct bg_error *err, struct tensor_view *view)
{
    json_t *dtype = json_object_get(entry, "dtype"), *shape = json_object_get(entry, "shape");
    json_t *offsets = json_object_get(entry, "data_offsets");
    if (!json_is_string(dtype) || !json_is_array(shape) || !json_is_array(offsets) || json_array_size(offsets) != 2 ||
        json_object_size(entry) != 3)
        return bg_fail(err, BG_FORMAT, "%s: tensor %s: expected dtype, shape and two data_offsets", shard->name, name);
    *view = (struct tensor_view){.name = name, .rank = (unsigned)json_array_size(shape)};
    size_t known = sizeof dtypes / sizeof *dtypes, kind = 0;
    while (kind < known && strcmp(dtypes[kind].name, json_string_value(dtype)))
        kind++;
    if (kind == known)
        return bg_fail(err, BG_UNSUPPORTED, "%s: tensor %s: unknown dtype \"%s\"", shard->name, name,
                       json_string_value(dtype));
    view->dtype = dtypes[kind].dtype;
    if (json_array_size(shape) > TENSOR_RANK_MAX)
        return bg_fail(err, BG_UNSUPPORTED, "%s: tensor %s: %zu dimensions, at most %d are supported", shard->name,
                       name, json_array_size(shape), TENSOR_RANK_MAX);
    for (unsigned i = 0; i < view->rank; i++) {
        json_t *extent = json_array_get(shape, i);
        if (!json_is_integer(extent) || json_integer_value(extent) < 0)
            return bg_fail(err, BG_FORMAT, "%s: tensor %s: dimension %u is not a count", shard->name, name, i);
        view->shape[i] = (uint64_t)json_integer_value(extent);
    }
    json_t *first = json_array_get(offsets, 0), *last = json_array_get(offsets, 1);
    if (!json_is_integer(first) || !json_is_integer(last) || json_integer_value(first) < 0)
        return bg_fail(err, BG_FORMAT, "%s: tensor %s: data_offsets are not counts", shard->name, name);
    uint64_t begin = (uint64_t)json_integer_value(first), end = (uint64_t)json_integer_value(last);
    uint64_t room = shard->map.size - data_start;
    if (json_integer_value(last) < json_integer_value(first) || end > room)
        return bg_fail(err, BG_FORMAT,
                       "%s: tensor %s: data_offsets [%" PRIu64 ", %" PRId64 ") lie outside the %" PRIu64
                       " bytes of data: the file is truncated or its header is wrong",
                       shard->name, name, begin, (int64_t)json_integer_value(last), room);
    view->data = shard->map.data + data_start + begin;
    view->bytes = end - begin;
    uint64_t expected;
    char text[TENSOR_SHAPE_TEXT];
    tensor_shape_text(view->rank, view->shape, text);
    if (!tensor_dtype_bytes(view->dtype, view->rank, view->shape, &expected) || expected != view->bytes)
        return bg_fail(err, BG_FORMAT, "%s: tensor %s: %s of shape %s does not take the %" PRIu64 " bytes it is given",
                       shard->name, name, tensor_dtype_name(view->dtype), text, view->bytes);
    return BG_OK;
}

static bg_status parse_metadata(const struct shard *shard, json_t *metadata, struct bg_error *err)
{
    const char *key;
    json_t *value;
    if (!json_is_object(metadata))
        return bg_fail(err, BG_FORMAT, "%s: __metadata__: expected an object of strings", shard->name);
    json_object_foreach(metadata, key, value)
    {
        if (!json_is_string(value))
            return bg_fail(err, BG_FORMAT, "%s: __metadata__.%s: expected a string", shard->name, key);
    }
    return BG_OK;
}

static int compare_places(const void *a, const void *b)
{
    const struct tensor_view *x = a, *y = b;
    if (x->data != y->data)
        return x->data < y->data ? -1 : 1;
    if (x->bytes != y->bytes)
        return x->bytes < y->bytes ? -1 : 1;
    return strcmp(x->name, y->name);
}

// The tensors tile the data: each begins where the one before it ends.
static bg_status check_tiling(const struct shard *shard, struct tensor_view *views, size_t count, uint64_t data_start,
                              struct bg_error *err)
{
    if (count > 1)
        qsort(views, count, sizeof *views, compare_places);
    const uint8_t *data = shard->map.data + data_start, *end = shard->map.data + shard->map.size;
    const uint8_t *expected = data;
    for (size_t i = 0; i < count; i++) {
        if (views[i].data != expected)
            return bg_fail(err, BG_FORMAT, "%s: tensor %s begins at byte %td of the data, %s byte %td", shard->name,
                           views[i].name, views[i].data - data,
                           views[i].data < expected ? "inside the tensor before it, which ends at"
                                                    : "leaving a hole behind",
                           expected - data);
        expected += views[i].bytes;
    }
    if (expected != end)
        return bg_fail(err, BG_FORMAT, "%s: %td bytes behind the last tensor belong to none", shard->name,
                       end - expected);
    return BG_OK;
}

static bg_status parse_header(struct shard *shard, uint64_t *data_start, struct bg_error *err)
{
    const uint8_t *bytes = shard->map.data;
    uint64_t length = 0;
    if (shard->map.size < 8)
        return bg_fail(err, BG_FORMAT, "%s: %zu bytes are too few for a safetensors file", shard->name,
                       shard->map.size);
    memcpy(&length, bytes, 8);
    if (length > HEADER_MAX)
        return bg_fail(err, BG_FORMAT, "%s: a header of %" PRIu64 " bytes: more than the %d allowed, or no safetensors",
                       shard->name, length, (int)HEADER_MAX);
    if (length > shard->map.size - 8)
        return bg_fail(err, BG_FORMAT, "%s: a header of %" PRIu64 " bytes in a file of %zu: truncated?", shard->name,
                       length, shard->map.size);
    if (!length || bytes[8] != '{')
        return bg_fail(err, BG_FORMAT, "%s: the header does not begin with {", shard->name);
    json_error_t json_error;
    shard->header = json_loadb((const char *)bytes + 8, length, JSON_REJECT_DUPLICATES, &json_error);
    if (!shard->header)
        return bg_fail(err, BG_FORMAT, "%s: header, byte %d: %s", shard->name, json_error.position, json_error.text);
    *data_start = 8 + length;
    return BG_OK;
}

static bg_status parse_shard(struct safetensors *file, struct shard *shard, struct bg_error *err)
{
    uint64_t data_start = 0;
    bg_status status = parse_header(shard, &data_start, err);
    if (status)
        return status;
    file->views = bg_realloc_array(file->views, file->count + json_object_size(shard->header), sizeof *file->views);
    struct tensor_view *views = file->views + file->count;
    size_t count = 0;
    const char *name;
    json_t *entry;
    json_object_foreach(shard->header, name, entry)
    {
        if (!strcmp(name, "__metadata__"))
            status = parse_metadata(shard, entry, err);
        else
            status = parse_entry(shard, name, entry, data_start, err, &views[count++]);
        if (status)
            return status;
    }
    status = check_tiling(shard, views, count, data_start, err);
    if (!status)
        file->count += count;
    return status;
}

static bg_status list_shards(const char *path, json_t *weight_map, struct bg_error *err, struct bg_strlist *names)
{
    const char *name;
    json_t *value;
    json_t *seen = json_object();
    bg_status status = BG_OK;
    json_object_foreach(weight_map, name, value)
    {
        const char *shard = json_string_value(value);
        // Shards lie beside their index; a path out of it is a mistake or a trap.
        if (!shard || !*shard || strchr(shard, '/')) {
            status =
                bg_fail(err, BG_FORMAT, "%s: weight_map: %s: expected the name of a file beside the index", path, name);
            break;
        }
        if (!json_object_get(seen, shard)) {
            json_object_set_new(seen, shard, json_true());
            bg_strlist_add(names, shard);
        }
    }
    json_decref(seen);
    if (!status && names->count > SHARDS_MAX)
        status =
            bg_fail(err, BG_UNSUPPORTED, "%s: %zu shards, at most %d are supported", path, names->count, SHARDS_MAX);
    bg_strlist_sort(names);
    return status;
}

static bg_status check_index(const struct safetensors *file, const char *path, json_t *weight_map, struct bg_error *err)
{
    for (size_t i = 1; i < file->count; i++) {
        if (!strcmp(file->views[i - 1].name, file->views[i].name))
            return bg_fail(err, BG_FORMAT, "%s: tensor %s is in two shards", path, file->views[i].name);
    }
    const char *name;
    json_t *value;
    json_object_foreach(weight_map, name, value)
    {
        if (!safetensors_find(file, name))
            return bg_fail(err, BG_FORMAT, "%s: tensor %s is not in its shard %s", path, name,
                           json_string_value(value));
    }
    return BG_OK;
}

// The index says which shard holds which tensor: {"weight_map": {"name": "model-00001-of-00002.safetensors"}}.
static bg_status open_index(struct bg_env *env, const char *path, struct bg_error *err, struct safetensors **file)
{
    json_t *index = NULL, *weight_map = NULL;
    bg_status status = bg_json_load(env, path, err, &index);
    if (status)
        return status;
    struct bg_strlist names = {0};
    struct safetensors *opened = NULL;
    status = bg_json_object(index, path, "weight_map", err, &weight_map);
    if (!status)
        status = list_shards(path, weight_map, err, &names);
    if (!status) {
        opened = create(names.count ? names.count : 1);
        const char *slash = strrchr(path, '/');
        int directory = slash ? (int)(slash - path) + 1 : 0;
        for (size_t i = 0; i < names.count && !status; i++) {
            char *shard = bg_format("%.*s%s", directory, path, names.items[i]);
            status = add_shard(env, shard, opened, err);
            bg_free(shard);
        }
        if (!status) {
            sort_views(opened);
            status = check_index(opened, path, weight_map, err);
        }
    }
    bg_strlist_fini(&names);
    json_decref(index);
    if (status)
        safetensors_close(opened);
    else
        *file = opened;
    return status;
}

static int compare_items(const void *a, const void *b)
{
    return strcmp((*(const struct safetensors_item *const *)a)->name,
                  (*(const struct safetensors_item *const *)b)->name);
}

static const char *written_name(enum tensor_dtype dtype)
{
    for (size_t i = 0; i < sizeof dtypes / sizeof *dtypes; i++) {
        if (dtypes[i].dtype == dtype)
            return dtypes[i].name;
    }
    return NULL;
}

static int add_text(const char *bytes, size_t size, void *text)
{
    bg_str_add_bytes(text, bytes, size);
    return 0;
}

// The header as text, padded with blanks so that the data begins on a multiple of 8.
static bg_status build_header(const struct safetensors_item *const *items, size_t count,
                              const struct safetensors_pair *metadata, size_t pairs, struct bg_error *err, char **text)
{
    json_t *header = json_object(), *meta = json_object();
    json_object_set_new(header, "__metadata__", meta);
    json_object_set_new(meta, "format", json_string("pt"));
    for (size_t i = 0; i < pairs; i++)
        json_object_set_new(meta, metadata[i].key, json_string(metadata[i].value));
    uint64_t offset = 0;
    bg_status status = BG_OK;
    for (size_t i = 0; i < count && !status; i++) {
        const struct safetensors_item *item = items[i];
        uint64_t bytes = 0, end = 0;
        const char *dtype = written_name(item->dtype);
        json_t *shape = json_array();
        if (!dtype || item->rank > TENSOR_RANK_MAX ||
            !tensor_dtype_bytes(item->dtype, item->rank, item->shape, &bytes) ||
            __builtin_add_overflow(offset, bytes, &end) || end > INT64_MAX || json_object_get(header, item->name))
            status = bg_fail(err, BG_INVALID, "tensor %s cannot be written to safetensors", item->name);
        for (unsigned k = 0; k < item->rank && !status; k++)
            json_array_append_new(shape, json_integer((json_int_t)item->shape[k]));
        json_t *entry = json_pack("{s:s, s:o, s:[I, I]}", "dtype", dtype ? dtype : "", "shape", shape, "data_offsets",
                                  (json_int_t)offset, (json_int_t)end);
        if (json_object_set_new(header, item->name, entry) && !status)
            status = bg_fail(err, BG_INVALID, "tensor %s: its name is not UTF-8", item->name);
        offset = end;
    }
    if (!status) {
        struct bg_str dumped = {0};
        (void)json_dump_callback(header, add_text, &dumped, JSON_COMPACT);
        while (dumped.size % 8)
            bg_str_add(&dumped, " ");
        *text = bg_str_take(&dumped);
    }
    json_decref(header);
    return status;
}

bg_status safetensors_write(struct bg_env *env, const char *path, const struct safetensors_item *items, size_t count,
                            const struct safetensors_pair *metadata, size_t pairs, struct bg_error *err)
{
    const struct safetensors_item **sorted = bg_alloc_array(count ? count : 1, sizeof *sorted);
    for (size_t i = 0; i < count; i++)
        sorted[i] = &items[i];
    if (count > 1)
        qsort(sorted, count, sizeof *sorted, compare_items);
    char *header = NULL;
    struct output output = {0};
    bg_status status = build_header(sorted, count, metadata, pairs, err, &header);
    if (!status)
        status = output_open(env, path, err, &output);
    if (!status) {
        uint64_t length = strlen(header);
        status = output_write(&output, &length, 8, err);
        if (!status)
            status = output_write(&output, header, length, err);
        for (size_t i = 0; i < count && !status; i++) {
            uint64_t bytes = 0;
            (void)tensor_dtype_bytes(sorted[i]->dtype, sorted[i]->rank, sorted[i]->shape, &bytes);
            status = output_write(&output, sorted[i]->data, bytes, err);
        }
        status = output_commit(&output, err);
    }
    bg_free(header);
    bg_free(sorted);
    return status;
}
