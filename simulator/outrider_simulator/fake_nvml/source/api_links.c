/* Paths: PCIe, NVLink, the fabric, and how the GPUs stand to each other. */
#include <stdio.h>
#include <string.h>

#include "world.h"

#define HOPPER 9
#define FIRST_SWITCH_BUS 5

#define NUMBER_CALL(name, number)                                      \
    API nvmlReturn_t name(nvmlDevice_t device, unsigned *into)         \
    {                                                                  \
        ENTER(device);                                                 \
        REQUIRE(into != NULL);                                         \
        *into = (unsigned)(number);                                    \
        LEAVE(NVML_SUCCESS);                                           \
    }

/* ---- PCIe ---- */

NUMBER_CALL(nvmlDeviceGetCurrPcieLinkGeneration, counted(&call, VALUE_pcie_generation))
NUMBER_CALL(nvmlDeviceGetMaxPcieLinkGeneration, call.board->pcie_generation)
NUMBER_CALL(nvmlDeviceGetGpuMaxPcieLinkGeneration, call.board->pcie_generation)
NUMBER_CALL(nvmlDeviceGetCurrPcieLinkWidth, counted(&call, VALUE_pcie_width))
NUMBER_CALL(nvmlDeviceGetMaxPcieLinkWidth, 16)
NUMBER_CALL(nvmlDeviceGetPcieReplayCounter, counted(&call, VALUE_pcie_replays))

API nvmlReturn_t nvmlDeviceGetPcieThroughput(nvmlDevice_t device, unsigned counter, unsigned *kb_per_s)
{
    ENTER(device);
    REQUIRE(counter < 2 && kb_per_s);
    *kb_per_s = (unsigned)counted(&call, counter ? VALUE_pcie_rx : VALUE_pcie_tx);
    LEAVE(NVML_SUCCESS);
}

/* ---- NVLink ---- */

/* A board without NVLink says so; a link it does not have is a wrong argument. */
static nvmlReturn_t has_link(const Call *call, unsigned link)
{
    if (!call->board->links)
        return NVML_ERROR_NOT_SUPPORTED;
    return link < (unsigned)call->board->links ? NVML_SUCCESS : NVML_ERROR_INVALID_ARGUMENT;
}

#define REQUIRE_LINK(link)                                             \
    do {                                                               \
        nvmlReturn_t has = has_link(&call, link);                      \
        if (has != NVML_SUCCESS)                                       \
            return leave(&call, has);                                  \
    } while (0)

static unsigned long long link_now(const Call *call, unsigned link, int value)
{
    double number = link_reading(call->world, call->gpu, (int)link, value, call->t);
    return number > 0 ? (unsigned long long)number : 0;
}

API nvmlReturn_t nvmlDeviceGetNvLinkState(nvmlDevice_t device, unsigned link, unsigned *active)
{
    ENTER(device);
    REQUIRE_LINK(link);
    *active = link_now(&call, link, LINK_state) != 0;
    LEAVE(NVML_SUCCESS);
}

API nvmlReturn_t nvmlDeviceGetNvLinkVersion(nvmlDevice_t device, unsigned link, unsigned *version)
{
    ENTER(device);
    REQUIRE_LINK(link);
    *version = (unsigned)call.board->link_version;
    LEAVE(NVML_SUCCESS);
}

/* Peer access and its atomics, and the link itself: yes; to system memory, and SLI: no. */
API nvmlReturn_t nvmlDeviceGetNvLinkCapability(nvmlDevice_t device, unsigned link, unsigned which, unsigned *answer)
{
    ENTER(device);
    static const unsigned capabilities[] = {1, 0, 1, 0, 0, 1};
    REQUIRE_LINK(link);
    REQUIRE(which < 6 && answer);
    *answer = capabilities[which];
    LEAVE(NVML_SUCCESS);
}

/* Hopper counts replays, recoveries and flit CRC errors; the counters of data CRC and link ECC ended with Ampere. */
API nvmlReturn_t nvmlDeviceGetNvLinkErrorCounter(nvmlDevice_t device, unsigned link, unsigned which,
                                                 unsigned long long *count)
{
    ENTER(device);
    static const int values[] = {LINK_replay, LINK_recovery, LINK_crc};
    REQUIRE_LINK(link);
    REQUIRE(which < 5 && count);
    if (which > 2 && call.board->architecture >= HOPPER)
        LEAVE(NVML_ERROR_NOT_SUPPORTED);
    *count = which > 2 ? 0 : link_now(&call, link, values[which]);
    LEAVE(NVML_SUCCESS);
}

API nvmlReturn_t nvmlDeviceGetNvLinkUtilizationCounter(nvmlDevice_t device, unsigned link, unsigned counter,
                                                       unsigned long long *rx, unsigned long long *tx)
{
    ENTER(device);
    (void)rx, (void)tx;
    REQUIRE_LINK(link);
    REQUIRE(counter < 2);
    LEAVE(NVML_ERROR_NOT_SUPPORTED);
}

/* The links are dealt out to the switches in turn. */
void switch_address(const Call *call, unsigned link, char *text, size_t size)
{
    snprintf(text, size, "00000000:%02X:00.0", FIRST_SWITCH_BUS + link % (unsigned)call->board->switches);
}

