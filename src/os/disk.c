// Files and directories through libuv's synchronous calls. Every failure becomes a bg_status with the path, the
// reason and, where there is one, what to do; writes go on after a partial one until all bytes are out or an
// error says why not. Nothing is buffered here.
#include "os/live_int.h"

#include "base/mem.h"
#include "base/str.h"

#include <errno.h>
#include <fcntl.h>
#include <sys/file.h>
#include <string.h>
#include <uv.h>

struct bg_file {
    uv_file fd;
    char *path;
};

static int close_fd(uv_file fd);

static bg_status status_of(int code)
{
    switch (-code) {
    case ENOENT:
        return BG_NOT_FOUND;
    case EEXIST:
    case ENOTEMPTY:
        return BG_EXISTS;
    case EACCES:
    case EPERM:
    case EROFS:
        return BG_DENIED;
    case ENOSPC:
    case EDQUOT:
    case EFBIG:
        return BG_FULL;
    case ENOMEM:
        return BG_NO_MEMORY;
    case EISDIR:
    case ENOTDIR:
    case ENAMETOOLONG:
    case ELOOP:
    case EINVAL:
        return BG_INVALID;
    default:
        return BG_IO;
    }
}

static const char *advice_of(int code)
{
    switch (-code) {
    case ENOSPC:
        return "; free some space on that file system or choose another directory";
    case EDQUOT:
        return "; your disk quota is used up: free some space or choose another directory";
    case EROFS:
        return "; choose a directory on a file system that can be written";
    case EACCES:
    case EPERM:
        return "; check the owner and the mode of the path and its directories";
    case EMFILE:
    case ENFILE:
        return "; raise the limit on open files (ulimit -n)";
    case EIO:
        return "; the device reports a fault: look at the kernel log (dmesg)";
    default:
        return "";
    }
}

static bg_status fail_as(struct bg_error *err, bg_status status, int code, const char *action, const char *path)
{
    char reason[128];
    uv_strerror_r(code, reason, sizeof reason);
    return bg_fail(err, status, "%s %s: %s%s", action, path, reason, advice_of(code));
}

bg_status os_fail(struct bg_error *err, int code, const char *action, const char *path)
{
    return fail_as(err, status_of(code), code, action, path);
}

bg_status os_fail_to_create(struct bg_error *err, int code, const char *action, const char *path)
{
    bg_status status = status_of(code);
    if (status == BG_NOT_FOUND || status == BG_DENIED || status == BG_INVALID)
        status = BG_NOT_CREATED;
    return fail_as(err, status, code, action, path);
}

bg_status os_file_open(struct bg_env *env, const char *path, enum bg_file_mode mode, struct bg_error *err,
                       struct bg_file **file)
{
    (void)env;
    static const int flags[] = {
        [BG_FILE_CREATE] = UV_FS_O_CREAT | UV_FS_O_EXCL,
        [BG_FILE_TRUNCATE] = UV_FS_O_CREAT | UV_FS_O_TRUNC,
        [BG_FILE_APPEND] = UV_FS_O_CREAT | UV_FS_O_APPEND,
    };
    uv_fs_t request;
    // Non-blocking: a fifo without a reader fails at once where it would hang.
    int fd = uv_fs_open(NULL, &request, path, UV_FS_O_WRONLY | UV_FS_O_NONBLOCK | flags[mode], 0666, NULL);
    uv_fs_req_cleanup(&request);
    if (fd == UV_ENXIO)
        return bg_fail(err, BG_NOT_CREATED, "opening %s: it is a fifo or device without a reader; name a regular file",
                       path);
    if (fd < 0)
        return os_fail_to_create(err, fd, mode == BG_FILE_APPEND ? "opening" : "creating", path);
    fcntl(fd, F_SETFL, fcntl(fd, F_GETFL) & ~O_NONBLOCK); // writing to a full pipe waits all the same
    *file = bg_alloc(sizeof **file);
    (*file)->fd = fd;
    (*file)->path = bg_strdup(path);
    return BG_OK;
}

bg_status os_directory_lock(struct bg_env *env, const char *path, struct bg_error *err, struct bg_file **lock)
{
    (void)env;
    uv_fs_t request;
    int fd = uv_fs_open(NULL, &request, path, UV_FS_O_RDONLY | UV_FS_O_DIRECTORY, 0, NULL);
    uv_fs_req_cleanup(&request);
    if (fd < 0)
        return os_fail(err, fd, "opening", path);
    // The lock belongs to the open file: the kernel drops it with the process, so none can be left behind.
    if (flock(fd, LOCK_EX | LOCK_NB) < 0) {
        int code = uv_translate_sys_error(errno);
        close_fd(fd);
        if (code == UV_EAGAIN)
            return bg_fail(err, BG_EXISTS, "%s is in use by another process; wait for it or stop it", path);
        return os_fail(err, code, "locking", path);
    }
    *lock = bg_alloc(sizeof **lock);
    (*lock)->fd = fd;
    (*lock)->path = bg_strdup(path);
    return BG_OK;
}

