// llama2.c models from any bytes. A header that is accepted describes exactly the bytes there are, so the model made
// from it is bounded by the input.
#include "base/mem.h"
#include "model/llama2c_int.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    struct bg_error err;
    struct model_config config;
    if (llama2c_model_config(data, size, "fuzz", &err, &config))
        return 0;
    struct model *model;
    if (model_create(&config, &err, &model))
        __builtin_trap();
    if (model->elements * sizeof(float) > size)
        __builtin_trap();
    float *weights = bg_alloc_array(model->floats, sizeof *weights);
    llama2c_model_read(data, model, weights);
    bg_free(weights);
    model_destroy(model);
    return 0;
}
