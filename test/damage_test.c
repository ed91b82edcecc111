// Bad input to a run: damaged checkpoints, logs and directories, a changed job, values that are not finite. Nothing
// crashes, nothing is lost, and every message names the file, step, key or tensor at fault.
#include "scenario.h"

#include "tensor/safetensors.h"
#include "train/checkpoint.h"
#include "train/diff.h"
#include "train/plot.h"
#include "train/verify.h"

#include <sys/stat.h>

static const char overrides[] =
    "train.steps=6 train.micro_batches=2 train.eval_every=3 train.checkpoint_every=2 train.keep=3";

struct fixture {
    struct bg_env *env;
    char *directory;
    struct trainer_result whole; // of DIRECTORY/whole, finished: checkpoints 2, 4, 6
};

static int set_up(void **state)
{
    struct fixture *f = bg_alloc(sizeof *f);
    f->env = scenario_env(2, BG_ISA_AVX2 | BG_ISA_AVX512);
    f->directory = scenario_directory();
    struct scenario s = {.directory = f->directory, .run = "whole", .overrides = overrides};
    f->whole = scenario_must(f->env, &s);
    *state = f;
    return 0;
}

static int tear_down(void **state)
{
    struct fixture *f = *state;
    os_env_destroy(f->env);
    scenario_clean(f->directory);
    bg_free(f);
    return 0;
}

static void shell(const char *format, ...) __attribute__((format(printf, 1, 2)));
static void shell(const char *format, ...)
{
    char command[2048];
    va_list args;
    va_start(args, format);
    vsnprintf(command, sizeof command, format, args);
    va_end(args);
    if (system(command) != 0)
        fail_msg("%s", command);
}

// A copy of the finished run, made unfinished again so that it can be resumed.
static struct scenario copy_run(const struct fixture *f)
{
    shell("cd %s && rm -rf copy && cp -r whole copy && rm copy/result.json", f->directory);
    return (struct scenario){.directory = f->directory, .run = "copy", .overrides = overrides, .resume = true};
}

static char *read_file(const char *path, size_t *size)
{
    FILE *file = fopen(path, "rb");
    assert_non_null(file);
    char *bytes = bg_alloc(1 << 20);
    *size = fread(bytes, 1, 1 << 20, file);
    fclose(file);
    return bytes;
}

static void write_file(const char *path, const char *bytes, size_t size)
{
    FILE *file = fopen(path, "wb");
    assert_non_null(file);
    assert_int_equal(fwrite(bytes, 1, size, file), size);
    fclose(file);
}

static void damage(const char *path, bool truncate_it, size_t at)
{
    size_t size = 0;
    char *bytes = read_file(path, &size);
    assert_true(size > 0);
    at %= size;
    bytes[at] = (char)(bytes[at] ^ 4);
    write_file(path, bytes, truncate_it ? at : size);
    bg_free(bytes);
}

struct heard {
    char text[4096];
};
static void on_warning(void *arg, const char *text)
{
    struct heard *h = arg;
    size_t used = strlen(h->text);
    snprintf(h->text + used, sizeof h->text - used, "%s\n", text);
}

static const char *const files[] = {"config.json",           "model.safetensors", "tokenizer.json",
                                    "optimizer.safetensors", "losses.f64",        "manifest.json"};
enum { FILES = sizeof files / sizeof *files };

// Each file of the newest checkpoint cut short or with one bit flipped: passed over by name, the one before is taken,
// and the run ends as if nothing had happened.
static void damaged_checkpoint(void **state)
{
    struct fixture *f = *state;
    for (size_t i = 0; i < 2 * FILES; i++) {
        struct heard heard = {0};
        struct trainer_observer observer = {.arg = &heard, .warning = on_warning};
        struct scenario s = copy_run(f);
        s.observer = &observer;
        char *path = bg_format("%s/copy/checkpoints/step-6/%s", f->directory, files[i / 2]);
        damage(path, i % 2, 997 * (i + 3));
        struct trainer_result result = scenario_must(f->env, &s);
        assert_true(result.finished);
        assert_string_equal(result.weights_sha256, f->whole.weights_sha256);
        assert_string_equal(result.curve_sha256, f->whole.curve_sha256);
        assert_non_null(strstr(heard.text, "passed over"));
        assert_non_null(strstr(heard.text, files[i / 2]));
        shell("test -d %s/copy/checkpoints/damaged-step-6 && test -d %s/copy/checkpoints/step-6", f->directory,
              f->directory);
        bg_free(path);
    }
}

static void no_checkpoint_verifies(void **state)
{
    struct fixture *f = *state;
    struct scenario s = copy_run(f);
    for (int step = 2; step <= 6; step += 2) {
        char *path = bg_format("%s/copy/checkpoints/step-%d/model.safetensors", f->directory, step);
        damage(path, false, 5000);
        bg_free(path);
    }
    struct bg_error err = {0};
    struct trainer_result result;
    assert_int_equal(scenario_run(f->env, &s, &err, &result), BG_CORRUPT);
    assert_non_null(strstr(err.text, "none of the 3 checkpoints"));
    shell("test -d %s/copy/checkpoints/step-6", f->directory); // nothing was moved
}

