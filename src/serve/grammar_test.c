// Grammars: texts that fit and texts that do not; what random draws under a schema's mask write is JSON of that schema;
// what cannot be kept is refused by name; hostile texts are bounded.
#include "base/mem.h"
#include "base/str.h"
#include "serve/grammar_test.h"

#include <jansson.h>

static bool fits(const struct grammar *g, const char *text)
{
    struct grammar_state *s = grammar_begin(g);
    uint64_t mask[8];
    bool good = true;
    for (const char *c = text; *c && good; c++) {
        grammar_mask(s, mask);
        const int32_t id = (unsigned char)*c;
        const bool allowed = mask[id / 64] >> id % 64 & 1;
        good = grammar_accept(s, id);
        assert_int_equal(good, allowed);
    }
    good = good && grammar_may_end(s);
    grammar_state_destroy(s);
    return good;
}

struct example {
    const char *grammar;
    const char *good[8], *bad[8];
};

static const struct example gbnf[] = {
    {"root ::= \"a\"{5,5}", {"aaaaa"}, {"aaaa", "aaaaaa", "b", ""}},
    {"root ::= \"a\"* (\"b\" | \"c\")+ \"d\"?", {"b", "aacbd", "cccc"}, {"", "a", "bd d", "bdd"}},
    {"root ::= [a-c]{2,} [^x\\n]", {"abq", "abcabc", "cc\xc3\xa9"}, {"ab", "abx", "ab\n", "a"}},
    {"# comment\nroot ::= item (\",\" item)*\nitem ::= [0-9]+ |\n  \"-\"", {"1", "12,-,3", "-"}, {",", "1,", "a"}},
    {"root ::= \"\\x41\\u00e9\\t\"", {"A\xc3\xa9\t"}, {"A\xc3\xa8\t", "A"}},
    {"root ::= \"(\" root \")\" | \"\"", {"", "()", "((((()))))"}, {"(", "())", ")("}},
    {"root ::= \"\"", {""}, {"a"}},
    {"root ::= ((\"a\"{0,9}){0,9} \"b\"?){0,9}",
     {"", "aaaaaaaaaaaaaaaaaaaaaaaaaaab", "bbbbbbbbb"},
     {"bbbbbbbbbb", "c"}},
    {"root ::= \"b\" | \"x\" ((\"a\"{0,4096}){0,4096}){0,4096}", {"b"}, {"x", "xa", ""}}, // too many ways after x
    {"root ::= \"a\" | \"b\" loop | [c-d] root\nloop ::= \"b\" loop",
     {"a", "ca", "dcda"},
     {"b", "bb", "cb"}}, // what never ends is not begun
    {"root ::= \"a\"\nother ::= \"b\" other", {"a"}, {"b"}},
    {"root ::= . .", {"ab", "\xe2\x82\xac\xf0\x9f\x98\x80"}, {"a", "abc", "\xff\xff", "\xe2\x82"}},
    {"root ::= [\xce\xb1-\xcf\x89]+", {"\xce\xb2\xce\xb3"}, {"a", "\xce", "\xcf\x8a"}},
};

static void texts_fit_or_not(void **state)
{
    struct world w;
    (void)state;
    world_create(&w, 5);
    for (size_t i = 0; i < sizeof gbnf / sizeof *gbnf; i++) {
        struct grammar *g = NULL;
        struct bg_error err = {0};
        if (grammar_compile_gbnf(gbnf[i].grammar, strlen(gbnf[i].grammar), w.bytes, &err, &g))
            fail_msg("%s: %s", gbnf[i].grammar, err.text);
        for (size_t k = 0; k < 8 && gbnf[i].good[k]; k++)
            if (!fits(g, gbnf[i].good[k]))
                fail_msg("%s refuses %s", gbnf[i].grammar, gbnf[i].good[k]);
        for (size_t k = 0; k < 8 && gbnf[i].bad[k]; k++)
            if (fits(g, gbnf[i].bad[k]))
                fail_msg("%s takes %s", gbnf[i].grammar, gbnf[i].bad[k]);
        grammar_release(g);
    }
    world_destroy(&w);
}

