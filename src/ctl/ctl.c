// The controller from outside: making it, its log, its events, how it ended.
#include "ctl/ctl_int.h"

#include "base/mem.h"

#include <stdarg.h>
#include <stdio.h>
#include <string.h>

// A worker says that a peer is gone before we see it ourselves: so long its loss may take to arrive.
static const uint64_t TROUBLE_GRACE_NS = 20000000;
// A pause in the events that means that we did not run.
static const uint64_t SLEPT_NS = 300000000;
// Members that fail by themselves, without a step in between, until it is the job's fault.
enum { FAILURES_MAX = 3 };

bg_status ctl_create(const struct ctl_options *options, const struct ctl_host *host, struct bg_error *err,
                     struct ctl **out)
{
    const struct ctl_options *o = options;
    if (o->workers == 0 || o->stages == 0 || o->stages > PLAN_STAGES_MAX || o->micro_batches == 0 || o->units == 0 ||
        o->targets == 0 || o->steps == 0 || o->workers >= MESSAGE_MEMBERS_MAX)
        return bg_fail(err, BG_INVALID,
                       "controller of %u workers, %u stages, %u units, %u micro-batches, %llu steps: expected at least "
                       "one of each, at most %d workers",
                       o->workers, o->stages, o->units, o->micro_batches, (unsigned long long)o->steps,
                       MESSAGE_MEMBERS_MAX - 1);
    struct ctl *ctl = bg_alloc(sizeof *ctl);
    ctl->o = *o;
    ctl->host = *host;
    ctl->member_next = 1;
    ctl_rental_init(ctl);
    ctl->losses = bg_alloc_array((size_t)o->steps, sizeof *ctl->losses);
    ctl->commits = bg_alloc_array((size_t)o->steps, sizeof *ctl->commits);
    ctl_open_init(ctl);
    *out = ctl;
    return BG_OK;
}

void ctl_destroy(struct ctl *ctl)
{
    if (!ctl)
        return;
    ctl_generation_fini(ctl);
    ctl_members_fini(ctl);
    ctl_open_fini(ctl);
    bg_free(ctl->losses);
    bg_free(ctl->commits);
    bg_free(ctl->evaluations);
    bg_free(ctl);
}

const char *ctl_role_name(uint32_t role)
{
    return role == MESSAGE_SHADOW ? "shadow" : "worker";
}

// ---- The log ----
static void signature_hex(const struct ctl *ctl, char hex[65])
{
    for (size_t i = 0; i < sizeof ctl->o.signature; i++)
        snprintf(hex + 2 * i, 3, "%02x", ctl->o.signature[i]);
}

static bg_status restore_job(struct ctl *ctl, const struct store_record *r, struct bg_error *err)
{
    char hex[65];
    signature_hex(ctl, hex);
    ctl->restored = true;
    if (r->text && strcmp(r->text, hex) == 0)
        return BG_OK;
    return bg_fail(err, BG_MISMATCH, "the controller's log is of job %.12s, this is job %.12s: resume the job it is of",
                   r->text ? r->text : "?", hex);
}

static bg_status restore_commit(struct ctl *ctl, const struct store_record *r, struct bg_error *err)
{
    if (r->a != ctl->committed || r->a >= ctl->o.steps)
        return bg_fail(err, BG_CORRUPT,
                       "the controller's log commits step %llu where step %llu of %llu was open: move the log away and "
                       "resume the run, it goes on from the newest checkpoint",
                       (unsigned long long)r->a, (unsigned long long)ctl->committed, (unsigned long long)ctl->o.steps);
    ctl->losses[r->a] = r->x;
    ctl->commits[r->a] = (struct ctl_commit){r->y, (float)r->z, true, true};
    ctl->committed++;
    return BG_OK;
}

static void restore_finished(struct ctl *ctl, const struct store_record *r)
{
    unsigned byte = 0;
    size_t i = 0;
    while (i < 32 && r->text && strlen(r->text) == 64 && sscanf(r->text + 2 * i, "%2x", &byte) == 1)
        ctl->weights_sha256[i++] = (uint8_t)byte;
    ctl->hashed = i == 32;
}

