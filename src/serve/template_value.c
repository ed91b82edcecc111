// Filters, methods, tests, and values as text (as Python prints them).
#include "base/mem.h"
#include "serve/template_int.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

void template_print(struct bg_str *out, const json_t *value, bool quoted)
{
    const char *key;
    json_t *each;
    switch (value ? json_typeof(value) : JSON_STRING) {
    case JSON_STRING:
        if (value && quoted)
            bg_str_add(out, "'");
        if (value)
            bg_str_add_bytes(out, json_string_value(value), json_string_length(value));
        if (value && quoted)
            bg_str_add(out, "'");
        break;
    case JSON_INTEGER:
        bg_str_addf(out, "%lld", (long long)json_integer_value(value));
        break;
    case JSON_REAL: {
        char *text = json_dumps(value, JSON_ENCODE_ANY | JSON_REAL_PRECISION(15));
        bg_str_add(out, text ? text : "0");
        bg_free(text);
        break;
    }
    case JSON_ARRAY:
        bg_str_add(out, "[");
        for (size_t i = 0; i < json_array_size(value); i++) {
            bg_str_add(out, i ? ", " : "");
            template_print(out, json_array_get(value, i), true);
        }
        bg_str_add(out, "]");
        break;
    case JSON_OBJECT:
        bg_str_add(out, "{");
        json_object_foreach((json_t *)(uintptr_t)value, key, each)
        {
            bg_str_addf(out, "%s'%s': ", out->data[out->size - 1] == '{' ? "" : ", ", key);
            template_print(out, each, true);
        }
        bg_str_add(out, "}");
        break;
    case JSON_TRUE:
        bg_str_add(out, "True");
        break;
    case JSON_FALSE:
        bg_str_add(out, "False");
        break;
    default:
        bg_str_add(out, "None");
    }
}

static const char *text_of(const json_t *value)
{
    return json_is_string(value) ? json_string_value(value) : "";
}

static json_t *strip(const json_t *value, const char *what, bool left, bool right)
{
    const char *text = text_of(value);
    size_t first = 0, end = json_string_length(value);
    while (left && first < end && strchr(what, text[first]))
        first++;
    while (right && end > first && strchr(what, text[end - 1]))
        end--;
    return json_stringn(text + first, end - first);
}

static json_t *in_case(const json_t *value, char kind) // u upper, l lower, c capitalize, t title; ASCII
{
    char *text = bg_strdup(text_of(value));
    bool begin = true;
    for (char *c = text; *c; c++) {
        const bool letter = (*c | 32) >= 'a' && (*c | 32) <= 'z';
        const bool upper = kind == 'u' || ((kind == 'c' || kind == 't') && begin);
        if (letter)
            *c = (char)(upper ? *c & ~32 : *c | 32);
        begin = kind == 't' && !letter;
    }
    json_t *result = json_string(text);
    bg_free(text);
    return result;
}

static json_t *replace(const json_t *value, const char *from, const char *to)
{
    struct bg_str out = {0};
    const char *at = text_of(value), *end = at + json_string_length(value);
    const size_t size = strlen(from);
    while (at < end && out.size <= TEMPLATE_OUTPUT_MAX) {
        const bool here = size > 0 && size <= (size_t)(end - at) && memcmp(at, from, size) == 0;
        if (here)
            bg_str_add(&out, to);
        else
            bg_str_add_bytes(&out, at, 1);
        at += here ? size : 1;
    }
    json_t *result = json_string(bg_str_text(&out));
    bg_str_fini(&out);
    return result;
}

static json_t *split(const json_t *value, const char *by)
{
    json_t *list = json_array();
    const char *at = text_of(value), *next;
    const bool blanks = *by == '\0';
    if (blanks) {
        for (at += strspn(at, " \t\r\n"); *at; at += strspn(at, " \t\r\n")) {
            const size_t size = strcspn(at, " \t\r\n");
            json_array_append_new(list, json_stringn(at, size));
            at += size;
        }
        return list;
    }
    for (; (next = strstr(at, by)); at = next + strlen(by))
        json_array_append_new(list, json_stringn(at, (size_t)(next - at)));
    json_array_append_new(list, json_string(at));
    return list;
}

static json_t *items(json_t *object, bool keys, bool values)
{
    json_t *list = json_array(), *each;
    const char *key;
    json_object_foreach(object, key, each)
    {
        if (keys && values)
            json_array_append_new(list, json_pack("[s, O]", key, each));
        else if (keys)
            json_array_append_new(list, json_string(key));
        else
            json_array_append(list, each);
    }
    return list;
}

static json_t *join(struct template_run *run, const json_t *list, const char *by)
{
    struct bg_str out = {0};
    for (size_t i = 0; i < json_array_size(list) && !run->failed && out.size <= TEMPLATE_OUTPUT_MAX; i++) {
        bg_str_add(&out, i ? by : "");
        template_print(&out, json_array_get(list, i), false);
    }
    json_t *text = json_stringn(bg_str_text(&out), out.size);
    bg_str_fini(&out);
    return text;
}

