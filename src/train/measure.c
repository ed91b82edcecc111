// One machine, measured by what will run on it: an executor that hosts each unit of a shallow model as a stage of its
// own takes two items through them, forward and backward, folds two sums into the root and steps, as a worker alone
// would. Caches are thus about as warm as in a step. Widths that are too large for the time given are approached from
// below and priced by their rate.
#include "train/measure_int.h"

#include "base/mem.h"
#include "comm/shm/shm.h"
#include "model/io.h"
#include "plan/plan.h"
#include "train/estimate.h"
#include "train/executor.h"
#include "train/job.h"
#include "train/layout.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum {
    LAYERS = 12,
    UNITS = LAYERS + 2,
    ROUNDS = 24,
    WARM = 2,
    POINTS = 4,
    ITEMS = 4,
    DISK_BYTES = 1 << 24,
    DISK_ROUNDS = 5
};
#define SECONDS     6.0
#define SHARING_MIN 0.7  // of a core: what is lost beyond that is somebody else's doing
#define ROUND_SHARE 0.02 // of all the time: one item, forward and backward
#define FLOPS_GUESS 5e10 // a second: how long a first look may take is guessed with it

struct bench { // one width and size of items
    struct bg_env *env;
    struct measure_options o; // batch and length may be less than asked for
    struct model *model;
    uint32_t *tokens;
    float *beside; // a full set
    struct token_view view;
    struct executor *ex;
    struct comm *comm; // whose memory it works in, as workers do
    uint32_t group;
};
struct times { // of one round: seconds of each op by stage, of folds and the step per byte
    double at[UNITS][PLAN_COST_PARTS];
    double fold, step;
};

static int ascending(const void *a, const void *b)
{
    const double x = *(const double *)a, y = *(const double *)b;
    return (x > y) - (x < y);
}

double measure_typical(double *values, uint32_t count)
{
    qsort(values, count, sizeof *values, ascending);
    return count ? values[count / 2] : 0;
}

static double since(struct bg_env *env, uint64_t start)
{
    return 1e-9 * (double)(env_now_ns(env) - start);
}

// ---- Running ----

// Stages are the units (or one holds all). Of four items the first two are computed, one sum.
static bg_status seat(struct bench *b, bool whole, bool split, struct bg_error *err)
{
    const uint32_t level = tree_node_root(ITEMS * b->group).level - 2;
    const struct tree_node items[ITEMS] = {{level, 0}, {level, 1}, {level, 2}, {level, 3}};
    const uint32_t units = b->model->unit_count;
    uint8_t *holds = bg_alloc_array(units, 1);
    memset(holds, 1, units);
    struct executor_seating seating = {.items = items,
                                       .item_count = ITEMS,
                                       .slots = 1,
                                       .split = split,
                                       .holds = holds,
                                       .stage_count = whole ? 1 : units};
    for (uint32_t s = 0; s < seating.stage_count; s++)
        seating.stages[s] = (struct executor_stage){whole ? 0 : s, whole ? units : s + 1, 1, false};
    bool kept;
    bg_status status = executor_seat(b->ex, &seating, err, &kept);
    bg_free(holds);
    return status;
}

static bg_status forward(struct bench *b, uint32_t s, uint32_t item, double *losses, struct bg_error *err)
{
    const float *x = s > 0 ? executor_output(b->ex, s - 1, item, 0) : NULL;
    return executor_forward(b->ex, s, item, EXECUTOR_WHOLE, s > 0 ? &x : NULL, losses, err);
}

static bg_status backward(struct bench *b, uint32_t s, uint32_t stages, uint32_t item, enum model_backward_part part,
                          struct bg_error *err)
{
    const float *x = s > 0 ? executor_output(b->ex, s - 1, item, 0) : NULL;
    const float *dy = s + 1 < stages ? executor_input_gradient(b->ex, s + 1, item, 0) : NULL;
    const struct executor_backward back = {
        .stage = s, .item = item, .slice = EXECUTOR_WHOLE, .part = part, .x = x ? &x : NULL, .dy = dy ? &dy : NULL};
    return executor_backward(b->ex, &back, err);
}

