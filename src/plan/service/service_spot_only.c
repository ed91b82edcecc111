// Spot replicas only, in SpotHedge's zones and with its spare ones: what the fallback is worth.
#include "plan/service/service_int.h"

static void decide(const struct plan_service_snapshot *now, struct plan_service_decision *decision)
{
    service_spot(now, now->target + now->extra, decision);
}

const struct plan_service_policy plan_service_spot_only = {"spot-only", "the same spot replicas without on-demand",
                                                           decide};
