// Patterns of strings: PCRE2, which knows nothing of ours, says the same of every short text over a small alphabet, for
// patterns by hand and at random, with and without lengths; what is not supported is refused by name and place.
#define PCRE2_CODE_UNIT_WIDTH 8
#include "base/mem.h"
#include "base/str.h"
#include "serve/grammar_test.h"

#include <pcre2.h>

// {"type": "string", ..} of a pattern; most UINT32_MAX: no limit.
static struct grammar *compile(struct world *w, const char *pattern, uint32_t least, uint32_t most,
                               struct bg_error *err)
{
    struct bg_str schema = {0};
    struct grammar *g = NULL;
    bg_str_add(&schema, "{\"type\": \"string\", \"pattern\": \"");
    for (const char *c = pattern; *c; c++)
        if (*c == '"' || *c == '\\')
            bg_str_addf(&schema, "\\%c", *c);
        else
            bg_str_add_bytes(&schema, c, 1);
    bg_str_add(&schema, "\"");
    if (least > 0)
        bg_str_addf(&schema, ", \"minLength\": %u", least);
    if (most < UINT32_MAX)
        bg_str_addf(&schema, ", \"maxLength\": %u", most);
    bg_str_add(&schema, "}");
    *err = (struct bg_error){0};
    const bg_status status = grammar_compile_schema(bg_str_text(&schema), schema.size, w->bytes, err, &g);
    assert_true((status == BG_OK) == (g != NULL));
    bg_str_fini(&schema);
    return g;
}

static bool fits(const struct grammar *g, const char *text)
{
    struct grammar_state *s = grammar_begin(g);
    bool good = true;
    for (const char *c = text; *c && good; c++)
        good = grammar_accept(s, (unsigned char)*c);
    good = good && grammar_may_end(s);
    grammar_state_destroy(s);
    return good;
}

// The characters of texts, and how JSON spells them.
static const char *const alphabet[][2] = {
    {"a", "a"},    {"b", "b"},     {"1", "1"},     {"-", "-"},
    {"\n", "\\n"}, {"\"", "\\\""}, {"\\", "\\\\"}, {"\xc3\xa9", "\xc3\xa9"},
};
enum { LETTERS = 8, LENGTH_MAX = 4, TEXTS = 1 + 8 + 64 + 512 + 4096 };

// The i-th text of at most LENGTH_MAX characters; returns its length.
static uint32_t text_at(uint32_t i, struct bg_str *text, struct bg_str *spelled)
{
    uint32_t length = 0, of_length = 1;
    for (; i >= of_length; length++, of_length *= LETTERS)
        i -= of_length;
    bg_str_reset(text);
    bg_str_reset(spelled);
    bg_str_add(spelled, "\"");
    for (uint32_t k = 0; k < length; k++, i /= LETTERS) {
        bg_str_add(text, alphabet[i % LETTERS][0]);
        bg_str_add(spelled, alphabet[i % LETTERS][1]);
    }
    bg_str_add(spelled, "\"");
    return length;
}

static pcre2_code *regex_of(const char *pattern)
{
    int code;
    PCRE2_SIZE at;
    pcre2_code *regex =
        pcre2_compile((PCRE2_SPTR)pattern, PCRE2_ZERO_TERMINATED, PCRE2_UTF | PCRE2_DOLLAR_ENDONLY, &code, &at, NULL);
    if (!regex)
        fail_msg("PCRE2 refuses %s at %zu", pattern, at);
    return regex;
}

static bool matches(const pcre2_code *regex, const struct bg_str *text)
{
    pcre2_match_data *match = pcre2_match_data_create_from_pattern(regex, NULL);
    const int found = pcre2_match(regex, (PCRE2_SPTR)bg_str_text(text), text->size, 0, 0, match, NULL);
    pcre2_match_data_free(match);
    return found >= 0;
}

