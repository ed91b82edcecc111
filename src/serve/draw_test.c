// Drawing: bias, penalties and mask against a plain reading of their definitions, then what the sampler alone draws
// from the changed logits; log probabilities of the model alone; the same answer whatever was drawn before. labels:
// bits
#include "base/mem.h"
#include "model/sample.h"
#include "model/step_test.h"
#include "serve/draw.h"

#include <math.h>
#include <stdarg.h>
#include <setjmp.h>
#include <cmocka.h>

enum { VOCAB = 131, COUNT = 40 };

static uint64_t state_of_random = 9;

static uint32_t below(uint32_t n)
{
    state_of_random = state_of_random * 6364136223846793005u + 1442695040888963407u;
    return (uint32_t)(state_of_random >> 33) % n;
}

struct scene {
    float logits[VOCAB], changed[VOCAB];
    int32_t tokens[COUNT];
    uint64_t mask[VOCAB / 64 + 1];
    struct serve_bias biases[3];
    struct serve_sampling sampling;
    uint32_t prompt_count, count;
    bool masked;
};

static void make(struct scene *s)
{
    *s = (struct scene){.prompt_count = 1 + below(10), .masked = below(2)};
    s->count = s->prompt_count + below(COUNT - s->prompt_count);
    for (uint32_t i = 0; i < VOCAB; i++)
        s->logits[i] = (float)((int32_t)below(2000) - 1000) / 128;
    for (uint32_t i = 0; i < s->count; i++)
        s->tokens[i] = (int32_t)below(20); // often the same
    for (uint32_t i = 0; i < VOCAB; i++)
        if (below(4) == 0)
            s->mask[i / 64] |= (uint64_t)1 << i % 64;
    s->mask[1] |= 1;
    for (uint32_t i = 0; i < 3; i++)
        s->biases[i] = (struct serve_bias){(int32_t)(i * 40 + below(40)), (float)((int32_t)below(200) - 100)};
    s->sampling = (struct serve_sampling){.temperature = below(3) ? 0.8f : 0,
                                          .top_k = below(2) * 12,
                                          .top_p = below(2) ? 0.9f : 1,
                                          .min_p = below(2) ? 0.05f : 0,
                                          .repeat_penalty = below(2) ? 1.3f : 1,
                                          .repeat_last = below(COUNT),
                                          .presence_penalty = below(2) ? 0.5f : 0,
                                          .frequency_penalty = below(2) ? -0.25f : 0,
                                          .biases = s->biases,
                                          .bias_count = below(4),
                                          .seed = below(1000),
                                          .choice = below(3)};
}

// As they are defined: OpenAI's bias and penalties over drawn tokens, llama.cpp's repeat penalty over the last ones.
static void change(struct scene *s)
{
    const struct serve_sampling *o = &s->sampling;
    memcpy(s->changed, s->logits, sizeof s->logits);
    for (uint32_t i = 0; i < o->bias_count; i++)
        s->changed[o->biases[i].id] += o->biases[i].bias;
    for (int32_t id = 0; id < VOCAB; id++) {
        uint32_t drawn = 0;
        bool recent = false;
        for (uint32_t i = 0; i < s->count; i++) {
            drawn += i >= s->prompt_count && s->tokens[i] == id;
            recent |= i + o->repeat_last >= s->count && s->tokens[i] == id;
        }
        if (drawn > 0) {
            s->changed[id] -= o->presence_penalty;
            s->changed[id] -= (float)drawn * o->frequency_penalty;
        }
        if (recent)
            s->changed[id] =
                s->changed[id] > 0 ? s->changed[id] / o->repeat_penalty : s->changed[id] * o->repeat_penalty;
        if (s->masked && !(s->mask[id / 64] >> id % 64 & 1))
            s->changed[id] = -INFINITY;
    }
}

static struct draw_call call_of(const struct scene *s)
{
    return (struct draw_call){.logits = s->logits,
                              .sampling = &s->sampling,
                              .tokens = s->tokens,
                              .prompt_count = s->prompt_count,
                              .count = s->count,
                              .mask = s->masked ? s->mask : NULL};
}

static void draws_from_what_is_defined(void **state)
{
    (void)state;
    struct bg_env *env = test_env(1);
    const struct kern *kern = kern_select(env->isa);
    struct draw *draw = draw_create(kern, VOCAB);
    struct sampler *sampler = sampler_create(kern, VOCAB);
    for (uint32_t round = 0; round < 3000; round++) {
        struct scene s;
        make(&s);
        change(&s);
        const struct draw_call call = call_of(&s);
        const struct sample_options o = {s.sampling.temperature, s.sampling.top_k, s.sampling.top_p,
                                         s.sampling.min_p,       s.sampling.seed,  s.sampling.choice};
        const int32_t token = draw_token(draw, &call, 0, NULL);
        assert_int_equal(token, sampler_draw(sampler, s.changed, &o, s.count));
        assert_int_equal(token, draw_token(draw, &call, 0, NULL)); // nothing is left over
        assert_true(!s.masked || s.mask[token / 64] >> token % 64 & 1);
    }
    draw_destroy(draw);
    sampler_destroy(sampler);
    os_env_destroy(env);
}

static void one_that_may_come_comes(void **state)
{
    (void)state;
    struct bg_env *env = test_env(1);
    struct draw *draw = draw_create(kern_select(env->isa), VOCAB);
    for (uint32_t round = 0; round < VOCAB; round++) {
        struct scene s;
        make(&s);
        memset(s.mask, 0, sizeof s.mask);
        s.mask[round / 64] |= (uint64_t)1 << round % 64;
        s.masked = true;
        s.biases[0] = (struct serve_bias){(int32_t)round, -INFINITY}; // even where it is as unlikely as can be
        s.sampling.bias_count = 1;
        const struct draw_call call = call_of(&s);
        assert_int_equal(draw_token(draw, &call, 0, NULL), round);
    }
    draw_destroy(draw);
    os_env_destroy(env);
}

static void log_probabilities(void **state)
{
    (void)state;
    struct bg_env *env = test_env(1);
    struct draw *draw = draw_create(kern_select(env->isa), VOCAB);
    for (uint32_t round = 0; round < 300; round++) {
        struct scene s;
        struct serve_logprob got[21];
        make(&s);
        if (round % 4 == 0)
            s.logits[5 + below(50)] = NAN; // a damaged row of the head: as if it were not there
        const struct draw_call call = call_of(&s);
        const uint32_t top = below(21);
        const int32_t token = draw_token(draw, &call, top, got);
        double sum = 0;
        for (uint32_t i = 0; i < VOCAB; i++)
            sum += isnan(s.logits[i]) ? 0 : exp((double)s.logits[i]);
        assert_int_equal(got[0].id, token);
        for (uint32_t k = 0; k <= top; k++)
            assert_true(fabs((double)got[k].logprob - ((double)s.logits[got[k].id] - log(sum))) < 1e-4);
        for (uint32_t k = 1; k <= top; k++) { // its rank among all, the lower id first among equals
            uint32_t before = 0;
            for (int32_t i = 0; i < VOCAB; i++)
                before += s.logits[i] > s.logits[got[k].id] || (s.logits[i] == s.logits[got[k].id] && i < got[k].id);
            assert_int_equal(before, k - 1);
        }
        assert_int_equal(draw_token(draw, &call, 0, NULL), token);
    }
    draw_destroy(draw);
    os_env_destroy(env);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(draws_from_what_is_defined),
        cmocka_unit_test(one_that_may_come_comes),
        cmocka_unit_test(log_probabilities),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
