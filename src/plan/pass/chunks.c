// Partition: in how many messages a unit's gradient goes, and as many reductions of each stage, spread over what comes
// behind the first.
#include "plan/pass/pass.h"

#include "plan/plan_int.h"

void plan_pass_chunks(struct plan *plan, uint32_t chunks)
{
    plan_keep_sums(plan);
    for (uint32_t s = 0; s < plan->stage_count; s++)
        plan->sums[s].chunks = chunks;
    plan_place_chunks(plan);
    plan_drop_sums(plan);
}
