// Tokenizers on small vocabularies whose ids can be worked out by hand: every file format, every step, saving and
// reading back, training against a naive trainer, any bytes as text, and files that lie.
#include "model/tokenizer_int.h"

#include "base/mem.h"
#include "os/live.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <cmocka.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

static struct bg_env *env;

// ---- helpers

static struct tokenizer *parse(const char *json)
{
    struct bg_error err = {0};
    struct tokenizer *tk;
    if (tokenizer_parse_json(json, strlen(json), "test.json", &err, &tk) != BG_OK)
        fail_msg("%s", err.text);
    return tk;
}

// A byte-level model: ids of bytes are their values, then one token a merge. Texts in JSON spelling; NULL: none.
static char *byte_level(const char *tokens, const char *merges, const char *top, const char *model)
{
    struct bg_str json = {0};
    bg_str_addf(&json, "{%s\"decoder\": {\"type\": \"ByteLevel\"}, \"model\": {\"type\": \"BPE\", %s\"vocab\": {",
                top ? top : "\"pre_tokenizer\": {\"type\": \"ByteLevel\", \"add_prefix_space\": false}, ",
                model ? model : "");
    for (int b = 0; b < 256; b++) {
        struct bg_str piece = {0};
        byte_spell(&(char){(char)b}, 1, &piece);
        const char *escape = b == '"' || b == '\\' ? "\\" : "";
        bg_str_addf(&json, "%s\"%s%s\": %d", b ? ", " : "", escape, piece.data, b);
        bg_str_fini(&piece);
    }
    bg_str_addf(&json, "%s%s}, \"merges\": [%s]}}", tokens ? ", " : "", tokens ? tokens : "", merges ? merges : "");
    return bg_str_take(&json);
}

static void check_ids(const struct tokenizer *tk, const char *text, bool special, const char *want)
{
    struct bg_error err = {0};
    struct token_list list = {0};
    struct bg_str ids = {0};
    if (tokenizer_encode(tk, text, strlen(text), special, &err, &list) != BG_OK)
        fail_msg("%s", err.text);
    for (size_t i = 0; i < list.count; i++)
        bg_str_addf(&ids, i ? " %d" : "%d", (int)list.ids[i]);
    assert_string_equal(bg_str_text(&ids), want);
    bg_str_fini(&ids);
    token_list_fini(&list);
}

static void check_decode(const struct tokenizer *tk, const char *text, size_t size, const char *want, size_t want_size)
{
    struct bg_error err = {0};
    struct token_list list = {0};
    struct bg_str out = {0};
    if (tokenizer_encode(tk, text, size, false, &err, &list) != BG_OK)
        fail_msg("%s", err.text);
    for (size_t i = 0; i < list.count; i++) {
        const char *bytes;
        size_t length;
        tokenizer_token_bytes(tk, i ? list.ids[i - 1] : -1, list.ids[i], &bytes, &length);
        bg_str_add_bytes(&out, bytes, length);
    }
    assert_int_equal(out.size, want_size);
    if (want_size > 0)
        assert_memory_equal(out.data, want, want_size);
    bg_str_fini(&out);
    token_list_fini(&list);
}

// Saved and read back: the same bytes again.
static struct tokenizer *reread(const struct tokenizer *tk)
{
    struct bg_error err = {0};
    struct tokenizer *again;
    size_t size, size_again;
    char *json = tokenizer_json_text(tk, &size);
    if (tokenizer_parse_json(json, size, "saved.json", &err, &again) != BG_OK)
        fail_msg("%s\n%s", err.text, json);
    char *json_again = tokenizer_json_text(again, &size_again);
    assert_string_equal(json, json_again);
    assert_string_equal(tokenizer_kind(tk), tokenizer_kind(again));
    assert_int_equal(tokenizer_size(tk), tokenizer_size(again));
    assert_int_equal(tokenizer_adds_bos(tk), tokenizer_adds_bos(again));
    bg_free(json);
    bg_free(json_again);
    return again;
}

static uint32_t random_next(uint32_t *state)
{
    *state = *state * 1664525u + 1013904223u;
    return *state >> 8;
}

// ---- kinds

static void bytes_are_their_values(void **state)
{
    (void)state;
    struct bg_error err;
    struct tokenizer *tk, *again;
    assert_int_equal(tokenizer_open(env, "bytes", &err, &tk), BG_OK);
    again = reread(tk);
    assert_string_equal(tokenizer_kind(again), "bytes");
    assert_int_equal(tokenizer_size(again), 256);
    assert_int_equal(tokenizer_eos(again), 0);
    assert_int_equal(tokenizer_bos(again), -1);
    assert_int_equal(tokenizer_merge_count(again), 0);
    char all[512];
    for (int i = 0; i < 512; i++)
        all[i] = (char)(i * 7);
    struct token_list list = {0};
    assert_int_equal(tokenizer_encode(again, all, sizeof all, true, &err, &list), BG_OK);
    assert_int_equal(list.count, sizeof all);
    for (int i = 0; i < 512; i++)
        assert_int_equal(list.ids[i], (uint8_t)all[i]);
    token_list_fini(&list);
    check_decode(again, all, sizeof all, all, sizeof all);
    tokenizer_destroy(again);
    tokenizer_destroy(tk);
}

