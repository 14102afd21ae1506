/* The current world: read when the library is initialised, and again whenever the file changed.
 *
 * A file that is not a possible world is refused: at nvmlInit with an error, later by keeping the world before it.
 * Both say why on standard error, once per version of the file.
 */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <math.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <time.h>

#include "world.h"

static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;
static World *current;
static struct stat seen;
static bool was_there;

double wall_clock(void)
{
    struct timespec now;
    clock_gettime(CLOCK_REALTIME, &now);
    return (double)now.tv_sec + 1e-9 * (double)now.tv_nsec;
}

double world_time_at(const World *world, double wall)
{
    return isnan(world->stopped_at) ? (wall - world->origin) * world->scale : world->stopped_at;
}

double world_time(const World *world)
{
    return world_time_at(world, wall_clock());
}

/* The wall clock of the simulated machine: it runs as fast as its world does. */
long long world_usec(const World *world, double t)
{
    return (long long)((world->origin + t) * 1e6);
}

/* OUTRIDER_NVML_WORLD, or the file `world` beside this library. */
const char *world_path(void)
{
    static char beside[4096];
    const char *given = getenv("OUTRIDER_NVML_WORLD");
    Dl_info info;
    if (given && *given)
        return given;
    if (!dladdr((void *)(uintptr_t)world_path, &info) || strlen(info.dli_fname) + 8 > sizeof beside)
        return "world";
    strcpy(beside, info.dli_fname);
    char *slash = strrchr(beside, '/');
    strcpy(slash ? slash + 1 : beside, "world");
    return beside;
}

char *read_whole(const char *path)
{
    FILE *file = fopen(path, "re");
    struct stat status;
    if (!file)
        return NULL;
    size_t size = fstat(fileno(file), &status) == 0 ? (size_t)status.st_size : 0;
    char *text = malloc(size + 1);
    if (text)
        text[fread(text, 1, size, file)] = 0;
    fclose(file);
    return text;
}

static bool changed(const struct stat *now, bool there)
{
    return there != was_there ||
           (there && (now->st_mtim.tv_sec != seen.st_mtim.tv_sec || now->st_mtim.tv_nsec != seen.st_mtim.tv_nsec ||
                      now->st_ino != seen.st_ino || now->st_size != seen.st_size));
}

static World *read_world(const char *path, bool there, double fallback_origin, char *problem, size_t size)
{
    char *text = there ? read_whole(path) : strdup("");
    World *world = NULL;
    if (text)
        world = world_parse(text, path, fallback_origin, problem, size);
    else
        snprintf(problem, size, "%s cannot be read", path);
    free(text);
    return world;
}

/* Called with the lock held. False where there is no world to go on with. */
static bool refresh(char *problem, size_t size)
{
    struct stat now;
    const char *path = world_path();
    bool there = stat(path, &now) == 0;
    if (current && !changed(&now, there))
        return true;
    double since = there ? (double)now.st_mtim.tv_sec : wall_clock();
    World *fresh = read_world(path, there, since, problem, size);
    if (fresh && current && !world_follows(current, fresh, wall_clock(), problem, size)) {
        world_free(fresh);
        fresh = NULL;
    }
    was_there = there;
    seen = now;
    if (!fresh) {
        fprintf(stderr, "outrider's fake NVML refuses this world: %s\n", problem);
        return current != NULL;
    }
    kernel_log_begin(fresh);
    if (current && current->users == 0)
        world_free(current);
    current = fresh;
    return true;
}

/* Read the file for nvmlInit: what it says now counts, whatever was there before. */
bool world_open(char *problem, size_t size)
{
    pthread_mutex_lock(&lock);
    if (current && current->users == 0)
        world_free(current);
    current = NULL;
    bool good = refresh(problem, size);
    pthread_mutex_unlock(&lock);
    return good;
}

World *world_enter(void)
{
    char problem[512];
    pthread_mutex_lock(&lock);
    World *world = refresh(problem, sizeof problem) ? current : NULL;
    if (world) {
        world->users++;
        if (world->unlogged)
            kernel_log_due(world);
    }
    pthread_mutex_unlock(&lock);
    return world;
}

void world_leave(World *world)
{
    pthread_mutex_lock(&lock);
    world->users--;
    if (world != current && world->users == 0)
        world_free(world);
    pthread_mutex_unlock(&lock);
}
