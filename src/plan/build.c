// A whole step's plan for a shape: cut, seats, routes, order, lowered lists.
#include "plan/plan.h"

#include "base/mem.h"
#include "plan/plan_int.h"

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

static bg_status check(const struct plan_options *options, struct bg_error *err)
{
    const struct plan_options *o = options;
    if (o->micro_batches == 0 || o->group == 0 || (o->group & (o->group - 1)))
        return bg_fail(err, BG_INVALID,
                       "plan of %u micro-batches in groups of %u: expected at least one, and a power of two",
                       o->micro_batches, o->group);
    const uint64_t chunks = o->schedule == PLAN_INTERLEAVED ? o->chunks : 1, stages = chunks * o->stages;
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
    return check_shares(o, err);
}

// Workers rank by rank; stage s belongs to rank s mod ranks.
static void set_seats(const struct plan_options *options, struct plan *plan)
{
    for (uint32_t s = 0; s < plan->stage_count; s++)
        plan->seat_count += options->replicas[s % options->stages];
    plan->seats = bg_alloc_array(plan->seat_count, sizeof *plan->seats);
    uint32_t seat = 0, first = 0, computing = 0;
    for (uint32_t s = 0; s < plan->stage_count; s++) {
        const uint32_t rank = s % options->stages, replicas = options->replicas[rank];
        first = rank == 0 ? 0 : first;
        for (uint32_t k = 0; k < replicas; k++)
            plan->seats[seat++] = (struct plan_seat){first + k, s, k};
        first += replicas;
        computing = first > computing ? first : computing;
    }
    plan->workers = computing + options->followers;
    plan->follow_count = options->followers;
    plan->follows = bg_alloc_array(plan->follow_count, sizeof *plan->follows);
    for (uint32_t k = 0; k < options->followers; k++)
        plan->follows[k] = (struct plan_follow){computing + k, 0, options->units};
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
        const uint32_t rank = s % options->stages;
        for (uint32_t k = 0, item = 0; k < options->replicas[rank]; k++, seat++) {
            uint32_t count = share_of(options, rank, k);
            for (; count > 0; count--)
                plan->route[plan_cell(plan, s, item++)] = seat->worker;
        }
    }
}

// Does the published interleaved order fit: every worker a multiple of the pipeline's length of items?
static bool divides(const struct plan_options *options)
{
    for (uint32_t k = 0; k < options->replicas[0]; k++)
        if (share_of(options, 0, k) % options->stages)
            return false;
    return true;
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

static void set_order(const struct plan_options *options, struct plan *plan)
{
    uint8_t *bits = bg_alloc_array(plan_cells(plan), 1);
    uint32_t *rank = bg_alloc_array(plan->item_count, sizeof *rank);
    for (size_t c = 0; c < plan_cells(plan); c++)
        bits[c] = PLAN_WORK_F | PLAN_WORK_B | PLAN_WORK_W;
    plan_rank_items(plan, plan->route, rank);
    const struct plan_work work = {bits, plan->route, rank, options->split, options->recompute};
    plan_reset_lists(plan);
    if (options->schedule == PLAN_GPIPE)
        plan_order_gpipe(plan, &work);
    else if (options->schedule == PLAN_1F1B && even(options))
        plan_order_1f1b(plan, &work);
    else if (options->schedule == PLAN_INTERLEAVED && even(options) && divides(options))
        plan_order_interleaved(plan, &work, options->stages, options->chunks);
    else
        plan_order_greedy(plan, &work);
    bg_free(bits);
    bg_free(rank);
}

bg_status plan_build(const struct plan_options *options, struct bg_error *err, struct plan *plan)
{
    bg_status status = check(options, err);
    if (status)
        return status;
    struct plan made = {.units = options->units, .micro_batches = options->micro_batches};
    made.stage_count = options->stages * (options->schedule == PLAN_INTERLEAVED ? options->chunks : 1);
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
        set_order(options, &made);
        status = plan_lower(&made, NULL, err);
    }
    if (!status) {
        plan_place_receives(&made, NULL, NULL);
        plan_close_lists(&made);
        status = plan_validate(&made, err);
    }
    if (status)
        plan_fini(&made);
    else
        *plan = made;
    return status;
}
