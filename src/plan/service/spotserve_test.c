// SpotServe: the optimizer against all configurations priced another way, with its authors' profile of a model of 6.7
// billion weights on T4; places against all permutations; moves replayed machine by machine.
#include "plan/service/spotserve.h"

#include "base/philox.h"

#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdbool.h>
#include <string.h>
#include <cmocka.h>

#define published plan_spotserve_published

static uint32_t drawn(uint32_t seed, uint32_t index)
{
    return bg_philox((struct bg_philox_counter){{index}}, (struct bg_philox_key){{seed, 13}}).c[0];
}

static void by_hand(void **state)
{
    (void)state;
    struct plan_spotserve_config c;
    struct bg_error err;
    assert_int_equal(plan_spotserve_solve(&published, 3, 8, 1, 128, &err, &c), BG_OK);
    assert_int_equal(c.replicas, 0); // does not fit
    assert_int_equal(plan_spotserve_solve(&published, 4, 1, 0, 128, &err, &c), BG_OK);
    // Four wide, one stage: 32 layers of 19.567 ms, 128 tokens of 32 x 1.056, embeddings twice, times 1.1.
    assert_true(c.width == 4 && c.stages == 1 && c.replicas == 1 && c.batch == 1);
    assert_true(fabs(c.latency_ms - (32 * 19.567 + 128 * 32 * 1.056 + 2 * 0.298) * 1.1) < 1e-9);
    // How far a batch gets: 688.8 ms of prompts, 37.2 ms a token.
    assert_int_equal(plan_spotserve_steps(&c, 0.5, 128), 0);
    assert_int_equal(plan_spotserve_steps(&c, 0.7, 128), 1);
    assert_int_equal(plan_spotserve_steps(&c, 1.0, 128), (int)((1000 - 688.7584) / 37.1712 + 1));
    assert_int_equal(plan_spotserve_steps(&c, 30, 128), 128);
    assert_int_equal(plan_spotserve_steps(&c, 0, 128), 0);
}

// Every tuple from 1 up, with none of the loops' order: what counts is the least latency, or the highest rate.
static void against_every_configuration(void **state)
{
    (void)state;
    for (uint32_t seed = 0; seed < 60; seed++) {
        const uint32_t machines = 1 + drawn(seed, 0) % 48, tokens = 1 + drawn(seed, 1) % 200,
                       most = 1U << drawn(seed, 2) % 4;
        const double rate = (double)(drawn(seed, 3) % 100) / 30;
        struct plan_spotserve_config c;
        struct bg_error err;
        assert_int_equal(plan_spotserve_solve(&published, machines, most, rate, tokens, &err, &c), BG_OK);
        double latency = INFINITY, highest = 0;
        for (uint32_t w = 0; w < 5; w++) {
            for (uint32_t p = 1; p <= machines; p++) {
                for (uint32_t b = 0; 1U << b <= most; b++) {
                    for (uint32_t m = 0; m < (b + 1) * (b + 1); m++) {
                        const uint32_t a = m % (b + 1), d = m / (b + 1);
                        if (p << w > machines || p << w < 4 || machines < 4 || 36 % p || p < (4 + (1U << w) - 1) >> w)
                            continue;
                        const double deep = ceil(32.0 / p), one = published.prompt_ms[w][b - a] / (1 << a);
                        const double prompts = deep * one * (p + (1 << a) - 1) + 5.3 * (p - 1) / (1 << a);
                        const double token =
                            deep * published.token_ms[w][b - d] * (p + (1 << d) - 1) + 0.07 * (p - 1) / (1 << d);
                        const double all = 1.1 * (prompts + tokens * token + 2 * published.embed_ms[b]);
                        const double throughput = floor(machines / (double)(p << w)) * (1 << b) * 1000 / all;
                        highest = fmax(highest, throughput);
                        if (throughput >= rate)
                            latency = fmin(latency, all);
                    }
                }
            }
        }
        assert_true((c.replicas > 0) == (highest > 0));
        if (latency < INFINITY) {
            assert_true(fabs(c.latency_ms - latency) < 1e-6 * latency && c.rate >= rate);
            const double one = c.rate / c.replicas;
            assert_true(one * c.replicas_needed >= rate - 1e-6);
            assert_true(c.replicas_needed == 1 || one * (c.replicas_needed - 1) < rate);
        } else if (c.replicas) {
            assert_true(fabs(c.rate - highest) < 1e-6 * highest);
        }
    }
}

