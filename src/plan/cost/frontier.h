// What a step costs in energy or money for every time it may take, where each op may run slower and cheaper (Perseus,
// "Reducing Energy Bloat in Large Model Training", SOSP 2024, section 4; the network is that of Phillips and Dessouky,
// "Solving the Project Time/Cost Tradeoff Problem Using the Minimal Cut Concept", Management Science 1977).
//
// Ops are nodes of a graph without cycles; an edge says that `to` starts when `from` has ended. An op takes a whole
// number of time units between its bounds and costs cost[time - fastest], which must not rise with the time and be
// convex. The frontier has a point for every makespan, from that of all ops at their slowest down to that of all at
// their fastest: the least total cost of all ways to be done by then. Exact (to the rounding of sums of doubles).
#ifndef PLAN_FRONTIER_H
#define PLAN_FRONTIER_H

#include "plan/plan.h"

#define PLAN_FRONTIER_OPS_MAX  (1 << 20)
#define PLAN_FRONTIER_TIME_MAX (1 << 24) // units of an op

struct plan_frontier_op {
    uint32_t fastest, slowest; // at least 0
    const double *cost;        // (slowest - fastest + 1)
};
struct plan_frontier_edge {
    uint32_t from, to;
};
struct plan_frontier_point {
    uint64_t time;
    double cost, rate; // rate: what one unit of time less would cost from here; INFINITY: it cannot be less
};
struct plan_frontier {
    struct plan_frontier_point *points; // the slowest first, time falling by 1
    uint32_t point_count;
    uint32_t *times; // (ops) of the point that was asked for
};

struct plan_frontier_options {
    uint64_t by;         // `times` are those of the slowest point that ends by then; 0: of the last point
    uint32_t points_max; // stop there; 0: none but memory (1 << 20)
};

// BG_INVALID: a cycle, an edge to nowhere, a cost that rises or is not convex (names the op).
BG_MUST_USE bg_status plan_frontier_solve(const struct plan_frontier_op *ops, uint32_t op_count,
                                          const struct plan_frontier_edge *edges, uint32_t edge_count,
                                          const struct plan_frontier_options *options, struct bg_error *err,
                                          struct plan_frontier *frontier);
void plan_frontier_fini(struct plan_frontier *frontier);

// The graph of lists of compute ops, numbered list by list: each op behind the one before it in its list and behind
// those that make its inputs. Other ops are left out and not numbered. BG_INVALID: an op is there twice, or an input
// is not made. bg_free *edges.
BG_MUST_USE bg_status plan_frontier_edges(const struct plan_list *lists, uint32_t workers, struct bg_error *err,
                                          struct plan_frontier_edge **edges, uint32_t *edge_count, uint32_t *op_count);

#endif
