// SVG as text. What is drawn and where is the caller's; here is what every picture has in common.
#include "base/svg.h"

#include <string.h>

static const char *const colors[] = {"#1f6fb4", "#d9541e", "#2a9d4b", "#8e44ad",
                                     "#c0392b", "#16808d", "#7a5c2e", "#5b6770"};

void bg_svg_open(struct bg_str *svg, double width, double height)
{
    bg_str_addf(svg,
                "<svg xmlns=\"http://www.w3.org/2000/svg\" width=\"%.0f\" height=\"%.0f\" viewBox=\"0 0 %.0f %.0f\" "
                "font-family=\"system-ui, -apple-system, 'Segoe UI', Roboto, 'DejaVu Sans', sans-serif\" "
                "font-size=\"%d\" fill=\"#2f363d\">\n<rect width=\"100%%\" height=\"100%%\" fill=\"white\"/>\n",
                width, height, width, height, BG_SVG_FONT);
}

void bg_svg_close(struct bg_str *svg)
{
    bg_str_add(svg, "</svg>\n");
}

void bg_svg_line(struct bg_str *svg, double x1, double y1, double x2, double y2, const char *style)
{
    bg_str_addf(svg, "<line x1=\"%.1f\" x2=\"%.1f\" y1=\"%.1f\" y2=\"%.1f\"%s/>\n", x1, x2, y1, y2, style);
}

void bg_svg_rect(struct bg_str *svg, double x, double y, double width, double height, const char *style)
{
    bg_str_addf(svg, "<rect x=\"%.1f\" y=\"%.1f\" width=\"%.1f\" height=\"%.1f\"%s/>\n", x, y, width, height, style);
}

void bg_svg_escape(struct bg_str *svg, const char *text)
{
    for (; *text; text++) {
        const unsigned char c = (unsigned char)*text;
        switch (c) {
        case '&':
            bg_str_add(svg, "&amp;");
            break;
        case '<':
            bg_str_add(svg, "&lt;");
            break;
        case '>':
            bg_str_add(svg, "&gt;");
            break;
        case '"':
            bg_str_add(svg, "&quot;");
            break;
        default:
            // Names are shown, not kept: what XML might refuse becomes a question mark.
            bg_str_addf(svg, "%c", c >= 32 && c < 127 ? c : '?');
        }
    }
}

void bg_svg_text(struct bg_str *svg, double x, double y, const char *anchor, const char *style, const char *text)
{
    bg_str_addf(svg, "<text x=\"%.1f\" y=\"%.1f\" text-anchor=\"%s\"%s>", x, y, anchor, style);
    bg_svg_escape(svg, text);
    bg_str_add(svg, "</text>\n");
}

double bg_svg_text_width(const char *text, double font)
{
    return 7 * font / 12 * (double)strlen(text);
}

const char *bg_svg_color(size_t index)
{
    return colors[index % (sizeof colors / sizeof *colors)];
}

double bg_svg_step(double least, int *decimals)
{
    double power = 1;
    int digits = 0;
    while (power > least && digits < 12) {
        power /= 10;
        digits++;
    }
    while (power * 10 <= least) {
        power *= 10;
        digits--;
    }
    const double step = power >= least       ? power
                        : 2 * power >= least ? 2 * power
                        : 5 * power >= least ? 5 * power
                                             : 10 * power;
    if (step >= 10 * power)
        digits--;
    *decimals = digits > 0 ? digits : 0;
    return step;
}
