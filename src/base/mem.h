// Memory: counted malloc for start-up objects, and arenas. The steady state of training allocates nothing;
// bg_mem_count() lets a test prove it.
#ifndef BASE_MEM_H
#define BASE_MEM_H

#include <stddef.h>
#include <stdint.h>

// Never return NULL: out of memory prints what was asked for and aborts. Use for small objects; tensors come
// from bg_env's reserve, which reports BG_NO_MEMORY.
void *bg_alloc(size_t bytes);                          // zeroed
void *bg_alloc_array(size_t count, size_t bytes_each); // zeroed, overflow-checked
void *bg_realloc_array(void *memory, size_t count, size_t bytes_each);
void bg_free(void *memory);
char *bg_strdup(const char *text);
char *bg_strndup(const char *text, size_t size);
char *bg_format(const char *format, ...) __attribute__((format(printf, 1, 2))); // malloc'd; bg_free it
uint64_t bg_mem_count(void); // allocations made by this process so far

// An arena over memory of the caller. Passed by value as scratch: what the callee takes is gone on return.
struct bg_arena {
    uint8_t *base;
    size_t size, used;
};

// 64-byte aligned; NULL when it does not fit.
void *bg_arena_take(struct bg_arena *arena, size_t bytes);

#endif
