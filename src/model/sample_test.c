// The sampler: greedy ties, what each filter keeps, that draws follow the probabilities, and that they depend on
// nothing but logits, options and position: the same in every ISA.
#include "model/sample.h"
#include "os/live.h"

#include <math.h>
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>
#include <setjmp.h>
#include <cmocka.h>

static const struct kern *ref(void)
{
    const struct kern *tables[KERN_TABLES];
    kern_tables(0, tables);
    return tables[0];
}

static struct sample_options plain(float temperature)
{
    return (struct sample_options){.temperature = temperature, .top_p = 1.0f, .seed = 42};
}

static void test_greedy(void **state)
{
    (void)state;
    const float logits[] = {1.0f, 3.0f, -2.0f, 3.0f}, bad[] = {NAN, 1.0f, 2.0f, NAN}, worst[] = {NAN, NAN, NAN, NAN};
    const float infinite[] = {0.0f, INFINITY, INFINITY, 1.0f};
    struct sampler *s = sampler_create(ref(), 4);
    struct sample_options o = plain(0.0f);
    assert_int_equal(sampler_draw(s, logits, &o, 0), 1);
    assert_int_equal(sampler_draw(s, bad, &o, 0), 2);
    o.temperature = 0.7f;
    assert_int_equal(sampler_draw(s, infinite, &o, 0), 1);
    for (uint64_t i = 0; i < 100; i++) {
        assert_in_range(sampler_draw(s, bad, &o, i), 1, 2);
        assert_in_range(sampler_draw(s, worst, &o, i), 0, 3);
    }
    o.temperature = 1e-30f; // nearly greedy: only the two equal maxima are left
    for (uint64_t i = 0; i < 20; i++)
        assert_int_equal(sampler_draw(s, logits, &o, i) % 2, 1);
    sampler_destroy(s);
}

// Against one number after the other, over sizes around the runs that are looked at together.
static void greedy_is_the_first_of_the_largest(void **state)
{
    (void)state;
    enum { MOST = 700 };
    float logits[MOST];
    uint32_t random = 1;
    for (uint32_t round = 0; round < 4000; round++) {
        const uint32_t vocab = round < MOST ? round + 1 : 1 + round * 7919u % MOST, kinds = 1 + round % 40;
        int32_t want = 0;
        for (uint32_t i = 0; i < vocab; i++) {
            random = random * 1664525u + 1013904223u;
            const float odd[] = {NAN, -INFINITY, -0.0f, 0.0f};
            const uint32_t kind = random >> 16;
            logits[i] = kind % (kinds + 4) < 4 && round % 3 ? odd[kind % 4] : (float)(kind % kinds) - 7.0f;
            if (logits[i] > logits[want] || (isnan(logits[want]) && !isnan(logits[i])))
                want = (int32_t)i;
        }
        struct sampler *s = sampler_create(ref(), vocab);
        const struct sample_options o = plain(0.0f);
        assert_int_equal(sampler_draw(s, logits, &o, 0), want);
        sampler_destroy(s);
    }
}

enum { VOCAB = 6, DRAWS = 20000 };
// probabilities 0.4 0.1 0.2 0.2 0.05 0.05, in a shuffled order of ids
static const double wanted[VOCAB] = {0.05, 0.2, 0.4, 0.1, 0.2, 0.05};

static void check_counts(struct sample_options o, const double want[VOCAB])
{
    struct sampler *s = sampler_create(ref(), VOCAB);
    float logits[VOCAB];
    double counts[VOCAB] = {0};
    for (size_t i = 0; i < VOCAB; i++)
        logits[i] = (float)log(wanted[i]) * o.temperature + 3.0f;
    for (uint64_t i = 0; i < DRAWS; i++)
        counts[sampler_draw(s, logits, &o, i)] += 1.0 / DRAWS;
    for (size_t i = 0; i < VOCAB; i++) {
        assert_true(fabs(counts[i] - want[i]) < 0.02);
        assert_true((want[i] > 0.0) == (counts[i] > 0.0));
    }
    sampler_destroy(s);
}

static void test_filters(void **state)
{
    (void)state;
    struct sample_options o = plain(0.5f);
    check_counts(o, wanted);

    o.top_k = 2; // of the two 0.2 the lower id stays
    check_counts(o, (const double[VOCAB]){0, 1.0 / 3, 2.0 / 3, 0, 0, 0});
    o.top_k = 1;
    check_counts(o, (const double[VOCAB]){0, 0, 1, 0, 0, 0});
    o.top_k = 100;
    check_counts(o, wanted);

    o = plain(2.0f);
    o.top_p = 0.7f; // 0.4 + 0.2 do not reach it, the second 0.2 does
    check_counts(o, (const double[VOCAB]){0, 0.25, 0.5, 0, 0.25, 0});
    o.top_p = 0.0f;
    check_counts(o, (const double[VOCAB]){0, 0, 1, 0, 0, 0});

    o = plain(1.0f);
    o.top_k = 3;
    o.top_p = 0.6f; // of the renormalised 0.5, 0.25, 0.25
    check_counts(o, (const double[VOCAB]){0, 1.0 / 3, 2.0 / 3, 0, 0, 0});

    o = plain(1.0f);
    o.min_p = 0.45f;
    check_counts(o, (const double[VOCAB]){0, 0.25, 0.5, 0, 0.25, 0});
    o.min_p = 1.0f;
    check_counts(o, (const double[VOCAB]){0, 0, 1, 0, 0, 0});
    o.min_p = 7.0f;
    check_counts(o, (const double[VOCAB]){0, 0, 1, 0, 0, 0});
}

static void test_keys(void **state)
{
    (void)state;
    enum { WIDE = 1000 };
    float logits[WIDE];
    for (size_t i = 0; i < WIDE; i++)
        logits[i] = (float)((i * 2654435761u) % 1000) * 0.005f;
    struct bg_env *env = NULL;
    struct bg_error err;
    assert_int_equal(os_env_create(NULL, &err, &env), BG_OK);
    const struct kern *tables[KERN_TABLES];
    size_t count = kern_tables(env->isa, tables);
    struct sampler *s[KERN_TABLES];
    for (size_t i = 0; i < count; i++)
        s[i] = sampler_create(tables[i], WIDE);
    size_t choices = 0, seeds = 0;
    for (uint64_t position = 0; position < 300; position++) {
        struct sample_options o = {.temperature = 0.9f,
                                   .top_k = (uint32_t)(position % 3 * 400),
                                   .top_p = position % 2 ? 0.8f : 1.0f,
                                   .min_p = position % 5 ? 0.0f : 0.1f,
                                   .seed = 5};
        int32_t want = sampler_draw(s[0], logits, &o, position);
        for (size_t i = 1; i < count; i++)
            assert_int_equal(sampler_draw(s[i], logits, &o, position), want);
        o.choice = 1;
        choices += sampler_draw(s[0], logits, &o, position) != want;
        o.choice = 0;
        o.seed = 5 + (1ull << 32);
        seeds += sampler_draw(s[0], logits, &o, position) != want;
    }
    assert_true(choices > 250 && seeds > 250);
    for (size_t i = 0; i < count; i++)
        sampler_destroy(s[i]);
    os_env_destroy(env);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_greedy),
        cmocka_unit_test(greedy_is_the_first_of_the_largest),
        cmocka_unit_test(test_filters),
        cmocka_unit_test(test_keys),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
