// What class int8/1 costs in accuracy, on a trained model (stories260K, its MLP filled up with zeros to whole blocks so
// that every layer is quantised): against the distributions of fp32 over texts drawn from these, and in greedy text;
// Q8_0 weights with fp32 products beside it, and Q4_0 as the control. Needs ../shared (or BRIGADE_SHARED); skips
// without.
#include "model/batch.h"
#include "model/io.h"
#include "model/sample.h"
#include "model/step_test.h"

#include <math.h>
#include <stdarg.h>
#include <setjmp.h>
#include <cmocka.h>

enum { TEXTS = 8, LENGTH = 256, PAGES = LENGTH / BATCH_PAGE, FFN = 192, START = 1 };

struct world {
    struct bg_env *env;
    const struct kern *kern;
    struct model *model;
    float *weights;
    uint32_t vocab;
    int32_t text[TEXTS][LENGTH];
    float *exact; // (TEXTS, LENGTH, vocab): fp32 logits after each token
};

struct figures {
    double apart, nll; // mean of KL(fp32 || this); mean of -log p of the texts' tokens
    double agrees;     // part of positions whose likeliest token is fp32's
    uint32_t greedy;   // tokens of greedy text until the first that is not fp32's
};

static bool open_stories(struct bg_env *env, struct model_files *files)
{
    const char *shared = getenv("BRIGADE_SHARED");
    struct bg_error err;
    char *model = bg_format("%s/data/models/stories260K.bin", shared ? shared : BRIGADE_SOURCE_DIR "/../shared");
    char *words = bg_format("%.*s.tokenizer.bin", (int)strlen(model) - 4, model);
    const bool there = model_open_llama2c(env, model, words, &err, files) == BG_OK;
    if (!there)
        print_message("skipped: %s (set BRIGADE_SHARED)\n", err.text);
    bg_free(model);
    bg_free(words);
    return there;
}

// The same function with more units in the MLP: zeros in gate, up and down.
static void widen(struct world *w, const struct model_files *files)
{
    struct model_config config = files->model->config;
    config.ffn = FFN;
    w->model = test_model(config);
    w->vocab = config.vocab;
    w->weights = test_floats(w->model->floats);
    memset(w->weights, 0, w->model->floats * sizeof(float));
    for (uint32_t i = 0; i < w->model->param_count; i++) {
        const struct model_param *to = &w->model->params[i], *from = model_param_find(files->model, to->name);
        assert_non_null(from);
        const size_t width = from->shape[from->rank - 1], rows = from->count / width;
        for (size_t r = 0; r < rows; r++)
            memcpy(w->weights + to->offset + r * to->shape[to->rank - 1], files->weights + from->offset + r * width,
                   width * sizeof(float));
    }
}

// Draws TEXTS texts at a temperature, together; all but the first (START) token.
static void draw(struct world *w, const struct packed_model *packed, float temperature, int32_t text[][LENGTH])
{
    const struct batch_options options = {TEXTS * PAGES, TEXTS, TEXTS};
    struct sampler *sampler = sampler_create(w->kern, w->vocab);
    struct batch_run runs[TEXTS];
    uint32_t pages[TEXTS * PAGES];
    struct batch *b;
    struct bg_error err;
    const float *logits;
    assert_int_equal(batch_create(w->env, packed, w->kern, &options, &err, &b), BG_OK);
    for (uint32_t i = 0; i < TEXTS * PAGES; i++)
        pages[i] = i;
    for (uint32_t t = 0; t < TEXTS; t++)
        text[t][0] = START;
    for (uint32_t at = 0; at + 1 < LENGTH; at++) {
        for (uint32_t t = 0; t < TEXTS; t++)
            runs[t] = (struct batch_run){&text[t][at], 1, at, pages + t * PAGES, 1};
        assert_int_equal(batch_forward(b, runs, TEXTS, &err, &logits), BG_OK);
        for (uint32_t t = 0; t < TEXTS; t++) {
            const struct sample_options how = {.temperature = temperature, .top_p = 1, .seed = t};
            text[t][at + 1] = sampler_draw(sampler, logits + t * w->vocab, &how, at + 1);
        }
    }
    batch_destroy(b);
    sampler_destroy(sampler);
}

