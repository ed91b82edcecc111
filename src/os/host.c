// What libuv and the terminal driver tell about the machine. Everything has an answer: what cannot be found out
// is "unknown", 0 or 80 columns, since nothing of it decides a result.
#include "os/host.h"

#include <stdio.h>
#include <sys/ioctl.h>
#include <uv.h>

void os_cpu_model(char *text, size_t size)
{
    uv_cpu_info_t *cpus = NULL;
    int count = 0;
    int code = uv_cpu_info(&cpus, &count);
    snprintf(text, size, "%s", code == 0 && count > 0 && cpus[0].model ? cpus[0].model : "unknown");
    if (code == 0)
        uv_free_cpu_info(cpus, count);
}

unsigned os_cpu_count(void)
{
    return uv_available_parallelism();
}

void os_host_name(char *text, size_t size)
{
    char name[UV_MAXHOSTNAMESIZE] = "unknown";
    size_t length = sizeof name;
    int code = uv_os_gethostname(name, &length);
    snprintf(text, size, "%s", code == 0 ? name : "unknown");
}

void os_kernel_name(char *text, size_t size)
{
    uv_utsname_t names;
    if (uv_os_uname(&names) == 0)
        snprintf(text, size, "%s %s", names.sysname, names.release);
    else
        snprintf(text, size, "unknown");
}

uint64_t os_memory_peak(void)
{
    uv_rusage_t usage;
    return uv_getrusage(&usage) == 0 ? usage.ru_maxrss * 1024 : 0;
}

bool os_is_terminal(int fd)
{
    return uv_guess_handle(fd) == UV_TTY;
}

unsigned os_terminal_columns(int fd)
{
    struct winsize window = {0};
    if (ioctl(fd, TIOCGWINSZ, &window) != 0 || window.ws_col == 0)
        return 80;
    return window.ws_col;
}
