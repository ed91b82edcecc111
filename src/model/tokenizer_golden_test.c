// Tokenizers against what other programs recorded: the 46 texts of llama.cpp's gpt-2 and starcoder vocabularies,
// GPT-2's vocabulary in three file formats, and llama2.c's stories260K. Needs ../shared (or BRIGADE_SHARED); skips
// without it.
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
#include <time.h>

static struct bg_env *env;

static char *shared(const char *name)
{
    const char *root = getenv("BRIGADE_SHARED");
    return bg_format("%s/%s", root ? root : BRIGADE_SOURCE_DIR "/../shared", name);
}

static char *read_shared(const char *name, size_t *size)
{
    struct bg_error err;
    struct bg_map map;
    char *path = shared(name);
    if (env->ops->map_open(env, path, &err, &map) != BG_OK) {
        print_message("%s: not here, skipped\n", path);
        bg_free(path);
        skip();
    }
    char *text = bg_alloc_array(map.size + 1, 1);
    memcpy(text, map.data, map.size);
    *size = map.size;
    env->ops->map_close(env, &map);
    bg_free(path);
    return text;
}

static struct tokenizer *open_source(const char *source)
{
    struct bg_error err = {0};
    struct tokenizer *tk;
    if (tokenizer_open(env, source, &err, &tk) != BG_OK)
        fail_msg("%s", err.text);
    return tk;
}

static struct tokenizer *open_shared(const char *name)
{
    char *path = shared(name);
    struct tokenizer *tk = open_source(path);
    bg_free(path);
    return tk;
}

static struct token_list encode(const struct tokenizer *tk, const char *text, size_t size)
{
    struct bg_error err = {0};
    struct token_list list = {0};
    if (tokenizer_encode(tk, text, size, true, &err, &list) != BG_OK)
        fail_msg("%s", err.text);
    return list;
}

static void decode(const struct tokenizer *tk, const struct token_list *list, struct bg_str *out)
{
    for (size_t i = 0; i < list->count; i++) {
        const char *bytes;
        size_t size;
        tokenizer_token_bytes(tk, i ? list->ids[i - 1] : -1, list->ids[i], &bytes, &size);
        bg_str_add_bytes(out, bytes, size);
    }
}

static void check_texts(const struct tokenizer *tk, const char *name)
{
    static const char separator[] = "\n__ggml_vocab_test__\n";
    char *inp = bg_format("data/tokenizers/%s.inp", name), *out = bg_format("data/tokenizers/%s.out", name);
    size_t text_size, want_size, texts = 0;
    char *text = read_shared(inp, &text_size), *want = read_shared(out, &want_size);
    char *line = want;
    for (char *at = text; at && line;) {
        char *end = strstr(at, separator), *newline = strchr(line, '\n');
        struct token_list list = encode(tk, at, end ? (size_t)(end - at) : strlen(at));
        struct bg_str ids = {0};
        for (size_t i = 0; i < list.count; i++)
            bg_str_addf(&ids, " %d", (int)list.ids[i]);
        if (newline)
            *newline = '\0';
        assert_string_equal(bg_str_text(&ids), line);
        bg_str_fini(&ids);
        token_list_fini(&list);
        texts++;
        at = end && end + strlen(separator) < text + text_size ? end + strlen(separator) : NULL;
        line = newline ? newline + 1 : NULL;
    }
    assert_int_equal(texts, 46);
    bg_free(inp);
    bg_free(out);
    bg_free(text);
    bg_free(want);
}

static void gpt2_in_three_formats(void **state)
{
    (void)state;
    static const char *const names[] = {"gpt-2.gguf", "gpt2-vocab.json", "gpt2.tiktoken"};
    char first[65] = "";
    size_t size;
    bg_free(read_shared("data/tokenizers/gpt-2.inp", &size));
    for (size_t i = 0; i < 3; i++) {
        char *path = bg_format("data/tokenizers/%s", names[i]), hex[65];
        struct tokenizer *tk = open_shared(path);
        check_texts(tk, "gpt-2");
        assert_int_equal(tokenizer_size(tk), 50257);
        assert_int_equal(tokenizer_eos(tk), 50256);
        assert_int_equal(tokenizer_merge_count(tk), 50000);
        tokenizer_sha256(tk, hex);
        if (i > 0)
            assert_string_equal(hex, first); // one tokenizer, one identity
        memcpy(first, hex, sizeof hex);
        tokenizer_destroy(tk);
        bg_free(path);
    }
}

