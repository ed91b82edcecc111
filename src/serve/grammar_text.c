// Rules in the making: sequences, alternatives, repetitions; code points as sequences of bytes.
#include "base/mem.h"
#include "serve/grammar_int.h"

#include <stdlib.h>
#include <string.h>

enum { NOTHING_MORE = 0xffffffff };

void grammar_text_fini(struct grammar_text *g)
{
    for (uint32_t i = 0; i < g->rule_count; i++) {
        bg_free(g->rules[i].name);
        bg_free(g->rules[i].alt);
    }
    bg_free(g->rules);
    bg_free(g->elements);
    bg_free(g->classes);
    *g = (struct grammar_text){0};
}

uint32_t grammar_rule_new(struct grammar_text *g)
{
    if (g->rule_count == g->rule_capacity) {
        g->rule_capacity = g->rule_capacity * 2 + 32;
        g->rules = bg_realloc_array(g->rules, g->rule_capacity, sizeof *g->rules);
    }
    g->rules[g->rule_count] = (struct grammar_rule){0};
    g->too_large |= g->rule_count > GRAMMAR_ELEMENTS_MAX;
    return g->rule_count++;
}

uint32_t grammar_rule_named(struct grammar_text *g, const char *name, size_t size)
{
    for (uint32_t i = 0; i < g->rule_count; i++)
        if (g->rules[i].name && strlen(g->rules[i].name) == size && memcmp(g->rules[i].name, name, size) == 0)
            return i;
    const uint32_t rule = grammar_rule_new(g);
    g->rules[rule].name = bg_strndup(name, size);
    return rule;
}

void grammar_add_element(struct grammar_sequence *s, struct grammar_element e)
{
    if (s->count == s->capacity) {
        s->capacity = s->capacity * 2 + 8;
        s->elements = bg_realloc_array(s->elements, s->capacity, sizeof *s->elements);
    }
    s->elements[s->count++] = e;
}

static uint32_t class_of(struct grammar_text *g, uint8_t first, uint8_t last)
{
    struct grammar_class c = {{0}};
    for (uint32_t byte = first; byte <= last; byte++)
        c.bits[byte / 64] |= (uint64_t)1 << byte % 64;
    for (uint32_t i = 0; i < g->class_count; i++)
        if (memcmp(&g->classes[i], &c, sizeof c) == 0)
            return i;
    if (g->class_count > GRAMMAR_CLASSES_MAX) // too many already: found out at the end
        return 0;
    if (g->class_count == g->class_capacity) {
        g->class_capacity = g->class_capacity * 2 + 32;
        g->classes = bg_realloc_array(g->classes, g->class_capacity, sizeof *g->classes);
    }
    g->classes[g->class_count] = c;
    return g->class_count++;
}

void grammar_add_text(struct grammar_text *g, struct grammar_sequence *s, const char *bytes, size_t size)
{
    for (size_t i = 0; i < size; i++)
        grammar_add_element(s,
                            (struct grammar_element){GRAMMAR_CLASS, class_of(g, (uint8_t)bytes[i], (uint8_t)bytes[i])});
}

void grammar_add_rule(struct grammar_sequence *s, uint32_t rule)
{
    grammar_add_element(s, (struct grammar_element){GRAMMAR_RULE, rule});
}

void grammar_add_alternative(struct grammar_text *g, uint32_t rule, struct grammar_sequence *s)
{
    struct grammar_rule *r = &g->rules[rule];
    grammar_add_element(s, (struct grammar_element){GRAMMAR_END, 0});
    if (g->element_count + s->count > GRAMMAR_ELEMENTS_MAX) { // found out at the end; it must still be a rule
        g->too_large = true;
        bg_free(s->elements);
        *s = (struct grammar_sequence){0};
        return;
    }
    while (g->element_count + s->count > g->element_capacity) {
        g->element_capacity = g->element_capacity * 2 + 256;
        g->elements = bg_realloc_array(g->elements, g->element_capacity, sizeof *g->elements);
    }
    if (r->alt_count == r->alt_capacity) {
        r->alt_capacity = r->alt_capacity * 2 + 2;
        r->alt = bg_realloc_array(r->alt, r->alt_capacity, sizeof *r->alt);
    }
    r->alt[r->alt_count++] = g->element_count;
    memcpy(g->elements + g->element_count, s->elements, s->count * sizeof *s->elements);
    g->element_count += (uint32_t)s->count;
    bg_free(s->elements);
    *s = (struct grammar_sequence){0};
}

