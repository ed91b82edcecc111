// A generation: PREPARE goes to those that are to be its members and to all that go by the one before, their REPORTs
// come in, draft.c decides, GENERATION goes out. Nobody writes anew where others read before all have stopped, and what
// the leaving hold counts until it is decided; then they wait, as they are. Whatever happens meanwhile (another loss)
// begins the next number at once.
#include "ctl/ctl_int.h"

#include "base/mem.h"

#include <stdarg.h>
#include <stdio.h>
#include <string.h>

static void forget_report(struct ctl_member *m)
{
    message_fini(m->report.memory);
    m->report = (struct message_report){0};
    m->reported = false;
}

void ctl_generation_fini(struct ctl *ctl)
{
    for (uint32_t i = 0; i < ctl->member_count; i++)
        forget_report(&ctl->members[i]);
    plan_fini(&ctl->now);
    plan_fini(&ctl->steady);
    bg_free(ctl->workers);
}

// Every worker as far as wanted, those that sit first, those that are in it, then by id; one shadow. The others wait.
static void choose_everybody(struct ctl *ctl)
{
    uint32_t workers = 0, shadows = 0;
    for (int pass = 0; pass < 3; pass++)
        for (uint32_t i = 0; i < ctl->member_count; i++) {
            struct ctl_member *m = &ctl->members[i];
            if (m->presence != CTL_LIVE || pass != (m->rank != CTL_NO_RANK ? 0 : m->in ? 1 : 2))
                continue;
            uint32_t *count = m->role == MESSAGE_WORKER ? &workers : &shadows;
            const uint32_t most = m->role == MESSAGE_WORKER ? ctl->o.workers : 1;
            m->in = *count < most;
            *count += m->in;
            if (!m->in)
                m->rank = CTL_NO_RANK;
        }
}

static void ask(struct ctl *ctl, struct ctl_member *m)
{
    m->asked = ctl->generation;
    ctl_send(ctl, m->id, WIRE_PREPARE, NULL, 0);
}

bool ctl_member_awaited(const struct ctl_member *m)
{
    return (m->in || m->planned) && !m->reported;
}

void ctl_generation_begin(struct ctl *ctl, enum ctl_who who, bool boundary, const char *format, ...)
{
    va_list args;
    va_start(args, format);
    vsnprintf(ctl->reason, sizeof ctl->reason, format, args);
    va_end(args);
    if (who == CTL_EVERYBODY)
        choose_everybody(ctl);
    uint32_t count = 0, workers = 0;
    for (uint32_t i = 0; i < ctl->member_count; i++) {
        struct ctl_member *m = &ctl->members[i];
        forget_report(m);
        m->voted = m->leaving = false;
        count += m->in;
        workers += m->in && m->role == MESSAGE_WORKER;
    }
    if (count == 0 || (workers == 0 && ctl_rents(ctl))) {
        ctl_members_gather(ctl);
        return;
    }
    ctl->generation++;
    ctl->generations++;
    ctl->boundary = boundary;
    ctl->trouble = false;
    ctl->phase = CTL_PREPARE;
    const struct store_record record = {.kind = STORE_GENERATION, .a = ctl->generation, .b = ctl->committed};
    if (!ctl_append(ctl, &record))
        return;
    for (uint32_t i = 0; i < ctl->member_count; i++)
        if (ctl_member_awaited(&ctl->members[i]))
            ask(ctl, &ctl->members[i]);
}

// A newcomer while reports are coming in: it is asked as well, rather than one generation later.
void ctl_generation_admit(struct ctl *ctl)
{
    choose_everybody(ctl);
    for (uint32_t i = 0; i < ctl->member_count; i++) {
        struct ctl_member *m = &ctl->members[i];
        if (m->in && !m->reported && m->asked != ctl->generation)
            ask(ctl, m);
    }
}

// ---- What the reports say ----
// A member that has not applied the last commit rolls forward if it holds all the roots that takes.
static bool rolls_forward(const struct ctl *ctl, const struct message_report *report)
{
    struct message_commit commit;
    return report->complete && report->version + 1 == ctl->committed && ctl_last_commit(ctl, &commit);
}

static bool holds(const struct ctl *ctl, const struct ctl_member *m, uint32_t unit)
{
    const struct message_report *report = &m->report;
    return !ctl->fresh && m->reported && unit < report->unit_count && report->units[unit] &&
           (report->version == ctl->committed || rolls_forward(ctl, report));
}

bool ctl_member_has(const struct ctl *ctl, const struct ctl_member *m, uint32_t unit)
{
    return m->in && holds(ctl, m, unit);
}

