// labels: threads
// The installed API from the outside: train, resume, load, sample, save, errors, two contexts side by side, and the
// caller's floating-point state. Sees nothing but include/brigade/.
#include <brigade/brigade.h>

#include <locale.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>
#include <xmmintrin.h>

#include <cmocka.h>

static char work[256];

static char *in_work(const char *name)
{
    static char path[4][320];
    static int turn;
    char *at = path[turn++ % 4];
    snprintf(at, 320, "%s/%s", work, name);
    return at;
}

static int make_work(void **state)
{
    (void)state;
    snprintf(work, sizeof work, "%s/brigade-api-XXXXXX", getenv("TMPDIR") ? getenv("TMPDIR") : "/tmp");
    assert_non_null(mkdtemp(work));
    FILE *out = fopen(in_work("corpus.txt"), "w");
    for (int i = 0; i < 400; i++)
        fprintf(out, "line %d: the quick brown fox jumps over %d lazy dogs.\n", i, i * 7 % 13);
    fclose(out);
    return 0;
}

static int remove_work(void **state)
{
    (void)state;
    char command[320];
    snprintf(command, sizeof command, "rm -rf '%s'", work);
    return system(command);
}

static int stop_at(void *arg, const struct bg_train_step *step)
{
    return step->step + 1 >= *(uint64_t *)arg;
}

// Trains 6 steps of a tiny model into `name`; stop > 0 stops after that many steps.
static enum bg_status train(bg_context *context, const char *name, uint64_t stop, int resume, struct bg_train_result *r)
{
    char dir[400];
    snprintf(dir, sizeof dir, "run.dir=%s", in_work(name));
    const char *overrides[] = {"model.layers=1",   "model.dim=16",        "model.heads=2",
                               "model.context=16", "train.micro_batch=2", "train.micro_batches=3",
                               "train.steps=6",    "train.warmup=1",      dir};
    struct bg_train_options options = BG_TRAIN_OPTIONS_INIT;
    options.source = in_work("corpus.txt");
    options.overrides = overrides;
    options.override_count = sizeof overrides / sizeof *overrides;
    options.resume = resume;
    options.on_step = stop ? stop_at : NULL;
    options.arg = &stop;
    return bg_train(context, &options, r);
}

static void trains_stops_and_resumes(void **state)
{
    (void)state;
    bg_context *one, *two;
    struct bg_train_result whole, part;
    assert_int_equal(bg_context_create(1, &one), BG_OK);
    assert_int_equal(bg_context_create(2, &two), BG_OK);
    assert_int_equal(train(one, "whole", 0, 0, &whole), BG_OK);
    assert_true(whole.finished);
    assert_int_equal(whole.steps, 6);
    assert_int_equal(train(two, "part", 3, 0, &part), BG_STOPPED);
    assert_false(part.finished);
    assert_int_equal(part.steps, 3);
    assert_int_equal(train(two, "part", 0, 1, &part), BG_OK);
    assert_string_equal(part.curve_sha256, whole.curve_sha256);
    assert_string_equal(part.weights_sha256, whole.weights_sha256);
    assert_int_equal(train(one, "whole", 0, 0, &whole), BG_EXISTS);
    assert_non_null(strstr(bg_error_text(one), "whole"));
    bg_context_destroy(two);
    bg_context_destroy(one);
}

static void many_processes_are_the_commands(void **state)
{
    (void)state;
    bg_context *context;
    assert_int_equal(bg_context_create(1, &context), BG_OK);
    const char *overrides[] = {"run.plan=1x2", "run.dir=never"};
    struct bg_train_options options = BG_TRAIN_OPTIONS_INIT;
    options.source = in_work("corpus.txt");
    options.overrides = overrides;
    options.override_count = 2;
    assert_int_equal(bg_train(context, &options, NULL), BG_UNSUPPORTED);
    assert_non_null(strstr(bg_error_text(context), "run.plan"));
    bg_context_destroy(context);
}

struct sink {
    char text[4096];
    size_t size;
};

static int keep(void *arg, const char *bytes, size_t size)
{
    struct sink *sink = arg;
    assert_true(sink->size + size < sizeof sink->text);
    memcpy(sink->text + sink->size, bytes, size);
    sink->size += size;
    return 0;
}

static void samples_alike(bg_model *a, bg_model *b)
{
    struct sink x = {{0}, 0}, y = {{0}, 0};
    struct bg_sample_options options = BG_SAMPLE_OPTIONS_INIT;
    options.tokens = 12;
    options.seed = 5;
    uint32_t drawn;
    assert_int_equal(bg_generate(a, "the", &options, keep, &x, &drawn), BG_OK);
    assert_int_equal(bg_generate(b, "the", &options, keep, &y, NULL), BG_OK);
    assert_int_equal(x.size, y.size);
    assert_memory_equal(x.text, y.text, x.size);
    assert_in_range(drawn, 1, 12);
}

