// What products of bytes for AVX-512 have in common, with VNNI or without: chains, inputs, and tiles of 6 x 32 or 3
// x 64.
#ifndef KERN_AVX512_BYTES_H
#define KERN_AVX512_BYTES_H

#include <immintrin.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

enum { LANES = 16 };

typedef __m512 chains;
typedef __m512i sums, inputs;

static inline size_t tile_vecs(size_t rows)
{
    return rows <= 3 ? 4 : 2;
}

static inline inputs inputs_set(const int8_t *q)
{
    int32_t four;
    memcpy(&four, q, sizeof four);
    return _mm512_set1_epi32(four);
}

static inline chains chains_zero(void)
{
    return _mm512_setzero_ps();
}

static inline chains chains_load(const float *p)
{
    return _mm512_loadu_ps(p);
}

static inline void chains_store(float *p, chains x)
{
    _mm512_storeu_ps(p, x);
}

static inline chains chains_from_f16(const uint8_t *d)
{
    return _mm512_cvtph_ps(_mm256_loadu_si256((const __m256i *)(const void *)d));
}

static inline chains chains_add(chains acc, sums sum, chains d, float input_d)
{
    return _mm512_fmadd_ps(_mm512_cvtepi32_ps(sum), _mm512_mul_ps(d, _mm512_set1_ps(input_d)), acc);
}

// The first n of x and of bias (NULL: none), or all.
static inline void chains_end(float *c, chains x, const float *bias, size_t n)
{
    const __mmask16 first = (__mmask16)(n < LANES ? (1u << n) - 1 : 0xffffu);
    if (bias)
        x = _mm512_add_ps(x, _mm512_maskz_loadu_ps(first, bias));
    _mm512_mask_storeu_ps(c, first, x);
}

#endif
