// Traces: what is read is written back, disorder is mended and said, changes do what they promise, figures by hand; and
// the recorded traces, which need ../shared (or BRIGADE_SHARED).
#include "plan/spot/trace.h"

#include "base/mem.h"

#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

static struct plan_trace parsed(const char *text)
{
    struct plan_trace trace;
    struct bg_error err = {0};
    if (plan_trace_parse("trace", text, strlen(text), &err, &trace))
        fail_msg("%s", err.text);
    return trace;
}

static void written_as(const struct plan_trace *trace, const char *text)
{
    char *written = plan_trace_format(trace);
    assert_string_equal(written, text);
    bg_free(written);
}

static const char counts_text[] = "{\"metadata\": {\"gap_seconds\": 600}, \"data\": [0, 2, 2, 3, 0, 1]}\n";
static const char events_text[] = "0,add,a\n0,add,b\n1500,remove,a\n1500,add,c c\n4000,add,a\n10000,remove,b\n";
static const char requests_text[] = "TIMESTAMP,ContextTokens,GeneratedTokens\n"
                                    "2024-02-29 23:59:59.0000000,10,1\n"
                                    "2024-03-01 00:00:00.0000000,20,2\n"
                                    "2024-03-01 00:00:03.1234567,30,3\n";

static void what_is_read_is_written_back(void **state)
{
    (void)state;
    static const char *const texts[] = {counts_text, events_text, requests_text};
    for (size_t i = 0; i < 3; i++) {
        struct plan_trace trace = parsed(texts[i]);
        assert_int_equal(trace.kind, i);
        assert_int_equal(trace.moved + trace.dropped, 0);
        written_as(&trace, texts[i]);
        plan_trace_fini(&trace);
    }
    struct plan_trace other = parsed("TIMESTAMP,ContextTokens,GeneratedTokens\r\n1970-01-01T00:00:01+00:00,7,8\r\n");
    assert_true(other.requests[0].at_ns == 1000000000);
    plan_trace_fini(&other);
}

static void requests_say_where_their_columns_are(void **state)
{
    (void)state;
    // Another order, other columns, seconds; a byte order mark; as BurstGPT names them.
    static const char *const texts[] = {
        "\xef\xbb\xbfGeneratedTokens,model,timestamp,ContextTokens\n8,m,1.5,7\n9,,2023-11-16 18:17:03,6\n",
        "Timestamp,Model,Request tokens,Response tokens,Total tokens\r\n1.5,m,7,8,15\r\n1700158623,m,6,9,15\r\n"};
    for (size_t i = 0; i < 2; i++) {
        struct plan_trace trace = parsed(texts[i]);
        written_as(&trace, "TIMESTAMP,ContextTokens,GeneratedTokens\n1970-01-01 00:00:01.5000000,7,8\n"
                           "2023-11-16 18:17:03.0000000,6,9\n");
        plan_trace_fini(&trace);
    }
    struct plan_trace trace = parsed("\xef\xbb\xbf{\"metadata\": {\"gap_seconds\": 60}, \"data\": [1]}");
    assert_int_equal(trace.kind, PLAN_TRACE_COUNTS);
    plan_trace_fini(&trace);
}

static void disorder_is_mended_and_counted(void **state)
{
    (void)state;
    struct plan_trace trace = parsed("5,add,a\n2,add,b\n7,add,a\n3,remove,x\n9,remove,b\n4,add,d\n");
    assert_int_equal(trace.moved, 3);
    assert_int_equal(trace.moved_line, 2);
    assert_int_equal(trace.dropped, 2);
    assert_int_equal(trace.dropped_line, 4);
    written_as(&trace, "2,add,b\n4,add,d\n5,add,a\n9,remove,b\n");
    plan_trace_fini(&trace);
    trace = parsed("TIMESTAMP,ContextTokens,GeneratedTokens\n2023-01-01 00:00:02,1,1\n2023-01-01 00:00:01,2,2\n");
    assert_int_equal(trace.moved, 1);
    assert_int_equal(trace.moved_line, 3);
    assert_int_equal(trace.requests[0].prompt, 2);
    plan_trace_fini(&trace);
}

