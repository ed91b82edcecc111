// Inside plan/split: what would do where no plan fits, found by choosing again for machines with more.
#ifndef PLAN_CHOOSE_INT_H
#define PLAN_CHOOSE_INT_H

#include "plan/split/choose.h"

enum { CHOOSE_LIGHTLY = 20000 }; // effort of a search that takes no time to speak of

// All machines have limits, and there are so few of them and of units that this takes no time to speak of.
bool choose_is_small(const struct plan_choose *o);
// Adds to the error of a choice that found nothing: how many more machines would do, and how much more memory.
void choose_add_ways(const struct plan_choose *o, struct bg_error *err);

#endif