json_t *template_method(struct template_run *run, uint32_t line, const char *name, json_t *object, json_t **args,
                        uint32_t count)
{
    const char *first = count ? text_of(args[0]) : "", *blanks = count ? first : " \t\r\n";
    if (json_is_string(object)) {
        const size_t size = json_string_length(object), part = strlen(first);
        if (!strcmp(name, "strip") || !strcmp(name, "lstrip") || !strcmp(name, "rstrip"))
            return strip(object, blanks, *name != 'r', *name != 'l');
        if (!strcmp(name, "startswith"))
            return json_boolean(strncmp(text_of(object), first, part) == 0);
        if (!strcmp(name, "endswith"))
            return json_boolean(part <= size && strcmp(text_of(object) + size - part, first) == 0);
        if (!strcmp(name, "upper") || !strcmp(name, "lower") || !strcmp(name, "capitalize") || !strcmp(name, "title"))
            return in_case(object, *name);
        if (!strcmp(name, "split"))
            return split(object, first);
        if (!strcmp(name, "replace") && count >= 2)
            return replace(object, first, text_of(args[1]));
        if (!strcmp(name, "join") && count == 1)
            return join(run, args[0], text_of(object));
    }
    if (json_is_object(object)) {
        if (!strcmp(name, "items") || !strcmp(name, "keys") || !strcmp(name, "values"))
            return items(object, *name != 'v', *name != 'k');
        if (!strcmp(name, "get")) {
            json_t *found = json_object_get(object, first);
            return found ? json_incref(found) : count > 1 && args[1] ? json_incref(args[1]) : json_null();
        }
    }
    if (json_is_array(object) && !strcmp(name, "append") && count == 1) {
        json_array_append_new(object, args[0] ? json_deep_copy(args[0]) : json_null()); // so that none holds itself
        template_weigh(run, line, object);
        return json_null();
    }
    return template_fail(run, line, "there is no method .%s() of this", name);
}

static json_t *select_by(struct template_run *run, const struct template_node *n, const json_t *list, json_t **args,
                         uint32_t count, bool wanted)
{
    json_t *left = json_array();
    const char *attribute = count ? text_of(args[0]) : "", *test = count > 1 ? text_of(args[1]) : "";
    for (size_t i = 0; i < json_array_size(list) && !run->failed; i++) {
        json_t *item = json_array_get(list, i), *value = json_object_get(item, attribute);
        bool yes = template_true(value);
        if (!strcmp(test, "equalto") || !strcmp(test, "==") || !strcmp(test, "eq"))
            yes = count > 2 && value && args[2] && json_equal(value, args[2]);
        else if (!strcmp(test, "defined"))
            yes = value != NULL;
        else if (*test)
            template_fail(run, n->line, "selectattr: the test \"%s\" is not supported", test);
        if (yes == wanted)
            json_array_append(left, item);
    }
    return left;
}

static json_t *map_attribute(const struct template_node *n, const json_t *list, json_t **args, uint32_t count)
{
    json_t *values = json_array();
    const char *attribute = "";
    for (uint32_t i = 0; i < count; i++)
        if (n->names[i] && !strcmp(n->names[i], "attribute"))
            attribute = text_of(args[i]);
    for (size_t i = 0; i < json_array_size(list); i++) {
        json_t *value = json_object_get(json_array_get(list, i), attribute);
        json_array_append(values, value ? value : json_null());
    }
    return values;
}

static json_t *to_json(const struct template_node *n, const json_t *value, json_t **args, uint32_t count)
{
    size_t indent = 0;
    for (uint32_t i = 0; i < count; i++)
        if (json_is_integer(args[i]) && (!n->names[i] || !strcmp(n->names[i], "indent")))
            indent = (size_t)json_integer_value(args[i]) % 32;
    // as Python's json.dumps: ", " and ": "
    char *text = json_dumps(value ? value : json_null(), JSON_ENCODE_ANY | JSON_INDENT(indent));
    json_t *result = json_string(text ? text : "null");
    bg_free(text);
    return result;
}

static json_t *length_of(struct template_run *run, const struct template_node *n, const json_t *value)
{
    if (json_is_array(value))
        return json_integer((json_int_t)json_array_size(value));
    if (json_is_object(value))
        return json_integer((json_int_t)json_object_size(value));
    if (!json_is_string(value))
        return template_fail(run, n->line, "this has no length");
    json_int_t points = 0;
    for (const char *c = json_string_value(value); *c; c++)
        points += ((unsigned char)*c & 0xc0) != 0x80;
    return json_integer(points);
}

