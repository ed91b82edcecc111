// A product of one row without the fixed order, for the price of it (AVX-512): two chains an output, and a block's
// scale taken out of its sum: fewer operations, other bits. Several rows have chains enough to keep a core busy in the
// fixed order, and widen a block once for all of them: there is nothing to gain by another.
#ifndef BENCH_FREE_ORDER_H
#define BENCH_FREE_ORDER_H

#include "kern/kern.h"

#include <immintrin.h>

#define UNROLL _Pragma("GCC unroll 32")
#define AVX512 __attribute__((target("avx512f,avx512bw")))

static inline AVX512 __attribute__((always_inline)) void free_run(const struct kern_packed_gemm *g, size_t panel,
                                                                  enum kern_weight type)
{
    const struct kern_packed *w = g->w;
    const char *data = (const char *)w->data + panel * (kern_packed_bytes(type, KERN_PANEL, w->k));
    const size_t columns = w->n - panel * KERN_PANEL < KERN_PANEL ? w->n - panel * KERN_PANEL : KERN_PANEL;
    __m512 total[4] = {0};
    for (size_t k = 0; k < w->k; k += KERN_QUANT) {
        const char *q = data + KERN_PANEL * sizeof(uint16_t), *ahead = data + kern_packed_bytes(type, KERN_PANEL, 128);
        __m512 part[2][4] = {0};
        UNROLL
        for (size_t i = 0; i < KERN_QUANT; i++) {
            const __m512 left = _mm512_set1_ps(g->a[k + i]);
            _mm_prefetch(ahead + i * 64, _MM_HINT_T1);
            UNROLL
            for (size_t v = 0; v < 4; v++) {
                const char *at = q + i * KERN_PANEL + v * 16;
                const __m512 right =
                    type == KERN_F32
                        ? _mm512_loadu_ps((const float *)(const void *)data + i * KERN_PANEL + v * 16)
                        : _mm512_cvtepi32_ps(_mm512_cvtepi8_epi32(_mm_loadu_si128((const __m128i *)(const void *)at)));
                part[i % 2][v] = _mm512_fmadd_ps(left, right, part[i % 2][v]);
            }
        }
        UNROLL
        for (size_t v = 0; v < 4; v++) {
            const __m512 sum = _mm512_add_ps(part[0][v], part[1][v]);
            const __m256i *d = (const __m256i *)(const void *)(data + v * 32);
            total[v] = type == KERN_F32 ? _mm512_add_ps(total[v], sum)
                                        : _mm512_fmadd_ps(sum, _mm512_cvtph_ps(_mm256_loadu_si256(d)), total[v]);
        }
        data += kern_packed_bytes(type, KERN_PANEL, KERN_QUANT);
    }
    UNROLL
    for (size_t v = 0; v < 4; v++) {
        const size_t left = columns > v * 16 ? columns - v * 16 : 0;
        _mm512_mask_storeu_ps(g->c + panel * KERN_PANEL + v * 16, (__mmask16)(left < 16 ? (1u << left) - 1 : 0xffff),
                              total[v]);
    }
}

// What it can do: one row, fp32 or Q8_0 in whole blocks, no bias.
static inline bool free_can(const struct kern_packed_gemm *g)
{
    return g->m == 1 && (g->w->type == KERN_F32 || g->w->type == KERN_Q8_0) && g->w->k % KERN_QUANT == 0 && !g->bias;
}

static AVX512 void free_panel(const struct kern_packed_gemm *g, size_t panel)
{
    if (g->w->type == KERN_F32)
        free_run(g, panel, KERN_F32);
    else
        free_run(g, panel, KERN_Q8_0);
}

#endif
