// Decoding in batches: whatever runs beside a sequence, however its tokens are cut, wherever its pages lie, its logits
// are those of the decoder alone, bit for bit; with quantised weights, those of the decoder on the numbers that the
// blocks stand for; in class int8/1, those of one sequence alone with products written here a second time. Pages can be
// moved; bad calls change nothing; a call allocates nothing.
// labels: bits
#include "model/batch.h"
#include "model/decode.h"
#include "model/step_test.h"

#include <math.h>
#include <stdarg.h>
#include <setjmp.h>
#include <cmocka.h>

enum { LENGTH = 70, SEQUENCES = 5, POOL = 64, ROWS = 48 };

static const struct model_config llama = {.family = MODEL_LLAMA,
                                          .layers = 2,
                                          .dim = 64,
                                          .heads = 4,
                                          .kv_heads = 2,
                                          .head_dim = 16,
                                          .ffn = 96,
                                          .context = 80,
                                          .vocab = 97,
                                          .qkv_bias = true,
                                          .rope_theta = 10000.0,
                                          .norm_eps = 1e-5,
                                          .bos = -1,
                                          .eos = -1};
static const struct model_config gpt2 = {.family = MODEL_GPT2,
                                         .layers = 2,
                                         .dim = 36,
                                         .heads = 3,
                                         .kv_heads = 3,
                                         .head_dim = 12,
                                         .ffn = 50,
                                         .context = 80,
                                         .vocab = 101,
                                         .tie = true,
                                         .norm_eps = 1e-5,
                                         .bos = -1,
                                         .eos = -1};

// Some layers have no whole blocks of inputs: `o` of this one, `down` of the next.
static const struct model_config uneven = {.family = MODEL_LLAMA,
                                           .layers = 2,
                                           .dim = 64,
                                           .heads = 3,
                                           .kv_heads = 1,
                                           .head_dim = 16,
                                           .ffn = 160,
                                           .context = 80,
                                           .vocab = 97,
                                           .rope_theta = 10000.0,
                                           .norm_eps = 1e-5,
                                           .bos = -1,
                                           .eos = -1};
static const struct model_config gpt2_blocks = {.family = MODEL_GPT2,
                                                .layers = 2,
                                                .dim = 96,
                                                .heads = 3,
                                                .kv_heads = 3,
                                                .head_dim = 32,
                                                .ffn = 80,
                                                .context = 80,
                                                .vocab = 101,
                                                .tie = true,
                                                .norm_eps = 1e-5,
                                                .bos = -1,
                                                .eos = -1};

struct sequence {
    int32_t tokens[LENGTH];
    uint32_t pages[(LENGTH + BATCH_PAGE - 1) / BATCH_PAGE], done;
    float *want; // (LENGTH, vocab)
};

struct world {
    struct bg_env *env;
    struct model *model;
    float *weights;
    struct sequence s[SEQUENCES];
    uint64_t random;
};

static uint32_t below(struct world *w, uint32_t n)
{
    w->random = w->random * 6364136223846793005u + 1442695040888963407u;
    return (uint32_t)(w->random >> 33) % n;
}

static struct world world_create(struct model_config config)
{
    struct world w = {.env = test_env(2), .model = test_model(config), .random = 3};
    w.weights = test_weights(w.model, w.env, 0.1f);
    return w;
}

static void world_destroy(struct world *w)
{
    free(w->weights);
    model_destroy(w->model);
    os_env_destroy(w->env);
}

// What sequences say, and where their pages lie.
static void lay_sequences(struct world *w)
{
    for (uint32_t i = 0; i < SEQUENCES; i++) {
        int32_t targets[LENGTH];
        test_tokens(w->s[i].tokens, targets, LENGTH, w->model->config.vocab);
        for (uint32_t j = 0; j < LENGTH; j++)
            w->s[i].tokens[j] = (int32_t)((uint32_t)w->s[i].tokens[j] * (i + 3) % w->model->config.vocab);
        w->s[i].want = test_floats((size_t)LENGTH * w->model->config.vocab);
        w->s[i].done = 0;
        for (uint32_t p = 0; p < (LENGTH + BATCH_PAGE - 1) / BATCH_PAGE; p++)
            w->s[i].pages[p] = (p * SEQUENCES + i) * 29 % POOL; // 29 and 64 share nothing: all different
    }
}

