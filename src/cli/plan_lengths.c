// `brigade plan --lengths`: micro-batches of samples whose lengths differ, by DynaPipe (plan/schedule/dynapipe.h). An
// answer about data: no job takes it on its own, since it would be another job.
#include "cli/plan.h"

#include "base/mem.h"
#include "plan/schedule/dynapipe.h"

struct request {
    const char *lengths;
    float fixed, token, pair;
    struct plan_dynapipe_options options;
};

static void print_json(const struct plan_dynapipe *plan)
{
    json_t *runs = json_array();
    for (uint32_t r = 0; r < plan->run_count; r++) {
        const struct plan_run *run = &plan->runs[r];
        json_t *inside = json_array();
        for (uint32_t i = run->first; i < run->end; i++)
            json_array_append_new(inside, json_integer(plan->order[i]));
        json_array_append_new(runs, json_pack("{s:o, s:I, s:I, s:f, s:I}", "samples", inside, "encoder",
                                              (json_int_t)run->encoder, "decoder", (json_int_t)run->decoder, "time",
                                              run->time, "replica", (json_int_t)run->replica));
    }
    cli_print_json(json_pack("{s:I, s:I, s:I, s:f, s:f, s:f, s:f, s:b, s:o}", "samples", (json_int_t)plan->sample_count,
                             "tokens", (json_int_t)plan->tokens, "padded_tokens", (json_int_t)plan->padded, "objective",
                             plan->objective, "t_max", plan->longest, "sum", plan->sum, "heaviest_replica",
                             plan->heaviest, "exact", plan->exact, "micro_batches", runs));
}

static void print_table(const struct plan_dynapipe *plan)
{
    printf("samples    %u, %llu tokens, %llu with padding\n", plan->sample_count, (unsigned long long)plan->tokens,
           (unsigned long long)plan->padded);
    printf("objective  %g; longest micro-batch %g, all %g, heaviest replica %g%s\n", plan->objective, plan->longest,
           plan->sum, plan->heaviest, plan->exact ? "" : " (not every longest time was tried)");
    printf("\n  %11s %8s %9s %9s %12s %8s\n", "micro-batch", "samples", "encoder", "decoder", "time", "replica");
    for (uint32_t r = 0; r < plan->run_count; r++) {
        const struct plan_run *run = &plan->runs[r];
        printf("  %11u %8u %9u %9u %12g %8u\n", r, run->end - run->first, run->encoder, run->decoder, run->time,
               run->replica);
    }
}

static bg_status answer(struct cli *cli, const struct request *r, struct bg_error *err)
{
    struct bg_map map;
    struct plan_sample *samples;
    struct plan_dynapipe plan;
    uint32_t count;
    bg_status status = cli->env->ops->map_open(cli->env, r->lengths, err, &map);
    if (status)
        return status;
    status = plan_samples_parse((const char *)map.data, map.size, err, &samples, &count);
    cli->env->ops->map_close(cli->env, &map);
    if (status)
        return bg_fail_prefix(err, "%s", r->lengths);
    status = plan_dynapipe_solve(samples, count, &r->options, err, &plan);
    bg_free(samples);
    if (status)
        return bg_fail_prefix(err, "%s", r->lengths);
    if (cli->json)
        print_json(&plan);
    else
        print_table(&plan);
    plan_dynapipe_fini(&plan);
    return BG_OK;
}

int cli_plan_lengths(struct cli *cli, int argc, char **argv)
{
    struct request r = {.token = 1, .options = {.round = 8, .stages = 1, .chunks = 1, .replicas = 1}};
    const struct cli_option options[] = {
        {"lengths", CLI_TEXT, &r.lengths, "FILE", "a sample a line: its length, or \"encoder decoder\", in tokens"},
        {"stages", CLI_U32, &r.options.stages, "S", "of the pipeline (1)"},
        {"chunks", CLI_U32, &r.options.chunks, "V", "stages of one device (1)"},
        {"replicas", CLI_U32, &r.options.replicas, "R", "that share the micro-batches (1)"},
        {"tokens-max", CLI_U64, &r.options.tokens_max, "N", "of a micro-batch with its padding (default: any)"},
        {"round", CLI_U32, &r.options.round, "N", "lengths are padded to a multiple (8)"},
        {"fixed", CLI_FLOAT, &r.fixed, "T", "time of a micro-batch however small (0)"},
        {"token", CLI_FLOAT, &r.token, "T", "time of a token (1)"},
        {"pair", CLI_FLOAT, &r.pair, "T", "time of a pair of tokens in attention (0)"},
    };
    const struct cli_usage usage = {
        "plan --lengths FILE [options]",
        "Cuts samples, in order of length, into micro-batches so that a flush pipeline with\n"
        "replicas is done soonest: (stages - 1) * longest / chunks + sum / replicas (DynaPipe,\n"
        "EuroSys 2024). What makes a micro-batch is part of a job's signature: this is an\n"
        "answer about data, which no job takes on its own.",
        options,
        sizeof options / sizeof *options,
        0,
        0,
        true};
    struct bg_strlist words = {0};
    struct bg_error err = {0};
    int code = cli_parse(cli, &usage, argc, argv, &words);
    if (code < 0) {
        r.options.fixed = (double)r.fixed;
        r.options.token = (double)r.token;
        r.options.pair = (double)r.pair;
        code = cli_plan_env(cli);
        if (!code && answer(cli, &r, &err))
            code = cli_fail(&err);
    }
    bg_strlist_fini(&words);
    return code;
}
