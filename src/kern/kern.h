// The compute kernels: one table of functions per ISA, all bit-equal (NUMERICS). The caller passes ISA bits,
// cuts the work (rows, items, blocks) and hands out scratch; kernels allocate nothing, log nothing, start no
// threads. ref/ is plain C and defines the bits; simd/ is written once over a 16-float vector and compiled for
// AVX2 and AVX-512.
//
// Conventions: outputs before inputs; every tensor is dense row-major with its shape in a comment; `rows` are
// independent unless a comment names the chain. "acc" = if true the result is added to what the output holds
// (result + old, one rounded addition: a node of the canonical tree). "segments": rows are `segments` runs of equal
// length (micro-batches, an aligned power-of-two group or its cut at M); each run is one leaf chain and the leaves are
// joined by the canonical tree (NUMERICS 9), so the output is the node's value.
#ifndef KERN_KERN_H
#define KERN_KERN_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

enum kern_gemm_op {
    KERN_NT, // C (m,n) = A (m,k) B (n,k)^T      forward of a Linear (out,in) weight
    KERN_NN, // C (m,n) = A (m,k) B (k,n)        its input gradient; forward of a Conv1D (in,out) weight
    KERN_TN, // C (m,n) = A (k,m)^T B (k,n)      weight gradients; k = tokens
};

// C[i,j]: acc = +0; k ascending acc = fmaf(a, b, acc); + bias[j]; + old C if accumulate. (NUMERICS 4)
struct kern_gemm {
    enum kern_gemm_op op;
    size_t m, n, k; // TN with segments: k rows per segment, segment s starts at row s*k of A and of B
    float *c;
    size_t ldc;
    const float *a;
    size_t lda;
    const float *b;
    size_t ldb;
    const float *bias; // (n) or NULL
    bool accumulate;
    size_t segments; // TN: >= 1, joined by the canonical tree; NT, NN: 1
};

// ---- Decoding: weights packed once, keys and values in pages ----
enum kern_weight {
    KERN_F32,
    KERN_Q8_0, // per output and 32 inputs: an F16 d and 32 signed bytes q; the weight is the float q * d
    KERN_Q4_0, // the same with 4 bits: (q - 8) * d
    KERN_INT8, // d and q of Q8_0, multiplied as integers with quantised inputs: class int8/1 (docs/numerics.md)
};
enum { KERN_PANEL = 64, KERN_QUANT = 32, KERN_PAGE = 16 };

// The weight (n, k) of a linear layer in panels of KERN_PANEL outputs, one after the other; outputs beyond n are zero.
// F32: float[k][64]. Quantised: for every 32 inputs uint16_t d[64], then int8_t q[32][64] or uint8_t q[16][64] (low
// half: input i, high half: input 16 + i); INT8: uint8_t q[8][64][4], input 4 i + j of an output at [i][output][j],
// plus 128. 64-byte aligned.
struct kern_packed {
    enum kern_weight type;
    size_t n, k;
    const void *data;
};
size_t kern_packed_bytes(enum kern_weight type, size_t n, size_t k);
size_t kern_packed_panels(size_t n);
// Panels [first, end) from fp32 weights: (n, k), or (k, n) where `conv`, rows `ld` floats apart. Quantises as GGML
// does: d = largest magnitude / 127 (Q8_0), or the number of largest magnitude / -8 (Q4_0); q = number / d, halves away
// from zero; d to F16.
void kern_pack(void *data, enum kern_weight type, size_t n, size_t k, const float *weights, size_t ld, bool conv,
               size_t first, size_t end);
// The same from n rows of blocks as GGUF stores them: F16 d, then 32 (Q8_0) or 16 (Q4_0) bytes. Blocks of INT8 are
// those of Q8_0.
void kern_pack_blocks(void *data, enum kern_weight type, size_t n, size_t k, const void *blocks, size_t first,
                      size_t end);
// fp32 numbers of `count` such blocks, and such blocks of fp32 numbers, quantised as kern_pack does.
void kern_widen_blocks(float *out, enum kern_weight type, const void *blocks, size_t count);
void kern_quantise_blocks(void *blocks, enum kern_weight type, const float *x, size_t count);
size_t kern_block_bytes(enum kern_weight type);

// 32 inputs of one row as products with KERN_INT8 read them: input i is about q[i] * d. With m their largest magnitude:
// d = m / 127, q = x * (1 / d) to the nearest integer, ties to even. Below m = 2^-100 all are 0; with an infinity or a
// NaN among them d is NaN and all q are 0.
struct kern_quantised {
    float d;
    int32_t offset; // -128 times the sum of q: weights are stored plus 128
    int8_t q[KERN_QUANT];
};

