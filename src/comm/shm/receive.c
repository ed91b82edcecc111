// What a peer published. Everything here was written by somebody else: a slot is copied, decoded and compared with what
// the link knows before it is used, and whatever does not fit ends the link and nothing more.
#include "comm/shm/shm_int.h"

#include "base/mem.h"

#include <inttypes.h>
#include <string.h>

_Static_assert(sizeof(struct wire_frame) == 64, "no padding: frames are compared as bytes");
enum { REMOTES_MAX = 4 * SHM_ARENAS_MAX };

static void spoil(struct shm *shm, struct shm_link *link, const struct bg_error *err)
{
    link->spoiled = true;
    shm->comm.counts.frames_refused++;
    shm_link_end(shm, link, "bad frame: %s", err->text);
}

// ---- Memory of the peer ----

static struct shm_remote *remote_find(const struct shm_link *link, uint32_t id)
{
    for (uint32_t i = 0; i < link->remote_count; i++)
        if (link->remotes[i]->id == id)
            return link->remotes[i];
    return NULL;
}

static void remote_drop(struct shm_remote *remote)
{
    if (--remote->references)
        return;
    os_shared_unmap(remote->memory, remote->bytes);
    bg_free(remote);
}

void shm_remote_add(struct shm *shm, struct shm_link *link, uint32_t id, int fd, uint64_t bytes)
{
    struct bg_error err;
    const void *memory = NULL;
    if (remote_find(link, id) || link->remote_count == REMOTES_MAX)
        (void)bg_fail(&err, BG_EXISTS, "arena %" PRIu32 " comes twice, or after %d others", id, REMOTES_MAX);
    else if (!os_shared_open(fd, (size_t)bytes, &err, &memory)) {
        if (link->remote_count == link->remote_capacity) {
            link->remote_capacity = link->remote_capacity ? 2 * link->remote_capacity : 16;
            link->remotes = bg_realloc_array(link->remotes, link->remote_capacity, sizeof *link->remotes);
        }
        struct shm_remote *remote = bg_alloc(sizeof *remote);
        *remote = (struct shm_remote){.id = id, .references = 1, .memory = memory, .bytes = (size_t)bytes};
        link->remotes[link->remote_count++] = remote;
        return;
    }
    spoil(shm, link, &err);
}

void shm_remotes_drop(struct shm_link *link)
{
    for (uint32_t i = 0; i < link->remote_count; i++)
        remote_drop(link->remotes[i]);
    bg_free(link->remotes);
    link->remotes = NULL;
    link->remote_count = link->remote_capacity = 0;
}

void shm_release(struct shm *shm, struct shm_holding *holding)
{
    if (holding->is_buffer)
        shm_buffer_put(shm, (struct shm_buffer *)holding);
    else
        remote_drop((struct shm_remote *)holding);
}

// ---- Slots ----

bool shm_has_slots(const struct shm_link *link)
{
    return link->theirs && !link->spoiled && atomic_load(&link->theirs->head) != link->tail;
}

// Slots that can be read; errors tell a head that cannot be.
static bg_status look(struct shm_link *link, struct bg_error *err, bool *any)
{
    if (link->tail == link->their_head) {
        uint64_t head = atomic_load_explicit(&link->theirs->head, memory_order_acquire);
        if (head - link->tail > SHM_SLOTS)
            return bg_fail(err, BG_CORRUPT, "ring has published %" PRIu64 " slots where %" PRIu64 " are read", head,
                           link->tail);
        link->their_head = head;
    }
    *any = link->tail != link->their_head;
    return BG_OK;
}

// The slot is done with; a peer that waits for room is told once half of the ring is free.
static void consume(struct shm_link *link)
{
    link->tail++;
    atomic_store(&link->ring->tail, link->tail);
    if (link->their_head - link->tail > SHM_SLOTS / 2 || link->woken_head == link->their_head)
        return;
    if (atomic_load(&link->theirs->starving)) {
        link->woken_head = link->their_head;
        os_event_raise(link->their_event);
    }
}

