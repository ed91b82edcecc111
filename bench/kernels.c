// Throughput of every kernel but the GEMM on one thread: one JSON line a kernel, median of N runs after a warm-up,
// bytes (each operand counted once) or flops a second, and for attention the share of the FMA peak measured beside it.
// bench-kernels [--quick] [--isa ref|avx2|avx512|avx512vnni] [--only NAME]
#include "base/env.h"
#include "kern/kern.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

enum { TOKENS = 3 * 256, DIM = 384, FFN = 1536, VOCAB = 50257, ROWS_CE = 16, RUNS_MAX = 41, OPERAND = TOKENS * FFN };

struct operands { // a megabyte or two each: what one micro-batch of shape A hands a kernel
    float *a, *b, *c, *d, *e, *f;
    double *doubles;
    int32_t *tokens;
    void *scratch;
};

static double now(void)
{
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (double)t.tv_sec + 1e-9 * (double)t.tv_nsec;
}

static int by_value(const void *a, const void *b)
{
    double x = *(const double *)a, y = *(const double *)b;
    return (x > y) - (x < y);
}

static void fill(float *p, size_t n, float scale, float shift)
{
    uint32_t seed = 1;
    for (size_t i = 0; i < n; i++) {
        seed = seed * 1664525u + 1013904223u;
        p[i] = ((float)(seed >> 8) * 0x1p-24f - 0.5f) * scale + shift;
    }
}

static void *memory(size_t bytes)
{
    void *p = aligned_alloc(64, (bytes + 63) / 64 * 64);
    if (!p) {
        fprintf(stderr, "bench-kernels: no memory for %zu bytes\n", bytes);
        exit(1);
    }
    memset(p, 0, bytes);
    return p;
}

// Fresh before every line: what one kernel leaves (subnormals, say) must not slow the next.
static void refill(const struct operands *o)
{
    fill(o->a, OPERAND, 4, 0);
    fill(o->b, OPERAND, 4, 0);
    fill(o->c, OPERAND, 4, 2.5f);
    fill(o->d, OPERAND, 4, 0);
    fill(o->e, 3 * (size_t)OPERAND, 1, 1);
    fill(o->f, OPERAND, 1, 1);
    for (int i = 0; i < TOKENS; i++) {
        o->tokens[i] = i * 37 % 256;
    }
}

static double peak(const struct kern *k)
{
    double best = 0;
    float sink[16];
    for (int i = 0; i < 12; i++) { // a shared machine only ever slows a burst down
        double start = now();
        double flops = (double)k->fma_burst(sink, 100000) / (now() - start);
        best = flops > best ? flops : best;
    }
    return best;
}

// --- one function a line ---------------------------------------------------------------------------------------------

static const size_t n_ffn = (size_t)TOKENS * FFN, n_dim = (size_t)TOKENS * DIM;
static const struct kern_adamw adamw_options = {1e-3f, 0.9f, 0.95f, 0.1f, 0.05f, 10.0f, 20.0f, 1e-8f, 0.1f, 1.0f};
static const struct kern_dropout dropout_options = {{1, 2}, 3, 4, 5, 0.1f, 1 / 0.9f};

#define RUN(name) static void run_##name(const struct kern *k, const struct operands *o)

