// Shared parts of the verbs: options from a table, the environment, exit codes, human numbers.
// Options may stand anywhere among the words; `--name value` and `--name=value` are alike; `--` ends options.
#include "cli/cli.h"

#include "base/mem.h"
#include "os/live.h"

#include <errno.h>
#include <math.h>
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>
#include <sysexits.h>

int cli_misuse(const char *verb, const char *format, ...)
{
    va_list args;
    va_start(args, format);
    fprintf(stderr, "brigade %s: ", verb);
    vfprintf(stderr, format, args);
    fprintf(stderr, "; see `brigade %s --help`\n", verb);
    va_end(args);
    return EX_USAGE;
}

static void print_usage(const struct cli_usage *usage)
{
    printf("usage: brigade %s\n\n%s\n\n", usage->synopsis, usage->about);
    for (size_t i = 0; i < usage->option_count; i++) {
        const struct cli_option *o = &usage->options[i];
        char head[64];
        snprintf(head, sizeof head, "--%s%s%s", o->name, o->meaning ? " " : "", o->meaning ? o->meaning : "");
        printf("  %-22s %s\n", head, o->help);
    }
    if (usage->prints_results)
        printf("  %-22s %s\n", "--json", "print the result as one JSON object");
    printf("  %-22s %s\n", "--help", "this text");
}

static bool parse_unsigned(const char *text, uint64_t max, uint64_t *value)
{
    char *end;
    errno = 0;
    if (*text < '0' || *text > '9')
        return false;
    unsigned long long v = strtoull(text, &end, 10);
    if (*end || errno || v > max)
        return false;
    *value = v;
    return true;
}

static bool parse_float(const char *text, float *value)
{
    char *end;
    errno = 0;
    float v = strtof(text, &end);
    if (end == text || *end || !isfinite(v))
        return false;
    *value = v;
    return true;
}

// Stores `text` as the option's value; says what was expected where it does not fit.
static int store(const char *verb, const struct cli_option *o, const char *text)
{
    uint64_t number = 0;
    switch (o->kind) {
    case CLI_FLAG:
        *(bool *)o->value = true;
        return -1;
    case CLI_TEXT:
        *(const char **)o->value = text;
        return -1;
    case CLI_LIST:
        bg_strlist_add(o->value, text);
        return -1;
    case CLI_U32:
        if (!parse_unsigned(text, UINT32_MAX, &number))
            return cli_misuse(verb, "--%s: expected a whole number of 0 to 4294967295, found '%s'", o->name, text);
        *(uint32_t *)o->value = (uint32_t)number;
        return -1;
    case CLI_U64:
        if (!parse_unsigned(text, UINT64_MAX, &number))
            return cli_misuse(verb, "--%s: expected a whole number, found '%s'", o->name, text);
        *(uint64_t *)o->value = number;
        return -1;
    case CLI_FLOAT:
        if (!parse_float(text, o->value))
            return cli_misuse(verb, "--%s: expected a number, found '%s'", o->name, text);
        return -1;
    }
    return EX_SOFTWARE;
}

static int unknown_option(const char *verb, const struct cli_usage *usage, const char *name)
{
    const char *names[64];
    size_t count = 0;
    for (; count < usage->option_count && count < 63; count++)
        names[count] = usage->options[count].name;
    if (usage->prints_results)
        names[count++] = "json";
    const char *nearest = bg_nearest(name, names, count);
    if (nearest)
        return cli_misuse(verb, "no option --%s; did you mean --%s?", name, nearest);
    return cli_misuse(verb, "no option --%s", name);
}

// One option at argv[*at]; moves *at over a separate value.
static int parse_option(struct cli *cli, const struct cli_usage *usage, int argc, char **argv, int *at)
{
    const char *verb = argv[0];
    char *name = argv[*at] + 2;
    char *equals = strchr(name, '=');
    size_t size = equals ? (size_t)(equals - name) : strlen(name);
    if (usage->prints_results && !equals && !strcmp(name, "json")) {
        cli->json = true;
        return -1;
    }
    for (size_t i = 0; i < usage->option_count; i++) {
        const struct cli_option *o = &usage->options[i];
        if (strlen(o->name) != size || strncmp(o->name, name, size) != 0)
            continue;
        if (o->kind == CLI_FLAG)
            return equals ? cli_misuse(verb, "--%s takes no value", o->name) : store(verb, o, "");
        if (equals)
            return store(verb, o, equals + 1);
        if (*at + 1 >= argc)
            return cli_misuse(verb, "--%s needs a value (%s)", o->name, o->meaning);
        *at += 1;
        if (!strcmp(argv[*at], "--help")) { // of `plan --graph --help`; --x=--help is a value
            print_usage(usage);
            return 0;
        }
        return store(verb, o, argv[*at]);
    }
    char *word = bg_strndup(name, size);
    int code = unknown_option(verb, usage, word);
    bg_free(word);
    return code;
}

int cli_parse(struct cli *cli, const struct cli_usage *usage, int argc, char **argv, struct bg_strlist *words)
{
    bool options = true;
    for (int at = 1; at < argc; at++) {
        const char *word = argv[at];
        if (options && !strcmp(word, "--")) {
            options = false;
        } else if (options && (!strcmp(word, "--help") || !strcmp(word, "-h"))) {
            print_usage(usage);
            return 0;
        } else if (options && word[0] == '-' && word[1] == '-') {
            int code = parse_option(cli, usage, argc, argv, &at);
            if (code >= 0)
                return code;
        } else if (options && word[0] == '-' && word[1]) {
            return cli_misuse(argv[0], "no option %s (long options only)", word);
        } else {
            bg_strlist_add(words, word);
        }
    }
    if (words->count < usage->words_min || words->count > usage->words_max)
        return cli_misuse(argv[0], "expected: brigade %s", usage->synopsis);
    return -1;
}

