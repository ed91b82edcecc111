// Requests of a trace sent to a server of OpenAI's API at their times, whatever has been answered by then (open loop),
// and what came of each. One thread, libcurl's multi interface; streams are read as they come.
#ifndef CLI_REPLAY_H
#define CLI_REPLAY_H

#include "base/env.h"
#include "plan/spot/trace.h"

struct replay_server {
    char *model;             // its name; NULL: not told
    uint32_t context, vocab; // 0: not told
};
// What GET url/v1/models tells.
BG_MUST_USE bg_status replay_ask(const char *url, const char *key, struct bg_error *err, struct replay_server *server);

struct replay_options {
    const char *url, *key;                     // key NULL: none
    const struct plan_trace_request *requests; // by time
    size_t count;
    double speed; // of the trace's time: 2 is twice as fast
    const char *model;
    uint32_t context; // prompt and answer are cut to it
    uint32_t vocab;   // prompts are tokens below
    uint32_t timeout_ms;
    void (*tick)(void *arg); // called now and then; NULL: nothing to do
    void *arg;
};

struct replay_times { // in seconds
    double *at;
    size_t count, capacity;
};
struct replay_answer {
    bool whole;              // with [DONE]
    double first_s, token_s; // from arrival to the first token; between two, on average
    uint32_t prompt, generated;
};
struct replay_result {
    struct replay_answer *answers;         // (count)
    size_t answered, refused, failed, cut; // refused: 429; cut: to fit the context
    struct replay_times first, between;    // arrival to first token; token to token
    double seconds, late_s;                // from the first arrival to the last answer; most that one was sent late
    uint64_t prompt_tokens, generated_tokens, cached_tokens;
    char failure[200]; // of the first that failed
};
BG_MUST_USE bg_status replay_run(struct bg_env *env, const struct replay_options *options, struct bg_error *err,
                                 struct replay_result *result);
void replay_result_fini(struct replay_result *result);

#endif
