/* A file layer that fails: what `files.py` puts between a process and its C library.

   Operations on what lies below one folder are counted; from the n-th on, or at that one alone, they
   answer with an error, or a write takes half. Everything that is linked dynamically passes here:
   Python, and libraries in C, C++ and Rust. Built by `files.py`:

       cc -shared -fPIC -O1 -o failing.so failing.c -ldl

   and loaded by LD_PRELOAD. Nothing happens before `failing_begin`. */

#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/uio.h>
#include <time.h>
#include <unistd.h>

enum { OPEN, READ, MAKE, WRITE, SYNC, RENAME, REMOVE, CHANGE, KINDS };

static char root[PATH_MAX];
static size_t root_length;
static long failing_number, done, seen[KINDS];
static int failing_error, counted, lasting, halves;
static long slow_ns;
static char failed[2 * PATH_MAX + 32];

/* What is counted from now on, in this process and those that it forks.

   folder: whose files are counted. number: the operation that fails, from 1; 0 for none.
   error: that it answers with; 0 for a write that takes half. kinds: a bit for each of those above.
   from_then_on: all later ones fail too. slow: nanoseconds that each takes. */
void failing_begin(const char *folder, long number, int error, int kinds, int from_then_on,
                   long slow) {
    snprintf(root, sizeof root, "%s", folder);
    root_length = strlen(root);
    failing_number = number;
    failing_error = error;
    halves = error == 0;
    counted = kinds;
    lasting = from_then_on;
    slow_ns = slow;
    failed[0] = 0;
    __atomic_store_n(&done, 0, __ATOMIC_SEQ_CST);
    memset(seen, 0, sizeof seen);
}

/* Operations so far of a kind. */
long failing_seen(int kind) { return __atomic_load_n(&seen[kind], __ATOMIC_SEQ_CST); }

/* The operation that failed first, and on what; empty if none did. */
const char *failing_what(void) { return failed; }

static int below(const char *path) {
    return root_length && strncmp(path, root, root_length) == 0 &&
           (path[root_length] == '/' || path[root_length] == 0);
}

static const char *of_descriptor(int descriptor, char *buffer) {
    char link[64];
    snprintf(link, sizeof link, "/proc/self/fd/%d", descriptor);
    ssize_t length = readlink(link, buffer, PATH_MAX - 1);
    buffer[length > 0 ? length : 0] = 0;
    return buffer;
}

static const char *of_path(int folder, const char *path, char *buffer) {
    if (path[0] == '/' || folder == AT_FDCWD) return path;
    of_descriptor(folder, buffer);
    size_t length = strlen(buffer);
    snprintf(buffer + length, PATH_MAX - length, "/%s", path);
    return buffer;
}

/* Counts an operation; whether it is to fail. */
static int fails(int kind, const char *name, const char *path) {
    if (!(counted & 1 << kind) || !below(path)) return 0;
    __atomic_add_fetch(&seen[kind], 1, __ATOMIC_SEQ_CST);
    if (slow_ns) {
        struct timespec wait = {slow_ns / 1000000000, slow_ns % 1000000000};
        nanosleep(&wait, NULL);
    }
    long number = __atomic_add_fetch(&done, 1, __ATOMIC_SEQ_CST);
    if (!failing_number || number < failing_number) return 0;
    if (number > failing_number && !lasting) return 0;
    if (number == failing_number) snprintf(failed, sizeof failed, "%s %s", name, path);
    errno = failing_error;
    return 1;
}

static int fails_at(int kind, const char *name, int descriptor) {
    char buffer[PATH_MAX];
    if (!root_length || !(counted & 1 << kind)) return 0;
    return fails(kind, name, of_descriptor(descriptor, buffer));
}

static int fails_for(int kind, const char *name, int folder, const char *path) {
    char buffer[PATH_MAX];
    if (!root_length || !(counted & 1 << kind)) return 0;
    return fails(kind, name, of_path(folder, path, buffer));
}

