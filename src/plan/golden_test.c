// The published lowerings (PyTorch's pipelining tests), op for op, from ../shared/goldens (or BRIGADE_SHARED); skips
// without. The smallest of them stands here too, so that the suite proves the rule anywhere.
#include "plan/plan.h"

#include "base/mem.h"
#include "base/str.h"

#include <stdarg.h>
#include <setjmp.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <cmocka.h>

enum spelling {
    B_IS_INPUT, // B: input gradient, BW: both (the files of zb1p)
    B_IS_BOTH,  // I: input gradient, B: both (the passes)
    B_AS_TABLE, // B: both where the table has no W of it (the lowering cases)
};

static const char *path_of(const char *name)
{
    static char path[512];
    const char *root = getenv("BRIGADE_SHARED");
    snprintf(path, sizeof path, "%s/goldens/%s", root && *root ? root : BRIGADE_SOURCE_DIR "/../shared", name);
    return path;
}

static char *read_text(const char *name)
{
    FILE *file = fopen(path_of(name), "rb");
    if (!file)
        return NULL;
    struct bg_str text = {0};
    char buffer[4096];
    for (size_t size; (size = fread(buffer, 1, sizeof buffer, file)) > 0;)
        bg_str_add_bytes(&text, buffer, size);
    fclose(file);
    return bg_str_take(&text);
}

// One cell of a table: "" or STAGE NAME ITEM.
static struct plan_op parse(const char *text, enum spelling spelling)
{
    struct plan_op op = {.kind = PLAN_EMPTY};
    if (!*text)
        return op;
    char *end, name[16] = "";
    op.stage = (uint16_t)strtoul(text, &end, 10);
    size_t size = strcspn(end, "0123456789");
    assert_true(size < sizeof name);
    memcpy(name, end, size);
    if (end[size])
        op.item = (uint32_t)strtoul(end + size, NULL, 10);
    if (strcmp(name, "F") == 0)
        op.kind = PLAN_F;
    else if (strcmp(name, "W") == 0)
        op.kind = PLAN_W;
    else if (strcmp(name, "B") == 0 || strcmp(name, "I") == 0 || strcmp(name, "BW") == 0)
        op.kind = PLAN_B;
    else
        fail_msg("an op called %s", text);
    if (op.kind == PLAN_B && (strcmp(name, "BW") == 0 || (spelling == B_IS_BOTH && *name == 'B')))
        op.flags = PLAN_FUSED;
    return op;
}

static char *spell(const struct plan_op *op, enum spelling spelling)
{
    const bool fused = op->flags & PLAN_FUSED;
    const char *name;
    switch (op->kind) {
    case PLAN_F:
        name = "F";
        break;
    case PLAN_B:
        name = spelling == B_IS_BOTH ? (fused ? "B" : "I") : spelling == B_IS_INPUT && fused ? "BW" : "B";
        break;
    case PLAN_W:
        name = "W";
        break;
    case PLAN_SEND:
        name = op->flags & PLAN_GRAD ? "SEND_B" : "SEND_F";
        break;
    case PLAN_RECV:
        name = op->flags & PLAN_GRAD ? "RECV_B" : "RECV_F";
        break;
    default:
        return bg_format("%u%s", op->stage,
                         op->flags & PLAN_REDUCE    ? "REDUCE_GRAD"
                         : op->flags & PLAN_UNSHARD ? "UNSHARD"
                                                    : "RESHARD");
    }
    return bg_format("%u%s%u", op->stage, name, op->item);
}

static char *spell_list(const struct plan_list *list, enum spelling spelling)
{
    struct bg_str text = {0};
    for (size_t i = 0; i < list->count; i++) {
        char *op = spell(&list->ops[i], spelling);
        bg_str_addf(&text, "%s%s", i ? "," : "", op);
        bg_free(op);
    }
    return text.size ? bg_str_take(&text) : bg_strdup("");
}

