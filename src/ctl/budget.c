// Renting: at every tick of a budget the policy is asked, the answer is logged, then it is done. A deadline policy says
// what to hold: a gang of machines of one kind; a token says of which, so that it is known after a death of the
// controller. A fleet policy says in which shape the spot machines that are there work; the boundary after that takes
// it.
#include "ctl/ctl_int.h"

#include <math.h>
#include <stdio.h>

void ctl_rental_init(struct ctl *ctl)
{
    const struct ctl_budget *b = ctl->o.budget;
    if (!b)
        return;
    ctl->rental = (struct ctl_rental){.rent = b->rent, .zone = b->zone, .machines = ctl->o.workers, .tick = b->tick};
    if (b->rent == PLAN_RENT_NONE || b->fleet.policy)
        ctl->o.workers = 0;
}

uint32_t ctl_rental_wanted(const struct ctl *ctl)
{
    if (!ctl->o.budget || !ctl->o.budget->fleet.policy)
        return ctl->o.workers;
    return ctl->rental.deciding ? ctl->rental.there : 0; // a machine that went is not there before the next interval
}

bool ctl_rents(const struct ctl *ctl)
{
    return ctl->o.budget && !ctl->ending && ctl->committed < ctl->o.steps;
}

uint64_t ctl_rental_token(struct ctl *ctl, enum message_role role)
{
    const uint64_t token = ctl->token_next++;
    return ctl->o.budget && role == MESSAGE_WORKER ? 4 * (PLAN_ZONES_MAX * token + ctl->rental.zone) + ctl->rental.rent
                                                   : token;
}

