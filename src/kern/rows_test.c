// Every table of kernels against ref, bit for bit: each case runs for every ISA of this machine and for several cuts of
// its range, over the same random operands; the whole arena (operands, results, gaps between) must come out the same.
// Gaps hold a canary, operands lie at odd addresses, scratch is exactly as large as announced.
// labels: bits
#include "kern/math_int.h"
#include "kern/rows_int.h"
#include "base/env.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <cmocka.h>

enum { ARENA = 1 << 22, GAP = 19, GAPS_MAX = 64 };
static const uint32_t canary = 0xc5a3c5a3u;

static struct {
    float *floats, *expected;
    size_t used, gaps[GAPS_MAX], gap_count;
    uint64_t seed;
    bool wild; // zeros, subnormals, huge values, infinities and NaN among the operands
} arena;

static uint32_t draw(void)
{
    arena.seed = arena.seed * 6364136223846793005u + 1442695040888963407u;
    return (uint32_t)(arena.seed >> 32);
}

static float value(void)
{
    static const float odd[] = {0.0f,  -0.0f,  1.0f,    0x1p-130f, -0x1p-149f, 1e30f,    -1e30f,    88.7f,
                                89.5f, -86.9f, -104.0f, 12.0f,     -3e38f,     INFINITY, -INFINITY, NAN};
    if (arena.wild && draw() % 8 == 0) {
        return odd[draw() % (sizeof odd / sizeof *odd)];
    }
    return ((float)(draw() >> 8) * 0x1p-24f - 0.5f) * (arena.wild ? 40.0f : 4.0f);
}

static void gap(void)
{
    assert_true(arena.gap_count < GAPS_MAX && arena.used + GAP < ARENA);
    arena.gaps[arena.gap_count++] = arena.used;
    for (size_t i = 0; i < GAP; i++) {
        memcpy(arena.floats + arena.used++, &canary, sizeof canary);
    }
}

static float *take(size_t n)
{
    assert_true(arena.used + n + GAP < ARENA);
    float *p = arena.floats + arena.used;
    for (size_t i = 0; i < n; i++) {
        p[i] = value();
    }
    arena.used += n;
    gap();
    return p;
}

static float *take_positive(size_t n)
{
    float *p = take(n);
    for (size_t i = 0; i < n; i++) {
        p[i] = fabsf(p[i]) + 0.25f;
    }
    return p;
}

static void *scratch_new(size_t bytes)
{
    void *p = NULL;
    assert_int_equal(posix_memalign(&p, 64, bytes + 64), 0);
    memset(p, 0x7f, bytes); // NaN-like floats: stale scratch must not matter
    memset((char *)p + bytes, 0x5a, 64);
    return p;
}

static void scratch_free(void *p, size_t bytes)
{
    for (size_t i = 0; i < 64; i++) {
        assert_int_equal(((unsigned char *)p)[bytes + i], 0x5a);
    }
    free(p);
}

struct shape {
    size_t a, b, c; // what a case makes of them: rows, columns, segments ..
    bool flag;
};

// Runs with its range cut into `cuts` parts.
typedef void (*case_fn)(const struct kern *k, const struct shape *s, size_t cuts);

static unsigned isa_bits(void)
{
    unsigned bits = 0;
    __builtin_cpu_init();
    if (__builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma")) {
        bits |= BG_ISA_AVX2;
    }
    if ((bits & BG_ISA_AVX2) && __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512dq") &&
        __builtin_cpu_supports("avx512bw") && __builtin_cpu_supports("avx512vl")) {
        bits |= BG_ISA_AVX512;
    }
    return bits;
}

static void compare(const char *isa, const struct shape *s, size_t cuts)
{
    const float *want = arena.expected, *got = arena.floats;
    for (size_t i = 0; i < arena.used; i++) {
        bool same = kern_bits(want[i]) == kern_bits(got[i]) || (arena.wild && isnan(want[i]) && isnan(got[i]));
        if (!same) {
            fail_msg("%s, shape %zu %zu %zu %d, %zu cuts: float %zu is %a, ref has %a", isa, s->a, s->b, s->c, s->flag,
                     cuts, i, (double)got[i], (double)want[i]);
        }
    }
}

