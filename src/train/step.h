// One step of one process as a transaction: RUN computes groups of micro-batches forward and backward into
// the slots of the canonical tree, REDUCED holds the root gradient, COMMIT decides, APPLY steps the optimizer. What
// computes is train/executor.h, which many workers share: here it hosts one stage of all units.
#ifndef TRAIN_STEP_H
#define TRAIN_STEP_H

#include "model/data.h"
#include "train/commit.h"
#include "train/layout.h"
#include "train/optim.h"

struct step_options {
    const struct model *model;
    const struct kern *kern;
    const struct layout *layout; // stays the caller's, outlives the executor
    const struct token_view *view;
    uint64_t seed;
    double dropout;
    struct optim_options optim;
};

struct step_executor;
// Reserves everything the steps need; they allocate nothing. state: weights, m, v stay the caller's.
BG_MUST_USE bg_status step_create(struct bg_env *env, const struct step_options *options,
                                  const struct optim_state *state, struct bg_error *err, struct step_executor **ex);
void step_destroy(struct step_executor *ex);

// All of a step through `commit`. BG_NOT_FINITE names step and tensor and leaves weights and moments as they were.
BG_MUST_USE bg_status step_run(struct step_executor *ex, struct step_commit *commit, uint64_t step, double lr,
                               struct bg_error *err, struct step_record *record);

// Measures this machine on a block's forward with the first group's data: model flops per second to expect of a step.
double step_probe(struct step_executor *ex);

// For evaluation between steps: the activations' memory and the lanes' scratch.
void *step_memory(struct step_executor *ex);
void *const *step_scratch(struct step_executor *ex);
// The root gradient of the step that ran last (tests compare it).
const float *step_gradient(const struct step_executor *ex);

#endif
