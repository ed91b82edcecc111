// How a GEMM is cut into blocks: the grid with the least estimated time. A block packs its own operands, so tall and
// wide blocks pack least; two lanes want an even number of equal blocks, and some to spare when one lane is disturbed.
// The estimate is a function of the shape alone. No bit of the result depends on it.
#include "kern/gemm_int.h"

enum {
    COST_BLOCK = 1 << 16, // to take a block, in multiply-adds
    BLOCKS_MAX = 64,      // of a grid that is considered, unless the least allowed has more
    COLUMNS_MORE = 6,
};

static size_t ceil_div(size_t a, size_t b)
{
    return (a + b - 1) / b;
}

static double estimate(const struct kern_gemm *g, const struct kern_gemm_sizes *s, size_t block_tiles,
                       size_t block_panels, size_t blocks)
{
    double rows = (double)(block_tiles * s->mr), columns = (double)(block_panels * s->nr);
    double depth = (double)g->k * (double)kern_gemm_leaves(g);
    double block = depth * (rows * columns + s->cost_a * rows + s->cost_b * columns) + COST_BLOCK;
    double turns = (double)ceil_div(blocks, 2); // most machines that train have an even number of cores
    return block * (turns + 1.0 / 32);
}

struct kern_gemm_cut kern_gemm_cut(const struct kern_gemm *g, const struct kern_gemm_sizes *s)
{
    struct kern_gemm_cut cut = {.tiles = ceil_div(g->m, s->mr), .panels = ceil_div(g->n, s->nr)};
    if (cut.tiles == 0 || cut.panels == 0)
        return cut;

    size_t rows_min = ceil_div(cut.tiles, s->mc / s->mr), columns_min = ceil_div(cut.panels, s->nc / s->nr);
    size_t columns_max = columns_min + COLUMNS_MORE < cut.panels ? columns_min + COLUMNS_MORE : cut.panels;
    double best = 0.0;
    for (size_t columns = columns_min; columns <= columns_max; columns++) {
        for (size_t rows = rows_min; rows <= cut.tiles && (rows == rows_min || rows * columns <= BLOCKS_MAX); rows++) {
            double time = estimate(g, s, ceil_div(cut.tiles, rows), ceil_div(cut.panels, columns), rows * columns);
            if (cut.rows != 0 && time >= best)
                continue;
            best = time;
            cut.rows = rows;
            cut.columns = columns;
        }
    }

    size_t depth = 0; // of the longest leaf
    for (size_t leaf = 0; leaf < 2 && leaf < kern_gemm_leaves(g); leaf++) {
        size_t length = kern_gemm_leaf_begin(g, leaf + 1) - kern_gemm_leaf_begin(g, leaf);
        depth = length > depth ? length : depth;
    }
    size_t passes = depth ? ceil_div(depth, s->kc) : 1;
    cut.kc = ceil_div(ceil_div(depth, passes), 16) * 16; // whole vectors, so that packing has one short end
    return cut;
}
