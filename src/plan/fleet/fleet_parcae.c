// Parcae (NSDI'24): the look-ahead of parcae.h over what the predictor says, decided anew at every interval.
#include "plan/fleet/fleet_int.h"
#include "plan/fleet/parcae.h"
#include "plan/fleet/predictor.h"

enum { AHEAD = 12, WINDOW = 12, STEP = 3 };

static struct plan_fleet_shape decide(const struct plan_fleet_snapshot *now)
{
    const struct plan_predictor predictor = {WINDOW, 0, now->fleet->options.nodes_max, STEP};
    uint32_t forecast[AHEAD];
    plan_predict(&predictor, now->counts, now->count, AHEAD, forecast);
    return plan_parcae_choose(now->liveput, &now->left, fleet_nodes_now(now), forecast, AHEAD, NULL);
}

const struct plan_fleet_policy plan_fleet_parcae = {
    "parcae", "looks ahead over the machines that are forecast and what changes cost", PLAN_FLEET_LIVE, false, decide};
