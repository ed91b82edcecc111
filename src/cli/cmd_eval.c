// `brigade eval`: loss, perplexity and bits per byte of a model on texts, by fixed windows of its context (NUMERICS
// 17).
#include "cli/cli.h"

#include "base/mem.h"
#include "model/data.h"
#include "model/io.h"
#include "train/evaluate.h"

#include <sysexits.h>

struct eval_flags {
    struct bg_strlist data;
    uint64_t tokens;
    uint32_t length, threads;
    const char *tokenizer, *field, *cache;
};

static void print_result(const struct cli *cli, const struct evaluate_result *r)
{
    if (cli->json) {
        json_t *o = json_pack("{s:f, s:f, s:f, s:I, s:I, s:I, s:f}", "loss", r->loss, "perplexity", r->perplexity,
                              "bits_per_byte", r->bits_per_byte, "tokens", (json_int_t)r->tokens, "windows",
                              (json_int_t)r->windows, "length", (json_int_t)r->length, "seconds", r->seconds);
        cli_print_json(o);
        return;
    }
    printf("loss           %.6f\nperplexity     %.4f\n", r->loss, r->perplexity);
    if (r->bits_per_byte > 0)
        printf("bits per byte  %.6f\n", r->bits_per_byte);
    printf("tokens         %llu in %llu windows of %u\n", (unsigned long long)r->tokens, (unsigned long long)r->windows,
           r->length);
}

static bg_status evaluate_files(struct cli *cli, const struct model_files *files, const struct tokenizer *tokenizer,
                                const struct eval_flags *flags, struct bg_error *err, struct evaluate_result *result)
{
    struct corpus_options options = {.paths = (const char *const *)flags->data.items,
                                     .path_count = flags->data.count,
                                     .field = flags->field,
                                     .cache_dir = flags->cache};
    struct corpus *corpus;
    bg_status status = corpus_open(cli->env, &options, tokenizer, NULL, NULL, err, &corpus);
    if (status)
        return status;
    struct evaluate_options how = {flags->tokens, flags->length, corpus->train_bytes};
    status = evaluate_run(cli->env, files->model, kern_select(cli->env->isa), files->weights, &corpus->train, &how, err,
                          result);
    corpus_close(cli->env, corpus);
    return status;
}

static int eval_model(struct cli *cli, const char *path, const struct eval_flags *flags)
{
    struct bg_error err = {0};
    struct model_files files = {0};
    struct tokenizer *other = NULL;
    struct evaluate_result result = {0};
    bg_status status = model_open(cli->env, path, &err, &files);
    if (!status && flags->tokenizer)
        status = tokenizer_open(cli->env, flags->tokenizer, &err, &other);
    const struct tokenizer *tokenizer = other ? other : files.tokenizer;
    if (!status && !tokenizer)
        status = bg_fail(&err, BG_NOT_FOUND, "%s holds no tokenizer; name one with --tokenizer", path);
    if (!status && tokenizer_size(tokenizer) > files.model->config.vocab)
        status = bg_fail(&err, BG_MISMATCH, "%s: the tokenizer has %u ids, the model's vocabulary %u", path,
                         tokenizer_size(tokenizer), files.model->config.vocab);
    if (!status)
        status = evaluate_files(cli, &files, tokenizer, flags, &err, &result);
    if (!status)
        print_result(cli, &result);
    tokenizer_destroy(other);
    model_close(&files);
    return status ? cli_fail(&err) : 0;
}

int cmd_eval(struct cli *cli, int argc, char **argv)
{
    struct eval_flags flags = {.cache = ".brigade-cache"};
    const struct cli_option options[] = {
        {"data", CLI_LIST, &flags.data, "PATH", "text to evaluate on: file, directory, .jsonl; may be given often"},
        {"tokens", CLI_U64, &flags.tokens, "N", "at most about N tokens (default: all)"},
        {"length", CLI_U32, &flags.length, "T", "tokens a window (default: the model's context)"},
        {"tokenizer", CLI_TEXT, &flags.tokenizer, "SOURCE", "instead of the model's own"},
        {"field", CLI_TEXT, &flags.field, "NAME", "of .jsonl lines (default: text)"},
        {"cache", CLI_TEXT, &flags.cache, "DIR", "where tokenised text is kept (default: .brigade-cache)"},
        {"threads", CLI_U32, &flags.threads, "N", "default: all cores"},
    };
    const struct cli_usage usage = {"eval MODEL --data PATH [options]",
                                    "Mean loss per token of fixed windows, its perplexity, and bits per byte of text.\n"
                                    "MODEL is a run directory, a checkpoint, a Hugging Face directory or a .gguf.",
                                    options,
                                    sizeof options / sizeof *options,
                                    1,
                                    1,
                                    true};
    struct bg_strlist words = {0};
    int code = cli_parse(cli, &usage, argc, argv, &words);
    if (code < 0 && !flags.data.count)
        code = cli_misuse("eval", "--data is missing");
    if (code < 0)
        code = cli_env(cli, flags.threads);
    else
        goto undo_words;
    if (!code)
        code = eval_model(cli, words.items[0], &flags);
undo_words:
    bg_strlist_fini(&words);
    bg_strlist_fini(&flags.data);
    return code;
}
