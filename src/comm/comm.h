// Endpoints: how processes of a job reach each other. Above this line nobody knows whether it is shared memory, TCP or
// the simulator. One thread owns an endpoint.
//
//                                 +--------- struct comm (this process) ---------+
//   frames, in order, per peer -> | queue -> transport            transport -> next() | -> frames, ups and downs
//                                 +-----------------------------------------------+
//
// Frames from one peer arrive in order, each once, or the link goes down. What a peer had sent before it died is
// delivered before its COMM_DOWN. Peers are named by the member id of the controller's choosing; the controller is 0.
#ifndef COMM_COMM_H
#define COMM_COMM_H

#include "base/env.h"
#include "wire/frame.h"

enum { COMM_CONTROLLER = 0, COMM_ADDRESS_MAX = 128 };
#define COMM_UNKNOWN UINT32_MAX // a link whose other side has not been named yet

enum comm_event_kind {
    COMM_NOTHING,
    COMM_UP,    // a link is there: our connect was answered, or somebody connected (peer: COMM_UNKNOWN)
    COMM_FRAME, // payload: see comm_release
    COMM_DOWN,  // the peer's process or link has ended, or it was silent too long
};
struct comm_event {
    enum comm_event_kind kind;
    uint32_t link; // of this endpoint; never used again for another
    uint32_t peer; // as named by comm_name(), or by connect; COMM_UNKNOWN before
    struct wire_frame frame;
    const void *payload; // frame.bytes, readable until comm_release(); stays valid when the sender dies
    void *handle;
    char why[160]; // of COMM_DOWN: "process 123 ended", "silent for 0.9 s", "bad frame: ..."
};

struct comm;
struct comm_ops {
    const char *(*address)(struct comm *comm); // others connect to it
    bg_status (*connect)(struct comm *comm, uint32_t peer, const char *address, struct bg_error *err, uint32_t *link);
    void (*name)(struct comm *comm, uint32_t link, uint32_t peer);
    void (*close)(struct comm *comm, uint32_t link); // no event follows; queued frames may be lost
    // Queues a frame; never blocks. Payload inside memory from reserve() is not copied: it must keep its bytes until
    // the step's end (the protocol's promise), else it is copied at once (control messages). BG_FULL: the queue's
    // limit. A link that is down swallows frames (its COMM_DOWN tells). frame->bytes, check and from are filled in
    // here.
    bg_status (*send)(struct comm *comm, uint32_t link, const struct wire_frame *frame, const void *payload,
                      size_t bytes, struct bg_error *err);
    // The next thing that happened; COMM_NOTHING at once if nothing did.
    bg_status (*next)(struct comm *comm, struct bg_error *err, struct comm_event *event);
    void (*release)(struct comm *comm, struct comm_event *event); // of COMM_FRAME, any time later
    // Returns when next() may have something, when a queue that refused a frame has room again, or after timeout_ns (0:
    // at once). Signals end it early.
    void (*wait)(struct comm *comm, uint64_t timeout_ns);
    // Memory that peers may read in place, zeroed, 64-byte aligned.
    bg_status (*reserve)(struct comm *comm, size_t bytes, struct bg_error *err, void **memory);
    void (*unreserve)(struct comm *comm, void *memory); // only when no peer reads it any more (between steps)
    void (*destroy)(struct comm *comm);
};
struct comm {
    const struct comm_ops *ops;
    struct bg_env *env;
    uint32_t self; // member id put into frames; COMM_UNKNOWN before the controller's WELCOME
    struct comm_counts {
        uint64_t frames_sent, frames_received, bytes_sent, bytes_received, frames_refused;
    } counts;
};

// Thin callers.
static inline bg_status comm_send(struct comm *comm, uint32_t link, const struct wire_frame *frame, const void *payload,
                                  size_t bytes, struct bg_error *err)
{
    return comm->ops->send(comm, link, frame, payload, bytes, err);
}
static inline bg_status comm_next(struct comm *comm, struct bg_error *err, struct comm_event *event)
{
    return comm->ops->next(comm, err, event);
}
static inline void comm_release(struct comm *comm, struct comm_event *event)
{
    comm->ops->release(comm, event);
}

#endif