// ---- Places ----

static double best_of_all(const double *weight, uint32_t rows, uint32_t columns, uint32_t row, uint32_t taken)
{
    double best = row == rows ? 0 : -INFINITY;
    for (uint32_t j = 0; row < rows && j < columns; j++)
        if (!(taken >> j & 1))
            best = fmax(best, weight[row * columns + j] + best_of_all(weight, rows, columns, row + 1, taken | 1U << j));
    return best;
}

static const struct plan_spotserve_shape shapes[] = {{1, 2, 2, 12, 64}, {2, 2, 1, 12, 64}, {1, 1, 4, 12, 64},
                                                     {1, 3, 2, 12, 64}, {3, 1, 2, 12, 64}, {1, 6, 1, 12, 64},
                                                     {1, 4, 1, 12, 64}, {2, 1, 2, 12, 64}};

// Machines of the old shape in a drawn order, some of them gone and some new.
static uint32_t draw_places(uint32_t seed, const struct plan_spotserve_shape *shape,
                            struct plan_spotserve_place *places)
{
    const uint32_t count = shape->replicas * shape->stages * shape->width;
    uint32_t machines = 0;
    for (uint32_t i = 0; i < count; i++) {
        if (drawn(seed, 40 + i) % 4 == 0)
            continue;
        const uint32_t at = machines ? drawn(seed, 60 + i) % (machines + 1) : 0;
        places[machines++] = places[at];
        places[at] = (struct plan_spotserve_place){i / (shape->stages * shape->width), i / shape->width % shape->stages,
                                                   i % shape->width};
    }
    while (machines < 7)
        places[machines++] = (struct plan_spotserve_place){PLAN_SPOTSERVE_NOBODY, 0, 0};
    return machines;
}

static void as_much_stays_as_can(void **state)
{
    (void)state;
    for (uint32_t seed = 0; seed < 150; seed++) {
        const struct plan_spotserve_shape *from = &shapes[drawn(seed, 0) % 8], *to = &shapes[drawn(seed, 1) % 8];
        struct plan_spotserve_place places[16];
        const uint32_t machines = draw_places(seed, from, places), count = to->replicas * to->stages * to->width;
        const double cache = seed % 2 ? 100 : 0;
        uint32_t machine_of[16];
        double stays, weight[128];
        struct bg_error err;
        assert_int_equal(plan_spotserve_map(from, places, machines, to, cache, &err, machine_of, &stays), BG_OK);
        for (uint32_t i = 0; i < count; i++) {
            const uint32_t replica = i / (to->stages * to->width), stage = i / to->width % to->stages,
                           rank = i % to->width;
            for (uint32_t m = 0; m < machines; m++) { // layer by layer, in fractions
                double elements = 0;
                for (uint32_t l = 0; l < 12 && places[m].replica != PLAN_SPOTSERVE_NOBODY; l++) {
                    if (l / (12 / to->stages) != stage || l / (12 / from->stages) != places[m].stage)
                        continue;
                    const double lo = fmax((double)rank / to->width, (double)places[m].rank / from->width);
                    const double hi = fmin((rank + 1.0) / to->width, (places[m].rank + 1.0) / from->width);
                    const double kept = places[m].replica == replica ? cache : 0;
                    elements += 64 * (6 + (12 * 64 + 7 + kept) * fmax(0, hi - lo));
                }
                weight[i * machines + m] = elements;
                const struct plan_spotserve_place new = {replica, stage, rank};
                assert_true(fabs(plan_spotserve_reusable(from, places[m], to, new, cache) - elements) < 1e-6);
            }
        }
        assert_true(fabs(stays - best_of_all(weight, count, machines, 0, 0)) < 1e-6);
    }
    struct bg_error err;
    uint32_t machine_of[16];
    double stays;
    struct plan_spotserve_place one = {0, 0, 0};
    assert_int_equal(plan_spotserve_map(&shapes[0], &one, 1, &shapes[0], 0, &err, machine_of, &stays), BG_INVALID);
}

