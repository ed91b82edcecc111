// Inside the room: training in one process. setup.c opens it, trainer.c runs it.
#ifndef TRAIN_TRAINER_INT_H
#define TRAIN_TRAINER_INT_H

#include "train/run.h"
#include "train/step.h"

struct trainer {
    struct run run;
    struct optim_state state;
    size_t state_bytes; // of each of its three sets
    struct layout layout;
    struct step_executor *executor;
    struct step_local commit; // commit.steps: steps done
    uint64_t memory_bytes;
};

// Everything up to the first step. *finished: there is nothing to do. On failure what was opened is closed by
// trainer_close().
BG_MUST_USE bg_status trainer_open(struct trainer *t, struct bg_env *env, const struct trainer_options *options,
                                   struct bg_error *err, bool *finished);
void trainer_close(struct trainer *t);

#endif
