// Text to ids: added tokens are taken out first, the rest is normalized, cut into words, and every word is merged.
//
// All state of a call lives in `struct encoder`, so threads may encode with one tokenizer. No byte is ever dropped:
// what the vocabulary cannot spell becomes its unknown token or is an error that names the byte.
#include "model/tokenizer_int.h"

#include "base/mem.h"

#include <string.h>

#define WORD_BYTES_MAX (UINT32_MAX / 8)

struct encoder {
    const struct tokenizer *tk;
    struct token_list *list;
    struct splitter splitter;
    struct merge_work work;
    bool special;
};

static void push_id(struct token_list *list, int32_t id)
{
    if (list->count == list->capacity) {
        list->capacity = list->capacity ? 2 * list->capacity : 64;
        list->ids = bg_realloc_array(list->ids, list->capacity, sizeof *list->ids);
    }
    list->ids[list->count++] = id;
}

void token_list_fini(struct token_list *list)
{
    bg_free(list->ids);
    *list = (struct token_list){0};
}

// ---- one word

static bg_status no_token(const struct tokenizer *tk, uint8_t byte, struct bg_error *err)
{
    return bg_fail(err, BG_UNSUPPORTED, "%s: the vocabulary has no token for byte 0x%02X and no unknown token",
                   tk->name, byte);
}

// The symbols of a character that is not a piece itself: its bytes, or the unknown token.
static bg_status add_unknown(const struct tokenizer *tk, const char *text, size_t length, int32_t *ids, size_t *count,
                             struct bg_error *err)
{
    bool spelled = tk->byte_fallback;
    for (size_t i = 0; spelled && i < length; i++)
        spelled = tk->byte_ids[(uint8_t)text[i]] >= 0;
    for (size_t i = 0; spelled && i < length; i++)
        ids[(*count)++] = tk->byte_ids[(uint8_t)text[i]];
    if (spelled)
        return BG_OK;
    if (tk->unk < 0)
        return no_token(tk, (uint8_t)text[0], err);
    if (!tk->fuse_unk || *count == 0 || ids[*count - 1] != tk->unk)
        ids[(*count)++] = tk->unk;
    return BG_OK;
}

// llama2.c takes a byte and up to three continuation bytes for a character, valid or not.
static size_t symbol_length(const struct tokenizer *tk, const char *text, size_t size)
{
    size_t length = 1;
    if (!tk->score_order) {
        length = utf8_length(text, size);
        return length ? length : 1;
    }
    while (length < size && length < 4 && ((uint8_t)text[length] & 0xc0) == 0x80)
        length++;
    return length;
}

static bg_status byte_symbols(const struct tokenizer *tk, const char *word, size_t size, int32_t *ids, size_t *count,
                              struct bg_error *err)
{
    for (size_t i = 0; i < size; i++) {
        ids[*count] = tk->byte_ids[(uint8_t)word[i]];
        if (ids[*count] >= 0)
            ++*count;
        else if (tk->unk < 0)
            return no_token(tk, (uint8_t)word[i], err);
        else if (!tk->fuse_unk || *count == 0 || ids[*count - 1] != tk->unk)
            ids[(*count)++] = tk->unk;
    }
    return BG_OK;
}

static bg_status char_symbols(const struct tokenizer *tk, const char *word, size_t size, int32_t *ids, size_t *count,
                              struct bg_error *err)
{
    const struct piece_set *keys = tk->score_order ? &tk->keys : &tk->pieces;
    for (size_t i = 0; i < size;) {
        size_t length = symbol_length(tk, word + i, size - i);
        int32_t id = piece_set_find(keys, word + i, length);
        if (id >= 0 && (tk->flags[id] & (PIECE_MODEL | PIECE_BYTE)) != 0) {
            ids[(*count)++] = id;
        } else {
            bg_status status = add_unknown(tk, word + i, length, ids, count, err);
            if (status != BG_OK)
                return status;
        }
        i += length;
    }
    return BG_OK;
}

static bg_status encode_word(struct encoder *e, const char *word, size_t size, struct bg_error *err)
{
    const struct tokenizer *tk = e->tk;
    if (size > WORD_BYTES_MAX)
        return bg_fail(err, BG_UNSUPPORTED, "%s: a word of %zu bytes is too long to encode, cut the text", tk->name,
                       size);
    if (tk->ignore_merges) {
        int32_t whole = piece_set_find(tk->byte_level ? &tk->texts : &tk->pieces, word, size);
        if (whole >= 0 && (tk->flags[whole] & PIECE_MODEL)) {
            push_id(e->list, whole);
            return BG_OK;
        }
    }
    int32_t *ids = merge_work_ids(&e->work, size);
    size_t count = 0;
    bg_status status = tk->byte_level ? byte_symbols(tk, word, size, ids, &count, err)
                                      : char_symbols(tk, word, size, ids, &count, err);
    if (status != BG_OK)
        return status;
    count = merge_run(&tk->pairs, &e->work, count, NULL);
    for (size_t i = 0; i < count; i++)
        push_id(e->list, e->work.ids[i]);
    return BG_OK;
}

