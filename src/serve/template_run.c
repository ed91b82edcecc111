// What expressions are worth.
#include "base/mem.h"
#include "serve/template_int.h"

#include <math.h>
#include <stdio.h>
#include <string.h>

bool template_true(const json_t *value)
{
    switch (value ? json_typeof(value) : JSON_NULL) {
    case JSON_TRUE:
        return true;
    case JSON_INTEGER:
        return json_integer_value(value) != 0;
    case JSON_REAL:
        return json_real_value(value) != 0;
    case JSON_STRING:
        return json_string_length(value) > 0;
    case JSON_ARRAY:
        return json_array_size(value) > 0;
    case JSON_OBJECT:
        return json_object_size(value) > 0;
    default:
        return false;
    }
}

static json_t *variable(struct template_run *run, const char *name)
{
    for (uint32_t i = run->scope_count; i-- > 0;) {
        json_t *value = json_object_get(run->scopes[i], name);
        if (value)
            return json_incref(value);
    }
    return NULL;
}

// What a value weighs in bytes, about; stops at `most`. A part that several share weighs as often as it is printed.
static size_t weight(const json_t *value, size_t most, uint32_t depth)
{
    size_t sum = 8 + (json_is_string(value) ? json_string_length(value) : 0);
    const char *key;
    json_t *each;
    if (depth > TEMPLATE_DEPTH_MAX)
        return most;
    for (size_t i = 0; i < json_array_size(value) && sum < most; i++)
        sum += weight(json_array_get(value, i), most - sum, depth + 1);
    if (json_is_object(value))
        json_object_foreach((json_t *)(uintptr_t)value, key, each)
        {
            if (sum < most)
                sum += strlen(key) + 4;
            if (sum < most)
                sum += weight(each, most - sum, depth + 1);
        }
    return sum < most ? sum : most;
}

bool template_weigh(struct template_run *run, uint32_t line, const json_t *value)
{
    if (run->failed || !value)
        return !run->failed;
    const size_t size = weight(value, TEMPLATE_OUTPUT_MAX, 0);
    run->made += size;
    if (size == TEMPLATE_OUTPUT_MAX || run->made > TEMPLATE_MADE_MAX)
        template_fail(run, line, "a value grows beyond %d bytes or %d levels, or all together beyond %d bytes",
                      TEMPLATE_OUTPUT_MAX, TEMPLATE_DEPTH_MAX, TEMPLATE_MADE_MAX);
    return !run->failed;
}

// ---- Operators ----
static bool is_text(const json_t *a)
{
    return json_is_string(a);
}

static json_t *add_values(struct template_run *run, uint32_t line, json_t *a, json_t *b)
{
    if (is_text(a) && is_text(b)) {
        struct bg_str text = {0};
        bg_str_add_bytes(&text, json_string_value(a), json_string_length(a));
        bg_str_add_bytes(&text, json_string_value(b), json_string_length(b));
        json_t *sum = json_stringn(bg_str_text(&text), text.size);
        bg_str_fini(&text);
        return sum;
    }
    if (json_is_array(a) && json_is_array(b)) {
        json_t *sum = json_copy(a);
        json_array_extend(sum, b);
        return sum;
    }
    if (json_is_integer(a) && json_is_integer(b))
        return json_integer(
            (json_int_t)((unsigned long long)json_integer_value(a) + (unsigned long long)json_integer_value(b)));
    if (json_is_number(a) && json_is_number(b))
        return json_real(json_number_value(a) + json_number_value(b));
    return template_fail(run, line, "cannot add these: texts to texts, lists to lists, numbers to numbers");
}

static json_t *calculate(struct template_run *run, uint32_t line, const char *sign, const json_t *a, const json_t *b)
{
    if (!json_is_number(a) || !json_is_number(b))
        return template_fail(run, line, "%s needs two numbers", sign);
    const double x = json_number_value(a), y = json_number_value(b);
    if ((strcmp(sign, "/") == 0 || strcmp(sign, "//") == 0 || strcmp(sign, "%") == 0) && y == 0)
        return template_fail(run, line, "division by zero");
    if (strcmp(sign, "/") == 0)
        return json_real(x / y);
    double value = strcmp(sign, "-") == 0    ? x - y
                   : strcmp(sign, "*") == 0  ? x * y
                   : strcmp(sign, "//") == 0 ? floor(x / y)
                                             : x - y * floor(x / y);
    if (json_is_integer(a) && json_is_integer(b) && fabs(value) < 9e15)
        return json_integer((json_int_t)value);
    return json_real(value);
}

