/* One number at one moment: what the world file sets, or else what follows from the load and the board. */
#include <math.h>

#include "world.h"

#define IDLE_LOAD 0.02
/* A GPU at full load runs a little below its limit. */
#define FULL_LOAD_SHARE 0.96
#define MEMORY_ABOVE_CORE_C 8
#define REASON_IDLE 0x1ULL
#define REASON_SW_POWER_CAP 0x4ULL
#define REASONS_SLOWING 0xC8ULL /* hardware slowdown, its thermal and its power-brake part */

static uint64_t key_of(const World *world, int gpu, int value)
{
    return mixed(mixed(world->seed, (uint64_t)gpu), (uint64_t)value);
}

static double sm_clock(const World *world, int gpu, double t)
{
    const Board *b = world->board;
    unsigned long long reasons = clock_event_reasons(world, gpu, t);
    if (reasons & REASONS_SLOWING)
        return floor(b->sm_max_mhz / 2); /* the driver halves it or more */
    if (reading(world, gpu, VALUE_load, t) < IDLE_LOAD)
        return b->sm_idle_mhz;
    return reasons & REASON_SW_POWER_CAP ? floor(b->sm_max_mhz * 0.85) : b->sm_max_mhz;
}

static double memory_used(const Gpu *g)
{
    double sum = 1; /* what the driver itself holds on an idle GPU */
    for (int i = 0; i < g->process_count; i++)
        sum += g->processes[i].mib;
    return sum;
}

static double derived(const World *world, int gpu, int value, double t)
{
    const Board *b = world->board;
    double load = reading(world, gpu, VALUE_load, t);
    switch (value) {
    case VALUE_temperature:
        return b->idle_c + load * (b->busy_c - b->idle_c);
    case VALUE_memory_temperature:
        return reading(world, gpu, VALUE_temperature, t) + MEMORY_ABOVE_CORE_C;
    case VALUE_margin:
        return b->margin_zero_c - reading(world, gpu, VALUE_temperature, t);
    case VALUE_power:
        return b->idle_w + load * (FULL_LOAD_SHARE * reading(world, gpu, VALUE_enforced_limit, t) - b->idle_w);
    case VALUE_power_limit:
        return b->limit_default_w;
    case VALUE_enforced_limit:
        return reading(world, gpu, VALUE_power_limit, t);
    case VALUE_sm_clock:
        return sm_clock(world, gpu, t);
    case VALUE_memory_clock:
        return b->memory_mhz;
    case VALUE_clock_event_reasons:
        return 0;
    case VALUE_utilization:
        return load >= IDLE_LOAD ? 100 * fmin(1, 0.1 + load) : 0;
    case VALUE_memory_utilization:
        return load >= IDLE_LOAD ? 60 * load : 0;
    case VALUE_memory_used:
        return memory_used(&world->gpus[gpu]);
    case VALUE_performance_state:
        return 0; /* these boards stay in P0, also idle */
    case VALUE_pcie_generation:
        return b->pcie_generation;
    case VALUE_pcie_tx:
    case VALUE_pcie_rx:
        return 560 + load * 2.0e6;
    case VALUE_fabric_state:
        return b->fabric ? 3 : 0;
    case VALUE_fabric_health_mask:
        return FABRIC_HEALTHY_MASK;
    default:
        return 0;
    }
}

double reading(const World *world, int gpu, int value, double t)
{
    const Expression *e = &world->gpus[gpu].values[value];
    if (e->given)
        return expression_at(e, t, key_of(world, gpu, value));
    return isnan(value_rows[value].standard) ? derived(world, gpu, value, t) : value_rows[value].standard;
}

double link_reading(const World *world, int gpu, int link, int value, double t)
{
    const Expression *e = &world->gpus[gpu].links[link][value];
    if (e->given)
        return expression_at(e, t, key_of(world, gpu, VALUE_COUNT + link * LINK_VALUE_COUNT + value));
    return link_value_rows[value].standard;
}

static double integral(const World *world, int gpu, int value, double from, double to)
{
    const Expression *e = &world->gpus[gpu].values[value];
    if (e->given)
        return expression_integral(e, from, to);
    if (value == VALUE_power) { /* linear in the load */
        const Board *b = world->board;
        double share = FULL_LOAD_SHARE * reading(world, gpu, VALUE_enforced_limit, to) - b->idle_w;
        return b->idle_w * (to - from) + share * integral(world, gpu, VALUE_load, from, to);
    }
    return (to - from) * reading(world, gpu, value, to);
}

double energy_j(const World *world, int gpu, double t)
{
    const Gpu *g = &world->gpus[gpu];
    return g->history_j + integral(world, gpu, VALUE_power, g->history_at, t);
}

double load_seconds(const World *world, int gpu, double t)
{
    const Gpu *g = &world->gpus[gpu];
    return g->history_load_s + integral(world, gpu, VALUE_load, g->history_at, t);
}

/* The mean over the last second, which is what the driver calls power on Hopper. */
double average_power_w(const World *world, int gpu, double t)
{
    return integral(world, gpu, VALUE_power, t - 1, t);
}

/* What was set, and the bits that the load makes by itself. */
unsigned long long clock_event_reasons(const World *world, int gpu, double t)
{
    unsigned long long reasons = (unsigned long long)reading(world, gpu, VALUE_clock_event_reasons, t);
    double limit = reading(world, gpu, VALUE_enforced_limit, t);
    if (reading(world, gpu, VALUE_load, t) < IDLE_LOAD)
        reasons |= REASON_IDLE;
    else if (reading(world, gpu, VALUE_power, t) > 0.98 * limit)
        reasons |= REASON_SW_POWER_CAP;
    return reasons;
}
