// GEMM: every table memcmp-equal to a chain written here independently (fmaf, recursive tree), over edge and random
// shapes, strides, flags and segments, with denormals, infinities, NaN and -0; within a bound of a double oracle; no
// write outside C or the announced scratch; and a split-K sum is shown to differ, so equality is not had for nothing.
// labels: bits
#include "kern/kern.h"

#include "base/env.h"

#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

enum { GUARD = 64 }; // floats of canary around C and behind the scratch

static const uint32_t canary = 0x7fc5a5a5;

enum values { VALUES_PLAIN, VALUES_SPECIAL };

struct problem {
    struct kern_gemm g;
    float *a, *b, *bias, *c_old; // exact sizes, so that a sanitizer sees a read beyond them
    size_t c_size;               // floats of C from its first to its last element
};

static uint64_t random_state = 1;

static uint32_t random_bits(void)
{
    random_state = random_state * 6364136223846793005u + 1442695040888963407u;
    return (uint32_t)(random_state >> 33) * 2654435761u;
}

static size_t random_below(size_t n)
{
    return (size_t)(random_bits() >> 3) % n;
}

static float random_value(enum values values)
{
    static const float special[] = {0.0f, -0.0f, INFINITY, -INFINITY, NAN, 1e-45f, -1e-42f, 3e38f, -1.17549435e-38f};
    float plain = (float)((double)random_bits() / 4294967296.0 * 2.0 - 1.0);
    if (values == VALUES_PLAIN)
        return plain;
    switch (random_below(40)) {
    case 0:
        return special[random_below(sizeof(special) / sizeof(special[0]))];
    case 1:
        return 0.0f;
    case 2:
        return -0.0f;
    default:
        return random_below(2) ? plain * 1e-20f : plain;
    }
}

static float *random_matrix(size_t rows, size_t ld, size_t width, enum values values)
{
    size_t size = rows && width ? (rows - 1) * ld + width : 0;
    float *x = malloc(size * sizeof(float) + !size);
    assert_non_null(x);
    for (size_t i = 0; i < size; i++)
        x[i] = random_value(values);
    return x;
}

static void problem_init(struct problem *p, const struct kern_gemm *shape, size_t pad, enum values values, bool bias)
{
    struct kern_gemm *g = &p->g;
    *g = *shape;
    size_t depth = g->k * g->segments;
    size_t a_rows = g->op == KERN_TN ? depth : g->m, a_width = g->op == KERN_TN ? g->m : depth;
    size_t b_rows = g->op == KERN_NT ? g->n : depth, b_width = g->op == KERN_NT ? depth : g->n;
    g->lda = a_width + pad;
    g->ldb = b_width + 2 * pad;
    g->ldc = g->n + pad;
    p->a = random_matrix(a_rows, g->lda, a_width, values);
    p->b = random_matrix(b_rows, g->ldb, b_width, values);
    p->bias = bias ? random_matrix(1, g->n, g->n, values) : NULL;
    p->c_size = g->m && g->n ? (g->m - 1) * g->ldc + g->n : 0;
    p->c_old = random_matrix(g->m, g->ldc, g->n, values);
    g->a = p->a;
    g->b = p->b;
    g->bias = p->bias;
}

static void problem_fini(struct problem *p)
{
    free(p->a);
    free(p->b);
    free(p->bias);
    free(p->c_old);
}

// The rules, written down once more, differently: one leaf, the tree by its definition, one element.
static float leaf_sum(const struct kern_gemm *g, size_t i, size_t j, size_t leaf)
{
    float sum = 0.0f;
    for (size_t p = leaf * g->k; p < (leaf + 1) * g->k; p++) {
        float a = g->op == KERN_TN ? g->a[p * g->lda + i] : g->a[i * g->lda + p];
        float b = g->op == KERN_NT ? g->b[j * g->ldb + p] : g->b[p * g->ldb + j];
        sum = fmaf(a, b, sum);
    }
    return sum;
}

static float node_sum(const struct kern_gemm *g, size_t i, size_t j, unsigned height, size_t index)
{
    if (height == 0)
        return leaf_sum(g, i, j, index);
    float left = node_sum(g, i, j, height - 1, 2 * index);
    if ((2 * index + 1) << (height - 1) >= g->segments)
        return left;
    return left + node_sum(g, i, j, height - 1, 2 * index + 1);
}

