// The head: final norm, logits, cross-entropy. In training the group's logits lie in the stash and become their own
// gradient in place; in evaluation a few rows at a time pass through work memory. Rows are independent: neither shows
// in the bits.
#include "model/model_int.h"

enum { EVALUATE_ROWS = 256, LOSS_GRAIN = 4 }; // rows of logits at once without a stash; rows of an item

struct head_call {
    const struct model_run *run;
    struct head head;
    size_t rows;
    struct stripe stripe; // of the rows: the pass at hand
    const float *x_in;
    float *h, *mean, *rstd, *logits, *dx, *dnorm;
    const int32_t *targets;
    double *losses;
    bool grad, input, weight;
};

static struct head_call call_of(const struct model_run *run, const float *x_in, const struct head_stash *s)
{
    return (struct head_call){
        .run = run,
        .head = head_of(run->model),
        .rows = run_shape(run).rows,
        .stripe = run_stripe(run),
        .x_in = x_in,
        .mean = s->mean,
        .rstd = s->rstd,
        .logits = s->logits,
        .targets = run->targets,
    };
}

static void norm_item(void *arg, size_t index, unsigned lane)
{
    struct head_call *c = arg;
    struct span at = stripe_at(&c->stripe, index, MODEL_GRAIN_ROWS);
    size_t row = at.first * c->run->model->config.dim;
    (void)lane;
    norm_forward(&c->head.norm, c->run->kern, c->run->weights, c->h + row, c->mean + at.first, c->rstd + at.first,
                 c->x_in + row, at.count);
}

static void loss_item(void *arg, size_t index, unsigned lane)
{
    struct head_call *c = arg;
    struct span at = stripe_at(&c->stripe, index, LOSS_GRAIN);
    size_t vocab = c->run->model->config.vocab;
    (void)lane;
    c->run->kern->cross_entropy(c->losses + at.first, c->logits + at.first * vocab, c->targets + at.first,
                                c->run->loss_scale, at.count, vocab, c->grad);
}

static void forward_rows(struct head_call *c)
{
    const struct model_config *config = &c->run->model->config;
    struct bg_env *env = c->run->env;
    struct jobs jobs;
    jobs_init(&jobs, c->run);
    env_parallel_for(env, stripe_items(&c->stripe, MODEL_GRAIN_ROWS), norm_item, c);
    jobs_add_rows(&jobs,
                  linear_forward(&c->head.linear, c->run->weights, c->logits, config->vocab, c->h, config->dim, 0),
                  &c->stripe);
    jobs_run(&jobs);
    env_parallel_for(env, stripe_items(&c->stripe, LOSS_GRAIN), loss_item, c);
}

static void evaluate(struct head_call *c, struct lay *work)
{
    size_t rows = c->rows, at_once = head_rows_at_once(rows, false);
    struct head_stash s = head_stash_lay(c->run->model, (struct shape){1, at_once, at_once}, false, work);
    c->h = lay_take(work, at_once * c->run->model->config.dim);
    c->mean = s.mean;
    c->rstd = s.rstd;
    c->logits = s.logits;
    for (size_t first = 0; first < rows; first += at_once) {
        c->rows = rows - first < at_once ? rows - first : at_once;
        c->stripe = stripe_whole(c->rows);
        forward_rows(c);
        c->x_in += c->rows * c->run->model->config.dim;
        c->targets += c->rows;
        c->losses += c->rows;
    }
}

size_t head_rows_at_once(size_t rows, bool training)
{
    return training || rows < EVALUATE_ROWS ? rows : EVALUATE_ROWS;
}

size_t head_work_floats(const struct model *model, struct shape shape, bool training)
{
    struct lay lay = {0};
    size_t dim = model->config.dim, rows = head_rows_at_once(shape.rows, training);
    if (training) {
        lay_take(&lay, rows * dim);
        lay_take(&lay, rows * dim);
    } else {
        head_stash_lay(model, (struct shape){1, rows, rows}, false, &lay);
        lay_take(&lay, rows * dim);
    }
    return lay.used;
}

void head_forward(const struct model_run *run, const float *x_in, float *stash, float *work, double *losses)
{
    struct lay stash_lay = {.base = stash}, work_lay = {.base = work};
    struct head_stash s = {0};
    if (stash)
        s = head_stash_lay(run->model, run_shape(run), false, &stash_lay);
    struct head_call c = call_of(run, x_in, &s);
    c.losses = losses;
    c.grad = stash;
    if (!stash) {
        evaluate(&c, &work_lay);
        return;
    }
    c.h = lay_take(&work_lay, c.rows * run->model->config.dim);
    forward_rows(&c);
}

static void backward_item(void *arg, size_t index, unsigned lane)
{
    struct head_call *c = arg;
    if (c->weight)
        norm_item(arg, index, lane);
    if (!c->input)
        return;
    struct span at = stripe_at(&c->stripe, index, MODEL_GRAIN_ROWS);
    size_t row = at.first * c->run->model->config.dim;
    norm_input_grad(&c->head.norm, c->run->kern, c->run->weights, c->dx + row, c->dnorm + row, c->x_in + row,
                    c->mean + at.first, c->rstd + at.first, at.count, false);
}

void head_backward(const struct model_run *run, enum model_backward_part part, float *dx, const float *x_in,
                   float *stash, float *work, struct model_grad *grad, bool accumulate)
{
    struct lay stash_lay = {.base = stash}, work_lay = {.base = work};
    bool split = part != MODEL_BACKWARD_BOTH;
    size_t dim = run->model->config.dim, vocab = run->model->config.vocab;
    struct head_stash s = head_stash_lay(run->model, run_shape(run), split, &stash_lay);
    struct head_call c = call_of(run, x_in, &s);
    c.h = lay_take(&work_lay, c.rows * dim);
    c.dnorm = split ? s.dnorm : lay_take(&work_lay, c.rows * dim);
    c.dx = dx;
    c.input = part & MODEL_BACKWARD_INPUT;
    c.weight = part & MODEL_BACKWARD_WEIGHT;

    struct jobs jobs;
    jobs_init(&jobs, run);
    if (c.input)
        jobs_add_rows(&jobs, linear_input_grad(&c.head.linear, run->weights, c.dnorm, dim, c.logits, vocab, 0, false),
                      &c.stripe);
    jobs_run(&jobs);
    env_parallel_for(run->env, stripe_items(&c.stripe, MODEL_GRAIN_ROWS), backward_item, &c);
    if (!c.weight)
        return;
    struct leaves leaves = {(size_t)run->batch * run->length, run->count, accumulate};
    linear_weight_grad(&jobs, &c.head.linear, grad->dense, c.logits, vocab, c.h, dim, leaves);
    norm_weight_grad(&jobs, &c.head.norm, grad->dense, c.dnorm, x_in, c.mean, c.rstd, leaves);
    jobs_run(&jobs);
}