API nvmlReturn_t nvmlDeviceGetNvLinkRemotePciInfo_v2(nvmlDevice_t device, unsigned link, nvmlPciInfo_t *info)
{
    ENTER(device);
    char address[32];
    REQUIRE_LINK(link);
    switch_address(&call, link, address, sizeof address);
    pci_info(info, address, (unsigned)call.board->switch_device_id, 0);
    LEAVE(NVML_SUCCESS);
}

API nvmlReturn_t nvmlDeviceGetNvLinkRemoteDeviceType(nvmlDevice_t device, unsigned link, unsigned *type)
{
    ENTER(device);
    REQUIRE_LINK(link);
    *type = 2; /* a switch */
    LEAVE(NVML_SUCCESS);
}

/* ---- fabric ---- */

#define FILL_FABRIC(info)                                              \
    do {                                                               \
        memset((info)->clusterUuid, 0, sizeof(info)->clusterUuid);     \
        (info)->status = (nvmlReturn_t)counted(&call, VALUE_fabric_status); \
        (info)->cliqueId = 0;                                          \
        (info)->state = (unsigned)counted(&call, VALUE_fabric_state);  \
    } while (0)

API nvmlReturn_t nvmlDeviceGetGpuFabricInfo(nvmlDevice_t device, nvmlGpuFabricInfo_t *info)
{
    ENTER(device);
    FILL_FABRIC(info);
    LEAVE(NVML_SUCCESS);
}

API nvmlReturn_t nvmlDeviceGetGpuFabricInfoV(nvmlDevice_t device, nvmlGpuFabricInfo_v3_t *info)
{
    ENTER(device);
    bool second = info->version == VERSIONED(nvmlGpuFabricInfo_v2_t, 2);
    bool third = info->version == VERSIONED(nvmlGpuFabricInfo_v3_t, 3) && BRANCH >= 570;
    if (!second && !third)
        LEAVE(NVML_ERROR_ARGUMENT_VERSION_MISMATCH);
    FILL_FABRIC(info);
    info->healthMask = call.board->fabric ? (unsigned)counted(&call, VALUE_fabric_health_mask) : 0;
    if (third)
        info->healthSummary = call.board->fabric ? (unsigned char)counted(&call, VALUE_fabric_health_summary) : 0;
    LEAVE(NVML_SUCCESS);
}

/* ---- how two GPUs stand to each other ---- */

/* The other GPU must be one too, and one that answers. */
static nvmlReturn_t other_of(const char *function, nvmlDevice_t device, int *gpu)
{
    Call call;
    nvmlReturn_t entered = enter(&call, function, device);
    if (entered != NVML_SUCCESS)
        return entered;
    *gpu = call.gpu;
    LEAVE(NVML_SUCCESS);
}

API nvmlReturn_t nvmlDeviceGetP2PStatus(nvmlDevice_t device, nvmlDevice_t peer, unsigned which, unsigned *status)
{
    int other;
    nvmlReturn_t answered = other_of(__func__, peer, &other);
    if (answered != NVML_SUCCESS)
        return answered;
    ENTER(device);
    REQUIRE(which < 5 && status && other != call.gpu);
    bool absent = which == 2 && !call.board->links;
    *status = absent ? 5 : (unsigned)call.world->p2p[call.gpu][other];
    LEAVE(NVML_SUCCESS);
}

static unsigned level(const World *world, int a, int b)
{
    int half = (world->gpu_count + 1) / 2;
    return (a < half) == (b < half) ? 40 : 50; /* same socket: node; else over the sockets' link: system */
}

API nvmlReturn_t nvmlDeviceGetTopologyCommonAncestor(nvmlDevice_t device, nvmlDevice_t peer, unsigned *answer)
{
    int other;
    nvmlReturn_t answered = other_of(__func__, peer, &other);
    if (answered != NVML_SUCCESS)
        return answered;
    ENTER(device);
    REQUIRE(answer && other != call.gpu);
    *answer = level(call.world, call.gpu, other);
    LEAVE(NVML_SUCCESS);
}

API nvmlReturn_t nvmlDeviceGetTopologyNearestGpus(nvmlDevice_t device, unsigned which, unsigned *count, nvmlDevice_t *into)
{
    ENTER(device);
    unsigned room = into ? *count : 0, found = 0;
    for (int other = 0; other < call.world->gpu_count; other++)
        if (other != call.gpu && level(call.world, call.gpu, other) == which && ++found <= room)
            into[found - 1] = slot_of(other);
    *count = found;
    LEAVE(NVML_SUCCESS);
}

/* 56 cores a socket, the GPUs of each half on theirs. */
API nvmlReturn_t nvmlDeviceGetCpuAffinity(nvmlDevice_t device, unsigned words, unsigned long *set)
{
    ENTER(device);
    REQUIRE(set && words);
    unsigned first = call.gpu >= (call.world->gpu_count + 1) / 2 ? 56 : 0;
    memset(set, 0, words * sizeof *set);
    for (unsigned core = first; core < first + 56 && core / 64 < words; core++)
        set[core / 64] |= 1UL << core % 64;
    LEAVE(NVML_SUCCESS);
}
