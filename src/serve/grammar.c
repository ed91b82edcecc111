// The automaton of a grammar, made as it is walked: a stack is a chain of positions, a state a set of stacks. Equal
// stacks are one node and equal sets one state, so a text that goes in circles makes no new ones. Bytes that no class
// tells apart share a transition. Tokens are tried in byte order, so that what they have in common is walked once.
#include "base/hash.h"
#include "base/mem.h"
#include "serve/grammar_int.h"

#include <stddef.h>
#include <stdlib.h>
#include <string.h>

enum { NOBODY = 0xffffffff, MASKS_MAX = 1 << 12, UNKNOWN = -2, DEAD = -1 };
enum {
    REACHED_MAX = 1 << 16, // stacks that one set goes through
    VISITS_MAX = 1 << 18,  // how often it does, the same ones again as well
    STATES_MAX = 1 << 18,  // of one grammar, as all that follows: beyond, whatever is new is not allowed
    NODES_MAX = 1 << 22,
    SETS_MAX = 1 << 24,   // nodes of all states
    EFFORT_MAX = 1 << 28, // visits in all
};

struct node { // a stack: where it stands, and where it goes on afterwards
    uint32_t position, parent;
    uint32_t turn; // of the last set in the making that it was part of
};
struct state {
    uint32_t first, count; // its nodes, in sets
    bool may_end;
    uint64_t *mask; // NULL: not computed
    int32_t *next;  // (byte classes)
};
struct table { // open addressing
    uint32_t *slots, capacity, count;
};
struct word { // a token's bytes, in byte order
    const char *bytes;
    uint32_t size, common; // bytes that it shares with the one before
    int32_t id;
};

struct grammar {
    struct grammar_text text;
    uint32_t root, holders; // holders: atomic
    uint8_t byte_class[256];
    uint32_t byte_classes;
    uint8_t byte_of[256]; // of each byte class
    const struct tokenizer *tokenizer;
    uint32_t vocab;
    struct word *words;
    size_t word_count;
    int32_t *ends; // what may come where the text may end
    size_t end_count;
    // Grows as texts are walked, by one thread:
    struct node *nodes;
    uint32_t node_count, node_capacity;
    struct table node_table, state_table;
    uint32_t turn;
    struct state *states;
    uint32_t state_count, state_capacity, mask_count;
    uint32_t *sets;
    size_t set_count, set_capacity;
    uint32_t *work; // nodes of the set in the making
    size_t work_count, work_capacity;
    bool work_ends;
    struct node *todo; // stacks that it goes through next
    size_t todo_count, todo_capacity;
    uint32_t reached, visits, effort, effort_max; // visits of all sets, and how many may be
    int32_t start;
};

struct grammar_state {
    struct grammar *grammar;
    int32_t at;
};

// ---- Nodes and sets, each once ----
static void table_grow(struct table *t)
{
    bg_free(t->slots);
    t->capacity = t->capacity ? t->capacity * 2 : 256;
    t->slots = bg_alloc_array(t->capacity, sizeof *t->slots);
    memset(t->slots, 0xff, t->capacity * sizeof *t->slots);
}

static uint64_t node_hash(const struct node *n)
{
    return bg_xxh64(n, offsetof(struct node, turn));
}

static uint32_t node_of(struct grammar *g, uint32_t position, uint32_t parent)
{
    const struct node wanted = {position, parent, 0};
    struct table *t = &g->node_table;
    if (t->count * 2 >= t->capacity) {
        table_grow(t);
        for (uint32_t i = 0; i < g->node_count; i++)
            for (uint64_t h = node_hash(&g->nodes[i]);; h++)
                if (t->slots[h & (t->capacity - 1)] == NOBODY) {
                    t->slots[h & (t->capacity - 1)] = i;
                    break;
                }
    }
    for (uint64_t h = node_hash(&wanted);; h++) {
        uint32_t *slot = &t->slots[h & (t->capacity - 1)];
        if (*slot != NOBODY && memcmp(&g->nodes[*slot], &wanted, offsetof(struct node, turn)) == 0)
            return *slot;
        if (*slot != NOBODY)
            continue;
        if (g->node_count == g->node_capacity) {
            g->node_capacity = g->node_capacity * 2 + 64;
            g->nodes = bg_realloc_array(g->nodes, g->node_capacity, sizeof *g->nodes);
        }
        g->nodes[g->node_count] = wanted;
        t->count++;
        return *slot = g->node_count++;
    }
}

