// safetensors: round trips byte for byte, the strictness of the reader against a gallery of broken files, shards,
// and a disk that fails at every one of the writer's calls in turn.
#include "tensor/safetensors.h"

#include "base/mem.h"
#include "os/live.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

static struct bg_env *env;
static char directory[] = "/tmp/brigade-safetensors-XXXXXX";
static struct bg_error err;

static char *in_directory(const char *name)
{
    return bg_format("%s/%s", directory, name);
}

// A file in memory: the length of `header`, the header, `data_size` bytes counting up.
static uint8_t *make(const char *header, size_t data_size, size_t *size)
{
    uint64_t length = strlen(header);
    *size = 8 + length + data_size;
    uint8_t *bytes = bg_alloc(*size);
    memcpy(bytes, &length, 8);
    memcpy(bytes + 8, header, length);
    for (size_t i = 0; i < data_size; i++)
        bytes[8 + length + i] = (uint8_t)i;
    return bytes;
}

static void expect(const char *header, size_t data_size, bg_status status, const char *mention)
{
    size_t size;
    uint8_t *bytes = make(header, data_size, &size);
    struct safetensors *file = NULL;
    bg_status got = safetensors_parse(bytes, size, "x.safetensors", &err, &file);
    if (got != status || (got && (!strstr(err.text, mention) || !strstr(err.text, "x.safetensors"))))
        fail_msg("%s\n  gave %d: %s", header, (int)got, got ? err.text : "ok");
    if (!got)
        safetensors_close(file);
    bg_free(bytes);
}

#define T(name, dtype, shape, begin, end)                                                                              \
    "\"" name "\":{\"dtype\":\"" dtype "\",\"shape\":" shape ",\"data_offsets\":[" begin "," end "]}"

static void good_files_parse(void **state)
{
    (void)state;
    expect("{}", 0, BG_OK, "");
    expect("{}      ", 0, BG_OK, "");
    expect("{" T("b", "F32", "[2,3]", "0", "24") "," T("a", "U8", "[]", "24", "25") "}", 25, BG_OK, "");
    expect("{" T("empty", "F32", "[0,3]", "0", "0") "," T("a", "F16", "[2]", "0", "4") "}", 4, BG_OK, "");
    expect("{\"__metadata__\":{\"format\":\"pt\"}," T("a", "I64", "[1]", "0", "8") "}", 8, BG_OK, "");
}

static void broken_files_are_refused(void **state)
{
    (void)state;
    expect("{" T("w", "F32", "[2]", "0", "8") "}", 7, BG_FORMAT, "w");
    expect("{" T("w", "F32", "[2]", "0", "8") "}", 9, BG_FORMAT, "behind the last");
    expect("{" T("w", "F32", "[2]", "1", "9") "}", 9, BG_FORMAT, "hole");
    expect("{" T("w", "F32", "[2]", "0", "8") "," T("v", "F32", "[2]", "4", "12") "}", 12, BG_FORMAT, "inside");
    expect("{" T("w", "F32", "[2]", "0", "8") "," T("v", "F32", "[2]", "0", "8") "}", 8, BG_FORMAT, "inside");
    expect("{" T("w", "F32", "[2]", "8", "0") "}", 8, BG_FORMAT, "w");
    expect("{" T("w", "F32", "[2]", "-8", "0") "}", 8, BG_FORMAT, "w");
    expect("{" T("w", "F32", "[-2]", "0", "8") "}", 8, BG_FORMAT, "dimension 0");
    expect("{" T("w", "F32", "[1.5]", "0", "8") "}", 8, BG_FORMAT, "dimension 0");
    expect("{" T("w", "F32", "[3]", "0", "8") "}", 8, BG_FORMAT, "(3)");
    expect("{" T("w", "F32", "[4294967296,4294967296,4]", "0", "8") "}", 8, BG_FORMAT, "w");
    expect("{" T("w", "F32", "[0,9223372036854775807,9223372036854775807]", "0", "0") "}", 0, BG_FORMAT, "w");
    expect("{" T("w", "F32", "[9223372036854775808]", "0", "8") "}", 8, BG_FORMAT, "header");
    expect("{" T("w", "F32", "[1,1,1,1,1,1,1,1,1]", "0", "4") "}", 4, BG_UNSUPPORTED, "9 dimensions");
    expect("{" T("w", "F8_E4M3", "[4]", "0", "4") "}", 4, BG_UNSUPPORTED, "F8_E4M3");
    expect("{" T("w", "F32", "[1]", "0", "4") "," T("w", "F32", "[1]", "0", "4") "}", 4, BG_FORMAT, "duplicate");
    expect("{\"w\":{\"dtype\":\"F32\",\"shape\":[1]}}", 4, BG_FORMAT, "data_offsets");
    expect("{\"w\":7}", 0, BG_FORMAT, "w");
    expect("{\"w\":", 0, BG_FORMAT, "header");
    expect("{\"__metadata__\":{\"a\":1}}", 0, BG_FORMAT, "__metadata__.a");
    expect("{\"\xff\":1}", 0, BG_FORMAT, "header");
    expect(" {}", 0, BG_FORMAT, "begin");
    expect("", 0, BG_FORMAT, "begin");
}

