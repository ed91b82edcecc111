// The small parts of base: statuses, allocation, arenas, strings, Philox and hashes against published vectors,
// JSON members and their errors.
#include "base/assert.h"
#include "base/hash.h"
#include "base/json.h"
#include "base/mem.h"
#include "base/philox.h"
#include "base/status.h"
#include "base/str.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>
#include <cmocka.h>

static void statuses(void **state)
{
    (void)state;
    struct bg_error err = {0};
    assert_int_equal(bg_fail(&err, BG_FULL, "writing %s", "x"), BG_FULL);
    assert_int_equal(bg_fail_prefix(&err, "file %d", 7), BG_FULL);
    assert_string_equal(err.text, "file 7: writing x");
    bg_fail(&err, BG_IO, "%s again", err.text);
    assert_string_equal(err.text, "file 7: writing x again");
    assert_int_equal(bg_fail(NULL, BG_IO, "nobody listens"), BG_IO);
    char longer[3000];
    memset(longer, 'a', sizeof longer);
    longer[sizeof longer - 1] = 0;
    bg_fail(&err, BG_IO, "%s", longer);
    bg_fail_prefix(&err, "%s", longer);
    assert_int_equal(strlen(err.text), sizeof err.text - 1);
    assert_string_equal(bg_status_text(BG_FULL), "no room left");
    assert_string_equal(bg_status_text((bg_status)999), "unknown status");
    assert_int_equal(bg_status_scope(BG_NOT_FINITE), BG_SCOPE_JOB);
    assert_int_equal(bg_status_told(BG_NOT_CREATED), BG_NOT_CREATED);
    assert_int_equal(bg_status_told(0), BG_INTERNAL);
    assert_int_equal(bg_status_told(UINT32_MAX), BG_INTERNAL);
}

static void memory(void **state)
{
    (void)state;
    uint64_t before = bg_mem_count();
    unsigned char *zeroed = bg_alloc_array(3, 5);
    for (int i = 0; i < 15; i++)
        assert_int_equal(zeroed[i], 0);
    zeroed = bg_realloc_array(zeroed, 100, 5);
    assert_int_equal(bg_mem_count(), before + 2);
    bg_free(zeroed);
    char *text = bg_format("%d %s", 5, "apples"), *part = bg_strndup(text, 3);
    assert_string_equal(text, "5 apples");
    assert_string_equal(part, "5 a");
    bg_free(part);
    bg_free(text);

    static uint8_t bytes[1000];
    struct bg_arena arena = {.base = bytes + 3, .size = sizeof bytes - 3};
    uint8_t *a = bg_arena_take(&arena, 100), *b = bg_arena_take(&arena, 0), *c = bg_arena_take(&arena, 500);
    assert_true(a && b && c && (uintptr_t)a % 64 == 0 && (uintptr_t)c % 64 == 0 && c >= a + 100);
    assert_true(c + 500 <= bytes + sizeof bytes);
    assert_null(bg_arena_take(&arena, 400));
    assert_null(bg_arena_take(&arena, SIZE_MAX));
    assert_non_null(bg_arena_take(&arena, 100));
}

static void strings(void **state)
{
    (void)state;
    struct bg_str str = {0};
    assert_string_equal(bg_str_text(&str), "");
    for (int i = 0; i < 1000; i++)
        bg_str_addf(&str, "%d,", i % 10);
    bg_str_add_bytes(&str, "a\0b", 3);
    assert_int_equal(str.size, 2003);
    assert_int_equal(str.data[2003], 0);
    bg_str_reset(&str);
    bg_str_add(&str, "end");
    char *taken = bg_str_take(&str);
    assert_string_equal(taken, "end");
    assert_true(str.size == 0 && !str.data);
    bg_free(taken);

    struct bg_strlist list = {0};
    bg_strlist_split(&list, "pear,,apple", ',');
    bg_strlist_sort(&list);
    assert_int_equal(list.count, 3);
    assert_string_equal(list.items[0], "");
    assert_string_equal(list.items[2], "pear");
    bg_strlist_fini(&list);
}

static void nearest_word(void **state)
{
    (void)state;
    static const char *const keys[] = {"micro_batch", "micro_batches", "warmup", "lr", "min_lr", "steps"};
    assert_string_equal(bg_nearest("micro_bathc", keys, 6), "micro_batch");
    assert_string_equal(bg_nearest("Warmup", keys, 6), "warmup");
    assert_string_equal(bg_nearest("step", keys, 6), "steps");
    assert_string_equal(bg_nearest("rl", keys, 6), "lr");
    assert_null(bg_nearest("zebra", keys, 6));
    assert_null(bg_nearest("", keys, 6));
    char longer[200];
    memset(longer, 'a', sizeof longer);
    longer[sizeof longer - 1] = 0;
    assert_null(bg_nearest(longer, keys, 6));
}

