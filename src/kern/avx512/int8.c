// Products of bytes for AVX-512 without VNNI, as AVX2 has them (avx2/int8.c); a mask says which inputs take the other
// sign. Built with this ISA's flags: nothing here may run before kern_select.
#include "kern/avx512/bytes.h"
#include "kern/rows_int.h"

#define INT8_NAME(verb) kern_avx512_int8_##verb

typedef struct {
    __m512i magnitudes;
    __mmask64 negative;
} weights;

static inline sums sums_start(int32_t offset)
{
    (void)offset; // 128 is taken off the weights themselves
    return _mm512_setzero_si512();
}

static inline weights weights_load(const uint8_t *q)
{
    const __m512i w = _mm512_xor_si512(_mm512_loadu_si512(q), _mm512_set1_epi8(-128));
    return (weights){_mm512_abs_epi8(w), _mm512_movepi8_mask(w)};
}

static inline sums sums_add(sums sum, weights w, inputs x)
{
    const __m512i turned = _mm512_mask_sub_epi8(x, w.negative, _mm512_setzero_si512(), x);
    const __m512i pairs = _mm512_maddubs_epi16(w.magnitudes, turned);
    return _mm512_add_epi32(sum, _mm512_madd_epi16(pairs, _mm512_set1_epi16(1)));
}

#include "kern/simd/int8.h"
