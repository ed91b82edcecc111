// Several executors in one process, with tensors and sums carried by hand: whatever the cut, the replicas, the items,
// their order, B and W together or apart, forward run again or not, every root, loss, norm and weight is that of the
// one-process step. What is given out keeps its bytes; what does not fit is refused.
// labels: threads bits
#include "train/executor.h"

#include "base/mem.h"
#include "os/live.h"
#include "train/step.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>
#include <stdio.h>
#include <string.h>

enum { M = 5, BATCH = 2, LENGTH = 6, TOKENS = 3000, STEPS = 3, UNITS = 4, WORKERS = 4, VOCAB = 4200, BUCKETS = 16 };

static const struct optim_options adamw = {0.9, 0.95, 1e-8, 0.1, 0.5};
static const double lr = 0.01;

// ---- A job ----

struct fixture {
    bool offload; // stashes wait on disk
    struct bg_env *env;
    const struct kern *kern;
    struct model *model;
    uint32_t tokens[TOKENS];
    struct token_view view;
    size_t floats;
    // What one process makes of it.
    struct optim_state state;
    double losses[STEPS], norms[STEPS];
    float *roots[STEPS], *weights[STEPS];
};

struct kind {
    const char *name;
    enum model_family family;
    bool tie;
};
static const struct kind kinds[] = {{"llama-tied", MODEL_LLAMA, true},
                                    {"llama-untied", MODEL_LLAMA, false},
                                    {"gpt2-tied", MODEL_GPT2, true},
                                    {"gpt2-untied", MODEL_GPT2, false}};

static void run_alone(struct fixture *f)
{
    struct layout_options cut = {
        .unit_end = UNITS, .batch = BATCH, .length = LENGTH, .micro_batches = M, .group = 1, .order = "descending"};
    struct layout layout;
    struct bg_error err;
    assert_int_equal(layout_create(f->model, f->kern, f->env->threads, &cut, &err, &layout), BG_OK);
    struct step_options options = {.model = f->model,
                                   .kern = f->kern,
                                   .layout = &layout,
                                   .view = &f->view,
                                   .seed = 3,
                                   .dropout = 0.1,
                                   .optim = adamw};
    struct step_executor *ex = NULL;
    assert_int_equal(step_create(f->env, &options, &f->state, &err, &ex), BG_OK);
    struct step_local local;
    step_local_init(&local, f->losses, 0, STEPS);
    for (uint64_t s = 0; s < STEPS; s++) {
        struct step_record record;
        if (step_run(ex, &local.base, s, lr, &err, &record))
            fail_msg("%s", err.text);
        f->norms[s] = record.norm;
        f->roots[s] = bg_alloc_array(f->floats, 4);
        f->weights[s] = bg_alloc_array(f->floats, 4);
        memcpy(f->roots[s], step_gradient(ex), f->floats * 4);
        memcpy(f->weights[s], f->state.weights, f->floats * 4);
    }
    step_destroy(ex);
    layout_fini(&layout);
}

static struct fixture *fixture_create(const struct kind *kind, unsigned threads)
{
    struct fixture *f = bg_alloc(sizeof *f);
    struct bg_error err;
    assert_int_equal(os_env_create(&(struct os_options){.threads = threads, .keep_caller = true}, &err, &f->env),
                     BG_OK);
    f->kern = kern_select(f->env->isa);
    struct model_config config = {.family = kind->family,
                                  .layers = UNITS - 2,
                                  .dim = 16,
                                  .heads = 2,
                                  .kv_heads = 2,
                                  .head_dim = 8,
                                  .ffn = 24,
                                  .context = 8,
                                  .vocab = VOCAB, // two pieces
                                  .tie = kind->tie,
                                  .rope_theta = 10000,
                                  .norm_eps = 1e-5,
                                  .bos = -1,
                                  .eos = -1};
    if (model_create(&config, &err, &f->model))
        fail_msg("%s", err.text);
    f->floats = (size_t)f->model->floats;
    f->state =
        (struct optim_state){bg_alloc_array(f->floats, 4), bg_alloc_array(f->floats, 4), bg_alloc_array(f->floats, 4)};
    model_init_weights(f->model, f->env, 3, f->state.weights);
    for (size_t i = 0; i < TOKENS; i++)
        f->tokens[i] = (uint32_t)(i * i * 7 % 61 * (i % 3 ? 1 : 67) % VOCAB);
    f->view = (struct token_view){f->tokens, TOKENS, 4};
    run_alone(f);
    return f;
}

static void fixture_destroy(struct fixture *f)
{
    for (size_t s = 0; s < STEPS; s++) {
        bg_free(f->roots[s]);
        bg_free(f->weights[s]);
    }
    bg_free(f->state.weights);
    bg_free(f->state.m);
    bg_free(f->state.v);
    model_destroy(f->model);
    os_env_destroy(f->env);
    bg_free(f);
}

// ---- A team ----

struct way { // how a step is computed
    const char *name;
    uint32_t stages, cuts[UNITS + 1], workers;
    uint32_t host[UNITS][2]; // (stages, replicas): items go to the replicas in turn
    uint32_t replicas[UNITS];
    uint32_t item_count;
    struct tree_node items[M];
    bool split, recompute, all_forward, backwards; // all_forward: GPipe's order; backwards: last items first
};

