// What is written of several policies: a file for each.
#include "cli/sim.h"

#include "base/mem.h"

#include <string.h>

int sim_write_each(struct cli *cli, const char *path, const char *policy, char *text)
{
    const char *slash = strrchr(path, '/'), *dot = strrchr(slash ? slash : path, '.');
    const size_t stem = dot ? (size_t)(dot - path) : strlen(path);
    char *own = policy ? bg_format("%.*s-%s%s", (int)stem, path, policy, path + stem) : bg_strdup(path);
    const int code = cli_write(cli, own, text);
    bg_free(own);
    bg_free(text);
    return code;
}
