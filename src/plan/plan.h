// A plan as data: which units form a stage, which worker sits where, which micro-batches it computes, and
// the list of instructions that each worker interprets. Numbers here are indices within the plan: worker 0..W-1, stage
// 0..S-1, item 0..I-1 (an item is a group of micro-batches, one node of the canonical tree). Nothing in a plan shows in
// the bits of a job. Everything in this room is pure: no clock, no I/O, no globals.
#ifndef PLAN_PLAN_H
#define PLAN_PLAN_H

#include "base/status.h"

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

enum plan_op_kind {
    PLAN_F,    // forward of (stage, item)
    PLAN_B,    // input gradient; with PLAN_FUSED the weight gradient as well
    PLAN_W,    // weight gradient
    PLAN_SEND, // to `peer`: the activation that F(stage, item) made, or with PLAN_GRAD the gradient that B made
    PLAN_RECV, // from `peer`: what F(stage, item) needs, or with PLAN_GRAD what B needs
    PLAN_COLL, // of `stage`: PLAN_REDUCE (partial sums leave, roots come; of chunk `slice`), PLAN_UNSHARD, PLAN_RESHARD
    PLAN_STEP, // all roots are here: vote, commit, apply
    PLAN_MOVE, // state of unit `item`: PLAN_OUT to `peer`, else in from `peer`
    PLAN_EMPTY, // of a schedule table only: a turn in which nothing runs
};
enum plan_flag {
    PLAN_FUSED = 1,
    PLAN_RECOMPUTE = 2, // F keeps no stash; its B runs the forward again first
    PLAN_GRAD = 4,
    PLAN_LAST = 8, // of the stage's last weight gradient in a list, or of none: its sums leave unit by unit
    PLAN_REDUCE = 16,
    PLAN_UNSHARD = 32,
    PLAN_RESHARD = 64,
    PLAN_OFFLOAD = 64, // of F and B: the stash waits on disk between them
    PLAN_OUT = 128,
};
struct plan_op {
    uint8_t kind, flags;
    uint16_t stage;
    uint32_t item, peer;
    uint16_t slice; // of the item's positions, 0..slices-1; a W is of the whole item. Of a reduction: its chunk
};
struct plan_list {
    struct plan_op *ops;
    size_t count, capacity;
};

struct plan_stage { // units [unit_first, unit_end)
    uint32_t unit_first, unit_end;
};
struct plan_item { // micro-batches [first, end): an aligned power of two, or its cut at M
    uint32_t first, end;
};
struct plan_seat {
    uint32_t worker, stage, replica;
};
struct plan_follow { // the worker receives every root gradient of these units and steps them, but computes none
    uint32_t worker, unit_first, unit_end;
};

// How the partial sums of a stage's gradients travel. Every element is folded along the canonical tree whatever this
// says, by one of the stage's replicas, who then sends the root to all others. A unit's gradient is in pieces.
struct plan_sum {
    uint32_t chunks; // a unit goes in so many messages, of pieces that follow each other; 0: each piece is one. In more
                     // where one would be of over PLAN_RUN_PIECES
    uint32_t owner;  // 1 + the replica that folds everything; 0: messages take turns at the replicas
};
enum { PLAN_CHUNKS_MAX = 64, PLAN_PIECE_BYTES = 1 << 18, PLAN_RUN_PIECES = 4096 };

#define PLAN_NOBODY UINT32_MAX

struct plan {
    uint32_t units, micro_batches, workers;
    uint32_t slices; // runs of positions that F and B take one by one, F ascending, B descending; 0 and 1: not sliced
    struct plan_stage *stages;
    uint32_t stage_count;
    struct plan_item *items;
    uint32_t item_count;
    struct plan_seat *seats; // by (stage, replica)
    uint32_t seat_count;
    struct plan_follow *follows; // by (worker, unit_first)
    uint32_t follow_count;
    struct plan_sum *sums;   // (stages), or NULL: zeros everywhere
    uint32_t *route;         // (stages, items): whose weight gradient of it counts (PLAN_NOBODY: none has to)
    struct plan_list *lists; // (workers)
    bool rest;               // of plan_recover: what workers hold already stands in for ops that are left out
};
// Slices that F, B, SEND and RECV of the lists name, at least 1. The rest of a step has ops of whole items (slice 0):
// `slices` then only says how boundary tensors are laid.
uint32_t plan_op_slices(const struct plan *plan);
// Positions [first, end) of a slice of sequences of `length`: multiples of PLAN_SLICE_ALIGN (but for the last end), the
// runs within one multiple of each other, no slice empty where slices <= plan_slices_most(length).
enum { PLAN_SLICES_MAX = 64, PLAN_SLICE_ALIGN = 64 };
void plan_slice_positions(uint32_t length, uint32_t slices, uint32_t slice, uint32_t *first, uint32_t *end);
uint32_t plan_slices_most(uint32_t length);
void plan_fini(struct plan *plan);
// Names the cut and the items (units, micro-batches, slices, stages, items; not seats, routes, lists). Never 0.
uint64_t plan_cut_hash(const struct plan *plan);
struct plan plan_copy(const struct plan *plan);
void plan_list_add(struct plan_list *list, struct plan_op op);
void plan_list_insert(struct plan_list *list, size_t at, struct plan_op op);

