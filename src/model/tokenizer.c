// A tokenizer as the rest of the program sees it: opening one from whatever a user names, and what ids mean.
// Encoding is in tokenizer_encode.c, the readers in tokenizer_json.c, tokenizer_files.c and tokenizer_gguf.c.
#include "model/tokenizer.h"

#include "base/assert.h"
#include "base/mem.h"
#include "model/tokenizer_int.h"
#include "tensor/gguf.h"

#include <stdio.h>
#include <string.h>

static bool ends_with(const char *text, const char *tail)
{
    size_t size = strlen(text), tail_size = strlen(tail);
    return size >= tail_size && strcmp(text + size - tail_size, tail) == 0;
}

static bool exists(struct bg_env *env, const char *path)
{
    struct bg_file_info info;
    return env->ops->path_info(env, path, NULL, &info) == BG_OK && info.exists && !info.is_directory;
}

// vocab.json next to its merges: "gpt2-vocab.json" goes with "gpt2-merges.txt".
static bg_status open_vocab(struct bg_env *env, const char *path, const struct bg_map *vocab, struct bg_error *err,
                            struct tokenizer **tokenizer)
{
    char *merges_path = bg_format("%.*smerges.txt", (int)(strlen(path) - strlen("vocab.json")), path);
    struct bg_map merges;
    bg_status status = env->ops->map_open(env, merges_path, err, &merges);
    if (status == BG_OK) {
        status = tokenizer_parse_vocab((const char *)vocab->data, vocab->size, (const char *)merges.data, merges.size,
                                       path, err, tokenizer);
        env->ops->map_close(env, &merges);
    } else {
        status = bg_fail_prefix(err, "%s needs its merges beside it", path);
    }
    bg_free(merges_path);
    return status;
}

static bg_status open_gguf(const struct bg_map *map, const char *path, struct bg_error *err,
                           struct tokenizer **tokenizer)
{
    struct gguf *file;
    bg_status status = gguf_parse(map->data, map->size, path, err, &file);
    if (status != BG_OK)
        return status;
    status = tokenizer_parse_gguf(file, path, err, tokenizer);
    gguf_close(file);
    return status;
}

static bg_status open_file(struct bg_env *env, const char *path, struct bg_error *err, struct tokenizer **tokenizer)
{
    struct bg_map map;
    bg_status status = env->ops->map_open(env, path, err, &map);
    if (status != BG_OK)
        return status;
    const char *bytes = (const char *)map.data;
    if (map.size >= 4 && memcmp(bytes, "GGUF", 4) == 0)
        status = open_gguf(&map, path, err, tokenizer);
    else if (ends_with(path, "vocab.json"))
        status = open_vocab(env, path, &map, err, tokenizer);
    else if (ends_with(path, ".json"))
        status = tokenizer_parse_json(bytes, map.size, path, err, tokenizer);
    else if (ends_with(path, ".model") && map.size > 0 && bytes[0] == '\n')
        status =
            bg_fail(err, BG_UNSUPPORTED,
                    "%s: a SentencePiece model: use the tokenizer.json or llama2.c's tokenizer.bin made from it", path);
    else if (ends_with(path, ".tiktoken") || ends_with(path, "tokenizer.model"))
        status = tokenizer_parse_tiktoken(bytes, map.size, path, err, tokenizer);
    else if (ends_with(path, ".bin"))
        status = tokenizer_parse_llama2c(bytes, map.size, path, err, tokenizer);
    else
        status =
            bg_fail(err, BG_UNSUPPORTED,
                    "%s: not a tokenizer file, expected tokenizer.json, vocab.json, *.tiktoken, *.bin or *.gguf", path);
    env->ops->map_close(env, &map);
    return status;
}

static bg_status apply_config(struct bg_env *env, const char *path, struct tokenizer *tk, struct bg_error *err)
{
    if (!exists(env, path))
        return BG_OK;
    struct bg_map map;
    bg_status status = env->ops->map_open(env, path, err, &map);
    if (status != BG_OK)
        return status;
    status = tokenizer_apply_config(tk, (const char *)map.data, map.size, path, err);
    env->ops->map_close(env, &map);
    return status;
}

struct candidate {
    const char *directory;
    char *path;
};

static bg_status take_candidate(void *arg, const char *name, struct bg_error *err)
{
    (void)err;
    struct candidate *found = arg;
    if (!found->path && (ends_with(name, ".tiktoken") || ends_with(name, ".gguf")))
        found->path = bg_format("%s/%s", found->directory, name);
    return BG_OK;
}

static bg_status find_in(struct bg_env *env, const char *directory, struct bg_error *err, char **path)
{
    static const char *const names[] = {"tokenizer.json", "vocab.json", "tokenizer.bin", "tokenizer.model"};
    for (size_t i = 0; i < sizeof names / sizeof *names; i++) {
        *path = bg_format("%s/%s", directory, names[i]);
        if (exists(env, *path))
            return BG_OK;
        bg_free(*path);
    }
    struct candidate found = {.directory = directory};
    bg_status status = env->ops->list_directory(env, directory, take_candidate, &found, err);
    if (status == BG_OK && !found.path)
        status =
            bg_fail(err, BG_NOT_FOUND,
                    "%s: holds no tokenizer (tokenizer.json, vocab.json with merges.txt, *.tiktoken, tokenizer.bin or "
                    "*.gguf)",
                    directory);
    *path = found.path;
    return status;
}

