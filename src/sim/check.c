// What must hold, seen from outside: frames on the network, records in the log, the state of every process after every
// turn, and the reference that one process computed. Nothing here asks the code under test whether it is right.
#include "sim/world.h"

#include <stdio.h>
#include <string.h>

static bool same_bits(double a, double b)
{
    return memcmp(&a, &b, sizeof a) == 0;
}

// ---- A worker's state ----

// Every parameter that it holds has the weights and moments that the reference has after so many steps.
static void check_state(struct sim_process *p, const struct worker_view *view)
{
    struct sim_world *w = p->world;
    const struct sim_job *job = w->job;
    struct optim_state state = executor_state(view->executor);
    if (w->o->control == SIM_TWICE && view->version == 2)
        for (uint32_t i = 0; i < job->model->param_count; i++)
            if (executor_holds_param(view->executor, i))
                state.weights[job->model->params[i].offset] += 0.5f;
    for (uint32_t i = 0; i < job->model->param_count; i++) {
        if (!executor_holds_param(view->executor, i))
            continue;
        if (sim_job_param_hash(job, i, &state) == job->hashes[view->version * job->model->param_count + i]) {
            p->verified |= (uint64_t)1 << i;
            continue;
        }
        sim_fail(w, "pid %u member %u: after %llu steps %s has other bits than the reference", p->pid, p->member,
                 (unsigned long long)view->version, job->model->params[i].name);
        return;
    }
}

void sim_check_turn(struct sim_process *p)
{
    struct sim_world *w = p->world;
    struct worker_view view = worker_view(p->worker);
    if (view.version > w->scenario.steps)
        sim_fail(w, "pid %u: version %llu of a job of %llu steps", p->pid, (unsigned long long)view.version,
                 (unsigned long long)w->scenario.steps);
    if (view.member == p->member && view.generation < p->generation)
        sim_fail(w, "pid %u member %u went back from generation %u to %u", p->pid, p->member, p->generation,
                 view.generation);
    if (view.member != p->member) { // fenced: its state is void
        p->version = view.version;
        p->voted = 0;
        p->planned = 0;
    }
    p->member = view.member;
    p->generation = view.generation;
    if (view.frames_refused < p->stale_frames)
        sim_fail(w, "pid %u member %u acted on a frame of a generation before %u: refused %llu of %llu", p->pid,
                 p->member, p->reported, (unsigned long long)view.frames_refused, (unsigned long long)p->stale_frames);
    if (view.version != p->version) {
        p->verified = 0;
        p->leaves_before = p->leaves;
    }
    if (view.version != p->version && !p->new_generation) { // by a COMMIT alone
        if (view.version != p->version + 1)
            sim_fail(w, "pid %u member %u went from version %llu to %llu in one step", p->pid, p->member,
                     (unsigned long long)p->version, (unsigned long long)view.version);
        else
            check_state(p, &view);
        sim_note(w, p, "is at version %llu", (unsigned long long)view.version);
    }
    for (uint32_t i = 0; p->verified && i < w->job->model->param_count; i++)
        if (!executor_holds_param(view.executor, i))
            p->verified &= ~((uint64_t)1 << i);
    p->version = view.version;
    p->new_generation = false;
    if (view.version < w->scenario.steps) // at the end, lists run for the state that they move
        w->leaves += view.leaves - p->leaves;
    p->leaves = view.leaves;
    if (p->struck)
        w->leaves_lost += p->leaves - p->leaves_before;
    p->struck = false;
}

// ---- Frames ----

static bool is_member(const struct sim_world *w, uint32_t id)
{
    bool member = false;
    for (size_t i = 0; i < w->control.log_count; i++) {
        const struct store_record *record = &w->control.log[i];
        if (record->a == id && (record->kind == STORE_MEMBER || record->kind == STORE_LOST))
            member = record->kind == STORE_MEMBER;
    }
    return member;
}