// Logits after every token of the texts.
static float *score(struct world *w, const struct packed_model *packed)
{
    const struct batch_options options = {PAGES, LENGTH, LENGTH};
    const size_t count = (size_t)LENGTH * w->vocab;
    float *all = test_floats(TEXTS * count);
    uint32_t pages[PAGES];
    struct batch *b;
    struct bg_error err;
    const float *logits;
    for (uint32_t i = 0; i < PAGES; i++)
        pages[i] = i;
    assert_int_equal(batch_create(w->env, packed, w->kern, &options, &err, &b), BG_OK);
    for (uint32_t t = 0; t < TEXTS; t++) {
        const struct batch_run run = {w->text[t], LENGTH, 0, pages, LENGTH};
        assert_int_equal(batch_forward(b, &run, 1, &err, &logits), BG_OK);
        memcpy(all + t * count, logits, count * sizeof *logits);
    }
    batch_destroy(b);
    return all;
}

static double log_sum(const float *logits, size_t n)
{
    double most = (double)logits[0], sum = 0;
    for (size_t i = 1; i < n; i++)
        most = (double)logits[i] > most ? (double)logits[i] : most;
    for (size_t i = 0; i < n; i++)
        sum += exp((double)logits[i] - most);
    return most + log(sum);
}

static uint32_t likeliest(const float *logits, uint32_t n)
{
    uint32_t at = 0;
    for (uint32_t i = 1; i < n; i++)
        at = logits[i] > logits[at] ? i : at;
    return at;
}

static struct figures compare(struct world *w, const float *logits)
{
    struct figures f = {0};
    const double positions = TEXTS * (LENGTH - 1);
    for (size_t t = 0; t < TEXTS; t++)
        for (size_t at = 0; at + 1 < LENGTH; at++) {
            const float *p = w->exact + (t * LENGTH + at) * w->vocab, *q = logits + (t * LENGTH + at) * w->vocab;
            const double p_sum = log_sum(p, w->vocab), q_sum = log_sum(q, w->vocab);
            for (size_t i = 0; i < w->vocab; i++)
                f.apart += exp((double)p[i] - p_sum) * ((double)p[i] - p_sum - (double)q[i] + q_sum);
            f.nll += q_sum - (double)q[w->text[t][at + 1]];
            f.agrees += likeliest(p, w->vocab) == likeliest(q, w->vocab);
        }
    f.apart /= positions;
    f.nll /= positions;
    f.agrees /= positions;
    return f;
}

static struct figures measure(struct world *w, enum kern_weight type, const char *name)
{
    static int32_t fp32_text[LENGTH];
    int32_t greedy[TEXTS][LENGTH];
    struct packed_model *packed;
    struct bg_error err;
    assert_int_equal(packed_create(w->env, w->model, w->weights, NULL, type, &err, &packed), BG_OK);
    if (type == KERN_F32) {
        draw(w, packed, 1, w->text);
        w->exact = score(w, packed);
    }
    float *logits = score(w, packed);
    struct figures f = compare(w, logits);
    draw(w, packed, 0, greedy);
    if (type == KERN_F32)
        memcpy(fp32_text, greedy[0], sizeof fp32_text);
    while (f.greedy < LENGTH && greedy[0][f.greedy] == fp32_text[f.greedy])
        f.greedy++;
    print_message("%-5s apart %.6f nats, perplexity %.4f, likeliest token agrees %.2f %%, greedy text for %u tokens\n",
                  name, f.apart, exp(f.nll), f.agrees * 100, f.greedy);
    free(logits);
    packed_destroy(packed);
    return f;
}

static void little_is_lost(void **state)
{
    (void)state;
    struct world w = {.env = test_env(2)};
    struct model_files files = {0};
    if (!open_stories(w.env, &files)) {
        os_env_destroy(w.env);
        skip();
    }
    w.kern = kern_select(w.env->isa);
    widen(&w, &files);
    const struct figures fp32 = measure(&w, KERN_F32, "f32"), q8_0 = measure(&w, KERN_Q8_0, "q8_0"),
                         int8 = measure(&w, KERN_INT8, "int8"), q4_0 = measure(&w, KERN_Q4_0, "q4_0");
    assert_true(fp32.apart < 1e-12 && fp32.agrees == 1.0 && fp32.greedy == LENGTH);
    assert_true(q8_0.apart > 0 && q8_0.apart < 0.001);
    assert_true(int8.apart > q8_0.apart && int8.apart < 0.002 && int8.agrees > 0.97);
    assert_true(fabs(int8.nll - fp32.nll) < 0.01);
    assert_true(q4_0.apart > 10 * int8.apart);
    free(w.exact);
    free(w.weights);
    model_destroy(w.model);
    model_close(&files);
    os_env_destroy(w.env);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(little_is_lost),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
