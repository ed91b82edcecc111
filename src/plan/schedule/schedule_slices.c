// Slices of an item, one after the other through the pipeline: the order of Seq1F1B (Sun et al., "Seq1F1B: Efficient
// Sequence-Level Pipeline Parallelism", NAACL'25), the mechanism of MEPipe (EuroSys'25). 1F1B over all slices, whose
// backwards come in descending order within an item, since later positions look at earlier ones. The weight gradient is
// of the whole item and comes behind its last B. And the pass that slices any other schedule.
#include "base/mem.h"
#include "plan/schedule/schedule_int.h"

static void put_slices(const struct plan_pipe *pipe, struct plan_list *list, uint32_t stage, uint32_t n, bool forward)
{
    const uint32_t slices = pipe->slices, item = n / slices, k = n % slices, slice = forward ? k : slices - 1 - k;
    plan_list_add(list, (struct plan_op){forward ? PLAN_F : PLAN_B, 0, (uint16_t)stage, item, 0, (uint16_t)slice});
    if (!forward && slice == 0)
        plan_put(list, PLAN_W, stage, item);
}

bg_status plan_order_seq1f1b(const struct plan_pipe *pipe, struct bg_error *err, struct plan_list *lists)
{
    if (pipe->slices <= 1)
        return plan_order_1f1b(pipe, err, lists);
    const uint32_t total = pipe->items * pipe->slices;
    for (uint32_t s = 0; s < pipe->stages; s++) {
        uint32_t ahead = pipe->stages - s - 2 + pipe->slices;
        ahead = ahead < total ? ahead : total;
        for (uint32_t n = 0; n < total + ahead; n++) {
            if (n < total)
                put_slices(pipe, &lists[s], s, n, true);
            if (n >= ahead)
                put_slices(pipe, &lists[s], s, n - ahead, false);
        }
    }
    return BG_OK;
}

void plan_slice_list(struct plan_list *list, uint32_t slices)
{
    struct plan_list out = {0};
    for (size_t i = 0; i < list->count && slices > 1; i++) {
        struct plan_op op = list->ops[i];
        const bool fused = op.flags & PLAN_FUSED;
        op.flags &= (uint8_t)~PLAN_FUSED;
        if (op.kind != PLAN_F && op.kind != PLAN_B) {
            plan_list_add(&out, op);
            continue;
        }
        for (uint32_t k = 0; k < slices; k++) {
            op.slice = (uint16_t)(op.kind == PLAN_F ? k : slices - 1 - k);
            plan_list_add(&out, op);
        }
        if (fused)
            plan_put(&out, PLAN_W, op.stage, op.item);
    }
    if (slices <= 1)
        return;
    bg_free(list->ops);
    *list = out;
}
