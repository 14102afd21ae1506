/* Who is there: versions, counts, handles, names, addresses, what the board is. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>

#include "world.h"

API nvmlReturn_t nvmlSystemGetDriverVersion(char *version, unsigned size)
{
    return copy_text(version, size, DRIVER);
}

/* NVML's own version is the CUDA version before the driver's: 12.570.133.20. */
API nvmlReturn_t nvmlSystemGetNVMLVersion(char *version, unsigned size)
{
    char text[96];
    snprintf(text, sizeof text, "%d.%s", CUDA / 1000, DRIVER);
    return copy_text(version, size, text);
}

API nvmlReturn_t nvmlSystemGetCudaDriverVersion(int *version)
{
    *version = CUDA;
    return NVML_SUCCESS;
}

API nvmlReturn_t nvmlSystemGetCudaDriverVersion_v2(int *version)
{
    return nvmlSystemGetCudaDriverVersion(version);
}

API nvmlReturn_t nvmlSystemGetDriverBranch(nvmlDriverBranch_t *info, unsigned size)
{
    char text[80];
    if (info->version != VERSIONED(nvmlDriverBranch_t, 1))
        return NVML_ERROR_ARGUMENT_VERSION_MISMATCH;
    snprintf(text, sizeof text, "r%d_00", atoi(DRIVER));
    return copy_text(info->branch, size < sizeof info->branch ? size : sizeof info->branch, text);
}

API nvmlReturn_t nvmlSystemGetProcessName(unsigned pid, char *name, unsigned size)
{
    char path[64], text[256];
    snprintf(path, sizeof path, "/proc/%u/cmdline", pid);
    FILE *file = fopen(path, "re");
    if (!file)
        return NVML_ERROR_NOT_FOUND;
    text[fread(text, 1, sizeof text - 1, file)] = 0;
    fclose(file);
    return copy_text(name, size, text);
}

/* ---- which GPUs there are ---- */

static bool there(const World *world, int gpu)
{
    return !gpu_is(world, gpu, ABSENT);
}

API nvmlReturn_t nvmlDeviceGetCount_v2(unsigned *count)
{
    Call call;
    nvmlReturn_t entered = enter_system(&call, __func__);
    if (entered != NVML_SUCCESS)
        return entered;
    *count = 0;
    for (int gpu = 0; gpu < call.world->gpu_count; gpu++)
        *count += there(call.world, gpu);
    LEAVE(NVML_SUCCESS);
}

API nvmlReturn_t nvmlDeviceGetCount(unsigned *count)
{
    return nvmlDeviceGetCount_v2(count);
}

/* Index, UUID, address and serial number find a GPU in the same way: the first that is meant. */
typedef bool (*Meant)(const Gpu *gpu, unsigned index, const void *sought);

static nvmlReturn_t find(const char *function, nvmlReturn_t otherwise, Meant meant, const void *sought, nvmlDevice_t *device)
{
    Call call;
    nvmlReturn_t entered = enter_system(&call, function);
    if (entered != NVML_SUCCESS)
        return entered;
    unsigned index = 0;
    int found = -1;
    for (int gpu = 0; gpu < call.world->gpu_count && found < 0; gpu++) {
        if (!there(call.world, gpu))
            continue;
        if (meant(&call.world->gpus[gpu], index, sought))
            found = gpu;
        index++;
    }
    leave(&call, NVML_SUCCESS);
    if (found < 0)
        return otherwise;
    entered = enter(&call, function, slot_of(found));
    if (entered != NVML_SUCCESS)
        return entered;
    *device = slot_of(found);
    LEAVE(NVML_SUCCESS);
}

static bool by_index(const Gpu *gpu, unsigned index, const void *sought)
{
    (void)gpu;
    return index == *(const unsigned *)sought;
}

static bool by_uuid(const Gpu *gpu, unsigned index, const void *sought)
{
    (void)index;
    return strcmp(gpu->uuid, sought) == 0;
}

static bool by_serial(const Gpu *gpu, unsigned index, const void *sought)
{
    (void)index;
    return strcmp(gpu->serial, sought) == 0;
}

/* 00000000:18:00.0, 0000:18:00.0 and 18:00.0 are the same address. */
static bool by_address(const Gpu *gpu, unsigned index, const void *sought)
{
    (void)index;
    unsigned a[4] = {0}, b[4] = {0};
    const char *text = sought;
    if (sscanf(text, "%x:%x:%x.%x", &b[0], &b[1], &b[2], &b[3]) != 4) {
        b[0] = 0;
        if (sscanf(text, "%x:%x.%x", &b[1], &b[2], &b[3]) != 3)
            return false;
    }
    sscanf(gpu->pci, "%x:%x:%x.%x", &a[0], &a[1], &a[2], &a[3]);
    return memcmp(a, b, sizeof a) == 0;
}