static void lying_lengths_are_refused(void **state)
{
    (void)state;
    static const uint64_t lengths[] = {3, 100, 100 * 1000 * 1000 + 1, UINT64_MAX, UINT64_MAX - 7, 1ull << 63};
    struct safetensors *file;
    for (size_t i = 0; i < sizeof lengths / sizeof *lengths; i++) {
        uint8_t bytes[10] = {0, 0, 0, 0, 0, 0, 0, 0, '{', '}'};
        memcpy(bytes, &lengths[i], 8);
        assert_int_equal(safetensors_parse(bytes, sizeof bytes, "x", &err, &file), BG_FORMAT);
    }
    uint8_t byte = 0;
    for (size_t size = 0; size < 2; size++)
        assert_int_equal(safetensors_parse(&byte, size, "x", &err, &file), BG_FORMAT);
}

static const float floats[6] = {1.5f, -0.0f, 3e-40f, 7, 8, 9};
static const int64_t integers[2] = {INT64_MIN, 5};
static const uint8_t bytes_odd[3] = {1, 2, 3};

static bg_status write_sample(struct bg_env *with, const char *path, const char *note)
{
    const struct safetensors_item items[] = {
        {.name = "z", .dtype = TENSOR_F32, .rank = 2, .shape = {2, 3}, .data = floats},
        {.name = "b\"\xc3\xa9", .dtype = TENSOR_I64, .rank = 1, .shape = {2}, .data = integers},
        {.name = "a", .dtype = TENSOR_U8, .rank = 1, .shape = {3}, .data = bytes_odd},
        {.name = "empty", .dtype = TENSOR_F32, .rank = 2, .shape = {0, 4}},
        {.name = "scalar", .dtype = TENSOR_F32, .rank = 0, .data = floats},
    };
    const struct safetensors_pair pairs[] = {{"note", note}};
    return safetensors_write(with, path, items, 5, pairs, 1, &err);
}

static void check_sample(const char *path, const char *note)
{
    struct safetensors *file = NULL;
    if (safetensors_open(env, path, &err, &file))
        fail_msg("%s", err.text);
    assert_int_equal(safetensors_count(file), 5);
    for (size_t i = 1; i < 5; i++)
        assert_true(strcmp(safetensors_at(file, i - 1)->name, safetensors_at(file, i)->name) < 0);
    const struct tensor_view *view = safetensors_find(file, "z");
    assert_int_equal(view->rank, 2);
    assert_int_equal(view->shape[0], 2);
    assert_int_equal(view->shape[1], 3);
    assert_int_equal(view->bytes, 24);
    float widened[6];
    assert_int_equal(tensor_view_to_f32(view, &err, widened), BG_OK);
    assert_memory_equal(widened, floats, sizeof floats);
    view = safetensors_find(file, "b\"\xc3\xa9");
    assert_memory_equal(view->data, integers, sizeof integers);
    assert_int_equal(tensor_view_to_f32(view, &err, widened), BG_UNSUPPORTED);
    assert_memory_equal(safetensors_find(file, "a")->data, bytes_odd, 3);
    assert_int_equal(safetensors_find(file, "empty")->bytes, 0);
    assert_int_equal(safetensors_find(file, "scalar")->bytes, 4);
    assert_null(safetensors_find(file, "y"));
    assert_string_equal(safetensors_metadata(file, "format"), "pt");
    assert_string_equal(safetensors_metadata(file, "note"), note);
    assert_null(safetensors_metadata(file, "nothing"));
    safetensors_close(file);
}

