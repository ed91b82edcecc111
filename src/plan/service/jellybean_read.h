// A workflow from JSON, with the names that it gives to things (docs/policies.md says what is in it). Nothing in it is
// believed: every type, range and name is checked.
#ifndef PLAN_JELLYBEAN_READ_H
#define PLAN_JELLYBEAN_READ_H

#include "plan/service/jellybean.h"

#include <stddef.h>

struct plan_jellybean_names {
    const char *tiers[PLAN_JELLYBEAN_TIERS_MAX];
    uint32_t tier_count;
    const char *kinds[PLAN_JELLYBEAN_KINDS_MAX], *operators[PLAN_JELLYBEAN_OPERATORS_MAX];
    const char *models[PLAN_JELLYBEAN_OPERATORS_MAX][PLAN_JELLYBEAN_MODELS_MAX];
};
struct plan_jellybean_file {
    struct plan_jellybean workflow; // checked
    struct plan_jellybean_names names;
    void *text; // what the names belong to
};

// `name` stands in errors.
BG_MUST_USE bg_status plan_jellybean_read(const char *name, const void *text, size_t size, struct bg_error *err,
                                          struct plan_jellybean_file **file);
void plan_jellybean_file_destroy(struct plan_jellybean_file *file);

#endif
