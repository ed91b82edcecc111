// Records, text and the well-known shapes of placements. What was read is checked by the same function as what was
// built; its size is bounded by PLAN_BLOCKS_MAX whatever the text.
#include "plan/schedule/placement.h"

#include "base/mem.h"
#include "base/str.h"

#include <stdbool.h>
#include <string.h>

uint32_t plan_placement_add(struct plan_placement *placement, const struct plan_block *block, const uint32_t *needs,
                            uint32_t need_count)
{
    const uint32_t at = placement->block_count++;
    placement->blocks = bg_realloc_array(placement->blocks, placement->block_count, sizeof *placement->blocks);
    struct plan_block *b = &placement->blocks[at];
    *b = *block;
    b->needs = bg_alloc_array(need_count ? need_count : 1, sizeof *b->needs);
    b->need_count = need_count;
    for (uint32_t n = 0; n < need_count; n++)
        b->needs[n] = needs[n];
    return at;
}

void plan_placement_fini(struct plan_placement *placement)
{
    for (uint32_t b = 0; b < placement->block_count; b++)
        bg_free(placement->blocks[b].needs);
    bg_free(placement->blocks);
    *placement = (struct plan_placement){0};
}

static bg_status check_block(const struct plan_placement *p, uint32_t at, struct bg_error *err)
{
    const struct plan_block *b = &p->blocks[at];
    const uint64_t all = p->devices == 64 ? UINT64_MAX : ((uint64_t)1 << p->devices) - 1;
    if (b->span < 1 || b->span > PLAN_BLOCK_SPAN_MAX)
        return bg_fail(err, BG_INVALID, "block %s: span %u, expected 1 to %d", b->name, b->span, PLAN_BLOCK_SPAN_MAX);
    if (b->memory < -PLAN_BLOCK_SPAN_MAX || b->memory > PLAN_BLOCK_SPAN_MAX)
        return bg_fail(err, BG_INVALID, "block %s: memory %d, expected -%d to %d", b->name, b->memory,
                       PLAN_BLOCK_SPAN_MAX, PLAN_BLOCK_SPAN_MAX);
    if (!b->devices || b->devices & ~all)
        return bg_fail(err, BG_INVALID, "block %s: expected devices from 0 to %u, at least one", b->name,
                       p->devices - 1);
    for (uint32_t n = 0; n < b->need_count; n++)
        if (b->needs[n] >= at)
            return bg_fail(err, BG_INVALID, "block %s needs one that does not stand before it", b->name);
    for (uint32_t o = 0; o < at; o++)
        if (strcmp(p->blocks[o].name, b->name) == 0)
            return bg_fail(err, BG_INVALID, "block %s is there twice", b->name);
    return BG_OK;
}

bg_status plan_placement_check(const struct plan_placement *p, struct bg_error *err)
{
    bg_status status = BG_OK;
    if (p->devices < 1 || p->devices > PLAN_DEVICES_MAX)
        return bg_fail(err, BG_INVALID, "%u devices, expected 1 to %d", p->devices, PLAN_DEVICES_MAX);
    if (p->block_count > PLAN_BLOCKS_MAX)
        return bg_fail(err, BG_INVALID, "%u blocks, expected at most %d", p->block_count, PLAN_BLOCKS_MAX);
    for (uint32_t b = 0; b < p->block_count && !status; b++)
        status = check_block(p, b, err);
    for (uint32_t d = 0; d < p->devices && !status; d++) {
        int64_t kept = 0;
        bool used = false;
        for (uint32_t b = 0; b < p->block_count; b++)
            if (p->blocks[b].devices >> d & 1)
                kept += p->blocks[b].memory, used = true;
        if (!used)
            status = bg_fail(err, BG_INVALID, "device %u has no block: use fewer devices", d);
        else if (kept != 0)
            status = bg_fail(err, BG_INVALID,
                             "device %u: a micro-batch leaves memory %lld behind, expected that its blocks sum to 0", d,
                             (long long)kept);
    }
    return status;
}

// ---- Text ----

struct words {
    const char *at, *end;
};

// The next word of a line, or false.
static bool next_word(struct words *line, struct words *word)
{
    while (line->at < line->end && (*line->at == ' ' || *line->at == '\t' || *line->at == '\r'))
        line->at++;
    word->at = line->at;
    while (line->at < line->end && *line->at != ' ' && *line->at != '\t' && *line->at != '\r')
        line->at++;
    word->end = line->at;
    return word->at < word->end;
}

static bool word_is(const struct words *word, const char *text)
{
    const size_t size = strlen(text);
    return (size_t)(word->end - word->at) == size && memcmp(word->at, text, size) == 0;
}