static void bad_grammars_are_refused(void **state)
{
    static const char *const bad[][2] = {
        {"root ::= root \"a\" | \"b\"", "begins with itself"},
        {"root ::= (\"a\"*)*", "empty"},
        {"root ::= other", "nothing defines"},
        {"start ::= \"a\"", "\"root\""},
        {"root ::= \"a", "ends inside"},
        {"root ::= [z-a]", "before it begins"},
        {"root ::= \"a\"{3,2}", "m <= n"},
        {"root ::= \"a\"{1,99999}", "4096"},
        {"root ::= (\"a\"", "closing bracket"},
        {"root ::= \"\\q\"", "escape"},
        {"root := \"a\"", "::="},
        {"root ::= \"a\"\nroot ::= \"b\"", "defined before"},
        {"root ::= *", "nothing to repeat"},
        {"", "nothing defines"},
        {"root ::= \"a\" root", "rule \"root\" never ends"},
        {"root ::= [a-c] loop | (\"x\" loop)\nloop ::= \"a\" loop | \"b\" root", "rule \"loop\" never ends"},
        {"root ::= \"a\" ( \"b\" ( \"c\" root )+ )+", "rule \"root\" never ends"},
        {"root ::= ((\"a\"{0,4096}){0,4096}){0,4096}", "can begin in more than"},
        {"root ::= ((((\"a\"{4096}){4096}){4096}){4096})", "too large"},
    };
    struct world w;
    (void)state;
    world_create(&w, 5);
    for (size_t i = 0; i < sizeof bad / sizeof *bad; i++) {
        struct grammar *g = NULL;
        struct bg_error err = {0};
        if (grammar_compile_gbnf(bad[i][0], strlen(bad[i][0]), w.bytes, &err, &g) == BG_OK) {
            if (i + 1 == sizeof bad / sizeof *bad) { // rules of rules: 4096 parts each, no more
                grammar_release(g);
                continue;
            }
            fail_msg("%s is taken", bad[i][0]);
        }
        if (!strstr(err.text, bad[i][1]))
            fail_msg("%s: \"%s\" does not say \"%s\"", bad[i][0], err.text, bad[i][1]);
    }
    struct bg_str deep = {0};
    struct grammar *g = NULL;
    struct bg_error err;
    bg_str_add(&deep, "root ::= ");
    for (int i = 0; i < 20000; i++)
        bg_str_add(&deep, "(");
    assert_int_equal(grammar_compile_gbnf(bg_str_text(&deep), deep.size, w.bytes, &err, &g), BG_INVALID);
    bg_str_reset(&deep); // each part may be empty, or one of many: what waits to be looked at is bounded too
    bg_str_add(&deep, "root ::=");
    for (int i = 0; i < 14000; i++)
        bg_str_add(&deep, " e");
    bg_str_add(&deep, "\ne ::= ");
    for (int i = 0; i < 9000; i++)
        bg_str_add(&deep, "\"a\"|");
    bg_str_add(&deep, "\"\"\n");
    assert_int_equal(grammar_compile_gbnf(bg_str_text(&deep), deep.size, w.bytes, &err, &g), BG_INVALID);
    assert_non_null(strstr(err.text, "can begin in more than"));
    bg_str_fini(&deep);
    world_destroy(&w);
}

static struct grammar *schema_of(struct world *w, const char *schema)
{
    struct grammar *g = NULL;
    struct bg_error err = {0};
    if (grammar_compile_schema(schema, schema ? strlen(schema) : 0, w->bytes, &err, &g))
        fail_msg("%s: %s", schema, err.text);
    return g;
}

