// The training loop of one process: opens data, tokenizer and model, runs steps as transactions (step.h), logs,
// evaluates, writes checkpoints, resumes, stops. What it tells its caller goes through an observer; it prints nothing.
#ifndef TRAIN_TRAINER_H
#define TRAIN_TRAINER_H

#include "train/evaluate.h"
#include "train/job.h"

struct trainer_info { // known before the first step
    const struct model_config *config;
    const char *isa;
    unsigned threads; // of each process
    uint64_t parameters;
    uint64_t train_tokens, valid_tokens, samples; // tokens of each split; training samples of an epoch
    uint64_t tokens_per_step;
    double flops_per_step; // model flops: 6 x matmul weights x tokens + the causal half of attention
    uint64_t memory_bytes; // everything reserved for this run
    uint64_t checkpoint_bytes, disk_bytes, disk_free; // one checkpoint; the most that may lie on disk at once; free now
    double expected_seconds;                          // from a short measurement of the machine; steps only
    uint64_t first_step, steps;                       // first step to compute (> 0: resumed), total
    uint32_t group;                                   // micro-batches computed at once
    uint32_t workers;                                 // processes that compute; 0: this one alone
    bool shadow;
    const char *signature_sha256;
};

struct trainer_step {
    uint64_t step, steps; // 0-based step just done; total
    double loss, grad_norm, lr;
    uint64_t tokens;                            // of this step
    double seconds;                             // of this step
    double tokens_per_second, flops_per_second; // smoothed over the last steps
    double eta_seconds;
};

struct trainer_observer { // any callback may be NULL
    void *arg;
    void (*tokenizing)(void *arg, uint64_t bytes_done, uint64_t bytes_total);
    void (*started)(void *arg, const struct trainer_info *info);
    void (*step)(void *arg, const struct trainer_step *step);
    void (*evaluated)(void *arg, uint64_t step, const struct evaluate_result *result); // after `step` steps
    void (*checkpointed)(void *arg, uint64_t step, const char *directory, double seconds);
    void (*warning)(void *arg, const char *text);
    void (*processes)(void *arg, const char *text); // what happened among those of a job of many
    bool (*stop)(void *arg);                        // asked after each step; true behaves like a stop signal
};

struct trainer_options {
    const struct job *job;
    bool resume;
    bool dry;            // no run directory at all (replay, benchmarks); data.cache must then be set in the job
    uint64_t stop_after; // 0: none; else behaves as if a stop signal came when this many steps are done
    const struct trainer_observer *observer; // may be NULL
};

struct trainer_result {
    uint64_t steps;     // done, the resumed ones included
    bool finished;      // all steps are done
    bool nothing_to_do; // resumed a run that was finished already
    double loss;        // of the last step
    double valid_loss;  // of the last evaluation; negative: none
    uint64_t tokens;    // of all steps
    double seconds;     // spent in this call
    uint64_t memory_bytes;
    uint64_t step_allocations; // made between the second step and the last one: 0
    char curve_sha256[65], weights_sha256[65], signature_sha256[65];
    char checkpoint[1024]; // newest, "" where none
};

// BG_OK: finished. BG_STOPPED: a stop signal came (or stop_after), the step was finished and a checkpoint written:
// resume goes on from there; *result is filled as well. BG_NOT_FINITE: names step and tensor; nothing was overwritten.
// BG_EXISTS: the run directory is not empty. BG_MISMATCH: resume with a changed signature; names the keys.
BG_MUST_USE bg_status trainer_run(struct bg_env *env, const struct trainer_options *options, struct bg_error *err,
                                  struct trainer_result *result);

#endif
