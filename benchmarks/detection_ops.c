/* What a compiled detector does: one thread, float32, as torchvision's CPU operators run. Rivals of
 * benchmarks/detection_ops.py, written from the operators' definitions. Maps are (height, width, channels). */
#include <math.h>
#include <stdlib.h>
#include <string.h>

/* Greedy suppression of n boxes that are sorted by descending score; kept places go to `kept`. */
int nms(const float *b, int n, float threshold, int *kept)
{
    char *gone = calloc(n, 1);
    float *area = malloc(n * sizeof(float));
    int count = 0;
    for (int i = 0; i < n; i++)
        area[i] = (b[4 * i + 2] - b[4 * i]) * (b[4 * i + 3] - b[4 * i + 1]);
    for (int i = 0; i < n; i++) {
        if (gone[i])
            continue;
        kept[count++] = i;
        float x1 = b[4 * i], y1 = b[4 * i + 1], x2 = b[4 * i + 2], y2 = b[4 * i + 3];
        for (int j = i + 1; j < n; j++) {
            float w = fminf(x2, b[4 * j + 2]) - fmaxf(x1, b[4 * j]);
            float h = fminf(y2, b[4 * j + 3]) - fmaxf(y1, b[4 * j + 1]);
            if (gone[j] || w <= 0 || h <= 0)
                continue;
            float both = w * h;
            if (both / (area[i] + area[j] - both) > threshold)
                gone[j] = 1;
        }
    }
    free(gone);
    free(area);
    return count;
}

/* out += weight * the bilinear sample at (y, x), which lies within the map. */
static void add(const float *map, int width, int channels, float y, float x, float weight, float *out)
{
    int y0 = (int)floorf(y), x0 = (int)floorf(x), y1 = (int)ceilf(y), x1 = (int)ceilf(x);
    float v = y - y0, u = x - x0;
    const float *a = map + ((long)y0 * width + x0) * channels, *b = map + ((long)y0 * width + x1) * channels;
    const float *c = map + ((long)y1 * width + x0) * channels, *d = map + ((long)y1 * width + x1) * channels;
    float wa = weight * (1 - v) * (1 - u), wb = weight * (1 - v) * u, wc = weight * v * (1 - u), wd = weight * v * u;
    for (int k = 0; k < channels; k++)
        out[k] += wa * a[k] + wb * b[k] + wc * c[k] + wd * d[k];
}

static float within(float p, int length)
{
    return fminf(fmaxf(p, 0), (float)(length - 1));
}

/* ROI align with the half-pixel shift and samples x samples of each of size x size bins. */
void roi_align(const float *map, int height, int width, int channels, const float *boxes, int n, int size,
               float scale, int samples, float *out)
{
    memset(out, 0, (long)n * size * size * channels * sizeof(float));
    for (int r = 0; r < n; r++) {
        float left = boxes[4 * r] * scale - 0.5f, top = boxes[4 * r + 1] * scale - 0.5f;
        float w = boxes[4 * r + 2] * scale - 0.5f - left, h = boxes[4 * r + 3] * scale - 0.5f - top;
        for (int bin = 0; bin < size * size; bin++, out += channels)
            for (int k = 0; k < samples; k++)
                for (int m = 0; m < samples; m++) {
                    float y = top + h / size * (bin / size + (k + 0.5f) / samples);
                    float x = left + w / size * (bin % size + (m + 0.5f) / samples);
                    if (y < -1 || y > height || x < -1 || x > width)
                        continue;
                    add(map, width, channels, within(y, height), within(x, width), 1.0f / (samples * samples), out);
                }
    }
}

/* The same of a map (channels, height, width), with each region's taps found once and used for all channels: how
 * PyTorch lays maps out, and torchvision's operator goes through them. */
void roi_align_channels_first(const float *map, int channels, int height, int width, const float *boxes, int n,
                              int size, float scale, int samples, float *out)
{
    int each = 4 * samples * samples, bins = size * size;
    int *place = malloc(sizeof(int) * each * bins);
    float *weight = malloc(sizeof(float) * each * bins);
    for (int r = 0; r < n; r++) {
        float left = boxes[4 * r] * scale - 0.5f, top = boxes[4 * r + 1] * scale - 0.5f;
        float w = boxes[4 * r + 2] * scale - 0.5f - left, h = boxes[4 * r + 3] * scale - 0.5f - top;
        int t = 0;
        for (int bin = 0; bin < bins; bin++)
            for (int k = 0; k < samples; k++)
                for (int m = 0; m < samples; m++, t += 4) {
                    float y = top + h / size * (bin / size + (k + 0.5f) / samples);
                    float x = left + w / size * (bin % size + (m + 0.5f) / samples);
                    float full = y < -1 || y > height || x < -1 || x > width ? 0 : 1.0f / (samples * samples);
                    y = within(y, height), x = within(x, width);
                    int y0 = (int)floorf(y), x0 = (int)floorf(x), y1 = (int)ceilf(y), x1 = (int)ceilf(x);
                    float v = y - y0, u = x - x0;
                    place[t] = y0 * width + x0, weight[t] = full * (1 - v) * (1 - u);
                    place[t + 1] = y0 * width + x1, weight[t + 1] = full * (1 - v) * u;
                    place[t + 2] = y1 * width + x0, weight[t + 2] = full * v * (1 - u);
                    place[t + 3] = y1 * width + x1, weight[t + 3] = full * v * u;
                }
        for (int c = 0; c < channels; c++) {
            const float *one = map + (long)c * height * width;
            for (int bin = 0; bin < bins; bin++) {
                float sum = 0;
                for (int k = bin * each; k < (bin + 1) * each; k++)
                    sum += weight[k] * one[place[k]];
                *out++ = sum;
            }
        }
    }
    free(place);
    free(weight);
}

/* Deformable pooling with group size 1; offsets (n, size, size, 2) in x and y. */
void deformable(const float *map, int height, int width, int channels, const float *boxes, int n, int size,
                float scale, int samples, const float *offsets, float gamma, float *out)
{
    memset(out, 0, (long)n * size * size * channels * sizeof(float));
    for (int r = 0; r < n; r++) {
        float left = roundf(boxes[4 * r]) * scale - 0.5f, top = roundf(boxes[4 * r + 1]) * scale - 0.5f;
        float w = fmaxf((roundf(boxes[4 * r + 2]) + 1) * scale - 0.5f - left, 0.1f);
        float h = fmaxf((roundf(boxes[4 * r + 3]) + 1) * scale - 0.5f - top, 0.1f);
        for (int bin = 0; bin < size * size; bin++, out += channels) {
            const float *move = offsets + 2 * ((long)r * size * size + bin);
            int count = 0;
            for (int k = 0; k < samples; k++)
                for (int m = 0; m < samples; m++) {
                    float y = top + h * ((float)(bin / size) / size + (float)k / (size * samples) + gamma * move[1]);
                    float x = left + w * ((float)(bin % size) / size + (float)m / (size * samples) + gamma * move[0]);
                    if (y < -0.5f || y > height - 0.5f || x < -0.5f || x > width - 0.5f)
                        continue;
                    add(map, width, channels, within(y, height), within(x, width), 1.0f, out);
                    count++;
                }
            if (count)
                for (int c = 0; c < channels; c++)
                    out[c] /= count;
        }
    }
}
