// Reading traces. Nothing here believes a file: every value has its type and range checked. Entries out of order are
// put in order and counted, and so is what contradicts the events before it.
#include "plan/spot/trace.h"

#include "base/json.h"
#include "base/mem.h"

#include <stdlib.h>
#include <string.h>
#include <strings.h>

static const char *const kinds[] = {"counts", "events", "requests"};

const char *plan_trace_kind_name(enum plan_trace_kind kind)
{
    return kinds[kind];
}

void plan_trace_fini(struct plan_trace *trace)
{
    bg_free(trace->counts);
    bg_free(trace->events);
    bg_free(trace->requests);
    bg_strlist_fini(&trace->nodes);
    *trace = (struct plan_trace){0};
}

// ---- Counts ----

static bg_status take_counts(const json_t *data, const char *name, struct bg_error *err, uint32_t *counts)
{
    size_t i;
    const json_t *value;
    json_array_foreach(data, i, value)
    {
        const json_int_t count = json_integer_value(value);
        if (!json_is_integer(value) || count < 0 || count > UINT32_MAX)
            return bg_fail(err, BG_FORMAT, "%s: data[%zu]: expected how many instances there were, a whole number",
                           name, i);
        counts[i] = (uint32_t)count;
    }
    return BG_OK;
}

static bg_status read_counts(const char *name, const char *text, size_t size, struct bg_error *err,
                             struct plan_trace *trace)
{
    json_t *root = NULL, *metadata = NULL, *data = NULL;
    bg_status status = bg_json_parse(name, text, size, err, &root);
    if (!status)
        status = bg_json_object(root, name, "metadata", err, &metadata);
    if (!status)
        status = bg_json_number(metadata, name, "gap_seconds", err, &trace->gap_s);
    if (!status)
        status = bg_json_array(root, name, "data", err, &data);
    if (!status && !(trace->gap_s >= 1e-3 && trace->gap_s <= 1e9))
        status = bg_fail(err, BG_FORMAT, "%s: metadata.gap_seconds is %g: expected 0.001 to 1e9 seconds", name,
                         trace->gap_s);
    trace->kind = PLAN_TRACE_COUNTS;
    trace->count = json_array_size(data);
    if (!status && (!trace->count || trace->count > PLAN_TRACE_MAX))
        status =
            bg_fail(err, BG_FORMAT, "%s: data has %zu entries: expected 1 to %d", name, trace->count, PLAN_TRACE_MAX);
    if (!status) {
        trace->counts = bg_alloc_array(trace->count, sizeof *trace->counts);
        status = take_counts(data, name, err, trace->counts);
    }
    json_decref(root);
    // A key that is missing is a fault of the file's form; BG_NOT_FOUND would say that there is no file.
    return status == BG_NOT_FOUND ? (err->status = BG_FORMAT) : status;
}

// ---- Lines ----

struct view {
    const char *data;
    size_t size;
};

struct entry { // of a file of lines; in the order of (at, line) once sorted
    int64_t at;
    size_t line;
    struct view node;
    uint32_t id, second; // node and whether it is added; tokens
};

enum column { WHEN, PROMPT, GENERATED, COLUMNS };

struct lines {
    const char *name;
    size_t columns[COLUMNS], width; // of requests: where each stands in a line, and how many fields that has
    struct entry *entries;
    size_t count, capacity;
};

static struct view take_line(struct view *text)
{
    const char *end = memchr(text->data, '\n', text->size);
    struct view line = {text->data, end ? (size_t)(end - text->data) : text->size};
    const size_t used = line.size + (end != NULL);
    text->data += used;
    text->size -= used;
    if (line.size && line.data[line.size - 1] == '\r')
        line.size--;
    return line;
}

// The text up to the next comma, or all of it; leaves what follows the comma.
static struct view take_field(struct view *line)
{
    const char *comma = memchr(line->data, ',', line->size);
    const struct view field = {line->data, comma ? (size_t)(comma - line->data) : line->size};
    const size_t used = field.size + (comma != NULL);
    line->data += used;
    line->size -= used;
    return field;
}

