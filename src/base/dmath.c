// Elementary functions in double from additions, multiplications and divisions alone: argument reduction with
// constants split so that the products are exact, then Taylor series long enough that the rest lies below half
// an ulp, written as plain quotients of integers that every compiler rounds alike. No fma, no libm, no table.
// pow carries its logarithm in two doubles, since y*log(x) magnifies its error.
#include "base/dmath.h"

#include <math.h>
#include <stdint.h>
#include <string.h>

// Unevaluated sum hi + lo, |lo| <= ulp(hi)/2.
struct pair {
    double hi, lo;
};

static const double ln2_hi = 0x1.62e42fefp-1; // 32 bits: an exponent times it is exact
static const double ln2_lo = 0x1.473de6af278edp-34;

static uint64_t bits_of(double x)
{
    uint64_t bits;
    memcpy(&bits, &x, sizeof bits);
    return bits;
}

static double from_bits(uint64_t bits)
{
    double x;
    memcpy(&x, &bits, sizeof x);
    return x;
}

// Nearest integer of |x| < 2^51: adding 1.5 * 2^52 leaves no room for a fraction.
static double nearest(double x)
{
    double shifted = x + 0x1.8p52;
    return shifted - 0x1.8p52;
}

static struct pair sum(double a, double b)
{
    double s = a + b;
    double b_part = s - a;
    return (struct pair){s, (a - (s - b_part)) + (b - b_part)};
}

// Exact product (Dekker): halves of 26 bits. Arguments below 2^996.
static struct pair product(double a, double b)
{
    double p = a * b;
    double ta = a * 134217729.0, tb = b * 134217729.0;
    double a_hi = ta - (ta - a), b_hi = tb - (tb - b);
    double a_lo = a - a_hi, b_lo = b - b_hi;
    return (struct pair){p, ((a_hi * b_hi - p) + a_hi * b_lo + a_lo * b_hi) + a_lo * b_lo};
}

static struct pair pair_product(struct pair a, struct pair b)
{
    struct pair p = product(a.hi, b.hi);
    return sum(p.hi, p.lo + (a.hi * b.lo + a.lo * b.hi));
}

static struct pair pair_sum(struct pair a, struct pair b)
{
    struct pair s = sum(a.hi, b.hi);
    return sum(s.hi, s.lo + (a.lo + b.lo));
}

// x * 2^k for k in [-1140, 1024], x in [0.5, 2]; two steps, since 2^k itself may not be a normal number.
static double scale(double x, int k)
{
    int half = k / 2;
    return x * from_bits((uint64_t)(1023 + half) << 52) * from_bits((uint64_t)(1023 + k - half) << 52);
}

// exp(x + lo), |lo| tiny beside x.
static double exp_pair(double x, double lo)
{
    if (x != x)
        return x;
    if (x > 710.0)
        return (double)INFINITY;
    if (x < -746.0)
        return 0.0;
    double k = nearest(x * 0x1.71547652b82fep+0);
    struct pair r = sum(x - k * ln2_hi, lo - k * ln2_lo); // |r| <= 0.35
    double h = r.hi;
    // (e^h - 1 - h) / h^2
    double p = 1.0 / 87178291200.0;
    p = p * h + 1.0 / 6227020800.0;
    p = p * h + 1.0 / 479001600.0;
    p = p * h + 1.0 / 39916800.0;
    p = p * h + 1.0 / 3628800.0;
    p = p * h + 1.0 / 362880.0;
    p = p * h + 1.0 / 40320.0;
    p = p * h + 1.0 / 5040.0;
    p = p * h + 1.0 / 720.0;
    p = p * h + 1.0 / 120.0;
    p = p * h + 1.0 / 24.0;
    p = p * h + 1.0 / 6.0;
    p = p * h + 0.5;
    double e = 1.0 + (h + (h * h * p + (r.lo + r.lo * h)));
    return scale(e, (int)k);
}

double bg_dexp(double x)
{
    return exp_pair(x, 0.0);
}

// x = m * 2^k with m in [sqrt(1/2), sqrt(2)); x > 0, finite.
static double split_exponent(double x, int *k)
{
    int exponent = 0;
    if (x < 0x1p-1022) {
        x *= 0x1p54;
        exponent = -54;
    }
    uint64_t bits = bits_of(x);
    exponent += (int)(bits >> 52) - 1023;
    double m = from_bits((bits & 0xfffffffffffffu) | (uint64_t)1023 << 52);
    if (m > 0x1.6a09e667f3bcdp+0) {
        m *= 0.5;
        exponent++;
    }
    *k = exponent;
    return m;
}

// (atanh(s)/s - 1) / z - 1/3, over z = s^2 <= 0.0295; times z^2 it is what follows s^3/3.
static double atanh_tail(double z)
{
    double p = 1.0 / 23.0;
    p = p * z + 1.0 / 21.0;
    p = p * z + 1.0 / 19.0;
    p = p * z + 1.0 / 17.0;
    p = p * z + 1.0 / 15.0;
    p = p * z + 1.0 / 13.0;
    p = p * z + 1.0 / 11.0;
    p = p * z + 1.0 / 9.0;
    p = p * z + 1.0 / 7.0;
    return p * z + 1.0 / 5.0;
}

