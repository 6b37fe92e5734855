// Lookups in tables (kernels/reference/lookup.py). t and index are on the device, so that a CUDA
// graph of a training step contains them.

#include "each.cuh"

// values[i] = table[t[i]] for a schedule in double precision
extern "C" __global__ void take_floats(const double* table, const long long* t, float* values,
                                       int n) {
    for (EACH(i, n)) values[i] = (float)table[t[i]];
}

extern "C" __global__ void take_integers(const long long* table, const long long* t,
                                         long long* values, int n) {
    for (EACH(i, n)) values[i] = table[t[i]];
}

// rows [N, C] = weight[index]; n = N C
extern "C" __global__ void take_rows(const float* weight, const long long* index, float* rows,
                                     int C, int n) {
    for (EACH(i, n)) rows[i] = weight[index[i / C] * C + i % C];
}

// gw[r] = sum of gy [N, C] where index is r, always in the same order; n counts the elements of gw
extern "C" __global__ void take_rows_backward(const float* gy, const long long* index, float* gw,
                                              int N, int C, int n) {
    for (EACH(i, n)) {
        float sum = 0.0f;
        for (int k = 0; k < N; k++) {
            if (index[k] == i / C) sum += gy[(long long)k * C + i % C];
        }
        gw[i] = sum;
    }
}
