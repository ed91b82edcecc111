// Between the files that make rules of regular expressions: sets of characters (grammar_set.c), what a pattern says
// (grammar_pattern.c), automata (grammar_automaton.c), and an automaton as rules (grammar_cross.c).
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
// The characters of the set, or all others: in order, without overlaps. Takes *set.
struct grammar_ranges grammar_set_ranges(struct grammar_set *set, bool negated);
// What both have, which are in order.
struct grammar_ranges grammar_ranges_meet(const struct grammar_ranges *a, const struct grammar_ranges *b);
// The rule of one of the characters, which are in order and at least one, as JSON spells it.
uint32_t grammar_ranges_rule(struct grammar_text *g, const struct grammar_ranges *ranges);

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
enum { GRAMMAR_SET_NONE, GRAMMAR_SET_ANY }; // the first sets
struct grammar_automaton {
    struct grammar_list reads; // (positions): a set of characters
    struct grammar_list last;  // positions where the text may end
    struct grammar_edge *edges;
    uint32_t edge_count, edge_capacity;
    struct grammar_ranges *sets; // in order; some may be empty
    uint32_t set_count, set_capacity;
};
enum { GRAMMAR_POSITIONS_MAX = 1 << 13, GRAMMAR_EDGES_MAX = 1 << 16 };
void grammar_automaton_init(struct grammar_automaton *a);
void grammar_automaton_fini(struct grammar_automaton *a);
uint32_t grammar_automaton_set(struct grammar_automaton *a, struct grammar_ranges ranges); // found or added; takes it
bool grammar_automaton_edge(struct grammar_automaton *a, uint32_t from, uint32_t to);      // false: there are too many
// The edges from each position: the first one, and the next one after each edge; UINT32_MAX: there is none.
void grammar_automaton_chain(const struct grammar_automaton *a, uint32_t **head, uint32_t **chain);
// The texts that both have; adds to *effort. NULL, or why not.
const char *grammar_automaton_meet(const struct grammar_automaton *a, const struct grammar_automaton *b,
                                   struct grammar_automaton *both, uint64_t *effort);

// A rule of its texts of least to most characters (UINT32_MAX: any number); any: of any character. NULL, or why there
// is none.
const char *grammar_cross(struct grammar_text *g, const struct grammar_automaton *automaton, uint32_t any,
                          uint32_t least, uint32_t most, uint32_t *rule);

#endif
