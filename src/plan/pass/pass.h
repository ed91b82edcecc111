// Passes: from one lowered plan to another that does the same work and whose gradients travel otherwise. No pass shows
// in the bits: every element is folded along the canonical tree of micro-batches by one worker, whoever that is and
// whatever message brings it.
//   wait-free    sums of a unit leave as soon as its last weight gradient is done, while the units below are still
//                computed (Poseidon, USENIX ATC 2017, section 3.1). Without it they leave with the reduction.
//   one-owner:R  substitution (Centauri, ASPLOS 2024, section 4.1: one collective by another of the same result): in
//   place
//                of scattering a gradient over the replicas (reduce-scatter and all-gather), replica R folds all of it
//                and sends the roots (a tree of one level).
//   chunks:K     partition (the same section): a unit's gradient goes in K messages, and the reduction is K
//   instructions
//                with other work between them.
//   factors      Poseidon's other half (section 4.1: sufficient factors in place of gradients). Only reported, as its
//                sums are not the tree's: factors.c.
#ifndef PLAN_PASS_PASS_H
#define PLAN_PASS_PASS_H

#include "plan/cost/profile.h"
#include "plan/plan.h"

// ---- Each alone: whatever the plan was in this respect, so it is after ----
void plan_pass_wait_free(struct plan *plan, bool on);
void plan_pass_owner(struct plan *plan, uint32_t owner);   // of every stage: 1 + replica (or its last); 0: in turns
void plan_pass_chunks(struct plan *plan, uint32_t chunks); // of every stage; 0: a message a piece. <= PLAN_CHUNKS_MAX
void plan_passes_apply(struct plan *plan, const struct plan_passes *passes);

// ---- Factors in place of a gradient ----
// A weight (a, b) whose gradient is a sum over rows of outer products could travel as rows x (a + b) numbers in place
// of a x b. Of a unit's matrices only the sum of a x b is known; 2 sqrt(sum of a x b) is the least their a + b can be.
struct plan_factors {
    double full, factors; // bytes that the busiest worker sends and receives in a step: of gradients; of factors, at
                          // least. Each unit in the cheaper form
    uint32_t units;       // where factors might be the cheaper form
    double weight_s;      // what keeps the tree: that much longer computes a worker, to make all weight gradients of
                          // these units from the factors, micro-batch by micro-batch
};
// rows: of a micro-batch (its tokens).
struct plan_factors plan_pass_factors(const struct plan *plan, const struct plan_profile *profile, double rows);

// ---- Choosing ----
enum plan_pass { PLAN_PASS_WAIT_FREE, PLAN_PASS_OWNER, PLAN_PASS_CHUNKS, PLAN_PASSES };
struct plan_pass_wish {
    bool open[PLAN_PASSES]; // the simulated step decides; else it is as in `passes`
    struct plan_passes passes;
    bool factors; // say what they would save
};
// "auto" (all open, factors told), "none", or a list of wait-free, one-owner[:R], chunks[:K], factors; what is not in
// it is off, and without its number it is open.
BG_MUST_USE bg_status plan_passes_parse(const char *text, struct bg_error *err, struct plan_pass_wish *wish);
void plan_passes_text(const struct plan_passes *passes, char text[64]); // as plan_passes_parse reads it

struct plan_pass_gain {
    bool applied;
    double before_s, after_s; // the simulated step without it and with it (or its best form), the passes before it
                              // being as decided and those behind it off
};
// Decides what is open in the wish, pass by pass, by the simulator of a step: a pass is taken where the step is shorter
// by more than a thousandth, wait-free where it is not longer. What is not open is only priced. The plan gets all of
// it.
BG_MUST_USE bg_status plan_passes_choose(const struct plan_profile *profile, const struct plan_pass_wish *wish,
                                         struct bg_error *err, struct plan *plan, struct plan_passes *passes,
                                         struct plan_pass_gain gains[PLAN_PASSES]);

#endif
