// The states of a graph: antichains, found from the first source on, and their sums.
#include "plan/split/pipedream.h"

#include "base/hash.h"
#include "base/mem.h"

#include <string.h>

#define TABLE_SIZE (2 * PLAN_STATES_MAX) // a power of two

struct state {
    uint32_t *members; // those of the antichain behind `extra` ones that it is augmented with
    uint32_t count, extra;
    uint32_t *next, next_count;
};

struct search {
    const struct plan_graph *graph;
    uint32_t words, *first, *readers;
    uint64_t *before; // (nodes, words) all that a node needs, near or far
    struct state *states;
    uint64_t *keys; // (states, words) the antichains as sets
    uint32_t count;
    uint32_t *table; // by hash of the key: 1 + state, 0 free
    uint64_t *set;
    uint32_t *members, *chain;
};

static bool has(const uint64_t *set, uint32_t i)
{
    return set[i / 64] >> i % 64 & 1;
}

static void put(uint64_t *set, uint32_t i)
{
    set[i / 64] |= 1ull << i % 64;
}

static const uint64_t *before(const struct search *s, uint32_t node)
{
    return s->before + (size_t)node * s->words;
}

static void find_before(struct search *s)
{
    const uint32_t nodes = s->graph->node_count;
    uint32_t *order = bg_alloc_array(nodes, sizeof *order), count = plan_graph_order(s->graph, order);
    s->before = bg_alloc_array((size_t)nodes * s->words, sizeof *s->before);
    for (uint32_t i = 0; i < count; i++)
        for (uint32_t e = s->first[order[i]]; e < s->first[order[i] + 1]; e++) {
            uint64_t *to = s->before + (size_t)s->readers[e] * s->words;
            for (uint32_t w = 0; w < s->words; w++)
                to[w] |= before(s, order[i])[w];
            put(to, order[i]);
        }
    bg_free(order);
}

// Whether `p`, which `a` needs, is also read by a node that is not needed for a.
static bool is_open(const struct search *s, uint32_t p, uint32_t a)
{
    for (uint32_t e = s->first[p]; e < s->first[p + 1]; e++)
        if (s->readers[e] != a && !has(before(s, a), s->readers[e]))
            return true;
    return false;
}

// The nodes that an antichain is augmented with, into s->members; how many.
static uint32_t augment(struct search *s, const uint32_t *chain, uint32_t count)
{
    uint32_t extra = 0;
    memset(s->set, 0, s->words * sizeof *s->set);
    for (uint32_t i = 0; i < count; i++)
        for (uint32_t p = 0; p < s->graph->node_count; p++)
            if (has(before(s, chain[i]), p) && !has(s->set, p) && is_open(s, p, chain[i]))
                put(s->set, p);
    for (uint32_t p = 0; p < s->graph->node_count; p++)
        if (has(s->set, p))
            s->members[extra++] = p;
    return extra;
}

// The state of an antichain, which may be new. False: too many.
static bool state_of(struct search *s, const uint32_t *chain, uint32_t count, uint32_t *found)
{
    memset(s->set, 0, s->words * sizeof *s->set);
    for (uint32_t i = 0; i < count; i++)
        put(s->set, chain[i]);
    const size_t bytes = s->words * sizeof *s->set;
    uint32_t at = (uint32_t)bg_xxh64(s->set, bytes) % TABLE_SIZE;
    for (; s->table[at]; at = (at + 1) % TABLE_SIZE)
        if (!memcmp(s->keys + (size_t)(s->table[at] - 1) * s->words, s->set, bytes)) {
            *found = s->table[at] - 1;
            return true;
        }
    if (s->count == PLAN_STATES_MAX)
        return false;
    memcpy(s->keys + (size_t)s->count * s->words, s->set, bytes);
    struct state *new = &s->states[s->count];
    new->extra = augment(s, chain, count);
    new->count = new->extra + count;
    new->members = bg_alloc_array(new->count, sizeof *new->members);
    memcpy(new->members, s->members, new->extra * sizeof *chain);
    memcpy(new->members + new->extra, chain, count * sizeof *chain);
    s->table[at] = ++s->count;
    *found = s->count - 1;
    return true;
}

// Whether some member needs `node`.
static bool is_needed(const struct search *s, const uint32_t *members, uint32_t count, uint32_t node)
{
    for (uint32_t i = 0; i < count; i++)
        if (has(before(s, members[i]), node))
            return true;
    return false;
}

// The augmented antichain with y for its x-th member, without those that others need; how many are left.
static uint32_t replace(struct search *s, const struct state *from, uint32_t x, uint32_t y)
{
    uint32_t count = 0;
    memcpy(s->members, from->members, from->count * sizeof *s->members);
    s->members[x] = y;
    for (uint32_t i = 0; i < from->count; i++) {
        bool keep = !is_needed(s, s->members, from->count, s->members[i]);
        for (uint32_t k = 0; k < count && keep; k++)
            keep = s->chain[k] != s->members[i];
        if (keep)
            s->chain[count++] = s->members[i];
    }
    return count;
}

static bool expand(struct search *s, uint32_t index)
{
    struct state *from = &s->states[index];
    uint32_t capacity = 0;
    for (uint32_t x = 0; x < from->count; x++)
        capacity += s->first[from->members[x] + 1] - s->first[from->members[x]];
    from->next = bg_alloc_array(capacity + 1, sizeof *from->next);
    for (uint32_t x = 0; x < from->count; x++)
        for (uint32_t e = s->first[from->members[x]]; e < s->first[from->members[x] + 1]; e++) {
            const uint32_t y = s->readers[e];
            if (has(s->keys + (size_t)index * s->words, y) || is_needed(s, from->members, from->count, y))
                continue;
            const uint32_t count = replace(s, from, x, y);
            if (!state_of(s, s->chain, count, &from->next[from->next_count++]))
                return false;
        }
    return true;
}