API nvmlReturn_t nvmlDeviceGetHandleByIndex_v2(unsigned index, nvmlDevice_t *device)
{
    return find(__func__, NVML_ERROR_INVALID_ARGUMENT, by_index, &index, device);
}

API nvmlReturn_t nvmlDeviceGetHandleByIndex(unsigned index, nvmlDevice_t *device)
{
    return nvmlDeviceGetHandleByIndex_v2(index, device);
}

API nvmlReturn_t nvmlDeviceGetHandleByUUID(const char *uuid, nvmlDevice_t *device)
{
    return uuid ? find(__func__, NVML_ERROR_NOT_FOUND, by_uuid, uuid, device) : NVML_ERROR_INVALID_ARGUMENT;
}

API nvmlReturn_t nvmlDeviceGetHandleBySerial(const char *serial, nvmlDevice_t *device)
{
    return serial ? find(__func__, NVML_ERROR_NOT_FOUND, by_serial, serial, device) : NVML_ERROR_INVALID_ARGUMENT;
}

API nvmlReturn_t nvmlDeviceGetHandleByPciBusId_v2(const char *address, nvmlDevice_t *device)
{
    return address ? find(__func__, NVML_ERROR_NOT_FOUND, by_address, address, device) : NVML_ERROR_INVALID_ARGUMENT;
}

API nvmlReturn_t nvmlDeviceGetHandleByPciBusId(const char *address, nvmlDevice_t *device)
{
    return nvmlDeviceGetHandleByPciBusId_v2(address, device);
}

/* ---- texts ---- */

#define TEXT_CALL(name, text)                                          \
    API nvmlReturn_t name(nvmlDevice_t device, char *into, unsigned size) \
    {                                                                  \
        ENTER(device);                                                 \
        LEAVE(copy_text(into, size, text));                            \
    }

#define GPU_OF_CALL (&call.world->gpus[call.gpu])

TEXT_CALL(nvmlDeviceGetName, call.board->name)
TEXT_CALL(nvmlDeviceGetUUID, GPU_OF_CALL->uuid)
TEXT_CALL(nvmlDeviceGetSerial, GPU_OF_CALL->serial)
TEXT_CALL(nvmlDeviceGetBoardPartNumber, GPU_OF_CALL->part)
TEXT_CALL(nvmlDeviceGetVbiosVersion, GPU_OF_CALL->vbios)
TEXT_CALL(nvmlDeviceGetInforomImageVersion, GPU_OF_CALL->inforom)

API nvmlReturn_t nvmlDeviceGetInforomVersion(nvmlDevice_t device, unsigned object, char *into, unsigned size)
{
    ENTER(device);
    REQUIRE(object < 4);
    if (object > 1)
        LEAVE(NVML_ERROR_NOT_SUPPORTED); /* neither power nor DEN object on these boards */
    LEAVE(copy_text(into, size, object == 0 ? call.board->inforom_oem : call.board->inforom_ecc));
}

API nvmlReturn_t nvmlDeviceGetInforomConfigurationChecksum(nvmlDevice_t device, unsigned *checksum)
{
    ENTER(device);
    if (counted(&call, VALUE_inforom_corrupt))
        LEAVE(NVML_ERROR_CORRUPTED_INFOROM);
    *checksum = (unsigned)hash_of(GPU_OF_CALL->inforom);
    LEAVE(NVML_SUCCESS);
}

API nvmlReturn_t nvmlDeviceValidateInforom(nvmlDevice_t device)
{
    ENTER(device);
    LEAVE(counted(&call, VALUE_inforom_corrupt) ? NVML_ERROR_CORRUPTED_INFOROM : NVML_SUCCESS);
}

API nvmlReturn_t nvmlDeviceGetGspFirmwareVersion(nvmlDevice_t device, char *version)
{
    ENTER(device);
    LEAVE(copy_text(version, 64, DRIVER));
}

API nvmlReturn_t nvmlDeviceGetGspFirmwareMode(nvmlDevice_t device, unsigned *enabled, unsigned *standard)
{
    ENTER(device);
    *enabled = *standard = 1;
    LEAVE(NVML_SUCCESS);
}

/* ---- PCI ---- */

