// What the schedules share, and their list for the registry.
#ifndef PLAN_SCHEDULE_INT_H
#define PLAN_SCHEDULE_INT_H

#include "plan/schedule/schedule.h"

plan_schedule_fn plan_order_gpipe, plan_order_1f1b, plan_order_interleaved, plan_order_seq1f1b;
plan_schedule_fn plan_order_zero_bubble_1p, plan_order_zero_bubble_2p; // zero_bubble.c
plan_schedule_fn plan_order_zero_bubble_v;                             // zero_bubble_v.c
plan_schedule_fn plan_order_v_half, plan_order_v_min;                  // zero_bubble_blocks.c
plan_schedule_fn plan_order_tessel;                                    // tessel_pipe.c
plan_schedule_fn plan_order_distmm;                                    // distmm_pipe.c

static inline void plan_put(struct plan_list *list, enum plan_op_kind kind, uint32_t stage, uint32_t item)
{
    plan_list_add(list, (struct plan_op){(uint8_t)kind, 0, (uint16_t)stage, item, 0, 0});
}

// B and W, in one or behind each other.
static inline void plan_put_backward(const struct plan_pipe *pipe, struct plan_list *list, uint32_t stage,
                                     uint32_t item)
{
    plan_list_add(list, (struct plan_op){PLAN_B, pipe->split ? 0 : PLAN_FUSED, (uint16_t)stage, item, 0, 0});
    if (pipe->split)
        plan_put(list, PLAN_W, stage, item);
}

static inline double plan_pipe_cost(const struct plan_pipe *pipe, enum plan_op_kind kind, uint32_t stage)
{
    return (kind == PLAN_F ? pipe->forward : kind == PLAN_B ? pipe->input : pipe->weight)[stage];
}

#endif
