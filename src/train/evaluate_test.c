// Evaluation: the number of windows at once and of threads never shows; limits, short sets and bits per byte.
#include "train/evaluate.h"

#include "base/mem.h"
#include "os/live.h"

#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

enum { TOKENS = 1000, LENGTH = 8 };

static void same_bits(void **state)
{
    (void)state;
    struct bg_error err;
    struct bg_env *env = NULL;
    assert_int_equal(os_env_create(&(struct os_options){.threads = 2, .keep_caller = true}, &err, &env), BG_OK);
    const struct kern *kern = kern_select(env->isa);
    struct model_config config = {.family = MODEL_LLAMA,
                                  .layers = 2,
                                  .dim = 16,
                                  .heads = 2,
                                  .kv_heads = 1,
                                  .head_dim = 8,
                                  .ffn = 32,
                                  .context = LENGTH,
                                  .vocab = 50,
                                  .rope_theta = 10000,
                                  .norm_eps = 1e-5};
    struct model *model = NULL;
    assert_int_equal(model_create(&config, &err, &model), BG_OK);
    float *weights = bg_alloc_array((size_t)model->floats, 4);
    model_init_weights(model, env, 1, weights);
    uint32_t tokens[TOKENS];
    for (uint32_t i = 0; i < TOKENS; i++)
        tokens[i] = i * 31 % 50;
    struct token_view view = {tokens, TOKENS, 4};

    struct evaluate_result all, r;
    struct evaluate_options options = {.bytes = 2 * TOKENS};
    assert_int_equal(evaluate_run(env, model, kern, weights, &view, &options, &err, &all), BG_OK);
    assert_int_equal(all.windows, (TOKENS - 1) / LENGTH);
    assert_int_equal(all.tokens, all.windows * LENGTH);
    assert_true(fabs(all.perplexity - exp(all.loss)) < 1e-9 * all.perplexity);
    assert_true(fabs(all.bits_per_byte - all.loss / log(2) / 2) < 1e-9);

    for (uint32_t sequences = 1; sequences <= 7; sequences += 3) {
        size_t scratch = model_scratch_bytes(model, kern, 1, LENGTH, sequences, false);
        void *memory = NULL, *lanes[2] = {0};
        assert_int_equal(env->ops->reserve(env, evaluate_bytes(model, LENGTH, sequences), &err, &memory), BG_OK);
        for (int i = 0; i < 2; i++)
            assert_int_equal(env->ops->reserve(env, scratch + 64, &err, &lanes[i]), BG_OK);
        struct evaluate_memory m = {lanes, memory, sequences};
        assert_int_equal(evaluate_in(env, model, kern, weights, &view, &options, &m, &err, &r), BG_OK);
        assert_true(r.loss == all.loss);
        env->ops->release(env, memory, evaluate_bytes(model, LENGTH, sequences));
        for (int i = 0; i < 2; i++)
            env->ops->release(env, lanes[i], scratch + 64);
    }

    options.tokens_max = 3 * LENGTH + 5;
    assert_int_equal(evaluate_run(env, model, kern, weights, &view, &options, &err, &r), BG_OK);
    assert_int_equal(r.windows, 3);
    options.tokens_max = 1;
    assert_int_equal(evaluate_run(env, model, kern, weights, &view, &options, &err, &r), BG_OK);
    assert_int_equal(r.windows, 1);
    options.tokens_max = 0;
    view.count = 5; // one shorter window
    assert_int_equal(evaluate_run(env, model, kern, weights, &view, &options, &err, &r), BG_OK);
    assert_int_equal(r.tokens, 4);
    view.count = 1;
    assert_int_equal(evaluate_run(env, model, kern, weights, &view, &options, &err, &r), BG_INVALID);
    view.count = TOKENS;
    options.length = LENGTH + 1;
    assert_int_equal(evaluate_run(env, model, kern, weights, &view, &options, &err, &r), BG_INVALID);
    bg_free(weights);
    model_destroy(model);
    os_env_destroy(env);
}

int main(void)
{
    const struct CMUnitTest tests[] = {cmocka_unit_test(same_bits)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
