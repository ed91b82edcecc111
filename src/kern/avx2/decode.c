// The kernels of decoding for AVX2: products with packed weights, inputs quantised, attention over pages. Built with
// this ISA's flags: nothing here may run before kern_select.
#include "kern/simd/packed.h"
#include "kern/simd/paged.h"
#include "kern/simd/quantise.h"
