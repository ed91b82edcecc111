// `brigade plan --placement`: a schedule for blocks on devices, one of the well-known shapes or a file, by Tessel's
// search (plan/schedule/tessel.h) or, with --sync, in the order of batch sync (plan_placement_sync.c).
#include "cli/plan.h"

#include "base/mem.h"
#include "cli/plan_placement.h"
#include "plan/schedule/placement_picture.h"
#include "plan/schedule/tessel.h"

#include <string.h>

struct answer {
    const struct placement_request *request;
    struct plan_placement placement;
    struct plan_tessel tessel;
    struct plan_tessel_run run;
    uint32_t micro_batches;
};

static bool is_shape(const char *name)
{
    for (size_t s = 0; plan_placement_shape_name(s); s++)
        if (strcmp(plan_placement_shape_name(s), name) == 0)
            return true;
    return false;
}

json_t *cli_placement_devices(const struct plan_placement *placement, uint32_t block)
{
    json_t *devices = json_array();
    for (uint32_t d = 0; d < placement->devices; d++)
        if (placement->blocks[block].devices >> d & 1)
            json_array_append_new(devices, json_integer(d));
    return devices;
}

static json_t *op_json(const struct answer *a, const struct plan_tessel_op *op)
{
    return json_pack("{s:s, s:I, s:I, s:I, s:o}", "block", a->placement.blocks[op->block].name, "micro_batch",
                     (json_int_t)op->micro, "start", (json_int_t)op->start, "end", (json_int_t)op->end, "devices",
                     cli_placement_devices(&a->placement, op->block));
}

static json_t *part_json(const struct answer *a, const struct plan_tessel_part *part)
{
    json_t *ops = json_array();
    for (uint32_t i = 0; i < part->count; i++)
        json_array_append_new(ops, op_json(a, &part->ops[i]));
    return json_pack("{s:I, s:o}", "steps", (json_int_t)part->steps, "ops", ops);
}

static json_t *list_json(const struct answer *a, uint32_t device)
{
    json_t *list = json_array();
    for (uint32_t i = 0; i < a->run.count; i++) {
        const struct plan_block *block = &a->placement.blocks[a->run.ops[i].block];
        if (block->devices >> device & 1)
            json_array_append_new(list, json_sprintf("%s:%u", block->name, a->run.ops[i].micro));
    }
    return list;
}

static void print_json(const struct answer *a)
{
    const struct plan_tessel *t = &a->tessel;
    json_t *peaks = json_array(), *lists = json_array();
    for (uint32_t d = 0; d < a->placement.devices; d++) {
        json_array_append_new(peaks, json_integer(a->run.peak_memory[d]));
        json_array_append_new(lists, list_json(a, d));
    }
    cli_print_json(json_pack("{s:s, s:I, s:I, s:I, s:I, s:I, s:b, s:b, s:o, s:o, s:o, s:I, s:I, s:I, s:o, s:o}",
                             "placement", a->request->placement, "devices", (json_int_t)a->placement.devices,
                             "micro_batches", (json_int_t)a->micro_batches, "in_flight", (json_int_t)t->in_flight,
                             "bubbles_per_repetend", (json_int_t)t->bubbles, "period", (json_int_t)t->period, "proved",
                             t->proved, "parts_proved", t->shortest, "warmup", part_json(a, &t->warmup), "repetend",
                             part_json(a, &t->repetend), "cooldown", part_json(a, &t->cooldown), "makespan",
                             (json_int_t)a->run.makespan, "max_stage_span", (json_int_t)a->run.max_device_span,
                             "bubble", (json_int_t)a->run.bubble, "peak_activations", peaks, "lists", lists));
}

// Each device's blocks of a part, as "f0:2", in order.
static void print_part(const struct answer *a, const char *name, const struct plan_tessel_part *part)
{
    printf("\n%s: %llu steps\n", name, (unsigned long long)part->steps);
    for (uint32_t d = 0; d < a->placement.devices && part->count; d++) {
        printf("  %3u ", d);
        for (uint32_t i = 0; i < part->count; i++)
            if (a->placement.blocks[part->ops[i].block].devices >> d & 1)
                printf(" %s:%u", a->placement.blocks[part->ops[i].block].name, part->ops[i].micro);
        printf("\n");
    }
}

