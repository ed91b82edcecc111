// Inside the room: a context-free grammar over bytes while it is built, and after. Elements stand in one array; a
// position is an index into it. A rule is a list of alternatives, each a run of elements that ends with END.
#ifndef SERVE_GRAMMAR_INT_H
#define SERVE_GRAMMAR_INT_H

#include "base/str.h"
#include "serve/grammar.h"

enum grammar_kind { GRAMMAR_END, GRAMMAR_CLASS, GRAMMAR_RULE };
struct grammar_element {
    uint32_t kind, index; // of a class, of a rule
};
struct grammar_class {
    uint64_t bits[4]; // of bytes
};
struct grammar_rule {
    char *name;    // or a schema's path; NULL: made for a part of another
    uint32_t *alt; // positions
    uint32_t alt_count, alt_capacity;
};
enum {
    GRAMMAR_ELEMENTS_MAX = 1 << 18,
    GRAMMAR_CLASSES_MAX = 1024,
    GRAMMAR_REPEAT_MAX = 4096,
    GRAMMAR_DEPTH_MAX = 64,
    GRAMMAR_TEXT_MAX = 1 << 16, // bytes of GBNF, and of a schema
};
#define GRAMMAR_NO_RULE UINT32_MAX

struct grammar_text { // rules in the making
    struct grammar_element *elements;
    uint32_t element_count, element_capacity;
    struct grammar_class *classes;
    uint32_t class_count, class_capacity;
    struct grammar_rule *rules;
    uint32_t rule_count, rule_capacity;
    uint64_t pairs; // gone through by patterns: positions and edges, those of an automaton with counts of characters
    bool too_large;
};
void grammar_text_fini(struct grammar_text *g);
uint32_t grammar_rule_named(struct grammar_text *g, const char *name, size_t size); // found or made
uint32_t grammar_rule_new(struct grammar_text *g);
// Sequences are gathered in lists of their own, then become an alternative of a rule.
struct grammar_sequence {
    struct grammar_element *elements;
    size_t count, capacity;
};
void grammar_add_element(struct grammar_sequence *s, struct grammar_element e);
void grammar_add_text(struct grammar_text *g, struct grammar_sequence *s, const char *bytes, size_t size);
void grammar_add_rule(struct grammar_sequence *s, uint32_t rule);
void grammar_add_alternative(struct grammar_text *g, uint32_t rule, struct grammar_sequence *s); // takes *s
struct grammar_range { // of code points, both ends in
    uint32_t first, last;
};
// A rule that matches one code point of the ranges (any order, may overlap), or of all others where `negated`.
uint32_t grammar_rule_of_ranges(struct grammar_text *g, struct grammar_range *ranges, size_t count, bool negated);
// A rule that matches `least` to `most` (UINT32_MAX: any number) of *s; takes it.
uint32_t grammar_rule_repeat(struct grammar_text *g, struct grammar_sequence *s, uint32_t least, uint32_t most);
// A rule that matches what a JSON string of least to most characters holds (UINT32_MAX: any number) that the pattern
// finds something in, and `also`, unless NULL: ECMA's regular expressions without what speaks of other places
// (grammar_pattern.c). any: a rule for any character. False: cannot be kept, *why says what, after "the pattern".
bool grammar_rule_of_pattern(struct grammar_text *g, const char *pattern, const char *also, uint32_t any,
                             uint32_t least, uint32_t most, char *why, size_t why_size, uint32_t *rule);
const char *grammar_format_pattern(const char *name); // a pattern of the format's texts; NULL: not known

// Refuses rules without alternatives, left recursion, a root that never ends, too many elements; drops alternatives
// that never end.
BG_MUST_USE bg_status grammar_check(struct grammar_text *g, uint32_t root, struct bg_error *err);
// Takes *g, checked. root: a rule.
bg_status grammar_finish(struct grammar_text *g, uint32_t root, const struct tokenizer *tokenizer, struct bg_error *err,
                         struct grammar **grammar);
// What one mask and what a text may cost, and how many bytes may be remembered, far fewer than without: for tests.
void grammar_limit(struct grammar *grammar, uint64_t mask, uint64_t text, size_t room);

#endif
