// The promise of the numeric contract, end to end: one job has one curve and one set of weights, whatever the threads,
// the ISA, the size and the order of groups, and wherever it is stopped and resumed. Both families, tied and untied,
// dropout on and off, micro-batch counts that are no powers of two. The last test compares with constants, so that
// every compiler, level and sanitizer is held to the same bits. The same sources build the negative controls, which
// must fail here.
// labels: bits threads golden
#include "scenario.h"

#include "kern/kern.h"

static void must_equal(const struct trainer_result *a, const struct trainer_result *b, const char *what)
{
    if (strcmp(a->curve_sha256, b->curve_sha256) != 0 || strcmp(a->weights_sha256, b->weights_sha256) != 0)
        fail_msg("IDENTITY BROKEN: %s: curve %s weights %s, expected %s %s", what, a->curve_sha256, a->weights_sha256,
                 b->curve_sha256, b->weights_sha256);
}

struct family {
    const char *name, *overrides;
};
static const struct family families[] = {
    {"llama-tied", "model.family=llama model.kv_heads=2 model.tie=true"},
    {"llama-untied", "model.family=llama model.tie=false model.bias=qkv"},
    {"gpt2-tied", "model.family=gpt2 model.tie=true"},
    {"gpt2-untied", "model.family=gpt2 model.tie=false"},
};
enum { FAMILIES = sizeof families / sizeof *families };

static const unsigned isas[] = {BG_ISA_AVX2 | BG_ISA_AVX512, BG_ISA_AVX2, BG_ISA_REF};

struct variant {
    unsigned threads, isa; // index of isas
    const char *more;
};

static void compare_variants(const char *overrides, const struct variant *variants, size_t count)
{
    char *directory = scenario_directory();
    struct trainer_result first = {0};
    for (size_t i = 0; i < count; i++) {
        struct bg_env *env = scenario_env(variants[i].threads, isas[variants[i].isa]);
        struct scenario s = {.directory = directory, .run = "run", .overrides = overrides, .more = variants[i].more};
        struct trainer_result result = scenario_must(env, &s);
        assert_true(result.finished);
        assert_int_equal(result.step_allocations, 0);
        char *what =
            bg_format("%s | threads %u isa %u %s", overrides, variants[i].threads, variants[i].isa, variants[i].more);
        if (i == 0)
            first = result;
        else
            must_equal(&result, &first, what);
        bg_free(what);
        scenario_remove(&s);
        os_env_destroy(env);
    }
    scenario_clean(directory);
}

// Groups and their order; every M around the powers of two.
static void groups_and_order(void **state)
{
    (void)state;
    static const struct variant variants[] = {
        {1, 0, "run.group=1"}, {2, 0, "run.group=1 run.order=descending"}, {1, 0, "run.group=1 run.order=shuffle:7"},
        {1, 1, "run.group=2"}, {2, 1, "run.group=2 run.order=shuffle:3"},  {3, 0, "run.group=4 run.order=descending"},
        {2, 0, "run.group=0"},
    };
    static const char *const micro_batches[] = {"1", "3", "4", "5"};
    for (size_t f = 0; f < FAMILIES; f++) {
        for (size_t m = 0; m < 4; m++) {
            char *overrides = bg_format("%s train.steps=4 train.micro_batches=%s train.dropout=%s",
                                        families[f].overrides, micro_batches[m], m % 2 ? "0.1" : "0");
            compare_variants(overrides, variants, sizeof variants / sizeof *variants);
            bg_free(overrides);
        }
    }
}

static void threads_and_isa(void **state)
{
    (void)state;
    static const struct variant variants[] = {
        {1, 0, "run.group=2"}, {2, 0, ""}, {3, 0, ""}, {1, 1, ""}, {3, 1, "run.group=1"}, {2, 2, "run.group=1"},
    };
    for (size_t f = 0; f < FAMILIES; f++) {
        char *overrides = bg_format("%s train.steps=2 train.micro_batches=3 train.dropout=0.2", families[f].overrides);
        compare_variants(overrides, variants, sizeof variants / sizeof *variants);
        bg_free(overrides);
    }
}

