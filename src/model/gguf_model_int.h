// Pieces of the GGUF format of models that their own tests, fuzz targets and gguf_vocab.c use.
#ifndef MODEL_GGUF_MODEL_INT_H
#define MODEL_GGUF_MODEL_INT_H

#include "model/io_int.h"
#include "tensor/gguf.h"

// The configuration a file describes, checked; BG_UNSUPPORTED names what is not implemented.
BG_MUST_USE bg_status gguf_model_config(const struct gguf *file, struct bg_error *err, struct model_config *config);

// tokenizer.ggml.*: what llama.cpp needs to encode and decode as we do. NULL: none. `path` stands in errors.
BG_MUST_USE bg_status gguf_put_vocabulary(struct gguf_writer *w, const struct model_config *config,
                                          const struct tokenizer *tokenizer, const char *path, struct bg_error *err);

#endif
