// Sets of characters as rules: those of regular expressions, spelled as strings of JSON spell them. Every character has
// one spelling: itself, or the shortest escape. Where dialects of regular expressions disagree about a character (is an
// Arabic digit a \d, a vertical tab a \s?) it is maybe in a set; only what is surely in it is written.
#include "serve/grammar_pattern_int.h"

#include "base/mem.h"

#include <stdlib.h>
#include <string.h>

enum { END = GRAMMAR_POINTS_END };

static void add_range(struct grammar_ranges *r, uint32_t first, uint32_t last)
{
    if (r->count == r->capacity) {
        r->capacity = r->capacity * 2 + 8;
        r->at = bg_realloc_array(r->at, r->capacity, sizeof *r->at);
    }
    r->at[r->count++] = (struct grammar_range){first, last};
}

static int by_first(const void *a, const void *b)
{
    const struct grammar_range *x = a, *y = b;
    return (x->first > y->first) - (x->first < y->first);
}

// In order, without overlaps; of all characters but these where `negated`. No halves of surrogate pairs.
static void settle(struct grammar_ranges *r, bool negated)
{
    struct grammar_ranges out = {0};
    uint32_t next = 0; // the first one not spoken of yet
    add_range(r, END, END);
    if (negated)
        add_range(r, 0xd800, 0xdfff);
    qsort(r->at, r->count, sizeof *r->at, by_first);
    for (size_t i = 0; i < r->count; i++) {
        const uint32_t first = r->at[i].first > next ? r->at[i].first : next, last = r->at[i].last;
        if (negated && r->at[i].first > next)
            add_range(&out, next, r->at[i].first - 1);
        if (!negated && first <= last && first < END)
            add_range(&out, first, last);
        next = last >= next ? last + 1 : next;
    }
    bg_free(r->at);
    *r = out;
}

static bool holds(const struct grammar_ranges *r, uint32_t point)
{
    for (size_t i = 0; i < r->count; i++)
        if (point >= r->at[i].first && point <= r->at[i].last)
            return true;
    return false;
}

// The rule of an escape: `before`, then one of the characters; none where there are no characters.
static void add_escapes(struct grammar_text *g, uint32_t rule, const char *before, struct grammar_ranges *after)
{
    struct grammar_sequence s = {0};
    if (after->count > 0) {
        grammar_add_text(g, &s, before, strlen(before));
        grammar_add_rule(&s, grammar_rule_of_ranges(g, after->at, after->count, false));
        grammar_add_alternative(g, rule, &s);
    }
    bg_free(after->at);
}

struct grammar_ranges grammar_ranges_meet(const struct grammar_ranges *a, const struct grammar_ranges *b)
{
    struct grammar_ranges out = {0};
    for (size_t i = 0, k = 0; i < a->count && k < b->count;) {
        const uint32_t first = a->at[i].first > b->at[k].first ? a->at[i].first : b->at[k].first;
        const uint32_t last = a->at[i].last < b->at[k].last ? a->at[i].last : b->at[k].last;
        if (first <= last)
            add_range(&out, first, last);
        if (a->at[i].last < b->at[k].last)
            i++;
        else
            k++;
    }
    return out;
}

