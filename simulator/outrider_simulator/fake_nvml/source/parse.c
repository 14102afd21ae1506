/* The scenario file's text -> a world. docs/fake-nvml.md describes the format line by line. */
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "world.h"

#define WORDS_MAX 40

#define ROW(name, kind, low, high, standard, unit) {#name, kind, low, high, standard, unit},
const ValueRow value_rows[VALUE_COUNT] = {VALUE_ROWS};
const ValueRow link_value_rows[LINK_VALUE_COUNT] = {LINK_VALUE_ROWS};
#undef ROW
const Board boards[] = {BOARD_ROWS};

const Board *board_named(const char *key)
{
    for (size_t i = 0; i < sizeof boards / sizeof *boards; i++)
        if (strcmp(boards[i].key, key) == 0)
            return &boards[i];
    return NULL;
}

uint64_t hash_of(const char *text)
{
    uint64_t hash = 14695981039346656037ULL; /* FNV-1a */
    for (; *text; text++)
        hash = (hash ^ (unsigned char)*text) * 1099511628211ULL;
    return hash;
}

bool parse_number(const char *word, double *number)
{
    char *end;
    if (strcmp(word, "forever") == 0) {
        *number = ENDLESS;
        return true;
    }
    *number = strtod(word, &end);
    return end != word && *end == 0 && isfinite(*number);
}

bool parse_gpu(const World *world, const char *word, int *gpu)
{
    double number;
    if (strcmp(word, "*") == 0) {
        *gpu = EVERY_GPU;
        return true;
    }
    if (strcmp(word, "system") == 0) {
        *gpu = NO_GPU;
        return true;
    }
    if (!parse_number(word, &number) || number < 0 || number >= world->gpu_count || number != floor(number))
        return false;
    *gpu = (int)number;
    return true;
}

static bool parse_term(char **words, int count, int *used, Term *term)
{
    static const struct {
        const char *name;
        TermKind kind;
        int numbers;
    } kinds[] = {{"sine", SINE, 3}, {"noise", NOISE, 2}, {"ramp", RAMP, 3}, {"rate", RATE, 3}, {"square", SQUARE, 4}};
    double *into[] = {&term->a, &term->b, &term->c, &term->d};
    for (size_t i = 0; i < sizeof kinds / sizeof *kinds; i++) {
        if (strcmp(words[0], kinds[i].name) != 0 || count < 1 + kinds[i].numbers)
            continue;
        term->kind = kinds[i].kind;
        for (int n = 0; n < kinds[i].numbers; n++)
            if (!parse_number(words[1 + n], into[n]))
                return false;
        *used = 1 + kinds[i].numbers;
        bool divides = term->kind == SINE || term->kind == NOISE || term->kind == SQUARE;
        return !(divides && term->b <= 0) && !(term->kind == RAMP && term->c <= 0);
    }
    return false;
}

static bool parse_expression(char **words, int count, Expression *expression)
{
    Expression parsed = {.given = true};
    int used = 1;
    if (count < 1 || !parse_number(words[0], &parsed.base))
        return false;
    while (used < count) {
        int more;
        if (parsed.count == TERMS_MAX || !parse_term(words + used, count - used, &more, &parsed.terms[parsed.count]))
            return false;
        parsed.count++;
        used += more;
    }
    *expression = parsed;
    return true;
}

static int row_named(const ValueRow *rows, int count, const char *name)
{
    for (int i = 0; i < count; i++)
        if (strcmp(rows[i].name, name) == 0)
            return i;
    return -1;
}

/* gpu WHICH VALUE BASE [TERM...] */
static bool parse_value(World *world, char **words, int count)
{
    int gpu, value = count > 3 ? row_named(value_rows, VALUE_COUNT, words[2]) : -1;
    Expression expression;
    if (value < 0 || !parse_gpu(world, words[1], &gpu) || gpu == NO_GPU)
        return false;
    if (!parse_expression(words + 3, count - 3, &expression))
        return false;
    for (int i = 0; i < world->gpu_count; i++)
        if (gpu == EVERY_GPU || gpu == i)
            world->gpus[i].values[value] = expression;
    return true;
}

