// An automaton of positions crossed with the count of characters where lengths are bounded: each pair that can still
// come to an end becomes a rule that reads one character and goes on, so nothing that was begun cannot be finished.
#include "serve/grammar_pattern_int.h"

#include "base/mem.h"

#include <string.h>

enum { PAIRS_MAX = 1 << 22 }; // of a position or an edge with a count of characters, by all patterns
static const uint32_t NO_EDGE = UINT32_MAX;

struct cross {
    const struct grammar_automaton *automaton;
    uint32_t *head, *chain;   // (positions), (edges): those from a position, NO_EDGE after the last
    uint32_t *character;      // (sets): a rule
    bool *accepts;            // (positions)
    bool *alive;              // (counts, positions): the text can come to an end
    uint32_t *rule;           // (counts, positions)
    struct grammar_list todo; // pairs whose rules have no alternatives yet
    uint32_t positions, counts, least;
    bool limited; // after the last count no more characters may come; else any number
};

static void cross_init(struct cross *x, uint32_t any)
{
    const struct grammar_automaton *a = x->automaton;
    const size_t pairs = (size_t)x->counts * x->positions;
    grammar_automaton_chain(a, &x->head, &x->chain);
    x->character = bg_alloc_array(a->set_count, sizeof *x->character);
    for (uint32_t i = 0; i < a->set_count; i++)
        x->character[i] = GRAMMAR_NO_RULE;
    x->character[GRAMMAR_SET_ANY] = any;
    x->accepts = bg_alloc_array(x->positions, sizeof *x->accepts);
    x->alive = bg_alloc_array(pairs, sizeof *x->alive);
    x->rule = bg_alloc_array(pairs, sizeof *x->rule);
    for (size_t i = 0; i < pairs; i++)
        x->rule[i] = GRAMMAR_NO_RULE;
    for (uint32_t i = 0; i < a->last.count; i++)
        x->accepts[a->last.at[i]] = true;
}

static void cross_fini(struct cross *x)
{
    bg_free(x->head);
    bg_free(x->chain);
    bg_free(x->character);
    bg_free(x->accepts);
    bg_free(x->alive);
    bg_free(x->rule);
    grammar_list_fini(&x->todo);
}

// Where the edge leads from that count of characters; false: nowhere.
static bool leads(const struct cross *x, uint32_t count, uint32_t edge, uint32_t *pair)
{
    const uint32_t to = x->automaton->edges[edge].to, next = count + 1 < x->counts ? count + 1 : count;
    *pair = next * x->positions + to;
    return x->automaton->sets[x->automaton->reads.at[to]].count > 0 && (next > count || !x->limited) && x->alive[*pair];
}

static void find_alive(struct cross *x)
{
    for (uint32_t count = x->counts; count-- > 0;)
        for (bool more = true; more;) {
            more = false;
            for (uint32_t position = x->positions; position-- > 0;) {
                bool *alive = &x->alive[count * x->positions + position], found = false;
                uint32_t pair;
                if (*alive)
                    continue;
                found = x->accepts[position] && count >= x->least;
                for (uint32_t e = x->head[position]; e != NO_EDGE && !found; e = x->chain[e])
                    found = leads(x, count, e, &pair);
                *alive = found;
                more |= found && count + 1 == x->counts && !x->limited;
            }
        }
}

static uint32_t character_rule(struct cross *x, struct grammar_text *g, uint32_t set)
{
    if (x->character[set] == GRAMMAR_NO_RULE)
        x->character[set] = grammar_ranges_rule(g, &x->automaton->sets[set]);
    return x->character[set];
}

static uint32_t pair_rule(struct cross *x, struct grammar_text *g, uint32_t pair)
{
    if (x->rule[pair] == GRAMMAR_NO_RULE) {
        x->rule[pair] = grammar_rule_new(g);
        grammar_list_add(&x->todo, pair);
    }
    return x->rule[pair];
}

static uint32_t cross_rules(struct cross *x, struct grammar_text *g)
{
    const uint32_t root = pair_rule(x, g, 0);
    while (x->todo.count > 0 && !g->too_large) {
        const uint32_t at = x->todo.at[--x->todo.count], count = at / x->positions, position = at % x->positions;
        struct grammar_sequence s = {0};
        uint32_t pair;
        if (x->accepts[position] && count >= x->least)
            grammar_add_alternative(g, x->rule[at], &s);
        for (uint32_t e = x->head[position]; e != NO_EDGE; e = x->chain[e]) {
            if (!leads(x, count, e, &pair))
                continue;
            grammar_add_rule(&s, character_rule(x, g, x->automaton->reads.at[x->automaton->edges[e].to]));
            grammar_add_rule(&s, pair_rule(x, g, pair));
            grammar_add_alternative(g, x->rule[at], &s);
        }
    }
    return root;
}

const char *grammar_cross(struct grammar_text *g, const struct grammar_automaton *automaton, uint32_t any,
                          uint32_t least, uint32_t most, uint32_t *rule)
{
    struct cross x = {.automaton = automaton, .least = least, .limited = most < UINT32_MAX};
    const char *why = NULL;
    x.positions = automaton->reads.count;
    x.counts = (x.limited ? most : least) + 1;
    g->pairs += (uint64_t)x.counts * (x.positions + automaton->edge_count);
    if (g->pairs > PAIRS_MAX)
        return "takes too many rules for these lengths";
    cross_init(&x, any);
    find_alive(&x);
    if (x.alive[0])
        *rule = cross_rules(&x, g);
    else
        why = "fits no text of an allowed length";
    cross_fini(&x);
    return g->too_large ? "takes too many rules" : why;
}
