// The elementary functions against libm in long double: at most 2 ulp over random and chosen arguments; and a
// hash of their bits, equal in every build.
// labels: bits
#include "base/dmath.h"

#include "base/hash.h"
#include "base/philox.h"

#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>
#include <cmocka.h>

static struct bg_philox_counter words(uint32_t stream, uint32_t i)
{
    return bg_philox((struct bg_philox_counter){{i, stream, 0, 0}}, (struct bg_philox_key){{7, 7}});
}

// Uniform in [low, high), word pair p of a draw.
static double between(struct bg_philox_counter w, int p, double low, double high)
{
    double u = ((double)w.c[2 * p] + (double)w.c[2 * p + 1] * 0x1p-32) * 0x1p-32;
    return low + u * (high - low);
}

static double ulps(double got, long double want)
{
    double nearest = (double)want;
    if (got == nearest || (isnan(got) && isnan(nearest)))
        return 0;
    if (!isfinite(got) || !isfinite(nearest))
        return INFINITY;
    double ulp = nextafter(fabs(nearest), INFINITY) - fabs(nearest);
    return (double)fabsl(((long double)got - want) / ulp);
}

enum { DRAWS = 200000 };

static void check_exp(void **state)
{
    (void)state;
    double worst = 0;
    for (uint32_t i = 0; i < DRAWS; i++) {
        struct bg_philox_counter w = words(1, i);
        double x = i % 2 ? between(w, 0, -746, 710) : between(w, 0, -2, 2);
        worst = fmax(worst, ulps(bg_dexp(x), expl(x)));
    }
    printf("exp: %.3f ulp\n", worst);
    assert_true(worst <= 1.0);
    assert_true(bg_dexp(0) == 1 && bg_dexp(-0.0) == 1 && bg_dexp(-INFINITY) == 0);
    assert_true(bg_dexp(INFINITY) == INFINITY && isnan(bg_dexp(NAN)) && bg_dexp(1000) == INFINITY);
}

static void check_log(void **state)
{
    (void)state;
    double worst = 0;
    for (uint32_t i = 0; i < DRAWS; i++) {
        struct bg_philox_counter w = words(2, i);
        double x = i % 3 == 0   ? between(w, 0, 0.5, 2)
                   : i % 3 == 1 ? between(w, 0, 0, 1)
                                : ldexp(between(w, 0, 1, 2), (int)(w.c[2] % 2090) - 1070);
        if (x > 0)
            worst = fmax(worst, ulps(bg_dlog(x), logl(x)));
    }
    printf("log: %.3f ulp\n", worst);
    assert_true(worst <= 1.0);
    assert_true(bg_dlog(1) == 0 && bg_dlog(0) == -INFINITY && isnan(bg_dlog(-1)) && bg_dlog(INFINITY) == INFINITY);
    assert_true(isnan(bg_dlog(NAN)) && ulps(bg_dlog(0x1p-1074), logl(0x1p-1074L)) < 1);
}

static void check_pow(void **state)
{
    (void)state;
    double worst = 0;
    for (uint32_t i = 0; i < DRAWS; i++) {
        struct bg_philox_counter w = words(3, i);
        double x = i % 2 ? between(w, 0, 0.5, 1.5) : ldexp(between(w, 0, 1, 2), (int)(w.c[0] % 200) - 100);
        double y = i % 4 < 2 ? between(w, 1, -2000, 2000) : between(w, 1, -4, 4);
        worst = fmax(worst, ulps(bg_dpow(x, y), powl(x, y)));
    }
    for (int t = 1; t < 5000; t++) // the bias corrections of AdamW
        worst = fmax(worst, fmax(ulps(bg_dpow(0.9, t), powl(0.9, t)), ulps(bg_dpow(0.999, t), powl(0.999, t))));
    printf("pow: %.3f ulp\n", worst);
    assert_true(worst <= 1.0);
    assert_true(bg_dpow(2, 10) == 1024 && bg_dpow(5, 0) == 1 && bg_dpow(1, INFINITY) == 1 && bg_dpow(0, 3) == 0);
    assert_true(bg_dpow(0, -1) == INFINITY && isnan(bg_dpow(-1, 2)) && bg_dpow(2, 1e300) == INFINITY);
    assert_true(bg_dpow(2, -1e300) == 0 && isnan(bg_dpow(NAN, 1)));
    assert_true(bg_dpow(INFINITY, 2) == INFINITY && bg_dpow(INFINITY, -2) == 0 && bg_dpow(2, -1074) == 0x1p-1074);
}

static void check_circle(void **state)
{
    (void)state;
    double worst = 0;
    const double ranges[] = {1, 4, 1000, 1e6, 0x1p30};
    for (uint32_t i = 0; i < DRAWS; i++) {
        double range = ranges[i % 5], x = between(words(4, i), 0, -range, range);
        worst = fmax(worst, fmax(ulps(bg_dsin(x), sinl(x)), ulps(bg_dcos(x), cosl(x))));
    }
    for (int n = 1; n < 20000; n++) { // beside the zeros, where the reduction cancels
        double x = n * 1.5707963267948966;
        worst = fmax(worst, fmax(ulps(bg_dsin(x), sinl(x)), ulps(bg_dcos(x), cosl(x))));
    }
    printf("sin, cos: %.3f ulp\n", worst);
    assert_true(worst <= 1.0);
    assert_true(bg_dsin(0) == 0 && bg_dcos(0) == 1 && isnan(bg_dsin(NAN)) && isnan(bg_dcos(0x1p31)));
    assert_true(bg_dsin(-1) == -bg_dsin(1) && bg_dcos(-1) == bg_dcos(1));
}

// One hash over many results. Whatever compiler, level or CPU: the same.
static void check_bits(void **state)
{
    (void)state;
    struct bg_sha256 hash;
    bg_sha256_init(&hash);
    for (uint32_t i = 0; i < 20000; i++) {
        struct bg_philox_counter w = words(5, i);
        double x = between(w, 0, 0, 50), y = between(w, 1, -20, 20);
        double row[5] = {bg_dexp(y), bg_dlog(x), bg_dpow(x, y), bg_dsin(x * 1000), bg_dcos(x * 1000)};
        bg_sha256_update(&hash, row, sizeof row);
    }
    char hex[65];
    bg_sha256_final(&hash, hex);
    assert_string_equal(hex, "2d7a115f6cdc8058181ab1eae95f170e2e0ea50c73808d6cdd7bf7aa817237b7");
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(check_exp),    cmocka_unit_test(check_log),  cmocka_unit_test(check_pow),
        cmocka_unit_test(check_circle), cmocka_unit_test(check_bits),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