static float expected_element(const struct problem *p, size_t i, size_t j)
{
    const struct kern_gemm *g = &p->g;
    unsigned height = 0;
    while ((size_t)1 << height < g->segments)
        height++;
    float x = node_sum(g, i, j, height, 0);
    if (g->bias)
        x = x + g->bias[j];
    if (g->accumulate)
        x = x + p->c_old[i * g->ldc + j];
    return x;
}

static bool same_bits(float x, float y)
{
    if (isnan(x) || isnan(y))
        return isnan(x) && isnan(y); // the payload of a NaN is no promise
    return memcmp(&x, &y, sizeof(x)) == 0;
}

static bool is_canary(float x)
{
    return memcmp(&x, &canary, sizeof(x)) == 0;
}

static void fill_canary(float *x, size_t n)
{
    for (size_t i = 0; i < n; i++)
        memcpy(x + i, &canary, sizeof(canary));
}

// Runs the blocks last to first on one dirty scratch of exactly the announced size.
static void run_blocks(const struct kern *kern, const struct kern_gemm *g)
{
    size_t bytes = kern->gemm_scratch(g), guarded = bytes / sizeof(float) + GUARD;
    assert_int_equal(bytes % sizeof(float), 0);
    float *scratch = aligned_alloc(64, (guarded * sizeof(float) + 63) / 64 * 64);
    assert_non_null(scratch);
    for (size_t block = kern->gemm_blocks(g); block-- > 0;) {
        fill_canary(scratch, guarded);
        kern->gemm_block(g, block, scratch);
        for (size_t i = bytes / sizeof(float); i < guarded; i++)
            assert_true(is_canary(scratch[i]));
    }
    free(scratch);
}

// Returns C with canaries around it and in the gaps between its rows; C starts GUARD floats in.
static float *run_guarded(const struct kern *kern, const struct problem *p)
{
    struct kern_gemm g = p->g;
    float *c = malloc((p->c_size + 2 * GUARD) * sizeof(float));
    assert_non_null(c);
    fill_canary(c, p->c_size + 2 * GUARD);
    g.c = c + GUARD;
    for (size_t i = 0; i < g.m && g.accumulate; i++)
        memcpy(g.c + i * g.ldc, p->c_old + i * g.ldc, g.n * sizeof(float));
    run_blocks(kern, &g);

    for (size_t i = 0; i < p->c_size + 2 * GUARD; i++) {
        bool inside = i >= GUARD && i < GUARD + p->c_size && (i - GUARD) % g.ldc < g.n;
        if (!inside && !is_canary(c[i]))
            fail_msg("%s: a write outside C at %zu", kern->isa, i);
    }
    return c;
}

