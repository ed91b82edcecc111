// Inside the room: a worker of many. worker.c: life, links, turns; worker_generation.c: PREPARE, REPORT, GENERATION;
// worker_ops.c: the interpreter of a list; worker_inbox.c: values that arrive; worker_sums.c: parts and roots.
#ifndef TRAIN_WORKER_INT_H
#define TRAIN_WORKER_INT_H

#include "plan/plan.h"
#include "train/worker.h"

#define WORKER_NO_LINK UINT32_MAX

struct worker_link {       // to another worker
    uint32_t link, member; // COMM_UNKNOWN before it has said who it is
    bool up;
};

struct worker_peer { // worker i of the plan
    uint32_t member;
    char address[128];
};

struct worker_value { // a boundary tensor that arrived
    bool here;
    struct comm_event event;
};

struct worker_part { // a partial sum that arrived for a piece that we own
    struct comm_event event;
    struct tree_node node;
    uint64_t check;
    bool readable; // not released yet
    uint32_t next; // of the same piece, index into parts + 1
};

struct worker_sum {  // of a run: pieces that travel as one message (plan.h), by the first of them
    uint32_t parts;  // first, index into parts + 1
    uint32_t leaves; // micro-batches that the parts cover
    bool posted;     // our nodes of it are out in this generation
};

struct worker {
    struct bg_env *env;
    struct worker_options o;
    const struct worker_job *job;
    struct comm *comm;
    struct executor *ex;
    uint64_t job_id;

    // The controller.
    uint32_t controller; // link, or WORKER_NO_LINK
    bool welcomed, left;
    uint32_t member;
    uint64_t orphan_since_ns, next_try_ns;

    struct worker_link *links;
    size_t link_count, link_capacity;
    bool linked; // to every member of the generation

    // State.
    uint64_t version;
    uint8_t *have;  // (units) at `version`
    uint8_t *holds; // (units) of seats and follows

    // The generation.
    uint32_t generation, prepare; // prepare: the highest that the controller has announced
    uint32_t taken, sent;         // whose plan came last, here; the newest that anybody may have taken by that PREPARE
    bool running;                 // false between PREPARE and GENERATION
    uint64_t steps;
    uint32_t self;
    struct worker_peer *peers; // (workers of the plan), own entry unused
    uint32_t peer_count;
    struct plan now, steady;
    struct plan *plan;               // the one that runs, or NULL
    uint64_t cut;                    // plan_cut_hash of what `items` speaks of
    uint8_t *peer_holds;             // (workers, units)
    uint32_t local[PLAN_STAGES_MAX]; // stage of the plan -> executor's, UINT32_MAX: not here
    bool resend;                     // roots that are held go out once the links are there

    // The open step.
    size_t op;
    uint64_t waits_since_ns, patience_ns;
    bool waits, voted;
    uint64_t committed;                           // of order_free: steps that the controller has logged
    uint8_t *items;                               // (stages, items) enum plan_held
    uint32_t slices, slots;                       // of the cut: at least 1; slots: the whole, and each slice if many
    struct worker_value *activations, *gradients; // (stages, items, slots): slot 0 came whole, 1 + k as slice k
    uint16_t *made, *made_back; // (stages, items): slices whose F (first ones), B (last ones) ran here
    double *losses;             // (micro_batches)
    uint8_t *loss_known;
    double *squares; // (params)
    uint8_t *vote_held;
    uint64_t *proof; // (units)
    uint8_t *vote;   // encoded
    size_t vote_capacity;
    uint32_t computed; // leaves in this step

    // Sums. Pieces of all buckets in a row, the sparse rows last.
    struct worker_sum *sums;
    uint32_t *piece_first; // (buckets + 2)
    struct worker_part *parts;
    uint32_t part_count, part_capacity;
    bg_status ready_status; // of sends in executor_backward's callback
    struct bg_error *ready_err;

    // State that arrives.
    uint8_t *state_here; // (3, pieces)

    // Frames of the next step, or of this generation before we know its plan.
    struct comm_event *early;
    size_t early_count, early_capacity;