static void starcoder(void **state)
{
    (void)state;
    size_t size;
    bg_free(read_shared("data/tokenizers/starcoder.inp", &size));
    struct tokenizer *tk = open_shared("data/tokenizers/starcoder.gguf");
    check_texts(tk, "starcoder");
    tokenizer_destroy(tk);
}

// Saved and opened again, a tokenizer has the same identity and gives the same ids.
static void saved_is_the_same(void **state)
{
    (void)state;
    static const char *const names[] = {"tokenizers/gpt-2.gguf", "tokenizers/starcoder.gguf",
                                        "models/stories260K.tokenizer.bin"};
    size_t size;
    char *text = read_shared("data/text/wikitext2-test.txt", &size);
    size = size < 300000 ? size : 300000;
    for (size_t i = 0; i < 3; i++) {
        char *path = bg_format("data/%s", names[i]), before[65], after[65];
        struct tokenizer *tk = open_shared(path), *again;
        struct bg_error err = {0};
        size_t json_size;
        char *json = tokenizer_json_text(tk, &json_size);
        if (tokenizer_parse_json(json, json_size, "saved", &err, &again) != BG_OK)
            fail_msg("%s", err.text);
        tokenizer_sha256(tk, before);
        tokenizer_sha256(again, after);
        assert_string_equal(before, after);
        struct token_list a = encode(tk, text, size), b = encode(again, text, size);
        assert_int_equal(a.count, b.count);
        assert_memory_equal(a.ids, b.ids, a.count * sizeof *a.ids);
        struct bg_str back = {0};
        decode(again, &b, &back);
        assert_int_equal(back.size, size);
        assert_memory_equal(back.data, text, size);
        bg_str_fini(&back);
        token_list_fini(&a);
        token_list_fini(&b);
        bg_free(json);
        bg_free(path);
        tokenizer_destroy(tk);
        tokenizer_destroy(again);
    }
    bg_free(text);
}

// llama2.c's loop as it stands there: try every neighbouring pair, merge the best, start over.
static size_t merge_naively(const struct tokenizer *tk, int32_t *ids, size_t count)
{
    for (;;) {
        float best_score = -1e10f;
        int32_t best_id = -1;
        size_t best = 0;
        for (size_t i = 0; i + 1 < count; i++) {
            struct bg_str pair = {0};
            for (size_t k = i; k < i + 2; k++) {
                size_t size;
                const char *piece = piece_set_get(&tk->keys, ids[k], &size);
                bg_str_add_bytes(&pair, piece, size);
            }
            int32_t id = piece_set_find(&tk->keys, pair.data, pair.size);
            if (id >= 0 && tk->scores[id] > best_score) {
                best_score = tk->scores[id];
                best_id = id;
                best = i;
            }
            bg_str_fini(&pair);
        }
        if (best_id < 0)
            return count;
        ids[best] = best_id;
        memmove(ids + best + 1, ids + best + 2, (count - best - 2) * sizeof *ids);
        count--;
    }
}

static void stories_like_llama2c(void **state)
{
    (void)state;
    size_t size;
    char *text = read_shared("data/text/tinyshakespeare.txt", &size);
    struct tokenizer *tk = open_shared("data/models/stories260K.tokenizer.bin");
    assert_string_equal(tokenizer_kind(tk), "sentencepiece");
    assert_int_equal(tokenizer_size(tk), 512);
    assert_int_equal(tokenizer_bos(tk), 1);
    assert_int_equal(tokenizer_eos(tk), 2);
    assert_true(tokenizer_adds_bos(tk));
    for (size_t at = 0; at + 400 < size; at += 40009) {
        char part[401];
        memcpy(part, text + at, 400);
        memcpy(part + 100, "\xe2\x96\x81 \xf0\x9f\xa6\x99 \xff\xc3 \xe2\x82", 14); // marks, emoji, broken bytes
        int32_t ids[1024];
        size_t count = 0;
        ids[count++] = piece_set_find(&tk->keys, " ", 1);
        for (size_t i = 0, length; i < 400; i += length) {
            for (length = 1; i + length < 400 && length < 4 && (part[i + length] & 0xc0) == 0x80;)
                length++;
            int32_t id = piece_set_find(&tk->keys, part + i, length);
            for (size_t k = 0; id < 0 && k < length; k++)
                ids[count++] = (uint8_t)part[i + k] + 3;
            if (id >= 0)
                ids[count++] = id;
        }
        count = merge_naively(tk, ids, count);
        struct token_list list = encode(tk, part, 400);
        assert_int_equal(list.count, count);
        assert_memory_equal(list.ids, ids, count * sizeof *ids);
        token_list_fini(&list);
    }
    const char *bytes;
    int32_t once = piece_set_find(&tk->pieces, "\xe2\x96\x81the", 6);
    tokenizer_token_bytes(tk, 1, once, &bytes, &size);
    assert_int_equal(size, 3); // the blank behind bos is dropped
    tokenizer_token_bytes(tk, 5, once, &bytes, &size);
    assert_int_equal(size, 4);
    tokenizer_destroy(tk);
    bg_free(text);
}

