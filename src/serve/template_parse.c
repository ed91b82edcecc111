// Expressions of templates, by precedence: if-else, or, and, not, comparisons, ~, + -, * / // %, unary -, filters and
// tests, then what follows a value: .name, [..], (..).
#include "base/mem.h"
#include "serve/template_int.h"

#include <stdlib.h>
#include <string.h>

void template_skip(struct template_parser *p)
{
    for (; p->at < p->end && strchr(" \t\r\n", *p->at); p->at++)
        p->line += *p->at == '\n';
}

size_t template_word(struct template_parser *p)
{
    size_t size = 0;
    template_skip(p);
    for (; p->at + size < p->end; size++) {
        const char c = p->at[size];
        if (!((c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') || c == '_' || (size > 0 && c >= '0' && c <= '9')))
            break;
    }
    return size;
}

bool template_take(struct template_parser *p, const char *token)
{
    const size_t size = strlen(token);
    template_skip(p);
    if ((size_t)(p->end - p->at) < size || memcmp(p->at, token, size) != 0)
        return false;
    p->at += size;
    return true;
}

bool template_take_word(struct template_parser *p, const char *word)
{
    const size_t size = template_word(p);
    if (size != strlen(word) || memcmp(p->at, word, size) != 0)
        return false;
    p->at += size;
    return true;
}

static struct template_node *value_node(struct template_parser *p, json_t *value)
{
    struct template_node *n = template_node(p, T_VALUE);
    n->value = value;
    return n;
}

static struct template_node *binary(struct template_parser *p, const char *name, struct template_node *left,
                                    struct template_node *right)
{
    struct template_node *n = template_node(p, T_BINARY);
    n->text = bg_strdup(name);
    template_add(n, left);
    template_add(n, right);
    return n;
}

static struct template_node *parse_text(struct template_parser *p)
{
    struct bg_str text = {0};
    const char quote = *p->at++;
    while (p->at < p->end && *p->at != quote) {
        char c = *p->at++;
        if (c == '\\' && p->at < p->end) {
            c = *p->at++;
            c = c == 'n' ? '\n' : c == 't' ? '\t' : c == 'r' ? '\r' : c;
        }
        p->line += c == '\n';
        bg_str_add_bytes(&text, &c, 1);
    }
    if (p->at >= p->end)
        template_refuse(p, "a text does not end");
    else
        p->at++;
    json_t *value = json_stringn(bg_str_text(&text), text.size);
    if (!value)
        template_refuse(p, "a text is no UTF-8");
    bg_str_fini(&text);
    return value_node(p, value);
}

static struct template_node *parse_number(struct template_parser *p)
{
    char text[40] = {0};
    size_t size = 0;
    bool real = false;
    for (; p->at < p->end && size + 1 < sizeof text; p->at++) {
        const bool dot = *p->at == '.' && !real && p->end - p->at > 1 && p->at[1] >= '0' && p->at[1] <= '9';
        if (!(*p->at >= '0' && *p->at <= '9') && !dot)
            break;
        real |= dot;
        text[size++] = *p->at;
    }
    return value_node(p, real ? json_real(strtod(text, NULL)) : json_integer(strtoll(text, NULL, 10)));
}

static struct template_node *parse_list(struct template_parser *p, const char *close)
{
    struct template_node *n = template_node(p, T_LIST);
    while (!p->failed && !template_take(p, close)) {
        template_add(n, template_expression(p));
        if (!template_take(p, ",")) {
            if (!template_take(p, close))
                template_refuse(p, "expected , or %s", close);
            break;
        }
    }
    return n;
}

static struct template_node *parse_dict(struct template_parser *p)
{
    struct template_node *n = template_node(p, T_DICT);
    while (!p->failed && !template_take(p, "}")) {
        template_add(n, template_expression(p));
        if (!template_take(p, ":"))
            template_refuse(p, "expected : after a key");
        template_add(n, template_expression(p));
        if (!template_take(p, ",")) {
            if (!template_take(p, "}"))
                template_refuse(p, "expected , or }");
            break;
        }
    }
    return n;
}

static struct template_node *parse_word(struct template_parser *p, size_t size)
{
    static const struct {
        const char *word;
        int kind; // 0 false, 1 true, 2 none
    } constants[] = {{"true", 1}, {"True", 1}, {"false", 0}, {"False", 0}, {"none", 2}, {"None", 2}};
    for (size_t i = 0; i < sizeof constants / sizeof *constants; i++)
        if (template_take_word(p, constants[i].word))
            return value_node(p, constants[i].kind == 2 ? json_null() : json_boolean(constants[i].kind));
    struct template_node *n = template_node(p, T_NAME);
    n->text = bg_strndup(p->at, size);
    p->at += size;
    return n;
}

static struct template_node *parse_value(struct template_parser *p)
{
    const size_t size = template_word(p);
    if (size > 0)
        return parse_word(p, size);
    if (p->at < p->end && (*p->at == '"' || *p->at == '\''))
        return parse_text(p);
    if (p->at < p->end && *p->at >= '0' && *p->at <= '9')
        return parse_number(p);
    if (template_take(p, "["))
        return parse_list(p, "]");
    if (template_take(p, "{"))
        return parse_dict(p);
    if (template_take(p, "(")) {
        struct template_node *n = template_primary_list(p);
        if (!template_take(p, ")"))
            template_refuse(p, "expected )");
        return n;
    }
    template_refuse(p, "expected a value here: \"%.20s\"", p->at < p->end ? p->at : "");
    return value_node(p, json_null());
}

// Arguments up to ); keyword arguments have names.
static void parse_arguments(struct template_parser *p, struct template_node *n)
{
    while (!p->failed && !template_take(p, ")")) {
        const char *before = p->at;
        const size_t size = template_word(p);
        const char *name = p->at;
        if (size > 0) {
            p->at += size;
            template_skip(p);
        }
        const bool keyword = size > 0 && p->end - p->at > 1 && *p->at == '=' && p->at[1] != '=';
        p->at = keyword ? p->at + 1 : before;
        template_add_name(n, keyword ? name : NULL, size);
        template_add(n, template_expression(p));
        if (!template_take(p, ",") && !(p->at < p->end && *p->at == ')'))
            template_refuse(p, "expected , or ) after an argument");
    }
}

static struct template_node *parse_index(struct template_parser *p, struct template_node *of)
{
    struct template_node *parts[3] = {NULL, NULL, NULL};
    uint32_t count = 0;
    bool slice = false;
    while (!p->failed && count < 3 && !template_take(p, "]")) {
        if (template_take(p, ":")) {
            slice = true;
            count++;
        } else {
            parts[count] = template_expression(p);
        }
    }
    struct template_node *n = template_node(p, slice ? T_SLICE : T_INDEX);
    template_add(n, of);
    for (uint32_t i = 0; i < (slice ? 3u : 1u); i++)
        template_add(n, parts[i]);
    if (!slice && !parts[0])
        template_refuse(p, "expected something between [ and ]");
    return n;
}

static struct template_node *parse_follow(struct template_parser *p)
{
    struct template_node *n = parse_value(p);
    while (!p->failed) {
        struct template_node *outer;
        if (template_take(p, ".")) {
            const size_t size = template_word(p);
            outer = template_node(p, T_GET);
            outer->text = bg_strndup(p->at, size);
            p->at += size;
            if (size == 0)
                template_refuse(p, "expected a name after .");
            template_add(outer, n);
        } else if (template_take(p, "[")) {
            outer = parse_index(p, n);
        } else if (template_take(p, "(")) {
            outer = template_node(p, T_CALL);
            template_add(outer, n);
            parse_arguments(p, outer);
        } else {
            break;
        }
        n = outer;
    }
    return n;
}

// Filters and tests bind tighter than operators.
static struct template_node *parse_filtered(struct template_parser *p)
{
    struct template_node *n;
    if (template_take(p, "-")) {
        if (++p->depth > TEMPLATE_DEPTH_MAX)
            template_refuse(p, "nested too deeply");
        n = template_node(p, T_MINUS);
        template_add(n, p->failed ? value_node(p, json_null()) : parse_filtered(p));
        p->depth--;
        return n;
    }
    n = parse_follow(p);
    while (!p->failed) {
        struct template_node *outer;
        bool negated = false;
        template_skip(p);
        if (p->at < p->end && *p->at == '|' && template_take(p, "|")) {
            outer = template_node(p, T_FILTER);
        } else if (template_take_word(p, "is")) {
            negated = template_take_word(p, "not");
            outer = template_node(p, T_TEST);
        } else {
            break;
        }
        const size_t size = template_word(p);
        outer->text = bg_strndup(p->at, size);
        p->at += size;
        if (size == 0)
            template_refuse(p, "expected the name of a filter or test");
        template_add(outer, n);
        if (p->at < p->end && *p->at == '(' && template_take(p, "("))
            parse_arguments(p, outer);
        n = outer;
        if (negated) {
            n = template_node(p, T_NOT);
            template_add(n, outer);
        }
    }
    return n;
}

static bool closes(const struct template_parser *p) // -%}, -}}: no minus
{
    return p->end - p->at > 2 && p->at[0] == '-' && (p->at[1] == '%' || p->at[1] == '}') && p->at[2] == '}';
}

static bool ends_tag(const struct template_parser *p)
{
    return p->end - p->at > 1 && p->at[0] == '%' && p->at[1] == '}';
}

static struct template_node *parse_level(struct template_parser *p, uint32_t level)
{
    static const char *const signs[3][5] = {{"~", NULL}, {"+", "-", NULL}, {"*", "//", "/", "%", NULL}};
    if (level == 3)
        return parse_filtered(p);
    struct template_node *n = parse_level(p, level + 1);
    for (bool more = true; more && !p->failed;) {
        more = false;
        template_skip(p);
        for (size_t i = 0; signs[level][i] && !more && !closes(p) && !ends_tag(p); i++)
            if (template_take(p, signs[level][i])) {
                n = binary(p, signs[level][i], n, parse_level(p, level + 1));
                more = true;
            }
    }
    return n;
}

static struct template_node *parse_compared(struct template_parser *p)
{
    static const char *const signs[] = {"==", "!=", "<=", ">=", "<", ">"};
    struct template_node *n = parse_level(p, 0), *whole = NULL;
    for (bool more = true; more && !p->failed;) { // a < b < c: each with its neighbour
        const char *found = NULL;
        template_skip(p);
        for (size_t i = 0; i < 6 && !found; i++)
            if (template_take(p, signs[i]))
                found = signs[i];
        const char *before = p->at;
        if (!found && template_take_word(p, "in"))
            found = "in";
        if (!found && template_take_word(p, "not")) {
            if (template_take_word(p, "in"))
                found = "not in";
            else
                p->at = before;
        }
        more = found != NULL;
        if (!more)
            break;
        struct template_node *right = parse_level(p, 0), *one = binary(p, found, n, right);
        whole = whole ? binary(p, "and", whole, one) : one;
        n = right;
    }
    return whole ? whole : n;
}

static struct template_node *parse_not(struct template_parser *p)
{
    if (!template_take_word(p, "not"))
        return parse_compared(p);
    if (++p->depth > TEMPLATE_DEPTH_MAX)
        template_refuse(p, "nested too deeply");
    struct template_node *n = template_node(p, T_NOT);
    template_add(n, p->failed ? value_node(p, json_null()) : parse_not(p));
    p->depth--;
    return n;
}

static struct template_node *parse_and(struct template_parser *p)
{
    struct template_node *n = parse_not(p);
    while (!p->failed && template_take_word(p, "and"))
        n = binary(p, "and", n, parse_not(p));
    return n;
}

static struct template_node *parse_or(struct template_parser *p)
{
    struct template_node *n = parse_and(p);
    while (!p->failed && template_take_word(p, "or"))
        n = binary(p, "or", n, parse_and(p));
    return n;
}

struct template_node *template_expression(struct template_parser *p)
{
    if (++p->depth > TEMPLATE_DEPTH_MAX)
        template_refuse(p, "nested too deeply");
    struct template_node *n = p->failed ? value_node(p, json_null()) : parse_or(p);
    const char *before = p->at;
    if (!p->failed && !p->no_if && template_take_word(p, "if")) {
        struct template_node *whole = template_node(p, T_CONDITION);
        template_add(whole, n);
        template_add(whole, parse_or(p));
        template_add(whole, template_take_word(p, "else") ? template_expression(p) : NULL);
        n = whole;
    } else if (!p->failed) {
        p->at = before;
    }
    p->depth--;
    return n;
}

struct template_node *template_primary_list(struct template_parser *p)
{
    struct template_node *first = template_expression(p);
    if (p->failed || !template_take(p, ","))
        return first;
    struct template_node *list = template_node(p, T_LIST);
    template_add(list, first);
    do {
        template_skip(p);
        if (p->at < p->end && (*p->at == ')' || *p->at == '%'))
            break;
        template_add(list, template_expression(p));
    } while (!p->failed && template_take(p, ","));
    return list;
}
