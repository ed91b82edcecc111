// A profile from the model's shape alone: flops and bytes of its units, and rough figures for everything else. Good
// enough to tell pipelines from replicas; measure.h says what this machine really takes.
#ifndef TRAIN_ESTIMATE_H
#define TRAIN_ESTIMATE_H

#include "model/model.h"
#include "plan/cost/profile.h"

// What an op costs beside its micro-batches (weights are read, products fill), in micro-batches: one of two costs 2.03.
#define ESTIMATE_OP 0.03

struct estimate_options {
    uint32_t batch, length;    // sequences a micro-batch, tokens a sequence
    uint32_t group;            // micro-batches an op
    uint32_t workers, threads; // all on one host; threads of each
    double cores;              // of it
    double memory_bytes;       // of a worker, 0: no limit
    bool split;                // input and weight gradients apart
    const double *costs;       // (units) relative flops
    const double *speeds;      // (workers), NULL: all are alike
};
// plan_profile_fini() it.
void estimate_profile(const struct model *model, const struct estimate_options *options, struct plan_profile *profile);

#endif
