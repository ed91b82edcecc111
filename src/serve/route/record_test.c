// Chunks of replicas that die at every place, made into one stream; against the stream of one that lives.
#include "base/mem.h"
#include "serve/route/route_int.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

struct bench {
    struct route route;
    struct visit visit;
    struct answer answer;
    struct branch branch;
};

static void bench_init(struct bench *t, bool stream, bool chat)
{
    memset(t, 0, sizeof *t);
    t->visit.route = &t->route;
    t->answer = (struct answer){.visit = &t->visit,
                                .n = 1,
                                .count = 1,
                                .stream = stream,
                                .chat = chat,
                                .logprobs = true,
                                .branches = &t->branch};
    t->branch.answer = &t->answer;
}

static void bench_fini(struct bench *t)
{
    record_drop_held(&t->branch);
    bg_str_fini(&t->visit.out);
    bg_str_fini(&t->branch.text);
    bg_free(t->branch.tokens);
    json_decref(t->branch.logprobs);
    json_decref(t->branch.ids);
    json_decref(t->branch.finish);
    json_decref(t->answer.frame);
}

static bool feed(struct bench *t, const char *record)
{
    const char *why;
    return record_take(&t->branch, record, strlen(record), &why);
}

// The stream of replica `name` that goes on after `from` tokens of five; the last text has no token of its own.
enum { TOKENS = 5, RECORDS = TOKENS + 5 };
static size_t records_of(char name, uint32_t from, bool chat, char records[RECORDS][512])
{
    size_t count = 0;
    char frame[200];
    snprintf(frame, sizeof frame,
             "\"id\":\"%c\",\"object\":\"o\",\"created\":%d,\"model\":\"m\",\"system_fingerprint\":\"f\"", name, name);
    if (chat)
        snprintf(records[count++], 512,
                 "{%s,\"choices\":[{\"index\":0,\"delta\":{\"role\":\"assistant\",\"content\":\"\"},\"logprobs\":null,"
                 "\"finish_reason\":null}],\"seed\":9,\"usage\":null}",
                 frame);
    for (uint32_t i = from; i < TOKENS; i++) {
        char text[64];
        snprintf(text, sizeof text, chat ? "\"delta\":{\"content\":\"t%u\"}" : "\"text\":\"t%u\"", i);
        snprintf(records[count++], 512,
                 "{%s,\"choices\":[{\"index\":0,%s,\"logprobs\":{\"tokens\":[\"t%u\"],\"text_offset\":[%u]},"
                 "\"finish_reason\":null,\"tokens\":[%u]}]%s,\"usage\":null}",
                 frame, text, i, 2 * (i - from), 100 + i, !chat && i == from ? ",\"seed\":9" : "");
    }
    snprintf(
        records[count++], 512,
        "{%s,\"choices\":[{\"index\":0,%s,\"logprobs\":null,\"finish_reason\":null,\"tokens\":[]}],\"usage\":null}",
        frame, chat ? "\"delta\":{\"content\":\"held\"}" : "\"text\":\"held\"");
    snprintf(records[count++], 512,
             "{%s,\"choices\":[{\"index\":0,%s,\"logprobs\":null,\"finish_reason\":\"stop\"}],\"usage\":null}", frame,
             chat ? "\"delta\":{}" : "\"text\":\"\"");
    snprintf(records[count++], 512,
             "{%s,\"choices\":[],\"usage\":{\"prompt_tokens\":3,\"completion_tokens\":5,\"prompt_tokens_details\":"
             "{\"cached_tokens\":1}}}",
             frame);
    snprintf(records[count++], 512, "[DONE]");
    return count;
}

// Replicas that die after `cuts[i]` records each, then one that lives.
static void run(struct bench *t, const size_t *cuts, size_t cut_count)
{
    char records[RECORDS][512];
    for (size_t i = 0; i <= cut_count; i++) {
        const size_t all = records_of((char)('a' + (int)i), t->branch.count, t->answer.chat, records);
        t->branch.offset_base = t->branch.offset;
        for (size_t k = 0; k < all && (i == cut_count || k < cuts[i]); k++)
            assert_true(feed(t, records[k]));
        record_drop_held(&t->branch);
        if (t->branch.done)
            return;
    }
}

static char *whole_of(struct bench *t)
{
    if (t->answer.stream) {
        record_usage(&t->answer, &t->visit.out);
        return bg_strdup(bg_str_text(&t->visit.out));
    }
    json_t *o = record_answer(&t->answer);
    char *text = json_dumps(o, JSON_COMPACT);
    json_decref(o);
    return text;
}

static void deaths(bool stream, bool chat)
{
    struct bench alive, dying;
    bench_init(&alive, stream, chat);
    run(&alive, NULL, 0);
    char *want = whole_of(&alive);
    assert_non_null(strstr(want, "held"));
    for (size_t a = 0; a < RECORDS; a++)
        for (size_t b = 0; b < RECORDS; b++) {
            bench_init(&dying, stream, chat);
            run(&dying, (const size_t[]){a, b}, 2);
            char *got = whole_of(&dying);
            if (a > 0) { // whoever speaks first gives the name
                assert_string_equal(got, want);
            }
            assert_true(dying.branch.done);
            assert_int_equal(dying.branch.count, TOKENS);
            bg_free(got);
            bench_fini(&dying);
        }
    bg_free(want);
    bench_fini(&alive);
}

