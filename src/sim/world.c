// The scheduler: whoever's turn has come takes it; where several could, the seed chooses. Time is virtual and jumps to
// the next thing that can happen.
#include "sim/world.h"

#include "base/assert.h"
#include "base/hash.h"
#include "base/mem.h"

#include <stdarg.h>
#include <stdio.h>
#include <string.h>

#define SILENCE_NS 900000000u
#define STALL_NS   300000000u
#define AFTER_NS   20000000000u  // the end of the last process after the end of the job
#define BOUND_NS   300000000000u // a run that takes longer hangs
#define TURNS_MAX  400000u

// ---- What is told ----

void sim_mix(struct sim_world *w, uint64_t a, uint64_t b, uint64_t c)
{
    uint64_t words[5] = {w->result->trace, w->now_ns, a, b, c};
    w->result->trace = bg_xxh64(words, sizeof words);
}

void sim_note(struct sim_world *w, const struct sim_process *p, const char *format, ...)
{
    if (!w->o->say)
        return;
    char line[1200];
    int used = snprintf(line, sizeof line, "%11.6f  ", 1e-9 * (double)w->now_ns);
    if (!p)
        used += snprintf(line + used, sizeof line - (size_t)used, "%-22s ", "");
    else if (p == w->control.process)
        used += snprintf(line + used, sizeof line - (size_t)used, "controller (pid %u)%*s ", p->pid, p->pid < 10, "");
    else
        used += snprintf(line + used, sizeof line - (size_t)used, "pid %-3u member %-2u g%-3u ", p->pid, p->member,
                         p->generation);
    va_list args;
    va_start(args, format);
    vsnprintf(line + used, sizeof line - (size_t)used, format, args);
    va_end(args);
    w->o->say(w->o->arg, line);
}

static void describe_all(struct sim_world *w, char *text, size_t size)
{
    size_t used = strlen(text);
    for (size_t i = 0; i < w->process_count; i++) {
        struct sim_process *p = w->processes[i];
        char what[600] = "";
        if (p->worker)
            worker_describe(p->worker, what, sizeof what);
        else if (p == w->control.process && w->control.ctl)
            ctl_describe(w->control.ctl, what, sizeof what);
        used += (size_t)snprintf(text + used, size - used, "\n  %s pid %u member %u%s%s: %s (last point %s)",
                                 p->worker ? "worker" : "controller", p->pid, p->member,
                                 p->role == MESSAGE_SHADOW ? " (shadow)" : "", p->frozen ? " (frozen)" : "", what,
                                 p->last_point);
        if (used >= size)
            return;
    }
}

void sim_fail(struct sim_world *w, const char *format, ...)
{
    if (w->failed)
        return;
    w->failed = true;
    struct sim_result *result = w->result;
    int used = snprintf(result->text, sizeof result->text, "at %.6f s: ", 1e-9 * (double)w->now_ns);
    va_list args;
    va_start(args, format);
    vsnprintf(result->text + used, sizeof result->text - (size_t)used, format, args);
    va_end(args);
    describe_all(w, result->text, sizeof result->text);
    sim_note(w, w->current, "FAILED %s", result->text);
}

// ---- Processes ----

static void process_point(void *arg, const char *name)
{
    struct sim_process *p = arg;
    snprintf(p->last_point, sizeof p->last_point, "%s", name);
    if (!p->dying)
        sim_fault_point(p, name);
}

struct sim_process *sim_process_create(struct sim_world *w, const char *address)
{
    BG_ASSERT(w->process_count < SIM_PROCESSES_MAX);
    struct sim_process *p = bg_alloc(sizeof *p);
    p->world = w;
    p->pid = ++w->pids;
    p->ready_ns = p->wake_ns = w->now_ns;
    p->slow = 1;
    sim_env_init(&p->env, w->isa, &w->now_ns, sim_random_make(w->o->seed, 100 + p->pid));
    p->env.point = process_point;
    p->env.arg = p;
    char own[32];
    snprintf(own, sizeof own, "process-%u", p->pid);
    p->comm = sim_net_endpoint(w->net, &p->env.env, address ? address : own, p->pid, p);
    w->processes[w->process_count++] = p;
    return p;
}

static void process_free(struct sim_process *p)
{
    sim_env_fini(&p->env);
    bg_free(p);
}

