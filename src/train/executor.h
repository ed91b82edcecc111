// What one worker computes: the stages it hosts, item by item, and its sums along the canonical tree. It knows nothing
// of peers: boundary tensors and partial sums are memory that the caller moves. One process is the case of one stage
// that holds every unit (step.h); a worker of many is train/worker.h.
//
// Gradients are handled by *bucket*: a contiguous float range of the model's memory, model->buckets[b]: 0 the token
// table, 1 + u the rest of unit u (which may be empty: no pieces). A bucket is cut into pieces of EXECUTOR_PIECE
// floats. The token embedding's rows are sparse and form a bucket of their own, EXECUTOR_SPARSE, of one piece: a block
// {u32 count, u32 capacity, 56 zero bytes, i32 ids[capacity] (zero from count on) up to a multiple of 64 bytes, float
// rows[count * dim]}, so that equal rows are equal bytes.
// Untied, the token table has no dense gradient: bucket 0 then has pieces of state, but no sums and no root.
//
// Memory: every set of parameters (weights, m, v, root, each slot) has the full model's size and layout whatever the
// stages; pages of units that are not here are never touched. What peers may read (options.memory) is given back in
// executor_begin() at the earliest, and a root, once there, keeps its bytes until then.
#ifndef TRAIN_EXECUTOR_H
#define TRAIN_EXECUTOR_H

#include "model/data.h"
#include "tensor/tree.h"
#include "train/optim.h"

enum { EXECUTOR_WHOLE = UINT16_MAX }; // for a slice: every slice
enum { EXECUTOR_PIECE = 1 << 16, EXECUTOR_SPARSE = 0xffff, EXECUTOR_STAGES_MAX = 64 };

struct executor_memory { // where reservations come from: env's, or a comm endpoint's arenas
    void *arg;
    bg_status (*reserve)(void *arg, size_t bytes, struct bg_error *err, void **memory);
    void (*release)(void *arg, void *memory, size_t bytes);
};
struct executor_options {
    const struct model *model;
    const struct kern *kern;
    const struct token_view *view;
    uint64_t seed;
    double dropout;
    struct optim_options optim;
    uint32_t batch, length, micro_batches;
    struct executor_memory memory; // weights, moments, root, slots, boundaries: what peers may read; zeroed, 64-aligned
    // NULL, or the caller's: a process that computes everything alone. It then has no root of its own
    // (executor_adopt_root) and must not call executor_reduce, executor_set_root or executor_root_part.
    const struct optim_state *state;
    const char *scratch; // directory for stashes that wait on disk; NULL: no stage asks for that
    bool order_free;     // bench only: the sums of an item are one chain over all its tokens. The bits are gone
};
struct executor_memory executor_memory_env(struct bg_env *env); // env's reservations

struct executor;
BG_MUST_USE bg_status executor_create(struct bg_env *env, const struct executor_options *options, struct bg_error *err,
                                      struct executor **ex);
void executor_destroy(struct executor *ex);

// ---- Seating: between steps, or in a step when a generation begins ----
struct executor_stage {
    uint32_t unit_first, unit_end;
    uint32_t flights; // items whose forward is done and whose weight gradient is not
    bool offload;     // what an item keeps for its backward is in memory only while an op of it runs
};
struct executor_seating {
    struct executor_stage stages[EXECUTOR_STAGES_MAX]; // hosted ones, named by their place here
    uint32_t stage_count;
    const struct tree_node *items; // nodes that partition the micro-batches
    uint32_t item_count;
    uint32_t slots;       // partial sums held at once per stage; grown when more are needed (allocates)
    bool split;           // B and W may come apart
    uint32_t slices;      // F and B may come slice by slice (plan_slice_positions), apart from W; 0, 1: not
    bool recompute;       // F keeps no stash; B (or both) runs the forward again
    const uint8_t *holds; // (units): steps these (stages and followed units)
};
// Reserves what the seating needs and keeps what fits. Sums, stashes and boundaries of the open step survive at every
// stage that sat here and sits here again, if items, split and slices are the same (`kept` says so), else all of them
// are gone. Roots survive any seating. The first one keeps nothing. Flights and slots grow by themselves when a plan
// needs more than it said (that allocates). If this fails nothing is seated.
BG_MUST_USE bg_status executor_seat(struct executor *ex, const struct executor_seating *seating, struct bg_error *err,
                                    bool *kept);
struct optim_state executor_state(const struct executor *ex); // weights, m, v: full sets
// The root gradient, full set. A tied token table's rows are joined in elsewhere: peers may still read this.
const float *executor_root(const struct executor *ex);

// ---- A step ----
void executor_begin(struct executor *ex, uint64_t step); // forgets sums, stashes, boundaries
// Of one boundary tensor, or of a slice of it. A tensor has its slices one after the other, each (sequences, positions,
// dim); where the seating has no slices, slice 0 is the whole.
size_t executor_boundary_bytes(const struct executor *ex, uint32_t item, uint32_t slice);
size_t executor_slice_offset(const struct executor *ex, uint32_t item, uint32_t slice); // bytes, in the tensor
// Memory of ours for boundary tensors, stable until executor_begin: the output of F, and the input gradient of B.
float *executor_output(struct executor *ex, uint32_t stage, uint32_t item, uint32_t slice);
float *executor_input_gradient(struct executor *ex, uint32_t stage, uint32_t item, uint32_t slice);

