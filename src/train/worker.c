// A worker's life: it finds its controller, keeps links to the members of its generation, and takes turns: everything
// that has arrived first, then one op. Nothing here blocks. Without a controller it keeps what it has and tries again.
#include "train/worker_int.h"

#include "base/mem.h"

#include <stdarg.h>
#include <stdio.h>
#include <string.h>

#define RETRY_NS        20000000u
#define EVENTS_PER_TURN 256
#define PATIENCE_NS     5000000000u
#define ORPHAN_NS       60000000000u
#define WAIT_NS         20000000u

// ---- Sending ----

struct wire_frame worker_head(const struct worker *w, enum wire_kind kind)
{
    return (struct wire_frame){
        .kind = (uint16_t)kind, .generation = w->generation, .job = w->job_id, .step = w->version};
}

bg_status worker_tell(struct worker *w, const struct wire_frame *frame, const void *payload, size_t bytes,
                      struct bg_error *err)
{
    return w->controller == WORKER_NO_LINK ? BG_OK : comm_send(w->comm, w->controller, frame, payload, bytes, err);
}

bg_status worker_tell_trouble(struct worker *w, enum message_trouble_kind kind, uint32_t peer, bg_status trouble,
                              struct bg_error *err, const char *format, ...)
{
    struct message_trouble m = {.kind = kind, .peer = peer, .status = trouble};
    va_list args;
    va_start(args, format);
    vsnprintf(m.text, sizeof m.text, format, args);
    va_end(args);
    uint8_t payload[MESSAGE_SMALL];
    size_t bytes = message_trouble_encode(&m, payload, sizeof payload);
    struct wire_frame frame = worker_head(w, WIRE_TROUBLE);
    return worker_tell(w, &frame, payload, bytes, err);
}

// Names of the points around a send and a receive of a value, for faults.
static const char *const before_send[WIRE_KIND_COUNT] = {[WIRE_ACTIVATION] = "before-send-activation",
                                                         [WIRE_GRADIENT] = "before-send-gradient",
                                                         [WIRE_PART] = "before-send-part",
                                                         [WIRE_ROOT] = "before-send-root",
                                                         [WIRE_STATE] = "before-send-state"};
static const char *const after_send[WIRE_KIND_COUNT] = {[WIRE_ACTIVATION] = "after-send-activation",
                                                        [WIRE_GRADIENT] = "after-send-gradient",
                                                        [WIRE_PART] = "after-send-part",
                                                        [WIRE_ROOT] = "after-send-root",
                                                        [WIRE_STATE] = "after-send-state"};

bg_status worker_post(struct worker *w, uint32_t peer, const struct wire_frame *frame, const void *payload,
                      size_t bytes, struct bg_error *err)
{
    struct worker_link *link = peer < w->peer_count ? worker_link_of(w, w->peers[peer].member) : NULL;
    if (!link) // lost: the controller will say how it goes on
        return BG_OK;
    env_point(w->env, before_send[frame->kind]);
    bg_status status = comm_send(w->comm, link->link, frame, payload, bytes, err);
    env_point(w->env, after_send[frame->kind]);
    return status;
}

static bg_status say_hello(struct worker *w, uint32_t link, struct bg_error *err)
{
    struct message_hello m = {
        .version = MESSAGE_VERSION,
        .member = w->welcomed ? w->member : 0,
        .token = w->o.token,
        .process = w->o.process,
        .process_start = w->o.process_start,
        .role = w->o.role,
    };
    memcpy(m.signature, w->job->signature, sizeof m.signature);
    snprintf(m.address, sizeof m.address, "%s", w->comm->ops->address(w->comm));
    uint8_t payload[MESSAGE_SMALL];
    size_t bytes = message_hello_encode(&m, payload, sizeof payload);
    struct wire_frame frame = {.kind = WIRE_HELLO, .job = w->job_id};
    return comm_send(w->comm, link, &frame, payload, bytes, err);
}

// ---- Links between workers ----

struct worker_link *worker_link_of(struct worker *w, uint32_t member)
{
    for (size_t i = 0; i < w->link_count; i++)
        if (w->links[i].member == member)
            return &w->links[i];
    return NULL;
}

