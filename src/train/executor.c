// Items forward and backward through the hosted stages into the slots of each stage's tree. The order in which items
// run, their size, the cuts and the number of lanes never show in the bits: an item's gradients are its node's value,
// and nodes are joined along one tree whatever the order in which they arrive. A backward folds unit by unit, from the
// last to the first, so that a bucket's sums are final (and may leave) while the units below still run.
#include "train/executor_int.h"

#include "base/assert.h"
#include "base/mem.h"

#include <string.h>

static bg_status reserve_sets(struct executor *ex, struct bg_error *err)
{
    const struct model *model = ex->o.model;
    float **sets[] = {&ex->state.weights, &ex->state.m, &ex->state.v};
    for (size_t i = 0; i < 3; i++) {
        void *memory = NULL;
        bg_status status = ex->o.memory.reserve(ex->o.memory.arg, ex->set_bytes, err, &memory);
        if (status)
            return bg_fail_prefix(err, "weights and moments");
        *sets[i] = memory;
    }
    bg_status status = slot_reserve(ex, &ex->root, err);
    if (status)
        return bg_fail_prefix(err, "root gradient");
    ex->table = ex->root.grad.dense + model->buckets[0].first;
    if (!model->config.tie)
        return BG_OK; // there is no dense gradient in its place
    void *table = NULL;
    status = ex->env->ops->reserve(ex->env, model->buckets[0].floats * sizeof(float), err, &table);
    ex->table = table;
    return status;
}

bg_status executor_create(struct bg_env *env, const struct executor_options *options, struct bg_error *err,
                          struct executor **out)
{
    const struct model *model = options->model;
    struct executor *ex = bg_alloc(sizeof *ex);
    *ex = (struct executor){.env = env, .o = *options};
    struct layout_options shape = stage_shape(ex, 0, model->unit_count);
    ex->dropout_key = bg_philox_key(options->seed, BG_STREAM_DROPOUT);
    ex->set_bytes = (model->floats * sizeof(float) + 63) & ~(size_t)63;
    ex->sparse_rows = layout_sparse_rows(model, &shape);
    ex->sparse_bytes = layout_sparse_bytes(model, &shape);
    ex->optim = optim_create(env, model, options->kern, &options->optim);
    ex->holds = bg_alloc_array(model->unit_count, sizeof *ex->holds);
    ex->params_held = bg_alloc_array(model->param_count, sizeof *ex->params_held);
    ex->lanes = bg_alloc_array(env->threads, sizeof *ex->lanes);
    ex->pieces = bg_alloc_array(model->bucket_count + 2, sizeof *ex->pieces);
    for (uint32_t b = 0; b < model->bucket_count; b++)
        ex->pieces[b + 1] = ex->pieces[b] + executor_pieces(ex, b);
    ex->pieces[model->bucket_count + 1] = ex->pieces[model->bucket_count] + 1;
    ex->rooted = bg_alloc_array(ex->pieces[model->bucket_count + 1], sizeof *ex->rooted);
    ex->parts = bg_alloc_array(options->micro_batches, sizeof *ex->parts);
    ex->seen = bg_alloc_array((model->config.vocab + 63) / 64, sizeof *ex->seen);
    ex->loaded = UINT32_MAX;
    ex->slices = 1;
    bg_status status = BG_OK;
    if (options->state)
        ex->state = *options->state;
    else
        status = reserve_sets(ex, err);
    if (status) {
        executor_destroy(ex);
        return status;
    }
    *out = ex;
    return BG_OK;
}

static void release(const struct executor_memory *memory, void *start, size_t bytes)
{
    if (start)
        memory->release(memory->arg, start, bytes);
}