static void speed(void **state)
{
    (void)state;
    size_t size;
    char *text = read_shared("data/text/wikitext2-test.txt", &size);
    struct tokenizer *tk = open_shared("data/tokenizers/gpt-2.gguf");
    uint64_t start = env->ops->now_ns(env);
    struct token_list list = encode(tk, text, size);
    double seconds = (double)(env->ops->now_ns(env) - start) * 1e-9;
    print_message("gpt-2: %zu bytes, %zu tokens, %.1f MB/s\n", size, list.count, (double)size / seconds * 1e-6);
    struct bg_str back = {0};
    decode(tk, &list, &back);
    assert_memory_equal(back.data, text, size);
    bg_str_fini(&back);
    token_list_fini(&list);
    tokenizer_destroy(tk);
    bg_free(text);
}

static bg_status add_word(void *arg, const char *word, size_t size, struct bg_error *err)
{
    (void)err;
    bg_str_add_bytes(arg, word, size);
    bg_str_add_bytes(arg, "", 1);
    return BG_OK;
}

// A pattern from a file runs in the interpreter under a budget: it must cut as the JIT code of our own does.
static void untrusted_patterns_cut_alike(void **state)
{
    (void)state;
    size_t size;
    char *text = read_shared("data/text/wikitext2-test.txt", &size);
    static const char *const patterns[] = {split_pattern_gpt2, split_pattern_llama3, split_pattern_o200k};
    for (size_t i = 0; i < 3; i++) {
        struct bg_str words[2] = {{0}, {0}};
        for (int wrapped = 0; wrapped < 2; wrapped++) {
            struct bg_error err = {0};
            struct split_step step = {.kind = SPLIT_REGEX};
            step.pattern = bg_format(wrapped ? "(?:%s)" : "%s", patterns[i]);
            step.pattern_size = strlen(step.pattern);
            assert_int_equal(split_step_init(&step, "test", &err), BG_OK);
            assert_int_equal(step.trusted, !wrapped);
            struct splitter splitter = {
                .steps = &step, .count = 1, .name = "t", .fn = add_word, .arg = &words[wrapped]};
            uint64_t from = env->ops->now_ns(env);
            if (split_run(&splitter, text, size, &err) != BG_OK)
                fail_msg("%s", err.text);
            double seconds = (double)(env->ops->now_ns(env) - from) * 1e-9;
            print_message("%s: %.1f MB/s, %.1f steps a byte\n", wrapped ? "untrusted" : "ours",
                          (double)size / seconds * 1e-6, (double)splitter.work / (double)size);
            splitter_fini(&splitter);
            split_step_fini(&step);
        }
        assert_int_equal(words[0].size, words[1].size);
        assert_memory_equal(words[0].data, words[1].data, words[0].size);
        bg_str_fini(&words[0]);
        bg_str_fini(&words[1]);
    }
    bg_free(text);
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
        cmocka_unit_test(gpt2_in_three_formats),
        cmocka_unit_test(starcoder),
        cmocka_unit_test(saved_is_the_same),
        cmocka_unit_test(stories_like_llama2c),
        cmocka_unit_test(speed),
        cmocka_unit_test(untrusted_patterns_cut_alike),
    };
    return cmocka_run_group_tests(tests, start, stop);
}