static void begin_set(struct grammar *g)
{
    g->work_count = 0;
    g->work_ends = false;
    g->reached = g->visits = 0;
    g->turn++;
}

static void go_to(struct grammar *g, uint32_t position, uint32_t parent)
{
    if (g->todo_count == g->todo_capacity) {
        g->todo_capacity = g->todo_capacity * 2 + 64;
        g->todo = bg_realloc_array(g->todo, g->todo_capacity, sizeof *g->todo);
    }
    g->todo[g->todo_count++] = (struct node){position, parent, 0};
}

// One stack: what reads a byte is part of the set in the making, of everything else what comes after it is looked at.
static void visit(struct grammar *g, uint32_t position, uint32_t parent)
{
    const struct grammar_element e = g->text.elements[position];
    const uint32_t node = node_of(g, position, parent);
    if (g->nodes[node].turn == g->turn)
        return;
    g->nodes[node].turn = g->turn;
    g->reached++;
    if (e.kind == GRAMMAR_END) {
        if (parent == NOBODY)
            g->work_ends = true;
        else
            go_to(g, g->nodes[parent].position, g->nodes[parent].parent);
    } else if (e.kind == GRAMMAR_CLASS) {
        if (g->work_count == g->work_capacity) {
            g->work_capacity = g->work_capacity * 2 + 64;
            g->work = bg_realloc_array(g->work, g->work_capacity, sizeof *g->work);
        }
        g->work[g->work_count++] = node;
    } else { // a rule at the end of another needs no place to come back to
        const bool last = g->text.elements[position + 1].kind == GRAMMAR_END;
        const uint32_t back = last ? parent : node_of(g, position + 1, parent);
        const struct grammar_rule *rule = &g->text.rules[e.index];
        for (uint32_t i = 0; i < rule->alt_count; i++)
            go_to(g, rule->alt[i], back);
    }
}

static bool is_too_large(const struct grammar *g)
{
    return g->reached > REACHED_MAX || g->visits > VISITS_MAX;
}

// Adds the stacks that read a byte next, from `position` over `parent`, to the set in the making. Where it is too large
// it stays as it is: state_of_work() sees to it.
static void expand(struct grammar *g, uint32_t position, uint32_t parent)
{
    go_to(g, position, parent);
    while (g->todo_count > 0 && !is_too_large(g)) {
        const struct node next = g->todo[--g->todo_count];
        g->visits++;
        visit(g, next.position, next.parent);
    }
    g->todo_count = 0;
}

static int by_number(const void *a, const void *b)
{
    const uint32_t x = *(const uint32_t *)a, y = *(const uint32_t *)b;
    return (x > y) - (x < y);
}

static uint64_t set_hash(const uint32_t *nodes, size_t count, bool ends)
{
    return bg_xxh64(nodes, count * sizeof *nodes) + ends;
}

static bool same_set(const struct grammar *g, const struct state *s)
{
    return s->count == g->work_count && s->may_end == g->work_ends &&
           (s->count == 0 || memcmp(g->sets + s->first, g->work, s->count * sizeof *g->work) == 0);
}

