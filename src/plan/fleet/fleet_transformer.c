// The profile of a transformer from its shape: an embedding that takes no time, equal blocks, a head over the
// vocabulary.
#include "plan/fleet/fleet.h"

#include "base/mem.h"

#include <stdio.h>

bg_status plan_fleet_transformer(const struct plan_fleet_transformer *shape, struct bg_error *err,
                                 struct plan_profile *profile)
{
    if (!shape->layers || shape->layers > PLAN_PROFILE_UNITS_MAX - 2 || !shape->dim || !shape->tokens ||
        !(shape->flops > 0) || !(shape->link_bytes_s >= 0) || !(shape->memory_bytes >= 0))
        return bg_fail(
            err, BG_INVALID,
            "a transformer of %u layers, %u wide, %u tokens a micro-batch, at %g operations a second: expected "
            "1 to %d layers and numbers above 0",
            shape->layers, shape->dim, shape->tokens, shape->flops, PLAN_PROFILE_UNITS_MAX - 2);
    struct plan_profile p = {.unit_count = shape->layers + 2, .machine_count = 1};
    p.units = bg_alloc_array(p.unit_count, sizeof *p.units);
    p.machines = bg_alloc_array(1, sizeof *p.machines);
    const double dim = shape->dim, table = dim * shape->vocabulary, block = 12 * dim * dim + 13 * dim;
    const double activation_bytes = 2.0 * shape->tokens * dim;
    for (uint32_t u = 0; u < p.unit_count; u++) {
        const bool end = u == 0 || u + 1 == p.unit_count;
        const double parameters = end ? table : block, pass_s = u ? 2 * parameters * shape->tokens / shape->flops : 0;
        p.units[u] = (struct plan_unit){.kind = !u    ? PLAN_UNIT_EMBED
                                                : end ? PLAN_UNIT_HEAD
                                                      : PLAN_UNIT_BLOCK,
                                        .forward_s = pass_s,
                                        .input_s = pass_s,
                                        .weight_s = pass_s,
                                        .parameter_bytes = 4 * parameters,
                                        .stash_bytes = activation_bytes, // the rest is computed again
                                        .cut_bytes = activation_bytes};
    }
    snprintf(p.machines[0].name, sizeof p.machines[0].name, "machine");
    p.machines[0].speed = 1;
    p.machines[0].memory_bytes = shape->memory_bytes;
    p.outer.bytes_s = p.inner.bytes_s = shape->link_bytes_s;
    *profile = p;
    return BG_OK;
}
