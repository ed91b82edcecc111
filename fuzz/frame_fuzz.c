// Frame headers from any bytes: what is accepted encodes to the same bytes.
#include "wire/frame.h"

#include <string.h>

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    uint8_t in[WIRE_FRAME_BYTES] = {0}, out[WIRE_FRAME_BYTES];
    memcpy(in, data, size < sizeof in ? size : sizeof in);
    if (size > sizeof in) { // past the check that bytes of chance never pass
        uint64_t check = wire_check(in, sizeof in - 8);
        memcpy(in + sizeof in - 8, &check, 8);
    }
    struct bg_error err;
    struct wire_frame frame;
    if (wire_frame_decode(in, &err, &frame))
        return 0;
    if (frame.bytes > wire_kind_bytes_max(frame.kind))
        __builtin_trap();
    wire_frame_encode(&frame, out);
    if (memcmp(in, out, sizeof in) != 0)
        __builtin_trap();
    char text[200];
    wire_frame_describe(&frame, text, sizeof text);
    return 0;
}