bg_status ctl_restore(struct ctl *ctl, const struct store_record *r, struct bg_error *err)
{
    switch (r->kind) {
    case STORE_JOB:
        return restore_job(ctl, r, err);
    case STORE_MEMBER:
        if (r->a == 0 || r->a >= UINT32_MAX || ctl_member_find(ctl, (uint32_t)r->a))
            return bg_fail(err, BG_CORRUPT,
                           "the controller's log names member %llu twice: move the log away and resume the run",
                           (unsigned long long)r->a);
        ctl_members_restore(ctl, r);
        return BG_OK;
    case STORE_LOST:
        ctl_members_restore(ctl, r);
        return BG_OK;
    case STORE_GENERATION:
        ctl->generation = r->a > ctl->generation ? (uint32_t)r->a : ctl->generation;
        ctl->sent = ctl->generation;
        return BG_OK;
    case STORE_COMMIT:
        return restore_commit(ctl, r, err);
    case STORE_ROLLBACK:
        if (r->a > ctl->o.steps)
            return bg_fail(err, BG_CORRUPT, "the controller's log goes to step %llu of %llu: move the log away",
                           (unsigned long long)r->a, (unsigned long long)ctl->o.steps);
        ctl->committed = r->a;
        return BG_OK;
    case STORE_EVALUATION:
        ctl_evaluation_add(ctl, &(struct message_evaluation){r->a, r->b, r->x, r->y});
        return BG_OK;
    case STORE_CHECKPOINT: // what lies on the disk counts: ctl_start
        return BG_OK;
    case STORE_FINISHED:
        restore_finished(ctl, r);
        return BG_OK;
    }
    return bg_fail(err, BG_CORRUPT, "the controller's log holds a record of kind %d", (int)r->kind);
}

// The checkpoint carries the curve up to it; the log must agree where both know.
static bg_status take_checkpoint(struct ctl *ctl, const struct ctl_checkpoint *newest, struct bg_error *err)
{
    if (newest->step > ctl->o.steps)
        return bg_fail(err, BG_MISMATCH, "%s is of step %llu, the job has %llu", newest->directory,
                       (unsigned long long)newest->step, (unsigned long long)ctl->o.steps);
    for (uint64_t t = 0; t < newest->step; t++) {
        struct ctl_commit *known = &ctl->commits[t];
        if (known->loss_known && memcmp(&ctl->losses[t], &newest->losses[t], 8) != 0)
            return bg_fail(err, BG_MISMATCH,
                           "the controller's log and %s disagree on the loss of step %llu (%.17g and %.17g): they are "
                           "not of one run. Move the log away to go on from the checkpoint",
                           newest->directory, (unsigned long long)t, ctl->losses[t], newest->losses[t]);
        ctl->losses[t] = newest->losses[t];
        known->loss_known = true;
    }
    for (size_t i = 0; i < newest->evaluation_count; i++)
        ctl_evaluation_add(ctl, &newest->evaluations[i]);
    ctl->checkpoint_step = newest->step;
    if (newest->directory)
        snprintf(ctl->checkpoint, sizeof ctl->checkpoint, "%s", newest->directory);
    return BG_OK;
}

// The open step: the log's, unless the checkpoint is ahead of it (the log was moved away, or a controller died before
// it heard of the checkpoint) or the log lacks the curve from the checkpoint on. The log says so if it is not its own.
static bool settle_step(struct ctl *ctl)
{
    uint64_t t = ctl->checkpoint_step;
    while (t < ctl->committed && ctl->commits[t].loss_known)
        t++;
    if (t == ctl->committed)
        return true;
    const struct store_record record = {.kind = STORE_ROLLBACK, .a = ctl->checkpoint_step};
    ctl->committed = ctl->checkpoint_step;
    return ctl_append(ctl, &record);
}

