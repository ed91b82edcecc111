// `brigade sim experts`: how many replicas the experts of a mixture get, where they stand, and with what odds a job
// goes on when machines are gone.
#include "cli/sim.h"

#include "base/mem.h"
#include "plan/fleet/lazarus.h"

#include <stdlib.h>
#include <string.h>

enum { LOST_MAX = 8 }; // machines lost of which the odds are told

struct experts {
    struct plan_lazarus shape;
    uint64_t load[PLAN_LAZARUS_EXPERTS_MAX];
    uint32_t replicas[PLAN_LAZARUS_EXPERTS_MAX];
    uint32_t *held; // (nodes, experts)
};

static int parse_load(const char *text, struct experts *e)
{
    struct bg_strlist words = {0};
    int code = -1;
    bg_strlist_split(&words, text, ',');
    for (size_t i = 0; i < words.count && code < 0; i++) {
        const char *word = words.items[i];
        if (i == PLAN_LAZARUS_EXPERTS_MAX || !*word || strlen(word) > 15 || word[strspn(word, "0123456789")])
            code = cli_misuse("sim experts",
                              "--load: expected the tokens of up to %d experts, like 900,300,50, found '%.60s'",
                              PLAN_LAZARUS_EXPERTS_MAX, word);
        else
            e->load[i] = strtoull(word, NULL, 10);
    }
    e->shape.experts = (uint32_t)words.count;
    bg_strlist_fini(&words);
    return code;
}

static json_t *numbers_json(const uint32_t *numbers, size_t count)
{
    json_t *array = json_array();
    for (size_t i = 0; i < count; i++)
        json_array_append_new(array, json_integer(numbers[i]));
    return array;
}

static void print_json(const struct experts *e)
{
    json_t *nodes = json_array(), *odds = json_array();
    for (uint32_t n = 0; n < e->shape.nodes; n++)
        json_array_append_new(nodes, numbers_json(e->held + (size_t)n * e->shape.experts, e->shape.experts));
    for (uint32_t lost = 1; lost < e->shape.nodes && lost <= LOST_MAX; lost++)
        json_array_append_new(odds, json_real(plan_lazarus_recovery(&e->shape, e->held, e->shape.nodes - lost)));
    cli_print_json(json_pack("{s:o, s:o, s:o}", "replicas", numbers_json(e->replicas, e->shape.experts), "nodes", nodes,
                             "recovery", odds));
}

static void print_text(const struct experts *e)
{
    printf("%-8s %14s %9s\n", "expert", "load", "replicas");
    for (uint32_t x = 0; x < e->shape.experts; x++)
        printf("%-8u %14llu %9u\n", x, (unsigned long long)e->load[x], e->replicas[x]);
    printf("\nmachine  experts\n");
    for (uint32_t n = 0; n < e->shape.nodes; n++) {
        printf("%-8u", n);
        for (uint32_t x = 0; x < e->shape.experts; x++)
            for (uint32_t k = 0; k < e->held[(size_t)n * e->shape.experts + x]; k++)
                printf(" %u", x);
        printf("\n");
    }
    printf("\nmachines lost  odds to go on\n");
    for (uint32_t lost = 1; lost < e->shape.nodes && lost <= LOST_MAX; lost++)
        printf("%-14u %.4f\n", lost, plan_lazarus_recovery(&e->shape, e->held, e->shape.nodes - lost));
}

static int place(struct cli *cli, struct experts *e)
{
    struct bg_error err = {0};
    if (plan_lazarus_check(&e->shape, &err))
        return cli_fail(&err);
    e->held = bg_alloc_array((size_t)e->shape.nodes * e->shape.experts, sizeof *e->held);
    plan_lazarus_allocate(&e->shape, e->load, e->replicas);
    plan_lazarus_place(&e->shape, e->replicas, 0, e->held);
    if (cli->json)
        print_json(e);
    else
        print_text(e);
    bg_free(e->held);
    return cli_finish_output();
}

int sim_experts(struct cli *cli, int argc, char **argv)
{
    struct experts e = {.shape = {.slots = 2, .spread = 2, .seed = 1}};
    const char *load = NULL;
    const struct cli_option options[] = {
        {"load", CLI_TEXT, &load, "N,N,..", "tokens that each expert gets"},
        {"nodes", CLI_U32, &e.shape.nodes, "N", "machines"},
        {"slots", CLI_U32, &e.shape.slots, "N", "experts that one has room for (2)"},
        {"spread", CLI_U32, &e.shape.spread, "N", "replicas of each at least, as far as there is room (2)"},
        {"seed", CLI_U64, &e.shape.seed, "N", "of the draws beyond 16 machines (1)"},
    };
    const struct cli_usage usage = {"sim experts --load N,N,.. --nodes N [options]",
                                    "Experts on machines that may vanish, as Lazarus places them: replicas in "
                                    "proportion to load, and where they\n"
                                    "stand, so that as many sets of machines as can be may go.",
                                    options,
                                    sizeof options / sizeof *options,
                                    0,
                                    0,
                                    true};
    struct bg_strlist words = {0};
    int code = cli_parse(cli, &usage, argc, argv, &words);
    if (code < 0 && (!load || !e.shape.nodes))
        code = cli_misuse("sim experts", "--load and --nodes are both needed");
    if (code < 0)
        code = parse_load(load, &e);
    if (code < 0)
        code = place(cli, &e);
    bg_strlist_fini(&words);
    return code;
}
