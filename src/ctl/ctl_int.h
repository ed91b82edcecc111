// Inside the room. The states of the machine:
//
//   GATHER: waits for members -> PREPARE: a generation was begun, waits for reports -> RUN: a step is open
//     ^                             |  ^                                                |  commit -> boundary
//     +------ nobody is left -------+  +---- loss, trouble, somebody waits to join -----+  -> LEAVE at the end -> OVER
//
// members.c: who lives; generation.c: PREPARE, REPORT, GENERATION; draft.c: what a generation will be (seats, follows,
// moves, plans); commit.c: losses, votes, the verdict; task.c: evaluations, checkpoints, the end; say.c: events.
#ifndef CTL_CTL_INT_H
#define CTL_CTL_INT_H

#include "ctl/ctl.h"

#include <jansson.h>

#define CTL_NO_RANK UINT32_MAX

enum ctl_phase { CTL_FRESH, CTL_GATHER, CTL_PREPARE, CTL_RUN, CTL_OVER };

enum ctl_presence {
    CTL_AWAITED, // of an earlier controller's log, or its link is down: may come back
    CTL_HELLOED, // not welcomed yet
    CTL_LIVE,
};
struct ctl_member { // in the order in which they were started; a lost one is no longer here
    uint32_t id;
    enum message_role role;
    enum ctl_presence presence;
    uint64_t token, process, process_start;
    char address[128];
    bool back;       // came back to us with its id: it may hold state
    bool in;         // of the generation that is prepared or runs
    bool planned;    // goes by the generation that was decided last, or by one of an earlier controller's
    bool leaving;    // in only until others hold what it alone holds
    uint32_t asked;  // for a report: the newest generation
    bool reported;   // of this generation
    bool voted;      // in this generation, for the open step
    double speed;    // relative, 0: not told
    uint32_t rank;   // pipeline rank that it computes, CTL_NO_RANK: none
    uint32_t worker; // index in the generation's plans
    struct message_report report;
};

struct ctl_spawn { // started, no HELLO yet
    uint64_t token;
    enum message_role role;
};

struct ctl_commit { // what is known of a step
    double norm;
    float clip;
    bool loss_known, known;
};

struct ctl_open {        // the open step
    double *losses;      // (micro_batches)
    uint8_t *loss_known; // (micro_batches)
    uint32_t *loss_from; // (micro_batches) member
    uint32_t losses_missing;
    double *squares;       // (params)
    uint32_t *square_from; // (params) member, 0: not known
    uint32_t squares_missing;
    uint64_t *proofs;     // (units) of the state
    uint32_t *proof_from; // (units) member, 0: not known
    double *scratch;      // (micro_batches)
};

struct ctl_task {
    bool active;
    uint64_t id, step;
    uint32_t scribe, generation; // who was told, and in which
    bool evaluate, checkpoint, hash;
    bool owed; // of no task: the checkpoint that died with its scribe
};

struct ctl_rental {
    enum plan_rent rent;  // what is held
    uint32_t machines;    // of a gang
    uint32_t zone;        // in which; 0: nothing is held, or there are no zones
    uint32_t tick, since; // now; when it was rented
    uint64_t steps;       // committed when it was rented
    // Of a fleet policy.
    uint32_t there, stages, replicas[PLAN_STAGES_MAX];
    bool deciding;
    bool reshape; // the seats may not be of the shape that is wanted
};

struct ctl {
    struct ctl_options o; // with a budget, o.workers is what is rented now
    struct ctl_host host;
    enum ctl_phase phase;
    enum ctl_end end;
    struct bg_error error;
    uint64_t now_ns, start_ns;
    bool restored; // the log held a job already

    // Members.
    struct ctl_member *members;
    uint32_t member_count, member_capacity, member_next;
    struct ctl_spawn *spawns;
    uint32_t spawn_count, spawn_capacity, spawn_failures;
    uint64_t token_next;
    char spawn_why[160]; // of the last failure
    uint64_t gather_until_ns, await_until_ns;
    uint64_t slept_until_ns; // shortly after we were not running for a while: links may be down for that reason

    // The generation.
    uint32_t generation;
    uint32_t sent; // the newest that somebody may have taken
    bool boundary; // it was begun between steps: nothing of the open step is worth keeping
    bool fresh;    // everybody begins from the newest checkpoint or the initial weights
    char reason[160];
    uint32_t ranks;          // of the shape that runs; 0: none yet
    struct plan now, steady; // now.workers == 0: same as steady
    uint32_t *workers;       // (steady.workers) member ids
    bool trouble;            // a member asked for a new generation; waits a little for the loss that explains it
    uint64_t trouble_until_ns;
    uint32_t failures; // of members by themselves, since the last commit

    // Steps.
    uint64_t committed;
    double *losses;             // (steps)
    struct ctl_commit *commits; // (steps)
    struct ctl_open open;

    struct ctl_rental rental; // with a budget

    // Tasks and the end.
    struct ctl_task task;
    uint64_t task_next;
    bool stop;                              // asked for: the open step is the last one
    bool ending;                            // no further step is committed
    struct message_evaluation *evaluations; // by step
    size_t evaluation_count, evaluation_capacity;
    uint64_t checkpoint_step;
    char checkpoint[512];
    uint8_t weights_sha256[32];
    bool hashed;

    // What is told.
    uint64_t deaths, generations, leaves, forwards, redone, rollbacks, fenced;
    uint64_t moved_ns, said_ns; // of the last thing that happened, of the last "waiting"
    uint64_t lost_ns;           // first loss since the last recovery, 0: none
};

