// Inside the simulator of one step. timeline.c: time, workers, ops, messages; timeline_sums.c: who owes whom which
// partial sums and roots, and what a worker's memory holds.
#ifndef PLAN_TIMELINE_INT_H
#define PLAN_TIMELINE_INT_H

#include "plan/plan_int.h"
#include "plan/cost/timeline.h"

// ---- The sums that a worker holds of a stage: maximal nodes of the canonical tree ----
enum { PLAN_HELD_MAX = 64 }; // as tensor/tree.h; with more the count is that
struct plan_sums {
    struct {
        uint32_t level, index;
    } nodes[PLAN_HELD_MAX];
    uint32_t count, peak;
};
// An item's sum arrives: it is added into its sibling where that is there (part of the gradient's matrix product).
// Returns how many more pairs of sums are folded.
uint32_t plan_sums_add(struct plan_sums *sums, struct plan_item item, uint32_t leaves);

// ---- Sums on their way ----
struct plan_share {            // of a unit's gradient: messages of one owner that are taken to travel as one
    uint32_t unit, owner, run; // run: its first
    double bytes, frames;      // of one node
    uint32_t nodes;            // of all members
    uint32_t waits;            // members whose nodes are not there yet
};
struct plan_traffic {
    struct plan_share *shares; // by unit
    uint32_t *first;           // (units + 1): shares of a unit
    uint32_t *nodes;           // (stages, workers): maximal nodes that a worker has at the end
    uint8_t *needs;            // (workers, units): awaits the unit's root
    double *state_bytes;       // (workers): parameters that it steps
};
void plan_traffic_init(const struct plan *plan, const struct plan_profile *profile, struct plan_traffic *traffic);
void plan_traffic_fini(struct plan_traffic *traffic);
double plan_gradient_bytes(const struct plan_unit *unit);

// Bytes of a stage's stash, of all that an item of a micro-batch keeps from its forward to its backward.
double plan_stash_bytes(const struct plan *plan, const struct plan_profile *profile, uint32_t stage);
// ---- Cores that several workers have in turn ----
struct plan_runner {       // a worker
    uint32_t first, count; // its host's cores; count 0: it shares none
    double worth;          // of a core while all of them run
    uint32_t core;         // where it runs, ran last, or waits
    bool wants, waits;     // it has something to do; it waits for a core
    double left;           // of its task, in seconds
    double since, until;   // it waits since; its turn lasts until
};
struct plan_cores {
    struct plan_runner *runners; // (workers)
    uint32_t *at;                // (cores): who runs there, or PLAN_NOBODY
    uint32_t workers, used;      // used: cores
    double sharing;              // what is left of a core that several have
};
void plan_cores_init(const struct plan *plan, const struct plan_profile *profile, struct plan_cores *cores);
void plan_cores_fini(struct plan_cores *cores);
void plan_cores_turn(struct plan_cores *cores, double now); // who runs now, by what each wants and has left
// Of a worker that wants a core: how fast it goes on, 0: it waits; for how many seconds that holds, others aside.
double plan_cores_rate(const struct plan_cores *cores, uint32_t worker, double now, double *until);

// What a worker's memory holds, as executor_memory.c reserves and touches it.
double plan_worker_bytes(const struct plan *plan, const struct plan_profile *profile, double state_bytes,
                         uint32_t worker);

#endif
