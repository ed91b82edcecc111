// The controller: who is a member, what the plan is, and when a step counts. A state machine without I/O of its own:
// events in, effects out through `struct ctl_host`, in the order in which they must happen (a record is appended before
// any message that depends on it is sent). The clock comes with the events. The same code runs live (ctl_run) and in
// the simulator.
#ifndef CTL_CTL_H
#define CTL_CTL_H

#include "base/env.h"
#include "plan/plan.h"
#include "plan/fleet/fleet_ask.h"
#include "plan/spot/zone.h"
#include "plan/cost/profile.h"
#include "store/store.h"
#include "wire/frame.h"
#include "wire/message.h"

// With a budget the controller has no machines but those that a policy rents, tick by tick. The shadow is not one of
// them: it keeps the state while nothing is rented, and computes nothing then.
struct ctl_budget {
    const struct plan_policy *policy;
    struct plan_deadline job; // work_s: of all steps; instances: as many as workers are wanted
    enum plan_rent rent;      // what an earlier controller holds,
    uint32_t tick;            // and when it decided last
    // Where to rent what the policy decided: zones as they were up to the tick of the newest ctl_market. NULL: none.
    const struct plan_zones *zones;
    uint32_t zone; // in which that is held; 0 without zones
    // Instead of a deadline policy (fleet.policy not NULL): all spot machines there are, up to job.instances, in a
    // shape that is chosen anew at every tick. Of the question only what stays the same.
    struct plan_fleet_question fleet;
};

struct ctl_options { // what it points to must outlive the controller
    // The job.
    uint64_t steps, eval_every, checkpoint_every;
    bool evaluates; // there is validation data
    double clip;
    uint64_t job; // first 8 bytes of the signature's hash
    uint8_t signature[32];
    uint32_t micro_batches;
    uint64_t targets;     // tokens of a step: the loss is divided by them
    uint32_t param_count; // of the model
    const char *const *param_names;
    // The plan.
    uint32_t units;
    const double *costs;         // (units)
    const uint64_t *state_bytes; // (units)
    const uint32_t *replicas;    // (stages) wanted
    uint32_t stages;
    enum plan_schedule schedule;
    uint32_t chunks, slices, range, group;
    bool split;
    // How each of saving_count stages saves memory, as in plan_options. Where there are not so many: all, if one does.
    const uint8_t *saving;
    uint32_t saving_count;
    struct plan_passes passes;
    // run.plan=auto: the shape is chosen anew for as many workers as live, by what a step costs on the first of these
    // machines. NULL: replicas are what is wanted.
    const struct plan_profile *profile;
    // The machines.
    uint32_t workers; // wanted
    bool shadow, respawn;
    bool recovery_checkpoint;        // the baseline: on any death everybody goes back to the newest checkpoint
    uint64_t join_ns;                // first generation: how long to wait for all wanted workers
    uint64_t patience_ns;            // a state that waits longer says on what (event "waiting")
    uint64_t stop_after;             // 0: none
    const struct ctl_budget *budget; // NULL: the machines are ours
};

// Effects. Called from inside ctl_* functions; must not call back into the controller.
struct ctl_host {
    void *arg;
    void (*send)(void *arg, uint32_t member, const struct wire_frame *frame, const void *payload, size_t bytes);
    void (*drop)(void *arg, uint32_t member); // close the link; its frames no longer count
    bg_status (*append)(void *arg, const struct store_record *record, struct bg_error *err);
    // Starts a process that will say HELLO with this token.
    bg_status (*spawn)(void *arg, uint64_t token, enum message_role role, struct bg_error *err);
    // Relative speed of a process that was started with this token: its share of the items. NULL: all are alike.
    double (*speed)(void *arg, uint64_t token);
    // With a budget: rents a machine whose worker will say HELLO with this token (ctl_token_rent: of which kind); gives
    // one back, which ends the worker.
    bg_status (*rent)(void *arg, uint64_t token, struct bg_error *err);
    void (*give_back)(void *arg, uint64_t token);
    // What the policy decided, before anything is done about it. `now` is good during the call.
    bg_status (*decided)(void *arg, const struct plan_snapshot *now, struct plan_choice decided, struct bg_error *err);
    bg_status (*reshaped)(void *arg, const struct plan_fleet_question *now, struct plan_fleet_shape decided,
                          struct bg_error *err);
    // What happened, for events.jsonl, steps.jsonl and the screen.
    void (*committed)(void *arg, const struct message_commit *commit, uint32_t workers, uint32_t generation);
    void (*event)(void *arg, const char *event, const char *json_fields); // "\"member\": 3, ..." without braces
    void (*point)(void *arg, const char *name);                           // fault points: before-log, after-log, ...
};

