// Putting a tokenizer together: loaders add pieces, special tokens, merges and steps; tokenizer_finish() checks them
// and derives everything that encoding and decoding look up.
//
// Invariants after tokenizer_finish(): every id in merges, added and byte_ids has a piece; no two pieces are spelled
// alike; a pair of ids has at most one merge; nothing changes any more, so threads may share the tokenizer.
#include "model/tokenizer_int.h"

#include "base/mem.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define PIECE_BYTES_MAX 65536                    // longest piece of any vocabulary
#define ORDER_BYTES_MAX 1024                     // longest piece whose merges are derived from an order
static const char blank_mark[] = "\xe2\x96\x81"; // U+2581, SentencePiece's blank

// ---- deriving what encoding and decoding need

static void set_text(struct tokenizer *tk, uint32_t id)
{
    size_t size;
    const char *piece = piece_set_get(&tk->pieces, (int32_t)id, &size);
    struct bg_str text = {0};
    int byte = piece_byte_value(piece, size);
    if ((tk->flags[id] & PIECE_CONTROL) && (int32_t)id != tk->unk) {
        size = 0;
    } else if (tk->byte_level && !(tk->flags[id] & PIECE_ADDED) && byte_unspell(piece, size, &text)) {
        size = 0;
    } else if (tk->byte_fallback && byte >= 0) {
        tk->flags[id] |= PIECE_BYTE;
        bg_str_reset(&text);
        bg_str_add_bytes(&text, &(char){(char)byte}, 1);
        size = 0;
    } else {
        bg_str_reset(&text);
        if (!tk->decode_blank || (tk->flags[id] & PIECE_ADDED)) {
            bg_str_add_bytes(&text, piece, size);
            size = 0;
        }
    }
    for (size_t i = 0; i < size;) {
        bool blank = size - i >= 3 && memcmp(piece + i, blank_mark, 3) == 0;
        bg_str_add_bytes(&text, blank ? " " : piece + i, 1);
        i += blank ? 3 : 1;
    }
    piece_set_put(&tk->texts, id, text.data, text.size);
    bg_str_fini(&text);
}

static void set_texts(struct tokenizer *tk)
{
    for (int b = 0; b < 256; b++)
        tk->byte_ids[b] = -1;
    for (uint32_t id = 0; id < tk->size; id++) {
        if (!piece_set_has(&tk->pieces, (int32_t)id))
            continue;
        set_text(tk, id);
        size_t size;
        const char *text = piece_set_get(&tk->texts, (int32_t)id, &size);
        bool symbol = tk->byte_level ? !(tk->flags[id] & PIECE_ADDED) && (tk->flags[id] & PIECE_MODEL)
                                     : (tk->flags[id] & PIECE_BYTE) != 0;
        if (symbol && size == 1)
            tk->byte_ids[(uint8_t)text[0]] = (int32_t)id;
        if (tk->ignore_merges && symbol && size > 0)
            (void)piece_set_index(&tk->texts, id);
    }
}

// Keys of a score-ordered vocabulary; byte pieces keep their spelling, control tokens have none.
static bg_status set_keys(struct tokenizer *tk, struct bg_error *err)
{
    for (uint32_t id = 0; id < tk->size; id++) {
        size_t size;
        const char *from = piece_set_get(tk->flags[id] & PIECE_BYTE ? &tk->pieces : &tk->texts, (int32_t)id, &size);
        if (size == 0 || (int32_t)id == tk->unk || (tk->flags[id] & (PIECE_CONTROL | PIECE_ADDED)))
            continue;
        piece_set_put(&tk->keys, id, from, size);
        int32_t same = piece_set_index(&tk->keys, id);
        if (same >= 0)
            return bg_fail(err, BG_FORMAT, "%s: tokens %d and %u are the same piece", tk->name, (int)same, id);
    }
    return BG_OK;
}

// A boundary that no merge can ever join is a place to cut the text without changing the result, unless whole words are
// looked up or unknown characters fuse.
static void set_joins(struct tokenizer *tk)
{
    bool unknowns = !tk->byte_fallback && !tk->byte_level;
    for (int b = 0; b < 256; b++)
        unknowns |= tk->byte_ids[b] < 0;
    tk->cuts = !tk->ignore_merges && !(tk->fuse_unk && unknowns);
    for (size_t i = 0; i < tk->merge_count; i++) {
        size_t left_size, right_size;
        const struct merge *m = &tk->merges[i];
        const struct piece_set *keys = tk->score_order ? &tk->keys : tk->byte_level ? &tk->texts : &tk->pieces;
        const char *left = piece_set_get(tk->flags[m->left] & PIECE_BYTE ? &tk->texts : keys, m->left, &left_size);
        const char *right = piece_set_get(tk->flags[m->right] & PIECE_BYTE ? &tk->texts : keys, m->right, &right_size);
        if (left_size == 0 || right_size == 0 || m->left == tk->unk || m->right == tk->unk) {
            memset(tk->joins, 0xff, sizeof tk->joins);
            return;
        }
        unsigned bit = (unsigned)(uint8_t)left[left_size - 1] << 8 | (uint8_t)right[0];
        tk->joins[bit / 8] |= (uint8_t)(1u << bit % 8);
    }
}