void executor_destroy(struct executor *ex)
{
    if (!ex)
        return;
    const struct executor_memory *shared = &ex->o.memory, own = executor_memory_env(ex->env);
    stages_destroy(ex, ex->stages, ex->stage_count);
    retired_release(ex);
    release(shared, ex->spare.memory, ex->set_bytes + ex->sparse_bytes);
    if (!ex->o.state) {
        release(shared, ex->state.weights, ex->set_bytes);
        release(shared, ex->state.m, ex->set_bytes);
        release(shared, ex->state.v, ex->set_bytes);
        release(shared, ex->root.memory, ex->set_bytes + ex->sparse_bytes);
        if (ex->o.model->config.tie)
            release(&own, ex->table, ex->o.model->buckets[0].floats * sizeof(float));
    }
    release(&own, ex->work.memory, ex->work.bytes);
    release(&own, ex->scratch.memory, ex->scratch.bytes);
    release(&own, ex->evaluation.memory, ex->evaluation.bytes);
    optim_destroy(ex->optim);
    bg_free(ex->retired);
    bg_free(ex->items);
    bg_free(ex->holds);
    bg_free(ex->params_held);
    bg_free(ex->lanes);
    bg_free(ex->pieces);
    bg_free(ex->rooted);
    bg_free(ex->parts);
    bg_free(ex->seen);
    bg_free(ex);
}

struct optim_state executor_state(const struct executor *ex)
{
    return ex->state;
}

// ---- A step ----

void executor_begin(struct executor *ex, uint64_t step)
{
    sums_begin(ex);
    retired_release(ex);
    ex->step = step;
    ex->loaded = UINT32_MAX;
    for (uint32_t s = 0; s < ex->stage_count; s++) {
        struct stage *stage = ex->stages[s];
        tree_set_init(&stage->set, ex->o.micro_batches, stage->set.slots);
        stage->items_done = 0;
        for (size_t i = 0; i < stage->set.slots; i++)
            stage->slots[i].given_out = false;
        for (uint32_t f = 0; f < stage->flight_count; f++)
            stage->flights[f].taken = false;
    }
}

static float *boundary(const struct executor *ex, const struct region *region, uint32_t item, uint32_t slice)
{
    BG_ASSERT(item < ex->item_count && region->memory);
    return (float *)(void *)((uint8_t *)region->memory + item * ex->boundary_bytes +
                             executor_slice_offset(ex, item, slice));
}

float *executor_output(struct executor *ex, uint32_t stage, uint32_t item, uint32_t slice)
{
    BG_ASSERT(stage < ex->stage_count);
    return boundary(ex, &ex->stages[stage]->outputs, item, slice);
}

float *executor_input_gradient(struct executor *ex, uint32_t stage, uint32_t item, uint32_t slice)
{
    BG_ASSERT(stage < ex->stage_count);
    return boundary(ex, &ex->stages[stage]->input_gradients, item, slice);
}

static struct flight *find_flight(const struct stage *stage, uint32_t item)
{
    for (uint32_t f = 0; f < stage->flight_count; f++) {
        if (stage->flights[f].taken && stage->flights[f].item == item)
            return &stage->flights[f];
    }
    return NULL;
}

void executor_forget(struct executor *ex, uint32_t stage, uint32_t item)
{
    BG_ASSERT(stage < ex->stage_count);
    struct flight *flight = find_flight(ex->stages[stage], item);
    if (flight)
        flight->taken = false;
}

bool executor_has_stash(const struct executor *ex, uint32_t stage, uint32_t item)
{
    const struct flight *flight = stage < ex->stage_count ? find_flight(ex->stages[stage], item) : NULL;
    return flight && flight->forward == ex->slices;
}

bool executor_has_input_gradient(const struct executor *ex, uint32_t stage, uint32_t item)
{
    const struct flight *flight = stage < ex->stage_count ? find_flight(ex->stages[stage], item) : NULL;
    return flight && flight->backward == ex->slices;
}

static bg_status take_flight(struct executor *ex, struct stage *stage, uint32_t item, struct bg_error *err,
                             struct flight **out)
{
    uint32_t f = 0;
    while (f < stage->flight_count && (stage->flights[f].taken || !stage->flights[f].here))
        f++;
    for (f = f < stage->flight_count ? f : 0; f < stage->flight_count && stage->flights[f].taken;)
        f++;
    if (f == stage->flight_count) {
        bg_status status = flight_add(ex, stage, err);
        if (status)
            return status;
    }
    *out = &stage->flights[f];
    (*out)->taken = true;
    (*out)->item = item;
    (*out)->forward = (*out)->backward = 0;
    return BG_OK;
}

