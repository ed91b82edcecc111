// JSON schemas (drafts 6 to 2020-12, the part that a grammar can keep) as rules. Properties come in the order in which
// the schema lists them. Words that would restrict a value and are not understood are refused, never passed over.
#include "base/json.h"
#include "base/mem.h"
#include "serve/grammar_number.h"
#include "serve/schema_apart.h"

#include <stdio.h>
#include <string.h>

struct compiler {
    struct grammar_text text;
    json_t *root;
    struct bg_error *err;
    bool failed;
    uint32_t space, string, character, number, integer, boolean, null, value, object, array;
    struct {
        const json_t *schema;
        uint32_t rule;
    } * known; // schemas that were met, so that they may refer to themselves
    size_t known_count, known_capacity;
    struct {
        uint32_t least, most, rule;
    } * lengths; // what strings of these lengths hold
    size_t length_count;
};

static uint32_t compile(struct compiler *c, json_t *schema, const char *path, uint32_t depth);

static void refuse(struct compiler *c, const char *path, const char *format, const char *what)
{
    char text[256];
    if (c->failed)
        return;
    c->failed = true;
    snprintf(text, sizeof text, format, what);
    bg_fail(c->err, BG_INVALID, "schema, %.300s: %s", path, text);
}

// ---- Rules that every JSON needs ----
static void add(struct compiler *c, uint32_t rule, const char *before, uint32_t middle, const char *after)
{
    struct grammar_sequence s = {0};
    grammar_add_text(&c->text, &s, before, strlen(before));
    if (middle != UINT32_MAX)
        grammar_add_rule(&s, middle);
    grammar_add_text(&c->text, &s, after, strlen(after));
    grammar_add_alternative(&c->text, rule, &s);
}

static uint32_t points(struct compiler *c, uint32_t first, uint32_t last)
{
    struct grammar_range range = {first, last};
    return grammar_rule_of_ranges(&c->text, &range, 1, false);
}

static uint32_t repeat(struct compiler *c, uint32_t rule, uint32_t least, uint32_t most)
{
    struct grammar_sequence s = {0};
    grammar_add_rule(&s, rule);
    return grammar_rule_repeat(&c->text, &s, least, most);
}

static uint32_t sequence(struct compiler *c, const uint32_t *rules, size_t count)
{
    struct grammar_sequence s = {0};
    const uint32_t rule = grammar_rule_new(&c->text);
    for (size_t i = 0; i < count; i++)
        grammar_add_rule(&s, rules[i]);
    grammar_add_alternative(&c->text, rule, &s);
    return rule;
}

static void make_space(struct compiler *c) // nothing, a blank, or a new line with indentation
{
    struct grammar_range blanks[] = {{' ', ' '}, {'\t', '\t'}};
    const uint32_t indent = repeat(c, grammar_rule_of_ranges(&c->text, blanks, 2, false), 0, 20);
    c->space = grammar_rule_new(&c->text);
    add(c, c->space, "", UINT32_MAX, "");
    add(c, c->space, " ", UINT32_MAX, "");
    add(c, c->space, "\n", indent, "");
}

static void make_string(struct compiler *c)
{
    struct grammar_range plain[] = {{0, 0x1f}, {'"', '"'}, {'\\', '\\'}, {0x7f, 0x7f}};
    struct grammar_range escapes[] = {{'"', '"'}, {'\\', '\\'}, {'/', '/'}, {'b', 'b'},
                                      {'f', 'f'}, {'n', 'n'},   {'r', 'r'}, {'t', 't'}};
    struct grammar_range hex[] = {{'0', '9'}, {'a', 'f'}, {'A', 'F'}}, ds[] = {{'d', 'd'}, {'D', 'D'}};
    struct grammar_range others[] = {{'0', '9'}, {'a', 'c'}, {'A', 'C'}, {'e', 'f'}, {'E', 'F'}};
    const uint32_t free = grammar_rule_of_ranges(&c->text, plain, 4, true);
    const uint32_t escape = grammar_rule_of_ranges(&c->text, escapes, 8, false);
    const uint32_t digit = grammar_rule_of_ranges(&c->text, hex, 3, false);
    const uint32_t most[2] = {grammar_rule_of_ranges(&c->text, others, 5, false), repeat(c, digit, 3, 3)};
    const uint32_t rest[3] = {grammar_rule_of_ranges(&c->text, ds, 2, false), points(c, '0', '7'),
                              repeat(c, digit, 2, 2)}; // no half of a surrogate pair
    c->character = grammar_rule_new(&c->text);
    add(c, c->character, "", free, "");
    add(c, c->character, "\\", escape, "");
    add(c, c->character, "\\u", sequence(c, most, 2), "");
    add(c, c->character, "\\u", sequence(c, rest, 3), "");
    c->string = grammar_rule_new(&c->text);
    add(c, c->string, "\"", repeat(c, c->character, 0, UINT32_MAX), "\"");
}