// Both say the same of all texts. Returns how many fit.
static uint32_t agree(struct world *w, const char *pattern, uint32_t least, uint32_t most)
{
    uint32_t count = 0;
    struct bg_error err;
    struct bg_str text = {0}, spelled = {0};
    pcre2_code *regex = regex_of(pattern);
    struct grammar *g = compile(w, pattern, least, most, &err);
    for (uint32_t i = 0; i < TEXTS; i++) {
        const uint32_t length = text_at(i, &text, &spelled);
        const bool wanted = length >= least && length <= most && matches(regex, &text);
        if (wanted != (g && fits(g, bg_str_text(&spelled)))) // refused: nothing fits
            fail_msg("%s %u %u: %s: wanted %d: %s", pattern, least, most, bg_str_text(&spelled), wanted, err.text);
        count += wanted;
    }
    if (!g && (!strstr(err.text, "fits no text") || count > 0))
        fail_msg("%s: %s", pattern, err.text);
    if (g)
        grammar_release(g);
    bg_str_fini(&text);
    bg_str_fini(&spelled);
    pcre2_code_free(regex);
    return count;
}

static void patterns_mean_what_they_mean_elsewhere(void **state)
{
    static const char *const patterns[] = {
        "",
        "^$",
        "a",
        "^a",
        "a$",
        "^a$",
        "^a|b$",
        "^(a|b)$",
        "^a*$",
        "^a+b?$",
        "^[ab]{2}$",
        "^[ab]{2,}$",
        "^[ab]{1,3}$",
        "^a{0}b$",
        "^(ab)*$",
        "^(a*)*$",
        "^(a?){3}$",
        "^(a?b?)*$",
        "^(a|)+$",
        "^(?:a|b1)+$",
        "^[^a]$",
        "^[^a-b]+$",
        "^\\d$",
        "^\\w+$",
        "^\\s$",
        "^\\S$",
        "^\\w\\n$",
        "^[\\d-]+$",
        "^[-a]*$",
        "^[a\\]\"]+$",
        "^\"\\\\$",
        "\\\\",
        "^.$",
        "^.*$",
        "^[.]$",
        "^a.b$",
        "^\\x61\\x62$",
        "^(a|b)(b|1)$",
        "^(a{2}){2}$",
        "^(a{1,2}){2}$",
        "^[\\s\\S]{2}$",
        "^\xc3\xa9+$",
        "^[\xc3\xa0-\xc3\xbf]$",
        "^[^\\s\\d]$",
        "a|",
        "^a|^b|1$",
        "^(a|(b|(1)))$",
        "^((a))$",
        "^a\\-b$",
        "^[a\\-b]{2}$",
        "^(a(b(1)?)?)?$",
        "^]}$",
        "^[+-]?1$",
        "^[\\x0a-\\x22]$",
    };
    struct world w;
    (void)state;
    world_create(&w, 7);
    for (size_t i = 0; i < sizeof patterns / sizeof *patterns; i++) {
        agree(&w, patterns[i], 0, UINT32_MAX);
        agree(&w, patterns[i], 2, 3);
        agree(&w, patterns[i], 0, 1);
        agree(&w, patterns[i], 3, UINT32_MAX);
    }
    assert_int_equal(agree(&w, "^[ab]{2}$", 0, UINT32_MAX), 4);
    assert_int_equal(agree(&w, "a", 1, 1), 1);
    assert_int_equal(agree(&w, "^.+$", 0, 1), 7);
    world_destroy(&w);
}

static void random_pattern(struct world *w, struct bg_str *out, uint32_t depth)
{
    static const char *const atoms[] = {"a",    "b",     "1",   "-",  ".",    "\\d", "\\w",     "[ab]",
                                        "[^a]", "[^b1]", "\\n", "\"", "\\\\", "\\s", "[\\d\"]", "\xc3\xa9"};
    static const char *const times[] = {"", "", "", "*", "+", "?", "{2}", "{1,2}", "{0,3}", "{2,}"};
    const uint32_t alternatives = 1 + (below(w, 4) == 0);
    for (uint32_t a = 0; a < alternatives; a++) {
        if (a > 0)
            bg_str_add(out, "|");
        if (depth == 0 && below(w, 3) > 0)
            bg_str_add(out, "^");
        for (uint32_t i = below(w, 4); i > 0; i--) {
            if (depth < 3 && below(w, 4) == 0) {
                bg_str_add(out, below(w, 2) ? "(" : "(?:");
                random_pattern(w, out, depth + 1);
                bg_str_add(out, ")");
            } else {
                bg_str_add(out, atoms[below(w, 15)]);
            }
            bg_str_add(out, times[below(w, 10)]);
        }
        if (depth == 0 && below(w, 3) > 0)
            bg_str_add(out, "$");
    }
}

