// GFLOP/s of the GEMM at the shapes that training and decoding use, against the FMA peak measured in the same run: each
// round times a burst of register-only FMAs on all lanes, then the product. One JSON line a shape and thread count.
// bench-gemm [--quick] [--isa ref|avx2|avx512] [--threads N] [--rounds N] [--only TEXT]
//
// Shapes: A is 6 x 384 wide with 12 x 256 tokens in 4 micro-batches, B is GPT-2 124M with 4 x 256 tokens, decode one or
// a few rows. fwd is A B^T or A B as the family stores its weights, dx the input gradient, dw the weight gradient.
#include "base/env.h"
#include "kern/kern.h"
#include "os/host.h"
#include "os/live.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

struct shape {
    const char *name;
    enum kern_gemm_op op;
    size_t m, n, k, segments;
};

static const struct shape shapes[] = {
    {"A qkv fwd", KERN_NT, 3072, 1152, 384, 1},
    {"A attention out fwd", KERN_NT, 3072, 384, 384, 1},
    {"A ffn up fwd", KERN_NT, 3072, 1024, 384, 1},
    {"A ffn down fwd", KERN_NT, 3072, 384, 1024, 1},
    {"A wide up fwd", KERN_NT, 3072, 1536, 384, 1},
    {"A wide down fwd", KERN_NT, 3072, 384, 1536, 1},
    {"A head fwd", KERN_NT, 3072, 256, 384, 1},
    {"A one micro-batch fwd", KERN_NT, 768, 384, 384, 1},
    {"A qkv dx", KERN_NN, 3072, 384, 1152, 1},
    {"A attention out dx", KERN_NN, 3072, 384, 384, 1},
    {"A ffn up dx", KERN_NN, 3072, 384, 1024, 1},
    {"A ffn down dx", KERN_NN, 3072, 1024, 384, 1},
    {"A head dx", KERN_NN, 3072, 384, 256, 1},
    {"A qkv dw", KERN_TN, 1152, 384, 768, 4},
    {"A attention out dw", KERN_TN, 384, 384, 768, 4},
    {"A ffn up dw", KERN_TN, 1024, 384, 768, 4},
    {"A ffn down dw", KERN_TN, 384, 1024, 768, 4},
    {"A head dw", KERN_TN, 256, 384, 768, 4},
    {"B qkv fwd", KERN_NN, 1024, 2304, 768, 1},
    {"B attention out fwd", KERN_NN, 1024, 768, 768, 1},
    {"B ffn up fwd", KERN_NN, 1024, 3072, 768, 1},
    {"B ffn down fwd", KERN_NN, 1024, 768, 3072, 1},
    {"B qkv dx", KERN_NT, 1024, 768, 2304, 1},
    {"B ffn up dx", KERN_NT, 1024, 768, 3072, 1},
    {"B ffn down dx", KERN_NT, 1024, 3072, 768, 1},
    {"B qkv dw", KERN_TN, 768, 2304, 256, 4},
    {"B attention out dw", KERN_TN, 768, 768, 256, 4},
    {"B ffn up dw", KERN_TN, 768, 3072, 256, 4},
    {"B ffn down dw", KERN_TN, 3072, 768, 256, 4},
    {"B head fwd", KERN_NT, 1024, 50257, 768, 1},
    {"B head fwd, 256 rows", KERN_NT, 256, 50257, 768, 1},
    {"B head dx", KERN_NN, 1024, 768, 50257, 1},
    {"B head dw", KERN_TN, 50257, 768, 256, 4},
    {"decode fwd", KERN_NT, 1, 2304, 768, 1},
    {"decode fwd, 8 rows", KERN_NT, 8, 2304, 768, 1},
    {"decode head", KERN_NT, 1, 50257, 768, 1},
    {"decode fwd (in,out)", KERN_NN, 1, 2304, 768, 1},
};

static const struct shape shapes_quick[] = {
    {"quick NT", KERN_NT, 192, 128, 96, 1},
    {"quick NN", KERN_NN, 192, 128, 96, 1},
    {"quick TN", KERN_TN, 96, 128, 48, 4},
};

enum { ROUNDS_MAX = 101, BURSTS_A_LANE = 8, BURST_ROUNDS = 20000 };

struct options {
    bool quick;
    const char *isa, *only;
    unsigned threads, rounds;
};

struct call { // what the lanes share
    const struct kern *kern;
    struct kern_gemm g;
    uint8_t *scratch;
    size_t scratch_stride;
};

