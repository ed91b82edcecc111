// A whole step's plan for a shape: cut, seats, routes, order, lowered lists.
#include "plan/plan.h"

#include "base/mem.h"
#include "plan/pass/pass.h"
#include "plan/plan_int.h"
#include "plan/schedule/schedule.h"

#include <string.h>

static uint32_t item_count(const struct plan_options *options)
{
    return (options->micro_batches - 1) / options->group + 1;
}

static bg_status check_shares(const struct plan_options *options, struct bg_error *err)
{
    const uint32_t *share = options->shares, items = item_count(options);
    for (uint32_t r = 0; r < options->stages && share; r++) {
        uint64_t sum = 0;
        for (uint32_t k = 0; k < options->replicas[r]; k++)
            sum += *share++;
        if (sum != items)
            return bg_fail(err, BG_INVALID, "plan: the replicas of stage %u share %llu items: expected all of %u", r,
                           (unsigned long long)sum, items);
    }
    return BG_OK;
}

static bg_status check_cut(const struct plan_options *options, uint32_t stages, struct bg_error *err)
{
    uint32_t at = 0;
    for (uint32_t s = 0; s < stages && options->cut; at = options->cut[s++].unit_end)
        if (options->cut[s].unit_first != at || options->cut[s].unit_end <= at)
            return bg_fail(err, BG_INVALID, "plan: stage %u holds units %u..%u: expected them to begin at %u", s,
                           options->cut[s].unit_first, options->cut[s].unit_end, at);
    if (options->cut && at != options->units)
        return bg_fail(err, BG_INVALID, "plan: the stages end at unit %u of %u", at, options->units);
    return BG_OK;
}

static bg_status check(const struct plan_options *options, struct bg_error *err)
{
    const struct plan_options *o = options;
    if (o->micro_batches == 0 || o->group == 0 || (o->group & (o->group - 1)))
        return bg_fail(err, BG_INVALID,
                       "plan of %u micro-batches in groups of %u: expected at least one, and a power of two",
                       o->micro_batches, o->group);
    const uint64_t chunks = plan_schedule_chunks(o->schedule, o->chunks), stages = chunks * o->stages;
    if (stages == 0 || stages > o->units || stages > PLAN_STAGES_MAX)
        return bg_fail(
            err, BG_INVALID,
            "plan of %u pipeline stages x %llu chunks over %u units: each chunk needs a unit, at most %d chunks",
            o->stages, (unsigned long long)chunks, o->units, PLAN_STAGES_MAX);
    uint64_t workers = o->followers;
    for (uint32_t r = 0; r < o->stages; r++) {
        if (o->replicas[r] == 0)
            return bg_fail(err, BG_INVALID, "plan: stage %u has no replica: expected at least one", r);
        workers += o->replicas[r];
    }
    if (workers > PLAN_WORKERS_MAX)
        return bg_fail(err, BG_INVALID, "plan of %llu workers: expected at most %d", (unsigned long long)workers,
                       PLAN_WORKERS_MAX);
    if (o->slices > PLAN_SLICES_MAX)
        return bg_fail(err, BG_INVALID, "plan of %u slices: expected at most %d", o->slices, PLAN_SLICES_MAX);
    bg_status status = check_cut(o, (uint32_t)stages, err);
    return status ? status : check_shares(o, err);
}

static uint32_t rank_of(const struct plan_options *options, uint32_t stage)
{
    return plan_schedule_rank(options->schedule, options->stages, stage);
}

// Workers rank by rank, each at every stage of its rank.
static void set_seats(const struct plan_options *options, struct plan *plan)
{
    uint32_t *first = bg_alloc_array(options->stages + 1u, sizeof *first); // worker of each rank
    for (uint32_t r = 0; r < options->stages; r++)
        first[r + 1] = first[r] + options->replicas[r];
    for (uint32_t s = 0; s < plan->stage_count; s++)
        plan->seat_count += options->replicas[rank_of(options, s)];
    plan->seats = bg_alloc_array(plan->seat_count, sizeof *plan->seats);
    struct plan_seat *seat = plan->seats;
    for (uint32_t s = 0; s < plan->stage_count; s++)
        for (uint32_t rank = rank_of(options, s), k = 0; k < options->replicas[rank]; k++)
            *seat++ = (struct plan_seat){first[rank] + k, s, k};
    const uint32_t computing = first[options->stages];
    plan->workers = computing + options->followers;
    plan->follow_count = options->followers;
    plan->follows = bg_alloc_array(plan->follow_count, sizeof *plan->follows);
    for (uint32_t k = 0; k < options->followers; k++)
        plan->follows[k] = (struct plan_follow){computing + k, 0, options->units};
    bg_free(first);
}

