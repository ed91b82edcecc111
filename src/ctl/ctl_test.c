// The controller's state machine driven by scripted members: no endpoint, no clock, no disk. The members here follow
// the protocol in a few lines (they hold units, report, run whatever the plan routes to them, vote, apply) with numbers
// that are functions of step and place alone, so that the one right curve is known. Every effect is checked as it
// happens: a commit is in the log before it is sent, commits come in order, equal what one process would have decided,
// and no member is ever asked to compute with a unit that it does not hold.
#include "base/mem.h"
#include "base/str.h"
#include "ctl/ctl.h"

#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>
#include <cmocka.h>

enum { UNITS = 6, LEAVES = 8, FAKES = 512, STEPS_MAX = 64 };

struct letter { // a frame on its way to a member
    struct wire_frame frame;
    uint8_t *payload;
};

struct fake { // a worker or the shadow
    bool alive, linked, left;
    bool mute;     // does nothing but report: votes and losses are held back
    bool hesitant; // computes and says its losses, but no vote: roots are missing
    uint32_t id;
    uint64_t token, process;
    enum message_role role;
    uint64_t version, steps;
    uint8_t have[UNITS];
    bool rooted, running;
    uint32_t generation, self;
    struct plan steady, now, *plan;
    uint8_t items[UNITS * LEAVES]; // enum plan_held
    uint8_t loss_known[LEAVES];    // said in this step
    struct letter queue[64];
    size_t head, count;
    bool has_task;
    struct message_task task;
    uint64_t task_step;
};

struct world {
    struct ctl *ctl;
    struct ctl_options o;
    uint64_t now, random;
    struct fake fakes[FAKES];
    size_t fake_count;
    uint64_t spawned[FAKES]; // tokens of processes that have not said HELLO
    enum message_role spawned_role[FAKES];
    size_t spawned_count;
    struct store_record log[4096];
    char *texts[4096];
    size_t log_count;
    struct bg_str told; // events and effects, a line each
    uint64_t commits;   // made, in the log
    uint64_t checkpoint;
    struct message_evaluation evaluations[STEPS_MAX];
    size_t evaluation_count;
    double losses[STEPS_MAX];
    bool refuse_spawn, refuse_append;
    double lie; // added to a square that the next vote names
};

// ---- The numbers of the job, and what one process makes of them ----
static double loss_of(uint64_t step, uint32_t leaf)
{
    return 100 + 1.0 / (double)(3 + leaf + 7 * step);
}

static double square_of(uint64_t step, uint32_t param)
{
    return 1.0 / (double)(1 + param + 3 * step);
}

static double tree(uint64_t step, uint32_t first, uint32_t width)
{
    if (width == 1)
        return loss_of(step, first);
    double left = tree(step, first, width / 2);
    return first + width / 2 < LEAVES ? left + tree(step, first + width / 2, width / 2) : left;
}

static struct message_commit right(uint64_t step)
{
    double sum = 0;
    for (uint32_t p = 0; p < UNITS; p++)
        sum += square_of(step, p);
    double norm = sqrt(sum), clip = 1.0 / (norm + 1e-6);
    return (struct message_commit){step, tree(step, 0, 8) / 1000, norm, (float)(clip < 1 ? clip : 1)};
}

static uint64_t draw(struct world *w, uint64_t below)
{
    w->random = w->random * 6364136223846793005u + 1442695040888963407u;
    return (w->random >> 33) % below;
}

// ---- Effects ----
static struct fake *fake_of(struct world *w, uint32_t id)
{
    for (size_t i = 0; i < w->fake_count; i++)
        if (w->fakes[i].linked && w->fakes[i].id == id)
            return &w->fakes[i];
    return NULL;
}

static void host_send(void *arg, uint32_t member, const struct wire_frame *frame, const void *payload, size_t bytes)
{
    struct world *w = arg;
    if (frame->kind == WIRE_COMMIT) // the log knows it already
        assert_true(w->commits == frame->step + 1);
    if (frame->kind == WIRE_WELCOME || frame->kind == WIRE_PREPARE)
        assert_true(w->log_count > 0);
    bg_str_addf(&w->told, "send %s %u g%u s%llu\n", wire_kind_name(frame->kind), member, frame->generation,
                (unsigned long long)frame->step);
    struct fake *f = fake_of(w, member);
    if (!f || !f->alive)
        return;
    assert_true(f->count < 64);
    struct letter *letter = &f->queue[(f->head + f->count++) % 64];
    letter->frame = *frame;
    letter->payload = bg_alloc(bytes + 1);
    if (bytes)
        memcpy(letter->payload, payload, bytes);
}

static void host_drop(void *arg, uint32_t member)
{
    struct fake *f = fake_of(arg, member);
    bg_str_addf(&((struct world *)arg)->told, "drop %u\n", member);
    if (f)
        f->linked = false;
}

static bg_status host_append(void *arg, const struct store_record *r, struct bg_error *err)
{
    struct world *w = arg;
    if (w->refuse_append)
        return bg_fail(err, BG_FULL, "control.db: no room left on the disk");
    assert_true(w->log_count < 4096);
    w->texts[w->log_count] = r->text ? bg_strdup(r->text) : NULL;
    w->log[w->log_count] = *r;
    w->log[w->log_count].text = w->texts[w->log_count];
    w->log_count++;
    if (r->kind == STORE_COMMIT) {
        struct message_commit want = right(r->a);
        assert_true(r->a == w->commits);
        assert_memory_equal(&r->x, &want.loss, 8);
        assert_memory_equal(&r->y, &want.norm, 8);
        assert_true((float)r->z == want.clip);
        w->commits++;
        bg_str_addf(&w->told, "log commit %llu\n", (unsigned long long)r->a);
    } else if (r->kind == STORE_ROLLBACK) {
        w->commits = r->a;
    }
    return BG_OK;
}

static bg_status host_spawn(void *arg, uint64_t token, enum message_role role, struct bg_error *err)
{
    struct world *w = arg;
    if (w->refuse_spawn)
        return bg_fail(err, BG_FULL, "no more processes");
    w->spawned[w->spawned_count] = token;
    w->spawned_role[w->spawned_count++] = role;
    return BG_OK;
}

