// Serving one model, for the driver bench/serve: says {"ready"}, then for every line "KIND COUNT" on standard input
// does COUNT of it and prints tokens and seconds. Kinds: prefill (a prompt of 256 tokens), one and many (a token for
// one stream or for each of 16, at positions from P on), free_one (one, with products in whatever order is fastest),
// engine_one and engine_many (whole steps of the engine: drawing, pages and events too), read (all lanes read a large
// range: memory's speed; `tokens` are bytes). The peers speak the same protocol. bench-serve MODEL THREADS P [int8],
// the last: products of integers, class int8/1.
#include "base/env.h"
#include "base/mem.h"
#include "free_order.h"
#include "model/io.h"
#include "os/live.h"
#include "serve/engine.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { PREFILL = 256, STREAMS = 16, PARTS = 1024 };
static const size_t READ_BYTES = (size_t)1 << 29;

struct bench {
    struct bg_env *env;
    struct model_files files;
    struct packed_model *packed;
    struct batch *batch;
    struct batch *free_batch; // NULL: no such kernel here
    struct kern free_kern;
    struct engine *engine;
    uint32_t context, position, *pages[STREAMS];
    int32_t *tokens;
    uint64_t drawn, ended;
    void *memory;
    float sums[PARTS];
};

static void must(bg_status status, const struct bg_error *err)
{
    if (status) {
        fprintf(stderr, "bench-serve: %s\n", err->text);
        exit(70);
    }
}

static void free_gemm(const struct kern_packed_gemm *g, size_t panel, void *scratch)
{
    if (free_can(g))
        free_panel(g, panel);
    else
        kern_select(BG_ISA_AVX2 | BG_ISA_AVX512)->packed_gemm(g, panel, scratch);
}

static void count_event(void *arg, const struct serve_event *event)
{
    struct bench *b = arg;
    b->drawn += event->token_count;
    b->ended += event->finish != SERVE_RUNNING;
}

static void setup(struct bench *b, const char *path, unsigned threads, bool integers)
{
    const struct os_options os = {.threads = threads, .pin = true};
    struct bg_error err;
    enum kern_weight type;
    must(os_env_create(&os, &err, &b->env), &err);
    must(model_open_blocks(b->env, path, &err, &b->files, &type), &err);
    type = integers ? KERN_INT8 : type;
    must(packed_create(b->env, b->files.model, b->files.weights, b->files.sources, type, &err, &b->packed), &err);
    const struct model_config *config = &b->files.model->config;
    const struct kern *kern = kern_select(b->env->isa);
    b->context = config->context;
    const uint32_t pages = (b->context + BATCH_PAGE - 1) / BATCH_PAGE;
    const struct batch_options options = {STREAMS * pages, PREFILL, STREAMS};
    must(batch_create(b->env, b->packed, kern, &options, &err, &b->batch), &err);
    if (b->env->isa & BG_ISA_AVX512 && !integers) { // sums of integers have no order to be free of
        b->free_kern = *kern;
        b->free_kern.packed_gemm = free_gemm;
        must(batch_create(b->env, b->packed, &b->free_kern, &options, &err, &b->free_batch), &err);
    }
    for (uint32_t i = 0; i < STREAMS; i++) {
        b->pages[i] = bg_alloc_array(pages, sizeof **b->pages);
        for (uint32_t p = 0; p < pages; p++)
            b->pages[i][p] = i * pages + p;
    }
    b->tokens = bg_alloc_array(b->context, sizeof *b->tokens);
    for (uint32_t i = 0; i < b->context; i++)
        b->tokens[i] = (int32_t)(i * 7919 % config->vocab);
    const struct engine_options engine = {.slots = STREAMS, .chunk = PREFILL, .event = count_event, .arg = b};
    must(engine_create(b->env, b->packed, kern, b->files.tokenizer, &engine, &err, &b->engine), &err);
    must(b->env->ops->reserve(b->env, READ_BYTES, &err, &b->memory), &err);
    memset(b->memory, 1, READ_BYTES);
}

static const float *forward(struct bench *b, struct batch *batch, uint32_t streams, uint32_t count, uint32_t position)
{
    struct batch_run runs[STREAMS];
    struct bg_error err;
    const float *logits;
    for (uint32_t i = 0; i < streams; i++)
        runs[i] = (struct batch_run){b->tokens, count, position, b->pages[i], 1};
    must(batch_forward(batch, runs, streams, &err, &logits), &err);
    return logits;
}

// The free order computes the same, but for rounding.
static void check_free(struct bench *b)
{
    const float *fixed = forward(b, b->batch, 1, 1, 0), *loose = forward(b, b->free_batch, 1, 1, 0);
    float most = 0, apart = 0;
    for (uint32_t i = 0; i < b->files.model->config.vocab; i++) {
        most = fmaxf(most, fabsf(fixed[i]));
        apart = fmaxf(apart, fabsf(fixed[i] - loose[i]));
    }
    if (!(apart <= 1e-4f * most)) {
        fprintf(stderr, "bench-serve: the free order is %g apart from logits of %g\n", (double)apart, (double)most);
        exit(70);
    }
}

// Every stream holds a prompt, in memory of its own.
static void fill_pages(struct bench *b, struct batch *batch)
{
    forward(b, batch, 1, b->position, 0);
    for (uint32_t i = 1; i < STREAMS; i++)
        for (uint32_t p = 0; p * BATCH_PAGE < b->position; p++)
            memcpy(batch_page(batch, b->pages[i][p]), batch_page(batch, b->pages[0][p]), batch_page_bytes(batch));
}