static bool equal(const json_t *a, const json_t *b)
{
    if (json_is_number(a) && json_is_number(b))
        return json_number_value(a) == json_number_value(b);
    return a && b ? json_equal(a, b) : !a == !b;
}

static bool contains(const json_t *in, const json_t *what)
{
    if (is_text(in) && is_text(what))
        return strstr(json_string_value(in), json_string_value(what)) != NULL;
    if (json_is_object(in) && is_text(what))
        return json_object_get(in, json_string_value(what)) != NULL;
    for (size_t i = 0; i < json_array_size(in); i++)
        if (equal(json_array_get(in, i), what))
            return true;
    return false;
}

static json_t *compare(struct template_run *run, uint32_t line, const char *sign, const json_t *a, const json_t *b)
{
    double order;
    if (json_is_number(a) && json_is_number(b))
        order = json_number_value(a) - json_number_value(b);
    else if (is_text(a) && is_text(b))
        order = strcmp(json_string_value(a), json_string_value(b));
    else
        return template_fail(run, line, "%s needs two numbers or two texts", sign);
    const bool yes = sign[0] == '<' ? (sign[1] ? order <= 0 : order < 0) : (sign[1] ? order >= 0 : order > 0);
    return json_boolean(yes);
}

static json_t *join_text(const json_t *a, const json_t *b)
{
    struct bg_str text = {0};
    template_print(&text, a, false);
    template_print(&text, b, false);
    json_t *value = json_stringn(bg_str_text(&text), text.size);
    bg_str_fini(&text);
    return value;
}

static json_t *evaluate_binary(struct template_run *run, const struct template_node *n)
{
    const char *sign = n->text;
    json_t *a = template_evaluate(run, n->child[0]);
    if (strcmp(sign, "and") == 0 || strcmp(sign, "or") == 0) {
        if (template_true(a) == (sign[0] == 'o'))
            return a ? a : json_null();
        json_decref(a);
        return template_evaluate(run, n->child[1]);
    }
    json_t *b = template_evaluate(run, n->child[1]), *value = NULL;
    if (run->failed)
        value = NULL;
    else if (strcmp(sign, "==") == 0 || strcmp(sign, "!=") == 0)
        value = json_boolean(equal(a, b) == (sign[0] == '='));
    else if (strcmp(sign, "in") == 0 || strcmp(sign, "not in") == 0)
        value = json_boolean(contains(b, a) == (sign[0] == 'i'));
    else if (sign[0] == '<' || sign[0] == '>')
        value = compare(run, n->line, sign, a, b);
    else if (sign[0] == '~')
        value = join_text(a, b);
    else if (sign[0] == '+')
        value = add_values(run, n->line, a, b);
    else
        value = calculate(run, n->line, sign, a, b);
    json_decref(a);
    json_decref(b);
    return value;
}

// ---- Parts of values ----
// A text's characters as a list, so that parts of it are counted as Python counts.
json_t *template_characters(const json_t *text)
{
    const char *at = json_string_value(text), *end = at + json_string_length(text);
    json_t *list = json_array();
    while (at < end) {
        size_t size = 1;
        while (at + size < end && ((unsigned char)at[size] & 0xc0) == 0x80)
            size++;
        json_array_append_new(list, json_stringn(at, size));
        at += size;
    }
    return list;
}

static json_t *index_value(const json_t *of, const json_t *by)
{
    if (json_is_object(of) && is_text(by))
        return json_incref(json_object_get(of, json_string_value(by)));
    if (!json_is_integer(by) || !(json_is_array(of) || is_text(of)))
        return NULL;
    json_t *list = is_text(of) ? template_characters(of) : json_incref((json_t *)(uintptr_t)of);
    json_int_t i = json_integer_value(by), size = (json_int_t)json_array_size(list);
    i = i < 0 ? i + size : i;
    json_t *value = i < 0 ? NULL : json_incref(json_array_get(list, (size_t)i));
    json_decref(list);
    return value;
}

// The n-th bound of a slice, as Python has it: from the end where negative, then moved to [low, high].
static json_int_t bound(struct template_run *run, const struct template_node *n, json_int_t size, json_int_t low,
                        json_int_t high, json_int_t otherwise)
{
    json_t *value = n ? template_evaluate(run, n) : NULL;
    json_int_t i = json_is_integer(value) ? json_integer_value(value) : otherwise;
    if (json_is_integer(value) && i < 0)
        i += size;
    json_decref(value);
    return i < low ? low : i > high ? high : i;
}