uint32_t ctl_token_zone(uint64_t token)
{
    return token / 4 % PLAN_ZONES_MAX;
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

static void hold(struct ctl *ctl, enum plan_rent rent, uint32_t zone)
{
    struct ctl_rental *r = &ctl->rental;
    if (rent == r->rent) // and in the same zone
        return;
    r->rent = rent;
    r->zone = ctl->o.budget->zones && rent != PLAN_RENT_NONE ? zone : 0;
    r->since = r->tick;
    r->steps = ctl->committed;
    ctl->o.workers = rent == PLAN_RENT_NONE ? 0 : r->machines;
    ctl->gather_until_ns = ctl->now_ns + ctl->o.join_ns;
}

static void say_decided(struct ctl *ctl, const struct plan_snapshot *now, struct plan_choice decided)
{
    json_t *fields = json_object();
    json_object_set_new(fields, "tick", ctl_number(now->tick));
    json_object_set_new(fields, "held", ctl_text(plan_rent_name(now->rent)));
    json_object_set_new(fields, "spot", ctl_number(now->spot[now->tick]));
    json_object_set_new(fields, "done_s", json_real(now->done_s));
    json_object_set_new(fields, "step", ctl_number(ctl->committed));
    json_object_set_new(fields, "decided", ctl_text(plan_rent_name(decided.rent)));
    if (decided.zone < now->zone_count)
        json_object_set_new(fields, "zone", ctl_text(now->zones[decided.zone].name));
    ctl_say(ctl, "decided", fields);
}

static void ask_policy(struct ctl *ctl, const uint32_t *spot)
{
    const struct ctl_budget *b = ctl->o.budget;
    struct plan_zone zones[PLAN_ZONES_MAX];
    struct plan_snapshot now = {.job = b->job,
                                .tick = ctl->rental.tick,
                                .rent = ctl->rental.rent,
                                .starting_s = starting_s(ctl),
                                .done_s = b->job.work_s * (double)ctl->committed / (double)ctl->o.steps,
                                .spot = spot};
    for (uint32_t z = 0; b->zones && z < b->zones->count; z++)
        zones[z] = plan_zone_at(&b->zones->list[z], now.tick);
    if (b->zones) {
        now.zones = zones;
        now.zone_count = b->zones->count;
        now.zone = now.rent == PLAN_RENT_NONE ? PLAN_NOWHERE : ctl->rental.zone;
        plan_zone_set_prices(&now);
    }
    const struct plan_choice wish = plan_decide(b->policy, &now);
    struct bg_error err = {0};
    if (ctl->host.decided(ctl->host.arg, &now, wish, &err)) {
        ctl_fail(ctl, &err);
        return;
    }
    say_decided(ctl, &now, wish);
    hold(ctl, wish.rent, wish.zone);
    ctl_members_release(ctl, wish.rent, "given back"); // also what a controller before us had not given back any more
}

// ---- Fleet policies ----

static struct plan_fleet_left what_is_left(const struct ctl *ctl, uint32_t nodes)
{
    const struct ctl_rental *r = &ctl->rental;
    struct plan_fleet_left left = {0};
    if (!ctl->ranks || ctl->ranks >= PLAN_FLEET_NODES_MAX)
        return left;
    uint32_t replicas = ctl->ranks == r->stages ? r->replicas[0] : 0, live = 0;
    for (uint32_t i = 0; i < ctl->member_count; i++) {
        const struct ctl_member *m = &ctl->members[i];
        if (m->role != MESSAGE_WORKER || m->presence != CTL_LIVE || m->rank >= ctl->ranks || live == nodes)
            continue;
        live++;
        if (++left.live[0][m->rank] > replicas)
            replicas = left.live[0][m->rank];
    }
    left.shape = (struct plan_fleet_shape){replicas, ctl->ranks, 0};
    return replicas && plan_fleet_nodes(left.shape) <= PLAN_FLEET_NODES_MAX ? left : (struct plan_fleet_left){0};
}

static void say_reshaped(struct ctl *ctl, uint32_t there, struct plan_fleet_shape shape)
{
    char text[48];
    snprintf(text, sizeof text, "%ux%u", shape.stages, shape.replicas);
    json_t *fields = json_object();
    json_object_set_new(fields, "tick", ctl_number(ctl->rental.tick));
    json_object_set_new(fields, "spot", ctl_number(there));
    json_object_set_new(fields, "step", ctl_number(ctl->committed));
    json_object_set_new(fields, "decided", ctl_text(text));
    ctl_say(ctl, "decided", fields);
}

// Replicas are alike here: a policy's deeper ones (none of those that move state live has any) would lose their last
// stage.
static void take_shape(struct ctl *ctl, struct plan_fleet_shape shape)
{
    struct ctl_rental *r = &ctl->rental;
    ctl->o.workers = shape.stages * shape.replicas;
    if (!ctl->o.workers) {
        if (ctl->phase == CTL_RUN || ctl->phase == CTL_PREPARE)
            ctl_generation_begin(ctl, CTL_EVERYBODY, false, "%s", "nothing fits on the machines there are");
        return;
    }
    r->stages = shape.stages;
    for (uint32_t s = 0; s < shape.stages; s++)
        r->replicas[s] = shape.replicas;
    ctl->o.replicas = r->replicas;
    ctl->o.stages = r->stages;
    r->reshape = true;
    ctl->gather_until_ns = ctl->now_ns + ctl->o.join_ns;
}

static void ask_fleet(struct ctl *ctl, const uint32_t *spot)
{
    struct ctl_rental *r = &ctl->rental;
    struct plan_fleet_question now = ctl->o.budget->fleet;
    const uint32_t there = spot[r->tick] < r->machines ? spot[r->tick] : r->machines;
    struct plan_fleet_shape shape;
    struct bg_error err = {0};
    now.counts = spot;
    now.count = r->tick + 1;
    now.left = what_is_left(ctl, there);
    if (plan_fleet_ask(&now, &err, &shape) || ctl->host.reshaped(ctl->host.arg, &now, shape, &err)) {
        ctl_fail(ctl, &err);
        return;
    }
    say_reshaped(ctl, there, shape);
    r->there = there;
    r->rent = PLAN_RENT_SPOT;
    take_shape(ctl, shape);
}

// ---- The event ----

// Also in a tick that was missed.
static bool spot_taken(const struct ctl *ctl, uint32_t tick, const uint32_t *spot)
{
    const struct ctl_budget *b = ctl->o.budget;
    uint32_t t = ctl->rental.tick + 1;
    if (b->zones)
        spot = b->zones->list[ctl->rental.zone].spot;
    while (t <= tick && spot[t] >= b->job.instances)
        t++;
    return t <= tick;
}

void ctl_market(struct ctl *ctl, uint64_t now_ns, uint32_t tick, const uint32_t *spot)
{
    const struct ctl_budget *b = ctl->o.budget;
    ctl_clock(ctl, now_ns);
    if (!b || ctl->phase == CTL_OVER || ctl->phase == CTL_FRESH)
        return;
    const bool taken = spot_taken(ctl, tick, spot);
    ctl->rental.tick = tick;
    if (!b->fleet.policy && ctl->rental.rent == PLAN_RENT_SPOT && taken) {
        hold(ctl, PLAN_RENT_NONE, 0);
        ctl_members_release(ctl, PLAN_RENT_NONE, "spot was taken away");
    }
    const bool gone = b->fleet.policy && // whose machines are not rented again at once
                      ctl_members_live(ctl, MESSAGE_WORKER) + ctl_spawns(ctl, MESSAGE_WORKER) == 0;
    const bool somebody = (ctl->o.workers > 0 && !gone) || ctl_members_live(ctl, MESSAGE_SHADOW) > 0 ||
                          ctl_spawns(ctl, MESSAGE_SHADOW) > 0; // else even the last checkpoint needs machines
    if ((!ctl_rents(ctl) && somebody) || ctl->phase == CTL_OVER)
        return;
    if (b->fleet.policy)
        ask_fleet(ctl, spot);
    else
        ask_policy(ctl, spot);
    ctl->rental.deciding = true;
    ctl->spawn_failures = 0; // what could not be had before may be there now
    if (ctl->phase != CTL_OVER)
        ctl_members_spawn(ctl);
    ctl->rental.deciding = false;
}
