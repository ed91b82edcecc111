// For the tests of the engine: a small model, requests and the answers that they have alone, an engine that records
// what it tells.
#ifndef SERVE_ENGINE_TEST_H
#define SERVE_ENGINE_TEST_H

#include "base/mem.h"
#include "base/str.h"
#include "model/decode.h"
#include "model/sample.h"
#include "model/step_test.h"
#include "serve/engine.h"

#include <stdarg.h>
#include <setjmp.h>
#include <cmocka.h>

enum { REQUESTS = 14, CONTEXT = 96, TOKENS = 24 };

static const struct model_config config = {.family = MODEL_LLAMA,
                                           .layers = 2,
                                           .dim = 32,
                                           .heads = 4,
                                           .kv_heads = 2,
                                           .head_dim = 8,
                                           .ffn = 48,
                                           .context = CONTEXT,
                                           .vocab = 257,
                                           .rope_theta = 10000.0,
                                           .norm_eps = 1e-5,
                                           .bos = -1,
                                           .eos = -1};

struct answer {
    int32_t tokens[CONTEXT + 2];
    uint32_t count, cached, events;
    struct bg_str text;
    float embedding[32]; // (config.dim)
    bool embedded;
    enum serve_finish finish;
};

struct asked {
    int32_t prompt[CONTEXT];
    struct serve_request request;
    struct answer want, got;
    uint64_t id;
};

struct world {
    struct bg_env *env;
    struct model *model, *small;
    float *weights, *small_weights;
    struct packed_model *packed, *draft;
    struct tokenizer *tokenizer;
    const struct kern *kern;
    struct asked asked[REQUESTS];
    uint64_t random;
    struct engine *engine;
};

static inline uint32_t below(struct world *w, uint32_t n)
{
    w->random = w->random * 6364136223846793005u + 1442695040888963407u;
    return (uint32_t)(w->random >> 33) % n;
}

static inline void on_event(void *arg, const struct serve_event *event)
{
    struct world *w = arg;
    for (size_t i = 0; i < REQUESTS; i++) {
        struct answer *a = &w->asked[i].got;
        if (w->asked[i].id != event->request)
            continue;
        assert_int_equal(a->finish, SERVE_RUNNING); // nothing after the last
        if (event->token_count)
            memcpy(a->tokens + a->count, event->tokens, event->token_count * sizeof(int32_t));
        a->count += event->token_count;
        a->events++;
        bg_str_add_bytes(&a->text, event->text, event->text_bytes);
        if ((a->embedded = event->embedding != NULL))
            memcpy(a->embedding, event->embedding, sizeof a->embedding);
        a->finish = event->finish;
        a->cached = event->cached_tokens;
    }
}

// What gives logits alone: a decoder with w->weights; in class int8/1, which it has not, a batch of one row a call.
struct alone {
    struct decoder *decoder;
    struct batch *batch;
    uint32_t position, pages[CONTEXT / BATCH_PAGE];
};

static inline struct alone alone_open(struct world *w)
{
    struct alone a = {0};
    struct bg_error err;
    const struct batch_options options = {CONTEXT / BATCH_PAGE, 1, 1};
    for (uint32_t i = 0; i < CONTEXT / BATCH_PAGE; i++)
        a.pages[i] = i;
    if (w->packed->type == KERN_INT8)
        assert_int_equal(batch_create(w->env, w->packed, w->kern, &options, &err, &a.batch), BG_OK);
    else
        assert_int_equal(decoder_create(w->env, w->model, w->kern, w->weights, CONTEXT, 16, &err, &a.decoder), BG_OK);
    return a;
}

static inline const float *alone_feed(struct alone *a, const int32_t *tokens, uint32_t count)
{
    const float *logits = NULL;
    struct bg_error err;
    if (a->decoder)
        assert_int_equal(decoder_feed(a->decoder, tokens, count, &err, &logits), BG_OK);
    for (uint32_t i = 0; a->batch && i < count; i++) {
        const struct batch_run run = {tokens + i, 1, a->position + i, a->pages, 1};
        assert_int_equal(batch_forward(a->batch, &run, 1, &err, &logits), BG_OK);
    }
    a->position += count;
    return logits;
}

// A sampler too.
static inline void answer_alone(struct world *w, struct asked *q)
{
    struct alone alone = alone_open(w);
    struct sampler *sampler = sampler_create(w->kern, config.vocab);
    const struct serve_sampling *s = &q->request.sampling;
    const struct sample_options options = {s->temperature, s->top_k, s->top_p, s->min_p, s->seed, s->choice};
    const float *logits = alone_feed(&alone, q->prompt, q->request.prompt_count);
    for (;;) {
        const int32_t token = sampler_draw(sampler, logits, &options, alone.position);
        if (token == tokenizer_eos(w->tokenizer)) {
            q->want.finish = SERVE_STOP;
            break;
        }
        const char *bytes;
        size_t size;
        tokenizer_token_bytes(w->tokenizer, -1, token, &bytes, &size);
        bg_str_add_bytes(&q->want.text, bytes, size);
        q->want.tokens[q->want.count++] = token;
        if (q->want.count == q->request.tokens_max) {
            q->want.finish = SERVE_LENGTH;
            break;
        }
        if (alone.position == CONTEXT) {
            q->want.finish = SERVE_CONTEXT;
            break;
        }
        logits = alone_feed(&alone, &token, 1);
    }
    sampler_destroy(sampler);
    decoder_destroy(alone.decoder);
    batch_destroy(alone.batch);
}