// Before others begin by a plan, every member that goes by an older one has stopped: they will write where it reads.
static void check_all_stopped(struct sim_world *w, uint32_t generation)
{
    for (size_t i = 0; i < w->process_count; i++) {
        const struct sim_process *p = w->processes[i];
        if (p->worker && !p->dying && p->planned && p->reported <= p->planned && is_member(w, p->member))
            sim_fail(w, "GENERATION %u begins, and pid %u member %u still works by that of %u", generation, p->pid,
                     p->member, p->planned);
    }
}

static void check_generation_sent(struct sim_world *w, struct sim_process *to, const struct wire_frame *frame,
                                  const void *payload)
{
    struct message_generation m;
    struct bg_error err;
    if (message_generation_decode(payload, (size_t)frame->bytes, &err, &m)) {
        sim_fail(w, "the controller sent a GENERATION that cannot be read: %s", err.text);
        return;
    }
    struct sim_votes *votes = &w->votes;
    if (frame->generation < votes->generation)
        sim_fail(w, "GENERATION %u was sent after %u", frame->generation, votes->generation);
    if (frame->generation != votes->generation) {
        check_all_stopped(w, frame->generation);
        *votes = (struct sim_votes){.controller = w->control.process->pid,
                                    .generation = frame->generation,
                                    .step = m.step,
                                    .member_count = m.member_count};
        for (uint32_t i = 0; i < m.member_count && i < SIM_PROCESSES_MAX; i++)
            votes->members[i] = m.members[i].member;
    }
    to->planned = frame->generation;
    if (m.step != w->committed)
        sim_fail(w, "GENERATION %u begins at step %llu, the log at %llu", frame->generation, (unsigned long long)m.step,
                 (unsigned long long)w->committed);
    if (m.has_commit && m.commit.step >= w->committed)
        sim_fail(w, "GENERATION %u carries COMMIT %llu, which the log does not have", frame->generation,
                 (unsigned long long)m.commit.step);
    message_fini(m.memory);
}

// The others have gone on without it: it may read what they write there by now, and nobody believes what it says. Not
// so of a member: it was stopped first.
static bool fenced(const struct sim_process *p)
{
    return p->generation < p->world->votes.generation && !is_member(p->world, p->member);
}

bool sim_left_behind(const struct sim_process *p)
{
    return fenced(p) || p->world->control.finished;
}

// Nobody of the newest generation is gone, and neither is the controller that began it.
static bool whole(const struct sim_world *w)
{
    uint32_t there = 0;
    for (uint32_t i = 0; i < w->votes.member_count; i++)
        for (size_t p = 0; p < w->process_count; p++)
            there +=
                w->processes[p]->worker && !w->processes[p]->dying && w->processes[p]->member == w->votes.members[i];
    const struct sim_process *c = w->control.process;
    return c && c->pid == w->votes.controller && there == w->votes.member_count && w->generation == w->votes.generation;
}

// A bad frame is one that was damaged on purpose, nothing else.
static void check_trouble(struct sim_world *w, const struct sim_process *from, const struct wire_frame *frame,
                          const void *payload)
{
    struct message_trouble m;
    struct bg_error err;
    if (message_trouble_decode(payload, (size_t)frame->bytes, &err, &m))
        sim_fail(w, "pid %u sent a TROUBLE that cannot be read: %s", from->pid, err.text);
    else if (m.kind == MESSAGE_BAD_FRAME && !w->corrupted && !sim_left_behind(from))
        sim_fail(w, "pid %u found a bad frame that was good: %s", from->pid, m.text);
    else if (m.kind == MESSAGE_WAITS && !w->slowed && !sim_left_behind(from) && whole(w))
        sim_fail(w, "pid %u waits for what nobody makes: %s", from->pid, m.text);
    else
        sim_note(w, from, "trouble: %s", m.text);
}

