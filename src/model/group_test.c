// Bits: losses and gradients of a step must not show how it was computed: how many micro-batches at once, fused or
// split backward, joined or folded siblings, lanes, ISA. Compared by memcmp, every tensor, both families, dropout on
// and off.
#include "model/step_test.h"

#include <stdarg.h>
#include <setjmp.h>
#include <cmocka.h>

enum { BATCH = 2, LENGTH = 37, MICRO_BATCHES_MAX = 5, TOKENS = BATCH * LENGTH * MICRO_BATCHES_MAX };

static const struct model_config llama = {.family = MODEL_LLAMA,
                                          .layers = 2,
                                          .dim = 40,
                                          .heads = 4,
                                          .kv_heads = 2,
                                          .head_dim = 10,
                                          .ffn = 70,
                                          .context = 40,
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
                                         .context = 40,
                                         .vocab = 101,
                                         .norm_eps = 1e-5,
                                         .bos = -1,
                                         .eos = -1};

static void check_same(const struct step *s, const struct step_result *want, const char *what)
{
    struct step_result got = step_run(s);
    size_t tokens = (size_t)s->micro_batches * BATCH * LENGTH;
    if (memcmp(got.losses, want->losses, tokens * sizeof(double)))
        fail_msg("%s: losses differ", what);
    for (uint32_t i = 0; i < s->model->param_count; i++) {
        const struct model_param *p = &s->model->params[i];
        if (memcmp(got.grad.dense + p->offset, want->grad.dense + p->offset, p->count * sizeof(float)))
            fail_msg("%s: %s differs (group %u, %u micro-batches)", what, p->name, s->group, s->micro_batches);
    }
    step_result_free(&got);
}

static void check_groupings(const struct step *base, const struct step_result *want)
{
    for (uint32_t group = 1; group <= 8; group *= 2) {
        struct step s = *base;
        s.group = group;
        check_same(&s, want, "group");
        s.joined = true;
        check_same(&s, want, "joined");
        s.split = true;
        check_same(&s, want, "split");
    }
}

static void check_machines(const struct step *base, const struct step_result *want)
{
    const struct kern *tables[KERN_TABLES];
    size_t count = kern_tables(base->env->isa, tables);
    for (size_t i = 0; i < count; i++) {
        struct step s = *base;
        s.kern = tables[i];
        s.group = 4;
        check_same(&s, want, tables[i]->isa);
    }
    for (unsigned threads = 1; threads <= 3; threads++) {
        struct step s = *base;
        s.group = 2;
        s.env = test_env(threads);
        check_same(&s, want, "lanes");
        os_env_destroy(s.env);
    }
}

// Evaluation keeps nothing and takes its logits in pieces: same losses. A step allocates nothing of the room's own.
static void check_evaluation(const struct step *base, const struct step_result *want)
{
    const struct model *m = base->model;
    uint32_t count = base->micro_batches;
    size_t rows = (size_t)count * BATCH * LENGTH, dim = m->config.dim;
    void *lanes[2];
    for (unsigned i = 0; i < 2; i++)
        lanes[i] = test_memory(model_scratch_bytes(m, base->kern, BATCH, LENGTH, count, false));
    struct model_run run = {.model = m,
                            .kern = base->kern,
                            .env = base->env,
                            .weights = base->weights,
                            .lane_scratch = lanes,
                            .batch = BATCH,
                            .length = LENGTH,
                            .count = count,
                            .tokens = base->tokens,
                            .targets = base->targets};
    float *x = test_floats(rows * dim), *y = test_floats(rows * dim);
    float *work = test_floats(model_work_floats(m, BATCH, LENGTH, count, false));
    double *losses = test_memory(rows * sizeof *losses);
    uint64_t allocations = bg_mem_count();
    for (uint32_t u = 0; u < m->unit_count; u++) {
        assert_int_equal(model_stash_floats(m, u, BATCH, LENGTH, count, false, false), 0);
        model_forward(&run, u, y, x, NULL, work, losses);
        float *swap = x;
        x = y;
        y = swap;
    }
    assert_memory_equal(losses, want->losses, rows * sizeof *losses);
    struct step s = *base;
    struct step_result again = step_run(&s);
    assert_int_equal(bg_mem_count(), allocations);
    step_result_free(&again);
    free(x);
    free(y);
    free(work);
    free(losses);
    free(lanes[0]);
    free(lanes[1]);
}

