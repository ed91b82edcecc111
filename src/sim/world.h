// Inside the room: a world of virtual processes. world.c: the scheduler, births and deaths; member.c: a worker process;
// control.c: the controller process with its log; fault.c: what breaks; check.c: what must hold; scenario.c: what a
// seed stands for.
#ifndef SIM_WORLD_H
#define SIM_WORLD_H

#include "ctl/ctl.h"
#include "sim/env.h"
#include "sim/job.h"
#include "sim/net.h"
#include "sim/sim.h"
#include "train/worker.h"

enum { SIM_RANKS_MAX = 4, SIM_FAULTS_MAX = 6, SIM_PROCESSES_MAX = 256, SIM_TICKS_MAX = 8192 };

struct sim_scenario {
    uint32_t job;
    uint32_t replicas[SIM_RANKS_MAX], ranks;
    uint8_t saving[SIM_RANKS_MAX]; // as in plan_options
    enum plan_schedule schedule;
    uint32_t chunks, slices, range, group;
    bool split, recompute, offload, shadow, respawn, baseline, rents;
    uint32_t
        fleet; // at most so many machines, of a policy that changes its mind all the time; 0: the shape, or nothing
    struct plan_passes passes;
    uint64_t steps, eval_every, checkpoint_every;
    uint64_t latency_ns, turn_ns, market_ns; // market_ns: of a fleet, between two changes of mind
    uint32_t fault_count;
};

enum sim_fault_kind {
    SIM_KILL,
    SIM_KILL_CONTROLLER,
    SIM_KILL_ALL, // and a start over with what lies on the disk, perhaps with other machines
    SIM_PAUSE,    // all that compute are gone at once: with a budget, spot is
    SIM_STOP,     // asked by hand; and resumed
    SIM_JOIN,     // by hand, wanted or not
    SIM_FREEZE,
    SIM_FREEZE_CONTROLLER,
    SIM_SLOW,
    SIM_FRAME_DROP,
    SIM_FRAME_CORRUPT,
    SIM_FRAME_CUT,
    SIM_FRAME_DELAY,
    SIM_FAULT_KINDS
};
enum sim_trigger { SIM_AT_TURN, SIM_AT_POINT, SIM_AT_NAME, SIM_AT_FRAME, SIM_TRIGGERS };
struct sim_fault {
    enum sim_fault_kind kind;
    enum sim_trigger trigger;
    const char *point;  // of SIM_AT_NAME
    bool after_last;    // counts from the fault before it, not from a step
    uint64_t step;      // counts once so many steps are committed
    uint32_t countdown; // turns, points or frames
    bool done;
};

struct sim_process {
    struct sim_world *world;
    uint32_t pid, parent;
    bool dying, frozen, struck, told; // told: the frozen one's silence was noticed
    uint64_t ready_ns, wake_ns, frozen_ns, thaw_ns;
    uint32_t slow;
    struct sim_env env;
    struct comm *comm;
    char last_point[48];
    // A worker.
    struct worker *worker;
    struct worker_job job;
    uint64_t token;
    enum message_role role;
    bool hello; // the controller has heard of it
    // What the checkers saw of it.
    uint32_t member, generation;
    uint64_t version;
    bool new_generation;    // a GENERATION was handed to it in this turn
    uint32_t reported;      // generation of its newest REPORT
    uint32_t planned;       // of the newest GENERATION that was sent to it
    uint64_t stale_frames;  // handed to it after that, of older generations
    uint64_t leaves, voted; // voted: for the steps before
    uint64_t leaves_before; // of the open step
    uint64_t verified;      // bits of parameters: held and equal to the reference, at `version`
};

struct sim_checkpoint {
    uint64_t step;
    struct optim_state state; // full sets
    double losses[SIM_STEPS_MAX];
    struct message_evaluation evaluations[SIM_STEPS_MAX + 1];
    size_t evaluation_count;
};

struct sim_control_link {
    uint32_t link, member;
};
struct sim_ended { // a spawned process whose end is still to be told
    uint64_t at_ns, token;
};
struct sim_control_plane {       // the controller's process, and what outlives it
    struct sim_process *process; // NULL: dead
    struct ctl *ctl;
    uint64_t restart_ns; // of a dead one
    struct sim_control_link links[SIM_PROCESSES_MAX];
    size_t link_count;
    uint32_t hello_link; // of the HELLO that is being looked at
    struct sim_ended ended[SIM_PROCESSES_MAX];
    size_t ended_count;
    struct store_record *log;
    size_t log_count, log_capacity;
    double *costs; // what its options point to
    uint64_t *bytes;
    const char **names;
    bool stop; // asked for, to be told
    bool finished;
    uint32_t starts;
};

struct sim_birth {
    uint64_t at_ns, token;
    enum message_role role;
    uint32_t parent;
};

struct sim_market { // of a job with a budget
    struct ctl_budget budget;
    struct sim_random random;
    uint32_t spot[SIM_TICKS_MAX], ticks, told; // told to the controller that is there
    uint64_t next_ns;                          // tick
    uint64_t back_ns;                          // spot is, 0: it is there
    enum plan_rent rent;                       // decided last,
    uint32_t decided_tick;                     // and when
};

