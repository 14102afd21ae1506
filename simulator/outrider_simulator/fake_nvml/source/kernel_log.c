/* The driver's lines in a kernel log: records as /dev/kmsg gives them, facility 0, in the form the driver writes.
 *
 * Forms and levels from published logs: NVRM lines come at level 4 (warning), nvidia-nvswitch lines at level 3 (err).
 * Many processes see the same event; which lines were written is kept beside the log, under the log's lock.
 */
#define _GNU_SOURCE
#include <fcntl.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/file.h>
#include <time.h>
#include <unistd.h>

#include "world.h"

#define XID_EVENT 0x8
#define FIRST_SEQUENCE 1000ULL

static bool writes_line(const Event *event)
{
    return event->type == XID_EVENT || *event->text;
}

static void compose(const World *world, const Event *event, char *line, size_t size)
{
    unsigned domain = 0, bus = 0, device = 0;
    if (event->type == XID_EVENT) {
        sscanf(world->gpus[event->gpu].pci, "%8x:%2x:%2x", &domain, &bus, &device);
        snprintf(line, size, "NVRM: Xid (PCI:%04x:%02x:%02x): %llu, %s", domain, bus, device, event->data,
                 *event->text ? event->text : "pid='<unknown>', name=<unknown>");
    } else if (event->type == 0 && event->data >= SXID_MIN) {
        char *rest;
        unsigned long which = strtoul(event->text, &rest, 10);
        snprintf(line, size, "nvidia-nvswitch%lu: SXid (PCI:0000:%02lx:00.0): %llu,%s", which, 5 + which, event->data, rest);
    } else
        snprintf(line, size, "%s", event->text);
}

static unsigned long long next_sequence(int log)
{
    char tail[2048];
    off_t end = lseek(log, 0, SEEK_END), from = end > (off_t)sizeof tail - 1 ? end - (off_t)sizeof tail + 1 : 0;
    ssize_t got = pread(log, tail, sizeof tail - 1, from);
    if (got <= 0)
        return FIRST_SEQUENCE;
    tail[got] = 0;
    tail[got - 1] = 0; /* the last line's end */
    char *line = strrchr(tail, '\n'), *comma = strchr(line ? line : tail, ',');
    return comma ? strtoull(comma + 1, NULL, 10) + 1 : FIRST_SEQUENCE;
}

static const char *written_path(const World *world)
{
    static char path[528];
    snprintf(path, sizeof path, "%s.written", world->kernel_log);
    return path;
}

static void append(World *world, Event *event, int log, int written)
{
    char line[512], record[600], key[20];
    struct timespec since_boot;
    clock_gettime(CLOCK_MONOTONIC, &since_boot);
    compose(world, event, line, sizeof line);
    int length = snprintf(record, sizeof record, "%d,%llu,%lld,-;%s\n", event->level, next_sequence(log),
                          (long long)since_boot.tv_sec * 1000000 + since_boot.tv_nsec / 1000, line);
    int keyed = snprintf(key, sizeof key, "%016" PRIx64 "\n", event->key);
    if (write(log, record, (size_t)length) != length || write(written, key, (size_t)keyed) != keyed)
        fprintf(stderr, "outrider's fake NVML could not write to %s\n", world->kernel_log);
}

static void mark_logged(World *world)
{
    char *known = read_whole(written_path(world)), key[20];
    world->unlogged = 0;
    for (int i = 0; i < world->event_count; i++) {
        Event *event = &world->events[i];
        snprintf(key, sizeof key, "%016" PRIx64, event->key);
        event->logged = event->logged || !writes_line(event) || (known && strstr(known, key));
        world->unlogged += !event->logged;
    }
    free(known);
}

void kernel_log_begin(World *world)
{
    if (*world->kernel_log)
        mark_logged(world);
}

/* Write the lines of the events whose time has come, in order, each once whoever looks. */
void kernel_log_due(World *world)
{
    double t = world_time(world);
    bool due = false;
    for (int i = 0; i < world->event_count; i++)
        due |= !world->events[i].logged && world->events[i].at <= t;
    if (!due)
        return;
    int log = open(world->kernel_log, O_RDWR | O_APPEND | O_CREAT | O_CLOEXEC, 0644);
    int written = open(written_path(world), O_WRONLY | O_APPEND | O_CREAT | O_CLOEXEC, 0644);
    if (log < 0 || written < 0) {
        fprintf(stderr, "outrider's fake NVML cannot open %s\n", world->kernel_log);
        world->unlogged = 0;
    } else if (flock(log, LOCK_EX) == 0) {
        mark_logged(world);
        for (int i = 0; i < world->event_count; i++)
            if (!world->events[i].logged && world->events[i].at <= t)
                append(world, &world->events[i], log, written);
        mark_logged(world);
    }
    if (log >= 0)
        close(log); /* gives the lock back */
    if (written >= 0)
        close(written);
}