bg_status tokenizer_open(struct bg_env *env, const char *source, struct bg_error *err, struct tokenizer **tokenizer)
{
    if (strcmp(source, "bytes") == 0) {
        *tokenizer = tokenizer_make_bytes();
        return BG_OK;
    }
    struct bg_file_info info;
    bg_status status = env->ops->path_info(env, source, err, &info);
    if (status != BG_OK)
        return status;
    if (!info.exists)
        return bg_fail(err, BG_NOT_FOUND, "tokenizer '%s': no such file or directory, and it is not 'bytes'", source);
    char *path = NULL;
    if (!info.is_directory)
        path = bg_strdup(source);
    else if ((status = find_in(env, source, err, &path)) != BG_OK)
        return status;
    struct tokenizer *tk = NULL;
    status = open_file(env, path, err, &tk);
    if (status == BG_OK && ends_with(path, ".json")) {
        const char *slash = strrchr(path, '/');
        char *config = bg_format("%.*stokenizer_config.json", slash ? (int)(slash + 1 - path) : 0, path);
        status = apply_config(env, config, tk, err);
        bg_free(config);
    }
    bg_free(path);
    if (status != BG_OK) {
        tokenizer_destroy(tk);
        return status;
    }
    *tokenizer = tk;
    return BG_OK;
}

struct tokenizer *tokenizer_make_bytes(void)
{
    struct tokenizer *tk = tokenizer_create("bytes");
    struct bg_error err;
    bg_status status = BG_OK;
    tk->id_limit = 256;
    for (unsigned b = 0; status == BG_OK && b < 256; b++) {
        struct bg_str piece = {0};
        byte_spell(&(char){(char)b}, 1, &piece);
        status = tokenizer_add_piece(tk, b, piece.data, piece.size, PIECE_MODEL, &err);
        bg_str_fini(&piece);
    }
    tokenizer_set_byte_level(tk, false);
    if (status == BG_OK)
        status = tokenizer_finish(tk, &err);
    BG_ASSERT(status == BG_OK);
    return tk;
}

void tokenizer_destroy(struct tokenizer *tk)
{
    if (!tk)
        return;
    for (size_t i = 0; i < tk->split_count; i++)
        split_step_fini(&tk->splits[i]);
    for (size_t i = 0; i < tk->added_count; i++) {
        bg_free(tk->added[i].content);
        bg_free(tk->added[i].match);
    }
    tokenizer_clear_normals(tk);
    piece_set_fini(&tk->pieces);
    piece_set_fini(&tk->texts);
    piece_set_fini(&tk->keys);
    pair_table_fini(&tk->pairs);
    bg_free(tk->splits);
    bg_free(tk->added);
    bg_free(tk->merges);
    bg_free(tk->flags);
    bg_free(tk->scores);
    bg_free(tk->ends);
    bg_free(tk->name);
    bg_free(tk);
}

const char *tokenizer_kind(const struct tokenizer *tk)
{
    static const char *const names[] = {"bytes", "bpe", "sentencepiece"};
    return names[tk->form];
}

uint32_t tokenizer_size(const struct tokenizer *tk)
{
    return tk->size;
}

int32_t tokenizer_bos(const struct tokenizer *tk)
{
    return tk->bos;
}

int32_t tokenizer_eos(const struct tokenizer *tk)
{
    return tk->eos;
}

bool tokenizer_adds_bos(const struct tokenizer *tk)
{
    return tk->adds_bos;
}

bool tokenizer_ends(const struct tokenizer *tk, int32_t id)
{
    bool listed = false;
    for (size_t i = 0; i < tk->end_count; i++)
        listed |= tk->ends[i] == id;
    return id >= 0 && (listed || id == tk->eos || (id == tk->bos && tk->adds_bos));
}

void tokenizer_add_end(struct tokenizer *tk, int32_t id)
{
    if (id < 0 || id == tk->bos || tokenizer_ends(tk, id)) // bos: as prompts have it
        return;
    tk->ends = bg_realloc_array(tk->ends, tk->end_count + 1, sizeof *tk->ends);
    tk->ends[tk->end_count++] = id;
}

void tokenizer_token_bytes(const struct tokenizer *tk, int32_t previous, int32_t id, const char **bytes, size_t *size)
{
    *bytes = piece_set_get(&tk->texts, id, size);
    bool first = previous < 0 || (previous == tk->bos && tk->bos >= 0);
    if (tk->decode_strip && first && *size > 0 && **bytes == ' ') {
        ++*bytes;
        --*size;
    }
}

void tokenizer_piece(const struct tokenizer *tk, int32_t id, const char **bytes, size_t *size, float *score,
                     enum token_kind *kind)
{
    *bytes = piece_set_get(&tk->pieces, id, size);
    bool there = piece_set_has(&tk->pieces, id);
    unsigned flags = there ? tk->flags[id] : 0;
    *score = there && tk->scores ? tk->scores[id] : 0.0f;
    *kind = !there || id == tk->unk ? TOKEN_UNKNOWN
            : flags & PIECE_CONTROL ? TOKEN_CONTROL
            : flags & PIECE_BYTE    ? TOKEN_BYTE
                                    : TOKEN_NORMAL;
}
