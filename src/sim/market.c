// The market of a job with a budget: its policy takes what spot there is, pauses take all of it at any instant, and
// what was rented dies with them. Ticks come by themselves and with every change. A fleet wants another shape with
// nearly every tick, often of fewer machines than live, in the middle of a step; in the end the market is calm.
#include "sim/world.h"

#include "base/assert.h"

#include <string.h>

#define TICK_NS 50000000u
enum { PLENTY = 64, RESTLESS = 100 };

static bool rented(const struct sim_process *p)
{
    return p->worker && p->role == MESSAGE_WORKER && (p->token || !p->world->scenario.rents);
}

// Some of the machines that are there no more die; the controller is left with the others.
static void take_machines(struct sim_world *w, uint32_t there)
{
    uint32_t held = 0;
    for (size_t i = 0; i < w->process_count; i++)
        held += rented(w->processes[i]);
    for (size_t i = w->process_count; i > 0 && held > there; i--) {
        if (i > w->process_count || !rented(w->processes[i - 1]))
            continue;
        held--;
        if (sim_random_chance(&w->market.random, 200))
            sim_kill(w, w->processes[i - 1], "with its machine");
    }
}

static void tick(struct sim_world *w)
{
    struct sim_market *m = &w->market;
    const uint32_t machines = w->scenario.fleet;
    const bool restless = machines && m->ticks < RESTLESS;
    uint32_t there = m->back_ns ? 0 : machines ? machines : PLENTY;
    BG_ASSERT(m->ticks < SIM_TICKS_MAX);
    m->next_ns = w->now_ns + TICK_NS;
    if (restless && there) {
        there = sim_random_between(&m->random, 1, machines);
        m->next_ns = w->now_ns + 1 + sim_random_time(&m->random, w->scenario.market_ns);
        take_machines(w, there);
    }
    m->spot[m->ticks++] = there;
}

// Any shape of the machines there are, at times none: a function of how many there were so far.
static struct plan_fleet_shape any_shape(const struct plan_fleet_snapshot *now)
{
    const uint32_t nodes = now->counts[now->count - 1], most = now->fleet->options.nodes_max;
    const uint32_t there = nodes < most ? nodes : most, deepest = now->fleet->stages_max;
    uint64_t seed = 0;
    for (uint32_t i = 0; i < now->count && i < RESTLESS; i++)
        seed = 31 * seed + 1 + now->counts[i];
    struct sim_random random = sim_random_make(seed, 6);
    if (!there || (now->count < RESTLESS && sim_random_chance(&random, 80)))
        return (struct plan_fleet_shape){0};
    const uint32_t stages = sim_random_between(&random, 1, there < deepest ? there : deepest);
    return (struct plan_fleet_shape){.stages = stages, .replicas = sim_random_between(&random, 1, there / stages)};
}

static const struct plan_fleet_policy any = {"any", "whatever the seed says", PLAN_FLEET_LIVE, false, any_shape};

static bool holds_any(const struct sim_world *w, enum plan_rent rent)
{
    for (size_t i = 0; i < w->process_count; i++)
        if (rented(w->processes[i]) && ctl_token_rent(w->processes[i]->token) == rent)
            return true;
    return false;
}

const struct ctl_budget *sim_market_budget(struct sim_world *w, uint32_t machines)
{
    struct sim_market *m = &w->market;
    m->told = 0;
    m->budget = (struct ctl_budget){.policy = plan_policy_find("spot"),
                                    .job = {.gap_s = 600,
                                            .work_s = 6000,
                                            .deadline_s = 600000,
                                            .overhead_s = 60,
                                            .price = {0, 1, 3},
                                            .instances = machines},
                                    .rent = holds_any(w, m->rent) ? m->rent : PLAN_RENT_NONE,
                                    .tick = m->decided_tick};
    if (w->scenario.fleet) {
        const uint32_t units = w->job->model->unit_count;
        m->budget.fleet = (struct plan_fleet_question){
            .policy = &any, .model = {units - 2, 16, 256, 64, 1e9, 1e9, 0}, .options = plan_fleet_defaults, .seed = 1};
        m->budget.fleet.options.nodes_max = machines;
        m->budget.fleet.options.micro_batches = w->job->micro_batches;
    }
    return w->scenario.rents ? &m->budget : NULL;
}