struct spread {
    double min, median, max;
};

static void fail(const char *text)
{
    fprintf(stderr, "bench-gemm: %s\n", text);
    exit(1);
}

static int by_value(const void *a, const void *b)
{
    double x = *(const double *)a, y = *(const double *)b;
    return (x > y) - (x < y);
}

static struct spread spread_of(double *values, unsigned count)
{
    qsort(values, count, sizeof(double), by_value);
    return (struct spread){values[0], values[count / 2], values[count - 1]};
}

static void run_block(void *arg, size_t index, unsigned lane)
{
    struct call *c = arg;
    c->kern->gemm_block(&c->g, index, c->scratch + lane * c->scratch_stride);
}

static void run_burst(void *arg, size_t index, unsigned lane)
{
    const struct kern *kern = arg;
    float sink[16];
    (void)index;
    (void)lane;
    kern->fma_burst(sink, BURST_ROUNDS);
}

static double seconds_since(struct bg_env *env, uint64_t start)
{
    return 1e-9 * (double)(env_now_ns(env) - start);
}

// About as many flops as the product has, so that both are disturbed alike.
static double peak_gflops(struct bg_env *env, const struct kern *kern, double flops)
{
    float sink[16];
    double burst = (double)kern->fma_burst(sink, BURST_ROUNDS);
    size_t bursts = (size_t)(flops / burst), least = (size_t)BURSTS_A_LANE * env->threads;
    bursts = bursts < least ? least : bursts;
    flops = burst * (double)bursts;
    uint64_t start = env_now_ns(env);
    env_parallel_for(env, bursts, run_burst, (void *)(uintptr_t)kern);
    return 1e-9 * flops / seconds_since(env, start);
}

static float *reserve_floats(struct bg_env *env, size_t n)
{
    struct bg_error err;
    void *memory;
    if (env->ops->reserve(env, n * sizeof(float) + 64, &err, &memory) != BG_OK)
        fail("no memory for the operands");
    return memory;
}

static float *random_floats(struct bg_env *env, size_t n)
{
    float *x = reserve_floats(env, n);
    uint32_t seed = 1;
    for (size_t i = 0; i < n; i++) {
        seed = seed * 1664525u + 1013904223u;
        x[i] = (float)(seed >> 8) * 0x1p-24f - 0.5f;
    }
    return x;
}

static void measure(struct bg_env *env, struct call *c, const char *name, unsigned rounds)
{
    static const char *const op_names[] = {[KERN_NT] = "NT", [KERN_NN] = "NN", [KERN_TN] = "TN"};
    const struct kern_gemm *g = &c->g;
    double flops = 2.0 * (double)g->m * (double)g->n * (double)g->k * (double)g->segments;
    double gflops[ROUNDS_MAX], peak[ROUNDS_MAX], ratio[ROUNDS_MAX];
    unsigned repeats = flops < 2e8 ? (unsigned)(2e8 / flops) + 1 : 1; // a round lasts a millisecond or more

    for (unsigned round = 0; round <= rounds; round++) { // round 0 warms up
        unsigned at = round ? round - 1 : 0;
        peak[at] = peak_gflops(env, c->kern, flops * repeats);
        uint64_t start = env_now_ns(env);
        for (unsigned i = 0; i < repeats; i++)
            env_parallel_for(env, c->kern->gemm_blocks(g), run_block, c);
        gflops[at] = 1e-9 * flops * repeats / seconds_since(env, start);
        ratio[at] = gflops[at] / peak[at];
    }
    struct spread s = spread_of(gflops, rounds), p = spread_of(peak, rounds), r = spread_of(ratio, rounds);
    double weights = (double)(g->op == KERN_TN ? g->m * g->n : g->n * g->k) * sizeof(float);
    printf(
        "{\"bench\":\"gemm\",\"shape\":\"%s\",\"op\":\"%s\",\"m\":%zu,\"n\":%zu,\"k\":%zu,\"segments\":%zu,\"isa\":\"%"
        "s\","
        "\"threads\":%u,\"rounds\":%u,\"flops\":%.0f,\"weight_bytes\":%.0f,\"gflops_min\":%.1f,\"gflops_median\":%.1f,"
        "\"gflops_max\":%.1f,\"peak_gflops\":%.1f,\"peak_gflops_max\":%.1f,\"of_peak\":%.3f,\"of_peak_best\":%.3f,"
        "\"weight_gb_per_second\":%.1f}\n",
        name, op_names[g->op], g->m, g->n, g->k, g->segments, c->kern->isa, env->threads, rounds, flops, weights, s.min,
        s.median, s.max, p.median, p.max, r.median, s.max / p.max, weights * s.median / flops);
    fflush(stdout);
}

