// What formats of strings allow, by their definitions (RFC 3339, 1123, 4291, 5322), without what readers disagree
// about: years before 1000, leap seconds, names with two hyphens in a row, quoted mailboxes. No label of a name is
// longer than 63 characters, no name than 253, no mailbox than 64, no address than 254.
#include "serve/grammar_int.h"

#include <string.h>

#define DAY                                                                                                            \
    "([1-9]\\d{3}-((0[13578]|1[02])-(0[1-9]|[12]\\d|3[01])|(0[469]|11)-(0[1-9]|[12]\\d|30)|02-(0[1-9]|1\\d|2[0-8]))"   \
    "|([1-9]\\d(0[48]|[2468][048]|[13579][26])|([2468][048]|[13579][26])00)-02-29)"
#define CLOCK        "([01]\\d|2[0-3]):[0-5]\\d"
#define TIME         CLOCK ":[0-5]\\d(\\.\\d{1,6})?(Z|[+-]" CLOCK ")"
#define COUNT        "\\d{1,9}"
#define DAYS         "(" COUNT "Y(" COUNT "M(" COUNT "D)?)?|" COUNT "M(" COUNT "D)?|" COUNT "D)"
#define HOURS        "T(" COUNT "H(" COUNT "M(" COUNT "S)?)?|" COUNT "M(" COUNT "S)?|" COUNT "S)"
#define MORE_LABEL   "(-[A-Za-z0-9]{1,12}){0,2}"
#define HOST(least)  "([A-Za-z0-9]{1,20}" MORE_LABEL "\\.){" least ",3}[A-Za-z][A-Za-z0-9]{0,19}" MORE_LABEL
#define MAILBOX      "[A-Za-z0-9_+-]{1,30}(\\.[A-Za-z0-9_+-]{1,30})?"
#define BYTE         "(25[0-5]|2[0-4]\\d|1\\d\\d|[1-9]?\\d)"
#define WORD         "[0-9a-fA-F]{1,4}"
#define BEFORE(most) "(" WORD ":){1," most "}"
#define AFTER(count) "(:" WORD "){1," count "}"

static const char *const patterns[][2] = {
    {"date", "^" DAY "$"},
    {"time", "^" TIME "$"},
    {"date-time", "^" DAY "T" TIME "$"},
    {"duration", "^P(" DAYS "(" HOURS ")?|" HOURS "|" COUNT "W)$"},
    {"email", "^" MAILBOX "@" HOST("1") "$"},
    {"hostname", "^" HOST("0") "$"},
    {"ipv4", "^" BYTE "(\\." BYTE "){3}$"},
    {"ipv6", "^((" WORD ":){7}" WORD "|" BEFORE("7") ":|" BEFORE("6") AFTER("1") "|" BEFORE("5")
                 AFTER("2") "|" BEFORE("4") AFTER("3") "|" BEFORE("3") AFTER("4") "|" BEFORE("2")
                     AFTER("5") "|" BEFORE("1") AFTER("6") "|:" AFTER("7") "|::)$"},
    {"uuid", "^[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}$"},
};

const char *grammar_format_pattern(const char *name)
{
    for (size_t i = 0; i < sizeof patterns / sizeof *patterns; i++)
        if (strcmp(name, patterns[i][0]) == 0)
            return patterns[i][1];
    return NULL;
}
