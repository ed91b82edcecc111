// Norm, clip and AdamW. The work list (pieces of at most PIECE elements, each inside one held tensor and starting on a
// block boundary of NUMERICS 12) is made when it is told what is held; a step only walks it, so it allocates nothing,
// and which lane takes which piece shows nowhere: squares go to one double a block and are summed in order afterwards.
#include "train/optim.h"

#include "base/dmath.h"
#include "base/mem.h"

#include <math.h>

enum { BLOCK = 4096, PIECE = 16 * BLOCK };

struct piece {
    uint32_t param;
    uint64_t at; // first element
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
    bool *held; // (params)
    double *block_sums;
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
    o->held = bg_alloc_array(model->param_count, sizeof *o->held);
    size_t pieces = 0, blocks = 0;
    for (uint32_t p = 0; p < model->param_count; p++) {
        o->held[p] = true;
        pieces += ceil_div(model->params[p].count, PIECE);
        blocks += ceil_div(model->params[p].count, BLOCK);
    }
    o->pieces = bg_alloc_array(pieces, sizeof *o->pieces);
    o->block_sums = bg_alloc_array(blocks, sizeof *o->block_sums);
    optim_hold(o, o->held);
    return o;
}

void optim_hold(struct optim *o, const bool *held)
{
    size_t block = 0;
    o->piece_count = 0;
    for (uint32_t p = 0; p < o->model->param_count; p++) {
        uint64_t count = o->model->params[p].count;
        o->held[p] = held[p];
        for (uint64_t at = 0; held[p] && at < count; at += PIECE) {
            struct piece *piece = &o->pieces[o->piece_count++];
            *piece = (struct piece){p, at, (size_t)(count - at < PIECE ? count - at : PIECE), block};
            block += ceil_div(piece->count, BLOCK);
        }
    }
}

void optim_destroy(struct optim *o)
{
    if (!o)
        return;
    bg_free(o->pieces);
    bg_free(o->held);
    bg_free(o->block_sums);
    bg_free(o);
}

// Where a piece's gradient lies.
static const float *gradient_at(const struct optim *o, const struct optim_gradient *gradient, const struct piece *piece)
{
    const struct model_param *param = &o->model->params[piece->param];
    return (param->role == MODEL_ROLE_EMBED ? gradient->table : gradient->dense + param->offset) + piece->at;
}

struct squares_task {
    struct optim *o;
    const struct optim_gradient *gradient;
};

static void squares_piece(void *arg, size_t index, unsigned lane)
{
    (void)lane;
    struct squares_task *task = arg;
    const struct piece *piece = &task->o->pieces[index];
    task->o->kern->block_squares(task->o->block_sums + piece->block, gradient_at(task->o, task->gradient, piece),
                                 piece->count);
}

void optim_squares(struct optim *o, const struct optim_gradient *gradient, double *squares)
{
    struct squares_task task = {o, gradient};
    env_parallel_for(o->env, o->piece_count, squares_piece, &task);
    size_t block = 0;
    for (uint32_t p = 0; p < o->model->param_count; p++) {
        double sum = 0;
        if (!o->held[p])
            continue;
        for (size_t left = ceil_div(o->model->params[p].count, BLOCK); left > 0; left--)
            sum += o->block_sums[block++];
        squares[p] = sum;
    }
}

double optim_norm(const double *squares, uint32_t count)
{
    double sum = 0;
    for (uint32_t p = 0; p < count; p++)
        sum += squares[p];
    return sqrt(sum);
}

float optim_clip(const struct optim_options *options, double norm)
{
    if (!(options->clip > 0))
        return 1.0f;
    double c = options->clip / (norm + 1e-6);
    return (float)(c < 1.0 ? c : 1.0);
}

struct adamw_task {
    struct optim *o;
    const struct optim_state *state;
    const struct optim_gradient *gradient;
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
    uint64_t at = task->o->model->params[piece->param].offset + piece->at;
    task->o->kern->adamw(state->weights + at, state->m + at, state->v + at, gradient_at(task->o, task->gradient, piece),
                         piece->count, &hyper);
}

// (float)(1/(1 - b^t)); b^t in double by base/dmath, so that no C library shows in the bits.
static float correction(double beta, uint64_t t)
{
    double power = beta > 0 ? bg_dpow(beta, (double)t) : 0.0;
    return (float)(1.0 / (1.0 - power));
}

void optim_apply(struct optim *o, const struct optim_state *state, const struct optim_gradient *gradient, uint64_t step,
                 double lr, float clip)
{
    const struct optim_options *job = &o->options;
    struct adamw_task task = {
        .o = o,
        .state = state,
        .gradient = gradient,
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
