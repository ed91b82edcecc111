// The reference kernels against double precision: forward values within a stated bound of a double oracle, gradients
// against central differences of that oracle. The oracles are written from the mathematics, not from the kernels.
// (kern/rows_test.c then shows that the vector kernels equal the reference bit for bit.)
#include "kern/math_int.h"
#include "kern/rows_int.h"
#include "base/philox.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stdlib.h>
#include <cmocka.h>

#define MAX 4096 // floats of the largest tensor here

static uint64_t seed = 1;

static double uniform(void) // in [-1, 1)
{
    seed = seed * 6364136223846793005u + 1442695040888963407u;
    return (double)(int64_t)(seed >> 11) * 0x1p-52 - 1.0;
}

static void fill(float *x, size_t n, double scale)
{
    for (size_t i = 0; i < n; i++) {
        x[i] = (float)(uniform() * scale);
    }
}

// |got - want| / |want| over the vectors
static double distance(const float *got, const double *want, size_t n)
{
    double difference = 0, norm = 0;
    for (size_t i = 0; i < n; i++) {
        double d = (double)got[i] - want[i];
        difference += d * d;
        norm += want[i] * want[i];
    }
    return sqrt(difference / (norm > 0 ? norm : 1));
}

typedef double (*loss_fn)(const void *context, const double *x);

static void differentiate(double *grad, loss_fn loss, const void *context, const float *x, size_t n)
{
    double v[MAX];
    for (size_t i = 0; i < n; i++) {
        v[i] = (double)x[i];
    }
    for (size_t i = 0; i < n; i++) {
        double at = v[i], h = 1e-4;
        v[i] = at + h;
        double up = loss(context, v);
        v[i] = at - h;
        double down = loss(context, v);
        v[i] = at;
        grad[i] = (up - down) / (2 * h);
    }
}

static double ulps(double want, float got)
{
    double size = fabs(want);
    float at = (float)size;
    return fabs((double)got - want) / ((double)nextafterf(at, INFINITY) - (double)at);
}

static void test_functions(void **state)
{
    (void)state;
    for (uint64_t bits = 0; bits < 0x100000000u; bits += 4099) {
        float x = kern_from_bits((uint32_t)bits);
        if (isnan(x)) {
            assert_true(isnan(kern_exp(x)) && isnan(kern_log(x)));
            continue;
        }
        if (x >= KERN_EXP_MIN && x <= 88.7228f) {
            assert_true(ulps(exp((double)x), kern_exp(x)) <= 2);
        }
        if (x > 0 && x < INFINITY) {
            assert_true(ulps(log((double)x), kern_log(x)) <= 2);
        }
    }
    assert_true(kern_exp(0.0f) == 1.0f && kern_exp(-0.0f) == 1.0f && kern_exp(INFINITY) == INFINITY);
    assert_true(kern_exp(88.73f) == INFINITY && kern_bits(kern_exp(-INFINITY)) == 0 &&
                kern_bits(kern_exp(-87.0f)) == 0);
    assert_true(kern_log(1.0f) == 0 && kern_log(0.0f) == -INFINITY && kern_log(INFINITY) == INFINITY);
    assert_true(isnan(kern_log(-1.0f)));
}

// --- norms -----------------------------------------------------------------------------------------------------------

struct norm {
    size_t dim;
    bool centred;
    const float *x, *gamma, *beta, *dout;
};

static void norm_oracle(double *out, const struct norm *n, const double *x, const double *gamma, const double *beta)
{
    double mean = 0, square = 0;
    for (size_t i = 0; n->centred && i < n->dim; i++) {
        mean += x[i] / (double)n->dim;
    }
    for (size_t i = 0; i < n->dim; i++) {
        square += (x[i] - mean) * (x[i] - mean) / (double)n->dim;
    }
    for (size_t i = 0; i < n->dim; i++) {
        out[i] = (x[i] - mean) / sqrt(square + (double)1e-5f) * gamma[i] + (n->centred ? beta[i] : 0);
    }
}

static double norm_loss(const void *context, const double *v) // v = x, gamma, beta
{
    const struct norm *n = context;
    double out[MAX], loss = 0;
    norm_oracle(out, n, v, v + n->dim, v + 2 * n->dim);
    for (size_t i = 0; i < n->dim; i++) {
        loss += out[i] * (double)n->dout[i];
    }
    return loss;
}