// The part of a list before the next comma, or false where nothing is left.
static bool next_part(struct words *list, struct words *part)
{
    if (list->at >= list->end)
        return false;
    const char *comma = memchr(list->at, ',', (size_t)(list->end - list->at));
    *part = (struct words){list->at, comma ? comma : list->end};
    list->at = comma ? comma + 1 : list->end;
    return true;
}

// A whole number of at most 9 digits, with a minus where `negative` allows.
static bool read_number(const struct words *word, bool negative, int32_t *value)
{
    const char *at = word->at;
    const bool minus = negative && at < word->end && *at == '-';
    int32_t sum = 0;
    at += minus;
    if (at >= word->end || word->end - at > 9)
        return false;
    for (; at < word->end; at++) {
        if (*at < '0' || *at > '9')
            return false;
        sum = sum * 10 + (*at - '0');
    }
    *value = minus ? -sum : sum;
    return true;
}

static int shown(const struct words *word)
{
    return word->end - word->at < 60 ? (int)(word->end - word->at) : 60;
}

static bg_status bad(uint32_t line, const struct words *word, const char *expected, struct bg_error *err)
{
    return bg_fail(err, BG_FORMAT, "line %u: \"%.*s\", expected %s", line, shown(word), word->at, expected);
}

static bg_status read_devices(struct words list, uint32_t line, struct bg_error *err, uint64_t *devices)
{
    struct words part, whole = list;
    while (next_part(&list, &part)) {
        int32_t device;
        if (!read_number(&part, false, &device) || device >= PLAN_DEVICES_MAX)
            return bad(line, &whole, "devices with commas between them, like 0,1", err);
        *devices |= (uint64_t)1 << device;
    }
    return BG_OK;
}

static bg_status read_needs(const struct plan_placement *p, struct words list, uint32_t line, struct bg_error *err,
                            uint32_t needs[PLAN_BLOCKS_MAX], uint32_t *count)
{
    struct words part;
    while (next_part(&list, &part)) {
        uint32_t b = 0;
        while (b < p->block_count && !word_is(&part, p->blocks[b].name))
            b++;
        if (b == p->block_count)
            return bad(line, &part, "the name of a block of a line above", err);
        bool known = false;
        for (uint32_t n = 0; n < *count; n++)
            known |= needs[n] == b;
        if (!known)
            needs[(*count)++] = b;
    }
    return BG_OK;
}

static bg_status read_block(struct plan_placement *p, struct words line, uint32_t number, struct bg_error *err)
{
    struct plan_block block = {0};
    uint32_t needs[PLAN_BLOCKS_MAX], need_count = 0;
    struct words key, value;
    int32_t span = 0;
    bg_status status = BG_OK;
    if (p->block_count >= PLAN_BLOCKS_MAX)
        return bg_fail(err, BG_FORMAT, "line %u: more than %d blocks", number, PLAN_BLOCKS_MAX);
    bool good = next_word(&line, &value) && value.end - value.at < PLAN_BLOCK_NAME_MAX;
    for (const char *c = value.at; good && c < value.end; c++)
        good = (unsigned char)*c > ' ' && (unsigned char)*c < 127 && *c != ','; // as JSON and pictures can tell it
    if (!good)
        return bad(number, &value, "a name of at most 31 characters, printable ASCII without commas", err);
    memcpy(block.name, value.at, (size_t)(value.end - value.at));
    while (next_word(&line, &key) && !status) {
        if (!next_word(&line, &value))
            return bad(number, &key, "a value behind it", err);
        if (word_is(&key, "span"))
            status = read_number(&value, false, &span) ? BG_OK : bad(number, &value, "a span", err);
        else if (word_is(&key, "memory"))
            status = read_number(&value, true, &block.memory) ? BG_OK : bad(number, &value, "memory", err);
        else if (word_is(&key, "devices"))
            status = read_devices(value, number, err, &block.devices);
        else if (word_is(&key, "after"))
            status = read_needs(p, value, number, err, needs, &need_count);
        else
            status = bad(number, &key, "span, memory, devices or after", err);
    }
    block.span = (uint32_t)span;
    if (status)
        return status;
    plan_placement_add(p, &block, needs, need_count);
    status = check_block(p, p->block_count - 1, err);
    return status ? bg_fail_prefix(err, "line %u", number) : BG_OK;
}

static bg_status read_header(struct plan_placement *p, struct words line, uint32_t number, struct bg_error *err)
{
    struct words version, key, count, rest;
    int32_t devices = 0;
    if (!next_word(&line, &version) || !word_is(&version, "1") || !next_word(&line, &key) ||
        !word_is(&key, "devices") || !next_word(&line, &count) || !read_number(&count, false, &devices) ||
        devices < 1 || devices > PLAN_DEVICES_MAX || next_word(&line, &rest))
        return bg_fail(err, BG_FORMAT, "line %u: expected \"placement 1 devices D\", D from 1 to %d", number,
                       PLAN_DEVICES_MAX);
    p->devices = (uint32_t)devices;
    return BG_OK;
}