// Every single flipped bit of a manifest is refused, or leaves what it says as it was (white space, a digit beyond
// a double's precision).
static void flipped_manifest(void **state)
{
    struct fixture *f = *state;
    (void)copy_run(f);
    char *directory = bg_format("%s/copy/checkpoints/step-6", f->directory);
    char *path = bg_format("%s/manifest.json", directory);
    struct bg_error err = {0};
    struct manifest good, bad;
    assert_int_equal(checkpoint_verify(f->env, directory, &err, &good), BG_OK);
    size_t size = 0;
    char *bytes = read_file(path, &size);
    for (size_t at = 0; at < size; at++) {
        bytes[at] = (char)(bytes[at] ^ (1 << at % 7));
        write_file(path, bytes, size);
        bytes[at] = (char)(bytes[at] ^ (1 << at % 7));
        if (checkpoint_verify(f->env, directory, &err, &bad))
            continue;
        assert_int_equal(bad.step, good.step);
        assert_true(bad.seconds == good.seconds);
        assert_string_equal(bad.signature, good.signature);
        assert_string_equal(bad.weights_sha256, good.weights_sha256);
        manifest_fini(&bad);
    }
    manifest_fini(&good);
    bg_free(bytes);
    bg_free(path);
    bg_free(directory);
}

// A log that lost its end, a half-written line, or its whole self.
static void damaged_log(void **state)
{
    struct fixture *f = *state;
    static const char *const damages[] = {"truncate -s 300", "truncate -s 0", "rm",
                                          "sh -c 'printf \"{\\\"step\\\": 6, \\\"lo\" >> $0'"};
    for (size_t i = 0; i < sizeof damages / sizeof *damages; i++) {
        struct scenario s = copy_run(f);
        shell("%s %s/copy/steps.jsonl", damages[i], f->directory);
        struct trainer_result result = scenario_must(f->env, &s);
        assert_string_equal(result.curve_sha256, f->whole.curve_sha256);
        char *run = bg_format("%s/copy", f->directory);
        struct verify_result verified;
        struct bg_error err = {0};
        if (verify_run(f->env, run, &(struct verify_options){.replay = 4}, &err, &verified))
            fail_msg("%s", err.text);
        assert_int_equal(verified.steps, 6);
        assert_int_equal(verified.replayed, 4);
        assert_true(verified.weights_replayed); // step 4 has a checkpoint
        assert_true(verified.signature_recomputed);
        assert_string_equal(verified.weights_sha256, f->whole.weights_sha256);
        bg_free(run);
    }
}

// verify finds a changed loss, a changed weight, a changed result; diff names step and tensor.
static void forged_run(void **state)
{
    struct fixture *f = *state;
    (void)copy_run(f);
    char *run = bg_format("%s/copy", f->directory), *whole = bg_format("%s/whole", f->directory);
    struct verify_options options = {.replay = UINT64_MAX};
    struct verify_result verified;
    struct diff_result diff;
    struct bg_error err = {0};
    assert_int_equal(diff_compare(f->env, run, whole, &err, &diff), BG_OK);
    assert_true(diff.identical && diff.curves && diff.weights);

    shell("cd %s && sed -i '4s/\"loss_bits\": \"40../\"loss_bits\": \"4013/; 4s/\"loss\": [0-9.]*/\"loss\": 4.9/' "
          "copy/steps.jsonl",
          f->directory);
    assert_int_not_equal(verify_run(f->env, run, &options, &err, &verified), BG_OK);
    assert_true(strstr(err.text, "steps.jsonl:4") || strstr(err.text, "step 3"));

    (void)copy_run(f);
    shell("cd %s && cp whole/result.json copy/ && sed -i 's/\"steps\": 6/\"steps\": 5/' copy/result.json",
          f->directory);
    assert_int_equal(verify_run(f->env, run, &options, &err, &verified), BG_MISMATCH);
    assert_non_null(strstr(err.text, "result.json"));

    struct scenario other = {.directory = f->directory, .run = "other", .overrides = overrides, .more = "train.seed=2"};
    scenario_must(f->env, &other);
    char *path = bg_format("%s/other", f->directory);
    assert_int_equal(diff_compare(f->env, whole, path, &err, &diff), BG_OK);
    assert_true(!diff.identical && diff.step_differs && diff.tensor_differs);
    assert_int_equal(diff.step, 0);
    assert_string_equal(diff.tensor, "model.embed_tokens.weight");
    char *text = diff_text(&diff, whole, path);
    assert_non_null(strstr(text, "first differing step 0"));
    bg_free(text);
    char *svg = NULL;
    const char *const runs[] = {whole, path};
    assert_int_equal(plot_runs(f->env, runs, 2, &(struct plot_options){.title = "a<b & \"c\""}, &err, &svg), BG_OK);
    assert_non_null(strstr(svg, "a&lt;b &amp; &quot;c&quot;"));
    assert_non_null(strstr(svg, "</svg>"));
    bg_free(svg);
    bg_free(path);
    bg_free(run);
    bg_free(whole);
}

