// Who lives: HELLO and WELCOME, losses, processes that were started and have not come yet, members of an earlier
// controller that may come back. Ids are never used twice, so one that was declared lost cannot be mistaken for
// another.
#include "ctl/ctl_int.h"

#include "base/mem.h"

#include <stdio.h>
#include <string.h>

enum { SPAWN_FAILURES_MAX = 3 };
static const uint64_t AWAIT_NS = 3000000000, AWAIT_LINK_NS = 1000000000;

struct ctl_member *ctl_member_find(struct ctl *ctl, uint32_t id)
{
    for (uint32_t i = 0; i < ctl->member_count; i++)
        if (ctl->members[i].id == id)
            return &ctl->members[i];
    return NULL;
}

static struct ctl_member *member_add(struct ctl *ctl, uint32_t id)
{
    if (ctl->member_count == ctl->member_capacity) {
        ctl->member_capacity = 2 * ctl->member_capacity + 8;
        ctl->members = bg_realloc_array(ctl->members, ctl->member_capacity, sizeof *ctl->members);
    }
    struct ctl_member *m = &ctl->members[ctl->member_count++];
    *m = (struct ctl_member){.id = id, .rank = CTL_NO_RANK};
    if (id >= ctl->member_next)
        ctl->member_next = id + 1;
    return m;
}

static void member_remove(struct ctl *ctl, uint32_t id)
{
    struct ctl_member *m = ctl_member_find(ctl, id);
    message_fini(m->report.memory);
    size_t behind = (size_t)(ctl->members + ctl->member_count - (m + 1));
    memmove(m, m + 1, behind * sizeof *m);
    ctl->member_count--;
}

void ctl_members_fini(struct ctl *ctl)
{
    bg_free(ctl->members); // their reports: ctl_generation_fini
    bg_free(ctl->spawns);
}

static void member_put_address(struct ctl_member *m, const char *address)
{
    snprintf(m->address, sizeof m->address, "%s", address);
}

void ctl_members_restore(struct ctl *ctl, const struct store_record *r)
{
    if (r->kind == STORE_LOST) {
        if (ctl_member_find(ctl, (uint32_t)r->a))
            member_remove(ctl, (uint32_t)r->a);
        return;
    }
    struct ctl_member *m = member_add(ctl, (uint32_t)r->a);
    m->process = r->b;
    m->process_start = r->c;
    m->role = r->d == MESSAGE_SHADOW ? MESSAGE_SHADOW : MESSAGE_WORKER;
    m->presence = CTL_AWAITED;
    m->planned = true;
    member_put_address(m, r->text ? r->text : "");
}

static uint32_t count_members(const struct ctl *ctl, enum ctl_presence presence, enum message_role role)
{
    uint32_t count = 0;
    for (uint32_t i = 0; i < ctl->member_count; i++)
        count += ctl->members[i].presence == presence && ctl->members[i].role == role;
    return count;
}

uint32_t ctl_members_live(const struct ctl *ctl, enum message_role role)
{
    return count_members(ctl, CTL_LIVE, role);
}

uint32_t ctl_spawns(const struct ctl *ctl, enum message_role role)
{
    uint32_t count = count_members(ctl, CTL_AWAITED, role) + count_members(ctl, CTL_HELLOED, role);
    for (uint32_t i = 0; i < ctl->spawn_count; i++)
        count += ctl->spawns[i].role == role;
    return count;
}

bool ctl_members_wait(const struct ctl *ctl)
{
    uint32_t in[2] = {0}, out[2] = {0};
    for (uint32_t i = 0; i < ctl->member_count; i++)
        if (ctl->members[i].presence == CTL_LIVE)
            (ctl->members[i].in ? in : out)[ctl->members[i].role]++;
    return (out[MESSAGE_WORKER] && in[MESSAGE_WORKER] < ctl->o.workers) || (out[MESSAGE_SHADOW] && !in[MESSAGE_SHADOW]);
}

