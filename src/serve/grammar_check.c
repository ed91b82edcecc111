// What a grammar must be before texts are walked: every rule that is used is defined, none begins with itself, and the
// root can come to an end. Every alternative that cannot is dropped, so that no text is led where it would only be cut
// off. Linear in the elements.
#include "base/mem.h"
#include "serve/grammar_pattern_int.h"

static const uint32_t NONE = UINT32_MAX;

struct use {        // by element: where a rule stands, and (at its first element) the alternative
    uint32_t next;  // use of the same rule
    uint32_t begin; // of the alternative it stands in
    uint32_t left;  // in this alternative: elements that do not hold yet
    uint32_t owner; // the rule of this alternative
};

static const char *rule_name(const struct grammar_text *g, uint32_t rule)
{
    return g->rules[rule].name ? g->rules[rule].name : "(a part)";
}

static void hold(bool *holds, struct grammar_list *todo, uint32_t rule)
{
    if (!holds[rule])
        grammar_list_add(todo, rule);
    holds[rule] = true;
}

// The rules with an alternative whose elements are all such rules, or where `bytes` characters: without, those that may
// match nothing; with, those that match anything at all.
static bool *rules_that_hold(const struct grammar_text *g, bool bytes)
{
    bool *holds = bg_alloc_array(g->rule_count + 1u, sizeof *holds);
    uint32_t *uses = bg_alloc_array(g->rule_count + 1u, sizeof *uses); // the last one of each rule
    struct use *use = bg_alloc_array(g->element_count + 1u, sizeof *use);
    struct grammar_list todo = {0}; // rules that hold, whose uses do not know it yet
    for (uint32_t r = 0; r < g->rule_count; r++)
        uses[r] = NONE;
    for (uint32_t r = 0; r < g->rule_count; r++)
        for (uint32_t a = 0; a < g->rules[r].alt_count; a++) {
            const uint32_t begin = g->rules[r].alt[a];
            use[begin].owner = r;
            for (uint32_t i = begin; g->elements[i].kind != GRAMMAR_END; i++) {
                const struct grammar_element e = g->elements[i];
                use[begin].left += e.kind == GRAMMAR_RULE || !bytes;
                use[i].begin = begin;
                use[i].next = e.kind == GRAMMAR_RULE ? uses[e.index] : NONE;
                if (e.kind == GRAMMAR_RULE)
                    uses[e.index] = i;
            }
            if (use[begin].left == 0)
                hold(holds, &todo, r);
        }
    while (todo.count > 0)
        for (uint32_t i = uses[todo.at[--todo.count]]; i != NONE; i = use[i].next)
            if (--use[use[i].begin].left == 0)
                hold(holds, &todo, use[use[i].begin].owner);
    grammar_list_fini(&todo);
    bg_free(use);
    bg_free(uses);
    return holds;
}

struct place { // in a rule: the next element that it may begin with; NULL: of the next alternative
    uint32_t rule, alternative;
    const struct grammar_element *at;
};

// Depth first over what `rule` may begin with; seen 1: on the way, 2: done. Returns a rule that begins with itself.
static uint32_t find_circle(const struct grammar_text *g, const bool *empty, uint8_t *seen, struct place *way,
                            uint32_t rule)
{
    size_t depth = 0;
    way[depth++] = (struct place){rule, 0, NULL};
    seen[rule] = 1;
    while (depth > 0) {
        struct place *p = &way[depth - 1];
        const struct grammar_rule *r = &g->rules[p->rule];
        if (!p->at && p->alternative == r->alt_count) {
            seen[p->rule] = 2;
            depth--;
            continue;
        }
        const struct grammar_element *e = p->at ? p->at : g->elements + r->alt[p->alternative++];
        p->at = e->kind == GRAMMAR_RULE && empty[e->index] ? e + 1 : NULL;
        if (e->kind != GRAMMAR_RULE || seen[e->index] == 2)
            continue;
        if (seen[e->index] == 1)
            return e->index;
        seen[e->index] = 1;
        way[depth++] = (struct place){e->index, 0, NULL};
    }
    return NONE;
}

static bg_status check_circles(const struct grammar_text *g, struct bg_error *err)
{
    bool *empty = rules_that_hold(g, false);
    uint8_t *seen = bg_alloc_array(g->rule_count + 1u, 1);
    struct place *way = bg_alloc_array(g->rule_count + 1u, sizeof *way);
    uint32_t circle = NONE;
    for (uint32_t r = 0; r < g->rule_count && circle == NONE; r++)
        if (seen[r] == 0)
            circle = find_circle(g, empty, seen, way, r);
    bg_free(way);
    bg_free(empty);
    bg_free(seen);
    if (circle != NONE)
        return bg_fail(err, BG_INVALID,
                       "rule \"%.200s\" begins with itself, or repeats what may be empty: write it so that it reads "
                       "something first",
                       rule_name(g, circle));
    return BG_OK;
}

// The first rule of the alternative that never ends; NONE: all do.
static uint32_t endless_in(const struct grammar_text *g, const bool *ends, uint32_t alternative)
{
    for (const struct grammar_element *e = g->elements + alternative; e->kind != GRAMMAR_END; e++)
        if (e->kind == GRAMMAR_RULE && !ends[e->index])
            return e->index;
    return NONE;
}

// Of the rules that keep `root` from its end one that a reader knows by name: in a circle, if there is one.
static uint32_t find_endless(const struct grammar_text *g, const bool *ends, uint32_t root)
{
    bool *seen = bg_alloc_array(g->rule_count + 1u, sizeof *seen);
    uint32_t rule = root, named = root;
    for (int round = 0; round < 2; round++) { // once to get there, once around
        for (uint32_t r = 0; r < g->rule_count; r++)
            seen[r] = false;
        while (!seen[rule] && g->rules[rule].alt_count > 0) {
            seen[rule] = true;
            if (g->rules[rule].name)
                named = rule;
            rule = endless_in(g, ends, g->rules[rule].alt[0]);
        }
    }
    bg_free(seen);
    return named;
}

static bg_status check_ends(struct grammar_text *g, uint32_t root, struct bg_error *err)
{
    bool *ends = rules_that_hold(g, true);
    bg_status status = BG_OK;
    if (!ends[root])
        status = bg_fail(err, BG_INVALID,
                         "rule \"%.200s\" never ends: whatever is written, more has to follow; give it an alternative "
                         "without what leads back to it",
                         rule_name(g, find_endless(g, ends, root)));
    for (uint32_t r = 0; r < g->rule_count && !status; r++) {
        struct grammar_rule *rule = &g->rules[r];
        uint32_t kept = 0;
        for (uint32_t a = 0; a < rule->alt_count; a++)
            if (endless_in(g, ends, rule->alt[a]) == NONE)
                rule->alt[kept++] = rule->alt[a];
        rule->alt_count = kept;
    }
    bg_free(ends);
    return status;
}

bg_status grammar_check(struct grammar_text *g, uint32_t root, struct bg_error *err)
{
    if (g->too_large || g->class_count > GRAMMAR_CLASSES_MAX)
        return bg_fail(err, BG_INVALID, "the grammar is too large: more than %d parts or %d kinds of characters",
                       GRAMMAR_ELEMENTS_MAX, GRAMMAR_CLASSES_MAX);
    for (uint32_t r = 0; r < g->rule_count; r++)
        if (g->rules[r].alt_count == 0 && g->rules[r].name)
            return bg_fail(err, BG_INVALID, "rule \"%.200s\" is used, but nothing defines it", rule_name(g, r));
    const bg_status status = check_circles(g, err);
    return status ? status : check_ends(g, root, err);
}
