// The executor of one stage. All memory is reserved at start and cut into: the activations of one group in flight
// (boundaries between units, stashes, dx, work, tokens, losses), gradient slots of the canonical tree, scratch of
// every lane. The order in which groups run, their size and the number of lanes never show in the bits: a group's
// gradients are its node's value, and nodes are joined along one tree whatever the order in which they arrive.
#include "train/step.h"

#include "base/assert.h"
#include "base/mem.h"

#include <math.h>
#include <string.h>

struct step_executor {
    struct bg_env *env;
    struct step_options o;
    struct optim_state state;
    struct optim *optim;
    struct bg_philox_key dropout_key;
    void *memory;
    size_t memory_bytes;

    // One group in flight.
    void *flight;
    float *x;      // (units + 1, rows, dim): input of the stage's first unit, then every unit's output
    float **stash; // by unit of the stage
    float *dx, *work;
    int32_t *tokens, *targets;
    double *losses; // (rows)
    void **scratch; // by lane

    // One step.
    uint64_t step;
    struct model_grad *slots;
    struct tree_set set;
    size_t groups_done, root;
    double *leaf_losses; // (micro_batches)
    double *squares;     // (params)
};

static void *cut(struct bg_arena *arena, size_t bytes)
{
    void *memory = bg_arena_take(arena, bytes);
    BG_ASSERT(memory); // layout.c counted it
    return memory;
}

static void cut_flight(struct step_executor *ex, struct bg_arena *arena)
{
    const struct layout *l = ex->o.layout;
    uint32_t units = l->unit_end - l->unit_first;
    struct bg_arena flight = {.base = cut(arena, l->flight_bytes), .size = l->flight_bytes};
    ex->flight = flight.base;
    ex->x = cut(&flight, (units + 1) * l->x_floats * 4);
    ex->dx = cut(&flight, l->x_floats * 4);
    for (uint32_t u = 0; u < units; u++) {
        size_t floats = model_stash_floats(ex->o.model, l->unit_first + u, l->batch, l->length, l->group, false, true);
        ex->stash[u] = cut(&flight, floats * 4);
    }
    ex->work = cut(&flight, l->work_floats * 4);
    ex->tokens = cut(&flight, l->rows * 4);
    ex->targets = cut(&flight, l->rows * 4);
    ex->losses = cut(&flight, l->rows * 8);
}

bg_status step_create(struct bg_env *env, const struct step_options *o, const struct optim_state *state,
                      struct bg_error *err, struct step_executor **out)
{
    const struct layout *l = o->layout;
    struct step_executor *ex = bg_alloc(sizeof *ex);
    *ex = (struct step_executor){.env = env, .o = *o, .state = *state, .memory_bytes = l->bytes};
    ex->dropout_key = bg_philox_key(o->seed, BG_STREAM_DROPOUT);
    bg_status status = env->ops->reserve(env, l->bytes, err, &ex->memory);
    if (status) {
        bg_free(ex);
        bg_fail_prefix(err, "activations and gradients of a step (smaller: train.micro_batch, run.group)");
        return status;
    }
    ex->optim = optim_create(env, o->model, o->kern, &o->optim);
    ex->stash = bg_alloc_array(l->unit_end - l->unit_first, sizeof *ex->stash);
    ex->slots = bg_alloc_array(l->slots, sizeof *ex->slots);
    ex->scratch = bg_alloc_array(env->threads, sizeof *ex->scratch);
    ex->leaf_losses = bg_alloc_array(l->micro_batches, sizeof *ex->leaf_losses);
    ex->squares = bg_alloc_array(o->model->param_count, sizeof *ex->squares);

    struct bg_arena arena = {.base = ex->memory, .size = l->bytes};
    cut_flight(ex, &arena);
    for (size_t s = 0; s < l->slots; s++) {
        struct model_grad *slot = &ex->slots[s];
        slot->dense = cut(&arena, o->model->floats * 4);
        slot->embed.capacity = l->sparse_capacity;
        slot->embed.ids = cut(&arena, (size_t)l->sparse_capacity * 4);
        slot->embed.rows = cut(&arena, (size_t)l->sparse_capacity * o->model->config.dim * 4);
    }
    for (unsigned lane = 0; lane < env->threads; lane++)
        ex->scratch[lane] = cut(&arena, l->scratch_bytes);
    *out = ex;
    return BG_OK;
}

void step_destroy(struct step_executor *ex)
{
    if (!ex)
        return;
    ex->env->ops->release(ex->env, ex->memory, ex->memory_bytes);
    optim_destroy(ex->optim);
    bg_free(ex->stash);
    bg_free(ex->slots);
    bg_free(ex->scratch);
    bg_free(ex->leaf_losses);
    bg_free(ex->squares);
    bg_free(ex);
}