static int32_t add_state(struct grammar *g)
{
    if (g->state_count == STATES_MAX || g->set_count + g->work_count > SETS_MAX || g->node_count > NODES_MAX)
        return DEAD;
    if (g->state_count == g->state_capacity) {
        g->state_capacity = g->state_capacity * 2 + 64;
        g->states = bg_realloc_array(g->states, g->state_capacity, sizeof *g->states);
    }
    while (g->set_count + g->work_count > g->set_capacity) {
        g->set_capacity = g->set_capacity * 2 + 256;
        g->sets = bg_realloc_array(g->sets, g->set_capacity, sizeof *g->sets);
    }
    struct state *s = &g->states[g->state_count];
    *s = (struct state){(uint32_t)g->set_count, (uint32_t)g->work_count, g->work_ends, NULL, NULL};
    if (g->work_count)
        memcpy(g->sets + s->first, g->work, g->work_count * sizeof *g->work);
    g->set_count += g->work_count;
    s->next = bg_alloc_array(g->byte_classes, sizeof *s->next);
    for (uint32_t i = 0; i < g->byte_classes; i++)
        s->next[i] = UNKNOWN;
    return (int32_t)g->state_count++;
}

// The state of the set in the making.
static int32_t state_of_work(struct grammar *g)
{
    struct table *t = &g->state_table;
    g->effort += g->effort < g->effort_max ? g->visits : 0;
    if ((g->work_count == 0 && !g->work_ends) || is_too_large(g) || g->effort >= g->effort_max)
        return DEAD;
    if (g->work_count > 1)
        qsort(g->work, g->work_count, sizeof *g->work, by_number);
    if (t->count * 2 >= t->capacity) {
        table_grow(t);
        for (uint32_t i = 0; i < g->state_count; i++) {
            const struct state *s = &g->states[i];
            for (uint64_t h = set_hash(g->sets + s->first, s->count, s->may_end);; h++)
                if (t->slots[h & (t->capacity - 1)] == NOBODY) {
                    t->slots[h & (t->capacity - 1)] = i;
                    break;
                }
        }
    }
    for (uint64_t h = set_hash(g->work, g->work_count, g->work_ends);; h++) {
        uint32_t *slot = &t->slots[h & (t->capacity - 1)];
        if (*slot != NOBODY && same_set(g, &g->states[*slot]))
            return (int32_t)*slot;
        if (*slot != NOBODY)
            continue;
        const int32_t state = add_state(g);
        if (state != DEAD) {
            *slot = (uint32_t)state;
            t->count++;
        }
        return state;
    }
}

static bool in_class(const struct grammar_class *c, uint8_t byte)
{
    return c->bits[byte / 64] >> byte % 64 & 1;
}

static int32_t step(struct grammar *g, int32_t at, uint8_t byte)
{
    const uint32_t class = g->byte_class[byte];
    if (at == DEAD || g->states[at].next[class] != UNKNOWN)
        return at == DEAD ? DEAD : g->states[at].next[class];
    if (g->node_count > NODES_MAX || g->effort >= g->effort_max)
        return DEAD;
    const uint32_t first = g->states[at].first, count = g->states[at].count;
    begin_set(g);
    for (uint32_t i = 0; i < count; i++) {
        const struct node n = g->nodes[g->sets[first + i]];
        if (in_class(&g->text.classes[g->text.elements[n.position].index], g->byte_of[class]))
            expand(g, n.position + 1, n.parent);
    }
    const int32_t next = state_of_work(g);
    g->states[at].next[class] = next;
    return next;
}

// ---- What users see ----
struct grammar_state *grammar_begin(const struct grammar *grammar)
{
    struct grammar_state *s = bg_alloc(sizeof *s);
    s->grammar = (struct grammar *)(uintptr_t)grammar;
    s->at = grammar->start;
    return s;
}

struct grammar_state *grammar_state_copy(const struct grammar_state *state)
{
    struct grammar_state *s = bg_alloc(sizeof *s);
    *s = *state;
    return s;
}

void grammar_state_destroy(struct grammar_state *state)
{
    bg_free(state);
}