static int longest_first(const void *a, const void *b)
{
    const struct added_token *x = a, *y = b;
    if (x->match_size != y->match_size)
        return x->match_size > y->match_size ? -1 : 1;
    return x->id < y->id ? -1 : x->id > y->id;
}

static bg_status set_added(struct tokenizer *tk, struct bg_error *err)
{
    for (size_t i = 0; i < tk->added_count; i++) {
        struct added_token *added = &tk->added[i];
        struct bg_str match = {0};
        if (!added->normalized)
            bg_str_add_bytes(&match, added->content, added->content_size);
        else if (!normal_run(tk->normals, tk->normal_count, added->content, added->content_size, &match))
            bg_str_reset(&match);
        added->match_size = match.size;
        added->match = bg_str_take(&match);
        if (added->match_size == 0)
            return bg_fail(err, BG_FORMAT, "%s: added token %d cannot be normalized", tk->name, (int)added->id);
        tk->added_first[(uint8_t)added->match[0]] = 1;
    }
    if (tk->added_count > 1)
        qsort(tk->added, tk->added_count, sizeof *tk->added, longest_first);
    return BG_OK;
}

static bool is_bytes_form(const struct tokenizer *tk)
{
    bool plain = tk->byte_level && tk->size == 256 && tk->merge_count == 0 && tk->normal_count == 0 &&
                 tk->added_count == 0 && tk->split_count == 1 && !tk->splits[0].use_regex &&
                 tk->splits[0].prepend == PREPEND_NEVER;
    for (int b = 0; plain && b < 256; b++)
        plain = tk->byte_ids[b] == b;
    return plain;
}

static void guess_ends(struct tokenizer *tk)
{
    static const char *const eos[] = {"<|endoftext|>", "<|end_of_text|>", "</s>", "<eos>", "<|im_end|>"};
    static const char *const bos[] = {"<s>", "<|begin_of_text|>", "<bos>", "<|endoftext|>"};
    for (size_t i = 0; tk->eos < 0 && i < sizeof eos / sizeof *eos; i++)
        tk->eos = tokenizer_find(tk, eos[i]);
    for (size_t i = 0; tk->bos < 0 && i < sizeof bos / sizeof *bos; i++)
        tk->bos = tokenizer_find(tk, bos[i]);
}

// What nobody wrote down: the earlier a piece is made, the higher its score; then what no merge makes.
static void set_scores(struct tokenizer *tk)
{
    tk->scores = bg_alloc_array(tk->size, sizeof *tk->scores);
    for (size_t i = tk->merge_count; i-- > 0;)
        tk->scores[tk->merges[i].result] = -1.0f - (float)i;
    float next = -1.0f - (float)tk->merge_count;
    for (uint32_t id = 0; id < tk->size; id++)
        if (tk->scores[id] == 0.0f && !(tk->flags[id] & (PIECE_BYTE | PIECE_CONTROL)) && (int32_t)id != tk->unk)
            tk->scores[id] = next--;
}

