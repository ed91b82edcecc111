// Brigade as a library: train, load and sample transformer language models, the same bits on every machine.
//
// Every call returns a bg_status; the text of the last error of a context is bg_error_text(). Handles are opaque and
// belong to one thread at a time; two contexts may live side by side. No call prints, exits or installs signal
// handlers. Options structs start with a size field: set it with the _INIT macros, so that later versions can grow
// them.
#ifndef BRIGADE_BRIGADE_H
#define BRIGADE_BRIGADE_H

#include <brigade/status.h>

#include <stddef.h>
#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif

#define BG_API __attribute__((visibility("default")))

typedef struct bg_context bg_context; // threads, kernels, the last error
typedef struct bg_model bg_model;     // weights and tokenizer, read-only
typedef struct bg_session bg_session; // one sequence being continued: a KV cache

BG_API const char *bg_version(void);
BG_API const char *bg_status_name(enum bg_status status);    // "not found"
BG_API enum bg_scope bg_status_loses(enum bg_status status); // what is lost when it happens

// threads: 0 = all CPUs of the process. The calling thread is one of them and keeps its affinity and
// floating-point state.
BG_API enum bg_status bg_context_create(unsigned threads, bg_context **context);
BG_API void bg_context_destroy(bg_context *context);         // after everything made from it; NULL is fine
BG_API const char *bg_error_text(const bg_context *context); // of the last call that failed; "" if none

// ---- Training ----

struct bg_train_step {
    uint64_t step, steps; // 0-based step just done; total
    double loss, grad_norm, lr, tokens_per_second;
};

struct bg_train_options {
    size_t size;
    const char *source;           // JOB.yaml, a text file, a directory or .jsonl; NULL: overrides only
    const char *const *overrides; // "train.steps=100", ...
    size_t override_count;
    int resume;                                                  // go on from the newest checkpoint of run.dir
    int (*on_step)(void *arg, const struct bg_train_step *step); // may be NULL; non-zero: stop after this step
    void *arg;
};
#define BG_TRAIN_OPTIONS_INIT                                                                                          \
    {                                                                                                                  \
        .size = sizeof(struct bg_train_options)                                                                        \
    }

struct bg_train_result {
    uint64_t steps, tokens;
    int finished;
    double loss, valid_loss; // valid_loss < 0: never evaluated
    char curve_sha256[65], weights_sha256[65], signature_sha256[65];
    char checkpoint[1024]; // a directory that bg_model_open() takes
};

// BG_OK: finished; BG_STOPPED: on_step asked to stop, a checkpoint was written and *result is filled.
BG_API enum bg_status bg_train(bg_context *context, const struct bg_train_options *options,
                               struct bg_train_result *result);

// ---- Models ----

struct bg_model_info {
    char family[16]; // "llama", "gpt2"
    uint32_t layers, dim, heads, kv_heads, ffn, context, vocab;
    uint64_t parameters;
};

// A run directory, a checkpoint, a Hugging Face directory or a .gguf.
BG_API enum bg_status bg_model_open(bg_context *context, const char *path, bg_model **model);
BG_API void bg_model_close(bg_model *model); // after its sessions; NULL is fine
BG_API void bg_model_get_info(const bg_model *model, struct bg_model_info *info);
BG_API enum bg_status bg_model_save(bg_model *model, const char *format,
                                    const char *path); // safetensors, gguf, llama2c

// Ids of a text; *ids is freed with bg_ids_free().
BG_API enum bg_status bg_encode(bg_model *model, const char *text, size_t size, int32_t **ids, size_t *count);
BG_API void bg_ids_free(int32_t *ids);
// The bytes of one id as they follow `previous` (-1: none). They belong to the model.
BG_API enum bg_status bg_decode(bg_model *model, int32_t previous, int32_t id, const char **bytes, size_t *size);

// ---- Sampling ----

struct bg_sample_options {
    size_t size;
    float temperature; // 0: greedy
    uint32_t top_k;    // 0: off
    float top_p;       // 1: off
    float min_p;       // 0: off
    uint64_t seed;     // the tokens are a function of model, prompt, options and this
    uint32_t tokens;   // at most this many; 0: until the end token or the context is full
};
#define BG_SAMPLE_OPTIONS_INIT                                                                                         \
    {                                                                                                                  \
        .size = sizeof(struct bg_sample_options), .temperature = 0.8f, .top_p = 1.0f, .tokens = 256                    \
    }

// Called with each piece of text as soon as it is known; non-zero stops.
typedef int (*bg_text_fn)(void *arg, const char *bytes, size_t size);

// Continues `prompt`; `text` gets the continuation alone. *generated (may be NULL): tokens drawn.
BG_API enum bg_status bg_generate(bg_model *model, const char *prompt, const struct bg_sample_options *options,
                                  bg_text_fn text, void *arg, uint32_t *generated);

// The layer below: feed tokens, read logits.
BG_API enum bg_status bg_session_create(bg_model *model, uint32_t context, bg_session **session); // 0: the model's
BG_API void bg_session_destroy(bg_session *session);
BG_API enum bg_status bg_session_feed(bg_session *session, const int32_t *ids, size_t count,
                                      const float **logits); // (vocab) of the last id, until the next call
BG_API uint32_t bg_session_position(const bg_session *session);

// ---- Evaluation ----

struct bg_eval_result {
    double loss, perplexity, bits_per_byte;
    uint64_t tokens;
};
// Mean loss on text files by windows of the model's context; tokenised text is kept in cache_dir.
BG_API enum bg_status bg_eval(bg_model *model, const char *const *paths, size_t count, const char *cache_dir,
                              struct bg_eval_result *result);

#ifdef __cplusplus
}
#endif

#endif
