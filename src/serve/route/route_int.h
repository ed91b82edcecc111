// Inside the router. One thread owns everything; a second one reads large bodies, and shares what the gate guards.
#ifndef SERVE_ROUTE_ROUTE_INT_H
#define SERVE_ROUTE_ROUTE_INT_H

#include "serve/http/door.h"
#include "serve/route/route.h"
#include "serve/route_policy.h"

#include <curl/curl.h>
#include <jansson.h>
#include <microhttpd.h>

#define ROUTE_HOT_QUANTILE 0.84 // of requests in flight, as Prequal found best

enum {
    HELD_MAX = 64,         // bodies of the largest size that may be with the reader; then 429
    BODY_MAX = 64 << 20,   // of an answer that is taken in whole
    RECORD_MAX = 4 << 20,  // of a stream's record
    PROBE_MAX = 1 << 20,   // of an answer to a probe
    WAITING_MAX = 8 << 20, // of a stream that its client does not read: more, and it is given up
    TOKENS_MAX = 1 << 24,  // of an answer without a limit of its own
    DEATHS_MAX = 16,       // of replicas that a request was with, without a new token between them
};

// ---- Replicas (replicas.c) ----
enum replica_state {
    REPLICA_AWAY,     // does not answer, or not with 200: asked for its health, less and less often
    REPLICA_UP,       // probed
    REPLICA_STALLED,  // takes connections, answers nothing
    REPLICA_DRAINING, // finishes what it has
    REPLICA_OTHER,    // serves another model than the rest: not used
};
struct replica {
    uint32_t id; // never used again
    char *url;
    enum replica_state state;
    bool leaving;     // no longer listed: freed when nobody uses it
    bool alive;       // was up before
    char said[200];   // the last that was heard of it
    char digest[65];  // of its model, as told last
    uint32_t strikes; // times it went away since it gave a token: it is let back in later and later
    uint64_t barred_ns;
    struct transfer *probe;
    uint64_t probe_due_ns, backoff_ns;
    uint64_t leaves_ns;         // while it drains: when its machine goes
    bool noticed;               // somebody told the router; the replica itself knows nothing
    uint32_t probes;            // since it is up
    uint32_t told, ours_then;   // in flight: as probed, and how many of ours when that was asked for
    uint32_t ours_asked;        // when the probe in flight began
    uint32_t ours;              // transfers of requests
    uint32_t ships;             // of those, transfers of keys and values
    struct route_sample sample; // totals as probed last
    bool sampled;
    double latency_s, token_s, prompt_s; // a first token, a token, a token of a prompt, of late
    struct route_credit credit;
    uint64_t sent, failed;
};

// ---- Transfers (upstream.c) ----
enum transfer_kind { TRANSFER_PROBE, TRANSFER_PASS, TRANSFER_BRANCH, TRANSFER_SHIP };
struct transfer {
    enum transfer_kind kind;
    struct route *route;
    struct replica *replica;
    void *owner; // struct visit, struct branch
    CURL *easy;
    struct curl_slist *headers;
    char *body;
    struct bg_str in; // came, not taken yet
    size_t limit;
    size_t looked; // of in: no record ends there
    long status;   // 0 until the headers are there
    char digest[65];
    double retry_s;
    char type[100], error[CURL_ERROR_SIZE];
    bool health; // of a probe
    bool ready, done;
    CURLcode code;
    struct transfer *next_ready;
};

// ---- Clients (front.c) ----
struct visit { // one HTTP request of a client
    struct route *route;
    struct door_wait wait;
    const char *method;
    char *path;
    struct bg_str body;
    bool refused, too_large, taken, queued, gone, counted;
    uint64_t took;
    // The answer:
    uint32_t status; // 0: not known yet
    char type[100];
    double retry_s;
    bool streams, complete, broken; // broken: the connection is closed without an end
    struct bg_str out;
    size_t sent;
    // Who makes it:
    struct answer *answer;
    struct transfer *pass;
    struct reading *reading; // its body is being read
    uint64_t arrived_ns;
    uint32_t tries;
    struct visit *next, *previous;
};

