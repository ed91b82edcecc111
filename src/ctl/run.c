// The loop: what the endpoint, the processes and the signals say goes into the state machine; what it wants goes out.
#include "ctl/run.h"

#include "base/mem.h"

#include <stdio.h>
#include <string.h>

enum { EVENTS_PER_TURN = 256 };
static const uint64_t WAIT_NS = 20000000, LEAVE_NS = 2000000000;

struct link { // to a process that connected
    uint32_t link;
    uint32_t member; // COMM_UNKNOWN before its HELLO
    bool full;       // its queue is: it does not read
};

struct run {
    struct bg_env *env;
    const struct ctl_run_options *o;
    struct ctl *ctl;
    struct link *links;
    uint32_t link_count, link_capacity;
    struct awaited { // recorded members that may be gone
        uint64_t process, process_start;
        uint32_t id;
    } * awaited;
    uint32_t awaited_count, awaited_capacity;
    bool full; // some link is
};

// ---- Links ----
static struct link *find_link(struct run *run, uint32_t link)
{
    for (uint32_t i = 0; i < run->link_count; i++)
        if (run->links[i].link == link)
            return &run->links[i];
    return NULL;
}

static struct link *find_member(struct run *run, uint32_t member)
{
    for (uint32_t i = 0; i < run->link_count; i++)
        if (run->links[i].member == member)
            return &run->links[i];
    return NULL;
}

static void add_link(struct run *run, uint32_t link)
{
    if (run->link_count == run->link_capacity) {
        run->link_capacity = 2 * run->link_capacity + 16;
        run->links = bg_realloc_array(run->links, run->link_capacity, sizeof *run->links);
    }
    run->links[run->link_count++] = (struct link){.link = link, .member = COMM_UNKNOWN};
}

static void remove_link(struct run *run, struct link *link)
{
    *link = run->links[--run->link_count];
}

static void close_link(struct run *run, struct link *link)
{
    run->o->comm->ops->close(run->o->comm, link->link);
    remove_link(run, link);
}

// ---- The controller's effects ----
static void host_send(void *arg, uint32_t member, const struct wire_frame *frame, const void *payload, size_t bytes)
{
    struct run *run = arg;
    struct link *link = find_member(run, member);
    struct bg_error err;
    if (link && comm_send(run->o->comm, link->link, frame, payload, bytes, &err))
        link->full = run->full = true; // told to the machine later: not from inside it
}

static void host_drop(void *arg, uint32_t member)
{
    struct run *run = arg;
    struct link *link = find_member(run, member);
    if (link)
        close_link(run, link);
}

static bg_status host_append(void *arg, const struct store_record *record, struct bg_error *err)
{
    struct run *run = arg;
    return run->o->store->ops->append(run->o->store, record, err);
}

static double host_speed(void *arg, uint64_t token)
{
    const struct ctl_processes *p = ((struct run *)arg)->o->processes;
    return p->speed ? p->speed(p->arg, token) : 1;
}

static bg_status host_spawn(void *arg, uint64_t token, enum message_role role, struct bg_error *err)
{
    struct run *run = arg;
    return run->o->processes->spawn(run->o->processes->arg, token, role, err);
}

static bg_status host_rent(void *arg, uint64_t token, struct bg_error *err)
{
    const struct ctl_processes *p = ((struct run *)arg)->o->processes;
    return p->rent(p->arg, token, err);
}

static void host_give_back(void *arg, uint64_t token)
{
    const struct ctl_processes *p = ((struct run *)arg)->o->processes;
    p->give_back(p->arg, token);
}

static bg_status host_decided(void *arg, const struct plan_snapshot *now, struct plan_choice decided,
                              struct bg_error *err)
{
    const struct ctl_run_options *o = ((struct run *)arg)->o;
    return o->decided ? o->decided(o->arg, now, decided, err) : BG_OK;
}

static bg_status host_reshaped(void *arg, const struct plan_fleet_question *now, struct plan_fleet_shape decided,
                               struct bg_error *err)
{
    const struct ctl_run_options *o = ((struct run *)arg)->o;
    return o->reshaped ? o->reshaped(o->arg, now, decided, err) : BG_OK;
}

