// A question to a fleet policy and its text: what was decided is decided again, byte for byte; a changed line is told;
// no text, however wrong, does more than be refused.
#include "plan/fleet/fleet_ask.h"

#include "base/mem.h"

#include <setjmp.h>
#include <stdarg.h>
#include <string.h>
#include <cmocka.h>

static struct plan_fleet_question question(const char *policy, const uint32_t *counts, uint32_t count)
{
    struct plan_fleet_question q = {.policy = plan_fleet_policy_find(policy),
                                    .model = {6, 64, 256, 128, 1e9, 1e8, 0},
                                    .options = plan_fleet_defaults,
                                    .seed = 7,
                                    .counts = counts,
                                    .count = count};
    q.options.nodes_max = 8;
    q.options.micro_batches = 16;
    q.options.rendezvous_s = 1.0 / 3;
    return q;
}

static const uint32_t counts[] = {8, 8, 7, 7, 6, 8, 3, 3, 2, 5, 0, 4};
enum { COUNTS = sizeof counts / sizeof *counts };

// Interval by interval, each with what the one before has left.
static void again(void **state)
{
    (void)state;
    for (size_t p = 0; plan_fleet_policies[p]; p++) {
        struct plan_fleet_question q = question(plan_fleet_policies[p]->name, counts, 0);
        for (uint32_t t = 0; t < COUNTS; t++) {
            struct plan_fleet_shape shape;
            struct bg_error err = {0};
            q.count = t + 1;
            q.coming = plan_fleet_policies[p]->clairvoyant ? counts + t + 1 : NULL;
            q.coming_count = plan_fleet_policies[p]->clairvoyant ? COUNTS - t - 1 : 0;
            uint32_t live = plan_fleet_nodes(q.left.shape);
            for (uint32_t s = 0; live > counts[t]; s = (s + 1) % (q.left.shape.stages + 1))
                for (uint32_t deep = 0; deep < 2 && live > counts[t]; deep++)
                    if (q.left.live[deep][s]) {
                        q.left.live[deep][s]--;
                        live--;
                    }
            if (plan_fleet_ask(&q, &err, &shape))
                fail_msg("%s: %s", q.policy->name, err.text);
            assert_true(plan_fleet_nodes(shape) <= counts[t]);
            char *line = plan_fleet_decision_format(&q, shape);
            assert_true(plan_fleet_decision_is(line));
            if (plan_fleet_decision_replay(line, &err))
                fail_msg("%s: %s", line, err.text);
            bg_free(line);
            q.left = plan_fleet_whole(shape);
        }
    }
}

static void refused(void **state)
{
    (void)state;
    struct plan_fleet_question q = question("parcae", counts, 4);
    struct plan_fleet_shape shape;
    struct bg_error err = {0};
    assert_int_equal(plan_fleet_ask(&q, &err, &shape), BG_OK);
    char *line = plan_fleet_decision_format(&q, shape);
    const struct {
        const char *old, *new;
        bg_status status;
    } cases[] = {{"fleet", "flee", BG_FORMAT},
                 {"parcae", "parca", BG_FORMAT},
                 {"parcae", "parcae-ideal", BG_FORMAT},
                 {"layers 6", "layers 6x", BG_FORMAT},
                 {"layers 6", "layers 0", BG_INVALID},
                 {"layers 6", "layers 4294967295", BG_INVALID},
                 {"nodes 8", "nodes 65", BG_INVALID},
                 {"nodes 8", "nodes -8", BG_FORMAT},
                 {"interval 60", "interval nan", BG_FORMAT},
                 {"interval 60", "interval 0", BG_INVALID},
                 {"interval 60", "interval 60.0", BG_MISMATCH},
                 {"left 0x0+0", "left 0x63+0", BG_FORMAT},
                 {"left 0x0+0 0", "left 1x1+0 2 0 0", BG_INVALID},
                 {"left 0x0+0 0", "left 9x1+0 9 0 0", BG_INVALID},
                 {"left 0x0+0 0", "left 999999999x999999999+9 0", BG_FORMAT},
                 {"machines 8 8 7 7", "machines", BG_FORMAT},
                 {"machines 8 8 7 7", "machines 8 8 7 -7", BG_FORMAT},
                 {"machines 8 8 7 7", "machines 8 8 7 1", BG_MISMATCH}};
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        const char *at = strstr(line, cases[i].old);
        assert_non_null(at);
        char *changed = bg_format("%.*s%s%s", (int)(at - line), line, cases[i].new, at + strlen(cases[i].old));
        const bg_status status = plan_fleet_decision_replay(changed, &err);
        if (status != cases[i].status)
            fail_msg("%s: %d, expected %d: %s", changed, (int)status, (int)cases[i].status, err.text);
        bg_free(changed);
    }
    for (size_t size = (size_t)(strstr(line, " 8 8 7 7") - line); size-- > 0;) { // cut off before that
        char *part = bg_strndup(line, size);
        if (plan_fleet_decision_replay(part, &err) == BG_OK)
            fail_msg("taken: %s", part);
        bg_free(part);
    }
    bg_free(line);
}

int main(void)
{
    const struct CMUnitTest tests[] = {cmocka_unit_test(again), cmocka_unit_test(refused)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
