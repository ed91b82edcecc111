// The search over one lattice of machines.
#ifndef PLAN_SYNC_SEARCH_H
#define PLAN_SYNC_SEARCH_H

#include "plan/split/sync_lattice.h"

struct sync_places { // where a stage may begin or end
    uint32_t *at;    // (count + 1) ascending units, 0 and the last one among them
    uint32_t count;
};
struct sync_breadth {
    uint32_t beam;   // labels of a state; 0: any number
    bool by_depth;   // rows of another number of stages never drop each other
    bool stepwise;   // a stage is one step of places
    bool capped;     // shares may be cut for memory
    bool all_shapes; // worse plans of other shapes are wanted, however much worse
};
// Offers what it finds. False: something was dropped that could have been best.
bool sync_search(const struct sync_model *m, const struct sync_kinds *kinds, const struct sync_lattice *lattice,
                 const struct sync_places *places, const struct sync_breadth *how, struct plan_sync *found);
// Takes over *choice, which is priced.
void sync_offer(struct plan_sync *found, struct plan_sync_choice *choice);

#endif
