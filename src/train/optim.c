// Norm, clip and AdamW. The work list (pieces of at most PIECE elements, each inside one tensor and starting on a
// block boundary of NUMERICS 12) is made once; a step only walks it, so it allocates nothing, and which lane takes
// which piece shows nowhere: squares go to one double a block and are summed in order afterwards.
#include "train/optim.h"

#include "base/assert.h"
#include "base/dmath.h"
#include "base/mem.h"

#include <math.h>

enum { BLOCK = 4096, PIECE = 16 * BLOCK };

struct piece {
    uint32_t param;
    uint64_t offset; // floats from the base
    size_t count;
    size_t block; // index of its first block sum
};

struct optim {
    struct bg_env *env;
    const struct model *model;
    const struct kern *kern;
    struct optim_options options;
    struct piece *pieces;
    size_t piece_count;
    double *block_sums;
    size_t block_count;
};

static size_t ceil_div(uint64_t n, uint64_t d)
{
    return (size_t)((n + d - 1) / d);
}

struct optim *optim_create(struct bg_env *env, const struct model *model, const struct kern *kern,
                           const struct optim_options *options)
{
    struct optim *o = bg_alloc(sizeof *o);
    *o = (struct optim){.env = env, .model = model, .kern = kern, .options = *options};
    for (uint32_t p = 0; p < model->param_count; p++)
        o->piece_count += ceil_div(model->params[p].count, PIECE);
    o->pieces = bg_alloc_array(o->piece_count, sizeof *o->pieces);
    size_t next = 0;
    for (uint32_t p = 0; p < model->param_count; p++) {
        const struct model_param *param = &model->params[p];
        for (uint64_t at = 0; at < param->count; at += PIECE) {
            uint64_t left = param->count - at;
            struct piece *piece = &o->pieces[next++];
            *piece = (struct piece){p, param->offset + at, (size_t)(left < PIECE ? left : PIECE), o->block_count};
            o->block_count += ceil_div(piece->count, BLOCK);
        }
    }
    BG_ASSERT(next == o->piece_count);
    o->block_sums = bg_alloc_array(o->block_count, sizeof *o->block_sums);
    return o;
}

void optim_destroy(struct optim *o)
{
    if (!o)
        return;
    bg_free(o->pieces);
    bg_free(o->block_sums);
    bg_free(o);
}

struct squares_task {
    struct optim *o;
    const float *grads;
};

static void squares_piece(void *arg, size_t index, unsigned lane)
{
    (void)lane;
    struct squares_task *task = arg;
    const struct piece *piece = &task->o->pieces[index];
    task->o->kern->block_squares(task->o->block_sums + piece->block, task->grads + piece->offset, piece->count);
}

void optim_squares(struct optim *o, const float *grads, double *squares)
{
    struct squares_task task = {o, grads};
    env_parallel_for(o->env, o->piece_count, squares_piece, &task);
    size_t block = 0;
    for (uint32_t p = 0; p < o->model->param_count; p++) {
        double sum = 0;
        for (size_t left = ceil_div(o->model->params[p].count, BLOCK); left > 0; left--)
            sum += o->block_sums[block++];
        squares[p] = sum;
    }
    BG_ASSERT(block == o->block_count);
}

double optim_norm(const double *squares, uint32_t count)
{
    double sum = 0;
    for (uint32_t p = 0; p < count; p++)
        sum += squares[p];
    return sqrt(sum);
}

float optim_clip(const struct optim *o, double norm)
{
    if (!(o->options.clip > 0))
        return 1.0f;
    double c = o->options.clip / (norm + 1e-6);
    return (float)(c < 1.0 ? c : 1.0);
}

struct adamw_task {
    struct optim *o;
    const struct optim_state *state;
    const float *grads;
    struct kern_adamw hyper; // weight_decay as for decayed tensors
};

static void adamw_piece(void *arg, size_t index, unsigned lane)
{
    (void)lane;
    struct adamw_task *task = arg;
    const struct piece *piece = &task->o->pieces[index];
    struct kern_adamw hyper = task->hyper;
    if (!task->o->model->params[piece->param].decay)
        hyper.weight_decay = 0;
    const struct optim_state *state = task->state;
    uint64_t at = piece->offset;
    task->o->kern->adamw(state->weights + at, state->m + at, state->v + at, task->grads + at, piece->count, &hyper);
}

// (float)(1/(1 - b^t)); b^t in double by base/dmath, so that no C library shows in the bits.
static float correction(double beta, uint64_t t)
{
    double power = beta > 0 ? bg_dpow(beta, (double)t) : 0.0;
    return (float)(1.0 / (1.0 - power));
}

void optim_apply(struct optim *o, const struct optim_state *state, const float *grads, uint64_t step, double lr,
                 float clip)
{
    const struct optim_options *job = &o->options;
    struct adamw_task task = {
        .o = o,
        .state = state,
        .grads = grads,
        .hyper =
            {
                .lr = (float)lr,
                .beta1 = (float)job->beta1,
                .beta2 = (float)job->beta2,
                .one_minus_beta1 = (float)(1.0 - job->beta1),
                .one_minus_beta2 = (float)(1.0 - job->beta2),
                .correction1 = correction(job->beta1, step + 1),
                .correction2 = correction(job->beta2, step + 1),
                .eps = (float)job->eps,
                .weight_decay = (float)job->weight_decay,
                .clip = clip,
            },
    };
    env_parallel_for(o->env, o->piece_count, adamw_piece, &task);
}