// ---- Starting processes ----
static void spawn_failed(struct ctl *ctl, enum message_role role, const char *why)
{
    ctl->spawn_failures++;
    snprintf(ctl->spawn_why, sizeof ctl->spawn_why, "%s", why);
    json_t *fields = json_object();
    json_object_set_new(fields, "role", ctl_text(ctl_role_name(role)));
    json_object_set_new(fields, "why", ctl_text(why));
    ctl_say(ctl, "not_started", fields);
}

static void spawn(struct ctl *ctl, enum message_role role)
{
    struct bg_error err = {0};
    const uint64_t token = ctl_rental_token(ctl, role);
    const bool rents = ctl->o.budget && role == MESSAGE_WORKER;
    if (rents ? ctl->host.rent(ctl->host.arg, token, &err) : ctl->host.spawn(ctl->host.arg, token, role, &err)) {
        spawn_failed(ctl, role, err.text);
        return;
    }
    if (ctl->spawn_count == ctl->spawn_capacity) {
        ctl->spawn_capacity = 2 * ctl->spawn_capacity + 8;
        ctl->spawns = bg_realloc_array(ctl->spawns, ctl->spawn_capacity, sizeof *ctl->spawns);
    }
    ctl->spawns[ctl->spawn_count++] = (struct ctl_spawn){token, role};
}

void ctl_members_spawn(struct ctl *ctl)
{
    const uint32_t wanted[2] = {[MESSAGE_WORKER] = ctl_rental_wanted(ctl), [MESSAGE_SHADOW] = ctl->o.shadow};
    for (uint32_t role = MESSAGE_WORKER; role <= MESSAGE_SHADOW; role++)
        while (ctl->host.spawn && ctl->phase != CTL_OVER && ctl->spawn_failures < SPAWN_FAILURES_MAX &&
               ctl_members_live(ctl, role) + ctl_spawns(ctl, role) < wanted[role])
            spawn(ctl, role);
}

static bool nobody_comes(const struct ctl *ctl)
{
    return ctl->host.spawn && ctl->member_count == 0 && ctl->spawn_count == 0 &&
           (ctl->spawn_failures >= SPAWN_FAILURES_MAX || !ctl->o.respawn) && (ctl->o.workers || !ctl_rents(ctl));
}

static void fail_alone(struct ctl *ctl)
{
    if (ctl->spawn_failures >= SPAWN_FAILURES_MAX)
        ctl_failf(ctl, BG_IO, "no worker is left, and %u in a row died before they said HELLO: %s", ctl->spawn_failures,
                  ctl->spawn_why);
    else
        ctl_failf(ctl, BG_IO,
                  "no worker is left and none is started again (respawn is off): the run can be resumed from step %llu",
                  (unsigned long long)ctl->checkpoint_step);
}

void ctl_spawn_ended(struct ctl *ctl, uint64_t now_ns, uint64_t token, const char *why)
{
    ctl_clock(ctl, now_ns);
    for (uint32_t i = 0; i < ctl->spawn_count; i++) {
        if (ctl->spawns[i].token != token)
            continue;
        enum message_role role = ctl->spawns[i].role;
        ctl->spawns[i] = ctl->spawns[--ctl->spawn_count];
        if (ctl->phase == CTL_OVER)
            return;
        spawn_failed(ctl, role, why);
        if (ctl->o.respawn || ctl->generation == 0)
            ctl_members_spawn(ctl);
        if (nobody_comes(ctl))
            fail_alone(ctl);
        return;
    }
    for (uint32_t i = 0; i < ctl->member_count && token; i++)
        if (ctl->members[i].token == token) {
            ctl_member_lose(ctl, ctl->members[i].id, why, true);
            return;
        }
}

// ---- Coming ----
static void spawn_arrived(struct ctl *ctl, uint64_t token)
{
    for (uint32_t i = 0; i < ctl->spawn_count; i++)
        if (token && ctl->spawns[i].token == token) {
            ctl->spawns[i] = ctl->spawns[--ctl->spawn_count];
            ctl->spawn_failures = 0;
            return;
        }
}

