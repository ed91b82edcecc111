// Spikes out, the time before the last turning point flat, an autoregression of the differences fitted by least
// squares, bounds, and growth that is believed only in part after a long climb (and a fall after a long fall).
#include "plan/fleet/predictor.h"

#include "base/mem.h"

#include <math.h>
#include <stdbool.h>
#include <string.h>

enum { SPIKE_MAX = 3 };

static void remove_spikes(double *a, uint32_t count, uint32_t width)
{
    for (uint32_t i = 0; i + width + 1 < count; i++) {
        bool spike = a[i] == a[i + width + 1];
        for (uint32_t j = 1; j <= width; j++)
            spike = spike && a[i + j] != a[i];
        for (uint32_t j = 1; spike && j <= width; j++)
            a[i + j] = a[i];
    }
}

// Where the least (or else the greatest) lies between the ends, it is taken for all that was before it.
static void flatten(double *a, uint32_t count)
{
    const double first = a[0], last = a[count - 1];
    double least = a[0], most = a[0];
    for (uint32_t i = 1; i < count; i++) {
        least = fmin(least, a[i]);
        most = fmax(most, a[i]);
    }
    const double turn = least < fmin(first, last) ? least : most;
    if (turn == most && !(most > fmax(first, last)))
        return;
    uint32_t at = count - 1;
    while (a[at] != turn)
        at--;
    for (uint32_t i = 0; i < at; i++)
        a[i] = turn;
}

// How much of a further change to believe, after one of `sign` without a step back.
static double belief(const double *a, uint32_t count, double sign)
{
    for (uint32_t i = 1; i < count; i++)
        if ((a[i] - a[i - 1]) * sign < 0)
            return 1;
    const double change = fabs(a[count - 1] - a[0]);
    return change >= 10 ? 0.5 : change >= 5 ? 0.75 : 1;
}

// d[t] = mean + slope (d[t - 1] - mean) of the differences, by least squares; forecasts are their sums.
static void extrapolate(const double *a, uint32_t count, uint32_t ahead, double *forecast)
{
    const uint32_t pairs = count > 2 ? count - 2 : 0;
    double x = 0, y = 0, xx = 0, xy = 0;
    for (uint32_t t = 2; t < count; t++) {
        const double before = a[t - 1] - a[t - 2], now = a[t] - a[t - 1];
        x += before;
        y += now;
        xx += before * before;
        xy += before * now;
    }
    const double spread = pairs * xx - x * x;
    double slope = spread > 0 ? (pairs * xy - x * y) / spread : 0;
    slope = fmax(-0.95, fmin(0.95, slope)); // stationary
    const double constant = pairs ? (y - slope * x) / pairs : 0;
    double value = a[count - 1], difference = count > 1 ? value - a[count - 2] : 0;
    for (uint32_t k = 0; k < ahead; k++) {
        difference = constant + slope * difference;
        value += difference;
        forecast[k] = rint(value);
    }
}

void plan_predict(const struct plan_predictor *predictor, const uint32_t *counts, uint32_t count, uint32_t ahead,
                  uint32_t *forecast)
{
    if (!ahead)
        return;
    const uint32_t window = count < predictor->window || !predictor->window ? count : predictor->window;
    double *a = bg_alloc_array(window + (size_t)ahead, sizeof *a), *next = a + window;
    for (uint32_t i = 0; i < window; i++)
        a[i] = counts[count - window + i];
    for (uint32_t width = SPIKE_MAX; width; width--)
        remove_spikes(a, window, width);
    flatten(a, window);
    const double up = belief(a, window, 1), down = belief(a, window, -1), step = predictor->step;
    extrapolate(a, window, ahead, next);
    for (uint32_t k = ahead; k-- > 0;) { // the first one last: it is what the others are held to
        next[k] = fmax(next[0] - step, fmin(next[0] + step, next[k]));
        next[k] = fmax(predictor->low, fmin(predictor->high, next[k]));
    }
    double from = a[window - 1], said = from;
    for (uint32_t k = 0; k < ahead; k++) {
        const double change = next[k] - from;
        said = rint(said + change * (change > 0 ? up : down));
        forecast[k] = (uint32_t)fmax(0, said);
        from = next[k];
    }
    bg_free(a);
}