static void merges_in_both_spellings(void **state)
{
    (void)state;
    static const char tokens[] = "\"he\": 256, \"ll\": 257, \"hell\": 258, \"hello\": 259, \"\\u0120w\": 260";
    char *a = byte_level(tokens, "\"h e\", \"l l\", \"he ll\", \"hell o\", \"\\u0120 w\"", NULL, NULL);
    char *b =
        byte_level(tokens, "[\"h\", \"e\"], [\"l\", \"l\"], [\"he\", \"ll\"], [\"hell\", \"o\"], [\"\\u0120\", \"w\"]",
                   NULL, NULL);
    struct tokenizer *x = parse(a), *y = parse(b), *z = reread(x);
    char hex[3][65];
    tokenizer_sha256(x, hex[0]);
    tokenizer_sha256(y, hex[1]);
    tokenizer_sha256(z, hex[2]);
    assert_string_equal(hex[0], hex[1]);
    assert_string_equal(hex[0], hex[2]);
    check_ids(y, "hello world", true, "259 260 111 114 108 100");
    check_ids(y, "helll", true, "258 108");
    check_ids(y, "", true, "");
    assert_string_equal(tokenizer_kind(y), "bpe");
    assert_int_equal(tokenizer_merge_count(y), 5);
    char *merge = tokenizer_merge(y, 4);
    assert_string_equal(merge, "\xc4\xa0 w");
    bg_free(merge);
    bg_free(a);
    bg_free(b);
    tokenizer_destroy(x);
    tokenizer_destroy(y);
    tokenizer_destroy(z);
}

static void added_tokens(void **state)
{
    (void)state;
    char *json = byte_level(
        NULL, NULL,
        "\"added_tokens\": ["
        "{\"id\": 256, \"content\": \"<s>\", \"special\": true},"
        "{\"id\": 257, \"content\": \"<s>x\", \"special\": true},"
        "{\"id\": 258, \"content\": \"ab\", \"special\": false},"
        "{\"id\": 259, \"content\": \"[L]\", \"special\": true, \"lstrip\": true, \"rstrip\": true},"
        "{\"id\": 300, \"content\": \"cd\", \"special\": false, \"single_word\": true}],"
        "\"post_processor\": {\"type\": \"TemplateProcessing\", \"single\": [{\"SpecialToken\": {\"id\": \"<s>\", "
        "\"type_id\": 0}}, {\"Sequence\": {\"id\": \"A\", \"type_id\": 0}}]},"
        "\"pre_tokenizer\": {\"type\": \"ByteLevel\", \"add_prefix_space\": false}, ",
        NULL);
    struct tokenizer *tk = parse(json), *again = reread(tk);
    for (int i = 0; i < 2; i++) {
        const struct tokenizer *t = i ? again : tk;
        check_ids(t, "a<s>b", true, "97 256 98");
        check_ids(t, "<s>x", true, "257"); // the longest
        check_ids(t, "<s>", false, "60 115 62");
        check_ids(t, "xaby", false, "120 258 121"); // not special: always
        check_ids(t, "a  [L] \nb", true, "97 259 98");
        check_ids(t, "cd cdx xcd", true, "300 32 99 100 120 32 120 99 100");
        assert_int_equal(tokenizer_size(t), 301);
        assert_int_equal(tokenizer_bos(t), 256);
        assert_true(tokenizer_adds_bos(t));
    }
    const char *bytes;
    size_t size;
    float score;
    enum token_kind kind;
    tokenizer_token_bytes(tk, -1, 256, &bytes, &size);
    assert_int_equal(size, 0); // control
    tokenizer_token_bytes(tk, -1, 258, &bytes, &size);
    assert_int_equal(size, 2);
    tokenizer_token_bytes(tk, -1, 280, &bytes, &size); // a hole
    assert_int_equal(size, 0);
    tokenizer_token_bytes(tk, -1, -5, &bytes, &size);
    assert_int_equal(size, 0);
    tokenizer_piece(tk, 256, &bytes, &size, &score, &kind);
    assert_int_equal(kind, TOKEN_CONTROL);
    tokenizer_piece(tk, 280, &bytes, &size, &score, &kind);
    assert_int_equal(kind, TOKEN_UNKNOWN);
    bg_free(json);
    tokenizer_destroy(tk);
    tokenizer_destroy(again);
}

