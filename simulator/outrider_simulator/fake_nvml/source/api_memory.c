/* Memory: how much, for whom, its errors, its spare rows, its repairs. */
#include <string.h>

#include "world.h"

#define MIB 1048576ULL

enum { CORRECTED, UNCORRECTED };
enum { VOLATILE, AGGREGATE };
enum { SRAM = 7, DRAM = 2 };

/* ---- how much, and for whom ---- */

static nvmlMemory_v2_t memory_of(const Call *call)
{
    nvmlMemory_v2_t m = {.total = (unsigned long long)call->board->memory_mib * MIB,
                         .reserved = (unsigned long long)call->board->reserved_mib * MIB,
                         .used = counted(call, VALUE_memory_used) * MIB};
    m.free = m.total - m.reserved - m.used;
    return m;
}

/* The first version counts what the driver reserves as used. */
API nvmlReturn_t nvmlDeviceGetMemoryInfo(nvmlDevice_t device, nvmlMemory_t *answer)
{
    ENTER(device);
    nvmlMemory_v2_t m = memory_of(&call);
    *answer = (nvmlMemory_t){.total = m.total, .free = m.free, .used = m.used + m.reserved};
    LEAVE(NVML_SUCCESS);
}

API nvmlReturn_t nvmlDeviceGetMemoryInfo_v2(nvmlDevice_t device, nvmlMemory_v2_t *answer)
{
    ENTER(device);
    unsigned version = answer->version;
    if (version != VERSIONED(nvmlMemory_v2_t, 2))
        LEAVE(NVML_ERROR_ARGUMENT_VERSION_MISMATCH);
    *answer = memory_of(&call);
    answer->version = version;
    LEAVE(NVML_SUCCESS);
}

API nvmlReturn_t nvmlDeviceGetBAR1MemoryInfo(nvmlDevice_t device, nvmlMemory_t *answer)
{
    ENTER(device);
    unsigned long long total = (unsigned long long)call.board->bar1_mib * MIB;
    *answer = (nvmlMemory_t){.total = total, .free = total - MIB, .used = MIB};
    LEAVE(NVML_SUCCESS);
}

static nvmlReturn_t processes_of(const char *function, nvmlDevice_t device, unsigned *count, nvmlProcessInfo_t *into)
{
    Call call;
    nvmlReturn_t entered = enter(&call, function, device);
    if (entered != NVML_SUCCESS)
        return entered;
    REQUIRE(count != NULL);
    const Gpu *g = &call.world->gpus[call.gpu];
    unsigned room = *count;
    *count = (unsigned)g->process_count;
    if (room < *count || (*count && !into))
        LEAVE(NVML_ERROR_INSUFFICIENT_SIZE);
    for (int i = 0; i < g->process_count; i++)
        into[i] = (nvmlProcessInfo_t){.pid = g->processes[i].pid,
                                      .usedGpuMemory = (unsigned long long)(g->processes[i].mib * (double)MIB),
                                      .gpuInstanceId = 0xFFFFFFFF,
                                      .computeInstanceId = 0xFFFFFFFF};
    LEAVE(NVML_SUCCESS);
}

API nvmlReturn_t nvmlDeviceGetComputeRunningProcesses_v2(nvmlDevice_t device, unsigned *count, nvmlProcessInfo_t *into)
{
    return processes_of(__func__, device, count, into);
}

API nvmlReturn_t nvmlDeviceGetComputeRunningProcesses_v3(nvmlDevice_t device, unsigned *count, nvmlProcessInfo_t *into)
{
    return processes_of(__func__, device, count, into);
}

API nvmlReturn_t nvmlDeviceGetGraphicsRunningProcesses_v2(nvmlDevice_t device, unsigned *count, nvmlProcessInfo_t *into)
{
    ENTER(device);
    (void)into;
    *count = 0;
    LEAVE(NVML_SUCCESS);
}

API nvmlReturn_t nvmlDeviceGetGraphicsRunningProcesses_v3(nvmlDevice_t device, unsigned *count, nvmlProcessInfo_t *into)
{
    ENTER(device);
    (void)into;
    *count = 0;
    LEAVE(NVML_SUCCESS);
}

/* ---- ECC ---- */

API nvmlReturn_t nvmlDeviceGetEccMode(nvmlDevice_t device, unsigned *current, unsigned *pending)
{
    ENTER(device);
    *current = (unsigned)counted(&call, VALUE_ecc_mode);
    *pending = (unsigned)counted(&call, VALUE_ecc_pending);
    LEAVE(NVML_SUCCESS);
}

API nvmlReturn_t nvmlDeviceGetDefaultEccMode(nvmlDevice_t device, unsigned *mode)
{
    ENTER(device);
    *mode = 1;
    LEAVE(NVML_SUCCESS);
}

/* The aggregate count holds the volatile one, and what earlier boots left. */
static unsigned long long errors(const Call *call, unsigned type, unsigned counter, int place)
{
    int step = 2 * (type == UNCORRECTED) + (place == DRAM);
    unsigned long long count = counted(call, VALUE_ecc_volatile_corrected_sram + step);
    return counter == VOLATILE ? count : count + counted(call, VALUE_ecc_aggregate_corrected_sram + step);
}

