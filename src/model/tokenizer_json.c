// Reading Hugging Face's tokenizer.json: the vocabulary and merges of a BPE model in both spellings, and added tokens.
// The steps around the model are in tokenizer_json_steps.c. What is not supported is refused by name, never ignored:
// a step left out would give other ids without anyone noticing.
#include "model/tokenizer_int.h"

#include "base/json.h"
#include "base/mem.h"

#include <string.h>

// Our own addition to the model: scores by id, which make the merge order that of llama2.c's tokenizer.bin.
#define SCORES_KEY "brigade_scores"

static bg_status read_vocab(struct tokenizer *tk, const json_t *model, struct bg_error *err)
{
    json_t *vocab;
    bg_status status = bg_json_object(model, tk->name, "vocab", err, &vocab);
    if (status != BG_OK)
        return status;
    const char *piece;
    size_t size;
    json_t *id;
    json_object_keylen_foreach(vocab, piece, size, id)
    {
        if (status != BG_OK)
            break;
        if (!json_is_integer(id) || json_integer_value(id) < 0)
            status = bg_fail(err, BG_FORMAT, "%s: model.vocab['%.80s'] must be an id from 0 up", tk->name, piece);
        else
            status = tokenizer_add_piece(tk, (uint64_t)json_integer_value(id), piece, size, PIECE_MODEL, err);
    }
    return status;
}

static bg_status read_merge(struct tokenizer *tk, const json_t *merge, size_t index, struct bg_error *err)
{
    static const char where[] = "model.merges";
    if (json_is_string(merge)) {
        const char *text = json_string_value(merge);
        size_t size = json_string_length(merge);
        const char *blank = memchr(text, ' ', size);
        size_t left = blank ? (size_t)(blank - text) : 0;
        if (blank && !memchr(blank + 1, ' ', size - left - 1))
            return tokenizer_add_merge(tk, text, left, blank + 1, size - left - 1, where, index, err);
    } else if (json_array_size(merge) == 2) {
        const json_t *left = json_array_get(merge, 0), *right = json_array_get(merge, 1);
        if (json_is_string(left) && json_is_string(right))
            return tokenizer_add_merge(tk, json_string_value(left), json_string_length(left), json_string_value(right),
                                       json_string_length(right), where, index, err);
    }
    return bg_fail(err, BG_FORMAT, "%s: model.merges[%zu] must be \"left right\" or [\"left\", \"right\"]", tk->name,
                   index);
}

static bg_status read_merges(struct tokenizer *tk, const json_t *model, struct bg_error *err)
{
    json_t *merges;
    bg_status status = bg_json_array(model, tk->name, "merges", err, &merges);
    for (size_t i = 0; status == BG_OK && i < json_array_size(merges); i++)
        status = read_merge(tk, json_array_get(merges, i), i, err);
    return status;
}

static bg_status read_scores(struct tokenizer *tk, const json_t *model, struct bg_error *err)
{
    json_t *scores;
    bg_status status = bg_json_array(model, tk->name, SCORES_KEY, err, &scores);
    if (status != BG_OK)
        return status;
    if (json_array_size(scores) != tk->pieces.count)
        return bg_fail(err, BG_FORMAT, "%s: model." SCORES_KEY " has %zu numbers for %u tokens", tk->name,
                       json_array_size(scores), tk->pieces.count);
    tk->scores = bg_alloc_array(tk->pieces.count, sizeof *tk->scores);
    for (uint32_t id = 0; id < tk->pieces.count; id++) {
        const json_t *score = json_array_get(scores, id);
        double value = json_number_value(score);
        if (!json_is_number(score) || !(value > -3e38 && value < 3e38))
            return bg_fail(err, BG_FORMAT, "%s: model." SCORES_KEY "[%u] must be a number", tk->name, id);
        tk->scores[id] = (float)value;
    }
    tk->score_order = true;
    return BG_OK;
}

static bg_status read_flag(const struct tokenizer *tk, const json_t *object, const char *key, struct bg_error *err,
                           bool *value)
{
    return bg_json_has(object, key) ? bg_json_boolean(object, tk->name, key, err, value) : BG_OK;
}

// Options of the model that would change the ids and are not supported.
static bg_status refuse_options(const struct tokenizer *tk, const json_t *model, struct bg_error *err)
{
    static const char *const text_keys[] = {"continuing_subword_prefix", "end_of_word_suffix"};
    for (size_t i = 0; i < 2; i++) {
        const json_t *value = json_object_get(model, text_keys[i]);
        if (value && !json_is_null(value) && json_string_length(value) > 0)
            return bg_fail(err, BG_UNSUPPORTED, "%s: model.%s is not supported, expected null", tk->name, text_keys[i]);
    }
    const json_t *dropout = json_object_get(model, "dropout");
    if (dropout && !json_is_null(dropout) && json_number_value(dropout) != 0.0)
        return bg_fail(err, BG_UNSUPPORTED, "%s: model.dropout would make ids random, expected null", tk->name);
    return BG_OK;
}

