// Cutting text into words: behaviours as Hugging Face documents them, the known patterns, hostile patterns, and
// normalization.
#include "model/tokenizer_int.h"

#include "base/mem.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <cmocka.h>
#include <string.h>
#include <time.h>

static bg_status take(void *arg, const char *word, size_t size, struct bg_error *err)
{
    (void)err;
    bg_str_add_bytes(arg, word, size);
    bg_str_add(arg, "|");
    return BG_OK;
}

static void check(struct split_step *steps, size_t count, const char *text, const char *want)
{
    struct bg_error err = {0};
    struct bg_str words = {0};
    for (size_t i = 0; i < count; i++)
        if (split_step_init(&steps[i], "test", &err) != BG_OK)
            fail_msg("%s", err.text);
    struct splitter splitter = {.steps = steps, .count = count, .name = "t", .first = true, .fn = take, .arg = &words};
    if (split_run(&splitter, text, strlen(text), &err) != BG_OK)
        fail_msg("%s", err.text);
    assert_string_equal(bg_str_text(&words), want);
    splitter_fini(&splitter);
    bg_str_fini(&words);
}

static struct split_step step(enum split_kind kind, const char *pattern)
{
    return (struct split_step){.kind = kind,
                               .pattern = pattern ? bg_strdup(pattern) : NULL,
                               .pattern_size = pattern ? strlen(pattern) : 0,
                               .split = true,
                               .use_regex = true};
}

static void behaviors(void **state)
{
    (void)state;
    static const char *const want[] = {
        [SPLIT_ISOLATED] = "the|-|final|-|-|countdown|",    [SPLIT_REMOVED] = "the|final|countdown|",
        [SPLIT_WITH_PREVIOUS] = "the-|final-|-|countdown|", [SPLIT_WITH_NEXT] = "the|-final|-|-countdown|",
        [SPLIT_CONTIGUOUS] = "the|-|final|--|countdown|",
    };
    static const char *const inverted[] = {
        [SPLIT_ISOLATED] = "the|-|final|-|-|countdown|",    [SPLIT_REMOVED] = "-|-|-|",
        [SPLIT_WITH_PREVIOUS] = "the|-final|-|-countdown|", [SPLIT_WITH_NEXT] = "the-|final-|-|countdown|",
        [SPLIT_CONTIGUOUS] = "the|-|final|--|countdown|",
    };
    for (unsigned b = 0; b < 5; b++) {
        for (unsigned regex = 0; regex < 2; regex++) {
            struct split_step s = step(regex ? SPLIT_REGEX : SPLIT_STRING, "-");
            s.behavior = (enum split_behavior)b;
            check(&s, 1, "the-final--countdown", want[b]);
            s.invert = true;
            check(&s, 1, "the-final--countdown", inverted[b]);
            split_step_fini(&s);
        }
    }
}

static void check_pattern(const char *pattern, const char *text, const char *want)
{
    struct split_step s = step(SPLIT_REGEX, pattern);
    check(&s, 1, text, want);
    split_step_fini(&s);
}

static void patterns(void **state)
{
    (void)state;
    check_pattern(split_pattern_gpt2, "I'll  pay 1234 \xe2\x82\xac!\n\n x",
                  "I|'ll| | pay| 1234| \xe2\x82\xac!|\n\n| x|");
    check_pattern(split_pattern_llama3, "I'LL  pay 1234!\n\n x", "I|'LL| | pay| |123|4|!\n\n| x|");
    check_pattern(split_pattern_qwen2, "a 12\r\nb", "a| |1|2|\r\n|b|");
    check_pattern(split_pattern_o200k, "HelloWorld don't", "Hello|World| don't|");
    check_pattern("\\p{N}", "a12\xc2\xb2", "a|1|2|\xc2\xb2|");
    check_pattern("(?=\\d{3}\\z)", "12345", "12|345|"); // an empty match still cuts
    check_pattern("\\s",
                  "a\xe1\xa0\x8e"
                  "b\xc2\x85"
                  "c",
                  "a\xe1\xa0\x8e"
                  "b|\xc2\x85|c|");                         // U+180E is no space
    check_pattern("\\w+", "a\xcc\x81-b", "a\xcc\x81|-|b|"); // marks are word characters
    check_pattern("[\\w-]+|[^\\s]", "a-b+ c", "a-b|+| |c|");
    check_pattern("[[:alpha:]]+", "ab12", "ab|12|");
    check_pattern("[]\\u0041]", "xAy]", "x|A|y|]|");
    struct split_step s[2] = {step(SPLIT_REGEX, "\\p{N}"), step(SPLIT_BYTE_LEVEL, NULL)};
    check(s, 2, "it's 42 x", "it|'s| |4|2| x|");
    s[1].prepend = PREPEND_ALWAYS;
    check(s, 2, "a7", " a| 7|");
    split_step_fini(&s[0]);
    split_step_fini(&s[1]);
    check_pattern(split_pattern_gpt2, "a\xff\xc3 b\xe2\x82", "a|\xff|\xc3| b|\xe2|\x82|"); // broken bytes by themselves
}

