// From send() to the peer's eyes: a queue in front of the ring, the ring, the wake-up. Published slots are the peer's;
// nothing here waits.
#include "comm/shm/shm_int.h"

#include "base/mem.h"

#include <inttypes.h>
#include <string.h>

// ---- The ring ----

static bool has_room(struct shm *shm, struct shm_link *link)
{
    if (link->head - link->their_tail < SHM_SLOTS)
        return true;
    uint64_t tail = atomic_load(&link->theirs->tail); // after `starving` was said
    if (tail - link->their_tail > SHM_SLOTS) {
        link->spoiled = true;
        shm_link_end(shm, link, "bad ring: done with slot %" PRIu64 " of %" PRIu64, tail, link->head);
        return false;
    }
    link->their_tail = tail;
    return link->head - tail < SHM_SLOTS;
}

// True once the peer has, or will find in its socket, the arena.
static bool announce(struct shm *shm, struct shm_link *link, uint32_t id)
{
    uint64_t *word = &link->announced[id % SHM_ARENAS_MAX / 64], bit = UINT64_C(1) << id % 64;
    if (*word & bit)
        return true;
    const struct shm_arena *arena = shm_arena_find(shm, id);
    uint8_t bytes[SHM_MESSAGE_BYTES];
    shm_message_encode(&(struct shm_message){.kind = SHM_MESSAGE_ARENA, .arena = id, .bytes = arena->bytes}, bytes);
    enum os_io io = os_socket_send(link->socket, bytes, sizeof bytes, &arena->fd, 1);
    if (io == OS_IO_DONE)
        *word |= bit;
    bool full = io == OS_IO_LATER;
    if (full != link->socket_full && !os_poller_set(shm->poller, link->socket, (uint64_t)link->id << 1, full, NULL))
        link->socket_full = full;
    return io == OS_IO_DONE; // ended: the socket tells it to us as well
}

// As much of the entry as there is room for; true: all of it.
static bool publish(struct shm *shm, struct shm_link *link, struct shm_entry *entry)
{
    struct shm_slot *slot = &entry->slot;
    if (slot->kind == SHM_SLOT_ARENA && !announce(shm, link, slot->arena))
        return false;
    for (;;) {
        if (!has_room(shm, link))
            return false;
        uint64_t position = link->head, index = position % SHM_SLOTS;
        size_t chunk = slot->kind == SHM_SLOT_COPY ? shm_slot_chunk(slot) : 0;
        if (chunk)
            memcpy(link->ring->chunks[index], entry->payload + slot->at, chunk);
        shm_slot_encode(slot, position, link->ring->slots[index]);
        link->head = position + 1;
        atomic_store_explicit(&link->ring->head, link->head, memory_order_release);
        slot->at += chunk;
        if (slot->kind != SHM_SLOT_COPY || slot->at >= slot->frame.bytes)
            return true;
    }
}

// The peer says that it sleeps and then looks at the ring again; we publish and then look whether it sleeps. One of the
// two sees the other, since all four are sequentially consistent. Each sleep is ended once.
static void wake(struct shm_link *link)
{
    atomic_store(&link->ring->head, link->head);
    uint32_t sleep = atomic_load(&link->theirs->sleeping);
    if (sleep % 2 && sleep != link->woken_sleep) {
        link->woken_sleep = sleep;
        os_event_raise(link->their_event);
    }
}

// ---- The queue ----

static struct shm_entry *queue_at(struct shm_link *link, uint32_t index)
{
    return &link->queue[(link->queue_first + index) & (link->queue_capacity - 1)];
}

static void push(struct shm_link *link, const struct shm_entry *entry)
{
    if (link->queue_count == link->queue_capacity) {
        uint32_t capacity = link->queue_capacity ? 2 * link->queue_capacity : 64;
        struct shm_entry *larger = bg_alloc_array(capacity, sizeof *larger);
        for (uint32_t i = 0; i < link->queue_count; i++)
            larger[i] = *queue_at(link, i);
        bg_free(link->queue);
        link->queue = larger;
        link->queue_capacity = capacity;
        link->queue_first = 0;
    }
    *queue_at(link, link->queue_count) = *entry;
    link->queue_count++;
}

void shm_flush(struct shm *shm, struct shm_link *link)
{
    if (link->state != SHM_OPEN || !link->queue_count)
        return;
    uint64_t head = link->head;
    while (link->queue_count) {
        struct shm_entry *entry = queue_at(link, 0);
        if ((entry->due_ns && env_now_ns(shm->comm.env) < entry->due_ns) || !publish(shm, link, entry))
            break;
        shm_buffer_put(shm, entry->buffer);
        link->queue_first = (link->queue_first + 1) & (link->queue_capacity - 1);
        link->queue_count--;
    }
    if (link->head != head)
        wake(link);
    if (link->refused && link->queue_count <= shm->options.queue_frames / 2) {
        link->refused = false;
        shm->has_room = true;
    }
}

void shm_queue_drop(struct shm *shm, struct shm_link *link)
{
    for (uint32_t i = 0; i < link->queue_count; i++)
        shm_buffer_put(shm, queue_at(link, i)->buffer);
    bg_free(link->queue);
    link->queue = NULL;
    link->queue_count = link->queue_capacity = 0;
}

