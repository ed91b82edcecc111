// `brigade sim VERB`: what a job or a service would have cost, and whether it would have been in time, on machines that
// came and went. One table; a verb is a function in its own sim_*.c.
#include "cli/sim.h"

#include <string.h>

static const struct cli_verb verbs[] = {
    {"deadline", sim_deadline, "a job with a deadline under one policy, window by window"},
    {"replay", sim_replay, "makes the decisions of a log once more: they must be the same"},
    {"compare", sim_compare, "deadline policies side by side: policies x traces x slacks, on all cores"},
    {"fleet", sim_fleet, "a training job as stages x replicas, under policies that choose them"},
    {"service", sim_service, "a service of replicas on spot and on-demand machines, requests as they came"},
    {"spotserve", sim_spotserve, "which parallelism for so many machines, and who takes which place when they change"},
    {"workflow", sim_workflow, "where the models of an inference workflow run at the least cost"},
    {"experts", sim_experts, "where the experts of a mixture stand on machines that may vanish"},
};
#define VERB_COUNT (sizeof verbs / sizeof *verbs)

static void print_help(FILE *out)
{
    fprintf(out, "usage: brigade sim VERB [...]      brigade sim VERB --help\n\n"
                 "What a job or a service would have cost on machines that came and went.\n\n");
    for (size_t i = 0; i < VERB_COUNT; i++)
        fprintf(out, "  %-10s %s\n", verbs[i].name, verbs[i].about);
    fprintf(out, "  --help     this text\n");
}

static int unknown_verb(const char *word)
{
    const char *names[VERB_COUNT];
    struct bg_str known = {0};
    for (size_t i = 0; i < VERB_COUNT; i++) {
        names[i] = verbs[i].name;
        bg_str_addf(&known, "%s%s", i ? ", " : "", names[i]);
    }
    const char *nearest = bg_nearest(word, names, VERB_COUNT);
    const int code = nearest ? cli_misuse("sim", "no verb '%s'; did you mean '%s'?", word, nearest)
                             : cli_misuse("sim", "no verb '%s'; there are %s", word, bg_str_text(&known));
    bg_str_fini(&known);
    return code;
}

int cmd_sim(struct cli *cli, int argc, char **argv)
{
    if (argc < 2)
        return cli_misuse("sim", "expected a verb after `brigade sim`");
    const char *word = argv[1];
    if (!strcmp(word, "--help") || !strcmp(word, "-h")) {
        print_help(stdout);
        return 0;
    }
    for (size_t i = 0; i < VERB_COUNT; i++) {
        if (strcmp(word, verbs[i].name) != 0)
            continue;
        char name[32]; // for messages
        snprintf(name, sizeof name, "sim %s", word);
        argv[1] = name;
        return verbs[i].run(cli, argc - 1, argv + 1);
    }
    return unknown_verb(word);
}