static void host_event(void *arg, const char *event, const char *fields)
{
    bg_str_addf(&((struct world *)arg)->told, "event %s %s\n", event, fields);
}

static const struct ctl_host host = {
    .send = host_send, .drop = host_drop, .append = host_append, .spawn = host_spawn, .event = host_event};

static bool told(const struct world *w, const char *text)
{
    return strstr(bg_str_text(&w->told), text) != NULL;
}

static void expect_told(const struct world *w, const char *text)
{
    if (!told(w, text))
        fail_msg("nobody said \"%s\" in:\n%s", text, bg_str_text(&w->told));
}

// ---- Members ----
static void say(struct world *w, struct fake *f, enum wire_kind kind, const void *payload, size_t bytes)
{
    struct wire_frame frame = {.kind = (uint16_t)kind, .generation = f->generation, .job = 7, .step = f->version};
    frame.from = f->id;
    frame.bytes = bytes;
    frame.check = wire_check(payload, bytes);
    if (f->alive && f->linked)
        ctl_frame(w->ctl, w->now, f->id, &frame, payload);
}

static struct fake *fake_add(struct world *w, uint64_t token, enum message_role role)
{
    assert_true(w->fake_count < FAKES);
    struct fake *f = &w->fakes[w->fake_count++];
    *f = (struct fake){.alive = true, .token = token, .role = role, .process = 1000 + w->fake_count};
    return f;
}

static void fake_hello(struct world *w, struct fake *f)
{
    struct message_hello hello = {.version = MESSAGE_VERSION, .member = f->id, .token = f->token, .role = f->role};
    hello.process = f->process;
    hello.signature[0] = 9;
    uint32_t id = ctl_hello(w->ctl, w->now, &hello);
    if (id == 0) { // too late
        assert_true(ctl_ended(w->ctl, NULL) != CTL_RUNS);
        f->alive = false;
        return;
    }
    if (f->id && id != f->id) { // fenced
        memset(f->have, 0, sizeof f->have);
        f->generation = 0;
        f->running = false;
    }
    f->id = id;
    f->linked = true;
}

static void fake_silence(struct fake *f)
{
    for (; f->count > 0; f->count--, f->head = (f->head + 1) % 64)
        bg_free(f->queue[f->head].payload);
    if (f->has_task)
        message_fini(f->task.memory);
    f->has_task = false;
}

static void fake_free(struct fake *f)
{
    fake_silence(f);
    plan_fini(&f->steady);
    plan_fini(&f->now);
}

static void fake_kill(struct world *w, struct fake *f, const char *why)
{
    assert_true(f->alive);
    f->alive = f->linked = false;
    fake_silence(f);
    ctl_lost(w->ctl, w->now, f->id, why);
}

static bool fake_needs(const struct fake *f, uint32_t unit)
{
    const struct plan *plan = &f->steady;
    for (uint32_t i = 0; i < plan->seat_count; i++)
        if (plan->seats[i].worker == f->self && plan->stages[plan->seats[i].stage].unit_first <= unit &&
            unit < plan->stages[plan->seats[i].stage].unit_end)
            return true;
    for (uint32_t i = 0; i < plan->follow_count; i++)
        if (plan->follows[i].worker == f->self && plan->follows[i].unit_first <= unit &&
            unit < plan->follows[i].unit_end)
            return true;
    return false;
}

static void fake_losses(struct world *w, struct fake *f, uint32_t item)
{
    const struct plan_item *leaves = &f->plan->items[item];
    double losses[LEAVES];
    for (uint32_t leaf = leaves->first; leaf < leaves->end; leaf++) {
        losses[leaf - leaves->first] = loss_of(f->version, leaf);
        f->loss_known[leaf] = 1;
    }
    uint8_t payload[256];
    size_t bytes = message_loss_encode(leaves->first, leaves->end - leaves->first, losses, payload, sizeof payload);
    say(w, f, WIRE_LOSS, payload, bytes);
}

static void fake_vote(struct world *w, struct fake *f)
{
    double squares[UNITS];
    uint8_t payload[256];
    for (uint32_t u = 0; u < UNITS; u++)
        squares[u] = square_of(f->version, u) + w->lie;
    w->lie = 0;
    f->rooted = true;
    say(w, f, WIRE_VOTE, payload, message_vote_encode(UNITS, f->have, squares, 1, payload, sizeof payload));
}

// Computes what its list gives it, says the losses, votes.
static void fake_work(struct world *w, struct fake *f)
{
    if (!f->running || f->mute || f->version >= f->steps)
        return;
    const struct plan_list *list = &f->plan->lists[f->self];
    for (size_t i = 0; i < list->count; i++) {
        const struct plan_op *op = &list->ops[i];
        if (op->kind == PLAN_F && op->stage + 1u == f->plan->stage_count)
            fake_losses(w, f, op->item);
        if (op->kind == PLAN_W || (op->kind == PLAN_B && op->flags & PLAN_FUSED))
            f->items[op->stage * f->plan->item_count + op->item] = PLAN_HELD_G;
    }
    if (f->running && f->alive && !f->hesitant)
        fake_vote(w, f);
}

static void fake_task(struct world *w, struct fake *f)
{
    if (!f->has_task || f->task_step != f->version)
        return;
    struct message_task task = f->task;
    f->has_task = false;
    for (uint32_t u = 0; u < UNITS; u++)
        assert_true(f->have[u]);
    assert_true(task.loss_count == f->version);
    for (uint64_t t = 0; t < task.loss_count; t++)
        assert_true(task.losses[t] == right(t).loss);
    struct message_task_done done = {.id = task.id, .evaluated = task.evaluate, .checkpointed = task.checkpoint};
    done.hashed = task.hash;
    memset(done.weights_sha256, (int)f->version, sizeof done.weights_sha256);
    done.evaluation = (struct message_evaluation){f->version, 10, 2.5, 3.5};
    snprintf(done.directory, sizeof done.directory, "step-%llu", (unsigned long long)f->version);
    if (task.evaluate)
        w->evaluations[w->evaluation_count++ % STEPS_MAX] = done.evaluation;
    if (task.checkpoint)
        w->checkpoint = f->version; // on the disk before it is told
    message_fini(task.memory);
    uint8_t payload[MESSAGE_SMALL];
    say(w, f, WIRE_TASK_DONE, payload, message_task_done_encode(&done, payload, sizeof payload));
}

