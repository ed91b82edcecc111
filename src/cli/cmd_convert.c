// `brigade import` and `brigade export`: one model in the formats that other programs read.
#include "cli/cli.h"

#include "model/io.h"

#include <string.h>
#include <sysexits.h>

static void print_saved(const char *format, const char *path, const struct model *model)
{
    char count[32];
    cli_count(count, sizeof count, (double)model->elements);
    printf("%s: %s, %s parameters, %s\n", path, model_family_name(model->config.family), count, format);
}

static int import_model(struct cli *cli, const char *source, const char *from, const char *tokenizer, const char *out)
{
    struct bg_error err = {0};
    struct model_files files = {0};
    struct tokenizer *other = NULL;
    bool llama2c = !strcmp(from, "llama2c");
    bg_status status = llama2c ? model_open_llama2c(cli->env, source, tokenizer, &err, &files)
                               : model_open(cli->env, source, &err, &files);
    if (!status && !llama2c && tokenizer)
        status = tokenizer_open(cli->env, tokenizer, &err, &other);
    if (!status)
        status = model_save(cli->env, files.model, files.weights, other ? other : files.tokenizer, MODEL_SAFETENSORS,
                            out, &err);
    if (!status)
        print_saved("safetensors", out, files.model);
    tokenizer_destroy(other);
    model_close(&files);
    return status ? cli_fail(&err) : 0;
}

int cmd_import(struct cli *cli, int argc, char **argv)
{
    const char *from = NULL, *tokenizer = NULL, *out = NULL;
    const struct cli_option options[] = {
        {"from", CLI_TEXT, &from, "FORMAT", "llama2c, gguf or safetensors (default: by the name of SOURCE)"},
        {"tokenizer", CLI_TEXT, &tokenizer, "FILE", "the model's tokenizer, where SOURCE does not hold it"},
        {"out", CLI_TEXT, &out, "DIR", "the model directory to write"},
    };
    const struct cli_usage usage = {"import SOURCE --out DIR [--from FORMAT] [--tokenizer FILE]",
                                    "Makes a Hugging Face model directory from another program's model.",
                                    options,
                                    sizeof options / sizeof *options,
                                    1,
                                    1,
                                    false};
    struct bg_strlist words = {0};
    int code = cli_parse(cli, &usage, argc, argv, &words);
    if (code >= 0)
        goto undo_words;
    size_t size = strlen(words.items[0]);
    if (!from)
        from = size > 4 && !strcmp(words.items[0] + size - 4, ".bin") ? "llama2c" : "safetensors";
    if (strcmp(from, "llama2c") != 0 && strcmp(from, "gguf") != 0 && strcmp(from, "safetensors") != 0)
        code = cli_misuse("import", "--from: expected llama2c, gguf or safetensors, found '%s'", from);
    else if (!out)
        code = cli_misuse("import", "--out is missing");
    else if (!strcmp(from, "llama2c") && !tokenizer)
        code = cli_misuse("import", "a llama2.c model needs its --tokenizer TOKENIZER.bin");
    else
        code = cli_env(cli, 0);
    if (!code)
        code = import_model(cli, words.items[0], from, tokenizer, out);
undo_words:
    bg_strlist_fini(&words);
    return code;
}

int cmd_export(struct cli *cli, int argc, char **argv)
{
    const char *to = NULL, *out = NULL, *weights = "f32";
    static const char *const names[] = {"safetensors", "gguf", "llama2c"}; // in the order of enum model_format
    static const char *const types[] = {"f32", "q8_0", "q4_0"};            // of enum kern_weight
    const struct cli_option options[] = {
        {"to", CLI_TEXT, &to, "FORMAT", "safetensors (a directory), gguf or llama2c (a file)"},
        {"out", CLI_TEXT, &out, "PATH", "what to write; llama2c adds PATH.tokenizer.bin"},
        {"weights", CLI_TEXT, &weights, "TYPE", "of gguf: f32, q8_0 or q4_0 (default f32)"},
    };
    const struct cli_usage usage = {"export MODEL --to FORMAT --out PATH [--weights TYPE]",
                                    "Writes a model (run, checkpoint, directory, .gguf) for other programs.",
                                    options,
                                    sizeof options / sizeof *options,
                                    1,
                                    1,
                                    false};
    struct bg_strlist words = {0};
    struct bg_error err = {0};
    struct model_files files = {0};
    int format = 0, type = 0;
    int code = cli_parse(cli, &usage, argc, argv, &words);
    if (code >= 0)
        goto undo_words;
    while (to && format < 3 && strcmp(to, names[format]) != 0)
        format++;
    while (type < 3 && strcmp(weights, types[type]) != 0)
        type++;
    if (!to || format == 3)
        code = cli_misuse("export", "--to: expected safetensors, gguf or llama2c, found '%s'", to ? to : "nothing");
    else if (!out)
        code = cli_misuse("export", "--out is missing");
    else if (type == 3 || (type != KERN_F32 && format != MODEL_GGUF))
        code = cli_misuse("export", "--weights %s: expected f32, or q8_0 or q4_0 with --to gguf", weights);
    else
        code = cli_env(cli, 0);
    if (code)
        goto undo_words;
    bg_status status = model_open(cli->env, words.items[0], &err, &files);
    if (!status)
        status = type == KERN_F32 ? model_save(cli->env, files.model, files.weights, files.tokenizer,
                                               (enum model_format)format, out, &err)
                                  : model_save_blocks(cli->env, files.model, files.weights, files.tokenizer,
                                                      (enum kern_weight)type, out, &err);
    if (status)
        code = cli_fail(&err);
    else
        print_saved(names[format], out, files.model);
    model_close(&files);
undo_words:
    bg_strlist_fini(&words);
    return code;
}