static void test_norms(void **state)
{
    (void)state;
    for (size_t dim = 1; dim <= 200; dim = dim * 2 + 1) {
        for (int centred = 0; centred < 2; centred++) {
            float v[3 * 256], dout[256], out[256], dx[256], dgamma[256], dbeta[256], mean = 0, rstd = 0;
            double want[MAX], values[3 * 256], expected[256];
            struct norm n = {.dim = dim, .centred = centred, .dout = dout};
            fill(v, 3 * dim, 1.5);
            fill(dout, dim, 1);
            for (size_t i = 0; i < 3 * dim; i++) {
                values[i] = (double)v[i];
            }
            norm_oracle(expected, &n, values, values + dim, values + 2 * dim);
            differentiate(want, norm_loss, &n, v, 3 * dim);
            if (centred) {
                kern_ref_layer_norm(out, &mean, &rstd, v, v + dim, v + 2 * dim, 1e-5f, 1, dim);
                kern_ref_layer_norm_grad(dx, dout, v, v + dim, &mean, &rstd, 1, dim, false);
            } else {
                kern_ref_rms_norm(out, &rstd, v, v + dim, 1e-5f, 1, dim);
                kern_ref_rms_norm_grad(dx, dout, v, v + dim, &rstd, 1, dim, false);
            }
            kern_ref_norm_weight_grad(dgamma, centred ? dbeta : NULL, dout, v, centred ? &mean : NULL, &rstd, 1, dim, 1,
                                      0, dim, false);
            assert_true(distance(out, expected, dim) < 1e-6);
            if (dim > 1) { // alone, an element is its own norm: its gradient is zero up to rounding
                assert_true(distance(dx, want, dim) < 2e-6);
            }
            assert_true(distance(dgamma, want + dim, dim) < 1e-6 || dim == 1);
            assert_true(!centred || distance(dbeta, want + 2 * dim, dim) < 1e-6);
        }
    }
}

static void test_segments(void **state)
{
    (void)state;
    // Leaves of one row each: the canonical tree over them, spelled out.
    float x[7] = {1, 0x1p-24f, 0x1p-24f, 3, 0x1p-23f, 5, 0x1p-22f}, out = 2;
    kern_ref_column_sum(&out, x, 1, 1, 7, 0, 1, false);
    assert_true(out == ((x[0] + x[1]) + (x[2] + x[3])) + ((x[4] + x[5]) + x[6]));
    kern_ref_column_sum(&out, x, 7, 1, 1, 0, 1, false);
    assert_true(out == (((((x[0] + x[1]) + x[2]) + x[3]) + x[4]) + x[5]) + x[6]);
    float before = out;
    kern_ref_column_sum(&out, x, 1, 1, 5, 0, 1, true);
    assert_true(out == (((x[0] + x[1]) + (x[2] + x[3])) + x[4]) + before);
}

// --- activations, loss -----------------------------------------------------------------------------------------------

static double gelu(double x)
{
    return 0.5 * x * (1 + tanh(sqrt(2 / 3.14159265358979323846) * (x + 0.044715 * x * x * x)));
}

static double silu(double x)
{
    return x / (1 + exp(-x));
}

static void test_activations(void **state)
{
    (void)state;
    float x[512], up[512], dout[512], out[512], dx[512], dup[512], act[512];
    double want[512], slope[512], want_up[512], h = 1e-4;
    for (size_t i = 0; i < 512; i++) {
        x[i] = (float)((double)i / 16 - 16);
    }
    fill(up, 512, 2);
    fill(dout, 512, 1);
    for (size_t i = 0; i < 512; i++) {
        double at = (double)x[i];
        want[i] = gelu(at);
        slope[i] = (double)dout[i] * (gelu(at + h) - gelu(at - h)) / (2 * h);
    }
    kern_ref_gelu(out, x, 512);
    kern_ref_gelu_grad(dx, act, dout, x, 512);
    assert_memory_equal(act, out, sizeof out);
    assert_true(distance(out, want, 512) < 1e-6 && distance(dx, slope, 512) < 1e-6);
    for (size_t i = 0; i < 512; i++) {
        double at = (double)x[i];
        want[i] = silu(at) * (double)up[i];
        want_up[i] = silu(at) * (double)dout[i];
        slope[i] = (double)dout[i] * (double)up[i] * (silu(at + h) - silu(at - h)) / (2 * h);
    }
    kern_ref_swiglu(out, x, up, 512);
    kern_ref_swiglu_grad(dx, dup, act, dout, x, up, 512);
    assert_memory_equal(act, out, sizeof out);
    assert_true(distance(out, want, 512) < 1e-6 && distance(dx, slope, 512) < 1e-6 &&
                distance(dup, want_up, 512) < 1e-6);
}