void step_begin(struct step_executor *ex, uint64_t step)
{
    ex->step = step;
    ex->groups_done = 0;
    tree_set_init(&ex->set, ex->o.layout->micro_batches, ex->o.layout->slots);
}

static uint32_t group_first(const struct step_executor *ex, size_t index)
{
    return tree_node_first(ex->o.layout->order[index]);
}

static uint32_t group_count(const struct step_executor *ex, size_t index)
{
    const struct layout *l = ex->o.layout;
    return tree_node_end(l->order[index], l->micro_batches) - tree_node_first(l->order[index]);
}

void step_load(struct step_executor *ex, size_t index)
{
    const struct layout *l = ex->o.layout;
    size_t tokens = (size_t)l->batch * l->length; // of one micro-batch
    for (uint32_t i = 0; i < group_count(ex, index); i++)
        data_micro_batch(ex->o.view, ex->o.seed, ex->step, l->micro_batches, group_first(ex, index) + i, l->batch,
                         l->length, ex->tokens + i * tokens, ex->targets + i * tokens);
}

static struct model_run run_of(const struct step_executor *ex, size_t index)
{
    const struct layout *l = ex->o.layout;
    double targets = (double)l->micro_batches * l->batch * l->length; // N of NUMERICS 11
    return (struct model_run){
        .model = ex->o.model,
        .kern = ex->o.kern,
        .env = ex->env,
        .weights = ex->state.weights,
        .lane_scratch = ex->scratch,
        .batch = l->batch,
        .length = l->length,
        .first = group_first(ex, index),
        .count = group_count(ex, index),
        .tokens = ex->tokens,
        .targets = ex->targets,
        .loss_scale = (float)(1.0 / targets),
        .step = ex->step,
        .dropout = (float)ex->o.dropout,
        .dropout_key = ex->o.dropout > 0 ? &ex->dropout_key : NULL,
    };
}

void step_forward(struct step_executor *ex, size_t index)
{
    const struct layout *l = ex->o.layout;
    struct model_run run = run_of(ex, index);
    for (uint32_t u = l->unit_first; u < l->unit_end; u++) {
        size_t at = u - l->unit_first;
        model_forward(&run, u, ex->x + (at + 1) * l->x_floats, ex->x + at * l->x_floats, ex->stash[at], ex->work,
                      ex->losses);
    }
    if (l->unit_end < ex->o.model->unit_count)
        return;
    const double *loss = ex->losses;
    for (uint32_t i = 0; i < run.count; i++) {
        double sum = 0;
        for (size_t t = 0; t < (size_t)l->batch * l->length; t++)
            sum += *loss++;
        ex->leaf_losses[run.first + i] = sum;
    }
}

// Where a group's gradients go. The control build adds them to one slot in the order of arrival, as a ring or a plain
// accumulation would: the identity suite has to notice.
static bg_status place(struct step_executor *ex, struct tree_node node, struct bg_error *err, struct tree_place *where)
{
#ifdef BG_CONTROL_RING_ORDER
    (void)node;
    (void)err;
    *where = (struct tree_place){.slot = 0, .accumulate = ex->groups_done > 0};
    return BG_OK;
#else
    return tree_set_place(&ex->set, node, err, where);
#endif
}

static void fold(struct step_executor *ex, struct tree_node node, struct tree_place where)
{
#ifdef BG_CONTROL_RING_ORDER
    (void)node;
    ex->root = where.slot;
#else
    struct tree_fold folds[32];
    size_t count = tree_set_done(&ex->set, node, where, folds);
    for (size_t i = 0; i < count; i++)
        model_grad_fold(ex->o.model, ex->o.kern, ex->env, &ex->slots[folds[i].to], &ex->slots[folds[i].from]);
    bool complete = tree_set_root(&ex->set, &ex->root);
    BG_ASSERT(complete == (ex->groups_done + 1 == ex->o.layout->groups));
#endif
}

bg_status step_backward(struct step_executor *ex, size_t index, struct bg_error *err)
{
    const struct layout *l = ex->o.layout;
    struct tree_place where;
    bg_status status = place(ex, l->order[index], err, &where);
    if (status)
        return status;
    struct model_run run = run_of(ex, index);
    for (uint32_t u = l->unit_end; u > l->unit_first; u--) {
        size_t at = u - 1 - l->unit_first;
        model_backward(&run, u - 1, MODEL_BACKWARD_BOTH, ex->dx, ex->x + at * l->x_floats, ex->stash[at], ex->work,
                       &ex->slots[where.slot], where.accumulate);
    }
    fold(ex, l->order[index], where);
    ex->groups_done++;
    return BG_OK;
}

// The canonical tree over leaf losses (NUMERICS 11), in place: entry 0 becomes the root.
static double tree_sum(double *leaves, uint32_t count)
{
    for (size_t width = 1; width < count; width *= 2)
        for (size_t i = 0; i + width < count; i += 2 * width)
            leaves[i] += leaves[i + width];
    return leaves[0];
}

