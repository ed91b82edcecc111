// The merge loop of byte pair encoding: of all neighbouring pairs that have a merge, the lowest rank first, the
// leftmost among equals, until none is left. Short words scan an array; long ones keep the pairs in a heap, so that a
// word of a megabyte costs n log n. Both give the same answer.
//
// Not here: what the symbols are (bytes or characters) and where the ranks come from.
#include "model/tokenizer_int.h"

#include "base/assert.h"
#include "base/mem.h"

#include <string.h>

#define SCAN_MAX 48 // longest word that is scanned
#define NO_RANK  UINT32_MAX

static uint64_t pair_key(int32_t left, int32_t right)
{
    return (uint64_t)(uint32_t)left << 32 | (uint32_t)right;
}

static size_t pair_home(const struct pair_table *table, uint64_t key)
{
    return (size_t)(key * UINT64_C(0x9e3779b97f4a7c15) >> table->shift);
}

static const struct pair_slot *pair_find(const struct pair_table *table, int32_t left, int32_t right)
{
    static const struct pair_slot none = {.rank = NO_RANK, .result = -1};
    if (table->slot_count == 0)
        return &none;
    uint64_t key = pair_key(left, right);
    for (size_t at = pair_home(table, key);; at = (at + 1) & (table->slot_count - 1)) {
        if (table->slots[at].key == key || table->slots[at].key == UINT64_MAX)
            return &table->slots[at];
    }
}

// Words of a few dozen symbols: ranks of the pairs side by side, the minimum found by looking at all of them.
static size_t merge_scan(const struct pair_table *pairs, int32_t *ids, size_t count, struct merge *last)
{
    uint32_t rank[SCAN_MAX];
    int32_t result[SCAN_MAX];
    for (size_t i = 0; i + 1 < count; i++) {
        const struct pair_slot *slot = pair_find(pairs, ids[i], ids[i + 1]);
        rank[i] = slot->rank;
        result[i] = slot->result;
    }
    while (count > 1) {
        size_t best = 0;
        for (size_t i = 1; i + 1 < count; i++)
            if (rank[i] < rank[best])
                best = i;
        if (rank[best] == NO_RANK)
            break;
        if (last)
            *last = (struct merge){ids[best], ids[best + 1], result[best], rank[best]};
        ids[best] = result[best];
        count--;
        for (size_t i = best + 1; i < count; i++) {
            ids[i] = ids[i + 1];
            rank[i - 1] = rank[i];
            result[i - 1] = result[i];
        }
        for (size_t i = best > 0 ? best - 1 : 0; i <= best && i + 1 < count; i++) {
            const struct pair_slot *slot = pair_find(pairs, ids[i], ids[i + 1]);
            rank[i] = slot->rank;
            result[i] = slot->result;
        }
    }
    return count;
}

struct link { // symbols as a list; a merged-away symbol has id -1
    int32_t id;
    uint32_t previous, next;
};
struct waiting {
    uint32_t rank, at;
    int32_t left, right; // stale when the list no longer shows them
};

static bool sooner(const struct waiting *a, const struct waiting *b)
{
    return a->rank != b->rank ? a->rank < b->rank : a->at < b->at;
}

static void heap_down(struct waiting *heap, size_t count, size_t i)
{
    struct waiting moving = heap[i];
    for (;;) {
        size_t child = 2 * i + 1;
        if (child >= count)
            break;
        if (child + 1 < count && sooner(&heap[child + 1], &heap[child]))
            child++;
        if (!sooner(&heap[child], &moving))
            break;
        heap[i] = heap[child];
        i = child;
    }
    heap[i] = moving;
}

static void heap_push(struct waiting *heap, size_t *count, struct waiting item)
{
    size_t i = (*count)++;
    for (; i > 0 && sooner(&item, &heap[(i - 1) / 2]); i = (i - 1) / 2)
        heap[i] = heap[(i - 1) / 2];
    heap[i] = item;
}

// Fills links and the heap of all pairs that have a merge; returns how many.
static size_t heap_fill(const struct pair_table *pairs, struct merge_work *work, size_t count)
{
    if (work->link_capacity < count) {
        bg_free(work->links);
        work->links = bg_alloc_array(count, sizeof(struct link));
        work->link_capacity = count;
    }
    // A merge takes one pair out and puts at most two in: never more than 3 * count are there.
    if (work->heap_capacity < 3 * count) {
        bg_free(work->heap);
        work->heap = bg_alloc_array(3 * count, sizeof(struct waiting));
        work->heap_capacity = 3 * count;
    }
    struct link *links = work->links;
    struct waiting *heap = work->heap;
    size_t waiting = 0;
    for (size_t i = 0; i < count; i++) {
        links[i] = (struct link){work->ids[i], (uint32_t)i - 1, (uint32_t)i + 1};
        if (i + 1 == count)
            break;
        uint32_t rank = pair_find(pairs, work->ids[i], work->ids[i + 1])->rank;
        if (rank != NO_RANK)
            heap[waiting++] = (struct waiting){rank, (uint32_t)i, work->ids[i], work->ids[i + 1]};
    }
    for (size_t i = waiting / 2; i-- > 0;)
        heap_down(heap, waiting, i);
    return waiting;
}

