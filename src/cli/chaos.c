// The runner of chaos. It knows of the job what the run directory tells: events.jsonl names processes and recoveries,
// steps.jsonl counts steps. It looks every few milliseconds, acts, and gives up when nothing moves for too long.
#include "cli/chaos.h"

#include "base/hash.h"
#include "base/json.h"
#include "base/mem.h"
#include "os/ipc.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum {
    LOOK_MS = 2,
    STDERR = 2,
    SIGNAL_KILL = 9,
    SIGNAL_TERM = 15,
    SIGNAL_CONT = 18,
    SIGNAL_STOP = 19,
    RESTARTS_MAX = 10000
};

enum role { WORKER, SHADOW, CONTROLLER };
struct target { // a process of the job
    char name[32];
    enum role role;
    struct os_process process;
    bool joined;      // it is a member
    bool gone;        // told to end; it is taken away when it has
    uint64_t thaw_ms; // stopped until then, 0: it runs
    uint32_t node;    // of a trace, UINT32_MAX: none
};

struct reader { // of a growing file of lines
    char *path;
    size_t at;
};

struct chaos {
    struct bg_env *env;
    const struct chaos_options *o;
    struct chaos_report r;
    int poller;
    struct target *targets;
    size_t target_count;
    struct reader events, steps;
    uint64_t step_count, moved_ms; // steps done; when that last changed
    uint64_t start_ms, draws;
    uint64_t hit_ms; // first signal that no recovery followed yet, 0: none
    bool noticed;    // the job has noticed it
    bool restart;    // we ended the controller: it is started again

    // Random faults.
    uint64_t next_ms, wait_step;
    uint32_t in_a_row;
    size_t script_at; // script lines done are marked in `done`
    bool *done;

    // A trace.
    size_t trace_at;
    bool *present;  // (nodes) machines that are there
    uint32_t joins; // to name them
};

static uint64_t now_ms(const struct chaos *c)
{
    return (uint64_t)c->env->ops->wall_ms(c->env);
}

// A number below `below`, in the order of calls.
static uint64_t draw(struct chaos *c, uint64_t below)
{
    const uint64_t key[] = {c->o->seed, c->draws++};
    return below ? bg_xxh64(key, sizeof key) % below : 0;
}

// ---- What the run directory tells ----

typedef void (*fact_fn)(struct chaos *c, const json_t *line);

static void read_lines(struct chaos *c, struct reader *reader, fact_fn fn)
{
    struct bg_map map;
    struct bg_error ignored; // not there yet
    if (c->env->ops->map_open(c->env, reader->path, &ignored, &map))
        return;
    if (map.size < reader->at) // written anew, with the same lines at its beginning
        reader->at = 0;
    const char *text = (const char *)map.data;
    const char *end;
    while (reader->at < map.size && (end = memchr(text + reader->at, '\n', map.size - reader->at))) {
        json_t *line = NULL;
        size_t size = (size_t)(end - text) - reader->at;
        if (!bg_json_parse(reader->path, text + reader->at, size, &ignored, &line))
            fn(c, line);
        json_decref(line);
        reader->at += size + 1;
    }
    c->env->ops->map_close(c->env, &map);
}

static struct target *find_pid(struct chaos *c, int pid)
{
    for (size_t i = 0; i < c->target_count; i++)
        if (c->targets[i].process.pid == pid)
            return &c->targets[i];
    return NULL;
}

static struct target *add_target(struct chaos *c, const char *name, enum role role, const struct os_process *process)
{
    c->targets = bg_realloc_array(c->targets, c->target_count + 1, sizeof *c->targets);
    struct target *t = &c->targets[c->target_count++];
    *t = (struct target){.role = role, .process = *process, .node = UINT32_MAX};
    snprintf(t->name, sizeof t->name, "%s", name);
    return t;
}

static void take_spawned(struct chaos *c, const json_t *line)
{
    int pid = (int)json_integer_value(json_object_get(line, "process"));
    const char *name = json_string_value(json_object_get(line, "name"));
    uint64_t start = (uint64_t)json_integer_value(json_object_get(line, "process_start"));
    struct bg_error ignored; // it has ended already
    struct os_process process;
    if (!name || !pid || find_pid(c, pid) || os_process_open(pid, start, &ignored, &process))
        return;
    add_target(c, name, !strcmp(name, "shadow") ? SHADOW : WORKER, &process);
}