/* link WHICH LINK VALUE BASE [TERM...] */
static bool parse_link(World *world, char **words, int count)
{
    int gpu, value = count > 4 ? row_named(link_value_rows, LINK_VALUE_COUNT, words[3]) : -1;
    double link = -1;
    Expression expression;
    bool every = count > 2 && strcmp(words[2], "*") == 0;
    if (value < 0 || !parse_gpu(world, words[1], &gpu) || gpu == NO_GPU)
        return false;
    if (!every && (!parse_number(words[2], &link) || link < 0 || link >= world->board->links || link != floor(link)))
        return false;
    if (!parse_expression(words + 4, count - 4, &expression))
        return false;
    for (int i = 0; i < world->gpu_count; i++)
        for (int l = 0; l < world->board->links; l++)
            if ((gpu == EVERY_GPU || gpu == i) && (every || l == (int)link))
                world->gpus[i].links[l][value] = expression;
    return true;
}

static bool parse_identity(World *world, char **words, int count)
{
    int gpu;
    if (count != 4 || !parse_gpu(world, words[1], &gpu) || gpu < 0)
        return false;
    Gpu *g = &world->gpus[gpu];
    struct {
        const char *name;
        char *into;
        size_t size;
    } kinds[] = {{"uuid", g->uuid, sizeof g->uuid},       {"serial", g->serial, sizeof g->serial},
                 {"pci", g->pci, sizeof g->pci},          {"vbios", g->vbios, sizeof g->vbios},
                 {"inforom", g->inforom, sizeof g->inforom}, {"part", g->part, sizeof g->part}};
    for (size_t i = 0; i < sizeof kinds / sizeof *kinds; i++)
        if (strcmp(words[2], kinds[i].name) == 0)
            return (size_t)snprintf(kinds[i].into, kinds[i].size, "%s", words[3]) < kinds[i].size;
    return false;
}

static bool parse_numbers(char **words, int count, double *numbers)
{
    for (int i = 0; i < count; i++)
        if (!parse_number(words[i], &numbers[i]))
            return false;
    return true;
}

/* process WHICH PID MIB | history WHICH AT ENERGY_J LOAD_S | p2p A B STATUS */
static bool parse_record(World *world, char **words, int count)
{
    int gpu;
    double n[3];
    if (count < 4 || !parse_gpu(world, words[1], &gpu) || gpu < 0 || !parse_numbers(words + 2, count - 2, n))
        return false;
    Gpu *g = &world->gpus[gpu];
    if (strcmp(words[0], "process") == 0) {
        if (count != 4 || g->process_count == PROCESSES_MAX || n[0] < 1)
            return false;
        g->processes[g->process_count].pid = (unsigned)n[0];
        g->processes[g->process_count++].mib = n[1];
        return true;
    }
    if (strcmp(words[0], "history") == 0) {
        if (count != 5)
            return false;
        g->history_at = n[0], g->history_j = n[1], g->history_load_s = n[2];
        return true;
    }
    if (count != 4 || n[0] < 0 || n[0] >= world->gpu_count || n[1] < 0 || n[1] > 6)
        return false;
    world->p2p[gpu][(int)n[0]] = world->p2p[(int)n[0]][gpu] = (int)n[1];
    return true;
}

static void furnish(World *world)
{
    static const char *const buses[] = {"18", "2A", "3A", "5D", "9A", "AB", "BA", "DB",
                                        "E4", "E5", "E6", "E7", "E8", "E9", "EA", "EB"};
    memset(world->gpus, 0, sizeof world->gpus);
    for (int i = 0; i < world->gpu_count; i++) {
        Gpu *g = &world->gpus[i];
        uint64_t a = mixed(hash_of(world->board_key), (uint64_t)i), b = mixed(a, 1);
        snprintf(g->uuid, sizeof g->uuid, "GPU-%08x-%04x-%04x-%04x-%012llx", (unsigned)a, (unsigned)(a >> 32) & 0xFFFF,
                 (unsigned)(a >> 48), (unsigned)b & 0xFFFF, (unsigned long long)(b >> 16));
        snprintf(g->serial, sizeof g->serial, "165%010llu", (unsigned long long)(b % 10000000000ULL));
        snprintf(g->pci, sizeof g->pci, "00000000:%s:00.0", buses[i]);
        snprintf(g->vbios, sizeof g->vbios, "%s", world->board->vbios);
        snprintf(g->inforom, sizeof g->inforom, "%s", world->board->inforom_image);
        snprintf(g->part, sizeof g->part, "%s", world->board->board_part);
    }
}

