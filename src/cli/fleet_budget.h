// A job's budget, live: this host plays the machines that are rented. A machine is a worker process; a trace, or one of
// each zone, says when there are spot machines, and takes them away. Real clouds would come in here, through the same
// effects of the controller: rent one, give one back.
#ifndef CLI_FLEET_BUDGET_H
#define CLI_FLEET_BUDGET_H

#include "base/json.h"
#include "cli/fleet_int.h"

// Reads the trace and checks the terms.
struct fleet_budget;
BG_MUST_USE bg_status fleet_budget_open(struct bg_env *env, const struct job *job, uint32_t machines,
                                        struct bg_error *err, struct fleet_budget **budget);
// step_s: that a step is expected to take, for work that the job does not tell. Goes on with RUN/decisions.log where
// there is one; `children`: those of an earlier controller, which tell whether what it rented is still held.
// model: the job's, with the operations a second of one worker.
BG_MUST_USE bg_status fleet_budget_start(struct fleet_budget *budget, double step_s,
                                         const struct plan_fleet_transformer *model,
                                         const struct fleet_children *children, struct bg_error *err);
void fleet_budget_close(struct fleet_budget *budget);

const struct ctl_budget *fleet_budget_terms(const struct fleet_budget *budget);
char *fleet_budget_forecast(const struct fleet_budget *budget); // a line for the screen; bg_free it

// As ctl_run_options.market; spot machines that the trace takes away are killed first.
const uint32_t *fleet_budget_market(struct fleet_budget *budget, struct fleet_children *children, uint32_t *tick);
BG_MUST_USE bg_status fleet_budget_decided(struct fleet_budget *budget, const struct plan_snapshot *now,
                                           struct plan_choice decided, struct bg_error *err);
BG_MUST_USE bg_status fleet_budget_reshaped(struct fleet_budget *budget, const struct plan_fleet_question *now,
                                            struct plan_fleet_shape decided, struct bg_error *err);
// full: by the whole gang, since the step before.
void fleet_budget_committed(struct fleet_budget *budget, uint64_t step, double seconds, bool full);
// What it has cost, and what the simulator says of it in hindsight; as in result.json.
json_t *fleet_budget_json(struct fleet_budget *budget, uint64_t steps);

#endif
