// Gradients of every tensor against central differences of the double-precision oracle, for both families and every
// flag of theirs; the losses too; shapes and order of parameters; initial values.
#include "model/oracle_test.h"

#include <stdarg.h>
#include <setjmp.h>
#include <cmocka.h>

enum { BATCH = 2, LENGTH = 4, MICRO_BATCHES = 3, TOKENS = BATCH * LENGTH * MICRO_BATCHES };

struct fixture {
    struct bg_env *env;
    struct model *model;
    float *weights;
    int32_t tokens[TOKENS], targets[TOKENS];
    struct step step;
};

static struct fixture fixture_of(struct model_config config, float dropout)
{
    struct fixture f = {.env = test_env(2)};
    f.model = test_model(config);
    f.weights = test_weights(f.model, f.env, 0.3f);
    test_tokens(f.tokens, f.targets, TOKENS, config.vocab);
    const struct kern *kern = kern_select(f.env->isa);
    f.step = (struct step){.model = f.model,
                           .kern = kern,
                           .env = f.env,
                           .weights = f.weights,
                           .batch = BATCH,
                           .length = LENGTH,
                           .micro_batches = MICRO_BATCHES,
                           .group = 2,
                           .dropout = dropout};
    return f;
}

static void fixture_free(struct fixture *f)
{
    model_destroy(f->model);
    os_env_destroy(f->env);
    free(f->weights);
}

static void check_tensor(struct oracle *o, double *w, const struct model_param *p, const float *gradient)
{
    const double h = 1e-5;
    double difference = 0.0, norm = 0.0;
    for (uint64_t e = 0; e<p->count; e += p->count> 60 ? 3 : 1) { // every third of a matrix: time
        double *at = w + p->offset + e, old = *at;
        *at = old + h;
        double above = oracle_loss(o, w, NULL);
        *at = old - h;
        double below = oracle_loss(o, w, NULL);
        *at = old;
        double want = (above - below) / (2.0 * h), d = (double)gradient[p->offset + e] - want;
        difference += d * d;
        norm += want * want;
    }
    bool good = sqrt(difference) <= 5e-6 * sqrt(norm) + 1e-9; // where the true gradient is zero: absolute
    if (!good)
        print_error("%s: |difference| %.3g, |gradient| %.3g\n", p->name, sqrt(difference), sqrt(norm));
    assert_true(good);
}

static void check_gradients(struct model_config config, float dropout)
{
    struct fixture f = fixture_of(config, dropout);
    f.step.tokens = f.tokens;
    f.step.targets = f.targets;
    struct step_result r = step_run(&f.step);
    struct oracle o = oracle_create(&f.step);
    double *w = calloc(f.model->floats, sizeof *w), losses[TOKENS];
    for (uint64_t i = 0; i < f.model->floats; i++)
        w[i] = (double)f.weights[i];

    oracle_loss(&o, w, losses);
    for (size_t i = 0; i < TOKENS; i++)
        assert_true(fabs(r.losses[i] - losses[i]) <= 5e-6);
    for (uint32_t i = 0; i < f.model->param_count; i++)
        check_tensor(&o, w, &f.model->params[i], r.grad.dense);

    free(o.x);
    free(w);
    step_result_free(&r);
    fixture_free(&f);
}

static const struct model_config llama = {.family = MODEL_LLAMA,
                                          .layers = 2,
                                          .dim = 20,
                                          .heads = 4,
                                          .kv_heads = 2,
                                          .head_dim = 6,
                                          .ffn = 18,
                                          .context = 8,
                                          .vocab = 11,
                                          .rope_theta = 10000.0,
                                          .norm_eps = 1e-5,
                                          .bos = -1,
                                          .eos = -1};
static const struct model_config gpt2 = {.family = MODEL_GPT2,
                                         .layers = 2,
                                         .dim = 20,
                                         .heads = 5,
                                         .kv_heads = 5,
                                         .head_dim = 4,
                                         .ffn = 36,
                                         .context = 7,
                                         .vocab = 13,
                                         .norm_eps = 1e-5,
                                         .bos = -1,
                                         .eos = -1};

static void test_llama(void **state)
{
    (void)state;
    check_gradients(llama, 0.0f);
}

static void test_llama_tied_biases(void **state)
{
    struct model_config c = llama;
    (void)state;
    c.tie = c.qkv_bias = true;
    check_gradients(c, 0.0f);
    c.out_bias = c.mlp_bias = true;
    c.heads = 3;
    c.kv_heads = 1;
    c.layers = 1;
    check_gradients(c, 0.0f);
}

static void test_llama_dropout(void **state)
{
    (void)state;
    check_gradients(llama, 0.25f);
}

