// Work on a whole version of the weights: evaluations and checkpoints where they are due, and the end of the job. One
// task at a time; the scribe has it. The scribe works on a copy that it makes before it takes in the next COMMIT, so a
// checkpoint holds nobody up: steps are committed meanwhile. An evaluation does (its result belongs to the run, and
// could not be had again if the scribe died), and so does whatever is due while a task still runs.
#include "ctl/ctl_int.h"

#include "base/hash.h"
#include "base/mem.h"

#include <stdio.h>
#include <string.h>

const struct ctl_member *ctl_scribe(const struct ctl *ctl)
{
    const struct ctl_member *found = NULL;
    const struct plan *plan = &ctl->steady;
    uint8_t *covered = bg_alloc_array((size_t)plan->workers * plan->units + 1, 1);
    for (uint32_t i = 0; i < plan->seat_count; i++) {
        const struct plan_stage *stage = &plan->stages[plan->seats[i].stage];
        memset(covered + (size_t)plan->seats[i].worker * plan->units + stage->unit_first, 1,
               stage->unit_end - stage->unit_first);
    }
    for (uint32_t i = 0; i < plan->follow_count; i++) {
        const struct plan_follow *f = &plan->follows[i];
        memset(covered + (size_t)f->worker * plan->units + f->unit_first, 1, f->unit_end - f->unit_first);
    }
    for (uint32_t i = 0; i < ctl->member_count; i++) {
        const struct ctl_member *m = &ctl->members[i];
        if (m->in && m->worker < plan->workers && !memchr(covered + (size_t)m->worker * plan->units, 0, plan->units) &&
            (!found || m->role == MESSAGE_SHADOW))
            found = m;
    }
    bg_free(covered);
    return found;
}

void ctl_evaluation_add(struct ctl *ctl, const struct message_evaluation *evaluation)
{
    size_t at = 0;
    while (at < ctl->evaluation_count && ctl->evaluations[at].step < evaluation->step)
        at++;
    if (at < ctl->evaluation_count && ctl->evaluations[at].step == evaluation->step)
        return;
    if (ctl->evaluation_count == ctl->evaluation_capacity) {
        ctl->evaluation_capacity = 2 * ctl->evaluation_capacity + 8;
        ctl->evaluations = bg_realloc_array(ctl->evaluations, ctl->evaluation_capacity, sizeof *ctl->evaluations);
    }
    memmove(ctl->evaluations + at + 1, ctl->evaluations + at, (ctl->evaluation_count - at) * sizeof *ctl->evaluations);
    ctl->evaluations[at] = *evaluation;
    ctl->evaluation_count++;
}

static bool evaluated(const struct ctl *ctl, uint64_t step)
{
    for (size_t i = 0; i < ctl->evaluation_count; i++)
        if (ctl->evaluations[i].step == step)
            return true;
    return false;
}

static bool every(uint64_t interval, uint64_t step)
{
    return interval && step % interval == 0;
}

// What has to be done with the weights of the open step before it may be committed, or before the end.
static struct ctl_task task_due(const struct ctl *ctl)
{
    const uint64_t step = ctl->committed;
    const bool last = step == ctl->o.steps, stops = ctl->ending && !last;
    struct ctl_task due = {.step = step};
    if (step == 0)
        return due;
    due.evaluate = ctl->o.evaluates && !stops && (last || every(ctl->o.eval_every, step)) && !evaluated(ctl, step);
    due.checkpoint =
        ctl->checkpoint_step != step && (last || stops || ctl->task.owed || every(ctl->o.checkpoint_every, step));
    due.hash = last && !ctl->hashed;
    due.active = due.evaluate || due.checkpoint || due.hash;
    return due;
}

bool ctl_tasks_due(const struct ctl *ctl)
{
    return ctl->task.active || task_due(ctl).active;
}

bool ctl_task_blocks(const struct ctl *ctl)
{
    const struct ctl_task *task = &ctl->task;
    if (!task->active)
        return false;
    return task->evaluate || task->hash || (task->step != ctl->committed && task_due(ctl).active);
}

static void send_task(struct ctl *ctl, uint32_t scribe)
{
    struct ctl_task *task = &ctl->task;
    struct message_task message = {.id = task->id,
                                   .evaluate = task->evaluate,
                                   .checkpoint = task->checkpoint,
                                   .hash = task->hash,
                                   .seconds = 1e-9 * (double)(ctl->now_ns - ctl->start_ns),
                                   .evaluations = ctl->evaluations,
                                   .loss_count = task->step,
                                   .losses = ctl->losses};
    while (message.evaluation_count < ctl->evaluation_count &&
           ctl->evaluations[message.evaluation_count].step <= task->step)
        message.evaluation_count++;
    task->scribe = scribe;
    task->generation = ctl->generation;
    size_t capacity = message_task_bytes(&message);
    uint8_t *payload = bg_alloc(capacity);
    ctl_send(ctl, scribe, WIRE_TASK, payload, message_task_encode(&message, payload, capacity));
    bg_free(payload);
}

