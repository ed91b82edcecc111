// The optimizer over all parameters: norm, clip and AdamW (NUMERICS 12, 13), cut into pieces of a fixed size for
// parallel-for.
#ifndef TRAIN_OPTIM_H
#define TRAIN_OPTIM_H

#include "model/model.h"

struct optim_options { // of the job; doubles as the user wrote them
    double beta1, beta2, eps, weight_decay, clip;
};

struct optim;
struct optim *optim_create(struct bg_env *env, const struct model *model, const struct kern *kern,
                           const struct optim_options *options);
void optim_destroy(struct optim *optim);

// Restricts it to the parameters p with held[p]; at first it works on all. Allocates nothing.
void optim_hold(struct optim *optim, const bool *held);

// The root gradient in the layout of model_param.offset, but for the token table (vocab, dim), which may lie elsewhere.
struct optim_gradient {
    const float *dense, *table;
};
// squares[i]: sum of squares of parameter i's gradient (double), parameters in name order; only of those held.
void optim_squares(struct optim *optim, const struct optim_gradient *gradient, double *squares);
double optim_norm(const double *squares, uint32_t count);
// The factor of NUMERICS 12 for this norm.
float optim_clip(const struct optim_options *options, double norm);

// Full sets of parameters in the layout of model_param.offset.
struct optim_state {
    float *weights, *m, *v;
};
// AdamW of 0-based `step`: the t of NUMERICS 13 is step + 1.
void optim_apply(struct optim *optim, const struct optim_state *state, const struct optim_gradient *gradient,
                 uint64_t step, double lr, float clip);

#endif
