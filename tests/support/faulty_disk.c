/* A disk that fails or is remembered, for the files of one folder: loaded with LD_PRELOAD under a process of ours.
 *
 * FAULTY_DISK_DIR      the folder; files elsewhere are left alone. Of SQLite's shared memory ("-shm") only the opening fails
 * FAULTY_DISK_JOURNAL  where every operation that succeeded is written, in the order in which they happened:
 *                      kind (1 byte), length of the path (u32), offset (u64), length of the data (u64), path, data
 * faulty_disk_arm(n, m, error, opens): from now on the n-th operation and the following m - 1 fail with this error;
 *                      `opens`: opening a file is one of them. n = 0: nothing fails any more.
 * faulty_disk_arm_open(ending, error): the next time that a file whose name ends so is opened for writing, it fails
 * Kinds: c create, w write, t truncate, s sync, u unlink. A file named "answers" is journalled and never fails.
 */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <stdarg.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/uio.h>
#include <unistd.h>

#define FILES 4096
#define REAL(name) ((__typeof__(&name))real(#name))

static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;
static char *paths[FILES];
static const char *folder;
static int journal = -1;
static long first, last, seen, hits;
static int error_given, opens_too, open_error;
static char open_ending[64];

static void *real(const char *name) { return dlsym(RTLD_NEXT, name); }

__attribute__((constructor)) static void begin(void) {
    const char *path = getenv("FAULTY_DISK_JOURNAL");
    folder = getenv("FAULTY_DISK_DIR");
    if (path) journal = ((int (*)(const char *, int, ...))real("open"))(path, O_WRONLY | O_CREAT | O_APPEND, 0600);
}

void faulty_disk_arm(long n, long m, int error, int opens) {
    pthread_mutex_lock(&lock);
    if (n) seen = hits = 0;
    first = n, last = n + m - 1, error_given = error, opens_too = opens;
    pthread_mutex_unlock(&lock);
}

void faulty_disk_arm_open(const char *ending, int error) {
    pthread_mutex_lock(&lock);
    hits = 0;
    open_error = error;
    snprintf(open_ending, sizeof open_ending, "%s", ending);
    pthread_mutex_unlock(&lock);
}

long faulty_disk_hits(void) { return hits; }

static int within(const char *path) { return folder && path && !strncmp(path, folder, strlen(folder)); }

static int ours(const char *path) {
    if (!within(path)) return 0;
    size_t length = strlen(path);
    return length < 4 || strcmp(path + length - 4, "-shm");
}

static int is_file(int fd) { return fd >= 0 && fd < FILES && paths[fd]; }

/* Under the lock: does this operation fail? */
static int fails(const char *path) {
    size_t length = strlen(path);
    if (length > 8 && !strcmp(path + length - 8, "/answers")) return 0;
    seen++;
    if (!first || seen < first || seen > last) return 0;
    hits++;
    errno = error_given;
    return 1;
}

/* Under the lock: is this the opening that was to fail? */
static int open_fails(const char *path, int flags) {
    size_t length = strlen(path), end = strlen(open_ending);
    if (!end || (flags & O_ACCMODE) == O_RDONLY || length < end || strcmp(path + length - end, open_ending)) return 0;
    open_ending[0] = 0;
    hits++;
    errno = open_error;
    return 1;
}

static void note(char kind, const char *path, uint64_t offset, const void *data, uint64_t length) {
    if (journal < 0) return;
    uint32_t size = strlen(path);
    struct iovec parts[] = {{&kind, 1}, {&size, 4}, {&offset, 8}, {&length, 8}, {(void *)path, size}, {(void *)data, length}};
    if (writev(journal, parts, 6) != (ssize_t)(21 + size + length)) abort();
}

