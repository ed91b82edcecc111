// PipeDream's partitioner, as its authors' program computes it ("PipeDream: Generalized Pipeline Parallelism for DNN
// Training", SOSP 2019, section 3.1): where to cut a graph of layers into stages, and how many machines each stage
// gets, so that the slowest stage is as fast as can be. Levels are nested: level 1 is what is closest (the devices
// of a box), the last one the slowest network; a "machine" of level l is the whole of level l - 1.
#ifndef PLAN_PIPEDREAM_H
#define PLAN_PIPEDREAM_H

#include "plan/split/graph.h"

#include <stdbool.h>

#define PLAN_STATES_MAX             4096
#define PLAN_PIPEDREAM_LEVELS_MAX   8
#define PLAN_PIPEDREAM_MACHINES_MAX 256

// The places where a graph may be cut: antichains, each standing for what is done once its nodes are (they and all
// before them). State 0 is the first source; a state stands behind those it follows from.
struct plan_states {
    uint32_t count, words;
    double *compute_s, *parameter_bytes, *activation_bytes; // (count) sums over all that is done
    double *cut_bytes;                                      // (count) what crosses a cut right behind the state
    uint64_t *before;                                       // (count, words) bits: the states that this one follows
};

// BG_UNSUPPORTED where there are more than PLAN_STATES_MAX (wide graphs: merge branches first).
BG_MUST_USE bg_status plan_states_create(const struct plan_graph *graph, struct bg_error *err,
                                         struct plan_states *states);
void plan_states_destroy(struct plan_states *states);

struct plan_pipedream_options {
    uint32_t level_count;
    struct {
        uint32_t machines;
        double bandwidth;                // bytes/s
    } levels[PLAN_PIPEDREAM_LEVELS_MAX]; // the closest first
    double compression;                  // of activations on the way; 0: sending them costs nothing
    double memory_bytes;                 // of a machine; 0: as much as is needed
    bool straight;                       // one machine a stage
    bool fewer;                          // machines may stay unused
};

// States [first, end) on `replicas` machines of `level` (1: the closest).
struct plan_pipedream_stage {
    uint32_t level, first, end, replicas;
    uint32_t parent; // the stage of level + 1 that this one is part of; of the last level: 0
};

struct plan_pipedream {
    double single_s, pipe_s, data_s;     // a mini-batch on one machine, by this plan, by data parallelism alone
    struct plan_pipedream_stage *stages; // the last level first, then as the stages stand
    uint32_t stage_count;
};

// Of equal plans the one whose last cut comes first, then that with the fewest machines behind the cut.
BG_MUST_USE bg_status plan_pipedream_solve(const struct plan_states *states,
                                           const struct plan_pipedream_options *options, struct bg_error *err,
                                           struct plan_pipedream *plan);
void plan_pipedream_fini(struct plan_pipedream *plan);

#endif
