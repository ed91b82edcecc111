// ref/norm.c over vectors. Row sums keep one vector of lanes; column sums keep vectors of columns.
#ifndef KERN_SIMD_NORM_H
#define KERN_SIMD_NORM_H

#include "kern/rows_int.h"
#include "kern/simd/vec.h"

enum { NORM_ROWS = 4 };

void SIMD(rms_norm)(float *out, float *rstd, const float *x, const float *gamma, float eps, size_t rows, size_t dim)
{
    for (size_t r = 0; r < rows; r++, x += dim, out += dim) {
        vf lane = v_zero();
        V_EACH(i, n, dim)
        {
            vf v = v_load_n(x + i, n);
            lane = v_add(lane, v_mul(v, v));
        }
        float scale = 1.0f / sqrtf(v_fold(lane) / (float)dim + eps);
        vf scales = v_set(scale);
        V_EACH(i, n, dim)
        {
            v_store_n(out + i, v_mul(v_mul(v_load_n(x + i, n), scales), v_load_n(gamma + i, n)), n);
        }
        if (rstd) {
            rstd[r] = scale;
        }
    }
}

void SIMD(rms_norm_grad)(float *dx, const float *dout, const float *x, const float *gamma, const float *rstd,
                         size_t rows, size_t dim, bool acc)
{
    for (size_t r = 0; r < rows; r++, x += dim, dout += dim, dx += dim) {
        vf lane = v_zero(), scale = v_set(rstd[r]);
        V_EACH(i, n, dim)
        {
            vf g = v_mul(v_load_n(dout + i, n), v_load_n(gamma + i, n));
            lane = v_add(lane, v_keep_n(v_mul(g, v_mul(v_load_n(x + i, n), scale)), n));
        }
        vf mean = v_set(v_fold(lane) / (float)dim);
        V_EACH(i, n, dim)
        {
            vf g = v_mul(v_load_n(dout + i, n), v_load_n(gamma + i, n));
            vf d = v_mul(v_sub(g, v_mul(v_mul(v_load_n(x + i, n), scale), mean)), scale);
            v_store_n(dx + i, acc ? v_add(d, v_load_n(dx + i, n)) : d, n);
        }
    }
}

// A row is one long dependency (sum, fold, square, fold, root), so rows go through side by side; `rows` is constant
// where this is expanded.
INLINE void layer_norm_rows(float *out, float *mean, float *rstd, const float *x, const float *gamma, const float *beta,
                            float eps, size_t rows, size_t dim)
{
    vf lane[NORM_ROWS], centre[NORM_ROWS], scale[NORM_ROWS];
    UNROLL
    for (size_t r = 0; r < rows; r++) {
        lane[r] = v_zero();
    }
    V_EACH(i, n, dim)
    {
        UNROLL
        for (size_t r = 0; r < rows; r++) {
            lane[r] = v_add(lane[r], v_load_n(x + r * dim + i, n));
        }
    }
    UNROLL
    for (size_t r = 0; r < rows; r++) {
        float m = v_fold(lane[r]) / (float)dim;
        if (mean) {
            mean[r] = m;
        }
        centre[r] = v_set(m);
        lane[r] = v_zero();
    }
    V_EACH(i, n, dim)
    {
        UNROLL
        for (size_t r = 0; r < rows; r++) {
            vf d = v_keep_n(v_sub(v_load_n(x + r * dim + i, n), centre[r]), n);
            lane[r] = v_add(lane[r], v_mul(d, d));
        }
    }
    UNROLL
    for (size_t r = 0; r < rows; r++) {
        float s = 1.0f / sqrtf(v_fold(lane[r]) / (float)dim + eps);
        if (rstd) {
            rstd[r] = s;
        }
        scale[r] = v_set(s);
    }
    V_EACH(i, n, dim)
    {
        vf g = v_load_n(gamma + i, n), b = v_load_n(beta + i, n);
        UNROLL
        for (size_t r = 0; r < rows; r++) {
            vf d = v_mul(v_sub(v_load_n(x + r * dim + i, n), centre[r]), scale[r]);
            v_store_n(out + r * dim + i, v_add(v_mul(d, g), b), n);
        }
    }
}

