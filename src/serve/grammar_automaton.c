// Automata of positions: how they grow, and the texts that two of them have in common.
#include "base/mem.h"
#include "serve/grammar_pattern_int.h"

#include <string.h>

enum { PAIRS_MAX = 1 << 20, STEPS_MAX = 1 << 23 }; // PAIRS_MAX: of positions, or of sets
static const uint32_t NOTHING = UINT32_MAX;

void grammar_list_add(struct grammar_list *l, uint32_t value)
{
    if (l->count == l->capacity) {
        l->capacity = l->capacity * 2 + 8;
        l->at = bg_realloc_array(l->at, l->capacity, sizeof *l->at);
    }
    l->at[l->count++] = value;
}

void grammar_list_fini(struct grammar_list *l)
{
    bg_free(l->at);
    *l = (struct grammar_list){0};
}

void grammar_automaton_init(struct grammar_automaton *a)
{
    struct grammar_set nothing = {0}, none = {0};
    *a = (struct grammar_automaton){0};
    grammar_automaton_set(a, grammar_set_ranges(&nothing, false)); // GRAMMAR_SET_NONE
    grammar_automaton_set(a, grammar_set_ranges(&none, true));     // GRAMMAR_SET_ANY
    grammar_list_add(&a->reads, GRAMMAR_SET_NONE);
}

void grammar_automaton_fini(struct grammar_automaton *a)
{
    for (uint32_t i = 0; i < a->set_count; i++)
        bg_free(a->sets[i].at);
    bg_free(a->sets);
    bg_free(a->edges);
    grammar_list_fini(&a->reads);
    grammar_list_fini(&a->last);
}

uint32_t grammar_automaton_set(struct grammar_automaton *a, struct grammar_ranges ranges)
{
    for (uint32_t i = GRAMMAR_SET_ANY + 1; i < a->set_count; i++)
        if (a->sets[i].count == ranges.count &&
            (ranges.count == 0 || memcmp(a->sets[i].at, ranges.at, ranges.count * sizeof *ranges.at) == 0)) {
            bg_free(ranges.at);
            return i;
        }
    if (a->set_count == a->set_capacity) {
        a->set_capacity = a->set_capacity * 2 + 16;
        a->sets = bg_realloc_array(a->sets, a->set_capacity, sizeof *a->sets);
    }
    a->sets[a->set_count] = ranges;
    return a->set_count++;
}

bool grammar_automaton_edge(struct grammar_automaton *a, uint32_t from, uint32_t to)
{
    if (a->edge_count == GRAMMAR_EDGES_MAX)
        return false;
    if (a->edge_count == a->edge_capacity) {
        a->edge_capacity = a->edge_capacity * 2 + 64;
        a->edges = bg_realloc_array(a->edges, a->edge_capacity, sizeof *a->edges);
    }
    a->edges[a->edge_count++] = (struct grammar_edge){from, to};
    return true;
}

void grammar_automaton_chain(const struct grammar_automaton *a, uint32_t **head, uint32_t **chain)
{
    *head = bg_alloc_array(a->reads.count, sizeof **head);
    *chain = bg_alloc_array(a->edge_count + 1u, sizeof **chain);
    for (uint32_t i = 0; i < a->reads.count; i++)
        (*head)[i] = NOTHING;
    for (uint32_t e = a->edge_count; e-- > 0;) {
        (*chain)[e] = (*head)[a->edges[e].from];
        (*head)[a->edges[e].from] = e;
    }
}

// ---- Two at once ----
struct meeting {
    const struct grammar_automaton *a, *b;
    struct grammar_automaton *both;
    uint32_t *position, *set;  // (positions of a, of b), (sets of a, of b): in both; NOTHING: not yet
    struct grammar_list pairs; // (positions of both)
    uint64_t steps;
};

static uint32_t position_of(struct meeting *m, uint32_t pair, uint32_t set)
{
    if (m->position[pair] == NOTHING) {
        m->position[pair] = m->both->reads.count;
        grammar_list_add(&m->both->reads, set);
        grammar_list_add(&m->pairs, pair);
    }
    return m->position[pair];
}

static uint32_t set_of(struct meeting *m, uint32_t a, uint32_t b)
{
    uint32_t *set = &m->set[a * m->b->set_count + b];
    if (*set == NOTHING)
        *set = a == GRAMMAR_SET_ANY && b == GRAMMAR_SET_ANY
                   ? GRAMMAR_SET_ANY
                   : grammar_automaton_set(m->both, grammar_ranges_meet(&m->a->sets[a], &m->b->sets[b]));
    return *set;
}

static bool follow_edges(struct meeting *m)
{
    uint32_t *heads[2], *chains[2];
    bool room = true;
    grammar_automaton_chain(m->a, &heads[0], &chains[0]);
    grammar_automaton_chain(m->b, &heads[1], &chains[1]);
    for (uint32_t from = 0; from < m->pairs.count && room; from++) { // grows
        const uint32_t width = m->b->reads.count, pair = m->pairs.at[from];
        for (uint32_t e = heads[0][pair / width]; e != NOTHING && room; e = chains[0][e])
            for (uint32_t f = heads[1][pair % width]; f != NOTHING && room; f = chains[1][f], m->steps++) {
                const uint32_t i = m->a->edges[e].to, k = m->b->edges[f].to;
                const uint32_t set = set_of(m, m->a->reads.at[i], m->b->reads.at[k]);
                if (m->both->sets[set].count > 0)
                    room = grammar_automaton_edge(m->both, from, position_of(m, i * width + k, set)) &&
                           m->pairs.count <= GRAMMAR_POSITIONS_MAX;
                room = room && m->steps < STEPS_MAX;
            }
    }
    for (int i = 0; i < 2; i++) {
        bg_free(heads[i]);
        bg_free(chains[i]);
    }
    return room;
}

const char *grammar_automaton_meet(const struct grammar_automaton *a, const struct grammar_automaton *b,
                                   struct grammar_automaton *both, uint64_t *effort)
{
    struct meeting m = {.a = a, .b = b, .both = both};
    const uint64_t positions = (uint64_t)a->reads.count * b->reads.count, sets = (uint64_t)a->set_count * b->set_count;
    grammar_automaton_init(both);
    if (positions > PAIRS_MAX || sets > PAIRS_MAX)
        return "takes too many rules with the format";
    m.position = bg_alloc_array(positions, sizeof *m.position);
    m.set = bg_alloc_array(sets, sizeof *m.set);
    memset(m.position, 0xff, positions * sizeof *m.position);
    memset(m.set, 0xff, sets * sizeof *m.set);
    m.position[0] = 0;
    grammar_list_add(&m.pairs, 0);
    const bool room = follow_edges(&m);
    *effort += (positions + m.steps) / 8; // they are cheap
    for (uint32_t i = 0; i < a->last.count; i++)
        for (uint32_t k = 0; k < b->last.count; k++) {
            const uint32_t position = m.position[a->last.at[i] * b->reads.count + b->last.at[k]];
            if (position != NOTHING)
                grammar_list_add(&both->last, position);
        }
    bg_free(m.position);
    bg_free(m.set);
    grammar_list_fini(&m.pairs);
    return room ? NULL : "takes too many rules with the format";
}
