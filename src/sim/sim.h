// Deterministic simulation: the controller, its workers and the shadow as they are, in one thread over a simulated
// network, with seeded faults, and checkers that share no code with what they check. The seed is the run: what it does,
// what breaks and when, and what comes out are a function of it.
#ifndef SIM_SIM_H
#define SIM_SIM_H

#include "base/status.h"

#include <stdbool.h>
#include <stdint.h>

struct sim;                           // jobs and their references, for any number of runs
struct sim *sim_create(unsigned isa); // enum bg_isa bits
void sim_destroy(struct sim *sim);

// What is broken on purpose: the checkers have to notice.
enum sim_control {
    SIM_SOUND,
    SIM_STALE,   // frames of an older generation are let through as if they were of the newest
    SIM_TWICE,   // a weight of one worker is changed after a step, as a part applied twice would
    SIM_FORGETS, // a commit is told to the workers and lost from the log
    SIM_LEAK,    // a reservation that nobody gives back
    SIM_CONTROLS
};
// The kill matrix: one strike at the n-th point that any process passes, in a job that holds everything twice.
// Variants 0 to 3: 2 stages x 2 replicas x 4 micro-batches; bit 0: with a shadow; bit 1: the dead are started again.
// 4 and 5: 4 stages and a shadow; bit 0: the dead are started again. 6: 2 stages in 3 slices and a shadow.
// 7 and 8: 2 stages, or 2 replicas, on machines that are rented, and a shadow.
enum { SIM_MATRIX_RENTS = 7, SIM_MATRIX_VARIANTS = 9 };
struct sim_strike {
    uint32_t variant, point; // 0: none
    bool freeze;             // long enough to be declared lost, then it goes on; else it is killed
    uint32_t pause;          // so many points later all that compute are gone, and others come; 0: not
};
struct sim_options {
    uint64_t seed;
    const struct sim_strike *strike; // NULL: the seed's own job and faults
    enum sim_control control;
    void (*say)(void *arg, const char *line); // who, what, when; NULL: quiet
    void *arg;
};
struct sim_result {
    bool passed;
    char scenario[400]; // what the seed stands for
    char text[4000];    // what went wrong, with what everybody was doing
    uint64_t trace;     // hash of everything that happened, in order
    uint64_t virtual_ns, turns, frames, points;
    uint32_t kills, freezes, restarts, frame_faults, generations, rollbacks;
};
void sim_run(struct sim *sim, const struct sim_options *options, struct sim_result *result);

#endif
