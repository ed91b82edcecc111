// The assignment of greatest weight: one column for every row, no column twice. The algorithm of Kuhn and Munkres
// ("The Hungarian method for the assignment problem", 1955) with potentials, rows added one by one: O(rows^2 columns).
// SpotServe maps machines to positions with it (Miao et al., ASPLOS'24, section 3.3).
#ifndef PLAN_ASSIGN_H
#define PLAN_ASSIGN_H

#include <stdint.h>

// weight: (rows, columns), finite, rows <= columns; column_of: (rows). Returns the sum of the weights chosen. Of equal
// assignments it always takes the same one.
double plan_assign(const double *weight, uint32_t rows, uint32_t columns, uint32_t *column_of);

#endif
