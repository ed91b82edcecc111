// Writes weights, tokens, losses and gradients of one step of a small model as raw files, for test/torch_oracle.py to
// compare with PyTorch's autograd: dump_grads CASE DIRECTORY. index.txt holds the configuration and, per tensor, name,
// shape and offset in floats.
#include "model/step_test.h"

#include "base/str.h"

enum { BATCH = 2, LENGTH = 48, MICRO_BATCHES = 3, TOKENS = BATCH * LENGTH * MICRO_BATCHES };

struct named_case {
    const char *name;
    struct model_config config;
};

#define SIZES .layers = 3, .dim = 64, .head_dim = 16, .ffn = 172, .context = 64, .vocab = 301, .norm_eps = 1e-5
static const struct named_case cases[] = {
    {"llama", {.family = MODEL_LLAMA, SIZES, .heads = 4, .kv_heads = 2, .rope_theta = 10000.0, .bos = -1, .eos = -1}},
    {"llama-tied-biases",
     {.family = MODEL_LLAMA,
      SIZES,
      .heads = 6,
      .kv_heads = 1,
      .rope_theta = 500000.0,
      .tie = true,
      .qkv_bias = true,
      .out_bias = true,
      .mlp_bias = true,
      .bos = -1,
      .eos = -1}},
    {"gpt2", {.family = MODEL_GPT2, SIZES, .heads = 4, .kv_heads = 4, .bos = -1, .eos = -1}},
    {"gpt2-tied", {.family = MODEL_GPT2, SIZES, .heads = 4, .kv_heads = 4, .tie = true, .bos = -1, .eos = -1}},
};

static void write_file(struct bg_env *env, const char *directory, const char *name, const void *bytes, size_t size)
{
    struct bg_error err;
    char path[1024];
    snprintf(path, sizeof path, "%s/%s", directory, name);
    if (env_write_file(env, path, bytes, size, &err) != BG_OK) {
        fprintf(stderr, "dump_grads: %s\n", err.text);
        exit(1);
    }
}

static void write_index(struct bg_env *env, const char *directory, const struct model *m)
{
    const struct model_config *c = &m->config;
    struct bg_str text = {0};
    bg_str_addf(&text, "family %s\nlayers %u\ndim %u\nheads %u\nkv_heads %u\nhead_dim %u\nffn %u\nvocab %u\n",
                model_family_name(c->family), c->layers, c->dim, c->heads, c->kv_heads, c->head_dim, c->ffn, c->vocab);
    bg_str_addf(&text, "rope_theta %.17g\nnorm_eps %.17g\nsequences %d\nlength %d\n", c->rope_theta, c->norm_eps,
                BATCH * MICRO_BATCHES, LENGTH);
    for (uint32_t i = 0; i < m->param_count; i++) {
        const struct model_param *p = &m->params[i];
        bg_str_addf(&text, "tensor %s %llu %llu %llu\n", p->name, (unsigned long long)p->shape[0],
                    p->rank == 2 ? (unsigned long long)p->shape[1] : 0ull, (unsigned long long)p->offset);
    }
    write_file(env, directory, "index.txt", text.data, text.size);
    bg_str_fini(&text);
}

static void dump(const struct model_config *config, const char *directory)
{
    static int32_t tokens[TOKENS], targets[TOKENS];
    struct bg_env *env = test_env(2);
    struct model *model = test_model(*config);
    float *weights = test_weights(model, env, 0.05f);
    test_tokens(tokens, targets, TOKENS, config->vocab);
    struct step step = {.model = model,
                        .kern = kern_select(env->isa),
                        .env = env,
                        .weights = weights,
                        .batch = BATCH,
                        .length = LENGTH,
                        .micro_batches = MICRO_BATCHES,
                        .group = 2,
                        .tokens = tokens,
                        .targets = targets};
    struct step_result r = step_run(&step);
    write_index(env, directory, model);
    write_file(env, directory, "weights.bin", weights, model->floats * sizeof *weights);
    write_file(env, directory, "gradients.bin", r.grad.dense, model->floats * sizeof(float));
    write_file(env, directory, "losses.bin", r.losses, sizeof(double) * TOKENS);
    write_file(env, directory, "tokens.bin", tokens, sizeof tokens);
    write_file(env, directory, "targets.bin", targets, sizeof targets);
    step_result_free(&r);
    free(weights);
    model_destroy(model);
    os_env_destroy(env);
}

int main(int argc, char **argv)
{
    if (argc == 2 && strcmp(argv[1], "--list") == 0) {
        for (size_t i = 0; i < sizeof cases / sizeof *cases; i++)
            printf("%s\n", cases[i].name);
        return 0;
    }
    for (size_t i = 0; argc == 3 && i < sizeof cases / sizeof *cases; i++) {
        if (strcmp(cases[i].name, argv[1]) == 0) {
            dump(&cases[i].config, argv[2]);
            return 0;
        }
    }
    fprintf(stderr, "usage: dump_grads --list | dump_grads CASE DIRECTORY\n");
    return 64;
}
