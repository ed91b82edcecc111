// What a generation will be: who computes which pipeline rank, who follows which units, what state has to move first,
// and the two plans. A pure decision over the members and their reports; nothing is sent from here.
//
// The rules. Who sits keeps its seat. A rank that nobody is left at goes to a member that holds its units: a follower,
// else the shadow. If that cannot be, the shape is fitted to the living and units move at once. A shape that would seat
// more members is first followed by those that are to sit in it, and taken at a boundary once they hold their units.
#include "ctl/ctl_int.h"

#include "base/assert.h"
#include "base/mem.h"
#include "plan/pass/pass.h"
#include "plan/split/sync.h"

#include <string.h>

// ---- Seats ----
static uint32_t chunks_of(const struct ctl *ctl)
{
    return plan_schedule_chunks(ctl->o.schedule, ctl->o.chunks);
}

static bool splits(const struct ctl *ctl)
{
    return ctl->o.split || plan_schedule_splits(ctl->o.schedule, ctl->o.slices);
}

static struct ctl_seats seats_create(const struct ctl *ctl)
{
    struct ctl_seats seats = {.rank_of = bg_alloc_array(ctl->member_count, sizeof *seats.rank_of)};
    for (uint32_t i = 0; i < ctl->member_count; i++)
        seats.rank_of[i] = CTL_NO_RANK;
    return seats;
}

static void seats_fini(struct ctl_seats *seats)
{
    bg_free(seats->rank_of);
    bg_free(seats->units);
    *seats = (struct ctl_seats){0};
}

static uint8_t *units_of(const struct ctl *ctl, const struct ctl_seats *seats, uint32_t rank)
{
    return seats->units + (size_t)rank * ctl->o.units;
}

// Which units each rank computes; the cut depends on nothing but the number of ranks.
static bg_status seats_cut(const struct ctl *ctl, struct bg_error *err, struct ctl_seats *seats)
{
    struct plan_stage cut[PLAN_STAGES_MAX];
    const uint32_t stages = seats->ranks * chunks_of(ctl);
    bg_status status = plan_cut(ctl->o.costs, ctl->o.units, stages, err, cut);
    if (status)
        return status;
    seats->units = bg_alloc_array((size_t)seats->ranks * ctl->o.units, 1);
    for (uint32_t s = 0; s < stages; s++)
        memset(units_of(ctl, seats, plan_schedule_rank(ctl->o.schedule, seats->ranks, s)) + cut[s].unit_first, 1,
               cut[s].unit_end - cut[s].unit_first);
    return BG_OK;
}

static bool holds_rank(const struct ctl *ctl, const struct ctl_seats *seats, uint32_t member, uint32_t rank)
{
    for (uint32_t u = 0; u < ctl->o.units; u++)
        if (units_of(ctl, seats, rank)[u] && !ctl_member_has(ctl, &ctl->members[member], u))
            return false;
    return true;
}

static void seat(struct ctl_seats *seats, uint32_t member, uint32_t rank)
{
    seats->rank_of[member] = rank;
    seats->replicas[rank]++;
}

// A member without a seat that holds the rank's units; workers before the shadow.
static bool find_stand_in(const struct ctl *ctl, const struct ctl_seats *seats, uint32_t rank, uint32_t *found)
{
    for (uint32_t role = MESSAGE_WORKER; role <= MESSAGE_SHADOW; role++)
        for (uint32_t i = 0; i < ctl->member_count; i++) {
            const struct ctl_member *m = &ctl->members[i];
            if (!m->in || m->role != role || seats->rank_of[i] != CTL_NO_RANK || !holds_rank(ctl, seats, i, rank))
                continue;
            *found = i;
            return true;
        }
    return false;
}

// The seats of before without the lost. *whole: every rank has somebody.
static bg_status seats_current(const struct ctl *ctl, struct bg_error *err, struct ctl_seats *seats, bool *whole)
{
    *whole = false;
    if (ctl->ranks == 0 || ctl->fresh)
        return BG_OK;
    seats->ranks = ctl->ranks;
    bg_status status = seats_cut(ctl, err, seats);
    if (status)
        return status;
    for (uint32_t i = 0; i < ctl->member_count; i++)
        if (ctl->members[i].in && ctl->members[i].rank != CTL_NO_RANK)
            seat(seats, i, ctl->members[i].rank);
    *whole = true;
    for (uint32_t r = 0, member; r < seats->ranks && *whole; r++)
        if (seats->replicas[r] == 0) {
            *whole = find_stand_in(ctl, seats, r, &member);
            if (*whole)
                seat(seats, member, r);
        }
    return BG_OK;
}