// Items of replica k of a rank.
static uint32_t share_of(const struct plan_options *options, uint32_t rank, uint32_t k)
{
    const uint32_t items = item_count(options), replicas = options->replicas[rank];
    if (!options->shares)
        return items / replicas + (k < items % replicas);
    for (uint32_t r = 0; r < rank; r++)
        k += options->replicas[r];
    return options->shares[k];
}

// Contiguous runs of items.
static void set_routes(const struct plan_options *options, struct plan *plan)
{
    plan->route = plan_map_create(plan);
    const struct plan_seat *seat = plan->seats;
    for (uint32_t s = 0; s < plan->stage_count; s++) {
        const uint32_t rank = rank_of(options, s);
        for (uint32_t k = 0, item = 0; k < options->replicas[rank]; k++, seat++) {
            uint32_t count = share_of(options, rank, k);
            for (; count > 0; count--)
                plan->route[plan_cell(plan, s, item++)] = seat->worker;
        }
    }
}

// Every rank has as many replicas with the same shares, so that replica k of all of them is a pipeline of its own.
static bool even(const struct plan_options *options)
{
    for (uint32_t r = 1; r < options->stages; r++) {
        if (options->replicas[r] != options->replicas[0])
            return false;
        for (uint32_t k = 0; k < options->replicas[r]; k++)
            if (share_of(options, r, k) != share_of(options, 0, k))
                return false;
    }
    return true;
}

// ---- Orders ----
// Times of F, B and W by stage, (3, stages).
static double *stage_times(const struct plan_options *options, const struct plan *plan)
{
    const double *const units[3] = {options->forward, options->input, options->weight};
    double *times = bg_alloc_array((size_t)3 * plan->stage_count, sizeof *times);
    for (uint32_t k = 0; k < 3; k++)
        for (uint32_t s = 0; s < plan->stage_count; s++)
            for (uint32_t u = plan->stages[s].unit_first; u < plan->stages[s].unit_end; u++)
                times[k * plan->stage_count + s] += units[k] ? units[k][u] : options->costs ? options->costs[u] / 3 : 1;
    return times;
}

// The lists of a pipeline go to its workers, with its items' numbers. workers, items: what its own numbers stand for.
static void take_lists(const struct plan_pipe *pipe, struct plan_list *lists, const uint32_t *workers,
                       const uint32_t *items, struct plan *plan)
{
    for (uint32_t w = 0; w < pipe->workers; w++) {
        for (size_t n = 0; n < lists[w].count; n++) {
            struct plan_op op = lists[w].ops[n];
            op.item = items[op.item];
            plan_list_add(&plan->lists[workers[w]], op);
        }
        bg_free(lists[w].ops);
    }
    bg_free(lists);
}

// One pipeline of the plan: `pipe` without its places.
static bg_status order_pipe(const struct plan_options *options, struct plan_pipe *pipe, const uint32_t *workers,
                            const uint32_t *items, struct bg_error *err, struct plan *plan)
{
    const size_t count = (size_t)pipe->stages * pipe->items;
    uint32_t *at = bg_alloc_array(count, sizeof *at), *number = bg_alloc_array(plan->workers, sizeof *number);
    for (uint32_t w = 0; w < pipe->workers; w++)
        number[workers[w]] = w;
    for (uint32_t s = 0; s < pipe->stages; s++)
        for (uint32_t i = 0; i < pipe->items; i++)
            at[(size_t)s * pipe->items + i] = number[plan->route[plan_cell(plan, s, items[i])]];
    struct plan_list *lists = bg_alloc_array(pipe->workers, sizeof *lists);
    pipe->at = at;
    bg_status status = plan_schedule_make(options->schedule, pipe, err, lists);
    if (status)
        bg_free(lists);
    else
        take_lists(pipe, lists, workers, items, plan);
    bg_free(at);
    bg_free(number);
    return status;
}

// All workers as one pipeline, items in the order of their ranks; or replica k of every rank as one.
static bg_status order_pipes(const struct plan_options *options, const struct plan_pipe *whole, const uint32_t *rank,
                             struct bg_error *err, struct plan *plan)
{
    const bool one = plan_schedule_kind(options->schedule)->any_shape;
    const uint32_t computing = plan->workers - options->followers, pipes = one ? 1 : options->replicas[0];
    uint32_t *workers = bg_alloc_array(computing, sizeof *workers);
    uint32_t *items = bg_alloc_array(plan->item_count, sizeof *items);
    bg_status status = BG_OK;
    for (uint32_t k = 0, first = 0; k < pipes && !status; k++) {
        struct plan_pipe pipe = *whole;
        pipe.workers = one ? computing : options->stages;
        pipe.items = one ? plan->item_count : share_of(options, 0, k);
        for (uint32_t w = 0; w < pipe.workers; w++)
            workers[w] = one ? w : w * pipes + k;
        for (uint32_t i = 0; i < pipe.items; i++)
            items[one ? rank[i] : i] = first + i;
        first += pipe.items;
        if (pipe.items > 0)
            status = order_pipe(options, &pipe, workers, items, err, plan);
    }
    bg_free(workers);
    bg_free(items);
    return status;
}