static bg_status read_model(struct tokenizer *tk, const json_t *root, struct bg_error *err)
{
    json_t *model;
    bg_status status = bg_json_object(root, tk->name, "model", err, &model);
    if (status != BG_OK)
        return status;
    const char *type = json_string_value(json_object_get(model, "type"));
    if (type && strcmp(type, "BPE") != 0)
        return bg_fail(err, BG_UNSUPPORTED, "%s: model.type is %.40s, expected BPE", tk->name, type);
    size_t tokens =
        json_object_size(json_object_get(model, "vocab")) + json_array_size(json_object_get(root, "added_tokens"));
    tk->id_limit = 8 * (uint64_t)tokens + 4096;
    if ((status = refuse_options(tk, model, err)) != BG_OK ||
        (status = read_flag(tk, model, "byte_fallback", err, &tk->byte_fallback)) != BG_OK ||
        (status = read_flag(tk, model, "fuse_unk", err, &tk->fuse_unk)) != BG_OK ||
        (status = read_flag(tk, model, "ignore_merges", err, &tk->ignore_merges)) != BG_OK ||
        (status = read_vocab(tk, model, err)) != BG_OK)
        return status;
    const json_t *unk = json_object_get(model, "unk_token");
    if (json_is_string(unk)) {
        tk->unk = piece_set_find(&tk->pieces, json_string_value(unk), json_string_length(unk));
        if (tk->unk < 0)
            return bg_fail(err, BG_FORMAT, "%s: model.unk_token '%.80s' is not in the vocabulary", tk->name,
                           json_string_value(unk));
    }
    return BG_OK;
}

static bg_status read_added(struct tokenizer *tk, const json_t *root, struct bg_error *err)
{
    if (!bg_json_has(root, "added_tokens"))
        return BG_OK;
    json_t *list;
    bg_status status = bg_json_array(root, tk->name, "added_tokens", err, &list);
    for (size_t i = 0; status == BG_OK && i < json_array_size(list); i++) {
        const json_t *item = json_array_get(list, i);
        const json_t *content = json_object_get(item, "content"), *id = json_object_get(item, "id");
        if (!json_is_string(content) || !json_is_integer(id) || json_integer_value(id) < 0 ||
            json_integer_value(id) > INT32_MAX)
            return bg_fail(err, BG_FORMAT, "%s: added_tokens[%zu] must have an id and its content", tk->name, i);
        struct added_token token = {.id = (int32_t)json_integer_value(id),
                                    .content = (char *)(uintptr_t)json_string_value(content),
                                    .content_size = json_string_length(content)};
        token.normalized = !json_is_true(json_object_get(item, "special"));
        if ((status = read_flag(tk, item, "special", err, &token.special)) == BG_OK &&
            (status = read_flag(tk, item, "lstrip", err, &token.lstrip)) == BG_OK &&
            (status = read_flag(tk, item, "rstrip", err, &token.rstrip)) == BG_OK &&
            (status = read_flag(tk, item, "single_word", err, &token.single_word)) == BG_OK &&
            (status = read_flag(tk, item, "normalized", err, &token.normalized)) == BG_OK)
            status = tokenizer_add_added(tk, &token, err);
    }
    return status;
}

// A score-ordered vocabulary compares plain text: blanks are blanks, and only the leading one is added.
static bg_status use_scores(struct tokenizer *tk, const json_t *model, struct bg_error *err)
{
    if (!bg_json_has(model, SCORES_KEY))
        return read_merges(tk, model, err);
    bool prefix = tk->normal_count > 0 && tk->normals[0].kind == NORMAL_PREPEND;
    tokenizer_clear_normals(tk);
    if (prefix)
        tokenizer_add_normal(tk, NORMAL_PREPEND, "", " ");
    if (tk->split_count > 0 || tk->byte_level || !tk->byte_fallback || !tk->decode_blank)
        return bg_fail(err, BG_FORMAT, "%s: model." SCORES_KEY " goes with a SentencePiece vocabulary only", tk->name);
    return read_scores(tk, model, err);
}

bg_status tokenizer_parse_json(const char *bytes, size_t size, const char *name, struct bg_error *err,
                               struct tokenizer **tokenizer)
{
    json_t *root;
    bg_status status = bg_json_parse(name, bytes, size, err, &root);
    if (status != BG_OK)
        return status;
    struct tokenizer *tk = tokenizer_create(name);
    if ((status = read_model(tk, root, err)) == BG_OK && (status = read_added(tk, root, err)) == BG_OK &&
        (status = tokenizer_read_normalizer(tk, json_object_get(root, "normalizer"), err)) == BG_OK &&
        (status = tokenizer_read_pre_tokenizer(tk, json_object_get(root, "pre_tokenizer"), err)) == BG_OK &&
        (status = tokenizer_read_decoder(tk, json_object_get(root, "decoder"), err)) == BG_OK &&
        (status = tokenizer_read_post_processor(tk, json_object_get(root, "post_processor"), err)) == BG_OK &&
        (status = use_scores(tk, json_object_get(root, "model"), err)) == BG_OK)
        status = tokenizer_finish(tk, err);
    json_decref(root);
    if (status != BG_OK) {
        tokenizer_destroy(tk);
        return status;
    }
    *tokenizer = tk;
    return BG_OK;
}

bg_status tokenizer_apply_config(struct tokenizer *tk, const char *bytes, size_t size, const char *name,
                                 struct bg_error *err)
{
    json_t *root;
    bg_status status = bg_json_parse(name, bytes, size, err, &root);
    if (status != BG_OK)
        return status;
    const char *const keys[] = {"bos_token", "eos_token"};
    int32_t *const ids[] = {&tk->bos, &tk->eos};
    for (size_t i = 0; i < 2; i++) {
        const json_t *token = json_object_get(root, keys[i]);
        if (json_is_object(token))
            token = json_object_get(token, "content");
        int32_t id = json_is_string(token)
                         ? piece_set_find(&tk->pieces, json_string_value(token), json_string_length(token))
                         : -1;
        if (id >= 0 && tk->form != FORM_BYTES)
            *ids[i] = id;
    }
    const json_t *add = json_object_get(root, "add_bos_token");
    if (json_is_boolean(add))
        tk->adds_bos = json_is_true(add) && tk->bos >= 0;
    json_decref(root);
    return BG_OK;
}