#define REAL(name) \
    static __typeof__(&name) real; \
    if (!real) real = (__typeof__(&name))dlsym(RTLD_NEXT, #name)

/* Opening: to read, or to make or change a file. */

static int kind_of(int flags) {
    return (flags & O_ACCMODE) != O_RDONLY || flags & O_CREAT ? MAKE : OPEN;
}

#define OPENS(name) \
    int name(const char *path, int flags, ...) { \
        REAL(name); \
        va_list rest; \
        va_start(rest, flags); \
        mode_t mode = va_arg(rest, mode_t); \
        va_end(rest); \
        if (fails_for(kind_of(flags), "open", AT_FDCWD, path) && !halves) return -1; \
        return real(path, flags, mode); \
    }
OPENS(open)
OPENS(open64)

#define OPENS_AT(name) \
    int name(int folder, const char *path, int flags, ...) { \
        REAL(name); \
        va_list rest; \
        va_start(rest, flags); \
        mode_t mode = va_arg(rest, mode_t); \
        va_end(rest); \
        if (fails_for(kind_of(flags), "open", folder, path) && !halves) return -1; \
        return real(folder, path, flags, mode); \
    }
OPENS_AT(openat)
OPENS_AT(openat64)

#define OPENS_STREAM(name) \
    FILE *name(const char *path, const char *mode) { \
        REAL(name); \
        if (fails_for(strpbrk(mode, "wa+") ? MAKE : OPEN, "open", AT_FDCWD, path) && !halves) \
            return NULL; \
        return real(path, mode); \
    }
OPENS_STREAM(fopen)
OPENS_STREAM(fopen64)

/* Reading and writing. */

ssize_t read(int descriptor, void *buffer, size_t size) {
    REAL(read);
    if (fails_at(READ, "read", descriptor) && !halves) return -1;
    return real(descriptor, buffer, size);
}

ssize_t pread64(int descriptor, void *buffer, size_t size, off64_t place) {
    REAL(pread64);
    if (fails_at(READ, "read", descriptor) && !halves) return -1;
    return real(descriptor, buffer, size, place);
}

ssize_t write(int descriptor, const void *buffer, size_t size) {
    REAL(write);
    if (!fails_at(WRITE, "write", descriptor)) return real(descriptor, buffer, size);
    int error = errno;
    if (halves) return real(descriptor, buffer, size > 1 ? size / 2 : size);
    if (size > 1) real(descriptor, buffer, size / 2); /* as a disk that fills up does */
    errno = error;
    return -1;
}

ssize_t pwrite64(int descriptor, const void *buffer, size_t size, off64_t place) {
    REAL(pwrite64);
    if (!fails_at(WRITE, "write", descriptor)) return real(descriptor, buffer, size, place);
    if (halves) return real(descriptor, buffer, size > 1 ? size / 2 : size, place);
    return -1;
}

ssize_t writev(int descriptor, const struct iovec *parts, int number) {
    REAL(writev);
    if (!fails_at(WRITE, "write", descriptor)) return real(descriptor, parts, number);
    if (halves) return real(descriptor, parts, number > 1 ? number / 2 : number);
    return -1;
}

#define ANSWERS(kind, word, name, of) \
    int name(int descriptor) { \
        REAL(name); \
        if (fails_at(kind, word, of) && !halves) return -1; \
        return real(descriptor); \
    }
ANSWERS(SYNC, "sync", fsync, descriptor)
ANSWERS(SYNC, "sync", fdatasync, descriptor)

int ftruncate64(int descriptor, off64_t length) {
    REAL(ftruncate64);
    if (fails_at(CHANGE, "truncate", descriptor) && !halves) return -1;
    return real(descriptor, length);
}

/* Names. */

int rename(const char *old, const char *new) {
    REAL(rename);
    if (fails_for(RENAME, "rename to", AT_FDCWD, new) && !halves) return -1;
    return real(old, new);
}

int renameat(int from, const char *old, int to, const char *new) {
    REAL(renameat);
    if (fails_for(RENAME, "rename to", to, new) && !halves) return -1;
    return real(from, old, to, new);
}

int mkdir(const char *path, mode_t mode) {
    REAL(mkdir);
    if (fails_for(MAKE, "make folder", AT_FDCWD, path) && !halves) return -1;
    return real(path, mode);
}

int unlink(const char *path) {
    REAL(unlink);
    if (fails_for(REMOVE, "remove", AT_FDCWD, path) && !halves) return -1;
    return real(path);
}

int unlinkat(int folder, const char *path, int flags) {
    REAL(unlinkat);
    if (fails_for(REMOVE, "remove", folder, path) && !halves) return -1;
    return real(folder, path, flags);
}

int rmdir(const char *path) {
    REAL(rmdir);
    if (fails_for(REMOVE, "remove", AT_FDCWD, path) && !halves) return -1;
    return real(path);
}

int chmod(const char *path, mode_t mode) {
    REAL(chmod);
    if (fails_for(CHANGE, "change mode of", AT_FDCWD, path) && !halves) return -1;
    return real(path, mode);
}

int fchmodat(int folder, const char *path, mode_t mode, int flags) {
    REAL(fchmodat);
    if (fails_for(CHANGE, "change mode of", folder, path) && !halves) return -1;
    return real(folder, path, mode, flags);
}
