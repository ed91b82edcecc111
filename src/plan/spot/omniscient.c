// The least that a job could have paid on a trace known in full: a dynamic programme over (tick, what is held, how long
// already), whose values are Pareto fronts of (work done, cost). Exact: only points go that are dominated, can no
// longer be done in time, or cannot become cheaper than a policy that is known to do it.
#include "plan/spot/deadline.h"

#include "base/assert.h"
#include "base/mem.h"
#include "plan/spot/policy_int.h"

#include <math.h>
#include <string.h>

struct point {
    double done_s, cost;
    uint32_t ticks[PLAN_RENTS], switches[PLAN_RENTS];
    enum plan_rent rent; // held last
};

struct front { // by ascending work and ascending cost: more work that costs less leaves no other
    struct point *points;
    size_t count, capacity;
};

struct ahead {             // of a tick
    uint32_t spell;        // ticks of spot from here without a break
    double useful_s, cost; // work in all spells that begin here or later and are cheaper than on-demand; what they cost
    double cheapest;       // the least cost of a second of work in one of them; on-demand's where there is none
};

struct programme {
    const struct plan_deadline *job;
    const uint32_t *spot;
    uint32_t ticks;                                    // decisions
    uint32_t ages;                                     // ticks until an instance has paid its overhead, at least 1
    double *useful_s;                                  // (ages + 1): work in a tick of an instance held for so many
    double second[PLAN_RENTS];                         // price of one
    struct ahead *ahead;                               // (ticks + 1)
    struct front *held[PLAN_RENTS], *next[PLAN_RENTS]; // (ages) each: held for 1 .. ages ticks; of NONE only the first
    struct front any;                                  // all points of this tick, whatever they hold
    struct front moved, merged;
    double bound;
    struct plan_bill best;
};

static double price_of(const struct programme *p, enum plan_rent rent)
{
    return p->job->price[rent] * p->job->instances * p->job->gap_s / 3600;
}

static void front_reserve(struct front *front, size_t count)
{
    if (count <= front->capacity)
        return;
    front->capacity = count > 2 * front->capacity ? count + 64 : 2 * front->capacity;
    front->points = bg_realloc_array(front->points, front->capacity, sizeof *front->points);
}

// Appends a point of at least as much work as the last; drops what it dominates or is dominated by.
static void front_add(struct front *front, const struct point *point)
{
    while (front->count && front->points[front->count - 1].cost > point->cost)
        front->count--;
    if (front->count && front->points[front->count - 1].done_s == point->done_s)
        return; // costs at most as much
    if (front->count && front->points[front->count - 1].cost == point->cost)
        front->count--; // less work for the same
    front->points[front->count++] = *point;
}

static void front_swap(struct front *a, struct front *b)
{
    const struct front kept = *a;
    *a = *b;
    *b = kept;
}

// target := the best of target and `more`; of equals, target's.
static void front_merge(struct front *target, const struct front *more, struct front *spare)
{
    const struct point *a = target->points, *b = more->points;
    const struct point *const a_end = a + target->count, *const b_end = b + more->count;
    front_reserve(spare, target->count + more->count);
    spare->count = 0;
    if (!target->count && more->count) {
        memcpy(spare->points, b, more->count * sizeof *b);
        spare->count = more->count;
    }
    while (target->count && (a < a_end || b < b_end))
        front_add(spare, b == b_end || (a < a_end && a->done_s <= b->done_s) ? a++ : b++);
    front_swap(target, spare);
}

// At least what so much work costs from a tick on: of the spell of now, then of the later ones, then on demand, from
// cheap to dear. Work in a spell costs more than its price by the share of the overhead in the whole spell.
struct rest {
    double spell_s, spell; // work in the spell of now, and what a second of it costs
    double later_s, later, all_later;
    double on_demand;
};