bg_status ctl_start(struct ctl *ctl, uint64_t now_ns, const struct ctl_checkpoint *newest, struct bg_error *err)
{
    ctl->now_ns = ctl->start_ns = ctl->moved_ns = ctl->said_ns = now_ns;
    ctl->slept_until_ns = 0;
    ctl->token_next = now_ns + 1; // processes of an earlier controller may live: theirs were lower
    if (ctl->phase == CTL_OVER) { // a loss could not be recorded
        *err = ctl->error;
        return err->status;
    }
    bg_status status = newest ? take_checkpoint(ctl, newest, err) : BG_OK;
    if (status)
        return status;
    char hex[65];
    signature_hex(ctl, hex);
    const struct store_record job = {.kind = STORE_JOB, .text = hex};
    ctl_members_gather(ctl);
    if ((!ctl->restored && !ctl_append(ctl, &job)) || !settle_step(ctl)) {
        *err = ctl->error;
        return err->status;
    }
    if (newest && newest->step == ctl->committed && newest->step > 0 && ctl_stops_here(ctl)) {
        if (ctl->committed < ctl->o.steps)
            ctl_leave(ctl, CTL_STOPPED);
        else if (ctl->hashed)
            ctl_leave(ctl, CTL_FINISHED);
    }
    ctl->ending = ctl_stops_here(ctl);
    ctl_members_spawn(ctl);
    return BG_OK;
}

// Ticks come every few milliseconds. If they did not, we were stopped, and members may have given us up and closed
// their links: they will be back.
void ctl_clock(struct ctl *ctl, uint64_t now_ns)
{
    if (now_ns > ctl->now_ns + SLEPT_NS)
        ctl->slept_until_ns = now_ns + SLEPT_NS;
    ctl->now_ns = now_ns;
}

// ---- Effects ----
void ctl_fail(struct ctl *ctl, const struct bg_error *err)
{
    if (ctl->phase == CTL_OVER)
        return;
    ctl->error = *err;
    ctl_leave(ctl, CTL_FAILED);
}

void ctl_failf(struct ctl *ctl, bg_status status, const char *format, ...)
{
    struct bg_error err;
    char text[sizeof err.text];
    va_list args;
    va_start(args, format);
    vsnprintf(text, sizeof text, format, args);
    va_end(args);
    bg_fail(&err, status, "%s", text);
    ctl_fail(ctl, &err);
}

bool ctl_append(struct ctl *ctl, const struct store_record *record)
{
    struct bg_error err = {0};
    if (ctl->host.append(ctl->host.arg, record, &err) == BG_OK)
        return true;
    ctl_fail(ctl, &err);
    return false;
}

void ctl_send(struct ctl *ctl, uint32_t member, enum wire_kind kind, const void *payload, size_t bytes)
{
    const struct wire_frame frame = {.kind = (uint16_t)kind,
                                     .a = kind == WIRE_PREPARE ? ctl->sent : 0,
                                     .generation = ctl->generation,
                                     .job = ctl->o.job,
                                     .step = ctl->committed,
                                     .bytes = bytes,
                                     .check = wire_check(payload, bytes)};
    ctl->host.send(ctl->host.arg, member, &frame, payload, bytes);
}

void ctl_leave(struct ctl *ctl, enum ctl_end end)
{
    ctl->phase = CTL_OVER;
    ctl->end = end;
    for (uint32_t i = 0; i < ctl->member_count; i++)
        if (ctl->members[i].presence == CTL_LIVE)
            ctl_send(ctl, ctl->members[i].id, WIRE_LEAVE, NULL, 0);
}