RUN(rms_norm)
{
    k->rms_norm(o->a, o->f, o->b, o->c, 1e-5f, TOKENS, DIM);
}
RUN(rms_norm_grad)
{
    k->rms_norm_grad(o->a, o->b, o->c, o->d, o->f, TOKENS, DIM, true);
}
RUN(layer_norm)
{
    k->layer_norm(o->a, o->e, o->f, o->b, o->c, o->d, 1e-5f, TOKENS, DIM);
}
RUN(layer_norm_grad)
{
    k->layer_norm_grad(o->a, o->b, o->c, o->d, o->e, o->f, TOKENS, DIM, true);
}
RUN(norm_weight_grad)
{
    k->norm_weight_grad(o->a, o->b, o->c, o->d, o->e, o->f, TOKENS / 4, DIM, 4, 0, DIM, false);
}
RUN(column_sum)
{
    k->column_sum(o->a, o->b, TOKENS / 4, FFN, 4, 0, FFN, false);
}
RUN(rope)
{
    k->rope(o->a, o->b, o->c, TOKENS, DIM, 6, 64, 0, 256, false);
}
RUN(swiglu)
{
    k->swiglu(o->a, o->b, o->c, n_ffn);
}
RUN(swiglu_grad)
{
    k->swiglu_grad(o->a, o->e, o->b, o->b, o->c, o->d, n_ffn);
}
RUN(gelu)
{
    k->gelu(o->a, o->b, n_ffn);
}
RUN(gelu_grad)
{
    k->gelu_grad(o->a, o->b, o->b, o->c, n_ffn);
}
RUN(add)
{
    k->add(o->a, o->b, o->c, n_dim);
}
RUN(dropout)
{
    k->dropout(o->a, &dropout_options, 0, n_dim);
}
RUN(embed)
{
    k->embed(o->a, o->b, o->c, o->tokens, TOKENS, DIM, 0, 256);
}
RUN(cross_entropy)
{
    k->cross_entropy(o->doubles, o->a, o->tokens, 0.01f, ROWS_CE, VOCAB, true);
}
RUN(softmax)
{
    k->softmax(o->a, VOCAB);
}
RUN(sum_squares)
{
    o->doubles[0] = k->sum_squares(o->a, n_ffn);
}
RUN(adamw)
{
    k->adamw(o->a, o->b, o->c, o->d, n_ffn, &adamw_options);
}
RUN(from_f16)
{
    k->from_f16(o->a, (const uint16_t *)o->b, n_ffn);
}
RUN(from_bf16)
{
    k->from_bf16(o->a, (const uint16_t *)o->b, n_ffn);
}

static const struct line {
    const char *name;
    void (*run)(const struct kern *k, const struct operands *o);
    double elements, bytes; // a run
} lines[] = {
    {"rms_norm", run_rms_norm, TOKENS *DIM, 8.0 * TOKENS *DIM},
    {"rms_norm_grad", run_rms_norm_grad, TOKENS *DIM, 16.0 * TOKENS *DIM},
    {"layer_norm", run_layer_norm, TOKENS *DIM, 8.0 * TOKENS *DIM},
    {"layer_norm_grad", run_layer_norm_grad, TOKENS *DIM, 16.0 * TOKENS *DIM},
    {"norm_weight_grad", run_norm_weight_grad, TOKENS *DIM, 8.0 * TOKENS *DIM},
    {"column_sum", run_column_sum, TOKENS *FFN, 4.0 * TOKENS *FFN},
    {"rope", run_rope, TOKENS *DIM, 8.0 * TOKENS *DIM},
    {"swiglu", run_swiglu, TOKENS *FFN, 12.0 * TOKENS *FFN},
    {"swiglu_grad", run_swiglu_grad, TOKENS *FFN, 20.0 * TOKENS *FFN},
    {"gelu", run_gelu, TOKENS *FFN, 8.0 * TOKENS *FFN},
    {"gelu_grad", run_gelu_grad, TOKENS *FFN, 12.0 * TOKENS *FFN},
    {"add", run_add, TOKENS *DIM, 12.0 * TOKENS *DIM},
    {"dropout", run_dropout, TOKENS *DIM, 8.0 * TOKENS *DIM},
    {"embed", run_embed, TOKENS *DIM, 12.0 * TOKENS *DIM},
    {"cross_entropy", run_cross_entropy, (double)ROWS_CE *VOCAB, 8.0 * ROWS_CE *VOCAB},
    {"softmax", run_softmax, VOCAB, 8.0 * VOCAB},
    {"sum_squares", run_sum_squares, TOKENS *FFN, 4.0 * TOKENS *FFN},
    {"adamw", run_adamw, TOKENS *FFN, 28.0 * TOKENS *FFN},
    {"from_f16", run_from_f16, TOKENS *FFN, 6.0 * TOKENS *FFN},
    {"from_bf16", run_from_bf16, TOKENS *FFN, 6.0 * TOKENS *FFN},
};

static void bench_line(const struct kern *k, const struct operands *o, const struct line *line, int runs)
{
    double times[RUNS_MAX];
    refill(o);
    for (int r = -2; r < runs; r++) {
        double start = now();
        line->run(k, o);
        times[r < 0 ? 0 : r] = now() - start;
    }
    qsort(times, (size_t)runs, sizeof *times, by_value);
    double median = times[runs / 2];
    printf("{\"bench\":\"kernel\",\"kernel\":\"%s\",\"isa\":\"%s\",\"elements\":%.0f,\"runs\":%d,\"min_us\":%.2f,"
           "\"median_us\":%.2f,\"max_us\":%.2f,\"ns_per_element\":%.4f,\"gb_per_second\":%.2f}\n",
           line->name, k->isa, line->elements, runs, times[0] * 1e6, median * 1e6, times[runs - 1] * 1e6,
           median * 1e9 / line->elements, line->bytes / median * 1e-9);
    fflush(stdout);
}