static json_t *indent_text(const json_t *value, json_t **args, uint32_t count)
{
    const json_int_t width = count && json_is_integer(args[0]) ? json_integer_value(args[0]) : 4;
    struct bg_str out = {0};
    for (const char *c = text_of(value); *c && out.size <= TEMPLATE_OUTPUT_MAX; c++) {
        bg_str_add_bytes(&out, c, 1);
        for (json_int_t i = 0; *c == '\n' && c[1] && c[1] != '\n' && i < width && i < 64; i++)
            bg_str_add(&out, " ");
    }
    json_t *text = json_stringn(bg_str_text(&out), out.size);
    bg_str_fini(&out);
    return text;
}

json_t *template_filter(struct template_run *run, const struct template_node *n, json_t *value, json_t **args,
                        uint32_t count)
{
    const char *name = n->text;
    if (!strcmp(name, "default") || !strcmp(name, "d")) {
        const bool also_empty = count > 1 && template_true(args[1]);
        const bool keep = value && (!also_empty || template_true(value));
        return keep ? json_incref(value) : count && args[0] ? json_incref(args[0]) : json_string("");
    }
    if (!strcmp(name, "tojson"))
        return to_json(n, value, args, count);
    if (!value)
        return template_fail(run, n->line, "the filter %s needs a value, and this is undefined", name);
    if (!strcmp(name, "trim"))
        return strip(value, " \t\r\n", true, true);
    if (!strcmp(name, "length") || !strcmp(name, "count"))
        return length_of(run, n, value);
    if (!strcmp(name, "upper") || !strcmp(name, "lower") || !strcmp(name, "capitalize") || !strcmp(name, "title"))
        return in_case(value, *name);
    if (!strcmp(name, "join"))
        return join(run, value, count ? text_of(args[0]) : "");
    if (!strcmp(name, "first") || !strcmp(name, "last"))
        return json_incref(
            json_array_get(value, *name == 'f' || !json_array_size(value) ? 0 : json_array_size(value) - 1));
    if (!strcmp(name, "safe") || !strcmp(name, "list") || !strcmp(name, "escape") || !strcmp(name, "e"))
        return json_is_object(value) ? items(value, true, false) : json_incref(value);
    if (!strcmp(name, "items") || !strcmp(name, "dictsort"))
        return items(value, true, true);
    if (!strcmp(name, "replace") && count >= 2)
        return replace(value, text_of(args[0]), text_of(args[1]));
    if (!strcmp(name, "selectattr") || !strcmp(name, "rejectattr"))
        return select_by(run, n, value, args, count, *name == 's');
    if (!strcmp(name, "map"))
        return map_attribute(n, value, args, count);
    if (!strcmp(name, "indent"))
        return indent_text(value, args, count);
    if (!strcmp(name, "string")) {
        struct bg_str out = {0};
        template_print(&out, value, false);
        json_t *text = json_stringn(bg_str_text(&out), out.size);
        bg_str_fini(&out);
        return text;
    }
    if (!strcmp(name, "int"))
        return json_integer(json_is_string(value) ? strtoll(text_of(value), NULL, 10)
                                                  : (json_int_t)json_number_value(value));
    return template_fail(run, n->line, "the filter \"%s\" is not supported", name);
}

bool template_test(struct template_run *run, const struct template_node *n, json_t *value, json_t **args,
                   uint32_t count)
{
    const char *name = n->text;
    if (!strcmp(name, "defined"))
        return value != NULL;
    if (!strcmp(name, "undefined"))
        return value == NULL;
    if (!strcmp(name, "none"))
        return json_is_null(value);
    if (!strcmp(name, "string"))
        return json_is_string(value);
    if (!strcmp(name, "mapping"))
        return json_is_object(value);
    if (!strcmp(name, "sequence"))
        return json_is_array(value) || json_is_string(value);
    if (!strcmp(name, "iterable"))
        return json_is_array(value) || json_is_string(value) || json_is_object(value);
    if (!strcmp(name, "number"))
        return json_is_number(value);
    if (!strcmp(name, "integer"))
        return json_is_integer(value);
    if (!strcmp(name, "boolean"))
        return json_is_boolean(value);
    if (!strcmp(name, "true") || !strcmp(name, "false"))
        return json_is_boolean(value) && json_is_true(value) == (*name == 't');
    if ((!strcmp(name, "equalto") || !strcmp(name, "eq")) && count == 1)
        return value && args[0] && json_equal(value, args[0]);
    if (!strcmp(name, "odd") || !strcmp(name, "even"))
        return json_is_integer(value) && (json_integer_value(value) % 2 != 0) == (*name == 'o');
    if (!strcmp(name, "in") && count == 1) {
        for (size_t i = 0; i < json_array_size(args[0]); i++)
            if (value && json_equal(json_array_get(args[0], i), value))
                return true;
        return false;
    }
    template_fail(run, n->line, "the test \"%s\" is not supported", name);
    return false;
}
