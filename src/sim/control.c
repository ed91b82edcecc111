// The controller's process of a simulation: src/ctl as it is, its effects on the simulated network, its log in memory
// that outlives it. The loop is that of a live controller: everything that has arrived, then a tick.
#include "sim/world.h"

#include "base/assert.h"
#include "base/mem.h"

#include <stdio.h>
#include <string.h>

#define EVENTS_PER_TURN 32
#define TICK_NS         10000000u
#define PROCESS_NS      1000000u // until a new process runs, and until the end of one is noticed

static struct sim_control_link *link_of_member(struct sim_control_plane *c, uint32_t member)
{
    for (size_t i = 0; i < c->link_count; i++)
        if (c->links[i].member == member)
            return &c->links[i];
    return NULL;
}

static struct sim_control_link *link_of(struct sim_control_plane *c, uint32_t link)
{
    for (size_t i = 0; i < c->link_count; i++)
        if (c->links[i].link == link)
            return &c->links[i];
    return NULL;
}

// ---- Effects ----

static bool dying(const struct sim_world *w)
{
    return w->control.process->dying;
}

static void name_link(struct sim_control_plane *c, uint32_t link, uint32_t member)
{
    struct comm *comm = c->process->comm;
    struct sim_control_link *older = link_of_member(c, member), *here = link_of(c, link);
    if (older && older != here) { // it has connected again
        comm->ops->close(comm, older->link);
        *older = c->links[--c->link_count];
        here = link_of(c, link);
    }
    here->member = member;
    comm->ops->name(comm, link, member);
}

static void host_send(void *arg, uint32_t member, const struct wire_frame *frame, const void *payload, size_t bytes)
{
    struct sim_world *w = arg;
    struct sim_control_plane *c = &w->control;
    struct sim_control_link *link = link_of_member(c, member);
    if (!link && c->hello_link != COMM_UNKNOWN) { // the answer to a HELLO, before its caller knows the id
        name_link(c, c->hello_link, member);
        link = link_of_member(c, member);
    }
    if (!link || dying(w))
        return;
    char text[160];
    wire_frame_describe(frame, text, sizeof text);
    sim_note(w, c->process, "says to member %u: %s", member, text);
    struct bg_error err;
    if (comm_send(c->process->comm, link->link, frame, payload, bytes, &err))
        sim_fail(w, "the controller cannot send: %s", err.text);
}

static void host_drop(void *arg, uint32_t member)
{
    struct sim_world *w = arg;
    struct sim_control_link *link = link_of_member(&w->control, member);
    if (!link)
        return;
    struct comm *comm = w->control.process->comm;
    comm->ops->close(comm, link->link);
    *link = w->control.links[--w->control.link_count];
}

static bg_status host_append(void *arg, const struct store_record *record, struct bg_error *err)
{
    (void)err;
    struct sim_world *w = arg;
    struct sim_control_plane *c = &w->control;
    if (dying(w))
        return BG_OK;
    sim_check_record(w, record);
    if (w->o->control == SIM_FORGETS && record->kind == STORE_COMMIT && record->a == 1 && c->starts == 1)
        return BG_OK;
    if (c->log_count == c->log_capacity) {
        c->log_capacity = c->log_capacity ? 2 * c->log_capacity : 64;
        c->log = bg_realloc_array(c->log, c->log_capacity, sizeof *c->log);
    }
    c->log[c->log_count] = *record;
    if (record->text)
        c->log[c->log_count].text = bg_strdup(record->text);
    c->log_count++;
    sim_mix(w, 6, record->kind, record->a);
    return BG_OK;
}

static bg_status host_spawn(void *arg, uint64_t token, enum message_role role, struct bg_error *err)
{
    (void)err;
    struct sim_world *w = arg;
    if (dying(w))
        return BG_OK;
    uint64_t delay_ns = sim_random_time(&w->choices, PROCESS_NS);
    sim_note(w, w->control.process, "starts a %s", role == MESSAGE_SHADOW ? "shadow" : "worker");
    sim_birth(w, &(struct sim_birth){w->now_ns + delay_ns, token, role, w->control.process->pid});
    return BG_OK;
}