static bool has_some(const struct ctl *ctl, const struct ctl_member *m)
{
    uint32_t u = 0;
    while (u < ctl->o.units && !ctl_member_has(ctl, m, u))
        u++;
    return u < ctl->o.units;
}

void ctl_draft_recall(struct ctl *ctl)
{
    struct ctl_seats seats = {0};
    for (uint32_t i = 0; i < ctl->member_count && seats.ranks == 0; i++)
        if (has_some(ctl, &ctl->members[i]))
            seats.ranks = ctl->members[i].report.stage_count / chunks_of(ctl);
    if (seats.ranks == 0 || seats.ranks > PLAN_STAGES_MAX || seats_cut(ctl, NULL, &seats))
        return;
    for (uint32_t i = 0; i < ctl->member_count; i++)
        for (uint32_t r = 0; r < seats.ranks && ctl->members[i].role == MESSAGE_WORKER; r++)
            if (holds_rank(ctl, &seats, i, r)) { // the scribe, who holds all, sits at the first
                ctl->members[i].rank = r;
                break;
            }
    ctl->ranks = seats.ranks;
    seats_fini(&seats);
}

static bool usable(const struct ctl_member *m, enum message_role role)
{
    return m->in && !m->leaving && m->role == role;
}

// Of the unseated, who holds most of the rank's bytes; the lowest id of equals.
static uint32_t best_for(const struct ctl *ctl, const struct ctl_seats *seats, enum message_role role, uint32_t rank)
{
    uint32_t best = UINT32_MAX;
    uint64_t most = 0;
    for (uint32_t i = 0; i < ctl->member_count; i++) {
        if (!usable(&ctl->members[i], role) || seats->rank_of[i] != CTL_NO_RANK)
            continue;
        uint64_t bytes = 0;
        for (uint32_t u = 0; u < ctl->o.units; u++)
            if (units_of(ctl, seats, rank)[u] && ctl_member_has(ctl, &ctl->members[i], u))
                bytes += ctl->o.state_bytes[u];
        if (best == UINT32_MAX || bytes > most) {
            best = i;
            most = bytes;
        }
    }
    return best;
}

static double speed_of(const struct ctl_member *m)
{
    return m->speed > 0 ? m->speed : 1;
}

// How each of so many ranks saves memory. Another number of them than was wanted has other stages: all of them do.
static void set_saving(const struct ctl *ctl, uint32_t ranks, uint8_t *saving)
{
    uint8_t any = 0;
    for (uint32_t r = 0; r < ctl->o.saving_count; r++)
        any = any ? any : ctl->o.saving[r];
    for (uint32_t r = 0; r < ranks; r++)
        saving[r] = ranks == ctl->o.saving_count ? ctl->o.saving[r] : any;
}

