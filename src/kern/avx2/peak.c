// The FMA peak of one lane: register-only chains, for figures of merit. Its result means nothing.
#include "kern/rows_int.h"

#include <immintrin.h>

uint64_t kern_avx2_fma_burst(float sink[16], uint64_t rounds)
{
    enum { CHAINS = 12 };
    __m256 x = _mm256_set1_ps(0.999f), y = _mm256_set1_ps(0.001f), sum[CHAINS];
    for (int i = 0; i < CHAINS; i++)
        sum[i] = _mm256_set1_ps((float)i);
    for (uint64_t r = 0; r < rounds; r++) {
#pragma GCC unroll 12
        for (int i = 0; i < CHAINS; i++)
            sum[i] = _mm256_fmadd_ps(sum[i], x, y);
    }
    for (int i = 1; i < CHAINS; i++)
        sum[0] = _mm256_add_ps(sum[0], sum[i]);
    _mm256_storeu_ps(sink, sum[0]);
    return rounds * CHAINS * 2 * (sizeof sum[0] / sizeof(float));
}