static void fake_report(struct world *w, struct fake *f)
{
    uint8_t roots[UNITS], payload[1024];
    double losses[LEAVES];
    for (uint32_t leaf = 0; leaf < LEAVES; leaf++)
        losses[leaf] = loss_of(f->version, leaf);
    for (uint32_t u = 0; u < UNITS; u++)
        roots[u] = f->rooted && f->have[u];
    struct message_report m = {.version = f->version, .unit_count = UNITS, .units = f->have, .roots = roots};
    m.loss_count = LEAVES;
    m.loss_known = f->loss_known;
    m.losses = losses;
    if (f->plan) {
        m.plan = plan_cut_hash(f->plan);
        m.stage_count = f->plan->stage_count;
        m.item_count = f->plan->item_count;
        m.items = f->items;
    }
    say(w, f, WIRE_REPORT, payload, message_report_encode(&m, payload, sizeof payload));
}

static void fake_apply(struct fake *f)
{
    f->version++;
    f->rooted = false;
    memset(f->items, 0, sizeof f->items);
    memset(f->loss_known, 0, sizeof f->loss_known);
    f->plan = f->steady.workers ? &f->steady : NULL;
}

static void fake_take_plans(struct fake *f, const struct message_generation *m)
{
    struct bg_error err = {0};
    uint64_t before = f->plan ? plan_cut_hash(f->plan) : 0;
    plan_fini(&f->steady);
    plan_fini(&f->now);
    if (plan_parse(m->steady, m->steady_bytes, &err, &f->steady) ||
        (m->now_bytes && plan_parse(m->now, m->now_bytes, &err, &f->now)))
        fail_msg("%s", err.text);
    f->plan = m->now_bytes ? &f->now : &f->steady;
    f->self = m->self;
    if (plan_cut_hash(f->plan) != before || !m->now_bytes)
        memset(f->items, 0, sizeof f->items);
}

static void fake_generation(struct world *w, struct fake *f, const void *payload, size_t bytes)
{
    struct message_generation m;
    assert_int_equal(message_generation_decode(payload, bytes, NULL, &m), BG_OK);
    assert_true(m.members[m.self].member == f->id);
    if (m.has_commit && m.source == MESSAGE_SOURCE_KEEP && m.commit.step == f->version && f->rooted)
        fake_apply(f);
    fake_take_plans(f, &m);
    if (m.source != MESSAGE_SOURCE_KEEP || f->version != m.step) {
        memset(f->have, 0, sizeof f->have);
        memset(f->items, 0, sizeof f->items);
        memset(f->loss_known, 0, sizeof f->loss_known);
        f->rooted = false;
    }
    f->version = m.step;
    f->steps = m.steps;
    for (uint32_t u = 0; u < UNITS; u++) {
        bool needs = fake_needs(f, u);
        f->have[u] = needs && (f->have[u] || m.source != MESSAGE_SOURCE_KEEP);
    }
    for (size_t i = 0; i < f->plan->lists[f->self].count; i++) {
        const struct plan_op *op = &f->plan->lists[f->self].ops[i];
        if (op->kind == PLAN_MOVE && !(op->flags & PLAN_OUT))
            f->have[op->item] = 1;
        if (op->kind == PLAN_MOVE && op->flags & PLAN_OUT)
            assert_true(f->have[op->item]);
    }
    for (uint32_t u = 0; u < UNITS; u++)
        if (fake_needs(f, u) && !f->have[u])
            fail_msg("member %u needs unit %u in generation %u and has no way to it", f->id, u, f->generation);
    message_fini(m.memory);
    f->running = true;
    fake_work(w, f);
}

static void fake_take(struct world *w, struct fake *f)
{
    struct letter letter = f->queue[f->head];
    f->head = (f->head + 1) % 64;
    f->count--;
    const struct wire_frame *frame = &letter.frame;
    struct message_commit commit;
    switch (frame->kind) {
    case WIRE_WELCOME:
        break;
    case WIRE_PREPARE:
        f->generation = frame->generation;
        f->running = false;
        if (f->has_task)
            message_fini(f->task.memory);
        f->has_task = false;
        fake_report(w, f);
        break;
    case WIRE_GENERATION:
        if (frame->generation == f->generation && !f->running)
            fake_generation(w, f, letter.payload, frame->bytes);
        break;
    case WIRE_COMMIT:
        assert_int_equal(message_commit_decode(letter.payload, frame->bytes, NULL, &commit), BG_OK);
        if (frame->generation == f->generation && f->running) {
            assert_true(commit.step == f->version && f->rooted);
            fake_apply(f);
            fake_work(w, f);
        }
        break;
    case WIRE_TASK:
        if (frame->generation == f->generation && f->running) {
            assert_int_equal(message_task_decode(letter.payload, frame->bytes, NULL, &f->task), BG_OK);
            f->has_task = true;
            f->task_step = frame->step;
            if (!f->mute)
                fake_task(w, f);
        }
        break;
    case WIRE_LEAVE:
        f->alive = f->linked = false;
        f->left = true;
        break;
    default:
        fail_msg("a frame of kind %u", frame->kind);
    }
    bg_free(letter.payload);
    if (!f->alive)
        fake_silence(f);
}

// ---- The world ----
static const char *const names[UNITS] = {"embed", "block.0", "block.1", "block.2", "block.3", "head"};
static const double costs[UNITS] = {1, 2, 2, 2, 2, 1};
static const uint64_t bytes_of[UNITS] = {10, 20, 20, 20, 20, 10};