struct worker {
    struct executor *ex;
    struct executor_seating seating;
    uint32_t hosted[UNITS]; // place of the plan's stage here
    uint8_t holds[UNITS];
    uint64_t final[BUCKETS + 1]; // hash of what ready() named, 0: not yet
};
struct team {
    struct fixture *f;
    const struct way *way;
    struct worker workers[WORKERS];
    uint64_t reservations;
    double losses[M];
};

static bg_status counted_reserve(void *arg, size_t bytes, struct bg_error *err, void **memory)
{
    struct team *t = arg;
    t->reservations++;
    return t->f->env->ops->reserve(t->f->env, bytes, err, memory);
}

static void counted_release(void *arg, void *memory, size_t bytes)
{
    struct team *t = arg;
    t->f->env->ops->release(t->f->env, memory, bytes);
}

static void seat(struct team *t, uint32_t w, uint32_t extra_holds)
{
    const struct way *way = t->way;
    struct worker *worker = &t->workers[w];
    struct executor_seating *s = &worker->seating;
    *s = (struct executor_seating){.items = way->items,
                                   .item_count = way->item_count,
                                   .slots = 1,
                                   .split = way->split,
                                   .recompute = way->recompute,
                                   .holds = worker->holds};
    for (uint32_t stage = 0; stage < way->stages; stage++) {
        for (uint32_t r = 0; r < way->replicas[stage]; r++) {
            if (way->host[stage][r] != w)
                continue;
            worker->hosted[stage] = s->stage_count;
            s->stages[s->stage_count++] =
                (struct executor_stage){way->cuts[stage], way->cuts[stage + 1], 2, t->f->offload};
            memset(worker->holds + way->cuts[stage], 1, way->cuts[stage + 1] - way->cuts[stage]);
        }
    }
    for (uint32_t u = 0; u < UNITS; u++)
        worker->holds[u] |= (uint8_t)(extra_holds >> u & 1);
    struct bg_error err;
    bool kept;
    if (executor_seat(worker->ex, s, &err, &kept))
        fail_msg("%s", err.text);
}

// The last worker of a team holds every unit, whatever it hosts: it follows.
static void team_init(struct team *t, struct fixture *f, const struct way *way)
{
    *t = (struct team){.f = f, .way = way};
    struct executor_options options = {.model = f->model,
                                       .kern = f->kern,
                                       .view = &f->view,
                                       .seed = 3,
                                       .dropout = 0.1,
                                       .optim = adamw,
                                       .batch = BATCH,
                                       .length = LENGTH,
                                       .micro_batches = M,
                                       .scratch = ".",
                                       .memory = {t, counted_reserve, counted_release}};
    for (uint32_t w = 0; w < way->workers; w++) {
        struct bg_error err;
        if (executor_create(f->env, &options, &err, &t->workers[w].ex))
            fail_msg("%s", err.text);
        model_init_weights(f->model, f->env, 3, executor_state(t->workers[w].ex).weights);
        seat(t, w, w + 1 == way->workers ? ~0u : 0);
    }
}

static void team_fini(struct team *t)
{
    for (uint32_t w = 0; w < t->way->workers; w++)
        executor_destroy(t->workers[w].ex);
}

static uint32_t route(const struct way *way, uint32_t stage, uint32_t item)
{
    return way->host[stage][item % way->replicas[stage]];
}

static void forward(struct team *t, uint32_t stage, uint32_t item)
{
    const struct way *way = t->way;
    struct worker *w = &t->workers[route(way, stage, item)];
    const float *x = NULL;
    if (stage > 0) {
        struct worker *below = &t->workers[route(way, stage - 1, item)];
        x = executor_output(below->ex, below->hosted[stage - 1], item, EXECUTOR_WHOLE);
    }
    struct bg_error err;
    double *losses = t->losses + tree_node_first(way->items[item]);
    if (executor_forward(w->ex, w->hosted[stage], item, EXECUTOR_WHOLE, &x, losses, &err))
        fail_msg("%s", err.text);
    assert_true(executor_has_stash(w->ex, w->hosted[stage], item) == !way->recompute);
}

static uint64_t hash_sums(struct worker *w, uint32_t bucket)
{
    struct tree_node nodes[TREE_SLOTS_MAX];
    uint32_t stage = executor_bucket_stage(w->ex, bucket);
    size_t count = executor_nodes(w->ex, stage, nodes);
    uint64_t hash = 14695981039346656037u;
    for (size_t n = 0; n < count; n++) {
        for (uint32_t p = 0; p < executor_pieces(w->ex, bucket); p++) {
            struct executor_part part = executor_part(w->ex, stage, bucket, p, nodes[n]);
            for (size_t i = 0; i < part.bytes; i++)
                hash = (hash ^ ((const uint8_t *)part.values)[i]) * 1099511628211u;
        }
    }
    return hash;
}

static void when_ready(void *arg, uint32_t bucket)
{
    struct worker *w = arg;
    uint64_t *final = &w->final[bucket == EXECUTOR_SPARSE ? BUCKETS : bucket];
    assert_true(*final == 0); // once
    *final = hash_sums(w, bucket);
}

// Of the stage on its worker, in the order in which weight gradients run.
static bool is_last(const struct way *way, uint32_t stage, uint32_t item)
{
    for (uint32_t i = 0; i < way->item_count; i++) {
        bool later = way->backwards ? i < item : i > item;
        if (later && route(way, stage, i) == route(way, stage, item))
            return false;
    }
    return true;
}

