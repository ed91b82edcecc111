// Each probe runs a few kernels of a table over operands drawn from Philox, the same for every table, and leaves their
// results as floats. Shapes are small and odd: they have full vectors, tails, and one row beside many.
#include "train/agree.h"

#include "base/assert.h"
#include "base/mem.h"
#include "base/philox.h"

#include <string.h>

enum { ARENA_BYTES = 4 << 20 };

// What a probe takes of the arena is gone when it returns.
struct probe {
    const char *what;
    size_t floats; // it leaves in out
    void (*run)(const struct kern *k, float *out, struct bg_arena arena);
};

static void *take(struct bg_arena *arena, size_t bytes)
{
    void *memory = bg_arena_take(arena, bytes);
    BG_ASSERT(memory);
    return memory;
}

static float *draw(struct bg_arena *arena, size_t n, uint32_t salt)
{
    const struct bg_philox_key key = bg_philox_key(salt, BG_STREAM_INIT);
    float *x = take(arena, n * sizeof *x);
    for (size_t i = 0; i < n; i++)
        x[i] = bg_uniform(bg_philox((struct bg_philox_counter){{(uint32_t)i, 0, 0, 0}}, key).c[0]) - 0.5f;
    return x;
}

enum { GEMM_M = 37, GEMM_N = 45, GEMM_K = 61, GEMM_OPS = KERN_TN + 1 };
enum { GEMM_FLOATS = GEMM_OPS * GEMM_M * GEMM_N };

static void products(const struct kern *k, float *out, struct bg_arena arena)
{
    const float *a = draw(&arena, GEMM_M * GEMM_K, 1), *b = draw(&arena, GEMM_N * GEMM_K, 2);
    for (int op = 0; op < GEMM_OPS; op++) {
        const struct kern_gemm g = {.op = (enum kern_gemm_op)op,
                                    .m = GEMM_M,
                                    .n = GEMM_N,
                                    .k = GEMM_K,
                                    .c = out + op * GEMM_M * GEMM_N,
                                    .ldc = GEMM_N,
                                    .a = a,
                                    .lda = op == KERN_TN ? GEMM_M : GEMM_K,
                                    .b = b,
                                    .ldb = op == KERN_NT ? GEMM_K : GEMM_N,
                                    .segments = 1};
        struct bg_arena rest = arena;
        void *scratch = take(&rest, k->gemm_scratch(&g));
        for (size_t block = 0; block < k->gemm_blocks(&g); block++)
            k->gemm_block(&g, block, scratch);
    }
}

enum { NORM_ROWS = 5, NORM_DIM = 61, NORM_FLOATS = NORM_ROWS * (NORM_DIM + 1) };

static void norms(const struct kern *k, float *out, struct bg_arena arena)
{
    const float *x = draw(&arena, NORM_ROWS * NORM_DIM, 3), *gamma = draw(&arena, NORM_DIM, 4);
    k->rms_norm(out, out + NORM_ROWS * NORM_DIM, x, gamma, 1e-5f, NORM_ROWS, NORM_DIM);
}

// One row, a few, and more than any kernel takes at once: all their forms.
static const size_t packed_rows[] = {1, 5, 17};
enum { PACKED_ROWS = 23, PACKED_N = 100, PACKED_K = 96, PACKED_FLOATS = PACKED_ROWS * PACKED_N };

static float *packed(const struct kern *k, enum kern_weight type, float *out, struct bg_arena arena)
{
    const size_t last = packed_rows[sizeof packed_rows / sizeof *packed_rows - 1];
    const float *weights = draw(&arena, PACKED_N * PACKED_K, 5), *a = draw(&arena, last * PACKED_K, 6);
    void *data = take(&arena, kern_packed_bytes(type, PACKED_N, PACKED_K));
    struct kern_quantised *quantised = take(&arena, last * PACKED_K / KERN_QUANT * sizeof *quantised);
    const struct kern_packed w = {type, PACKED_N, PACKED_K, data};
    kern_pack(data, type, PACKED_N, PACKED_K, weights, PACKED_K, false, 0, kern_packed_panels(PACKED_N));
    k->quantise(quantised, a, last * PACKED_K);
    for (size_t i = 0; i < sizeof packed_rows / sizeof *packed_rows; i++) {
        const struct kern_packed_gemm g = {
            .c = out, .ldc = PACKED_N, .a = a, .lda = PACKED_K, .m = packed_rows[i], .w = &w, .quantised = quantised};
        struct bg_arena rest = arena;
        void *scratch = take(&rest, k->packed_scratch(&g));
        for (size_t panel = 0; panel < kern_packed_panels(PACKED_N); panel++)
            k->packed_gemm(&g, panel, scratch);
        out += g.m * g.ldc;
    }
    return out;
}

