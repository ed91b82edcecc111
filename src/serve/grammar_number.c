// Numbers between bounds, digit by digit: rules that follow how long what was written still agrees with the digits of
// the lower and of the upper bound. Bounds are what the schema writes in decimals, so what is written keeps them for
// readers that round to double as well: rounding keeps the order, and where a bound itself is not allowed all digits
// together are so few that no two numbers become one double.
#include "serve/grammar_number.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { WHOLE_MAX = 16, PART_MAX = 16, EXACT_DIGITS = 15, DECIMAL_MAX = 40 };

struct decimal {
    bool there, negative, open; // open: it is not allowed itself
    bool no_double;             // a whole number that none is
    char whole[DECIMAL_MAX];    // digits before the point, at least one
    char part[DECIMAL_MAX];     // after it; no zeros at the end
};
// Of numbers without a sign: what is written agrees with the digits of a bound as long as it is `tight`.
struct range {
    struct grammar_text *g;
    const struct decimal *low, *high;
    uint32_t room;                                   // digits after the point; 0: whole numbers
    uint32_t some[PART_MAX + 1], all[WHOLE_MAX + 1]; // rules: at most n digits; n digits, then a part or none
};
struct tight {
    bool low, high;
};

static uint32_t digit(struct grammar_text *g, uint32_t first, uint32_t last)
{
    struct grammar_range range = {'0' + first, '0' + last};
    return grammar_rule_of_ranges(g, &range, 1, false);
}

// Where nothing is tight.
static void make_free_rules(struct range *r)
{
    struct grammar_text *g = r->g;
    struct grammar_sequence s = {0};
    const uint32_t any = digit(g, 0, 9);
    for (uint32_t n = 0; n <= WHOLE_MAX || n <= PART_MAX; n++) {
        r->some[n] = grammar_rule_new(g);
        r->all[n] = grammar_rule_new(g);
        grammar_add_alternative(g, r->some[n], &s);
        for (int part = 0; part < 2 && n > 0; part++) {
            grammar_add_rule(&s, any);
            grammar_add_rule(&s, part ? r->some[n - 1] : r->all[n - 1]);
            grammar_add_alternative(g, part ? r->some[n] : r->all[n], &s);
        }
    }
    grammar_add_alternative(g, r->all[0], &s);
    if (r->room > 0) {
        grammar_add_text(g, &s, ".", 1);
        grammar_add_rule(&s, any);
        grammar_add_rule(&s, r->some[r->room - 1]);
        grammar_add_alternative(g, r->all[0], &s);
    }
}

static uint32_t digit_at(const char *digits, uint32_t i)
{
    return i < strlen(digits) ? (uint32_t)(digits[i] - '0') : 0;
}

// Alternatives of what comes next: for the digits from first to last, where they stay tight and where they are free.
typedef uint32_t (*next_fn)(const struct range *r, uint32_t i, uint32_t length, struct tight tight);

struct choice {
    uint32_t rule, count; // count: of alternatives
};

static void add_choice(struct grammar_text *g, struct choice *c, uint32_t first, uint32_t last, uint32_t next)
{
    struct grammar_sequence s = {0};
    if (next == GRAMMAR_NO_RULE)
        return;
    grammar_add_rule(&s, digit(g, first, last));
    grammar_add_rule(&s, next);
    grammar_add_alternative(g, c->rule, &s);
    c->count++;
}

static void add_digits(const struct range *r, struct choice *c, struct tight tight, uint32_t low, uint32_t high,
                       uint32_t i, uint32_t length, next_fn next)
{
    if (low > high)
        return;
    if (low == high && tight.low && tight.high) {
        add_choice(r->g, c, low, low, next(r, i + 1, length, tight));
        return;
    }
    if (tight.low)
        add_choice(r->g, c, low, low, next(r, i + 1, length, (struct tight){.low = true}));
    if (tight.high)
        add_choice(r->g, c, high, high, next(r, i + 1, length, (struct tight){.high = true}));
    const uint32_t first = low + tight.low, end = high + !tight.high;
    if (first < end)
        add_choice(r->g, c, first, end - 1, next(r, i + 1, length, (struct tight){0}));
}

static uint32_t finished(struct grammar_text *g, const struct choice *c)
{
    struct grammar_sequence none = {0};
    if (c->count > 0)
        return c->rule;
    grammar_add_alternative(g, c->rule, &none); // nobody uses it
    return GRAMMAR_NO_RULE;
}

