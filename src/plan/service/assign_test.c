// Kuhn-Munkres against all permutations, and a published matrix.
#include "plan/service/assign.h"

#include "base/philox.h"

#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdbool.h>
#include <stddef.h>
#include <cmocka.h>

static double best_of_all(const double *weight, uint32_t rows, uint32_t columns, uint32_t row, uint32_t taken)
{
    if (row == rows)
        return 0;
    double best = -INFINITY;
    for (uint32_t j = 0; j < columns; j++)
        if (!(taken >> j & 1))
            best = fmax(best, weight[row * columns + j] + best_of_all(weight, rows, columns, row + 1, taken | 1U << j));
    return best;
}

static void the_published_matrix(void **state)
{
    (void)state;
    const double weight[16] = {2, 3, 0, 3, 0, 4, 4, 0, 5, 6, 0, 0, 0, 0, 7, 0};
    uint32_t column_of[4];
    assert_true(plan_assign(weight, 4, 4, column_of) == 19);
    const uint32_t want[4] = {3, 1, 0, 2}; // 3 + 4 + 5 + 7
    assert_memory_equal(column_of, want, sizeof want);
}

static void as_good_as_the_best_permutation(void **state)
{
    (void)state;
    for (uint32_t seed = 0; seed < 600; seed++) {
        double weight[64];
        const uint32_t columns = 1 + seed % (seed % 20 ? 7 : 8), rows = 1 + seed / 8 % columns;
        for (uint32_t i = 0; i < rows * columns; i++) {
            const uint32_t word = bg_philox((struct bg_philox_counter){{seed, i}}, (struct bg_philox_key){{1, 2}}).c[0];
            weight[i] = seed % 3 ? (double)(word % 9) - 2 : bg_uniform(word); // many ties, some below zero; few ties
        }
        uint32_t column_of[8];
        const double sum = plan_assign(weight, rows, columns, column_of);
        double again = 0;
        uint32_t taken = 0;
        for (uint32_t i = 0; i < rows; i++) {
            assert_true(column_of[i] < columns && !(taken >> column_of[i] & 1));
            taken |= 1U << column_of[i];
            again += weight[i * columns + column_of[i]];
        }
        assert_true(fabs(again - sum) < 1e-9);
        assert_true(fabs(sum - best_of_all(weight, rows, columns, 0, 0)) < 1e-9);
    }
    assert_true(plan_assign(NULL, 0, 3, NULL) == 0);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(the_published_matrix),
        cmocka_unit_test(as_good_as_the_best_permutation),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
