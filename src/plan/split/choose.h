// From profiles to one plan: what the planner (sync.h) proposes for items of every size is built as a lowered plan and
// run in the simulator of a step (timeline.h); the shortest step wins, after the passes that make it shorter. Two plans
// are of one shape where as many machines sit at each of their stages.
#ifndef PLAN_CHOOSE_H
#define PLAN_CHOOSE_H

#include "plan/cost/timeline.h"
#include "plan/pass/pass.h"
#include "plan/plan.h"
#include "plan/split/sync.h"

#include <stdbool.h>

struct plan_choose {
    // The profile for items of `group` micro-batches: units alike in all but their times, the same machines.
    bg_status (*profile_of)(void *arg, uint32_t group, struct bg_error *err, struct plan_profile *profile);
    void *arg;
    uint32_t micro_batches;
    uint32_t group; // micro-batches an item, a power of two; 0: chosen
    enum plan_schedule schedule;
    uint32_t chunks, slices, range;
    bool split;
    enum plan_sync_choose recompute, offload; // AUTO: one or the other, where a profile says what the disk costs
    bool use_all;                             // no machine may stay unused
    const uint32_t *replicas;                 // (stages): a shape that is given; NULL: chosen
    const struct plan_stage *cut;             // (stages x chunks), NULL: chosen. With replicas only
    uint32_t stages;                          // of the shape
    const uint8_t *saving;                    // (stages) PLAN_RECOMPUTE, PLAN_OFFLOAD or 0, NULL: chosen. Likewise
    const struct plan_machine *shadow;        // runs a process that follows every unit; NULL: nobody does
    bool shadow_always;                       // else only where a stage of several machines' plan has one machine
    const struct plan_pass_wish *passes;      // NULL: as plan_build has them
    double rows;                              // of a micro-batch (tokens), for what factors would save; 0: unknown
    uint64_t effort;                          // of the planner, as in plan_sync_options
    bool brief;                               // likewise, of its errors; those of a small case then say what was tried
};

struct plan_chosen {
    struct plan_sync_choice choice; // with the planner's own prediction and its terms
    uint32_t group;
    struct plan plan;
    struct plan_profile profile; // its machines are those of the workers, in their order; threads and cores as they are
    struct plan_timeline timeline;
    struct plan_pass_wish wish; // where one was given: which passes the plan has, what each wins, what factors would
    bool wished;
    struct plan_passes passes;
    struct plan_pass_gain gains[PLAN_PASSES];
    struct plan_factors factors;
};
enum { PLAN_CHOSEN_MAX = 8 };
struct plan_chosen_list { // the shortest step first; of one shape, the best only
    struct plan_chosen items[PLAN_CHOSEN_MAX];
    uint32_t count;
    bool exact; // the planner's: no plan of any size of items has a shorter step by its prediction
    bool given; // the shape was
};
void plan_chosen_fini(struct plan_chosen *chosen);
void plan_chosen_list_fini(struct plan_chosen_list *list);

// Errors say what is missing, and the smallest change that would do: by the planner, or in small cases as tried out
// with whole plans, whose partial sums of gradients the planner does not see.
BG_MUST_USE bg_status plan_choose(const struct plan_choose *choose, struct bg_error *err,
                                  struct plan_chosen_list *list);

bool plan_chosen_recomputes(const struct plan_chosen *chosen);           // some stage does
bool plan_chosen_offloads(const struct plan_chosen *chosen);             // some stage does
void plan_chosen_shape(const struct plan_chosen *chosen, char text[64]); // "2x2", "1+2", "64 stages of 1 to 3"

// How much shorter the step would be, in parts of it, if one thing were twice as fast: what bounds it.
enum plan_gain {
    PLAN_GAIN_STAGE,   // the machines of the stage that computes longest
    PLAN_GAIN_COMPUTE, // all machines
    PLAN_GAIN_LINK,    // all links, and what a message takes of its workers
    PLAN_GAIN_COMMIT,  // votes, commit, optimizer, folding of gradients
    PLAN_GAINS,
};
BG_MUST_USE bg_status plan_chosen_gains(const struct plan_chosen *chosen, struct bg_error *err,
                                        double gains[PLAN_GAINS]);
uint32_t plan_chosen_slowest(const struct plan_chosen *chosen); // the worker that computes longest
double plan_chosen_idle(const struct plan_chosen *chosen);      // part of the time of all workers with a seat

// Why the first beat the next two and what bounds it, in sentences, a line each. Where the shape was given they are
// those of `freely`, what there is for the same machines without one (NULL: nobody looked). bg_free it.
BG_MUST_USE bg_status plan_chosen_explain(const struct plan_chosen_list *list, const struct plan_chosen_list *freely,
                                          struct bg_error *err, char **text);

#endif