void SIMD(layer_norm)(float *out, float *mean, float *rstd, const float *x, const float *gamma, const float *beta,
                      float eps, size_t rows, size_t dim)
{
    size_t r = 0;
    for (; r + NORM_ROWS <= rows; r += NORM_ROWS) {
        layer_norm_rows(out + r * dim, mean ? mean + r : NULL, rstd ? rstd + r : NULL, x + r * dim, gamma, beta, eps,
                        NORM_ROWS, dim);
    }
    for (; r < rows; r++) {
        layer_norm_rows(out + r * dim, mean ? mean + r : NULL, rstd ? rstd + r : NULL, x + r * dim, gamma, beta, eps, 1,
                        dim);
    }
}

void SIMD(layer_norm_grad)(float *dx, const float *dout, const float *x, const float *gamma, const float *mean,
                           const float *rstd, size_t rows, size_t dim, bool acc)
{
    for (size_t r = 0; r < rows; r++, x += dim, dout += dim, dx += dim) {
        vf sum = v_zero(), dot = v_zero(), centre = v_set(mean[r]), scale = v_set(rstd[r]);
        V_EACH(i, n, dim)
        {
            vf g = v_mul(v_load_n(dout + i, n), v_load_n(gamma + i, n));
            sum = v_add(sum, g);
            vf hat = v_mul(v_sub(v_load_n(x + i, n), centre), scale);
            dot = v_add(dot, v_keep_n(v_mul(g, hat), n));
        }
        vf mean_sum = v_set(v_fold(sum) / (float)dim), mean_dot = v_set(v_fold(dot) / (float)dim);
        V_EACH(i, n, dim)
        {
            vf g = v_mul(v_load_n(dout + i, n), v_load_n(gamma + i, n));
            vf hat = v_mul(v_sub(v_load_n(x + i, n), centre), scale);
            vf d = v_mul(v_sub(v_sub(g, mean_sum), v_mul(hat, mean_dot)), scale);
            v_store_n(dx + i, acc ? v_add(d, v_load_n(dx + i, n)) : d, n);
        }
    }
}

// Column sums take strips of up to 4 vectors of columns through all rows. The canonical tree over segments is a binary
// counter of partial nodes: 2^32 segments fill 33 of them.
enum { STRIP = 4, LEVELS = 33 };

struct strip {
    vf v[STRIP];
};

struct strip_tree {
    struct strip node[LEVELS];
    size_t depth;
};

INLINE void strip_add(struct strip *right, const struct strip *left, size_t vecs)
{
    for (size_t i = 0; i < vecs; i++) {
        right->v[i] = v_add(left->v[i], right->v[i]);
    }
}

INLINE void strip_push(struct strip_tree *tree, size_t leaf, struct strip *sum, size_t vecs)
{
    for (; leaf & 1; leaf >>= 1) {
        strip_add(sum, &tree->node[--tree->depth], vecs);
    }
    tree->node[tree->depth++] = *sum;
}

INLINE void strip_finish(struct strip_tree *tree, float *out, size_t columns, size_t vecs, bool acc)
{
    struct strip sum = tree->node[--tree->depth];
    while (tree->depth > 0) {
        strip_add(&sum, &tree->node[--tree->depth], vecs);
    }
    for (size_t i = 0; i < vecs; i++, out += KERN_LANES) {
        size_t n = v_lanes(columns - i * KERN_LANES);
        v_store_n(out, acc ? v_add(sum.v[i], v_load_n(out, n)) : sum.v[i], n);
    }
}

INLINE struct strip strip_zero(size_t vecs)
{
    struct strip zero;
    for (size_t i = 0; i < vecs; i++) {
        zero.v[i] = v_zero();
    }
    return zero;
}