// F and B (or B, then W) of every stage; at[s][part] += half of the seconds.
static bg_status run_item(struct bench *b, uint32_t stages, uint32_t item, bool split, struct bg_error *err,
                          double at[][PLAN_COST_PARTS])
{
    double *losses = bg_alloc_array(b->group, sizeof *losses);
    bg_status status = BG_OK;
    for (uint32_t s = 0; s < stages && !status; s++) {
        const uint64_t start = env_now_ns(b->env);
        status = forward(b, s, item, losses, err);
        at[s][0] += since(b->env, start) / 2;
    }
    for (uint32_t s = stages; s-- > 0 && !status;) {
        uint64_t start = env_now_ns(b->env);
        status = backward(b, s, stages, item, split ? MODEL_BACKWARD_INPUT : MODEL_BACKWARD_BOTH, err);
        at[s][1] += since(b->env, start) / 2;
        start = env_now_ns(b->env);
        if (split && !status)
            status = backward(b, s, stages, item, MODEL_BACKWARD_WEIGHT, err);
        at[s][2] += split ? since(b->env, start) / 2 : 0;
    }
    bg_free(losses);
    return status;
}

// Two items: the gradients of one are written, those of its sibling are added, as in every step.
static bg_status run_items(struct bench *b, uint32_t stages, uint64_t step, bool split, struct bg_error *err,
                           double at[][PLAN_COST_PARTS])
{
    executor_begin(b->ex, step);
    bg_status status = run_item(b, stages, 0, split, err, at);
    return status ? status : run_item(b, stages, 1, split, err, at);
}

// The root from the items' sum and as much beside it, then squares and the step.
static bg_status fold_and_step(struct bench *b, uint64_t step, struct bg_error *err, struct times *t)
{
    const struct model *model = b->model;
    const struct tree_node root = tree_node_root(ITEMS * b->group);
    double *squares = bg_alloc_array(model->param_count, sizeof *squares), bytes = 0;
    bg_status status = BG_OK;
    uint64_t start = env_now_ns(b->env);
    for (uint32_t i = 0; i <= model->bucket_count; i++) {
        const uint32_t bucket = i == model->bucket_count ? EXECUTOR_SPARSE : i;
        const uint32_t stage = executor_bucket_stage(b->ex, bucket);
        for (uint32_t piece = 0; stage != UINT32_MAX && piece < executor_pieces(b->ex, bucket) && !status; piece++) {
            struct executor_part parts[2] = {
                executor_part(b->ex, stage, bucket, piece, (struct tree_node){root.level - 1, 0})};
            struct executor_part made;
            parts[1] = parts[0];
            parts[1].node.index = 1;
            if (bucket != EXECUTOR_SPARSE) // memory of its own, as cold as the other
                parts[1].values = b->beside + model->buckets[bucket].first + (size_t)piece * EXECUTOR_PIECE;
            bytes += (double)parts[0].bytes;
            status = executor_reduce(b->ex, bucket, piece, parts, 2, err, &made);
        }
    }
    t->fold = bytes > 0 ? since(b->env, start) / bytes : 0;
    start = env_now_ns(b->env);
    if (!status) {
        executor_squares(b->ex, squares);
        executor_apply(b->ex, step, 0, 1); // a learning rate of 0 leaves the weights
        t->step = since(b->env, start) / (4.0 * (double)model->elements);
    }
    bg_free(squares);
    return status;
}

