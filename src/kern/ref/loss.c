// Softmax and its cross-entropy, the definition (NUMERICS 6): exact maximum, exponentials, 16-lane sum, division.
// The exponentials replace the logits, so there is no second buffer of a vocabulary's width.
#include "kern/rows_int.h"
#include "kern/math_int.h"

// Zeros come out as +0, so the order of the comparisons cannot show. NaN is skipped here and comes back in the sum.
static float maximum(const float *x, size_t n)
{
    float max = -INFINITY;
    for (size_t i = 0; i < n; i++) {
        max = x[i] > max ? x[i] : max;
    }
    return max + 0.0f;
}

void kern_ref_softmax(float *x, size_t n)
{
    float max = maximum(x, n), lane[KERN_LANES] = {0};
    for (size_t i = 0; i < n; i++) {
        x[i] = kern_exp(x[i] - max);
        lane[i % KERN_LANES] += x[i];
    }
    float sum = kern_fold(lane);
    for (size_t i = 0; i < n; i++) {
        x[i] = x[i] / sum;
    }
}

void kern_ref_cross_entropy(double *losses, float *logits, const int32_t *targets, float scale, size_t rows,
                            size_t vocab, bool grad)
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
        float max = maximum(x, vocab), hit = x[target] - max, lane[KERN_LANES] = {0};
        for (size_t i = 0; i < vocab; i++) {
            float e = kern_exp(x[i] - max);
            lane[i % KERN_LANES] += e;
            x[i] = grad ? e : x[i];
        }
        float sum = kern_fold(lane);
        losses[r] = (double)(kern_log(sum) - hit);
        for (size_t i = 0; grad && i < vocab; i++) {
            float p = x[i] / sum;
            x[i] = (i == target ? p - 1.0f : p) * scale;
        }
    }
}