static uint32_t refuse(struct ctl *ctl, const struct message_hello *hello, const char *why)
{
    json_t *fields = json_object();
    json_object_set_new(fields, "process", ctl_number(hello->process));
    json_object_set_new(fields, "why", ctl_text(why));
    ctl_say(ctl, "refused", fields);
    return 0;
}

static void say_fenced(struct ctl *ctl, uint32_t old, uint32_t id)
{
    ctl->fenced++;
    json_t *fields = json_object();
    json_object_set_new(fields, "member", ctl_number(old));
    json_object_set_new(fields, "now", ctl_number(id));
    ctl_say(ctl, "fenced", fields);
}

// Members stand in the order in which their processes were started, whoever said HELLO first: seats are given in this
// order, so a run's seating is a function of the job.
static struct ctl_member *stand_in_line(struct ctl *ctl, struct ctl_member *m)
{
    for (; m > ctl->members && m->token && m[-1].token > m->token; m--) {
        struct ctl_member other = m[-1];
        m[-1] = m[0];
        m[0] = other;
    }
    return m;
}

// A member whose link is gone but whose process is not known to be: what it holds is good if it comes back in time.
static void await_link(struct ctl *ctl, struct ctl_member *m)
{
    if (m->in && !ctl->lost_ns)
        ctl->lost_ns = ctl->now_ns;
    if ((m->in || m->planned) && (ctl->phase == CTL_RUN || ctl->phase == CTL_PREPARE))
        ctl_members_gather(ctl);
    m->in = false;
    m->presence = CTL_AWAITED;
    ctl->await_until_ns = ctl->now_ns + AWAIT_LINK_NS;
}

uint32_t ctl_hello(struct ctl *ctl, uint64_t now_ns, const struct message_hello *hello)
{
    ctl_clock(ctl, now_ns);
    ctl->moved_ns = now_ns;
    if (ctl->phase == CTL_OVER || ctl->phase == CTL_FRESH)
        return 0;
    if (memcmp(hello->signature, ctl->o.signature, sizeof hello->signature) != 0)
        return refuse(ctl, hello, "its job is another one: the signatures differ");
    if (hello->role == MESSAGE_SHADOW && !ctl->o.shadow)
        return refuse(ctl, hello, "this job runs without a shadow");
    if (ctl->member_count >= MESSAGE_MEMBERS_MAX)
        return refuse(ctl, hello, "there are too many members");
    spawn_arrived(ctl, hello->token);
    struct ctl_member *m = hello->member ? ctl_member_find(ctl, hello->member) : NULL;
    bool same = m && m->process == hello->process && m->process_start == hello->process_start && m->role == hello->role;
    if (same && m->presence != CTL_AWAITED) { // its link to us broke, and it was faster than the news of it
        ctl->host.drop(ctl->host.arg, m->id);
        await_link(ctl, m);
    } else if (m && !same) {
        ctl_member_lose(ctl, m->id, "another process uses its id", true);
        if (ctl->phase == CTL_OVER)
            return 0;
    }
    if (!same) {
        m = member_add(ctl, ctl->member_next);
        m->role = hello->role == MESSAGE_SHADOW ? MESSAGE_SHADOW : MESSAGE_WORKER;
        m->process = hello->process;
        m->process_start = hello->process_start;
    }
    m->token = hello->token;
    m->speed = ctl->host.speed ? ctl->host.speed(ctl->host.arg, m->token) : 1;
    m->back = same;
    m->presence = CTL_HELLOED;
    member_put_address(m, hello->address);
    m = stand_in_line(ctl, m);
    if (hello->member && !same)
        say_fenced(ctl, hello->member, m->id);
    return m->id;
}