// ---- Code points as bytes ----
static size_t encode(uint32_t point, uint8_t bytes[4])
{
    if (point < 0x80) {
        bytes[0] = (uint8_t)point;
        return 1;
    }
    const size_t count = point < 0x800 ? 2 : point < 0x10000 ? 3 : 4;
    for (size_t i = count - 1; i > 0; i--, point >>= 6)
        bytes[i] = (uint8_t)(0x80 | (point & 63));
    bytes[0] = (uint8_t)((0xf00 >> count & 0xff) | point);
    return count;
}

// Adds alternatives for code points whose encodings have `count` bytes and agree in all but what ranges freely.
static void add_points(struct grammar_text *g, uint32_t rule, uint32_t first, uint32_t last)
{
    static const uint32_t borders[] = {0x7f, 0x7ff, 0xd7ff, 0xdfff, 0xffff};
    for (size_t i = 0; i < 5; i++)
        if (first <= borders[i] && last > borders[i]) {
            add_points(g, rule, first, borders[i]);
            add_points(g, rule, borders[i] + 1, last);
            return;
        }
    if (first >= 0xd800 && last <= 0xdfff)
        return; // halves of surrogate pairs have no encoding
    uint8_t low[4], high[4];
    const size_t count = encode(first, low);
    encode(last, high);
    for (size_t i = 1; i < count; i++) { // cut where the last i bytes do not range over everything
        const uint32_t mask = ((uint32_t)1 << 6 * i) - 1;
        if ((first & ~mask) == (last & ~mask))
            continue;
        if (first & mask) {
            add_points(g, rule, first, first | mask);
            add_points(g, rule, (first | mask) + 1, last);
            return;
        }
        if ((last & mask) != mask) {
            add_points(g, rule, first, (last & ~mask) - 1);
            add_points(g, rule, last & ~mask, last);
            return;
        }
    }
    struct grammar_sequence s = {0};
    for (size_t i = 0; i < count; i++)
        grammar_add_element(&s, (struct grammar_element){GRAMMAR_CLASS, class_of(g, low[i], high[i])});
    grammar_add_alternative(g, rule, &s);
}

static int by_first(const void *a, const void *b)
{
    const struct grammar_range *x = a, *y = b;
    return (x->first > y->first) - (x->first < y->first);
}

uint32_t grammar_rule_of_ranges(struct grammar_text *g, struct grammar_range *ranges, size_t count, bool negated)
{
    const uint32_t rule = grammar_rule_new(g);
    uint32_t next = 0; // the first code point not spoken of yet
    qsort(ranges, count, sizeof *ranges, by_first);
    for (size_t i = 0; i < count; i++) {
        uint32_t first = ranges[i].first > next ? ranges[i].first : next, last = ranges[i].last;
        if (negated && ranges[i].first > next)
            add_points(g, rule, next, ranges[i].first - 1);
        if (!negated && first <= last)
            add_points(g, rule, first, last);
        next = last >= next ? last + 1 : next;
    }
    if (negated && next <= 0x10ffff)
        add_points(g, rule, next, 0x10ffff);
    return rule;
}

// ---- Repetition ----
uint32_t grammar_rule_repeat(struct grammar_text *g, struct grammar_sequence *s, uint32_t least, uint32_t most)
{
    struct grammar_sequence all = {0}, none = {0};
    const uint32_t rule = grammar_rule_new(g), part = grammar_rule_new(g);
    uint32_t rest = NOTHING_MORE;
    grammar_add_alternative(g, part, s);
    if (g->too_large) // found out at the end
        least = most = 0;
    if (most == UINT32_MAX) { // rest = part rest | nothing
        rest = grammar_rule_new(g);
        struct grammar_sequence more = {0};
        grammar_add_rule(&more, part);
        grammar_add_rule(&more, rest);
        grammar_add_alternative(g, rest, &more);
        grammar_add_alternative(g, rest, &none);
    } else {
        for (uint32_t i = least; i < most; i++) { // part (part (..)?)?
            const uint32_t inner = rest;
            struct grammar_sequence more = {0};
            rest = grammar_rule_new(g);
            grammar_add_rule(&more, part);
            if (inner != NOTHING_MORE)
                grammar_add_rule(&more, inner);
            grammar_add_alternative(g, rest, &more);
            grammar_add_alternative(g, rest, &none);
        }
    }
    for (uint32_t i = 0; i < least; i++)
        grammar_add_rule(&all, part);
    if (rest != NOTHING_MORE)
        grammar_add_rule(&all, rest);
    grammar_add_alternative(g, rule, &all);
    return rule;
}