// C (m, n) = A (m, k) W^T + bias: rule 4, whatever m. INT8, for every output: acc = +0; for blocks of 32 inputs
// ascending acc = fmaf((float)sum of q q', d d', acc), the sum an integer, exact in either form; + bias.
struct kern_packed_gemm {
    float *c;
    size_t ldc;
    const float *a;
    size_t lda, m;
    const struct kern_packed *w;
    const float *bias;                      // (n) or NULL
    const struct kern_quantised *quantised; // (m, k / 32), in place of a: INT8
};

// Attention of the last `queries` positions of one sequence over its pages. A page holds, for one layer, keys
// (kv_heads, head_dim, 16) and values (kv_heads, 16, head_dim) of 16 positions, in fp32 or (class int8/1) in F16, which
// is widened as it is read.
struct kern_paged {
    size_t queries, position; // query r has position `position` + r and sees keys 0 .. position + r
    size_t heads, kv_heads, head_dim;
    float scale;
    float *out; // (queries, heads * head_dim) by o_stride
    size_t o_stride;
    const float *q; // (queries, heads * head_dim) by q_stride
    size_t q_stride;
    const void *keys, *values; // of page 0
    const uint32_t *pages;     // which hold positions 0..15, 16..31, ..
    size_t page_stride;        // numbers between pages
    bool half;                 // they are F16
    size_t together;           // heads with keys that an item takes; 0: 1. It shows in no bit
};

// One work item's rows in attention. Head h of a row lives at row + h*head_dim.
struct kern_attention {
    size_t sequences, queries,
        keys; // queries of a sequence are its last `queries` positions of `keys`; training: equal
    size_t heads, kv_heads, head_dim;
    size_t q_stride, k_stride, v_stride, o_stride; // floats between rows
    size_t kv_sequence_stride;                     // floats between sequences of k and of v
    float scale;                                   // (float)(1/sqrt(head_dim))
    float *out;                                    // (sequences, queries, heads*head_dim) by o_stride
    float *row_max, *row_sum;                      // (sequences, heads, queries) each; NULL when no backward follows
    const float *q, *k, *v;                        // q (sequences, queries, ..), k, v (sequences, keys, ..)
};

struct kern_attention_grad {
    struct kern_attention fwd; // as in the forward; out, row_max, row_sum are inputs here
    float *dq, *dk, *dv;       // strides q_stride, k_stride, v_stride like q, k, v; overwritten
    const float *dout;         // (.., heads*head_dim) by o_stride
    // Positions whose dq, dk and dv are made, a slice of the sequence: multiples of 64, or end = keys. 0, 0: all. With
    // a slice queries = keys; q, out, dout and the statistics are read from `first` on, k and v up to `end`.
    size_t first, end;
};

struct kern_adamw {
    float lr, beta1, beta2, one_minus_beta1, one_minus_beta2;
    float correction1, correction2; // (float)(1/(1-b^t))
    float eps, weight_decay, clip;  // weight_decay 0 for tensors without; clip = c of NUMERICS 12
};

struct kern_dropout { // keep element e (index in the micro-batch tensor) iff uniform(philox word e%4 of counter) >=
                      // rate
    uint32_t key[2];
    uint32_t step, micro_batch, op; // op: global layer and op id
    float rate, scale;              // scale = (float)(1/(1-rate))
};
// counter words: {element/4, micro_batch, step, op}

struct kern {
    const char *isa; // "ref", "avx2", "avx512", "avx512vnni": as BRIGADE_ISA names them

    // GEMM: cut into gemm_blocks(g) independent blocks; each needs gemm_scratch(g) bytes, 64-byte aligned. They depend
    // on op, m, n, k, segments alone and grow with each: scratch for the largest product will do for smaller ones.
    size_t (*gemm_blocks)(const struct kern_gemm *g);
    size_t (*gemm_scratch)(const struct kern_gemm *g);
    void (*gemm_block)(const struct kern_gemm *g, size_t block, void *scratch);

    // Norms. x, out, dout, dx: (rows, dim); mean, rstd: (rows), NULL in the forward if not wanted. dx (+)= with acc.
    void (*rms_norm)(float *out, float *rstd, const float *x, const float *gamma, float eps, size_t rows, size_t dim);
    void (*rms_norm_grad)(float *dx, const float *dout, const float *x, const float *gamma, const float *rstd,
                          size_t rows, size_t dim, bool acc);
    void (*layer_norm)(float *out, float *mean, float *rstd, const float *x, const float *gamma, const float *beta,
                       float eps, size_t rows, size_t dim);
    void (*layer_norm_grad)(float *dx, const float *dout, const float *x, const float *gamma, const float *mean,
                            const float *rstd, size_t rows, size_t dim, bool acc);
    // Column sums: one chain over rows ascending per segment, for columns [col0, col1). rows counts one segment.
    // dgamma (dim) = sum dout * xhat; dbeta (dim) = sum dout. mean NULL: RMSNorm (xhat = x*rstd).
    void (*norm_weight_grad)(float *dgamma, float *dbeta, const float *dout, const float *x, const float *mean,
                             const float *rstd, size_t rows, size_t dim, size_t segments, size_t col0, size_t col1,
                             bool acc);
    void (*column_sum)(float *out, const float *x, size_t rows, size_t dim, size_t segments, size_t col0, size_t col1,
                       bool acc); // bias gradients; x rows are `dim` apart

