// Pictures of `sim` over time: a fleet and what its shapes earn, a service and its target.
#include "cli/chart.h"
#include "cli/sim.h"

#include <math.h>
#include <stdio.h>

enum { WIDTH = 1000, LEFT = 84, RIGHT = 24, COLUMNS = WIDTH - LEFT - RIGHT };
static const char there_color[] = "#dfe3e6", spot_color[] = "#7fc795", demand_color[] = "#ec9a76",
                  rate_color[] = "#7fb0d9", target_color[] = "#2f363d";

// Something over time in as many columns as there are pixels, or fewer.
struct series {
    uint32_t columns;
    double values[COLUMNS];
};

// The entries [from, to) of a column; none is empty.
static void column_of(const struct series *s, uint32_t column, uint32_t count, uint32_t *from, uint32_t *to)
{
    *from = (uint32_t)((uint64_t)column * count / s->columns);
    *to = (uint32_t)((column + UINT64_C(1)) * count / s->columns);
}

static void open_series(struct series *s, uint32_t count)
{
    s->columns = count < COLUMNS ? count : COLUMNS;
}

static double most_of(const struct series *s)
{
    double most = 0;
    for (uint32_t c = 0; c < s->columns; c++)
        most = fmax(most, s->values[c]);
    return most;
}

static void add_steps(struct bg_str *svg, const struct chart_axis *y, const struct series *s, char first)
{
    const double width = (double)COLUMNS / s->columns;
    for (uint32_t c = 0; c < s->columns; c++) {
        const double at = chart_place(y, s->values[c]);
        bg_str_addf(svg, "%c%.1f %.1fL%.1f %.1f", c ? 'L' : first, LEFT + c * width, at, LEFT + (c + 1) * width, at);
    }
}

static void draw_area(struct bg_str *svg, const struct chart_axis *y, const struct series *s, const char *color)
{
    bg_str_addf(svg, "<path fill=\"%s\" d=\"M%d %.1f", color, LEFT, chart_place(y, 0));
    add_steps(svg, y, s, 'L');
    bg_str_addf(svg, "L%d %.1fz\"/>\n", LEFT + COLUMNS, chart_place(y, 0));
}

static void open_picture(struct bg_str *svg, double height, const char *title, const struct chart_key *keys,
                         size_t count)
{
    bg_svg_open(svg, WIDTH, height);
    bg_svg_text(svg, LEFT, 24, "start", " font-size=\"14\" font-weight=\"600\"", title);
    chart_legend(svg, keys, count, LEFT, 48, COLUMNS);
}

static void draw_time(struct bg_str *svg, double seconds, double top, double bottom)
{
    double unit_s;
    const char *unit = chart_time_unit(seconds, &unit_s);
    const struct chart_axis x = chart_axis_make(0, seconds / unit_s, LEFT, WIDTH - RIGHT, 70, false);
    chart_draw_x(svg, &x, top, bottom, unit);
}

static struct chart_axis axis_to(double most, double bottom, double top)
{
    return chart_axis_make(0, most > 0 ? most : 1, bottom, top, 30, true);
}

char *sim_picture_fleet(const struct plan_fleet_result *result, const char *title)
{
    static const struct chart_key keys[] = {{"machines there", there_color, CHART_BOX},
                                            {"at work", spot_color, CHART_BOX},
                                            {"samples per second", rate_color, CHART_BOX}};
    enum { TOP = 64, PANEL = 160, GAP = 24, SECOND = TOP + PANEL + GAP, BOTTOM = SECOND + PANEL };
    struct bg_str svg = {0};
    struct series there = {0}, used = {0}, rate = {0};
    open_series(&there, result->interval_count);
    open_series(&used, result->interval_count);
    open_series(&rate, result->interval_count);
    const double interval_s = result->seconds / result->interval_count;
    for (uint32_t c = 0; c < there.columns; c++) {
        uint32_t from, to;
        column_of(&there, c, result->interval_count, &from, &to);
        for (uint32_t i = from; i < to; i++) {
            const struct plan_fleet_interval *v = &result->intervals[i];
            there.values[c] += (double)v->nodes / (to - from);
            used.values[c] += (double)plan_fleet_nodes(v->shape) / (to - from);
            rate.values[c] += v->samples / interval_s / (to - from);
        }
    }
    open_picture(&svg, BOTTOM + 56, title, keys, sizeof keys / sizeof *keys);
    const struct chart_axis machines = axis_to(fmax(most_of(&there), most_of(&used)), TOP + PANEL, TOP);
    const struct chart_axis samples = axis_to(most_of(&rate), BOTTOM, SECOND);
    chart_draw_y(&svg, &machines, LEFT, WIDTH - RIGHT, "machines");
    chart_draw_y(&svg, &samples, LEFT, WIDTH - RIGHT, "samples per second");
    draw_time(&svg, result->seconds, TOP, BOTTOM);
    draw_area(&svg, &machines, &there, there_color);
    draw_area(&svg, &machines, &used, spot_color);
    draw_area(&svg, &samples, &rate, rate_color);
    bg_svg_close(&svg);
    return bg_str_take(&svg);
}

// Of a column the moment with the fewest ready, and the highest target.
char *sim_picture_service(const struct plan_service_result *result, double interval_s, const char *title)
{
    static const struct chart_key keys[] = {
        {"spot", spot_color, CHART_BOX}, {"on-demand", demand_color, CHART_BOX}, {"target", target_color, CHART_LINE}};
    enum { TOP = 64, BOTTOM = TOP + 260 };
    struct bg_str svg = {0};
    struct series ready = {0}, demand = {0}, target = {0};
    open_series(&ready, result->moment_count);
    open_series(&demand, result->moment_count);
    open_series(&target, result->moment_count);
    for (uint32_t c = 0; c < ready.columns; c++) {
        uint32_t from, to;
        column_of(&ready, c, result->moment_count, &from, &to);
        for (uint32_t i = from; i < to; i++) {
            const struct plan_service_moment m = result->moments[i];
            target.values[c] = fmax(target.values[c], m.target);
            if (i > from && m.spot + m.on_demand >= ready.values[c])
                continue;
            ready.values[c] = m.spot + m.on_demand;
            demand.values[c] = m.on_demand;
        }
    }
    open_picture(&svg, BOTTOM + 56, title, keys, sizeof keys / sizeof *keys);
    const struct chart_axis y = axis_to(fmax(most_of(&ready), most_of(&target)), BOTTOM, TOP);
    chart_draw_y(&svg, &y, LEFT, WIDTH - RIGHT, "replicas ready");
    draw_time(&svg, result->moment_count * interval_s, TOP, BOTTOM);
    draw_area(&svg, &y, &ready, spot_color);
    draw_area(&svg, &y, &demand, demand_color);
    bg_str_addf(&svg, "<path fill=\"none\" stroke=\"%s\" stroke-width=\"1.5\" d=\"", target_color);
    add_steps(&svg, &y, &target, 'M');
    bg_str_add(&svg, "\"/>\n");
    bg_svg_close(&svg);
    return bg_str_take(&svg);
}
