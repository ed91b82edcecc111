// A training job on machines that come and go, as stages x replicas: what a shape earns, what it costs to change from
// one to another, the policies that choose, and the simulator that runs a policy on a trace. Time goes in intervals: at
// the start of each a policy sees how many machines there are and names the shape for it. Snapshot in, decision out:
// pure. From Parcae (Duan et al., "Parcae: Proactive, Liveput-Optimized DNN Training on Preemptible Instances",
// NSDI'24) and from those it is compared with: Varuna (EuroSys'22), Bamboo (NSDI'23), Oobleck (SOSP'23).
#ifndef PLAN_FLEET_H
#define PLAN_FLEET_H

#include "plan/cost/profile.h"
#include "plan/spot/trace.h"

#include <stdbool.h>

#define PLAN_FLEET_NODES_MAX 64

struct plan_fleet_options {
    uint32_t nodes_max;     // at most so many machines are used
    uint32_t micro_batches; // of a step, over all replicas
    double samples;         // in a micro-batch
    double interval_s;
    uint32_t stages_min;       // fewer do not fit; 0: what the profile's memory says
    double state_factor;       // bytes that move for a byte of parameters: weights and two moments are 3
    double rendezvous_s;       // whenever state moves
    double group_add_s;        // of building one communication group, where machines join,
    double group_drop_s;       // and where none does
    double store_bytes_s;      // to and from checkpoints
    double checkpoint_every_s; // of the policies that need them
};
extern const struct plan_fleet_options plan_fleet_defaults;

// `longer` of the replicas have stages + 1 stages. All 0: nothing runs.
struct plan_fleet_shape {
    uint32_t replicas, stages, longer;
};

struct plan_fleet {
    struct plan_fleet_options options;
    uint32_t stages_min, stages_max, units;
    double link_bytes_s;                                              // between two machines; 0: no bytes take time
    double bytes_before[PLAN_PROFILE_UNITS_MAX + 1];                  // of parameters, in the units before
    uint32_t cut[PLAN_FLEET_NODES_MAX + 1][PLAN_FLEET_NODES_MAX + 1]; // [stages][stage]: its first unit
    double slot_s[PLAN_FLEET_NODES_MAX + 1];                          // [stages]: a micro-batch in the slowest stage
    double forward_s[PLAN_FLEET_NODES_MAX + 1];                       // the slowest forward of a stage
    double stage_bytes[PLAN_FLEET_NODES_MAX + 1];                     // parameters of the largest stage
};

// A transformer of `layers` blocks on machines of `flops` useful operations a second, `tokens` in a micro-batch: 6
// operations a token and weight, activations of two bytes. As published for V100 on 10 Gb/s, 20.7e12 and 1.25e9 bytes a
// second give the rates of Parcae's tables for its GPT of 48 layers, 1600 wide, within a fifth on average.
struct plan_fleet_transformer {
    uint32_t layers, dim, vocabulary, tokens;
    double flops, link_bytes_s, memory_bytes;
};
BG_MUST_USE bg_status plan_fleet_transformer(const struct plan_fleet_transformer *shape, struct bg_error *err,
                                             struct plan_profile *profile);

// BG_INVALID where numbers make no sense or the model fits on no shape of nodes_max machines.
BG_MUST_USE bg_status plan_fleet_create(const struct plan_profile *profile, const struct plan_fleet_options *options,
                                        struct bg_error *err, struct plan_fleet **fleet);
void plan_fleet_destroy(struct plan_fleet *fleet);

static inline uint32_t plan_fleet_nodes(struct plan_fleet_shape shape)
{
    return shape.replicas * shape.stages + shape.longer;
}

// Samples per second; 0 where the shape is not one (too few stages, more replicas than micro-batches).
double plan_fleet_rate(const struct plan_fleet *fleet, struct plan_fleet_shape shape);

// The same shape with every stage also computing the next one's forward, in bubbles as far as they go (Bamboo).
double plan_fleet_redundant_rate(const struct plan_fleet *fleet, struct plan_fleet_shape shape);

// The shape of `nodes` machines with the highest rate, of equal ones the shallowest; all replicas alike.
struct plan_fleet_shape plan_fleet_fastest(const struct plan_fleet *fleet, uint32_t nodes);

// What is left of a shape: machines that live, by their stage in the replicas of `stages` [0] and stages + 1 [1].
struct plan_fleet_left {
    struct plan_fleet_shape shape;
    uint32_t live[2][PLAN_FLEET_NODES_MAX];
};
struct plan_fleet_left plan_fleet_whole(struct plan_fleet_shape shape); // with nobody lost

