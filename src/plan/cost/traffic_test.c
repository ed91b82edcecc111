// Decisions about gradient traffic against counting messages one by one.
#include "plan/cost/traffic.h"

#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdio.h>
#include <cmocka.h>

static void factors_pay_for_few_rows(void **state)
{
    (void)state;
    // Poseidon's VGG19-22K layer, 4096 x 21841 with 32 rows: factors on 8 workers, by far.
    const struct plan_traffic_layer vgg = {32, 4096, 21841, 8};
    assert_true(plan_traffic_factors_pay(&vgg));
    // Language models have thousands of rows: the gradient is smaller.
    const struct plan_traffic_layer block = {4096, 1024, 4096, 4};
    assert_false(plan_traffic_factors_pay(&block));
    for (uint32_t workers = 1; workers <= 6; workers++)
        for (uint64_t rows = 1; rows <= 40; rows += 3) {
            const struct plan_traffic_layer layer = {rows, 12, 60, workers};
            double full = 0, factors = 0;
            for (uint32_t w = 1; w < workers; w++) { // to and from each of the others
                factors += 2.0 * 4 * (double)(rows * 12 + rows * 60);
                full += 4.0 * 4 * 12 * 60 / workers; // a part there and its sum back; the own part's of the other
            }
            const struct plan_traffic_bytes bytes = plan_traffic_bytes(&layer);
            assert_true(fabs(bytes.full - full) < 1e-6 && fabs(bytes.factors - factors) < 1e-6);
            assert_int_equal(plan_traffic_factors_pay(&layer), factors < full - 1e-9);
        }
}

static void chunks_match_message_by_message(void **state)
{
    (void)state;
    for (int c = 0; c < 64; c++) {
        const struct plan_traffic_link link = {(c & 3) * 0.01, 100.0 * (1 + (c >> 2 & 3))};
        const double bytes = 37.0 * (1 + c), compute = 0.3 * (c >> 4);
        double least = INFINITY;
        uint32_t best = 0;
        for (uint32_t chunks = 1; chunks <= 24; chunks++) {
            double free_at = 0;
            for (uint32_t k = 0; k < chunks; k++) {
                const double ready = compute * (k + 1) / chunks;
                free_at = (ready > free_at ? ready : free_at) + link.latency_s + bytes / chunks / link.bytes_s;
            }
            assert_true(fabs(plan_traffic_chunked_s(bytes, compute, &link, chunks) - free_at) < 1e-9);
            if (free_at < least - 1e-12) {
                least = free_at;
                best = chunks;
            }
        }
        const uint32_t found = plan_traffic_chunks(bytes, compute, &link, 24);
        assert_true(found >= 1 && found <= 24);
        assert_true(fabs(plan_traffic_chunked_s(bytes, compute, &link, found) - least) < 1e-9);
        assert_true(compute > 0 || found == 1); // nothing to hide behind
        assert_true(found <= best || fabs(least - plan_traffic_chunked_s(bytes, compute, &link, best)) < 1e-9);
    }
}

static void large_gradients_are_scattered(void **state)
{
    (void)state;
    const struct plan_traffic_link link = {1e-4, 1e9};
    assert_int_equal(plan_traffic_form(100, 16, &link), PLAN_TRAFFIC_TREE);    // 8 messages against 30
    assert_int_equal(plan_traffic_form(1e8, 16, &link), PLAN_TRAFFIC_SCATTER); // 8 times the bytes against 2
    assert_int_equal(plan_traffic_form(1e8, 1, &link), PLAN_TRAFFIC_TREE);     // nothing to do
    assert_true(plan_traffic_form_s(PLAN_TRAFFIC_TREE, 1e8, 1, &link) == 0);
    assert_true(fabs(plan_traffic_form_s(PLAN_TRAFFIC_TREE, 1e8, 5, &link) - 6 * (1e-4 + 0.1)) < 1e-9);
    assert_true(fabs(plan_traffic_form_s(PLAN_TRAFFIC_SCATTER, 1e8, 5, &link) - 8 * (1e-4 + 0.02)) < 1e-9);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(factors_pay_for_few_rows),
        cmocka_unit_test(chunks_match_message_by_message),
        cmocka_unit_test(large_gradients_are_scattered),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
