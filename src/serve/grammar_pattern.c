// A subset of ECMA's regular expressions, read into the automaton of their positions. A repetition copies the positions
// of what it repeats; an outermost alternative without anchors has any text before and after it. What speaks of other
// places (look-around, back references), and what dialects write in their own ways, is refused by name.
#include "serve/grammar_pattern_int.h"

#include "base/mem.h"

#include <stdio.h>
#include <string.h>

enum {
    POINTS_MAX = 2048, // of a pattern
    END = GRAMMAR_POINTS_END,
};
enum { BEGIN, ANY_BEFORE, ANY_AFTER }; // the first positions

// A part of the pattern. Its positions and edges are those from here to the last ones made so far.
struct part {
    struct grammar_list first, last; // positions
    bool empty;                      // it may match nothing
    uint32_t position, edge;
};
struct pattern {
    struct grammar_automaton made;
    uint32_t *points, count, next; // the text; ended by END
    uint64_t effort;               // positions and edges made, those that {0} drops as well
    char *why;
    size_t why_size;
    bool failed;
};

static void fail(struct pattern *p, const char *what)
{
    if (!p->failed)
        snprintf(p->why, p->why_size, "%s", what);
    p->failed = true;
    p->next = p->count; // nothing more to read
}

static void fail_at(struct pattern *p, uint32_t at, const char *what)
{
    char text[120];
    snprintf(text, sizeof text, "has %s at offset %u", what, at);
    fail(p, text);
}

// ---- Lists and edges ----
static void append(struct grammar_list *to, const struct grammar_list *from, uint32_t shift)
{
    for (uint32_t i = 0; i < from->count; i++)
        grammar_list_add(to, from->at[i] + shift);
}

static void add_edge(struct pattern *p, uint32_t from, uint32_t to)
{
    p->effort++;
    if (!grammar_automaton_edge(&p->made, from, to))
        fail_at(p, p->next, "too many ways to go on");
}

static void connect(struct pattern *p, const struct grammar_list *from, uint32_t from_shift,
                    const struct grammar_list *to, uint32_t to_shift)
{
    for (uint32_t i = 0; i < from->count && !p->failed; i++)
        for (uint32_t k = 0; k < to->count && !p->failed; k++)
            add_edge(p, from->at[i] + from_shift, to->at[k] + to_shift);
}

// ---- Parts ----
static struct part nothing(const struct pattern *p)
{
    return (struct part){.empty = true, .position = p->made.reads.count, .edge = p->made.edge_count};
}

// Takes *set.
static struct part character(struct pattern *p, struct grammar_set *set, bool negated)
{
    struct part x = nothing(p);
    x.empty = false;
    grammar_list_add(&x.first, p->made.reads.count);
    grammar_list_add(&x.last, p->made.reads.count);
    grammar_list_add(&p->made.reads, grammar_automaton_set(&p->made, grammar_set_ranges(set, negated)));
    return x;
}

static void part_fini(struct part *x)
{
    grammar_list_fini(&x->first);
    grammar_list_fini(&x->last);
}

// a, then b, which was made right after it; takes b.
static void follow(struct pattern *p, struct part *a, struct part b)
{
    connect(p, &a->last, 0, &b.first, 0);
    if (a->empty)
        append(&a->first, &b.first, 0);
    if (b.empty) {
        append(&a->last, &b.last, 0);
    } else {
        const struct grammar_list last = a->last;
        a->last = b.last;
        b.last = last;
    }
    a->empty = a->empty && b.empty;
    part_fini(&b);
}

// a or b, which was made right after it; takes b.
static void either(struct part *a, struct part b)
{
    append(&a->first, &b.first, 0);
    append(&a->last, &b.last, 0);
    a->empty = a->empty || b.empty;
    part_fini(&b);
}