static void backward(struct team *t, uint32_t stage, uint32_t item, enum model_backward_part part)
{
    const struct way *way = t->way;
    struct worker *w = &t->workers[route(way, stage, item)];
    const float *x = NULL, *dy = NULL;
    struct executor_backward b = {.stage = w->hosted[stage],
                                  .x = &x,
                                  .dy = &dy,
                                  .item = item,
                                  .part = part,
                                  .last = is_last(way, stage, item),
                                  .ready = when_ready,
                                  .arg = w};
    if (stage > 0) {
        struct worker *below = &t->workers[route(way, stage - 1, item)];
        x = executor_output(below->ex, below->hosted[stage - 1], item, EXECUTOR_WHOLE);
    }
    if (stage + 1 < way->stages && part & MODEL_BACKWARD_INPUT) {
        struct worker *above = &t->workers[route(way, stage + 1, item)];
        dy = executor_input_gradient(above->ex, above->hosted[stage + 1], item, EXECUTOR_WHOLE);
    }
    struct bg_error err;
    if (executor_backward(w->ex, &b, &err))
        fail_msg("%s", err.text);
    assert_int_equal(executor_has_stash(w->ex, w->hosted[stage], item), part == MODEL_BACKWARD_INPUT);
}

static void run_items(struct team *t)
{
    const struct way *way = t->way;
    for (uint32_t n = 0; n < way->item_count; n++) {
        uint32_t item = way->backwards ? way->item_count - 1 - n : n;
        for (uint32_t s = 0; s < way->stages; s++)
            forward(t, s, item);
        for (uint32_t s = way->stages; !way->all_forward && s-- > 0;)
            backward(t, s, item, way->split ? MODEL_BACKWARD_INPUT : MODEL_BACKWARD_BOTH);
    }
    for (uint32_t n = 0; n < way->item_count; n++) {
        uint32_t item = way->backwards ? way->item_count - 1 - n : n;
        for (uint32_t s = way->stages; way->all_forward && s-- > 0;)
            backward(t, s, item, way->split ? MODEL_BACKWARD_INPUT : MODEL_BACKWARD_BOTH);
        for (uint32_t s = 0; way->split && s < way->stages; s++) // of stages in any order
            backward(t, s, item, MODEL_BACKWARD_WEIGHT);
    }
}

static size_t collect(struct team *t, uint32_t bucket, uint32_t piece, struct executor_part *parts)
{
    size_t count = 0;
    for (uint32_t w = t->way->workers; w-- > 0;) { // no particular order
        struct executor *ex = t->workers[w].ex;
        uint32_t stage = executor_bucket_stage(ex, bucket);
        struct tree_node nodes[TREE_SLOTS_MAX];
        size_t held = stage == UINT32_MAX ? 0 : executor_nodes(ex, stage, nodes);
        for (size_t i = held; i-- > 0;)
            parts[count++] = executor_part(ex, stage, bucket, piece, nodes[i]);
    }
    return count;
}

// One holder reduces, and sends the root to the others; then another one reduces again.
static void reduce_piece(struct team *t, uint32_t bucket, uint32_t piece)
{
    struct executor_part parts[WORKERS * M], root = {0};
    struct bg_error err;
    size_t count = collect(t, bucket, piece, parts);
    for (uint32_t w = 0; w < t->way->workers; w++) {
        struct executor *ex = t->workers[w].ex;
        if (!executor_needs(t->f->model, t->workers[w].holds, bucket))
            continue;
        assert_false(executor_root_held(ex, bucket, piece));
        assert_null(executor_root_part(ex, bucket, piece).values);
        bool reduces = !root.values || (w + bucket) % 3 == 2;
        struct executor_part again = root;
        if (reduces ? executor_reduce(ex, bucket, piece, parts, count, &err, &again)
                    : executor_set_root(ex, bucket, piece, root.values, root.bytes, &err))
            fail_msg("%s", err.text);
        if (reduces && root.values && (root.bytes != again.bytes || memcmp(root.values, again.values, root.bytes) != 0))
            fail_msg("bucket %u: two workers reduced to different roots", bucket);
        assert_true(executor_root_held(ex, bucket, piece));
        assert_int_equal(executor_set_root(ex, bucket, piece, again.values, again.bytes, &err), BG_OK); // a duplicate
        root = again;
    }
}

// What units [first, end) make.
static void reduce_units(struct team *t, uint32_t first, uint32_t end)
{
    const struct model *model = t->f->model;
    for (uint32_t b = 0; b < model->bucket_count; b++) {
        if (model->buckets[b].unit < first || model->buckets[b].unit >= end || !model_bucket_dense(model, b))
            continue;
        for (uint32_t p = 0; p < executor_pieces(t->workers[0].ex, b); p++)
            reduce_piece(t, b, p);
    }
    if (first == 0)
        reduce_piece(t, EXECUTOR_SPARSE, 0);
}

static void reduce_all(struct team *t)
{
    reduce_units(t, 0, UNITS);
    for (uint32_t w = 0; w < t->way->workers; w++)
        assert_int_equal(executor_roots_missing(t->workers[w].ex), 0);
}

static void check_final(struct team *t)
{
    for (uint32_t w = 0; w < t->way->workers; w++) {
        for (uint32_t b = 0; b <= BUCKETS; b++) {
            uint32_t bucket = b == BUCKETS ? EXECUTOR_SPARSE : b;
            uint64_t *final = &t->workers[w].final[b];
            bool made = (b == BUCKETS || (b < t->f->model->bucket_count && t->f->model->buckets[b].floats > 0)) &&
                        executor_bucket_stage(t->workers[w].ex, bucket) != UINT32_MAX;
            assert_true(made == (*final != 0));
            if (made && *final != hash_sums(&t->workers[w], bucket))
                fail_msg("%s: bucket %u changed after it was ready", t->way->name, bucket);
            *final = 0;
        }
    }
}