static void print_table(const struct answer *a)
{
    const struct plan_tessel *t = &a->tessel;
    printf("in flight  %u micro-batches\n", t->in_flight);
    printf("period     %llu steps, of them %llu bubbles%s\n", (unsigned long long)t->period,
           (unsigned long long)t->bubbles, t->proved ? "" : " (the search was cut short)");
    printf("makespan   %llu steps for %u micro-batches\n", (unsigned long long)a->run.makespan, a->micro_batches);
    printf("peak memory");
    for (uint32_t d = 0; d < a->placement.devices; d++)
        printf(" %lld", (long long)a->run.peak_memory[d]);
    printf("\n");
    print_part(a, "warm-up", &t->warmup);
    print_part(a, "repetend", &t->repetend);
    print_part(a, "cool-down", &t->cooldown);
}

static bg_status shape(const struct placement_request *r, struct bg_error *err, struct plan_placement *placement)
{
    bg_status status = plan_placement_shape(r->placement, r->devices, err, placement);
    for (uint32_t b = 0; !status && b < placement->block_count; b++) {
        struct plan_block *block = &placement->blocks[b];
        const uint32_t span = block->memory < 0 ? r->backward : r->forward;
        if (span && !(block->devices & (block->devices - 1)))
            block->span = span;
    }
    return status;
}

static bg_status read_placement(struct cli *cli, const struct placement_request *r, struct bg_error *err,
                                struct plan_placement *placement)
{
    struct bg_map map;
    if (is_shape(r->placement))
        return shape(r, err, placement);
    bg_status status = cli->env->ops->map_open(cli->env, r->placement, err, &map);
    if (status)
        return bg_fail_prefix(err, "neither a shape (see --help) nor a file");
    status = plan_placement_parse((const char *)map.data, map.size, err, placement);
    cli->env->ops->map_close(cli->env, &map);
    return status ? bg_fail_prefix(err, "%s", r->placement) : BG_OK;
}

bg_status cli_placement_svg(struct cli *cli, const struct placement_request *request,
                            const struct plan_placement *placement, const struct plan_batch_run *run,
                            struct bg_error *err)
{
    char *title =
        bg_format("%s%s%s", request->placement, request->sync ? ", sync " : "", request->sync ? request->sync : "");
    char *svg = plan_placement_picture(placement, run, title);
    bg_status status = env_write_file(cli->env, request->svg, svg, strlen(svg), err);
    bg_free(title);
    bg_free(svg);
    return status;
}

static bg_status draw(struct cli *cli, const struct answer *a, struct bg_error *err)
{
    struct plan_batch_run run = {.count = a->run.count, .makespan = a->run.makespan};
    run.ops = bg_alloc_array(run.count, sizeof *run.ops);
    for (uint32_t i = 0; i < run.count; i++) {
        const struct plan_tessel_op *op = &a->run.ops[i];
        run.ops[i] = (struct plan_batch_op){op->block, op->micro, op->micro + 1, op->start, op->end};
    }
    bg_status status = cli_placement_svg(cli, a->request, &a->placement, &run, err);
    plan_batch_run_fini(&run);
    return status;
}

static bg_status repeat(struct cli *cli, const struct placement_request *r, struct answer *a, struct bg_error *err)
{
    const struct plan_tessel_options options = {
        .in_flight = r->in_flight, .in_flight_max = r->micro_batches, .memory = r->memory, .comm = r->comm};
    bg_status status = plan_tessel_solve(&a->placement, &options, err, &a->tessel);
    if (status)
        return status;
    a->micro_batches = r->micro_batches ? r->micro_batches : a->tessel.in_flight;
    status = plan_tessel_unroll(&a->placement, &a->tessel, a->micro_batches, r->comm, err, &a->run);
    if (!status && r->svg)
        status = draw(cli, a, err);
    if (!status && cli->json)
        print_json(a);
    else if (!status)
        print_table(a);
    plan_tessel_run_fini(&a->run);
    plan_tessel_fini(&a->tessel);
    return status;
}