/* boards BOARD COUNT: comes before any line that names a GPU. */
static bool parse_boards(World *world, char **words, int count)
{
    double number;
    const Board *board = count == 3 ? board_named(words[1]) : NULL;
    if (!board || !parse_number(words[2], &number) || number < 1 || number > GPUS_MAX || number != floor(number))
        return false;
    world->board = board;
    snprintf(world->board_key, sizeof world->board_key, "%s", words[1]);
    world->gpu_count = (int)number;
    furnish(world);
    return true;
}

static bool parse_setting(World *world, char **words, int count)
{
    double n[3] = {0, 1, NAN};
    if (strcmp(words[0], "outrider-nvml-world") == 0)
        return count == 2 && strcmp(words[1], "1") == 0;
    if (strcmp(words[0], "clock") == 0) {
        if (count < 3 || count > 4 || !parse_numbers(words + 1, count - 1, n) || n[1] <= 0)
            return false;
        world->origin = n[0], world->scale = n[1], world->stopped_at = n[2];
        return true;
    }
    if (count != 2)
        return false;
    if (strcmp(words[0], "seed") == 0) {
        if (!parse_number(words[1], n) || n[0] < 0)
            return false;
        world->seed = (uint64_t)n[0];
        return true;
    }
    char *into = strcmp(words[0], "kernel-log") == 0 ? world->kernel_log : world->kernel_driver;
    size_t size = into == world->kernel_log ? sizeof world->kernel_log : sizeof world->kernel_driver;
    return (size_t)snprintf(into, size, "%s", words[1]) < size;
}

static int split(char *line, char **words, int most)
{
    int count = 0;
    for (char *word = strtok_r(line, " \t\r", &line); word && count < most; word = strtok_r(NULL, " \t\r", &line))
        words[count++] = word;
    return count;
}

static bool parse_line(World *world, const char *line, char *problem, size_t size)
{
    char copy[1024];
    char *words[WORDS_MAX];
    if (strlen(line) >= sizeof copy)
        return false;
    strcpy(copy, line);
    int count = split(copy, words, WORDS_MAX);
    if (count == 0 || words[0][0] == '#')
        return true;
    const char *kind = words[0];
    if (strcmp(kind, "boards") == 0)
        return parse_boards(world, words, count);
    if (strcmp(kind, "gpu") == 0)
        return parse_value(world, words, count);
    if (strcmp(kind, "link") == 0)
        return parse_link(world, words, count);
    if (strcmp(kind, "identity") == 0)
        return parse_identity(world, words, count);
    if (strcmp(kind, "process") == 0 || strcmp(kind, "history") == 0 || strcmp(kind, "p2p") == 0)
        return parse_record(world, words, count);
    if (strcmp(kind, "fault") == 0)
        return parse_fault(world, words, count, hash_of(line), problem, size);
    if (strcmp(kind, "event") == 0)
        return parse_event(world, words, count, line);
    static const char *const settings[] = {"outrider-nvml-world", "clock", "seed", "kernel-log", "kernel-driver"};
    for (size_t i = 0; i < sizeof settings / sizeof *settings; i++)
        if (strcmp(kind, settings[i]) == 0)
            return parse_setting(world, words, count);
    return false;
}

World *world_parse(const char *text, const char *name, double fallback_origin, char *problem, size_t size)
{
    World *world = calloc(1, sizeof *world);
    char *copy = strdup(text), *at = copy;
    int number = 0;
    bool good = world && copy;
    if (good) {
        char first[] = "boards", board[] = "h100-sxm", eight[] = "8";
        world->events = calloc(EVENTS_MAX, sizeof *world->events);
        world->origin = fallback_origin, world->scale = 1, world->stopped_at = NAN;
        good = world->events && parse_boards(world, (char *[]){first, board, eight}, 3);
    }
    *problem = 0;
    while (good && at) {
        char *line = strsep(&at, "\n");
        number++;
        good = parse_line(world, line, problem, size);
        if (!good && !*problem)
            snprintf(problem, size, "%s line %d cannot be understood: %.120s; docs/fake-nvml.md lists the forms", name,
                     number, line);
    }
    free(copy);
    if (good && world_check(world, problem, size))
        return world;
    if (world)
        world_free(world);
    return NULL;
}

void world_free(World *world)
{
    free(world->events);
    free(world);
}
