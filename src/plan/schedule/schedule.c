// The registry of schedules: what a name means, and one pipeline's lists by it.
#include "plan/schedule/schedule.h"

#include "base/assert.h"
#include "base/mem.h"
#include "base/str.h"
#include "plan/plan_int.h"
#include "plan/schedule/schedule_int.h"

#include <math.h>
#include <string.h>

static const struct plan_schedule_kind kinds[PLAN_SCHEDULES] = {
    [PLAN_GPIPE] = {.name = "gpipe",
                    .about = "all forwards, then all backwards (GPipe)",
                    .chunks = 1,
                    .any_shape = true,
                    .order = plan_order_gpipe},
    [PLAN_1F1B] = {.name = "1f1b",
                   .about = "a backward as soon as it can be (PipeDream-flush)",
                   .chunks = 1,
                   .order = plan_order_1f1b},
    [PLAN_INTERLEAVED] = {.name = "interleaved",
                          .about = "1F1B with several stages a worker (Megatron)",
                          .number = "CHUNKS",
                          .number_standard = 2,
                          .order = plan_order_interleaved},
    [PLAN_ZB_H1] = {.name = "zb-h1",
                    .about = "weight gradients fill gaps, memory of 1F1B (ZB-H1)",
                    .chunks = 1,
                    .splits = true,
                    .order = plan_order_zero_bubble_1p},
    [PLAN_ZB_2P] = {.name = "zb-2p",
                    .about = "the same with twice the memory (ZB-2p)",
                    .chunks = 1,
                    .splits = true,
                    .order = plan_order_zero_bubble_2p},
    [PLAN_ZB_V] = {.name = "zb-v",
                   .about = "two stages a worker in a V, memory of 1F1B (ZB-V)",
                   .chunks = 2,
                   .v_shaped = true,
                   .splits = true,
                   .order = plan_order_zero_bubble_v},
    [PLAN_ZB_V_HALF] = {.name = "zb-v-half",
                        .about = "the V with half the memory (V-Half)",
                        .chunks = 2,
                        .v_shaped = true,
                        .splits = true,
                        .order = plan_order_v_half},
    [PLAN_ZB_V_MIN] = {.name = "zb-v-min",
                       .about = "the V with a third of the memory (V-Min)",
                       .chunks = 2,
                       .v_shaped = true,
                       .splits = true,
                       .order = plan_order_v_min},
    [PLAN_SEQ1F1B] = {.name = "seq1f1b",
                      .about = "1F1B over slices of each sample (Seq1F1B, MEPipe)",
                      .chunks = 1,
                      .number = "SLICES",
                      .number_standard = 2,
                      .slices = true,
                      .order = plan_order_seq1f1b},
    [PLAN_TESSEL] = {.name = "tessel",
                     .about = "found by search for the times of the stages (Tessel)",
                     .number = "CHUNKS",
                     .number_standard = 1,
                     .order = plan_order_tessel},
    [PLAN_DISTMM] = {.name = "distmm",
                     .about = "the forwards of a range of micro-batches, then its backwards (batch sync, DistMM)",
                     .number = "RANGE",
                     .chunks = 1,
                     .any_shape = true,
                     .ranges = true,
                     .order = plan_order_distmm},
};

const struct plan_schedule_kind *plan_schedule_kind(enum plan_schedule schedule)
{
    BG_ASSERT((unsigned)schedule < PLAN_SCHEDULES);
    return &kinds[schedule];
}

uint32_t plan_schedule_chunks(enum plan_schedule schedule, uint32_t wanted)
{
    const uint32_t chunks = plan_schedule_kind(schedule)->chunks;
    return chunks ? chunks : wanted;
}

uint32_t plan_schedule_rank(enum plan_schedule schedule, uint32_t ranks, uint32_t stage)
{
    const uint32_t place = stage % ranks;
    return plan_schedule_kind(schedule)->v_shaped && stage / ranks % 2 ? ranks - 1 - place : place;
}

bool plan_schedule_splits(enum plan_schedule schedule, uint32_t slices)
{
    return plan_schedule_kind(schedule)->splits || slices > 1;
}

static bg_status unknown(const char *text, struct bg_error *err)
{
    struct bg_str names = {0};
    for (size_t k = 0; k < PLAN_SCHEDULES; k++)
        bg_str_addf(&names, "%s%s%s%s%s", k ? k + 1 == PLAN_SCHEDULES ? " or " : ", " : "", kinds[k].name,
                    kinds[k].number ? "[:" : "", kinds[k].number ? kinds[k].number : "", kinds[k].number ? "]" : "");
    bg_status status = bg_fail(err, BG_INVALID, "schedule \"%.100s\": expected %s", text, bg_str_text(&names));
    bg_str_fini(&names);
    return status;
}

