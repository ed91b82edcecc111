// The executor against the rules themselves: gradients of a step are the canonical tree over the gradients of single
// micro-batches, whatever the groups; the loss likewise; the optimizer's norm and clip by a plain loop; layouts.
#include "train/step.h"

#include "base/mem.h"
#include "os/live.h"

#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>
#include <stdio.h>
#include <string.h>

enum { M = 5, BATCH = 2, LENGTH = 8, TOKENS = 4000 };

struct fixture {
    struct bg_env *env;
    const struct kern *kern;
    struct model *model;
    struct optim_state state;
    uint16_t tokens[TOKENS];
    struct token_view view;
};

static int set_up(void **state)
{
    struct fixture *f = bg_alloc(sizeof *f);
    struct bg_error err;
    assert_int_equal(os_env_create(&(struct os_options){.threads = 2, .keep_caller = true}, &err, &f->env), BG_OK);
    f->kern = kern_select(f->env->isa);
    struct model_config config = {.family = MODEL_GPT2,
                                  .layers = 1,
                                  .dim = 16,
                                  .heads = 2,
                                  .kv_heads = 2,
                                  .head_dim = 8,
                                  .ffn = 32,
                                  .context = LENGTH,
                                  .vocab = 50,
                                  .tie = true,
                                  .norm_eps = 1e-5,
                                  .bos = -1,
                                  .eos = -1};
    if (model_create(&config, &err, &f->model))
        fail_msg("%s", err.text);
    size_t floats = (size_t)f->model->floats;
    f->state = (struct optim_state){bg_alloc_array(floats, 4), bg_alloc_array(floats, 4), bg_alloc_array(floats, 4)};
    model_init_weights(f->model, f->env, 3, f->state.weights);
    for (size_t i = 0; i < TOKENS; i++)
        f->tokens[i] = (uint16_t)(i * i * 7 % 50);
    f->view = (struct token_view){f->tokens, TOKENS, 2};
    *state = f;
    return 0;
}

static int tear_down(void **state)
{
    struct fixture *f = *state;
    model_destroy(f->model);
    bg_free(f->state.weights);
    bg_free(f->state.m);
    bg_free(f->state.v);
    os_env_destroy(f->env);
    bg_free(f);
    return 0;
}

static struct layout layout_of(const struct fixture *f, uint32_t group, const char *order)
{
    struct layout_options options = {.unit_end = f->model->unit_count,
                                     .batch = BATCH,
                                     .length = LENGTH,
                                     .micro_batches = M,
                                     .group = group,
                                     .order = order};
    struct layout layout;
    struct bg_error err;
    if (layout_create(f->model, f->kern, f->env->threads, &options, &err, &layout))
        fail_msg("%s", err.text);
    return layout;
}

// Runs one step; the root gradient is copied out. Weights and moments are put back.
static double one_step(struct fixture *f, uint32_t group, const char *order, const struct optim_options *optim,
                       float *gradient, struct step_record *record)
{
    struct layout layout = layout_of(f, group, order);
    struct step_options options = {
        .model = f->model, .kern = f->kern, .layout = &layout, .view = &f->view, .seed = 9, .optim = *optim};
    size_t bytes = (size_t)f->model->floats * 4;
    float *before = bg_alloc(bytes);
    memcpy(before, f->state.weights, bytes);
    struct step_executor *ex = NULL;
    struct bg_error err;
    assert_int_equal(step_create(f->env, &options, &f->state, &err, &ex), BG_OK);
    double loss = 0;
    struct step_local local;
    step_local_init(&local, &loss, 0, 1);
    if (step_run(ex, &local.base, 0, 0.01, &err, record))
        fail_msg("%s", err.text);
    assert_true(loss == record->loss);
    memcpy(gradient, step_gradient(ex), bytes);
    // Only one step fits the log.
    assert_int_equal(step_run(ex, &local.base, 1, 0.01, &err, record), BG_INTERNAL);
    step_destroy(ex);
    layout_fini(&layout);
    memcpy(f->state.weights, before, bytes);
    memset(f->state.m, 0, bytes);
    memset(f->state.v, 0, bytes);
    bg_free(before);
    return loss;
}

