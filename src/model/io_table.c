// Matching a file's tensors to a model's parameters. Everything is checked before memory for the weights is taken,
// so what is allocated is bounded by what the file really holds. Rearrangements go through a buffer of one tensor.
#include "model/io_int.h"

#include "base/assert.h"
#include "base/mem.h"

#include <stdlib.h>
#include <string.h>

enum { PROBLEMS_LISTED = 5 };

static size_t find_index(const struct io_table *table, const char *key);
static uint64_t rotary_row(uint64_t row, uint64_t head_rows);
static void expected_shape(const struct model_param *param, enum io_layout layout, uint64_t shape[2]);

// Problems are counted; the first few are told.
struct problems {
    struct bg_str text;
    size_t count;
};

static void add_problem(struct problems *problems, const char *name, const char *expected, const char *found)
{
    if (problems->count++ < PROBLEMS_LISTED)
        bg_str_addf(&problems->text, "; %.100s: expected %s, found %s", name, expected, found);
}

static void check_param(const struct io_table *table, const struct model_param *param, const struct io_place *place,
                        bool *used, struct problems *problems)
{
    uint64_t shape[2];
    char expected[TENSOR_SHAPE_TEXT], found[TENSOR_SHAPE_TEXT];
    expected_shape(param, place->layout, shape);
    tensor_shape_text(param->rank, shape, expected);
    size_t index = find_index(table, place->name);
    if (index == table->count) {
        add_problem(problems, place->shown ? place->shown : place->name, expected, "none");
        return;
    }
    used[index] = true;
    const struct tensor_view *view = table->entries[index].view;
    tensor_shape_text(view->rank, view->shape, found);
    if (view->rank != param->rank || memcmp(view->shape, shape, param->rank * sizeof *shape))
        add_problem(problems, view->name, expected, found);
}

bg_status io_table_check(const struct io_table *table, const struct model_config *config, io_locate_fn locate,
                         const void *arg, struct bg_error *err)
{
    // The rotary tables are the one thing that a configuration alone could make large: not before the tensors fit.
    struct model_config probe = *config;
    if (config->family == MODEL_LLAMA)
        probe.context = 1;
    struct model *model = NULL;
    bg_status status = model_create(&probe, err, &model);
    if (status)
        return status;
    bool *used = bg_alloc_array(table->count ? table->count : 1, sizeof *used);
    struct problems problems = {0};
    for (uint32_t i = 0; i < model->param_count; i++) {
        struct io_place place = {.layout = IO_PLAIN};
        locate(model, &model->params[i], arg, &place);
        check_param(table, &model->params[i], &place, used, &problems);
    }
    for (size_t i = 0; i < table->count; i++) {
        char found[TENSOR_SHAPE_TEXT];
        tensor_shape_text(table->entries[i].view->rank, table->entries[i].view->shape, found);
        if (!used[i])
            add_problem(&problems, table->entries[i].view->name, "none", found);
    }
    if (problems.count)
        status = bg_fail(err, BG_MISMATCH, "%s: %zu tensors do not fit the model's configuration%s%s", table->path,
                         problems.count, bg_str_text(&problems.text), problems.count > PROBLEMS_LISTED ? "; ..." : "");
    bg_str_fini(&problems.text);
    bg_free(used);
    model_destroy(model);
    return status;
}

static bg_status load_param(const struct io_table *table, const struct model_param *param, const struct io_place *place,
                            struct bg_env *env, float *out, struct bg_error *err)
{
    size_t index = find_index(table, place->name);
    BG_ASSERT(index < table->count);
    const struct tensor_view *view = table->entries[index].view;
    if (place->layout == IO_PLAIN)
        return tensor_view_to_f32(view, err, out);
    void *buffer = NULL;
    bg_status status = env->ops->reserve(env, param->count * sizeof(float), err, &buffer);
    if (status)
        return status;
    status = tensor_view_to_f32(view, err, buffer);
    if (!status)
        io_from_file(place->layout, place->heads, param->shape[0], param->rank == 2 ? param->shape[1] : 1, buffer, out);
    env->ops->release(env, buffer, param->count * sizeof(float));
    return status;
}

// Keeps the blocks of a matrix (out, in); q and k in memory's order of rows.
static void keep_blocks(const struct io_table *table, const struct model_param *param, const struct io_place *place,
                        struct packed_source *source)
{
    const struct tensor_view *view = table->entries[find_index(table, place->name)].view;
    if (param->rank != 2 || (view->dtype != TENSOR_Q8_0 && view->dtype != TENSOR_Q4_0))
        return;
    const uint64_t rows = view->shape[0], row = view->bytes / rows;
    uint8_t *blocks = bg_alloc(view->bytes);
    for (uint64_t r = 0; r < rows; r++)
        memcpy(blocks + r * row,
               view->data + (place->layout == IO_ROTARY ? rotary_row(r, rows / place->heads) : r) * row, row);
    *source = (struct packed_source){view->dtype == TENSOR_Q8_0 ? KERN_Q8_0 : KERN_Q4_0, blocks};
}

