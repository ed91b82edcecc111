// What the files of the synchronous planner share: the profile as sums, and the price of one stage.
#ifndef PLAN_SYNC_INT_H
#define PLAN_SYNC_INT_H

#include "plan/split/sync.h"

#define SYNC_NO_HOST UINT32_MAX // machines of several hosts, or one that is alone on its host

struct sync_model { // sums have a place more than units: [u] is of the units before u
    const struct plan_profile *profile;
    const struct plan_sync_options *options;
    uint32_t units, items;
    double item;      // micro-batches an item, on the mean
    double item_full; // of the largest one: memory is for that
    double *forward_s, *backward_s, *parameter_bytes, *gradient_bytes, *stash_bytes;
    uint32_t *host; // (machines) SYNC_NO_HOST: alone on its host, so no machine is near it
    bool near;      // all machines are on one host
};
void sync_model_init(struct sync_model *m, const struct plan_profile *profile, const struct plan_sync_options *options);
void sync_model_fini(struct sync_model *m);

// Speed of a machine when machines of its host with so many threads compute, its own among them.
double sync_speed(const struct plan_profile *profile, const struct plan_machine *machine, double threads);

struct sync_team { // the machines of one stage, as far as its time goes
    uint32_t count, host;
    double slowest; // least speed
    double turn;    // largest share / speed: busy_s / work_s
};
struct sync_span {                       // a stage's place
    uint32_t unit_first, unit_end, next; // next: host of the next stage
    uint8_t mode;
};
struct sync_price {
    double work_s, item_s, wire_s, busy_s, wait_s, back_s, tail_s;
};
// The formula of sync.h, stage by stage.
struct sync_price sync_price(const struct sync_model *m, const struct sync_span *span, const struct sync_team *team);

struct sync_room {      // what a machine of a stage has to hold
    double fixed, each; // bytes, and of each item in flight
    uint32_t flights;   // most items in flight, if it has as many
};
// Of units [first, end); a table that two of them share counts once.
double sync_parameters(const struct sync_model *m, uint32_t first, uint32_t end);
// behind: machines of later stages.
struct sync_room sync_room(const struct sync_model *m, const struct sync_span *span, uint32_t count, uint32_t behind);
double sync_bytes(const struct sync_room *room, uint32_t share);
// Most items that fit; UINT32_MAX: any number.
uint32_t sync_cap(const struct sync_room *room, double memory_bytes);

// The bits that the options allow, from the cheapest on: modes[0..count).
uint32_t sync_modes(const struct plan_sync_options *options, uint8_t modes[3]);
bg_status sync_check(const struct plan_profile *profile, const struct plan_sync_options *options, struct bg_error *err);
// As plan_sync_cost, over a model that is there.
bg_status sync_cost(const struct sync_model *m, struct bg_error *err, struct plan_sync_choice *choice);
// Shares of a stage whose machines are set: the best that fit. False: there are none.
bool sync_share(const struct sync_model *m, struct plan_sync_choice *choice, uint32_t stage);
// Of a plan whose stages, machines and modes are given. False: something does not fit.
bool sync_share_all(const struct sync_model *m, struct plan_sync_choice *choice);
bool sync_probe(const struct sync_model *m, uint32_t budget, double slack, struct plan_sync_choice *choice);
// Is there any plan at all?
bool sync_possible(const struct plan_profile *profile, const struct plan_sync_options *options);
// Why there is none.
bg_status sync_explain(const struct plan_profile *profile, const struct plan_sync_options *options,
                       struct bg_error *err);

#endif
