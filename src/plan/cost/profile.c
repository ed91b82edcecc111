// Profiles as text and back, and from a graph of layers. What is written never varies: numbers are the shortest that
// read back the same. Memory is bounded by the size of the text and by the limits of profile.h.
#include "plan/cost/profile.h"

#include "base/mem.h"
#include "base/str.h"
#include "plan/split/graph.h"

#include <math.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { NUMBER_MAX = 63 }; // characters of a number

static const char *const unit_kinds[] = {"embed", "block", "head", "other"};
static const char *const link_kinds[] = {"inner", "outer"};

struct key {
    const char *name;
    size_t at; // of a double in its record
};
#define UNIT(f)                                                                                                        \
    {                                                                                                                  \
#f, offsetof(struct plan_unit, f)                                                                              \
    }
#define PROFILE(f)                                                                                                     \
    {                                                                                                                  \
#f, offsetof(struct plan_profile, f)                                                                           \
    }
#define LINK(f)                                                                                                        \
    {                                                                                                                  \
#f, offsetof(struct plan_link, f)                                                                              \
    }
#define MACHINE(f)                                                                                                     \
    {                                                                                                                  \
#f, offsetof(struct plan_machine, f)                                                                           \
    }
static const struct key unit_keys[] = {UNIT(forward_s),      UNIT(input_s),     UNIT(weight_s),  UNIT(parameter_bytes),
                                       UNIT(gradient_bytes), UNIT(stash_bytes), UNIT(cut_bytes), {0}};
static const struct key overhead_keys[] = {PROFILE(op_s),       PROFILE(message_s),     PROFILE(message_byte_s),
                                           PROFILE(commit_s),   PROFILE(step_byte_s),   PROFILE(reduce_byte_s),
                                           PROFILE(tie_bytes),  PROFILE(sharing),       PROFILE(disk_byte_s),
                                           PROFILE(work_bytes), PROFILE(process_bytes), {0}};
static const struct key link_keys[] = {LINK(latency_s), LINK(bytes_s), {0}};
static const struct key machine_keys[] = {
    MACHINE(speed),        {"memory", offsetof(struct plan_machine, memory_bytes)},
    {"host", SIZE_MAX}, // the one that is no double
    MACHINE(cores),        MACHINE(threads),
    MACHINE(quota),        MACHINE(period_s),
    MACHINE(dollars_hour), MACHINE(watts),
    MACHINE(idle_watts),   {0}};

void plan_profile_fini(struct plan_profile *profile)
{
    bg_free(profile->units);
    bg_free(profile->machines);
    *profile = (struct plan_profile){0};
}

// ---- Writing ----
static void add_number(struct bg_str *text, double value)
{
    char number[NUMBER_MAX + 1];
    for (int digits = 1; digits <= 17; digits++) {
        snprintf(number, sizeof number, "%.*g", digits, value);
        if (strtod(number, NULL) == value)
            break;
    }
    bg_str_addf(text, " %s", number);
}

static void add_fields(struct bg_str *text, const struct key *keys, const void *record, uint32_t host)
{
    for (; keys->name; keys++) {
        double value = host;
        if (keys->at != SIZE_MAX)
            memcpy(&value, (const char *)record + keys->at, sizeof value);
        bg_str_addf(text, " %s", keys->name);
        add_number(text, value);
    }
    bg_str_add(text, "\n");
}

char *plan_profile_format(const struct plan_profile *profile)
{
    struct bg_str text = {0};
    bg_str_add(&text, "profile 1\n");
    for (uint32_t u = 0; u < profile->unit_count; u++) {
        bg_str_addf(&text, "unit %s", unit_kinds[profile->units[u].kind]);
        add_fields(&text, unit_keys, &profile->units[u], 0);
    }
    bg_str_add(&text, "overhead");
    add_fields(&text, overhead_keys, profile, 0);
    bg_str_add(&text, "link inner");
    add_fields(&text, link_keys, &profile->inner, 0);
    bg_str_add(&text, "link outer");
    add_fields(&text, link_keys, &profile->outer, 0);
    for (uint32_t m = 0; m < profile->machine_count; m++) {
        const struct plan_machine *machine = &profile->machines[m];
        bg_str_addf(&text, "machine %s", machine->name);
        add_fields(&text, machine_keys, machine, machine->host);
    }
    return bg_str_take(&text);
}

// ---- Reading ----
struct reader {
    const char *at, *end; // what is left of the line
    const char *word;
    size_t word_size, line;
    struct bg_error *err;
    struct plan_profile profile;
    uint32_t unit_room, machine_room;
    bool overhead, links[2]; // was there
};

static bg_status expected(const struct reader *r, const char *what)
{
    const int size = r->word_size < 60 ? (int)r->word_size : 60;
    return bg_fail(r->err, BG_FORMAT, "line %zu: found %s%.*s%s, expected %s", r->line, size ? "\"" : "", size,
                   size ? r->word : "", size ? "\"" : "the end of the line", what);
}

static bool is_blank(char c)
{
    return c == ' ' || c == '\t' || c == '\r';
}