static const struct example schemas[] = {
    {"{\"const\": \"42\"}", {"\"42\""}, {"42", "\"4\"", "\"42\" "}},
    {"{\"type\": \"object\", \"properties\": {\"a\": {\"type\": \"integer\"}, \"b\": {\"type\": \"string\"}, \"c\": "
     "{\"type\": \"boolean\"}}, \"required\": [\"b\"]}",
     {"{\"b\":\"x\"}", "{\"a\": 1, \"b\": \"\", \"c\":true}", "{\n  \"a\": -20,\n  \"b\": \"\\u00e9\"\n}",
      "{\"b\":\"x\",\"c\":false}"},
     {"{}", "{\"a\":1}", "{\"b\":\"x\",\"a\":1}", "{\"b\":\"x\",}", "{\"b\":\"x\",\"d\":1}", "{  \"b\":\"x\"}",
      "{\"a\":01,\"b\":\"\"}"}},
    {"{\"type\": \"array\", \"items\": {\"enum\": [1, \"two\", null]}, \"minItems\": 1, \"maxItems\": 3}",
     {"[1]", "[\"two\",null, 1]", "[ 1 , 1 ]"},
     {"[]", "[2]", "[1,1,1,1]", "[1,]"}},
    {"{\"anyOf\": [{\"type\": \"null\"}, {\"type\": \"string\", \"minLength\": 2, \"maxLength\": 3}]}",
     {"null", "\"ab\"", "\"abc\"", "\"\\n\xc3\xa9\""},
     {"\"a\"", "\"abcd\"", "nul"}},
    {"{\"$defs\": {\"node\": {\"type\": \"object\", \"properties\": {\"v\": {\"type\": \"number\"}, \"next\": "
     "{\"anyOf\": "
     "[{\"$ref\": \"#/$defs/node\"}, {\"type\": \"null\"}]}}, \"required\": [\"v\", \"next\"]}}, \"$ref\": "
     "\"#/$defs/node\"}",
     {"{\"v\":1.5e3,\"next\":{\"v\":0,\"next\":null}}"},
     {"{\"v\":1}", "{\"v\":1,\"next\":{}}"}},
    {"{\"type\": \"string\", \"format\": \"date\"}",
     {"\"2024-01-31\"", "\"1000-02-28\"", "\"9999-12-10\"", "\"2023-09-30\"", "\"2024-02-29\"", "\"2000-02-29\""},
     {"\"2024-1-31\"", "\"2024-13-01\"", "\"1900-02-29\"", "\"2024-04-31\"", "\"2023-02-29\"", "\"2024-01-00\"",
      "\"2024-01-32\"", "\"0000-01-01\""}},
    {"{\"type\": \"string\", \"format\": \"date-time\"}",
     {"\"2024-01-31T00:00:00Z\"", "\"1999-12-31T23:59:59Z\"", "\"1999-12-31T23:59:59.125+05:30\""},
     {"\"2024-01-31T24:00:00Z\"", "\"2024-01-31T00:60:00Z\"", "\"2024-01-31T00:00:60Z\"", "\"2024-01-31T00:00:00\""}},
    {"{\"type\": \"string\", \"format\": \"time\"}", {"\"19:05:40Z\""}, {"\"30:05:40Z\"", "\"9:05:40Z\""}},
    {"{\"type\": \"string\", \"format\": \"uuid\"}",
     {"\"01234567-89ab-cdef-0123-456789abcdef\""},
     {"\"01234567-89ab-cdef-0123-456789abcde\"", "\"0123456789abcdef0123456789abcdef\""}},
    {"{\"type\": \"string\"}",
     {"\"\\ud7ff\"", "\"\\uE000\"", "\"\\u00dF\""},
     {"\"\\ud800\"", "\"\\uDfff\"", "\"\\u12\""}},
    {"{\"type\": [\"string\", \"null\", \"integer\"], \"pattern\": \"^[A-Z]{3}$\", \"minimum\": 7}",
     {"\"ABC\"", "null", "7", "10"},
     {"\"abc\"", "6", "\"\"", "7.0"}},
    {"{\"oneOf\": [{\"type\": \"null\"}, {\"type\": \"boolean\"}], \"discriminator\": {\"propertyName\": \"k\"}, "
     "\"x-y\": 1}",
     {"null", "true"},
     {"1"}},
    {"{\"maxLength\": 100000}", {"\"ab\""}, {"1"}},
    {"{\"minLength\": 2}", {"\"ab\""}, {"\"a\"", "1"}},
    {"{\"maximum\": 2}", {"1.75", "-3"}, {"\"a\"", "2.5"}},
    {"{\"type\": \"array\", \"items\": {\"const\": 1}, \"uniqueItems\": true, \"maxItems\": 1}",
     {"[]", "[1]"},
     {"[1,1]"}},
    {"{\"type\": \"string\", \"format\": \"date\", \"pattern\": \"^20.*-0[12]-\"}",
     {"\"2024-02-29\"", "\"2023-01-31\""},
     {"\"2023-02-29\"", "\"2024-03-01\"", "\"1999-01-01\"", "\"20-01-\""}},
    {"{\"type\": \"string\", \"format\": \"duration\"}",
     {"\"P1Y2M3DT4H5M6S\"", "\"PT36H\"", "\"P4W\"", "\"P2M\"", "\"PT1M\""},
     {"\"P\"", "\"PT\"", "\"P1DT\"", "\"P1YT\"", "\"P1Y3D\"", "\"P1W1D\"", "\"1D\"", "\"PT1H5S\""}},
    {"{\"type\": \"string\", \"format\": \"email\"}",
     {"\"a.b@example.com\"", "\"x_1+y@a-b.co.uk\""},
     {"\"a@b\"", "\"a..b@x.yz\"", "\"@x.yz\"", "\"a@-x.yz\"", "\"a@x.1\"", "\"a b@x.yz\"", "\"a@x.yz.\""}},
    {"{\"type\": \"string\", \"format\": \"hostname\", \"maxLength\": 11}",
     {"\"localhost\"", "\"example.com\"", "\"a-b.c\""},
     {"\"example.comm\"", "\"-a\"", "\"a-\"", "\"a..b\"", "\"1.2.3.4\"", "\"\""}},
    {"{\"type\": \"string\", \"format\": \"ipv4\"}",
     {"\"0.0.0.0\"", "\"255.255.255.255\"", "\"192.168.10.99\""},
     {"\"256.0.0.0\"", "\"1.2.3\"", "\"01.2.3.4\"", "\"1.2.3.4.5\"", "\"1.2.3.\""}},
    {"{\"type\": \"string\", \"format\": \"ipv6\"}",
     {"\"::\"", "\"::1\"", "\"fe80::1:2\"", "\"1:2:3:4:5:6:7:8\"", "\"2001:DB8::\"", "\"1::8\"", "\"1:2:3:4:5:6:7::\""},
     {"\":\"", "\":::\"", "\"1:2:3:4:5:6:7\"", "\"1::2::3\"", "\"1:2:3:4:5:6:7:8:9\"", "\"12345::\"", "\"1:\"",
      "\"1::2:3:4:5:6:7:8\""}},
    {"{\"type\": \"number\"}", {"-0.5e-99", "1E+10", "0"}, {"1e400", "1e", ".5", "00"}},
    {"{\"type\": \"integer\", \"enum\": [\"a\", 1, 1.5, 20]}", {"1", "20"}, {"\"a\"", "1.5", "2"}},
    {"{\"type\": [\"null\", \"string\"], \"enum\": [\"a\", 1, null]}", {"\"a\"", "null"}, {"1"}},
    {"{\"type\": \"object\", \"properties\": {\"a\": {\"type\": \"null\"}}, \"additionalProperties\": {\"type\": "
     "\"integer\"}}",
     {"{}", "{\"a\":null}"},
     {"{\"a\":1}", "{\"a\":null,\"a\":1}", "{\"\\u0061\":1}"}},
    {"{\"type\": \"object\", \"additionalProperties\": false}", {"{}", "{ }"}, {"{\"a\":1}"}},
    {"{\"anyOf\": [{\"const\": 1}, {\"items\": {\"$ref\": \"#\"}}, {\"$ref\": \"#/$defs/e\"}], \"$defs\": {\"e\": "
     "{\"minItems\": "
     "1, \"items\": {\"$ref\": \"#/$defs/e\"}}}}",
     {"1", "[]", "[1,[1]]"},
     {"[[", "2"}}, // its last alternative never ends
    {"{\"prefixItems\": [{\"const\": 1}, {\"const\": 2}], \"minItems\": 2, \"maxItems\": 2}",
     {"[1,2]"},
     {"[1]", "[1,2,3]", "[]"}},
    {"{\"oneOf\": [{\"type\": \"integer\"}, {\"enum\": [\"a\", null]}, {\"type\": \"object\", \"properties\": {\"k\": "
     "{\"const\": 1}}, \"required\": [\"k\"]}, {\"$ref\": \"#/$defs/two\"}], \"$defs\": {\"two\": {\"type\": "
     "\"object\", "
     "\"properties\": {\"k\": {\"const\": 2}, \"l\": {\"type\": \"null\"}}, \"required\": [\"k\"]}}}",
     {"5", "\"a\"", "{\"k\":1}", "{\"k\":2,\"l\":null}"},
     {"{\"k\":1,\"l\":null}", "{}"}},
    {"{\"oneOf\": [{\"properties\": {\"a\": {}}, \"required\": [\"a\"]}, {\"properties\": {\"b\": {}}, \"required\": "
     "[\"b\"]}]}",
     {"{\"a\":1}", "{\"b\":{}}"},
     {"{\"a\":1,\"b\":1}", "{}"}},
    {"{\"type\": \"object\", \"additionalProperties\": {\"type\": \"integer\"}}",
     {"{}", "{\"x\":1,\"y\":2}"},
     {"{\"x\":\"1\"}"}},
    {"{}", {"{\"x\":[1,true,null,\"\"]}", "12345678", "\"\""}, {"tru", "[1,,2]"}},
};

