// Bamboo ("Bamboo: Making Preemptible Instances Resilient for Affordable Training of Large DNNs", NSDI'23, section 5):
// pipelines half again as deep as memory asks for, so that a machine can hold the next stage as well and compute its
// forward in bubbles. A lost machine's stage lives on with its neighbour. Bamboo puts machines in place again when more
// than a twentieth of them work for two; up to forty machines one is more than that, and here it is done at every loss.
#include "plan/fleet/fleet_int.h"

static uint32_t depth(const struct plan_fleet *fleet)
{
    const uint32_t stages = fleet->stages_min + (fleet->stages_min + 1) / 2;
    return stages < fleet->stages_max ? stages : fleet->stages_max;
}

static struct plan_fleet_shape decide(const struct plan_fleet_snapshot *now)
{
    const uint32_t stages = depth(now->fleet), nodes = fleet_nodes_now(now);
    const uint32_t replicas = nodes / stages, most = now->fleet->options.micro_batches;
    return (struct plan_fleet_shape){replicas < most ? replicas : most, replicas ? stages : 0, 0};
}

const struct plan_fleet_policy plan_fleet_bamboo = {"bamboo", "deep pipelines that carry their neighbours' stages",
                                                    PLAN_FLEET_REDUNDANT, false, decide};
