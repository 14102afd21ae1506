/* nvmlDeviceGetFieldValues: many readings at once, each with a code of its own.
 *
 * A field that this board does not have is not supported; one that this driver does not know is a wrong argument.
 */
#include <math.h>
#include <stdio.h>
#include <string.h>

#include "world.h"

#define HOPPER 9
#define SCOPE_ALL 0xFFFFFFFFU
/* What a link carries at full load, in KiB/s: 40 % of its 26.5 GB/s, as large collectives reach over all 18. */
#define LINK_LOAD_SHARE 0.4

typedef struct {
    unsigned field, since; /* the driver branch that first knew it */
    int value;             /* VALUE_*, answered as a count */
    unsigned type;
    double factor;
} Plain;

#define U TYPE_UNSIGNED
#define LL TYPE_UNSIGNED_LONG_LONG

/* Fields that are one value of the world, times a factor: power in mW, violation times in ns. */
static const Plain plain[] = {
    {1, 0, VALUE_ecc_mode, U, 1},
    {2, 0, VALUE_ecc_pending, U, 1},
    {82, 0, VALUE_memory_temperature, U, 1},
    {74, 0, VALUE_violation_power, LL, 1e9},
    {75, 0, VALUE_violation_thermal, LL, 1e9},
    {76, 0, VALUE_violation_sync_boost, LL, 1e9},
    {77, 0, VALUE_violation_board_limit, LL, 1e9},
    {78, 0, VALUE_violation_low_utilization, LL, 1e9},
    {79, 0, VALUE_violation_reliability, LL, 1e9},
    {94, 0, VALUE_pcie_replays, U, 1},
    {95, 0, VALUE_pcie_replay_rollovers, U, 1},
    {142, 0, VALUE_remapped_corrected, U, 1},
    {143, 0, VALUE_remapped_uncorrected, U, 1},
    {144, 0, VALUE_remap_pending, U, 1},
    {145, 0, VALUE_remap_failed, U, 1},
    {169, 510, VALUE_pcie_recoveries, U, 1},
    {173, 535, VALUE_pcie_correctable, U, 1},
    {174, 535, VALUE_pcie_naks_received, U, 1},
    {175, 535, VALUE_pcie_receiver_errors, U, 1},
    {176, 535, VALUE_pcie_bad_tlp, U, 1},
    {177, 535, VALUE_pcie_naks_sent, U, 1},
    {178, 535, VALUE_pcie_bad_dllp, U, 1},
    {179, 535, VALUE_pcie_non_fatal, U, 1},
    {180, 535, VALUE_pcie_fatal, U, 1},
    {181, 535, VALUE_pcie_unsupported_requests, U, 1},
    {182, 535, VALUE_pcie_lcrc_errors, U, 1},
    {183, 535, VALUE_pcie_lane_errors, U, 1},
    {186, 535, VALUE_power, U, 1000},
    {190, 535, VALUE_enforced_limit, U, 1000},
    {192, 535, VALUE_power_limit, U, 1000},
    {227, 560, VALUE_drain_and_reset, U, 1},
    {269, 575, VALUE_violation_sw_thermal, LL, 1e9},
    {270, 575, VALUE_violation_hw_thermal, LL, 1e9},
    {271, 575, VALUE_violation_power_brake, LL, 1e9},
};

static nvmlReturn_t answer(nvmlFieldValue_t *field, unsigned type, double number)
{
    field->valueType = type;
    field->value.ullVal = 0;
    if (type == TYPE_SIGNED)
        field->value.siVal = (int)number;
    else if (type == TYPE_UNSIGNED)
        field->value.uiVal = (unsigned)number;
    else
        field->value.ullVal = (unsigned long long)number;
    return NVML_SUCCESS;
}

