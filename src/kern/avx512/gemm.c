// GEMM for AVX-512: tiles of 14 x 32, so 28 of the 32 registers hold sums and two hold B. The body is shared with AVX2.
#include "kern/gemm_int.h"

#include <immintrin.h>

enum { LANES = 16, MR = 14, FEW = 8 };
#define GEMM_NAME(verb) kern_avx512_gemm_##verb
#define GEMM_ROWS(X)    X(1) X(2) X(3) X(4) X(5) X(6) X(7) X(8) X(9) X(10) X(11) X(12) X(13) X(14)
#define GEMM_FEW(X)     X(1) X(2) X(3) X(4) X(5) X(6) X(7) X(8)

typedef __m512 vec;

static inline vec v_zero(void)
{
    return _mm512_setzero_ps();
}

static inline vec v_set(float x)
{
    return _mm512_set1_ps(x);
}

static inline vec v_load(const float *p)
{
    return _mm512_loadu_ps(p);
}

static inline void v_store(float *p, vec x)
{
    _mm512_storeu_ps(p, x);
}

static inline __mmask16 first_lanes(size_t n)
{
    return (__mmask16)((1u << n) - 1);
}

// The first n lanes, 1 <= n <= LANES; the others read as +0 and are not written.
static inline vec v_load_n(const float *p, size_t n)
{
    return _mm512_maskz_loadu_ps(first_lanes(n), p);
}

static inline void v_store_n(float *p, vec x, size_t n)
{
    _mm512_mask_storeu_ps(p, first_lanes(n), x);
}

static inline vec v_add(vec a, vec b)
{
    return _mm512_add_ps(a, b);
}

static inline vec v_fma(vec a, vec b, vec c)
{
    return _mm512_fmadd_ps(a, b, c);
}

// 128-bit part i is four floats at p + 4 i ld.
static inline vec v_gather4(const float *p, size_t ld)
{
    vec x = _mm512_castps128_ps512(_mm_loadu_ps(p));
    x = _mm512_insertf32x4(x, _mm_loadu_ps(p + 4 * ld), 1);
    x = _mm512_insertf32x4(x, _mm_loadu_ps(p + 8 * ld), 2);
    return _mm512_insertf32x4(x, _mm_loadu_ps(p + 12 * ld), 3);
}

static inline vec v_unpack_lo(vec a, vec b)
{
    return _mm512_unpacklo_ps(a, b);
}

static inline vec v_unpack_hi(vec a, vec b)
{
    return _mm512_unpackhi_ps(a, b);
}

static inline vec v_pair_lo(vec a, vec b)
{
    return _mm512_castpd_ps(_mm512_unpacklo_pd(_mm512_castps_pd(a), _mm512_castps_pd(b)));
}

static inline vec v_pair_hi(vec a, vec b)
{
    return _mm512_castpd_ps(_mm512_unpackhi_pd(_mm512_castps_pd(a), _mm512_castps_pd(b)));
}

#include "kern/simd/gemm_simd.h"