static struct model_run run_of(struct executor *ex, const struct stage *stage, uint32_t item)
{
    const struct executor_options *o = &ex->o;
    double targets = (double)o->micro_batches * o->batch * o->length; // N of NUMERICS 11
    struct model_run run = {
        .model = o->model,
        .kern = o->kern,
        .env = ex->env,
        .weights = ex->state.weights,
        .lane_scratch = ex->lanes,
        .batch = o->batch,
        .length = o->length,
        .first = item_first(ex, item),
        .count = item_leaves(ex, item),
        .tokens = ex->tokens,
        .targets = ex->targets,
        .loss_scale = (float)(1.0 / targets),
        .step = ex->step,
        .dropout = (float)o->dropout,
        .dropout_key = o->dropout > 0 ? &ex->dropout_key : NULL,
    };
    struct model_run chained = run;
    chained.batch *= chained.count;
    chained.count = 1;
    bool ends = stage->unit_first == 0 || stage->unit_end == o->model->unit_count;
    if (!ends || ex->loaded == item)
        return o->order_free ? chained : run;
    size_t tokens = (size_t)o->batch * o->length; // of one micro-batch
    for (uint32_t i = 0; i < run.count; i++)
        data_micro_batch(o->view, o->seed, ex->step, o->micro_batches, run.first + i, o->batch, o->length,
                         ex->tokens + i * tokens, ex->targets + i * tokens);
    ex->loaded = item;
    return o->order_free ? chained : run;
}

// Unit `at` of the stage: its input and its stash.
static float *inner(const struct executor *ex, const struct flight *flight, uint32_t at)
{
    return (float *)(void *)(flight->memory + at * ex->boundary_bytes);
}

static float *stash_of(const struct stage *stage, const struct flight *flight, uint32_t at)
{
    return (float *)(void *)(flight->memory + stage->stash_at[at]);
}

// Where the stage's input lies as units read it: with slices, in the flight, where they came together.
static const float *input_of(const struct executor *ex, const struct stage *stage, const struct flight *flight,
                             const float *const *x)
{
    if (stage->unit_first == 0)
        return NULL;
    return ex->slices > 1 ? stash_of(stage, flight, stage->unit_end - stage->unit_first) : x[0];
}

static double *losses_of(const struct executor *ex, const struct stage *stage, const struct flight *flight)
{
    return ex->slices > 1
               ? (double *)(void *)(flight->memory + stage->stash_at[stage->unit_end - stage->unit_first + 1])
               : ex->losses;
}

// Of a slice, or of the whole. Leaves the stage's output in ex->y, or losses of tokens in losses_of().
static void forward_units(struct executor *ex, const struct stage *stage, const struct flight *flight, uint32_t slice,
                          const float *const *x)
{
    const uint32_t units = stage->unit_end - stage->unit_first;
    const struct model_run run = slice_run(ex, run_of(ex, stage, flight->item), slice);
    const float *in = input_of(ex, stage, flight, x);
    for (uint32_t k = 0; k < ex->slices && ex->slices > 1 && in; k++)
        if (slice == k || slice == EXECUTOR_WHOLE)
            slice_scatter(ex, flight->item, k, stash_of(stage, flight, units), x[k]);
    for (uint32_t at = 0; at < units; at++) {
        float *y = at + 1 < units ? inner(ex, flight, at) : ex->y;
        model_forward(&run, stage->unit_first + at, y, in, stash_of(stage, flight, at), ex->unit_work,
                      losses_of(ex, stage, flight));
        in = y;
    }
}

// The losses of an item whose forward is done.
static void sum_losses(const struct executor *ex, const struct stage *stage, const struct flight *flight,
                       double *losses)
{
    const double *loss = losses_of(ex, stage, flight);
    const size_t tokens = (size_t)ex->o.batch * ex->o.length;
    for (uint32_t i = 0; i < item_leaves(ex, flight->item); i++) {
        losses[i] = 0;
        for (size_t t = 0; t < tokens; t++)
            losses[i] += *loss++;
    }
}