static void make_numbers(struct compiler *c)
{
    const uint32_t digit = points(c, '0', '9'), sign = grammar_rule_new(&c->text), plain = grammar_rule_new(&c->text);
    const uint32_t many[2] = {points(c, '1', '9'), repeat(c, digit, 0, 15)}, both[2] = {sign, plain};
    add(c, sign, "", UINT32_MAX, "");
    add(c, sign, "-", UINT32_MAX, "");
    add(c, plain, "0", UINT32_MAX, "");
    add(c, plain, "", sequence(c, many, 2), "");
    c->integer = sequence(c, both, 2);
    const uint32_t fraction = grammar_rule_new(&c->text), exponent = grammar_rule_new(&c->text);
    add(c, fraction, "", UINT32_MAX, "");
    add(c, fraction, ".", repeat(c, digit, 1, 16), "");
    struct grammar_range es[] = {{'e', 'e'}, {'E', 'E'}};
    const uint32_t signs = grammar_rule_new(&c->text);
    add(c, signs, "", UINT32_MAX, "");
    add(c, signs, "+", UINT32_MAX, "");
    add(c, signs, "-", UINT32_MAX, "");
    const uint32_t power[3] = {grammar_rule_of_ranges(&c->text, es, 2, false), signs,
                               repeat(c, digit, 1, 2)}; // never infinite
    add(c, exponent, "", UINT32_MAX, "");
    add(c, exponent, "", sequence(c, power, 3), "");
    const uint32_t all[3] = {c->integer, fraction, exponent};
    c->number = sequence(c, all, 3);
}

// "[" space (item (space "," space item){least-1,most-1})? space "]"
static uint32_t list_of(struct compiler *c, const char *open, uint32_t item, const char *close, uint32_t least,
                        uint32_t most)
{
    const uint32_t comma = grammar_rule_new(&c->text), rule = grammar_rule_new(&c->text);
    add(c, comma, ",", c->space, "");
    const uint32_t next[3] = {c->space, comma, item};
    if (least == 0)
        add(c, rule, open, c->space, close);
    if (most > 0) {
        const uint32_t rest =
            repeat(c, sequence(c, next, 3), least ? least - 1 : 0, most == UINT32_MAX ? UINT32_MAX : most - 1);
        const uint32_t inside[4] = {c->space, item, rest, c->space};
        add(c, rule, open, sequence(c, inside, 4), close);
    }
    return rule;
}

static uint32_t member(struct compiler *c, uint32_t name, uint32_t value)
{
    const uint32_t colon = grammar_rule_new(&c->text);
    add(c, colon, ":", c->space, "");
    const uint32_t all[4] = {name, c->space, colon, value};
    return sequence(c, all, 4);
}

static void make_values(struct compiler *c)
{
    c->boolean = grammar_rule_new(&c->text);
    add(c, c->boolean, "true", UINT32_MAX, "");
    add(c, c->boolean, "false", UINT32_MAX, "");
    c->null = grammar_rule_new(&c->text);
    add(c, c->null, "null", UINT32_MAX, "");
    c->value = grammar_rule_new(&c->text);
    c->object = list_of(c, "{", member(c, c->string, c->value), "}", 0, UINT32_MAX);
    c->array = list_of(c, "[", c->value, "]", 0, UINT32_MAX);
    const uint32_t all[] = {c->object, c->array, c->string, c->number, c->boolean, c->null};
    for (size_t i = 0; i < sizeof all / sizeof *all; i++)
        add(c, c->value, "", all[i], "");
}

