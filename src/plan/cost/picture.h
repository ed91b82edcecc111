// A plan as pictures, in SVG text that a person reads: one step along its time, and who holds what.
#ifndef PLAN_PICTURE_H
#define PLAN_PICTURE_H

#include "plan/plan.h"
#include "plan/cost/profile.h"
#include "plan/cost/timeline.h"

struct plan_picture {
    const struct plan *plan;              // of a step: lists, seats and items; of a map: all
    const struct plan_timeline *timeline; // spans sorted as plan_timeline makes them
    const struct plan_profile *profile;   // names of machines and units; NULL: none
    const char *title;                    // NULL: none
    bool turns;                           // times are turns of a schedule, not seconds
};
// One row a worker: F, B, W with their items in a bar, messages in two thin ones below it (activations, gradients), and
// what is left is idle. Wider where there are more ops, so that items stay readable to 64 of them. bg_free it.
char *plan_picture_step(const struct plan_picture *picture);
// A band a stage: its units, what they cost, the machines that compute it with their shares, memory and work. Of a
// picture with a profile. bg_free it.
char *plan_picture_map(const struct plan_picture *picture);

#endif