// ---- Events ----
static void take_trouble(struct ctl *ctl, const struct ctl_member *member, uint32_t generation, const void *payload,
                         size_t bytes)
{
    struct bg_error err = {0};
    struct message_trouble trouble;
    if (message_trouble_decode(payload, bytes, &err, &trouble)) {
        ctl_member_lose(ctl, member->id, err.text, true);
        return;
    }
    json_t *fields = json_object();
    json_object_set_new(fields, "member", ctl_number(member->id));
    json_object_set_new(fields, "peer", ctl_number(trouble.peer));
    json_object_set_new(fields, "text", ctl_text(trouble.text));
    ctl_say(ctl, "trouble", fields);
    if (trouble.kind == MESSAGE_FAILED) {
        const bg_status status = bg_status_told(trouble.status);
        if (bg_status_scope(status) == BG_SCOPE_PROCESS && ++ctl->failures < FAILURES_MAX)
            ctl_member_lose(ctl, member->id, trouble.text, true);
        else
            ctl_failf(ctl, status, "member %u: %s", member->id, trouble.text);
    } else if (generation != ctl->generation || ctl->phase != CTL_RUN) {
        return; // what it complains of is being mended
    } else if (trouble.kind != MESSAGE_PEER_LOST) {
        ctl_generation_begin(ctl, CTL_THE_SAME, false, "trouble of member %u", member->id);
    } else if (!ctl->trouble) {
        ctl->trouble = true;
        ctl->trouble_until_ns = ctl->now_ns + TROUBLE_GRACE_NS;
    }
}

void ctl_frame(struct ctl *ctl, uint64_t now_ns, uint32_t member, const struct wire_frame *frame, const void *payload)
{
    ctl_clock(ctl, now_ns);
    struct ctl_member *m = ctl_member_find(ctl, member);
    if (ctl->phase == CTL_OVER || !m || m->presence != CTL_LIVE || frame->job != ctl->o.job)
        return;
    if (wire_check(payload, frame->bytes) != frame->check) {
        char text[160];
        wire_frame_describe(frame, text, sizeof text);
        ctl_member_lose(ctl, member, text, true);
        return;
    }
    if (frame->kind == WIRE_TASK_DONE || frame->kind == WIRE_TROUBLE) { // true whatever has begun since
        ctl->moved_ns = now_ns;
        if (frame->kind == WIRE_TASK_DONE)
            ctl_take_task_done(ctl, m, payload, frame->bytes);
        else
            take_trouble(ctl, m, frame->generation, payload, frame->bytes);
        return;
    }
    if (frame->generation != ctl->generation)
        return;
    ctl->moved_ns = now_ns;
    if (frame->kind == WIRE_REPORT)
        ctl_take_report(ctl, m, payload, frame->bytes);
    else if (ctl->phase != CTL_RUN || !m->in)
        return;
    else if (frame->kind == WIRE_LOSS)
        ctl_take_loss(ctl, m, frame, payload);
    else if (frame->kind == WIRE_PROOF)
        ctl_take_proof(ctl, m, frame, payload);
    else if (frame->kind == WIRE_VOTE)
        ctl_take_vote(ctl, m, frame, payload);
}

void ctl_stop(struct ctl *ctl, uint64_t now_ns)
{
    ctl_clock(ctl, now_ns);
    ctl->stop = true;
    if (ctl->phase != CTL_GATHER)
        return;
    ctl->ending = true; // no step is open
    if (ctl->checkpoint_step == ctl->committed)
        ctl_leave(ctl, CTL_STOPPED);
}

void ctl_tick(struct ctl *ctl, uint64_t now_ns)
{
    ctl_clock(ctl, now_ns);
    if (ctl->phase == CTL_OVER || ctl->phase == CTL_FRESH)
        return;
    ctl_members_tick(ctl);
    if (ctl->trouble && ctl->phase == CTL_RUN && now_ns >= ctl->trouble_until_ns)
        ctl_generation_begin(ctl, CTL_THE_SAME, false, "%s", "a link between workers broke");
    uint64_t since = ctl->moved_ns > ctl->said_ns ? ctl->moved_ns : ctl->said_ns;
    if (ctl->phase == CTL_OVER || !ctl->o.patience_ns || !ctl->o.workers || now_ns < since + ctl->o.patience_ns)
        return;
    ctl->said_ns = now_ns;
    char text[512];
    ctl_describe(ctl, text, sizeof text);
    json_t *fields = json_object();
    json_object_set_new(fields, "text", ctl_text(text));
    ctl_say(ctl, "waiting", fields);
}