// ---- Text requests (relay.c) ----
struct branch { // one choice of one prompt: a chain of upstream requests
    struct answer *answer;
    uint32_t index;
    struct transfer *transfer; // NULL: waits for a replica, or has ended
    struct transfer *ship;     // its keys and values, on the way out of one replica or into the next
    uint32_t prefer;           // id of the replica that has them; ROUTE_NOBODY: none
    bool ships, shipping;      // it shall; it was tried
    uint64_t ship_began_ns, ship_bytes;
    bool accepted;                                // a replica took it
    bool begun, echoed, told_finish, ended, done; // done: [DONE] came
    json_t *held;                    // text that may come again: the replica's last words before the finish
    int32_t *tokens;                 // committed: the client has their text
    uint32_t count, capacity, given; // given: with the client's request
    json_int_t offset, offset_base;  // of log probabilities, in characters
    bool moved;                      // had a replica: goes first, needs no credit
    uint32_t deaths;                 // of replicas that had it, without a new token between them
    uint32_t avoid;                  // id of the replica that failed it
    uint64_t waits_ns, not_before_ns, lost_ns;
    uint64_t began_ns, heard_ns;  // its transfer; the last token
    uint64_t leave_ns, leave_for; // when it leaves a replica that goes at leave_for
    size_t came;                  // bytes of records
    uint64_t hashes[ROUTE_BLOCKS_MAX];
    uint32_t hash_count;
    json_int_t prompt_tokens, cached_tokens, drawn_tokens;
    // Of an answer that goes out whole:
    struct bg_str text;
    json_t *logprobs, *ids, *finish;
    struct branch *next; // that wait
};
struct answer {
    struct visit *visit;
    // Of the body, as the client sent it:
    char *rest;     // but for what the router writes itself: `{"a":1,"b":2`
    char **prompts; // (prompt_count), as JSON
    int32_t *drawn; // (drawn_count): what it shall go on after
    bool chat, stream, include_usage, echo, return_tokens, logprobs, seed_given;
    json_int_t seed, choice, timeout_ms; // timeout_ms 0: none
    uint32_t prompt_count, drawn_count, n, max_tokens;
    uint32_t count, ended, accepted; // of branches
    struct branch *branches;
    json_t *frame; // id, created, model, system_fingerprint of the first replica that spoke
    bool failed;
};

extern const double route_resume_bucket_s[16]; // last: infinity
struct route {
    struct bg_env *env;
    struct route_options o;
    struct MHD_Daemon *daemon;
    CURLM *multi;
    int epoll;
    uint16_t port;
    uint64_t curl_due_ns; // 0: nothing to wait for
    struct transfer *ready, **ready_end;
    struct replica **replicas;
    uint32_t replica_count, next_replica, turn;
    struct bg_file_info file;
    uint64_t file_due_ns, silence_due_ns;
    unsigned reread;
    char digest[65]; // of the model that all replicas serve; "": nobody told yet
    struct route_affinity *affinity;
    struct branch *waiting, **waiting_end;
    uint32_t waiting_count, open;
    struct visit *visits;
    struct door_keys keys;
    bool draining;
    struct bg_gate *gate; // of the reader's
    struct bg_thread *reader;
    int bell;                             // rung by it
    struct reading *unread, **unread_end; // gate
    struct reading *read;                 // gate
    bool closing;                         // gate
    size_t held;                          // bytes of bodies that are with it
    double request_s;                     // of late
    uint64_t requests, answers[600], refused, others, resumed, resumed_tokens, moved_stalled, handed_over, preferred,
        shipped, shipped_bytes;
    double ship_bandwidth, ship_bytes_token; // of late
    uint64_t resume_buckets[16];             // by route_resume_bucket_s
    double resume_s;
};

