// Loss curves as SVG. Of every run: the raw losses as a faint line (smallest and largest of each pixel column), a
// moving mean over it where there are many steps, validation as points. The scales are chosen so that ticks are round
// numbers and labels never touch; the legend stands in rows above the plot, so that it covers nothing.
#include "train/plot.h"

#include "base/dmath.h"
#include "base/json.h"
#include "base/mem.h"
#include "base/svg.h"
#include "train/steplog.h"

#include <math.h>
#include <stdio.h>
#include <string.h>

enum { SMOOTH_FROM = 200, TICKS_MAX = 64, LEFT = 64, RIGHT = 24, BOTTOM = 52, ROW = 20 };

struct point {
    double x, y;
};
struct curve {
    char *label;
    double *losses;
    double *smooth; // NULL: few steps
    uint64_t steps;
    struct point *valid;
    size_t valid_count;
};

// ---- Reading ----

static void add_valid(struct curve *c, double step, double loss)
{
    for (size_t i = 0; i < c->valid_count; i++) {
        if (c->valid[i].x == step) { // a resumed run may tell a step twice
            c->valid[i].y = loss;
            return;
        }
    }
    c->valid = bg_realloc_array(c->valid, c->valid_count + 1, sizeof *c->valid);
    c->valid[c->valid_count++] = (struct point){step, loss};
}

// One line of events.jsonl; lines that are torn or something else are passed over.
static void read_event(struct curve *c, const char *line, size_t size)
{
    json_t *root = NULL;
    struct bg_error ignored;
    const char *event = NULL;
    int64_t step = 0;
    double loss = 0;
    if (bg_json_parse("event", line, size, &ignored, &root))
        return;
    if (!bg_json_string(root, "event", "event", &ignored, &event) && strcmp(event, "evaluation") == 0 &&
        !bg_json_integer(root, "event", "step", 0, INT64_MAX, &ignored, &step) &&
        !bg_json_number(root, "event", "loss", &ignored, &loss) && (uint64_t)step <= c->steps)
        add_valid(c, (double)step, loss);
    json_decref(root);
}

static bg_status read_events(struct bg_env *env, const char *run, struct bg_error *err, struct curve *c)
{
    char *path = bg_format("%s/events.jsonl", run);
    struct bg_file_info info = {0};
    bg_status status = env->ops->path_info(env, path, err, &info);
    struct bg_map map;
    if (!status && info.exists)
        status = env->ops->map_open(env, path, err, &map);
    if (!status && info.exists) {
        const char *text = (const char *)map.data;
        for (size_t at = 0; at < map.size;) {
            const char *end = memchr(text + at, '\n', map.size - at);
            size_t size = end ? (size_t)(end - (text + at)) : map.size - at;
            read_event(c, text + at, size);
            at += size + 1;
        }
        env->ops->map_close(env, &map);
    }
    bg_free(path);
    return status;
}

// Moving mean over a fiftieth of the curve.
static void smooth(struct curve *c)
{
    if (c->steps < SMOOTH_FROM)
        return;
    uint64_t half = c->steps / 100 + 1;
    double *sums = bg_alloc_array((size_t)c->steps + 1, sizeof *sums);
    for (uint64_t s = 0; s < c->steps; s++)
        sums[s + 1] = sums[s] + c->losses[s];
    c->smooth = bg_alloc_array((size_t)c->steps, sizeof *c->smooth);
    for (uint64_t s = 0; s < c->steps; s++) {
        // Even at the steep beginning, one-sided at the flat end.
        uint64_t left = half < s ? half : s, right = half < c->steps - 1 - s ? half : c->steps - 1 - s;
        right = left < half && left < right ? left : right;
        c->smooth[s] = (sums[s + right + 1] - sums[s - left]) / (double)(left + right + 1);
    }
    bg_free(sums);
}

static bg_status read_run(struct bg_env *env, const char *run, struct bg_error *err, struct curve *c)
{
    struct steplog log;
    bg_status status = steplog_read(env, run, true, err, &log);
    if (status)
        return status;
    c->losses = log.losses;
    c->steps = log.steps;
    log.losses = NULL;
    steplog_fini(&log);
    if (c->steps == 0)
        return bg_fail(err, BG_NOT_FOUND, "%s: no steps to draw (is it a run directory with a steps.jsonl?)", run);
    smooth(c);
    return read_events(env, run, err, c);
}

