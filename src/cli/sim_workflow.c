// `brigade sim workflow`: where the models of an inference workflow run at the least cost. The workflow is JSON
// (plan/service/jellybean_read.h).
#include "cli/sim.h"

#include "plan/service/jellybean_read.h"

static void print_json(const char *path, const struct plan_jellybean_file *f, const struct plan_jellybean_placement *p)
{
    json_t *operators = json_array();
    for (uint32_t o = 0; p->found && o < f->workflow.operator_count; o++) {
        const struct plan_jellybean_choice *c = &p->choices[o];
        json_t *places = json_array();
        for (uint32_t i = 0; i < c->part_count; i++)
            json_array_append_new(places,
                                  json_pack("{s:s, s:s, s:I, s:f}", "machine", f->names.kinds[c->parts[i].kind], "tier",
                                            f->names.tiers[f->workflow.kinds[c->parts[i].kind].tier], "machines",
                                            (json_int_t)c->parts[i].machines, "share", c->parts[i].share));
        json_array_append_new(operators, json_pack("{s:s, s:s, s:o}", "operator", f->names.operators[o], "model",
                                                   f->names.models[o][c->model], "places", places));
    }
    cli_print_json(json_pack("{s:s, s:b, s:b, s:f, s:f, s:f, s:f, s:o}", "workflow", path, "found", p->found, "proven",
                             p->proven, "dollars_hour", p->machine_dollars_hour + p->traffic_dollars_hour,
                             "machine_dollars_hour", p->machine_dollars_hour, "traffic_dollars_hour",
                             p->traffic_dollars_hour, "accuracy", p->accuracy, "operators", operators));
}

static void print_text(const struct plan_jellybean_file *f, const struct plan_jellybean_placement *p)
{
    printf("%-20s %-20s %-16s %-12s %8s %7s\n", "operator", "model", "machine", "tier", "machines", "share");
    for (uint32_t o = 0; o < f->workflow.operator_count; o++) {
        const struct plan_jellybean_choice *c = &p->choices[o];
        for (uint32_t i = 0; i < c->part_count; i++)
            printf("%-20s %-20s %-16s %-12s %8u %6.1f%%\n", i ? "" : f->names.operators[o],
                   i ? "" : f->names.models[o][c->model], f->names.kinds[c->parts[i].kind],
                   f->names.tiers[f->workflow.kinds[c->parts[i].kind].tier], c->parts[i].machines,
                   100 * c->parts[i].share);
    }
    printf("$%.4f an hour ($%.4f of machines, $%.4f of traffic), accuracy %.4f%s\n",
           p->machine_dollars_hour + p->traffic_dollars_hour, p->machine_dollars_hour, p->traffic_dollars_hour,
           p->accuracy, p->proven ? "" : "; the search was given up: there may be a cheaper one");
}

static bg_status read_file(struct bg_env *env, const char *path, struct bg_error *err,
                           struct plan_jellybean_file **file)
{
    struct bg_map map;
    bg_status status = env->ops->map_open(env, path, err, &map);
    if (status)
        return status;
    status = plan_jellybean_read(path, map.data, map.size, err, file);
    env->ops->map_close(env, &map);
    return status;
}

static int run_command(struct cli *cli, const char *path)
{
    struct bg_error err = {0};
    struct plan_jellybean_file *file = NULL;
    if (read_file(cli->env, path, &err, &file))
        return cli_fail(&err);
    struct plan_jellybean_placement placement;
    plan_jellybean_place(&file->workflow, &placement);
    if (cli->json)
        print_json(path, file, &placement);
    else if (placement.found)
        print_text(file, &placement);
    int code = cli_finish_output();
    if (!code && !placement.found) {
        (void)bg_fail(
            &err, BG_INVALID, "%s: no placement %s: lower the rate or the accuracy, or add machines, models or links",
            path, placement.proven ? "keeps up and is accurate enough" : "was found before the search was given up");
        code = cli_fail(&err);
    }
    plan_jellybean_file_destroy(file);
    return code;
}

int sim_workflow(struct cli *cli, int argc, char **argv)
{
    const struct cli_usage usage = {
        "sim workflow FILE [--json]",
        "Where the models of an inference workflow run, over tiers of unequal machines, at the least cost at which it "
        "keeps\n"
        "up with its source and is accurate enough. FILE is JSON; docs/policies.md says what is in it.",
        NULL,
        0,
        1,
        1,
        true};
    struct bg_strlist words = {0};
    int code = cli_parse(cli, &usage, argc, argv, &words);
    if (code < 0) {
        code = cli_env(cli, 1);
        if (!code)
            code = run_command(cli, words.items[0]);
    }
    bg_strlist_fini(&words);
    return code;
}