// ---- Schemas ----
static bool is_annotation(const char *word)
{
    static const char *const words[] = {"title",  "description", "default",          "examples",        "$schema",
                                        "$id",    "$comment",    "deprecated",       "readOnly",        "writeOnly",
                                        "$defs",  "definitions", "contentMediaType", "contentEncoding", "$anchor",
                                        "strict", "name",        "discriminator"};
    for (size_t i = 0; i < sizeof words / sizeof *words; i++)
        if (strcmp(word, words[i]) == 0)
            return true;
    return strncmp(word, "x-", 2) == 0; // of whoever wrote it, for readers of his own
}

// words: separated by blanks, with one at both ends.
static bool is_one_of(const char *word, const char *words)
{
    char *wanted = bg_format(" %s ", word);
    const bool found = strstr(words, wanted) != NULL;
    bg_free(wanted);
    return found;
}

// All words of a schema but these and annotations are refused.
static void allow(struct compiler *c, json_t *schema, const char *path, const char *known)
{
    const char *word;
    json_t *value;
    json_object_foreach(schema, word, value)
    {
        if (!is_annotation(word) && !is_one_of(word, known))
            refuse(c, path, "\"%.100s\" is not supported here", word);
    }
}

// least: of what there must be. At most GRAMMAR_REPEAT_MAX is written, where more is allowed as well.
static uint32_t bound(struct compiler *c, json_t *schema, const char *word, const char *path, bool least)
{
    json_t *v = json_object_get(schema, word);
    if (!v)
        return least ? 0 : UINT32_MAX;
    if (!json_is_integer(v) || json_integer_value(v) < 0)
        refuse(c, path, "\"%s\": expected a whole number", word);
    else if (json_integer_value(v) <= GRAMMAR_REPEAT_MAX)
        return (uint32_t)json_integer_value(v);
    else if (least)
        refuse(c, path, "\"%s\": more than 4096 is not supported", word);
    return GRAMMAR_REPEAT_MAX;
}

static uint32_t literal(struct compiler *c, json_t *value)
{
    char *text = json_dumps(value, JSON_COMPACT | JSON_ENCODE_ANY);
    const uint32_t rule = grammar_rule_new(&c->text);
    add(c, rule, text ? text : "null", UINT32_MAX, "");
    bg_free(text);
    return rule;
}

static uint32_t any_of(struct compiler *c, json_t *list, const char *path, uint32_t depth)
{
    const uint32_t rule = grammar_rule_new(&c->text);
    if (!json_is_array(list) || json_array_size(list) == 0)
        refuse(c, path, "expected a list of at least one schema%s", "");
    for (size_t i = 0; i < json_array_size(list) && !c->failed; i++) {
        char *at = bg_format("%s/%zu", path, i);
        add(c, rule, "", compile(c, json_array_get(list, i), at, depth + 1), "");
        bg_free(at);
    }
    return rule;
}

// Strings of equal lengths share a rule: one of 4,096 characters is a sixteenth of what a grammar may have.
static uint32_t characters(struct compiler *c, uint32_t least, uint32_t most)
{
    for (size_t i = 0; i < c->length_count; i++)
        if (c->lengths[i].least == least && c->lengths[i].most == most)
            return c->lengths[i].rule;
    c->lengths = bg_realloc_array(c->lengths, c->length_count + 1, sizeof *c->lengths);
    c->lengths[c->length_count].least = least;
    c->lengths[c->length_count].most = most;
    return c->lengths[c->length_count++].rule = repeat(c, c->character, least, most);
}

