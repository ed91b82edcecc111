// GGUF: what the writer writes comes back, files built byte by byte with a lie in each place are refused, and the
// vocabulary files of others are read.
#include "tensor/gguf.h"

#include "base/mem.h"
#include "base/str.h"
#include "os/live.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

static struct bg_env *env;
static char directory[] = "/tmp/brigade-gguf-XXXXXX";
static struct bg_error err;

static const float matrix[6] = {1, 2, 3, 4, 5, 6}, vector[3] = {-1, -2, -3};

static void what_is_written_is_read_back(void **state)
{
    (void)state;
    char *path = bg_format("%s/written.gguf", directory);
    struct gguf_writer *w = gguf_writer_create();
    const struct gguf_string strings[3] = {{"a", 1}, {"", 0}, {"b\0c", 3}};
    gguf_put_u32(w, "u", 4000000000u);
    gguf_put_f32(w, "f", 0.1f);
    gguf_put_bool(w, "b", true);
    gguf_put_string(w, "s", "text");
    gguf_put_strings(w, "ss", strings, 3);
    gguf_put_i32s(w, "is", (const int32_t[]){-7, 8}, 2);
    gguf_put_f32s(w, "fs", vector, 3);
    gguf_put_strings(w, "none", NULL, 0);
    gguf_put_tensor(w, "m", 2, (const uint64_t[]){2, 3}, matrix);
    gguf_put_tensor(w, "a", 1, (const uint64_t[]){3}, vector);
    assert_int_equal(gguf_write(env, path, w, &err), BG_OK);
    gguf_writer_destroy(w);

    struct gguf *file = NULL;
    if (gguf_open(env, path, &err, &file))
        fail_msg("%s", err.text);
    assert_string_equal(gguf_name(file), path);
    assert_int_equal(gguf_key_count(file), 8);
    assert_string_equal(gguf_key_at(file, 3), "s");
    uint64_t u;
    double f;
    assert_int_equal(gguf_u64(file, "u", &err, &u), BG_OK);
    assert_true(u == 4000000000u);
    assert_int_equal(gguf_f64(file, "f", &err, &f), BG_OK);
    assert_true(f == (double)0.1f);
    assert_int_equal(gguf_u64(file, "f", &err, &u), BG_FORMAT);
    assert_int_equal(gguf_u64(file, "missing", &err, &u), BG_NOT_FOUND);
    assert_true(gguf_find(file, "b")->b);
    assert_memory_equal(gguf_find(file, "s")->s.data, "text", 4);
    const struct gguf_value *array = gguf_find(file, "ss");
    assert_int_equal(array->count, 3);
    assert_int_equal(gguf_array_string(array, 2).size, 3);
    assert_memory_equal(gguf_array_string(array, 2).data, "b\0c", 3);
    assert_true(gguf_array_number(gguf_find(file, "is"), 0) == -7);
    assert_true(gguf_array_number(gguf_find(file, "fs"), 2) == -3);
    assert_int_equal(gguf_find(file, "none")->count, 0);
    assert_int_equal(gguf_tensor_count(file), 2);
    const struct tensor_view *view = gguf_tensor_find(file, "m");
    assert_true(view->rank == 2 && view->shape[0] == 2 && view->shape[1] == 3);
    assert_memory_equal(view->data, matrix, sizeof matrix);
    assert_memory_equal(gguf_tensor_at(file, 0)->data, vector, sizeof vector);
    gguf_close(file);
    bg_free(path);
}

// A file in pieces, each of which a test may replace by a lie.
struct parts {
    const char *magic;
    uint32_t version;
    uint64_t tensors, pairs;
    uint64_t key_size;
    uint32_t value_type;
    uint64_t array_count;
    uint32_t element;
    uint32_t rank;
    uint64_t shape[4];
    uint32_t type;
    uint64_t offset;
    uint64_t second_offset;
    const char *second_name;
    uint32_t alignment;
};

static const struct parts sound = {
    .magic = "GGUF",
    .version = 3,
    .tensors = 2,
    .pairs = 2,
    .key_size = 1,
    .value_type = GGUF_ARRAY,
    .array_count = 2,
    .element = GGUF_U8,
    .rank = 2,
    .shape = {3, 2, 1, 1},
    .offset = 0,
    .second_offset = 32,
    .second_name = "t2",
    .alignment = 32,
};

static void add(struct bg_str *s, const void *bytes, size_t size)
{
    bg_str_add_bytes(s, bytes, size);
}

static void build(const struct parts *p, struct bg_str *s)
{
    uint64_t sizes[] = {17, 2};
    uint32_t u32 = GGUF_U32, one = 1, f32 = 0;
    uint64_t two = 2;
    add(s, p->magic, 4);
    add(s, &p->version, 4);
    add(s, &p->tensors, 8);
    add(s, &p->pairs, 8);
    add(s, &sizes[0], 8);
    add(s, "general.alignment", 17);
    add(s, &u32, 4);
    add(s, &p->alignment, 4);
    add(s, &p->key_size, 8);
    add(s, "k", 1);
    add(s, &p->value_type, 4);
    add(s, &p->element, 4);
    add(s, &p->array_count, 8);
    add(s, "\1\2", 2);
    add(s, &sizes[1], 8);
    add(s, "t1", 2);
    add(s, &p->rank, 4);
    add(s, p->shape, 8 * (p->rank <= 4 ? p->rank : 4));
    add(s, &p->type, 4);
    add(s, &p->offset, 8);
    add(s, &sizes[1], 8);
    add(s, p->second_name, 2);
    add(s, &one, 4);
    add(s, &two, 8);
    add(s, &f32, 4);
    add(s, &p->second_offset, 8);
    while (s->size % 32)
        add(s, "", 1);
    add(s, matrix, 24);
    add(s, "\0\0\0\0\0\0\0", 8);
    add(s, vector, 8);
}