static void welcome(struct ctl *ctl, struct ctl_member *m)
{
    const struct store_record record = {
        .kind = STORE_MEMBER, .a = m->id, .b = m->process, .c = m->process_start, .d = m->role, .text = m->address};
    if (!m->back && !ctl_append(ctl, &record))
        return;
    m->presence = CTL_LIVE;
    uint8_t payload[16];
    const struct message_welcome message = {m->id};
    ctl_send(ctl, m->id, WIRE_WELCOME, payload, message_welcome_encode(&message, payload, sizeof payload));
    json_t *fields = json_object();
    json_object_set_new(fields, "member", ctl_number(m->id));
    json_object_set_new(fields, "process", ctl_number(m->process));
    json_object_set_new(fields, "role", ctl_text(ctl_role_name(m->role)));
    ctl_say(ctl, "joined", fields);
}

// ---- Waiting for them ----
void ctl_members_gather(struct ctl *ctl)
{
    ctl->phase = CTL_GATHER;
    ctl->gather_until_ns = ctl->now_ns + ctl->o.join_ns;
}

static bool gathered(const struct ctl *ctl)
{
    const uint32_t workers = ctl_members_live(ctl, MESSAGE_WORKER), shadows = ctl_members_live(ctl, MESSAGE_SHADOW);
    const uint32_t coming = ctl_spawns(ctl, MESSAGE_WORKER) + ctl_spawns(ctl, MESSAGE_SHADOW);
    if (workers + shadows == 0)
        return false;
    if (ctl_rents(ctl)) // the gang
        return workers > 0 && ctl->o.workers > 0 &&
               (workers >= ctl->o.workers || coming == 0 || ctl->now_ns >= ctl->gather_until_ns);
    bool all = workers >= ctl->o.workers && shadows >= ctl->o.shadow;
    bool warm = false; // somebody is there who may hold state
    for (uint32_t i = 0; i < ctl->member_count; i++)
        warm |= (ctl->members[i].back || ctl->members[i].in) && ctl->members[i].presence == CTL_LIVE;
    return all || coming == 0 || (warm && !ctl->fresh) || ctl->now_ns >= ctl->gather_until_ns;
}

// Those that have not come back in time are lost. True: some are still awaited.
static bool awaiting(struct ctl *ctl)
{
    for (uint32_t i = 0; i < ctl->member_count;) {
        if (ctl->members[i].presence != CTL_AWAITED)
            i++;
        else if (ctl->now_ns < ctl->await_until_ns)
            return true;
        else
            ctl_member_lose(ctl, ctl->members[i].id, "it did not come back to the controller", false);
    }
    return false;
}

void ctl_members_tick(struct ctl *ctl)
{
    if (!ctl->await_until_ns)
        ctl->await_until_ns = ctl->now_ns + AWAIT_NS;
    for (uint32_t i = 0; i < ctl->member_count && ctl->phase != CTL_OVER; i++)
        if (ctl->members[i].presence == CTL_HELLOED)
            welcome(ctl, &ctl->members[i]);
    // A joiner follows the open step already, so that it can have its seat with the next one.
    if (ctl->phase == CTL_PREPARE && ctl_members_wait(ctl))
        ctl_generation_admit(ctl);
    else if (ctl->phase == CTL_RUN && !ctl->ending && ctl->committed < ctl->o.steps && ctl_members_wait(ctl))
        ctl_generation_begin(ctl, CTL_EVERYBODY, false, "join");
    if (ctl->phase != CTL_GATHER || awaiting(ctl) || ctl->phase != CTL_GATHER)
        return;
    if (gathered(ctl))
        ctl_generation_begin(ctl, CTL_EVERYBODY, false, "%s", ctl->generations == 0 ? "start" : "members came");
    else if (nobody_comes(ctl))
        fail_alone(ctl);
}

// ---- Going ----
static void say_lost(struct ctl *ctl, uint32_t id, const char *why)
{
    json_t *fields = json_object();
    json_object_set_new(fields, "member", ctl_number(id));
    json_object_set_new(fields, "why", ctl_text(why));
    json_object_set_new(fields, "deaths", ctl_number(ctl->deaths));
    ctl_say(ctl, "lost", fields);
}

