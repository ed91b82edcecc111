// How a job is spread over processes: run.plan, run.schedule, run.workers and run.shadow together. Errors name the key
// and the reason.
#include "train/job.h"

#include "base/mem.h"
#include "plan/pass/pass.h"

#include <limits.h>
#include <stdlib.h>
#include <string.h>

bool job_is_auto(const struct job *job)
{
    return strcmp(job->run.plan, "auto") == 0;
}

static bool is_shape(const char *text)
{
    struct bg_error ignored;
    uint32_t replicas[PLAN_STAGES_MAX], stages;
    return plan_shape_parse(text, &ignored, replicas, &stages) == BG_OK;
}

static const struct plan_seat *seats_of(const struct plan *plan, uint32_t stage, uint32_t *count)
{
    uint32_t first = 0;
    while (first < plan->seat_count && plan->seats[first].stage < stage)
        first++;
    for (*count = 0; first + *count < plan->seat_count && plan->seats[first + *count].stage == stage;)
        ++*count;
    return &plan->seats[first];
}

// Where the schedule has several stages a worker, the seats of each are those of its rank's first one.
static bg_status check_seats(const char *path, const struct plan *plan, const char *schedule, struct bg_error *err,
                             const struct job_spread *s)
{
    const uint32_t ranks = plan->stage_count / s->chunks;
    bool good = ranks * s->chunks == plan->stage_count;
    for (uint32_t stage = 0; good && stage < plan->stage_count; stage++) {
        uint32_t count, same;
        const struct plan_seat *seats = seats_of(plan, stage, &count),
                               *rank = seats_of(plan, plan_schedule_rank(s->schedule, ranks, stage), &same);
        good = count == same;
        for (uint32_t i = 0; good && i < count; i++)
            good = seats[i].worker == rank[i].worker;
    }
    for (uint32_t i = 0; good && i < plan->seat_count; i++)
        for (uint32_t j = 0; good && j < i; j++)
            good = plan->seats[i].worker != plan->seats[j].worker ||
                   (plan->seats[i].stage >= ranks && plan->seats[i].stage != plan->seats[j].stage);
    return good ? BG_OK
                : bg_fail(err, BG_INVALID,
                          "run.plan: the workers of %s do not sit as run.schedule=%s has it, %u stage%s each; give the "
                          "schedule that the plan was made for",
                          path, schedule, s->chunks, s->chunks == 1 ? "" : "s");
}

// Of a plan file counts which units form a stage, how many workers sit there and how it saves memory; who does what
// when is the controller's.
static bg_status take_plan(const char *path, const struct plan *plan, uint32_t units, const char *schedule,
                           struct bg_error *err, struct job_spread *s)
{
    if (units && plan->units != units)
        return bg_fail(err, BG_MISMATCH, "run.plan: %s is a plan of %u units, the model has %u", path, plan->units,
                       units);
    if (plan->stage_count > PLAN_STAGES_MAX)
        return bg_fail(err, BG_INVALID, "run.plan: %s has %u stages, at most %d", path, plan->stage_count,
                       PLAN_STAGES_MAX);
    bg_status status = check_seats(path, plan, schedule, err, s);
    if (status)
        return status;
    s->stages = plan->stage_count / s->chunks;
    for (uint32_t stage = 0; stage < s->stages; stage++)
        (void)seats_of(plan, stage, &s->replicas[stage]);
    for (uint32_t w = 0; w < plan->workers; w++)
        for (size_t i = 0; i < plan->lists[w].count; i++) {
            const struct plan_op *op = &plan->lists[w].ops[i];
            if (op->kind == PLAN_F)
                s->saving[plan_schedule_rank(s->schedule, s->stages, op->stage)] |=
                    op->flags & (PLAN_RECOMPUTE | PLAN_OFFLOAD);
        }
    s->cut = bg_alloc_array(plan->stage_count, sizeof *s->cut);
    memcpy(s->cut, plan->stages, plan->stage_count * sizeof *s->cut);
    return BG_OK;
}