// Zero, negative, infinite and NaN arguments of the logarithm.
static double log_special(double x)
{
    if (x == 0.0)
        return -(double)INFINITY;
    if (x < 0.0)
        return (double)NAN;
    return x; // inf, NaN
}

double bg_dlog(double x)
{
    if (!(x > 0.0) || x > 0x1.fffffffffffffp+1023)
        return log_special(x);
    int exponent = 0;
    double f = split_exponent(x, &exponent) - 1.0; // exact
    double k = exponent;
    double s = f / (2.0 + f);
    double z = s * s;
    double tail = 2.0 * z * (1.0 / 3.0 + z * atanh_tail(z));
    // log(1+f) = 2s + s*tail, and 2s = f - s*f: the large part f stays exact.
    double half = 0.5 * f * f;
    // 2s = f - f*s, f*s = f^2/2 - s*f^2/2: the remainder is small, so its rounding is too.
    double rest = s * (half + tail) + k * ln2_lo;
    return k * ln2_hi + (f - (half - rest));
}

// log(x) to about 2^-65 of its size.
static struct pair log_pair(double x)
{
    int exponent = 0;
    double f = split_exponent(x, &exponent) - 1.0;
    struct pair d = sum(2.0, f);
    double q = f / d.hi;
    struct pair back = product(q, d.hi);
    struct pair s = sum(q, (((f - back.hi) - back.lo) - q * d.lo) / d.hi);
    struct pair z = pair_product(s, s);
    struct pair third = {0x1.5555555555555p-2, 0x1.5555555555555p-56};
    struct pair series = pair_product(z, third);
    series = pair_sum(series, sum(z.hi * z.hi * atanh_tail(z.hi), 0.0));
    struct pair log_m = pair_sum(s, pair_product(s, series));
    double k = exponent;
    struct pair log_k = sum(k * ln2_hi, k * ln2_lo);
    return pair_sum(log_k, (struct pair){2.0 * log_m.hi, 2.0 * log_m.lo});
}

double bg_dpow(double x, double y)
{
    if (y == 0.0 || x == 1.0)
        return 1.0;
    if (x == 0.0)
        return y > 0.0 ? 0.0 : y < 0.0 ? (double)INFINITY : y;
    if (!(x > 0.0) || y != y)
        return (double)NAN;
    if (x > 0x1.fffffffffffffp+1023)
        return y > 0.0 ? x : 0.0;
    struct pair l = log_pair(x);
    double rough = y * l.hi;
    if (rough > 750.0 || rough < -750.0) // also keeps the exact product below from overflowing
        return exp_pair(rough, 0.0);
    struct pair p = product(y, l.hi);
    return exp_pair(p.hi, p.lo + y * l.lo);
}

// x = r + n * pi/2, |r| <= pi/4; returns n mod 4. The first four parts have 23 bits, so that n (30 bits) times
// each is exact; the sum keeps its rounding in r.lo.
static unsigned reduce(double x, struct pair *r)
{
    static const double half_pi[5] = {0x1.921fb4p+0, 0x1.4442dp-24, 0x1.846988p-48, 0x1.8cc514p-72,
                                      0x1.80dc1cd129025p-95};
    double n = nearest(x * 0x1.45f306dc9c883p-1);
    struct pair rest = {x, 0.0};
    for (int i = 0; i < 5; i++) {
        struct pair next = sum(rest.hi, -n * half_pi[i]);
        rest = sum(next.hi, next.lo + rest.lo);
    }
    *r = rest;
    return (unsigned)((int64_t)n & 3);
}

static double sin_reduced(struct pair r)
{
    double z = r.hi * r.hi;
    double p = -1.0 / 121645100408832000.0;
    p = p * z + 1.0 / 355687428096000.0;
    p = p * z - 1.0 / 1307674368000.0;
    p = p * z + 1.0 / 6227020800.0;
    p = p * z - 1.0 / 39916800.0;
    p = p * z + 1.0 / 362880.0;
    p = p * z - 1.0 / 5040.0;
    p = p * z + 1.0 / 120.0;
    p = p * z - 1.0 / 6.0;
    return r.hi + (r.hi * z * p + (r.lo - 0.5 * z * r.lo));
}

static double cos_reduced(struct pair r)
{
    double z = r.hi * r.hi;
    double p = 1.0 / 2432902008176640000.0;
    p = p * z - 1.0 / 6402373705728000.0;
    p = p * z + 1.0 / 20922789888000.0;
    p = p * z - 1.0 / 87178291200.0;
    p = p * z + 1.0 / 479001600.0;
    p = p * z - 1.0 / 3628800.0;
    p = p * z + 1.0 / 40320.0;
    p = p * z - 1.0 / 720.0;
    p = p * z + 1.0 / 24.0;
    double half = 0.5 * z;
    double w = 1.0 - half;
    return w + (((1.0 - w) - half) + (z * z * p - r.hi * r.lo));
}

static double sin_quadrant(double x, unsigned quarter_turns)
{
    if (!(x >= -0x1p30 && x <= 0x1p30))
        return (double)NAN;
    struct pair r;
    unsigned quadrant = (reduce(x, &r) + quarter_turns) & 3;
    double value = quadrant & 1 ? cos_reduced(r) : sin_reduced(r);
    return quadrant & 2 ? -value : value;
}

double bg_dsin(double x)
{
    return sin_quadrant(x, 0);
}

double bg_dcos(double x)
{
    return sin_quadrant(x, 1);
}