static void ignored_merges_and_unknowns(void **state)
{
    (void)state;
    char *json = byte_level("\"abc\": 256", NULL, NULL, "\"ignore_merges\": true, ");
    struct tokenizer *tk = parse(json);
    check_ids(tk, "abc", true, "256"); // the whole word is a token, though no merge makes it
    check_ids(tk, "abcd", true, "97 98 99 100");
    bg_free(json);
    tokenizer_destroy(tk);

    static const char unk[] =
        "{\"pre_tokenizer\": {\"type\": \"Whitespace\"}, \"model\": {\"type\": \"BPE\", \"unk_token\": \"?\", "
        "\"fuse_unk\": %s, \"vocab\": {\"?\": 0, \"a\": 1, \"b\": 2, \"ab\": 3}, \"merges\": [\"a b\"]}}";
    for (int fuse = 0; fuse < 2; fuse++) {
        json = bg_format(unk, fuse ? "true" : "false");
        tk = parse(json);
        check_ids(tk, "ab  axxb, ba", true, fuse ? "3 1 0 2 0 2 1" : "3 1 0 0 2 0 2 1");
        struct tokenizer *again = reread(tk);
        tokenizer_destroy(again);
        tokenizer_destroy(tk);
        bg_free(json);
    }
    tk = parse("{\"model\": {\"type\": \"BPE\", \"vocab\": {\"a\": 0}, \"merges\": []}}");
    struct token_list list = {0};
    struct bg_error err;
    assert_int_equal(tokenizer_encode(tk, "ab", 2, true, &err, &list), BG_UNSUPPORTED);
    assert_non_null(strstr(err.text, "0x62"));
    assert_int_equal(list.count, 0);
    token_list_fini(&list);
    tokenizer_destroy(tk);
}

static const char llama_style[] =
    "{\"added_tokens\": [{\"id\": 0, \"content\": \"<unk>\", \"special\": true}, {\"id\": 1, \"content\": \"<s>\", "
    "\"special\": true}, {\"id\": 2, \"content\": \"</s>\", \"special\": true}],"
    "\"normalizer\": {\"type\": \"Sequence\", \"normalizers\": [{\"type\": \"Prepend\", \"prepend\": \"\\u2581\"}, "
    "{\"type\": \"Replace\", \"pattern\": {\"String\": \" \"}, \"content\": \"\\u2581\"}]},"
    "\"decoder\": {\"type\": \"Sequence\", \"decoders\": [{\"type\": \"Replace\", \"pattern\": {\"String\": "
    "\"\\u2581\"}, \"content\": \" \"}, {\"type\": \"ByteFallback\"}, {\"type\": \"Fuse\"}, {\"type\": \"Strip\", "
    "\"content\": \" \", \"start\": 1, \"stop\": 0}]},"
    "\"post_processor\": {\"type\": \"TemplateProcessing\", \"single\": [{\"SpecialToken\": {\"id\": \"<s>\", "
    "\"type_id\": 0}}, {\"Sequence\": {\"id\": \"A\", \"type_id\": 0}}]},"
    "\"model\": {\"type\": \"BPE\", \"unk_token\": \"<unk>\", \"fuse_unk\": true, \"byte_fallback\": true, \"vocab\": "
    "{\"<unk>\": 0, \"<s>\": 1, \"</s>\": 2, \"<0x0A>\": 3, \"<0xC3>\": 4, \"<0xA4>\": 5, \"\\u2581\": 6, \"a\": 7, "
    "\"b\": 8, \"ab\": 9, \"\\u2581a\": 10, \"\\u2581ab\": 11, \"<0xFF>\": 12},"
    "\"merges\": [\"a b\", \"\\u2581 ab\", \"\\u2581 a\"]}}";

static void llama_style_json(void **state)
{
    (void)state;
    struct tokenizer *tk = parse(llama_style), *again = reread(tk);
    for (int i = 0; i < 2; i++) {
        const struct tokenizer *t = i ? again : tk;
        assert_string_equal(tokenizer_kind(t), "sentencepiece");
        check_ids(t, "ab a", true, "11 10");
        check_ids(t, "a\nb", true, "10 3 8");
        check_ids(t, "\xc3\xa4", true, "6 4 5"); // by bytes
        check_ids(t, "xyb", true, "6 0 8");      // no bytes for them: unknown, fused
        check_ids(t, "</s>ab", true, "2 11");
        check_decode(t, "ab \xc3\xa4\xff", 6, "ab \xc3\xa4\xff", 6);
        assert_int_equal(tokenizer_eos(t), 2);
        assert_int_equal(tokenizer_merge_count(t), 0);
    }
    const char *piece;
    size_t size;
    float made_first, made_last;
    enum token_kind kind;
    tokenizer_piece(tk, 9, &piece, &size, &made_first, &kind);
    tokenizer_piece(tk, 10, &piece, &size, &made_last, &kind);
    assert_true(made_first > made_last); // scores keep the order of the merges
    tokenizer_piece(tk, 4, &piece, &size, &made_first, &kind);
    assert_int_equal(kind, TOKEN_BYTE);
    tokenizer_destroy(tk);
    tokenizer_destroy(again);
}

