// The controller's log: what has been decided and must not be forgotten when the controller dies. Append-only records,
// each one durable against the death of any process when append returns (not against loss of power: what is lost then
// is computed again, bit for bit, from the newest checkpoint).
#ifndef STORE_STORE_H
#define STORE_STORE_H

#include "base/env.h"

enum store_kind {
    STORE_JOB,        // text: signature hash
    STORE_MEMBER,     // a = id, b = process, c = its start time, d = role; text: address
    STORE_LOST,       // a = id
    STORE_GENERATION, // a = generation, b = first step
    STORE_COMMIT,     // a = step, x = loss, y = norm, z = clip
    STORE_ROLLBACK,   // a = step: the open one from here on; what comes after it is computed again
    STORE_EVALUATION, // a = step, b = tokens, x = loss, y = bits per byte
    STORE_CHECKPOINT, // a = step; text: directory
    STORE_FINISHED,   // a = steps; text: weights hash
};
struct store_record {
    enum store_kind kind;
    uint64_t a, b, c, d;
    double x, y, z;   // stored as bits
    const char *text; // NULL or up to 1023 bytes
};

struct store;
struct store_ops {
    bg_status (*append)(struct store *store, const struct store_record *record, struct bg_error *err);
    // All records in order.
    bg_status (*replay)(struct store *store, bg_status (*fn)(void *arg, const struct store_record *, struct bg_error *),
                        void *arg, struct bg_error *err);
    void (*close)(struct store *store);
};
struct store {
    const struct store_ops *ops;
};

#endif
