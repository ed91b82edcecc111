// Between the files that make rules of regular expressions: sets of characters (grammar_set.c), what a pattern says
// (grammar_pattern.c), and its automaton as rules (grammar_cross.c).
#ifndef SERVE_GRAMMAR_PATTERN_INT_H
#define SERVE_GRAMMAR_PATTERN_INT_H

#include "serve/grammar_int.h"

enum { GRAMMAR_POINTS_END = 0x110000 }; // after the last code point

struct grammar_ranges {
    struct grammar_range *at;
    size_t count, capacity;
};
struct grammar_set {
    struct grammar_ranges sure, maybe; // what every dialect has in it, what some have
    uint32_t escapes;                  // a bit for each of "dDwWsS" that was added
};
void grammar_set_add(struct grammar_set *set, uint32_t first, uint32_t last);
bool grammar_set_add_named(struct grammar_set *set, uint32_t letter); // one of "dDwWsS"; false: it is not
// The rule of one character of the set, or of all others, as JSON spells it; GRAMMAR_NO_RULE: there
// are none. Takes *set.
uint32_t grammar_set_rule(struct grammar_text *g, struct grammar_set *set, bool negated);

// The position automaton (Glushkov): a position for each character that is read, and which may follow each other.
// Position 0 is where the text begins.
struct grammar_list {
    uint32_t *at, count, capacity;
};
void grammar_list_add(struct grammar_list *list, uint32_t value);
void grammar_list_fini(struct grammar_list *list);
struct grammar_edge {
    uint32_t from, to;
};
struct grammar_automaton {
    struct grammar_list reads; // (positions): the rule of its characters
    struct grammar_list last;  // positions where the text may end
    struct grammar_edge *edges;
    uint32_t edge_count, edge_capacity;
};
// A rule of its texts of least to most characters (UINT32_MAX: any number). NULL, or why there is none.
const char *grammar_cross(struct grammar_text *g, const struct grammar_automaton *automaton, uint32_t least,
                          uint32_t most, uint32_t *rule);

#endif