static uint32_t string_of(struct compiler *c, json_t *schema, const char *path)
{
    json_t *word = json_object_get(schema, "pattern"), *format = json_object_get(schema, "format");
    const char *named = json_is_string(format) ? grammar_format_pattern(json_string_value(format)) : NULL;
    const char *pattern = word ? json_string_value(word) : named;
    char why[160];
    const uint32_t least = bound(c, schema, "minLength", path, true), most = bound(c, schema, "maxLength", path, false);
    uint32_t inside = c->null;
    const uint32_t rule = grammar_rule_new(&c->text);
    if (most < least)
        refuse(c, path, "\"maxLength\" is less than \"minLength\"%s", "");
    else if (word && !pattern)
        refuse(c, path, "\"pattern\": expected a string%s", "");
    else if (format && !named)
        refuse(c, path, "format \"%.100s\" is not supported",
               json_is_string(format) ? json_string_value(format) : "(no string)");
    else if (!pattern)
        inside = characters(c, least, most);
    else if (!grammar_rule_of_pattern(&c->text, pattern, word ? named : NULL, c->character, least, most, why,
                                      sizeof why, &inside))
        refuse(c, path, word ? "\"pattern\" %s" : "\"format\" %s", why);
    add(c, rule, "\"", inside, "\"");
    return rule;
}

static uint32_t array_of(struct compiler *c, json_t *schema, const char *path, uint32_t depth)
{
    json_t *items = json_object_get(schema, "items"), *prefix = json_object_get(schema, "prefixItems");
    const uint32_t least = bound(c, schema, "minItems", path, true), most = bound(c, schema, "maxItems", path, false);
    json_t *unique = json_object_get(schema, "uniqueItems");
    if (unique && !json_is_false(unique) && !(json_is_true(unique) && most < 2))
        refuse(c, path, "\"uniqueItems\" is not supported here%s", "");
    if (most < least)
        refuse(c, path, "\"maxItems\" is less than \"minItems\"%s", "");
    if (prefix) { // a tuple: these and no more
        struct grammar_sequence s = {0};
        const uint32_t rule = grammar_rule_new(&c->text);
        if (!json_is_array(prefix) || json_array_size(prefix) == 0 || (items && !json_is_false(items)))
            refuse(c, path, "\"prefixItems\": expected schemas, and no \"items\" but false%s", "");
        if (json_array_size(prefix) < least || json_array_size(prefix) > most)
            refuse(c, path, "\"prefixItems\": expected as many as \"minItems\" and \"maxItems\" allow%s", "");
        for (size_t i = 0; i < json_array_size(prefix) && !c->failed; i++) {
            char *at = bg_format("%s/prefixItems/%zu", path, i);
            if (i)
                grammar_add_text(&c->text, &s, ",", 1);
            grammar_add_rule(&s, c->space);
            grammar_add_rule(&s, compile(c, json_array_get(prefix, i), at, depth + 1));
            grammar_add_rule(&s, c->space);
            bg_free(at);
        }
        const uint32_t inside = grammar_rule_new(&c->text);
        grammar_add_alternative(&c->text, inside, &s);
        add(c, rule, "[", inside, "]");
        return rule;
    }
    char *at = bg_format("%s/items", path);
    const uint32_t item = items ? compile(c, items, at, depth + 1) : c->value;
    bg_free(at);
    return list_of(c, "[", item, "]", least, most);
}

// An object of any names; more: a schema of the values, a boolean, or NULL: any.
static uint32_t map_of(struct compiler *c, json_t *more, const char *path, uint32_t depth)
{
    if (!more || json_is_true(more))
        return c->object;
    char *at = bg_format("%s/additionalProperties", path);
    const uint32_t value = json_is_false(more) ? c->null : compile(c, more, at, depth + 1);
    bg_free(at);
    return list_of(c, "{", member(c, c->string, value), "}", 0, json_is_false(more) ? 0 : UINT32_MAX);
}

static char *property_path(const char *path, const char *name) // a JSON pointer: ~ is ~0 there, / is ~1
{
    struct bg_str at = {0};
    bg_str_addf(&at, "%s/properties/", path);
    for (const char *c = name; *c; c++)
        if (*c == '~' || *c == '/')
            bg_str_add(&at, *c == '~' ? "~0" : "~1");
        else
            bg_str_add_bytes(&at, c, 1);
    return bg_str_take(&at);
}

