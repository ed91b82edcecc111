// `brigade plan --placement FILE --sync BLOCKS[:RANGE]`: towers that meet in a loss of the whole batch
// (plan/schedule/distmm.h).
#include "cli/plan_placement.h"

#include "base/mem.h"

#include <stdlib.h>
#include <string.h>

struct answer {
    const struct placement_request *request;
    const struct plan_placement *placement;
    bool sync[PLAN_BLOCKS_MAX];
    uint32_t micro_batches, range;
    struct plan_batch_run run;
};

// "lf,lb:4": the range behind the last colon, if digits stand there.
static bg_status read_range(const char *text, struct bg_error *err, size_t *names, uint32_t *range)
{
    const char *colon = strrchr(text, ':');
    *names = strlen(text);
    if (!colon || !colon[1] || strspn(colon + 1, "0123456789") != strlen(colon + 1))
        return BG_OK;
    const unsigned long long value = strlen(colon + 1) > 9 ? 0 : strtoull(colon + 1, NULL, 10);
    if (value == 0)
        return bg_fail(err, BG_INVALID, "--sync %s: expected a range from 1 to 999999999", text);
    *names = (size_t)(colon - text);
    *range = (uint32_t)value;
    return BG_OK;
}

static bg_status read_sync(struct answer *a, struct bg_error *err)
{
    const struct placement_request *r = a->request;
    struct bg_strlist names = {0};
    size_t size;
    bg_status status = read_range(r->sync, err, &size, &a->range);
    if (status)
        return status;
    char *text = bg_format("%.*s", (int)size, r->sync);
    bg_strlist_split(&names, text, ',');
    for (size_t n = 0; n < names.count && !status; n++) {
        uint32_t b = 0;
        while (b < a->placement->block_count && strcmp(a->placement->blocks[b].name, names.items[n]) != 0)
            b++;
        if (b == a->placement->block_count)
            status = bg_fail(err, BG_INVALID, "--sync %s: %.100s is no block of it", r->sync, names.items[n]);
        else
            a->sync[b] = true;
    }
    bg_strlist_fini(&names);
    bg_free(text);
    a->micro_batches = r->micro_batches ? r->micro_batches : a->range;
    a->range = a->range ? a->range : a->micro_batches;
    if (!status && a->micro_batches == 0)
        status = bg_fail(err, BG_INVALID, "--sync %s: --micro-batches is needed, or a range behind a colon", r->sync);
    return status;
}

static char *op_text(const struct answer *a, const struct plan_batch_op *op)
{
    const char *name = a->placement->blocks[op->block].name;
    return a->sync[op->block] ? bg_format("%s:%u..%u", name, op->first, op->end) : bg_format("%s:%u", name, op->first);
}

static void print_json(const struct answer *a)
{
    json_t *peaks = json_array(), *lists = json_array(), *ops = json_array(), *sync = json_array();
    for (uint32_t b = 0; b < a->placement->block_count; b++)
        if (a->sync[b])
            json_array_append_new(sync, json_string(a->placement->blocks[b].name));
    for (uint32_t d = 0; d < a->placement->devices; d++) {
        json_array_append_new(peaks, json_integer(a->run.peak_memory[d]));
        json_array_append_new(lists, json_array());
    }
    for (uint32_t i = 0; i < a->run.count; i++) {
        const struct plan_batch_op *op = &a->run.ops[i];
        char *text = op_text(a, op);
        for (uint32_t d = 0; d < a->placement->devices; d++)
            if (a->placement->blocks[op->block].devices >> d & 1)
                json_array_append_new(json_array_get(lists, d), json_string(text));
        bg_free(text);
        json_array_append_new(
            ops, json_pack("{s:s, s:[I,I], s:I, s:I, s:o}", "block", a->placement->blocks[op->block].name,
                           "micro_batches", (json_int_t)op->first, (json_int_t)op->end, "start", (json_int_t)op->start,
                           "end", (json_int_t)op->stop, "devices", cli_placement_devices(a->placement, op->block)));
    }
    cli_print_json(json_pack("{s:s, s:I, s:o, s:I, s:I, s:I, s:I, s:o, s:o, s:o}", "placement", a->request->placement,
                             "devices", (json_int_t)a->placement->devices, "sync", sync, "range", (json_int_t)a->range,
                             "micro_batches", (json_int_t)a->micro_batches, "makespan", (json_int_t)a->run.makespan,
                             "lower_bound", (json_int_t)a->run.bound, "peak_activations", peaks, "lists", lists, "ops",
                             ops));
}

static void print_table(const struct answer *a)
{
    printf("range      %u micro-batches, %s\n", a->range, a->request->sync);
    printf("makespan   %llu steps for %u micro-batches", (unsigned long long)a->run.makespan, a->micro_batches);
    if (a->run.makespan == a->run.bound)
        printf(", and no order takes less\n");
    else
        printf("; no order takes less than %llu\n", (unsigned long long)a->run.bound);
    printf("peak memory");
    for (uint32_t d = 0; d < a->placement->devices; d++)
        printf(" %lld", (long long)a->run.peak_memory[d]);
    printf("\n\n");
    for (uint32_t d = 0; d < a->placement->devices; d++) {
        printf("  %3u ", d);
        for (uint32_t i = 0; i < a->run.count; i++) {
            if (!(a->placement->blocks[a->run.ops[i].block].devices >> d & 1))
                continue;
            char *text = op_text(a, &a->run.ops[i]);
            printf(" %s", text);
            bg_free(text);
        }
        printf("\n");
    }
}

bg_status cli_placement_sync(struct cli *cli, const struct placement_request *request,
                             const struct plan_placement *placement, struct bg_error *err)
{
    struct answer a = {.request = request, .placement = placement};
    bg_status status = read_sync(&a, err);
    if (!status)
        status = plan_distmm(placement, a.sync, a.micro_batches, a.range, request->memory, request->comm, err, &a.run);
    if (!status && request->svg)
        status = cli_placement_svg(cli, request, placement, &a.run, err);
    if (!status && cli->json)
        print_json(&a);
    else if (!status)
        print_table(&a);
    plan_batch_run_fini(&a.run);
    return status;
}