void sim_check_sent(struct sim_world *w, const struct sim_delivery *d)
{
    struct sim_process *from = d->from;
    const struct wire_frame *frame = d->frame;
    const void *payload = d->payload;
    sim_mix(w, frame->kind | (uint64_t)frame->generation << 16, (uint64_t)frame->a << 32 | frame->b,
            frame->step << 32 | frame->c);
    if (from == w->control.process) {
        if (frame->kind == WIRE_GENERATION)
            check_generation_sent(w, d->to, frame, payload);
        if (frame->kind == WIRE_COMMIT && frame->step >= w->committed)
            sim_fail(w, "COMMIT of step %llu was sent before the log had it", (unsigned long long)frame->step);
    } else if (frame->kind == WIRE_REPORT) {
        if (frame->generation < from->reported && from->member == frame->from)
            sim_fail(w, "pid %u reports for generation %u after %u", from->pid, frame->generation, from->reported);
        from->reported = frame->generation;
    } else if (frame->kind == WIRE_VOTE) {
        from->voted = frame->step + 1;
    } else if (frame->kind == WIRE_TROUBLE) {
        check_trouble(w, from, frame, payload);
    }
    if (w->o->say && from != w->control.process) {
        char text[160];
        wire_frame_describe(frame, text, sizeof text);
        sim_note(w, from, "sends %s", text);
    }
}

void sim_check_delivered(void *arg, const struct sim_delivery *d, struct wire_frame *frame)
{
    struct sim_world *w = arg;
    struct sim_process *to = d->to;
    sim_mix(w, 9, (uint64_t)d->from_id << 32 | d->to_id, frame->kind);
    if (to == w->control.process) {
        struct sim_votes *votes = &w->votes;
        for (uint32_t i = 0; i < votes->member_count && i < SIM_PROCESSES_MAX; i++)
            if (frame->kind == WIRE_VOTE && frame->generation == votes->generation && frame->step == votes->step &&
                votes->members[i] == frame->from)
                votes->voted[i] = true;
        return;
    }
    if (frame->kind == WIRE_GENERATION) {
        to->new_generation = true;
        to->voted = 0;
    }
    if (frame->kind < WIRE_ACTIVATION || frame->generation >= to->reported)
        return;
    to->stale_frames++;
    if (w->o->control == SIM_STALE)
        frame->generation = to->generation;
}

// The promise of comm.h: what lies in reserved memory keeps its bytes until the step's end. Who has voted for the step
// or has stopped for a newer generation, or is at a newer version, does not read it any more.
void sim_check_changed(void *arg, const struct sim_delivery *d, const char *when)
{
    struct sim_world *w = arg;
    const struct sim_process *to = d->to;
    if (!to->worker || to->dying || d->frame->generation < to->reported || fenced(to) ||
        d->frame->step < worker_view(to->worker).version || d->frame->step < to->voted)
        return;
    char text[160];
    wire_frame_describe(d->frame, text, sizeof text);
    sim_fail(w, "%s: its bytes were changed by pid %u while pid %u could still read them (%s)", text, d->from_id,
             d->to_id, when);
}

// ---- The log ----

static void check_commit(struct sim_world *w, const struct store_record *record)
{
    struct sim_votes *votes = &w->votes;
    const struct step_record *expected = &w->job->records[record->a];
    if (record->a != w->committed) {
        sim_fail(w, "the log commits step %llu after %llu steps", (unsigned long long)record->a,
                 (unsigned long long)w->committed);
        return;
    }
    if (!same_bits(record->x, expected->loss) || !same_bits(record->y, expected->norm) ||
        !same_bits(record->z, expected->clip))
        sim_fail(w, "step %llu: loss %a norm %a clip %a, in the reference %a %a %a", (unsigned long long)record->a,
                 record->x, record->y, record->z, expected->loss, expected->norm, (double)expected->clip);
    for (uint32_t i = 0; i < votes->member_count && i < SIM_PROCESSES_MAX; i++)
        if (!votes->voted[i] || votes->step != record->a)
            sim_fail(w, "step %llu was committed without the vote of member %u in generation %u",
                     (unsigned long long)record->a, votes->members[i], votes->generation);
    memset(votes->voted, 0, sizeof votes->voted);
    votes->step++;
    w->committed++;
}

