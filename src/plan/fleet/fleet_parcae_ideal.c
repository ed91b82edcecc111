// Parcae with a predictor that is always right (NSDI'24, "Parcae (Ideal)"): what prediction is worth.
#include "plan/fleet/fleet_int.h"
#include "plan/fleet/parcae.h"

enum { AHEAD = 12 };

static struct plan_fleet_shape decide(const struct plan_fleet_snapshot *now)
{
    const uint32_t ahead = now->coming_count < AHEAD ? now->coming_count : AHEAD;
    return plan_parcae_choose(now->liveput, &now->left, fleet_nodes_now(now), now->coming, ahead, NULL);
}

const struct plan_fleet_policy plan_fleet_parcae_ideal = {"parcae-ideal", "the same with the trace known",
                                                          PLAN_FLEET_LIVE, true, decide};
