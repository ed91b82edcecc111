// Lazarus: the published formula in another form, placements against every placement there is, and dispatch.
#include "plan/fleet/lazarus.h"

#include "base/philox.h"

#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdbool.h>
#include <stdio.h>
#include <string.h>
#include <cmocka.h>

static uint32_t drawn(uint32_t seed, uint32_t index)
{
    return bg_philox((struct bg_philox_counter){{index}}, (struct bg_philox_key){{seed, 11}}).c[0];
}

static void replicas_follow_the_formula(void **state)
{
    (void)state;
    for (uint32_t seed = 0; seed < 2000; seed++) {
        struct plan_lazarus shape = {1 + drawn(seed, 0) % 24, 1 + drawn(seed, 1) % 12, 1 + drawn(seed, 2) % 8,
                                     1 + drawn(seed, 3) % 3, 0};
        if (shape.nodes * shape.slots < shape.experts)
            continue;
        uint64_t load[24], sum = 0;
        uint32_t replicas[24], all = 0;
        for (uint32_t e = 0; e < shape.experts; e++)
            load[e] = drawn(seed, 10 + e) >> drawn(seed, 50 + e) % 32;
        struct bg_error err;
        assert_int_equal(plan_lazarus_check(&shape, &err), BG_OK);
        plan_lazarus_allocate(&shape, load, replicas);
        const uint32_t slots = shape.nodes * shape.slots;
        const uint32_t least = shape.spread < slots / shape.experts ? shape.spread : slots / shape.experts;
        for (uint32_t e = 0; e < shape.experts; e++) {
            all += replicas[e];
            assert_true(replicas[e] >= least);
            for (uint32_t o = 0; o < shape.experts; o++)
                assert_true(load[e] <= load[o] || replicas[e] >= replicas[o]);
        }
        assert_int_equal(all, slots);
        for (uint32_t e = 0; e < shape.experts; e++) { // the formula as it is printed, expert by expert
            uint64_t from = 0;
            uint32_t given = 0;
            for (uint32_t o = 0; o < shape.experts; o++) {
                const bool before = load[o] < load[e] || (load[o] == load[e] && o < e);
                from += before ? 0 : load[o];
                given += before ? replicas[o] : 0;
            }
            sum = from;
            if (!sum)
                continue;
            const uint64_t share = load[e] * (slots - given) / sum;
            assert_int_equal(replicas[e], share > least ? share : least);
        }
    }
}

// ---- Every placement there is ----

#define BRUTE_NODES   5
#define BRUTE_EXPERTS 6

struct brute {
    uint32_t experts, nodes, slots, contents;
    uint32_t content[512][BRUTE_EXPERTS], mask[512];
    uint32_t left[BRUTE_EXPERTS], chosen[BRUTE_NODES];
    uint32_t best[BRUTE_NODES + 1]; // by survivors
};

static void list_contents(struct brute *b, uint32_t expert, uint32_t slots, uint32_t *content)
{
    if (expert + 1 == b->experts) {
        content[expert] = slots;
        uint32_t mask = 0;
        for (uint32_t e = 0; e < b->experts; e++)
            mask |= (uint32_t)(content[e] > 0) << e;
        b->mask[b->contents] = mask;
        memcpy(b->content[b->contents++], content, b->experts * sizeof *content);
        return;
    }
    for (uint32_t n = 0; n <= slots; n++) {
        content[expert] = n;
        list_contents(b, expert + 1, slots - n, content);
    }
}

static void count_good(const uint32_t *masks, uint32_t nodes, uint32_t full, uint32_t *good)
{
    memset(good, 0, (nodes + 1) * sizeof *good);
    for (uint32_t set = 0; set < 1U << nodes; set++) {
        uint32_t have = 0, size = 0;
        for (uint32_t n = 0; n < nodes; n++) {
            if (set >> n & 1) {
                have |= masks[n];
                size++;
            }
        }
        good[size] += have == full;
    }
}

