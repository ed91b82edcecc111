// What is asked of the engine: a prompt, how to draw, when to stop. Everything that a token may depend on stands here;
// what else is known of a request (who asked, over what) does not.
#ifndef SERVE_REQUEST_H
#define SERVE_REQUEST_H

#include "base/status.h"

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

struct grammar; // serve/grammar.h

struct serve_bias {
    int32_t id;
    float bias; // added to the logit; OpenAI's -100..100
};

struct serve_sampling {   // in this order: bias, penalties, grammar mask, temperature, top_k, top_p, min_p
    float temperature;    // 0: greedy, lowest id among equals
    uint32_t top_k;       // 0: off
    float top_p, min_p;   // 1, 0: off
    float repeat_penalty; // 1: off
    uint32_t repeat_last; // tokens that repeat_penalty looks back on, prompt included
    float presence_penalty, frequency_penalty; // over drawn tokens only, as OpenAI's; 0: off
    const struct serve_bias *biases;           // by id, each once
    uint32_t bias_count;
    uint64_t seed;
    uint32_t choice; // of `n`
};

struct serve_request {
    const int32_t *prompt;
    uint32_t prompt_count;
    const int32_t
        *drawn; // tokens of this answer that were drawn already, on a server that is gone: they count as drawn
    uint32_t drawn_count; // and are not given out again
    uint32_t tokens_max;  // drawn ones included
    struct serve_sampling sampling;
    const char *const *stops; // stop strings, not given out
    uint32_t stop_count;
    bool ignore_eos;
    uint32_t top_logprobs; // 0..20
    bool logprobs;
    const struct grammar *grammar; // NULL: free. Lives as long as the request
    int32_t priority;              // higher first; first come within
    uint64_t deadline_ms;          // from submission; 0: none
    bool cache_prompt;             // may use, and leave, pages in the prefix cache
    bool embed;                    // no answer is drawn: the last event brings an embedding. May fill the whole context
    bool follows;                  // goes on with what was let in before: neither a full queue nor draining refuses it
    void *user;                    // comes back with every event
};

enum serve_finish {
    SERVE_RUNNING,
    SERVE_STOP,      // the model ended its text, or a stop string
    SERVE_LENGTH,    // tokens_max, or a grammar that cannot go on: the text is not whole
    SERVE_CONTEXT,   // the context is full (OpenAI: "length")
    SERVE_CANCELLED, // asked for
    SERVE_EXPIRED,   // its deadline
    SERVE_HANDED,    // drained: the token log can go on elsewhere
    SERVE_FAILED,    // the model computes what is no number
};
const char *serve_finish_name(enum serve_finish finish);

struct serve_logprob {
    int32_t id;
    float logprob;
};

// What the engine tells, in order. `text` are whole UTF-8 characters where tokens make some; the text of all events is
// the bytes of all tokens drawn, up to a stop string.
struct serve_event {
    uint64_t request;
    void *user;
    const int32_t *tokens; // drawn since the last event; one, but several after speculation
    uint32_t token_count;
    const char *text;
    size_t text_bytes;
    const struct serve_logprob *logprobs; // (token_count, 1 + top_logprobs): the token drawn, then the best; else NULL
    const float *embedding; // (dim): the final norm's output after the last token; NULL: none was asked for, or cut off
    enum serve_finish finish;                            // other than RUNNING: the last event of the request
    uint32_t prompt_tokens, cached_tokens, drawn_tokens; // so far; cached: of the prompt, not computed again
    double queued_s, prefill_s, decode_s;
};

#endif
