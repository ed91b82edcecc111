// The ticks of a job with a deadline, as the simulator of "Can't Be Late" (NSDI'24) has them: what was held in the tick
// before is paid first, then what is there now is seen, then the policy decides for the tick that begins.
#include "plan/spot/deadline.h"

#include "base/philox.h"

#include <math.h>
#include <stddef.h>

uint32_t plan_deadline_ticks(const struct plan_deadline *job)
{
    return (uint32_t)floor(job->deadline_s / job->gap_s) + 1;
}

struct run {
    const struct plan_deadline *job;
    const uint32_t *spot;
    const struct plan_truth *truth;
    double work_s; // true
    uint32_t ticks, starts;
    uint32_t turn; // first tick from now on at which spot is there and was not, or the other way round
    // Zones, if there are any.
    const struct plan_zones *zones;
    struct plan_zone here[PLAN_ZONES_MAX]; // at this tick
    struct plan_zone_bill bills[PLAN_ZONES_MAX];
    uint32_t last_zone; // that something was rented in
};

static void work_a_tick(const struct run *r, double *starting_s, double *done_s)
{
    const double gap_s = r->job->gap_s, useful_s = fmax(gap_s - *starting_s, 0);
    *starting_s -= gap_s - useful_s;
    if (*starting_s < 1e-3)
        *starting_s = 0;
    *done_s += fmin(useful_s, r->work_s - *done_s);
}

static double overhead_of_start(struct run *r)
{
    if (!r->truth)
        return r->job->overhead_s;
    const struct bg_philox_counter drawn =
        bg_philox((struct bg_philox_counter){{r->starts++}},
                  (struct bg_philox_key){{(uint32_t)r->truth->seed, (uint32_t)(r->truth->seed >> 32)}});
    const double least = r->truth->overhead_least_s, most = r->truth->overhead_most_s;
    return least + (most - least) * (double)bg_uniform(drawn.c[0]);
}

static uint32_t ticks_to_turn(struct run *r, uint32_t t)
{
    const bool there = r->spot[t] >= r->job->instances;
    if (r->turn <= t)
        for (r->turn = t + 1; r->turn < r->ticks && (r->spot[r->turn] >= r->job->instances) == there;)
            r->turn++;
    return r->turn - t;
}

// What was held in the tick before is paid at its prices; then what is there now is seen.
static void turn_the_tick(struct run *r, uint32_t t, struct plan_snapshot *now)
{
    if (!r->zones) {
        if (now->rent == PLAN_RENT_SPOT && r->spot[t] < r->job->instances)
            now->rent = PLAN_RENT_NONE;
        return;
    }
    if (now->rent != PLAN_RENT_NONE) {
        struct plan_zone_bill *bill = &r->bills[now->zone];
        bill->ticks[now->rent]++;
        bill->cost += r->here[now->zone].price[now->rent] * r->job->instances * r->job->gap_s / 3600;
    }
    for (uint32_t z = 0; z < r->zones->count; z++)
        r->here[z] = plan_zone_at(&r->zones->list[z], t);
    if (now->rent == PLAN_RENT_SPOT && r->here[now->zone].spot < r->job->instances)
        now->rent = PLAN_RENT_NONE;
    now->zone = now->rent == PLAN_RENT_NONE ? PLAN_NOWHERE : now->zone;
    plan_zone_set_prices(now);
}

static void take(struct run *r, struct plan_choice wish, struct plan_snapshot *now, struct plan_bill *bill)
{
    if (wish.rent != now->rent && wish.rent != PLAN_RENT_NONE)
        now->starting_s = overhead_of_start(r);
    now->rent = wish.rent;
    now->zone = wish.zone;
    if (wish.zone == PLAN_NOWHERE)
        return;
    bill->moves += r->last_zone != PLAN_NOWHERE && r->last_zone != wish.zone;
    r->last_zone = wish.zone;
}

static void run(struct run *r, const struct plan_policy *policy, struct plan_moment *moments, struct plan_bill *bill)
{
    const struct plan_deadline *job = r->job;
    struct plan_snapshot now = {.job = *job, .spot = r->spot, .zone = PLAN_NOWHERE};
    enum plan_rent before = PLAN_RENT_NONE;
    uint32_t t = 0;
    if (r->zones) {
        now.zones = r->here;
        now.zone_count = r->zones->count;
    }
    *bill = (struct plan_bill){.finish_s = job->deadline_s};
    for (; t < r->ticks; t++) {
        const enum plan_rent last = now.rent;
        now.tick = t;
        bill->ticks[last]++;
        bill->switches[last] += last != before;
        before = last;
        turn_the_tick(r, t, &now);
        if (last != PLAN_RENT_NONE)
            work_a_tick(r, &now.starting_s, &now.done_s);
        if (r->work_s - now.done_s <= 1e-3) {
            bill->met = true;
            bill->finish_s = t * job->gap_s;
            break;
        }
        if (policy->oracle)
            now.turn = ticks_to_turn(r, t);
        const struct plan_choice wish = plan_decide(policy, &now);
        if (moments)
            moments[t] = (struct plan_moment){last, now.done_s, true, now, wish};
        take(r, wish, &now, bill);
    }
    for (; moments && t < r->ticks; t++) {
        moments[t] = (struct plan_moment){.held = before, .done_s = now.done_s};
        before = PLAN_RENT_NONE;
    }
}

void plan_deadline_run(const struct plan_deadline *job, const struct plan_policy *policy, const uint32_t *spot,
                       const struct plan_truth *truth, struct plan_moment *moments, struct plan_bill *bill)
{
    struct run r = {.job = job,
                    .spot = spot,
                    .truth = truth,
                    .work_s = truth ? truth->work_s : job->work_s,
                    .ticks = plan_deadline_ticks(job),
                    .last_zone = PLAN_NOWHERE};
    run(&r, policy, moments, bill);
    for (int k = 0; k < PLAN_RENTS; k++)
        bill->cost += bill->ticks[k] * job->price[k] * job->instances * job->gap_s / 3600;
}

void plan_deadline_run_zones(const struct plan_deadline *job, const struct plan_policy *policy,
                             const struct plan_zones *zones, const struct plan_truth *truth,
                             struct plan_moment *moments, struct plan_bill *bill, struct plan_zone_bill *of_zones)
{
    struct run r = {.job = job,
                    .spot = zones->spot,
                    .truth = truth,
                    .work_s = truth ? truth->work_s : job->work_s,
                    .ticks = plan_deadline_ticks(job),
                    .zones = zones,
                    .last_zone = PLAN_NOWHERE};
    run(&r, policy, moments, bill);
    for (uint32_t z = 0; z < zones->count; z++) {
        bill->cost += r.bills[z].cost;
        if (of_zones)
            of_zones[z] = r.bills[z];
    }
}