// Every machine ends with its new place, from senders that had it; the senders take turns; memory is kept or said.
static void moves_replayed(void **state)
{
    (void)state;
    for (uint32_t seed = 0; seed < 150; seed++) {
        const struct plan_spotserve_shape *from = &shapes[drawn(seed, 0) % 8], *to = &shapes[drawn(seed, 1) % 8];
        struct plan_spotserve_place places[16];
        const uint32_t machines = draw_places(seed, from, places), count = to->replicas * to->stages * to->width;
        uint32_t machine_of[16], arrived[16][12] = {{0}};
        double stays;
        struct bg_error err;
        assert_int_equal(plan_spotserve_map(from, places, machines, to, 0, &err, machine_of, &stays), BG_OK);
        struct plan_spotserve_moves moves, tight;
        plan_spotserve_migrate(from, places, machines, to, machine_of, 0, &moves);
        plan_spotserve_migrate(from, places, machines, to, machine_of, 900, &tight);
        assert_int_equal(moves.late, 0);
        assert_true(tight.slices_peak <= moves.slices_peak || tight.late);
        for (uint32_t i = 0; i < moves.count; i++) {
            const struct plan_spotserve_transfer *t = &moves.transfers[i];
            assert_true(!i || t->layer >= moves.transfers[i - 1].layer); // from the front
            assert_true(t->to < machines && t->from != t->to);
            if (t->from != PLAN_SPOTSERVE_NOBODY)
                assert_int_equal(places[t->from].stage, t->layer / (12 / from->stages));
            arrived[t->to][t->layer] += t->slices;
        }
        for (uint32_t i = 0; i < count; i++) {
            const uint32_t m = machine_of[i], stage = i / to->width % to->stages, rank = i % to->width;
            for (uint32_t l = 0; l < 12; l++) {
                uint32_t need = 0;
                for (uint32_t s = 0; s < 128; s++) {
                    const bool wanted = l / (12 / to->stages) == stage && s / (128 / to->width) == rank;
                    const bool had = places[m].replica != PLAN_SPOTSERVE_NOBODY &&
                                     s / (128 / from->width) == places[m].rank &&
                                     l / (12 / from->stages) == places[m].stage;
                    need += wanted && !had;
                }
                assert_int_equal(arrived[m][l], need);
            }
        }
        uint32_t all = 0, same = 0;
        for (uint32_t i = 0; i < moves.count; i++)
            all += moves.transfers[i].slices;
        for (uint32_t i = 0; i < tight.count; i++)
            same += tight.transfers[i].slices;
        assert_int_equal(all, same);
        plan_spotserve_moves_fini(&moves);
        plan_spotserve_moves_fini(&tight);
    }
}

static void what_makes_no_sense(void **state)
{
    (void)state;
    struct plan_spotserve_config c;
    struct bg_error err;
    assert_int_equal(plan_spotserve_solve(&published, 8, 3, 1, 128, &err, &c), BG_INVALID);
    assert_int_equal(plan_spotserve_solve(&published, 8, 16, 1, 128, &err, &c), BG_INVALID); // not in the profile
    assert_int_equal(plan_spotserve_solve(&published, 8, 8, NAN, 128, &err, &c), BG_INVALID);
    assert_int_equal(plan_spotserve_solve(&published, 257, 8, 1, 128, &err, &c), BG_INVALID);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(by_hand),
        cmocka_unit_test(against_every_configuration),
        cmocka_unit_test(as_much_stays_as_can),
        cmocka_unit_test(moves_replayed),
        cmocka_unit_test(what_makes_no_sense),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