static bool is(struct view view, const char *word)
{
    return view.size == strlen(word) && memcmp(view.data, word, view.size) == 0;
}

// No control characters: a name that cannot end a line, and looks like what it is.
static bool is_printable(struct view view)
{
    for (size_t i = 0; i < view.size; i++)
        if ((unsigned char)view.data[i] < 32 || view.data[i] == 127)
            return false;
    return true;
}

static bool take_number(struct view field, uint64_t max, uint64_t *number)
{
    *number = 0;
    for (size_t i = 0; i < field.size; i++) {
        if (field.data[i] < '0' || field.data[i] > '9' || *number > max / 10)
            return false;
        *number = *number * 10 + (uint64_t)(field.data[i] - '0');
    }
    return field.size > 0 && *number <= max;
}

static int by_time(const void *a, const void *b)
{
    const struct entry *x = a, *y = b;
    return x->at != y->at ? (x->at < y->at ? -1 : 1) : (x->line > y->line) - (x->line < y->line);
}

static void put_in_order(struct lines *lines, struct plan_trace *trace)
{
    int64_t latest = INT64_MIN;
    for (size_t i = 0; i < lines->count; i++) {
        if (lines->entries[i].at < latest && !trace->moved++)
            trace->moved_line = lines->entries[i].line;
        latest = lines->entries[i].at > latest ? lines->entries[i].at : latest;
    }
    if (trace->moved)
        qsort(lines->entries, lines->count, sizeof *lines->entries, by_time);
}

typedef bool (*take_entry_fn)(const struct lines *lines, struct view line, struct entry *entry);

static bg_status read_lines(struct lines *lines, struct view text, size_t line, take_entry_fn take,
                            const char *expected, struct bg_error *err)
{
    for (; text.size; line++) {
        const struct view one = take_line(&text);
        if (!one.size)
            continue;
        struct entry entry = {.line = line};
        if (!take(lines, one, &entry))
            return bg_fail(err, BG_FORMAT, "%s:%zu: expected \"%s\", found \"%.*s\"", lines->name, line, expected,
                           one.size > 60 ? 60 : (int)one.size, one.data);
        if (lines->count == PLAN_TRACE_MAX)
            return bg_fail(err, BG_FORMAT, "%s:%zu: more than %d entries", lines->name, line, PLAN_TRACE_MAX);
        if (lines->count == lines->capacity) {
            lines->capacity = lines->capacity ? 2 * lines->capacity : 256;
            lines->entries = bg_realloc_array(lines->entries, lines->capacity, sizeof *lines->entries);
        }
        lines->entries[lines->count++] = entry;
    }
    return lines->count ? BG_OK : bg_fail(err, BG_FORMAT, "%s: no entries", lines->name);
}

// ---- Events ----

#define MS_MAX ((uint64_t)1000000000000000) // 30,000 years

static bool take_event(const struct lines *lines, struct view line, struct entry *entry)
{
    (void)lines;
    uint64_t ms = 0;
    const bool good = take_number(take_field(&line), MS_MAX, &ms);
    const struct view what = take_field(&line);
    entry->at = (int64_t)ms;
    entry->second = is(what, "add");
    entry->node = line;
    return good && (entry->second || is(what, "remove")) && line.size && !memchr(line.data, ',', line.size) &&
           is_printable(line);
}

static int by_node(const void *a, const void *b)
{
    const struct entry *x = *(const struct entry *const *)a, *y = *(const struct entry *const *)b;
    const size_t least = x->node.size < y->node.size ? x->node.size : y->node.size;
    const int order = memcmp(x->node.data, y->node.data, least);
    if (order)
        return order;
    if (x->node.size != y->node.size)
        return x->node.size < y->node.size ? -1 : 1;
    return (x > y) - (x < y);
}