static struct worker_link *add_link(struct worker *w, uint32_t link, uint32_t member)
{
    if (w->link_count == w->link_capacity) {
        w->link_capacity = w->link_capacity ? 2 * w->link_capacity : 8;
        w->links = bg_realloc_array(w->links, w->link_capacity, sizeof *w->links);
    }
    w->links[w->link_count] = (struct worker_link){.link = link, .member = member};
    return &w->links[w->link_count++];
}

static bool in_generation(const struct worker *w, uint32_t member)
{
    for (uint32_t p = 0; p < w->peer_count; p++)
        if (w->peers[p].member == member)
            return true;
    return false;
}

void worker_close_links(struct worker *w, bool all)
{
    uint32_t newest = 0;
    for (uint32_t p = 0; p < w->peer_count; p++)
        newest = w->peers[p].member > newest ? w->peers[p].member : newest;
    for (size_t i = w->link_count; i > 0; i--) {
        struct worker_link *link = &w->links[i - 1];
        // A newcomer may be known to others before it is to us: members above all of ours stay.
        bool old = link->member != COMM_UNKNOWN && !in_generation(w, link->member) && link->member < newest;
        if (!all && !old)
            continue;
        w->comm->ops->close(w->comm, link->link);
        *link = w->links[--w->link_count];
    }
}

bg_status worker_links_ready(struct worker *w, struct bg_error *err)
{
    bool ready = true;
    for (uint32_t p = 0; p < w->peer_count; p++) {
        struct worker_peer *peer = &w->peers[p];
        if (p == w->self)
            continue;
        struct worker_link *link = worker_link_of(w, peer->member);
        if (link && link->up)
            continue;
        ready = false;
        uint32_t id = 0;
        struct bg_error later; // it may have died just now: the controller will tell, or we say whom we wait for
        if (!link && w->member < peer->member &&
            !w->comm->ops->connect(w->comm, peer->member, peer->address, &later, &id))
            add_link(w, id, peer->member);
    }
    if (!ready)
        return BG_OK;
    w->linked = true;
    bg_status status = w->resend ? worker_resend_roots(w, err) : BG_OK;
    w->resend = false;
    return status ? status : worker_take_early(w, err);
}

static bg_status link_up(struct worker *w, const struct comm_event *event, struct bg_error *err)
{
    for (size_t i = 0; i < w->link_count; i++) {
        if (w->links[i].link != event->link)
            continue;
        w->links[i].up = true; // ours: say who we are
        return say_hello(w, event->link, err);
    }
    add_link(w, event->link, COMM_UNKNOWN)->up = true;
    return BG_OK;
}

static void link_named(struct worker *w, const struct comm_event *event)
{
    struct message_hello m;
    struct bg_error ignored;
    for (size_t i = 0; i < w->link_count; i++) {
        struct worker_link *link = &w->links[i];
        if (link->link != event->link || link->member != COMM_UNKNOWN)
            continue;
        if (message_hello_decode(event->payload, (size_t)event->frame.bytes, &ignored, &m) || m.member == 0 ||
            event->frame.job != w->job_id) {
            w->comm->ops->close(w->comm, link->link);
            *link = w->links[--w->link_count];
            return;
        }
        struct worker_link *older = worker_link_of(w, m.member);
        link->member = m.member;
        w->comm->ops->name(w->comm, link->link, m.member);
        if (older && older != link) { // it has connected again
            w->comm->ops->close(w->comm, older->link);
            *older = w->links[--w->link_count];
        }
        return;
    }
}

static bg_status link_down(struct worker *w, const struct comm_event *event, struct bg_error *err)
{
    for (size_t i = 0; i < w->link_count; i++) {
        if (w->links[i].link != event->link)
            continue;
        uint32_t member = w->links[i].member;
        bool was_up = w->links[i].up;
        w->links[i] = w->links[--w->link_count];
        if (!was_up || !w->running || !in_generation(w, member))
            return BG_OK;
        return worker_tell_trouble(w, MESSAGE_PEER_LOST, member, BG_IO, err, "lost member %u: %s", member, event->why);
    }
    return BG_OK;
}

