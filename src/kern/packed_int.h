// Inside the room: where the panels of a packed weight lie.
#ifndef KERN_PACKED_INT_H
#define KERN_PACKED_INT_H

#include "kern/kern.h"

size_t kern_panel_bytes(enum kern_weight type, size_t k);
float kern_half_widen(uint16_t half);
uint16_t kern_half_round(float x); // to nearest, ties to even

// packed_gemm of KERN_INT8.
void kern_ref_int8_gemm(const struct kern_packed_gemm *g, size_t panel);
void kern_avx2_int8_gemm(const struct kern_packed_gemm *g, size_t panel, void *scratch);
void kern_avx512_int8_gemm(const struct kern_packed_gemm *g, size_t panel, void *scratch);
void kern_vnni_int8_gemm(const struct kern_packed_gemm *g, size_t panel, void *scratch);

enum { KERN_PACK_K = 128 };       // inputs of a panel that are in the first cache at once
enum { KERN_PAGED_QUERIES = 16 }; // query rows of one head that an item of paged attention takes

struct kern_paged_part { // of paged attention, an item's
    size_t head, heads;  // that have keys
    size_t query, queries;
};
struct kern_paged_part kern_paged_part(const struct kern_paged *a, size_t item);

#endif