static void random_patterns_too(void **state)
{
    struct world w;
    uint32_t some = 0;
    (void)state;
    world_create(&w, 7);
    for (int i = 0; i < 150; i++) {
        struct bg_str pattern = {0};
        random_pattern(&w, &pattern, 0);
        const uint32_t least = below(&w, 4), most = below(&w, 2) ? UINT32_MAX : least + below(&w, 3);
        const uint32_t count = agree(&w, bg_str_text(&pattern), least, most);
        some += count > 0 && count < TEXTS;
        bg_str_fini(&pattern);
    }
    assert_true(some > 75);
    world_destroy(&w);
}

// The grammar of strings that both patterns find something in; NULL: there are none.
static struct grammar *compile_two(struct world *w, const char *a, const char *b)
{
    struct grammar_text text = {0};
    struct grammar_sequence s = {0};
    struct grammar *g = NULL;
    struct bg_error err;
    char why[160];
    uint32_t any, inside;
    assert_true(grammar_rule_of_pattern(&text, "^[\\s\\S]$", NULL, 0, 0, UINT32_MAX, why, sizeof why, &any));
    if (!grammar_rule_of_pattern(&text, a, b, any, 0, UINT32_MAX, why, sizeof why, &inside)) {
        if (!strstr(why, "fits no text"))
            fail_msg("%s and %s: %s", a, b, why);
        grammar_text_fini(&text);
        return NULL;
    }
    const uint32_t root = grammar_rule_new(&text);
    grammar_add_text(&text, &s, "\"", 1);
    grammar_add_rule(&s, inside);
    grammar_add_text(&text, &s, "\"", 1);
    grammar_add_alternative(&text, root, &s);
    assert_int_equal(grammar_finish(&text, root, w->bytes, &err, &g), BG_OK);
    return g;
}

static void two_patterns_at_once(void **state)
{
    struct world w;
    uint32_t some = 0;
    struct bg_str text = {0}, spelled = {0};
    (void)state;
    world_create(&w, 7);
    for (int round = 0; round < 60; round++) {
        struct bg_str a = {0}, b = {0};
        uint32_t count = 0;
        random_pattern(&w, &a, 0);
        random_pattern(&w, &b, 0);
        pcre2_code *first = regex_of(bg_str_text(&a)), *second = regex_of(bg_str_text(&b));
        struct grammar *g = compile_two(&w, bg_str_text(&a), bg_str_text(&b));
        for (uint32_t i = 0; i < TEXTS; i++) {
            text_at(i, &text, &spelled);
            const bool wanted = matches(first, &text) && matches(second, &text);
            if (wanted != (g && fits(g, bg_str_text(&spelled))))
                fail_msg("%s and %s: %s: wanted %d", bg_str_text(&a), bg_str_text(&b), bg_str_text(&spelled), wanted);
            count += wanted;
        }
        some += count > 0 && count < TEXTS;
        if (g)
            grammar_release(g);
        pcre2_code_free(first);
        pcre2_code_free(second);
        bg_str_fini(&a);
        bg_str_fini(&b);
    }
    assert_true(some > 20);
    bg_str_fini(&text);
    bg_str_fini(&spelled);
    world_destroy(&w);
}

