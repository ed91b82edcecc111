// The ticks of a job with a deadline, as the simulator of "Can't Be Late" (NSDI'24) has them: what was held in the tick
// before is paid first, then what is there now is seen, then the policy decides for the tick that begins.
#include "plan/spot/deadline.h"

#include "base/philox.h"

#include <math.h>

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

void plan_deadline_run(const struct plan_deadline *job, const struct plan_policy *policy, const uint32_t *spot,
                       const struct plan_truth *truth, struct plan_moment *moments, struct plan_bill *bill)
{
    struct run r = {job, spot, truth, truth ? truth->work_s : job->work_s, plan_deadline_ticks(job), 0, 0};
    struct plan_snapshot now = {.job = *job, .spot = spot};
    enum plan_rent before = PLAN_RENT_NONE;
    uint32_t t = 0;
    *bill = (struct plan_bill){.finish_s = job->deadline_s};
    for (; t < r.ticks; t++) {
        const enum plan_rent last = now.rent;
        now.tick = t;
        bill->ticks[last]++;
        bill->switches[last] += last != before;
        before = last;
        if (last == PLAN_RENT_SPOT && spot[t] < job->instances)
            now.rent = PLAN_RENT_NONE;
        if (last != PLAN_RENT_NONE)
            work_a_tick(&r, &now.starting_s, &now.done_s);
        if (r.work_s - now.done_s <= 1e-3) {
            bill->met = true;
            bill->finish_s = t * job->gap_s;
            break;
        }
        if (policy->oracle)
            now.turn = ticks_to_turn(&r, t);
        const enum plan_rent wish = policy->decide(&now);
        if (moments)
            moments[t] = (struct plan_moment){last, now.done_s, true, now, wish};
        if (wish != now.rent && wish != PLAN_RENT_NONE)
            now.starting_s = overhead_of_start(&r);
        now.rent = wish;
    }
    for (; moments && t < r.ticks; t++) {
        moments[t] = (struct plan_moment){.held = before, .done_s = now.done_s};
        before = PLAN_RENT_NONE;
    }
    for (int k = 0; k < PLAN_RENTS; k++)
        bill->cost += bill->ticks[k] * job->price[k] * job->instances * job->gap_s / 3600;
}
