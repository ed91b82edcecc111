// Seating: what the hosted stages need is reserved here, and what the last seating had is kept where it fits. Memory
// that peers may read is only retired; it goes when the next step begins.
#include "train/executor_int.h"

#include "base/assert.h"
#include "base/mem.h"
#include "plan/plan.h"
#include "train/evaluate.h"

#include <string.h>

static bg_status env_reserve(void *arg, size_t bytes, struct bg_error *err, void **memory)
{
    struct bg_env *env = arg;
    return env->ops->reserve(env, bytes, err, memory);
}

static void env_release(void *arg, void *memory, size_t bytes)
{
    struct bg_env *env = arg;
    env->ops->release(env, memory, bytes);
}

struct executor_memory executor_memory_env(struct bg_env *env)
{
    return (struct executor_memory){env, env_reserve, env_release};
}

void region_retire(struct executor *ex, struct region region)
{
    if (!region.memory)
        return;
    ex->retired = bg_realloc_array(ex->retired, ex->retired_count + 1, sizeof *ex->retired);
    ex->retired[ex->retired_count++] = region;
}

void retired_release(struct executor *ex)
{
    for (uint32_t i = 0; i < ex->retired_count; i++)
        ex->o.memory.release(ex->o.memory.arg, ex->retired[i].memory, ex->retired[i].bytes);
    ex->retired_count = 0;
}

bg_status region_grow(struct executor *ex, struct region *region, size_t bytes, bool shared, struct bg_error *err)
{
    if (bytes <= region->bytes)
        return BG_OK;
    struct executor_memory from = shared ? ex->o.memory : executor_memory_env(ex->env);
    if (shared)
        region_retire(ex, *region);
    else if (region->memory)
        from.release(from.arg, region->memory, region->bytes);
    *region = (struct region){0};
    void *memory = NULL;
    bg_status status = from.reserve(from.arg, bytes, err, &memory);
    if (!status)
        *region = (struct region){memory, bytes};
    return status;
}

// ---- Slots ----

bg_status slot_reserve(struct executor *ex, struct slot *slot, struct bg_error *err)
{
    struct region region = {0};
    bg_status status = region_grow(ex, &region, ex->set_bytes + ex->sparse_bytes, true, err);
    if (status)
        return status;
    uint8_t *block = (uint8_t *)region.memory + ex->set_bytes;
    size_t ids = ((size_t)ex->sparse_rows * 4 + 63) & ~(size_t)63;
    *slot = (struct slot){.memory = region.memory, .header = (void *)block};
    slot->header->capacity = ex->sparse_rows;
    slot->grad.dense = region.memory;
    slot->grad.embed.capacity = ex->sparse_rows;
    slot->grad.embed.ids = (void *)(block + sizeof *slot->header);
    slot->grad.embed.rows = (void *)(block + sizeof *slot->header + ids);
    return BG_OK;
}

// Ids behind the last one are zero, so that blocks of equal rows are equal bytes.
void slot_seal(struct slot *slot)
{
    uint32_t count = slot->grad.embed.count, before = slot->header->count;
    if (before > count)
        memset(slot->grad.embed.ids + count, 0, (before - count) * sizeof *slot->grad.embed.ids);
    slot->header->count = count;
}

void slot_empty(struct slot *slot)
{
    memset(slot->grad.embed.ids, 0, slot->grad.embed.capacity * sizeof *slot->grad.embed.ids);
    slot->grad.embed.count = slot->header->count = 0;
}

static void slot_retire(struct executor *ex, struct slot *slot)
{
    region_retire(ex, (struct region){slot->memory, ex->set_bytes + ex->sparse_bytes});
    *slot = (struct slot){0};
}

static void copy_sums(const struct executor *ex, const struct stage *stage, struct slot *to, const struct slot *from)
{
    const struct model *model = ex->o.model;
    for (uint32_t b = 0; b < model->bucket_count; b++) {
        struct model_bucket bucket = model->buckets[b];
        if (model_bucket_dense(model, b) && bucket.unit >= stage->unit_first && bucket.unit < stage->unit_end)
            memcpy(to->grad.dense + bucket.first, from->grad.dense + bucket.first, bucket.floats * sizeof(float));
    }
    const struct model_sparse *rows = &from->grad.embed;
    if (stage->unit_first > 0)
        return;
    to->grad.embed.count = rows->count;
    memcpy(to->grad.embed.ids, rows->ids, rows->count * sizeof *rows->ids);
    memcpy(to->grad.embed.rows, rows->rows, (size_t)rows->count * model->config.dim * sizeof(float));
    slot_seal(to);
}

