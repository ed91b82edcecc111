// Decoding: tokens/s of models of Llama's shape with random weights, fp32 and quantised, one stream and many, and of
// prefill, beside the memory bandwidth measured in the same run (all lanes read a large range). Decoding one stream
// reads every packed weight once a token: `bandwidth` is that rate over the measured one. Times are medians; `best` are
// those of the fastest rounds, for a machine that is not idle. Then the price of the fixed order: one row with a
// weight, beside the same product in whatever order is fastest. One JSON line each. bench-decode [--quick] [--threads
// N] [--only TEXT] [--position P]
#include "base/env.h"
#include "base/mem.h"
#include "free_order.h"
#include "model/batch.h"
#include "os/host.h"
#include "os/live.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { CONTEXT = 512, PREFILL = 256, ROUNDS_MAX = 64, STREAMS_MAX = 16 };

struct shape {
    const char *name;
    uint32_t layers, dim, heads, ffn, vocab;
};
static const struct shape shapes[] = {
    {"15M", 6, 288, 6, 768, 32000},
    {"110M", 12, 768, 12, 2048, 32000},
};
static const struct {
    const char *name;
    enum kern_weight type;
} types[] = {{"f32", KERN_F32}, {"q8_0", KERN_Q8_0}, {"q4_0", KERN_Q4_0}, {"int8", KERN_INT8}};

struct reading {
    const float *data;
    size_t floats;
    float sums[1024];
};

static void read_item(void *arg, size_t index, unsigned lane)
{
    struct reading *r = arg;
    const float *p = r->data + index * (r->floats / 1024);
    float sum[64] = {0};
    (void)lane;
    for (size_t i = 0; i + 64 <= r->floats / 1024; i += 64)
        for (size_t j = 0; j < 64; j++)
            sum[j] += p[i + j];
    for (size_t j = 1; j < 64; j++)
        sum[0] += sum[j];
    r->sums[index] = sum[0];
}

static int by_value(const void *a, const void *b)
{
    const double x = *(const double *)a, y = *(const double *)b;
    return x < y ? -1 : x > y;
}

static double median(double *times, size_t count)
{
    qsort(times, count, sizeof *times, by_value);
    return times[count / 2];
}

static double seconds(struct bg_env *env)
{
    return (double)env_now_ns(env) * 1e-9;
}

struct subject {
    struct bg_env *env;
    struct batch *batch;
    uint32_t pages[STREAMS_MAX][CONTEXT / BATCH_PAGE];
    int32_t tokens[CONTEXT];
    struct reading *reading;
    uint32_t position; // that decoding begins at
};

// One more token for each of `streams`, at position.
static double decode_once(struct subject *s, uint32_t streams, uint32_t position)
{
    struct batch_run runs[STREAMS_MAX];
    struct bg_error err;
    const float *logits;
    for (uint32_t i = 0; i < streams; i++)
        runs[i] = (struct batch_run){s->tokens + i, 1, position, s->pages[i], 1};
    double start = seconds(s->env);
    if (batch_forward(s->batch, runs, streams, &err, &logits))
        exit(70);
    return seconds(s->env) - start;
}

static double prefill_once(struct subject *s)
{
    const struct batch_run run = {s->tokens, PREFILL, 0, s->pages[0], 1};
    struct bg_error err;
    const float *logits;
    double start = seconds(s->env);
    if (batch_forward(s->batch, &run, 1, &err, &logits))
        exit(70);
    return seconds(s->env) - start;
}

static double read_once(struct subject *s)
{
    double start = seconds(s->env);
    env_parallel_for(s->env, 1024, read_item, s->reading);
    return seconds(s->env) - start;
}