struct loss_case {
    size_t vocab, target;
};

static double cross_entropy_loss(const void *context, const double *x)
{
    const struct loss_case *c = context;
    double sum = 0;
    for (size_t i = 0; i < c->vocab; i++) {
        sum += exp(x[i]);
    }
    return (log(sum) - x[c->target]) * 0.25;
}

static void test_cross_entropy(void **state)
{
    (void)state;
    for (size_t vocab = 1; vocab < 600; vocab = vocab * 3 + 1) {
        struct loss_case c = {vocab, (vocab - 1) / 3};
        float x[2 * 600], soft[600];
        double grad[600], values[600], p[600], losses[2], sum = 0;
        fill(x, 2 * vocab, 5);
        memcpy(soft, x, vocab * sizeof *x);
        for (size_t i = 0; i < vocab; i++) {
            values[i] = (double)x[i];
            sum += exp(values[i]);
        }
        for (size_t i = 0; i < vocab; i++) {
            p[i] = exp(values[i]) / sum;
        }
        differentiate(grad, cross_entropy_loss, &c, x, vocab);
        int32_t targets[2] = {(int32_t)c.target, -1};
        kern_ref_cross_entropy(losses, x, targets, 0.25f, 2, vocab, false);
        assert_memory_equal(x, soft, vocab * sizeof *x); // evaluation leaves the logits alone
        kern_ref_cross_entropy(losses, x, targets, 0.25f, 2, vocab, true);
        assert_true(fabs(losses[0] - cross_entropy_loss(&c, values) * 4) < 4e-6 && losses[1] == 0);
        assert_true(distance(x, grad, vocab) < 2e-6);
        for (size_t i = vocab; i < 2 * vocab; i++) {
            assert_true(kern_bits(x[i]) == 0);
        }
        kern_ref_softmax(soft, vocab);
        assert_true(distance(soft, p, vocab) < 1e-6);
    }
}

// --- attention -------------------------------------------------------------------------------------------------------

struct attention_case {
    struct kern_attention a;
    const float *dout;
    size_t q_floats, kv_floats;
};

static void attention_oracle(double *out, const struct kern_attention *a, const double *q, const double *k,
                             const double *v)
{
    size_t hd = a->head_dim, group = a->heads / a->kv_heads;
    for (size_t row = 0; row < a->sequences * a->queries * a->heads; row++) {
        size_t h = row % a->heads, i = row / a->heads % a->queries, s = row / a->heads / a->queries;
        const double *qr = q + (s * a->queries + i) * a->q_stride + h * hd;
        size_t base = s * a->kv_sequence_stride + h / group * hd, keys = a->keys - a->queries + i + 1;
        double p[MAX], sum = 0;
        for (size_t j = 0; j < keys; j++) {
            double dot = 0;
            for (size_t d = 0; d < hd; d++) {
                dot += qr[d] * k[base + j * a->k_stride + d];
            }
            p[j] = exp(dot * (double)a->scale);
            sum += p[j];
        }
        for (size_t d = 0; d < hd; d++) {
            double o = 0;
            for (size_t j = 0; j < keys; j++) {
                o += p[j] / sum * v[base + j * a->v_stride + d];
            }
            out[(s * a->queries + i) * a->o_stride + h * hd + d] = o;
        }
    }
}