// How a shape becomes another. STAY: nothing to do. INTRA: replicas are put together again from who is left, no state
// moves. INTER: machines take over stages that are short. PIPELINE: the stages are cut anew. START: nobody had
// anything.
enum plan_fleet_move_kind {
    PLAN_FLEET_STAY,
    PLAN_FLEET_INTRA,
    PLAN_FLEET_INTER,
    PLAN_FLEET_PIPELINE,
    PLAN_FLEET_START
};
struct plan_fleet_move {
    enum plan_fleet_move_kind kind;
    double moved_bytes; // of state, one after the other: what the neediest stage fetches, then copies
    double lost_bytes;  // that nobody has any more: from the checkpoint, or from who keeps a copy
    double seconds;
};
struct plan_fleet_move plan_fleet_move(const struct plan_fleet *fleet, const struct plan_fleet_left *left,
                                       struct plan_fleet_shape target);

// Stop, load a checkpoint, start again as `target`.
double plan_fleet_restart_s(const struct plan_fleet *fleet, struct plan_fleet_shape target);
// Writing a checkpoint.
double plan_fleet_save_s(const struct plan_fleet *fleet);

// ---- Policies ----

struct plan_liveput;
struct plan_fleet_snapshot {
    const struct plan_fleet *fleet;
    struct plan_liveput *liveput; // remembers what was drawn; the answers are the same with a fresh one
    const uint32_t *counts;       // (count): machines there at the start of each interval so far; the last is now
    uint32_t count;
    const uint32_t *coming; // (coming_count): those of the next intervals, for who may know; else NULL
    uint32_t coming_count;
    struct plan_fleet_left left; // what runs, less those who went
};

// What happens to the state when machines go. LIVE: it moves between machines. CHECKPOINT: restart from the last one;
// the work since is lost with a machine. REDUNDANT: every machine holds its neighbour's stage as well; restart from a
// checkpoint where two neighbours went.
enum plan_fleet_recovery { PLAN_FLEET_LIVE, PLAN_FLEET_CHECKPOINT, PLAN_FLEET_REDUNDANT };

struct plan_fleet_policy {
    const char *name, *about;
    enum plan_fleet_recovery recovery;
    bool clairvoyant; // wants `coming`
    struct plan_fleet_shape (*decide)(const struct plan_fleet_snapshot *now);
};
extern const struct plan_fleet_policy *const plan_fleet_policies[]; // ends with NULL
const struct plan_fleet_policy *plan_fleet_policy_find(const char *name);

// ---- The simulator ----

#define PLAN_FLEET_INTERVALS_MAX 1000000
uint32_t plan_fleet_intervals(const struct plan_fleet *fleet, const struct plan_trace_event *events, size_t count);

struct plan_fleet_interval { // for a picture
    uint32_t nodes;
    struct plan_fleet_shape shape;
    double samples;
};
struct plan_fleet_result {
    double samples, redone;            // trained and kept; lost with machines and done again
    double seconds, stopped_s, idle_s; // all of it; of that while changing, and with too few machines
    double node_hours, used_node_hours;
    uint32_t changes[PLAN_FLEET_START + 1]; // by enum plan_fleet_move_kind; restarts from a checkpoint are START
    double liveput; // mean of what one loss would leave of the shapes that ran, samples per second
    struct plan_fleet_interval *intervals; // (interval_count)
    uint32_t interval_count;
};
// What comes true of the model: shapes as they were seen, the others as much faster or slower than the model says as
// those on average, and a change of state that moves.
struct plan_fleet_seen {
    struct plan_fleet_shape shape;
    double rate; // samples per second
};
struct plan_fleet_truth {
    const struct plan_fleet_seen *seen; // (count)
    uint32_t count;
    double change_s;
};
struct plan_fleet_run_options {
    uint64_t seed;                        // of the draws
    const struct plan_fleet_truth *truth; // NULL: what the model says
    void (*decided)(void *arg, const struct plan_fleet_snapshot *now, struct plan_fleet_shape shape); // NULL: none
    void *arg;
};
// Machines that go do so at the start of the interval in which they go; those that come are there at the next. Runs up
// to the last event.
void plan_fleet_run(const struct plan_fleet *fleet, const struct plan_fleet_policy *policy,
                    const struct plan_trace_event *events, size_t event_count,
                    const struct plan_fleet_run_options *options, struct plan_fleet_result *result);
// The same over machines counted at the start of every interval; the last to come is the first to go.
void plan_fleet_run_counts(const struct plan_fleet *fleet, const struct plan_fleet_policy *policy,
                           const uint32_t *counts, uint32_t intervals, const struct plan_fleet_run_options *options,
                           struct plan_fleet_result *result);
void plan_fleet_result_fini(struct plan_fleet_result *result);

#endif
