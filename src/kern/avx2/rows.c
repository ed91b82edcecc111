// The row kernels for AVX2: norms, activations, loss, optimizer. The bodies are shared (simd/), the vector is this
// ISA's; attention has a file of its own. Built with this ISA's flags, so nothing here may run before kern_select.
#include "kern/simd/elementwise.h"
#include "kern/simd/loss.h"
#include "kern/simd/norm.h"
#include "kern/simd/optim.h"
