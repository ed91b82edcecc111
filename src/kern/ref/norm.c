// Norms and column sums, the definition. Row sums follow NUMERICS 5 (16 lanes, folded), column sums are one chain over
// rows ascending, segments are joined by the canonical tree (NUMERICS 9). Every product and sum below is rounded
// on its own, in the order written.
#include "kern/rows_int.h"
#include "kern/math_int.h"

void kern_ref_rms_norm(float *out, float *rstd, const float *x, const float *gamma, float eps, size_t rows, size_t dim)
{
    for (size_t r = 0; r < rows; r++, x += dim, out += dim) {
        float lane[KERN_LANES] = {0};
        for (size_t i = 0; i < dim; i++) {
            lane[i % KERN_LANES] += x[i] * x[i];
        }
        float scale = 1.0f / sqrtf(kern_fold(lane) / (float)dim + eps);
        for (size_t i = 0; i < dim; i++) {
            out[i] = (x[i] * scale) * gamma[i];
        }
        if (rstd) {
            rstd[r] = scale;
        }
    }
}

void kern_ref_rms_norm_grad(float *dx, const float *dout, const float *x, const float *gamma, const float *rstd,
                            size_t rows, size_t dim, bool acc)
{
    for (size_t r = 0; r < rows; r++, x += dim, dout += dim, dx += dim) {
        float lane[KERN_LANES] = {0};
        for (size_t i = 0; i < dim; i++) {
            lane[i % KERN_LANES] += (dout[i] * gamma[i]) * (x[i] * rstd[r]);
        }
        float mean = kern_fold(lane) / (float)dim;
        for (size_t i = 0; i < dim; i++) {
            float d = (dout[i] * gamma[i] - (x[i] * rstd[r]) * mean) * rstd[r];
            dx[i] = acc ? d + dx[i] : d;
        }
    }
}

void kern_ref_layer_norm(float *out, float *mean, float *rstd, const float *x, const float *gamma, const float *beta,
                         float eps, size_t rows, size_t dim)
{
    for (size_t r = 0; r < rows; r++, x += dim, out += dim) {
        float lane[KERN_LANES] = {0};
        for (size_t i = 0; i < dim; i++) {
            lane[i % KERN_LANES] += x[i];
        }
        float centre = kern_fold(lane) / (float)dim;
        memset(lane, 0, sizeof lane);
        for (size_t i = 0; i < dim; i++) {
            float d = x[i] - centre;
            lane[i % KERN_LANES] += d * d;
        }
        float scale = 1.0f / sqrtf(kern_fold(lane) / (float)dim + eps);
        for (size_t i = 0; i < dim; i++) {
            out[i] = ((x[i] - centre) * scale) * gamma[i] + beta[i];
        }
        if (mean) {
            mean[r] = centre;
        }
        if (rstd) {
            rstd[r] = scale;
        }
    }
}

void kern_ref_layer_norm_grad(float *dx, const float *dout, const float *x, const float *gamma, const float *mean,
                              const float *rstd, size_t rows, size_t dim, bool acc)
{
    for (size_t r = 0; r < rows; r++, x += dim, dout += dim, dx += dim) {
        float sum[KERN_LANES] = {0}, dot[KERN_LANES] = {0};
        for (size_t i = 0; i < dim; i++) {
            float g = dout[i] * gamma[i];
            sum[i % KERN_LANES] += g;
            dot[i % KERN_LANES] += g * ((x[i] - mean[r]) * rstd[r]);
        }
        float mean_sum = kern_fold(sum) / (float)dim, mean_dot = kern_fold(dot) / (float)dim;
        for (size_t i = 0; i < dim; i++) {
            float g = dout[i] * gamma[i];
            float d = ((g - mean_sum) - ((x[i] - mean[r]) * rstd[r]) * mean_dot) * rstd[r];
            dx[i] = acc ? d + dx[i] : d;
        }
    }
}

// The canonical tree, fed leaf by leaf like a binary counter: one partial node per set bit of the count.
struct tree {
    float node[64];
    size_t depth;
};

static void tree_push(struct tree *tree, size_t leaf, float value)
{
    for (; leaf & 1; leaf >>= 1) {
        value = tree->node[--tree->depth] + value;
    }
    tree->node[tree->depth++] = value;
}

static float tree_root(struct tree *tree)
{
    float value = tree->node[--tree->depth];
    while (tree->depth > 0) {
        value = tree->node[--tree->depth] + value;
    }
    return value;
}

void kern_ref_norm_weight_grad(float *dgamma, float *dbeta, const float *dout, const float *x, const float *mean,
                               const float *rstd, size_t rows, size_t dim, size_t segments, size_t col0, size_t col1,
                               bool acc)
{
    for (size_t c = col0; c < col1; c++) {
        struct tree gamma_tree = {.depth = 0}, beta_tree = {.depth = 0};
        for (size_t s = 0; s < segments; s++) {
            float gamma_sum = 0, beta_sum = 0;
            for (size_t r = s * rows; r < (s + 1) * rows; r++) {
                float d = dout[r * dim + c], v = x[r * dim + c];
                gamma_sum += d * ((mean ? v - mean[r] : v) * rstd[r]);
                beta_sum += d;
            }
            tree_push(&gamma_tree, s, gamma_sum);
            tree_push(&beta_tree, s, beta_sum);
        }
        float g = tree_root(&gamma_tree), b = tree_root(&beta_tree);
        dgamma[c] = acc ? g + dgamma[c] : g;
        if (dbeta) {
            dbeta[c] = acc ? b + dbeta[c] : b;
        }
    }
}

void kern_ref_column_sum(float *out, const float *x, size_t rows, size_t dim, size_t segments, size_t col0, size_t col1,
                         bool acc)
{
    for (size_t c = col0; c < col1; c++) {
        struct tree tree = {.depth = 0};
        for (size_t s = 0; s < segments; s++) {
            float sum = 0;
            for (size_t r = s * rows; r < (s + 1) * rows; r++) {
                sum += x[r * dim + c];
            }
            tree_push(&tree, s, sum);
        }
        float sum = tree_root(&tree);
        out[c] = acc ? sum + out[c] : sum;
    }
}
