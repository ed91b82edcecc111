// Recomputes what a run claims: the curve's hash from steps.jsonl, every checkpoint's files, the weights' hash from the
// tensors, the signature from job.yaml and the data. Replay trains again and compares bit for bit.
#ifndef TRAIN_VERIFY_H
#define TRAIN_VERIFY_H

#include "train/trainer.h"

struct verify_options {
    uint64_t replay;                         // steps to train again from the start; 0: none; UINT64_MAX: all of them
    const struct trainer_observer *observer; // of the replay; may be NULL
};

struct verify_result {
    uint64_t steps;            // in steps.jsonl
    bool finished;             // result.json is there
    uint32_t checkpoints;      // verified
    bool signature_recomputed; // false: the data or model.from is no longer there; the stored text was hashed alone
    uint64_t replayed;         // steps trained again, all equal
    bool weights_replayed; // the replay reached a step that has a checkpoint (or the end) and its weights were equal
    char curve_sha256[65], weights_sha256[65], signature_sha256[65];
};

// `path`: a run directory or one checkpoint. BG_MISMATCH or BG_CORRUPT: names file, step or tensor that differs.
BG_MUST_USE bg_status verify_run(struct bg_env *env, const char *path, const struct verify_options *options,
                                 struct bg_error *err, struct verify_result *result);

#endif
