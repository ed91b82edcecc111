// A generation begins: PREPARE stops the list and is answered with what we hold; GENERATION brings the members and the
// plan. What the open step has made so far stays where cut and items are the same.
#include "train/worker_int.h"

#include "base/assert.h"
#include "base/mem.h"

#include <string.h>

void worker_forget_step(struct worker *w)
{
    size_t cells = w->plan ? (size_t)w->plan->stage_count * w->plan->item_count : 0;
    worker_release_boundaries(w);
    if (cells) {
        memset(w->items, 0, cells);
        memset(w->made, 0, cells * sizeof *w->made);
        memset(w->made_back, 0, cells * sizeof *w->made_back);
    }
    memset(w->loss_known, 0, w->job->micro_batches);
    worker_forget_parts(w);
    w->op = 0;
    w->voted = w->waits = false;
    w->computed = 0;
}

// A stage that we do not sit at any more: what the step has made there is gone with the seat. Roots stay: plan_recover
// counts on both.
static void forget_stage(struct worker *w, uint32_t stage)
{
    const size_t items = w->plan->item_count, first = stage * items;
    worker_release_values(w, first, items);
    memset(w->items + first, 0, items);
    memset(w->made + first, 0, items * sizeof *w->made);
    memset(w->made_back + first, 0, items * sizeof *w->made_back);
}

static void begin_step(struct worker *w)
{
    worker_forget_step(w);
    executor_begin(w->ex, w->version);
}

static void release_early(struct worker *w)
{
    for (size_t i = 0; i < w->early_count; i++)
        comm_release(w->comm, &w->early[i]);
    w->early_count = 0;
}

static void drop_task(struct worker *w)
{
    if (w->has_task)
        comm_release(w->comm, &w->task);
    w->has_task = false;
}

void worker_fence(struct worker *w)
{
    memset(w->have, 0, w->job->model->unit_count);
    w->running = false;
    w->generation = w->prepare = w->taken = 0;
    w->version = 0;
    release_early(w);
    drop_task(w);
    begin_step(w);
    worker_close_links(w, true);
}

// ---- PREPARE and REPORT ----

static bool bucket_rooted(const struct worker *w, uint32_t bucket)
{
    for (uint32_t piece = 0; piece < executor_pieces(w->ex, bucket); piece++)
        if (!executor_root_held(w->ex, bucket, piece))
            return false;
    return true;
}

// Every root that the unit's gradients make is here: nobody has to compute its leaves again.
static bool unit_rooted(const struct worker *w, uint32_t unit)
{
    for (uint32_t b = 0; b < w->job->model->bucket_count; b++)
        if (w->job->model->buckets[b].unit == unit && model_bucket_dense(w->job->model, b) && !bucket_rooted(w, b))
            return false;
    return unit > 0 || bucket_rooted(w, EXECUTOR_SPARSE);
}

static bg_status report(struct worker *w, struct bg_error *err)
{
    uint32_t units = w->job->model->unit_count;
    uint8_t *roots = bg_alloc_array(units, 1);
    for (uint32_t u = 0; u < units; u++)
        roots[u] = w->have[u] && unit_rooted(w, u);
    struct message_report m = {
        .version = w->version,
        .plan = w->cut,
        .complete = executor_roots_missing(w->ex) == 0,
        .unit_count = units,
        .units = w->have,
        .roots = roots,
        .stage_count = w->plan ? w->plan->stage_count : 0,
        .item_count = w->plan ? w->plan->item_count : 0,
        .items = w->items,
        .loss_count = w->job->micro_batches,
        .loss_known = w->loss_known,
        .losses = w->losses,
        .computed_leaves = w->leaves,
        .frames_refused = w->frames_refused,
    };
    size_t capacity = message_report_bytes(&m);
    void *payload = bg_alloc(capacity);
    size_t bytes = message_report_encode(&m, payload, capacity);
    struct wire_frame frame = worker_head(w, WIRE_REPORT);
    env_point(w->env, "before-report");
    bg_status status = worker_tell(w, &frame, payload, bytes, err);
    env_point(w->env, "after-report");
    bg_free(payload);
    bg_free(roots);
    return status;
}

