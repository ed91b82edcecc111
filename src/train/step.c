// One process: the executor of one stage that holds every unit, with the caller's state and no root of its own, and
// the transaction around it. Many workers run the same executor.
#include "train/step.h"

#include "base/assert.h"
#include "base/mem.h"
#include "train/executor.h"

#include <math.h>
#include <string.h>

struct step_executor {
    struct bg_env *env;
    struct step_options o;
    struct optim_state state;
    struct executor *executor;
    void *memory;        // for evaluation
    double *leaf_losses; // (micro_batches)
    double *squares;     // (params)
};

static bg_status seat(struct step_executor *ex, struct bg_error *err)
{
    const struct layout *l = ex->o.layout;
    uint8_t *holds = bg_alloc(ex->o.model->unit_count);
    memset(holds, 1, ex->o.model->unit_count);
    struct executor_seating *seating = bg_alloc(sizeof *seating);
    seating->stages[0] = (struct executor_stage){l->unit_first, l->unit_end, 1, false};
    seating->stage_count = 1;
    seating->items = l->order;
    seating->item_count = (uint32_t)l->groups;
    seating->slots = (uint32_t)l->slots;
    seating->holds = holds;
    bool kept;
    bg_status status = executor_seat(ex->executor, seating, err, &kept);
    bg_free(seating);
    bg_free(holds);
    if (status)
        return status;
    uint32_t sequences = 0;
    ex->memory = executor_evaluate_memory(ex->executor, &sequences, err);
    BG_ASSERT(!ex->memory || sequences == l->evaluate_sequences);
    return ex->memory ? BG_OK : err->status;
}

bg_status step_create(struct bg_env *env, const struct step_options *o, const struct optim_state *state,
                      struct bg_error *err, struct step_executor **out)
{
    struct step_executor *ex = bg_alloc(sizeof *ex);
    *ex = (struct step_executor){.env = env, .o = *o, .state = *state};
    ex->leaf_losses = bg_alloc_array(o->layout->micro_batches, sizeof *ex->leaf_losses);
    ex->squares = bg_alloc_array(o->model->param_count, sizeof *ex->squares);
    struct executor_options options = {
        .model = o->model,
        .kern = o->kern,
        .view = o->view,
        .seed = o->seed,
        .dropout = o->dropout,
        .optim = o->optim,
        .batch = o->layout->batch,
        .length = o->layout->length,
        .micro_batches = o->layout->micro_batches,
        .memory = executor_memory_env(env),
        .state = &ex->state,
    };
    bg_status status = executor_create(env, &options, err, &ex->executor);
    if (!status)
        status = seat(ex, err);
    if (status) {
        step_destroy(ex);
        return status;
    }
    *out = ex;
    return BG_OK;
}

void step_destroy(struct step_executor *ex)
{
    if (!ex)
        return;
    executor_destroy(ex->executor);
    bg_free(ex->leaf_losses);
    bg_free(ex->squares);
    bg_free(ex);
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

static bg_status check_loss(const struct step_executor *ex, uint64_t step, double loss, struct bg_error *err)
{
    if (isfinite(loss))
        return BG_OK;
    const char *tensor = not_finite(ex, ex->state.weights);
    const char *what = "weight";
    if (!tensor) {
        tensor = not_finite(ex, executor_root(ex->executor));
        what = "gradient";
    }
    return bg_fail(
        err, BG_NOT_FINITE,
        "step %llu: the loss is not finite (%g); first %s that is not finite: %s. The weights are those before "
        "the step; try a lower train.lr, a longer train.warmup or a smaller train.clip",
        (unsigned long long)step, loss, tensor ? what : "tensor", tensor ? tensor : "the logits");
}

static bg_status check_norm(const struct step_executor *ex, uint64_t step, double norm, struct bg_error *err)
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
        (unsigned long long)step, norm, ex->o.model->params[p].name);
}

bg_status step_run(struct step_executor *ex, struct step_commit *commit, uint64_t step, double lr, struct bg_error *err,
                   struct step_record *record)
{
    const struct layout *l = ex->o.layout;
    executor_begin(ex->executor, step);
    for (uint32_t g = 0; g < l->groups; g++) { // RUN
        double *losses = ex->leaf_losses + tree_node_first(l->order[g]);
        struct executor_backward backward = {.item = g, .slice = EXECUTOR_WHOLE, .part = MODEL_BACKWARD_BOTH};
        bg_status status = executor_forward(ex->executor, 0, g, EXECUTOR_WHOLE, NULL, losses, err);
        if (!status)
            status = executor_backward(ex->executor, &backward, err);
        if (status)
            return status;
    }

    executor_adopt_root(ex->executor); // REDUCED
    executor_squares(ex->executor, ex->squares);
    struct step_sums sums = {step, ex->leaf_losses, l->micro_batches, ex->squares, ex->o.model->param_count};
    bg_status status = commit->ops->reduce(commit, &sums, err);
    if (status)
        return status;

    double targets = (double)l->micro_batches * l->batch * l->length; // COMMIT
    struct step_record decided = {.step = step, .loss = tree_sum(ex->leaf_losses, l->micro_batches) / targets};
    status = check_loss(ex, step, decided.loss, err);
    if (status)
        return status;
    decided.norm = optim_norm(ex->squares, ex->o.model->param_count);
    status = check_norm(ex, step, decided.norm, err);
    if (status)
        return status;
    decided.clip = optim_clip(&ex->o.optim, decided.norm);
    status = commit->ops->commit(commit, &decided, err);
    if (status)
        return status;

    executor_apply(ex->executor, step, lr, decided.clip); // APPLY
    *record = decided;
    return BG_OK;
}

double step_probe(struct step_executor *ex)
{
    return executor_probe(ex->executor);
}

void *step_memory(struct step_executor *ex)
{
    return ex->memory;
}

void *const *step_scratch(struct step_executor *ex)
{
    return executor_scratch(ex->executor);
}

const float *step_gradient(const struct step_executor *ex)
{
    return executor_root(ex->executor);
}
