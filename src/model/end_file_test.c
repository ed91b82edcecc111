// Which tokens end a text: lists and single ids of either file, ids of a GGUF file, what no id can be.
#include "base/mem.h"
#include "model/io.h"
#include "os/live.h"
#include "tensor/gguf.h"

#include <stdarg.h>
#include <stdlib.h>
#include <string.h>
#include <setjmp.h>
#include <cmocka.h>

static struct bg_env *env;
static char directory[] = "/tmp/brigade-ends-XXXXXX";
static struct bg_error err;

static void put(const char *name, const char *text)
{
    char *path = bg_format("%s/%s", directory, name);
    assert_int_equal(env_write_file(env, path, text, strlen(text), &err), BG_OK);
    bg_free(path);
}

// `want`: all that end a text of the byte tokenizer, whose own is 0; NULL: refused.
static void expect(const char *name, const int32_t *want, size_t count)
{
    char *path = bg_format("%s%s%s", directory, *name ? "/" : "", name);
    struct tokenizer *t;
    assert_int_equal(tokenizer_open(env, "bytes", &err, &t), BG_OK);
    const bg_status status = model_read_ends(env, path, &err, t);
    if (!want) {
        assert_int_equal(status, BG_FORMAT);
        assert_non_null(strstr(err.text, path));
    } else {
        assert_int_equal(status, BG_OK);
        for (int32_t id = -1; id < 300; id++) {
            bool listed = false;
            for (size_t i = 0; i < count; i++)
                listed |= want[i] == id;
            assert_int_equal(tokenizer_ends(t, id), listed);
        }
        assert_int_equal(tokenizer_eos(t), 0); // what joins documents is as it was
    }
    tokenizer_destroy(t);
    bg_free(path);
}

static void directories(void **state)
{
    (void)state;
    expect("", (int32_t[]){0}, 1);
    put("config.json", "{\"eos_token_id\": 7}");
    expect("", (int32_t[]){0, 7}, 2);
    put("generation_config.json", "{\"eos_token_id\": [7, 9, 0, 9, 300, -1], \"top_k\": 5}");
    expect("", (int32_t[]){0, 7, 9}, 3);
    put("config.json", "{\"eos_token_id\": [11, 12]}");
    expect("", (int32_t[]){0, 7, 9, 11, 12}, 5);
    put("config.json", "{\"eos_token_id\": null}");
    put("generation_config.json", "{}");
    expect("", (int32_t[]){0}, 1);
    put("generation_config.json", "{\"eos_token_id\": []}");
    expect("", (int32_t[]){0}, 1);
    static const char *const bad[] = {"\"</s>\"", "[1, \"</s>\"]", "1.5", "{}", "true"};
    for (size_t i = 0; i < sizeof bad / sizeof *bad; i++) {
        char *text = bg_format("{\"eos_token_id\": %s}", bad[i]);
        put("generation_config.json", text);
        bg_free(text);
        char *path = bg_format("%s/generation_config.json", directory);
        struct tokenizer *t;
        assert_int_equal(tokenizer_open(env, "bytes", &err, &t), BG_OK);
        assert_int_equal(model_read_ends(env, directory, &err, t), BG_FORMAT);
        assert_non_null(strstr(err.text, path));
        tokenizer_destroy(t);
        bg_free(path);
    }
}

static void gguf_files(void **state)
{
    (void)state;
    struct gguf_writer *w = gguf_writer_create();
    gguf_put_u32(w, "tokenizer.ggml.eos_token_id", 3);
    gguf_put_u32(w, "tokenizer.ggml.eot_token_id", 5);
    gguf_put_u32(w, "tokenizer.ggml.eom_token_id", 4000000000u);
    char *path = bg_format("%s/x.gguf", directory);
    assert_int_equal(gguf_write(env, path, w, &err), BG_OK);
    gguf_writer_destroy(w);
    bg_free(path);
    expect("x.gguf", (int32_t[]){0, 3, 5}, 3);
    put("broken.gguf", "GGUF?");
    expect("broken.gguf", NULL, 0);
}

int main(void)
{
    const struct CMUnitTest tests[] = {cmocka_unit_test(directories), cmocka_unit_test(gguf_files)};
    const struct os_options options = {.threads = 1};
    if (!mkdtemp(directory) || os_env_create(&options, &err, &env))
        return 1;
    const int failed = cmocka_run_group_tests(tests, NULL, NULL);
    if (env->ops->path_remove(env, directory, &err))
        return 1;
    os_env_destroy(env);
    return failed;
}