// ---- The controller ----

static void seek_controller(struct worker *w, uint64_t now)
{
    if (w->controller != WORKER_NO_LINK || now < w->next_try_ns)
        return;
    struct bg_error ignored;
    uint32_t link = 0;
    w->next_try_ns = now + RETRY_NS;
    if (!w->comm->ops->connect(w->comm, COMM_CONTROLLER, w->o.controller, &ignored, &link))
        w->controller = link;
}

static bg_status welcome(struct worker *w, const struct comm_event *event, struct bg_error *err)
{
    struct message_welcome m;
    bg_status status = message_welcome_decode(event->payload, (size_t)event->frame.bytes, err, &m);
    if (status)
        return status;
    if (w->welcomed && m.member != w->member)
        worker_fence(w);
    w->welcomed = true;
    w->member = w->comm->self = m.member;
    return BG_OK;
}

static bool holds_all(const struct worker *w)
{
    for (uint32_t u = 0; u < w->job->model->unit_count; u++)
        if (!w->have[u])
            return false;
    return true;
}

static bg_status tell_task_done(struct worker *w, struct message_task_done *done, struct bg_error *err)
{
    env_point(w->env, "after-task");
    done->id = w->task_id;
    w->task_done = *done;
    w->task_runs = false;
    uint8_t payload[MESSAGE_SMALL];
    size_t bytes = message_task_done_encode(done, payload, sizeof payload);
    struct wire_frame frame = worker_head(w, WIRE_TASK_DONE);
    return worker_tell(w, &frame, payload, bytes, err);
}

// The task that waits, if it is about the weights that we have.
static bg_status begin_task(struct worker *w, struct bg_error *err)
{
    struct comm_event event = w->task;
    struct message_task task;
    bg_status status = message_task_decode(event.payload, (size_t)event.frame.bytes, err, &task);
    if (status)
        return status;
    bool now = task.loss_count == w->version && holds_all(w);
    if (!now && task.loss_count >= w->version) { // state is on its way
        message_fini(task.memory);
        return BG_OK;
    }
    w->has_task = false;
    comm_release(w->comm, &event);
    struct message_task_done done = {0};
    if (w->task_id == task.id) { // at work on it, or it is done: then once more
        status = w->task_runs ? BG_OK : tell_task_done(w, &w->task_done, err);
    } else if (!now) {
        w->task_id = task.id;
        done.status = BG_NOT_FOUND;
        status = tell_task_done(w, &done, err);
    } else {
        struct bg_error why = {0};
        struct optim_state state = executor_state(w->ex);
        w->task_id = task.id;
        w->task_runs = true;
        env_point(w->env, "before-task");
        done.status = w->job->task(w->job->arg, &task, w->version, &state, w->ex, &why, &done);
        if (done.status)
            snprintf(done.text, sizeof done.text, "%.*s", (int)sizeof done.text - 1, why.text);
        if (done.status || !w->job->task_poll)
            status = tell_task_done(w, &done, err);
    }
    message_fini(task.memory);
    return status;
}

static bg_status work_on_task(struct worker *w, struct bg_error *err)
{
    struct message_task_done done = {0};
    bg_status status = w->has_task ? begin_task(w, err) : BG_OK;
    if (!status && w->task_runs && w->job->task_poll(w->job->arg, &done))
        status = tell_task_done(w, &done, err);
    return status;
}

// A queue or a pool may still grow to a peak that the first steps did not reach; what grows with the steps does not
// pass.
static bg_status check_allocations(struct worker *w, struct bg_error *err)
{
    uint64_t count = bg_mem_count() - w->allocations;
    w->allocations += count;
    w->calm_steps = w->has_task || w->task_runs ? 0 : w->calm_steps + 1;
    w->calm_allocations = w->calm_steps > 3 ? w->calm_allocations + count : 0;
    return w->calm_allocations > 16
               ? bg_fail(err, BG_INTERNAL, "step %llu: %llu allocations in %u steady steps",
                         (unsigned long long)w->version - 1, (unsigned long long)w->calm_allocations, w->calm_steps - 3)
               : BG_OK;
}

