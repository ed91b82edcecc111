// Bits: a step whose forward and input gradients run slice by slice is the step in one go, every tensor and loss,
// whatever the number of slices, the family, grouped heads, dropout, the group, the ISA. Memory is NaN until written,
// so a slice that reads what is not there yet shows.
#include "model/step_test.h"

#include <stdarg.h>
#include <setjmp.h>
#include <cmocka.h>

enum { BATCH = 2, LENGTH = 219, MICRO_BATCHES = 3, TOKENS = BATCH * LENGTH * MICRO_BATCHES };

static const struct model_config llama = {.family = MODEL_LLAMA,
                                          .layers = 2,
                                          .dim = 24,
                                          .heads = 4,
                                          .kv_heads = 2,
                                          .head_dim = 6,
                                          .ffn = 20,
                                          .context = LENGTH,
                                          .vocab = 67,
                                          .tie = true,
                                          .rope_theta = 10000.0,
                                          .norm_eps = 1e-5,
                                          .bos = -1,
                                          .eos = -1};
static const struct model_config gpt2 = {.family = MODEL_GPT2,
                                         .layers = 2,
                                         .dim = 24,
                                         .heads = 2,
                                         .kv_heads = 2,
                                         .head_dim = 12,
                                         .ffn = 20,
                                         .context = LENGTH + 3,
                                         .vocab = 71,
                                         .norm_eps = 1e-5,
                                         .bos = -1,
                                         .eos = -1};

static bool same(const struct step *s, const struct step_result *want)
{
    struct step_result got = step_run(s);
    bool equal = memcmp(got.losses, want->losses, TOKENS * sizeof(double)) == 0;
    for (uint32_t i = 0; i < s->model->param_count; i++) {
        const struct model_param *p = &s->model->params[i];
        equal &= memcmp(got.grad.dense + p->offset, want->grad.dense + p->offset, p->count * sizeof(float)) == 0;
    }
    step_result_free(&got);
    return equal;
}

static void check_model(struct model_config config, float dropout)
{
    static int32_t tokens[TOKENS], targets[TOKENS];
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
                        .micro_batches = MICRO_BATCHES,
                        .group = 1,
                        .dropout = dropout,
                        .tokens = tokens,
                        .targets = targets};
    const struct kern *tables[KERN_TABLES];
    struct step_result want = step_run(&base);
    for (size_t t = kern_tables(env->isa, tables); t-- > 0;)
        for (uint32_t slices = 1; slices <= 4; slices++) {
            struct step s = base;
            s.kern = tables[t];
            s.split = true;
            s.slices = slices;
            s.group = slices == 4 ? 2 : 1;
            if ((s.kern == base.kern || slices == 3) && !same(&s, &want))
                fail_msg("%s: %u slices differ", tables[t]->isa, slices);
            s.ascending = true; // the control: keys would not know the rows behind
            if (s.kern == base.kern && slices == 3 && same(&s, &want))
                fail_msg("%s: slices of the backward may run in any order?", tables[t]->isa);
        }
    step_result_free(&want);
    free(weights);
    model_destroy(model);
    os_env_destroy(env);
}

static void test_llama(void **state)
{
    (void)state;
    struct model_config untied = llama;
    untied.tie = false;
    untied.kv_heads = 1;
    untied.qkv_bias = true;
    check_model(llama, 0.2f);
    check_model(untied, 0.0f);
}

static void test_gpt2(void **state)
{
    (void)state;
    struct model_config tied = gpt2;
    tied.tie = true;
    check_model(gpt2, 0.2f);
    check_model(tied, 0.0f);
}

int main(void)
{
    const struct CMUnitTest tests[] = {cmocka_unit_test(test_llama), cmocka_unit_test(test_gpt2)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