static void what_is_written_is_read_back(void **state)
{
    (void)state;
    char *path = in_directory("sample.safetensors");
    assert_int_equal(write_sample(env, path, "first"), BG_OK);
    check_sample(path, "first");
    struct bg_map map;
    assert_int_equal(env->ops->map_open(env, path, &err, &map), BG_OK);
    uint64_t header;
    memcpy(&header, map.data, 8);
    assert_int_equal(header % 8, 0);
    struct safetensors *file;
    for (size_t size = 0; size < map.size; size++) // no prefix of a file is a file
        assert_int_equal(safetensors_parse(map.data, size, path, &err, &file), BG_FORMAT);
    env->ops->map_close(env, &map);
    bg_free(path);
}

static void names_that_cannot_be_written(void **state)
{
    (void)state;
    char *path = in_directory("bad.safetensors");
    struct safetensors_item items[2] = {{.name = "w", .dtype = TENSOR_F32, .rank = 1, .shape = {1}, .data = floats},
                                        {.name = "w", .dtype = TENSOR_F32, .rank = 1, .shape = {1}, .data = floats}};
    assert_int_equal(safetensors_write(env, path, items, 2, NULL, 0, &err), BG_INVALID);
    items[1].name = "\xff";
    assert_int_equal(safetensors_write(env, path, items, 2, NULL, 0, &err), BG_INVALID);
    items[1].name = "v";
    items[1].dtype = TENSOR_Q4_0;
    assert_int_equal(safetensors_write(env, path, items, 2, NULL, 0, &err), BG_INVALID);
    struct bg_file_info info;
    assert_int_equal(env->ops->path_info(env, path, &err, &info), BG_OK);
    assert_false(info.exists);
    bg_free(path);
}

// An environment whose disk fails at the n-th call that writes.
struct faulty {
    struct bg_env env;
    struct bg_env_ops ops;
    int calls_left;
};
static struct faulty faulty;

static bool faulty_now(void)
{
    return faulty.calls_left-- == 0;
}
static bg_status faulty_open(struct bg_env *with, const char *path, enum bg_file_mode mode, struct bg_error *e,
                             struct bg_file **file)
{
    (void)with;
    return faulty_now() ? bg_fail(e, BG_FULL, "%s: disk full", path) : env->ops->file_open(env, path, mode, e, file);
}
static bg_status faulty_write(struct bg_env *with, struct bg_file *file, const void *bytes, size_t size,
                              struct bg_error *e)
{
    (void)with;
    if (faulty_now()) {
        assert_int_equal(env->ops->file_write(env, file, bytes, size / 2, e), BG_OK); // half of it arrives
        return bg_fail(e, BG_FULL, "disk full");
    }
    return env->ops->file_write(env, file, bytes, size, e);
}
static bg_status faulty_sync(struct bg_env *with, struct bg_file *file, struct bg_error *e)
{
    (void)with;
    return faulty_now() ? bg_fail(e, BG_FULL, "disk full") : env->ops->file_sync(env, file, e);
}
static bg_status faulty_close(struct bg_env *with, struct bg_file *file, struct bg_error *e)
{
    (void)with;
    bg_status status = env->ops->file_close(env, file, e);
    return faulty_now() ? bg_fail(e, BG_FULL, "disk full") : status;
}
static bg_status faulty_rename(struct bg_env *with, const char *from, const char *to, struct bg_error *e)
{
    (void)with;
    return faulty_now() ? bg_fail(e, BG_IO, "rename") : env->ops->path_rename(env, from, to, e);
}
static bg_status plain_remove(struct bg_env *with, const char *path, struct bg_error *e)
{
    (void)with;
    return env->ops->path_remove(env, path, e);
}
static bg_status plain_path_sync(struct bg_env *with, const char *path, struct bg_error *e)
{
    (void)with;
    return env->ops->path_sync(env, path, e);
}

