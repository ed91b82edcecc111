// Canonical composition and decomposition of text, NFC and NFD (Unicode Standard Annex 15; Hangul by the arithmetic of
// the standard's section 3.12). Qwen2's tokenizer asks for NFC; nothing else here knows about Unicode.
#include "model/tokenizer_int.h"

#include "base/mem.h"
#include "model/tokenizer_unicode_table.h"

#include <stdlib.h>
#include <string.h>

enum {
    HANGUL = 0xac00,
    HANGUL_L = 0x1100,
    HANGUL_V = 0x1161,
    HANGUL_T = 0x11a7,
    L_COUNT = 19,
    V_COUNT = 21,
    T_COUNT = 28,
    HANGUL_COUNT = L_COUNT * V_COUNT * T_COUNT,
};

struct mark {
    uint32_t code, class;
    size_t index;
};
struct marks {
    struct mark *items;
    size_t count, capacity;
};

static uint32_t combining_class(uint32_t code)
{
    size_t low = 0, high = sizeof combining_ranges / sizeof *combining_ranges;
    while (low < high) {
        size_t middle = (low + high) / 2;
        if (code > combining_ranges[middle].end)
            low = middle + 1;
        else if (code < combining_ranges[middle].start)
            high = middle;
        else
            return combining_ranges[middle].class;
    }
    return 0;
}

static const struct decomposition *decomposition_of(uint32_t code)
{
    size_t low = 0, high = sizeof decompositions / sizeof *decompositions;
    while (low < high) {
        size_t middle = (low + high) / 2;
        if (code == decompositions[middle].code)
            return &decompositions[middle];
        if (code > decompositions[middle].code)
            low = middle + 1;
        else
            high = middle;
    }
    return NULL;
}

static uint32_t composition_of(uint32_t first, uint32_t second) // 0: none
{
    if (first - HANGUL_L < L_COUNT && second - HANGUL_V < V_COUNT)
        return HANGUL + ((first - HANGUL_L) * V_COUNT + (second - HANGUL_V)) * T_COUNT;
    if (first - HANGUL < HANGUL_COUNT && (first - HANGUL) % T_COUNT == 0 && second - HANGUL_T - 1 < T_COUNT - 1)
        return first + (second - HANGUL_T);
    size_t low = 0, high = sizeof compositions / sizeof *compositions;
    while (low < high) {
        size_t middle = (low + high) / 2;
        const struct decomposition *d = &decompositions[compositions[middle]];
        if (d->first == first && d->second == second)
            return d->code;
        if (d->first < first || (d->first == first && d->second < second))
            low = middle + 1;
        else
            high = middle;
    }
    return 0;
}

static void push(struct marks *marks, uint32_t code)
{
    if (marks->count == marks->capacity) {
        marks->capacity = marks->capacity ? 2 * marks->capacity : 256;
        marks->items = bg_realloc_array(marks->items, marks->capacity, sizeof *marks->items);
    }
    marks->items[marks->count] = (struct mark){code, combining_class(code), marks->count};
    marks->count++;
}

static void decompose(struct marks *marks, uint32_t code)
{
    uint32_t tail[8]; // a decomposition's first part decomposes again, at most a few times
    size_t count = 0;
    const struct decomposition *d;
    while (count < 8 && (d = decomposition_of(code)) != NULL) {
        code = d->first;
        if (d->second)
            tail[count++] = d->second;
    }
    if (code - HANGUL < HANGUL_COUNT) {
        uint32_t at = code - HANGUL;
        push(marks, HANGUL_L + at / (V_COUNT * T_COUNT));
        push(marks, HANGUL_V + at % (V_COUNT * T_COUNT) / T_COUNT);
        if (at % T_COUNT)
            push(marks, HANGUL_T + at % T_COUNT);
        return;
    }
    push(marks, code);
    while (count > 0)
        push(marks, tail[--count]);
}

static int by_class(const void *a, const void *b)
{
    const struct mark *x = a, *y = b;
    if (x->class != y->class)
        return x->class < y->class ? -1 : 1;
    return x->index < y->index ? -1 : x->index > y->index;
}

// Canonical order: runs of combining marks by class, equal classes as they came.
static void reorder(struct marks *marks)
{
    for (size_t i = 0; i < marks->count;) {
        size_t end = i;
        bool sorted = true;
        for (; end < marks->count && marks->items[end].class != 0; end++)
            sorted &= end == i || marks->items[end - 1].class <= marks->items[end].class;
        if (!sorted)
            qsort(marks->items + i, end - i, sizeof *marks->items, by_class);
        i = end + 1;
    }
}

static void recompose(struct marks *marks)
{
    size_t kept = 0, starter = SIZE_MAX;
    uint32_t last_class = 0;
    for (size_t i = 0; i < marks->count; i++) {
        struct mark mark = marks->items[i];
        bool reaches = starter != SIZE_MAX && (starter + 1 == kept || (last_class < mark.class && last_class != 0));
        uint32_t whole = reaches ? composition_of(marks->items[starter].code, mark.code) : 0;
        if (whole != 0) {
            marks->items[starter].code = whole;
            continue;
        }
        if (mark.class == 0)
            starter = kept;
        last_class = mark.class;
        marks->items[kept++] = mark;
    }
    marks->count = kept;
}

void unicode_normalize(const char *text, size_t size, bool compose, struct bg_str *out)
{
    uint8_t plain_below = compose ? 0xcc : 0xc3; // first byte of U+0300, U+00C0
    size_t i = 0;
    while (i < size && (uint8_t)text[i] < plain_below)
        i++;
    if (i == size) {
        bg_str_add_bytes(out, text, size);
        return;
    }
    struct marks marks = {0};
    for (size_t at = 0; at < size;) {
        size_t length = utf8_length(text + at, size - at);
        decompose(&marks, utf8_decode(text + at, length));
        at += length;
    }
    reorder(&marks);
    if (compose)
        recompose(&marks);
    for (size_t k = 0; k < marks.count; k++)
        utf8_append(out, marks.items[k].code);
    bg_free(marks.items);
}
