/* The world behind the calls: what the scenario file says, and how a moment of it is read.
 *
 * Flow: a call enters (the file is read again where it changed, faults strike), reads its moment, and leaves.
 * A world is immutable once loaded; it is freed when the last call that reads it has left.
 */
#ifndef OUTRIDER_WORLD_H
#define OUTRIDER_WORLD_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "generated.h" /* BOARD_FIELDS, BOARD_ROWS, VALUE_ROWS, LINK_VALUE_ROWS, DRIVER, CUDA, XID_MAX ... */
#include "nvml.h"

#define GPUS_MAX 16
#define LINKS_MAX 18
#define TERMS_MAX 5
#define FAULTS_MAX 128
#define EVENTS_MAX 4096
#define PROCESSES_MAX 32
#define TEXT_MAX 256
#define ENDLESS 1e18
#define EVERY_GPU (-1)
#define NO_GPU (-2)

enum { GAUGE, COUNTER, LIFETIME, FLAG };

#define ROW(name, kind, low, high, standard, unit) VALUE_##name,
enum { VALUE_ROWS VALUE_COUNT };
#undef ROW
#define ROW(name, kind, low, high, standard, unit) LINK_##name,
enum { LINK_VALUE_ROWS LINK_VALUE_COUNT };
#undef ROW

typedef struct {
    const char *name;
    int kind;
    double low, high, standard; /* standard is NAN where the reading follows from the load */
    const char *unit;
} ValueRow;

typedef struct {
    BOARD_FIELDS
} Board;

extern const ValueRow value_rows[VALUE_COUNT];
extern const ValueRow link_value_rows[LINK_VALUE_COUNT];
extern const Board boards[];
const Board *board_named(const char *key);

/* A value over time: a base and the sum of its terms. */
typedef enum { SINE, NOISE, RAMP, RATE, SQUARE } TermKind;
typedef struct {
    TermKind kind;
    double a, b, c, d;
} Term;
typedef struct {
    bool given;
    double base;
    int count;
    Term terms[TERMS_MAX];
} Expression;
double expression_at(const Expression *e, double t, uint64_t key);
double expression_integral(const Expression *e, double from, double to);
void expression_range(const Expression *e, double *low, double *high);
uint64_t mixed(uint64_t key, uint64_t more);
double share_of(uint64_t key);

typedef struct {
    char uuid[96], serial[30], pci[32], vbios[32], inforom[16], part[80];
    Expression values[VALUE_COUNT];
    Expression links[LINKS_MAX][LINK_VALUE_COUNT];
    struct {
        unsigned pid;
        double mib;
    } processes[PROCESSES_MAX];
    int process_count;
    double history_at, history_j, history_load_s; /* energy and load summed up to this world time */
} Gpu;

typedef enum { LOST, RESET_REQUIRED, ABSENT, HANG, SLOW, RETURN } FaultKind;
typedef struct {
    FaultKind kind;
    int gpu;
    char function[64];
    double seconds; /* HANG, SLOW; ENDLESS for ever */
    int code;       /* RETURN */
    long after;     /* strikes once so many matching calls were made */
    double chance;  /* strikes with this probability at each matching call */
    bool passing;   /* it does not stay once it has struck */
    uint64_t id;    /* of the line that gave it: the same line is the same fault */
} Fault;

typedef struct {
    long id;
    double at;
    int gpu;
    unsigned long long type, data; /* type 0: only a line of the kernel log */
    int level;
    bool logged; /* its line stands in the kernel log */
    uint64_t key;
    char text[TEXT_MAX];
} Event;

typedef struct {
    int users;
    const Board *board;
    char board_key[32];
    int gpu_count;
    uint64_t seed;
    double origin, scale, stopped_at; /* stopped_at is NAN while the clock runs */
    char kernel_driver[80], kernel_log[512];
    int p2p[GPUS_MAX][GPUS_MAX];
    Gpu gpus[GPUS_MAX];
    Fault faults[FAULTS_MAX];
    int fault_count;
    Event *events;
    int event_count;
    int unlogged;
} World;

/* parse.c, check.c: NULL and a sentence where the text is not a possible world. */
World *world_parse(const char *text, const char *name, double fallback_origin, char *problem, size_t size);
bool world_check(const World *world, char *problem, size_t size);
bool world_follows(const World *before, const World *after, double wall, char *problem, size_t size);
void world_free(World *world);
bool parse_event(World *world, char **words, int count, const char *line);
bool parse_fault(World *world, char **words, int count, uint64_t id, char *problem, size_t size);
bool parse_gpu(const World *world, const char *word, int *gpu);
bool parse_number(const char *word, double *number);
uint64_t hash_of(const char *text);

/* load.c: the current world, read again where the file changed. */
World *world_enter(void);
void world_leave(World *world);
bool world_open(char *problem, size_t size);
const char *world_path(void);
char *read_whole(const char *path);
double world_time(const World *world);
double world_time_at(const World *world, double wall);
long long world_usec(const World *world, double t);
double wall_clock(void);

/* readings.c: one number at one moment, set or derived. */
double reading(const World *world, int gpu, int value, double t);
double link_reading(const World *world, int gpu, int link, int value, double t);
double energy_j(const World *world, int gpu, double t);
double load_seconds(const World *world, int gpu, double t);
double average_power_w(const World *world, int gpu, double t);
unsigned long long clock_event_reasons(const World *world, int gpu, double t);

/* faults.c: what a call meets before it may answer. */
nvmlReturn_t faults_meet(World **world, const char *function, int gpu);
bool gpu_is(const World *world, int gpu, FaultKind kind);
nvmlReturn_t fault_code(const World *world, const char *function, int gpu);

/* kernel_log.c */
void kernel_log_begin(World *world);
void kernel_log_due(World *world);

/* calls.c: every function of the interface begins with `enter` and ends with `leave`. */
typedef struct Slot {
    int gpu;
} Slot;
typedef struct {
    World *world;
    const Board *board;
    int gpu;
    double t;
} Call;
nvmlReturn_t enter(Call *call, const char *function, nvmlDevice_t device);
nvmlReturn_t enter_system(Call *call, const char *function);
nvmlReturn_t leave(Call *call, nvmlReturn_t answer);
nvmlDevice_t slot_of(int gpu);
nvmlReturn_t copy_text(char *target, unsigned size, const char *text);
unsigned long long counted(const Call *call, int value);
void pci_info(nvmlPciInfo_t *info, const char *pci, unsigned device_id, unsigned subsystem_id);
void switch_address(const Call *call, unsigned link, char *text, size_t size);

#define API __attribute__((visibility("default")))
#define ENTER(device)                                                  \
    Call call;                                                         \
    nvmlReturn_t entered = enter(&call, __func__, device);             \
    if (entered != NVML_SUCCESS)                                       \
        return entered
#define REQUIRE(condition)                                             \
    do {                                                               \
        if (!(condition))                                              \
            return leave(&call, NVML_ERROR_INVALID_ARGUMENT);          \
    } while (0)
#define LEAVE(answer) return leave(&call, answer)

#endif
