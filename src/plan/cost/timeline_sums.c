// Who owes whom which sums in a step (as train/worker_sums.c has it): each message of a unit's gradient has an owner
// among the seats of the stage, the others post their nodes of it, the owner evaluates the tree and sends the root to
// everybody who holds the unit. And the memory of a worker, as train/executor_memory.c reserves and touches it.
#include "plan/cost/timeline_int.h"

#include "base/mem.h"

#include <math.h>
#include <string.h>

// Of a unit: more messages than that are told apart by their owners only, or their count would be most of the walk.
enum { SHARES = PLAN_CHUNKS_MAX, PIECES_MAX = 1 << 30 };

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

static uint32_t pieces_of(const struct plan_unit *unit)
{
    const double bytes = plan_gradient_bytes(unit);
    const bool rows = unit->gradient_bytes > 0 && unit->gradient_bytes < unit->parameter_bytes;
    const double pieces = ceil(bytes / PLAN_PIECE_BYTES);
    return rows ? bytes > 0 : pieces < PIECES_MAX ? (uint32_t)pieces : PIECES_MAX;
}

static double bytes_between(double bytes, uint32_t pieces, uint32_t first, uint32_t end)
{
    const double from = first * (double)PLAN_PIECE_BYTES;
    return end < pieces ? end * (double)PLAN_PIECE_BYTES - from : bytes - from;
}

// Run r is in share r mod their number, which is returned. Rows of an embedding are one message, of the first seat.
// shares NULL: only the number.
static uint32_t share_unit(const struct plan *plan, const struct plan_profile *profile, uint32_t stage, uint32_t u,
                           uint32_t seats, struct plan_share *shares)
{
    const struct plan_unit *unit = &profile->units[u];
    const double bytes = plan_gradient_bytes(unit);
    const bool rows = unit->gradient_bytes > 0 && unit->gradient_bytes < unit->parameter_bytes;
    const uint32_t pieces = pieces_of(unit), chunks = plan->sums ? plan->sums[stage].chunks : 0;
    const uint32_t runs = chunks > 0 && chunks < pieces ? chunks : pieces;   // of over PLAN_RUN_PIECES as well
    const uint32_t most = seats >= SHARES ? seats : SHARES - SHARES % seats; // whole rounds of owners
    const uint32_t count = runs < most || runs == chunks ? runs : most;
    for (uint32_t k = 0; k < count && shares; k++) {
        uint32_t first, end;
        plan_run_pieces(pieces, runs, k, &first, &end);
        shares[k].unit = u;
        shares[k].run = k;
        shares[k].owner = plan_run_owner(plan, stage, rows ? 0 : u + 1, k);
        shares[k].frames = (runs - 1 - k) / count + 1;
        shares[k].bytes = bytes_between(bytes, pieces, first, end);
        if (shares[k].frames > 1) // runs of a piece each
            shares[k].bytes = shares[k].frames * PLAN_PIECE_BYTES;
        if (shares[k].frames > 1 && (runs - 1) % count == k)
            shares[k].bytes += bytes_between(bytes, pieces, pieces - 1, pieces) - PLAN_PIECE_BYTES;
    }
    return count;
}