static json_t *slice(struct template_run *run, const struct template_node *n)
{
    json_t *of = template_evaluate(run, n->child[0]), *value = NULL;
    json_t *by = n->child[3] ? template_evaluate(run, n->child[3]) : NULL;
    const json_int_t step = json_is_integer(by) ? json_integer_value(by) : 1;
    const bool text = is_text(of);
    json_decref(by);
    if ((!text && !json_is_array(of)) || step == 0 || step > INT32_MAX || step < -INT32_MAX) {
        template_fail(run, n->line, "cannot take a slice of this, or by this step");
        json_decref(of);
        return NULL;
    }
    json_t *list = text ? template_characters(of) : json_incref(of);
    const json_int_t size = (json_int_t)json_array_size(list), low = step > 0 ? 0 : -1,
                     high = step > 0 ? size : size - 1;
    const json_int_t first = bound(run, n->child[1], size, low, high, step > 0 ? 0 : size - 1);
    const json_int_t last = bound(run, n->child[2], size, low, high, step > 0 ? size : -1);
    struct bg_str joined = {0};
    if (!text)
        value = json_array();
    for (json_int_t i = first; step > 0 ? i < last : i > last; i += step) {
        json_t *each = json_array_get(list, (size_t)i);
        if (text)
            bg_str_add_bytes(&joined, json_string_value(each), json_string_length(each));
        else
            json_array_append(value, each);
    }
    if (text)
        value = json_stringn(bg_str_text(&joined), joined.size);
    bg_str_fini(&joined);
    json_decref(list);
    json_decref(of);
    return value;
}

// ---- Calls ----
static json_t *call_function(struct template_run *run, const struct template_node *n, const char *name, json_t **args,
                             uint32_t count)
{
    if (strcmp(name, "raise_exception") == 0)
        return template_fail(run, n->line, "%.400s", count && is_text(args[0]) ? json_string_value(args[0]) : "?");
    if (strcmp(name, "namespace") == 0 || strcmp(name, "dict") == 0) {
        json_t *object = json_object();
        for (uint32_t i = 0; i < count; i++)
            if (n->names[i])
                json_object_set(object, n->names[i], args[i] ? args[i] : json_null());
            else if (json_is_object(args[i]))
                json_object_update(object, args[i]);
        return object;
    }
    if (strcmp(name, "range") == 0) {
        json_int_t first = count > 1 ? json_integer_value(args[0]) : 0;
        json_int_t last = json_integer_value(count > 1 ? args[1] : count ? args[0] : NULL);
        const json_int_t step = count > 2 ? json_integer_value(args[2]) : 1;
        const double most = 1e12; // far from where sums overflow
        if (step == 0 || fabs((double)first) > most || fabs((double)last) > most || fabs((double)step) > most ||
            (last - first) / step > 100000)
            return template_fail(run, n->line, "range() of more than 100,000 numbers, or of too large ones");
        json_t *list = json_array();
        for (; step > 0 ? first < last : first > last; first += step)
            json_array_append_new(list, json_integer(first));
        return list;
    }
    for (uint32_t i = run->macro_count; i-- > 0;)
        if (strcmp(run->macros[i]->text, name) == 0)
            return template_call_macro(run, run->macros[i], args, n->names, count);
    return template_fail(run, n->line, "there is no function %s()", name);
}

enum { ARGUMENTS_MAX = 16 };

static uint32_t evaluate_arguments(struct template_run *run, const struct template_node *n, json_t **args)
{
    const uint32_t count = n->child_count - 1;
    if (count > ARGUMENTS_MAX) {
        template_fail(run, n->line, "more than %d arguments", ARGUMENTS_MAX);
        return 0;
    }
    for (uint32_t i = 0; i < count; i++)
        args[i] = template_evaluate(run, n->child[i + 1]);
    return count;
}

static json_t *call(struct template_run *run, const struct template_node *n)
{
    json_t *args[ARGUMENTS_MAX], *value = NULL;
    const struct template_node *what = n->child[0];
    const uint32_t count = evaluate_arguments(run, n, args);
    if (run->failed) {
        value = NULL;
    } else if (what->kind == T_NAME) {
        value = call_function(run, n, what->text, args, count);
    } else if (what->kind == T_GET) {
        json_t *object = template_evaluate(run, what->child[0]);
        if (!run->failed)
            value = template_method(run, n->line, what->text, object, args, count);
        json_decref(object);
    } else {
        template_fail(run, n->line, "this cannot be called");
    }
    for (uint32_t i = 0; i < count; i++)
        json_decref(args[i]);
    return value;
}

