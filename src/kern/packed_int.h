// Inside the room: where the panels of a packed weight lie.
#ifndef KERN_PACKED_INT_H
#define KERN_PACKED_INT_H

#include "kern/kern.h"

size_t kern_panel_bytes(enum kern_weight type, size_t k);
float kern_half_widen(uint16_t half);

// One panel of a product with KERN_INT8 (packed_gemm's case of it).
void kern_ref_int8_gemm(const struct kern_packed_gemm *g, size_t panel);

enum { KERN_PACK_K = 128 };       // inputs of a panel that are in the first cache at once
enum { KERN_PAGED_QUERIES = 16 }; // query rows of one head that an item of paged attention takes

#endif
