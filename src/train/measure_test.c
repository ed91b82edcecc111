// The measurement on a small job: every number is there and of a size that a machine has; what was not measured is
// interpolated; sizes are the model's; sums on a plan's way are those of the canonical tree.
#include "train/measure.h"

#include "base/mem.h"
#include "base/philox.h"
#include "os/live.h"
#include "plan/cost/timeline.h"
#include "plan/cost/timeline_int.h"
#include "plan/split/sync.h"
#include "tensor/tree.h"
#include "train/estimate.h"

#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>
#include <cmocka.h>

struct fake_log {
    struct store base;
    uint32_t appended;
};

static bg_status append(struct store *store, const struct store_record *record, struct bg_error *err)
{
    struct fake_log *log = (struct fake_log *)store;
    (void)err;
    log->appended += record->kind == STORE_COMMIT;
    return BG_OK;
}

static void a_small_job_is_measured(void **state)
{
    (void)state;
    struct bg_env *env = NULL;
    struct bg_error err;
    assert_int_equal(os_env_create(&(struct os_options){.threads = 2, .keep_caller = true}, &err, &env), BG_OK);
    const struct model_config config = {.family = MODEL_GPT2,
                                        .layers = 5,
                                        .dim = 32,
                                        .heads = 2,
                                        .kv_heads = 2,
                                        .head_dim = 16,
                                        .ffn = 128,
                                        .context = 32,
                                        .vocab = 300,
                                        .tie = true,
                                        .norm_eps = 1e-5,
                                        .bos = -1,
                                        .eos = -1};
    static const struct store_ops ops = {.append = append};
    struct fake_log log = {{&ops}, 0};
    const struct measure_options options = {.config = &config,
                                            .optim = {0.9, 0.95, 1e-8, 0.1, 1},
                                            .batch = 2,
                                            .length = 32,
                                            .micro_batches = 8,
                                            .cpus = 3,
                                            .seconds = 0.5,
                                            .scratch = ".",
                                            .log = &log.base};
    struct measure *m = bg_alloc(sizeof *m);
    if (measure_machine(env, &options, &err, m))
        fail_msg("%s", err.text);
    assert_true(log.appended > 0);
    assert_true(m->costs.count >= 3 * 4);
    double before = 0;
    for (uint32_t group = 1; group <= 8; group++) {
        struct plan_profile p = {0};
        if (measure_profile(m, group, 3, 3, &err, &p))
            fail_msg("%s", err.text);
        assert_int_equal(p.unit_count, 7);
        assert_int_equal(p.machine_count, 3);
        assert_true(p.machines[2].cores >= 1 && p.machines[2].cores <= 3 && p.machines[2].threads == 2 &&
                    p.machines[2].host == 0);
        double seconds = 0;
        for (uint32_t u = 0; u < 7; u++) {
            const struct plan_unit *unit = &p.units[u];
            assert_int_equal(unit->kind, u == 0 ? PLAN_UNIT_EMBED : u == 6 ? PLAN_UNIT_HEAD : PLAN_UNIT_BLOCK);
            seconds += group * (unit->forward_s + unit->input_s + unit->weight_s);
            assert_true(u == 0 || (unit->forward_s > 0 && unit->input_s > 0 && unit->weight_s > 0));
            assert_true((unit->stash_bytes > 0) == (u > 0) && (unit->cut_bytes > 0) == (u < 6));
        }
        assert_true(seconds > 1e-6 && seconds < 10);
        before = group == 1 ? seconds : before;
        assert_true(p.units[1].parameter_bytes == 4 * (12 * 32 * 32 + 13 * 32));
        assert_true(p.tie_bytes == 4 * 300 * 32 && p.units[6].parameter_bytes >= p.tie_bytes);
        assert_true(p.units[1].cut_bytes == 2 * 32 * 32 * 4);
        assert_true(p.disk_byte_s > 0 && p.disk_byte_s < 1e-6);
        assert_true(p.step_byte_s > 0 && p.step_byte_s < 1e-6 && p.reduce_byte_s > 0 && p.message_s > 0);
        assert_true(p.commit_s > 0 && p.commit_s < 0.1 && p.inner.latency_s >= 0 && p.inner.latency_s < 0.1);
        char *text = plan_profile_format(&p);
        struct plan_profile again;
        assert_int_equal(plan_profile_parse(text, strlen(text), &err, &again), BG_OK);
        plan_profile_fini(&again);
        plan_profile_fini(&p);
        bg_free(text);
    }
    struct plan_profile p;
    assert_int_equal(measure_profile(m, 0, 1, 1, &err, &p), BG_INVALID);
    assert_int_equal(measure_profile(m, 1, 0, 1, &err, &p), BG_INVALID);
    bg_free(m);
    os_env_destroy(env);
}

