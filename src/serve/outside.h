// Pages of keys and values that the pool has no room for: in memory, and those dropped from there as files in a
// directory. What costs most to compute again per time since its use stays longest (Pensieve, EuroSys'25, section 4.3).
// A page is found by the hash of all tokens up to its end, of the model and of the layout, so pages of another model
// are never found; a damaged file is dropped when it is read. Work on files is bounded between calls of outside_turn().
#ifndef SERVE_OUTSIDE_H
#define SERVE_OUTSIDE_H

#include "base/env.h"

struct outside_key {
    uint8_t sha256[32];
};

struct outside_options {
    size_t page_bytes;
    uint64_t fingerprint;  // of the model
    uint64_t memory_bytes; // 0: nothing is kept in memory
    const char *directory; // NULL: nothing is kept on disk. Made if need be; this process alone uses it
    uint64_t disk_bytes;
};

struct outside;
BG_MUST_USE bg_status outside_create(struct bg_env *env, const struct outside_options *options, struct bg_error *err,
                                     struct outside **outside);
void outside_destroy(struct outside *outside);     // what is on disk stays there
bool outside_keeps(const struct outside *outside); // anything at all

struct outside_key outside_root(const struct outside *outside);
struct outside_key outside_next(struct outside_key before, const int32_t *tokens, uint32_t count);

// now, used: turns of the same clock, used <= now. depth: pages up to this one.
void outside_put(struct outside *outside, const struct outside_key *key, uint32_t depth, uint64_t used, uint64_t now,
                 const void *page);
bool outside_has(const struct outside *outside, const struct outside_key *key);
bool outside_get(struct outside *outside, const struct outside_key *key, uint64_t now, void *page); // false: it is gone
void outside_drop(struct outside *outside, const struct outside_key *key);
void outside_turn(struct outside *outside);
// From here on all that is put goes to disk, without bounds: before the end. Memory is written out first.
void outside_flush(struct outside *outside, uint64_t now);

struct outside_counts {
    uint64_t memory_bytes, disk_bytes;
    uint64_t memory_hits, disk_hits;
    uint64_t disk_errors; // files that could not be written, or were damaged
};
struct outside_counts outside_count(const struct outside *outside);
uint64_t outside_first_turn(const struct outside *outside); // later than the use of all that was found on disk

#endif
