// The endpoint's memory: arenas that peers may map, and the pool of buffers for payloads that are copied.
#include "comm/shm/shm_int.h"

#include "base/assert.h"
#include "base/mem.h"

#include <string.h>

// ---- Arenas ----

// Index of the first arena whose end lies behind `memory`.
static uint32_t arena_position(const struct shm *shm, const void *memory)
{
    uint32_t low = 0, high = shm->arena_count;
    while (low < high) {
        uint32_t middle = low + (high - low) / 2;
        const struct shm_arena *arena = &shm->arenas[middle];
        if ((uintptr_t)memory >= (uintptr_t)arena->memory + arena->bytes)
            low = middle + 1;
        else
            high = middle;
    }
    return low;
}

const struct shm_arena *shm_arena_at(const struct shm *shm, const void *payload, size_t bytes)
{
    uint32_t position = arena_position(shm, payload);
    if (position == shm->arena_count)
        return NULL;
    const struct shm_arena *arena = &shm->arenas[position];
    uintptr_t start = (uintptr_t)payload, base = (uintptr_t)arena->memory;
    if (start < base || bytes > arena->bytes - (start - base))
        return NULL;
    return arena;
}

const struct shm_arena *shm_arena_find(const struct shm *shm, uint32_t id)
{
    for (uint32_t i = 0; i < shm->arena_count; i++)
        if (shm->arenas[i].id == id)
            return &shm->arenas[i];
    return NULL;
}

bg_status shm_reserve(struct shm *shm, size_t bytes, struct bg_error *err, void **memory)
{
    if (shm->arena_count == SHM_ARENAS_MAX)
        return bg_fail(err, BG_FULL, "reserving %zu bytes for peers: %d reservations are there already", bytes,
                       SHM_ARENAS_MAX);
    struct shm_arena arena = {.bytes = ((bytes ? bytes : 1) + 4095) & ~(size_t)4095};
    void *base = NULL;
    bg_status status = os_shared_create("brigade-arena", arena.bytes, err, &arena.fd, &base);
    if (status)
        return status;
    arena.memory = base;
    while (shm->arena_used[shm->next_arena % SHM_ARENAS_MAX / 64] >> shm->next_arena % 64 & 1)
        shm->next_arena++;
    arena.id = shm->next_arena++;
    shm->arena_used[arena.id % SHM_ARENAS_MAX / 64] |= UINT64_C(1) << arena.id % 64;
    uint32_t position = arena_position(shm, base);
    memmove(&shm->arenas[position + 1], &shm->arenas[position], (shm->arena_count - position) * sizeof *shm->arenas);
    shm->arenas[position] = arena;
    shm->arena_count++;
    *memory = base;
    return BG_OK;
}

void shm_unreserve(struct shm *shm, void *memory)
{
    if (!memory)
        return;
    uint32_t position = arena_position(shm, memory);
    BG_ASSERT(position < shm->arena_count && shm->arenas[position].memory == memory);
    struct shm_arena arena = shm->arenas[position];
    for (uint32_t i = 0; i < shm->link_count; i++)
        shm_forget_arena(shm, shm->active[i], &arena);
    shm->arena_count--;
    memmove(&shm->arenas[position], &shm->arenas[position + 1], (shm->arena_count - position) * sizeof *shm->arenas);
    shm->arena_used[arena.id % SHM_ARENAS_MAX / 64] &= ~(UINT64_C(1) << arena.id % 64);
    os_shared_unmap(arena.memory, arena.bytes);
    os_fd_close(arena.fd);
}

// ---- Buffers ----

enum { CLASS_MIN = 8, CLASS_RESERVED = 16 }; // below: from the heap; from here on: pages, whose lack is an error

static size_t buffer_bytes(unsigned size_class)
{
    return ((size_t)1 << size_class) + 64 + sizeof(struct shm_buffer);
}

struct shm_buffer *shm_buffer_get(struct shm *shm, size_t bytes)
{
    unsigned size_class = CLASS_MIN;
    while (((size_t)1 << size_class) < bytes)
        size_class++;
    BG_ASSERT(size_class < SHM_CLASSES);
    struct shm_buffer *buffer = shm->pool[size_class];
    if (buffer) {
        shm->pool[size_class] = buffer->next;
        return buffer;
    }
    void *memory = NULL;
    struct bg_env *env = shm->comm.env;
    if (size_class < CLASS_RESERVED)
        memory = bg_alloc(buffer_bytes(size_class));
    else if (env->ops->reserve(env, buffer_bytes(size_class), NULL, &memory))
        return NULL;
    buffer = memory;
    *buffer = (struct shm_buffer){.holding = {.is_buffer = true}, .size_class = size_class};
    buffer->data = (uint8_t *)(((uintptr_t)(buffer + 1) + 63) & ~(uintptr_t)63);
    return buffer;
}

void shm_buffer_put(struct shm *shm, struct shm_buffer *buffer)
{
    if (!buffer)
        return;
    buffer->next = shm->pool[buffer->size_class];
    shm->pool[buffer->size_class] = buffer;
}

void shm_memory_fini(struct shm *shm)
{
    while (shm->arena_count)
        shm_unreserve(shm, shm->arenas[shm->arena_count - 1].memory);
    struct bg_env *env = shm->comm.env;
    for (unsigned c = 0; c < SHM_CLASSES; c++) {
        for (struct shm_buffer *buffer = shm->pool[c], *next; buffer; buffer = next) {
            next = buffer->next;
            if (c < CLASS_RESERVED)
                bg_free(buffer);
            else
                env->ops->release(env, buffer, buffer_bytes(c));
        }
        shm->pool[c] = NULL;
    }
}