static struct world *world_create(const char *shape, uint64_t steps)
{
    static uint32_t replicas[PLAN_STAGES_MAX];
    struct world *w = bg_alloc(sizeof *w);
    struct ctl_options *o = &w->o;
    *o = (struct ctl_options){.steps = steps, .clip = 1, .job = 7, .micro_batches = LEAVES, .targets = 1000};
    o->signature[0] = 9;
    o->param_count = o->units = UNITS;
    o->param_names = names;
    o->costs = costs;
    o->state_bytes = bytes_of;
    assert_int_equal(plan_shape_parse(shape, NULL, replicas, &o->stages), BG_OK);
    o->replicas = replicas;
    for (uint32_t r = 0; r < o->stages; r++)
        o->workers += replicas[r];
    o->schedule = PLAN_1F1B;
    o->chunks = o->group = 1;
    o->respawn = true;
    o->evaluates = true;
    o->join_ns = 1000000000;
    o->patience_ns = 5000000000;
    w->random = 1;
    return w;
}

static void world_start(struct world *w)
{
    struct bg_error err = {0};
    struct ctl_host mine = host;
    mine.arg = w;
    if (ctl_create(&w->o, &mine, &err, &w->ctl))
        fail_msg("%s", err.text);
    size_t records = w->log_count; // restoring may add some
    for (size_t i = 0; i < records; i++)
        if (ctl_restore(w->ctl, &w->log[i], &err))
            fail_msg("%s", err.text);
    for (uint64_t t = 0; t < w->checkpoint; t++)
        w->losses[t] = right(t).loss;
    struct ctl_checkpoint newest = {w->checkpoint, w->losses, NULL, 0, "step"};
    if (ctl_start(w->ctl, w->now, w->checkpoint ? &newest : NULL, &err))
        fail_msg("%s", err.text);
}

// The controller dies; members keep what they have and seek the next one.
static void world_restart(struct world *w)
{
    ctl_destroy(w->ctl);
    for (size_t i = 0; i < w->fake_count; i++) {
        w->fakes[i].linked = false;
        fake_silence(&w->fakes[i]);
        w->fakes[i].head = w->fakes[i].count = 0;
    }
    w->spawned_count = 0;
    world_start(w);
}

static void world_destroy(struct world *w)
{
    ctl_destroy(w->ctl);
    for (size_t i = 0; i < w->fake_count; i++)
        fake_free(&w->fakes[i]);
    for (size_t i = 0; i < w->log_count; i++)
        bg_free(w->texts[i]);
    bg_str_fini(&w->told);
    bg_free(w);
}

// The next process that was started says HELLO.
static struct fake *world_arrive(struct world *w)
{
    assert_true(w->spawned_count > 0);
    struct fake *f = fake_add(w, w->spawned[0], w->spawned_role[0]);
    w->spawned_count--;
    memmove(w->spawned, w->spawned + 1, w->spawned_count * sizeof *w->spawned);
    memmove(w->spawned_role, w->spawned_role + 1, w->spawned_count * sizeof *w->spawned_role);
    fake_hello(w, f);
    return f;
}

static void world_arrive_all(struct world *w)
{
    while (w->spawned_count > 0)
        world_arrive(w);
    ctl_tick(w->ctl, w->now);
}

// One letter, to a member drawn by chance. False: there is none.
static bool world_turn(struct world *w)
{
    w->now += 100000;
    ctl_tick(w->ctl, w->now);
    size_t waiting = 0;
    for (size_t i = 0; i < w->fake_count; i++)
        waiting += w->fakes[i].count > 0;
    if (waiting == 0)
        return false;
    size_t pick = (size_t)draw(w, waiting);
    for (size_t i = 0; i < w->fake_count; i++)
        if (w->fakes[i].count > 0 && pick-- == 0) {
            fake_take(w, &w->fakes[i]);
            return true;
        }
    return false;
}

static void world_settle(struct world *w)
{
    while (world_turn(w))
        ;
}

static void world_until(struct world *w, uint64_t committed)
{
    while (ctl_view(w->ctl).committed < committed)
        if (!world_turn(w)) {
            char text[256];
            ctl_describe(w->ctl, text, sizeof text);
            fail_msg("stuck: %s\n%s", text, bg_str_text(&w->told));
        }
}

static void expect_end(struct world *w, enum ctl_end end)
{
    struct bg_error err = {0};
    if (ctl_ended(w->ctl, &err) != end) {
        char text[256];
        ctl_describe(w->ctl, text, sizeof text);
        fail_msg("ended %d (%s), expected %d; %s\n%s", ctl_ended(w->ctl, NULL), err.text, end, text,
                 bg_str_text(&w->told));
    }
}

static void expect_curve(struct world *w, uint64_t steps)
{
    struct ctl_view view = ctl_view(w->ctl);
    assert_true(view.committed == steps);
    for (uint64_t t = 0; t < steps; t++)
        assert_true(view.losses[t] == right(t).loss);
}

static void mute_all(struct world *w, bool mute)
{
    for (size_t i = 0; i < w->fake_count; i++)
        w->fakes[i].mute = mute;
}

static void hesitate_all(struct world *w)
{
    for (size_t i = 0; i < w->fake_count; i++)
        w->fakes[i].hesitant = true;
}

// Lets held back members do what they would have done.
static void unmute_all(struct world *w)
{
    mute_all(w, false);
    for (size_t i = 0; i < w->fake_count; i++)
        w->fakes[i].hesitant = false;
    for (size_t i = 0; i < w->fake_count; i++)
        if (w->fakes[i].alive && w->fakes[i].linked) {
            fake_task(w, &w->fakes[i]);
            fake_work(w, &w->fakes[i]);
        }
}

static void finishes(struct world *w)
{
    world_settle(w);
    while (w->spawned_count > 0) {
        world_arrive_all(w);
        world_settle(w);
    }
    expect_end(w, CTL_FINISHED);
    expect_curve(w, w->o.steps);
    assert_true(ctl_view(w->ctl).hashed && w->log[w->log_count - 1].kind == STORE_FINISHED);
    for (size_t i = 0; i < w->fake_count; i++)
        if (w->fakes[i].linked)
            assert_true(w->fakes[i].left);
    world_destroy(w);
}

