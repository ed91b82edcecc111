// The synchronous planner for unequal machines: which units form a stage, which machines sit there, how many items each
// of them takes, and what is computed again to save memory, so that a step of the flush pipeline is predicted to be as
// short as can be.
//
// The prediction (plan_sync_cost), per step, with I items of g = M / I micro-batches on the mean; stage s has replicas
// j with n_j items and effective speeds v_j:
//   work_s = g (forward + input + weight [+ forward, where it is computed again]
//               + 2 stash disk_byte_s, where it waits on disk]) + 2 op_s
//            + 2 (message_s + g cut_bytes message_byte_s) a boundary
//   wire_s = 2 (latency + g cut_bytes / bandwidth) of the boundary below the stage, 0 for the last one
//   L_s    = work_s / min_j v_j + wire_s                                 one item through the stage, there and back
//   busy_s = max_j n_j work_s / v_j
//   wait_s = max(busy_s - work_s / min_j v_j, (ceil(I / replicas) - 1) g cut_bytes / bandwidth)
//   tail_s = gradients, reduced to r replicas: 2 (r - 1) / r bytes / bandwidth + 2 (r - 1) latency
//            + (r - 1) / r bytes (reduce_byte_s + 4 message_byte_s) / min_j v_j; and the optimizer: parameters
//            step_byte_s / min_j v_j
//            and the gradient of a tied table that leaves the last stage for the first: latency + tie_bytes / bandwidth
//   step   = sum_s L_s + max_s wait_s + max_s max(0, tail_s - sum over t < s of (backward_t / min_j v_j + wire_t / 2))
//            + commit_s
// With one replica a stage the first two terms are the sum of the stages plus (I - 1) times the slowest: the objective
// of "Alpa: Automating Inter- and Intra-Operator Parallelism" (OSDI 2022, 5.2); the third is the gradient traffic that
// the backwards of earlier stages do not hide ("DAPPLE: A Pipelined Data Parallel Approach", PPoPP 2021, 4;
// "Mist: Efficient Distributed Training of Large Language Models via Memory-Parallelism Co-Optimization", EuroSys
// 2025, inter-stage objective). A stage's replicas take whole items, n_j in proportion to their speed.
//
// Speeds: machines of one host share its cores. Where the threads of those that are used are more than the cores, each
// has speed x (cores - (1 - sharing) min(threads - cores, cores)) / threads: more of them than fit gain nothing. Links:
// a boundary or a reduction among machines of one host is on the inner link, any other on the outer one. Memory of a
// machine: process_bytes, work_bytes a micro-batch of an item, 4 x parameters (weights, gradient, two moments; a tied
// table counts in the first stage and in the last), for each item in flight its input and its stash (its input alone
// where the stash is computed again or waits on disk, and one stash), one output. Items in flight: min(n_j,
// floor((machines of this stage and those behind it - 1) / replicas) + 1); GPipe: n_j.
#ifndef PLAN_SYNC_H
#define PLAN_SYNC_H

#include "plan/plan.h"
#include "plan/cost/profile.h"

enum plan_sync_mode { PLAN_SYNC_RECOMPUTE = 1, PLAN_SYNC_OFFLOAD = 2 }; // how a stage saves memory, if it does
enum plan_sync_choose { PLAN_SYNC_OFF, PLAN_SYNC_ON, PLAN_SYNC_AUTO };

struct plan_sync_options {
    uint32_t micro_batches;
    uint32_t group;                           // micro-batches an item, a power of two
    enum plan_sync_choose recompute, offload; // not both ON
    bool gpipe;                               // all forwards before all backwards: more memory, same time
    bool use_all;                             // no machine may stay unused
    uint32_t stages_min, stages_max;          // 0: any
    const struct plan_stage *cut;             // NULL, or the units of each of stages_max stages
    const uint32_t *replicas;                 // NULL, or how many machines each of stages_max stages gets
    double longest_s;                         // no longer steps are looked for; 0: any
    uint64_t effort;                          // most cuts x teams that are searched exactly; 0: PLAN_SYNC_EFFORT
    bool brief;                               // errors say what is missing, and not what would do
};
#define PLAN_SYNC_EFFORT 20000000u