static double seconds(struct bench *b)
{
    return (double)env_now_ns(b->env) * 1e-9;
}

static uint32_t drawing(struct bench *b)
{
    struct engine_slot slots[STREAMS];
    struct engine_stats stats;
    uint32_t count = 0;
    engine_get_stats(b->engine, &stats, slots, STREAMS);
    for (uint32_t i = 0; i < STREAMS; i++)
        count += slots[i].request && slots[i].drawn_tokens;
    return count;
}

// `count` steps in which `streams` requests draw, after the one in which the last of them began.
static double run_engine(struct bench *b, uint32_t streams, uint32_t count, uint64_t *tokens)
{
    struct serve_request request = {.prompt_count = b->position,
                                    .tokens_max = b->context - b->position,
                                    .sampling = {.top_p = 1, .repeat_penalty = 1},
                                    .ignore_eos = true,
                                    .cache_prompt = true};
    uint64_t ids[STREAMS];
    double retry_s;
    struct bg_error err;
    b->ended = 0;
    for (uint32_t i = 0; i < streams; i++) {
        request.prompt = b->tokens + i; // each its own
        must(engine_submit(b->engine, &request, &err, &ids[i], &retry_s), &err);
    }
    do {
        engine_step(b->engine);
    } while (drawing(b) < streams);
    b->drawn = 0;
    const double start = seconds(b);
    for (uint32_t i = 0; i < count; i++)
        engine_step(b->engine);
    const double end = seconds(b);
    *tokens = b->drawn;
    for (uint32_t i = 0; i < streams; i++)
        engine_cancel(b->engine, ids[i]);
    while (b->ended < streams)
        engine_step(b->engine);
    return end - start;
}

static void read_part(void *arg, size_t index, unsigned lane)
{
    struct bench *b = arg;
    const size_t floats = READ_BYTES / sizeof(float) / PARTS;
    const float *p = (const float *)b->memory + index * floats;
    float sum[64] = {0};
    (void)lane;
    for (size_t i = 0; i < floats; i += 64)
        for (size_t j = 0; j < 64; j++)
            sum[j] += p[i + j];
    for (size_t j = 1; j < 64; j++)
        sum[0] += sum[j];
    b->sums[index] = sum[0];
}

// False: no such kind.
static bool run(struct bench *b, const char *kind, uint32_t count, uint64_t *tokens, double *time)
{
    const uint32_t streams = strstr(kind, "many") ? STREAMS : 1;
    struct batch *batch = strncmp(kind, "free_", 5) == 0 ? b->free_batch : b->batch;
    if (strncmp(kind, "engine_", 7) == 0) {
        *time = run_engine(b, streams, count, tokens);
        return true;
    }
    if (!batch)
        return false;
    *tokens = (uint64_t)count * streams;
    const double start = seconds(b);
    if (strcmp(kind, "prefill") == 0) {
        *tokens = (uint64_t)count * PREFILL;
        for (uint32_t i = 0; i < count; i++)
            forward(b, batch, 1, PREFILL, 0);
    } else if (strcmp(kind, "read") == 0) {
        *tokens = count * READ_BYTES;
        for (uint32_t i = 0; i < count; i++)
            env_parallel_for(b->env, PARTS, read_part, b);
    } else {
        for (uint32_t i = 0; i < count; i++)
            forward(b, batch, streams, 1, b->position + i);
    }
    *time = seconds(b) - start;
    return true;
}

int main(int argc, char **argv)
{
    static struct bench b;
    const bool integers = argc == 5 && strcmp(argv[4], "int8") == 0, asked = argc == 4 || integers;
    const unsigned threads = asked ? (unsigned)strtoul(argv[2], NULL, 10) : 0;
    b.position = asked ? (uint32_t)strtoul(argv[3], NULL, 10) : 0;
    if (threads < 1 || b.position < 1 || b.position > PREFILL) {
        fprintf(stderr, "usage: bench-serve MODEL THREADS POSITION [int8], a position of 1 to %d\n", PREFILL);
        return 64;
    }
    setup(&b, argv[1], threads, integers);
    fill_pages(&b, b.batch);
    if (b.free_batch) {
        check_free(&b);
        fill_pages(&b, b.free_batch);
    }
    printf("{\"ready\":true,\"isa\":\"%s\",\"threads\":%u,\"weight_bytes\":%zu,\"free_order\":%s}\n",
           kern_select(b.env->isa)->isa, b.env->threads, b.packed->memory_bytes, b.free_batch ? "true" : "false");
    fflush(stdout);
    char kind[32];
    uint32_t count;
    while (scanf("%31s %u", kind, &count) == 2) {
        uint64_t tokens = 0;
        double time = 0;
        if (count > b.context - PREFILL - STREAMS || !run(&b, kind, count, &tokens, &time))
            return 64;
        printf("{\"tokens\":%llu,\"seconds\":%.9f}\n", (unsigned long long)tokens, time);
        fflush(stdout);
    }
    engine_destroy(b.engine);
    batch_destroy(b.free_batch);
    batch_destroy(b.batch);
    packed_destroy(b.packed);
    model_close(&b.files);
    for (uint32_t i = 0; i < STREAMS; i++)
        bg_free(b.pages[i]);
    bg_free(b.tokens);
    b.env->ops->release(b.env, b.memory, READ_BYTES);
    os_env_destroy(b.env);
    return 0;
}
