// Quantising inputs (ref/int8.c), eight at a time. The largest magnitude is found among the bits as integers, where
// infinities and NaNs are larger than every number.
#ifndef KERN_SIMD_QUANTISE_H
#define KERN_SIMD_QUANTISE_H

#include "kern/rows_int.h"
#include "kern/simd/vec.h"

#include <math.h>
#include <string.h>

enum { QUANTISE_VECS = KERN_QUANT / 8 };

// Bytes 4 v + i of the result: byte 0 of element i of vector v, where elements are -128 .. 127.
INLINE __m256i bytes_of(const __m256i x[QUANTISE_VECS])
{
    const __m256i bytes = _mm256_packs_epi16(_mm256_packs_epi32(x[0], x[1]), _mm256_packs_epi32(x[2], x[3]));
    return _mm256_permutevar8x32_epi32(bytes, _mm256_setr_epi32(0, 4, 1, 5, 2, 6, 3, 7));
}

INLINE int32_t largest_of(__m256i x)
{
    __m128i most = _mm_max_epi32(_mm256_castsi256_si128(x), _mm256_extracti128_si256(x, 1));
    most = _mm_max_epi32(most, _mm_shuffle_epi32(most, 0x4e));
    return _mm_cvtsi128_si32(_mm_max_epi32(most, _mm_shuffle_epi32(most, 0xb1)));
}

INLINE int32_t sum_of(__m256i x)
{
    __m128i sum = _mm_add_epi32(_mm256_castsi256_si128(x), _mm256_extracti128_si256(x, 1));
    sum = _mm_add_epi32(sum, _mm_shuffle_epi32(sum, 0x4e));
    return _mm_cvtsi128_si32(_mm_add_epi32(sum, _mm_shuffle_epi32(sum, 0xb1)));
}

INLINE void quantise_block(struct kern_quantised *out, const float x[KERN_QUANT])
{
    __m256i q[QUANTISE_VECS], bits = _mm256_setzero_si256(), sum = bits;
    UNROLL
    for (size_t v = 0; v < QUANTISE_VECS; v++)
        bits = _mm256_max_epi32(
            bits, _mm256_and_si256(_mm256_castps_si256(_mm256_loadu_ps(x + 8 * v)), _mm256_set1_epi32(INT32_MAX)));
    const int32_t most_bits = largest_of(bits);
    float most;
    memcpy(&most, &most_bits, sizeof most);
    if (!(most >= 0x1p-100f && most < INFINITY)) {
        *out = (struct kern_quantised){.d = most < 0x1p-100f ? 0.0f : NAN};
        return;
    }
    out->d = most / 127.0f;
    const __m256 inverse = _mm256_set1_ps(1.0f / out->d);
    UNROLL
    for (size_t v = 0; v < QUANTISE_VECS; v++) {
        q[v] = _mm256_cvtps_epi32(_mm256_mul_ps(_mm256_loadu_ps(x + 8 * v), inverse));
        sum = _mm256_add_epi32(sum, q[v]);
    }
    out->offset = -128 * sum_of(sum);
    _mm256_storeu_si256((__m256i *)(void *)out->q, bytes_of(q));
}

void SIMD(quantise)(struct kern_quantised *out, const float *x, size_t n)
{
    for (size_t b = 0; b < n / KERN_QUANT; b++)
        quantise_block(out + b, x + b * KERN_QUANT);
}

#endif