struct plan_sync_stage {
    uint32_t unit_first, unit_end;
    uint32_t seat_first, seat_end;                 // seats of it
    uint8_t mode;                                  // of enum plan_sync_mode, or 0
    double work_s, item_s, wire_s, busy_s, tail_s; // as above; item_s: work_s / min_j v_j
};
struct plan_sync_seat { // larger shares first
    uint32_t machine;   // of the profile
    uint32_t share;     // items
    double speed;       // effective
    double memory_bytes;
};
struct plan_sync_choice {
    struct plan_sync_stage *stages;
    uint32_t stage_count;
    struct plan_sync_seat *seats;
    uint32_t seat_count;
    double fill_s, wait_s, exposed_s, step_s; // sum of L, largest wait, traffic that shows; all together, with commit_s
};
enum { PLAN_SYNC_CHOICES = 8 };
struct plan_sync { // the best first, the others differ in stages or number of machines from it and from each other
    struct plan_sync_choice choices[PLAN_SYNC_CHOICES];
    uint32_t count;
    bool exact; // nothing that the options allow is predicted to be shorter than choices[0]
};

void plan_sync_choice_fini(struct plan_sync_choice *choice);
void plan_sync_fini(struct plan_sync *sync);
struct plan_sync_choice plan_sync_choice_copy(const struct plan_sync_choice *choice);

// Exact where the ways to cut, times the ways to take the next team of machines, are at most `effort` (equal machines
// count as one kind); a beam over some orders of the machines and the rewrites of plan_sync_probe after it where not.
// Errors say what is missing and the smallest change that would do.
BG_MUST_USE bg_status plan_sync_solve(const struct plan_profile *profile, const struct plan_sync_options *options,
                                      struct bg_error *err, struct plan_sync *sync);

// The prediction for stages, seats, shares and modes that are given: fills everything else. Names the machine that a
// stage does not fit into.
BG_MUST_USE bg_status plan_sync_cost(const struct plan_profile *profile, const struct plan_sync_options *options,
                                     struct bg_error *err, struct plan_sync_choice *choice);
// Shares of `items` for speeds v, each at least 1 and at most its cap (NULL: none): the least max share / v. 0: there
// is no such split.
double plan_sync_split(const double *speeds, const uint32_t *caps, uint32_t count, uint32_t items, uint32_t *shares);

// The best number of pipeline ranks for all machines of the profile. `job` tells everything but replicas, stages, cut
// and shares; cuts are those of plan_cut by its costs (NULL: the profile's), so that they depend on nothing but the
// number of ranks. For every way to spread the machines over ranks (of more than 7 machines: for every number of ranks)
// the best seats and shares are solved for; the steps of the most promising ones are then simulated (timeline.h). Of
// shapes within 1 % of the best the one that was solved first: few ranks. rank_of: (machines), or NULL.
struct plan_sync_shape {
    uint32_t stages, replicas[PLAN_STAGES_MAX];
    double step_s; // simulated
};
BG_MUST_USE bg_status plan_sync_shape(const struct plan_profile *profile, const struct plan_options *job,
                                      struct bg_error *err, struct plan_sync_shape *shape, uint32_t *rank_of);

// Best-first search over rewrites of a plan: a unit across a cut, a machine to another stage or out or in, two machines
// swapped, an item of a share, a mode, two stages joined, one divided. Prices at most `budget` plans and keeps none
// that takes more than `slack` times the best; *choice (priced) becomes the best that was seen. True: it got better.
bool plan_sync_probe(const struct plan_profile *profile, const struct plan_sync_options *options, uint32_t budget,
                     double slack, struct plan_sync_choice *choice);

#endif