static void run_case(case_fn fn, struct shape s)
{
    static const size_t cuts[] = {1, 2, 7};
    const struct kern *tables[KERN_TABLES];
    size_t count = kern_tables(isa_bits(), tables);
    for (size_t t = 0; t < count; t++) {
        for (size_t c = 0; c < 3; c++) {
            arena.used = arena.gap_count = 0;
            arena.seed = s.a * 1000003 + s.b * 1009 + s.c;
            gap();
            fn(tables[t], &s, cuts[c]);
            for (size_t g = 0; g < arena.gap_count; g++) {
                for (size_t i = 0; i < GAP; i++) {
                    assert_int_equal(kern_bits(arena.floats[arena.gaps[g] + i]), canary);
                }
            }
            if (t == 0 && c == 0) {
                memcpy(arena.expected, arena.floats, arena.used * sizeof(float));
            } else {
                compare(tables[t]->isa, &s, cuts[c]);
            }
        }
    }
}

#define EACH_CUT(from, to, total, cuts)                                                                                \
    for (size_t part = 0, from = 0, to = (total) / (cuts); part < (cuts);                                              \
         part++, from = to, to = (total) * (part + 1) / (cuts))

// --- elementwise -----------------------------------------------------------------------------------------------------

static void activations(const struct kern *k, const struct shape *s, size_t cuts)
{
    size_t n = s->a;
    float *x = take(n), *y = take(n), *d = take(n), *out[9];
    for (size_t i = 0; i < 9; i++) {
        out[i] = take(n);
    }
    EACH_CUT(from, to, n, cuts)
    {
        size_t m = to - from;
        k->swiglu(out[0] + from, x + from, y + from, m);
        k->swiglu_grad(out[1] + from, out[2] + from, out[7] + from, d + from, x + from, y + from, m);
        k->gelu(out[3] + from, x + from, m);
        memcpy(out[8] + from, d + from, m * sizeof(float));
        k->gelu_grad(out[4] + from, out[8] + from, out[8] + from, x + from, m); // in place
        k->add(out[5] + from, x + from, y + from, m);
        k->add(out[6] + from, out[6] + from, y + from, m); // in place
    }
}

static void dropout(const struct kern *k, const struct shape *s, size_t cuts)
{
    struct kern_dropout d = {{123, 456}, 7, 3, 11, s->c % 2 ? 0.1f : 0.5f, s->c % 2 ? 1 / 0.9f : 2.0f};
    float *x = take(s->a);
    EACH_CUT(from, to, s->a, cuts)
    {
        k->dropout(x + from, &d, s->b + from, to - from);
    }
}

static void optimizer(const struct kern *k, const struct shape *s, size_t cuts)
{
    struct kern_adamw o = {1e-3f, 0.9f, 0.95f, 0.1f, 0.05f, 10.0f, 20.0f, 1e-8f, 0.1f, 0.7f};
    float *w = take(s->a), *m = take(s->a), *v = take_positive(s->a), *g = take(s->a);
    EACH_CUT(from, to, s->a, cuts)
    {
        k->adamw(w + from, m + from, v + from, g + from, to - from, &o);
    }
}

static void squares(const struct kern *k, const struct shape *s, size_t cuts)
{
    float *x = take(s->a), *to_compare = take(64);
    double sums[16] = {0}, total = k->sum_squares(x, s->a), joined = 0;
    size_t blocks = (s->a + KERN_SQUARES_BLOCK - 1) / KERN_SQUARES_BLOCK;
    EACH_CUT(from, to, blocks, cuts)
    {
        size_t first = from * KERN_SQUARES_BLOCK, end = to * KERN_SQUARES_BLOCK < s->a ? to * KERN_SQUARES_BLOCK : s->a;
        k->block_squares(sums + from, x + first, end - first);
    }
    for (size_t b = 0; b < blocks; b++) {
        joined += sums[b];
    }
    assert_true(joined == total || arena.wild);
    if (!arena.wild) {
        memcpy(to_compare, &total, sizeof total);
        memcpy(to_compare + 2, sums, sizeof sums);
    }
}

static void widening(const struct kern *k, const struct shape *s, size_t cuts)
{
    float *out = take(s->a), *out_b = take(s->a);
    uint16_t *in = malloc(s->a * 2 + 2);
    for (size_t i = 0; i < s->a; i++) {
        in[i] = (uint16_t)(s->b + i);
    }
    EACH_CUT(from, to, s->a, cuts)
    {
        k->from_f16(out + from, in + from, to - from);
        k->from_bf16(out_b + from, in + from, to - from);
    }
    free(in);
}

