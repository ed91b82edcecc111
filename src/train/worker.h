// One worker of many: interprets its list of the plan op by op, moves boundary tensors and sums over an endpoint,
// votes, applies what the controller committed, and reports when a generation begins (docs/adr/0005). Event-driven:
// worker_turn() never blocks, so the live loop (worker_run) and the simulator drive the same code. The shadow and
// joiners are workers.
#ifndef TRAIN_WORKER_H
#define TRAIN_WORKER_H

#include "comm/comm.h"
#include "model/data.h"
#include "train/executor.h"
#include "wire/message.h"

struct worker_job { // how this worker gets at the job: the live one is train/worker_job.h, the simulator has its own
    void *arg;
    const struct model *model;
    const struct kern *kern;
    const struct token_view *view;
    uint64_t seed;
    double dropout;
    struct optim_options optim;
    uint32_t batch, length, micro_batches;
    uint8_t signature[32];
    const char *scratch; // as in struct executor_options
    double (*lr)(void *arg, uint64_t step);
    // Weights and moments of these units before any step, or from the run's checkpoint of that step.
    bg_status (*load)(void *arg, enum message_source source, uint64_t checkpoint, const uint8_t *units,
                      const struct optim_state *state, struct bg_error *err);
    // The work of the scribe, which holds every unit at W[step]. Fills *done but for id and status. With task_poll it
    // only begins (what it needs of the state it has copied when it returns), and task_poll says when *done is there.
    bg_status (*task)(void *arg, const struct message_task *task, uint64_t step, const struct optim_state *state,
                      struct executor *ex, struct bg_error *err, struct message_task_done *done);
    bool (*task_poll)(void *arg, struct message_task_done *done); // may be NULL
};

struct worker_options {
    const struct worker_job *job;
    struct comm *comm;      // ours; the caller destroys it
    const char *controller; // its address
    uint64_t token;         // of the spawn, 0: joined by hand
    enum message_role role;
    uint64_t process, process_start;
    uint64_t patience_ns;   // an op that waits longer says so (TROUBLE), naming op and member; 0: 5 s
    uint64_t orphan_ns;     // without a controller for so long: gives up; 0: 60 s
    bool count_allocations; // tests: steady steps that allocate are an error
    uint32_t prove_every;   // steps between PROOFs of the state; 0: 32
    bool order_free;        // bench only: applies without waiting for COMMIT, unclipped. The bits are gone
};

struct worker;
BG_MUST_USE bg_status worker_create(struct bg_env *env, const struct worker_options *options, struct bg_error *err,
                                    struct worker **worker);
void worker_destroy(struct worker *worker);

enum worker_state {
    WORKER_BUSY,  // did something: call again
    WORKER_WAITS, // for a frame: until the endpoint has something, or some milliseconds at most
    WORKER_LEFT,  // the controller said LEAVE
    WORKER_FAILED // *err says why
};
// Takes in what has arrived, then runs at most one op.
enum worker_state worker_turn(struct worker *worker, struct bg_error *err);
// Turns until it has left. BG_OK: told to leave.
BG_MUST_USE bg_status worker_run(struct worker *worker, struct bg_error *err);
// "generation 3, step 12, op 5 of 20: waits for ACTIVATION stage 1 item 2 from member 4 since 0.8 s"
void worker_describe(const struct worker *worker, char *text, size_t size);

struct worker_view { // for tests and the simulator's checkers
    uint32_t member, generation;
    uint64_t version;
    uint64_t frames_refused, duplicates, leaves;
    const struct executor *executor;
};
struct worker_view worker_view(const struct worker *worker);

#endif
