// GBNF, llama.cpp's form of Backus-Naur: rules `name ::= ...`, "text", [classes], (groups), | alternatives, * + ?
// {m,n}, # comments. A rule ends with its line, but not inside a group or after a |.
#include "base/mem.h"
#include "serve/grammar_int.h"

#include <string.h>

struct parser {
    struct grammar_text text;
    const char *at, *end, *begin;
    struct bg_error *err;
    uint32_t depth;
    bool failed;
};

static void refuse(struct parser *p, const char *what)
{
    uint32_t line = 1, column = 1;
    if (p->failed)
        return;
    p->failed = true;
    for (const char *c = p->begin; c < p->at; c++) {
        column = *c == '\n' ? 1 : column + 1;
        line += *c == '\n';
    }
    bg_fail(p->err, BG_INVALID, "grammar, line %u, column %u: %s", line, column, what);
}

static void skip(struct parser *p, bool lines)
{
    while (p->at < p->end) {
        if (*p->at == '#')
            while (p->at < p->end && *p->at != '\n')
                p->at++;
        else if (*p->at == ' ' || *p->at == '\t' || (lines && (*p->at == '\n' || *p->at == '\r')))
            p->at++;
        else
            return;
    }
}

static bool next_is(const struct parser *p, char c)
{
    return p->at < p->end && *p->at == c;
}

