// The automaton of a grammar, made as it is walked: a stack is a chain of positions, a state a set of stacks. Equal
// stacks are one node and equal sets one state, so a text that goes in circles makes no new ones. Bytes that no class
// tells apart share a transition. Tokens are tried in byte order, so that what they have in common is walked once.
//
// The answers of a request walk the same automaton, and none shows in another: it only remembers. What a transition
// costs is a number of the state alone, and it is charged whether it is there already or not: once within a mask, and
// for each byte of the answer's own text. What is remembered is dropped where it takes too much room.
#include "base/hash.h"
#include "base/mem.h"
#include "serve/grammar_int.h"

#include <stdlib.h>
#include <string.h>

enum { NOBODY = 0xffffffff, UNKNOWN = -2, DEAD = -1, START = 0, WORD_MAX = 255 };
enum {
    REACHED_MAX = 1 << 16, // stacks that one set goes through
    VISITS_MAX = 1 << 17,  // how often it does, the same ones again as well
    DEPTHS_MAX = 1 << 21,  // of the stacks of one set together
    MASK_MAX = 1 << 18,    // price of one mask, and more for each word: words that come after are not allowed
    MASK_WORD = 8,
    TEXT_MAX = 1 << 26,   // price of a text: where it is paid the text ends
    ROOM_BYTES = 1 << 26, // of what is remembered
    TURN_MAX = 1 << 30,
};

struct node { // a stack: where it stands, and where it goes on afterwards
    uint32_t position, parent;
    uint32_t depth; // of the chain
    uint32_t turn;  // of the last set in the making that it was part of
};
struct edge { // what a byte of a class leads to
    int32_t to;
    uint32_t price; // stacks looked at on the way
    uint32_t turn;  // of the last mask that paid it
};
struct state {
    uint32_t first, count; // its nodes, in sets
    bool may_end;
    uint64_t *mask;    // NULL: not computed
    struct edge *next; // (byte classes)
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
    uint32_t holders; // atomic
    uint8_t byte_class[256];
    uint32_t byte_classes;
    uint8_t byte_of[256]; // of each byte class
    const struct tokenizer *tokenizer;
    uint32_t vocab;
    struct word *words;
    size_t word_count;
    int32_t *ends; // what may come where the text may end
    size_t end_count;
    uint64_t mask_max, text_max;
    // Grows as texts are walked, by one thread:
    struct grammar_state *walkers; // that stand anywhere but at the start
    size_t room;                   // bytes that it may grow to
    struct node *nodes;
    uint32_t node_count, node_capacity;
    struct table node_table, state_table;
    uint32_t turn, mask_turn;
    struct state *states;
    uint32_t state_count, state_capacity, mask_count;
    uint32_t *sets;
    size_t set_count, set_capacity;
    uint32_t *work; // nodes of the set in the making
    size_t work_count, work_capacity;
    bool work_ends;
    struct node *todo; // stacks that it goes through next
    size_t todo_count, todo_capacity;
    uint32_t reached, visits;
};

struct grammar_state {
    struct grammar *grammar;
    int32_t at;
    uint64_t spent;              // price of the text so far
    struct grammar_state **link; // in the list of walkers; NULL: not in it
    struct grammar_state *next;
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
    const uint64_t mixed = ((uint64_t)n->parent << 32 | n->position) * 0x9e3779b97f4a7c15u; // 2^64 / golden ratio
    return mixed ^ mixed >> 32;
}

static uint32_t node_of(struct grammar *g, uint32_t position, uint32_t parent)
{
    const struct node wanted = {position, parent, parent == NOBODY ? 1 : g->nodes[parent].depth + 1, 0};
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
        if (*slot != NOBODY && g->nodes[*slot].position == position && g->nodes[*slot].parent == parent)
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
    g->todo[g->todo_count++] = (struct node){position, parent, 0, 0};
    g->visits++;
}

static void add_work(struct grammar *g, uint32_t node)
{
    if (g->work_count == g->work_capacity) {
        g->work_capacity = g->work_capacity * 2 + 64;
        g->work = bg_realloc_array(g->work, g->work_capacity, sizeof *g->work);
    }
    g->work[g->work_count++] = node;
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
        add_work(g, node);
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

static uint32_t add_state(struct grammar *g)
{
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
        s->next[i].to = UNKNOWN;
    return g->state_count++;
}

static bool is_too_deep(const struct grammar *g)
{
    uint64_t depths = 0;
    for (size_t i = 0; i < g->work_count; i++)
        depths += g->nodes[g->work[i]].depth;
    return depths > DEPTHS_MAX;
}

// The state of the set in the making.
static int32_t state_of_work(struct grammar *g)
{
    struct table *t = &g->state_table;
    if ((g->work_count == 0 && !g->work_ends) || is_too_large(g) || is_too_deep(g))
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
        t->count++;
        *slot = add_state(g);
        return (int32_t)*slot;
    }
}

