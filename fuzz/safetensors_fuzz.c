// safetensors from any bytes: whatever is accepted must be safe to read to its last element.
#include "base/mem.h"
#include "tensor/safetensors.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    struct bg_error err;
    struct safetensors *file;
    if (safetensors_parse(data, size, "fuzz", &err, &file))
        return 0;
    for (size_t i = 0; i < safetensors_count(file); i++) {
        const struct tensor_view *view = safetensors_at(file, i);
        if (safetensors_find(file, view->name) != view)
            __builtin_trap();
        float *out = bg_alloc_array(tensor_view_count(view), sizeof *out);
        if (tensor_view_to_f32(view, &err, out) && !err.text[0])
            __builtin_trap();
        bg_free(out);
    }
    (void)safetensors_metadata(file, "format");
    safetensors_close(file);
    return 0;
}