static bool next_word(struct reader *r)
{
    while (r->at < r->end && is_blank(*r->at))
        r->at++;
    r->word = r->at;
    while (r->at < r->end && !is_blank(*r->at))
        r->at++;
    r->word_size = (size_t)(r->at - r->word);
    return r->word_size > 0;
}

static bool word_is(const struct reader *r, const char *text)
{
    return r->word_size == strlen(text) && memcmp(r->word, text, r->word_size) == 0;
}

// Which of the names the next word is; `count` where it is none.
static uint32_t next_kind(struct reader *r, const char *const *names, uint32_t count)
{
    uint32_t kind = 0;
    next_word(r);
    while (kind < count && !word_is(r, names[kind]))
        kind++;
    return kind;
}

static bool next_number(struct reader *r, double *value)
{
    char copy[NUMBER_MAX + 1], *end;
    if (!next_word(r) || r->word_size > NUMBER_MAX)
        return false;
    for (size_t i = 0; i < r->word_size; i++)
        if (!memchr("0123456789.eE+-", r->word[i], 15))
            return false;
    memcpy(copy, r->word, r->word_size);
    copy[r->word_size] = '\0';
    *value = strtod(copy, &end);
    return !*end && *value >= 0 && *value <= PLAN_PROFILE_NUMBER_MAX;
}

// Pairs of key and number up to the end of the line.
static bg_status read_fields(struct reader *r, const struct key *keys, void *record, uint32_t *host)
{
    uint64_t seen = 0;
    while (next_word(r)) {
        uint32_t k = 0;
        double value = 0;
        while (keys[k].name && !word_is(r, keys[k].name))
            k++;
        if (!keys[k].name || seen >> k & 1) {
            struct bg_str names = {0};
            bg_str_add(&names, keys[k].name ? "each key once:" : "one of");
            for (uint32_t i = 0; keys[i].name; i++)
                bg_str_addf(&names, " %s", keys[i].name);
            bg_status status = expected(r, bg_str_text(&names));
            bg_str_fini(&names);
            return status;
        }
        seen |= (uint64_t)1 << k;
        if (!next_number(r, &value)) {
            char what[80];
            snprintf(what, sizeof what, "a number from 0 to 1e18 behind %s", keys[k].name);
            return expected(r, what);
        }
        if (keys[k].at != SIZE_MAX)
            memcpy((char *)record + keys[k].at, &value, sizeof value);
        else if (value <= UINT32_MAX && value == floor(value))
            *host = (uint32_t)value;
        else
            return expected(r, "the number of a host");
    }
    return BG_OK;
}

static bg_status read_unit(struct reader *r)
{
    struct plan_profile *p = &r->profile;
    struct plan_unit unit = {.kind = next_kind(r, unit_kinds, 4)};
    if (unit.kind > PLAN_UNIT_OTHER)
        return expected(r, "embed, block, head or other");
    if (p->unit_count == PLAN_PROFILE_UNITS_MAX)
        return bg_fail(r->err, BG_UNSUPPORTED, "line %zu: more than %d units", r->line, PLAN_PROFILE_UNITS_MAX);
    bg_status status = read_fields(r, unit_keys, &unit, NULL);
    if (status)
        return status;
    if (p->unit_count == r->unit_room) {
        r->unit_room = r->unit_room ? 2 * r->unit_room : 16;
        p->units = bg_realloc_array(p->units, r->unit_room, sizeof *p->units);
    }
    p->units[p->unit_count++] = unit;
    return BG_OK;
}

static bg_status read_machine(struct reader *r)
{
    struct plan_profile *p = &r->profile;
    struct plan_machine machine = {.speed = 1, .threads = 1};
    if (!next_word(r) || r->word_size >= PLAN_NAME_MAX)
        return expected(r, "a machine's name of at most 63 bytes");
    for (size_t i = 0; i < r->word_size; i++)
        if ((unsigned char)r->word[i] <= ' ' ||
            (unsigned char)r->word[i] >= 127) // neither JSON nor a picture could tell it
            return bg_fail(r->err, BG_FORMAT, "line %zu: a machine's name of other than printable ASCII", r->line);
    memcpy(machine.name, r->word, r->word_size);
    if (p->machine_count == PLAN_PROFILE_MACHINES_MAX)
        return bg_fail(r->err, BG_UNSUPPORTED, "line %zu: more than %d machines", r->line, PLAN_PROFILE_MACHINES_MAX);
    bg_status status = read_fields(r, machine_keys, &machine, &machine.host);
    if (status)
        return status;
    if (machine.speed <= 0 || machine.threads <= 0)
        return bg_fail(r->err, BG_FORMAT, "line %zu: machine %s: speed and threads must be more than 0", r->line,
                       machine.name);
    if (machine.quota > 1 || (machine.quota > 0 && machine.period_s <= 0))
        return bg_fail(r->err, BG_FORMAT, "line %zu: machine %s: a quota is at most 1, of a period_s of more than 0",
                       r->line, machine.name);
    if (p->machine_count == r->machine_room) {
        r->machine_room = r->machine_room ? 2 * r->machine_room : 16;
        p->machines = bg_realloc_array(p->machines, r->machine_room, sizeof *p->machines);
    }
    p->machines[p->machine_count++] = machine;
    return BG_OK;
}

