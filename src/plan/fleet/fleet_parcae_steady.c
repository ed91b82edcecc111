// Ours: Parcae's look-ahead with the plainest forecast, that the machines stay as many as they are. What is left of it
// is the price of a change against what it earns until one would want to change again.
#include "plan/fleet/fleet_int.h"
#include "plan/fleet/parcae.h"

enum { AHEAD = 12 };

static struct plan_fleet_shape decide(const struct plan_fleet_snapshot *now)
{
    const uint32_t nodes = fleet_nodes_now(now);
    uint32_t forecast[AHEAD];
    for (uint32_t k = 0; k < AHEAD; k++)
        forecast[k] = nodes;
    return plan_parcae_choose(now->liveput, &now->left, nodes, forecast, AHEAD, NULL);
}

const struct plan_fleet_policy plan_fleet_parcae_steady = {
    "parcae-steady", "the look-ahead with a forecast that nothing changes", PLAN_FLEET_LIVE, false, decide};