// Stopped after every possible step, resumed on another machine.
static void stopped_and_resumed(void **state)
{
    (void)state;
    char *directory = scenario_directory();
    struct bg_env *one = scenario_env(1, isas[0]), *two = scenario_env(2, isas[1]);
    for (size_t f = 0; f < FAMILIES; f += 3) {
        char *overrides = bg_format("%s train.steps=6 train.micro_batches=3 train.dropout=0.1 train.eval_every=2 "
                                    "train.checkpoint_every=4 train.keep=1",
                                    families[f].overrides);
        struct scenario s = {.directory = directory, .run = "whole", .overrides = overrides};
        struct trainer_result whole = scenario_must(one, &s);
        scenario_remove(&s);
        for (uint64_t stop = 1; stop < 6; stop++) {
            s = (struct scenario){.directory = directory, .run = "parts", .overrides = overrides, .stop_after = stop};
            struct trainer_result part = scenario_must(one, &s);
            assert_int_equal(part.steps, stop);
            assert_false(part.finished);
            s.resume = true;
            s.stop_after = 0;
            s.more = "run.group=1 run.order=descending";
            part = scenario_must(two, &s);
            assert_true(part.finished);
            must_equal(&part, &whole, "stopped and resumed");
            assert_true(part.valid_loss == whole.valid_loss);
            part = scenario_must(two, &s);
            assert_true(part.nothing_to_do);
            must_equal(&part, &whole, "resumed when finished");
            scenario_remove(&s);
        }
        bg_free(overrides);
    }
    os_env_destroy(one);
    os_env_destroy(two);
    scenario_clean(directory);
}

// Fine-tuning starts from the same bits whatever it is opened as.
static void model_from(void **state)
{
    (void)state;
    char *directory = scenario_directory();
    struct bg_env *env = scenario_env(2, isas[0]);
    struct scenario base = {.directory = directory, .run = "base", .overrides = "train.steps=3 train.micro_batches=2"};
    struct trainer_result first = scenario_must(env, &base);
    char *from_run = bg_format("model.from=%s/base train.steps=2 train.micro_batches=2 model.context=8", directory);
    char *from_checkpoint =
        bg_format("model.from=%s train.steps=2 train.micro_batches=2 model.context=8", first.checkpoint);
    const char *const sources[] = {from_run, from_checkpoint};
    struct trainer_result tuned[2];
    for (int i = 0; i < 2; i++) {
        struct bg_strlist list = {0};
        bg_strlist_split(&list, sources[i], ' ');
        char *run = bg_format("run.dir=%s/tuned%d", directory, i);
        bg_strlist_add(&list, run);
        char *corpus = bg_format("%s/corpus.txt", directory);
        struct job job;
        struct bg_error err = {0};
        if (job_load(env, corpus, (const char *const *)list.items, list.count, &err, &job))
            fail_msg("%s", err.text);
        struct trainer_options options = {.job = &job};
        if (trainer_run(env, &options, &err, &tuned[i]))
            fail_msg("%s", err.text);
        job_fini(&job);
        bg_free(corpus);
        bg_free(run);
        bg_strlist_fini(&list);
    }
    must_equal(&tuned[1], &tuned[0], "model.from a run and its checkpoint");
    assert_string_not_equal(tuned[0].weights_sha256, first.weights_sha256);
    bg_free(from_run);
    bg_free(from_checkpoint);
    os_env_destroy(env);
    scenario_clean(directory);
}

// The bits themselves, on a corpus that tools/corpus makes on any machine.
struct golden {
    const char *overrides, *curve, *weights;
};
static const struct golden goldens[] = {
    {"model.family=llama model.kv_heads=2 train.micro_batches=3 train.steps=8 train.dropout=0.1",
     "761fc3f71995b6d33c3202e5f497cf823b0ade7132600a1fdd66edad9bc6b895",
     "28cfc22eefa564675f4c1a7d8d6942be4b3d9e9f0957ccf8652439fa46c8b34e"},
    {"model.family=gpt2 model.tie=false train.micro_batches=5 train.steps=8 train.dropout=0.1",
     "843a285845c6315961b95009d3c178cb946f0e100fa600045476145917338246",
     "d6c4c7dba8419b9ab58cab9fcdcb778d2d6dbfc08cd4f7944e06fc0c2d2c3d1c"},
};

static void pinned_bits(void **state)
{
    (void)state;
    char *directory = scenario_directory();
    char *command = bg_format("%s/tools/corpus 20000 1 > %s/corpus.txt", BRIGADE_SOURCE_DIR, directory);
    if (system(command) != 0)
        fail_msg("%s failed; it needs python3", command);
    struct bg_env *env = scenario_env(2, isas[0]);
    for (size_t i = 0; i < sizeof goldens / sizeof *goldens; i++) {
        struct scenario s = {.directory = directory, .run = "golden", .overrides = goldens[i].overrides};
        struct trainer_result result = scenario_must(env, &s), expected = {0};
        snprintf(expected.curve_sha256, sizeof expected.curve_sha256, "%s", goldens[i].curve);
        snprintf(expected.weights_sha256, sizeof expected.weights_sha256, "%s", goldens[i].weights);
        must_equal(&result, &expected, goldens[i].overrides);
        scenario_remove(&s);
    }
    os_env_destroy(env);
    bg_free(command);
    scenario_clean(directory);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(pinned_bits),         cmocka_unit_test(groups_and_order), cmocka_unit_test(threads_and_isa),
        cmocka_unit_test(stopped_and_resumed), cmocka_unit_test(model_from),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
