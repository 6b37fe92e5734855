// Replaces CUDA's mma.h, as far as kernels need it: matrix products computed by one warp.
//
// A fragment is a tile of a matrix, distributed over the lanes of a warp; CUDA leaves unspecified
// which lane holds which elements. Here the order is scrambled on purpose, differently for each
// kind of fragment, so a kernel that works here relies on no order. As on a GPU, every element of a
// 16-bit matrix is in two lanes.
//
// Inputs are half, bfloat16, or TF32: a float32 whose upper 10 of 23 mantissa bits are read.
// The other bits are truncated unless __float_to_tf32 has rounded.
//
// Sums are not those of float32 arithmetic. A core adds GROUP exact products and the sum so far in
// one step, as whole multiples of one unit: 2^-(23 + EXTRA) times the power of two of the largest of
// them. What is below the unit is cut off, and so is what a float32 cannot hold of the result (Fasi,
// Higham, Mikaitis and Pranesh 2021, "Numerical behavior of NVIDIA tensor cores"; for the numbers of
// each generation Khattak and Mikaitis 2025, arXiv 2512.07004). So every step makes a sum smaller,
// and the error grows with the number of steps.
#pragma once

#include <climits>
#include <cmath>

#include "bfloat16.h"
#include "denormals.h"
#include "half.h"

namespace emulator {

// What a step adds, and the additional bits of its unit. TENSOR_CORES is the compute capability: 70
// (and 75), 80 (also 86 and 89), or 90. TF32 takes half as many products.
#ifndef TENSOR_CORES
#define TENSOR_CORES 80
#endif
constexpr int GROUP = TENSOR_CORES >= 90 ? 16 : TENSOR_CORES >= 80 ? 8 : 4;
constexpr int EXTRA = TENSOR_CORES >= 90 ? 2 : TENSOR_CORES >= 80 ? 1 : 0;

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

// sum + a[0] b[0] + a[1] b[step] + ..., in one step of the cores.
UNINSTRUMENTED inline float add_step(float sum, const Factor* a, const Factor* b, int step,
                                     int count) {
    int largest = factor<-126>(sum).power;
    bool finite = std::isfinite(sum);
    for (int i = 0; i < count; i++) {
        largest = std::max(largest, a[i].power + b[i * step].power);
        finite = finite && std::isfinite(a[i].value) && std::isfinite(b[i * step].value);
    }
    if (!finite) {
        for (int i = 0; i < count; i++) sum += a[i].value * b[i * step].value;
        return sum;
    }
    if (largest < -1000) largest = 0;  // nothing but zeros
    int power = largest - 23 - EXTRA;
    double unit = std::ldexp(1.0, -power);
    long long total = static_cast<long long>(std::ldexp(static_cast<double>(sum), -power));
    for (int i = 0; i < count; i++) {  // two operations for each product: profile mode counts them
        total += static_cast<long long>(a[i].value * unit * b[i * step].value);
    }
    return cut(static_cast<double>(total), power);
}

// The element that a lane of a fragment of type F holds in x[i].
template <class F> struct Layout {
    unsigned char element[32][F::num_elements];
    constexpr Layout() : element() {
        for (int lane = 0; lane < 32; lane++) {
            for (int i = 0; i < F::num_elements; i++) element[lane][i] = F::element(lane, i);
        }
    }
};
template <class F> constexpr Layout<F> layout;

// Synchronises the warp and checks that all lanes pass the same matrix. step: elements from one
// row, or column, to the next.
template <class T> UNINSTRUMENTED void check_agreement(const T* matrix, unsigned step, int line) {
    struct {
        const T* matrix;
        unsigned long long step;
    } mine = {matrix, step}, first;
    if (reinterpret_cast<uintptr_t>(matrix) % 32) {
        refuse("loads or stores a matrix that does not begin at a multiple of 32 bytes", line);
    }
    if (step * sizeof(T) % 16) {
        refuse("loads or stores a matrix whose ldm is not a multiple of 16 bytes", line);
    }
    std::memcpy(&first, exchange(~0u, &mine, sizeof mine, line), sizeof first);
    if (first.matrix != matrix || first.step != step) {
        refuse("loads or stores a different matrix than the first lane of its warp", line);
    }
}

// Index in memory of the element that this lane holds in x[i].
template <class F> UNINSTRUMENTED int place(int i, unsigned step, bool by_rows) {
    int element = layout<F>.element[current->lane][i];
    int row = element / F::columns, column = element % F::columns;
    return by_rows ? row * step + column : column * step + row;
}

// Inlined, so that its reads are attributed to the kernel's line.
template <class F, class T>
__forceinline__ void load(F& f, const T* from, unsigned step, bool by_rows, int line) {
    check_agreement(from, step, line);
    for (int i = 0; i < F::num_elements; i++) f.x[i] = from[place<F>(i, step, by_rows)];
}

// Assembles a matrix from the fragment `which` of each lane of a warp.
template <class F, class Operands>
UNINSTRUMENTED void gather(const Operands* const* lanes, const F* Operands::*which, float* matrix,
                           int line) {
    bool set[F::elements] = {};
    for (int lane = 0; lane < 32; lane++) {
        for (int i = 0; i < F::num_elements; i++) {
            int at = layout<F>.element[lane][i];
            float value = (lanes[lane]->*which)->as_multiplied(i);
            if (set[at] && __float_as_uint(value) != __float_as_uint(matrix[at])) {
                refuse("multiplies a matrix where two lanes hold different values of one element",
                       line);
            }
            matrix[at] = value, set[at] = true;
        }
    }
}

}  // namespace emulator