static void what_is_no_trace(void **state)
{
    (void)state;
    static const struct {
        const char *text, *says;
    } bad[] = {{"", "no entries"},
               {"\n\n", "no entries"},
               {"0,add\n", "trace:1: expected"},
               {"0,add,a\n1,gone,a\n", "trace:2: expected"},
               {"-1,add,a\n", "trace:1: expected"},
               {"9999999999999999,add,a\n", "trace:1: expected"},
               {"0,add,a,b\n", "trace:1: expected"},
               {"{", "not valid JSON"},
               {"{\"metadata\": {}, \"data\": [1]}", "gap_seconds"},
               {"{\"metadata\": {\"gap_seconds\": -1}, \"data\": [1]}", "0.001 to"},
               {"{\"metadata\": {\"gap_seconds\": 1}, \"data\": [1, -1]}", "data[1]"},
               {"{\"metadata\": {\"gap_seconds\": 1}, \"data\": []}", "0 entries"},
               {"TIMESTAMP,ContextTokens,GeneratedTokens\n", "no entries"},
               {"TIMESTAMP,ContextTokens,GeneratedTokens\n2023-13-01 00:00:00,1,1\n", "trace:2: expected"},
               {"TIMESTAMP,ContextTokens,GeneratedTokens\n2023-01-01 00:00:00+02:00,1,1\n", "trace:2: expected"},
               {"TIMESTAMP,ContextTokens,GeneratedTokens\n2023-01-01 00:00:00,1,1,1\n", "trace:2: expected"},
               {"TIMESTAMP,ContextTokens,GeneratedTokens\n1.5.5,1,1\n", "trace:2: expected"},
               {"TIMESTAMP,ContextTokens,GeneratedTokens\n-1,1,1\n", "trace:2: expected"},
               {"TIMESTAMP,ContextTokens,GeneratedTokens\n5000000001,1,1\n", "trace:2: expected"},
               {"TIMESTAMP,ContextTokens,TIMESTAMP\n1,1,1\n", "trace:1: expected"},
               {"TIMESTAMP,ContextTokens,GeneratedTokens\n2023-01-01 00:00:00,4294967296,1\n", "trace:2: expected"}};
    for (size_t i = 0; i < sizeof bad / sizeof *bad; i++) {
        struct plan_trace trace;
        struct bg_error err = {0};
        assert_int_equal(plan_trace_parse("trace", bad[i].text, strlen(bad[i].text), &err, &trace), BG_FORMAT);
        if (!strstr(err.text, bad[i].says))
            fail_msg("'%s' says '%s', expected '%s'", bad[i].text, err.text, bad[i].says);
    }
}

static void machines_by_hand(void **state)
{
    (void)state;
    struct plan_trace trace = parsed(counts_text);
    struct plan_trace_stats s;
    plan_trace_tell(&trace, 1, &s);
    assert_true(s.seconds == 3600 && s.live_min == 0 && s.live_max == 3 && s.nodes == 3);
    assert_true(fabs(s.live_mean - 8.0 / 6) < 1e-12 && fabs(s.availability - 4.0 / 6) < 1e-12);
    assert_true(s.up_runs == 2 && s.down_runs == 2 && s.up_mean_s == 1200 && s.down_mean_s == 600);
    assert_true(s.adds == 4 && s.removes == 3);
    plan_trace_tell(&trace, 3, &s);
    assert_true(s.up_runs == 1 && s.up_mean_s == 600 && fabs(s.availability - 1.0 / 6) < 1e-12);
    plan_trace_fini(&trace);
    trace = parsed(events_text);
    plan_trace_tell(&trace, 3, &s);
    assert_true(s.seconds == 10 && s.live_min == 2 && s.live_max == 3 && s.nodes == 3 && s.adds == 4 && s.removes == 2);
    assert_true(fabs(s.live_mean - 2.6) < 1e-12 && fabs(s.availability - 0.6) < 1e-12);
    plan_trace_fini(&trace);
}

static void requests_by_hand(void **state)
{
    (void)state;
    struct plan_trace trace = parsed("TIMESTAMP,ContextTokens,GeneratedTokens\n2023-01-01 00:00:00,5,1\n"
                                     "2023-01-01 00:00:01,1,9\n2023-01-01 00:00:04,3,1\n2023-01-01 00:00:08,4,1\n");
    struct plan_trace_stats s;
    plan_trace_tell(&trace, 1, &s);
    assert_true(s.seconds == 8 && fabs(s.rate - 3.0 / 8) < 1e-12);
    // Gaps 1, 3, 4: mean 8/3, variance ((5/3)^2 + (1/3)^2 + (4/3)^2) / 3 = 14/9.
    assert_true(fabs(s.cv - sqrt(14.0 / 9) / (8.0 / 3)) < 1e-12);
    assert_true(s.prompt.mean == 3.25 && s.prompt.p50 == 3 && s.prompt.p90 == 5 && s.prompt.max == 5);
    assert_true(s.generated.p50 == 1 && s.generated.p99 == 9);
    plan_trace_fini(&trace);
}

