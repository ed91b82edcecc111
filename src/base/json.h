// JSON files over jansson: parse errors with file, line and column, and typed members whose absence or wrong
// type makes an error that names file and key. Release a root with json_decref().
#ifndef BASE_JSON_H
#define BASE_JSON_H

#include "base/env.h"
#include "base/status.h"

#include <jansson.h>

// `name` stands in errors. Strings may hold NULs (\u0000); a key twice in one object is refused.
BG_MUST_USE bg_status bg_json_parse(const char *name, const void *text, size_t size, struct bg_error *err,
                                    json_t **root);
BG_MUST_USE bg_status bg_json_load(struct bg_env *env, const char *path, struct bg_error *err, json_t **root);

// The text of a value; bg_free it. `flags` are jansson's (JSON_INDENT(2), JSON_COMPACT, JSON_SORT_KEYS, ...).
char *bg_json_text(const json_t *value, size_t flags);

// True if the member is there and not null: for optional ones.
bool bg_json_has(const json_t *object, const char *key);

// Members of `object`, which came from the file (or part of one) called `name`. BG_NOT_FOUND where the key is
// missing, BG_FORMAT where it holds something else. What they give belongs to the root.
BG_MUST_USE bg_status bg_json_string(const json_t *object, const char *name, const char *key, struct bg_error *err,
                                     const char **value); // without NULs
BG_MUST_USE bg_status bg_json_integer(const json_t *object, const char *name, const char *key, int64_t min, int64_t max,
                                      struct bg_error *err, int64_t *value); // also 1e5 and 3.0
BG_MUST_USE bg_status bg_json_number(const json_t *object, const char *name, const char *key, struct bg_error *err,
                                     double *value);
BG_MUST_USE bg_status bg_json_boolean(const json_t *object, const char *name, const char *key, struct bg_error *err,
                                      bool *value);
BG_MUST_USE bg_status bg_json_object(const json_t *object, const char *name, const char *key, struct bg_error *err,
                                     json_t **value);
BG_MUST_USE bg_status bg_json_array(const json_t *object, const char *name, const char *key, struct bg_error *err,
                                    json_t **value);

#endif
