// The smaller vocabulary files: vocab.json with merges.txt (GPT-2), .tiktoken (bytes in base64 and their rank), and
// llama2.c's tokenizer.bin (scores and pieces).
//
// tiktoken files carry no pattern and no special tokens: both follow from the number of ranks, for the vocabularies
// that are known by it; any other count gets GPT-2's pattern and <|endoftext|> behind the last rank.
#include "model/tokenizer_int.h"

#include "base/json.h"
#include "base/mem.h"

#include <string.h>

static bg_status finish(struct tokenizer *tk, bg_status status, struct bg_error *err, struct tokenizer **tokenizer)
{
    if (status == BG_OK)
        status = tokenizer_finish(tk, err);
    if (status != BG_OK)
        tokenizer_destroy(tk);
    else
        *tokenizer = tk;
    return status;
}

// ---- vocab.json and merges.txt

static bg_status read_merges_txt(struct tokenizer *tk, const char *text, size_t size, struct bg_error *err)
{
    size_t line = 0;
    for (size_t at = 0; at < size; line++) {
        const char *start = text + at;
        const char *newline = memchr(start, '\n', size - at);
        size_t length = newline ? (size_t)(newline - start) : size - at;
        at += length + 1;
        if (length > 0 && start[length - 1] == '\r')
            length--;
        if (length == 0 || (line == 0 && length > 8 && memcmp(start, "#version", 8) == 0))
            continue;
        const char *blank = memchr(start, ' ', length);
        size_t left = blank ? (size_t)(blank - start) : 0;
        if (!blank || memchr(blank + 1, ' ', length - left - 1))
            return bg_fail(err, BG_FORMAT, "%s: line %zu of the merges must be two pieces with a blank between",
                           tk->name, line + 1);
        bg_status status =
            tokenizer_add_merge(tk, start, left, blank + 1, length - left - 1, "merges line", line + 1, err);
        if (status != BG_OK)
            return status;
    }
    return BG_OK;
}

bg_status tokenizer_parse_vocab(const char *vocab, size_t vocab_size, const char *merges, size_t merges_size,
                                const char *name, struct bg_error *err, struct tokenizer **tokenizer)
{
    json_t *root;
    bg_status status = bg_json_parse(name, vocab, vocab_size, err, &root);
    if (status != BG_OK)
        return status;
    struct tokenizer *tk = tokenizer_create(name);
    if (!json_is_object(root))
        status = bg_fail(err, BG_FORMAT, "%s: must be an object of tokens and their ids", name);
    tk->id_limit = 8 * (uint64_t)json_object_size(root) + 4096;
    const char *piece;
    size_t size;
    json_t *id;
    json_object_keylen_foreach(root, piece, size, id)
    {
        if (status != BG_OK)
            break;
        if (!json_is_integer(id) || json_integer_value(id) < 0)
            status = bg_fail(err, BG_FORMAT, "%s: token '%.80s' must have an id from 0 up", name, piece);
        else
            status = tokenizer_add_piece(tk, (uint64_t)json_integer_value(id), piece, size, PIECE_MODEL, err);
    }
    json_decref(root);
    if (status == BG_OK)
        status = read_merges_txt(tk, merges, merges_size, err);
    int32_t end = tokenizer_find(tk, "<|endoftext|>");
    if (status == BG_OK && end >= 0)
        status = tokenizer_add_special(tk, (uint64_t)end, "<|endoftext|>", err);
    tokenizer_set_byte_level(tk, true);
    return finish(tk, status, err, tokenizer);
}

// ---- .tiktoken

struct special {
    uint32_t id;
    const char *content;
};

static const struct special cl100k_specials[] = {{100257, "<|endoftext|>"},   {100258, "<|fim_prefix|>"},
                                                 {100259, "<|fim_middle|>"},  {100260, "<|fim_suffix|>"},
                                                 {100276, "<|endofprompt|>"}, {0, NULL}};
static const struct special o200k_specials[] = {{199999, "<|endoftext|>"}, {200018, "<|endofprompt|>"}, {0, NULL}};
static const struct special llama3_specials[] = {{128000, "<|begin_of_text|>"},   {128001, "<|end_of_text|>"},
                                                 {128006, "<|start_header_id|>"}, {128007, "<|end_header_id|>"},
                                                 {128009, "<|eot_id|>"},          {0, NULL}};