static char *last_part(const char *path)
{
    size_t end = strlen(path);
    while (end > 1 && path[end - 1] == '/')
        end--;
    size_t begin = end;
    while (begin > 0 && path[begin - 1] != '/')
        begin--;
    return bg_strndup(path + begin, end - begin);
}

// The last part of the path; all of it where two runs share that part.
static char *label_of(const char *const *runs, size_t count, size_t index)
{
    char *label = last_part(runs[index]);
    bool shared = false;
    for (size_t i = 0; i < count; i++) {
        char *other = last_part(runs[i]);
        shared |= i != index && strcmp(label, other) == 0;
        bg_free(other);
    }
    if (!shared)
        return label;
    bg_free(label);
    return bg_strdup(runs[index]);
}

// ---- Scales ----

struct axis {
    double low, high;   // data range shown
    double first, last; // pixels
    bool log;
    double ticks[TICKS_MAX];
    size_t tick_count;
    int decimals;
};

static double place(const struct axis *a, double value)
{
    double at = a->log ? (bg_dlog(value) - bg_dlog(a->low)) / (bg_dlog(a->high) - bg_dlog(a->low))
                       : (value - a->low) / (a->high - a->low);
    return a->first + at * (a->last - a->first);
}

// Linear: the range widens to whole steps. `gap`: least pixels between ticks.
static void set_linear(struct axis *a, double gap, bool widen)
{
    double pixels = fabs(a->last - a->first);
    double step = bg_svg_step((a->high - a->low) * gap / pixels, &a->decimals);
    if (widen) {
        a->low = floor(a->low / step + 1e-9) * step;
        a->high = ceil(a->high / step - 1e-9) * step;
    }
    double least = ceil(a->low / step - 1e-9);
    for (double n = fabs(least) > 0 ? least : 0; n * step <= a->high * (1 + 1e-12) && a->tick_count < TICKS_MAX; n++)
        a->ticks[a->tick_count++] = n * step;
}

// Logarithmic: candidates from coarse to fine, each kept where it is far enough from those before it.
static void set_log(struct axis *a, double gap)
{
    static const double fine[] = {1, 2, 5, 3, 1.5, 4, 7, 2.5, 6, 1.2, 8, 1.1, 1.3, 1.4, 1.6, 1.7, 1.8, 1.9, 2.2, 9};
    a->low *= 0.97;
    a->high *= 1.03;
    for (size_t f = 0; f < sizeof fine / sizeof *fine; f++) {
        double power = 1;
        while (power > a->low)
            power /= 10;
        for (; power <= a->high && a->tick_count < TICKS_MAX; power *= 10) {
            double value = fine[f] * power;
            bool fits = value >= a->low && value <= a->high;
            for (size_t i = 0; i < a->tick_count && fits; i++)
                fits = fabs(place(a, value) - place(a, a->ticks[i])) >= gap;
            if (fits)
                a->ticks[a->tick_count++] = value;
        }
    }
    a->decimals = -1; // each tick as short as it can be
}

static void format_tick(const struct axis *a, double value, char text[32])
{
    if (a->decimals < 0)
        snprintf(text, 32, "%.3g", value);
    else if (a->decimals == 0 && value >= 10000000 && fmod(value, 100000) == 0)
        snprintf(text, 32, "%gM", value / 1000000);
    else if (a->decimals == 0 && value >= 10000 && fmod(value, 100) == 0)
        snprintf(text, 32, "%gk", value / 1000);
    else
        snprintf(text, 32, "%.*f", a->decimals, value);
}

// ---- Drawing ----

struct plot {
    struct bg_str svg;
    const struct plot_options *options;
    struct curve *curves;
    size_t count;
    double width, height, top;
    struct axis x, y;
};

