// Who holds what: a band a stage, in the order of the units. Left the units with the time of each, then the stage, then
// its machines with their shares of the micro-batches, the memory they need of what they have, and how busy they are.
#include "plan/cost/picture_int.h"

#include "base/mem.h"
#include "base/svg.h"

#include <math.h>
#include <stdio.h>

enum {
    MARGIN = 24,
    HEADING = 78, // until the first band
    GAP = 26,     // between bands, for what travels
    UNIT = 18,    // rows
    UNITS_MAX = 1500,
    LABEL = 12, // least height of a unit with its name
    SEAT = 30,
    STAGE_MIN = 84,
    BAR = 14,
};
static const struct { // columns
    const char *text;
    double x, width;
} columns[] = {{"units, time of each", MARGIN, 190},     {"stages", 234, 170}, {"machines", 424, 190},
               {"share of the micro-batches", 624, 180}, {"memory", 824, 180}, {"busy", 1024, 110}};
enum { UNITS, STAGES, MACHINES, SHARE, MEMORY, BUSY, COLUMNS };
static const char ground[] = " fill=\"#e6e9ec\"";

struct map {
    const struct plan_picture *picture;
    struct bg_str svg;
    double unit_max; // the longest unit's time
};

static double time_of(const struct plan_unit *unit)
{
    return unit->forward_s + unit->input_s + unit->weight_s;
}

static void bytes_text(double bytes, char text[32])
{
    static const char *const units[] = {"B", "kB", "MB", "GB", "TB", "PB"};
    size_t unit = 0;
    for (; bytes >= 999.5 && unit < 5; unit++)
        bytes /= 1000;
    snprintf(text, 32, unit == 0 || bytes >= 99.5 ? "%.0f %s" : "%.1f %s", bytes, units[unit]);
}

static void seconds_text(double seconds, char text[32])
{
    if (seconds >= 0.9995)
        snprintf(text, 32, "%.3g s", seconds);
    else if (seconds >= 0.9995e-3)
        snprintf(text, 32, "%.3g ms", seconds * 1e3);
    else
        snprintf(text, 32, "%.3g us", seconds * 1e6);
}

static void unit_text(const struct plan_profile *profile, uint32_t unit, char text[32])
{
    static const char *const names[] = {[PLAN_UNIT_EMBED] = "embedding", [PLAN_UNIT_HEAD] = "head"};
    const enum plan_unit_kind kind = profile->units[unit].kind;
    uint32_t block = 0;
    for (uint32_t u = 0; u < unit; u++)
        block += profile->units[u].kind == PLAN_UNIT_BLOCK;
    if (kind == PLAN_UNIT_BLOCK)
        snprintf(text, 32, "block %u", block);
    else if (kind == PLAN_UNIT_OTHER)
        snprintf(text, 32, "unit %u", unit);
    else
        snprintf(text, 32, "%s", names[kind]);
}

static double band_height(const struct plan *plan, uint32_t stage)
{
    uint32_t seats = 0;
    for (uint32_t i = 0; i < plan->seat_count; i++)
        seats += plan->seats[i].stage == stage;
    const double unit = fmin(UNIT, fmax(2, (double)UNITS_MAX / plan->units));
    const double units = unit * (plan->stages[stage].unit_end - plan->stages[stage].unit_first);
    return floor(fmax(fmax(units, seats * SEAT), STAGE_MIN));
}

static void draw_units(struct map *m, const struct plan_stage *stage, double y, double height)
{
    const struct plan_profile *profile = m->picture->profile;
    const uint32_t count = stage->unit_end - stage->unit_first;
    const double each = height / count, room = columns[UNITS].width;
    const bool label = each >= LABEL;
    char text[72], first[32], last[32];
    for (uint32_t i = 0; i < count; i++) {
        const uint32_t u = stage->unit_first + i;
        const double top = y + i * each, box = each > 4 ? each - 1 : each;
        const double part = m->unit_max > 0 ? time_of(&profile->units[u]) / m->unit_max : 0;
        bg_svg_rect(&m->svg, columns[UNITS].x, top, room, box, ground);
        bg_svg_rect(&m->svg, columns[UNITS].x, top, room * part, box, " fill=\"#a9d6f2\"");
        unit_text(profile, u, text);
        seconds_text(time_of(&profile->units[u]), first);
        if (label)
            bg_svg_text(&m->svg, columns[UNITS].x + 6, top + each / 2 + 4, "start", " font-size=\"11\"", text);
        if (label)
            bg_svg_text(&m->svg, columns[UNITS].x + room - 6, top + each / 2 + 4, "end", " font-size=\"11\"", first);
    }
    if (label)
        return;
    unit_text(profile, stage->unit_first, first);
    unit_text(profile, stage->unit_end - 1, last);
    snprintf(text, sizeof text, "%s to %s", first, last);
    bg_svg_text(&m->svg, columns[UNITS].x + 6, y + height / 2 + 4, "start", " font-weight=\"600\"", text);
}