static struct plan_list parse_list(const char *text, enum spelling spelling)
{
    struct bg_strlist cells = {0};
    struct plan_list list = {0};
    bg_strlist_split(&cells, text, ',');
    for (size_t i = 0; i < cells.count; i++)
        plan_list_add(&list, parse(cells.items[i], spelling));
    bg_strlist_fini(&cells);
    return list;
}

// The whole-backward spelling of a table: its B is both unless it has a W.
static void fuse_without_w(struct plan *plan)
{
    bool any = false;
    for (uint32_t w = 0; w < plan->workers; w++)
        for (size_t i = 0; i < plan->lists[w].count; i++)
            any |= plan->lists[w].ops[i].kind == PLAN_W;
    for (uint32_t w = 0; w < plan->workers && !any; w++)
        for (size_t i = 0; i < plan->lists[w].count; i++)
            if (plan->lists[w].ops[i].kind == PLAN_B)
                plan->lists[w].ops[i].flags |= PLAN_FUSED;
}

struct table {
    const char *compute[2], *comms[2];
    const uint8_t *stage_to_rank;
    uint32_t stages, items;
    bool merge;
    uint64_t steps;
    enum spelling spelling;
};

static void check_table(const struct table *t)
{
    struct bg_error err;
    struct plan plan = {.units = t->stages, .micro_batches = t->items, .workers = 2};
    plan.stage_count = t->stages;
    plan.item_count = t->items;
    plan.lists = bg_alloc_array(2, sizeof *plan.lists);
    for (uint32_t w = 0; w < 2; w++)
        plan.lists[w] = parse_list(t->compute[w], t->spelling);
    for (uint32_t w = 0; w < 2; w++)
        for (size_t i = 0; i < plan.lists[w].count; i++) // the table is placed as the case says
            if (plan.lists[w].ops[i].kind != PLAN_EMPTY)
                assert_int_equal(t->stage_to_rank[plan.lists[w].ops[i].stage], w);
    fuse_without_w(&plan);
    for (uint32_t w = 0; w < 2 && t->merge; w++)
        plan_merge_bw(&plan.lists[w]);
    if (plan_lower(&plan, NULL, &err))
        fail_msg("%s", err.text);
    for (uint32_t w = 0; w < 2; w++) {
        char *text = spell_list(&plan.lists[w], t->spelling);
        assert_string_equal(text, t->comms[w]);
        bg_free(text);
        for (size_t i = 0; i < plan.lists[w].count; i++)
            if (plan.lists[w].ops[i].kind == PLAN_SEND || plan.lists[w].ops[i].kind == PLAN_RECV)
                assert_int_equal(plan.lists[w].ops[i].peer, 1 - w);
    }
    uint64_t turns = 0;
    assert_int_equal(plan_simulate_turns(&plan, &err, &turns), BG_OK);
    assert_int_equal(turns, t->steps);
    plan_fini(&plan);
}

static void smallest_table(void **state)
{
    (void)state;
    const struct table table = {
        .compute = {"0F0,0F1,,0B0,,0B1", ",1F0,1B0,1F1,1B1,"},
        .comms = {"0F0,0SEND_F0,0F1,0SEND_F1,0RECV_B0,0B0,0RECV_B1,0B1",
                  "1RECV_F0,1RECV_F1,1F0,1B0,1SEND_B0,1F1,1B1,1SEND_B1"},
        .stage_to_rank = (const uint8_t[]){0, 1},
        .stages = 2,
        .items = 2,
        .steps = 11,
        .spelling = B_AS_TABLE,
    };
    check_table(&table);
}

// The text behind "key " in one of the lines from `line` on, up to the end of the line.
static char *value(const struct bg_strlist *lines, size_t line, const char *key)
{
    for (; line < lines->count; line++)
        if (strncmp(lines->items[line], key, strlen(key)) == 0 && lines->items[line][strlen(key)] == ' ')
            return lines->items[line] + strlen(key) + 1;
    fail_msg("no line %s", key);
    return NULL;
}

