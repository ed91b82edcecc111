// What makes a step count. A worker ends RUN with its sums; `reduce` makes them the whole job's; `commit`
// appends the step to the log; only then may anyone APPLY. This is the endpoint of one process, which is its own
// controller; many workers vote and are told (docs/adr/0005).
#ifndef TRAIN_COMMIT_H
#define TRAIN_COMMIT_H

#include "base/status.h"

#include <stddef.h>
#include <stdint.h>

// Sums of one step. Each endpoint fills in what other workers hold; the order of additions is fixed by index alone.
struct step_sums {
    uint64_t step;
    double *leaf_losses; // (micro_batches) token losses summed, not yet divided
    uint32_t micro_batches;
    double *tensor_squares; // (tensors) of the root gradient, tensors in name order
    uint32_t tensors;
};

struct step_record {
    uint64_t step;
    double loss, norm;
    float clip; // the factor of NUMERICS 12
};

struct step_commit;
struct step_commit_ops {
    // REDUCED: on return *sums holds the whole job's.
    bg_status (*reduce)(struct step_commit *commit, struct step_sums *sums, struct bg_error *err);
    // COMMIT: after BG_OK the step is decided and everyone applies it, whatever dies.
    bg_status (*commit)(struct step_commit *commit, const struct step_record *record, struct bg_error *err);
};
struct step_commit {
    const struct step_commit_ops *ops;
};

// The endpoint of one process: its log is the loss curve in memory.
struct step_local {
    struct step_commit base; // first: the ops cast back
    double *losses;          // (capacity), the caller's
    uint64_t steps, capacity;
};
void step_local_init(struct step_local *local, double *losses, uint64_t steps, uint64_t capacity);

#endif