static size_t merge_heap(const struct pair_table *pairs, struct merge_work *work, size_t count, struct merge *last)
{
    size_t waiting = heap_fill(pairs, work, count);
    struct link *links = work->links;
    struct waiting *heap = work->heap;
    while (waiting > 0) {
        struct waiting top = heap[0];
        heap[0] = heap[--waiting];
        if (waiting > 0)
            heap_down(heap, waiting, 0);
        struct link *left = &links[top.at];
        if (left->id != top.left || left->next >= count || links[left->next].id != top.right)
            continue;
        int32_t result = pair_find(pairs, top.left, top.right)->result;
        if (last)
            *last = (struct merge){top.left, top.right, result, top.rank};
        struct link *right = &links[left->next];
        left->id = result;
        right->id = -1;
        left->next = right->next;
        if (left->next < count) {
            links[left->next].previous = top.at;
            uint32_t rank = pair_find(pairs, result, links[left->next].id)->rank;
            if (rank != NO_RANK)
                heap_push(heap, &waiting, (struct waiting){rank, top.at, result, links[left->next].id});
        }
        if (left->previous < count) {
            uint32_t rank = pair_find(pairs, links[left->previous].id, result)->rank;
            if (rank != NO_RANK)
                heap_push(heap, &waiting, (struct waiting){rank, left->previous, links[left->previous].id, result});
        }
    }
    size_t kept = 0;
    for (size_t i = 0; i < count; i = links[i].next)
        work->ids[kept++] = links[i].id;
    return kept;
}

size_t merge_run(const struct pair_table *pairs, struct merge_work *work, size_t count, struct merge *last)
{
    BG_ASSERT(count <= work->id_capacity && count < UINT32_MAX / 4);
    if (count <= SCAN_MAX)
        return merge_scan(pairs, work->ids, count, last);
    return merge_heap(pairs, work, count, last);
}

int32_t *merge_work_ids(struct merge_work *work, size_t count)
{
    if (work->id_capacity < count) {
        size_t capacity = work->id_capacity ? work->id_capacity : 64;
        while (capacity < count)
            capacity *= 2;
        work->ids = bg_realloc_array(work->ids, capacity, sizeof *work->ids);
        work->id_capacity = capacity;
    }
    return work->ids;
}

void merge_work_fini(struct merge_work *work)
{
    bg_free(work->ids);
    bg_free(work->links);
    bg_free(work->heap);
    *work = (struct merge_work){0};
}

static void pair_insert(struct pair_table *table, struct pair_slot slot)
{
    size_t at = pair_home(table, slot.key);
    while (table->slots[at].key != UINT64_MAX)
        at = (at + 1) & (table->slot_count - 1);
    table->slots[at] = slot;
}

bool pair_table_add(struct pair_table *table, const struct merge *merge)
{
    if (table->slot_count < 2 * (table->used + 1)) {
        struct pair_table old = *table;
        table->slot_count = old.slot_count ? 2 * old.slot_count : 1024;
        table->shift = old.slot_count ? old.shift - 1 : 54;
        table->slots = bg_alloc_array(table->slot_count, sizeof *table->slots);
        for (size_t i = 0; i < table->slot_count; i++)
            table->slots[i] = (struct pair_slot){.key = UINT64_MAX, .rank = NO_RANK, .result = -1};
        for (size_t i = 0; i < old.slot_count; i++)
            if (old.slots[i].key != UINT64_MAX)
                pair_insert(table, old.slots[i]);
        bg_free(old.slots);
    }
    if (pair_find(table, merge->left, merge->right)->rank != NO_RANK)
        return false;
    pair_insert(table, (struct pair_slot){pair_key(merge->left, merge->right), merge->rank, merge->result});
    table->used++;
    return true;
}

int32_t pair_table_find(const struct pair_table *table, int32_t left, int32_t right)
{
    return pair_find(table, left, right)->result;
}

void pair_table_fini(struct pair_table *table)
{
    bg_free(table->slots);
    *table = (struct pair_table){0};
}
