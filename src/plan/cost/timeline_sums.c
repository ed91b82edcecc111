// Who owes whom which sums in a step (as train/worker_sums.c has it): each seat of a stage owns a share of every unit's
// gradient, the others post their nodes of it, the owner evaluates the tree and sends the root to everybody who holds
// the unit. And the memory of a worker, as train/executor_memory.c reserves and touches it.
#include "plan/cost/timeline_int.h"

#include "base/mem.h"

#include <math.h>
#include <string.h>

#define PIECE_BYTES 262144.0 // a gradient travels in pieces of so many

uint32_t plan_sums_add(struct plan_sums *sums, struct plan_item item, uint32_t leaves)
{
    uint32_t level = 0, joined = 0, at;
    const uint32_t before = sums->count;
    while (item.first + ((uint64_t)1 << level) < item.end)
        level++;
    for (uint32_t index = item.first >> level;; level++, index /= 2) {
        for (; (uint64_t)(index ^ 1) << level >= leaves && (uint64_t)1 << level < leaves; level++)
            index /= 2; // alone: the node above has the same value
        for (at = 0; at < sums->count; at++)
            if (sums->nodes[at].level == level && sums->nodes[at].index == (index ^ 1))
                break;
        if (at == sums->count) {
            sums->count -= sums->count == PLAN_HELD_MAX;
            sums->nodes[sums->count].level = level;
            sums->nodes[sums->count++].index = index;
            break;
        }
        sums->nodes[at] = sums->nodes[--sums->count];
        joined++;
    }
    const uint32_t held = before + (joined == 0);
    sums->peak = held > sums->peak ? held : sums->peak;
    return joined > 0 ? joined - 1 : 0;
}

double plan_gradient_bytes(const struct plan_unit *unit)
{
    return unit->gradient_bytes > 0 ? unit->gradient_bytes : unit->parameter_bytes;
}

// ---- Who needs what ----
static void mark_needs(const struct plan *plan, const struct plan_profile *profile, struct plan_traffic *t)
{
    const uint32_t units = plan->units;
    for (uint32_t k = 0; k < plan->seat_count; k++) {
        const struct plan_stage *stage = &plan->stages[plan->seats[k].stage];
        memset(t->needs + (size_t)plan->seats[k].worker * units + stage->unit_first, 1,
               stage->unit_end - stage->unit_first);
    }
    for (uint32_t k = 0; k < plan->follow_count; k++) {
        const struct plan_follow *f = &plan->follows[k];
        memset(t->needs + (size_t)f->worker * units + f->unit_first, 1, f->unit_end - f->unit_first);
    }
    for (uint32_t w = 0; w < plan->workers; w++) {
        uint8_t *needs = t->needs + (size_t)w * units;
        for (uint32_t u = 0; u < units; u++)
            t->state_bytes[w] += needs[u] * profile->units[u].parameter_bytes;
        if (profile->tie_bytes > 0 && units > 1 && (needs[0] || needs[units - 1])) {
            if (needs[0] && needs[units - 1]) // one table, in both units' sizes
                t->state_bytes[w] -= profile->tie_bytes;
            needs[0] = needs[units - 1] = 1; // either of them steps the table with the gradients of both
        }
    }
}

static void count_nodes(const struct plan *plan, struct plan_traffic *t)
{
    struct plan_sums *sums = bg_alloc_array(plan->workers, sizeof *sums);
    for (uint32_t s = 0; s < plan->stage_count; s++) {
        memset(sums, 0, plan->workers * sizeof *sums);
        for (uint32_t i = 0; i < plan->item_count; i++) {
            const uint32_t w = plan->route[plan_cell(plan, s, i)];
            if (w != PLAN_NOBODY)
                plan_sums_add(&sums[w], plan->items[i], plan->micro_batches);
        }
        for (uint32_t w = 0; w < plan->workers; w++)
            t->nodes[(size_t)s * plan->workers + w] = sums[w].count;
    }
    bg_free(sums);
}

// The pieces of a unit's gradient among the seats, seat (unit + 1 + piece) mod n; rows of an embedding are one piece,
// of the first.
static void share_unit(const struct plan_unit *unit, uint32_t u, const uint32_t *seats, uint32_t count,
                       struct plan_share *shares)
{
    const double bytes = plan_gradient_bytes(unit);
    const bool rows = unit->gradient_bytes > 0 && unit->gradient_bytes < unit->parameter_bytes;
    const double pieces = rows ? (bytes > 0) : ceil(bytes / PIECE_BYTES), last = bytes - (pieces - 1) * PIECE_BYTES;
    for (uint32_t k = 0; k < count; k++) {
        const uint32_t place = rows ? k : (uint32_t)((k + count - (u + 1) % count) % count); // of its first piece
        const double mine = pieces > place ? floor((pieces - 1 - place) / count) + 1 : 0;
        const bool has_last = pieces > 0 && fmod(pieces - 1, count) == place;
        shares[k].unit = u;
        shares[k].owner = seats[k];
        shares[k].frames = mine;
        shares[k].bytes = rows ? mine * bytes : mine * PIECE_BYTES - (has_last ? PIECE_BYTES - last : 0);
    }
}

