// `brigade plan`: how work would be cut over machines and in which order it would run, before a second is spent. A job
// comes first; else the first of the options below that is given says which question is meant.
#include "cli/plan.h"

#include "os/live.h"

#include <stdlib.h>
#include <string.h>

static const struct {
    const char *option; // without the dashes
    cli_verb_fn run;
    const char *about;
} questions[] = {
    {"graph", cli_plan_graph, "cut a profiled graph of layers over levels of machines"},
    {"placement", cli_plan_placement, "a schedule for blocks on devices, by search"},
    {"lengths", cli_plan_lengths, "micro-batches of samples whose lengths differ"},
    {"frontier", cli_plan_frontier, "what a pipeline costs for every time it may take"},
    {"schedule", cli_plan_schedule, "the order of a pipeline's workers, timed, without a model"},
    {"profile", cli_plan_profile, "measure this machine for a job, or walk a plan with such a profile"},
};
enum { QUESTIONS = sizeof questions / sizeof *questions };

int cli_plan_number(const char *option, const char *text, double max, double *value)
{
    char *end;
    *value = strtod(text, &end);
    if (end == text || *end || !(*value >= 0 && *value <= max))
        return cli_misuse("plan", "--%s: \"%s\", expected a number from 0 to %g", option, text, max);
    return 0;
}

int cli_plan_env(struct cli *cli)
{
    const int code = cli_env(cli, 1);
    if (!code)
        os_signals_stop();
    return code;
}

static bool given(const char *option, int argc, char **argv)
{
    const size_t size = strlen(option);
    for (int i = 1; i < argc; i++)
        if (strncmp(argv[i], "--", 2) == 0 && strncmp(argv[i] + 2, option, size) == 0 &&
            (argv[i][2 + size] == '\0' || argv[i][2 + size] == '='))
            return true;
    return false;
}

// `plan JOB.yaml --profile` without a file measures for the job.
static bool is_job(int argc, char **argv)
{
    if (argc < 2 || argv[1][0] == '-')
        return false;
    for (int i = 2; i < argc; i++)
        if (strcmp(argv[i], "--profile") == 0)
            return i + 1 < argc && strncmp(argv[i + 1], "--", 2) != 0;
    return true;
}

int cmd_plan(struct cli *cli, int argc, char **argv)
{
    if (is_job(argc, argv))
        return cli_plan_job(cli, argc, argv);
    for (size_t q = 0; q < QUESTIONS; q++)
        if (given(questions[q].option, argc, argv))
            return questions[q].run(cli, argc, argv);
    struct cli_option options[QUESTIONS];
    for (size_t q = 0; q < QUESTIONS; q++)
        options[q] = (struct cli_option){questions[q].option, CLI_TEXT, NULL, "..", questions[q].about};
    const struct cli_usage usage = {"plan JOB.yaml|CORPUS [key.key=value ...] [options]",
                                    "How a job would run on given machines, and what a step would take and cost\n"
                                    "(`brigade plan JOB.yaml --help`). Other questions, each with its own --help:",
                                    options,
                                    QUESTIONS,
                                    0,
                                    0,
                                    false};
    struct bg_strlist words = {0};
    int code = cli_parse(cli, &usage, argc, argv, &words);
    bg_strlist_fini(&words);
    return code < 0 ? cli_misuse("plan", "expected a job, or --graph, --machines and --bandwidth, or another question")
                    : code;
}