static void deaths_at_every_record(void **state)
{
    (void)state;
    for (int i = 0; i < 4; i++)
        deaths(i & 1, i & 2);
}

static void breaks(void **state)
{
    (void)state;
    static const char *const records[] = {
        "x",
        "[]",
        "{}",
        "{\"choices\":5}",
        "{\"choices\":[7]}",
        "{\"choices\":[{\"text\":\"a\",\"tokens\":[1]},{\"text\":\"b\",\"tokens\":[1]}]}",
        "{\"choices\":[{\"text\":\"a\",\"finish_reason\":null,\"tokens\":[-1]}]}",
        "{\"choices\":[{\"text\":\"a\",\"finish_reason\":null,\"tokens\":[2147483648]}]}",
        "{\"choices\":[{\"text\":\"a\",\"finish_reason\":null,\"tokens\":[\"x\"]}]}",
        "{\"choices\":[{\"text\":\"a\",\"finish_reason\":null,\"tokens\":{\"x\":1}}]}",
        "{\"choices\":[{\"text\":\"a\",\"finish_reason\":null,\"tokens\":[1,2,3,4,5,6]}]}", // five were asked for
        "[DONE]",
        "",
        "{\"choices\":[{\"index\":0,\"text\":\"\",\"finish_reason\":\"handed-over\"}]}",
        "{\"choices\":[{\"index\":0,\"text\":\"\",\"finish_reason\":\"cancelled\"}]}"};
    struct bench t;
    for (size_t i = 0; i < sizeof records / sizeof *records; i++) {
        bench_init(&t, true, false);
        t.answer.max_tokens = 5;
        assert_false(feed(&t, records[i]));
        assert_int_equal(t.visit.out.size, 0);
        assert_int_equal(t.branch.count, 0);
        bench_fini(&t);
    }
    bench_init(&t, true, false); // the model's numbers are none: so they are at every replica
    assert_true(feed(&t, "{\"choices\":[{\"index\":0,\"text\":\"\",\"finish_reason\":\"failed\"}]}"));
    assert_true(t.branch.told_finish && feed(&t, "[DONE]"));
    bench_fini(&t);
}

static void another_model(void **state)
{
    struct bench t;
    (void)state;
    bench_init(&t, true, false);
    assert_true(feed(&t, "{\"model\":\"m\",\"choices\":[{\"index\":0,\"text\":\"a\",\"finish_reason\":null,"
                         "\"tokens\":[1]}]}"));
    assert_false(feed(&t, "{\"model\":\"n\",\"choices\":[{\"index\":0,\"text\":\"a\",\"finish_reason\":null,"
                          "\"tokens\":[1]}]}"));
    assert_int_equal(t.branch.count, 1);
    bench_fini(&t);
}

// Numbers that cannot be are none; an answer that is no stream ends somewhere.
static void without_bounds(void **state)
{
    (void)state;
    struct bench t;
    bench_init(&t, false, false);
    assert_true(feed(
        &t,
        "{\"model\":\"m\",\"choices\":[{\"text\":\"a\",\"finish_reason\":null,\"tokens\":[1],\"logprobs\":{\"tokens\":"
        "[\"a\",\"b\"],\"text_offset\":[9223372036854775807,-9223372036854775807]}}]}"));
    assert_true(feed(
        &t,
        "{\"model\":\"m\",\"choices\":[],\"usage\":{\"prompt_tokens\":9223372036854775807,\"completion_tokens\":-1}}"));
    assert_int_equal(t.branch.prompt_tokens, 0);
    assert_int_equal(t.branch.drawn_tokens, 0);
    assert_true(feed(&t, "{\"model\":\"m\",\"choices\":[{\"text\":\"a\",\"tokens\":[1]}]}")); // no finish is none
    assert_false(t.branch.told_finish);
    assert_false(feed(&t, "[DONE]"));
    static const char quiet[] = "{\"model\":\"m\",\"choices\":[{\"text\":\"\",\"finish_reason\":null,\"tokens\":[]}]}";
    const char *why = "";
    size_t taken = 0;
    t.branch.came = BODY_MAX - 1000;
    while (taken < 2000 && record_take(&t.branch, quiet, sizeof quiet - 1, &why))
        taken += sizeof quiet - 1;
    assert_true(taken < 1000);
    assert_string_equal(why, "its answer does not end");
    bench_fini(&t);
}

// Records with bytes changed: taken or refused, nothing worse.
static void damage(void **state)
{
    (void)state;
    uint64_t seed = 1;
    char records[RECORDS][512];
    for (int round = 0; round < 4000; round++) {
        struct bench t;
        bench_init(&t, round & 1, round & 2);
        const size_t count = records_of('a', 0, round & 2, records);
        for (size_t k = 0; k < count; k++) {
            for (int changes = 0; changes < 2; changes++) {
                seed = seed * 6364136223846793005u + 1442695040888963407u;
                records[k][(seed >> 33) % strlen(records[k])] = "0{}[]\",:nx"[(seed >> 20) % 10];
            }
            if (!feed(&t, records[k]))
                break;
        }
        bench_fini(&t);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(deaths_at_every_record), cmocka_unit_test(breaks), cmocka_unit_test(another_model),
        cmocka_unit_test(without_bounds),         cmocka_unit_test(damage),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
