// The router's decisions against brute force and against the worked numbers of the papers.
#include "base/mem.h"
#include "serve/route_policy.h"

#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

static uint64_t seed = 1;
static uint32_t draw(uint32_t below)
{
    seed = seed * 6364136223846793005u + 1442695040888963407u;
    return (uint32_t)(seed >> 33) % below;
}

static void hot_and_cold(void **state)
{
    (void)state;
    const struct route_load loads[] = {{true, 9, 0.001}, {true, 3, 0.050}, {true, 4, 0.020}};
    assert_int_equal(route_choose(loads, 3, 0.84, ROUTE_NOBODY, 0), 2); // 0 is fastest but hot
    assert_int_equal(route_choose(loads, 3, 0.84, 1, 0), 1);            // liked and cold
    assert_int_equal(route_choose(loads, 3, 0.84, 0, 0), 2);            // liked but hot
    assert_int_equal(route_choose(loads, 3, 0.84, 77, 0), 2);           // somebody who left
    assert_int_equal(route_choose(loads, 3, 1.0, ROUTE_NOBODY, 0), 0);  // nobody is hot: the fastest
    assert_int_equal(route_choose(loads, 0, 0.84, ROUTE_NOBODY, 5), ROUTE_NOBODY);
    const struct route_load gone[] = {{false, 0, 0}, {true, 100, 9}, {false, 0, 0}};
    assert_int_equal(route_choose(gone, 3, 0.84, 0, 0), 1);
    const struct route_load equal[] = {{true, 1, 1}, {true, 1, 1}, {true, 1, 1}};
    for (uint32_t turn = 0; turn < 6; turn++)
        assert_int_equal(route_choose(equal, 3, 0.84, ROUTE_NOBODY, turn), turn % 3);
}

static uint32_t emptier(const struct route_load *loads, uint32_t count, uint32_t of)
{
    uint32_t below = 0;
    for (uint32_t i = 0; i < count; i++)
        below += loads[i].usable && loads[i].in_flight < loads[of].in_flight;
    return below;
}

// Whoever is chosen is usable and cold, and nobody cold is faster.
static void choice_by_brute_force(void **state)
{
    (void)state;
    for (int round = 0; round < 20000; round++) {
        struct route_load loads[9];
        const uint32_t count = 1 + draw(9);
        uint32_t usable = 0;
        for (uint32_t i = 0; i < count; i++) {
            loads[i] = (struct route_load){draw(4) != 0, draw(6), draw(5) * 0.25};
            usable += loads[i].usable;
        }
        const uint32_t c = route_choose(loads, count, 0.84, ROUTE_NOBODY, draw(100));
        assert_int_equal(c == ROUTE_NOBODY, usable == 0);
        if (usable == 0)
            continue;
        assert_true(c < count && loads[c].usable);
        assert_true(emptier(loads, count, c) <= 0.84 * (usable - 1));
        for (uint32_t i = 0; i < count; i++)
            if (loads[i].usable && emptier(loads, count, i) <= 0.84 * (usable - 1))
                assert_true(loads[i].latency_s >= loads[c].latency_s);
    }
}

static void prefixes(void **state)
{
    (void)state;
    struct route_affinity *a = bg_alloc(sizeof *a);
    char text[4096];
    uint64_t one[ROUTE_BLOCKS_MAX], two[ROUTE_BLOCKS_MAX];
    for (size_t i = 0; i < sizeof text; i++)
        text[i] = (char)draw(256);
    assert_int_equal(route_prefixes(text, 0, one), 0);
    assert_int_equal(route_prefixes(text, 31, one), 0);
    assert_int_equal(route_prefixes(text, 32, one), 1);
    assert_int_equal(route_prefixes(text, sizeof text, one), ROUTE_BLOCKS_MAX);
    const uint32_t n = route_prefixes(text, 200, one);
    assert_int_equal(n, 6);
    assert_int_equal(route_affinity_find(a, one, n), ROUTE_NOBODY);
    route_affinity_note(a, one, n, 2);
    assert_int_equal(route_affinity_find(a, one, n), 2);
    text[100] ^= 1; // blocks 0..2 are the same
    assert_int_equal(route_prefixes(text, 200, two), 6);
    for (int i = 0; i < 6; i++)
        assert_int_equal(one[i] == two[i], i < 3);
    assert_int_equal(route_affinity_find(a, two, 6), 2);
    assert_int_equal(route_affinity_find(a, two + 3, 3), ROUTE_NOBODY);
    route_affinity_note(a, two, 6, 1);
    assert_int_equal(route_affinity_find(a, two, 6), 1);
    assert_int_equal(route_affinity_find(a, one, 6), 2); // the longer one counts
    bg_free(a);
}

