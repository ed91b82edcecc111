// How fast one server of a model is on this machine, by the engine that `brigade serve` runs: what the queue of
// `sim service` needs to know of a replica.
#ifndef CLI_CALIBRATE_H
#define CLI_CALIBRATE_H

#include "base/env.h"
#include "plan/service/service.h"

// Sets prompt_rate, step_s and extra_s of *service for its slots. A few seconds at most for small models.
BG_MUST_USE bg_status calibrate_service(struct bg_env *env, const char *model, struct bg_error *err,
                                        struct plan_service_model *service);

#endif
