// Growing strings, lists of strings, and the nearest word for "did you mean". All memory is bg_alloc's; a
// zeroed struct is a valid empty one.
#ifndef BASE_STR_H
#define BASE_STR_H

#include <stddef.h>

struct bg_str {
    char *data; // NUL-terminated once anything was added, NULL before
    size_t size, capacity;
};
void bg_str_add(struct bg_str *str, const char *text);
void bg_str_add_bytes(struct bg_str *str, const void *bytes, size_t size); // may hold NULs
void bg_str_addf(struct bg_str *str, const char *format, ...) __attribute__((format(printf, 2, 3)));
const char *bg_str_text(const struct bg_str *str); // never NULL
char *bg_str_take(struct bg_str *str);             // the text, bg_free it; leaves *str empty
void bg_str_reset(struct bg_str *str);             // empty, keeps the memory
void bg_str_fini(struct bg_str *str);

struct bg_strlist {
    char **items;
    size_t count, capacity;
};
void bg_strlist_add(struct bg_strlist *list, const char *text);
void bg_strlist_add_bytes(struct bg_strlist *list, const char *text, size_t size);
void bg_strlist_split(struct bg_strlist *list, const char *text, char separator); // "" adds one empty item
void bg_strlist_sort(struct bg_strlist *list);                                    // byte order
void bg_strlist_fini(struct bg_strlist *list);

// The candidate with the smallest edit distance to `word` (a swap of neighbours counts one, case counts
// nothing), or NULL where none is near enough to be what was meant. The first wins a tie.
const char *bg_nearest(const char *word, const char *const *candidates, size_t count);

#endif
