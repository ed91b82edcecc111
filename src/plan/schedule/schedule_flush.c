// The schedules with a flush, each as published: GPipe (Huang et al., NeurIPS'19), 1F1B (Narayanan et al.,
// "Memory-efficient pipeline-parallel DNN training", ICML'21) and its interleaved form (Narayanan et al., SC'21). With
// B and W apart, W follows its B at once: the gradient for the stage before leaves earlier, and the memory stays that
// of 1F1B. GPipe, whose memory holds every item anyway, has its W after all B.
#include "plan/schedule/schedule_int.h"

bg_status plan_order_gpipe(const struct plan_pipe *pipe, struct bg_error *err, struct plan_list *lists)
{
    (void)err;
    const uint32_t items = pipe->items, stages = pipe->stages;
    for (uint32_t i = 0; i < items; i++)
        for (uint32_t s = 0; s < stages; s++)
            plan_put(&lists[pipe->at[(size_t)s * items + i]], PLAN_F, s, i);
    const uint8_t flags = pipe->split ? 0 : PLAN_FUSED;
    for (uint32_t i = 0; i < items; i++)
        for (uint32_t s = stages; s-- > 0;)
            plan_list_add(&lists[pipe->at[(size_t)s * items + i]],
                          (struct plan_op){PLAN_B, flags, (uint16_t)s, i, 0, 0});
    for (uint32_t i = 0; i < items && pipe->split; i++)
        for (uint32_t s = stages; s-- > 0;)
            plan_put(&lists[pipe->at[(size_t)s * items + i]], PLAN_W, s, i);
    return BG_OK;
}

bg_status plan_order_1f1b(const struct plan_pipe *pipe, struct bg_error *err, struct plan_list *lists)
{
    (void)err;
    for (uint32_t s = 0; s < pipe->stages; s++) {
        uint32_t ahead = pipe->stages - s - 1;
        ahead = ahead < pipe->items ? ahead : pipe->items;
        for (uint32_t i = 0; i < ahead; i++)
            plan_put(&lists[s], PLAN_F, s, i);
        for (uint32_t i = 0; i < pipe->items; i++) {
            if (ahead + i < pipe->items)
                plan_put(&lists[s], PLAN_F, s, ahead + i);
            plan_put_backward(pipe, &lists[s], s, i);
        }
    }
    return BG_OK;
}

bg_status plan_order_interleaved(const struct plan_pipe *pipe, struct bg_error *err, struct plan_list *lists)
{
    const uint32_t workers = pipe->workers, chunks = pipe->stages / workers, turn = workers * chunks;
    if (pipe->items % workers)
        return bg_fail(
            err, BG_INVALID,
            "interleaved: %u micro-batches over %u workers, expected a multiple of %u; take %u micro-batches",
            pipe->items, workers, workers, (pipe->items / workers + 1) * workers);
    for (uint32_t w = 0; w < workers; w++) {
        const uint32_t total = pipe->items * chunks;
        uint32_t ahead = (workers - w - 1) * 2 + (chunks - 1) * workers;
        ahead = ahead < total ? ahead : total;
        for (uint32_t n = 0; n < total + ahead; n++) { // n-th forward, and the backward `ahead` behind it
            if (n < total)
                plan_put(&lists[w], PLAN_F, n % turn / workers * workers + w, n / turn * workers + n % workers);
            if (n < ahead)
                continue;
            const uint32_t b = n - ahead, chunk = chunks - 1 - b % turn / workers;
            plan_put_backward(pipe, &lists[w], chunk * workers + w, b / turn * workers + b % workers);
        }
    }
    return BG_OK;
}
