// The registry of service policies and SpotHedge's choice of zones.
#include "plan/service/service_int.h"

#include <math.h>
#include <string.h>

#define ENTRY(name) &plan_service_##name,
const struct plan_service_policy *const plan_service_policies[] = {PLAN_SERVICE_POLICIES(ENTRY) NULL};
#undef ENTRY

const struct plan_service_policy *plan_service_policy_find(const char *name)
{
    for (size_t i = 0; plan_service_policies[i]; i++)
        if (strcmp(plan_service_policies[i]->name, name) == 0)
            return plan_service_policies[i];
    return NULL;
}

void plan_service_zone_lost(struct plan_service_snapshot *now, uint32_t zone)
{
    uint32_t good = 0;
    now->zones[zone].preempted = true;
    for (uint32_t z = 0; z < now->zone_count; z++)
        good += !now->zones[z].preempted;
    for (uint32_t z = 0; good < 2 && z < now->zone_count; z++)
        now->zones[z].preempted = false;
}

void plan_service_zone_ready(struct plan_service_snapshot *now, uint32_t zone)
{
    now->zones[zone].preempted = false;
}

// The cheapest good zone with the fewest replicas: one without any before one with, as SkyServe says of itself.
static uint32_t next_zone(const struct plan_service_snapshot *now, const uint32_t *held)
{
    uint32_t best = now->zone_count;
    for (uint32_t z = 0; z < now->zone_count; z++) {
        if (now->zones[z].preempted)
            continue;
        if (best == now->zone_count || held[z] < held[best] ||
            (held[z] == held[best] && now->zones[z].price < now->zones[best].price))
            best = z;
    }
    return best;
}

void service_spot(const struct plan_service_snapshot *now, uint32_t wanted, struct plan_service_decision *decision)
{
    uint32_t held[PLAN_SERVICE_ZONES_MAX], all = 0;
    for (uint32_t z = 0; z < now->zone_count; z++) {
        held[z] = now->zones[z].starting + now->zones[z].ready;
        all += held[z];
    }
    for (uint32_t z; all < wanted && (z = next_zone(now, held)) < now->zone_count; all++) {
        held[z]++;
        decision->launch[z]++;
    }
    for (; all > wanted; all--) { // where there are most, so that the rest stays spread; of those the dearest
        uint32_t most = 0;
        for (uint32_t z = 1; z < now->zone_count; z++)
            if (held[z] > held[most] || (held[z] == held[most] && now->zones[z].price > now->zones[most].price))
                most = z;
        held[most]--;
        decision->stop[most]++;
    }
}
