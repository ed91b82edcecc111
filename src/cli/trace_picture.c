// Traces as a picture: a row each over one axis of time. One machine is a strip, there or not; several are an area as
// high as there are; events have a strip for every node below; requests are an area of their rate.
#include "cli/chart.h"
#include "cli/trace.h"

#include "base/mem.h"

#include <math.h>
#include <stdio.h>
#include <string.h>

enum { WIDTH = 1000, LEFT = 224, RIGHT = 70, STRIP = 16, AREA = 48, GAP = 10, NAMED_MAX = 40, NODES_MAX = 400 };
static const char machine[] = "#2a9d4b", request[] = "#1f6fb4", ground[] = " fill=\"#eef0f2\"";

struct picture {
    struct bg_str svg;
    struct chart_axis x; // in seconds
    double y;
    double *columns; // (columns): of the row that is drawn, a value for each pixel
};

static size_t columns_of(const struct picture *p)
{
    return (size_t)(p->x.last - p->x.first);
}

static double node_height(const struct plan_trace *trace)
{
    return trace->nodes.count <= NAMED_MAX ? 14 : 5;
}

static size_t nodes_drawn(const struct plan_trace *trace)
{
    return trace->nodes.count <= NODES_MAX ? trace->nodes.count : NODES_MAX;
}

static uint32_t most_of(const struct plan_trace *trace)
{
    struct plan_trace_stats stats;
    plan_trace_tell(trace, 1, &stats);
    return stats.live_max;
}

static double height_of(const struct plan_trace *trace)
{
    if (trace->kind == PLAN_TRACE_EVENTS)
        return AREA + GAP + node_height(trace) * (double)nodes_drawn(trace) + GAP;
    return trace->kind == PLAN_TRACE_COUNTS && most_of(trace) <= 1 ? STRIP + GAP : AREA + GAP;
}

// The end of a name tells more than its beginning.
static void draw_name(struct picture *p, const char *name, double y)
{
    char text[64];
    const size_t size = strlen(name), room = 34;
    if (size > 5 && strcmp(name + size - 5, ".json") == 0)
        snprintf(text, sizeof text, "%s%.*s", size - 5 > room ? ".." : "", (int)(size - 5 > room ? room - 2 : size - 5),
                 name + (size - 5 > room ? size - 5 - (room - 2) : 0));
    else
        snprintf(text, sizeof text, "%s%s", size > room ? ".." : "", name + (size > room ? size - (room - 2) : 0));
    bg_svg_text(&p->svg, LEFT - 8, y, "end", " font-size=\"11\"", text);
}

// Columns that share a value are one rectangle, `most` is as high as the row; a strip is fainter, not lower.
static void draw_columns(struct picture *p, double most, double height, const char *color, double seconds)
{
    const size_t columns = columns_of(p);
    const double end = chart_place(&p->x, seconds);
    bg_svg_rect(&p->svg, p->x.first, p->y, end - p->x.first, height, ground);
    for (size_t from = 0, to; from < columns; from = to) {
        const double part = most > 0 ? fmin(p->columns[from] / most, 1) : 0;
        for (to = from + 1; to < columns && fabs(p->columns[to] - p->columns[from]) < 1e-9 * most; to++)
            ;
        if (part < 1e-6)
            continue;
        char style[80];
        const bool strip = height == STRIP;
        snprintf(style, sizeof style, " fill=\"%s\" fill-opacity=\"%.2f\"", color, strip ? part : 0.85);
        const double high = strip ? height : part * height, x = p->x.first + (double)from;
        bg_svg_rect(&p->svg, x, p->y + height - high, fmin((double)(to - from), end - x), high, style);
    }
}

static void add_live(void *arg, double from_s, double to_s, uint32_t live)
{
    struct picture *p = arg;
    const double a = chart_place(&p->x, from_s) - p->x.first, b = chart_place(&p->x, to_s) - p->x.first;
    for (size_t c = (size_t)a; c < columns_of(p) && (double)c < b; c++)
        p->columns[c] += live * (fmin(b, (double)c + 1) - fmax(a, (double)c));
}

// The part of a column behind the end of a trace counts for nothing, which would look like fewer machines.
static void mend_last(struct picture *p, double seconds)
{
    const double end = chart_place(&p->x, seconds) - p->x.first;
    const size_t last = (size_t)end;
    if (last < columns_of(p) && end - (double)last > 1e-6)
        p->columns[last] /= end - (double)last;
}

static void draw_machines(struct picture *p, const struct plan_trace *trace)
{
    const uint32_t most = most_of(trace);
    const double height = trace->kind == PLAN_TRACE_COUNTS && most <= 1 ? STRIP : AREA;
    char text[32];
    plan_trace_each_live(trace, add_live, p);
    mend_last(p, plan_trace_seconds(trace));
    draw_columns(p, most, height, machine, plan_trace_seconds(trace));
    if (height == AREA) {
        snprintf(text, sizeof text, "%u", most);
        bg_svg_text(&p->svg, p->x.last + 8, p->y + 10, "start", " font-size=\"11\"", text);
        bg_svg_text(&p->svg, p->x.last + 8, p->y + height, "start", " font-size=\"11\"", "0");
    }
    p->y += height + GAP;
}