struct sim_votes {       // of the generation that was sent last
    uint32_t controller; // its pid
    uint32_t generation, member_count, members[SIM_PROCESSES_MAX];
    uint64_t step;
    bool voted[SIM_PROCESSES_MAX];
};

struct sim_world {
    const struct sim_options *o;
    struct sim_result *result;
    const struct sim_job *job;
    struct sim_scenario scenario;
    uint64_t now_ns;
    struct sim_random choices, faults_random;
    struct sim_net *net;
    unsigned isa;
    struct sim_process *processes[SIM_PROCESSES_MAX];
    size_t process_count;
    struct sim_process *current;
    uint32_t pids;
    struct sim_birth births[SIM_PROCESSES_MAX];
    size_t birth_count;
    uint64_t stall_ns; // since when nobody who computes is there
    struct sim_control_plane control;
    struct sim_market market;
    struct sim_checkpoint *disk[SIM_STEPS_MAX + 1]; // by step
    struct sim_fault faults[SIM_FAULTS_MAX];
    uint32_t faults_done;
    bool corrupted; // a frame was damaged on purpose
    bool slowed;    // somebody was held up on purpose: others may wait for long
    // The checkers' books.
    uint64_t committed, generation; // by the log
    uint64_t leaves;                // computed by anybody
    struct sim_votes votes;
    uint64_t redone, generations; // steps that the log went back or lost; ever begun
    bool asked_to_stop;
    uint64_t leaves_lost; // of the open step, with those who were struck
    uint64_t finished_ns;
    bool failed;
};

// world.c
void sim_note(struct sim_world *w, const struct sim_process *p, const char *format, ...) BG_PRINTF(3, 4);
void sim_mix(struct sim_world *w, uint64_t a, uint64_t b, uint64_t c);       // into the trace
void sim_fail(struct sim_world *w, const char *format, ...) BG_PRINTF(2, 3); // the first one counts
struct sim_process *sim_process_create(struct sim_world *w, const char *address);
void sim_kill(struct sim_world *w, struct sim_process *p, const char *why);
void sim_process_end(struct sim_world *w, struct sim_process *p, const char *why);
void sim_birth(struct sim_world *w, const struct sim_birth *birth);
void sim_world_run(struct sim_world *w);

// member.c
void sim_member_create(struct sim_world *w, const struct sim_birth *birth);
void sim_member_turn(struct sim_process *p);
void sim_member_end(struct sim_process *p);

// control.c
void sim_control_start(struct sim_world *w);
void sim_control_turn(struct sim_world *w);
void sim_control_end(struct sim_world *w);
void sim_control_forget(struct sim_world *w, uint32_t records); // power was lost: the end of the log is gone
void sim_control_child_ended(struct sim_world *w, uint32_t parent, uint64_t token);
uint64_t sim_control_wake(const struct sim_world *w); // next time it has something to do besides frames
void sim_control_fini(struct sim_world *w);

// market.c
const struct ctl_budget *sim_market_budget(struct sim_world *w, uint32_t machines); // of a controller that starts
uint64_t sim_market_wake(const struct sim_world *w);
void sim_market_turn(struct sim_world *w);  // of the market
void sim_market_tell(struct sim_world *w);  // in the controller's turn
void sim_market_pause(struct sim_world *w); // a fault
bg_status sim_market_rent(void *arg, uint64_t token, struct bg_error *err);
void sim_market_give_back(void *arg, uint64_t token);
bg_status sim_market_decided(void *arg, const struct plan_snapshot *now, struct plan_choice decided,
                             struct bg_error *err);
bg_status sim_market_reshaped(void *arg, const struct plan_fleet_question *now, struct plan_fleet_shape decided,
                              struct bg_error *err);

// fault.c
void sim_faults_plan(struct sim_world *w);
void sim_fault_turn(struct sim_world *w);
void sim_fault_point(struct sim_process *p, const char *name);
enum sim_fate sim_fault_frame(void *arg, const struct sim_delivery *d, uint64_t *delay_ns);

// check.c
bool sim_left_behind(const struct sim_process *p);
void sim_check_turn(struct sim_process *p);
void sim_check_replay(struct sim_world *w, const struct store_record *record);
void sim_check_record(struct sim_world *w, const struct store_record *record);
void sim_check_sent(struct sim_world *w, const struct sim_delivery *d);
void sim_check_delivered(void *arg, const struct sim_delivery *d, struct wire_frame *frame);
void sim_check_changed(void *arg, const struct sim_delivery *d, const char *when);
void sim_check_stopped(struct sim_world *w, enum ctl_end end);
void sim_check_ended(struct sim_world *w, const struct ctl_view *view);
void sim_check_process_end(struct sim_process *p);
void sim_check_world_end(struct sim_world *w);

// scenario.c
void sim_scenario_reshape(struct sim_random *random, struct sim_scenario *scenario); // other machines, the same job
void sim_scenario_matrix(uint32_t variant, struct sim_scenario *scenario, char *text, size_t size);
void sim_scenario_make(uint64_t seed, struct sim_scenario *scenario, char *text, size_t size);

#endif