// Others have taken a generation that we have not: they may have begun a step anew, and write where we still read. What
// hangs on such a value goes with it.
static void forget_values(struct worker *w)
{
    for (uint32_t s = 0; w->plan && s < w->plan->stage_count; s++)
        for (uint32_t i = 0; i < w->plan->item_count; i++) {
            uint8_t *held = &w->items[(size_t)s * w->plan->item_count + i];
            if (!(*held & PLAN_HELD_STASH) || !(*held & PLAN_HELD_X || (*held & PLAN_HELD_DY && *held & PLAN_HELD_B)))
                continue;
            executor_forget(w->ex, w->local[s], i);
            *held &= (uint8_t) ~(PLAN_HELD_STASH | PLAN_HELD_B);
        }
    worker_release_boundaries(w);
}

bg_status worker_prepare(struct worker *w, uint32_t generation, struct bg_error *err)
{
    w->generation = generation;
    w->running = w->linked = false;
    release_early(w);
    drop_task(w);
    if (w->sent > w->taken)
        forget_values(w);
    return report(w, err);
}

// ---- COMMIT ----

bg_status worker_commit(struct worker *w, const struct message_commit *commit, struct bg_error *err)
{
    if (commit->step != w->version || executor_roots_missing(w->ex) > 0)
        return bg_fail(err, BG_INTERNAL, "COMMIT of step %llu at version %llu with %u roots missing",
                       (unsigned long long)commit->step, (unsigned long long)w->version, executor_roots_missing(w->ex));
    if (!w->voted) // a roll-forward: the sparse rows join in where squares are taken
        executor_squares(w->ex, w->squares);
    env_point(w->env, "before-apply");
    executor_apply(w->ex, commit->step, w->job->lr(w->job->arg, commit->step), commit->clip);
    env_point(w->env, "after-apply");
    w->version++;
    begin_step(w);
    w->plan = w->steady.workers ? &w->steady : w->plan;
    return BG_OK;
}

// ---- GENERATION ----

static void set_holds(struct worker *w)
{
    const struct plan *plan = &w->steady;
    uint32_t units = w->job->model->unit_count;
    bg_free(w->peer_holds);
    w->peer_holds = bg_alloc_array((size_t)plan->workers * units, 1);
    for (uint32_t s = 0; s < plan->seat_count; s++) {
        const struct plan_stage *stage = &plan->stages[plan->seats[s].stage];
        memset(w->peer_holds + (size_t)plan->seats[s].worker * units + stage->unit_first, 1,
               stage->unit_end - stage->unit_first);
    }
    for (uint32_t f = 0; f < plan->follow_count; f++) {
        const struct plan_follow *follow = &plan->follows[f];
        memset(w->peer_holds + (size_t)follow->worker * units + follow->unit_first, 1,
               follow->unit_end - follow->unit_first);
    }
    memcpy(w->holds, w->peer_holds + (size_t)w->self * units, units);
}

// How the job is run: B and W apart. Asked of the whole plan, as what follows: who has nothing to compute in it may
// have done so before, and what the step has made stays readable in one way only.
static bool splits(const struct plan *plan)
{
    for (uint32_t worker = 0; worker < plan->workers; worker++)
        for (size_t i = 0; i < plan->lists[worker].count; i++)
            if (plan->lists[worker].ops[i].kind == PLAN_W)
                return true;
    return false;
}

// Whether a stage saves memory so: PLAN_RECOMPUTE, PLAN_OFFLOAD.
static bool saves(const struct plan *plan, uint32_t stage, uint8_t how)
{
    for (uint32_t worker = 0; worker < plan->workers; worker++)
        for (size_t i = 0; i < plan->lists[worker].count; i++) {
            const struct plan_op *op = &plan->lists[worker].ops[i];
            if (op->kind == PLAN_F && op->stage == stage && op->flags & how)
                return true;
        }
    return false;
}