// ---- Tests ----
static void start_to_end(void **state)
{
    (void)state;
    static const char *const shapes[] = {"1x1", "1x2", "2x1", "2x2", "3x1", "1+2", "4x1", "2x4"};
    for (size_t i = 0; i < sizeof shapes / sizeof *shapes; i++)
        for (int shadow = 0; shadow < 2; shadow++) {
            struct world *w = world_create(shapes[i], 7);
            w->o.shadow = shadow;
            w->o.eval_every = 2;
            w->o.checkpoint_every = 3;
            world_start(w);
            assert_int_equal(w->spawned_count, w->o.workers + (unsigned)shadow);
            world_arrive_all(w);
            world_settle(w);
            expect_told(w, "\"reason\": \"start\"");
            struct ctl_view view = ctl_view(w->ctl);
            assert_int_equal(view.generations, 1);
            assert_int_equal(view.evaluation_count, 4); // 2, 4, 6, 7
            assert_true(view.evaluations[3].step == 7 && view.leaves_recomputed == 0);
            assert_string_equal(view.checkpoint, "step-7");
            finishes(w);
        }
}

static void steps_allocate_nothing(void **state)
{
    (void)state;
    struct world *w = world_create("2x2", 40);
    world_start(w);
    world_arrive_all(w);
    world_until(w, 2);
    world_settle(w); // all the way: letters allocate, so count what one more vote takes
    world_destroy(w);

    w = world_create("1x1", 40);
    world_start(w);
    world_arrive_all(w);
    mute_all(w, true);
    world_settle(w);
    struct fake *f = &w->fakes[0];
    uint8_t losses[256], vote[256];
    double values[LEAVES], squares[UNITS];
    const uint8_t held[UNITS] = {1, 1, 1, 1, 1, 1};
    w->fakes[0].alive = false; // takes no letters
    struct wire_frame frame = {.generation = f->generation, .job = 7};
    uint64_t before = 0;
    for (uint64_t t = 0; t < 10; t++) {
        for (uint32_t k = 0; k < LEAVES; k++)
            values[k] = loss_of(t, k);
        for (uint32_t u = 0; u < UNITS; u++)
            squares[u] = square_of(t, u);
        bg_str_reset(&w->told);
        frame.step = t;
        frame.kind = WIRE_LOSS;
        frame.bytes = message_loss_encode(0, LEAVES, values, losses, sizeof losses);
        frame.check = wire_check(losses, frame.bytes);
        ctl_frame(w->ctl, w->now, f->id, &frame, losses);
        frame.kind = WIRE_VOTE;
        frame.bytes = message_vote_encode(UNITS, held, squares, 1, vote, sizeof vote);
        frame.check = wire_check(vote, frame.bytes);
        ctl_frame(w->ctl, w->now, f->id, &frame, vote);
        assert_true(ctl_view(w->ctl).committed == t + 1);
        if (t == 1)
            before = bg_mem_count();
    }
    assert_int_equal(bg_mem_count(), before);
    world_destroy(w);
}

// A loss in mid-step: the survivors keep what they have; what the dead one had is given to its peer.
static void loss_in_a_step(void **state)
{
    (void)state;
    struct world *w = world_create("2x2", 6);
    w->o.respawn = false;
    world_start(w);
    world_arrive_all(w);
    world_until(w, 2);
    hesitate_all(w);
    world_settle(w); // step 2 (or 3): everything computed, no vote
    uint64_t step = ctl_view(w->ctl).committed;
    bg_str_reset(&w->told);
    fake_kill(w, &w->fakes[1], "process 1002 ended");
    assert_int_equal(w->log[w->log_count - 2].kind, STORE_LOST);
    assert_int_equal(w->log[w->log_count - 1].kind, STORE_GENERATION);
    world_settle(w);
    struct ctl_view view = ctl_view(w->ctl);
    assert_int_equal(view.leaves_recomputed, LEAVES / 2); // of one stage, one of two replicas
    assert_true(view.committed == step && view.deaths == 1 && view.rollbacks == 0);
    expect_told(w, "event lost");
    expect_told(w, "event recovered");
    unmute_all(w);
    finishes(w);
}

// A frame of an older generation counts for nothing, and neither does one from a stranger.
static void old_frames(void **state)
{
    (void)state;
    struct world *w = world_create("1x2", 3);
    w->o.respawn = false;
    world_start(w);
    world_arrive_all(w);
    mute_all(w, true);
    world_settle(w);
    fake_kill(w, &w->fakes[1], "killed");
    struct fake *f = &w->fakes[0];
    assert_int_equal(f->generation, 1);
    double bad[LEAVES] = {0};
    uint8_t payload[256];
    size_t bytes = message_loss_encode(0, LEAVES, bad, payload, sizeof payload);
    say(w, f, WIRE_LOSS, payload, bytes); // still of generation 1
    world_settle(w);
    struct wire_frame frame = {.kind = WIRE_LOSS, .generation = 2, .job = 7, .bytes = bytes};
    frame.check = wire_check(payload, bytes);
    ctl_frame(w->ctl, w->now, 99, &frame, payload);
    unmute_all(w);
    finishes(w); // with the right losses
}

// The controller dies between its log and its COMMITs: the next one carries the commit to those that need it.
static void restart_after_the_log(void **state)
{
    (void)state;
    struct world *w = world_create("2x1", 5);
    w->o.shadow = true;
    world_start(w);
    world_arrive_all(w);
    world_until(w, 3);
    for (size_t i = 0; i < w->fake_count; i++) { // nobody has heard of it yet
        struct fake *f = &w->fakes[i];
        for (; f->count > 0 && f->queue[f->head].frame.kind == WIRE_COMMIT && i != 1; f->count--) {
            bg_free(f->queue[f->head].payload);
            f->head = (f->head + 1) % 64;
        }
        while (f->count > 0)
            fake_take(w, f);
    }
    assert_true(w->fakes[0].version == 2 && w->fakes[1].version == 3);
    world_restart(w);
    assert_int_equal(w->spawned_count, 0); // they are awaited, not started again
    assert_true(ctl_view(w->ctl).committed == 3);
    for (size_t i = 0; i < 3; i++)
        fake_hello(w, &w->fakes[i]);
    world_until(w, 4);
    assert_int_equal(ctl_view(w->ctl).rollbacks, 0);
    assert_int_equal(ctl_view(w->ctl).fenced, 0);
    finishes(w);
}