// The shape for so many workers of a role, and who of them sits where (members; NULL: all the same).
static uint32_t *fit_shape(const struct ctl *ctl, enum message_role role, uint32_t count, uint32_t *replicas,
                           uint32_t *ranks)
{
    const struct plan_profile *given = ctl->o.profile;
    uint8_t saving[1];
    set_saving(ctl, 1, saving);
    const struct plan_options options = {.costs = ctl->o.costs,
                                         .micro_batches = ctl->o.micro_batches,
                                         .group = ctl->o.group,
                                         .schedule = ctl->o.schedule,
                                         .chunks = chunks_of(ctl),
                                         .slices = ctl->o.slices,
                                         .range = ctl->o.range,
                                         .split = ctl->o.split,
                                         .offload = saving[0] & PLAN_OFFLOAD,
                                         .recompute = saving[0] & PLAN_RECOMPUTE};
    struct plan_sync_shape shape = {0};
    uint32_t *rank_of = bg_alloc_array(count + 1u, sizeof *rank_of), known = 0;
    bool alike = true;
    if (given) {
        struct plan_profile profile = *given;
        profile.machines = bg_alloc_array(count, sizeof *profile.machines);
        profile.machine_count = count;
        for (uint32_t i = 0; i < count; i++)
            profile.machines[i] = given->machines[0];
        for (uint32_t i = 0; i < ctl->member_count && known < count; i++) {
            if (!usable(&ctl->members[i], role))
                continue;
            profile.machines[known].speed = speed_of(&ctl->members[i]);
            alike &= profile.machines[known].speed == profile.machines[0].speed;
            known++;
        }
        if (plan_sync_shape(&profile, &options, NULL, &shape, rank_of))
            shape.stages = 0;
        bg_free(profile.machines);
    }
    *ranks = shape.stages;
    memcpy(replicas, shape.replicas, shape.stages * sizeof *replicas);
    if (!shape.stages) // no plan of ours, or none that fits: as it was wanted
        plan_shape_fit(ctl->o.replicas, ctl->o.stages, count, ctl->o.units / chunks_of(ctl), replicas, ranks);
    if (shape.stages && !alike)
        return rank_of;
    bg_free(rank_of);
    return NULL;
}

// The wanted shape over the living: whoever sits at a rank of it stays, the others go where they hold most.
static bg_status seats_target(const struct ctl *ctl, struct bg_error *err, struct ctl_seats *seats)
{
    uint32_t replicas[PLAN_STAGES_MAX], count = 0;
    enum message_role role = MESSAGE_WORKER;
    for (uint32_t i = 0; i < ctl->member_count; i++)
        count += usable(&ctl->members[i], role);
    if (count == 0) { // the shadow alone
        role = MESSAGE_SHADOW;
        count = 1;
    }
    uint32_t *rank_of = fit_shape(ctl, role, count, replicas, &seats->ranks);
    bg_status status = seats_cut(ctl, err, seats);
    for (uint32_t i = 0, k = 0; i < ctl->member_count && rank_of && !status; i++)
        if (usable(&ctl->members[i], role))
            seat(seats, i, rank_of[k++]);
    bg_free(rank_of);
    if (status)
        return status;
    if (seats->ranks == ctl->ranks && !ctl->fresh)
        for (uint32_t i = 0; i < ctl->member_count; i++) {
            const struct ctl_member *m = &ctl->members[i];
            if (usable(m, role) && seats->rank_of[i] == CTL_NO_RANK && m->rank != CTL_NO_RANK &&
                seats->replicas[m->rank] < replicas[m->rank])
                seat(seats, i, m->rank);
        }
    for (uint32_t r = 0; r < seats->ranks; r++)
        while (seats->replicas[r] < replicas[r]) {
            uint32_t member = best_for(ctl, seats, role, r);
            BG_ASSERT(member != UINT32_MAX);
            seat(seats, member, r);
        }
    return BG_OK;
}

static uint32_t seated(const struct ctl *ctl, const struct ctl_seats *seats, enum message_role role)
{
    uint32_t count = 0;
    for (uint32_t i = 0; i < ctl->member_count; i++)
        count += ctl->members[i].role == role && seats->rank_of[i] != CTL_NO_RANK;
    return count;
}

static bool is_shape(const struct ctl_seats *seats, const uint32_t *replicas, uint32_t ranks)
{
    return seats->ranks == ranks && memcmp(seats->replicas, replicas, ranks * sizeof *replicas) == 0;
}

// Does `target` seat more workers, or does it free the shadow for whom no worker is on its way?
static bool better(const struct ctl *ctl, const struct ctl_seats *current, const struct ctl_seats *target)
{
    if (seated(ctl, target, MESSAGE_WORKER) > seated(ctl, current, MESSAGE_WORKER))
        return true;
    if (ctl->rental.reshape && !is_shape(current, target->replicas, target->ranks))
        return true;
    return seated(ctl, current, MESSAGE_SHADOW) && !seated(ctl, target, MESSAGE_SHADOW) &&
           target->ranks >= current->ranks && ctl_spawns(ctl, MESSAGE_WORKER) == 0;
}

static bool warm(const struct ctl *ctl, const struct ctl_seats *target)
{
    for (uint32_t i = 0; i < ctl->member_count; i++)
        if (target->rank_of[i] != CTL_NO_RANK && !holds_rank(ctl, target, i, target->rank_of[i]))
            return false;
    return true;
}