static nvmlReturn_t plain_field(const Call *call, nvmlFieldValue_t *field)
{
    for (size_t i = 0; i < sizeof plain / sizeof *plain; i++) {
        if (plain[i].field != field->fieldId)
            continue;
        if (plain[i].since > BRANCH)
            return NVML_ERROR_INVALID_ARGUMENT;
        double number = reading(call->world, call->gpu, plain[i].value, call->t) * plain[i].factor;
        return answer(field, plain[i].type, floor(number + (plain[i].factor == 1 && plain[i].field == 82 ? 0.5 : 0)));
    }
    return NVML_ERROR_NOT_FOUND;
}

/* 3..6: totals; 11, 12, 22, 23: device memory. The caches by name are not counted on these boards. */
static nvmlReturn_t ecc_field(const Call *call, nvmlFieldValue_t *field)
{
    unsigned id = field->fieldId;
    bool memory_only = id > 6, uncorrected = (id - 3) % 2, aggregate = id == 5 || id == 6 || id == 22 || id == 23;
    if (memory_only && id != 11 && id != 12 && id != 22 && id != 23)
        return NVML_ERROR_NOT_SUPPORTED;
    if (id == 22 || id == 23)
        uncorrected = id == 23;
    double sum = 0;
    for (int place = memory_only; place < 2; place++) {
        sum += (double)counted(call, VALUE_ecc_volatile_corrected_sram + 2 * uncorrected + place);
        if (aggregate)
            sum += (double)counted(call, VALUE_ecc_aggregate_corrected_sram + 2 * uncorrected + place);
    }
    return answer(field, LL, sum);
}

static double link_sum(const Call *call, unsigned scope, int value)
{
    double sum = 0;
    for (int link = 0; link < call->board->links; link++)
        if (scope == SCOPE_ALL || scope == (unsigned)link)
            sum += floor(link_reading(call->world, call->gpu, link, value, call->t));
    return sum;
}

/* What the links carried since the driver was loaded, in KiB; half as much protocol again as the raw count adds. */
static double carried_kib(const Call *call, unsigned scope, bool raw)
{
    double links = scope == SCOPE_ALL ? call->board->links : 1;
    double kib_per_s = LINK_LOAD_SHARE * call->board->link_mbps * 1e6 / 1024;
    return links * kib_per_s * load_seconds(call->world, call->gpu, call->t) * (raw ? 1.5 : 1);
}

static nvmlReturn_t link_field(const Call *call, nvmlFieldValue_t *field)
{
    const Board *b = call->board;
    unsigned id = field->fieldId, scope = field->scopeId;
    if (!b->links)
        return NVML_ERROR_NOT_SUPPORTED;
    if (id == 90 || (id >= 84 && id <= 89))
        return answer(field, U, b->link_mbps);
    if (id == 91)
        return answer(field, U, b->links);
    if (id == 147)
        return answer(field, U, link_sum(call, SCOPE_ALL, LINK_state));
    if (scope != SCOPE_ALL && scope >= (unsigned)b->links)
        return NVML_ERROR_INVALID_ARGUMENT;
    if (id >= 138 && id <= 141)
        return answer(field, LL, carried_kib(call, scope, id > 139));
    if (id >= 161 && id <= 163) { /* since Hopper */
        static const int values[] = {LINK_replay, LINK_recovery, LINK_crc};
        return b->architecture < HOPPER ? NVML_ERROR_NOT_SUPPORTED : answer(field, LL, link_sum(call, scope, values[id - 161]));
    }
    if (scope == SCOPE_ALL)
        return NVML_ERROR_INVALID_ARGUMENT;
    bool up = link_sum(call, scope, LINK_state) != 0;
    if (id == 164)
        return answer(field, U, up ? b->link_mbps : 0);
    if (id == 165)
        return answer(field, U, up);
    if (id == 166)
        return answer(field, U, b->link_version);
    return id == 146 ? answer(field, U, scope) : NVML_ERROR_NOT_SUPPORTED;
}

