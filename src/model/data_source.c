// What the paths of a corpus stand for: the list of files behind them, in an order that depends on names alone, and
// the bytes of one file, unpacked on the fly. Nothing here holds more than a megabyte of unpacked text. An archive
// that ends early, or goes on after its end, is an error: half a corpus must not train silently.
#define ZLIB_CONST // next_in points to const
#include "model/data_int.h"

#include "base/mem.h"

#include <string.h>
#include <zlib.h>
#include <zstd.h>

enum { DEPTH_MAX = 32, FILES_MAX = 1000000, BLOCK = 1 << 20 };

static bg_status list_path(struct bg_env *env, const char *path, unsigned depth, struct bg_error *err,
                           struct data_files *files);

bg_status data_files_list(struct bg_env *env, const char *const *paths, size_t count, struct bg_error *err,
                          struct data_files *files)
{
    struct data_files list = {0};
    for (size_t i = 0; i < count; i++) {
        size_t before = list.count;
        bg_status status = list_path(env, paths[i], 0, err, &list);
        if (status == BG_OK && list.count == before)
            status = bg_fail(err, BG_INVALID, "%s: the directory holds no file to read (hidden names are left out)",
                             paths[i]);
        if (status != BG_OK) {
            data_files_fini(&list);
            return status;
        }
    }
    *files = list;
    return BG_OK;
}

// Cuts `suffix` off the end of path[0, *size), if it stands there.
static bool cut_suffix(const char *path, size_t *size, const char *suffix)
{
    size_t length = strlen(suffix);
    if (*size < length || memcmp(path + *size - length, suffix, length) != 0)
        return false;
    *size -= length;
    return true;
}

static bg_status add_file(const char *path, const struct bg_file_info *info, struct bg_error *err,
                          struct data_files *files)
{
    if (files->count == FILES_MAX)
        return bg_fail(err, BG_UNSUPPORTED, "%s: more than %d files in one corpus", path, FILES_MAX);
    if (files->count == files->capacity) {
        files->capacity = files->capacity ? 2 * files->capacity : 16;
        files->items = bg_realloc_array(files->items, files->capacity, sizeof *files->items);
    }
    struct data_file *file = &files->items[files->count++];
    *file = (struct data_file){.path = bg_strdup(path), .size = info->size, .mtime_ns = info->mtime_ns};
    size_t stem = strlen(path);
    if (cut_suffix(path, &stem, ".gz"))
        file->packing = DATA_GZIP;
    else if (cut_suffix(path, &stem, ".zst"))
        file->packing = DATA_ZSTD;
    file->jsonl = cut_suffix(path, &stem, ".jsonl");
    files->bytes += info->size;
    return BG_OK;
}

static bg_status collect_name(void *arg, const char *name, struct bg_error *err)
{
    (void)err;
    if (name[0] != '.')
        bg_strlist_add(arg, name);
    return BG_OK;
}

static bg_status list_directory(struct bg_env *env, const char *path, unsigned depth, struct bg_error *err,
                                struct data_files *files)
{
    if (depth == DEPTH_MAX)
        return bg_fail(err, BG_UNSUPPORTED, "%s: directories nest deeper than %d; is a link going round in circles?",
                       path, DEPTH_MAX);
    struct bg_strlist names = {0};
    bg_status status = env->ops->list_directory(env, path, collect_name, &names, err);
    size_t length = strlen(path);
    const char *slash = length && path[length - 1] == '/' ? "" : "/";
    for (size_t i = 0; i < names.count && status == BG_OK; i++) {
        char *inner = bg_format("%s%s%s", path, slash, names.items[i]);
        status = list_path(env, inner, depth + 1, err, files);
        bg_free(inner);
    }
    bg_strlist_fini(&names);
    return status;
}

static bg_status list_path(struct bg_env *env, const char *path, unsigned depth, struct bg_error *err,
                           struct data_files *files)
{
    struct bg_file_info info = {0};
    bg_status status = env->ops->path_info(env, path, err, &info);
    if (status != BG_OK)
        return status;
    if (!info.exists)
        return bg_fail(err, BG_NOT_FOUND, "%s: no such file or directory (data.train and data.valid list text to read)",
                       path);
    if (info.is_directory)
        return list_directory(env, path, depth, err, files);
    return add_file(path, &info, err, files);
}

void data_files_fini(struct data_files *files)
{
    for (size_t i = 0; i < files->count; i++)
        bg_free(files->items[i].path);
    bg_free(files->items);
    *files = (struct data_files){0};
}