void plan_traffic_init(const struct plan *plan, const struct plan_profile *profile, struct plan_traffic *t)
{
    uint32_t *seats = bg_alloc_array(plan->seat_count + 1, sizeof *seats);
    size_t total = 0;
    for (uint32_t k = 0; k < plan->seat_count; k++)
        total += plan->stages[plan->seats[k].stage].unit_end - plan->stages[plan->seats[k].stage].unit_first;
    *t = (struct plan_traffic){.shares = bg_alloc_array(total + 1, sizeof *t->shares),
                               .first = bg_alloc_array(plan->units + 1, sizeof *t->first),
                               .nodes = bg_alloc_array((size_t)plan->stage_count * plan->workers, sizeof *t->nodes),
                               .needs = bg_alloc_array((size_t)plan->workers * plan->units, 1),
                               .state_bytes = bg_alloc_array(plan->workers, sizeof *t->state_bytes)};
    mark_needs(plan, profile, t);
    count_nodes(plan, t);
    for (uint32_t s = 0; s < plan->stage_count; s++) {
        const uint32_t *nodes = t->nodes + (size_t)s * plan->workers;
        uint32_t count = 0, all = 0, members = 0;
        for (uint32_t k = 0; k < plan->seat_count; k++)
            if (plan->seats[k].stage == s)
                seats[count++] = plan->seats[k].worker;
        for (uint32_t w = 0; w < plan->workers; w++) {
            all += nodes[w];
            members += nodes[w] > 0;
        }
        for (uint32_t u = plan->stages[s].unit_first; u < plan->stages[s].unit_end; u++) {
            struct plan_share *shares = t->shares + t->first[u];
            t->first[u + 1] = t->first[u] + count;
            share_unit(&profile->units[u], u, seats, count, shares);
            for (uint32_t k = 0; k < count; k++) {
                shares[k].nodes = all;
                shares[k].waits = members + (nodes[shares[k].owner] == 0);
            }
        }
    }
    bg_free(seats);
}

void plan_traffic_fini(struct plan_traffic *t)
{
    bg_free(t->shares);
    bg_free(t->first);
    bg_free(t->nodes);
    bg_free(t->needs);
    bg_free(t->state_bytes);
    *t = (struct plan_traffic){0};
}

// ---- Memory ----
// Sums, stashes and boundaries of a stage.
static double stage_bytes(const struct plan *plan, const struct plan_profile *profile, uint32_t worker, uint32_t stage)
{
    const struct plan_stage *st = &plan->stages[stage];
    const struct plan_list *list = &plan->lists[worker];
    struct plan_sums sums = {0};
    bool recompute = false;
    double largest = 0, computed = 0, stash = 0, gradient = 0, boundaries = 0;
    for (size_t k = 0; k < list->count; k++) {
        const struct plan_op *op = &list->ops[k];
        if (op->kind > PLAN_W || op->stage != stage)
            continue;
        const double leaves = plan_item_leaves(plan, op->item);
        largest = leaves > largest ? leaves : largest;
        recompute |= op->flags & PLAN_RECOMPUTE;
        if (op->kind == PLAN_W || (op->kind == PLAN_B && op->flags & PLAN_FUSED && op->slice == 0)) {
            computed += leaves;
            plan_sums_add(&sums, plan->items[op->item], plan->micro_batches);
        }
    }
    for (uint32_t u = st->unit_first; u < st->unit_end; u++) {
        stash += profile->units[u].stash_bytes + (u + 1 < st->unit_end ? profile->units[u].cut_bytes : 0);
        gradient += plan_gradient_bytes(&profile->units[u]);
    }
    if (st->unit_end < plan->units)
        boundaries += profile->units[st->unit_end - 1].cut_bytes;
    if (st->unit_first > 0)
        boundaries += profile->units[st->unit_first - 1].cut_bytes;
    const uint32_t flights = plan_flights(plan, worker, stage);
    return sums.peak * gradient + (recompute && flights > 1 ? 1 : flights) * largest * stash + computed * boundaries;
}

double plan_worker_bytes(const struct plan *plan, const struct plan_profile *profile, double state_bytes,
                         uint32_t worker)
{
    double bytes = (plan->workers > 1 ? 4 : 3) * state_bytes; // one process has no root beside its sums
    for (uint32_t k = 0; k < plan->seat_count; k++)
        if (plan->seats[k].worker == worker)
            bytes += stage_bytes(plan, profile, worker, plan->seats[k].stage);
    return bytes;
}
