/* How every call begins and ends, and the library's own life. */
#include <pthread.h>
#include <stdio.h>
#include <string.h>
#include <strings.h>

#include "world.h"

static Slot slots[GPUS_MAX];
static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;
static int initialised;

nvmlDevice_t slot_of(int gpu)
{
    slots[gpu].gpu = gpu;
    return &slots[gpu];
}

static nvmlReturn_t begin(Call *call, const char *function, int gpu)
{
    pthread_mutex_lock(&lock);
    bool ready = initialised > 0;
    pthread_mutex_unlock(&lock);
    if (!ready)
        return NVML_ERROR_UNINITIALIZED;
    call->world = world_enter();
    if (!call->world)
        return NVML_ERROR_UNKNOWN;
    nvmlReturn_t met = gpu < call->world->gpu_count ? faults_meet(&call->world, function, gpu) : NVML_ERROR_GPU_IS_LOST;
    if (met != NVML_SUCCESS) {
        if (call->world)
            world_leave(call->world);
        return met;
    }
    call->board = call->world->board;
    call->gpu = gpu;
    call->t = world_time(call->world);
    return NVML_SUCCESS;
}

nvmlReturn_t enter(Call *call, const char *function, nvmlDevice_t device)
{
    for (int gpu = 0; gpu < GPUS_MAX; gpu++)
        if (device == &slots[gpu])
            return begin(call, function, gpu);
    return initialised ? NVML_ERROR_INVALID_ARGUMENT : NVML_ERROR_UNINITIALIZED;
}

nvmlReturn_t enter_system(Call *call, const char *function)
{
    return begin(call, function, NO_GPU);
}

nvmlReturn_t leave(Call *call, nvmlReturn_t answer)
{
    world_leave(call->world);
    return answer;
}

nvmlReturn_t copy_text(char *target, unsigned size, const char *text)
{
    if (!target)
        return NVML_ERROR_INVALID_ARGUMENT;
    if (strlen(text) >= size)
        return NVML_ERROR_INSUFFICIENT_SIZE;
    strcpy(target, text);
    return NVML_SUCCESS;
}

unsigned long long counted(const Call *call, int value)
{
    double number = reading(call->world, call->gpu, value, call->t);
    return number > 0 ? (unsigned long long)number : 0;
}

/* ---- life ---- */

static nvmlReturn_t initialise(void)
{
    char problem[512];
    pthread_mutex_lock(&lock);
    bool first = initialised == 0;
    pthread_mutex_unlock(&lock);
    if (first && !world_open(problem, sizeof problem))
        return NVML_ERROR_UNKNOWN;
    World *world = world_enter();
    if (!world)
        return NVML_ERROR_UNKNOWN;
    nvmlReturn_t answer = faults_meet(&world, "nvmlInit", NO_GPU);
    if (world && answer == NVML_SUCCESS && *world->kernel_driver && strcmp(world->kernel_driver, DRIVER) != 0)
        answer = NVML_ERROR_LIB_RM_VERSION_MISMATCH;
    if (world)
        world_leave(world);
    pthread_mutex_lock(&lock);
    initialised += answer == NVML_SUCCESS;
    pthread_mutex_unlock(&lock);
    return answer;
}

API nvmlReturn_t nvmlInit(void)
{
    return initialise();
}

API nvmlReturn_t nvmlInit_v2(void)
{
    return initialise();
}

API nvmlReturn_t nvmlInitWithFlags(unsigned flags)
{
    return flags > 3 ? NVML_ERROR_INVALID_ARGUMENT : initialise();
}

API nvmlReturn_t nvmlShutdown(void)
{
    pthread_mutex_lock(&lock);
    bool ready = initialised > 0;
    initialised -= ready;
    pthread_mutex_unlock(&lock);
    return ready ? NVML_SUCCESS : NVML_ERROR_UNINITIALIZED;
}

API const char *nvmlErrorString(nvmlReturn_t code)
{
    static const char *const texts[] = {
        "Success", "Uninitialized", "Invalid Argument", "Not Supported", "Insufficient Permissions", "Already Initialized",
        "Not Found", "Insufficient Size", "Insufficient External Power", "Driver Not Loaded", "Timeout",
        "Interrupt Request Issue", "NVML Shared Library Not Found", "Function Not Found", "Corrupted infoROM", "GPU is lost",
        "GPU requires reset", "The operating system has blocked the request.", "Driver/library version mismatch",
        "In use by another client", "Insufficient Memory", "No data", "vGPU ECC not supported", "Insufficient resources",
        "Frequency not supported", "Argument version mismatch", "Deprecated", "Not Ready", "GPU not found", "Invalid state"};
    return code >= 0 && (size_t)code < sizeof texts / sizeof *texts ? texts[code] : "Unknown Error";
}

/* Not part of NVML: its presence is how whoever loads this library knows that nothing it says is real. */
API int outriderSimulated(void)
{
    return 1;
}

/* ---- the simulator's own door: what a text would be, without a file and without nvmlInit ---- */

API int outriderCheckWorld(const char *text, const char *before, double wall, char *problem, unsigned size)
{
    World *world = world_parse(text, "world", wall, problem, size), *was = NULL;
    if (!world)
        return 0;
    char ignored[512];
    if (before)
        was = world_parse(before, "world", wall, ignored, sizeof ignored);
    int good = !was || world_follows(was, world, wall, problem, size);
    if (was)
        world_free(was);
    world_free(world);
    return good;
}

static int value_named(const char *name)
{
    for (int v = 0; v < VALUE_COUNT; v++)
        if (strcmp(value_rows[v].name, name) == 0)
            return v;
    return -1;
}

/* A value of a GPU at a wall time; 0 where the text or the name is not right. */
API int outriderReading(const char *text, int gpu, const char *name, double wall, double *answer)
{
    char problem[512];
    World *world = world_parse(text, "world", wall, problem, sizeof problem);
    int value = value_named(name);
    bool good = world && value >= 0 && gpu >= 0 && gpu < world->gpu_count;
    if (good)
        *answer = reading(world, gpu, value, world_time_at(world, wall));
    if (world)
        world_free(world);
    return good;
}

/* World time, energy in J and load-seconds of each GPU at a wall time: what a changed world goes on from. */
API int outriderHistory(const char *text, double wall, double *answer)
{
    char problem[512];
    World *world = world_parse(text, "world", wall, problem, sizeof problem);
    if (!world)
        return 0;
    double t = world_time_at(world, wall);
    for (int gpu = 0; gpu < world->gpu_count; gpu++, answer += 3)
        answer[0] = t, answer[1] = energy_j(world, gpu, t), answer[2] = load_seconds(world, gpu, t);
    world_free(world);
    return 1;
}

/* Write the kernel log's lines that are due in a world, as any call of a process that loaded it would. */
API int outriderWriteLog(const char *text)
{
    char problem[512];
    World *world = world_parse(text, "world", wall_clock(), problem, sizeof problem);
    if (!world)
        return 0;
    kernel_log_begin(world);
    if (world->unlogged)
        kernel_log_due(world);
    world_free(world);
    return 1;
}