static bool is_function(struct template_run *run, const char *name)
{
    if (!strcmp(name, "raise_exception") || !strcmp(name, "namespace") || !strcmp(name, "range") ||
        !strcmp(name, "dict"))
        return true;
    for (uint32_t i = 0; i < run->macro_count; i++)
        if (strcmp(run->macros[i]->text, name) == 0)
            return true;
    return false;
}

static json_t *filter_or_test(struct template_run *run, const struct template_node *n)
{
    json_t *args[ARGUMENTS_MAX], *value = template_evaluate(run, n->child[0]), *result = NULL;
    const uint32_t count = evaluate_arguments(run, n, args);
    if (run->failed)
        result = NULL;
    else if (n->kind == T_FILTER)
        result = template_filter(run, n, value, args, count);
    else if (strcmp(n->text, "defined") == 0 && n->child[0]->kind == T_NAME && is_function(run, n->child[0]->text))
        result = json_true();
    else
        result = json_boolean(template_test(run, n, value, args, count));
    for (uint32_t i = 0; i < count; i++)
        json_decref(args[i]);
    json_decref(value);
    return result;
}

static json_t *evaluate_list(struct template_run *run, const struct template_node *n)
{
    json_t *list = n->kind == T_LIST ? json_array() : json_object();
    for (uint32_t i = 0; i < n->child_count && !run->failed; i += n->kind == T_LIST ? 1 : 2) {
        json_t *first = template_evaluate(run, n->child[i]);
        if (n->kind == T_LIST) {
            json_array_append_new(list, first ? first : json_null());
            continue;
        }
        json_t *value = template_evaluate(run, n->child[i + 1]);
        if (!is_text(first))
            template_fail(run, n->line, "keys are texts");
        else
            json_object_set(list, json_string_value(first), value ? value : json_null());
        json_decref(first);
        json_decref(value);
    }
    return list;
}

static json_t *evaluate_other(struct template_run *run, const struct template_node *n)
{
    json_t *a = NULL, *b = NULL, *value = NULL;
    switch (n->kind) {
    case T_GET:
        a = template_evaluate(run, n->child[0]);
        if (!a && !run->failed)
            template_fail(run, n->line, "what is undefined has no \"%s\"", n->text);
        value = json_incref(json_object_get(a, n->text));
        break;
    case T_INDEX:
        a = template_evaluate(run, n->child[0]);
        b = template_evaluate(run, n->child[1]);
        if (!a && !run->failed)
            template_fail(run, n->line, "what is undefined has no parts");
        value = index_value(a, b);
        break;
    case T_NOT:
        a = template_evaluate(run, n->child[0]);
        value = json_boolean(!template_true(a));
        break;
    case T_MINUS:
        a = template_evaluate(run, n->child[0]);
        value = json_is_integer(a) ? json_integer((json_int_t)(0 - (unsigned long long)json_integer_value(a)))
                                   : json_real(-json_number_value(a));
        break;
    case T_CONDITION:
        a = template_evaluate(run, n->child[1]);
        if (template_true(a))
            value = template_evaluate(run, n->child[0]);
        else if (n->child[2])
            value = template_evaluate(run, n->child[2]);
        break;
    default:
        break;
    }
    json_decref(a);
    json_decref(b);
    return value;
}

json_t *template_evaluate(struct template_run *run, const struct template_node *n)
{
    json_t *value = NULL;
    if (++run->steps > TEMPLATE_STEPS_MAX)
        template_fail(run, n->line, "the template runs for too long");
    if (run->failed)
        return NULL;
    if (++run->depth > 2 * TEMPLATE_DEPTH_MAX)
        template_fail(run, n->line, "nested too deeply");
    else if (n->kind == T_VALUE)
        value = json_copy(n->value); // counts of one that all renders share would be written by all their threads
    else if (n->kind == T_NAME)
        value = variable(run, n->text);
    else if (n->kind == T_LIST || n->kind == T_DICT)
        value = evaluate_list(run, n);
    else if (n->kind == T_SLICE)
        value = slice(run, n);
    else if (n->kind == T_CALL)
        value = call(run, n);
    else if (n->kind == T_FILTER || n->kind == T_TEST)
        value = filter_or_test(run, n);
    else if (n->kind == T_BINARY)
        value = evaluate_binary(run, n);
    else
        value = evaluate_other(run, n);
    run->depth--;
    const bool made = n->kind == T_LIST || n->kind == T_DICT || n->kind == T_SLICE || n->kind == T_CALL ||
                      n->kind == T_FILTER || n->kind == T_BINARY;
    if (made && !template_weigh(run, n->line, value)) {
        json_decref(value);
        return NULL;
    }
    return value;
}
