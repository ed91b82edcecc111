// exp and log in float with bits of our own, and the 16-lane fold of NUMERICS 5. These scalar functions define
// the results; simd/vmath.h repeats them operation by operation. They use fmaf (one rounding) where written,
// never because a compiler chose to. Within 1.2 ulp (exp) and 0.8 ulp (log); NaN gives NaN.
#ifndef KERN_MATH_INT_H
#define KERN_MATH_INT_H

#include <math.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

#define KERN_LANES     16
#define KERN_LOG2E     0x1.715476p+0f
#define KERN_LN2_HIGH  0x1.62e43p-1f // nearest float to ln 2
#define KERN_LN2_LOW   -0x1.05c61p-29f
#define KERN_LN2_SHORT 0x1.62ep-1f // 12 bits: its product with an exponent is exact
#define KERN_LN2_REST  0x1.0bfbe8p-15f
#define KERN_EXP_MIN   -86.9f               // below, exp is +0: no intermediate or result is ever subnormal
#define KERN_EXP_MAX   89.0f                // above ln(FLT_MAX): everything from here is +inf
#define KERN_EXP_MAGIC (0x1.8p23f + 126.0f) // adding it leaves n + 126 in the low bits: the exponent field of 2^(n-1)

// (exp(r) - 1 - r) / r^2 for |r| <= ln(2)/2
#define KERN_EXP_C0 0x1.0p-1f
#define KERN_EXP_C1 0x1.55547ep-3f
#define KERN_EXP_C2 0x1.55544ap-5f
#define KERN_EXP_C3 0x1.124758p-7f
#define KERN_EXP_C4 0x1.6dc4dp-10f

#define KERN_GELU_SCALE 0x1.988454p+0f // 2 sqrt(2/pi)
#define KERN_GELU_CUBE  0x1.6e4e26p-5f // 0.044715
#define KERN_GELU_CUBE3 0x1.12ba9ep-3f // 3 * 0.044715

static inline uint32_t kern_bits(float x)
{
    uint32_t bits;
    memcpy(&bits, &x, sizeof bits);
    return bits;
}

static inline float kern_from_bits(uint32_t bits)
{
    float x;
    memcpy(&x, &bits, sizeof x);
    return x;
}

static inline float kern_exp(float x)
{
    float y = KERN_EXP_MAX < x ? KERN_EXP_MAX : x;
    float t = fmaf(y, KERN_LOG2E, KERN_EXP_MAGIC), n = t - KERN_EXP_MAGIC;
    float r = fmaf(n, -KERN_LN2_HIGH, y);
    r = fmaf(n, -KERN_LN2_LOW, r);
    float q = fmaf(KERN_EXP_C4, r, KERN_EXP_C3);
    q = fmaf(q, r, KERN_EXP_C2);
    q = fmaf(q, r, KERN_EXP_C1);
    q = fmaf(q, r, KERN_EXP_C0);
    float p = fmaf(r * r, q, r);                     // exp(r) - 1
    float half = kern_from_bits(kern_bits(t) << 23); // 2^(n-1)
    float e = fmaf(half, p, half);
    return x < KERN_EXP_MIN ? 0.0f : e + e;
}

// Scalar only: one logarithm a row is all that training needs.
static inline float kern_log(float x)
{
    if (!(x > 0.0f)) {
        return x == 0.0f ? -INFINITY : NAN;
    }
    if (x == INFINITY) {
        return x;
    }
    float e = 0.0f;
    if (x < 0x1p-126f) {
        x *= 0x1p23f;
        e = -23.0f;
    }
    uint32_t bits = kern_bits(x) - 0x3f3504f3u; // sqrt(1/2): the mantissa falls in [sqrt(1/2), sqrt(2))
    e += (float)((int32_t)bits >> 23);
    float f = kern_from_bits((bits & 0x7fffffu) + 0x3f3504f3u) - 1.0f;
    float q = fmaf(0x1.1bb69p-4f, f, -0x1.e3a7c8p-4f);
    q = fmaf(q, f, 0x1.e68212p-4f);
    q = fmaf(q, f, -0x1.fb2836p-4f);
    q = fmaf(q, f, 0x1.232df8p-3f);
    q = fmaf(q, f, -0x1.556374p-3f);
    q = fmaf(q, f, 0x1.99a582p-3f);
    q = fmaf(q, f, -0x1.ffffecp-3f);
    q = fmaf(q, f, 0x1.555546p-2f);
    float square = f * f;
    float tail = fmaf(square * f, q, e * KERN_LN2_REST);
    tail = fmaf(-0.5f, square, tail);
    return fmaf(e, KERN_LN2_SHORT, f + tail);
}

// NUMERICS 5: lanes 8, 4, 2, 1.
static inline float kern_fold(float lane[KERN_LANES])
{
    for (size_t step = KERN_LANES / 2; step > 0; step /= 2) {
        for (size_t i = 0; i < step; i++) {
            lane[i] += lane[i + step];
        }
    }
    return lane[0];
}

#endif
