// The profile of a model as a graph of layers: what each costs and who reads whose output. Read from PipeDream's
// graph.txt ("PipeDream: Generalized Pipeline Parallelism for DNN Training", SOSP 2019, section 3.1):
//   node<ID> -- text -- forward_compute_time=MS, backward_compute_time=MS, activation_size=BYTES, parameter_size=BYTES
//       [-- stage_id=N]          (one line)
//   node<ID> -- node<ID>         (an edge, from the one that makes to the one that reads)
// activation_size may be a list "[a; b]", which is summed. Lines may begin with blanks; empty ones are skipped.
#ifndef PLAN_GRAPH_H
#define PLAN_GRAPH_H

#include "base/status.h"

#include <stddef.h>
#include <stdint.h>

#define PLAN_GRAPH_NODES_MAX  4096
#define PLAN_GRAPH_EDGES_MAX  65536
#define PLAN_GRAPH_NUMBER_MAX 1e18

struct plan_graph_node {
    char *id, *text;
    double forward_ms, backward_ms, activation_bytes, parameter_bytes;
    int32_t stage; // -1: none given
};

struct plan_graph_edge {
    uint32_t from, to;
};

// Nodes and edges stand in the order of the file. There is a node, and no cycle.
struct plan_graph {
    struct plan_graph_node *nodes;
    struct plan_graph_edge *edges;
    uint32_t node_count, edge_count;
};

// `text` need not end in a NUL. Errors begin with the line; callers put the file's name before them.
BG_MUST_USE bg_status plan_graph_parse(const char *text, size_t size, struct bg_error *err, struct plan_graph *graph);
void plan_graph_fini(struct plan_graph *graph);

// What PipeDream's optimizer drops before it looks: sources whose text begins with "Input", then sinks whose text
// begins with "__getitem__". May leave no node.
void plan_graph_trim(struct plan_graph *graph);

// Who reads each node: readers[first[v]] up to readers[first[v + 1]], in the order of the edges. bg_free both.
void plan_graph_readers(const struct plan_graph *graph, uint32_t **first, uint32_t **readers);

// The nodes (node_count places), each behind those whose output it reads. Returns how many: all, where there is no
// cycle.
uint32_t plan_graph_order(const struct plan_graph *graph, uint32_t *order);

#endif
