// Whole plans over executors in one process: every schedule, in slices and not, gives the one-process step bit for bit,
// losses and roots and weights, both families. Lists run in any order that their messages allow. What slices may not do
// is refused, and an item whose slices broke off goes on whole.
// labels: threads bits
#include "train/executor_int.h"

#include "base/mem.h"
#include "os/live.h"
#include "plan/pass/pass.h"
#include "plan/plan_int.h"
#include "plan/schedule/schedule.h"
#include "train/step.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>
#include <string.h>

enum { M = 5, BATCH = 2, LENGTH = 130, TOKENS = 5000, STEPS = 2, UNITS = 6, VOCAB = 90, MOST = 3, WORKERS = 8 };

static const struct optim_options adamw = {0.9, 0.95, 1e-8, 0.1, 0.5};
static const double lr = 0.01;

struct fixture {
    struct bg_env *env;
    const struct kern *kern;
    struct model *model;
    uint32_t tokens[TOKENS];
    struct token_view view;
    size_t floats;
    float *first, *weights; // before the first step, after the last
    float *root;            // of the last
    double losses[STEPS], norms[STEPS];
    double dropout;
};

static void run_alone(struct fixture *f)
{
    struct layout_options cut = {.unit_end = UNITS, .batch = BATCH, .length = LENGTH, .micro_batches = M, .group = 1};
    struct layout layout;
    struct bg_error err;
    assert_int_equal(layout_create(f->model, f->kern, f->env->threads, &cut, &err, &layout), BG_OK);
    struct step_options options = {.model = f->model,
                                   .kern = f->kern,
                                   .layout = &layout,
                                   .view = &f->view,
                                   .seed = 3,
                                   .dropout = f->dropout,
                                   .optim = adamw};
    struct optim_state state = {f->weights, bg_alloc_array(f->floats, 4), bg_alloc_array(f->floats, 4)};
    struct step_executor *ex = NULL;
    assert_int_equal(step_create(f->env, &options, &state, &err, &ex), BG_OK);
    struct step_local local;
    step_local_init(&local, f->losses, 0, STEPS);
    for (uint64_t s = 0; s < STEPS; s++) {
        struct step_record record;
        if (step_run(ex, &local.base, s, lr, &err, &record))
            fail_msg("%s", err.text);
        f->norms[s] = record.norm;
    }
    memcpy(f->root, step_gradient(ex), f->floats * 4);
    step_destroy(ex);
    layout_fini(&layout);
    bg_free(state.m);
    bg_free(state.v);
}

static struct fixture *fixture_create(enum model_family family, bool tie, uint32_t kv_heads, double dropout,
                                      unsigned threads)
{
    struct fixture *f = bg_alloc(sizeof *f);
    struct bg_error err;
    assert_int_equal(os_env_create(&(struct os_options){.threads = threads, .keep_caller = true}, &err, &f->env),
                     BG_OK);
    f->kern = kern_select(f->env->isa);
    f->dropout = dropout;
    struct model_config config = {.family = family,
                                  .layers = UNITS - 2,
                                  .dim = 16,
                                  .heads = 4,
                                  .kv_heads = kv_heads,
                                  .head_dim = 4,
                                  .ffn = 12,
                                  .context = LENGTH,
                                  .vocab = VOCAB,
                                  .tie = tie,
                                  .rope_theta = 10000,
                                  .norm_eps = 1e-5,
                                  .bos = -1,
                                  .eos = -1};
    if (model_create(&config, &err, &f->model))
        fail_msg("%s", err.text);
    f->floats = (size_t)f->model->floats;
    f->first = bg_alloc_array(f->floats, 4);
    f->weights = bg_alloc_array(f->floats, 4);
    f->root = bg_alloc_array(f->floats, 4);
    model_init_weights(f->model, f->env, 3, f->first);
    memcpy(f->weights, f->first, f->floats * 4);
    for (size_t i = 0; i < TOKENS; i++)
        f->tokens[i] = (uint32_t)(i * i * 7 % 61 * (i % 3 ? 1 : 67) % VOCAB);
    f->view = (struct token_view){f->tokens, TOKENS, 4};
    run_alone(f);
    return f;
}

