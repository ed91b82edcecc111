// A job: what the user asked for (job file, key=value overrides, defaults), resolved and checked. job_keys.c
// lists the keys.
#ifndef TRAIN_JOB_H
#define TRAIN_JOB_H

#include "base/env.h"
#include "model/config.h"
#include "plan/plan.h"
#include "plan/fleet/fleet.h"
#include "plan/spot/policy.h"
#include "train/optim.h"

struct job_list {
    char **items;
    size_t count;
};

enum job_schedule { JOB_COSINE, JOB_LINEAR, JOB_CONSTANT };

struct job {
    struct {                        // model: either from, or a shape
        char *from;                 // NULL: none
        struct model_config config; // vocab comes from the tokenizer (0 here) unless the job file fixes it. With
                                    // `from`: only context counts, 0 where the model's own is meant
        bool vocab_set;
    } model;
    struct {                                // data
        struct job_list train, valid_files; // valid: a fraction, or a list of files
        double valid;
        char *tokenizer;            // "bytes", a path, or NULL with model.from: the model's own
        char *field, *utf8, *cache; // cache NULL: <run dir>/cache
    } data;
    struct { // train
        uint64_t steps;
        uint32_t micro_batch, micro_batches;
        double lr, min_lr;
        uint64_t warmup;
        enum job_schedule schedule;
        double weight_decay, beta1, beta2, eps, clip, dropout;
        uint64_t seed, eval_every, checkpoint_every;
        uint32_t keep;
        uint64_t eval_tokens; // 0: the whole validation set
    } train;
    struct { // run
        char *dir;
        uint32_t workers, threads; // threads 0: all cores, shared out among the workers
        char *speeds;              // of the workers, relative, "1,0.5"; NULL: all alike
        double memory_gb;          // of a worker; 0: this machine's, shared out
        char *plan, *schedule, *passes, *shadow, *recovery;
        char *recompute, *offload; // "true", "false", or stages: "0,2-4"
        bool split, respawn;
        char *scratch; // for offload; NULL: dir
        uint32_t heartbeat_ms, patience_ms, join_ms;
        uint32_t group; // micro-batches a group; 0: auto. Physical: never in the bits
        char *order;    // physical: order in which groups are computed: "ascending" (default), "descending",
                        // "shuffle:SEED" (tests)
    } run;
    struct {                                  // budget: machines are rented by a policy. Physical as well
        char *policy, *fleet_policy, *trace;  // neither policy: no budget; trace NULL: spot is always there
        double deadline, work, overhead, gap; // s; work 0: as measured
        double spot_price, on_demand_price;   // $ an hour, a machine
        struct job_list zones;                // instead of trace: plan_zone_spec_parse's texts
        uint32_t trace_start;                 // tick
        double time_scale;
    } budget;
};

// Relative paths, in a job file too, start at the working directory. `source`: a .yaml/.yml job file, or a text
// file/directory/.jsonl to train on with the defaults; NULL: overrides only. Overrides: "key.key=value". Errors name
// file, line, key, the nearest valid key and the accepted values.
BG_MUST_USE bg_status job_load(struct bg_env *env, const char *source, const char *const *overrides, size_t count,
                               struct bg_error *err, struct job *job);
void job_fini(struct job *job);
// The resolved job as YAML that job_load reads back alike; bg_free it.
char *job_to_yaml(const struct job *job);
// One line a key: name, type, default, meaning; for --help. bg_free it.
char *job_help(void);

// How the job is spread over processes: run.plan and run.schedule understood. units: of the model (0: not known yet).
// All of it is physical.
struct job_spread {
    uint32_t replicas[PLAN_STAGES_MAX], stages, seats;
    enum plan_schedule schedule;
    uint32_t chunks, slices, range;
    struct plan_passes passes;
    bool shadow;
    uint8_t saving[PLAN_STAGES_MAX]; // (stages) PLAN_RECOMPUTE, PLAN_OFFLOAD or 0
    bool picks;                      // some stages do and some do not
    struct plan_stage *cut;          // (stages x chunks) of a plan file, else NULL: the controller cuts. bg_free it
};
// Errors name the key. A plan file is read through env; without env it is left aside (stages 0).
BG_MUST_USE bg_status job_spread(struct bg_env *env, const struct job *job, uint32_t units, struct bg_error *err,
                                 struct job_spread *spread);
// What run.plan=auto has become (until then: one stage).
void job_spread_shape(const struct job *job, const uint32_t *replicas, uint32_t stages, struct job_spread *spread);
// run.speeds: speeds (workers), NULL: only looked at. All are 1 where none is given.
BG_MUST_USE bg_status job_speeds(const struct job *job, uint32_t workers, struct bg_error *err, double *speeds);
// Whether sequences of this length can be cut into the slices of run.schedule.
BG_MUST_USE bg_status job_check_slices(const struct job *job, uint32_t length, struct bg_error *err);
bool job_is_auto(const struct job *job); // run.plan
bool job_has_budget(const struct job *job);
// The budget section for so many machines: one of the two policies, the other is NULL. Errors name the key. Where the
// work is left to be measured it is 0 in *deadline, and whether it can be done in time is not looked at.
BG_MUST_USE bg_status job_budget(const struct job *job, uint32_t instances, struct bg_error *err,
                                 const struct plan_policy **policy, const struct plan_fleet_policy **fleet,
                                 struct plan_deadline *deadline);
// Many processes: more than one seat, or a shadow.
bool job_is_spread(const struct job_spread *spread);

struct optim_options job_optim(const struct job *job);

// Learning rate of 0-based step, in double (NUMERICS 13): lr (s + 1) / (warmup + 1) below warmup; then from lr at step
// warmup to min_lr at step `steps` along half a cosine or a line, or lr throughout.
double job_lr(const struct job *job, uint64_t step);

#endif
