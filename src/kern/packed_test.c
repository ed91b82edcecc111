// Decoding kernels: packed products against chains over the numbers the panels stand for, attention over pages against
// the training kernel on contiguous rows, on every table, bit for bit; one row alone against many; block formats
// against their formula, written here once more.
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

static uint64_t random_state = 7;

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
    memset(p, 0xa5, (bytes + 64) / 64 * 64); // NaNs where nothing is written
    return p;
}

static float *random_floats(size_t count)
{
    float *x = room(count * sizeof *x);
    for (size_t i = 0; i < count; i++)
        x[i] = random_float();
    return x;
}

static size_t tables(const struct kern *table[KERN_TABLES])
{
    unsigned isa = 0;
    __builtin_cpu_init();
    if (__builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma"))
        isa |= BG_ISA_AVX2;
    if (__builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") && __builtin_cpu_supports("avx512vl") &&
        __builtin_cpu_supports("avx512dq"))
        isa |= BG_ISA_AVX512;
    return kern_tables(isa, table);
}

// ---- Blocks as GGUF has them, by their formula ----
static double half_value(uint16_t h)
{
    int exponent = h >> 10 & 31, mantissa = h & 1023;
    double value = exponent ? ldexp(1024 + mantissa, exponent - 25) : ldexp(mantissa, -24);
    return h & 0x8000 ? -value : value;
}

static void random_blocks(uint8_t *bytes, enum kern_weight type, size_t count)
{
    size_t size = type == KERN_Q8_0 ? 34 : 18;
    for (size_t b = 0; b < count; b++, bytes += size) {
        for (size_t i = 0; i < size; i++)
            bytes[i] = (uint8_t)random_bits();
        bytes[1] = (uint8_t)(random_below(40) | (random_bits() & 0x80)); // no infinity
    }
}

static float block_value(const uint8_t *row, enum kern_weight type, size_t i)
{
    const uint8_t *b = row + i / 32 * (type == KERN_Q8_0 ? 34 : 18);
    float d = (float)half_value((uint16_t)(b[0] + 256 * b[1]));
    int q =
        type == KERN_Q8_0 ? (int8_t)b[2 + i % 32] : (i % 32 < 16 ? b[2 + i % 32] % 16 : b[2 + i % 32 - 16] / 16) - 8;
    return (float)q * d;
}

static void packed_products_are_chains(void **state)
{
    (void)state;
    const struct kern *table[KERN_TABLES];
    const size_t count = tables(table);
    for (int round = 0; round < 60; round++) {
        const enum kern_weight type = (enum kern_weight)(round % 3);
        const size_t m = 1 + random_below(15), n = 1 + random_below(150);
        const size_t k = type == KERN_F32 ? 1 + random_below(300) : 32 * (1 + random_below(9));
        const size_t row = k / 32 * (type == KERN_Q8_0 ? 34 : 18), lda = k + random_below(3), ldc = n + random_below(3);
        const bool conv = type == KERN_F32 && round % 2;
        float *a = random_floats(m * lda), *bias = round % 4 ? random_floats(n) : NULL, *c = random_floats(m * ldc);
        float *weights = random_floats(n * k), *values = room(n * k * sizeof(float));
        uint8_t *blocks = room(n * row + 1), *data = room(kern_packed_bytes(type, n, k));
        random_blocks(blocks, type, type == KERN_F32 ? 0 : n * k / 32);
        for (size_t j = 0; j < n; j++)
            for (size_t i = 0; i < k; i++)
                values[j * k + i] = type != KERN_F32 ? block_value(blocks + j * row, type, i)
                                    : conv           ? weights[i * n + j]
                                                     : weights[j * k + i];
        if (type == KERN_F32)
            kern_pack(data, type, n, k, weights, conv ? n : k, conv, 0, kern_packed_panels(n));
        else
            kern_pack_blocks(data, type, n, k, blocks, 0, kern_packed_panels(n));
        const struct kern_packed w = {type, n, k, data};
        const struct kern_packed_gemm g = {c, ldc, a, lda, m, &w, bias, NULL};
        for (size_t t = 0; t < count; t++) {
            void *scratch = room(table[t]->packed_scratch(&g));
            for (size_t p = kern_packed_panels(n); p-- > 0;)
                table[t]->packed_gemm(&g, p, scratch);
            for (size_t r = 0; r < m; r++)
                for (size_t j = 0; j < n; j++) {
                    float want = 0;
                    for (size_t i = 0; i < k; i++)
                        want = fmaf(a[r * lda + i], values[j * k + i], want);
                    want = bias ? want + bias[j] : want;
                    assert_memory_equal(&want, &c[r * ldc + j], sizeof want);
                }
            free(scratch);
        }
        free(a), free(bias), free(c), free(weights), free(values), free(blocks), free(data);
    }
}

static void quantising_follows_the_formula(void **state)
{
    (void)state;
    for (int round = 0; round < 40; round++) {
        const enum kern_weight type = round % 2 ? KERN_Q8_0 : KERN_Q4_0;
        float x[64 * 32], back[32];
        uint8_t data[64 * 34], block[34];
        for (size_t i = 0; i < 64 * 32; i++)
            x[i] = random_float() * (float)ldexp(1, (int)random_below(30) - 20);
        if (round == 0)
            memset(x, 0, sizeof x);
        kern_pack(data, type, 64, 32, x, 32, false, 0, 1);
        for (size_t lane = 0; lane < 64; lane++) { // out of the panel into a block of GGUF's
            memcpy(block, data + lane * 2, 2);
            for (size_t i = 0; i < (type == KERN_Q8_0 ? 32 : 16); i++)
                block[2 + i] = data[128 + i * 64 + lane];
            uint8_t made[34];
            kern_quantise_blocks(made, type, x + lane * 32, 1);
            assert_memory_equal(made, block, kern_block_bytes(type));
            kern_widen_blocks(back, type, block, 1);
            float most = 0;
            for (size_t i = 0; i < 32; i++)
                most = fmaxf(most, fabsf(x[lane * 32 + i]));
            // half a step, one at the far end of Q4_0, and what F16 rounds d by
            const float step = type == KERN_Q8_0 ? most / 127 : most / 8;
            for (size_t i = 0; i < 32; i++)
                assert_true(fabsf(back[i] - x[lane * 32 + i]) <=
                            step * (type == KERN_Q8_0 ? 0.57f : 1.01f) + 128 * 0x1p-25f);
        }
    }
}

// A pool of pages in random order, filled from contiguous rows.
struct pages {
    uint32_t *table;
    float *keys, *values;
    size_t stride, pool;
};

static struct pages fill_pages(const float *k, const float *v, size_t keys, size_t heads, size_t head_dim)
{
    struct pages p = {.stride = heads * head_dim * KERN_PAGE + random_below(3)};
    const size_t count = (keys + KERN_PAGE - 1) / KERN_PAGE, pool = p.pool = count + 5;
    p.table = room(count * sizeof *p.table);
    p.keys = room(pool * p.stride * sizeof(float));
    p.values = room(pool * p.stride * sizeof(float));
    for (size_t i = 0; i < count; i++)
        p.table[i] = (uint32_t)((i * 7 + 3) % pool % count); // a permutation where 7 does not divide, else in order
    for (size_t i = 0; i < count; i++)
        for (size_t j = 0; j < i; j++)
            if (p.table[i] == p.table[j])
                for (size_t x = 0; x < count; x++)
                    p.table[x] = (uint32_t)(count - 1 - x);
    for (size_t j = 0; j < keys; j++)
        for (size_t h = 0; h < heads; h++)
            for (size_t d = 0; d < head_dim; d++) {
                size_t page = p.table[j / KERN_PAGE] * p.stride, at = j % KERN_PAGE;
                p.keys[page + (h * head_dim + d) * KERN_PAGE + at] = k[(j * heads + h) * head_dim + d];
                p.values[page + (h * KERN_PAGE + at) * head_dim + d] = v[(j * heads + h) * head_dim + d];
            }
    return p;
}

// n numbers as F16, the same by all tables.
static uint16_t *halves_of(const float *x, size_t n)
{
    const struct kern *table[KERN_TABLES];
    const size_t count = tables(table);
    uint16_t *out = room(n * sizeof *out), *other = room(n * sizeof *other);
    table[0]->to_f16(out, x, n);
    for (size_t t = 1; t < count; t++) {
        table[t]->to_f16(other, x, n);
        assert_memory_equal(out, other, n * sizeof *out);
    }
    free(other);
    return out;
}

static void narrowing_is_to_the_nearest(void **state)
{
    (void)state;
    enum { N = 40000 };
    const float odd[] = {INFINITY, -INFINITY, 65504, 65519.9f, 65520,      1e30f,
                         -1e30f,   0,         -0.0f, 0x1p-25f, 0x1.8p-24f, 0x1p-149f};
    float *x = random_floats(N), *back = room(N * sizeof *back);
    memcpy(x, odd, sizeof odd);
    for (size_t i = N / 2; i < N; i++) // some subnormal, some beyond the largest
        x[i] = ldexpf(x[i], (int)random_below(50) - 28);
    uint16_t *half = halves_of(x, N);
    kern_select(0)->from_f16(back, half, N);
    for (size_t i = 0; i < N; i++) {
        const double real = fmin(fmax(x[i], -65504.0), 65504.0), step = ldexp(1, ilogb(fmax(fabs(real), 0x1p-14)) - 10);
        const double nearest = nearbyint(real / step) * step; // ties to even
        assert_true(back[i] == nearest && !signbit(back[i]) == !signbit(x[i]));
    }
    free(x), free(back), free(half);
}

static void round_to_halves(float *x, size_t n)
{
    uint16_t *half = halves_of(x, n);
    kern_select(0)->from_f16(x, half, n);
    free(half);
}

static void paged_attention_is_attention(void **state)
{
    (void)state;
    static const size_t head_dims[] = {8, 16, 24, 48, 64, 80, 128, 200};
    const struct kern *table[KERN_TABLES];
    const size_t count = tables(table);
    for (int round = 0; round < 70; round++) {
        const size_t kv_heads = 1 + random_below(5), heads = kv_heads * (1 + random_below(8));
        const size_t head_dim = head_dims[(size_t)round / 2 % 8], queries = 1 + random_below(round % 3 ? 5 : 40);
        const size_t position = random_below(90), keys = position + queries, q_row = heads * head_dim,
                     kv_row = kv_heads * head_dim;
        float *q = random_floats(queries * q_row), *k = random_floats(keys * kv_row), *v = random_floats(keys * kv_row);
        float *want = room(queries * q_row * sizeof(float)), *out = room(queries * q_row * sizeof(float));
        const bool half = round % 2;
        if (half) {
            round_to_halves(k, keys * kv_row);
            round_to_halves(v, keys * kv_row);
        }
        struct pages p = fill_pages(k, v, keys, kv_heads, head_dim);
        uint16_t *half_keys = halves_of(p.keys, p.stride * p.pool),
                 *half_values = halves_of(p.values, p.stride * p.pool);
        const struct kern_attention plain = {.sequences = 1,
                                             .queries = queries,
                                             .keys = keys,
                                             .heads = heads,
                                             .kv_heads = kv_heads,
                                             .head_dim = head_dim,
                                             .q_stride = q_row,
                                             .k_stride = kv_row,
                                             .v_stride = kv_row,
                                             .o_stride = q_row,
                                             .scale = 0.3f,
                                             .out = want,
                                             .q = q,
                                             .k = k,
                                             .v = v};
        const struct kern_paged paged = {.queries = queries,
                                         .position = position,
                                         .heads = heads,
                                         .kv_heads = kv_heads,
                                         .head_dim = head_dim,
                                         .scale = 0.3f,
                                         .out = out,
                                         .o_stride = q_row,
                                         .q = q,
                                         .q_stride = q_row,
                                         .keys = half ? (const void *)half_keys : p.keys,
                                         .values = half ? (const void *)half_values : p.values,
                                         .pages = p.table,
                                         .page_stride = p.stride,
                                         .half = half,
                                         .together = random_below(7)};
        void *scratch = room(table[0]->attention_scratch(&plain));
        for (size_t i = 0; i < table[0]->attention_items(&plain); i++)
            table[0]->attention(&plain, i, scratch);
        free(scratch);
        for (size_t t = 0; t < count; t++) {
            memset(out, 0xff, queries * q_row * sizeof(float));
            scratch = room(table[t]->paged_scratch(&paged));
            for (size_t i = table[t]->paged_items(&paged); i-- > 0;)
                table[t]->paged(&paged, i, scratch);
            assert_memory_equal(out, want, queries * q_row * sizeof(float));
            free(scratch);
        }
        free(q), free(k), free(v), free(want), free(out), free(p.table), free(p.keys), free(p.values);
        free(half_keys), free(half_values);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(packed_products_are_chains),
        cmocka_unit_test(quantising_follows_the_formula),
        cmocka_unit_test(narrowing_is_to_the_nearest),
        cmocka_unit_test(paged_attention_is_attention),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
