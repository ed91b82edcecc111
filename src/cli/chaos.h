// Chaos: runs a job as a child `brigade train` and breaks its processes from outside while it runs. What is broken,
// when and how is a function of the seed, a script, or a trace of machines that come and go. Every loop is bounded.
#ifndef CLI_CHAOS_H
#define CLI_CHAOS_H

#include "base/env.h"
#include "base/str.h"
#include "os/process.h"
#include "train/job.h"

enum chaos_action { CHAOS_KILL, CHAOS_STOP, CHAOS_TERM, CHAOS_ACTIONS };
const char *chaos_action_name(enum chaos_action action);
bool chaos_action_parse(const char *text, enum chaos_action *action);

// One line of a script: what happens when.
struct chaos_fault {
    bool by_step; // else by time since the start
    uint64_t at;  // steps done, or ms
    enum chaos_action action;
    char target[32]; // worker (any), workerN, shadow, controller, all
    uint32_t ms;     // STOP: how long; 0: twice the time-out
};
struct chaos_script {
    struct chaos_fault *faults;
    size_t count;
    struct bg_str points, frames; // for BRIGADE_FAULT and BRIGADE_TAMPER
};
// Lines: "step N ACTION TARGET [MS]", "ms N ACTION TARGET [MS]", "point NAME:POINT:COUNT:ACTION", "frames TAMPER";
// # begins a comment.
BG_MUST_USE bg_status chaos_script_read(struct bg_env *env, const char *path, struct bg_error *err,
                                        struct chaos_script *script);
void chaos_script_fini(struct chaos_script *script);

// A trace of machines: lines "ms,add|remove,node".
struct chaos_event {
    uint64_t ms;
    bool add;
    uint32_t node; // index into the trace's names
};
struct chaos_trace {
    struct chaos_event *events;
    size_t count;
    struct bg_strlist nodes;
};
BG_MUST_USE bg_status chaos_trace_read(struct bg_env *env, const char *path, struct bg_error *err,
                                       struct chaos_trace *trace);
void chaos_trace_fini(struct chaos_trace *trace);

struct chaos_options {
    const struct job *job;
    const struct bg_strlist *words; // JOB key=value ..., as given to train
    uint64_t seed;
    uint32_t faults;   // random ones
    uint32_t every_ms; // between two of them, on average
    bool actions[CHAOS_ACTIONS];
    bool controller;                   // it may be hit as well
    const struct chaos_script *script; // or NULL
    const struct chaos_trace *trace;   // or NULL
    double time_scale;
    uint32_t machines;      // of a trace: at most so many alive at once
    const char *frames;     // BRIGADE_TAMPER, or NULL
    uint32_t patience_s;    // no step for so long: it hangs
    const char *executable; // this program
};

struct chaos_report {
    uint64_t injected[CHAOS_ACTIONS], on_workers, on_shadow, on_controller;
    uint64_t restarts; // of the controller
    uint64_t trace_events, trace_kills, trace_joins;
    uint64_t recoveries;
    double *recovery_ms; // (recoveries) from the signal to the next micro-batch computed; bg_free it
    double seconds;
    bool finished;  // the job came to its end
    bool survived;  // and nothing was left
    char why[1024]; // not survived: why
};
// Runs the job to its end under faults. BG_OK also where it did not survive: the report says so.
BG_MUST_USE bg_status chaos_run(struct bg_env *env, const struct chaos_options *options, struct bg_error *err,
                                struct chaos_report *report);

// Waits for a child; a stop signal to us ends it too (BG_STOPPED).
BG_MUST_USE bg_status chaos_wait(struct bg_env *env, struct os_process *process, struct bg_error *err);

#endif