void sim_process_end(struct sim_world *w, struct sim_process *p, const char *why)
{
    sim_note(w, p, "ends: %s", why);
    sim_mix(w, 1, p->pid, 0);
    if (!p->dying) { // its memory stays as it is for those who read it
        p->dying = true;
        sim_net_mute(p->comm);
    }
    size_t at = 0;
    while (w->processes[at] != p)
        at++;
    memmove(w->processes + at, w->processes + at + 1, (--w->process_count - at) * sizeof *w->processes);
    if (p == w->control.process) {
        sim_control_end(w);
    } else {
        sim_member_end(p);
        sim_control_child_ended(w, p->parent, p->token);
    }
    p->comm->ops->destroy(p->comm);
    if (w->current == p)
        w->current = NULL;
    process_free(p);
}

void sim_kill(struct sim_world *w, struct sim_process *p, const char *why)
{
    if (p->dying)
        return;
    sim_note(w, p, "KILLED %s (last point %s)", why, p->last_point);
    w->result->kills++;
    p->dying = true;
    sim_net_mute(p->comm);
    if (p != w->current) // else when its turn returns
        sim_process_end(w, p, "killed");
}

void sim_birth(struct sim_world *w, const struct sim_birth *birth)
{
    BG_ASSERT(w->birth_count < SIM_PROCESSES_MAX);
    w->births[w->birth_count++] = *birth;
}

// ---- Time ----

static uint64_t earlier(uint64_t a, uint64_t b)
{
    return a < b ? a : b;
}

static uint64_t later(uint64_t a, uint64_t b)
{
    return a > b ? a : b;
}

static uint64_t turn_ns(const struct sim_world *w, const struct sim_process *p)
{
    if (p->frozen)
        return p->told ? p->thaw_ns : earlier(p->thaw_ns, p->frozen_ns + SILENCE_NS);
    uint64_t at = earlier(p->wake_ns, sim_net_arrival(p->comm));
    if (p == w->control.process)
        at = earlier(at, sim_control_wake(w));
    return later(at, p->ready_ns);
}

static uint64_t next_ns(const struct sim_world *w)
{
    uint64_t at = w->control.process || w->control.finished ? UINT64_MAX : w->control.restart_ns;
    for (size_t i = 0; i < w->birth_count; i++)
        at = earlier(at, w->births[i].at_ns);
    for (size_t i = 0; i < w->process_count; i++)
        at = earlier(at, turn_ns(w, w->processes[i]));
    at = earlier(at, sim_market_wake(w));
    return w->stall_ns ? earlier(at, w->stall_ns + STALL_NS) : at;
}

// The market, births, the controller's return, and by hand a worker where nobody is left to compute.
static void arrivals(struct sim_world *w)
{
    sim_market_turn(w);
    for (size_t i = 0; i < w->birth_count;) {
        struct sim_birth birth = w->births[i];
        if (birth.at_ns > w->now_ns) {
            i++;
            continue;
        }
        w->births[i] = w->births[--w->birth_count];
        sim_member_create(w, &birth);
    }
    if (!w->control.process && !w->control.finished && w->control.restart_ns <= w->now_ns)
        sim_control_start(w);
    size_t workers = w->birth_count;
    for (size_t i = 0; i < w->process_count; i++)
        workers += w->processes[i]->worker && w->processes[i]->role == MESSAGE_WORKER;
    if (workers || w->control.finished || !w->control.process || w->scenario.rents) {
        w->stall_ns = 0;
    } else if (!w->stall_ns) {
        w->stall_ns = w->now_ns;
    } else if (w->now_ns >= w->stall_ns + STALL_NS) {
        w->stall_ns = 0;
        sim_birth(w, &(struct sim_birth){.at_ns = w->now_ns, .role = MESSAGE_WORKER});
    }
}

static void thaw(struct sim_world *w, struct sim_process *p)
{
    if (p->thaw_ns <= w->now_ns) {
        p->frozen = p->told = false;
        p->ready_ns = p->wake_ns = w->now_ns;
        sim_note(w, p, "goes on");
    } else {
        // The controller hears nothing of it any more; its peers may or may not judge silence. A silent controller is
        // waited for, unless by members that judge (no worker of the command does).
        p->told = true;
        bool controller = p == w->control.process, everybody = sim_random_chance(&w->choices, controller ? 300 : 500);
        if (controller ? everybody && !w->o->strike : everybody || w->control.process) {
            sim_note(w, p, "is silent for %s", everybody ? "everybody" : "the controller");
            sim_net_silence(p->comm, everybody ? NULL : w->control.process, "silent for 0.9 s");
        }
    }
    sim_mix(w, 2, p->pid, p->frozen);
}