// --- attention -------------------------------------------------------------------------------------------------------

static void bench_attention(const struct kern *k, const struct operands *o, size_t sequences, size_t keys, size_t heads,
                            size_t kv_heads, size_t head_dim, int runs)
{
    size_t dim = heads * head_dim, kv = kv_heads * head_dim;
    struct kern_attention a = {.sequences = sequences,
                               .queries = keys,
                               .keys = keys,
                               .heads = heads,
                               .kv_heads = kv_heads,
                               .head_dim = head_dim,
                               .q_stride = dim,
                               .k_stride = kv,
                               .v_stride = kv,
                               .o_stride = dim,
                               .kv_sequence_stride = keys * kv,
                               .scale = (float)(1 / sqrt((double)head_dim)),
                               .out = o->d,
                               .row_max = o->f,
                               .row_sum = o->f + sequences * heads * keys,
                               .q = o->a,
                               .k = o->b,
                               .v = o->c};
    size_t n = sequences * keys * dim;
    struct kern_attention_grad g = {a, o->e, o->e + n, o->e + 2 * n, o->a, 0, 0};
    double times[2][RUNS_MAX], best = peak(k);
    double pairs = (double)(sequences * heads) * (double)keys * (double)(keys + 1) / 2;
    refill(o);
    for (int r = -1; r < runs; r++) {
        double start = now();
        for (size_t i = 0; i < k->attention_items(&a); i++) {
            k->attention(&a, i, o->scratch);
        }
        double middle = now();
        for (size_t i = 0; i < k->attention_grad_items(&a); i++) {
            k->attention_grad(&g, i, o->scratch);
        }
        times[0][r < 0 ? 0 : r] = middle - start;
        times[1][r < 0 ? 0 : r] = now() - middle;
    }
    for (int back = 0; back < 2; back++) {
        qsort(times[back], (size_t)runs, sizeof *times[back], by_value);
        double median = times[back][runs / 2], flops = pairs * (double)head_dim * (back ? 10 : 4) / median;
        printf("{\"bench\":\"kernel\",\"kernel\":\"%s\",\"isa\":\"%s\",\"shape\":\"%zux%zu, %zu/%zu heads of %zu\","
               "\"runs\":%d,\"min_us\":%.1f,\"median_us\":%.1f,\"max_us\":%.1f,\"gflops\":%.2f,\"peak_gflops\":%.2f,"
               "\"of_peak\":%.3f}\n",
               back ? "attention_grad" : "attention", k->isa, sequences, keys, heads, kv_heads, head_dim, runs,
               times[back][0] * 1e6, median * 1e6, times[back][runs - 1] * 1e6, flops * 1e-9, best * 1e-9,
               flops / best);
    }
    fflush(stdout);
}

// --- products with packed weights ------------------------------------------------------------------------------------

// Weights of one byte as numbers and as integers, turn by turn: a panel after the other, as a lane of decoding has
// them.
static void bench_packed(const struct kern *k, size_t n, size_t kk, size_t m, int runs)
{
    static const enum kern_weight types[] = {KERN_Q8_0, KERN_INT8};
    float *weights = memory(n * kk * sizeof *weights), *a = memory(m * kk * sizeof *a), *c = memory(m * n * sizeof *c);
    struct kern_quantised *quantised = memory(m * kk / KERN_QUANT * sizeof *quantised);
    struct kern_packed w[2];
    struct kern_packed_gemm g[2];
    double times[2][RUNS_MAX];
    fill(weights, n * kk, 1, 0);
    fill(a, m * kk, 4, 0);
    for (int t = 0; t < 2; t++) {
        void *data = memory(kern_packed_bytes(types[t], n, kk));
        kern_pack(data, types[t], n, kk, weights, kk, false, 0, kern_packed_panels(n));
        w[t] = (struct kern_packed){types[t], n, kk, data};
        g[t] = (struct kern_packed_gemm){c, n, a, kk, m, &w[t], NULL, quantised};
    }
    void *scratch = memory(k->packed_scratch(&g[0]));
    for (int r = -1; r < runs; r++) {
        for (int t = 0; t < 2; t++) {
            const double start = now();
            if (t == 1)
                k->quantise(quantised, a, m * kk);
            for (size_t p = 0; p < kern_packed_panels(n); p++)
                k->packed_gemm(&g[t], p, scratch);
            times[t][r < 0 ? 0 : r] = now() - start;
        }
    }
    double median[2];
    for (int t = 0; t < 2; t++) {
        qsort(times[t], (size_t)runs, sizeof *times[t], by_value);
        median[t] = times[t][runs / 2];
    }
    const double flops = 2.0 * (double)(m * n * kk), bytes = (double)kern_packed_bytes(KERN_INT8, n, kk);
    printf("{\"bench\":\"kernel\",\"kernel\":\"packed\",\"isa\":\"%s\",\"rows\":%zu,\"outputs\":%zu,\"inputs\":%zu,"
           "\"runs\":%d,\"q8_0_gflops\":%.1f,\"int8_gflops\":%.1f,\"int8_best_gflops\":%.1f,"
           "\"int8_gb_per_second\":%.2f,\"speedup\":%.2f,\"speedup_best\":%.2f}\n",
           k->isa, m, n, kk, runs, flops / median[0] * 1e-9, flops / median[1] * 1e-9, flops / times[1][0] * 1e-9,
           bytes / median[1] * 1e-9, median[0] / median[1], times[0][0] / times[1][0]);
    fflush(stdout);
    for (int t = 0; t < 2; t++)
        free((void *)w[t].data);
    free(weights), free(a), free(c), free(quantised), free(scratch);
}