static double tree(const double *leaves, uint32_t first, uint32_t count)
{
    uint32_t left = 1;
    while (left * 2 < count)
        left *= 2;
    return count == 1 ? leaves[first] : tree(leaves, first, left) + tree(leaves, first + left, count - left);
}

// The token table of a tied model is joined with its rows apart from the root.
static void check_root(const struct team *t, const struct executor *ex, uint32_t p, uint64_t step)
{
    const struct model_param *param = &t->f->model->params[p];
    const float *want = t->f->roots[step] + param->offset, *got = executor_root(ex) + param->offset;
    if (param->role == MODEL_ROLE_EMBED && t->f->model->config.tie)
        return;
    if (memcmp(want, got, param->count * 4))
        fail_msg("%s, step %llu: root of %s differs", t->way->name, (unsigned long long)step, param->name);
}

static void decide(struct team *t, uint64_t step)
{
    const struct model *model = t->f->model;
    double squares[64], all[64];
    assert_true(model->param_count <= 64);
    for (uint32_t p = 0; p < model->param_count; p++)
        all[p] = -1;
    for (uint32_t w = 0; w < t->way->workers; w++) {
        struct executor *ex = t->workers[w].ex;
        for (uint32_t p = 0; p < model->param_count; p++)
            squares[p] = -2;
        executor_squares(ex, squares);
        executor_squares(ex, squares); // asked for again
        for (uint32_t p = 0; p < model->param_count; p++) {
            assert_true(executor_holds_param(ex, p) ? squares[p] >= 0 && (all[p] < 0 || all[p] == squares[p])
                                                    : squares[p] == -2);
            if (executor_holds_param(ex, p)) {
                all[p] = squares[p];
                check_root(t, ex, p, step);
            }
        }
    }
    double norm = optim_norm(all, model->param_count), loss = tree(t->losses, 0, M) / (M * BATCH * LENGTH);
    if (norm != t->f->norms[step] || loss != t->f->losses[step])
        fail_msg("%s, step %llu: loss %.17g norm %.17g, alone %.17g %.17g", t->way->name, (unsigned long long)step,
                 loss, norm, t->f->losses[step], t->f->norms[step]);
    for (uint32_t w = 0; w < t->way->workers; w++) {
        struct executor *ex = t->workers[w].ex;
        executor_apply(ex, step, lr, optim_clip(&adamw, norm));
        for (uint32_t p = 0; p < model->param_count; p++) {
            const struct model_param *param = &model->params[p];
            if (executor_holds_param(ex, p) && memcmp(executor_state(ex).weights + param->offset,
                                                      t->f->weights[step] + param->offset, param->count * 4))
                fail_msg("%s, step %llu, worker %u: %s differs", t->way->name, (unsigned long long)step, w,
                         param->name);
        }
    }
}

static void begin(struct team *t, uint64_t step)
{
    memset(t->losses, 0, sizeof t->losses);
    for (uint32_t w = 0; w < t->way->workers; w++)
        executor_begin(t->workers[w].ex, step);
}

static void run_way(struct fixture *f, const struct way *way)
{
    struct team t;
    team_init(&t, f, way);
    uint64_t allocations = 0, reservations = 0;
    for (uint64_t step = 0; step < STEPS; step++) {
        begin(&t, step);
        if (step == 1) {
            allocations = bg_mem_count();
            reservations = t.reservations;
        }
        run_items(&t);
        check_final(&t);
        reduce_all(&t);
        decide(&t, step);
    }
    assert_int_equal(bg_mem_count(), allocations); // the first step may grow slots and flights
    assert_int_equal(t.reservations, reservations);
    team_fini(&t);
}

#define ONES                                                                                                           \
    5,                                                                                                                 \
    {                                                                                                                  \
        {0, 0}, {0, 1}, {0, 2}, {0, 3},                                                                                \
        {                                                                                                              \
            0, 4                                                                                                       \
        }                                                                                                              \
    }
#define SHUFFLED                                                                                                       \
    5,                                                                                                                 \
    {                                                                                                                  \
        {0, 3}, {0, 0}, {0, 4}, {0, 2},                                                                                \
        {                                                                                                              \
            0, 1                                                                                                       \
        }                                                                                                              \
    }
#define PAIRS                                                                                                          \
    3,                                                                                                                 \
    {                                                                                                                  \
        {1, 0}, {1, 1},                                                                                                \
        {                                                                                                              \
            1, 2                                                                                                       \
        }                                                                                                              \
    }
#define UNEVEN                                                                                                         \
    3,                                                                                                                 \
    {                                                                                                                  \
        {2, 1}, {1, 1},                                                                                                \
        {                                                                                                              \
            1, 0                                                                                                       \
        }                                                                                                              \
    }
#define WHOLE                                                                                                          \
    1,                                                                                                                 \
    {                                                                                                                  \
        {                                                                                                              \
            3, 0                                                                                                       \
        }                                                                                                              \
    }