// No step is done again whose outcome somebody in the generation holds: of every parameter what it has to be.
static void check_rollback(struct sim_world *w, const struct store_record *record)
{
    if (record->a && (record->a > SIM_STEPS_MAX || !w->disk[record->a])) // forward: the news of it never came
        sim_fail(w, "the log goes from %llu to %llu, where no checkpoint is", (unsigned long long)w->committed,
                 (unsigned long long)record->a);
    uint64_t verified = 0, all = ((uint64_t)1 << w->job->model->param_count) - 1;
    for (size_t i = 0; i < w->process_count; i++) {
        const struct sim_process *p = w->processes[i];
        if (p->worker && !p->frozen && p->generation == w->generation && p->version == w->committed)
            verified |= p->verified;
    }
    // Tied, the holder of the head has the token table too, but not the unit that it belongs to: not seen from outside.
    bool held = verified == all && !w->job->model->config.tie;
    if (held && record->a < w->committed && !w->scenario.baseline)
        sim_fail(w, "the log goes back from %llu to %llu, and the members hold all of it",
                 (unsigned long long)w->committed, (unsigned long long)record->a);
    sim_note(w, NULL, "the log goes from %llu to %llu", (unsigned long long)w->committed,
             (unsigned long long)record->a);
    w->redone += record->a < w->committed ? w->committed - record->a : 0;
    w->committed = record->a;
    w->result->rollbacks++;
}

// Where a log stands.
void sim_check_replay(struct sim_world *w, const struct store_record *record)
{
    if (record->kind == STORE_COMMIT)
        w->committed = record->a + 1;
    else if (record->kind == STORE_ROLLBACK)
        w->committed = record->a;
    else if (record->kind == STORE_GENERATION)
        w->generation = record->a;
}

void sim_check_record(struct sim_world *w, const struct store_record *record)
{
    switch (record->kind) {
    case STORE_COMMIT:
        check_commit(w, record);
        break;
    case STORE_ROLLBACK:
        check_rollback(w, record);
        break;
    case STORE_GENERATION:
        if (record->a <= w->generation)
            sim_fail(w, "the log has generation %llu after %llu", (unsigned long long)record->a,
                     (unsigned long long)w->generation);
        w->generation = record->a;
        w->generations++;
        break;
    case STORE_EVALUATION:
        if (record->a > SIM_STEPS_MAX || !same_bits(record->x, sim_job_evaluate(w->job->weights[record->a])))
            sim_fail(w, "the evaluation of step %llu is not of its weights", (unsigned long long)record->a);
        break;
    case STORE_CHECKPOINT:
        if (record->a > SIM_STEPS_MAX || !w->disk[record->a])
            sim_fail(w, "the log names a checkpoint of step %llu that is not there", (unsigned long long)record->a);
        break;
    case STORE_FINISHED:
        if (record->a != w->scenario.steps)
            sim_fail(w, "the log says finished after %llu steps", (unsigned long long)record->a);
        break;
    case STORE_JOB:
    case STORE_MEMBER:
    case STORE_LOST:
        break;
    }
}

// ---- The end ----

static void check_evaluations(struct sim_world *w, const struct ctl_view *view)
{
    const struct sim_scenario *s = &w->scenario;
    for (uint64_t step = 1; step <= s->steps; step++) {
        size_t found = 0;
        for (size_t i = 0; i < view->evaluation_count; i++)
            if (view->evaluations[i].step == step) {
                found++;
                if (!same_bits(view->evaluations[i].loss, sim_job_evaluate(w->job->weights[step])))
                    sim_fail(w, "the evaluation of step %llu is not of its weights", (unsigned long long)step);
            }
        bool wanted = s->eval_every && (step % s->eval_every == 0 || step == s->steps);
        if (found != wanted)
            sim_fail(w, "%zu evaluations of step %llu, expected %d", found, (unsigned long long)step, wanted);
    }
}