bg_status executor_forward(struct executor *ex, uint32_t stage_index, uint32_t item, uint32_t slice,
                           const float *const *x, double *losses, struct bg_error *err)
{
    BG_ASSERT(stage_index < ex->stage_count && item < ex->item_count);
    BG_ASSERT(slice == EXECUTOR_WHOLE || slice < ex->slices);
    struct stage *stage = ex->stages[stage_index];
    struct flight *flight = find_flight(stage, item);
    slice = ex->slices > 1 ? slice : EXECUTOR_WHOLE;
    const bool again = flight && flight->backward > 0; // what the backward needs stays as it is
    if (slice != EXECUTOR_WHOLE && (again || slice > (flight ? flight->forward : 0)))
        return bg_fail(err, BG_INVALID, "units %u..%u, item %u: F of slice %u %s", stage->unit_first, stage->unit_end,
                       item, slice, again ? "after a B" : "before that of the slices before it");
    if (!flight || again) {
        bg_status status = take_flight(ex, stage, item, err, &flight);
        if (status)
            return status;
    }
    flight_use(ex, flight);
    forward_units(ex, stage, flight, slice, x);
    const uint32_t done = slice == EXECUTOR_WHOLE ? ex->slices : slice + 1;
    flight->forward = done > flight->forward ? done : flight->forward;
    if (stage->unit_end == ex->o.model->unit_count && flight->forward == ex->slices)
        sum_losses(ex, stage, flight, losses);
    if (again || (ex->recompute && flight->forward == ex->slices))
        flight->taken = false;
    for (uint32_t k = 0; k < ex->slices && stage->unit_end < ex->o.model->unit_count; k++)
        if (slice == k || slice == EXECUTOR_WHOLE)
            slice_gather(ex, item, k, executor_output(ex, stage_index, item, k), ex->y);
    return BG_OK;
}

// ---- Backward ----

struct placing { // where an item's gradients go and what folds after it
    struct tree_place place;
    struct tree_fold folds[32];
    size_t count;
};

// The control build adds items to one slot in the order of arrival, as a ring or a plain accumulation would: the
// identity suite has to notice.
static bg_status place_item(struct executor *ex, struct stage *stage, uint32_t item, struct bg_error *err,
                            struct placing *p)
{
    *p = (struct placing){0};
#ifdef BG_CONTROL_RING_ORDER
    (void)err;
    p->place.accumulate = stage->items_done++ > 0;
    stage->set.held[0] = stage->items_done == ex->item_count;
    stage->set.node[0] = tree_node_root(ex->o.micro_batches);
    (void)item;
    return BG_OK;
#else
    bg_status status = tree_set_place(&stage->set, ex->items[item], err, &p->place);
    if (status == BG_FULL && stage->set.slots < TREE_SLOTS_MAX) {
        status = slot_reserve(ex, &stage->slots[stage->set.slots], err);
        if (status)
            return status;
        stage->set.slots++;
        status = tree_set_place(&stage->set, ex->items[item], err, &p->place);
    }
    if (status)
        return status;
    struct tree_set after = stage->set;
    p->count = tree_set_done(&after, ex->items[item], p->place, p->folds);
    status = slot_prepare(ex, stage, p->place.slot, p->place.accumulate, err);
    for (size_t i = 0; i < p->count && !status; i++)
        status = slot_prepare(ex, stage, p->folds[i].to, true, err);
    if (!status)
        stage->set = after;
    return status;
#endif
}

static void fold_bucket(struct executor *ex, struct stage *stage, const struct placing *p, uint32_t bucket)
{
    const struct model *model = ex->o.model;
    struct slot *slots = stage->slots;
    for (size_t i = 0; i < p->count; i++) {
        struct slot *to = &slots[p->folds[i].to], *from = &slots[p->folds[i].from];
        if (bucket == EXECUTOR_SPARSE) {
            model_sparse_fold(ex->o.kern, &to->grad.embed, &from->grad.embed, model->config.dim);
            slot_seal(to);
        } else {
            model_bucket_fold(model, ex->o.kern, ex->env, bucket, to->grad.dense, from->grad.dense);
        }
    }
}