bg_status tokenizer_finish(struct tokenizer *tk, struct bg_error *err)
{
    tk->size = tk->pieces.count;
    if (tk->size == 0)
        return bg_fail(err, BG_FORMAT, "%s: the vocabulary is empty", tk->name);
    if (tk->splits && tk->byte_level && tk->splits[tk->split_count - 1].kind != SPLIT_BYTE_LEVEL)
        return bg_fail(err, BG_UNSUPPORTED, "%s: pre_tokenizer: ByteLevel must be the last step", tk->name);
    set_texts(tk);
    bg_status status = BG_OK;
    for (size_t i = 0; i < tk->split_count; i++) {
        char where[512];
        (void)snprintf(where, sizeof where, "%.400s: pre_tokenizer step %zu", tk->name, i);
        status = split_step_init(&tk->splits[i], where, err);
        if (status != BG_OK)
            return status;
    }
    if (tk->score_order) {
        status = set_keys(tk, err);
        if (status == BG_OK)
            status = tokenizer_merges_by_score(tk, err);
        if (status != BG_OK)
            return status;
    }
    for (size_t i = 0; i < tk->merge_count; i++)
        if (!pair_table_add(&tk->pairs, &tk->merges[i]) && !tk->score_order)
            return bg_fail(err, BG_FORMAT, "%s: merge %zu is listed twice", tk->name, i);
    set_joins(tk);
    status = set_added(tk, err);
    if (status != BG_OK)
        return status;
    if (is_bytes_form(tk)) {
        tk->form = FORM_BYTES;
        tk->eos = 0;
        return BG_OK;
    }
    tk->form = tk->byte_level || !tk->byte_fallback ? FORM_BPE : FORM_SENTENCEPIECE;
    guess_ends(tk);
    if (tk->adds_bos && tk->bos < 0)
        return bg_fail(err, BG_FORMAT, "%s: a text is to start with a token that the vocabulary does not have",
                       tk->name);
    if (tk->form == FORM_SENTENCEPIECE && !tk->scores)
        set_scores(tk);
    return BG_OK;
}

// ---- what loaders add

struct tokenizer *tokenizer_create(const char *name)
{
    struct tokenizer *tk = bg_alloc(sizeof *tk);
    tk->name = bg_strdup(name);
    tk->bos = tk->eos = tk->unk = -1;
    return tk;
}

int32_t tokenizer_find(const struct tokenizer *tk, const char *piece)
{
    return piece_set_find(&tk->pieces, piece, strlen(piece));
}

static void set_flag(struct tokenizer *tk, uint32_t id, unsigned flags)
{
    if (id >= tk->flag_capacity) {
        size_t capacity = tk->flag_capacity ? tk->flag_capacity : 256;
        while (capacity <= id)
            capacity *= 2;
        tk->flags = bg_realloc_array(tk->flags, capacity, 1);
        memset(tk->flags + tk->flag_capacity, 0, capacity - tk->flag_capacity);
        tk->flag_capacity = capacity;
    }
    tk->flags[id] |= (uint8_t)flags;
}

bg_status tokenizer_add_piece(struct tokenizer *tk, uint64_t id, const char *piece, size_t size, unsigned flags,
                              struct bg_error *err)
{
    if (id >= tk->id_limit)
        return bg_fail(err, BG_FORMAT,
                       "%s: token '%.*s' has id %llu, expected less than %llu for a vocabulary this size", tk->name,
                       (int)(size < 80 ? size : 80), piece, (unsigned long long)id, (unsigned long long)tk->id_limit);
    if (size > PIECE_BYTES_MAX)
        return bg_fail(err, BG_FORMAT, "%s: token %llu is %zu bytes long, expected at most %d", tk->name,
                       (unsigned long long)id, size, PIECE_BYTES_MAX);
    for (size_t i = 0, length; i < size; i += length)
        if ((length = utf8_length(piece + i, size - i)) == 0 || piece[i] == '\0')
            return bg_fail(err, BG_FORMAT, "%s: token %llu is not valid UTF-8, or holds a NUL", tk->name,
                           (unsigned long long)id);
    if (piece_set_has(&tk->pieces, (int32_t)id))
        return bg_fail(err, BG_FORMAT, "%s: id %llu is given to two tokens, the second is '%.*s'", tk->name,
                       (unsigned long long)id, (int)(size < 80 ? size : 80), piece);
    piece_set_put(&tk->pieces, (uint32_t)id, piece, size);
    int32_t same = piece_set_index(&tk->pieces, (uint32_t)id);
    if (same >= 0)
        return bg_fail(err, BG_FORMAT, "%s: tokens %d and %llu are the same piece '%.*s'", tk->name, (int)same,
                       (unsigned long long)id, (int)(size < 80 ? size : 80), piece);
    set_flag(tk, (uint32_t)id, flags);
    return BG_OK;
}