// ---- llama2.c's tokenizer.bin

static void put_piece(struct bg_str *file, float score, const char *piece, size_t size)
{
    int32_t length = (int32_t)size;
    bg_str_add_bytes(file, &score, sizeof score);
    bg_str_add_bytes(file, &length, sizeof length);
    bg_str_add_bytes(file, piece, size);
}

static void make_llama2c(struct bg_str *file)
{
    static const char *const ends[] = {"<unk>", "\n<s>\n", "\n</s>\n"};
    static const char *const pieces[] = {" ", "a", "b", "c", "ab", "bc", " a", "aa", "abc"};
    static const float scores[] = {-20, -21, -22, -23, -1, -1, -3, -1, -2}; // ties: leftmost first
    bg_str_add_bytes(file, "\5\0\0\0", 4);
    for (size_t i = 0; i < 3; i++)
        put_piece(file, 0, ends[i], strlen(ends[i]));
    for (unsigned b = 0; b < 256; b++) {
        char *piece = bg_format("<0x%02X>", b);
        put_piece(file, 0, piece, 6);
        bg_free(piece);
    }
    for (size_t i = 0; i < sizeof pieces / sizeof *pieces; i++)
        put_piece(file, scores[i], pieces[i], strlen(pieces[i]));
}

static void llama2c_file(void **state)
{
    (void)state;
    struct bg_str file = {0};
    struct bg_error err = {0};
    struct tokenizer *tk;
    make_llama2c(&file);
    if (tokenizer_parse_llama2c(file.data, file.size, "tokenizer.bin", &err, &tk) != BG_OK)
        fail_msg("%s", err.text);
    struct tokenizer *again = reread(tk);
    for (int i = 0; i < 2; i++) {
        const struct tokenizer *t = i ? again : tk;
        // 259 ' ', 260 a, 261 b, 262 c, 263 ab, 264 bc, 265 ' a', 266 aa, 267 abc
        check_ids(t, "", true, "");
        check_ids(t, "abc", true, "259 267"); // ab before ' a' and, being left, before bc; then abc
        check_ids(t, "aabc", true, "259 266 264");
        check_ids(t, "a\xe2\x96\x81", true, "265 229 153 132"); // the mark is no blank here
        check_ids(t, "x", true, "259 123");
        check_decode(t, " a b\0\xff", 6, " a b\0\xff", 6);
        assert_int_equal(tokenizer_bos(t), 1);
        assert_int_equal(tokenizer_eos(t), 2);
        assert_true(tokenizer_adds_bos(t));
    }
    tokenizer_destroy(again);
    tokenizer_destroy(tk);
    for (size_t size = 0; size < file.size; size++) { // cut anywhere: an error, or a shorter vocabulary
        if (tokenizer_parse_llama2c(file.data, size, "cut", &err, &tk) == BG_OK) {
            check_ids(tk, "", true, "");
            tokenizer_destroy(tk);
        }
    }
    static const int32_t lies[] = {-1, 0x7fffffff, -0x7fffffff};
    for (size_t i = 0; i < 3; i++) {
        memcpy(file.data + 8, &lies[i], 4);
        assert_int_equal(tokenizer_parse_llama2c(file.data, file.size, "lies", &err, &tk), BG_FORMAT);
    }
    bg_str_fini(&file);
}

// ---- .tiktoken, vocab.json