static bg_status seat(struct worker *w, bool has_now, struct bg_error *err, bool *kept)
{
    const struct plan *plan = &w->steady;
    struct executor_seating seating = {
        .item_count = plan->item_count, .slots = 1, .slices = w->slices, .holds = w->holds};
    for (uint32_t s = 0; s < PLAN_STAGES_MAX; s++)
        w->local[s] = UINT32_MAX;
    for (uint32_t s = 0; s < plan->seat_count; s++) { // by stage
        if (plan->seats[s].worker != w->self)
            continue;
        if (seating.stage_count == EXECUTOR_STAGES_MAX)
            return bg_fail(err, BG_UNSUPPORTED, "more than %d stages on one worker", EXECUTOR_STAGES_MAX);
        uint32_t stage = plan->seats[s].stage, flights = plan_flights(plan, w->self, stage);
        uint32_t flights_now = has_now ? plan_flights(&w->now, w->self, stage) : 0;
        w->local[stage] = seating.stage_count;
        seating.stages[seating.stage_count++] =
            (struct executor_stage){plan->stages[stage].unit_first, plan->stages[stage].unit_end,
                                    flights > flights_now ? flights : flights_now, saves(plan, stage, PLAN_OFFLOAD)};
        seating.recompute |= saves(plan, stage, PLAN_RECOMPUTE); // all that it hosts, or none
    }
    seating.split = splits(plan);
    struct tree_node *items = bg_alloc_array(plan->item_count, sizeof *items);
    bg_status status = BG_OK;
    for (uint32_t i = 0; i < plan->item_count && !status; i++)
        if (!tree_node_cover(plan->items[i].first, plan->items[i].end, w->job->micro_batches, &items[i]))
            status = bg_fail(err, BG_INVALID, "plan: item %u is no node of the tree over %u micro-batches", i,
                             w->job->micro_batches);
    seating.items = items;
    if (!status)
        status = executor_seat(w->ex, &seating, err, kept);
    bg_free(items);
    return status;
}

static void take_cut(struct worker *w, const struct plan *plan)
{
    const size_t cells = (size_t)plan->stage_count * plan->item_count;
    w->slices = plan_op_slices(plan);
    w->slots = w->slices > 1 ? 1 + w->slices : 1;
    w->items = bg_realloc_array(w->items, cells, 1);
    w->made = bg_realloc_array(w->made, cells, sizeof *w->made);
    w->made_back = bg_realloc_array(w->made_back, cells, sizeof *w->made_back);
    w->activations = bg_realloc_array(w->activations, cells * w->slots, sizeof *w->activations);
    w->gradients = bg_realloc_array(w->gradients, cells * w->slots, sizeof *w->gradients);
    memset(w->items, 0, cells);
    memset(w->made, 0, cells * sizeof *w->made);
    memset(w->made_back, 0, cells * sizeof *w->made_back);
    memset(w->activations, 0, cells * w->slots * sizeof *w->activations);
    memset(w->gradients, 0, cells * w->slots * sizeof *w->gradients);
}

static bg_status take_plans(struct worker *w, const struct message_generation *m, struct bg_error *err)
{
    struct plan steady = {0}, now = {0};
    bg_status status = plan_parse(m->steady, m->steady_bytes, err, &steady);
    if (!status && m->now_bytes)
        status = plan_parse(m->now, m->now_bytes, err, &now);
    uint32_t units = w->job->model->unit_count;
    if (!status && (steady.units != units || steady.micro_batches != w->job->micro_batches ||
                    m->self >= m->member_count || steady.workers != m->member_count ||
                    (m->now_bytes && (now.workers != steady.workers || plan_cut_hash(&now) != plan_cut_hash(&steady)))))
        status = bg_fail(err, BG_MISMATCH, "GENERATION: its plans do not fit this job or each other");
    if (status) {
        plan_fini(&steady);
        plan_fini(&now);
        return status;
    }
    uint64_t cut = plan_cut_hash(&steady);
    if (cut != w->cut) {
        worker_forget_step(w); // by the old plan's measure
        take_cut(w, &steady);
        w->cut = cut;
    }
    plan_fini(&w->steady);
    plan_fini(&w->now);
    w->steady = steady;
    w->now = now;
    w->plan = m->now_bytes ? &w->now : &w->steady;
    w->self = m->self;
    return BG_OK;
}