// Rounds until the time is over, and what they typically took.
static bg_status rounds(struct bench *b, bool whole, bool split, double seconds, struct bg_error *err,
                        struct times *typical)
{
    enum { ENTRIES = sizeof *typical / sizeof(double) };
    const uint32_t stages = whole ? 1 : b->model->unit_count;
    struct times *all = bg_alloc_array(ROUNDS, sizeof *all);
    const uint64_t start = env_now_ns(b->env);
    uint32_t count = 0;
    bg_status status = seat(b, whole, split, err);
    for (uint64_t step = 0; !status && count < ROUNDS; step++) {
        struct times t = {0};
        status = run_items(b, stages, step, split, err, t.at);
        if (!status && !split && !whole)
            status = fold_and_step(b, step, err, &t);
        const bool over = since(b->env, start) > seconds;
        if (step >= WARM || over)
            all[count++] = t;
        if (over)
            break;
    }
    double values[ROUNDS], entries[ENTRIES];
    for (size_t e = 0; e < ENTRIES && !status; e++) {
        for (uint32_t i = 0; i < count; i++)
            memcpy(&values[i], (const char *)&all[i] + e * sizeof *values, sizeof *values);
        entries[e] = measure_typical(values, count);
    }
    if (!status)
        memcpy(typical, entries, sizeof *typical);
    bg_free(all);
    return status;
}

// ---- Samples ----

static double larger(double a, double b)
{
    return a > b ? a : b;
}

// Work of a row: model flops of a forward; of the embedding bytes, for an op's own cost those of what it passes on.
static double work_of(const struct model *model, enum plan_unit_kind kind, uint32_t length)
{
    if (kind == PLAN_UNIT_BLOCK)
        return layout_flops_block(model, 1, length) / 3 / length;
    return (kind == PLAN_UNIT_HEAD ? 2.0 * model->config.vocab : 4.0) * model->config.dim;
}

// What an op costs beside its units (passing on what it made), and each kind of unit without that.
static void add_samples(const struct bench *b, const struct times *fused, const struct times *split,
                        const struct times *whole, struct plan_costs *costs)
{
    const uint32_t units = b->model->unit_count;
    double ops = 0, least = fused->at[0][0], sums[PLAN_UNIT_OTHER][PLAN_COST_PARTS] = {{0}},
           counts[PLAN_UNIT_OTHER] = {0};
    for (uint32_t u = 0; u < units; u++)
        for (int part = 0; part < 2; part++) {
            ops += fused->at[u][part];
            least = fused->at[u][part] < least ? fused->at[u][part] : least;
        }
    double op_s = larger(ops - whole->at[0][0] - whole->at[0][1], 0) / (2 * (units - 1));
    op_s = op_s < 0.9 * least ? op_s : 0.9 * least; // no unit is free
    for (uint32_t u = 0; u < units; u++) {
        const enum plan_unit_kind kind = estimate_kind(b->model, u);
        const double both = larger(fused->at[u][1] - op_s, 0), halves = split->at[u][1] + split->at[u][2];
        const double input = halves > 0 ? split->at[u][1] / halves : 0.5;
        counts[kind]++;
        sums[kind][0] += larger(fused->at[u][0] - op_s, 0);
        sums[kind][1] += both * input;
        sums[kind][2] += both * (1 - input);
    }
    struct plan_cost_sample s = {.rows = (double)b->group * b->o.batch * b->o.length, .width = b->model->config.dim};
    for (s.kind = PLAN_UNIT_EMBED; s.kind <= PLAN_UNIT_OTHER; s.kind++) {
        s.work = work_of(b->model, s.kind, b->o.length);
        for (int part = 0; part < PLAN_COST_PARTS; part++)
            s.seconds[part] = s.kind == PLAN_UNIT_OTHER ? op_s : sums[s.kind][part] / counts[s.kind];
        plan_cost_add(costs, &s);
    }
}

static bg_status reserve_shared(void *arg, size_t bytes, struct bg_error *err, void **memory)
{
    struct comm *comm = arg;
    return comm->ops->reserve(comm, bytes, err, memory);
}

static void release_shared(void *arg, void *memory, size_t bytes)
{
    struct comm *comm = arg;
    (void)bytes;
    comm->ops->unreserve(comm, memory);
}

