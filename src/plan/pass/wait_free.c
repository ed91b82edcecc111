// Wait-free backpropagation: the last weight gradient of each stage in each list is marked, and whoever runs it gives a
// unit's sums out as soon as that unit is done.
#include "plan/pass/pass.h"

#include "plan/plan_int.h"

#include <string.h>

void plan_pass_wait_free(struct plan *plan, bool on)
{
    for (uint32_t w = 0; w < plan->workers; w++) {
        bool marked[PLAN_STAGES_MAX] = {false};
        for (size_t i = plan->lists[w].count; i-- > 0;) {
            struct plan_op *op = &plan->lists[w].ops[i];
            if (!plan_op_adds(op))
                continue;
            op->flags = (uint8_t)(on && !marked[op->stage] ? op->flags | PLAN_LAST : op->flags & ~PLAN_LAST);
            marked[op->stage] = true;
        }
    }
}