static void measure(struct subject *s, const struct shape *shape, const char *type, const struct packed_model *packed,
                    int rounds)
{
    double one[ROUNDS_MAX], many[ROUNDS_MAX], prefill[ROUNDS_MAX], reads[ROUNDS_MAX];
    for (int r = -1; r < rounds; r++) { // the first one warms up
        const uint32_t position = s->position + (uint32_t)(r + 1);
        double times[4] = {decode_once(s, 1, position), decode_once(s, STREAMS_MAX, position), prefill_once(s),
                           read_once(s)};
        if (r < 0)
            continue;
        one[r] = times[0];
        many[r] = times[1];
        prefill[r] = times[2];
        reads[r] = times[3];
    }
    const size_t count = (size_t)rounds;
    const double single = 1 / median(one, count), all = STREAMS_MAX / median(many, count);
    const double best = 1 / one[0], best_all = STREAMS_MAX / many[0]; // sorted by now
    const double rate = (double)packed->memory_bytes * single,
                 most = (double)s->reading->floats * sizeof(float) / median(reads, count);
    printf(
        "{\"shape\": \"%s\", \"weights\": \"%s\", \"threads\": %u, \"isa\": %u, \"decode_tokens_per_second\": %.1f, "
        "\"decode_16_tokens_per_second\": %.1f, \"speedup_16\": %.2f, \"position\": %u, "
        "\"decode_best\": %.1f, \"decode_16_best\": %.1f, \"prefill_tokens_per_second\": %.1f, "
        "\"weight_bytes\": %zu, \"bytes_per_second\": %.3g, \"memory_bytes_per_second\": %.3g, \"bandwidth\": %.3f}\n",
        shape->name, type, s->env->threads, s->env->isa, single, all, all / single, s->position, best, best_all,
        PREFILL / median(prefill, count), packed->memory_bytes, rate, most, rate / most);
    fflush(stdout);
}

static void bench_shape(struct bg_env *env, const struct shape *shape, const char *only, int rounds,
                        struct reading *reading, uint32_t position)
{
    const struct model_config config = {.family = MODEL_LLAMA,
                                        .layers = shape->layers,
                                        .dim = shape->dim,
                                        .heads = shape->heads,
                                        .kv_heads = shape->heads,
                                        .head_dim = shape->dim / shape->heads,
                                        .ffn = shape->ffn,
                                        .context = CONTEXT,
                                        .vocab = shape->vocab,
                                        .rope_theta = 10000,
                                        .norm_eps = 1e-5,
                                        .bos = -1,
                                        .eos = -1};
    struct bg_error err;
    struct model *model = NULL;
    void *weights = NULL;
    if (model_create(&config, &err, &model) || env->ops->reserve(env, model->floats * sizeof(float), &err, &weights)) {
        fprintf(stderr, "%s\n", err.text);
        exit(70);
    }
    model_init_weights(model, env, 1, weights);
    for (size_t t = 0; t < sizeof types / sizeof *types; t++) {
        char name[64];
        snprintf(name, sizeof name, "%s %s", shape->name, types[t].name);
        if (only && !strstr(name, only))
            continue;
        struct packed_model *packed = NULL;
        struct subject s = {.env = env, .reading = reading, .position = position};
        const struct batch_options options = {STREAMS_MAX * (CONTEXT / BATCH_PAGE), PREFILL, STREAMS_MAX};
        if (packed_create(env, model, weights, NULL, types[t].type, &err, &packed) ||
            batch_create(env, packed, kern_select(env->isa), &options, &err, &s.batch)) {
            fprintf(stderr, "%s\n", err.text);
            exit(70);
        }
        for (uint32_t i = 0; i < STREAMS_MAX; i++)
            for (uint32_t p = 0; p < CONTEXT / BATCH_PAGE; p++)
                s.pages[i][p] = i * (CONTEXT / BATCH_PAGE) + p;
        for (uint32_t p = 0; p < options.pages; p++) // memory that was never written is one page of zeros, in a cache
            memset(batch_page(s.batch, p), 0x3c, batch_page_bytes(s.batch));
        for (uint32_t i = 0; i < CONTEXT; i++)
            s.tokens[i] = (int32_t)(i * 7919 % shape->vocab);
        measure(&s, shape, types[t].name, packed, rounds);
        batch_destroy(s.batch);
        packed_destroy(packed);
    }
    env->ops->release(env, weights, model->floats * sizeof(float));
    model_destroy(model);
}