    uint32_t calm_steps;  // in a row, in this generation, without a task
    uint64_t allocations; // when the open step began
    uint64_t calm_allocations;
    bool has_task, task_runs;
    uint64_t task_id; // of the one that runs, or was done last
    struct message_task_done task_done;
    struct comm_event task;

    uint64_t frames_refused, duplicates, leaves;
};

struct wire_frame worker_head(const struct worker *w, enum wire_kind kind);
bg_status worker_tell(struct worker *w, const struct wire_frame *frame, const void *payload, size_t bytes,
                      struct bg_error *err); // to the controller; lost while there is none
bg_status worker_tell_trouble(struct worker *w, enum message_trouble_kind kind, uint32_t peer, bg_status status,
                              struct bg_error *err, const char *format, ...) BG_PRINTF(6, 7);
bg_status worker_post(struct worker *w, uint32_t peer, const struct wire_frame *frame, const void *payload,
                      size_t bytes, struct bg_error *err);

struct worker_link *worker_link_of(struct worker *w, uint32_t member); // NULL: none
bg_status worker_links_ready(struct worker *w, struct bg_error *err);  // makes what is missing; sets `linked`
void worker_close_links(struct worker *w, bool all);                   // or only those to nobody in the generation

// worker_generation.c
bg_status worker_prepare(struct worker *w, uint32_t generation, struct bg_error *err);
bg_status worker_take_generation(struct worker *w, const struct comm_event *event, struct bg_error *err);
bg_status worker_commit(struct worker *w, const struct message_commit *commit, struct bg_error *err);
void worker_forget_step(struct worker *w); // everything of the open step but what the executor holds
void worker_fence(struct worker *w);       // state void: somebody else is in our place

// worker_inbox.c
bg_status worker_take_value(struct worker *w, struct comm_event *event, struct bg_error *err);
bg_status worker_take_early(struct worker *w, struct bg_error *err);
// Slices of the input of (stage, item), or of the gradient of its output, that are here; NULL: not yet. True if `slice`
// is (EXECUTOR_WHOLE: all are).
bool worker_inputs(const struct worker *w, uint32_t stage, uint32_t item, uint32_t slice,
                   const float *values[PLAN_SLICES_MAX]);
bool worker_output_gradients(const struct worker *w, uint32_t stage, uint32_t item, uint32_t slice,
                             const float *values[PLAN_SLICES_MAX]);
void worker_release_values(struct worker *w, size_t first, size_t count); // of cells (stage, item)
void worker_release_boundaries(struct worker *w); // their senders may overwrite them once everybody has voted
bg_status worker_send_state(struct worker *w, uint32_t unit, uint32_t peer, struct bg_error *err);
uint32_t worker_state_buckets(const struct worker *w, uint32_t unit, uint32_t buckets[2]);
bool worker_state_complete(const struct worker *w, uint32_t unit);

// worker_sums.c
uint32_t worker_bucket_owner(const struct worker *w, uint32_t bucket, uint32_t piece); // worker of the plan
// Our nodes of a bucket, of all its chunks or of one, go to who folds them, once.
enum { WORKER_ALL_CHUNKS = UINT16_MAX };
bg_status worker_post_bucket(struct worker *w, uint32_t bucket, uint32_t chunk, struct bg_error *err);
bg_status worker_take_part(struct worker *w, struct comm_event *event, struct bg_error *err);
bg_status worker_take_root(struct worker *w, struct comm_event *event, struct bg_error *err);
bg_status worker_resend_roots(struct worker *w, struct bg_error *err);
void worker_forget_parts(struct worker *w);
uint32_t worker_bucket_index(const struct worker *w, uint32_t bucket); // sparse: the last one

// worker_ops.c: WORKER_BUSY after an op, WORKER_WAITS with w->waits set.
bg_status worker_run_op(struct worker *w, struct bg_error *err, bool *ran);
void worker_describe_op(const struct worker *w, char *text, size_t size);

#endif
