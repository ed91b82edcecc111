// SVG text: escaping, coordinates, distances of ticks.
#include "base/mem.h"
#include "base/svg.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <cmocka.h>

static void elements(void **state)
{
    (void)state;
    struct bg_str svg = {0};
    bg_svg_text(&svg, 1, 2.25, "end", " fill=\"red\"", "a<b> & \"c\"\x01\xc3\xa9");
    assert_string_equal(bg_str_text(&svg), "<text x=\"1.0\" y=\"2.2\" text-anchor=\"end\" fill=\"red\">"
                                           "a&lt;b&gt; &amp; &quot;c&quot;?"
                                           "??"
                                           "</text>\n");
    bg_str_reset(&svg);
    bg_svg_line(&svg, 1, 2, 3, 4, "");
    bg_svg_rect(&svg, 0.06, 0, 10, 5.5, " rx=\"2\"");
    assert_string_equal(bg_str_text(&svg), "<line x1=\"1.0\" x2=\"3.0\" y1=\"2.0\" y2=\"4.0\"/>\n"
                                           "<rect x=\"0.1\" y=\"0.0\" width=\"10.0\" height=\"5.5\" rx=\"2\"/>\n");
    bg_str_fini(&svg);
    assert_string_equal(bg_svg_color(1), bg_svg_color(9));
    assert_string_not_equal(bg_svg_color(1), bg_svg_color(2));
}

static void steps(void **state)
{
    (void)state;
    const struct {
        double least;
        const char *step;
    } cases[] = {{1, "1"},     {1.1, "2"}, {2, "2"},     {2.5, "5"},      {6, "10"},         {70, "100"},
                 {0.3, "0.5"}, {0.6, "1"}, {0.1, "0.1"}, {0.021, "0.05"}, {0.0009, "0.001"}, {12345, "20000"}};
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        int decimals;
        const double step = bg_svg_step(cases[i].least, &decimals);
        char text[32];
        snprintf(text, sizeof text, "%.*f", decimals, step);
        assert_string_equal(text, cases[i].step);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {cmocka_unit_test(elements), cmocka_unit_test(steps)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