// One strike at a job that holds everything twice: no step is redone, and no leaf but those that were lost with the
// process (the boundary where somebody joins or the scribe changes may cost some that had been begun).
static void check_matrix(struct sim_world *w, const struct ctl_view *view)
{
    uint64_t leaves = w->scenario.steps * w->job->micro_batches * w->scenario.ranks;
    if (view->steps_redone || w->result->rollbacks)
        sim_fail(w, "steps were redone after a single death");
    if (w->scenario.replicas[0] == 1) // may be cut anew, to fewer stages
        return;
    if (!w->scenario.respawn && w->leaves > leaves + w->leaves_lost)
        sim_fail(w, "%llu leaves were computed where %llu and the %llu lost ones make the job",
                 (unsigned long long)w->leaves, (unsigned long long)leaves, (unsigned long long)w->leaves_lost);
    if (w->leaves < leaves)
        sim_fail(w, "%llu leaves were computed, the job has %llu", (unsigned long long)w->leaves,
                 (unsigned long long)leaves);
}

void sim_check_stopped(struct sim_world *w, enum ctl_end end)
{
    if (end == CTL_STOPPED && !w->asked_to_stop)
        sim_fail(w, "the controller stopped, and nobody had asked for it");
    if (end == CTL_STOPPED && w->committed && !w->disk[w->committed])
        sim_fail(w, "stopped after %llu steps without a checkpoint of them", (unsigned long long)w->committed);
    w->asked_to_stop = false;
}

void sim_check_ended(struct sim_world *w, const struct ctl_view *view)
{
    const struct sim_scenario *s = &w->scenario;
    if (view->committed != s->steps || w->committed != s->steps)
        sim_fail(w, "ended after %llu steps (log: %llu) of %llu", (unsigned long long)view->committed,
                 (unsigned long long)w->committed, (unsigned long long)s->steps);
    for (uint64_t i = 0; i < view->committed && i < s->steps; i++)
        if (!same_bits(view->losses[i], w->job->records[i].loss))
            sim_fail(w, "loss of step %llu: %a, in the reference %a", (unsigned long long)i, view->losses[i],
                     w->job->records[i].loss);
    check_evaluations(w, view);
    for (size_t i = 0; view->hashed && i < sizeof view->weights_sha256; i++)
        if (view->weights_sha256[i] != (uint8_t)(w->job->weights[s->steps] >> i % 8 * 8)) {
            sim_fail(w, "the hash of the weights at the end is not the reference's");
            break;
        }
    if (!view->hashed)
        sim_fail(w, "the job ended without a hash of its weights");
    if (!w->disk[s->steps])
        sim_fail(w, "the job ended without a checkpoint of step %llu", (unsigned long long)s->steps);
    uint64_t step = (uint64_t)w->job->micro_batches * s->ranks * s->chunks, units = w->job->model->unit_count;
    if (!w->faults_done && !s->fleet && view->generations == 1 && w->leaves != s->steps * step)
        sim_fail(w, "%llu leaves were computed in a run without faults, expected %llu", (unsigned long long)w->leaves,
                 (unsigned long long)(s->steps * step));
    if (w->leaves > (s->steps + w->redone + w->generations) * w->job->micro_batches * units)
        sim_fail(w, "%llu leaves were computed in %llu generations: more than each of them could lose",
                 (unsigned long long)w->leaves, (unsigned long long)w->generations);
    if (!w->faults_done && !s->fleet &&
        (view->leaves_recomputed || view->steps_redone || view->deaths || view->rollbacks))
        sim_fail(w, "a run without faults reports deaths or work done again");
    if (w->o->strike && !w->o->strike->pause)
        check_matrix(w, view);
}

void sim_check_process_end(struct sim_process *p)
{
    uint32_t reservations, events;
    sim_net_held(p->comm, &reservations, &events);
    uint64_t reserved = sim_env_reserved(&p->env);
    if (reservations || events || reserved)
        sim_fail(p->world, "pid %u leaves %u shared reservations, %u frames and %llu bytes behind", p->pid,
                 reservations, events, (unsigned long long)reserved);
}

void sim_check_world_end(struct sim_world *w)
{
    uint32_t orphans, endpoints, frames;
    sim_net_left(w->net, &orphans, &endpoints, &frames);
    if (orphans || endpoints || frames)
        sim_fail(w, "the network is left with %u reservations, %u endpoints and %u frames", orphans, endpoints, frames);
}