// Known answers of the Random123 distribution for philox4x32 with 10 rounds.
static void philox_vectors(void **state)
{
    (void)state;
    static const uint32_t vectors[3][10] = {
        {0, 0, 0, 0, 0, 0, 0x6627e8d5, 0xe169c58d, 0xbc57ac4c, 0x9b00dbd8},
        {~0u, ~0u, ~0u, ~0u, ~0u, ~0u, 0x408f276d, 0x41c83b0e, 0xa20bc7c6, 0x6d5451fd},
        {0x243f6a88, 0x85a308d3, 0x13198a2e, 0x03707344, 0xa4093822, 0x299f31d0, 0xd16cfe09, 0x94fdcceb, 0x5001e420,
         0x24126ea1},
    };
    for (int i = 0; i < 3; i++) {
        struct bg_philox_counter counter;
        memcpy(counter.c, vectors[i], sizeof counter.c);
        struct bg_philox_counter words = bg_philox(counter, (struct bg_philox_key){{vectors[i][4], vectors[i][5]}});
        assert_memory_equal(words.c, vectors[i] + 6, sizeof words.c);
    }
    struct bg_philox_key init = bg_philox_key(1, BG_STREAM_INIT), data = bg_philox_key(1, BG_STREAM_DATA);
    assert_true(init.k[0] != data.k[0] && init.k[1] != data.k[1]);
    assert_true(bg_uniform(0) == 0 && bg_uniform(~0u) < 1 && bg_uniform(1u << 31) == 0.5f);
}

static void hash_vectors(void **state)
{
    (void)state;
    char hex[65];
    bg_sha256_hex("abc", 3, hex);
    assert_string_equal(hex, "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad");
    bg_sha256_hex("", 0, hex);
    assert_string_equal(hex, "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855");
    struct bg_sha256 hash;
    bg_sha256_init(&hash);
    bg_sha256_update(&hash, "a", 1);
    bg_sha256_update(&hash, "bc", 2);
    bg_sha256_final(&hash, hex);
    assert_string_equal(hex, "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad");
    assert_true(bg_xxh64("", 0) == 0x2d06800538d394c2u); // XXH3_64bits of nothing, seed 0
}

static json_t *parse(const char *text)
{
    struct bg_error err = {0};
    json_t *root = NULL;
    if (bg_json_parse("test.json", text, strlen(text), &err, &root))
        fail_msg("%s", err.text);
    return root;
}

static void json_members(void **state)
{
    (void)state;
    json_t *root =
        parse("{\"s\": \"x\", \"i\": 7, \"r\": 1e3, \"h\": 0.5, \"b\": true, \"n\": null, \"z\": \"a\\u0000b\"}");
    struct bg_error err = {0};
    const char *text = NULL;
    int64_t integer = 0;
    double number = 0;
    bool boolean = false;
    json_t *value = NULL;
    assert_int_equal(bg_json_string(root, "f", "s", &err, &text), BG_OK);
    assert_string_equal(text, "x");
    assert_int_equal(bg_json_integer(root, "f", "i", 0, 9, &err, &integer), BG_OK);
    assert_int_equal(bg_json_integer(root, "f", "r", 0, 1000, &err, &integer), BG_OK);
    assert_int_equal(integer, 1000);
    assert_int_equal(bg_json_number(root, "f", "i", &err, &number), BG_OK);
    assert_int_equal(bg_json_boolean(root, "f", "b", &err, &boolean), BG_OK);
    assert_true(boolean && number == 7);
    assert_true(bg_json_has(root, "s") && !bg_json_has(root, "n") && !bg_json_has(root, "q"));
    assert_int_equal(bg_json_string(root, "f", "q", &err, &text), BG_NOT_FOUND);
    assert_string_equal(err.text, "f: key \"q\" is missing");
    assert_int_equal(bg_json_string(root, "f", "i", &err, &text), BG_FORMAT);
    assert_string_equal(err.text, "f: key \"i\" holds a number, expected a string");
    assert_int_equal(bg_json_string(root, "f", "z", &err, &text), BG_FORMAT);
    assert_int_equal(bg_json_integer(root, "f", "i", 8, 9, &err, &integer), BG_FORMAT);
    assert_string_equal(err.text, "f: key \"i\" holds 7, expected 8 to 9");
    assert_int_equal(bg_json_integer(root, "f", "h", 0, 9, &err, &integer), BG_FORMAT);
    assert_int_equal(bg_json_object(root, "f", "s", &err, &value), BG_FORMAT);
    assert_int_equal(bg_json_array(root, "f", "n", &err, &value), BG_FORMAT);
    json_decref(root);
    root = parse("[1]");
    char *dump = bg_json_text(root, JSON_COMPACT);
    assert_string_equal(dump, "[1]");
    bg_free(dump);
    assert_int_equal(bg_json_boolean(root, "f", "b", &err, &boolean), BG_FORMAT);
    json_decref(root);
    assert_int_equal(bg_json_parse("bad.json", "{\n \"a\": }", 9, &err, &root), BG_FORMAT);
    assert_memory_equal(err.text, "bad.json:2:", 11);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(statuses),     cmocka_unit_test(memory),         cmocka_unit_test(strings),
        cmocka_unit_test(nearest_word), cmocka_unit_test(philox_vectors), cmocka_unit_test(hash_vectors),
        cmocka_unit_test(json_members),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
