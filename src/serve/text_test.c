// Text from tokens: whole characters, whatever the cuts; stop strings found across cuts and never given out; nothing is
// held back that could not be part of either. Held against a reading of the whole text.
#include "serve/text.h"

#include <stdlib.h>
#include <string.h>

#include <stdarg.h>
#include <setjmp.h>
#include <cmocka.h>

static uint64_t state_of_random = 3;

static uint32_t below(uint32_t n)
{
    state_of_random = state_of_random * 6364136223846793005u + 1442695040888963407u;
    return (uint32_t)(state_of_random >> 33) % n;
}

static bool is_whole(const char *bytes, size_t size) // of characters
{
    for (size_t i = 0; i < size;) {
        const unsigned char c = (unsigned char)bytes[i];
        const size_t length = c < 0x80 ? 1 : c < 0xe0 ? 2 : c < 0xf0 ? 3 : 4;
        if (i + length > size || (c & 0xc0) == 0x80)
            return false;
        i += length;
    }
    return true;
}

// Where the first stop string begins in text[0, size), in full; size: nowhere.
static size_t first_stop(const char *const *stops, uint32_t count, const char *text, size_t size)
{
    for (size_t at = 0; at < size; at++)
        for (uint32_t i = 0; i < count; i++)
            if (strlen(stops[i]) <= size - at && strncmp(text + at, stops[i], strlen(stops[i])) == 0)
                return at;
    return size;
}

static void random_cuts(void **unused)
{
    (void)unused;
    static const char *const units[] = {"a",  "b",        "ab", "\xc3\xa9", "\xe2\x82\xac", "\xf0\x9f\x98\x80",
                                        "\n", "b\xc3\xa9"};
    static const char *const stops[] = {"abb",
                                        "b\xc3\xa9"
                                        "a",
                                        "\xe2\x82\xac\xe2\x82\xac", "\n\n"};
    for (uint32_t round = 0; round < 4000; round++) {
        struct bg_str all = {0}, given = {0};
        struct text text;
        const uint32_t stop_count = below(5);
        for (uint32_t i = below(30); i-- > 0;)
            bg_str_add(&all, units[below(8)]);
        text_init(&text, stops, stop_count);
        size_t fed = 0, end = all.size;
        while (fed < all.size && !text.stopped) {
            const size_t left = all.size - fed, take = 1 + below(left < 5 ? (uint32_t)left : 5);
            text_add(&text, all.data + fed, take);
            fed += take;
            assert_true(is_whole(bg_str_text(&text.out), text.out.size));
            bg_str_add_bytes(&given, bg_str_text(&text.out), text.out.size);
            end = first_stop(stops, stop_count, all.data, fed);
            assert_int_equal(text.stopped, end < fed);
            if (!text.stopped)
                assert_true(fed - given.size <= 5 + 3); // a stop string but its last byte, and an open character
        }
        if (stop_count == 0)
            assert_true(all.size - given.size <= 3);
        text_end(&text);
        bg_str_add_bytes(&given, bg_str_text(&text.out), text.out.size);
        assert_int_equal(given.size, text.stopped ? end : all.size);
        assert_memory_equal(bg_str_text(&given), bg_str_text(&all), given.size);
        text_fini(&text);
        bg_str_fini(&all);
        bg_str_fini(&given);
    }
}

static void bytes_that_are_no_text_go_out(void **unused)
{
    (void)unused;
    struct text text;
    static const struct {
        const char *bytes;
        size_t held;
    } cases[] = {{"\xff", 0},     {"\x80\x80", 0}, {"\xc0", 0},         {"\xe2\x82", 2},     {"\xe2", 1},
                 {"\xf8\x88", 0}, {"a\xc3", 1},    {"\xf0\x9f\x98", 3}, {"\xc3\xa9\xc3", 1}, {"\x80\x80\x80\x80", 0}};
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        const size_t size = strlen(cases[i].bytes);
        text_init(&text, NULL, 0);
        text_add(&text, cases[i].bytes, size);
        assert_int_equal(text.out.size, size - cases[i].held);
        text_end(&text);
        assert_int_equal(text.out.size, cases[i].held); // nothing is lost
        text_fini(&text);
    }
    text_init(&text, NULL, 0); // NUL is a byte like others
    text_add(&text, "a\0b", 3);
    assert_int_equal(text.out.size, 3);
    text_fini(&text);
}

static void after_a_stop_nothing(void **unused)
{
    (void)unused;
    struct text text;
    static const char *const stops[] = {"END"};
    text_init(&text, stops, 1);
    text_add(&text, "x E", 3);
    assert_string_equal(bg_str_text(&text.out), "x ");
    text_add(&text, "N", 1);
    assert_int_equal(text.out.size, 0);
    text_add(&text, "D and more", 10);
    assert_true(text.stopped);
    assert_int_equal(text.out.size, 0);
    text_add(&text, "again", 5);
    assert_int_equal(text.out.size, 0);
    text_end(&text);
    assert_int_equal(text.out.size, 0);
    text_fini(&text);
    text_init(&text, stops, 1); // what only began goes out at the end
    text_add(&text, "x EN", 4);
    text_end(&text);
    assert_string_equal(bg_str_text(&text.out), "EN");
    text_fini(&text);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(random_cuts),
        cmocka_unit_test(bytes_that_are_no_text_go_out),
        cmocka_unit_test(after_a_stop_nothing),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