static int opened(const char *function, int at, const char *path, int flags, mode_t mode) {
    int (*open_at)(int, const char *, int, ...) = real(function);
    if (!within(path)) return open_at(at, path, flags, mode);
    pthread_mutex_lock(&lock);
    int fd = -1, made = (flags & O_CREAT) && access(path, F_OK);
    if (!open_fails(path, flags) && (!opens_too || !fails(path))) {
        fd = open_at(at, path, flags, mode);
        if (fd >= 0 && fd < FILES && ours(path)) {
            free(paths[fd]);
            paths[fd] = strdup(path);
            if (made) note('c', path, 0, NULL, 0);
            if (flags & O_TRUNC) note('t', path, 0, NULL, 0);
        }
    }
    pthread_mutex_unlock(&lock);
    return fd;
}

#define MODE(flags) mode_t mode = 0; if (flags & (O_CREAT | O_TMPFILE)) { va_list l; va_start(l, flags); mode = va_arg(l, int); va_end(l); }
int open(const char *path, int flags, ...) { MODE(flags) return opened("openat", AT_FDCWD, path, flags, mode); }
int open64(const char *path, int flags, ...) { MODE(flags) return opened("openat64", AT_FDCWD, path, flags, mode); }
int openat(int at, const char *path, int flags, ...) { MODE(flags) return opened("openat", at, path, flags, mode); }
int openat64(int at, const char *path, int flags, ...) { MODE(flags) return opened("openat64", at, path, flags, mode); }

int close(int fd) {
    pthread_mutex_lock(&lock);
    if (is_file(fd)) { free(paths[fd]); paths[fd] = NULL; }
    pthread_mutex_unlock(&lock);
    return REAL(close)(fd);
}

ssize_t pwrite64(int fd, const void *data, size_t length, off64_t offset) {
    if (!is_file(fd)) return REAL(pwrite64)(fd, data, length, offset);
    pthread_mutex_lock(&lock);
    ssize_t done = fails(paths[fd]) ? -1 : REAL(pwrite64)(fd, data, length, offset);
    if (done > 0) note('w', paths[fd], offset, data, done);
    pthread_mutex_unlock(&lock);
    return done;
}
ssize_t pwrite(int fd, const void *data, size_t length, off_t offset) { return pwrite64(fd, data, length, offset); }

ssize_t write(int fd, const void *data, size_t length) {
    if (!is_file(fd)) return REAL(write)(fd, data, length);
    pthread_mutex_lock(&lock);
    ssize_t done = fails(paths[fd]) ? -1 : REAL(write)(fd, data, length);
    if (done > 0) note('w', paths[fd], lseek(fd, 0, SEEK_CUR) - done, data, done);
    pthread_mutex_unlock(&lock);
    return done;
}

int ftruncate64(int fd, off64_t length) {
    if (!is_file(fd)) return REAL(ftruncate64)(fd, length);
    pthread_mutex_lock(&lock);
    int done = fails(paths[fd]) ? -1 : REAL(ftruncate64)(fd, length);
    if (!done) note('t', paths[fd], length, NULL, 0);
    pthread_mutex_unlock(&lock);
    return done;
}
int ftruncate(int fd, off_t length) { return ftruncate64(fd, length); }

static int synced(const char *function, int fd) {
    int (*sync_it)(int) = real(function);
    if (!is_file(fd)) return sync_it(fd);
    pthread_mutex_lock(&lock);
    int done = fails(paths[fd]) ? -1 : sync_it(fd);
    if (!done) note('s', paths[fd], 0, NULL, 0);
    pthread_mutex_unlock(&lock);
    return done;
}
int fsync(int fd) { return synced("fsync", fd); }
int fdatasync(int fd) { return synced("fdatasync", fd); }

int unlink(const char *path) {
    if (!ours(path)) return REAL(unlink)(path);
    pthread_mutex_lock(&lock);
    int done = fails(path) ? -1 : REAL(unlink)(path);
    if (!done) note('u', path, 0, NULL, 0);
    pthread_mutex_unlock(&lock);
    return done;
}