static void fixture_destroy(struct fixture *f)
{
    bg_free(f->first);
    bg_free(f->weights);
    bg_free(f->root);
    model_destroy(f->model);
    os_env_destroy(f->env);
    bg_free(f);
}

// ---- Executors that run a plan ----
struct crew {
    struct fixture *f;
    const struct plan *plan;
    struct executor *ex[WORKERS];
    uint32_t local[WORKERS][PLAN_STAGES_MAX];
    uint8_t holds[UNITS];
    uint8_t *sent; // (stages, items, MOST) by consumer: 1 the activation, 2 the gradient
    double losses[M];
    size_t head[WORKERS];
    uint64_t random, reservations;
};

static bg_status counted_reserve(void *arg, size_t bytes, struct bg_error *err, void **memory)
{
    struct crew *c = arg;
    c->reservations++;
    return c->f->env->ops->reserve(c->f->env, bytes, err, memory);
}

static void counted_release(void *arg, void *memory, size_t bytes)
{
    struct crew *c = arg;
    c->f->env->ops->release(c->f->env, memory, bytes);
}

static bool uses(const struct plan *plan, enum plan_op_kind kind, uint8_t flags)
{
    bool any = false;
    for (uint32_t w = 0; w < plan->workers; w++)
        for (size_t i = 0; i < plan->lists[w].count; i++)
            any |= plan->lists[w].ops[i].kind == kind && (plan->lists[w].ops[i].flags & flags) == flags;
    return any;
}

static void crew_init(struct crew *c, struct fixture *f, const struct plan *plan)
{
    *c = (struct crew){.f = f, .plan = plan, .random = 1};
    c->sent = bg_alloc_array((size_t)plan->stage_count * plan->item_count * MOST, 1);
    memset(c->holds, 1, UNITS); // everybody follows: roots come from whoever made them
    assert_true(plan->workers <= WORKERS);
    struct tree_node items[M];
    for (uint32_t i = 0; i < plan->item_count; i++)
        items[i] = (struct tree_node){0, i};
    for (uint32_t w = 0; w < plan->workers; w++) {
        struct executor_options options = {.model = f->model,
                                           .kern = f->kern,
                                           .view = &f->view,
                                           .seed = 3,
                                           .dropout = f->dropout,
                                           .optim = adamw,
                                           .batch = BATCH,
                                           .length = LENGTH,
                                           .micro_batches = M,
                                           .scratch = ".",
                                           .memory = {c, counted_reserve, counted_release}};
        struct executor_seating seating = {.items = items,
                                           .item_count = plan->item_count,
                                           .slots = 1,
                                           .split = uses(plan, PLAN_W, 0),
                                           .slices = plan->slices,
                                           .recompute = uses(plan, PLAN_F, PLAN_RECOMPUTE),
                                           .holds = c->holds};
        for (uint32_t k = 0; k < plan->seat_count; k++) {
            const struct plan_stage *stage = &plan->stages[plan->seats[k].stage];
            if (plan->seats[k].worker != w)
                continue;
            c->local[w][plan->seats[k].stage] = seating.stage_count;
            seating.stages[seating.stage_count++] =
                (struct executor_stage){stage->unit_first, stage->unit_end, plan_flights(plan, w, plan->seats[k].stage),
                                        uses(plan, PLAN_F, PLAN_OFFLOAD)};
        }
        struct bg_error err;
        bool kept;
        if (executor_create(f->env, &options, &err, &c->ex[w]) || executor_seat(c->ex[w], &seating, &err, &kept))
            fail_msg("%s", err.text);
        memcpy(executor_state(c->ex[w]).weights, f->first, f->floats * 4);
    }
}

static void crew_fini(struct crew *c)
{
    for (uint32_t w = 0; w < c->plan->workers; w++)
        executor_destroy(c->ex[w]);
    bg_free(c->sent);
}

static uint8_t *sent_at(struct crew *c, uint32_t stage, uint32_t item, uint32_t slice)
{
    return &c->sent[((size_t)stage * c->plan->item_count + item) * MOST + slice];
}

