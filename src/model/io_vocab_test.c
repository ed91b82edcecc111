// Tokenizers on their way through the formats of models: what comes back encodes every text to the same ids, files of
// others are reproduced key for key and byte for byte, and a tokenizer of another vocabulary is refused.
#include "model/io.h"

#include "base/mem.h"
#include "base/str.h"
#include "os/live.h"
#include "tensor/gguf.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

static struct bg_env *env;
static struct bg_error err;
static char directory[] = "/tmp/brigade-io-vocab-XXXXXX";

#define OK(call)                                                                                                       \
    do {                                                                                                               \
        if (call)                                                                                                      \
            fail_msg("%s: %s", #call, err.text);                                                                       \
    } while (0)

static char *in_directory(const char *name)
{
    return bg_format("%s/%s", directory, name);
}

// NULL, and a word on the terminal, where the shared data is not there.
static char *shared(const char *name)
{
    const char *root = getenv("BRIGADE_SHARED");
    char *path =
        root ? bg_format("%s/data/%s", root, name) : bg_format("%s/../shared/data/%s", BRIGADE_SOURCE_DIR, name);
    struct bg_file_info info;
    OK(env->ops->path_info(env, path, &err, &info));
    if (info.exists)
        return path;
    print_message("skipped: %s is not there\n", path);
    bg_free(path);
    return NULL;
}

static const char *const texts[] = {
    "",
    "a",
    "Hello, world!",
    "  leading and  inner   blanks\n\n\nand lines\r\n\ttabs",
    "1234567890 12 3",
    "caf\xc3\xa9 \xe4\xbd\xa0\xe5\xa5\xbd \xf0\x9f\x98\x80",
    "\xff\xfe broken \xc3",
    "It's we'll THEY'RE don't",
    "Once upon a time, there was a little girl named Lily.",
    "x<|endoftext|>y",
};

static void expect_same_ids(const struct tokenizer *a, const struct tokenizer *b)
{
    for (size_t i = 0; i < sizeof texts / sizeof *texts; i++) {
        for (int special = 0; special < 2; special++) {
            struct token_list left = {0}, right = {0};
            OK(tokenizer_encode(a, texts[i], strlen(texts[i]), special, &err, &left));
            OK(tokenizer_encode(b, texts[i], strlen(texts[i]), special, &err, &right));
            if (left.count != right.count || (left.count && memcmp(left.ids, right.ids, left.count * sizeof *left.ids)))
                fail_msg("\"%s\" gives other ids", texts[i]);
            token_list_fini(&left);
            token_list_fini(&right);
        }
    }
}

static struct model *tiny(uint32_t vocab)
{
    const struct model_config config = {.family = MODEL_LLAMA,
                                        .layers = 1,
                                        .dim = 4,
                                        .heads = 2,
                                        .kv_heads = 1,
                                        .head_dim = 2,
                                        .ffn = 4,
                                        .context = 8,
                                        .vocab = vocab,
                                        .tie = true,
                                        .rope_theta = 10000,
                                        .norm_eps = 1e-5,
                                        .bos = -1,
                                        .eos = -1};
    struct model *model;
    OK(model_create(&config, &err, &model));
    return model;
}

static struct tokenizer *learned(uint32_t vocab)
{
    char *path = in_directory("corpus.txt");
    struct bg_str text = {0};
    for (int i = 0; i < 200; i++)
        bg_str_addf(&text, "the cat number %d sat on the mat, and they're %d there.\n", i, i * 7);
    OK(env_write_file(env, path, text.data, text.size, &err));
    struct tokenizer *tokenizer;
    const char *paths[] = {path};
    OK(tokenizer_train(env, paths, 1, vocab, &err, &tokenizer));
    bg_str_fini(&text);
    bg_free(path);
    return tokenizer;
}

// Through a directory and through GGUF.
static void round_trip(struct tokenizer *tokenizer, uint32_t vocab)
{
    struct model *model = tiny(vocab);
    float *weights = bg_alloc_array(model->floats, sizeof *weights);
    static const struct {
        const char *name;
        enum model_format format;
    } formats[] = {{"hf", MODEL_SAFETENSORS}, {"m.gguf", MODEL_GGUF}};
    for (size_t i = 0; i < 2; i++) {
        char *path = in_directory(formats[i].name);
        struct model_files files;
        OK(model_save(env, model, weights, tokenizer, formats[i].format, path, &err));
        OK(model_open(env, path, &err, &files));
        assert_non_null(files.tokenizer);
        expect_same_ids(tokenizer, files.tokenizer);
        assert_int_equal(tokenizer_bos(files.tokenizer), tokenizer_bos(tokenizer));
        assert_int_equal(tokenizer_eos(files.tokenizer), tokenizer_eos(tokenizer));
        assert_int_equal(tokenizer_adds_bos(files.tokenizer), tokenizer_adds_bos(tokenizer));
        assert_string_equal(tokenizer_kind(files.tokenizer), tokenizer_kind(tokenizer));
        model_close(&files);
        OK(env->ops->path_remove(env, path, &err));
        bg_free(path);
    }
    bg_free(weights);
    model_destroy(model);
}

static void our_own_tokenizers_come_back(void **state)
{
    (void)state;
    struct tokenizer *tokenizer;
    OK(tokenizer_open(env, "bytes", &err, &tokenizer));
    round_trip(tokenizer, 256);
    tokenizer_destroy(tokenizer);
    tokenizer = learned(300);
    round_trip(tokenizer, tokenizer_size(tokenizer));
    round_trip(tokenizer, tokenizer_size(tokenizer) + 12); // padded
    tokenizer_destroy(tokenizer);
}

static void other_vocabularies_are_refused(void **state)
{
    (void)state;
    struct tokenizer *tokenizer;
    struct model_files files;
    char *path = in_directory("other");
    OK(tokenizer_open(env, "bytes", &err, &tokenizer));
    struct model *small = tiny(200), *large = tiny(5000);
    float *weights = bg_alloc_array(large->floats, sizeof *weights);
    for (int format = MODEL_SAFETENSORS; format <= MODEL_LLAMA2C; format++) {
        assert_int_equal(model_save(env, small, weights, tokenizer, (enum model_format)format, path, &err),
                         BG_MISMATCH);
        assert_non_null(strstr(err.text, "256 ids"));
    }
    OK(model_save(env, large, weights, tokenizer, MODEL_SAFETENSORS, path, &err));
    assert_int_equal(model_open(env, path, &err, &files), BG_MISMATCH);
    assert_non_null(strstr(err.text, "vocabulary of 5000"));
    bg_free(weights);
    model_destroy(small);
    model_destroy(large);
    tokenizer_destroy(tokenizer);
    bg_free(path);
}

static void expect_same_array(const struct gguf *a, const struct gguf *b, const char *key)
{
    const struct gguf_value *left = gguf_find(a, key), *right = gguf_find(b, key);
    assert_true(left && right && left->count == right->count && left->element == right->element);
    for (uint64_t i = 0; i < left->count; i++) {
        if (left->element == GGUF_STRING) {
            struct gguf_string x = gguf_array_string(left, i), y = gguf_array_string(right, i);
            if (x.size != y.size || memcmp(x.data, y.data, x.size))
                fail_msg("%s[%llu] differs: %.*s, %.*s", key, (unsigned long long)i, (int)x.size, x.data, (int)y.size,
                         y.data);
        } else {
            assert_true(gguf_array_number(left, i) == gguf_array_number(right, i));
        }
    }
}

// What llama.cpp's own files say about a vocabulary is what we write about it.
static void vocabularies_of_others_are_reproduced(void **state)
{
    (void)state;
    static const struct {
        const char *file, *pre;
    } cases[] = {{"tokenizers/gpt-2.gguf", "gpt-2"}, {"tokenizers/starcoder.gguf", "starcoder"}};
    for (size_t i = 0; i < 2; i++) {
        char *source = shared(cases[i].file);
        if (!source)
            skip();
        char *path = in_directory("v.gguf");
        struct tokenizer *tokenizer;
        OK(tokenizer_open(env, source, &err, &tokenizer));
        struct model *model = tiny(tokenizer_size(tokenizer));
        float *weights = bg_alloc_array(model->floats, sizeof *weights);
        OK(model_save(env, model, weights, tokenizer, MODEL_GGUF, path, &err));
        struct gguf *theirs, *ours;
        OK(gguf_open(env, source, &err, &theirs));
        OK(gguf_open(env, path, &err, &ours));
        expect_same_array(theirs, ours, "tokenizer.ggml.tokens");
        expect_same_array(theirs, ours, "tokenizer.ggml.merges");
        const struct gguf_value *pre = gguf_find(ours, "tokenizer.ggml.pre");
        assert_true(pre->s.size == strlen(cases[i].pre) && !memcmp(pre->s.data, cases[i].pre, pre->s.size));
        uint64_t a, b;
        OK(gguf_u64(theirs, "tokenizer.ggml.eos_token_id", &err, &a));
        OK(gguf_u64(ours, "tokenizer.ggml.eos_token_id", &err, &b));
        assert_int_equal(a, b);
        gguf_close(theirs);
        gguf_close(ours);
        bg_free(weights);
        model_destroy(model);
        tokenizer_destroy(tokenizer);
        bg_free(source);
        bg_free(path);
    }
}

static bool same_bytes(const char *left, const char *right, size_t except_from, size_t except_to)
{
    struct bg_map a, b;
    OK(env->ops->map_open(env, left, &err, &a));
    OK(env->ops->map_open(env, right, &err, &b));
    bool same = a.size == b.size;
    for (size_t i = 0; i < a.size && same; i++)
        same = a.data[i] == b.data[i] || (i >= except_from && i < except_to);
    env->ops->map_close(env, &a);
    env->ops->map_close(env, &b);
    return same;
}

static void stories260k_comes_back_byte_for_byte(void **state)
{
    (void)state;
    char *model_path = shared("models/stories260K.bin"), *vocabulary = shared("models/stories260K.tokenizer.bin");
    if (!model_path || !vocabulary)
        skip();
    struct model_files files, again;
    OK(model_open_llama2c(env, model_path, vocabulary, &err, &files));
    assert_int_equal(files.model->elements, 260032);
    round_trip(files.tokenizer, 512);
    char *path = in_directory("stories.bin"), *gguf = in_directory("stories.gguf");
    char *tokenizer = bg_format("%s.tokenizer.bin", path);
    OK(model_save(env, files.model, files.weights, files.tokenizer, MODEL_GGUF, gguf, &err));
    OK(model_open(env, gguf, &err, &again));
    assert_memory_equal(again.weights, files.weights, files.model->floats * sizeof(float));
    OK(model_save(env, again.model, again.weights, again.tokenizer, MODEL_LLAMA2C, path, &err));
    // The frequency tables at the end were computed by another program; nobody reads them.
    size_t tables = 28 + 260032 * sizeof(float);
    assert_true(same_bytes(model_path, path, tables, SIZE_MAX));
    assert_true(same_bytes(vocabulary, tokenizer, 0, 0));
    model_close(&files);
    model_close(&again);
    bg_free(model_path);
    bg_free(vocabulary);
    bg_free(path);
    bg_free(gguf);
    bg_free(tokenizer);
}

static int setup(void **state)
{
    (void)state;
    const struct os_options options = {.threads = 1};
    return os_env_create(&options, &err, &env) || !mkdtemp(directory);
}

static int teardown(void **state)
{
    (void)state;
    bg_status status = env->ops->path_remove(env, directory, &err);
    os_env_destroy(env);
    return status ? 1 : 0;
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(our_own_tokenizers_come_back),
        cmocka_unit_test(other_vocabularies_are_refused),
        cmocka_unit_test(vocabularies_of_others_are_reproduced),
        cmocka_unit_test(stories260k_comes_back_byte_for_byte),
    };
    return cmocka_run_group_tests(tests, setup, teardown);
}