static void note_recovery(struct chaos *c, uint64_t at_ms)
{
    if (!c->hit_ms || at_ms < c->hit_ms)
        return;
    c->r.recovery_ms = bg_realloc_array(c->r.recovery_ms, c->r.recoveries + 1, sizeof *c->r.recovery_ms);
    c->r.recovery_ms[c->r.recoveries++] = (double)(at_ms - c->hit_ms);
    c->hit_ms = 0;
    c->noticed = false;
}

static void take_event(struct chaos *c, const json_t *line)
{
    const char *event = json_string_value(json_object_get(line, "event"));
    uint64_t at = (uint64_t)json_integer_value(json_object_get(line, "time_ms"));
    if (!event)
        return;
    if (!strcmp(event, "spawned"))
        take_spawned(c, line);
    else if (!strcmp(event, "recovered"))
        note_recovery(c, at);
    else if ((!strcmp(event, "lost") || !strcmp(event, "resumed")) && c->hit_ms && at >= c->hit_ms)
        c->noticed = true;
    struct target *t = find_pid(c, (int)json_integer_value(json_object_get(line, "process")));
    if (t && !strcmp(event, "joined"))
        t->joined = true;
}

// A step that counts after a loss: everybody that it needs is back. Most often "recovered" told so before.
static void take_step(struct chaos *c, const json_t *line)
{
    uint64_t steps = (uint64_t)json_integer_value(json_object_get(line, "step")) + 1;
    if (steps <= c->step_count)
        return;
    c->step_count = steps;
    c->moved_ms = now_ms(c);
    if (c->noticed)
        note_recovery(c, c->moved_ms);
}

// ---- Processes ----

static void forget(struct chaos *c, size_t i)
{
    os_process_close(&c->targets[i].process);
    c->targets[i] = c->targets[--c->target_count];
}

static void send_signal(struct target *t, int number)
{
    struct bg_error err;
    t->gone |= os_process_kill(&t->process, number, &err) != BG_OK; // it has ended by itself
}

static void hit(struct chaos *c, struct target *t, enum chaos_action action, uint32_t ms)
{
    static const int numbers[] = {SIGNAL_KILL, SIGNAL_STOP, SIGNAL_TERM};
    uint64_t now = now_ms(c);
    c->r.injected[action]++;
    c->r.on_workers += t->role == WORKER;
    c->r.on_shadow += t->role == SHADOW;
    c->r.on_controller += t->role == CONTROLLER;
    if (action == CHAOS_STOP)
        t->thaw_ms = now + (ms ? ms : 2 * (uint64_t)c->o->job->run.heartbeat_ms);
    t->gone = action != CHAOS_STOP;
    c->restart |= t->gone && t->role == CONTROLLER;
    if (!c->hit_ms && t->gone && (t->joined || t->role == CONTROLLER))
        c->hit_ms = now;
    send_signal(t, numbers[action]);
}

static bg_status start_train(struct chaos *c, bool resume, struct bg_error *err)
{
    struct bg_strlist arguments = {0};
    bg_strlist_add(&arguments, c->o->executable);
    bg_strlist_add(&arguments, "train");
    for (size_t i = 0; i < c->o->words->count && !resume; i++)
        bg_strlist_add(&arguments, c->o->words->items[i]);
    if (resume) {
        bg_strlist_add(&arguments, "--resume");
        bg_strlist_add(&arguments, c->o->job->run.dir);
    }
    bg_strlist_add(&arguments, "--quiet");
    const char **argv = bg_alloc_array(arguments.count + 1, sizeof *argv);
    for (size_t i = 0; i <= arguments.count; i++)
        argv[i] = i < arguments.count ? arguments.items[i] : NULL;
    const struct chaos_script *script = c->o->script;
    bool points = script && script->points.size && !resume;
    char *point = points ? bg_format("BRIGADE_FAULT=%s", bg_str_text(&script->points)) : bg_strdup("BRIGADE_FAULT");
    char *frame = c->o->frames ? bg_format("BRIGADE_TAMPER=%s", c->o->frames) : bg_strdup("BRIGADE_TAMPER");
    const char *const environment[] = {point, frame, NULL};
    struct os_spawn_options options = {.argv = argv, .environment = environment, .output = STDERR};
    struct os_process process;
    bg_status status = os_spawn(&options, err, &process);
    if (!status)
        add_target(c, "controller", CONTROLLER, &process);
    bg_free(point);
    bg_free(frame);
    bg_free(argv);
    bg_strlist_fini(&arguments);
    return status;
}

