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

#define PLAN_ZONES_MAX 16
#define PLAN_NOWHERE   UINT32_MAX

struct plan_zone { // at a tick
    const char *name;
    uint32_t spot; // instances there to be had
    double price[PLAN_RENTS];
};

struct plan_snapshot {
    struct plan_deadline job;
    uint32_t tick;        // since the start
    enum plan_rent rent;  // what the job holds now; a spot instance that was taken away is NONE
    double starting_s;    // overhead still to pay on it
    double done_s;        // work done
    uint32_t turn;        // ticks until spot for the gang next comes or goes: an oracle's, 0 where nobody knows
    const uint32_t *spot; // (tick + 1): spot instances there to be had at each tick so far; the last is now
    // Where there are zones (plan/spot/zone.h): `spot` is the most that one of them had, at each tick; job.price is
    // that of where instances would be rented now.
    uint32_t zone_count, zone;     // zone: where `rent` is held, PLAN_NOWHERE where that is nothing
    const struct plan_zone *zones; // (zone_count), now
};

struct plan_choice {
    enum plan_rent rent;
    uint32_t zone; // PLAN_NOWHERE: of nothing, or there are no zones
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

// What to rent, and where there are zones in which.
struct plan_choice plan_decide(const struct plan_policy *policy, const struct plan_snapshot *now);

// One line without its newline: what the controller logs. Reading it gives the same snapshot, bit for bit, in memory of
// its own: bg_free *memory.
char *plan_snapshot_format(const struct plan_snapshot *now); // bg_free it
BG_MUST_USE bg_status plan_snapshot_parse(const char *text, struct bg_error *err, struct plan_snapshot *now,
                                          void **memory);
const char *plan_rent_name(enum plan_rent rent); // none, spot, on-demand

// One line of a log of decisions, without its newline: who decided what on which snapshot. bg_free it.
char *plan_decision_format(const struct plan_policy *policy, const struct plan_snapshot *now,
                           struct plan_choice decided);
// Reads such a line; decides nothing. bg_free *memory.
BG_MUST_USE bg_status plan_decision_parse(const char *line, struct bg_error *err, const struct plan_policy **policy,
                                          struct plan_snapshot *now, struct plan_choice *decided, void **memory);
// Decides once more on what such a line holds. BG_MISMATCH where the line that this makes differs in a byte.
BG_MUST_USE bg_status plan_decision_replay(const char *line, struct bg_error *err);

// BG_INVALID where a number makes no sense, or where even on-demand from the start would be late.
BG_MUST_USE bg_status plan_deadline_check(const struct plan_deadline *job, struct bg_error *err);

#endif