// x, made last, least to most times. Copies of its positions stand in a row, each reading at least one character: where
// x may match nothing fewer copies do as well.
static void repeat(struct pattern *p, struct part *x, uint32_t least, uint32_t most)
{
    const uint32_t size = p->made.reads.count - x->position, first_edge = x->edge, edges = p->made.edge_count - x->edge;
    struct grammar_list last = {0};
    if (size == 0 || most == 0) {
        p->made.reads.count = x->position;
        p->made.edge_count = x->edge;
        part_fini(x);
        x->empty = true;
        return;
    }
    if (x->empty)
        least = 0;
    const uint32_t copies = most < UINT32_MAX ? most : least > 0 ? least : 1;
    if ((uint64_t)p->made.reads.count + (uint64_t)size * (copies - 1) > GRAMMAR_POSITIONS_MAX)
        fail_at(p, p->next, "too many repeated characters up to the repetition");
    for (uint32_t i = 0; i < copies && !p->failed; i++) {
        for (uint32_t k = 0; k < size && i > 0; k++, p->effort++)
            grammar_list_add(&p->made.reads, p->made.reads.at[x->position + k]);
        for (uint32_t k = 0; k < edges && i > 0 && !p->failed; k++)
            add_edge(p, p->made.edges[first_edge + k].from + i * size, p->made.edges[first_edge + k].to + i * size);
        if (i > 0)
            connect(p, &x->last, (i - 1) * size, &x->first, i * size);
        if (i + 1 >= least)
            append(&last, &x->last, i * size);
    }
    if (most == UINT32_MAX)
        connect(p, &x->last, (copies - 1) * size, &x->first, (copies - 1) * size);
    grammar_list_fini(&x->last);
    x->last = last;
    x->empty = least == 0;
}

// ---- Reading ----
static uint32_t peek(const struct pattern *p)
{
    return p->points[p->next];
}

static bool take(struct pattern *p, uint32_t point)
{
    const bool there = peek(p) == point;
    p->next += there;
    return there;
}

static uint32_t hex_escape(struct pattern *p, uint32_t at, uint32_t digits)
{
    uint32_t value = 0;
    for (uint32_t i = 0; i < digits; i++) {
        const uint32_t point = peek(p);
        const char *found = point < 0x80 && point ? strchr("0123456789abcdef", (int)(point | 0x20)) : NULL;
        if (!found || (point < '0' || (point > '9' && point < 'A'))) {
            fail_at(p, at, digits == 2 ? "\\x without two digits" : "\\u without four digits");
            return 0;
        }
        value = value * 16 + (uint32_t)(found - "0123456789abcdef");
        p->next++;
    }
    if (value >= 0xd800 && value <= 0xdfff)
        fail_at(p, at, "half of a surrogate pair");
    return value;
}

// The character of an escape after its backslash, which stands at `at`. in_class: \b is a backspace there.
static uint32_t escape(struct pattern *p, uint32_t at, bool in_class)
{
    static const char letters[] = "t\tn\nv\vf\fr\r";
    char what[40];
    const uint32_t point = peek(p);
    p->next += point != END;
    if (point == 'x' || point == 'u')
        return hex_escape(p, at, point == 'x' ? 2 : 4);
    if (point == 'b' && in_class)
        return '\b';
    const char *found = point < 0x80 && point > ' ' ? strchr(letters, (int)point) : NULL;
    if (found)
        return (uint32_t)(unsigned char)found[1];
    const bool letter = (point | 0x20) >= 'a' && (point | 0x20) <= 'z', digit = point >= '0' && point <= '9';
    if (point >= ' ' && point < 0x7f && !letter && !digit)
        return point;
    if (point == END)
        snprintf(what, sizeof what, "a backslash with nothing after it");
    else
        snprintf(what, sizeof what, "%s%.*s",
                 point == 'b' || point == 'B'             ? "a word boundary, \\"
                 : (digit && point > '0') || point == 'k' ? "a back reference, \\"
                 : point == 'p' || point == 'P'           ? "a Unicode property, \\"
                                                          : "the escape \\",
                 point < 0x7f && point > ' ', &(char){(char)point});
    fail_at(p, at, what);
    return 0;
}

// A character of a class, or END: a named set was added.
static uint32_t class_point(struct pattern *p, struct grammar_set *c)
{
    const uint32_t at = p->next, point = peek(p);
    if (point == '[' && p->points[at + 1] == ':')
        fail_at(p, at, "a POSIX class");
    if (p->failed)
        return END;
    p->next++;
    if (point != '\\')
        return point;
    if (grammar_set_add_named(c, peek(p))) {
        p->next++;
        return END;
    }
    return escape(p, at, true);
}

