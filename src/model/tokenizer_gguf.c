// A tokenizer from GGUF metadata: model "gpt2" (byte-level BPE with merges, split as tokenizer.ggml.pre says) and model
// "llama" (pieces with scores). Names of pre and their patterns follow llama.cpp; an unknown one is refused, because
// another split would give other ids.
#include "model/tokenizer_int.h"

#include "base/mem.h"
#include "tensor/gguf.h"

#include <stdio.h>
#include <string.h>

enum { GGUF_NORMAL = 1, GGUF_UNKNOWN, GGUF_CONTROL, GGUF_USER, GGUF_UNUSED, GGUF_BYTE }; // tokenizer.ggml.token_type

struct pre {
    const char *names; // with a blank before and behind each
    const char *patterns[3];
    bool ignore_merges, adds_bos;
};
static const struct pre pres[] = {
    {" gpt-2 phi-2 mpt olmo jais gigachat trillion jina-es jina-de jina-v2-es jina-v2-de jina-v1-en jina-v2-code "
     "roberta-bpe a.x-4.0 mellum ",
     {split_pattern_gpt2},
     false,
     false},
    {" starcoder refact command-r smollm codeshell exaone minerva-7b ", {"\\p{N}", split_pattern_gpt2}, false, false},
    {" llama-bpe llama3 llama-v3 falcon3 ", {split_pattern_llama3}, true, true},
    {" dbrx smaug-bpe chatglm-bpe ", {split_pattern_llama3}, false, false},
    {" qwen2 stablelm2 deepseek-r1-qwen megrez ", {split_pattern_qwen2}, false, false},
    {" gpt-4o ", {split_pattern_o200k}, false, false},
    {" falcon ", {"[\\p{P}\\$\\+<=>\\^~\\|`]+", split_pattern_gpt2, "[0-9][0-9][0-9]"}, false, false},
    {" default ", {"[\\p{P}\\$\\+<=>\\^~\\|]+", split_pattern_gpt2, "\\p{N}+|[0-9][0-9][0-9]"}, false, false},
};

static bg_status find_array(const struct gguf *file, const char *name, const char *key, enum gguf_type element,
                            uint64_t count, struct bg_error *err, const struct gguf_value **value)
{
    const struct gguf_value *found = gguf_find(file, key);
    if (!found)
        return bg_fail(err, BG_NOT_FOUND, "%s: key %s is missing", name, key);
    bool fits = found->type == GGUF_ARRAY && found->element == element && (count == 0 || found->count == count);
    if (!fits)
        return bg_fail(err, BG_FORMAT, "%s: key %s must be an array of %s%s", name, key,
                       element == GGUF_STRING ? "strings"
                       : element == GGUF_F32  ? "32-bit floats"
                                              : "32-bit integers",
                       count ? ", one for every token" : "");
    *value = found;
    return BG_OK;
}

// An id from the file; leaves *id as it is where the key is missing.
static bg_status read_id(const struct tokenizer *tk, const struct gguf *file, const char *key, struct bg_error *err,
                         int32_t *id)
{
    if (!gguf_find(file, key))
        return BG_OK;
    uint64_t value;
    bg_status status = gguf_u64(file, key, err, &value);
    if (status == BG_OK && value >= tk->pieces.count)
        return bg_fail(err, BG_FORMAT, "%s: key %s is %llu, expected an id below %u", tk->name, key,
                       (unsigned long long)value, tk->pieces.count);
    if (status == BG_OK)
        *id = (int32_t)value;
    return status;
}

