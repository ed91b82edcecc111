// Weights on their way from a file to panels: what is exported as Q8_0 or Q4_0 blocks is read back as those blocks and
// gives the logits of the numbers they stand for; packed weights are kept in a file, mapped by the next start, and made
// anew when the file is damaged, cut short, of another type, or of another model, whatever its size and time.
#include "model/packed_cache.h"

#include "base/mem.h"
#include "model/batch.h"
#include "model/step_test.h"

#include <dirent.h>
#include <fcntl.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cmocka.h>

enum { TOKENS = 20 };

static struct bg_env *env;
static struct bg_error err;
static char directory[] = "/tmp/brigade-packed-XXXXXX";

#define OK(call)                                                                                                       \
    do {                                                                                                               \
        if (call)                                                                                                      \
            fail_msg("%s: %s", #call, err.text);                                                                       \
    } while (0)

// 48 inputs of `down`: no whole blocks, so one layer stays fp32.
static const struct model_config llama = {.family = MODEL_LLAMA,
                                          .layers = 2,
                                          .dim = 64,
                                          .heads = 4,
                                          .kv_heads = 2,
                                          .head_dim = 16,
                                          .ffn = 48,
                                          .context = 32,
                                          .vocab = 97,
                                          .tie = true,
                                          .rope_theta = 10000.0,
                                          .norm_eps = 1e-5,
                                          .bos = -1,
                                          .eos = -1};
static const struct model_config gpt2 = {.family = MODEL_GPT2,
                                         .layers = 2,
                                         .dim = 64,
                                         .heads = 4,
                                         .kv_heads = 4,
                                         .head_dim = 16,
                                         .ffn = 96,
                                         .context = 32,
                                         .vocab = 97,
                                         .norm_eps = 1e-5,
                                         .bos = -1,
                                         .eos = -1};

static char *save_scaled(struct model_config config, const char *name, enum kern_weight type, float scale)
{
    char *path = bg_format("%s/%s", directory, name);
    struct model *model = test_model(config);
    float *weights = test_weights(model, env, scale);
    if (type == KERN_F32)
        OK(model_save(env, model, weights, NULL, MODEL_GGUF, path, &err));
    else
        OK(model_save_blocks(env, model, weights, NULL, type, path, &err));
    free(weights);
    model_destroy(model);
    return path;
}

static char *save(struct model_config config, const char *name, enum kern_weight type)
{
    return save_scaled(config, name, type, 0.1f);
}

// Logits of TOKENS tokens, all of them; free() them.
static float *logits_of(const struct packed_model *packed)
{
    const struct batch_options options = {2, TOKENS, TOKENS};
    const uint32_t pages[2] = {1, 0}, vocab = packed->model->config.vocab;
    struct batch *batch = NULL;
    const float *logits;
    int32_t tokens[TOKENS];
    for (int32_t i = 0; i < TOKENS; i++)
        tokens[i] = i * 31 % (int32_t)vocab;
    OK(batch_create(env, packed, kern_select(env->isa), &options, &err, &batch));
    OK(batch_forward(batch, &(struct batch_run){tokens, TOKENS, 0, pages, TOKENS}, 1, &err, &logits));
    float *copy = test_floats((size_t)TOKENS * vocab);
    memcpy(copy, logits, (size_t)TOKENS * vocab * sizeof *copy);
    batch_destroy(batch);
    return copy;
}

static void expect_logits(const struct packed_model *packed, const float *want)
{
    float *got = logits_of(packed);
    assert_memory_equal(got, want, (size_t)TOKENS * packed->model->config.vocab * sizeof *got);
    free(got);
}

static void check_blocks(struct model_config config, enum kern_weight type, size_t block)
{
    char *path = save(config, "blocks.gguf", type);
    struct model_files files, wide;
    struct packed_model *from_blocks, *from_numbers;
    enum kern_weight told, as_wide;
    uint32_t kept = 0;
    OK(model_open_blocks(env, path, &err, &files, &told));
    OK(model_open(env, path, &err, &wide));
    assert_int_equal(told, type);
    assert_null(wide.sources);
    assert_memory_equal(files.weights, wide.weights, wide.model->floats * sizeof(float));
    for (uint32_t i = 0; i < files.model->param_count; i++) {
        const struct model_param *p = &files.model->params[i];
        if (!files.sources[i].data)
            continue;
        kept++;
        assert_int_equal(files.sources[i].type, type);
        float *numbers = test_floats(p->count);
        kern_widen_blocks(numbers, type, files.sources[i].data, p->count / KERN_QUANT);
        if (config.family == MODEL_LLAMA || p->unit == 0 || p->unit == 3) // GPT-2 has those between transposed
            assert_memory_equal(numbers, wide.weights + p->offset, p->count * sizeof *numbers);
        free(numbers);
    }
    assert_int_equal(kept, config.family == MODEL_LLAMA ? 2 * 6 + 1 : 2 * 4 + 2);
    OK(packed_create(env, files.model, files.weights, files.sources, type, &err, &from_blocks));
    OK(packed_create(env, wide.model, wide.weights, NULL, KERN_F32, &err, &from_numbers));
    assert_int_equal(from_blocks->blocks[0].o.w.type, type);
    assert_int_equal(from_blocks->blocks[0].down.w.type, config.family == MODEL_LLAMA ? KERN_F32 : type);
    assert_true(kern_block_bytes(type) == block);
    float *want = logits_of(from_numbers);
    expect_logits(from_blocks, want);
    free(want);
    packed_destroy(from_blocks);
    packed_destroy(from_numbers);
    as_wide = KERN_Q4_0;
    model_close(&wide);
    OK(model_open_blocks(env, path, &err, &wide, &as_wide));
    assert_int_equal(as_wide, type);
    model_close(&wide);
    model_close(&files);
    bg_free(path);
}

static void blocks_come_back_as_they_are(void **state)
{
    (void)state;
    check_blocks(llama, KERN_Q8_0, 34);
    check_blocks(llama, KERN_Q4_0, 18);
    check_blocks(gpt2, KERN_Q8_0, 34);
    check_blocks(gpt2, KERN_Q4_0, 18);
}

static void a_file_of_numbers_is_fp32(void **state)
{
    (void)state;
    char *path = save(llama, "numbers.gguf", KERN_F32);
    struct model_files files;
    enum kern_weight type = KERN_Q4_0;
    OK(model_open_blocks(env, path, &err, &files, &type));
    assert_int_equal(type, KERN_F32);
    for (uint32_t i = 0; i < files.model->param_count; i++)
        assert_null(files.sources[i].data);
    model_close(&files);
    bg_free(path);
}

// ---- The cache ----
static char *cache_path(size_t *count) // of one of the files there; bg_free it
{
    char *inside = bg_format("%s/cache", directory), *path = NULL;
    DIR *d = opendir(inside);
    assert_non_null(d);
    *count = 0;
    for (struct dirent *e; (e = readdir(d));)
        if (e->d_name[0] != '.') {
            bg_free(path);
            path = bg_format("%s/%s", inside, e->d_name);
            ++*count;
        }
    closedir(d);
    bg_free(inside);
    return path;
}

// Opens through the cache in `name`; expects that it was mapped or not, and the logits. Returns why what was packed was
// not kept.
static bg_status start_in(const char *name, const char *path, enum kern_weight type, bool mapped, const float *want)
{
    struct model_files files;
    struct packed_model *packed;
    struct packed_cache *cache;
    struct bg_error unkept;
    enum kern_weight told;
    char *inside = bg_format("%s/%s", directory, name);
    OK(model_open_blocks(env, path, &err, &files, &told));
    OK(packed_open(env, &files, type, inside, &err, &packed, &cache, &unkept));
    assert_true(mapped == (cache != NULL));
    expect_logits(packed, want);
    packed_destroy(packed);
    packed_cache_close(env, cache);
    model_close(&files);
    bg_free(inside);
    return unkept.status;
}

static void start(const char *path, enum kern_weight type, bool mapped, const float *want)
{
    assert_int_equal(start_in("cache", path, type, mapped, want), BG_OK);
}

static float *want_of(const char *path, enum kern_weight type)
{
    struct model_files files;
    struct packed_model *packed;
    struct packed_cache *cache;
    struct bg_error unkept;
    OK(model_open(env, path, &err, &files));
    OK(packed_open(env, &files, type, NULL, &err, &packed, &cache, &unkept));
    assert_int_equal(unkept.status, BG_OK);
    assert_null(cache);
    float *want = logits_of(packed);
    packed_destroy(packed);
    model_close(&files);
    return want;
}

static void change_byte(const char *path, long at)
{
    FILE *file = fopen(path, "r+b");
    assert_non_null(file);
    assert_int_equal(fseek(file, at, at < 0 ? SEEK_END : SEEK_SET), 0);
    int byte = fgetc(file);
    assert_int_equal(fseek(file, -1, SEEK_CUR), 0);
    fputc(byte ^ 1, file);
    assert_int_equal(fclose(file), 0);
}

static void packed_weights_are_kept(void **state)
{
    (void)state;
    char *path = save(llama, "kept.gguf", KERN_F32);
    float *numbers = want_of(path, KERN_F32), *quantised = want_of(path, KERN_Q8_0), *int8 = want_of(path, KERN_INT8);
    const size_t bytes = (size_t)TOKENS * llama.vocab * sizeof(float);
    assert_memory_not_equal(quantised, int8, bytes);
    size_t count;
    start(path, KERN_F32, false, numbers);
    start(path, KERN_F32, true, numbers);
    start(path, KERN_Q8_0, false, quantised); // another type: another file
    start(path, KERN_Q8_0, true, quantised);
    start(path, KERN_INT8, false, int8);
    start(path, KERN_INT8, true, int8);
    start(path, KERN_Q8_0, true, quantised);
    start(path, KERN_F32, true, numbers);
    bg_free(cache_path(&count));
    assert_int_equal(count, 3);

    struct stat old, new;
    assert_int_equal(stat(path, &old), 0);
    bg_free(save_scaled(llama, "kept.gguf", KERN_F32, 0.2f)); // another model of the same size and time
    const struct timespec times[2] = {old.st_atim, old.st_mtim};
    assert_int_equal(utimensat(AT_FDCWD, path, times, 0), 0);
    assert_int_equal(stat(path, &new), 0);
    assert_true(new.st_size == old.st_size &&new.st_mtim.tv_sec == old.st_mtim.tv_sec);
    float *others = want_of(path, KERN_F32);
    assert_memory_not_equal(numbers, others, bytes);
    start(path, KERN_F32, false, others);
    start(path, KERN_F32, true, others);
    bg_free(save(llama, "kept.gguf", KERN_F32));
    start(path, KERN_Q8_0, true, quantised); // what it was: a newer time alone changes nothing
    start(path, KERN_F32, false, numbers);
    bg_free(cache_path(&count));
    assert_int_equal(count, 3); // each in the old one's place
    free(others);
    free(numbers);
    free(quantised);
    free(int8);
    bg_free(path);
}

static void damaged_files_are_made_anew(void **state)
{
    (void)state;
    const long places[] = {0, 8, 16, 24, 64, 5000, -1};
    char *path = save(gpt2, "damaged.gguf", KERN_Q8_0);
    float *want = want_of(path, KERN_Q8_0);
    size_t count;
    for (char *old; (old = cache_path(&count)); bg_free(old))
        assert_int_equal(unlink(old), 0);
    start(path, KERN_Q8_0, false, want);
    char *file = cache_path(&count);
    assert_int_equal(count, 1);
    for (size_t i = 0; i < sizeof places / sizeof *places; i++) {
        change_byte(file, places[i]);
        start(path, KERN_Q8_0, false, want);
        start(path, KERN_Q8_0, true, want);
    }
    const off_t lengths[] = {0, 10, 64, 5000};
    for (size_t i = 0; i < sizeof lengths / sizeof *lengths; i++) {
        assert_int_equal(truncate(file, lengths[i]), 0);
        start(path, KERN_Q8_0, false, want);
        start(path, KERN_Q8_0, true, want);
    }
    free(want);
    bg_free(file);
    bg_free(path);
}

static void touch(const char *name)
{
    char *path = bg_format("%s/aside/%s", directory, name);
    FILE *file = fopen(path, "w");
    assert_non_null(file);
    assert_int_equal(fclose(file), 0);
    bg_free(path);
}

static bool is_there(const char *name)
{
    char *path = bg_format("%s/aside/%s", directory, name);
    const bool there = access(path, F_OK) == 0;
    bg_free(path);
    return there;
}

// What a killed process had begun goes with the next that writes; nobody writes beside another; a cache that cannot be
// written is said, and stops nobody.
static void what_was_begun_goes(void **state)
{
    (void)state;
    static const char half[] = "0123456789abcdef.packed.fedcba9876543210";
    static const char *const others[] = {"0123456789abcdef.packed", "0123456789abcdef.packed.fedcba987654321",
                                         "0123456789abcdef.packet.fedcba9876543210", "notes"};
    char *path = save(llama, "begun.gguf", KERN_F32), *inside = bg_format("%s/aside", directory);
    float *want = want_of(path, KERN_F32);
    struct bg_file *lock;
    OK(env->ops->make_directories(env, inside, &err));
    touch(half);
    for (size_t i = 0; i < sizeof others / sizeof *others; i++)
        touch(others[i]);
    OK(env->ops->directory_lock(env, inside, &err, &lock));
    assert_int_equal(start_in("aside", path, KERN_F32, false, want), BG_EXISTS);
    assert_true(is_there(half));
    OK(env->ops->file_close(env, lock, &err));
    assert_int_equal(start_in("aside", path, KERN_F32, false, want), BG_OK);
    assert_false(is_there(half));
    for (size_t i = 0; i < sizeof others / sizeof *others; i++)
        assert_true(is_there(others[i]));
    assert_int_equal(start_in("aside", path, KERN_F32, true, want), BG_OK);
    assert_int_equal(start_in("aside/notes", path, KERN_F32, false, want), BG_NOT_CREATED);
    assert_int_equal(start_in("aside/notes/deeper", path, KERN_F32, false, want), BG_NOT_CREATED);
    free(want);
    bg_free(inside);
    bg_free(path);
}

static int set_up(void **state)
{
    (void)state;
    env = test_env(2);
    return mkdtemp(directory) ? 0 : -1;
}

static int tear_down(void **state)
{
    (void)state;
    char *command = bg_format("rm -r %s", directory);
    int code = system(command);
    bg_free(command);
    os_env_destroy(env);
    return code;
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(blocks_come_back_as_they_are), cmocka_unit_test(a_file_of_numbers_is_fp32),
        cmocka_unit_test(packed_weights_are_kept),      cmocka_unit_test(damaged_files_are_made_anew),
        cmocka_unit_test(what_was_begun_goes),
    };
    return cmocka_run_group_tests(tests, set_up, tear_down);
}
