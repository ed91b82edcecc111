// Strings that grow, lists of them, and edit distance. Growth doubles, so adding is amortised constant; the
// distance works on fixed rows and gives up on words longer than any key we have.
#include "base/str.h"

#include "base/assert.h"
#include "base/mem.h"

#include <stdarg.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static void str_reserve(struct bg_str *str, size_t more)
{
    BG_ASSERT(more < SIZE_MAX / 4 && str->size < SIZE_MAX / 4);
    size_t needed = str->size + more + 1;
    if (needed <= str->capacity)
        return;
    size_t capacity = str->capacity ? 2 * str->capacity : 64;
    if (capacity < needed)
        capacity = needed;
    str->data = bg_realloc_array(str->data, capacity, 1);
    str->capacity = capacity;
}

void bg_str_add_bytes(struct bg_str *str, const void *bytes, size_t size)
{
    str_reserve(str, size);
    if (size)
        memcpy(str->data + str->size, bytes, size);
    str->size += size;
    str->data[str->size] = 0;
}

void bg_str_add(struct bg_str *str, const char *text)
{
    bg_str_add_bytes(str, text, strlen(text));
}

void bg_str_addf(struct bg_str *str, const char *format, ...)
{
    va_list args;
    va_start(args, format);
    va_list again;
    va_copy(again, args);
    int length = vsnprintf(NULL, 0, format, args);
    va_end(args);
    BG_ASSERT(length >= 0);
    str_reserve(str, (size_t)length);
    vsnprintf(str->data + str->size, (size_t)length + 1, format, again);
    va_end(again);
    str->size += (size_t)length;
}

const char *bg_str_text(const struct bg_str *str)
{
    return str->data ? str->data : "";
}

char *bg_str_take(struct bg_str *str)
{
    char *text = str->data ? str->data : bg_strdup("");
    *str = (struct bg_str){0};
    return text;
}

void bg_str_reset(struct bg_str *str)
{
    str->size = 0;
    if (str->data)
        str->data[0] = 0;
}

void bg_str_fini(struct bg_str *str)
{
    bg_free(str->data);
    *str = (struct bg_str){0};
}

void bg_strlist_add_bytes(struct bg_strlist *list, const char *text, size_t size)
{
    if (list->count == list->capacity) {
        list->capacity = list->capacity ? 2 * list->capacity : 8;
        list->items = bg_realloc_array(list->items, list->capacity, sizeof *list->items);
    }
    list->items[list->count++] = bg_strndup(text, size);
}

void bg_strlist_add(struct bg_strlist *list, const char *text)
{
    bg_strlist_add_bytes(list, text, strlen(text));
}

void bg_strlist_split(struct bg_strlist *list, const char *text, char separator)
{
    for (;;) {
        const char *end = strchr(text, separator);
        if (!end)
            break;
        bg_strlist_add_bytes(list, text, (size_t)(end - text));
        text = end + 1;
    }
    bg_strlist_add(list, text);
}

static int compare_items(const void *a, const void *b)
{
    return strcmp(*(char *const *)a, *(char *const *)b);
}

void bg_strlist_sort(struct bg_strlist *list)
{
    if (list->count > 1)
        qsort(list->items, list->count, sizeof *list->items, compare_items);
}

void bg_strlist_fini(struct bg_strlist *list)
{
    for (size_t i = 0; i < list->count; i++)
        bg_free(list->items[i]);
    bg_free(list->items);
    *list = (struct bg_strlist){0};
}

enum { WORD_MAX = 64 };

static char lower(char c)
{
    return c >= 'A' && c <= 'Z' ? (char)(c + 32) : c;
}

static size_t min3(size_t a, size_t b, size_t c)
{
    size_t m = a < b ? a : b;
    return m < c ? m : c;
}

// Damerau-Levenshtein in its restricted form (optimal string alignment), three rolling rows.
static size_t edit_distance(const char *a, const char *b)
{
    size_t rows = strlen(a), columns = strlen(b);
    size_t table[3][WORD_MAX + 1];
    for (size_t j = 0; j <= columns; j++)
        table[0][j] = j;
    for (size_t i = 1; i <= rows; i++) {
        size_t *row = table[i % 3], *above = table[(i + 2) % 3], *two_above = table[(i + 1) % 3];
        row[0] = i;
        for (size_t j = 1; j <= columns; j++) {
            size_t change = lower(a[i - 1]) != lower(b[j - 1]);
            row[j] = min3(above[j] + 1, row[j - 1] + 1, above[j - 1] + change);
            if (i > 1 && j > 1 && lower(a[i - 1]) == lower(b[j - 2]) && lower(a[i - 2]) == lower(b[j - 1]))
                row[j] = min3(row[j], row[j], two_above[j - 2] + 1);
        }
    }
    return table[rows % 3][columns];
}

const char *bg_nearest(const char *word, const char *const *candidates, size_t count)
{
    size_t length = strlen(word);
    if (length > WORD_MAX)
        return NULL;
    const char *best = NULL;
    size_t best_distance = length / 3 + 2; // farther than a third of the word is another word
    for (size_t i = 0; i < count; i++) {
        if (strlen(candidates[i]) > WORD_MAX)
            continue;
        size_t distance = edit_distance(word, candidates[i]);
        if (distance < best_distance && distance < length) {
            best = candidates[i];
            best_distance = distance;
        }
    }
    return best;
}