bool grammar_may_end(const struct grammar_state *state)
{
    return state->at == DEAD || state->grammar->states[state->at].may_end;
}

// bos is not among them: it only begins texts.
static bool is_end(const struct tokenizer *t, int32_t id)
{
    return tokenizer_ends(t, id) && (id != tokenizer_bos(t) || id == tokenizer_eos(t));
}

// must: where there are none, the first token: grammar_accept() refuses it, which ends the text.
static void allow_ends(const struct grammar *g, uint64_t *mask, bool must)
{
    for (size_t i = 0; i < g->end_count; i++)
        mask[g->ends[i] / 64] |= (uint64_t)1 << g->ends[i] % 64;
    if (g->end_count == 0 && must)
        mask[0] |= 1;
}

static void compute_mask(struct grammar *g, int32_t at, uint64_t *mask)
{
    int32_t path[256];          // path[d]: after d bytes of the word before
    uint32_t dead = UINT32_MAX; // length of the beginning of the word before that leads nowhere
    bool any = false;
    memset(mask, 0, (g->vocab + 63) / 64 * sizeof *mask);
    path[0] = at;
    for (size_t w = 0; w < g->word_count; w++) {
        const struct word *word = &g->words[w];
        if (word->common >= dead)
            continue; // it begins with what leads nowhere
        dead = UINT32_MAX;
        for (uint32_t d = word->common; d < word->size; d++) {
            path[d + 1] = step(g, path[d], (uint8_t)word->bytes[d]);
            if (path[d + 1] == DEAD) {
                dead = d + 1;
                break;
            }
        }
        if (dead == UINT32_MAX) {
            mask[word->id / 64] |= (uint64_t)1 << word->id % 64;
            any = true;
        }
    }
    if (g->states[at].may_end || !any)
        allow_ends(g, mask, !any);
}

void grammar_mask(struct grammar_state *state, uint64_t *mask)
{
    struct grammar *g = state->grammar;
    const size_t words = (g->vocab + 63) / 64;
    if (state->at == DEAD) {
        memset(mask, 0, words * sizeof *mask);
        allow_ends(g, mask, true);
        return;
    }
    if (g->states[state->at].mask) {
        memcpy(mask, g->states[state->at].mask, words * sizeof *mask);
        return;
    }
    compute_mask(g, state->at, mask);
    if (g->mask_count == MASKS_MAX)
        return;
    g->mask_count++;
    g->states[state->at].mask = bg_alloc_array(words, sizeof *mask);
    memcpy(g->states[state->at].mask, mask, words * sizeof *mask);
}

bool grammar_accept(struct grammar_state *state, int32_t token)
{
    struct grammar *g = state->grammar;
    const char *bytes;
    size_t size;
    int32_t at = state->at;
    if (is_end(g->tokenizer, token))
        return false;
    tokenizer_token_bytes(g->tokenizer, tokenizer_bos(g->tokenizer) == 0 ? 1 : 0, token, &bytes, &size);
    for (size_t i = 0; i < size && at != DEAD; i++)
        at = step(g, at, (uint8_t)bytes[i]);
    if (at == DEAD || size == 0)
        return false;
    state->at = at;
    return true;
}

// ---- Making it ----
static int by_bytes(const void *a, const void *b)
{
    const struct word *x = a, *y = b;
    const uint32_t size = x->size < y->size ? x->size : y->size;
    const int order = memcmp(x->bytes, y->bytes, size);
    if (order)
        return order;
    return x->size != y->size ? (x->size > y->size) - (x->size < y->size) : (x->id > y->id) - (x->id < y->id);
}