// A width for which there is no time is priced from narrower ones.
static void wide_models_are_priced_from_narrower_ones(void **state)
{
    (void)state;
    struct bg_env *env = NULL;
    struct bg_error err;
    assert_int_equal(os_env_create(&(struct os_options){.threads = 1, .keep_caller = true}, &err, &env), BG_OK);
    const struct model_config config = {.family = MODEL_LLAMA,
                                        .layers = 80,
                                        .dim = 1024,
                                        .heads = 8,
                                        .kv_heads = 8,
                                        .head_dim = 128,
                                        .ffn = 2816,
                                        .context = 64,
                                        .vocab = 300,
                                        .rope_theta = 10000,
                                        .norm_eps = 1e-5,
                                        .bos = -1,
                                        .eos = -1};
    const struct measure_options options = {.config = &config,
                                            .optim = {0.9, 0.95, 1e-8, 0.1, 1},
                                            .batch = 1,
                                            .length = 64,
                                            .micro_batches = 8,
                                            .cpus = 3,
                                            .seconds = 0.3};
    struct measure *m = bg_alloc(sizeof *m);
    struct plan_profile p;
    if (measure_machine(env, &options, &err, m) || measure_profile(m, 2, 1, 1, &err, &p))
        fail_msg("%s", err.text);
    for (uint32_t i = 0; i < m->costs.count; i++)
        assert_true(m->costs.samples[i].width < 1024);
    assert_int_equal(p.unit_count, 82);
    assert_true(p.units[80].parameter_bytes == 4.0 * (4 * 1024 * 1024 + 3 * 1024 * 2816 + 2 * 1024));
    const double gflops = 2e-9 * 64 * (4 * 1024 * 1024 + 3 * 1024 * 2816) / p.units[40].forward_s;
    if (!(gflops > 0.1 && gflops < 10000))
        fail_msg("%g gflops: forward %g s, samples %u", gflops, p.units[40].forward_s, m->costs.count);
    plan_profile_fini(&p);
    bg_free(m);
    os_env_destroy(env);
}

// plan/ counts sums without knowing tensor/: it has to agree with the set that workers use.
static void sums_are_those_of_the_tree(void **state)
{
    (void)state;
    const struct bg_philox_key key = bg_philox_key(9, 2);
    for (uint32_t round = 0; round < 2000; round++) {
        const uint32_t leaves = 1 + round % 33;
        uint32_t order[33], left = leaves, peak = 0;
        for (uint32_t i = 0; i < leaves; i++)
            order[i] = i;
        struct plan_sums sums = {0};
        struct tree_set set;
        tree_set_init(&set, leaves, TREE_SLOTS_MAX);
        const uint32_t stop = round % 3 ? 0 : leaves / 3; // a part of them
        for (uint32_t draw = 0; left > stop; draw++) {
            const uint32_t at = bg_philox((struct bg_philox_counter){{round, draw}}, key).c[0] % left;
            const uint32_t leaf = round % 5 ? order[at] : order[0];
            struct tree_node node = {0, leaf};
            struct tree_place place;
            struct tree_fold folds[32];
            for (uint32_t i = 0; i < left; i++)
                if (order[i] == leaf) {
                    memmove(order + i, order + i + 1, (left - i - 1) * sizeof *order);
                    break;
                }
            left--;
            assert_int_equal(tree_set_place(&set, node, NULL, &place), BG_OK);
            peak = place.slot + 1 > peak ? (uint32_t)place.slot + 1 : peak;
            assert_int_equal(plan_sums_add(&sums, (struct plan_item){leaf, leaf + 1}, leaves),
                             tree_set_done(&set, node, place, folds));
            uint32_t held = 0;
            for (size_t i = 0; i < TREE_SLOTS_MAX; i++)
                held += set.held[i];
            assert_int_equal(sums.count, held);
        }
        assert_int_equal(sums.peak, peak);
    }
}

