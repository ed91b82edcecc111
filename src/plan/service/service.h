// A service of replicas on spot machines of several zones and on on-demand ones: the policies that say what to rent,
// and the simulator that runs one over requests and zones as they were. Snapshot in, decision out: pure. From SkyServe
// (EuroSys'25): SpotHedge and what it is compared with.
#ifndef PLAN_SERVICE_H
#define PLAN_SERVICE_H

#include "plan/service/autoscale.h"
#include "plan/spot/trace.h"

#define PLAN_SERVICE_ZONES_MAX    64
#define PLAN_SERVICE_REPLICAS_MAX 1024

struct plan_service_zone {
    double price;             // $ an hour of a spot replica
    bool preempted;           // the last news from it was a loss or a launch that failed
    uint32_t starting, ready; // spot replicas
};
struct plan_service_snapshot {
    uint32_t target; // replicas wanted
    uint32_t base;   // of them always on demand
    uint32_t extra;  // spot replicas beyond the target
    uint32_t zone_count;
    struct plan_service_zone zones[PLAN_SERVICE_ZONES_MAX];
    uint32_t on_demand_starting, on_demand_ready;
};
struct plan_service_decision {
    uint32_t launch[PLAN_SERVICE_ZONES_MAX], stop[PLAN_SERVICE_ZONES_MAX]; // spot replicas; those that start stop first
    uint32_t on_demand;                                                    // wanted, starting ones included
};

struct plan_service_policy {
    const char *name, *about;
    void (*decide)(const struct plan_service_snapshot *now, struct plan_service_decision *decision); // zeroed
};
extern const struct plan_service_policy *const plan_service_policies[]; // ends with NULL
const struct plan_service_policy *plan_service_policy_find(const char *name);

// One line of a log of decisions, without its newline: who decided what on which snapshot. bg_free it.
char *plan_service_decision_format(const struct plan_service_policy *policy, const struct plan_service_snapshot *now,
                                   const struct plan_service_decision *decided);
bool plan_service_decision_is(const char *line);
// Decides once more on what such a line holds. BG_MISMATCH where the line that this makes differs in a byte.
BG_MUST_USE bg_status plan_service_decision_replay(const char *line, struct bg_error *err);

// News of a zone, for whoever keeps the snapshot. With fewer than two zones left that are not preempted all count as
// good again.
void plan_service_zone_lost(struct plan_service_snapshot *now, uint32_t zone);
void plan_service_zone_ready(struct plan_service_snapshot *now, uint32_t zone);

// ---- The simulator ----

// A replica computes the prompts of what it takes in one after the other, and meanwhile nothing else; then all its
// requests get a token a step.
struct plan_service_model {
    uint32_t slots;         // requests at a time
    double prompt_rate;     // tokens a second
    double step_s, extra_s; // a step, and what it takes longer for each request
    double start_s;         // from the launch until it is ready
};
struct plan_service_job {
    struct plan_service_model model;
    struct plan_autoscale scale;
    uint32_t base, extra;
    double on_demand_price;
    double timeout_s; // a request that has waited so long is given up
    const struct plan_trace *requests;
    double speed;                   // of the requests: 2 is twice as fast
    double seconds;                 // in all; the requests begin again when they are through
    const struct plan_trace *zones; // (zone_count) counts
    double price[PLAN_SERVICE_ZONES_MAX];
    uint32_t zone_count, zone_size; // spot replicas a zone has room for by each machine of its count
    double zones_from_s;            // where in the zones' traces to begin
};
BG_MUST_USE bg_status plan_service_check(const struct plan_service_job *job, struct bg_error *err);

struct plan_service_moment {          // at a decision, for a picture
    uint32_t target, spot, on_demand; // ready ones
};
struct plan_service_result {
    double seconds, spot_cost, on_demand_cost;
    double availability;                          // share of the time with as many replicas ready as wanted
    double some;                                  // with any ready at all
    uint64_t requests, served, failed, restarted; // restarted: their replica was taken away
    double latency_s[3], first_token_s[3];        // p50, p90, p99 of those served
    uint32_t preemptions, failed_launches, on_demand_launches, spot_launches;
    double target_mean, spot_mean, on_demand_mean;
    struct plan_service_moment *moments; // (moment_count)
    uint32_t moment_count;
};
// log: NULL, or gets a line for every decision.
void plan_service_run(const struct plan_service_job *job, const struct plan_service_policy *policy, struct bg_str *log,
                      struct plan_service_result *result);
void plan_service_result_fini(struct plan_service_result *result);

#endif
