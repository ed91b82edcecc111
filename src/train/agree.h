// Two tables of kernels on the same operands: a short check of a machine, for doctor. The tests of kern/ go over many
// more shapes; this one runs where they do not.
#ifndef TRAIN_AGREE_H
#define TRAIN_AGREE_H

#include "kern/kern.h"

// The kernels whose bits differ, by what they do; the first of them. NULL: none do. Takes some 10 ms.
const char *kernels_differ(const struct kern *ref, const struct kern *other);

#endif