// Whether so many workers sit in the shape that is wanted of them.
static bool has_shape(const struct ctl *ctl, uint32_t live)
{
    struct ctl_seats now = {.ranks = ctl->ranks};
    uint32_t replicas[PLAN_STAGES_MAX] = {0}, ranks = 0;
    for (uint32_t i = 0; i < ctl->member_count; i++)
        if (ctl->members[i].in && ctl->members[i].rank < ctl->ranks)
            now.replicas[ctl->members[i].rank]++;
    bg_free(fit_shape(ctl, MESSAGE_WORKER, live, replicas, &ranks));
    return is_shape(&now, replicas, ranks);
}

bool ctl_draft_better(const struct ctl *ctl)
{
    uint32_t workers = 0, shadows = 0, ranks, replicas[PLAN_STAGES_MAX];
    for (uint32_t i = 0; i < ctl->member_count; i++) {
        const struct ctl_member *m = &ctl->members[i];
        if (m->in && m->rank != CTL_NO_RANK)
            *(m->role == MESSAGE_WORKER ? &workers : &shadows) += 1;
    }
    uint32_t live = ctl_members_live(ctl, MESSAGE_WORKER);
    live = live < ctl->o.workers ? live : ctl->o.workers;
    if (live > workers)
        return true;
    if (ctl->rental.reshape && live > 0 && !has_shape(ctl, live))
        return true;
    if (shadows > 0 && live > 0 && ctl_spawns(ctl, MESSAGE_WORKER) == 0) {
        bg_free(fit_shape(ctl, MESSAGE_WORKER, live, replicas, &ranks));
        return ranks >= ctl->ranks;
    }
    return ctl_tasks_due(ctl) && !ctl_scribe(ctl);
}

// ---- Follows ----
static uint8_t *follows_of(const struct ctl *ctl, const struct ctl_draft *d, uint32_t member)
{
    return d->follows + (size_t)member * ctl->o.units;
}

static bool sits_on(const struct ctl *ctl, const struct ctl_draft *d, uint32_t member, uint32_t unit)
{
    uint32_t rank = d->seats.rank_of[member];
    return rank != CTL_NO_RANK && units_of(ctl, &d->seats, rank)[unit];
}

static bool needs(const struct ctl *ctl, const struct ctl_draft *d, uint32_t member, uint32_t unit)
{
    return sits_on(ctl, d, member, unit) || follows_of(ctl, d, member)[unit];
}

static bool needs_any(const struct ctl *ctl, const struct ctl_draft *d, uint32_t member)
{
    uint32_t u = 0;
    while (u < ctl->o.units && !needs(ctl, d, member, u))
        u++;
    return u < ctl->o.units;
}

static bool needs_all(const struct ctl *ctl, const struct ctl_draft *d, uint32_t member)
{
    uint32_t u = 0;
    while (u < ctl->o.units && needs(ctl, d, member, u))
        u++;
    return u == ctl->o.units;
}

// target: NULL, or the seats that are to be warmed.
static void set_follows(const struct ctl *ctl, const struct ctl_seats *target, struct ctl_draft *d)
{
    d->follows = bg_alloc_array((size_t)ctl->member_count * ctl->o.units, 1);
    for (uint32_t i = 0; i < ctl->member_count; i++) {
        const struct ctl_member *m = &ctl->members[i];
        if (!m->in)
            continue;
        uint32_t rank = target ? target->rank_of[i] : CTL_NO_RANK;
        if (rank != CTL_NO_RANK)
            memcpy(follows_of(ctl, d, i), units_of(ctl, target, rank), ctl->o.units);
        if (m->role == MESSAGE_SHADOW)
            memset(follows_of(ctl, d, i), 1, ctl->o.units);
        if (!needs_any(ctl, d, i)) // a bystander keeps what it holds
            for (uint32_t u = 0; u < ctl->o.units; u++)
                follows_of(ctl, d, i)[u] = ctl_member_has(ctl, m, u);
    }
}

