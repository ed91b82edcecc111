// What the router decides, as pure functions: which replica answers (Prequal's hot and cold, prefixes), how many
// requests a replica is given (Breakwater's credits), what becomes of a request whose replica was told to go
// (SpotServe's arranger), and the reading of what replicas tell about themselves.
#ifndef SERVE_ROUTE_POLICY_H
#define SERVE_ROUTE_POLICY_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

enum { ROUTE_REPLICAS_MAX = 256, ROUTE_BLOCK = 32, ROUTE_BLOCKS_MAX = 64, ROUTE_AFFINITY_SLOTS = 8192 };
#define ROUTE_NOBODY UINT32_MAX

// ---- Who answers ----
struct route_load {     // of a replica, as it was probed last
    bool usable;        // it answers and may be given one more
    uint32_t in_flight; // what it told, and what was sent to it since
    double latency_s;   // of late
};
// Wydrowski et al., "Load is not what you should balance: Introducing Prequal" (NSDI'24), section 4: a replica is hot
// when it has more in flight than the quantile over the replicas; of the cold ones (there is one) the fastest answers.
// `liked` (ROUTE_NOBODY: none) goes first unless it is hot. Equal ones take turns, beginning at `turn`. ROUTE_NOBODY:
// nobody is usable. Prequal keeps a pool of a few probes of many replicas; here every replica has its newest probe.
uint32_t route_choose(const struct route_load *loads, uint32_t count, double quantile, uint32_t liked, uint32_t turn);

// ---- Who has answered the like ----
struct route_affinity { // which replica had a prefix last; what falls on the same slot replaces it
    uint64_t hash[ROUTE_AFFINITY_SLOTS];
    uint32_t replica[ROUTE_AFFINITY_SLOTS];
};
// Hashes of the first 1, 2, .. blocks of a prompt. Returns how many.
uint32_t route_prefixes(const void *bytes, size_t size, uint64_t hashes[ROUTE_BLOCKS_MAX]);
// The replica that had the longest of these prefixes; ROUTE_NOBODY: none.
uint32_t route_affinity_find(const struct route_affinity *a, const uint64_t *hashes, uint32_t count);
void route_affinity_note(struct route_affinity *a, const uint64_t *hashes, uint32_t count, uint32_t replica);

// ---- How many ----
struct route_credit {
    double credits; // requests that the replica may have from here
};
enum { ROUTE_CREDITS_BEGIN = 16, ROUTE_CREDITS_MAX = 4096 };
// Cho et al., "Overload Control for us-scale RPCs with Breakwater" (OSDI'20), section 4: more by a little while
// requests wait less than the target, less in proportion to the excess beyond, by half at most. clients: routers that
// share it. in_use: that the replica has now: credits of which not half are used do not grow, else an idle hour would
// let any burst in.
void route_credit_update(struct route_credit *c, double waited_s, double target_s, uint32_t clients, uint32_t in_use);
void route_credit_refused(struct route_credit *c); // the replica's own queue was full

// ---- Leaving ----
struct route_notice {
    double grace_s;       // until the machine is gone
    uint32_t tokens_held; // prompt and answer so far
    uint32_t tokens_left; // at most to be drawn yet
    double token_s;       // to draw one here
    double recompute_s;   // a token of a prompt, elsewhere
    double bytes_token;   // keys and values of a token
    double bandwidth;     // bytes a second to elsewhere; 0: nothing can be shipped
};
enum route_leave { ROUTE_FINISH, ROUTE_SHIP, ROUTE_RECOMPUTE };
struct route_arrangement {
    enum route_leave leave;
    uint32_t steps; // tokens to draw here first
    double pause_s; // that the reader then waits, at most
};
// Miao et al., "SpotServe" (ASPLOS'24), section 4.1: as many tokens as fit are drawn before the grace period ends; what
// is not finished by then moves, with its state when that arrives in time and takes less than computing it again.
struct route_arrangement route_arrange(const struct route_notice *notice);

// ---- What a replica tells (Prometheus' text) ----
struct route_sample {
    uint32_t running, waiting;
    double ttft_s, ttft_count, gap_s, gap_count, queued_s, queued_count; // totals since it started
    double prompt_tokens, cached_tokens;
};
bool route_read_sample(const char *text, size_t size, struct route_sample *sample); // false: not all of it stands there

// The next record of an event stream: what stands behind "data:" up to the empty line. Returns the bytes that it takes,
// 0: it is not whole yet. *data: (*data_size) within bytes; NULL: a comment or nothing.
size_t route_record(const char *bytes, size_t size, const char **data, size_t *data_size);

#endif
