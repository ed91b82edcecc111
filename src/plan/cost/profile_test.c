// Profiles as text: what is written reads back the same, what is refused names its line. A graph of layers as a chain.
#include "plan/cost/profile.h"

#include "base/mem.h"
#include "base/philox.h"
#include "plan/split/graph.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <cmocka.h>

static struct plan_profile parse(const char *text)
{
    struct bg_error err = {0};
    struct plan_profile profile = {0};
    if (plan_profile_parse(text, strlen(text), &err, &profile))
        fail_msg("%s", err.text);
    return profile;
}

static void reads_what_is_documented(void **state)
{
    (void)state;
    struct plan_profile p =
        parse("# by hand\n\n  profile 1\r\n"
              "unit embed forward_s 1e-3 parameter_bytes 4096 gradient_bytes 64\n"
              "unit   block input_s .5 weight_s 2 stash_bytes 7 cut_bytes 9\nunit head\nunit other parameter_bytes 6\n"
              "overhead op_s 1 message_s 2 message_byte_s 8 commit_s 3 step_byte_s 4 reduce_byte_s 5 tie_bytes 6 "
              "sharing .75\n"
              "link outer bytes_s 1e9\tlatency_s 1e-4\n# no inner\n"
              "machine a0 host 3 speed 2.5 memory 1e10 cores 8 threads 4 dollars_hour 0.5 watts 300\n"
              "machine b");
    assert_int_equal(p.unit_count, 4);
    assert_int_equal(p.units[0].kind, PLAN_UNIT_EMBED);
    assert_true(p.units[0].forward_s == 1e-3 && p.units[0].parameter_bytes == 4096 && p.units[0].gradient_bytes == 64);
    assert_true(p.units[1].input_s == 0.5 && p.units[1].weight_s == 2 && p.units[1].stash_bytes == 7);
    assert_true(p.units[1].cut_bytes == 9 && p.units[1].forward_s == 0);
    assert_int_equal(p.units[2].kind, PLAN_UNIT_HEAD);
    assert_int_equal(p.units[3].kind, PLAN_UNIT_OTHER);
    assert_true(p.op_s == 1 && p.message_s == 2 && p.message_byte_s == 8 && p.commit_s == 3 && p.step_byte_s == 4 &&
                p.reduce_byte_s == 5);
    assert_true(p.sharing == 0.75 && p.tie_bytes == 6 && p.inner.bytes_s == 0 && p.outer.bytes_s == 1e9 &&
                p.outer.latency_s == 1e-4);
    assert_int_equal(p.machine_count, 2);
    assert_string_equal(p.machines[0].name, "a0");
    assert_int_equal(p.machines[0].host, 3);
    assert_true(p.machines[0].speed == 2.5 && p.machines[0].memory_bytes == 1e10 && p.machines[0].cores == 8);
    assert_true(p.machines[0].threads == 4 && p.machines[0].dollars_hour == 0.5 && p.machines[0].watts == 300);
    assert_true(p.machines[1].speed == 1 && p.machines[1].threads == 1 && p.machines[1].cores == 0);
    plan_profile_fini(&p);
}

// A number of any size, with every bit of its mantissa.
static double any(uint32_t *counter)
{
    const struct bg_philox_counter c = bg_philox((struct bg_philox_counter){{(*counter)++}}, bg_philox_key(4, 1));
    if (c.c[0] % 5 == 0)
        return c.c[1] % 100;
    double value = 1 + (double)c.c[1] * 0x1p-32 + (double)c.c[2] * 0x1p-52 / 4;
    for (uint32_t i = c.c[3] % 59; i > 0; i--)
        value *= c.c[0] & 8 ? 2 : 0.5;
    return value;
}

static void text_keeps_every_bit(void **state)
{
    (void)state;
    uint32_t counter = 0;
    for (uint32_t round = 0; round < 50; round++) {
        struct plan_profile p = {.units = bg_alloc_array(7, sizeof *p.units),
                                 .unit_count = round % 7,
                                 .machines = bg_alloc_array(5, sizeof *p.machines),
                                 .machine_count = round % 5,
                                 .inner = {any(&counter), any(&counter)},
                                 .outer = {any(&counter), any(&counter)},
                                 .op_s = any(&counter),
                                 .step_byte_s = any(&counter),
                                 .tie_bytes = any(&counter)};
        for (uint32_t u = 0; u < p.unit_count; u++)
            p.units[u] = (struct plan_unit){u % 4,         any(&counter), any(&counter), any(&counter),
                                            any(&counter), any(&counter), any(&counter), any(&counter)};
        for (uint32_t u = 0; u < p.unit_count; u++)
            p.tie_bytes = p.units[u].parameter_bytes < p.tie_bytes ? p.units[u].parameter_bytes : p.tie_bytes;
        for (uint32_t m = 0; m < p.machine_count; m++) {
            p.machines[m] = (struct plan_machine){
                .speed = any(&counter) + 1, .memory_bytes = any(&counter), .host = m * 77, .threads = m + 0.5};
            snprintf(p.machines[m].name, sizeof p.machines[m].name, "m%u", m);
        }
        char *text = plan_profile_format(&p);
        struct plan_profile again = parse(text);
        char *twice = plan_profile_format(&again);
        assert_string_equal(text, twice);
        assert_int_equal(again.unit_count, p.unit_count);
        assert_memory_equal(again.units, p.units, p.unit_count * sizeof *p.units);
        assert_memory_equal(again.machines, p.machines, p.machine_count * sizeof *p.machines);
        assert_memory_equal(&again.inner, &p.inner, sizeof p.inner);
        assert_true(again.op_s == p.op_s && again.step_byte_s == p.step_byte_s && again.tie_bytes == p.tie_bytes);
        bg_free(text);
        bg_free(twice);
        plan_profile_fini(&p);
        plan_profile_fini(&again);
    }
}