static bg_status once(const struct reader *r, bool *was)
{
    if (*was)
        return bg_fail(r->err, BG_FORMAT, "line %zu: this record stands further up already", r->line);
    *was = true;
    return BG_OK;
}

static bg_status read_record(struct reader *r)
{
    bg_status status = BG_OK;
    if (word_is(r, "unit"))
        return read_unit(r);
    if (word_is(r, "machine"))
        return read_machine(r);
    if (word_is(r, "overhead")) {
        status = once(r, &r->overhead);
        return status ? status : read_fields(r, overhead_keys, &r->profile, NULL);
    }
    if (word_is(r, "link")) {
        const uint32_t kind = next_kind(r, link_kinds, 2);
        if (kind == 2)
            return expected(r, "inner or outer");
        status = once(r, &r->links[kind]);
        return status ? status : read_fields(r, link_keys, kind ? &r->profile.outer : &r->profile.inner, NULL);
    }
    return expected(r, "unit, overhead, link or machine");
}

// Parts of a step that takes no time mean nothing; a table that two units share is in the bytes of both.
static bg_status check_units(const struct plan_profile *profile, struct bg_error *err)
{
    const uint32_t last = profile->unit_count ? profile->unit_count - 1 : 0;
    double seconds = 0;
    if (last > 0 && profile->tie_bytes > fmin(profile->units[0].parameter_bytes, profile->units[last].parameter_bytes))
        return bg_fail(err, BG_FORMAT,
                       "tie_bytes %g: expected at most the parameter_bytes of the first unit and of the last (%g and "
                       "%g), which share that table",
                       profile->tie_bytes, profile->units[0].parameter_bytes, profile->units[last].parameter_bytes);
    for (uint32_t u = 0; u < profile->unit_count; u++)
        seconds += profile->units[u].forward_s + profile->units[u].input_s + profile->units[u].weight_s;
    if (profile->unit_count == 0 || seconds >= 1e-12)
        return BG_OK;
    return bg_fail(err, BG_FORMAT, "no unit takes any time: expected a forward_s, input_s or weight_s of more than 0");
}

bg_status plan_profile_parse(const char *text, size_t size, struct bg_error *err, struct plan_profile *profile)
{
    struct reader r = {.err = err};
    bg_status status = BG_OK;
    bool begun = false;
    for (size_t at = 0; at < size && !status;) {
        const char *stop = memchr(text + at, '\n', size - at);
        r.line++;
        r.at = text + at;
        r.end = stop ? stop : text + size;
        at = (size_t)(r.end - text) + 1;
        if (!next_word(&r) || *r.word == '#')
            continue;
        if (begun) {
            status = read_record(&r);
        } else if (!word_is(&r, "profile") || !next_word(&r) || !word_is(&r, "1") || next_word(&r)) {
            status = expected(&r, "\"profile 1\" as the first line");
        }
        begun = true;
    }
    if (!status && !begun)
        status = bg_fail(err, BG_FORMAT, "no line in this profile, expected \"profile 1\" as the first one");
    if (!status)
        status = check_units(&r.profile, err);
    if (status)
        plan_profile_fini(&r.profile);
    else
        *profile = r.profile;
    return status;
}

// ---- From a graph ----
void plan_profile_from_graph(const struct plan_graph *graph, struct plan_profile *profile)
{
    const uint32_t count = graph->node_count;
    uint32_t *order = bg_alloc_array(count + 1, sizeof *order), *first, *readers;
    uint32_t *place = bg_alloc_array(count + 1, sizeof *place);
    struct plan_unit *units = bg_alloc_array(count + 1, sizeof *units);
    plan_graph_order(graph, order);
    plan_graph_readers(graph, &first, &readers);
    for (uint32_t i = 0; i < count; i++)
        place[order[i]] = i;
    for (uint32_t i = 0; i < count; i++) {
        const struct plan_graph_node *node = &graph->nodes[order[i]];
        units[i].kind = PLAN_UNIT_OTHER;
        units[i].forward_s = node->forward_ms / 1000;
        units[i].input_s = units[i].weight_s = node->backward_ms / 2000;
        units[i].parameter_bytes = node->parameter_bytes;
        units[i].stash_bytes = node->activation_bytes;
        uint32_t last = i; // who reads it last
        for (uint32_t k = first[order[i]]; k < first[order[i] + 1]; k++)
            last = place[readers[k]] > last ? place[readers[k]] : last;
        for (uint32_t k = i; k < last || (k == i && i + 1 == count); k++)
            units[k].cut_bytes += node->activation_bytes;
    }
    bg_free(order);
    bg_free(place);
    bg_free(first);
    bg_free(readers);
    *profile = (struct plan_profile){.units = units, .unit_count = count};
}
