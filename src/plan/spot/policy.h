// Deadline policies: what to rent for the next tick so that a job is done by its deadline at little cost. Snapshot in,
// decision out: a policy is a pure function of the snapshot, so the controller and the simulator run the same one, and
// a logged snapshot gives the logged decision again. From "Can't Be Late" (Wu et al., NSDI'24).
#ifndef PLAN_POLICY_H
#define PLAN_POLICY_H

#include "base/status.h"

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

enum plan_rent { PLAN_RENT_NONE, PLAN_RENT_SPOT, PLAN_RENT_ON_DEMAND };
#define PLAN_RENTS 3

// What is to be done. Time goes in ticks of gap_s: once a tick the job sees whether spot is there, and decides.
struct plan_deadline {
    double gap_s;
    double work_s;                       // on its instances, without overheads
    double deadline_s;                   // from the start
    double overhead_s;                   // what was just rented does no work for so long
    double price[PLAN_RENTS];            // $ an hour, an instance
    uint32_t instances;                  // a gang: it works on so many at once or not at all
    double work_most_s, overhead_most_s; // where those are estimates: what they may come to; 0: they are exact
};

struct plan_snapshot {
    struct plan_deadline job;
    uint32_t tick;        // since the start
    enum plan_rent rent;  // what the job holds now; a spot instance that was taken away is NONE
    double starting_s;    // overhead still to pay on it
    double done_s;        // work done
    uint32_t turn;        // ticks until spot for the gang next comes or goes: an oracle's, 0 where nobody knows
    const uint32_t *spot; // (tick + 1): spot instances there to be had at each tick so far; the last is now
};

struct plan_policy {
    const char *name, *about;
    enum plan_rent (*decide)(const struct plan_snapshot *now);
    bool meets_deadline; // whatever the trace, where on-demand alone would
    bool takes_most;     // also where work and overhead come to their most
    bool oracle;         // is told `turn`: for comparison, nothing real knows it
};

extern const struct plan_policy *const plan_policies[];       // ends with NULL
const struct plan_policy *plan_policy_find(const char *name); // NULL: none has that name

// One line without its newline: what the controller logs. Reading it gives the same snapshot, bit for bit, and memory
// of its own for `spot`: bg_free *spot.
char *plan_snapshot_format(const struct plan_snapshot *now); // bg_free it
BG_MUST_USE bg_status plan_snapshot_parse(const char *text, struct bg_error *err, struct plan_snapshot *now,
                                          uint32_t **spot);
const char *plan_rent_name(enum plan_rent rent); // none, spot, on-demand

// One line of a log of decisions, without its newline: who decided what on which snapshot. bg_free it.
char *plan_decision_format(const struct plan_policy *policy, const struct plan_snapshot *now, enum plan_rent decided);
// Decides once more on what such a line holds. BG_MISMATCH where the line that this makes differs in a byte.
BG_MUST_USE bg_status plan_decision_replay(const char *line, struct bg_error *err);

// BG_INVALID where a number makes no sense, or where even on-demand from the start would be late.
BG_MUST_USE bg_status plan_deadline_check(const struct plan_deadline *job, struct bg_error *err);

#endif
