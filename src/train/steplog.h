// Reading a run's steps.jsonl: one line a step, in order; the loss is taken from its bits.
#ifndef TRAIN_STEPLOG_H
#define TRAIN_STEPLOG_H

#include "base/env.h"

struct steplog {
    double *losses; // (steps)
    size_t *begin;  // (steps + 1) offsets of the lines in `text`; the last one is where the good lines end
    uint64_t steps;
    bool torn; // something unreadable follows the last line (a kill leaves half a line)
    char *text;
};

// Strict: a line in the middle that is wrong, missing or twice is BG_CORRUPT with file and line; half a line at the
// end is not. Lenient: reading ends at the first wrong line. An absent file has no steps.
BG_MUST_USE bg_status steplog_read(struct bg_env *env, const char *run_directory, bool lenient, struct bg_error *err,
                                   struct steplog *log);
// `name` stands in errors.
BG_MUST_USE bg_status steplog_parse(const char *name, const char *text, size_t size, bool lenient, struct bg_error *err,
                                    struct steplog *log);
void steplog_fini(struct steplog *log);

#endif
