// The live driver of a controller: one loop over an endpoint, a store and the processes that it starts. It does no I/O
// of its own beyond these, so it runs over any transport.
#ifndef CTL_RUN_H
#define CTL_RUN_H

#include "comm/comm.h"
#include "ctl/ctl.h"

struct ctl_processes { // of the host
    void *arg;
    // Starts a process that will say HELLO with this token.
    bg_status (*spawn)(void *arg, uint64_t token, enum message_role role, struct bg_error *err);
    // Calls ended(to, token, why) for each started process that has ended since the last call.
    void (*poll)(void *arg, void (*ended)(void *to, uint64_t token, const char *why), void *to);
    // A process that an earlier controller recorded: does it still live?
    bool (*lives)(void *arg, uint64_t process, uint64_t process_start);
    // As in struct ctl_host; each may be NULL.
    double (*speed)(void *arg, uint64_t token);
    bg_status (*rent)(void *arg, uint64_t token, struct bg_error *err);
    void (*give_back)(void *arg, uint64_t token);
};

struct ctl_run_options {
    const struct ctl_options *job;
    struct comm *comm;   // the controller's endpoint; the caller destroys it
    struct store *store; // open; the caller closes it
    const struct ctl_processes *processes;
    const struct ctl_checkpoint *newest; // NULL: none
    // As in struct ctl_host; each may be NULL.
    void *arg;
    void (*committed)(void *arg, const struct message_commit *commit, uint32_t workers, uint32_t generation);
    void (*event)(void *arg, const char *event, const char *json_fields);
    bg_status (*decided)(void *arg, const struct plan_snapshot *now, struct plan_choice decided, struct bg_error *err);
    bg_status (*reshaped)(void *arg, const struct plan_fleet_question *now, struct plan_fleet_shape decided,
                          struct bg_error *err);
    // With a budget: NULL, or at the beginning of a tick its number and what was there so far, as ctl_market takes it.
    const uint32_t *(*market)(void *arg, uint32_t *tick);
    // How it stands, when it has ended; the view's pointers are gone after the call.
    void (*ended)(void *arg, enum ctl_end end, const struct ctl_view *view);
};
// BG_OK: the job is finished. BG_STOPPED: asked for, with a checkpoint written. Else *err says why. Members that were
// told to leave have closed their links when it returns, or had two seconds for it.
BG_MUST_USE bg_status ctl_run(struct bg_env *env, const struct ctl_run_options *options, struct bg_error *err);

#endif
