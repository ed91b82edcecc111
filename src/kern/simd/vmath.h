// math_int.h sixteen lanes at a time: the same operations in the same order.
#ifndef KERN_SIMD_VMATH_H
#define KERN_SIMD_VMATH_H

#include "kern/simd/vec.h"

INLINE vf v_exp(vf x)
{
    vf magic = v_set(KERN_EXP_MAGIC), y = v_min(v_set(KERN_EXP_MAX), x);
    vf t = v_fma(y, v_set(KERN_LOG2E), magic), n = v_sub(t, magic);
    vf r = v_fma(n, v_set(-KERN_LN2_HIGH), y);
    r = v_fma(n, v_set(-KERN_LN2_LOW), r);
    vf q = v_fma(v_set(KERN_EXP_C4), r, v_set(KERN_EXP_C3));
    q = v_fma(q, r, v_set(KERN_EXP_C2));
    q = v_fma(q, r, v_set(KERN_EXP_C1));
    q = v_fma(q, r, v_set(KERN_EXP_C0));
    vf p = v_fma(v_mul(r, r), q, r), half = v_bits_shift23(t);
    vf e = v_fma(half, p, half);
    return v_zero_where(v_less(x, v_set(KERN_EXP_MIN)), v_add(e, e));
}

// a / b with the bits of the division, for many a >= 0 over one b in [1, 2^32], inverse = 1 / b rounded: two steps of
// Markstein ("Computation of elementary functions on the IBM RISC System/6000 processor", 1990). The second is exact
// because q is then within an ulp and a - b q is a float, which asks for a = 0 or a >= 2^-100. Five operations where
// the divider takes sixteen cycles.
INLINE vf v_quotient(vf a, vf b, vf inverse)
{
    if (v_any_between(a, 0.0f, 0x1p-100f)) {
        return v_div(a, b);
    }
    vf minus = v_negate(b), q = v_mul(a, inverse);
    q = v_fma(v_fma(minus, q, a), inverse, q);
    return v_fma(v_fma(minus, q, a), inverse, q);
}

#endif
