// Flops over a rate that common processors reach, bytes as the executor lays them out, overheads of one machine. Every
// choice that is made by it compares plans on the same figures, so that their proportions count: those of a core with
// AVX-512, against which a kernel's time slices are what they are everywhere.
#include "train/estimate.h"

#include "base/mem.h"
#include "train/layout.h"

#include <stdio.h>

#define THREAD_FLOPS   1e11 // a second, of one thread
#define OP_S           2e-6
#define MESSAGE_S      5e-7
#define MESSAGE_BYTE_S 2e-10
#define COMMIT_S       1e-4
#define LINK_S         5e-6 // latency; bytes go through memory: what they take is the workers' own time
#define STEP_BYTE_S    6e-10
#define REDUCE_BYTE_S  1.5e-10
#define SHARING        0.95
#define PROCESS_BYTES  6e6 // of a worker with next to no model

enum plan_unit_kind estimate_kind(const struct model *model, uint32_t unit)
{
    return unit == 0 ? PLAN_UNIT_EMBED : unit + 1 == model->unit_count ? PLAN_UNIT_HEAD : PLAN_UNIT_BLOCK;
}

static void size_unit(const struct model *model, const struct layout_options *step, uint32_t u, bool split,
                      struct plan_unit *unit)
{
    const bool last = u + 1 == model->unit_count;
    struct layout_options alone = *step;
    uint64_t elements = 0;
    alone.unit_first = u;
    alone.unit_end = u + 1;
    for (uint32_t p = 0; p < model->param_count; p++)
        elements += model->params[p].unit == u ? model->params[p].count : 0;
    if (last && model->config.tie)
        elements += (uint64_t)model->config.vocab * model->config.dim;
    unit->kind = estimate_kind(model, u);
    unit->parameter_bytes = 4.0 * (double)elements;
    if (u == 0) // of a token table only the rows that occur travel
        unit->gradient_bytes = (double)layout_sparse_bytes(model, &alone) +
                               4.0 * (double)(elements - (uint64_t)model->config.vocab * model->config.dim);
    const size_t boundary = layout_boundary_bytes(model, &alone, 1);
    const size_t input = step->slices > 1 && u > 0 ? boundary : 0; // the stage's, which planners count beside its stash
    unit->stash_bytes = (double)(layout_flight_bytes(model, &alone, 1, split, NULL) - input);
    unit->cut_bytes = last ? 0 : (double)boundary;
}

void estimate_sizes(const struct model *model, const struct kern *kern, unsigned threads,
                    const struct layout_options *step, uint32_t group, bool split, struct plan_profile *profile)
{
    profile->unit_count = model->unit_count;
    profile->units = bg_alloc_array(model->unit_count, sizeof *profile->units);
    for (uint32_t u = 0; u < model->unit_count; u++)
        size_unit(model, step, u, split, &profile->units[u]);
    profile->tie_bytes = model->config.tie ? 4.0 * model->config.vocab * model->config.dim : 0;
    profile->work_bytes = ((double)layout_work_bytes(model, step, group) +
                           threads * (double)layout_scratch_bytes(model, kern, step, group)) /
                          group;
    profile->process_bytes = PROCESS_BYTES;
}

static void set_times(const struct model *model, const struct estimate_options *o, struct plan_profile *profile)
{
    double total = 0;
    for (uint32_t u = 0; u < model->unit_count; u++)
        total += o->costs[u];
    const double flops = layout_flops(model, o->batch, o->length) * (1 + ESTIMATE_OP / o->group);
    const double second = flops / (THREAD_FLOPS * o->threads) / total;
    for (uint32_t u = 0; u < model->unit_count; u++) {
        struct plan_unit *unit = &profile->units[u];
        unit->forward_s = unit->input_s = unit->weight_s = o->costs[u] * second / 3;
    }
}

void estimate_profile(const struct model *model, const struct estimate_options *o, struct plan_profile *profile)
{
    *profile = (struct plan_profile){
        .machines = bg_alloc_array(o->workers, sizeof *profile->machines),
        .machine_count = o->workers,
        .inner = {LINK_S, 0},
        .outer = {LINK_S, 0},
        .op_s = OP_S,
        .message_s = MESSAGE_S,
        .message_byte_s = MESSAGE_BYTE_S,
        .commit_s = COMMIT_S,
        .step_byte_s = STEP_BYTE_S,
        .sharing = SHARING,
        .reduce_byte_s = REDUCE_BYTE_S,
    };
    const struct layout_options step = {.unit_end = model->unit_count,
                                        .batch = o->batch,
                                        .length = o->length,
                                        .micro_batches = o->micro_batches,
                                        .slices = o->slices};
    estimate_sizes(model, o->kern, o->threads, &step, o->group, o->split, profile);
    set_times(model, o, profile);
    for (uint32_t i = 0; i < o->workers; i++) {
        struct plan_machine *machine = &profile->machines[i];
        *machine = (struct plan_machine){.speed = o->speeds ? o->speeds[i] : 1,
                                         .memory_bytes = o->memory_bytes,
                                         .cores = o->cores,
                                         .threads = o->threads};
        (void)snprintf(machine->name, sizeof machine->name, "worker%u", i);
    }
}