static bg_status take_commit(struct worker *w, const struct comm_event *event, struct bg_error *err)
{
    struct message_commit m;
    if (!w->running || event->frame.generation != w->generation)
        return BG_OK;
    bg_status status = message_commit_decode(event->payload, (size_t)event->frame.bytes, err, &m);
    w->committed = m.step + 1;
    if (!status && w->has_task && w->linked) // it is about the weights before this commit
        status = work_on_task(w, err);
    if (!status && m.step == w->version && w->voted)
        status = worker_commit(w, &m, err);
    if (!status && w->o.count_allocations)
        status = check_allocations(w, err);
    return status ? status : w->linked ? worker_take_early(w, err) : BG_OK;
}

static bg_status from_controller(struct worker *w, struct comm_event *event, struct bg_error *err)
{
    bg_status status = BG_OK;
    switch (event->frame.kind) {
    case WIRE_WELCOME:
        status = welcome(w, event, err);
        break;
    case WIRE_PREPARE: // once everything that has arrived was taken in: the dead may have sent a lot before
        if (w->welcomed && event->frame.generation > w->prepare)
            w->prepare = event->frame.generation;
        w->sent = event->frame.a;
        break;
    case WIRE_GENERATION:
        status = worker_take_generation(w, event, err);
        break;
    case WIRE_COMMIT:
        status = take_commit(w, event, err);
        break;
    case WIRE_TASK:
        if (!w->running || event->frame.generation != w->generation)
            break;
        if (w->has_task)
            comm_release(w->comm, &w->task);
        w->task = *event;
        w->has_task = true;
        return BG_OK; // released when it is done
    case WIRE_LEAVE:
        w->left = true;
        break;
    default:
        break;
    }
    comm_release(w->comm, event);
    return status;
}

// ---- Turns ----

static void controller_lost(struct worker *w)
{
    w->controller = WORKER_NO_LINK;
    if (!w->orphan_since_ns)
        w->orphan_since_ns = env_now_ns(w->env);
}

// A control frame that was damaged on the way: the link is no good, and what is made anew says everything again.
static void drop_damaged(struct worker *w, struct comm_event *event, bool controller)
{
    uint32_t id = event->link;
    w->frames_refused++;
    w->comm->counts.frames_refused++;
    comm_release(w->comm, event);
    w->comm->ops->close(w->comm, id);
    if (controller)
        controller_lost(w);
    for (size_t i = 0; i < w->link_count; i++)
        if (w->links[i].link == id)
            w->links[i--] = w->links[--w->link_count];
}

static bg_status take_event(struct worker *w, struct comm_event *event, struct bg_error *err)
{
    bool controller = w->controller != WORKER_NO_LINK && event->link == w->controller;
    switch (event->kind) {
    case COMM_NOTHING:
        return BG_OK;
    case COMM_UP:
        w->orphan_since_ns = controller ? 0 : w->orphan_since_ns;
        return controller ? say_hello(w, event->link, err) : link_up(w, event, err);
    case COMM_DOWN:
        if (!controller)
            return link_down(w, event, err);
        controller_lost(w);
        return BG_OK;
    case COMM_FRAME:
        env_point(w->env, "before-receive");
        if (!controller && event->frame.kind != WIRE_HELLO)
            return worker_take_value(w, event, err);
        if (wire_check(event->payload, (size_t)event->frame.bytes) != event->frame.check) {
            drop_damaged(w, event, controller);
            return BG_OK;
        }
        if (controller)
            return from_controller(w, event, err);
        link_named(w, event);
        comm_release(w->comm, event);
        return BG_OK;
    }
    return BG_OK;
}

// A wait that lasts says on what, and the controller begins a new generation, in which everything is sent again.
static bg_status lose_patience(struct worker *w, uint64_t now, struct bg_error *err)
{
    if (!w->waits) {
        w->waits = true;
        w->waits_since_ns = now;
    }
    if (w->voted || now - w->waits_since_ns < w->patience_ns)
        return BG_OK;
    char text[400];
    worker_describe(w, text, sizeof text);
    w->waits_since_ns = now;
    w->patience_ns *= 2; // a slow machine is no fault
    return worker_tell_trouble(w, MESSAGE_WAITS, 0, BG_OK, err, "%s", text);
}

