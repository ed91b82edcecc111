// A vector of 16 floats: one zmm where the file is compiled for AVX-512, two ymm for AVX2. The kernels in simd/ are
// written once over it; including it also fixes the prefix of their names (SIMD). Lanes of NUMERICS 5 are its
// lanes. `n` is a count of leading lanes, 0..16: other lanes load as +0 and are not stored.
#ifndef KERN_SIMD_VEC_H
#define KERN_SIMD_VEC_H

#include "kern/math_int.h"

#include <immintrin.h>
#include <stdbool.h>

#define INLINE static inline __attribute__((always_inline))
#ifdef __clang__
#define UNROLL _Pragma("clang loop unroll(full)")
#else
#define UNROLL _Pragma("GCC unroll 16")
#endif

// for (i = 0, 16, .. below count), n = lanes in use at i
#define V_EACH(i, n, count) for (size_t i = 0, n = v_lanes(count); i < (count); i += KERN_LANES, n = v_lanes((count)-i))

static inline size_t v_lanes(size_t left)
{
    return left < KERN_LANES ? left : KERN_LANES;
}

#if defined(__AVX512F__)
#include "kern/simd/vec512.h"
#else
#include "kern/simd/vec256.h"
#endif

// Row i of out = column i of the 8 x 8 block whose rows start at `row`.
INLINE void transpose8(__m256 out[8], const float *const row[8], size_t at)
{
    __m256 pair[8], quad[8];
    UNROLL
    for (size_t i = 0; i < 8; i += 2) {
        __m256 a = _mm256_loadu_ps(row[i] + at), b = _mm256_loadu_ps(row[i + 1] + at);
        pair[i] = _mm256_unpacklo_ps(a, b);
        pair[i + 1] = _mm256_unpackhi_ps(a, b);
    }
    UNROLL
    for (size_t i = 0; i < 8; i += 4) {
        quad[i] = _mm256_shuffle_ps(pair[i], pair[i + 2], 0x44);
        quad[i + 1] = _mm256_shuffle_ps(pair[i], pair[i + 2], 0xee);
        quad[i + 2] = _mm256_shuffle_ps(pair[i + 1], pair[i + 3], 0x44);
        quad[i + 3] = _mm256_shuffle_ps(pair[i + 1], pair[i + 3], 0xee);
    }
    UNROLL
    for (size_t i = 0; i < 4; i++) {
        out[i] = _mm256_permute2f128_ps(quad[i], quad[i + 4], 0x20);
        out[i + 4] = _mm256_permute2f128_ps(quad[i], quad[i + 4], 0x31);
    }
}

#endif
