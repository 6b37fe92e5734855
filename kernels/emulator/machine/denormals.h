// Denormal numbers, those of float32 below 2^-126. CuPy compiles kernels with -ftz=true: arithmetic
// takes them for zero, as operands and as results. Copies and conversions of 16 bits keep them, and
// so do tensor cores.
//
// Here a mode of the processor does the same. It is for doubles as well, where a GPU keeps them; no
// kernel computes with numbers near 2^-1022.
#pragma once

#include <cstdint>

namespace emulator {

// Sets the mode; the destructor sets the previous one. All fibers run in the same mode.
class Denormals {
  public:
    explicit Denormals(bool are_zero) : before(mode()) {
        set(are_zero ? before | ZERO : before & ~ZERO);
    }
    ~Denormals() { set(before); }

  private:
#if defined(__x86_64__)
    static constexpr uint64_t ZERO = 1 << 15 | 1 << 6;  // results, operands
    static uint64_t mode() { return __builtin_ia32_stmxcsr(); }
    static void set(uint64_t mode) { __builtin_ia32_ldmxcsr(uint32_t(mode)); }
#elif defined(__aarch64__)
    static constexpr uint64_t ZERO = 1 << 24;
    static uint64_t mode() {
        uint64_t mode;
        asm volatile("mrs %0, fpcr" : "=r"(mode));
        return mode;
    }
    static void set(uint64_t mode) { asm volatile("msr fpcr, %0" : : "r"(mode) : "memory"); }
#else
    static constexpr uint64_t ZERO = 0;  // they are kept
    static uint64_t mode() { return 0; }
    static void set(uint64_t) {}
#endif
    uint64_t before;
};

}  // namespace emulator