static void schemas_keep_their_word(void **state)
{
    struct world w;
    (void)state;
    world_create(&w, 5);
    for (size_t i = 0; i < sizeof schemas / sizeof *schemas; i++) {
        struct grammar *g = schema_of(&w, schemas[i].grammar);
        for (size_t k = 0; k < 8 && schemas[i].good[k]; k++)
            if (!fits(g, schemas[i].good[k]))
                fail_msg("%s refuses %s", schemas[i].grammar, schemas[i].good[k]);
        for (size_t k = 0; k < 8 && schemas[i].bad[k]; k++)
            if (fits(g, schemas[i].bad[k]))
                fail_msg("%s takes %s", schemas[i].grammar, schemas[i].bad[k]);
        grammar_release(g);
    }
    struct bg_str many = {0}; // large lengths, shared
    bg_str_add(&many, "{\"prefixItems\": [{\"maxLength\": 1}");
    for (int i = 0; i < 40; i++)
        bg_str_add(&many, ", {\"maxLength\": 9999}");
    bg_str_add(&many, "]}");
    struct grammar *long_ones = schema_of(&w, bg_str_text(&many));
    bg_str_fini(&many);
    grammar_release(long_ones);
    struct grammar *any = schema_of(&w, NULL);
    assert_true(fits(any, "{\"a\": {\"b\": []}}"));
    assert_false(fits(any, "[]"));
    grammar_release(any);
    world_destroy(&w);
}