static void what_is_not_supported_is_named(void **state)
{
    static const char *const bad[][2] = {
        {"^(?=a)", "look-ahead at offset 1"},
        {"(?!a)", "look-ahead at offset 0"},
        {"(?<=a)b", "look-behind at offset 0"},
        {"(?<n>a)", "named group"},
        {"(?i)a", "flags"},
        {"(a)\\1", "back reference, \\1 at offset 3"},
        {"\\k<n>", "back reference"},
        {"\\bfoo\\b", "word boundary, \\b at offset 0"},
        {"\\p{L}", "Unicode property, \\p at offset 0"},
        {"a*?", "lazy quantifier at offset 2"},
        {"a{2}?", "lazy quantifier at offset 4"},
        {"a++", "possessive"},
        {"a**", "quantifier after a quantifier"},
        {"*a", "nothing to repeat before the quantifier at offset 0"},
        {"(|*)", "nothing to repeat"},
        {"a^b", "anchor"},
        {"(^a)", "anchor inside an alternative or a group at offset 1"},
        {"a$b", "anchor"},
        {"[z-a]", "backwards"},
        {"[\\d-z]", "range from or to a set"},
        {"[a-\\w]", "range from or to a set"},
        {"[]", "empty class"},
        {"[^]", "empty class"},
        {"[abc", "never closed at offset 0"},
        {"[[:alpha:]]", "POSIX class at offset 1"},
        {"(ab", "never closed at offset 0"},
        {"ab)", "closing bracket"},
        {"a{", "brace"},
        {"a{,3}", "brace"},
        {"{", "brace"},
        {"a{3,2}", "n less than m"},
        {"a{5000}", "more than 4096"},
        {"a{99999999999}", "more than 4096"},
        {"\\", "nothing after it"},
        {"\\q", "escape \\q at offset 0"},
        {"\\0", "escape \\0"},
        {"\\cA", "escape \\c"},
        {"\\u{61}", "without four digits"},
        {"\\x6", "without two digits"},
        {"\\ud83d", "surrogate"},
        {"\xc3\xa9\xc3\xa9(?=a)", "offset 2"}, // of characters
        {"[^\\s\\S]", "fits no text"},
        {"(((a{1000}){1000}){1000})", "too many repeated characters"},
        {"((((((a?){99}){99}){99}){99}){99}){99}", "too many repeated characters"},
        {"(((((a*)*)*)*){4000}){4000}", "too many repeated characters"},
        {"((((){4096}){4096}){4096}a){4096}{2}", "quantifier after"},
        {"((((){4096}){4096}){4096}a{4096}){4096}", "too many repeated characters"},
        {"((a|b|c|d|e|f|g|h|i|j|k|l|m|n|o|p|q|r|s|t|u|v|w|x|y|z)?){300}", "too many ways to go on"},
    };
    struct world w;
    (void)state;
    world_create(&w, 7);
    for (size_t i = 0; i < sizeof bad / sizeof *bad; i++) {
        struct bg_error err;
        if (compile(&w, bad[i][0], 0, UINT32_MAX, &err))
            fail_msg("%s is taken", bad[i][0]);
        if (!strstr(err.text, bad[i][1]) || !strstr(err.text, "#: \"pattern\" "))
            fail_msg("%s: \"%s\" does not say \"%s\"", bad[i][0], err.text, bad[i][1]);
    }
    struct bg_error err;
    assert_null(compile(&w, "^(ab){4000}$", 0, 4096, &err));
    assert_non_null(strstr(err.text, "too many rules for these lengths"));
    assert_null(compile(&w, "^(ab){3}$", 0, 5, &err));
    assert_non_null(strstr(err.text, "fits no text of an allowed length"));
    struct bg_str many = {0}, deep = {0};
    struct grammar *g = NULL;
    bg_str_add(&many, "{\"prefixItems\": [true");
    for (int i = 0; i < 900; i++)
        bg_str_add(&many, ", {\"pattern\": \"^(a{990}|b)$\", \"maxLength\": 900}");
    bg_str_add(&many, "]}");
    assert_int_equal(grammar_compile_schema(bg_str_text(&many), many.size, w.bytes, &err, &g), BG_INVALID);
    assert_non_null(strstr(err.text, "prefixItems/3: \"pattern\" takes too many rules"));
    bg_str_reset(&many); // what {0} drops was made nevertheless
    for (int i = 0; i < 80; i++)
        bg_str_add(&many, "(((a|a|a|a|a)+){1000}){0}");
    assert_null(compile(&w, bg_str_text(&many), 0, UINT32_MAX, &err));
    assert_non_null(strstr(err.text, "takes too many rules"));
    bg_str_fini(&many);
    for (int i = 0; i < 1000; i++)
        bg_str_add(&deep, "(");
    assert_null(compile(&w, bg_str_text(&deep), 0, UINT32_MAX, &err));
    assert_non_null(strstr(err.text, "64 deep"));
    bg_str_reset(&deep);
    for (int i = 0; i < 2049; i++)
        bg_str_add(&deep, "a");
    assert_null(compile(&w, bg_str_text(&deep), 0, UINT32_MAX, &err));
    assert_non_null(strstr(err.text, "2048 characters"));
    bg_str_fini(&deep);
    world_destroy(&w);
}

