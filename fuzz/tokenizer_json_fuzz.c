// Tokenizers from any bytes: tokenizer.json.
#include "tokenizer_fuzz.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    struct bg_error err;
    struct tokenizer *tk;
    if (tokenizer_parse_json((const char *)data, size, "fuzz", &err, &tk) == BG_OK)
        fuzz_tokenizer(tk, data, size);
    return 0;
}
