// The network of a simulation: a third transport under comm/comm.h, between virtual processes of one real one. Frames
// keep their order on a link and take a seeded time; which of several links delivers first is a seeded choice.
//
// Payloads in reserved memory are read in place, as over shared memory, so that a sender that overwrites what somebody
// still reads does here what it would do there. The network keeps the sum of every payload as it was sent and tells the
// watcher when the bytes under a reader have changed. Reserved memory outlives its process until nobody reads it.
#ifndef SIM_NET_H
#define SIM_NET_H

#include "comm/comm.h"
#include "sim/random.h"

enum sim_fate { SIM_DELIVER, SIM_DROP, SIM_CORRUPT, SIM_CUT }; // SIM_CUT: the link goes down instead

struct sim_delivery { // what a watcher is told; owners as given to sim_net_endpoint()
    void *from, *to;  // from: NULL if it has ended since
    uint32_t from_id, to_id;
    const struct wire_frame *frame;
    const void *payload;
};
struct sim_watcher { // any may be NULL
    void *arg;
    // Before a frame leaves; may lengthen *delay_ns.
    enum sim_fate (*fate)(void *arg, const struct sim_delivery *d, uint64_t *delay_ns);
    void (*delivered)(void *arg, const struct sim_delivery *d, struct wire_frame *frame); // as next() gives it
    // The bytes are not those that were sent. `when`: "delivered", "released", "unreserved"
    void (*changed)(void *arg, const struct sim_delivery *d, const char *when);
};

struct sim_net;
struct sim_net_options {
    const uint64_t *now_ns;
    struct sim_random random;
    uint64_t latency_ns; // typical
    struct sim_watcher watcher;
};
struct sim_net *sim_net_create(const struct sim_net_options *options);
void sim_net_destroy(struct sim_net *net); // after every endpoint

// An endpoint at an address that nobody has now. comm_ops.destroy ends it as the death of its process does.
struct comm *sim_net_endpoint(struct sim_net *net, struct bg_env *env, const char *address, uint32_t id, void *owner);
// When next() may have something: now or earlier, a time, UINT64_MAX.
uint64_t sim_net_arrival(const struct comm *comm);
void sim_net_slow(struct comm *comm, uint32_t factor); // everything it sends from now on takes so many times longer
// Its process has died inside a call that still runs: what it sends and writes from now on never happened.
void sim_net_mute(struct comm *comm);
// Nothing was heard of it: everybody (or just `only`, an owner) finds the link down after `delay_ns`, and so will it.
void sim_net_silence(struct comm *comm, const void *only, const char *why);
// What should have been given back: reservations and events handed out, of this endpoint.
void sim_net_held(const struct comm *comm, uint32_t *reservations, uint32_t *events);
// Reservations that outlived their process, and frames under way: 0 at the end.
void sim_net_left(const struct sim_net *net, uint32_t *orphans, uint32_t *endpoints, uint32_t *frames);

#endif
