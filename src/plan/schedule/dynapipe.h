// Micro-batches of samples whose lengths differ (DynaPipe, "DynaPipe: Optimizing Multi-task Training through Dynamic
// Pipelines", EuroSys 2024, sections 4 and 5): samples in order of length are cut into runs, so that little is padding
// and no run holds the pipeline up; the runs go to replicas so that these are done at the same time.
//
// Minimal is (stages - 1) * t_max / chunks + sum of times / replicas, over all cuts into runs and t_max the longest
// run, each run within tokens_max. This is an answer about data, not a schedule that a job could take on its own: which
// samples make a micro-batch is part of a job's numeric signature, so nothing applies it by itself.
#ifndef PLAN_DYNAPIPE_H
#define PLAN_DYNAPIPE_H

#include "base/status.h"

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#define PLAN_DYNAPIPE_SAMPLES_MAX  16384
#define PLAN_DYNAPIPE_LENGTH_MAX   (1 << 20)
#define PLAN_DYNAPIPE_REPLICAS_MAX 256
#define PLAN_DYNAPIPE_LIMITS_MAX   4096 // values of t_max that are tried

struct plan_sample {
    uint32_t encoder, decoder; // tokens; a model without encoder has its length in `decoder`
};

// Time of a run of n samples that are padded to (e, d), each rounded up to a multiple of `round`:
// fixed + n * (token * (e + d) + pair * (e*e + e*d + d*d)).
struct plan_dynapipe_options {
    double fixed, token, pair; // any unit, at least 0
    uint32_t round;            // at least 1
    uint32_t stages, chunks;   // of the pipeline; chunks: stages of one device (1: not interleaved)
    uint32_t replicas;
    uint64_t tokens_max; // n * (e + d) of a run; 0: no limit
};

struct plan_run { // samples order[first] .. order[end - 1]
    uint32_t first, end;
    uint32_t encoder, decoder; // padded lengths
    double time;
    uint32_t replica;
};
struct plan_dynapipe {
    uint32_t *order; // (samples) by length: encoder, then decoder, then place
    struct plan_run *runs;
    uint32_t sample_count, run_count;
    double longest, sum, objective; // of the runs' times
    double heaviest;                // replica's sum of times
    uint64_t tokens, padded;        // of all samples, with and without padding
    bool exact;                     // false: not every t_max was tried
};

// BG_INVALID: an option out of range, or a sample that alone is beyond tokens_max.
BG_MUST_USE bg_status plan_dynapipe_solve(const struct plan_sample *samples, uint32_t count,
                                          const struct plan_dynapipe_options *options, struct bg_error *err,
                                          struct plan_dynapipe *plan);
void plan_dynapipe_fini(struct plan_dynapipe *plan);

// Gives `count` weights to `parts` parts of about equal sum by the differencing method (Karmarkar and Karp, "The
// Differencing Method of Set Partitioning", 1982): the two partial solutions with the largest spread become one.
void plan_partition(const double *weights, uint32_t count, uint32_t parts, uint32_t *part);

// One sample a line: "LENGTH" or "ENCODER DECODER"; blank lines and lines that begin with # are skipped. bg_free it.
BG_MUST_USE bg_status plan_samples_parse(const char *text, size_t size, struct bg_error *err,
                                         struct plan_sample **samples, uint32_t *count);

#endif