static void time_is_scaled(void **state)
{
    (void)state;
    struct bg_error err;
    struct plan_trace trace = parsed(events_text);
    assert_int_equal(plan_trace_scale_time(&trace, 0.1, &err), BG_OK);
    written_as(&trace, "0,add,a\n0,add,b\n150,remove,a\n150,add,c c\n400,add,a\n1000,remove,b\n");
    assert_int_equal(plan_trace_scale_time(&trace, 0, &err), BG_INVALID);
    assert_int_equal(plan_trace_scale_time(&trace, 1e12, &err), BG_INVALID);
    plan_trace_fini(&trace);
    trace = parsed(counts_text);
    assert_int_equal(plan_trace_scale_time(&trace, 2, &err), BG_OK);
    assert_true(trace.gap_s == 1200);
    plan_trace_fini(&trace);
    trace = parsed(requests_text);
    assert_int_equal(plan_trace_scale_time(&trace, 2, &err), BG_OK);
    assert_true(trace.requests[1].at_ns - trace.requests[0].at_ns == 2000000000);
    plan_trace_fini(&trace);
}

static void events_and_counts_are_the_same_machines(void **state)
{
    (void)state;
    struct bg_error err;
    struct plan_trace trace = parsed(counts_text);
    assert_int_equal(plan_trace_to_events(&trace, &err), BG_OK);
    written_as(&trace, "600000,add,node1\n600000,add,node2\n1800000,add,node3\n2400000,remove,node3\n"
                       "2400000,remove,node2\n2400000,remove,node1\n3000000,add,node1\n");
    assert_int_equal(plan_trace_to_counts(&trace, 600, &err), BG_OK);
    written_as(&trace, counts_text);
    plan_trace_fini(&trace);
    trace = parsed(events_text);
    assert_int_equal(plan_trace_to_counts(&trace, 2, &err), BG_OK);
    written_as(&trace, "{\"metadata\": {\"gap_seconds\": 2}, \"data\": [2, 2, 3, 3, 3, 2]}\n");
    plan_trace_fini(&trace);
    trace = parsed(requests_text);
    assert_int_equal(plan_trace_to_counts(&trace, 2, &err), BG_INVALID);
    assert_int_equal(plan_trace_to_events(&trace, &err), BG_INVALID);
    plan_trace_fini(&trace);
}

static void upscaled_arrivals_keep_their_pattern(void **state)
{
    (void)state;
    struct bg_error err;
    struct plan_trace trace = parsed(requests_text);
    assert_int_equal(plan_trace_upscale(&trace, 2, &err), BG_OK);
    written_as(&trace, "TIMESTAMP,ContextTokens,GeneratedTokens\n"
                       "2024-02-29 23:59:59.0000000,10,1\n"
                       "2024-02-29 23:59:59.5000000,20,2\n"
                       "2024-03-01 00:00:00.0000000,30,3\n"
                       "2024-03-01 00:00:01.561728350,10,1\n"
                       "2024-03-01 00:00:03.1234567,20,2\n");
    assert_int_equal(plan_trace_upscale(&trace, 0.5, &err), BG_INVALID);
    assert_int_equal(plan_trace_upscale(&trace, 1e9, &err), BG_INVALID);
    plan_trace_fini(&trace);
    trace = parsed(events_text);
    assert_int_equal(plan_trace_upscale(&trace, 2, &err), BG_INVALID);
    plan_trace_fini(&trace);
}

static struct plan_trace many_requests(size_t count)
{
    struct bg_str text = {0};
    bg_str_add(&text, "TIMESTAMP,ContextTokens,GeneratedTokens\n");
    for (size_t i = 0; i < count; i++)
        bg_str_addf(&text, "2023-01-01 %02zu:%02zu:%02zu,%zu,1\n", i / 3600, i / 60 % 60, i % 60, i);
    struct plan_trace trace = parsed(bg_str_text(&text));
    bg_str_fini(&text);
    return trace;
}

static void thinning_keeps_its_share_and_order(void **state)
{
    (void)state;
    struct plan_trace trace = many_requests(20000), again = many_requests(20000), other = many_requests(20000);
    plan_trace_thin(&trace, 0.3, 1);
    plan_trace_thin(&again, 0.3, 1);
    plan_trace_thin(&other, 0.3, 2);
    assert_true(fabs((double)trace.count - 6000) < 5 * sqrt(20000 * 0.3 * 0.7));
    assert_int_equal(trace.count, again.count);
    assert_memory_equal(trace.requests, again.requests, trace.count * sizeof *trace.requests);
    assert_true(other.count != trace.count ||
                memcmp(trace.requests, other.requests, trace.count * sizeof *trace.requests) != 0);
    for (size_t i = 1; i < trace.count; i++)
        assert_true(trace.requests[i].prompt > trace.requests[i - 1].prompt);
    plan_trace_thin(&trace, 1, 5);
    assert_int_equal(trace.count, again.count);
    plan_trace_thin(&trace, 0, 5);
    assert_int_equal(trace.count, 0);
    plan_trace_fini(&trace);
    plan_trace_fini(&again);
    plan_trace_fini(&other);
}

