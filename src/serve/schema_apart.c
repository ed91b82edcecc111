// Two alternatives are apart when nothing that is written for the first fits the second, nor the other way round. Where
// it does not show they are not: who asks refuses them then.
#include "serve/schema_apart.h"

#include "base/mem.h"

#include <stdint.h>
#include <string.h>

enum { DEPTH_MAX = 12, STEPS_MAX = 1 << 22 };

struct comparison {
    json_t *root;
    uint32_t steps;
};

static bool never_fits(struct comparison *c, json_t *a, json_t *b, unsigned depth);

json_t *schema_at(json_t *root, const char *reference)
{
    json_t *at = root;
    const char *p = reference;
    if (*p != '#')
        return NULL;
    for (p++; *p == '/' && at;) {
        const char *end = strchr(++p, '/');
        const size_t size = end ? (size_t)(end - p) : strlen(p);
        char *key = bg_strndup(p, size), *to = key;
        for (const char *from = key; *from; from++) { // ~1 is /, ~0 is ~
            const bool escaped = *from == '~' && (from[1] == '0' || from[1] == '1');
            *to++ = escaped ? (from[1] == '1' ? '/' : '~') : *from;
            from += escaped;
        }
        *to = '\0';
        at = json_object_get(at, key);
        bg_free(key);
        p += size;
    }
    return *p ? NULL : at;
}

static bool is_of(const json_t *value, const char *type)
{
    return strcmp(type, "string") == 0    ? json_is_string(value)
           : strcmp(type, "integer") == 0 ? json_is_integer(value)
           : strcmp(type, "number") == 0  ? json_is_number(value)
           : strcmp(type, "boolean") == 0 ? json_is_boolean(value)
           : strcmp(type, "null") == 0    ? json_is_null(value)
           : strcmp(type, "array") == 0   ? json_is_array(value)
           : strcmp(type, "object") == 0  ? json_is_object(value)
                                          : false;
}

bool schema_type_takes(json_t *type, const json_t *value)
{
    if (json_is_string(type))
        return is_of(value, json_string_value(type));
    for (size_t i = 0; i < json_array_size(type); i++) {
        const char *each = json_string_value(json_array_get(type, i));
        if (each && is_of(value, each))
            return true;
    }
    return !type;
}

// Whether both may be one value: 1 and 1.0 are, arrays and objects are not looked into.
static bool may_equal(const json_t *a, const json_t *b)
{
    if (json_is_number(a) && json_is_number(b)) {
        const double x = json_number_value(a), y = json_number_value(b);
        return !(x < y || x > y);
    }
    return json_typeof(a) == json_typeof(b) && (json_is_array(a) || json_is_object(a) || json_equal(a, b));
}

// The type of a value, or the i-th that a schema's "type" names; NULL: there are no more. 1.0 is an integer too.
static const char *type_of(const json_t *value)
{
    static const char *const names[] = {
        [JSON_OBJECT] = "object", [JSON_ARRAY] = "array",  [JSON_STRING] = "string", [JSON_INTEGER] = "number",
        [JSON_REAL] = "number",   [JSON_TRUE] = "boolean", [JSON_FALSE] = "boolean", [JSON_NULL] = "null"};
    return names[json_typeof(value)];
}

static const char *type_at(json_t *type, size_t i)
{
    const char *name = json_is_array(type) ? json_string_value(json_array_get(type, i))
                       : i == 0            ? json_string_value(type)
                                           : NULL;
    return name && strcmp(name, "integer") == 0 ? "number" : name;
}

static bool names_type(json_t *type, const char *wanted)
{
    for (size_t i = 0; type_at(type, i); i++)
        if (strcmp(type_at(type, i), wanted) == 0)
            return true;
    return !type;
}

// Whether all values that are of a type of both are objects; an `a` of no type names properties.
static bool only_objects_in_common(json_t *a, json_t *b)
{
    for (size_t i = 0; type_at(a, i); i++)
        if (strcmp(type_at(a, i), "object") != 0 && names_type(b, type_at(a, i)))
            return false;
    return true;
}

static bool types_are_apart(json_t *a, json_t *b)
{
    for (size_t i = 0; type_at(a, i); i++)
        if (names_type(b, type_at(a, i)))
            return false;
    return a && b;
}

// What a schema lists by const or enum, one by one; NULL: no more.
static json_t *listed(json_t *schema, size_t i)
{
    json_t *only = json_object_get(schema, "const");
    return !only ? json_array_get(json_object_get(schema, "enum"), i) : i == 0 ? only : NULL;
}