// Restarted with one member gone for good and one that does not come back in time.
static void restart_with_losses(void **state)
{
    (void)state;
    struct world *w = world_create("1x3", 5);
    world_start(w);
    world_arrive_all(w);
    world_until(w, 2);
    ctl_destroy(w->ctl);
    w->ctl = NULL;
    struct bg_error err = {0};
    struct ctl_host mine = host;
    mine.arg = w;
    for (size_t i = 0; i < w->fake_count; i++) {
        w->fakes[i].linked = false;
        fake_silence(&w->fakes[i]);
    }
    assert_int_equal(ctl_create(&w->o, &mine, &err, &w->ctl), BG_OK);
    for (size_t i = 0, records = w->log_count; i < records; i++)
        assert_int_equal(ctl_restore(w->ctl, &w->log[i], &err), BG_OK);
    ctl_lost(w->ctl, w->now, 1, "its process is gone");
    w->fakes[0].alive = false;
    assert_int_equal(ctl_start(w->ctl, w->now, NULL, &err), BG_OK);
    assert_int_equal(w->spawned_count, 1);
    fake_hello(w, &w->fakes[1]);
    world_settle(w);
    assert_true(ctl_view(w->ctl).committed == 2); // waits for member 3
    w->now += 3000000000;
    world_until(w, 3);
    expect_told(w, "did not come back");
    w->fakes[2].alive = false;
    assert_int_equal(ctl_view(w->ctl).rollbacks, 0);
    finishes(w);
}

// A newcomer follows first, and is seated one generation later; its state comes from a member that has least to send.
static void joiner(void **state)
{
    (void)state;
    struct world *w = world_create("2x2", 12);
    world_start(w);
    world_arrive_all(w);
    world_until(w, 2);
    fake_kill(w, &w->fakes[0], "killed");
    assert_int_equal(w->spawned_count, 1);
    world_until(w, 3);
    bg_str_reset(&w->told);
    struct fake *f = world_arrive(w);
    world_until(w, 4);
    world_until(w, 5);
    expect_told(w, "\"shape\": \"1+2\", \"reason\": \"join\"");
    expect_told(w, "event moved");
    world_until(w, 7);
    expect_told(w, "\"shape\": \"2x2\"");
    bool sits = false;
    for (uint32_t i = 0; i < f->steady.seat_count; i++)
        sits |= f->steady.seats[i].worker == f->self;
    assert_true(sits);
    finishes(w);
}

static void shadow_promotion(void **state)
{
    (void)state;
    struct world *w = world_create("2x1", 12);
    w->o.shadow = true;
    world_start(w);
    world_arrive_all(w);
    world_until(w, 2);
    bg_str_reset(&w->told);
    fake_kill(w, &w->fakes[1], "killed");
    world_until(w, 5);
    expect_told(w, "event shadow");
    assert_int_equal(ctl_view(w->ctl).rollbacks, 0);
    assert_false(told(w, "event moved")); // it held everything
    world_arrive(w);
    world_until(w, 9);
    struct fake *shadow = &w->fakes[2], *next = &w->fakes[3];
    assert_int_equal(shadow->role, MESSAGE_SHADOW);
    assert_int_equal(shadow->steady.seat_count, 2);
    for (uint32_t i = 0; i < 2; i++)
        assert_true(shadow->steady.seats[i].worker != shadow->self);
    assert_true(next->steady.seats[1].worker == next->self || next->steady.seats[0].worker == next->self);
    fake_kill(w, &w->fakes[0], "killed"); // now everybody but the shadow
    fake_kill(w, next, "killed");
    world_until(w, 11);
    assert_int_equal(shadow->steady.stage_count, 1);
    assert_int_equal(ctl_view(w->ctl).rollbacks, 0);
    finishes(w);
}

// A member that had been declared lost comes back: another id, no state.
static void zombie(void **state)
{
    (void)state;
    struct world *w = world_create("1x2", 8);
    world_start(w);
    world_arrive_all(w);
    world_until(w, 2);
    struct fake *f = &w->fakes[1];
    uint32_t id = f->id;
    f->linked = false;
    fake_silence(f);
    ctl_lost(w->ctl, w->now, id, "silent for 1 s");
    world_until(w, 4);
    fake_hello(w, f);
    assert_true(f->id != id);
    assert_int_equal(ctl_view(w->ctl).fenced, 1);
    expect_told(w, "event fenced \"member\": 2");
    world_until(w, 7);
    assert_true(f->have[0]); // it works again, with state that was moved to it
    world_arrive_all(w);     // the one that was started in its place: a spare
    finishes(w);
}

static void mismatch(void **state)
{
    (void)state;
    struct world *w = world_create("1x2", 8);
    world_start(w);
    world_arrive_all(w);
    world_until(w, 3);
    w->lie = 1e-3;
    world_settle(w);
    struct bg_error err = {0};
    assert_int_equal(ctl_ended(w->ctl, &err), CTL_FAILED);
    assert_int_equal(err.status, BG_CORRUPT);
    assert_non_null(strstr(err.text, "step "));
    assert_non_null(strstr(err.text, "members 1 and 2") ? err.text : strstr(err.text, "members 2 and 1"));
    assert_non_null(strstr(err.text, "embed"));
    assert_true(w->fakes[0].left && w->fakes[1].left);
    world_destroy(w);
}

static void not_finite(void **state)
{
    (void)state;
    struct world *w = world_create("1x1", 8);
    world_start(w);
    world_arrive_all(w);
    w->lie = INFINITY;
    world_settle(w);
    struct bg_error err = {0};
    assert_int_equal(ctl_ended(w->ctl, &err), CTL_FAILED);
    assert_int_equal(err.status, BG_NOT_FINITE);
    assert_non_null(strstr(err.text, "step 0"));
    assert_non_null(strstr(err.text, "embed"));
    world_destroy(w);
}