static struct rest rest_from(const struct programme *p, uint32_t tick, enum plan_rent rent)
{
    const struct ahead *now = &p->ahead[tick], *later = &p->ahead[tick + now->spell];
    const double spell_s = now->spell * p->job->gap_s,
                 work_s = spell_s - (rent == PLAN_RENT_SPOT ? 0 : p->job->overhead_s);
    struct rest rest = {.later_s = later->useful_s,
                        .later = later->cheapest,
                        .all_later = later->cost,
                        .on_demand = p->second[PLAN_RENT_ON_DEMAND]};
    if (work_s > 0 && spell_s * p->second[PLAN_RENT_SPOT] < work_s * rest.on_demand) {
        rest.spell_s = work_s;
        rest.spell = spell_s * p->second[PLAN_RENT_SPOT] / work_s;
    }
    return rest;
}

static inline double rest_cost(const struct rest *rest, double left_s)
{
    if (left_s <= rest->spell_s)
        return left_s * rest->spell;
    const double cost = rest->spell_s * rest->spell;
    left_s -= rest->spell_s;
    if (left_s <= rest->later_s)
        return cost + left_s * rest->later;
    return cost + rest->all_later + (left_s - rest->later_s) * rest->on_demand;
}

static void take_finished(struct programme *p, const struct point *point, uint32_t tick)
{
    if (p->best.met && point->cost >= p->best.cost)
        return;
    p->best = (struct plan_bill){.cost = point->cost, .finish_s = tick * p->job->gap_s, .met = true};
    memcpy(p->best.ticks, point->ticks, sizeof point->ticks);
    memcpy(p->best.switches, point->switches, sizeof point->switches);
    p->best.ticks[PLAN_RENT_NONE]++; // the first instant
    p->bound = fmin(p->bound, point->cost);
}

// One tick on `rent`, with so much work in it, for all points of `from`; what is left of them goes into `to`.
static void go(struct programme *p, const struct front *from, enum plan_rent rent, double useful_s, uint32_t tick,
               struct front *to)
{
    front_reserve(&p->moved, from->count);
    p->moved.count = 0;
    const double price = rent == PLAN_RENT_NONE ? 0 : price_of(p, rent), work_s = p->job->work_s - 1e-3;
    const double possible_s = (p->ticks - tick - 1) * p->job->gap_s;
    const struct rest rest = rest_from(p, tick + 1, rent);
    for (size_t i = 0; i < from->count; i++) {
        const struct point *before = &from->points[i];
        const double left_s = work_s - before->done_s - useful_s, cost = before->cost + price;
        if (left_s > possible_s || (left_s > 0 && cost + rest_cost(&rest, left_s) > p->bound + 1e-9))
            continue;
        struct point *point = &p->moved.points[p->moved.count];
        *point = *before;
        point->done_s += useful_s;
        point->cost = cost;
        point->ticks[rent]++;
        point->switches[rent] += rent != point->rent;
        point->rent = rent;
        if (left_s <= 0)
            take_finished(p, point, tick + 1);
        else
            p->moved.count++; // a front still: all went the same way
    }
    front_merge(to, &p->moved, &p->merged);
}

static void one_tick(struct programme *p, uint32_t tick)
{
    p->any.count = 0;
    for (int r = PLAN_RENTS - 1; r >= 0; r--)
        for (uint32_t a = r == PLAN_RENT_NONE ? 1 : p->ages; a-- > 0;)
            front_merge(&p->any, &p->held[r][a], &p->merged);
    go(p, &p->any, PLAN_RENT_NONE, 0, tick, &p->next[PLAN_RENT_NONE][0]);
    for (enum plan_rent r = PLAN_RENT_SPOT; r < PLAN_RENTS; r++) {
        if (r == PLAN_RENT_SPOT && p->spot[tick] < p->job->instances)
            continue;
        for (uint32_t a = p->ages; a-- > 0;)
            go(p, &p->held[r][a], r, p->useful_s[a + 1], tick, &p->next[r][a + 1 < p->ages ? a + 1 : a]);
        go(p, &p->any, r, p->useful_s[0], tick, &p->next[r][0]); // also from itself: never better than to stay
    }
    for (int r = 0; r < PLAN_RENTS; r++)
        for (uint32_t a = 0; a < (r == PLAN_RENT_NONE ? 1 : p->ages); a++) {
            front_swap(&p->held[r][a], &p->next[r][a]);
            p->next[r][a].count = 0;
        }
}

