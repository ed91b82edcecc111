// What breaks, and when: a few faults a seed. Each waits for a step and then counts turns, points or frames down, so
// that every instant of a step is hit alike; some follow another fault at a small distance and hit its recovery.
#include "sim/world.h"

#include "base/mem.h"

#include <stdio.h>
#include <string.h>

static const struct {
    const char *name;
    uint32_t weight; // as often as others
    bool slows;      // members may wait for it until their patience ends
} kinds[SIM_FAULT_KINDS] = {
    [SIM_KILL] = {"kill", 40},
    [SIM_KILL_CONTROLLER] = {"kill controller", 10},
    [SIM_KILL_ALL] = {"kill all", 4},
    [SIM_PAUSE] = {"pause", 12},
    [SIM_STOP] = {"stop", 3},
    [SIM_JOIN] = {"join", 3},
    [SIM_FREEZE] = {"freeze", 10, true},
    [SIM_FREEZE_CONTROLLER] = {"freeze controller", 4, true},
    [SIM_SLOW] = {"slow", 4, true},
    [SIM_FRAME_DROP] = {"drop", 6, true},
    [SIM_FRAME_CORRUPT] = {"corrupt", 6},
    [SIM_FRAME_CUT] = {"cut", 6},
    [SIM_FRAME_DELAY] = {"delay", 6, true},
};
static const char *const triggers[SIM_TRIGGERS] = {"turn", "point", "named point", "frame"};
// Where deaths are told apart by a hair, and which most steps pass only a few times.
static const char *const points[] = {
    "before-log",        "after-log",        "after-commit",    "before-vote",       "after-vote",
    "before-apply",      "after-apply",      "before-add",      "after-add",         "before-send-part",
    "after-send-part",   "before-send-root", "after-send-root", "before-send-state", "after-send-state",
    "before-checkpoint", "after-checkpoint",
};

static enum sim_fault_kind random_kind(struct sim_random *r)
{
    uint32_t total = 0, kind = 0;
    for (size_t k = 0; k < SIM_FAULT_KINDS; k++)
        total += kinds[k].weight;
    for (uint32_t draw = sim_random_below(r, total); draw >= kinds[kind].weight; kind++)
        draw -= kinds[kind].weight;
    return (enum sim_fault_kind)kind;
}

void sim_faults_plan(struct sim_world *w)
{
    struct sim_random *r = &w->faults_random;
    for (uint32_t i = 0; i < w->scenario.fault_count; i++) {
        struct sim_fault *f = &w->faults[i];
        f->kind = random_kind(r);
        f->trigger = f->kind >= SIM_FRAME_DROP ? SIM_AT_FRAME : (enum sim_trigger)sim_random_below(r, SIM_TRIGGERS);
        f->point = points[sim_random_below(r, sizeof points / sizeof *points)];
        f->after_last = i > 0 && sim_random_chance(r, 400);
        f->step = sim_random_below(r, (uint32_t)w->scenario.steps);
        // Down to 1 / 64 of the longest, each size as likely: short distances are where the protocol is dense.
        f->countdown = 1 + sim_random_below(r, f->trigger == SIM_AT_NAME ? 6 : 256u >> sim_random_below(r, 7));
        sim_note(w, NULL, "fault %u: %s %u %ss%s%s after %s %llu", i, kinds[f->kind].name, f->countdown,
                 triggers[f->trigger], f->trigger == SIM_AT_NAME ? " " : "", f->trigger == SIM_AT_NAME ? f->point : "",
                 f->after_last ? "the fault before, or step" : "step", (unsigned long long)f->step);
    }
}

static struct sim_process *random_member(struct sim_world *w)
{
    struct sim_process *chosen = NULL;
    uint32_t count = 0;
    for (size_t i = 0; i < w->process_count; i++) {
        struct sim_process *p = w->processes[i];
        if (!p->worker || p->dying)
            continue;
        count++;
        if (count == 1 || sim_random_below(&w->faults_random, count) == 0)
            chosen = p;
    }
    return chosen;
}

static void freeze(struct sim_world *w, struct sim_process *p)
{
    if (!p || p->frozen || p->dying)
        return;
    p->frozen = true;
    p->told = false;
    p->frozen_ns = w->now_ns;
    p->thaw_ns = w->now_ns + (uint64_t)sim_random_between(&w->faults_random, 1, 2500) * 1000000;
    w->result->freezes++;
    sim_note(w, p, "FROZEN for %.3f s (last point %s)", 1e-9 * (double)(p->thaw_ns - p->frozen_ns), p->last_point);
}

static void kill_member(struct sim_world *w, struct sim_process *p)
{
    if (!p)
        return;
    if (!w->scenario.respawn && sim_random_chance(&w->faults_random, 500))
        sim_birth(w, &(struct sim_birth){.at_ns = w->now_ns + sim_random_time(&w->faults_random, 10000000),
                                         .role = MESSAGE_WORKER});
    sim_kill(w, p, "by a fault");
}

static void kill_controller(struct sim_world *w)
{
    if (!w->control.process)
        return;
    w->control.restart_ns = w->now_ns + sim_random_time(&w->faults_random, 10000000);
    sim_kill(w, w->control.process, "by a fault");
}

// The machine room goes dark. Whoever starts again may have another number of machines.
static void kill_all(struct sim_world *w)
{
    w->birth_count = 0;
    kill_controller(w);
    for (size_t i = w->process_count; i > 0; i--)
        if (w->processes[i - 1]->worker)
            sim_kill(w, w->processes[i - 1], "with all others");
    if (sim_random_chance(&w->faults_random, 500))
        sim_scenario_reshape(&w->faults_random, &w->scenario);
    if (sim_random_chance(&w->faults_random, 300))
        sim_control_forget(w, sim_random_between(&w->faults_random, 1, 8));
}

