// Models through every format: random tiny ones of all shapes come back bit for bit, what a format cannot hold is
// refused by name, files as they are found in the wild are understood, broken ones give an error that says what and
// where.
#include "model/io.h"

#include "base/hash.h"
#include "base/mem.h"
#include "os/live.h"
#include "tensor/gguf.h"
#include "tensor/safetensors.h"

#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

static struct bg_env *env;
static struct bg_error err;
static char directory[] = "/tmp/brigade-io-XXXXXX";

#define OK(call)                                                                                                       \
    do {                                                                                                               \
        if (call)                                                                                                      \
            fail_msg("%s: %s", #call, err.text);                                                                       \
    } while (0)

static char *in_directory(const char *name)
{
    return bg_format("%s/%s", directory, name);
}

struct sample {
    struct model *model;
    float *weights;
};

static float random_float(uint32_t *state)
{
    *state = *state * 1664525u + 1013904223u;
    return (float)(int32_t)*state * 0x1p-33f;
}

static struct sample make(struct model_config config)
{
    struct sample sample;
    OK(model_create(&config, &err, &sample.model));
    sample.weights = bg_alloc_array(sample.model->floats, sizeof(float));
    uint32_t state = 1;
    for (uint32_t i = 0; i < sample.model->param_count; i++) {
        const struct model_param *param = &sample.model->params[i];
        for (uint64_t k = 0; k < param->count; k++)
            sample.weights[param->offset + k] = random_float(&state);
    }
    return sample;
}

static void drop(struct sample *sample)
{
    model_destroy(sample->model);
    bg_free(sample->weights);
}

static struct model_config llama_config(void)
{
    return (struct model_config){.family = MODEL_LLAMA,
                                 .layers = 2,
                                 .dim = 24,
                                 .heads = 4,
                                 .kv_heads = 2,
                                 .head_dim = 6,
                                 .ffn = 20,
                                 .context = 16,
                                 .vocab = 40,
                                 .rope_theta = 10000,
                                 .norm_eps = 1e-5,
                                 .bos = 1,
                                 .eos = 2};
}

static struct model_config gpt2_config(void)
{
    return (struct model_config){.family = MODEL_GPT2,
                                 .layers = 2,
                                 .dim = 24,
                                 .heads = 4,
                                 .kv_heads = 4,
                                 .head_dim = 6,
                                 .ffn = 50,
                                 .context = 16,
                                 .vocab = 40,
                                 .norm_eps = 1e-5,
                                 .bos = -1,
                                 .eos = 3};
}

static void expect_equal(const struct sample *sample, const struct model_files *files)
{
    const struct model_config *a = &sample->model->config, *b = &files->model->config;
    assert_int_equal(a->family, b->family);
    assert_memory_equal(&a->layers, &b->layers, 8 * sizeof a->layers);
    assert_true(a->tie == b->tie && a->qkv_bias == b->qkv_bias && a->out_bias == b->out_bias);
    assert_true(a->mlp_bias == b->mlp_bias && a->norm_eps == b->norm_eps);
    assert_true(a->bos == b->bos && a->eos == b->eos);
    assert_true(a->family == MODEL_GPT2 || a->rope_theta == b->rope_theta);
    assert_int_equal(sample->model->floats, files->model->floats);
    assert_memory_equal(sample->weights, files->weights, sample->model->floats * sizeof(float));
    char left[65], right[65];
    model_weights_sha256(sample->model, sample->weights, left);
    model_weights_sha256(files->model, files->weights, right);
    assert_string_equal(left, right);
}

static void round_trip(struct model_config config, const char *llama2c_refusal)
{
    struct sample sample = make(config);
    struct model_files files;
    char *path = in_directory("hf");
    OK(model_save(env, sample.model, sample.weights, NULL, MODEL_SAFETENSORS, path, &err));
    OK(model_open(env, path, &err, &files));
    expect_equal(&sample, &files);
    model_close(&files);
    bg_free(path);

    path = in_directory("model.gguf");
    OK(model_save(env, sample.model, sample.weights, NULL, MODEL_GGUF, path, &err));
    OK(model_open(env, path, &err, &files));
    expect_equal(&sample, &files);
    model_close(&files);
    bg_free(path);

    path = in_directory("model.bin");
    bg_status status = model_save(env, sample.model, sample.weights, NULL, MODEL_LLAMA2C, path, &err);
    if (llama2c_refusal) {
        assert_int_equal(status, BG_UNSUPPORTED);
        assert_non_null(strstr(err.text, llama2c_refusal));
    } else {
        OK(status);
        OK(model_open_llama2c(env, path, NULL, &err, &files));
        expect_equal(&sample, &files);
        model_close(&files);
    }
    bg_free(path);
    drop(&sample);
}

static void every_shape_survives_every_format(void **state)
{
    (void)state;
    for (int tie = 0; tie < 2; tie++) {
        struct model_config c = llama_config();
        c.tie = tie;
        round_trip(c, NULL);
        c.kv_heads = 4;
        round_trip(c, NULL);
        c.kv_heads = 1;
        round_trip(c, NULL);
        c.head_dim = 8;
        round_trip(c, "head_dim");
        c = llama_config();
        c.tie = tie;
        c.qkv_bias = true;
        round_trip(c, "biases"); // qwen2
        c.out_bias = true;
        round_trip(c, "biases");
        c.mlp_bias = true;
        round_trip(c, "biases");
        c.qkv_bias = c.out_bias = false;
        round_trip(c, "biases");
        c = llama_config();
        c.tie = tie;
        c.rope_theta = 500000.5;
        round_trip(c, "rope_theta");
        c.rope_theta = 10000;
        c.norm_eps = 1e-6;
        round_trip(c, "norm_eps");
        c = gpt2_config();
        c.tie = tie;
        round_trip(c, "llama family");
        c.ffn = c.dim;
        round_trip(c, "llama family");
    }
}

// A Hugging Face directory written by hand, tensor by tensor, as others write them.
struct directory_writer {
    struct safetensors_item items[64];
    char names[64][96];
    void *owned[64];
    size_t count;
};

static void put(struct directory_writer *w, const char *prefix, const char *name, enum tensor_dtype dtype,
                unsigned rank, const uint64_t *shape, const void *data)
{
    snprintf(w->names[w->count], sizeof w->names[0], "%s%s", prefix, name);
    struct safetensors_item *item = &w->items[w->count];
    *item = (struct safetensors_item){.name = w->names[w->count], .dtype = dtype, .rank = rank, .data = data};
    memcpy(item->shape, shape, rank * sizeof *shape);
    w->count++;
}

static const char *after(const char *name, const char *prefix)
{
    size_t size = strlen(prefix);
    return strncmp(name, prefix, size) ? name : name + size;
}

static void put_model(struct directory_writer *w, const struct sample *sample, const char *prefix, bool linear)
{
    for (uint32_t i = 0; i < sample->model->param_count; i++) {
        const struct model_param *param = &sample->model->params[i];
        const char *bare = after(after(param->name, "model."), "transformer.");
        const float *data = sample->weights + param->offset;
        uint64_t shape[2] = {param->shape[0], param->shape[1]};
        if (linear && param->rank == 2 && strstr(bare, ".c_")) {
            float *turned = bg_alloc_array(param->count, sizeof *turned);
            for (uint64_t r = 0; r < shape[0]; r++)
                for (uint64_t c = 0; c < shape[1]; c++)
                    turned[c * shape[0] + r] = data[r * shape[1] + c];
            shape[0] = param->shape[1];
            shape[1] = param->shape[0];
            w->owned[w->count] = turned;
            data = turned;
        }
        put(w, bare == param->name ? "" : prefix, bare, TENSOR_F32, param->rank, shape, data);
    }
}

static bg_status write_and_open(struct directory_writer *w, const struct model_config *config,
                                struct model_files *files)
{
    char *path = in_directory("wild"), *config_path = in_directory("wild/config.json");
    char *tensors = in_directory("wild/model.safetensors");
    OK(env->ops->make_directories(env, path, &err));
    OK(model_config_save(env, config_path, config, &err));
    OK(safetensors_write(env, tensors, w->items, w->count, NULL, 0, &err));
    bg_status status = model_open(env, path, &err, files);
    for (size_t i = 0; i < w->count; i++)
        bg_free(w->owned[i]);
    memset(w, 0, sizeof *w);
    bg_free(path);
    bg_free(config_path);
    bg_free(tensors);
    return status;
}

static void files_in_the_wild_are_understood(void **state)
{
    (void)state;
    static struct directory_writer w;
    struct model_files files;
    struct model_config c = gpt2_config();
    c.tie = true;
    struct sample sample = make(c);
    const uint64_t mask_shape[4] = {1, 1, 16, 16}, one[1] = {1}, half[1] = {3};
    static const float zeros[256];
    static const char *const prefixes[] = {"", "transformer.", "_orig_mod.transformer.", "module.transformer."};
    for (int variant = 0; variant < 8; variant++) {
        put_model(&w, &sample, prefixes[variant / 2], variant % 2);
        put(&w, "", "h.0.attn.bias", TENSOR_F32, 4, mask_shape, zeros);
        put(&w, "transformer.", "h.1.attn.masked_bias", TENSOR_F32, 1, one, zeros);
        const struct model_param *wte = model_param_find(sample.model, "transformer.wte.weight");
        put(&w, "", "lm_head.weight", TENSOR_F32, 2, wte->shape, sample.weights + wte->offset);
        OK(write_and_open(&w, &c, &files));
        expect_equal(&sample, &files);
        model_close(&files);
    }
    // A head that is not the embedding: the model is untied, whatever the configuration says.
    const struct model_param *wte = model_param_find(sample.model, "transformer.wte.weight");
    float *head = bg_alloc_array(wte->count, sizeof *head);
    head[5] = 1;
    put_model(&w, &sample, "transformer.", false);
    put(&w, "", "lm_head.weight", TENSOR_F32, 2, wte->shape, head);
    OK(write_and_open(&w, &c, &files));
    assert_false(files.model->config.tie);
    const struct model_param *read = model_param_find(files.model, "lm_head.weight");
    assert_memory_equal(files.weights + read->offset, head, wte->count * sizeof *head);
    model_close(&files);
    bg_free(head);
    drop(&sample);

    c = llama_config();
    sample = make(c);
    put_model(&w, &sample, "", false);
    put(&w, "model.", "layers.0.self_attn.rotary_emb.inv_freq", TENSOR_F32, 1, half, zeros);
    OK(write_and_open(&w, &c, &files));
    expect_equal(&sample, &files);
    model_close(&files);
    drop(&sample);
}

static void narrow_types_are_widened(void **state)
{
    (void)state;
    static struct directory_writer w;
    struct model_config c = llama_config();
    struct sample sample = make(c);
    // Values that all of BF16, F16 and F64 hold exactly.
    for (uint64_t i = 0; i < sample.model->floats; i++)
        sample.weights[i] = roundf(sample.weights[i] * 64) / 64;
    for (int kind = 0; kind < 3; kind++) {
        put_model(&w, &sample, "model.", false);
        for (size_t i = 0; i < w.count; i++) {
            const float *data = w.items[i].data;
            uint64_t count = w.items[i].shape[0] * (w.items[i].rank == 2 ? w.items[i].shape[1] : 1);
            uint8_t *bytes = bg_alloc_array(count, 8);
            for (uint64_t k = 0; k < count; k++) {
                uint32_t bits;
                memcpy(&bits, &data[k], 4);
                uint16_t half = (uint16_t)(bits >> 16);
                double wide = (double)data[k];
                if (kind == 1 && bits << 1) // normal numbers only
                    half = (uint16_t)((bits >> 16 & 0x8000) | (((bits >> 23 & 255) - 112) << 10) | (bits >> 13 & 1023));
                if (kind == 2)
                    memcpy(bytes + 8 * k, &wide, 8);
                else
                    memcpy(bytes + 2 * k, &half, 2);
            }
            w.items[i].data = w.owned[i] = bytes;
            w.items[i].dtype = (enum tensor_dtype[]){TENSOR_BF16, TENSOR_F16, TENSOR_F64}[kind];
        }
        struct model_files files;
        OK(write_and_open(&w, &c, &files));
        expect_equal(&sample, &files);
        model_close(&files);
    }
    put_model(&w, &sample, "model.", false);
    w.items[3].dtype = TENSOR_I32;
    struct model_files files;
    assert_int_equal(write_and_open(&w, &c, &files), BG_UNSUPPORTED);
    assert_non_null(strstr(err.text, "I32"));
    drop(&sample);
}

static void tensors_that_do_not_fit_are_named(void **state)
{
    (void)state;
    static struct directory_writer w;
    struct model_files files;
    struct model_config c = llama_config();
    struct sample sample = make(c);
    const uint64_t two[1] = {2};
    static const float some[2];
    put_model(&w, &sample, "model.", false);
    w.count--; // model.norm.weight
    assert_int_equal(write_and_open(&w, &c, &files), BG_MISMATCH);
    assert_non_null(strstr(err.text, "model.norm.weight: expected (24), found none"));
    put_model(&w, &sample, "model.", false);
    put(&w, "model.", "surplus", TENSOR_F32, 1, two, some);
    assert_int_equal(write_and_open(&w, &c, &files), BG_MISMATCH);
    assert_non_null(strstr(err.text, "model.surplus: expected none, found (2)"));
    put_model(&w, &sample, "model.", false);
    put(&w, "", "norm.weight", TENSOR_F32, 1, two, some);
    assert_int_equal(write_and_open(&w, &c, &files), BG_FORMAT);
    assert_non_null(strstr(err.text, "same parameter"));
    struct model_config other = c;
    other.vocab = 41;
    put_model(&w, &sample, "model.", false);
    assert_int_equal(write_and_open(&w, &other, &files), BG_MISMATCH);
    assert_non_null(strstr(err.text, "model.embed_tokens.weight: expected (41, 24), found (40, 24)"));
    other.layers = 4000;
    other.dim = 4096;
    other.head_dim = 1024;
    put_model(&w, &sample, "model.", false);
    assert_int_equal(write_and_open(&w, &other, &files), BG_MISMATCH);
    drop(&sample);
}

static void a_run_resolves_to_its_newest_checkpoint(void **state)
{
    (void)state;
    char *found;
    static const char *const names[] = {"run/checkpoints/step-9",
                                        "run/checkpoints/step-100",
                                        "run/checkpoints/step-20",
                                        "run/checkpoints/.step-300.tmp",
                                        "run/checkpoints/damaged-step-400",
                                        "run/checkpoints/step-x",
                                        "empty/checkpoints",
                                        "nothing"};
    for (size_t i = 0; i < sizeof names / sizeof *names; i++) {
        char *path = in_directory(names[i]);
        OK(env->ops->make_directories(env, path, &err));
        bg_free(path);
    }
    char *run = in_directory("run"), *expected = in_directory("run/checkpoints/step-100");
    OK(model_resolve(env, run, &err, &found));
    assert_string_equal(found, expected);
    bg_free(found);
    bg_free(run);
    bg_free(expected);
    static const char *const bad[] = {"empty", "nothing", "absent", "absent.gguf"};
    for (size_t i = 0; i < sizeof bad / sizeof *bad; i++) {
        char *path = in_directory(bad[i]);
        assert_int_equal(model_resolve(env, path, &err, &found), BG_NOT_FOUND);
        assert_non_null(strstr(err.text, path));
        bg_free(path);
    }
    char *file = in_directory("x.bin");
    OK(env_write_file(env, file, "x", 1, &err));
    assert_int_equal(model_resolve(env, file, &err, &found), BG_INVALID);
    bg_free(file);
}

static void a_manifest_guards_its_files(void **state)
{
    (void)state;
    struct sample sample = make(llama_config());
    char *path = in_directory("guarded"), *tensors = in_directory("guarded/model.safetensors");
    char *manifest = in_directory("guarded/manifest.json");
    OK(model_save(env, sample.model, sample.weights, NULL, MODEL_SAFETENSORS, path, &err));
    struct bg_map map;
    OK(env->ops->map_open(env, tensors, &err, &map));
    char hex[65];
    bg_sha256_hex(map.data, map.size, hex);
    size_t size = map.size;
    uint8_t *bytes = bg_alloc(size);
    memcpy(bytes, map.data, size);
    env->ops->map_close(env, &map);
    char *text =
        bg_format("{\"format\":\"brigade-checkpoint/1\",\"files\":{\"model.safetensors\":{\"sha256\":\"%s\"}}}", hex);
    OK(env_write_file(env, manifest, text, strlen(text), &err));
    struct model_files files;
    OK(model_open(env, path, &err, &files));
    model_close(&files);
    bytes[size - 9] ^= 4;
    OK(env_write_file(env, tensors, bytes, size, &err));
    assert_int_equal(model_open(env, path, &err, &files), BG_CORRUPT);
    assert_non_null(strstr(err.text, "model.safetensors"));
    bg_free(text);
    bg_free(bytes);
    bg_free(path);
    bg_free(tensors);
    bg_free(manifest);
    drop(&sample);
}

static bg_status open_single(const char *path, struct model_files *files)
{
    size_t size = strlen(path);
    return strcmp(path + size - 4, ".bin") ? model_open(env, path, &err, files)
                                           : model_open_llama2c(env, path, NULL, &err, files);
}

// Every cut and every flipped bit in the first bytes and at random: an error or a model, never a crash.
static void damaged_files_give_errors(void **state)
{
    (void)state;
    struct model_config c = llama_config();
    c.layers = 1;
    struct sample sample = make(c);
    static const struct {
        const char *name;
        enum model_format format;
    } kinds[] = {{"damaged.gguf", MODEL_GGUF}, {"damaged.bin", MODEL_LLAMA2C}};
    for (size_t k = 0; k < 2; k++) {
        char *path = in_directory(kinds[k].name);
        OK(model_save(env, sample.model, sample.weights, NULL, kinds[k].format, path, &err));
        struct bg_map map;
        OK(env->ops->map_open(env, path, &err, &map));
        size_t size = map.size;
        uint8_t *bytes = bg_alloc(size);
        memcpy(bytes, map.data, size);
        env->ops->map_close(env, &map);
        struct model_files files;
        uint32_t random = 7;
        for (int i = 0; i < 120; i++) {
            random = random * 1664525u + 1013904223u;
            size_t cut = i < 40 ? (size_t)i * 2 : (random >> 4) % size;
            struct bg_file *file;
            OK(env->ops->file_open(env, path, BG_FILE_TRUNCATE, &err, &file));
            OK(env->ops->file_write(env, file, bytes, cut, &err));
            OK(env->ops->file_close(env, file, &err));
            assert_int_not_equal(open_single(path, &files), BG_OK);
            assert_non_null(strstr(err.text, path));
        }
        for (int i = 0; i < 300; i++) {
            random = random * 1664525u + 1013904223u;
            size_t at = i < 200 ? (size_t)i * 2 : (random >> 4) % 1400;
            uint8_t bit = (uint8_t)(1 << (random >> 29));
            bytes[at] ^= bit;
            struct bg_file *file;
            OK(env->ops->file_open(env, path, BG_FILE_TRUNCATE, &err, &file));
            OK(env->ops->file_write(env, file, bytes, size, &err));
            OK(env->ops->file_close(env, file, &err));
            bytes[at] ^= bit;
            if (!open_single(path, &files))
                model_close(&files);
        }
        bg_free(bytes);
        bg_free(path);
    }
    drop(&sample);
}

static int setup(void **state)
{
    (void)state;
    const struct os_options options = {.threads = 1};
    return os_env_create(&options, &err, &env) || !mkdtemp(directory);
}

static int teardown(void **state)
{
    (void)state;
    bg_status status = env->ops->path_remove(env, directory, &err);
    os_env_destroy(env);
    return status ? 1 : 0;
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(every_shape_survives_every_format),
        cmocka_unit_test(files_in_the_wild_are_understood),
        cmocka_unit_test(narrow_types_are_widened),
        cmocka_unit_test(tensors_that_do_not_fit_are_named),
        cmocka_unit_test(a_run_resolves_to_its_newest_checkpoint),
        cmocka_unit_test(a_manifest_guards_its_files),
        cmocka_unit_test(damaged_files_give_errors),
    };
    return cmocka_run_group_tests(tests, setup, teardown);
}
