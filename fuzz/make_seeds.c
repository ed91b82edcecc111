// make_seeds DIR: valid small files of the formats we write, one folder for each fuzz target, as the fuzzers' seeds.
// Run again it overwrites them.
#include "base/mem.h"
#include "base/str.h"
#include "model/io.h"
#include "os/live.h"

#include <stdio.h>
#include <string.h>

struct job {
    struct bg_env *env;
    const char *directory;
    struct bg_error err;
};

static bg_status copy(struct job *job, const char *from, const char *target, const char *name)
{
    char *folder = bg_format("%s/%s", job->directory, target), *to = bg_format("%s/%s", folder, name);
    struct bg_map map;
    bg_status status = job->env->ops->make_directories(job->env, folder, &job->err);
    if (!status)
        status = job->env->ops->map_open(job->env, from, &job->err, &map);
    if (!status) {
        status = env_write_file(job->env, to, map.data, map.size, &job->err);
        job->env->ops->map_close(job->env, &map);
    }
    bg_free(folder);
    bg_free(to);
    return status;
}

static bg_status save(struct job *job, const struct model *model, const float *weights, const char *name)
{
    char *scratch = bg_format("%s/scratch", job->directory), *gguf = bg_format("%s.gguf", scratch);
    char *llama2c = bg_format("%s.bin", scratch), *config = bg_format("%s/config.json", scratch);
    char *tensors = bg_format("%s/model.safetensors", scratch);
    bg_status status = model_save(job->env, model, weights, NULL, MODEL_SAFETENSORS, scratch, &job->err);
    if (!status)
        status = copy(job, config, "config_fuzz", name);
    if (!status)
        status = copy(job, tensors, "safetensors_fuzz", name);
    if (!status)
        status = model_save(job->env, model, weights, NULL, MODEL_GGUF, gguf, &job->err);
    if (!status)
        status = copy(job, gguf, "gguf_fuzz", name);
    if (!status && model->config.family == MODEL_LLAMA && !model->config.qkv_bias) {
        status = model_save(job->env, model, weights, NULL, MODEL_LLAMA2C, llama2c, &job->err);
        if (!status)
            status = copy(job, llama2c, "llama2c_fuzz", name);
    }
    for (size_t i = 0; i < 3; i++) {
        const char *leftover = (const char *[]){scratch, gguf, llama2c}[i];
        if (!status)
            status = job->env->ops->path_remove(job->env, leftover, &job->err);
    }
    bg_free(scratch);
    bg_free(gguf);
    bg_free(llama2c);
    bg_free(config);
    bg_free(tensors);
    return status;
}

static bg_status make(struct job *job)
{
    const struct model_config llama = {.family = MODEL_LLAMA,
                                       .layers = 1,
                                       .dim = 4,
                                       .heads = 2,
                                       .kv_heads = 1,
                                       .head_dim = 2,
                                       .ffn = 4,
                                       .context = 4,
                                       .vocab = 6,
                                       .rope_theta = 10000,
                                       .norm_eps = 1e-5,
                                       .bos = 1,
                                       .eos = 2};
    struct model_config configs[4] = {llama, llama, llama, llama};
    configs[1].tie = true;
    configs[2].qkv_bias = true;
    configs[3].family = MODEL_GPT2;
    configs[3].kv_heads = 2;
    bg_status status = BG_OK;
    for (int i = 0; i < 4 && !status; i++) {
        struct model *model = NULL;
        status = model_create(&configs[i], &job->err, &model);
        if (status)
            break;
        float *weights = bg_alloc_array(model->floats, sizeof *weights);
        char name[16];
        snprintf(name, sizeof name, "model-%d", i);
        status = save(job, model, weights, name);
        bg_free(weights);
        model_destroy(model);
    }
    return status;
}

int main(int argc, char **argv)
{
    if (argc != 2) {
        fprintf(stderr, "usage: make_seeds DIR\n");
        return 64;
    }
    struct job job = {.directory = argv[1]};
    const struct os_options options = {.threads = 1};
    bg_status status = os_env_create(&options, &job.err, &job.env);
    if (!status)
        status = job.env->ops->make_directories(job.env, argv[1], &job.err);
    if (!status)
        status = make(&job);
    if (status)
        fprintf(stderr, "make_seeds: %s\n", job.err.text);
    if (job.env)
        os_env_destroy(job.env);
    return status ? 1 : 0;
}
