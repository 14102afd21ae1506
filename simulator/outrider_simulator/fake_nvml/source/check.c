/* Worlds that could not exist are refused, with the thing, the value and the way out. */
#include <math.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>

#include "world.h"

#define REMAPS_MAX 512
/* Board power may pass its limit for milliseconds; NVIDIA's limit regulates the average. */
#define POWER_OVERSHOOT 1.05
/* The margin is taken at the hottest spot, the temperature at the average: they part by a few degrees. */
#define MARGIN_SPREAD_C 8

typedef struct {
    const World *world;
    char *problem;
    size_t size;
} Check;

static bool refuse(const Check *check, const char *format, ...)
{
    va_list values;
    va_start(values, format);
    vsnprintf(check->problem, check->size, format, values);
    va_end(values);
    return false;
}

static void range_of(const World *world, int gpu, int value, double *low, double *high)
{
    const Expression *e = &world->gpus[gpu].values[value];
    if (e->given)
        expression_range(e, low, high);
    else
        *low = *high = reading(world, gpu, value, 0);
}

static bool within_bounds(const Check *check, int gpu, const char *where, const ValueRow *row, const Expression *e)
{
    double low, high;
    if (!e->given)
        return true;
    expression_range(e, &low, &high);
    if (low < row->low || high > row->high)
        return refuse(check, "gpu %d%s %s reaches %g..%g %s, possible is %g..%g: change its base or its terms", gpu, where,
                      row->name, low, high, row->unit, row->low, row->high);
    if (row->kind == COUNTER || row->kind == LIFETIME)
        for (int i = 0; i < e->count; i++)
            if ((e->terms[i].kind != RATE && e->terms[i].kind != RAMP && e->terms[i].kind != NOISE) || e->terms[i].a < 0 ||
                e->terms[i].kind == NOISE)
                return refuse(check, "gpu %d%s %s is a counter and would fall: give it only ramp and rate terms that rise",
                              gpu, where, row->name);
    return true;
}

static bool check_bounds(const Check *check, int gpu)
{
    const Gpu *g = &check->world->gpus[gpu];
    char where[32];
    for (int v = 0; v < VALUE_COUNT; v++)
        if (!within_bounds(check, gpu, "", &value_rows[v], &g->values[v]))
            return false;
    for (int l = 0; l < LINKS_MAX; l++)
        for (int v = 0; v < LINK_VALUE_COUNT; v++) {
            snprintf(where, sizeof where, " link %d", l);
            if (!within_bounds(check, gpu, where, &link_value_rows[v], &g->links[l][v]))
                return false;
        }
    return true;
}

static bool check_power(const Check *check, int gpu)
{
    const Board *b = check->world->board;
    double low, high;
    const int limits[] = {VALUE_power_limit, VALUE_enforced_limit};
    for (int i = 0; i < 2; i++) {
        range_of(check->world, gpu, limits[i], &low, &high);
        if (low < b->limit_min_w || high > b->limit_max_w)
            return refuse(check, "gpu %d %s reaches %g..%g W, the %s takes %d..%d W: set one within", gpu,
                          value_rows[limits[i]].name, low, high, b->name, b->limit_min_w, b->limit_max_w);
    }
    range_of(check->world, gpu, VALUE_power, &low, &high);
    if (high > b->limit_max_w * POWER_OVERSHOOT)
        return refuse(check, "gpu %d power reaches %g W, the %s can draw %d W: lower its base or its terms", gpu, high,
                      b->name, b->limit_max_w);
    return true;
}

static bool check_thermal(const Check *check, int gpu)
{
    const Board *b = check->world->board;
    double low, high, cold, hot;
    if (!check->world->gpus[gpu].values[VALUE_margin].given)
        return true;
    if (!b->margin_zero_c)
        return refuse(check, "gpu %d margin is set, the %s reports none: leave it out", gpu, b->name);
    range_of(check->world, gpu, VALUE_margin, &low, &high);
    range_of(check->world, gpu, VALUE_temperature, &cold, &hot);
    if (low < b->margin_zero_c - hot - MARGIN_SPREAD_C || high > b->margin_zero_c - cold + MARGIN_SPREAD_C)
        return refuse(check, "gpu %d margin %g..%g C does not fit its temperature %g..%g C: it is about %d C less the "
                      "temperature; leave it out to have it follow", gpu, low, high, cold, hot, b->margin_zero_c);
    return true;
}

static bool check_memory(const Check *check, int gpu)
{
    const Board *b = check->world->board;
    double low, high, rows = 0, banks = 0, most;
    const int remaps[] = {VALUE_remapped_corrected, VALUE_remapped_uncorrected};
    for (int i = 0; i < 2; i++, rows += high)
        range_of(check->world, gpu, remaps[i], &low, &high);
    if (rows > REMAPS_MAX)
        return refuse(check, "gpu %d has %g remapped rows, the remapper holds %d: lower the counts", gpu, rows, REMAPS_MAX);
    for (int v = VALUE_banks_high; v <= VALUE_banks_none; v++, banks += high)
        range_of(check->world, gpu, v, &low, &high);
    if (banks > b->banks)
        return refuse(check, "gpu %d has %g banks, the %s has %d: lower banks_*", gpu, banks, b->name, b->banks);
    range_of(check->world, gpu, VALUE_memory_used, &low, &high);
    most = b->memory_mib - b->reserved_mib;
    if (high > most)
        return refuse(check, "gpu %d memory_used reaches %g MiB, free to use are %g MiB: lower it", gpu, high, most);
    range_of(check->world, gpu, VALUE_ecc_mode, &low, &high);
    for (int v = VALUE_ecc_volatile_corrected_sram; high == 0 && v <= VALUE_ecc_volatile_uncorrected_dram; v++)
        if (check->world->gpus[gpu].values[v].count)
            return refuse(check, "gpu %d %s rises while ecc_mode is 0: nothing counts then", gpu, value_rows[v].name);
    return true;
}