// Numbers the nodes in the order in which they first appear.
static void number_nodes(struct lines *lines, struct plan_trace *trace)
{
    const struct entry **sorted = bg_alloc_array(lines->count, sizeof *sorted);
    for (size_t i = 0; i < lines->count; i++)
        sorted[i] = &lines->entries[i];
    qsort(sorted, lines->count, sizeof *sorted, by_node);
    for (size_t i = 0, first = 0; i < lines->count; i++) { // the entry where each node appears first
        const struct view a = sorted[first]->node, b = sorted[i]->node;
        if (a.size != b.size || memcmp(a.data, b.data, a.size) != 0)
            first = i;
        lines->entries[sorted[i] - lines->entries].id = (uint32_t)(sorted[first] - lines->entries);
    }
    bg_free(sorted);
    for (size_t i = 0; i < lines->count; i++) {
        struct entry *entry = &lines->entries[i];
        if (entry->id == i) {
            entry->id = (uint32_t)trace->nodes.count;
            bg_strlist_add_bytes(&trace->nodes, entry->node.data, entry->node.size);
        } else {
            entry->id = lines->entries[entry->id].id;
        }
    }
}

static void keep_events(struct lines *lines, struct plan_trace *trace)
{
    number_nodes(lines, trace);
    bool *there = bg_alloc_array(trace->nodes.count, sizeof *there);
    trace->kind = PLAN_TRACE_EVENTS;
    trace->events = bg_alloc_array(lines->count, sizeof *trace->events);
    for (size_t i = 0; i < lines->count; i++) {
        const struct entry *entry = &lines->entries[i];
        if (there[entry->id] == (entry->second != 0)) {
            if (!trace->dropped++)
                trace->dropped_line = entry->line;
            continue;
        }
        there[entry->id] = !there[entry->id];
        trace->events[trace->count++] = (struct plan_trace_event){(uint64_t)entry->at, entry->id, there[entry->id]};
    }
    bg_free(there);
}

// ---- Requests ----

static bool take_digits(struct view *text, size_t digits, char end, uint32_t *number)
{
    uint64_t value = 0;
    const struct view field = {text->data, digits};
    if (text->size < digits || !take_number(field, UINT32_MAX, &value))
        return false;
    text->data += digits;
    text->size -= digits;
    *number = (uint32_t)value;
    if (!end)
        return true;
    if (!text->size || *text->data != end)
        return false;
    text->data++;
    text->size--;
    return true;
}

// Days from 1970-01-01, of the calendar that we have; a year begins in March, so that a leap day is its last.
static int64_t days_of(uint32_t year, uint32_t month, uint32_t day)
{
    const int64_t y = (int64_t)year - (month <= 2), m = month > 2 ? month - 3 : month + 9;
    return 365 * y + y / 4 - y / 100 + y / 400 + (153 * m + 2) / 5 + (int64_t)day - 1 - 719468;
}

// "2023-11-16 18:17:03.9799600", with a T or a blank between, and UTC said or not.
static bool take_time(struct view text, int64_t *at_ns)
{
    uint32_t year, month, day, hour, minute, second;
    if (text.size > 10 && text.data[10] != 'T' && text.data[10] != ' ')
        return false;
    if (!take_digits(&text, 4, '-', &year) || !take_digits(&text, 2, '-', &month) ||
        !take_digits(&text, 2, text.size > 2 ? text.data[2] : ' ', &day) || !take_digits(&text, 2, ':', &hour) ||
        !take_digits(&text, 2, ':', &minute) || !take_digits(&text, 2, 0, &second))
        return false;
    if (year < 1970 || year > 2200 || month < 1 || month > 12 || day < 1 || day > 31 || hour > 23 || minute > 59 ||
        second > 60)
        return false;
    int64_t ns = 0;
    if (text.size && *text.data == '.') {
        int64_t unit = 100000000;
        for (text.data++, text.size--; text.size && *text.data >= '0' && *text.data <= '9'; text.data++, text.size--) {
            ns += (*text.data - '0') * unit;
            unit /= 10;
        }
    }
    if (text.size && !is(text, "Z") && !is(text, "+00:00"))
        return false;
    *at_ns = (((days_of(year, month, day) * 24 + hour) * 60 + minute) * 60 + second) * 1000000000 + ns;
    return true;
}