void pci_info(nvmlPciInfo_t *info, const char *pci, unsigned device_id, unsigned subsystem_id)
{
    memset(info, 0, sizeof *info);
    sscanf(pci, "%x:%x:%x", &info->domain, &info->bus, &info->device);
    info->pciDeviceId = device_id;
    info->pciSubSystemId = subsystem_id;
    snprintf(info->busIdLegacy, sizeof info->busIdLegacy, "%.12s", pci + 4);
    snprintf(info->busId, sizeof info->busId, "%s", pci);
}

API nvmlReturn_t nvmlDeviceGetPciInfo_v3(nvmlDevice_t device, nvmlPciInfo_t *info)
{
    ENTER(device);
    pci_info(info, GPU_OF_CALL->pci, call.board->device_id, call.board->subsystem_id);
    LEAVE(NVML_SUCCESS);
}

API nvmlReturn_t nvmlDeviceGetPciInfoExt(nvmlDevice_t device, nvmlPciInfoExt_t *info)
{
    ENTER(device);
    if (info->version != VERSIONED(nvmlPciInfoExt_t, 1))
        LEAVE(NVML_ERROR_ARGUMENT_VERSION_MISMATCH);
    nvmlPciInfo_t plain;
    pci_info(&plain, GPU_OF_CALL->pci, call.board->device_id, call.board->subsystem_id);
    info->domain = plain.domain, info->bus = plain.bus, info->device = plain.device;
    info->pciDeviceId = plain.pciDeviceId, info->pciSubSystemId = plain.pciSubSystemId;
    info->baseClass = 3, info->subClass = 2; /* a 3D controller: class 0302 */
    memcpy(info->busId, plain.busId, sizeof info->busId);
    LEAVE(NVML_SUCCESS);
}

/* ---- numbers that never change ---- */

#define NUMBER_CALL(name, type, number)                                \
    API nvmlReturn_t name(nvmlDevice_t device, type *into)             \
    {                                                                  \
        ENTER(device);                                                 \
        REQUIRE(into != NULL);                                         \
        *into = (type)(number);                                        \
        LEAVE(NVML_SUCCESS);                                           \
    }

static unsigned index_of(const Call *call)
{
    unsigned index = 0;
    for (int gpu = 0; gpu < call->gpu; gpu++)
        index += there(call->world, gpu);
    return index;
}

static unsigned board_id(const Call *call)
{
    nvmlPciInfo_t info;
    pci_info(&info, call->world->gpus[call->gpu].pci, 0, 0);
    return info.bus << 8;
}

NUMBER_CALL(nvmlDeviceGetIndex, unsigned, index_of(&call))
NUMBER_CALL(nvmlDeviceGetMinorNumber, unsigned, call.gpu)
NUMBER_CALL(nvmlDeviceGetModuleId, unsigned, call.gpu + 1)
NUMBER_CALL(nvmlDeviceGetNumaNodeId, unsigned, call.gpu >= (call.world->gpu_count + 1) / 2)
NUMBER_CALL(nvmlDeviceGetBoardId, unsigned, board_id(&call))
NUMBER_CALL(nvmlDeviceGetBrand, unsigned, 14) /* NVML_BRAND_NVIDIA */
NUMBER_CALL(nvmlDeviceGetArchitecture, unsigned, call.board->architecture)
NUMBER_CALL(nvmlDeviceGetNumGpuCores, unsigned, call.board->cores)
NUMBER_CALL(nvmlDeviceGetMemoryBusWidth, unsigned, call.board->bus_width)
NUMBER_CALL(nvmlDeviceGetMultiGpuBoard, unsigned, 0)
NUMBER_CALL(nvmlDeviceGetComputeMode, unsigned, 0)
NUMBER_CALL(nvmlDeviceGetDisplayMode, unsigned, 1)
NUMBER_CALL(nvmlDeviceGetDisplayActive, unsigned, 0)
NUMBER_CALL(nvmlDeviceGetPersistenceMode, unsigned, counted(&call, VALUE_persistence))

API nvmlReturn_t nvmlDeviceGetCudaComputeCapability(nvmlDevice_t device, int *major, int *minor)
{
    ENTER(device);
    *major = call.board->compute_major, *minor = 0;
    LEAVE(NVML_SUCCESS);
}

API nvmlReturn_t nvmlDeviceGetMigMode(nvmlDevice_t device, unsigned *current, unsigned *pending)
{
    ENTER(device);
    *current = *pending = 0;
    LEAVE(NVML_SUCCESS);
}
