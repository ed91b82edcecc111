// Tokenizers from any bytes: GGUF metadata.
#include "tokenizer_fuzz.h"

#include "tensor/gguf.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    struct bg_error err;
    struct gguf *file;
    struct tokenizer *tk;
    if (gguf_parse(data, size, "fuzz", &err, &file) != BG_OK)
        return 0;
    if (tokenizer_parse_gguf(file, "fuzz", &err, &tk) == BG_OK)
        fuzz_tokenizer(tk, data, size);
    gguf_close(file);
    return 0;
}
