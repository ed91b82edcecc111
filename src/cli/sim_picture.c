// Pictures of `sim`: a job in its window, and costs against slack.
#include "cli/chart.h"
#include "cli/sim_windows.h"

#include <math.h>
#include <stdio.h>
#include <string.h>

enum { WIDTH = 1000, LEFT = 84, RIGHT = 24, STRIP = 18 };
static const char ground[] = " fill=\"#eef0f2\"";
static const char *const rent_colors[PLAN_RENTS] = {"#eef0f2", "#2a9d4b", "#d9541e"};

struct window {
    struct bg_str svg;
    const struct plan_deadline *job;
    struct chart_axis x; // hours
    uint32_t ticks;
};

static double x_of_tick(const struct window *w, double tick)
{
    return chart_place(&w->x, tick * w->job->gap_s / 3600);
}

static void draw_bar(struct window *w, uint32_t from, uint32_t to, double y, double height, const char *color)
{
    char style[40];
    snprintf(style, sizeof style, " fill=\"%s\"", color);
    bg_svg_rect(&w->svg, x_of_tick(w, from), y, x_of_tick(w, to) - x_of_tick(w, from), height, style);
}

static void draw_there(struct window *w, const uint32_t *spot, double y)
{
    for (uint32_t from = 0, to; from + 1 < w->ticks; from = to) {
        const bool there = spot[from] >= w->job->instances;
        for (to = from + 1; to + 1 < w->ticks && (spot[to] >= w->job->instances) == there; to++)
            ;
        if (there)
            draw_bar(w, from, to, y, STRIP, "#a9d8b8");
    }
}

// What was there, and upon it what was held there.
static void draw_zone(struct window *w, const struct plan_zones *zones, uint32_t z, const struct plan_moment *moments,
                      double y)
{
    const double end = x_of_tick(w, w->ticks - 1);
    bg_svg_rect(&w->svg, w->x.first, y, end - w->x.first, STRIP, ground);
    char name[13];
    const size_t size = strlen(zones->list[z].name);
    snprintf(name, sizeof name, "%s%s", size > 12 ? ".." : "", zones->list[z].name + (size > 12 ? size - 10 : 0));
    bg_svg_text(&w->svg, LEFT - 8, y + 13, "end", " font-size=\"11\"", name);
    draw_there(w, zones->list[z].spot, y);
    for (uint32_t from = 0, to; from + 1 < w->ticks; from = to) {
        const struct plan_choice held = moments[from].decided;
        const bool here = moments[from].decides && held.rent != PLAN_RENT_NONE && held.zone == z;
        for (to = from + 1; to + 1 < w->ticks && moments[to].decides && moments[to].decided.rent == held.rent &&
                            moments[to].decided.zone == held.zone;
             to++)
            ;
        if (here)
            draw_bar(w, from, to, y + 5, STRIP - 10, rent_colors[held.rent]);
    }
}

static void draw_strips(struct window *w, const uint32_t *spot, const struct plan_moment *moments, double y)
{
    const double end = x_of_tick(w, w->ticks - 1);
    for (int row = 0; row < 2; row++)
        bg_svg_rect(&w->svg, w->x.first, y + row * (STRIP + 8), end - w->x.first, STRIP, ground);
    bg_svg_text(&w->svg, LEFT - 8, y + 13, "end", "", "spot there");
    bg_svg_text(&w->svg, LEFT - 8, y + STRIP + 21, "end", "", "held");
    draw_there(w, spot, y);
    for (uint32_t from = 1, to; from < w->ticks;
         from = to) { // what is held before tick t is of the tick from t - 1 to t
        const enum plan_rent held = moments[from].held;
        for (to = from + 1; to < w->ticks && moments[to].held == held; to++)
            ;
        if (held != PLAN_RENT_NONE)
            draw_bar(w, from - 1, to - 1, y + STRIP + 8, STRIP, rent_colors[held]);
    }
}

static void draw_progress(struct window *w, const struct plan_moment *moments, double top, double bottom)
{
    const struct plan_deadline *job = w->job;
    const double work_h = job->work_s / 3600, deadline_h = job->deadline_s / 3600;
    double most_h = work_h;
    for (uint32_t t = 0; t < w->ticks; t++)
        most_h = fmax(most_h, moments[t].done_s / 3600);
    const struct chart_axis y = chart_axis_make(0, most_h, bottom, top, 40, true);
    chart_draw_x(&w->svg, &w->x, top, bottom, "hours");
    chart_draw_y(&w->svg, &y, w->x.first, w->x.last, "hours of work done");
    bg_svg_line(&w->svg, chart_place(&w->x, 0), chart_place(&y, 0), chart_place(&w->x, deadline_h),
                chart_place(&y, work_h), " stroke=\"#8a9199\" stroke-width=\"1.5\"");
    if (deadline_h > work_h)
        bg_svg_line(&w->svg, chart_place(&w->x, deadline_h - work_h), chart_place(&y, 0),
                    chart_place(&w->x, deadline_h), chart_place(&y, work_h),
                    " stroke=\"#8a9199\" stroke-width=\"1.5\" stroke-dasharray=\"5 4\"");
    bg_str_add(&w->svg,
               "<polyline fill=\"none\" stroke=\"#1f6fb4\" stroke-width=\"2\" stroke-linejoin=\"round\" points=\"");
    for (uint32_t t = 0; t < w->ticks; t++)
        if (t == 0 || t + 1 == w->ticks ||
            moments[t].done_s - moments[t - 1].done_s != // only where it bends
                moments[t + 1].done_s - moments[t].done_s)
            bg_str_addf(&w->svg, "%.1f,%.1f ", x_of_tick(w, t), chart_place(&y, moments[t].done_s / 3600));
    bg_str_add(&w->svg, "\"/>\n");
}

