// Pictures of plans, read back as text: every op has its box, its item stands in it, nothing leaves the picture, no two
// lines of text touch. The times are made up: an op a turn, whatever it waits for.
#include "base/mem.h"
#include "plan/cost/picture.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <cmocka.h>

static const uint32_t even[PLAN_STAGES_MAX] = {[0 ... PLAN_STAGES_MAX - 1] = 1};
static double costs[1024];

struct world {
    struct plan plan;
    struct plan_profile profile;
    struct plan_timeline timeline;
    struct plan_picture picture;
};

static double length_of(const struct plan_op *op)
{
    return op->kind == PLAN_B ? 2 : op->kind == PLAN_F || op->kind == PLAN_W ? 1 : 0.25;
}

static void spend(struct plan_timeline *t, const struct plan *plan, uint32_t worker, double turn)
{
    double now = worker * turn;
    for (uint32_t i = 0; i < plan->lists[worker].count; i++) {
        const struct plan_op *op = &plan->lists[worker].ops[i];
        const double length = turn * length_of(op);
        t->spans[t->span_count++] = (struct plan_span){worker, i, now, now + length};
        if (op->kind != PLAN_SEND)
            now += length;
        if (op->kind <= PLAN_W)
            t->workers[worker].busy_s += length;
        if (op->kind <= PLAN_W)
            t->workers[worker].last_s = now;
    }
    t->workers[worker].first_s = worker * turn;
    t->workers[worker].peak_bytes = 1e9 * (worker + 1);
    t->step_s = now > t->step_s ? now : t->step_s;
}

static void make(struct world *w, const struct plan_options *options, double turn)
{
    struct bg_error err;
    memset(w, 0, sizeof *w);
    for (size_t i = 0; i < sizeof costs / sizeof *costs; i++)
        costs[i] = 1;
    if (plan_build(options, &err, &w->plan))
        fail_msg("%s", err.text);
    struct plan_timeline *t = &w->timeline;
    size_t ops = 0;
    for (uint32_t k = 0; k < w->plan.workers; k++)
        ops += w->plan.lists[k].count;
    t->spans = bg_alloc_array(ops, sizeof *t->spans);
    t->worker_count = w->plan.workers;
    t->workers = bg_alloc_array(w->plan.workers, sizeof *t->workers);
    for (uint32_t k = 0; k < w->plan.workers; k++)
        spend(t, &w->plan, k, turn);
    t->bubble_s = turn;
    w->profile.unit_count = options->units;
    w->profile.units = bg_alloc_array(options->units, sizeof *w->profile.units);
    for (uint32_t u = 0; u < options->units; u++)
        w->profile.units[u] = (struct plan_unit){.kind = u ? PLAN_UNIT_BLOCK : PLAN_UNIT_EMBED,
                                                 .forward_s = 1e-3 * (u + 1),
                                                 .parameter_bytes = 1e6,
                                                 .cut_bytes = 5e5};
    w->profile.machine_count = w->plan.workers;
    w->profile.machines = bg_alloc_array(w->plan.workers, sizeof *w->profile.machines);
    for (uint32_t k = 0; k < w->plan.workers; k++) {
        snprintf(w->profile.machines[k].name, PLAN_NAME_MAX, k % 2 ? "m<%u>" : "a-machine-with-a-long-name-%u", k);
        w->profile.machines[k].memory_bytes = k % 2 ? 3e9 : 0;
    }
    w->picture = (struct plan_picture){&w->plan, &w->timeline, &w->profile, "title & more", false};
}

static void unmake(struct world *w)
{
    plan_fini(&w->plan);
    bg_free(w->timeline.spans);
    bg_free(w->timeline.workers);
    bg_free(w->profile.units);
    bg_free(w->profile.machines);
}

// ---- Reading it back ----

// A number after `key` in the element at `line`, before its end.
static bool starts(const char *line, const char *with)
{
    return strncmp(line, with, strlen(with)) == 0;
}

// Of text up to `end`. Not strstr: ASan's asks for the length of all that follows, each time.
static const char *find(const char *text, char end, const char *part)
{
    for (; *text != end; text++)
        if (*text == *part && starts(text, part))
            return text;
    return NULL;
}

static const char *in_tag(const char *line, const char *part)
{
    return find(line, '>', part);
}

static double number(const char *line, const char *key)
{
    const char *at = in_tag(line, key);
    assert_non_null(at);
    return strtod(at + strlen(key), NULL);
}

