// The picture of a schedule without a model.
#ifndef CLI_PLAN_SCHEDULE_SVG_H
#define CLI_PLAN_SCHEDULE_SVG_H

#include "base/env.h"
#include "plan/schedule/schedule.h"

// Of lists as plan_schedule_make makes them and plan_schedule_replay times them.
BG_MUST_USE bg_status cli_plan_schedule_svg(struct bg_env *env, const char *path, const char *name,
                                            const struct plan_pipe *pipe, struct plan_list *lists,
                                            const struct plan_schedule_time *time, struct bg_error *err);

#endif
