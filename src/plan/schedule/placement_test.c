// Placements: shapes, text there and back, and what is refused.
#include "plan/schedule/placement.h"

#include "base/mem.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>
#include <cmocka.h>

static void shapes_are_placements_and_survive_text(void **state)
{
    (void)state;
    for (size_t s = 0; plan_placement_shape_name(s); s++)
        for (uint32_t devices = 1; devices <= 16; devices++) {
            const char *name = plan_placement_shape_name(s);
            struct bg_error err = {0};
            struct plan_placement p, again;
            if (devices % 2 && (strcmp(name, "xshape") == 0 || strcmp(name, "kshape") == 0)) {
                assert_int_equal(plan_placement_shape(name, devices, &err, &p), BG_INVALID);
                continue;
            }
            assert_int_equal(plan_placement_shape(name, devices, &err, &p), BG_OK);
            assert_int_equal(plan_placement_check(&p, &err), BG_OK);
            char *text = plan_placement_format(&p);
            assert_int_equal(plan_placement_parse(text, strlen(text), &err, &again), BG_OK);
            char *twice = plan_placement_format(&again);
            assert_string_equal(text, twice);
            bg_free(text);
            bg_free(twice);
            plan_placement_fini(&p);
            plan_placement_fini(&again);
        }
}

static void shapes_are_what_the_header_says(void **state)
{
    (void)state;
    struct bg_error err = {0};
    struct plan_placement p;
    assert_int_equal(plan_placement_shape("nnshape", 2, &err, &p), BG_OK);
    char *text = plan_placement_format(&p);
    assert_string_equal(text, "placement 1 devices 2\n"
                              "block ef span 1 memory 0 devices 0,1\n"
                              "block f0 span 1 memory 1 devices 0 after ef\n"
                              "block mf span 1 memory 0 devices 0,1 after f0\n"
                              "block f1 span 1 memory 1 devices 1 after mf\n"
                              "block b1 span 3 memory -1 devices 1 after f1\n"
                              "block mb span 1 memory 0 devices 0,1 after b1\n"
                              "block b0 span 3 memory -1 devices 0 after mb\n"
                              "block eb span 1 memory 0 devices 0,1 after b0\n");
    bg_free(text);
    plan_placement_fini(&p);
    assert_int_equal(plan_placement_shape("kshape", 2, &err, &p), BG_OK);
    text = plan_placement_format(&p);
    assert_string_equal(text, "placement 1 devices 2\n"
                              "block xf0 span 1 memory 1 devices 0\n"
                              "block yf0 span 1 memory 1 devices 1\n"
                              "block lf span 1 memory 1 devices 0,1 after xf0,yf0\n"
                              "block lb span 1 memory -1 devices 0,1 after lf\n"
                              "block xb0 span 3 memory -1 devices 0 after lb\n"
                              "block yb0 span 3 memory -1 devices 1 after lb\n");
    bg_free(text);
    plan_placement_fini(&p);
    assert_int_equal(plan_placement_shape("xshape", 64, &err, &p), BG_INVALID);
    assert_int_equal(plan_placement_shape("vshape", 64, &err, &p), BG_OK);
    plan_placement_fini(&p);
    assert_int_equal(plan_placement_shape("wshape", 4, &err, &p), BG_INVALID);
}

static void bad_text_is_refused_by_line(void **state)
{
    (void)state;
    static const struct {
        const char *text, *says;
    } cases[] = {
        {"", "no line"},
        {"block a span 1 devices 0\n", "line 1"},
        {"placement 2 devices 1\n", "line 1"},
        {"placement 1 devices 65\n", "line 1"},
        {"placement 1 devices 0\n", "line 1"},
        {"placement 1 devices 1 more\n", "line 1"},
        {"placement 1 devices 1\nblock a\xc3\xa4 span 1 devices 0\n", "line 2"},
        {"# a\n\nplacement 1 devices 1\nblock a span 0 devices 0\n", "line 4: block a: span 0"},
        {"placement 1 devices 1\nblock a span 1 devices 1\n", "line 2: block a: expected devices"},
        {"placement 1 devices 1\nblock a span 1\n", "line 2: block a: expected devices"},
        {"placement 1 devices 1\nblock a span 1 devices 0 after b\n", "line 2: \"b\""},
        {"placement 1 devices 1\nblock a span 1 devices 0 after a\n", "line 2: \"a\""},
        {"placement 1 devices 1\nblock a span 1 devices 0\nblock a span 1 devices 0\n",
         "line 3: block a is there twice"},
        {"placement 1 devices 1\nblock a span 1x devices 0\n", "line 2: \"1x\""},
        {"placement 1 devices 1\nblock a span 1 devices 0 memory\n", "line 2: \"memory\""},
        {"placement 1 devices 1\nblock a span 9999999999 devices 0\n", "line 2"},
        {"placement 1 devices 1\nblock a span 1 devices 0 colour 3\n", "line 2: \"colour\""},
        {"placement 1 devices 1\nblock a,b span 1 devices 0\n", "line 2: \"a,b\""},
        {"placement 1 devices 2\nblock a span 1 devices 0\n", "device 1 has no block"},
        {"placement 1 devices 1\nblock a span 1 memory 2 devices 0\n", "leaves memory 2 behind"},
        {"placement 1 devices 1\nstage a\n", "line 2: \"stage\""},
    };
    for (size_t c = 0; c < sizeof cases / sizeof *cases; c++) {
        struct bg_error err = {0};
        struct plan_placement p = {0};
        assert_int_equal(plan_placement_parse(cases[c].text, strlen(cases[c].text), &err, &p), BG_FORMAT);
        if (!strstr(err.text, cases[c].says))
            fail_msg("case %zu: %s", c, err.text);
        assert_null(p.blocks);
    }
    const char loose[] = "  placement  1\tdevices 1 \r\n block a memory 1 devices 0 span 2\nblock b span 1 "
                         "devices 0,0 memory -1 after a,a";
    struct bg_error err = {0};
    struct plan_placement p;
    assert_int_equal(plan_placement_parse(loose, sizeof loose - 1, &err, &p), BG_OK);
    assert_int_equal(p.blocks[1].need_count, 1);
    plan_placement_fini(&p);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(shapes_are_placements_and_survive_text),
        cmocka_unit_test(shapes_are_what_the_header_says),
        cmocka_unit_test(bad_text_is_refused_by_line),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