bg_status slot_prepare(struct executor *ex, struct stage *stage, size_t index, bool keep, struct bg_error *err)
{
    struct slot *slot = &stage->slots[index], fresh;
    if (!slot->given_out)
        return BG_OK;
    bg_status status = slot_reserve(ex, &fresh, err);
    if (status)
        return status;
    if (keep)
        copy_sums(ex, stage, &fresh, slot);
    slot_retire(ex, slot);
    *slot = fresh;
    return BG_OK;
}

// ---- Stages ----

bg_status flight_add(struct executor *ex, struct stage *stage, struct bg_error *err)
{
    void *memory = NULL;
    const struct bg_env_ops *ops = ex->env->ops;
    BG_ASSERT(!stage->offload || ex->o.scratch);
    bg_status status = stage->offload ? ops->reserve_on_disk(ex->env, ex->o.scratch, stage->flight_bytes, err, &memory)
                                      : ops->reserve(ex->env, stage->flight_bytes, err, &memory);
    if (status)
        return bg_fail_prefix(err, "activations of a step (smaller: train.micro_batch, run.group%s)",
                              stage->offload ? "; another directory: run.scratch" : "");
    stage->flights = bg_realloc_array(stage->flights, stage->flight_count + 1, sizeof *stage->flights);
    stage->flights[stage->flight_count++] = (struct flight){.memory = memory, .on_disk = stage->offload};
    return BG_OK;
}

void flight_use(struct executor *ex, struct flight *flight)
{
    for (uint32_t s = 0; s < ex->stage_count; s++)
        for (uint32_t f = 0; f < ex->stages[s]->flight_count; f++) {
            struct flight *other = &ex->stages[s]->flights[f];
            if (other == flight || !other->here)
                continue;
            ex->env->ops->set_aside(ex->env, other->memory, ex->stages[s]->flight_bytes);
            other->here = false;
        }
    flight->here = flight->on_disk;
}

static void flights_drop(struct executor *ex, struct stage *stage)
{
    for (uint32_t f = 0; f < stage->flight_count; f++)
        ex->env->ops->release(ex->env, stage->flights[f].memory, stage->flight_bytes);
    stage->flight_count = 0;
}

// Sums and boundaries of the open step go; peers may still read them.
static void stage_forget(struct executor *ex, struct stage *stage)
{
    region_retire(ex, stage->outputs);
    region_retire(ex, stage->input_gradients);
    stage->outputs = stage->input_gradients = (struct region){0};
    for (size_t i = 0; i < stage->set.slots; i++)
        slot_retire(ex, &stage->slots[i]);
    tree_set_init(&stage->set, ex->o.micro_batches, 1);
    stage->set.slots = 0;
    stage->items_done = 0;
    for (uint32_t f = 0; f < stage->flight_count; f++)
        stage->flights[f].taken = false;
}

void stages_destroy(struct executor *ex, struct stage **stages, uint32_t count)
{
    for (uint32_t s = 0; s < count; s++) {
        if (!stages[s])
            continue;
        stage_forget(ex, stages[s]);
        flights_drop(ex, stages[s]);
        bg_free(stages[s]->flights);
        bg_free(stages[s]->stash_at);
        bg_free(stages[s]);
        stages[s] = NULL;
    }
}

static struct stage *stage_create(struct executor *ex, const struct executor_stage *wanted)
{
    struct stage *stage = bg_alloc(sizeof *stage);
    stage->unit_first = wanted->unit_first;
    stage->unit_end = wanted->unit_end;
    stage->stash_at = bg_alloc_array(wanted->unit_end - wanted->unit_first + 2, sizeof *stage->stash_at);
    tree_set_init(&stage->set, ex->o.micro_batches, 1);
    stage->set.slots = 0;
    return stage;
}

static bg_status stage_reserve(struct executor *ex, struct stage *stage, const struct executor_seating *seating,
                               const struct executor_stage *wanted, struct bg_error *err)
{
    uint32_t flights = wanted->flights;
    const struct model *model = ex->o.model;
    struct layout_options shape = stage_shape(ex, stage->unit_first, stage->unit_end);
    size_t bytes = layout_flight_bytes(model, &shape, ex->group, ex->split, stage->stash_at);
    bool taken = false;
    for (uint32_t f = 0; f < stage->flight_count; f++)
        taken |= stage->flights[f].taken;
    const bool moves = stage->offload != wanted->offload && !taken; // else those that are there stay where they are
    stage->offload = wanted->offload;
    if (bytes > stage->flight_bytes || stage->flight_count == 0 || moves) {
        flights_drop(ex, stage);
        stage->flight_bytes = bytes;
    }
    bg_status status = BG_OK;
    if (ex->recompute && !ex->split)
        flights = 1;
    while (!status && stage->flight_count < (flights > 0 ? flights : 1))
        status = flight_add(ex, stage, err);
    size_t boundaries = ex->item_count * ex->boundary_bytes;
    if (!status && stage->unit_end < model->unit_count)
        status = region_grow(ex, &stage->outputs, boundaries, true, err);
    if (!status && stage->unit_first > 0)
        status = region_grow(ex, &stage->input_gradients, boundaries, true, err);
    size_t slots = seating->slots < TREE_SLOTS_MAX ? seating->slots : TREE_SLOTS_MAX;
    while (!status && stage->set.slots < (slots > 0 ? slots : 1)) {
        status = slot_reserve(ex, &stage->slots[stage->set.slots], err);
        stage->set.slots += !status;
    }
    return status;
}

