// The messages whose parts vary in length: REPORT, GENERATION, TASK. Read, they own one allocation.
#include "wire/message_int.h"

#include "base/mem.h"

void message_fini(void *memory)
{
    bg_free(memory);
}

static void code_report(struct message_codec *c, struct message_report *m)
{
    message_code_u64(c, "version", &m->version);
    message_code_u64(c, "plan", &m->plan);
    message_code_bool(c, "complete", &m->complete);
    message_code_u32(c, "unit_count", &m->unit_count);
    message_code_u32(c, "stage_count", &m->stage_count);
    message_code_u32(c, "item_count", &m->item_count);
    message_code_u32(c, "loss_count", &m->loss_count);
    message_code_u64(c, "computed_leaves", &m->computed_leaves);
    message_code_u64(c, "frames_refused", &m->frames_refused);
    uint64_t items = (uint64_t)m->stage_count * m->item_count;
    uint64_t bytes = 2 * (uint64_t)m->unit_count + 9 * (uint64_t)m->loss_count;
    if (!c->failed && items > SIZE_MAX - bytes)
        message_refuse(c, "%u stages of %u items", m->stage_count, m->item_count);
    message_memory(c, "arrays", bytes + items, c->left);
    message_code_doubles(c, "losses", &m->losses, m->loss_count);
    message_code_bytes(c, "loss_known", &m->loss_known, m->loss_count, 2);
    message_code_bytes(c, "units", &m->units, m->unit_count, 2);
    message_code_bytes(c, "roots", &m->roots, m->unit_count, 2);
    message_code_bytes(c, "items", &m->items, (size_t)items, 128);
}

size_t message_report_bytes(const struct message_report *m)
{
    return 49 + 2 * (size_t)m->unit_count + 9 * (size_t)m->loss_count + (size_t)m->stage_count * m->item_count;
}

// Texts are read with a NUL behind them, which is not part of them.
static void code_plan(struct message_codec *c, const char *field, const char **text, size_t size)
{
    if (c->failed)
        return;
    char *copy = c->out ? NULL : message_take(c, size + 1, 1);
    message_code_raw(c, field, c->out ? (void *)*text : copy, size); // writing only reads it
    if (copy)
        *text = copy;
}

static void code_size(struct message_codec *c, const char *field, size_t *size)
{
    uint64_t wide = *size;
    message_code_u64(c, field, &wide);
    if (wide > c->left)
        message_refuse(c, "it ends in `%s`, which needs %llu bytes where %zu are left", field, (unsigned long long)wide,
                       c->left);
    if (!c->failed)
        *size = (size_t)wide;
}

static void code_members(struct message_codec *c, struct message_generation *m)
{
    struct message_member *members = c->out || c->failed ? NULL : message_take(c, m->member_count * sizeof *members, 8);
    for (uint32_t i = 0; i < m->member_count && !c->failed; i++) {
        struct message_member member = c->out ? m->members[i] : (struct message_member){0};
        message_code_u32(c, "members.member", &member.member);
        message_code_below(c, "members.role", &member.role, MESSAGE_SHADOW + 1);
        message_code_text(c, "members.address", member.address, sizeof member.address);
        if (members)
            members[i] = member;
    }
    if (members)
        m->members = members;
}

static void code_generation(struct message_codec *c, struct message_generation *m)
{
    message_code_u64(c, "step", &m->step);
    message_code_u64(c, "steps", &m->steps);
    message_code_below(c, "source", &m->source, MESSAGE_SOURCE_CHECKPOINT + 1);
    message_code_u64(c, "checkpoint", &m->checkpoint);
    message_code_bool(c, "has_commit", &m->has_commit);
    if (m->has_commit)
        message_code_commit(c, &m->commit);
    message_code_bool(c, "anew", &m->anew);
    message_code_below(c, "member_count", &m->member_count, MESSAGE_MEMBERS_MAX + 1);
    message_code_u32(c, "self", &m->self);
    if (m->self >= m->member_count)
        message_refuse(c, "`self` is %u of %u members", m->self, m->member_count);
    code_size(c, "now", &m->now_bytes);
    code_size(c, "steady", &m->steady_bytes);
    uint64_t bytes = (uint64_t)m->member_count * sizeof *m->members + m->now_bytes + m->steady_bytes + 2;
    message_memory(c, "members", bytes, MESSAGE_MEMBERS_MAX * sizeof *m->members + 2 * c->left + 2);
    code_members(c, m);
    code_plan(c, "now", &m->now, m->now_bytes);
    code_plan(c, "steady", &m->steady, m->steady_bytes);
}

size_t message_generation_bytes(const struct message_generation *m)
{
    return 128 + m->member_count * (sizeof *m->members + 2) + m->now_bytes + m->steady_bytes;
}

static void code_evaluations(struct message_codec *c, struct message_task *m)
{
    struct message_evaluation *all =
        c->out || c->failed ? NULL : message_take(c, m->evaluation_count * sizeof *m->evaluations, 8);
    for (uint32_t i = 0; i < m->evaluation_count && !c->failed; i++) {
        struct message_evaluation one = c->out ? m->evaluations[i] : (struct message_evaluation){0};
        message_code_evaluation(c, &one);
        if (all)
            all[i] = one;
    }
    if (all)
        m->evaluations = all;
}

static void code_task(struct message_codec *c, struct message_task *m)
{
    message_code_u64(c, "id", &m->id);
    message_code_bool(c, "evaluate", &m->evaluate);
    message_code_bool(c, "checkpoint", &m->checkpoint);
    message_code_bool(c, "hash", &m->hash);
    message_code_f64(c, "seconds", &m->seconds);
    message_code_u32(c, "evaluation_count", &m->evaluation_count);
    message_code_u64(c, "loss_count", &m->loss_count);
    if (m->loss_count > c->left / 8)
        message_refuse(c, "`loss_count` is %llu where %zu bytes are left", (unsigned long long)m->loss_count, c->left);
    uint64_t evaluations = m->evaluation_count * (uint64_t)sizeof *m->evaluations;
    message_memory(c, "evaluations and losses", evaluations + 8 * m->loss_count, c->left);
    code_evaluations(c, m);
    message_code_doubles(c, "losses", &m->losses, (size_t)m->loss_count);
}

size_t message_task_bytes(const struct message_task *m)
{
    return 64 + m->evaluation_count * sizeof *m->evaluations + 8 * (size_t)m->loss_count;
}

MESSAGE_CODEC(report, "REPORT", read.memory = c.memory)
MESSAGE_CODEC(generation, "GENERATION", read.memory = c.memory)
MESSAGE_CODEC(task, "TASK", read.memory = c.memory)
