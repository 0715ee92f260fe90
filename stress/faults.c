/* Preloaded: let one write to a folder fail, and log all of them. See stress/faults.py, which compiles it. */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <stdarg.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/uio.h>
#include <unistd.h>

/* Shared by all processes, and by the program that watches them. */
static struct control {
    int64_t count;   /* writes until now */
    int64_t fail_at; /* the write that fails, from 1 on; 0: none */
    int64_t error;   /* its errno */
} *control;
static const char *folder;
static size_t folder_length;
static int log_file = -1;

#define REAL(name) ((__typeof__(&name))dlsym(RTLD_NEXT, #name))

__attribute__((constructor)) static void start(void) {
    const char *path = getenv("FAULTS_CONTROL"), *log_path = getenv("FAULTS_LOG");
    folder = getenv("FAULTS_FOLDER");
    if (!path || !folder) return;
    folder_length = strlen(folder);
    int file = syscall(SYS_openat, AT_FDCWD, path, O_RDWR | O_CLOEXEC);
    void *map = mmap(NULL, sizeof *control, PROT_READ | PROT_WRITE, MAP_SHARED, file, 0);
    if (map != MAP_FAILED) control = map;
    if (log_path && *log_path) log_file = syscall(SYS_openat, AT_FDCWD, log_path, O_WRONLY | O_APPEND | O_CLOEXEC);
    close(file);
}

static int is_watched(const char *path) { return control && !strncmp(path, folder, folder_length); }

static int path_of(int file, char *path) {
    char link[32];
    snprintf(link, sizeof link, "/proc/self/fd/%d", file);
    ssize_t length = readlink(link, path, PATH_MAX - 1);
    path[length < 0 ? 0 : length] = 0;
    return length > 0;
}

/* Resolve a name as the ...at() calls do; links in it stay. */
static const char *resolve(int base, const char *name, char *path) {
    if (name[0] == '/') return name;
    char start[PATH_MAX] = "";
    if (base == AT_FDCWD ? !getcwd(start, PATH_MAX) : !path_of(base, start)) return name;
    if (snprintf(path, 2 * PATH_MAX, "%s/%s", start, name) < 0) return name;
    return path;
}

static int is_watched_file(int file) {
    char path[PATH_MAX];
    return control && path_of(file, path) && is_watched(path);
}

static int fails(void) {
    if (__atomic_add_fetch(&control->count, 1, __ATOMIC_SEQ_CST) != control->fail_at) return 0;
    errno = (int)control->error;
    return 1;
}

static void note(char what, int64_t inode, int64_t offset, const char *name, const void *data, size_t size) {
    if (log_file < 0) return;
    int error = errno;
    struct __attribute__((packed)) { char what; int64_t inode, offset, name_length, size; } head = {
        what, inode, offset, (int64_t)strlen(name), (int64_t)size};
    struct iovec parts[3] = {{&head, sizeof head}, {(void *)name, strlen(name)}, {(void *)data, size}};
    syscall(SYS_writev, log_file, parts, 3);
    errno = error;
}

static int64_t inode_of(int file) {
    struct stat status;
    return fstat(file, &status) ? -1 : (int64_t)status.st_ino;
}

static off_t place(int file) {
    if (syscall(SYS_fcntl, file, F_GETFL) & O_APPEND) return lseek(file, 0, SEEK_END);
    return lseek(file, 0, SEEK_CUR);
}

ssize_t write(int file, const void *data, size_t size) {
    if (!is_watched_file(file)) return REAL(write)(file, data, size);
    if (fails()) return -1;
    off_t offset = place(file);
    ssize_t done = REAL(write)(file, data, size);
    if (done > 0) note('w', inode_of(file), offset, "", data, done);
    return done;
}

ssize_t pwrite(int file, const void *data, size_t size, off_t offset) {
    if (!is_watched_file(file)) return REAL(pwrite)(file, data, size, offset);
    if (fails()) return -1;
    ssize_t done = REAL(pwrite)(file, data, size, offset);
    if (done > 0) note('w', inode_of(file), offset, "", data, done);
    return done;
}
ssize_t pwrite64(int file, const void *data, size_t size, off_t offset) { return pwrite(file, data, size, offset); }

ssize_t writev(int file, const struct iovec *parts, int count) {
    if (!is_watched_file(file)) return REAL(writev)(file, parts, count);
    ssize_t total = 0;
    for (int i = 0; i < count; i++) {
        ssize_t done = write(file, parts[i].iov_base, parts[i].iov_len);
        if (done < 0) return total ? total : -1;
        total += done;
        if ((size_t)done < parts[i].iov_len) break;
    }
    return total;
}

