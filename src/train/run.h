// The books of a run, whoever computes it: its directory (fresh or resumed, under a lock), what is trained, the curve,
// the logs, what the observer is told, and the end. The loop of one process (trainer.c) and a controller of many keep
// the same books through this, so both leave the same files.
#ifndef TRAIN_RUN_H
#define TRAIN_RUN_H

#include "train/material.h"
#include "train/runlog.h"
#include "train/trainer.h"

struct run {
    struct bg_env *env;
    const struct trainer_options *options;
    const struct job *job;
    struct material material;

    double *losses; // (train.steps)
    size_t losses_bytes;
    struct evaluation_point *evaluations;
    size_t evaluation_count;
    double seconds_before; // of a resumed run's earlier parts
    uint64_t start_ns;
    uint64_t paced; // steps told of in this call
    double pace;    // seconds a step, smoothed

    bool directory_made, files_made; // by us, before the first step: a failed start takes them away again
    struct bg_file *lock;            // of the directory: one process at a time
    bool resumed;                    // from a checkpoint
    struct runlog log;
    bool logging;
    bool written;          // a checkpoint of this run exists
    uint64_t written_step; // the newest one
    char *written_path;
};

// The directory is checked and locked, what is trained is open. With resume: run_restore() next. On failure what was
// opened is closed by run_close(), which takes the files of a start away that never began.
BG_MUST_USE bg_status run_open(struct run *run, struct bg_env *env, const struct trainer_options *options,
                               struct bg_error *err);
void run_close(struct run *run);

// Takes the newest checkpoint that verifies, if there is one: its step (written_step), losses, evaluations, and with
// `state` its tensors. Sets damaged ones aside. Refuses another job than the directory's.
BG_MUST_USE bg_status run_restore(struct run *run, const struct optim_state *state, struct bg_error *err);
// A run that is complete at `steps` steps and has nothing to add keeps its files as they are.
BG_MUST_USE bg_status run_is_finished(struct run *run, uint64_t steps, struct bg_error *err, bool *finished);
// What is known without an executor; the caller adds memory, group and expected time.
struct trainer_info run_info(const struct run *run, uint64_t first_step);
// Checks the disk, fills that in, tells the observer.
BG_MUST_USE bg_status run_tell_started(struct run *run, struct trainer_info *info, struct bg_error *err);
// job.yaml, plan.txt (what the plan is of, then `plan`), logs repaired to `steps` steps.
BG_MUST_USE bg_status run_open_files(struct run *run, uint64_t steps, const char *plan, struct bg_error *err);

// What happened, for logs and observer.
struct run_step {
    const struct step_record *record;
    double lr, seconds;
    uint32_t workers, generation;
};
BG_MUST_USE bg_status run_step(struct run *run, const struct run_step *step, struct bg_error *err);
BG_MUST_USE bg_status run_evaluated(struct run *run, uint64_t step, const struct evaluate_result *result,
                                    struct bg_error *err);
BG_MUST_USE bg_status run_checkpointed(struct run *run, uint64_t step, const char *directory, double seconds,
                                       struct bg_error *err);
void run_warn(const struct run *run, const char *format, ...) BG_PRINTF(2, 3);

bool run_stop_asked(const struct run *run, uint64_t steps);
double run_seconds(const struct run *run); // of this call
// Something that is due every so often, and at the end.
bool run_due(const struct run *run, uint64_t step, uint64_t every);

// Fills in what the books know after `steps` steps; weights_sha256 and memory are the caller's.
void run_fill_result(const struct run *run, uint64_t steps, struct trainer_result *result);
// BG_OK: result.json with `more` (taken over; NULL: nothing) added. BG_STOPPED, failures: an event. Returns `status`
// unless it is BG_OK and the writing fails.
BG_MUST_USE bg_status run_end(struct run *run, bg_status status, const struct trainer_result *result, json_t *more,
                              struct bg_error *err);

#endif