static void all_placements(struct brute *b, uint32_t node, uint32_t first)
{
    if (node == b->nodes) {
        uint32_t masks[BRUTE_NODES], good[BRUTE_NODES + 1];
        for (uint32_t n = 0; n < b->nodes; n++)
            masks[n] = b->mask[b->chosen[n]];
        count_good(masks, b->nodes, (1U << b->experts) - 1, good);
        for (uint32_t k = 0; k <= b->nodes; k++)
            b->best[k] = good[k] > b->best[k] ? good[k] : b->best[k];
        return;
    }
    for (uint32_t c = first; c < b->contents; c++) {
        bool fits = true;
        for (uint32_t e = 0; e < b->experts; e++)
            fits = fits && b->content[c][e] <= b->left[e];
        if (!fits)
            continue;
        for (uint32_t e = 0; e < b->experts; e++)
            b->left[e] -= b->content[c][e];
        b->chosen[node] = c;
        all_placements(b, node + 1, c);
        for (uint32_t e = 0; e < b->experts; e++)
            b->left[e] += b->content[c][e];
    }
}

static void mask_of(const struct plan_lazarus *shape, const uint32_t *held, uint32_t *masks)
{
    for (uint32_t n = 0; n < shape->nodes; n++) {
        masks[n] = 0;
        for (uint32_t e = 0; e < shape->experts; e++)
            masks[n] |= (uint32_t)(held[n * shape->experts + e] > 0) << e;
    }
}

static double over(uint32_t n, uint32_t k)
{
    double value = 1;
    for (uint32_t i = 0; i < k; i++)
        value = value * (n - i) / (i + 1);
    return value;
}

struct tally {
    uint32_t cases, crowded, lost; // lost: plain overlap recovers from fewer sets than the best
};

// Overlap as it is published, without the repair: groups of experts on nodes of their own, what is left evenly into
// what is vacant. Experts come in ascending order of replicas.
static void plain_overlap(const struct plan_lazarus *shape, const uint32_t *replicas, uint32_t *masks)
{
    uint32_t left[BRUTE_EXPERTS], room[BRUTE_NODES], node = 0;
    memcpy(left, replicas, shape->experts * sizeof *left);
    for (uint32_t n = 0; n < shape->nodes; n++) {
        room[n] = shape->slots;
        masks[n] = 0;
    }
    for (uint32_t first = 0; first < shape->experts; first += shape->slots) {
        for (uint32_t k = replicas[first]; k && node < shape->nodes; k--, node++) {
            for (uint32_t e = first; e < shape->experts && e < first + shape->slots; e++) {
                masks[node] |= 1U << e;
                left[e]--;
                room[node]--;
            }
        }
    }
    for (uint32_t e = 0, n = 0; e < shape->experts; e++) {
        for (; left[e]; left[e]--, n = (n + 1) % shape->nodes) {
            while (!room[n])
                n = (n + 1) % shape->nodes;
            masks[n] |= 1U << e;
            room[n]--;
        }
    }
}

// One case: the placement is as good as the best of all, for every number of survivors it is asked for.
static void judge(const struct plan_lazarus *shape, const uint32_t *replicas, struct tally *tally)
{
    struct brute b = {.experts = shape->experts, .nodes = shape->nodes, .slots = shape->slots};
    uint32_t content[BRUTE_EXPERTS], held[BRUTE_NODES * BRUTE_EXPERTS], wanted = 0;
    list_contents(&b, 0, b.slots, content);
    memcpy(b.left, replicas, b.experts * sizeof *replicas);
    all_placements(&b, 0, 0);
    for (uint32_t e = 0; e < shape->experts; e += shape->slots)
        wanted += replicas[e];
    for (uint32_t alive = 1; alive <= shape->nodes; alive++) {
        uint32_t masks[BRUTE_NODES], good[BRUTE_NODES + 1], sums[BRUTE_EXPERTS] = {0};
        plain_overlap(shape, replicas, masks);
        count_good(masks, shape->nodes, (1U << shape->experts) - 1, good);
        const bool loses = good[alive] < b.best[alive];
        tally->lost += loses;
        assert_true(!loses || wanted > shape->nodes); // as its theorem says
        plan_lazarus_place(shape, replicas, alive, held);
        for (uint32_t n = 0; n < shape->nodes; n++) {
            uint32_t on_node = 0;
            for (uint32_t e = 0; e < shape->experts; e++) {
                on_node += held[n * shape->experts + e];
                sums[e] += held[n * shape->experts + e];
            }
            assert_int_equal(on_node, shape->slots);
        }
        assert_memory_equal(sums, replicas, shape->experts * sizeof *sums);
        mask_of(shape, held, masks);
        count_good(masks, shape->nodes, (1U << shape->experts) - 1, good);
        tally->cases++;
        tally->crowded += wanted > shape->nodes;
        if (good[alive] != b.best[alive])
            fail_msg("%u experts, %u nodes of %u: with %u alive %u sets recover, of the best placement %u",
                     shape->experts, shape->nodes, shape->slots, alive, good[alive], b.best[alive]);
        const double odds = plan_lazarus_recovery(shape, held, alive);
        assert_true(fabs(odds - good[alive] / over(shape->nodes, alive)) < 1e-12);
    }
}