/* The counters of Volta and Ampere, by link in the field's own number; Hopper gives no data for them. */
static nvmlReturn_t old_link_field(const Call *call, nvmlFieldValue_t *field)
{
    static const int values[] = {LINK_crc, -1, LINK_replay, LINK_recovery};
    unsigned id = field->fieldId;
    if (call->board->architecture >= HOPPER || !call->board->links)
        return NVML_ERROR_NOT_SUPPORTED;
    bool first = id <= 59;
    unsigned group = first ? (id - 32) / 7 : (id - 96) / 6, place = first ? (id - 32) % 7 : (id - 96) % 6;
    unsigned scope = first && place == 6 ? SCOPE_ALL : first ? place : place + 6;
    return answer(field, LL, values[group] < 0 ? 0 : link_sum(call, scope, values[group]));
}

static nvmlReturn_t board_field(const Call *call, nvmlFieldValue_t *field)
{
    const Board *b = call->board;
    const int offsets[] = {b->margin_shutdown_c, b->margin_slowdown_c, 0, 0};
    unsigned id = field->fieldId;
    switch (id) {
    case 83:
        return answer(field, LL, 1000 * energy_j(call->world, call->gpu, call->t));
    case 185:
        return answer(field, U, 1000 * average_power_w(call->world, call->gpu, call->t));
    case 187:
        return answer(field, U, 1000.0 * b->limit_min_w);
    case 188:
        return answer(field, U, 1000.0 * b->limit_max_w);
    case 189:
        return answer(field, U, 1000.0 * b->limit_default_w);
    case 193:
    case 194:
    case 195:
    case 196:
        return b->margin_zero_c ? answer(field, TYPE_SIGNED, offsets[id - 193]) : NVML_ERROR_NOT_SUPPORTED;
    case 226:
    case 230: {
        bool waits = gpu_is(call->world, call->gpu, RESET_REQUIRED);
        double action = (double)counted(call, VALUE_recovery_action);
        if (BRANCH < (id == 226 ? 560 : 565))
            return NVML_ERROR_INVALID_ARGUMENT;
        return answer(field, U, id == 226 ? waits : waits && action == 0 ? 1 : action);
    }
    default:
        return NVML_ERROR_NOT_SUPPORTED;
    }
}

static nvmlReturn_t field_of(const Call *call, nvmlFieldValue_t *field)
{
    unsigned id = field->fieldId;
    char name[24];
    snprintf(name, sizeof name, "field:%u", id);
    nvmlReturn_t fault = fault_code(call->world, name, call->gpu);
    if (fault != NVML_SUCCESS)
        return fault;
    if (gpu_is(call->world, call->gpu, RESET_REQUIRED) && id != 226 && id != 227 && id != 230)
        return NVML_ERROR_RESET_REQUIRED;
    if (id == 0 || id >= FIELDS_KNOWN)
        return NVML_ERROR_INVALID_ARGUMENT;
    nvmlReturn_t found = plain_field(call, field);
    if (found != NVML_ERROR_NOT_FOUND)
        return found;
    if (id >= 3 && id <= 28)
        return ecc_field(call, field);
    if ((id >= 32 && id <= 59) || (id >= 96 && id <= 119))
        return old_link_field(call, field);
    if ((id >= 84 && id <= 91) || (id >= 138 && id <= 141) || id == 146 || id == 147 || (id >= 161 && id <= 168))
        return link_field(call, field);
    return board_field(call, field);
}

API nvmlReturn_t nvmlDeviceGetFieldValues(nvmlDevice_t device, int count, nvmlFieldValue_t *fields)
{
    ENTER(device);
    REQUIRE(count > 0 && fields);
    for (int i = 0; i < count; i++) {
        fields[i].timestamp = world_usec(call.world, call.t);
        fields[i].latencyUsec = 0;
        fields[i].nvmlReturn = field_of(&call, &fields[i]);
    }
    LEAVE(NVML_SUCCESS);
}