static bg_status read_plan(struct bg_env *env, const struct job *job, uint32_t units, struct bg_error *err,
                           struct job_spread *s)
{
    const char *path = job->run.plan;
    struct bg_map map;
    bg_status status = env->ops->map_open(env, path, err, &map);
    if (status) {
        bg_fail_prefix(err, "run.plan: neither auto, a shape such as 2x2 or 1+2, nor a file");
        return status;
    }
    struct plan plan;
    status = plan_parse((const char *)map.data, map.size, err, &plan);
    if (status) {
        bg_fail_prefix(err, "run.plan: %s", path);
    } else {
        status = take_plan(path, &plan, units, job->run.schedule, err, s);
        plan_fini(&plan);
    }
    env->ops->map_close(env, &map);
    return status;
}

static bg_status check(const struct job *job, uint32_t units, const struct job_spread *s, struct bg_error *err)
{
    uint32_t stages = s->stages * s->chunks;
    if (job->run.workers && job->run.workers != s->seats)
        return bg_fail(err, BG_INVALID,
                       "run.workers: %u, but run.plan %s has %u seats; change one of them (run.plan=auto takes any "
                       "number of workers)",
                       job->run.workers, job->run.plan, s->seats);
    if (units && stages > units)
        return bg_fail(err, BG_INVALID,
                       "run.plan: %u stages, but the model has only %u units (%u layers, embedding, head)", stages,
                       units, units - 2);
    for (uint32_t i = 0; i < s->stages && !job_is_auto(job); i++)
        if (s->replicas[i] > job->train.micro_batches)
            return bg_fail(err, BG_INVALID,
                           "run.plan: %u replicas of stage %u, but a step has %u micro-batches (train.micro_batches): "
                           "some would have nothing to do",
                           s->replicas[i], i, job->train.micro_batches);
    return BG_OK;
}

// Here nothing is simulated: what is left open has no answer.
static bg_status read_passes(const struct job *job, struct bg_error *err, struct plan_passes *passes)
{
    struct plan_pass_wish wish;
    const char *text = job->run.passes ? job->run.passes : "auto";
    bg_status status = plan_passes_parse(text, err, &wish);
    if (!status && strcmp(text, "auto") == 0)
        wish = (struct plan_pass_wish){0};
    if (!status && (wish.open[PLAN_PASS_OWNER] || wish.open[PLAN_PASS_CHUNKS]))
        status = bg_fail(err, BG_INVALID,
                         "\"%.60s\": expected a number behind one-owner: and chunks: (`brigade plan` finds one)", text);
    if (!status && wish.factors)
        status = bg_fail(err, BG_INVALID,
                         "factors would change the bits of a job; `brigade plan --passes factors` tells "
                         "what they would save");
    if (status)
        return bg_fail_prefix(err, "run.passes");
    *passes = wish.passes;
    return BG_OK;
}

void job_spread_shape(const struct job *job, const uint32_t *replicas, uint32_t stages, struct job_spread *spread)
{
    memmove(spread->replicas, replicas, stages * sizeof *replicas);
    spread->stages = stages;
    spread->seats = 0;
    spread->shadow = false;
    for (uint32_t i = 0; i < stages; i++) {
        spread->seats += replicas[i];
        spread->shadow |= replicas[i] == 1;
    }
    spread->shadow &= spread->seats > 1;
    spread->shadow |= job_has_budget(job); // keeps the state while nothing is rented
    if (strcmp(job->run.shadow, "auto") != 0)
        spread->shadow = strcmp(job->run.shadow, "true") == 0;
}

bg_status job_speeds(const struct job *job, uint32_t workers, struct bg_error *err, double *speeds)
{
    const char *at = job->run.speeds ? job->run.speeds : "";
    uint32_t count = 0;
    for (; *at && count < workers; count++) {
        char *end = NULL;
        const double speed = strtod(at, &end);
        const bool good = end > at && (*end == ',' || !*end) && speed >= 1e-3 && speed <= 1e3;
        if (!good)
            return bg_fail(err, BG_INVALID,
                           "run.speeds: \"%.60s\": expected numbers from 0.001 to 1000 with commas between them", at);
        if (speeds)
            speeds[count] = speed;
        at = *end ? end + 1 : end;
    }
    if (*at || (count && count < workers))
        return bg_fail(err, BG_INVALID, "run.speeds: %s speeds than the %u workers: expected one for each",
                       *at ? "more" : "fewer", workers);
    for (; speeds && count < workers; count++)
        speeds[count] = 1;
    return BG_OK;
}

