// Instructions that CUDA C has no names for, in PTX, the assembly language of its compiler: so no
// header of CUDA is needed. In the emulator emulator/machine/ptx.h replaces this file.
#ifndef PTX
#define PTX

// Rounding to nearest, ties to even, and back.
__device__ inline unsigned short to_half(float x) {
    unsigned short bits;
    asm("cvt.rn.f16.f32 %0, %1;" : "=h"(bits) : "f"(x));
    return bits;
}
__device__ inline float from_half(unsigned short bits) {
    float x;
    asm("cvt.f32.f16 %0, %1;" : "=f"(x) : "h"(bits));
    return x;
}
#if __CUDA_ARCH__ >= 800
__device__ inline unsigned short to_bfloat16(float x) {
    unsigned short bits;
    asm("cvt.rn.bf16.f32 %0, %1;" : "=h"(bits) : "f"(x));
    return bits;
}
__device__ inline float from_bfloat16(unsigned short bits) {
    return __uint_as_float((unsigned)bits << 16);
}
#endif

// Return a * b in 64 bits. In C the compiler may widen a factor before a loop; then the product and
// its sum with an address are more than one instruction.
__device__ inline long long wide_product(int a, int b) {
    long long product;
    asm("mul.wide.s32 %0, %1, %2;" : "=l"(product) : "r"(a), "r"(b));
    return product;
}

// Matrix products by the 32 lanes of a warp, which must all come: c += a b, with c 16 x 8 and sums
// in float32. A register of a or b has 4 bytes of a row of a, or a column of b: two numbers of 16
// bits that are neighbours along the depth, or one of TF32. Lane 4 g + t has
//
//     c[0], c[1]    row g, columns 2t and 2t + 1             c[2], c[3]   the same of row g + 8
//     a[0]          row g, bytes 4t to 4t + 3 along the depth      a[1]   the same of row g + 8
//     a[2], a[3]    the same of the next 16 bytes
//     b[0]          column g, bytes 4t to 4t + 3                   b[1]   of the next 16 bytes
//
// (PTX ISA, "Matrix Fragments for mma.m16n8k16" and "mma.m16n8k8").
#define PRODUCT(name, instruction)                                                                \
    __device__ inline void name(float (&c)[4], const unsigned (&a)[4], const unsigned (&b)[2]) {  \
        asm volatile("mma.sync.aligned." instruction                                              \
                     " {%0, %1, %2, %3}, {%4, %5, %6, %7}, {%8, %9}, {%0, %1, %2, %3};"           \
                     : "+f"(c[0]), "+f"(c[1]), "+f"(c[2]), "+f"(c[3])                             \
                     : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b[0]), "r"(b[1]));         \
    }
#if __CUDA_ARCH__ >= 800
PRODUCT(mma_m16n8k16_f16, "m16n8k16.row.col.f32.f16.f16.f32")
PRODUCT(mma_m16n8k16_bf16, "m16n8k16.row.col.f32.bf16.bf16.f32")
PRODUCT(mma_m16n8k8_tf32, "m16n8k8.row.col.f32.tf32.tf32.f32")
#endif
// 16 bytes deep, with a[0], a[1] and b[0] alone.
__device__ inline void mma_m16n8k8_f16(float (&c)[4], const unsigned (&a)[2],
                                       const unsigned (&b)[1]) {
    asm volatile("mma.sync.aligned.m16n8k8.row.col.f32.f16.f16.f32"
                 " {%0, %1, %2, %3}, {%4, %5}, {%6}, {%0, %1, %2, %3};"
                 : "+f"(c[0]), "+f"(c[1]), "+f"(c[2]), "+f"(c[3])
                 : "r"(a[0]), "r"(a[1]), "r"(b[0]));
}
#if __CUDA_ARCH__ < 800
__device__ inline void mma_m16n8k16_f16(float (&c)[4], const unsigned (&a)[4],
                                        const unsigned (&b)[2]) {
    mma_m16n8k8_f16(c, {a[0], a[1]}, {b[0]});
    mma_m16n8k8_f16(c, {a[2], a[3]}, {b[1]});
}
#endif

// Load four matrices of 8 rows of 16 bytes from shared memory by all 32 lanes of a warp. Lane i
// passes where row i % 8 of matrix i / 8 begins, at a multiple of 16 bytes, and gets in to[m], of
// matrix m, bytes 4t to 4t + 3 of row g: as a[m] above, if the rows are rows of a.
__device__ inline void ldmatrix_x4(unsigned (&to)[4], const void* row) {
    asm volatile("ldmatrix.sync.aligned.m8n8.x4.shared.b16 {%0, %1, %2, %3}, [%4];"
                 : "=r"(to[0]), "=r"(to[1]), "=r"(to[2]), "=r"(to[3])
                 : "r"((unsigned)__cvta_generic_to_shared(row)) : "memory");
}
// The same of the transposed matrices, if numbers have 16 bits: for rows along a's columns.
__device__ inline void ldmatrix_x4_trans(unsigned (&to)[4], const void* row) {
    asm volatile("ldmatrix.sync.aligned.m8n8.x4.trans.shared.b16 {%0, %1, %2, %3}, [%4];"
                 : "=r"(to[0]), "=r"(to[1]), "=r"(to[2]), "=r"(to[3])
                 : "r"((unsigned)__cvta_generic_to_shared(row)) : "memory");
}

#if __CUDA_ARCH__ >= 800
// Begin to copy 16 bytes from global to shared memory, both at a multiple of 16 bytes; zeros if not
// `inside`. The thread goes on meanwhile. The copies between two calls of cp_async_commit() are a
// group. cp_async_wait<n>() waits for the thread's groups but the n latest; other threads may read
// the copies after a barrier behind it.
__device__ inline void cp_async16(void* to, const void* from, bool inside) {
    asm volatile("cp.async.cg.shared.global [%0], [%1], 16, %2;"
                 :: "r"((unsigned)__cvta_generic_to_shared(to)), "l"(from), "r"(inside ? 16 : 0)
                 : "memory");
}
// The same, kept in the first-level cache, too, for what is read again.
__device__ inline void cp_async16_kept(void* to, const void* from, bool inside) {
    asm volatile("cp.async.ca.shared.global [%0], [%1], 16, %2;"
                 :: "r"((unsigned)__cvta_generic_to_shared(to)), "l"(from), "r"(inside ? 16 : 0)
                 : "memory");
}
__device__ inline void cp_async_commit() { asm volatile("cp.async.commit_group;" ::: "memory"); }
template <int n> __device__ inline void cp_async_wait() {
    asm volatile("cp.async.wait_group %0;" :: "n"(n) : "memory");
}
#endif
#endif
