// Traces of spot machines from files, as arrays for plan/. Errors name the file and what in it is wrong.
#ifndef CLI_TRACE_H
#define CLI_TRACE_H

#include "base/env.h"

#include <stdint.h>

struct trace_spot { // how many spot instances were there to be had, tick by tick
    double gap_s;
    uint32_t *counts; // (count)
    size_t count;
};

// {"metadata": {"gap_seconds": 600}, "data": [1, 0, ...]}
BG_MUST_USE bg_status trace_spot_read(struct bg_env *env, const char *path, struct bg_error *err,
                                      struct trace_spot *trace);
void trace_spot_fini(struct trace_spot *trace);

// A whole number a line, `count` of them, at most `max`; bg_free *numbers.
BG_MUST_USE bg_status trace_numbers_read(struct bg_env *env, const char *path, uint32_t max, struct bg_error *err,
                                         uint32_t **numbers, size_t *count);

#endif