bg_status os_file_write(struct bg_env *env, struct bg_file *file, const void *bytes, size_t size, struct bg_error *err)
{
    (void)env;
    const size_t piece_max = (size_t)1 << 30;
    const char *at = bytes;
    while (size) {
        size_t piece = size < piece_max ? size : piece_max;
        uv_buf_t buffer = {.base = (char *)(uintptr_t)at, .len = piece};
        uv_fs_t request;
        ssize_t written = uv_fs_write(NULL, &request, file->fd, &buffer, 1, -1, NULL);
        uv_fs_req_cleanup(&request);
        if (written == UV_EINTR)
            continue;
        if (written < 0)
            return os_fail(err, (int)written, "writing", file->path);
        if (written == 0)
            return bg_fail(err, BG_IO, "writing %s: the file takes no more bytes", file->path);
        at += written;
        size -= (size_t)written;
    }
    return BG_OK;
}

static int sync_fd(uv_file fd)
{
    uv_fs_t request;
    int code = uv_fs_fsync(NULL, &request, fd, NULL);
    uv_fs_req_cleanup(&request);
    return code == UV_EINVAL || code == UV_ENOTSUP ? 0 : code; // pipes, /dev/null, some directories: nothing to sync
}

static int close_fd(uv_file fd)
{
    uv_fs_t request;
    int code = uv_fs_close(NULL, &request, fd, NULL);
    uv_fs_req_cleanup(&request);
    return code;
}

bg_status os_file_sync(struct bg_env *env, struct bg_file *file, struct bg_error *err)
{
    (void)env;
    int code = sync_fd(file->fd);
    return code < 0 ? os_fail(err, code, "syncing", file->path) : BG_OK;
}

bg_status os_file_close(struct bg_env *env, struct bg_file *file, struct bg_error *err)
{
    (void)env;
    int code = close_fd(file->fd);
    bg_status status = code < 0 ? os_fail(err, code, "closing", file->path) : BG_OK;
    bg_free(file->path);
    bg_free(file);
    return status;
}

bg_status os_path_info(struct bg_env *env, const char *path, struct bg_error *err, struct bg_file_info *info)
{
    (void)env;
    uv_fs_t request;
    int code = uv_fs_stat(NULL, &request, path, NULL);
    uv_stat_t stat = request.statbuf;
    uv_fs_req_cleanup(&request);
    if (code == UV_ENOENT || code == UV_ENOTDIR) {
        *info = (struct bg_file_info){0};
        return BG_OK;
    }
    if (code < 0)
        return os_fail(err, code, "looking at", path);
    *info = (struct bg_file_info){
        .exists = true,
        .is_directory = (stat.st_mode & S_IFMT) == S_IFDIR,
        .size = stat.st_size,
        .mtime_ns = stat.st_mtim.tv_sec * 1000000000 + stat.st_mtim.tv_nsec,
    };
    return BG_OK;
}

// A pipe, a device: nothing to put a file in place of, though root may.
static bool is_special(const char *path)
{
    uv_fs_t request;
    const bool there = uv_fs_stat(NULL, &request, path, NULL) == 0;
    const uint64_t kind = request.statbuf.st_mode & S_IFMT;
    uv_fs_req_cleanup(&request);
    return there && kind != S_IFREG && kind != S_IFDIR;
}

bg_status os_path_rename(struct bg_env *env, const char *from, const char *to, struct bg_error *err)
{
    (void)env;
    uv_fs_t request;
    if (is_special(to))
        return bg_fail(err, BG_NOT_CREATED, "renaming %s: %s is a pipe or device, expected a file", from, to);
    int code = uv_fs_rename(NULL, &request, from, to, NULL);
    uv_fs_req_cleanup(&request);
    if (code == 0)
        return BG_OK;
    // Where the source is not there nothing is wrong with the target.
    bg_status status = code == UV_ENOENT ? os_fail(err, code, "to", to) : os_fail_to_create(err, code, "to", to);
    bg_fail_prefix(err, "renaming %s", from);
    return status;
}

// The sorted names in a directory; the code of uv_fs_scandir.
static int scan(const char *path, struct bg_strlist *names)
{
    uv_fs_t request;
    int code = uv_fs_scandir(NULL, &request, path, 0, NULL);
    if (code >= 0) {
        uv_dirent_t entry;
        while (uv_fs_scandir_next(&request, &entry) == 0)
            bg_strlist_add(names, entry.name);
        bg_strlist_sort(names);
        code = 0;
    }
    uv_fs_req_cleanup(&request);
    return code;
}

