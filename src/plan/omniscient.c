// The least that a job could have paid on a trace known in full: a dynamic programme over (tick, what is held, how long
// already), whose values are Pareto fronts of (work done, cost). Exact: only points go that are dominated, can no
// longer be done in time, or cannot become cheaper than a policy that is known to do it.
#include "plan/deadline.h"

#include "base/assert.h"
#include "base/mem.h"
#include "plan/policy_int.h"

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

struct programme {
    const struct plan_deadline *job;
    const uint32_t *spot;
    uint32_t ticks;                                    // decisions
    uint32_t ages;                                     // ticks until an instance has paid its overhead, at least 1
    double *useful_s;                                  // (ages + 1): work in a tick of an instance held for so many
    uint32_t *spot_left;                               // (ticks + 1): ticks with spot from here on
    struct front *held[PLAN_RENTS], *next[PLAN_RENTS]; // (ages) each: held for 1 .. ages ticks; of NONE only the first
    struct front any;                                  // all points of this tick, whatever they hold
    struct front moved, merged;
    double bound;
    struct plan_bill best;
};

static double price_of(const struct programme *p, enum plan_rent rent)
{
    return p->job->price[rent] * p->job->gap_s / 3600;
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
    if (front->count == front->capacity) {
        front->capacity = front->capacity ? 2 * front->capacity : 64;
        front->points = bg_realloc_array(front->points, front->capacity, sizeof *front->points);
    }
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
    spare->count = 0;
    for (size_t i = 0, j = 0; i < target->count || j < more->count;) {
        const bool first =
            j == more->count || (i < target->count && target->points[i].done_s <= more->points[j].done_s);
        front_add(spare, first ? &target->points[i++] : &more->points[j++]);
    }
    front_swap(target, spare);
}

// The least that the rest can cost: whole ticks, on spot where there is some and it is cheaper, without any overhead.
static double rest_cost(const struct programme *p, double done_s, uint32_t tick)
{
    const double ticks = ceil((p->job->work_s - done_s - 1e-3) / p->job->gap_s);
    const double spot = price_of(p, PLAN_RENT_SPOT), on_demand = price_of(p, PLAN_RENT_ON_DEMAND);
    const double cheap = spot < on_demand ? fmin(ticks, p->spot_left[tick]) : 0;
    return cheap * spot + (ticks - cheap) * on_demand;
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
    p->moved.count = 0;
    const double price = rent == PLAN_RENT_NONE ? 0 : price_of(p, rent);
    for (size_t i = 0; i < from->count; i++) {
        struct point point = from->points[i];
        point.done_s += fmin(useful_s, p->job->work_s - point.done_s);
        point.cost += price;
        point.ticks[rent]++;
        point.switches[rent] += rent != point.rent;
        point.rent = rent;
        if (p->job->work_s - point.done_s <= 1e-3) {
            take_finished(p, &point, tick + 1);
            continue;
        }
        const double possible_s = (p->ticks - tick - 1) * p->job->gap_s;
        if (point.done_s + possible_s >= p->job->work_s - 1e-3 &&
            point.cost + rest_cost(p, point.done_s, tick + 1) <= p->bound + 1e-9)
            front_add(&p->moved, &point);
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
        if (r == PLAN_RENT_SPOT && !p->spot[tick])
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
        plan_deadline_run(p->job, plan_policies[i], p->spot, NULL, &bill);
        if (bill.met && bill.cost < least)
            least = bill.cost;
    }
    return least;
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
    p->spot_left = bg_alloc_array(p->ticks + 1, sizeof *p->spot_left);
    for (uint32_t t = p->ticks; t-- > 0;)
        p->spot_left[t] = p->spot_left[t + 1] + (p->spot[t] > 0);
    for (int r = 0; r < PLAN_RENTS; r++) {
        p->held[r] = bg_alloc_array(p->ages, sizeof *p->held[r]);
        p->next[r] = bg_alloc_array(p->ages, sizeof *p->next[r]);
    }
    p->bound = known_cost(p);
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
    bg_free(p.spot_left);
}