// Seconds from anywhere: "12", "12.5".
static bool take_seconds(struct view text, int64_t *at_ns)
{
    uint64_t seconds = 0;
    size_t digits = 0;
    while (digits < text.size && text.data[digits] != '.')
        digits++;
    if (!take_number((struct view){text.data, digits}, 5000000000, &seconds))
        return false;
    int64_t unit = 1000000000, ns = 0;
    for (size_t i = digits + 1; i < text.size; i++) {
        if (text.data[i] < '0' || text.data[i] > '9')
            return false;
        unit /= 10;
        ns += (text.data[i] - '0') * unit;
    }
    *at_ns = (int64_t)seconds * 1000000000 + ns;
    return true;
}

static bool take_request(const struct lines *lines, struct view line, struct entry *entry)
{
    uint64_t prompt = 0, generated = 0;
    uint32_t good = 0;
    size_t at = 0;
    for (; line.size; at++) {
        const struct view field = take_field(&line);
        if (at == lines->columns[WHEN])
            good += take_time(field, &entry->at) || take_seconds(field, &entry->at);
        else if (at == lines->columns[PROMPT])
            good += take_number(field, UINT32_MAX, &prompt);
        else if (at == lines->columns[GENERATED])
            good += take_number(field, UINT32_MAX, &generated);
    }
    entry->id = (uint32_t)prompt;
    entry->second = (uint32_t)generated;
    return good == COLUMNS && at == lines->width;
}

static bool is_either(struct view view, const char *word, const char *other)
{
    const char *const words[] = {word, other};
    for (size_t w = 0; w < 2; w++)
        if (view.size == strlen(words[w]) && strncasecmp(view.data, words[w], view.size) == 0)
            return true;
    return false;
}

// Whether a line names the columns of requests, as Azure's traces or as BurstGPT's do; others may stand between them.
static bool names_columns(struct view line, struct lines *lines)
{
    uint32_t found = 0;
    for (size_t at = 0; line.size; at++, lines->width++) {
        const struct view field = take_field(&line);
        const int column = is_either(field, "TIMESTAMP", "TIMESTAMP")               ? WHEN
                           : is_either(field, "ContextTokens", "Request tokens")    ? PROMPT
                           : is_either(field, "GeneratedTokens", "Response tokens") ? GENERATED
                                                                                    : COLUMNS;
        if (column == COLUMNS)
            continue;
        if (found & 1u << column)
            return false;
        found |= 1u << column;
        lines->columns[column] = at;
    }
    return found == (1u << COLUMNS) - 1;
}

static void keep_requests(const struct lines *lines, struct plan_trace *trace)
{
    trace->kind = PLAN_TRACE_REQUESTS;
    trace->count = lines->count;
    trace->requests = bg_alloc_array(lines->count, sizeof *trace->requests);
    for (size_t i = 0; i < lines->count; i++)
        trace->requests[i] =
            (struct plan_trace_request){lines->entries[i].at, lines->entries[i].id, lines->entries[i].second};
}

bg_status plan_trace_parse(const char *name, const void *text, size_t size, struct bg_error *err,
                           struct plan_trace *trace)
{
    struct plan_trace read = {0};
    if (size >= 3 && memcmp(text, "\xef\xbb\xbf", 3) == 0) { // a byte order mark
        text = (const char *)text + 3;
        size -= 3;
    }
    struct view rest = {text, size};
    while (rest.size && strchr(" \t\r\n", *rest.data)) {
        rest.data++;
        rest.size--;
    }
    bg_status status;
    if (rest.size && *rest.data == '{') {
        status = read_counts(name, text, size, err, &read);
    } else {
        struct lines lines = {.name = name};
        rest = (struct view){text, size};
        struct view after = rest;
        const bool requests = names_columns(take_line(&after), &lines);
        status = requests
                     ? read_lines(&lines, after, 2, take_request,
                                  "YYYY-MM-DD HH:MM:SS.F (or seconds),tokens,tokens as the first line names them", err)
                     : read_lines(&lines, rest, 1, take_event, "ms,add|remove,node", err);
        if (!status)
            put_in_order(&lines, &read);
        if (!status && requests)
            keep_requests(&lines, &read);
        else if (!status)
            keep_events(&lines, &read);
        bg_free(lines.entries);
    }
    if (status)
        plan_trace_fini(&read);
    else
        *trace = read;
    return status;
}
