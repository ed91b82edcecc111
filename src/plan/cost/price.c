// Price lists: text to rows, rows to machines.
#include "plan/cost/price.h"

#include "base/mem.h"

#include <stdlib.h>
#include <string.h>

enum { NUMBER_MAX = 63 };

void plan_prices_fini(struct plan_prices *prices)
{
    bg_free(prices->rows);
    *prices = (struct plan_prices){0};
}

static bool is_blank(char c)
{
    return c == ' ' || c == '\t' || c == '\r';
}

// The line without comment and blanks at its ends.
static void trim(const char **line, size_t *size)
{
    const char *comment = memchr(*line, '#', *size);
    *size = comment ? (size_t)(comment - *line) : *size;
    while (*size && is_blank((*line)[*size - 1]))
        --*size;
    while (*size && is_blank(**line)) {
        ++*line;
        --*size;
    }
}

// The name at the beginning of the line; moves the line behind it. False: none, or none that is a name.
static bool take_name(const char **line, size_t *size, struct plan_price *price)
{
    const char quote = **line == '"' || **line == '\'' ? **line : '\0';
    const char *text = *line + (quote != '\0');
    const char *const end = *line + *size;
    const char *stop = text;
    while (stop < end && (quote ? *stop != quote : !is_blank(*stop)))
        stop++;
    *line = stop + (quote && stop < end);
    if (quote && stop == end)
        return false;
    if (quote && *line < end && **line == ':')
        ++*line;
    else if (!quote && stop > text && stop[-1] == ':')
        stop--;
    if (*line < end && !is_blank(**line))
        return false;
    *size = (size_t)(end - *line);
    size_t length = (size_t)(stop - text);
    if (length && text[length - 1] == '*') {
        price->beginning = true;
        length--;
    } else if (!length) {
        return false;
    }
    if (length >= PLAN_NAME_MAX)
        return false;
    for (size_t i = 0; i < length; i++)
        if ((unsigned char)text[i] <= ' ' || text[i] == 127)
            return false;
    memcpy(price->name, text, length);
    return true;
}

static bool take_number(const char *line, size_t size, double *value)
{
    char copy[NUMBER_MAX + 1], *end;
    trim(&line, &size);
    if (size == 0 || size > NUMBER_MAX)
        return false;
    for (size_t i = 0; i < size; i++)
        if (!memchr("0123456789.eE+-", line[i], 15))
            return false;
    memcpy(copy, line, size);
    copy[size] = '\0';
    *value = strtod(copy, &end);
    return !*end && *value >= 0 && *value <= PLAN_PROFILE_NUMBER_MAX;
}

static int compare(const void *a, const void *b)
{
    const struct plan_price *x = a, *y = b;
    const int names = strcmp(x->name, y->name);
    return names ? names : x->beginning - y->beginning;
}

// Sorted by name, so that a name that stands twice stands beside itself.
static bg_status sort(struct plan_prices *prices, struct bg_error *err)
{
    if (prices->count)
        qsort(prices->rows, prices->count, sizeof *prices->rows, compare);
    for (size_t i = 1; i < prices->count; i++)
        if (compare(&prices->rows[i - 1], &prices->rows[i]) == 0)
            return bg_fail(err, BG_FORMAT, "the price of %s%s stands there twice: keep one of them",
                           prices->rows[i].name, prices->rows[i].beginning ? "*" : "");
    return BG_OK;
}

bg_status plan_prices_parse(const char *text, size_t size, struct bg_error *err, struct plan_prices *prices)
{
    struct plan_prices made = {0};
    size_t room = 0, number = 0;
    bg_status status = BG_OK;
    for (size_t at = 0; at < size && !status;) {
        const char *line = text + at, *stop = memchr(line, '\n', size - at);
        size_t length = stop ? (size_t)(stop - line) : size - at;
        struct plan_price price = {0};
        at += length + 1;
        number++;
        trim(&line, &length);
        if (length == 0)
            continue;
        const char *whole = line;
        const int shown = length < 60 ? (int)length : 60;
        if (!take_name(&line, &length, &price) || !take_number(line, length, &price.dollars_hour)) {
            status = bg_fail(err, BG_FORMAT,
                             "line %zu: found \"%.*s\", expected NAME DOLLARS_AN_HOUR, a name without blanks and at "
                             "most 1e18 dollars",
                             number, shown, whole);
        } else if (made.count == PLAN_PRICES_MAX) {
            status = bg_fail(err, BG_UNSUPPORTED, "line %zu: more than %d prices", number, PLAN_PRICES_MAX);
        } else {
            if (made.count == room) {
                room = room ? 2 * room : 16;
                made.rows = bg_realloc_array(made.rows, room, sizeof *made.rows);
            }
            made.rows[made.count++] = price;
        }
    }
    if (!status)
        status = sort(&made, err);
    if (status)
        plan_prices_fini(&made);
    else
        *prices = made;
    return status;
}

static const struct plan_price *find(const struct plan_prices *prices, const char *name)
{
    const struct plan_price *best = NULL;
    for (size_t i = 0; i < prices->count; i++) {
        const struct plan_price *p = &prices->rows[i];
        if (!p->beginning && strcmp(p->name, name) == 0)
            return p;
        if (p->beginning && strncmp(p->name, name, strlen(p->name)) == 0 &&
            (!best || strlen(p->name) > strlen(best->name)))
            best = p;
    }
    return best;
}

bg_status plan_prices_apply(const struct plan_prices *prices, struct bg_error *err, struct plan_profile *profile)
{
    for (uint32_t m = 0; m < profile->machine_count; m++)
        if (!find(prices, profile->machines[m].name))
            return bg_fail(err, BG_INVALID, "no price for machine %s: add a line \"%s DOLLARS_AN_HOUR\"",
                           profile->machines[m].name, profile->machines[m].name);
    for (uint32_t m = 0; m < profile->machine_count; m++)
        profile->machines[m].dollars_hour = find(prices, profile->machines[m].name)->dollars_hour;
    return BG_OK;
}
