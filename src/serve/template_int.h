// Inside the room: a chat template as a tree, and what expressions are worth. Values are JSON; NULL is undefined.
#ifndef SERVE_TEMPLATE_INT_H
#define SERVE_TEMPLATE_INT_H

#include "base/str.h"
#include "serve/template.h"

#include <stdbool.h>
#include <stdint.h>

enum template_kind {
    // expressions
    T_VALUE,     // value
    T_NAME,      // text
    T_LIST,      // children
    T_DICT,      // children: key, value, key, value
    T_GET,       // child 0 . text
    T_INDEX,     // child 0 [child 1]
    T_SLICE,     // child 0 [child 1 : child 2 : child 3], any of the three may be NULL
    T_CALL,      // child 0 (children 1 ..); names: those of keyword arguments, NULL for the others
    T_FILTER,    // child 0 | text (children 1 ..)
    T_TEST,      // child 0 is text (children 1 ..)
    T_NOT,       // child 0
    T_MINUS,     // child 0
    T_BINARY,    // child 0 text child 1
    T_CONDITION, // child 0 if child 1 else child 2 (may be NULL)
    // statements
    T_TEXT,  // text
    T_PRINT, // child 0
    T_BLOCK, // children
    T_IF,    // condition, block, condition, block, .. else block
    T_FOR,   // child 0: iterable; 1: block; 2: else block or NULL; 3: condition or NULL. names: variables
    T_SET,   // child 0: value, or a block where text2 is set. names[0]; text: attribute of a namespace
    T_MACRO, // child 0: block; children 1 ..: defaults (NULL: none). names: parameters; text: its own
    T_BREAK,
    T_CONTINUE,
};
struct template_node {
    enum template_kind kind;
    uint32_t line;
    char *text;
    size_t text_size;
    json_t *value;
    struct template_node **child;
    char **names;
    uint32_t child_count, name_count;
    struct template_node *next; // all nodes, to free them
};
struct chat_template {
    struct template_node *root, *all;
};

enum {
    TEMPLATE_DEPTH_MAX = 100,
    TEMPLATE_STEPS_MAX = 500000,
    TEMPLATE_OUTPUT_MAX = 1 << 24,
    TEMPLATE_MADE_MAX = 1 << 30
};

struct template_parser {
    const char *at, *begin, *end;
    uint32_t line, depth;
    struct chat_template *made;
    struct bg_error *err;
    bool failed, no_if; // no_if: "if" after an expression belongs to the for around it
};
struct template_node *template_node(struct template_parser *p, enum template_kind kind);
void template_add(struct template_node *n, struct template_node *child);
void template_add_name(struct template_node *n, const char *name, size_t size);
void template_refuse(struct template_parser *p, const char *format, ...) BG_PRINTF(2, 3);
// Inside a tag: blanks are skipped before tokens.
void template_skip(struct template_parser *p);
bool template_take(struct template_parser *p, const char *token);     // a sign
bool template_take_word(struct template_parser *p, const char *word); // a whole word
size_t template_word(struct template_parser *p);                      // length of the name here; 0: none
struct template_node *template_expression(struct template_parser *p);
struct template_node *template_primary_list(struct template_parser *p); // a, b: a list without brackets

struct template_run {
    struct bg_error *err;
    bool failed;
    uint32_t depth, steps;
    uint64_t made;                          // bytes of values made so far, about
    json_t *scopes[TEMPLATE_DEPTH_MAX + 1]; // objects; the innermost last
    uint32_t scope_count;
    const struct template_node *macros[64];
    uint32_t macro_count;
    struct bg_str out;
};
// New references; NULL: undefined (or failed). line: for errors.
json_t *template_evaluate(struct template_run *run, const struct template_node *n);
bool template_true(const json_t *value);
// Every value that is made is weighed: false (and failed) where it is too large or too deep, or all of them together.
bool template_weigh(struct template_run *run, uint32_t line, const json_t *value);
json_t *template_characters(const json_t *text); // a list of texts of one character each
json_t *template_fail(struct template_run *run, uint32_t line, const char *format, ...) BG_PRINTF(3, 4);
void template_print(struct bg_str *out, const json_t *value, bool quoted);
json_t *template_filter(struct template_run *run, const struct template_node *n, json_t *value, json_t **args,
                        uint32_t count);
json_t *template_method(struct template_run *run, uint32_t line, const char *name, json_t *object, json_t **args,
                        uint32_t count);
bool template_test(struct template_run *run, const struct template_node *n, json_t *value, json_t **args,
                   uint32_t count);
json_t *template_call_macro(struct template_run *run, const struct template_node *macro, json_t **args, char **names,
                            uint32_t count);

#endif