bg_status job_check_slices(const struct job *job, uint32_t length, struct bg_error *err)
{
    enum plan_schedule schedule;
    uint32_t chunks, slices, range;
    bg_status status = plan_schedule_parse(job->run.schedule, err, &schedule, &chunks, &slices, &range);
    if (!status && slices > plan_slices_most(length))
        status = bg_fail(err, BG_INVALID,
                         "run.schedule: %s cuts sequences of %u positions (model.context) into %u slices, but a slice "
                         "has at least %d positions: at most %u slices",
                         job->run.schedule, length, slices, PLAN_SLICE_ALIGN, plan_slices_most(length));
    return status;
}

// Stages that a key names, into `saving`.
static bg_status take_stages(const struct job *job, const char *key, const char *text, uint8_t how,
                             struct bg_error *err, struct job_spread *s)
{
    const bool all = text && strcmp(text, "true") == 0;
    if (!text || all || strcmp(text, "false") == 0) {
        for (uint32_t i = 0; i < PLAN_STAGES_MAX && all; i++)
            s->saving[i] |= how;
        return BG_OK;
    }
    if (job_is_auto(job))
        return bg_fail(err, BG_INVALID,
                       "%s: \"%.60s\" names stages, and with run.plan=auto they are not known: expected true or false, "
                       "or a shape for run.plan",
                       key, text);
    for (const char *at = text;; at++) {
        char *end = NULL;
        const unsigned long first = *at >= '0' && *at <= '9' ? strtoul(at, &end, 10) : ULONG_MAX;
        unsigned long last = first;
        if (end && *end == '-' && end[1] >= '0' && end[1] <= '9')
            last = strtoul(end + 1, &end, 10);
        if (!end || (*end && *end != ',') || last < first)
            return bg_fail(err, BG_INVALID, "%s: \"%.60s\": expected true, false, or stages such as 0,2-4", key, text);
        if (last >= s->stages)
            return bg_fail(err, BG_INVALID, "%s: names stage %lu, run.plan has stages 0 to %u", key, last,
                           s->stages - 1);
        for (unsigned long stage = first; stage <= last; stage++)
            s->saving[stage] |= how;
        if (!*end)
            return BG_OK;
        at = end;
    }
}

static bg_status read_saving(const struct job *job, struct bg_error *err, struct job_spread *s)
{
    bg_status status = take_stages(job, "run.recompute", job->run.recompute, PLAN_RECOMPUTE, err, s);
    if (!status)
        status = take_stages(job, "run.offload", job->run.offload, PLAN_OFFLOAD, err, s);
    uint8_t any = 0;
    for (uint32_t i = 0; i < s->stages; i++) {
        any |= s->saving[i];
        s->picks |= s->saving[i] != s->saving[0];
    }
    if (!status && any & PLAN_RECOMPUTE && any & PLAN_OFFLOAD)
        status =
            bg_fail(err, BG_INVALID,
                    "run.recompute, run.offload: expected one of them; what is computed again need not wait on disk");
    return status;
}

bg_status job_spread(struct bg_env *env, const struct job *job, uint32_t units, struct bg_error *err,
                     struct job_spread *out)
{
    struct job_spread s = {0};
    bg_status status = plan_schedule_parse(job->run.schedule, err, &s.schedule, &s.chunks, &s.slices, &s.range);
    if (status) {
        bg_fail_prefix(err, "run.schedule");
        return status;
    }
    status = read_passes(job, err, &s.passes);
    if (status)
        return status;
    if (job_is_auto(job)) {
        s.stages = 1;
        s.replicas[0] = job->run.workers ? job->run.workers : 1;
    } else if (is_shape(job->run.plan)) {
        status = plan_shape_parse(job->run.plan, err, s.replicas, &s.stages);
    } else if (env) {
        status = read_plan(env, job, units, err, &s);
    }
    job_spread_shape(job, s.replicas, s.stages, &s);
    if (!status && s.stages)
        status = read_saving(job, err, &s);
    if (!status && s.stages)
        status = check(job, units, &s, err);
    if (!status && s.stages)
        status = job_speeds(job, s.seats, err, NULL);
    if (status)
        bg_free(s.cut);
    else
        *out = s;
    return status;
}

bool job_is_spread(const struct job_spread *spread)
{
    return spread->seats > 1 || spread->shadow;
}