static void tiktoken_file(void **state)
{
    (void)state;
    struct bg_str file = {0};
    static const char digits[] = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    for (unsigned b = 0; b < 256; b++)
        bg_str_addf(&file, "%c%c== %u\n", digits[b >> 2], digits[(b & 3) << 4], b);
    bg_str_add(&file, "YWI= 256\nYmM= 257\nYWJj 258\r\nYWJjZA== 259\n"); // ab, bc, abc, abcd
    struct bg_error err = {0};
    struct tokenizer *tk;
    if (tokenizer_parse_tiktoken(file.data, file.size, "x.tiktoken", &err, &tk) != BG_OK)
        fail_msg("%s", err.text);
    struct tokenizer *again = reread(tk);
    for (int i = 0; i < 2; i++) {
        check_ids(i ? again : tk, "abc bc abcd", true, "258 32 257 32 259");
        check_ids(i ? again : tk, "<|endoftext|>", true, "260");
        assert_int_equal(tokenizer_eos(i ? again : tk), 260);
        assert_int_equal(tokenizer_merge_count(i ? again : tk), 4);
    }
    tokenizer_destroy(again);
    tokenizer_destroy(tk);
    bg_str_fini(&file);
    static const char *const bad[] = {"",
                                      "YQ==",
                                      "YQ== x\n",
                                      "YQ= 0\n",
                                      "*Q== 0",
                                      "YQ== -1\n",
                                      "YQ== 0\nYQ== 1\n",
                                      "YQ== 0\nYg== 0\n",
                                      "YQ== 1234567",
                                      " 1",
                                      "YQ== 99999999999\n",
                                      "==== 0"};
    for (size_t i = 0; i < sizeof bad / sizeof *bad; i++)
        assert_int_equal(tokenizer_parse_tiktoken(bad[i], strlen(bad[i]), "bad", &err, &tk), BG_FORMAT);
}

static void vocab_and_merges(void **state)
{
    (void)state;
    struct bg_error err = {0};
    struct tokenizer *tk;
    static const char vocab[] = "{\"a\": 0, \"b\": 1, \"ab\": 2, \"<|endoftext|>\": 3}";
    static const char merges[] = "#version: 0.2\na b\n\n";
    if (tokenizer_parse_vocab(vocab, strlen(vocab), merges, strlen(merges), "vocab.json", &err, &tk) != BG_OK)
        fail_msg("%s", err.text);
    check_ids(tk, "abba<|endoftext|>", true, "2 1 0 3");
    tokenizer_destroy(tk);
    static const char *const bad[] = {"a", "a b c", "a x", " ", "b b", "a b\na b"};
    for (size_t i = 0; i < sizeof bad / sizeof *bad; i++)
        assert_int_equal(tokenizer_parse_vocab(vocab, strlen(vocab), bad[i], strlen(bad[i]), "v", &err, &tk),
                         BG_FORMAT);
    assert_int_equal(tokenizer_parse_vocab("[]", 2, "", 0, "v", &err, &tk), BG_FORMAT);
}

// ---- training

static const char rhyme[] =
    "the cat sat on the mat; the cat ate the rat that sat on the mat.\n"
    "aaaaaaa aaaaaaa banana bananas ananas \xc3\xa4\xc3\xb6 \xc3\xa4\xc3\xb6 1234 1234 12\n\n  x";

struct naive {
    int32_t ids[64][64];
    size_t sizes[64], count;
};

static bg_status take_naive(void *arg, const char *word, size_t size, struct bg_error *err)
{
    (void)err;
    struct naive *n = arg;
    for (size_t i = 0; i < size; i++)
        n->ids[n->count][i] = (uint8_t)word[i];
    n->sizes[n->count++] = size;
    return BG_OK;
}

static size_t naive_count(const struct naive *n, int32_t left, int32_t right)
{
    size_t count = 0;
    for (size_t w = 0; w < n->count; w++)
        for (size_t i = 0; i + 1 < n->sizes[w]; i++)
            count += n->ids[w][i] == left && n->ids[w][i + 1] == right;
    return count;
}

static size_t naive_best(const struct naive *n, int32_t *left, int32_t *right)
{
    size_t best = 1;
    for (size_t w = 0; w < n->count; w++) {
        for (size_t i = 0; i + 1 < n->sizes[w]; i++) {
            int32_t a = n->ids[w][i], b = n->ids[w][i + 1];
            size_t count = naive_count(n, a, b);
            if (count > best || (count == best && best > 1 && (a < *left || (a == *left && b < *right)))) {
                best = count;
                *left = a;
                *right = b;
            }
        }
    }
    return best;
}

