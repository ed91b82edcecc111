// The token cache: the ids of one list of files, 16 or 32 bits each, from offset 0 of one file, a footer behind them.
// It is written under another name, synced and renamed, so a kill at any instant leaves no cache or a whole one. The
// name is the hash of everything the tokens follow from: tokenizer, options, and every input (its content up to
// 256 MiB, beyond that path, size and modification time). Opening recomputes the hash over all tokens: a cache that
// was cut or flipped since is seen, made anew, and reported through `note`.
#include "model/data_int.h"

#include "base/assert.h"
#include "base/hash.h"
#include "base/mem.h"

#include <string.h>

enum { BLOCK = 1 << 20, CONTENT_MAX = 256 << 20, VERSION = 1 };
static const int64_t stale_ns = INT64_C(600) * 1000000000; // a temporary file nobody wrote to for so long has no writer

// Little-endian, like the tokens. `check` is the XXH3 of all that stands before it.
struct footer {
    char magic[8];
    uint32_t version, width;
    uint64_t tokens, documents, text_bytes;
    char key[64], sha256[64];
    uint64_t check;
};
static const char magic[8] = {'B', 'G', 'T', 'O', 'K', 'E', 'N', 'S'};
_Static_assert(sizeof(struct footer) == 176, "the footer is a file format");

struct writer {
    struct bg_env *env;
    const struct tokenizer *tokenizer;
    struct bg_file *file;
    const char *path; // of the input being read
    uint32_t width;
    uint64_t tokens, documents, text_bytes;
    struct bg_sha256 hash;
    struct token_list ids;
    uint8_t *block;
    size_t used;
    struct data_splitter *splitter;
    corpus_progress_fn progress;
    void *progress_arg;
    uint64_t done, total;
};

static bg_status cache_key(struct bg_env *env, const struct corpus_options *options, const struct data_files *files,
                           const struct tokenizer *tokenizer, struct bg_error *err, char key[65]);
static bg_status cache_open(struct bg_env *env, const char *path, const char *key, struct bg_error *err,
                            struct data_cache *cache);
static bg_status cache_build(struct bg_env *env, const struct corpus_options *options, const struct data_files *files,
                             const char *path, const char *key, struct writer *writer, struct bg_error *err);

bg_status data_cache_get(struct bg_env *env, const struct corpus_options *options, const struct data_files *files,
                         const struct tokenizer *tokenizer, corpus_progress_fn progress, void *arg,
                         struct bg_error *err, struct data_cache *cache)
{
    char key[65];
    bg_status status = cache_key(env, options, files, tokenizer, err, key);
    if (status != BG_OK)
        return status;
    char *path = bg_format("%s/%.32s.tokens", options->cache_dir, key), *note = NULL;
    struct bg_file_info info = {0};
    status = env->ops->path_info(env, path, err, &info);
    bool build = status == BG_OK && !info.exists;
    if (status == BG_OK && info.exists) {
        struct bg_error damage = {0};
        status = cache_open(env, path, key, &damage, cache);
        build = status == BG_CORRUPT;
        if (build)
            note = bg_format("%s; it was made anew", damage.text);
        else if (status != BG_OK && err)
            *err = damage;
    }
    if (build) {
        struct writer writer = {
            .env = env, .tokenizer = tokenizer, .progress = progress, .progress_arg = arg, .total = files->bytes};
        status = cache_build(env, options, files, path, key, &writer, err);
        if (status == BG_OK)
            status = cache_open(env, path, key, err, cache);
    }
    bg_free(path);
    if (status == BG_OK)
        cache->note = note;
    else
        bg_free(note);
    return status;
}

void data_cache_close(struct bg_env *env, struct data_cache *cache)
{
    if (cache->map.data)
        env->ops->map_close(env, &cache->map);
    bg_free(cache->note);
    *cache = (struct data_cache){0};
}

static bg_status cache_key(struct bg_env *env, const struct corpus_options *options, const struct data_files *files,
                           const struct tokenizer *tokenizer, struct bg_error *err, char key[65])
{
    struct bg_str text = {0};
    char sha[65];
    tokenizer_sha256(tokenizer, sha);
    bg_str_addf(&text, "brigade tokens %d\n%s\n%s\n%s\n", VERSION, sha, options->utf8, options->field);
    bg_status status = BG_OK;
    for (size_t i = 0; i < files->count && status == BG_OK; i++) {
        const struct data_file *file = &files->items[i];
        bg_str_addf(&text, "%d %d ", file->jsonl, file->packing);
        if (file->size > CONTENT_MAX) {
            bg_str_addf(&text, "%llu %lld %s\n", (unsigned long long)file->size, (long long)file->mtime_ns, file->path);
            continue;
        }
        struct bg_map map;
        status = env->ops->map_open(env, file->path, err, &map);
        if (status != BG_OK)
            break;
        bg_sha256_hex(map.data, map.size, sha);
        env->ops->map_close(env, &map);
        bg_str_addf(&text, "%s\n", sha);
    }
    bg_sha256_hex(text.data, text.size, key);
    bg_str_fini(&text);
    return status;
}