uint32_t grammar_ranges_rule(struct grammar_text *g, const struct grammar_ranges *set)
{
    static const struct grammar_range plain[] = {{' ', '!'}, {'#', '['}, {']', '~'}, {0x80, 0x10ffff}};
    static const char shorts[] = "\"\"\\\\\bb\ff\nn\rr\tt"; // what they mean, how they are written
    struct grammar_ranges direct = {0}, letters = {0}, low = {0}, high = {0}, del = {0};
    const uint32_t rule = grammar_rule_new(g);
    for (size_t i = 0; i < set->count; i++)
        for (size_t k = 0; k < sizeof plain / sizeof *plain; k++) {
            const struct grammar_range r = set->at[i];
            const uint32_t first = r.first > plain[k].first ? r.first : plain[k].first;
            const uint32_t last = r.last < plain[k].last ? r.last : plain[k].last;
            if (first <= last)
                add_range(&direct, first, last);
        }
    for (uint32_t point = 0; point < 0x80; point++) {
        const bool special = point < ' ' || point == '"' || point == '\\' || point == 0x7f;
        const char *found = special && point > 0 ? strchr(shorts, (int)point) : NULL;
        if (!special || !holds(set, point))
            continue;
        const uint32_t hex = (uint32_t) "0123456789abcdef"[point % 16];
        if (found)
            add_range(&letters, (uint32_t)found[1], (uint32_t)found[1]);
        else
            add_range(point < 0x10 ? &low : point < 0x20 ? &high : &del, hex, hex);
    }
    add_escapes(g, rule, "", &direct);
    add_escapes(g, rule, "\\", &letters);
    add_escapes(g, rule, "\\u000", &low);
    add_escapes(g, rule, "\\u001", &high);
    add_escapes(g, rule, "\\u007", &del);
    return rule;
}

void grammar_set_add(struct grammar_set *c, uint32_t first, uint32_t last)
{
    add_range(&c->sure, first, last);
    add_range(&c->maybe, first, last);
}

static void add_all(struct grammar_ranges *to, const struct grammar_range *from, bool negated)
{
    struct grammar_ranges r = {0};
    for (size_t i = 0; from[i].first < END; i++)
        add_range(&r, from[i].first, from[i].last);
    settle(&r, negated);
    for (size_t i = 0; i < r.count; i++)
        add_range(to, r.at[i].first, r.at[i].last);
    bg_free(r.at);
}

bool grammar_set_add_named(struct grammar_set *c, uint32_t letter)
{
    static const struct {
        struct grammar_range sure[6], maybe[14];
    } kinds[] = {
        {{{'0', '9'}, {END, 0}},
         {{'0', '9'},
          {0x660, 0x1c59},
          {0xa620, 0xabf9},
          {0xff10, 0xff19},
          {0x104a0, 0x1e959},
          {0x1fbf0, 0x1fbf9},
          {END, 0}}},
        {{{'0', '9'}, {'A', 'Z'}, {'_', '_'}, {'a', 'z'}, {END, 0}},
         {{'0', '9'}, {'A', 'Z'}, {'_', '_'}, {'a', 'z'}, {0x80, 0x10ffff}, {END, 0}}},
        {{{'\t', '\n'}, {'\f', '\r'}, {' ', ' '}, {END, 0}},
         {{'\t', '\r'},
          {0x1c, ' '},
          {0x85, 0x85},
          {0xa0, 0xa0},
          {0x1680, 0x1680},
          {0x180e, 0x180e},
          {0x2000, 0x200b},
          {0x2028, 0x2029},
          {0x202f, 0x202f},
          {0x205f, 0x2060},
          {0x3000, 0x3000},
          {0xfeff, 0xfeff},
          {END, 0}}},
    };
    static const char letters[] = "dDwWsS";
    const char *found = letter < 0x80 && letter ? strchr(letters, (int)letter) : NULL;
    if (!found)
        return false;
    const size_t kind = (size_t)(found - letters) / 2;
    const bool negated = (found - letters) % 2;
    c->escapes |= (uint32_t)1 << (found - letters);
    add_all(&c->sure, negated ? kinds[kind].maybe : kinds[kind].sure, negated);
    add_all(&c->maybe, negated ? kinds[kind].sure : kinds[kind].maybe, negated);
    return true;
}

struct grammar_ranges grammar_set_ranges(struct grammar_set *c, bool negated)
{
    for (uint32_t i = 0; i < 6; i += 2)
        if ((c->escapes >> i & 3) == 3) // [\s\S]
            grammar_set_add(c, 0, END - 1);
    struct grammar_ranges *used = negated ? &c->maybe : &c->sure;
    bg_free(negated ? c->sure.at : c->maybe.at);
    settle(used, negated);
    return *used;
}