static bg_status read_tokens(struct tokenizer *tk, const struct gguf *file, struct bg_error *err)
{
    const struct gguf_value *tokens, *types = NULL;
    bg_status status = find_array(file, tk->name, "tokenizer.ggml.tokens", GGUF_STRING, 0, err, &tokens);
    if (status == BG_OK && gguf_find(file, "tokenizer.ggml.token_type"))
        status = find_array(file, tk->name, "tokenizer.ggml.token_type", GGUF_I32, tokens->count, err, &types);
    if (status != BG_OK)
        return status;
    tk->id_limit = tokens->count;
    for (uint64_t id = 0; status == BG_OK && id < tokens->count; id++) {
        struct gguf_string piece = gguf_array_string(tokens, id);
        int type = types ? (int)gguf_array_number(types, id) : GGUF_NORMAL;
        status = tokenizer_add_piece(tk, id, piece.data, (size_t)piece.size, PIECE_MODEL, err);
        if (status != BG_OK)
            break;
        if (type == GGUF_UNKNOWN)
            tk->unk = (int32_t)id;
        if ((type == GGUF_CONTROL || type == GGUF_USER) && piece.size > 0) {
            struct added_token added = {.id = (int32_t)id,
                                        .content = (char *)(uintptr_t)piece.data,
                                        .content_size = (size_t)piece.size,
                                        .special = type != GGUF_USER};
            status = tokenizer_add_added(tk, &added, err);
        }
    }
    return status;
}

static bg_status read_merges(struct tokenizer *tk, const struct gguf *file, struct bg_error *err)
{
    const struct gguf_value *merges;
    if (!gguf_find(file, "tokenizer.ggml.merges") && tk->pieces.count == 256)
        return BG_OK; // plain bytes
    bg_status status = find_array(file, tk->name, "tokenizer.ggml.merges", GGUF_STRING, 0, err, &merges);
    for (uint64_t i = 0; status == BG_OK && i < merges->count; i++) {
        struct gguf_string merge = gguf_array_string(merges, i);
        const char *blank = merge.size > 1 ? memchr(merge.data + 1, ' ', (size_t)merge.size - 1) : NULL;
        size_t left = blank ? (size_t)(blank - merge.data) : 0;
        if (!blank)
            return bg_fail(err, BG_FORMAT, "%s: tokenizer.ggml.merges[%llu] must be two pieces with a blank between",
                           tk->name, (unsigned long long)i);
        status = tokenizer_add_merge(tk, merge.data, left, blank + 1, (size_t)merge.size - left - 1,
                                     "tokenizer.ggml.merges", (size_t)i, err);
    }
    return status;
}

static bg_status read_pre(struct tokenizer *tk, const struct gguf *file, struct bg_error *err)
{
    const struct gguf_value *value = gguf_find(file, "tokenizer.ggml.pre");
    char name[64] = " default ";
    if (value && (value->type != GGUF_STRING || value->s.size > 40 || memchr(value->s.data, ' ', value->s.size)))
        return bg_fail(err, BG_FORMAT, "%s: key tokenizer.ggml.pre must be the name of a split", tk->name);
    if (value)
        (void)snprintf(name, sizeof name, " %.*s ", (int)value->s.size, value->s.data);
    if (tk->pieces.count == 256 && tk->merge_count == 0) {
        tokenizer_set_byte_level(tk, false);
        return BG_OK;
    }
    for (size_t i = 0; i < sizeof pres / sizeof *pres; i++) {
        if (!strstr(pres[i].names, name))
            continue;
        bool only_gpt2 = pres[i].patterns[0] == split_pattern_gpt2;
        for (size_t k = 0; k < 3 && pres[i].patterns[k] && !only_gpt2; k++)
            (void)tokenizer_add_split(tk, SPLIT_REGEX, pres[i].patterns[k]);
        tokenizer_set_byte_level(tk, only_gpt2);
        tk->ignore_merges = pres[i].ignore_merges;
        tk->adds_bos = pres[i].adds_bos;
        return BG_OK;
    }
    return bg_fail(
        err, BG_UNSUPPORTED,
        "%s: key tokenizer.ggml.pre is%sand not supported; known are gpt-2, starcoder, refact, llama-bpe, qwen2, "
        "dbrx, gpt-4o, falcon, default and others of those families",
        tk->name, name);
}