bg_status tokenizer_add_added(struct tokenizer *tk, const struct added_token *token, struct bg_error *err)
{
    if (token->content_size == 0)
        return bg_fail(err, BG_FORMAT, "%s: added token %d is empty", tk->name, (int)token->id);
    unsigned flags = PIECE_ADDED | (token->special ? PIECE_CONTROL : 0u);
    int32_t known = piece_set_find(&tk->pieces, token->content, token->content_size);
    if (known >= 0 && known != token->id)
        return bg_fail(err, BG_FORMAT, "%s: added token '%.80s' has id %d, but the vocabulary says %d", tk->name,
                       token->content, (int)token->id, (int)known);
    if (known >= 0) {
        if (tk->flags[known] & PIECE_ADDED)
            return bg_fail(err, BG_FORMAT, "%s: added token '%.80s' is listed twice", tk->name, token->content);
        set_flag(tk, (uint32_t)known, flags);
    } else {
        bg_status status =
            tokenizer_add_piece(tk, (uint64_t)token->id, token->content, token->content_size, flags, err);
        if (status != BG_OK)
            return status;
    }
    if ((tk->added_count & (tk->added_count - 1)) == 0)
        tk->added = bg_realloc_array(tk->added, tk->added_count ? 2 * tk->added_count : 1, sizeof *tk->added);
    struct added_token *copy = &tk->added[tk->added_count++];
    *copy = *token;
    copy->content = bg_alloc_array(token->content_size + 1, 1);
    memcpy(copy->content, token->content, token->content_size);
    copy->match = NULL;
    return BG_OK;
}

bg_status tokenizer_add_special(struct tokenizer *tk, uint64_t id, const char *content, struct bg_error *err)
{
    struct added_token token = {
        .id = (int32_t)id, .content = (char *)(uintptr_t)content, .content_size = strlen(content), .special = true};
    if (tokenizer_find(tk, content) < 0) {
        bg_status status = tokenizer_add_piece(tk, id, content, token.content_size, PIECE_MODEL, err);
        if (status != BG_OK)
            return status;
    }
    return tokenizer_add_added(tk, &token, err);
}

static void push_merge(struct tokenizer *tk, struct merge merge)
{
    if (tk->merge_count == tk->merge_capacity) {
        tk->merge_capacity = tk->merge_capacity ? 2 * tk->merge_capacity : 256;
        tk->merges = bg_realloc_array(tk->merges, tk->merge_capacity, sizeof *tk->merges);
    }
    tk->merges[tk->merge_count++] = merge;
}

bg_status tokenizer_add_merge(struct tokenizer *tk, const char *left, size_t left_size, const char *right,
                              size_t right_size, const char *where, size_t index, struct bg_error *err)
{
    if (left_size + right_size > PIECE_BYTES_MAX)
        return bg_fail(err, BG_FORMAT, "%s: %s[%zu] is longer than any token may be", tk->name, where, index);
    struct bg_str whole = {0};
    bg_str_add_bytes(&whole, left, left_size);
    bg_str_add_bytes(&whole, right, right_size);
    struct merge merge = {.left = piece_set_find(&tk->pieces, left, left_size),
                          .right = piece_set_find(&tk->pieces, right, right_size),
                          .result = piece_set_find(&tk->pieces, bg_str_text(&whole), whole.size),
                          .rank = (uint32_t)tk->merge_count};
    bg_str_fini(&whole);
    if (merge.left < 0 || merge.right < 0 || merge.result < 0) {
        const char *which = merge.left < 0 ? "left part" : merge.right < 0 ? "right part" : "result";
        return bg_fail(err, BG_FORMAT, "%s: %s[%zu] is '%.*s' '%.*s', but its %s is not in the vocabulary", tk->name,
                       where, index, (int)(left_size < 80 ? left_size : 80), left,
                       (int)(right_size < 80 ? right_size : 80), right, which);
    }
    push_merge(tk, merge);
    return BG_OK;
}

struct split_step *tokenizer_add_split(struct tokenizer *tk, enum split_kind kind, const char *pattern)
{
    tk->splits = bg_realloc_array(tk->splits, tk->split_count + 1, sizeof *tk->splits);
    struct split_step *step = &tk->splits[tk->split_count++];
    *step = (struct split_step){.kind = kind};
    if (pattern) {
        step->pattern = bg_strdup(pattern);
        step->pattern_size = strlen(pattern);
    }
    return step;
}

void tokenizer_set_byte_level(struct tokenizer *tk, bool use_regex)
{
    tk->byte_level = true;
    tokenizer_add_split(tk, SPLIT_BYTE_LEVEL, NULL)->use_regex = use_regex;
}

void tokenizer_add_normal(struct tokenizer *tk, enum normal_kind kind, const char *from, const char *to)
{
    tk->normals = bg_realloc_array(tk->normals, tk->normal_count + 1, sizeof *tk->normals);
    struct normal_step *step = &tk->normals[tk->normal_count++];
    *step = (struct normal_step){.kind = kind, .from = bg_strdup(from), .to = bg_strdup(to)};
    step->from_size = strlen(from);
    step->to_size = strlen(to);
}