static void host_committed(void *arg, const struct message_commit *commit, uint32_t workers, uint32_t generation)
{
    struct sim_world *w = arg;
    if (!dying(w))
        sim_note(w, w->control.process, "COMMITTED step %llu, %u workers, generation %u",
                 (unsigned long long)commit->step, workers, generation);
}

static void host_event(void *arg, const char *event, const char *fields)
{
    struct sim_world *w = arg;
    if (!dying(w))
        sim_note(w, w->control.process, "event %s {%s}", event, fields);
}

static void host_point(void *arg, const char *name)
{
    struct sim_world *w = arg;
    env_point(&w->control.process->env.env, name);
}

// ---- Start ----

static void options_of(struct sim_world *w, struct ctl_options *o, double *costs, uint64_t *bytes, const char **names)
{
    const struct sim_scenario *s = &w->scenario;
    const struct model *model = w->job->model;
    uint32_t workers = 0;
    for (uint32_t i = 0; i < s->ranks; i++)
        workers += s->replicas[i];
    for (uint32_t u = 0; u < model->unit_count; u++) {
        costs[u] = model->units[u].kind == MODEL_UNIT_BLOCK ? 1 : 0.4;
        bytes[u] = model->buckets[1 + u].floats * 12 + (u == 0 ? model->buckets[0].floats * 12 : 0);
    }
    for (uint32_t p = 0; p < model->param_count; p++)
        names[p] = model->params[p].name;
    *o = (struct ctl_options){
        .steps = s->steps,
        .eval_every = s->eval_every,
        .checkpoint_every = s->checkpoint_every,
        .evaluates = s->eval_every > 0,
        .clip = w->job->optim.clip,
        .job = w->job->id,
        .micro_batches = w->job->micro_batches,
        .targets = (uint64_t)w->job->micro_batches * w->job->batch * w->job->length,
        .param_count = model->param_count,
        .param_names = names,
        .units = model->unit_count,
        .costs = costs,
        .state_bytes = bytes,
        .replicas = s->replicas,
        .stages = s->ranks,
        .schedule = s->schedule,
        .chunks = s->chunks,
        .slices = s->slices,
        .range = s->range,
        .group = s->group,
        .split = s->split,
        .saving = s->saving,
        .saving_count = s->ranks,
        .passes = s->passes,
        .workers = workers,
        .shadow = s->shadow,
        .respawn = s->respawn,
        .recovery_checkpoint = s->baseline,
        .join_ns = 100000000,
        .patience_ns = 400000000,
        .budget = sim_market_budget(w, s->fleet ? s->fleet : workers),
    };
    memcpy(o->signature, w->job->signature, sizeof o->signature);
}

static struct ctl_checkpoint newest_checkpoint(const struct sim_world *w)
{
    struct ctl_checkpoint newest = {0};
    for (uint64_t step = 1; step <= SIM_STEPS_MAX; step++) {
        const struct sim_checkpoint *file = w->disk[step];
        if (file)
            newest = (struct ctl_checkpoint){.step = step,
                                             .losses = file->losses,
                                             .evaluations = file->evaluations,
                                             .evaluation_count = file->evaluation_count,
                                             .directory = "step"};
    }
    return newest;
}

