// The tables of kernels and the choice between them; and the floating-point state every kernel assumes. A table is
// constant data: each ISA implements every kernel, bit-equal to ref.
#include "kern/kern.h"
#include "kern/gemm_int.h"
#include "kern/rows_int.h"
#include "base/env.h"

#include <immintrin.h>

#define ROW_ENTRY(prefix, name) .name = kern_##prefix##_##name,
#define TABLE(name, rows, packed)                                                                                      \
    {                                                                                                                  \
        .isa = name, .gemm_blocks = kern_##rows##_gemm_blocks, .gemm_scratch = kern_##rows##_gemm_scratch,             \
        .gemm_block = kern_##rows##_gemm_block, .packed_gemm = kern_##packed##_packed_gemm,                            \
        KERN_EACH_ROW(ROW_ENTRY, rows)                                                                                 \
    }

static const struct kern table_ref = TABLE("ref", ref, ref);
static const struct kern table_avx2 = TABLE("avx2", avx2, avx2);
static const struct kern table_avx512 = TABLE("avx512", avx512, avx512);
static const struct kern table_vnni = TABLE("avx512vnni", avx512, vnni);

const struct kern *kern_select(unsigned isa_bits)
{
    const struct kern *tables[KERN_TABLES];
    size_t count = kern_tables(isa_bits, tables);
    return tables[count - 1];
}

size_t kern_tables(unsigned isa_bits, const struct kern *tables[KERN_TABLES])
{
    size_t count = 0;
    tables[count++] = &table_ref;
    if (isa_bits & BG_ISA_AVX2) {
        tables[count++] = &table_avx2;
    }
    if (isa_bits & BG_ISA_AVX512) {
        tables[count++] = &table_avx512;
        if (isa_bits & BG_ISA_VNNI)
            tables[count++] = &table_vnni;
    }
    return count;
}

#define MXCSR_DEFAULT 0x1f80u // round to nearest, exceptions masked, no flush to zero, no denormals as zero

uint32_t kern_fp_enter(void)
{
    uint32_t old = _mm_getcsr();
    _mm_setcsr(MXCSR_DEFAULT);
    return old;
}

void kern_fp_leave(uint32_t old)
{
    _mm_setcsr(old);
}
