// What is trained and on what: tokenizer, corpus, model, and the signature they make together with the job. Every
// process of a job opens it for itself and finds the same. It holds no state: weights and moments are the caller's,
// full sets in the model's layout, of which a worker fills (and touches) only the units it holds.
#ifndef TRAIN_MATERIAL_H
#define TRAIN_MATERIAL_H

#include "model/data.h"
#include "model/io.h"
#include "train/checkpoint.h"
#include "train/evaluate.h"
#include "train/job.h"

struct material {
    struct bg_env *env;
    const struct job *job;
    struct tokenizer *tokenizer;
    struct corpus *corpus;
    struct model *model;
    const struct kern *kern;
    uint32_t length; // tokens of a sample
    uint64_t tokens_per_step;
    char *signature;
    char signature_sha256[65];
    struct model_files *start; // model.from as long as it is open
};

// Token cache: data.cache, else RUN/cache. On failure what was opened is closed by material_close().
BG_MUST_USE bg_status material_open(struct material *m, struct bg_env *env, const struct job *job,
                                    corpus_progress_fn progress, void *progress_arg, struct bg_error *err);
void material_close(struct material *m);
void material_close_start(struct material *m); // gives the memory of model.from's weights back

// Weights before the first step, of the units held (NULL: all); moments are zero then. Opens model.from again if
// needed.
BG_MUST_USE bg_status material_first_weights(struct material *m, const uint8_t *units, float *weights,
                                             struct bg_error *err);
// Memory as evaluate_in() takes it.
BG_MUST_USE bg_status material_evaluate(const struct material *m, const float *weights,
                                        const struct evaluate_memory *memory, struct bg_error *err,
                                        struct evaluate_result *result);

struct material_progress { // where a run stands
    uint64_t step;
    double seconds;
    const double *losses; // (step)
    const struct evaluation_point *evaluations;
    size_t evaluation_count;
};
// Writes RUN/checkpoints/step-N; *directory: where, bg_free it.
BG_MUST_USE bg_status material_checkpoint(const struct material *m, const struct optim_state *state,
                                          const struct material_progress *progress, struct bg_error *err,
                                          char **directory);

#endif