static void credits(void **state)
{
    (void)state;
    struct route_credit c = {10};
    route_credit_update(&c, 0.01, 0.1, 1, 4);
    assert_true(fabs(c.credits - 10) < 1e-12); // not half of them are used
    route_credit_update(&c, 0.01, 0.1, 1, 5);
    assert_true(fabs(c.credits - 11) < 1e-12);
    route_credit_update(&c, 0.01, 0.1, 5000, 11); // 0.1 % of the clients
    assert_true(fabs(c.credits - 16) < 1e-12);
    route_credit_update(&c, 0.2, 0.1, 1, 0); // twice the target: 2 % less
    assert_true(fabs(c.credits - 16 * 0.98) < 1e-12);
    route_credit_update(&c, 100, 0.1, 1, 0); // never more than half
    assert_true(fabs(c.credits - 16 * 0.98 / 2) < 1e-12);
    for (int i = 0; i < 100; i++)
        route_credit_refused(&c);
    assert_true(fabs(c.credits - 1) < 1e-12); // one may always try
    for (int i = 0; i < 10000; i++)
        route_credit_update(&c, 0, 0.1, 1, ROUTE_CREDITS_MAX);
    assert_true(fabs(c.credits - ROUTE_CREDITS_MAX) < 1e-12);

    // A server of 20 requests a tick whose queue is what it was given beyond: credits settle around what it can do.
    double queue = 0, sum = 0;
    c.credits = 400;
    for (int tick = 0; tick < 2000; tick++) {
        queue = queue + c.credits - 20 > 0 ? queue + c.credits - 20 : 0;
        queue = queue > 200 ? 200 : queue; // the rest is not sent
        route_credit_update(&c, queue / 20 * 0.01, 0.05, 1, (uint32_t)c.credits);
        sum += tick >= 1000 ? c.credits : 0;
    }
    assert_true(sum / 1000 > 10 && sum / 1000 < 60);
}

static void leaving(void **state)
{
    (void)state;
    struct route_notice n = {.grace_s = 30, .tokens_held = 100, .tokens_left = 50, .token_s = 0.1, .recompute_s = 0.01};
    struct route_arrangement a = route_arrange(&n);
    assert_int_equal(a.leave, ROUTE_FINISH);
    assert_int_equal(a.steps, 50);
    n.tokens_left = 1000; // 300 fit; then 400 tokens are computed again
    a = route_arrange(&n);
    assert_int_equal(a.leave, ROUTE_RECOMPUTE);
    assert_int_equal(a.steps, 300);
    assert_true(fabs(a.pause_s - 4) < 1e-9);
    n.bytes_token = 1e6;
    n.bandwidth = 1e9; // 1 ms a token: a tenth of computing it
    a = route_arrange(&n);
    assert_int_equal(a.leave, ROUTE_SHIP);
    assert_int_equal(a.steps, 296); // 29.9 s / 101 ms
    n.bandwidth = 1e7;              // 100 ms a token: slower
    assert_int_equal(route_arrange(&n).leave, ROUTE_RECOMPUTE);
    n.grace_s = 0;
    n.bandwidth = 1e12;
    a = route_arrange(&n);
    assert_int_equal(a.leave, ROUTE_RECOMPUTE);
    assert_int_equal(a.steps, 0);
    n = (struct route_notice){.grace_s = 1, .tokens_left = 5}; // a model that takes no time
    assert_int_equal(route_arrange(&n).leave, ROUTE_FINISH);
    n = (struct route_notice){.grace_s = -1, .tokens_left = 5, .token_s = 1};
    assert_int_equal(route_arrange(&n).leave, ROUTE_RECOMPUTE);
}

