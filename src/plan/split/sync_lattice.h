// The ways to take machines, team by team: a node is a set of machines that are taken, an arc the team that is taken
// next (the machines of one stage) or a machine that stays unused.
#ifndef PLAN_SYNC_LATTICE_H
#define PLAN_SYNC_LATTICE_H

#include "plan/split/sync_int.h"

struct sync_kind {         // machines that nothing tells apart
    uint32_t first, count; // in `sorted`
    uint32_t host;
    double speed; // as long as the lattice is of use: effective
};
struct sync_kinds {
    uint32_t *sorted; // (machines) ids, kind by kind
    struct sync_kind *kinds;
    uint32_t count;
};
struct sync_member {
    uint32_t kind, share; // share: of the best split
};
struct sync_lattice_team {
    struct sync_team team;
    uint32_t member_first;
    double memory_least; // INFINITY: no limit
};
struct sync_arc {
    uint32_t to, team; // team UINT32_MAX: unused
};
struct sync_lattice {
    uint32_t nodes;    // node 0: nothing is taken; arcs go up
    uint32_t last;     // everything is taken
    uint32_t *used;    // (nodes) machines
    double *left;      // (nodes) speed of those that are not taken
    size_t *arc_first; // (nodes + 1)
    struct sync_arc *arcs;
    struct sync_lattice_team *teams;
    uint32_t team_count;
    struct sync_member *members;
    size_t member_count;
};
void sync_kinds_init(struct sync_kinds *k, const struct sync_model *m, bool apart); // apart: each machine by itself
void sync_kinds_fini(struct sync_kinds *k);
// How many arcs sync_lattice_all would make; UINT64_MAX: more than can be counted.
uint64_t sync_lattice_size(const struct sync_kinds *k);
// All sets of machines. limit: (kinds) NULL, or the host's threads that may be taken at most, 0: any.
void sync_lattice_all(struct sync_lattice *l, const struct sync_model *m, const struct sync_kinds *k,
                      const double *limit);
// Runs of machines of one order (kinds of one machine each), from places that are multiples of `grid`.
void sync_lattice_runs(struct sync_lattice *l, const struct sync_model *m, const struct sync_kinds *k,
                       const uint32_t *order, uint32_t count, uint32_t grid);
void sync_lattice_fini(struct sync_lattice *l);

#endif
