// Files of traces (plan/spot/trace.h) for the verbs: read, with what was mended said; drawn.
#ifndef CLI_TRACE_H
#define CLI_TRACE_H

#include "base/env.h"
#include "plan/spot/trace.h"

// Says on standard error what had to be mended.
BG_MUST_USE bg_status trace_load(struct bg_env *env, const char *path, struct bg_error *err, struct plan_trace *trace);

// A whole number a line, `count` of them, at most `max`; bg_free *numbers.
BG_MUST_USE bg_status trace_numbers_read(struct bg_env *env, const char *path, uint32_t max, struct bg_error *err,
                                         uint32_t **numbers, size_t *count);

// A row a trace, for events also one a node, over time; bg_free it.
char *trace_picture(const struct plan_trace *traces, char *const *names, size_t count);

#endif