static void draw_requests(struct picture *p, const struct plan_trace *trace)
{
    const double column_s = (p->x.high - p->x.low) / (double)columns_of(p), bin = 4; // pixels
    double most = 0;
    for (size_t i = 0; i < trace->count; i++) {
        const double s = (double)(trace->requests[i].at_ns - trace->requests[0].at_ns) / 1e9;
        const size_t first = (size_t)(s / column_s / bin) * (size_t)bin;
        for (size_t c = first; c < first + (size_t)bin && c < columns_of(p); c++)
            p->columns[c] += 1 / (bin * column_s);
    }
    for (size_t c = 0; c < columns_of(p); c++)
        most = fmax(most, p->columns[c]);
    draw_columns(p, most, AREA, request, plan_trace_seconds(trace));
    char text[32];
    snprintf(text, sizeof text, "%.3g /s", most);
    bg_svg_text(&p->svg, p->x.last + 8, p->y + 10, "start", " font-size=\"11\"", text);
    bg_svg_text(&p->svg, p->x.last + 8, p->y + AREA, "start", " font-size=\"11\"", "0");
    p->y += AREA + GAP;
}

static void draw_span(struct picture *p, const struct plan_trace *trace, uint32_t node, double from_s, double to_s)
{
    const double high = node_height(trace), from = chart_place(&p->x, from_s), to = chart_place(&p->x, to_s);
    if (node < nodes_drawn(trace))
        bg_svg_rect(&p->svg, from, p->y + high * node, fmax(to - from, 0.5), high - 1, " fill=\"#2a9d4b\"");
}

static void draw_nodes(struct picture *p, const struct plan_trace *trace)
{
    double *since = bg_alloc_array(trace->nodes.count, sizeof *since); // -1: not there
    const double high = node_height(trace), end_s = plan_trace_seconds(trace);
    const size_t drawn = nodes_drawn(trace);
    bg_svg_rect(&p->svg, p->x.first, p->y, chart_place(&p->x, end_s) - p->x.first, high * (double)drawn, ground);
    for (size_t n = 0; n < trace->nodes.count; n++)
        since[n] = -1;
    for (size_t i = 0; i < trace->count; i++) {
        const struct plan_trace_event *event = &trace->events[i];
        const double at_s = (double)event->ms / 1000;
        if (!event->add)
            draw_span(p, trace, event->node, since[event->node], at_s);
        since[event->node] = event->add ? at_s : -1;
    }
    for (uint32_t n = 0; n < trace->nodes.count; n++)
        if (since[n] >= 0)
            draw_span(p, trace, n, since[n], end_s);
    const size_t every = trace->nodes.count <= NAMED_MAX ? 1 : 10;
    for (size_t n = 0; n < drawn; n += every)
        draw_name(p, trace->nodes.items[n], p->y + high * ((double)n + 0.5) + 4);
    if (drawn < trace->nodes.count) {
        char text[64];
        snprintf(text, sizeof text, "the first %zu of %zu nodes", drawn, trace->nodes.count);
        bg_svg_text(&p->svg, p->x.last, p->y + high * (double)drawn + 11, "end", " font-size=\"11\"", text);
    }
    bg_free(since);
    p->y += high * (double)drawn + GAP;
}

char *trace_picture(const struct plan_trace *traces, char *const *names, size_t count)
{
    double seconds = 0, height = 0, unit_s;
    bool machines = false, requests = false;
    for (size_t i = 0; i < count; i++) {
        seconds = fmax(seconds, plan_trace_seconds(&traces[i]));
        height += height_of(&traces[i]);
        machines |= traces[i].kind != PLAN_TRACE_REQUESTS;
        requests |= traces[i].kind == PLAN_TRACE_REQUESTS;
    }
    const char *unit = chart_time_unit(seconds, &unit_s);
    struct picture p = {.y = 44};
    p.x = chart_axis_make(0, seconds, LEFT, WIDTH - RIGHT, 70, false);
    p.columns = bg_alloc_array(columns_of(&p) + 1, sizeof *p.columns);
    bg_svg_open(&p.svg, WIDTH, p.y + height + 56);
    struct chart_key keys[2];
    size_t key_count = 0;
    if (machines)
        keys[key_count++] = (struct chart_key){"machines there", machine, CHART_BOX};
    if (requests)
        keys[key_count++] = (struct chart_key){"requests", request, CHART_BOX};
    chart_legend(&p.svg, keys, key_count, LEFT, 24, WIDTH - LEFT - RIGHT);
    const struct chart_axis x = chart_axis_make(0, seconds / unit_s, LEFT, WIDTH - RIGHT, 70, false);
    char label[64];
    snprintf(label, sizeof label, "%s from the beginning of each", unit);
    chart_draw_x(&p.svg, &x, p.y - 6, p.y + height, count > 1 ? label : unit);
    for (size_t i = 0; i < count; i++) {
        memset(p.columns, 0, columns_of(&p) * sizeof *p.columns);
        const char *slash = strrchr(names[i], '/');
        const bool strip = traces[i].kind == PLAN_TRACE_COUNTS && most_of(&traces[i]) <= 1;
        draw_name(&p, slash ? slash + 1 : names[i], p.y + (strip ? 12 : AREA / 2 + 4));
        if (traces[i].kind == PLAN_TRACE_REQUESTS)
            draw_requests(&p, &traces[i]);
        else
            draw_machines(&p, &traces[i]);
        if (traces[i].kind == PLAN_TRACE_EVENTS)
            draw_nodes(&p, &traces[i]);
    }
    bg_free(p.columns);
    bg_svg_close(&p.svg);
    return bg_str_take(&p.svg);
}