// Draws tokens at random among those allowed, leaning to the end, until the text may end and does.
static void random_text(struct world *w, const struct grammar *g, struct bg_str *text)
{
    struct grammar_state *s = grammar_begin(g);
    const int32_t eos = tokenizer_eos(w->bytes);
    uint64_t mask[8];
    for (uint32_t count = 0; count < 4000; count++) {
        int32_t pick = -1;
        uint32_t seen = 0;
        grammar_mask(s, mask);
        if ((mask[eos / 64] >> eos % 64 & 1) && below(w, 4) == 0)
            break;
        for (int32_t id = 0; id < 256; id++)
            if (id != eos && (mask[id / 64] >> id % 64 & 1)) {
                const bool closes = id == '"' || id == '}' || id == ']' || id == '0';
                seen += closes ? 40 : 1;
                if (below(w, seen) < (closes ? 40u : 1u))
                    pick = id;
            }
        if (pick < 0)
            break;
        assert_true(grammar_accept(s, pick));
        const char c = (char)pick;
        bg_str_add_bytes(text, &c, 1);
    }
    assert_true(grammar_may_end(s) || text->size >= 4000);
    grammar_state_destroy(s);
}

static void draws_are_json(void **state)
{
    struct world w;
    (void)state;
    world_create(&w, 5);
    for (size_t i = 0; i < sizeof schemas / sizeof *schemas; i++) {
        struct grammar *g = schema_of(&w, schemas[i].grammar);
        for (int round = 0; round < 20; round++) {
            struct bg_str text = {0};
            json_error_t at;
            random_text(&w, g, &text);
            json_t *json = json_loadb(bg_str_text(&text), text.size, JSON_DECODE_ANY | JSON_ALLOW_NUL, &at);
            // a NUL in a name is the one thing that fits and that jansson does not read
            if (!json && text.size < 4000 && !strstr(at.text, "NUL"))
                fail_msg("%s: %s: %s", schemas[i].grammar, bg_str_text(&text), at.text);
            json_decref(json);
            bg_str_fini(&text);
        }
        grammar_release(g);
    }
    world_destroy(&w);
}