static void host_committed(void *arg, const struct message_commit *commit, uint32_t workers, uint32_t generation)
{
    struct run *run = arg;
    if (run->o->committed)
        run->o->committed(run->o->arg, commit, workers, generation);
}

static void host_event(void *arg, const char *event, const char *fields)
{
    struct run *run = arg;
    if (run->o->event)
        run->o->event(run->o->arg, event, fields);
}

static void host_point(void *arg, const char *name)
{
    struct run *run = arg;
    env_point(run->env, name);
}

// ---- What has happened ----
static void take_hello(struct run *run, struct link *link, const struct comm_event *event)
{
    struct bg_error err;
    struct message_hello hello;
    const struct wire_frame *frame = &event->frame;
    if (frame->kind != WIRE_HELLO || wire_check(event->payload, frame->bytes) != frame->check ||
        message_hello_decode(event->payload, frame->bytes, &err, &hello)) {
        close_link(run, link);
        return;
    }
    const uint32_t id = link->link; // the call may close another link and so move this one
    uint32_t member = ctl_hello(run->ctl, env_now_ns(run->env), &hello);
    link = find_link(run, id);
    if (member == 0) {
        close_link(run, link);
        return;
    }
    link->member = member;
    run->o->comm->ops->name(run->o->comm, id, member);
}

static void take_event(struct run *run, const struct comm_event *event)
{
    struct link *link = find_link(run, event->link);
    if (event->kind == COMM_UP && !link)
        add_link(run, event->link);
    if (!link)
        return;
    if (event->kind == COMM_DOWN) {
        const uint32_t member = link->member;
        remove_link(run, link);
        if (member != COMM_UNKNOWN)
            ctl_lost(run->ctl, env_now_ns(run->env), member, event->why);
    } else if (event->kind == COMM_FRAME && link->member == COMM_UNKNOWN) {
        take_hello(run, link, event);
    } else if (event->kind == COMM_FRAME) {
        ctl_frame(run->ctl, env_now_ns(run->env), link->member, &event->frame, event->payload);
    }
}

static bg_status take_events(struct run *run, struct bg_error *err)
{
    for (int i = 0; i < EVENTS_PER_TURN; i++) {
        struct comm_event event = {0};
        bg_status status = comm_next(run->o->comm, err, &event);
        if (status || event.kind == COMM_NOTHING)
            return status;
        take_event(run, &event);
        if (event.kind == COMM_FRAME)
            comm_release(run->o->comm, &event);
    }
    return BG_OK;
}

// A member that does not take what we send is as good as lost.
static void lose_full(struct run *run)
{
    while (run->full) {
        run->full = false;
        for (uint32_t i = 0; i < run->link_count; i++) {
            if (!run->links[i].full)
                continue;
            const uint32_t member = run->links[i].member;
            close_link(run, &run->links[i]);
            run->full = true; // look again: losing it sends to others
            ctl_lost(run->ctl, env_now_ns(run->env), member, "it does not take what is sent to it");
            break;
        }
    }
}

static void process_ended(void *to, uint64_t token, const char *why)
{
    struct run *run = to;
    ctl_spawn_ended(run->ctl, env_now_ns(run->env), token, why);
}

// ---- Members of an earlier controller ----
static bg_status restore(void *arg, const struct store_record *record, struct bg_error *err)
{
    struct run *run = arg;
    if (record->kind == STORE_MEMBER) {
        if (run->awaited_count == run->awaited_capacity) {
            run->awaited_capacity = 2 * run->awaited_capacity + 16;
            run->awaited = bg_realloc_array(run->awaited, run->awaited_capacity, sizeof *run->awaited);
        }
        run->awaited[run->awaited_count++] = (struct awaited){record->b, record->c, (uint32_t)record->a};
    }
    for (uint32_t i = 0; record->kind == STORE_LOST && i < run->awaited_count; i++)
        if (run->awaited[i].id == record->a) {
            run->awaited[i] = run->awaited[--run->awaited_count];
            break;
        }
    return ctl_restore(run->ctl, record, err);
}