void plan_traffic_init(const struct plan *plan, const struct plan_profile *profile, struct plan_traffic *t)
{
    uint32_t *seats = bg_alloc_array(plan->stage_count, sizeof *seats);
    *t = (struct plan_traffic){.first = bg_alloc_array(plan->units + 1, sizeof *t->first),
                               .nodes = bg_alloc_array((size_t)plan->stage_count * plan->workers, sizeof *t->nodes),
                               .needs = bg_alloc_array((size_t)plan->workers * plan->units, 1),
                               .state_bytes = bg_alloc_array(plan->workers, sizeof *t->state_bytes)};
    mark_needs(plan, profile, t);
    count_nodes(plan, t);
    for (uint32_t k = 0; k < plan->seat_count; k++)
        seats[plan->seats[k].stage]++;
    for (uint32_t s = 0; s < plan->stage_count; s++)
        for (uint32_t u = plan->stages[s].unit_first; u < plan->stages[s].unit_end; u++)
            t->first[u + 1] = t->first[u] + (seats[s] ? share_unit(plan, profile, s, u, seats[s], NULL) : 0);
    t->shares = bg_alloc_array(t->first[plan->units] + 1u, sizeof *t->shares);
    for (uint32_t s = 0; s < plan->stage_count; s++) {
        const uint32_t *nodes = t->nodes + (size_t)s * plan->workers;
        uint32_t all = 0, members = 0;
        for (uint32_t w = 0; w < plan->workers; w++) {
            all += nodes[w];
            members += nodes[w] > 0;
        }
        for (uint32_t u = plan->stages[s].unit_first; u < plan->stages[s].unit_end && seats[s]; u++) {
            struct plan_share *shares = t->shares + t->first[u];
            const uint32_t count = share_unit(plan, profile, s, u, seats[s], shares);
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
double plan_stash_bytes(const struct plan *plan, const struct plan_profile *profile, uint32_t stage)
{
    const struct plan_stage *st = &plan->stages[stage];
    double stash = 0;
    for (uint32_t u = st->unit_first; u < st->unit_end; u++)
        stash += profile->units[u].stash_bytes + (u + 1 < st->unit_end ? profile->units[u].cut_bytes : 0);
    return stash;
}

// Sums, stashes and boundaries of a stage. *aside: the most of a stash of a stage whose stashes wait on disk; of all
// those one is in memory.
static double stage_bytes(const struct plan *plan, const struct plan_profile *profile, uint32_t worker, uint32_t stage,
                          double *aside)
{
    const struct plan_stage *st = &plan->stages[stage];
    const struct plan_list *list = &plan->lists[worker];
    struct plan_sums sums = {0};
    bool recompute = false, offload = false;
    double largest = 0, computed = 0, gradient = 0, boundaries = 0;
    for (size_t k = 0; k < list->count; k++) {
        const struct plan_op *op = &list->ops[k];
        if (op->kind > PLAN_W || op->stage != stage)
            continue;
        const double leaves = plan_item_leaves(plan, op->item);
        largest = leaves > largest ? leaves : largest;
        recompute |= op->flags & PLAN_RECOMPUTE;
        offload |= op->kind == PLAN_F && op->flags & PLAN_OFFLOAD;
        if (op->kind == PLAN_W || (op->kind == PLAN_B && op->flags & PLAN_FUSED && op->slice == 0)) {
            computed += leaves;
            plan_sums_add(&sums, plan->items[op->item], plan->micro_batches);
        }
    }
    for (uint32_t u = st->unit_first; u < st->unit_end; u++)
        gradient += plan_gradient_bytes(&profile->units[u]);
    if (st->unit_end < plan->units)
        boundaries += profile->units[st->unit_end - 1].cut_bytes;
    if (st->unit_first > 0)
        boundaries += profile->units[st->unit_first - 1].cut_bytes;
    const uint32_t flights = plan_flights(plan, worker, stage);
    const double stash = largest * plan_stash_bytes(plan, profile, stage);
    if (offload)
        *aside = fmax(*aside, stash);
    return sums.peak * gradient +
           (offload                    ? 0
            : recompute && flights > 1 ? 1
                                       : flights) *
               stash +
           computed * boundaries;
}

double plan_worker_bytes(const struct plan *plan, const struct plan_profile *profile, double state_bytes,
                         uint32_t worker)
{
    double bytes = (plan->workers > 1 ? 4 : 3) * state_bytes, aside = 0; // one process has no root beside its sums
    double largest = 0;                                                  // item that it computes
    for (size_t i = 0; i < plan->lists[worker].count; i++)
        if (plan->lists[worker].ops[i].kind <= PLAN_W)
            largest = fmax(largest, plan_item_leaves(plan, plan->lists[worker].ops[i].item));
    bytes += profile->process_bytes + largest * profile->work_bytes;
    for (uint32_t k = 0; k < plan->seat_count; k++)
        if (plan->seats[k].worker == worker)
            bytes += stage_bytes(plan, profile, worker, plan->seats[k].stage, &aside);
    return bytes + aside;
}