static inline void make_requests(struct world *w)
{
    for (uint32_t i = 0; i < REQUESTS; i++) {
        struct asked *q = &w->asked[i];
        const uint32_t like = below(w, i + 1), shared = i ? below(w, w->asked[like].request.prompt_count + 1) : 0;
        q->request = (struct serve_request){.prompt = q->prompt,
                                            .prompt_count = 1 + below(w, i == 3 ? CONTEXT - 1 : 60),
                                            .tokens_max = i == 3 ? 1000 : 1 + below(w, TOKENS),
                                            .sampling = {.temperature = i % 3 ? 0.9f : 0,
                                                         .top_k = i % 4 == 1 ? 20 : 0,
                                                         .top_p = i % 4 == 2 ? 0.8f : 1,
                                                         .repeat_penalty = 1,
                                                         .seed = below(w, 1000)},
                                            .cache_prompt = i % 5 != 4};
        for (uint32_t j = 0; j < q->request.prompt_count; j++)
            q->prompt[j] = i && j < shared && j < w->asked[like].request.prompt_count ? w->asked[like].prompt[j]
                                                                                      : (int32_t)below(w, 4) + 97;
        answer_alone(w, q);
    }
}

static inline void world_create(struct world *w, unsigned threads)
{
    *w = (struct world){.env = test_env(threads), .random = 11};
    struct bg_error err;
    struct model_config small = config;
    small.layers = 1;
    w->kern = kern_select(w->env->isa);
    w->model = test_model(config);
    w->weights = test_weights(w->model, w->env, 0.1f);
    w->small = test_model(small);
    w->small_weights = test_weights(w->small, w->env, 0.1f);
    assert_int_equal(packed_create(w->env, w->model, w->weights, NULL, KERN_F32, &err, &w->packed), BG_OK);
    assert_int_equal(packed_create(w->env, w->small, w->small_weights, NULL, KERN_F32, &err, &w->draft), BG_OK);
    assert_int_equal(tokenizer_open(w->env, "bytes", &err, &w->tokenizer), BG_OK);
    make_requests(w);
}

static inline void world_destroy(struct world *w)
{
    for (size_t i = 0; i < REQUESTS; i++) {
        bg_str_fini(&w->asked[i].want.text);
        bg_str_fini(&w->asked[i].got.text);
    }
    tokenizer_destroy(w->tokenizer);
    packed_destroy(w->packed);
    packed_destroy(w->draft);
    free(w->weights);
    free(w->small_weights);
    model_destroy(w->model);
    model_destroy(w->small);
    os_env_destroy(w->env);
}

static inline void start(struct world *w, struct engine_options options)
{
    struct bg_error err = {0};
    options.event = on_event;
    options.arg = w;
    assert_int_equal(engine_create(w->env, w->packed, w->kern, w->tokenizer, &options, &err, &w->engine), BG_OK);
    for (size_t i = 0; i < REQUESTS; i++) {
        bg_str_fini(&w->asked[i].got.text);
        w->asked[i].got = (struct answer){0};
        w->asked[i].id = 0;
    }
}

static inline void submit(struct world *w, size_t i)
{
    struct bg_error err = {0};
    if (engine_submit(w->engine, &w->asked[i].request, &err, &w->asked[i].id, NULL))
        fail_msg("%s", err.text);
}

static inline void check_answer(const struct asked *q)
{
    assert_int_equal(q->got.finish, q->want.finish);
    assert_int_equal(q->got.count, q->want.count);
    assert_memory_equal(q->got.tokens, q->want.tokens, q->want.count * sizeof(int32_t));
    assert_int_equal(q->got.text.size, q->want.text.size);
    assert_memory_equal(bg_str_text(&q->got.text), bg_str_text(&q->want.text), q->want.text.size);
}

// Requests arrive in random order and at random steps.
static inline void run_all(struct world *w)
{
    bool sent[REQUESTS] = {false};
    uint32_t left = REQUESTS;
    while (left > 0 || engine_step(w->engine)) {
        const uint32_t i = below(w, REQUESTS);
        if (left == 0 || sent[i] || below(w, 3) == 0) {
            engine_step(w->engine);
            continue;
        }
        submit(w, i);
        sent[i] = true;
        left--;
    }
    for (size_t i = 0; i < REQUESTS; i++)
        check_answer(&w->asked[i]);
}

static inline uint64_t page_bytes(void)
{
    return 2ull * 2 * BATCH_PAGE * 16 * sizeof(float);
}

#endif
