// Nodes are as many as pages: every page is free, with a request, or in the tree. A node is held by the requests that
// use it; only leaves that nobody holds may be dropped.
#include "serve/pages.h"

#include "base/assert.h"
#include "base/mem.h"

#include <string.h>

// A cached page. The tree's links are indices into nodes; node 0 is the root and has no page.
struct node {
    int32_t tokens[BATCH_PAGE];
    uint32_t count; // of tokens; 0: the entry is free
    uint32_t page, parent, child, next;
    uint32_t held; // by requests; who holds a page holds those before it
    uint32_t depth;
    uint64_t used;          // turn of the last use
    struct outside_key key; // where something is kept outside
};

struct pages {
    struct batch *batch;
    uint32_t count, free_count, node_count; // nodes: count + 1
    uint32_t *free;
    struct node *nodes;
    uint32_t free_node; // chain by next
    uint64_t turn;
    struct outside *outside; // NULL: nothing is kept there
    uint32_t cached;         // nodes that nobody holds
};

enum { ROOT = 0 };

struct pages *pages_create(struct batch *batch, uint32_t count, struct outside *outside)
{
    struct pages *p = bg_alloc(sizeof *p);
    *p = (struct pages){.batch = batch, .count = count, .free_count = count, .node_count = count + 1};
    p->free = bg_alloc_array(count, sizeof *p->free);
    p->nodes = bg_alloc_array(p->node_count, sizeof *p->nodes);
    for (uint32_t i = 0; i < count; i++)
        p->free[i] = count - 1 - i;
    for (uint32_t i = 1; i <= count; i++)
        p->nodes[i].next = i < count ? i + 1 : PAGES_NONE;
    p->free_node = count ? 1 : PAGES_NONE;
    p->nodes[ROOT] = (struct node){.page = PAGES_NONE, .parent = PAGES_NONE, .child = PAGES_NONE, .held = 1};
    p->turn = outside_first_turn(outside);
    if (outside_keeps(outside)) {
        p->outside = outside;
        p->nodes[ROOT].key = outside_root(outside);
    }
    return p;
}

// ---- Outside the pool ----
static void keep_outside(struct pages *p, uint32_t node)
{
    const struct node *n = &p->nodes[node];
    if (p->outside && n->count == BATCH_PAGE)
        outside_put(p->outside, &n->key, n->depth, n->used, p->turn, batch_page(p->batch, n->page));
}

static uint32_t page_from_outside(struct pages *p, uint32_t parent, const int32_t *tokens)
{
    if (!p->outside)
        return PAGES_NONE;
    const struct outside_key key = outside_next(p->nodes[parent].key, tokens, BATCH_PAGE);
    const uint32_t page = outside_has(p->outside, &key) ? pages_take(p) : PAGES_NONE;
    if (page == PAGES_NONE || outside_get(p->outside, &key, p->turn, batch_page(p->batch, page)))
        return page;
    pages_give(p, page); // to take one, it was dropped
    return PAGES_NONE;
}

void pages_destroy(struct pages *pages)
{
    if (!pages)
        return;
    if (pages->outside)
        outside_flush(pages->outside, pages->turn);
    for (uint32_t i = 1; i < pages->node_count && pages->outside; i++)
        keep_outside(pages, i);
    bg_free(pages->nodes);
    bg_free(pages->free);
    bg_free(pages);
}

// ---- The tree ----
static void hold(struct pages *p, uint32_t node)
{
    p->cached -= p->nodes[node].held == 0;
    p->nodes[node].held++;
    p->nodes[node].used = ++p->turn;
}

void pages_leave(struct pages *pages, uint32_t node)
{
    struct node *n = &pages->nodes[node];
    BG_ASSERT(node != ROOT && n->held > 0);
    n->held--;
    n->used = ++pages->turn;
    pages->cached += n->held == 0;
}

// Takes a leaf that nobody holds out of the tree; its page is the caller's.
static uint32_t drop(struct pages *p, uint32_t node)
{
    struct node *n = &p->nodes[node];
    uint32_t *link = &p->nodes[n->parent].child, page = n->page;
    while (*link != node)
        link = &p->nodes[*link].next;
    *link = n->next;
    *n = (struct node){.next = p->free_node};
    p->free_node = node;
    p->cached--;
    return page;
}

uint32_t pages_take(struct pages *pages)
{
    if (pages->free_count > 0)
        return pages->free[--pages->free_count];
    uint32_t oldest = PAGES_NONE;
    for (uint32_t i = 1; i < pages->node_count && pages->cached > 0; i++) {
        const struct node *n = &pages->nodes[i];
        if (n->count > 0 && n->held == 0 && n->child == PAGES_NONE &&
            (oldest == PAGES_NONE || n->used < pages->nodes[oldest].used))
            oldest = i;
    }
    if (oldest == PAGES_NONE)
        return PAGES_NONE;
    keep_outside(pages, oldest);
    return drop(pages, oldest);
}