static void must_fail(const struct fixture *f, struct scenario s, bg_status status, const char *words)
{
    struct bg_error err = {0};
    struct trainer_result result;
    bg_status found = scenario_run(f->env, &s, &err, &result);
    if ((status && found != status) || !found || !strstr(err.text, words))
        fail_msg("%s: status %d \"%s\", expected %d \"%s\"", s.run, (int)found, err.text, (int)status, words);
}

static void refused_directories(void **state)
{
    struct fixture *f = *state;
    struct scenario s = {.directory = f->directory, .run = "whole", .overrides = overrides};
    must_fail(f, s, BG_EXISTS, "not empty");
    s.run = "corpus.txt";
    must_fail(f, s, BG_EXISTS, "is a file");
    s.run = "corpus.txt/run";
    must_fail(f, s, 0, "corpus.txt");
    s.run = "absent";
    s.resume = true;
    must_fail(f, s, BG_NOT_FOUND, "no run");
    shell("mkdir %s/empty", f->directory);
    s.run = "empty";
    must_fail(f, s, BG_NOT_FOUND, "nothing to resume");
    s.run = "whole";
    s.more = "train.lr=0.02 train.seed=9";
    must_fail(f, s, BG_MISMATCH, "train.lr 0.01 -> 0.02");
    must_fail(f, s, BG_MISMATCH, "train.seed 1 -> 9");
    s.more = "train.steps=9";
    must_fail(f, s, BG_MISMATCH, "train.steps 6 -> 9");
    s.more = "run.group=1 train.keep=1 train.eval_every=1";
    s.resume = true; // physical keys are free
    struct trainer_result result = scenario_must(f->env, &s);
    assert_true(result.nothing_to_do);
}

// A start that fails leaves nothing behind, so that it can be repeated.
static void failed_start(void **state)
{
    struct fixture *f = *state;
    struct scenario s = {.directory = f->directory, .run = "start", .overrides = overrides};
    s.more = "model.context=100000";
    must_fail(f, s, BG_INVALID, "fewer than one sample");
    s.more = "run.group=3";
    must_fail(f, s, BG_INVALID, "power of two");
    s.more = "model.vocab=100";
    must_fail(f, s, BG_MISMATCH, "model.vocab");
    shell("test ! -e %s/start", f->directory);
    s.more = "train.schedule=constant train.steps=2";
    struct trainer_result result = scenario_must(f->env, &s);
    s.resume = true; // a constant rate does not know how long it lasts
    s.more = "train.schedule=constant train.steps=4";
    result = scenario_must(f->env, &s);
    assert_int_equal(result.steps, 4);
    s.more = "train.schedule=constant train.steps=3";
    must_fail(f, s, BG_MISMATCH, "has done 4 steps");
}

// An infinite weight: the job stops, names step and tensor, and overwrites nothing.
static void not_finite(void **state)
{
    struct fixture *f = *state;
    shell("cd %s && rm -rf broken && cp -r %s broken && rm broken/manifest.json", f->directory, f->whole.checkpoint);
    char *path = bg_format("%s/broken/model.safetensors", f->directory);
    size_t size = 0;
    char *bytes = read_file(path, &size);
    const uint32_t infinity = 0x7f800000; // the last tensor is model.norm.weight
    memcpy(bytes + size - 4, &infinity, 4);
    write_file(path, bytes, size);
    bg_free(bytes);
    struct bg_strlist list = {0};
    char *all = bg_format("model.from=%s/broken run.dir=%s/infinite train.steps=3 train.micro_batch=2", f->directory,
                          f->directory);
    bg_strlist_split(&list, all, ' ');
    char *corpus = bg_format("%s/corpus.txt", f->directory);
    struct job job;
    struct bg_error err = {0};
    assert_int_equal(job_load(f->env, corpus, (const char *const *)list.items, list.count, &err, &job), BG_OK);
    struct trainer_result result;
    assert_int_equal(trainer_run(f->env, &(struct trainer_options){.job = &job}, &err, &result), BG_NOT_FINITE);
    assert_non_null(strstr(err.text, "step 0"));
    assert_non_null(strstr(err.text, "model.norm.weight"));
    shell("test ! -s %s/infinite/steps.jsonl && test ! -e %s/infinite/checkpoints", f->directory, f->directory);
    job_fini(&job);
    bg_free(corpus);
    bg_free(all);
    bg_free(path);
    bg_strlist_fini(&list);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(damaged_checkpoint), cmocka_unit_test(no_checkpoint_verifies),
        cmocka_unit_test(flipped_manifest),   cmocka_unit_test(damaged_log),
        cmocka_unit_test(forged_run),         cmocka_unit_test(refused_directories),
        cmocka_unit_test(failed_start),       cmocka_unit_test(not_finite),
    };
    return cmocka_run_group_tests(tests, set_up, tear_down);
}
