// Substitution: who folds the sums of a stage. In turns, all replicas fold some messages each; or one folds all.
#include "plan/pass/pass.h"

#include "plan/plan_int.h"

void plan_pass_owner(struct plan *plan, uint32_t owner)
{
    plan_keep_sums(plan);
    for (uint32_t s = 0; s < plan->stage_count; s++) {
        uint32_t replicas = 0;
        for (uint32_t k = 0; k < plan->seat_count; k++)
            replicas += plan->seats[k].stage == s;
        plan->sums[s].owner = replicas < 2 ? 0 : owner < replicas ? owner : replicas; // alone, it folds anyway
    }
    plan_drop_sums(plan);
}