// ---- Sums on their way (sums.c) ----
uint32_t plan_sum_chunks(const struct plan *plan, uint32_t stage); // reductions of it in a list, at least 1
// Messages ("runs") that `pieces` of a unit go in: runs partition the pieces in order. Of chunks, run c is chunk c;
// where there are fewer pieces than chunks the last chunks have none, where there are more runs the last chunk has the
// rest.
uint32_t plan_sum_runs(const struct plan *plan, uint32_t stage, uint32_t pieces);
bool plan_run_in_chunk(const struct plan *plan, uint32_t stage, uint32_t run, uint32_t chunk);
void plan_run_pieces(uint32_t pieces, uint32_t runs, uint32_t run, uint32_t *first, uint32_t *end);
uint32_t plan_run_of(uint32_t pieces, uint32_t runs, uint32_t piece);
// The worker that folds a run; `turn` is where the turns of a unit begin. PLAN_NOBODY: the stage has no seat.
uint32_t plan_run_owner(const struct plan *plan, uint32_t stage, uint32_t turn, uint32_t run);

// ---- Text: one record a line, canonical order; plan_parse(plan_format(p)) == p, and equal plans have equal text ----
// plan 1 units U micro_batches M workers W [slices S] [rest] / stage i first end / item i first end / seat w s r /
// follow w first end / sums s chunks owner (where not zeros; owner: a replica, or "-": in turns) /
// mbmap s i w (for every stage and item; "-": nobody) / list w: op op ... (for every worker)
// Ops: 0F3 2B1 2BW1 2W1 0SEND_F3>1 1RECV_F3<0 2SEND_B1>0 1RECV_B1<1 0COLL.reduce 0COLL.unshard 0COLL.reshard STEP
// MOVE5>2 MOVE5<0; other flags after a dot, r = recompute, o = offload, l = last: 0F3.r 2BW1.ol 2W1.l
// With slices (S > 1, and no rest) each F, B, SEND and RECV names its own: 0F3/1 2BW1/0.l 0SEND_F3/1>1 1RECV_B1/0<2
// A stage of several chunks has a reduction for each: 0COLL.reduce/0 0COLL.reduce/1
char *plan_format(const struct plan *plan); // bg_free it
// Blank lines and lines that begin with # are skipped, spaces may be many. Errors name the line, what was found and
// what was expected. Bounded: no input makes it take more than a few times the memory of its text. Also validates.
BG_MUST_USE bg_status plan_parse(const char *text, size_t size, struct bg_error *err, struct plan *plan);
// The one validator: indices in range, stages cover the units in order, items partition the micro-batches as nodes of
// the tree, every (stage, item) is computed once, by a worker that sits there, its weight gradient by its route (in the
// rest of a step: at most once), each SEND has its RECV at the peer and the other way round, F before B before W, each
// chunk of a stage reduced once by each seat, ascending, behind its weight gradients, the lists drain. Slices: F
// ascending, then B descending, W (or the W of a fused B) after slice 0. Names the first op at fault.
BG_MUST_USE bg_status plan_validate(const struct plan *plan, struct bg_error *err);

enum { PLAN_OP_TEXT = 64 };
void plan_op_text(const struct plan_op *op, char text[PLAN_OP_TEXT]); // as in a list; "-" is an empty cell
void plan_op_name(const struct plan *plan, const struct plan_op *op, char text[PLAN_OP_TEXT]); // slice 0 named as well

// ---- Making plans (build.c, cut.c, order.c) ----
#define PLAN_STAGES_MAX  256
#define PLAN_WORKERS_MAX 1024

