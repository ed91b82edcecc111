// A tokenizer as GGUF's tokenizer.ggml.* keys, so that llama.cpp encodes and decodes as we do: byte-level BPE as
// model "gpt2" (pieces, merges, and the name of a known split pattern), score-ordered vocabularies as model "llama".
// Rows of a padded embedding get placeholder tokens. A split pattern GGUF has no name for is refused: the other
// program would split otherwise and nobody would notice.
#include "model/gguf_model_int.h"

#include "base/mem.h"
#include "model/tokenizer_int.h"

#include <stdio.h>
#include <string.h>

enum { TYPE_NORMAL = 1, TYPE_UNKNOWN = 2, TYPE_CONTROL = 3, TYPE_USER = 4, TYPE_UNUSED = 5, TYPE_BYTE = 6 };

static int32_t type_of(const struct tokenizer *t, uint32_t id, enum token_kind kind)
{
    switch (kind) {
    case TOKEN_CONTROL:
        return TYPE_CONTROL;
    case TOKEN_UNKNOWN:
        return TYPE_UNKNOWN;
    case TOKEN_BYTE:
        return TYPE_BYTE;
    default:
        return t->flags[id] & PIECE_ADDED ? TYPE_USER : TYPE_NORMAL;
    }
}

static void put_tokens(struct gguf_writer *w, const struct tokenizer *t, uint32_t vocab)
{
    struct gguf_string *pieces = bg_alloc_array(vocab, sizeof *pieces);
    float *scores = bg_alloc_array(vocab, sizeof *scores);
    int32_t *types = bg_alloc_array(vocab, sizeof *types);
    struct bg_strlist placeholders = {0};
    for (uint32_t id = 0; id < vocab; id++) {
        const char *piece = "";
        size_t size = 0;
        enum token_kind kind = TOKEN_NORMAL;
        if (id < tokenizer_size(t))
            tokenizer_piece(t, (int32_t)id, &piece, &size, &scores[id], &kind);
        if (size) {
            types[id] = type_of(t, id, kind);
        } else {
            char *name = bg_format("[PAD%u]", id);
            bg_strlist_add(&placeholders, name);
            bg_free(name);
            piece = placeholders.items[placeholders.count - 1];
            size = strlen(piece);
            types[id] = TYPE_UNUSED;
        }
        pieces[id] = (struct gguf_string){piece, size};
    }
    gguf_put_strings(w, "tokenizer.ggml.tokens", pieces, vocab);
    if (t->form == FORM_SENTENCEPIECE)
        gguf_put_f32s(w, "tokenizer.ggml.scores", scores, vocab);
    gguf_put_i32s(w, "tokenizer.ggml.token_type", types, vocab);
    bg_strlist_fini(&placeholders);
    bg_free(types);
    bg_free(scores);
    bg_free(pieces);
}

static void put_merges(struct gguf_writer *w, const struct tokenizer *t)
{
    size_t count = tokenizer_merge_count(t);
    struct gguf_string *merges = bg_alloc_array(count, sizeof *merges);
    for (size_t i = 0; i < count; i++) {
        char *merge = tokenizer_merge(t, i);
        merges[i] = (struct gguf_string){merge, strlen(merge)};
    }
    gguf_put_strings(w, "tokenizer.ggml.merges", merges, count);
    for (size_t i = 0; i < count; i++)
        bg_free((char *)merges[i].data);
    bg_free(merges);
}

static bool prepends_blank(const struct tokenizer *t)
{
    for (size_t i = 0; i < t->normal_count; i++) {
        if (t->normals[i].kind == NORMAL_PREPEND)
            return true;
    }
    return t->split_count && t->splits[0].kind == SPLIT_METASPACE && t->splits[0].prepend != PREPEND_NEVER;
}

static void put_id(struct gguf_writer *w, const char *key, int32_t id, int32_t otherwise)
{
    if (id >= 0 || otherwise >= 0)
        gguf_put_u32(w, key, (uint32_t)(id >= 0 ? id : otherwise));
}

bg_status gguf_put_vocabulary(struct gguf_writer *w, const struct model_config *config,
                              const struct tokenizer *tokenizer, const char *path, struct bg_error *err)
{
    const struct tokenizer *t = tokenizer;
    if (!t) {
        gguf_put_string(w, "tokenizer.ggml.model", "no_vocab");
        put_id(w, "tokenizer.ggml.bos_token_id", -1, config->bos);
        put_id(w, "tokenizer.ggml.eos_token_id", -1, config->eos);
        return BG_OK;
    }
    if (t->form == FORM_SENTENCEPIECE) {
        gguf_put_string(w, "tokenizer.ggml.model", "llama");
        gguf_put_string(w, "tokenizer.ggml.pre", "default");
        gguf_put_bool(w, "tokenizer.ggml.add_space_prefix", prepends_blank(t));
    } else {
        char *split = t->byte_level ? tokenizer_gguf_pre(t) : NULL;
        if (!split)
            return bg_fail(err, BG_UNSUPPORTED,
                           "%s: GGUF cannot describe this tokenizer: %s; export to safetensors keeps it", path,
                           t->byte_level ? "it has no name for its split pattern" : "its BPE is not byte-level");
        gguf_put_string(w, "tokenizer.ggml.model", "gpt2");
        gguf_put_string(w, "tokenizer.ggml.pre", split);
        bg_free(split);
    }
    put_tokens(w, t, config->vocab);
    if (t->form != FORM_SENTENCEPIECE)
        put_merges(w, t);
    put_id(w, "tokenizer.ggml.bos_token_id", tokenizer_bos(t), config->bos);
    put_id(w, "tokenizer.ggml.eos_token_id", tokenizer_eos(t), config->eos);
    put_id(w, "tokenizer.ggml.unknown_token_id", t->unk, -1);
    gguf_put_bool(w, "tokenizer.ggml.add_bos_token", tokenizer_adds_bos(t));
    return BG_OK;
}