static bg_status start_joiner(struct chaos *c, uint32_t node, struct bg_error *err)
{
    char *name = bg_format("join%u", c->joins++);
    const char *const argv[] = {c->o->executable, "join", c->o->job->run.dir, "--name", name, NULL};
    struct os_spawn_options options = {.argv = argv, .output = STDERR};
    struct os_process process;
    bg_status status = os_spawn(&options, err, &process);
    if (!status) {
        struct target *t = add_target(c, name, WORKER, &process);
        t->node = node;
        c->r.trace_joins++;
    }
    bg_free(name);
    return status;
}

static struct target *controller_of(struct chaos *c)
{
    for (size_t i = 0; i < c->target_count; i++)
        if (c->targets[i].role == CONTROLLER)
            return &c->targets[i];
    return NULL;
}

// Takes away what has ended, thaws what has been frozen long enough.
static void look_at_processes(struct chaos *c)
{
    uint64_t now = now_ms(c);
    for (size_t i = c->target_count; i > 0; i--) {
        struct target *t = &c->targets[i - 1];
        if (t->thaw_ms && now >= t->thaw_ms) {
            send_signal(t, SIGNAL_CONT);
            t->thaw_ms = 0;
        }
        if (t->role != CONTROLLER && os_process_ended(&t->process))
            forget(c, i - 1);
    }
}

// ---- Random faults and scripts ----

static bool may_be_hit(const struct chaos *c, const struct target *t)
{
    return !t->thaw_ms && !t->gone && (t->role != CONTROLLER || c->o->controller);
}

// Workers and the shadow are alike; the controller is hit once in eight times if it may be.
static struct target *pick(struct chaos *c)
{
    struct target *controller = controller_of(c);
    if (controller && may_be_hit(c, controller) && draw(c, 8) == 0)
        return controller;
    size_t count = 0;
    for (size_t i = 0; i < c->target_count; i++)
        count += c->targets[i].role != CONTROLLER && may_be_hit(c, &c->targets[i]);
    uint64_t chosen = draw(c, count);
    for (size_t i = 0; i < c->target_count; i++) {
        struct target *t = &c->targets[i];
        if (t->role != CONTROLLER && may_be_hit(c, t) && chosen-- == 0)
            return t;
    }
    return NULL;
}

static enum chaos_action pick_action(struct chaos *c)
{
    enum chaos_action allowed[CHAOS_ACTIONS];
    size_t count = 0;
    for (size_t i = 0; i < CHAOS_ACTIONS; i++)
        if (c->o->actions[i])
            allowed[count++] = (enum chaos_action)i;
    return allowed[draw(c, count)];
}

static uint64_t injected(const struct chaos *c)
{
    return c->r.injected[CHAOS_KILL] + c->r.injected[CHAOS_STOP] + c->r.injected[CHAOS_TERM];
}

// One to three at once; then a step has to come before the next, but for one time in four: that one falls into the
// recovery.
static void random_faults(struct chaos *c)
{
    uint64_t now = now_ms(c);
    if (injected(c) >= c->o->faults || c->step_count < c->wait_step || now < c->next_ms || c->step_count == 0)
        return;
    uint64_t dice = draw(c, 20);
    uint32_t count = dice == 0 ? 3 : dice <= 3 ? 2 : 1;
    for (uint32_t i = 0; i < count && injected(c) < c->o->faults; i++) {
        struct target *t = pick(c);
        if (t)
            hit(c, t, pick_action(c), 0);
    }
    bool soon = draw(c, 4) == 0 && c->in_a_row < 2;
    c->in_a_row = soon ? c->in_a_row + 1 : 0;
    c->wait_step = soon ? c->step_count : c->step_count + 1;
    c->next_ms = now + draw(c, soon ? 100 : 2 * (uint64_t)c->o->every_ms + 1);
}

static bool is_meant(const struct target *t, const char *target)
{
    if (t->gone)
        return false;
    if (!strcmp(target, "all") || !strcmp(target, t->name))
        return true;
    return !strcmp(target, "worker") && t->role == WORKER;
}

static void script_faults(struct chaos *c)
{
    uint64_t passed = now_ms(c) - c->start_ms;
    for (size_t f = 0; f < c->o->script->count; f++) {
        const struct chaos_fault *fault = &c->o->script->faults[f];
        if (c->done[f] || (fault->by_step ? c->step_count : passed) < fault->at)
            continue;
        c->done[f] = true;
        bool one = !strcmp(fault->target, "worker");
        size_t skip = one && c->target_count ? draw(c, c->target_count) : 0;
        for (size_t i = 0; i < c->target_count; i++) {
            struct target *t = &c->targets[(i + skip) % c->target_count];
            if (!is_meant(t, fault->target))
                continue;
            hit(c, t, fault->action, fault->ms);
            if (one)
                break;
        }
    }
}