// The scribe dies over its task: another one gets it, and nothing is committed before it is done.
static void scribe_dies(void **state)
{
    (void)state;
    for (int shadow = 0; shadow < 2; shadow++) {
        struct world *w = world_create("2x2", 6);
        w->o.shadow = shadow;
        w->o.checkpoint_every = 4;
        world_start(w);
        world_arrive_all(w);
        world_until(w, 3);
        struct fake *scribe = &w->fakes[shadow ? 4 : 0];
        mute_all(w, true);
        for (size_t i = 0; i < 4; i++)
            w->fakes[i].mute = &w->fakes[i] == scribe;
        world_settle(w);
        unmute_all(w);
        while (!scribe->has_task) {
            scribe->mute = ctl_view(w->ctl).committed == 4;
            assert_true(world_turn(w));
        }
        world_settle(w);
        assert_true(ctl_view(w->ctl).committed == 4);
        char text[200];
        ctl_describe(w->ctl, text, sizeof text);
        assert_non_null(strstr(text, "checkpoint of step 4"));
        fake_kill(w, scribe, "killed");
        finishes(w);
    }
}

static void stop(void **state)
{
    (void)state;
    struct world *w = world_create("2x1", 10);
    world_start(w);
    world_arrive_all(w);
    world_until(w, 3);
    ctl_stop(w->ctl, w->now);
    world_settle(w);
    expect_end(w, CTL_STOPPED);
    expect_curve(w, 4);
    assert_string_equal(ctl_view(w->ctl).checkpoint, "step-4");
    assert_true(w->fakes[0].left && w->fakes[1].left);
    world_restart(w); // and on, with other processes
    for (size_t i = 0; i < 2; i++)
        ctl_lost(w->ctl, w->now, w->fakes[i].id, "its process is gone");
    world_arrive_all(w);
    world_until(w, 6);
    finishes(w);

    w = world_create("2x1", 10);
    w->o.stop_after = 2;
    world_start(w);
    world_arrive_all(w);
    world_settle(w);
    expect_end(w, CTL_STOPPED);
    expect_curve(w, 2);
    world_destroy(w);
}

// Nobody is left that holds a stage: everybody goes back to the checkpoint, cut anew for as many as there are.
static void rollback(void **state)
{
    (void)state;
    for (int baseline = 0; baseline < 2; baseline++) {
        struct world *w = world_create("3x1", 9);
        w->o.checkpoint_every = 2;
        w->o.recovery_checkpoint = baseline;
        world_start(w);
        world_arrive_all(w);
        world_until(w, 3);
        world_settle(w);
        world_destroy(w);
        w = world_create("3x1", 9);
        w->o.checkpoint_every = 2;
        w->o.recovery_checkpoint = baseline;
        world_start(w);
        world_arrive_all(w);
        world_until(w, 3);
        fake_kill(w, &w->fakes[0], "killed"); // held everything: the scribe
        if (!baseline)
            fake_kill(w, &w->fakes[2], "killed");
        world_settle(w);
        struct ctl_view view = ctl_view(w->ctl);
        assert_int_equal(view.rollbacks, 1);
        assert_int_equal(view.steps_redone, 1);
        expect_told(w, "event rollback");
        if (baseline)
            assert_true(view.committed == 2); // waits until it is complete again
        finishes(w);
    }
}

// Without respawn the shape is fitted to those that are left; with nobody left the job fails and says so.
static void fewer_and_fewer(void **state)
{
    (void)state;
    struct world *w = world_create("2x2", 20);
    w->o.respawn = false;
    world_start(w);
    world_arrive_all(w);
    for (size_t i = 0; i < 3; i++) {
        world_until(w, 3 * (i + 1));
        fake_kill(w, &w->fakes[3 - i], "killed");
    }
    world_until(w, 12);
    assert_int_equal(ctl_view(w->ctl).rollbacks, 0); // the scribe held what they held
    fake_kill(w, &w->fakes[0], "killed");
    struct bg_error err = {0};
    assert_int_equal(ctl_ended(w->ctl, &err), CTL_FAILED);
    assert_non_null(strstr(err.text, "no worker is left"));
    world_destroy(w);
}

static void processes_that_do_not_start(void **state)
{
    (void)state;
    struct world *w = world_create("1x2", 4);
    world_start(w);
    for (int i = 0; i < 3; i++)
        ctl_spawn_ended(w->ctl, w->now, w->spawned[i], "exit code 78: no such library");
    assert_int_equal(w->spawned_count, 4); // the two, and two more before it gave up
    ctl_spawn_ended(w->ctl, w->now, w->spawned[3], "exit code 78: no such library");
    struct bg_error err = {0};
    assert_int_equal(ctl_ended(w->ctl, &err), CTL_FAILED);
    assert_non_null(strstr(err.text, "no such library"));
    world_destroy(w);

    w = world_create("1x2", 4); // one comes, the other never: after the time to join it goes on alone
    world_start(w);
    world_arrive(w);
    world_settle(w);
    assert_true(ctl_view(w->ctl).generation == 0);
    w->now += 1000000000;
    world_settle(w);
    assert_true(ctl_view(w->ctl).generation == 1);
    finishes(w);
}

static void waiting_and_trouble(void **state)
{
    (void)state;
    struct world *w = world_create("1x2", 6);
    world_start(w);
    world_arrive_all(w);
    world_until(w, 2);
    w->fakes[1].mute = true;
    world_settle(w);
    w->now += 5000000000;
    ctl_tick(w->ctl, w->now);
    expect_told(w, "event waiting");
    expect_told(w, "waits for the vote of member 2 (worker 1)");
    uint32_t generation = ctl_view(w->ctl).generation;
    struct message_trouble trouble = {.kind = MESSAGE_PEER_LOST, .peer = 1, .text = "\"lost\"\n\xff"};
    uint8_t payload[MESSAGE_SMALL];
    size_t bytes = message_trouble_encode(&trouble, payload, sizeof payload);
    say(w, &w->fakes[1], WIRE_TROUBLE, payload, bytes);
    assert_int_equal(ctl_view(w->ctl).generation, generation); // its loss may be on the way
    w->now += 20000000;
    ctl_tick(w->ctl, w->now);
    assert_int_equal(ctl_view(w->ctl).generation, generation + 1);
    expect_told(w, "\\\"lost\\\"\\n?");
    world_settle(w);
    unmute_all(w);
    finishes(w);

    w = world_create("1x2", 6);
    world_start(w);
    world_arrive_all(w);
    world_until(w, 2);
    trouble = (struct message_trouble){.kind = MESSAGE_FAILED, .status = BG_FULL, .text = "step-2: disk full"};
    bytes = message_trouble_encode(&trouble, payload, sizeof payload);
    say(w, &w->fakes[1], WIRE_TROUBLE, payload, bytes);
    struct bg_error err = {0};
    assert_int_equal(ctl_ended(w->ctl, &err), CTL_FAILED);
    assert_int_equal(err.status, BG_FULL);
    assert_non_null(strstr(err.text, "member 2: step-2: disk full"));
    world_destroy(w);
}

