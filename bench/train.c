// Whole training steps of one shape, for the driver bench/run: says {"ready"}, then for every number read on standard
// input runs that many steps (forward, backward, clip, AdamW) and prints their time and the FMA peak measured right
// before and after them. The peer speaks the same protocol (torch_peer.py).
#include "base/mem.h"
#include "base/philox.h"
#include "os/host.h"
#include "os/live.h"
#include "train/peak.h"
#include "train/step.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

struct shape {
    struct model_config config;
    uint32_t micro_batch, micro_batches, length, group, threads, warmup;
};

struct bench {
    struct bg_env *env;
    const struct kern *kern;
    struct model *model;
    struct layout layout;
    struct optim_state state;
    struct token_view view;
    struct step_executor *executor;
    struct step_local commit;
    double losses[4096];
    uint64_t step;
};

static void fail(const struct bg_error *err)
{
    fprintf(stderr, "bench-train: %s\n", err->text);
    exit(1);
}

static void parse(int argc, char **argv, struct shape *s)
{
    const struct {
        const char *name;
        uint32_t *value;
    } table[] = {
        {"--layers", &s->config.layers},    {"--dim", &s->config.dim},
        {"--heads", &s->config.heads},      {"--ffn", &s->config.ffn},
        {"--context", &s->config.context},  {"--vocab", &s->config.vocab},
        {"--micro-batch", &s->micro_batch}, {"--micro-batches", &s->micro_batches},
        {"--length", &s->length},           {"--group", &s->group},
        {"--threads", &s->threads},         {"--warmup", &s->warmup},
    };
    for (int i = 1; i + 1 < argc; i += 2) {
        size_t row = 0, rows = sizeof table / sizeof *table;
        if (!strcmp(argv[i], "--family")) {
            s->config.family = strcmp(argv[i + 1], "llama") ? MODEL_GPT2 : MODEL_LLAMA;
            continue;
        }
        while (row < rows && strcmp(argv[i], table[row].name) != 0)
            row++;
        if (row == rows) {
            fprintf(stderr, "bench-train: no option %s\n", argv[i]);
            exit(64);
        }
        *table[row].value = (uint32_t)strtoul(argv[i + 1], NULL, 10);
    }
    s->config.kv_heads = s->config.heads;
    s->config.head_dim = s->config.dim / s->config.heads;
}

static void make_data(struct bench *b, const struct shape *s)
{
    uint64_t count = (uint64_t)s->micro_batch * s->micro_batches * s->length * 4 + 1;
    uint32_t *tokens = bg_alloc_array(count, sizeof *tokens);
    struct bg_philox_key key = bg_philox_key(1, BG_STREAM_DATA);
    for (uint64_t i = 0; i < count; i++)
        tokens[i] = bg_philox((struct bg_philox_counter){{(uint32_t)i, 0, 0, 0}}, key).c[0] % s->config.vocab;
    b->view = (struct token_view){tokens, count, 4};
}

static void setup(struct bench *b, const struct shape *s)
{
    struct bg_error err = {0};
    struct os_options os = {.threads = s->threads, .pin = true};
    if (os_env_create(&os, &err, &b->env))
        fail(&err);
    b->kern = kern_select(b->env->isa);
    if (model_create(&s->config, &err, &b->model))
        fail(&err);
    float **parts[] = {&b->state.weights, &b->state.m, &b->state.v};
    for (int i = 0; i < 3; i++)
        if (b->env->ops->reserve(b->env, b->model->floats * sizeof(float), &err, (void **)parts[i]))
            fail(&err);
    model_init_weights(b->model, b->env, 1, b->state.weights);
    make_data(b, s);
    struct layout_options cut = {.unit_end = b->model->unit_count,
                                 .batch = s->micro_batch,
                                 .length = s->length,
                                 .micro_batches = s->micro_batches,
                                 .group = s->group};
    if (layout_create(b->model, b->kern, b->env->threads, &cut, &err, &b->layout))
        fail(&err);
    struct step_options options = {.model = b->model,
                                   .kern = b->kern,
                                   .layout = &b->layout,
                                   .view = &b->view,
                                   .seed = 1,
                                   .optim = {0.9, 0.95, 1e-8, 0.1, 1.0}};
    if (step_create(b->env, &options, &b->state, &err, &b->executor))
        fail(&err);
    step_local_init(&b->commit, b->losses, 0, 4096);
}

static double run_steps(struct bench *b, unsigned count)
{
    struct bg_error err = {0};
    struct step_record record;
    uint64_t start = env_now_ns(b->env);
    for (unsigned i = 0; i < count && b->step < 4096; i++, b->step++)
        if (step_run(b->executor, &b->commit.base, b->step, 3e-4, &err, &record))
            fail(&err);
    return 1e-9 * (double)(env_now_ns(b->env) - start);
}

int main(int argc, char **argv)
{
    struct shape s = {.config = {.family = MODEL_GPT2,
                                 .layers = 6,
                                 .dim = 384,
                                 .heads = 6,
                                 .ffn = 1536,
                                 .context = 256,
                                 .vocab = 256,
                                 .tie = true,
                                 .rope_theta = 10000,
                                 .norm_eps = 1e-5,
                                 .bos = -1,
                                 .eos = -1},
                      .micro_batch = 3,
                      .micro_batches = 4,
                      .length = 256,
                      .threads = 2,
                      .warmup = 2};
    static struct bench b;
    parse(argc, argv, &s);
    setup(&b, &s);
    run_steps(&b, s.warmup);
    double flops = layout_flops(b.model, (uint64_t)s.micro_batch * s.micro_batches, s.length);
    printf("{\"ready\":true,\"isa\":\"%s\",\"threads\":%u,\"flops_per_step\":%.0f,\"group\":%u}\n", b.kern->isa,
           b.env->threads, flops, b.layout.group);
    fflush(stdout);
    unsigned count;
    while (scanf("%u", &count) == 1) {
        double before = peak_flops(b.env, b.kern);
        double seconds = run_steps(&b, count);
        double after = peak_flops(b.env, b.kern);
        printf("{\"steps\":%u,\"seconds\":%.9f,\"peak_gflops\":%.1f}\n", count, seconds,
               (before > after ? before : after) / 1e9);
        fflush(stdout);
    }
    printf("{\"peak_bytes\":%llu}\n", (unsigned long long)os_memory_peak());
    return 0;
}