void ctl_member_lose(struct ctl *ctl, uint32_t id, const char *why, bool drop)
{
    struct ctl_member *m = ctl_member_find(ctl, id);
    if (!m || ctl->phase == CTL_OVER)
        return;
    const bool in = m->in, works = in || m->planned, counted = m->presence != CTL_HELLOED || m->back;
    if (drop && m->presence != CTL_AWAITED)
        ctl->host.drop(ctl->host.arg, id);
    member_remove(ctl, id);
    ctl->moved_ns = ctl->now_ns;
    ctl->deaths++;
    if (in && !ctl->lost_ns)
        ctl->lost_ns = ctl->now_ns;
    const struct store_record record = {.kind = STORE_LOST, .a = id};
    if (counted && !ctl_append(ctl, &record))
        return;
    say_lost(ctl, id, why);
    if (ctl->phase == CTL_FRESH)
        return;
    if (ctl->o.respawn)
        ctl_members_spawn(ctl);
    if (nobody_comes(ctl)) {
        fail_alone(ctl);
    } else if (in && ctl->o.recovery_checkpoint && !ctl->ending) {
        for (uint32_t i = 0; i < ctl->member_count; i++)
            ctl->members[i].in = false;
        if (ctl_go_back(ctl))
            ctl_members_gather(ctl);
    } else if (works && (ctl->phase == CTL_RUN || ctl->phase == CTL_PREPARE)) {
        ctl_generation_begin(ctl, CTL_THE_SAME, false, "member %u is lost", id);
    }
}

static void say_released(struct ctl *ctl, uint64_t token, const char *why)
{
    json_t *fields = json_object();
    json_object_set_new(fields, "kind", ctl_text(plan_rent_name(ctl_token_rent(token))));
    json_object_set_new(fields, "why", ctl_text(why));
    ctl_say(ctl, "released", fields);
}

static bool goes_back(const struct ctl *ctl, enum message_role role, uint64_t token, enum plan_rent keep)
{
    return role == MESSAGE_WORKER && token &&
           (ctl_token_rent(token) != keep || ctl_token_zone(token) != ctl->rental.zone);
}

void ctl_members_release(struct ctl *ctl, enum plan_rent keep, const char *why)
{
    bool in = false;
    for (uint32_t i = ctl->spawn_count; i > 0; i--) {
        const struct ctl_spawn s = ctl->spawns[i - 1];
        if (!goes_back(ctl, s.role, s.token, keep))
            continue;
        ctl->spawns[i - 1] = ctl->spawns[--ctl->spawn_count];
        ctl->host.give_back(ctl->host.arg, s.token);
        say_released(ctl, s.token, why);
    }
    for (uint32_t i = ctl->member_count; i > 0; i--) {
        const struct ctl_member m = ctl->members[i - 1];
        if (!goes_back(ctl, m.role, m.token, keep))
            continue;
        if (m.presence != CTL_AWAITED)
            ctl->host.drop(ctl->host.arg, m.id);
        member_remove(ctl, m.id);
        in |= m.in || m.planned;
        const struct store_record record = {.kind = STORE_LOST, .a = m.id};
        if ((m.presence != CTL_HELLOED || m.back) && !ctl_append(ctl, &record))
            return;
        ctl->host.give_back(ctl->host.arg, m.token);
        say_released(ctl, m.token, why);
    }
    if (in && (ctl->phase == CTL_RUN || ctl->phase == CTL_PREPARE))
        ctl_generation_begin(ctl, CTL_THE_SAME, false, "%s", why);
}

void ctl_lost(struct ctl *ctl, uint64_t now_ns, uint32_t member, const char *why)
{
    ctl_clock(ctl, now_ns);
    struct ctl_member *m = ctl_member_find(ctl, member);
    if (m && m->presence == CTL_LIVE && now_ns < ctl->slept_until_ns && ctl->phase != CTL_OVER)
        await_link(ctl, m); // it took us for dead
    else
        ctl_member_lose(ctl, member, why, false);
}