static void expect(struct parts p, bg_status status, const char *mention)
{
    struct bg_str s = {0};
    build(&p, &s);
    uint8_t *exact = bg_alloc(s.size); // so that a sanitizer sees the first byte too far
    memcpy(exact, s.data, s.size);
    struct gguf *file = NULL;
    bg_status got = gguf_parse(exact, s.size, "x.gguf", &err, &file);
    if (got != status || (got && (!strstr(err.text, mention) || !strstr(err.text, "x.gguf"))))
        fail_msg("expected \"%s\", got %d: %s", mention, (int)got, got ? err.text : "ok");
    if (!got)
        gguf_close(file);
    bg_free(exact);
    bg_str_fini(&s);
}

#define LIE(status, mention, ...)                                                                                      \
    do {                                                                                                               \
        struct parts p = sound;                                                                                        \
        __VA_ARGS__;                                                                                                   \
        expect(p, status, mention);                                                                                    \
    } while (0)

static void lies_are_refused(void **state)
{
    (void)state;
    expect(sound, BG_OK, "");
    LIE(BG_FORMAT, "not a GGUF", p.magic = "GGML");
    LIE(BG_UNSUPPORTED, "version 1", p.version = 1);
    LIE(BG_UNSUPPORTED, "big-endian", p.version = 3u << 24);
    LIE(BG_FORMAT, "tensors", p.tensors = UINT64_MAX);
    LIE(BG_FORMAT, "tensors", p.tensors = 1ull << 60);
    LIE(BG_FORMAT, "x.gguf", p.tensors = 3);
    LIE(BG_FORMAT, "keys", p.pairs = UINT64_MAX);
    LIE(BG_FORMAT, "x.gguf", p.pairs = 3);
    LIE(BG_FORMAT, "ends inside", p.key_size = UINT64_MAX);
    LIE(BG_FORMAT, "x.gguf", p.key_size = 5000);
    LIE(BG_FORMAT, "unknown type", p.value_type = 13);
    LIE(BG_FORMAT, "do not fit", p.array_count = UINT64_MAX);
    LIE(BG_FORMAT, "do not fit", p.array_count = 1ull << 61, p.element = GGUF_U64);
    LIE(BG_UNSUPPORTED, "array of type 9", p.element = GGUF_ARRAY);
    LIE(BG_UNSUPPORTED, "array of type 77", p.element = 77);
    LIE(BG_FORMAT, "x.gguf", p.element = GGUF_STRING);
    LIE(BG_FORMAT, "5 dimensions", p.rank = 5);
    LIE(BG_FORMAT, "0 dimensions", p.rank = 0);
    LIE(BG_FORMAT, "impossible", p.shape[0] = 1ull << 63);
    LIE(BG_FORMAT, "impossible", p.shape[0] = p.shape[1] = 1ull << 33);
    LIE(BG_FORMAT, "outside", p.shape[0] = 1000000);
    LIE(BG_FORMAT, "impossible", p.type = 12);
    LIE(BG_UNSUPPORTED, "element type 10", p.type = 10);
    LIE(BG_FORMAT, "multiple", p.offset = 4);
    LIE(BG_FORMAT, "outside", p.offset = 1ull << 40);
    LIE(BG_FORMAT, "outside", p.second_offset = UINT64_MAX - 31);
    LIE(BG_FORMAT, "overlap", p.second_offset = 0);
    LIE(BG_FORMAT, "twice", p.second_name = "t1");
    LIE(BG_FORMAT, "alignment", p.alignment = 33);
    LIE(BG_FORMAT, "alignment", p.alignment = 0);
    LIE(BG_FORMAT, "NUL", p.second_name = "t");
}

static void no_prefix_is_a_file(void **state)
{
    (void)state;
    struct bg_str s = {0};
    build(&sound, &s);
    for (size_t size = 0; size < s.size; size++) {
        uint8_t *exact = bg_alloc(size);
        memcpy(exact, s.data, size);
        struct gguf *file;
        assert_int_equal(gguf_parse(exact, size, "x.gguf", &err, &file), BG_FORMAT);
        bg_free(exact);
    }
    bg_str_fini(&s);
}

static void vocabularies_of_others_are_read(void **state)
{
    (void)state;
    const char *shared = getenv("BRIGADE_SHARED");
    char *path = shared ? bg_format("%s/data/tokenizers/gpt-2.gguf", shared)
                        : bg_format("%s/../shared/data/tokenizers/gpt-2.gguf", BRIGADE_SOURCE_DIR);
    struct bg_file_info info;
    assert_int_equal(env->ops->path_info(env, path, &err, &info), BG_OK);
    if (!info.exists) {
        print_message("skipped: %s is not there\n", path);
        bg_free(path);
        skip();
    }
    struct gguf *file = NULL;
    if (gguf_open(env, path, &err, &file))
        fail_msg("%s", err.text);
    const struct gguf_value *tokens = gguf_find(file, "tokenizer.ggml.tokens");
    assert_non_null(tokens);
    assert_int_equal(tokens->count, 50257);
    assert_memory_equal(gguf_array_string(tokens, 50256).data, "<|endoftext|>", 13);
    assert_int_equal(gguf_find(file, "tokenizer.ggml.merges")->count, 50000);
    gguf_close(file);
    bg_free(path);
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
        cmocka_unit_test(what_is_written_is_read_back),
        cmocka_unit_test(lies_are_refused),
        cmocka_unit_test(no_prefix_is_a_file),
        cmocka_unit_test(vocabularies_of_others_are_read),
    };
    return cmocka_run_group_tests(tests, setup, teardown);
}