// Of stashes that wait on disk none is in memory but that of the op that ran last.
static void check_disk(const struct crew *c, uint32_t w)
{
    uint32_t here = 0, on_disk = 0;
    for (uint32_t s = 0; s < c->ex[w]->stage_count; s++)
        for (uint32_t f = 0; f < c->ex[w]->stages[s]->flight_count; f++) {
            on_disk += c->ex[w]->stages[s]->flights[f].on_disk;
            here += c->ex[w]->stages[s]->flights[f].here;
        }
    assert_int_equal(here, on_disk > 0);
    assert_true(uses(c->plan, PLAN_F, PLAN_OFFLOAD) == (on_disk > 0));
}

// Runs an op if its message has come; inputs are read where they were made.
static bool run_op(struct crew *c, uint32_t w, const struct plan_op *op)
{
    const uint32_t s = op->stage, i = op->item, slices = plan_op_slices(c->plan), stages = c->plan->stage_count;
    const uint32_t slice = slices > 1 ? op->slice : EXECUTOR_WHOLE;
    const uint8_t bit = op->flags & PLAN_GRAD ? 2 : 1;
    const float *x[MOST] = {NULL}, *dy[MOST] = {NULL};
    struct bg_error err;
    bg_status status = BG_OK;
    if (op->kind == PLAN_RECV)
        return *sent_at(c, s, i, op->slice) & bit;
    if (op->kind == PLAN_SEND)
        *sent_at(c, bit == 2 ? s - 1 : s + 1, i, op->slice) |= bit;
    if (op->kind > PLAN_W)
        return true;
    for (uint32_t k = 0; k < slices; k++) {
        const uint32_t below = s > 0 ? c->plan->route[(s - 1) * c->plan->item_count + i] : 0;
        const uint32_t above = s + 1 < stages ? c->plan->route[(s + 1) * c->plan->item_count + i] : 0;
        x[k] = s > 0 ? executor_output(c->ex[below], c->local[below][s - 1], i, k) : NULL;
        dy[k] = s + 1 < stages ? executor_input_gradient(c->ex[above], c->local[above][s + 1], i, k) : NULL;
    }
    if (op->kind == PLAN_F) {
        status = executor_forward(c->ex[w], c->local[w][s], i, slice, x, &c->losses[i], &err);
    } else {
        const struct executor_backward b = {.stage = c->local[w][s],
                                            .item = i,
                                            .slice = op->kind == PLAN_W ? EXECUTOR_WHOLE : slice,
                                            .part = op->kind == PLAN_W       ? MODEL_BACKWARD_WEIGHT
                                                    : op->flags & PLAN_FUSED ? MODEL_BACKWARD_BOTH
                                                                             : MODEL_BACKWARD_INPUT,
                                            .x = x,
                                            .dy = dy};
        status = executor_backward(c->ex[w], &b, &err);
    }
    if (status)
        fail_msg("%s", err.text);
    check_disk(c, w);
    return true;
}

static void run_lists(struct crew *c, uint64_t step)
{
    memset(c->sent, 0, (size_t)c->plan->stage_count * c->plan->item_count * MOST);
    memset(c->head, 0, sizeof c->head);
    for (uint32_t w = 0; w < c->plan->workers; w++)
        executor_begin(c->ex[w], step);
    for (uint32_t idle = 0; idle < 1000;) {
        c->random = c->random * 6364136223846793005u + 1442695040888963407u;
        const uint32_t w = (uint32_t)(c->random >> 33) % c->plan->workers;
        const struct plan_list *list = &c->plan->lists[w];
        const bool ran = c->head[w] < list->count && run_op(c, w, &list->ops[c->head[w]]);
        c->head[w] += ran;
        idle = ran ? 0 : idle + 1;
    }
    for (uint32_t w = 0; w < c->plan->workers; w++)
        assert_int_equal(c->head[w], c->plan->lists[w].count);
}