struct columns { // of norm_weight_grad and column_sum
    float *dgamma, *dbeta;
    const float *dout, *x, *mean, *rstd;
    size_t rows, dim, segments;
    bool acc;
};

// `vecs` vectors of columns from `column`, `columns` of them real; vecs is constant where this is expanded.
INLINE void norm_strip(const struct columns *c, size_t column, size_t columns, size_t vecs)
{
    struct strip_tree gamma_tree, beta_tree;
    gamma_tree.depth = beta_tree.depth = 0;
    for (size_t s = 0; s < c->segments; s++) {
        struct strip gamma = strip_zero(vecs), beta = strip_zero(vecs);
        for (size_t r = s * c->rows; r < (s + 1) * c->rows; r++) {
            const float *d = c->dout + r * c->dim + column, *x = c->x + r * c->dim + column;
            vf scale = v_set(c->rstd[r]), centre = v_set(c->mean ? c->mean[r] : 0.0f); // x - 0 is x
            UNROLL
            for (size_t i = 0; i < vecs; i++) {
                size_t n = v_lanes(columns - i * KERN_LANES);
                vf dv = v_load_n(d + i * KERN_LANES, n), xv = v_load_n(x + i * KERN_LANES, n);
                gamma.v[i] = v_add(gamma.v[i], v_mul(dv, v_mul(v_sub(xv, centre), scale)));
                beta.v[i] = v_add(beta.v[i], dv);
            }
        }
        strip_push(&gamma_tree, s, &gamma, vecs);
        strip_push(&beta_tree, s, &beta, vecs);
    }
    strip_finish(&gamma_tree, c->dgamma + column, columns, vecs, c->acc);
    if (c->dbeta) {
        strip_finish(&beta_tree, c->dbeta + column, columns, vecs, c->acc);
    }
}

void SIMD(norm_weight_grad)(float *dgamma, float *dbeta, const float *dout, const float *x, const float *mean,
                            const float *rstd, size_t rows, size_t dim, size_t segments, size_t col0, size_t col1,
                            bool acc)
{
    struct columns c = {dgamma, dbeta, dout, x, mean, rstd, rows, dim, segments, acc};
    for (; col0 + STRIP * KERN_LANES <= col1; col0 += STRIP * KERN_LANES) {
        norm_strip(&c, col0, STRIP * KERN_LANES, STRIP);
    }
    for (; col0 < col1; col0 += KERN_LANES) {
        norm_strip(&c, col0, col1 - col0, 1);
    }
}

INLINE void column_strip(const struct columns *c, size_t column, size_t columns, size_t vecs)
{
    struct strip_tree tree;
    tree.depth = 0;
    for (size_t s = 0; s < c->segments; s++) {
        struct strip sum = strip_zero(vecs);
        for (size_t r = s * c->rows; r < (s + 1) * c->rows; r++) {
            const float *x = c->x + r * c->dim + column;
            UNROLL
            for (size_t i = 0; i < vecs; i++) {
                sum.v[i] = v_add(sum.v[i], v_load_n(x + i * KERN_LANES, v_lanes(columns - i * KERN_LANES)));
            }
        }
        strip_push(&tree, s, &sum, vecs);
    }
    strip_finish(&tree, c->dgamma + column, columns, vecs, c->acc);
}

void SIMD(column_sum)(float *out, const float *x, size_t rows, size_t dim, size_t segments, size_t col0, size_t col1,
                      bool acc)
{
    struct columns c = {.dgamma = out, .x = x, .rows = rows, .dim = dim, .segments = segments, .acc = acc};
    for (; col0 + STRIP * KERN_LANES <= col1; col0 += STRIP * KERN_LANES) {
        column_strip(&c, col0, STRIP * KERN_LANES, STRIP);
    }
    for (; col0 < col1; col0 += KERN_LANES) {
        column_strip(&c, col0, col1 - col0, 1);
    }
}

#endif