namespace nvcuda {
namespace wmma {

struct matrix_a;
struct matrix_b;
struct accumulator;
struct row_major;
struct col_major;
enum layout_t { mem_row_major, mem_col_major };
namespace precision {
struct tf32;
}

template <class Use, int m, int n, int k, class T, class Order = void> struct fragment {
    static constexpr bool is_a = std::is_same_v<Use, matrix_a>;
    static constexpr bool is_16 = std::is_same_v<T, half> || std::is_same_v<T, __nv_bfloat16>;
    static constexpr bool is_sum = std::is_same_v<Use, accumulator>;
    static constexpr bool is_tf32 = std::is_same_v<T, precision::tf32>;
    static_assert(m == 16 && n == 16 && (k == 16 || k == 8) &&
                      (is_sum ? std::is_same_v<T, float> : k == 16 ? is_16 : is_tf32),
                  "the emulator multiplies half and bfloat16 (16, 16, 16) and tf32 (16, 16, 8) to "
                  "float");
    static constexpr int rows = is_a || is_sum ? m : k, columns = is_a ? k : n;
    static constexpr int elements = rows * columns;
    static constexpr int num_elements = (is_16 ? 2 : 1) * elements / 32;  // per lane

    std::conditional_t<is_16, T, float> x[num_elements];
    fragment() { std::memset(x, 0xff, sizeof x); }  // NaN until it is filled or loaded

    // The value of x[i] that the tensor cores multiply.
    UNINSTRUMENTED float as_multiplied(int i) const {
        auto value = x[i];
        if constexpr (is_tf32) return __uint_as_float(__float_as_uint(value) & ~0x1fffu);
        return value;
    }

    // The element, numbered row by row, that a lane holds in x[i]. Each step is invertible, so
    // every element occurs once; with 16 bits, once in each half of x.
    static constexpr int element(int lane, int i) {
        unsigned kind = std::is_same_v<Order, col_major> + 2 * is_a + 4 * is_sum;
        unsigned slot = 32 * i + lane, second = slot / elements;
        unsigned at = ((37 + 8 * kind) * slot + 13 * second + kind) % elements;
        at = 11 * (at ^ at >> 3) % elements;
        return at ^ at >> 4;
    }
};

template <class Use, int m, int n, int k, class T, class Order, class Value>
void fill_fragment(fragment<Use, m, n, k, T, Order>& f, Value value) {
    for (auto& x : f.x) x = value;
}

template <class Use, int m, int n, int k, class T, class Order>
__forceinline__ void load_matrix_sync(fragment<Use, m, n, k, T, Order>& f, const T* from,
                                      unsigned ldm, HERE) {
    static_assert(f.is_16, "sums are loaded with their layout as the last argument");
    emulator::load(f, from, ldm, std::is_same_v<Order, row_major>, line);
}
template <class Use, int m, int n, int k, class Order>
__forceinline__ void load_matrix_sync(fragment<Use, m, n, k, precision::tf32, Order>& f,
                                      const float* from, unsigned ldm, HERE) {
    emulator::load(f, from, ldm, std::is_same_v<Order, row_major>, line);
}
template <int m, int n, int k>
__forceinline__ void load_matrix_sync(fragment<accumulator, m, n, k, float>& f, const float* from,
                                      unsigned ldm, layout_t how, HERE) {
    emulator::load(f, from, ldm, how == mem_row_major, line);
}
template <int m, int n, int k>
__forceinline__ void store_matrix_sync(float* to, const fragment<accumulator, m, n, k, float>& f,
                                       unsigned ldm, layout_t how, HERE) {
    emulator::check_agreement(to, ldm, line);
    using F = fragment<accumulator, m, n, k, float>;
    for (int i = 0; i < f.num_elements; i++) {
        to[emulator::place<F>(i, ldm, how == mem_row_major)] = f.x[i];
    }
}

// Rounds to 10 mantissa bits, to nearest, ties away from zero (cvt.rna.tf32.f32).
static inline float __float_to_tf32(float x) {
    if (x != x) return __uint_as_float(0x7fffffff);
    return __uint_as_float((__float_as_uint(x) + 0x1000) & ~0x1fffu);
}

template <int m, int n, int k, class T, class OrderA, class OrderB>
UNINSTRUMENTED void mma_sync(fragment<accumulator, m, n, k, float>& d,
                             const fragment<matrix_a, m, n, k, T, OrderA>& a,
                             const fragment<matrix_b, m, n, k, T, OrderB>& b,
                             const fragment<accumulator, m, n, k, float>& c, HERE) {
    using A = fragment<matrix_a, m, n, k, T, OrderA>;
    using B = fragment<matrix_b, m, n, k, T, OrderB>;
    using C = fragment<accumulator, m, n, k, float>;
    struct Operands {
        const A* a;
        const B* b;
        const C* c;
        C* d;
    } mine = {&a, &b, &c, &d};
    const Operands *pointer = &mine, *lanes[32];
    const char* all = emulator::exchange(~0u, &pointer, sizeof pointer, line);
    if (emulator::current->lane == 0) {
        // Lane 0 reads the fragments of all lanes on their stacks, and computes for all of them.
        emulator::Denormals mode(/*are_zero=*/false);
        for (int lane = 0; lane < 32; lane++) {
            std::memcpy(&lanes[lane], all + 16 * lane, sizeof pointer);
        }
        float left[m * k], right[k * n], sums[m][n];
        emulator::gather(lanes, &Operands::a, left, line);
        emulator::gather(lanes, &Operands::b, right, line);
        emulator::gather(lanes, &Operands::c, sums[0], line);
        constexpr int smallest = std::is_same_v<T, half> ? -14 : -126;
        constexpr int group = std::min(k, A::is_tf32 ? emulator::GROUP / 2 : emulator::GROUP);
        emulator::Factor a_factors[m * k], b_factors[k * n];
        for (int i = 0; i < m * k; i++) a_factors[i] = emulator::factor<smallest>(left[i]);
        for (int i = 0; i < k * n; i++) b_factors[i] = emulator::factor<smallest>(right[i]);
        for (int row = 0; row < m; row++) {
            for (int column = 0; column < n; column++) {
                for (int i = 0; i < k; i += group) {
                    sums[row][column] =
                        emulator::add_step(sums[row][column], a_factors + row * k + i,
                                           b_factors + i * n + column, n, group);
                }
            }
        }
        for (int lane = 0; lane < 32; lane++) {
            for (int i = 0; i < C::num_elements; i++) {
                lanes[lane]->d->x[i] = sums[0][emulator::layout<C>.element[lane][i]];
            }
        }
    }
    emulator::exchange(~0u, nullptr, 0, line);  // the other lanes wait for lane 0
}

}  // namespace wmma
}  // namespace nvcuda
