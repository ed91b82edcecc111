// What the pictures of `sim` and `trace` have in common: axes with round ticks, and a legend above the plot.
#ifndef CLI_CHART_H
#define CLI_CHART_H

#include "base/svg.h"

#include <stdbool.h>

struct chart_axis {
    double low, high;   // of the data
    double first, last; // pixels of them
    double step;        // between ticks
    int decimals;
};
// `gap`: least pixels between ticks. `widen`: low and high move out to ticks.
struct chart_axis chart_axis_make(double low, double high, double first, double last, double gap, bool widen);
double chart_place(const struct chart_axis *axis, double value);
// Ticks, their numbers, faint lines across the plot, and what is measured.
void chart_draw_x(struct bg_str *svg, const struct chart_axis *x, double top, double bottom, const char *label);
void chart_draw_y(struct bg_str *svg, const struct chart_axis *y, double left, double right, const char *label);

// The unit in which so many seconds make a short axis, its name and its seconds.
const char *chart_time_unit(double seconds, double *unit_s);

enum chart_mark { CHART_BOX, CHART_LINE, CHART_DASHES };
struct chart_key {
    const char *text, *color;
    enum chart_mark mark;
};
#define CHART_DASHED " stroke-dasharray=\"6 4\"" // what a line of CHART_DASHES has
// Keys side by side from x on, in rows of 20 pixels from y on; `svg` NULL: only counts. The rows.
size_t chart_legend(struct bg_str *svg, const struct chart_key *keys, size_t count, double x, double y, double width);

#endif