static void a_full_disk_keeps_the_old_file(void **state)
{
    (void)state;
    faulty.ops = (struct bg_env_ops){
        .file_open = faulty_open,
        .file_write = faulty_write,
        .file_sync = faulty_sync,
        .file_close = faulty_close,
        .path_rename = faulty_rename,
        .path_remove = plain_remove,
        .path_sync = plain_path_sync,
    };
    faulty.env = (struct bg_env){.ops = &faulty.ops, .threads = 1};
    char *path = in_directory("kept.safetensors"), *temporary = in_directory("kept.safetensors.tmp");
    assert_int_equal(write_sample(env, path, "old"), BG_OK);
    int calls = 0;
    for (;; calls++) {
        faulty.calls_left = calls;
        bg_status status = write_sample(&faulty.env, path, "new");
        if (!status)
            break;
        assert_true(status == BG_FULL || status == BG_IO);
        check_sample(path, "old");
        struct bg_file_info info;
        assert_int_equal(env->ops->path_info(env, temporary, &err, &info), BG_OK);
        assert_false(info.exists);
    }
    assert_in_range(calls, 9, 12); // open, length, header, four tensors with bytes, sync, close, rename
    check_sample(path, "new");
    bg_free(path);
    bg_free(temporary);
}

static void write_text(const char *name, const char *text)
{
    char *path = in_directory(name);
    assert_int_equal(env_write_file(env, path, text, strlen(text), &err), BG_OK);
    bg_free(path);
}

static void expect_open(const char *name, bg_status status, const char *mention)
{
    char *path = in_directory(name);
    struct safetensors *file;
    bg_status got = safetensors_open(env, path, &err, &file);
    if (got != status || (got && !strstr(err.text, mention)))
        fail_msg("%s gave %d: %s", name, (int)got, got ? err.text : "ok");
    if (!got) {
        assert_int_equal(safetensors_count(file), 2);
        assert_non_null(safetensors_find(file, "a"));
        safetensors_close(file);
    }
    bg_free(path);
}

static void shards_look_like_one_file(void **state)
{
    (void)state;
    struct safetensors_item a = {.name = "a", .dtype = TENSOR_F32, .rank = 1, .shape = {2}, .data = floats};
    struct safetensors_item b = {.name = "b", .dtype = TENSOR_F32, .rank = 1, .shape = {2}, .data = floats};
    char *first = in_directory("m-1.safetensors"), *second = in_directory("m-2.safetensors");
    assert_int_equal(safetensors_write(env, first, &a, 1, NULL, 0, &err), BG_OK);
    assert_int_equal(safetensors_write(env, second, &b, 1, NULL, 0, &err), BG_OK);
    expect_open("", BG_NOT_FOUND, "neither");
    write_text("model.safetensors.index.json",
               "{\"weight_map\":{\"a\":\"m-1.safetensors\",\"b\":\"m-2.safetensors\"}}");
    expect_open("", BG_OK, "");
    expect_open("model.safetensors.index.json", BG_OK, "");
    write_text("i.json", "{\"weight_map\":{\"c\":\"m-1.safetensors\",\"b\":\"m-2.safetensors\"}}");
    expect_open("i.json", BG_FORMAT, "tensor c");
    write_text("i.json", "{\"weight_map\":{\"a\":\"../m-1.safetensors\"}}");
    expect_open("i.json", BG_FORMAT, "weight_map: a");
    write_text("i.json", "{\"weight_map\":{\"a\":\"m-3.safetensors\"}}");
    expect_open("i.json", BG_NOT_FOUND, "m-3.safetensors");
    write_text("i.json", "{\"weight_map\":{\"a\":1}}");
    expect_open("i.json", BG_FORMAT, "weight_map: a");
    write_text("i.json", "[]");
    expect_open("i.json", BG_FORMAT, "weight_map");
    write_text("i.json", "{\n\n!");
    expect_open("i.json", BG_FORMAT, "i.json:3");
    assert_int_equal(safetensors_write(env, second, &a, 1, NULL, 0, &err), BG_OK);
    expect_open("", BG_FORMAT, "two shards");
    expect_open("absent", BG_NOT_FOUND, "absent");
    bg_free(first);
    bg_free(second);
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
        cmocka_unit_test(good_files_parse),
        cmocka_unit_test(broken_files_are_refused),
        cmocka_unit_test(lying_lengths_are_refused),
        cmocka_unit_test(what_is_written_is_read_back),
        cmocka_unit_test(names_that_cannot_be_written),
        cmocka_unit_test(a_full_disk_keeps_the_old_file),
        cmocka_unit_test(shards_look_like_one_file),
    };
    return cmocka_run_group_tests(tests, setup, teardown);
}
