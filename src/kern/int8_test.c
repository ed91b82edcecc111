// Class int8/1: inputs quantised by its formula, written here once more, and products of weights of one byte with them
// against 64-bit sums and their chain, on every table, bit for bit.
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

static uint64_t random_state = 11;

static uint32_t random_bits(void)
{
    random_state = random_state * 6364136223846793005u + 1442695040888963407u;
    return (uint32_t)(random_state >> 33) * 2654435761u;
}

static size_t random_below(size_t n)
{
    return (size_t)(random_bits() >> 3) % n;
}

static float random_float(void)
{
    return (float)((double)random_bits() / 4294967296.0 * 2.0 - 1.0);
}

static void *room(size_t bytes)
{
    void *p = aligned_alloc(64, (bytes + 64) / 64 * 64);
    assert_non_null(p);
    memset(p, 0xa5, (bytes + 64) / 64 * 64);
    return p;
}

static size_t tables(const struct kern *table[KERN_TABLES])
{
    unsigned isa = 0;
    __builtin_cpu_init();
    if (__builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma"))
        isa |= BG_ISA_AVX2;
    if (__builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") && __builtin_cpu_supports("avx512vl") &&
        __builtin_cpu_supports("avx512dq"))
        isa |= BG_ISA_AVX512 | (__builtin_cpu_supports("avx512vnni") ? BG_ISA_VNNI : 0u);
    return kern_tables(isa, table);
}

// ---- Inputs ----
enum kind { PLAIN, TINY, HUGE_ONES, ZERO, HALVES, NOT_FINITE, KINDS };

static float input_of(enum kind kind, size_t block, size_t i)
{
    static const float odd[] = {INFINITY, -INFINITY, NAN};
    const float r = random_float(), least = (float)ldexp(1, -100); // of the largest magnitudes that count
    switch (kind) {
    case TINY:
        if (block % 3 == 0)
            return r * (float)ldexp(1, -95 - (int)block % 60); // to subnormals
        return i != block % KERN_QUANT ? least / 3 : block % 3 == 1 ? -least : nextafterf(least, 0);
    case HUGE_ONES:
        return r * 3.4e38f;
    case ZERO:
        return i % 2 ? -0.0f : 0.0f;
    case HALVES: // d = 1, and ties of the rounding
        return i == 0 ? 127 : (float)((int)random_below(255) - 127) / 2;
    case NOT_FINITE:
        return block % 2 || i != block / 2 % KERN_QUANT ? r : odd[block / 2 % 3];
    default:
        return r * (float)ldexp(1, (int)random_below(12));
    }
}

static void make_inputs(float *x, size_t n, enum kind kind)
{
    for (size_t i = 0; i < n; i++)
        x[i] = input_of(kind, i / KERN_QUANT, i % KERN_QUANT);
}

static void check_block(const struct kern_quantised *block, const float x[KERN_QUANT])
{
    float most = 0;
    int sum = 0;
    bool finite = true;
    for (size_t i = 0; i < KERN_QUANT; i++) {
        finite = finite && isfinite(x[i]);
        most = fabsf(x[i]) > most ? fabsf(x[i]) : most;
        sum += block->q[i];
    }
    assert_int_equal(block->offset, -128 * sum);
    const float d = finite ? most < (float)ldexp(1, -100) ? 0 : most / 127 : NAN;
    assert_true(isnan(d) ? isnan(block->d) : block->d == d);
    for (size_t i = 0; i < KERN_QUANT; i++) {
        const float q = d > 0 ? x[i] * (1 / d) : 0, nearest = nearbyintf(q);
        assert_true((float)block->q[i] == nearest && block->q[i] >= -127);
        assert_true(fabsf((float)block->q[i] * (d > 0 ? d : 0) - (d > 0 ? x[i] : 0)) <= (d > 0 ? d * 0.5001f : 0));
    }
}

static void inputs_follow_the_formula(void **state)
{
    (void)state;
    const struct kern *table[KERN_TABLES];
    const size_t count = tables(table);
    for (int round = 0; round < 60; round++) {
        const size_t blocks = 1 + random_below(70), n = blocks * KERN_QUANT;
        float *x = room((n + 1) * sizeof *x);
        const size_t odd = (size_t)round % 2; // an address of no alignment
        struct kern_quantised *want = room(blocks * sizeof *want), *out = room(blocks * sizeof *out);
        make_inputs(x + odd, n, (enum kind)(round % KINDS));
        table[0]->quantise(want, x + odd, n);
        for (size_t b = 0; b < blocks; b++)
            check_block(&want[b], x + odd + b * KERN_QUANT);
        for (size_t t = 1; t < count; t++) {
            memset(out, 0xa5, blocks * sizeof *out);
            table[t]->quantise(out, x + odd, n);
            assert_memory_equal(out, want, blocks * sizeof *out);
        }
        free(x), free(want), free(out);
    }
}

// ---- Products ----
static float half_value(uint16_t h)
{
    const int exponent = h >> 10 & 31, mantissa = h & 1023;
    const double value = exponent ? ldexp(1024 + mantissa, exponent - 25) : ldexp(mantissa, -24);
    return (float)(h & 0x8000 ? -value : value);
}

struct product {
    size_t m, n, k, ldc;
    float *c, *bias;
    uint8_t *blocks; // Q8_0, (n, k / 32)
    void *data;
    struct kern_quantised *inputs;
};

static struct product make_product(size_t m, size_t n, size_t k, int round)
{
    const size_t blocks = k / KERN_QUANT;
    struct product p = {.m = m, .n = n, .k = k, .ldc = n + random_below(3)};
    float *x = room(m * k * sizeof *x);
    p.c = room(m * p.ldc * sizeof *p.c);
    p.bias = round % 3 ? room(n * sizeof *p.bias) : NULL;
    p.blocks = room(n * blocks * 34);
    p.data = room(kern_packed_bytes(KERN_INT8, n, k));
    p.inputs = room(m * blocks * sizeof *p.inputs);
    make_inputs(x, m * k, (enum kind)(round % KINDS));
    kern_select(0)->quantise(p.inputs, x, m * k);
    free(x);
    for (size_t j = 0; p.bias && j < n; j++)
        p.bias[j] = random_float();
    for (size_t i = 0; i < n * blocks; i++) {
        uint8_t *b = p.blocks + i * 34;
        for (size_t j = 0; j < 34; j++)
            b[j] = (uint8_t)random_bits();
        b[1] = (uint8_t)(random_below(40) | (random_bits() & 0x80)); // no infinity
    }
    if (round % 7 == 3) { // the largest sums: all -128 or 127
        for (size_t i = 0; i < n * blocks; i++)
            memset(p.blocks + i * 34 + 2, i % 3 ? 0x80 : 0x7f, 32);
        for (size_t i = 0; i < m * blocks; i++) {
            memset(p.inputs[i].q, i % 2 ? 127 : -127, sizeof p.inputs[i].q);
            p.inputs[i].offset = i % 2 ? -128 * 127 * 32 : 128 * 127 * 32;
        }
    }
    kern_pack_blocks(p.data, KERN_INT8, n, k, p.blocks, 0, kern_packed_panels(n));
    return p;
}

static void free_product(struct product *p)
{
    free(p->c), free(p->bias), free(p->blocks), free(p->data), free(p->inputs);
}

static float expected(const struct product *p, size_t r, size_t j)
{
    const size_t blocks = p->k / KERN_QUANT;
    float acc = 0;
    for (size_t b = 0; b < blocks; b++) {
        const uint8_t *w = p->blocks + (j * blocks + b) * 34;
        const struct kern_quantised *in = &p->inputs[r * blocks + b];
        int64_t sum = 0;
        for (size_t i = 0; i < KERN_QUANT; i++)
            sum += (int64_t)(int8_t)w[2 + i] * in->q[i];
        const float scale = half_value((uint16_t)(w[0] + 256 * w[1])) * in->d;
        acc = fmaf((float)sum, scale, acc);
    }
    return p->bias ? acc + p->bias[j] : acc;
}

static void check_product(struct product *p, const struct kern *kern)
{
    const struct kern_packed w = {KERN_INT8, p->n, p->k, p->data};
    const struct kern_packed_gemm g = {
        .c = p->c, .ldc = p->ldc, .m = p->m, .w = &w, .bias = p->bias, .quantised = p->inputs};
    void *scratch = room(kern->packed_scratch(&g));
    memset(p->c, 0xa5, p->m * p->ldc * sizeof *p->c);
    for (size_t panel = kern_packed_panels(p->n); panel-- > 0;)
        kern->packed_gemm(&g, panel, scratch);
    free(scratch);
    for (size_t r = 0; r < p->m; r++) {
        for (size_t j = 0; j < p->n; j++) {
            const float want = expected(p, r, j), got = p->c[r * p->ldc + j];
            if (!isnan(want) || !isnan(got)) // which NaN is not defined
                assert_memory_equal(&want, &got, sizeof want);
        }
        for (size_t j = p->n; j < p->ldc; j++) { // and nothing beside them
            const uint32_t mark = 0xa5a5a5a5u;
            assert_memory_equal(&p->c[r * p->ldc + j], &mark, sizeof mark);
        }
    }
}

static void products_are_chains_of_exact_sums(void **state)
{
    (void)state;
    const struct kern *table[KERN_TABLES];
    const size_t count = tables(table);
    for (int round = 0; round < 84; round++) {
        const size_t m = round < 41 ? (size_t)round : 1 + random_below(20), n = 1 + random_below(150);
        struct product p = make_product(m, n, KERN_QUANT * random_below(10), round);
        for (size_t t = 0; t < count; t++)
            check_product(&p, table[t]);
        free_product(&p);
    }
}

static void packing_numbers_is_packing_their_blocks(void **state)
{
    (void)state;
    for (int conv = 0; conv < 2; conv++) {
        enum { N = 100, K = 96 };
        float x[N * K], turned[N * K];
        uint8_t blocks[N * K / KERN_QUANT * 34];
        const size_t bytes = kern_packed_bytes(KERN_INT8, N, K);
        uint8_t *from_numbers = room(bytes), *from_blocks = room(bytes);
        make_inputs(x, N * K, PLAIN);
        for (size_t j = 0; j < N; j++)
            for (size_t i = 0; i < K; i++)
                turned[i * N + j] = x[j * K + i];
        kern_quantise_blocks(blocks, KERN_Q8_0, x, N * K / KERN_QUANT);
        kern_pack(from_numbers, KERN_INT8, N, K, conv ? turned : x, conv ? N : K, conv, 0, 2);
        kern_pack_blocks(from_blocks, KERN_INT8, N, K, blocks, 0, 2);
        assert_memory_equal(from_numbers, from_blocks, bytes);
        free(from_numbers), free(from_blocks);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(inputs_follow_the_formula),
        cmocka_unit_test(products_are_chains_of_exact_sums),
        cmocka_unit_test(packing_numbers_is_packing_their_blocks),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