static void log_that_fails(void **state)
{
    (void)state;
    struct world *w = world_create("1x1", 6);
    world_start(w);
    world_arrive_all(w);
    world_until(w, 2);
    w->refuse_append = true;
    world_settle(w);
    struct bg_error err = {0};
    assert_int_equal(ctl_ended(w->ctl, &err), CTL_FAILED);
    assert_int_equal(err.status, BG_FULL);
    assert_true(w->fakes[0].version == w->commits); // no COMMIT without its record
    world_destroy(w);
}

static void bad_payloads(void **state)
{
    (void)state;
    static const enum wire_kind kinds[] = {WIRE_REPORT, WIRE_LOSS, WIRE_VOTE, WIRE_TROUBLE, WIRE_TASK_DONE};
    for (size_t i = 0; i < sizeof kinds / sizeof *kinds; i++) {
        struct world *w = world_create("1x2", 4);
        world_start(w);
        world_arrive_all(w);
        world_until(w, 2);
        say(w, &w->fakes[1], kinds[i], "junk", 4);
        expect_told(w, "drop 2");
        w->fakes[1].alive = false;
        fake_silence(&w->fakes[1]);
        finishes(w);
    }
}

// One of the things that may happen at any letter.
static void chaos_strikes(struct world *w, uint64_t *left)
{
    struct fake *f = w->fake_count ? &w->fakes[draw(w, w->fake_count)] : NULL;
    const uint64_t what = draw(w, 120);
    if (*left == 0 || ctl_ended(w->ctl, NULL) != CTL_RUNS)
        return;
    if (what < 6 && f && f->alive && f->linked) {
        fake_kill(w, f, "killed");
        --*left;
    } else if (what == 6) {
        world_restart(w);
        --*left;
    } else if (what == 7 && f && f->alive && f->linked && f->running) {
        struct message_trouble trouble = {.kind = (uint32_t)draw(w, 3), .peer = 1, .text = "late"};
        uint8_t payload[MESSAGE_SMALL];
        say(w, f, WIRE_TROUBLE, payload, message_trouble_encode(&trouble, payload, sizeof payload));
        --*left;
    } else if (what == 8) { // joins by hand
        fake_hello(w, fake_add(w, 0, MESSAGE_WORKER));
        --*left;
    } else if (what == 9 && f && f->alive && f->linked) { // declared lost, but lives
        f->linked = false;
        fake_silence(f);
        ctl_lost(w->ctl, w->now, f->id, "silent");
        --*left;
    } else if (what == 10 && w->spawned_count > 0) {
        uint64_t token = w->spawned[--w->spawned_count];
        ctl_spawn_ended(w->ctl, w->now, token, "died at once");
        --*left;
    }
}

// Everything at once, by seed: members and controllers die at any letter, processes come when they like.
static void chaos(void **state)
{
    (void)state;
    static const char *const shapes[] = {"2x2", "1x3", "3x1", "1+2", "4x1"};
    for (uint64_t seed = 1; seed <= 1000; seed++) {
        struct world *w = world_create(shapes[seed % 5], 12);
        w->random = seed;
        w->o.shadow = draw(w, 2);
        w->o.checkpoint_every = draw(w, 4);
        w->o.eval_every = draw(w, 4);
        w->o.recovery_checkpoint = draw(w, 8) == 0;
        w->o.schedule = (enum plan_schedule)draw(w, 3);
        w->o.chunks = w->o.schedule == PLAN_INTERLEAVED ? 2 : 1;
        w->o.group = 1u << draw(w, 2);
        w->o.split = draw(w, 2);
        uint64_t left = 12;
        world_start(w);
        for (int turn = 0; ctl_ended(w->ctl, NULL) == CTL_RUNS; turn++) {
            if (turn > 20000) {
                char text[256];
                ctl_describe(w->ctl, text, sizeof text);
                fail_msg("seed %llu: %s\n%s", (unsigned long long)seed, text, bg_str_text(&w->told));
            }
            if (!world_turn(w))
                w->now += 100000000;
            if (w->spawned_count > 0 && draw(w, 10) == 0)
                world_arrive(w);
            chaos_strikes(w, &left);
            for (size_t i = 0; i < w->fake_count; i++) // those without a controller seek it
                if (w->fakes[i].alive && !w->fakes[i].linked && draw(w, 4) == 0)
                    fake_hello(w, &w->fakes[i]);
        }
        expect_end(w, CTL_FINISHED);
        expect_curve(w, 12);
        world_destroy(w);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(start_to_end),
        cmocka_unit_test(steps_allocate_nothing),
        cmocka_unit_test(loss_in_a_step),
        cmocka_unit_test(old_frames),
        cmocka_unit_test(restart_after_the_log),
        cmocka_unit_test(restart_with_losses),
        cmocka_unit_test(joiner),
        cmocka_unit_test(shadow_promotion),
        cmocka_unit_test(zombie),
        cmocka_unit_test(mismatch),
        cmocka_unit_test(not_finite),
        cmocka_unit_test(scribe_dies),
        cmocka_unit_test(stop),
        cmocka_unit_test(rollback),
        cmocka_unit_test(fewer_and_fewer),
        cmocka_unit_test(processes_that_do_not_start),
        cmocka_unit_test(waiting_and_trouble),
        cmocka_unit_test(log_that_fails),
        cmocka_unit_test(bad_payloads),
        cmocka_unit_test(chaos),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
