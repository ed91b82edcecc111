// Poseidon's hybrid communication: workers send the factors of a weight gradient, its layer's inputs and the gradients
// of its outputs, where they are fewer bytes than the gradient, and each sums the outer products of all.
//
// No plan does it. Whoever sums outer products row by row over all workers adds in another order than the canonical
// tree over micro-batches. The form that keeps the tree makes the weight gradient of every micro-batch by itself, from
// the factors that came, with the very kernels of its B or W, and then folds along the tree: each replica then computes
// what all of them together computed before. What both would cost is told here, so that a person sees why it is not
// done: language models have thousands of rows a micro-batch, and factors are the larger form to begin with.
#include "plan/pass/pass.h"

#include "base/mem.h"
#include "plan/cost/timeline_int.h"

#include <math.h>

// Micro-batches of a stage that a worker computes.
static uint32_t leaves_of(const struct plan *plan, uint32_t stage, uint32_t worker)
{
    uint32_t leaves = 0;
    for (uint32_t i = 0; i < plan->item_count; i++)
        if (plan->route[plan_cell(plan, stage, i)] == worker)
            leaves += plan_item_leaves(plan, i);
    return leaves;
}

struct plan_factors plan_pass_factors(const struct plan *plan, const struct plan_profile *profile, double rows)
{
    struct plan_factors found = {0};
    struct plan_factors *workers = bg_alloc_array(plan->workers, sizeof *workers);
    for (uint32_t s = 0; s < plan->stage_count; s++) {
        uint32_t replicas = 0;
        for (uint32_t k = 0; k < plan->seat_count; k++)
            replicas += plan->seats[k].stage == s;
        for (uint32_t u = plan->stages[s].unit_first; u < plan->stages[s].unit_end && replicas > 1; u++) {
            const double bytes = plan_gradient_bytes(&profile->units[u]), elements = bytes / sizeof(float);
            const double row = 2 * sqrt(elements) * sizeof(float); // of factors
            // The others' parts of what it folds and its own parts to others; the same again of roots.
            const double full = 4 * (replicas - 1.0) / replicas * bytes;
            bool pays = true; // for every replica, as they would all have to do it
            for (uint32_t k = 0; k < plan->seat_count; k++) {
                const uint32_t mine = leaves_of(plan, s, plan->seats[k].worker);
                const double sent = (replicas - 1.0) * mine, received = plan->micro_batches - mine;
                if (plan->seats[k].stage == s && (sent + received) * rows * row >= full)
                    pays = false;
            }
            found.units += pays;
            for (uint32_t k = 0; k < plan->seat_count; k++) {
                struct plan_factors *worker = &workers[plan->seats[k].worker];
                const uint32_t mine = leaves_of(plan, s, plan->seats[k].worker);
                if (plan->seats[k].stage != s)
                    continue;
                const double all = (replicas - 1.0) * mine + plan->micro_batches - mine;
                worker->full += full;
                worker->factors += pays ? all * rows * row : full;
                worker->weight_s += pays ? (plan->micro_batches - mine) * profile->units[u].weight_s /
                                               profile->machines[plan->seats[k].worker].speed
                                         : 0;
            }
        }
    }
    for (uint32_t w = 0; w < plan->workers; w++) {
        found.full = workers[w].full > found.full ? workers[w].full : found.full;
        found.factors = workers[w].factors > found.factors ? workers[w].factors : found.factors;
        found.weight_s = workers[w].weight_s > found.weight_s ? workers[w].weight_s : found.weight_s;
    }
    bg_free(workers);
    return found;
}
