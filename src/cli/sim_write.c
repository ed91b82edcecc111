// Pictures of several policies: a file for each.
#include "cli/sim.h"

#include "base/mem.h"

#include <string.h>

int sim_write_picture(struct cli *cli, const char *path, const char *policy, char *svg)
{
    const size_t size = strlen(path), stem = size > 4 && !strcmp(path + size - 4, ".svg") ? size - 4 : size;
    char *own = policy ? bg_format("%.*s-%s%s", (int)stem, path, policy, path + stem) : bg_strdup(path);
    const int code = cli_write(cli, own, svg);
    bg_free(own);
    bg_free(svg);
    return code;
}