// Where names are listed no others are written, whatever additionalProperties says: they could repeat one.
// What may follow the i-th property: rest[i] where one was written before it (a comma comes first), begin[i] where
// none. Built from the last to the first, so that each is one rule whatever is left out.
static uint32_t object_of(struct compiler *c, json_t *schema, const char *path, uint32_t depth)
{
    json_t *properties = json_object_get(schema, "properties"), *required = json_object_get(schema, "required"), *value;
    json_t *more = json_object_get(schema, "additionalProperties");
    const char *name;
    if ((properties && !json_is_object(properties)) || (required && !json_is_array(required)))
        refuse(c, path, "\"properties\": expected an object; \"required\": a list of names%s", "");
    for (size_t i = 0; i < json_array_size(required) && !c->failed; i++) {
        const char *each = json_string_value(json_array_get(required, i));
        if (!each || !json_object_get(properties, each))
            refuse(c, path, "\"required\" names \"%.100s\", which is no property", each ? each : "?");
    }
    if (more && !json_is_boolean(more) && !json_is_object(more))
        refuse(c, path, "\"additionalProperties\": expected a schema%s", "");
    if (json_object_size(properties) == 0)
        return map_of(c, more, path, depth);
    const uint32_t comma = grammar_rule_new(&c->text), comma_space = grammar_rule_new(&c->text);
    add(c, comma, ",", c->space, "");
    const uint32_t spaced[2] = {c->space, comma};
    struct grammar_sequence s = {0};
    grammar_add_rule(&s, spaced[0]);
    grammar_add_rule(&s, spaced[1]);
    grammar_add_alternative(&c->text, comma_space, &s);
    uint32_t rest = grammar_rule_new(&c->text), begin = grammar_rule_new(&c->text);
    add(c, rest, "", UINT32_MAX, "");
    add(c, begin, "", UINT32_MAX, "");
    const size_t count = json_object_size(properties);
    const char **names = bg_alloc_array(count + 1, sizeof *names);
    size_t n = 0;
    json_object_foreach(properties, name, value) names[n++] = name;
    while (n-- > 0 && !c->failed) {
        json_t *text = json_string(names[n]);
        char *at = property_path(path, names[n]);
        const uint32_t one =
            member(c, literal(c, text), compile(c, json_object_get(properties, names[n]), at, depth + 1));
        json_decref(text);
        bg_free(at);
        const uint32_t with_rest[3] = {comma_space, one, rest}, from_begin[2] = {one, rest};
        const uint32_t new_rest = grammar_rule_new(&c->text), new_begin = grammar_rule_new(&c->text);
        add(c, new_rest, "", sequence(c, with_rest, 3), "");
        add(c, new_begin, "", sequence(c, from_begin, 2), "");
        if (!schema_requires(schema, names[n])) {
            add(c, new_rest, "", rest, "");
            add(c, new_begin, "", begin, "");
        }
        rest = new_rest;
        begin = new_begin;
    }
    bg_free(names);
    const uint32_t inside[3] = {c->space, begin, c->space}, rule = grammar_rule_new(&c->text);
    add(c, rule, "{", sequence(c, inside, 3), "}");
    return rule;
}

static json_t *resolve(struct compiler *c, const char *reference, const char *path)
{
    json_t *at = schema_at(c->root, reference);
    if (*reference != '#')
        refuse(c, path, "$ref \"%.100s\": only references into this schema (#/...) are supported", reference);
    else if (!at)
        refuse(c, path, "$ref \"%.100s\": there is nothing there", reference);
    return at;
}

// Words that speak of values of a type, and of no others.
static const struct type_words {
    const char *type, *words;
} type_words[] = {
    {"string", " type pattern format minLength maxLength "},
    {"number", " type minimum maximum exclusiveMinimum exclusiveMaximum "},
    {"integer", " type minimum maximum exclusiveMinimum exclusiveMaximum "},
    {"array", " type items prefixItems minItems maxItems uniqueItems "},
    {"object", " type properties required additionalProperties "},
    {"boolean", " type "},
    {"null", " type "},
};

static const char *words_of(const char *type)
{
    for (size_t i = 0; i < sizeof type_words / sizeof *type_words; i++)
        if (strcmp(type, type_words[i].type) == 0)
            return type_words[i].words;
    return NULL;
}