static size_t count(const char *text, const char *part)
{
    size_t found = 0;
    for (; (text = find(text, '\0', part)); text++)
        found++;
    return found;
}

static double font_of(const char *svg, const char *class)
{
    char rule[32];
    snprintf(rule, sizeof rule, "%s{font-size:", class);
    const char *at = find(svg, '\0', rule);
    assert_non_null(at);
    return strtod(at + strlen(rule), NULL);
}

// Boxes lie in the picture, and an item within the box before it. Returns the items seen.
static size_t check_boxes(const char *svg)
{
    const double width = number(svg, "width=\""), height = number(svg, "height=\"");
    const char *box = NULL;
    size_t items = 0;
    for (const char *line = svg; line && *line; line = strchr(line, '\n') ? strchr(line, '\n') + 1 : NULL) {
        if (starts(line, "<rect x")) {
            box = line;
            assert_true(number(line, " x=\"") >= 0 && number(line, " y=\"") >= 0);
            assert_true(number(line, " x=\"") + number(line, " width=\"") <= width + 0.11);
            assert_true(number(line, " y=\"") + number(line, " height=\"") <= height);
        }
        if (!starts(line, "<text class=\"n"))
            continue;
        items++;
        char class[8];
        snprintf(class, sizeof class, ".n%c", line[14]);
        const double font = font_of(svg, class), letters = (double)strcspn(strchr(line, '>') + 1, "<");
        const bool upright = in_tag(line, "rotate") != NULL;
        const double room = number(box, upright ? " height=\"" : " width=\"");
        assert_true(0.6 * font * letters <= room);
        assert_true(number(line, " x=\"") > number(box, " x=\""));
        assert_true(number(line, " x=\"") < number(box, " x=\"") + number(box, " width=\""));
        assert_true(number(line, " y=\"") < number(box, " y=\"") + number(box, " height=\""));
    }
    return items;
}

// No two texts outside of boxes touch, and none is cut off.
static void check_texts(const char *svg, double font)
{
    static struct {
        double left, right, y;
    } seen[4096];
    const double width = number(svg, "width=\""), height = number(svg, "height=\"");
    size_t texts = 0;
    for (const char *line = svg; line && *line; line = strchr(line, '\n') ? strchr(line, '\n') + 1 : NULL) {
        if (!starts(line, "<text x"))
            continue;
        const char *text = strchr(line, '>') + 1, *anchor = in_tag(line, "anchor=\"") + 8;
        double letters = 0, size = font;
        for (const char *c = text; *c != '<'; c++, letters++)
            c += *c == '&' ? strcspn(c, ";") : 0;
        const char *own = in_tag(line, "font-size=\"");
        if (own)
            size = strtod(own + 11, NULL);
        else if (in_tag(line, "class=\"h\""))
            size = font_of(svg, ".h");
        else if (in_tag(line, "class=\"l\""))
            size = font_of(svg, ".l");
        const double x = number(line, " x=\""), y = number(line, " y=\""), length = 0.57 * size * letters;
        const double left = *anchor == 's' ? x : *anchor == 'm' ? x - length / 2 : x - length;
        assert_true(left >= 0 && left + length <= width && y - size * 0.8 >= 0 && y + 2 <= height);
        for (size_t i = 0; i < texts; i++)
            if (seen[i].y < y + 0.7 * size && y < seen[i].y + 0.7 * size)
                if (left < seen[i].right && seen[i].left < left + length)
                    fail_msg("touching: %.60s", text);
        assert_true(texts < 4096);
        seen[texts].left = left;
        seen[texts].right = left + length;
        seen[texts++].y = y;
    }
}

static size_t ops_of(const struct plan *plan, int kind)
{
    size_t found = 0;
    for (uint32_t w = 0; w < plan->workers; w++)
        for (size_t i = 0; i < plan->lists[w].count; i++)
            found += plan->lists[w].ops[i].kind == kind;
    return found;
}

// ---- Tests ----

