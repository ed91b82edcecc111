// What the files of the plan room share: indexing, text of the validator's findings, the work that orders are made of.
#ifndef PLAN_PLAN_INT_H
#define PLAN_PLAN_INT_H

#include "plan/plan.h"

static inline size_t plan_cells(const struct plan *plan)
{
    return (size_t)plan->stage_count * plan->item_count;
}

static inline size_t plan_cell(const struct plan *plan, uint32_t stage, uint32_t item)
{
    return (size_t)stage * plan->item_count + item;
}

// By slice: (stages, items, slices of ops). Of the op's item and slice at any stage.
static inline size_t plan_slice_cells(const struct plan *plan)
{
    return plan_cells(plan) * plan_op_slices(plan);
}

static inline size_t plan_slice_cell(const struct plan *plan, uint32_t stage, const struct plan_op *op)
{
    return plan_cell(plan, stage, op->item) * plan_op_slices(plan) + op->slice;
}

static inline uint32_t plan_item_leaves(const struct plan *plan, uint32_t item)
{
    return plan->items[item].end - plan->items[item].first;
}

// The op adds a weight gradient: a W, or a fused B.
static inline bool plan_op_adds(const struct plan_op *op)
{
    return op->kind == PLAN_W || (op->kind == PLAN_B && (op->flags & PLAN_FUSED));
}

// A positive decimal number at *text; moves *text behind it. 0: none there, or too large.
uint32_t plan_number(const char **text, uint32_t max);
uint32_t *plan_map_create(const struct plan *plan);       // (stages, items), all PLAN_NOBODY; bg_free it
uint32_t *plan_slice_map_create(const struct plan *plan); // (stages, items, slices of ops)
void plan_reset_lists(struct plan *plan);                 // one empty list for each worker
// Moves every RECV right before its use, and adds those of what is held already: x_from, dy_from (stages, items) name
// who sends it, PLAN_NOBODY: nobody (NULL: none). A worker that waits at a RECV thus waits for what it needs next.
void plan_place_receives(struct plan *plan, const uint32_t *x_from, const uint32_t *dy_from);
// Behind the lowered ops: the reductions of every seat, STEP.
void plan_close_lists(struct plan *plan);
// Reductions of a stage's chunks: the first where one stands, each of the others behind the next op that computes, what
// is left before STEP.
void plan_place_chunks(struct plan *plan);
void plan_keep_sums(struct plan *plan); // there is a record of every stage's sums
void plan_drop_sums(struct plan *plan); // unless they say something

// ---- The compute ops of a step, or of the rest of one, before they are in order ----
enum plan_work_bit {
    PLAN_WORK_F = 1,
    PLAN_WORK_B = 2,
    PLAN_WORK_W = 4,
    PLAN_WORK_HAS_X = 8,      // the input activation is somewhere: no F has to be waited for
    PLAN_WORK_HAS_DY = 16,    // the gradient of the output is somewhere
    PLAN_WORK_HAS_STASH = 32, // the forward was done where the backward will be
};
struct plan_work {
    const uint8_t *bits;  // (stages, items) of enum plan_work_bit
    const uint32_t *at;   // (stages, items): the worker of all ops of it
    const uint32_t *rank; // (items): lower ones first, all different
    bool split;
};
// Appends the F, B or W (`bit`) of a cell to its worker's list, if the cell needs it; a fused B is its W as well.
void plan_add_op(struct plan *plan, const struct plan_work *work, uint32_t stage, uint32_t item, uint8_t bit);
void plan_rank_items(const struct plan *plan, const uint32_t *at, uint32_t *rank);

// List scheduling, where no schedule fits: drains always.
void plan_order_greedy(struct plan *plan, const struct plan_work *work);

#endif
