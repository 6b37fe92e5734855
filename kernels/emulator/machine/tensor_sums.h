// How tensor cores add products. Sums are not those of float32 arithmetic. A core adds GROUP exact products and the sum so far in
// one step, as whole multiples of one unit: 2^-(23 + EXTRA) times the power of two of the largest of
// them. What is below the unit is cut off, and so is what a float32 cannot hold of the result (Fasi,
// Higham, Mikaitis and Pranesh 2021, "Numerical behavior of NVIDIA tensor cores"; for the numbers of
// each generation Khattak and Mikaitis 2025, arXiv 2512.07004). So every step makes a sum smaller,
// and the error grows with the number of steps.
#pragma once

#include <climits>
#include <cmath>

#include "shim.h"

namespace emulator {

// What a step adds, and the additional bits of its unit. TF32 takes half as many products.
constexpr int GROUP = __CUDA_ARCH__ >= 900 ? 16 : __CUDA_ARCH__ >= 800 ? 8 : 4;
constexpr int EXTRA = __CUDA_ARCH__ >= 900 ? 2 : __CUDA_ARCH__ >= 800 ? 1 : 0;

// A number as the cores multiply it, and its power of two (of a denormal number: the smallest).
struct Factor {
    float value;
    int power;
};

template <int smallest> UNINSTRUMENTED Factor factor(float x) {
    return {x, x == 0 || !std::isfinite(x) ? INT_MIN / 4 : std::max(std::ilogb(x), smallest)};
}

// A whole number x times 2^power, rounded to float32 towards zero.
UNINSTRUMENTED inline float cut(double x, int power) {
    double exact = std::ldexp(x, power);
    float near = static_cast<float>(exact);
    bool beyond = std::fabs(near) > std::fabs(exact) && std::fabs(exact) < std::ldexp(1.0, 128);
    return beyond ? std::nextafter(near, 0.0f) : near;
}

// sum + a[0] b[0] + ... + a[count - 1] b[count - 1], in one step of the cores.
UNINSTRUMENTED inline float add_step(float sum, const Factor* a, const Factor* b, int count) {
    int largest = factor<-126>(sum).power;
    bool finite = std::isfinite(sum);
    for (int i = 0; i < count; i++) {
        largest = std::max(largest, a[i].power + b[i].power);
        finite = finite && std::isfinite(a[i].value) && std::isfinite(b[i].value);
    }
    if (!finite) {
        for (int i = 0; i < count; i++) sum += a[i].value * b[i].value;
        return sum;
    }
    if (largest < -1000) largest = 0;  // nothing but zeros
    int power = largest - 23 - EXTRA;
    double unit = std::ldexp(1.0, -power);
    long long total = static_cast<long long>(std::ldexp(static_cast<double>(sum), -power));
    for (int i = 0; i < count; i++) {  // two operations for each product: profile mode counts them
        total += static_cast<long long>(a[i].value * unit * b[i].value);
    }
    return cut(static_cast<double>(total), power);
}

}  // namespace emulator