static size_t all_tables(const struct kern *tables[KERN_TABLES])
{
    unsigned bits = 0;
    if (__builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma"))
        bits |= BG_ISA_AVX2;
    if (__builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512dq") && __builtin_cpu_supports("avx512bw") &&
        __builtin_cpu_supports("avx512vl"))
        bits |= BG_ISA_AVX512;
    return kern_tables(bits, tables);
}

static void check(const struct kern_gemm *shape, size_t pad, enum values values, bool bias)
{
    const struct kern *tables[KERN_TABLES];
    size_t count = all_tables(tables);
    struct problem p;
    problem_init(&p, shape, pad, values, bias);
    const struct kern_gemm *g = &p.g;
    float *want = malloc((g->m * g->n + 1) * sizeof(float));
    assert_non_null(want);
    for (size_t i = 0; i < g->m; i++) {
        for (size_t j = 0; j < g->n; j++)
            want[i * g->n + j] = expected_element(&p, i, j);
    }
    for (size_t t = 0; t < count; t++) {
        float *c = run_guarded(tables[t], &p);
        for (size_t i = 0; i < g->m; i++) {
            for (size_t j = 0; j < g->n; j++) {
                float got = c[GUARD + i * g->ldc + j];
                if (!same_bits(got, want[i * g->n + j]))
                    fail_msg("%s: op %d m %zu n %zu k %zu segments %zu bias %d acc %d: C[%zu,%zu] = %a, not %a",
                             tables[t]->isa, (int)g->op, g->m, g->n, g->k, g->segments, bias, g->accumulate, i, j,
                             (double)got, (double)want[i * g->n + j]);
            }
        }
        free(c);
    }
    free(want);
    problem_fini(&p);
}

static void test_edge_shapes(void **state)
{
    (void)state;
    static const size_t sizes[] = {1, 2, 13, 14, 15, 16, 17, 31, 32, 33, 61};
    enum { COUNT = sizeof(sizes) / sizeof(sizes[0]) };
    for (int op = KERN_NT; op <= KERN_TN; op++) {
        for (size_t i = 0; i < COUNT * COUNT; i++) {
            struct kern_gemm g = {
                .op = (enum kern_gemm_op)op, .m = sizes[i / COUNT], .n = sizes[i % COUNT], .segments = 1};
            g.k = sizes[(i * 7 + 3) % COUNT];
            g.accumulate = i % 3 == 0;
            if (op == KERN_TN)
                g.segments = 1 + i % 7;
            check(&g, i % 2 * 5, VALUES_PLAIN, i % 4 == 1);
        }
    }
}

static void test_empty(void **state)
{
    (void)state;
    for (int op = KERN_NT; op <= KERN_TN; op++) {
        for (size_t i = 0; i < 8; i++) {
            struct kern_gemm g = {.op = (enum kern_gemm_op)op, .m = 17, .n = 35, .k = 0, .segments = 1};
            g.accumulate = i & 1;
            if (op == KERN_TN && i & 4)
                g.segments = 3;
            check(&g, 3, VALUES_PLAIN, i & 2);
            g.k = 5;
            g.m = 0;
            check(&g, 3, VALUES_PLAIN, i & 2);
            g.m = 5;
            g.n = 0;
            check(&g, 3, VALUES_PLAIN, i & 2);
        }
    }
}

static void check_random(enum values values, size_t count)
{
    static const size_t limits[] = {20, 70, 200};
    for (size_t i = 0; i < count; i++) {
        size_t small = random_below(3);
        struct kern_gemm g = {.op = (enum kern_gemm_op)random_below(3), .segments = 1};
        g.m = 1 + random_below(limits[small]);
        g.n = 1 + random_below(limits[(small + 1) % 3]);
        g.k = 1 + random_below(limits[random_below(2)]);
        g.accumulate = random_below(2);
        if (g.op == KERN_TN)
            g.segments = 1 + random_below(7);
        check(&g, random_below(3) * 3, values, random_below(2));
    }
}

// Decoding has paths of its own.
static void test_few_rows(void **state)
{
    (void)state;
    static const size_t columns[] = {1, 7, 8, 16, 31, 50}, depths[] = {1, 4, 18, 67, 130};
    for (size_t m = 1; m <= 9; m++) {
        for (size_t i = 0; i < 30; i++) {
            struct kern_gemm g = {.m = m, .n = columns[i % 6], .k = depths[i % 5], .segments = 1};
            g.op = i % 3 == 0 ? KERN_NN : KERN_NT;
            g.accumulate = i % 4 == 0;
            check(&g, i % 2 * 3, i % 7 == 0 ? VALUES_SPECIAL : VALUES_PLAIN, i % 3 == 1);
        }
    }
}

static void test_random(void **state)
{
    (void)state;
    check_random(VALUES_PLAIN, 60);
}

static void test_special_values(void **state)
{
    (void)state;
    check_random(VALUES_SPECIAL, 60);
}

// Chains longer than a pass, blocks in both directions, decode.
static void test_long_chains(void **state)
{
    (void)state;
    static const struct kern_gemm shapes[] = {
        {.op = KERN_NT, .m = 30, .n = 70, .k = 1601, .segments = 1},
        {.op = KERN_NN, .m = 17, .n = 45, .k = 2000, .segments = 1, .accumulate = true},
        {.op = KERN_TN, .m = 29, .n = 40, .k = 777, .segments = 3},
        {.op = KERN_TN, .m = 150, .n = 33, .k = 97, .segments = 7, .accumulate = true},
        {.op = KERN_NT, .m = 1, .n = 1031, .k = 768, .segments = 1},
        {.op = KERN_NN, .m = 1, .n = 1031, .k = 768, .segments = 1},
        {.op = KERN_NT, .m = 3, .n = 515, .k = 1024, .segments = 1, .accumulate = true},
        {.op = KERN_NN, .m = 8, .n = 515, .k = 409, .segments = 1},
        {.op = KERN_NT, .m = 700, .n = 37, .k = 32, .segments = 1},
        {.op = KERN_NN, .m = 37, .n = 1700, .k = 32, .segments = 1},
    };
    for (size_t i = 0; i < sizeof(shapes) / sizeof(shapes[0]); i++) {
        check(&shapes[i], i % 3, VALUES_PLAIN, i % 2);
    }
}

// Rows of B 1,024 floats apart are packed where others are not.
static void test_crowded_rows(void **state)
{
    (void)state;
    struct kern_gemm nn = {.op = KERN_NN, .m = 20, .n = 1000, .k = 70, .segments = 1};
    struct kern_gemm tn = {.op = KERN_TN, .m = 20, .n = 1000, .k = 30, .segments = 3, .accumulate = true};
    check(&nn, 12, VALUES_PLAIN, true);
    check(&tn, 12, VALUES_PLAIN, false);
}

// Callers size the scratch once, for their largest product, and before they know the strides.
static void test_scratch_grows(void **state)
{
    (void)state;
    const struct kern *tables[KERN_TABLES];
    size_t count = all_tables(tables);
    for (size_t i = 0; i < 3000; i++) {
        struct kern_gemm big = {.op = (enum kern_gemm_op)random_below(3), .segments = 1};
        big.m = 1 + random_below(4000);
        big.n = 1 + random_below(4000);
        big.k = 1 + random_below(4000);
        if (big.op == KERN_TN)
            big.segments = 1 + random_below(9);
        struct kern_gemm less = big;
        less.m = 1 + random_below(big.m);
        less.n = random_below(2) ? big.n : 1 + random_below(big.n);
        less.k = random_below(2) ? big.k : 1 + random_below(big.k);
        less.segments = 1 + random_below(big.segments);
        less.lda = less.ldb = 1024 * (1 + random_below(5));
        for (size_t t = 0; t < count; t++)
            assert_true(tables[t]->gemm_scratch(&less) <= tables[t]->gemm_scratch(&big));
    }
}

// |C - exact| <= (depth + 3) eps/2 (|A||B| + |bias| + |C old|), to first order; 1.01 covers the higher ones.
static void test_oracle(void **state)
{
    (void)state;
    const struct kern *tables[KERN_TABLES];
    size_t count = all_tables(tables);
    for (int op = KERN_NT; op <= KERN_TN; op++) {
        struct kern_gemm shape = {
            .op = (enum kern_gemm_op)op, .m = 45, .n = 83, .k = 500, .segments = 1, .accumulate = true};
        struct problem p;
        if (op == KERN_TN)
            shape.segments = 3;
        problem_init(&p, &shape, 1, VALUES_PLAIN, true);
        const struct kern_gemm *g = &p.g;
        for (size_t t = 0; t < count; t++) {
            float *c = run_guarded(tables[t], &p);
            for (size_t e = 0; e < g->m * g->n; e++) {
                size_t i = e / g->n, j = e % g->n;
                double old = (double)p.c_old[i * g->ldc + j], bias = (double)p.bias[j];
                double sum = old + bias, size = fabs(old) + fabs(bias);
                for (size_t k = 0; k < g->k * g->segments; k++) {
                    double a = (double)(op == KERN_TN ? p.a[k * g->lda + i] : p.a[i * g->lda + k]);
                    double b = (double)(op == KERN_NT ? p.b[j * g->ldb + k] : p.b[k * g->ldb + j]);
                    sum += a * b;
                    size += fabs(a * b);
                }
                double bound = 1.01 * (double)(g->k + 5) * 0x1p-24 * size;
                assert_true(fabs((double)c[GUARD + i * g->ldc + j] - sum) <= bound);
            }
            free(c);
        }
        problem_fini(&p);
    }
}

// What the identity checks must be able to see: two half-k sums, added, are not the chain.
static void test_split_k_differs(void **state)
{
    (void)state;
    const struct kern *tables[KERN_TABLES];
    size_t count = all_tables(tables);
    struct kern_gemm shape = {.op = KERN_NT, .m = 20, .n = 40, .k = 128, .segments = 1};
    struct problem p;
    problem_init(&p, &shape, 0, VALUES_PLAIN, false);
    float whole[20 * 40], split[20 * 40];
    for (size_t t = 0; t < count; t++) {
        struct kern_gemm g = p.g;
        g.c = whole;
        run_blocks(tables[t], &g);
        g.c = split;
        g.k = 64;
        run_blocks(tables[t], &g);
        g.a += 64;
        g.b += 64;
        g.accumulate = true;
        run_blocks(tables[t], &g);
        assert_true(memcmp(whole, split, sizeof(whole)) != 0);
    }
    problem_fini(&p);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_edge_shapes),    cmocka_unit_test(test_empty),
        cmocka_unit_test(test_few_rows),       cmocka_unit_test(test_random),
        cmocka_unit_test(test_special_values), cmocka_unit_test(test_long_chains),
        cmocka_unit_test(test_crowded_rows),   cmocka_unit_test(test_scratch_grows),
        cmocka_unit_test(test_oracle),         cmocka_unit_test(test_split_k_differs),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
