// SpotHedge (SkyServe, EuroSys'25, section 3): more spot replicas than wanted, spread over zones that have not just
// taken one away; on-demand ones for as long as spot replicas are missing. Ready ones count: what is starting serves
// nobody.
#include "plan/service/service_int.h"

static void decide(const struct plan_service_snapshot *now, struct plan_service_decision *decision)
{
    const uint32_t base = now->base < now->target ? now->base : now->target;
    const uint32_t spot = now->target + now->extra - base;
    uint32_t ready = 0;
    for (uint32_t z = 0; z < now->zone_count; z++)
        ready += now->zones[z].ready;
    service_spot(now, spot, decision);
    const uint32_t fallback = base + (spot > ready ? spot - ready : 0);
    decision->on_demand = fallback < now->target ? fallback : now->target;
}

const struct plan_service_policy plan_service_spothedge = {
    "spothedge", "spare spot replicas over zones, on-demand while they are missing", decide};
