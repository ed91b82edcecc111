// Renting: at every tick of a budget the policy is asked what to hold, the answer is logged, then it is done. What is
// held is a gang of machines of one kind; a token says of which, so that it is known after a death of the controller.
#include "ctl/ctl_int.h"

#include <math.h>

void ctl_rental_init(struct ctl *ctl)
{
    const struct ctl_budget *b = ctl->o.budget;
    if (!b)
        return;
    ctl->rental = (struct ctl_rental){.rent = b->rent, .machines = ctl->o.workers};
    ctl->o.workers = b->rent == PLAN_RENT_NONE ? 0 : ctl->rental.machines;
}

bool ctl_rents(const struct ctl *ctl)
{
    return ctl->o.budget && !ctl->ending && ctl->committed < ctl->o.steps;
}

uint64_t ctl_rental_token(struct ctl *ctl, enum message_role role)
{
    const uint64_t token = ctl->token_next++;
    return ctl->o.budget && role == MESSAGE_WORKER ? 4 * token + ctl->rental.rent : token;
}

enum plan_rent ctl_token_rent(uint64_t token)
{
    return token % 4 < PLAN_RENTS ? (enum plan_rent)(token % 4) : PLAN_RENT_NONE;
}

// Overhead still to pay. Of a gang that takes longer to come than it should it is never nothing.
static double starting_s(const struct ctl *ctl)
{
    const struct ctl_rental *r = &ctl->rental;
    const struct plan_deadline *job = &ctl->o.budget->job;
    if (r->rent == PLAN_RENT_NONE || ctl->committed > r->steps)
        return 0;
    return fmax(job->overhead_s - (r->tick - r->since) * job->gap_s, fmin(job->overhead_s, job->gap_s));
}

static void hold(struct ctl *ctl, enum plan_rent rent)
{
    struct ctl_rental *r = &ctl->rental;
    if (rent == r->rent)
        return;
    r->rent = rent;
    r->since = r->tick;
    r->steps = ctl->committed;
    ctl->o.workers = rent == PLAN_RENT_NONE ? 0 : r->machines;
    ctl->gather_until_ns = ctl->now_ns + ctl->o.join_ns;
}

static void say_decided(struct ctl *ctl, const struct plan_snapshot *now, enum plan_rent decided)
{
    json_t *fields = json_object();
    json_object_set_new(fields, "tick", ctl_number(now->tick));
    json_object_set_new(fields, "held", ctl_text(plan_rent_name(now->rent)));
    json_object_set_new(fields, "spot", ctl_number(now->spot[now->tick]));
    json_object_set_new(fields, "done_s", json_real(now->done_s));
    json_object_set_new(fields, "step", ctl_number(ctl->committed));
    json_object_set_new(fields, "decided", ctl_text(plan_rent_name(decided)));
    ctl_say(ctl, "decided", fields);
}

void ctl_market(struct ctl *ctl, uint64_t now_ns, uint32_t tick, const uint32_t *spot)
{
    const struct ctl_budget *b = ctl->o.budget;
    ctl_clock(ctl, now_ns);
    if (!b || ctl->phase == CTL_OVER || ctl->phase == CTL_FRESH)
        return;
    ctl->rental.tick = tick;
    if (ctl->rental.rent == PLAN_RENT_SPOT && spot[tick] < b->job.instances) {
        hold(ctl, PLAN_RENT_NONE);
        ctl_members_release(ctl, PLAN_RENT_NONE, "spot was taken away");
    }
    if (!ctl_rents(ctl) || ctl->phase == CTL_OVER)
        return;
    const struct plan_snapshot now = {.job = b->job,
                                      .tick = tick,
                                      .rent = ctl->rental.rent,
                                      .starting_s = starting_s(ctl),
                                      .done_s = b->job.work_s * (double)ctl->committed / (double)ctl->o.steps,
                                      .spot = spot};
    const enum plan_rent wish = b->policy->decide(&now);
    struct bg_error err = {0};
    if (ctl->host.decided(ctl->host.arg, &now, wish, &err)) {
        ctl_fail(ctl, &err);
        return;
    }
    say_decided(ctl, &now, wish);
    hold(ctl, wish);
    ctl_members_release(ctl, wish, "given back"); // also what a controller before us had not given back any more
    if (ctl->phase != CTL_OVER)
        ctl_members_spawn(ctl);
}
