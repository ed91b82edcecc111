// Slots and messages as bytes. One encoding for each: unused fields are zero and are refused when they are not.
#include "comm/shm/codec.h"

#include <inttypes.h>
#include <string.h>

// A slot: position, kind, arena, at, the frame's header, zeros. A message: kind, version, the two sizes that both sides
// must agree on, arena, zero, bytes.
struct slot_bytes {
    uint64_t position;
    uint32_t kind, arena;
    uint64_t at;
    uint8_t frame[WIRE_FRAME_BYTES];
    uint8_t zero[24];
};
struct message_bytes {
    uint32_t kind, version, slots, chunk;
    uint32_t arena, zero;
    uint64_t bytes;
};
_Static_assert(sizeof(struct slot_bytes) == SHM_SLOT_BYTES, "layout of a slot");
_Static_assert(sizeof(struct message_bytes) == SHM_MESSAGE_BYTES, "layout of a message");

void shm_slot_encode(const struct shm_slot *slot, uint64_t position, uint8_t out[SHM_SLOT_BYTES])
{
    struct slot_bytes bytes = {
        .position = position, .kind = (uint32_t)slot->kind, .arena = slot->arena, .at = slot->at};
    if (slot->kind != SHM_SLOT_FORGET)
        wire_frame_encode(&slot->frame, bytes.frame);
    memcpy(out, &bytes, sizeof bytes);
}

bg_status shm_slot_decode(const uint8_t in[SHM_SLOT_BYTES], uint64_t position, struct bg_error *err,
                          struct shm_slot *slot)
{
    struct slot_bytes bytes;
    memcpy(&bytes, in, sizeof bytes);
    if (bytes.position != position)
        return bg_fail(err, BG_CORRUPT, "slot says it is number %" PRIu64 ", expected %" PRIu64, bytes.position,
                       position);
    if (bytes.kind < SHM_SLOT_COPY || bytes.kind > SHM_SLOT_FORGET)
        return bg_fail(err, BG_FORMAT, "slot of kind %" PRIu32 ", expected 1 to %d", bytes.kind, SHM_SLOT_FORGET);
    struct shm_slot s = {.kind = (enum shm_slot_kind)bytes.kind, .arena = bytes.arena, .at = bytes.at};
    if (s.kind == SHM_SLOT_FORGET) {
        *slot = s;
        return BG_OK;
    }
    bg_status status = wire_frame_decode(bytes.frame, err, &s.frame);
    if (status)
        return status;
    if (s.kind == SHM_SLOT_COPY) {
        if (s.frame.bytes > SHM_COPIED_MAX)
            return bg_fail(err, BG_FORMAT, "%s frame copies %" PRIu64 " bytes, at most %d",
                           wire_kind_name(s.frame.kind), s.frame.bytes, SHM_COPIED_MAX);
        if (s.at % SHM_CHUNK_BYTES || (s.at && s.at >= s.frame.bytes))
            return bg_fail(err, BG_FORMAT, "chunk at %" PRIu64 " of a payload of %" PRIu64 " bytes", s.at,
                           s.frame.bytes);
    } else if (s.at % 4) {
        return bg_fail(err, BG_FORMAT, "payload at offset %" PRIu64 " of arena %" PRIu32 ", expected a multiple of 4",
                       s.at, s.arena);
    }
    *slot = s;
    return BG_OK;
}

void shm_message_encode(const struct shm_message *message, uint8_t out[SHM_MESSAGE_BYTES])
{
    struct message_bytes bytes = {.kind = (uint32_t)message->kind,
                                  .version = SHM_VERSION,
                                  .slots = SHM_SLOTS,
                                  .chunk = SHM_CHUNK_BYTES,
                                  .arena = message->arena,
                                  .bytes = message->bytes};
    memcpy(out, &bytes, sizeof bytes);
}

bg_status shm_message_decode(const uint8_t *in, size_t size, unsigned fd_count, struct bg_error *err,
                             struct shm_message *message)
{
    if (size == 1 && in[0] == SHM_BEAT && fd_count == 0) {
        *message = (struct shm_message){.kind = SHM_MESSAGE_BEAT};
        return BG_OK;
    }
    if (size != SHM_MESSAGE_BYTES)
        return bg_fail(err, BG_FORMAT, "message of %zu bytes, expected %d", size, SHM_MESSAGE_BYTES);
    struct message_bytes bytes;
    memcpy(&bytes, in, sizeof bytes);
    if (bytes.version != SHM_VERSION || bytes.slots != SHM_SLOTS || bytes.chunk != SHM_CHUNK_BYTES)
        return bg_fail(err, BG_UNSUPPORTED,
                       "peer speaks version %" PRIu32 " with %" PRIu32 " slots of %" PRIu32
                       " bytes, expected %d, %d, %d: run the same brigade everywhere",
                       bytes.version, bytes.slots, bytes.chunk, SHM_VERSION, SHM_SLOTS, SHM_CHUNK_BYTES);
    unsigned wanted = bytes.kind == SHM_MESSAGE_HELLO ? 2 : bytes.kind == SHM_MESSAGE_ARENA ? 1 : 0;
    if (!wanted)
        return bg_fail(err, BG_FORMAT, "message of kind %" PRIu32, bytes.kind);
    if (fd_count != wanted)
        return bg_fail(err, BG_FORMAT, "message of kind %" PRIu32 " with %u descriptors, expected %u", bytes.kind,
                       fd_count, wanted);
    if (bytes.zero || (bytes.kind == SHM_MESSAGE_HELLO && bytes.arena) || bytes.bytes == 0 ||
        bytes.bytes > SIZE_MAX / 2)
        return bg_fail(err, BG_FORMAT, "message of kind %" PRIu32 " about %" PRIu64 " bytes", bytes.kind, bytes.bytes);
    *message =
        (struct shm_message){.kind = (enum shm_message_kind)bytes.kind, .arena = bytes.arena, .bytes = bytes.bytes};
    return BG_OK;
}