static void expect(struct world *w, const float *weights)
{
    struct decoder *d = NULL;
    struct bg_error err;
    const struct kern *tables[KERN_TABLES];
    kern_tables(w->env->isa, tables);
    assert_int_equal(decoder_create(w->env, w->model, tables[0], weights, LENGTH, 16, &err, &d), BG_OK);
    lay_sequences(w);
    for (uint32_t i = 0; i < SEQUENCES; i++) {
        decoder_reset(d);
        assert_int_equal(decoder_feed_all(d, w->s[i].tokens, LENGTH, w->s[i].want, &err), BG_OK);
    }
    decoder_destroy(d);
}

// Each sequence alone, token by token.
static void expect_alone(struct world *w, const struct packed_model *packed, const struct kern *kern)
{
    const struct batch_options options = {POOL, 1, 1};
    const size_t vocab = w->model->config.vocab;
    struct batch *b = NULL;
    struct bg_error err;
    const float *logits;
    assert_int_equal(batch_create(w->env, packed, kern, &options, &err, &b), BG_OK);
    lay_sequences(w);
    for (uint32_t i = 0; i < SEQUENCES; i++)
        for (uint32_t j = 0; j < LENGTH; j++) {
            const struct batch_run run = {w->s[i].tokens + j, 1, j, w->s[i].pages, 1};
            assert_int_equal(batch_forward(b, &run, 1, &err, &logits), BG_OK);
            memcpy(w->s[i].want + j * vocab, logits, vocab * sizeof *logits);
        }
    batch_destroy(b);
}

// Some sequences each take some tokens; returns how many runs, and advances them.
static size_t draw_runs(struct world *w, struct batch_run *runs, uint32_t *who)
{
    size_t count = 0;
    uint32_t rows = 0;
    for (uint32_t k = 0, i = below(w, SEQUENCES); k < SEQUENCES; k++, i = (i + 1) % SEQUENCES) {
        struct sequence *s = &w->s[i];
        uint32_t left = LENGTH - s->done, take = below(w, 4) ? 1 : 1 + below(w, 30);
        take = take < left ? take : left;
        if (take == 0 || rows + take > ROWS || below(w, 3) == 0)
            continue;
        runs[count] = (struct batch_run){s->tokens + s->done, take, s->done, s->pages, 1 + below(w, take)};
        who[count++] = i;
        rows += take;
    }
    return count;
}

static void check_batches(struct world *w, const struct packed_model *packed, const struct kern *kern)
{
    const struct batch_options options = {POOL, ROWS, ROWS};
    const size_t vocab = w->model->config.vocab;
    struct batch_run runs[SEQUENCES];
    uint32_t who[SEQUENCES], finished = 0;
    struct batch *b = NULL;
    struct bg_error err;
    assert_int_equal(batch_create(w->env, packed, kern, &options, &err, &b), BG_OK);
    for (uint32_t i = 0; i < SEQUENCES; i++)
        w->s[i].done = 0;
    while (finished < SEQUENCES) {
        const size_t count = draw_runs(w, runs, who);
        const float *logits;
        if (count == 0)
            continue;
        uint64_t allocations = bg_mem_count();
        assert_int_equal(batch_forward(b, runs, count, &err, &logits), BG_OK);
        assert_int_equal(bg_mem_count(), allocations);
        for (size_t i = 0; i < count; i++) {
            struct sequence *s = &w->s[who[i]];
            s->done += runs[i].count;
            finished += s->done == LENGTH;
            assert_memory_equal(logits, s->want + (s->done - runs[i].logits) * vocab,
                                runs[i].logits * vocab * sizeof(float));
            logits += runs[i].logits * vocab;
        }
        struct sequence *moved = &w->s[who[0]]; // its first page goes elsewhere: 60..63 are free
        uint32_t to = moved->pages[0] == 63 ? 62 : 63;
        bool taken = false;
        for (uint32_t i = 0; i < SEQUENCES; i++)
            for (uint32_t p = 0; p < (LENGTH + BATCH_PAGE - 1) / BATCH_PAGE; p++)
                taken |= w->s[i].pages[p] == to;
        if (!taken) {
            memcpy(batch_page(b, to), batch_page(b, moved->pages[0]), batch_page_bytes(b));
            memset(batch_page(b, moved->pages[0]), 0xff, batch_page_bytes(b));
            moved->pages[0] = to;
        }
    }
    batch_destroy(b);
}

static void release(struct world *w)
{
    for (uint32_t i = 0; i < SEQUENCES; i++)
        free(w->s[i].want);
}

