// Inside the room: the engine's state. What the gate guards is marked; all else belongs to the stepping thread.
#ifndef SERVE_ENGINE_INT_H
#define SERVE_ENGINE_INT_H

#include "serve/draw.h"
#include "serve/engine.h"
#include "serve/grammar.h"
#include "serve/pages.h"
#include "serve/text.h"

#include <stdatomic.h>

enum { ENGINE_NO_SLOT = -1, GUESS_LANES = ENGINE_LANES_MAX, GUESS_MAX = 1 + GUESS_LANES * ENGINE_SPECULATE_MAX };

// Tokens proposed for a sequence: a tree whose root stands for the last token that is certain. Each lane is a path from
// the root to a leaf, a run of its own.
struct guess {
    int32_t token;
    uint8_t parent, depth;
    uint8_t lane; // a first child is in its parent's, every other one begins a lane, with a higher number
};
struct guesses {
    struct guess of[GUESS_MAX]; // parents before children; of[0] is the root
    uint32_t count, lanes;      // 1, 1: nothing is proposed
};

struct job { // a request on its way
    uint64_t id;
    struct serve_request request; // its pointers are ours
    int32_t *tokens;              // (capacity): prompt, then drawn
    uint32_t count, capacity;
    uint64_t arrived_ns, started_ns, prefilled_ns, told_ns;
    int slot;        // ENGINE_NO_SLOT: waiting
    uint32_t fed;    // tokens whose keys and values are in its pages
    uint32_t cached; // of the prompt, when it first ran
    uint32_t *nodes, *page_of, page_count;
    struct text text;
    uint32_t freed; // bytes of text that the end set free: they belong to no token
    struct grammar_state *grammar;
    struct guesses guesses; // for the next step
    const float *embedding; // for its last event
    enum serve_finish finish;
    struct job *next;
};

struct command { // asked for by another thread, done between steps (gate)
    enum { COMMAND_SAVE, COMMAND_RESTORE, COMMAND_FORGET, COMMAND_TELL_SLOT } kind;
    const int32_t *tokens;
    uint32_t token_count;
    uint32_t slot;
    const void *bytes; // to restore
    size_t size;
    void *made; // bytes saved
    uint32_t count;
    bg_status status;
    struct bg_error err;
    bool taken, done;
    struct command *next;
};

struct drafter; // speculate.c

struct engine {
    struct bg_env *env;
    const struct packed_model *packed;
    const struct kern *kern;
    const struct tokenizer *tokenizer;
    struct engine_options o;
    uint32_t context, vocab, rows_max;
    uint64_t fingerprint; // of the weights: pages of another model are refused
    struct batch *batch;
    uint32_t page_total;
    struct outside *outside;
    struct pages *pages;
    struct draw *draw;
    struct drafter *drafter;
    uint64_t *mask;
    uint32_t lanes, lane_rows;           // most of one sequence, and of one lane
    struct batch_run *runs;              // (slots x lanes): those of a sequence follow each other, its own lane first
    struct job **run_job;                // (slots x lanes)
    int32_t *lane_tokens;                // (slots x lanes, lane_rows)
    uint32_t *lane_pages, lane_page_max; // (slots x lanes, lane_page_max)
    struct serve_logprob *logprobs;
    struct bg_str text;  // of the event that is being made
    struct job *waiting; // in the order in which they will run
    struct job **slots;  // (o.slots), NULL: free
    uint32_t running;
    atomic_uint_fast64_t turns; // what a pulse is made of
    _Atomic(const char *) doing;

    struct bg_gate *gate;
    struct job *inbox;                           // gate
    struct command *commands;                    // gate
    uint64_t next_id;                            // gate
    uint32_t queued;                             // gate: waiting, inbox included
    uint64_t queued_tokens;                      // gate
    uint64_t last_arrival_ns;                    // gate
    double gap_ns;                               // gate: smoothed time between arrivals
    uint64_t *cancels;                           // gate: ids
    size_t cancel_count, cancel_capacity;        // gate
    bool draining, hand_over, stopping, looping; // gate
    bool looped;                                 // gate: engine_run() was here: only its thread may step
    struct engine_stats stats;                   // gate
    struct engine_slot *slot_stats;              // gate: (o.slots)
    struct slot_tokens {
        int32_t *tokens;
        uint32_t count;
    } * slot_tokens; // (o.slots): what each computed last
};

static inline uint32_t job_drawn(const struct job *job)
{
    return job->count - job->request.prompt_count;
}

// job.c
struct job *job_create(struct engine *e, const struct serve_request *request);
void job_destroy(struct job *job);
bool job_replay(struct engine *e, struct job *job); // takes drawn tokens in; false: they end the answer already
// One more token: text, grammar, ends. Sets job->finish when it is the last; the token that ends a text is not added.
void job_take_token(struct engine *e, struct job *job, int32_t token, struct bg_str *text);
void job_seat(struct engine *e, struct job *job, int slot);
void job_unseat(struct engine *e, struct job *job); // leaves its pages; what is whole or last stays cached
bool job_room(struct engine *e, struct job *job, uint32_t tokens); // pages for so many tokens; false: none left
void job_trim(struct engine *e, struct job *job);                  // gives back pages that its tokens do not need
void job_publish(struct engine *e, struct job *job);               // whole pages of tokens that are final

// speculate.c
bg_status drafter_create(struct engine *e, struct bg_error *err);
void drafter_destroy(struct drafter *drafter);
void drafter_propose(struct engine *e); // for every job that decodes: job->guesses
// Of the guesses of `job`, made when it had `count` tokens, those up to `guess` were right.
void drafter_learn(struct engine *e, const struct job *job, uint32_t count, uint32_t guess);
void drafter_forget(struct engine *e, int slot);
void guesses_reset(struct guesses *g);
uint32_t guesses_leaf(const struct guesses *g, uint32_t lane); // the last guess of a lane
// The guess after `parent` with that token; 0: there is none.
uint32_t guesses_child(const struct guesses *g, uint32_t parent, int32_t token);
// Keeps so many lanes, and of those what is not deeper.
void guesses_cut(struct guesses *g, uint32_t lanes, uint32_t depth);
// The tokens of a lane after the root, which is not written; returns how many they are with it.
uint32_t guesses_path(const struct guesses *g, uint32_t lane, int32_t *tokens);

// ship.c
void engine_run_command(struct engine *e, struct command *command);

#endif