static const struct way ways[] = {
    {"alone", 1, {0, 4}, 1, {{0}}, {1}, ONES, false, false, false, false},
    {"whole step as one item", 2, {0, 2, 4}, 2, {{0}, {1}}, {1, 1}, WHOLE, true, false, true, false},
    {"two stages", 2, {0, 1, 4}, 2, {{0}, {1}}, {1, 1}, PAIRS, false, false, false, true},
    {"two stages, GPipe, split", 2, {0, 2, 4}, 2, {{0}, {1}}, {1, 1}, ONES, true, false, true, true},
    {"two stages, again", 2, {0, 3, 4}, 2, {{0}, {1}}, {1, 1}, UNEVEN, false, true, true, false},
    {"two stages, again, split", 2, {0, 2, 4}, 2, {{0}, {1}}, {1, 1}, SHUFFLED, true, true, true, false},
    {"every unit alone", 4, {0, 1, 2, 3, 4}, 4, {{0}, {1}, {2}, {3}}, {1, 1, 1, 1}, UNEVEN, true, false, false, false},
    {"interleaved", 4, {0, 1, 2, 3, 4}, 2, {{0}, {1}, {0}, {1}}, {1, 1, 1, 1}, SHUFFLED, false, false, true, true},
    {"two replicas", 1, {0, 4}, 2, {{0, 1}}, {2}, SHUFFLED, false, false, false, false},
    {"one and two replicas", 2, {0, 2, 4}, 3, {{0}, {1, 2}}, {1, 2}, ONES, true, false, true, true},
    {"two by two", 2, {0, 1, 4}, 4, {{0, 1}, {2, 3}}, {2, 2}, PAIRS, false, true, true, true},
    {"and a follower", 2, {0, 2, 4}, 3, {{0}, {1}}, {1, 1}, UNEVEN, false, false, false, false},
};

static void any_way_gives_the_step(void **state)
{
    (void)state;
    for (size_t k = 0; k < sizeof kinds / sizeof *kinds; k++) {
        struct fixture *f = fixture_create(&kinds[k], 1 + k % 2);
        for (size_t w = 0; w < sizeof ways / sizeof *ways; w++) {
            f->offload = (k + w) % 2;
            run_way(f, &ways[w]);
        }
        fixture_destroy(f);
    }
}

struct header {
    uint32_t count, capacity;
};

// ---- The tree over parts, by plain recursion ----

enum { LEAVES = 13, DIM = 16, SHORT = 150 }; // SHORT: ids drawn from

struct plain { // a node's value: dense of one bucket, and rows
    float *dense, rows[SHORT][DIM];
    bool there[SHORT];
};

static void plain_node(const struct fixture *f, struct tree_node node, size_t floats, struct plain *out)
{
    uint32_t first = tree_node_first(node), end = tree_node_end(node, LEAVES);
    if (node.level == 0) {
        for (size_t i = 0; i < floats; i++)
            out->dense[i] = (float)((i * 2654435761u + first * 40503u) % 10007) * 0.37f - 1800.0f;
        for (uint32_t id = 0; id < SHORT; id++) {
            uint32_t bits = (id * LEAVES + first) * 2654435761u;
            out->there[id] = ((bits ^ bits >> 15) * 2246822519u) >> 20 & 1;
            for (size_t d = 0; d < DIM; d++)
                out->rows[id][d] = (float)((id * 31 + d * 17 + first * 101) % 1009) * 0.0137f - 6.0f;
        }
        return;
    }
    struct plain *right = bg_alloc(sizeof *right);
    right->dense = bg_alloc_array(floats, 4);
    plain_node(f, (struct tree_node){node.level - 1, node.index * 2}, floats, out);
    if (first + (1u << (node.level - 1)) < end) {
        plain_node(f, (struct tree_node){node.level - 1, node.index * 2 + 1}, floats, right);
        for (size_t i = 0; i < floats; i++)
            out->dense[i] += right->dense[i];
        for (uint32_t id = 0; id < SHORT; id++) {
            for (size_t d = 0; d < DIM && right->there[id]; d++)
                out->rows[id][d] = out->there[id] ? out->rows[id][d] + right->rows[id][d] : right->rows[id][d];
            out->there[id] |= right->there[id];
        }
    }
    bg_free(right->dense);
    bg_free(right);
}

// Cuts a node at random into parts; `parts[0]` dense, `parts[1]` rows.
static void cut_parts(const struct fixture *f, struct tree_node node, size_t floats, uint32_t capacity,
                      uint32_t *random, struct executor_part *parts[2], size_t *count)
{
    uint32_t first = tree_node_first(node), end = tree_node_end(node, LEAVES);
    *random = *random * 1664525u + 1013904223u;
    if (first >= end)
        return;
    if (node.level > 0 && *random >> 30 != 0) {
        struct tree_node child = {node.level - 1, node.index * 2 + 1}; // right one first: no order is asked for
        cut_parts(f, child, floats, capacity, random, parts, count);
        child.index--;
        cut_parts(f, child, floats, capacity, random, parts, count);
        return;
    }
    struct plain *value = bg_alloc(sizeof *value);
    value->dense = bg_alloc_array(floats, 4);
    plain_node(f, node, floats, value);
    parts[0][*count] = (struct executor_part){node, value->dense, floats * 4};
    size_t at = 64 + ((size_t)capacity * 4 + 63) / 64 * 64;
    uint8_t *block = bg_alloc(at + SHORT * DIM * 4);
    struct header *header = (void *)block;
    header->capacity = capacity;
    for (uint32_t id = 0; id < SHORT; id++) {
        if (!value->there[id])
            continue;
        ((int32_t *)(void *)(block + 64))[header->count] = (int32_t)id;
        memcpy(block + at + header->count++ * DIM * 4, value->rows[id], DIM * 4);
    }
    parts[1][(*count)++] = (struct executor_part){node, (void *)block, at + header->count * DIM * 4};
    bg_free(value);
}

