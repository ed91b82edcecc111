// Sums of squares (NUMERICS 12) and AdamW (NUMERICS 13), the definition.
#include "kern/rows_int.h"
#include "kern/math_int.h"

void kern_ref_adamw(float *w, float *m, float *v, const float *g, size_t n, const struct kern_adamw *o)
{
    for (size_t i = 0; i < n; i++) {
        float grad = o->clip * g[i];
        m[i] = fmaf(o->beta1, m[i], o->one_minus_beta1 * grad);
        v[i] = fmaf(o->beta2, v[i], (o->one_minus_beta2 * grad) * grad);
        float mh = m[i] * o->correction1, vh = v[i] * o->correction2;
        w[i] = w[i] - o->lr * (mh / (sqrtf(vh) + o->eps) + o->weight_decay * w[i]);
    }
}

void kern_ref_block_squares(double *sums, const float *x, size_t n)
{
    for (size_t first = 0; first < n; first += KERN_SQUARES_BLOCK) {
        size_t end = n - first < KERN_SQUARES_BLOCK ? n : first + KERN_SQUARES_BLOCK;
        double sum = 0;
        for (size_t i = first; i < end; i++) {
            sum += (double)x[i] * (double)x[i];
        }
        sums[first / KERN_SQUARES_BLOCK] = sum;
    }
}

double kern_ref_sum_squares(const float *x, size_t n)
{
    double total = 0;
    for (size_t first = 0; first < n; first += KERN_SQUARES_BLOCK) {
        double sum;
        kern_ref_block_squares(&sum, x + first, n - first < KERN_SQUARES_BLOCK ? n - first : KERN_SQUARES_BLOCK);
        total += sum;
    }
    return total;
}