static void what_cannot_be_kept_is_refused(void **state)
{
    static const char *const bad[][2] = {
        {"{\"type\": \"integer\", \"minimum\": 3, \"multipleOf\": 2}", "multipleOf"},
        {"{\"type\": \"integer\", \"minimum\": \"3\"}", "minimum"},
        {"{\"type\": \"integer\", \"exclusiveMinimum\": true}", "exclusiveMinimum"},
        {"{\"type\": [\"string\", \"null\"], \"minimum\": 3}", "minimum"},
        {"{\"type\": [\"string\", \"x\"]}", "\"x\""},
        {"{\"type\": [\"null\", \"null\", \"null\", \"null\", \"null\", \"null\", \"null\", \"null\"]}",
         "at most once"},
        {"{\"allOf\": [{\"properties\": {\"a\": {\"not\": {}}}}]}", "#/allOf/0/properties/a: \"not\""},
        {"{\"minimum\": 1, \"minLength\": 3}", "minimum"},
        {"{\"type\": 7, \"properties\": {}}", "type"},
        {"{\"minLength\": 4097}", "more than 4096"},
        {"{\"properties\": {\"a/~b\": {\"items\": {\"pattern\": \"a(?!b)\"}}}}",
         "#/properties/a~1~0b/items: \"pattern\" has a look-ahead at offset 1"},
        {"{\"maxItems\": -1}", "maxItems"},
        {"{\"type\": \"string\", \"pattern\": 7}", "pattern"},
        {"{\"type\": \"string\", \"pattern\": \"a\", \"format\": \"date\"}", "fits no text"},
        {"{\"type\": \"array\", \"uniqueItems\": true}", "uniqueItems"},
        {"{\"not\": {}}", "not"},
        {"{\"type\": \"float\"}", "float"},
        {"{\"$ref\": \"#/nowhere\"}", "nowhere"},
        {"{\"$ref\": \"http://x\"}", "this schema"},
        {"{\"type\": \"object\", \"properties\": {\"a\": {\"type\": \"string\", \"format\": \"idn-email\"}}}",
         "#/properties/a"},
        {"{\"type\": \"object\", \"properties\": {}, \"required\": [\"a\"]}", "required"},
        {"{\"enum\": []}", "enum"},
        {"[]", "expected a schema"},
        {"{\"type\"", "no JSON"},
        {"{\"$ref\": \"#\"}", "itself"},
        {"{\"type\": \"object\", \"properties\": {\"a\": {\"$ref\": \"#\"}}, \"required\": [\"a\"]}",
         "rule \"#/properties/a\" never ends"},
        {"{\"properties\": {\"a\": {\"$ref\": \"#/$defs/b\"}}, \"required\": [\"a\"], \"$defs\": {\"b\": {\"type\": "
         "\"array\", \"minItems\": 1, \"items\": {\"$ref\": \"#/$defs/b\"}}}}",
         "rule \"#/$defs/b/items\" never ends"},
        {"{\"type\": \"integer\", \"enum\": [\"a\"]}", "of the type"},
        {"{\"type\": \"integer\", \"const\": \"a\"}", "of the type"},
        {"{\"type\": \"string\", \"format\": \"date\", \"minLength\": 12}", "allowed length"},
        {"{\"format\": \"email\", \"minLength\": 255}", "allowed length"},
        {"{\"format\": \"hostname\", \"minLength\": 254}", "allowed length"},
        {"{\"type\": \"string\", \"format\": 7}", "format"},
        {"{\"prefixItems\": [{}], \"minItems\": 2}", "minItems"},
        {"{\"prefixItems\": [{}], \"maxItems\": 0}", "minItems"},
        {"{\"type\": \"object\", \"additionalProperties\": 7}", "additionalProperties"},
        {"{\"oneOf\": []}", "at least one"},
        {"{\"oneOf\": [{\"type\": \"integer\"}, {\"type\": \"number\"}]}", "0 and 1"},
        {"{\"oneOf\": [{\"const\": 1}, {\"type\": \"null\"}, {\"enum\": [\"a\", 1.0]}]}", "0 and 2"},
        {"{\"oneOf\": [{}, {\"type\": \"null\"}]}", "0 and 1"},
        {"{\"oneOf\": [{\"properties\": {\"a\": {}}}, {\"properties\": {\"b\": {}}, \"required\": [\"b\"]}]}",
         "0 and 1"},
        {"{\"oneOf\": [{\"properties\": {\"k\": {\"const\": 1}}}, {\"properties\": {\"k\": {\"const\": 2}}}]}",
         "0 and 1"},
        {"{\"oneOf\": [{\"anyOf\": [{\"const\": 1}, {\"const\": 2}]}, {\"oneOf\": [{\"const\": 3}, {\"const\": 2}]}]}",
         "0 and 1"},
        {"{\"oneOf\": [{\"$ref\": \"#\"}, {\"$ref\": \"#\"}]}", "0 and 1"},
        {"{\"oneOf\": [{\"type\": [\"object\", \"null\"], \"properties\": {\"k\": {\"const\": 1}}, \"required\": "
         "[\"k\"]}, {\"type\": [\"object\", \"null\"], \"properties\": {\"k\": {\"const\": 2}}, \"required\": "
         "[\"k\"]}]}",
         "0 and 1"},
    };
    struct world w;
    (void)state;
    world_create(&w, 5);
    for (size_t i = 0; i < sizeof bad / sizeof *bad; i++) {
        struct grammar *g = NULL;
        struct bg_error err = {0};
        if (grammar_compile_schema(bad[i][0], strlen(bad[i][0]), w.bytes, &err, &g) == BG_OK)
            fail_msg("%s is taken", bad[i][0]);
        if (!strstr(err.text, bad[i][1]))
            fail_msg("%s: \"%s\" does not say \"%s\"", bad[i][0], err.text, bad[i][1]);
    }
    world_destroy(&w);
}

