/* Event sets: an event reaches every set that was registered for it before it happened, once. */
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "world.h"

#define POLL_MS 50 /* a real driver sleeps until there is something; this one must look, and looks cost */
#define EVENTS_OLD 0x11FULL    /* single and double bit ECC, P-state, Xid, clock, MIG */
#define EVENTS_NEW 0xFE00ULL   /* storms, retirements, poison, unavailable, recovery action: from branch 575 */

typedef struct EventSet {
    unsigned long long wanted[GPUS_MAX];
    uint64_t *known; /* the keys of events that this set is done with */
    size_t known_count, known_room;
} EventSet;
typedef EventSet *nvmlEventSet_t;

static unsigned long long supported(void)
{
    return EVENTS_OLD | (BRANCH >= 575 ? EVENTS_NEW : 0);
}

static bool is_known(const EventSet *set, uint64_t key)
{
    for (size_t i = 0; i < set->known_count; i++)
        if (set->known[i] == key)
            return true;
    return false;
}

static bool note_known(EventSet *set, uint64_t key)
{
    if (set->known_count == set->known_room) {
        size_t room = set->known_room ? 2 * set->known_room : 64;
        uint64_t *more = realloc(set->known, room * sizeof *more);
        if (!more)
            return false;
        set->known = more;
        set->known_room = room;
    }
    set->known[set->known_count++] = key;
    return true;
}

API nvmlReturn_t nvmlDeviceGetSupportedEventTypes(nvmlDevice_t device, unsigned long long *types)
{
    ENTER(device);
    *types = supported();
    LEAVE(NVML_SUCCESS);
}

API nvmlReturn_t nvmlEventSetCreate(nvmlEventSet_t *set)
{
    Call call;
    nvmlReturn_t entered = enter_system(&call, __func__);
    if (entered != NVML_SUCCESS)
        return entered;
    *set = calloc(1, sizeof **set);
    LEAVE(*set ? NVML_SUCCESS : NVML_ERROR_MEMORY);
}

API nvmlReturn_t nvmlEventSetFree(nvmlEventSet_t set)
{
    if (!set)
        return NVML_ERROR_INVALID_ARGUMENT;
    free(set->known);
    free(set);
    return NVML_SUCCESS;
}

/* What happened before the registration is not told. */
API nvmlReturn_t nvmlDeviceRegisterEvents(nvmlDevice_t device, unsigned long long types, nvmlEventSet_t set)
{
    ENTER(device);
    REQUIRE(set != NULL);
    if (types & ~supported())
        LEAVE(NVML_ERROR_NOT_SUPPORTED);
    for (int i = 0; i < call.world->event_count; i++) {
        const Event *event = &call.world->events[i];
        if (event->gpu == call.gpu && event->at <= call.t && !is_known(set, event->key) && !note_known(set, event->key))
            LEAVE(NVML_ERROR_MEMORY);
    }
    set->wanted[call.gpu] |= types;
    LEAVE(NVML_SUCCESS);
}

/* The earliest event that is due for this set, or NULL. */
static const Event *next_event(const World *world, const EventSet *set, double t)
{
    const Event *next = NULL;
    for (int i = 0; i < world->event_count; i++) {
        const Event *event = &world->events[i];
        if (event->gpu < 0 || event->at > t || !(set->wanted[event->gpu] & event->type) || is_known(set, event->key))
            continue;
        if (!next || event->at < next->at || (event->at == next->at && event->id < next->id))
            next = event;
    }
    return next;
}

static bool watches_a_lost_one(const World *world, const EventSet *set)
{
    for (int gpu = 0; gpu < world->gpu_count; gpu++)
        if (set->wanted[gpu] && (gpu_is(world, gpu, LOST) || gpu_is(world, gpu, ABSENT)))
            return true;
    return false;
}

/* NVML_ERROR_TIMEOUT stands for: nothing yet. */
static nvmlReturn_t look(const char *function, EventSet *set, nvmlEventData_t *data)
{
    Call call;
    nvmlReturn_t entered = enter_system(&call, function);
    if (entered != NVML_SUCCESS)
        return entered;
    const Event *event = next_event(call.world, set, call.t);
    if (!event)
        LEAVE(watches_a_lost_one(call.world, set) ? NVML_ERROR_GPU_IS_LOST : NVML_ERROR_TIMEOUT);
    if (!note_known(set, event->key))
        LEAVE(NVML_ERROR_MEMORY);
    *data = (nvmlEventData_t){.device = slot_of(event->gpu),
                              .eventType = event->type,
                              .eventData = event->data,
                              .gpuInstanceId = 0xFFFFFFFF,
                              .computeInstanceId = 0xFFFFFFFF};
    LEAVE(NVML_SUCCESS);
}

API nvmlReturn_t nvmlEventSetWait_v2(nvmlEventSet_t set, nvmlEventData_t *data, unsigned timeout_ms)
{
    if (!set || !data)
        return NVML_ERROR_INVALID_ARGUMENT;
    struct timespec began, now, pause = {0, POLL_MS * 1000000L};
    clock_gettime(CLOCK_MONOTONIC, &began);
    for (;;) {
        nvmlReturn_t answer = look(__func__, set, data);
        clock_gettime(CLOCK_MONOTONIC, &now);
        double waited_ms = 1e3 * (double)(now.tv_sec - began.tv_sec) + 1e-6 * (double)(now.tv_nsec - began.tv_nsec);
        if (answer != NVML_ERROR_TIMEOUT || waited_ms >= timeout_ms)
            return answer;
        nanosleep(&pause, NULL);
    }
}

API nvmlReturn_t nvmlEventSetWait(nvmlEventSet_t set, nvmlEventData_t *data, unsigned timeout_ms)
{
    return nvmlEventSetWait_v2(set, data, timeout_ms);
}
