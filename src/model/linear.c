// Jobs, and the pieces that every unit is made of as jobs: linear layers, norms, dropout. A job list joins independent
// kernels (say a weight gradient, the bias gradient and an input gradient) in one parallel_for: fewer meetings of the
// lanes, and the short ends of one kernel are filled by the next.
#include "model/model_int.h"

#include "base/assert.h"

void jobs_init(struct jobs *jobs, const struct model_run *run)
{
    jobs->env = run->env;
    jobs->kern = run->kern;
    jobs->lane_scratch = run->lane_scratch;
    jobs->count = jobs->gemm_count = jobs->columns_count = 0;
}

void jobs_add(struct jobs *jobs, size_t items, bg_task_fn fn, void *arg)
{
    BG_ASSERT(jobs->count < MODEL_JOBS_MAX);
    if (items > 0)
        jobs->list[jobs->count++] = (struct job_item){items, fn, arg};
}

static void gemm_item(void *arg, size_t index, unsigned lane)
{
    const struct gemm_call *c = arg;
    if (c->stripe.runs == 0) {
        c->kern->gemm_block(&c->g, index, c->lane_scratch[lane]);
        return;
    }
    struct kern_gemm g = c->g;
    size_t row = c->stripe.first + index / c->blocks * c->stripe.apart;
    g.c += row * g.ldc;
    g.a += row * g.lda;
    c->kern->gemm_block(&g, index % c->blocks, c->lane_scratch[lane]);
}

void jobs_add_gemm(struct jobs *jobs, struct kern_gemm g)
{
    BG_ASSERT(jobs->gemm_count < MODEL_JOBS_MAX);
    struct gemm_call *c = &jobs->gemms[jobs->gemm_count++];
    *c = (struct gemm_call){.kern = jobs->kern, .lane_scratch = jobs->lane_scratch, .g = g};
    jobs_add(jobs, jobs->kern->gemm_blocks(&c->g), gemm_item, c);
}

void jobs_add_rows(struct jobs *jobs, struct kern_gemm g, const struct stripe *stripe)
{
    BG_ASSERT(jobs->gemm_count < MODEL_JOBS_MAX && g.op != KERN_TN);
    struct gemm_call *c = &jobs->gemms[jobs->gemm_count++];
    *c = (struct gemm_call){jobs->kern, jobs->lane_scratch, g, *stripe, 0};
    c->g.m = stripe->rows;
    c->blocks = jobs->kern->gemm_blocks(&c->g);
    jobs_add(jobs, stripe->runs * c->blocks, gemm_item, c);
}

static void columns_item(void *arg, size_t index, unsigned lane)
{
    const struct columns *c = arg;
    size_t first = index * MODEL_GRAIN_COLUMNS, end = first + MODEL_GRAIN_COLUMNS;
    end = end < c->width ? end : c->width;
    (void)lane;
    if (c->dgamma) {
        c->kern->norm_weight_grad(c->dgamma, c->dbeta, c->dout, c->x, c->mean, c->rstd, c->rows, c->dim, c->segments,
                                  first, end, c->accumulate);
    } else {
        c->kern->column_sum(c->dbeta, c->dout, c->rows, c->dim, c->segments, first, end, c->accumulate);
    }
}

void jobs_add_columns(struct jobs *jobs, struct columns columns)
{
    BG_ASSERT(jobs->columns_count < MODEL_JOBS_MAX);
    struct columns *c = &jobs->columns[jobs->columns_count++];
    *c = columns;
    c->kern = jobs->kern;
    jobs_add(jobs, (c->width + MODEL_GRAIN_COLUMNS - 1) / MODEL_GRAIN_COLUMNS, columns_item, c);
}

static void any_item(void *arg, size_t index, unsigned lane)
{
    const struct job_item *job = arg;
    for (; index >= job->items; job++)
        index -= job->items;
    job->fn(job->arg, index, lane);
}

void jobs_run(struct jobs *jobs)
{
    size_t items = 0;
    for (size_t i = 0; i < jobs->count; i++)
        items += jobs->list[i].items;
    if (items > 0)
        env_parallel_for(jobs->env, items, any_item, jobs->list);
    jobs->count = jobs->gemm_count = jobs->columns_count = 0;
}

void model_gemm(struct bg_env *env, const struct kern *kern, void *const *lane_scratch, const struct kern_gemm *g)
{
    struct gemm_call call = {.kern = kern, .lane_scratch = lane_scratch, .g = *g};
    env_parallel_for(env, kern->gemm_blocks(g), gemm_item, &call);
}

bool run_drops(const struct model_run *run)
{
    return run->dropout > 0.0f && run->dropout_key;
}

