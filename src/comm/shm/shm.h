// Endpoints over shared memory, for the processes of one host and one user. A link is an abstract UNIX seqpacket socket
// (peer's uid checked), over which each side passes one sealed memfd with its ring, an eventfd, and the memfds of its
// arenas. Each side writes only its own memfds; the other maps them read-only and believes nothing it reads there.
//
// connect() never waits: frames may be sent at once, and a peer that is stopped or busy answers when it can. Payloads
// of up to 64 MiB are copied where they are not in memory from reserve() (or not at a multiple of 4 bytes in it). At
// most 1024 links and 1024 reservations. Events have to be released before destroy().
#ifndef COMM_SHM_SHM_H
#define COMM_SHM_SHM_H

#include "comm/comm.h"

struct comm_shm_options {
    const char *address;   // NULL: a random one. Listening on a taken address fails with BG_EXISTS
    uint64_t beat_ms;      // a beat is sent on every link that often, by a thread of its own; 0: none
    uint64_t silence_ms;   // a link without a beat for so long is down; 0: never. Not counted while we ourselves slept
    uint32_t queue_frames; // per link, 0: 65536
    // Fault injection for tests and chaos, else NULL: may change, drop (return false) or delay the frame (and, since
    // frames stay in order, those behind it). A dropped frame is missed by nobody but the protocol above.
    bool (*tamper)(void *arg, uint32_t peer, struct wire_frame *frame, uint64_t *delay_ns);
    void *tamper_arg;
};
BG_MUST_USE bg_status comm_shm_create(struct bg_env *env, const struct comm_shm_options *options, struct bg_error *err,
                                      struct comm **comm);

#endif