static bool in_class(const struct grammar_class *c, uint8_t byte)
{
    return c->bits[byte / 64] >> byte % 64 & 1;
}

// What the byte leads to.
static struct edge *edge_of(struct grammar *g, int32_t at, uint8_t byte)
{
    const uint32_t class = g->byte_class[byte], first = g->states[at].first, count = g->states[at].count;
    if (g->states[at].next[class].to != UNKNOWN)
        return &g->states[at].next[class];
    begin_set(g);
    for (uint32_t i = 0; i < count; i++) {
        const struct node n = g->nodes[g->sets[first + i]];
        if (in_class(&g->text.classes[g->text.elements[n.position].index], g->byte_of[class]))
            expand(g, n.position + 1, n.parent);
    }
    // how far one got that is too large depends on the order of its stacks
    const struct edge edge = {state_of_work(g), is_too_large(g) ? VISITS_MAX : count / 16 + g->visits, 0};
    g->states[at].next[class] = edge;
    return &g->states[at].next[class];
}

// ---- What is remembered ----
static size_t remembered_bytes(const struct grammar *g)
{
    return g->node_count * (sizeof *g->nodes + 2 * sizeof(uint32_t)) + g->set_count * sizeof *g->sets +
           g->state_count * (sizeof *g->states + g->byte_classes * sizeof(struct edge)) +
           (size_t)g->mask_count * (g->vocab + 63) / 64 * sizeof(uint64_t);
}

static void keep_stacks(const struct grammar *g, bool *kept, int32_t at)
{
    const struct state *s = &g->states[at];
    for (uint32_t i = 0; i < s->count; i++)
        for (uint32_t n = g->sets[s->first + i]; n != NOBODY && !kept[n]; n = g->nodes[n].parent)
            kept[n] = true;
}

// The state, of what was remembered before, among what is now.
static int32_t keep_state(struct grammar *g, const struct grammar *before, const uint32_t *moved, int32_t at)
{
    struct state *s = &before->states[at];
    begin_set(g);
    for (uint32_t i = 0; i < s->count; i++)
        add_work(g, moved[before->sets[s->first + i]]);
    g->work_ends = s->may_end;
    const int32_t now = state_of_work(g);
    if (s->mask) {
        g->states[now].mask = s->mask;
        g->mask_count++;
    }
    s->mask = NULL;
    return now;
}

static void drop_remembered(struct grammar *g)
{
    for (uint32_t i = 0; i < g->state_count; i++) {
        bg_free(g->states[i].next);
        bg_free(g->states[i].mask);
    }
    bg_free(g->states);
    bg_free(g->sets);
    bg_free(g->nodes);
    bg_free(g->node_table.slots);
    bg_free(g->state_table.slots);
}

// Remembers the start and where the walkers stand, and nothing else.
static void forget(struct grammar *g)
{
    struct grammar before = *g;
    bool *kept = bg_alloc_array(g->node_count + 1u, sizeof *kept);
    uint32_t *moved = bg_alloc_array(g->node_count + 1u, sizeof *moved);
    keep_stacks(g, kept, START);
    for (const struct grammar_state *w = g->walkers; w; w = w->next)
        keep_stacks(g, kept, w->at);
    g->nodes = NULL;
    g->states = NULL;
    g->sets = NULL;
    g->node_table = g->state_table = (struct table){0};
    g->node_count = g->node_capacity = g->state_count = g->state_capacity = g->mask_count = 0;
    g->set_count = g->set_capacity = 0;
    g->turn = g->mask_turn = 0;
    for (uint32_t n = 0; n < before.node_count; n++) // a parent comes before its children
        if (kept[n]) {
            const struct node old = before.nodes[n];
            moved[n] = node_of(g, old.position, old.parent == NOBODY ? NOBODY : moved[old.parent]);
        }
    keep_state(g, &before, moved, START);
    for (struct grammar_state *w = g->walkers; w; w = w->next)
        w->at = keep_state(g, &before, moved, w->at);
    drop_remembered(&before);
    bg_free(kept);
    bg_free(moved);
}

static void make_room(struct grammar *g)
{
    if (remembered_bytes(g) <= g->room && g->turn < TURN_MAX && g->mask_turn < TURN_MAX)
        return;
    forget(g);
    const size_t bytes = 2 * remembered_bytes(g);
    g->room = bytes > ROOM_BYTES ? bytes : ROOM_BYTES;
}

// ---- What users see ----
struct grammar_state *grammar_begin(const struct grammar *grammar)
{
    struct grammar_state *s = bg_alloc(sizeof *s);
    *s = (struct grammar_state){.grammar = (struct grammar *)(uintptr_t)grammar, .at = START};
    return s;
}

static void add_walker(struct grammar_state *s)
{
    struct grammar *g = s->grammar;
    s->next = g->walkers;
    s->link = &g->walkers;
    if (s->next)
        s->next->link = &s->next;
    g->walkers = s;
}