static bg_status answer(struct cli *cli, const struct placement_request *r, struct bg_error *err)
{
    struct answer a = {.request = r};
    bg_status status = read_placement(cli, r, err, &a.placement);
    if (status)
        return status;
    status = r->sync ? cli_placement_sync(cli, r, &a.placement, err) : repeat(cli, r, &a, err);
    plan_placement_fini(&a.placement);
    return status ? bg_fail_prefix(err, "plan --placement %s", r->placement) : BG_OK;
}

static int check_request(struct placement_request *r)
{
    if (r->schedule && strcmp(r->schedule, r->sync ? "distmm" : "tessel") != 0)
        return cli_misuse("plan", "--schedule %s: a placement is for tessel, with --sync for distmm", r->schedule);
    if (r->sync && r->in_flight)
        return cli_misuse("plan", "--in-flight: for a repetend; with --sync it is the range");
    if (r->devices && r->stages && r->devices != r->stages)
        return cli_misuse("plan", "--devices %u, --stages %u: they mean the same here", r->devices, r->stages);
    if (!r->devices)
        r->devices = r->stages;
    if (!r->devices && is_shape(r->placement))
        return cli_misuse("plan", "--placement %s: --devices is needed", r->placement);
    if (r->comm > PLAN_BLOCK_SPAN_MAX || r->forward > PLAN_BLOCK_SPAN_MAX || r->backward > PLAN_BLOCK_SPAN_MAX)
        return cli_misuse("plan", "--comm, --f, --b: expected at most %d", PLAN_BLOCK_SPAN_MAX);
    if ((r->forward || r->backward) && !is_shape(r->placement))
        return cli_misuse("plan", "--f, --b: the file has its spans");
    if (r->micro_batches && r->in_flight > r->micro_batches)
        return cli_misuse("plan", "--in-flight %u: expected at most the %u of --micro-batches", r->in_flight,
                          r->micro_batches);
    return 0;
}

int cli_plan_placement(struct cli *cli, int argc, char **argv)
{
    struct placement_request r = {0};
    const struct cli_option options[] = {
        {"placement", CLI_TEXT, &r.placement, "SHAPE|FILE",
         "vshape, xshape, mshape, nnshape, kshape, mllm, finetune, alphafold, or blocks from a file"},
        {"devices", CLI_U32, &r.devices, "D", "of a shape"},
        {"stages", CLI_U32, &r.stages, "D", "the same"},
        {"micro-batches", CLI_U32, &r.micro_batches, "M", "of a step (default: those in flight)"},
        {"in-flight", CLI_U32, &r.in_flight, "N",
         "micro-batches in a repetend (default: the fewest with the fewest bubbles)"},
        {"memory-limit", CLI_U32, &r.memory, "L", "of each device (default: none)"},
        {"comm", CLI_U32, &r.comm, "C", "steps from a device to another"},
        {"f", CLI_U32, &r.forward, "S", "span of a shape's forward blocks on one device"},
        {"b", CLI_U32, &r.backward, "S", "of its backward blocks"},
        {"sync", CLI_TEXT, &r.sync, "BLOCKS[:RANGE]",
         "blocks that run once for RANGE micro-batches (default: all), towers that meet in a loss of the batch"},
        {"svg", CLI_TEXT, &r.svg, "FILE", "a picture of it"},
        {"schedule", CLI_TEXT, &r.schedule, "NAME", "tessel, or distmm with --sync, may be said"},
    };
    const struct cli_usage usage = {
        "plan --placement SHAPE|FILE --devices D [options]",
        "Finds a schedule for blocks that are placed on devices: a group of blocks that is\n"
        "repeated with the fewest bubbles, and the shortest way into it and out of it (Tessel,\n"
        "HPCA 2024). With --sync, towers that meet: the order of batch sync (DistMM, NSDI 2024).\n"
        "A file says \"placement 1 devices D\", then for each block of a micro-batch\n"
        "\"block NAME span S memory M devices d,d,.. [after NAME,..]\".",
        options,
        sizeof options / sizeof *options,
        0,
        0,
        true};
    struct bg_strlist words = {0};
    struct bg_error err = {0};
    int code = cli_parse(cli, &usage, argc, argv, &words);
    if (code < 0) {
        code = check_request(&r);
        if (!code)
            code = cli_plan_env(cli);
        if (!code && answer(cli, &r, &err))
            code = cli_fail(&err);
    }
    bg_strlist_fini(&words);
    return code;
}
