// What `generate` and `chat` share: sampling flags, a model ready to speak, text to standard output.
#ifndef CLI_SPEAK_H
#define CLI_SPEAK_H

#include "cli/cli.h"

#include "model/decode.h"
#include "model/generate.h"
#include "model/io.h"

struct speak_flags {
    struct sample_options sample;
    uint32_t tokens, context, threads;
    bool ignore_eos;
    const char *tokenizer;
};

enum { SPEAK_OPTIONS = 10 };
// Defaults into *flags and the options' rows into `rows`.
void speak_options(struct speak_flags *flags, const char *const *seed, struct cli_option rows[SPEAK_OPTIONS]);

struct speaker {
    struct model_files files;
    struct tokenizer *own; // opened by --tokenizer
    const struct tokenizer *tokenizer;
    struct decoder *decoder;
    struct sampler *sampler;
};

// Makes the environment, opens the model and draws a seed where none was given (told on standard error).
// Returns 0 or the exit code after the error was printed. seed: the text of --seed, NULL: none.
int speak_open(struct cli *cli, const char *path, const char *seed, struct speak_flags *flags, struct speaker *speaker);
void speak_close(struct speaker *speaker);

// generate_fn: to standard output at once; stops where it is closed.
bool speak_print(void *arg, const char *bytes, size_t size);

// A whole file ("-": standard input), appended. 0, or the exit code after the message.
int speak_read(struct cli *cli, const char *file, struct bg_str *text);

#endif
