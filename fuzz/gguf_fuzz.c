// GGUF from any bytes: every value, array element and tensor of what is accepted is read; the model's configuration
// is derived from it.
#include "base/mem.h"
#include "model/gguf_model_int.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static uint64_t read_value(const struct gguf_value *value)
{
    uint64_t sum = 0;
    if (value->type == GGUF_STRING) {
        for (uint64_t i = 0; i < value->s.size; i++)
            sum += (uint8_t)value->s.data[i];
    }
    for (uint64_t i = 0; value->type == GGUF_ARRAY && i < value->count; i++) {
        if (value->element == GGUF_STRING) {
            struct gguf_string s = gguf_array_string(value, i);
            sum += s.size ? (uint8_t)s.data[s.size - 1] : 0;
        } else {
            sum += gguf_array_number(value, i) > 0;
        }
    }
    return sum;
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    struct bg_error err;
    struct gguf *file;
    if (gguf_parse(data, size, "fuzz", &err, &file))
        return 0;
    uint64_t sum = 0;
    for (size_t i = 0; i < gguf_key_count(file); i++) {
        const struct gguf_value *value = gguf_value_at(file, i);
        if (gguf_find(file, gguf_key_at(file, i)) != value)
            __builtin_trap();
        sum += read_value(value);
    }
    for (size_t i = 0; i < gguf_tensor_count(file); i++) {
        const struct tensor_view *view = gguf_tensor_at(file, i);
        if (gguf_tensor_find(file, view->name) != view)
            __builtin_trap();
        float *out = bg_alloc_array(tensor_view_count(view), sizeof *out);
        sum += tensor_view_to_f32(view, &err, out) == BG_OK;
        bg_free(out);
    }
    struct model_config config;
    if (!gguf_model_config(file, &err, &config) && model_config_check(&config, &err))
        __builtin_trap();
    gguf_close(file);
    return sum == UINT64_MAX ? -1 : 0;
}