static void all_replicas(struct plan_lazarus *shape, uint32_t expert, uint32_t least, uint32_t left, uint32_t *replicas,
                         struct tally *tally)
{
    if (expert + 1 == shape->experts) {
        replicas[expert] = left;
        judge(shape, replicas, tally);
        return;
    }
    for (uint32_t r = least; r * (shape->experts - expert) <= left; r++) {
        replicas[expert] = r;
        all_replicas(shape, expert + 1, r, left - r, replicas, tally);
    }
}

static void as_good_as_the_best_placement(void **state)
{
    (void)state;
    struct tally tally = {0};
    for (uint32_t nodes = 2; nodes <= BRUTE_NODES; nodes++) {
        for (uint32_t slots = 1; slots <= 4 && nodes * slots <= 15; slots++) {
            for (uint32_t experts = 2; experts <= BRUTE_EXPERTS && experts <= nodes * slots; experts++) {
                struct plan_lazarus shape = {experts, nodes, slots, 1, 0};
                uint32_t replicas[BRUTE_EXPERTS];
                if (experts > 5 && nodes > 4) // minutes
                    continue;
                all_replicas(&shape, 0, 1, nodes * slots, replicas, &tally);
            }
        }
    }
    print_message("%u cases, %u of them where the groups want more nodes than there are; plain overlap loses in %u\n",
                  tally.cases, tally.crowded, tally.lost);
    assert_true(tally.lost >= 26);
}

// Where plain overlap loses: three experts, two slots, three nodes; and the two larger ones.
static void one_loss_is_survived(void **state)
{
    (void)state;
    const struct plan_lazarus shapes[] = {{3, 3, 2, 2, 0}, {4, 4, 3, 2, 0}, {5, 5, 2, 2, 0}};
    for (uint32_t i = 0; i < 3; i++) {
        uint64_t load[5] = {7, 7, 7, 7, 7};
        uint32_t replicas[5], held[25];
        plan_lazarus_allocate(&shapes[i], load, replicas);
        plan_lazarus_place(&shapes[i], replicas, 0, held);
        assert_true(plan_lazarus_recovery(&shapes[i], held, shapes[i].nodes - 1) == 1);
    }
    const uint32_t plain[9] = {1, 1, 0, 1, 1, 0, 0, 0, 2};
    assert_true(fabs(plan_lazarus_recovery(&shapes[0], plain, 2) - 2.0 / 3) < 1e-12);
}

// Pairs of nodes with an expert each: sets of k that hit every pair take both of k - pairs of them, one of the others.
// Ten pairs are counted, twenty are drawn.
static void many_nodes(void **state)
{
    (void)state;
    for (uint32_t pairs = 10; pairs <= 20; pairs += 10) {
        const struct plan_lazarus shape = {pairs, 2 * pairs, 1, 2, 5};
        uint32_t held[800] = {0};
        for (uint32_t n = 0; n < 2 * pairs; n++)
            held[n * pairs + n / 2] = 1;
        for (uint32_t k = 1; k <= 2 * pairs; k++) {
            double want = k < pairs ? 0 : over(pairs, k - pairs) / over(2 * pairs, k);
            for (uint32_t i = k; k >= pairs && i < 2 * pairs; i++)
                want *= 2;
            assert_true(fabs(plan_lazarus_recovery(&shape, held, k) - want) < (pairs == 10 ? 1e-12 : 0.015));
        }
    }
    // 1,000 nodes, half with one expert and half with the other: lost only if all that live are of one half.
    const struct plan_lazarus shape = {2, 1000, 1, 2, 5};
    uint32_t held[2000] = {0};
    for (uint32_t n = 0; n < 1000; n++)
        held[n * 2 + n / 500] = 1;
    assert_true(fabs(plan_lazarus_recovery(&shape, held, 2) - (1 - 499.0 / 999)) < 1e-12);
    assert_true(fabs(plan_lazarus_recovery(&shape, held, 500) - 1) < 1e-12);
}