static void reduce_bucket(struct crew *c, uint32_t bucket)
{
    for (uint32_t piece = 0; piece < executor_pieces(c->ex[0], bucket); piece++) {
        struct executor_part parts[WORKERS * M], root;
        size_t count = 0;
        struct bg_error err;
        for (uint32_t w = 0; w < c->plan->workers; w++) {
            struct tree_node nodes[TREE_SLOTS_MAX];
            const uint32_t stage = executor_bucket_stage(c->ex[w], bucket);
            const size_t held = stage == UINT32_MAX ? 0 : executor_nodes(c->ex[w], stage, nodes);
            for (size_t n = 0; n < held; n++)
                parts[count++] = executor_part(c->ex[w], stage, bucket, piece, nodes[n]);
        }
        for (uint32_t w = 0; w < c->plan->workers; w++)
            if (executor_reduce(c->ex[w], bucket, piece, parts, count, &err, &root))
                fail_msg("%s", err.text);
    }
}

static double tree(const double *leaves, uint32_t first, uint32_t count)
{
    uint32_t left = 1;
    while (left * 2 < count)
        left *= 2;
    return count == 1 ? leaves[first] : tree(leaves, first, left) + tree(leaves, first + left, count - left);
}

static void check_step(struct crew *c, uint64_t step)
{
    const struct model *model = c->f->model;
    double squares[128];
    assert_true(model->param_count <= 128);
    const double loss = tree(c->losses, 0, M) / (M * BATCH * LENGTH);
    if (loss != c->f->losses[step])
        fail_msg("step %llu: loss %.17g, alone %.17g", (unsigned long long)step, loss, c->f->losses[step]);
    for (uint32_t b = 0; b < model->bucket_count; b++)
        if (model_bucket_dense(model, b) && model->buckets[b].floats)
            reduce_bucket(c, b);
    reduce_bucket(c, EXECUTOR_SPARSE);
    for (uint32_t w = 0; w < c->plan->workers; w++) {
        executor_squares(c->ex[w], squares);
        const double norm = optim_norm(squares, model->param_count);
        if (norm != c->f->norms[step])
            fail_msg("step %llu: norm %.17g, alone %.17g", (unsigned long long)step, norm, c->f->norms[step]);
        for (uint32_t p = 0; p < model->param_count && step + 1 == STEPS; p++) {
            const struct model_param *param = &model->params[p];
            const float *root = executor_root(c->ex[w]) + param->offset; // the token table is joined in elsewhere
            if (param->role != MODEL_ROLE_EMBED && memcmp(root, c->f->root + param->offset, param->count * 4))
                fail_msg("root of %s differs", param->name);
        }
        executor_apply(c->ex[w], step, lr, optim_clip(&adamw, norm));
        if (step + 1 == STEPS)
            assert_memory_equal(executor_state(c->ex[w]).weights, c->f->weights, c->f->floats * 4);
    }
}

static void run_plan(struct fixture *f, const struct plan *plan)
{
    struct crew c;
    crew_init(&c, f, plan);
    uint64_t allocations = 0, reservations = 0;
    for (uint64_t step = 0; step < STEPS; step++) {
        if (step == 1) { // the first may grow slots
            allocations = bg_mem_count();
            reservations = c.reservations;
        }
        run_lists(&c, step);
        check_step(&c, step);
    }
    assert_true(bg_mem_count() == allocations && c.reservations == reservations);
    crew_fini(&c);
}

static void build_and_run(struct fixture *f, const struct plan_options *options)
{
    struct plan plan;
    struct bg_error err;
    if (plan_build(options, &err, &plan))
        fail_msg("%s", err.text);
    run_plan(f, &plan);
    plan_fini(&plan);
}

// Every nth of schedules x slices x shapes; fewer where code runs slowly.
static void all_schedules(struct fixture *f, uint32_t nth)
{
#if defined(__SANITIZE_THREAD__) || !defined(__OPTIMIZE__)
    nth = nth * 5 + 1;
#endif
    static const double ones[UNITS] = {1, 1, 1, 1, 1, 1};
    static const uint32_t replicas[][4] = {{1, 1}, {2, 2}, {1, 2}, {1, 1, 1}, {1}};
    static const uint32_t stages[] = {2, 2, 2, 3, 1};
    for (uint32_t k = 0; k < PLAN_SCHEDULES * MOST * 5; k++) {
        const enum plan_schedule schedule = (enum plan_schedule)(k % PLAN_SCHEDULES);
        const uint32_t round = k / PLAN_SCHEDULES, slices = round % MOST + 1, shape = round / MOST;
        if ((schedule + round) % nth)
            continue;
        build_and_run(f, &(struct plan_options){.costs = ones,
                                                .units = UNITS,
                                                .micro_batches = M,
                                                .group = 1,
                                                .replicas = replicas[shape],
                                                .stages = stages[shape],
                                                .schedule = schedule,
                                                .chunks = plan_schedule_chunks(schedule, 2),
                                                .slices = slices,
                                                .split = round / 2 % 2,
                                                .recompute = (schedule + round / 2) % 3 == 1,
                                                .offload = (schedule + round / 2) % 3 == 2});
    }
}

