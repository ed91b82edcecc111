// The pool of pages and what is kept in it: a tree of pages that hold prompt prefixes (radix over runs of BATCH_PAGE
// tokens), shared by reference, dropped leaf by leaf, the least recently used first. What is dropped may be kept
// outside the pool for a while (outside.h).
#ifndef SERVE_PAGES_H
#define SERVE_PAGES_H

#include "model/batch.h"
#include "serve/outside.h"

#define PAGES_NONE UINT32_MAX

struct pages;
// count: pages of the batch's pool, all of them ours from here. outside: for what is dropped; stays the caller's.
struct pages *pages_create(struct batch *batch, uint32_t count, struct outside *outside);
void pages_destroy(struct pages *pages); // what is cached goes to disk, where there is one

// A page for the caller alone. PAGES_NONE: none is free, and nothing that is cached can be dropped.
uint32_t pages_take(struct pages *pages);
void pages_give(struct pages *pages, uint32_t page); // one that pages_take() gave

// A chain of pages that hold tokens[0, count), as far as they are cached: whole pages are shared (held until
// pages_leave), and of the next page as many tokens as agree are copied into a page of the caller's. nodes[i] and
// page_of[i] name page i; a copied one has nodes[i] PAGES_NONE. Returns the tokens covered, at most `count`.
uint32_t pages_find(struct pages *pages, const int32_t *tokens, uint32_t count, uint32_t *nodes, uint32_t *page_of);
// The caller's page `page` holds `count` tokens (16, or fewer where a sequence ends) after the chain that ends with
// `parent` (PAGES_NONE: the beginning): it becomes part of the tree, or is given back where the same is there already.
// Returns its node, held. *page: where the tokens lie now. A short page is not held, and is nobody's afterwards.
uint32_t pages_keep(struct pages *pages, uint32_t parent, const int32_t *tokens, uint32_t count, uint32_t *page);
void pages_leave(struct pages *pages, uint32_t node);
// Takes what is cached of tokens[0, count) out of the tree, from the end, as far as nobody holds it or goes on from it.
// Returns the tokens dropped.
uint32_t pages_forget(struct pages *pages, const int32_t *tokens, uint32_t count);

struct pages_counts {
    uint32_t used;   // held by somebody
    uint32_t cached; // not held, kept for later
    uint32_t free;
};
struct pages_counts pages_count(const struct pages *pages);

#endif