static void take_members(struct worker *w, const struct message_generation *m)
{
    w->peers = bg_realloc_array(w->peers, m->member_count, sizeof *w->peers);
    w->peer_count = m->member_count;
    for (uint32_t i = 0; i < m->member_count; i++) {
        w->peers[i].member = m->members[i].member;
        memcpy(w->peers[i].address, m->members[i].address, sizeof w->peers[i].address);
    }
    worker_close_links(w, false);
}

// The state that this generation starts from: ours where it is at the right version, files, or what MOVE brings.
static bg_status take_state(struct worker *w, const struct message_generation *m, struct bg_error *err)
{
    uint32_t units = w->job->model->unit_count;
    uint32_t total = w->piece_first[w->job->model->bucket_count];
    memset(w->state_here, 0, (size_t)3 * total);
    bool fresh = m->source != MESSAGE_SOURCE_KEEP || w->version != m->step;
    if (fresh) {
        memset(w->have, 0, units);
        w->version = m->step;
        begin_step(w);
    }
    if (m->source == MESSAGE_SOURCE_KEEP) {
        for (uint32_t u = 0; u < units; u++)
            w->have[u] = w->have[u] && w->holds[u];
        return BG_OK;
    }
    struct optim_state state = executor_state(w->ex);
    bg_status status = w->job->load(w->job->arg, (enum message_source)m->source, m->checkpoint, w->holds, &state, err);
    if (!status)
        memcpy(w->have, w->holds, units);
    return status;
}

static bg_status take(struct worker *w, const struct message_generation *m, struct bg_error *err)
{
    bg_status status = BG_OK;
    if (m->has_commit && m->source == MESSAGE_SOURCE_KEEP && m->commit.step == w->version && w->plan &&
        w->version + 1 == m->step && executor_roots_missing(w->ex) == 0)
        status = worker_commit(w, &m->commit, err);
    const uint64_t cut = w->cut;
    if (!status)
        status = take_plans(w, m, err);
    if (status)
        return status;
    set_holds(w);
    bool kept = false;
    uint32_t before[PLAN_STAGES_MAX];
    memcpy(before, w->local, sizeof before);
    status = seat(w, m->now_bytes > 0, err, &kept);
    if (status)
        return status;
    if (!kept || m->anew || cut != w->cut)
        begin_step(w);
    for (uint32_t s = 0; s < w->plan->stage_count; s++)
        if (before[s] != UINT32_MAX && w->local[s] == UINT32_MAX)
            forget_stage(w, s);
    status = take_state(w, m, err);
    if (status)
        return status;
    take_members(w, m);
    worker_forget_parts(w); // posted again by those who hold them
    w->steps = m->steps;
    w->op = 0;
    w->voted = w->waits = false;
    w->resend = m->now_bytes > 0;
    w->running = true;
    w->taken = w->generation;
    w->calm_steps = 0;
    return worker_links_ready(w, err);
}

bg_status worker_take_generation(struct worker *w, const struct comm_event *event, struct bg_error *err)
{
    if (event->frame.generation != w->generation || w->running)
        return BG_OK;
    struct message_generation m;
    bg_status status = message_generation_decode(event->payload, (size_t)event->frame.bytes, err, &m);
    if (status)
        return status;
    status = take(w, &m, err);
    message_fini(m.memory);
    env_point(w->env, "after-generation");
    return status;
}
