// What a peer of the shared-memory transport may write: messages, raw slots, and whole rings of slots that are nearly
// right. Whatever is delivered must be readable to its last byte.
#include "base/mem.h"
#include "comm/shm/shm_int.h"

#include <string.h>

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static bg_status fuzz_reserve(struct bg_env *env, size_t bytes, struct bg_error *err, void **memory)
{
    (void)env;
    if (bytes > 8 << 20)
        return bg_fail(err, BG_NO_MEMORY, "no");
    *memory = bg_alloc(bytes);
    return BG_OK;
}

static void fuzz_release(struct bg_env *env, void *memory, size_t bytes)
{
    (void)env;
    (void)bytes;
    bg_free(memory);
}

static void decode(const uint8_t *data, size_t size)
{
    struct bg_error err;
    struct shm_message message;
    uint8_t out[SHM_SLOT_BYTES];
    for (unsigned fds = 0; fds < 3; fds++) {
        if (shm_message_decode(data, size, fds, &err, &message) || message.kind == SHM_MESSAGE_BEAT)
            continue;
        shm_message_encode(&message, out);
        if (memcmp(data, out, SHM_MESSAGE_BYTES) != 0)
            __builtin_trap();
    }
    struct shm_slot slot;
    if (size >= SHM_SLOT_BYTES && !shm_slot_decode(data, data[0], &err, &slot))
        shm_slot_encode(&slot, data[0], out);
}

// Twelve bytes a slot: kind, arena, offset in quarter pages, frame kind, bytes, where it is damaged and how.
static uint64_t forge(struct shm_ring *ring, const uint8_t *data, size_t size)
{
    uint64_t count = size / 12;
    for (uint64_t i = 0; i < count && i < SHM_SLOTS; i++, data += 12) {
        struct shm_slot slot = {.kind = (enum shm_slot_kind)(data[0] % 4),
                                .arena = data[1] % 3,
                                .at = ((uint64_t)data[2] << 8 | data[3]) * 4,
                                .frame = {.kind = data[4] % (WIRE_KIND_COUNT + 1),
                                          .from = data[5] % 2,
                                          .bytes = (uint64_t)data[6] << 16 | (uint64_t)data[7] << 8 | data[8]}};
        shm_slot_encode(&slot, i, ring->slots[i]);
        ring->slots[i][data[9] % SHM_SLOT_BYTES] ^= data[10];
    }
    return count;
}

static void receive(const uint8_t *data, size_t size)
{
    static const struct bg_env_ops ops = {.reserve = fuzz_reserve, .release = fuzz_release};
    struct bg_env env = {.ops = &ops, .threads = 1};
    struct shm *shm = bg_alloc(sizeof *shm);
    shm->comm.env = &env;
    uint8_t *memory = bg_alloc(sizeof(struct shm_ring) + 8192), *arena = bg_alloc(8192); // of `ring` its first page
    struct shm_ring *ring = (struct shm_ring *)(((uintptr_t)memory + 4095) & ~(uintptr_t)4095);
    atomic_store(&ring->head, forge(ring, data, size));
    // As after its end: no socket is asked. The second reference keeps the arena from being unmapped.
    struct shm_remote *remote = bg_alloc(sizeof *remote);
    *remote = (struct shm_remote){.references = 2, .memory = arena, .bytes = 8192};
    struct shm_link *link = bg_alloc(sizeof *link);
    *link = (struct shm_link){.state = SHM_ENDED,
                              .peer = 1,
                              .peer_before = COMM_UNKNOWN,
                              .theirs = ring,
                              .ring = ring + 1,
                              .their_event = -1,
                              .remotes = bg_alloc(sizeof remote),
                              .remote_count = 1};
    link->remotes[0] = remote;
    struct comm_event event = {0};
    while (shm_receive(shm, link, &event)) {
        if (event.frame.bytes)
            (void)wire_check(event.payload, event.frame.bytes);
        if (event.handle)
            shm_release(shm, event.handle);
    }
    shm_buffer_put(shm, link->partial);
    shm_memory_fini(shm);
    bg_free(link->remotes);
    bg_free(link);
    bg_free(remote);
    bg_free(arena);
    bg_free(memory);
    bg_free(shm);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    decode(data, size);
    receive(data, size);
    return 0;
}