static void test_gpt2(void **state)
{
    (void)state;
    check_gradients(gpt2, 0.0f);
}

static void test_gpt2_tied_dropout(void **state)
{
    struct model_config c = gpt2;
    (void)state;
    c.tie = true;
    check_gradients(c, 0.0f);
    check_gradients(c, 0.25f);
}

static void test_params(void **state)
{
    (void)state;
    struct model *m = test_model(llama);
    assert_int_equal(m->unit_count, 4);
    assert_int_equal(m->param_count, 3 + 2 * 9);
    assert_string_equal(m->params[0].name, "lm_head.weight");
    for (uint32_t i = 0; i < m->param_count; i++) {
        const struct model_param *p = &m->params[i];
        assert_int_equal(p->offset % 16, 0);
        assert_true(i == 0 || strcmp(m->params[i - 1].name, p->name) < 0);
        const struct model_bucket *b = &m->buckets[p->role == MODEL_ROLE_EMBED ? 0 : 1 + p->unit];
        assert_true(p->offset >= b->first && p->offset + p->count <= b->first + b->floats);
        for (uint32_t j = 0; j < i; j++) { // apart from each other
            const struct model_param *q = &m->params[j];
            assert_true(q->offset + q->count <= p->offset || p->offset + p->count <= q->offset);
        }
        assert_ptr_equal(model_param_find(m, p->name), p);
        assert_int_equal(m->units[p->unit].param[p->role], i);
        assert_int_equal(p->decay, p->rank == 2);
    }
    assert_int_equal(m->bucket_count, 1 + m->unit_count);
    for (uint32_t b = 0; b < m->bucket_count; b++) {
        uint64_t next = b + 1 < m->bucket_count ? m->buckets[b + 1].first : m->floats;
        assert_int_equal(m->buckets[b].first % 16, 0);
        assert_int_equal(m->buckets[b].first + m->buckets[b].floats, next);
        assert_int_equal(m->buckets[b].unit, b > 0 ? b - 1 : 0); // untied: the rows come from the embedding
    }
    assert_null(model_param_find(m, "model.layers.2.mlp.up_proj.weight"));
    const struct model_param *k = model_param_find(m, "model.layers.1.self_attn.k_proj.weight");
    assert_int_equal(k->shape[0], 12);
    assert_int_equal(k->shape[1], 20);
    model_destroy(m);
    m = test_model(gpt2);
    const struct model_param *attn = model_param_find(m, "transformer.h.0.attn.c_attn.weight");
    assert_int_equal(attn->shape[0], 20);
    assert_int_equal(attn->shape[1], 60);
    model_destroy(m);
}

// Mean and spread of what is drawn; a tensor's values depend on its name alone, not on the model around it nor on
// lanes.
static void test_init(void **state)
{
    (void)state;
    struct model_config wide = gpt2, tied = gpt2;
    wide.dim = tied.dim = 100;
    wide.head_dim = tied.head_dim = 20;
    tied.tie = true;
    struct model *a = test_model(wide), *b = test_model(tied);
    struct bg_env *one = test_env(1), *two = test_env(2);
    float *wa = test_floats(a->floats), *wb = test_floats(b->floats);
    model_init_weights(a, one, 9, wa);
    model_init_weights(b, two, 9, wb);
    for (uint32_t i = 0; i < b->param_count; i++) {
        const struct model_param *p = &b->params[i], *same = model_param_find(a, p->name);
        assert_memory_equal(wb + p->offset, wa + same->offset, p->count * sizeof(float));
        double sum = 0.0, square = 0.0, want = p->init == MODEL_INIT_RESIDUAL ? 0.01 : 0.02; // 0.02 / sqrt(4)
        for (uint64_t e = 0; e < p->count; e++) {
            sum += (double)wb[p->offset + e];
            square += (double)wb[p->offset + e] * (double)wb[p->offset + e];
        }
        if (p->init == MODEL_INIT_ONE || p->init == MODEL_INIT_ZERO) {
            assert_true(sum == (p->init == MODEL_INIT_ONE ? (double)p->count : 0.0));
            continue;
        }
        assert_true(fabs(sqrt(square / (double)p->count) - want) <= 0.1 * want);
        assert_true(fabs(sum) <= 5.0 * want * sqrt((double)p->count));
    }
    free(wa);
    free(wb);
    model_destroy(a);
    model_destroy(b);
    os_env_destroy(one);
    os_env_destroy(two);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_params),
        cmocka_unit_test(test_init),
        cmocka_unit_test(test_llama),
        cmocka_unit_test(test_llama_tied_biases),
        cmocka_unit_test(test_llama_dropout),
        cmocka_unit_test(test_gpt2),
        cmocka_unit_test(test_gpt2_tied_dropout),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
