// One step of a plan along its time. The colours are told apart by everybody (Okabe and Ito's, a wine red and greys);
// of a worker with several stages, the later ones are darker. Text stands only where it fits.
#include "plan/cost/picture_int.h"

#include "base/mem.h"
#include "base/svg.h"

#include <math.h>
#include <stdio.h>
#include <string.h>

enum {
    LEFT_MIN = 60, // names of the workers stand left of the bars
    RIGHT = 84,    // and how long each is idle to the right
    PLOT_MIN = 840,
    PLOT_MAX = 3200,
    BOX = 17, // least pixels that a box should have: two digits
    NAME_MAX = 24,
    ROW_MIN = 16,
    ROW_MAX = 36,
    BOTTOM = 54,
    ITEM_MIN = 8, // fonts of items
    ITEM_MAX = 12,
    DEPTHS = 4, // stages of one worker that are told apart
};

// What a span is in the picture; the order is the legend's.
enum look { LOOK_F, LOOK_B, LOOK_W, LOOK_RECOMPUTE, LOOK_SEND, LOOK_COLL, LOOK_STEP, LOOK_MOVE, LOOKS };
static const struct {
    const char *class, *text, *colors[DEPTHS]; // by the stage's place on its worker
} looks[LOOKS] = {
    [LOOK_F] = {"f", "F: forward", {"#7cc4f0", "#4ba3d8", "#2f86bd", "#2272a6"}},
    [LOOK_B] = {"b", "B: backward", {"#f2b134", "#dd9406", "#c37f00", "#ab6f00"}},
    [LOOK_W] = {"w", "W: weight gradient", {"#33b08c", "#0f8f6b", "#007858", "#006449"}},
    [LOOK_RECOMPUTE] = {"r", "B with the forward again", {"#e9843f", "#d5661a", "#b85310", "#9c4509"}},
    [LOOK_SEND] = {"m", "messages (activations above gradients)", {"#c2579a"}},
    [LOOK_COLL] = {"c", "reduction", {"#7a1f4b"}},
    [LOOK_STEP] = {"s", "gradients, commit and step, waiting for all", {"#a3b1c0"}},
    [LOOK_MOVE] = {"v", "state moved", {"#8a6d3b"}},
};
static const char idle_color[] = "#e6e9ec";

struct drawing {
    const struct plan_picture *picture;
    struct bg_str svg;
    double left, top, plot, row; // pixels
    double end;                  // of the time axis
    double zoom;                 // of all text but items: a wide picture is looked at from further away
    double name_font;            // of the workers' names
    double font[LOOKS];          // of items in boxes
    bool upright[LOOKS];         // they are turned, because the boxes are narrow
    bool used[LOOKS], deep;
};

static enum look look_of(const struct plan_op *op)
{
    switch (op->kind) {
    case PLAN_F:
        return LOOK_F;
    case PLAN_B:
        return op->flags & PLAN_RECOMPUTE ? LOOK_RECOMPUTE : LOOK_B;
    case PLAN_W:
        return LOOK_W;
    case PLAN_COLL:
        return LOOK_COLL;
    case PLAN_STEP:
        return LOOK_STEP;
    case PLAN_MOVE:
        return LOOK_MOVE;
    default:
        return LOOK_SEND;
    }
}

static bool is_compute(const struct plan_op *op)
{
    return op->kind == PLAN_F || op->kind == PLAN_B || op->kind == PLAN_W;
}

static const struct plan_op *op_of(const struct drawing *d, const struct plan_span *span)
{
    return &d->picture->plan->lists[span->worker].ops[span->op];
}

static void item_text(const struct drawing *d, const struct plan_op *op, char text[24])
{
    if (d->picture->plan->slices > 1 && op->kind != PLAN_W)
        snprintf(text, 24, "%u.%u", op->item, op->slice);
    else
        snprintf(text, 24, "%u", op->item);
}

// Numbers are narrower than what bg_svg_text_width takes for safe.
static bool text_fits(const char *text, double font, double width)
{
    return 0.62 * font * (double)strlen(text) + 3 <= width;
}

static double place(const struct drawing *d, double time)
{
    return d->left + (d->end > 0 ? time / d->end : 0) * d->plot;
}

// Place of the stage among those of its worker.
static uint32_t depth_of(const struct plan *plan, uint32_t worker, uint32_t stage)
{
    uint32_t depth = 0;
    for (uint32_t i = 0; i < plan->seat_count; i++)
        depth += plan->seats[i].worker == worker && plan->seats[i].stage < stage;
    return depth < DEPTHS ? depth : DEPTHS - 1;
}

