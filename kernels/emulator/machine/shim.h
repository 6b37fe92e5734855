// CUDA C for g++: included before a .cu file, it makes the file ordinary C++.
//
// It declares CUDA's built-in variables and functions. Those that involve other threads (barriers,
// warp operations, shared memory) are implemented in runtime.cc and shared.cc.
#pragma once

#include <cmath>
#include <cstddef>
#include <cstdint>
#include <cstdio>
#include <cstring>
#include <type_traits>
#include <utility>

// CUDA's compiler does not define these without a header, so they must not work here either.
#undef INFINITY
#undef NAN
#undef M_PI

#define __CUDA_ARCH__ 800  // compute capability 8.0, as cupy_on_cpu reports it

#define __global__
#define __device__
#define __host__
#define __constant__ static
#define __forceinline__ inline __attribute__((always_inline))
#define __launch_bounds__(...)  // build.py reads it; launches are checked against it
#define __align__(n) __attribute__((aligned(n)))

struct uint3 { unsigned x, y, z; };
struct dim3 { unsigned x = 1, y = 1, z = 1; };
struct __align__(8) float2 { float x, y; };
struct __align__(16) float4 { float x, y, z, w; };
struct __align__(8) int2 { int x, y; };
struct __align__(16) int4 { int x, y, z, w; };
struct __align__(8) uint2 { unsigned x, y; };
struct __align__(16) uint4 { unsigned x, y, z, w; };
static inline float2 make_float2(float x, float y) { return {x, y}; }
static inline float4 make_float4(float x, float y, float z, float w) { return {x, y, z, w}; }
static inline uint2 make_uint2(unsigned x, unsigned y) { return {x, y}; }
static inline uint4 make_uint4(unsigned x, unsigned y, unsigned z, unsigned w) {
    return {x, y, z, w};
}

// --- implemented in runtime.cc, shared.cc -----------------------------------------------------

namespace emulator {

struct Thread {
    uint3 index;
    int number, lane, warp;  // its number in the block, its lane in the warp, the warp's number
};
extern Thread* current;
extern uint3 block_index;
extern dim3 block_size, grid_size;

void barrier(int line);
int barrier_count(int predicate, int line);
// Exchanges values in a warp: every lane of `mask` gives `bytes` (at most 16); the result holds the
// values of all lanes, 16 bytes for each. The last lane to come passes it to `together`, if given,
// before any lane goes on.
const char* exchange(unsigned mask, const void* value, size_t bytes, int line,
                     void (*together)(const char*) = nullptr);
void absent_lane(int from, unsigned mask, int line);  // does not return
void refuse(const char* what, int line);  // fails with "<thread> <what>"; does not return
void* shared_array(const void* key, size_t bytes, size_t align, const char* name);
void* dynamic_shared();
int launch(void (*kernel)(void*), void* arguments, dim3 grid, dim3 block, size_t max_threads,
           size_t dynamic, char* error, size_t length);

// build.py replaces each __shared__ array by a call of this; each declaration has its own number.
template <int place, int align, class T> T& shared(const char* name) {
    static char key;
    return *static_cast<T*>(shared_array(&key, sizeof(T), align, name));
}

}  // namespace emulator

#define threadIdx (::emulator::current->index)
#define blockIdx (::emulator::block_index)
#define blockDim (::emulator::block_size)
#define gridDim (::emulator::grid_size)
static constexpr int warpSize = 32;

// Passes the line of the call: a default argument is evaluated at the caller's line.
#define HERE int line = __builtin_LINE()

static inline void __syncthreads(HERE) { emulator::barrier(line); }
static inline int __syncthreads_count(int predicate, HERE) {
    return emulator::barrier_count(predicate, line);
}
static inline int __syncthreads_or(int predicate, HERE) {
    return emulator::barrier_count(predicate, line) != 0;
}
static inline int __syncthreads_and(int predicate, HERE) {
    return emulator::barrier_count(!predicate, line) == 0;
}
static inline void __syncwarp(unsigned mask = ~0u, HERE) {
    emulator::exchange(mask, nullptr, 0, line);
}

namespace emulator {

// The value of lane `from`, or this lane's own if `from` is outside its segment (not `inside`).
template <class T> T shuffle(unsigned mask, T value, int from, bool inside, int line) {
    const char* all = exchange(mask, &value, sizeof(T), line);
    if (!inside) from = current->lane;
    if (!(mask >> from & 1)) absent_lane(from, mask, line);
    std::memcpy(&value, all + 16 * from, sizeof(T));
    return value;
}

}  // namespace emulator

template <class T> T __shfl_sync(unsigned mask, T v, int from, int width = 32, HERE) {
    int first = emulator::current->lane / width * width;
    return emulator::shuffle(mask, v, first + (from & (width - 1)), true, line);
}
template <class T> T __shfl_xor_sync(unsigned mask, T v, int bits, int width = 32, HERE) {
    int lane = emulator::current->lane, from = lane ^ bits;
    return emulator::shuffle(mask, v, from, from < lane / width * width + width, line);
}
template <class T> T __shfl_down_sync(unsigned mask, T v, unsigned by, int width = 32, HERE) {
    int lane = emulator::current->lane, from = lane + by;
    return emulator::shuffle(mask, v, from, from < lane / width * width + width, line);
}
template <class T> T __shfl_up_sync(unsigned mask, T v, unsigned by, int width = 32, HERE) {
    int lane = emulator::current->lane, from = lane - int(by);
    return emulator::shuffle(mask, v, from, from >= lane / width * width, line);
}
static inline unsigned __ballot_sync(unsigned mask, int predicate, HERE) {
    const char* all = emulator::exchange(mask, &predicate, sizeof predicate, line);
    unsigned votes = 0;
    for (int lane = 0; lane < 32; lane++) {
        int vote = 0;
        if (mask >> lane & 1) std::memcpy(&vote, all + 16 * lane, sizeof vote);
        votes |= unsigned(vote != 0) << lane;
    }
    return votes;
}
static inline int __any_sync(unsigned mask, int predicate, HERE) {
    return __ballot_sync(mask, predicate, line) != 0;
}
static inline int __all_sync(unsigned mask, int predicate, HERE) {
    return __ballot_sync(mask, predicate, line) == mask;
}

