// Experts of a mixture-of-experts model on machines that may vanish, as in Lazarus (Wu et al., "Lazarus: Resilient and
// Elastic Training of Mixture-of-Experts Models with Adaptive Expert Placement", arXiv 2407.04656, sections 4 and 5):
// how many replicas each expert gets, where they stand, and which replica computes which tokens.
#ifndef PLAN_LAZARUS_H
#define PLAN_LAZARUS_H

#include "base/status.h"

#include <stdint.h>

#define PLAN_LAZARUS_EXPERTS_MAX 1024
#define PLAN_LAZARUS_NODES_MAX   1024
#define PLAN_LAZARUS_EXACT_MAX   16 // nodes; beyond that recovery may be drawn, not counted

struct plan_lazarus {
    uint32_t experts, nodes, slots; // slots: replicas that one node has room for
    uint32_t spread;                // replicas that every expert gets at least; lowered where there is no room for it
    uint64_t seed;                  // of the draws beyond PLAN_LAZARUS_EXACT_MAX nodes
};

// BG_INVALID where the numbers make no sense, or not even one replica of every expert has room.
BG_MUST_USE bg_status plan_lazarus_check(const struct plan_lazarus *shape, struct bg_error *err);

// load: (experts) tokens routed to each; replicas: (experts), their sum fills all slots. An expert with more load never
// gets fewer.
void plan_lazarus_allocate(const struct plan_lazarus *shape, const uint64_t *load, uint32_t *replicas);

// replicas: (experts) with sum nodes * slots; held: (nodes, experts) replicas of an expert on a node. Groups of `slots`
// experts with the fewest replicas first stand on the same nodes (maximum rank overlap). Where the groups want more
// nodes than there are, that loses jobs that another placement keeps; replicas then swap places as long as the odds to
// recover with `alive` nodes left rise (0: with all but one, all but two and so on, the first difference counts).
void plan_lazarus_place(const struct plan_lazarus *shape, const uint32_t *replicas, uint32_t alive, uint32_t *held);

// The share of all sets of `alive` nodes that hold every expert between them. Exact up to PLAN_LAZARUS_EXACT_MAX nodes,
// and with any number of them where at most twelve hold different experts, as overlap makes it; else from 20,000 draws.
double plan_lazarus_recovery(const struct plan_lazarus *shape, const uint32_t *held, uint32_t alive);

// tokens: (nodes) tokens on each node for one expert that has replicas held: (nodes), not all 0; sent: (nodes, nodes)
// from, to. Every replica gets its even share (shares differ by one token), as much of it as can be from its own node,
// the rest in proportion to what room is left; whole tokens by largest remainder, of equal ones the first node.
void plan_lazarus_dispatch(uint32_t nodes, const uint64_t *tokens, const uint32_t *held, uint64_t *sent);

#endif