// All alternatives go through long references to compare one property before the one that tells them apart.
static void comparing_alternatives_is_bounded(void **state)
{
    enum { HOPS = 5, NAME = 4500, COUNT = 90, SAME = 4 };
    struct world w;
    struct bg_error err = {0};
    struct bg_str schema = {0};
    struct grammar *g = NULL;
    (void)state;
    world_create(&w, 5);
    bg_str_add(&schema, "{\"$defs\": {");
    for (int i = 0; i < HOPS; i++)
        bg_str_addf(&schema, "\"%0*d\": {\"$ref\": \"#/$defs/%0*d\"}, ", i ? NAME : 1, i, NAME, i + 1);
    bg_str_addf(&schema, "\"%0*d\": {}}, \"oneOf\": [", NAME, HOPS);
    for (int i = 0; i < COUNT; i++) {
        bg_str_addf(&schema, "%s{\"type\":\"object\",\"properties\":{", i ? "," : "");
        for (int k = 0; k < SAME; k++)
            bg_str_addf(&schema, "\"%d\":{\"$ref\":\"#/$defs/0\"},", k);
        bg_str_addf(&schema, "\"k\":{\"const\":%d}},\"required\":[\"0\",\"1\",\"2\",\"3\",\"k\"]}", i);
    }
    bg_str_add(&schema, "]}");
    assert_int_equal(grammar_compile_schema(bg_str_text(&schema), schema.size, w.bytes, &err, &g), BG_INVALID);
    if (!strstr(err.text, "exclude each other"))
        fail_msg("%s", err.text);
    bg_str_fini(&schema);
    world_destroy(&w);
}

static void too_much_to_look_at_ends_a_text(void **state)
{
    struct world w;
    uint64_t mask[8];
    (void)state;
    world_create(&w, 5);
    struct grammar *g = schema_of(&w, "{\"type\": \"boolean\"}");
    grammar_limit(g, 1, 0, 0);
    struct grammar_state *s = grammar_begin(g);
    const int32_t eos = tokenizer_eos(w.bytes);
    grammar_mask(s, mask);
    for (int32_t i = 0; i < (int32_t)tokenizer_size(w.bytes); i++)
        assert_int_equal(mask[i / 64] >> i % 64 & 1, i == eos);
    assert_true(grammar_accept(s, 't')); // the text itself has to be paid as well
    assert_false(grammar_accept(s, 'r'));
    assert_false(grammar_may_end(s));
    grammar_state_destroy(s);
    grammar_release(g);
    world_destroy(&w);
}

// 4,000 alternatives read one character and go on with the same 1,000: stacks that were seen already count as well, or
// one mask would take a minute.
static void same_stacks_are_counted_too(void **state)
{
    struct world w;
    struct bg_error err = {0};
    struct bg_str text = {0};
    struct grammar *g = NULL;
    uint64_t mask[8];
    (void)state;
    world_create(&w, 5);
    bg_str_add(&text, "root ::= [ -~] rest");
    for (int i = 0; i < 4000; i++)
        bg_str_add(&text, "|[ -~]rest");
    bg_str_add(&text, "\nrest ::= \"0\"");
    for (int i = 0; i < 1000; i++)
        bg_str_addf(&text, "|\"%c\"", 'A' + i % 58 == '\\' ? 'A' : 'A' + i % 58);
    bg_str_add(&text, "\n");
    assert_int_equal(grammar_compile_gbnf(bg_str_text(&text), text.size, w.bytes, &err, &g), BG_OK);
    struct grammar_state *s = grammar_begin(g);
    grammar_mask(s, mask);
    for (uint32_t i = 0; i < tokenizer_size(w.bytes); i++)
        assert_int_equal(mask[i / 64] >> i % 64 & 1, tokenizer_ends(w.bytes, (int32_t)i));
    grammar_state_destroy(s);
    grammar_release(g);
    bg_str_fini(&text);
    world_destroy(&w);
}

