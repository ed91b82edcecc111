// Thin helpers over jansson. Every accessor checks the type of what it finds, so that no file can make a caller
// read a number from a string; no file is trusted to be an object at its top.
#include "base/json.h"

#include "base/assert.h"
#include "base/str.h"

#include <math.h>
#include <string.h>

bg_status bg_json_parse(const char *name, const void *text, size_t size, struct bg_error *err, json_t **root)
{
    json_error_t e;
    json_t *parsed = json_loadb(text, size, JSON_REJECT_DUPLICATES | JSON_ALLOW_NUL | JSON_DECODE_ANY, &e);
    if (!parsed)
        return bg_fail(err, BG_FORMAT, "%s:%d:%d: not valid JSON: %s", name, e.line, e.column, e.text);
    *root = parsed;
    return BG_OK;
}

bg_status bg_json_load(struct bg_env *env, const char *path, struct bg_error *err, json_t **root)
{
    struct bg_map map;
    bg_status status = env->ops->map_open(env, path, err, &map);
    if (status)
        return status;
    status = bg_json_parse(path, map.data, map.size, err, root);
    env->ops->map_close(env, &map);
    return status;
}

static int add_text(const char *bytes, size_t size, void *arg)
{
    bg_str_add_bytes(arg, bytes, size);
    return 0;
}

char *bg_json_text(const json_t *value, size_t flags)
{
    struct bg_str text = {0};
    BG_ASSERT(json_dump_callback(value, add_text, &text, flags | JSON_ENCODE_ANY) == 0);
    return bg_str_take(&text);
}

bool bg_json_has(const json_t *object, const char *key)
{
    const json_t *member = json_object_get(object, key);
    return member && !json_is_null(member);
}

static const char *type_name(const json_t *value)
{
    switch (json_typeof(value)) {
    case JSON_OBJECT:
        return "an object";
    case JSON_ARRAY:
        return "an array";
    case JSON_STRING:
        return "a string";
    case JSON_INTEGER:
    case JSON_REAL:
        return "a number";
    case JSON_TRUE:
    case JSON_FALSE:
        return "a boolean";
    default:
        return "null";
    }
}

static bg_status wrong_type(const json_t *value, const char *name, const char *key, const char *expected,
                            struct bg_error *err)
{
    return bg_fail(err, BG_FORMAT, "%s: key \"%s\" holds %s, expected %s", name, key, type_name(value), expected);
}

static bg_status member_of(const json_t *object, const char *name, const char *key, struct bg_error *err,
                           json_t **value)
{
    if (!json_is_object(object))
        return bg_fail(err, BG_FORMAT, "%s: expected an object with the key \"%s\"", name, key);
    json_t *member = json_object_get(object, key);
    if (!member)
        return bg_fail(err, BG_NOT_FOUND, "%s: key \"%s\" is missing", name, key);
    *value = member;
    return BG_OK;
}

bg_status bg_json_string(const json_t *object, const char *name, const char *key, struct bg_error *err,
                         const char **value)
{
    json_t *member = NULL;
    bg_status status = member_of(object, name, key, err, &member);
    if (status)
        return status;
    if (!json_is_string(member))
        return wrong_type(member, name, key, "a string", err);
    if (strlen(json_string_value(member)) != json_string_length(member))
        return bg_fail(err, BG_FORMAT, "%s: key \"%s\" holds a string with a NUL in it", name, key);
    *value = json_string_value(member);
    return BG_OK;
}

bg_status bg_json_integer(const json_t *object, const char *name, const char *key, int64_t min, int64_t max,
                          struct bg_error *err, int64_t *value)
{
    json_t *member = NULL;
    bg_status status = member_of(object, name, key, err, &member);
    if (status)
        return status;
    if (!json_is_number(member))
        return wrong_type(member, name, key, "an integer", err);
    int64_t number = json_integer_value(member);
    if (json_is_real(member)) {
        double real = json_real_value(member);
        if (real != floor(real) || fabs(real) >= 0x1p53)
            return bg_fail(err, BG_FORMAT, "%s: key \"%s\" holds %g, expected an integer", name, key, real);
        number = (int64_t)real;
    }
    if (number < min || number > max)
        return bg_fail(err, BG_FORMAT, "%s: key \"%s\" holds %lld, expected %lld to %lld", name, key, (long long)number,
                       (long long)min, (long long)max);
    *value = number;
    return BG_OK;
}

bg_status bg_json_number(const json_t *object, const char *name, const char *key, struct bg_error *err, double *value)
{
    json_t *member = NULL;
    bg_status status = member_of(object, name, key, err, &member);
    if (status)
        return status;
    if (!json_is_number(member))
        return wrong_type(member, name, key, "a number", err);
    *value = json_number_value(member);
    return BG_OK;
}

bg_status bg_json_boolean(const json_t *object, const char *name, const char *key, struct bg_error *err, bool *value)
{
    json_t *member = NULL;
    bg_status status = member_of(object, name, key, err, &member);
    if (status)
        return status;
    if (!json_is_boolean(member))
        return wrong_type(member, name, key, "true or false", err);
    *value = json_is_true(member);
    return BG_OK;
}

bg_status bg_json_object(const json_t *object, const char *name, const char *key, struct bg_error *err, json_t **value)
{
    json_t *member = NULL;
    bg_status status = member_of(object, name, key, err, &member);
    if (status)
        return status;
    if (!json_is_object(member))
        return wrong_type(member, name, key, "an object", err);
    *value = member;
    return BG_OK;
}

bg_status bg_json_array(const json_t *object, const char *name, const char *key, struct bg_error *err, json_t **value)
{
    json_t *member = NULL;
    bg_status status = member_of(object, name, key, err, &member);
    if (status)
        return status;
    if (!json_is_array(member))
        return wrong_type(member, name, key, "an array", err);
    *value = member;
    return BG_OK;
}