static double attention_loss(const void *context, const double *x) // x = q, k, v
{
    const struct attention_case *c = context;
    const struct kern_attention *a = &c->a;
    static double out[MAX];
    double loss = 0;
    attention_oracle(out, a, x, x + c->q_floats, x + c->q_floats + c->kv_floats);
    for (size_t i = 0; i < a->sequences * a->queries * a->o_stride; i++) {
        loss += out[i] * (double)c->dout[i];
    }
    return loss;
}

static void check_attention(size_t sequences, size_t queries, size_t keys, size_t heads, size_t kv_heads, size_t hd)
{
    static float x[3 * MAX], grad[3 * MAX], out[MAX], dout[MAX], row_max[MAX], row_sum[MAX], scratch[MAX];
    static double want[3 * MAX], values[3 * MAX];
    size_t q = sequences * queries * heads * hd, kv = sequences * keys * kv_heads * hd;
    struct kern_attention a = {sequences,
                               queries,
                               keys,
                               heads,
                               kv_heads,
                               hd,
                               heads * hd,
                               kv_heads * hd,
                               kv_heads * hd,
                               heads * hd,
                               keys * kv_heads * hd,
                               (float)(1 / sqrt((double)hd)),
                               out,
                               row_max,
                               row_sum,
                               x,
                               x + q,
                               x + q + kv};
    struct attention_case c = {a, dout, q, kv};
    struct kern_attention_grad g = {a, grad, grad + q, grad + q + kv, dout, 0, 0};
    fill(x, q + 2 * kv, 2);
    fill(dout, q, 1);
    for (size_t i = 0; i < q + 2 * kv; i++) {
        values[i] = (double)x[i];
    }
    for (size_t i = 0; i < kern_ref_attention_items(&a); i++) {
        kern_ref_attention(&a, i, scratch);
    }
    attention_oracle(want, &a, values, values + q, values + q + kv);
    assert_true(distance(out, want, q) < 1e-6);
    for (size_t i = 0; i < kern_ref_attention_grad_items(&a); i++) {
        kern_ref_attention_grad(&g, i, scratch);
    }
    differentiate(want, attention_loss, &c, x, q + 2 * kv);
    assert_true(distance(grad, want, q) < 3e-6);
    assert_true(distance(grad + q, want + q, kv) < 3e-6);
    assert_true(distance(grad + q + kv, want + q + kv, kv) < 3e-6);
}

static void test_attention(void **state)
{
    (void)state;
    check_attention(2, 5, 5, 2, 2, 4);
    check_attention(1, 9, 9, 4, 2, 6);
    check_attention(1, 3, 8, 3, 1, 5);
    check_attention(2, 1, 7, 2, 2, 3);
    check_attention(1, 70, 70, 1, 1, 2);
}

// --- optimizer, dropout, widening ------------------------------------------------------------------------------------

static void test_optimizer(void **state)
{
    (void)state;
    struct kern_adamw o = {.lr = 0.01f,
                           .beta1 = 0.9f,
                           .beta2 = 0.95f,
                           .one_minus_beta1 = 0.1f,
                           .one_minus_beta2 = 0.05f,
                           .correction1 = 10,
                           .correction2 = 20,
                           .eps = 1e-8f,
                           .weight_decay = 0.1f,
                           .clip = 0.5f};
    float w = 2, m = 0.5f, v = 0.25f, g = 3;
    double grad = 1.5, em = 0.9 * 0.5 + 0.1 * grad, ev = 0.95 * 0.25 + 0.05 * grad * grad;
    double ew = 2 - 0.01 * (em * 10 / (sqrt(ev * 20) + 1e-8) + 0.1 * 2);
    kern_ref_adamw(&w, &m, &v, &g, 1, &o);
    assert_true(fabs((double)w - ew) < 1e-6 && fabs((double)m - em) < 1e-6 && fabs((double)v - ev) < 1e-6);

    static float x[3 * 4096 + 5];
    fill(x, 3 * 4096 + 5, 1);
    double sums[4], total = 0;
    kern_ref_block_squares(sums, x, 3 * 4096 + 5);
    for (size_t b = 0; b < 4; b++) {
        double sum = 0;
        for (size_t i = b * 4096; i < (b + 1) * 4096 && i < 3 * 4096 + 5; i++) {
            sum += (double)x[i] * (double)x[i];
        }
        assert_true(sum == sums[b]);
        total += sum;
    }
    assert_true(total == kern_ref_sum_squares(x, 3 * 4096 + 5) && kern_ref_sum_squares(x, 0) == 0);
}