static bg_status add_llama3_reserved(struct tokenizer *tk, struct bg_error *err)
{
    bg_status status = BG_OK;
    uint32_t number = 0;
    for (uint32_t id = 128002; status == BG_OK && id < 128256; id++) {
        if (piece_set_has(&tk->pieces, (int32_t)id))
            continue;
        char *content = bg_format("<|reserved_special_token_%u|>", number++);
        status = tokenizer_add_special(tk, id, content, err);
        bg_free(content);
    }
    return status;
}

static bg_status tiktoken_kind(struct tokenizer *tk, uint32_t ranks, struct bg_error *err)
{
    const struct special gpt2_specials[] = {{ranks, "<|endoftext|>"}, {0, NULL}};
    const struct special *specials = gpt2_specials;
    const char *pattern = NULL;
    if (ranks == 100256) {
        specials = cl100k_specials;
        pattern = split_pattern_llama3;
    } else if (ranks == 128000) {
        specials = llama3_specials;
        pattern = split_pattern_llama3;
        tk->ignore_merges = tk->adds_bos = true;
    } else if (ranks == 199998) {
        specials = o200k_specials;
        pattern = split_pattern_o200k;
    }
    if (pattern)
        (void)tokenizer_add_split(tk, SPLIT_REGEX, pattern);
    tokenizer_set_byte_level(tk, pattern == NULL);
    bg_status status = BG_OK;
    for (; status == BG_OK && specials->content; specials++)
        status = tokenizer_add_special(tk, specials->id, specials->content, err);
    return status == BG_OK && ranks == 128000 ? add_llama3_reserved(tk, err) : status;
}

static int base64_value(char c)
{
    static const char digits[] = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    const char *found = memchr(digits, c, 64);
    return found ? (int)(found - digits) : -1;
}

static bool base64_decode(const char *text, size_t size, struct bg_str *out)
{
    if (size == 0 || size % 4 != 0)
        return false;
    bool one = text[size - 1] == '=', two = one && text[size - 2] == '=';
    size_t padding = (size_t)one + (size_t)two;
    uint32_t bits = 0;
    for (size_t i = 0; i < size; i++) {
        int value = i + padding >= size ? 0 : base64_value(text[i]);
        if (value < 0)
            return false;
        bits = bits << 6 | (uint32_t)value;
        if (i % 4 == 3) {
            uint8_t bytes[3] = {(uint8_t)(bits >> 16), (uint8_t)(bits >> 8), (uint8_t)bits};
            bg_str_add_bytes(out, bytes, i + 1 == size ? 3 - padding : 3);
            bits = 0;
        }
    }
    return true;
}

static bg_status tiktoken_line(struct tokenizer *tk, const char *line, size_t length, size_t number,
                               struct bg_error *err)
{
    struct bg_str bytes = {0}, piece = {0};
    const char *blank = memchr(line, ' ', length);
    bool good = blank && base64_decode(line, (size_t)(blank - line), &bytes);
    const char *digit = blank ? blank + 1 : line, *end = line + length;
    uint64_t rank = 0;
    good = good && digit < end && end - digit < 10;
    for (; good && digit < end; digit++) {
        good = *digit >= '0' && *digit <= '9';
        rank = 10 * rank + (uint64_t)(*digit - '0');
    }
    bg_status status;
    if (good) {
        byte_spell(bytes.data, bytes.size, &piece);
        status = tokenizer_add_piece(tk, rank, piece.data, piece.size, PIECE_MODEL, err);
    } else {
        status = bg_fail(err, BG_FORMAT, "%s: line %zu must be base64, a blank and a rank", tk->name, number);
    }
    if (status == BG_OK) {
        piece_set_put(&tk->keys, (uint32_t)rank, bytes.data, bytes.size);
        (void)piece_set_index(&tk->keys, (uint32_t)rank);
        if (bytes.size == 1)
            tk->byte_ids[(uint8_t)bytes.data[0]] = (int32_t)rank;
    }
    bg_str_fini(&bytes);
    bg_str_fini(&piece);
    return status;
}

