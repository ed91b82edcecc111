// The canonical tree against a definition that shares no code with it: a recursion over [first, first + 2^k) on
// real floats, for every number of leaves up to 33 and random orders of arrival, of single leaves and of nodes.
#include "tensor/tree.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdio.h>
#include <string.h>

#include <cmocka.h>

enum { LEAVES_MAX = 33 };

static uint32_t random_state = 12345;

static uint32_t random_below(uint32_t bound)
{
    random_state = random_state * 1664525u + 1013904223u;
    return (random_state >> 8) % bound;
}

// What node [first, first + width) is worth, by definition.
static float defined(const float *leaf, uint32_t first, uint32_t width, uint32_t leaves)
{
    if (width == 1)
        return leaf[first];
    float left = defined(leaf, first, width / 2, leaves);
    if (first + width / 2 >= leaves)
        return left;
    return left + defined(leaf, first + width / 2, width / 2, leaves);
}

static uint32_t width_above(uint32_t leaves)
{
    uint32_t width = 1;
    while (width < leaves)
        width *= 2;
    return width;
}

// Cuts the leaves at random into nodes.
static size_t random_nodes(uint32_t leaves, uint32_t first, uint32_t width, struct tree_node *nodes)
{
    if (first >= leaves)
        return 0;
    uint32_t level = 0;
    while (1u << level < width)
        level++;
    if (width == 1 || random_below(3) == 0) {
        nodes[0] = (struct tree_node){level, first >> level};
        return 1;
    }
    size_t count = random_nodes(leaves, first, width / 2, nodes);
    return count + random_nodes(leaves, first + width / 2, width / 2, nodes + count);
}

static void run_order(const float *leaf, uint32_t leaves, const struct tree_node *nodes, size_t count)
{
    size_t needed = tree_slots(nodes, count, leaves);
    assert_true(needed >= 1 && needed <= count);
    float value[TREE_SLOTS_MAX];
    struct tree_set set;
    tree_set_init(&set, leaves, needed);
    size_t root = 99;
    for (size_t i = 0; i < count; i++) {
        assert_false(tree_set_root(&set, &root));
        struct tree_place place;
        assert_int_equal(tree_set_place(&set, nodes[i], NULL, &place), BG_OK);
        assert_true(place.slot < needed);
        float mine = defined(leaf, nodes[i].index << nodes[i].level, 1u << nodes[i].level, leaves);
        value[place.slot] = place.accumulate ? value[place.slot] + mine : mine;
        struct tree_fold folds[32];
        size_t fold_count = tree_set_done(&set, nodes[i], place, folds);
        for (size_t f = 0; f < fold_count; f++)
            value[folds[f].to] += value[folds[f].from];
    }
    assert_true(tree_set_root(&set, &root));
    float expected = defined(leaf, 0, width_above(leaves), leaves);
    assert_memory_equal(&value[root], &expected, sizeof expected);
    if (needed > 1) { // one slot less does not do
        tree_set_init(&set, leaves, needed - 1);
        bg_status status = BG_OK;
        for (size_t i = 0; i < count && !status; i++) {
            struct tree_place place;
            struct tree_fold folds[32];
            struct bg_error err;
            status = tree_set_place(&set, nodes[i], &err, &place);
            if (!status)
                tree_set_done(&set, nodes[i], place, folds);
        }
        assert_int_equal(status, BG_FULL);
    }
}

static void any_order_gives_the_bits_of_the_definition(void **state)
{
    (void)state;
    for (uint32_t leaves = 1; leaves <= LEAVES_MAX; leaves++) {
        for (int round = 0; round < 60; round++) {
            float leaf[LEAVES_MAX];
            for (uint32_t i = 0; i < leaves; i++)
                leaf[i] = (float)random_below(1u << 24) / (float)(1 + random_below(1000)) - 1000.0f;
            struct tree_node nodes[LEAVES_MAX];
            size_t count = leaves;
            for (uint32_t i = 0; i < leaves; i++)
                nodes[i] = (struct tree_node){0, i};
            if (round % 2)
                count = random_nodes(leaves, 0, width_above(leaves), nodes);
            for (size_t i = count; i > 1 && round > 1; i--) { // rounds 0 and 1: ascending
                size_t j = random_below((uint32_t)i);
                struct tree_node swap = nodes[i - 1];
                nodes[i - 1] = nodes[j];
                nodes[j] = swap;
            }
            run_order(leaf, leaves, nodes, count);
        }
    }
}

static void ascending_leaves_need_few_slots(void **state)
{
    (void)state;
    for (uint32_t leaves = 1; leaves <= LEAVES_MAX; leaves++) {
        struct tree_node nodes[LEAVES_MAX];
        for (uint32_t i = 0; i < leaves; i++)
            nodes[i] = (struct tree_node){0, i};
        uint32_t depth = tree_node_root(leaves).level;
        assert_true(tree_slots(nodes, leaves, leaves) <= (depth ? depth : 1));
    }
}

static void cover_finds_exactly_the_nodes(void **state)
{
    (void)state;
    for (uint32_t leaves = 1; leaves <= LEAVES_MAX; leaves++) {
        for (uint32_t first = 0; first < leaves; first++) {
            for (uint32_t end = first; end <= leaves + 1; end++) {
                bool expected = false;
                for (uint32_t width = 1; width < 2 * leaves; width *= 2)
                    expected = expected || (first % width == 0 && end > first && end <= leaves &&
                                            (first + width < leaves ? first + width : leaves) == end);
                struct tree_node node;
                assert_int_equal(tree_node_cover(first, end, leaves, &node), expected);
                if (expected) {
                    assert_int_equal(tree_node_first(node), first);
                    assert_int_equal(tree_node_end(node, leaves), end);
                }
            }
        }
    }
}

static void wrong_nodes_are_refused(void **state)
{
    (void)state;
    struct tree_set set;
    struct tree_place place;
    struct tree_fold folds[32];
    struct bg_error err;
    tree_set_init(&set, 5, 3);
    assert_int_equal(tree_set_place(&set, (struct tree_node){0, 5}, &err, &place), BG_INVALID);
    assert_int_equal(tree_set_place(&set, (struct tree_node){4, 0}, &err, &place), BG_INVALID);
    assert_int_equal(tree_set_place(&set, (struct tree_node){2, 0}, &err, &place), BG_OK);
    assert_int_equal(tree_set_done(&set, (struct tree_node){2, 0}, place, folds), 0);
    assert_int_equal(tree_set_place(&set, (struct tree_node){0, 3}, &err, &place), BG_EXISTS);
    assert_int_equal(tree_set_place(&set, (struct tree_node){3, 0}, &err, &place), BG_EXISTS);
    assert_int_equal(tree_set_place(&set, (struct tree_node){1, 2}, &err, &place), BG_OK); // [4, 5), lifted
    assert_true(place.accumulate);
    tree_set_init(&set, UINT32_MAX, 3);
    assert_int_equal(tree_set_place(&set, (struct tree_node){31, 1}, &err, &place), BG_OK);
    assert_int_equal(tree_node_end((struct tree_node){31, 1}, UINT32_MAX), UINT32_MAX);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(any_order_gives_the_bits_of_the_definition),
        cmocka_unit_test(ascending_leaves_need_few_slots),
        cmocka_unit_test(cover_finds_exactly_the_nodes),
        cmocka_unit_test(wrong_nodes_are_refused),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
