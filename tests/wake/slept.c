/* Makes a process believe that its host slept: the boot clock and the wall clock are ahead by the nanoseconds that
 * stand in the file NEXUS_TEST_SLEPT (eight bytes, shared memory), the monotonic clock is not. For LD_PRELOAD. */
#define _GNU_SOURCE
#include <fcntl.h>
#include <stdint.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>

static volatile int64_t *slept;

__attribute__((constructor)) static void find(void)
{
    const char *path = getenv("NEXUS_TEST_SLEPT");
    int file = path ? open(path, O_RDONLY | O_CLOEXEC) : -1;
    if (file < 0)
        return;
    void *mapped = mmap(NULL, sizeof *slept, PROT_READ, MAP_SHARED, file, 0);
    close(file);
    if (mapped != MAP_FAILED)
        slept = mapped;
}

int clock_gettime(clockid_t clock, struct timespec *time)
{
    int result = (int)syscall(SYS_clock_gettime, clock, time);
    if (result == 0 && slept && (clock == CLOCK_REALTIME || clock == CLOCK_BOOTTIME)) {
        int64_t nanos = time->tv_nsec + *slept % 1000000000;
        time->tv_sec += *slept / 1000000000 + nanos / 1000000000;
        time->tv_nsec = nanos % 1000000000;
    }
    return result;
}
