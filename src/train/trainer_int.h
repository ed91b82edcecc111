// Inside the room: one training run. setup.c opens it, trainer.c runs it.
#ifndef TRAIN_TRAINER_INT_H
#define TRAIN_TRAINER_INT_H

#include "model/io.h"
#include "train/checkpoint.h"
#include "train/runlog.h"
#include "train/step.h"
#include "train/trainer.h"

struct trainer {
    struct bg_env *env;
    const struct trainer_options *options;
    const struct job *job;

    // What is trained, and on what.
    struct tokenizer *tokenizer;
    struct corpus *corpus;
    struct model *model;
    const struct kern *kern;
    uint32_t length; // tokens of a sample
    uint64_t tokens_per_step;
    char *signature;
    char signature_sha256[65];
    char start_sha256[65]; // of model.from's weights; "" without

    // State and work memory.
    struct optim_state state;
    size_t state_bytes; // of each of its three sets
    double *losses;
    size_t losses_bytes;
    struct layout layout;
    struct step_executor *executor;
    struct step_local commit; // commit.steps: steps done
    uint64_t memory_bytes;

    // The run directory.
    bool directory_made, files_made; // by us, before the first step: a failed start takes them away again
    struct bg_file *lock;            // of the directory: one process at a time
    bool resumed;
    struct runlog log;
    bool logging;
    bool written;          // a checkpoint of this run exists
    uint64_t written_step; // the newest one
    char *written_path;
    struct evaluation_point *evaluations;
    size_t evaluation_count;
    double seconds_before; // of a resumed run's earlier parts
    uint64_t start_ns;
};

// Everything up to the first step. On failure what was opened is closed by trainer_close().
BG_MUST_USE bg_status trainer_open(struct trainer *t, struct bg_env *env, const struct trainer_options *options,
                                   struct bg_error *err);
void trainer_close(struct trainer *t);

// open_model.c: tokenizer, corpus, model and its first weights, signature.
BG_MUST_USE bg_status trainer_open_model(struct trainer *t, struct bg_error *err);
// open_run.c: the run directory, fresh or resumed.
BG_MUST_USE bg_status trainer_check_directory(struct trainer *t, struct bg_error *err);
BG_MUST_USE bg_status trainer_restore(struct trainer *t, struct bg_error *err);
BG_MUST_USE bg_status trainer_open_files(struct trainer *t, struct bg_error *err);
void trainer_undo_directory(struct trainer *t);

void trainer_warn(const struct trainer *t, const char *format, ...) BG_PRINTF(2, 3);

#endif
