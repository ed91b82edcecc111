// The market of a job with a budget: its policy takes what spot there is, pauses take all of it at any instant, and
// what was rented dies with them. Ticks come by themselves and with every change.
#include "sim/world.h"

#include "base/assert.h"

#include <string.h>

#define TICK_NS 50000000u
enum { PLENTY = 64 };

static void tick(struct sim_world *w)
{
    struct sim_market *m = &w->market;
    BG_ASSERT(m->ticks < SIM_TICKS_MAX);
    m->spot[m->ticks++] = m->back_ns ? 0 : PLENTY;
    m->next_ns = w->now_ns + TICK_NS;
}

static bool rented(const struct sim_process *p)
{
    return p->worker && p->role == MESSAGE_WORKER && (p->token || !p->world->scenario.rents);
}

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
        if (w->births[i - 1].token && w->births[i - 1].role == MESSAGE_WORKER)
            w->births[i - 1] = w->births[--w->birth_count];
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