// ---- Layout ----

void plan_picture_name(const struct plan_picture *picture, uint32_t worker, char text[PLAN_PICTURE_NAME])
{
    const struct plan_profile *profile = picture->profile;
    const char *name = profile && worker < profile->machine_count ? profile->machines[worker].name : "";
    if (!*name)
        snprintf(text, PLAN_PICTURE_NAME, "worker %u", worker);
    else if (strlen(name) > NAME_MAX)
        snprintf(text, PLAN_PICTURE_NAME, "%u %.*s...", worker, NAME_MAX - 3, name);
    else
        snprintf(text, PLAN_PICTURE_NAME, "%u %.36s", worker, name);
}

static double bar_height(const struct drawing *d)
{
    return d->row - 3 * floor(d->row / 9) - 2;
}

// The largest font in which nine of ten items fit their boxes; where there is none, they stand upright.
static void choose_font(struct drawing *d, enum look look)
{
    const struct plan_timeline *t = d->picture->timeline;
    char text[24];
    double mean = 0;
    size_t longest = 1;
    for (double font = floor(fmin(ITEM_MAX * d->zoom, bar_height(d) - 2)); font >= ITEM_MIN; font--) {
        size_t boxes = 0, fitting = 0;
        double sum = 0;
        for (size_t i = 0; i < t->span_count; i++) {
            const struct plan_op *op = op_of(d, &t->spans[i]);
            if (look_of(op) != look)
                continue;
            const double width = place(d, t->spans[i].end_s) - place(d, t->spans[i].start_s);
            item_text(d, op, text);
            longest = strlen(text) > longest ? strlen(text) : longest;
            sum += width;
            boxes++;
            fitting += text_fits(text, font, width);
        }
        d->font[look] = font;
        if (fitting * 10 >= boxes * 9)
            return;
        mean = sum / (double)boxes;
    }
    d->upright[look] = true;
    const double room = (bar_height(d) - 3) / (0.62 * (double)longest);
    d->font[look] = floor(fmin(fmax(fmin(mean, room), ITEM_MIN), ITEM_MAX));
}

// As wide as it takes for the narrowest kind of box to have BOX pixels on average, as far as the picture may grow.
static double choose_width(const struct drawing *d)
{
    const struct plan_timeline *t = d->picture->timeline;
    double wanted = PLOT_MIN, box = BOX;
    for (size_t i = 0; i < t->span_count; i++) {
        char text[24];
        item_text(d, op_of(d, &t->spans[i]), text);
        box = fmax(box, 8.5 * (double)strlen(text));
    }
    for (int l = LOOK_F; l <= LOOK_RECOMPUTE; l++) {
        double sum = 0;
        size_t count = 0;
        for (size_t i = 0; i < t->span_count; i++) {
            if (look_of(op_of(d, &t->spans[i])) != (enum look)l)
                continue;
            sum += t->spans[i].end_s - t->spans[i].start_s;
            count++;
        }
        if (sum > 0)
            wanted = fmax(wanted, box * d->end / (sum / (double)count));
    }
    return floor(fmin(wanted, PLOT_MAX));
}

static void lay_out(struct drawing *d)
{
    const struct plan *plan = d->picture->plan;
    const struct plan_timeline *t = d->picture->timeline;
    double widest = 0;
    for (uint32_t w = 0; w < t->worker_count; w++) {
        char name[PLAN_PICTURE_NAME];
        plan_picture_name(d->picture, w, name);
        widest = fmax(widest, bg_svg_text_width(name, 1));
    }
    for (size_t i = 0; i < t->span_count; i++) {
        const struct plan_op *op = op_of(d, &t->spans[i]);
        d->used[look_of(op)] = true;
        d->deep |= is_compute(op) && depth_of(plan, t->spans[i].worker, op->stage) > 0;
        d->end = fmax(d->end, t->spans[i].end_s);
    }
    d->end = fmax(d->end, t->step_s);
    d->plot = choose_width(d);
    d->zoom = fmin(fmax(d->plot / 1200, 1), 2);
    d->row = floor(fmin(fmax(0.4 * d->plot / (t->worker_count + 1), ROW_MIN), ROW_MAX * d->zoom));
    d->name_font = fmin(BG_SVG_FONT * d->zoom, d->row - 3);
    d->left = floor(fmax(LEFT_MIN, widest * d->name_font + 20));
    for (int l = LOOK_F; l <= LOOK_RECOMPUTE; l++)
        choose_font(d, (enum look)l);
}

// ---- Time in words ----

