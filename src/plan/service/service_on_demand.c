// What is wanted, on demand: always there, and the dearest.
#include "plan/service/service_int.h"

static void decide(const struct plan_service_snapshot *now, struct plan_service_decision *decision)
{
    for (uint32_t z = 0; z < now->zone_count; z++)
        decision->stop[z] = now->zones[z].starting + now->zones[z].ready;
    decision->on_demand = now->target;
}

const struct plan_service_policy plan_service_on_demand = {"on-demand", "on-demand replicas only", decide};