static void check_model(struct model_config config)
{
    struct world w = world_create(config);
    struct packed_model *packed = NULL;
    struct bg_error err;
    const struct kern *tables[KERN_TABLES];
    const size_t count = kern_tables(w.env->isa, tables);
    assert_int_equal(packed_create(w.env, w.model, w.weights, NULL, KERN_F32, &err, &packed), BG_OK);
    assert_true(packed->memory_bytes == packed_bytes(w.model, KERN_F32));
    expect(&w, w.weights);
    for (size_t i = 0; i < count; i++)
        check_batches(&w, packed, tables[i]);
    struct packed_model *adopted = packed_adopt(w.env, w.model, w.weights, KERN_F32, packed->memory);
    check_batches(&w, adopted, tables[count - 1]);
    packed_destroy(adopted);
    release(&w);
    packed_destroy(packed);
    world_destroy(&w);
}

static void llama_in_batches(void **state)
{
    (void)state;
    check_model(llama);
}

static void many_heads_in_batches(void **state)
{
    (void)state;
    struct model_config config = llama;
    config.heads = config.kv_heads = 20; // of several sequences: items that a lane takes together
    config.head_dim = 4;
    check_model(config);
}

static void gpt2_in_batches(void **state)
{
    (void)state;
    check_model(gpt2);
}

// Rows of blocks as GGUF has them, made from the weights; and the numbers they stand for put in their place.
static void quantise(struct world *w, enum kern_weight type, struct packed_source *sources)
{
    const size_t size = type == KERN_Q8_0 ? 34 : 18;
    for (uint32_t i = 0; i < w->model->param_count; i++) {
        const struct model_param *p = &w->model->params[i];
        if (p->rank < 2 || p->unit == 0)
            continue;
        const size_t blocks = p->count / 32;
        uint8_t *bytes = test_memory(blocks * size);
        for (size_t b = 0; b < blocks * size; b++)
            bytes[b] = b % size == 1 ? (uint8_t)(0x18 + below(w, 4)) : (uint8_t)below(w, 256);
        kern_widen_blocks(w->weights + p->offset, type, bytes, blocks);
        sources[i] = (struct packed_source){type, bytes};
    }
}

static void quantised_weights_are_their_numbers(void **state)
{
    (void)state;
    for (enum kern_weight type = KERN_Q8_0; type <= KERN_Q4_0; type++) {
        struct world w = world_create(llama);
        struct packed_source *sources = test_memory(w.model->param_count * sizeof *sources);
        struct packed_model *packed = NULL, *wide = NULL;
        struct bg_error err;
        const struct kern *tables[KERN_TABLES];
        const size_t count = kern_tables(w.env->isa, tables);
        memset(sources, 0, w.model->param_count * sizeof *sources);
        quantise(&w, type, sources);
        assert_int_equal(packed_create(w.env, w.model, w.weights, sources, type, &err, &packed), BG_OK);
        assert_int_equal(packed_create(w.env, w.model, w.weights, sources, KERN_F32, &err, &wide), BG_OK);
        expect(&w, w.weights);
        for (size_t i = 0; i < count; i++)
            check_batches(&w, packed, tables[i]);
        check_batches(&w, wide, tables[count - 1]);
        release(&w);
        for (uint32_t i = 0; i < w.model->param_count; i++)
            free((void *)(uintptr_t)sources[i].data);
        free(sources);
        packed_destroy(packed);
        packed_destroy(wide);
        world_destroy(&w);
    }
}

// ---- Class int8/1 ----
// The class's products once more, from what `batch` hands out for fp32 products: fp32 inputs and panels of Q8_0.
static void int8_panel(const struct kern_packed_gemm *g, size_t panel, void *scratch)
{
    const size_t blocks = g->w->k / 32, bytes = 64 * 2 + 64 * 32;
    if (g->w->type == KERN_F32) {
        kern_select(0)->packed_gemm(g, panel, scratch);
        return;
    }
    for (size_t row = 0; row < g->m; row++)
        for (size_t out = panel * 64; out < g->w->n && out < panel * 64 + 64; out++) {
            float sum = 0;
            for (size_t b = 0; b < blocks; b++) {
                const uint8_t *block = (const uint8_t *)g->w->data + (panel * blocks + b) * bytes;
                const float *a = g->a + row * g->lda + b * 32;
                float most = 0, d;
                uint16_t half;
                long products = 0;
                for (size_t i = 0; i < 32; i++)
                    most = fabsf(a[i]) > most ? fabsf(a[i]) : most;
                const float step = most / 127.0f, times = most > 0 ? 1.0f / step : 0;
                for (size_t i = 0; i < 32; i++)
                    products += lrintf(a[i] * times) * (int8_t)block[128 + i * 64 + out % 64];
                memcpy(&half, block + out % 64 * 2, 2);
                kern_select(0)->from_f16(&d, &half, 1);
                sum = fmaf((float)products, d * step, sum);
            }
            g->c[row * g->ldc + out] = g->bias ? sum + g->bias[out] : sum;
        }
}

