// Numbers between bounds against arithmetic on whole numbers: every decimal with few digits is taken if it keeps the
// bounds, and only then; long digits by hand; what cannot be kept is refused.
#include "base/mem.h"
#include "base/str.h"
#include "serve/grammar_test.h"

static struct grammar *compile(struct world *w, const char *schema, struct bg_error *err)
{
    struct grammar *g = NULL;
    *err = (struct bg_error){0};
    const bg_status status = grammar_compile_schema(schema, strlen(schema), w->bytes, err, &g);
    assert_true((status == BG_OK) == (g != NULL));
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

enum { WHOLE_MOST = 130, FORMS = 1 + 10 + 100, OPEN_LEAST = 1, OPEN_MOST = 2, NO_LEAST = 4, NO_MOST = 8 };

struct bounds { // in hundredths
    int least, most;
    unsigned flags;
    bool whole;
};

static bool keeps(const struct bounds *b, int hundredths)
{
    const bool above = b->flags & OPEN_LEAST ? hundredths > b->least : hundredths >= b->least;
    const bool below_most = b->flags & OPEN_MOST ? hundredths < b->most : hundredths <= b->most;
    return (above || b->flags & NO_LEAST) && (below_most || b->flags & NO_MOST);
}

static void add_bound(struct bg_str *schema, const char *word, int hundredths)
{
    const int size = abs(hundredths);
    bg_str_addf(schema, ", \"%s\": %s%d", word, hundredths < 0 ? "-" : "", size / 100);
    if (size % 100)
        bg_str_addf(schema, ".%02d", size % 100);
}

// The same of all decimals; returns how many keep the bounds.
static uint32_t agree(struct world *w, const struct bounds *b)
{
    struct bg_str schema = {0};
    struct bg_error err;
    uint32_t count = 0;
    bg_str_addf(&schema, "{\"type\": \"%s\"", b->whole ? "integer" : "number");
    if (!(b->flags & NO_LEAST))
        add_bound(&schema, b->flags & OPEN_LEAST ? "exclusiveMinimum" : "minimum", b->least);
    if (!(b->flags & NO_MOST))
        add_bound(&schema, b->flags & OPEN_MOST ? "exclusiveMaximum" : "maximum", b->most);
    bg_str_add(&schema, "}");
    struct grammar *g = compile(w, bg_str_text(&schema), &err);
    for (int whole = -WHOLE_MOST; whole <= WHOLE_MOST; whole++)
        for (int form = 0; form < (b->whole ? 1 : FORMS); form++) {
            char text[24], part[8] = "";
            const int digits = form < 1    ? 0
                               : form < 11 ? 1
                                           : 2,
                      shown = form < 1    ? 0
                              : form < 11 ? form - 1
                                          : form - 11;
            const int hundredths = digits == 1 ? shown * 10 : shown;
            if (digits > 0)
                snprintf(part, sizeof part, ".%0*d", digits, shown);
            for (int minus = 0; minus < 1 + (whole == 0); minus++) { // and -0.xx
                const bool negative = whole < 0 || minus;
                snprintf(text, sizeof text, "%s%d%s", negative ? "-" : "", abs(whole), part);
                const int value = abs(whole) * 100 + hundredths;
                const bool wanted = keeps(b, negative ? -value : value) && !(negative && value == 0);
                if (wanted != (g && fits(g, text)))
                    fail_msg("%s: %s: wanted %d: %s", bg_str_text(&schema), text, wanted, err.text);
                count += wanted;
            }
        }
    if (!g && (!strstr(err.text, "no number is between") || count > 0))
        fail_msg("%s: %s", bg_str_text(&schema), err.text);
    if (g)
        grammar_release(g);
    bg_str_fini(&schema);
    return count;
}

static void bounds_are_kept(void **state)
{
    static const int ends[] = {0,   1,     -1,   100,    -100,  99,  101, 1000, 999,
                               990, 10000, 9999, -10000, 12345, -50, 700, 9900};
    struct world w;
    uint32_t some = 0;
    (void)state;
    world_create(&w, 3);
    for (int i = 0; i < 250; i++) {
        struct bounds b = {.flags = below(&w, 12), .whole = below(&w, 2)}; // one bound at least
        b.least = below(&w, 2) ? ends[below(&w, sizeof ends / sizeof *ends)] : (int)below(&w, 26000) - 13000;
        b.most = below(&w, 2) ? ends[below(&w, sizeof ends / sizeof *ends)] : b.least + (int)below(&w, 3000) - 200;
        some += agree(&w, &b) > 0;
    }
    assert_true(some > 120);
    assert_int_equal(agree(&w, &(struct bounds){-200, 300, 0, true}), 6);
    assert_int_equal(agree(&w, &(struct bounds){-200, 300, OPEN_LEAST | OPEN_MOST, true}), 4);
    assert_int_equal(agree(&w, &(struct bounds){10, 11, 0, false}), 3); // 0.1, 0.10, 0.11
    world_destroy(&w);
}

static void long_digits_too(void **state)
{
    static const struct {
        const char *schema, *good[6], *bad[6];
    } cases[] = {
        {"{\"type\": \"integer\", \"minimum\": -9223372036854775808, \"maximum\": 9223372036854775807}",
         {"9999999999999999", "-9999999999999999", "0"},
         {"10000000000000000", "-10000000000000000", "1e3", "007", "+1", "-0"}},
        {"{\"type\": \"integer\", \"minimum\": 1234567890123456}",
         {"1234567890123456", "9999999999999999", "1234567890123460"},
         {"1234567890123455", "234567890123456", "-1234567890123456"}},
        {"{\"type\": \"integer\", \"minimum\": 1e3, \"exclusiveMaximum\": 1.0015e3}",
         {"1000", "1001"},
         {"999", "1002", "1001.5", "10010"}},
        {"{\"type\": \"integer\", \"exclusiveMinimum\": -5.295885940790326}", {"-5", "7"}, {"-6"}},
        {"{\"type\": \"integer\", \"exclusiveMinimum\": -0.0, \"maximum\": 1.7976931348623157e308}",
         {"1", "9999999999999999"},
         {"0", "-1", "-0"}},
        {"{\"type\": \"integer\", \"minimum\": 3, \"exclusiveMinimum\": 3, \"maximum\": 6, \"exclusiveMaximum\": 5.5}",
         {"4", "5"},
         {"3", "6"}},
        {"{\"type\": \"number\", \"minimum\": 0, \"maximum\": 1}",
         {"0", "1", "0.0", "1.0", "0.1234567890123456", "1.0000000000000000"},
         {"1.0000000000000001", "-0.1", "0.12345678901234567", "1e0", "-0", "2"}},
        {"{\"type\": \"number\", \"exclusiveMinimum\": 0}",
         {"0.00000000000001", "5", "1234567890123456.5"},
         {"0", "0.0", "0.000000000000000", "-1"}},
        {"{\"type\": \"number\", \"exclusiveMaximum\": 0.1}",
         {"0.09999999999999", "0", "-0.1"},
         {"0.1", "0.10", "0.099999999999999999", "1"}},
        {"{\"type\": \"number\", \"exclusiveMinimum\": 1234567.5}", // 15 digits, so that no two are one double
         {"1234567.50000001", "1234567.6"},
         {"1234567.500000001", "1234567.5", "1234567.50000000"}},
        {"{\"type\": \"number\", \"minimum\": 9007199254740993}", // rounded to double it is less
         {"9007199254740993", "9999999999999999"},
         {"9007199254740993.0", "9007199254740992"}},
        {"{\"type\": \"number\", \"maximum\": -9007199254740993}",
         {"-9007199254740993"},
         {"-9007199254740993.0", "-9007199254740992", "5"}},
        {"{\"type\": \"number\", \"maximum\": 9007199254740991}",
         {"9007199254740991.0", "0.5"},
         {"9007199254740992", "9007199254740991.5"}},
        {"{\"type\": \"number\", \"minimum\": 2.5e-7, \"maximum\": 1e-6}",
         {"0.00000025", "0.000001", "0.0000007"},
         {"0", "0.00000024", "0.0000011", "0.0000002"}},
    };
    static const char *const bad[][2] = {
        {"{\"type\": \"integer\", \"minimum\": 5, \"maximum\": 4}", "no number is between"},
        {"{\"type\": \"integer\", \"minimum\": 4.2, \"maximum\": 4.8}", "no number is between"},
        {"{\"type\": \"integer\", \"minimum\": 10000000000000000}", "at most 16 digits"},
        {"{\"type\": \"number\", \"maximum\": -1e20}", "at most 16 digits"},
        {"{\"type\": \"number\", \"exclusiveMinimum\": 0.1234567890123456}", "more than 15 digits"},
        {"{\"type\": \"integer\", \"exclusiveMaximum\": 9007199254740993}", "more than 15 digits"},
        {"{\"type\": \"integer\", \"maximum\": null}", "expected numbers"},
    };
    struct world w;
    struct bg_error err;
    (void)state;
    world_create(&w, 3);
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        struct grammar *g = compile(&w, cases[i].schema, &err);
        if (!g)
            fail_msg("%s: %s", cases[i].schema, err.text);
        for (size_t k = 0; k < 6 && cases[i].good[k]; k++)
            if (!fits(g, cases[i].good[k]))
                fail_msg("%s refuses %s", cases[i].schema, cases[i].good[k]);
        for (size_t k = 0; k < 6 && cases[i].bad[k]; k++)
            if (fits(g, cases[i].bad[k]))
                fail_msg("%s takes %s", cases[i].schema, cases[i].bad[k]);
        grammar_release(g);
    }
    for (size_t i = 0; i < sizeof bad / sizeof *bad; i++) {
        assert_null(compile(&w, bad[i][0], &err));
        if (!strstr(err.text, bad[i][1]))
            fail_msg("%s: \"%s\" does not say \"%s\"", bad[i][0], err.text, bad[i][1]);
    }
    world_destroy(&w);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(bounds_are_kept),
        cmocka_unit_test(long_digits_too),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
