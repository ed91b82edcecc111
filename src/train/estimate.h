// A profile from the model's shape alone: flops and bytes of its units, and rough figures for everything else. Good
// enough to tell pipelines from replicas; measure.h says what this machine really takes.
#ifndef TRAIN_ESTIMATE_H
#define TRAIN_ESTIMATE_H

#include "model/model.h"
#include "plan/cost/profile.h"
#include "train/layout.h"

// What an op costs beside its micro-batches (weights are read, products fill), in micro-batches: one of two costs 2.03.
#define ESTIMATE_OP 0.03

struct estimate_options {
    const struct kern *kern;
    uint32_t batch, length, micro_batches; // sequences a micro-batch, tokens a sequence, micro-batches a step
    uint32_t group;                        // micro-batches an op
    uint32_t workers, threads;             // all on one host; threads of each
    double cores;                          // of it
    double memory_bytes;                   // of a worker, 0: no limit
    bool split;                            // input and weight gradients apart
    uint32_t slices;                       // of sequences; 0, 1: none
    const double *costs;                   // (units) relative flops
    const double *speeds;                  // (workers), NULL: all are alike
};
// plan_profile_fini() it.
void estimate_profile(const struct model *model, const struct estimate_options *options, struct plan_profile *profile);

// What a profile holds of bytes, here and where its times are measured: units (made here), what a worker's ops share
// and the process. Of `step`: batch, length, micro_batches and slices.
void estimate_sizes(const struct model *model, const struct kern *kern, unsigned threads,
                    const struct layout_options *step, uint32_t group, bool split, struct plan_profile *profile);
enum plan_unit_kind estimate_kind(const struct model *model, uint32_t unit);

#endif