// 32 nodes of six slots, 40 experts: the groups want more nodes than there are, and no expert may stand on one node
// only.
static void a_large_placement_survives_one_loss(void **state)
{
    (void)state;
    const struct plan_lazarus shape = {40, 32, 6, 2, 9};
    uint64_t load[40];
    uint32_t replicas[40], held[40 * 32], again[40 * 32];
    for (uint32_t e = 0; e < 40; e++)
        load[e] = 100 + drawn(3, e) % 20;
    plan_lazarus_allocate(&shape, load, replicas);
    plan_lazarus_place(&shape, replicas, 0, held);
    plan_lazarus_place(&shape, replicas, 0, again);
    assert_memory_equal(held, again, sizeof held);
    assert_true(plan_lazarus_recovery(&shape, held, 31) == 1);
    assert_true(plan_lazarus_recovery(&shape, held, 28) > 0.9);
}

static void tokens_go_where_there_is_room(void **state)
{
    (void)state;
    for (uint32_t seed = 0; seed < 3000; seed++) {
        const uint32_t nodes = 1 + drawn(seed, 0) % 8;
        uint64_t tokens[8], sent[64], all = 0;
        uint32_t held[8], replicas = 0;
        for (uint32_t j = 0; j < nodes; j++) {
            tokens[j] = drawn(seed, 1 + j) % (seed % 2 ? 1000 : 5);
            held[j] = drawn(seed, 20 + j) % 3;
            all += tokens[j];
            replicas += held[j];
        }
        if (!replicas)
            replicas = held[0] = 1;
        plan_lazarus_dispatch(nodes, tokens, held, sent);
        for (uint32_t i = 0; i < nodes; i++) {
            uint64_t row = 0, column = 0;
            for (uint32_t j = 0; j < nodes; j++) {
                row += sent[i * nodes + j];
                column += sent[j * nodes + i];
                assert_true(!sent[i * nodes + j] || held[j]);
            }
            assert_int_equal(row, tokens[i]);
            assert_true(fabs((double)column - (double)all * held[i] / replicas) < 1); // an even share of the whole
            // Nothing leaves a node that has room, nothing comes to one that is full of its own.
            assert_true(sent[i * nodes + i] == (tokens[i] < column ? tokens[i] : column));
        }
    }
    const uint64_t tokens[3] = {10, 0, 2};
    const uint32_t held[3] = {1, 1, 2};
    uint64_t sent[9];
    plan_lazarus_dispatch(3, tokens, held, sent);
    const uint64_t want[9] = {3, 3, 4, 0, 0, 0, 0, 0, 2};
    assert_memory_equal(sent, want, sizeof want);
}

static void shapes_that_make_no_sense(void **state)
{
    (void)state;
    const struct plan_lazarus bad[] = {
        {0, 1, 1, 1, 0}, {5, 2, 2, 1, 0}, {1, 0, 1, 1, 0}, {1, 1, 0, 1, 0}, {9999, 9999, 1, 1, 0}};
    for (uint32_t i = 0; i < sizeof bad / sizeof *bad; i++) {
        struct bg_error err;
        assert_int_equal(plan_lazarus_check(&bad[i], &err), BG_INVALID);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(replicas_follow_the_formula),
        cmocka_unit_test(as_good_as_the_best_placement),
        cmocka_unit_test(one_loss_is_survived),
        cmocka_unit_test(many_nodes),
        cmocka_unit_test(a_large_placement_survives_one_loss),
        cmocka_unit_test(tokens_go_where_there_is_room),
        cmocka_unit_test(shapes_that_make_no_sense),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