void sim_control_start(struct sim_world *w)
{
    struct sim_control_plane *c = &w->control;
    struct sim_process *p = sim_process_create(w, "controller");
    p->comm->self = COMM_CONTROLLER;
    c->process = p;
    c->link_count = c->ended_count = 0;
    c->hello_link = COMM_UNKNOWN;
    w->result->restarts += c->starts++ > 0;
    sim_note(w, p, "starts with %zu records", c->log_count);
    sim_mix(w, 7, p->pid, c->log_count);
    uint32_t units = w->job->model->unit_count, params = w->job->model->param_count;
    w->control.costs = bg_realloc_array(w->control.costs, units, sizeof(double));
    w->control.bytes = bg_realloc_array(w->control.bytes, units, sizeof(uint64_t));
    w->control.names = bg_realloc_array(w->control.names, params, sizeof(char *));
    struct ctl_options options;
    options_of(w, &options, c->costs, c->bytes, c->names);
    struct ctl_host host = {.arg = w,
                            .send = host_send,
                            .drop = host_drop,
                            .append = host_append,
                            .spawn = host_spawn,
                            .rent = sim_market_rent,
                            .give_back = sim_market_give_back,
                            .decided = sim_market_decided,
                            .reshaped = sim_market_reshaped,
                            .committed = host_committed,
                            .event = host_event,
                            .point = host_point};
    struct bg_error err = {0};
    struct ctl_checkpoint newest = newest_checkpoint(w);
    w->current = p;
    bg_status status = ctl_create(&options, &host, &err, &c->ctl);
    for (size_t i = 0; i < c->log_count && !status; i++)
        status = ctl_restore(c->ctl, &c->log[i], &err);
    if (!status)
        status = ctl_start(c->ctl, w->now_ns, &newest, &err);
    if (status && !p->dying)
        sim_fail(w, "the controller cannot start: %s", err.text);
    if (p->dying)
        sim_process_end(w, p, "killed");
    w->current = NULL;
}

// ---- Events ----

static void take_hello(struct sim_world *w, const struct comm_event *event)
{
    struct sim_control_plane *c = &w->control;
    struct message_hello hello;
    struct bg_error err;
    uint32_t member = 0;
    c->hello_link = event->link;
    if (event->frame.kind == WIRE_HELLO &&
        wire_check(event->payload, (size_t)event->frame.bytes) == event->frame.check &&
        !message_hello_decode(event->payload, (size_t)event->frame.bytes, &err, &hello))
        member = ctl_hello(c->ctl, w->now_ns, &hello);
    c->hello_link = COMM_UNKNOWN;
    struct sim_control_link *link = link_of(c, event->link);
    if (!link)
        return;
    if (member) {
        if (link->member != member)
            name_link(c, event->link, member);
        sim_note(w, c->process, "knows pid %llu as member %u", (unsigned long long)hello.process, member);
        return;
    }
    struct comm *comm = c->process->comm;
    comm->ops->close(comm, event->link);
    *link = c->links[--c->link_count];
}

static void take_down(struct sim_world *w, const struct comm_event *event)
{
    struct sim_control_plane *c = &w->control;
    struct sim_control_link *link = link_of(c, event->link);
    if (!link)
        return;
    uint32_t member = link->member;
    *link = c->links[--c->link_count];
    sim_note(w, c->process, "loses member %u: %s", member, event->why);
    if (member != COMM_UNKNOWN)
        ctl_lost(c->ctl, w->now_ns, member, event->why);
}

static void take_event(struct sim_world *w, struct comm_event *event)
{
    struct sim_control_plane *c = &w->control;
    struct sim_control_link *link = link_of(c, event->link);
    switch (event->kind) {
    case COMM_NOTHING:
        return;
    case COMM_UP:
        BG_ASSERT(c->link_count < SIM_PROCESSES_MAX);
        c->links[c->link_count++] = (struct sim_control_link){event->link, COMM_UNKNOWN};
        return;
    case COMM_DOWN:
        take_down(w, event);
        return;
    case COMM_FRAME:
        if (link && link->member == COMM_UNKNOWN) {
            take_hello(w, event);
        } else if (link) {
            char text[160];
            wire_frame_describe(&event->frame, text, sizeof text);
            sim_note(w, c->process, "hears %s", text);
            ctl_frame(c->ctl, w->now_ns, link->member, &event->frame, event->payload);
        }
        comm_release(c->process->comm, event);
        return;
    }
}

static void tell_ended(struct sim_world *w)
{
    struct sim_control_plane *c = &w->control;
    for (size_t i = 0; i < c->ended_count;) {
        if (c->ended[i].at_ns > w->now_ns) {
            i++;
            continue;
        }
        uint64_t token = c->ended[i].token;
        c->ended[i] = c->ended[--c->ended_count];
        ctl_spawn_ended(c->ctl, w->now_ns, token, "killed by signal 9");
        if (dying(w))
            return;
    }
}

