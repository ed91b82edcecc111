// Writing a tokenizer as the canonical tokenizer.json: the same tokenizer gives the same bytes, whatever file it came
// from, so that its SHA-256 is its identity. Hugging Face tokenizers loads it; tokenizer_parse_json() reads back the
// same encoder. A vocabulary ordered by score also writes its merges for Hugging Face, and its scores under a key of
// our own that others ignore.
#include "model/tokenizer_int.h"

#include "base/hash.h"
#include "base/json.h"
#include "base/mem.h"

#include <string.h>

static const char mark[] = "\xe2\x96\x81"; // U+2581, SentencePiece's blank

static json_t *piece_json(const struct tokenizer *tk, int32_t id)
{
    size_t size;
    const char *piece = piece_set_get(&tk->pieces, id, &size);
    return json_stringn(piece, size);
}

static json_t *typed(const char *type)
{
    return json_pack("{s:s}", "type", type);
}

// One step stands alone, several in a Sequence, none is null. Takes `steps`.
static json_t *sequence(json_t *steps, const char *list)
{
    size_t count = json_array_size(steps);
    if (count > 1)
        return json_pack("{s:s, s:o}", "type", "Sequence", list, steps);
    json_t *only = count == 1 ? json_incref(json_array_get(steps, 0)) : json_null();
    json_decref(steps);
    return only;
}

static json_t *added_json(const struct tokenizer *tk)
{
    json_t *list = json_array();
    for (uint32_t id = 0; id < tk->size; id++) {
        if (!(tk->flags[id] & PIECE_ADDED))
            continue;
        const struct added_token *added = tk->added;
        while (added->id != (int32_t)id)
            added++;
        json_array_append_new(list, json_pack("{s:i, s:o, s:b, s:b, s:b, s:b, s:b}", "id", (int)id, "content",
                                              piece_json(tk, (int32_t)id), "single_word", added->single_word, "lstrip",
                                              added->lstrip, "rstrip", added->rstrip, "normalized", added->normalized,
                                              "special", added->special));
    }
    return list;
}

static json_t *replace_json(const char *from, const char *to)
{
    return json_pack("{s:s, s:{s:s}, s:s}", "type", "Replace", "pattern", "String", from, "content", to);
}

static json_t *normalizer_json(const struct tokenizer *tk)
{
    json_t *steps = json_array();
    for (size_t i = 0; i < tk->normal_count; i++) {
        const struct normal_step *step = &tk->normals[i];
        if (step->kind == NORMAL_PREPEND)
            json_array_append_new(
                steps, json_pack("{s:s, s:s}", "type", "Prepend", "prepend", tk->score_order ? mark : step->to));
        else if (step->kind == NORMAL_REPLACE)
            json_array_append_new(steps, replace_json(step->from, step->to));
        else
            json_array_append_new(steps, typed(step->kind == NORMAL_NFC ? "NFC" : "NFD"));
    }
    if (tk->score_order)
        json_array_append_new(steps, replace_json(" ", mark));
    return sequence(steps, "normalizers");
}

static json_t *byte_level_json(bool prefix, bool use_regex)
{
    return json_pack("{s:s, s:b, s:b, s:b}", "type", "ByteLevel", "add_prefix_space", prefix, "trim_offsets", 1,
                     "use_regex", use_regex);
}

static json_t *metaspace_json(const char *replacement, enum split_prepend prepend, bool split)
{
    static const char *const schemes[] = {"never", "first", "always"};
    return json_pack("{s:s, s:s, s:s, s:b}", "type", "Metaspace", "replacement", replacement, "prepend_scheme",
                     schemes[prepend], "split", split);
}