static bg_status bench_open(struct bench *b, uint32_t group, struct bg_error *err)
{
    const struct measure_options *o = &b->o;
    const uint64_t count = 64 * ((uint64_t)o->length + 1);
    b->group = group;
    b->tokens = bg_alloc_array(count, sizeof *b->tokens);
    b->beside = bg_alloc_array((size_t)b->model->floats, sizeof *b->beside);
    for (uint64_t i = 0; i < count; i++)
        b->tokens[i] = (uint32_t)((i * 2654435761u >> 7) % b->model->config.vocab);
    bg_status status = comm_shm_create(b->env, &(struct comm_shm_options){0}, err, &b->comm);
    if (status)
        return status;
    b->view = (struct token_view){b->tokens, count, sizeof *b->tokens};
    const struct executor_options options = {.model = b->model,
                                             .kern = kern_select(b->env->isa),
                                             .view = &b->view,
                                             .seed = 1,
                                             .dropout = o->dropout,
                                             .optim = o->optim,
                                             .batch = o->batch,
                                             .length = o->length,
                                             .micro_batches = ITEMS * group,
                                             .memory = {b->comm, reserve_shared, release_shared}};
    status = executor_create(b->env, &options, err, &b->ex);
    if (!status)
        model_init_weights(b->model, b->env, 1, executor_state(b->ex).weights);
    return status;
}

static void bench_close(struct bench *b)
{
    executor_destroy(b->ex);
    if (b->comm)
        b->comm->ops->destroy(b->comm);
    b->comm = NULL;
    bg_free(b->tokens);
    bg_free(b->beside);
    b->beside = NULL;
    b->ex = NULL;
    b->tokens = NULL;
}

static bg_status measure_point(struct bench *b, uint32_t group, double seconds, struct bg_error *err, struct measure *m)
{
    struct times fused, split, whole;
    bg_status status = bench_open(b, group, err);
    if (!status)
        status = rounds(b, false, false, 0.4 * seconds, err, &fused);
    if (!status)
        status = rounds(b, true, false, 0.3 * seconds, err, &whole);
    if (!status)
        status = rounds(b, false, true, 0.3 * seconds, err, &split);
    bench_close(b);
    if (status)
        return status;
    add_samples(b, &fused, &split, &whole, &m->costs);
    m->other.reduce_byte_s = fused.fold;
    m->other.step_byte_s = fused.step;
    return BG_OK;
}

// ---- Cores that all compute ----

struct companion { // computes as the measuring thread does, until `end_ns`
    const struct measure_options *options;
    const struct model_config *config;
    uint32_t group;
    uint64_t end_ns;
    struct bg_thread *thread;
    struct bg_error err;
    bg_status status;
};

static void keep_busy(void *arg, struct bg_env *own)
{
    struct companion *c = arg;
    struct bench b = {.env = own, .o = *c->options};
    const uint32_t fp = kern_fp_enter();
    struct times ignored;
    c->status = model_create(c->config, &c->err, &b.model);
    if (!c->status)
        c->status = bench_open(&b, c->group, &c->err);
    while (!c->status && env_now_ns(own) < c->end_ns)
        c->status = rounds(&b, true, false, 1e-9 * (double)(c->end_ns - env_now_ns(own)), &c->err, &ignored);
    bench_close(&b);
    if (b.model)
        model_destroy(b.model);
    kern_fp_leave(fp);
}

// Seconds of two items, of as many as there is time for.
static bg_status pace(struct bench *b, double seconds, struct bg_error *err, double *each)
{
    double at[1][PLAN_COST_PARTS] = {{0}};
    const uint64_t start = env_now_ns(b->env);
    bg_status status = seat(b, true, false, err);
    uint32_t count = 0;
    while (!status && (count == 0 || since(b->env, start) < seconds))
        status = run_items(b, 1, count++, false, err, at);
    if (!status)
        *each = since(b->env, start) / count;
    return status;
}

