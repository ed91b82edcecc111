// llama2.c files from memory, for tests and the fuzz target.
#ifndef MODEL_LLAMA2C_INT_H
#define MODEL_LLAMA2C_INT_H

#include "model/io_int.h"

// Checks header and size; `name` stands in errors.
BG_MUST_USE bg_status llama2c_model_config(const uint8_t *bytes, size_t size, const char *name, struct bg_error *err,
                                           struct model_config *config);
// Weights of bytes that llama2c_model_config() accepted, into a model created from its configuration.
void llama2c_model_read(const uint8_t *bytes, const struct model *model, float *weights);

#endif