static uint32_t number_of(struct compiler *c, json_t *schema, const char *path, bool whole)
{
    uint32_t rule = whole ? c->integer : c->number;
    const bool bounded = json_object_get(schema, "minimum") || json_object_get(schema, "maximum") ||
                         json_object_get(schema, "exclusiveMinimum") || json_object_get(schema, "exclusiveMaximum");
    const char *why = bounded ? grammar_rule_of_number(&c->text, schema, whole, &rule) : NULL;
    if (why)
        refuse(c, path, "%s", why);
    return why ? c->null : rule;
}

static uint32_t typed(struct compiler *c, json_t *schema, const char *type, const char *path, uint32_t depth)
{
    const char *words = words_of(type);
    if (words)
        allow(c, schema, path, words);
    if (strcmp(type, "string") == 0)
        return string_of(c, schema, path);
    if (strcmp(type, "array") == 0)
        return array_of(c, schema, path, depth);
    if (strcmp(type, "object") == 0)
        return object_of(c, schema, path, depth);
    if (strcmp(type, "number") == 0 || strcmp(type, "integer") == 0)
        return number_of(c, schema, path, *type == 'i');
    if (strcmp(type, "boolean") == 0)
        return c->boolean;
    if (strcmp(type, "null") == 0)
        return c->null;
    refuse(c, path, "type \"%.100s\": expected string, number, integer, boolean, null, array or object", type);
    return c->value;
}

// Each of the types with the words that speak of it.
static uint32_t of_types(struct compiler *c, json_t *schema, json_t *types, const char *path, uint32_t depth)
{
    const uint32_t rule = grammar_rule_new(&c->text);
    struct bg_str all = {0};
    if (json_array_size(types) > sizeof type_words / sizeof *type_words)
        refuse(c, path, "\"type\": expected each type at most once%s", "");
    for (size_t i = 0; i < json_array_size(types) && !c->failed; i++) {
        const char *type = json_string_value(json_array_get(types, i)), *word;
        const char *words = type && words_of(type) ? words_of(type) : " type ";
        json_t *own = json_object(), *value;
        json_object_foreach(schema, word, value)
        {
            if (is_one_of(word, words))
                json_object_set(own, word, value);
        }
        bg_str_add(&all, words);
        add(c, rule, "", typed(c, own, type ? type : "?", path, depth), "");
        json_decref(own);
    }
    allow(c, schema, path, bg_str_text(&all));
    bg_str_fini(&all);
    return rule;
}

static uint32_t by_type(struct compiler *c, json_t *schema, const char *path, uint32_t depth)
{
    json_t *type = json_object_get(schema, "type"), *value;
    const char *word;
    if (json_is_string(type))
        return typed(c, schema, json_string_value(type), path, depth);
    if (json_is_array(type) && json_array_size(type) > 0)
        return of_types(c, schema, type, path, depth);
    for (size_t i = 0; i < sizeof type_words / sizeof *type_words && !type; i++)
        json_object_foreach(schema, word, value)
        {
            if (is_one_of(word, type_words[i].words)) // other types would fit as well
                return typed(c, schema, type_words[i].type, path, depth);
        }
    allow(c, schema, path, " ");
    return c->value;
}

static uint32_t one_of(struct compiler *c, json_t *schema, const char *path, uint32_t depth)
{
    json_t *list = json_object_get(schema, "oneOf");
    size_t first, second;
    char *at = bg_format("%s/oneOf", path), *which = NULL;
    allow(c, schema, path, " oneOf ");
    const uint32_t rule = any_of(c, list, at, depth);
    if (!c->failed && !schema_alternatives_are_apart(c->root, list, &first, &second)) {
        which = bg_format("%zu and %zu", first, second);
        refuse(c, at,
               "it does not show that %s exclude each other: give each a const, type or required property, or use "
               "\"anyOf\"",
               which);
    }
    bg_free(at);
    bg_free(which);
    return rule;
}

static uint32_t enum_of(struct compiler *c, json_t *schema, const char *path)
{
    json_t *values = json_object_get(schema, "enum"), *type = json_object_get(schema, "type");
    const uint32_t rule = grammar_rule_new(&c->text);
    size_t fit = 0;
    allow(c, schema, path, " enum type ");
    for (size_t i = 0; i < json_array_size(values); i++)
        if (schema_type_takes(type, json_array_get(values, i))) {
            add(c, rule, "", literal(c, json_array_get(values, i)), "");
            fit++;
        }
    if (fit == 0)
        refuse(c, path, "\"enum\": expected a list of at least one value%s", type ? " of the type" : "");
    return rule;
}