bg_status plan_schedule_parse(const char *text, struct bg_error *err, enum plan_schedule *schedule, uint32_t *chunks,
                              uint32_t *slices, uint32_t *range)
{
    for (size_t k = 0; k < PLAN_SCHEDULES; k++) {
        const struct plan_schedule_kind *kind = &kinds[k];
        const size_t size = strlen(kind->name);
        uint32_t number = kind->number_standard;
        if (strncmp(text, kind->name, size) != 0 || (text[size] && text[size] != ':'))
            continue;
        if (text[size] == ':') {
            const char *at = text + size + 1;
            number = plan_number(&at, kind->ranges ? PLAN_CELLS_MAX : PLAN_STAGES_MAX);
            if (!kind->number || number == 0 || *at)
                return unknown(text, err);
        }
        *schedule = (enum plan_schedule)k;
        *chunks = kind->chunks ? kind->chunks : number;
        *slices = kind->slices ? number : 1;
        *range = kind->ranges ? number : 0;
        return BG_OK;
    }
    return unknown(text, err);
}

static bg_status check(const struct plan_schedule_kind *kind, const struct plan_pipe *pipe, struct bg_error *err)
{
    const uint64_t slices = pipe->slices > 1 ? pipe->slices : 1, cells = (uint64_t)pipe->stages * pipe->items;
    if (pipe->workers == 0 || pipe->items == 0 || pipe->stages == 0)
        return bg_fail(err, BG_INVALID, "%s: %u workers, %u stages, %u micro-batches: expected at least one of each",
                       kind->name, pipe->workers, pipe->stages, pipe->items);
    if (pipe->stages > PLAN_STAGES_MAX || slices > PLAN_SLICES_MAX || cells > PLAN_CELLS_MAX / slices)
        return bg_fail(
            err, BG_INVALID,
            "%s: %u stages of %u micro-batches in %u slices: expected at most %d stages, %d slices, %d of all",
            kind->name, pipe->stages, pipe->items, (unsigned)slices, PLAN_STAGES_MAX, PLAN_SLICES_MAX, PLAN_CELLS_MAX);
    if (!kind->any_shape &&
        pipe->stages != pipe->workers * (kind->chunks ? kind->chunks : pipe->stages / pipe->workers))
        return bg_fail(err, BG_INVALID, "%s: %u stages on %u workers: expected %u a worker", kind->name, pipe->stages,
                       pipe->workers, kind->chunks ? kind->chunks : pipe->stages / pipe->workers + 1);
    return BG_OK;
}

// The items in flight that the lists need, against the memory there is.
static bg_status check_memory(const struct plan_schedule_kind *kind, const struct plan_pipe *pipe,
                              const struct plan_list *lists, struct bg_error *err)
{
    double most = 0;
    uint32_t worst = 0;
    for (uint32_t w = 0; w < pipe->workers && pipe->memory > 0; w++) {
        const double peak = plan_list_peak(&lists[w], pipe->slices);
        worst = peak > most ? w : worst;
        most = peak > most ? peak : most;
    }
    if (pipe->memory <= 0 || most <= pipe->memory * (1 + 1e-9)) // slices of one add up to nearly one
        return BG_OK;
    most = ceil(1000 * most - 1e-6) / 1000; // two thirds of a micro-batch are told as a little more
    return bg_fail(err, BG_INVALID,
                   "%s: worker %u holds %g micro-batches of a stage at once, the memory is for %g; give it %g, or take "
                   "a schedule that holds fewer",
                   kind->name, worst, most, pipe->memory, most);
}

bg_status plan_schedule_make(enum plan_schedule schedule, const struct plan_pipe *pipe, struct bg_error *err,
                             struct plan_list *lists)
{
    const struct plan_schedule_kind *kind = plan_schedule_kind(schedule);
    bg_status status = check(kind, pipe, err);
    if (status)
        return status;
    status = kind->order(pipe, err, lists);
    for (uint32_t w = 0; w < pipe->workers && !status && !kind->slices; w++)
        plan_slice_list(&lists[w], pipe->slices);
    if (!status)
        status = check_memory(kind, pipe, lists, err);
    for (uint32_t w = 0; w < pipe->workers && status; w++) {
        bg_free(lists[w].ops);
        lists[w] = (struct plan_list){0};
    }
    return status;
}