API nvmlReturn_t nvmlDeviceGetTotalEccErrors(nvmlDevice_t device, unsigned type, unsigned counter, unsigned long long *count)
{
    ENTER(device);
    REQUIRE(type < 2 && counter < 2 && count);
    if (!counted(&call, VALUE_ecc_mode))
        LEAVE(NVML_ERROR_NOT_SUPPORTED);
    *count = errors(&call, type, counter, SRAM) + errors(&call, type, counter, DRAM);
    LEAVE(NVML_SUCCESS);
}

/* These generations count SRAM and DRAM; the caches by name were counted up to Volta. */
API nvmlReturn_t nvmlDeviceGetMemoryErrorCounter(nvmlDevice_t device, unsigned type, unsigned counter, unsigned place,
                                                 unsigned long long *count)
{
    ENTER(device);
    REQUIRE(type < 2 && counter < 2 && place < 8 && count);
    if ((place != SRAM && place != DRAM) || !counted(&call, VALUE_ecc_mode))
        LEAVE(NVML_ERROR_NOT_SUPPORTED);
    *count = errors(&call, type, counter, (int)place);
    LEAVE(NVML_SUCCESS);
}

API nvmlReturn_t nvmlDeviceGetDetailedEccErrors(nvmlDevice_t device, unsigned type, unsigned counter,
                                                nvmlEccErrorCounts_t *counts)
{
    ENTER(device);
    REQUIRE(type < 2 && counter < 2 && counts);
    memset(counts, 0, sizeof *counts);
    counts->deviceMemory = errors(&call, type, counter, DRAM);
    LEAVE(NVML_SUCCESS);
}

API nvmlReturn_t nvmlDeviceGetSramEccErrorStatus(nvmlDevice_t device, nvmlEccSramErrorStatus_t *answer)
{
    ENTER(device);
    unsigned version = answer->version;
    if (version != VERSIONED(nvmlEccSramErrorStatus_t, 1))
        LEAVE(NVML_ERROR_ARGUMENT_VERSION_MISMATCH);
    memset(answer, 0, sizeof *answer);
    answer->version = version;
    answer->aggregateUncSecDed = errors(&call, UNCORRECTED, AGGREGATE, SRAM);
    answer->aggregateCor = errors(&call, CORRECTED, AGGREGATE, SRAM);
    answer->volatileUncSecDed = errors(&call, UNCORRECTED, VOLATILE, SRAM);
    answer->volatileCor = errors(&call, CORRECTED, VOLATILE, SRAM);
    answer->bucketSm = answer->aggregateUncSecDed;
    answer->bThresholdExceeded = (unsigned)counted(&call, VALUE_sram_threshold_exceeded);
    LEAVE(NVML_SUCCESS);
}

/* ---- spare rows ---- */

API nvmlReturn_t nvmlDeviceGetRemappedRows(nvmlDevice_t device, unsigned *corrected, unsigned *uncorrected,
                                           unsigned *pending, unsigned *failed)
{
    ENTER(device);
    *corrected = (unsigned)counted(&call, VALUE_remapped_corrected);
    *uncorrected = (unsigned)counted(&call, VALUE_remapped_uncorrected);
    *pending = (unsigned)counted(&call, VALUE_remap_pending);
    *failed = (unsigned)counted(&call, VALUE_remap_failed);
    LEAVE(NVML_SUCCESS);
}

API nvmlReturn_t nvmlDeviceGetRowRemapperHistogram(nvmlDevice_t device, nvmlRowRemapperHistogram_t *answer)
{
    ENTER(device);
    answer->high = (unsigned)counted(&call, VALUE_banks_high);
    answer->partial = (unsigned)counted(&call, VALUE_banks_partial);
    answer->low = (unsigned)counted(&call, VALUE_banks_low);
    answer->none = (unsigned)counted(&call, VALUE_banks_none);
    answer->max = (unsigned)call.board->banks - answer->high - answer->partial - answer->low - answer->none;
    LEAVE(NVML_SUCCESS);
}

API nvmlReturn_t nvmlDeviceGetRepairStatus(nvmlDevice_t device, nvmlRepairStatus_t *answer)
{
    ENTER(device);
    if (answer->version != VERSIONED(nvmlRepairStatus_t, 1))
        LEAVE(NVML_ERROR_ARGUMENT_VERSION_MISMATCH);
    answer->bChannelRepairPending = (unsigned)counted(&call, VALUE_channel_repair_pending);
    answer->bTpcRepairPending = (unsigned)counted(&call, VALUE_tpc_repair_pending);
    LEAVE(NVML_SUCCESS);
}

/* Ampere and later remap rows; pages were retired before. */
API nvmlReturn_t nvmlDeviceGetRetiredPages(nvmlDevice_t device, unsigned cause, unsigned *count, unsigned long long *pages)
{
    ENTER(device);
    (void)pages, (void)count;
    REQUIRE(cause < 2);
    LEAVE(NVML_ERROR_NOT_SUPPORTED);
}

API nvmlReturn_t nvmlDeviceGetRetiredPages_v2(nvmlDevice_t device, unsigned cause, unsigned *count,
                                              unsigned long long *pages, unsigned long long *times)
{
    ENTER(device);
    (void)pages, (void)count, (void)times;
    REQUIRE(cause < 2);
    LEAVE(NVML_ERROR_NOT_SUPPORTED);
}

API nvmlReturn_t nvmlDeviceGetRetiredPagesPendingStatus(nvmlDevice_t device, unsigned *pending)
{
    ENTER(device);
    (void)pending;
    LEAVE(NVML_ERROR_NOT_SUPPORTED);
}