static void check_model(struct model_config config, float dropout, uint32_t micro_batches)
{
    int32_t tokens[TOKENS], targets[TOKENS];
    struct bg_env *env = test_env(2);
    struct model *model = test_model(config);
    float *weights = test_weights(model, env, 0.1f);
    test_tokens(tokens, targets, TOKENS, config.vocab);
    struct step base = {.model = model,
                        .kern = kern_select(env->isa),
                        .env = env,
                        .weights = weights,
                        .batch = BATCH,
                        .length = LENGTH,
                        .micro_batches = micro_batches,
                        .group = 1,
                        .dropout = dropout,
                        .tokens = tokens,
                        .targets = targets};
    struct step_result want = step_run(&base);
    check_groupings(&base, &want);
    check_machines(&base, &want);
    if (!(dropout > 0.0f))
        check_evaluation(&base, &want);
    step_result_free(&want);
    free(weights);
    model_destroy(model);
    os_env_destroy(env);
}

static void test_llama(void **state)
{
    struct model_config tied = llama;
    (void)state;
    tied.tie = true;
    check_model(llama, 0.0f, 5);
    check_model(tied, 0.2f, 3);
}

static void test_gpt2(void **state)
{
    struct model_config tied = gpt2;
    (void)state;
    tied.tie = true;
    check_model(gpt2, 0.2f, 5);
    check_model(tied, 0.0f, 4);
}

// The embedding's gradient against NUMERICS 10 written down plainly: a dense table a leaf, presence flags, the tree.
static void sum_tree(const float *dx, const int32_t *tokens, size_t dim, uint32_t first, uint32_t count, float *out,
                     bool *there)
{
    size_t leaf = BATCH * LENGTH;
    enum { VOCAB = 101 };
    if (count == 1) {
        for (size_t r = first * leaf; r < (first + 1) * leaf; r++) {
            float *row = out + (size_t)tokens[r] * dim;
            for (size_t d = 0; d < dim; d++)
                row[d] = (there[tokens[r]] ? row[d] : 0.0f) + dx[r * dim + d];
            there[tokens[r]] = true;
        }
        return;
    }
    uint32_t left = test_left(count);
    float *right = calloc(VOCAB * dim, sizeof *right);
    bool right_there[VOCAB] = {false};
    sum_tree(dx, tokens, dim, first, left, out, there);
    sum_tree(dx, tokens, dim, first + left, count - left, right, right_there);
    for (size_t t = 0; t < VOCAB; t++) {
        for (size_t d = 0; d < dim && right_there[t]; d++)
            out[t * dim + d] = there[t] ? out[t * dim + d] + right[t * dim + d] : right[t * dim + d];
        there[t] |= right_there[t];
    }
    free(right);
}

static void test_embedding(void **state)
{
    (void)state;
    enum { ROWS = TOKENS, DIM = 36, VOCAB = 101 };
    static float dx[ROWS * DIM], want[VOCAB * DIM];
    int32_t tokens[ROWS], targets[ROWS];
    bool there[VOCAB] = {false};
    struct bg_env *env = test_env(2);
    struct model *model = test_model(gpt2);
    test_tokens(tokens, targets, ROWS, VOCAB);
    for (size_t i = 0; i < ROWS * DIM; i++)
        dx[i] = (float)((i * 2654435761u >> 7) % 1000) * 0.001f - 0.5f;
    sum_tree(dx, tokens, DIM, 0, MICRO_BATCHES_MAX, want, there);

    void *lanes[2] = {test_memory(embed_scratch_bytes(model, 8)), test_memory(embed_scratch_bytes(model, 8))};
    struct model_run run = {.model = model,
                            .kern = kern_select(env->isa),
                            .env = env,
                            .lane_scratch = lanes,
                            .batch = BATCH,
                            .length = LENGTH,
                            .count = MICRO_BATCHES_MAX,
                            .tokens = tokens};
    float *work = test_floats(model_work_floats(model, BATCH, LENGTH, MICRO_BATCHES_MAX, true));
    struct model_grad grad = test_grad(model, VOCAB);
    model_backward(&run, 0, MODEL_BACKWARD_BOTH, dx, NULL, work, work, &grad, false);
    for (size_t t = 0, i = 0; t < VOCAB; t++) {
        bool listed = i < grad.embed.count && (size_t)grad.embed.ids[i] == t;
        assert_int_equal(listed, there[t]);
        if (listed)
            assert_memory_equal(grad.embed.rows + i * DIM, want + t * DIM, DIM * sizeof(float));
        i += listed;
    }
    test_grad_free(&grad);
    free(work);
    free(lanes[0]);
    free(lanes[1]);
    model_destroy(model);
    os_env_destroy(env);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_embedding),
        cmocka_unit_test(test_llama),
        cmocka_unit_test(test_gpt2),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
