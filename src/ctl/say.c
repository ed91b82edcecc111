// Events as JSON fields. They are rare: steps do not pass through here.
#include "ctl/ctl_int.h"

#include "base/json.h"
#include "base/mem.h"

#include <math.h>
#include <string.h>

json_t *ctl_text(const char *text)
{
    json_t *value = json_string(text);
    if (value)
        return value;
    char *plain = bg_strdup(text); // not UTF-8
    for (char *at = plain; *at; at++)
        if (*at & 0x80)
            *at = '?';
    value = json_string(plain);
    bg_free(plain);
    return value;
}

json_t *ctl_number(uint64_t value)
{
    return json_integer((json_int_t)value);
}

json_t *ctl_ms(uint64_t nanoseconds)
{
    return json_real(round(1e-3 * (double)nanoseconds) / 1000);
}

void ctl_say(struct ctl *ctl, const char *event, json_t *fields)
{
    char *text = bg_json_text(fields, JSON_REAL_PRECISION(15));
    size_t size = strlen(text);
    text[size - 1] = '\0'; // without the braces
    if (ctl->host.event)
        ctl->host.event(ctl->host.arg, event, text + 1);
    bg_free(text);
    json_decref(fields);
}