static void refuses(const char *text, const char *why)
{
    struct bg_error err = {0};
    struct plan_profile profile;
    assert_int_equal(plan_profile_parse(text, strlen(text), &err, &profile), BG_FORMAT);
    if (!strstr(err.text, why))
        fail_msg("\"%s\" does not say \"%s\"", err.text, why);
}

static void bad_lines_are_named(void **state)
{
    (void)state;
    refuses("", "no line");
    refuses("# nothing\n", "no line");
    refuses("profile 2\n", "line 1: found \"2\", expected \"profile 1\"");
    refuses("profile 1 x\n", "line 1: found \"x\"");
    refuses("unit block\n", "expected \"profile 1\"");
    refuses("profile 1\nlayer x\n", "line 2: found \"layer\", expected unit, overhead, link or machine");
    refuses("profile 1\nunit\n", "the end of the line, expected embed, block, head or other");
    refuses("profile 1\nunit blocks\n", "found \"blocks\", expected embed");
    refuses("profile 1\n\nunit block forward_s\n", "line 3: found the end of the line, expected a number");
    refuses("profile 1\nunit block forward_s -1\n", "found \"-1\", expected a number from 0 to 1e18 behind forward_s");
    refuses("profile 1\nunit embed\nunit head parameter_bytes 1\n", "no unit takes any time");
    refuses("profile 1\nunit embed forward_s 1 parameter_bytes 4\nunit head parameter_bytes 3\noverhead tie_bytes 4\n",
            "tie_bytes 4: expected at most the parameter_bytes");
    refuses("profile 1\nunit block forward_s nan\n", "found \"nan\"");
    refuses("profile 1\nunit block forward_s inf\n", "found \"inf\"");
    refuses("profile 1\nunit block forward_s 1.1e18\n", "found \"1.1e18\"");
    refuses("profile 1\nunit block forward_s 0x10\n", "found \"0x10\"");
    refuses("profile 1\nunit block forward_s 1 forward_s 2\n",
            "found \"forward_s\", expected each key once: forward_s");
    refuses("profile 1\nunit block speed 1\n", "found \"speed\", expected one of forward_s input_s");
    refuses("profile 1\nlink middle\n", "inner or outer");
    refuses("profile 1\nlink inner\nlink inner\n", "line 3: this record stands");
    refuses("profile 1\noverhead\noverhead\n", "line 3: this record stands");
    refuses("profile 1\nmachine\n", "a machine's name");
    refuses("profile 1\nmachine m\xff speed 1\n", "line 2: a machine's name of other than printable ASCII");
    refuses("profile 1\nmachine m speed 0\n", "machine m: speed and threads must be more than 0");
    refuses("profile 1\nmachine m quota 0.5\n", "machine m: a quota is at most 1, of a period_s of more than 0");
    refuses("profile 1\nmachine m quota 1.5 period_s 1\n", "a quota is at most 1");
    refuses("profile 1\nmachine m host 1.5\n", "found \"1.5\", expected the number of a host");
    refuses("profile 1\nmachine m host 4294967296\n", "the number of a host");
    refuses("profile 1\nmachine 0123456789012345678901234567890123456789012345678901234567890123\n", "at most 63");
}

static struct plan_profile from_graph(const char *text)
{
    struct bg_error err = {0};
    struct plan_graph graph;
    struct plan_profile profile;
    if (plan_graph_parse(text, strlen(text), &err, &graph))
        fail_msg("%s", err.text);
    plan_profile_from_graph(&graph, &profile);
    plan_graph_fini(&graph);
    return profile;
}

#define NODE(id, f, b, a, p)                                                                                           \
    "node" id " -- layer -- forward_compute_time=" f ", backward_compute_time=" b ", activation_size=" a               \
    ", parameter_size=" p "\n"

// 1 -> 2 -> 4, 1 -> 3 -> 4, 1 -> 4: what is alive at each cut is sent once.
static void a_graph_becomes_a_chain(void **state)
{
    (void)state;
    struct plan_profile p = from_graph(NODE("4", "4", "8", "1000", "4") NODE("1", "1", "2", "10", "1")
                                           NODE("2", "2", "4", "[60; 40]", "2") NODE("3", "3", "6", "7", "3")
                                               NODE("5", "0", "0", "5", "0") "\tnode1 -- node2\n\tnode2 -- node4\n"
                                                                             "\tnode1 -- node3\n\tnode3 -- node4\n"
                                                                             "\tnode1 -- node4\n\tnode4 -- node5\n");
    assert_int_equal(p.unit_count, 5);
    const double parameters[] = {1, 2, 3, 4, 0}, cuts[] = {10, 110, 117, 1000, 5};
    for (uint32_t u = 0; u < 5; u++) {
        assert_true(p.units[u].parameter_bytes == parameters[u]);
        assert_true(p.units[u].cut_bytes == cuts[u]);
        assert_true(p.units[u].forward_s == parameters[u] / 1000);
        assert_true(p.units[u].input_s + p.units[u].weight_s == parameters[u] / 500);
    }
    plan_profile_fini(&p);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(reads_what_is_documented),
        cmocka_unit_test(text_keeps_every_bit),
        cmocka_unit_test(bad_lines_are_named),
        cmocka_unit_test(a_graph_becomes_a_chain),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
