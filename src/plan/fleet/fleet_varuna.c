// Varuna ("Varuna: Scalable, Low-cost Training of Massive Deep Learning Models", EuroSys'22, section 4): the fastest
// shape of the machines there are; every change is a restart from the last checkpoint (a morph).
#include "plan/fleet/fleet_int.h"

static struct plan_fleet_shape decide(const struct plan_fleet_snapshot *now)
{
    return plan_fleet_fastest(now->fleet, fleet_nodes_now(now));
}

const struct plan_fleet_policy plan_fleet_varuna = {"varuna", "the fastest shape, by checkpoint and restart",
                                                    PLAN_FLEET_CHECKPOINT, false, decide};