static void time_unit(const struct drawing *d, double *scale, const char **unit)
{
    if (d->picture->turns) {
        *scale = 1;
        *unit = "";
    } else if (d->end >= 2) {
        *scale = 1;
        *unit = " s";
    } else if (d->end >= 2e-3) {
        *scale = 1e3;
        *unit = " ms";
    } else {
        *scale = 1e6;
        *unit = " us";
    }
}

static void draw_axis(struct drawing *d, double bottom)
{
    double scale;
    const char *unit;
    char text[64];
    int decimals = 0;
    time_unit(d, &scale, &unit);
    const double end = d->end * scale;
    const double step = end > 0 ? bg_svg_step(end * 90 * d->zoom / d->plot, &decimals) : 1;
    bg_str_add(&d->svg, "<g stroke=\"#8a9199\">\n");
    bg_svg_line(&d->svg, d->left, bottom, d->left + d->plot, bottom, "");
    for (double n = 0; end > 0 && n * step <= end * (1 + 1e-12); n++)
        bg_svg_line(&d->svg, place(d, n * step / scale), bottom, place(d, n * step / scale), bottom + 5, "");
    bg_str_add(&d->svg, "</g>\n");
    for (double n = 0; end > 0 && n * step <= end * (1 + 1e-12); n++) {
        snprintf(text, sizeof text, "%.*f%s", decimals, n * step, unit);
        bg_svg_text(&d->svg, place(d, n * step / scale), bottom + 6 + 13 * d->zoom, "middle", "", text);
    }
    bg_svg_text(&d->svg, d->left + d->plot / 2, bottom + 8 + 30 * d->zoom, "middle", "",
                d->picture->turns ? "turns since the step began" : "time since the step began");
}

// ---- Boxes ----

static void add_style(struct drawing *d)
{
    bg_str_addf(&d->svg, "<style>\ntext{font-size:%.1fpx}\n.h{font-size:%.1fpx;font-weight:600}\n",
                BG_SVG_FONT * d->zoom, 15 * d->zoom);
    bg_str_addf(&d->svg, ".l{font-size:%.1fpx}\n.i{fill:%s}\n", d->name_font, idle_color);
    for (int l = 0; l < LOOKS; l++) {
        if (d->used[l] && d->font[l] > 0)
            bg_str_addf(&d->svg, ".n%s{font-size:%.0fpx;text-anchor:middle}\n", looks[l].class, d->font[l]);
        for (int k = 0; k < DEPTHS && d->used[l] && looks[l].colors[k]; k++)
            bg_str_addf(&d->svg, ".%s%d{fill:%s}\n", looks[l].class, k, looks[l].colors[k]);
    }
    bg_str_add(&d->svg, "</style>\n");
}

static void draw_item(struct drawing *d, const struct plan_op *op, uint32_t depth, double x, double y, double width)
{
    const enum look look = look_of(op);
    const double height = bar_height(d), font = d->font[look];
    const double middle = x + width / 2, base = y + height / 2;
    char text[24], turn[64] = "";
    item_text(d, op, text);
    if (d->upright[look]) {
        if (width < 0.85 * font || !text_fits(text, font, height))
            return;
        snprintf(turn, sizeof turn, " transform=\"rotate(-90 %.1f %.1f)\"", middle, base);
    } else if (!text_fits(text, font, width)) {
        return;
    }
    bg_str_addf(&d->svg, "<text class=\"n%s\" x=\"%.1f\" y=\"%.1f\"%s%s>%s</text>\n", looks[look].class, middle,
                base + 0.36 * font, depth > 1 ? " fill=\"white\"" : "", turn, text);
}

static void draw_span(struct drawing *d, const struct plan_span *span, double y)
{
    const struct plan_op *op = op_of(d, span);
    const enum look look = look_of(op);
    const double x = place(d, span->start_s), width = place(d, span->end_s) - x, height = bar_height(d);
    const double lane = floor(d->row / 9); // of messages
    char style[64];
    if (op->kind == PLAN_SEND) {
        snprintf(style, sizeof style, " class=\"%s0\"", looks[look].class);
        bg_svg_rect(&d->svg, x, y + height + (op->flags & PLAN_GRAD ? lane + 1.5 : 0.5), width, lane, style);
        return;
    }
    const uint32_t depth = is_compute(op) ? depth_of(d->picture->plan, span->worker, op->stage) : 0;
    snprintf(style, sizeof style, " class=\"%s%u\"", looks[look].class, depth);
    // A hair of the ground between boxes, where they can spare it.
    bg_svg_rect(&d->svg, x, y, width > 3 ? width - 0.6 : width, height, style);
    if (is_compute(op))
        draw_item(d, op, depth, x, y, width);
}

