// ref/loss.c over vectors.
#ifndef KERN_SIMD_LOSS_H
#define KERN_SIMD_LOSS_H

#include "kern/rows_int.h"
#include "kern/simd/vmath.h"

static float maximum(const float *x, size_t count)
{
    vf max = v_set(-INFINITY);
    size_t whole = count - count % KERN_LANES;
    for (size_t i = 0; i < whole; i += KERN_LANES) {
        max = v_max(v_load(x + i), max);
    }
    if (whole < count) {
        vm tail = v_first(count - whole);
        max = v_max(v_select(tail, v_load_n(x + whole, count - whole), max), max);
    }
    return v_fold_max(max) + 0.0f;
}

// exp(x - max) into x (or nowhere); returns the sum
static float exponentials(float *x, size_t count, float max, bool store)
{
    vf lane = v_zero(), maxima = v_set(max);
    V_EACH(i, n, count)
    {
        vf e = v_keep_n(v_exp(v_sub(v_load_n(x + i, n), maxima)), n);
        lane = v_add(lane, e);
        if (store) {
            v_store_n(x + i, e, n);
        }
    }
    return v_fold(lane);
}

void SIMD(softmax)(float *x, size_t count)
{
    vf sum = v_set(exponentials(x, count, maximum(x, count), true)), inverse = v_div(v_set(1.0f), sum);
    V_EACH(i, n, count)
    {
        v_store_n(x + i, v_quotient(v_load_n(x + i, n), sum, inverse), n);
    }
}

void SIMD(cross_entropy)(double *losses, float *logits, const int32_t *targets, float scale, size_t rows, size_t vocab,
                         bool grad)
{
    for (size_t r = 0; r < rows; r++) {
        float *x = logits + r * vocab;
        if (targets[r] < 0) {
            losses[r] = 0;
            if (grad) {
                memset(x, 0, vocab * sizeof *x);
            }
            continue;
        }
        size_t target = (size_t)targets[r];
        float max = maximum(x, vocab), hit = x[target] - max;
        float sum = exponentials(x, vocab, max, grad);
        losses[r] = (double)(kern_log(sum) - hit);
        if (grad) {
            float p = x[target] / sum;
            vf sums = v_set(sum), inverse = v_div(v_set(1.0f), sums), scales = v_set(scale);
            V_EACH(i, n, vocab)
            {
                v_store_n(x + i, v_mul(v_quotient(v_load_n(x + i, n), sums, inverse), scales), n);
            }
            x[target] = (p - 1.0f) * scale;
        }
    }
}

#endif
