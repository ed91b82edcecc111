// vec.h for AVX2: two ymm, lanes chosen by vectors of all-ones or zero.
#ifndef KERN_SIMD_VEC256_H
#define KERN_SIMD_VEC256_H

#include "kern/simd/vec.h"

#define SIMD(name)                kern_avx2_##name
#define SIMD_TILE_ROWS            4 // register tile of attention: rows x vectors, 8 ymm of sums
#define SIMD_TILE_VECS            1
#define SIMD_PACKED_ROWS          3 // register tile of packed products: 12 ymm of sums
#define SIMD_PACKED_VECS          2
#define SIMD_PACKED_EACH(X, type) X(type, 1) X(type, 2) X(type, 3)
#define SIMD_PAGED_ROWS           1 // of paged attention: rows at the values, pages at the scores
#define SIMD_PAGED_PAGES          1

typedef struct {
    __m256 a, b;
} vf;

typedef struct { // 16 x uint32
    __m256i a, b;
} vu;

typedef struct {
    __m256 a, b;
} vm;

INLINE __m256i v_first8(long n) // n may be negative or above 8
{
    int bound = (int)(n < 0 ? 0 : n > 8 ? 8 : n);
    return _mm256_cmpgt_epi32(_mm256_set1_epi32(bound), _mm256_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7));
}

INLINE vm v_first(size_t n)
{
    return (vm){_mm256_castsi256_ps(v_first8((long)n)), _mm256_castsi256_ps(v_first8((long)n - 8))};
}

INLINE vf v_zero(void)
{
    return (vf){_mm256_setzero_ps(), _mm256_setzero_ps()};
}

INLINE vf v_set(float x)
{
    return (vf){_mm256_set1_ps(x), _mm256_set1_ps(x)};
}

INLINE vf v_load(const float *p)
{
    return (vf){_mm256_loadu_ps(p), _mm256_loadu_ps(p + 8)};
}

INLINE vf v_load_n(const float *p, size_t n)
{
    if (n == KERN_LANES) {
        return v_load(p);
    }
    return (vf){_mm256_maskload_ps(p, v_first8((long)n)), _mm256_maskload_ps(p + 8, v_first8((long)n - 8))};
}

INLINE void v_store(float *p, vf x)
{
    _mm256_storeu_ps(p, x.a);
    _mm256_storeu_ps(p + 8, x.b);
}

INLINE void v_store_n(float *p, vf x, size_t n)
{
    if (n == KERN_LANES) {
        v_store(p, x);
    } else {
        _mm256_maskstore_ps(p, v_first8((long)n), x.a);
        _mm256_maskstore_ps(p + 8, v_first8((long)n - 8), x.b);
    }
}

#define V_BOTH(name, op)                                                                                               \
    INLINE vf name(vf x, vf y)                                                                                         \
    {                                                                                                                  \
        return (vf){op(x.a, y.a), op(x.b, y.b)};                                                                       \
    }
V_BOTH(v_add, _mm256_add_ps)
V_BOTH(v_sub, _mm256_sub_ps)
V_BOTH(v_mul, _mm256_mul_ps)
V_BOTH(v_div, _mm256_div_ps)
V_BOTH(v_max, _mm256_max_ps) // x > y ? x : y
V_BOTH(v_min, _mm256_min_ps) // x < y ? x : y
V_BOTH(v_xor, _mm256_xor_ps)

INLINE vf v_sqrt(vf x)
{
    return (vf){_mm256_sqrt_ps(x.a), _mm256_sqrt_ps(x.b)};
}

INLINE vf v_fma(vf x, vf y, vf z)
{
    return (vf){_mm256_fmadd_ps(x.a, y.a, z.a), _mm256_fmadd_ps(x.b, y.b, z.b)};
}

INLINE vm v_less(vf x, vf y)
{
    return (vm){_mm256_cmp_ps(x.a, y.a, _CMP_LT_OQ), _mm256_cmp_ps(x.b, y.b, _CMP_LT_OQ)};
}