static bg_status advance(struct worker *w, uint64_t now, struct bg_error *err, bool *ran)
{
    bg_status status = BG_OK;
    *ran = false;
    if (!w->running)
        return BG_OK;
    if (!w->linked)
        status = worker_links_ready(w, err);
    if (!status && w->linked && (w->has_task || w->task_runs))
        status = work_on_task(w, err);
    if (!status && w->linked && w->version < w->steps)
        status = worker_run_op(w, err, ran);
    if (*ran)
        w->waits = false;
    else if (!status && w->version < w->steps)
        status = lose_patience(w, now, err);
    return status;
}

enum worker_state worker_turn(struct worker *w, struct bg_error *err)
{
    uint64_t now = env_now_ns(w->env);
    bool busy = false, ran = false, more = true;
    bg_status status = BG_OK;
    for (int i = 0; i < EVENTS_PER_TURN && !status && !w->left; i++) {
        struct comm_event event = {0};
        status = comm_next(w->comm, err, &event);
        more = event.kind != COMM_NOTHING;
        if (status || !more)
            break;
        status = take_event(w, &event, err);
        busy = true;
    }
    if (w->left)
        return WORKER_LEFT;
    if (!status && !more && w->prepare > w->generation)
        status = worker_prepare(w, w->prepare, err);
    seek_controller(w, now);
    if (!status && w->orphan_since_ns && now > w->orphan_since_ns + w->o.orphan_ns)
        status = bg_fail(err, BG_IO, "no controller at %s for %.0f s: giving up", w->o.controller,
                         1e-9 * (double)w->o.orphan_ns);
    if (!status)
        status = advance(w, now, err, &ran);
    if (status) {
        struct bg_error ignored;
        const char *text = err ? err->text : bg_status_text(status);
        if (worker_tell_trouble(w, MESSAGE_FAILED, w->member, status, &ignored, "%s", text))
            return WORKER_FAILED;
        w->comm->ops->wait(w->comm, 0); // flushes
        return WORKER_FAILED;
    }
    return busy || ran ? WORKER_BUSY : WORKER_WAITS;
}

bg_status worker_run(struct worker *w, struct bg_error *err)
{
    for (;;) {
        switch (worker_turn(w, err)) {
        case WORKER_BUSY:
            break;
        case WORKER_WAITS:
            w->comm->ops->wait(w->comm, WAIT_NS);
            break;
        case WORKER_LEFT:
            return BG_OK;
        case WORKER_FAILED:
            return err->status;
        }
    }
}

void worker_describe(const struct worker *w, char *text, size_t size)
{
    char what[256] = "";
    if (w->controller == WORKER_NO_LINK)
        snprintf(what, sizeof what, "waits for its controller at %s", w->o.controller);
    else if (!w->welcomed)
        snprintf(what, sizeof what, "waits for the controller's WELCOME");
    else if (!w->running)
        snprintf(what, sizeof what, "waits for the plan of generation %u", w->generation);
    else if (!w->linked) {
        for (uint32_t p = 0; p < w->peer_count && !what[0]; p++) {
            struct worker_link *link = worker_link_of((struct worker *)w, w->peers[p].member);
            if (p != w->self && !(link && link->up))
                snprintf(what, sizeof what, "waits for the link to member %u", w->peers[p].member);
        }
    } else if (w->version >= w->steps)
        snprintf(what, sizeof what, "all steps are done");
    else
        worker_describe_op(w, what, sizeof what);
    double since = w->waits ? 1e-9 * (double)(env_now_ns(w->env) - w->waits_since_ns) : 0;
    snprintf(text, size, "member %u, generation %u, step %llu: %s, for %.1f s", w->member, w->generation,
             (unsigned long long)w->version, what, since);
}

struct worker_view worker_view(const struct worker *w)
{
    return (struct worker_view){.member = w->member,
                                .generation = w->generation,
                                .version = w->version,
                                .frames_refused = w->frames_refused,
                                .duplicates = w->duplicates,
                                .leaves = w->leaves,
                                .executor = w->ex};
}

