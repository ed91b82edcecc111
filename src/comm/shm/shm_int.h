// Inside the shared-memory transport.
//
//   send() -> queue -> own ring (slot, chunk) ......... their mapping of it -> next() -> event
//                           |  arena offsets  --------- their mapping of our arenas
//   socket: HELLO (ring, event) once, ARENA (memory) before the first slot that uses it, beats
//
// A link's slots and its messages are two streams: an ARENA message is sent before the slot that needs it is published,
// so a reader that meets an unknown arena finds it in the socket. FORGET travels in the ring, behind the last use.
#ifndef COMM_SHM_INT_H
#define COMM_SHM_INT_H

#include "comm/shm/codec.h"
#include "comm/shm/shm.h"
#include "os/ipc.h"

#include <stdatomic.h>
#include <stdbool.h>

enum { SHM_LINKS_MAX = 1024, SHM_ARENAS_MAX = 1024, SHM_CLASSES = 28 };

// What the poller tells of: these, a link's socket (id << 1), a link's process (id << 1 | 1).
#define SHM_TAG_LISTENER UINT64_MAX
#define SHM_TAG_EVENT    (UINT64_MAX - 1)

// One memfd of each side of a link. Only its maker writes it.
struct shm_ring {
    _Alignas(64) _Atomic uint64_t head;     // slots that I published
    _Alignas(64) _Atomic uint64_t tail;     // slots of your ring that I am done with
    _Alignas(64) _Atomic uint32_t sleeping; // odd: raise my event when you publish; each sleep has a number of its own
    _Atomic uint32_t starving;              // raise my event when you make room
    _Alignas(4096) uint8_t slots[SHM_SLOTS][SHM_SLOT_BYTES];
    uint8_t chunks[SHM_SLOTS][SHM_CHUNK_BYTES];
};

// What event.handle points to.
struct shm_holding {
    bool is_buffer; // of our pool; else memory of a peer
};

// A copied payload. Buffers go back to the pool of their size and stay with the endpoint.
struct shm_buffer {
    struct shm_holding holding; // first
    unsigned size_class;        // holds 2^size_class bytes
    struct shm_buffer *next;    // in the pool
    uint8_t *data;              // 64-byte aligned
};

// An arena of a peer, mapped until the link is gone or it is forgotten, and its last frame is released.
struct shm_remote {
    struct shm_holding holding; // first
    uint32_t id, references;
    const uint8_t *memory;
    size_t bytes;
};

// An arena of ours.
struct shm_arena {
    uint32_t id;
    int fd;
    uint8_t *memory;
    size_t bytes;
};

struct shm_entry {        // of a queue
    struct shm_slot slot; // COPY: `at` tells how much of it is published
    const uint8_t *payload;
    struct shm_buffer *buffer; // that payload lies in, or NULL
    uint64_t due_ns;           // not earlier (fault injection)
};

enum shm_state {
    SHM_GREETING, // waits for the peer's HELLO
    SHM_OPEN,
    SHM_ENDED, // socket closed; what the ring still holds is delivered, then DOWN
};
struct shm_link {
    enum shm_state state;
    uint32_t id, peer, peer_before;
    bool is_ours; // we connected: its end is told even if it never opened
    bool told_up; // COMM_UP delivered
    bool spoiled; // nothing more is read from it
    bool socket_full;
    bool refused; // a frame, for lack of room in the queue
    int socket, pidfd, process, their_event;
    uint64_t opened_ns, heard_ns;
    char why[160];
    // Sending
    struct shm_ring *ring;
    uint64_t head, their_tail; // published; seen as done
    uint32_t woken_sleep;      // the sleep of theirs that we ended already
    struct shm_entry *queue;   // ring buffer of queue_capacity, a power of two
    uint32_t queue_capacity, queue_first, queue_count;
    uint64_t announced[SHM_ARENAS_MAX / 64];
    // Receiving
    const struct shm_ring *theirs;
    uint64_t tail, their_head; // done with; seen as published
    uint64_t woken_head;       // their_head when we last told them of room
    struct shm_remote **remotes;
    uint32_t remote_count, remote_capacity;
    struct shm_buffer *partial; // of a frame whose chunks are not all here
    struct wire_frame partial_frame;
    uint64_t partial_bytes;
};

struct shm {
    struct comm comm; // first
    struct comm_shm_options options;
    char address[COMM_ADDRESS_MAX];
    int listener, poller, event;
    struct os_beat *beat;
    struct shm_link *links[SHM_LINKS_MAX];  // by id modulo the size
    struct shm_link *active[SHM_LINKS_MAX]; // dense
    uint32_t link_count, next_link, cursor;
    struct shm_arena arenas[SHM_ARENAS_MAX]; // by address
    uint32_t arena_count, next_arena;
    uint64_t arena_used[SHM_ARENAS_MAX / 64]; // ids modulo the size
    struct shm_buffer *pool[SHM_CLASSES];
    uint64_t awake_ns, serviced_ns;
    uint64_t spin_ns, spin_ns_max;
    uint32_t sleep;
    bool has_room; // again, for who was refused: wait() tells it once
};

// link.c: links and what comes over their sockets.
bg_status shm_connect(struct shm *shm, uint32_t peer, const char *address, struct bg_error *err, uint32_t *link);
struct shm_link *shm_link_find(struct shm *shm, uint32_t id);
void shm_link_free(struct shm *shm, struct shm_link *link);
void shm_link_end(struct shm *shm, struct shm_link *link, const char *format, ...) BG_PRINTF(3, 4);
void shm_link_drain(struct shm *shm, struct shm_link *link);               // reads all messages
void shm_service(struct shm *shm, uint64_t timeout_ns, bool *interrupted); // waits once, then reads what is there
void shm_judge(struct shm *shm, uint64_t now); // ends links that are silent, closes strangers
uint64_t shm_deadline(const struct shm *shm);  // when shm_judge() or a delayed frame wants to be looked at next

// send.c
bg_status shm_send(struct shm *shm, struct shm_link *link, const struct wire_frame *frame, const void *payload,
                   struct bg_error *err);
void shm_flush(struct shm *shm, struct shm_link *link);
void shm_forget_arena(struct shm *shm, struct shm_link *link, const struct shm_arena *arena);
void shm_queue_drop(struct shm *shm, struct shm_link *link);

// receive.c
bool shm_receive(struct shm *shm, struct shm_link *link, struct comm_event *event); // false: no whole frame
bool shm_has_slots(const struct shm_link *link);
void shm_remote_add(struct shm *shm, struct shm_link *link, uint32_t id, int fd, uint64_t bytes);
void shm_remotes_drop(struct shm_link *link);
void shm_release(struct shm *shm, struct shm_holding *holding);

// memory.c
bg_status shm_reserve(struct shm *shm, size_t bytes, struct bg_error *err, void **memory);
void shm_unreserve(struct shm *shm, void *memory);
const struct shm_arena *shm_arena_at(const struct shm *shm, const void *payload, size_t bytes); // NULL: in none
const struct shm_arena *shm_arena_find(const struct shm *shm, uint32_t id);
struct shm_buffer *shm_buffer_get(struct shm *shm, size_t bytes); // NULL: no memory
void shm_buffer_put(struct shm *shm, struct shm_buffer *buffer);
void shm_memory_fini(struct shm *shm);

#endif
