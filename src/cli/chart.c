// Axes and legends of pictures.
#include "cli/chart.h"

#include <math.h>
#include <stdio.h>

struct chart_axis chart_axis_make(double low, double high, double first, double last, double gap, bool widen)
{
    struct chart_axis axis = {.low = low, .high = high > low ? high : low + 1, .first = first, .last = last};
    axis.step = bg_svg_step((axis.high - axis.low) * gap / fabs(last - first), &axis.decimals);
    if (widen) {
        axis.low = floor(axis.low / axis.step + 1e-9) * axis.step;
        axis.high = ceil(axis.high / axis.step - 1e-9) * axis.step;
    }
    return axis;
}

double chart_place(const struct chart_axis *axis, double value)
{
    return axis->first + (value - axis->low) / (axis->high - axis->low) * (axis->last - axis->first);
}

static double first_tick(const struct chart_axis *axis)
{
    return ceil(axis->low / axis->step - 1e-9);
}

static bool is_shown(const struct chart_axis *axis, double tick)
{
    return tick * axis->step <= axis->high + 1e-9 * fabs(axis->high);
}

void chart_draw_x(struct bg_str *svg, const struct chart_axis *x, double top, double bottom, const char *label)
{
    for (double n = first_tick(x); is_shown(x, n); n++) {
        char text[32];
        const double at = chart_place(x, n * x->step);
        snprintf(text, sizeof text, "%.*f", x->decimals, n * x->step + 0.0);
        bg_svg_line(svg, at, top, at, bottom, " stroke=\"#e4e7ea\"");
        bg_svg_line(svg, at, bottom, at, bottom + 5, " stroke=\"#8a9199\"");
        bg_svg_text(svg, at, bottom + 20, "middle", "", text);
    }
    bg_svg_line(svg, x->first, bottom, x->last, bottom, " stroke=\"#8a9199\"");
    bg_svg_text(svg, (x->first + x->last) / 2, bottom + 40, "middle", "", label);
}

void chart_draw_y(struct bg_str *svg, const struct chart_axis *y, double left, double right, const char *label)
{
    for (double n = first_tick(y); is_shown(y, n); n++) {
        char text[32];
        const double at = chart_place(y, n * y->step);
        snprintf(text, sizeof text, "%.*f", y->decimals, n * y->step + 0.0);
        bg_svg_line(svg, left, at, right, at, " stroke=\"#e4e7ea\"");
        bg_svg_text(svg, left - 8, at + 4, "end", "", text);
    }
    const double middle = (y->first + y->last) / 2;
    char turn[80];
    snprintf(turn, sizeof turn, " transform=\"rotate(-90 16 %.1f)\"", middle);
    bg_svg_text(svg, 16, middle, "middle", turn, label);
}

const char *chart_time_unit(double seconds, double *unit_s)
{
    static const struct {
        const char *name;
        double seconds;
    } units[] = {{"days", 86400}, {"hours", 3600}, {"minutes", 60}, {"seconds", 1}};
    size_t i = 0;
    while (i < 3 && seconds < 4 * units[i].seconds)
        i++;
    *unit_s = units[i].seconds;
    return units[i].name;
}

size_t chart_legend(struct bg_str *svg, const struct chart_key *keys, size_t count, double x, double y, double width)
{
    double at = x;
    size_t rows = count > 0;
    for (size_t i = 0; i < count; i++) {
        const double size = 28 + bg_svg_text_width(keys[i].text, BG_SVG_FONT);
        if (at > x && at + size > x + width) {
            at = x;
            rows++;
        }
        const double base = y + 20 * (double)(rows - 1);
        char style[80];
        if (svg && keys[i].mark != CHART_BOX) {
            snprintf(style, sizeof style, " stroke=\"%s\" stroke-width=\"2\"%s", keys[i].color,
                     keys[i].mark == CHART_DASHES ? CHART_DASHED : "");
            bg_svg_line(svg, at, base - 4, at + 16, base - 4, style);
        } else if (svg) {
            snprintf(style, sizeof style, " fill=\"%s\"", keys[i].color);
            bg_svg_rect(svg, at, base - 10, 16, 12, style);
        }
        if (svg)
            bg_svg_text(svg, at + 22, base, "start", "", keys[i].text);
        at += size + 12;
    }
    return rows;
}