static bool recomputes(const struct plan *plan, uint32_t stage)
{
    for (uint32_t w = 0; w < plan->workers; w++)
        for (size_t i = 0; i < plan->lists[w].count; i++) {
            const struct plan_op *op = &plan->lists[w].ops[i];
            if (op->kind == PLAN_B && op->stage == stage && op->flags & PLAN_RECOMPUTE)
                return true;
        }
    return false;
}

static void draw_stage(struct map *m, uint32_t s, double y, double height)
{
    const struct plan *plan = m->picture->plan;
    const struct plan_stage *stage = &plan->stages[s];
    const double x = columns[STAGES].x, middle = y + height / 2 - (recomputes(plan, s) ? 8 : 0);
    double seconds = 0, bytes = 0;
    char text[96], part[32];
    for (uint32_t u = stage->unit_first; u < stage->unit_end; u++) {
        seconds += time_of(&m->picture->profile->units[u]);
        bytes += m->picture->profile->units[u].parameter_bytes;
    }
    bg_svg_rect(&m->svg, x, y, columns[STAGES].width, height - 1, " rx=\"6\" fill=\"#f4f0e4\" stroke=\"#c9b98a\"");
    snprintf(text, sizeof text, "stage %u", s);
    bg_svg_text(&m->svg, x + 12, middle - 22, "start", " font-weight=\"600\"", text);
    if (stage->unit_end - stage->unit_first == 1)
        snprintf(text, sizeof text, "unit %u", stage->unit_first);
    else
        snprintf(text, sizeof text, "units %u..%u", stage->unit_first, stage->unit_end - 1);
    bg_svg_text(&m->svg, x + 12, middle - 5, "start", "", text);
    seconds_text(seconds, part);
    snprintf(text, sizeof text, "%s a micro-batch", part);
    bg_svg_text(&m->svg, x + 12, middle + 12, "start", "", text);
    bytes_text(bytes, part);
    snprintf(text, sizeof text, "%s of weights", part);
    bg_svg_text(&m->svg, x + 12, middle + 29, "start", "", text);
    if (recomputes(plan, s))
        bg_svg_text(&m->svg, x + 12, middle + 46, "start", "", "forwards run twice");
}

// A bar of `part` of the column, with text in it.
static void draw_bar(struct map *m, int column, double y, double part, const char *color, const char *text)
{
    char style[32];
    snprintf(style, sizeof style, " fill=\"%s\"", color);
    bg_svg_rect(&m->svg, columns[column].x, y, columns[column].width, BAR, ground);
    bg_svg_rect(&m->svg, columns[column].x, y, columns[column].width * fmin(fmax(part, 0), 1), BAR, style);
    bg_svg_text(&m->svg, columns[column].x + 6, y + 11, "start", " font-size=\"11\"", text);
}