// ---- Life ----

static bg_status reserve_shared(void *arg, size_t bytes, struct bg_error *err, void **memory)
{
    struct comm *comm = arg;
    return comm->ops->reserve(comm, bytes, err, memory);
}

static void release_shared(void *arg, void *memory, size_t bytes)
{
    struct comm *comm = arg;
    (void)bytes;
    comm->ops->unreserve(comm, memory);
}

static void number_pieces(struct worker *w)
{
    uint32_t buckets = w->job->model->bucket_count, total = 0;
    w->piece_first = bg_alloc_array(buckets + 2, sizeof *w->piece_first);
    for (uint32_t b = 0; b < buckets; b++) {
        w->piece_first[b] = total; // of the state: also where a bucket has no dense gradient
        total += (uint32_t)((w->job->model->buckets[b].floats + EXECUTOR_PIECE - 1) / EXECUTOR_PIECE);
    }
    w->piece_first[buckets] = total;
    w->piece_first[buckets + 1] = total + 1;
    w->sums = bg_alloc_array(total + 1, sizeof *w->sums);
    w->state_here = bg_alloc_array((size_t)3 * total, 1);
}

bg_status worker_create(struct bg_env *env, const struct worker_options *o, struct bg_error *err, struct worker **out)
{
    const struct worker_job *job = o->job;
    struct worker *w = bg_alloc(sizeof *w);
    *w = (struct worker){.env = env, .o = *o, .job = job, .comm = o->comm, .controller = WORKER_NO_LINK};
    memcpy(&w->job_id, job->signature, sizeof w->job_id);
    w->o.orphan_ns = o->orphan_ns ? o->orphan_ns : ORPHAN_NS;
    w->patience_ns = o->patience_ns ? o->patience_ns : PATIENCE_NS;
    w->orphan_since_ns = env_now_ns(env);
    w->comm->self = COMM_UNKNOWN;
    struct executor_options options = {
        .model = job->model,
        .kern = job->kern,
        .view = job->view,
        .seed = job->seed,
        .dropout = job->dropout,
        .optim = job->optim,
        .batch = job->batch,
        .length = job->length,
        .micro_batches = job->micro_batches,
        .order_free = o->order_free,
        .scratch = job->scratch,
        .memory = {.arg = o->comm, .reserve = reserve_shared, .release = release_shared},
    };
    bg_status status = executor_create(env, &options, err, &w->ex);
    if (status) {
        bg_free(w);
        return status;
    }
    uint32_t units = job->model->unit_count, params = job->model->param_count;
    w->have = bg_alloc_array(units, 1);
    w->holds = bg_alloc_array(units, 1);
    w->losses = bg_alloc_array(job->micro_batches, sizeof *w->losses);
    w->loss_known = bg_alloc_array(job->micro_batches, 1);
    w->squares = bg_alloc_array(params, sizeof *w->squares);
    w->vote_held = bg_alloc_array(params, 1);
    w->vote_capacity = 64 + (size_t)(params + units) * 9;
    w->proof = bg_alloc_array(units, sizeof *w->proof);
    w->o.prove_every = o->prove_every ? o->prove_every : 32;
    w->vote = bg_alloc(w->vote_capacity);
    number_pieces(w);
    *out = w;
    return BG_OK;
}

void worker_destroy(struct worker *w)
{
    if (!w)
        return;
    worker_forget_step(w);
    for (size_t i = 0; i < w->early_count; i++)
        comm_release(w->comm, &w->early[i]);
    if (w->has_task)
        comm_release(w->comm, &w->task);
    executor_destroy(w->ex);
    plan_fini(&w->now);
    plan_fini(&w->steady);
    void *const owned[] = {w->proof,     w->have,  w->holds,    w->losses,      w->loss_known, w->squares,
                           w->vote_held, w->vote,  w->sums,     w->piece_first, w->state_here, w->parts,
                           w->early,     w->items, w->peers,    w->peer_holds,  w->links,      w->activations,
                           w->gradients, w->made,  w->made_back};
    for (size_t i = 0; i < sizeof owned / sizeof *owned; i++)
        bg_free(owned[i]);
    bg_free(w);
}