static void *cut(struct bg_arena *arena, size_t bytes)
{
    void *memory = bg_arena_take(arena, bytes);
    BG_ASSERT(memory); // layout.c counted it
    return memory;
}

static bg_status reserve_shared_work(struct executor *ex, struct bg_error *err)
{
    const struct model *model = ex->o.model;
    struct layout_options shape = stage_shape(ex, 0, model->unit_count);
    size_t scratch = layout_scratch_bytes(model, ex->o.kern, &shape, ex->group);
    bg_status status = region_grow(ex, &ex->work, layout_work_bytes(model, &shape, ex->group), false, err);
    if (!status)
        status = region_grow(ex, &ex->scratch, ex->env->threads * scratch, false, err);
    if (status)
        return status;
    size_t rows = (size_t)ex->group * ex->o.batch * ex->o.length;
    struct bg_arena work = {.base = ex->work.memory, .size = ex->work.bytes};
    ex->dx = cut(&work, ex->boundary_bytes);
    ex->y = cut(&work, ex->boundary_bytes);
    ex->unit_work = cut(&work, model_work_floats(model, ex->o.batch, ex->o.length, ex->group, true) * 4);
    ex->tokens = cut(&work, rows * 4);
    ex->targets = cut(&work, rows * 4);
    ex->losses = cut(&work, rows * 8);
    for (unsigned lane = 0; lane < ex->env->threads; lane++)
        ex->lanes[lane] = (uint8_t *)ex->scratch.memory + lane * scratch;
    return BG_OK;
}

static bg_status check_seating(const struct executor *ex, const struct executor_seating *seating, struct bg_error *err)
{
    const struct model *model = ex->o.model;
    if (seating->stage_count > EXECUTOR_STAGES_MAX)
        return bg_fail(err, BG_INVALID, "a worker can host %d stages, the plan gives it %u", EXECUTOR_STAGES_MAX,
                       seating->stage_count);
    for (uint32_t s = 0; s < seating->stage_count; s++) {
        const struct executor_stage *stage = &seating->stages[s];
        if (stage->unit_first >= stage->unit_end || stage->unit_end > model->unit_count)
            return bg_fail(err, BG_INVALID, "stage %u: units %u..%u are no stage of a model of %u units", s,
                           stage->unit_first, stage->unit_end, model->unit_count);
        for (uint32_t o = 0; o < s; o++)
            if (stage->unit_first < seating->stages[o].unit_end && seating->stages[o].unit_first < stage->unit_end)
                return bg_fail(err, BG_INVALID, "stages %u and %u of one worker share a unit", o, s);
    }
    if (seating->slices > plan_slices_most(ex->o.length))
        return bg_fail(
            err, BG_INVALID,
            "%u slices of sequences of %u positions: a slice is at least %d positions, so at most %u (a longer "
            "model.context, or fewer slices)",
            seating->slices, ex->o.length, PLAN_SLICE_ALIGN, plan_slices_most(ex->o.length));
    uint64_t leaves = 0; // no two nodes overlap in a partition: then the counts tell
    for (uint32_t i = 0; i < seating->item_count; i++) {
        struct tree_node node = seating->items[i];
        if (node.level > tree_node_root(ex->o.micro_batches).level ||
            (uint64_t)node.index << node.level >= ex->o.micro_batches)
            return bg_fail(err, BG_INVALID, "item %u lies outside the step's %u micro-batches", i, ex->o.micro_batches);
        leaves += tree_node_end(node, ex->o.micro_batches) - tree_node_first(node);
    }
    if (leaves != ex->o.micro_batches)
        return bg_fail(err, BG_INVALID, "the items hold %llu micro-batches, the step has %u",
                       (unsigned long long)leaves, ex->o.micro_batches);
    return BG_OK;
}

