/* Temperature, power, clocks, utilization. */
#include <math.h>
#include <string.h>

#include "world.h"

#define SAMPLES 120        /* what the driver's buffer holds */
#define SAMPLE_S 0.02      /* 50 samples a second */
#define REASONS_KNOWN 0x1FFULL

static double now(const Call *call, int value)
{
    return reading(call->world, call->gpu, value, call->t);
}

static unsigned rounded(double number)
{
    return number > 0 ? (unsigned)lround(number) : 0;
}

#define NUMBER_CALL(name, type, number)                                \
    API nvmlReturn_t name(nvmlDevice_t device, type *into)             \
    {                                                                  \
        ENTER(device);                                                 \
        REQUIRE(into != NULL);                                         \
        *into = (type)(number);                                        \
        LEAVE(NVML_SUCCESS);                                           \
    }

/* ---- temperature ---- */

API nvmlReturn_t nvmlDeviceGetTemperature(nvmlDevice_t device, unsigned sensor, unsigned *celsius)
{
    ENTER(device);
    REQUIRE(sensor == 0 && celsius);
    *celsius = rounded(now(&call, VALUE_temperature));
    LEAVE(NVML_SUCCESS);
}

API nvmlReturn_t nvmlDeviceGetTemperatureV(nvmlDevice_t device, nvmlTemperature_t *answer)
{
    ENTER(device);
    if (answer->version != VERSIONED(nvmlTemperature_t, 1))
        LEAVE(NVML_ERROR_ARGUMENT_VERSION_MISMATCH);
    REQUIRE(answer->sensorType == 0);
    answer->temperature = (int)rounded(now(&call, VALUE_temperature));
    LEAVE(NVML_SUCCESS);
}

API nvmlReturn_t nvmlDeviceGetTemperatureThreshold(nvmlDevice_t device, unsigned which, unsigned *celsius)
{
    ENTER(device);
    const Board *b = call.board;
    const int thresholds[] = {b->shutdown_c, b->slowdown_c, b->memory_max_c, b->gpu_max_c};
    REQUIRE(which < 8 && celsius);
    if (which > 3)
        LEAVE(NVML_ERROR_NOT_SUPPORTED); /* the acoustic ones belong to boards with fans */
    *celsius = (unsigned)thresholds[which];
    LEAVE(NVML_SUCCESS);
}

API nvmlReturn_t nvmlDeviceGetMarginTemperature(nvmlDevice_t device, nvmlMarginTemperature_t *answer)
{
    ENTER(device);
    if (answer->version != VERSIONED(nvmlMarginTemperature_t, 1))
        LEAVE(NVML_ERROR_ARGUMENT_VERSION_MISMATCH);
    if (!call.board->margin_zero_c)
        LEAVE(NVML_ERROR_NOT_SUPPORTED);
    bool broken = now(&call, VALUE_margin_broken) != 0;
    answer->marginTemperature = broken ? 0 : (int)lround(now(&call, VALUE_margin));
    LEAVE(NVML_SUCCESS);
}

API nvmlReturn_t nvmlDeviceGetFanSpeed(nvmlDevice_t device, unsigned *percent)
{
    ENTER(device);
    (void)percent;
    LEAVE(NVML_ERROR_NOT_SUPPORTED); /* cooled by the chassis */
}

/* ---- power, in mW ---- */

/* Averaged over a second on Hopper, of the moment on the A100. */
static double usage_w(const Call *call)
{
    return call->board->architecture >= 9 ? average_power_w(call->world, call->gpu, call->t) : now(call, VALUE_power);
}

NUMBER_CALL(nvmlDeviceGetPowerUsage, unsigned, rounded(1000 * usage_w(&call)))
NUMBER_CALL(nvmlDeviceGetPowerManagementMode, unsigned, 1)
NUMBER_CALL(nvmlDeviceGetPowerManagementLimit, unsigned, rounded(1000 * now(&call, VALUE_power_limit)))
NUMBER_CALL(nvmlDeviceGetPowerManagementDefaultLimit, unsigned, 1000 * call.board->limit_default_w)
NUMBER_CALL(nvmlDeviceGetEnforcedPowerLimit, unsigned, rounded(1000 * now(&call, VALUE_enforced_limit)))
NUMBER_CALL(nvmlDeviceGetTotalEnergyConsumption, unsigned long long, 1000 * energy_j(call.world, call.gpu, call.t))

API nvmlReturn_t nvmlDeviceGetPowerManagementLimitConstraints(nvmlDevice_t device, unsigned *least, unsigned *most)
{
    ENTER(device);
    *least = 1000 * (unsigned)call.board->limit_min_w, *most = 1000 * (unsigned)call.board->limit_max_w;
    LEAVE(NVML_SUCCESS);
}

static int sampled_value(unsigned kind)
{
    switch (kind) {
    case 0:
        return VALUE_power;
    case 1:
        return VALUE_utilization;
    case 2:
        return VALUE_memory_utilization;
    case 5:
        return VALUE_sm_clock;
    case 6:
        return VALUE_memory_clock;
    default:
        return -1;
    }
}