static void training_is_greedy(void **state)
{
    (void)state;
    struct bg_error err = {0};
    struct tokenizer *tk, *again;
    const char *text = rhyme;
    size_t size = strlen(rhyme);
    if (tokenizer_parse_train(&text, &size, 1, 1000, &err, &tk) != BG_OK)
        fail_msg("%s", err.text);
    static struct naive n;
    struct splitter splitter = {.steps = tk->splits, .count = 1, .name = "test", .fn = take_naive, .arg = &n};
    assert_int_equal(split_run(&splitter, text, size, &err), BG_OK);
    splitter_fini(&splitter);
    int32_t left = 0, right = 0;
    for (size_t m = 0; naive_best(&n, &left, &right) > 1; m++) {
        assert_true(m < tk->merge_count);
        assert_int_equal(tk->merges[m].left, left);
        assert_int_equal(tk->merges[m].right, right);
        for (size_t w = 0; w < n.count; w++) {
            size_t kept = 0;
            for (size_t i = 0; i < n.sizes[w]; i++) {
                bool here = i + 1 < n.sizes[w] && n.ids[w][i] == left && n.ids[w][i + 1] == right;
                n.ids[w][kept++] = here ? tk->merges[m].result : n.ids[w][i];
                i += here;
            }
            n.sizes[w] = kept;
        }
    }
    assert_int_equal(tokenizer_eos(tk), tokenizer_size(tk) - 1);
    assert_true(tokenizer_size(tk) < 1000); // nothing left that occurs twice
    again = reread(tk);
    check_decode(again, rhyme, size, rhyme, size);
    tokenizer_destroy(again);
    tokenizer_destroy(tk);
    if (tokenizer_parse_train(&text, &size, 1, 270, &err, &tk) != BG_OK)
        fail_msg("%s", err.text);
    assert_int_equal(tokenizer_size(tk), 270);
    tokenizer_destroy(tk);
    assert_int_equal(tokenizer_parse_train(&text, &size, 1, 256, &err, &tk), BG_INVALID);
}

// ---- any bytes, and long words

static struct tokenizer *trained(void)
{
    struct bg_error err = {0};
    struct tokenizer *tk;
    const char *text = rhyme;
    size_t size = strlen(rhyme);
    if (tokenizer_parse_train(&text, &size, 1, 400, &err, &tk) != BG_OK)
        fail_msg("%s", err.text);
    return tk;
}

static void any_bytes_come_back(void **state)
{
    (void)state;
    struct tokenizer *tk = trained();
    uint32_t seed = 7;
    char text[4096];
    for (int round = 0; round < 50; round++) {
        size_t size = random_next(&seed) % sizeof text;
        for (size_t i = 0; i < size; i++) {
            uint32_t r = random_next(&seed);
            text[i] = round % 2 ? (char)r : rhyme[(r % 16 ? i : r) % (sizeof rhyme - 1)];
        }
        check_decode(tk, text, size, text, size);
    }
    tokenizer_destroy(tk);
}

static void long_words(void **state)
{
    (void)state;
    enum { SIZE = 1 << 20 };
    struct tokenizer *tk = trained();
    char *text = bg_alloc_array(SIZE, 1);
    uint32_t seed = 3;
    for (size_t i = 0; i < SIZE; i++)
        text[i] = "abnst"[random_next(&seed) % 5];
    uint64_t start = env->ops->now_ns(env);
    check_decode(tk, text, SIZE, text, SIZE);
    memset(text, 'a', SIZE);
    check_decode(tk, text, SIZE, text, SIZE);
    print_message("two words of 1 MiB: %.2f s\n", (double)(env->ops->now_ns(env) - start) * 1e-9);
    bg_free(text);
    // The heap and the scan agree: the same merges one at a time, the lowest rank and then the leftmost.
    struct merge_work work = {0};
    for (int round = 0; round < 40; round++) {
        size_t size = 49 + random_next(&seed) % 100, want = size;
        int32_t naive[160];
        int32_t *ids = merge_work_ids(&work, size);
        for (size_t i = 0; i < size; i++)
            naive[i] = ids[i] = round % 4 ? "abnst "[random_next(&seed) % 6] : 'a';
        for (;;) {
            size_t best = SIZE_MAX, rank = SIZE_MAX;
            for (size_t i = 0; i + 1 < want; i++)
                for (size_t m = 0; m < tk->merge_count; m++)
                    if (tk->merges[m].left == naive[i] && tk->merges[m].right == naive[i + 1] && m < rank) {
                        rank = m;
                        best = i;
                    }
            if (best == SIZE_MAX)
                break;
            naive[best] = tk->merges[rank].result;
            memmove(naive + best + 1, naive + best + 2, (--want - best - 1) * sizeof *naive);
        }
        assert_int_equal(merge_run(&tk->pairs, &work, size, NULL), want);
        assert_memory_equal(work.ids, naive, want * sizeof *naive);
    }
    merge_work_fini(&work);
    tokenizer_destroy(tk);
}

// ---- files that lie, and files on disk

static void check_refused(const char *json, const char *named)
{
    struct bg_error err = {0};
    struct tokenizer *tk;
    bg_status status = tokenizer_parse_json(json, strlen(json), "bad.json", &err, &tk);
    if (status == BG_OK)
        fail_msg("accepted: %.300s", json);
    if (!strstr(err.text, "bad.json") || !strstr(err.text, named))
        fail_msg("'%s' does not name '%s'", err.text, named);
}