static int sync_with(int (*real)(int), int file) {
    char path[PATH_MAX];
    if (!control || !path_of(file, path) || !is_watched(path)) return real(file);
    if (fails()) return -1;
    note('s', inode_of(file), 0, path, "", 0);
    return real(file);
}
int fsync(int file) { return sync_with(REAL(fsync), file); }
int fdatasync(int file) { return sync_with(REAL(fdatasync), file); }

int ftruncate(int file, off_t length) {
    if (!is_watched_file(file)) return REAL(ftruncate)(file, length);
    if (fails()) return -1;
    note('t', inode_of(file), length, "", "", 0);
    return REAL(ftruncate)(file, length);
}
int ftruncate64(int file, off_t length) { return ftruncate(file, length); }

int posix_fallocate(int file, off_t offset, off_t length) {
    if (is_watched_file(file) && fails()) return errno;
    return REAL(posix_fallocate)(file, offset, length);
}
int posix_fallocate64(int file, off_t offset, off_t length) { return posix_fallocate(file, offset, length); }

int renameat(int old_base, const char *old, int new_base, const char *new) {
    char old_path[2 * PATH_MAX], new_path[2 * PATH_MAX];
    const char *from = resolve(old_base, old, old_path), *to = resolve(new_base, new, new_path);
    if (!control || !is_watched(to)) return REAL(renameat)(old_base, old, new_base, new);
    if (fails()) return -1;
    int status = REAL(renameat)(old_base, old, new_base, new);
    if (!status) note('r', 0, 0, from, to, strlen(to));
    return status;
}
int rename(const char *old, const char *new) { return renameat(AT_FDCWD, old, AT_FDCWD, new); }

int unlinkat(int base, const char *name, int flags) {
    char path[2 * PATH_MAX];
    int status = REAL(unlinkat)(base, name, flags);
    const char *full = resolve(base, name, path);
    if (!status && control && is_watched(full)) note('u', 0, 0, full, "", 0);
    return status;
}
int unlink(const char *name) { return unlinkat(AT_FDCWD, name, 0); }
int rmdir(const char *name) { return unlinkat(AT_FDCWD, name, AT_REMOVEDIR); }

int mkdirat(int base, const char *name, mode_t mode) {
    char path[2 * PATH_MAX];
    if (control && is_watched(resolve(base, name, path)) && fails()) return -1;
    return REAL(mkdirat)(base, name, mode);
}
int mkdir(const char *name, mode_t mode) { return mkdirat(AT_FDCWD, name, mode); }

int openat(int base, const char *name, int flags, ...) {
    char path[2 * PATH_MAX];
    mode_t mode = 0;
    if (flags & O_CREAT || (flags & O_TMPFILE) == O_TMPFILE) {
        va_list more;
        va_start(more, flags);
        mode = va_arg(more, mode_t);
        va_end(more);
    }
    const char *full = resolve(base, name, path);
    int is_made = control && flags & (O_CREAT | O_TRUNC) && is_watched(full);
    if (is_made && fails()) return -1;
    int file = syscall(SYS_openat, base, name, flags, mode);
    if (file >= 0 && is_made) note('c', inode_of(file), flags & O_TRUNC ? 0 : -1, full, "", 0);
    return file;
}
int openat64(int base, const char *name, int flags, ...) {
    va_list more;
    va_start(more, flags);
    mode_t mode = va_arg(more, mode_t);
    va_end(more);
    return openat(base, name, flags, mode);
}
int open(const char *name, int flags, ...) {
    va_list more;
    va_start(more, flags);
    mode_t mode = va_arg(more, mode_t);
    va_end(more);
    return openat(AT_FDCWD, name, flags, mode);
}
int open64(const char *name, int flags, ...) {
    va_list more;
    va_start(more, flags);
    mode_t mode = va_arg(more, mode_t);
    va_end(more);
    return openat(AT_FDCWD, name, flags, mode);
}

/* C++ streams of SimpleITK open files by these; their writes are not the ones above. */
FILE *fopen64(const char *name, const char *mode) {
    char path[2 * PATH_MAX];
    const char *full = resolve(AT_FDCWD, name, path);
    int is_made = control && mode[0] == 'w' && is_watched(full);
    if (is_made && fails()) return NULL;
    FILE *file = REAL(fopen64)(name, mode);
    if (file && is_made) note('c', inode_of(fileno(file)), 0, full, "", 0);
    return file;
}
FILE *fopen(const char *name, const char *mode) { return fopen64(name, mode); }
