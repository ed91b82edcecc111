// As many spot replicas in every zone, whatever has happened there (the static spread that SkyServe compares with).
#include "plan/service/service_int.h"

static void decide(const struct plan_service_snapshot *now, struct plan_service_decision *decision)
{
    const uint32_t wanted = now->target + now->extra;
    for (uint32_t z = 0; z < now->zone_count; z++) {
        const uint32_t share = wanted / now->zone_count + (z < wanted % now->zone_count);
        const uint32_t held = now->zones[z].starting + now->zones[z].ready;
        decision->launch[z] = share > held ? share - held : 0;
        decision->stop[z] = held > share ? held - share : 0;
    }
}

const struct plan_service_policy plan_service_even_spread = {
    "even-spread", "spot replicas evenly over all zones, come what may", decide};