static void metaspace(void **state)
{
    (void)state;
    struct split_step s = step(SPLIT_METASPACE, "_");
    s.prepend = PREPEND_ALWAYS;
    check(&s, 1, "Hey   friend!", "_Hey|_|_|_friend!|");
    check(&s, 1, " x", "_x|");
    s.prepend = PREPEND_NEVER;
    check(&s, 1, "a b", "a|_b|");
    s.split = false;
    check(&s, 1, "a b", "a_b|");
    split_step_fini(&s);
}

static void hostile_patterns(void **state)
{
    (void)state;
    static const char *const slow[] = {"(a+)+b",      "(a|a)*b",        "(a*)*\\1b",
                                       "(?:a.*b|a)",  "a.*b|a.*c|a",    "(?:(?:a?){30}){30}b",
                                       "(a(?1)?b)|a", "(?=(a+))a*b\\1", "(?=.*\\z)a"};
    enum { SIZE = 200000 };
    char *text = bg_alloc_array(SIZE + 1, 1);
    memset(text, 'a', SIZE);
    for (size_t i = 0; i < sizeof slow / sizeof *slow; i++) {
        struct bg_error err = {0};
        struct bg_str words = {0};
        struct split_step s = step(SPLIT_REGEX, slow[i]);
        struct timespec from, to;
        assert_int_equal(split_step_init(&s, "test", &err), BG_OK);
        struct splitter splitter = {.steps = &s, .count = 1, .name = "t", .fn = take, .arg = &words};
        clock_gettime(CLOCK_PROCESS_CPUTIME_ID, &from);
        bg_status status = split_run(&splitter, text, SIZE, &err);
        clock_gettime(CLOCK_PROCESS_CPUTIME_ID, &to);
        double seconds = (double)(to.tv_sec - from.tv_sec) + (double)(to.tv_nsec - from.tv_nsec) * 1e-9;
        if (status != BG_OK)
            assert_non_null(strstr(err.text, slow[i]));
        assert_true(seconds < 5.0);
        print_message("%-20s %s in %.2f s\n", slow[i], status == BG_OK ? "matched" : "refused", seconds);
        splitter_fini(&splitter);
        split_step_fini(&s);
        bg_str_fini(&words);
    }
    bg_free(text);
    static const char *const bad[] = {"(", "[a[b]]", "[a&&b]", "\\h", "(?m)a", "\\K", "a\\C", "[\\W]", "(?<n", "[z-a]"};
    for (size_t i = 0; i < sizeof bad / sizeof *bad; i++) {
        struct bg_error err = {0};
        struct split_step s = step(SPLIT_REGEX, bad[i]);
        assert_int_equal(split_step_init(&s, "file.json: step 3", &err), BG_UNSUPPORTED);
        assert_non_null(strstr(err.text, "file.json: step 3"));
        assert_non_null(strstr(err.text, bad[i]));
        split_step_fini(&s);
    }
}

static void check_normal(bool compose, const char *text, const char *want)
{
    struct normal_step s = {.kind = compose ? NORMAL_NFC : NORMAL_NFD};
    struct bg_str out = {0};
    assert_true(normal_run(&s, 1, text, strlen(text), &out));
    assert_string_equal(bg_str_text(&out), want);
    bg_str_fini(&out);
}

static void normalization(void **state)
{
    (void)state;
    check_normal(true, "plain", "plain");
    check_normal(true, "e\xcc\x81", "\xc3\xa9");
    check_normal(false, "\xc3\xa9", "e\xcc\x81");
    check_normal(true, "q\xcc\x87\xcc\xa3", "q\xcc\xa3\xcc\x87");               // canonical order
    check_normal(true, "\xe1\x84\x80\xe1\x85\xa1\xe1\x86\xa8", "\xea\xb0\x81"); // Hangul
    check_normal(false, "\xea\xb0\x81", "\xe1\x84\x80\xe1\x85\xa1\xe1\x86\xa8");
    check_normal(true, "\xe2\x84\xab", "\xc3\x85"); // the Angstrom sign
    check_normal(true,
                 "\xff"
                 "e\xcc\x81\xe2",
                 "\xff\xc3\xa9\xe2"); // broken bytes stay
    static char one[] = "a", ten[] = "aaaaaaaaaa";
    struct normal_step grow[8];
    for (size_t i = 0; i < 8; i++)
        grow[i] = (struct normal_step){NORMAL_REPLACE, one, ten, 1, 10};
    struct bg_str out = {0};
    assert_false(normal_run(grow, 8, "aaaaaaaaaa", 10, &out));
    assert_true(normal_run(grow, 2, "a-a", 3, &out));
    assert_int_equal(out.size, 201);
    bg_str_fini(&out);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(behaviors),        cmocka_unit_test(patterns),      cmocka_unit_test(metaspace),
        cmocka_unit_test(hostile_patterns), cmocka_unit_test(normalization),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
