// GEMM for AVX2: tiles of 6 x 16, so 12 of the 16 registers hold sums and two hold B. The body is shared with AVX-512.
#include "kern/gemm_int.h"

#include <immintrin.h>

enum { LANES = 8, MR = 6, FEW = 4 };
#define GEMM_NAME(verb) kern_avx2_gemm_##verb
#define GEMM_ROWS(X)    X(1) X(2) X(3) X(4) X(5) X(6)
#define GEMM_FEW(X)     X(1) X(2) X(3) X(4)

typedef __m256 vec;

static inline vec v_zero(void)
{
    return _mm256_setzero_ps();
}

static inline vec v_set(float x)
{
    return _mm256_set1_ps(x);
}

static inline vec v_load(const float *p)
{
    return _mm256_loadu_ps(p);
}

static inline void v_store(float *p, vec x)
{
    _mm256_storeu_ps(p, x);
}

static inline __m256i first_lanes(size_t n)
{
    return _mm256_cmpgt_epi32(_mm256_set1_epi32((int)n), _mm256_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7));
}

// The first n lanes, 1 <= n <= LANES; the others read as +0 and are not written.
static inline vec v_load_n(const float *p, size_t n)
{
    return _mm256_maskload_ps(p, first_lanes(n));
}

static inline void v_store_n(float *p, vec x, size_t n)
{
    _mm256_maskstore_ps(p, first_lanes(n), x);
}

static inline vec v_add(vec a, vec b)
{
    return _mm256_add_ps(a, b);
}

static inline vec v_fma(vec a, vec b, vec c)
{
    return _mm256_fmadd_ps(a, b, c);
}

// 128-bit part i is four floats at p + 4 i ld.
static inline vec v_gather4(const float *p, size_t ld)
{
    return _mm256_insertf128_ps(_mm256_castps128_ps256(_mm_loadu_ps(p)), _mm_loadu_ps(p + 4 * ld), 1);
}

static inline vec v_unpack_lo(vec a, vec b)
{
    return _mm256_unpacklo_ps(a, b);
}

static inline vec v_unpack_hi(vec a, vec b)
{
    return _mm256_unpackhi_ps(a, b);
}

static inline vec v_pair_lo(vec a, vec b)
{
    return _mm256_castpd_ps(_mm256_unpacklo_pd(_mm256_castps_pd(a), _mm256_castps_pd(b)));
}

static inline vec v_pair_hi(vec a, vec b)
{
    return _mm256_castpd_ps(_mm256_unpackhi_pd(_mm256_castps_pd(a), _mm256_castps_pd(b)));
}

#include "kern/simd/gemm_simd.h"