/* The samples of the last seconds that are newer than `since` (usec of the machine's clock), oldest first. */
API nvmlReturn_t nvmlDeviceGetSamples(nvmlDevice_t device, unsigned kind, unsigned long long since, unsigned *type,
                                      unsigned *count, nvmlSample_t *samples)
{
    ENTER(device);
    REQUIRE(kind < 10 && type && count);
    int value = sampled_value(kind);
    if (value < 0)
        LEAVE(NVML_ERROR_NOT_SUPPORTED);
    *type = TYPE_UNSIGNED;
    if (!samples) {
        *count = SAMPLES;
        LEAVE(NVML_SUCCESS);
    }
    unsigned room = *count, used = 0;
    double last = floor(call.t / SAMPLE_S);
    for (double k = last - SAMPLES + 1; k <= last && used < room; k++) {
        long long stamp = world_usec(call.world, k * SAMPLE_S);
        if (stamp <= (long long)since)
            continue;
        samples[used].timeStamp = (unsigned long long)stamp;
        samples[used].sampleValue.ullVal = 0;
        double number = reading(call.world, call.gpu, value, k * SAMPLE_S);
        samples[used++].sampleValue.uiVal = rounded(value == VALUE_power ? 1000 * number : number);
    }
    *count = used;
    LEAVE(used ? NVML_SUCCESS : NVML_ERROR_NOT_FOUND);
}

/* ---- clocks ---- */

NUMBER_CALL(nvmlDeviceGetPerformanceState, unsigned, counted(&call, VALUE_performance_state))
NUMBER_CALL(nvmlDeviceGetPowerState, unsigned, counted(&call, VALUE_performance_state))
NUMBER_CALL(nvmlDeviceGetCurrentClocksEventReasons, unsigned long long, clock_event_reasons(call.world, call.gpu, call.t))
NUMBER_CALL(nvmlDeviceGetCurrentClocksThrottleReasons, unsigned long long, clock_event_reasons(call.world, call.gpu, call.t))
NUMBER_CALL(nvmlDeviceGetSupportedClocksEventReasons, unsigned long long, REASONS_KNOWN)
NUMBER_CALL(nvmlDeviceGetSupportedClocksThrottleReasons, unsigned long long, REASONS_KNOWN)

static unsigned clock_mhz(const Call *call, unsigned kind)
{
    double sm = now(call, VALUE_sm_clock);
    const Board *b = call->board;
    if (kind == 2)
        return rounded(now(call, VALUE_memory_clock));
    if (kind == 3) /* the video clock goes along with the SM's */
        return (unsigned)(b->video_idle_mhz + (b->video_max_mhz - b->video_idle_mhz) * (sm - b->sm_idle_mhz) /
                                                  (b->sm_max_mhz - b->sm_idle_mhz));
    return rounded(sm);
}

static unsigned clock_max_mhz(const Call *call, unsigned kind)
{
    const int most[] = {call->board->sm_max_mhz, call->board->sm_max_mhz, call->board->memory_mhz, call->board->video_max_mhz};
    return (unsigned)most[kind];
}

API nvmlReturn_t nvmlDeviceGetClockInfo(nvmlDevice_t device, unsigned kind, unsigned *mhz)
{
    ENTER(device);
    REQUIRE(kind < 4 && mhz);
    *mhz = clock_mhz(&call, kind);
    LEAVE(NVML_SUCCESS);
}

API nvmlReturn_t nvmlDeviceGetMaxClockInfo(nvmlDevice_t device, unsigned kind, unsigned *mhz)
{
    ENTER(device);
    REQUIRE(kind < 4 && mhz);
    *mhz = clock_max_mhz(&call, kind);
    LEAVE(NVML_SUCCESS);
}

API nvmlReturn_t nvmlDeviceGetClock(nvmlDevice_t device, unsigned kind, unsigned which, unsigned *mhz)
{
    ENTER(device);
    REQUIRE(kind < 4 && which < 4 && mhz);
    *mhz = which == 0 ? clock_mhz(&call, kind) : clock_max_mhz(&call, kind);
    LEAVE(NVML_SUCCESS);
}

API nvmlReturn_t nvmlDeviceGetApplicationsClock(nvmlDevice_t device, unsigned kind, unsigned *mhz)
{
    ENTER(device);
    REQUIRE(kind < 4 && mhz);
    if (kind == 3)
        LEAVE(NVML_ERROR_NOT_SUPPORTED);
    *mhz = clock_max_mhz(&call, kind);
    LEAVE(NVML_SUCCESS);
}

/* Time throttled, in ns since the driver was loaded. */
API nvmlReturn_t nvmlDeviceGetViolationStatus(nvmlDevice_t device, unsigned policy, nvmlViolationTime_t *answer)
{
    ENTER(device);
    REQUIRE(policy < 12 && answer);
    if (policy > 5)
        LEAVE(NVML_ERROR_NOT_SUPPORTED);
    answer->referenceTime = (unsigned long long)world_usec(call.world, call.t);
    answer->violationTime = (unsigned long long)(1e9 * now(&call, VALUE_violation_power + (int)policy));
    LEAVE(NVML_SUCCESS);
}

/* ---- utilization ---- */

API nvmlReturn_t nvmlDeviceGetUtilizationRates(nvmlDevice_t device, nvmlUtilization_t *answer)
{
    ENTER(device);
    REQUIRE(answer != NULL);
    answer->gpu = rounded(now(&call, VALUE_utilization));
    answer->memory = rounded(now(&call, VALUE_memory_utilization));
    LEAVE(NVML_SUCCESS);
}
