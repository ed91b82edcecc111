// The predictor on histories whose forecast can be told by hand.
#include "plan/fleet/predictor.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <string.h>
#include <cmocka.h>

static const struct plan_predictor usual = {12, 8, 32, 3};

static void expect(const struct plan_predictor *predictor, const uint32_t *counts, uint32_t count, const uint32_t *want,
                   uint32_t ahead)
{
    uint32_t forecast[16];
    plan_predict(predictor, counts, count, ahead, forecast);
    for (uint32_t k = 0; k < ahead; k++)
        if (forecast[k] != want[k])
            fail_msg("interval %u: %u, expected %u", k + 1, forecast[k], want[k]);
}

static void what_stays_stays(void **state)
{
    (void)state;
    const uint32_t counts[6] = {20, 20, 20, 20, 20, 20}, want[4] = {20, 20, 20, 20};
    expect(&usual, counts, 6, want, 4);
    expect(&usual, counts, 1, want, 4);
    plan_predict(&usual, counts, 6, 0, NULL);
}

static void spikes_are_not_news(void **state)
{
    (void)state;
    const uint32_t one[6] = {20, 20, 25, 20, 20, 20}, three[7] = {20, 20, 25, 26, 25, 20, 20}, want[3] = {20, 20, 20};
    expect(&usual, one, 6, want, 3);
    expect(&usual, three, 7, want, 3);
}

// From 20 up by one an interval: differences are all one, so the forecast goes on; at most 3 above its first value.
static void a_climb_goes_on_but_not_for_long(void **state)
{
    (void)state;
    const uint32_t counts[5] = {20, 21, 22, 23, 24}, want[6] = {25, 26, 27, 28, 28, 28};
    expect(&usual, counts, 5, want, 6);
    const uint32_t fall[5] = {24, 23, 22, 21, 20}, down[6] = {19, 18, 17, 16, 16, 16};
    expect(&usual, fall, 5, down, 6);
}

// Up by ten without a step back: half of a further rise is believed; of one by two an interval, one.
static void long_climbs_are_believed_in_half(void **state)
{
    (void)state;
    const uint32_t counts[6] = {10, 12, 14, 16, 18, 20}, want[4] = {21, 22, 22, 22}; // 22 24 25 25
    expect(&usual, counts, 6, want, 4);
}

static void bounds_hold(void **state)
{
    (void)state;
    const uint32_t high[5] = {28, 29, 30, 31, 32}, at_most[3] = {32, 32, 32};
    expect(&usual, high, 5, at_most, 3);
    const uint32_t low[4] = {11, 10, 9, 8}, at_least[3] = {8, 8, 8};
    expect(&usual, low, 4, at_least, 3);
    const struct plan_predictor none = {12, 0, 64, 3};
    const uint32_t down[4] = {3, 2, 1, 0}, nothing[3] = {0, 0, 0};
    expect(&none, down, 4, nothing, 3);
}

// Down to 10 and up again: what was before the turn does not count any more.
static void the_last_turn_begins_the_history(void **state)
{
    (void)state;
    const uint32_t turned[9] = {30, 20, 15, 12, 10, 11, 12, 13, 14}, fresh[9] = {10, 10, 10, 10, 10, 11, 12, 13, 14};
    uint32_t a[5], b[5];
    plan_predict(&usual, turned, 9, 5, a);
    plan_predict(&usual, fresh, 9, 5, b);
    assert_memory_equal(a, b, sizeof a);
    assert_true(a[0] >= 14);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(what_stays_stays),
        cmocka_unit_test(spikes_are_not_news),
        cmocka_unit_test(a_climb_goes_on_but_not_for_long),
        cmocka_unit_test(long_climbs_are_believed_in_half),
        cmocka_unit_test(bounds_hold),
        cmocka_unit_test(the_last_turn_begins_the_history),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