// Keeps what is not yet published of a copied payload.
static bool keep_payload(struct shm *shm, struct shm_entry *entry)
{
    size_t at = (size_t)entry->slot.at, bytes = (size_t)entry->slot.frame.bytes;
    entry->buffer = shm_buffer_get(shm, bytes);
    if (!entry->buffer)
        return false;
    memcpy(entry->buffer->data + at, entry->payload + at, bytes - at);
    entry->payload = entry->buffer->data;
    return true;
}

void shm_forget_arena(struct shm *shm, struct shm_link *link, const struct shm_arena *arena)
{
    if (link->state == SHM_ENDED)
        return;
    for (uint32_t i = 0; i < link->queue_count; i++) {
        struct shm_entry *entry = queue_at(link, i);
        if (entry->slot.kind != SHM_SLOT_ARENA || entry->slot.arena != arena->id)
            continue;
        entry->payload = arena->memory + entry->slot.at;
        entry->slot.kind = SHM_SLOT_COPY;
        entry->slot.arena = 0;
        entry->slot.at = 0;
        if (entry->slot.frame.bytes > SHM_COPIED_MAX || !keep_payload(shm, entry)) {
            shm_link_end(shm, link, "memory of a queued frame of %" PRIu64 " bytes was given back",
                         entry->slot.frame.bytes);
            return;
        }
    }
    uint64_t *word = &link->announced[arena->id % SHM_ARENAS_MAX / 64], bit = UINT64_C(1) << arena->id % 64;
    if (!(*word & bit))
        return;
    *word &= ~bit;
    push(link, &(struct shm_entry){.slot = {.kind = SHM_SLOT_FORGET, .arena = arena->id}});
    shm_flush(shm, link);
}

// ---- send() ----

static bg_status refuse(const struct shm *shm, struct shm_link *link, const struct wire_frame *frame, bool in_arena,
                        struct bg_error *err)
{
    if (frame->kind == WIRE_NONE || frame->bytes > wire_kind_bytes_max(frame->kind))
        return bg_fail(err, BG_INVALID, "sending a %s frame (kind %u) with %" PRIu64 " bytes, at most %" PRIu64,
                       wire_kind_name(frame->kind), frame->kind, frame->bytes, wire_kind_bytes_max(frame->kind));
    if (!in_arena && frame->bytes > SHM_COPIED_MAX)
        return bg_fail(err, BG_INVALID, "sending %" PRIu64 " bytes by copy, at most %d: use memory from reserve()",
                       frame->bytes, SHM_COPIED_MAX);
    if (link->queue_count < shm->options.queue_frames)
        return BG_OK;
    link->refused = true;
    return bg_fail(err, BG_FULL, "%" PRIu32 " frames wait for member %" PRIu32 " already", link->queue_count,
                   link->peer);
}

bg_status shm_send(struct shm *shm, struct shm_link *link, const struct wire_frame *frame, const void *payload,
                   struct bg_error *err)
{
    struct wire_frame f = *frame;
    const struct shm_arena *arena = f.bytes ? shm_arena_at(shm, payload, (size_t)f.bytes) : NULL;
    uint64_t offset = arena ? (uint64_t)((const uint8_t *)payload - arena->memory) : 0;
    bool in_arena = arena && offset % 4 == 0;
    bg_status status = refuse(shm, link, &f, in_arena, err);
    if (status)
        return status;
    f.from = shm->comm.self;
    f.check = wire_check(payload, (size_t)f.bytes);
    shm->comm.counts.frames_sent++;
    shm->comm.counts.bytes_sent += f.bytes;
    struct shm_entry entry = {0};
    if (shm->options.tamper) {
        uint64_t bytes = f.bytes, delay_ns = 0;
        if (!shm->options.tamper(shm->options.tamper_arg, link->peer, &f, &delay_ns))
            return BG_OK;
        f.bytes = bytes;
        entry.due_ns = delay_ns ? env_now_ns(shm->comm.env) + delay_ns : 0;
    }
    entry.payload = payload;
    entry.slot = (struct shm_slot){.kind = SHM_SLOT_COPY, .frame = f};
    if (in_arena) {
        entry.slot.kind = SHM_SLOT_ARENA;
        entry.slot.arena = arena->id;
        entry.slot.at = offset;
    }
    if (!link->queue_count && !entry.due_ns && link->state == SHM_OPEN) {
        bool all = publish(shm, link, &entry);
        if (link->state == SHM_OPEN)
            wake(link);
        if (all || link->state != SHM_OPEN)
            return BG_OK;
    }
    if (!in_arena && f.bytes && !keep_payload(shm, &entry)) {
        // Its first chunks may be gone already: the stream cannot go on without the rest.
        shm_link_end(shm, link, "no memory for %" PRIu64 " bytes that wait", f.bytes);
        return bg_fail(err, BG_NO_MEMORY, "queueing a frame: no memory for %" PRIu64 " bytes", f.bytes);
    }
    push(link, &entry);
    return BG_OK;
}