static void finish(struct ctl *ctl)
{
    if (ctl->committed < ctl->o.steps) {
        ctl_leave(ctl, CTL_STOPPED);
        return;
    }
    char hex[65];
    for (size_t i = 0; i < 32; i++)
        snprintf(hex + 2 * i, 3, "%02x", ctl->weights_sha256[i]);
    const struct store_record record = {.kind = STORE_FINISHED, .a = ctl->committed, .text = hex};
    if (ctl_append(ctl, &record))
        ctl_leave(ctl, CTL_FINISHED);
}

void ctl_tasks_next(struct ctl *ctl)
{
    if (ctl->phase != CTL_RUN)
        return;
    if (ctl->task.active && ctl->task.step != ctl->committed) { // the scribe has its copy
        const struct ctl_member *scribe = ctl_member_find(ctl, ctl->task.scribe);
        if (scribe && scribe->in) {
            if (ctl->task.generation != ctl->generation) // is it at work? If not, it says so
                send_task(ctl, scribe->id);
            return;
        }
        ctl->task = (struct ctl_task){.owed = true};
    }
    if (!ctl->task.active) {
        ctl->task = task_due(ctl);
        if (!ctl->task.active) {
            if (ctl->ending)
                finish(ctl);
            return;
        }
        ctl->task.id = ((uint64_t)ctl->generation << 32) + ++ctl->task_next; // new after a restart, too
    }
    const struct ctl_member *scribe = ctl_scribe(ctl);
    if (scribe)
        send_task(ctl, scribe->id);
    else
        ctl_generation_begin(ctl, CTL_EVERYBODY, false, "nobody holds every unit");
}

static void say_evaluated(struct ctl *ctl, const struct message_task_done *done)
{
    json_t *fields = json_object();
    json_object_set_new(fields, "step", ctl_number(done->evaluation.step));
    json_object_set_new(fields, "loss", json_real(done->evaluation.loss));
    json_object_set_new(fields, "perplexity", json_real(done->perplexity));
    json_object_set_new(fields, "bits_per_byte", json_real(done->evaluation.bits_per_byte));
    json_object_set_new(fields, "tokens", ctl_number(done->evaluation.tokens));
    json_object_set_new(fields, "seconds", json_real(done->evaluate_seconds));
    ctl_say(ctl, "evaluated", fields);
}

static void say_checkpoint(struct ctl *ctl, const struct message_task_done *done)
{
    json_t *fields = json_object();
    json_object_set_new(fields, "step", ctl_number(ctl->checkpoint_step));
    json_object_set_new(fields, "directory", ctl_text(done->directory));
    json_object_set_new(fields, "seconds", json_real(done->checkpoint_seconds));
    ctl_say(ctl, "checkpoint", fields);
}

// False: the log could not be written.
static bool take_evaluation(struct ctl *ctl, const struct message_task_done *done)
{
    const struct message_evaluation *e = &done->evaluation;
    const struct store_record record = {
        .kind = STORE_EVALUATION, .a = e->step, .b = e->tokens, .x = e->loss, .y = e->bits_per_byte};
    if (!ctl_append(ctl, &record))
        return false;
    ctl_evaluation_add(ctl, e);
    say_evaluated(ctl, done);
    return true;
}

static bool take_checkpoint(struct ctl *ctl, const struct message_task_done *done)
{
    const struct store_record record = {.kind = STORE_CHECKPOINT, .a = ctl->task.step, .text = done->directory};
    if (!ctl_append(ctl, &record))
        return false;
    ctl->checkpoint_step = ctl->task.step;
    snprintf(ctl->checkpoint, sizeof ctl->checkpoint, "%s", done->directory);
    say_checkpoint(ctl, done);
    return true;
}

// A task is about a version, not about a generation: what was done counts, whoever has been lost meanwhile.
void ctl_take_task_done(struct ctl *ctl, struct ctl_member *member, const void *payload, size_t bytes)
{
    struct bg_error err = {0};
    struct message_task_done done;
    bg_status status = message_task_done_decode(payload, bytes, &err, &done);
    if (status) {
        ctl_member_lose(ctl, member->id, err.text, true);
        return;
    }
    const struct ctl_task *task = &ctl->task;
    if (!task->active || done.id != task->id || member->id != task->scribe)
        return;
    if (done.status == BG_NOT_FOUND && task->step != ctl->committed) { // it has no copy of those weights
        ctl->task = (struct ctl_task){.owed = task->checkpoint};
        ctl_tasks_next(ctl);
        return;
    }
    if (done.status) {
        ctl_failf(ctl, bg_status_told(done.status), "member %u at step %llu: %s", member->id,
                  (unsigned long long)task->step, done.text);
        return;
    }
    if (task->evaluate != done.evaluated || task->checkpoint != done.checkpointed || task->hash != done.hashed ||
        (task->evaluate && done.evaluation.step != task->step)) {
        ctl_member_lose(ctl, member->id, "TASK_DONE of another task than the one it was given", true);
        return;
    }
    if ((done.evaluated && !take_evaluation(ctl, &done)) || (done.checkpointed && !take_checkpoint(ctl, &done)))
        return;
    if (done.hashed) {
        memcpy(ctl->weights_sha256, done.weights_sha256, sizeof ctl->weights_sha256);
        ctl->hashed = true;
    }
    ctl->task.active = false;
    ctl_tasks_next(ctl);
    ctl_try_commit(ctl);
}