// A unit that moves leaves from a member that goes on holding it: where none would, the first holder follows it.
static void set_sources(const struct ctl *ctl, struct ctl_draft *d)
{
    for (uint32_t u = 0; u < ctl->o.units && !ctl->fresh; u++) {
        uint32_t keeper = UINT32_MAX;
        bool kept = false;
        for (uint32_t i = 0; i < ctl->member_count; i++)
            if (ctl_member_has(ctl, &ctl->members[i], u)) {
                keeper = keeper == UINT32_MAX ? i : keeper;
                kept |= needs(ctl, d, i, u);
            }
        if (!kept && keeper != UINT32_MAX)
            follows_of(ctl, d, keeper)[u] = 1;
    }
}

// Somebody has to hold every unit: where no shadow does or soon will, the first worker follows all.
static void set_scribe(const struct ctl *ctl, struct ctl_draft *d)
{
    for (uint32_t w = 0; w < d->count; w++)
        if (needs_all(ctl, d, d->members[w]))
            return;
    if (ctl_spawns(ctl, MESSAGE_SHADOW) == 0 || ctl_tasks_due(ctl) || ctl->task.active)
        memset(follows_of(ctl, d, d->members[0]), 1, ctl->o.units);
}

// Rank by rank as plan_build numbers them, then who only follows; by id, the shadow last.
static void set_order(const struct ctl *ctl, struct ctl_draft *d)
{
    d->members = bg_alloc_array(ctl->member_count, sizeof *d->members);
    for (uint32_t r = 0; r <= d->seats.ranks; r++)
        for (uint32_t role = MESSAGE_WORKER; role <= MESSAGE_SHADOW; role++)
            for (uint32_t i = 0; i < ctl->member_count; i++) {
                const struct ctl_member *m = &ctl->members[i];
                if (m->in && m->role == role && d->seats.rank_of[i] == (r < d->seats.ranks ? r : CTL_NO_RANK) &&
                    needs_any(ctl, d, i))
                    d->members[d->count++] = i;
            }
}

// ---- Plans ----
static void set_plan_follows(const struct ctl *ctl, const struct ctl_draft *d, struct plan *plan)
{
    bg_free(plan->follows);
    plan->follows = bg_alloc_array((size_t)d->count * ctl->o.units, sizeof *plan->follows);
    plan->follow_count = 0;
    for (uint32_t w = 0; w < d->count; w++) {
        const uint32_t m = d->members[w];
        for (uint32_t u = 0; u < ctl->o.units; u++) {
            if (!follows_of(ctl, d, m)[u] || sits_on(ctl, d, m, u))
                continue;
            struct plan_follow *last = plan->follow_count ? &plan->follows[plan->follow_count - 1] : NULL;
            if (last && last->worker == w && last->unit_end == u)
                last->unit_end++;
            else
                plan->follows[plan->follow_count++] = (struct plan_follow){w, u, u + 1};
        }
    }
}

// Items of each replica where workers are not alike: in proportion to their speeds. NULL: even.
static uint32_t *make_shares(const struct ctl *ctl, const struct ctl_draft *d, uint32_t computing)
{
    const uint32_t items = (ctl->o.micro_batches - 1) / ctl->o.group + 1;
    double *speeds = bg_alloc_array(computing, sizeof *speeds);
    uint32_t *shares = bg_alloc_array(computing, sizeof *shares);
    bool alike = true, good = true;
    for (uint32_t w = 0; w < computing; w++) { // workers stand rank by rank
        speeds[w] = speed_of(&ctl->members[d->members[w]]);
        alike &= speeds[w] == speeds[0];
    }
    for (uint32_t r = 0, w = 0; r < d->seats.ranks; w += d->seats.replicas[r++])
        good &= plan_sync_split(speeds + w, NULL, d->seats.replicas[r], items, shares + w) > 0;
    bg_free(speeds);
    if (!alike && good)
        return shares;
    bg_free(shares);
    return NULL;
}