static struct part class_of(struct pattern *p)
{
    const uint32_t begin = p->next - 1;
    const bool negated = take(p, '^');
    struct grammar_set c = {0};
    if (peek(p) == ']')
        fail_at(p, begin, "an empty class");
    while (!p->failed && !take(p, ']')) {
        const uint32_t at = p->next;
        if (peek(p) == END) {
            fail_at(p, begin, "a class that is never closed");
            break;
        }
        const uint32_t first = class_point(p, &c);
        uint32_t last = first;
        if (peek(p) == '-' && p->points[p->next + 1] != ']' && p->points[p->next + 1] != END) {
            p->next++;
            last = class_point(p, &c);
            if (first == END || last == END || last < first)
                fail_at(p, at,
                        first == END || last == END ? "a range from or to a set" : "a range that runs backwards");
        }
        if (first != END && !p->failed)
            grammar_set_add(&c, first, last);
    }
    return character(p, &c, negated);
}

static struct part alternatives(struct pattern *p, uint32_t depth);

static struct part group(struct pattern *p, uint32_t depth)
{
    const uint32_t begin = p->next - 1, *at = p->points + p->next;
    if (*at == '?' && at[1] != ':') {
        const bool behind = at[1] == '<' && (at[2] == '=' || at[2] == '!');
        fail_at(p, begin,
                at[1] == '=' || at[1] == '!'   ? "a look-ahead"
                : behind                       ? "a look-behind"
                : at[1] == '<' || at[1] == 'P' ? "a named group"
                                               : "a group with flags");
    } else if (*at == '?') {
        p->next += 2;
    }
    if (depth == GRAMMAR_DEPTH_MAX)
        fail_at(p, begin, "groups nested more than 64 deep");
    struct part x = p->failed ? nothing(p) : alternatives(p, depth + 1);
    if (!take(p, ')'))
        fail_at(p, begin, "a group that is never closed");
    return x;
}

static struct part atom(struct pattern *p, uint32_t depth)
{
    const uint32_t at = p->next++, point = p->points[at];
    struct grammar_set c = {0};
    switch (point) {
    case '(':
        return group(p, depth);
    case '[':
        return class_of(p);
    case '*':
    case '+':
    case '?':
        fail_at(p, at, "nothing to repeat before the quantifier");
        break;
    case '{':
        fail_at(p, at, "a brace that is no quantifier {m}, {m,} or {m,n}");
        break;
    case '^':
    case '$':
        fail_at(p, at, "an anchor inside an alternative or a group");
        break;
    case '.': // what ends a line is not the same everywhere
        grammar_set_add(&c, '\n', '\n');
        grammar_set_add(&c, '\r', '\r');
        grammar_set_add(&c, 0x85, 0x85);
        grammar_set_add(&c, 0x2028, 0x2029);
        return character(p, &c, true);
    case '\\':
        if (grammar_set_add_named(&c, peek(p))) {
            p->next++;
            return character(p, &c, false);
        }
        const uint32_t escaped = escape(p, at, false);
        grammar_set_add(&c, escaped, escaped);
        return character(p, &c, false);
    default:
        grammar_set_add(&c, point, point);
        return character(p, &c, false);
    }
    return nothing(p);
}

static bool count_of(struct pattern *p, uint32_t *count)
{
    const uint32_t begin = p->next;
    for (*count = 0; peek(p) >= '0' && peek(p) <= '9'; p->next++)
        *count = *count > GRAMMAR_REPEAT_MAX ? *count : *count * 10 + (peek(p) - '0');
    return p->next > begin;
}

static void quantified(struct pattern *p, struct part *x)
{
    const uint32_t at = p->next;
    uint32_t least = 0, most = UINT32_MAX;
    if (take(p, '{')) {
        if (!count_of(p, &least)) {
            fail_at(p, at, "a brace that is no quantifier {m}, {m,} or {m,n}");
            return;
        }
        most = least;
        if (take(p, ',') && !count_of(p, &most))
            most = UINT32_MAX;
        if (!take(p, '}'))
            fail_at(p, at, "a brace that is no quantifier {m}, {m,} or {m,n}");
        else if (least > GRAMMAR_REPEAT_MAX || (most != UINT32_MAX && most > GRAMMAR_REPEAT_MAX))
            fail_at(p, at, "a repetition of more than 4096");
        else if (most < least)
            fail_at(p, at, "a repetition {m,n} with n less than m");
    } else if (take(p, '+')) {
        least = 1;
    } else if (take(p, '?')) {
        most = 1;
    } else if (!take(p, '*')) {
        return;
    }
    if (!p->failed)
        repeat(p, x, least, most);
    const uint32_t after = peek(p);
    if (after == '?')
        fail_at(p, p->next, "a lazy quantifier");
    else if (after == '+')
        fail_at(p, p->next, "a possessive quantifier");
    else if (after == '*' || after == '{')
        fail_at(p, p->next, "a quantifier after a quantifier");
}

