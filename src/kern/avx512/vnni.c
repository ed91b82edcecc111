// Products of bytes for AVX-512 with VNNI: one instruction multiplies 64 weights (0..255) with four inputs (signed)
// repeated 16 times, and adds up the products by fours. The 128 that weights are stored with leaves by the first value
// of the sums. Built with this ISA's flags: nothing here may run before kern_select.
#include "kern/avx512/bytes.h"
#include "kern/rows_int.h"

#define INT8_NAME(verb) kern_vnni_int8_##verb

typedef __m512i weights;

static inline sums sums_start(int32_t offset)
{
    return _mm512_set1_epi32(offset);
}

static inline weights weights_load(const uint8_t *q)
{
    return _mm512_loadu_si512(q);
}

static inline sums sums_add(sums sum, weights w, inputs x)
{
    return _mm512_dpbusd_epi32(sum, w, x);
}

#include "kern/simd/int8.h"

void kern_vnni_packed_gemm(const struct kern_packed_gemm *g, size_t panel, void *scratch)
{
    if (g->w->type == KERN_INT8)
        kern_vnni_int8_gemm(g, panel, scratch);
    else
        kern_avx512_packed_gemm(g, panel, scratch);
}