static bool in_name(char c)
{
    return (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') || (c >= '0' && c <= '9') || c == '-' || c == '_';
}

static size_t name_length(const struct parser *p)
{
    size_t size = 0;
    while (p->at + size < p->end && in_name(p->at[size]))
        size++;
    return size;
}

static uint32_t hex(struct parser *p, int digits)
{
    uint32_t value = 0;
    for (int i = 0; i < digits; i++, p->at++) {
        const char c = p->at < p->end ? *p->at : '\0';
        if (c >= '0' && c <= '9')
            value = value * 16 + (uint32_t)(c - '0');
        else if ((c | 32) >= 'a' && (c | 32) <= 'f')
            value = value * 16 + (uint32_t)((c | 32) - 'a' + 10);
        else {
            refuse(p, "expected a hexadecimal digit");
            return 0;
        }
    }
    return value;
}

// One code point of a text or of a class, escapes and UTF-8 understood.
static uint32_t point(struct parser *p)
{
    if (p->at >= p->end) {
        refuse(p, "the grammar ends inside a text or class");
        return 0;
    }
    unsigned char c = (unsigned char)*p->at++;
    if (c == '\\') {
        const char kind = p->at < p->end ? *p->at++ : '\0';
        switch (kind) {
        case 'x':
            return hex(p, 2);
        case 'u':
            return hex(p, 4);
        case 'U':
            return hex(p, 8);
        case 'n':
            return '\n';
        case 'r':
            return '\r';
        case 't':
            return '\t';
        case '\\':
        case '"':
        case '[':
        case ']':
        case '-':
        case '^':
        case '/':
            return (unsigned char)kind;
        default:
            refuse(p, "unknown escape: expected \\x, \\u, \\U, \\n, \\r, \\t, \\\\, \\\" or a bracket");
            return 0;
        }
    }
    const int more = c < 0x80 ? 0 : c >= 0xf0 ? 3 : c >= 0xe0 ? 2 : c >= 0xc2 ? 1 : -1;
    uint32_t value = more > 0 ? c & (0x3fu >> more) : c;
    for (int i = 0; i < more; i++, p->at++) {
        if (p->at >= p->end || ((unsigned char)*p->at & 0xc0) != 0x80) {
            refuse(p, "this is no UTF-8");
            return 0;
        }
        value = value << 6 | ((unsigned char)*p->at & 0x3fu);
    }
    if (more < 0 || value > 0x10ffff)
        refuse(p, "this is no UTF-8");
    return value;
}

static void add_point(struct parser *p, struct grammar_sequence *s, uint32_t value)
{
    struct grammar_range one = {value, value};
    if (value < 0x80) {
        const char c = (char)value;
        grammar_add_text(&p->text, s, &c, 1);
    } else if (value > 0x10ffff || (value >= 0xd800 && value <= 0xdfff)) {
        refuse(p, "this code point has no UTF-8");
    } else {
        grammar_add_rule(s, grammar_rule_of_ranges(&p->text, &one, 1, false));
    }
}

static void parse_text(struct parser *p, struct grammar_sequence *s)
{
    p->at++;
    while (!p->failed && !next_is(p, '"'))
        add_point(p, s, point(p));
    p->at++;
}

static void parse_class(struct parser *p, struct grammar_sequence *s)
{
    struct grammar_range ranges[256];
    size_t count = 0;
    p->at++;
    const bool negated = next_is(p, '^');
    p->at += negated;
    while (!p->failed && !next_is(p, ']')) {
        if (count == 256) {
            refuse(p, "a class has at most 256 ranges");
            return;
        }
        const uint32_t first = point(p);
        uint32_t last = first;
        if (next_is(p, '-') && p->at + 1 < p->end && p->at[1] != ']') {
            p->at++;
            last = point(p);
        }
        if (last < first || last > 0x10ffff)
            refuse(p, "a range ends before it begins, or beyond U+10FFFF");
        ranges[count++] = (struct grammar_range){first, last};
    }
    p->at++;
    if (!p->failed && count == 0 && !negated)
        refuse(p, "an empty class matches nothing");
    if (!p->failed)
        grammar_add_rule(s, grammar_rule_of_ranges(&p->text, ranges, count, negated));
}

static uint32_t number(struct parser *p)
{
    uint32_t value = 0;
    const char *begin = p->at;
    for (; p->at < p->end && *p->at >= '0' && *p->at <= '9' && value <= GRAMMAR_REPEAT_MAX; p->at++)
        value = value * 10 + (uint32_t)(*p->at - '0');
    if (p->at == begin)
        refuse(p, "expected a number");
    if (value > GRAMMAR_REPEAT_MAX)
        refuse(p, "more than 4096 repetitions");
    return value;
}

// * + ? {m} {m,} {m,n} after the last part of a sequence.
static void parse_repeat(struct parser *p, struct grammar_sequence *s, size_t last)
{
    uint32_t least = 0, most = UINT32_MAX;
    const char kind = *p->at++;
    if (kind == '+')
        least = 1;
    if (kind == '?')
        most = 1;
    if (kind == '{') {
        skip(p, true);
        least = most = number(p);
        skip(p, true);
        if (next_is(p, ',')) {
            p->at++;
            skip(p, true);
            most = next_is(p, '}') ? UINT32_MAX : number(p);
            skip(p, true);
        }
        if (!next_is(p, '}') || most < least)
            refuse(p, "expected {m}, {m,} or {m,n} with m <= n");
        p->at++;
    }
    if (s->count == last)
        refuse(p, "there is nothing to repeat here");
    if (p->failed)
        return;
    struct grammar_sequence part = {0};
    for (size_t i = last; i < s->count; i++)
        grammar_add_element(&part, s->elements[i]);
    s->count = last;
    grammar_add_rule(s, grammar_rule_repeat(&p->text, &part, least, most));
}

static void parse_alternatives(struct parser *p, uint32_t rule, bool nested);

static void parse_sequence(struct parser *p, struct grammar_sequence *s, bool nested)
{
    size_t last = 0;
    for (skip(p, nested); !p->failed && p->at < p->end; skip(p, nested)) {
        const char c = *p->at;
        if (c == '*' || c == '+' || c == '?' || c == '{') {
            parse_repeat(p, s, last);
            continue;
        }
        if (c == '|' || c == ')' || c == '\n' || c == '\r')
            return;
        last = s->count;
        if (c == '"') {
            parse_text(p, s);
        } else if (c == '[') {
            parse_class(p, s);
        } else if (c == '.') {
            struct grammar_range all = {0, 0x10ffff};
            p->at++;
            grammar_add_rule(s, grammar_rule_of_ranges(&p->text, &all, 1, false));
        } else if (c == '(') {
            const uint32_t group = grammar_rule_new(&p->text);
            p->at++;
            parse_alternatives(p, group, true);
            if (!next_is(p, ')'))
                refuse(p, "expected a closing bracket");
            p->at++;
            grammar_add_rule(s, group);
        } else if (name_length(p) > 0) {
            const size_t size = name_length(p);
            grammar_add_rule(s, grammar_rule_named(&p->text, p->at, size));
            p->at += size;
        } else {
            refuse(p, "expected a text, a class, a group or the name of a rule");
        }
    }
}

static void parse_alternatives(struct parser *p, uint32_t rule, bool nested)
{
    if (++p->depth > GRAMMAR_DEPTH_MAX)
        refuse(p, "groups are nested too deeply");
    for (bool more = true; more && !p->failed;) {
        struct grammar_sequence s = {0};
        parse_sequence(p, &s, nested);
        grammar_add_alternative(&p->text, rule, &s);
        more = next_is(p, '|');
        if (more) {
            p->at++;
            skip(p, true);
        }
    }
    p->depth--;
}

static void parse_rule(struct parser *p)
{
    const size_t size = name_length(p);
    if (size == 0) {
        refuse(p, "expected the name of a rule");
        return;
    }
    const uint32_t rule = grammar_rule_named(&p->text, p->at, size);
    if (p->text.rules[rule].alt_count > 0)
        refuse(p, "this rule was defined before");
    p->at += size;
    skip(p, false);
    if (p->end - p->at < 3 || memcmp(p->at, "::=", 3) != 0) {
        refuse(p, "expected ::=");
        return;
    }
    p->at += 3;
    skip(p, true);
    parse_alternatives(p, rule, false);
    if (!p->failed && p->at < p->end && *p->at != '\n' && *p->at != '\r')
        refuse(p, "expected the end of the line");
}

bg_status grammar_compile_gbnf(const char *text, size_t size, const struct tokenizer *tokenizer, struct bg_error *err,
                               struct grammar **grammar)
{
    struct parser p = {.at = text, .begin = text, .end = text + size, .err = err};
    if (size > GRAMMAR_TEXT_MAX)
        return bg_fail(err, BG_INVALID, "a grammar of %zu bytes: at most %d", size, GRAMMAR_TEXT_MAX);
    for (skip(&p, true); !p.failed && p.at < p.end && !p.text.too_large; skip(&p, true))
        parse_rule(&p);
    if (p.failed) {
        grammar_text_fini(&p.text);
        return BG_INVALID;
    }
    const uint32_t root = grammar_rule_named(&p.text, "root", 4);
    return grammar_finish(&p.text, root, tokenizer, err, grammar);
}