static void test_elementwise(void **state)
{
    for (size_t n = 0; n <= 70; n++) {
        run_case(activations, (struct shape){.a = n});
        run_case(optimizer, (struct shape){.a = n});
        run_case(dropout, (struct shape){.a = n, .b = n * 7, .c = n});
        run_case(squares, (struct shape){.a = n});
    }
    run_case(activations, (struct shape){.a = 20011});
    run_case(optimizer, (struct shape){.a = 20011});
    for (size_t first = 0; first < 9; first++) {
        run_case(dropout, (struct shape){.a = 5001, .b = first + 0x3ffffffc0u});
    }
    for (size_t n = 4095; n < 50000; n += 4096 - n % 3) {
        run_case(squares, (struct shape){.a = n});
    }
    if (!*state) {
        run_case(widening, (struct shape){.a = 0x10000});
    }
}

// --- rows ------------------------------------------------------------------------------------------------------------

static void norms(const struct kern *k, const struct shape *s, size_t cuts)
{
    size_t rows = s->a, dim = s->b, n = rows * dim;
    float *x = take(n), *gamma = take(dim), *beta = take(dim), *d = take(n), *rms = take(n), *layer = take(n);
    float *rstd = take(rows), *mean = take(rows), *rstd2 = take(rows), *dx = take(n), *dx2 = take(n);
    EACH_CUT(from, to, rows, cuts)
    {
        size_t at = from * dim, m = to - from;
        k->rms_norm(rms + at, rstd + from, x + at, gamma, 1e-5f, m, dim);
        k->rms_norm_grad(dx + at, d + at, x + at, gamma, rstd + from, m, dim, s->flag);
        k->layer_norm(layer + at, mean + from, rstd2 + from, x + at, gamma, beta, 1e-5f, m, dim);
        k->layer_norm_grad(dx2 + at, d + at, x + at, gamma, mean + from, rstd2 + from, m, dim, s->flag);
        k->rms_norm(rms + at, NULL, x + at, gamma, 1e-5f, m, dim);
        k->layer_norm(layer + at, NULL, NULL, x + at, gamma, beta, 1e-5f, m, dim);
    }
}

static void columns(const struct kern *k, const struct shape *s, size_t cuts)
{
    size_t rows = s->a, dim = s->b, segments = s->c, n = rows * dim * segments;
    float *x = take(n), *d = take(n), *mean = take(rows * segments), *rstd = take_positive(rows * segments);
    float *dgamma = take(dim), *dbeta = take(dim), *dgamma2 = take(dim), *dbias = take(dim);
    EACH_CUT(from, to, dim, cuts)
    {
        k->norm_weight_grad(dgamma, dbeta, d, x, mean, rstd, rows, dim, segments, from, to, s->flag);
        k->norm_weight_grad(dgamma2, NULL, d, x, NULL, rstd, rows, dim, segments, from, to, s->flag);
        k->column_sum(dbias, d, rows, dim, segments, from, to, s->flag);
    }
}

static void rope(const struct kern *k, const struct shape *s, size_t cuts)
{
    size_t rows = s->a, head_dim = s->b, heads = s->c, stride = heads * head_dim + 5, period = 4, half = head_dim / 2;
    float *x = take(rows * stride), *cosines = take(12 * half), *sines = take(12 * half);
    EACH_CUT(from, to, (rows + period - 1) / period, cuts) // whole periods, so that positions stay the same
    {
        size_t end = to * period < rows ? to * period : rows;
        k->rope(x + from * period * stride, cosines, sines, end - from * period, stride, heads, head_dim, 3, period,
                s->flag);
    }
}

static void embedding(const struct kern *k, const struct shape *s, size_t cuts)
{
    size_t rows = s->a, dim = s->b, period = 4;
    float *out = take(rows * dim), *table = take(10 * dim), *positions = take(8 * dim);
    int32_t tokens[64];
    for (size_t i = 0; i < rows; i++) {
        tokens[i] = (int32_t)(draw() % 10);
    }
    EACH_CUT(from, to, (rows + period - 1) / period, cuts)
    {
        size_t first = from * period, end = to * period < rows ? to * period : rows;
        k->embed(out + first * dim, table, s->flag ? positions : NULL, tokens + first, end - first, dim, 2, period);
    }
}

