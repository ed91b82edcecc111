// A job as a fleet of processes on this host: this process is the controller and keeps the run's books, workers and the
// shadow are processes that it starts. Which of them die, and when, never shows in the bits.
#ifndef CLI_FLEET_H
#define CLI_FLEET_H

#include "base/json.h"
#include "comm/shm/shm.h"
#include "train/trainer.h"

struct fleet_result { // beside struct trainer_result
    uint32_t workers, generation;
    uint64_t generations, deaths, leaves_recomputed, forwards_recomputed, steps_redone, rollbacks, fenced;
    uint64_t recoveries;                                      // deaths that the job went on after
    double recovery_p50_ms, recovery_p99_ms, recovery_max_ms; // loss noticed to next micro-batch computed
    json_t *budget;                                           // of a job with one: what it cost; json_decref it
    double goodput;                                           // useful steps x time of an undisturbed step / wall time
};

// Like trainer_run(), over the processes that the job's spread names.
BG_MUST_USE bg_status fleet_run(struct bg_env *env, const struct trainer_options *options, struct bg_error *err,
                                struct trainer_result *result, struct fleet_result *fleet);
// Ends what a controller that died left in a run directory that one process has gone on with.
void fleet_end_leftovers(struct bg_env *env, const char *run);
json_t *fleet_json(const struct fleet_result *fleet); // as in result.json

// What every process of a fleet knows from the run directory alone.
// Where the controller listens: from RUN/controller.id, 16 random bytes that are made once (`make`).
BG_MUST_USE bg_status fleet_address(struct bg_env *env, const char *run, bool make, struct bg_error *err,
                                    char address[COMM_ADDRESS_MAX]);
// RUN/job.yaml; the directory may have been moved since it was written.
BG_MUST_USE bg_status fleet_load_job(struct bg_env *env, const char *run, struct bg_error *err, struct job *job);
struct comm_shm_options fleet_comm_options(const struct job *job);

#endif
