// Facts about this machine and this process for doctor, bench and the progress line. Never part of a job.
#ifndef OS_HOST_H
#define OS_HOST_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

void os_cpu_model(char *text, size_t size); // "unknown" where the system does not tell
unsigned os_cpu_count(void);                // CPUs this process may use
void os_host_name(char *text, size_t size);
void os_kernel_name(char *text, size_t size); // e.g. "Linux 6.1.0"
uint64_t os_memory_peak(void);                // largest resident size of this process so far, bytes

// What cli asks about its three streams without including a system header.
enum { OS_STDIN = 0, OS_STDOUT = 1, OS_STDERR = 2 };
bool os_is_terminal(int fd);
unsigned os_terminal_columns(int fd); // 80 where fd is no terminal

#endif
