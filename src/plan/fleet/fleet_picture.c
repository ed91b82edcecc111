// A fleet over time as SVG: above the machines there were and those of them that worked, below samples per second.
#include "plan/fleet/fleet.h"

#include <stdio.h>

enum { WIDTH = 960, LEFT = 56, COLUMNS = 864, TOP = 28, PANEL = 150, GAP = 24, HEIGHT = TOP + 2 * PANEL + GAP + 28 };

struct panel {
    double base_y, most; // of the values
    uint32_t columns;
    const struct plan_fleet_result *result;
};
enum series { THERE, USED, RATE };

// The mean over the intervals of a column; samples per interval.
static double value_of(const struct panel *p, uint32_t column, enum series series)
{
    const uint64_t count = p->result->interval_count;
    const uint64_t from = column * count / p->columns, to = (column + UINT64_C(1)) * count / p->columns;
    double sum = 0;
    for (uint64_t i = from; i < to; i++) {
        const struct plan_fleet_interval *v = &p->result->intervals[i];
        sum += series == THERE ? v->nodes : series == USED ? plan_fleet_nodes(v->shape) : v->samples;
    }
    return sum / (double)(to - from);
}

static double most_of(const struct panel *p, enum series series)
{
    double most = 0;
    for (uint32_t c = 0; c < p->columns; c++) {
        const double value = value_of(p, c, series);
        most = value > most ? value : most;
    }
    return most > 0 ? most : 1;
}

static void add_band(struct bg_str *svg, const struct panel *p, enum series series, const char *color)
{
    const double width = (double)COLUMNS / p->columns;
    bg_str_addf(svg, "<path fill=\"%s\" d=\"M%d %.1f", color, LEFT, p->base_y);
    for (uint32_t c = 0; c < p->columns; c++) {
        const double y = p->base_y - PANEL * value_of(p, c, series) / p->most;
        bg_str_addf(svg, "L%.1f %.1fL%.1f %.1f", LEFT + c * width, y, LEFT + (c + 1) * width, y);
    }
    bg_str_addf(svg, "L%d %.1fz\"/>\n", LEFT + COLUMNS, p->base_y);
}

static void add_text(struct bg_str *svg, double x, double y, const char *color, const char *text)
{
    bg_str_addf(svg, "<text x=\"%.1f\" y=\"%.1f\" fill=\"%s\">%s</text>\n", x, y, color, text);
}

char *plan_fleet_picture(const struct plan_fleet_result *result, const char *policy)
{
    struct bg_str svg = {0};
    char text[64];
    struct panel p = {.base_y = TOP + PANEL, .result = result};
    p.columns = result->interval_count < COLUMNS ? result->interval_count : COLUMNS;
    bg_str_addf(&svg,
                "<svg xmlns=\"http://www.w3.org/2000/svg\" width=\"%d\" height=\"%d\" font-family=\"sans-serif\" "
                "font-size=\"12\">\n<rect width=\"100%%\" height=\"100%%\" fill=\"white\"/>\n",
                WIDTH, HEIGHT);
    add_text(&svg, LEFT, 16, "#222", policy);
    add_text(&svg, WIDTH - 380, 16, "#888", "machines there");
    add_text(&svg, WIDTH - 270, 16, "#4d8b55", "at work");
    add_text(&svg, WIDTH - 200, 16, "#4a6fa5", "samples per second");
    p.most = most_of(&p, THERE);
    add_band(&svg, &p, THERE, "#dddddd");
    add_band(&svg, &p, USED, "#7fb685");
    snprintf(text, sizeof text, "%.0f", p.most);
    add_text(&svg, LEFT - 44, TOP + 10, "#222", text);
    p.base_y += PANEL + GAP;
    p.most = most_of(&p, RATE);
    add_band(&svg, &p, RATE, "#8fa9d0");
    snprintf(text, sizeof text, "%.4g", p.most * result->interval_count / result->seconds);
    add_text(&svg, LEFT - 44, TOP + PANEL + GAP + 10, "#222", text);
    snprintf(text, sizeof text, "%.1f h", result->seconds / 3600);
    add_text(&svg, LEFT + COLUMNS - 40, HEIGHT - 8, "#222", text);
    bg_str_add(&svg, "</svg>\n");
    return bg_str_take(&svg);
}