    // Rotary embedding in place, Hugging Face half-split: x (rows, heads, head_dim) with rows `stride` apart; row r
    // has position positions0 + r % period. cos, sin: (context, head_dim/2). inverse for the backward.
    void (*rope)(float *x, const float *cos, const float *sin, size_t rows, size_t stride, size_t heads,
                 size_t head_dim, size_t position0, size_t period, bool inverse);

    // Attention. forward items: sequences * heads * ceil(queries/64); backward items: sequences * kv_heads.
    size_t (*attention_scratch)(const struct kern_attention *a);
    size_t (*attention_items)(const struct kern_attention *a);
    void (*attention)(const struct kern_attention *a, size_t item, void *scratch);
    size_t (*attention_grad_scratch)(const struct kern_attention *a);
    size_t (*attention_grad_items)(const struct kern_attention *a);
    void (*attention_grad)(const struct kern_attention_grad *a, size_t item, void *scratch);

    // Decoding. packed_gemm: one panel; scratch as packed_scratch says, 64-byte aligned. quantise: of n inputs, a
    // multiple of 32. paged: see kern_paged.
    void (*quantise)(struct kern_quantised *out, const float *x, size_t n);
    size_t (*packed_scratch)(const struct kern_packed_gemm *g);
    void (*packed_gemm)(const struct kern_packed_gemm *g, size_t panel, void *scratch);
    size_t (*paged_items)(const struct kern_paged *a);
    size_t (*paged_scratch)(const struct kern_paged *a); // grows with position and queries
    void (*paged)(const struct kern_paged *a, size_t item, void *scratch);

    // Elementwise over n. The activations' gradients also give the forward's output again (act); every output may take
    // the place of an input.
    void (*swiglu)(float *out, const float *gate, const float *up, size_t n); // silu(gate) * up
    void (*swiglu_grad)(float *dgate, float *dup, float *act, const float *dout, const float *gate, const float *up,
                        size_t n);
    void (*gelu)(float *out, const float *x, size_t n); // tanh form
    void (*gelu_grad)(float *dx, float *act, const float *dout, const float *x, size_t n);
    void (*add)(float *out, const float *a, const float *b, size_t n);
    void (*dropout)(float *x, const struct kern_dropout *d, size_t first,
                    size_t n); // in place; forward and backward alike
    void (*embed)(float *out, const float *table, const float *positions, const int32_t *tokens, size_t rows,
                  size_t dim, size_t position0, size_t period); // positions (context, dim) or NULL

    // Softmax cross-entropy of rows. losses[r] in double. If grad: logits become (softmax - onehot) * scale in place.
    // target < 0: ignored row (loss 0, gradient 0).
    void (*cross_entropy)(double *losses, float *logits, const int32_t *targets, float scale, size_t rows, size_t vocab,
                          bool grad);
    void (*softmax)(float *x, size_t n); // one row in place, NUMERICS 6

    // Optimizer.
    double (*sum_squares)(const float *x,
                          size_t n); // NUMERICS 12: blocks of 4,096, blocks in order. n may be a whole tensor
    void (*block_squares)(double *sums, const float *x,
                          size_t n); // sums[ceil(n/4096)], one per block, for parallel callers
    void (*adamw)(float *w, float *m, float *v, const float *g, size_t n, const struct kern_adamw *o);

    // To the nearest F16, ties to even; beyond 65504 (infinities too) to that. A NaN stays one.
    void (*to_f16)(uint16_t *out, const float *in, size_t n);
    // Widening (exact).
    void (*from_f16)(float *out, const uint16_t *in, size_t n);
    void (*from_bf16)(float *out, const uint16_t *in, size_t n);

    // Register-only multiply-add chains, to measure the peak of a lane: runs `rounds`, returns the flops done.
    uint64_t (*fma_burst)(float sink[16], uint64_t rounds);
};

// The fastest table that the bits (enum bg_isa) allow.
const struct kern *kern_select(unsigned isa_bits);

// Tables that this build holds and `isa_bits` can run, ref first, the fastest last; to compare them all.
enum { KERN_TABLES = 4 };
size_t kern_tables(unsigned isa_bits, const struct kern *tables[KERN_TABLES]);

// Floating-point state of the calling thread: MXCSR 0x1F80 (round to nearest, no FTZ/DAZ). Returns the old value.
uint32_t kern_fp_enter(void);
void kern_fp_leave(uint32_t old);

#endif
