// Pictures as SVG text: pure string building. Coordinates are pixels, y downwards, with one decimal, so equal pictures
// have equal text. `style` is further attributes with a blank before them (" fill=\"red\""), or "".
#ifndef BASE_SVG_H
#define BASE_SVG_H

#include "base/str.h"

enum { BG_SVG_FONT = 12 };

void bg_svg_open(struct bg_str *svg, double width, double height); // white ground, dark text of BG_SVG_FONT
void bg_svg_close(struct bg_str *svg);
void bg_svg_line(struct bg_str *svg, double x1, double y1, double x2, double y2, const char *style);
void bg_svg_rect(struct bg_str *svg, double x, double y, double width, double height, const char *style);
// anchor: start, middle, end. The text is escaped; what is not printable ASCII becomes a question mark.
void bg_svg_text(struct bg_str *svg, double x, double y, const char *anchor, const char *style, const char *text);
void bg_svg_escape(struct bg_str *svg, const char *text);
// As if every letter were a wide one: what is laid out by it never touches.
double bg_svg_text_width(const char *text, double font);

const char *bg_svg_color(size_t index); // of curves and other things side by side; they come round again after eight
// The smallest of 1, 2, 5 x 10^k that is at least `least` (> 0), and the decimals it needs: distances of ticks.
double bg_svg_step(double least, int *decimals);

#endif