static void bury(struct run *run)
{
    const struct ctl_processes *p = run->o->processes;
    for (uint32_t i = 0; i < run->awaited_count; i++) {
        const struct awaited *a = &run->awaited[i];
        if (!p->lives || !p->lives(p->arg, a->process, a->process_start))
            ctl_lost(run->ctl, env_now_ns(run->env), a->id, "its process ended while there was no controller");
    }
}

// ---- The loop ----
static bg_status start(struct run *run, struct bg_error *err)
{
    static const struct ctl_host host = {.send = host_send,
                                         .drop = host_drop,
                                         .append = host_append,
                                         .spawn = host_spawn,
                                         .speed = host_speed,
                                         .rent = host_rent,
                                         .give_back = host_give_back,
                                         .decided = host_decided,
                                         .reshaped = host_reshaped,
                                         .committed = host_committed,
                                         .event = host_event,
                                         .point = host_point};
    struct ctl_host mine = host;
    mine.arg = run;
    bg_status status = ctl_create(run->o->job, &mine, err, &run->ctl);
    if (!status)
        status = run->o->store->ops->replay(run->o->store, restore, run, err);
    if (!status) {
        bury(run);
        status = ctl_start(run->ctl, env_now_ns(run->env), run->o->newest, err);
    }
    return status;
}

static bg_status turn(struct run *run, struct bg_error *err)
{
    const struct ctl_processes *p = run->o->processes;
    bg_status status = take_events(run, err);
    if (status)
        return status;
    if (p->poll)
        p->poll(p->arg, process_ended, run);
    lose_full(run);
    uint32_t tick = 0;
    const uint32_t *spot = run->o->market ? run->o->market(run->o->arg, &tick) : NULL;
    if (spot)
        ctl_market(run->ctl, env_now_ns(run->env), tick, spot);
    if (run->env->ops->stop_signal(run->env))
        ctl_stop(run->ctl, env_now_ns(run->env));
    ctl_tick(run->ctl, env_now_ns(run->env));
    lose_full(run);
    return BG_OK;
}

// Until every member has heard LEAVE and closed its link.
static void take_leave(struct run *run)
{
    const uint64_t until = env_now_ns(run->env) + LEAVE_NS;
    struct bg_error err;
    while (run->link_count > 0 && env_now_ns(run->env) < until && !take_events(run, &err))
        run->o->comm->ops->wait(run->o->comm, WAIT_NS);
    while (run->link_count > 0)
        close_link(run, &run->links[0]);
}

static bg_status conclude(struct run *run, struct bg_error *err)
{
    enum ctl_end end = ctl_ended(run->ctl, err);
    struct ctl_view view = ctl_view(run->ctl);
    if (run->o->ended)
        run->o->ended(run->o->arg, end, &view);
    if (end == CTL_FINISHED)
        return BG_OK;
    if (end == CTL_FAILED)
        return err ? err->status : BG_INTERNAL;
    return bg_fail(err, BG_STOPPED, "stopped after step %llu of %llu; resume goes on from %s",
                   (unsigned long long)view.committed, (unsigned long long)run->o->job->steps,
                   view.checkpoint[0] ? view.checkpoint : "the beginning");
}

bg_status ctl_run(struct bg_env *env, const struct ctl_run_options *options, struct bg_error *err)
{
    struct run run = {.env = env, .o = options};
    options->comm->self = COMM_CONTROLLER;
    bg_status status = start(&run, err);
    while (!status && ctl_ended(run.ctl, NULL) == CTL_RUNS) {
        status = turn(&run, err);
        if (!status && ctl_ended(run.ctl, NULL) == CTL_RUNS)
            options->comm->ops->wait(options->comm, WAIT_NS);
    }
    if (run.ctl && !status) {
        take_leave(&run);
        status = conclude(&run, err);
    }
    ctl_destroy(run.ctl);
    bg_free(run.links);
    bg_free(run.awaited);
    return status;
}