static void draw_axes(struct plot *p)
{
    char text[32];
    bg_str_add(&p->svg, "<g stroke=\"#e4e7ea\" stroke-width=\"1\">\n");
    for (size_t i = 0; i < p->y.tick_count; i++)
        bg_svg_line(&p->svg, p->x.first, place(&p->y, p->y.ticks[i]), p->x.last, place(&p->y, p->y.ticks[i]), "");
    bg_str_add(&p->svg, "</g>\n<g stroke=\"#8a9199\" stroke-width=\"1\">\n");
    for (size_t i = 0; i < p->x.tick_count; i++)
        bg_svg_line(&p->svg, place(&p->x, p->x.ticks[i]), p->y.first, place(&p->x, p->x.ticks[i]), p->y.first + 5, "");
    bg_svg_line(&p->svg, p->x.first, p->y.first, p->x.last, p->y.first, "");
    bg_str_add(&p->svg, "</g>\n");
    for (size_t i = 0; i < p->y.tick_count; i++) {
        format_tick(&p->y, p->y.ticks[i], text);
        bg_svg_text(&p->svg, p->x.first - 8, place(&p->y, p->y.ticks[i]) + 4, "end", "", text);
    }
    for (size_t i = 0; i < p->x.tick_count; i++) {
        format_tick(&p->x, p->x.ticks[i], text);
        bg_svg_text(&p->svg, place(&p->x, p->x.ticks[i]), p->y.first + 20, "middle", "", text);
    }
    bg_svg_text(&p->svg, (p->x.first + p->x.last) / 2, p->height - 12, "middle", "", "step");
    double middle = (p->y.first + p->y.last) / 2;
    bg_str_addf(&p->svg,
                "<text x=\"16\" y=\"%.1f\" text-anchor=\"middle\" transform=\"rotate(-90 16 %.1f)\">loss%s</text>\n",
                middle, middle, p->y.log ? " (logarithmic)" : "");
}

// A polyline of at most two points a pixel column: first the column's value, then its other extreme.
static void draw_line(struct plot *p, const double *values, uint64_t steps, const char *color, double width,
                      double opacity)
{
    bg_str_addf(&p->svg,
                "<polyline fill=\"none\" stroke=\"%s\" stroke-width=\"%.1f\" stroke-opacity=\"%.2f\" "
                "stroke-linejoin=\"round\" points=\"",
                color, width, opacity);
    uint64_t columns = (uint64_t)(p->x.last - p->x.first);
    uint64_t per = steps / (columns ? columns : 1) + 1;
    for (uint64_t s = 0; s < steps; s += per) {
        uint64_t end = s + per < steps ? s + per : steps, low = s, high = s;
        for (uint64_t i = s; i < end; i++) {
            low = values[i] < values[low] ? i : low;
            high = values[i] > values[high] ? i : high;
        }
        uint64_t first = low < high ? low : high, second = low < high ? high : low;
        bg_str_addf(&p->svg, "%.1f,%.1f ", place(&p->x, (double)first), place(&p->y, values[first]));
        if (second != first)
            bg_str_addf(&p->svg, "%.1f,%.1f ", place(&p->x, (double)second), place(&p->y, values[second]));
    }
    bg_str_add(&p->svg, "\"/>\n");
}

static void draw_curves(struct plot *p)
{
    for (size_t i = 0; i < p->count; i++) {
        const struct curve *c = &p->curves[i];
        const char *color = bg_svg_color(i);
        draw_line(p, c->losses, c->steps, color, c->smooth ? 1 : 1.8, c->smooth ? 0.25 : 1);
        if (c->smooth)
            draw_line(p, c->smooth, c->steps, color, 1.8, 1);
    }
    for (size_t i = 0; i < p->count; i++) {
        const struct curve *c = &p->curves[i];
        for (size_t v = 0; v < c->valid_count; v++)
            bg_str_addf(&p->svg,
                        "<circle cx=\"%.1f\" cy=\"%.1f\" r=\"4\" fill=\"%s\" stroke=\"white\" stroke-width=\"1.5\"/>\n",
                        place(&p->x, c->valid[v].x), place(&p->y, c->valid[v].y), bg_svg_color(i));
    }
}

// ---- Legend ----

static void legend_text(const struct curve *c, double room, char text[160])
{
    char end[80];
    double last = c->smooth ? c->smooth[c->steps - 1] : c->losses[c->steps - 1];
    if (c->valid_count)
        snprintf(end, sizeof end, "train %.3f, valid %.3f", last, c->valid[c->valid_count - 1].y);
    else
        snprintf(end, sizeof end, "train %.3f", last);
    size_t letters = room / 7.0 > 150 ? 150 : (size_t)(room / 7.0);
    size_t used = strlen(end) + 3, left = letters > used + 4 ? letters - used : 4;
    size_t size = strlen(c->label);
    if (size > left) // the end of a path tells more than its beginning
        snprintf(text, 160, "...%s: %s", c->label + size - (left > 3 ? left - 3 : 1), end);
    else
        snprintf(text, 160, "%s: %s", c->label, end);
}