static void losses(const struct kern *k, const struct shape *s, size_t cuts)
{
    size_t rows = s->a, vocab = s->b;
    float *logits = take(rows * vocab), *row = take(vocab), *to_compare = take(2 * rows);
    double loss[16];
    int32_t targets[16];
    for (size_t i = 0; i < rows; i++) {
        targets[i] = i % 3 == 2 ? -1 : (int32_t)(draw() % vocab);
    }
    EACH_CUT(from, to, rows, cuts)
    {
        k->cross_entropy(loss + from, logits + from * vocab, targets + from, 0.125f, to - from, vocab, s->flag);
    }
    k->softmax(row, vocab);
    for (size_t i = 0; i < rows; i++) {
        if (!isnan(loss[i])) {
            memcpy(to_compare + 2 * i, &loss[i], sizeof loss[i]);
        }
    }
}

static void test_rows(void **state)
{
    (void)state;
    for (size_t dim = 1; dim <= 70; dim += dim < 34 ? 1 : 6) {
        bool flag = dim % 2;
        run_case(norms, (struct shape){.a = 1 + dim % 5, .b = dim, .flag = flag});
        run_case(columns, (struct shape){.a = 3, .b = dim, .c = 1 + dim % 7, .flag = flag});
        run_case(rope, (struct shape){.a = 9, .b = 2 * dim, .c = 2, .flag = flag});
        run_case(embedding, (struct shape){.a = 12, .b = dim, .flag = flag});
        run_case(losses, (struct shape){.a = 4, .b = dim, .flag = flag});
    }
    run_case(norms, (struct shape){.a = 14, .b = 768});
    run_case(columns, (struct shape){.a = 33, .b = 200, .c = 8, .flag = true});
    run_case(columns, (struct shape){.a = 1, .b = 65, .c = 37});
    run_case(losses, (struct shape){.a = 3, .b = 32003, .flag = true});
    run_case(losses, (struct shape){.a = 3, .b = 257, .flag = false});
}

// --- attention -------------------------------------------------------------------------------------------------------

static const struct attention_shape {
    size_t sequences, queries, keys, heads, kv_heads, head_dim;
    bool backward;
} attention_shapes[] = {
    {1, 1, 1, 1, 1, 1, true},      {2, 3, 3, 2, 2, 4, true},      {1, 17, 17, 4, 2, 8, true},
    {1, 63, 63, 2, 1, 16, true},   {1, 65, 65, 3, 1, 20, true},   {2, 70, 70, 2, 2, 48, true},
    {1, 130, 130, 2, 1, 64, true}, {1, 200, 200, 1, 1, 80, true}, {1, 96, 96, 1, 1, 128, true},
    {1, 40, 40, 1, 1, 256, true},  {1, 5, 70, 2, 2, 24, true},    {1, 66, 150, 2, 1, 12, true},
    {2, 1, 77, 4, 2, 64, false},   {1, 1, 300, 2, 1, 20, false},  {1, 9, 129, 2, 2, 7, true},
    {1, 33, 34, 2, 1, 33, true},   {1, 129, 257, 1, 1, 3, true},  {1, 256, 256, 1, 1, 64, true},
    {2, 330, 330, 4, 2, 12, true}, {1, 192, 192, 3, 1, 20, true},
};

static void attention(const struct kern *k, const struct shape *s, size_t cuts)
{
    const struct attention_shape *p = &attention_shapes[s->a];
    size_t q_stride = p->heads * p->head_dim + 3, k_stride = p->kv_heads * p->head_dim + 1, v_stride = k_stride + 4;
    size_t rows = p->sequences * p->queries, o_stride = p->heads * p->head_dim + 2;
    size_t sequence = p->keys * v_stride + 9, kv = p->sequences * sequence; // one stride for k and v, with room
    float *out = take(rows * o_stride), *row_max = take(rows * p->heads), *row_sum = take(rows * p->heads);
    float *q = take(rows * q_stride), *kk = take(kv), *v = take(kv);
    struct kern_attention a = {p->sequences,
                               p->queries,
                               p->keys,
                               p->heads,
                               p->kv_heads,
                               p->head_dim,
                               q_stride,
                               k_stride,
                               v_stride,
                               o_stride,
                               sequence,
                               (float)(1 / sqrt((double)p->head_dim)),
                               out,
                               p->backward ? row_max : NULL,
                               p->backward ? row_sum : NULL,
                               q,
                               kk,
                               v};
    size_t bytes = k->attention_scratch(&a), items = k->attention_items(&a);
    void *scratch = scratch_new(bytes);
    assert_int_equal(items, p->sequences * p->heads * ((p->queries + 63) / 64));
    for (size_t c = 0; c < cuts; c++) { // items in another order
        for (size_t i = c; i < items; i += cuts) {
            k->attention(&a, i, scratch);
        }
    }
    scratch_free(scratch, bytes);
    if (!p->backward) {
        return;
    }
    struct kern_attention_grad g = {a, take(rows * q_stride), take(kv), take(kv), take(rows * o_stride), 0, 0};
    bytes = k->attention_grad_scratch(&a);
    items = k->attention_grad_items(&a);
    scratch = scratch_new(bytes);
    assert_int_equal(items, p->sequences * p->kv_heads);
    size_t blocks = (p->keys + 63) / 64,
           slices = p->queries == p->keys ? cuts : 1; // slices of the sequence, last first
    slices = slices < blocks ? slices : blocks;
    for (size_t slice = slices; slice-- > 0;) {
        if (slices > 1) {
            g.first = slice * blocks / slices * 64;
            g.end = slice + 1 < slices ? (slice + 1) * blocks / slices * 64 : p->keys;
        }
        for (size_t c = 0; c < cuts; c++) {
            for (size_t i = c; i < items; i += cuts) {
                k->attention_grad(&g, i, scratch);
            }
        }
    }
    scratch_free(scratch, bytes);
}