static bool check_paths(const Check *check, int gpu)
{
    const Board *b = check->world->board;
    double low, high;
    range_of(check->world, gpu, VALUE_pcie_width, &low, &high);
    if (low != high || (low != 1 && low != 2 && low != 4 && low != 8 && low != 16))
        return refuse(check, "gpu %d pcie_width %g..%g is not one of 1, 2, 4, 8, 16", gpu, low, high);
    range_of(check->world, gpu, VALUE_pcie_generation, &low, &high);
    if (high > b->pcie_generation)
        return refuse(check, "gpu %d pcie_generation is %g, the %s has %d: lower it", gpu, high, b->name, b->pcie_generation);
    range_of(check->world, gpu, VALUE_sm_clock, &low, &high);
    if (high > b->sm_max_mhz)
        return refuse(check, "gpu %d sm_clock reaches %g MHz, the %s %d: lower it", gpu, high, b->name, b->sm_max_mhz);
    if (!b->fabric && check->world->gpus[gpu].values[VALUE_fabric_state].given)
        return refuse(check, "gpu %d fabric_state is set, the %s reports no fabric: leave it out", gpu, b->name);
    return true;
}

static bool check_identities(const Check *check, int gpu)
{
    const Gpu *a = &check->world->gpus[gpu];
    unsigned domain, bus, device, function;
    char after;
    if (sscanf(a->pci, "%8x:%2x:%2x.%1x%c", &domain, &bus, &device, &function, &after) != 4)
        return refuse(check, "gpu %d pci %s is not of the form 00000000:18:00.0", gpu, a->pci);
    for (int other = 0; other < gpu; other++) {
        const Gpu *b = &check->world->gpus[other];
        if (strcmp(a->uuid, b->uuid) == 0 || strcmp(a->pci, b->pci) == 0 || strcmp(a->serial, b->serial) == 0)
            return refuse(check, "gpus %d and %d share uuid, pci address or serial number (%s, %s, %s): each has its own",
                          other, gpu, a->uuid, a->pci, a->serial);
    }
    return true;
}

static bool check_events(const Check *check)
{
    for (int i = 0; i < check->world->event_count; i++) {
        const Event *e = &check->world->events[i];
        if (e->type == 0x8 && (e->data < 1 || e->data > XID_MAX))
            return refuse(check, "event %ld is Xid %llu, which does not exist: known are 1 to %d", e->id, e->data, XID_MAX);
        if (!e->type && e->level == 3 && *e->text && (e->data != 3) && (e->data < SXID_MIN || e->data > SXID_MAX))
            return refuse(check, "event %ld is SXid %llu, which does not exist: known are %d to %d", e->id, e->data,
                          SXID_MIN, SXID_MAX);
        for (int other = 0; other < i; other++)
            if (check->world->events[other].id == e->id)
                return refuse(check, "two events have the number %ld: give each its own", e->id);
    }
    return true;
}

bool world_check(const World *world, char *problem, size_t size)
{
    const Check check = {world, problem, size};
    for (int gpu = 0; gpu < world->gpu_count; gpu++)
        if (!check_bounds(&check, gpu) || !check_power(&check, gpu) || !check_thermal(&check, gpu) ||
            !check_memory(&check, gpu) || !check_paths(&check, gpu) || !check_identities(&check, gpu))
            return false;
    return check_events(&check);
}

/* A counter may begin again when the GPU was reset; a lifetime count never does. */
bool world_follows(const World *before, const World *after, double wall, char *problem, size_t size)
{
    const Check check = {after, problem, size};
    int gpus = before->gpu_count < after->gpu_count ? before->gpu_count : after->gpu_count;
    double then = world_time_at(before, wall), now = world_time_at(after, wall);
    for (int gpu = 0; gpu < gpus && before->board == after->board; gpu++) {
        bool reset = reading(after, gpu, VALUE_resets, now) > reading(before, gpu, VALUE_resets, then);
        if (strcmp(before->gpus[gpu].uuid, after->gpus[gpu].uuid) != 0)
            continue; /* another GPU was put in */
        for (int v = 0; v < VALUE_COUNT; v++) {
            double was = floor(reading(before, gpu, v, then)), is = floor(reading(after, gpu, v, now));
            bool counts = value_rows[v].kind == LIFETIME || (value_rows[v].kind == COUNTER && !reset);
            if (counts && is < was)
                return refuse(&check, "gpu %d %s falls from %g to %g without a reset: raise `resets` with it, or keep it", gpu,
                              value_rows[v].name, was, is);
        }
    }
    return true;
}