static json_t *split_json(const struct split_step *step)
{
    static const char *const names[] = {"Isolated", "Removed", "MergedWithPrevious", "MergedWithNext", "Contiguous"};
    switch (step->kind) {
    case SPLIT_BYTE_LEVEL:
        return byte_level_json(step->prepend != PREPEND_NEVER, step->use_regex);
    case SPLIT_METASPACE:
        return metaspace_json(step->pattern, step->prepend, step->split);
    case SPLIT_REGEX:
    case SPLIT_STRING:
        break;
    }
    return json_pack("{s:s, s:{s:s}, s:s, s:b}", "type", "Split", "pattern",
                     step->kind == SPLIT_REGEX ? "Regex" : "String", step->pattern, "behavior", names[step->behavior],
                     "invert", step->invert);
}

static json_t *pre_tokenizer_json(const struct tokenizer *tk)
{
    json_t *steps = json_array();
    for (size_t i = 0; i < tk->split_count; i++)
        json_array_append_new(steps, split_json(&tk->splits[i]));
    return sequence(steps, "pretokenizers");
}

static json_t *post_processor_json(const struct tokenizer *tk)
{
    if (!tk->adds_bos)
        return tk->byte_level ? byte_level_json(true, true) : json_null();
    json_t *bos = piece_json(tk, tk->bos);
    const char *name = json_string_value(bos);
    json_t *json =
        json_pack("{s:s, s:[{s:{s:O, s:i}}, {s:{s:s, s:i}}],"
                  " s:[{s:{s:O, s:i}}, {s:{s:s, s:i}}, {s:{s:O, s:i}}, {s:{s:s, s:i}}], s:{}}",
                  "type", "TemplateProcessing", "single", "SpecialToken", "id", bos, "type_id", 0, "Sequence", "id",
                  "A", "type_id", 0, "pair", "SpecialToken", "id", bos, "type_id", 0, "Sequence", "id", "A", "type_id",
                  0, "SpecialToken", "id", bos, "type_id", 1, "Sequence", "id", "B", "type_id", 1, "special_tokens");
    json_object_set_new(json_object_get(json, "special_tokens"), name,
                        json_pack("{s:O, s:[i], s:[O]}", "id", bos, "ids", (int)tk->bos, "tokens", bos));
    json_decref(bos);
    return json;
}

static json_t *decoder_json(const struct tokenizer *tk)
{
    if (tk->byte_level)
        return byte_level_json(true, true);
    json_t *steps = json_array();
    if (tk->decode_blank)
        json_array_append_new(steps, replace_json(mark, " "));
    if (tk->byte_fallback)
        json_array_append_new(steps, typed("ByteFallback"));
    json_array_append_new(steps, typed("Fuse"));
    if (tk->decode_strip)
        json_array_append_new(
            steps, json_pack("{s:s, s:s, s:i, s:i}", "type", "Strip", "content", " ", "start", 1, "stop", 0));
    return sequence(steps, "decoders");
}

static json_t *merges_json(const struct tokenizer *tk)
{
    json_t *list = json_array();
    for (size_t i = 0; i < tk->merge_count; i++) {
        size_t left_size, right_size;
        const char *left = piece_set_get(&tk->pieces, tk->merges[i].left, &left_size);
        const char *right = piece_set_get(&tk->pieces, tk->merges[i].right, &right_size);
        if (memchr(left, ' ', left_size) || memchr(right, ' ', right_size)) {
            json_array_append_new(
                list, json_pack("[o, o]", piece_json(tk, tk->merges[i].left), piece_json(tk, tk->merges[i].right)));
            continue;
        }
        struct bg_str text = {0};
        bg_str_add_bytes(&text, left, left_size);
        bg_str_add_bytes(&text, " ", 1);
        bg_str_add_bytes(&text, right, right_size);
        json_array_append_new(list, json_stringn(text.data, text.size));
        bg_str_fini(&text);
    }
    return list;
}