static void order_greedy(const struct plan_options *options, const struct plan_work *work, struct plan *plan)
{
    plan_reset_lists(plan);
    plan_order_greedy(plan, work);
    for (uint32_t w = 0; w < plan->workers; w++)
        plan_slice_list(&plan->lists[w], options->slices);
}

static bg_status check_memory(const struct plan_options *options, const struct plan *plan, struct bg_error *err)
{
    for (uint32_t w = 0; w < plan->workers && options->memory > 0; w++) {
        const double peak = plan_list_peak(&plan->lists[w], options->slices);
        if (peak > options->memory)
            return bg_fail(err, BG_INVALID, "plan: worker %u holds %g items of a stage at once, the memory is for %g",
                           w, peak, options->memory);
    }
    return BG_OK;
}

static bg_status set_order(const struct plan_options *options, struct bg_error *err, struct plan *plan)
{
    uint8_t *bits = bg_alloc_array(plan_cells(plan), 1);
    uint32_t *rank = bg_alloc_array(plan->item_count, sizeof *rank);
    double *times = stage_times(options, plan);
    const bool split = options->split || plan_schedule_splits(options->schedule, options->slices);
    const struct plan_pipe whole = {.stages = plan->stage_count,
                                    .slices = options->slices,
                                    .range = (options->range + options->group - 1) / options->group,
                                    .forward = times,
                                    .input = times + plan->stage_count,
                                    .weight = times + (size_t)2 * plan->stage_count,
                                    .comm = options->comm,
                                    .memory = options->memory,
                                    .split = split};
    const struct plan_work work = {bits, plan->route, rank, split};
    for (size_t c = 0; c < plan_cells(plan); c++)
        bits[c] = PLAN_WORK_F | PLAN_WORK_B | PLAN_WORK_W;
    plan_rank_items(plan, plan->route, rank);
    plan_reset_lists(plan);
    const bool fits = plan_schedule_kind(options->schedule)->any_shape || even(options);
    bg_status status = fits ? order_pipes(options, &whole, rank, err, plan) : BG_OK;
    if (!fits || (status && options->memory <= 0)) { // not of so many items, says the schedule
        order_greedy(options, &work, plan);
        status = BG_OK;
    }
    if (!status)
        status = check_memory(options, plan, err);
    bg_free(bits);
    bg_free(rank);
    bg_free(times);
    return status;
}

// Which stages keep nothing in memory from forward to backward.
static void save_memory(const struct plan_options *options, struct plan *plan)
{
    const uint8_t all = (options->recompute ? PLAN_RECOMPUTE : 0) | (options->offload ? PLAN_OFFLOAD : 0);
    for (uint32_t w = 0; w < plan->workers; w++)
        for (size_t i = 0; i < plan->lists[w].count; i++) {
            struct plan_op *op = &plan->lists[w].ops[i];
            if (op->kind == PLAN_F || op->kind == PLAN_B)
                op->flags |= options->saving ? options->saving[rank_of(options, op->stage)] : all;
        }
}

bg_status plan_build(const struct plan_options *options, struct bg_error *err, struct plan *plan)
{
    bg_status status = check(options, err);
    if (status)
        return status;
    struct plan made = {.units = options->units, .micro_batches = options->micro_batches};
    made.slices = options->slices > 1 ? options->slices : 0;
    made.stage_count = options->stages * plan_schedule_chunks(options->schedule, options->chunks);
    made.stages = bg_alloc_array(made.stage_count, sizeof *made.stages);
    if (options->cut)
        memcpy(made.stages, options->cut, made.stage_count * sizeof *made.stages);
    else
        status = plan_cut(options->costs, options->units, made.stage_count, err, made.stages);
    if (!status) {
        made.item_count = item_count(options);
        made.items = bg_alloc_array(made.item_count, sizeof *made.items);
        for (uint32_t i = 0; i < made.item_count; i++)
            made.items[i] = (struct plan_item){i * options->group, (i + 1) * options->group};
        made.items[made.item_count - 1].end = options->micro_batches;
        set_seats(options, &made);
        set_routes(options, &made);
        status = set_order(options, err, &made);
        save_memory(options, &made);
    }
    if (!status)
        status = plan_lower(&made, NULL, err);
    if (!status) {
        plan_place_receives(&made, NULL, NULL);
        plan_close_lists(&made);
        plan_passes_apply(&made, &options->passes);
        status = plan_validate(&made, err);
    }
    if (status)
        plan_fini(&made);
    else
        *plan = made;
    return status;
}
