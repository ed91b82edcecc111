// The numeric signature of a job: one line a key, "key value", in a fixed order. Whatever is in it fixes the bits;
// whatever is not (threads, groups, order, directories, evaluation, checkpoints) cannot touch them.
#ifndef TRAIN_SIGNATURE_H
#define TRAIN_SIGNATURE_H

#include "model/config.h"
#include "train/job.h"

#define TRAIN_CLASS "fp32/1"

struct signature_parts {               // what the job file alone does not tell
    const struct model_config *config; // resolved, with the vocabulary
    const char *start_sha256;          // weights that training starts from; NULL: drawn from train.seed
    const char *tokenizer_sha256, *corpus_sha256;
    uint64_t train_tokens;
    uint32_t length; // tokens of a sample
};

// The text; bg_free it. Its SHA-256 is the signature's.
char *signature_text(const struct job *job, const struct signature_parts *parts);
// "train.lr 0.001 -> 0.0003, train.seed 1 -> 2": keys whose values differ, `was` first. NULL: none. bg_free it.
char *signature_difference(const char *was, const char *is);

#endif