// A machine stays or goes as a whole: what is left never contradicts itself, in either form the same machines.
static void thinned_machines_stay_whole(void **state)
{
    (void)state;
    for (uint64_t seed = 0; seed < 20; seed++) {
        struct bg_error err;
        struct plan_trace counts = parsed(counts_text), events = parsed(counts_text);
        assert_int_equal(plan_trace_to_events(&events, &err), BG_OK);
        plan_trace_thin(&counts, 0.5, seed);
        plan_trace_thin(&events, 0.5, seed);
        if (events.count) {
            char *text = plan_trace_format(&events);
            struct plan_trace again = parsed(text);
            assert_int_equal(again.dropped + again.moved, 0);
            plan_trace_fini(&again);
            bg_free(text);
        }
        assert_int_equal(plan_trace_to_counts(&events, 600, &err), BG_OK);
        for (size_t t = 0; t < counts.count; t++)
            assert_int_equal(counts.counts[t], t < events.count ? events.counts[t] : events.counts[events.count - 1]);
        plan_trace_fini(&counts);
        plan_trace_fini(&events);
    }
}

// ---- Recorded ----

static struct plan_trace recorded(const char *name)
{
    char path[512];
    const char *root = getenv("BRIGADE_SHARED");
    snprintf(path, sizeof path, "%s/data/traces/%s", root && *root ? root : BRIGADE_SOURCE_DIR "/../shared", name);
    FILE *file = fopen(path, "rb");
    if (!file) {
        printf("skipped: %s cannot be read (set BRIGADE_SHARED)\n", path);
        skip();
    }
    struct bg_str text = {0};
    char part[65536];
    size_t size;
    while ((size = fread(part, 1, sizeof part, file)) > 0)
        bg_str_add_bytes(&text, part, size);
    fclose(file);
    struct plan_trace trace;
    struct bg_error err;
    assert_int_equal(plan_trace_parse(name, text.data, text.size, &err, &trace), BG_OK);
    bg_str_fini(&text);
    return trace;
}

static void recorded_machines(void **state)
{
    (void)state;
    struct plan_trace trace = recorded("spot/ec2-p3.csv");
    struct plan_trace_stats s;
    plan_trace_tell(&trace, 1, &s);
    assert_int_equal(trace.count, 344);
    assert_true(fabs(s.seconds / 3600 - 11.37) < 0.005);
    assert_int_equal(s.nodes, 177);
    plan_trace_fini(&trace);
}

static void recorded_requests_upscaled(void **state)
{
    (void)state;
    struct plan_trace trace = recorded("requests/azure-llm-2023-code.csv");
    struct bg_error err;
    struct plan_trace_stats before, after;
    plan_trace_tell(&trace, 1, &before);
    assert_int_equal(trace.count, 8819);
    assert_int_equal(trace.moved, 0);
    assert_int_equal(plan_trace_upscale(&trace, 3, &err), BG_OK);
    plan_trace_tell(&trace, 1, &after);
    assert_true(fabs(after.rate / before.rate - 3) < 1e-6 && fabs(after.cv / before.cv - 1) < 1e-3);
    assert_int_equal(after.prompt.p50, before.prompt.p50);
    assert_int_equal(after.generated.p99, before.generated.p99);
    assert_true(fabs(after.seconds - before.seconds) < 1e-6);
    plan_trace_fini(&trace);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(what_is_read_is_written_back),
        cmocka_unit_test(requests_say_where_their_columns_are),
        cmocka_unit_test(disorder_is_mended_and_counted),
        cmocka_unit_test(what_is_no_trace),
        cmocka_unit_test(machines_by_hand),
        cmocka_unit_test(requests_by_hand),
        cmocka_unit_test(time_is_scaled),
        cmocka_unit_test(events_and_counts_are_the_same_machines),
        cmocka_unit_test(upscaled_arrivals_keep_their_pattern),
        cmocka_unit_test(thinning_keeps_its_share_and_order),
        cmocka_unit_test(thinned_machines_stay_whole),
        cmocka_unit_test(recorded_machines),
        cmocka_unit_test(recorded_requests_upscaled),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