static void footer_seal(struct footer *footer)
{
    footer->check = bg_xxh64(footer, offsetof(struct footer, check));
}

// Why this footer is not one of a whole cache under `key`, or NULL.
static const char *footer_fault(const struct footer *footer, const char *key, size_t data_bytes)
{
    struct footer sealed = *footer;
    footer_seal(&sealed);
    if (memcmp(footer->magic, magic, sizeof magic) != 0 || sealed.check != footer->check)
        return "its footer is damaged or cut off";
    if (footer->version != VERSION || memcmp(footer->key, key, sizeof footer->key) != 0)
        return "it belongs to another corpus";
    if ((footer->width != 2 && footer->width != 4) || footer->tokens > SIZE_MAX / 4 ||
        footer->tokens * footer->width != data_bytes)
        return "its size does not match its count of tokens";
    return NULL;
}

static bg_status cache_open(struct bg_env *env, const char *path, const char *key, struct bg_error *err,
                            struct data_cache *cache)
{
    struct bg_map map;
    bg_status status = env->ops->map_open(env, path, err, &map);
    if (status != BG_OK)
        return status;
    struct footer footer = {0};
    size_t data_bytes = map.size < sizeof footer ? 0 : map.size - sizeof footer;
    if (map.size >= sizeof footer)
        memcpy(&footer, map.data + data_bytes, sizeof footer);
    const char *fault = footer_fault(&footer, key, data_bytes);
    char sha[65] = "";
    if (!fault) {
        bg_sha256_hex(map.data, data_bytes, sha);
        if (memcmp(sha, footer.sha256, sizeof footer.sha256) != 0)
            fault = "its tokens do not match their hash";
    }
    if (fault) {
        env->ops->map_close(env, &map);
        return bg_fail(err, BG_CORRUPT, "the token cache %s is damaged: %s", path, fault);
    }
    *cache = (struct data_cache){.map = map,
                                 .tokens = {map.data, footer.tokens, footer.width},
                                 .documents = footer.documents,
                                 .text_bytes = footer.text_bytes};
    memcpy(cache->sha256, sha, sizeof sha);
    return BG_OK;
}

static bg_status write_block(struct writer *writer, struct bg_error *err)
{
    bg_sha256_update(&writer->hash, writer->block, writer->used);
    bg_status status = writer->env->ops->file_write(writer->env, writer->file, writer->block, writer->used, err);
    writer->used = 0;
    return status;
}

static bg_status write_token(struct writer *writer, int32_t id, struct bg_error *err)
{
    uint16_t narrow = (uint16_t)id;
    memcpy(writer->block + writer->used, writer->width == 2 ? (void *)&narrow : (void *)&id, writer->width);
    writer->used += writer->width;
    writer->tokens++;
    return writer->used == BLOCK ? write_block(writer, err) : BG_OK;
}

static bg_status write_piece(void *arg, const char *text, size_t size, bool first, struct bg_error *err)
{
    struct writer *writer = arg;
    bg_status status = BG_OK;
    int32_t end = tokenizer_eos(writer->tokenizer);
    if (first && writer->documents++ > 0 && end >= 0)
        status = write_token(writer, end, err);
    if (status != BG_OK)
        return status;
    writer->ids.count = 0;
    status = tokenizer_encode(writer->tokenizer, text, size, false, err, &writer->ids);
    if (status != BG_OK) {
        (void)bg_fail_prefix(err, "%s", writer->path);
        return status;
    }
    for (size_t i = 0; i < writer->ids.count && status == BG_OK; i++) {
        BG_ASSERT(writer->ids.ids[i] >= 0 && (uint32_t)writer->ids.ids[i] < tokenizer_size(writer->tokenizer));
        status = write_token(writer, writer->ids.ids[i], err);
    }
    writer->text_bytes += size;
    return status;
}

static bg_status take_bytes(void *arg, const uint8_t *bytes, size_t size, uint64_t consumed, struct bg_error *err)
{
    struct writer *writer = arg;
    bg_status status = data_splitter_feed(writer->splitter, bytes, size, err);
    if (status == BG_OK && writer->progress)
        writer->progress(writer->progress_arg, writer->done + consumed, writer->total);
    return status;
}

