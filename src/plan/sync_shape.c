// What run.plan=auto makes of the workers there are: how many pipeline ranks, and how many workers at each.
#include "plan/sync.h"

#include "base/mem.h"

#include <math.h>

// As good as can be with so many ranks.
static bool solve(const struct plan_profile *profile, const struct plan_sync_options *options, const double *costs,
                  uint32_t stages, struct bg_error *err, struct plan_sync_shape *shape, uint32_t *rank_of)
{
    struct plan_stage cut[PLAN_STAGES_MAX];
    struct plan_sync_options fixed = *options;
    struct plan_sync sync;
    fixed.cut = cut;
    fixed.stages_min = 0;
    fixed.stages_max = stages;
    fixed.use_all = true;
    if (plan_cut(costs, profile->unit_count, stages, err, cut) || plan_sync_solve(profile, &fixed, err, &sync))
        return false;
    const struct plan_sync_choice *best = &sync.choices[0];
    *shape = (struct plan_sync_shape){.stages = stages, .step_s = best->step_s};
    for (uint32_t s = 0; s < stages; s++) {
        shape->replicas[s] = best->stages[s].seat_end - best->stages[s].seat_first;
        for (uint32_t i = best->stages[s].seat_first; i < best->stages[s].seat_end; i++)
            rank_of[best->seats[i].machine] = s;
    }
    plan_sync_fini(&sync);
    return true;
}

bg_status plan_sync_shape(const struct plan_profile *profile, const struct plan_sync_options *options,
                          const double *costs, uint32_t chunks, struct bg_error *err, struct plan_sync_shape *out,
                          uint32_t *rank_of)
{
    const uint32_t units = profile->unit_count, machines = profile->machine_count;
    struct plan_sync_shape best = {.step_s = INFINITY}, shape;
    struct bg_error why;
    double *own = bg_alloc_array(units + 1u, sizeof *own);
    uint32_t *ranks = bg_alloc_array(machines + 1u, sizeof *ranks);
    for (uint32_t u = 0; u < units; u++)
        own[u] =
            costs ? costs[u] : profile->units[u].forward_s + profile->units[u].input_s + profile->units[u].weight_s;
    uint32_t most = chunks ? units / chunks : 0;
    most = most < machines ? most : machines;
    most = most < PLAN_STAGES_MAX ? most : PLAN_STAGES_MAX;
    (void)bg_fail(&why, BG_INVALID, "%u units on %u machines, %u stages each: there is no such pipeline", units,
                  machines, chunks);
    for (uint32_t s = 1; s <= most; s++) {
        if (!solve(profile, options, own, s, &why, &shape, ranks) || shape.step_s >= 0.99 * best.step_s)
            continue;
        best = shape;
        for (uint32_t i = 0; i < machines && rank_of; i++)
            rank_of[i] = ranks[i];
    }
    bg_free(own);
    bg_free(ranks);
    if (!best.stages)
        return bg_fail(err, BG_INVALID, "%s", why.text);
    *out = best;
    return BG_OK;
}
