// How a step is cut and how much memory it takes: groups of micro-batches, the order in which they are computed,
// gradient slots, activations. Physical choices only: none of them shows in the bits.
#ifndef TRAIN_LAYOUT_H
#define TRAIN_LAYOUT_H

#include "model/model.h"
#include "tensor/tree.h"

struct layout_options {
    uint32_t unit_first, unit_end; // the stage: units [unit_first, unit_end)
    uint32_t batch, length, micro_batches;
    uint32_t group;    // micro-batches at once, a power of two; 0: the choice that needs the least memory
    uint32_t slices;   // of sequences (plan.h); 0, 1: none
    const char *order; // NULL or "ascending", "descending", "shuffle:SEED"
};

struct layout {
    uint32_t unit_first, unit_end;
    uint32_t batch, length, micro_batches;
    uint32_t group;          // largest number of micro-batches in flight
    struct tree_node *order; // (groups) nodes in the order in which they are computed
    size_t groups, slots;
    uint32_t evaluate_sequences; // windows at once in an evaluation
    size_t bytes;                // flight, work, slots, scratch of all lanes, evaluation
};

enum { LAYOUT_SUM_FLOATS = 4096 }; // that a lane adds at once along the tree

// What `count` micro-batches at once need, in bytes: multiples of 64. Of the options all but group and order count.
size_t layout_boundary_bytes(const struct model *model, const struct layout_options *o, uint32_t count); // (rows, dim)
// One group in flight: boundaries between the stage's units, then stashes, then with slices the stage's input and the
// losses of tokens. `at` (units of the stage + 2): offsets of stashes, input, losses.
size_t layout_flight_bytes(const struct model *model, const struct layout_options *o, uint32_t count, bool split,
                           size_t *at);
size_t layout_work_bytes(const struct model *model, const struct layout_options *o, uint32_t count); // of any stage
size_t layout_scratch_bytes(const struct model *model, const struct kern *kern, const struct layout_options *o,
                            uint32_t count);                                            // one lane's
uint32_t layout_sparse_rows(const struct model *model, const struct layout_options *o); // of one node, at most
size_t layout_sparse_bytes(const struct model *model, const struct layout_options *o);  // its block (executor.h)
// Windows at once in an evaluation, so that they fit into a flight; at least one, which may need more than that.
uint32_t layout_evaluate_sequences(const struct model *model, uint32_t length, size_t flight_bytes);

BG_MUST_USE bg_status layout_create(const struct model *model, const struct kern *kern, unsigned threads,
                                    const struct layout_options *options, struct bg_error *err, struct layout *layout);
void layout_fini(struct layout *layout);

// Model flops of one training step: 6 x matmul weights x tokens + the causal half of attention.
double layout_flops(const struct model *model, uint64_t sequences, uint32_t length);
double layout_flops_block(const struct model *model, uint64_t sequences, uint32_t length); // one block's share

#endif