// Then any text, read by a position that all alternatives share.
static void any_text(struct pattern *p, struct part *x, uint32_t position)
{
    struct part any = {.empty = true};
    grammar_list_add(&any.first, position);
    grammar_list_add(&any.last, position);
    follow(p, x, any);
}

// One alternative; an outermost one says by anchors where it begins and ends, else any text may stand there.
static struct part sequence(struct pattern *p, uint32_t depth)
{
    struct part all = nothing(p);
    bool anchored = depth > 0;
    if (depth == 0 && !take(p, '^'))
        any_text(p, &all, ANY_BEFORE);
    while (!p->failed && peek(p) != END && peek(p) != '|' && (peek(p) != ')' || depth == 0)) {
        const uint32_t after = p->points[p->next + 1];
        if (depth == 0 && peek(p) == '$' && (after == END || after == '|')) {
            p->next++;
            anchored = true;
            break;
        }
        if (peek(p) == ')') {
            fail_at(p, p->next, "a closing bracket without an opening one");
            break;
        }
        struct part x = atom(p, depth);
        quantified(p, &x);
        follow(p, &all, x);
    }
    if (!anchored)
        any_text(p, &all, ANY_AFTER);
    return all;
}

static struct part alternatives(struct pattern *p, uint32_t depth)
{
    struct part all = sequence(p, depth);
    while (!p->failed && take(p, '|'))
        either(&all, sequence(p, depth));
    return all;
}

static bool decode(struct pattern *p, const char *text)
{
    const size_t size = strlen(text);
    p->points = bg_alloc_array((size < POINTS_MAX ? size : POINTS_MAX) + 1, sizeof *p->points);
    for (size_t i = 0; i < size;) {
        const unsigned char byte = (unsigned char)text[i++];
        uint32_t point = byte < 0x80 ? byte : byte < 0xe0 ? byte & 31 : byte < 0xf0 ? byte & 15 : byte & 7;
        while (byte >= 0x80 && i < size && ((unsigned char)text[i] & 0xc0) == 0x80)
            point = point << 6 | ((unsigned char)text[i++] & 63);
        if (p->count == POINTS_MAX) {
            fail(p, "is longer than 2048 characters");
            return false;
        }
        p->points[p->count++] = point;
    }
    p->points[p->count] = END;
    return true;
}

// The automaton of a pattern; adds to *effort. False: *why says why not.
static bool read_pattern(const char *text, struct grammar_automaton *made, uint64_t *effort, char *why, size_t why_size)
{
    struct pattern p = {.why = why, .why_size = why_size};
    grammar_automaton_init(&p.made);
    for (uint32_t position = ANY_BEFORE; position <= ANY_AFTER; position++) {
        grammar_list_add(&p.made.reads, GRAMMAR_SET_ANY);
        add_edge(&p, position, position);
    }
    if (decode(&p, text)) {
        struct part begin = {.empty = true}, all = alternatives(&p, 0);
        grammar_list_add(&begin.last, BEGIN);
        follow(&p, &begin, all);
        append(&p.made.last, &begin.last, 0);
        part_fini(&begin);
    }
    bg_free(p.points);
    *made = p.made;
    *effort += p.effort;
    return !p.failed;
}

bool grammar_rule_of_pattern(struct grammar_text *g, const char *pattern, const char *also, uint32_t any,
                             uint32_t least, uint32_t most, char *why, size_t why_size, uint32_t *rule)
{
    struct grammar_automaton first = {0}, second = {0}, both = {0};
    const char *failure = NULL;
    bool good = read_pattern(pattern, &first, &g->pairs, why, why_size) &&
                (!also || read_pattern(also, &second, &g->pairs, why, why_size));
    if (good && also)
        failure = grammar_automaton_meet(&first, &second, &both, &g->pairs);
    if (good && !failure)
        failure = grammar_cross(g, also ? &both : &first, any, least, most, rule);
    if (failure)
        snprintf(why, why_size, "%s", failure);
    grammar_automaton_fini(&first);
    grammar_automaton_fini(&second);
    grammar_automaton_fini(&both);
    return good && !failure;
}