static void llama_tied_grouped(void **state)
{
    (void)state;
    struct fixture *f = fixture_create(MODEL_LLAMA, true, 2, 0.1, 1);
    all_schedules(f, 2);
    fixture_destroy(f);
}

static void gpt2_untied(void **state)
{
    (void)state;
    struct fixture *f = fixture_create(MODEL_GPT2, false, 4, 0.2, 2);
    all_schedules(f, 11);
    fixture_destroy(f);
}

static void others(void **state)
{
    (void)state;
    struct fixture *f = fixture_create(MODEL_GPT2, true, 4, 0, 1);
    all_schedules(f, 7);
    fixture_destroy(f);
    f = fixture_create(MODEL_LLAMA, false, 1, 0, 1);
    all_schedules(f, 7);
    fixture_destroy(f);
}

// Two pipelines in opposite directions: every worker sits at every stage, and items say who computes what.
static void opposite_pipelines(void **state)
{
    (void)state;
    enum { STAGES = 3 };
    struct fixture *f = fixture_create(MODEL_LLAMA, true, 2, 0.1, 1);
    for (uint32_t slices = 1; slices <= MOST; slices++) {
        struct plan plan = {.units = UNITS,
                            .micro_batches = M,
                            .workers = STAGES,
                            .slices = slices,
                            .stages = bg_alloc_array(STAGES, sizeof *plan.stages),
                            .stage_count = STAGES,
                            .items = bg_alloc_array(M, sizeof *plan.items),
                            .item_count = M,
                            .seats = bg_alloc_array(STAGES * STAGES, sizeof *plan.seats),
                            .seat_count = STAGES * STAGES,
                            .route = bg_alloc_array(STAGES * M, sizeof *plan.route)};
        uint8_t bits[STAGES * M];
        uint32_t rank[M];
        for (uint32_t s = 0; s < STAGES; s++) {
            plan.stages[s] = (struct plan_stage){2 * s, 2 * s + 2};
            for (uint32_t r = 0; r < STAGES; r++)
                plan.seats[s * STAGES + r] = (struct plan_seat){r, s, r};
            for (uint32_t i = 0; i < M; i++)
                plan.route[s * M + i] = i % 2 ? STAGES - 1 - s : s;
        }
        for (uint32_t i = 0; i < M; i++) {
            plan.items[i] = (struct plan_item){i, i + 1};
            rank[i] = i;
        }
        memset(bits, PLAN_WORK_F | PLAN_WORK_B | PLAN_WORK_W, sizeof bits);
        plan_reset_lists(&plan);
        plan_order_greedy(&plan, &(struct plan_work){bits, plan.route, rank, slices > 1});
        for (uint32_t w = 0; w < plan.workers; w++)
            plan_slice_list(&plan.lists[w], slices);
        struct bg_error err;
        if (plan_lower(&plan, NULL, &err))
            fail_msg("%s", err.text);
        plan_place_receives(&plan, NULL, NULL);
        plan_close_lists(&plan);
        plan_pass_wait_free(&plan, true);
        if (plan_validate(&plan, &err))
            fail_msg("%s", err.text);
        run_plan(f, &plan);
        plan_fini(&plan);
    }
    fixture_destroy(f);
}

// ---- Slices that break off, and what is refused ----
static bg_status op(struct crew *c, enum plan_op_kind kind, uint32_t slice, int part, struct bg_error *err)
{
    const struct executor_backward b = {.slice = slice, .part = (enum model_backward_part)part};
    return kind == PLAN_F ? executor_forward(c->ex[0], 0, 0, slice, NULL, c->losses, err)
                          : executor_backward(c->ex[0], &b, err);
}