// "PxD", "R0+R1+..." (replicas of each stage). `auto` and files are the caller's. replicas[s] for *stages stages.
BG_MUST_USE bg_status plan_shape_parse(const char *text, struct bg_error *err, uint32_t replicas[PLAN_STAGES_MAX],
                                       uint32_t *stages);
// What a wanted shape becomes with only `workers` of them: its stages while each can have a worker (the extra ones go
// to the first stages round by round, at most as wanted + more where workers are left over), else `workers` stages.
void plan_shape_fit(const uint32_t *wanted, uint32_t wanted_stages, uint32_t workers, uint32_t units,
                    uint32_t replicas[PLAN_STAGES_MAX], uint32_t *stages);
// Contiguous cut of the units into `stages` stages, minimal largest sum of costs (ties: earliest cuts; every stage at
// least one unit).
BG_MUST_USE bg_status plan_cut(const double *costs, uint32_t units, uint32_t stages, struct bg_error *err,
                               struct plan_stage *out);

enum plan_schedule { // rows of schedule.c
    PLAN_GPIPE,
    PLAN_1F1B,
    PLAN_INTERLEAVED,
    PLAN_ZB_H1,
    PLAN_ZB_2P,
    PLAN_ZB_V,
    PLAN_ZB_V_HALF,
    PLAN_ZB_V_MIN,
    PLAN_SEQ1F1B,
    PLAN_TESSEL,
    PLAN_DISTMM,
};
enum { PLAN_SCHEDULES = PLAN_DISTMM + 1 };
// A name, or of some NAME:NUMBER. *chunks: stages a worker; *slices: of every item, 1: whole; *range: micro-batches
// whose forwards end before a backward of them begins, 0: all, if the schedule knows ranges.
BG_MUST_USE bg_status plan_schedule_parse(const char *text, struct bg_error *err, enum plan_schedule *schedule,
                                          uint32_t *chunks, uint32_t *slices, uint32_t *range);
// Stages of a worker, where `wanted` were asked for of a schedule that takes any number.
uint32_t plan_schedule_chunks(enum plan_schedule schedule, uint32_t wanted);
// The pipeline rank that hosts a stage.
uint32_t plan_schedule_rank(enum plan_schedule schedule, uint32_t ranks, uint32_t stage);
bool plan_schedule_splits(enum plan_schedule schedule, uint32_t slices); // always has B and W apart
struct plan_passes {        // over the lowered lists (pass/pass.h); zeros: as it always was
    bool held;              // sums leave with the reduction, not while their last gradients are computed (wait-free)
    uint32_t chunks, owner; // as in struct plan_sum; a replica that a stage does not have is its last
};
struct plan_options {
    const double *costs; // (units) relative time of each; NULL with `cut`: alike
    uint32_t units, micro_batches;
    uint32_t group;           // micro-batches an item, a power of two
    const uint32_t *replicas; // (stages): workers of each pipeline rank
    uint32_t stages;          // pipeline ranks; each has plan_schedule_chunks stages
    enum plan_schedule schedule;
    uint32_t chunks;
    bool split;     // B and W apart (W as late as the memory allows: before the next F of its slot; GPipe: at the end)
    bool recompute; // F without stash
    bool offload;   // stashes wait on disk
    const uint8_t *saving;        // (stages) PLAN_RECOMPUTE or PLAN_OFFLOAD of each rank; NULL: these two say it of all
    uint32_t followers;           // workers after the computing ones that follow every unit (the shadow)
    const struct plan_stage *cut; // (stages of all ranks) in place of plan_cut; NULL: by costs
    const uint32_t *shares;       // items of each replica of rank 0, then of rank 1, ...; NULL: even
    uint32_t range;               // micro-batches that meet (PLAN_DISTMM); 0: all
    uint32_t slices;              // of an item, which F and B take one by one; 0, 1: whole
    double memory;                // items (of one stage) that a worker may have in flight; 0: what the schedule takes
    const double *forward, *input, *weight; // (units) time of F, B, W, for schedules that go by it; NULL: costs / 3
    double comm;                            // time of a message between workers
    struct plan_passes passes;
};
// Workers are numbered rank by rank: rank 0's replicas first. Items go to replicas in contiguous runs of `shares`, or
// else sizes within one of each other, larger ones first. Lowered, each RECV then moved right before its use, with COLL
// and STEP, validated. Where the schedule does not fit (ranks that differ in replicas or shares, interleaved items that
// no pipeline length divides) an order of its own (greedy.c), or with `memory` that it would not keep BG_INVALID.
BG_MUST_USE bg_status plan_build(const struct plan_options *options, struct bg_error *err, struct plan *plan);