// Whether the number may end where i digits of the part were written.
static bool may_end(const struct range *r, uint32_t i, struct tight tight)
{
    const bool above = !tight.low || (i >= strlen(r->low->part) && !r->low->open);
    const bool below = !tight.high || i < strlen(r->high->part) || !r->high->open;
    return above && below;
}

// Digits after the point, from the i-th on.
static uint32_t part_rule(const struct range *r, uint32_t i, uint32_t length, struct tight tight)
{
    struct grammar_sequence none = {0};
    struct choice c = {.rule = GRAMMAR_NO_RULE};
    if (!tight.low && !tight.high)
        return r->some[r->room - i];
    c.rule = grammar_rule_new(r->g);
    if (i > 0 && may_end(r, i, tight)) {
        grammar_add_alternative(r->g, c.rule, &none);
        c.count++;
    }
    if (i < r->room)
        add_digits(r, &c, tight, tight.low ? digit_at(r->low->part, i) : 0, tight.high ? digit_at(r->high->part, i) : 9,
                   i, length, part_rule);
    return finished(r->g, &c);
}

static uint32_t after_whole(const struct range *r, struct tight tight)
{
    struct grammar_sequence s = {0};
    struct choice c = {.rule = grammar_rule_new(r->g)};
    if (may_end(r, 0, tight)) {
        grammar_add_alternative(r->g, c.rule, &s);
        c.count++;
    }
    const uint32_t part = r->room > 0 ? part_rule(r, 0, 0, tight) : GRAMMAR_NO_RULE;
    if (part != GRAMMAR_NO_RULE) {
        grammar_add_text(r->g, &s, ".", 1);
        grammar_add_rule(&s, part);
        grammar_add_alternative(r->g, c.rule, &s);
        c.count++;
    }
    return finished(r->g, &c);
}

// Digits before the point, from the i-th of `length` on.
static uint32_t whole_rule(const struct range *r, uint32_t i, uint32_t length, struct tight tight)
{
    const uint32_t first = i == 0 && length > 1;
    if (!tight.low && !tight.high && !first)
        return r->all[length - i];
    if (i == length)
        return after_whole(r, tight);
    struct choice c = {.rule = grammar_rule_new(r->g)};
    add_digits(r, &c, tight, tight.low ? digit_at(r->low->whole, i) : first,
               tight.high ? digit_at(r->high->whole, i) : 9, i, length, whole_rule);
    return finished(r->g, &c);
}

// All numbers between low and high as alternatives of *c, each after `sign`.
static void add_range(struct range *r, const char *sign, struct choice *c)
{
    const uint32_t shortest = (uint32_t)strlen(r->low->whole);
    const uint32_t longest = r->high->there ? (uint32_t)strlen(r->high->whole) : WHOLE_MAX;
    for (uint32_t length = shortest; length <= longest; length++) {
        const struct tight tight = {.low = length == shortest, .high = r->high->there && length == longest};
        const uint32_t rule = whole_rule(r, 0, length, tight);
        if (rule == GRAMMAR_NO_RULE)
            continue;
        struct grammar_sequence s = {0};
        grammar_add_text(r->g, &s, sign, strlen(sign));
        grammar_add_rule(&s, rule);
        grammar_add_alternative(r->g, c->rule, &s);
        c->count++;
    }
}

// ---- Bounds ----
static const json_int_t DOUBLE_WHOLE = (json_int_t)1 << 53; // up to here all whole numbers are doubles

// The digits of the shortest decimal that reads as the value. Beyond what is ever written the power does not matter.
static void set_digits(struct decimal *d, const json_t *value)
{
    enum { POWER_LEAST = -20, POWER_MOST = 30 };
    char text[DECIMAL_MAX], digits[DECIMAL_MAX] = "";
    const double number = json_number_value(value);
    if (json_is_integer(value)) {
        snprintf(text, sizeof text, "%" JSON_INTEGER_FORMAT, json_integer_value(value));
        d->negative = *text == '-';
        d->no_double = json_integer_value(value) > DOUBLE_WHOLE || json_integer_value(value) < -DOUBLE_WHOLE;
        snprintf(d->whole, sizeof d->whole, "%s", text + d->negative);
        return;
    }
    for (int precision = 0; precision <= 17; precision++) {
        snprintf(text, sizeof text, "%.*e", precision, number);
        if (strtod(text, NULL) == number)
            break;
    }
    size_t count = 0, written = 0;
    const char *from = text + (*text == '-');
    for (; *from != 'e'; from++)
        if (*from != '.')
            digits[count++] = *from;
    long power = strtol(from + 1, NULL, 10);
    power = power < POWER_LEAST ? POWER_LEAST : power > POWER_MOST ? POWER_MOST : power;
    d->negative = number < 0;
    snprintf(d->whole, sizeof d->whole, "0");
    for (long i = 0; i <= power; i++)
        d->whole[i] = (size_t)i < count ? digits[i] : '0';
    for (long i = -1; i > power; i--)
        d->part[written++] = '0';
    for (size_t i = power < 0 ? 0 : (size_t)power + 1; i < count; i++)
        d->part[written++] = digits[i];
    while (written > 0 && d->part[written - 1] == '0')
        d->part[--written] = '\0';
}

