// The one header of everything that travels between processes of a job. 80 bytes, little-endian. A frame names the
// value it carries, never a position in a stream: it may be sent twice, by anyone who holds the value, and be dropped.
#ifndef WIRE_FRAME_H
#define WIRE_FRAME_H

#include "base/status.h"

#include <stddef.h>
#include <stdint.h>

// X(NAME, largest payload in bytes)
#define WIRE_KINDS(X)                                                                                                  \
    X(HELLO, 4096)          /* worker -> controller: who I am, what I hold */                                          \
    X(WELCOME, 4096)        /* controller -> worker: your member id */                                                 \
    X(PREPARE, 4096)        /* controller -> worker: generation g begins; stop, and report. a = the newest sent */     \
    X(REPORT, 1 << 22)      /* worker -> controller: what I hold of the open step */                                   \
    X(GENERATION, 1 << 24)  /* controller -> worker: members, plan, step */                                            \
    X(LOSS, 1 << 20)        /* worker -> controller: losses of the micro-batches of an item */                         \
    X(VOTE, 1 << 20)        /* worker -> controller: every root I need is here; sums of squares */                     \
    X(COMMIT, 4096)         /* controller -> worker: the step counts; apply it */                                      \
    X(TASK, 1 << 26)        /* controller -> worker: evaluate, write a checkpoint */                                   \
    X(TASK_DONE, 1 << 16)   /* worker -> controller */                                                                 \
    X(TROUBLE, 4096)        /* worker -> controller: a peer is lost, a frame is bad, I wait too long for ... */        \
    X(LEAVE, 4096)          /* controller -> worker: end */                                                            \
    X(ACTIVATION, 1u << 31) /* input of (a = stage, b = item); c = 0 all of it, else slice c - 1 */                    \
    X(GRADIENT, 1u << 31)   /* gradient of the output of (a = stage, b = item), c likewise */                          \
    X(PART, 1u << 31)       /* partial sum: a = bucket, b = piece, c = node (level << 26 | index) */                   \
    X(ROOT, 1u << 31)       /* root gradient: a = bucket, b = piece */                                                 \
    X(STATE, 1u << 31)      /* weights and moments of the step: a = bucket, b = piece, c = 0 weights, 1 m, 2 v */      \
    X(PROOF, 1 << 20)       /* worker -> controller: sums of the state that I hold of the step */

enum wire_kind {
    WIRE_NONE,
#define WIRE_KIND_ENUM(name, bytes) WIRE_##name,
    WIRE_KINDS(WIRE_KIND_ENUM)
#undef WIRE_KIND_ENUM
        WIRE_KIND_COUNT
};

struct wire_frame {
    uint16_t kind;       // enum wire_kind
    uint16_t flags;      // 0
    uint32_t generation; // of the membership; 0 before the first
    uint64_t job;        // first 8 bytes of the signature's hash
    uint64_t step;
    uint32_t from; // member that sends; the receiver's link knows better and refuses another
    uint32_t a, b, c;
    uint64_t bytes; // of the payload
    uint64_t check; // wire_check() of the payload
    uint64_t extra; // kind's own
};
// Magic "BRG1", the fields above in this order, four zero bytes, then XXH3 of the 72 bytes before it.
enum { WIRE_FRAME_BYTES = 80 };

void wire_frame_encode(const struct wire_frame *frame, uint8_t out[WIRE_FRAME_BYTES]);
// Refuses a wrong magic, kind, size, payload limit or header check, saying which.
BG_MUST_USE bg_status wire_frame_decode(const uint8_t in[WIRE_FRAME_BYTES], struct bg_error *err,
                                        struct wire_frame *frame);
const char *wire_kind_name(uint16_t kind);              // "?" for what is none
uint64_t wire_kind_bytes_max(uint16_t kind);            // 0 for what is none
uint64_t wire_check(const void *payload, size_t bytes); // XXH3, 64 bits
// "PART bucket 3 piece 0 node 1.0 of step 12, generation 4, from member 2"
void wire_frame_describe(const struct wire_frame *frame, char *text, size_t size);

#endif