// An item in this thread while `others` compute as well.
static bg_status pace_among(struct bench *b, const struct model_config *config, unsigned others, double seconds,
                            struct bg_error *err, double *each)
{
    struct companion *companions = bg_alloc_array(others + 1, sizeof *companions);
    const uint64_t end_ns = env_now_ns(b->env) + (uint64_t)(1.1e9 * seconds);
    unsigned started = 0;
    bg_status status = BG_OK;
    for (; started < others && !status; started += !status) {
        struct companion *c = &companions[started];
        *c = (struct companion){.options = &b->o, .config = config, .group = b->group, .end_ns = end_ns};
        status = b->env->ops->thread_start(b->env, keep_busy, c, err, &c->thread);
    }
    for (int i = 0; i < 2 && !status; i++) // while they begin, then in earnest
        status = pace(b, (i ? 0.7 : 0.3) * seconds, err, each);
    for (unsigned i = 0; i < started; i++) {
        b->env->ops->thread_join(b->env, companions[i].thread);
        if (!status && companions[i].status) {
            *err = companions[i].err;
            status = companions[i].status;
        }
    }
    bg_free(companions);
    return status;
}

// What a cpu is worth while all of them compute, and while each of them has two threads to serve.
static bg_status measure_cores(struct bench *b, const struct model_config *config, double seconds, struct bg_error *err,
                               struct measure *m)
{
    const unsigned threads = b->env->threads, cpus = b->o.cpus > threads ? b->o.cpus : threads;
    double alone = 0, all = 0, twice = 0;
    m->crowded = m->other.sharing = 1;
    if (!b->env->ops->thread_start)
        return BG_OK;
    bg_status status = bench_open(b, 1, err);
    if (!status)
        status = pace_among(b, config, 0, seconds / 3, err, &alone);
    if (!status)
        status = pace_among(b, config, cpus - threads, seconds / 3, err, &all);
    if (!status)
        status = pace_among(b, config, 2 * cpus - threads, seconds / 3, err, &twice);
    bench_close(b);
    if (status)
        return status;
    if (alone < all)
        m->crowded = larger(alone / all, 1.0 / cpus);
    if (2 * all < twice)
        m->other.sharing = larger(2 * all / twice, SHARING_MIN);
    return BG_OK;
}

// ---- Which points ----

static double guess_seconds(const struct bench *b, uint32_t group)
{
    const struct model *model = b->model;
    const double row = work_of(model, PLAN_UNIT_BLOCK, b->o.length) * model->config.layers +
                       work_of(model, PLAN_UNIT_HEAD, b->o.length);
    return 3 * row * group * b->o.batch * b->o.length / (FLOPS_GUESS * b->env->threads);
}

// Half as wide, with heads of the same size where that is possible.
static bool halve(struct model_config *c)
{
    if (c->dim % 2 || c->ffn % 2 || c->dim < 128)
        return false;
    if (c->heads % 2 == 0 && c->kv_heads % 2 == 0) {
        c->heads /= 2;
        c->kv_heads /= 2;
    } else {
        c->head_dim /= 2;
    }
    c->dim /= 2;
    c->ffn /= 2;
    return !model_config_check(c, NULL);
}

// Item sizes 1, 4, 16, .. and the largest of interest, as far as there is time.
static bg_status measure_width(struct bench *b, const struct model_config *config, double seconds, struct bg_error *err,
                               struct measure *m)
{
    const struct measure_options *o = &b->o;
    const uint32_t wanted = o->group_max ? o->group_max : o->micro_batches;
    uint32_t groups[POINTS], count = 0, most = 1;
    bg_status status = model_create(config, err, &b->model);
    if (status)
        return status;
    while (most * 2 <= wanted && guess_seconds(b, most * 2) < ROUND_SHARE * seconds)
        most *= 2;
    for (uint32_t g = 1; g < most && count + 1 < POINTS; g *= 4)
        groups[count++] = g;
    groups[count++] = most;
    for (uint32_t i = 0; i < count && !status; i++)
        status = measure_point(b, groups[i], 0.8 * seconds / count, err, m);
    if (!status)
        status = measure_cores(b, config, 0.2 * seconds, err, m);
    model_destroy(b->model);
    return status;
}

