// Kernels for test_declared.py: all kinds of arguments, and no more care for speed than a test needs.
#include "qbench/device.cuh"

template <class T>
struct BatchNorm {
    const T* x;
    const float *weight, *bias, *running_mean, *running_var;
    T* y;
    float *new_running_mean, *new_running_var;
    long long images, channels, pixels, twice;
    float momentum, eps;
};

// One thread a channel.
template <class T, int CHANNELS>
__global__ void __launch_bounds__(32) batch_norm(const __grid_constant__ BatchNorm<T> a) {
    if (threadIdx.x != 0 || a.channels != CHANNELS || a.twice != 2 * a.images) return;
    const int channel = blockIdx.x;
    const double count = static_cast<double>(a.images * a.pixels);
    double mean = 0.0, squares = 0.0;
    for (int pass = 0; pass < 3; ++pass) {
        const double var = squares / count, rstd = 1.0 / sqrt(var + a.eps);
        for (long long i = 0; i < a.images * a.pixels; ++i) {
            const long long at = (i / a.pixels * CHANNELS + channel) * a.pixels + i % a.pixels;
            const double x = qb::to_float(a.x[at]);
            if (pass == 0) mean += x / count;
            if (pass == 1) squares += (x - mean) * (x - mean);
            if (pass == 2) {
                const double weight = a.weight ? a.weight[channel] : 1.0, bias = a.bias ? a.bias[channel] : 0.0;
                a.y[at] = qb::from_float<T>(static_cast<float>((x - mean) * rstd * weight + bias));
            }
        }
    }
    const double keep = 1.0 - a.momentum;
    a.new_running_mean[channel] = static_cast<float>(keep * a.running_mean[channel] + a.momentum * mean);
    a.new_running_var[channel] =
        static_cast<float>(keep * a.running_var[channel] + a.momentum * squares / fmax(count - 1.0, 1.0));
}

template <class T>
struct TanhBackward {
    const T *dy, *x, *alpha, *weight;
    T *dx, *dalpha, *dweight, *dbias;
    long long rows, columns;
};

// One thread a column; the first adds all up for alpha.
template <class T, class W>
__global__ void __launch_bounds__(64) tanh_backward(const __grid_constant__ TanhBackward<T> a) {
    const long long column = blockIdx.x * 64LL + threadIdx.x;
    if (column >= a.columns) return;
    double dweight = 0.0, dbias = 0.0, dalpha = 0.0;
    const double alpha = qb::to_float(a.alpha[0]);
    for (long long i = 0; i < a.rows * a.columns; ++i) {
        if (i % a.columns != column && column != 0) continue;
        const double weight = a.weight ? qb::to_float(a.weight[i % a.columns]) : 1.0;
        const double dy = qb::to_float(a.dy[i]), x = qb::to_float(a.x[i]), t = tanh(alpha * x);
        dalpha += dy * weight * (1.0 - t * t) * x;
        if (i % a.columns != column) continue;
        dweight += dy * t;
        dbias += dy;
        a.dx[i] = qb::from_float<T>(static_cast<float>(dy * weight * (1.0 - t * t) * alpha));
    }
    if (column == 0) a.dalpha[0] = qb::from_float<T>(static_cast<float>(dalpha));
    if (a.dweight) a.dweight[column] = qb::from_float<T>(static_cast<float>(dweight));
    if (a.dbias) a.dbias[column] = qb::from_float<T>(static_cast<float>(dbias));
}