static void any_parts_give_the_tree(void **state)
{
    (void)state;
    struct fixture *f = fixture_create(&kinds[0], 2);
    struct executor_options options = {.model = f->model,
                                       .kern = f->kern,
                                       .view = &f->view,
                                       .optim = adamw,
                                       .batch = BATCH,
                                       .length = LENGTH,
                                       .micro_batches = LEAVES,
                                       .memory = executor_memory_env(f->env)};
    static const uint8_t holds[UNITS] = {1, 1, 1, 1};
    struct tree_node top = tree_node_root(LEAVES);
    struct executor_seating seating = {.items = &top, .item_count = 1, .holds = holds};
    struct executor *ex = NULL;
    struct bg_error err;
    bool kept;
    assert_int_equal(executor_create(f->env, &options, &err, &ex), BG_OK);
    assert_int_equal(executor_seat(ex, &seating, &err, &kept), BG_OK);
    size_t floats = (size_t)f->model->buckets[0].floats - EXECUTOR_PIECE; // its second piece
    struct plain *want = bg_alloc(sizeof *want);
    want->dense = bg_alloc_array(floats, 4);
    plain_node(f, top, floats, want);
    uint32_t random = 1;
    for (uint64_t round = 0; round < 40; round++) {
        struct executor_part dense[LEAVES], rows[LEAVES], root, *parts[2] = {dense, rows};
        size_t count = 0;
        cut_parts(f, top, floats, LEAVES * BATCH * LENGTH, &random, parts, &count);
        executor_begin(ex, round);
        if (executor_reduce(ex, 0, 1, dense, count, &err, &root))
            fail_msg("%s", err.text);
        assert_memory_equal(root.values, want->dense, floats * 4);
        if (executor_reduce(ex, EXECUTOR_SPARSE, 0, rows, count, &err, &root))
            fail_msg("%s", err.text);
        const uint8_t *block = (const void *)root.values;
        const struct header *header = (const void *)block;
        const float *row = (const void *)(block + root.bytes - header->count * DIM * 4);
        uint32_t next = 0;
        for (uint32_t id = 0; id < SHORT; id++) {
            if (!want->there[id])
                continue;
            assert_int_equal(((const int32_t *)(const void *)(block + 64))[next], id);
            assert_memory_equal(row + (size_t)next++ * DIM, want->rows[id], DIM * 4);
        }
        assert_int_equal(header->count, next);
        for (size_t i = 0; i < count; i++) {
            bg_free((void *)(uintptr_t)dense[i].values);
            bg_free((void *)(uintptr_t)rows[i].values);
        }
    }
    bg_free(want->dense);
    bg_free(want);
    executor_destroy(ex);
    fixture_destroy(f);
}

// ---- When members change ----

static const struct way pair = {"pair", 2, {0, 2, 4}, 3, {{0}, {1, 2}}, {1, 2}, ONES, false, false, true, false};

// Worker 2 dies with its sums after worker 1 gave its own out; worker 1 sits down again and computes the rest.
static void survivor_takes_over(void **state)
{
    (void)state;
    struct fixture *f = fixture_create(&kinds[2], 2);
    struct team t;
    team_init(&t, f, &pair);
    begin(&t, 0);
    run_items(&t);
    struct worker *survivor = &t.workers[1];
    struct tree_node nodes[TREE_SLOTS_MAX];
    size_t count = executor_nodes(survivor->ex, 0, nodes);
    assert_int_equal(count, 3); // 0, 2 and 4 of 5 leaves have no sibling here
    struct executor_part given[3];
    float *copies[3];
    for (size_t n = 0; n < count; n++) {
        given[n] = executor_part(survivor->ex, 0, 4, 0, nodes[n]);
        copies[n] = bg_alloc(given[n].bytes);
        memcpy(copies[n], given[n].values, given[n].bytes);
    }

    struct way rest = pair;
    rest.workers = 2;
    rest.replicas[1] = 1;
    t.way = &rest;
    executor_destroy(t.workers[2].ex);
    bool kept = false;
    struct bg_error err;
    assert_int_equal(executor_seat(survivor->ex, &survivor->seating, &err, &kept), BG_OK);
    assert_true(kept);
    memset(survivor->holds, 1, UNITS);
    assert_int_equal(executor_seat(survivor->ex, &survivor->seating, &err, &kept), BG_OK);
    assert_true(kept);
    memset(survivor->final, 0, sizeof survivor->final);
    for (uint32_t item = 1; item < M; item += 2) {
        forward(&t, 1, item);
        backward(&t, 1, item, MODEL_BACKWARD_BOTH);
    }
    assert_int_equal(executor_nodes(survivor->ex, 0, nodes), 1);
    for (size_t n = 0; n < 3; n++) { // what was given out may still be read
        assert_memory_equal(given[n].values, copies[n], given[n].bytes);
        bg_free(copies[n]);
    }
    reduce_all(&t);
    decide(&t, 0);
    team_fini(&t);
    fixture_destroy(f);
}

