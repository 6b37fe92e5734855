// Replaces kernels/cuda/ptx.cuh, which documents these functions: inline PTX for g++.
//
// Checked: all lanes of a warp come to a product or a load of matrices; addresses are multiples of
// 16 bytes, in the memory where they should be. In race mode a load reads each row as the lane that
// passes its address; copies are in ptx.cc.
#pragma once

#include "denormals.h"
#include "half.h"
#include "tensor_sums.h"

struct Half;
namespace emulator {
template <> constexpr bool is_floating<Half> = true;
}

static inline unsigned short to_half(float x) { return emulator::half_of(x); }
static inline float from_half(unsigned short bits) { return emulator::float_of(bits); }
#if __CUDA_ARCH__ >= 800
static inline unsigned short to_bfloat16(float x) { return emulator::bfloat16_of(x); }
static inline float from_bfloat16(unsigned short bits) {
    return __uint_as_float(unsigned(bits) << 16);
}
#endif
static inline long long wide_product(int a, int b) { return (long long)a * b; }

// --- products ---------------------------------------------------------------------------------

namespace emulator {

// Types of a register's numbers: how many there are, their smallest power of two, the i-th.
struct Halves {
    static constexpr int count = 2, smallest = -14;
    UNINSTRUMENTED static float number(unsigned all, int i) { return float_of(all >> 16 * i); }
};
struct Bfloat16s {
    static constexpr int count = 2, smallest = -126;
    UNINSTRUMENTED static float number(unsigned all, int i) {
        return __uint_as_float(i ? all & 0xffff0000u : all << 16);
    }
};
struct Tf32 {  // the lowest 13 bits are not read
    static constexpr int count = 1, smallest = -126;
    UNINSTRUMENTED static float number(unsigned all, int) { return __uint_as_float(all & ~0x1fffu); }
};

struct Registers {  // of one lane
    float* c;
    const unsigned *a, *b;
};

// c += a b for all lanes together; `all` has a pointer to each lane's Registers, 16 bytes apart. Each
// 16 bytes along the depth are two registers of a and one of b.
template <class Type, int pieces> UNINSTRUMENTED void multiply(const char* all) {
    constexpr int in_piece = 4 * Type::count, depth = pieces * in_piece;
    constexpr int group = std::min(depth, GROUP * Type::count / 2);
    Denormals mode(/*are_zero=*/false);  // tensor cores keep them
    const Registers* lanes[32];
    Factor a[16][depth], b[8][depth];
    for (int lane = 0; lane < 32; lane++) {
        std::memcpy(&lanes[lane], all + 16 * lane, sizeof(void*));
        int g = lane / 4, t = lane % 4;
        for (int i = 0; i < pieces * Type::count; i++) {
            int piece = i / Type::count, number = i % Type::count;
            int d = piece * in_piece + t * Type::count + number;
            auto of = [=](unsigned all) UNINSTRUMENTED {
                return factor<Type::smallest>(Type::number(all, number));
            };
            a[g][d] = of(lanes[lane]->a[2 * piece]);
            a[g + 8][d] = of(lanes[lane]->a[2 * piece + 1]);
            b[g][d] = of(lanes[lane]->b[piece]);
        }
    }
    for (int lane = 0; lane < 32; lane++) {
        for (int i = 0; i < 4; i++) {
            int row = lane / 4 + i / 2 * 8, column = lane % 4 * 2 + i % 2;
            float sum = lanes[lane]->c[i];
            for (int d = 0; d < depth; d += group) {
                sum = add_step(sum, a[row] + d, b[column] + d, group);
            }
            lanes[lane]->c[i] = sum;
        }
    }
}

template <class Type, int pieces>
UNINSTRUMENTED void product(float* c, const unsigned* a, const unsigned* b, int line) {
    Registers mine = {c, a, b}, *pointer = &mine;
    exchange(~0u, &pointer, sizeof pointer, line, multiply<Type, pieces>);
}

}  // namespace emulator

#define PRODUCT(name, type)                                                                       \
    static inline void name(float (&c)[4], const unsigned (&a)[4], const unsigned (&b)[2], HERE) { \
        emulator::product<emulator::type, 2>(c, a, b, line);                                      \
    }
PRODUCT(mma_m16n8k16_f16, Halves)
#if __CUDA_ARCH__ >= 800
PRODUCT(mma_m16n8k16_bf16, Bfloat16s)
PRODUCT(mma_m16n8k8_tf32, Tf32)
#endif
static inline void mma_m16n8k8_f16(float (&c)[4], const unsigned (&a)[2], const unsigned (&b)[1],
                                   HERE) {
    emulator::product<emulator::Halves, 1>(c, a, b, line);
}

// --- loads and copies -------------------------------------------------------------------------

namespace emulator {

void load_matrices(unsigned* to, const void* row, bool transposed, int line);
void check_copy(const void* to, const void* from, bool inside, int line);
void begin_copy(void* to, uint4 data);
// Inlined, so that a fault has the kernel's line; check_copy() has passed the read to the watcher.
UNINSTRUMENTED inline uint4 source(const void* from) { return *static_cast<const uint4*>(from); }
void end_group();
void wait_for_copies(unsigned groups);

}  // namespace emulator

__forceinline__ void ldmatrix_x4(unsigned (&to)[4], const void* row, HERE) {
    emulator::load_matrices(to, row, false, line);
}
__forceinline__ void ldmatrix_x4_trans(unsigned (&to)[4], const void* row, HERE) {
    emulator::load_matrices(to, row, true, line);
}
#if __CUDA_ARCH__ >= 800
__forceinline__ void cp_async16(void* to, const void* from, bool inside, HERE) {
    emulator::check_copy(to, from, inside, line);
    emulator::begin_copy(to, inside ? emulator::source(from) : uint4{});
}
__forceinline__ void cp_async16_kept(void* to, const void* from, bool inside, HERE) {
    cp_async16(to, from, inside, line);
}
static inline void cp_async_commit() { emulator::end_group(); }
template <int n> void cp_async_wait() { emulator::wait_for_copies(n); }
#endif