// Words of a vocabulary without word boundaries are whole texts: cut them where no merge can join.
static bg_status encode_long(void *arg, const char *word, size_t size, struct bg_error *err)
{
    struct encoder *e = arg;
    const struct tokenizer *tk = e->tk;
    size_t start = 0;
    for (size_t at = 1; tk->cuts && at < size; at++) {
        unsigned bit = (unsigned)(uint8_t)word[at - 1] << 8 | (uint8_t)word[at];
        bool inside = !tk->byte_level && ((uint8_t)word[at] & 0xc0) == 0x80;
        if (inside || (tk->joins[bit / 8] >> bit % 8 & 1))
            continue;
        bg_status status = encode_word(e, word + start, at - start, err);
        if (status != BG_OK)
            return status;
        start = at;
    }
    return encode_word(e, word + start, size - start, err);
}

// ---- added tokens

static bool is_word_byte(char c)
{
    return (uint8_t)c >= 0x80 || c == '_' || (c >= '0' && c <= '9') || ((c | 32) >= 'a' && (c | 32) <= 'z');
}

static bool is_blank(char c)
{
    return c == ' ' || (c >= '\t' && c <= '\r');
}

static bool added_matches(const struct encoder *e, const struct added_token *added, bool normalized, const char *text,
                          size_t size, size_t at)
{
    if (added->normalized != normalized || (added->special && !e->special) || size - at < added->match_size ||
        memcmp(text + at, added->match, added->match_size) != 0)
        return false;
    if (!added->single_word)
        return true;
    size_t end = at + added->match_size;
    return (at == 0 || !is_word_byte(text[at - 1])) && (end == size || !is_word_byte(text[end]));
}

// The first added token at or after `from`; NULL: none.
static const struct added_token *find_added(const struct encoder *e, bool normalized, const char *text, size_t size,
                                            size_t from, size_t *where)
{
    const struct tokenizer *tk = e->tk;
    for (size_t at = from; at < size && tk->added_count > 0; at++) {
        if (!tk->added_first[(uint8_t)text[at]])
            continue;
        for (size_t i = 0; i < tk->added_count; i++) {
            if (added_matches(e, &tk->added[i], normalized, text, size, at)) {
                *where = at;
                return &tk->added[i];
            }
        }
    }
    return NULL;
}

static bg_status encode_span(struct encoder *e, bool normalized, const char *text, size_t size, struct bg_error *err);

static bg_status encode_plain(struct encoder *e, bool normalized, const char *text, size_t size, struct bg_error *err)
{
    const struct tokenizer *tk = e->tk;
    if (size == 0)
        return BG_OK;
    if (normalized)
        return split_run(&e->splitter, text, size, err);
    if (tk->normal_count == 0)
        return encode_span(e, true, text, size, err);
    struct bg_str out = {0};
    bg_status status;
    if (normal_run(tk->normals, tk->normal_count, text, size, &out))
        status = encode_span(e, true, bg_str_text(&out), out.size, err);
    else
        status = bg_fail(err, BG_UNSUPPORTED,
                         "%s: the normalizer's replacements make the text thousands of times longer", tk->name);
    bg_str_fini(&out);
    return status;
}

// Cuts a text at its added tokens: those that match it as written, then those that match it normalized.
static bg_status encode_span(struct encoder *e, bool normalized, const char *text, size_t size, struct bg_error *err)
{
    size_t done = 0, where = 0;
    const struct added_token *added;
    while ((added = find_added(e, normalized, text, size, done, &where)) != NULL) {
        size_t start = where, end = where + added->match_size;
        while (added->lstrip && start > done && is_blank(text[start - 1]))
            start--;
        while (added->rstrip && end < size && is_blank(text[end]))
            end++;
        bg_status status = encode_plain(e, normalized, text + done, start - done, err);
        if (status != BG_OK)
            return status;
        push_id(e->list, added->id);
        e->splitter.first = false;
        done = end;
    }
    return encode_plain(e, normalized, text + done, size - done, err);
}

bg_status tokenizer_encode(const struct tokenizer *tk, const char *text, size_t size, bool special,
                           struct bg_error *err, struct token_list *list)
{
    struct encoder e = {.tk = tk, .list = list, .special = special};
    e.splitter = (struct splitter){
        .steps = tk->splits, .count = tk->split_count, .name = tk->name, .first = true, .fn = encode_long, .arg = &e};
    size_t before = list->count;
    bg_status status = encode_span(&e, false, text, size, err);
    if (status != BG_OK)
        list->count = before;
    merge_work_fini(&e.work);
    splitter_fini(&e.splitter);
    return status;
}