// ---- Traces ----

static size_t live_workers(const struct chaos *c)
{
    size_t count = 0;
    for (size_t i = 0; i < c->target_count; i++)
        count += c->targets[i].role == WORKER && !c->targets[i].gone;
    return count;
}

// Workers that are members of the job.
static size_t members(const struct chaos *c)
{
    size_t count = 0;
    for (size_t i = 0; i < c->target_count; i++)
        count += c->targets[i].role == WORKER && !c->targets[i].gone && c->targets[i].joined;
    return count;
}

static bool has_worker(const struct chaos *c, uint32_t node)
{
    for (size_t i = 0; i < c->target_count; i++)
        if (c->targets[i].role == WORKER && !c->targets[i].gone && c->targets[i].node == node)
            return true;
    return false;
}

// Workers that train started stand for the first machines.
static void name_workers(struct chaos *c)
{
    uint32_t node = 0;
    for (size_t i = 0; i < c->target_count; i++) {
        struct target *t = &c->targets[i];
        if (t->role != WORKER || t->gone || t->node != UINT32_MAX)
            continue;
        while (node < c->o->trace->nodes.count && (!c->present[node] || has_worker(c, node)))
            node++;
        if (node < c->o->trace->nodes.count)
            t->node = node;
    }
}

// Every removal is the end of one worker: that of its machine, or, where that one waits for its turn, a drawn one,
// whose machine then waits in its place.
static void remove_node(struct chaos *c, uint32_t node)
{
    size_t count = members(c);
    uint64_t chosen = draw(c, count);
    struct target *victim = NULL;
    for (size_t i = 0; i < c->target_count; i++) {
        struct target *t = &c->targets[i];
        if (t->role != WORKER || t->gone || !t->joined)
            continue;
        if (t->node == node) {
            victim = t;
            break;
        }
        if (chosen-- == 0)
            victim = t;
    }
    c->present[node] = false;
    c->r.trace_kills++;
    hit(c, victim, CHAOS_KILL, 0);
}

static bg_status play_trace(struct chaos *c, struct bg_error *err)
{
    const struct chaos_trace *trace = c->o->trace;
    double passed = (double)(now_ms(c) - c->start_ms) * c->o->time_scale;
    if (c->step_count == 0) { // the job is not there yet: time begins with its first step
        c->start_ms = now_ms(c);
        passed = 0;
    }
    while (c->trace_at < trace->count && (double)trace->events[c->trace_at].ms <= passed) {
        const struct chaos_event *event = &trace->events[c->trace_at];
        if (!event->add && !members(c))
            break; // nobody has joined since the last one: a little later
        c->trace_at++;
        c->r.trace_events++;
        if (event->add)
            c->present[event->node] = true;
        else
            remove_node(c, event->node);
    }
    if (c->step_count == 0)
        return BG_OK;
    name_workers(c);
    bg_status status = BG_OK;
    for (uint32_t n = 0; n < trace->nodes.count && !status && live_workers(c) < c->o->machines; n++)
        if (c->present[n] && !has_worker(c, n))
            status = start_joiner(c, n, err);
    return status;
}

// ---- The run ----

static void fail(struct chaos *c, const char *why)
{
    if (!c->r.why[0])
        snprintf(c->r.why, sizeof c->r.why, "%s", why);
}

static bool hangs(struct chaos *c)
{
    uint64_t now = now_ms(c);
    if (now - c->moved_ms < 1000 * (uint64_t)c->o->patience_s)
        return false;
    char why[200];
    snprintf(why, sizeof why, "no step for %u s after step %llu: see the end of %s/events.jsonl", c->o->patience_s,
             (unsigned long long)c->step_count, c->o->job->run.dir);
    fail(c, why);
    return true;
}

