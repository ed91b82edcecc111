// The engine: continuous batching over one model. Requests wait in a queue, run in slots, share pages of keys and
// values through the prefix cache, and are answered token by token. Which requests run beside each other, in what
// chunks a prompt is fed, what is cached: none of it shows in a token (model/batch.h).
//
// One thread steps the engine (engine_step, engine_run); submit, cancel and stats may be called from any thread.
#ifndef SERVE_ENGINE_H
#define SERVE_ENGINE_H

#include "model/batch.h"
#include "model/tokenizer.h"
#include "serve/request.h"

struct engine;
enum { ENGINE_SPECULATE_MAX = 15, ENGINE_LANES_MAX = 8 };
struct engine_options {
    uint32_t slots;            // requests that run at once (default 16)
    uint32_t context;          // most tokens of a request, prompt and answer; 0: the model's
    uint64_t kv_bytes;         // of the page pool; 0: enough for slots x context, at most half the memory
    uint32_t chunk;            // prompt tokens of one step (default 256)
    uint32_t queue_max;        // requests waiting (default 256)
    uint64_t queue_tokens_max; // prompt tokens waiting; 0: 64 contexts
    double batch_wait_us;      // mu of adaptive batching; 0: never wait
    uint64_t host_cache_bytes; // evicted pages kept in memory outside the pool; 0: none
    const char *disk_cache;    // directory for those evicted from there, for this engine alone; NULL: none
    uint64_t disk_cache_bytes; // default 1 GiB
    enum { ENGINE_PLAIN, ENGINE_NGRAM, ENGINE_DRAFT, ENGINE_TREE } speculate;
    const struct packed_model *draft; // of ENGINE_DRAFT, ENGINE_TREE: same vocabulary
    uint32_t speculate_max;           // tokens proposed one after the other (default 4)
    // ENGINE_TREE: guesses for the next token, for each of those the one after, .. (0: no further; default 2, 2, 1, 1).
    // Levels that would make more than ENGINE_LANES_MAX leaves have one
    uint8_t expand[ENGINE_SPECULATE_MAX];
    // Called by the stepping thread; must not call back into the engine but for engine_cancel and engine_submit.
    void (*event)(void *arg, const struct serve_event *event);
    void *arg;
};
BG_MUST_USE bg_status engine_create(struct bg_env *env, const struct packed_model *packed, const struct kern *kern,
                                    const struct tokenizer *tokenizer, const struct engine_options *options,
                                    struct bg_error *err, struct engine **engine);
void engine_destroy(struct engine *engine);

// Copies the request. BG_INVALID: it can never run (err says both counts where the prompt exceeds the context);
// BG_FULL: the queue is full, *retry_s says when to ask again; BG_STOPPED: draining.
BG_MUST_USE bg_status engine_submit(struct engine *engine, const struct serve_request *request, struct bg_error *err,
                                    uint64_t *id, double *retry_s);
void engine_cancel(struct engine *engine, uint64_t id); // its last event (CANCELLED) still comes, unless it had ended

// One batch. Returns false when there is nothing to do.
bool engine_step(struct engine *engine);
// Steps until engine_stop(), or until the environment is asked to stop; sleeps while idle.
void engine_run(struct engine *engine);
void engine_stop(struct engine *engine); // any thread

// For who watches the engine; waits for nothing, from any thread.
struct engine_pulse {
    uint64_t turns;    // steps that ended, also those without work
    const char *doing; // what this step is at
};
struct engine_pulse engine_pulse(struct engine *engine);

// No new requests. hand_over: those that run end at once with SERVE_HANDED; else they may finish.
void engine_drain(struct engine *engine, bool hand_over);

struct engine_slot {  // for /slots
    uint64_t request; // 0: free
    uint32_t prompt_tokens, drawn_tokens, position;
};
struct engine_stats {
    uint64_t submitted, finished[16]; // by enum serve_finish
    uint64_t prompt_tokens, cached_tokens, drawn_tokens, steps, rows;
    uint64_t speculated, accepted;
    uint32_t running, waiting, slots;
    uint64_t waiting_tokens;
    uint32_t pages, pages_used, pages_cached; // of the pool; cached: kept for later, free to take
    uint64_t outside_bytes, disk_bytes;       // kept in memory beside the pool, and in the directory
    uint64_t outside_hits, disk_hits;         // pages that came back from there
    uint64_t disk_errors;                     // files not written, or damaged: computed again instead
    uint64_t last_step_ns;                    // env clock at the end of the last step
    bool draining;
    // Histograms: counts of values <= engine_bucket_s[i], cumulative by the reader; sums in seconds
    uint64_t ttft[24], gap[24], total[24], queued[24];
    double ttft_s, gap_s, total_s, queued_s;
};
extern const double engine_bucket_s[24];                  // last: infinity
uint64_t engine_fingerprint(const struct engine *engine); // of the weights, as they are computed with
void engine_get_stats(struct engine *engine, struct engine_stats *stats, struct engine_slot *slots,
                      uint32_t slot_count);

// The KV state of a prompt prefix as bytes (for /slots save, and to ship a request): pages of `tokens` that are cached
// or running here, whole pages only. *count: tokens covered. bg_free *bytes. From any thread; done by the stepping one.
BG_MUST_USE bg_status engine_save(struct engine *engine, const int32_t *tokens, uint32_t token_count,
                                  struct bg_error *err, void **bytes, size_t *size, uint32_t *count);
// Puts such pages into the prefix cache. Checked: model, layout, hash. *count: tokens now cached.
BG_MUST_USE bg_status engine_restore(struct engine *engine, const void *bytes, size_t size, struct bg_error *err,
                                     uint32_t *count);
// Takes such pages out of the prefix cache, from the end, as far as nobody else needs them. *count: tokens dropped.
BG_MUST_USE bg_status engine_forget(struct engine *engine, const int32_t *tokens, uint32_t token_count,
                                    struct bg_error *err, uint32_t *count);
// What a slot computed last, prompt and answer. bg_free *tokens. False: nothing yet, or no such slot.
bool engine_slot_tokens(struct engine *engine, uint32_t slot, int32_t **tokens, uint32_t *count);

#endif