static bg_status take_copy(struct shm *shm, struct shm_link *link, const struct shm_slot *slot, struct bg_error *err,
                           struct comm_event *event)
{
    const struct wire_frame *frame = &slot->frame;
    bool going_on = link->partial != NULL;
    if (going_on ? memcmp(frame, &link->partial_frame, sizeof *frame) != 0 : slot->at != 0)
        return bg_fail(err, BG_CORRUPT, "chunk at %" PRIu64 " of a %s frame that did not come before", slot->at,
                       wire_kind_name(frame->kind));
    if (frame->bytes && !going_on) {
        link->partial = shm_buffer_get(shm, (size_t)frame->bytes);
        if (!link->partial)
            return bg_fail(err, BG_NO_MEMORY, "no memory for a payload of %" PRIu64 " bytes", frame->bytes);
        link->partial_frame = *frame;
        link->partial_bytes = 0;
    }
    size_t chunk = shm_slot_chunk(slot);
    if (chunk) {
        if (slot->at != link->partial_bytes)
            return bg_fail(err, BG_CORRUPT, "chunk at %" PRIu64 ", expected %" PRIu64, slot->at, link->partial_bytes);
        memcpy(link->partial->data + slot->at, link->theirs->chunks[link->tail % SHM_SLOTS], chunk);
        link->partial_bytes += chunk;
        if (link->partial_bytes < frame->bytes)
            return BG_OK;
        event->payload = link->partial->data;
        event->handle = &link->partial->holding;
        link->partial = NULL;
    }
    event->kind = COMM_FRAME;
    return BG_OK;
}

static bg_status take_arena(struct shm *shm, struct shm_link *link, const struct shm_slot *slot, struct bg_error *err,
                            struct comm_event *event)
{
    struct shm_remote *remote = remote_find(link, slot->arena);
    if (!remote) { // its message was sent before the slot was published
        shm_link_drain(shm, link);
        remote = remote_find(link, slot->arena);
    }
    uint64_t bytes = slot->frame.bytes;
    if (link->partial || !remote)
        return bg_fail(err, BG_CORRUPT, "payload in arena %" PRIu32 " that was not announced", slot->arena);
    if (slot->at > remote->bytes || bytes > remote->bytes - slot->at)
        return bg_fail(err, BG_CORRUPT, "payload of %" PRIu64 " bytes at %" PRIu64 " of an arena of %zu", bytes,
                       slot->at, remote->bytes);
    remote->references++;
    event->payload = remote->memory + slot->at;
    event->handle = &remote->holding;
    event->kind = COMM_FRAME;
    return BG_OK;
}

static bg_status take_forget(struct shm_link *link, const struct shm_slot *slot, struct bg_error *err)
{
    for (uint32_t i = 0; i < link->remote_count; i++) {
        if (link->remotes[i]->id != slot->arena)
            continue;
        remote_drop(link->remotes[i]);
        link->remotes[i] = link->remotes[--link->remote_count];
        return BG_OK;
    }
    return bg_fail(err, BG_CORRUPT, "arena %" PRIu32 " to be forgotten was not announced", slot->arena);
}

// A frame tells who sent it. The link knows: nobody speaks for another member, though a member that got its name while
// frames were under way may still use none, or the one before.
static bg_status check_sender(const struct shm_link *link, const struct wire_frame *frame, struct bg_error *err)
{
    if (link->peer == COMM_UNKNOWN || frame->from == link->peer || frame->from == COMM_UNKNOWN ||
        frame->from == link->peer_before)
        return BG_OK;
    return bg_fail(err, BG_MISMATCH, "%s from member %" PRIu32 " on the link of member %" PRIu32,
                   wire_kind_name(frame->kind), frame->from, link->peer);
}

static bg_status take(struct shm *shm, struct shm_link *link, struct bg_error *err, struct comm_event *event)
{
    uint8_t bytes[SHM_SLOT_BYTES];
    memcpy(bytes, link->theirs->slots[link->tail % SHM_SLOTS], sizeof bytes);
    struct shm_slot slot;
    bg_status status = shm_slot_decode(bytes, link->tail, err, &slot);
    if (status)
        return status;
    if (slot.kind == SHM_SLOT_FORGET)
        return take_forget(link, &slot, err);
    status = check_sender(link, &slot.frame, err);
    if (status)
        return status;
    event->frame = slot.frame;
    return slot.kind == SHM_SLOT_COPY ? take_copy(shm, link, &slot, err, event)
                                      : take_arena(shm, link, &slot, err, event);
}

bool shm_receive(struct shm *shm, struct shm_link *link, struct comm_event *event)
{
    struct bg_error err;
    bool any = false;
    while (link->theirs && !link->spoiled) {
        if (look(link, &err, &any)) {
            spoil(shm, link, &err);
            break;
        }
        if (!any)
            break;
        event->kind = COMM_NOTHING;
        event->payload = event->handle = NULL;
        if (take(shm, link, &err, event)) {
            spoil(shm, link, &err);
            break;
        }
        consume(link);
        link->heard_ns = shm->awake_ns;
        if (event->kind == COMM_FRAME) {
            event->link = link->id;
            event->peer = link->peer;
            shm->comm.counts.frames_received++;
            shm->comm.counts.bytes_received += event->frame.bytes;
            return true;
        }
    }
    return false;
}