static unsigned isa_bits(const char *name)
{
    __builtin_cpu_init();
    unsigned bits = 0;
    if (strcmp(name, "ref") != 0 && __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma")) {
        bits |= BG_ISA_AVX2;
        if (strcmp(name, "avx2") != 0 && __builtin_cpu_supports("avx512dq") && __builtin_cpu_supports("avx512bw") &&
            __builtin_cpu_supports("avx512vl")) {
            bits |= BG_ISA_AVX512;
            if (strcmp(name, "avx512") != 0 && __builtin_cpu_supports("avx512vnni"))
                bits |= BG_ISA_VNNI;
        }
    }
    return bits;
}

int main(int argc, char **argv)
{
    const char *isa = "avx512vnni", *only = NULL;
    int runs = 21;
    for (int i = 1; i < argc; i++) {
        if (!strcmp(argv[i], "--quick")) {
            runs = 3;
        } else if (!strcmp(argv[i], "--isa") && i + 1 < argc) {
            isa = argv[++i];
        } else if (!strcmp(argv[i], "--only") && i + 1 < argc) {
            only = argv[++i];
        } else {
            fprintf(stderr, "usage: bench-kernels [--quick] [--isa ref|avx2|avx512|avx512vnni] [--only NAME]\n");
            return 64;
        }
    }
    const struct kern *k = kern_select(isa_bits(isa));
    struct operands o = {.doubles = memory(TOKENS * sizeof(double)),
                         .tokens = memory(TOKENS * sizeof(int32_t)),
                         .scratch = memory(4 << 20)};
    float **all[] = {&o.a, &o.b, &o.c, &o.d, &o.e, &o.f};
    for (int i = 0; i < 6; i++) {
        *all[i] = memory(sizeof(float) * OPERAND * (i == 4 ? 3 : 1));
    }
    kern_fp_enter();
    for (size_t i = 0; i < sizeof lines / sizeof *lines; i++) {
        if (!only || !strcmp(only, lines[i].name)) {
            bench_line(k, &o, &lines[i], runs);
        }
    }
    if (!only || !strcmp(only, "attention")) {
        bench_attention(k, &o, 3, 256, 6, 6, 64, runs);
        bench_attention(k, &o, 1, 256, 12, 12, 64, runs);
        bench_attention(k, &o, 1, 1024, 4, 2, 64, runs);
        bench_attention(k, &o, 4, 64, 4, 4, 32, runs);
        bench_attention(k, &o, 1, 512, 4, 1, 128, runs);
    }
    static const size_t packed_shapes[][2] = {{768, 768}, {2048, 768}, {768, 2048}, {32000, 768}};
    static const size_t packed_rows[] = {1, 16, 256};
    for (size_t i = 0; i < 4 && (!only || !strcmp(only, "packed")); i++) {
        for (size_t j = 0; j < 3; j++) {
            const size_t n = packed_shapes[i][0];
            bench_packed(k, n, packed_shapes[i][1], packed_rows[j], n > 4096 && packed_rows[j] > 16 ? 3 : runs);
        }
    }
    return 0;
}
