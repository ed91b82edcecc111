// Payloads of the control frames (frame.h), as structs. Decoding copies what varies in length into one allocation
// (message_fini frees it); VOTE, COMMIT and LOSS, which every step sends, are decoded in place and allocate nothing.
// All integers little-endian, doubles as their bits. A decoder refuses what is too short, too long, out of bounds or
// not finished at the end, naming the message and the field.
#ifndef WIRE_MESSAGE_H
#define WIRE_MESSAGE_H

#include "base/status.h"

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

enum { MESSAGE_VERSION = 1, MESSAGE_MEMBERS_MAX = 1024 };

enum message_role { MESSAGE_WORKER, MESSAGE_SHADOW };

// HELLO: first frame on a link to the controller. Between workers only `member` counts.
struct message_hello {
    uint32_t version;                // MESSAGE_VERSION
    uint32_t member;                 // id that an earlier WELCOME gave, 0: none
    uint64_t token;                  // of the spawn that it comes from, 0: joined by hand
    uint64_t process, process_start; // pid and start time
    uint32_t role;                   // enum message_role
    uint8_t signature[32];
    char address[128]; // peers connect here
};

struct message_welcome {
    uint32_t member; // id of the receiver from now on; another than in its HELLO: it has been fenced, its state is void
};

// TROUBLE: why a member asks for a new generation.
enum message_trouble_kind { MESSAGE_PEER_LOST, MESSAGE_BAD_FRAME, MESSAGE_WAITS, MESSAGE_FAILED };
struct message_trouble {
    uint32_t kind;
    uint32_t peer;   // member at fault, or waited for
    uint32_t status; // bg_status of MESSAGE_FAILED (the job cannot go on: disk full, not finite, ...)
    char text[800];
};

// A step's verdict. In COMMIT, and in GENERATION for members that have not applied the last one.
struct message_commit {
    uint64_t step;
    double loss, norm;
    float clip;
};

// REPORT: what a member holds, in terms of the plan that it last ran (`plan` = its hash; 0: none).
struct message_report {
    uint64_t version; // steps applied: its weights are W[version], the open step is `version`
    uint64_t plan;    // of the cut and items that `items` speaks of: plan_cut_hash()
    bool complete;    // every root that applying the open step takes is here
    uint32_t unit_count;
    const uint8_t *units; // (unit_count) 1: weights and moments of the unit are here, at `version`
    const uint8_t *roots; // (unit_count) 1: all roots that the unit's gradients make are here
    uint32_t stage_count, item_count;
    const uint8_t *items;                     // (stages, items) enum plan_held bits
    uint32_t loss_count;                      // (micro_batches), or 0
    const uint8_t *loss_known;                // (loss_count)
    const double *losses;                     // (loss_count)
    uint64_t computed_leaves, frames_refused; // since the process started
    void *memory;
};

struct message_member {
    uint32_t member; // id
    uint32_t role;
    char address[128];
};
// GENERATION: worker i of the plan is members[i].
enum message_source { MESSAGE_SOURCE_KEEP, MESSAGE_SOURCE_INIT, MESSAGE_SOURCE_CHECKPOINT };
struct message_generation {
    uint64_t step;       // that is run next, with plan `now`; later ones with `steady`
    uint64_t steps;      // of the whole job: do not begin this one
    uint32_t source;     // enum message_source: KEEP goes with what is there and with the plan's MOVEs
    uint64_t checkpoint; // of SOURCE_CHECKPOINT: its step (== step)
    bool anew;           // whatever a member has done of that step is void: the plan has all of it
    bool has_commit;     // members at version step - 1 apply this first
    struct message_commit commit;
    uint32_t self; // receiver's worker index in the plans
    uint32_t member_count;
    const struct message_member *members;
    const char *now, *steady; // plan text; now == "": same as steady
    size_t now_bytes, steady_bytes;
    void *memory;
};

