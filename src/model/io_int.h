// What the formats share: finding a model's tensors among a file's, checking all of them before any memory is
// taken, and the rearrangements between a file's layout and memory's.
#ifndef MODEL_IO_INT_H
#define MODEL_IO_INT_H

#include "base/str.h"
#include "model/io.h"
#include "tensor/dtype.h"

// How a file holds a matrix compared with memory. Each is undone by its inverse.
enum io_layout {
    IO_PLAIN,
    IO_TRANSPOSED, // (columns, rows)
    IO_ROTARY,     // rows of each head in the order 0, half, 1, half + 1, ...: pairs turn as neighbours
};

// Where a parameter lies in a file.
struct io_place {
    char name[112];
    enum io_layout layout;
    uint32_t heads;    // IO_ROTARY
    const char *shown; // the name for errors; NULL: `name`
};

struct io_entry {
    const char *key; // what places are looked up by; the view has the name as the file spells it
    const struct tensor_view *view;
};

// A file's tensors, sorted by key.
struct io_table {
    const char *path;
    struct io_entry *entries;
    size_t count;
};
void io_table_init(struct io_table *table, const char *path, size_t capacity);
void io_table_add(struct io_table *table, const char *key, const struct tensor_view *view);
BG_MUST_USE bg_status io_table_sort(struct io_table *table, struct bg_error *err); // a key twice is an error
void io_table_fini(struct io_table *table);
const struct tensor_view *io_table_find(const struct io_table *table, const char *key); // NULL: absent
// The tensors hold the same numbers in the same shape.
bool io_view_equal(const struct tensor_view *a, const struct tensor_view *b);

typedef void (*io_locate_fn)(const struct model *model, const struct model_param *param, const void *arg,
                             struct io_place *place);

// Every parameter is there with its shape, and nothing else: BG_MISMATCH lists names, expected and found shapes.
BG_MUST_USE bg_status io_table_check(const struct io_table *table, const struct model_config *config,
                                     io_locate_fn locate, const void *arg, struct bg_error *err);
// After a check: reserves files->weights (of files->model) and fills it.
BG_MUST_USE bg_status io_table_load(const struct io_table *table, io_locate_fn locate, const void *arg,
                                    struct bg_error *err, struct model_files *files);

// rows x columns of memory's layout, from and to a file's.
void io_from_file(enum io_layout layout, uint32_t heads, uint64_t rows, uint64_t columns, const float *file,
                  float *out);
void io_to_file(enum io_layout layout, uint32_t heads, uint64_t rows, uint64_t columns, const float *memory,
                float *out);

BG_MUST_USE bg_status io_reserve_weights(struct model_files *files, struct bg_error *err);
// A tokenizer belongs to a model if every id it gives has a row, and the rows beyond are no more than padding
// (any_padding: however many). NULL belongs to all.
BG_MUST_USE bg_status io_check_tokenizer(const struct model *model, const struct tokenizer *tokenizer, bool any_padding,
                                         const char *path, struct bg_error *err);

// The formats. Loaders fill files->model, ->weights and ->tokenizer; io.c gives back what a failure leaves there.
BG_MUST_USE bg_status hf_model_load(const char *directory, struct bg_error *err, struct model_files *files);
BG_MUST_USE bg_status hf_model_save(struct bg_env *env, const struct model *model, const float *weights,
                                    const struct tokenizer *tokenizer, const char *directory, struct bg_error *err);
BG_MUST_USE bg_status gguf_model_load(const char *path, struct bg_error *err, struct model_files *files);
BG_MUST_USE bg_status gguf_model_save(struct bg_env *env, const struct model *model, const float *weights,
                                      const struct tokenizer *tokenizer, enum kern_weight type, const char *path,
                                      struct bg_error *err);
BG_MUST_USE bg_status llama2c_model_load(const char *path, struct bg_error *err, struct model_files *files);
BG_MUST_USE bg_status llama2c_model_save(struct bg_env *env, const struct model *model, const float *weights,
                                         const struct tokenizer *tokenizer, const char *path, struct bg_error *err);

#endif
