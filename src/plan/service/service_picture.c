// Ready replicas over time as SVG: on-demand ones below, spot ones upon them, the target as a line.
#include "plan/service/service.h"

#include <stdio.h>

enum { WIDTH = 960, HEIGHT = 240, LEFT = 48, TOP = 28, BOTTOM = 28, COLUMNS = 864 };

static double y_of(double replicas, double most)
{
    return TOP + (HEIGHT - TOP - BOTTOM) * (1 - replicas / most);
}

// The moments of one column: the fewest ready, the highest target.
static struct plan_service_moment column_of(const struct plan_service_result *result, uint32_t column, uint32_t columns)
{
    const uint64_t count = result->moment_count, from = column * count / columns,
                   to = (column + UINT64_C(1)) * count / columns;
    struct plan_service_moment worst = result->moments[from];
    for (uint64_t i = from; i < to; i++) {
        const struct plan_service_moment m = result->moments[i];
        if (m.spot + m.on_demand < worst.spot + worst.on_demand) {
            worst.spot = m.spot;
            worst.on_demand = m.on_demand;
        }
        worst.target = m.target > worst.target ? m.target : worst.target;
    }
    return worst;
}

static void add_band(struct bg_str *svg, const struct plan_service_result *result, uint32_t columns, double most,
                     bool spot)
{
    bg_str_addf(svg, "<path fill=\"%s\" d=\"M%d %.1f", spot ? "#7fb685" : "#d98880", LEFT, y_of(0, most));
    for (uint32_t c = 0; c < columns; c++) {
        const struct plan_service_moment m = column_of(result, c, columns);
        const double y = y_of(m.on_demand + (spot ? m.spot : 0), most), width = (double)COLUMNS / columns;
        bg_str_addf(svg, "L%.1f %.1fL%.1f %.1f", LEFT + c * width, y, LEFT + (c + 1) * width, y);
    }
    bg_str_addf(svg, "L%d %.1fz\"/>\n", LEFT + COLUMNS, y_of(0, most));
}

static void add_text(struct bg_str *svg, double x, double y, const char *color, const char *text)
{
    bg_str_addf(svg, "<text x=\"%.1f\" y=\"%.1f\" fill=\"%s\">", x, y, color);
    for (; *text; text++) {
        const char *escaped = *text == '<' ? "&lt;" : *text == '&' ? "&amp;" : NULL;
        if (escaped)
            bg_str_add(svg, escaped);
        else
            bg_str_add_bytes(svg, text, 1);
    }
    bg_str_add(svg, "</text>\n");
}

char *plan_service_picture(const struct plan_service_result *result, double interval_s, const char *title)
{
    struct bg_str svg = {0};
    const uint32_t columns = result->moment_count < COLUMNS ? result->moment_count : COLUMNS;
    double most = 1;
    for (uint32_t i = 0; i < result->moment_count; i++) {
        const struct plan_service_moment m = result->moments[i];
        const uint32_t ready = m.spot + m.on_demand, higher = ready > m.target ? ready : m.target;
        most = higher > most ? higher : most;
    }
    bg_str_addf(&svg,
                "<svg xmlns=\"http://www.w3.org/2000/svg\" width=\"%d\" height=\"%d\" font-family=\"sans-serif\" "
                "font-size=\"12\">\n<rect width=\"100%%\" height=\"100%%\" fill=\"white\"/>\n",
                WIDTH, HEIGHT);
    add_text(&svg, LEFT, 16, "#222", title);
    add_text(&svg, WIDTH - 290, 16, "#4d8b55", "spot");
    add_text(&svg, WIDTH - 250, 16, "#b5564c", "on-demand");
    add_text(&svg, WIDTH - 170, 16, "#222", "target (line)");
    add_band(&svg, result, columns, most, true);
    add_band(&svg, result, columns, most, false);
    bg_str_add(&svg, "<path fill=\"none\" stroke=\"#222\" stroke-width=\"1.5\" d=\"");
    for (uint32_t c = 0; c < columns; c++) {
        const double y = y_of(column_of(result, c, columns).target, most), width = (double)COLUMNS / columns;
        bg_str_addf(&svg, "%c%.1f %.1fL%.1f %.1f", c ? 'L' : 'M', LEFT + c * width, y, LEFT + (c + 1) * width, y);
    }
    bg_str_add(&svg, "\"/>\n");
    char text[64];
    snprintf(text, sizeof text, "%.0f", most);
    add_text(&svg, LEFT - 30, y_of(most, most) + 10, "#222", text);
    add_text(&svg, LEFT - 30, y_of(0, most), "#222", "0");
    snprintf(text, sizeof text, "%.1f h", result->moment_count * interval_s / 3600);
    add_text(&svg, LEFT + COLUMNS - 40, HEIGHT - 8, "#222", text);
    bg_str_add(&svg, "</svg>\n");
    return bg_str_take(&svg);
}