static void packed_products(const struct kern *k, float *out, struct bg_arena arena)
{
    for (enum kern_weight type = KERN_F32; type < KERN_INT8; type++)
        out = packed(k, type, out, arena);
}

static void int8_products(const struct kern *k, float *out, struct bg_arena arena)
{
    packed(k, KERN_INT8, out, arena);
}

enum { PAGED_QUERIES = 20, PAGED_HEADS = 6, PAGED_KV = 3, PAGED_DIM = 40, PAGED_POSITION = 150 };
enum { PAGED_PAGES = (PAGED_POSITION + PAGED_QUERIES + KERN_PAGE - 1) / KERN_PAGE };
enum { PAGED_ROW = PAGED_HEADS * PAGED_DIM, PAGED_STRIDE = PAGED_KV * PAGED_DIM * KERN_PAGE };
enum { PAGED_NUMBERS = PAGED_PAGES * PAGED_STRIDE, PAGED_FORMS = 8 };
enum { PAGED_FLOATS = PAGED_FORMS / 2 * (PAGED_QUERIES + 1) * PAGED_ROW };

// Pages in another order than positions; fp32 and F16, an item a head with keys and several, many queries and one.
static void paged_attention(const struct kern *k, float *out, struct bg_arena arena)
{
    const float *q = draw(&arena, PAGED_QUERIES * PAGED_ROW, 7);
    const float *keys = draw(&arena, PAGED_NUMBERS, 8), *values = draw(&arena, PAGED_NUMBERS, 9);
    uint16_t *half_keys = take(&arena, PAGED_NUMBERS * sizeof *half_keys);
    uint16_t *half_values = take(&arena, PAGED_NUMBERS * sizeof *half_values);
    uint32_t pages[PAGED_PAGES];
    k->to_f16(half_keys, keys, PAGED_NUMBERS);
    k->to_f16(half_values, values, PAGED_NUMBERS);
    for (uint32_t i = 0; i < PAGED_PAGES; i++)
        pages[i] = PAGED_PAGES - 1 - i;
    for (size_t form = 0; form < PAGED_FORMS; form++) {
        const bool half = form & 1;
        const struct kern_paged a = {.queries = form & 4 ? 1 : PAGED_QUERIES,
                                     .position = PAGED_POSITION,
                                     .heads = PAGED_HEADS,
                                     .kv_heads = PAGED_KV,
                                     .head_dim = PAGED_DIM,
                                     .scale = 0.158f,
                                     .out = out,
                                     .o_stride = PAGED_ROW,
                                     .q = q,
                                     .q_stride = PAGED_ROW,
                                     .keys = half ? (const void *)half_keys : keys,
                                     .values = half ? (const void *)half_values : values,
                                     .pages = pages,
                                     .page_stride = PAGED_STRIDE,
                                     .half = half,
                                     .together = form & 2 ? 2 : 1};
        struct bg_arena rest = arena;
        void *scratch = take(&rest, k->paged_scratch(&a));
        for (size_t item = 0; item < k->paged_items(&a); item++)
            k->paged(&a, item, scratch);
        out += a.queries * PAGED_ROW;
    }
}

static const struct probe probes[] = {
    {"products", GEMM_FLOATS, products},
    {"norms", NORM_FLOATS, norms},
    {"products with packed weights", KERN_INT8 *(size_t)PACKED_FLOATS, packed_products},
    {"products of int8/1", PACKED_FLOATS, int8_products},
    {"attention over pages", PAGED_FLOATS, paged_attention},
};

const char *kernels_differ(const struct kern *ref, const struct kern *other)
{
    struct bg_arena arena = {.base = bg_alloc(ARENA_BYTES), .size = ARENA_BYTES};
    const char *differ = NULL;
    for (size_t i = 0; i < sizeof probes / sizeof *probes && !differ; i++) {
        const size_t bytes = probes[i].floats * sizeof(float);
        struct bg_arena rest = arena;
        float *want = take(&rest, bytes), *got = take(&rest, bytes);
        memset(want, 0x00, bytes);
        memset(got, 0xff, bytes); // what is not written differs
        probes[i].run(ref, want, rest);
        probes[i].run(other, got, rest);
        if (memcmp(want, got, bytes) != 0)
            differ = probes[i].what;
    }
    bg_free(arena.base);
    return differ;
}
