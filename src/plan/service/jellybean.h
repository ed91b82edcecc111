// Where the models of an inference workflow run, as in JellyBean (Wu et al., "Serving and Optimizing Machine Learning
// Workflows on Heterogeneous Infrastructures", VLDB 2023, section 4): for every operator one of its models and the
// machines it runs on, at the least cost of machines and traffic at which the workflow keeps up with its source and is
// accurate enough. An operator runs on one kind of machines, or on some of a kind that is scarce, which are then kept
// busy, and the rest on another. Exact over those: the search leaves out only what cannot be better. What the paper has
// and this has not: accuracies measured for every combination of models (here they multiply).
#ifndef PLAN_JELLYBEAN_H
#define PLAN_JELLYBEAN_H

#include "base/status.h"

#include <stdbool.h>
#include <stdint.h>

#define PLAN_JELLYBEAN_TIERS_MAX     8
#define PLAN_JELLYBEAN_KINDS_MAX     16
#define PLAN_JELLYBEAN_OPERATORS_MAX 32
#define PLAN_JELLYBEAN_MODELS_MAX    16
#define PLAN_JELLYBEAN_SOURCE        UINT32_MAX // as an input

struct plan_jellybean_kind {
    uint32_t tier, count; // count: machines there are; 0: as many as one likes
    double dollars_hour;
};
// Between two tiers, one way; within a tier nothing costs. Of what goes from one operator to the next as much as can
// stays on its tier; what is left goes from the parts to the parts in their order.
struct plan_jellybean_link {
    bool there;
    double dollars_gb, gb_s; // gb_s 0: no limit
};
struct plan_jellybean_model {
    double accuracy;                       // 0 to 1
    double rate[PLAN_JELLYBEAN_KINDS_MAX]; // items a second of one machine; 0: cannot run there
};
struct plan_jellybean_operator {
    uint32_t inputs[PLAN_JELLYBEAN_OPERATORS_MAX], input_count; // earlier operators, or the source
    double per_input, bytes;                                    // items that come out for one that goes in; of one
    struct plan_jellybean_model models[PLAN_JELLYBEAN_MODELS_MAX];
    uint32_t model_count;
};
struct plan_jellybean {
    double rate, accuracy; // items a second of the source; what the product must reach
    uint32_t source_tier;
    double source_bytes; // of an item
    struct plan_jellybean_kind kinds[PLAN_JELLYBEAN_KINDS_MAX];
    struct plan_jellybean_link links[PLAN_JELLYBEAN_TIERS_MAX][PLAN_JELLYBEAN_TIERS_MAX]; // [from][to]
    struct plan_jellybean_operator operators[PLAN_JELLYBEAN_OPERATORS_MAX];
    uint32_t kind_count, operator_count;
};

#define PLAN_JELLYBEAN_SCARCE 16 // a kind of at most so many machines may be one of two for an operator
struct plan_jellybean_part {
    uint32_t kind, machines;
    double share; // of the operator's items
};
struct plan_jellybean_choice {
    uint32_t model, part_count; // 1 or 2
    struct plan_jellybean_part parts[2];
};
struct plan_jellybean_placement {
    bool found;  // there is one
    bool proven; // none is better; false where the search was given up after PLAN_JELLYBEAN_STEPS
    double machine_dollars_hour, traffic_dollars_hour, accuracy;
    struct plan_jellybean_choice choices[PLAN_JELLYBEAN_OPERATORS_MAX];
};
#define PLAN_JELLYBEAN_STEPS 20000000

BG_MUST_USE bg_status plan_jellybean_check(const struct plan_jellybean *workflow, struct bg_error *err);
// rates: (operators) items a second that go into each.
void plan_jellybean_rates(const struct plan_jellybean *workflow, double *rates);
void plan_jellybean_place(const struct plan_jellybean *workflow, struct plan_jellybean_placement *placement);

#endif