void sim_control_turn(struct sim_world *w)
{
    struct sim_control_plane *c = &w->control;
    struct sim_process *p = c->process;
    struct bg_error err = {0};
    tell_ended(w);
    bool more = true;
    for (int i = 0; i < EVENTS_PER_TURN && more && !p->dying; i++) {
        struct comm_event event;
        more = !comm_next(p->comm, &err, &event) && event.kind != COMM_NOTHING;
        if (more)
            take_event(w, &event);
    }
    if (!p->dying && c->stop)
        ctl_stop(c->ctl, w->now_ns);
    c->stop = false;
    if (!p->dying)
        sim_market_tell(w);
    if (!p->dying)
        ctl_tick(c->ctl, w->now_ns);
    if (p->dying || w->failed)
        return;
    struct ctl_view view = ctl_view(c->ctl);
    sim_mix(w, 8, view.committed, view.generation);
    w->result->generations = view.generation;
    p->wake_ns = more ? w->now_ns : w->now_ns + TICK_NS;
    enum ctl_end end = ctl_ended(c->ctl, &err);
    if (end == CTL_RUNS)
        return;
    bool alone = end == CTL_FAILED && strstr(err.text, "no worker is left");
    if (end == CTL_STOPPED || alone) { // and the run is resumed by hand
        sim_note(w, p, "ends before its job: %s", alone ? err.text : "stopped");
        sim_check_stopped(w, end);
        c->restart_ns = w->now_ns + sim_random_time(&w->choices, PROCESS_NS);
        sim_process_end(w, p, "ends before its job");
        return;
    }
    if (end != CTL_FINISHED)
        sim_fail(w, "the controller ended (%d): %s", (int)end, err.text);
    sim_check_ended(w, &view);
    c->finished = true;
    w->finished_ns = w->now_ns;
    sim_process_end(w, p, "the job is done");
}

uint64_t sim_control_wake(const struct sim_world *w)
{
    uint64_t at = UINT64_MAX;
    for (size_t i = 0; i < w->control.ended_count; i++)
        at = w->control.ended[i].at_ns < at ? w->control.ended[i].at_ns : at;
    return w->scenario.rents && w->market.told < w->market.ticks ? w->now_ns : at;
}

void sim_control_child_ended(struct sim_world *w, uint32_t parent, uint64_t token)
{
    struct sim_control_plane *c = &w->control;
    if (!c->process || parent != c->process->pid || !token)
        return;
    BG_ASSERT(c->ended_count < SIM_PROCESSES_MAX);
    uint64_t delay_ns = sim_random_time(&w->choices, PROCESS_NS);
    c->ended[c->ended_count++] = (struct sim_ended){w->now_ns + delay_ns, token};
}

void sim_control_forget(struct sim_world *w, uint32_t records)
{
    struct sim_control_plane *c = &w->control;
    sim_note(w, NULL, "the log loses its last %u records", records);
    for (; records > 0 && c->log_count > 0; records--)
        bg_free((void *)(uintptr_t)c->log[--c->log_count].text);
    uint64_t committed = w->committed;
    w->committed = w->generation = 0;
    w->votes = (struct sim_votes){0};
    for (size_t i = 0; i < c->log_count; i++)
        sim_check_replay(w, &c->log[i]);
    w->redone += committed > w->committed ? committed - w->committed : 0;
}

void sim_control_end(struct sim_world *w)
{
    ctl_destroy(w->control.ctl);
    w->control.ctl = NULL;
    w->control.process = NULL;
}

void sim_control_fini(struct sim_world *w)
{
    struct sim_control_plane *c = &w->control;
    for (size_t i = 0; i < c->log_count; i++)
        bg_free((void *)(uintptr_t)c->log[i].text);
    bg_free(c->log);
    bg_free(c->costs);
    bg_free(c->bytes);
    bg_free(c->names);
}