INLINE vm v_at_least(vf x, vf y)
{
    return (vm){_mm256_cmp_ps(x.a, y.a, _CMP_GE_OQ), _mm256_cmp_ps(x.b, y.b, _CMP_GE_OQ)};
}

INLINE bool v_any_between(vf x, float low, float high) // low < x < high in some lane
{
    vm above = v_less(v_set(low), x), below = v_less(x, v_set(high));
    __m256 both = _mm256_or_ps(_mm256_and_ps(above.a, below.a), _mm256_and_ps(above.b, below.b));
    return !_mm256_testz_si256(_mm256_castps_si256(both), _mm256_castps_si256(both));
}

INLINE vf v_zero_where(vm mask, vf x)
{
    return (vf){_mm256_andnot_ps(mask.a, x.a), _mm256_andnot_ps(mask.b, x.b)};
}

INLINE vf v_keep_where(vm mask, vf x)
{
    return (vf){_mm256_and_ps(mask.a, x.a), _mm256_and_ps(mask.b, x.b)};
}

INLINE vf v_keep_n(vf x, size_t n)
{
    return n == KERN_LANES ? x : v_keep_where(v_first(n), x);
}

INLINE vf v_select(vm mask, vf yes, vf no)
{
    return (vf){_mm256_blendv_ps(no.a, yes.a, mask.a), _mm256_blendv_ps(no.b, yes.b, mask.b)};
}

INLINE vf v_negate(vf x)
{
    return v_xor(x, v_set(-0.0f));
}

INLINE vf v_bits_shift23(vf x) // the float whose bits are those of x shifted left by 23
{
    return (vf){_mm256_castsi256_ps(_mm256_slli_epi32(_mm256_castps_si256(x.a), 23)),
                _mm256_castsi256_ps(_mm256_slli_epi32(_mm256_castps_si256(x.b), 23))};
}

INLINE float v_fold(vf x) // NUMERICS 5
{
    __m256 a = _mm256_add_ps(x.a, x.b);
    __m128 b = _mm_add_ps(_mm256_castps256_ps128(a), _mm256_extractf128_ps(a, 1));
    __m128 c = _mm_add_ps(b, _mm_movehl_ps(b, b));
    return _mm_cvtss_f32(_mm_add_ss(c, _mm_movehdup_ps(c)));
}

INLINE float v_fold_max(vf x)
{
    __m256 a = _mm256_max_ps(x.a, x.b);
    __m128 b = _mm_max_ps(_mm256_castps256_ps128(a), _mm256_extractf128_ps(a, 1));
    __m128 c = _mm_max_ps(b, _mm_movehl_ps(b, b));
    return _mm_cvtss_f32(_mm_max_ss(c, _mm_movehdup_ps(c)));
}

// Narrowing and widening.
INLINE void v_to_f16(uint16_t *p, vf x)
{
    _mm_storeu_si128((__m128i *)p, _mm256_cvtps_ph(x.a, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC));
    _mm_storeu_si128((__m128i *)(p + 8), _mm256_cvtps_ph(x.b, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC));
}

INLINE vf v_from_f16(const uint16_t *p)
{
    return (vf){_mm256_cvtph_ps(_mm_loadu_si128((const __m128i *)p)),
                _mm256_cvtph_ps(_mm_loadu_si128((const __m128i *)(p + 8)))};
}

INLINE vf v_from_bf16(const uint16_t *p)
{
    __m256i a = _mm256_cvtepu16_epi32(_mm_loadu_si128((const __m128i *)p));
    __m256i b = _mm256_cvtepu16_epi32(_mm_loadu_si128((const __m128i *)(p + 8)));
    return (vf){_mm256_castsi256_ps(_mm256_slli_epi32(a, 16)), _mm256_castsi256_ps(_mm256_slli_epi32(b, 16))};
}

