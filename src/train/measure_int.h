// Inside the measurement: what takes seconds of computing, and what messages and the log cost.
#ifndef TRAIN_MEASURE_INT_H
#define TRAIN_MEASURE_INT_H

#include "train/measure.h"

// Between two threads over shared memory: inner (and outer) link, message_s, message_byte_s.
bg_status measure_messages(struct bg_env *env, struct bg_error *err, struct plan_profile *profile);
// commit_s: the log's record, and the way to the controller and back.
bg_status measure_commit(struct bg_env *env, struct store *log, struct bg_error *err, struct plan_profile *profile);

// The median of `count` values (sorted here).
double measure_typical(double *values, uint32_t count);

#endif
