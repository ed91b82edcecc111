// Packed weights kept in a directory from start to start.
#ifndef MODEL_PACKED_CACHE_H
#define MODEL_PACKED_CACHE_H

#include "model/io.h"

struct packed_cache; // what is mapped; NULL: nothing is
// Packs files->model (with files->sources, where there are) into `type`, or maps what an earlier call left in
// `directory` (NULL: no cache). The file's whole content is checked against its hash; one that is damaged or of another
// model is made anew. unkept->status: BG_OK, or why what was packed could not be kept, which is no reason to stop.
BG_MUST_USE bg_status packed_open(struct bg_env *env, const struct model_files *files, enum kern_weight type,
                                  const char *directory, struct bg_error *err, struct packed_model **packed,
                                  struct packed_cache **cache, struct bg_error *unkept);
void packed_cache_close(struct bg_env *env, struct packed_cache *cache); // after the packed model

#endif