// The class's attention from pages of fp32: each key and value to F16 and back.
static void int8_paged(const struct kern_paged *a, size_t item, void *scratch)
{
    const size_t numbers = a->head_dim * 16, stride = a->kv_heads * numbers, at = item % a->kv_heads * numbers;
    const size_t count = (a->position + a->queries + 15) / 16;
    float *keys = test_memory(count * stride * sizeof *keys), *values = test_memory(count * stride * sizeof *values);
    uint16_t *half = test_memory(numbers * sizeof *half);
    uint32_t *pages = test_memory(count * sizeof *pages);
    struct kern_paged copy = *a;
    for (size_t i = 0; i < count; i++) {
        const size_t from = a->pages[i] * a->page_stride + at;
        pages[i] = (uint32_t)i;
        kern_select(0)->to_f16(half, (const float *)a->keys + from, numbers);
        kern_select(0)->from_f16(keys + i * stride + at, half, numbers);
        kern_select(0)->to_f16(half, (const float *)a->values + from, numbers);
        kern_select(0)->from_f16(values + i * stride + at, half, numbers);
    }
    copy.keys = keys;
    copy.values = values;
    copy.pages = pages;
    copy.page_stride = stride;
    kern_select(0)->paged(&copy, item, scratch);
    free(keys), free(values), free(half), free(pages);
}

// How far the logits are from those of fp32 products with the same weights, as a part of their size (both root mean
// squares).
static double apart(struct world *w, const struct packed_model *packed, const struct kern *kern)
{
    const size_t count = (size_t)LENGTH * w->model->config.vocab;
    double square = 0, size = 0;
    float *was[SEQUENCES];
    for (uint32_t i = 0; i < SEQUENCES; i++)
        was[i] = w->s[i].want;
    expect_alone(w, packed, kern);
    for (uint32_t i = 0; i < SEQUENCES; i++) {
        for (size_t j = 0; j < count; j++) {
            const double far = (double)was[i][j] - (double)w->s[i].want[j];
            square += far * far;
            size += (double)w->s[i].want[j] * (double)w->s[i].want[j];
        }
        free(w->s[i].want);
        w->s[i].want = was[i];
    }
    return sqrt(square / size);
}

static void check_int8(struct model_config config)
{
    struct world w = world_create(config);
    struct packed_source *sources = test_memory(w.model->param_count * sizeof *sources);
    struct packed_model *packed = NULL, *q8_0 = NULL;
    struct bg_error err;
    const struct kern *tables[KERN_TABLES];
    const size_t count = kern_tables(w.env->isa, tables);
    struct kern again = *tables[count - 1];
    again.packed_gemm = int8_panel;
    again.paged = int8_paged;
    memset(sources, 0, w.model->param_count * sizeof *sources);
    quantise(&w, KERN_Q8_0, sources);
    assert_int_equal(packed_create(w.env, w.model, w.weights, sources, KERN_INT8, &err, &packed), BG_OK);
    assert_int_equal(packed_create(w.env, w.model, w.weights, sources, KERN_Q8_0, &err, &q8_0), BG_OK);
    assert_int_equal(packed->blocks[1].q.w.type, KERN_INT8);
    assert_int_equal(packed->blocks[1].o.w.type, config.heads * config.head_dim % 32 ? KERN_F32 : KERN_INT8);
    assert_int_equal(packed->blocks[1].down.w.type, config.ffn % 32 ? KERN_F32 : KERN_INT8);
    assert_int_equal(packed->head.w.type, KERN_INT8);
    expect_alone(&w, q8_0, &again);
    for (size_t i = 0; i < count; i++)
        check_batches(&w, packed, tables[i]);
    struct packed_model *adopted = packed_adopt(w.env, w.model, w.weights, KERN_INT8, packed->memory);
    check_batches(&w, adopted, tables[count - 1]);
    const double far = apart(&w, q8_0, tables[count - 1]);
    printf("logits are %.4f apart from those of fp32\n", far);
    assert_true(far > 1e-4 && far < 0.05); // a byte is off by at most 1/254 of its block's largest input
    packed_destroy(adopted);
    release(&w);
    for (uint32_t i = 0; i < w.model->param_count; i++)
        free((void *)(uintptr_t)sources[i].data);
    free(sources);
    packed_destroy(packed);
    packed_destroy(q8_0);
    world_destroy(&w);
}