static void lying_json(void **state)
{
    (void)state;
    static const char *const bad[][2] = {
        {"", "bad.json"},
        {"[]", "bad.json"},
        {"{}", "model"},
        {"{\"model\": 3}", "model"},
        {"{\"model\": {\"merges\": []}}", "vocab"},
        {"{\"model\": {\"vocab\": [], \"merges\": []}}", "vocab"},
        {"{\"model\": {\"type\": \"Unigram\"}}", "Unigram"},
        {"{\"model\": {\"vocab\": {}, \"merges\": []}}", "empty"},
        {"{\"model\": {\"vocab\": {\"a\": -1}, \"merges\": []}}", "a"},
        {"{\"model\": {\"vocab\": {\"a\": 4000000000}, \"merges\": []}}", "4000000000"},
        {"{\"model\": {\"vocab\": {\"a\": \"x\"}, \"merges\": []}}", "'a'"},
        {"{\"model\": {\"vocab\": {\"a\": 0, \"b\": 0}, \"merges\": []}}", "id 0"},
        {"{\"model\": {\"vocab\": {\"a\": 0, \"a\": 1}, \"merges\": []}}", "duplicate"},
        {"{\"model\": {\"vocab\": {\"a\": 0}, \"merges\": [\"a\"]}}", "merges[0]"},
        {"{\"model\": {\"vocab\": {\"a\": 0}, \"merges\": [\"a a\"]}}", "merges[0]"},
        {"{\"model\": {\"vocab\": {\"a\": 0}, \"merges\": [[\"a\"]]}}", "merges[0]"},
        {"{\"model\": {\"vocab\": {\"a\": 0}, \"merges\": [[\"a\", 1]]}}", "merges[0]"},
        {"{\"model\": {\"vocab\": {\"a\": 0, \"b\": 1}, \"merges\": [\"a c\"]}}", "right part"},
        {"{\"model\": {\"vocab\": {\"a\": 0, \"aa\": 1}, \"merges\": [\"a a\", \"a a\"]}}", "merge 1"},
        {"{\"model\": {\"vocab\": {\"a\": 0}, \"merges\": {}}}", "merges"},
        {"{\"model\": {\"unk_token\": \"u\", \"vocab\": {\"a\": 0}, \"merges\": []}}", "unk_token"},
        {"{\"model\": {\"dropout\": 0.1, \"vocab\": {\"a\": 0}, \"merges\": []}}", "dropout"},
        {"{\"model\": {\"end_of_word_suffix\": \"</w>\", \"vocab\": {\"a\": 0}, \"merges\": []}}",
         "end_of_word_suffix"},
        {"{\"model\": {\"byte_fallback\": 1, \"vocab\": {\"a\": 0}, \"merges\": []}}", "byte_fallback"},
        {"{\"normalizer\": {\"type\": \"NFKC\"}, \"model\": {\"vocab\": {\"a\": 0}, \"merges\": []}}", "NFKC"},
        {"{\"normalizer\": [], \"model\": {\"vocab\": {\"a\": 0}, \"merges\": []}}", "normalizer"},
        {"{\"pre_tokenizer\": {\"type\": \"BertPreTokenizer\"}, \"model\": {\"vocab\": {\"a\": 0}, \"merges\": []}}",
         "BertPreTokenizer"},
        {"{\"pre_tokenizer\": {\"type\": \"Split\", \"pattern\": {\"Regex\": \"(\"}, \"behavior\": \"Isolated\"}, "
         "\"model\": {\"vocab\": {\"a\": 0}, \"merges\": []}}",
         "'('"},
        {"{\"pre_tokenizer\": {\"type\": \"Split\", \"pattern\": {\"Regex\": \"[a&&b]\"}, \"behavior\": \"Isolated\"}, "
         "\"model\": {\"vocab\": {\"a\": 0}, \"merges\": []}}",
         "&&"},
        {"{\"pre_tokenizer\": {\"type\": \"Split\", \"pattern\": {\"String\": \"\"}, \"behavior\": \"Isolated\"}, "
         "\"model\": {\"vocab\": {\"a\": 0}, \"merges\": []}}",
         "empty"},
        {"{\"pre_tokenizer\": {\"type\": \"Split\", \"pattern\": {\"String\": \"x\"}, \"behavior\": \"Sideways\"}, "
         "\"model\": {\"vocab\": {\"a\": 0}, \"merges\": []}}",
         "Sideways"},
        {"{\"decoder\": {\"type\": \"WordPiece\"}, \"model\": {\"vocab\": {\"a\": 0}, \"merges\": []}}", "WordPiece"},
        {"{\"added_tokens\": [{\"id\": 0, \"content\": \"b\"}], \"model\": {\"vocab\": {\"a\": 0}, \"merges\": []}}",
         "'b'"},
        {"{\"added_tokens\": [{\"id\": 1, \"content\": \"\"}], \"model\": {\"vocab\": {\"a\": 0}, \"merges\": []}}",
         "empty"},
        {"{\"added_tokens\": [{\"content\": \"x\"}], \"model\": {\"vocab\": {\"a\": 0}, \"merges\": []}}",
         "added_tokens[0]"},
        {"{\"post_processor\": {\"type\": \"TemplateProcessing\", \"single\": [{\"SpecialToken\": {\"id\": "
         "\"<s>\"}}]}, "
         "\"model\": {\"vocab\": {\"a\": 0}, \"merges\": []}}",
         "<s>"},
    };
    for (size_t i = 0; i < sizeof bad / sizeof *bad; i++)
        check_refused(bad[i][0], bad[i][1]);
    char *deep = bg_alloc_array(100001, 1);
    memset(deep, '[', 100000);
    check_refused(deep, "bad.json");
    bg_free(deep);
    for (size_t size = 0; size + 1 < sizeof llama_style; size += 7) { // cut anywhere
        struct bg_error err;
        struct tokenizer *tk;
        assert_int_equal(tokenizer_parse_json(llama_style, size, "cut", &err, &tk), BG_FORMAT);
    }
    tokenizer_destroy(parse("{\"model\": {\"vocab\": {\"\": 0}, \"merges\": []}}")); // an empty piece is harmless
    check_refused("{\"model\": {\"vocab\": {\"a\\u0000\": 0}, \"merges\": []}}", "NUL");
    check_refused("{\"added_tokens\": [{\"id\": 1, \"content\": \"\\u0000\"}], \"model\": {\"vocab\": {\"a\": 0}, "
                  "\"merges\": []}}",
                  "NUL");
}