bg_status io_table_load(const struct io_table *table, io_locate_fn locate, const void *arg, struct bg_error *err,
                        struct model_files *files)
{
    const struct model *model = files->model;
    bg_status status = io_reserve_weights(files, err);
    if (files->keep_blocks)
        files->sources = bg_alloc_array(model->param_count, sizeof *files->sources);
    for (uint32_t i = 0; i < model->param_count && !status; i++) {
        struct io_place place = {.layout = IO_PLAIN};
        locate(model, &model->params[i], arg, &place);
        status =
            load_param(table, &model->params[i], &place, files->env, files->weights + model->params[i].offset, err);
        if (status)
            bg_fail_prefix(err, "%s", table->path);
        else if (files->sources)
            keep_blocks(table, &model->params[i], &place, &files->sources[i]);
    }
    return status;
}

void io_table_init(struct io_table *table, const char *path, size_t capacity)
{
    *table = (struct io_table){.path = path, .entries = bg_alloc_array(capacity, sizeof *table->entries)};
}

void io_table_add(struct io_table *table, const char *key, const struct tensor_view *view)
{
    table->entries[table->count++] = (struct io_entry){key, view};
}

static int compare_entries(const void *a, const void *b)
{
    return strcmp(((const struct io_entry *)a)->key, ((const struct io_entry *)b)->key);
}

bg_status io_table_sort(struct io_table *table, struct bg_error *err)
{
    if (table->count > 1)
        qsort(table->entries, table->count, sizeof *table->entries, compare_entries);
    for (size_t i = 1; i < table->count; i++) {
        if (!strcmp(table->entries[i - 1].key, table->entries[i].key))
            return bg_fail(err, BG_FORMAT, "%s: tensors %s and %s are the same parameter", table->path,
                           table->entries[i - 1].view->name, table->entries[i].view->name);
    }
    return BG_OK;
}

void io_table_fini(struct io_table *table)
{
    bg_free(table->entries);
    *table = (struct io_table){0};
}

static size_t find_index(const struct io_table *table, const char *key)
{
    const struct io_entry wanted = {.key = key};
    const struct io_entry *found =
        table->count ? bsearch(&wanted, table->entries, table->count, sizeof wanted, compare_entries) : NULL;
    return found ? (size_t)(found - table->entries) : table->count;
}

const struct tensor_view *io_table_find(const struct io_table *table, const char *key)
{
    size_t index = find_index(table, key);
    return index < table->count ? table->entries[index].view : NULL;
}

bool io_view_equal(const struct tensor_view *a, const struct tensor_view *b)
{
    return a->dtype == b->dtype && a->rank == b->rank && a->bytes == b->bytes &&
           !memcmp(a->shape, b->shape, a->rank * sizeof *a->shape) && !memcmp(a->data, b->data, a->bytes);
}

static void expected_shape(const struct model_param *param, enum io_layout layout, uint64_t shape[2])
{
    bool swap = layout == IO_TRANSPOSED;
    shape[0] = param->shape[swap ? 1 : 0];
    shape[1] = param->shape[swap ? 0 : 1];
}

// Row `row` of memory's layout, in the file's.
static uint64_t rotary_row(uint64_t row, uint64_t head_rows)
{
    uint64_t head = row / head_rows, inside = row % head_rows, half = head_rows / 2;
    return head * head_rows + (inside < half ? 2 * inside : 2 * (inside - half) + 1);
}

static void transpose(uint64_t rows, uint64_t columns, const float *from, float *to)
{
    for (uint64_t r = 0; r < rows; r++) {
        for (uint64_t c = 0; c < columns; c++)
            to[r * columns + c] = from[c * rows + r];
    }
}

void io_from_file(enum io_layout layout, uint32_t heads, uint64_t rows, uint64_t columns, const float *file, float *out)
{
    if (layout == IO_TRANSPOSED) {
        transpose(rows, columns, file, out);
        return;
    }
    for (uint64_t r = 0; r < rows; r++) {
        uint64_t from = layout == IO_ROTARY ? rotary_row(r, rows / heads) : r;
        memcpy(out + r * columns, file + from * columns, columns * sizeof *out);
    }
}

void io_to_file(enum io_layout layout, uint32_t heads, uint64_t rows, uint64_t columns, const float *memory, float *out)
{
    if (layout == IO_TRANSPOSED) {
        transpose(columns, rows, memory, out);
        return;
    }
    for (uint64_t r = 0; r < rows; r++) {
        uint64_t to = layout == IO_ROTARY ? rotary_row(r, rows / heads) : r;
        memcpy(out + to * columns, memory + r * columns, columns * sizeof *out);
    }
}