// The controller has ended: by itself, or by us, and then it is started again. False: that was all.
static bool goes_on(struct chaos *c, struct target *controller, struct bg_error *err, bg_status *status)
{
    char ending[48];
    snprintf(ending, sizeof ending, "%s", controller->process.ending);
    forget(c, (size_t)(controller - c->targets));
    if (!strcmp(ending, "exited with status 0")) {
        c->r.survived = true;
        return false;
    }
    bool at_point = c->o->script && c->o->script->points.size && !c->r.restarts; // it may have ended itself
    bool ours = c->restart || at_point;
    if (!ours || c->r.restarts >= RESTARTS_MAX) {
        char why[128];
        snprintf(why, sizeof why, "brigade train %s", ending);
        fail(c, why);
        return false;
    }
    c->restart = false;
    c->r.restarts++;
    *status = start_train(c, true, err);
    return *status == BG_OK;
}

static bg_status run_job(struct chaos *c, struct bg_error *err)
{
    bg_status status = start_train(c, false, err);
    c->start_ms = c->moved_ms = now_ms(c);
    while (!status) {
        uint64_t tags[OS_READY_MAX];
        (void)os_poller_wait(c->poller, LOOK_MS * 1000000, tags);
        if (c->env->ops->stop_signal(c->env)) // end_all() ends the job's processes
            return bg_fail(err, BG_STOPPED, "stopped by a signal after step %llu", (unsigned long long)c->step_count);
        look_at_processes(c);
        read_lines(c, &c->events, take_event);
        read_lines(c, &c->steps, take_step);
        struct target *controller = controller_of(c);
        if (os_process_ended(&controller->process)) {
            if (!goes_on(c, controller, err, &status))
                return status;
            continue;
        }
        if (hangs(c))
            return BG_OK;
        if (c->o->trace)
            status = play_trace(c, err);
        else if (c->o->script)
            script_faults(c);
        else
            random_faults(c);
    }
    return status;
}

// Nothing that we know of stays. Workers that lost their controller for good would end by themselves after a minute.
static void end_all(struct chaos *c)
{
    for (size_t i = 0; i < c->target_count; i++) // those that came when the job was over
        if (c->targets[i].node != UINT32_MAX && !c->targets[i].joined)
            send_signal(&c->targets[i], SIGNAL_KILL);
    uint64_t until = now_ms(c) + (c->r.survived ? 5000 : 0), tags[OS_READY_MAX];
    for (look_at_processes(c); c->target_count && now_ms(c) < until; look_at_processes(c))
        (void)os_poller_wait(c->poller, LOOK_MS * 1000000, tags);
    if (c->r.survived && c->target_count)
        fail(c, "processes were left after the job's end");
    while (c->target_count) {
        send_signal(&c->targets[c->target_count - 1], SIGNAL_KILL);
        forget(c, c->target_count - 1);
    }
}

bg_status chaos_wait(struct bg_env *env, struct os_process *process, struct bg_error *err)
{
    int poller = -1;
    bg_status status = os_poller_create(err, &poller);
    if (status)
        return status;
    uint64_t tags[OS_READY_MAX];
    bool stopped = false;
    while (!os_process_ended(process)) {
        if (!stopped && env->ops->stop_signal(env)) {
            stopped = true;
            status = os_process_kill(process, SIGNAL_TERM, err);
        }
        (void)os_poller_wait(poller, 20 * 1000000, tags);
    }
    os_fd_close(poller);
    if (!status && stopped)
        status = bg_fail(err, BG_STOPPED, "stopped by a signal");
    return status;
}

bg_status chaos_run(struct bg_env *env, const struct chaos_options *o, struct bg_error *err,
                    struct chaos_report *report)
{
    struct chaos c = {.env = env, .o = o, .poller = -1};
    bg_status status = os_poller_create(err, &c.poller);
    if (status)
        return status;
    c.events.path = bg_format("%s/events.jsonl", o->job->run.dir);
    c.steps.path = bg_format("%s/steps.jsonl", o->job->run.dir);
    c.done = bg_alloc_array(o->script ? o->script->count + 1 : 1, sizeof *c.done);
    c.present = bg_alloc_array(o->trace ? o->trace->nodes.count + 1 : 1, sizeof *c.present);
    uint64_t start = env_now_ns(env);
    status = run_job(&c, err);
    c.r.seconds = 1e-9 * (double)(env_now_ns(env) - start);
    end_all(&c);
    c.r.finished = c.r.survived;
    c.r.survived = c.r.survived && !c.r.why[0];
    os_fd_close(c.poller);
    bg_free(c.events.path);
    bg_free(c.steps.path);
    bg_free(c.done);
    bg_free(c.present);
    bg_free(c.targets);
    if (status)
        bg_free(c.r.recovery_ms);
    else
        *report = c.r;
    return status;
}