struct ctl_checkpoint {
    uint64_t step;        // 0: none, the job starts from its initial weights
    const double *losses; // (step)
    const struct message_evaluation *evaluations;
    size_t evaluation_count;
    const char *directory;
};

struct ctl;
BG_MUST_USE bg_status ctl_create(const struct ctl_options *options, const struct ctl_host *host, struct bg_error *err,
                                 struct ctl **ctl);
void ctl_destroy(struct ctl *ctl);

// Before start: what the log says (store replay), then ctl_lost() of recorded members whose process is gone, and the
// newest checkpoint there is with its losses.
BG_MUST_USE bg_status ctl_restore(struct ctl *ctl, const struct store_record *record, struct bg_error *err);
BG_MUST_USE bg_status ctl_start(struct ctl *ctl, uint64_t now_ns, const struct ctl_checkpoint *newest,
                                struct bg_error *err);

// Events. A link's first frame must be HELLO; the host learns the member's id from ctl_hello's return. Its WELCOME goes
// out with the next ctl_tick, when the host knows where to send it.
uint32_t ctl_hello(struct ctl *ctl, uint64_t now_ns, const struct message_hello *hello); // 0: refused (close the link)
void ctl_frame(struct ctl *ctl, uint64_t now_ns, uint32_t member, const struct wire_frame *frame, const void *payload);
void ctl_lost(struct ctl *ctl, uint64_t now_ns, uint32_t member, const char *why);
void ctl_spawn_ended(struct ctl *ctl, uint64_t now_ns, uint64_t token, const char *why); // died before its HELLO too
void ctl_stop(struct ctl *ctl, uint64_t now_ns); // finish the step, write a checkpoint, end
void ctl_tick(struct ctl *ctl, uint64_t now_ns);
// With a budget, at the beginning of each of its ticks (of those that nobody missed): spot machines that were there to
// be had so far, (tick + 1).
void ctl_market(struct ctl *ctl, uint64_t now_ns, uint32_t tick, const uint32_t *spot);
enum plan_rent ctl_token_rent(uint64_t token); // of a token that `rent` was called with
uint32_t ctl_token_zone(uint64_t token);       // 0 without zones

// CTL_RUNS, or how it ended; *err then says why.
enum ctl_end { CTL_RUNS, CTL_FINISHED, CTL_STOPPED, CTL_FAILED };
enum ctl_end ctl_ended(const struct ctl *ctl, struct bg_error *err);

struct ctl_view {                 // for result.json, status and tests
    uint64_t committed;           // steps
    const double *losses;         // (committed)
    uint32_t generation, workers; // live computing members
    uint64_t deaths, generations, leaves_recomputed, forwards_recomputed, steps_redone, rollbacks, fenced;
    const struct message_evaluation *evaluations;
    size_t evaluation_count;
    char checkpoint[512];       // newest
    uint8_t weights_sha256[32]; // of the end
    bool hashed;
};
struct ctl_view ctl_view(const struct ctl *ctl);
// One line that says what it waits for, e.g. "generation 3, step 12: waits for the vote of member 2 (worker 1)".
void ctl_describe(const struct ctl *ctl, char *text, size_t size);

#endif