static bg_status read_scores(struct tokenizer *tk, const struct gguf *file, struct bg_error *err)
{
    const struct gguf_value *scores;
    bg_status status = find_array(file, tk->name, "tokenizer.ggml.scores", GGUF_F32, tk->pieces.count, err, &scores);
    if (status != BG_OK)
        return status;
    tk->scores = bg_alloc_array(tk->pieces.count, sizeof *tk->scores);
    for (uint32_t id = 0; id < tk->pieces.count; id++) {
        double score = gguf_array_number(scores, id);
        if (!(score > -3e38 && score < 3e38))
            return bg_fail(err, BG_FORMAT, "%s: tokenizer.ggml.scores[%u] is not a finite number", tk->name, id);
        tk->scores[id] = (float)score;
    }
    tk->byte_fallback = tk->score_order = tk->adds_bos = tk->decode_blank = true;
    const struct gguf_value *prefix = gguf_find(file, "tokenizer.ggml.add_space_prefix");
    if (!prefix || prefix->type != GGUF_BOOL || prefix->b) {
        tk->decode_strip = 1;
        tokenizer_add_normal(tk, NORMAL_PREPEND, "", " ");
    }
    return BG_OK;
}

static bg_status read_ids(struct tokenizer *tk, const struct gguf *file, struct bg_error *err)
{
    bg_status status = read_id(tk, file, "tokenizer.ggml.bos_token_id", err, &tk->bos);
    if (status == BG_OK)
        status = read_id(tk, file, "tokenizer.ggml.eos_token_id", err, &tk->eos);
    const struct gguf_value *add = gguf_find(file, "tokenizer.ggml.add_bos_token");
    if (add && add->type == GGUF_BOOL)
        tk->adds_bos = add->b;
    return status;
}

bg_status tokenizer_parse_gguf(const struct gguf *file, const char *name, struct bg_error *err,
                               struct tokenizer **tokenizer)
{
    const struct gguf_value *model = gguf_find(file, "tokenizer.ggml.model");
    if (!model || model->type != GGUF_STRING)
        return bg_fail(err, BG_NOT_FOUND, "%s: key tokenizer.ggml.model is missing: the file has no tokenizer", name);
    bool bpe = model->s.size == 4 && memcmp(model->s.data, "gpt2", 4) == 0;
    bool llama = model->s.size == 5 && memcmp(model->s.data, "llama", 5) == 0;
    if (!bpe && !llama)
        return bg_fail(err, BG_UNSUPPORTED, "%s: key tokenizer.ggml.model is '%.*s', expected gpt2 or llama", name,
                       (int)(model->s.size < 40 ? model->s.size : 40), model->s.data);
    struct tokenizer *tk = tokenizer_create(name);
    bg_status status = read_tokens(tk, file, err);
    if (status == BG_OK && bpe && (status = read_merges(tk, file, err)) == BG_OK)
        status = read_pre(tk, file, err);
    if (status == BG_OK && llama)
        status = read_scores(tk, file, err);
    if (status == BG_OK)
        status = read_ids(tk, file, err);
    if (status == BG_OK)
        status = tokenizer_finish(tk, err);
    if (status != BG_OK)
        tokenizer_destroy(tk);
    else
        *tokenizer = tk;
    return status;
}

char *tokenizer_gguf_pre(const struct tokenizer *tk)
{
    const char *patterns[SPLIT_STEPS_MAX + 1];
    size_t count = 0;
    for (size_t i = 0; i < tk->split_count; i++) {
        const struct split_step *step = &tk->splits[i];
        if (step->kind == SPLIT_REGEX && step->behavior == SPLIT_ISOLATED && !step->invert)
            patterns[count++] = step->pattern;
        else if (step->kind != SPLIT_BYTE_LEVEL)
            return NULL;
        else if (step->use_regex)
            patterns[count++] = split_pattern_gpt2;
    }
    bool merges = tk->merge_count > 0; // without them the split changes nothing: any name will do
    for (size_t i = 0; i < sizeof pres / sizeof *pres; i++) {
        size_t k = 0;
        while (k < count && k < 3 && pres[i].patterns[k] && !strcmp(pres[i].patterns[k], patterns[k]))
            k++;
        bool same = k == count && (k == 3 || !pres[i].patterns[k]) && pres[i].ignore_merges == tk->ignore_merges;
        if (same || !merges)
            return bg_strndup(pres[i].names + 1, strcspn(pres[i].names + 1, " "));
    }
    return NULL;
}
