// Kuhn-Munkres by shortest augmenting paths over reduced costs; a cost is a weight with its sign turned.
#include "plan/service/assign.h"

#include "base/assert.h"
#include "base/mem.h"

#include <math.h>
#include <stdbool.h>
#include <string.h>

// Row and column 0 are not there; row_of[0] is the row that looks for a column.
struct search {
    const double *weight;
    uint32_t rows, columns;
    double *row_potential, *column_potential; // (rows + 1), (columns + 1)
    uint32_t *row_of, *came_from;             // (columns + 1): the row that has it; the column before it on the path
    double *slack;                            // (columns + 1): the least reduced cost from the rows reached
    bool *reached;                            // (columns + 1)
};

// Reaches one more column, over the cheapest edge out of what is reached: returns it.
static uint32_t reach(struct search *s, uint32_t from)
{
    const uint32_t row = s->row_of[from];
    double least = INFINITY;
    uint32_t next = 0;
    s->reached[from] = true;
    for (uint32_t j = 1; j <= s->columns; j++) {
        if (s->reached[j])
            continue;
        const double cost = -s->weight[(size_t)(row - 1) * s->columns + j - 1];
        const double reduced = cost - s->row_potential[row] - s->column_potential[j];
        if (reduced < s->slack[j]) {
            s->slack[j] = reduced;
            s->came_from[j] = from;
        }
        if (s->slack[j] < least) {
            least = s->slack[j];
            next = j;
        }
    }
    BG_ASSERT(next > 0);
    for (uint32_t j = 0; j <= s->columns; j++) {
        if (s->reached[j]) {
            s->row_potential[s->row_of[j]] += least;
            s->column_potential[j] -= least;
        } else {
            s->slack[j] -= least;
        }
    }
    return next;
}

static void give_a_column(struct search *s, uint32_t row)
{
    for (uint32_t j = 0; j <= s->columns; j++) {
        s->slack[j] = INFINITY;
        s->reached[j] = false;
    }
    s->row_of[0] = row;
    uint32_t column = 0;
    do
        column = reach(s, column);
    while (s->row_of[column]);
    for (uint32_t before; column; column = before) { // everyone on the path moves one on
        before = s->came_from[column];
        s->row_of[column] = s->row_of[before];
    }
}

double plan_assign(const double *weight, uint32_t rows, uint32_t columns, uint32_t *column_of)
{
    BG_ASSERT(rows <= columns);
    struct search s = {.weight = weight, .rows = rows, .columns = columns};
    s.row_potential = bg_alloc_array(rows + (size_t)1, sizeof *s.row_potential);
    s.column_potential = bg_alloc_array(columns + (size_t)1, sizeof *s.column_potential);
    s.row_of = bg_alloc_array(columns + (size_t)1, sizeof *s.row_of);
    s.came_from = bg_alloc_array(columns + (size_t)1, sizeof *s.came_from);
    s.slack = bg_alloc_array(columns + (size_t)1, sizeof *s.slack);
    s.reached = bg_alloc_array(columns + (size_t)1, sizeof *s.reached);
    for (uint32_t row = 1; row <= rows; row++)
        give_a_column(&s, row);
    double sum = 0;
    for (uint32_t j = 1; j <= columns; j++) {
        if (s.row_of[j]) {
            column_of[s.row_of[j] - 1] = j - 1;
            sum += weight[(size_t)(s.row_of[j] - 1) * columns + j - 1];
        }
    }
    bg_free(s.row_potential);
    bg_free(s.column_potential);
    bg_free(s.row_of);
    bg_free(s.came_from);
    bg_free(s.slack);
    bg_free(s.reached);
    return sum;
}