// Every character has one spelling; what dialects disagree about is not written.
static void characters_are_spelled_one_way(void **state)
{
    static const struct {
        const char *pattern, *good[6], *bad[6];
    } cases[] = {
        {"^[\\s\\S]$",
         {"\"\\u0000\"", "\"\\u001f\"", "\"\\u007f\"", "\"\\b\"", "\"\xf0\x9f\x98\x80\"", "\"/\""},
         {"\"\\u000a\"", "\"\\u001F\"", "\"\\u0061\"", "\"\\/\"", "\"\x7f\"", "\"\n\""}},
        {"^\\x00\\u001F$", {"\"\\u0000\\u001f\""}, {"\"\\u0000\""}},
        {"^\\d$", {"\"7\""}, {"\"\xd9\xa3\""}},
        {"^\\D$", {"\"x\"", "\"\xc3\xa9\"", "\"\xe4\xb8\xad\""}, {"\"\xd9\xa3\"", "\"3\""}},
        {"^\\S$", {"\"\xe4\xb8\xad\""}, {"\"\xc2\xa0\"", "\"\\u001c\"", "\" \""}},
        {"^.$", {"\"\\t\""}, {"\"\\n\"", "\"\\r\"", "\"\xe2\x80\xa8\""}},
        {"^[^a]$", {"\"\\n\"", "\"\\\"\"", "\"\\\\\""}, {"\"a\"", "\"\"\"", "\"\\\""}},
        {"^[\xf0\x9f\x98\x80-\xf0\x9f\x98\x8f]{2}$",
         {"\"\xf0\x9f\x98\x80\xf0\x9f\x98\x8f\""},
         {"\"\xf0\x9f\x98\x80\""}},
        {"b", {"\"b\"", "\"\\u0061b\\n\"", "\"abc\""}, {"\"\"", "\"\\u0062\""}},
    };
    struct world w;
    (void)state;
    world_create(&w, 7);
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        struct bg_error err;
        struct grammar *g = compile(&w, cases[i].pattern, 0, UINT32_MAX, &err);
        assert_non_null(g);
        for (size_t k = 0; k < 6 && cases[i].good[k]; k++)
            if (!fits(g, cases[i].good[k]))
                fail_msg("%s refuses %s", cases[i].pattern, cases[i].good[k]);
        for (size_t k = 0; k < 6 && cases[i].bad[k]; k++)
            if (fits(g, cases[i].bad[k]))
                fail_msg("%s takes %s", cases[i].pattern, cases[i].bad[k]);
        grammar_release(g);
    }
    world_destroy(&w);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(patterns_mean_what_they_mean_elsewhere),
        cmocka_unit_test(random_patterns_too),
        cmocka_unit_test(two_patterns_at_once),
        cmocka_unit_test(what_is_not_supported_is_named),
        cmocka_unit_test(characters_are_spelled_one_way),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
