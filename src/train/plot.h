// Loss curves of one or several runs as one SVG: training loss as a line, validation as points, a legend.
#ifndef TRAIN_PLOT_H
#define TRAIN_PLOT_H

#include "base/env.h"

#include <stdbool.h>

struct plot_options {
    uint32_t width, height; // 0: 900 x 540
    bool log_y;             // logarithmic loss axis
    const char *title;      // NULL: none
};

// `runs`: run directories. The text of the SVG; bg_free it.
BG_MUST_USE bg_status plot_runs(struct bg_env *env, const char *const *runs, size_t count,
                                const struct plot_options *options, struct bg_error *err, char **svg);

#endif