// Against every number of steps that can be taken.
static void leaving_by_brute_force(void **state)
{
    (void)state;
    for (int round = 0; round < 5000; round++) {
        const struct route_notice n = {.grace_s = draw(20) * 0.5,
                                       .tokens_held = draw(50),
                                       .tokens_left = draw(60),
                                       .token_s = 0.125 * draw(4),
                                       .recompute_s = 0.03125 * draw(4),
                                       .bytes_token = 64 * draw(4),
                                       .bandwidth = 1024 * draw(3)};
        uint32_t steps = 0, shipped = 0;
        bool can_ship = false;
        for (uint32_t k = 0; k <= n.tokens_left; k++) {
            if (k * n.token_s <= n.grace_s)
                steps = k;
            if (n.bandwidth > 0 && k * n.token_s + (n.tokens_held + k) * n.bytes_token / n.bandwidth <= n.grace_s) {
                shipped = k;
                can_ship = true;
            }
        }
        const struct route_arrangement a = route_arrange(&n);
        const double again_s = (n.tokens_held + steps) * n.recompute_s,
                     ship_s = can_ship ? (n.tokens_held + shipped) * n.bytes_token / n.bandwidth : INFINITY;
        if (steps == n.tokens_left) {
            assert_int_equal(a.leave, ROUTE_FINISH);
        } else if (ship_s < again_s) {
            assert_int_equal(a.leave, ROUTE_SHIP);
            assert_int_equal(a.steps, shipped);
        } else {
            assert_int_equal(a.leave, ROUTE_RECOMPUTE);
            assert_int_equal(a.steps, steps);
        }
    }
}

static void samples(void **state)
{
    (void)state;
    const char text[] = "# HELP brigade_requests_running x\n# TYPE brigade_requests_running gauge\n"
                        "brigade_requests_running 3\nbrigade_requests_waiting 2\n"
                        "brigade_time_to_first_token_seconds_bucket{le=\"1\"} 5\n"
                        "brigade_time_to_first_token_seconds_sum 1.5\nbrigade_time_to_first_token_seconds_count 5\n"
                        "brigade_inter_token_latency_seconds_sum 0.25\nbrigade_inter_token_latency_seconds_count 100\n"
                        "brigade_queue_seconds_sum 1e-3\nbrigade_queue_seconds_count 7\n"
                        "brigade_prompt_tokens_total 70\nbrigade_cached_tokens_total 9\n";
    struct route_sample s;
    assert_true(route_read_sample(text, sizeof text - 1, &s));
    assert_int_equal(s.running, 3);
    assert_int_equal(s.waiting, 2);
    assert_true(fabs(s.ttft_s - 1.5) < 1e-12 && fabs(s.gap_count - 100) < 1e-12 && fabs(s.queued_s - 1e-3) < 1e-12);
    for (size_t size = 0; size < sizeof text - 3; size++)
        assert_false(route_read_sample(text, size, &s));
    assert_false(route_read_sample("brigade_requests_running nan\n", 29, &s));
}

static void records(void **state)
{
    (void)state;
    const char stream[] = ": hello\n\ndata: {\"a\":1}\n\ndata:x\n\n\n\ndata: [DONE]\n\n";
    const char *const want[] = {NULL, "{\"a\":1}", "x", NULL, "[DONE]"}, *data;
    size_t at = 0, data_size, used;
    for (int i = 0; i < 5; i++) {
        used = route_record(stream + at, sizeof stream - 1 - at, &data, &data_size);
        assert_true(used > 0);
        for (size_t less = 0; less < used; less++)
            assert_int_equal(route_record(stream + at, less, &data, &data_size), 0);
        used = route_record(stream + at, used, &data, &data_size);
        assert_int_equal(data == NULL, want[i] == NULL);
        if (data) {
            assert_int_equal(data_size, strlen(want[i]));
            assert_memory_equal(data, want[i], data_size);
        }
        at += used;
    }
    assert_int_equal(at, sizeof stream - 1);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(hot_and_cold), cmocka_unit_test(choice_by_brute_force),
        cmocka_unit_test(prefixes),     cmocka_unit_test(credits),
        cmocka_unit_test(leaving),      cmocka_unit_test(leaving_by_brute_force),
        cmocka_unit_test(samples),      cmocka_unit_test(records),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
