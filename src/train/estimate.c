// Flops over a rate that common processors reach, bytes of layouts, and overheads of one machine. Every choice that is
// made by it compares plans on the same figures, so that their proportions count: those of a core with AVX-512, against
// which a kernel's time slices are what they are everywhere.
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

static void set_units(const struct model *model, const struct estimate_options *o, struct plan_profile *profile)
{
    double total = 0;
    for (uint32_t u = 0; u < model->unit_count; u++)
        total += o->costs[u];
    const double flops = layout_flops(model, o->batch, o->length) * (1 + ESTIMATE_OP / o->group);
    const double second = flops / (THREAD_FLOPS * o->threads) / total;
    for (uint32_t u = 0; u < model->unit_count; u++) {
        const struct layout_options stage = {
            .unit_first = u, .unit_end = u + 1, .batch = o->batch, .length = o->length, .micro_batches = 1};
        struct plan_unit *unit = &profile->units[u];
        size_t at[4];
        unit->kind = u == 0 ? PLAN_UNIT_EMBED : u + 1 == model->unit_count ? PLAN_UNIT_HEAD : PLAN_UNIT_BLOCK;
        unit->forward_s = unit->input_s = unit->weight_s = o->costs[u] * second / 3;
        unit->stash_bytes = (double)layout_flight_bytes(model, &stage, 1, o->split, at);
        if (u + 1 < model->unit_count)
            unit->cut_bytes = (double)layout_boundary_bytes(model, &stage, 1);
    }
    for (uint32_t p = 0; p < model->param_count; p++)
        profile->units[model->params[p].unit].parameter_bytes += 4.0 * (double)model->params[p].count;
    // Of a token table only the rows that occur travel.
    profile->units[0].gradient_bytes = 4.0 * o->batch * o->length * model->config.dim;
    if (model->config.tie)
        profile->tie_bytes = 4.0 * model->config.vocab * model->config.dim;
}

void estimate_profile(const struct model *model, const struct estimate_options *o, struct plan_profile *profile)
{
    *profile = (struct plan_profile){
        .units = bg_alloc_array(model->unit_count, sizeof *profile->units),
        .unit_count = model->unit_count,
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
    set_units(model, o, profile);
    for (uint32_t i = 0; i < o->workers; i++) {
        struct plan_machine *machine = &profile->machines[i];
        *machine = (struct plan_machine){.speed = o->speeds ? o->speeds[i] : 1,
                                         .memory_bytes = o->memory_bytes,
                                         .cores = o->cores,
                                         .threads = o->threads};
        (void)snprintf(machine->name, sizeof machine->name, "worker%u", i);
    }
}