static void refused(struct crew *c, enum plan_op_kind kind, uint32_t slice, int part, const char *why)
{
    struct bg_error err;
    assert_int_equal(op(c, kind, slice, part, &err), BG_INVALID);
    if (!strstr(err.text, why))
        fail_msg("expected \"%s\" in: %s", why, err.text);
}

static void slices_have_an_order(void **state)
{
    (void)state;
    enum { INPUT = MODEL_BACKWARD_INPUT, WEIGHT = MODEL_BACKWARD_WEIGHT, BOTH = MODEL_BACKWARD_BOTH };
    static const double ones[UNITS] = {1, 1, 1, 1, 1, 1};
    static const uint32_t one = 1;
    struct fixture *f = fixture_create(MODEL_LLAMA, true, 2, 0.1, 1);
    struct plan plan;
    struct bg_error err;
    struct plan_options options = {.costs = ones,
                                   .units = UNITS,
                                   .micro_batches = M,
                                   .group = 1,
                                   .replicas = &one,
                                   .stages = 1,
                                   .schedule = PLAN_1F1B,
                                   .chunks = 1,
                                   .slices = MOST};
    assert_int_equal(plan_build(&options, &err, &plan), BG_OK);
    struct crew c;
    crew_init(&c, f, &plan);
    executor_begin(c.ex[0], 0);
    refused(&c, PLAN_F, 1, 0, "F of slice 1 before");
    for (uint32_t k = 0; k < 2; k++)
        assert_int_equal(op(&c, PLAN_F, k, 0, &err), BG_OK);
    assert_false(executor_has_stash(c.ex[0], 0, 0));
    refused(&c, PLAN_B, 2, INPUT, "B before its F");
    assert_int_equal(op(&c, PLAN_F, EXECUTOR_WHOLE, 0, &err), BG_OK); // broke off, and went on whole
    assert_true(executor_has_stash(c.ex[0], 0, 0));
    refused(&c, PLAN_B, 0, INPUT, "B of slice 0, but slice 2 is next");
    refused(&c, PLAN_B, 2, BOTH, "B of slice 2 with W, but slice 2 is next");
    refused(&c, PLAN_W, EXECUTOR_WHOLE, WEIGHT, "W before its B");
    assert_int_equal(op(&c, PLAN_B, 2, INPUT, &err), BG_OK);
    refused(&c, PLAN_B, 2, INPUT, "slice 1 is next");
    refused(&c, PLAN_F, 0, 0, "after a B");
    assert_int_equal(op(&c, PLAN_F, EXECUTOR_WHOLE, 0, &err), BG_OK); // for its losses: what B needs stays
    assert_false(executor_has_input_gradient(c.ex[0], 0, 0));
    assert_int_equal(op(&c, PLAN_B, EXECUTOR_WHOLE, BOTH, &err), BG_OK); // those that are left, and W
    assert_false(executor_has_stash(c.ex[0], 0, 0));

    for (uint64_t step = 0; step < STEPS; step++) { // the other items as planned, and this one as above
        if (step > 0) {
            run_lists(&c, step);
        } else {
            for (size_t i = 0; i < plan.lists[0].count; i++)
                if (plan.lists[0].ops[i].item > 0)
                    run_op(&c, 0, &plan.lists[0].ops[i]);
        }
        check_step(&c, step);
    }
    const struct tree_node whole = tree_node_root(M);
    struct executor_seating seating = {.items = &whole, .item_count = 1, .slices = MOST + 1, .holds = c.holds};
    bool kept;
    assert_int_equal(executor_seat(c.ex[0], &seating, &err, &kept), BG_INVALID);
    assert_non_null(strstr(err.text, "4 slices of sequences of 130 positions: a slice is at least 64"));
    crew_fini(&c);
    plan_fini(&plan);
    fixture_destroy(f);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(llama_tied_grouped), cmocka_unit_test(gpt2_untied),          cmocka_unit_test(others),
        cmocka_unit_test(opposite_pipelines), cmocka_unit_test(slices_have_an_order),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