// front.c
bg_status front_listen(struct route *route, struct bg_error *err);
void front_peer(struct visit *visit, uint32_t events); // a client has gone, or says no more
void front_close(struct route *route);
void visit_resume(struct visit *visit);
void visit_answer(struct visit *visit, uint32_t status, const char *type, const void *bytes, size_t size);
void visit_answer_json(struct visit *visit, uint32_t status, json_t *json);
void visit_refuse(struct visit *visit, uint32_t status, const char *type, const char *code, const char *format, ...)
    BG_PRINTF(5, 6);

// pass.c: what is not a text request, and the router's own pages
void pass_begin(struct visit *visit);
void pass_on(struct visit *visit); // to a replica, as it is
void pass_done(struct transfer *transfer);

// relay.c
void relay_begin(struct visit *visit);
void relay_take(struct visit *visit, struct answer *answer); // the body was read
void relay_drop(struct answer *answer);
void relay_came(struct transfer *transfer);
void relay_tick(struct route *route, uint64_t now);
// The replica is given up, another shall go on.
enum relay_cause {
    RELAY_MOVES, // the replica is leaving, or seems to be
    RELAY_DIED,  // it died with this request, maybe of it
    RELAY_FULL,  // it had no room
};
void relay_leave(struct branch *branch, enum relay_cause cause);

// body.c
struct answer *body_read(const char *body, size_t size, bool chat); // any thread. NULL: not for us to judge
char *body_write(const struct branch *branch, uint64_t now);        // of the request that goes on
void body_free(struct answer *answer);                              // without branches

// reader.c
bg_status reader_open(struct route *route, struct bg_error *err);
void reader_close(struct route *route);
bool reader_begin(struct visit *visit, bool chat); // relay_take() comes later. False: too many wait
uint32_t reader_waiting(struct route *route);      // bodies that it has not begun
void reader_drop(struct visit *visit);             // its client is gone
void reader_rung(struct route *route);
void reader_take(struct route *route);

// ship.c: keys and values go ahead of a request that leaves
void ship_begin(struct branch *branch, uint64_t now);
void ship_came(struct transfer *transfer);

// record.c: the records of a stream, as the client gets them
// Takes one in. False: the replica has broken off; *why says how.
bool record_take(struct branch *branch, const char *data, size_t size, const char **why);
void record_drop_held(struct branch *branch);
json_t *record_answer(const struct answer *answer);
void record_usage(const struct answer *answer, struct bg_str *out);

// upstream.c
bg_status upstream_open(struct route *route, struct bg_error *err);
void upstream_close(struct route *route);
// body: taken over; NULL: GET. timeout_ms: of all of it; 0: none
struct transfer *transfer_start(struct route *route, enum transfer_kind kind, struct replica *replica, void *owner,
                                const char *method, const char *path, char *body, size_t body_size,
                                uint32_t timeout_ms);
void transfer_end(struct transfer *transfer); // breaks it off where it is not done
void upstream_event(struct route *route, int fd, uint32_t events);
void upstream_work(struct route *route, uint64_t now);
// What an answer that is no 200 says, in at most size - 1 bytes.
void transfer_tell(const struct transfer *transfer, char *text, size_t size);

// replicas.c
bg_status replicas_open(struct route *route, struct bg_error *err);
void replicas_tick(struct route *route, uint64_t now);
void replicas_probed(struct transfer *probe);
bool replica_notice(struct route *route, const char *url, double seconds); // its machine goes then. False: no such one
void replica_away(struct replica *replica, struct route *route, enum replica_state state, const char *said);
// Whether what came is of the model that all serve; else the replica is not used any more. Headers must be there.
bool replica_is_ours(const struct transfer *transfer);
// fresh: a new request, which needs credit. NULL: nobody.
struct replica *replica_choose(struct route *route, const struct branch *branch, bool fresh);
bool replicas_any_up(const struct route *route);
bool replicas_any_to_leave(const struct route *route);             // that have requests and stall or drain
void replicas_say(const struct route *route, struct bg_str *text); // who they are and what they said
json_t *replicas_json(const struct route *route);
void replicas_close(struct route *route);

#endif
