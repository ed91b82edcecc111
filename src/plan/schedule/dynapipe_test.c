// DynaPipe's cuts against all cuts, its shares against all shares, and the text of lengths.
#include "plan/schedule/dynapipe.h"

#include "base/mem.h"
#include "base/philox.h"

#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>
#include <time.h>
#include <cmocka.h>

static uint32_t draw(uint32_t *state, uint32_t below)
{
    const struct bg_philox_counter counter = {{(*state)++, 78, 0, 0}};
    return bg_philox(counter, bg_philox_key(6, BG_STREAM_DATA)).c[0] % below;
}

// The least objective over all cuts of samples in this order; INFINITY: none is within the limit.
static double least_of_all(const struct plan_sample *sorted, uint32_t n, const struct plan_dynapipe_options *o)
{
    double best = INFINITY;
    for (uint32_t cuts = 0; cuts < 1u << (n - 1); cuts++) {
        double longest = 0, sum = 0;
        uint32_t first = 0;
        bool fits = true;
        for (uint32_t i = 0; i < n; i++) {
            if (i + 1 < n && !(cuts >> i & 1))
                continue;
            uint32_t e = 0, d = 0;
            for (uint32_t k = first; k <= i; k++) {
                e = sorted[k].encoder > e ? sorted[k].encoder : e;
                d = sorted[k].decoder > d ? sorted[k].decoder : d;
            }
            e = (e + o->round - 1) / o->round * o->round;
            d = (d + o->round - 1) / o->round * o->round;
            const double ed = e, dd = d, count = i + 1 - first;
            const double time = o->fixed + count * (o->token * (ed + dd) + o->pair * (ed * ed + ed * dd + dd * dd));
            fits &= !o->tokens_max || count * (ed + dd) <= (double)o->tokens_max;
            longest = time > longest ? time : longest;
            sum += time;
            first = i + 1;
        }
        const double objective = (o->stages - 1) * longest / o->chunks + sum / o->replicas;
        if (fits && objective < best)
            best = objective;
    }
    return best;
}

static bool not_longer(struct plan_sample a, struct plan_sample b)
{
    return a.encoder < b.encoder || (a.encoder == b.encoder && a.decoder <= b.decoder);
}

static void small_cases_match_all_cuts(void **state)
{
    (void)state;
    uint32_t seed = 0, refused = 0;
    for (int round = 0; round < 500; round++) {
        struct plan_sample samples[10], sorted[10];
        const uint32_t n = 1 + draw(&seed, 10);
        const bool two = draw(&seed, 2);
        for (uint32_t i = 0; i < n; i++)
            samples[i] = (struct plan_sample){two ? draw(&seed, 40) : 0, 1 + draw(&seed, 60)};
        const struct plan_dynapipe_options o = {.fixed = draw(&seed, 50),
                                                .token = 1 + draw(&seed, 3),
                                                .pair = draw(&seed, 3) * 0.01,
                                                .round = 1 + draw(&seed, 8),
                                                .stages = 1 + draw(&seed, 6),
                                                .chunks = 1 + draw(&seed, 2),
                                                .replicas = 1 + draw(&seed, 3),
                                                .tokens_max = draw(&seed, 3) ? 0 : 30 + draw(&seed, 200)};
        struct bg_error err = {0};
        struct plan_dynapipe plan;
        if (plan_dynapipe_solve(samples, n, &o, &err, &plan)) {
            assert_int_equal(err.status, BG_INVALID);
            refused++;
            continue;
        }
        for (uint32_t i = 0; i < n; i++) {
            sorted[i] = samples[plan.order[i]];
            assert_true(i == 0 || not_longer(sorted[i - 1], sorted[i]));
        }
        assert_true(plan.exact);
        const double least = least_of_all(sorted, n, &o);
        assert_true(fabs(plan.objective - least) <= 1e-9 * least);
        double sum = 0, loads[3] = {0};
        for (uint32_t r = 0; r < plan.run_count; r++) {
            assert_int_equal(plan.runs[r].first, r ? plan.runs[r - 1].end : 0);
            loads[plan.runs[r].replica] += plan.runs[r].time;
            sum += plan.runs[r].time;
        }
        assert_int_equal(plan.runs[plan.run_count - 1].end, n);
        assert_true(fabs(sum - plan.sum) <= 1e-9 * sum);
        assert_true(loads[0] <= plan.heaviest && loads[1] <= plan.heaviest && loads[2] <= plan.heaviest);
        plan_dynapipe_fini(&plan);
    }
    assert_true(refused > 10 && refused < 250);
}