static void fire(struct sim_world *w, struct sim_fault *f, struct sim_process *here)
{
    f->done = true;
    w->faults_done++;
    sim_mix(w, 5, f->kind, here ? here->pid : 0);
    w->slowed |= kinds[f->kind].slows;
    switch (f->kind) {
    case SIM_KILL:
        if (here && here == w->control.process)
            kill_controller(w);
        else
            kill_member(w, here ? here : random_member(w));
        break;
    case SIM_KILL_CONTROLLER:
        kill_controller(w);
        break;
    case SIM_KILL_ALL:
        kill_all(w);
        break;
    case SIM_PAUSE:
        sim_market_pause(w);
        break;
    case SIM_STOP:
        w->control.stop = w->asked_to_stop = w->control.process != NULL;
        break;
    case SIM_JOIN:
        sim_birth(w, &(struct sim_birth){.at_ns = w->now_ns, .role = MESSAGE_WORKER});
        break;
    case SIM_FREEZE:
        freeze(w, here ? here : random_member(w));
        break;
    case SIM_FREEZE_CONTROLLER:
        freeze(w, w->control.process);
        break;
    case SIM_SLOW: {
        struct sim_process *p = here ? here : random_member(w);
        if (!p)
            break;
        p->slow = sim_random_between(&w->faults_random, 2, 60);
        sim_net_slow(p->comm, sim_random_between(&w->faults_random, 1, 60));
        sim_note(w, p, "SLOW by %u", p->slow);
        break;
    }
    default:
        break;
    }
}

// The faults whose count ends here.
static struct sim_fault *due(struct sim_world *w, enum sim_trigger trigger, const char *point, size_t *from)
{
    for (; *from < w->scenario.fault_count; ++*from) {
        struct sim_fault *f = &w->faults[*from];
        bool waits = f->after_last ? !w->faults[*from - 1].done : w->committed < f->step;
        bool named = f->trigger == SIM_AT_NAME && point && strcmp(point, f->point) == 0;
        if (f->done || (f->trigger != trigger && !named) || waits || --f->countdown > 0)
            continue;
        return f;
    }
    return NULL;
}

void sim_fault_turn(struct sim_world *w)
{
    struct sim_fault *f;
    for (size_t i = 0; !w->control.finished && (f = due(w, SIM_AT_TURN, NULL, &i)); i++)
        fire(w, f, NULL);
}

static void strike(struct sim_process *p)
{
    struct sim_world *w = p->world;
    w->faults_done++;
    if (!w->o->strike->freeze) {
        w->leaves_lost += p->leaves - p->leaves_before;
        w->control.restart_ns = w->now_ns + 1000000; // if it is the controller's
        sim_kill(w, p, "by the matrix");
        return;
    }
    w->slowed = true;
    freeze(w, p); // when its turn returns: what that makes is lost as well
    p->struck = true;
    p->thaw_ns = p->frozen_ns + 1500000000;
}

void sim_fault_point(struct sim_process *p, const char *name)
{
    struct sim_world *w = p->world;
    struct sim_fault *f;
    if (++w->result->points == (w->o->strike ? w->o->strike->point : 0))
        strike(p);
    if (w->o->strike && w->o->strike->pause && w->result->points == w->o->strike->point + w->o->strike->pause)
        sim_market_pause(w);
    for (size_t i = 0; !w->control.finished && (f = due(w, SIM_AT_POINT, name, &i)); i++)
        fire(w, f, p);
}

static bool data_frame(const struct wire_frame *frame)
{
    return frame->kind >= WIRE_ACTIVATION && frame->kind <= WIRE_STATE;
}

static enum sim_fate frame_fault(struct sim_world *w, struct sim_fault *f, const struct sim_delivery *d,
                                 uint64_t *delay_ns)
{
    char text[160];
    wire_frame_describe(d->frame, text, sizeof text);
    if (f->kind < SIM_FRAME_DROP) { // one of the two ends of it
        fire(w, f, sim_random_chance(&w->faults_random, 500) ? d->from : d->to);
        return SIM_DELIVER;
    }
    if (!data_frame(d->frame) && f->kind == SIM_FRAME_DROP) {
        f->countdown = 1; // a link without its control frames is no link: the next one
        return SIM_DELIVER;
    }
    fire(w, f, NULL);
    w->result->frame_faults++;
    sim_note(w, d->from, "%s %s to pid %u", kinds[f->kind].name, text, d->to_id);
    w->corrupted |= f->kind == SIM_FRAME_CORRUPT;
    if (f->kind == SIM_FRAME_DELAY)
        *delay_ns += sim_random_time(&w->faults_random, 20000000);
    return f->kind == SIM_FRAME_DROP      ? SIM_DROP
           : f->kind == SIM_FRAME_CORRUPT ? SIM_CORRUPT
           : f->kind == SIM_FRAME_CUT     ? SIM_CUT
                                          : SIM_DELIVER;
}

enum sim_fate sim_fault_frame(void *arg, const struct sim_delivery *d, uint64_t *delay_ns)
{
    struct sim_world *w = arg;
    sim_check_sent(w, d);
    w->result->frames++;
    enum sim_fate fate = SIM_DELIVER;
    struct sim_fault *f;
    for (size_t i = 0; !w->control.finished && fate == SIM_DELIVER && (f = due(w, SIM_AT_FRAME, NULL, &i)); i++)
        fate = frame_fault(w, f, d, delay_ns);
    return fate;
}