static void take_turn(struct sim_world *w, struct sim_process *p)
{
    if (p->frozen) {
        thaw(w, p);
        return;
    }
    w->result->turns++;
    w->current = p;
    uint64_t cost = sim_random_time(&w->choices, w->scenario.turn_ns) * p->slow;
    p->ready_ns = w->now_ns + cost;
    sim_fault_turn(w);
    if (!p->dying && !p->frozen) {
        if (p == w->control.process)
            sim_control_turn(w);
        else
            sim_member_turn(p);
    }
    if (w->current == p && p->dying) // not yet gone
        sim_process_end(w, p, "killed");
    w->current = NULL;
}

static struct sim_process *choose(struct sim_world *w)
{
    struct sim_process *chosen = NULL;
    uint32_t count = 0;
    for (size_t i = 0; i < w->process_count; i++) {
        if (turn_ns(w, w->processes[i]) > w->now_ns)
            continue;
        count++;
        if (count == 1 || sim_random_below(&w->choices, count) == 0)
            chosen = w->processes[i];
    }
    return chosen;
}

void sim_world_run(struct sim_world *w)
{
    while (!w->failed && !(w->control.finished && !w->process_count && !w->birth_count)) {
        uint64_t at = next_ns(w);
        if (at == UINT64_MAX) {
            sim_fail(w, "nothing can happen any more, and the job is not done");
            return;
        }
        w->now_ns = later(w->now_ns, at);
        if (w->now_ns > BOUND_NS || w->result->turns > TURNS_MAX)
            sim_fail(w, "no end in sight after %u turns: step %llu of %llu", (unsigned)w->result->turns,
                     (unsigned long long)w->committed, (unsigned long long)w->scenario.steps);
        else if (w->control.finished && w->now_ns > w->finished_ns + AFTER_NS)
            sim_fail(w, "the job is done and somebody is still there");
        arrivals(w);
        struct sim_process *p = choose(w);
        if (p)
            take_turn(w, p);
    }
}

// ---- One run ----

struct sim {
    unsigned isa;
    struct sim_job *jobs[SIM_JOBS];
};

struct sim *sim_create(unsigned isa)
{
    struct sim *sim = bg_alloc(sizeof *sim);
    sim->isa = isa;
    return sim;
}

void sim_destroy(struct sim *sim)
{
    for (uint32_t i = 0; i < SIM_JOBS; i++)
        sim_job_destroy(sim->jobs[i]);
    bg_free(sim);
}

static void world_end(struct sim_world *w)
{
    bool sound = !w->failed;
    while (w->process_count) {
        struct sim_process *p = w->processes[w->process_count - 1];
        p->dying = true;
        sim_process_end(w, p, "the simulation is over");
    }
    if (sound)
        sim_check_world_end(w);
    sim_control_fini(w);
    for (size_t i = 0; i <= SIM_STEPS_MAX; i++) {
        if (!w->disk[i])
            continue;
        bg_free(w->disk[i]->state.weights);
        bg_free(w->disk[i]->state.m);
        bg_free(w->disk[i]->state.v);
        bg_free(w->disk[i]);
    }
}

void sim_run(struct sim *sim, const struct sim_options *o, struct sim_result *result)
{
    *result = (struct sim_result){.trace = o->seed};
    struct sim_world *w = bg_alloc(sizeof *w);
    *w = (struct sim_world){.o = o, .result = result, .isa = sim->isa, .now_ns = 1000000};
    if (o->strike)
        sim_scenario_matrix(o->strike->variant, &w->scenario, result->scenario, sizeof result->scenario);
    else
        sim_scenario_make(o->seed, &w->scenario, result->scenario, sizeof result->scenario);
    struct bg_error err;
    struct sim_job **job = &sim->jobs[w->scenario.job];
    if (!*job && sim_job_create(sim->isa, w->scenario.job, &err, job)) {
        snprintf(result->text, sizeof result->text, "the reference of job %u: %s", w->scenario.job, err.text);
        bg_free(w);
        return;
    }
    w->job = *job;
    w->choices = sim_random_make(o->seed, 1);
    w->faults_random = sim_random_make(o->seed, 2);
    w->market.random = sim_random_make(o->seed, 5);
    struct sim_watcher watcher = {
        .arg = w, .fate = sim_fault_frame, .delivered = sim_check_delivered, .changed = sim_check_changed};
    w->net = sim_net_create(&(struct sim_net_options){.now_ns = &w->now_ns,
                                                      .random = sim_random_make(o->seed, 3),
                                                      .latency_ns = w->scenario.latency_ns,
                                                      .watcher = watcher});
    sim_note(w, NULL, "%s", result->scenario);
    sim_faults_plan(w);
    w->control.restart_ns = w->now_ns;
    sim_world_run(w);
    world_end(w);
    sim_net_destroy(w->net);
    result->passed = !w->failed;
    result->virtual_ns = w->now_ns;
    bg_free(w);
}
