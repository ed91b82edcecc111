// Boxes are wide enough for the micro-batch of the shortest op where the picture does not grow too wide for that; a
// name stands beside it where there is room.
#include "plan/schedule/placement_picture.h"

#include "base/mem.h"
#include "base/svg.h"

#include <math.h>
#include <string.h>

enum { LEFT = 84, TOP = 62, ROW = 30, BOTTOM = 40, RIGHT = 24, PLOT_MIN = 840, PLOT_MAX = 3200, BOX = 18, FONT = 11 };

static const struct look {
    const char *class, *text, *color;
} looks[] = {
    {"take", "takes memory", "#7cc4f0"},
    {"give", "gives it back", "#f2b134"},
    {"keep", "neither", "#b9c3cd"},
    {"wide", "on several devices", "#c2579a"},
};

static const struct look *look_of(const struct plan_block *block)
{
    if (block->devices & (block->devices - 1))
        return &looks[3];
    return &looks[block->memory > 0 ? 0 : block->memory < 0 ? 1 : 2];
}

static double plot_width(const struct plan_batch_run *run)
{
    uint64_t shortest = UINT64_MAX;
    for (uint32_t i = 0; i < run->count; i++)
        if (run->ops[i].stop - run->ops[i].start < shortest)
            shortest = run->ops[i].stop - run->ops[i].start;
    const double wanted = run->count ? BOX * (double)run->makespan / (double)shortest : 0;
    return fmax(PLOT_MIN, fmin(PLOT_MAX, wanted));
}

static void add_label(struct bg_str *svg, const struct plan_block *block, const struct plan_batch_op *op, double x,
                      double y, double width)
{
    char *micro = op->end - op->first > 1 ? bg_format("%u-%u", op->first, op->end - 1) : bg_format("%u", op->first);
    char *both = bg_format("%s %s", block->name, micro);
    const char *text = bg_svg_text_width(both, FONT) <= width ? both : micro;
    if (0.62 * FONT * (double)strlen(text) + 2 <= width)
        bg_svg_text(svg, x + width / 2, y + ROW / 2.0 + 1, "middle", " font-size=\"11\"", text);
    bg_free(micro);
    bg_free(both);
}

static void add_legend(struct bg_str *svg)
{
    double x = LEFT;
    for (size_t l = 0; l < sizeof looks / sizeof *looks; l++) {
        char *style = bg_format(" fill=\"%s\"", looks[l].color);
        bg_svg_rect(svg, x, 34, 14, 14, style);
        bg_svg_text(svg, x + 20, 46, "start", "", looks[l].text);
        x += 48 + bg_svg_text_width(looks[l].text, BG_SVG_FONT);
        bg_free(style);
    }
}

char *plan_placement_picture(const struct plan_placement *placement, const struct plan_batch_run *run,
                             const char *title)
{
    struct bg_str svg = {0};
    const double plot = plot_width(run), end = run->makespan ? (double)run->makespan : 1;
    bg_svg_open(&svg, LEFT + plot + RIGHT, TOP + (double)placement->devices * ROW + BOTTOM);
    bg_svg_text(&svg, LEFT, 20, "start", " font-weight=\"bold\"", title);
    add_legend(&svg);
    for (uint32_t d = 0; d < placement->devices; d++) {
        const double y = TOP + (double)d * ROW;
        char *name = bg_format("device %u", d);
        bg_svg_text(&svg, LEFT - 8, y + ROW / 2.0 + 1, "end", "", name);
        bg_svg_rect(&svg, LEFT, y, plot, ROW - 6, " fill=\"#e6e9ec\"");
        bg_free(name);
        for (uint32_t i = 0; i < run->count; i++) {
            const struct plan_batch_op *op = &run->ops[i];
            const struct plan_block *block = &placement->blocks[op->block];
            const double x = LEFT + plot * (double)op->start / end, width = plot * (double)(op->stop - op->start) / end;
            if (!(block->devices >> d & 1))
                continue;
            char *style = bg_format(" class=\"%s\" fill=\"%s\" stroke=\"white\" stroke-width=\"0.6\"",
                                    look_of(block)->class, look_of(block)->color);
            bg_svg_rect(&svg, x, y, width, ROW - 6, style);
            add_label(&svg, block, op, x, y, width);
            bg_free(style);
        }
    }
    const double foot = TOP + (double)placement->devices * ROW + 14;
    char *steps = bg_format("%llu steps", (unsigned long long)run->makespan);
    bg_svg_text(&svg, LEFT, foot, "start", "", "0");
    bg_svg_text(&svg, LEFT + plot, foot, "end", "", steps);
    bg_free(steps);
    bg_svg_close(&svg);
    return bg_str_take(&svg);
}
