// Which vector instructions this CPU and its kernel let us use (cpuid for the CPU, XCR0 for the registers that
// the kernel saves), cut down by BRIGADE_ISA so that tests can compare kernels on one machine.
#include "os/live_int.h"

#include "base/str.h"

#include <stdlib.h>
#include <string.h>

#if defined(__x86_64__)
#include <cpuid.h>

enum { BIT_FMA = 1 << 12, BIT_OSXSAVE = 1 << 27, BIT_F16C = 1 << 29 };                              // leaf 1, ecx
enum { BIT_AVX2 = 1 << 5, BIT_AVX512F = 1 << 16, BIT_AVX512DQ = 1 << 17 };                          // leaf 7, ebx
enum { BIT_AVX512BW = 1 << 30, XCR0_YMM = 0x06, XCR0_ZMM = 0xe6 };                                  // leaf 7, ebx; XCR0
enum { BIT_VNNI = 1 << 11 };                                                                        // leaf 7, ecx
static const unsigned avx512_bits = (unsigned)BIT_AVX512F | BIT_AVX512DQ | BIT_AVX512BW | 1u << 31; // bit 31: VL

static unsigned cpu_isa(void)
{
    unsigned a = 0, b = 0, c = 0, d = 0, isa = BG_ISA_REF;
    if (!__get_cpuid(1, &a, &b, &c, &d))
        return isa;
    const unsigned needed = BIT_FMA | BIT_OSXSAVE | BIT_F16C;
    if ((c & needed) != needed || !__get_cpuid_count(7, 0, &a, &b, &c, &d))
        return isa;
    unsigned xcr0 = 0, xcr0_high = 0;
    __asm__ volatile("xgetbv" : "=a"(xcr0), "=d"(xcr0_high) : "c"(0));
    if ((xcr0 & XCR0_YMM) == XCR0_YMM && (b & BIT_AVX2))
        isa |= BG_ISA_AVX2;
    if (isa && (xcr0 & XCR0_ZMM) == XCR0_ZMM && (b & avx512_bits) == avx512_bits)
        isa |= BG_ISA_AVX512 | (c & BIT_VNNI ? BG_ISA_VNNI : 0u);
    return isa;
}
#else
static unsigned cpu_isa(void)
{
    return BG_ISA_REF;
}
#endif

bg_status os_isa_select(struct bg_error *err, unsigned *isa)
{
    enum { NAMES = 4 };
    static const char *const names[NAMES] = {"ref", "avx2", "avx512", "avx512vnni"};
    static const unsigned masks[NAMES] = {BG_ISA_REF, BG_ISA_AVX2, BG_ISA_AVX2 | BG_ISA_AVX512,
                                          BG_ISA_AVX2 | BG_ISA_AVX512 | BG_ISA_VNNI};
    const unsigned has = cpu_isa();
    const char *word = getenv("BRIGADE_ISA");
    if (!word || !*word) {
        *isa = has;
        return BG_OK;
    }
    const char *best = names[0];
    for (size_t i = 0; i < NAMES; i++)
        best = (has & masks[i]) == masks[i] ? names[i] : best;
    for (size_t i = 0; i < NAMES; i++) {
        if (strcmp(word, names[i]) != 0)
            continue;
        if ((has & masks[i]) != masks[i])
            return bg_fail(err, BG_UNSUPPORTED,
                           "BRIGADE_ISA=%s: this CPU (or its kernel) does not have it, the best here is %s; unset "
                           "BRIGADE_ISA or set it to that",
                           word, best);
        *isa = masks[i];
        return BG_OK;
    }
    const char *near = bg_nearest(word, names, NAMES);
    return bg_fail(err, BG_INVALID, "BRIGADE_ISA=%s: expected ref, avx2, avx512 or avx512vnni%s%s%s", word,
                   near ? "; did you mean " : "", near ? near : "", near ? "?" : "");
}