void pages_give(struct pages *pages, uint32_t page)
{
    BG_ASSERT(pages->free_count < pages->count);
    pages->free[pages->free_count++] = page;
}

static uint32_t add(struct pages *p, uint32_t parent, const int32_t *tokens, uint32_t count, uint32_t page)
{
    uint32_t node = p->free_node; // there are as many as pages
    BG_ASSERT(node != PAGES_NONE);
    p->free_node = p->nodes[node].next;
    p->nodes[node] = (struct node){.count = count,
                                   .page = page,
                                   .parent = parent,
                                   .child = PAGES_NONE,
                                   .next = p->nodes[parent].child,
                                   .depth = p->nodes[parent].depth + 1};
    memcpy(p->nodes[node].tokens, tokens, count * sizeof *tokens);
    if (p->outside)
        p->nodes[node].key = outside_next(p->nodes[parent].key, tokens, count);
    p->nodes[parent].child = node;
    p->cached++;
    return node;
}

static uint32_t agree(const struct node *n, const int32_t *tokens, uint32_t count)
{
    uint32_t same = 0;
    while (same < n->count && same < count && n->tokens[same] == tokens[same])
        same++;
    return same;
}

uint32_t pages_find(struct pages *pages, const int32_t *tokens, uint32_t count, uint32_t *nodes, uint32_t *page_of)
{
    uint32_t at = ROOT, done = 0, page = 0;
    for (;; page++) {
        uint32_t best = PAGES_NONE, most = 0;
        for (uint32_t c = pages->nodes[at].child; c != PAGES_NONE; c = pages->nodes[c].next) {
            uint32_t same = agree(&pages->nodes[c], tokens + done, count - done);
            if (same > most) {
                most = same;
                best = c;
            }
        }
        if (most < BATCH_PAGE && count - done >= BATCH_PAGE) { // a whole page may lie outside
            uint32_t back = page_from_outside(pages, at, tokens + done);
            if (back != PAGES_NONE) {
                best = add(pages, at, tokens + done, BATCH_PAGE, back);
                most = BATCH_PAGE;
            }
        }
        if (most == BATCH_PAGE) {
            hold(pages, best);
            nodes[page] = best;
            page_of[page] = pages->nodes[best].page;
            done += BATCH_PAGE;
            at = best;
            continue;
        }
        if (most == 0)
            return done;
        hold(pages, best); // so that it is not dropped for its own copy
        uint32_t copy = pages_take(pages);
        if (copy != PAGES_NONE) {
            memcpy(batch_page(pages->batch, copy), batch_page(pages->batch, pages->nodes[best].page),
                   batch_page_bytes(pages->batch));
            nodes[page] = PAGES_NONE;
            page_of[page] = copy;
            done += most;
        }
        pages_leave(pages, best);
        return done;
    }
}

uint32_t pages_keep(struct pages *pages, uint32_t parent, const int32_t *tokens, uint32_t count, uint32_t *page)
{
    const uint32_t under = parent == PAGES_NONE ? ROOT : parent;
    for (uint32_t c = pages->nodes[under].child, next; c != PAGES_NONE; c = next) {
        struct node *n = &pages->nodes[c];
        next = n->next;
        uint32_t same = agree(n, tokens, count);
        if (same == count) { // all of it is there
            if (n->page != *page)
                pages_give(pages, *page);
            *page = n->page;
            n->used = ++pages->turn;
            if (count < BATCH_PAGE)
                return PAGES_NONE;
            hold(pages, c);
            return c;
        }
        if (same == n->count && n->held == 0 && n->child == PAGES_NONE) // the beginning of ours: no longer of use
            pages_give(pages, drop(pages, c));
    }
    uint32_t node = add(pages, under, tokens, count, *page);
    pages->nodes[node].used = ++pages->turn;
    if (count < BATCH_PAGE)
        return PAGES_NONE;
    hold(pages, node);
    return node;
}

uint32_t pages_forget(struct pages *pages, const int32_t *tokens, uint32_t count)
{
    uint32_t at = ROOT, done = 0, dropped = 0;
    for (uint32_t c = pages->nodes[ROOT].child; c != PAGES_NONE;) {
        const struct node *n = &pages->nodes[c];
        if (agree(n, tokens + done, count - done) < n->count) {
            c = n->next;
            continue;
        }
        done += n->count;
        at = c;
        c = n->child;
    }
    while (at != ROOT && pages->nodes[at].held == 0 && pages->nodes[at].child == PAGES_NONE) {
        const uint32_t leaf = at;
        at = pages->nodes[leaf].parent;
        dropped += pages->nodes[leaf].count;
        if (pages->outside)
            outside_drop(pages->outside, &pages->nodes[leaf].key);
        pages_give(pages, drop(pages, leaf));
    }
    return dropped;
}

struct pages_counts pages_count(const struct pages *pages)
{
    return (struct pages_counts){
        .used = pages->count - pages->free_count - pages->cached, .cached = pages->cached, .free = pages->free_count};
}