// After unit u's weight gradient: its buckets fold and, with the last item, may leave.
static void finish_unit(struct executor *ex, struct stage *stage, const struct placing *p,
                        const struct executor_backward *b, uint32_t u)
{
    const struct model *model = ex->o.model;
    uint32_t buckets[3] = {1 + u}, count = 1;
    if (model->config.tie && u == model->buckets[0].unit)
        buckets[count++] = 0;
    if (u == 0) {
        slot_seal(&stage->slots[p->place.slot]);
        buckets[count++] = EXECUTOR_SPARSE;
    }
    for (uint32_t i = 0; i < count; i++) {
        if (buckets[i] != EXECUTOR_SPARSE && model->buckets[buckets[i]].floats == 0)
            continue;
        fold_bucket(ex, stage, p, buckets[i]);
        if (b->last && b->ready)
            b->ready(b->arg, buckets[i]);
    }
}

static bg_status check_backward(const struct executor *ex, const struct stage *stage, const struct executor_backward *b,
                                const struct flight *flight, struct bg_error *err)
{
    const bool weight_only = b->part == MODEL_BACKWARD_WEIGHT;
    const uint32_t done = flight ? flight->backward : 0, ends = ex->slices - 1 - done; // ends: the next slice, if B is
    if (!ex->split && weight_only)
        return bg_fail(err, BG_INVALID, "units %u..%u, item %u: B and W apart, but the plan has them fused",
                       stage->unit_first, stage->unit_end, b->item);
    if ((!flight && (weight_only || !ex->recompute)) || (flight && flight->forward < ex->slices))
        return bg_fail(err, BG_INVALID, "units %u..%u, item %u: %s before its %s", stage->unit_first, stage->unit_end,
                       b->item, weight_only ? "W" : "B", weight_only ? "B" : "F");
    if (flight && weight_only != (done == ex->slices))
        return bg_fail(err, BG_INVALID, "units %u..%u, item %u: %s", stage->unit_first, stage->unit_end, b->item,
                       weight_only ? "W before its B" : "B twice");
    if (weight_only || ex->slices == 1 || b->slice == EXECUTOR_WHOLE)
        return BG_OK;
    if (b->slice != ends || (b->part == MODEL_BACKWARD_BOTH && ends > 0))
        return bg_fail(err, BG_INVALID, "units %u..%u, item %u: B of slice %u%s, but slice %u is next",
                       stage->unit_first, stage->unit_end, b->item, b->slice,
                       b->part == MODEL_BACKWARD_BOTH ? " with W" : "", ends);
    return BG_OK;
}

// One pass over the units, of a slice or of the whole.
static void backward_units(struct executor *ex, struct stage *stage, const struct flight *flight,
                           const struct executor_backward *b, enum model_backward_part wanted, uint32_t slice,
                           const struct placing *p)
{
    bool input = wanted & MODEL_BACKWARD_INPUT, weight = wanted & MODEL_BACKWARD_WEIGHT;
    // The input gradient alone, of a leaf that is in a sum already: a fused stash has no room for the halves.
    bool spare = !weight && !ex->split;
    struct model_grad *grad = spare ? &ex->spare.grad : weight ? &stage->slots[p->place.slot].grad : NULL;
    enum model_backward_part part = spare ? MODEL_BACKWARD_BOTH : wanted;
    const struct model_run run = slice_run(ex, run_of(ex, stage, b->item), slice);
    const float *x = input_of(ex, stage, flight, b->x);
    for (uint32_t k = 0; k < ex->slices && input; k++)
        if ((slice == k || slice == EXECUTOR_WHOLE) && stage->unit_end < ex->o.model->unit_count)
            slice_scatter(ex, b->item, k, ex->dx, b->dy[k]);
    for (uint32_t u = stage->unit_end; u-- > stage->unit_first;) {
        uint32_t at = u - stage->unit_first;
        model_backward(&run, u, part, input ? ex->dx : NULL, at > 0 ? inner(ex, flight, at - 1) : x,
                       stash_of(stage, flight, at), ex->unit_work, grad, p->place.accumulate);
        if (weight)
            finish_unit(ex, stage, p, b, u);
    }
    for (uint32_t k = 0; k < ex->slices && input; k++)
        if ((slice == k || slice == EXECUTOR_WHOLE) && stage->unit_first > 0)
            slice_gather(ex, b->item, k, executor_input_gradient(ex, b->stage, b->item, k), ex->dx);
}