// Bit by bit: what a grammar of its own allows after the same tokens, accepted without a mask on the way.
static bool same_mask_alone(struct world *w, const char *grammar, uint64_t price, const struct bg_str *tokens,
                            const uint64_t *mask)
{
    struct bg_error err;
    struct grammar *g;
    uint64_t own[8];
    assert_int_equal(grammar_compile_gbnf(grammar, strlen(grammar), w->bytes, &err, &g), BG_OK);
    grammar_limit(g, 1000, price, 1 << 26);
    struct grammar_state *s = grammar_begin(g);
    for (size_t i = 0; i < tokens->size; i++)
        assert_true(grammar_accept(s, (unsigned char)tokens->data[i]));
    grammar_mask(s, own);
    grammar_state_destroy(s);
    grammar_release(g);
    return memcmp(own, mask, (tokenizer_size(w->bytes) + 63) / 64 * sizeof *own) == 0;
}

static int32_t draw_from(struct world *w, const uint64_t *mask)
{
    int32_t pick = -1;
    uint32_t seen = 0;
    for (int32_t id = 0; id < (int32_t)tokenizer_size(w->bytes); id++)
        if ((mask[id / 64] >> id % 64 & 1) && below(w, ++seen) == 0)
            pick = id;
    return pick;
}

// Texts that walk one grammar in turns, copies that go ahead of them, and what is forgotten on the way: none of it
// shows in what a text may go on with, also where that takes too long.
static void walkers_do_not_show_in_each_other(void **state)
{
    static const char *const walked[] = {
        "root ::= (x | y){1,4096}\nx ::= [a-z ]{1,40}\ny ::= [a-z ]{1,30} [^a-c]\n",
        "root ::= \"<\" root \">\" | [a-z ] root [a-z] | [^<>] root | [^<>]\n",
        "root ::= ((\"a\"{0,30}){0,30} \"b\"? [ -~]){0,30}",
        "root ::= \"{\" (pair (\",\" pair)*)? \"}\"\npair ::= [a-d]+ \":\" (root | [0-9]+)",
    };
    enum { WALKERS = 4, STEPS = 160 };
    struct world w;
    uint32_t cut = 0, ended = 0;
    (void)state;
    world_create(&w, 5);
    for (size_t k = 0; k < 3 * sizeof walked / sizeof *walked; k++) {
        const char *text = walked[k / 3];
        const uint64_t price = k % 2 ? 200 : 1 << 20; // of a text
        struct bg_error err;
        struct grammar *g;
        struct grammar_state *walkers[WALKERS];
        struct bg_str tokens[WALKERS] = {0};
        assert_int_equal(grammar_compile_gbnf(text, strlen(text), w.bytes, &err, &g), BG_OK);
        grammar_limit(g, 1000, price, k % 3 == 0 ? 0 : k % 3 == 1 ? 1 << 16 : 1 << 26);
        for (size_t i = 0; i < WALKERS; i++)
            walkers[i] = grammar_begin(g);
        for (int step = 0; step < STEPS; step++) {
            const uint32_t i = below(&w, WALKERS);
            uint64_t mask[8];
            grammar_mask(walkers[i], mask);
            assert_true(same_mask_alone(&w, text, price, &tokens[i], mask));
            const int32_t token = draw_from(&w, mask);
            struct grammar_state *ahead = grammar_state_copy(walkers[i]);
            for (int more = 0; more < 3 && grammar_accept(ahead, draw_from(&w, mask)); more++)
                grammar_mask(ahead, mask);
            const bool may_end = grammar_may_end(walkers[i]);
            if (grammar_accept(walkers[i], token)) {
                bg_str_add_bytes(&tokens[i], &(char){(char)token}, 1);
            } else { // another text begins
                ended += may_end;
                cut += !may_end;
                grammar_state_destroy(walkers[i]);
                walkers[i] = grammar_begin(g);
                bg_str_reset(&tokens[i]);
            }
            grammar_state_destroy(ahead);
        }
        for (size_t i = 0; i < WALKERS; i++) {
            grammar_state_destroy(walkers[i]);
            bg_str_fini(&tokens[i]);
        }
        grammar_release(g);
    }
    assert_true(cut > 0 && ended > 0);
    world_destroy(&w);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(comparing_alternatives_is_bounded),
        cmocka_unit_test(too_much_to_look_at_ends_a_text),
        cmocka_unit_test(same_stacks_are_counted_too),
        cmocka_unit_test(walkers_do_not_show_in_each_other),
        cmocka_unit_test(texts_fit_or_not),
        cmocka_unit_test(bad_grammars_are_refused),
        cmocka_unit_test(schemas_keep_their_word),
        cmocka_unit_test(draws_are_json),
        cmocka_unit_test(what_cannot_be_kept_is_refused),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