static double heaviest_of(const double *weights, uint32_t count, uint32_t parts, const uint32_t *part)
{
    double sums[8] = {0}, most = 0;
    for (uint32_t i = 0; i < count; i++) {
        assert_true(part[i] < parts);
        sums[part[i]] += weights[i];
        most = sums[part[i]] > most ? sums[part[i]] : most;
    }
    return most;
}

static void shares_are_nearly_the_best(void **state)
{
    (void)state;
    uint32_t seed = 9000, part[9];
    double excess = 0;
    for (int round = 0; round < 200; round++) {
        double weights[9], best = INFINITY;
        const uint32_t n = 1 + draw(&seed, 9), parts = 2 + draw(&seed, 2);
        uint32_t ways = 1;
        for (uint32_t i = 0; i < n; i++) {
            weights[i] = 1 + draw(&seed, 100);
            ways *= parts;
        }
        for (uint32_t way = 0; way < ways; way++) {
            uint32_t rest = way;
            for (uint32_t i = 0; i < n; i++, rest /= parts)
                part[i] = rest % parts;
            const double most = heaviest_of(weights, n, parts, part);
            best = most < best ? most : best;
        }
        plan_partition(weights, n, parts, part);
        const double most = heaviest_of(weights, n, parts, part);
        assert_true(most <= best * 4 / 3 + 1e-9); // 7/6 is proved for two parts
        assert_true(parts > 2 || most <= best * 7 / 6 + 1e-9);
        excess += most / best - 1;
    }
    assert_true(excess / 200 < 0.02);
}

// The example of the paper by Karmarkar and Karp: 8, 7, 6, 5, 4 differ by 2 in the end.
static void differencing_as_published(void **state)
{
    (void)state;
    const double weights[5] = {8, 7, 6, 5, 4};
    uint32_t part[5];
    plan_partition(weights, 5, 2, part);
    assert_true(heaviest_of(weights, 5, 2, part) == 16);
    plan_partition(weights, 0, 2, part);
    plan_partition(weights, 1, 1, part);
    assert_int_equal(part[0], 0);
}

static void thousands_take_seconds_at_most(void **state)
{
    (void)state;
    enum { N = 2048 };
    uint32_t seed = 20000;
    struct plan_sample *samples = bg_alloc_array(N, sizeof *samples);
    for (uint32_t i = 0; i < N; i++) // many short ones, few long ones
        samples[i].decoder = 1 + draw(&seed, 1 + draw(&seed, 1 + draw(&seed, 4096)));
    struct plan_dynapipe_options o = {
        .fixed = 500, .token = 1, .pair = 1e-4, .round = 8, .stages = 8, .chunks = 1, .replicas = 4};
    struct bg_error err = {0};
    struct plan_dynapipe plan, equal;
    const clock_t begin = clock();
    assert_int_equal(plan_dynapipe_solve(samples, N, &o, &err, &plan), BG_OK);
    assert_true(clock() - begin < 3 * CLOCKS_PER_SEC);
    assert_true(plan.padded < plan.tokens * 3 / 2);
    assert_true(plan.heaviest < plan.sum / 4 * 1.05);
    // Without a pipeline to fill, only the sum counts; it cannot be more than that of the other.
    o.stages = 1;
    assert_int_equal(plan_dynapipe_solve(samples, N, &o, &err, &equal), BG_OK);
    assert_true(equal.sum <= plan.sum && equal.longest >= plan.longest);
    plan_dynapipe_fini(&plan);
    plan_dynapipe_fini(&equal);
    bg_free(samples);
}

static void lengths_are_read(void **state)
{
    (void)state;
    const char text[] = "# lengths\n12\n\n 7 9 \r\n0 3\t\n1048576";
    static const char *const bad[] = {"", "#\n", "x\n", "1 2 3\n", "1048577\n", "-1\n", "1.5\n", "4 \n9,1\n"};
    struct bg_error err = {0};
    struct plan_sample *samples;
    uint32_t count;
    assert_int_equal(plan_samples_parse(text, sizeof text - 1, &err, &samples, &count), BG_OK);
    assert_int_equal(count, 4);
    assert_int_equal(samples[0].decoder, 12);
    assert_int_equal(samples[1].encoder, 7);
    assert_int_equal(samples[1].decoder, 9);
    assert_int_equal(samples[3].decoder, 1048576);
    bg_free(samples);
    for (size_t b = 0; b < sizeof bad / sizeof *bad; b++)
        assert_int_equal(plan_samples_parse(bad[b], strlen(bad[b]), &err, &samples, &count), BG_FORMAT);
    assert_non_null(strstr(err.text, "line 2"));
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(small_cases_match_all_cuts), cmocka_unit_test(shares_are_nearly_the_best),
        cmocka_unit_test(differencing_as_published),  cmocka_unit_test(thousands_take_seconds_at_most),
        cmocka_unit_test(lengths_are_read),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