uint64_t sim_market_wake(const struct sim_world *w)
{
    if (!w->scenario.rents || w->control.finished)
        return UINT64_MAX;
    const struct sim_market *m = &w->market;
    return m->back_ns && m->back_ns < m->next_ns ? m->back_ns : m->next_ns;
}

void sim_market_turn(struct sim_world *w)
{
    struct sim_market *m = &w->market;
    if (sim_market_wake(w) > w->now_ns)
        return;
    if (m->back_ns && m->back_ns <= w->now_ns) {
        m->back_ns = 0;
        sim_note(w, NULL, "spot is there again");
    }
    tick(w);
}

void sim_market_tell(struct sim_world *w)
{
    struct sim_market *m = &w->market;
    if (!w->scenario.rents || m->told == m->ticks)
        return;
    m->told = m->ticks;
    ctl_market(w->control.ctl, w->now_ns, m->ticks - 1, m->spot);
}

// Without a budget all who compute die at once, and come as they would.
void sim_market_pause(struct sim_world *w)
{
    struct sim_market *m = &w->market;
    if (w->scenario.rents && !m->back_ns) {
        m->back_ns = w->now_ns + 1 + sim_random_time(&w->faults_random, 20000000);
        tick(w);
    }
    for (size_t i = w->birth_count; i > 0 && w->scenario.rents; i--)
        if (w->births[i - 1].token && w->births[i - 1].role == MESSAGE_WORKER) {
            sim_control_child_ended(w, w->births[i - 1].parent, w->births[i - 1].token);
            w->births[i - 1] = w->births[--w->birth_count];
        }
    for (size_t i = w->process_count; i > 0; i--)
        if (i <= w->process_count && rented(w->processes[i - 1]))
            sim_kill(w, w->processes[i - 1], "with all spot machines");
}

// ---- Effects of the controller ----

static bool dying(const struct sim_world *w)
{
    return w->control.process->dying;
}

bg_status sim_market_rent(void *arg, uint64_t token, struct bg_error *err)
{
    struct sim_world *w = arg;
    if (w->market.back_ns)
        return bg_fail(err, BG_FULL, "no spot machine is there");
    if (dying(w))
        return BG_OK;
    uint64_t delay_ns = sim_random_time(&w->choices, 1000000);
    sim_note(w, w->control.process, "rents a machine");
    sim_birth(w, &(struct sim_birth){w->now_ns + delay_ns, token, MESSAGE_WORKER, w->control.process->pid});
    return BG_OK;
}

void sim_market_give_back(void *arg, uint64_t token)
{
    struct sim_world *w = arg;
    if (dying(w))
        return;
    for (size_t i = w->birth_count; i > 0; i--)
        if (w->births[i - 1].token == token)
            w->births[i - 1] = w->births[--w->birth_count];
    for (size_t i = w->process_count; i > 0; i--)
        if (w->processes[i - 1]->worker && w->processes[i - 1]->token == token)
            sim_kill(w, w->processes[i - 1], "given back");
}

bg_status sim_market_decided(void *arg, const struct plan_snapshot *now, struct plan_choice decided,
                             struct bg_error *err)
{
    (void)err;
    struct sim_world *w = arg;
    if (dying(w))
        return BG_OK;
    w->market.rent = decided.rent;
    w->market.decided_tick = now->tick;
    sim_mix(w, 10, now->tick, decided.rent);
    return BG_OK;
}

bg_status sim_market_reshaped(void *arg, const struct plan_fleet_question *now, struct plan_fleet_shape decided,
                              struct bg_error *err)
{
    (void)err;
    struct sim_world *w = arg;
    if (dying(w))
        return BG_OK;
    w->market.rent = PLAN_RENT_SPOT;
    w->market.decided_tick = now->count - 1;
    sim_note(w, w->control.process, "wants %u x %u of %u machines", decided.stages, decided.replicas,
             now->counts[now->count - 1]);
    sim_mix(w, 11, decided.stages, decided.replicas);
    return BG_OK;
}
