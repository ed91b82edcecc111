// Memory from the kernel: files mapped for reading, and zeroed pages for tensors, on huge pages where the kernel
// gives them (page faults are dear: a step touches every page). A mapped file that another process cuts short
// raises SIGBUS on the lost pages; what trains must not be edited while it trains.
#define _GNU_SOURCE // O_TMPFILE
#include "os/live_int.h"

#include "base/assert.h"
#include "base/mem.h"
#include "base/str.h"

#include <errno.h>
#include <fcntl.h>
#include <sys/mman.h>
#include <unistd.h>
#include <uv.h>

static const size_t huge_page = (size_t)2 << 20;

static bg_status map_fd(uv_file fd, const char *path, struct bg_error *err, struct bg_map *map)
{
    uv_fs_t request;
    int code = uv_fs_fstat(NULL, &request, fd, NULL);
    uv_stat_t stat = request.statbuf;
    uv_fs_req_cleanup(&request);
    if (code < 0)
        return os_fail(err, code, "looking at", path);
    if ((stat.st_mode & S_IFMT) == S_IFDIR)
        return bg_fail(err, BG_INVALID, "opening %s: it is a directory, expected a file", path);
    if ((stat.st_mode & S_IFMT) != S_IFREG)
        return bg_fail(err, BG_INVALID, "opening %s: it is a pipe or device, expected a regular file; copy it into one",
                       path);
    if (stat.st_size == 0) {
        *map = (struct bg_map){.data = (const uint8_t *)"", .size = 0, .handle = NULL};
        return BG_OK;
    }
    void *memory = mmap(NULL, stat.st_size, PROT_READ, MAP_PRIVATE, fd, 0);
    if (memory == MAP_FAILED)
        return os_fail(err, -errno, "mapping", path);
    *map = (struct bg_map){.data = memory, .size = stat.st_size, .handle = memory};
    return BG_OK;
}

bg_status os_map_open(struct bg_env *env, const char *path, struct bg_error *err, struct bg_map *map)
{
    (void)env;
    uv_fs_t request;
    // Non-blocking: opening a fifo must not wait for a writer.
    int fd = uv_fs_open(NULL, &request, path, UV_FS_O_RDONLY | UV_FS_O_NONBLOCK, 0, NULL);
    uv_fs_req_cleanup(&request);
    if (fd < 0)
        return os_fail(err, fd, "opening", path);
    bg_status status = map_fd(fd, path, err, map);
    uv_fs_close(NULL, &request, fd, NULL);
    uv_fs_req_cleanup(&request);
    return status;
}

void os_map_close(struct bg_env *env, struct bg_map *map)
{
    (void)env;
    if (map->handle)
        munmap(map->handle, map->size);
    *map = (struct bg_map){.data = (const uint8_t *)"", .size = 0, .handle = NULL};
}

// Whole pages, huge ones from 2 MiB on.
static size_t rounded(size_t bytes)
{
    size_t unit = bytes >= huge_page ? huge_page : 4096;
    return (bytes + unit - 1) / unit * unit;
}

static bg_status reserve_fail(struct bg_error *err, size_t bytes)
{
    return bg_fail(err, BG_NO_MEMORY,
                   "reserving %.1f MiB of memory: %s; use a smaller model, context or micro-batch, or a machine with "
                   "more memory",
                   (double)bytes / 0x1p20, uv_strerror(-ENOMEM));
}

bg_status os_reserve(struct bg_env *env, size_t bytes, struct bg_error *err, void **memory)
{
    (void)env;
    if (bytes > SIZE_MAX / 4)
        return reserve_fail(err, bytes);
    size_t size = rounded(bytes ? bytes : 1);
    size_t slack = size >= huge_page ? huge_page : 0; // to align, cut off below
    uint8_t *start = mmap(NULL, size + slack, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (start == MAP_FAILED)
        return reserve_fail(err, bytes);
    if (slack) {
        size_t before = -(uintptr_t)start & (huge_page - 1);
        if (before)
            munmap(start, before);
        start += before;
        if (slack - before)
            munmap(start + size, slack - before);
        madvise(start, size, MADV_HUGEPAGE); // advice: a kernel without huge pages may refuse
    }
    *memory = start;
    return BG_OK;
}

void os_release(struct bg_env *env, void *memory, size_t bytes)
{
    (void)env;
    if (memory)
        BG_ASSERT(munmap(memory, rounded(bytes ? bytes : 1)) == 0);
}

// Without a name from the first; where the file system cannot do that, for an instant with one.
static int open_nameless(const char *directory)
{
    int fd = open(directory, O_TMPFILE | O_RDWR | O_CLOEXEC, 0600);
    if (fd >= 0 || (errno != EOPNOTSUPP && errno != EISDIR && errno != EINVAL))
        return fd;
    char *path = bg_format("%s/.brigade-XXXXXX", directory);
    uv_fs_t request;
    fd = uv_fs_mkstemp(NULL, &request, path, NULL);
    if (fd >= 0)
        unlink(request.path);
    else
        errno = -fd;
    uv_fs_req_cleanup(&request);
    bg_free(path);
    return fd;
}

bg_status os_reserve_on_disk(struct bg_env *env, const char *directory, size_t bytes, struct bg_error *err,
                             void **memory)
{
    (void)env;
    if (bytes > SIZE_MAX / 4)
        return reserve_fail(err, bytes);
    const size_t size = rounded(bytes ? bytes : 1);
    const int fd = open_nameless(directory);
    if (fd < 0)
        return os_fail_to_create(err, -errno, "making a file in", directory);
    const int code = posix_fallocate(fd, 0, (off_t)size);
    void *start = code ? MAP_FAILED : mmap(NULL, size, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
    const int mapped = errno;
    close(fd);
    if (code) {
        os_fail_to_create(err, -code, "reserving room in", directory);
        return bg_fail_prefix(err, "%.1f MiB", (double)bytes / 0x1p20);
    }
    if (start == MAP_FAILED)
        return os_fail(err, -mapped, "mapping a file in", directory);
    *memory = start;
    return BG_OK;
}

void os_set_aside(struct bg_env *env, void *memory, size_t bytes)
{
    (void)env;
    madvise(memory, rounded(bytes ? bytes : 1), MADV_DONTNEED); // the file keeps them
}

uint64_t os_memory_total(struct bg_env *env)
{
    (void)env;
    uint64_t total = uv_get_total_memory(), limit = uv_get_constrained_memory();
    return limit && limit < total ? limit : total; // a container may be held to less
}
