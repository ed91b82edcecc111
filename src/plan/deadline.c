// The ticks of a job with a deadline, as the simulator of "Can't Be Late" (NSDI'24) has them: what was held in the tick
// before is paid first, then what is there now is seen, then the policy decides for the tick that begins.
#include "plan/deadline.h"

#include <math.h>

uint32_t plan_deadline_ticks(const struct plan_deadline *job)
{
    return (uint32_t)floor(job->deadline_s / job->gap_s) + 1;
}

static void work_a_tick(const struct plan_deadline *job, double *starting_s, double *done_s)
{
    const double useful_s = fmax(job->gap_s - *starting_s, 0);
    *starting_s -= job->gap_s - useful_s;
    if (*starting_s < 1e-3)
        *starting_s = 0;
    *done_s += fmin(useful_s, job->work_s - *done_s);
}

void plan_deadline_run(const struct plan_deadline *job, const struct plan_policy *policy, const uint32_t *spot,
                       enum plan_rent *held, struct plan_bill *bill)
{
    const uint32_t ticks = plan_deadline_ticks(job);
    struct plan_snapshot now = {.job = *job, .spot = spot};
    enum plan_rent before = PLAN_RENT_NONE;
    *bill = (struct plan_bill){.finish_s = job->deadline_s};
    for (uint32_t t = 0; t < ticks; t++) {
        const enum plan_rent last = now.rent;
        now.tick = t;
        bill->ticks[last]++;
        bill->switches[last] += last != before;
        before = last;
        if (held)
            held[t] = last;
        if (last == PLAN_RENT_SPOT && !spot[t])
            now.rent = PLAN_RENT_NONE;
        if (last != PLAN_RENT_NONE)
            work_a_tick(job, &now.starting_s, &now.done_s);
        if (job->work_s - now.done_s <= 1e-3) {
            bill->met = true;
            bill->finish_s = t * job->gap_s;
            break;
        }
        const enum plan_rent wish = policy->decide(&now);
        if (wish != now.rent && wish != PLAN_RENT_NONE)
            now.starting_s = job->overhead_s;
        now.rent = wish;
    }
    for (int r = 0; r < PLAN_RENTS; r++)
        bill->cost += bill->ticks[r] * job->price[r] * job->gap_s / 3600;
}