static size_t case_line(const struct bg_strlist *lines, const char *name)
{
    for (size_t i = 0; i < lines->count; i++)
        if (strncmp(lines->items[i], "case ", 5) == 0 && strncmp(lines->items[i] + 5, name, strlen(name)) == 0)
            return i;
    fail_msg("no case %s", name);
    return 0;
}

static void check_case(const struct bg_strlist *lines, const char *name, const uint8_t *stage_to_rank, uint32_t stages)
{
    size_t at = case_line(lines, name);
    const char *steps = strstr(lines->items[at], "simulated_steps ");
    assert_non_null(steps);
    const struct table table = {
        .compute = {value(lines, at, "compute0"), value(lines, at, "compute1")},
        .comms = {value(lines, at, "comms0"), value(lines, at, "comms1")},
        .stage_to_rank = stage_to_rank,
        .stages = stages,
        .items = 2,
        .steps = strtoull(steps + strlen("simulated_steps "), NULL, 10),
        .spelling = B_AS_TABLE,
    };
    check_table(&table);
}

static void published_tables(void **state)
{
    (void)state;
    char *text = read_text("schedule_lowering.txt");
    if (!text)
        skip();
    struct bg_strlist lines = {0};
    bg_strlist_split(&lines, text, '\n');
    check_case(&lines, "simple_2_rank_2_stage", (const uint8_t[]){0, 1}, 2);
    check_case(&lines, "v_2_rank_4_stage", (const uint8_t[]){0, 1, 1, 0}, 4);
    bg_strlist_fini(&lines);
    bg_free(text);
}

static void published_zero_bubble(void **state)
{
    (void)state;
    char *compute = read_text("torch_zb1p_2rank_compute.csv"), *comms = read_text("torch_zb1p_2rank_comms.csv");
    if (!compute || !comms)
        skip();
    struct bg_strlist in = {0}, out = {0};
    bg_strlist_split(&in, compute, '\n');
    bg_strlist_split(&out, comms, '\n');
    assert_true(in.count >= 2 && out.count >= 2);
    const struct table table = {
        .compute = {in.items[0], in.items[1]},
        .comms = {out.items[0], out.items[1]},
        .stage_to_rank = (const uint8_t[]){0, 1, 0, 1},
        .stages = 4,
        .items = 8,
        .merge = true,
        .steps = 113,
        .spelling = B_IS_INPUT,
    };
    check_table(&table);
    bg_strlist_fini(&in);
    bg_strlist_fini(&out);
    bg_free(compute);
    bg_free(comms);
}

// "case NAME ; in LIST ; out LIST"
static void check_pass(const struct bg_strlist *lines, const char *name)
{
    char *line = bg_strdup(lines->items[case_line(lines, name)]);
    char *in = strstr(line, "; in "), *out = strstr(line, " ; out ");
    assert_non_null(in);
    assert_non_null(out);
    *out = '\0';
    struct plan_list list = parse_list(in + strlen("; in "), B_IS_BOTH);
    if (*name == 'm')
        plan_merge_bw(&list);
    else if (*name == 'r')
        plan_add_reduce(&list, 2);
    else
        plan_add_unshard(&list, 3);
    char *text = spell_list(&list, B_IS_BOTH);
    assert_string_equal(text, out + strlen(" ; out "));
    bg_free(text);
    bg_free(list.ops);
    bg_free(line);
}

static void published_passes(void **state)
{
    (void)state;
    char *text = read_text("schedule_lowering.txt");
    if (!text)
        skip();
    struct bg_strlist lines = {0};
    bg_strlist_split(&lines, text, '\n');
    check_pass(&lines, "merge_bw");
    check_pass(&lines, "reduce_grad");
    check_pass(&lines, "unshard");
    bg_strlist_fini(&lines);
    bg_free(text);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(smallest_table),
        cmocka_unit_test(published_tables),
        cmocka_unit_test(published_zero_bubble),
        cmocka_unit_test(published_passes),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