static bg_status unpack_plain(const uint8_t *bytes, size_t size, data_bytes_fn fn, void *arg, struct bg_error *err)
{
    bg_status status = BG_OK;
    for (size_t at = 0; at < size && status == BG_OK;) {
        size_t part = size - at < BLOCK ? size - at : BLOCK;
        status = fn(arg, bytes + at, part, at + part, err);
        at += part;
    }
    return status;
}

// What is being unpacked, and into which block.
struct unpacking {
    const char *path;
    const uint8_t *packed;
    size_t size;
    uint8_t *block;
    data_bytes_fn fn;
    void *arg;
};

static bg_status unpack_zstd(const struct unpacking *u, struct bg_error *err)
{
    ZSTD_DStream *stream = ZSTD_createDStream();
    if (!stream)
        return bg_fail(err, BG_NO_MEMORY, "%s: no memory to unpack zstd", u->path);
    ZSTD_inBuffer in = {u->packed, u->size, 0};
    bg_status status = BG_OK;
    size_t left = 1; // 0: a frame is complete
    bool full = false;
    // A full block may leave unpacked bytes inside the stream after the input has ended.
    while (status == BG_OK && (in.pos < in.size || (full && left))) {
        ZSTD_outBuffer out = {u->block, BLOCK, 0};
        left = ZSTD_decompressStream(stream, &out, &in);
        full = out.pos == out.size;
        if (ZSTD_isError(left))
            status = bg_fail(err, BG_CORRUPT, "%s: not valid zstd near byte %zu: %s", u->path, in.pos,
                             ZSTD_getErrorName(left));
        else if (out.pos)
            status = u->fn(u->arg, u->block, out.pos, in.pos, err);
    }
    ZSTD_freeDStream(stream);
    if (status == BG_OK && left)
        status = bg_fail(err, BG_CORRUPT, "%s: the zstd archive ends early, at byte %zu", u->path, u->size);
    return status;
}

// One inflate() call: up to a block of output; the input in slices that fit zlib's counter.
static bg_status inflate_block(const struct unpacking *u, z_stream *stream, struct bg_error *err, bool *ended)
{
    size_t rest = u->size - (size_t)(stream->next_in - u->packed);
    stream->avail_in = rest < (1u << 30) ? (uInt)rest : 1u << 30;
    stream->next_out = u->block;
    stream->avail_out = BLOCK;
    int code = inflate(stream, Z_NO_FLUSH);
    *ended = code == Z_STREAM_END;
    if (code == Z_OK || code == Z_STREAM_END)
        return BG_OK;
    if (code == Z_BUF_ERROR)
        return bg_fail(err, BG_CORRUPT, "%s: the gzip archive ends early, at byte %zu", u->path, u->size);
    if (code == Z_MEM_ERROR)
        return bg_fail(err, BG_NO_MEMORY, "%s: no memory to unpack gzip", u->path);
    return bg_fail(err, BG_CORRUPT, "%s: not valid gzip near byte %zu: %s", u->path,
                   (size_t)(stream->next_in - u->packed), stream->msg ? stream->msg : "damaged data");
}

static bg_status unpack_gzip(const struct unpacking *u, struct bg_error *err)
{
    z_stream stream = {.next_in = u->packed};
    if (inflateInit2(&stream, 16 + MAX_WBITS) != Z_OK)
        return bg_fail(err, BG_NO_MEMORY, "%s: no memory to unpack gzip", u->path);
    bg_status status = BG_OK;
    bool ended = false;
    // An archive may be several members, one after the other.
    while (status == BG_OK && !(ended && stream.next_in == u->packed + u->size)) {
        if (ended)
            (void)inflateReset(&stream);
        status = inflate_block(u, &stream, err, &ended);
        size_t got = BLOCK - stream.avail_out;
        if (status == BG_OK && got)
            status = u->fn(u->arg, u->block, got, (uint64_t)(stream.next_in - u->packed), err);
    }
    (void)inflateEnd(&stream);
    return status;
}

bg_status data_unpack(const struct data_file *file, const uint8_t *packed, size_t size, data_bytes_fn fn, void *arg,
                      struct bg_error *err)
{
    if (file->packing == DATA_PLAIN)
        return unpack_plain(packed, size, fn, arg, err);
    struct unpacking u = {file->path, packed, size, bg_alloc(BLOCK), fn, arg};
    bg_status status = file->packing == DATA_GZIP ? unpack_gzip(&u, err) : unpack_zstd(&u, err);
    bg_free(u.block);
    return status;
}