// With slices, W is a pass of its own: the input gradients of those that are left, then the weight gradient.
static void backward_slices(struct executor *ex, struct stage *stage, struct flight *flight,
                            const struct executor_backward *b, const struct placing *p)
{
    const bool whole = b->slice == EXECUTOR_WHOLE;
    if (b->part & MODEL_BACKWARD_INPUT && whole && flight->backward == 0) {
        backward_units(ex, stage, flight, b, MODEL_BACKWARD_INPUT, EXECUTOR_WHOLE, p);
        flight->backward = ex->slices;
    }
    while (b->part & MODEL_BACKWARD_INPUT && flight->backward < ex->slices) {
        backward_units(ex, stage, flight, b, MODEL_BACKWARD_INPUT, ex->slices - 1 - flight->backward, p);
        flight->backward++;
        if (!whole)
            break;
    }
    if (b->part & MODEL_BACKWARD_WEIGHT)
        backward_units(ex, stage, flight, b, MODEL_BACKWARD_WEIGHT, EXECUTOR_WHOLE, p);
}

bg_status executor_backward(struct executor *ex, const struct executor_backward *b, struct bg_error *err)
{
    BG_ASSERT(b->stage < ex->stage_count && b->item < ex->item_count);
    BG_ASSERT(b->slice == EXECUTOR_WHOLE || b->slice < ex->slices);
    struct stage *stage = ex->stages[b->stage];
    struct flight *flight = find_flight(stage, b->item);
    bg_status status = check_backward(ex, stage, b, flight, err);
    if (!status && !flight) {
        status = take_flight(ex, stage, b->item, err, &flight);
        if (!status) {
            flight_use(ex, flight);
            forward_units(ex, stage, flight, EXECUTOR_WHOLE, b->x);
            flight->forward = ex->slices;
        }
    }
    struct placing placing = {0};
    if (!status && b->part & MODEL_BACKWARD_WEIGHT)
        status = place_item(ex, stage, b->item, err, &placing);
    else if (!status && !ex->split && !ex->spare.memory)
        status = slot_reserve(ex, &ex->spare, err);
    if (status)
        return status;
    flight_use(ex, flight);
    if (ex->slices > 1) {
        backward_slices(ex, stage, flight, b, &placing);
    } else {
        backward_units(ex, stage, flight, b, b->part, EXECUTOR_WHOLE, &placing);
        flight->backward = 1;
    }
    flight->taken = ex->split && b->part == MODEL_BACKWARD_INPUT;
    return BG_OK;
}

double executor_probe(struct executor *ex)
{
    const struct model *model = ex->o.model;
    for (uint32_t s = 0; s < ex->stage_count; s++) {
        const struct stage *stage = ex->stages[s];
        for (uint32_t u = stage->unit_first; u < stage->unit_end; u++) {
            if (model->units[u].kind != MODEL_UNIT_BLOCK)
                continue;
            executor_begin(ex, 0);
            struct model_run run = run_of(ex, stage, 0);
            float *stash = stash_of(stage, &stage->flights[0], u - stage->unit_first);
            double seconds = 0;
            memset(ex->dx, 0, ex->boundary_bytes);
            for (int round = 0; round < 3; round++) { // the first one touches the memory
                uint64_t start = env_now_ns(ex->env);
                model_forward(&run, u, ex->y, ex->dx, stash, ex->unit_work, NULL);
                double taken = 1e-9 * (double)(env_now_ns(ex->env) - start);
                seconds = round < 2 || taken < seconds ? taken : seconds;
            }
            double flops = layout_flops_block(model, (uint64_t)run.count * ex->o.batch, ex->o.length) / 3;
            return seconds > 0 ? flops / seconds : 0;
        }
    }
    return 0;
}