struct grammar_state *grammar_state_copy(const struct grammar_state *state)
{
    struct grammar_state *s = bg_alloc(sizeof *s);
    *s = (struct grammar_state){.grammar = state->grammar, .at = state->at, .spent = state->spent};
    if (state->link)
        add_walker(s);
    return s;
}

void grammar_state_destroy(struct grammar_state *state)
{
    if (state && state->link) {
        *state->link = state->next;
        if (state->next)
            state->next->link = state->link;
    }
    bg_free(state);
}

bool grammar_may_end(const struct grammar_state *state)
{
    return state->grammar->states[state->at].may_end;
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

static uint64_t mask_price(const struct grammar *g, const struct edge *edge)
{
    return (uint64_t)edge->price + (edge->to == DEAD ? 0 : g->byte_classes / 4); // a state has room for each
}

static void compute_mask(struct grammar *g, int32_t at, uint64_t *mask)
{
    int32_t path[WORD_MAX + 1]; // path[d]: after d bytes of the word before
    uint32_t dead = UINT32_MAX; // length of the beginning of the word before that leads nowhere
    uint64_t left = g->mask_max;
    bool any = false;
    memset(mask, 0, (g->vocab + 63) / 64 * sizeof *mask);
    path[0] = at;
    g->mask_turn++;
    for (size_t w = 0; w < g->word_count; w++) {
        const struct word *word = &g->words[w];
        if (word->common >= dead)
            continue; // it begins with what leads nowhere
        dead = UINT32_MAX;
        for (uint32_t d = word->common; d < word->size; d++) {
            struct edge *edge = edge_of(g, path[d], (uint8_t)word->bytes[d]);
            const uint64_t price = edge->turn == g->mask_turn ? 0 : mask_price(g, edge);
            edge->turn = g->mask_turn;
            path[d + 1] = edge->to;
            if (price > left || edge->to == DEAD) {
                dead = d + 1;
                left -= price > left ? left : price;
                break;
            }
            left -= price;
        }
        if (left == 0)
            break;
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
    if (state->spent > g->text_max) {
        memset(mask, 0, words * sizeof *mask);
        allow_ends(g, mask, true);
        return;
    }
    if (!g->states[state->at].mask) {
        make_room(g);
        compute_mask(g, state->at, mask);
        g->mask_count++;
        g->states[state->at].mask = bg_alloc_array(words, sizeof *mask);
        memcpy(g->states[state->at].mask, mask, words * sizeof *mask);
    }
    memcpy(mask, g->states[state->at].mask, words * sizeof *mask);
}

bool grammar_accept(struct grammar_state *state, int32_t token)
{
    struct grammar *g = state->grammar;
    const char *bytes;
    size_t size;
    uint64_t spent = state->spent;
    if (is_end(g->tokenizer, token) || spent > g->text_max)
        return false;
    make_room(g);
    tokenizer_token_bytes(g->tokenizer, tokenizer_bos(g->tokenizer) == 0 ? 1 : 0, token, &bytes, &size);
    if (size == 0 || size > WORD_MAX)
        return false;
    int32_t at = state->at;
    for (size_t i = 0; i < size && at != DEAD; i++) {
        const struct edge *edge = edge_of(g, at, (uint8_t)bytes[i]);
        at = edge->to;
        spent += edge->price;
    }
    if (at == DEAD)
        return false;
    state->at = at;
    state->spent = spent;
    if (!state->link)
        add_walker(state);
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
        if (size == 0 || size > WORD_MAX)
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
    g->holders = 1;
    g->text_max = TEXT_MAX;
    g->room = ROOM_BYTES;
    g->tokenizer = tokenizer;
    g->vocab = tokenizer_size(tokenizer);
    *text = (struct grammar_text){0};
    class_bytes(g);
    list_words(g);
    g->mask_max = MASK_MAX + MASK_WORD * (uint64_t)g->word_count;
    begin_set(g);
    for (uint32_t i = 0; i < g->text.rules[root].alt_count; i++)
        expand(g, g->text.rules[root].alt[i], NOBODY);
    const int32_t start = state_of_work(g);
    if (is_too_large(g)) {
        grammar_release(g);
        return bg_fail(err, BG_INVALID,
                       "the grammar can begin in more than %d ways: repeat less of what may be empty or left out",
                       REACHED_MAX);
    }
    if (start == DEAD) {
        grammar_release(g);
        return bg_fail(err, BG_INVALID, "no text fits the grammar");
    }
    *grammar = g;
    return BG_OK;
}

void grammar_limit(struct grammar *grammar, uint64_t mask, uint64_t text, size_t room)
{
    grammar->mask_max = mask;
    grammar->text_max = text;
    grammar->room = room;
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
    drop_remembered(g);
    bg_free(g->work);
    bg_free(g->todo);
    bg_free(g->words);
    bg_free(g->ends);
    grammar_text_fini(&g->text);
    bg_free(g);
}