static bg_status remove_leaf(const char *path, bool is_directory, struct bg_error *err)
{
    uv_fs_t request;
    int code = is_directory ? uv_fs_rmdir(NULL, &request, path, NULL) : uv_fs_unlink(NULL, &request, path, NULL);
    uv_fs_req_cleanup(&request);
    return code < 0 && code != UV_ENOENT ? os_fail(err, code, "removing", path) : BG_OK;
}

// A symbolic link is removed, never followed. The depth is bounded by the longest path the kernel takes.
bg_status os_path_remove(struct bg_env *env, const char *path, struct bg_error *err)
{
    uv_fs_t request;
    int code = uv_fs_lstat(NULL, &request, path, NULL);
    bool is_directory = code == 0 && (request.statbuf.st_mode & S_IFMT) == S_IFDIR;
    uv_fs_req_cleanup(&request);
    if (code == UV_ENOENT || code == UV_ENOTDIR)
        return BG_OK;
    if (code < 0)
        return os_fail(err, code, "removing", path);
    bg_status status = BG_OK;
    if (is_directory) {
        struct bg_strlist names = {0};
        code = scan(path, &names);
        if (code < 0)
            status = os_fail(err, code, "reading directory", path);
        for (size_t i = 0; i < names.count && !status; i++) {
            char *child = bg_format("%s/%s", path, names.items[i]);
            status = os_path_remove(env, child, err);
            bg_free(child);
        }
        bg_strlist_fini(&names);
    }
    return status ? status : remove_leaf(path, is_directory, err);
}

bg_status os_path_truncate(struct bg_env *env, const char *path, uint64_t size, struct bg_error *err)
{
    (void)env;
    if (size > INT64_MAX)
        return bg_fail(err, BG_INVALID, "truncating %s: no file can have 2^63 bytes", path);
    uv_fs_t request;
    int fd = uv_fs_open(NULL, &request, path, UV_FS_O_WRONLY | UV_FS_O_NONBLOCK, 0, NULL);
    uv_fs_req_cleanup(&request);
    if (fd < 0)
        return os_fail(err, fd, "opening", path);
    int code = uv_fs_ftruncate(NULL, &request, fd, (int64_t)size, NULL);
    uv_fs_req_cleanup(&request);
    int close_code = close_fd(fd);
    if (code == 0)
        code = close_code;
    return code < 0 ? os_fail(err, code, "truncating", path) : BG_OK;
}

bg_status os_path_sync(struct bg_env *env, const char *directory, struct bg_error *err)
{
    (void)env;
    uv_fs_t request;
    int fd = uv_fs_open(NULL, &request, directory, UV_FS_O_RDONLY | UV_FS_O_DIRECTORY, 0, NULL);
    uv_fs_req_cleanup(&request);
    if (fd < 0)
        return os_fail(err, fd, "opening directory", directory);
    int code = sync_fd(fd);
    close_fd(fd);
    return code < 0 ? os_fail(err, code, "syncing directory", directory) : BG_OK;
}

bg_status os_make_directories(struct bg_env *env, const char *path, struct bg_error *err)
{
    char *partial = bg_strdup(path);
    bg_status status = BG_OK;
    int code = 0;
    for (char *at = partial; *at && code == 0;) {
        at += strspn(at, "/");
        at += strcspn(at, "/");
        char saved = *at;
        *at = 0;
        uv_fs_t request;
        code = uv_fs_mkdir(NULL, &request, partial, 0777, NULL);
        uv_fs_req_cleanup(&request);
        // A read-only or foreign parent that is already there is no obstacle.
        struct bg_file_info info = {0};
        if (code < 0 && os_path_info(env, partial, NULL, &info) == BG_OK && info.exists)
            code = info.is_directory ? 0 : UV_ENOTDIR;
        if (code < 0)
            status = os_fail_to_create(err, code, "making directory", partial);
        *at = saved;
    }
    if (!*path)
        status = bg_fail(err, BG_NOT_CREATED, "making a directory: its path is empty");
    bg_free(partial);
    return status;
}

bg_status os_list_directory(struct bg_env *env, const char *path, bg_list_fn fn, void *arg, struct bg_error *err)
{
    (void)env;
    struct bg_strlist names = {0};
    int code = scan(path, &names);
    bg_status status = code < 0 ? os_fail(err, code, "reading directory", path) : BG_OK;
    for (size_t i = 0; i < names.count && !status; i++)
        status = fn(arg, names.items[i], err);
    bg_strlist_fini(&names);
    return status;
}

bg_status os_disk_free(struct bg_env *env, const char *path, struct bg_error *err, uint64_t *bytes)
{
    (void)env;
    uv_fs_t request;
    int code = uv_fs_statfs(NULL, &request, path, NULL);
    if (code == 0) {
        const uv_statfs_t *stat = request.ptr;
        *bytes = stat->f_bavail * stat->f_bsize;
    }
    uv_fs_req_cleanup(&request);
    return code < 0 ? os_fail(err, code, "asking for the free space at", path) : BG_OK;
}
