// What a grammar must be, against plain readings: sets grown until they grow no more, over random rules.
#include "base/mem.h"
#include "serve/grammar_int.h"

#include <string.h>

#include <stdarg.h>
#include <setjmp.h>
#include <cmocka.h>

enum { RULES = 9, ALTERNATIVES = 3, ELEMENTS = 3, BYTE = RULES };

struct rules {
    uint32_t count, alternatives[RULES], length[RULES][ALTERNATIVES], at[RULES][ALTERNATIVES][ELEMENTS];
};

static uint32_t below(uint64_t *random, uint32_t n)
{
    *random = *random * 6364136223846793005u + 1442695040888963407u;
    return (uint32_t)(*random >> 33) % n;
}

static void draw_rules(struct rules *x, uint64_t *random)
{
    *x = (struct rules){.count = 1 + below(random, RULES)};
    for (uint32_t r = 0; r < x->count; r++) {
        x->alternatives[r] = below(random, 12) ? 1 + below(random, ALTERNATIVES) : 0;
        for (uint32_t a = 0; a < x->alternatives[r]; a++) {
            x->length[r][a] = below(random, ELEMENTS + 1);
            for (uint32_t i = 0; i < x->length[r][a]; i++)
                x->at[r][a][i] = below(random, 3) ? below(random, x->count) : BYTE;
        }
    }
}

static struct grammar_text text_of(const struct rules *x)
{
    struct grammar_text g = {0};
    for (uint32_t r = 0; r < x->count; r++)
        grammar_rule_new(&g);
    for (uint32_t r = 0; r < x->count; r++)
        for (uint32_t a = 0; a < x->alternatives[r]; a++) {
            struct grammar_sequence s = {0};
            for (uint32_t i = 0; i < x->length[r][a]; i++)
                if (x->at[r][a][i] == BYTE)
                    grammar_add_text(&g, &s, "a", 1);
                else
                    grammar_add_rule(&s, x->at[r][a][i]);
            grammar_add_alternative(&g, r, &s);
        }
    return g;
}

static bool all_in(const struct rules *x, const bool *in, uint32_t r, uint32_t a)
{
    for (uint32_t i = 0; i < x->length[r][a]; i++)
        if (!in[x->at[r][a][i]])
            return false;
    return true;
}

static void grow(const struct rules *x, bool *in) // in[BYTE] is given
{
    for (int round = 0; round <= RULES; round++)
        for (uint32_t r = 0; r < x->count; r++)
            for (uint32_t a = 0; a < x->alternatives[r]; a++)
                in[r] |= all_in(x, in, r, a);
}

static bool has_circle(const struct rules *x)
{
    bool empty[RULES + 1] = {false}, begins[RULES][RULES] = {{false}};
    grow(x, empty);
    for (uint32_t r = 0; r < x->count; r++)
        for (uint32_t a = 0; a < x->alternatives[r]; a++)
            for (uint32_t i = 0; i < x->length[r][a] && x->at[r][a][i] != BYTE; i++) {
                begins[r][x->at[r][a][i]] = true;
                if (!empty[x->at[r][a][i]])
                    break;
            }
    for (uint32_t k = 0; k < x->count; k++)
        for (uint32_t i = 0; i < x->count; i++)
            for (uint32_t j = 0; j < x->count; j++)
                begins[i][j] |= begins[i][k] && begins[k][j];
    for (uint32_t r = 0; r < x->count; r++)
        if (begins[r][r])
            return true;
    return false;
}

static void check_dropped(const struct rules *x, const struct grammar_text *g, const bool *ends)
{
    for (uint32_t r = 0; r < x->count; r++) {
        uint32_t kept = 0;
        for (uint32_t a = 0; a < x->alternatives[r]; a++)
            kept += all_in(x, ends, r, a);
        assert_int_equal(g->rules[r].alt_count, kept);
        for (uint32_t a = 0; a < kept; a++)
            for (const struct grammar_element *e = g->elements + g->rules[r].alt[a]; e->kind != GRAMMAR_END; e++)
                assert_true(e->kind == GRAMMAR_CLASS || ends[e->index]);
    }
}

static void random_rules(void **state)
{
    uint64_t random = 3;
    uint32_t outcomes[3] = {0};
    (void)state;
    for (int round = 0; round < 30000; round++) {
        struct rules x;
        struct bg_error err = {0};
        bool ends[RULES + 1] = {[BYTE] = true};
        draw_rules(&x, &random);
        grow(&x, ends);
        const char *why = has_circle(&x) ? "begins with itself" : ends[0] ? "" : "never ends";
        struct grammar_text g = text_of(&x);
        const bg_status status = grammar_check(&g, 0, &err);
        assert_int_equal(status, *why ? BG_INVALID : BG_OK);
        assert_non_null(strstr(err.text, why));
        if (!status)
            check_dropped(&x, &g, ends);
        outcomes[*why == 'b' ? 0 : *why == 'n' ? 1 : 2]++;
        grammar_text_fini(&g);
    }
    for (size_t i = 0; i < 3; i++)
        assert_true(outcomes[i] > 300);
}

// A chain whose end is known only at its last rule, and one as long that never ends.
static void long_chains(void **state)
{
    enum { LONG = 100000 };
    (void)state;
    for (int ends = 0; ends < 2; ends++) {
        struct grammar_text g = {0};
        struct bg_error err = {0};
        for (uint32_t r = 0; r <= LONG; r++)
            grammar_rule_new(&g);
        for (uint32_t r = 0; r <= LONG; r++) {
            struct grammar_sequence s = {0};
            grammar_add_text(&g, &s, "a", ends ? 0 : 1);
            if (r < LONG || !ends)
                grammar_add_rule(&s, r < LONG ? r + 1 : LONG / 2);
            grammar_add_alternative(&g, r, &s);
        }
        assert_int_equal(grammar_check(&g, 0, &err), ends ? BG_OK : BG_INVALID);
        grammar_text_fini(&g);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(random_rules),
        cmocka_unit_test(long_chains),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