static int make_env(struct cli *cli, const struct os_options *options)
{
    cli_env_close(cli);
    struct bg_error err = {0};
    if (os_env_create(options, &err, &cli->env))
        return cli_fail(&err);
    return 0;
}

int cli_env(struct cli *cli, unsigned threads)
{
    return make_env(cli, &(struct os_options){.threads = threads, .pin = true, .handle_signals = true});
}

int cli_env_unpinned(struct cli *cli)
{
    return make_env(cli, &(struct os_options){.handle_signals = true});
}

void cli_env_close(struct cli *cli)
{
    if (cli->env)
        os_env_destroy(cli->env);
    cli->env = NULL;
}

int cli_exit_code(bg_status status)
{
    switch (status) {
    case BG_OK:
        return EX_OK;
    case BG_INVALID:
        return EX_CONFIG;
    case BG_NOT_FOUND:
        return EX_NOINPUT;
    case BG_EXISTS:
    case BG_FULL:
    case BG_NOT_CREATED:
        return EX_CANTCREAT;
    case BG_FORMAT:
    case BG_UNSUPPORTED:
    case BG_MISMATCH:
    case BG_CORRUPT:
    case BG_NOT_FINITE:
        return EX_DATAERR;
    case BG_DENIED:
        return EX_NOPERM;
    case BG_NO_MEMORY:
        return EX_OSERR;
    case BG_IO:
        return EX_IOERR;
    case BG_STOPPED:
        return EX_TEMPFAIL;
    case BG_INTERNAL:
        return EX_SOFTWARE;
    }
    return EX_SOFTWARE;
}

int cli_fail(const struct bg_error *err)
{
    fflush(stdout);
    fprintf(stderr, "brigade: %s\n", err->text[0] ? err->text : bg_status_text(err->status));
    return cli_exit_code(err->status);
}

int cli_finish_output(void)
{
    if (fflush(stdout) == 0 && !ferror(stdout))
        return 0;
    fprintf(stderr, "brigade: standard output: %s\n", strerror(errno));
    return EX_IOERR;
}

void cli_print_json(json_t *object)
{
    json_dumpf(object, stdout, JSON_COMPACT);
    printf("\n");
    json_decref(object);
}

bg_status cli_read_file(struct bg_env *env, const char *path, struct bg_error *err, char **text)
{
    struct bg_map map;
    bg_status status = env->ops->map_open(env, path, err, &map);
    if (status)
        return status;
    *text = bg_strndup((const char *)map.data, map.size);
    env->ops->map_close(env, &map);
    return BG_OK;
}

int cli_read_input(struct bg_str *text)
{
    char part[65536];
    size_t size;
    while ((size = fread(part, 1, sizeof part, stdin)) > 0)
        bg_str_add_bytes(text, part, size);
    if (!ferror(stdin))
        return 0;
    struct bg_error err;
    (void)bg_fail(&err, BG_IO, "standard input: %s", strerror(errno));
    return cli_fail(&err);
}

void cli_bytes(char *text, size_t size, uint64_t bytes)
{
    static const char *const units[] = {"B", "kB", "MB", "GB", "TB", "PB"};
    double value = (double)bytes;
    size_t unit = 0;
    while (value >= 999.5 && unit < 5) {
        value /= 1000;
        unit++;
    }
    snprintf(text, size, unit == 0 || value >= 99.5 ? "%.0f %s" : "%.1f %s", value, units[unit]);
}

void cli_count(char *text, size_t size, double count)
{
    static const char *const units[] = {"", "k", "M", "G", "T"};
    size_t unit = 0;
    while (count >= 999.5 && unit < 4) {
        count /= 1000;
        unit++;
    }
    snprintf(text, size, unit == 0 ? "%.0f%s" : "%.1f%s", count, units[unit]);
}

void cli_duration(char *text, size_t size, double seconds)
{
    if (!(seconds >= 0) || seconds > 1e9) {
        snprintf(text, size, "?");
        return;
    }
    unsigned long s = (unsigned long)(seconds + 0.5);
    if (s >= 3600)
        snprintf(text, size, "%lu:%02lu:%02lu", s / 3600, s / 60 % 60, s % 60);
    else
        snprintf(text, size, "%lu:%02lu", s / 60, s % 60);
}

bool cli_is_header(const char *text)
{
    for (const char *c = text; *c; c++)
        if ((unsigned char)*c < ' ' || *c == 0x7f)
            return false;
    return *text != 0;
}

bool cli_parse_seconds(const char *text, double *seconds)
{
    static const struct {
        const char *name;
        double seconds;
    } units[] = {{"", 1}, {"ms", 1e-3}, {"s", 1}, {"m", 60}, {"h", 3600}, {"d", 86400}};
    char *end;
    const double value = strtod(text, &end);
    if (end == text || !isfinite(value))
        return false;
    for (size_t i = 0; i < sizeof units / sizeof *units; i++) {
        if (strcmp(end, units[i].name) == 0) {
            *seconds = value * units[i].seconds;
            return true;
        }
    }
    return false;
}

int cli_write(struct cli *cli, const char *path, const char *text)
{
    struct bg_error err = {0};
    return env_write_file(cli->env, path, text, strlen(text), &err) ? cli_fail(&err) : 0;
}