static void loads_samples_and_saves(void **state)
{
    (void)state;
    bg_context *context;
    struct bg_train_result trained;
    struct bg_model_info info;
    bg_model *run, *gguf;
    assert_int_equal(bg_context_create(0, &context), BG_OK);
    assert_int_equal(train(context, "sampled", 0, 0, &trained), BG_OK);
    assert_int_equal(bg_model_open(context, in_work("sampled"), &run), BG_OK);
    bg_model_get_info(run, &info);
    assert_string_equal(info.family, "llama");
    assert_int_equal(info.context, 16);
    assert_int_equal(bg_model_save(run, "gguf", in_work("out.gguf")), BG_OK);
    assert_int_equal(bg_model_save(run, "onnx", in_work("out.onnx")), BG_INVALID);
    assert_int_equal(bg_model_open(context, in_work("out.gguf"), &gguf), BG_OK);
    samples_alike(run, gguf);

    int32_t *ids;
    size_t count, size;
    const char *bytes;
    assert_int_equal(bg_encode(run, "fox", 3, &ids, &count), BG_OK);
    assert_int_equal(count, 3);
    assert_int_equal(bg_decode(run, -1, ids[1], &bytes, &size), BG_OK);
    assert_int_equal(size, 1);
    assert_int_equal(bytes[0], 'o');
    bg_session *session;
    const float *logits;
    assert_int_equal(bg_session_create(run, 0, &session), BG_OK);
    assert_int_equal(bg_session_feed(session, ids, count, &logits), BG_OK);
    assert_int_equal(bg_session_position(session), 3);
    ids[0] = 1 << 30;
    assert_int_equal(bg_session_feed(session, ids, count, &logits), BG_INVALID);
    assert_int_equal(bg_decode(run, -1, -7, &bytes, &size), BG_INVALID);
    bg_session_destroy(session);
    bg_ids_free(ids);
    bg_model_close(gguf);
    bg_model_close(run);
    bg_context_destroy(context);
}

static void bad_input_is_an_error(void **state)
{
    (void)state;
    bg_context *context;
    bg_model *model;
    struct bg_train_options options = {0};
    assert_int_equal(bg_context_create(1, &context), BG_OK);
    assert_int_not_equal(bg_model_open(context, in_work("absent"), &model), BG_OK);
    assert_non_null(strstr(bg_error_text(context), "absent"));
    assert_int_equal(bg_train(context, &options, NULL), BG_INVALID); // no size
    bg_context_destroy(context);
    bg_context_destroy(NULL);
    bg_model_close(NULL);
    bg_session_destroy(NULL);
}

// A caller with flush-to-zero on gets it back, and our bits do not move.
static void floating_point_state_is_the_callers(void **state)
{
    (void)state;
    bg_context *context;
    struct bg_train_result plain, flushed;
    assert_int_equal(bg_context_create(2, &context), BG_OK);
    assert_int_equal(train(context, "plain", 0, 0, &plain), BG_OK);
    unsigned old = _mm_getcsr();
    _mm_setcsr(old | 0x8040u);
    assert_int_equal(train(context, "flushed", 0, 0, &flushed), BG_OK);
    unsigned after = _mm_getcsr();
    _mm_setcsr(old);
    assert_int_equal(after & 0x8040u, 0x8040u);
    assert_string_equal(plain.weights_sha256, flushed.weights_sha256);
    bg_context_destroy(context);
}

// A program in a locale with decimal commas trains the same job.
static void numbers_have_points_in_every_locale(void **state)
{
    (void)state;
    if (!setlocale(LC_ALL, "de_DE.UTF-8"))
        skip(); // not installed here
    bg_context *context;
    struct bg_train_result result;
    assert_int_equal(bg_context_create(1, &context), BG_OK);
    assert_int_equal(train(context, "locale", 0, 0, &result), BG_OK);
    bg_context_destroy(context);
    setlocale(LC_ALL, "C");
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(trains_stops_and_resumes),
        cmocka_unit_test(many_processes_are_the_commands),
        cmocka_unit_test(loads_samples_and_saves),
        cmocka_unit_test(bad_input_is_an_error),
        cmocka_unit_test(floating_point_state_is_the_callers),
        cmocka_unit_test(numbers_have_points_in_every_locale),
    };
    return cmocka_run_group_tests(tests, make_work, remove_work);
}