// A cost that some policy is known to meet: points that cannot become cheaper need not be kept.
static double known_cost(const struct programme *p)
{
    double least = INFINITY;
    for (size_t i = 0; plan_policies[i]; i++) {
        struct plan_bill bill;
        plan_deadline_run(p->job, plan_policies[i], p->spot, NULL, NULL, &bill);
        if (bill.met && bill.cost < least)
            least = bill.cost;
    }
    return least;
}

static void look_ahead(struct programme *p)
{
    const double on_demand = p->second[PLAN_RENT_ON_DEMAND];
    p->ahead = bg_alloc_array(p->ticks + 1, sizeof *p->ahead);
    p->ahead[p->ticks].cheapest = on_demand;
    for (uint32_t t = p->ticks; t-- > 0;) {
        struct ahead *here = &p->ahead[t];
        *here = p->ahead[t + 1];
        here->spell = p->spot[t] >= p->job->instances ? here->spell + 1 : 0;
        if (!here->spell || (t > 0 && p->spot[t - 1] >= p->job->instances))
            continue;
        const double spell_s = here->spell * p->job->gap_s, cost = spell_s * p->second[PLAN_RENT_SPOT];
        const double useful_s = spell_s - p->job->overhead_s;
        if (useful_s * on_demand <= cost)
            continue; // not worth it
        here->useful_s += useful_s;
        here->cost += cost;
        here->cheapest = fmin(here->cheapest, cost / useful_s);
    }
}

static void prepare(struct programme *p)
{
    double starting_s = p->job->overhead_s;
    p->ages = (uint32_t)fmax(ceil(starting_s / p->job->gap_s), 1);
    p->useful_s = bg_alloc_array(p->ages + 1, sizeof *p->useful_s);
    for (uint32_t a = 0; a <= p->ages; a++) {
        p->useful_s[a] = fmax(p->job->gap_s - starting_s, 0);
        starting_s -= p->job->gap_s - p->useful_s[a];
        if (starting_s < 1e-3)
            starting_s = 0;
    }
    for (enum plan_rent r = PLAN_RENT_NONE; r < PLAN_RENTS; r++)
        p->second[r] = p->job->price[r] * p->job->instances / 3600;
    look_ahead(p);
    for (int r = 0; r < PLAN_RENTS; r++) {
        p->held[r] = bg_alloc_array(p->ages, sizeof *p->held[r]);
        p->next[r] = bg_alloc_array(p->ages, sizeof *p->next[r]);
    }
    p->bound = known_cost(p);
    front_reserve(&p->held[PLAN_RENT_NONE][0], 1);
    front_add(&p->held[PLAN_RENT_NONE][0], &(struct point){0});
}

void plan_deadline_optimum(const struct plan_deadline *job, const uint32_t *spot, struct plan_bill *bill)
{
    struct programme p = {.job = job, .spot = spot, .ticks = plan_deadline_ticks(job) - 1};
    prepare(&p);
    for (uint32_t t = 0; t < p.ticks; t++)
        one_tick(&p, t);
    BG_ASSERT(p.best.met); // plan_deadline_check: on-demand alone does it
    *bill = p.best;
    for (int r = 0; r < PLAN_RENTS; r++) {
        for (uint32_t a = 0; a < p.ages; a++) {
            bg_free(p.held[r][a].points);
            bg_free(p.next[r][a].points);
        }
        bg_free(p.held[r]);
        bg_free(p.next[r]);
    }
    bg_free(p.any.points);
    bg_free(p.moved.points);
    bg_free(p.merged.points);
    bg_free(p.useful_s);
    bg_free(p.ahead);
}