// Whether somebody has every unit. Who would go and alone holds one stays until others have it.
static bool keep_every_unit(struct ctl *ctl)
{
    bool every = true;
    for (uint32_t u = 0; u < ctl->o.units; u++) {
        struct ctl_member *holder = NULL;
        for (uint32_t i = 0; i < ctl->member_count; i++)
            if (holds(ctl, &ctl->members[i], u) && (!holder || (ctl->members[i].in && !holder->in)))
                holder = &ctl->members[i];
        every &= holder != NULL;
        if (holder && !holder->in)
            holder->in = holder->leaving = true;
    }
    return every;
}

// Losses of the open step that went to a controller before us, or were on their way.
static bool take_losses(struct ctl *ctl, const struct ctl_member *m)
{
    const struct message_report *report = &m->report;
    if (report->version != ctl->committed)
        return true;
    for (uint32_t i = 0; i < report->loss_count; i++)
        if (report->loss_known[i] && !ctl_open_loss(ctl, m, i, report->losses[i]))
            return false;
    return true;
}

// ---- Deciding ----
// C goes back to the newest checkpoint; what was logged of the steps in between stays known, to be compared.
bool ctl_go_back(struct ctl *ctl)
{
    const uint64_t from = ctl->committed, to = ctl->checkpoint_step;
    ctl->fresh = true;
    ctl->boundary = false;
    ctl_open_reset(ctl);
    if (ctl->task.step != to)
        ctl->task.active = false;
    if (from == to)
        return true;
    const struct store_record record = {.kind = STORE_ROLLBACK, .a = to};
    if (!ctl_append(ctl, &record))
        return false;
    ctl->committed = to;
    ctl->ending = ctl_stops_here(ctl);
    ctl->redone += from - to;
    ctl->rollbacks++;
    json_t *fields = json_object();
    json_object_set_new(fields, "from", ctl_number(from));
    json_object_set_new(fields, "to", ctl_number(to));
    json_object_set_new(fields, "source", ctl_text(to ? ctl->checkpoint : "initial weights"));
    ctl_say(ctl, "rollback", fields);
    return true;
}

static void say_generation(struct ctl *ctl, const struct ctl_draft *d)
{
    char shape[128];
    const struct ctl_seats *seats = &d->seats;
    bool even = true;
    for (uint32_t r = 1; r < seats->ranks; r++)
        even &= seats->replicas[r] == seats->replicas[0];
    int at = snprintf(shape, sizeof shape, even ? "%ux%u" : "%u", even ? seats->ranks : seats->replicas[0],
                      seats->replicas[0]);
    for (uint32_t r = 1; !even && r < seats->ranks && at < 120; r++)
        at += snprintf(shape + at, sizeof shape - (size_t)at, "+%u", seats->replicas[r]);
    uint32_t workers = 0;
    for (uint32_t r = 0; r < seats->ranks; r++)
        workers += seats->replicas[r];
    json_t *fields = json_object();
    json_object_set_new(fields, "generation", ctl_number(ctl->generation));
    json_object_set_new(fields, "step", ctl_number(ctl->committed));
    json_object_set_new(fields, "workers", ctl_number(workers));
    json_object_set_new(fields, "shape", ctl_text(shape));
    json_object_set_new(fields, "reason", ctl_text(ctl->reason));
    json_object_set_new(fields, "leaves_recomputed", ctl_number(d->recovery.leaves));
    json_object_set_new(fields, "forwards_recomputed", ctl_number(d->recovery.forwards));
    json_object_set_new(fields, "ms", ctl_ms(ctl->lost_ns ? ctl->now_ns - ctl->lost_ns : 0));
    ctl_say(ctl, "generation", fields);
    if (d->moved_units) {
        fields = json_object();
        json_object_set_new(fields, "units", ctl_number(d->moved_units));
        json_object_set_new(fields, "bytes", ctl_number(d->moved_bytes));
        ctl_say(ctl, "moved", fields);
    }
}

static void say_promoted(struct ctl *ctl, const struct ctl_member *shadow, uint32_t rank)
{
    json_t *fields = json_object();
    json_object_set_new(fields, "member", ctl_number(shadow->id));
    json_object_set_new(fields, "rank", ctl_number(rank));
    ctl_say(ctl, "shadow", fields);
}

// The draft becomes what is.
static void adopt(struct ctl *ctl, struct ctl_draft *d)
{
    for (uint32_t i = 0; i < ctl->member_count; i++) {
        struct ctl_member *m = &ctl->members[i];
        m->in = false;
        uint32_t rank = d->seats.rank_of[i];
        if (m->role == MESSAGE_SHADOW && rank != CTL_NO_RANK && m->rank == CTL_NO_RANK)
            say_promoted(ctl, m, rank);
        m->rank = rank;
    }
    bg_free(ctl->workers);
    ctl->workers = bg_alloc_array(d->count, sizeof *ctl->workers);
    for (uint32_t w = 0; w < d->count; w++) {
        struct ctl_member *m = &ctl->members[d->members[w]];
        ctl->workers[w] = m->id;
        m->in = true;
        m->worker = w;
        m->back = false;
    }
    for (uint32_t i = 0; i < ctl->member_count; i++)
        ctl->members[i].planned = ctl->members[i].in;
    plan_fini(&ctl->now);
    plan_fini(&ctl->steady);
    ctl->now = d->now;
    ctl->steady = d->steady;
    d->now = d->steady = (struct plan){0};
    ctl->ranks = d->seats.ranks;
    ctl->leaves += d->recovery.leaves;
    ctl->forwards += d->recovery.forwards;
}