void run_dropout(const struct model_run *run, uint32_t op, float *x, struct span rows, size_t dim)
{
    if (!run_drops(run))
        return;
    struct kern_dropout d = {
        .key = {run->dropout_key->k[0], run->dropout_key->k[1]},
        .step = (uint32_t)run->step,
        .op = op,
        .rate = run->dropout,
        .scale = (float)(1.0 / (1.0 - (double)run->dropout)),
    };
    size_t leaf = (size_t)run->batch * run->length;
    for (size_t r = rows.first, end = rows.first + rows.count; r < end;) {
        size_t next = (r / leaf + 1) * leaf < end ? (r / leaf + 1) * leaf : end;
        d.micro_batch = run->first + (uint32_t)(r / leaf);
        run->kern->dropout(x + r * dim, &d, r % leaf * dim, (next - r) * dim);
        r = next;
    }
}

struct kern_gemm linear_forward(const struct linear *l, const float *weights, float *y, size_t ldy, const float *x,
                                size_t ldx, size_t rows)
{
    return (struct kern_gemm){
        .op = l->conv ? KERN_NN : KERN_NT,
        .m = rows,
        .n = l->out,
        .k = l->in,
        .c = y,
        .ldc = ldy,
        .a = x,
        .lda = ldx,
        .b = weights + l->weight,
        .ldb = l->ld,
        .bias = model_at(weights, l->bias),
        .segments = 1,
    };
}

struct kern_gemm linear_input_grad(const struct linear *l, const float *weights, float *dx, size_t ldx, const float *dy,
                                   size_t ldy, size_t rows, bool accumulate)
{
    return (struct kern_gemm){
        .op = l->conv ? KERN_NT : KERN_NN,
        .m = rows,
        .n = l->in,
        .k = l->out,
        .c = dx,
        .ldc = ldx,
        .a = dy,
        .lda = ldy,
        .b = weights + l->weight,
        .ldb = l->ld,
        .accumulate = accumulate,
        .segments = 1,
    };
}

void linear_weight_grad(struct jobs *jobs, const struct linear *l, float *dense, const float *dy, size_t ldy,
                        const float *x, size_t ldx, struct leaves leaves)
{
    struct kern_gemm g = {
        .op = KERN_TN,
        .m = l->conv ? l->in : l->out,
        .n = l->conv ? l->out : l->in,
        .k = leaves.rows,
        .c = dense + l->weight,
        .ldc = l->ld,
        .a = l->conv ? x : dy,
        .lda = l->conv ? ldx : ldy,
        .b = l->conv ? dy : x,
        .ldb = l->conv ? ldy : ldx,
        .accumulate = leaves.accumulate,
        .segments = leaves.segments,
    };
    jobs_add_gemm(jobs, g);
    if (l->bias == MODEL_NONE)
        return;
    jobs_add_columns(jobs, (struct columns){
                               .dbeta = dense + l->bias,
                               .dout = dy,
                               .rows = leaves.rows,
                               .dim = ldy,
                               .width = l->out,
                               .segments = leaves.segments,
                               .accumulate = leaves.accumulate,
                           });
}

void norm_forward(const struct norm *n, const struct kern *kern, const float *weights, float *out, float *mean,
                  float *rstd, const float *x, size_t rows)
{
    if (n->beta == MODEL_NONE)
        kern->rms_norm(out, rstd, x, weights + n->gamma, n->eps, rows, n->dim);
    else
        kern->layer_norm(out, mean, rstd, x, weights + n->gamma, weights + n->beta, n->eps, rows, n->dim);
}

void norm_input_grad(const struct norm *n, const struct kern *kern, const float *weights, float *dx, const float *dout,
                     const float *x, const float *mean, const float *rstd, size_t rows, bool accumulate)
{
    if (n->beta == MODEL_NONE)
        kern->rms_norm_grad(dx, dout, x, weights + n->gamma, rstd, rows, n->dim, accumulate);
    else
        kern->layer_norm_grad(dx, dout, x, weights + n->gamma, mean, rstd, rows, n->dim, accumulate);
}

void norm_weight_grad(struct jobs *jobs, const struct norm *n, float *dense, const float *dout, const float *x,
                      const float *mean, const float *rstd, struct leaves leaves)
{
    jobs_add_columns(jobs, (struct columns){
                               .dgamma = dense + n->gamma,
                               .dbeta = n->beta == MODEL_NONE ? NULL : dense + n->beta,
                               .dout = dout,
                               .x = x,
                               .mean = n->beta == MODEL_NONE ? NULL : mean,
                               .rstd = rstd,
                               .rows = leaves.rows,
                               .dim = n->dim,
                               .width = n->dim,
                               .segments = leaves.segments,
                               .accumulate = leaves.accumulate,
                           });
}