bg_status plan_placement_parse(const char *text, size_t size, struct bg_error *err, struct plan_placement *placement)
{
    struct plan_placement p = {0};
    const char *end = text + size;
    bg_status status = BG_OK;
    for (uint32_t number = 1; text < end && !status; number++) {
        const char *newline = memchr(text, '\n', (size_t)(end - text));
        struct words line = {text, newline ? newline : end}, word;
        text = newline ? newline + 1 : end;
        if (!next_word(&line, &word) || *word.at == '#')
            continue;
        if (!p.devices)
            status = word_is(&word, "placement") ? read_header(&p, line, number, err)
                                                 : bad(number, &word, "\"placement 1 devices D\" first", err);
        else
            status = word_is(&word, "block") ? read_block(&p, line, number, err) : bad(number, &word, "block", err);
    }
    if (!status && !p.devices)
        status = bg_fail(err, BG_FORMAT, "no line \"placement 1 devices D\"");
    if (!status)
        status = plan_placement_check(&p, err);
    if (status) {
        plan_placement_fini(&p);
        if (err)
            err->status = BG_FORMAT; // what a text says is never the caller's fault
        return BG_FORMAT;
    }
    *placement = p;
    return BG_OK;
}

char *plan_placement_format(const struct plan_placement *p)
{
    struct bg_str text = {0};
    bg_str_addf(&text, "placement 1 devices %u\n", p->devices);
    for (uint32_t i = 0; i < p->block_count; i++) {
        const struct plan_block *b = &p->blocks[i];
        const char *comma = "";
        bg_str_addf(&text, "block %s span %u memory %d devices ", b->name, b->span, b->memory);
        for (uint32_t d = 0; d < p->devices; d++)
            if (b->devices >> d & 1) {
                bg_str_addf(&text, "%s%u", comma, d);
                comma = ",";
            }
        for (uint32_t n = 0; n < b->need_count; n++)
            bg_str_addf(&text, "%s%s", n ? "," : " after ", p->blocks[b->needs[n]].name);
        bg_str_add(&text, "\n");
    }
    return bg_str_take(&text);
}

// ---- Shapes ----

struct chain {
    struct plan_placement *p;
    int64_t last; // the block that the next one needs; -1: none
};

static void add_block(struct chain *c, const char *name, uint32_t span, int32_t memory, uint64_t devices)
{
    struct plan_block block = {.span = span, .memory = memory, .devices = devices};
    const uint32_t need = (uint32_t)c->last;
    memcpy(block.name, name, strlen(name) + 1);
    c->last = plan_placement_add(c->p, &block, &need, c->last >= 0);
}

static void add_everywhere(struct chain *c, const char *name, int32_t memory)
{
    add_block(c, name, 1, memory, c->p->devices == 64 ? UINT64_MAX : ((uint64_t)1 << c->p->devices) - 1);
}

struct way { // stage i of a chain runs on device at + i * step
    const char *name;
    uint32_t at;
    int32_t step;
};

// Stages [first, end) of a pass, from the last one back where `back` says so.
static void add_stages(struct chain *c, struct way way, uint32_t first, uint32_t end, bool back, uint32_t span,
                       int32_t memory)
{
    for (uint32_t i = first; i < end; i++) {
        const uint32_t stage = back ? end - 1 - (i - first) : i;
        char *name = bg_format("%s%u", way.name, stage);
        add_block(c, name, span, memory, (uint64_t)1 << ((int32_t)way.at + (int32_t)stage * way.step));
        bg_free(name);
    }
}

static void add_vshape(struct chain *c, uint32_t devices, uint32_t span_back)
{
    add_stages(c, (struct way){"f", 0, 1}, 0, devices, false, 1, 1);
    add_stages(c, (struct way){"b", 0, 1}, 0, devices, true, span_back, -1);
}

static void vshape(struct plan_placement *p)
{
    add_vshape(&(struct chain){p, -1}, p->devices, 3);
}

static void xshape(struct plan_placement *p)
{
    struct chain up = {p, -1};
    vshape(p);
    add_stages(&up, (struct way){"uf", p->devices - 1, -1}, 0, p->devices, false, 1, 1);
    add_stages(&up, (struct way){"ub", p->devices - 1, -1}, 0, p->devices, true, 3, -1);
}

static void mshape(struct plan_placement *p)
{
    struct chain c = {p, -1};
    add_everywhere(&c, "ef", 0);
    add_vshape(&c, p->devices, 3);
    add_everywhere(&c, "eb", 0);
}

