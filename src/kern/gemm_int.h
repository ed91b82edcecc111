// GEMM inside the room: the functions of each ISA, the leaves of the canonical tree, and how a product is cut into
// blocks. All of it is a function of the shape alone, never of threads; and the bits do not depend on the cut at all,
// because every element of C is one chain per leaf however it is blocked.
#ifndef KERN_GEMM_INT_H
#define KERN_GEMM_INT_H

#include "kern/kern.h"

size_t kern_ref_gemm_blocks(const struct kern_gemm *g);
size_t kern_ref_gemm_scratch(const struct kern_gemm *g);
void kern_ref_gemm_block(const struct kern_gemm *g, size_t block, void *scratch);

size_t kern_avx2_gemm_blocks(const struct kern_gemm *g);
size_t kern_avx2_gemm_scratch(const struct kern_gemm *g);
void kern_avx2_gemm_block(const struct kern_gemm *g, size_t block, void *scratch);

size_t kern_avx512_gemm_blocks(const struct kern_gemm *g);
size_t kern_avx512_gemm_scratch(const struct kern_gemm *g);
void kern_avx512_gemm_block(const struct kern_gemm *g, size_t block, void *scratch);

// Leaves: the chains whose sums the canonical tree joins (NUMERICS 9). One per segment.
//
// BG_CONTROL_SPLIT_K is a negative control, never a product: it cuts each chain into two half-k sums that are added,
// as a split-K kernel does. The identity suite must fail on such a build, or it proves nothing.
static inline size_t kern_gemm_leaves(const struct kern_gemm *g)
{
    size_t segments = g->op == KERN_TN ? g->segments : 1;
#ifdef BG_CONTROL_SPLIT_K
    return 2 * segments;
#else
    return segments;
#endif
}

// First k of a leaf; leaf l covers [begin(l), begin(l + 1)).
static inline size_t kern_gemm_leaf_begin(const struct kern_gemm *g, size_t leaf)
{
#ifdef BG_CONTROL_SPLIT_K
    return leaf / 2 * g->k + leaf % 2 * (g->k / 2);
#else
    return leaf * g->k;
#endif
}

// The tree as a binary counter. Before leaf l one finished left child waits for each bit set in l, the oldest (and
// widest) in slot 0. Leaf l is added to those of its trailing ones, the youngest first, and the last leaf to all that
// wait; what comes out waits in the slot of the oldest that was taken.
static inline size_t kern_gemm_waiting(size_t leaf)
{
    return (size_t)__builtin_popcountll(leaf);
}

static inline size_t kern_gemm_slot(size_t leaf, size_t leaves)
{
    return leaf + 1 == leaves ? 0 : kern_gemm_waiting(leaf & (leaf + 1));
}

// Slots that a tree of this many leaves ever fills.
static inline size_t kern_gemm_slots(size_t leaves)
{
    size_t slots = 0;
    while (leaves > 1 && (leaves - 1) >> slots)
        slots++;
    return slots;
}

// Block sizes of one ISA and orientation, as data.
struct kern_gemm_sizes {
    size_t mr, nr;         // rows and columns of C in registers
    size_t kc;             // depth of a pass: a tile's mr x kc of A stay in L1
    size_t nc;             // most columns of a block: its kc x nc of B stay in L2
    size_t mc;             // most rows of a block: bounds its scratch
    double cost_a, cost_b; // of bringing one element in, in multiply-adds
};

// A grid of rows x columns blocks over `tiles` x `panels`, each as even as whole tiles allow.
struct kern_gemm_cut {
    size_t tiles, panels; // ceil(m / mr), ceil(n / nr)
    size_t rows, columns; // blocks down, blocks across
    size_t kc;            // depth of the passes (all but the last of a leaf), at most that of the sizes
};

struct kern_gemm_cut kern_gemm_cut(const struct kern_gemm *g, const struct kern_gemm_sizes *s);

// Part `index` of [0, total) in `parts` even runs.
static inline size_t kern_gemm_part(size_t total, size_t parts, size_t index)
{
    return total / parts * index + (index < total % parts ? index : total % parts);
}

#endif
