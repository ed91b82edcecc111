// The signature: what is in it, what is not, and how a difference is named.
#include "train/signature.h"

#include "base/mem.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>
#include <string.h>

static char *text_of(const struct job *job)
{
    struct model_config config = {.family = MODEL_LLAMA,
                                  .layers = 2,
                                  .dim = 8,
                                  .heads = 2,
                                  .kv_heads = 1,
                                  .head_dim = 4,
                                  .ffn = 16,
                                  .context = 32,
                                  .vocab = 256,
                                  .tie = true,
                                  .rope_theta = 10000,
                                  .norm_eps = 1e-5};
    struct signature_parts parts = {
        .config = &config, .tokenizer_sha256 = "t", .corpus_sha256 = "c", .train_tokens = 1000, .length = 32};
    return signature_text(job, &parts);
}

static struct job job_of(void)
{
    return (struct job){.train = {.steps = 10,
                                  .micro_batch = 2,
                                  .micro_batches = 3,
                                  .lr = 0.1,
                                  .min_lr = 1e-5,
                                  .beta1 = 0.9,
                                  .beta2 = 0.95,
                                  .eps = 1e-8,
                                  .clip = 1,
                                  .seed = 7,
                                  .schedule = JOB_COSINE}};
}

static void names_differences(void **state)
{
    (void)state;
    struct job a = job_of(), b = job_of();
    b.train.lr = 3e-4;
    b.train.seed = 8;
    char *was = text_of(&a), *is = text_of(&b);
    assert_non_null(strstr(was, "class fp32/1\n"));
    assert_non_null(strstr(was, "train.lr 0.1\n"));
    assert_non_null(strstr(was, "train.betas [0.9, 0.95]\n"));
    char *difference = signature_difference(was, is);
    assert_string_equal(difference, "train.lr 0.1 -> 0.0003, train.seed 7 -> 8");
    bg_free(difference);
    assert_null(signature_difference(was, was));
    bg_free(was);
    bg_free(is);
}

static void leaves_out_what_is_physical(void **state)
{
    (void)state;
    struct job a = job_of(), b = job_of();
    b.run.threads = 3;
    b.run.group = 2;
    b.train.keep = 9;
    b.train.eval_every = 1;
    b.train.checkpoint_every = 1;
    char *was = text_of(&a), *is = text_of(&b);
    assert_string_equal(was, is);
    bg_free(is);
    // A constant rate does not depend on where it ends, a falling one does.
    b.train.steps = 20;
    is = text_of(&b);
    char *difference = signature_difference(was, is);
    assert_string_equal(difference, "train.steps 10 -> 20");
    bg_free(difference);
    bg_free(is);
    a.train.schedule = b.train.schedule = JOB_CONSTANT;
    bg_free(was);
    was = text_of(&a);
    is = text_of(&b);
    assert_null(signature_difference(was, is));
    bg_free(was);
    bg_free(is);
}

static void tells_absent_keys(void **state)
{
    (void)state;
    char *difference = signature_difference("a 1\nb 2\n", "a 1\nc 3\n");
    assert_string_equal(difference, "b 2 -> (none), c (none) -> 3");
    bg_free(difference);
}

int main(void)
{
    const struct CMUnitTest tests[] = {cmocka_unit_test(names_differences),
                                       cmocka_unit_test(leaves_out_what_is_physical),
                                       cmocka_unit_test(tells_absent_keys)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