INLINE vf v_widen_bytes(__m128i x) // 16 signed bytes
{
    return (vf){_mm256_cvtepi32_ps(_mm256_cvtepi8_epi32(x)),
                _mm256_cvtepi32_ps(_mm256_cvtepi8_epi32(_mm_unpackhi_epi64(x, x)))};
}

INLINE vf v_widen_halves(__m128i x, int shift) // 4 bits of 16 bytes, less 8
{
    x = _mm_and_si128(_mm_srli_epi16(x, shift), _mm_set1_epi8(15));
    return v_widen_bytes(_mm_sub_epi8(x, _mm_set1_epi8(8)));
}

// Integers, for Philox.
INLINE vu vu_set(uint32_t x)
{
    return (vu){_mm256_set1_epi32((int)x), _mm256_set1_epi32((int)x)};
}

INLINE vu vu_count(uint32_t first) // first + 0..15
{
    __m256i from = _mm256_set1_epi32((int)first);
    return (vu){_mm256_add_epi32(from, _mm256_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7)),
                _mm256_add_epi32(from, _mm256_setr_epi32(8, 9, 10, 11, 12, 13, 14, 15))};
}

INLINE vu vu_xor(vu x, vu y)
{
    return (vu){_mm256_xor_si256(x.a, y.a), _mm256_xor_si256(x.b, y.b)};
}

INLINE void vu_multiply8(__m256i *high, __m256i *low, __m256i x, __m256i y) // 32 x 32 -> 64 bits
{
    __m256i even = _mm256_mul_epu32(x, y);
    __m256i odd = _mm256_mul_epu32(_mm256_srli_epi64(x, 32), _mm256_srli_epi64(y, 32));
    *low = _mm256_blend_epi32(even, _mm256_slli_epi64(odd, 32), 0xaa);
    *high = _mm256_blend_epi32(_mm256_srli_epi64(even, 32), odd, 0xaa);
}

INLINE void vu_multiply(vu *high, vu *low, vu x, vu y)
{
    vu_multiply8(&high->a, &low->a, x.a, y.a);
    vu_multiply8(&high->b, &low->b, x.b, y.b);
}

INLINE vf vu_uniform(vu x) // bg_uniform
{
    vf f = {_mm256_cvtepi32_ps(_mm256_srli_epi32(x.a, 8)), _mm256_cvtepi32_ps(_mm256_srli_epi32(x.b, 8))};
    return v_mul(f, v_set(0x1p-24f));
}

INLINE void v_store_interleaved8(float *p, __m256 a, __m256 b, __m256 c, __m256 d)
{
    __m256 ab0 = _mm256_unpacklo_ps(a, b), ab2 = _mm256_unpackhi_ps(a, b);
    __m256 cd0 = _mm256_unpacklo_ps(c, d), cd2 = _mm256_unpackhi_ps(c, d);
    __m256 quad[4] = {_mm256_shuffle_ps(ab0, cd0, 0x44), _mm256_shuffle_ps(ab0, cd0, 0xee),
                      _mm256_shuffle_ps(ab2, cd2, 0x44), _mm256_shuffle_ps(ab2, cd2, 0xee)};
    for (size_t q = 0; q < 4; q++) { // 128-bit lane l of quad q: element 4l + q
        _mm_storeu_ps(p + 4 * q, _mm256_castps256_ps128(quad[q]));
        _mm_storeu_ps(p + 4 * q + 16, _mm256_extractf128_ps(quad[q], 1));
    }
}

// Four vectors x, y, z, w to memory as x0 y0 z0 w0 x1 y1 ..
INLINE void v_store_interleaved(float *p, vf x, vf y, vf z, vf w)
{
    v_store_interleaved8(p, x.a, y.a, z.a, w.a);
    v_store_interleaved8(p + 32, x.b, y.b, z.b, w.b);
}

#endif