// The last stage dies when the first one's roots are there; the follower, which sat nowhere, takes it.
static void follower_takes_a_stage(void **state)
{
    (void)state;
    struct fixture *f = fixture_create(&kinds[0], 1);
    struct way two = ways[11];
    struct team t;
    team_init(&t, f, &two);
    for (uint64_t step = 0; step < 2; step++) {
        begin(&t, step);
        run_items(&t);
        check_final(&t);
        if (step == 0) {
            reduce_all(&t);
            decide(&t, step);
            continue;
        }
        reduce_units(&t, 0, two.cuts[1]);
        executor_destroy(t.workers[1].ex);
        t.workers[1] = t.workers[2];
        two.workers = 2;
        struct worker *taker = &t.workers[1];
        struct bg_error err;
        bool kept = false;
        taker->hosted[1] = 0;
        taker->seating.stages[0] = (struct executor_stage){two.cuts[1], UNITS, 1, false};
        taker->seating.stage_count = 1;
        taker->seating.holds = taker->holds;
        assert_int_equal(executor_seat(taker->ex, &taker->seating, &err, &kept), BG_OK);
        assert_true(kept && executor_root_held(taker->ex, 1 + 1, 0) && !executor_root_held(taker->ex, 1 + 2, 0));
        for (uint32_t item = 0; item < two.item_count; item++) {
            forward(&t, 1, item);
            backward(&t, 1, item, MODEL_BACKWARD_BOTH);
        }
        reduce_units(&t, two.cuts[1], UNITS);
        decide(&t, step);
    }
    team_fini(&t);
    fixture_destroy(f);
}

// Other items or units: what does not fit them is gone, what does goes on.
static void seating_again(void **state)
{
    (void)state;
    struct fixture *f = fixture_create(&kinds[1], 1);
    struct team t;
    team_init(&t, f, &ways[3]);
    begin(&t, 0);
    run_items(&t);
    reduce_all(&t);
    struct executor *ex = t.workers[0].ex;
    struct executor_seating seating = t.workers[0].seating;
    struct tree_node nodes[TREE_SLOTS_MAX];
    struct bg_error err;
    bool kept = true;
    seating.item_count = 3; // other items: sums are gone, roots are not
    seating.items = ways[2].items;
    assert_int_equal(executor_seat(ex, &seating, &err, &kept), BG_OK);
    assert_false(kept);
    assert_int_equal(executor_nodes(ex, 0, nodes), 0);
    assert_int_equal(executor_roots_missing(ex), 0);
    seating.items = t.way->items;
    seating.item_count = t.way->item_count;
    seating.stages[0].unit_end = UNITS; // other units
    assert_int_equal(executor_seat(ex, &seating, &err, &kept), BG_OK);
    assert_false(kept);
    seating.stages[1] = (struct executor_stage){2, 3, 1, false};
    seating.stage_count = 2;
    assert_int_equal(executor_seat(ex, &seating, &err, &kept), BG_INVALID);
    seating.stage_count = 1;
    seating.item_count--;
    assert_int_equal(executor_seat(ex, &seating, &err, &kept), BG_INVALID);
    seat(&t, 0, 0);
    decide(&t, 0);
    for (uint64_t step = 1; step < STEPS; step++) {
        begin(&t, step);
        memset(t.workers[0].final, 0, sizeof t.workers[0].final);
        memset(t.workers[1].final, 0, sizeof t.workers[1].final);
        run_items(&t);
        reduce_all(&t);
        decide(&t, step);
    }
    uint32_t sequences = 0;
    assert_non_null(executor_evaluate_memory(ex, &sequences, &err));
    assert_true(sequences >= 1 && executor_scratch(ex)[0]);
    assert_true(executor_probe(ex) > 0);
    team_fini(&t);
    fixture_destroy(f);
}

// ---- Refusals ----

static void parts_are_checked(void **state)
{
    (void)state;
    struct fixture *f = fixture_create(&kinds[0], 1);
    struct team t;
    team_init(&t, f, &ways[8]);
    begin(&t, 0);
    run_items(&t);
    struct executor *ex = t.workers[0].ex;
    struct executor_part parts[WORKERS * M], root;
    struct bg_error err;
    size_t count = collect(&t, 2, 0, parts);
    assert_true(count >= 2);
    assert_int_equal(executor_reduce(ex, 2, 0, parts + 1, count - 1, &err, &root), BG_INVALID);
    assert_non_null(strstr(err.text, "are in no part"));
    struct executor_part first = parts[0];
    parts[0] = parts[1];
    assert_int_equal(executor_reduce(ex, 2, 0, parts, count, &err, &root), BG_INVALID);
    assert_non_null(strstr(err.text, "in two parts"));
    parts[0] = first;
    parts[0].bytes -= 4;
    assert_int_equal(executor_reduce(ex, 2, 0, parts, count, &err, &root), BG_CORRUPT);
    parts[0].bytes += 4;
    parts[0].node = (struct tree_node){0, M};
    assert_int_equal(executor_reduce(ex, 2, 0, parts, count, &err, &root), BG_INVALID);
    parts[0] = first;
    assert_false(executor_root_held(ex, 2, 0));
    assert_int_equal(executor_reduce(ex, 2, 0, parts, count, &err, &root), BG_OK);
    float *flipped = bg_alloc(root.bytes);
    memcpy(flipped, root.values, root.bytes);
    ((uint8_t *)flipped)[17] ^= 1;
    assert_int_equal(executor_set_root(ex, 2, 0, flipped, root.bytes, &err), BG_CORRUPT);
    assert_non_null(strstr(err.text, "bucket 2, piece 0"));
    assert_int_equal(executor_set_root(ex, 1 + 2, 0, flipped, root.bytes - 4, &err), BG_CORRUPT);
    bg_free(flipped);
    team_fini(&t);
    fixture_destroy(f);
}

