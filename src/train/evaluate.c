// Evaluation: windows i = tokens [iT, iT+T] of the view in order, several at once as one forward group. A window's loss
// is one chain over its tokens, the total one chain over windows, so the number of windows at once is free. A view
// shorter than one window is evaluated as one shorter window.
#include "train/evaluate.h"

#include "base/assert.h"
#include "base/dmath.h"
#include "base/mem.h"

struct buffers {
    float *x[2], *work;
    double *losses;
    int32_t *tokens, *targets;
};

static size_t aligned(size_t bytes)
{
    return (bytes + 63) & ~(size_t)63;
}

size_t evaluate_bytes(const struct model *model, uint32_t length, uint32_t sequences)
{
    size_t rows = (size_t)sequences * length;
    return 2 * aligned(rows * model->config.dim * 4) + aligned(rows * 8) + 2 * aligned(rows * 4) +
           aligned(model_work_floats(model, 1, length, sequences, false) * 4);
}

static void cut_buffers(struct buffers *b, const struct model *model, uint32_t length,
                        const struct evaluate_memory *memory)
{
    size_t rows = (size_t)memory->sequences * length;
    struct bg_arena arena = {.base = memory->memory, .size = evaluate_bytes(model, length, memory->sequences)};
    for (int i = 0; i < 2; i++)
        b->x[i] = bg_arena_take(&arena, rows * model->config.dim * 4);
    b->losses = bg_arena_take(&arena, rows * 8);
    b->tokens = bg_arena_take(&arena, rows * 4);
    b->targets = bg_arena_take(&arena, rows * 4);
    b->work = bg_arena_take(&arena, model_work_floats(model, 1, length, memory->sequences, false) * 4);
    BG_ASSERT(b->work);
}

// Adds the losses of windows [first, first + run->count) to *total.
static void forward_windows(struct model_run *run, struct buffers *b, const struct token_view *view, uint64_t first,
                            double *total)
{
    size_t length = run->length;
    for (size_t r = 0; r < run->count * length; r++) {
        b->tokens[r] = token_at(view, first * length + r);
        b->targets[r] = token_at(view, first * length + r + 1);
    }
    for (uint32_t u = 0; u < run->model->unit_count; u++)
        model_forward(run, u, b->x[u & 1], b->x[(u & 1) ^ 1], NULL, b->work, b->losses);
    for (size_t w = 0; w < run->count; w++) {
        double sum = 0;
        for (size_t t = 0; t < length; t++)
            sum += b->losses[w * length + t];
        *total += sum;
    }
}

bg_status evaluate_in(struct bg_env *env, const struct model *model, const struct kern *kern, const float *weights,
                      const struct token_view *view, const struct evaluate_options *options,
                      const struct evaluate_memory *memory, struct bg_error *err, struct evaluate_result *result)
{
    if (view->count < 2)
        return bg_fail(err, BG_INVALID, "evaluation needs at least 2 tokens, the set holds %llu",
                       (unsigned long long)view->count);
    struct evaluate_result r = {.length = options->length ? options->length : model->config.context};
    if (view->count - 1 < r.length)
        r.length = (uint32_t)(view->count - 1);
    r.windows = data_samples(view, r.length);
    if (options->tokens_max && r.windows > options->tokens_max / r.length)
        r.windows = options->tokens_max < r.length ? 1 : options->tokens_max / r.length;

    struct buffers buffers;
    cut_buffers(&buffers, model, r.length, memory);
    struct model_run run = {.model = model,
                            .kern = kern,
                            .env = env,
                            .weights = weights,
                            .lane_scratch = memory->lane_scratch,
                            .batch = 1,
                            .length = r.length,
                            .tokens = buffers.tokens,
                            .targets = buffers.targets,
                            .loss_scale = 1.0f};
    uint64_t start = env_now_ns(env);
    double total = 0;
    for (uint64_t w = 0; w < r.windows; w += run.count) {
        if (env->ops->stop_signal(env))
            return bg_fail(err, BG_STOPPED, "evaluation stopped by a signal after %llu of %llu windows",
                           (unsigned long long)w, (unsigned long long)r.windows);
        run.count = r.windows - w < memory->sequences ? (uint32_t)(r.windows - w) : memory->sequences;
        forward_windows(&run, &buffers, view, w, &total);
    }
    r.tokens = r.windows * r.length;
    r.loss = total / (double)r.tokens;
    r.perplexity = bg_dexp(r.loss);
    if (options->bytes)
        r.bits_per_byte = r.loss / bg_dlog(2.0) * ((double)view->count / (double)options->bytes);
    r.seconds = (double)(env_now_ns(env) - start) * 1e-9;
    *result = r;
    return BG_OK;
}

bg_status evaluate_run(struct bg_env *env, const struct model *model, const struct kern *kern, const float *weights,
                       const struct token_view *view, const struct evaluate_options *options, struct bg_error *err,
                       struct evaluate_result *result)
{
    uint32_t length = options->length ? options->length : model->config.context;
    if (length > model->config.context)
        return bg_fail(err, BG_INVALID, "a window of %u tokens is longer than the model's context of %u", length,
                       model->config.context);
    struct evaluate_memory memory = {.sequences = 1 + 1023 / length};
    size_t bytes = aligned(evaluate_bytes(model, length, memory.sequences));
    size_t scratch = aligned(model_scratch_bytes(model, kern, 1, length, memory.sequences, false));
    size_t all = bytes + env->threads * scratch;
    bg_status status = env->ops->reserve(env, all, err, &memory.memory);
    if (status)
        return status;
    void **lanes = bg_alloc_array(env->threads, sizeof *lanes);
    for (unsigned lane = 0; lane < env->threads; lane++)
        lanes[lane] = (uint8_t *)memory.memory + bytes + lane * scratch;
    memory.lane_scratch = lanes;
    uint32_t fp = kern_fp_enter();
    status = evaluate_in(env, model, kern, weights, view, options, &memory, err, result);
    kern_fp_leave(fp);
    bg_free(lanes);
    env->ops->release(env, memory.memory, all);
    return status;
}