// LOSS: token losses summed, of the micro-batches of an item.
struct message_loss {
    uint32_t first, count; // micro-batches
    const uint8_t *losses; // count doubles, unaligned: message_double()
};
// VOTE: every root that this member needs is here. Sums of squares of the parameters it holds.
struct message_vote {
    uint32_t count;         // parameters of the model
    const uint8_t *held;    // (count)
    const uint8_t *squares; // count doubles, unaligned
    uint32_t computed;      // leaves (micro-batches x stages) computed by this member in this step so far
};
// PROOF: XXH3 of the weights and moments of each unit at W[frame.step]; holders of a unit must agree.
struct message_proof {
    uint32_t count;      // units of the model
    const uint8_t *held; // (count)
    const uint8_t *sums; // count u64, unaligned: message_u64()
};
uint64_t message_u64(const uint8_t *at, uint32_t index);
double message_double(const uint8_t *at, uint32_t index);

// TASK for the member that writes: of W[loss_count].
struct message_task {
    uint64_t id;
    bool evaluate, checkpoint, hash;
    double seconds; // of the run so far, for the manifest
    uint32_t evaluation_count;
    const struct message_evaluation {
        uint64_t step, tokens;
        double loss, bits_per_byte;
    } * evaluations;     // known ones
    uint64_t loss_count; // steps of the weights that it is about
    const double *losses;
    void *memory;
};
struct message_task_done {
    uint64_t id;
    uint32_t status; // bg_status
    bool evaluated, checkpointed, hashed;
    struct message_evaluation evaluation;
    double perplexity, evaluate_seconds, checkpoint_seconds;
    uint8_t weights_sha256[32];
    char directory[512];
    char text[800]; // of a failure
};

// Encoding: into a buffer of `capacity` bytes; returns the size, 0: does not fit. Sizes that always fit:
size_t message_report_bytes(const struct message_report *m);
size_t message_generation_bytes(const struct message_generation *m);
size_t message_task_bytes(const struct message_task *m);
enum { MESSAGE_SMALL = 2048 }; // HELLO, WELCOME, TROUBLE, COMMIT, TASK_DONE

size_t message_hello_encode(const struct message_hello *m, void *out, size_t capacity);
size_t message_welcome_encode(const struct message_welcome *m, void *out, size_t capacity);
size_t message_trouble_encode(const struct message_trouble *m, void *out, size_t capacity);
size_t message_commit_encode(const struct message_commit *m, void *out, size_t capacity);
size_t message_report_encode(const struct message_report *m, void *out, size_t capacity);
size_t message_generation_encode(const struct message_generation *m, void *out, size_t capacity);
size_t message_loss_encode(uint32_t first, uint32_t count, const double *losses, void *out, size_t capacity);
size_t message_vote_encode(uint32_t count, const uint8_t *held, const double *squares, uint32_t computed, void *out,
                           size_t capacity);
size_t message_proof_encode(uint32_t count, const uint8_t *held, const uint64_t *sums, void *out, size_t capacity);
size_t message_task_encode(const struct message_task *m, void *out, size_t capacity);
size_t message_task_done_encode(const struct message_task_done *m, void *out, size_t capacity);

BG_MUST_USE bg_status message_hello_decode(const void *in, size_t size, struct bg_error *err, struct message_hello *m);
BG_MUST_USE bg_status message_welcome_decode(const void *in, size_t size, struct bg_error *err,
                                             struct message_welcome *m);
BG_MUST_USE bg_status message_trouble_decode(const void *in, size_t size, struct bg_error *err,
                                             struct message_trouble *m);
BG_MUST_USE bg_status message_commit_decode(const void *in, size_t size, struct bg_error *err,
                                            struct message_commit *m);
BG_MUST_USE bg_status message_report_decode(const void *in, size_t size, struct bg_error *err,
                                            struct message_report *m);
BG_MUST_USE bg_status message_generation_decode(const void *in, size_t size, struct bg_error *err,
                                                struct message_generation *m);
BG_MUST_USE bg_status message_loss_decode(const void *in, size_t size, struct bg_error *err, struct message_loss *m);
BG_MUST_USE bg_status message_vote_decode(const void *in, size_t size, struct bg_error *err, struct message_vote *m);
BG_MUST_USE bg_status message_proof_decode(const void *in, size_t size, struct bg_error *err, struct message_proof *m);
BG_MUST_USE bg_status message_task_decode(const void *in, size_t size, struct bg_error *err, struct message_task *m);
BG_MUST_USE bg_status message_task_done_decode(const void *in, size_t size, struct bg_error *err,
                                               struct message_task_done *m);
void message_fini(void *memory); // of REPORT, GENERATION, TASK

#endif
