// Scripted members for a controller: no endpoint, no clock, no disk. They follow the protocol in a few
// lines (they hold units, report, run whatever the plan gives them, vote, apply) with numbers that are functions of
// step and place alone, so that the one right curve is known. Every effect is checked as it happens: a commit is in the
// log before it is sent, commits come in order, equal what one process would have decided, no member is ever asked to
// compute with a unit that it does not hold, and nobody is told to begin while a member goes by an older plan.
#ifndef CTL_MEMBER_TEST_H
#define CTL_MEMBER_TEST_H

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
    uint64_t decisions;
    enum plan_rent rent;  // decided last,
    uint32_t zone;        // and where
    const double *speeds; // of three processes in turn; NULL: all are alike
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

static void expect_all_stopped(const struct world *w, uint32_t generation)
{
    for (size_t i = 0; i < w->fake_count; i++) {
        const struct fake *f = &w->fakes[i];
        if (f->alive && f->linked && f->running && f->generation != generation)
            fail_msg("generation %u begins, and member %u still works by that of %u\n%s", generation, f->id,
                     f->generation, bg_str_text(&w->told));
    }
}

static void host_send(void *arg, uint32_t member, const struct wire_frame *frame, const void *payload, size_t bytes)
{
    struct world *w = arg;
    if (frame->kind == WIRE_COMMIT) // the log knows it already
        assert_true(w->commits == frame->step + 1);
    if (frame->kind == WIRE_WELCOME || frame->kind == WIRE_PREPARE)
        assert_true(w->log_count > 0);
    if (frame->kind == WIRE_GENERATION)
        expect_all_stopped(w, frame->generation);
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

static double host_speed(void *arg, uint64_t token)
{
    const struct world *w = arg;
    return w->speeds ? w->speeds[token % 3] : 1;
}

// ---- Machines that are rented ----
static bg_status host_rent(void *arg, uint64_t token, struct bg_error *err)
{
    bg_str_addf(&((struct world *)arg)->told, "rent %s\n", plan_rent_name(ctl_token_rent(token)));
    return host_spawn(arg, token, MESSAGE_WORKER, err);
}

static void fake_silence(struct fake *f);

static void host_give_back(void *arg, uint64_t token)
{
    struct world *w = arg;
    bg_str_addf(&w->told, "give back %s\n", plan_rent_name(ctl_token_rent(token)));
    for (size_t i = 0; i < w->fake_count; i++)
        if (w->fakes[i].alive && w->fakes[i].token == token) {
            w->fakes[i].alive = w->fakes[i].linked = false;
            fake_silence(&w->fakes[i]);
        }
    for (size_t i = 0; i < w->spawned_count; i++)
        if (w->spawned[i] == token) {
            w->spawned_count--;
            memmove(w->spawned + i, w->spawned + i + 1, (w->spawned_count - i) * sizeof *w->spawned);
            memmove(w->spawned_role + i, w->spawned_role + i + 1, (w->spawned_count - i) * sizeof *w->spawned_role);
        }
}

// Whatever is decided must be decided again.
static bg_status host_decided(void *arg, const struct plan_snapshot *now, struct plan_choice decided,
                              struct bg_error *err)
{
    struct world *w = arg;
    char *line = plan_decision_format(w->o.budget->policy, now, decided);
    assert_int_equal(plan_decision_replay(line, err), BG_OK);
    bg_free(line);
    w->decisions++;
    w->rent = decided.rent;
    w->zone = decided.zone;
    return BG_OK;
}

static bg_status host_reshaped(void *arg, const struct plan_fleet_question *now, struct plan_fleet_shape decided,
                               struct bg_error *err)
{
    struct world *w = arg;
    char *line = plan_fleet_decision_format(now, decided);
    assert_int_equal(plan_fleet_decision_replay(line, err), BG_OK);
    assert_true(plan_fleet_nodes(decided) <= now->counts[now->count - 1]);
    bg_free(line);
    w->decisions++;
    return BG_OK;
}

static const struct ctl_host host = {.send = host_send,
                                     .drop = host_drop,
                                     .append = host_append,
                                     .spawn = host_spawn,
                                     .speed = host_speed,
                                     .rent = host_rent,
                                     .give_back = host_give_back,
                                     .decided = host_decided,
                                     .reshaped = host_reshaped,
                                     .event = host_event};

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
    if (!f->has_task || f->task_step > f->version)
        return;
    struct message_task task = f->task;
    f->has_task = false;
    uint8_t payload[MESSAGE_SMALL];
    if (f->task_step < f->version) { // these weights are gone
        struct message_task_done none = {.id = task.id, .status = BG_NOT_FOUND};
        message_fini(task.memory);
        say(w, f, WIRE_TASK_DONE, payload, message_task_done_encode(&none, payload, sizeof payload));
        return;
    }
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
    m.complete = f->rooted;
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
            f->task_step = f->task.loss_count;
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

#endif
