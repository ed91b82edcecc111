// What the handles of include/brigade/ hold, and the frame of every call.
#ifndef API_API_INT_H
#define API_API_INT_H

#include "base/env.h"
#include "model/decode.h"
#include "model/generate.h"
#include "model/io.h"

#include <brigade/brigade.h>

struct bg_context {
    struct bg_env *env;
    struct bg_error err; // of the last call that failed
};

struct bg_model {
    bg_context *context;
    struct model_files files;
};

struct bg_session {
    bg_model *model;
    struct decoder *decoder;
};

// Around every call that computes: the contract's floating-point state in, the caller's back (NUMERICS 1).
struct api_frame {
    uint32_t fp;
};
static inline struct api_frame api_enter(void)
{
    return (struct api_frame){kern_fp_enter()};
}
static inline bg_status api_leave(struct api_frame frame, bg_status status)
{
    kern_fp_leave(frame.fp);
    return status;
}

#endif