static void test_dropout(void **state)
{
    (void)state;
    struct kern_dropout d = {{7, 9}, 3, 2, 5, 0.3f, 1 / 0.7f};
    static float x[20000];
    size_t dropped = 0, first = 0xfffffff1u; // element / 4 is what is counted, so this is far from the wrap
    for (size_t i = 0; i < 20000; i++) {
        x[i] = 1;
    }
    kern_ref_dropout(x, &d, first, 20000);
    for (size_t i = 0; i < 20000; i++) {
        struct bg_philox_counter counter = {{(uint32_t)((first + i) / 4), 2, 3, 5}};
        struct bg_philox_key key = {{7, 9}};
        bool keep = bg_uniform(bg_philox(counter, key).c[(first + i) % 4]) >= 0.3f;
        assert_true(kern_bits(x[i]) == kern_bits(keep ? d.scale : 0.0f));
        dropped += !keep;
    }
    assert_in_range(dropped, 5800, 6200);
}

static void test_widening(void **state)
{
    (void)state;
    for (uint32_t bits = 0; bits < 0x10000; bits++) {
        uint16_t half = (uint16_t)bits;
        float f, b;
        kern_ref_from_f16(&f, &half, 1);
        kern_ref_from_bf16(&b, &half, 1);
        int exponent = (int)(bits >> 10 & 31), mantissa = (int)(bits & 1023);
        double want = exponent ? ldexp(1024 + mantissa, exponent - 25) : ldexp(mantissa, -24);
        if (exponent == 31) {
            assert_true(mantissa ? isnan(f) : isinf(f));
        } else {
            assert_true(fabs((double)f) == want);
        }
        assert_int_equal(kern_bits(f) >> 31, bits >> 15);
        assert_int_equal(kern_bits(b), bits << 16);
    }
}

static void test_rope_embed(void **state)
{
    (void)state;
    // Two heads of 6, rows 14 apart, positions 1, 2, 1: against the rotation of complex numbers, and back.
    float x[3 * 14], before[3 * 14], cosines[3 * 3], sines[3 * 3];
    for (size_t i = 0; i < 9; i++) {
        cosines[i] = (float)cos((double)i);
        sines[i] = (float)sin((double)i);
    }
    fill(x, 42, 1);
    memcpy(before, x, sizeof x);
    kern_ref_rope(x, cosines, sines, 3, 14, 2, 6, 1, 2, false);
    for (size_t r = 0; r < 3; r++) {
        for (size_t i = 0; i < 14; i++) {
            size_t within = i % 6, pair = within % 3, low = r * 14 + i - within + pair;
            double angle = (double)((1 + r % 2) * 3 + pair), a = (double)before[low],
                   b = (double)before[(low + 3) % 42];
            double want = within < 3 ? a * cos(angle) - b * sin(angle) : b * cos(angle) + a * sin(angle);
            want = i < 12 ? want : (double)before[r * 14 + i];
            assert_true(fabs((double)x[r * 14 + i] - want) < 1e-6);
        }
    }
    kern_ref_rope(x, cosines, sines, 3, 14, 2, 6, 1, 2, true);
    for (size_t i = 0; i < 42; i++) {
        assert_true(fabsf(x[i] - before[i]) < 1e-6f);
    }
    float table[4] = {1, 2, 3, 4}, positions[6] = {10, 20, 30, 40, 50, 60}, out[6];
    int32_t tokens[3] = {1, 0, 1};
    kern_ref_embed(out, table, positions, tokens, 3, 2, 1, 2);
    float want[6] = {33, 44, 51, 62, 33, 44};
    assert_memory_equal(out, want, sizeof want);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_functions),   cmocka_unit_test(test_norms),         cmocka_unit_test(test_segments),
        cmocka_unit_test(test_activations), cmocka_unit_test(test_cross_entropy), cmocka_unit_test(test_attention),
        cmocka_unit_test(test_optimizer),   cmocka_unit_test(test_dropout),       cmocka_unit_test(test_widening),
        cmocka_unit_test(test_rope_embed),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