static bg_status make_steady(const struct ctl *ctl, struct bg_error *err, struct ctl_draft *d)
{
    uint32_t computing = 0;
    for (uint32_t r = 0; r < d->seats.ranks; r++)
        computing += d->seats.replicas[r];
    uint32_t *shares = make_shares(ctl, d, computing);
    uint8_t saving[PLAN_STAGES_MAX];
    set_saving(ctl, d->seats.ranks, saving);
    const struct plan_options options = {.costs = ctl->o.costs,
                                         .units = ctl->o.units,
                                         .micro_batches = ctl->o.micro_batches,
                                         .group = ctl->o.group,
                                         .replicas = d->seats.replicas,
                                         .stages = d->seats.ranks,
                                         .schedule = ctl->o.schedule,
                                         .chunks = chunks_of(ctl),
                                         .slices = ctl->o.slices,
                                         .range = ctl->o.range,
                                         .split = ctl->o.split,
                                         .saving = saving,
                                         .followers = d->count - computing,
                                         .shares = shares,
                                         .passes = ctl->o.passes};
    bg_status status = plan_build(&options, err, &d->steady);
    bg_free(shares);
    if (!status)
        set_plan_follows(ctl, d, &d->steady);
    return status;
}

static uint32_t worker_of(const struct ctl *ctl, const struct ctl_draft *d, uint32_t id)
{
    for (uint32_t w = 0; w < d->count; w++)
        if (ctl->members[d->members[w]].id == id)
            return w;
    return PLAN_NOBODY;
}

// Who had each item in the plan that broke off, by the new numbers. NULL: another cut, or unknown.
static uint32_t *old_route(const struct ctl *ctl, const struct ctl_draft *d)
{
    const struct plan *old = ctl->now.workers ? &ctl->now : &ctl->steady, *new = &d->steady;
    if (old->workers == 0 || !old->route || plan_cut_hash(old) != plan_cut_hash(new))
        return NULL;
    uint32_t *route = bg_alloc_array((size_t) new->stage_count *new->item_count, sizeof *route);
    for (uint32_t s = 0; s < new->stage_count; s++)
        for (uint32_t i = 0; i < new->item_count; i++) {
            uint32_t cell = s * new->item_count + i, before = old->route[cell];
            uint32_t w = before == PLAN_NOBODY ? PLAN_NOBODY : worker_of(ctl, d, ctl->workers[before]);
            bool sits = w != PLAN_NOBODY && sits_on(ctl, d, d->members[w], new->stages[s].unit_first);
            route[cell] = sits ? w : PLAN_NOBODY;
        }
    return route;
}

// The rest of the open step.
static bg_status make_rest(const struct ctl *ctl, struct bg_error *err, struct ctl_draft *d)
{
    struct plan rest = plan_copy(&d->steady);
    for (uint32_t w = 0; w < rest.workers; w++)
        bg_free(rest.lists[w].ops);
    bg_free(rest.lists);
    bg_free(rest.route);
    rest.lists = NULL;
    rest.route = old_route(ctl, d);
    const uint64_t cut = plan_cut_hash(&rest);
    struct plan_holdings *holdings = bg_alloc_array(d->count, sizeof *holdings);
    uint8_t *nothing = bg_alloc_array((size_t)rest.stage_count * rest.item_count + rest.units, 1);
    for (uint32_t w = 0; w < d->count; w++) {
        const struct message_report *report = &ctl->members[d->members[w]].report;
        holdings[w] = (struct plan_holdings){nothing, nothing};
        if (report->version != ctl->committed || report->plan != cut) // another cut: it forgets all of the step
            continue;
        if (report->unit_count == rest.units)
            holdings[w].roots = report->roots;
        if (report->stage_count == rest.stage_count && report->item_count == rest.item_count)
            holdings[w].items = report->items;
    }
    bg_status status = plan_recover(&rest, holdings, ctl->open.loss_known, splits(ctl), err, &d->recovery);
    bg_free(holdings);
    bg_free(nothing);
    if (status) {
        plan_fini(&rest);
        return status;
    }
    plan_pass_wait_free(&rest, !ctl->o.passes.held); // its other passes came with the records of sums
    d->now = rest;
    return BG_OK;
}

// ---- State that has to move ----
struct moves {
    struct plan_list *lists; // (workers)
    uint64_t *bytes;         // (workers) sent by each
};

static void add_op(struct plan_list *list, struct plan_op op)
{
    if (list->count == list->capacity) {
        list->capacity = 2 * list->capacity + 8;
        list->ops = bg_realloc_array(list->ops, list->capacity, sizeof *list->ops);
    }
    list->ops[list->count++] = op;
}

