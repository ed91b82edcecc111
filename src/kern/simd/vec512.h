// vec.h for AVX-512: one zmm, lanes chosen by mask registers.
#ifndef KERN_SIMD_VEC512_H
#define KERN_SIMD_VEC512_H

#include "kern/simd/vec.h"

#define SIMD(name)                kern_avx512_##name
#define SIMD_TILE_ROWS            8 // register tile of attention: rows x vectors, 16 sums
#define SIMD_TILE_VECS            2
#define SIMD_PACKED_ROWS          6 // register tile of packed products: 24 zmm of sums
#define SIMD_PACKED_VECS          4
#define SIMD_PACKED_EACH(X, type) X(type, 1) X(type, 2) X(type, 3) X(type, 4) X(type, 5) X(type, 6)
#define SIMD_PAGED_ROWS           4 // of paged attention: rows at the values, pages at the scores
#define SIMD_PAGED_PAGES          2

typedef __m512 vf;
typedef __m512i vu; // 16 x uint32
typedef __mmask16 vm;

INLINE vm v_first(size_t n)
{
    return (vm)(0xffffu >> (16 - n));
}

INLINE vf v_zero(void)
{
    return _mm512_setzero_ps();
}

INLINE vf v_set(float x)
{
    return _mm512_set1_ps(x);
}

INLINE vf v_load(const float *p)
{
    return _mm512_loadu_ps(p);
}

INLINE vf v_load_n(const float *p, size_t n)
{
    return n == KERN_LANES ? v_load(p) : _mm512_maskz_loadu_ps(v_first(n), p);
}

INLINE void v_store(float *p, vf x)
{
    _mm512_storeu_ps(p, x);
}

INLINE void v_store_n(float *p, vf x, size_t n)
{
    if (n == KERN_LANES) {
        v_store(p, x);
    } else {
        _mm512_mask_storeu_ps(p, v_first(n), x);
    }
}

INLINE vf v_keep_n(vf x, size_t n)
{
    return n == KERN_LANES ? x : _mm512_maskz_mov_ps(v_first(n), x);
}

INLINE vf v_add(vf a, vf b)
{
    return _mm512_add_ps(a, b);
}

INLINE vf v_sub(vf a, vf b)
{
    return _mm512_sub_ps(a, b);
}

INLINE vf v_mul(vf a, vf b)
{
    return _mm512_mul_ps(a, b);
}

INLINE vf v_div(vf a, vf b)
{
    return _mm512_div_ps(a, b);
}

INLINE vf v_sqrt(vf a)
{
    return _mm512_sqrt_ps(a);
}

INLINE vf v_fma(vf a, vf b, vf c)
{
    return _mm512_fmadd_ps(a, b, c);
}

INLINE vf v_max(vf a, vf b) // a > b ? a : b
{
    return _mm512_max_ps(a, b);
}

INLINE vf v_min(vf a, vf b) // a < b ? a : b
{
    return _mm512_min_ps(a, b);
}

INLINE vm v_less(vf a, vf b)
{
    return _mm512_cmp_ps_mask(a, b, _CMP_LT_OQ);
}

INLINE vm v_at_least(vf a, vf b)
{
    return _mm512_cmp_ps_mask(a, b, _CMP_GE_OQ);
}

INLINE bool v_any_between(vf x, float low, float high) // low < x < high in some lane
{
    vm above = _mm512_cmp_ps_mask(x, v_set(low), _CMP_GT_OQ);
    return _mm512_mask_cmp_ps_mask(above, x, v_set(high), _CMP_LT_OQ) != 0;
}

INLINE vf v_zero_where(vm mask, vf x)
{
    return _mm512_maskz_mov_ps((vm)~mask, x);
}

INLINE vf v_keep_where(vm mask, vf x)
{
    return _mm512_maskz_mov_ps(mask, x);
}

INLINE vf v_select(vm mask, vf yes, vf no)
{
    return _mm512_mask_mov_ps(no, mask, yes);
}

INLINE vf v_negate(vf x)
{
    return _mm512_xor_ps(x, _mm512_set1_ps(-0.0f));
}

INLINE vf v_bits_shift23(vf x) // the float whose bits are those of x shifted left by 23
{
    return _mm512_castsi512_ps(_mm512_slli_epi32(_mm512_castps_si512(x), 23));
}