static struct stage **find_stage(struct stage **stages, uint32_t count, uint32_t unit_first, uint32_t unit_end)
{
    for (uint32_t s = 0; s < count; s++) {
        if (stages[s] && stages[s]->unit_first == unit_first && stages[s]->unit_end == unit_end)
            return &stages[s];
    }
    return NULL;
}

static uint32_t wants_slices(const struct executor_seating *seating)
{
    return seating->slices > 1 ? seating->slices : 1;
}

static bool wants_split(const struct executor_seating *seating)
{
    return seating->split || seating->slices > 1;
}

// What the stages hold of the open step stays readable.
static bool keeps(const struct executor *ex, const struct executor_seating *seating)
{
    if (ex->item_count == 0 || ex->stage_count == 0)
        return ex->item_count > 0;
    return ex->split == wants_split(seating) && ex->slices == wants_slices(seating) &&
           ex->item_count == seating->item_count &&
           memcmp(ex->items, seating->items, seating->item_count * sizeof *seating->items) == 0;
}

static void take_items(struct executor *ex, const struct executor_seating *seating)
{
    ex->items = bg_realloc_array(ex->items, seating->item_count, sizeof *ex->items);
    memcpy(ex->items, seating->items, seating->item_count * sizeof *ex->items);
    ex->item_count = seating->item_count;
    ex->group = 1;
    for (uint32_t i = 0; i < ex->item_count; i++) {
        if (item_leaves(ex, i) > ex->group)
            ex->group = item_leaves(ex, i);
    }
    struct layout_options shape = stage_shape(ex, 0, ex->o.model->unit_count);
    ex->boundary_bytes = layout_boundary_bytes(ex->o.model, &shape, ex->group);
    ex->loaded = UINT32_MAX;
}

static void take_holds(struct executor *ex, const uint8_t *holds)
{
    const struct model *model = ex->o.model;
    memcpy(ex->holds, holds, model->unit_count);
    for (uint32_t p = 0; p < model->param_count; p++) {
        const struct model_param *param = &model->params[p];
        ex->params_held[p] = holds[param->unit];
        if (param->role == MODEL_ROLE_EMBED)
            ex->params_held[p] = executor_needs(model, holds, EXECUTOR_SPARSE);
    }
    optim_hold(ex->optim, ex->params_held);
}

bg_status executor_seat(struct executor *ex, const struct executor_seating *seating, struct bg_error *err, bool *kept)
{
    bg_status status = check_seating(ex, seating, err);
    if (status)
        return status;
    bool keep = keeps(ex, seating);
    ex->slices = wants_slices(seating);
    take_items(ex, seating);
    take_holds(ex, seating->holds);
    ex->split = wants_split(seating);
    ex->recompute = seating->recompute;

    struct stage *before[EXECUTOR_STAGES_MAX];
    uint32_t before_count = ex->stage_count;
    memcpy(before, ex->stages, sizeof before);
    memset(ex->stages, 0, sizeof ex->stages);
    ex->stage_count = 0;
    for (uint32_t s = 0; s < seating->stage_count && !status; s++) {
        const struct executor_stage *wanted = &seating->stages[s];
        struct stage **there = find_stage(before, before_count, wanted->unit_first, wanted->unit_end), *stage = NULL;
        if (there) {
            stage = *there;
            *there = NULL;
            if (!keep)
                stage_forget(ex, stage);
        } else {
            stage = stage_create(ex, wanted);
        }
        ex->stages[ex->stage_count++] = stage;
        status = stage_reserve(ex, stage, seating, wanted, err);
    }
    stages_destroy(ex, before, before_count);
    if (!status)
        status = reserve_shared_work(ex, err);
    if (status) {
        stages_destroy(ex, ex->stages, ex->stage_count);
        ex->stage_count = 0;
        return status;
    }
    *kept = keep;
    return BG_OK;
}

// ---- Asked for by others ----

void *executor_evaluate_memory(struct executor *ex, uint32_t *sequences, struct bg_error *err)
{
    const struct model *model = ex->o.model;
    const struct stage *stage = ex->stage_count > 0 ? ex->stages[0] : NULL;
    size_t flight = stage && !stage->flights[0].taken ? stage->flight_bytes : 0;
    uint32_t count = layout_evaluate_sequences(model, ex->o.length, flight);
    if (flight >= evaluate_bytes(model, ex->o.length, count)) {
        *sequences = count;
        flight_use(ex, &ex->stages[0]->flights[0]);
        return stage->flights[0].memory;
    }
    if (region_grow(ex, &ex->evaluation, evaluate_bytes(model, ex->o.length, count), false, err))
        return NULL;
    *sequences = count;
    return ex->evaluation.memory;
}

void *const *executor_scratch(struct executor *ex)
{
    return ex->lanes;
}