// Names the first tensor in name order that holds an element which is not finite, or NULL.
static const char *not_finite(const struct step_executor *ex, const float *values)
{
    const struct model *model = ex->o.model;
    for (uint32_t p = 0; p < model->param_count; p++)
        for (uint64_t i = 0; i < model->params[p].count; i++)
            if (!isfinite(values[model->params[p].offset + i]))
                return model->params[p].name;
    return NULL;
}

static bg_status check_loss(const struct step_executor *ex, double loss, struct bg_error *err)
{
    if (isfinite(loss))
        return BG_OK;
    const char *tensor = not_finite(ex, ex->state.weights);
    const char *what = "weight";
    if (!tensor) {
        tensor = not_finite(ex, ex->slots[ex->root].dense);
        what = "gradient";
    }
    return bg_fail(
        err, BG_NOT_FINITE,
        "step %llu: the loss is not finite (%g); first %s that is not finite: %s. The weights are those before "
        "the step; try a lower train.lr, a longer train.warmup or a smaller train.clip",
        (unsigned long long)ex->step, loss, tensor ? what : "tensor", tensor ? tensor : "the logits");
}

static bg_status check_norm(const struct step_executor *ex, double norm, struct bg_error *err)
{
    if (isfinite(norm))
        return BG_OK;
    uint32_t p = 0;
    while (p + 1 < ex->o.model->param_count && isfinite(ex->squares[p]))
        p++;
    return bg_fail(
        err, BG_NOT_FINITE,
        "step %llu: the gradient norm is not finite (%g); first tensor: %s. The weights are those before the "
        "step; try a lower train.lr, a longer train.warmup or a smaller train.clip",
        (unsigned long long)ex->step, norm, ex->o.model->params[p].name);
}

bg_status step_run(struct step_executor *ex, struct step_commit *commit, uint64_t step, double lr, struct bg_error *err,
                   struct step_record *record)
{
    const struct layout *l = ex->o.layout;
    step_begin(ex, step);
    for (size_t g = 0; g < l->groups; g++) { // RUN
        step_load(ex, g);
        step_forward(ex, g);
        bg_status status = step_backward(ex, g, err);
        if (status)
            return status;
    }

    struct model_grad *root = &ex->slots[ex->root]; // REDUCED
    model_grad_finish(ex->o.model, root);
    optim_squares(ex->optim, root->dense, ex->squares);
    struct step_sums sums = {step, ex->leaf_losses, l->micro_batches, ex->squares, ex->o.model->param_count};
    bg_status status = commit->ops->reduce(commit, &sums, err);
    if (status)
        return status;

    double targets = (double)l->micro_batches * l->batch * l->length; // COMMIT
    struct step_record decided = {.step = step, .loss = tree_sum(ex->leaf_losses, l->micro_batches) / targets};
    status = check_loss(ex, decided.loss, err);
    if (status)
        return status;
    decided.norm = optim_norm(ex->squares, ex->o.model->param_count);
    status = check_norm(ex, decided.norm, err);
    if (status)
        return status;
    decided.clip = optim_clip(ex->optim, decided.norm);
    status = commit->ops->commit(commit, &decided, err);
    if (status)
        return status;

    optim_apply(ex->optim, &ex->state, root->dense, step, lr, decided.clip); // APPLY
    *record = decided;
    return BG_OK;
}

double step_probe(struct step_executor *ex)
{
    const struct layout *l = ex->o.layout;
    const struct model *model = ex->o.model;
    uint32_t block = l->unit_first;
    while (block < l->unit_end && model->units[block].kind != MODEL_UNIT_BLOCK)
        block++;
    if (block == l->unit_end)
        return 0;
    ex->step = 0;
    step_load(ex, 0);
    struct model_run run = run_of(ex, 0);
    double seconds = 0;
    for (int round = 0; round < 3; round++) { // the first one touches the memory
        uint64_t start = env_now_ns(ex->env);
        size_t at = block - l->unit_first;
        model_forward(&run, block, ex->x + (at + 1) * l->x_floats, ex->x + at * l->x_floats, ex->stash[at], ex->work,
                      ex->losses);
        double taken = 1e-9 * (double)(env_now_ns(ex->env) - start);
        seconds = round < 2 || taken < seconds ? taken : seconds;
    }
    double flops = layout_flops_block(model, (uint64_t)run.count * l->batch, l->length) / 3;
    return seconds > 0 ? flops / seconds : 0;
}

void *step_memory(struct step_executor *ex)
{
    return ex->flight;
}

void *const *step_scratch(struct step_executor *ex)
{
    return ex->scratch;
}

const float *step_gradient(const struct step_executor *ex)
{
    return ex->slots[ex->root].dense;
}