static void integers_in_batches(void **state)
{
    (void)state;
    check_int8(llama);
    check_int8(uneven);
    check_int8(gpt2_blocks);
}

// From fp32 numbers and from Q4_0 blocks of the same, the panels are those of Q8_0 blocks of these.
static void int8_has_the_numbers_of_q8_0(void **state)
{
    (void)state;
    struct world w = world_create(llama);
    struct packed_source *sources = test_memory(w.model->param_count * sizeof *sources), *again;
    struct packed_model *packed[3];
    struct bg_error err;
    memset(sources, 0, w.model->param_count * sizeof *sources);
    again = test_memory(w.model->param_count * sizeof *sources);
    memset(again, 0, w.model->param_count * sizeof *sources);
    quantise(&w, KERN_Q4_0, sources);
    for (uint32_t i = 0; i < w.model->param_count; i++)
        if (sources[i].data) {
            const struct model_param *p = &w.model->params[i];
            void *blocks = test_memory(p->count / 32 * 34);
            kern_quantise_blocks(blocks, KERN_Q8_0, w.weights + p->offset, p->count / 32);
            again[i] = (struct packed_source){KERN_Q8_0, blocks};
        }
    const struct packed_source *from[3] = {again, sources, NULL};
    for (size_t i = 0; i < 3; i++) {
        assert_int_equal(packed_create(w.env, w.model, w.weights, from[i], KERN_INT8, &err, &packed[i]), BG_OK);
        assert_true(packed[i]->memory_bytes == packed_bytes(w.model, KERN_INT8));
        assert_memory_equal(packed[i]->memory, packed[0]->memory, packed[0]->memory_bytes);
    }
    for (size_t i = 0; i < 3; i++)
        packed_destroy(packed[i]);
    for (uint32_t i = 0; i < w.model->param_count; i++) {
        free((void *)(uintptr_t)sources[i].data);
        free((void *)(uintptr_t)again[i].data);
    }
    free(sources);
    free(again);
    assert_string_equal(packed_class(KERN_INT8), "int8/1");
    for (enum kern_weight type = KERN_F32; type <= KERN_Q4_0; type++)
        assert_string_equal(packed_class(type), "fp32/1");
    world_destroy(&w);
}

static void bad_calls_are_refused(void **state)
{
    (void)state;
    struct world w = world_create(gpt2);
    struct packed_model *packed = NULL;
    struct batch *b = NULL;
    struct bg_error err;
    const float *logits;
    const struct batch_options options = {8, 4, 2};
    assert_int_equal(packed_create(w.env, w.model, w.weights, NULL, KERN_Q8_0, &err, &packed), BG_OK);
    assert_int_equal(packed->blocks[0].o.w.type, KERN_F32); // 36 and 50 inputs: no whole blocks
    assert_true(packed->memory_bytes == packed_bytes(w.model, KERN_F32));
    packed_destroy(packed);
    assert_int_equal(packed_create(w.env, w.model, w.weights, NULL, KERN_F32, &err, &packed), BG_OK);
    assert_int_equal(batch_create(w.env, packed, kern_select(w.env->isa), &options, &err, &b), BG_OK);
    const int32_t good[5] = {1, 2, 3, 4, 5}, bad[1] = {101};
    const uint32_t pages[6] = {0, 1, 2, 3, 4, 8};
    const struct batch_run calls[] = {
        {good, 0, 0, pages, 0}, {good, 5, 0, pages, 1},  {good, 4, 0, pages, 3},     {good, 1, 80, pages, 1},
        {bad, 1, 0, pages, 1},  {good, 2, 79, pages, 1}, {good, 1, 0, pages + 5, 1},
    };
    for (size_t i = 0; i < sizeof calls / sizeof *calls; i++)
        assert_int_equal(batch_forward(b, &calls[i], 1, &err, &logits), BG_INVALID);
    assert_int_equal(batch_forward(b, calls, 0, &err, &logits), BG_INVALID);
    batch_destroy(b);
    packed_destroy(packed);
    world_destroy(&w);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(llama_in_batches),      cmocka_unit_test(many_heads_in_batches),
        cmocka_unit_test(gpt2_in_batches),       cmocka_unit_test(quantised_weights_are_their_numbers),
        cmocka_unit_test(integers_in_batches),   cmocka_unit_test(int8_has_the_numbers_of_q8_0),
        cmocka_unit_test(bad_calls_are_refused),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