static uint32_t compile_object(struct compiler *c, json_t *schema, const char *path, uint32_t depth)
{
    json_t *reference = json_object_get(schema, "$ref");
    if (json_is_string(reference)) {
        allow(c, schema, path, " $ref ");
        json_t *to = resolve(c, json_string_value(reference), path);
        return to ? compile(c, to, json_string_value(reference), depth + 1) : c->value;
    }
    if (json_object_get(schema, "const")) {
        allow(c, schema, path, " const type ");
        if (!schema_type_takes(json_object_get(schema, "type"), json_object_get(schema, "const")))
            refuse(c, path, "\"const\": expected a value of the type%s", "");
        return literal(c, json_object_get(schema, "const"));
    }
    if (json_object_get(schema, "enum"))
        return enum_of(c, schema, path);
    if (json_object_get(schema, "oneOf"))
        return one_of(c, schema, path, depth);
    if (json_object_get(schema, "anyOf")) {
        char *at = bg_format("%s/anyOf", path);
        allow(c, schema, path, " anyOf ");
        const uint32_t rule = any_of(c, json_object_get(schema, "anyOf"), at, depth);
        bg_free(at);
        return rule;
    }
    json_t *all = json_object_get(schema, "allOf");
    if (json_array_size(all) == 1) {
        char *at = bg_format("%s/allOf/0", path);
        allow(c, schema, path, " allOf ");
        const uint32_t rule = compile(c, json_array_get(all, 0), at, depth + 1);
        bg_free(at);
        return rule;
    }
    return by_type(c, schema, path, depth);
}

static uint32_t compile(struct compiler *c, json_t *schema, const char *path, uint32_t depth)
{
    if (c->failed || depth > GRAMMAR_DEPTH_MAX || c->text.too_large) {
        refuse(c, path, c->text.too_large ? "the grammar is too large here%s" : "schemas are nested too deeply%s", "");
        return c->value;
    }
    if (json_is_true(schema))
        return c->value;
    if (!json_is_object(schema)) {
        refuse(c, path, "expected a schema: an object or true%s", "");
        return c->value;
    }
    for (size_t i = 0; i < c->known_count; i++)
        if (c->known[i].schema == schema)
            return c->known[i].rule;
    if (c->known_count == c->known_capacity) {
        c->known_capacity = c->known_capacity * 2 + 32;
        c->known = bg_realloc_array(c->known, c->known_capacity, sizeof *c->known);
    }
    const uint32_t rule = grammar_rule_new(&c->text);
    c->text.rules[rule].name = bg_format("%.200s", path);
    c->known[c->known_count].schema = schema;
    c->known[c->known_count++].rule = rule;
    add(c, rule, "", compile_object(c, schema, path, depth), "");
    return rule;
}

bg_status grammar_compile_schema(const char *schema, size_t size, const struct tokenizer *tokenizer,
                                 struct bg_error *err, struct grammar **grammar)
{
    struct compiler c = {.err = err};
    json_error_t at;
    if (size > GRAMMAR_TEXT_MAX)
        return bg_fail(err, BG_INVALID, "a schema of %zu bytes: at most %d", size, GRAMMAR_TEXT_MAX);
    c.root = schema ? json_loadb(schema, size, JSON_REJECT_DUPLICATES | JSON_DECODE_ANY, &at) : NULL;
    if (schema && !c.root)
        return bg_fail(err, BG_INVALID, "the schema is no JSON: line %d, column %d: %s", at.line, at.column, at.text);
    make_space(&c);
    make_string(&c);
    make_numbers(&c);
    make_values(&c);
    const uint32_t root = schema ? compile(&c, c.root, "#", 0) : c.object;
    json_decref(c.root);
    bg_free(c.known);
    bg_free(c.lengths);
    if (c.failed) {
        grammar_text_fini(&c.text);
        return BG_INVALID;
    }
    return grammar_finish(&c.text, root, tokenizer, err, grammar);
}