INLINE float v_fold(vf x) // NUMERICS 5
{
    __m256 a = _mm256_add_ps(_mm512_castps512_ps256(x), _mm512_extractf32x8_ps(x, 1));
    __m128 b = _mm_add_ps(_mm256_castps256_ps128(a), _mm256_extractf128_ps(a, 1));
    __m128 c = _mm_add_ps(b, _mm_movehl_ps(b, b));
    return _mm_cvtss_f32(_mm_add_ss(c, _mm_movehdup_ps(c)));
}

INLINE float v_fold_max(vf x)
{
    return _mm512_reduce_max_ps(x);
}

// Narrowing and widening.
INLINE void v_to_f16(uint16_t *p, vf x)
{
    _mm256_storeu_si256((__m256i *)p, _mm512_cvtps_ph(x, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC));
}

INLINE vf v_from_f16(const uint16_t *p)
{
    return _mm512_cvtph_ps(_mm256_loadu_si256((const __m256i *)p));
}

INLINE vf v_from_bf16(const uint16_t *p)
{
    __m512i wide = _mm512_cvtepu16_epi32(_mm256_loadu_si256((const __m256i *)p));
    return _mm512_castsi512_ps(_mm512_slli_epi32(wide, 16));
}

INLINE vf v_widen_bytes(__m128i x) // 16 signed bytes
{
    return _mm512_cvtepi32_ps(_mm512_cvtepi8_epi32(x));
}

INLINE vf v_widen_halves(__m128i x, unsigned shift) // 4 bits of 16 bytes, less 8
{
    const vf numbers = _mm512_setr_ps(-8, -7, -6, -5, -4, -3, -2, -1, 0, 1, 2, 3, 4, 5, 6, 7);
    return _mm512_permutexvar_ps(_mm512_srli_epi32(_mm512_cvtepu8_epi32(x), shift), numbers);
}

// Integers, for Philox.
INLINE vu vu_set(uint32_t x)
{
    return _mm512_set1_epi32((int)x);
}

INLINE vu vu_count(uint32_t first) // first + 0..15
{
    return _mm512_add_epi32(_mm512_set1_epi32((int)first),
                            _mm512_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15));
}

INLINE vu vu_xor(vu a, vu b)
{
    return _mm512_xor_si512(a, b);
}

INLINE void vu_multiply(vu *high, vu *low, vu a, vu b) // 32 x 32 -> 64 bits
{
    __m512i even = _mm512_mul_epu32(a, b);
    __m512i odd = _mm512_mul_epu32(_mm512_srli_epi64(a, 32), _mm512_srli_epi64(b, 32));
    *low = _mm512_mask_mov_epi32(even, 0xaaaa, _mm512_slli_epi64(odd, 32));
    *high = _mm512_mask_mov_epi32(_mm512_srli_epi64(even, 32), 0xaaaa, odd);
}

INLINE vf vu_uniform(vu x) // bg_uniform
{
    return _mm512_mul_ps(_mm512_cvtepi32_ps(_mm512_srli_epi32(x, 8)), _mm512_set1_ps(0x1p-24f));
}

// Four vectors a, b, c, d to memory as a0 b0 c0 d0 a1 b1 ..
INLINE void v_store_interleaved(float *p, vf a, vf b, vf c, vf d)
{
    __m512 ab0 = _mm512_unpacklo_ps(a, b), ab2 = _mm512_unpackhi_ps(a, b);
    __m512 cd0 = _mm512_unpacklo_ps(c, d), cd2 = _mm512_unpackhi_ps(c, d);
    __m512 quad[4] = {_mm512_shuffle_ps(ab0, cd0, 0x44), _mm512_shuffle_ps(ab0, cd0, 0xee),
                      _mm512_shuffle_ps(ab2, cd2, 0x44), _mm512_shuffle_ps(ab2, cd2, 0xee)};
    for (size_t q = 0; q < 4; q++) { // 128-bit lane l of quad q: element 4l + q
        _mm_storeu_ps(p + 4 * q, _mm512_extractf32x4_ps(quad[q], 0));
        _mm_storeu_ps(p + 4 * q + 16, _mm512_extractf32x4_ps(quad[q], 1));
        _mm_storeu_ps(p + 4 * q + 32, _mm512_extractf32x4_ps(quad[q], 2));
        _mm_storeu_ps(p + 4 * q + 48, _mm512_extractf32x4_ps(quad[q], 3));
    }
}

#endif