static void groups_give_the_tree(void **state)
{
    struct fixture *f = *state;
    size_t bytes = (size_t)f->model->floats * 4;
    float *one = bg_alloc(bytes), *other = bg_alloc(bytes);
    struct step_record record;
    const struct optim_options optim = {0.9, 0.95, 1e-8, 0.1, 1.0};
    double loss = one_step(f, 1, "ascending", &optim, one, &record);
    static const char *const orders[] = {"ascending", "descending", "shuffle:1", "shuffle:2"};
    for (uint32_t group = 1; group <= 8; group *= 2) {
        for (size_t o = 0; o < 4; o++) {
            assert_true(loss == one_step(f, group, orders[o], &optim, other, &record));
            assert_memory_equal(one, other, bytes);
        }
    }
    assert_true(fabs(loss - 3.912) < 0.1); // ln 50: it has learnt nothing yet
    bg_free(one);
    bg_free(other);
}

static void norm_and_clip(void **state)
{
    struct fixture *f = *state;
    size_t floats = (size_t)f->model->floats;
    float *gradient = bg_alloc_array(floats, 4);
    double clips[] = {0, 1e-3, 1e9};
    for (size_t i = 0; i < 3; i++) {
        struct step_record record;
        const struct optim_options optim = {0.9, 0.95, 1e-8, 0.1, clips[i]};
        one_step(f, 2, NULL, &optim, gradient, &record);
        double all = 0;
        for (uint32_t p = 0; p < f->model->param_count; p++) {
            const struct model_param *param = &f->model->params[p];
            double tensor = 0;
            for (uint64_t first = 0; first < param->count; first += 4096) {
                double block = 0;
                for (uint64_t e = first; e < param->count && e < first + 4096; e++)
                    block += (double)gradient[param->offset + e] * (double)gradient[param->offset + e];
                tensor += block;
            }
            all += tensor;
        }
        assert_true(fabs(record.norm - sqrt(all)) <= 1e-12 * record.norm);
        double expected = clips[i] > 0 && clips[i] / (record.norm + 1e-6) < 1 ? clips[i] / (record.norm + 1e-6) : 1;
        assert_true(record.clip == (float)expected);
    }
    bg_free(gradient);
}

static void layouts(void **state)
{
    struct fixture *f = *state;
    struct layout l = layout_of(f, 4, "descending");
    assert_int_equal(l.groups, 2);
    assert_int_equal(l.group, 4);
    assert_int_equal(tree_node_first(l.order[0]), 4);
    layout_fini(&l);
    l = layout_of(f, 64, NULL); // more than there are: all of them
    assert_int_equal(l.groups, 1);
    assert_int_equal(l.slots, 1);
    layout_fini(&l);
    l = layout_of(f, 0, NULL); // small: all at once
    assert_int_equal(l.groups, 1);
    layout_fini(&l);
    struct layout_options bad = {
        .unit_end = f->model->unit_count, .batch = BATCH, .length = LENGTH, .micro_batches = M};
    struct bg_error err;
    bad.group = 3;
    assert_int_equal(layout_create(f->model, f->kern, 1, &bad, &err, &l), BG_INVALID);
    bad.group = 1;
    bad.order = "sideways";
    assert_int_equal(layout_create(f->model, f->kern, 1, &bad, &err, &l), BG_INVALID);
    bad.order = NULL;
    bad.batch = 65536;
    bad.length = 65536;
    assert_int_equal(layout_create(f->model, f->kern, 1, &bad, &err, &l), BG_INVALID);
    bad.batch = bad.length = 1;
    bad.micro_batches = 4096;
    bad.order = "shuffle:1"; // too many partial sums at once
    assert_int_equal(layout_create(f->model, f->kern, 1, &bad, &err, &l), BG_INVALID);
    assert_non_null(strstr(err.text, "larger run.group"));
}

static void flops(void **state)
{
    struct fixture *f = *state;
    // Matrices of the block: 16x48, 16x16, 16x32, 32x16; tied head 50x16; attention 6 T^2 D a sequence.
    double weights = 16 * 48 + 16 * 16 + 2 * 16 * 32 + 50 * 16;
    assert_true(layout_flops(f->model, 3, LENGTH) == 3 * (6 * weights * LENGTH + 6.0 * LENGTH * LENGTH * 16));
}

int main(void)
{
    const struct CMUnitTest tests[] = {cmocka_unit_test(groups_give_the_tree), cmocka_unit_test(norm_and_clip),
                                       cmocka_unit_test(layouts), cmocka_unit_test(flops)};
    return cmocka_run_group_tests(tests, set_up, tear_down);
}
