// Every kernel but the GEMM and products with packed weights: the list from which the implementations are declared and
// the tables are filled. The signatures live in struct kern alone. A new kernel: a member there, a line here, one
// function in ref/ and in simd/.
#ifndef KERN_ROWS_INT_H
#define KERN_ROWS_INT_H

#include "kern/kern.h"

#define KERN_EACH_ROW(X, isa)                                                                                          \
    X(isa, rms_norm)                                                                                                   \
    X(isa, rms_norm_grad)                                                                                              \
    X(isa, layer_norm)                                                                                                 \
    X(isa, layer_norm_grad)                                                                                            \
    X(isa, norm_weight_grad)                                                                                           \
    X(isa, column_sum)                                                                                                 \
    X(isa, rope)                                                                                                       \
    X(isa, attention_scratch)                                                                                          \
    X(isa, attention_items)                                                                                            \
    X(isa, attention)                                                                                                  \
    X(isa, attention_grad_scratch)                                                                                     \
    X(isa, attention_grad_items)                                                                                       \
    X(isa, attention_grad)                                                                                             \
    X(isa, quantise)                                                                                                   \
    X(isa, packed_scratch)                                                                                             \
    X(isa, paged_items)                                                                                                \
    X(isa, paged_scratch)                                                                                              \
    X(isa, paged)                                                                                                      \
    X(isa, swiglu)                                                                                                     \
    X(isa, swiglu_grad)                                                                                                \
    X(isa, gelu)                                                                                                       \
    X(isa, gelu_grad)                                                                                                  \
    X(isa, add)                                                                                                        \
    X(isa, dropout)                                                                                                    \
    X(isa, embed)                                                                                                      \
    X(isa, cross_entropy)                                                                                              \
    X(isa, softmax)                                                                                                    \
    X(isa, sum_squares)                                                                                                \
    X(isa, block_squares)                                                                                              \
    X(isa, adamw)                                                                                                      \
    X(isa, to_f16)                                                                                                     \
    X(isa, from_f16)                                                                                                   \
    X(isa, from_bf16)                                                                                                  \
    X(isa, fma_burst)

#define KERN_DECLARE(isa, name) __typeof__(*((struct kern *)0)->name) kern_##isa##_##name;

KERN_EACH_ROW(KERN_DECLARE, ref)
KERN_EACH_ROW(KERN_DECLARE, avx2)
KERN_EACH_ROW(KERN_DECLARE, avx512)

// Products with packed weights have a fourth form: AVX-512 with VNNI.
KERN_DECLARE(ref, packed_gemm)
KERN_DECLARE(avx2, packed_gemm)
KERN_DECLARE(avx512, packed_gemm)
KERN_DECLARE(vnni, packed_gemm)

#define KERN_QUERY_BLOCK   64   // rows of NUMERICS 6 and 7
#define KERN_SQUARES_BLOCK 4096 // elements of NUMERICS 12

#endif
