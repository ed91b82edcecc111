// What a peer hands over, as bytes: slots of its ring and messages on the socket. Pure decoders that believe nothing;
// what they let pass still has to be compared with the link's state (receive.c). Native byte order: one host.
#ifndef COMM_SHM_CODEC_H
#define COMM_SHM_CODEC_H

#include "wire/frame.h"

#include <stdbool.h>

enum {
    SHM_VERSION = 1,
    SHM_SLOTS = 256, // of a ring; a power of two
    SHM_SLOT_BYTES = 128,
    SHM_CHUNK_BYTES = 4096, // of payload beside each slot
    SHM_COPIED_MAX = 64 << 20,
    SHM_MESSAGE_BYTES = 32,
    SHM_BEAT = 0x42, // the whole of a beat
};

enum shm_slot_kind {
    SHM_SLOT_COPY = 1, // the next chunk of the frame's payload lies beside the slot
    SHM_SLOT_ARENA,    // the payload lies in an arena of the sender
    SHM_SLOT_FORGET,   // an arena that no later slot uses
};
struct shm_slot {
    enum shm_slot_kind kind;
    uint32_t arena; // ARENA, FORGET
    uint64_t at;    // ARENA: offset in it. COPY: payload bytes in the slots before
    struct wire_frame frame;
};
// `position`: of the slot in the stream, from 0.
void shm_slot_encode(const struct shm_slot *slot, uint64_t position, uint8_t out[SHM_SLOT_BYTES]);
BG_MUST_USE bg_status shm_slot_decode(const uint8_t in[SHM_SLOT_BYTES], uint64_t position, struct bg_error *err,
                                      struct shm_slot *slot);
// Payload bytes beside a COPY slot.
static inline size_t shm_slot_chunk(const struct shm_slot *slot)
{
    uint64_t left = slot->frame.bytes - slot->at;
    return left < SHM_CHUNK_BYTES ? (size_t)left : SHM_CHUNK_BYTES;
}

enum shm_message_kind {
    SHM_MESSAGE_BEAT,
    SHM_MESSAGE_HELLO, // with two descriptors: the ring, the event that wakes the sender
    SHM_MESSAGE_ARENA, // with one: the memory
};
struct shm_message {
    enum shm_message_kind kind;
    uint32_t arena;
    uint64_t bytes; // of the ring or arena
};
void shm_message_encode(const struct shm_message *message, uint8_t out[SHM_MESSAGE_BYTES]);
BG_MUST_USE bg_status shm_message_decode(const uint8_t *in, size_t size, unsigned fd_count, struct bg_error *err,
                                         struct shm_message *message);

#endif