// Depth first; a state is placed in front of all that was placed after it. places[state] is its place.
static void sort(const struct search *s, uint32_t *places)
{
    uint32_t *stack = bg_alloc_array(s->count, sizeof *stack), *done = bg_alloc_array(s->count, sizeof *done);
    bool *seen = bg_alloc_array(s->count, sizeof *seen);
    uint32_t depth = 1, left = s->count;
    seen[0] = true;
    while (depth) {
        const uint32_t top = stack[depth - 1];
        if (done[top] == s->states[top].next_count) {
            places[top] = --left;
            depth--;
            continue;
        }
        const uint32_t next = s->states[top].next[done[top]++];
        if (!seen[next]) {
            seen[next] = true;
            stack[depth++] = next;
        }
    }
    bg_free(stack);
    bg_free(done);
    bg_free(seen);
}

static void sum(const struct search *s, const struct state *state, uint32_t place, struct plan_states *out)
{
    memset(s->set, 0, s->words * sizeof *s->set);
    for (uint32_t i = 0; i < state->count; i++) {
        put(s->set, state->members[i]);
        for (uint32_t w = 0; w < s->words; w++)
            s->set[w] |= before(s, state->members[i])[w];
        out->cut_bytes[place] += s->graph->nodes[state->members[i]].activation_bytes;
    }
    for (uint32_t v = 0; v < s->graph->node_count; v++) {
        if (!has(s->set, v))
            continue;
        const struct plan_graph_node *node = &s->graph->nodes[v];
        out->compute_s[place] += (node->forward_ms + node->backward_ms) / 1000;
        out->parameter_bytes[place] += node->parameter_bytes;
        out->activation_bytes[place] += node->activation_bytes;
    }
}

static void fill(const struct search *s, struct plan_states *out)
{
    uint32_t *places = bg_alloc_array(s->count, sizeof *places), *at = bg_alloc_array(s->count, sizeof *at);
    sort(s, places);
    *out = (struct plan_states){.count = s->count, .words = (s->count + 63) / 64};
    out->compute_s = bg_alloc_array(s->count, sizeof(double));
    out->parameter_bytes = bg_alloc_array(s->count, sizeof(double));
    out->activation_bytes = bg_alloc_array(s->count, sizeof(double));
    out->cut_bytes = bg_alloc_array(s->count, sizeof(double));
    out->before = bg_alloc_array((size_t)s->count * out->words, sizeof *out->before);
    for (uint32_t i = 0; i < s->count; i++) {
        at[places[i]] = i;
        sum(s, &s->states[i], places[i], out);
    }
    for (uint32_t p = 0; p < s->count; p++)
        for (uint32_t n = 0; n < s->states[at[p]].next_count; n++) {
            uint64_t *to = out->before + (size_t)places[s->states[at[p]].next[n]] * out->words;
            for (uint32_t w = 0; w < out->words; w++)
                to[w] |= out->before[(size_t)p * out->words + w];
            put(to, p);
        }
    bg_free(places);
    bg_free(at);
}

bg_status plan_states_create(const struct plan_graph *graph, struct bg_error *err, struct plan_states *states)
{
    struct search s = {.graph = graph, .words = (graph->node_count + 63) / 64};
    if (!graph->node_count)
        return bg_fail(err, BG_INVALID, "the graph has no node beside inputs and unused outputs");
    plan_graph_readers(graph, &s.first, &s.readers);
    find_before(&s);
    s.states = bg_alloc_array(PLAN_STATES_MAX, sizeof *s.states);
    s.keys = bg_alloc_array((size_t)PLAN_STATES_MAX * s.words, sizeof *s.keys);
    s.table = bg_alloc_array(TABLE_SIZE, sizeof *s.table);
    s.set = bg_alloc_array(s.words, sizeof *s.set);
    s.members = bg_alloc_array(graph->node_count, sizeof *s.members);
    s.chain = bg_alloc_array(graph->node_count, sizeof *s.chain);
    uint32_t source = 0, found;
    for (uint64_t any = 1; any && source < graph->node_count; source += any != 0) {
        any = 0;
        for (uint32_t w = 0; w < s.words; w++)
            any |= before(&s, source)[w];
    }
    bool fits = state_of(&s, &source, 1, &found);
    for (uint32_t i = 0; i < s.count && fits; i++)
        fits = expand(&s, i);
    bg_status status = BG_OK;
    if (fits)
        fill(&s, states);
    else
        status = bg_fail(err, BG_UNSUPPORTED, "the graph may be cut in more than %d ways; merge parallel branches",
                         PLAN_STATES_MAX);
    for (uint32_t i = 0; i < s.count; i++) {
        bg_free(s.states[i].members);
        bg_free(s.states[i].next);
    }
    void *const all[] = {s.first, s.readers, s.before, s.states, s.keys, s.table, s.set, s.members, s.chain};
    for (size_t i = 0; i < sizeof all / sizeof *all; i++)
        bg_free(all[i]);
    return status;
}

void plan_states_destroy(struct plan_states *states)
{
    bg_free(states->compute_s);
    bg_free(states->parameter_bytes);
    bg_free(states->activation_bytes);
    bg_free(states->cut_bytes);
    bg_free(states->before);
    *states = (struct plan_states){0};
}