// ctl.c
void ctl_clock(struct ctl *ctl, uint64_t now_ns);
void ctl_fail(struct ctl *ctl, const struct bg_error *err);
void ctl_failf(struct ctl *ctl, bg_status status, const char *format, ...) BG_PRINTF(3, 4);
bool ctl_append(struct ctl *ctl, const struct store_record *record); // false: it failed, the job has failed with it
void ctl_send(struct ctl *ctl, uint32_t member, enum wire_kind kind, const void *payload, size_t bytes);
void ctl_leave(struct ctl *ctl, enum ctl_end end);
const char *ctl_role_name(uint32_t role);

// members.c
struct ctl_member *ctl_member_find(struct ctl *ctl, uint32_t id); // NULL: none
void ctl_member_lose(struct ctl *ctl, uint32_t id, const char *why, bool drop);
void ctl_members_fini(struct ctl *ctl);
void ctl_members_restore(struct ctl *ctl, const struct store_record *record);
void ctl_members_spawn(struct ctl *ctl);  // as many as are missing
void ctl_members_gather(struct ctl *ctl); // waits for members
void ctl_members_tick(struct ctl *ctl);   // welcomes, awaits; begins the first generation
uint32_t ctl_members_live(const struct ctl *ctl, enum message_role role); // welcomed ones
uint32_t ctl_spawns(const struct ctl *ctl, enum message_role role);       // that may still come (awaited ones too)
// Workers on machines of another kind than this one, or in another zone, go back, which is no death.
void ctl_members_release(struct ctl *ctl, enum plan_rent keep, const char *why);
bool ctl_members_wait(const struct ctl *ctl); // somebody lives who ought to be in a generation and is not

// generation.c
enum ctl_who { CTL_THE_SAME, CTL_EVERYBODY };
void ctl_generation_admit(struct ctl *ctl); // while it is prepared
void ctl_generation_begin(struct ctl *ctl, enum ctl_who who, bool boundary, const char *format, ...) BG_PRINTF(4, 5);
bool ctl_member_awaited(const struct ctl_member *member); // its REPORT, while a generation is prepared
bool ctl_go_back(struct ctl *ctl); // the open step becomes that of the newest checkpoint; false: the job has failed
void ctl_take_report(struct ctl *ctl, struct ctl_member *member, const void *payload, size_t bytes);
bool ctl_member_has(const struct ctl *ctl, const struct ctl_member *member, uint32_t unit); // at the open step
void ctl_generation_fini(struct ctl *ctl);

// budget.c
void ctl_rental_init(struct ctl *ctl);
bool ctl_rents(const struct ctl *ctl);                              // there is a budget, and steps to be done with it
uint32_t ctl_rental_wanted(const struct ctl *ctl);                  // worker processes
uint64_t ctl_rental_token(struct ctl *ctl, enum message_role role); // of a process to be started

// draft.c
struct ctl_seats { // who computes which pipeline rank
    uint32_t ranks;
    uint32_t replicas[PLAN_STAGES_MAX];
    uint32_t *rank_of; // (members)
    uint8_t *units;    // (ranks, units) 1: the rank computes it
};
struct ctl_draft {
    struct ctl_seats seats;
    uint8_t *follows;  // (members, units)
    uint32_t *members; // (count) index of worker i's member
    uint32_t count;
    struct plan now, steady; // now.workers == 0: as steady
    struct plan_recovery recovery;
    uint32_t moved_units;
    uint64_t moved_bytes;
};
bg_status ctl_draft_make(struct ctl *ctl, struct bg_error *err, struct ctl_draft *draft);
void ctl_draft_fini(struct ctl_draft *draft);
void ctl_draft_recall(struct ctl *ctl);       // a controller started again finds out who sat where, from the reports
bool ctl_draft_better(const struct ctl *ctl); // would a boundary generation seat more, or free the shadow?
const struct ctl_member *
ctl_scribe(const struct ctl *ctl); // in the generation that runs; NULL: nobody holds every unit

// commit.c
void ctl_open_init(struct ctl *ctl);
void ctl_open_fini(struct ctl *ctl);
void ctl_open_reset(struct ctl *ctl);
void ctl_take_loss(struct ctl *ctl, struct ctl_member *member, const struct wire_frame *frame, const void *payload);
void ctl_take_proof(struct ctl *ctl, struct ctl_member *member, const struct wire_frame *frame, const void *payload);
void ctl_take_vote(struct ctl *ctl, struct ctl_member *member, const struct wire_frame *frame, const void *payload);
bool ctl_open_loss(struct ctl *ctl, const struct ctl_member *member, uint32_t micro_batch, double loss);
void ctl_try_commit(struct ctl *ctl);
bool ctl_stops_here(const struct ctl *ctl); // as many steps are committed as were asked for
bool ctl_last_commit(const struct ctl *ctl, struct message_commit *commit); // of step committed - 1, if it is known

// task.c
bool ctl_task_blocks(const struct ctl *ctl); // the open step's commit
void ctl_tasks_next(struct ctl *ctl);        // at a boundary, after a generation, after a task
bool ctl_tasks_due(const struct ctl *ctl);
void ctl_take_task_done(struct ctl *ctl, struct ctl_member *member, const void *payload, size_t bytes);
void ctl_evaluation_add(struct ctl *ctl, const struct message_evaluation *evaluation);

// verdict.c (NUMERICS 11, 12)
double ctl_verdict_loss(const double *leaves, uint32_t count, uint64_t targets, double *scratch);
float ctl_verdict_clip(double clip, double norm);

// say.c: an event with the fields of `fields`, which it takes over.
void ctl_say(struct ctl *ctl, const char *event, json_t *fields);
json_t *ctl_text(const char *text); // any bytes
json_t *ctl_number(uint64_t value);
json_t *ctl_ms(uint64_t nanoseconds); // three decimals

#endif