static void draw_seat(struct map *m, const struct plan_seat *seat, double y)
{
    const struct plan *plan = m->picture->plan;
    const struct plan_timeline *t = m->picture->timeline;
    const struct plan_profile *profile = m->picture->profile;
    const double top = y + (SEAT - BAR) / 2.0;
    char text[96], part[32], whole[32];
    uint32_t share = 0;
    for (uint32_t i = 0; i < plan->item_count; i++)
        if (plan->route[(size_t)seat->stage * plan->item_count + i] == seat->worker)
            share += plan->items[i].end - plan->items[i].first;
    plan_picture_name(m->picture, seat->worker, text);
    bg_svg_text(&m->svg, columns[MACHINES].x, top + 11, "start", "", text);
    snprintf(text, sizeof text, "%u of %u", share, plan->micro_batches);
    draw_bar(m, SHARE, top, (double)share / plan->micro_batches, "#8fd0bb", text);
    if (seat->worker >= t->worker_count)
        return;
    const struct plan_worker_time *time = &t->workers[seat->worker];
    const double memory = seat->worker < profile->machine_count ? profile->machines[seat->worker].memory_bytes : 0;
    bytes_text(time->peak_bytes, part);
    bytes_text(memory, whole);
    snprintf(text, sizeof text, memory > 0 ? "%s of %s" : "%s", part, whole);
    const bool over = memory > 0 && time->peak_bytes > memory;
    draw_bar(m, MEMORY, top, memory > 0 ? time->peak_bytes / memory : 0, over ? "#e07a6b" : "#e3b7d3", text);
    const double busy = t->step_s > 0 ? time->busy_s / t->step_s : 0;
    snprintf(text, sizeof text, "%.0f %%", 100 * busy);
    draw_bar(m, BUSY, top, busy, "#f4cf86", text);
}

// The arrow to the next stage, and what travels along it.
static void draw_cut(struct map *m, const struct plan_stage *stage, double y)
{
    const double x = columns[STAGES].x + 20;
    char text[96], part[32];
    bg_str_addf(&m->svg,
                "<path d=\"M%.1f %.1f v%d m-4 -6 l4 6 l4 -6\" fill=\"none\" stroke=\"#6b7480\" "
                "stroke-width=\"1.5\"/>\n",
                x, y + 3, GAP - 7);
    bytes_text(m->picture->profile->units[stage->unit_end - 1].cut_bytes, part);
    snprintf(text, sizeof text, "%s a micro-batch, and back", part);
    bg_svg_text(&m->svg, x + 12, y + GAP / 2.0 + 4, "start", " font-size=\"11\" fill=\"#57606a\"", text);
}

static void draw_band(struct map *m, uint32_t s, double y, double height)
{
    const struct plan *plan = m->picture->plan;
    uint32_t seats = 0, seat = 0;
    for (uint32_t i = 0; i < plan->seat_count; i++)
        seats += plan->seats[i].stage == s;
    draw_units(m, &plan->stages[s], y, height);
    draw_stage(m, s, y, height);
    for (uint32_t i = 0; i < plan->seat_count; i++)
        if (plan->seats[i].stage == s)
            draw_seat(m, &plan->seats[i], y + (height - seats * SEAT) / 2 + seat++ * SEAT);
    if (s + 1 < plan->stage_count)
        draw_cut(m, &plan->stages[s], y + height);
}

char *plan_picture_map(const struct plan_picture *picture)
{
    struct map m = {.picture = picture};
    const struct plan *plan = picture->plan;
    double y = HEADING, height = HEADING;
    for (uint32_t u = 0; u < plan->units; u++)
        m.unit_max = fmax(m.unit_max, time_of(&picture->profile->units[u]));
    for (uint32_t s = 0; s < plan->stage_count; s++)
        height += band_height(plan, s) + GAP;
    height += plan->follow_count * 22.0;
    bg_svg_open(&m.svg, columns[BUSY].x + columns[BUSY].width + MARGIN, height);
    if (picture->title)
        bg_svg_text(&m.svg, MARGIN, 30, "start", " font-size=\"15\" font-weight=\"600\"", picture->title);
    for (int c = 0; c < COLUMNS; c++)
        bg_svg_text(&m.svg, columns[c].x, HEADING - 16, "start", " fill=\"#57606a\"", columns[c].text);
    for (uint32_t s = 0; s < plan->stage_count; s++) {
        draw_band(&m, s, y, band_height(plan, s));
        y += band_height(plan, s) + GAP;
    }
    for (uint32_t i = 0; i < plan->follow_count; i++) {
        char text[96], name[PLAN_PICTURE_NAME];
        plan_picture_name(picture, plan->follows[i].worker, name);
        snprintf(text, sizeof text, "%s follows units %u..%u: the shadow", name, plan->follows[i].unit_first,
                 plan->follows[i].unit_end - 1);
        bg_svg_text(&m.svg, columns[MACHINES].x, y + 22.0 * i, "start", "", text);
    }
    bg_svg_close(&m.svg);
    return bg_str_take(&m.svg);
}