// What run.plan=auto goes by and what is measured take the same memory; of a tied table there is one where one machine
// has all units.
static void estimates_count_the_same_bytes(void **state)
{
    (void)state;
    struct bg_env *env = NULL;
    struct bg_error err;
    assert_int_equal(os_env_create(&(struct os_options){.threads = 2, .keep_caller = true}, &err, &env), BG_OK);
    double whole = 0; // stash without split and slices
    for (uint32_t round = 0; round < 12; round++) {
        struct measure m = {.config = {.family = MODEL_GPT2,
                                       .layers = 3,
                                       .dim = 32,
                                       .heads = 2,
                                       .kv_heads = 2,
                                       .head_dim = 16,
                                       .ffn = 128,
                                       .context = 32,
                                       .vocab = 300,
                                       .tie = round & 1,
                                       .norm_eps = 1e-5,
                                       .bos = -1,
                                       .eos = -1},
                            .batch = 2,
                            .length = 32,
                            .micro_batches = 4,
                            .split = round & 2,
                            .slices = round / 4,
                            .threads = 2,
                            .kern = kern_select(env->isa)};
        const uint32_t group = round % 3 ? 4 : 1;
        const double costs[] = {1, 2, 2, 2, 3};
        const struct estimate_options o = {.kern = m.kern,
                                           .batch = m.batch,
                                           .length = m.length,
                                           .micro_batches = m.micro_batches,
                                           .group = group,
                                           .workers = 1,
                                           .threads = 2,
                                           .split = m.split,
                                           .slices = m.slices,
                                           .costs = costs};
        struct model *model = NULL;
        struct plan_profile measured, estimated;
        struct plan_sync sync;
        assert_int_equal(model_create(&m.config, &err, &model), BG_OK);
        assert_int_equal(measure_profile(&m, group, 1, 2, &err, &measured), BG_OK);
        estimate_profile(model, &o, &estimated);
        double stash = 0;
        assert_int_equal(estimated.unit_count, 5);
        for (uint32_t u = 0; u < 5; u++) {
            const struct plan_unit *a = &measured.units[u], *b = &estimated.units[u];
            assert_true(a->kind == b->kind && a->parameter_bytes == b->parameter_bytes &&
                        a->gradient_bytes == b->gradient_bytes && a->stash_bytes == b->stash_bytes &&
                        a->cut_bytes == b->cut_bytes);
            assert_true(b->forward_s > 0);
            stash += b->stash_bytes;
        }
        whole = round ? whole : stash;
        assert_true(m.split || m.slices > 1 ? stash > 1.2 * whole : stash == whole); // gradients of outputs as well
        assert_true(measured.tie_bytes == estimated.tie_bytes && (estimated.tie_bytes > 0) == m.config.tie);
        assert_true(measured.work_bytes == estimated.work_bytes && measured.process_bytes == estimated.process_bytes);
        assert_true(estimated.work_bytes > 0 && estimated.process_bytes > 0);
        const struct plan_sync_options options = {.micro_batches = group, .group = group};
        assert_int_equal(plan_sync_solve(&estimated, &options, &err, &sync), BG_OK);
        const double wanted = estimated.process_bytes + 16.0 * (double)model->elements +
                              group * (estimated.work_bytes + stash); // one item in flight
        assert_true(fabs(sync.choices[0].seats[0].memory_bytes - wanted) < 1e-6 * wanted);
        plan_sync_fini(&sync);
        plan_profile_fini(&measured);
        plan_profile_fini(&estimated);
        model_destroy(model);
    }
    os_env_destroy(env);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(a_small_job_is_measured),
        cmocka_unit_test(wide_models_are_priced_from_narrower_ones),
        cmocka_unit_test(estimates_count_the_same_bytes),
        cmocka_unit_test(sums_are_those_of_the_tree),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
