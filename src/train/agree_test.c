// What doctor asks of kernels: every table of this machine agrees with the reference, and one wrong bit anywhere is
// noticed and named.
#include "train/agree.h"

#include "os/live.h"

#include <setjmp.h>
#include <stdarg.h>
#include <string.h>
#include <cmocka.h>

static void tables_agree(void **state)
{
    (void)state;
    struct bg_error err;
    struct bg_env *env = NULL;
    const struct kern *tables[KERN_TABLES];
    assert_int_equal(os_env_create(&(struct os_options){.threads = 1, .keep_caller = true}, &err, &env), BG_OK);
    const size_t count = kern_tables(env->isa, tables);
    for (size_t i = 0; i < count; i++) {
        const char *differ = kernels_differ(tables[0], tables[i]);
        if (differ)
            fail_msg("%s: %s", tables[i]->isa, differ);
    }
    os_env_destroy(env);
}

// ---- Negative controls: the reference with one wrong bit ----

static const struct kern *ref;

static void flip(void *number)
{
    *(unsigned char *)number ^= 1;
}

static void wrong_gemm(const struct kern_gemm *g, size_t block, void *scratch)
{
    ref->gemm_block(g, block, scratch);
    if (g->op == KERN_TN && block + 1 == ref->gemm_blocks(g))
        flip(g->c + g->m * g->n - 1);
}

static void wrong_norm(float *out, float *rstd, const float *x, const float *gamma, float eps, size_t rows, size_t dim)
{
    ref->rms_norm(out, rstd, x, gamma, eps, rows, dim);
    flip(out + dim - 1);
}

static enum kern_weight wrong_type;

static void wrong_packed(const struct kern_packed_gemm *g, size_t panel, void *scratch)
{
    ref->packed_gemm(g, panel, scratch);
    if (g->w->type == wrong_type && panel == 1)
        flip(g->c + g->m * g->ldc - 1);
}

static void wrong_quantise(struct kern_quantised *out, const float *x, size_t n)
{
    ref->quantise(out, x, n);
    out[0].q[n % 31] ^= 1;
}

static bool wrong_half, wrong_many;
static size_t wrong_together;

static void wrong_paged(const struct kern_paged *a, size_t item, void *scratch)
{
    ref->paged(a, item, scratch);
    if (item == 0 && a->half == wrong_half && (a->queries > 1) == wrong_many && a->together == wrong_together)
        flip(a->out);
}

static void wrong_f16(uint16_t *out, const float *in, size_t n)
{
    ref->to_f16(out, in, n);
    flip(out + 15);
}

static void differs_in(const struct kern *wrong, const char *what)
{
    const char *differ = kernels_differ(ref, wrong);
    assert_non_null(differ);
    assert_string_equal(differ, what);
}

static void one_wrong_bit_is_named(void **state)
{
    (void)state;
    ref = kern_select(0);
    struct kern wrong = *ref;
    wrong.gemm_block = wrong_gemm;
    differs_in(&wrong, "products");
    wrong = *ref;
    wrong.rms_norm = wrong_norm;
    differs_in(&wrong, "norms");
    wrong = *ref;
    wrong.packed_gemm = wrong_packed;
    for (wrong_type = KERN_F32; wrong_type <= KERN_INT8; wrong_type++)
        differs_in(&wrong, wrong_type < KERN_INT8 ? "products with packed weights" : "products of int8/1");
    wrong = *ref;
    wrong.quantise = wrong_quantise;
    differs_in(&wrong, "products of int8/1");
    wrong = *ref;
    wrong.paged = wrong_paged;
    for (unsigned form = 0; form < 8; form++) {
        wrong_half = form & 1, wrong_many = form & 2, wrong_together = form & 4 ? 2 : 1;
        differs_in(&wrong, "attention over pages");
    }
    wrong = *ref;
    wrong.to_f16 = wrong_f16;
    differs_in(&wrong, "attention over pages");
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(tables_agree),
        cmocka_unit_test(one_wrong_bit_is_named),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