static void draw_rows(struct drawing *d)
{
    const struct plan_timeline *t = d->picture->timeline;
    size_t next = 0;
    for (uint32_t w = 0; w < t->worker_count; w++) {
        const double y = d->top + w * (d->row + 4), base = y + bar_height(d) / 2 + 0.36 * d->name_font;
        char text[PLAN_PICTURE_NAME];
        plan_picture_name(d->picture, w, text);
        bg_svg_text(&d->svg, d->left - 8, base, "end", " class=\"l\"", text);
        bg_svg_rect(&d->svg, d->left, y, d->plot, bar_height(d), " class=\"i\"");
        for (; next < t->span_count && t->spans[next].worker == w; next++)
            draw_span(d, &t->spans[next], y);
        if (d->end <= 0)
            continue;
        snprintf(text, sizeof text, "%.0f %% idle", fmax(0, 100 * (1 - t->workers[w].busy_s / d->end)));
        bg_svg_text(&d->svg, d->left + d->plot + 8, base, "start", " class=\"l\"", text);
    }
}

// Entries in rows as wide as the picture; drawn where `draw`. Returns the rows.
static uint32_t lay_legend(struct drawing *d, double y, bool draw)
{
    double x = d->left;
    uint32_t row = 0;
    for (int l = 0; l <= LOOKS; l++) {
        if (l < LOOKS && !d->used[l])
            continue;
        const char *text = l == LOOKS ? "idle" : looks[l].text;
        char style[32] = " class=\"i\"";
        if (l < LOOKS)
            snprintf(style, sizeof style, " class=\"%s0\"", looks[l].class);
        const double width = d->zoom * (bg_svg_text_width(text, BG_SVG_FONT) + 40);
        if (x > d->left && x + width > d->left + d->plot + RIGHT) {
            x = d->left;
            row++;
        }
        if (draw) {
            const double base = y + 20 * d->zoom * row;
            bg_svg_rect(&d->svg, x, base - 10 * d->zoom, 18 * d->zoom, 12 * d->zoom, style);
            bg_svg_text(&d->svg, x + 24 * d->zoom, base, "start", "", text);
        }
        x += width;
    }
    return row + 1;
}

static void draw_title(struct drawing *d, double y)
{
    const struct plan_timeline *t = d->picture->timeline;
    const struct plan *plan = d->picture->plan;
    double scale, span = 0, bubble = 0; // of the worker that takes longest
    const char *unit;
    char text[256];
    if (d->picture->title)
        bg_svg_text(&d->svg, d->left, y - 20 * d->zoom, "start", " class=\"h\"", d->picture->title);
    time_unit(d, &scale, &unit);
    for (uint32_t w = 0; w < t->worker_count; w++) {
        const double own = t->workers[w].last_s - t->workers[w].first_s;
        if (own <= span)
            continue;
        span = own;
        bubble = own - t->workers[w].busy_s;
    }
    const uint32_t counts[3] = {plan->workers, plan->stage_count, plan->item_count};
    snprintf(text, sizeof text, "%u worker%s, %u stage%s, %u item%s; step %.4g%s, bubble %.4g%s (%.1f %%)%s", counts[0],
             counts[0] == 1 ? "" : "s", counts[1], counts[1] == 1 ? "" : "s", counts[2], counts[2] == 1 ? "" : "s",
             d->end * scale, *unit ? unit : " turns", bubble * scale, unit, span > 0 ? 100 * bubble / span : 0,
             d->deep ? "; darker: a later stage of the worker" : "");
    bg_svg_text(&d->svg, d->left, y, "start", "", text);
}

char *plan_picture_step(const struct plan_picture *picture)
{
    struct drawing d = {.picture = picture};
    lay_out(&d);
    const double title = (picture->title ? 44 : 24) * d.zoom, legend = title + 24 * d.zoom;
    d.top = legend + (20 * (lay_legend(&d, 0, false) - 1) + 14) * d.zoom;
    const double bottom = d.top + picture->timeline->worker_count * (d.row + 4);
    bg_svg_open(&d.svg, d.left + d.plot + RIGHT * fmax(1, d.name_font / BG_SVG_FONT), bottom + BOTTOM * d.zoom);
    add_style(&d);
    draw_title(&d, title);
    lay_legend(&d, legend, true);
    draw_rows(&d);
    draw_axis(&d, bottom);
    bg_svg_close(&d.svg);
    return bg_str_take(&d.svg);
}