static void blocks_are_checked(void **state)
{
    (void)state;
    struct fixture *f = fixture_create(&kinds[1], 2);
    struct team t;
    team_init(&t, f, &ways[8]);
    begin(&t, 0);
    run_items(&t);
    struct executor *ex = t.workers[0].ex;
    struct executor_part parts[WORKERS * M], root;
    struct bg_error err;
    size_t count = collect(&t, EXECUTOR_SPARSE, 0, parts), bytes = parts[0].bytes;
    const struct executor_part part = parts[0];
    uint8_t *block = bg_alloc(bytes);
    struct header *header = (void *)block;
    int32_t *ids = (void *)(block + 64);
    parts[0].values = (void *)block;
    struct {
        size_t bytes;
        uint32_t count, capacity;
        size_t id;
        int32_t value;
    } lies[] = {{32, 0, 0, 0, 0}, {0, 1, 0, 0, 0},          {0, 0xffffffff, 0, 0, 0},
                {0, 0, 1, 0, 0},  {0, 0, 0xfffffff0, 0, 0}, {0, 0, 0, 1, 0},
                {0, 0, 0, 0, -1}, {0, 0, 0, 2, VOCAB},      {0, 0, 0, 2, INT32_MIN}};
    for (size_t i = 0; i < sizeof lies / sizeof *lies; i++) {
        memcpy(block, part.values, bytes);
        parts[0].bytes = lies[i].bytes ? lies[i].bytes : bytes;
        header->count = lies[i].count ? lies[i].count : header->count;
        header->capacity = lies[i].capacity ? lies[i].capacity : header->capacity;
        if (lies[i].id || lies[i].value)
            ids[lies[i].id] = lies[i].value;
        if (executor_reduce(ex, EXECUTOR_SPARSE, 0, parts, count, &err, &root) != BG_CORRUPT)
            fail_msg("lie %zu of a part was believed", i);
        if (executor_set_root(ex, EXECUTOR_SPARSE, 0, block, parts[0].bytes, &err) != BG_CORRUPT)
            fail_msg("lie %zu of a root was believed", i);
    }
    parts[0] = part;
    assert_int_equal(executor_reduce(ex, EXECUTOR_SPARSE, 0, parts, count, &err, &root), BG_OK);
    assert_int_equal(executor_set_root(ex, EXECUTOR_SPARSE, 0, part.values, part.bytes, &err), BG_CORRUPT);
    bg_free(block);
    team_fini(&t);
    fixture_destroy(f);
}

static void order_of_ops(void **state)
{
    (void)state;
    struct fixture *f = fixture_create(&kinds[3], 1);
    struct team t;
    team_init(&t, f, &ways[3]);
    begin(&t, 0);
    struct executor *ex = t.workers[1].ex; // units 2 and 3
    struct bg_error err;
    struct executor_backward b = {.item = 1, .part = MODEL_BACKWARD_INPUT};
    assert_int_equal(executor_backward(ex, &b, &err), BG_INVALID);
    assert_non_null(strstr(err.text, "B before its F"));
    forward(&t, 0, 1);
    forward(&t, 1, 1);
    const float *x = executor_output(t.workers[0].ex, 0, 1, EXECUTOR_WHOLE);
    b.x = &x;
    b.part = MODEL_BACKWARD_WEIGHT;
    assert_int_equal(executor_backward(ex, &b, &err), BG_INVALID);
    assert_non_null(strstr(err.text, "W before its B"));
    backward(&t, 1, 1, MODEL_BACKWARD_INPUT);
    assert_true(executor_has_input_gradient(ex, 0, 1));
    float kept = executor_input_gradient(ex, 0, 1, EXECUTOR_WHOLE)[0];
    b.part = MODEL_BACKWARD_INPUT;
    assert_int_equal(executor_backward(ex, &b, &err), BG_INVALID);
    assert_non_null(strstr(err.text, "B twice"));
    forward(&t, 1, 1); // only for its losses: what W needs stays
    assert_true(executor_has_input_gradient(ex, 0, 1) && kept == executor_input_gradient(ex, 0, 1, EXECUTOR_WHOLE)[0]);
    backward(&t, 1, 1, MODEL_BACKWARD_WEIGHT);
    assert_int_equal(executor_backward(ex, &b, &err), BG_INVALID);
    forward(&t, 1, 1); // and once more: its gradient is in already
    backward(&t, 1, 1, MODEL_BACKWARD_INPUT);
    b.part = MODEL_BACKWARD_WEIGHT;
    assert_int_equal(executor_backward(ex, &b, &err), BG_EXISTS);
    backward(&t, 0, 1, MODEL_BACKWARD_INPUT);
    backward(&t, 0, 1, MODEL_BACKWARD_WEIGHT);
    team_fini(&t);
    fixture_destroy(f);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(any_way_gives_the_step), cmocka_unit_test(any_parts_give_the_tree),
        cmocka_unit_test(survivor_takes_over),    cmocka_unit_test(follower_takes_a_stage),
        cmocka_unit_test(seating_again),          cmocka_unit_test(parts_are_checked),
        cmocka_unit_test(blocks_are_checked),     cmocka_unit_test(order_of_ops),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
