/* Values over time. A value is a base and the sum of its terms, so that any process reads the same at the same moment. */
#include <math.h>

#include "world.h"

#define TURN (2 * M_PI)

uint64_t mixed(uint64_t key, uint64_t more)
{
    uint64_t x = key + 0x9E3779B97F4A7C15ULL * (more + 1);
    x = (x ^ (x >> 30)) * 0xBF58476D1CE4E5B9ULL;
    x = (x ^ (x >> 27)) * 0x94D049BB133111EBULL;
    return x ^ (x >> 31);
}

/* A number in [0, 1) that follows from the key alone. */
double share_of(uint64_t key)
{
    return (double)(mixed(key, 0) >> 11) / 9007199254740992.0;
}

static double clamped(double x, double low, double high)
{
    return x < low ? low : x > high ? high : x;
}

static double fraction(double x)
{
    return x - floor(x);
}

static double term_at(const Term *term, double t, uint64_t key)
{
    switch (term->kind) {
    case SINE: /* amplitude a, period b, phase c */
        return term->a * sin(TURN * (t + term->c) / term->b);
    case NOISE: /* within -a..a, a new draw each b seconds */
        return term->a * (2 * share_of(mixed(key, (uint64_t)(int64_t)floor(t / term->b))) - 1);
    case RAMP: /* a more, from b on, within c seconds */
        return term->a * clamped((t - term->b) / term->c, 0, 1);
    case RATE: /* a per second, from b to c */
        return term->a * (clamped(t, term->b, term->c) - term->b);
    case SQUARE: /* a more for the share c of each period b, phase d */
        return fraction((t + term->d) / term->b) < term->c ? term->a : 0;
    }
    return 0;
}

double expression_at(const Expression *e, double t, uint64_t key)
{
    double sum = e->base;
    for (int i = 0; i < e->count; i++)
        sum += term_at(&e->terms[i], t, mixed(key, (uint64_t)i));
    return sum;
}

/* The integral of a term from minus infinity's zero to t; only differences of it mean anything. */
static double term_sum(const Term *term, double t)
{
    double into, whole;
    switch (term->kind) {
    case SINE:
        return -term->a * term->b / TURN * cos(TURN * (t + term->c) / term->b);
    case NOISE: /* its mean is zero */
        return 0;
    case RAMP:
        into = clamped(t - term->b, 0, term->c);
        return term->a * (into * into / (2 * term->c) + clamped(t - term->b - term->c, 0, ENDLESS));
    case RATE:
        into = clamped(t, term->b, term->c) - term->b;
        return term->a * (into * into / 2 + into * clamped(t - term->c, 0, ENDLESS));
    case SQUARE:
        whole = floor((t + term->d) / term->b);
        into = t + term->d - whole * term->b;
        return term->a * (whole * term->b * term->c + clamped(into, 0, term->b * term->c));
    }
    return 0;
}

double expression_integral(const Expression *e, double from, double to)
{
    double sum = e->base * (to - from);
    for (int i = 0; i < e->count; i++)
        sum += term_sum(&e->terms[i], to) - term_sum(&e->terms[i], from);
    return sum;
}

static void term_range(const Term *term, double *low, double *high)
{
    double reach = term->a;
    if (term->kind == RATE)
        reach = term->a * clamped(term->c - term->b, 0, ENDLESS);
    *low = reach < 0 ? reach : 0;
    *high = reach > 0 ? reach : 0;
    if (term->kind == SINE || term->kind == NOISE) {
        *low = -fabs(term->a);
        *high = fabs(term->a);
    }
}

/* All that the value can ever be lies within low..high. */
void expression_range(const Expression *e, double *low, double *high)
{
    *low = *high = e->base;
    for (int i = 0; i < e->count; i++) {
        double below, above;
        term_range(&e->terms[i], &below, &above);
        *low += below;
        *high += above;
    }
}