// ---- Lowering (lower.c) ----
// Before: plan->lists hold compute ops and PLAN_EMPTY only. After: SEND and RECV are in. The rule: go round the workers
// in rank order; if the head op's inputs are present (own RECV done, or made on this worker), emit it, then at once
// append its SEND here and the RECV to the consumer's list; an empty cell is a turn too. What does not drain is refused
// with every stuck op named. present: NULL, or what is there already (recovery).
struct plan_present {           // (stages, items) each, or NULL: worker that holds it, PLAN_NOBODY: nobody
    const uint32_t *activation; // input of (stage, item) lies at its consumer already
    const uint32_t *gradient;   // gradient of the output of (stage, item) lies at its consumer already
};
BG_MUST_USE bg_status plan_lower(struct plan *plan, const struct plan_present *present, struct bg_error *err);
// Turns until the lowered lists have run when every op takes one turn on its worker (published: simulated_steps).
BG_MUST_USE bg_status plan_simulate_turns(const struct plan *plan, struct bg_error *err, uint64_t *turns);
void plan_merge_bw(struct plan_list *list); // adjacent B, W of one (stage, item) become a fused B; drops empties
// COLL REDUCE after a stage's W number `micro_batches` in this list (0: after its last).
void plan_add_reduce(struct plan_list *list, uint32_t micro_batches);
void plan_add_unshard(struct plan_list *list, uint32_t ahead); // COLL UNSHARD/RESHARD around a stage's use

// Most items whose forward is done and whose weight gradient is not, on this worker and stage. In the rest of a step,
// items whose backward has no forward in the list count from its start, and forwards for their output only to its end.
uint32_t plan_flights(const struct plan *plan, uint32_t worker, uint32_t stage);

// ---- Recovery (recover.c): the rest of a step for a new membership ----
enum plan_held {          // of (stage, item); in slices: of all of them
    PLAN_HELD_X = 1,      // input activation
    PLAN_HELD_Y = 2,      // output activation (made here, so that it can be sent again)
    PLAN_HELD_DY = 4,     // gradient of the output
    PLAN_HELD_DX = 8,     // gradient of the input (made here)
    PLAN_HELD_STASH = 16, // forward done here, weight gradient not yet
    PLAN_HELD_B = 32,     // with STASH: the input gradient is done, W is missing
    PLAN_HELD_G = 64,     // the weight gradient is in a partial sum here (and the input gradient is kept)
};
struct plan_holdings {    // of one worker of the plan
    const uint8_t *items; // (stages, items) of enum plan_held
    const uint8_t *roots; // (units): 1 = holds the whole root gradient of the unit
};
// `plan` has stages, items, seats, follows of the new membership and no lists. route: NULL or all PLAN_NOBODY, or who
// had it in the plan that broke off (by the new numbering; PLAN_NOBODY: a worker that is gone): what nobody has begun
// stays there. Holdings of a stage count where the worker sits at it; roots count everywhere. Finds what is missing:
// leaves of every stage that has a unit whose root nobody holds, and losses nobody has; leaves them with the worker
// that has them in flight (stash, else input), else with their route; gives the others to workers of the stage (the
// fewest missing leaves first, then the lowest index, runs of neighbouring items together), adds forwards and input
// gradients whose outputs are lost, and lowers the rest of the step: ops that survivors already did are left out,
// boundary tensors that lie somewhere are sent again from there before anything else (their RECV stands right before
// the use, so messages of a pair of workers are matched by name, not by order). COLL and STEP as in any plan.
// After: route is who holds the leaf or will (PLAN_NOBODY: every root of the stage is there), rest is set. A stash is
// of use only with its input beside it, a finished B only with the gradient of its output. A B that is not fused and
// has no W behind it runs for its output only. If this fails *plan is as it was.
// holdings: (workers). loss_known: (micro_batches); where one is not, the last stage's forward of the item runs again.
struct plan_recovery {
    uint32_t leaves;   // micro-batches x stages whose weight gradient was in no survivor's hands, and was given anew
    uint32_t forwards; // micro-batches x stages whose forward runs only for its output
};
BG_MUST_USE bg_status plan_recover(struct plan *plan, const struct plan_holdings *holdings, const uint8_t *loss_known,
                                   bool split, struct bg_error *err, struct plan_recovery *recovery);

#endif
