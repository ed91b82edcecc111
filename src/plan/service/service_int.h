// The registry of service policies, what they share, and the queue of the simulator.
#ifndef PLAN_SERVICE_INT_H
#define PLAN_SERVICE_INT_H

#include "plan/service/service.h"

// One line a policy; its file service_x.c defines plan_service_x.
#define PLAN_SERVICE_POLICIES(X)                                                                                       \
    X(spothedge)                                                                                                       \
    X(spot_only)                                                                                                       \
    X(even_spread)                                                                                                     \
    X(on_demand)

#define DECLARE(name) extern const struct plan_service_policy plan_service_##name;
PLAN_SERVICE_POLICIES(DECLARE)
#undef DECLARE

// Launches or stops spot replicas until there are `wanted`, those that start counted, in the zones that SpotHedge
// takes.
void service_spot(const struct plan_service_snapshot *now, uint32_t wanted, struct plan_service_decision *decision);

// ---- Queue (service_queue.c) ----

struct service_request {
    double at_s;
    uint32_t prompt, generated;
};
struct service_running {
    uint32_t request;
    float first_s; // its first token, from its arrival
    double until;  // tokens of the replica's clock
};
struct service_replica {
    uint32_t zone; // zone_count: on demand
    double ready_at_s;
    bool ready;
    double now_s, busy_until_s; // its clock has run up to now_s; prompts are computed until busy_until_s
    double tokens;              // of its clock: steps so far
    uint32_t running_count;
    struct service_running *running; // (slots)
};

struct service_queue {
    const struct plan_service_job *job;
    struct service_replica *replicas; // (PLAN_SERVICE_REPLICAS_MAX), oldest first
    uint32_t replica_count;
    uint64_t next, all; // of the requests that come
    uint32_t *waiting;  // (waiting_count) a ring of `room`
    uint32_t first, waiting_count, room;
    uint32_t *again; // (again_count) whose replica was taken away: first in line, the last of the list first
    uint32_t again_count, again_room;
    float *latency_s, *first_token_s; // (served)
    uint64_t served, failed, restarted;
};
void service_queue_init(struct service_queue *q, const struct plan_service_job *job);
void service_queue_fini(struct service_queue *q);
uint64_t service_queue_count(const struct service_queue *q, double before_s); // requests that come before
// All that happens before to_s. Returns how many requests came.
uint64_t service_queue_run(struct service_queue *q, double from_s, double to_s);
void service_queue_add(struct service_queue *q, uint32_t zone, double ready_at_s);
void service_queue_drop(struct service_queue *q, uint32_t replica); // what runs on it waits again
void service_queue_ready(struct service_queue *q, uint32_t replica, double now_s);

#endif