// ---- The price of the fixed order ----
static void bench_price(struct bg_env *env, enum kern_weight type, const char *name, int rounds)
{
    enum { OUT = 16384, IN = 768 };
    const struct kern *kern = kern_select(env->isa);
    float *weights = bg_alloc_array((size_t)OUT * IN, sizeof *weights), *a = bg_alloc_array(IN, sizeof *a);
    float *c = bg_alloc_array(OUT, sizeof *c);
    double fixed[ROUNDS_MAX], loose[ROUNDS_MAX];
    struct bg_error err;
    void *data = NULL, *scratch = NULL;
    if (env->ops->reserve(env, kern_packed_bytes(type, OUT, IN), &err, &data) ||
        env->ops->reserve(env, 1 << 20, &err, &scratch))
        exit(70);
    for (size_t i = 0; i < (size_t)OUT * IN; i++)
        weights[i] = (float)(i * 2654435761u % 2001) * 1e-3f - 1;
    for (size_t i = 0; i < IN; i++)
        a[i] = weights[i * 7];
    kern_pack(data, type, OUT, IN, weights, IN, false, 0, OUT / KERN_PANEL);
    const struct kern_packed w = {type, OUT, IN, data};
    const struct kern_packed_gemm g = {c, OUT, a, IN, 1, &w, NULL, NULL};
    for (int r = -1; r < rounds; r++) {
        const double start = seconds(env);
        for (size_t p = 0; p < OUT / KERN_PANEL; p++)
            kern->packed_gemm(&g, p, scratch);
        const double middle = seconds(env);
        for (size_t p = 0; p < OUT / KERN_PANEL; p++)
            free_panel(&g, p);
        if (r < 0)
            continue;
        fixed[r] = middle - start;
        loose[r] = seconds(env) - middle;
    }
    const double ours = median(fixed, (size_t)rounds), theirs = median(loose, (size_t)rounds);
    printf("{\"price_of_order\": \"%s\", \"outputs\": %d, \"inputs\": %d, \"fixed_seconds\": %.3g, "
           "\"free_seconds\": %.3g, \"price\": %.3f, \"price_best\": %.3f}\n",
           name, OUT, IN, ours, theirs, ours / theirs, fixed[0] / loose[0]);
    env->ops->release(env, data, kern_packed_bytes(type, OUT, IN));
    env->ops->release(env, scratch, 1 << 20);
    bg_free(weights);
    bg_free(a);
    bg_free(c);
}

int main(int argc, char **argv)
{
    struct os_options options = {.pin = true};
    const char *only = NULL;
    int rounds = 20;
    uint32_t position = PREFILL;
    for (int i = 1; i < argc; i++) {
        if (strcmp(argv[i], "--quick") == 0)
            rounds = 2;
        else if (strcmp(argv[i], "--threads") == 0 && i + 1 < argc)
            options.threads = (unsigned)strtoul(argv[++i], NULL, 10);
        else if (strcmp(argv[i], "--only") == 0 && i + 1 < argc)
            only = argv[++i];
        else if (strcmp(argv[i], "--position") == 0 && i + 1 < argc)
            position = (uint32_t)strtoul(argv[++i], NULL, 10);
        else
            return 64;
    }
    if (position > CONTEXT - ROUNDS_MAX - 1)
        return 64;
    struct bg_env *env = NULL;
    struct bg_error err;
    if (os_env_create(&options, &err, &env)) {
        fprintf(stderr, "%s\n", err.text);
        return 70;
    }
    struct reading reading = {.floats = (size_t)1 << 27};
    void *data = NULL;
    if (env->ops->reserve(env, reading.floats * sizeof(float), &err, &data))
        return 70;
    memset(data, 1, reading.floats * sizeof(float));
    reading.data = data;
    for (size_t i = 0; i < sizeof shapes / sizeof *shapes; i++)
        bench_shape(env, &shapes[i], only, rounds, &reading, position);
    for (size_t t = 0; t < 2 && (env->isa & BG_ISA_AVX512) && (!only || strstr("price", only)); t++)
        bench_price(env, types[t].type, types[t].name, rounds);
    env->ops->release(env, data, reading.floats * sizeof(float));
    os_env_destroy(env);
    return 0;
}