// Lays the entries in rows; draws them where `draw`. Returns the rows.
static size_t lay_legend(struct plot *p, double top, bool draw)
{
    double x = LEFT;
    size_t row = 0;
    for (size_t i = 0; i < p->count; i++) {
        char text[160];
        legend_text(&p->curves[i], p->width - LEFT - RIGHT - 40, text);
        double width = 40 + bg_svg_text_width(text, BG_SVG_FONT);
        if (x > LEFT && x + width > p->width - RIGHT) {
            x = LEFT;
            row++;
        }
        double y = top + (double)row * ROW;
        const char *color = bg_svg_color(i);
        if (draw) {
            char stroke[64];
            snprintf(stroke, sizeof stroke, " stroke=\"%s\" stroke-width=\"2\"", color);
            bg_svg_line(&p->svg, x, y - 4, x + 24, y - 4, stroke);
            if (p->curves[i].valid_count)
                bg_str_addf(
                    &p->svg,
                    "<circle cx=\"%.1f\" cy=\"%.1f\" r=\"4\" fill=\"%s\" stroke=\"white\" stroke-width=\"1.5\"/>\n",
                    x + 12, y - 4, color);
            bg_svg_text(&p->svg, x + 30, y, "start", "", text);
        }
        x += width + 8;
    }
    return row + 1;
}

static void set_axes(struct plot *p)
{
    double low = p->curves[0].losses[0], high = low, steps = 1;
    for (size_t i = 0; i < p->count; i++) {
        const struct curve *c = &p->curves[i];
        for (uint64_t s = 0; s < c->steps; s++) {
            low = c->losses[s] < low ? c->losses[s] : low;
            high = c->losses[s] > high ? c->losses[s] : high;
        }
        for (size_t v = 0; v < c->valid_count; v++) {
            low = c->valid[v].y < low ? c->valid[v].y : low;
            high = c->valid[v].y > high ? c->valid[v].y : high;
            steps = c->valid[v].x > steps ? c->valid[v].x : steps;
        }
        steps = (double)(c->steps - 1) > steps ? (double)(c->steps - 1) : steps;
    }
    if (!(high - low > 1e-9 * (fabs(high) + fabs(low)))) { // a flat curve: some room around it
        double room = fabs(high) > 0 ? 0.1 * fabs(high) : 1;
        low -= room;
        high += room;
    }
    p->x = (struct axis){.low = 0, .high = steps, .first = LEFT, .last = p->width - RIGHT};
    set_linear(&p->x, 80, false);
    p->y = (struct axis){.low = low, .high = high, .first = p->height - BOTTOM, .last = p->top};
    p->y.log = p->options->log_y && low > 0;
    if (p->y.log)
        set_log(&p->y, 26);
    else
        set_linear(&p->y, 44, true);
}

static char *draw(struct curve *curves, size_t count, const struct plot_options *options)
{
    struct plot p = {.options = options, .curves = curves, .count = count};
    p.width = options->width ? options->width : 900;
    p.height = options->height ? options->height : 540;
    double y = options->title ? 32 : 8;
    size_t rows = lay_legend(&p, 0, false);
    p.top = y + (double)rows * ROW + 14;
    if (p.height < p.top + BOTTOM + 120)
        p.height = p.top + BOTTOM + 120;
    set_axes(&p);
    bg_svg_open(&p.svg, p.width, p.height);
    if (options->title)
        bg_svg_text(&p.svg, LEFT, 24, "start", " font-size=\"15\" font-weight=\"600\"", options->title);
    lay_legend(&p, y + ROW - 4, true);
    draw_axes(&p);
    draw_curves(&p);
    bg_svg_close(&p.svg);
    return bg_str_take(&p.svg);
}

bg_status plot_runs(struct bg_env *env, const char *const *runs, size_t count, const struct plot_options *options,
                    struct bg_error *err, char **svg)
{
    if (count == 0)
        return bg_fail(err, BG_INVALID, "plot: name at least one run directory");
    if ((options->width && options->width < 320) || options->width > 10000 || options->height > 10000)
        return bg_fail(err, BG_INVALID, "plot: a width from 320 to 10000 and a height up to 10000 are possible");
    struct curve *curves = bg_alloc_array(count, sizeof *curves);
    bg_status status = BG_OK;
    for (size_t i = 0; i < count && !status; i++) {
        curves[i].label = label_of(runs, count, i);
        status = read_run(env, runs[i], err, &curves[i]);
    }
    if (!status)
        *svg = draw(curves, count, options);
    for (size_t i = 0; i < count; i++) {
        bg_free(curves[i].label);
        bg_free(curves[i].losses);
        bg_free(curves[i].smooth);
        bg_free(curves[i].valid);
    }
    bg_free(curves);
    return status;
}