static void list_words(struct grammar *g)
{
    const int32_t any = tokenizer_bos(g->tokenizer) == 0 ? 1 : 0;
    g->words = bg_alloc_array(g->vocab + 1u, sizeof *g->words);
    for (uint32_t id = 0; id < g->vocab; id++) {
        struct word w = {.id = (int32_t)id};
        size_t size;
        tokenizer_token_bytes(g->tokenizer, any, (int32_t)id, &w.bytes, &size);
        if (is_end(g->tokenizer, (int32_t)id)) {
            g->ends = bg_realloc_array(g->ends, g->end_count + 1, sizeof *g->ends);
            g->ends[g->end_count++] = (int32_t)id;
            continue;
        }
        if (size == 0 || size > 255)
            continue;
        w.size = (uint32_t)size;
        g->words[g->word_count++] = w;
    }
    qsort(g->words, g->word_count, sizeof *g->words, by_bytes);
    for (size_t i = 1; i < g->word_count; i++) {
        const struct word *before = &g->words[i - 1];
        struct word *w = &g->words[i];
        while (w->common < w->size && w->common < before->size && w->bytes[w->common] == before->bytes[w->common])
            w->common++;
    }
}

// Bytes that are in the same classes of the grammar are one.
static void class_bytes(struct grammar *g)
{
    for (uint32_t byte = 0; byte < 256; byte++) {
        uint32_t same = 0;
        for (; same < g->byte_classes; same++) {
            uint32_t c = 0;
            while (c < g->text.class_count &&
                   in_class(&g->text.classes[c], (uint8_t)byte) == in_class(&g->text.classes[c], g->byte_of[same]))
                c++;
            if (c == g->text.class_count)
                break;
        }
        if (same == g->byte_classes)
            g->byte_of[g->byte_classes++] = (uint8_t)byte;
        g->byte_class[byte] = (uint8_t)same;
    }
}

bg_status grammar_finish(struct grammar_text *text, uint32_t root, const struct tokenizer *tokenizer,
                         struct bg_error *err, struct grammar **grammar)
{
    bg_status status = grammar_check(text, root, err);
    if (status) {
        grammar_text_fini(text);
        return status;
    }
    struct grammar *g = bg_alloc(sizeof *g);
    g->text = *text;
    g->root = root;
    g->holders = 1;
    g->effort_max = EFFORT_MAX;
    g->tokenizer = tokenizer;
    g->vocab = tokenizer_size(tokenizer);
    *text = (struct grammar_text){0};
    class_bytes(g);
    list_words(g);
    begin_set(g);
    for (uint32_t i = 0; i < g->text.rules[root].alt_count; i++)
        expand(g, g->text.rules[root].alt[i], NOBODY);
    g->start = state_of_work(g);
    if (is_too_large(g)) {
        grammar_release(g);
        return bg_fail(err, BG_INVALID,
                       "the grammar can begin in more than %d ways: repeat less of what may be empty or left out",
                       REACHED_MAX);
    }
    if (g->start == DEAD) {
        grammar_release(g);
        return bg_fail(err, BG_INVALID, "no text fits the grammar");
    }
    *grammar = g;
    return BG_OK;
}

void grammar_limit(struct grammar *grammar, uint32_t effort)
{
    grammar->effort_max = effort;
}

void grammar_retain(struct grammar *grammar)
{
    __atomic_add_fetch(&grammar->holders, 1, __ATOMIC_RELAXED);
}

void grammar_release(struct grammar *grammar)
{
    struct grammar *g = grammar;
    if (__atomic_sub_fetch(&g->holders, 1, __ATOMIC_ACQ_REL) > 0)
        return;
    for (uint32_t i = 0; i < g->state_count; i++) {
        bg_free(g->states[i].next);
        bg_free(g->states[i].mask);
    }
    bg_free(g->states);
    bg_free(g->sets);
    bg_free(g->work);
    bg_free(g->todo);
    bg_free(g->nodes);
    bg_free(g->node_table.slots);
    bg_free(g->state_table.slots);
    bg_free(g->words);
    bg_free(g->ends);
    grammar_text_fini(&g->text);
    bg_free(g);
}