// The holder that has least to send, the lowest worker of equals.
static uint32_t least_loaded(const struct ctl *ctl, const struct ctl_draft *d, const struct moves *moves, uint32_t unit)
{
    uint32_t best = PLAN_NOBODY;
    for (uint32_t w = 0; w < d->count; w++)
        if (needs(ctl, d, d->members[w], unit) && ctl_member_has(ctl, &ctl->members[d->members[w]], unit) &&
            (best == PLAN_NOBODY || moves->bytes[w] < moves->bytes[best]))
            best = w;
    return best;
}

static void plan_moves(const struct ctl *ctl, struct ctl_draft *d, struct moves *moves)
{
    for (uint32_t u = 0; u < ctl->o.units; u++)
        for (uint32_t w = 0; w < d->count; w++) {
            const uint32_t m = d->members[w];
            if (!needs(ctl, d, m, u) || ctl_member_has(ctl, &ctl->members[m], u))
                continue;
            uint32_t from = least_loaded(ctl, d, moves, u);
            BG_ASSERT(from != PLAN_NOBODY); // generation.c looked, and set_sources
            add_op(&moves->lists[from], (struct plan_op){.kind = PLAN_MOVE, .flags = PLAN_OUT, .item = u, .peer = w});
            add_op(&moves->lists[w], (struct plan_op){.kind = PLAN_MOVE, .item = u, .peer = from});
            moves->bytes[from] += ctl->o.state_bytes[u];
            d->moved_bytes += ctl->o.state_bytes[u];
            d->moved_units++;
        }
}

// In front of everything that needs them.
static void make_moves(const struct ctl *ctl, struct ctl_draft *d)
{
    struct moves moves = {bg_alloc_array(d->count, sizeof *moves.lists), bg_alloc_array(d->count, sizeof *moves.bytes)};
    plan_moves(ctl, d, &moves);
    if (d->moved_units && d->now.workers == 0)
        d->now = plan_copy(&d->steady);
    for (uint32_t w = 0; w < d->count; w++) {
        if (moves.lists[w].count == 0)
            continue;
        struct plan_list *list = &d->now.lists[w];
        for (size_t i = 0; i < list->count; i++)
            add_op(&moves.lists[w], list->ops[i]);
        bg_free(list->ops);
        *list = moves.lists[w];
    }
    bg_free(moves.lists);
    bg_free(moves.bytes);
}

static bg_status choose_seats(const struct ctl *ctl, struct bg_error *err, struct ctl_draft *d)
{
    bool whole;
    struct ctl_seats target = seats_create(ctl), *warmed = NULL;
    d->seats = seats_create(ctl);
    bg_status status = seats_current(ctl, err, &d->seats, &whole);
    if (!status)
        status = seats_target(ctl, err, &target);
    if (!status && whole && better(ctl, &d->seats, &target))
        warmed = &target;
    if (!status && (!whole || (warmed && ctl->boundary && warm(ctl, &target)))) {
        struct ctl_seats before = d->seats;
        d->seats = target;
        target = before;
        warmed = NULL;
    }
    if (!status) {
        set_follows(ctl, warmed, d);
        set_sources(ctl, d);
    }
    seats_fini(&target);
    return status;
}

bg_status ctl_draft_make(struct ctl *ctl, struct bg_error *err, struct ctl_draft *draft)
{
    struct ctl_draft d = {0};
    bg_status status = choose_seats(ctl, err, &d);
    if (!status) {
        set_order(ctl, &d);
        set_scribe(ctl, &d);
        status = make_steady(ctl, err, &d);
    }
    if (!status && !ctl->fresh && !ctl->boundary && ctl->committed < ctl->o.steps)
        status = make_rest(ctl, err, &d);
    if (!status && !ctl->fresh) {
        make_moves(ctl, &d);
        if (d.now.workers)
            status = plan_validate(&d.now, err);
    }
    if (!status)
        status = plan_validate(&d.steady, err);
    if (status)
        ctl_draft_fini(&d);
    else
        *draft = d;
    return status;
}

void ctl_draft_fini(struct ctl_draft *d)
{
    seats_fini(&d->seats);
    bg_free(d->follows);
    bg_free(d->members);
    plan_fini(&d->now);
    plan_fini(&d->steady);
}