static json_t *model_json(const struct tokenizer *tk)
{
    json_t *vocab = json_object();
    for (uint32_t id = 0; id < tk->size; id++) {
        size_t size;
        const char *piece = piece_set_get(&tk->pieces, (int32_t)id, &size);
        if (tk->flags[id] & PIECE_MODEL)
            json_object_setn_new(vocab, piece, size, json_integer(id));
    }
    json_t *model =
        json_pack("{s:s, s:n, s:o, s:n, s:n, s:b, s:b, s:b, s:o, s:o}", "type", "BPE", "dropout", "unk_token",
                  tk->unk >= 0 ? piece_json(tk, tk->unk) : json_null(), "continuing_subword_prefix",
                  "end_of_word_suffix", "fuse_unk", tk->fuse_unk, "byte_fallback", tk->byte_fallback, "ignore_merges",
                  tk->ignore_merges, "vocab", vocab, "merges", merges_json(tk));
    if (tk->score_order) {
        json_t *scores = json_array();
        for (uint32_t id = 0; id < tk->size; id++)
            json_array_append_new(scores, json_real((double)tk->scores[id]));
        json_object_set_new(model, "brigade_scores", scores);
    }
    return model;
}

char *tokenizer_json_text(const struct tokenizer *tk, size_t *size)
{
    json_t *root = json_pack("{s:s, s:n, s:n, s:o, s:o, s:o, s:o, s:o, s:o}", "version", "1.0", "truncation", "padding",
                             "added_tokens", added_json(tk), "normalizer", normalizer_json(tk), "pre_tokenizer",
                             pre_tokenizer_json(tk), "post_processor", post_processor_json(tk), "decoder",
                             decoder_json(tk), "model", model_json(tk));
    char *text = bg_json_text(root, JSON_INDENT(2));
    json_decref(root);
    *size = strlen(text);
    return text;
}

void tokenizer_sha256(const struct tokenizer *tk, char hex[65])
{
    size_t size;
    char *text = tokenizer_json_text(tk, &size);
    bg_sha256_hex(text, size, hex);
    bg_free(text);
}

static bg_status write_in(struct bg_env *env, const char *directory, const char *name, const char *text,
                          struct bg_error *err)
{
    char *path = bg_format("%s/%s", directory, name);
    bg_status status = env_write_file(env, path, text, strlen(text), err);
    bg_free(path);
    return status;
}

bg_status tokenizer_save(struct bg_env *env, const struct tokenizer *tk, const char *directory, struct bg_error *err)
{
    bg_status status = env->ops->make_directories(env, directory, err);
    if (status != BG_OK)
        return status;
    size_t size;
    char *text = tokenizer_json_text(tk, &size);
    status = write_in(env, directory, "tokenizer.json", text, err);
    bg_free(text);
    if (status != BG_OK)
        return status;
    json_t *config = json_pack("{s:s, s:b, s:b}", "tokenizer_class", "PreTrainedTokenizerFast", "add_bos_token",
                               tk->adds_bos, "clean_up_tokenization_spaces", 0);
    const char *const keys[] = {"bos_token", "eos_token", "unk_token"};
    const int32_t ids[] = {tk->bos, tk->eos, tk->unk};
    for (size_t i = 0; i < 3 && tk->form != FORM_BYTES; i++)
        if (ids[i] >= 0)
            json_object_set_new(config, keys[i], piece_json(tk, ids[i]));
    text = bg_json_text(config, JSON_INDENT(2));
    json_decref(config);
    status = write_in(env, directory, "tokenizer_config.json", text, err);
    bg_free(text);
    return status;
}

size_t tokenizer_merge_count(const struct tokenizer *tk)
{
    return tk->form == FORM_BPE ? tk->merge_count : 0;
}

char *tokenizer_merge(const struct tokenizer *tk, size_t index)
{
    size_t left_size, right_size;
    const char *left = piece_set_get(&tk->pieces, tk->merges[index].left, &left_size);
    const char *right = piece_set_get(&tk->pieces, tk->merges[index].right, &right_size);
    return bg_format("%.*s %.*s", (int)left_size, left, (int)right_size, right);
}
