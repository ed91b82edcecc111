// Patient: ours. Like Uniform Progress it follows the straight line to the deadline; what differs is when it changes
// over, because every change costs an overhead. Two judges must agree that a spell of spot, or a gap without, is worth
// one. The ski renter: a change waits until the spell has lasted for as long as one must to pay for it. And the past:
// spells that had lasted for so long went on, in the mean, for long enough to pay for the change and for the one back.
// Where none has lasted so long the ski renter judges alone; where every spell of spot that has paid for both, there is
// nothing to wait for. There are no parameters to fit.
#include "plan/spot/policy_int.h"

#include <math.h>

enum { SPELLS_MAX = 1000 }; // with and without spot: so many of the past are looked at, a bound on time

struct spell {
    double age_s; // for how long spot has been there, or gone, without a break
    // For how much longer such spells that had reached this age lasted, in the mean and at least; where none did,
    // INFINITY and 0.
    double rest_s, least_s;
};

static bool was_there(const struct plan_snapshot *now, uint32_t tick)
{
    return now->spot[tick] >= now->job.instances;
}

static struct spell spell_of(const struct plan_snapshot *now)
{
    const bool there = has_spot(now);
    uint32_t first = now->tick;
    while (first > 0 && was_there(now, first - 1) == there)
        first--;
    const uint32_t age = now->tick - first;
    double rest = 0;
    uint32_t least = UINT32_MAX, count = 0, seen = 0;
    for (uint32_t end = first, begin; end > 0 && seen < SPELLS_MAX; end = begin, seen++) { // those before it
        const bool kind = was_there(now, end - 1);
        for (begin = end - 1; begin > 0 && was_there(now, begin - 1) == kind;)
            begin--;
        if (kind == there && end - begin > age) {
            rest += end - begin - age;
            least = end - begin - age < least ? end - begin - age : least;
            count++;
        }
    }
    const double gap_s = now->job.gap_s;
    return (struct spell){age * gap_s, count ? rest / count * gap_s : INFINITY, count ? least * gap_s : 0};
}

// How long a spell of spot must be so that it pays for the overhead at its beginning: on-demand would have worked.
static double paying_s(const struct plan_deadline *job)
{
    const double spot = job->price[PLAN_RENT_SPOT], on_demand = job->price[PLAN_RENT_ON_DEMAND];
    return on_demand > spot ? job->overhead_s * on_demand / (on_demand - spot) : INFINITY;
}

static bool keeps_on_demand(const struct plan_snapshot *now)
{
    const struct plan_deadline *job = &now->job;
    const double ahead_s = now->done_s - uniform_line(job, now->tick * job->gap_s + 2 * job->overhead_s);
    if (ahead_s > 0)
        return false;
    const struct spell spell = spell_of(now);
    const double pays_s = paying_s(job);
    return spell.least_s < 2 * pays_s && (spell.age_s < pays_s || spell.rest_s < 2 * pays_s);
}

static bool takes_on_demand(const struct plan_snapshot *now)
{
    const struct plan_deadline *job = &now->job;
    const double behind_s = uniform_line(job, now->tick * job->gap_s) - now->done_s;
    if (behind_s <= 0)
        return false;
    const struct spell gap = spell_of(now);
    return behind_s > (gap.age_s < job->overhead_s ? job->overhead_s : 0) && gap.rest_s >= 2 * job->overhead_s;
}

static enum plan_rent decide(const struct plan_snapshot *now)
{
    const bool on_demand = now->rent == PLAN_RENT_ON_DEMAND;
    enum plan_rent wish = spot_if_there(now);
    if (has_spot(now) ? on_demand && keeps_on_demand(now) : on_demand || takes_on_demand(now))
        wish = PLAN_RENT_ON_DEMAND;
    return policy_safety_net(now, now->job.work_s, now->job.deadline_s, wish);
}

const struct plan_policy plan_deadline_patient = {
    .name = "patient",
    .about = "changes over when a spell has lasted, and such spells went on to pay",
    .decide = decide,
    .meets_deadline = true};