// Less to compute at once, in ways that change what a unit of work costs as little as may be: fewer rows, fewer blocks,
// a smaller table, then narrower ones, last shorter sequences.
static bool shrink(struct measure_options *o, struct model_config *c)
{
    if (o->batch > 1)
        o->batch /= 2;
    else if (c->layers > 2)
        c->layers /= 2;
    else if (c->vocab > 8192)
        c->vocab /= 2;
    else if (halve(c))
        return true;
    else if (o->length > 64)
        o->length /= 2;
    else
        return false;
    return true;
}

static bg_status measure_units(struct bg_env *env, const struct measure_options *o, double seconds,
                               struct bg_error *err, struct measure *m)
{
    struct bench b = {.env = env, .o = *o};
    struct model_config config = *o->config;
    config.layers = config.layers < LAYERS ? config.layers : LAYERS;
    for (bool more = true; more;) {
        bg_status status = model_create(&config, err, &b.model);
        if (status)
            return status;
        more = guess_seconds(&b, 1) > ROUND_SHARE * seconds && shrink(&b.o, &config);
        model_destroy(b.model);
    }
    struct model_config half = config; // of widths that were too large, two are: they show how the rate goes on
    const bool two = config.dim != o->config->dim && halve(&half);
    bg_status status = measure_width(&b, &config, two ? seconds / 2 : seconds, err, m);
    return status || !two ? status : measure_width(&b, &half, seconds / 2, err, m);
}

// A pass over memory of a file that was set aside, and over the same once it is here. As much of the disk is free as
// it takes, or nothing is known of it.
static void measure_disk(struct bg_env *env, const char *scratch, struct plan_profile *other)
{
    struct bg_error ignored;
    void *memory = NULL;
    double best[2] = {0};
    if (!scratch || env->ops->reserve_on_disk(env, scratch, DISK_BYTES, &ignored, &memory))
        return;
    for (int round = 0; round < 2 * DISK_ROUNDS; round++) {
        const uint64_t start = env_now_ns(env);
        memset(memory, round, DISK_BYTES);
        const double taken = 1e-9 * (double)(env_now_ns(env) - start);
        best[round % 2] = round < 2 || taken < best[round % 2] ? taken : best[round % 2];
        if (round % 2)
            env->ops->set_aside(env, memory, DISK_BYTES);
    }
    env->ops->release(env, memory, DISK_BYTES);
    other->disk_byte_s = larger(best[0] - best[1], 0.01 * best[1]) / DISK_BYTES;
}

bg_status measure_machine(struct bg_env *env, const struct measure_options *o, struct bg_error *err,
                          struct measure *measure)
{
    struct measure *m = bg_alloc(sizeof *m);
    const double seconds = o->seconds > 0 ? o->seconds : SECONDS;
    const uint32_t fp = kern_fp_enter();
    *m = (struct measure){.config = *o->config,
                          .optim = o->optim,
                          .batch = o->batch,
                          .length = o->length,
                          .micro_batches = o->micro_batches,
                          .split = o->split,
                          .slices = o->slices,
                          .threads = env->threads,
                          .kern = kern_select(env->isa),
                          .memory_bytes = (double)env->ops->memory_total(env)};
    bg_status status = measure_messages(env, err, &m->other);
    if (!status)
        status = measure_commit(env, o->log, err, &m->other);
    if (!status)
        measure_disk(env, o->scratch, &m->other);
    if (!status)
        status = measure_units(env, o, 0.9 * seconds, err, m);
    kern_fp_leave(fp);
    if (!status)
        *measure = *m;
    bg_free(m);
    return status;
}

