// Decoding: prefill in any chunks and row by row must give the logits of the training forward, bit for bit; errors.
#include "model/decode.h"
#include "model/step_test.h"

#include <stdarg.h>
#include <setjmp.h>
#include <cmocka.h>

enum { LENGTH = 90 };

static const struct model_config llama = {.family = MODEL_LLAMA,
                                          .layers = 2,
                                          .dim = 40,
                                          .heads = 4,
                                          .kv_heads = 2,
                                          .head_dim = 10,
                                          .ffn = 70,
                                          .context = 100,
                                          .vocab = 97,
                                          .qkv_bias = true,
                                          .rope_theta = 10000.0,
                                          .norm_eps = 1e-5,
                                          .bos = -1,
                                          .eos = -1};
static const struct model_config gpt2 = {.family = MODEL_GPT2,
                                         .layers = 2,
                                         .dim = 36,
                                         .heads = 3,
                                         .kv_heads = 3,
                                         .head_dim = 12,
                                         .ffn = 50,
                                         .context = 100,
                                         .vocab = 101,
                                         .tie = true,
                                         .norm_eps = 1e-5,
                                         .bos = -1,
                                         .eos = -1};

// Logits of the training forward. The head turns its logits into gradients in place: so its norm and product are
// asked for by themselves here.
static float *forward_logits(const struct model *m, struct bg_env *env, const struct kern *kern, const float *weights,
                             const int32_t *tokens)
{
    size_t dim = m->config.dim, vocab = m->config.vocab;
    void *lanes[2];
    for (unsigned i = 0; i < 2; i++)
        lanes[i] = test_memory(model_scratch_bytes(m, kern, 1, LENGTH, 1, true));
    struct model_run run = {.model = m,
                            .kern = kern,
                            .env = env,
                            .weights = weights,
                            .lane_scratch = lanes,
                            .batch = 1,
                            .length = LENGTH,
                            .count = 1,
                            .tokens = tokens};
    float *x = test_floats(LENGTH * dim), *y = test_floats(LENGTH * dim), *h = test_floats(LENGTH * dim);
    float *work = test_floats(model_work_floats(m, 1, LENGTH, 1, true)), *logits = test_floats(LENGTH * vocab);
    model_forward(&run, 0, x, NULL, NULL, work, NULL);
    for (uint32_t u = 1; u + 1 < m->unit_count; u++) {
        float *stash = test_floats(model_stash_floats(m, u, 1, LENGTH, 1, false, true)), *swap = x;
        model_forward(&run, u, y, x, stash, work, NULL);
        free(stash);
        x = y;
        y = swap;
    }
    struct head head = head_of(m);
    float mean[LENGTH], rstd[LENGTH];
    norm_forward(&head.norm, kern, weights, h, mean, rstd, x, LENGTH);
    struct kern_gemm g = linear_forward(&head.linear, weights, logits, vocab, h, dim, LENGTH);
    model_gemm(env, kern, lanes, &g);
    free(x);
    free(y);
    free(h);
    free(work);
    free(lanes[0]);
    free(lanes[1]);
    return logits;
}

static struct decoder *decoder_of(struct bg_env *env, const struct model *m, const struct kern *kern, const float *w,
                                  uint32_t chunk)
{
    struct bg_error err;
    struct decoder *d = NULL;
    assert_int_equal(decoder_create(env, m, kern, w, LENGTH, chunk, &err, &d), BG_OK);
    return d;
}

static void check_chunks(const struct model *m, struct bg_env *env, const struct kern *kern, const float *w,
                         const float *want, const int32_t *tokens)
{
    size_t vocab = m->config.vocab;
    float *got = test_floats(LENGTH * vocab);
    struct bg_error err;
    for (uint32_t chunk = 1; chunk <= LENGTH; chunk = chunk * 3 + 1) {
        struct decoder *d = decoder_of(env, m, kern, w, chunk);
        assert_int_equal(decoder_feed_all(d, tokens, LENGTH, got, &err), BG_OK);
        assert_memory_equal(got, want, LENGTH * vocab * sizeof(float));
        assert_int_equal(decoder_position(d), LENGTH);

        decoder_reset(d); // prefill, then row by row
        const float *logits = NULL;
        uint64_t allocations = bg_mem_count();
        for (uint32_t i = 0; i < LENGTH; i += i == 0 ? 64 : 1) {
            assert_int_equal(decoder_feed(d, tokens + i, i == 0 ? 64 : 1, &err, &logits), BG_OK);
            assert_memory_equal(logits, want + (i == 0 ? 63 : i) * vocab, vocab * sizeof(float));
        }
        assert_int_equal(bg_mem_count(), allocations);
        decoder_destroy(d);
    }
    free(got);
}

static void check_model(struct model_config config)
{
    int32_t tokens[LENGTH], targets[LENGTH];
    struct bg_env *env = test_env(2);
    struct model *m = test_model(config);
    float *w = test_weights(m, env, 0.1f);
    test_tokens(tokens, targets, LENGTH, config.vocab);
    const struct kern *tables[KERN_TABLES];
    size_t count = kern_tables(env->isa, tables);
    float *want = forward_logits(m, env, tables[0], w, tokens);
    for (size_t i = 0; i < count; i++)
        check_chunks(m, env, tables[i], w, want, tokens);
    free(want);
    free(w);
    model_destroy(m);
    os_env_destroy(env);
}

static void test_llama(void **state)
{
    (void)state;
    check_model(llama);
}

static void test_gpt2(void **state)
{
    (void)state;
    check_model(gpt2);
}

static void test_errors(void **state)
{
    (void)state;
    struct bg_env *env = test_env(1);
    struct model *m = test_model(gpt2);
    float *w = test_weights(m, env, 0.1f);
    const struct kern *kern = kern_select(env->isa);
    struct bg_error err;
    struct decoder *d = NULL;
    const float *logits;
    int32_t tokens[LENGTH + 1] = {0};
    assert_int_equal(decoder_create(env, m, kern, w, 101, 8, &err, &d), BG_INVALID);
    d = decoder_of(env, m, kern, w, 1000);
    assert_int_equal(decoder_context(d), LENGTH);
    assert_int_equal(decoder_feed(d, tokens, LENGTH + 1, &err, &logits), BG_FULL);
    assert_int_equal(decoder_feed(d, tokens, 0, &err, &logits), BG_INVALID);
    tokens[3] = 101;
    assert_int_equal(decoder_feed(d, tokens, 4, &err, &logits), BG_INVALID);
    tokens[3] = -1;
    assert_int_equal(decoder_feed(d, tokens, 4, &err, &logits), BG_INVALID);
    assert_int_equal(decoder_position(d), 0);
    decoder_destroy(d);
    free(w);
    model_destroy(m);
    os_env_destroy(env);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_llama),
        cmocka_unit_test(test_gpt2),
        cmocka_unit_test(test_errors),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