// ---- Looking at it ----
enum ctl_end ctl_ended(const struct ctl *ctl, struct bg_error *err)
{
    if (ctl->end == CTL_FAILED && err)
        *err = ctl->error;
    return ctl->end;
}

struct ctl_view ctl_view(const struct ctl *ctl)
{
    struct ctl_view view = {.committed = ctl->committed,
                            .losses = ctl->losses,
                            .generation = ctl->generation,
                            .workers = ctl_members_live(ctl, MESSAGE_WORKER),
                            .deaths = ctl->deaths,
                            .generations = ctl->generations,
                            .leaves_recomputed = ctl->leaves,
                            .forwards_recomputed = ctl->forwards,
                            .steps_redone = ctl->redone,
                            .rollbacks = ctl->rollbacks,
                            .fenced = ctl->fenced,
                            .evaluations = ctl->evaluations,
                            .evaluation_count = ctl->evaluation_count,
                            .hashed = ctl->hashed};
    memcpy(view.checkpoint, ctl->checkpoint, sizeof view.checkpoint);
    memcpy(view.weights_sha256, ctl->weights_sha256, sizeof view.weights_sha256);
    return view;
}

static void describe_step(const struct ctl *ctl, char *text, size_t size)
{
    const unsigned long long step = ctl->committed;
    if (ctl->task.active) {
        snprintf(text, size, "generation %u, step %llu: waits for the %s of step %llu by member %u", ctl->generation,
                 step,
                 ctl->task.evaluate     ? "evaluation"
                 : ctl->task.checkpoint ? "checkpoint"
                                        : "hash",
                 (unsigned long long)ctl->task.step, ctl->task.scribe);
        return;
    }
    for (uint32_t i = 0; i < ctl->member_count; i++) {
        const struct ctl_member *m = &ctl->members[i];
        if (!m->in || m->voted)
            continue;
        snprintf(text, size, "generation %u, step %llu: waits for the vote of member %u (%s %u)", ctl->generation, step,
                 m->id, m->rank == CTL_NO_RANK ? "follower" : "worker", m->worker);
        return;
    }
    uint32_t missing = 0;
    while (missing < ctl->o.micro_batches && ctl->open.loss_known[missing])
        missing++;
    snprintf(text, size, "generation %u, step %llu: waits for the loss of micro-batch %u", ctl->generation, step,
             missing);
}

void ctl_describe(const struct ctl *ctl, char *text, size_t size)
{
    const uint32_t live = ctl_members_live(ctl, MESSAGE_WORKER);
    switch (ctl->phase) {
    case CTL_FRESH:
        snprintf(text, size, "not started");
        return;
    case CTL_GATHER:
        if (ctl_rents(ctl) && !ctl->o.workers) {
            snprintf(text, size, "step %llu: no machine is rented", (unsigned long long)ctl->committed);
            return;
        }
        snprintf(text, size, "step %llu: waits for %u of %u workers, %u processes are on their way",
                 (unsigned long long)ctl->committed, ctl->o.workers > live ? ctl->o.workers - live : 0, ctl->o.workers,
                 ctl_spawns(ctl, MESSAGE_WORKER) + ctl_spawns(ctl, MESSAGE_SHADOW));
        return;
    case CTL_PREPARE:
        for (uint32_t i = 0; i < ctl->member_count; i++)
            if (ctl_member_awaited(&ctl->members[i])) {
                snprintf(text, size, "generation %u, step %llu: waits for the report of member %u", ctl->generation,
                         (unsigned long long)ctl->committed, ctl->members[i].id);
                return;
            }
        break;
    case CTL_RUN:
        describe_step(ctl, text, size);
        return;
    case CTL_OVER:
        break;
    }
    snprintf(text, size, "nothing");
}