bg_status tokenizer_parse_tiktoken(const char *bytes, size_t size, const char *name, struct bg_error *err,
                                   struct tokenizer **tokenizer)
{
    struct tokenizer *tk = tokenizer_create(name);
    size_t lines = 1, number = 1;
    for (size_t i = 0; i < size; i++)
        lines += bytes[i] == '\n';
    tk->id_limit = 8 * (uint64_t)lines + 4096;
    tk->byte_level = true;
    memset(tk->byte_ids, 0xff, sizeof tk->byte_ids);
    bg_status status = BG_OK;
    for (size_t at = 0; status == BG_OK && at < size; number++) {
        const char *newline = memchr(bytes + at, '\n', size - at);
        size_t length = newline ? (size_t)(newline - bytes) - at : size - at;
        size_t text = length > 0 && bytes[at + length - 1] == '\r' ? length - 1 : length;
        if (text > 0)
            status = tiktoken_line(tk, bytes + at, text, number, err);
        at += length + 1;
    }
    uint32_t ranks = tk->pieces.count;
    if (status == BG_OK && ranks == 0)
        status = bg_fail(err, BG_FORMAT, "%s: holds no tokens", name);
    if (status == BG_OK) {
        uint32_t *rank_of = bg_alloc_array(ranks, sizeof *rank_of);
        for (uint32_t id = 0; id < ranks; id++)
            rank_of[id] = id;
        status = tokenizer_merges_by_rank(tk, rank_of, err);
        bg_free(rank_of);
        for (size_t i = 0; i < tk->merge_count; i++)
            tk->merges[i].rank = (uint32_t)i;
    }
    piece_set_fini(&tk->keys);
    tk->id_limit += 4096;
    if (status == BG_OK)
        status = tiktoken_kind(tk, ranks, err);
    return finish(tk, status, err, tokenizer);
}

// ---- llama2.c's tokenizer.bin: uint32 longest piece, then for every id: float score, int32 length, the piece

// llama2.c writes the two ends as "\n<s>\n" and "\n</s>\n", and blanks as blanks; here they get the usual spelling.
static void llama2c_spell(uint64_t id, const char *piece, size_t size, struct bg_str *out)
{
    if (id == 1 || id == 2) {
        bg_str_add(out, id == 1 ? "<s>" : "</s>");
        return;
    }
    for (size_t i = 0; i < size; i++)
        bg_str_add_bytes(out, piece[i] == ' ' ? "\xe2\x96\x81" : piece + i, piece[i] == ' ' ? 3 : 1);
}

static bg_status llama2c_piece(struct tokenizer *tk, uint64_t id, const char *bytes, size_t left, struct bg_error *err,
                               size_t *used)
{
    float score;
    int32_t length;
    if (left < 8)
        return bg_fail(err, BG_FORMAT, "%s: ends in the middle of token %llu", tk->name, (unsigned long long)id);
    memcpy(&score, bytes, 4);
    memcpy(&length, bytes + 4, 4);
    if (length < 0 || (size_t)length > left - 8)
        return bg_fail(err, BG_FORMAT, "%s: token %llu says it is %d bytes long, expected 0 to %zu", tk->name,
                       (unsigned long long)id, (int)length, left - 8);
    if (!(score > -3e38f && score < 3e38f))
        return bg_fail(err, BG_FORMAT, "%s: the score of token %llu is not a finite number", tk->name,
                       (unsigned long long)id);
    tk->scores[id] = score;
    *used = 8 + (size_t)length;
    if (length == 0 && id > 2)
        return BG_OK; // rows of a padded embedding
    struct bg_str piece = {0};
    llama2c_spell(id, bytes + 8, (size_t)length, &piece);
    bg_status status = id == 1 || id == 2 ? tokenizer_add_special(tk, id, bg_str_text(&piece), err)
                                          : tokenizer_add_piece(tk, id, piece.data, piece.size, PIECE_MODEL, err);
    bg_str_fini(&piece);
    return status;
}

bg_status tokenizer_parse_llama2c(const char *bytes, size_t size, const char *name, struct bg_error *err,
                                  struct tokenizer **tokenizer)
{
    struct tokenizer *tk = tokenizer_create(name);
    tk->byte_fallback = tk->score_order = tk->adds_bos = tk->decode_blank = true;
    tk->decode_strip = 1;
    tk->id_limit = size / 8 + 1;
    tk->scores = bg_alloc_array(tk->id_limit, sizeof *tk->scores);
    bg_status status = BG_OK;
    uint64_t id = 0;
    for (size_t at = 4, used = 0; status == BG_OK && at < size; at += used, id++)
        status = llama2c_piece(tk, id, bytes + at, size - at, err, &used);
    if (status == BG_OK && id < 3)
        status = bg_fail(err, BG_FORMAT, "%s: has %llu tokens, expected <unk>, <s>, </s> and more", name,
                         (unsigned long long)id);
    tk->unk = 0;
    tk->bos = 1;
    tk->eos = 2;
    tokenizer_add_normal(tk, NORMAL_PREPEND, "", " ");
    return finish(tk, status, err, tokenizer);
}
