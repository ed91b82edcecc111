// A fleet policy asked about one interval, with everything it needs in one record: the controller asks, logs question
// and answer as one line, and the line gives the same answer again. The simulator logs the same lines.
#ifndef PLAN_FLEET_ASK_H
#define PLAN_FLEET_ASK_H

#include "plan/fleet/fleet.h"

struct plan_fleet_question {
    const struct plan_fleet_policy *policy;
    struct plan_fleet_transformer model;
    struct plan_fleet_options options;
    uint64_t seed;
    struct plan_fleet_left left; // what runs, less those who went
    const uint32_t *counts;      // (count): machines there at each interval so far; the last is now
    uint32_t count;
    const uint32_t *coming; // (coming_count): of the next intervals, for who may know
    uint32_t coming_count;
};

// The fleet that a question is about. plan_fleet_destroy it.
BG_MUST_USE bg_status plan_fleet_of(const struct plan_fleet_question *question, struct bg_error *err,
                                    struct plan_fleet **fleet);

// BG_INVALID where the model fits on no shape, or what is left is more than there is.
BG_MUST_USE bg_status plan_fleet_ask(const struct plan_fleet_question *question, struct bg_error *err,
                                     struct plan_fleet_shape *shape);
// One line of a log of decisions, without its newline. bg_free it.
char *plan_fleet_decision_format(const struct plan_fleet_question *question, struct plan_fleet_shape decided);
bool plan_fleet_decision_is(const char *line);
// Asks once more what such a line holds. BG_MISMATCH where the line that this makes differs in a byte.
BG_MUST_USE bg_status plan_fleet_decision_replay(const char *line, struct bg_error *err);

#endif
