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
    const char *order; // NULL or "ascending", "descending", "shuffle:SEED"
};

struct layout {
    uint32_t unit_first, unit_end;
    uint32_t batch, length, micro_batches;
    uint32_t group;          // largest number of micro-batches in flight
    struct tree_node *order; // (groups) nodes in the order in which they are computed
    size_t groups, slots;
    size_t rows;     // tokens of a full group
    size_t x_floats; // one boundary: (rows, dim)
    size_t work_floats;
    size_t scratch_bytes;        // one lane's
    uint32_t sparse_capacity;    // rows of a slot's embedding gradient
    size_t flight_bytes;         // activations of one group in flight, evaluation fits as well
    size_t slot_bytes;           // one node's gradients
    uint32_t evaluate_sequences; // windows at once that fit into a flight
    size_t bytes;                // flight + slots + scratch of all lanes
};

BG_MUST_USE bg_status layout_create(const struct model *model, const struct kern *kern, unsigned threads,
                                    const struct layout_options *options, struct bg_error *err, struct layout *layout);
void layout_fini(struct layout *layout);

// Model flops of one training step: 6 x matmul weights x tokens + the causal half of attention.
double layout_flops(const struct model *model, uint64_t sequences, uint32_t length);
double layout_flops_block(const struct model *model, uint64_t sequences, uint32_t length); // one block's share

#endif
