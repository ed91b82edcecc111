// What every verb of the command shares: the environment, options from a table, output and exit codes.
// A verb is `int cmd_x(struct cli *cli, int argc, char **argv)` (argv[0] is the verb) and returns a sysexits code.
#ifndef CLI_CLI_H
#define CLI_CLI_H

#include "base/env.h"
#include "base/json.h"
#include "base/str.h"

#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>

struct cli {
    struct bg_env *env; // made by cli_env(), ended by main
    bool json;          // --json: results as one JSON object
};

typedef int (*cli_verb_fn)(struct cli *cli, int argc, char **argv);
struct cli_verb {
    const char *name;
    cli_verb_fn run;
    const char *about; // one line for `brigade --help`; NULL: not listed
};

enum cli_kind { CLI_FLAG, CLI_TEXT, CLI_U32, CLI_U64, CLI_FLOAT, CLI_LIST };
struct cli_option {
    const char *name; // without the dashes
    enum cli_kind kind;
    void *value;         // bool, const char *, uint32_t, uint64_t, float, struct bg_strlist
    const char *meaning; // name of the value in the help, e.g. "N"; NULL for flags
    const char *help;
};

struct cli_usage {
    const char *synopsis; // "generate MODEL [options]"
    const char *about;    // a paragraph
    const struct cli_option *options;
    size_t option_count;
    size_t words_min, words_max; // positional arguments
    bool prints_results;         // has --json
};

// Fills option values and `words`. Returns -1 to go on, or the exit code to leave with (--help: 0, misuse: 64).
int cli_parse(struct cli *cli, const struct cli_usage *usage, int argc, char **argv, struct bg_strlist *words);

// Makes the live environment (once). threads 0: all cores. Prints the error itself; returns 0 or the exit code.
int cli_env(struct cli *cli, unsigned threads);
int cli_env_unpinned(struct cli *cli); // all cores, which others need as well
void cli_env_close(struct cli *cli);

// Prints "brigade: <text>" on standard error and returns the exit code of the status (sysexits).
int cli_fail(const struct bg_error *err);
int cli_exit_code(bg_status status);
int cli_misuse(const char *verb, const char *format, ...) BG_PRINTF(2, 3); // 64, points to --help

// Standard output, with results that must arrive: 0, or the exit code after a message (a closed pipe, a full disk).
int cli_finish_output(void);

// One JSON object on a line of its own; takes the reference.
void cli_print_json(json_t *object);

// A whole file as text. bg_free it.
BG_MUST_USE bg_status cli_read_file(struct bg_env *env, const char *path, struct bg_error *err, char **text);
// All of standard input, appended. 0, or the exit code after the message.
int cli_read_input(struct bg_str *text);

// "1.2 GB", "12.3 k", "1:02:03".
void cli_bytes(char *text, size_t size, uint64_t bytes);
void cli_count(char *text, size_t size, double count);
void cli_duration(char *text, size_t size, double seconds);

// May stand in a header of HTTP: neither empty nor with control characters.
bool cli_is_header(const char *text);
// "48h", "30m", "90s", "2d", "5ms", or seconds: false where it is something else or not finite.
bool cli_parse_seconds(const char *text, double *seconds);
// Writes a file, the old or the new whatever happens. 0, or the exit code after the message.
int cli_write(struct cli *cli, const char *path, const char *text);

int cmd_train(struct cli *cli, int argc, char **argv);
int cmd_generate(struct cli *cli, int argc, char **argv);
int cmd_chat(struct cli *cli, int argc, char **argv);
int cmd_eval(struct cli *cli, int argc, char **argv);
int cmd_plan(struct cli *cli, int argc, char **argv);
int cmd_plot(struct cli *cli, int argc, char **argv);
int cmd_verify(struct cli *cli, int argc, char **argv);
int cmd_diff(struct cli *cli, int argc, char **argv);
int cmd_import(struct cli *cli, int argc, char **argv);
int cmd_export(struct cli *cli, int argc, char **argv);
int cmd_inspect(struct cli *cli, int argc, char **argv);
int cmd_tokenizer(struct cli *cli, int argc, char **argv);
int cmd_doctor(struct cli *cli, int argc, char **argv);
int cmd_worker(struct cli *cli, int argc, char **argv);
int cmd_join(struct cli *cli, int argc, char **argv);
int cmd_chaos(struct cli *cli, int argc, char **argv);
int cmd_serve(struct cli *cli, int argc, char **argv);
int cmd_bench(struct cli *cli, int argc, char **argv);
int cmd_route(struct cli *cli, int argc, char **argv);
int cmd_sim(struct cli *cli, int argc, char **argv);
int cmd_trace(struct cli *cli, int argc, char **argv);

#endif