static void send_generation(struct ctl *ctl)
{
    ctl->sent = ctl->generation;
    const uint32_t count = ctl->steady.workers;
    char *steady = plan_format(&ctl->steady), *now = ctl->now.workers ? plan_format(&ctl->now) : bg_strdup("");
    struct message_member *members = bg_alloc_array(count, sizeof *members);
    for (uint32_t w = 0; w < count; w++) {
        const struct ctl_member *m = ctl_member_find(ctl, ctl->workers[w]);
        members[w] = (struct message_member){.member = m->id, .role = m->role};
        memcpy(members[w].address, m->address, sizeof members[w].address);
    }
    // At the end nobody begins a step, unless state has to move for the last task: moves are ops of a step's list.
    const bool moves_last = ctl->committed == ctl->o.steps && ctl->now.workers;
    struct message_generation g = {.step = ctl->committed,
                                   .steps = ctl->o.steps + moves_last,
                                   .anew = ctl->fresh || ctl->boundary || ctl->committed == ctl->o.steps,
                                   .member_count = count,
                                   .members = members,
                                   .now = now,
                                   .now_bytes = strlen(now),
                                   .steady = steady,
                                   .steady_bytes = strlen(steady)};
    if (ctl->fresh) {
        g.source = ctl->committed ? MESSAGE_SOURCE_CHECKPOINT : MESSAGE_SOURCE_INIT;
        g.checkpoint = ctl->committed;
    } else {
        g.has_commit = ctl_last_commit(ctl, &g.commit);
    }
    size_t capacity = message_generation_bytes(&g);
    uint8_t *payload = bg_alloc(capacity);
    for (uint32_t w = 0; w < count; w++) {
        g.self = w;
        ctl_send(ctl, ctl->workers[w], WIRE_GENERATION, payload, message_generation_encode(&g, payload, capacity));
    }
    bg_free(payload);
    bg_free(members);
    bg_free(now);
    bg_free(steady);
}

static void decide(struct ctl *ctl)
{
    if (!ctl->fresh && !keep_every_unit(ctl)) {
        if (!ctl_go_back(ctl))
            return;
        if (ctl_members_wait(ctl)) {
            ctl_generation_begin(ctl, CTL_EVERYBODY, false, "%s", "nobody holds the state");
            return;
        }
    }
    if (!ctl->fresh && ctl->ranks == 0)
        ctl_draft_recall(ctl);
    struct bg_error err = {0};
    struct ctl_draft draft;
    if (ctl_draft_make(ctl, &err, &draft)) {
        ctl_fail(ctl, &err);
        return;
    }
    say_generation(ctl, &draft);
    adopt(ctl, &draft);
    ctl_draft_fini(&draft);
    send_generation(ctl);
    ctl->fresh = false;
    ctl->phase = CTL_RUN;
    ctl_tasks_next(ctl);
}

void ctl_take_report(struct ctl *ctl, struct ctl_member *member, const void *payload, size_t bytes)
{
    struct bg_error err = {0};
    struct message_report report;
    bg_status status = message_report_decode(payload, bytes, &err, &report);
    if (status) {
        ctl_member_lose(ctl, member->id, err.text, true);
        return;
    }
    if (ctl->phase != CTL_PREPARE || member->asked != ctl->generation || member->reported) {
        message_fini(report.memory);
        return;
    }
    member->report = report; // from here on it owns the memory
    member->reported = true;
    bool bad = (report.unit_count != 0 && report.unit_count != ctl->o.units) ||
               (report.loss_count != 0 && report.loss_count != ctl->o.micro_batches);
    if (bad) {
        snprintf(err.text, sizeof err.text, "REPORT of %u units and %u losses: the job has %u and %u",
                 report.unit_count, report.loss_count, ctl->o.units, ctl->o.micro_batches);
        ctl_member_lose(ctl, member->id, err.text, true);
        return;
    }
    if (!ctl->fresh && !take_losses(ctl, member))
        return;
    for (uint32_t i = 0; i < ctl->member_count; i++)
        if (ctl_member_awaited(&ctl->members[i]))
            return;
    decide(ctl);
}