bg_status measure_job_options(struct bg_env *env, const struct job *job, struct bg_error *err,
                              struct model_config *config, struct measure_options *options)
{
    struct model_config c = job->model.config;
    enum plan_schedule schedule;
    uint32_t chunks, slices, range;
    bg_status status = plan_schedule_parse(job->run.schedule, err, &schedule, &chunks, &slices, &range);
    if (status)
        return bg_fail_prefix(err, "run.schedule");
    if (job->model.from) {
        struct model_files files;
        status = model_open(env, job->model.from, err, &files);
        if (status)
            return bg_fail_prefix(err, "model.from");
        c = files.model->config;
        model_close(&files);
    } else if (!job->model.vocab_set) {
        struct tokenizer *tokenizer;
        status = tokenizer_open(env, job->data.tokenizer ? job->data.tokenizer : "bytes", err, &tokenizer);
        if (status)
            return status;
        c.vocab = tokenizer_size(tokenizer);
        tokenizer_destroy(tokenizer);
    }
    c.bos = c.eos = -1; // a job's may lie outside a vocabulary that was given
    *config = c;
    *options = (struct measure_options){.config = config,
                                        .dropout = job->train.dropout,
                                        .optim = job_optim(job),
                                        .batch = job->train.micro_batch,
                                        .length = job->model.config.context ? job->model.config.context : c.context,
                                        .micro_batches = job->train.micro_batches,
                                        .split = job->run.split || plan_schedule_splits(schedule, slices),
                                        .slices = slices,
                                        .group_max = job->run.group};
    return BG_OK;
}

// ---- Profiles ----

static void price_unit(const struct measure *m, const struct model *model, uint32_t group, struct plan_unit *unit)
{
    struct plan_cost_sample s = {.kind = unit->kind,
                                 .rows = (double)group * m->batch * m->length,
                                 .width = m->config.dim,
                                 .work = work_of(model, unit->kind, m->length)};
    if (!plan_cost_at(&m->costs, &s))
        return;
    unit->forward_s = s.seconds[0] / group;
    unit->input_s = s.seconds[1] / group;
    unit->weight_s = s.seconds[2] / group;
}

bg_status measure_profile(const struct measure *m, uint32_t group, uint32_t workers, double cores, struct bg_error *err,
                          struct plan_profile *profile)
{
    struct model *model = NULL;
    if (group == 0 || workers == 0 || workers > PLAN_PROFILE_MACHINES_MAX)
        return bg_fail(err, BG_INVALID, "a profile of items of %u micro-batches for %u workers, expected 1 to %d",
                       group, workers, PLAN_PROFILE_MACHINES_MAX);
    bg_status status = model_create(&m->config, err, &model);
    if (status)
        return status;
    struct plan_profile p = m->other;
    struct plan_unit op = {.kind = PLAN_UNIT_OTHER};
    const struct layout_options step = {.unit_end = model->unit_count,
                                        .batch = m->batch,
                                        .length = m->length,
                                        .micro_batches = m->micro_batches,
                                        .slices = m->slices};
    estimate_sizes(model, m->kern, m->threads, &step, group, m->split, &p);
    for (uint32_t u = 0; u < p.unit_count; u++)
        price_unit(m, model, group, &p.units[u]);
    price_unit(m, model, group, &op);
    p.op_s = op.forward_s * group;
    p.machine_count = workers;
    p.machines = bg_alloc_array(workers, sizeof *p.machines);
    for (uint32_t w = 0; w < workers; w++) {
        struct plan_machine *machine = &p.machines[w];
        *machine = (struct plan_machine){
            .speed = 1, .memory_bytes = m->memory_bytes / workers, .cores = cores * m->crowded, .threads = m->threads};
        snprintf(machine->name, sizeof machine->name, "local%u", w);
    }
    model_destroy(model);
    *profile = p;
    return BG_OK;
}