static int compare(const struct decimal *a, const struct decimal *b)
{
    const size_t x = strlen(a->whole), y = strlen(b->whole);
    int order = x != y ? (x > y) - (x < y) : strcmp(a->whole, b->whole);
    if (a->negative != b->negative)
        return a->negative ? -1 : 1;
    if (order == 0)
        order = strcmp(a->part, b->part);
    return a->negative ? -order : order;
}

// The tighter one of the bounds that two words name; false: one of them is no number.
static bool bound_of(const json_t *schema, bool upper, struct decimal *bound)
{
    static const char *const words[2][2] = {{"minimum", "exclusiveMinimum"}, {"maximum", "exclusiveMaximum"}};
    for (int open = 0; open < 2; open++) {
        const json_t *value = json_object_get(schema, words[upper][open]);
        struct decimal d = {.there = true, .open = open};
        if (!value)
            continue;
        if (!json_is_number(value))
            return false;
        set_digits(&d, value);
        const int order = bound->there ? compare(&d, bound) : 0;
        if (!bound->there || (upper ? order <= 0 : order >= 0))
            *bound = d;
    }
    return true;
}

// Leaves out a bound beyond what is ever written; false: nothing that is written keeps it.
static bool keep_near(struct decimal *bound, bool upper)
{
    if (!bound->there || strlen(bound->whole) <= WHOLE_MAX)
        return true;
    bound->there = false;
    return bound->negative != upper;
}

// Few enough digits after the point that what is written is read neither as the bound nor as what lies beyond it;
// false: it has too many itself.
static bool keep_apart(const struct decimal *bound, uint32_t *room)
{
    const size_t whole = strlen(bound->whole), part = *room > 0 ? strlen(bound->part) : 0;
    if (bound->there && bound->no_double) // a number with a point could be rounded beyond it
        *room = 0;
    if (!bound->there || !bound->open)
        return true;
    if (whole + part > EXACT_DIGITS)
        return false;
    if (*room > EXACT_DIGITS - whole)
        *room = (uint32_t)(EXACT_DIGITS - whole);
    return true;
}

const char *grammar_rule_of_number(struct grammar_text *g, const json_t *schema, bool whole, uint32_t *rule)
{
    const struct decimal zero = {.there = true, .whole = "0"}, above_zero = {.there = true, .open = true, .whole = "0"};
    struct decimal low = {0}, high = {0};
    struct range r = {.g = g, .room = whole ? 0 : PART_MAX};
    if (!bound_of(schema, false, &low) || !bound_of(schema, true, &high))
        return "\"minimum\", \"maximum\", \"exclusiveMinimum\", \"exclusiveMaximum\": expected numbers";
    if (!keep_near(&low, false) || !keep_near(&high, true))
        return "no number of at most 16 digits is between \"minimum\" and \"maximum\"";
    if (!keep_apart(&low, &r.room) || !keep_apart(&high, &r.room))
        return "\"exclusiveMinimum\", \"exclusiveMaximum\": more than 15 digits are not supported";
    make_free_rules(&r);
    struct choice c = {.rule = grammar_rule_new(g)};
    if (!high.there || !high.negative) {
        r.low = low.there && !low.negative ? &low : &zero;
        r.high = &high;
        add_range(&r, "", &c);
    }
    if (!low.there || low.negative) { // without a minus before nothing but zeros
        r.low = high.there && high.negative ? &high : &above_zero;
        r.high = &low;
        add_range(&r, "-", &c);
    }
    *rule = finished(g, &c);
    return c.count > 0 ? NULL : "no number is between \"minimum\" and \"maximum\"";
}