void tokenizer_clear_normals(struct tokenizer *tk)
{
    for (size_t i = 0; i < tk->normal_count; i++) {
        bg_free(tk->normals[i].from);
        bg_free(tk->normals[i].to);
    }
    bg_free(tk->normals);
    tk->normals = NULL;
    tk->normal_count = 0;
}

// ---- merges from the order of pieces

// Symbols of a key as the encoder would start with them; 0 when it cannot.
static size_t key_symbols(const struct tokenizer *tk, const char *key, size_t size, struct merge_work *work)
{
    int32_t *ids = merge_work_ids(work, size);
    size_t count = 0;
    for (size_t i = 0; i < size;) {
        size_t length = 1;
        if (tk->byte_level) {
            ids[count] = tk->byte_ids[(uint8_t)key[i]];
        } else {
            while (i + length < size && length < 4 && ((uint8_t)key[i + length] & 0xc0) == 0x80)
                length++;
            ids[count] = piece_set_find(&tk->keys, key + i, length);
        }
        if (ids[count++] < 0)
            return 0;
        i += length;
    }
    return count;
}

static bg_status add_all_splits(const struct tokenizer *tk, int32_t id, uint32_t rank, struct pair_table *pairs,
                                struct bg_error *err)
{
    size_t size;
    const char *key = piece_set_get(&tk->keys, id, &size);
    if (size > ORDER_BYTES_MAX)
        return bg_fail(err, BG_UNSUPPORTED, "%s: token %d is %zu bytes long, expected at most %d", tk->name, (int)id,
                       size, ORDER_BYTES_MAX);
    for (size_t cut = 1; cut < size; cut++) {
        int32_t left = piece_set_find(&tk->keys, key, cut);
        int32_t right = left < 0 ? -1 : piece_set_find(&tk->keys, key + cut, size - cut);
        if (right >= 0)
            (void)pair_table_add(pairs, &(struct merge){left, right, id, rank});
    }
    return BG_OK;
}

static int by_rank(const void *a, const void *b)
{
    const struct merge *x = a, *y = b;
    if (x->rank != y->rank)
        return x->rank < y->rank ? -1 : 1;
    return x->result < y->result ? -1 : x->result > y->result;
}

bg_status tokenizer_merges_by_rank(struct tokenizer *tk, const uint32_t *rank_of, struct bg_error *err)
{
    struct pair_table pairs = {0};
    struct merge_work work = {0};
    bg_status status = BG_OK;
    for (uint32_t id = 0; status == BG_OK && id < tk->keys.count; id++)
        if (piece_set_has(&tk->keys, (int32_t)id) && rank_of[id] != UINT32_MAX)
            status = add_all_splits(tk, (int32_t)id, rank_of[id], &pairs, err);
    for (uint32_t id = 0; status == BG_OK && id < tk->keys.count; id++) {
        size_t size;
        const char *key = piece_set_get(&tk->keys, (int32_t)id, &size);
        size_t count = key_symbols(tk, key, size, &work);
        struct merge last = {.result = -1};
        if (count > 1 && merge_run(&pairs, &work, count, &last) == 1 && last.result == (int32_t)id)
            push_merge(tk, last);
    }
    if (tk->merge_count > 1)
        qsort(tk->merges, tk->merge_count, sizeof *tk->merges, by_rank);
    merge_work_fini(&work);
    pair_table_fini(&pairs);
    return status;
}

struct scored {
    float score;
    uint32_t id;
};

static int by_score(const void *a, const void *b)
{
    const struct scored *x = a, *y = b;
    if (x->score != y->score)
        return x->score > y->score ? -1 : 1;
    return x->id < y->id ? -1 : x->id > y->id;
}

bg_status tokenizer_merges_by_score(struct tokenizer *tk, struct bg_error *err)
{
    struct scored *order = bg_alloc_array(tk->size, sizeof *order);
    uint32_t *rank_of = bg_alloc_array(tk->size, sizeof *rank_of);
    for (uint32_t id = 0; id < tk->size; id++)
        order[id] = (struct scored){tk->scores[id], id};
    qsort(order, tk->size, sizeof *order, by_score);
    uint32_t rank = 0;
    for (uint32_t i = 0; i < tk->size; i++) {
        if (i > 0 && order[i].score != order[i - 1].score)
            rank++;
        rank_of[order[i].id] = order[i].score > -1e10f ? rank : UINT32_MAX; // below: llama2.c never merges
    }
    bg_status status = tokenizer_merges_by_rank(tk, rank_of, err);
    bg_free(order);
    bg_free(rank_of);
    return status;
}
