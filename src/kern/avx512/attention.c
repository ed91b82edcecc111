// Attention for AVX-512: forward and backward over register tiles (simd/attention.h). In a file of its own because
// its tiles are most of the room's code. Built with this ISA's flags: nothing here may run before kern_select.
#include "kern/simd/attention.h"
