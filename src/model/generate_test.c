// Generation over the byte tokenizer: the pieces are the drawn tokens' bytes, never cut inside a UTF-8 character; every
// way to end; going on from a longer prompt draws the same text.
#include "model/generate.h"
#include "model/step_test.h"

#include <stdarg.h>
#include <setjmp.h>
#include <cmocka.h>

enum { CONTEXT = 400 };

static const struct model_config config = {.family = MODEL_LLAMA,
                                           .layers = 1,
                                           .dim = 16,
                                           .heads = 2,
                                           .kv_heads = 1,
                                           .head_dim = 8,
                                           .ffn = 24,
                                           .context = CONTEXT,
                                           .vocab = 256,
                                           .tie = true,
                                           .rope_theta = 10000.0,
                                           .norm_eps = 1e-5,
                                           .bos = -1,
                                           .eos = -1};

struct fixture {
    struct bg_env *env;
    struct model *model;
    float *weights;
    struct decoder *decoder;
    struct sampler *sampler;
    struct tokenizer *tokenizer;
    char text[4096];
    size_t size, pieces, stop_after;
    size_t ends[4096]; // where pieces end
};

static struct fixture fixture_create(void)
{
    struct fixture f = {.env = test_env(1), .stop_after = SIZE_MAX};
    struct bg_error err;
    f.model = test_model(config);
    f.weights = test_weights(f.model, f.env, 0.05f);
    const struct kern *kern = kern_select(f.env->isa);
    assert_int_equal(decoder_create(f.env, f.model, kern, f.weights, CONTEXT, 64, &err, &f.decoder), BG_OK);
    f.sampler = sampler_create(kern, config.vocab);
    assert_int_equal(tokenizer_open(f.env, "bytes", &err, &f.tokenizer), BG_OK);
    return f;
}

static void fixture_destroy(struct fixture *f)
{
    tokenizer_destroy(f->tokenizer);
    sampler_destroy(f->sampler);
    decoder_destroy(f->decoder);
    free(f->weights);
    model_destroy(f->model);
    os_env_destroy(f->env);
}

static bool take(void *arg, const char *bytes, size_t size)
{
    struct fixture *f = arg;
    assert_true(size > 0 && f->size + size < sizeof f->text);
    memcpy(f->text + f->size, bytes, size);
    f->size += size;
    f->ends[f->pieces++] = f->size;
    return f->size < f->stop_after;
}

static struct generate_result generate(struct fixture *f, const char *prompt, struct generate_options o)
{
    struct bg_error err;
    struct token_list tokens = {0};
    struct generate_result r;
    f->size = f->pieces = 0;
    o.piece = take;
    o.arg = f;
    decoder_reset(f->decoder);
    assert_int_equal(generate_prompt(f->tokenizer, prompt, strlen(prompt), false, &err, &tokens), BG_OK);
    assert_int_equal(
        generate_run(f->env, f->decoder, f->sampler, f->tokenizer, tokens.ids, (uint32_t)tokens.count, &o, &err, &r),
        BG_OK);
    token_list_fini(&tokens);
    return r;
}

static size_t character(const unsigned char *text, size_t size) // of a valid character here, else 1
{
    size_t n = text[0] >= 0xc2 && text[0] <= 0xdf   ? 2
               : text[0] >= 0xe0 && text[0] <= 0xef ? 3
               : text[0] >= 0xf0 && text[0] <= 0xf4 ? 4
                                                    : 1;
    for (size_t i = 1; i < n; i++) {
        if (i >= size || (text[i] & 0xc0) != 0x80)
            return 1;
    }
    return n;
}

static void test_stream(void **state)
{
    (void)state;
    struct fixture f = fixture_create();
    struct generate_options o = {
        .tokens = 390, .ignore_eos = true, .sample = {.temperature = 1.0f, .top_p = 1.0f, .seed = 3}};
    struct generate_result r = generate(&f, "abc", o);
    assert_int_equal(r.end, GENERATE_LENGTH);
    assert_int_equal(r.tokens, 390);
    assert_int_equal(f.size, 390);
    assert_int_equal(r.prompt_tokens, 3);

    // The same draws, without streaming.
    struct bg_error err;
    const float *logits;
    int32_t token[3] = {'a', 'b', 'c'};
    decoder_reset(f.decoder);
    assert_int_equal(decoder_feed(f.decoder, token, 3, &err, &logits), BG_OK);
    for (uint32_t i = 0; i < r.tokens; i++) {
        token[0] = sampler_draw(f.sampler, logits, &o.sample, 3 + i);
        assert_int_equal(token[0], (unsigned char)f.text[i]);
        assert_int_equal(decoder_feed(f.decoder, token, 1, &err, &logits), BG_OK);
    }
    size_t wide = 0;
    for (size_t i = 0, piece = 0; i < f.size;) {
        size_t n = character((const unsigned char *)f.text + i, f.size - i);
        while (f.ends[piece] <= i)
            piece++;
        assert_true(f.ends[piece] >= i + n);
        wide += n > 1;
        i += n;
    }
    assert_true(wide > 5);

    char first[400];
    memcpy(first, f.text, sizeof first);
    char longer[] = "abc0123456789";
    memcpy(longer + 3, first, 10);
    if (memchr(longer, 0, 13) == NULL) { // strlen() above
        generate(&f, longer, o);
        assert_memory_equal(f.text, first + 10, 300);
    }
    fixture_destroy(&f);
}

static void test_ends(void **state)
{
    (void)state;
    struct fixture f = fixture_create();
    struct generate_options o = {
        .tokens = 10000, .ignore_eos = true, .sample = {.temperature = 1.0f, .top_p = 1.0f, .seed = 3}};
    struct generate_result r = generate(&f, "abc", o);
    assert_int_equal(r.end, GENERATE_CONTEXT);
    assert_int_equal(r.tokens, CONTEXT - 3 + 1); // the last one drawn needs no place
    f.stop_after = 20;
    r = generate(&f, "abc", o);
    assert_int_equal(r.end, GENERATE_STOPPED);
    assert_true(r.tokens >= 20 && r.tokens < 26);
    f.stop_after = SIZE_MAX;
    o.ignore_eos = false;
    r = generate(&f, "abc", o);
    assert_true(r.end == GENERATE_EOS && memchr(f.text, 0, f.size) == NULL);
    assert_int_equal(f.size, r.tokens);
    r = generate(&f, "", o); // starts from the token that joins documents
    assert_int_equal(r.prompt_tokens, 1);
    o.tokens = 0;
    r = generate(&f, "x", o);
    assert_true(r.end == GENERATE_LENGTH && r.tokens == 0 && r.last == -1 && f.size == 0);
    fixture_destroy(&f);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_stream),
        cmocka_unit_test(test_ends),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