static void run_shape(struct bg_env *env, const struct kern *kern, const struct shape *s, unsigned rounds)
{
    struct call c = {.kern = kern};
    struct kern_gemm *g = &c.g;
    size_t depth = s->k * s->segments;
    size_t a = s->m * depth, b = s->n * depth, out = s->m * s->n;

    *g = (struct kern_gemm){.op = s->op, .m = s->m, .n = s->n, .k = s->k, .segments = s->segments, .ldc = s->n};
    g->lda = s->op == KERN_TN ? s->m : depth;
    g->ldb = s->op == KERN_NT ? depth : s->n;
    float *a_floats = random_floats(env, a), *b_floats = random_floats(env, b);
    g->a = a_floats;
    g->b = b_floats;
    g->c = reserve_floats(env, out);
    c.scratch_stride = (kern->gemm_scratch(g) + 4095) / 4096 * 4096;
    size_t scratch = c.scratch_stride * env->threads / sizeof(float);
    c.scratch = (uint8_t *)reserve_floats(env, scratch);

    measure(env, &c, s->name, rounds);
    env->ops->release(env, c.scratch, scratch * sizeof(float) + 64);
    env->ops->release(env, g->c, out * sizeof(float) + 64);
    env->ops->release(env, b_floats, b * sizeof(float) + 64);
    env->ops->release(env, a_floats, a * sizeof(float) + 64);
}

static const struct kern *choose(unsigned isa_bits, const char *name)
{
    const struct kern *tables[KERN_TABLES];
    size_t count = kern_tables(isa_bits, tables);
    for (size_t i = 0; i < count && name; i++) {
        if (!strcmp(tables[i]->isa, name))
            return tables[i];
    }
    if (name)
        fail("--isa: not one of the tables that this build holds and this machine runs");
    return kern_select(isa_bits);
}

static void run_threads(const struct options *o, unsigned threads)
{
    struct os_options os = {.threads = threads, .pin = true};
    struct bg_error err;
    struct bg_env *env;
    if (os_env_create(&os, &err, &env) != BG_OK)
        fail("cannot create the environment (threads, BRIGADE_ISA)");

    const struct kern *kern = choose(env->isa, o->isa);
    const struct shape *list = o->quick ? shapes_quick : shapes;
    size_t count = o->quick ? sizeof(shapes_quick) / sizeof(shapes_quick[0]) : sizeof(shapes) / sizeof(shapes[0]);
    for (size_t i = 0; i < count; i++) {
        if (!o->only || strstr(list[i].name, o->only))
            run_shape(env, kern, &list[i], o->rounds);
    }
    os_env_destroy(env);
}

static unsigned number(const char *text)
{
    char *end;
    unsigned long n = strtoul(text, &end, 10);
    if (*end || n == 0 || n > ROUNDS_MAX)
        fail("a number from 1 to 101 is expected");
    return (unsigned)n;
}

int main(int argc, char **argv)
{
    struct options o = {.rounds = 9};
    for (int i = 1; i < argc; i++) {
        const char *value = i + 1 < argc ? argv[i + 1] : NULL;
        if (!strcmp(argv[i], "--quick")) {
            o.quick = true;
            o.rounds = 3;
            continue;
        }
        if (!value)
            fail("usage: bench-gemm [--quick] [--isa NAME] [--threads N] [--rounds N] [--only TEXT]");
        if (!strcmp(argv[i], "--isa"))
            o.isa = value;
        else if (!strcmp(argv[i], "--only"))
            o.only = value;
        else if (!strcmp(argv[i], "--threads"))
            o.threads = number(value);
        else if (!strcmp(argv[i], "--rounds"))
            o.rounds = number(value);
        else
            fail("usage: bench-gemm [--quick] [--isa NAME] [--threads N] [--rounds N] [--only TEXT]");
        i++;
    }
    if (o.threads) {
        run_threads(&o, o.threads);
        return 0;
    }
    run_threads(&o, 1);
    if (os_cpu_count() > 1)
        run_threads(&o, 2);
    return 0;
}