// Whether nothing that `a` lists fits b's list and type.
static bool list_never_fits(struct comparison *c, json_t *a, json_t *b)
{
    for (size_t i = 0; listed(a, i); i++) {
        bool fits = !listed(b, 0);
        for (size_t j = 0; listed(b, j) && !fits; j++, c->steps++)
            fits = may_equal(listed(a, i), listed(b, j));
        if ((fits && names_type(json_object_get(b, "type"), type_of(listed(a, i)))) || ++c->steps > STEPS_MAX)
            return false;
    }
    return true;
}

bool schema_requires(json_t *schema, const char *name)
{
    const json_t *required = json_object_get(schema, "required");
    for (size_t i = 0; i < json_array_size(required); i++) {
        const char *each = json_string_value(json_array_get(required, i));
        if (each && strcmp(each, name) == 0)
            return true;
    }
    return false;
}

// Whether an object of a's properties, which has no others, misses one that b requires, has one that b forbids, or one
// with another value.
static bool members_never_fit(struct comparison *c, json_t *a, json_t *b, unsigned depth)
{
    json_t *own = json_object_get(a, "properties"), *others = json_object_get(b, "properties"), *value;
    const json_t *required = json_object_get(b, "required");
    const size_t names = json_array_size(required) + json_array_size(json_object_get(a, "required"));
    const char *name;
    if (json_object_size(own) == 0)
        return false;
    for (size_t i = 0; i < json_array_size(required); i++, c->steps++) {
        name = json_string_value(json_array_get(required, i));
        if (name && !json_object_get(own, name))
            return true;
    }
    json_object_foreach(own, name, value)
    {
        json_t *other = json_object_get(others, name);
        const bool there = schema_requires(a, name);
        c->steps += 1 + (uint32_t)names;
        if (there && !other && json_is_false(json_object_get(b, "additionalProperties")))
            return true;
        if (other && (there || schema_requires(b, name)) && never_fits(c, value, other, depth + 1))
            return true;
    }
    return false;
}

// Through references, and allOf of one.
static json_t *followed(struct comparison *c, json_t *schema)
{
    for (unsigned i = 0; i < DEPTH_MAX && json_is_object(schema); i++) {
        const char *reference = json_string_value(json_object_get(schema, "$ref"));
        json_t *all = json_object_get(schema, "allOf");
        if (!reference && json_array_size(all) != 1)
            return schema;
        schema = reference ? schema_at(c->root, reference) : json_array_get(all, 0);
        c->steps += reference ? 4 + (uint32_t)strlen(reference) / 8 : 1;
    }
    return NULL;
}

static json_t *alternatives(json_t *schema)
{
    json_t *any = json_object_get(schema, "anyOf");
    return any ? any : json_object_get(schema, "oneOf");
}

// Whether nothing that is written for `a` fits b.
static bool never_fits(struct comparison *c, json_t *a, json_t *b, unsigned depth)
{
    a = followed(c, a);
    b = followed(c, b);
    if (depth > DEPTH_MAX || ++c->steps > STEPS_MAX || !json_is_object(a) || !json_is_object(b))
        return false;
    json_t *list = alternatives(a) ? alternatives(a) : alternatives(b);
    for (size_t i = 0; i < json_array_size(list); i++) {
        json_t *each = json_array_get(list, i);
        if (!never_fits(c, alternatives(a) ? each : a, alternatives(a) ? b : each, depth + 1))
            return false;
    }
    if (list)
        return true;
    if (listed(a, 0) || listed(b, 0))
        return listed(a, 0) ? list_never_fits(c, a, b) : list_never_fits(c, b, a);
    json_t *type_a = json_object_get(a, "type"), *type_b = json_object_get(b, "type");
    return types_are_apart(type_a, type_b) ||
           (only_objects_in_common(type_a, type_b) && members_never_fit(c, a, b, depth));
}

bool schema_alternatives_are_apart(json_t *root, json_t *list, size_t *first, size_t *second)
{
    struct comparison c = {.root = root};
    for (size_t i = 0; i < json_array_size(list); i++)
        for (size_t j = 0; j < i; j++) {
            json_t *a = json_array_get(list, j), *b = json_array_get(list, i);
            if (!never_fits(&c, a, b, 0) || !never_fits(&c, b, a, 0)) {
                *first = j;
                *second = i;
                return false;
            }
        }
    return true;
}
