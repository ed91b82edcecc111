// Sampling flags, model, decoder and sampler for the verbs that speak.
#include "cli/speak.h"

#include "base/mem.h"

#include <stdlib.h>
#include <string.h>

void speak_options(struct speak_flags *f, const char *const *seed, struct cli_option rows[SPEAK_OPTIONS])
{
    *f = (struct speak_flags){.sample = {.temperature = 0.8f, .top_p = 1.0f}, .tokens = 256};
    const struct cli_option list[SPEAK_OPTIONS] = {
        {"tokens", CLI_U32, &f->tokens, "N", "at most N new tokens (default 256)"},
        {"temperature", CLI_FLOAT, &f->sample.temperature, "T", "0: greedy (default 0.8)"},
        {"top-k", CLI_U32, &f->sample.top_k, "K", "only the K most likely tokens (default 0: off)"},
        {"top-p", CLI_FLOAT, &f->sample.top_p, "P", "only the likeliest of P mass together (default 1: off)"},
        {"min-p", CLI_FLOAT, &f->sample.min_p, "P", "only tokens of at least P times the best (default 0: off)"},
        {"seed", CLI_TEXT, (void *)(uintptr_t)seed, "S", "same seed, same tokens (default: one is drawn and told)"},
        {"context", CLI_U32, &f->context, "N", "size of the KV cache (default: the model's context)"},
        {"ignore-eos", CLI_FLAG, &f->ignore_eos, NULL, "go on after the end token"},
        {"tokenizer", CLI_TEXT, &f->tokenizer, "SOURCE", "instead of the model's own"},
        {"threads", CLI_U32, &f->threads, "N", "default: all cores"},
    };
    memcpy(rows, list, sizeof list);
}

static bg_status check_sampling(const struct sample_options *s, struct bg_error *err)
{
    if (s->temperature < 0)
        return bg_fail(err, BG_INVALID, "--temperature: expected 0 or more, found %g", (double)s->temperature);
    if (!(s->top_p > 0) || s->top_p > 1)
        return bg_fail(err, BG_INVALID, "--top-p: expected more than 0, at most 1, found %g", (double)s->top_p);
    if (s->min_p < 0 || s->min_p > 1)
        return bg_fail(err, BG_INVALID, "--min-p: expected 0 to 1, found %g", (double)s->min_p);
    return BG_OK;
}

static bg_status choose_seed(struct bg_env *env, const char *text, struct sample_options *s, struct bg_error *err)
{
    if (text) {
        char *end;
        s->seed = strtoull(text, &end, 10);
        if (*text < '0' || *text > '9' || *end)
            return bg_fail(err, BG_INVALID, "--seed: expected a whole number, found '%s'", text);
        return BG_OK;
    }
    if (s->temperature <= 0)
        return BG_OK;
    bg_status status = env->ops->entropy(env, &s->seed, sizeof s->seed, err);
    if (!status)
        fprintf(stderr, "seed %llu\n", (unsigned long long)s->seed);
    return status;
}

static bg_status open_parts(struct bg_env *env, const char *path, const struct speak_flags *flags, struct bg_error *err,
                            struct speaker *s)
{
    bg_status status = model_open(env, path, err, &s->files);
    if (!status && flags->tokenizer)
        status = tokenizer_open(env, flags->tokenizer, err, &s->own);
    if (status)
        return status;
    s->tokenizer = s->own ? s->own : s->files.tokenizer;
    uint32_t vocab = s->files.model->config.vocab, context = s->files.model->config.context;
    if (!s->tokenizer)
        return bg_fail(err, BG_NOT_FOUND, "%s holds no tokenizer; name one with --tokenizer", path);
    if (tokenizer_size(s->tokenizer) > vocab)
        return bg_fail(err, BG_MISMATCH, "%s: the tokenizer has %u ids, the model's vocabulary %u", path,
                       tokenizer_size(s->tokenizer), vocab);
    if (flags->context > context)
        return bg_fail(err, BG_INVALID, "--context %u: the model was made for at most %u positions", flags->context,
                       context);
    if (flags->context)
        context = flags->context;
    const struct kern *kern = kern_select(env->isa);
    s->sampler = sampler_create(kern, vocab);
    return decoder_create(env, s->files.model, kern, s->files.weights, context, context < 256 ? context : 256, err,
                          &s->decoder);
}

int speak_open(struct cli *cli, const char *path, const char *seed, struct speak_flags *flags, struct speaker *speaker)
{
    struct bg_error err = {0};
    int code = cli_env(cli, flags->threads);
    if (code)
        return code;
    if (check_sampling(&flags->sample, &err) || choose_seed(cli->env, seed, &flags->sample, &err) ||
        open_parts(cli->env, path, flags, &err, speaker))
        return cli_fail(&err);
    return 0;
}

void speak_close(struct speaker *s)
{
    if (s->decoder)
        decoder_destroy(s->decoder);
    if (s->sampler)
        sampler_destroy(s->sampler);
    tokenizer_destroy(s->own);
    model_close(&s->files);
    *s = (struct speaker){0};
}

bool speak_print(void *arg, const char *bytes, size_t size)
{
    (void)arg;
    return fwrite(bytes, 1, size, stdout) == size && fflush(stdout) == 0;
}

int speak_read(struct cli *cli, const char *file, struct bg_str *text)
{
    struct bg_error err = {0};
    struct bg_map map;
    if (!strcmp(file, "-"))
        return cli_read_input(text);
    if (cli->env->ops->map_open(cli->env, file, &err, &map))
        return cli_fail(&err);
    bg_str_add_bytes(text, map.data, map.size);
    cli->env->ops->map_close(cli->env, &map);
    return 0;
}
