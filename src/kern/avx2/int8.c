// Products of bytes for AVX2: magnitudes of weights (up to 128) times inputs that take
// the weights' signs (up to 127), in pairs whose sum is at most 32,512: no 16 bits overflow. Tiles of 6 x 8. Built with
// this ISA's flags: nothing here may run before kern_select.
#include "kern/rows_int.h"

#include <immintrin.h>
#include <string.h>

enum { LANES = 8 };
#define INT8_NAME(verb) kern_avx2_int8_##verb

typedef __m256 chains;
typedef __m256i sums, inputs;
typedef struct {
    __m256i signs, magnitudes;
} weights;

static inline size_t tile_vecs(size_t rows)
{
    return rows == 1 ? 4 : rows <= 3 ? 2 : 1;
}

static inline sums sums_start(int32_t offset)
{
    (void)offset; // 128 is taken off the weights themselves
    return _mm256_setzero_si256();
}

static inline weights weights_load(const uint8_t *q)
{
    const __m256i x = _mm256_loadu_si256((const __m256i *)(const void *)q);
    const __m256i w = _mm256_xor_si256(x, _mm256_set1_epi8(-128));
    return (weights){w, _mm256_abs_epi8(w)};
}

static inline inputs inputs_set(const int8_t *q)
{
    int32_t four;
    memcpy(&four, q, sizeof four);
    return _mm256_set1_epi32(four);
}

static inline sums sums_add(sums sum, weights w, inputs x)
{
    const __m256i pairs = _mm256_maddubs_epi16(w.magnitudes, _mm256_sign_epi8(x, w.signs));
    return _mm256_add_epi32(sum, _mm256_madd_epi16(pairs, _mm256_set1_epi16(1)));
}

static inline chains chains_zero(void)
{
    return _mm256_setzero_ps();
}

static inline chains chains_load(const float *p)
{
    return _mm256_loadu_ps(p);
}

static inline void chains_store(float *p, chains x)
{
    _mm256_storeu_ps(p, x);
}

static inline chains chains_from_f16(const uint8_t *d)
{
    return _mm256_cvtph_ps(_mm_loadu_si128((const __m128i *)(const void *)d));
}

static inline chains chains_add(chains acc, sums sum, chains d, float input_d)
{
    return _mm256_fmadd_ps(_mm256_cvtepi32_ps(sum), _mm256_mul_ps(d, _mm256_set1_ps(input_d)), acc);
}

// The first n of x and of bias (NULL: none), or all.
static inline void chains_end(float *c, chains x, const float *bias, size_t n)
{
    const __m256i lanes = _mm256_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7);
    const __m256i first = _mm256_cmpgt_epi32(_mm256_set1_epi32(n < LANES ? (int)n : LANES), lanes);
    if (bias)
        x = _mm256_add_ps(x, _mm256_maskload_ps(bias, first));
    _mm256_maskstore_ps(c, first, x);
}

#include "kern/simd/int8.h"
