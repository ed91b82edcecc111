// ref/optim.c over vectors. The chain of a block of squares cannot be split, so eight blocks run side by side: eight
// chains in the lanes of two vectors of doubles, fed through an 8 x 8 transposition.
#ifndef KERN_SIMD_OPTIM_H
#define KERN_SIMD_OPTIM_H

#include "kern/rows_int.h"
#include "kern/simd/vec.h"

void SIMD(adamw)(float *w, float *m, float *v, const float *g, size_t count, const struct kern_adamw *o)
{
    vf clip = v_set(o->clip), beta1 = v_set(o->beta1), beta2 = v_set(o->beta2), eps = v_set(o->eps);
    vf rest1 = v_set(o->one_minus_beta1), rest2 = v_set(o->one_minus_beta2), lr = v_set(o->lr);
    vf correction1 = v_set(o->correction1), correction2 = v_set(o->correction2), decay = v_set(o->weight_decay);
    V_EACH(i, n, count)
    {
        vf grad = v_mul(clip, v_load_n(g + i, n)), weight = v_load_n(w + i, n);
        vf first = v_fma(beta1, v_load_n(m + i, n), v_mul(rest1, grad));
        vf second = v_fma(beta2, v_load_n(v + i, n), v_mul(v_mul(rest2, grad), grad));
        vf root = v_add(v_sqrt(v_mul(second, correction2)), eps);
        vf step = v_add(v_div(v_mul(first, correction1), root), v_mul(decay, weight));
        v_store_n(m + i, first, n);
        v_store_n(v + i, second, n);
        v_store_n(w + i, v_sub(weight, v_mul(lr, step)), n);
    }
}

// Up to 8 whole blocks; the square of a float is exact in double, so fmadd rounds as the written sum does.
static void whole_blocks(double *sums, const float *x, size_t blocks)
{
    const float *row[8];
    for (size_t i = 0; i < 8; i++) {
        row[i] = x + (i < blocks ? i : 0) * KERN_SQUARES_BLOCK;
    }
    __m256d low = _mm256_setzero_pd(), high = _mm256_setzero_pd();
    for (size_t at = 0; at < KERN_SQUARES_BLOCK; at += 8) {
        __m256 column[8];
        transpose8(column, row, at);
        UNROLL
        for (size_t i = 0; i < 8; i++) {
            __m256d a = _mm256_cvtps_pd(_mm256_castps256_ps128(column[i]));
            __m256d b = _mm256_cvtps_pd(_mm256_extractf128_ps(column[i], 1));
            low = _mm256_fmadd_pd(a, a, low);
            high = _mm256_fmadd_pd(b, b, high);
        }
    }
    double lanes[8];
    _mm256_storeu_pd(lanes, low);
    _mm256_storeu_pd(lanes + 4, high);
    memcpy(sums, lanes, blocks * sizeof *sums);
}

void SIMD(block_squares)(double *sums, const float *x, size_t n)
{
    size_t whole = n / KERN_SQUARES_BLOCK;
    for (size_t block = 0; block < whole; block += 8) {
        whole_blocks(sums + block, x + block * KERN_SQUARES_BLOCK, whole - block < 8 ? whole - block : 8);
    }
    kern_ref_block_squares(sums + whole, x + whole * KERN_SQUARES_BLOCK, n % KERN_SQUARES_BLOCK);
}

double SIMD(sum_squares)(const float *x, size_t n)
{
    double total = 0;
    size_t group = 8 * (size_t)KERN_SQUARES_BLOCK;
    for (size_t first = 0; first < n; first += group) {
        double sums[8];
        size_t here = n - first < group ? n - first : group;
        SIMD(block_squares)(sums, x + first, here);
        for (size_t b = 0; b * KERN_SQUARES_BLOCK < here; b++) {
            total += sums[b];
        }
    }
    return total;
}

#endif