static void nnshape(struct plan_placement *p)
{
    struct chain c = {p, -1};
    const uint32_t half = p->devices / 2;
    const struct way f = {"f", 0, 1}, b = {"b", 0, 1};
    add_everywhere(&c, "ef", 0);
    add_stages(&c, f, 0, half, false, 1, 1);
    add_everywhere(&c, "mf", 0);
    add_stages(&c, f, half, p->devices, false, 1, 1);
    add_stages(&c, b, p->devices - half, p->devices, true, 3, -1);
    add_everywhere(&c, "mb", 0);
    add_stages(&c, b, 0, p->devices - half, true, 3, -1);
    add_everywhere(&c, "eb", 0);
}

static void kshape(struct plan_placement *p)
{
    const uint32_t half = p->devices / 2;
    struct chain left = {p, -1}, right = {p, -1};
    add_stages(&left, (struct way){"xf", 0, 1}, 0, half, false, 1, 1);
    add_stages(&right, (struct way){"yf", half, 1}, 0, half, false, 1, 1);
    const struct plan_block loss = {"lf", 1, 1, ((uint64_t)1 << (p->devices - 1) << 1) - 1, NULL, 0};
    left.last = plan_placement_add(p, &loss, (const uint32_t[2]){(uint32_t)left.last, (uint32_t)right.last}, 2);
    add_everywhere(&left, "lb", -1);
    right = left;
    add_stages(&left, (struct way){"xb", 0, 1}, 0, half, true, 3, -1);
    add_stages(&right, (struct way){"yb", half, 1}, 0, half, true, 3, -1);
}

static void mllm(struct plan_placement *p)
{
    struct chain c = {p, -1};
    add_everywhere(&c, "ef", 0);
    add_stages(&c, (struct way){"f", 0, 1}, 0, p->devices, false, 1, 1);
    add_everywhere(&c, "hf", 0);
    add_everywhere(&c, "hb", 0);
    add_stages(&c, (struct way){"b", 0, 1}, 0, p->devices, true, 3, -1);
    add_everywhere(&c, "eb", 0);
}

static void finetune(struct plan_placement *p)
{
    struct chain c = {p, -1};
    add_everywhere(&c, "ef", 0);
    add_vshape(&c, p->devices, 2);
}

static void alphafold(struct plan_placement *p)
{
    struct chain c = {p, -1};
    add_stages(&c, (struct way){"p", 0, 1}, 0, p->devices, false, 1, 0);
    add_stages(&c, (struct way){"q", 0, 1}, 0, p->devices, false, 1, 0);
    add_stages(&c, (struct way){"f", 0, 1}, 0, p->devices, false, 1, 1);
    add_stages(&c, (struct way){"b", 0, 1}, 0, p->devices, true, 1, -1);
}

static const struct shape {
    const char *name;
    void (*build)(struct plan_placement *p);
    bool even; // an even number of devices
    uint32_t blocks_each, blocks_more;
} shapes[] = {
    {"vshape", vshape, false, 2, 0},     {"xshape", xshape, true, 4, 0},        {"mshape", mshape, false, 2, 2},
    {"nnshape", nnshape, false, 2, 4},   {"kshape", kshape, true, 2, 2},        {"mllm", mllm, false, 2, 4},
    {"finetune", finetune, false, 2, 1}, {"alphafold", alphafold, false, 4, 0},
};
enum { SHAPES = sizeof shapes / sizeof *shapes };

const char *plan_placement_shape_name(size_t index)
{
    return index < SHAPES ? shapes[index].name : NULL;
}

bg_status plan_placement_shape(const char *name, uint32_t devices, struct bg_error *err,
                               struct plan_placement *placement)
{
    const struct shape *shape = NULL;
    for (size_t s = 0; s < SHAPES; s++)
        if (strcmp(shapes[s].name, name) == 0)
            shape = &shapes[s];
    if (!shape)
        return bg_fail(err, BG_INVALID,
                       "\"%s\" is no placement: expected vshape, xshape, mshape, nnshape, kshape, mllm, finetune, "
                       "alphafold or a file",
                       name);
    const uint32_t fit = (PLAN_BLOCKS_MAX - shape->blocks_more) / shape->blocks_each;
    const uint32_t any = fit < PLAN_DEVICES_MAX ? fit : PLAN_DEVICES_MAX, most = shape->even ? any - any % 2 : any;
    if (devices < 1 || devices > most || (shape->even && devices % 2))
        return bg_fail(err, BG_INVALID, "%s on %u devices: expected %s number from %d to %u", name, devices,
                       shape->even ? "an even" : "a", shape->even ? 2 : 1, most);
    struct plan_placement p = {.devices = devices};
    shape->build(&p);
    *placement = p;
    return BG_OK;
}
