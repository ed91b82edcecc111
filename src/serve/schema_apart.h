// Questions about JSON schemas: what a reference names, whether the alternatives of a oneOf exclude each other.
#ifndef SERVE_SCHEMA_APART_H
#define SERVE_SCHEMA_APART_H

#include <jansson.h>
#include <stdbool.h>
#include <stddef.h>

// What "#/a/b" names inside the root; NULL: nothing, or no such reference.
json_t *schema_at(json_t *root, const char *reference);

// Whether a schema's "type" (a name, a list of names, or NULL: none) takes the value. 1.0 is no integer here.
bool schema_type_takes(json_t *type, const json_t *value);

bool schema_requires(json_t *schema, const char *name); // of an object's schema

// False: what is written for one of two alternatives could be good for the other as well, or it takes too long to tell.
bool schema_alternatives_are_apart(json_t *root, json_t *list, size_t *first, size_t *second);

#endif
