// The corpus: text files, directories, .jsonl, optionally .gz/.zst, tokenised once into a memory-mapped cache; and the
// stateless keyed order of samples (NUMERICS 16).
//
// A document is a text file, or the field of one .jsonl line. Documents stand in listed order (a directory:
// recursively, by byte order of names, hidden names left out); the tokenizer's end token stands between two documents,
// not after the last, so that a single file stays pure text. Empty documents count for nothing. A document beyond 4 MiB
// is encoded in pieces cut at the end of a line. Added tokens spelled out in the text are plain text.
#ifndef MODEL_DATA_H
#define MODEL_DATA_H

#include "model/tokenizer.h"

struct corpus_options {
    const char *const *paths; // files or directories (walked in byte order), in listed order
    size_t path_count;
    const char *field; // of .jsonl lines; NULL: "text"
    const char *utf8;  // "keep" (default): bytes as they are; "error": refuse; "replace": U+FFFD
    double valid;      // last fraction, in [0, 1), is validation (ignored with valid_paths)
    const char *const *valid_paths;
    size_t valid_path_count;
    const char *cache_dir; // where the token cache lives (made if missing)
};

// A memory-mapped run of tokens, 16 or 32 bits each.
struct token_view {
    const void *data;
    uint64_t count;
    uint32_t width; // 2 or 4 bytes
};
static inline int32_t token_at(const struct token_view *view, uint64_t i)
{
    return view->width == 2 ? (int32_t)((const uint16_t *)view->data)[i] : (int32_t)((const uint32_t *)view->data)[i];
}

struct corpus {
    struct token_view train, valid;    // of n tokens, train has the first floor((1 - valid) * n), in double
    uint64_t train_bytes, valid_bytes; // bytes of text behind each split, for bits per byte; end tokens count none
    uint64_t documents;                // of the training list, before the split
    char sha256[65];                   // of the training tokens, their width and number: part of the signature
    char *note;                        // what the log should say (a damaged cache was rebuilt), or NULL
    void *impl;
};

// `progress` (may be NULL) is told bytes done and in total while tokenising.
typedef void (*corpus_progress_fn)(void *arg, uint64_t done, uint64_t total);
BG_MUST_USE bg_status corpus_open(struct bg_env *env, const struct corpus_options *options,
                                  const struct tokenizer *tokenizer, corpus_progress_fn progress, void *arg,
                                  struct bg_error *err, struct corpus **corpus);
void corpus_close(struct bg_env *env, struct corpus *corpus);

// Sample i = tokens [iT, iT+T] of a view: n = floor((tokens-1)/T).
uint64_t data_samples(const struct token_view *view, uint32_t length);
// Sample at position p of the endless order: epoch = p / n; a cycle-walking Feistel permutation of p mod n.
uint64_t data_order(uint64_t seed, uint64_t samples, uint64_t position);
// Inputs and targets of micro-batch `micro_batch` of `step`: (batch, T) each.
void data_micro_batch(const struct token_view *view, uint64_t seed, uint64_t step, uint32_t micro_batches,
                      uint32_t micro_batch, uint32_t batch, uint32_t length, int32_t *tokens, int32_t *targets);

// Length of the longest prefix of `bytes` that is valid UTF-8.
size_t data_utf8_prefix(const void *bytes, size_t size);

#endif
