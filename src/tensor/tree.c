// The canonical tree over micro-batch indices and the set of node values held on the way to its root. Values
// live with the caller, in slots; here is only who holds what. A node whose sibling lies beyond the last leaf
// equals its parent, so it is lifted to the highest node of equal value before anything is compared: every held
// node except the root then has a real sibling, and folding is a look-up. Addition of two floats commutes
// bit for bit, so it does not matter which of two siblings arrived first.
#include "tensor/tree.h"

#include "base/assert.h"

static struct tree_node lift(struct tree_node node, uint32_t leaves);
static bool find(const struct tree_set *set, struct tree_node node, size_t *slot);

uint32_t tree_node_first(struct tree_node node)
{
    return (uint32_t)((uint64_t)node.index << node.level);
}

uint32_t tree_node_end(struct tree_node node, uint32_t leaves)
{
    uint64_t end = ((uint64_t)node.index + 1) << node.level;
    return end < leaves ? (uint32_t)end : leaves;
}

struct tree_node tree_node_root(uint32_t leaves)
{
    uint32_t level = 0;
    while ((uint64_t)1 << level < leaves)
        level++;
    return (struct tree_node){level, 0};
}

struct tree_node tree_node_parent(struct tree_node node)
{
    return (struct tree_node){node.level + 1, node.index / 2};
}

struct tree_node tree_node_sibling(struct tree_node node)
{
    return (struct tree_node){node.level, node.index ^ 1};
}

bool tree_node_single(struct tree_node node, uint32_t leaves)
{
    struct tree_node sibling = tree_node_sibling(node);
    return (uint64_t)sibling.index << sibling.level >= leaves;
}

bool tree_node_cover(uint32_t first, uint32_t end, uint32_t leaves, struct tree_node *node)
{
    if (first >= end || end > leaves)
        return false;
    uint32_t top = tree_node_root(leaves).level;
    for (uint32_t level = 0; level <= top; level++) {
        struct tree_node candidate = {level, (uint32_t)((uint64_t)first >> level)};
        if (tree_node_first(candidate) != first)
            return false;
        if (tree_node_end(candidate, leaves) == end) {
            *node = candidate;
            return true;
        }
    }
    return false;
}

size_t tree_slots(const struct tree_node *order, size_t count, uint32_t leaves)
{
    struct tree_set set;
    tree_set_init(&set, leaves, TREE_SLOTS_MAX);
    size_t most = 0;
    for (size_t i = 0; i < count; i++) {
        struct tree_place place;
        struct tree_fold folds[32];
        if (tree_set_place(&set, order[i], NULL, &place))
            return 0;
        // The lowest free slot is taken, so the highest slot ever used is the number of slots needed.
        if (place.slot + 1 > most)
            most = place.slot + 1;
        tree_set_done(&set, order[i], place, folds);
    }
    return most;
}

void tree_set_init(struct tree_set *set, uint32_t leaves, size_t slots)
{
    BG_ASSERT(leaves >= 1 && slots >= 1 && slots <= TREE_SLOTS_MAX);
    *set = (struct tree_set){.leaves = leaves, .slots = slots};
}

bg_status tree_set_place(struct tree_set *set, struct tree_node node, struct bg_error *err, struct tree_place *place)
{
    if (node.level > tree_node_root(set->leaves).level || (uint64_t)node.index << node.level >= set->leaves)
        return bg_fail(err, BG_INVALID, "tree node (level %u, index %u) lies outside a tree of %u leaves", node.level,
                       node.index, set->leaves);
    uint32_t first = tree_node_first(node), end = tree_node_end(node, set->leaves);
    size_t free_slot = set->slots;
    for (size_t i = set->slots; i-- > 0;) {
        if (!set->held[i]) {
            free_slot = i;
            continue;
        }
        uint32_t held_first = tree_node_first(set->node[i]), held_end = tree_node_end(set->node[i], set->leaves);
        if (first < held_end && held_first < end)
            return bg_fail(err, BG_EXISTS, "leaves %u..%u of the step are already held in node %u..%u", first, end - 1,
                           held_first, held_end - 1);
    }
    size_t slot;
    if (find(set, tree_node_sibling(lift(node, set->leaves)), &slot)) {
        *place = (struct tree_place){slot, true};
        return BG_OK;
    }
    if (free_slot == set->slots)
        return bg_fail(err, BG_FULL, "all %zu slots for gradient nodes are taken (next: leaves %u..%u)", set->slots,
                       first, end - 1);
    *place = (struct tree_place){free_slot, false};
    return BG_OK;
}

size_t tree_set_done(struct tree_set *set, struct tree_node node, struct tree_place place, struct tree_fold folds[32])
{
    BG_ASSERT(place.slot < set->slots && set->held[place.slot] == place.accumulate);
    node = lift(node, set->leaves);
    if (place.accumulate)
        node = lift(tree_node_parent(node), set->leaves);
    size_t slot = place.slot, count = 0, other;
    set->held[slot] = true;
    set->node[slot] = node;
    while (find(set, tree_node_sibling(node), &other)) {
        // Into the lower slot, so that the high ones come free first.
        struct tree_fold fold = slot < other ? (struct tree_fold){slot, other} : (struct tree_fold){other, slot};
        BG_ASSERT(count < 32);
        folds[count++] = fold;
        set->held[fold.from] = false;
        slot = fold.to;
        node = lift(tree_node_parent(node), set->leaves);
        set->node[slot] = node;
    }
    return count;
}

bool tree_set_root(const struct tree_set *set, size_t *slot)
{
    return find(set, tree_node_root(set->leaves), slot);
}

// The highest node with the same value: parents are taken as long as there is nothing to add.
static struct tree_node lift(struct tree_node node, uint32_t leaves)
{
    uint32_t top = tree_node_root(leaves).level;
    while (node.level < top && tree_node_single(node, leaves))
        node = tree_node_parent(node);
    return node;
}

static bool find(const struct tree_set *set, struct tree_node node, size_t *slot)
{
    for (size_t i = 0; i < set->slots; i++) {
        if (set->held[i] && set->node[i].level == node.level && set->node[i].index == node.index) {
            *slot = i;
            return true;
        }
    }
    return false;
}
