// The chat template is found in each place a model may have it, and a broken place is an error that names the file.
#include "model/io.h"

#include "base/mem.h"
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
static char directory[] = "/tmp/brigade-chat-XXXXXX";

static void put(const char *name, const char *text)
{
    char *path = bg_format("%s/%s", directory, name);
    FILE *file = fopen(path, "w");
    assert_non_null(file);
    fputs(text, file);
    assert_int_equal(fclose(file), 0);
    bg_free(path);
}

static void expect(const char *name, const char *want)
{
    char *path = bg_format("%s%s%s", directory, *name ? "/" : "", name), *text = NULL;
    if (model_chat_template(env, path, &err, &text))
        fail_msg("%s", err.text);
    if (want)
        assert_string_equal(text, want);
    else
        assert_null(text);
    bg_free(text);
    bg_free(path);
}

static void expect_refusal(const char *name)
{
    char *path = bg_format("%s%s%s", directory, *name ? "/" : "", name), *text = NULL;
    assert_int_equal(model_chat_template(env, path, &err, &text), BG_FORMAT);
    assert_non_null(strstr(err.text, path));
    assert_null(text);
    bg_free(path);
}

static void directories(void **state)
{
    (void)state;
    expect("", NULL);
    put("tokenizer_config.json", "{}");
    expect("", NULL);
    put("tokenizer_config.json", "{\"chat_template\": null}");
    expect("", NULL);
    put("tokenizer_config.json", "{\"chat_template\": \"{{ x }}\"}");
    expect("", "{{ x }}");
    put("tokenizer_config.json", "{\"chat_template\": [{\"name\": \"rag\", \"template\": \"r\"}, "
                                 "{\"name\": \"default\", \"template\": \"d\"}, {\"name\": 3}]}");
    expect("", "d");
    put("tokenizer_config.json", "{\"chat_template\": [{\"name\": \"rag\", \"template\": \"r\"}]}");
    expect_refusal("");
    put("tokenizer_config.json", "{\"chat_template\": 7}");
    expect_refusal("");
    put("tokenizer_config.json", "{\"chat_template\": ");
    expect_refusal("");
    put("chat_template.jinja", "{{ own }}\n"); // comes first
    expect("", "{{ own }}\n");
}

static void gguf_files(void **state)
{
    (void)state;
    const char *names[] = {"with.gguf", "without.gguf", "number.gguf"};
    for (int i = 0; i < 3; i++) {
        struct gguf_writer *w = gguf_writer_create();
        char *path = bg_format("%s/%s", directory, names[i]);
        if (i == 0)
            gguf_put_string(w, "tokenizer.chat_template", "{% if a %}");
        if (i == 2)
            gguf_put_u32(w, "tokenizer.chat_template", 1);
        assert_int_equal(gguf_write(env, path, w, &err), BG_OK);
        gguf_writer_destroy(w);
        bg_free(path);
    }
    expect("with.gguf", "{% if a %}");
    expect("without.gguf", NULL);
    expect_refusal("number.gguf");
}

static int set_up(void **state)
{
    (void)state;
    return os_env_create(&(struct os_options){.threads = 1}, &err, &env) || !mkdtemp(directory);
}

static int tear_down(void **state)
{
    (void)state;
    char *command = bg_format("rm -r %s", directory);
    int code = system(command);
    bg_free(command);
    os_env_destroy(env);
    return code;
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(directories),
        cmocka_unit_test(gguf_files),
    };
    return cmocka_run_group_tests(tests, set_up, tear_down);
}
