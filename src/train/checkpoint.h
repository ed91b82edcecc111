// Checkpoints of a run: RUN/checkpoints/step-N/, each a Hugging Face directory with the optimizer's tensors, the loss
// curve so far and a manifest of hashes. A kill at any write leaves the previous ones intact.
#ifndef TRAIN_CHECKPOINT_H
#define TRAIN_CHECKPOINT_H

#include "model/io.h"
#include "train/manifest.h"
#include "train/optim.h"

struct checkpoint_source {
    const struct model *model;
    const struct tokenizer *tokenizer;
    struct optim_state state;
    const double *losses;            // (manifest.step)
    const struct manifest *manifest; // hashes and files are filled in here
};

// Writes step-N durably, then removes all but the newest `keep` of those up to N. *directory: where; bg_free it.
BG_MUST_USE bg_status checkpoint_write(struct bg_env *env, const char *run_directory,
                                       const struct checkpoint_source *source, uint32_t keep, struct bg_error *err,
                                       char **directory);
// Bytes that one checkpoint takes, within a few KiB, tokenizer aside.
uint64_t checkpoint_bytes(const struct model *model, uint64_t steps);

// Steps of the checkpoints there, ascending; an absent directory has none. bg_free the list.
BG_MUST_USE bg_status checkpoint_list(struct bg_env *env, const char *run_directory, struct bg_error *err,
                                      uint64_t **steps, size_t *count);
char *checkpoint_path(const char *run_directory, uint64_t step); // bg_free it

// The manifest, after every hash in it was recomputed and the files a checkpoint must have were found in it.
BG_MUST_USE bg_status checkpoint_verify(struct bg_env *env, const char *directory, struct bg_error *err,
                                        struct manifest *manifest);
// Weights and moments of a checkpoint that was verified, of the units held (NULL: all).
BG_MUST_USE bg_status checkpoint_load(struct bg_env *env, const char *directory, const struct model *model,
                                      const uint8_t *units, const struct optim_state *state, struct bg_error *err);
// Its losses (manifest->step of them); bg_free them.
BG_MUST_USE bg_status checkpoint_losses(struct bg_env *env, const char *directory, const struct manifest *manifest,
                                        struct bg_error *err, double **losses);

// Removes what a kill left half-written or half-removed.
BG_MUST_USE bg_status checkpoint_clean(struct bg_env *env, const char *run_directory, struct bg_error *err);
// Renames a checkpoint that does not verify to damaged-step-N, so that nothing takes it for the newest.
BG_MUST_USE bg_status checkpoint_set_aside(struct bg_env *env, const char *run_directory, uint64_t step,
                                           struct bg_error *err);

#endif