char *sim_picture_window(const struct plan_deadline *job, const uint32_t *spot, const struct plan_zones *zones,
                         const struct plan_moment *moments, const char *title)
{
    static const struct chart_key keys[] = {{"spot", "#2a9d4b", CHART_BOX},
                                            {"on-demand", "#d9541e", CHART_BOX},
                                            {"idle", "#eef0f2", CHART_BOX},
                                            {"progress", "#1f6fb4", CHART_LINE},
                                            {"straight line; dashed: the last moment", "#8a9199", CHART_LINE}};
    struct window w = {.job = job, .ticks = plan_deadline_ticks(job)};
    w.x = chart_axis_make(0, job->deadline_s / 3600, LEFT, WIDTH - RIGHT, 60, false);
    const double more = zones ? zones->count * (STRIP + 8) : 0;
    bg_svg_open(&w.svg, WIDTH, 480 + more);
    bg_svg_text(&w.svg, LEFT, 24, "start", " font-size=\"14\" font-weight=\"600\"", title);
    chart_legend(&w.svg, keys, sizeof keys / sizeof *keys, LEFT, 48, WIDTH - LEFT - RIGHT);
    draw_strips(&w, spot, moments, 64);
    for (uint32_t z = 0; zones && z < zones->count; z++)
        draw_zone(&w, zones, z, moments, 64 + (z + 2) * (STRIP + 8));
    draw_progress(&w, moments, 124 + more, 424 + more);
    bg_svg_close(&w.svg);
    return bg_str_take(&w.svg);
}

// Whether a policy before this one costs the same everywhere, as far as can be seen: then both are to be seen.
static bool is_drawn(const double *costs, size_t policy, size_t slack_count, double seen)
{
    for (size_t other = 0; other < policy; other++) {
        size_t same = 0;
        while (same < slack_count &&
               fabs(costs[policy * slack_count + same] - costs[other * slack_count + same]) < seen)
            same++;
        if (same == slack_count)
            return true;
    }
    return false;
}

char *sim_picture_slack(const double *slacks, size_t slack_count, char *const *policies, size_t policy_count,
                        const double *costs)
{
    struct bg_str svg = {0};
    struct chart_key keys[64] = {0};
    const size_t count = policy_count < 64 ? policy_count : 64;
    double low = INFINITY, high = 0, least = slacks[0], most = slacks[0];
    for (size_t i = 0; i < count * slack_count; i++) {
        low = fmin(low, costs[i]);
        high = fmax(high, costs[i]);
    }
    for (size_t i = 0; i < slack_count; i++) {
        least = fmin(least, slacks[i]);
        most = fmax(most, slacks[i]);
    }
    for (size_t p = 0; p < count; p++)
        keys[p] = (struct chart_key){policies[p], bg_svg_color(p), p < 8 ? CHART_LINE : CHART_DASHES}; // 8 colours
    const size_t rows = chart_legend(NULL, keys, count, LEFT, 0, WIDTH - LEFT - RIGHT);
    const double top = 24 + 20 * (double)rows, bottom = top + 360;
    bg_svg_open(&svg, WIDTH, bottom + 56);
    chart_legend(&svg, keys, count, LEFT, 24, WIDTH - LEFT - RIGHT);
    const struct chart_axis x = chart_axis_make(least, most, LEFT, WIDTH - RIGHT, 60, false);
    const struct chart_axis y = chart_axis_make(low, high, bottom, top, 44, true);
    chart_draw_x(&svg, &x, top, bottom, "deadline / work");
    chart_draw_y(&svg, &y, LEFT, WIDTH - RIGHT, "mean cost $");
    for (size_t p = 0; p < count; p++) {
        const bool hides = is_drawn(costs, p, slack_count, 0.5 * (y.high - y.low) / (bottom - top));
        bg_str_addf(&svg, "<polyline fill=\"none\" stroke=\"%s\" stroke-width=\"2\"%s points=\"", keys[p].color,
                    keys[p].mark == CHART_DASHES ? CHART_DASHED
                    : hides                      ? " stroke-dasharray=\"9 9\""
                                                 : "");
        for (size_t i = 0; i < slack_count; i++)
            bg_str_addf(&svg, "%.1f,%.1f ", chart_place(&x, slacks[i]), chart_place(&y, costs[p * slack_count + i]));
        bg_str_add(&svg, "\"/>\n");
        for (size_t i = 0; i < slack_count; i++)
            bg_str_addf(&svg, "<circle cx=\"%.1f\" cy=\"%.1f\" r=\"%s\" fill=\"%s\"/>\n", chart_place(&x, slacks[i]),
                        chart_place(&y, costs[p * slack_count + i]), hides ? "2" : "3.5", keys[p].color);
    }
    bg_svg_close(&svg);
    return bg_str_take(&svg);
}