static void test_attention(void **state)
{
    (void)state;
    for (size_t i = 0; i < sizeof attention_shapes / sizeof *attention_shapes; i++) {
        run_case(attention, (struct shape){.a = i});
    }
}

// --- special values, tables ------------------------------------------------------------------------------------------

static int make_wild(void **state)
{
    static int wild;
    arena.wild = true;
    *state = &wild;
    return 0;
}

static int make_tame(void **state)
{
    (void)state;
    arena.wild = false;
    return 0;
}

static void test_tables(void **state)
{
    (void)state;
    const struct kern *tables[KERN_TABLES];
    assert_int_equal(kern_tables(0, tables), 1);
    assert_string_equal(tables[0]->isa, "ref");
    assert_string_equal(kern_select(0)->isa, "ref");
    assert_string_equal(kern_select(BG_ISA_AVX2)->isa, "avx2");
    assert_string_equal(kern_select(BG_ISA_AVX2 | BG_ISA_AVX512)->isa, "avx512");
    assert_string_equal(kern_select(BG_ISA_AVX2 | BG_ISA_AVX512 | BG_ISA_VNNI)->isa, "avx512vnni");
    assert_int_equal(kern_tables(BG_ISA_AVX2 | BG_ISA_AVX512, tables), 3);
    assert_int_equal(kern_tables(BG_ISA_AVX2 | BG_ISA_AVX512 | BG_ISA_VNNI, tables), KERN_TABLES);
    for (size_t t = 0; t < KERN_TABLES; t++) { // every kernel is there
        void *entries[sizeof(struct kern) / sizeof(void *)];
        memcpy(entries, tables[t], sizeof entries);
        for (size_t i = 0; i < sizeof entries / sizeof *entries; i++) {
            assert_non_null(entries[i]);
        }
    }
    uint32_t before = kern_fp_enter(), inside = kern_fp_enter();
    assert_int_equal(inside, 0x1f80);
    kern_fp_leave(0x9fc0); // flush to zero and denormals are zero, as a careless host may have set
    assert_int_equal(kern_fp_enter(), 0x9fc0);
    volatile float tiny = 0x1p-140f;
    assert_true(tiny * 0.5f > 0);
    kern_fp_leave(before);
}

static int start(void **state)
{
    (void)state;
    arena.floats = calloc(ARENA, sizeof(float));
    arena.expected = calloc(ARENA, sizeof(float));
    const struct kern *tables[KERN_TABLES];
    size_t count = kern_tables(isa_bits(), tables);
    for (size_t i = 0; i < count; i++) {
        printf("%s%s", i ? " = " : "", tables[i]->isa);
    }
    puts(count == 1 ? ": nothing to compare on this machine" : "");
    return 0;
}

static int stop(void **state)
{
    (void)state;
    free(arena.floats);
    free(arena.expected);
    return 0;
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_tables),
        cmocka_unit_test(test_elementwise),
        cmocka_unit_test(test_rows),
        cmocka_unit_test(test_attention),
        cmocka_unit_test_setup_teardown(test_elementwise, make_wild, make_tame),
        cmocka_unit_test_setup_teardown(test_rows, make_wild, make_tame),
        cmocka_unit_test_setup_teardown(test_attention, make_wild, make_tame),
    };
    return cmocka_run_group_tests(tests, start, stop);
}
