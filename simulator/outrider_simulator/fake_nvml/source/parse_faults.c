/* The scenario file's lines of faults and events. */
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "world.h"

/* `after N`, `chance P` and `passing`, in any order, behind what a fault is. */
static bool parse_conditions(char **words, int count, Fault *fault)
{
    double number;
    fault->chance = 1;
    for (int i = 0; i < count; i++) {
        if (strcmp(words[i], "passing") == 0) {
            fault->passing = true;
            continue;
        }
        if (i + 1 == count || !parse_number(words[i + 1], &number) || number < 0)
            return false;
        if (strcmp(words[i], "after") == 0)
            fault->after = (long)number;
        else if (strcmp(words[i], "chance") == 0 && number <= 1)
            fault->chance = number;
        else
            return false;
        i++;
    }
    return true;
}

/* fault WHICH lost|reset-required|absent | hang FUNCTION S | slow FUNCTION S | return FUNCTION CODE [conditions] */
bool parse_fault(World *world, char **words, int count, uint64_t id, char *problem, size_t size)
{
    static const struct {
        const char *name;
        FaultKind kind;
        int words;
    } kinds[] = {{"lost", LOST, 3},  {"reset-required", RESET_REQUIRED, 3}, {"absent", ABSENT, 3},
                 {"hang", HANG, 5}, {"slow", SLOW, 5},                      {"return", RETURN, 5}};
    Fault fault = {.id = id};
    if (world->fault_count == FAULTS_MAX) {
        snprintf(problem, size, "the world has more than %d faults: clear some", FAULTS_MAX);
        return false;
    }
    if (count < 3 || !parse_gpu(world, words[1], &fault.gpu))
        return false;
    for (size_t i = 0; i < sizeof kinds / sizeof *kinds; i++) {
        double number = 0;
        if (strcmp(words[2], kinds[i].name) != 0 || count < kinds[i].words)
            continue;
        fault.kind = kinds[i].kind;
        if (kinds[i].words == 5) {
            if (!parse_number(words[4], &number) || number < 0 || strlen(words[3]) >= sizeof fault.function)
                return false;
            strcpy(fault.function, words[3]);
        } else
            strcpy(fault.function, "*");
        fault.seconds = number;
        fault.code = (int)number;
        if (!parse_conditions(words + kinds[i].words, count - kinds[i].words, &fault))
            return false;
        world->faults[world->fault_count++] = fault;
        return true;
    }
    return false;
}

/* Where an event's own words begin: behind `event ID AT WHICH TYPE DATA`. */
static const char *rest_after(const char *line, int words)
{
    for (; words > 0; words--) {
        line += strspn(line, " \t");
        line += strcspn(line, " \t");
    }
    return line + strspn(line, " \t");
}

/* event ID AT WHICH TYPE DATA [TEXT]; the text is what the driver adds to its line of the kernel log. */
bool parse_event(World *world, char **words, int count, const char *line)
{
    static const struct {
        const char *name;
        unsigned long long type;
        int level;
    } types[] = {{"single-bit-ecc", 0x1, 4},   {"double-bit-ecc", 0x2, 4}, {"pstate", 0x4, 4},
                 {"xid", 0x8, 4},              {"clock", 0x10, 4},         {"ecc-storm", 0x200, 4},
                 {"dram-retirement", 0x400, 4}, {"dram-retirement-failure", 0x800, 4},
                 {"poison", 0x1000, 4},        {"fatal-poison", 0x2000, 4}, {"gpu-unavailable", 0x4000, 4},
                 {"recovery-action", 0x8000, 4}, {"sxid", 0, 3},           {"line", 0, -1}};
    double id, at, data;
    Event event = {0};
    if (count < 6 || world->event_count == EVENTS_MAX || !parse_gpu(world, words[3], &event.gpu))
        return false;
    if (!parse_number(words[1], &id) || !parse_number(words[2], &at) || !parse_number(words[5], &data) || data < 0)
        return false;
    if ((size_t)snprintf(event.text, sizeof event.text, "%s", rest_after(line, 6)) >= sizeof event.text)
        return false;
    event.key = hash_of(line);
    event.id = (long)id, event.at = at, event.data = (unsigned long long)data;
    for (size_t i = 0; i < sizeof types / sizeof *types; i++) {
        if (strcmp(words[4], types[i].name) != 0)
            continue;
        event.type = types[i].type;
        event.level = types[i].level < 0 ? (int)data : types[i].level;
        if ((event.type != 0) != (event.gpu >= 0)) /* switches and free lines belong to the system, the rest to a GPU */
            return false;
        world->events[world->event_count++] = event;
        return true;
    }
    return false;
}
