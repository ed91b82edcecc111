// The canonical reduction tree over micro-batch indices (NUMERICS 9). Node (level k, index i) covers leaves
// [i 2^k, (i+1) 2^k) cut at M; its value is left + right, or left alone where the right child lies beyond M.
// A tree_set holds node values in a fixed number of slots and folds siblings as soon as both are there, whatever
// the order in which leaves (or whole nodes) arrive.
#ifndef TENSOR_TREE_H
#define TENSOR_TREE_H

#include "base/status.h"

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

struct tree_node {
    uint32_t level, index;
};

uint32_t tree_node_first(struct tree_node node);                // first leaf
uint32_t tree_node_end(struct tree_node node, uint32_t leaves); // one past the last, cut at M
struct tree_node tree_node_root(uint32_t leaves);
struct tree_node tree_node_parent(struct tree_node node);
struct tree_node tree_node_sibling(struct tree_node node);
bool tree_node_single(struct tree_node node, uint32_t leaves); // its sibling lies beyond M: parent = node
// The node that covers exactly [first, end), if there is one.
bool tree_node_cover(uint32_t first, uint32_t end, uint32_t leaves, struct tree_node *node);

// Slots needed to hold every maximal complete node while the given nodes (a partition of the leaves) arrive in this
// order; 0: more than TREE_SLOTS_MAX.
size_t tree_slots(const struct tree_node *order, size_t count, uint32_t leaves);

#define TREE_SLOTS_MAX 64
struct tree_set {
    uint32_t leaves;
    size_t slots;
    bool held[TREE_SLOTS_MAX];
    struct tree_node node[TREE_SLOTS_MAX];
};

void tree_set_init(struct tree_set *set, uint32_t leaves, size_t slots);

// Where the next node goes: `slot`, and whether its sibling is already there (add into it: "accumulate").
struct tree_place {
    size_t slot;
    bool accumulate;
};
BG_MUST_USE bg_status tree_set_place(struct tree_set *set, struct tree_node node, struct bg_error *err,
                                     struct tree_place *place);
// The node has been written or added. Folds upward: each fold is a pair of slots whose values the caller must
// add (to += from), reported in order; after it the slot `from` is free. Returns the number of folds.
struct tree_fold {
    size_t to, from;
};
size_t tree_set_done(struct tree_set *set, struct tree_node node, struct tree_place place, struct tree_fold folds[32]);
bool tree_set_root(const struct tree_set *set, size_t *slot); // all leaves are in

#endif
