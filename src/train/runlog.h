// What a run writes about itself: steps.jsonl (a line a step, no allocation), events.jsonl (what happened, with times),
// result.json (the end).
#ifndef TRAIN_RUNLOG_H
#define TRAIN_RUNLOG_H

#include "base/env.h"
#include "train/commit.h"

#include <jansson.h>

struct runlog {
    struct bg_env *env;
    char *directory;
    struct bg_file *steps, *events;
};

// Fresh: both files made empty.
BG_MUST_USE bg_status runlog_create(struct runlog *log, struct bg_env *env, const char *directory,
                                    struct bg_error *err);
// Resumed at `steps` steps with these losses: steps.jsonl keeps its first lines as far as they are whole and say the
// same; missing ones are written anew from the losses. *rewritten: how many.
BG_MUST_USE bg_status runlog_resume(struct runlog *log, struct bg_env *env, const char *directory, const double *losses,
                                    uint64_t steps, struct bg_error *err, uint64_t *rewritten);
// Closes always, also when it fails.
BG_MUST_USE bg_status runlog_close(struct runlog *log, struct bg_error *err);

struct runlog_step {
    const struct step_record *record;
    double lr;
    uint64_t tokens; // of this step
    double tokens_per_second;
    uint32_t workers, generation; // that computed it
};
BG_MUST_USE bg_status runlog_step(struct runlog *log, const struct runlog_step *step, struct bg_error *err);
// Takes over `fields` (an object, or NULL); adds time (wall, ms) and event.
BG_MUST_USE bg_status runlog_event(struct runlog *log, const char *event, json_t *fields, struct bg_error *err);
BG_MUST_USE bg_status runlog_sync(struct runlog *log, struct bg_error *err);
// Takes over `result`.
BG_MUST_USE bg_status runlog_result(struct bg_env *env, const char *directory, json_t *result, struct bg_error *err);

#endif
