// What the handles of include/brigade/ hold, and the frame of every call.
#ifndef API_API_INT_H
#define API_API_INT_H

#include "base/env.h"
#include "model/decode.h"
#include "model/generate.h"
#include "model/io.h"

#include <brigade/brigade.h>

#include <locale.h>

struct bg_context {
    struct bg_env *env;
    struct bg_error err; // of the last call that failed
    locale_t numbers;    // "C": job files and formats spell numbers with a point, whatever the program's locale
};

struct bg_model {
    bg_context *context;
    struct model_files files;
};

struct bg_session {
    bg_model *model;
    struct decoder *decoder;
};

// Around every call that computes, reads or writes numbers: the contract's floating-point state (NUMERICS 1) and the
// C locale in, the caller's back.
struct api_frame {
    uint32_t fp;
    locale_t locale;
};
static inline struct api_frame api_enter(const struct bg_context *context)
{
    return (struct api_frame){kern_fp_enter(), uselocale(context->numbers)};
}
static inline bg_status api_leave(struct api_frame frame, bg_status status)
{
    kern_fp_leave(frame.fp);
    uselocale(frame.locale);
    return status;
}

#endif
