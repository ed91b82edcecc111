// Measures this machine for a job: what its units, messages and commits cost here, as a profile for the planners
// (plan/cost/profile.h). A model with the job's shapes but few blocks is run by the executor itself, unit by unit;
// sizes that would take too long are found by plan/cost/cost.h.
#ifndef TRAIN_MEASURE_H
#define TRAIN_MEASURE_H

#include "model/config.h"
#include "plan/cost/cost.h"
#include "store/store.h"
#include "train/optim.h"

struct measure_options {
    const struct model_config *config; // of the job; vocab is known
    double dropout;
    struct optim_options optim;
    uint32_t batch, length, micro_batches; // sequences a micro-batch, tokens a sequence, micro-batches a step
    bool split;                            // input and weight gradients apart
    uint32_t slices;                       // of sequences; 0, 1: none
    uint32_t group_max;                    // largest item that is of interest, in micro-batches; 0: micro_batches
    unsigned cpus;                         // of this host, that workers share; 0: as many as the env has threads
    double seconds;                        // about how long it may take; 0: 6
    const char *scratch;                   // directory where stashes may wait; NULL: what that takes is not known
    struct store *log;                     // of the kind that the controller appends to, to be written to; NULL: none
};
// What was measured. Of one number of threads: the env's.
struct measure {
    struct model_config config;
    struct optim_options optim;
    uint32_t batch, length, micro_batches;
    bool split;
    uint32_t slices;
    unsigned threads;
    const struct kern *kern;
    double memory_bytes;       // of this host
    double crowded;            // speed of a cpu when all of them compute, against one alone; at most 1
    struct plan_costs costs;   // rows: tokens of an item
    struct plan_profile other; // links and overheads; no units, no machines
};
BG_MUST_USE bg_status measure_machine(struct bg_env *env, const struct measure_options *options, struct bg_error *err,
                                      struct measure *measure);
// The options of a job: its model's configuration (from the tokenizer, or model.from) goes to *config, sizes are its
// own.
struct job;
BG_MUST_USE bg_status measure_job_options(struct bg_env *env, const struct job *job, struct bg_error *err,
                                          struct model_config *config, struct measure_options *options);
// A profile for items of `group` micro-batches, with `workers` machines: this host's, which share `cores` cpus.
BG_MUST_USE bg_status measure_profile(const struct measure *measure, uint32_t group, uint32_t workers, double cores,
                                      struct bg_error *err, struct plan_profile *profile);

#endif