// F of a slice, or of all that there are (EXECUTOR_WHOLE). x: (slices) the input of each that it runs (NULL for the
// stage with the embedding); the output goes to executor_output() unless this stage has the head, whose losses go to
// losses (a double a micro-batch of the item, token losses summed) with the last slice. Slices ascend. May run again:
// the output then gets the bytes it has.
BG_MUST_USE bg_status executor_forward(struct executor *ex, uint32_t stage, uint32_t item, uint32_t slice,
                                       const float *const *x, double *losses, struct bg_error *err);
// B, W or both (model_backward_part). B is of a slice, which descend, or of all that are left (EXECUTOR_WHOLE); W is of
// the item, behind the B of slice 0. x, dy: (slices) the stage's input as given to F, all of it (NULL with the
// embedding); the gradient of its output, of the slices that run (NULL with the head, and for W alone). The input
// gradient goes to executor_input_gradient() unless the stage has the embedding. Refused: without F (or, for W, without
// B) before, and where the item's gradient is in a sum already. With `last`, `ready(arg, bucket)` is called (by this
// thread) as soon as a bucket's sums of this stage are final (wait-free backpropagation): after the last unit that adds
// to it, folds included; EXECUTOR_SPARSE too. executor_nodes() and executor_part() of that bucket then are final.
struct executor_backward {
    uint32_t stage, item, slice;
    enum model_backward_part part;
    const float *const *x, *const *dy;
    bool last;
    void (*ready)(void *arg, uint32_t bucket);
    void *arg;
};
BG_MUST_USE bg_status executor_backward(struct executor *ex, const struct executor_backward *b, struct bg_error *err);
void executor_forget(struct executor *ex, uint32_t stage, uint32_t item);          // the stash: F may run anew
bool executor_has_stash(const struct executor *ex, uint32_t stage, uint32_t item); // F here (of every slice), W not yet
// With a stash: B done, of every slice.
bool executor_has_input_gradient(const struct executor *ex, uint32_t stage, uint32_t item);

// ---- Sums ----
struct executor_part { // a node's value of one piece
    struct tree_node node;
    const float *values; // of EXECUTOR_SPARSE: a block as executor_part() made it
    size_t bytes;
};
// The maximal nodes that are held of the stage's gradients. Returns their number (at most TREE_SLOTS_MAX).
size_t executor_nodes(const struct executor *ex, uint32_t stage, struct tree_node nodes[TREE_SLOTS_MAX]);
uint32_t executor_pieces(const struct executor *ex, uint32_t bucket);
// Ours, in place (contiguous: a piece lies in one bucket). values NULL: the node is not held.
struct executor_part executor_part(const struct executor *ex, uint32_t stage, uint32_t bucket, uint32_t piece,
                                   struct tree_node node);
uint32_t executor_bucket_stage(const struct executor *ex,
                               uint32_t bucket); // hosted stage that makes it, UINT32_MAX: none
// Evaluates the tree over parts that cover all micro-batches without overlap (any order; refused otherwise, naming the
// gap) into the root; the sums themselves stay as they are. *root: what to send to the others. Nothing is computed
// where the root is there already.
BG_MUST_USE bg_status executor_reduce(struct executor *ex, uint32_t bucket, uint32_t piece,
                                      const struct executor_part *parts, size_t count, struct bg_error *err,
                                      struct executor_part *root);
// A root piece that another reduced: copied into ours. Sparse blocks are checked (ids ascending, in range). Where the
// root is there already the two are compared: BG_CORRUPT names the piece.
BG_MUST_USE bg_status executor_set_root(struct executor *ex, uint32_t bucket, uint32_t piece, const void *bytes,
                                        size_t size, struct bg_error *err);
struct executor_part executor_root_part(const struct executor *ex, uint32_t bucket,
                                        uint32_t piece);    // NULL values: none
uint32_t executor_roots_missing(const struct executor *ex); // pieces of buckets held here without a root yet
bool executor_root_held(const struct executor *ex, uint32_t bucket, uint32_t piece);
// Buckets that the step of a unit needs: its own, and the token table's (dense part when tied, and the sparse rows) for
// the embedding and, when tied, the head. `needs` for a set of held units:
bool executor_needs(const struct model *model, const uint8_t *holds, uint32_t bucket);

// One process: the stage's own tree is complete, and its slot is the root from here to executor_begin().
void executor_adopt_root(struct executor *ex);

// All roots are there: joins the sparse rows in (once), then sums of squares per parameter; those of parameters not
// held are left alone.
void executor_squares(struct executor *ex, double *squares);
bool executor_holds_param(const struct executor *ex, uint32_t param);
void executor_apply(struct executor *ex, uint64_t step, double lr, float clip); // held parameters only

// Pieces of the state (which: 0 weights, 1 m, 2 v; of a bucket), for joining workers.
float *executor_state_piece(struct executor *ex, uint32_t which, uint32_t bucket, uint32_t piece, size_t *floats);

// For evaluation in this thread between ops (full state held): memory and lanes' scratch. The first stage's idle flight
// if there is one that is large enough, else memory reserved at the first call.
void *executor_evaluate_memory(struct executor *ex, uint32_t *sequences, struct bg_error *err); // NULL: see err
void *const *executor_scratch(struct executor *ex);

// Measures this machine on a block's forward with the first item's data: model flops per second to expect of a step. 0:
// no block is hosted. Between steps.
double executor_probe(struct executor *ex);

#endif
