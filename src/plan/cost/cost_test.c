// Interpolated costs against laws of which the samples are points.
#include "plan/cost/cost.h"

#include "base/mem.h"

#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdint.h>
#include <stdio.h>
#include <cmocka.h>

static void near(double value, double expected)
{
    if (!(fabs(value - expected) <= 1e-9 * fabs(expected)))
        fail_msg("%.12g, expected %.12g", value, expected);
}

// A fixed cost and a rate that grows with the square root of the width, for each part another.
static double law(int part, double rows, double width, double work)
{
    return (part + 1) * rows * work / sqrt(width) * 1e-9;
}

static void add(struct plan_costs *costs, enum plan_unit_kind kind, double rows, double width, double fixed)
{
    struct plan_cost_sample s = {.kind = kind, .rows = rows, .width = width, .work = width * width};
    for (int part = 0; part < PLAN_COST_PARTS; part++)
        s.seconds[part] = law(part, rows, width, s.work) + fixed;
    assert_true(plan_cost_add(costs, &s));
}

static struct plan_cost_sample at(const struct plan_costs *costs, enum plan_unit_kind kind, double rows, double width)
{
    struct plan_cost_sample s = {.kind = kind, .rows = rows, .width = width, .work = width * width};
    assert_true(plan_cost_at(costs, &s));
    return s;
}

static void laws_are_found_again(void **state)
{
    (void)state;
    struct plan_costs *costs = bg_alloc(sizeof *costs);
    for (double width = 64; width <= 1024; width *= 4)
        for (double rows = 128; rows <= 8192; rows *= 8)
            add(costs, PLAN_UNIT_BLOCK, rows, width, 0);
    for (double width = 64; width <= 1024; width += 97)
        for (double rows = 16; rows <= 65536; rows *= 1.7) {
            struct plan_cost_sample s = at(costs, PLAN_UNIT_BLOCK, rows, width);
            for (int part = 0; part < PLAN_COST_PARTS; part++)
                near(s.seconds[part], law(part, rows, width, s.work));
        }
    struct plan_cost_sample s = at(costs, PLAN_UNIT_BLOCK, 256, 4096); // beyond the widest: its rate
    near(s.seconds[0], law(0, 256, 4096, s.work) * sqrt(4096.0 / 1024));
    bg_free(costs);
}

static void fixed_costs_are_no_rate(void **state)
{
    (void)state;
    struct plan_costs *costs = bg_alloc(sizeof *costs);
    add(costs, PLAN_UNIT_HEAD, 100, 64, 1e-3);
    add(costs, PLAN_UNIT_HEAD, 1000, 64, 1e-3);
    near(at(costs, PLAN_UNIT_HEAD, 400, 64).seconds[1], law(1, 400, 64, 4096) + 1e-3);
    near(at(costs, PLAN_UNIT_HEAD, 10, 64).seconds[1], law(1, 10, 64, 4096) + 1e-3);
    near(at(costs, PLAN_UNIT_HEAD, 2000, 64).seconds[1], 2 * (law(1, 1000, 64, 4096) + 1e-3));
    add(costs, PLAN_UNIT_EMBED, 100, 64, 0); // one sample: proportional
    near(at(costs, PLAN_UNIT_EMBED, 7, 64).seconds[2], law(2, 7, 64, 4096));
    bg_free(costs);
}

static void what_is_no_sample_is_refused(void **state)
{
    (void)state;
    struct plan_costs *costs = bg_alloc(sizeof *costs);
    struct plan_cost_sample s = {.kind = PLAN_UNIT_BLOCK, .rows = 1, .width = 1, .work = 1};
    assert_false(plan_cost_at(costs, &s));
    assert_true(plan_cost_add(costs, &s));
    s.kind = PLAN_UNIT_HEAD;
    assert_false(plan_cost_at(costs, &s));
    s.seconds[1] = NAN;
    assert_false(plan_cost_add(costs, &s));
    s.seconds[1] = 0;
    s.rows = 0;
    assert_false(plan_cost_add(costs, &s));
    for (s.rows = 1; costs->count < PLAN_COST_SAMPLES_MAX; s.rows++)
        assert_true(plan_cost_add(costs, &s));
    assert_false(plan_cost_add(costs, &s));
    bg_free(costs);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(laws_are_found_again),
        cmocka_unit_test(fixed_costs_are_no_rate),
        cmocka_unit_test(what_is_no_sample_is_refused),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