// Threads take turns, so nothing can happen between the read and the write of an atomic operation.
// A watcher sees one access, at the line of the kernel that calls it.
#define UNINSTRUMENTED __attribute__((no_sanitize("thread")))
namespace emulator {

void fence();
void atomic_access(const void* at, size_t bytes, const void* after);

template <class T, class Change>
UNINSTRUMENTED __attribute__((noinline)) T atomic(T* at, Change change) {
    atomic_access(at, sizeof(T), __builtin_return_address(0));
    T old = *at;
    *at = change(old);
    return old;
}

}  // namespace emulator

template <class T> __forceinline__ T atomicExch(T* at, std::common_type_t<T> v) {
    return emulator::atomic(at, [=](T) -> T { return v; });
}
template <class T> __forceinline__ T atomicAdd(T* at, std::common_type_t<T> v) {
    return emulator::atomic(at, [=](T old) -> T { return old + v; });
}
template <class T> __forceinline__ T atomicMax(T* at, std::common_type_t<T> v) {
    return emulator::atomic(at, [=](T old) -> T { return v > old ? v : old; });
}
template <class T> __forceinline__ T atomicMin(T* at, std::common_type_t<T> v) {
    return emulator::atomic(at, [=](T old) -> T { return v < old ? v : old; });
}
static inline void __threadfence() { emulator::fence(); }
static inline void __threadfence_block() {}

// --- arithmetic -------------------------------------------------------------------------------

template <class T> __forceinline__ T __ldg(const T* at) { return *at; }
template <class T> __forceinline__ T __ldcg(const T* at) { return *at; }
#define __builtin_assume(condition)  // a hint to the compiler
template <class T> static inline T min(T a, T b) { return b < a ? b : a; }
template <class T> static inline T max(T a, T b) { return a < b ? b : a; }
static inline unsigned __umulhi(unsigned a, unsigned b) { return uint64_t(a) * b >> 32; }
static inline int __popc(unsigned x) { return __builtin_popcount(x); }
static inline float rsqrtf(float x) { return 1 / std::sqrt(x); }
static inline float __fdividef(float a, float b) { return a / b; }
#define __expf(x) expf(x)  // macros, as the C library has other functions of these names
#define __logf(x) logf(x)
static inline void sincospif(float x, float* sin, float* cos) {
    const double pi = 3.141592653589793;
    *sin = float(std::sin(pi * x));
    *cos = float(std::cos(pi * x));
}
static inline float __uint_as_float(unsigned u) { float f; std::memcpy(&f, &u, 4); return f; }
static inline unsigned __float_as_uint(float f) { unsigned u; std::memcpy(&u, &f, 4); return u; }

// --- launching --------------------------------------------------------------------------------

namespace emulator {

template <class T> constexpr bool is_floating = std::is_floating_point_v<T>;  // or half

// A kernel's parameters. `run` calls the kernel with an array of pointers to its arguments, as the
// driver does. `describe` writes a word for each: "P" (pointer), "S" (scalar) or "V" (structure by
// value), kind, bytes. None of this is part of the kernel, so it is not instrumented.
template <class Kernel> struct Parameters;
template <class... A> struct Parameters<void (*)(A...)> {
    template <size_t... i>
    UNINSTRUMENTED static void call(void (*kernel)(A...), void** at, std::index_sequence<i...>) {
        kernel(*static_cast<std::remove_cv_t<A>*>(at[i])...);
    }
    struct Call {
        void (*kernel)(A...);
        void** arguments;
    };
    UNINSTRUMENTED static void run(void* call_) {
        Call* c = static_cast<Call*>(call_);
        call(c->kernel, c->arguments, std::index_sequence_for<A...>());
    }
    template <class T> static void describe_one(char*& to) {
        using Element = std::remove_cv_t<std::remove_pointer_t<T>>;
        const bool structure = std::is_class_v<T> && !is_floating<T>;
        const char form = std::is_pointer_v<T> ? 'P' : structure ? 'V' : 'S';
        const char kind = is_floating<Element> ? 'f' : std::is_signed_v<Element> ? 'i' : 'u';
        to += std::sprintf(to, "%c%c%zu ", form, kind, sizeof(Element));
    }
    static void describe(char* to) {
        (describe_one<std::remove_cv_t<A>>(to), ...);
        *to = 0;
    }
};

}  // namespace emulator

// ...: the arguments of __launch_bounds__, of which the first is the maximum of threads per block
#define EMULATOR_EXPORT(name, ...)                                                                \
    extern "C" int emulator_launch_##name(const dim3* grid, const dim3* block, size_t dynamic,    \
                                          void** arguments, char* error, size_t length) {         \
        using P = emulator::Parameters<decltype(&name)>;                                          \
        P::Call call{&name, arguments};                                                           \
        const size_t bounds[] = {__VA_ARGS__};                                                    \
        return emulator::launch(&P::run, &call, *grid, *block, *bounds, dynamic, error, length);  \
    }                                                                                             \
    extern "C" void emulator_describe_##name(char* to) {                                          \
        emulator::Parameters<decltype(&name)>::describe(to);                                      \
    }
