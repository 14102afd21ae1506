/* What a call meets before it may answer: a lost GPU, a hang, a wait, an error.
 *
 * A fault stays until the file clears it. One that struck by count or chance is written down beside the world file, so
 * that it has struck for every process, also for one that starts later.
 */
#define _GNU_SOURCE
#include <fcntl.h>
#include <inttypes.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#include "world.h"

#define POLL_S 0.01

static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;
static struct {
    uint64_t id;
    long calls;
} counts[FAULTS_MAX];
static int count_used;

static void wait_s(double seconds)
{
    struct timespec left = {(time_t)seconds, (long)((seconds - (double)(time_t)seconds) * 1e9)};
    while (nanosleep(&left, &left) != 0)
        ;
}

static bool conditional(const Fault *fault)
{
    return fault->after > 0 || fault->chance < 1;
}

static const char *struck_path(void)
{
    static __thread char path[4104];
    snprintf(path, sizeof path, "%s.struck", world_path());
    return path;
}

static bool has_struck(const Fault *fault)
{
    char *text = read_whole(struck_path()), line[20];
    snprintf(line, sizeof line, "%016" PRIx64, fault->id);
    bool found = text && strstr(text, line);
    free(text);
    return found;
}

static void note_struck(const Fault *fault)
{
    char line[20];
    int length = snprintf(line, sizeof line, "%016" PRIx64 "\n", fault->id);
    int file = open(struck_path(), O_WRONLY | O_APPEND | O_CREAT | O_CLOEXEC, 0644);
    if (file < 0 || write(file, line, (size_t)length) != length)
        fprintf(stderr, "outrider's fake NVML could not note a struck fault in %s\n", struck_path());
    if (file >= 0)
        close(file);
}

static long calls_of(const Fault *fault)
{
    pthread_mutex_lock(&lock);
    int i = 0;
    while (i < count_used && counts[i].id != fault->id)
        i++;
    if (i == count_used && count_used == FAULTS_MAX)
        i = count_used = 0; /* the oldest worlds' counts make room */
    if (i == count_used) {
        counts[i].id = fault->id;
        counts[i].calls = 0;
        count_used++;
    }
    long calls = ++counts[i].calls;
    pthread_mutex_unlock(&lock);
    return calls;
}

static bool strikes(const World *world, const Fault *fault)
{
    if (!conditional(fault) || (!fault->passing && has_struck(fault)))
        return true;
    long calls = calls_of(fault);
    if (calls <= fault->after)
        return false;
    if (fault->chance < 1 && share_of(mixed(mixed(world->seed, fault->id), (uint64_t)calls)) >= fault->chance)
        return false;
    if (!fault->passing)
        note_struck(fault);
    return true;
}

static bool named(const char *pattern, const char *function)
{
    size_t length = strlen(pattern);
    if (length && pattern[length - 1] == '*')
        return strncmp(pattern, function, length - 1) == 0;
    return strcmp(pattern, function) == 0;
}

static bool concerns(const Fault *fault, const char *function, int gpu)
{
    bool state = fault->kind == LOST || fault->kind == RESET_REQUIRED || fault->kind == ABSENT;
    if (state && gpu < 0)
        return false;
    return (fault->gpu == EVERY_GPU || fault->gpu == gpu) && named(fault->function, function);
}

/* Who a GPU is can be asked of one that waits for a reset, and so can what it needs. */
static bool answers_before_reset(const char *function)
{
    static const char *const known[] = {"nvmlDeviceGetHandleBy*", "nvmlDeviceGetUUID",        "nvmlDeviceGetSerial",
                                        "nvmlDeviceGetIndex",     "nvmlDeviceGetMinorNumber", "nvmlDeviceGetName",
                                        "nvmlDeviceGetPciInfo*",  "nvmlDeviceGetFieldValues"};
    for (size_t i = 0; i < sizeof known / sizeof *known; i++)
        if (named(known[i], function))
            return true;
    return false;
}

/* Sleep until the fault is gone from the file or its time is over; the world goes on meanwhile. */
static void hang(World **world, const Fault *fault)
{
    double waited = 0, most = fault->seconds;
    uint64_t id = fault->id;
    for (bool there = true; *world && there && waited < most; waited += POLL_S) {
        world_leave(*world);
        wait_s(POLL_S);
        *world = world_enter();
        there = false;
        for (int i = 0; *world && i < (*world)->fault_count; i++)
            there |= (*world)->faults[i].id == id;
    }
}

static nvmlReturn_t code_of(const Fault *fault, const char *function)
{
    switch (fault->kind) {
    case LOST:
    case ABSENT:
        return NVML_ERROR_GPU_IS_LOST;
    case RESET_REQUIRED:
        return answers_before_reset(function) ? NVML_SUCCESS : NVML_ERROR_RESET_REQUIRED;
    case RETURN:
        return fault->code;
    default:
        return NVML_SUCCESS;
    }
}

nvmlReturn_t faults_meet(World **world, const char *function, int gpu)
{
    for (int i = 0; *world && i < (*world)->fault_count; i++) {
        const Fault fault = (*world)->faults[i];
        if (!concerns(&fault, function, gpu) || !strikes(*world, &fault))
            continue;
        if (fault.kind == HANG)
            hang(world, &fault);
        else if (fault.kind == SLOW)
            wait_s(fault.seconds);
        else if (code_of(&fault, function) != NVML_SUCCESS)
            return code_of(&fault, function);
    }
    return *world ? NVML_SUCCESS : NVML_ERROR_UNKNOWN;
}

/* Whether a GPU is lost, absent or waiting for a reset, without that this look counts as a call. */
bool gpu_is(const World *world, int gpu, FaultKind kind)
{
    for (int i = 0; i < world->fault_count; i++) {
        const Fault *fault = &world->faults[i];
        if (fault->kind == kind && (fault->gpu == EVERY_GPU || fault->gpu == gpu))
            if (!conditional(fault) || has_struck(fault))
                return true;
    }
    return false;
}

/* The code of one field of nvmlDeviceGetFieldValues: faults whose function reads field:NUMBER. */
nvmlReturn_t fault_code(const World *world, const char *function, int gpu)
{
    for (int i = 0; i < world->fault_count; i++) {
        const Fault *fault = &world->faults[i];
        if (fault->kind == RETURN && strncmp(fault->function, "field:", 6) == 0 && concerns(fault, function, gpu))
            if (strikes(world, fault))
                return fault->code;
    }
    return NVML_SUCCESS;
}
