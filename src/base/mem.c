// Counted allocation and arenas. The only file that may call malloc and free: the count is what lets a test
// prove that a training step allocates nothing. An allocation that fails prints its size and aborts; memory
// that may legitimately be missing (tensors) comes from bg_env's reserve.
#include "base/mem.h"

#include "base/assert.h"

#include <stdarg.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static atomic_uint_fast64_t allocations;

static void *checked(void *memory, size_t count, size_t bytes_each)
{
    if (!memory) {
        fprintf(stderr, "out of memory: %zu x %zu bytes\n", count, bytes_each);
        abort();
    }
    atomic_fetch_add_explicit(&allocations, 1, memory_order_relaxed);
    return memory;
}

void *bg_alloc_array(size_t count, size_t bytes_each)
{
    size_t bytes = 0;
    if (__builtin_mul_overflow(count, bytes_each, &bytes))
        return checked(NULL, count, bytes_each);
    return checked(calloc(1, bytes ? bytes : 1), count, bytes_each);
}

void *bg_alloc(size_t bytes)
{
    return bg_alloc_array(1, bytes);
}

void *bg_realloc_array(void *memory, size_t count, size_t bytes_each)
{
    size_t bytes = 0;
    if (__builtin_mul_overflow(count, bytes_each, &bytes))
        return checked(NULL, count, bytes_each);
    return checked(realloc(memory, bytes ? bytes : 1), count, bytes_each);
}

void bg_free(void *memory)
{
    free(memory);
}

char *bg_strndup(const char *text, size_t size)
{
    size = strnlen(text, size);
    char *copy = bg_alloc_array(size + 1, 1);
    memcpy(copy, text, size);
    return copy;
}

char *bg_strdup(const char *text)
{
    return bg_strndup(text, strlen(text));
}

char *bg_format(const char *format, ...)
{
    va_list args;
    va_start(args, format);
    va_list again;
    va_copy(again, args);
    int length = vsnprintf(NULL, 0, format, args);
    va_end(args);
    BG_ASSERT(length >= 0);
    char *text = bg_alloc((size_t)length + 1);
    vsnprintf(text, (size_t)length + 1, format, again);
    va_end(again);
    return text;
}

uint64_t bg_mem_count(void)
{
    return atomic_load_explicit(&allocations, memory_order_relaxed);
}

void *bg_arena_take(struct bg_arena *arena, size_t bytes)
{
    uintptr_t start = (uintptr_t)arena->base + arena->used;
    size_t padding = (size_t)(-start & 63);
    size_t left = arena->size - arena->used;
    if (padding > left || bytes > left - padding)
        return NULL;
    uint8_t *memory = arena->base + arena->used + padding;
    arena->used += padding + bytes;
    return memory;
}
