// config.json from any bytes: what is accepted passes the checks that everything else relies on.
#include "model/config.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    struct bg_error err;
    struct model_config config;
    if (model_config_parse(data, size, "fuzz", &err, &config))
        return 0;
    if (model_config_check(&config, &err) || config.bos >= (int64_t)config.vocab || config.eos >= (int64_t)config.vocab)
        __builtin_trap();
    return 0;
}