static void opened_from_disk(void **state)
{
    (void)state;
    struct bg_error err = {0};
    char directory[] = "/tmp/brigade-tokenizer-XXXXXX";
    assert_non_null(mkdtemp(directory));
    struct tokenizer *tk = trained(), *again = NULL;
    if (tokenizer_save(env, tk, directory, &err) != BG_OK || tokenizer_open(env, directory, &err, &again) != BG_OK)
        fail_msg("%s", err.text);
    assert_int_equal(tokenizer_eos(again), tokenizer_eos(tk));
    check_decode(again, rhyme, strlen(rhyme), rhyme, strlen(rhyme));
    tokenizer_destroy(again);
    char *config = bg_format("%s/tokenizer_config.json", directory), *file = bg_format("%s/tokenizer.json", directory);
    static const char text[] = "{\"eos_token\": {\"content\": \"a\"}, \"bos_token\": \"t\", \"add_bos_token\": true}";
    assert_int_equal(env_write_file(env, config, text, strlen(text), &err), BG_OK);
    assert_int_equal(tokenizer_open(env, file, &err, &again), BG_OK);
    assert_int_equal(tokenizer_eos(again), 'a');
    assert_int_equal(tokenizer_bos(again), 't');
    assert_true(tokenizer_adds_bos(again));
    tokenizer_destroy(again);
    assert_int_equal(env->ops->path_remove(env, file, &err), BG_OK);
    assert_int_equal(tokenizer_open(env, directory, &err, &again), BG_NOT_FOUND);
    assert_non_null(strstr(err.text, directory));
    assert_int_equal(tokenizer_open(env, file, &err, &again), BG_NOT_FOUND);
    const char *paths[] = {file};
    assert_int_not_equal(tokenizer_train(env, paths, 1, 300, &err, &again), BG_OK);
    assert_non_null(strstr(err.text, file));
    assert_int_equal(env->ops->path_remove(env, directory, &err), BG_OK);
    bg_free(config);
    bg_free(file);
    tokenizer_destroy(tk);
}

static int start(void **state)
{
    (void)state;
    struct bg_error err;
    return os_env_create(NULL, &err, &env) == BG_OK ? 0 : -1;
}

static int stop(void **state)
{
    (void)state;
    os_env_destroy(env);
    return 0;
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(bytes_are_their_values),
        cmocka_unit_test(merges_in_both_spellings),
        cmocka_unit_test(added_tokens),
        cmocka_unit_test(ignored_merges_and_unknowns),
        cmocka_unit_test(llama_style_json),
        cmocka_unit_test(llama2c_file),
        cmocka_unit_test(tiktoken_file),
        cmocka_unit_test(vocab_and_merges),
        cmocka_unit_test(training_is_greedy),
        cmocka_unit_test(any_bytes_come_back),
        cmocka_unit_test(long_words),
        cmocka_unit_test(lying_json),
        cmocka_unit_test(opened_from_disk),
    };
    return cmocka_run_group_tests(tests, start, stop);
}