static bg_status write_file_tokens(struct writer *writer, const struct corpus_options *options,
                                   const struct data_file *file, struct bg_error *err)
{
    struct bg_map map;
    bg_status status = writer->env->ops->map_open(writer->env, file->path, err, &map);
    if (status != BG_OK)
        return status;
    struct data_splitter splitter = {.path = file->path,
                                     .jsonl = file->jsonl,
                                     .field = options->field,
                                     .utf8 = options->utf8,
                                     .fn = write_piece,
                                     .arg = writer};
    writer->splitter = &splitter;
    writer->path = file->path;
    status = data_unpack(file, map.data, map.size, take_bytes, writer, err);
    if (status == BG_OK)
        status = data_splitter_end(&splitter, err);
    data_splitter_fini(&splitter);
    writer->env->ops->map_close(writer->env, &map);
    writer->done += file->size;
    return status;
}

static bg_status write_footer(struct writer *writer, const char *key, struct bg_error *err)
{
    struct footer footer = {.version = VERSION,
                            .width = writer->width,
                            .tokens = writer->tokens,
                            .documents = writer->documents,
                            .text_bytes = writer->text_bytes};
    bg_status status = write_block(writer, err);
    char sha[65];
    bg_sha256_final(&writer->hash, sha);
    memcpy(footer.magic, magic, sizeof magic);
    memcpy(footer.key, key, sizeof footer.key);
    memcpy(footer.sha256, sha, sizeof footer.sha256);
    footer_seal(&footer);
    if (status == BG_OK)
        status = writer->env->ops->file_write(writer->env, writer->file, &footer, sizeof footer, err);
    if (status == BG_OK)
        status = writer->env->ops->file_sync(writer->env, writer->file, err);
    return status;
}

// Opens, fills, syncs and closes the temporary file.
static bg_status write_cache(struct writer *writer, const struct corpus_options *options,
                             const struct data_files *files, const char *path, const char *key, struct bg_error *err)
{
    struct bg_env *env = writer->env;
    bg_status status = env->ops->file_open(env, path, BG_FILE_CREATE, err, &writer->file);
    if (status != BG_OK) {
        (void)bg_fail_prefix(err, "the token cache cannot be kept there (data.cache names another place)");
        return status;
    }
    writer->width = tokenizer_size(writer->tokenizer) <= 65536 ? 2 : 4;
    writer->block = bg_alloc(BLOCK);
    bg_sha256_init(&writer->hash);
    for (size_t i = 0; i < files->count && status == BG_OK; i++)
        status = write_file_tokens(writer, options, &files->items[i], err);
    if (status == BG_OK && writer->tokens == 0)
        status = bg_fail(err, BG_INVALID, "%s%s: there is no text in it", files->items[0].path,
                         files->count > 1 ? " and the other files listed with it" : "");
    if (status == BG_OK) {
        status = write_footer(writer, key, err);
    } else {
        char unused[65];
        bg_sha256_final(&writer->hash, unused);
    }
    bg_status closed = env->ops->file_close(env, writer->file, status == BG_OK ? err : NULL);
    token_list_fini(&writer->ids);
    bg_free(writer->block);
    return status == BG_OK ? closed : status;
}

struct sweep {
    struct bg_env *env;
    const char *directory;
};

// Removes a temporary file that its writer left behind when it was killed.
static bg_status sweep_name(void *arg, const char *name, struct bg_error *err)
{
    (void)err;
    struct sweep *sweep = arg;
    if (!strstr(name, ".tokens.tmp-"))
        return BG_OK;
    char *path = bg_format("%s/%s", sweep->directory, name);
    struct bg_file_info info = {0};
    bg_status status = sweep->env->ops->path_info(sweep->env, path, NULL, &info);
    int64_t now_ns = sweep->env->ops->wall_ms(sweep->env) * 1000000;
    if (status == BG_OK && info.exists && now_ns - info.mtime_ns > stale_ns)
        status = sweep->env->ops->path_remove(sweep->env, path, NULL);
    bg_free(path);
    return BG_OK; // what could not be removed does no harm
}

static bg_status cache_build(struct bg_env *env, const struct corpus_options *options, const struct data_files *files,
                             const char *path, const char *key, struct writer *writer, struct bg_error *err)
{
    const char *directory = options->cache_dir;
    struct sweep sweep = {env, directory};
    uint32_t random = 0;
    bg_status status = env->ops->make_directories(env, directory, err);
    if (status == BG_OK)
        status = env->ops->list_directory(env, directory, sweep_name, &sweep, err);
    if (status == BG_OK)
        status = env->ops->entropy(env, &random, sizeof random, err);
    if (status != BG_OK) {
        (void)bg_fail_prefix(err, "the token cache cannot be kept there (data.cache names another place)");
        return status;
    }
    char *temporary = bg_format("%s.tmp-%08x", path, random);
    status = write_cache(writer, options, files, temporary, key, err);
    if (status == BG_OK)
        status = env->ops->path_rename(env, temporary, path, err);
    if (status == BG_OK)
        status = env->ops->path_sync(env, directory, err);
    else if (env->ops->path_remove(env, temporary, NULL) != BG_OK)
        (void)bg_fail_prefix(err, "%s was left behind", temporary);
    bg_free(temporary);
    return status;
}