static void every_op_has_its_box(void **state)
{
    (void)state;
    const struct {
        uint32_t stages, items;
        bool split;
        double turn;
    } cases[] = {{1, 1, false, 1},     {2, 8, false, 1e-3}, {4, 8, true, 1e-6},   {8, 16, true, 3.3},
                 {16, 32, false, 0.1}, {16, 64, true, 1},   {2, 64, false, 1e-4}, {64, 64, true, 1}};
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        struct world w;
        make(&w,
             &(struct plan_options){.costs = costs,
                                    .units = cases[i].stages + 2,
                                    .micro_batches = cases[i].items,
                                    .group = 1,
                                    .replicas = even,
                                    .stages = cases[i].stages,
                                    .schedule = PLAN_1F1B,
                                    .split = cases[i].split},
             cases[i].turn);
        char *svg = plan_picture_step(&w.picture), *again = plan_picture_step(&w.picture);
        assert_string_equal(svg, again);
        const size_t f = ops_of(&w.plan, PLAN_F), b = ops_of(&w.plan, PLAN_B), weight = ops_of(&w.plan, PLAN_W);
        assert_int_equal(count(svg, " class=\"f0\""), f + 1); // and the legend's
        assert_int_equal(count(svg, " class=\"b0\""), b + 1);
        assert_int_equal(count(svg, " class=\"w0\""), weight + (weight > 0));
        assert_int_equal(count(svg, "% idle"), w.plan.workers);
        const size_t items = check_boxes(svg);
        if (cases[i].stages <= 16)
            assert_true(items * 10 >= (f + b + weight) * 9);
        check_texts(svg, font_of(svg, "text"));
        assert_non_null(strstr(svg, "title &amp; more"));
        bg_free(svg);
        bg_free(again);
        unmake(&w);
    }
}

static void stages_of_a_worker_differ(void **state)
{
    (void)state;
    struct world w;
    make(&w,
         &(struct plan_options){.costs = costs,
                                .units = 10,
                                .micro_batches = 8,
                                .group = 1,
                                .replicas = even,
                                .stages = 2,
                                .schedule = PLAN_INTERLEAVED,
                                .chunks = 2,
                                .recompute = true},
         1);
    w.picture.turns = true;
    w.picture.profile = NULL;
    char *svg = plan_picture_step(&w.picture);
    assert_int_equal(count(svg, " class=\"f0\""), 16 + 1);
    assert_int_equal(count(svg, " class=\"f1\""), 16);
    assert_int_equal(count(svg, " class=\"r1\""), 16);
    assert_int_equal(count(svg, "forward again"), 1);
    assert_non_null(strstr(svg, "darker: a later stage"));
    assert_non_null(strstr(svg, ">worker 1<"));
    assert_non_null(strstr(svg, "turns since"));
    check_boxes(svg);
    check_texts(svg, font_of(svg, "text"));
    bg_free(svg);
    unmake(&w);
}

static void nothing_to_draw(void **state)
{
    (void)state;
    struct world w;
    make(&w,
         &(struct plan_options){
             .costs = costs, .units = 3, .micro_batches = 2, .group = 1, .replicas = even, .stages = 1},
         1);
    w.timeline.span_count = 0;
    w.timeline.step_s = w.timeline.bubble_s = 0;
    w.timeline.workers[0] = (struct plan_worker_time){0};
    w.picture.title = NULL;
    char *svg = plan_picture_step(&w.picture), *map = plan_picture_map(&w.picture);
    assert_null(strstr(svg, "nan"));
    assert_null(strstr(svg, "inf"));
    check_boxes(svg);
    check_boxes(map);
    bg_free(svg);
    bg_free(map);
    unmake(&w);
}

static void map_of_stages(void **state)
{
    (void)state;
    for (uint32_t units = 6; units <= 1000; units *= 6) {
        struct world w;
        static const uint32_t replicas[] = {2, 3, 1};
        make(&w,
             &(struct plan_options){.costs = costs,
                                    .units = units,
                                    .micro_batches = 16,
                                    .group = 2,
                                    .replicas = replicas,
                                    .stages = 3,
                                    .followers = 1},
             1);
        char *svg = plan_picture_map(&w.picture);
        assert_int_equal(count(svg, ">8 of 16<"), 2);
        assert_int_equal(count(svg, ">6 of 16<"), 2); // 8 items to 3 replicas
        assert_int_equal(count(svg, ">4 of 16<"), 1);
        assert_int_equal(count(svg, ">16 of 16<"), 1);
        assert_int_equal(count(svg, ">2.0 GB of 3.0 GB<"), 1);
        assert_int_equal(count(svg, "500 kB a micro-batch"), 2);
        assert_int_equal(count(svg, "#e07a6b"), 2); // more than there is
        assert_int_equal(count(svg, "the shadow"), 1);
        check_boxes(svg);
        check_texts(svg, 12);
        bg_free(svg);
        unmake(&w);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {cmocka_unit_test(every_op_has_its_box),
                                       cmocka_unit_test(stages_of_a_worker_differ), cmocka_unit_test(nothing_to_draw),
                                       cmocka_unit_test(map_of_stages)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
