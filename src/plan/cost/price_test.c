// Price lists: which line a machine pays, and which lines are none.
#include "plan/cost/price.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>
#include <cmocka.h>

static void prices_by_name(void **state)
{
    (void)state;
    static const char text[] = "# spot prices of a day\n"
                               "p3-*: 3.06\n"
                               "\n"
                               "\"p3-big*\":   12.24   # the longest beginning counts\r\n"
                               "p3-big-7 0.5\n"
                               "'*' 1e-1";
    struct bg_error err;
    struct plan_prices prices;
    struct plan_machine machines[] = {{.name = "p3-2"}, {.name = "p3-big-6"}, {.name = "p3-big-7"}, {.name = "here"}};
    struct plan_profile profile = {.machines = machines, .machine_count = 4};
    assert_int_equal(plan_prices_parse(text, strlen(text), &err, &prices), BG_OK);
    assert_int_equal(prices.count, 4);
    assert_int_equal(plan_prices_apply(&prices, &err, &profile), BG_OK);
    assert_true(machines[0].dollars_hour == 3.06 && machines[1].dollars_hour == 12.24);
    assert_true(machines[2].dollars_hour == 0.5 && machines[3].dollars_hour == 0.1);
    plan_prices_fini(&prices);
}

static void a_machine_without_price(void **state)
{
    (void)state;
    struct bg_error err;
    struct plan_prices prices;
    struct plan_machine machines[] = {{.name = "a"}, {.name = "ab", .dollars_hour = 7}};
    struct plan_profile profile = {.machines = machines, .machine_count = 2};
    assert_int_equal(plan_prices_parse("a 1\n", 4, &err, &prices), BG_OK);
    assert_int_equal(plan_prices_apply(&prices, &err, &profile), BG_INVALID);
    assert_non_null(strstr(err.text, "no price for machine ab"));
    assert_true(machines[0].dollars_hour == 0 && machines[1].dollars_hour == 7);
    plan_prices_fini(&prices);
    assert_int_equal(plan_prices_parse("", 0, &err, &prices), BG_OK);
    assert_int_equal(plan_prices_apply(&prices, &err, &profile), BG_INVALID);
    plan_prices_fini(&prices);
}

static void lines_that_are_none(void **state)
{
    (void)state;
    static const char *const texts[] = {"a",       "a:",    "a: b",   "a 1 2", "a -1",     "a nan",
                                        "a 1e999", "\"a 1", "\"a\"1", ": 1",   "\"\" 1",   "a\x01 1",
                                        "a:1",     "1",     "a 0x10", "'a':1", "a 1\na 2", "a* 1\na* 1"};
    for (size_t i = 0; i < sizeof texts / sizeof *texts; i++) {
        struct bg_error err = {0};
        struct plan_prices prices;
        if (plan_prices_parse(texts[i], strlen(texts[i]), &err, &prices) == BG_OK)
            fail_msg("taken: %s", texts[i]);
        assert_true(err.text[0]);
    }
    char longer[200];
    struct bg_error err;
    struct plan_prices prices;
    memset(longer, 'a', sizeof longer);
    memcpy(longer + sizeof longer - 3, " 1", 3);
    assert_int_equal(plan_prices_parse(longer, sizeof longer - 1, &err, &prices), BG_FORMAT);
    assert_int_equal(plan_prices_parse("a 1\na* 1", 8, &err, &prices), BG_OK); // not the same
    plan_prices_fini(&prices);
}

int main(void)
{
    const struct CMUnitTest tests[] = {cmocka_unit_test(prices_by_name), cmocka_unit_test(a_machine_without_price),
                                       cmocka_unit_test(lines_that_are_none)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
